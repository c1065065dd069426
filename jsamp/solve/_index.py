"""The step-index builder: Adams-Bashforth on the noise prediction, with or without momentum on evaluations."""

from __future__ import annotations

import math
from typing import Any, Literal

from jsamp._core._checks import check_choice, check_count, check_scalar, is_traced
from jsamp._core._types import Grid, Scalar, Schedule
from jsamp.solve._columns import ACCEPT, KEEP
from jsamp.solve._multistep import refuse_eps
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._weights import Path, check_grid, lagrange

# Adams-Bashforth coefficients of the backward differences: the integral of binom(s + j - 1, j) over [0, 1].
GAMMA = (1.0, 1 / 2, 5 / 12, 3 / 8, 251 / 720, 95 / 288)


def adams(order: int, beta: Any = 1.0) -> list[Any]:
    """c_k(beta) = sum_{j<k} (gamma_j + ((1 - beta) / beta) gamma_{j-1}) nabla^j; beta = 1 is Adams-Bashforth."""
    weights: list[Any] = [0.0] * order
    for j in range(order):
        scale = GAMMA[j] + ((1 - beta) / beta * GAMMA[j - 1] if j else 0.0)
        for k in range(j + 1):
            weights[k] = weights[k] + (-1) ** k * math.comb(j, k) * scale
    return weights


def _variable(path: Path, i: int, order: int, beta: Any) -> list[Any]:
    """Variable-step weights on v, of the same order as the Adams formula and equal to `adams` on uniform steps.

    With e = (v - (1 - beta) v_before) / beta the Adams weights on e become weights on order + 1 values of v. A multiple
    of the divided difference over those values, which is O(h^order), then removes the oldest.
    """
    plain = lagrange(path, i, list(range(i, i - order, -1)), "eps", "rho", 0.0)
    on_v = [weight / beta for weight in plain] + [0.0]
    for k, weight in enumerate(plain):
        on_v[k + 1] = on_v[k + 1] - (1 - beta) / beta * weight
    nodes = [path.node(j, "rho") for j in range(i, i - order - 1, -1)]
    # Scaled by the step, the divided difference has weights of order one.
    scale = nodes[0] - nodes[1]
    difference = [math.prod(scale / (a - b) for m, b in enumerate(nodes) if m != k) for k, a in enumerate(nodes)]
    share = on_v[order] / difference[order]
    return [a - share * d for a, d in zip(on_v[:order], difference[:order], strict=True)]


def _adams_row(path: Path, i: int, point: list[int], coefficients: list[Any], beta: Any = None) -> Row:
    """Row i of an Adams plan: y = x / alpha moves by (rho_t - rho_s) times a fixed combination of predictions."""
    gain = path.alpha[i + 1] * (path.node(i + 1, "rho") - path.node(i, "rho"))
    weights = {p: gain * c for p, c in zip(point, coefficients, strict=True)}
    ratio = path.alpha[i + 1] / path.alpha[i]
    return Row(path.at(i), path.at(i + 1), ratio, weights, node=i, prediction_rate=beta)


def plms(schedule: Schedule, grid: Grid, *, order: int = 4, start: Literal["euler", "heun"] = "euler") -> Plan:
    """Make PLMS: Adams-Bashforth with equal-step coefficients on eps in rho = sigma / alpha; lower orders at the start.

    Order 2 at most on grids that are not uniform in rho, whatever `order`, and still among the best at ten steps. The
    same table as `ipndm`, and as GHVB with beta = 1. `start="heun"` makes the first step a Heun step, as Stable
    Diffusion's default does (diffusers' PNDM with `skip_prk_steps`); `pndm` has the Runge-Kutta start.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times.
        order: number of points (static, 1..6; 2..6 with a Heun step).
        start: "euler" or "heun".

    Returns:
        A plan of n rows (n + 1 with a Heun step).

    Raises:
        ValueError: for a bad grid or option, or alpha = 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.plms(schedule, js.noise.time_grid(schedule, 10)).slots
        4

    Cost:
        n denoiser calls (n + 1 with a Heun step), order - 1 predictions held.

    References:
        Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022, arXiv:2202.09778.
    """
    check_choice("plms: start", start, ("euler", "heun"))
    if start == "heun":
        return _runge_kutta_start("plms", schedule, grid, order, 1)
    return _ghvb("plms", schedule, grid, order, 1.0, "index", momentum=False)


