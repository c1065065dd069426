"""The bootstrap: resamples as count weights, and intervals by percentiles, reflection, or BCa."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._types import Key
from jsamp.estimate import _arrays
from jsamp.estimate._types import Estimate, Interval

GROUPS = 1000
"""Jackknife evaluations at most; more rows are left out in groups."""


class Bootstrapped(NamedTuple):
    """Hold a statistic with its bootstrap law.

    Args:
        estimate: `Estimate` of the statistic; stderr is the deviation of the draws, ess the number of rows.
        interval: `Interval` at the level asked for.
        draws: [num, ...] the statistic of every resample.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> found = js.estimate.bootstrap(jax.random.key(0), jnp.mean, jnp.arange(20.0), 100)
        >>> found.draws.shape
        (100,)
    """

    estimate: Any
    interval: Any
    draws: Any


def _rows(key, n):
    """Draw n of n rows with replacement, each with probability 1 / n to within n / 2^32 of it.

    From one random word each; `jax.random.randint` takes two, which is most of the time of a bootstrap.
    """
    if n > 2**16:
        return jax.random.randint(key, (n,), 0, n)
    word, count = jax.random.bits(key, (n,), jnp.uint32), np.uint32(n)
    high, low = word >> 16, word & 0xFFFF  # the upper word of word * n, by products that fit into one
    return ((high * count + ((low * count) >> 16)) >> 16).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("num", "n"))
def _counts(key, num, n):
    def once(key):
        return jnp.zeros(n).at[_rows(key, n)].add(1)

    return jax.lax.map(once, jax.random.split(key, num), batch_size=16)


def bootstrap_weights(key: Key, num: int, n: int) -> jax.Array:
    """Draw bootstrap resamples as weights: how often each of n rows is drawn in n draws with replacement.

    A learner that takes row weights is fitted to all resamples by one `vmap` and one compilation. A row of weight 0 is
    out of bag.

    Args:
        key: one key.
        num: resamples (static).
        n: rows (static).

    Returns:
        float32 [num, n], each row summing to n.

    Raises:
        ValueError: for num or n below 1.

    Example:
        >>> import jax, jsamp as js
        >>> js.estimate.bootstrap_weights(jax.random.key(0), 2, 50).sum(1).tolist()
        [50.0, 50.0]

    Cost:
        num n random integers.

    References:
        Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    _checks.check_key(key, "bootstrap_weights")
    num, n = _checks.check_count("bootstrap_weights: num", num), _checks.check_count("bootstrap_weights: n", n)
    return _counts(key, num, n)


def _taken(data, index):
    return jax.tree.map(lambda leaf: leaf[index], data)


@functools.partial(jax.jit, static_argnames=("num", "block"))
def _draws(key, statistic, data, num, block):
    n = jax.tree.leaves(data)[0].shape[0]
    once = lambda key: statistic(_taken(data, _rows(key, n)))
    value = _checks.check_made("bootstrap: statistic", statistic(data), empty=False)
    return value, jax.lax.map(once, jax.random.split(key, num), batch_size=block)


