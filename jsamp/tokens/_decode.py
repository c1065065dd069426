"""The runner: one scan body for every decoding."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_key, check_made, concrete, shown
from jsamp._core._mesh import call_where, vary
from jsamp._core._steering import ask, check_steer, wrapped
from jsamp._core._types import Key, Result
from jsamp.tokens._decoding import Decoding
from jsamp.tokens._protocol import as_transform, check_holds, check_logits, check_mask, check_tokens
from jsamp.tokens._rows import MID, POST, State, choose, jump, remask, write


class TokenPrediction(NamedTuple):
    """Hold what the network says of the tokens: the prediction that steers are given.

    Args:
        logits: [P, L, V] of the clean token at each site.
        x0: [P, L] x with the most probable token in place of each mask.

    Example:
        >>> import jsamp as js
        >>> js.tokens.TokenPrediction(logits=None, x0=[1, 2]).x0
        [1, 2]
    """

    logits: Any
    x0: Any


class DecodeStep(NamedTuple):
    """Tell steers about a row: the `info` of their hooks.

    Args:
        index: row number.
        t: where the network was asked.
        t_next: where the row lands.
        stage: False: every row is a step of its own.
        last: whether this is the last row.
        noise: None: tokens are drawn, not shifted by noise.

    Example:
        >>> import jsamp as js
        >>> js.tokens.DecodeStep(index=3, t=0.5, t_next=0.4).stage
        False
    """

    index: Any
    t: Any
    t_next: Any
    stage: Any = False
    last: Any = False
    noise: Any = None


class DecodeInfo(NamedTuple):
    """Report on a decoded text.

    Args:
        ok: whether every site holds a token: no mask is left, and no logits were NaN or -inf throughout.
        nfe: rows of the table: network calls at most.
        calls: network calls that happened; one for all particles of a population.
        log_prob: log-probability of each token when it was drawn, of x's shape; 0 at sites that were given.
        kept: [R, ...] what `keep` returned after each row, or None.
        report: what the steer reported, or None.

    Example:
        >>> import jsamp as js
        >>> js.tokens.DecodeInfo(ok=True, nfe=8, calls=8, log_prob=None, kept=None, report=None).calls
        8
    """

    ok: Any
    nfe: int
    calls: Any
    log_prob: Any
    kept: Any
    report: Any


class _Runner:
    """Hold what is fixed in a run, and map its pieces over a population."""

    def __init__(self, model, transform, decoding, steer, x):
        self.model, self.transform, self.rates, self.steer = model, transform, decoding.rates, steer
        self.early = decoding.early
        self.population = x.shape[0] if x.ndim == 2 else 0
        self.own = jnp.ndim(decoding.t) == 2  # each particle has an order of its own

    def each(self, function, row, key, *args):
        """Apply function(row, key, *args) to one text, or to every particle with its own part of the row."""
        if not self.population:
            return function(row, key, *args)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(self.population))
        return jax.vmap(function, in_axes=(0 if self.own else None, *(0,) * (1 + len(args))))(row, keys, *args)

    def logits(self, model, t, x):
        """One network call, for all particles."""
        if not self.population:
            return model(x, t)
        return jax.vmap(model, in_axes=(0, 0 if jnp.ndim(t) else None))(x, t)

    def choose(self, key, row, state):
        """Sites that the row decodes, as far as they are known before the network is called."""
        if self.rates is not None:
            return jnp.ones_like(state.free)
        if row.left is not None:
            return state.x == row.mask
        return self.each(choose, row, key, state)

    def write(self, key, row, logits, active, state):
        """Tokens after the row, given the network's word on every site."""

        def one(row, key, logits, active, state):
            if self.rates is not None:
                return jump(key, self.transform, self.rates, row, logits, state)
            return write(key, self.transform, row, logits, active, state)

        return self.each(one, row, key, logits, active, state)

    def advance(self, key, carry, g, row, last):
        """The scan body: one row."""
        state, calls, index = carry
        key = jax.random.fold_in(key, index)
        if self.own:
            row = jax.tree.map(lambda column: column[state.owner], row)
        info = DecodeStep(index, row.t, row.t_next, jnp.zeros((), bool), last)
        if self.steer is None:
            before, active = state, self.choose(key, row, state)
            call = lambda: (self.write(key, row, self.logits(self.model, row.t, before.x), active, before), calls + 1)
            state, calls = call_where(jnp.any(active), call, (before, calls)) if self.early else call()
        else:
            before, logits, g, row = self.steered(key, state, g, row, info)
            state, calls = self.write(key, row, logits, self.choose(key, row, before), before), calls + 1
        if row.remask is not None:
            state = self.each(remask, row, key, before, state)
        if self.steer is not None:
            g, x, keep = ask(self.steer, "post", jax.random.fold_in(key, POST), g, state.x, info)
            lean = None if state.fresh is None else jnp.broadcast_to(jnp.asarray(keep), state.fresh.shape)
            state = state._replace(x=x, fresh=lean)
        return (state, calls, index + 1), g

    def steered(self, key, state, g, row, info):
        """The network's prediction, and what the steer makes of it; particles are reordered by one index."""
        model = as_tree("decode: model", wrapped(self.steer, g, self.model), "model(x, t)")
        logits = self.logits(model, self.steer.time(g, state.x, row.t), state.x)
        guess = state.x
        if row.mask is not None:
            guess = jnp.where(guess == row.mask, jnp.argmax(logits, -1).astype(guess.dtype), guess)
        prediction = TokenPrediction(logits, guess)
        g, x, prediction, index = ask(self.steer, "mid", jax.random.fold_in(key, MID), g, state.x, prediction, info)
        if index is not None:
            moved = _tree.take([state._replace(x=None)], index, [0])[0]
            state = moved._replace(x=x)
            row = jax.tree.map(lambda column: column[index], row) if self.own else row
        return state._replace(x=x), prediction.logits, g, row


