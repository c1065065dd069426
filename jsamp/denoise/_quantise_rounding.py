"""Grids of levels, ranges that lose least, and weights rounded so that the products keep their values."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._mesh import vary

CANDIDATES, POWER, SWEEPS = 40, 2.4, 4
"""Shrunken ranges tried, the power of the error that they are judged by, passes over the weights of a product."""


def positive(scale: Any) -> Any:
    """Return the scale, or 1 where it is 0: data that are all 0 have any unit."""
    return jnp.where(scale > 0, scale, 1)


def affine(x: Any, low: Any, high: Any, levels: Any) -> Any:
    """Round x to `levels` + 1 even levels of [low, high], which holds 0 and has it for a level."""
    step = positive(high - low) / levels
    zero = jnp.round(-low / step)
    return step * (jnp.clip(jnp.round(x / step) + zero, 0, levels) - zero)


def shrunken() -> Any:
    """[CANDIDATES] factors of a range, falling from 1."""
    return 1 - jnp.arange(CANDIDATES, dtype=jnp.float32) / CANDIDATES


def losses(x: Any, low: Any, high: Any, levels: Any) -> Any:
    """[CANDIDATES] mean |x - rounded x|^2.4 of the shrunken ranges, in units of the whole range."""
    x, low, high = (jnp.asarray(v, jnp.promote_types(x.dtype, jnp.float32)) for v in (x, low, high))
    x, low, high = (v / positive(high - low) for v in (x, low, high))
    one = lambda s: jnp.mean(jnp.abs(x - affine(x, s * low, s * high, levels)) ** POWER)
    return jax.lax.map(one, shrunken().astype(x.dtype))


def weight_scale(weight: Any, summed: tuple[int, ...], levels: Any) -> Any:
    """The step of each output channel, of the symmetric grid that loses least; axes kept."""
    top = positive(jnp.max(jnp.abs(weight), summed, keepdims=True))

    def one(s):
        step = s / levels
        rounded = step * jnp.clip(jnp.round(weight / top / step), -levels, levels)
        return jnp.sum(jnp.abs(weight / top - rounded) ** POWER, summed, keepdims=True)

    found = jax.lax.map(one, shrunken().astype(weight.dtype))
    return top * shrunken().astype(weight.dtype)[jnp.argmin(found, 0)] / levels


@functools.partial(jax.jit, static_argnames=("summed", "reconstruct"))
def round_weight(weight: Any, gram: Any, levels: Any, *, summed: tuple[int, ...], reconstruct: bool) -> Any:
    """Integers and steps of a weight: rounded to nearest, or so that E |x (W' - W)|^2 falls (gram = E x x^T)."""
    step = weight_scale(weight, summed, levels)
    whole = jnp.clip(jnp.round(weight / step), -levels, levels)
    if reconstruct and gram is not None:
        columns = (lambda a: a) if summed == (0,) else jnp.transpose
        whole = columns(_descend(columns(weight), columns(whole), columns(step), gram, levels))
    return whole.astype(jnp.int8), step


def _descend(weight, whole, step, gram, levels):
    """Set one row of integers after another to what is best given the others: the loss of no channel can rise."""
    gram = gram + 1e-6 * positive(jnp.mean(jnp.diag(gram))) * jnp.eye(gram.shape[0], dtype=gram.dtype)
    product = functools.partial(jnp.matmul, precision="highest")

    def one(i, carry):
        whole, slope = carry
        k = i % weight.shape[0]
        error = whole[k] * step[0] - weight[k]
        others = slope[k] - gram[k, k] * error
        best = jnp.clip(jnp.round((weight[k] - others / gram[k, k]) / step[0]), -levels, levels)
        change = (best - whole[k]) * step[0]
        return whole.at[k].set(best), slope + gram[:, k][:, None] * change[None]

    start = whole, product(gram, whole * step - weight)
    return jax.lax.fori_loop(0, SWEEPS * weight.shape[0], one, vary(start, start))[0]
