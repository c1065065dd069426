"""Subsets that cover or imitate a cloud of points: k-center, herding, kernel thinning."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_callable, check_count, check_key, check_number
from jsamp._core._pytree import pytree
from jsamp.select._leverage import check_matrix
from jsamp.select._neighbors import squared_distances
from jsamp.select._subset import Subset
from jsamp.select._whiten import map_rows

Kernel = Callable[[jax.Array, jax.Array], jax.Array]


@pytree
class Gaussian:
    """The kernel exp(-|x - y|^2 / (2 bandwidth^2)) between two sets of rows.

    Args:
        bandwidth: length scale > 0.

    Raises:
        ValueError: for a bandwidth that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> round(float(select.Gaussian(2.0)(jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]]))[0, 0]), 4)
        0.6065
    """

    bandwidth: Any = 1.0

    def __post_init__(self):
        check_number("Gaussian: bandwidth", self.bandwidth, low=0, open_low=True)

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """[a, b] kernel values of rows x [a, d] and y [b, d]."""
        shift = jnp.mean(y, 0, keepdims=True)
        return jnp.exp(-squared_distances(x - shift, y - shift) / (2 * self.bandwidth**2))


@functools.partial(jax.jit, static_argnames=("num",))
def _k_center(X, start, num):
    def away(index):
        return jnp.sum((X - X[index][None]) ** 2, 1)

    def step(carry, t):
        near, label = carry
        index = jnp.argmax(near)
        distance = away(index)
        label = jnp.where(distance < near, t, label)
        return (jnp.minimum(near, distance), label), index

    first = away(start)
    (_, label), rest = lax.scan(step, (first, jnp.zeros_like(first, jnp.int32)), jnp.arange(1, num, dtype=jnp.int32))
    index = jnp.concatenate([start[None], rest]).astype(jnp.int32)
    weight = jnp.zeros((num,), X.dtype).at[label].add(1)
    return Subset(index, weight, jnp.ones((num,), bool))


def k_center(X: Any, num: int, *, start: Any = None) -> Subset:
    """`num` rows that cover the cloud: every next one is the row farthest from those chosen so far.

    The largest distance of a row to its nearest chosen one is at most twice the smallest possible.

    Args:
        X: [n, d] rows.
        num: rows, static.
        start: first row; default the row farthest from the mean. It is part of the result.

    Returns:
        `Subset`; weight is the number of rows nearest to each chosen one.

    Raises:
        ValueError: for a non-finite X, or num > n.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> subset = select.k_center(jnp.array([[0.0], [0.1], [5.0], [5.1], [9.0]]), 3)
        >>> subset.index.tolist(), subset.weight.tolist()
        ([4, 0, 2], [1.0, 2.0, 2.0])

    Cost: num passes over the rows.

    References:
        Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    """
    X = check_matrix(X, "k_center", tall=False)
    check_count("k_center: num", num, high=X.shape[0])
    if start is None:
        start = jnp.argmax(jnp.sum((X - jnp.mean(X, 0, keepdims=True)) ** 2, 1))
    return _k_center(X, jnp.asarray(start), num)


def _tree(kernel):
    """The kernel as a tree that jit accepts: objects as they are, bare functions by identity."""
    return jax.tree_util.Partial(kernel) if jax.tree_util.all_leaves([kernel]) else kernel


def _embedding(X, kernel, block):
    """mean_j k(x_i, x_j) for every row, by blocks."""
    return map_rows(lambda rows: jnp.mean(kernel(rows, X), 1), X, block=block)


def herding(X: Any, num: int, *, kernel: Kernel | None = None, block: int = 512) -> Subset:
    """`num` distinct rows whose mean embedding follows that of all rows: kernel herding.

    Row t maximises mean_k(x) - sum over chosen k(x, x_s) / (t + 1). The error of kernel means falls like 1/num, not
    1/sqrt(num).

    Args:
        X: [n, d] rows.
        num: rows, static.
        kernel: (x [a, d], y [b, d]) -> [a, b]. Default `Gaussian(1.0)`: scale X, or pass a bandwidth.
        block: rows per block of the n x n kernel mean, static.

    Returns:
        `Subset` in the order chosen, each weight n / num.

    Raises:
        ValueError: for a non-finite X, or num > n.
        TypeError: for a kernel that is not callable.

    Example:
        >>> import jax, jsamp.select as select
        >>> X = jax.random.normal(jax.random.key(0), (300, 2))
        >>> bool(abs(select.herding(X, 20).take(X).mean(0) - X.mean(0)).max() < 0.15)
        True

    Cost: n^2 kernel values for the means, then num rows of n.

    References:
        Chen, Welling and Smola, "Super-Samples from Kernel Herding", 2010, arXiv:1203.3472.
    """
    X = check_matrix(X, "herding", tall=False)
    check_count("herding: num", num, high=X.shape[0])
    kernel = Gaussian() if kernel is None else kernel
    check_callable("herding: kernel", kernel, "kernel(x, y)")
    return _herding(X, _tree(kernel), num, block)


@functools.partial(jax.jit, static_argnames=("num", "block"))
def _herding(X, kernel, num, block):
    mean = _embedding(X, kernel, block)

    def step(carry, t):
        total, used = carry
        index = jnp.argmax(jnp.where(used, -jnp.inf, mean - total / (t + 1)))
        return (total + kernel(X[index][None], X)[0], used.at[index].set(True)), index

    start = (jnp.zeros_like(mean), jnp.zeros_like(mean, bool))
    _, index = lax.scan(step, start, jnp.arange(num, dtype=X.dtype))
    weight = jnp.full((num,), X.shape[0] / num, X.dtype)
    return Subset(index.astype(jnp.int32), weight, jnp.ones((num,), bool))


def _halve(key, X, index, kernel, delta):
    """One round of kernel halving: of every pair of points, one goes to each half, so that the halves stay alike."""
    pairs = index.shape[0] // 2
    points = X[index]
    coins = jax.random.uniform(key, (pairs,))
    bound = jnp.asarray(math.sqrt(2 * math.log(2 * pairs / delta)), X.dtype)

    def step(carry, inputs):
        sign, sigma2 = carry
        i, coin = inputs
        pair = lax.dynamic_slice_in_dim(points, 2 * i, 2)
        rows = kernel(pair, points)
        width = rows[0, 2 * i] + rows[1, 2 * i + 1] - 2 * rows[0, 2 * i + 1]
        width = jnp.maximum(width, 0)
        alpha = jnp.sum(sign * (rows[0] - rows[1]))
        limit = jnp.maximum(jnp.sqrt(width * sigma2) * bound, width)
        limit = jnp.where(limit > 0, limit, 1)
        sigma2 = sigma2 + width * jnp.maximum(0, 1 + (width - 2 * limit) * sigma2 / limit**2)
        first = jnp.where(coin < jnp.clip((1 - alpha / limit) / 2, 0, 1), 1.0, -1.0).astype(X.dtype)
        sign = lax.dynamic_update_slice(sign, jnp.stack([first, -first]), (2 * i,))
        return (sign, sigma2), first > 0

    start = (jnp.zeros_like(points[:, 0]), jnp.zeros_like(points[0, 0]))
    _, keep_first = lax.scan(step, start, (jnp.arange(pairs), coins))
    return jnp.where(keep_first, index[0 : 2 * pairs : 2], index[1 : 2 * pairs : 2])


def thinning(
    key: jax.Array, X: Any, rounds: int, *, kernel: Kernel | None = None, delta: float = 0.5, swap: bool = True,
    block: int = 512,
) -> Subset:  # fmt: skip
    """N / 2^rounds rows that imitate all n: kernel thinning by repeated halving, then one round of best swaps.

    Halving walks through the (shuffled) points in pairs and sends one of each to either half with a probability that
    cancels the kernel discrepancy built up so far. The swap round replaces every kept row by the row that lowers the
    discrepancy (MMD) to the whole most, so it never raises it.

    Args:
        key: one JAX key.
        X: [n, d] rows.
        rounds: halvings, static.
        kernel: as in `herding`.
        delta: failure probability in the halving thresholds, in (0, 1).
        swap: do the swap round, static.
        block: rows per block of the n x n kernel mean, static.

    Returns:
        `Subset`, each weight n / number of rows.

    Raises:
        ValueError: for a non-finite X, or fewer than 2^rounds rows.

    Example:
        >>> import jax, jsamp.select as select
        >>> X = jax.random.normal(jax.random.key(0), (256, 2))
        >>> subset = select.thinning(jax.random.key(1), X, 2)
        >>> subset.index.shape, bool(abs(subset.take(X).mean(0) - X.mean(0)).max() < 0.3)
        ((64,), True)

    Cost: about n^2 kernel values for the halvings and n^2 for the means.

    References:
        Dwivedi and Mackey, "Kernel Thinning", 2021, arXiv:2105.05842.
    """
    check_key(key, "thinning")
    X = check_matrix(X, "thinning", tall=False)
    n = X.shape[0]
    check_count("thinning: rounds", rounds, high=int(math.log2(n)))
    check_number("thinning: delta", delta, low=0, high=1 - 1e-9, open_low=True)
    kernel = Gaussian() if kernel is None else kernel
    check_callable("thinning: kernel", kernel, "kernel(x, y)")
    return _thinning(key, X, _tree(kernel), rounds, delta, swap, block)


@functools.partial(jax.jit, static_argnames=("rounds", "delta", "swap", "block"))
def _thinning(key, X, kernel, rounds, delta, swap, block):
    n = X.shape[0]
    keys = jax.random.split(key, rounds + 1)
    index = jax.random.permutation(keys[0], n).astype(jnp.int32)
    for r in range(rounds):
        index = _halve(keys[r + 1], X, index, kernel, delta / rounds)
    m = index.shape[0]
    if swap:
        mean = _embedding(X, kernel, block)
        diagonal = map_rows(lambda x: jax.vmap(lambda row: kernel(row[None], row[None])[0, 0])(x), X)
        total = map_rows(lambda x: jnp.sum(kernel(x, X[index]), 1), X, block=block)

        def improve(carry, slot):
            index, total = carry
            without = total - kernel(X[index[slot]][None], X)[0]
            cost = (2 * without + diagonal) / m - 2 * mean
            best = jnp.argmin(cost).astype(jnp.int32)
            best = jnp.where(cost[best] < cost[index[slot]], best, index[slot])
            return (index.at[slot].set(best), without + kernel(X[best][None], X)[0]), None

        (index, _), _ = lax.scan(improve, (index, total), jnp.arange(m))
    return Subset(index, jnp.full((m,), n / m, X.dtype), jnp.ones((m,), bool))


def kernel_error(X: Any, subset: Subset, *, kernel: Kernel | None = None, block: int = 512) -> jax.Array:
    """Kernel distance (MMD) between a weighted subset and all rows: 0 when they cannot be told apart.

    Args:
        X: [n, d] rows.
        subset: rows of X; weights are normalised to sum to 1.
        kernel: as in `herding`.
        block: rows per block, static.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: for a non-finite X.

    Example:
        >>> import jax, jsamp.select as select
        >>> X = jax.random.normal(jax.random.key(0), (200, 2))
        >>> bool(select.kernel_error(X, select.herding(X, 20)) < 0.1)
        True

    Cost: n^2 kernel values in blocks.
    """
    X = check_matrix(X, "kernel_error", tall=False)
    return _kernel_error(X, subset, _tree(Gaussian() if kernel is None else kernel), block)


@functools.partial(jax.jit, static_argnames=("block",))
def _kernel_error(X, subset, kernel, block):
    kept = subset.take(X)
    weight = jnp.where(subset.mask, subset.weight, 0)
    weight = weight / jnp.sum(weight)
    whole = jnp.mean(_embedding(X, kernel, block))
    cross = jnp.sum(weight * map_rows(lambda rows: jnp.mean(kernel(rows, X), 1), kept, block=block))
    own = jnp.sum(weight * map_rows(lambda rows: jnp.sum(kernel(rows, kept) * weight[None], 1), kept, block=block))
    return jnp.sqrt(jnp.maximum(whole - 2 * cross + own, 0))
