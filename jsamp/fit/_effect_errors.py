"""Standard errors of effects: the sandwich, from scores and Hessians of single units."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp.select._whiten import matmul, sum_rows

LOST = 1e-6  # share of the largest curvature below which a direction is not told


class Errors(NamedTuple):
    """Standard errors of the effects [K] and of their average over units; infinite where the units tell nothing."""

    effect: Any
    average: Any


def columns(features: Any, *, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations [h] of columns, none below `least` times the largest one.

    What varies by rounding alone is scaled by its size, not by its spread.
    """
    values = np.asarray(features, np.float64)
    mean, spread, size = values.mean(0), values.std(0), np.abs(values).max(0)
    spread = np.where(spread > 8 * jnp.finfo(features.dtype).eps * size, spread, 0)
    spread = np.maximum(spread, least * spread.max(initial=0))
    return mean, np.where(spread > 0, spread, np.where(size > 0, size, 1))


def in_columns(heads: Any, mean: Any, scale: Any) -> Any:
    """Heads that say of features (h - mean) / scale what these say of h."""
    mean, scale = (jnp.asarray(value, heads["baseline"].dtype) for value in (mean, scale))
    return heads | {
        "baseline": heads["baseline"] * scale, "gate": heads["gate"] * scale[:, None],
        "baseline_offset": heads["baseline_offset"] + matmul(mean, heads["baseline"]),
        "gate_offset": heads["gate_offset"] + matmul(mean, heads["gate"]),
    }  # fmt: skip


def effect_errors(loglik: Any, single: Any, heads: Any, features: Any, treated: Any, outcome: Any) -> Errors:
    """Spread the scores of the units through the inverse Hessian: theta - truth = mean H^-1 score + ...

    The average effect moves with the heads and with the units that happen to be in the trial: both are counted.
    """
    mean, scale = columns(features)
    heads = in_columns(heads, mean, scale)
    features = (features - jnp.asarray(mean, features.dtype)[None]) / jnp.asarray(scale, features.dtype)[None]
    flat, build = ravel_pytree(heads)
    hessian, scatter, cross, slope, square = (
        np.asarray(part, np.float64) for part in _sums(loglik, single, build, flat, features, treated, outcome)
    )
    n = features.shape[0]
    inverse, blind = _inverse(-hessian / n)
    covariance = inverse @ scatter @ inverse / n**2
    index = np.asarray(build(jnp.arange(flat.size, dtype=flat.dtype))["effect"]).astype(int)
    effect = np.where(blind(np.eye(flat.size)[index]), np.inf, np.sqrt(np.maximum(np.diag(covariance)[index], 0)))
    lever = slope / n
    variance = lever @ covariance @ lever + 2 * lever @ inverse @ cross / n**2 + square / n**2
    average = np.inf if blind(lever) else np.sqrt(max(variance, 0.0))
    return Errors(jnp.asarray(effect, flat.dtype), jnp.asarray(average, flat.dtype))


def _inverse(curvature: np.ndarray) -> tuple[np.ndarray, Any]:
    """The inverse in the directions of curvature, whatever their units; and whether rows have a share in the others."""
    diagonal = np.abs(np.diag(curvature))
    unit = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    values, vectors = np.linalg.eigh(unit[:, None] * curvature * unit)
    told = np.abs(values) > LOST * np.abs(values).max()
    kept, lost = vectors[:, told] * unit[:, None], vectors[:, ~told] * unit[:, None]

    def blind(rows: np.ndarray) -> np.ndarray:
        return np.linalg.norm(rows @ lost, axis=-1) > 1e-2 * np.linalg.norm(rows * unit, axis=-1)

    return kept / values[told] @ kept.T, blind


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
