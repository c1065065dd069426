"""Partitions without a number of clusters: k-means proposes, a mixture of Gaussians validates."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_count, check_key
from jsamp._core._types import Array, Key, Result, Scalar
from jsamp.fit._kmeans import Cloud, as_cloud, lloyd, measured, seeds
from jsamp.fit._mixture import criterion, em, from_labels, in_units, likeliest
from jsamp.fit._partition import adjusted_rand, by_position
from jsamp.select._neighbors import squared_distances
from jsamp.select._rows import as_scalar, check_matrix, check_weights


class Partition(NamedTuple):
    """Hold clusters of rows and the mixture that validated them, in `most` slots.

    Args:
        labels: [n] int32, the cluster of every row, in 0..num-1; clusters are numbered by the first coordinate of their
            centres.
        centers: [most, d]; slots from `num` on hold 0.
        mixture: a `Mixture` of `most` components, of which those from `num` on have weight 0.
        num: number of clusters, an integer array.

    Example:
        >>> import jsamp as js
        >>> js.fit.Partition(labels=[0, 0], centers=[[0.0]], mixture=None, num=1).num
        1
    """

    labels: Any
    centers: Any
    mixture: Any
    num: Any


class PPPInfo(NamedTuple):
    """Report a fit of `ppp`, one entry for each number of clusters 1..most.

    Args:
        agreement: [most] share of the rows whose likeliest component is their k-means cluster.
        stability: [most] mean adjusted Rand index of the restarts with the cheapest partition.
        bic: [most] information criterion of the mixtures; smaller is better.
        cost: [most] sum of weighted squared distances to the centres.
        ok: whether the smallest criterion of all lies below `most`: raise `most` where it does not.

    Example:
        >>> import jsamp as js
        >>> js.fit.PPPInfo(agreement=[1.0], stability=[1.0], bic=[3.0], cost=[2.0], ok=True).ok
        True
    """

    agreement: Any
    stability: Any
    bic: Any
    cost: Any
    ok: Any


def ppp(
    key: Key,
    X: Array,
    *,
    most: int = 10,
    restarts: int = 8,
    accept: Scalar = 0.8,
    weights: Array | None = None,
    steps: int = 100,
) -> Result:
    """Partition rows without being told the number of clusters: k-means proposes, a mixture of Gaussians validates.

    For every k up to `most`, k-means runs from `restarts` greedy seeds and once from rows that cover the cloud; the
    cheapest partition is the proposal. It is valid when agreement times stability (`PPPInfo`) reaches `accept`; one
    cluster always is. Of the valid ones the mixture with the smallest information criterion wins. This is our reading
    of an abstract: the paper's procedure is not public. Clusters are taken for Gaussians: a flat bar five times as long
    as wide is cut in two or three, and two long streaks side by side, which k-means cuts across, stay one.

    Args:
        key: one key.
        X: [n, d] rows.
        most: largest number of clusters, static.
        restarts: runs of k-means per number of clusters, at least 2; static.
        accept: agreement times stability wanted, in [0, 1].
        weights: [n] >= 0, or None: how often each row counts.
        steps: most iterations of k-means, and of the mixtures; static.

    Returns:
        `Result(Partition, PPPInfo)`. Rows, keys and numbers may be traced.

    Raises:
        ValueError: for a non-finite X, most > n, fewer than 2 restarts, an accept outside [0, 1], or bad weights.
        TypeError: for integers where rows are wanted, or something that is no key.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> spread = jax.random.normal(jax.random.key(0), (60, 2))
        >>> X = spread + jnp.repeat(jnp.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), 20, axis=0)
        >>> found, info = js.fit.ppp(jax.random.key(1), X, most=4)
        >>> int(found.num), jnp.bincount(found.labels).tolist()
        (3, [20, 20, 20])

    Cost:
        most * (restarts + 1) runs of k-means and `most` of expectation-maximisation, all at the size of `most`
        clusters, in one program: other rows, keys and numbers of one shape compile nothing.

    References:
        Sultan, "Probabilistic partitive partitioning (PPP)", 2020, arXiv:2003.04372.
    """
    check_key(key, "ppp")
    X = check_matrix("ppp: X", X, tall=False)
    most, steps = check_count("ppp: most", most, high=X.shape[0]), check_count("ppp: steps", steps)
    restarts = check_count("ppp: restarts", restarts, low=2)
    accept = as_scalar("ppp: accept", accept, low=0, high=1)
    weights = check_weights(weights, X.shape[0], "ppp")
    return Result(*_ppp(key, X, weights, accept, most, restarts, steps))


@functools.partial(jax.jit, static_argnames=("most", "restarts", "steps"))
def _ppp(key, X, weights, accept, most, restarts, steps):
    cloud = as_cloud(X, weights)
    starts = lax.map(lambda k: seeds(k, cloud, most), jax.random.split(key, restarts))
    starts = jnp.concatenate([starts, _cover(cloud, most)[None]])
    trials = lax.map(lambda k: _trial(cloud, starts, jnp.arange(most) < k, steps), jnp.arange(1, most + 1))
    score = trials.agreement * trials.stability
    valid = (score >= accept).at[0].set(True)
    best = jnp.argmin(jnp.where(valid, trials.bic, jnp.inf))
    won = jax.tree.map(lambda leaf: leaf[best], trials)
    live = jnp.arange(most) <= best
    order = by_position(won.centers, live)
    rank = jnp.argsort(order).astype(jnp.int32)
    centers = jnp.where(live[:, None], won.centers[order] / cloud.unit + cloud.origin[None], 0)
    found = Partition(rank[won.label], centers, in_units(cloud, won.mixture, order), best.astype(jnp.int32) + 1)
    cost = trials.cost * cloud.total / cloud.unit / cloud.unit
    return found, PPPInfo(trials.agreement, trials.stability, trials.bic, cost, jnp.argmin(trials.bic) + 1 < most)


class _Trial(NamedTuple):
    """A number of clusters tried: its cheapest partition, its mixture, and what is said of them."""

    label: Any
    centers: Any
    mixture: Any
    agreement: Any
    stability: Any
    bic: Any
    cost: Any


def _trial(cloud: Cloud, starts: jax.Array, live: jax.Array, steps: int) -> _Trial:
    most = live.shape[0]

    def run(start):
        end = lloyd(cloud, start, live, 0.0, steps)
        return measured(cloud, end.centers, live)[0], end

    labels, runs = lax.map(run, starts)
    best = jnp.argmin(runs.cost)
    label, centers = labels[best], runs.centers[best]
    alike = lax.map(lambda other: adjusted_rand(label, other, most, cloud.share), labels)
    stability = (jnp.sum(alike) - alike[best]) / (starts.shape[0] - 1)
    begin, floor = from_labels(cloud, label, most, "full", 1e-6)
    fitted = em(cloud, begin, live, "full", floor, 1e-5, steps)
    agreement = jnp.sum(cloud.share * (likeliest(cloud.rows, fitted.mixture) == label))
    loglikelihood = fitted.loglikelihood + centers.shape[1] * jnp.log(cloud.unit)
    bic = criterion(cloud, loglikelihood, live, centers.shape[1], "full")
    return _Trial(label, centers, fitted.mixture, agreement, stability, bic, runs.cost[best])


def _cover(cloud: Cloud, num: int) -> jax.Array:
    """Rows [num, d] that cover the cloud, each the farthest from those before: no key decides them."""
    rows = cloud.rows
    here = cloud.share > 0

    def step(near, _):
        row = rows[jnp.argmax(jnp.where(here, near, -1))]
        return jnp.minimum(near, squared_distances(row[None], rows)[0]), row

    first = rows[jnp.argmax(jnp.where(here, jnp.sum(rows * rows, 1), -1))]
    near = squared_distances(first[None], rows)[0]
    return jnp.concatenate([first[None], lax.scan(step, near, None, length=num - 1)[1]])
