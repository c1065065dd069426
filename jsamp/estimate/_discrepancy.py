"""Distances between sets of samples by kernels: MMD, KID, energy distance; U-statistics with their errors."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp.estimate import _arrays
from jsamp.estimate._pairs import centred, is_small, measured, median, own_sums, pair_sums, squared
from jsamp.estimate._types import Estimate
from jsamp.select._rows import inverse_power
from jsamp.select._whiten import matmul


def median_square(y: jax.Array, most: int = 1000) -> jax.Array:
    """Median squared distance between different rows, of at most `most` rows spread evenly."""
    n = y.shape[0]
    y = y[np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))]
    rows = measured(y)
    square = squared(rows, rows, is_small(y, y))
    return median(square[np.triu_indices(y.shape[0], 1)])


def _u_statistic(kernel, x, y, block):
    """Unbiased E k(x, x') + E k(y, y') - 2 E k(x, y), and the error that the rows' own means have.

    This is the jackknife's error. Where the laws are equal, so that the first order vanishes, it is sqrt 2 of the
    deviation: the value is skewed there and small values come with small errors.
    """
    n, m = jax.tree.leaves(x)[0].shape[0], jax.tree.leaves(y)[0].shape[0]
    across, back = pair_sums(kernel, x, y, block)
    a, b = own_sums(kernel, x, block) / (n - 1), across / m
    c, d = own_sums(kernel, y, block) / (m - 1), back / n
    value = jnp.mean(a) + jnp.mean(c) - jnp.mean(b) - jnp.mean(d)
    square = 4 * jnp.var(a - b, ddof=1) / n + 4 * jnp.var(c - d, ddof=1) / m
    safe = jnp.where(square > 0, square, 1)  # the root has no slope at 0
    return value, jnp.where(square > 0, jnp.sqrt(safe), 0)


def _rbf(exact, a, b):
    # exp(-r / 2c) for c = 4, 2, 1, 1/2, in units in which 8 h = 1: each the square of the one before. Without the
    # barrier the compiler forms the exponential anew for each of its uses.
    widest = jax.lax.optimization_barrier(jnp.exp(-squared(a, b, exact)))
    second = widest * widest
    third = second * second
    return (widest + second + third + third * third) / 4


def _negative_distance(exact, a, b):
    return -jnp.sqrt(squared(a, b, exact) + 1e-30)


def _cubic(c, a, b):
    """(a.b / d + 1)^3 minus what depends on one of a, b alone, in terms of differences from the middle."""
    (a, p), (b, q) = a, b
    p, q = p[:, None], q[None]
    r = matmul(a, b.T) / a.shape[1]
    s = c + p + q
    return r * (3 * s**2 + 3 * s * r + r**2) + 3 * p * q * (2 * c + p + q)


def _pairwise(kernel, a, b):
    return jax.vmap(jax.vmap(kernel, (None, 0)), (0, None))(a, b)


@functools.partial(jax.jit, static_argnames="block")
def _mmd_rbf(x, y, width, block):
    x, y, scale = centred(x, y)
    width = median_square(y) if width is None else width / scale**2
    x, y = (measured(rows / jnp.sqrt(8 * jnp.where(width > 0, width, 1))) for rows in (x, y))
    return _u_statistic(Partial(_rbf, is_small(x.rows, y.rows)), x, y, block)


@functools.partial(jax.jit, static_argnames="block")
def _mmd_any(kernel, x, y, block):
    return _u_statistic(Partial(_pairwise, kernel), x, y, block)


@functools.partial(jax.jit, static_argnames="block")
def _energy(x, y, block):
    x, y, scale = centred(x, y)
    kernel = Partial(_negative_distance, is_small(x, y))
    value, error = _u_statistic(kernel, measured(x), measured(y), block)
    return value * scale, error * scale


@functools.partial(jax.jit, static_argnames="block")
def _kid(x, y, block):
    d = x.shape[1]
    # Large features are taken in a unit in which sixth powers and their squares stay within float32.
    unit = inverse_power(jnp.maximum(1, jnp.maximum(jnp.max(jnp.abs(x)), jnp.max(jnp.abs(y)))))
    x, y = x * unit, y * unit
    middle = jnp.mean(y, 0)
    x, y = x - middle[None], y - middle[None]
    along = lambda rows: jnp.sum(middle[None] * rows, 1) / d
    c = unit * unit + jnp.sum(middle**2) / d
    pair = _u_statistic(Partial(_cubic, c), (x, along(x)), (y, along(y)), block)
    return tuple(functools.reduce(jnp.multiply, [1 / unit] * 6, part) for part in pair)


def _check_symmetric(kernel, a, b):
    """Refuse a kernel that depends on the order of its rows: each pair is formed once."""
    there, back = _checks.concrete(kernel(a, b)), _checks.concrete(kernel(b, a))
    if there is not None and back is not None and not np.allclose(there, back, rtol=1e-3, equal_nan=True):
        raise ValueError(
            f"mmd: kernel must be symmetric, got {there} for two rows and {back} for them in the other order. "
            f"Pass the mean of the two."
        )


def _estimate(pair, x, y):
    value, error = pair
    return Estimate(value, error, jnp.asarray(min(x.shape[0], y.shape[0]), value.dtype))


def mmd(x: Any, y: Any, *, kernel: Any = "rbf", bandwidth: Any = None, block: int = 512) -> Estimate:
    """Estimate the squared maximum mean discrepancy of two laws from samples: unbiased, so it may be below 0.

    E k(x, x') + E k(y, y') - 2 E k(x, y), pairs of a row with itself left out. "rbf" is the mean of
    exp(-|x - y|^2 / (2 c h)) over c = 1/2, 1, 2, 4, with h the median squared distance within the reference y alone, so
    that rows of a table compare. The error is the jackknife's; where the laws are equal a 95% interval covers about
    90%.

    Args:
        x: [n, ...] samples.
        y: [m, ...] reference samples.
        kernel: "rbf", or a symmetric function of two rows [d] -> scalar.
        bandwidth: h for "rbf"; None: the median.
        block: rows at a time (static); memory is block x block.

    Returns:
        `Estimate` of scalars; ess = min(n, m).

    Raises:
        ValueError: for fewer than 4 rows, features that differ, NaN, a bandwidth that is not positive, or a kernel that
            is seen to depend on the order of its rows.

    Example:
        >>> import jax, jsamp as js
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 200, 3))
        >>> near, far = js.estimate.mmd(x, y), js.estimate.mmd(x + 1, y)
        >>> bool(abs(near.value) < 4 * near.stderr) and bool(far.value > 4 * far.stderr)
        True

    Cost:
        (n + m)^2 / 2 kernels in tiles, each pair a matrix product entry (exact differences for small sets).

    References:
        Gretton et al., "A kernel two-sample test", 2012. Sutherland et al., "Generative models and model criticism via
        optimized maximum mean discrepancy", 2017, arXiv:1611.04488.
    """
    x, y = _arrays.two_samples("mmd", x, y, low=4)
    block = _checks.check_count("mmd: block", block)
    if bandwidth is not None:
        _checks.check_scalar("mmd: bandwidth", bandwidth, low=0, open_low=True)
        bandwidth = jnp.asarray(bandwidth, x.dtype)
    if kernel == "rbf" if isinstance(kernel, str) else False:
        return _estimate(_mmd_rbf(x, y, bandwidth, block), x, y)
    if isinstance(kernel, str):
        _checks.check_choice("mmd: kernel", kernel, ("rbf",))
    kernel = as_tree("mmd: kernel", kernel, "kernel(a, b)")
    _check_symmetric(kernel, x[0], y[0])
    return _estimate(_mmd_any(kernel, x, y, block), x, y)


def kid(x: Any, y: Any, *, block: int = 512) -> Estimate:
    """Estimate the kernel distance of two sets of features: squared MMD with the kernel (a . b / d + 1)^3.

    Unbiased at every sample size, unlike the Frechet distance. The kernel is formed from differences to the mean of y
    with the parts that depend on one sample alone left out; they cancel in the distance, and would cost float32 its
    digits.

    Args:
        x: [n, ...] features of samples.
        y: [m, ...] features of the reference.
        block: rows at a time (static).

    Returns:
        `Estimate`; ess = min(n, m).

    Raises:
        ValueError: for fewer than 4 rows, features that differ, or NaN.

    Example:
        >>> import jax, jsamp as js
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 200, 3))
        >>> found = js.estimate.kid(x + 1, y)
        >>> bool(found.value > 4 * found.stderr)
        True

    Cost:
        (n + m)^2 entries of matrix products.

    References:
        Binkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", 2018, arXiv:1801.01401.
    """
    x, y = _arrays.two_samples("kid", x, y, low=4)
    return _estimate(_kid(x, y, _checks.check_count("kid: block", block)), x, y)


def energy(x: Any, y: Any, *, block: int = 512) -> Estimate:
    """Estimate the energy distance of two laws, 2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased.

    Zero exactly for equal laws; needs no bandwidth and scales as the data do.

    Args:
        x: [n, ...] samples.
        y: [m, ...] reference samples.
        block: rows at a time (static).

    Returns:
        `Estimate`; ess = min(n, m).

    Raises:
        ValueError: for fewer than 4 rows, features that differ, or NaN.

    Example:
        >>> import jax, jsamp as js
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 500))
        >>> found = js.estimate.energy(x + 2, y)
        >>> bool(found.value > 10 * found.stderr)
        True

    Cost:
        (n + m)^2 distances in blocks.

    References:
        Szekely and Rizzo, "Energy statistics: a class of statistics based on distances", 2013.
    """
    x, y = _arrays.two_samples("energy", x, y, low=4)
    return _estimate(_energy(x, y, _checks.check_count("energy: block", block)), x, y)
