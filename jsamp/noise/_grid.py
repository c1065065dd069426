"""Grids: functions that return n + 1 decreasing times. The grid is the only truth a solver knows about time."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from jsamp._core._checks import check_choice, check_count, check_number, check_scalar, concrete
from jsamp._core._numerics import as_array, namespace, safe_log
from jsamp._core._types import Array, Grid, Schedule
from jsamp.noise._protocol import End, check_schedule, check_times, domain, is_discrete, straight

FINALS = ("zero", "sigma_min")


def _ends(name, schedule, steps, t_max, t_min, final):
    """Namespace, start, end and number of regular intervals, checked."""
    check_schedule(f"{name}: schedule", schedule)
    check_count(f"{name}: steps", steps)
    check_choice(f"{name}: final", final, FINALS)
    for end, value in (("t_max", t_max), ("t_min", t_min)):
        if value is not None:
            check_scalar(f"{name}: {end}", value)
            check_times(f"{name}: {end}", schedule, value, end=end == "t_min")
    start = schedule.t_max if t_max is None else t_max
    end = schedule.t_min if t_min is None else t_min
    xp = namespace(schedule, start, end)
    start, end = as_array(start, xp), as_array(end, xp)
    known = concrete((start, end)) if xp is np else None
    if known is not None and not known[0] > known[1]:
        raise ValueError(f"{name}: t_max must be above t_min, got t_max={start} and t_min={end}.")
    return xp, start, end, steps - (final == "zero")


def _finish(name, xp, schedule, inner, start, end, final):
    """Pin both ends exactly, append the noiseless time when asked, refuse what does not decrease."""
    grid = xp.concatenate([start[None], inner[1:-1], end[None]] if inner.shape[0] > 1 else [start[None]])
    if final == "zero":
        grid = xp.concatenate([grid, as_array(schedule.time(xp.asarray(np.inf, grid.dtype)), xp)[None]])
    if xp is np and not (np.all(np.isfinite(grid)) and np.all(np.diff(grid) < 0)):
        raise ValueError(
            f"{name}: the grid does not decrease: {np.array2string(grid, threshold=8)}. "
            f"Check t_max and t_min, use fewer steps, or final='sigma_min' if t_min is already noiseless."
        )
    return grid


def time_grid(
    schedule: Schedule,
    steps: int,
    power: Any = 1,
    *,
    t_max: Any = None,
    t_min: Any = None,
    final: End = "sigma_min",
) -> Array:
    """Make times uniform in t^(1/power): `power=1` uniform, 2 the quadratic grid of DEIS and DPM-Solver.

    Args:
        schedule: a noise schedule.
        steps: n, the number of steps (static); the grid has n + 1 times.
        power: exponent, > 0.
        t_max: start, default `schedule.t_max`.
        t_min: last regular time, default `schedule.t_min`.
        final: "sigma_min" ends at t_min; "zero" takes n regular times and then the noiseless time. On a straight path
            (`Flow`) "zero" without t_min is regular down to the noiseless time.

    Returns:
        [n + 1] decreasing times, float64 numpy (jax when an argument is traced).

    Raises:
        ValueError: when the times would not decrease.

    Example:
        >>> import jsamp as js
        >>> js.noise.time_grid(js.noise.VP(), 4, power=2).round(3).tolist()
        [1.0, 0.574, 0.266, 0.075, 0.001]

    Cost:
        Host arithmetic in float64, or n + 1 times on the device when an argument is traced.
    """
    check_choice("time_grid: final", final, FINALS)
    if final == "zero" and t_min is None and straight(schedule):
        # The last evaluation is not spent next to the end: on a straight path the step to it is as long as the others.
        t_min, final = schedule.time(np.inf), "sigma_min"
    xp, start, end, num = _ends("time_grid", schedule, steps, t_max, t_min, final)
    check_number("time_grid: power", power, low=0, open_low=True)
    inner = xp.linspace(start ** (1 / power), end ** (1 / power), num + 1) ** power
    return _finish("time_grid", xp, schedule, inner, start, end, final)


def logsnr_grid(
    schedule: Schedule,
    steps: int,
    *,
    t_max: Any = None,
    t_min: Any = None,
    final: End = "sigma_min",
) -> Array:
    """Make times uniform in the half log-SNR lam = log(alpha / sigma).

    Args:
        schedule: a noise schedule.
        steps: n, the number of steps (static).
        t_max: start, default `schedule.t_max`; its lam must be finite.
        t_min: last regular time, default `schedule.t_min`.
        final: "sigma_min" ends at t_min; "zero" takes n regular times and then the noiseless time.

    Returns:
        [n + 1] decreasing times, float64 numpy (jax when an argument is traced).

    Raises:
        ValueError: when lam is infinite at an end, or the times would not decrease.

    Example:
        >>> import jsamp as js
        >>> js.noise.logsnr_grid(js.noise.VP(), 5).round(4).tolist()
        [1.0, 0.7856, 0.4934, 0.1406, 0.0181, 0.001]

    Cost:
        Host arithmetic in float64, or n + 1 times on the device when an argument is traced.
    """
    xp, start, end, num = _ends("logsnr_grid", schedule, steps, t_max, t_min, final)
    first, last = _finite_lams("logsnr_grid", xp, schedule, start, end)
    return _finish("logsnr_grid", xp, schedule, schedule.time(xp.linspace(first, last, num + 1)), start, end, final)


def karras_grid(
    schedule: Schedule,
    steps: int,
    rho: Any = 7.0,
    *,
    t_max: Any = None,
    t_min: Any = None,
    final: End = "zero",
) -> Array:
    """Make times uniform in (sigma / alpha)^(1/rho), the grid of EDM; by default it ends at zero noise.

    Args:
        schedule: a noise schedule.
        steps: n, the number of steps (static).
        rho: exponent, > 0; larger spends more steps at low noise.
        t_max: start, default `schedule.t_max`; its lam must be finite.
        t_min: last regular time, default `schedule.t_min`.
        final: "zero" takes n regular times and then the noiseless time; "sigma_min" ends at t_min.

    Returns:
        [n + 1] decreasing times, float64 numpy (jax when an argument is traced).

    Raises:
        ValueError: when lam is infinite at an end, or the times would not decrease.

    Example:
        >>> import jsamp as js
        >>> js.noise.karras_grid(js.noise.VE(), 4).round(3).tolist()
        [80.0, 9.723, 0.47, 0.002, 0.0]

    Cost:
        Host arithmetic in float64, or n + 1 times on the device when an argument is traced.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364.
    """
    xp, start, end, num = _ends("karras_grid", schedule, steps, t_max, t_min, final)
    check_number("karras_grid: rho", rho, low=0, open_low=True)
    first, last = _finite_lams("karras_grid", xp, schedule, start, end)
    level = xp.linspace(xp.exp(-first / rho), xp.exp(-last / rho), num + 1)
    return _finish("karras_grid", xp, schedule, schedule.time(-rho * xp.log(level)), start, end, final)


def index_grid(
    schedule: Schedule,
    steps: int,
    spacing: Literal["trailing", "linspace", "leading"] = "trailing",
    *,
    offset: int = 0,
    final: End = "zero",
) -> Array:
    """Make integer indices of a discrete schedule with the spacings of the published pipelines.

    "trailing" rounds N, N - N/n, ... and subtracts 1, so it starts at the noisiest index; "linspace" the first n of
    n + 1 rounded points from N - 1 to 0 (all indices for n = N); "leading" is arange(n) * (N // n) + offset reversed,
    which starts below the noisiest index, and far below it for few or very many steps. Then comes the last time: index
    -1 (alpha = 1) for `final="zero"`, index 0 for "sigma_min".

    Args:
        schedule: a `Discrete` schedule with N indices.
        steps: n, the number of steps (static), at most N.
        spacing: "trailing", "linspace" or "leading".
        offset: shift of "leading", >= 0 (Stable Diffusion uses 1).
        final: where the grid ends.

    Returns:
        [n + 1] decreasing float64 indices.

    Raises:
        ValueError: when indices repeat (too many steps, or "leading" without offset ending at 0 twice), or "leading"
            starts below 0.6 of the noisiest index.

    Example:
        >>> import jsamp as js
        >>> js.noise.index_grid(js.noise.Discrete.ddpm_linear(), 5).tolist()
        [999.0, 799.0, 599.0, 399.0, 199.0, -1.0]

    Cost:
        Host arithmetic.

    References:
        Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv:2305.08891.
    """
    check_count("index_grid: steps", steps)
    check_choice("index_grid: spacing", spacing, ("trailing", "linspace", "leading"))
    check_choice("index_grid: final", final, FINALS)
    check_count("index_grid: offset", offset, low=0)
    check_schedule("index_grid: schedule", schedule)
    if not is_discrete(schedule):
        raise TypeError(f"index_grid needs a Discrete schedule, got {type(schedule).__name__}. Use time_grid.")
    num = int(schedule.t_max) + 1  # pyright: ignore[reportAttributeAccessIssue] (Discrete has it)
    if spacing == "leading":
        inner = np.arange(steps)[::-1] * (num // steps) + offset
    elif spacing == "linspace" and steps < num:
        inner = np.linspace(num - 1, 0, steps + 1).round()[:-1]
    else:
        inner = np.round(np.arange(num, 0, -num / steps))[:steps] - 1
    grid = np.append(inner.astype(np.float64), -1.0 if final == "zero" else 0.0)
    if np.any(np.diff(grid) >= 0) or grid[0] > num - 1:
        raise ValueError(
            f"index_grid: indices must decrease within 0..{num - 1}, got {np.array2string(grid, threshold=8)}. "
            f"Use steps <= {num}, another spacing, final='zero', or offset=1 with final='sigma_min'."
        )
    if grid[0] < 0.6 * (num - 1):
        raise ValueError(
            f"index_grid: spacing='leading' with steps={steps} starts at index {grid[0]:g} of {num - 1}, where alpha="
            f"{schedule.alpha(grid[0]):.3g}: far from pure noise. Use spacing='trailing'."
        )
    return grid


def sigma_grid(schedule: Schedule, sigmas: Any) -> Any:
    """Find the times of noise levels sigma / alpha: the sigmas that k-diffusion and diffusers hand around.

    Args:
        schedule: a noise schedule.
        sigmas: [n + 1] decreasing ratios sigma / alpha, > 0; the last may be 0, the noiseless time. On `VE` they are
            the times themselves; for `Flow` give t / (1 - t), or use the t of a flow pipeline as the grid.

    Returns:
        [n + 1] decreasing times, float64 numpy (jax when an argument is traced).

    Raises:
        ValueError: when they do not decrease, are negative, or go beyond the schedule.

    Example:
        >>> import jsamp as js
        >>> js.noise.sigma_grid(js.noise.Discrete.scaled_linear(), [14.6146, 2.0, 0.0]).round(2).tolist()
        [999.0, 562.29, -1.0]

    Cost:
        One inverse of the schedule for each level, on the host unless an argument is traced.
    """
    check_schedule("sigma_grid: schedule", schedule)
    check_number("sigma_grid: sigmas", sigmas, low=0)
    if np.ndim(sigmas) != 1 or np.shape(sigmas)[0] < 2:
        raise ValueError(f"sigma_grid: sigmas must be a vector of n + 1 >= 2 levels, got shape {np.shape(sigmas)}.")
    xp = namespace(schedule, sigmas)
    level = as_array(sigmas, xp)
    if xp is np and not np.all(np.diff(level) < 0):
        i = int(np.argmin(np.diff(level) < 0)) + 1
        raise ValueError(f"sigma_grid: sigmas must decrease; got sigmas[{i}]={level[i]:.6g} >= {level[i - 1]:.6g}.")
    noiseless = level <= 0
    times = schedule.time(-safe_log(xp, xp.where(noiseless, 1.0, level)))
    end = schedule.time(xp.asarray(np.inf, level.dtype))
    return _in_domain("sigma_grid", xp, schedule, xp.where(noiseless, end, times))


def _in_domain(name, xp, schedule, grid):
    high = concrete(domain(schedule)[1])
    if xp is np and high is not None and grid[0] > high + 1e-6 * max(1.0, abs(high)):
        raise ValueError(
            f"{name}: the first level belongs to t={grid[0]:.6g}, outside the schedule's times up to "
            f"{float(high):.6g}. Start at less noise."
        )
    return grid


def shift(grid: Grid, factor: Any) -> Array:
    """Shift a rectified-flow grid towards noise: t -> factor t / (1 + (factor - 1) t), for larger images.

    Args:
        grid: [n + 1] times in [0, 1].
        factor: 1 changes nothing, > 1 spends more steps at high noise.

    Returns:
        [n + 1] shifted times.

    Raises:
        ValueError: for a factor that is not positive, or times outside [0, 1].

    Example:
        >>> import jsamp as js
        >>> js.noise.shift(js.noise.time_grid(js.noise.Flow(), 2, final="zero"), 3.0).round(3).tolist()
        [1.0, 0.75, 0.0]

    Cost:
        Elementwise on the grid.

    References:
        Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024,
        arXiv:2403.03206.
    """
    check_number("shift: factor", factor, low=0, open_low=True)
    check_number("shift: grid", grid, low=0, high=1)
    grid = as_array(grid, namespace(grid, factor))
    return factor * grid / (1 + (factor - 1) * grid)


def _finite_lams(name, xp, schedule, start, end):
    first, last = schedule.lam(start), schedule.lam(end)
    if xp is np and not (np.isfinite(first) and np.isfinite(last)):
        raise ValueError(
            f"{name}: the log-SNR is infinite at t_max={start} or t_min={end}. "
            f"Pass a t_max with alpha > 0 (for Flow, t_max=0.999) and a t_min with sigma > 0."
        )
    return first, last
