"""Discrete schedules of trained networks, continued to real times."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_count, check_number, concrete
from jsamp._core._numerics import safe_log
from jsamp._core._pytree import pytree, replace
from jsamp.noise._schedule import log_alpha_from_lam, normal_prior, prepare, sigma_from_log_alpha


def _cumulative(betas: np.ndarray) -> Discrete:
    return replace(Discrete(np.ones(1) / 2), log_alpha=0.5 * np.cumsum(np.log1p(-betas)))


@pytree
class Discrete:
    """The schedule of a network trained on N discrete steps; time is the network's own index 0..N-1.

    log alpha is linear between indices, so a solver may step to any real time and the network is asked at that real
    index. Index -1 is the noiseless end (alpha = 1), where grids with `final="zero"` stop.

    Args:
        alphas_cumprod: [N], decreasing, in (0, 1): alpha^2 at index 0..N-1. The last one may be 0 (zero terminal SNR).

    Raises:
        ValueError: for values outside [0, 1), or that do not decrease.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.Discrete.ddpm_linear()
        >>> round(float(schedule.sigma(0)), 6), round(float(schedule.time(schedule.lam(123.25))), 9)
        (0.01, 123.25)

    References:
        Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239. Rombach et al.,
        "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752 (scaled linear).
    """

    log_alpha: Any

    def __init__(self, alphas_cumprod: Any):
        known = concrete(alphas_cumprod)
        if known is None:
            log_alpha = 0.5 * jnp.log(alphas_cumprod)
        else:
            if known.ndim != 1 or known.size == 0:
                raise ValueError(f"Discrete: alphas_cumprod must be a vector [N], got shape {known.shape}.")
            known = known.astype(np.float64)
            if not (np.all(known >= 0) and np.all(known < 1)):
                raise ValueError(
                    "Discrete: alphas_cumprod must lie in [0, 1). Pass the cumulative products, not betas."
                )
            if np.any(np.diff(known) >= 0):
                raise ValueError(
                    "Discrete: alphas_cumprod must decrease with the index. Pass alphas_cumprod, not betas."
                )
            log_alpha = 0.5 * safe_log(np, known)
        object.__setattr__(self, "log_alpha", log_alpha)

    @classmethod
    def ddpm_linear(cls, num: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Discrete:
        """Betas linear in the index, as DDPM."""
        start, end = _betas(beta_start, beta_end)
        return _cumulative(np.linspace(start, end, check_count("ddpm_linear: num", num)))

    @classmethod
    def scaled_linear(cls, num: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Discrete:
        """Square roots of betas linear in the index, as Stable Diffusion."""
        start, end = np.sqrt(_betas(beta_start, beta_end))
        return _cumulative(np.linspace(start, end, check_count("scaled_linear: num", num)) ** 2)

    @classmethod
    def cosine(cls, num: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Discrete:
        """Betas from ratios of the cosine schedule, none above `max_beta`, as improved DDPM."""
        check_number("cosine: max_beta", max_beta, low=0, high=1 - 1e-9, open_low=True)
        level = np.arange(check_count("cosine: num", num) + 1) / num
        signal = np.cos((level + offset) / (1 + offset) * np.pi / 2) ** 2
        return _cumulative(np.minimum(1 - signal[1:] / signal[:-1], max_beta))

    t_max = property(lambda self: float(self.log_alpha.shape[0] - 1), doc="The noisiest index, N - 1.")
    t_min = property(lambda self: 0.0, doc="The cleanest index the network knows, 0.")

    def _log_alpha(self, t):
        xp, t, table = prepare(t, self.log_alpha)
        table = xp.concatenate([xp.zeros_like(table[:1]), table])
        last = table.shape[0] - 2
        low = xp.clip(xp.floor(t), -1, last)
        share = xp.clip(t - low, 0, 1)
        index = low.astype(int) + 1
        # An index itself never touches its neighbour, which may be -inf under zero terminal SNR.
        left, right = table[index], table[xp.where(share > 0, xp.minimum(index + 1, last + 1), index)]
        finite = xp.isfinite(left) & xp.isfinite(right)
        rise = xp.where(finite, right, 0) - xp.where(finite, left, 0)
        return xp, (xp.where(finite | (share == 0), left, right) + share * rise)[()]

    def alpha(self, t):
        """Signal coefficient at real index t in [-1, N-1]."""
        xp, log_alpha = self._log_alpha(t)
        return xp.exp(log_alpha)

    def sigma(self, t):
        """Noise coefficient at real index t in [-1, N-1]."""
        return sigma_from_log_alpha(*self._log_alpha(t))

    def lam(self, t):
        """Half log-SNR at real index t; +inf at t = -1."""
        xp, log_alpha = self._log_alpha(t)
        return log_alpha - safe_log(xp, sigma_from_log_alpha(xp, log_alpha))

    def time(self, lam):
        """The real index whose half log-SNR is lam."""
        xp, lam, table = prepare(lam, self.log_alpha)
        table = xp.concatenate([xp.zeros_like(table[:1]), table])
        index = xp.arange(-1, table.shape[0] - 1).astype(table.dtype)
        return xp.interp(-log_alpha_from_lam(xp, lam), -table, index)

    def prior(self, key, shape, dtype=jnp.float32):
        """Noise at t_max: standard normal."""
        return normal_prior(key, shape, dtype)


def _betas(start: float, end: float) -> tuple[float, float]:
    check_number("beta_start", start, low=0, high=1 - 1e-9, open_low=True)
    check_number("beta_end", end, low=0, high=1 - 1e-9, open_low=True)
    return start, end
