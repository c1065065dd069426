"""Transforms of logits: what is allowed to be drawn, and how sharply. Used from left to right, before each draw."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_count, check_floating, check_scalar
from jsamp._core._pytree import pytree, static
from jsamp.tokens._protocol import check_tokens, check_usable


@pytree
class Transform:
    """Change logits by a rule with numbers: made by `temperature`, `top_k`, `top_p`, `min_p`, `typical`, `repetition`.

    Args:
        rule: function (logits [..., V], number) or, with tokens, (logits [V], tokens [n], number); static.
        number: leaf, so that another value never retraces.
        uses_tokens: whether the rule reads the tokens so far, static.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.tokens.temperature(0.5)(jnp.array([1.0, 2.0])).tolist()
        [2.0, 4.0]

    Cost:
        That of its rule: at most a sort of the logits before each draw.
    """

    rule: Any = static()
    number: Any
    uses_tokens: bool = static(default=False)

    def __call__(self, logits, tokens=None):
        """The logits by the rule, float32 at least; -inf forbids a token."""
        check_floating("transform: logits", logits)
        logits = jnp.asarray(logits)
        if logits.ndim == 0:
            raise ValueError("transform: logits must be [..., V], got a scalar.")
        check_usable("transform: logits", logits)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if not self.uses_tokens:
            return self.rule(logits, self.number)
        if tokens is None:
            raise ValueError("transform: this rule reads the tokens so far; call it as transform(logits, tokens).")
        if logits.ndim != 1:
            raise ValueError(f"transform: this rule takes logits [V], got shape {logits.shape}. Use jax.vmap.")
        return self.rule(logits, check_tokens("transform: tokens", tokens), self.number)


def _fraction(name: str, value: Any) -> None:
    check_scalar(name, value, low=0, high=1, open_low=True)


def temperature(value: Any) -> Transform:
    """Divide logits by a temperature: below 1 sharpens, above 1 flattens, 0 keeps the first largest alone.

    Args:
        value: temperature, >= 0.

    Returns:
        A transform.

    Raises:
        ValueError: for a negative temperature.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.tokens.temperature(0)(jnp.array([1.0, 3.0, 3.0])).tolist()
        [-inf, 3.0, -inf]

    Cost:
        One pass over the logits.
    """
    check_scalar("temperature", value, low=0)
    return Transform(_temperature, value)


def _temperature(logits, value):
    value = jnp.asarray(value, logits.dtype)
    best = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)
    cold = jnp.where(best, logits, -jnp.inf)
    scaled = jnp.where(logits > -jnp.inf, logits / jnp.where(value == 0, 1, value), logits)  # 1 / value may be 0
    return jnp.where(value == 0, cold, scaled)


def top_k(k: int) -> Transform:
    """Keep the k largest logits, exactly k of them: of equal ones the first.

    Args:
        k: how many, >= 1, static; more than V keeps all.

    Returns:
        A transform.

    Raises:
        ValueError: for k < 1.
        TypeError: for a k that is not an int.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.tokens.top_k(2)(jnp.array([1.0, 2.0, 2.0, 2.0])).tolist()
        [-inf, 2.0, 2.0, -inf]

    Cost:
        Two sorts of the logits, O(V log V) for each draw.
    """
    return Transform(_top_k, check_count("top_k: k", k))


def _by_rank(logits, keep):
    """Logits of the tokens whose rank, largest first, satisfies keep(sorted logits); equal ones in their order."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ranked = jnp.take_along_axis(logits, order, -1)
    kept = jnp.take_along_axis(keep(ranked), jnp.argsort(order, axis=-1), -1)
    return jnp.where(kept, logits, -jnp.inf)


def _top_k(logits, k):
    return _by_rank(logits, lambda ranked: jnp.broadcast_to(jnp.arange(ranked.shape[-1]) < k, ranked.shape))


