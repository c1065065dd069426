"""The bias of draws made from few random bits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_choice, check_count, concrete
from jsamp.select._rows import as_floating


def draw_bias(probs: Any, bits: int = 23, *, law: str = "floor") -> jax.Array:
    """Compute the probabilities that a Gumbel-max draw really has when its uniforms carry only `bits` random bits.

    With spacing d = 2^-bits, "floor" is the law of clocks rounded up to the grid: a rare class keeps the factor
    r(d / p), r(x) = x / (e^x - 1). "truncated" is the law of clocks that cannot be shorter than d: with classes sorted
    by falling probability, s_i = d / p_i, L_i = p_1 + ... + p_i and S_i = exp(-sum_{l<i} L_l (s_{l+1} - s_l)),
    class n gets p_n sum_{i>=n} (S_i - S_{i+1}) / L_i. jsamp's draws use 64 bits; JAX's default float32 draws 23.

    Args:
        probs: [V] probabilities.
        bits: random bits per uniform, static.
        law: "floor" or "truncated".

    Returns:
        [V] the distorted probabilities, normalised.

    Raises:
        ValueError: for probabilities that are negative or do not sum to 1 within 1e-3.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> probs = jnp.array([1 - 2.0**-12, 2.0**-12])
        >>> round(float(js.select.draw_bias(probs, bits=12)[1] * 2**12), 3)
        0.582

    Cost:
        One sort of the probabilities.

    References:
        Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling", 2024, arXiv:2409.02908.
    """
    probs = as_floating("draw_bias: probs", probs)
    check_count("draw_bias: bits", bits, high=64)
    check_choice("draw_bias: law", law, ("floor", "truncated"))
    if probs.ndim != 1 or probs.size == 0:
        raise ValueError(f"draw_bias: probs must be a vector [V], got shape {probs.shape}.")
    known = concrete(probs)
    if known is not None and (not (known >= 0).all() or not abs(float(known.astype("float64").sum()) - 1) < 1e-3):
        raise ValueError("draw_bias: probs must be non-negative and sum to 1.")
    delta = 2.0**-bits
    safe = jnp.where(probs > 0, probs, 1)
    if law == "floor":
        x = delta / safe
        small = x < 1e-3
        curve = jnp.where(small, x, jnp.minimum(x, 80.0))
        factor = jnp.where(small, 1 - x / 2, curve / jnp.where(small, 1, jnp.expm1(curve)))
        out = jnp.where((probs > 0) & (x < 80), probs * factor, 0)
        return out / jnp.sum(out)
    order = jnp.argsort(-probs)
    ranked = safe[order]
    starts = delta / ranked
    load = jnp.cumsum(jnp.where(probs[order] > 0, ranked, 0))
    hazard = jnp.concatenate([jnp.zeros(1, probs.dtype), load[:-1] * jnp.diff(starts)])
    hazard = jnp.where(probs[order] > 0, hazard, jnp.inf)
    survive = jnp.exp(-jnp.cumsum(hazard))
    lost = survive - jnp.append(survive[1:], 0)
    tail = jnp.cumsum((lost / load)[::-1])[::-1]
    return jnp.zeros_like(probs).at[order].set(jnp.where(probs[order] > 0, ranked * tail, 0))
