"""Standard errors of effects: the sandwich, from scores and Hessians of single units."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp.select._whiten import sum_rows


class Errors(NamedTuple):
    """Standard errors of the effects [K], and the parts of that of their average over units."""

    effect: Any
    variance: Any


def effect_errors(loglik: Any, single: Any, heads: Any, features: Any, treated: Any, outcome: Any) -> Errors:
    """Spread the scores of the units through the inverse Hessian: theta - truth = mean H^-1 score + ...

    The average effect moves with the heads and with the units that happen to be in the trial: both are counted.
    """
    flat, build = ravel_pytree(heads)
    hessian, scatter, cross, slope, square = (
        np.asarray(part, np.float64) for part in _sums(loglik, single, build, flat, features, treated, outcome)
    )
    n = features.shape[0]
    inverse = np.linalg.pinv(-hessian / n, rcond=1e-6, hermitian=True)
    covariance = inverse @ scatter @ inverse / n**2
    index = np.asarray(build(jnp.arange(flat.size, dtype=flat.dtype))["effect"]).astype(int)
    effect = np.sqrt(np.maximum(np.diag(covariance)[index], 0))
    lever = slope / n
    variance = lever @ covariance @ lever + 2 * lever @ inverse @ cross / n**2 + square / n**2
    return Errors(jnp.asarray(effect, flat.dtype), variance)


def average_error(errors: Errors) -> jax.Array:
    """The standard error of the average effect."""
    return jnp.asarray(np.sqrt(max(float(errors.variance), 0.0)), errors.effect.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sums(loglik, single, build, flat, features, treated, outcome):
    """Sums over units: Hessians, squares of scores, scores times deviations of effects, and slopes of effects."""
    of_unit = lambda theta, *unit: loglik(build(theta), *unit)
    effect = lambda theta, row: single(build(theta), row)
    middle = jnp.mean(jax.lax.map(lambda row: effect(flat, row), features, batch_size=1024))

    def part(features, treated, outcome):
        scores = jax.vmap(jax.grad(of_unit), (None, 0, 0, 0))(flat, features, treated, outcome)
        whole = lambda theta: jnp.sum(jax.vmap(of_unit, (None, 0, 0, 0))(theta, features, treated, outcome))
        away = jax.vmap(effect, (None, 0))(flat, features) - middle
        slope = jax.grad(lambda theta: jnp.sum(jax.vmap(effect, (None, 0))(theta, features)))(flat)
        outer = jnp.matmul(scores.T, scores, precision="highest")
        return jax.hessian(whole)(flat), outer, jnp.matmul(away, scores, precision="highest"), slope, jnp.sum(away**2)

    return sum_rows(part, features, treated, outcome, block=1024)
