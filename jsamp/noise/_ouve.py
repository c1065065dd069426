"""The Ornstein-Uhlenbeck process with exploding variance, on the residual of an estimate."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._checks import concrete
from jsamp._core._numerics import safe_log
from jsamp._core._pytree import field, pytree
from jsamp.noise._protocol import normal_prior
from jsamp.noise._schedule import log_alpha_from_lam, prepare, sigma_from_log_alpha


@pytree
class OUVE:
    """Diffuse a residual u = x - estimate by an Ornstein-Uhlenbeck process with exploding variance: SGMSE, StoRM.

    dx = stiffness (estimate - x) dt + g dw, g = sigma_min (sigma_max / sigma_min)^t sqrt(2 L), L = log(sigma_max /
    sigma_min): alpha = exp(-stiffness t) and sigma^2 = sigma_min^2 alpha^2 expm1(2 (stiffness + L) t) L / (stiffness +
    L). In x the mean goes from x0 to the estimate; in u it is an ordinary schedule, so every solver runs on it. See
    `js.solve.regenerate`.

    Args:
        stiffness: rate gamma at which the mean goes to the estimate, > 0.
        sigma_min: scale of the noise at t = 0, > 0.
        sigma_max: scale at t = 1, > sigma_min. The noise reached at t = 1 is smaller: 0.389 with the defaults.

    Raises:
        ValueError: for numbers that are not positive, or sigma_max not above sigma_min.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.OUVE()
        >>> round(float(schedule.sigma(0.5)), 5), round(float(schedule.alpha(1.0)), 5)
        (0.12166, 0.22313)

    Cost:
        A few elementwise operations for each time.

    References:
        Lemercier et al., "StoRM: A Diffusion-based Stochastic Regeneration Model for Speech Enhancement and
        Dereverberation", 2023, arXiv:2212.11851. Richter et al., "Speech Enhancement and Dereverberation with
        Diffusion-based Generative Models", 2023, arXiv:2208.05830.
    """

    stiffness: Any = field(default=1.5, check=_fields.positive)
    sigma_min: Any = field(default=0.05, check=_fields.positive)
    sigma_max: Any = field(default=0.5, check=_fields.positive)

    def __post_init__(self):
        low, high = concrete(self.sigma_min), concrete(self.sigma_max)
        if low is not None and high is not None and np.any(low >= high):
            raise ValueError(f"OUVE: sigma_max must be above sigma_min, got {self.sigma_max} and {self.sigma_min}.")

    t_max = property(lambda self: 1.0, doc="Where grids start: 1.")
    t_min = property(lambda self: 0.03, doc="Where grids end: 0.03, sigma = 0.0188 with the defaults.")
    domain = property(lambda self: (0.0, 1.0), doc="Times at which the network may be asked.")

    def _parts(self, t):
        """Namespace, time, stiffness, total rate stiffness + L, and the log of sigma_min^2 L / (stiffness + L)."""
        xp, t, rate, low, high = prepare(t, self.stiffness, self.sigma_min, self.sigma_max)
        spread = xp.log(high) - xp.log(low)
        return xp, t, rate, rate + spread, 2 * xp.log(low) + xp.log(spread / (rate + spread))

    def alpha(self, t):
        """Signal coefficient of the residual: exp(-stiffness t)."""
        xp, t, rate, _, _ = self._parts(t)
        return xp.exp(-rate * t)

    def sigma(self, t):
        """Noise coefficient at time t."""
        xp, t, rate, total, scale = self._parts(t)
        # sqrt(expm1(2 total t)) = exp(total t) sqrt(1 - exp(-2 total t)), finite gradients at t = 0 included.
        return xp.exp(scale / 2 + (total - rate) * t) * sigma_from_log_alpha(xp, -total * t)

    def lam(self, t):
        """Half log-SNR log(alpha / sigma) at time t; +inf at t = 0."""
        xp, t, _, total, scale = self._parts(t)
        return -scale / 2 - total * t - safe_log(xp, sigma_from_log_alpha(xp, -total * t))

    def time(self, lam):
        """Find the time whose half log-SNR is lam."""
        xp, lam, _, total, scale = self._parts(lam)
        return -log_alpha_from_lam(xp, lam + scale / 2) / total

    def prior(self, key, shape, dtype=jnp.float32):
        """Draw noise at t_max, around the estimate, of one shape or of a tree of shapes."""
        return normal_prior(key, shape, dtype, scale=self.sigma(1.0))
