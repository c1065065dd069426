"""Scores for coresets of clustering."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_count, check_key
from jsamp._core._mesh import over_mesh
from jsamp._core._types import Key
from jsamp.select._draw import draw_categorical
from jsamp.select._neighbors import squared_distances
from jsamp.select._rows import check_axis, check_matrix, check_weights, inverse_power, power_of_two
from jsamp.select._whiten import map_rows


def lightweight(X: Any, *, weights: Any = None, axis_name: Any = None) -> jax.Array:
    """Score rows for the lightweight coreset of k-means: q_i = 1/(2n) + |x_i - mean|^2 / (2 sum |x_j - mean|^2).

    With weights, q_i = w_i / (2 sum w_j) + w_i |x_i - mean|^2 / (2 sum w_j |x_j - mean|^2) about the weighted mean.

    Args:
        X: [n, d] rows.
        weights: [n] >= 0, or None: how often each row counts.
        axis_name: mesh axis over which the rows are sharded.

    Returns:
        [n] scores summing to 1 over all shards.

    Raises:
        ValueError: for a non-finite X, or bad weights.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.select.lightweight(jnp.array([[0.0], [0.0], [3.0]])).round(4)
        Array([0.25, 0.25, 0.5 ], dtype=float32)

    Cost:
        Two passes over the rows.

    References:
        Bachem, Lucic and Krause, "Scalable k-Means Clustering via Lightweight Coresets", 2018, arXiv:1702.08248.
    """
    X = check_matrix("lightweight: X", X, tall=False)
    check_axis(axis_name, "lightweight")
    weights = check_weights(weights, X.shape[0], "lightweight")
    return _lightweight(X, None if weights is None else weights.astype(X.dtype), axis_name)


@functools.partial(jax.jit, static_argnames=("axis_name",))
def _lightweight(X, weights, axis_name):
    return over_mesh(_lightweight_rows, axis_name, X, weights)


def _lightweight_rows(axis_name, X, weights):
    def total(x):
        return x if axis_name is None else lax.psum(x, axis_name)

    def largest(x):
        return lax.stop_gradient(x if axis_name is None else lax.pmax(x, axis_name))

    X = X * inverse_power(largest(jnp.max(jnp.abs(X))))
    share = jnp.ones_like(X[:, 0]) if weights is None else weights / largest(jnp.max(weights))
    share = share / total(jnp.sum(share))
    mean = total(jnp.sum(X * share[:, None], 0))
    distance = share * jnp.sum((X - mean[None]) ** 2, 1)
    mass = total(jnp.sum(distance))
    return 0.5 * share + jnp.where(mass > 0, 0.5 * distance / jnp.where(mass > 0, mass, 1), 0.5 * share)


def kmeans_seeds(key: Key, X: Any, num: int, *, weights: Any = None) -> jax.Array:
    """Draw k-means++ seeds: each next row with probability proportional to its squared distance to the seeds.

    Args:
        key: one JAX key.
        X: [n, d] rows.
        num: seeds, static.
        weights: [n] >= 0, or None: how often each row counts; probabilities are multiplied by them.

    Returns:
        [num] row numbers, distinct while some row (of positive weight) is away from all seeds.

    Raises:
        ValueError: for a non-finite X, num > n, or bad weights.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.array([[0.0], [0.0], [9.0], [9.0]])
        >>> sorted(X[js.select.kmeans_seeds(jax.random.key(0), X, 2), 0].tolist())
        [0.0, 9.0]

    Cost:
        num passes over the rows.

    References:
        Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    """
    check_key(key, "kmeans_seeds")
    X = check_matrix("kmeans_seeds: X", X, tall=False)
    check_count("kmeans_seeds: num", num, high=X.shape[0])
    weights = check_weights(weights, X.shape[0], "kmeans_seeds")
    return _seeds(key, X, weights, num)


@functools.partial(jax.jit, static_argnames=("num",))
def _seeds(key, X, weights, num):
    X = X * power_of_two(X)
    keys = jax.random.split(key, num)
    if weights is None:
        share = jnp.ones_like(X[:, 0])
        first = jax.random.randint(keys[0], (), 0, X.shape[0])
    else:
        share = (weights / jnp.max(weights)).astype(X.dtype)
        first = draw_categorical(keys[0], jnp.log(share))

    def away(index):
        return squared_distances(X[index][None], X)[0]

    def step(distance, k):
        mass = distance * share
        live = mass > 0
        logits = jnp.where(live, jnp.log(jnp.where(live, mass, 1)), -jnp.inf)
        index = draw_categorical(k, jnp.where(jnp.any(live), logits, jnp.log(share)))
        return jnp.minimum(distance, away(index)), index

    _, rest = lax.scan(step, away(first), keys[1:])
    return jnp.concatenate([first[None].astype(jnp.int32), rest])


def kmeans_scores(X: Any, centers: Any, *, weights: Any = None) -> jax.Array:
    """Bound the k-means sensitivities from above, given a rough clustering (k-means++ seeds are enough).

    With a = 16 (ln k + 2), D_i the squared distance of row i to its centre, C the mean of D, and B the row's cluster:
    s_i = a D_i / C + 2 a mean_B(D) / C + 4 n / |B|. A subset drawn by s keeps the cost of every set of k centres. With
    weights, a row counts w_i times: means and sizes are weighted, and s_i is multiplied by w_i / mean(w).

    Args:
        X: [n, d] rows.
        centers: [k, d], for example `X[kmeans_seeds(key, X, k)]`.
        weights: [n] >= 0, or None: how often each row counts.

    Returns:
        [n] scores.

    Raises:
        ValueError: for a non-finite X, columns that do not match, or bad weights.

    Example:
        >>> import jax, jsamp as js
        >>> X = jax.random.normal(jax.random.key(0), (500, 2))
        >>> scores = js.select.kmeans_scores(X, X[js.select.kmeans_seeds(jax.random.key(1), X, 5)])
        >>> scores.shape, bool(scores.min() > 0)
        ((500,), True)

    Cost:
        One pass over n x k distances.

    References:
        Bachem, Lucic and Krause, "Practical Coreset Constructions for Machine Learning", 2017, arXiv:1703.06476.
    """
    X = check_matrix("kmeans_scores: X", X, tall=False)
    centers = check_matrix("kmeans_scores: centers", centers, tall=False)
    if centers.shape[1] != X.shape[1]:
        raise ValueError(f"kmeans_scores: centers has {centers.shape[1]} columns, X {X.shape[1]}; make them agree.")
    weights = check_weights(weights, X.shape[0], "kmeans_scores")
    return _scores(X, centers, weights)


@jax.jit
def _scores(X, centers, weights):
    k = centers.shape[0]
    unit = jnp.minimum(power_of_two(X), power_of_two(centers))
    X, centers = X * unit, centers * unit
    share = jnp.ones_like(X[:, 0]) if weights is None else (weights / jnp.max(weights)).astype(X.dtype)

    def assign(rows):
        distance = squared_distances(rows, centers)
        return jnp.argmin(distance, 1), jnp.min(distance, 1)

    label, distance = map_rows(assign, X)
    size = jnp.zeros((k,), X.dtype).at[label].add(share)
    spread = jnp.zeros((k,), X.dtype).at[label].add(distance * share) / jnp.where(size > 0, size, 1)
    total = jnp.sum(share)
    mean = jnp.sum(distance * share) / total
    mean = jnp.where(mean > 0, mean, 1)
    factor = 16 * (math.log(k) + 2)
    safe = jnp.where(size[label] > 0, size[label], 1)
    score = factor * distance / mean + 2 * factor * spread[label] / mean + 4 * total / safe
    return score * share * (X.shape[0] / total)