def _start(decoding, x, vocabulary):
    """The state before the first row, made from x, so that it varies over the mesh axes over which x does."""
    zero = jnp.zeros_like(x, jnp.float32)
    memory = owner = fresh = None
    if decoding.lean is not None:
        empty = jnp.zeros((*x.shape[:-1], decoding.lean.shape[-1], vocabulary), jnp.float32)
        memory, fresh = empty + jnp.sum(zero), jnp.all(zero == 0, -1)
    if jnp.ndim(decoding.t) == 2:
        owner = jnp.arange(x.shape[0]) + zero[:, 0].astype(jnp.int32)
    count = jnp.sum(zero).astype(jnp.int32)
    free = jnp.ones_like(x, bool) if decoding.mask is None else x == decoding.mask
    return (State(x, zero, free, memory, fresh, owner), count, count)


@functools.partial(jax.jit, static_argnames="vocabulary")
def _run(key, model, x, decoding, transform, steer, *, keep, vocabulary):
    runner = _Runner(model, transform, decoding, steer, x)
    carry, g = _start(decoding, x, vocabulary), None
    if steer is not None:
        g = steer.init(jax.random.fold_in(key, decoding.nfe), x, decoding)

    def body(carry, item):
        carry = runner.advance(key, *carry, *item)
        return carry, None if keep is None else check_made("decode: keep", keep(carry[0][0].x))

    carry = vary(carry, key, model, x, decoding, transform)
    rows = (decoding.rows(), np.arange(decoding.nfe) == decoding.nfe - 1)
    ((state, calls, _), g), kept = jax.lax.scan(body, (carry, g), rows)
    x, report = state.x, None
    if steer is not None:
        x, report = ask(steer, "final", g, x)
    ok = jnp.all(x >= 0) & (True if decoding.mask is None else jnp.all(x != decoding.mask))
    return x, ok, calls, state.log_prob, kept, report


