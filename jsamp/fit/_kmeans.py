"""k-means: k-means++ seeds and Lloyd's iterations, over blocks of rows."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._checks import check_count, check_key
from jsamp._core._mesh import vary
from jsamp._core._types import Array, Key, Result, Scalar
from jsamp.fit._assign import by_label, nearest_centers
from jsamp.fit._partition import by_position
from jsamp.select import draw_categorical
from jsamp.select._neighbors import squared_distances
from jsamp.select._rows import as_scalar, check_matrix, check_weights, inverse_power
from jsamp.select._whiten import map_rows, sum_rows


class KMeansInfo(NamedTuple):
    """Report a run of `kmeans`.

    Args:
        labels: [n] int32, the centre of every row.
        size: [num] weight of the rows of each centre; 0 only where there are fewer distinct rows than centres.
        cost: sum of weighted squared distances to the centres.
        steps: Lloyd's iterations of the restart that won.
        ok: whether it converged before it ran out of steps.

    Example:
        >>> import jsamp as js
        >>> js.fit.KMeansInfo(labels=[0], size=[1.0], cost=0.0, steps=1, ok=True).steps
        1
    """

    labels: Any
    size: Any
    cost: Any
    steps: Any
    ok: Any


SAMPLE = 1001  # rows, evenly spread, whose median is the origin


class Cloud(NamedTuple):
    """Hold rows centred and scaled, (X - origin) * unit, with shares that sum to 1; `variance` is a column's mean."""

    rows: Any
    share: Any
    origin: Any
    unit: Any
    total: Any
    variance: Any


def as_cloud(X: jax.Array, weights: Any) -> Cloud:
    """Centre rows on the median of some, which outliers do not move, and scale them by a power of two.

    The unit lies between the middle distance and the largest one, so that squares of neither leave floating point.
    """
    share = jnp.ones_like(X[:, 0]) if weights is None else (weights / jnp.max(weights)).astype(X.dtype)
    total = jnp.sum(share)
    share = share / total
    some = X[np.linspace(0, X.shape[0] - 1, min(SAMPLE, X.shape[0])).astype(int)]
    middle = (some.shape[0] - 1) // 2
    origin = jnp.sort(some, 0)[middle]
    top, near = jnp.max(jnp.abs(X - origin[None])), jnp.sort(jnp.max(jnp.abs(some - origin[None]), 1))[middle]
    unit = inverse_power(jnp.sqrt(top) * jnp.sqrt(jnp.where(near > 0, near, top)))
    count = total if weights is None else total * jnp.max(weights).astype(X.dtype)
    rows = (X - origin[None]) * unit
    mean = jnp.sum(share[:, None] * rows, 0)
    variance = jnp.mean(jnp.sum(share[:, None] * (rows - mean[None]) ** 2, 0))
    return Cloud(rows, share, origin, unit, count, variance)


def kmeans(
    key: Key,
    X: Array,
    num: int,
    *,
    weights: Array | None = None,
    start: Array | None = None,
    restarts: int = 1,
    steps: int = 300,
    tolerance: Scalar = 1e-4,
) -> Result:
    """Cluster rows around `num` centres: greedy k-means++ seeds, Lloyd's iterations, the cheapest restart.

    A centre that loses all its rows moves to the row farthest from its own centre. Centres are numbered by their first
    coordinate (by the next ones where that is equal), so runs that find one partition give it one set of labels. The
    label of a new row x is `js.select.nearest(centers, x).index[0]`.

    Args:
        key: one key; may be None when `start` is given.
        X: [n, d] rows.
        num: centres, static.
        weights: [n] >= 0, or None: how often each row counts.
        start: [num, d] centres to start from, instead of seeds.
        restarts: runs from fresh seeds, one after the other; static.
        steps: most iterations of a run, static.
        tolerance: a run stops when the squared moves of all centres add up to no more than this times the mean variance
            of a column. 0: when no centre moves by more than rounding.

    Returns:
        `Result(centers [num, d], KMeansInfo)`.

    Raises:
        ValueError: for a non-finite X, num > n, a start of another shape, several restarts from one start, a negative
            tolerance, or bad weights.
        TypeError: for integers where rows are wanted, or something that is no key.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.array([[0.0], [1.0], [9.0], [11.0]])
        >>> centers, info = js.fit.kmeans(jax.random.key(0), X, 2)
        >>> centers[:, 0].tolist(), info.labels.tolist(), float(info.cost)
        ([0.5, 10.0], [0, 0, 1, 1], 2.5)

    Cost:
        An iteration is one product of n x d by d x num, and a few passes over n x num, in blocks of rows; labels are
        those of direct differences, never of products that cancel. Memory: one copy of X.

    References:
        Lloyd, "Least squares quantization in PCM", 1982; Arthur and Vassilvitskii, "k-means++: the advantages of
        careful seeding", 2007.
    """
    X = check_matrix("kmeans: X", X, tall=False)
    num = check_count("kmeans: num", num, high=X.shape[0])
    restarts, steps = check_count("kmeans: restarts", restarts), check_count("kmeans: steps", steps)
    tolerance = as_scalar("kmeans: tolerance", tolerance, low=0)
    weights = check_weights(weights, X.shape[0], "kmeans")
    if start is None:
        check_key(key, "kmeans")
        starts = None
    else:
        if key is not None:
            check_key(key, "kmeans")
        starts = check_matrix("kmeans: start", start, tall=False).astype(X.dtype)[None]
        if starts.shape[1:] != (num, X.shape[1]):
            raise ValueError(f"kmeans: start must be centres of shape {(num, X.shape[1])}, got {starts.shape[1:]}.")
        if restarts != 1:
            raise ValueError(f"kmeans: {restarts} restarts from one start would all be equal. Leave one of them out.")
    return Result(*_kmeans(key, X, starts, weights, tolerance, num, restarts, steps))


