"""Thinning by Stein's method: the target's scores alone say which points stand for it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._checks import check_count, check_number, concrete
from jsamp.select._neighbors import squared_distances
from jsamp.select._rows import check_matrix, power_of_two
from jsamp.select._subset import Subset, check_subset
from jsamp.select._whiten import map_rows

SAMPLE = 1000  # rows, evenly spread, whose median distance is the default length


def _stein(x, score_x, y, score_y, length):
    """Values [a, b] of the Stein kernel of (1 + |(x - y) / length|^2)^(-1/2)."""

    def pair(x, s, y, t):
        off = (x - y) / length
        far = off / length
        q = 1 + jnp.sum(off * off)
        curved = jnp.sum(1 / length**2) + jnp.sum((s - t) * far)
        return (-3 * jnp.sum(far * far) / q**2 + curved / q + jnp.sum(s * t)) / jnp.sqrt(q)

    rows = jax.vmap(pair, (None, None, 0, 0))
    return jax.vmap(rows, (0, 0, None, None))(x, score_x, y, score_y)


def _door(X, score, length, who):
    """Rows, scores and lengths [d] in a unit of size 1, and that unit; or a refusal."""
    X = check_matrix(f"{who}: X", X, tall=False)
    score = check_matrix(f"{who}: score", score, tall=False)
    if score.shape != X.shape:
        raise ValueError(
            f"{who}: score must have the shape of X, {X.shape}, got {score.shape}. Pass grad log p at rows."
        )
    unit = power_of_two(X)
    X, score = X * unit, score.astype(X.dtype) / unit
    steepest = concrete(jnp.max(jnp.abs(score)))
    if steepest is not None and not steepest * np.sqrt(score.shape[1]) < np.sqrt(jnp.finfo(score.dtype).max):
        raise ValueError(
            f"{who}: score reaches {steepest:.3g} for rows of size 1, and its squares leave {score.dtype}. "
            "Pass grad log p at rows, in the unit of X."
        )
    if length is None:
        return X, score, _median_length(X), unit
    check_number(f"{who}: length", length, low=0, open_low=True)
    length = jnp.asarray(length, X.dtype) * unit
    if length.shape not in ((), X.shape[1:]):
        raise ValueError(f"{who}: length must be a number or one per column [{X.shape[1]}], got shape {length.shape}.")
    return X, score, jnp.broadcast_to(length, X.shape[1:]), unit


@jax.jit
def _median_length(X):
    n = X.shape[0]
    rows = X[np.linspace(0, n - 1, min(n, SAMPLE)).astype(int)]
    median = jnp.sqrt(jnp.median(squared_distances(rows, rows)))
    return jnp.full(X.shape[1:], jnp.where(median > 0, median, 1), X.dtype)


def stein_thinning(X: Any, score: Any, num: int, *, length: Any = None) -> Subset:
    """Choose `num` rows, repeats allowed, that stand for a target whose scores are known: Stein thinning.

    Each next row is the one that lowers the kernel Stein discrepancy most: argmin of k0(x, x) / 2 + sum over chosen
    k0(x, x_s), k0 the Stein kernel of the inverse multiquadric (1 + |(x - y) / length|^2)^(-1/2). The rows need not be
    draws of the target: burn-in and bias of a chain are corrected, as far as the rows cover the target. Modes that are
    far apart get weights that nothing corrects.

    Args:
        X: [n, d] rows, for example a chain.
        score: [n, d] gradients of the target's log-density at the rows.
        num: rows, static; may exceed n.
        length: length scale > 0, one number or one per column [d]. Default: the median distance of (at most 1000) rows.

    Returns:
        `Subset` in the order chosen, each weight n / num; a row chosen twice fills two slots.

    Raises:
        ValueError: for X or score that is not finite, scores of another shape or so steep that their squares are not
            finite, a length that is not positive.

    Example:
        >>> import jax, jsamp as js
        >>> X = 1 + 2 * jax.random.normal(jax.random.key(0), (300, 1))
        >>> subset = js.select.stein_thinning(X, -X, 20)               # the target is N(0, 1)
        >>> bool(abs(subset.take(X).mean()) < 0.1), bool(abs(subset.take(X).std() - 1) < 0.2)
        (True, True)

    Cost:
        num passes of n kernel values.

    References:
        Riabiz, Chen, Cockayne, Swietach, Niederer, Mackey and Oates, "Optimal thinning of MCMC output", 2022,
        arXiv:2005.03952.
    """
    X, score, length, _ = _door(X, score, length, "stein_thinning")
    check_count("stein_thinning: num", num)
    return _stein_thinning(X, score, length, num)


@functools.partial(jax.jit, static_argnames=("num",))
def _stein_thinning(X, score, length, num):
    # Column by column, all four sums in one pass over it.
    columns, slopes = (X / length[None]).T, score.T
    flat = jnp.sum(1 / length**2)

    def against(i):
        def add(sums, column):
            x, s, scale = column
            square, far_square, slope, along = sums
            off = x[i] - x
            far = off / scale
            return (square + off * off, far_square + far * far, slope + (s[i] - s) * far, along + s[i] * s), None

        zero = jnp.zeros_like(columns[0]) + 0 * slopes[0]
        (square, far, slope, along), _ = lax.scan(add, (zero,) * 4, (columns, slopes, length), unroll=8)
        q = 1 + square
        return (-3 * far / q**2 + (flat + slope) / q + along) / jnp.sqrt(q)

    def step(total, _):
        index = jnp.argmin(total).astype(jnp.int32)
        return total + against(index), index

    _, index = lax.scan(step, (flat + jnp.sum(slopes**2, 0)) / 2, None, length=num)
    return Subset(index, jnp.full((num,), X.shape[0] / num, X.dtype), jnp.ones((num,), bool))


def stein_error(X: Any, score: Any, subset: Subset | None = None, *, length: Any = None, block: int = 512) -> jax.Array:
    """Measure how far weighted rows are from a target by its scores: the kernel Stein discrepancy.

    sqrt(sum_ij w_i w_j k0(x_i, x_j)), w the weights over their sum, k0 as in `stein_thinning`: 0 for the target alone,
    as more and more rows fill it.

    Args:
        X: [n, d] rows.
        score: [n, d] gradients of the target's log-density at the rows.
        subset: rows of X with weights, or None: all rows, equally.
        length: as in `stein_thinning`; the default is taken from all rows of X.
        block: rows per block, static.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: as `stein_thinning`, or for a subset of other rows.

    Example:
        >>> import jax, jsamp as js
        >>> X = jax.random.normal(jax.random.key(0), (300, 1))
        >>> bool(js.select.stein_error(X, -X) < js.select.stein_error(X, 1 - X))
        True

    Cost:
        m^2 kernel values in blocks, m the rows of the subset.

    References:
        Gorham and Mackey, "Measuring sample quality with kernels", 2017, arXiv:1703.01717.
    """
    X, score, length, unit = _door(X, score, length, "stein_error")
    check_count("stein_error: block", block)
    if subset is not None:
        check_subset(subset, X.shape[0], "stein_error")
        weight = jnp.where(subset.mask, subset.weight, 0).astype(X.dtype)
        X, score = X[subset.index], score[subset.index]
    else:
        weight = jnp.ones_like(X[:, 0])
    return _stein_error(X, score, weight, length, block) * unit


@functools.partial(jax.jit, static_argnames=("block",))
def _stein_error(X, score, weight, length, block):
    share = weight / jnp.sum(weight)
    rows = map_rows(lambda x, s: jnp.sum(_stein(x, s, X, score, length) * share[None], 1), X, score, block=block)
    return jnp.sqrt(jnp.maximum(jnp.sum(share * rows), 0))
