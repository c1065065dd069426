"""Discrete schedules of trained networks, continued to real times."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._checks import check_count, check_number, concrete
from jsamp._core._numerics import safe_log
from jsamp._core._pytree import construct, pytree, replace
from jsamp.noise._schedule import LogAlpha, log_alpha_from_lam, prepare, sigma_from_log_alpha

SLACK = 1e-6  # of an index: rounding in float32


def _log_alpha(name: str, value: Any) -> Any:
    """Log alpha of a table of cumulative products, refused when it is something else."""
    known = concrete(value)
    if known is None:
        return 0.5 * jnp.log(value)
    if known.ndim != 1 or known.size == 0:
        raise ValueError(f"{name} must be a vector [N], got shape {known.shape}.")
    if not jnp.issubdtype(known.dtype, jnp.number) or np.iscomplexobj(known):
        raise TypeError(f"{name} must hold real numbers, got {known.dtype}.")
    coarse = "" if known.dtype.itemsize > 2 else f" In {known.dtype} neighbours coincide: pass float32 or float64."
    known = known.astype(np.float64)
    if known.size > 1 and known[0] == 1 and not coarse:
        raise ValueError(
            f"{name}[0] is 1, the noiseless level, which Discrete has at index -1 itself. Drop the first entry, "
            f"alphas_cumprod[1:], and give the network its own index back: Denoiser(..., time_map=lambda t: t + 1)."
        )
    if not (np.all(known >= 0) and np.all(known < 1)):
        raise ValueError(f"{name} must lie in [0, 1). Pass the cumulative products, not betas.{coarse}")
    if np.any(np.diff(known) >= 0):
        raise ValueError(f"{name} must decrease with the index. Pass alphas_cumprod, not betas.{coarse}")
    _check_is_cumulative(name, known)
    return 0.5 * safe_log(np, known)


def _check_is_cumulative(name: str, table: np.ndarray) -> None:
    """Refuse 1 - beta and sqrt(alphas_cumprod), which decrease within (0, 1) as well."""
    if table.size < 3:
        return
    first, second = 1 - table[0], 1 - table[1] / table[0]
    if table[-1] > 0.8 or (table[0] > 0.99 and second < 0.5 * first):
        raise ValueError(
            f"{name} go from {table[0]:.6g} over {table[1]:.6g} to {table[-1]:.6g}, which is no product of 1 - beta "
            f"down to noise. Pass np.cumprod(1 - betas), or use Discrete.from_betas(betas)."
        )
    for known, label in ((_ddpm(table.size), "ddpm_linear"), (_scaled(table.size), "scaled_linear")):
        if known is not None and np.allclose(table**2, known, rtol=1e-4):
            raise ValueError(
                f"{name} are the square roots of the table of {label}: this looks like sqrt(alphas_cumprod). Square it."
            )


def _ddpm(num: int, start: float = 1e-4, end: float = 0.02) -> np.ndarray | None:
    scale = 1000 / num
    return np.cumprod(1 - np.linspace(start, end, num) * scale) if end * scale < 1 else None


def _scaled(num: int, start: float = 0.00085, end: float = 0.012) -> np.ndarray | None:
    scale = 1000 / num
    return np.cumprod(1 - np.linspace(start**0.5, end**0.5, num) ** 2 * scale) if end * scale < 1 else None


def _from_betas(betas: np.ndarray) -> Discrete:
    return replace(Discrete(np.ones(1) / 2), log_alpha=0.5 * np.cumsum(np.log1p(-betas)))


@pytree
class Discrete(LogAlpha):
    """Hold the schedule of a network trained on N discrete steps; time is the network's own index 0..N-1.

    log alpha is linear between indices, so a solver may step to any real time and the network is asked at that real
    index. Index -1 is the noiseless end (alpha = 1), where grids with `final="zero"` stop.

    Args:
        log_alpha: the table alphas_cumprod [N], decreasing, in (0, 1): alpha^2 at index 0..N-1. The last one may be 0
            (zero terminal SNR). Stored as its logarithm, halved.

    Raises:
        ValueError: for values outside [0, 1), or that do not decrease, or that are 1 - beta or square roots; for a
            table that begins with the noiseless level 1; for an SNR beyond the table in `time`.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.Discrete.ddpm_linear()
        >>> round(float(schedule.sigma(0)), 6), round(float(schedule.time(schedule.lam(123.25))), 9)
        (0.01, 123.25)

    Cost:
        A search of the table for each time; memory of N numbers.

    References:
        Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239. Rombach et al.,
        "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752 (scaled linear). Lin et
        al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv:2305.08891 (zero terminal SNR).
    """

    log_alpha: Any

    def __init__(self, alphas_cumprod: Any):
        construct(self, log_alpha=_log_alpha("Discrete: alphas_cumprod", alphas_cumprod))

    @classmethod
    def from_betas(cls, betas: Any) -> Discrete:
        """Take betas [N] in (0, 1): alpha^2 at index i is the product of 1 - beta over 0..i."""
        known = np.asarray(betas, np.float64)
        if known.ndim != 1 or known.size == 0:
            raise ValueError(f"from_betas: betas must be a vector [N], got shape {known.shape}.")
        check_number("from_betas: betas", known, low=0, high=1 - 1e-12, open_low=True)
        return _from_betas(known)

    @classmethod
    def ddpm_linear(cls, num: int = 1000, beta_start: Any = None, beta_end: Any = None) -> Discrete:
        """Betas linear in the index, as DDPM: from 1e-4 to 0.02, times 1000 / num so that any num ends in noise."""
        start, end = _betas("ddpm_linear", num, beta_start, beta_end, 1e-4, 0.02)
        return _from_betas(np.linspace(start, end, num))

    @classmethod
    def scaled_linear(cls, num: int = 1000, beta_start: Any = None, beta_end: Any = None) -> Discrete:
        """Square roots of betas linear in the index, as Stable Diffusion: from .00085 to .012, times 1000 / num."""
        start, end = np.sqrt(_betas("scaled_linear", num, beta_start, beta_end, 0.00085, 0.012))
        return _from_betas(np.linspace(start, end, num) ** 2)

    @classmethod
    def cosine(cls, num: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Discrete:
        """Betas from ratios of the cosine schedule, none above `max_beta`, as improved DDPM."""
        _fields.positive("cosine: offset", offset)
        check_number("cosine: max_beta", max_beta, low=0, high=1 - 1e-9, open_low=True)
        level = np.arange(check_count("cosine: num", num) + 1) / num
        signal = np.cos((level + offset) / (1 + offset) * np.pi / 2) ** 2
        return _from_betas(np.minimum(1 - signal[1:] / signal[:-1], max_beta))

    def zero_terminal_snr(self) -> Discrete:
        """Rescale the table so that the last index is pure noise: alpha shifted to end at 0 and scaled to keep index 0.

        For networks that predict v and were trained so; `js.sample` refuses an eps network where alpha = 0.
        """
        xp = np if concrete(self.log_alpha) is not None else jnp
        alpha = xp.exp(self.log_alpha)
        shifted = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
        return replace(self, log_alpha=safe_log(xp, shifted))

    t_max = property(lambda self: float(self.log_alpha.shape[0] - 1), doc="The noisiest index, N - 1.")
    t_min = property(lambda self: 0.0, doc="The cleanest index the network knows, 0.")
    domain = property(lambda self: (0.0, self.t_max), doc="Indices at which the network may be asked.")

    def _log_alpha(self, t):
        self._check_index(t)
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

    def time(self, lam):
        """Find the real index whose half log-SNR is lam; refused where the table does not reach so much noise."""
        self._check_reach(lam)
        xp, lam, table = prepare(lam, self.log_alpha)
        if lam.dtype.itemsize < 4:  # neighbours of the table are equal in half precision
            return self.time(lam.astype(jnp.float32)).astype(lam.dtype)
        table = xp.concatenate([xp.zeros_like(table[:1]), table])
        index = xp.arange(-1, table.shape[0] - 1).astype(table.dtype)
        return xp.interp(-log_alpha_from_lam(xp, lam), -table, index)

    def _check_index(self, t):
        """Refuse known indices that the table has not: it would be read at its end."""
        known, last = concrete(t), self.t_max
        if known is None:
            return
        half = known.dtype.itemsize < 4 and jnp.issubdtype(known.dtype, jnp.floating)
        slack = max(SLACK, float(jnp.finfo(known.dtype).eps) if half else 0.0)
        outside = (known < -1 - slack) | (known > last + slack * last)
        if np.any(outside):
            raise ValueError(
                f"Discrete: index {float(known[outside].flat[0]):.6g} is outside the table. Take indices between 0 and "
                f"{last:g}, or -1 for no noise."
            )

    def _check_reach(self, lam):
        known, table = concrete(lam), concrete(self.log_alpha)
        if known is None or table is None or known.size == 0:
            return
        last = float(table[-1] - safe_log(np, sigma_from_log_alpha(np, np.float64(table[-1]))))
        lowest = float(np.min(known))
        if lowest < last - 1e-4 * (1 + abs(last)):
            raise ValueError(
                f"Discrete.time: lam={lowest:.6g} (sigma / alpha = {np.exp(-lowest):.4g}) lies beyond the noisiest "
                f"index, {table.size - 1}, where lam={last:.6g} (sigma / alpha = {np.exp(-last):.4g}). The network "
                f"knows no such noise: start lower."
            )


def _betas(who, num, start, end, default_start, default_end):
    scale = 1000 / check_count(f"{who}: num", num)
    if end is None and default_end * scale >= 1:
        raise ValueError(f"{who}: num={num} is too few for betas scaled by 1000 / num; pass beta_start and beta_end.")
    start, end = default_start * scale if start is None else start, default_end * scale if end is None else end
    check_number(f"{who}: beta_start", start, low=0, high=1 - 1e-9, open_low=True)
    check_number(f"{who}: beta_end", end, low=0, high=1 - 1e-9, open_low=True)
    return start, end
