"""Samplers of few-step networks: predict x0, then noise it back up to the next level, wholly or in part."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_count, check_scalar
from jsamp._core._numerics import namespace
from jsamp._core._types import Grid, Scalar, Schedule
from jsamp.noise._grid import time_grid
from jsamp.solve._ancestral import ddpm
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._weights import check_grid


def consistency(schedule: Schedule, grid: Grid) -> Plan:
    """Sample a consistency model in several steps: predict x0 and noise it anew to the next level; that of LCM too.

    x <- alpha_next x0 + sigma_next z. Nothing of x but its x0 is kept, so a network that maps every x_t to the end of
    its trajectory (a consistency model) gives exact samples at any number of steps. End the grid with `final="zero"`:
    the result is then the last x0; otherwise it is a sample at the last level. One step is the one-step generator.

    Args:
        schedule: a noise schedule.
        grid: [n + 1] decreasing times.

    Returns:
        A stochastic plan of n rows.

    Raises:
        ValueError: for a bad grid.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VE()
        >>> js.solve.consistency(schedule, js.noise.karras_grid(schedule, 2)).noise_std.round(3).tolist()
        [0.002, 0.0]

    Cost:
        n denoiser calls, no history.

    References:
        Song et al., "Consistency Models", 2023, arXiv:2303.01469. Luo et al., "Latent Consistency Models", 2023,
        arXiv:2310.04378.
    """
    return _renoised("consistency", schedule, grid, 1.0)


def tcd(schedule: Schedule, grid: Grid, *, gamma: Scalar = 0.3) -> Plan:
    """Step without noise beyond the next time, then noise back up to it: gamma sampling of CTM, TCD's sampler.

    With s = (1 - gamma) t_next, counted from the noiseless time: x_s = alpha_s x0 + sigma_s eps, then x <- (alpha_next
    / alpha_s) x_s + sqrt(sigma_next^2 - (alpha_next / alpha_s)^2 sigma_s^2) z. gamma = 0 is `ddim`, 1 is `consistency`.

    Args:
        schedule: a noise schedule.
        grid: [n + 1] decreasing times.
        gamma: share of the way to the noiseless time that is noised anew, in [0, 1] (eta of diffusers' TCD).

    Returns:
        A stochastic plan of n rows.

    Raises:
        ValueError: for a bad grid, or gamma outside [0, 1].

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.tcd(schedule, js.noise.time_grid(schedule, 4, final="zero")).nfe
        4

    Cost:
        n denoiser calls, no history.

    References:
        Kim et al., "Consistency Trajectory Models: Learning Probability Flow ODE Trajectory of Diffusion", 2023,
        arXiv:2310.02279. Zheng et al., "Trajectory Consistency Distillation", 2024, arXiv:2402.19159.
    """
    return _renoised("tcd", schedule, grid, gamma)


def ddgan(schedule: Schedule, num: int, *, t_min: Any = 1e-3) -> Plan:
    """Sample a denoising-diffusion GAN: the Gaussian posterior of each of a few steps, around an x0 that is drawn.

    Times t_min + (t_max - t_min) i / num, i = num, ..., 1, then the noiseless time: the last step returns its x0.
    The posterior is that of `ddpm`. It is exact for any number of steps when the denoiser draws its x0 from
    p(x0 | x_t), by the `key=` with which it is called; a mean in its place narrows the law, the more the fewer steps.

    Args:
        schedule: a noise schedule; the paper takes `VP`.
        num: number of steps (static); the paper takes 2 to 8.
        t_min: end of the regular times, where the paper's first step begins.

    Returns:
        A plan of `num` rows, stochastic where num > 1.

    Raises:
        ValueError: for num < 1, or a t_min outside the schedule.

    Example:
        >>> import jsamp as js
        >>> js.solve.ddgan(js.noise.VP(), 4).t.round(2).tolist()
        [1.0, 0.75, 0.5, 0.25]

    Cost:
        num denoiser calls, no history.

    References:
        Xiao, Kreis and Vahdat, "Tackling the Generative Learning Trilemma with Denoising Diffusion GANs", 2022,
        arXiv:2112.07804.
    """
    check_count("ddgan: num", num)
    times = time_grid(schedule, num, t_min=t_min)[:-1]
    clean = schedule.time(np.inf) if isinstance(times, np.ndarray) else schedule.time(jnp.inf)
    return ddpm(schedule, namespace(times).append(times, clean))


def _renoised(name: str, schedule: Any, grid: Any, gamma: Any) -> Plan:
    path = check_grid(name, schedule, grid, gamma)
    check_scalar(f"{name}: gamma", gamma, low=0, high=1)
    xp, rows = path.xp, []
    clean = schedule.time(xp.asarray(np.inf, path.t.dtype))
    for i in range(path.steps):
        (_, alpha, sigma), (_, alpha_next, sigma_next) = path.at(i), path.at(i + 1)
        t = clean + (1 - gamma) * (path.t[i + 1] - clean)
        alpha_low, sigma_low = schedule.alpha(t) * xp.ones(()), schedule.sigma(t) * xp.ones(())
        lift = alpha_next / alpha_low
        ratio = lift * sigma_low / sigma
        variance = xp.maximum(sigma_next**2 - (lift * sigma_low) ** 2, 0.0 if xp is np else 1e-30)
        weights = {i: alpha_next - ratio * alpha}
        rows.append(Row(path.at(i), path.at(i + 1), ratio, weights, noise_std=xp.sqrt(variance)))
    return assemble(rows, kind="x0")
