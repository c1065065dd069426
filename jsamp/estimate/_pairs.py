"""Sums over pairs of rows, a tile of pairs at a time: never an n x m array, never a lost digit without need."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._mesh import vary
from jsamp.select._whiten import matmul

EXACT = 2**24
"""Multiplications up to which differences are formed one by one, exactly; beyond, by one matrix product."""
FEW = 16
"""Neighbours up to which the nearest are counted off one after another, which costs less than a sort."""


class Rows(NamedTuple):
    """Rows [n, d] with their squared lengths [n], which every tile of distances would form anew."""

    rows: jax.Array
    length: jax.Array


def measured(x: jax.Array) -> Rows:
    """Measure rows [n, d], once for all distances that they enter."""
    return Rows(x, jnp.sum(x**2, 1))


def squared(a: Rows, b: Rows, exact: bool) -> jax.Array:
    """Squared distances [n, m] of the centred rows of a to those of b.

    The product form errs by a few 1e-7 of the largest squared norm, the direct form by that of the distance itself.
    """
    if exact:
        return jnp.sum((a.rows[:, None] - b.rows[None]) ** 2, 2)
    return jnp.maximum(a.length[:, None] + b.length[None] + matmul(a.rows, -2 * b.rows.T), 0)


def pair_sums(kernel: Callable, x: Any, y: Any, block: int) -> tuple[jax.Array, jax.Array]:
    """Sums of kernel(x, y) over the rows of y, [n], and over those of x, [m]: both from each pair, formed once.

    Args:
        kernel: function of some rows of x and some of y -> [rows, rows], a tree of what else it depends on; or -> a
            pair of them, the first for the sums over the rows of y, the second for those over the rows of x.
        x: array or tree of arrays [n, ...].
        y: array or tree of arrays [m, ...].
        block: rows at a time of both sets (static), so that what is formed stays in the processor's cache.
    """
    return _tile_sums(kernel, x, y, block, same=False)


def own_sums(kernel: Callable, x: Any, block: int) -> jax.Array:
    """Sums [n] of a symmetric kernel(x, x') over the other rows of x: each pair is formed once."""
    before, after = _tile_sums(kernel, x, x, block, same=True)
    return before + after


def _tile_sums(kernel, x, y, block, *, same):
    """Sums of the tiles of a kernel along both axes; of one set with itself, of what lies above the diagonal."""
    (n, rows), (m, columns) = _tiles(x, block), _tiles(y, block)
    real, real_columns = _real(n, rows), _real(m, columns)
    (down, height), (along, width) = real.shape, real_columns.shape

    def tiles(i, j):
        tile = kernel(jax.tree.map(lambda a: a[i], rows), jax.tree.map(lambda a: a[j], columns))
        # Without the barrier the compiler would form the tile anew for each of its sums.
        return jax.lax.optimization_barrier(tile if isinstance(tile, tuple) else (tile, tile))

    def sums(i, j):
        right, below = tiles(i, j)
        return matmul(right, real_columns[j].astype(right.dtype)), matmul(real[i].astype(below.dtype), below)

    def own(i):
        tile, _ = tiles(i, i)
        return matmul(jnp.where(np.eye(height, dtype=bool), 0, tile), real[i].astype(tile.dtype))

    # Under differentiation a tile is formed again, so that no n x m array is kept.
    sums, own = (jax.checkpoint(part, prevent_cse=False) for part in (sums, own))

    def add(carry, place):
        right, below = sums(*place)
        return (carry[0].at[place[0]].add(right), carry[1].at[place[1]].add(below)), None

    dtype = jax.eval_shape(sums, 0, 0)[0].dtype
    sources = [leaf for leaf in jax.tree.leaves((kernel, x, y)) if not callable(leaf)]
    right, below = vary((jnp.zeros((down, height), dtype), jnp.zeros((along, width), dtype)), sources)
    pairs = np.triu_indices(down, 1) if same else np.divmod(np.arange(down * along), along)
    if same:
        right = jax.lax.map(own, jnp.arange(down))
    if len(pairs[0]):
        (right, below), _ = jax.lax.scan(add, (right, below), tuple(jnp.asarray(a) for a in pairs))
    return right.reshape(-1)[:n], below.reshape(-1)[:m]


def _tiles(tree, block):
    """Number of rows, and the rows [tiles, rows, ...] of every array, the last tile filled up with the first row."""
    n = jax.tree.leaves(tree)[0].shape[0]
    even = -(-n // -(-n // block))
    size = min(block, n, -(-even // 16) * 16)  # tiles of nearly one size, in lengths that vector units like
    extra = -n % size

    def cut(a):
        filled = jnp.concatenate([a, jnp.broadcast_to(a[:1], (extra, *a.shape[1:]))])  # kernels are finite at real rows
        return filled.reshape(-1, size, *a.shape[1:])

    return n, jax.tree.map(cut, tree)


def _real(n, rows):
    """Which rows [tiles, rows] of some tiles are among the n, not filled up."""
    count, size = jax.tree.leaves(rows)[0].shape[:2]
    return jnp.arange(count * size).reshape(count, size) < n


def is_small(x: jax.Array, y: jax.Array) -> bool:
    """Whether all differences of two sets are cheap enough to form one by one."""
    return x.shape[0] * y.shape[0] * x.shape[1] <= EXACT


def centred(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both sets minus the mean of the second, over its largest entry: (x, y, scale)."""
    centre = jnp.mean(y, 0, keepdims=True)
    x, y = x - centre, y - centre
    scale = jnp.maximum(jnp.max(jnp.abs(y)), jnp.max(jnp.abs(x)))
    scale = jax.lax.stop_gradient(jnp.where(scale > 0, scale, 1))
    return x / scale, y / scale, scale


def kth_smallest(values: jax.Array, k: int) -> jax.Array:
    """The k-th smallest [n] of each column of numbers [m, n], repeated ones counted: never a sort of a column.

    The k smallest lie in those k groups of rows whose least numbers are the smallest, or among the rows left over.
    """
    m, n = values.shape
    size = math.isqrt(m // k)
    if size > 1:
        groups = values[: m // size * size].reshape(-1, size, n)
        nearest = jax.lax.top_k(-jnp.min(groups, 1).T, k)[1].T
        chosen = jnp.take_along_axis(groups, nearest[:, None], 0).reshape(-1, n)
        values = jax.lax.optimization_barrier(jnp.concatenate([chosen, values[m // size * size :]]))
    if k > FEW:
        return -jax.lax.top_k(-values.T, k)[0][:, -1]
    found = jnp.min(values, 0)
    for _ in range(k - 1):
        higher = jnp.min(jnp.where(values > found[None], values, jnp.inf), 0)
        found = jnp.where(jnp.sum(values <= found[None], 0) < k, higher, found)
    return found


def median(values: jax.Array) -> jax.Array:
    """The exact median of numbers >= 0, by halving an interval of their bits; its slope is that of the middle ones."""
    bits = jax.lax.bitcast_convert_type(values, f"int{8 * values.dtype.itemsize}")  # in the order of the numbers

    def order(rank):
        def halve(_, ends):
            low, high = ends
            middle = low + (high - low) // 2
            enough = jnp.sum(bits <= middle) > rank
            return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

        ends = (jnp.min(bits), jnp.max(bits))
        at = bits == jax.lax.fori_loop(0, 8 * values.dtype.itemsize, halve, ends)[0]
        return jnp.sum(jnp.where(at, values / jnp.sum(at), 0))

    low, high = (values.size - 1) // 2, values.size // 2
    return order(low) if low == high else (order(low) + order(high)) / 2


def neighbour_distances(x: Rows, y: Rows, k: int, block: int, *, same: bool) -> jax.Array:
    """Squared distance [n] of each row of x to its k-th nearest row of y; with `same`, not counting itself."""
    exact, (n, tiles) = is_small(x.rows, y.rows), _tiles(x, block)
    k += same  # no row is nearer than itself
    return jax.lax.map(lambda some: kth_smallest(squared(y, some, exact), k), tiles).reshape(-1)[:n]
