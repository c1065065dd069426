"""Nearest centres of rows: by matrix products where these prove it, by direct differences elsewhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._mesh import vary
from jsamp.select._neighbors import squared_distances
from jsamp.select._whiten import matmul

SLOTS = 64  # rows of a block that are settled one by one before the whole block is


def nearest_centers(rows: jax.Array, centers: jax.Array, live: jax.Array) -> jax.Array:
    """Number the live centre nearest to every row [b], the first one among equals, as direct differences say.

    |c|^2 / 2 - x.c loses digits, so its choice counts only where the runner-up is farther than its rounding: (d + 4)
    roundings of (|x| + |c|) |c| on either side. Other rows are measured again, by direct differences. The rows should
    be centred, or little is proven.
    """
    rows, centers, live = vary((rows, centers, live), rows, centers, live)
    d = centers.shape[1]
    held = jnp.where(live[:, None], centers, 0)
    half = jnp.where(live, jnp.sum(held * held, 1) / 2, jnp.inf)
    best, second, label = two_least(half[:, None] - matmul(held, rows.T))
    size = jnp.sqrt(jnp.max(jnp.where(live, 2 * half, 0)))
    rounding = (d + 4) * jnp.finfo(rows.dtype).eps * size * (jnp.sqrt(jnp.sum(rows * rows, 1)) + size)
    unsure = ~(second - best > rounding)

    def direct(some: jax.Array) -> jax.Array:
        distance = jnp.where(live[None], squared_distances(some, held), jnp.inf)
        return jnp.argmin(distance, 1).astype(jnp.int32)

    def few(label: jax.Array) -> jax.Array:
        index = jnp.nonzero(unsure, size=min(SLOTS, rows.shape[0]), fill_value=0)[0]
        return label.at[index].set(direct(rows[index]))

    def many(label: jax.Array) -> jax.Array:
        return direct(rows)

    count = jnp.sum(unsure)
    return lax.switch((count > 0).astype(int) + (count > SLOTS), (lambda label: label, few, many), label)


def two_least(gap: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The least of every column [k, b], the least of the others, and the first row where the least stands."""
    # One sweep is half the time on processors; accelerators would start a kernel for every row.
    return lax.platform_dependent(gap, cpu=by_sweep, default=by_passes)


def by_sweep(gap: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Find `two_least` in one sweep over the rows."""

    def step(carry, part):
        (best, second, label), (value, number) = carry, part
        beaten = jnp.minimum(second, jnp.maximum(best, value))
        return (jnp.minimum(best, value), beaten, jnp.where(value < best, number, label)), None

    start = jnp.full_like(gap[0], jnp.inf)
    start = vary((start, start, jnp.zeros_like(start, jnp.int32)), gap)
    return lax.scan(step, start, (gap, jnp.arange(gap.shape[0], dtype=jnp.int32)))[0]


def by_passes(gap: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Find `two_least` by three reductions."""
    numbers = jnp.arange(gap.shape[0], dtype=jnp.int32)[:, None]
    best = jnp.min(gap, 0)
    label = jnp.min(jnp.where(gap <= best[None], numbers, gap.shape[0] - 1), 0)
    return best, jnp.min(jnp.where(numbers == label[None], jnp.inf, gap), 0), label


def by_label(value: Any, label: jax.Array, num: int) -> jax.Array:
    """Sum the rows of `value` by their labels, [num, ...]."""
    return jnp.zeros_like(value, shape=(num, *value.shape[1:])).at[label].add(value)
