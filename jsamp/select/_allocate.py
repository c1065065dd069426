"""Spending a labelling budget over groups."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._checks import check_choice, check_count, check_number, concrete


class Curve(NamedTuple):
    """Learning curves of G groups: error_g(n) = floor_g + scale_g n^(-rate_g).

    Args:
        scale: [G] > 0.
        rate: [G] > 0 (1 for the variance of least squares).
        floor: [G] error that no amount of data removes.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> select.Curve(jnp.array([1.0, 4.0]))(jnp.array([2.0, 2.0]))
        Array([0.5, 2. ], dtype=float32)
    """

    scale: Any
    rate: Any = 1.0
    floor: Any = 0.0

    def __call__(self, n: Any) -> jax.Array:
        """The errors [G] with n rows per group."""
        return self.floor + self.scale * n ** -jnp.asarray(self.rate, jnp.result_type(float))


def _fill(curve, costs, available):
    size = jnp.shape(curve.scale)
    dtype = jnp.promote_types(jnp.float32, jnp.result_type(curve.scale))
    costs = jnp.broadcast_to(jnp.asarray(costs, dtype), size)
    rate = jnp.broadcast_to(jnp.asarray(curve.rate, dtype), size)
    floor = jnp.broadcast_to(jnp.asarray(curve.floor, dtype), size)
    limit = jnp.broadcast_to(jnp.asarray(jnp.inf if available is None else available, dtype), size)
    return Curve(jnp.asarray(curve.scale, dtype), rate, floor), costs, limit


def _bisect(spend, low, high, budget):
    """The log-parameter at which a decreasing spend(exp(x)) meets the budget."""

    def step(bounds, _):
        middle = (bounds[0] + bounds[1]) / 2
        over = spend(jnp.exp(middle)) > budget
        return (jnp.where(over, middle, bounds[0]), jnp.where(over, bounds[1], middle)), None

    (_, high), _ = lax.scan(step, (low, high), None, length=100)
    return jnp.exp(high)


def allocate(
    curve: Curve, budget: Any, *, costs: Any = 1.0, weights: Any = 1.0, available: Any = None, kind: str = "sum"
) -> jax.Array:
    """How many rows of each group to buy for a budget, given their learning curves.

    "sum" minimises sum_g weights_g error_g: n_g = (w_g b_g k_g / (l c_g))^(1/(k_g+1)). "maxmin" minimises the largest
    weights_g error_g: all are made equal. l, or the common error, is found by bisection.

    Args:
        curve: `Curve` of G groups.
        budget: sum of costs_g n_g to spend.
        costs: [G] or number > 0.
        weights: [G] or number > 0, importance of a group.
        available: [G] rows that exist, or None.
        kind: "sum" or "maxmin", static.

    Returns:
        [G] real numbers of rows; the budget is spent unless everything available is bought. Differentiable in none of
        its arguments by design of the bisection; use it inside jit and vmap.

    Raises:
        ValueError: for budgets, costs, weights, scales or rates that are not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> curve = select.Curve(jnp.array([1.0, 4.0]))
        >>> select.allocate(curve, 30.0).round(2), select.allocate(curve, 30.0, kind="maxmin").round(2)
        (Array([10., 20.], dtype=float32), Array([ 6., 24.], dtype=float32))

    Cost: 100 bisection steps of G numbers.

    References:
        Cai et al., "Adaptive Sampling Strategies to Construct Equitable Training Datasets", 2022, arXiv:2202.01327.
    """
    check_choice("allocate: kind", kind, ("sum", "maxmin"))
    for name, value in (("budget", budget), ("costs", costs), ("weights", weights),
                        ("curve.scale", curve.scale), ("curve.rate", curve.rate)):  # fmt: skip
        check_number(f"allocate: {name}", value, low=0, open_low=True)
    return _allocate(curve, budget, costs, weights, available, kind)


@functools.partial(jax.jit, static_argnames=("kind",))
def _allocate(curve, budget, costs, weights, available, kind):
    (scale, rate, floor), costs, limit = _fill(curve, costs, available)
    weights = jnp.broadcast_to(jnp.asarray(weights, scale.dtype), scale.shape)
    wide = jnp.zeros_like(scale[0]) + 60  # from the data: inside shard_map the bounds vary over the mesh
    if kind == "sum":

        def rows(price):
            return jnp.minimum(limit, (weights * scale * rate / (price * costs)) ** (1 / (rate + 1)))

        level = _bisect(lambda price: jnp.sum(costs * rows(price)), -wide, wide, budget)
        return rows(level)

    def equal(error):
        gap = error / weights - floor
        return jnp.minimum(limit, jnp.where(gap > 0, (scale / jnp.where(gap > 0, gap, 1)) ** (1 / rate), jnp.inf))

    return equal(_bisect(lambda error: jnp.sum(costs * equal(error)), -wide, wide, budget))


def allocate_greedy(
    curve: Curve, num: int, *, weights: Any = 1.0, available: Any = None, kind: str = "sum"
) -> jax.Array:
    """Whole rows per group, bought one at a time where the next row helps most; exactly optimal at equal costs.

    Starts from one row per group. "sum" takes the group with the largest fall of weights_g error_g, "maxmin" the group
    that is worst now.

    Args:
        curve: `Curve` of G groups.
        num: rows in all, static, at least G.
        weights: [G] or number > 0.
        available: [G] rows that exist, or None.
        kind: "sum" or "maxmin", static.

    Returns:
        [G] int32; sums to `num` unless everything available is bought.

    Raises:
        ValueError: for num < G, or scales, rates or weights that are not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> select.allocate_greedy(select.Curve(jnp.array([1.0, 4.0])), 30)
        Array([10, 20], dtype=int32)

    Cost: num steps of G numbers.

    References:
        Cai et al., 2022, arXiv:2202.01327.
    """
    check_choice("allocate_greedy: kind", kind, ("sum", "maxmin"))
    for name, value in (("weights", weights), ("curve.scale", curve.scale), ("curve.rate", curve.rate)):
        check_number(f"allocate_greedy: {name}", value, low=0, open_low=True)
    check_count("allocate_greedy: num", num, low=jnp.shape(curve.scale)[0])
    return _greedy(curve, num, weights, available, kind)


@functools.partial(jax.jit, static_argnames=("num", "kind"))
def _greedy(curve, num, weights, available, kind):
    curve, _, limit = _fill(curve, 1.0, available)
    groups = curve.scale.shape[0]

    def step(n, _):
        now = curve(n)
        gain = weights * (now - curve(n + 1)) if kind == "sum" else weights * now
        gain = jnp.where(n < limit, gain, -jnp.inf)
        best = jnp.argmax(gain)
        return n.at[best].add(jnp.where(gain[best] > -jnp.inf, 1.0, 0.0)), None

    n, _ = lax.scan(step, jnp.ones_like(curve.scale), None, length=num - groups)
    return n.astype(jnp.int32)


def next_group(
    errors: Any, counts: Any, *, costs: Any = 1.0, weights: Any = 1.0, rate: Any = None, available: Any = None
) -> jax.Array:
    """The group to buy the next row (or batch) from, given the errors measured so far: no curve is needed.

    With a known `rate` k, error ~ n^-k falls by k error / n per row, and the group with the largest weighted fall per
    cost is taken. Without, the group with the largest weighted error is (max-min).

    Args:
        errors: [G] measured on validation data.
        counts: [G] rows bought so far.
        costs: [G] or number.
        weights: [G] or number.
        rate: None, or the exponent k.
        available: [G] rows that exist, or None.

    Returns:
        int32 scalar; ties go to the lowest group. -1 when nothing is left.

    Raises:
        ValueError: for costs, weights or a rate that are not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> errors, counts = jnp.array([0.3, 0.2]), jnp.array([100, 10])
        >>> int(select.next_group(errors, counts)), int(select.next_group(errors, counts, rate=1.0))
        (0, 1)

    References:
        Cai et al., 2022, arXiv:2202.01327.
    """
    for name, value in (("costs", costs), ("weights", weights), ("rate", 1.0 if rate is None else rate)):
        check_number(f"next_group: {name}", value, low=0, open_low=True)
    errors, counts = jnp.asarray(errors), jnp.asarray(counts)
    known = concrete(counts)
    if errors.shape != counts.shape or (known is not None and np.any(known < 0)):
        raise ValueError(f"next_group: errors and counts must be [G], got {errors.shape} and {counts.shape}.")
    gain = weights * errors if rate is None else weights * rate * errors / jnp.maximum(counts, 1) / costs
    gain = gain if available is None else jnp.where(counts < jnp.asarray(available), gain, -jnp.inf)
    best = jnp.argmax(gain)
    return jnp.where(jnp.max(gain) > -jnp.inf, best, -1).astype(jnp.int32)
