"""Subsets that imitate a cloud of points by kernel means: herding, kernel thinning."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core import _fields
from jsamp._core._callable import as_tree
from jsamp._core._checks import (
    check_callable,
    check_count,
    check_flag,
    check_key,
    check_scalar,
    is_traced,
)  # fmt: skip
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Key, Scalar
from jsamp.select._neighbors import squared_distances
from jsamp.select._rows import check_matrix, check_weights
from jsamp.select._subset import Subset, check_subset
from jsamp.select._whiten import map_rows, matmul

PairKernel = Callable[[jax.Array, jax.Array], jax.Array]


@pytree
class GaussianKernel:
    """Evaluate the kernel exp(-|x - y|^2 / (2 bandwidth^2)) between two sets of rows.

    Args:
        bandwidth: length scale > 0.

    Raises:
        ValueError: for a bandwidth that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> round(float(js.select.GaussianKernel(2.0)(jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]]))[0, 0]), 4)
        0.6065

    Cost:
        m n d operations for m and n rows of d numbers; memory m n.
    """

    bandwidth: Scalar = field(default=1.0, check=_fields.positive)

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Evaluate the [a, b] kernel values of rows x [a, d] and y [b, d]."""
        return jnp.exp(-_scaled_distances(x / self.bandwidth, y / self.bandwidth) / 2)


