"""The stage builder: one-step Runge-Kutta solvers. Stages are rows that keep the base state."""

from __future__ import annotations

from typing import Any

import numpy as np

from jsamp._core._checks import check_choice, check_scalar, concrete
from jsamp._core._types import Grid, Schedule
from jsamp.noise._protocol import MOST_CHURN, straight
from jsamp.solve._columns import ACCEPT, KEEP
from jsamp.solve._multistep import refuse_eps
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._weights import Path, check_grid

# Stage times c, stage weights a, final weights b.
TABLEAUS: dict[str, tuple[list[float], list[list[float]], list[float]]] = {
    "1euler": ([0], [[]], [1]),
    "2heun": ([0, 1], [[], [1]], [1 / 2, 1 / 2]),
    "2mid": ([0, 1 / 2], [[], [1 / 2]], [0, 1]),
    "3kutta": ([0, 1 / 2, 1], [[], [1 / 2], [-1, 2]], [1 / 6, 2 / 3, 1 / 6]),
    "3ral": ([0, 1 / 2, 3 / 4], [[], [1 / 2], [0, 3 / 4]], [2 / 9, 1 / 3, 4 / 9]),
    "3heun": ([0, 1 / 3, 2 / 3], [[], [1 / 3], [0, 2 / 3]], [1 / 4, 0, 3 / 4]),
    "3vdh": ([0, 8 / 15, 2 / 3], [[], [8 / 15], [1 / 4, 5 / 12]], [1 / 4, 0, 3 / 4]),
    "3ssprk": ([0, 1, 1 / 2], [[], [1], [1 / 4, 1 / 4]], [1 / 6, 1 / 6, 2 / 3]),
    "4rk": ([0, 1 / 2, 1 / 2, 1], [[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}


def point_at_rho(path: Path, rho: Any) -> tuple[Any, Any, Any]:
    """(t, alpha, sigma) where sigma / alpha = rho."""
    one = path.xp.ones(())
    t = path.schedule.time(-path.xp.log(rho)) * one
    return t, path.schedule.alpha(t) * one, path.schedule.sigma(t) * one


def block(
    path: Path, points: list[Any], end: Any, weights: list[list[Any]], scale: Any, r: int, node: Any, euler: Any = False
) -> list[Row]:
    """Rows of one step from points[0] to `end`: row j evaluates at points[j] and moves to the next point.

    `weights[j]` combines the predictions of rows r..r+j; `scale(start, target)` is the coefficient of the base state.
    Where a traced `euler` holds, every stage stays at points[0] and the last row makes an Euler step from there.
    """
    if not isinstance(euler, bool):
        pick = lambda a, b: path.xp.where(euler, a, b)
        points = [points[0], *(tuple(map(pick, points[0], p)) for p in points[1:])]
        *inner, last = weights
        weights = [[pick(0.0, w) for w in row] for row in inner]
        weights.append([pick(sum(last) if k == 0 else 0.0, w) for k, w in enumerate(last)])
    targets = [*points[1:], end]
    return [
        Row(at, to, scale(points[0], to), {r + k: w for k, w in enumerate(row)}, node, take=KEEP if j else ACCEPT)
        for j, (at, to, row) in enumerate(zip(points, targets, weights, strict=True))
    ]


def _alpha_ratio(start, target):
    return target[1] / start[1]


def _runge_kutta_in_rho(path: Path, i: int, r: int, name: str, start: Any = None) -> list[Row]:
    """One explicit Runge-Kutta step of d(x / alpha) = eps d(rho), from node i or from a noisier `start`."""
    euler = ends_noiseless(path, i)
    c, a, b = TABLEAUS["1euler" if euler is True else name]
    start, end = start or path.at(i), path.at(i + 1)
    rho0, rho1 = start[2] / start[1], end[2] / end[1]
    # Only the step's own ends are taken as they are: t_i+1 must not be moved by a round trip through rho.
    points = [start if f == 0 else end if f == 1 else point_at_rho(path, rho0 + f * (rho1 - rho0)) for f in c]
    weights = []
    for j, combination in enumerate([*a[1:], b]):
        target = points[j + 1] if j + 1 < len(points) else end
        # A stage moves along the same secant: its weights are fractions of the whole step.
        weights.append([target[1] * (rho1 - rho0) * w for w in combination])
    return block(path, points, end, weights, _alpha_ratio, r, path.node(i, "rho"), euler)


def ends_noiseless(path: Path, i: int) -> Any:
    """Whether step i goes to sigma = 0, where no stage can evaluate: a bool, or a traced one on a traced grid."""
    if i < path.steps - 1:
        return False
    return bool(path.noiseless[-1]) if path.xp is np else path.noiseless[-1]


def rho_rk(schedule: Schedule, grid: Grid, *, tableau: str = "3kutta") -> Plan:
    """Make rhoRK of DEIS: explicit Runge-Kutta on d(x / alpha) / d(rho) = eps.

    A last step to sigma = 0 is an Euler step: no stage can evaluate there.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times.
        tableau: "1euler", "2heun", "2mid", "3kutta", "3ral" (Ralston), "3heun", "3vdh" (van der Houwen), "3ssprk" or
            "4rk"; the digit is the order and the number of rows per step.

    Returns:
        A plan of stages * n rows, fewer where the grid ends at zero noise.

    Raises:
        ValueError: for a bad grid or an unknown tableau, or alpha = 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.rho_rk(schedule, js.noise.logsnr_grid(schedule, 5), tableau="4rk").nfe
        20

    Cost:
        One denoiser call a stage; stages - 1 predictions held.

    References:
        Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", 2023, arXiv:2204.13902.
    """
    path = check_grid("rho_rk", schedule, grid)
    check_choice("rho_rk: tableau", tableau, tuple(TABLEAUS))
    refuse_eps("rho_rk", path)
    return _in_rho(path, tableau)


def _in_rho(path: Path, tableau: str) -> Plan:
    rows: list[Row] = []
    for i in range(path.steps):
        rows += _runge_kutta_in_rho(path, i, len(rows), tableau)
    return assemble(rows, kind="eps")


def heun(schedule: Schedule, grid: Grid) -> Plan:
    """Make Heun's second-order method: the deterministic sampler of EDM.

    On d(x / alpha) / d(rho) = eps with rho = sigma / alpha; on a straight path (`Flow`) in t, on the velocity.
    A last step to zero noise is an Euler step. Order 2. Beware few steps from a large sigma_max: the average
    of two slopes that far apart overshoots, and multistep plans do better below ten evaluations.

    Args:
        schedule: a noise schedule; but for `Flow` errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times.

    Returns:
        A plan of 2 n rows (2 n - 1 when a grid that is not traced ends at zero noise).

    Raises:
        ValueError: for a bad grid, or alpha = 0 on a schedule other than `Flow`.

    Example:
        >>> import jsamp as js
        >>> js.solve.heun(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 10)).nfe
        19

    Cost:
        Two denoiser calls a step but for one to zero noise, which takes one; one prediction held.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364.
    """
    path = check_grid("heun", schedule, grid)
    if not straight(schedule):
        refuse_eps("heun", path)
        return _in_rho(path, "2heun")
    rows: list[Row] = []
    for i in range(path.steps):
        start, end, length = path.at(i), path.at(i + 1), path.t[i + 1] - path.t[i]
        one = lambda start, target: path.xp.ones(())
        points, weights = [start, end], [[length], [length / 2, length / 2]]
        euler = ends_noiseless(path, i)
        if euler is True:
            points, weights, euler = [start], [[length]], False
        rows += block(path, points, end, weights, one, len(rows), path.t[i], euler)
    return assemble(rows, kind="velocity")


def edm(
    schedule: Schedule, grid: Grid, *, churn: Any = 0.0, churn_min: Any = 0.0, churn_max: Any = np.inf, noise: Any = 1.0
) -> Plan:
    """Make the stochastic sampler of EDM: before each Heun step the noise level is raised and fresh noise added.

    sigma_hat = sigma (1 + gamma), gamma = min(churn / n, sqrt(2) - 1) where churn_min <= sigma <= churn_max, and
    x <- x + noise sqrt(sigma_hat^2 - sigma^2) z. With churn = 0 it is `heun`, whose
    errors grow as 1 / alpha of the start.

    Args:
        schedule: a schedule with alpha = 1 (`VE`).
        grid: [n + 1] decreasing times.
        churn: S_churn >= 0.
        churn_min: S_tmin, lowest noise level that is churned.
        churn_max: S_tmax, highest.
        noise: S_noise, inflation of the added noise.

    Returns:
        A plan of 2 n rows (2 n - 1 when a grid that is not traced ends at zero noise).

    Raises:
        ValueError: for a bad grid or option, or churn on a schedule where alpha is not 1.

    Example:
        >>> import jsamp as js
        >>> js.solve.edm(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 18), churn=40.0).stochastic
        True

    Cost:
        Two denoiser calls a step but for one to zero noise, which takes one; one prediction held.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364.
    """
    path = check_grid("edm", schedule, grid, churn, noise, churn_min, churn_max)
    check_scalar("edm: churn", churn, low=0)
    check_scalar("edm: noise", noise, low=0)
    check_scalar("edm: churn_min", churn_min, low=0)
    if not (isinstance(churn_max, float) and churn_max == np.inf):
        check_scalar("edm: churn_max", churn_max, low=0)
    known = concrete(churn)
    if known is not None and known == 0:
        return heun(schedule, grid)
    xp, n = path.xp, path.steps
    if xp is np and not np.all(path.alpha == 1):
        raise ValueError("edm: churn raises sigma at fixed alpha, so it needs alpha = 1. Use js.noise.VE.")
    rows: list[Row] = []
    for i in range(n):
        sigma = path.sigma[i]
        active = (sigma >= churn_min) & (sigma <= churn_max)
        gamma = xp.where(active, xp.minimum(churn / n, MOST_CHURN - 1), 0.0)
        start = point_at_rho(path, sigma * (1 + gamma)) if xp is not np or gamma > 0 else path.at(i)
        new = _runge_kutta_in_rho(path, i, len(rows), "2heun", start)
        added = noise * sigma * xp.sqrt(xp.maximum(gamma * (2 + gamma), 0.0 if xp is np else 1e-30))
        rows += [new[0]._replace(churn_std=added), *new[1:]]
    return assemble(rows, kind="eps")


def dpm2(schedule: Schedule, grid: Grid) -> Plan:
    """Make DPM-2 of k-diffusion: the midpoint rule in rho with the middle taken in log rho. Order 2.

    A last step to zero noise is an Euler step.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times.

    Returns:
        A plan of 2 n rows (2 n - 1 when a grid that is not traced ends at zero noise).

    Raises:
        ValueError: for a bad grid, or alpha = 0.

    Example:
        >>> import jsamp as js
        >>> js.solve.dpm2(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 10)).nfe
        19

    Cost:
        Two denoiser calls a step but for one to zero noise, which takes one; one prediction held.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364,
        with the midpoint of Lu et al., 2022, arXiv:2206.00927.
    """
    path = check_grid("dpm2", schedule, grid)
    refuse_eps("dpm2", path)
    rows: list[Row] = []
    for i in range(path.steps):
        euler = ends_noiseless(path, i)
        if euler is True:
            rows += _runge_kutta_in_rho(path, i, len(rows), "1euler")
            continue
        start, end = path.at(i), path.at(i + 1)
        rho0, rho1 = start[2] / start[1], end[2] / end[1]
        middle = point_at_rho(path, path.xp.sqrt(rho0 * path.xp.where(euler, rho0, rho1)))
        weights = [[middle[1] * (middle[2] / middle[1] - rho0)], [0.0, end[1] * (rho1 - rho0)]]
        rows += block(path, [start, middle], end, weights, _alpha_ratio, len(rows), path.node(i, "rho"), euler)
    return assemble(rows, kind="eps")
