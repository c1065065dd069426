"""Acquisition functions: what an evaluation is expected to gain. Smaller values of the objective are better."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._types import Array, Key, Result, Scalar
from jsamp.fit._settle import lbfgs, settle

TAIL = -2.0  # standardised gain below which its logarithm is a continued fraction
LEVELS = 40


def _check(who, mean, std, best):
    for name, value in (("mean", mean), ("best", best)):
        _checks.check_number(f"{who}: {name}", value)
    _checks.check_number(f"{who}: std", std, low=0.0)
    mean, std, best = (v if hasattr(v, "dtype") else np.asarray(v, np.float32) for v in (mean, std, best))
    dtype = jnp.promote_types(jnp.result_type(mean, std, best), jnp.float32)
    try:
        shape = jnp.broadcast_shapes(jnp.shape(mean), jnp.shape(std), jnp.shape(best))
    except ValueError as error:
        raise ValueError(
            f"{who}: mean, std and best must broadcast, got {jnp.shape(mean)}, {jnp.shape(std)}."
        ) from error
    return tuple(jnp.broadcast_to(jnp.asarray(value, dtype), shape) for value in (mean, std, best))


def _density(z):
    return jnp.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def ei(mean: Array | Scalar, std: Array | Scalar, best: Scalar) -> jax.Array:
    """Compute the expected improvement below the best value so far, E max(best - f, 0) for f ~ N(mean, std^2).

    Args:
        mean: predicted mean, any shape.
        std: predicted standard deviation >= 0.
        best: lowest value so far.

    Returns:
        The expectation, >= 0, of the broadcast shape. Without spread it is max(best - mean, 0).

    Raises:
        ValueError: for numbers that are not finite, a negative std, or shapes that do not broadcast.

    Example:
        >>> import jsamp as js
        >>> round(float(js.fit.ei(0.0, 1.0, 0.0)), 4)  # 1 / sqrt(2 pi)
        0.3989

    Cost:
        A few operations per number.

    References:
        Jones, Schonlau and Welch, "Efficient global optimization of expensive black-box functions", 1998.
    """
    mean, std, best = _check("ei", mean, std, best)
    gap, spread = best - mean, jnp.where(std > 0, std, 1)
    z = gap / spread
    return jnp.where(std > 0, spread * jnp.exp(_log_gain(z)), jnp.maximum(gap, 0))


def log_ei(mean: Array | Scalar, std: Array | Scalar, best: Scalar) -> jax.Array:
    """Compute the logarithm of `ei`, finite and with slopes where the expectation itself underflows.

    log(phi(z) + z Phi(z)) + log std with z = (best - mean) / std. Far in the lower tail both terms cancel; with Phi /
    phi = 1 / (x + t), x = -z and t = 1 / (x + 2 / (x + 3 / ...)), the sum is phi t / (x + t), in which nothing cancels.

    Args:
        mean: predicted mean, any shape.
        std: predicted standard deviation; zero gives log max(best - mean, 0), which may be -inf.
        best: lowest value so far.

    Returns:
        The logarithm, of the broadcast shape.

    Raises:
        ValueError: as for `ei`.

    Example:
        >>> import jsamp as js
        >>> round(float(js.fit.log_ei(30.0, 1.0, 0.0)), 2)  # the expectation is 1e-199
        -457.72

    Cost:
        Some fifty operations per number.

    References:
        Ament et al., "Unexpected improvements to expected improvement for Bayesian optimization", 2023,
        arXiv:2310.20708 (the problem; the continued fraction is ours).
    """
    mean, std, best = _check("log_ei", mean, std, best)
    gap, spread = best - mean, jnp.where(std > 0, std, 1)
    sure = jnp.where(gap > 0, jnp.log(jnp.where(gap > 0, gap, 1)), -jnp.inf)
    return jnp.where(std > 0, jnp.log(spread) + _log_gain(gap / spread), sure)


def _log_gain(z):
    """log(phi(z) + z Phi(z))."""
    near = jnp.maximum(z, TAIL)
    direct = jnp.log(_density(near) + near * jax.scipy.special.ndtr(near))
    x = -jnp.minimum(z, TAIL)
    t = jnp.zeros_like(x)
    for level in range(LEVELS, 0, -1):
        t = level / (x + t)
    # Beyond x^2 = 1 / eps the ratio t / (x + t) is 1 / x^2: written so that x^2 itself never overflows.
    far = -(x**2) / 2 - math.log(2 * math.pi) / 2 + jnp.log(t) - jnp.log(x + t)
    return jnp.where(z > TAIL, direct, far)


def qei(samples: Array, best: Scalar) -> jax.Array:
    """Estimate the expected improvement of a batch of q points from joint draws of the function.

    Args:
        samples: [num, q] draws, as `posterior.sample` gives them; or [num] of one point.
        best: lowest value so far.

    Returns:
        mean max(best - min_q f, 0), a scalar.

    Raises:
        ValueError: for numbers that are not finite, or another shape.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> float(js.fit.qei(jnp.array([[1.0, 3.0], [4.0, 5.0]]), 2.0))  # (1 + 0) / 2
        0.5

    Cost:
        num q.

    References:
        Wilson, Hutter and Deisenroth, "Maximizing acquisition functions for Bayesian optimization", 2018,
        arXiv:1805.10196.
    """
    _checks.check_rows("qei: samples", samples)
    _checks.check_finite("qei: samples", samples)
    _checks.check_scalar("qei: best", best)
    samples = jnp.asarray(samples, jnp.promote_types(jnp.result_type(samples), jnp.float32))
    if samples.ndim not in (1, 2):
        raise ValueError(f"qei: samples must be [num, q], got shape {samples.shape}. Use jax.vmap over batches.")
    lowest = samples if samples.ndim == 1 else jnp.min(samples, 1)
    return jnp.mean(jnp.maximum(jnp.asarray(best, samples.dtype) - lowest, 0))


def _to_cube(free):
    """Map all reals onto the unit interval, its ends included: no optimum on a face is out of reach."""
    return (1 + jnp.sin(free)) / 2


def _from_cube(x):
    return jnp.arcsin(jnp.clip(2 * x - 1, -1, 1))


def _negative(acquisition, free):
    return -acquisition(_to_cube(free))


_NEGATIVE = jax.tree_util.Partial(_negative)


@functools.partial(jax.jit, static_argnames="num")
def _best_of(acquisition, points, num):
    values = jax.lax.map(acquisition, points, batch_size=64)
    order = jnp.argsort(-jnp.where(jnp.isfinite(values), values, -jnp.inf))[:num]
    return points[order], values[order]


@jax.jit
def _value(acquisition, x):
    return acquisition(x)


def maximise_acquisition(
    key: Key | None, acquisition: Callable[[Any], Any], points: Array, *, restarts: int = 4, steps: int = 20
) -> Result:
    """Maximise a function on the unit cube from the best of many points, by L-BFGS from each of several.

    The cube is the image of all reals under (1 + sin) / 2, so that a maximum on a face can be reached.

    Args:
        key: None, or a key; nothing is drawn.
        acquisition: callable tree (x) -> scalar, where x is one of `points`: [d], or [q, d] for a batch.
        points: [num, d] or [num, q, d] candidates in [0, 1].
        restarts: how many of them L-BFGS begins at.
        steps: steps from each.

    Returns:
        `Result(x, value)`, never worse than the best of the points.

    Raises:
        ValueError: for points outside the cube, or counts below 1.
        TypeError: for an acquisition that cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> points = jax.random.uniform(jax.random.key(0), (20, 2))
        >>> found = js.fit.maximise_acquisition(None, lambda x: -jnp.sum((x - 0.3) ** 2), points, steps=5)
        >>> [round(v, 2) for v in found.x.tolist()]
        [0.3, 0.3]

    Cost:
        The acquisition at all points, and restarts times steps gradients with line searches. A tree with new numbers
        does not recompile.
    """
    if key is not None:
        _checks.check_key(key, "maximise_acquisition")
    acquisition = as_tree("maximise_acquisition: acquisition", acquisition, "acquisition(x)")
    _checks.check_rows("maximise_acquisition: points", points)
    _checks.check_number("maximise_acquisition: points", points, low=0.0, high=1.0)
    _checks.check_on_host("maximise_acquisition", points, acquisition)
    points = jnp.asarray(points, jnp.promote_types(jnp.result_type(points), jnp.float32))
    if points.ndim not in (2, 3):
        raise ValueError(f"maximise_acquisition: points must be [num, d] or [num, q, d], got {points.shape}.")
    restarts = min(_checks.check_count("maximise_acquisition: restarts", restarts), len(points))
    steps = _checks.check_count("maximise_acquisition: steps", steps)
    first, values = _best_of(acquisition, points, restarts)
    if values.ndim != 1:
        raise ValueError(f"maximise_acquisition: acquisition must return a scalar, got shape {values.shape[1:]}.")
    best = (first[0], values[0])
    for x in first:
        there = _to_cube(settle(jax.random.key(0), _NEGATIVE, acquisition, _from_cube(x), lbfgs(), steps))
        value = _value(acquisition, there)
        if bool(value > best[1]):  # False for NaN
            best = (there, value)
    return Result(*best)