def _scaled_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Squared distances right to 1e-5: by a product where its rounding is below that, by differences elsewhere."""
    centre = jnp.mean(y, 0, keepdims=True)
    u, v = x - centre, y - centre
    left, right = jnp.sum(u * u, 1), jnp.sum(v * v, 1)
    loss = 4 * jnp.finfo(x.dtype).eps * (jnp.sqrt(jnp.max(left)) + jnp.sqrt(jnp.max(right))) ** 2

    def product(u, v, *_):
        return jnp.maximum(left[:, None] + right[None] - 2 * matmul(u, v.T), 0)

    return lax.cond(loss < 1e-5, product, lambda _u, _v, x, y: squared_distances(x, y), u, v, x, y)


def _as_kernel(kernel: Any, X: jax.Array, who: str) -> Any:
    """The kernel as a tree that jit accepts, refused when its values on rows of X are not a matrix."""
    if kernel is None:
        return GaussianKernel()
    check_callable(f"{who}: kernel", kernel, "kernel(x, y)")
    shape = jnp.shape(jax.eval_shape(kernel, X[:1], X[:2] if X.shape[0] > 1 else X[:1]))
    if shape != (1, min(2, X.shape[0])):
        raise ValueError(f"{who}: kernel(x [a, d], y [b, d]) must return [a, b], got shape {shape} for [1, 2].")
    return as_tree(f"{who}: kernel", kernel, "kernel(x, y)")


def _embedding(rows, X, kernel, share, block):
    """sum_j share_j k(row, x_j) for every one of the rows, by blocks; equal shares 1/n when None."""

    def part(rows):
        value = kernel(rows, X)
        return jnp.mean(value, 1) if share is None else jnp.sum(value * share[None], 1)

    return map_rows(part, rows, block=block)


def herding(
    X: Any, num: int, *, kernel: PairKernel | None = None, weights: Any = None, block: int = 512
) -> Subset:  # fmt: skip
    """Choose `num` distinct rows whose mean embedding follows that of all rows: kernel herding.

    Row t maximises mean_k(x) - sum over chosen k(x, x_s) / (t + 1). The error of kernel means falls like 1/num, not
    1/sqrt(num).

    Args:
        X: [n, d] rows.
        num: rows, static.
        kernel: (x [a, d], y [b, d]) -> [a, b]. Default `GaussianKernel(1.0)`: scale X, or pass a bandwidth.
        weights: [n] >= 0 of the rows in the mean, or None: all equal. Rows of weight 0 are not chosen.
        block: rows per block of the n x n kernel mean, static.

    Returns:
        `Subset` in the order chosen, each weight n / num (with `weights`: their sum / num).

    Raises:
        ValueError: for a non-finite X, num > n (or more than the rows with positive weight), or bad weights.
        TypeError: for a kernel that is not callable.

    Example:
        >>> import jax, jsamp as js
        >>> X = jax.random.normal(jax.random.key(0), (300, 2))
        >>> bool(abs(js.select.herding(X, 20).take(X).mean(0) - X.mean(0)).max() < 0.15)
        True

    Cost:
        n^2 kernel values for the means, then num rows of n.

    References:
        Chen, Welling and Smola, "Super-Samples from Kernel Herding", 2010, arXiv:1203.3472.
    """
    X = check_matrix("herding: X", X, tall=False)
    check_count("herding: num", num, high=X.shape[0])
    check_count("herding: block", block)
    weights = check_weights(weights, X.shape[0], "herding")
    live = X.shape[0] if weights is None or is_traced(weights) else int((np.asarray(weights) > 0).sum())
    if num > live:
        raise ValueError(f"herding: num is {num}, but only {live} rows have a positive weight. Lower num.")
    return _herding(X, _as_kernel(kernel, X, "herding"), weights, num, block)


@functools.partial(jax.jit, static_argnames=("num", "block"))
def _herding(X, kernel, weights, num, block):
    share = None if weights is None else (weights / jnp.max(weights)).astype(X.dtype)
    share = None if share is None else share / jnp.sum(share)
    mean = _embedding(X, X, kernel, share, block)

    def step(carry, t):
        total, used = carry
        index = jnp.argmax(jnp.where(used, -jnp.inf, mean - total / (t + 1)))
        return (total + kernel(X[index][None], X)[0], used.at[index].set(True)), index

    start = (jnp.zeros_like(mean), jnp.zeros_like(mean, bool) if share is None else share == 0)
    _, index = lax.scan(step, start, jnp.arange(num, dtype=mean.dtype))
    mass = jnp.asarray(X.shape[0], X.dtype) if weights is None else jnp.sum(weights).astype(X.dtype)
    weight = jnp.broadcast_to(mass / num, (num,))
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
    key: Key, X: Any, rounds: int, *, kernel: PairKernel | None = None, delta: float = 0.5, swap: bool = True,
    block: int = 512,
) -> Subset:  # fmt: skip
    """Keep n / 2^rounds rows that imitate all n: kernel thinning by repeated halving, then one round of best swaps.

    Halving walks through the (shuffled) points in pairs and sends one of each to either half with a probability that
    cancels the kernel discrepancy built up so far. The swap round replaces every kept row by the row that lowers the
    discrepancy (MMD) to the whole most, so it never raises it.

    Args:
        key: one JAX key.
        X: [n, d] rows.
        rounds: halvings, static.
        kernel: as in `herding`.
        delta: failure probability in the halving thresholds, in (0, 1), static.
        swap: do the swap round, static.
        block: rows per block of the n x n kernel mean, static.

    Returns:
        `Subset`, each weight n / number of rows.

    Raises:
        ValueError: for a non-finite X, or fewer than 2^rounds rows.

    Example:
        >>> import jax, jsamp as js
        >>> X = jax.random.normal(jax.random.key(0), (256, 2))
        >>> subset = js.select.thinning(jax.random.key(1), X, 2)
        >>> subset.index.shape, bool(abs(subset.take(X).mean(0) - X.mean(0)).max() < 0.3)
        ((64,), True)

    Cost:
        About n^2 kernel values for the halvings and n^2 for the means.

    References:
        Dwivedi and Mackey, "Kernel Thinning", 2021, arXiv:2105.05842.
    """
    check_key(key, "thinning")
    X = check_matrix("thinning: X", X, tall=False)
    n = X.shape[0]
    check_rounds("thinning", rounds, n)
    check_scalar("thinning: delta", delta, low=0, high=1 - 1e-9, open_low=True)
    check_count("thinning: block", block)
    check_flag("thinning: swap", swap)
    return _thinning(key, X, _as_kernel(kernel, X, "thinning"), rounds, float(delta), bool(swap), block)


def check_rounds(who: str, rounds: Any, n: int) -> None:
    """Refuse more halvings than n rows allow."""
    if n < 2:
        raise ValueError(f"{who}: one row cannot be halved. Pass two or more.")
    check_count(f"{who}: rounds", rounds, high=int(math.log2(n)))


@functools.partial(jax.jit, static_argnames=("rounds", "delta", "swap", "block"))
def _thinning(key, X, kernel, rounds, delta, swap, block):
    n = X.shape[0]
    keys = jax.random.split(key, rounds + 1)
    index = jax.random.permutation(keys[0], n).astype(jnp.int32)
    for r in range(rounds):
        index = _halve(keys[r + 1], X, index, kernel, delta / rounds)
    if swap:
        index = _swap(X, index, kernel, block)
    m = index.shape[0]
    return Subset(index, jnp.full((m,), n / m, X.dtype), jnp.ones((m,), bool))


def _swap(X, index, kernel, block):
    """Replace every chosen row, in turn, by the row of X that lowers the discrepancy to X most."""
    m = index.shape[0]
    mean = _embedding(X, X, kernel, None, block)
    diagonal = map_rows(lambda x: jax.vmap(lambda row: kernel(row[None], row[None])[0, 0])(x), X)
    total = map_rows(lambda x: jnp.sum(kernel(x, X[index]), 1), X, block=block)

    def improve(carry, slot):
        index, total = carry
        without = total - kernel(X[index[slot]][None], X)[0]
        cost = (2 * without + diagonal) / m - 2 * mean
        best = jnp.argmin(cost).astype(jnp.int32)
        best = jnp.where(cost[best] < cost[index[slot]], best, index[slot])
        return (index.at[slot].set(best), without + kernel(X[best][None], X)[0]), None

    return lax.scan(improve, (index, total), jnp.arange(m))[0][0]


def kernel_error(
    X: Any, subset: Subset, *, kernel: PairKernel | None = None, weights: Any = None, block: int = 512
) -> jax.Array:
    """Measure the kernel distance (MMD) between a weighted subset and all rows: 0 when they cannot be told apart.

    With c_i the share of row i in the subset minus its share in the whole, the value is sqrt(sum_ij c_i k_ij c_j).

    Args:
        X: [n, d] rows.
        subset: rows of X; weights are normalised to sum to 1.
        kernel: as in `herding`.
        weights: [n] >= 0 of the rows in the whole, or None: all equal.
        block: rows per block, static.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: for a non-finite X, a subset of other rows, or bad weights.

    Example:
        >>> import jax, jsamp as js
        >>> X = jax.random.normal(jax.random.key(0), (200, 2))
        >>> bool(js.select.kernel_error(X, js.select.herding(X, 20)) < 0.1)
        True

    Cost:
        n^2 kernel values in blocks.
    """
    X = check_matrix("kernel_error: X", X, tall=False)
    check_subset(subset, X.shape[0], "kernel_error")
    check_count("kernel_error: block", block)
    weights = check_weights(weights, X.shape[0], "kernel_error")
    return _kernel_error(X, subset, _as_kernel(kernel, X, "kernel_error"), weights, block)


@functools.partial(jax.jit, static_argnames=("block",))
def _kernel_error(X, subset, kernel, weights, block):
    weight = jnp.where(subset.mask, subset.weight, 0)
    whole = jnp.ones_like(X[:, 0]) if weights is None else weights / jnp.max(weights)
    excess = jnp.zeros_like(X[:, 0]).at[subset.index].add(weight / jnp.sum(weight)) - whole / jnp.sum(whole)
    return jnp.sqrt(jnp.maximum(jnp.sum(excess * _embedding(X, X, kernel, excess, block)), 0))
