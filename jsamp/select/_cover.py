"""Rows that cover a cloud of points: k-center."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_count
from jsamp.select._neighbors import squared_distances
from jsamp.select._rows import as_array, check_matrix, check_row_numbers, check_weights, power_of_two
from jsamp.select._subset import Subset


@functools.partial(jax.jit, static_argnames=("num", "fixed"))
def _k_center(X, start, weights, num, fixed):
    X = X * power_of_two(X)
    live = jnp.ones_like(X[:, 0], bool) if weights is None else weights > 0

    def away(index):
        return jnp.where(live, squared_distances(X[index][None], X)[0], 0)

    def choose(carry, t):
        near = carry[0]
        index = jnp.argmax(near).astype(jnp.int32)
        carry = cover(carry, (index, t))
        return carry, (index, near[index] > 0)

    def cover(carry, one):
        near, label = carry
        distance = away(one[0])
        return jnp.minimum(near, distance), jnp.where(distance < near, one[1], label)

    first = (away(start[0]), jnp.zeros_like(start, jnp.int32, shape=X.shape[:1]))
    slots = jnp.arange(num, dtype=jnp.int32)
    given, _ = lax.scan(lambda c, one: (cover(c, one), None), first, (start[1:], slots[1:fixed]))
    (_, label), (rest, fresh) = lax.scan(choose, given, slots[fixed:])
    mask = jnp.concatenate([jnp.ones((fixed,), bool), fresh])
    count = jnp.where(live, 1, 0).astype(X.dtype) if weights is None else weights.astype(X.dtype)
    weight = jnp.zeros((num,), X.dtype).at[label].add(count)
    return Subset(jnp.where(mask, jnp.concatenate([start, rest]), 0), jnp.where(mask, weight, 0), mask)


def k_center(X: Any, num: int, *, start: Any = None, weights: Any = None) -> Subset:
    """Choose `num` rows that cover the cloud: every next one is the row farthest from those chosen so far.

    The largest distance of a row to its nearest chosen one is at most twice the smallest possible.

    Args:
        X: [n, d] rows.
        num: rows, static.
        start: first row, or several rows already chosen [s], s <= num: they come first in the result, and the others
            cover what they leave. Default: the row farthest from the mean.
        weights: [n] >= 0, or None. Rows of weight 0 need no cover and are not chosen; the others count in the weights
            of the result (covering a row does not depend on how much it weighs).

    Returns:
        `Subset`; weight is the number (or weight) of the rows nearest to each chosen one. Slots stay unused when there
        are fewer than `num` distinct rows.

    Raises:
        ValueError: for a non-finite X, num > n, a start outside 0..n-1 or longer than num, or bad weights.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> X = jnp.array([[0.0], [0.1], [5.0], [5.1], [9.0]])
        >>> subset = js.select.k_center(X, 3)
        >>> subset.index.tolist(), subset.weight.tolist()
        ([4, 0, 2], [1.0, 2.0, 2.0])
        >>> js.select.k_center(X, 3, start=[1, 3]).index.tolist()         # rows 1 and 3 are there already
        [1, 3, 4]

    Cost:
        num passes over the rows.

    References:
        Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    """
    X = check_matrix("k_center: X", X, tall=False)
    n = X.shape[0]
    check_count("k_center: num", num, high=n)
    weights = check_weights(weights, n, "k_center")
    if start is None:
        Z = X * power_of_two(X)
        share = jnp.ones_like(Z[:, 0]) if weights is None else weights / jnp.max(weights)
        mean = jnp.sum(Z * share[:, None], 0, keepdims=True) / jnp.sum(share)
        start = jnp.argmax(jnp.where(share > 0, jnp.sum((Z - mean) ** 2, 1), -1))[None]
    else:
        start = check_row_numbers("k_center: start", jnp.atleast_1d(as_array("k_center: start", start)), n)
    if not 1 <= start.shape[0] <= num:
        raise ValueError(f"k_center: start must name 1..{num} rows, got {start.shape[0]}. Raise num.")
    return _k_center(X, start.astype(jnp.int32), weights, num, start.shape[0])
