"""Watermarks that leave the law of a text alone: tokens as functions of a secret key, row by row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _fields, _random
from jsamp._core._checks import check_floating, check_key
from jsamp._core._pytree import pytree, replace, static
from jsamp._core._types import Key
from jsamp.select._bits import log_clock_from_words, pair_add, sum_tree, tree_find, uniform_from_words
from jsamp.tokens._protocol import check_usable


def _seed(key: Key, j: Any) -> Any:
    """The words of the key of row j."""
    words = _random.words(jax.random.fold_in(key, j))
    return words if words.shape == (2,) else jax.random.bits(jax.random.fold_in(key, j), (2,), jnp.uint32)


def _words(key: Key, j: Any, v: Any) -> tuple[Any, Any]:
    """Two random words for entry (j, v) of the key: any entry on its own, by one block of Threefry."""
    return _random.threefry(_seed(key, j), jnp.uint32(0), jnp.asarray(v).astype(jnp.uint32))


def _row_logits(who: str, logits: Any, vocabulary: int) -> jax.Array:
    check_floating(f"{who}: logits", logits)
    logits = jnp.asarray(logits)
    if logits.shape != (vocabulary,):
        raise ValueError(f"{who}: logits must be [{vocabulary}], got shape {logits.shape}.")
    check_usable(f"{who}: logits", logits)
    return logits.astype(jnp.float32)


def _costs(mark: Any, tokens: Any) -> jax.Array:
    """Compute costs [m, length] of aligning each token with each row of the key, one row at a time."""
    rows = jax.lax.map(lambda j: mark.cost(j, tokens), jnp.arange(mark.length), batch_size=64)
    return rows.T


@pytree
class _Mark:
    """A secret key of so many rows for a vocabulary: what both watermarks share."""

    key: Key
    length: int = static(convert=_fields.count())
    vocabulary: int = static(convert=_fields.count())

    def __post_init__(self):
        check_key(self.key, type(self).__name__)

    def fresh(self, key):
        """Put the same kind of mark under another key."""
        return replace(self, key=key)


@pytree
class Exponential(_Mark):
    """Mark a text by exponential clocks: the token at place i wins the race -log(1 - U_jv) / p_v, with j = shift + i.

    Averaged over keys each token has exactly the model's probability. To detect, cost = log U_jy of a token y: its mean
    is -1 for a text written without the key, and -H(1/p) (a harmonic number) for one written with it, so each token
    says sum_v p_v H(1/p_v) - 1: nothing where the model was certain. Entries of the key are made when they are looked
    at, each from its own counter; none is stored.

    Args:
        key: the secret key.
        length: rows of the key; places of a text use them one after the other, and start again after the last.
        vocabulary: number of tokens.

    Raises:
        ValueError: for counts below 1.
        TypeError: for something that is not a key.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> mark = js.tokens.Exponential(jax.random.key(7), length=64, vocabulary=10)
        >>> step = lambda carry, token: (carry, jnp.zeros(10))
        >>> text = js.tokens.generate(jax.random.key(0), step, (), 30, mark=mark).x
        >>> float(js.tokens.detect(jax.random.key(1), text, mark).p_value)
        0.009999999776482582

    Cost:
        V blocks of Threefry for each token; length for each token of a text to detect.

    References:
        Kuditipudi et al., "Robust Distortion-free Watermarks for Language Models", 2023, arXiv:2307.15593. Aaronson,
        "Watermarking GPT outputs", 2022.
    """

    def choose(self, j, logits):
        """Choose the token at key row j (modulo length) for the model's logits [V]; -1 for NaN or all -inf."""
        logits = _row_logits("Exponential", logits, self.vocabulary)
        clocks = log_clock_from_words(*_words(self.key, jnp.mod(j, self.length), jnp.arange(self.vocabulary)))
        finite = logits > -jnp.inf
        index = jnp.argmin(jnp.where(finite, clocks - jnp.where(finite, logits, 0), jnp.inf))
        return jnp.where(jnp.isfinite(jnp.max(logits)), index, -1).astype(jnp.int32)

    def cost(self, j, tokens):
        """Compute log U of each token [m] in key row j."""
        return jnp.log(uniform_from_words(*_words(self.key, j, tokens)))

    def costs(self, tokens):
        """Compute costs [m, length] of aligning each token with each row of the key."""
        return _costs(self, tokens)


