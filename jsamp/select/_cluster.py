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
from jsamp.select._draw import draw_categorical
from jsamp.select._leverage import check_matrix
from jsamp.select._neighbors import squared_distances
from jsamp.select._whiten import map_rows


def lightweight(X: Any, *, axis_name: Any = None) -> jax.Array:
    """Scores of the lightweight coreset for k-means: q_i = 1/(2n) + |x_i - mean|^2 / (2 sum |x_j - mean|^2).

    Args:
        X: [n, d] rows.
        axis_name: mesh axis over which the rows are sharded.

    Returns:
        [n] scores summing to 1 over all shards.

    Raises:
        ValueError: for a non-finite X.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> select.lightweight(jnp.array([[0.0], [0.0], [3.0]])).round(4)
        Array([0.25, 0.25, 0.5 ], dtype=float32)

    Cost: two passes over the rows.

    References:
        Bachem, Lucic and Krause, "Scalable k-Means Clustering via Lightweight Coresets", 2018, arXiv:1702.08248.
    """
    return _lightweight(check_matrix(X, "lightweight", tall=False), axis_name)


@functools.partial(jax.jit, static_argnames=("axis_name",))
def _lightweight(X, axis_name):
    return over_mesh(_lightweight_rows, axis_name, X)


def _lightweight_rows(axis_name, X):
    def total(x):
        return x if axis_name is None else lax.psum(x, axis_name)

    n = total(jnp.asarray(X.shape[0], X.dtype))
    mean = total(jnp.sum(X, 0)) / n
    distance = jnp.sum((X - mean[None]) ** 2, 1)
    mass = total(jnp.sum(distance))
    return 0.5 / n + jnp.where(mass > 0, 0.5 * distance / jnp.where(mass > 0, mass, 1), 0.5 / n)


def kmeans_seeds(key: jax.Array, X: Any, num: int) -> jax.Array:
    """k-means++ seeds: each next row is drawn with probability proportional to its squared distance to the seeds.

    Args:
        key: one JAX key.
        X: [n, d] rows.
        num: seeds, static.

    Returns:
        [num] row numbers, distinct while some row is away from all seeds.

    Raises:
        ValueError: for a non-finite X, or num > n.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp.select as select
        >>> X = jnp.array([[0.0], [0.0], [9.0], [9.0]])
        >>> sorted(X[select.kmeans_seeds(jax.random.key(0), X, 2), 0].tolist())
        [0.0, 9.0]

    Cost: num passes over the rows.

    References:
        Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    """
    check_key(key, "kmeans_seeds")
    X = check_matrix(X, "kmeans_seeds", tall=False)
    check_count("kmeans_seeds: num", num, high=X.shape[0])
    return _seeds(key, X, num)


@functools.partial(jax.jit, static_argnames=("num",))
def _seeds(key, X, num):
    keys = jax.random.split(key, num)
    first = jax.random.randint(keys[0], (), 0, X.shape[0])

    def away(index):
        return jnp.sum((X - X[index][None]) ** 2, 1)

    def step(distance, k):
        live = jnp.any(distance > 0)
        logits = jnp.where(distance > 0, jnp.log(jnp.where(distance > 0, distance, 1)), -jnp.inf)
        index = draw_categorical(k, jnp.where(live, logits, 0))
        return jnp.minimum(distance, away(index)), index

    _, rest = lax.scan(step, away(first), keys[1:])
    return jnp.concatenate([first[None].astype(jnp.int32), rest])


def kmeans_scores(X: Any, centers: Any) -> jax.Array:
    """Upper bounds of the k-means sensitivities, given a rough clustering (k-means++ seeds are enough).

    With a = 16 (ln k + 2), D_i the squared distance of row i to its centre, C the mean of D, and B the row's cluster:
    s_i = a D_i / C + 2 a mean_B(D) / C + 4 n / |B|. A subset drawn by s keeps the cost of every set of k centres.

    Args:
        X: [n, d] rows.
        centers: [k, d], for example `X[kmeans_seeds(key, X, k)]`.

    Returns:
        [n] scores.

    Raises:
        ValueError: for a non-finite X or columns that do not match.

    Example:
        >>> import jax, jsamp.select as select
        >>> X = jax.random.normal(jax.random.key(0), (500, 2))
        >>> scores = select.kmeans_scores(X, X[select.kmeans_seeds(jax.random.key(1), X, 5)])
        >>> scores.shape, bool(scores.min() > 0)
        ((500,), True)

    Cost: one n x k x d product.

    References:
        Bachem, Lucic and Krause, "Practical Coreset Constructions for Machine Learning", 2017, arXiv:1703.06476.
    """
    X = check_matrix(X, "kmeans_scores", tall=False)
    centers = check_matrix(centers, "kmeans_scores (centers)", tall=False)
    if centers.shape[1] != X.shape[1]:
        raise ValueError(f"kmeans_scores: centers has {centers.shape[1]} columns, X {X.shape[1]}; make them agree.")
    return _scores(X, centers)


@jax.jit
def _scores(X, centers):
    k, n = centers.shape[0], X.shape[0]
    shift = jnp.mean(centers, 0, keepdims=True)

    def assign(rows):
        distance = squared_distances(rows - shift, centers - shift)
        return jnp.argmin(distance, 1), jnp.min(distance, 1)

    label, distance = map_rows(assign, X)
    size = jnp.zeros((k,), X.dtype).at[label].add(1)
    spread = jnp.zeros((k,), X.dtype).at[label].add(distance) / jnp.maximum(size, 1)
    mean = jnp.mean(distance)
    mean = jnp.where(mean > 0, mean, 1)
    factor = 16 * (math.log(k) + 2)
    return factor * distance / mean + 2 * factor * spread[label] / mean + 4 * n / size[label]