def decode(
    key: Key,
    model: Any,
    x: Any,
    decoding: Decoding,
    *,
    transform: Any = None,
    steer: Any = None,
    keep: Any = None,
) -> Result:
    """Run a decoding from x: a text of the model, with tokens in place of the masks.

    One `lax.scan` over the rows of the table runs every decoder, compiled once: new weights, tables or temperatures of
    the same shapes never retrace. Sites that are not masked in x are the prompt and stay. The network is called only in
    rows that decode something, its logits are read where a token is drawn and are never carried from row to row; tokens
    are drawn with 64 random bits from float32 logits, whatever the dtype of the network.

    `jax.vmap` it over keys and texts; or give x as a population [P, L], whose particles share the rows of the table, so
    that a call which none of them needs is left out, and which a steer may reorder (`js.steer.SMC`, `SoftValue`).

    Args:
        key: one key; row i draws from `fold_in(key, i)`.
        model: callable tree (x [L], t) -> logits [L, V].
        x: [L] integer tokens, masks at the sites to decode; or [P, L].
        decoding: the table.
        transform: logits [V] -> logits [V], or several, applied from left to right before each draw.
        steer: acts on a population, see `js.steer`; its hooks are given a `TokenPrediction` and a `DecodeStep`.
        keep: None, or a function of x whose values after each row are stacked in `info.kept`.

    Returns:
        `Result(x, info)` with `info = DecodeInfo(ok, nfe, calls, log_prob, kept, report)`. Logits that are NaN or -inf
        throughout leave -1 at their site, and `ok` False.

    Raises:
        TypeError: for tokens that are not integers, integer logits, or a decoding, model, steer of the wrong type.
        ValueError: for logits that are not [L, V], or a mask id inside the vocabulary.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> process = js.tokens.Masked(mask=2)
        >>> model = lambda x, t: 30.0 * jax.nn.one_hot(x[::-1], 2)           # both sites are equal
        >>> x = jnp.array([2, 2])
        >>> k0, k1 = jax.random.split(jax.random.key(0))
        >>> result = js.tokens.decode(k1, model, x, js.tokens.first_hitting(k0, process, x))
        >>> bool(result.x[0] == result.x[1]), int(result.info.calls)
        (True, 2)

    Cost:
        `info.calls` network calls; memory of the network's own, and one row of logits with its random words for each
        text (order 2: one more for each site of a group).

    References:
        Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling", 2024, arXiv:2409.02908.
    """
    if not isinstance(decoding, Decoding):
        raise TypeError(f"decode: decoding must be a Decoding, got {shown(decoding)}. Build one: js.tokens.ancestral.")
    check_key(key, "decode")
    x = check_tokens("decode: x", x, (1, 2))
    model = as_tree("decode: model", model, "model(x, t)")
    transform = as_transform("decode", transform)
    vocabulary = _check_shapes(model, x, decoding)
    if steer is not None:
        check_steer("decode: steer", steer)
    if keep is not None:
        keep = as_tree("decode: keep", keep, "keep(x)")
    x, ok, *rest = _run(key, model, x, decoding, transform, steer, keep=keep, vocabulary=vocabulary)
    return Result(x, DecodeInfo(ok, decoding.nfe, *rest))


def _check_shapes(model: Any, x: Any, decoding: Decoding) -> int:
    """The vocabulary; refuse a table, mask or text that do not fit each other."""
    steps, length = jnp.shape(decoding.t), x.shape[-1]
    if len(steps) == 2 and (x.ndim, *x.shape[:1]) != (2, steps[1]):
        raise ValueError(f"decode: this decoding is of {steps[1]} texts, x has shape {x.shape}. Use vmap over both.")
    logits = jax.eval_shape(model, jax.ShapeDtypeStruct((length,), x.dtype), jax.ShapeDtypeStruct((), jnp.float32))
    vocabulary = check_logits("decode: model", logits, (length, None))
    check_mask("decode", model, decoding.mask, vocabulary)
    check_holds("decode: x", x, max(vocabulary - 1, decoding.mask or 0))
    site = None if decoding.site is None else concrete(decoding.site)
    if site is not None and site.size and site.max() >= length:
        raise ValueError(f"decode: the decoding names site {site.max()}, x has {length} sites.")
    known = concrete(x)
    if known is not None:
        wrong = (known < 0) | ((known >= vocabulary) & (known != (-1 if decoding.mask is None else decoding.mask)))
        if np.any(wrong):
            raise ValueError(
                f"decode: x holds the id {int(known[wrong][0])}; wanted 0..{vocabulary - 1}, or the mask "
                f"{decoding.mask}."
            )
    return vocabulary
