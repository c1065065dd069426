"""Where samples lie against a reference: precision, recall, density, coverage, memorisation."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jsamp._core import _checks
from jsamp.estimate import _arrays
from jsamp.estimate._pairs import centred, is_small, measured, neighbour_distances, pair_sums, squared
from jsamp.estimate._types import Estimate

TILE = 512
"""Rows of both sets in a tile of distances across."""


class PrecisionRecall(NamedTuple):
    """Hold fidelity and variety of samples.

    Args:
        precision: `Estimate` of the share of samples inside the support of the reference.
        recall: `Estimate` of the share of the reference inside the support of the samples.

    Example:
        >>> import jax, jsamp as js
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 100, 2))
        >>> js.estimate.precision_recall(x, y)._fields
        ('precision', 'recall')
    """

    precision: Any
    recall: Any


class DensityCoverage(NamedTuple):
    """Hold fidelity and variety of samples, robust to outliers of the reference.

    Args:
        density: `Estimate` of the mean number of reference balls that hold a sample, over k; about 1 for equal laws.
        coverage: the share of reference balls that hold a sample, a number: no honest error of it is known here.

    Example:
        >>> import jax, jsamp as js
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 100, 2))
        >>> js.estimate.density_coverage(x, y)._fields
        ('density', 'coverage')
    """

    density: Any
    coverage: Any


def _share(hits):
    """A mean of rows with its error."""
    n, hits = hits.shape[0], hits.astype(jnp.float32)
    return Estimate(jnp.mean(hits), jnp.std(hits, ddof=1) / math.sqrt(n), jnp.asarray(n, jnp.float32))


def _in_both(exact, a, b):
    """Whether rows of a lie in balls of b, and rows of b in balls of a; sets are (rows, squared radii)."""
    distance = squared(a[0], b[0], exact)
    return (distance <= b[1][None]).astype(distance.dtype), (distance <= a[1][:, None]).astype(distance.dtype)


def _in_second(exact, a, b):
    return (squared(a, b[0], exact) <= b[1][None]).astype(a.rows.dtype)  # a ball holds its rim


@functools.partial(jax.jit, static_argnames=("k", "block"))
def _precision_recall(x, y, k, block):
    exact, (x, y) = is_small(x, y), (measured(rows) for rows in centred(x, y)[:2])
    first, second = ((rows, neighbour_distances(rows, rows, k, block, same=True)) for rows in (x, y))
    hits = pair_sums(Partial(_in_both, exact), first, second, TILE)
    return PrecisionRecall(*(_share(many > 0) for many in hits))


@functools.partial(jax.jit, static_argnames=("k", "block"))
def _density_coverage(x, y, k, block):
    exact, (x, y) = is_small(x, y), (measured(rows) for rows in centred(x, y)[:2])
    radius = neighbour_distances(y, y, k, block, same=True)
    holding, held = pair_sums(Partial(_in_second, exact), x, (y, radius), TILE)
    return DensityCoverage(_share(holding / k), jnp.mean(held > 0))


def _check(who, x, y, k, block):
    x, y = _arrays.two_samples(who, x, y, low=3)
    low = min(x.shape[0], y.shape[0]) - 1
    return x, y, _checks.check_count(f"{who}: k", k, high=low), _checks.check_count(f"{who}: block", block)


def precision_recall(x: Any, y: Any, *, k: int = 3, block: int = 32) -> PrecisionRecall:
    """Estimate precision and recall of samples: which share lies in the other set's support.

    The support of a set is the union of balls around its rows up to their k-th nearest other row. Precision is the
    share of x in the support of y, recall the share of y in the support of x. Errors are those of the counted rows
    given the set whose balls they are.

    Args:
        x: [n, ...] features of samples.
        y: [m, ...] features of the reference.
        k: neighbours (static), below n and m.
        block: rows at a time (static).

    Returns:
        `PrecisionRecall` of two `Estimate`s.

    Raises:
        ValueError: for too few rows, features that differ, NaN, or k out of range.

    Example:
        >>> import jax, jsamp as js
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 300, 2))
        >>> found = js.estimate.precision_recall(0.1 * x, y)  # all inside, little of the reference reached
        >>> bool(found.precision.value > 0.95), bool(found.recall.value < 0.3)
        (True, True)

    Cost:
        n^2 + m^2 + n m distances in blocks.

    References:
        Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", 2019,
        arXiv:1904.06991.
    """
    return _precision_recall(*_check("precision_recall", x, y, k, block))


def density_coverage(x: Any, y: Any, *, k: int = 5, block: int = 32) -> DensityCoverage:
    """Estimate density and coverage of samples: how the balls of the reference fill.

    Density is the mean number of reference balls that hold a sample, over k; coverage the share of reference balls that
    hold some sample. Balls of the reference alone count, so one outlier among the samples changes nothing. The error of
    the density is that of the samples given the reference. The coverage has none: near balls share rows, so that errors
    of independent ones were found up to half short, and the jackknife's half as large again and more.

    Args:
        x: [n, ...] features of samples.
        y: [m, ...] features of the reference.
        k: neighbours (static), below m.
        block: rows at a time (static).

    Returns:
        `DensityCoverage` of an `Estimate` and a number.

    Raises:
        ValueError: for too few rows, features that differ, NaN, or k out of range.

    Example:
        >>> import jax, jsamp as js
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 500, 2))
        >>> found = js.estimate.density_coverage(x, y)
        >>> bool(abs(found.density.value - 1) < 0.15), bool(found.coverage > 0.9)
        (True, True)

    Cost:
        m^2 + n m distances in blocks.

    References:
        Naeem et al., "Reliable fidelity and diversity metrics for generative models", 2020, arXiv:2002.09797.
    """
    return _density_coverage(*_check("density_coverage", x, y, k, block))


@functools.partial(jax.jit, static_argnames="block")
def _nearest_ratio(x, train, test, block):
    n = x.shape[0]
    both, train, _ = centred(jnp.concatenate([x, test]), train)
    distance = jnp.sqrt(neighbour_distances(measured(both), measured(train), 1, block, same=False))
    above, below = distance[:n], distance[n:]
    apart = jnp.mean(below)
    same, safe = jnp.mean(above) == apart, jnp.where(apart > 0, apart, 1)
    # Copies on both sides are as near as each other; copies among the test rows alone are infinitely nearer.
    ratio = jnp.where(apart > 0, jnp.mean(above) / safe, jnp.where(same, 1, jnp.inf))
    one, other = (_arrays.deviation(v, 0) / math.sqrt(len(v)) / safe for v in (above, below))
    error = jnp.where(apart > 0, jnp.hypot(one, ratio * other), jnp.where(same, 0, jnp.inf))
    return Estimate(ratio, error, jnp.asarray(min(n, test.shape[0]), ratio.dtype))


def nearest_ratio(x: Any, train: Any, test: Any, *, block: int = 32) -> Estimate:
    """Estimate whether samples repeat training rows: their mean distance to the nearest of these, over a test row's.

    1 is what fresh data give; clearly below 1 (0.9, say) is suspicious, 0 are copies.

    Args:
        x: [n, ...] samples.
        train: [m, ...] training rows.
        test: [l, ...] rows of the same law that were not trained on.
        block: rows at a time (static).

    Returns:
        `Estimate` of the ratio, given the training rows; infinite where the test rows are copies too.

    Raises:
        ValueError: for fewer than 2 rows, features that differ, or NaN.

    Example:
        >>> import jax, jsamp as js
        >>> x, train, test = jax.random.normal(jax.random.key(0), (3, 300, 5))
        >>> fresh = js.estimate.nearest_ratio(x, train, test)
        >>> copied = js.estimate.nearest_ratio(train[:50], train, test)
        >>> bool(abs(fresh.value - 1) < 4 * fresh.stderr), float(copied.value)
        (True, 0.0)

    Cost:
        (n + l) m distances in blocks.
    """
    x, train = _arrays.two_samples("nearest_ratio", x, train)
    test, _ = _arrays.two_samples("nearest_ratio", test, train)
    kind = jnp.result_type(x, train, test)
    block = _checks.check_count("nearest_ratio: block", block)
    return _nearest_ratio(x.astype(kind), train.astype(kind), test.astype(kind), block)