def top_p(p: Any) -> Transform:
    """Keep the nucleus: the smallest set of most probable tokens of mass p or more, with the one that crosses p.

    Args:
        p: mass, in (0, 1].

    Returns:
        A transform.

    Raises:
        ValueError: for p outside (0, 1].

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> (js.tokens.top_p(0.6)(jnp.log(jnp.array([0.5, 0.3, 0.2]))) > -jnp.inf).tolist()
        [True, True, False]

    Cost:
        Two sorts of the logits, O(V log V) for each draw.

    References:
        Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, arXiv:1904.09751.
    """
    _fraction("top_p: p", p)
    return Transform(_top_p, p)


def _top_p(logits, p):
    def keep(ranked):
        prob = jax.nn.softmax(ranked, -1)
        before = jnp.cumsum(prob, -1) - prob
        return (before < p) | (jnp.asarray(p) >= 1)

    return _by_rank(logits, keep)


def min_p(p: Any) -> Transform:
    """Keep the tokens of probability at least p times the largest.

    Args:
        p: share of the largest probability, in (0, 1].

    Returns:
        A transform.

    Raises:
        ValueError: for p outside (0, 1].

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> (js.tokens.min_p(0.5)(jnp.log(jnp.array([0.5, 0.3, 0.2]))) > -jnp.inf).tolist()
        [True, True, False]

    Cost:
        One pass over the logits.

    References:
        Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs", 2024,
        arXiv:2407.01082.
    """
    _fraction("min_p: p", p)
    return Transform(_min_p, p)


def _min_p(logits, p):
    best = jnp.max(logits, -1, keepdims=True)
    return jnp.where(logits >= best + jnp.log(jnp.asarray(p, logits.dtype)), logits, -jnp.inf)


def typical(p: Any) -> Transform:
    """Keep the tokens whose surprise -log p is nearest the entropy, in that order, up to mass p or more.

    Args:
        p: mass, in (0, 1].

    Returns:
        A transform.

    Raises:
        ValueError: for p outside (0, 1].

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> (js.tokens.typical(0.3)(jnp.log(jnp.array([0.6, 0.2, 0.2]))) > -jnp.inf).tolist()
        [True, False, False]

    Cost:
        Two sorts of the logits, O(V log V) for each draw.

    References:
        Meister et al., "Locally Typical Sampling", 2023, arXiv:2202.00666.
    """
    _fraction("typical: p", p)
    return Transform(_typical, p)


def _typical(logits, p):
    log_p = jax.nn.log_softmax(logits, -1)
    prob = jnp.exp(log_p)
    entropy = -jnp.sum(jnp.where(prob > 0, prob * log_p, 0), -1, keepdims=True)
    order = jnp.argsort(jnp.where(prob > 0, jnp.abs(-log_p - entropy), jnp.inf), axis=-1, stable=True)
    ranked = jnp.take_along_axis(prob, order, -1)
    keep = (jnp.cumsum(ranked, -1) - ranked < p) | (jnp.asarray(p) >= 1)
    return jnp.where(jnp.take_along_axis(keep, jnp.argsort(order, axis=-1), -1), logits, -jnp.inf)


def repetition(penalty: Any) -> Transform:
    """Make tokens that have occurred less probable: positive logits are divided by the penalty, negative multiplied.

    It reads the tokens so far: in `decode` those of the whole text, in `generate` those behind. Logits count from 0,
    so centre them if the network does not.

    Args:
        penalty: > 0; 1 changes nothing, 1.2 is common.

    Returns:
        A transform that is called as transform(logits, tokens).

    Raises:
        ValueError: for a penalty that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.tokens.repetition(2.0)(jnp.array([1.0, -1.0, 1.0]), jnp.array([0, 1, 1])).tolist()
        [0.5, -2.0, 1.0]

    Cost:
        One pass over the logits, and one over the tokens so far.

    References:
        Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation", 2019,
        arXiv:1909.05858.
    """
    check_scalar("repetition: penalty", penalty, low=0, open_low=True)
    return Transform(_repetition, penalty, True)


def _repetition(logits, tokens, penalty):
    place = jnp.where(tokens < 0, logits.shape[-1], tokens)
    seen = jnp.zeros_like(logits, bool).at[place].set(True, mode="drop")
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
