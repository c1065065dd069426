"""Noise schedules: x_t = alpha(t) x0 + sigma(t) eps, with lam = log(alpha / sigma) and its inverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._checks import concrete, is_traced
from jsamp._core._numerics import safe_log
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Key
from jsamp.noise._protocol import normal_prior


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


class LogAlpha:
    """Levels of a variance-preserving process from `_log_alpha(t)`, which returns the namespace and log alpha."""

    _log_alpha: Callable[[Any], tuple[Any, Any]]

    def alpha(self, t: Any) -> Any:
        """Signal coefficient at time t."""
        xp, log_alpha = self._log_alpha(t)
        return xp.exp(log_alpha)

    def sigma(self, t: Any) -> Any:
        """Noise coefficient at time t."""
        return sigma_from_log_alpha(*self._log_alpha(t))

    def lam(self, t: Any) -> Any:
        """Half log-SNR log(alpha / sigma) at time t; +inf at the noiseless time."""
        xp, log_alpha = self._log_alpha(t)
        return log_alpha - safe_log(xp, sigma_from_log_alpha(xp, log_alpha))

    def prior(self, key: Key, shape: Any, dtype: Any = jnp.float32) -> Any:
        """Draw noise at t_max, standard normal, of one shape or of a tree of shapes."""
        return normal_prior(key, shape, dtype)


WEAK = -2 * np.log(0.8)
"""Sum of rates whose signal power at t = 1, exp(-(beta_min + beta_max) / 2), is that of no noise schedule."""


@pytree
class VP(LogAlpha):
    """Preserve the variance with linear beta(t) = beta_min + t (beta_max - beta_min), t in [0, 1].

    log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2 and sigma^2 = 1 - alpha^2, by `expm1`, so sigma keeps
    its digits as t -> 0.

    Args:
        beta_min: rate at t = 0, >= 0.
        beta_max: rate at t = 1, > 0.

    Raises:
        ValueError: for rates that are negative or not finite, or leave more than 0.8 of the signal's power at t = 1.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> round(float(schedule.sigma(1e-3)), 6), round(float(schedule.time(schedule.lam(0.3))), 12)
        (0.010485, 0.3)

    Cost:
        A few elementwise operations for each time.

    References:
        Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021,
        arXiv:2011.13456.
    """

    beta_min: Any = field(default=0.1, check=_fields.not_negative)
    beta_max: Any = field(default=20.0, check=_fields.positive)

    def __post_init__(self):
        low, high = concrete(self.beta_min), concrete(self.beta_max)
        if low is not None and high is not None and np.any(low + high < WEAK):
            raise ValueError(
                f"VP: beta_min={self.beta_min} and beta_max={self.beta_max} leave most of the signal at t = 1. "
                f"They are rates over t in [0, 1]: N times the betas of a table of N indices. Pass for example 0.1, 20."
            )

    t_max = property(lambda self: 1.0, doc="Where grids start: 1.")
    t_min = property(lambda self: 1e-3, doc="Where grids end: 1e-3, sigma = 0.0105 with the default rates.")
    domain = property(lambda self: (0.0, 1.0), doc="Times at which the network may be asked.")

    def _log_alpha(self, t):
        xp, t, low, high = prepare(t, self.beta_min, self.beta_max)
        return xp, -(t**2) * (high - low) / 4 - t * low / 2

    def time(self, lam):
        """Find the time whose half log-SNR is lam."""
        xp, lam, low, high = prepare(lam, self.beta_min, self.beta_max)
        decay = -log_alpha_from_lam(xp, lam)
        return 4 * decay / (low + xp.sqrt(low**2 + 4 * (high - low) * decay))


@pytree
class Cosine:
    """Follow a cosine: alpha = cos(a(t)) / cos(a(0)), a(t) = (pi/2) (t + offset) / (1 + offset), sigma^2 = 1 - alpha^2.

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

    Cost:
        A few elementwise operations for each time.

    References:
        Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, arXiv:2102.09672.
    """

    offset: Any = field(default=0.008, check=_fields.positive)

    t_max = property(lambda self: 0.9946, doc="Where grids start; alpha is 0 at t = 1.")
    t_min = property(lambda self: 1e-3, doc="Where grids end.")
    domain = property(lambda self: (0.0, 1.0), doc="Times at which the network may be asked.")

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
        """Find the time whose half log-SNR is lam."""
        xp, lam, s = prepare(lam, self.offset)
        quarter = np.pi / 2 / (1 + s)
        log_alpha = log_alpha_from_lam(xp, lam)
        alpha, variance = xp.exp(log_alpha), -xp.expm1(2 * log_alpha)
        cos0, sin0 = xp.cos(quarter * s), xp.sin(quarter * s)
        sin_now = xp.sqrt(variance + (alpha * sin0) ** 2)
        difference = cos0 * variance / (sin_now + alpha * sin0)  # sin(a(t) - a(0)), without cancelling
        return xp.arctan2(difference, alpha * cos0 * cos0 + sin_now * sin0) / quarter

    def prior(self, key, shape, dtype=jnp.float32):
        """Draw noise at t_max, standard normal, of one shape or of a tree of shapes."""
        return normal_prior(key, shape, dtype)


@pytree
class VE:
    """Explode the variance, in the coordinates of EDM and k-diffusion: alpha = 1 and sigma(t) = t.

    Args:
        sigma_min: smallest noise level of a grid, > 0; grids with `final="zero"` then step to 0.
        sigma_max: largest noise level, > sigma_min; `prior` draws at this level.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.

    Example:
        >>> import jsamp as js
        >>> js.noise.karras_grid(js.noise.VE(0.002, 80.0), 3).round(3).tolist()
        [80.0, 2.515, 0.002, 0.0]

    Cost:
        A few elementwise operations for each time.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364.
    """

    sigma_min: Any = field(default=0.002, check=_fields.positive)
    sigma_max: Any = field(default=80.0, check=_fields.positive)

    def __post_init__(self):
        low, high = concrete(self.sigma_min), concrete(self.sigma_max)
        if low is not None and high is not None and np.any(low >= high):
            raise ValueError(f"VE: sigma_min must be below sigma_max, got {self.sigma_min} and {self.sigma_max}.")

    t_max = property(lambda self: self.sigma_max, doc="Where grids start: sigma_max.")
    t_min = property(lambda self: self.sigma_min, doc="Where grids end: sigma_min.")
    domain = property(lambda self: (0.0, self.sigma_max), doc="Times at which the network may be asked.")

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
        """Find the noise level whose half log-SNR is lam: exp(-lam)."""
        xp, lam = prepare(lam)
        return xp.exp(-lam)

    def prior(self, key, shape, dtype=jnp.float32):
        """Draw noise at t_max, sigma_max times a standard normal, of one shape or of a tree of shapes."""
        return normal_prior(key, shape, dtype, scale=self.sigma_max)


@pytree
class Flow:
    """Join data and noise by straight lines, a rectified flow: alpha = 1 - t, sigma = t, t in [0, 1]; dx/dt = eps - x0.

    lam = -inf at t = 1, where grids start: use predictions of x0, velocity or v there (an eps prediction says nothing
    about x0 where alpha = 0, and is refused). Logarithmic grids need a finite start, for example `t_max=0.999`.

    Example:
        >>> import jsamp as js
        >>> js.noise.time_grid(js.noise.Flow(), 4, final="zero").round(3).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]

    Cost:
        A few elementwise operations for each time.

    References:
        Liu, Gong and Liu, "Flow Straight and Fast", 2022, arXiv:2209.03003. Lipman et al., "Flow Matching for
        Generative Modeling", 2022, arXiv:2210.02747.
    """

    straight = True
    t_max = property(lambda self: 1.0, doc="Where grids start: pure noise.")
    t_min = property(lambda self: 1e-3, doc="Where grids end.")
    domain = property(lambda self: (0.0, 1.0), doc="Times at which the network may be asked.")

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
        """Find the time whose half log-SNR is lam."""
        xp, lam = prepare(lam)
        return xp.exp(-xp.logaddexp(0.0, lam)) if xp is np else jax.nn.sigmoid(-lam)

    def prior(self, key, shape, dtype=jnp.float32):
        """Draw noise at t = 1, standard normal, of one shape or of a tree of shapes."""
        return normal_prior(key, shape, dtype)
