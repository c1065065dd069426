"""Prediction error by the bootstrap: leave-one-out bootstrap, .632 and .632+."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._types import Key
from jsamp.estimate._bootstrap import bootstrap_weights
from jsamp.estimate._folds import check_learner
from jsamp.estimate._on_host import plainly
from jsamp.estimate._types import Estimate


class PredictionError(NamedTuple):
    """Hold an error rate that corrects for having seen the rows.

    Args:
        estimate: `Estimate` of the expected loss on a fresh row.
        apparent: loss of the fit on all rows, on those rows: too small.
        out_of_bag: mean loss of rows under fits that did not draw them: too large.
        no_information: loss if predictions and targets were independent.
        overfitting: how far out-of-bag lies between apparent (0) and no information (1).
        weight: share of out_of_bag in the value.

    Example:
        >>> import jsamp as js
        >>> js.estimate.PredictionError(None, 0.0, 0.5, 0.5, 1.0, 1.0).weight
        1.0
    """

    estimate: Any
    apparent: Any
    out_of_bag: Any
    no_information: Any
    overfitting: Any
    weight: Any


def _disagreement(prediction, y):
    """Mean 0-1 loss over all pairs of a prediction and a label, 1 - sum_k p_k q_k, by counting."""
    left, right = (jnp.searchsorted(jnp.sort(y), prediction, side=side) for side in ("left", "right"))
    return 1 - jnp.mean((right - left).astype(jnp.float32)) / y.shape[0]


def _pairs(prediction, y, loss):
    """Mean loss over all pairs of a prediction and a target."""
    rows = jnp.arange(y.shape[0])
    return jnp.mean(jax.lax.map(lambda i: jnp.mean(loss(jnp.roll(prediction, i, 0), y)), rows, batch_size=8))


@functools.partial(jax.jit, static_argnames=("plus", "counted", "block"))
def _err(key, learner, X, y, weights, loss, plus, counted, block):
    n, keys = X.shape[0], jax.random.split(key)
    whole = learner(keys[0], X, y, jnp.ones(n, jnp.float32))
    seen = loss(whole, y)

    def fit(pair):
        key, weight = pair
        return jnp.where(weight > 0, 0, loss(learner(key, X, y, weight), y)), weight == 0

    lost, out = jax.lax.map(fit, (jax.random.split(keys[1], weights.shape[0]), weights), batch_size=block)
    times = jnp.sum(out, 0)
    rows = jnp.sum(lost, 0) / jnp.where(times > 0, times, 1)
    tested, count = times > 0, jnp.sum(times > 0)
    apparent, first = jnp.mean(seen), jnp.sum(jnp.where(tested, rows, 0)) / count
    if plus:
        none = _disagreement(whole, y) if counted else _pairs(whole, y, loss)
        none = none.astype(first.dtype)
        capped = jnp.minimum(first, none)
        gap = none - apparent
        rate = jnp.where((gap > 0) & (capped > apparent), (capped - apparent) / jnp.where(gap > 0, gap, 1), 0)
        rate = jnp.clip(rate, 0, 1)
    else:
        none, capped, rate = jnp.full_like(first, jnp.nan), first, jnp.zeros_like(first)
    share = 0.632 / (1 - 0.368 * rate)
    value = (1 - share) * apparent + share * capped
    # The rows' own corrected losses: their spread carries the error of the mean.
    each = (1 - share) * seen + share * rows
    centre = jnp.sum(jnp.where(tested, each, 0)) / count
    spread = jnp.sum(jnp.where(tested, (each - centre) ** 2, 0)) / (count - 1)
    estimate = Estimate(value, jnp.sqrt(spread / count), count.astype(value.dtype))
    return PredictionError(estimate, apparent, first, none, rate, share)


def _run(who, key, fit_predict, X, y, num, loss, plus, block):
    _checks.check_key(key, who)
    zero_one = loss is None
    learner, loss, X, y = check_learner(who, fit_predict, X, y, loss)
    counted = zero_one and y.ndim == 1 and not jnp.issubdtype(y.dtype, jnp.floating)
    if X.shape[0] < 10:
        raise ValueError(f"{who}: wants at least 10 rows, got {X.shape[0]}. Use leave_one_out.")
    num = _checks.check_count(f"{who}: num", num, low=20)
    block = num if block is None else _checks.check_count(f"{who}: block", block)
    draw, fit = jax.random.split(key)
    weights = bootstrap_weights(draw, num, X.shape[0])
    run = lambda: _err(fit, learner, X, y, weights, loss, plus, counted, block)
    return plainly(who, fit_predict, ("resample", weights), y, run)


def err632(
    key: Key, fit_predict: Any, X: Any, y: Any, num: int = 100, *, loss: Any = None, block: int | None = None
) -> PredictionError:
    """Estimate the expected loss of a learner by the .632 bootstrap.

    .368 apparent + .632 out_of_bag: apparent is the loss of the fit on all rows, out_of_bag the mean over rows of
    their mean loss under the resamples that did not draw them. Too hopeful for learners that memorise: `err632plus`.

    Args:
        key: one key.
        fit_predict: (key, X, y, weight [n]) -> predictions [n, ...]; weights are counts.
        X: [n, ...] inputs.
        y: [n, ...] targets; integers are labels.
        num: resamples (static), 50 or more.
        loss: (prediction, y) -> [n]; None is 0-1 loss for integer y and squared error else.
        block: fits at a time (static); None: all.

    Returns:
        `PredictionError`; stderr is that of the mean of the rows' corrected losses.

    Raises:
        ValueError: for fewer than 10 rows or 20 resamples, or lengths that differ.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> y = jax.random.normal(jax.random.key(0), (50,))
        >>> mean = lambda key, X, y, w: jnp.full(50, jnp.sum(w * y) / jnp.sum(w))
        >>> found = js.estimate.err632(jax.random.key(1), mean, y, y, 50)
        >>> bool(found.apparent < found.estimate.value < found.out_of_bag)
        True

    Cost:
        num + 1 fits, in one vmap.

    References:
        Efron, "Estimating the error rate of a prediction rule: improvement on cross-validation", 1983.
    """
    return _run("err632", key, fit_predict, X, y, num, loss, False, block)


def err632plus(
    key: Key, fit_predict: Any, X: Any, y: Any, num: int = 100, *, loss: Any = None, block: int | None = None
) -> PredictionError:
    """Estimate the expected loss of a learner by the .632+ bootstrap, which holds for learners that memorise.

    With g the no-information loss (mean over all pairs of prediction and target), e = min(out_of_bag, g), the relative
    overfitting R = (e - apparent) / (g - apparent) in [0, 1], w = .632 / (1 - .368 R): (1 - w) apparent + w e. A
    one-neighbour rule on random labels has apparent 0 and out_of_bag .5: .632 says .316, .632+ says .5.

    Args:
        key: one key.
        fit_predict: (key, X, y, weight [n]) -> predictions [n, ...]; weights are counts.
        X: [n, ...] inputs.
        y: [n, ...] targets; integers are labels.
        num: resamples (static), 50 or more.
        loss: (prediction, y) -> [n]; None is 0-1 loss for integer y and squared error else.
        block: fits at a time (static); None: all.

    Returns:
        `PredictionError`.

    Raises:
        ValueError: for fewer than 10 rows or 20 resamples, or lengths that differ.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> y = jax.random.normal(jax.random.key(0), (50,))
        >>> mean = lambda key, X, y, w: jnp.full(50, jnp.sum(w * y) / jnp.sum(w))
        >>> found = js.estimate.err632plus(jax.random.key(1), mean, y, y, 50)
        >>> bool(0 <= found.overfitting <= 1) and bool(0.632 <= found.weight <= 1)
        True

    Cost:
        num + 1 fits; for a loss other than 0-1 the no-information loss of all n^2 pairs.

    References:
        Efron and Tibshirani, "Improvements on cross-validation: the .632+ bootstrap method", 1997.
    """
    return _run("err632plus", key, fit_predict, X, y, num, loss, True, block)
