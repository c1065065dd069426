"""Running moments of arrays: count, mean and sum of squared deviations, by Welford's and Chan's updates."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Moments(NamedTuple):
    """Count, mean, and sum of squares (or of outer products) of the deviations from the mean."""

    count: Any
    mean: Any
    square: Any


def start(like: Any, *, outer: bool = False) -> Moments:
    """Empty moments of an array; with `outer`, of a vector [d] and its matrix [d, d]."""
    like = jnp.asarray(like)
    square = like[:, None] * like[None, :] if outer else like
    return Moments(jnp.zeros((), like.dtype), jnp.zeros_like(like), jnp.zeros_like(square))


def add(moments: Moments, value: Any, *, weight: Any = 1) -> Moments:
    """Add one value; with `weight` 0 nothing changes."""
    count = moments.count + weight
    delta = value - moments.mean
    mean = moments.mean + delta * (weight / jnp.maximum(count, 1)).astype(moments.mean.dtype)
    return Moments(count, mean, moments.square + weight * _product(delta, value - mean, moments.square))


def add_mapped(moments: Moments, value: Any, axis: str) -> Moments:
    """Add the values of every member of a mapped axis at once."""
    members, center = jax.lax.psum(jnp.ones((), value.dtype), axis), jax.lax.pmean(value, axis)
    count = moments.count + members
    inner, outer = value - center, center - moments.mean
    spread = jax.lax.psum(_product(inner, inner, moments.square), axis)
    square = moments.square + spread + _product(outer, outer, moments.square) * (moments.count * members / count)
    return Moments(count, moments.mean + outer * (members / count), square)


def variance(moments: Moments, *, ddof: int = 1) -> Any:
    """The variance (or covariance), unbiased unless `ddof` is 0."""
    return moments.square / jnp.maximum(moments.count - ddof, 1).astype(moments.mean.dtype)


def _product(a, b, square):
    return a[:, None] * b[None, :] if square.ndim > a.ndim else a * b
