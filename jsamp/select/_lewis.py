"""Lewis weights for every p."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_count, check_scalar, is_traced
from jsamp._core._mesh import over_mesh
from jsamp.select._leverage import leverage_rows
from jsamp.select._rows import check_axis, check_matrix, check_weights, over_largest, refuse_non_finite
from jsamp.select._whiten import BLOCK


class Lewis(NamedTuple):
    """Hold Lewis weights and how far they are from their fixed point.

    Args:
        weight: [n], summing to the rank.
        residual: largest |log| ratio between a weight and the leverage it should equal; 0 at the solution.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> weight, residual = js.select.lewis(jnp.eye(3), 1.5)
        >>> weight.round(5), float(residual) < 1e-4
        (Array([1., 1., 1.], dtype=float32), True)
    """

    weight: Any
    residual: Any


@functools.partial(jax.jit, static_argnames=("p", "iterations", "axis_name", "block"))
def _lewis(A, weights, p, iterations, axis_name, block):
    def rows(axis, a, w):
        return _lewis_rows(a, w, p, iterations, axis, block)

    return over_mesh(rows, axis_name, A, weights, out_specs=lambda spec: Lewis(spec, jax.P()))


def _lewis_rows(A, rows_weight, p, iterations, axis_name, block):
    relax = 2 * p / (p + 2)

    def target(log_weight, live):
        weight = jnp.where(live, jnp.exp((1 - 2 / p) * log_weight), 0)
        weight = weight if rows_weight is None else weight * rows_weight ** (2 / p)
        score = leverage_rows(A, weight, None, "auto", axis_name, block)
        return jnp.log(jnp.where(live, score, 1))

    live = jnp.any(A != 0, 1) if rows_weight is None else jnp.any(A != 0, 1) & (rows_weight > 0)
    count = jnp.sum(live)
    count = count if axis_name is None else lax.psum(count, axis_name)
    start = jnp.where(live, jnp.log(A.shape[1] / count), 0).astype(A.dtype)

    def step(log_weight, _):
        change = target(log_weight, live) - log_weight
        return jnp.where(live, log_weight + relax * change, 0), None

    log_weight, _ = lax.scan(step, start, None, length=iterations)
    final = target(log_weight, live)
    residual = jnp.max(jnp.where(live, jnp.abs(final - log_weight), 0))
    residual = residual if axis_name is None else lax.pmax(lax.stop_gradient(residual), axis_name)
    return Lewis(jnp.where(live, jnp.exp(final), 0), residual)


def lewis(
    A: Any, p: float, *, weights: Any = None, tolerance: float = 1e-4, iterations: int | None = None,
    axis_name: Any = None, block: int = BLOCK,
) -> Lewis:  # fmt: skip
    """Compute Lewis weights w_i = leverage_i(W^(1/2-1/p) A), the change of measure that makes l_p look like l_2.

    They sandwich the l_p sensitivities: d^(p/2-1) w_i <= s_i <= w_i for p <= 2, w_i <= s_i <= d^(p/2-1) w_i for
    p >= 2. The iteration is log w <- log w + r (log tau(w) - log w). r = p/2 is the map of Cohen and Peng (which
    diverges for p >= 4) and r = 1 the leverage map (which fails at p = 1); the step used, r = 2p/(p+2), balances the
    two ends of the spectrum and contracts by |p-2|/(p+2) near the solution for every p > 0.

    Args:
        A: [n, d] rows.
        p: exponent of the norm, > 0, static.
        weights: [n] >= 0 of the l_p sum, or None: weights of the rows weights_i^(1/p) a_i.
        tolerance: wanted relative accuracy, which sets the number of iterations (1e-3 is ample for sampling), static.
        iterations: the number of iterations itself, instead of `tolerance`.
        axis_name: mesh axis over which the rows are sharded.
        block: rows per block.

    Returns:
        `Lewis(weight, residual)`; zero rows have weight 0.

    Raises:
        ValueError: for p <= 0, or as `leverage`.
        TypeError: for a traced p.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> weight, residual = js.select.lewis(jnp.array([[1.0], [2.0], [-5.0]]), p=3.0)   # d = 1: |a|^p / sum |a|^p
        >>> (weight * 134).round(2)
        Array([  1.,   8., 125.], dtype=float32)

    Cost:
        One `leverage` per iteration: 12 at p = 1 and p = 4, 1 at p = 2, 30 at p = 10 for tolerance = 1e-4.

    References:
        Cohen and Peng, "l_p Row Sampling by Lewis Weights", 2015, arXiv:1412.0588.
    """
    if is_traced(p):
        raise TypeError("lewis: p is traced, but it fixes the number of iterations. Pass a Python float.")
    check_scalar("lewis: p", p, low=0, high=100, open_low=True)
    check_axis(axis_name, "lewis")
    check_count("lewis: block", block)
    check_scalar("lewis: tolerance", tolerance, low=0, high=1, open_low=True)
    A = check_matrix("lewis: A", A, tall=axis_name is None)
    weights = check_weights(weights, A.shape[0], "lewis")
    rate = abs(p - 2) / (p + 2)
    if iterations is None:
        iterations = 1 if rate < 1e-6 else math.ceil(math.log(tolerance / 10) / math.log(rate)) + 1
    check_count("lewis: iterations", iterations, low=0)
    weights = None if weights is None else over_largest(weights, axis_name).astype(A.dtype)
    found = _lewis(A, weights, float(p), iterations, axis_name, block)
    refuse_non_finite("lewis: A", A, found.weight)
    return found