@functools.partial(jax.jit, static_argnames="block")
def _acceleration(statistic, data, block):
    """Skewness of the statistic's influence, from leaving out rows, or equal groups of them."""
    n = jax.tree.leaves(data)[0].shape[0]
    size = -(-n // GROUPS)
    rest = jnp.arange(n - size)
    once = lambda i: statistic(_taken(data, rest + size * (rest >= i * size)))
    values = jax.lax.map(once, jnp.arange(n // size), batch_size=block)
    gap = jnp.mean(values, 0, keepdims=True) - values
    scale = jnp.max(jnp.abs(gap), 0, keepdims=True)
    gap = gap / jnp.where(scale > 0, scale, 1)  # cubes of small numbers underflow
    square = jnp.sum(gap**2, 0)
    return jnp.where(square > 0, jnp.sum(gap**3, 0) / (6 * jnp.where(square > 0, square, 1) ** 1.5), 0)


@jax.jit
def _bca_levels(value, draws, skew, level):
    below = jnp.mean(draws < value[None], 0) + 0.5 * jnp.mean(draws == value[None], 0)
    num = draws.shape[0]
    bias = ndtri(jnp.clip(below, 0.5 / num, 1 - 0.5 / num).astype(value.dtype))

    def moved(prob):
        z = bias + ndtri(jnp.asarray(prob, value.dtype))
        return ndtr(bias + z / (1 - skew * z))

    return moved((1 - level) / 2), moved((1 + level) / 2)


def _quantile(draws, prob):
    """Quantiles of the draws along their first axis, one level for each coordinate."""
    flat = draws.reshape(draws.shape[0], -1)
    levels = jnp.broadcast_to(prob, draws.shape[1:]).reshape(-1)
    return jax.vmap(jnp.quantile, (1, 0))(flat, levels).reshape(draws.shape[1:])


def bootstrap(
    key: Key,
    statistic: Any,
    data: Any,
    num: int = 2000,
    *,
    level: float = 0.95,
    method: Literal["bca", "percentile", "basic", "normal"] = "bca",
    block: int = 16,
) -> Bootstrapped:
    """Estimate the error of any statistic, and an interval for it, by resampling rows.

    "percentile": quantiles q of the draws. "basic": 2 value - q. "normal": value -+ z stderr. "bca": percentiles at
    levels moved by the bias z0 = Phi^-1(share of draws below the value) and by the acceleration from leaving out rows
    (groups of rows beyond 1000): second-order accurate.

    Args:
        key: one key.
        statistic: data -> array [...], of rows resampled; compiled and vectorised.
        data: [n, ...], or a tree of such (rows stay together).
        num: resamples (static).
        level: probability of covering, in (0, 1).
        method: "bca", "percentile", "basic" or "normal".
        block: resamples at a time (static); memory is that many copies of the data.

    Returns:
        `Bootstrapped(estimate, interval, draws)`.

    Raises:
        ValueError: for fewer than 2 rows, fewer than 2 resamples, an unknown method, or NaN in the data.
        TypeError: for a statistic that cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> x = jax.random.normal(jax.random.key(0), (100,))
        >>> found = js.estimate.bootstrap(jax.random.key(1), jnp.median, x, 500)
        >>> bool(found.interval.low < found.estimate.value < found.interval.high)
        True

    Cost:
        num evaluations, and min(n, 1000) more for "bca".

    References:
        Efron, "Better bootstrap confidence intervals", 1987. DiCiccio and Efron, "Bootstrap confidence intervals",
        1996.
    """
    _checks.check_key(key, "bootstrap")
    statistic = as_tree("bootstrap: statistic", statistic, "statistic(data)")
    _checks.check_choice("bootstrap: method", method, ("bca", "percentile", "basic", "normal"))
    num, block = _checks.check_count("bootstrap: num", num, low=2), _checks.check_count("bootstrap: block", block)
    _arrays.probability("bootstrap: level", level)
    data = _arrays.tree("bootstrap: data", data, low=2)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(f"bootstrap: data must be arrays [n, ...] with one n, got {sorted(lengths)}.")
    value, draws = _draws(key, statistic, data, num, block)
    error = _arrays.deviation(draws, 0)
    if method == "normal":
        reach = ndtri(jnp.asarray((1 + level) / 2, value.dtype)) * error
        low, high = value - reach, value + reach
    else:
        probs = ((1 - level) / 2, (1 + level) / 2)
        if method == "bca":
            probs = _bca_levels(value, draws, _acceleration(statistic, data, block), level)
        low, high = (_quantile(draws, p) for p in probs)
        if method == "basic":
            low, high = 2 * value - high, 2 * value - low
    size = jnp.full(value.shape, lengths.pop()[0], value.dtype)
    return Bootstrapped(
        Estimate(value, error, size), Interval(low, high, value, jnp.asarray(level, value.dtype)), draws
    )
