"""First-order solvers: DDIM, the member that every family shares, and DDPM with its choice of variance."""

from __future__ import annotations

from typing import Any

import numpy as np

from jsamp._core._checks import check_choice, check_number, check_scalar, concrete
from jsamp._core._pytree import replace
from jsamp._core._types import Grid, Scalar, Schedule
from jsamp.solve._multistep import build, prepare
from jsamp.solve._plan import Plan
from jsamp.solve._weights import Path


def ddim(schedule: Schedule, grid: Grid, *, eta: Any = 0.0) -> Plan:
    """Make DDIM: the first-order step every family shares (DPM-Solver-1, Euler in sigma, Euler on a rectified flow).

    x_t = sqrt(sigma_t^2 - s^2) eps + alpha_t x0 + s z, with s = eta (sigma_t / sigma_s) sqrt(sigma_s^2 - sigma_t^2
    alpha_s^2 / alpha_t^2); eta = 0 is the ODE, eta = 1 is DDPM. Order 1.

    Args:
        schedule: a noise schedule.
        grid: [n + 1] decreasing times.
        eta: Song's eta in [0, 1]: share of the ancestral noise.

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid, or eta outside [0, 1].

    Example:
        >>> import jsamp as js
        >>> js.solve.ddim(js.noise.VP(), js.noise.time_grid(js.noise.VP(), 10), eta=1.0).stochastic
        True

    Cost:
        n denoiser calls, no history.

    References:
        Song, Meng and Ermon, "Denoising Diffusion Implicit Models", 2021, arXiv:2010.02502.
    """
    path = prepare("ddim", schedule, grid, 1, False, eta)
    check_scalar("ddim: eta", eta, low=0, high=1)
    known, xp = concrete(eta), path.xp
    if known is not None and known == 0:
        return build(path, kind="x0", order=1)

    def integrals(i, point):
        (_, a0, s0), (_, a1, s1) = path.at(i), path.at(i + 1)
        share = 1 - (s1 * a0 / (s0 * a1)) ** 2
        noise = eta * s1 * xp.sqrt(share)
        a = s1 * xp.sqrt(1 - eta**2 * share) / s0
        return a, noise, lambda q: [a1 - a * a0]

    return build(path, kind="x0", order=1, tau=[0.0] * path.steps, integrals=integrals)


def ddpm(schedule: Schedule, grid: Grid, *, variance: str | Scalar = "small") -> Plan:
    """Make DDPM ancestral sampling: the posterior mean of q(x_t | x_s, x0) at the predicted x0; variance by choice.

    "small" is the variance of that posterior, right for data at a point: the plan of `ddim(eta=1)` and of first-order
    SDE-DPM-Solver++ (tau = 1). "large" is the forward variance sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2 (beta),
    right for standard normal data. A number v between them is the log-linear mixture of a learned range, v log large +
    (1 - v) log small, the same for every coordinate. Weak order 1.

    Args:
        schedule: a noise schedule.
        grid: [n + 1] decreasing times.
        variance: "small", "large", or v in [0, 1], one number or one for each step [n].

    Returns:
        A stochastic plan of n rows.

    Raises:
        ValueError: for a bad grid or variance.

    Example:
        >>> import jsamp as js
        >>> js.solve.ddpm(js.noise.VP(), js.noise.time_grid(js.noise.VP(), 10)).nfe
        10

    Cost:
        n denoiser calls, no history.

    References:
        Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239. Nichol and Dhariwal,
        "Improved Denoising Diffusion Probabilistic Models", 2021, arXiv:2102.09672 (learned range).
    """
    path = prepare("ddpm", schedule, grid, 1, False, None if isinstance(variance, str) else variance)
    plan = build(path, kind="x0", order=1, tau=[1.0] * path.steps)
    if isinstance(variance, str):
        check_choice("ddpm: variance", variance, ("small", "large"))
        return plan if variance == "small" else _between(path, plan, 1.0)
    check_number("ddpm: variance", variance, low=0, high=1)
    if np.shape(variance) not in ((), (path.steps,)):
        raise ValueError(f"ddpm: variance must be one number or one per step [{path.steps}], got {np.shape(variance)}.")
    return _between(path, plan, variance)


def _between(path: Path, plan: Plan, share: Any) -> Plan:
    """The plan with the noise of a share of the way, in logarithms, from its own variance to the forward one."""
    xp, last = path.xp, path.noiseless[1:]
    large = path.sigma[:-1] ** 2 - (path.alpha[:-1] / path.alpha[1:] * path.sigma[1:]) ** 2
    small = xp.where(last, 1.0, plan.noise_std)
    mixed = xp.exp(share * 0.5 * xp.log(large) + (1 - share) * xp.log(small))
    return replace(plan, noise_std=xp.where(last, 0.0, mixed))