@pytree
class InverseTransform(_Mark):
    """Mark a text by inverse transform: token i is where the sum of p, in a secret order, reaches u_j, j = shift + i.

    Averaged over keys each token has exactly the model's probability: u has 64 bits and the sum is held in pairs of
    floats, so rare tokens keep theirs. To detect, cost = |u_j - rank(y) / V| with rank(y) the place of y in the secret
    order. One number for each place and one order for the whole key: cheaper than `Exponential`, and weaker.

    Args:
        key: the secret key.
        length: rows of the key.
        vocabulary: number of tokens.

    Raises:
        ValueError: for counts below 1.
        TypeError: for something that is not a key.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> mark = js.tokens.InverseTransform(jax.random.key(7), length=64, vocabulary=50)
        >>> step = lambda carry, token: (carry, jnp.zeros(50))
        >>> text = js.tokens.generate(jax.random.key(0), step, (), 30, mark=mark).x
        >>> bool(js.tokens.detect(jax.random.key(1), text, mark).p_value < 0.02)
        True

    Cost:
        A sort of V numbers and V additions for each token.

    References:
        Kuditipudi et al., "Robust Distortion-free Watermarks for Language Models", 2023, arXiv:2307.15593.
    """

    def _order(self):
        """Tokens in the secret order; row `length` of the key holds it."""
        high, low = _words(self.key, self.length, jnp.arange(self.vocabulary))
        return jnp.lexsort((low, high))

    def choose(self, j, logits):
        """Choose the token at key row j (modulo length) for the model's logits [V]; -1 for NaN or all -inf."""
        logits = _row_logits("InverseTransform", logits, self.vocabulary)
        order, top = self._order(), jnp.max(logits)
        weight = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0))[order]
        tree = sum_tree(weight)
        high, low = _words(self.key, jnp.mod(j, self.length), jnp.uint32(0))
        target = _times(_exact_uniform(high, low), tree.total)
        place = tree_find(tree, (target[0][None], target[1][None]))[0]
        token = order[jnp.minimum(place, self.vocabulary - 1)]
        return jnp.where(jnp.isfinite(top), token, -1).astype(jnp.int32)

    def cost(self, j, tokens):
        """Measure the distance of each token [m] from u of key row j, both as places in the secret order."""
        rank = jnp.argsort(self._order())[tokens]
        return jnp.abs(uniform_from_words(*_words(self.key, j, jnp.uint32(0))) - rank / self.vocabulary)

    def costs(self, tokens):
        """Compute costs [m, length] of aligning each token with each row of the key."""
        rank = jnp.argsort(self._order())[tokens] / self.vocabulary
        rows = jax.vmap(lambda j: uniform_from_words(*_words(self.key, j, jnp.uint32(0))))(jnp.arange(self.length))
        return jnp.abs(rows[None, :] - rank[:, None])


def _exact_uniform(high, low):
    """(high 2^32 + low) / 2^64 as a pair of floats: 48 of its bits."""
    part = lambda word, scale: (word.astype(jnp.float32) * jnp.float32(scale), jnp.float32(0))
    top = pair_add(part(high >> 16, 2.0**-16), part(high & 0xFFFF, 2.0**-32))
    return pair_add(top, part(low >> 16, 2.0**-48))


def _split(a):
    """A float32 as the sum of two of 12 bits, whose products are exact."""
    big = jax.lax.reduce_precision(a, 8, 11)
    return big, a - big


def _times(a, b):
    """Product of two numbers held as pairs."""
    (x, y), (z, w) = _split(a[0]), _split(b[0])
    product = a[0] * b[0]
    error = ((x * z - product) + x * w + y * z) + y * w
    return pair_add((product, error), (a[0] * b[1] + a[1] * b[0], jnp.zeros_like(product)))
