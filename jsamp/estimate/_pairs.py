"""Sums over pairs of rows, a block of rows at a time: never an n x m array, never a lost digit without need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

EXACT = 2**24
"""Multiplications up to which differences are formed one by one, exactly; beyond, by one matrix product."""


def squared(a: jax.Array, b: jax.Array, exact: bool) -> jax.Array:
    """Squared distances [n, m] of the centred rows of a to those of b.

    The product form errs by a few 1e-7 of the largest squared norm, the direct form by that of the distance itself.
    """
    if exact:
        return jnp.sum((a[:, None] - b[None]) ** 2, 2)
    product = jnp.matmul(a, b.T, precision="highest")
    return jnp.maximum(jnp.sum(a**2, 1)[:, None] + jnp.sum(b**2, 1)[None] - 2 * product, 0)


def squared_to(row: jax.Array, rows: jax.Array, exact: bool) -> jax.Array:
    """Squared distances [m] of one centred row to centred rows, as `squared` forms them."""
    return squared(row[None], rows, exact)[0]


def column_sums(kernel: Callable, rows: Any, columns: Any, block: int, *, same: bool = False) -> jax.Array:
    """Sums [m] over all rows of kernel(rows, columns) -> [block, m], `block` rows at a time.

    A compiler adds the rows of a block up many columns at once; sums along a row would go one number at a time.

    Args:
        kernel: function of a block of rows and of all columns.
        rows: array or tree of arrays [n, ...].
        columns: array or tree of arrays [m, ...].
        block: rows at a time (static).
        same: whether rows and columns are one set, of which no row is paired with itself.
    """
    n, m = (jax.tree.leaves(tree)[0].shape[0] for tree in (rows, columns))
    size = min(block, n)
    num = -(-n // size)

    def parts(a):
        extra = jnp.broadcast_to(a[:1], (num * size - n, *a.shape[1:]))  # real rows, at which any kernel is finite
        return jnp.concatenate([a, extra]).reshape(num, size, *a.shape[1:])

    def one(part):
        place, some = part
        counted = place < n
        if same:
            counted &= place != jnp.arange(m)[None]
        return jnp.sum(jnp.where(counted, kernel(some, columns), 0), 0)

    places = jnp.arange(num * size).reshape(num, size, 1)
    # Under differentiation a block is formed again, so that no n x m array is kept.
    one = jax.checkpoint(one, prevent_cse=False)
    return jnp.sum(jax.lax.map(one, (places, jax.tree.map(parts, rows))), 0)


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
