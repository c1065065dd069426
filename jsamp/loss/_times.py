"""Laws of the noise level, as quantile functions: times(schedule, u) -> t, so that a batch can be stratified."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._checks import check_finite, check_scalar, concrete, is_traced
from jsamp._core._pytree import pytree
from jsamp._core._types import Key
from jsamp.noise._protocol import check_times, domain, is_discrete

as_times = _fields.callable_as("times(schedule, u)")


def as_grid(name: str, value: Any) -> Any:
    """Return decreasing times or levels [N], N >= 2, in float64 on the host unless traced."""
    check_finite(name, value)
    known = concrete(value)
    if np.ndim(value) != 1 or np.shape(value)[0] < 2:
        raise ValueError(f"{name} must be a vector of two numbers or more, got shape {np.shape(value)}.")
    if known is not None and np.any(np.diff(known) >= 0):
        raise ValueError(f"{name} must decrease, as np.linspace(1, 0, 5) does.")
    return value if known is None else known.astype(np.float64)


def as_levels(name: str, value: Any) -> Any:
    """Return a grid whose last level is above zero."""
    grid = as_grid(name, value)
    known = concrete(grid)
    if known is not None and known[-1] <= 0:
        raise ValueError(f"{name} must decrease to a level > 0. Leave out the final zero of a grid: grid[:-1].")
    return grid


@pytree
class UniformTimes:
    """Spread times evenly between two ends.

    t = low + u (high - low).

    Args:
        low: earliest time, or None for the schedule's t_min.
        high: latest time, or None for the schedule's t_max.

    Returns:
        t, of the shape of u.

    Raises:
        ValueError: for ends that are not finite or not increasing.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.loss.UniformTimes(0.0, 1.0)(js.noise.Flow(), jnp.array([0.25])).tolist()
        [0.25]

    Cost:
        Elementwise on the levels.
    """

    low: Any = None
    high: Any = None

    def __post_init__(self):
        ends = [v for v in (self.low, self.high) if v is not None]
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                check_scalar(f"UniformTimes: {name}", getattr(self, name))
        known = [bound for bound in map(concrete, ends) if bound is not None]
        if len(known) == 2 and np.any(known[0] >= known[1]):
            raise ValueError(f"UniformTimes: low must be below high, got {self.low} and {self.high}.")

    def __call__(self, schedule, u):
        """Return the times at quantiles u."""
        for name, end in (("low", self.low), ("high", self.high)):
            if end is not None:
                check_times(f"UniformTimes: {name}", schedule, end, end=name == "low")
        known = None if self.high is None else concrete(self.high)
        if known is not None and is_discrete(schedule) and np.all(known < 1):
            raise ValueError(
                f"UniformTimes: high is {known}, below index 1 of a discrete schedule, whose indices go to "
                f"{float(schedule.t_max):g}. Multiply shares of the time by that."
            )
        low = jnp.asarray(schedule.t_min if self.low is None else self.low, u.dtype)
        high = jnp.asarray(schedule.t_max if self.high is None else self.high, u.dtype)
        return low + u * (high - low)


@pytree
class LogNormalTimes:
    """Draw the noise-to-signal ratio sigma / alpha from a lognormal law, truncated to [low, high].

    log ratio ~ N(mean, std^2); t = schedule.time(-log ratio). On `js.noise.VE` the ratio is sigma. It is truncated to
    the ratios of the schedule, too: no time is drawn at which a network cannot be asked.

    Args:
        mean: mean of the log ratio.
        std: its standard deviation, > 0.
        low: least ratio, >= 0.
        high: greatest ratio, > low.

    Returns:
        t, of the shape of u.

    Raises:
        ValueError: for a std that is not positive, or bounds that do not increase.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.loss.LogNormalTimes(0.0, 1.0)(js.noise.VE(), jnp.array([0.5])).round(3).tolist()
        [1.0]

    Cost:
        One quantile of the normal law for each level, and one inverse of the schedule.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364.
    """

    mean: Any = -1.2
    std: Any = 1.2
    low: Any = 0.0
    high: Any = np.inf

    def __post_init__(self):
        check_scalar("LogNormalTimes: mean", self.mean)
        check_scalar("LogNormalTimes: std", self.std, low=0, open_low=True)
        check_scalar("LogNormalTimes: low", self.low, low=0)
        if not (isinstance(self.high, float) and self.high == np.inf):
            check_scalar("LogNormalTimes: high", self.high, low=0)
        low, high = concrete(self.low), concrete(self.high)
        if low is not None and high is not None and not np.all(low < high):
            raise ValueError(f"LogNormalTimes: high must be above low, got {self.high} and {self.low}.")

    def ratio(self, u, low=None, high: Any = np.inf):
        """Return the ratios at quantiles u; `low` [n] raises the least ratio of each row, `high` lowers the largest."""
        mean, std = jnp.asarray(self.mean, u.dtype), jnp.asarray(self.std, u.dtype)
        first = _share_below(jnp.asarray(self.low if low is None else jnp.maximum(low, self.low), u.dtype), mean, std)
        last = _share_below(jnp.minimum(jnp.asarray(self.high, u.dtype), high), mean, std)
        tiny = jnp.finfo(u.dtype).eps
        inside = jnp.clip(first + u * (last - first), tiny, 1 - tiny)
        return jnp.exp(mean + std * jax.scipy.special.ndtri(inside))

    def __call__(self, schedule, u):
        """Return the times at quantiles u."""
        low, high = domain(schedule)
        ends = [concrete(bound) for bound in (low, high)]
        if any(end is not None and not np.isfinite(end) for end in ends):
            return jax.vmap(schedule.time)(-jnp.log(self.ratio(u)))
        ratios = (jnp.exp(-schedule.lam(jnp.asarray(bound, u.dtype))) for bound in (low, high))
        least, most = map(jax.lax.stop_gradient, ratios)  # at a noiseless end the slope is infinite
        if not is_traced(least, most, self.low, self.high) and not jnp.all((self.low < most) & (least < self.high)):
            raise ValueError(
                f"LogNormalTimes: the schedule has ratios from {least:g} to {most:g}, none of those drawn."
            )
        return jnp.clip(jax.vmap(schedule.time)(-jnp.log(self.ratio(u, least, most))), low, high)


def _share_below(bound, mean, std):
    """The probability of a ratio below the bound, with finite gradients at 0 and infinity."""
    inside = (bound > 0) & jnp.isfinite(bound)
    share = jax.scipy.stats.norm.cdf((jnp.log(jnp.where(inside, bound, 1)) - mean) / std)
    return jnp.where(inside, share, jnp.where(bound > 0, 1, 0).astype(share.dtype))


def quantiles(key: Key, num: int, dtype: Any, stratified: bool) -> jax.Array:
    """Draw levels u [num] in (0, 1): independent, or one in each of `num` equal cells in random order."""
    if stratified:
        first, second = jax.random.split(key)
        u = (jax.random.permutation(first, num).astype(dtype) + jax.random.uniform(second, (), dtype)) / num
    else:
        u = jax.random.uniform(key, (num,), dtype)
    tiny = jnp.finfo(dtype).eps
    return jnp.clip(u, tiny, 1 - tiny)


def draw_times(who: str, key: Key, times: Any, schedule: Any, num: int, dtype: Any, stratified: bool = True) -> Any:
    """Draw times [num] in the dtype of the data, float32 at least: half precision has no room for an index of 999."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    t = jnp.asarray(times(schedule, quantiles(key, num, dtype, stratified)))
    if t.shape != (num,):
        raise TypeError(f"{who}: times(schedule, u) must return times of the shape of u, ({num},), got {t.shape}.")
    known = concrete(t)
    if known is not None and not np.all(known >= 0):
        raise ValueError(f"{who}: times gave {known.min()}; noise levels and times must be >= 0 and finite.")
    check_times(f"{who}: a time", schedule, t, end=True)
    return t.astype(dtype)
