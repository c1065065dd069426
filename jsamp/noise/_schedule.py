"""Noise schedules: x_t = alpha(t) x0 + sigma(t) eps, with lam = log(alpha / sigma) and its inverse."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_number, concrete, is_traced
from jsamp._core._numerics import safe_log
from jsamp._core._pytree import pytree


@runtime_checkable
class Schedule(Protocol):
    """What a solver needs of a noise process x_t = alpha(t) x0 + sigma(t) eps.

    Any object with these methods fits; nothing is inherited. `t` grows with the noise. `t_max` and `t_min` are where
    grids start and end unless told otherwise; `time(inf)` is the noiseless time.

    Example:
        >>> import jsamp as js
        >>> isinstance(js.noise.VP(), js.noise.Schedule)
        True
    """

    @property
    def t_max(self) -> Any: ...
    @property
    def t_min(self) -> Any: ...
    def alpha(self, t: Any) -> Any: ...
    def sigma(self, t: Any) -> Any: ...
    def lam(self, t: Any) -> Any: ...
    def time(self, lam: Any) -> Any: ...
    def prior(self, key: Any, shape: Any, dtype: Any = ...) -> Any: ...


def prepare(t: Any, *numbers: Any) -> tuple[Any, ...]:
    """Namespace, time and numbers: numpy float64 on the host, jax.numpy in the dtype of t otherwise."""
    if isinstance(t, jax.Array) or is_traced(t, *numbers):
        t = jnp.asarray(t)
        t = t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.result_type(float))
        return (jnp, t, *(jnp.asarray(v, t.dtype) for v in numbers))
    return (np, np.asarray(t, np.float64)[()], *(np.asarray(v, np.float64)[()] for v in numbers))


def sigma_from_log_alpha(xp: Any, log_alpha: Any) -> Any:
    """sqrt(1 - alpha^2) without cancellation, with a finite gradient at alpha = 1."""
    variance = 0.0 - xp.expm1(2 * log_alpha)
    if xp is np:
        return np.sqrt(variance)
    return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)


def log_alpha_from_lam(xp: Any, lam: Any) -> Any:
    """Log alpha of a variance-preserving process at half log-SNR lam."""
    return -0.5 * xp.logaddexp(0.0, -2 * lam) if xp is np else -0.5 * jax.nn.softplus(-2 * lam)


def normal_prior(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Standard normal noise, where a variance-preserving process starts."""
    return jax.random.normal(key, shape, dtype)


@pytree
class VP:
    """Variance-preserving diffusion with linear beta(t) = beta_min + t (beta_max - beta_min), t in [0, 1].

    log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2 and sigma^2 = 1 - alpha^2, by `expm1`, so sigma keeps
    its digits as t -> 0.

    Args:
        beta_min: rate at t = 0, >= 0.
        beta_max: rate at t = 1, > 0.

    Raises:
        ValueError: for rates that are negative or not finite.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> round(float(schedule.sigma(1e-3)), 6), round(float(schedule.time(schedule.lam(0.3))), 12)
        (0.010485, 0.3)

    References:
        Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021,
        arXiv:2011.13456.
    """

    beta_min: Any = 0.1
    beta_max: Any = 20.0

    def __post_init__(self):
        check_number("VP: beta_min", self.beta_min, low=0)
        check_number("VP: beta_max", self.beta_max, low=0, open_low=True)

    t_max = property(lambda self: 1.0, doc="Where grids start: 1.")
    t_min = property(lambda self: 1e-3, doc="Where grids end: 1e-3, sigma = 0.0105 with the default rates.")

    def _log_alpha(self, t):
        xp, t, low, high = prepare(t, self.beta_min, self.beta_max)
        return xp, -(t**2) * (high - low) / 4 - t * low / 2

    def alpha(self, t):
        """Signal coefficient at time t."""
        xp, log_alpha = self._log_alpha(t)
        return xp.exp(log_alpha)

    def sigma(self, t):
        """Noise coefficient at time t."""
        return sigma_from_log_alpha(*self._log_alpha(t))

    def lam(self, t):
        """Half log-SNR log(alpha / sigma) at time t; +inf at t = 0."""
        xp, log_alpha = self._log_alpha(t)
        return log_alpha - safe_log(xp, sigma_from_log_alpha(xp, log_alpha))

    def time(self, lam):
        """The time whose half log-SNR is lam."""
        xp, lam, low, high = prepare(lam, self.beta_min, self.beta_max)
        decay = -log_alpha_from_lam(xp, lam)
        return 4 * decay / (low + xp.sqrt(low**2 + 4 * (high - low) * decay))

    def prior(self, key, shape, dtype=jnp.float32):
        """Noise at t_max: standard normal."""
        return normal_prior(key, shape, dtype)


