"""Sums over pairs of rows, a block of rows at a time: never an n x m array, never a lost digit without need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

EXACT = 2**24
"""Multiplications up to which differences are formed one by one, exactly; beyond, by one matrix product."""


def squared_to(row: jax.Array, rows: jax.Array, exact: bool) -> jax.Array:
    """Squared distances [m] of one centred row to centred rows.

    The product form errs by a few 1e-7 of the largest squared norm, the direct form by that of the distance itself.
    """
    if exact:
        return jnp.sum((row[None] - rows) ** 2, 1)
    product = jnp.matmul(rows, row, precision="highest")
    return jnp.maximum(jnp.sum(row**2) + jnp.sum(rows**2, 1) - 2 * product, 0)


def is_small(x: jax.Array, y: jax.Array) -> bool:
    """Whether all differences of two sets are cheap enough to form one by one."""
    return x.shape[0] * y.shape[0] * x.shape[1] <= EXACT


def over_rows(function: Callable, x: jax.Array, block: int, *more: Any) -> Any:
    """Results of function(i, row, *rest) for each row, `block` rows at a time: products become matrix products."""
    call = lambda args: function(*args)
    return jax.lax.map(call, (jnp.arange(x.shape[0]), x, *more), batch_size=min(block, x.shape[0]))


def centred(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both sets minus the mean of the second, over its largest entry: (x, y, scale)."""
    centre = jnp.mean(y, 0, keepdims=True)
    x, y = x - centre, y - centre
    scale = jnp.maximum(jnp.max(jnp.abs(y)), jnp.max(jnp.abs(x)))
    scale = jax.lax.stop_gradient(jnp.where(scale > 0, scale, 1))
    return x / scale, y / scale, scale


def neighbour_distances(x: jax.Array, y: jax.Array, k: int, block: int, *, same: bool) -> jax.Array:
    """Squared distance [n] of each row of x to its k-th nearest row of y; with `same`, not counting itself."""
    exact, places = is_small(x, y), jnp.arange(y.shape[0])

    def one(i, row):
        distance = squared_to(row, y, exact)
        distance = jnp.where(places == i, jnp.inf, distance) if same else distance
        return jnp.min(distance) if k == 1 else -jax.lax.top_k(-distance, k)[0][-1]

    return over_rows(one, x, block)
