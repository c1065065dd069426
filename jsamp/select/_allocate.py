"""Spending a labelling budget over groups."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._checks import check_choice, check_count, check_number, is_traced
from jsamp._core._types import Scalar
from jsamp.select._curve import Curve
from jsamp.select._rows import as_real, as_scalar, check_vector

Kind = Literal["sum", "maxmin", "fair"]


def _check_groups(who: str, curve: Any, **numbers: Any) -> dict[str, Any]:
    """The numbers of G groups as arrays [G], refused unless positive (`available`: not negative) and of that length."""
    if not isinstance(curve, Curve):
        raise TypeError(f"{who}: curve must be a js.select.Curve, got {type(curve).__name__}. Use Curve(scale).")
    return _spread(who, curve.scale.shape, curve.scale.dtype, numbers)


def _spread(who: str, shape: tuple[int, ...], dtype: Any, numbers: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in numbers.items():
        if name == "available":
            value = jnp.inf if value is None else as_real(f"{who}: available", value)
            known = None if is_traced(value) else np.asarray(value)
            if known is not None and not np.all(known >= 0):
                raise ValueError(f"{who}: available must be >= 0, got {value}.")
        else:
            check_number(f"{who}: {name}", value, low=0, open_low=name != "floor")
            value = as_real(f"{who}: {name}", value)
        if jnp.shape(value) not in ((), shape):
            raise ValueError(f"{who}: {name} must be a number or one per group {list(shape)}, got {jnp.shape(value)}.")
        found[name] = jnp.broadcast_to(jnp.asarray(value, dtype), shape)
    return found


def _bisect(spend, low, high, budget):
    """The log-parameter at which a decreasing spend(exp(x)) meets the budget."""

    def step(bounds, _):
        middle = (bounds[0] + bounds[1]) / 2
        over = spend(jnp.exp(middle)) > budget
        return (jnp.where(over, middle, bounds[0]), jnp.where(over, bounds[1], middle)), None

    (_, high), _ = lax.scan(step, (low, high), None, length=100)
    return jnp.exp(high)


def allocate(
    curve: Curve, budget: Scalar, *, costs: Any = 1.0, weights: Any = 1.0, available: Any = None, kind: Kind = "sum",
    alpha: Scalar = 1.0,
) -> jax.Array:  # fmt: skip
    """Compute how many rows of each group to buy for a budget, given their learning curves.

    "sum" minimises sum_g weights_g error_g: n_g = (w_g b_g k_g / (l c_g))^(1/(k_g+1)). "maxmin" minimises the largest
    weights_g error_g: all are made equal. "fair" lies between the two: it minimises
    sum_g weights_g error_g^(1+alpha) / (1+alpha), which is "sum" at alpha = 0 and tends to "maxmin" of equal weights as
    alpha grows. l, or the common error, is found by bisection.

    Args:
        curve: `Curve` of G groups.
        budget: sum of costs_g n_g to spend.
        costs: [G] or number > 0.
        weights: [G] or number > 0, importance of a group.
        available: [G] rows that exist, or None.
        kind: "sum", "maxmin" or "fair", static.
        alpha: aversion to unequal errors >= 0, for "fair".

    Returns:
        [G] real numbers of rows; the budget is spent unless everything available is bought. Not differentiable (roots
        are found by bisection). Works under jit and vmap.

    Raises:
        ValueError: for budgets, costs or weights that are not positive, a negative alpha, or lengths that differ.
        TypeError: for a curve that is not a `Curve`.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> curve = js.select.Curve([1.0, 4.0])
        >>> js.select.allocate(curve, 30.0).round(2), js.select.allocate(curve, 30.0, kind="maxmin").round(2)
        (Array([10., 20.], dtype=float32), Array([ 6., 24.], dtype=float32))

    Cost:
        100 bisection steps of G numbers ("fair": 100 times 60).

    References:
        Cai et al., "Adaptive Sampling Strategies to Construct Equitable Training Datasets", 2022, arXiv:2202.01327.
    """
    check_choice("allocate: kind", kind, ("sum", "maxmin", "fair"))
    budget = as_scalar("allocate: budget", budget, low=0, open_low=True)
    alpha = as_scalar("allocate: alpha", alpha, low=0)
    groups = _check_groups("allocate", curve, costs=costs, weights=weights, available=available)
    return _allocate(curve, budget, alpha, groups["costs"], groups["weights"], groups["available"], kind)


@functools.partial(jax.jit, static_argnames=("kind",))
def _allocate(curve, budget, alpha, costs, weights, limit, kind):
    scale, rate, floor = curve.scale, curve.rate, curve.floor
    wide = jnp.zeros_like(scale[0]) + 60  # from the data: inside shard_map the bounds vary over the mesh

    def buy(price):
        return jnp.minimum(limit, (weights * scale * rate / (price * costs)) ** (1 / (rate + 1)))

    def buy_fairly(price):
        def step(bounds, _):
            low, high = bounds
            middle = (low + high) / 2
            n = jnp.exp(middle)
            gain = weights * curve(n) ** alpha * scale * rate * n ** -(rate + 1) / costs
            more = gain > price
            return (jnp.where(more, middle, low), jnp.where(more, high, middle)), None

        bounds = (jnp.zeros_like(scale) - 40, jnp.zeros_like(scale) + 40)
        return jnp.minimum(limit, jnp.exp(lax.scan(step, bounds, None, length=60)[0][0]))

    def equal(error):
        gap = error / weights - floor
        return jnp.minimum(limit, jnp.where(gap > 0, (scale / jnp.where(gap > 0, gap, 1)) ** (1 / rate), jnp.inf))

    rows = {"sum": buy, "fair": buy_fairly, "maxmin": equal}[kind]
    return rows(_bisect(lambda x: jnp.sum(costs * rows(x)), -wide, wide, budget))


def allocate_greedy(
    curve: Curve, num: int, *, weights: Any = 1.0, available: Any = None, kind: Kind = "sum", alpha: Scalar = 1.0
) -> jax.Array:
    """Buy whole rows one at a time, each for the group where it helps most; exactly optimal at equal costs.

    Starts from one row per group (that has any). "sum" takes the group with the largest fall of weights_g error_g,
    "fair" of weights_g error_g^(1+alpha), "maxmin" the group whose weights_g error_g is largest now.

    Args:
        curve: `Curve` of G groups.
        num: rows in all, static, at least G.
        weights: [G] or number > 0.
        available: [G] rows that exist, or None.
        kind: "sum", "maxmin" or "fair", static.
        alpha: as in `allocate`.

    Returns:
        [G] int32; sums to `num` unless everything available is bought.

    Raises:
        ValueError: for num < G, or weights that are not positive.
        TypeError: for a curve that is not a `Curve`.

    Example:
        >>> import jsamp as js
        >>> js.select.allocate_greedy(js.select.Curve([1.0, 4.0]), 30)
        Array([10, 20], dtype=int32)

    Cost:
        num steps of G numbers.

    References:
        Cai et al., 2022, arXiv:2202.01327.
    """
    check_choice("allocate_greedy: kind", kind, ("sum", "maxmin", "fair"))
    alpha = as_scalar("allocate_greedy: alpha", alpha, low=0)
    groups = _check_groups("allocate_greedy", curve, weights=weights, available=available)
    check_count("allocate_greedy: num", num, low=curve.scale.shape[0])
    return _greedy(curve, num, alpha, groups["weights"], groups["available"], kind)


@functools.partial(jax.jit, static_argnames=("num", "kind"))
def _greedy(curve, num, alpha, weights, limit, kind):
    limit = jnp.floor(limit)

    def harm(n):
        error = curve(jnp.maximum(n, 1))
        return weights * (error if kind == "sum" else error ** (1 + alpha))

    def step(n, _):
        gain = weights * curve(jnp.maximum(n, 1)) if kind == "maxmin" else harm(n) - harm(n + 1)
        gain = jnp.where(n < limit, gain, -jnp.inf)
        best = jnp.argmax(gain)
        more = (gain[best] > -jnp.inf) & (jnp.sum(n) < num)
        return n.at[best].add(jnp.where(more, 1, 0).astype(n.dtype)), None

    n, _ = lax.scan(step, jnp.minimum(jnp.ones_like(curve.scale), limit), None, length=num)
    return n.astype(jnp.int32)


def next_group(
    errors: Any, counts: Any, *, costs: Any = 1.0, weights: Any = 1.0, rate: Scalar | None = None,
    available: Any = None, alpha: Scalar = 0.0, floor: Any = 0.0,
) -> jax.Array:  # fmt: skip
    """Choose the group to buy the next row (or batch) from, given the errors measured so far: no curve is needed.

    With a known `rate` k, error ~ floor + scale n^-k falls by k (error - floor) / n per row, and the group with the
    largest weighted fall per cost, times error^alpha, is taken. Without, the group with the largest weighted error is
    (max-min), whatever a row costs.

    Args:
        errors: [G] measured on validation data, >= 0.
        counts: [G] rows bought so far.
        costs: [G] or number > 0; needs `rate`.
        weights: [G] or number > 0.
        rate: None, or the exponent k.
        available: [G] rows that exist, or None.
        alpha: as in `allocate(kind="fair")`; needs `rate`.
        floor: [G] or number >= 0, error that no data removes; needs `rate`.

    Returns:
        int32 scalar; ties go to the lowest group. -1 when nothing is left.

    Raises:
        ValueError: for errors or counts that are negative, not finite or of different lengths; costs, weights or a rate
            that are not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> errors, counts = jnp.array([0.3, 0.2]), jnp.array([100, 10])
        >>> int(js.select.next_group(errors, counts)), int(js.select.next_group(errors, counts, rate=1.0))
        (0, 1)

    Cost:
        G numbers.

    References:
        Cai et al., 2022, arXiv:2202.01327.
    """
    who = "next_group"
    errors = check_vector(f"{who}: errors", errors, low=0)
    counts = check_vector(f"{who}: counts", counts, errors.shape[0], low=0)
    numbers = {"costs": costs, "weights": weights, "available": available, "floor": floor}
    groups = _spread(who, errors.shape, errors.dtype, numbers)
    alpha = as_scalar(f"{who}: alpha", alpha, low=0)
    if rate is None:
        gain = groups["weights"] * errors
    else:
        rate = as_scalar(f"{who}: rate", rate, low=0, open_low=True)
        fall = jnp.asarray(rate) * jnp.maximum(errors - groups["floor"], 0) / jnp.maximum(counts, 1)
        gain = groups["weights"] * errors**alpha * fall / groups["costs"]
    gain = jnp.where(counts < groups["available"], gain, -jnp.inf)
    best = jnp.argmax(gain)
    return jnp.where(jnp.max(gain) > -jnp.inf, best, -1).astype(jnp.int32)
