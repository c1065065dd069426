"""Mixtures of Gaussian proposals: densities, draws, cross-entropy fits, best shares."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core._types import Key


class Mixture(NamedTuple):
    """J Gaussians with shares and control multiples: log_alpha [J], beta [J], mean [J, d], factor [J, d, d]."""

    log_alpha: Any
    beta: Any
    mean: Any
    factor: Any


def log_densities(mixture: Mixture, x: jax.Array) -> jax.Array:
    """Log densities [n, J] of the Gaussians at points [n, d]."""
    d = x.shape[1]

    def one(mean, factor):
        z = jax.scipy.linalg.solve_triangular(factor, (x - mean[None]).T, lower=True)
        return -0.5 * jnp.sum(z**2, 0) - jnp.sum(jnp.log(jnp.diagonal(factor))) - d / 2 * math.log(2 * math.pi)

    return jax.lax.map(lambda pair: one(*pair), (mixture.mean, mixture.factor)).T


def mixture_points(key: Key, mixture: Mixture, index: jax.Array) -> jax.Array:
    """Points [n, d], each drawn from the Gaussian that `index` [n] names."""
    z = jax.random.normal(key, (index.shape[0], mixture.mean.shape[1]), mixture.mean.dtype)
    return mixture.mean[index] + jnp.sum(mixture.factor[index] * z[:, None, :], 2)


def fit_gaussians(mass: jax.Array, x: jax.Array, live: jax.Array, diagonal: bool) -> tuple[jax.Array, jax.Array]:
    """Weighted means [J, d] and Cholesky factors [J, d, d] of points, each column of `mass` [n, J] one set of weights.

    Variances are raised by 1e-6 of the points' own; a column without mass gets the points' own moments.
    """
    count = jnp.sum(live)
    plain = live / count
    middle = jnp.sum(plain[:, None] * x, 0)
    own = jnp.sum(plain[:, None] * (x - middle[None]) ** 2, 0)
    own = jnp.where(own > 0, own, 1)
    total = jnp.sum(mass, 0)
    weight = jnp.where(total[None] > 0, mass / jnp.where(total > 0, total, 1)[None], plain[:, None])

    def one(w):
        mean = jnp.sum(w[:, None] * x, 0)
        gap = x - mean[None]
        covariance = jnp.matmul((w[:, None] * gap).T, gap, precision="highest")
        spread = jnp.diagonal(covariance) + 1e-6 * own
        if diagonal:
            return mean, jnp.diag(jnp.sqrt(spread))
        # Factor the correlations: their scale does not depend on units.
        unit = jnp.sqrt(spread)
        size = unit.shape[0]
        correlation = covariance / unit[:, None] / unit[None]
        off = ~jnp.eye(size, dtype=bool)
        # Shrink by the share of the squared correlations that noise of size 1 / ess explains: proposals with too light
        # tails in some direction cost more than lost correlations.
        noise = jnp.sum(w**2) * size * (size - 1)
        keep = 1 - jnp.minimum(noise / jnp.maximum(jnp.sum(jnp.where(off, correlation**2, 0)), 1e-30), 1)
        correlation = jnp.where(off, keep * correlation, 1 + 1e-5)
        return mean, unit[:, None] * jnp.linalg.cholesky(correlation)

    return jax.lax.map(one, weight.T)


def best_shares(cost: jax.Array, proposals: jax.Array, live: jax.Array, start: jax.Array, steps: int = 50) -> jax.Array:
    """Shares alpha [J] that minimise mean(cost / sum_k alpha_k proposals_k) by a multiplicative update.

    Each step multiplies alpha_k by the square root of the derivative and normalises: the criterion never rises.
    """
    smallest = jnp.finfo(proposals.dtype).tiny

    def update(_, alpha):
        mix = jnp.sum(alpha[None] * proposals, 1)
        pull = jnp.where(live & (mix > smallest), cost / jnp.maximum(mix, smallest) ** 2, 0)
        pull = pull / jnp.maximum(jnp.max(pull), smallest)
        alpha = alpha * jnp.sqrt(jnp.sum(pull[:, None] * proposals, 0))
        alpha = alpha / jnp.sum(alpha)
        return jnp.where(jnp.all(jnp.isfinite(alpha)), alpha, start)

    return jax.lax.fori_loop(0, steps, update, start)