def ipndm(schedule: Schedule, grid: Grid, *, order: int = 4) -> Plan:
    """Make iPNDM, the improved PNDM of the DEIS paper: `plms` by its other name, on times uniform in t in its code.

    Args:
        schedule: as in `plms`.
        grid: as in `plms`.
        order: as in `plms`.

    Returns:
        As `plms`.

    Raises:
        ValueError: as `plms`.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.ipndm(schedule, js.noise.time_grid(schedule, 10)).nfe
        10

    Cost:
        n denoiser calls, order - 1 predictions held.

    References:
        Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", 2023, arXiv:2204.13902.
    """
    return _ghvb("ipndm", schedule, grid, order, 1.0, "index", momentum=False)


def ghvb(
    schedule: Schedule, grid: Grid, *, order: int = 4, beta: Any = 0.8, spacing: Literal["index", "variable"] = "index"
) -> Plan:
    """Make GHVB: generalised heavy ball, momentum on the evaluations of an Adams-Bashforth method of real order.

    v <- (1 - beta) v + beta eps, then y <- y + (rho_t - rho_s) sum_j c_j v_j with c from the backward-difference series
    of `adams`. The paper's order "3.8" is `order=4, beta=0.8`. Momentum widens the stability interval from that of
    order k (beta = 1) towards that of order k - 1, which removes divergence artefacts of few, strongly guided steps.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times.
        order: number of points (static, 1..6).
        beta: damping in (0, 1]; 1 is `plms`.
        spacing: "index" uses the equal-step coefficients of the paper, of order min(order, 2) on a general grid;
            "variable" uses variable-step Adams weights corrected by a divided difference, of order `order`.

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid or option, beta outside (0, 1], or alpha = 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.ghvb(schedule, js.noise.time_grid(schedule, 10), order=2, beta=0.9).slots
        2

    Cost:
        n denoiser calls, order - 1 predictions and one velocity held.

    References:
        Wizadwongsa et al., "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts", 2023,
        arXiv:2307.11118.
    """
    return _ghvb("ghvb", schedule, grid, order, beta, spacing, momentum=True)


def gradient_estimation(schedule: Schedule, grid: Grid, *, gamma: Scalar = 2.0) -> Plan:
    """Step by Euler in rho on an extrapolated noise, gamma eps + (1 - gamma) eps_before: gradient estimation.

    gamma = 1 is `ddim`; 1.5 is `plms(order=2)`, the only value of second order on equal steps; the paper takes 2, which
    is better in few steps of a trained network.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times.
        gamma: weight of the newest prediction.

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid, a gamma that is not finite, or alpha = 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VE()
        >>> js.solve.gradient_estimation(schedule, js.noise.karras_grid(schedule, 10)).slots
        2

    Cost:
        n denoiser calls, one prediction held.

    References:
        Permenter and Yuan, "Interpreting and Improving Diffusion Models from an Optimization Perspective", 2023,
        arXiv:2306.04848.
    """
    path = check_grid("gradient_estimation", schedule, grid, gamma)
    check_scalar("gradient_estimation: gamma", gamma)
    refuse_eps("gradient_estimation", path)
    rows = [_adams_row(path, 0, [0], [1.0])]
    rows += [_adams_row(path, i, [i, i - 1], [gamma, 1.0 - gamma]) for i in range(1, path.steps)]
    return assemble(rows, kind="eps")