@pytree
class Cosine:
    """Cosine schedule: alpha = cos(a(t)) / cos(a(0)), a(t) = (pi/2) (t + offset) / (1 + offset), sigma^2 = 1 - alpha^2.

    Written with sines of differences, so both ends keep their digits. alpha(1) = 0; grids start at t_max = 0.9946
    (lam = -4.78), where published solvers start.

    Args:
        offset: the `s` of the paper, > 0.

    Raises:
        ValueError: for an offset that is not positive.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.Cosine()
        >>> float(schedule.alpha(0.0)), round(float(schedule.time(schedule.lam(1e-6))), 18)
        (1.0, 1e-06)

    References:
        Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, arXiv:2102.09672.
    """

    offset: Any = 0.008

    def __post_init__(self):
        check_number("Cosine: offset", self.offset, low=0, open_low=True)

    t_max = property(lambda self: 0.9946, doc="Where grids start; alpha is 0 at t = 1.")
    t_min = property(lambda self: 1e-3, doc="Where grids end.")

    def alpha(self, t):
        """Signal coefficient at time t."""
        xp, t, s = prepare(t, self.offset)
        quarter = np.pi / 2 / (1 + s)
        return xp.sin(quarter * (1 - t)) / xp.cos(quarter * s)

    def sigma(self, t):
        """Noise coefficient at time t."""
        xp, t, s = prepare(t, self.offset)
        quarter = np.pi / 2 / (1 + s)
        variance = xp.sin(quarter * t) * xp.sin(quarter * (t + 2 * s))
        if xp is jnp:
            variance = jnp.where(t > 0, variance, 0)
            return jnp.where(t > 0, jnp.sqrt(jnp.where(t > 0, variance, 1)), 0) / jnp.cos(quarter * s)
        return np.sqrt(np.maximum(variance, 0)) / np.cos(quarter * s)

    def lam(self, t):
        """Half log-SNR log(alpha / sigma) at time t; +inf at t = 0 and -inf at t = 1."""
        xp = prepare(t, self.offset)[0]
        return safe_log(xp, self.alpha(t)) - safe_log(xp, self.sigma(t))

    def time(self, lam):
        """The time whose half log-SNR is lam."""
        xp, lam, s = prepare(lam, self.offset)
        quarter = np.pi / 2 / (1 + s)
        log_alpha = log_alpha_from_lam(xp, lam)
        alpha, variance = xp.exp(log_alpha), -xp.expm1(2 * log_alpha)
        cos0, sin0 = xp.cos(quarter * s), xp.sin(quarter * s)
        sin_now = xp.sqrt(variance + (alpha * sin0) ** 2)
        difference = cos0 * variance / (sin_now + alpha * sin0)  # sin(a(t) - a(0)), without cancelling
        return xp.arctan2(difference, alpha * cos0 * cos0 + sin_now * sin0) / quarter

    def prior(self, key, shape, dtype=jnp.float32):
        """Noise at t_max: standard normal."""
        return normal_prior(key, shape, dtype)


@pytree
class VE:
    """Variance-exploding diffusion in the coordinates of EDM and k-diffusion: alpha = 1 and sigma(t) = t.

    Args:
        sigma_min: smallest noise level of a grid, > 0; grids with `final="zero"` then step to 0.
        sigma_max: largest noise level, > sigma_min; `prior` draws at this level.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.

    Example:
        >>> import jsamp as js
        >>> js.noise.karras_grid(js.noise.VE(0.002, 80.0), 3).round(3).tolist()
        [80.0, 2.515, 0.002, 0.0]

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364.
    """

    sigma_min: Any = 0.002
    sigma_max: Any = 80.0

    def __post_init__(self):
        check_number("VE: sigma_min", self.sigma_min, low=0, open_low=True)
        check_number("VE: sigma_max", self.sigma_max, low=0, open_low=True)
        low, high = concrete(self.sigma_min), concrete(self.sigma_max)
        if low is not None and high is not None and np.any(low >= high):
            raise ValueError(f"VE: sigma_min must be below sigma_max, got {self.sigma_min} and {self.sigma_max}.")

    t_max = property(lambda self: self.sigma_max, doc="Where grids start: sigma_max.")
    t_min = property(lambda self: self.sigma_min, doc="Where grids end: sigma_min.")

    def alpha(self, t):
        """Signal coefficient: 1."""
        xp, t = prepare(t)
        return xp.ones_like(t)[()]

    def sigma(self, t):
        """Noise coefficient: t itself."""
        return prepare(t)[1]

    def lam(self, t):
        """Half log-SNR: -log t."""
        xp, t = prepare(t)
        return -safe_log(xp, t)

    def time(self, lam):
        """The noise level whose half log-SNR is lam: exp(-lam)."""
        xp, lam = prepare(lam)
        return xp.exp(-lam)

    def prior(self, key, shape, dtype=jnp.float32):
        """Noise at t_max: sigma_max times a standard normal."""
        return jnp.asarray(self.sigma_max, dtype) * normal_prior(key, shape, dtype)


@pytree
class Flow:
    """Rectified flow: alpha = 1 - t and sigma = t, t in [0, 1]. The velocity is dx/dt = eps - x0.

    lam = -inf at t = 1, where grids start: use predictions of x0, velocity or v there (an eps prediction says nothing
    about x0 where alpha = 0, and is refused). Logarithmic grids need a finite start, for example `t_max=0.999`.

    Example:
        >>> import jsamp as js
        >>> js.noise.time_grid(js.noise.Flow(), 4, final="zero").round(3).tolist()
        [1.0, 0.667, 0.334, 0.001, 0.0]

    References:
        Liu, Gong and Liu, "Flow Straight and Fast", 2022, arXiv:2209.03003. Lipman et al., "Flow Matching for
        Generative Modeling", 2022, arXiv:2210.02747.
    """

    t_max = property(lambda self: 1.0, doc="Where grids start: pure noise.")
    t_min = property(lambda self: 1e-3, doc="Where grids end.")

    def alpha(self, t):
        """Signal coefficient: 1 - t."""
        return 1 - prepare(t)[1]

    def sigma(self, t):
        """Noise coefficient: t."""
        return prepare(t)[1]

    def lam(self, t):
        """Half log-SNR log((1 - t) / t)."""
        xp, t = prepare(t)
        return safe_log(xp, 1 - t) - safe_log(xp, t)

    def time(self, lam):
        """The time whose half log-SNR is lam."""
        xp, lam = prepare(lam)
        return xp.exp(-xp.logaddexp(0.0, lam)) if xp is np else jax.nn.sigmoid(-lam)

    def prior(self, key, shape, dtype=jnp.float32):
        """Noise at t = 1: standard normal."""
        return normal_prior(key, shape, dtype)
