"""Nearest centres of rows: by matrix products where these prove it, by direct differences elsewhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jsamp.select._neighbors import squared_distances
from jsamp.select._whiten import matmul

SLOTS = 64  # rows of a block that are settled one by one before the whole block is


def nearest_centers(rows: jax.Array, centers: jax.Array, live: jax.Array) -> jax.Array:
    """Number the live centre nearest to every row [b], the first one among equals, as direct differences say.

    |c|^2 / 2 - x.c loses digits, so its choice counts only where the runner-up is farther than its rounding: (d + 4)
    roundings of (|x| + |c|) |c| on either side. Other rows are measured again, by direct differences. The rows should
    be centred, or little is proven.
    """
    k, d = centers.shape
    held = jnp.where(live[:, None], centers, 0)
    half = jnp.where(live, jnp.sum(held * held, 1) / 2, jnp.inf)
    gap = half[:, None] - matmul(held, rows.T)
    numbers = jnp.arange(k, dtype=jnp.int32)[:, None]
    best = jnp.min(gap, 0)
    label = jnp.min(jnp.where(gap <= best[None], numbers, k - 1), 0)
    second = jnp.min(jnp.where(numbers == label[None], jnp.inf, gap), 0)
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

    return lax.cond(jnp.sum(unsure) <= SLOTS, few, many, label)


def by_label(value: Any, label: jax.Array, num: int) -> jax.Array:
    """Sum the rows of `value` by their labels, [num, ...]."""
    return jnp.zeros_like(value, shape=(num, *value.shape[1:])).at[label].add(value)