@functools.partial(jax.jit, static_argnames=("num", "restarts", "steps"))
def _kmeans(key, X, starts, weights, tolerance, num, restarts, steps):
    cloud = as_cloud(X, weights)
    live = jnp.ones(num, bool)
    if starts is None:
        places = lax.map(lambda k: seeds(k, cloud, num), jax.random.split(key, restarts))
    else:
        places = (starts - cloud.origin[None, None]) * cloud.unit
    found = lloyd_best(cloud, places, live, tolerance, steps)
    order = by_position(found.centers, live)
    label, size, cost = measured(cloud, found.centers[order], live)
    unit = cloud.unit
    info = KMeansInfo(label, size * cloud.total, cost * cloud.total / unit / unit, found.steps, found.ok)
    return found.centers[order] / unit + cloud.origin[None], info


def seeds(key: Key, cloud: Cloud, num: int, count: Any = None) -> jax.Array:
    """Draw greedy k-means++ seeds [num, d]: of 2 + ln(num) candidates each, the one that lowers the cost most.

    The first k of them are seeds for k centres; only `count` are drawn where it is given, and the rest are 0.
    """
    rows, share = cloud.rows, cloud.share
    trials = 2 + int(math.log(num))
    keys = jax.random.split(key, num)

    def step(i, carry):
        near, chosen = carry
        mass = near * share
        logits = jnp.where(jnp.any(mass > 0), jnp.log(mass), jnp.log(share))
        index = draw_categorical(keys[i], logits, (trials,))
        after = jnp.minimum(near[None], squared_distances(rows[index], rows))
        best = jnp.argmin(jnp.sum(after * share[None], 1))
        return after[best], chosen.at[i].set(rows[index[best]])

    first = rows[draw_categorical(keys[0], jnp.log(share))]
    near = squared_distances(first[None], rows)[0]
    chosen = jnp.zeros_like(rows, shape=(num, rows.shape[1])).at[0].set(first)
    return lax.fori_loop(1, num if count is None else count, step, vary((near, chosen), rows, key))[1]


class Run(NamedTuple):
    """The end of a run of Lloyd's iterations."""

    centers: Any
    cost: Any
    steps: Any
    ok: Any


def lloyd_best(cloud: Cloud, starts: jax.Array, live: jax.Array, tolerance: Any, steps: int) -> Run:
    """Run Lloyd's iterations from each of the starts [r, k, d], in turn, and keep the cheapest."""
    runs = lax.map(lambda start: lloyd(cloud, start, live, tolerance, steps), starts)
    best = jnp.argmin(runs.cost)
    return jax.tree.map(lambda leaf: leaf[best], runs)


def lloyd(cloud: Cloud, start: jax.Array, live: jax.Array, tolerance: Any, steps: int) -> Run:
    """Move the live centres to the means of their rows until they rest; dead ones stay."""
    rows = cloud.rows
    share, live = vary((cloud.share, live), rows)
    # Means wander by a few roundings for ever.
    rounding = 4 * jnp.finfo(rows.dtype).eps * jnp.max(jnp.abs(rows))
    least = tolerance * cloud.variance + start.size * rounding**2

    def step(carry):
        centers, _, t = carry
        moved, mass = _means(rows, share, centers, live)
        empty = live & (mass == 0)
        lost = jnp.any(empty)
        moved = lax.cond(lost, lambda c: _resettled(rows, share, c, live, empty), lambda c: c, moved)
        move = jnp.sum((moved - centers) ** 2)
        return moved, move <= least, t + 1

    first = vary((start, jnp.array(False), jnp.array(0, jnp.int32)), rows, start)
    centers, rest, t = lax.while_loop(lambda c: ~c[1] & (c[2] < steps), step, first)
    return Run(centers, measured(cloud, centers, live)[2], t, rest)


def _means(rows, share, centers, live):
    """The weighted mean of the rows nearest to each centre, and their mass."""
    k = centers.shape[0]

    def part(rows, share):
        label = nearest_centers(rows, centers, live)
        return by_label(share[:, None] * (rows - centers[label]), label, k), by_label(share, label, k)

    total, mass = sum_rows(part, rows, share)
    return centers + total / jnp.where(mass > 0, mass, 1)[:, None], mass


def _resettled(rows, share, centers, live, empty):
    """Move centres without rows to the rows farthest from their own; none moves where all rows are on centres."""

    def away(rows, share):
        near = centers[nearest_centers(rows, centers, live)]
        return jnp.where(share > 0, jnp.sum((rows - near) ** 2, 1), 0)

    far, index = lax.top_k(map_rows(away, rows, share), centers.shape[0])
    turn = jnp.cumsum(empty) - 1
    return jnp.where((empty & (far[turn] > 0))[:, None], rows[index[turn]], centers)


def measured(cloud: Cloud, centers: jax.Array, live: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Labels [n], masses [k], and the mean squared distance of rows to their centres."""

    def part(rows):
        label = nearest_centers(rows, centers, live)
        return label, jnp.sum((rows - centers[label]) ** 2, 1)

    label, distance = map_rows(part, cloud.rows)
    return label, by_label(cloud.share, label, centers.shape[0]), jnp.sum(cloud.share * distance)
