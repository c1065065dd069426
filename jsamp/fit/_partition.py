"""Partitions: canonical numbers, and how far two of them agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def by_position(centers: jax.Array, live: jax.Array) -> jax.Array:
    """Order centres [k, d] by their coordinates, the first one first; dead ones come last."""
    return jnp.lexsort((*(centers[:, c] for c in reversed(range(centers.shape[1]))), ~live))


def by_first_row(label: jax.Array, num: int) -> jax.Array:
    """Renumber labels [n] in 0..num-1 in the order in which they appear: equal partitions get equal labels."""
    n = label.shape[0]
    first = jnp.full((num,), n, jnp.int32).at[label].min(jnp.arange(n, dtype=jnp.int32))
    return jnp.argsort(jnp.argsort(first)).astype(jnp.int32)[label]


def adjusted_rand(one: jax.Array, other: jax.Array, num: int, share: jax.Array) -> jax.Array:
    """Compute the adjusted Rand index of two partitions: 1 when equal, 0 on average for independent ones.

    Pairs of rows are drawn with replacement, so that rows may have weights `share` (summing to 1).
    """
    table = jnp.zeros((num, num), share.dtype).at[one, other].add(share)
    together = jnp.sum(table * table)
    first, second = jnp.sum(jnp.sum(table, 1) ** 2), jnp.sum(jnp.sum(table, 0) ** 2)
    chance, most = first * second, (first + second) / 2
    spread = most - chance
    return jnp.where(spread > 1e-6, (together - chance) / jnp.where(spread > 1e-6, spread, 1), 1)
