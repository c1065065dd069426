"""Metrics: the covariance-like matrix A that preconditions a kernel, through its factor A = L L^T."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jsamp._core import _checks
from jsamp._core._pytree import construct, pytree


@pytree
class DenseMetric:
    """Hold a dense metric: an estimate of the target's covariance for the flattened position.

    Kernels move in the coordinates L^-1 x with L the lower Cholesky factor, so `metric=DenseMetric(covariance)` turns
    a correlated Gaussian into a round one. A diagonal metric needs no object: pass the variances, a tree like x.

    Args:
        covariance: [d, d], symmetric positive definite, in the order of `jax.flatten_util.ravel_pytree`.

    Raises:
        ValueError: for a matrix that is not square, not symmetric or not positive definite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.mcmc.DenseMetric(4 * jnp.eye(2)).factor.tolist()
        [[2.0, 0.0], [0.0, 2.0]]

    Cost:
        One d x d triangular product per half step.
    """

    factor: Any

    def __init__(self, covariance: Any):
        _checks.check_number("DenseMetric: covariance", covariance)
        covariance = jnp.asarray(covariance, float if isinstance(covariance, int) else None)
        if not jnp.issubdtype(covariance.dtype, jnp.floating):
            covariance = covariance.astype(jnp.result_type(float))
        if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
            raise ValueError(f"DenseMetric: covariance must be [d, d], got {covariance.shape}.")
        factor = jnp.linalg.cholesky(covariance)
        known, matrix = _checks.concrete(factor), _checks.concrete(covariance)
        if known is not None and matrix is not None:
            scale = abs(matrix).max()
            if not jnp.all(jnp.isfinite(known)) or abs(matrix - matrix.T).max() > 1e-4 * scale:
                raise ValueError("DenseMetric: covariance must be symmetric and positive definite. Add a small ridge.")
        construct(self, factor=factor)


def _dense(matrix, tree):
    flat, unravel = ravel_pytree(tree)
    return unravel(jnp.matmul(matrix, flat, precision="highest"))


def push(metric: Any, r: Any) -> Any:
    """L r: from whitened to position coordinates."""
    if metric is None:
        return r
    if isinstance(metric, DenseMetric):
        return _dense(metric.factor, r)
    if is_scalar(metric):
        return jax.tree.map(lambda leaf: jnp.sqrt(metric) * leaf, r)
    return jax.tree.map(lambda m, leaf: jnp.sqrt(m) * leaf, metric, r)


def pull(metric: Any, g: Any) -> Any:
    """L^T g: a gradient in whitened coordinates."""
    return _dense(metric.factor.T, g) if isinstance(metric, DenseMetric) else push(metric, g)


def whiten(metric: Any, x: Any) -> Any:
    """L^-1 x: from position to whitened coordinates."""
    if isinstance(metric, DenseMetric):
        flat, unravel = ravel_pytree(x)
        return unravel(jax.scipy.linalg.solve_triangular(metric.factor, flat, lower=True))
    if metric is None:
        return x
    if is_scalar(metric):
        return jax.tree.map(lambda leaf: leaf / jnp.sqrt(metric), x)
    return jax.tree.map(lambda m, leaf: leaf / jnp.sqrt(m), metric, x)


def is_scalar(metric: Any) -> bool:
    """Whether the metric is one number."""
    return jax.tree.structure(metric) == jax.tree.structure(0) and jnp.shape(metric) == ()


def check_metric(name: str, metric: Any, x: Any = None) -> None:
    """Refuse a metric that is not positive or, with x given, does not fit the position."""
    if metric is None:
        return
    if not isinstance(metric, DenseMetric):
        for leaf in jax.tree.leaves(metric):
            _checks.check_number(name, leaf, low=0, open_low=True)
    if x is None or is_scalar(metric):
        return
    if isinstance(metric, DenseMetric):
        size = sum(leaf.size for leaf in jax.tree.leaves(x))
        if metric.factor.shape[-1] != size:
            raise ValueError(f"{name} is a matrix for {metric.factor.shape[-1]} numbers, x has {size}.")
        return
    shapes = [jax.tree.map(jnp.shape, tree, is_leaf=lambda leaf: leaf is None) for tree in (metric, x)]
    if jax.tree.structure(metric) != jax.tree.structure(x) or shapes[0] != shapes[1]:
        raise ValueError(f"{name} must be a tree like x, {shapes[1]}; got {shapes[0]}. Use DenseMetric for a matrix.")