def _ghvb(name, schedule, grid, order, beta, spacing, momentum):
    path = check_grid(name, schedule, grid, beta)
    check_count(f"{name}: order", order, high=len(GAMMA))
    check_scalar(f"{name}: beta", beta, low=0, high=1, open_low=True)
    check_choice(f"{name}: spacing", spacing, ("index", "variable"))
    refuse_eps(name, path)
    rows = []
    for i in range(path.steps):
        size = min(order, i + 1)
        point = list(range(i, i - size, -1))
        rate = (1.0 if i == 0 else beta) if momentum else None
        row = _adams_row(path, i, point, adams(size, beta), rate)
        if spacing == "variable":
            row = row._replace(node=path.node(i, "rho"))
            if i >= order:
                row = row._replace(weights=dict(zip(point, _variable(path, i, order, beta), strict=True)))
        rows.append(row)
    return assemble(rows, kind="eps")


def pndm(schedule: Schedule, grid: Grid, *, order: int = 4) -> Plan:
    """Make PNDM with its Runge-Kutta start: Adams-Bashforth of four points after three RK4 steps, or two after a Heun.

    The pseudo Runge-Kutta stages evaluate at the middle time (t_i + t_{i+1}) / 2 and at t_{i+1}, and combine noise
    predictions, as published.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times, n >= order - 1.
        order: 4 (F-PNDM) or 2 (S-PNDM).

    Returns:
        A plan of n + 9 rows (order 4) or n + 1 rows (order 2).

    Raises:
        ValueError: for a bad grid or option, fewer steps than the start takes, alpha = 0, or a start that would
            evaluate at sigma = 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.pndm(schedule, js.noise.time_grid(schedule, 10)).nfe
        19

    Cost:
        n + 9 denoiser calls and five predictions held (order 4), or n + 1 and one (order 2).

    References:
        Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022, arXiv:2202.09778.
    """
    check_choice("pndm: order", order, (2, 4))
    return _runge_kutta_start("pndm", schedule, grid, order, order - 1)


def _runge_kutta_start(name: str, schedule: Schedule, grid: Grid, order: int, start: int) -> Plan:
    """Adams-Bashforth steps after `start` pseudo Runge-Kutta steps: RK4 for three of them, Heun for one."""
    path = check_grid(name, schedule, grid)
    check_count(f"{name}: order", order, low=2, high=len(GAMMA))
    refuse_eps(name, path)
    if path.steps < start or (not is_traced(path.t) and path.steps == start and path.noiseless[-1]):
        raise ValueError(
            f"{name}: order {order} starts with {start} Runge-Kutta steps at sigma > 0, but the grid has {path.steps} "
            f"steps. Use more steps or order=2."
        )
    rows: list[Row] = []
    first: list[int] = []  # row of the prediction made at the start of each step
    for i in range(path.steps):
        first.append(len(rows))
        if i < start:
            rows += _pseudo_runge_kutta(path, i, len(rows), 4 if start == 3 else 2)
            continue
        size = min(order, i + 1)
        rows.append(_adams_row(path, i, [first[j] for j in range(i, i - size, -1)], adams(size)))
    return assemble(rows, kind="eps")


def _pseudo_runge_kutta(path: Path, i: int, r: int, order: int) -> list[Row]:
    """Rows of one pseudo RK4 (or Heun) step: stages move from the step's start to the middle, middle and end."""
    xp, schedule = path.xp, path.schedule
    t = (path.t[i] + path.t[i + 1]) / 2
    middle = (t, schedule.alpha(t) * xp.ones(()), schedule.sigma(t) * xp.ones(()))
    start, end = path.at(i), path.at(i + 1)

    def row(at, to, weights, keep):
        gain = to[1] * (to[2] / to[1] - start[2] / start[1])
        weights = {r + k: gain * w for k, w in weights.items()}
        return Row(at, to, to[1] / start[1], weights, node=i, take=KEEP if keep else ACCEPT)

    if order == 2:
        return [row(start, end, {0: 1.0}, False), row(end, end, {0: 0.5, 1: 0.5}, True)]
    return [
        row(start, middle, {0: 1.0}, False),
        row(middle, middle, {1: 1.0}, True),
        row(middle, end, {2: 1.0}, True),
        row(end, end, {0: 1 / 6, 1: 1 / 3, 2: 1 / 3, 3: 1 / 6}, True),
    ]
