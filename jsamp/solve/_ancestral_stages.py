"""Ancestral samplers of higher order: steps of an ODE solver to less noise than wanted, or noise between stages."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from jsamp._core._checks import check_choice, check_scalar, is_traced
from jsamp._core._types import Grid, Scalar, Schedule
from jsamp.solve._columns import KEEP
from jsamp.solve._multistep import refuse_eps
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._stages import point_at_rho
from jsamp.solve._weights import Path, check_grid


def dpm2_ancestral(schedule: Schedule, grid: Grid, *, eta: Scalar = 1.0) -> Plan:
    """Make DPM-2 ancestral of k-diffusion: the midpoint rule, middle in log rho, to rho_down; then noise up to rho.

    With rho = sigma / alpha: rho_up = min(rho', eta rho' sqrt(1 - rho'^2 / rho^2)), rho_down^2 = rho'^2 - rho_up^2.
    eta = 0 is `dpm2`. On Gaussian data the variance is of second order.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times, concrete.
        eta: share of the ancestral noise, >= 0.

    Returns:
        A stochastic plan of 2 n rows (2 n - 1 where it ends at zero noise).

    Raises:
        TypeError: for a traced grid.
        ValueError: for a bad grid, alpha = 0, or eta < 0.

    Example:
        >>> import jsamp as js
        >>> js.solve.dpm2_ancestral(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 10)).nfe
        19

    Cost:
        Two denoiser calls a step but for one to zero noise, which takes one; no history.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364; the
        ancestral form is that of k-diffusion.
    """
    path, rho = _prepare("dpm2_ancestral", schedule, grid, eta)
    rows: list[Row] = []
    for i in range(path.steps):
        down, up = _split(rho[i], rho[i + 1], eta)
        start, end, r = path.at(i), path.at(i + 1), len(rows)
        if down == 0:
            # Without noise left there is no middle in log rho: an Euler step.
            rows.append(Row(start, end, end[1] / start[1], {r: -end[1] * rho[i]}, noise_std=end[1] * up))
            continue
        middle = point_at_rho(path, np.sqrt(rho[i] * down))
        half = middle[2] / middle[1] - rho[i]
        full = end[1] * (down - rho[i])
        rows.append(Row(start, middle, middle[1] / start[1], {r: middle[1] * half}))
        rows.append(Row(middle, end, end[1] / start[1], {r + 1: full}, noise_std=end[1] * up, take=KEEP))
    return assemble(rows, kind="eps")


def dpmpp_2s_ancestral(schedule: Schedule, grid: Grid, *, eta: Scalar = 1.0) -> Plan:
    """Make DPM-Solver++(2S) ancestral of k-diffusion: the exponential midpoint rule on x0 to rho_down, then noise.

    rho_up and rho_down as in `dpm2_ancestral`; eta = 0 is the midpoint rule, of second order.

    Args:
        schedule: as in `dpm2_ancestral`.
        grid: as in `dpm2_ancestral`.
        eta: as in `dpm2_ancestral`.

    Returns:
        A stochastic plan of 2 n rows (2 n - 1 where it ends at zero noise).

    Raises:
        TypeError: for a traced grid.
        ValueError: for a bad grid, alpha = 0, or eta < 0.

    Example:
        >>> import jsamp as js
        >>> js.solve.dpmpp_2s_ancestral(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 10)).nfe
        19

    Cost:
        Two denoiser calls a step but for one to zero noise, which takes one; no history.

    References:
        Lu et al., "DPM-Solver++", 2022, arXiv:2211.01095; the ancestral form is that of k-diffusion.
    """
    path, rho = _prepare("dpmpp_2s_ancestral", schedule, grid, eta)
    rows: list[Row] = []
    for i in range(path.steps):
        down, up = _split(rho[i], rho[i + 1], eta)
        if down == 0:
            rows.append(_to_clean(path, i, len(rows), up))
            continue
        start, end, r = path.at(i), path.at(i + 1), len(rows)
        middle = point_at_rho(path, np.sqrt(rho[i] * down))
        state, weight = _toward(rho[i], middle[2] / middle[1])
        rows.append(Row(start, middle, middle[1] / start[1] * state, {r: middle[1] * weight}))
        state, weight = _toward(rho[i], down)
        coef = end[1] / start[1] * state
        rows.append(Row(middle, end, coef, {r + 1: end[1] * weight}, noise_std=end[1] * up, take=KEEP))
    return assemble(rows, kind="x0")


def dpmpp_sde(schedule: Schedule, grid: Grid, *, eta: Scalar = 1.0) -> Plan:
    """Make DPM-Solver++ SDE of k-diffusion: an ancestral step to the middle, one to the end, noises of one path.

    Both steps start where the step starts, with the rho_up and rho_down of `dpm2_ancestral` for their own targets, and
    the second takes x0 of the middle. Their noises are increments from the start of one Brownian path in rho, so that
    their correlation is sqrt((rho - rho_middle) / (rho - rho')). eta = 0 is `dpmpp_2s_ancestral(eta=0)`.

    Args:
        schedule: as in `dpm2_ancestral`.
        grid: as in `dpm2_ancestral`.
        eta: as in `dpm2_ancestral`.

    Returns:
        A stochastic plan of 2 n rows (2 n - 1 where it ends at zero noise).

    Raises:
        TypeError: for a traced grid.
        ValueError: for a bad grid, alpha = 0, or eta < 0.

    Example:
        >>> import jsamp as js
        >>> js.solve.dpmpp_sde(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 10)).stochastic
        True

    Cost:
        Two denoiser calls a step but for one to zero noise, which takes one; no history.

    References:
        Lu et al., "DPM-Solver++", 2022, arXiv:2211.01095; the SDE form is that of k-diffusion.
    """
    path, rho = _prepare("dpmpp_sde", schedule, grid, eta)
    rows: list[Row] = []
    for i in range(path.steps):
        between = np.sqrt(rho[i] * rho[i + 1])
        (down, up), (down_end, up_end) = (_split(rho[i], target, eta) for target in (between, rho[i + 1]))
        if down_end == 0:
            rows.append(_to_clean(path, i, len(rows), up_end))
            continue
        start, end, r = path.at(i), path.at(i + 1), len(rows)
        middle = point_at_rho(path, between)
        state, weight = _toward(rho[i], down)
        first = Row(start, middle, middle[1] / start[1] * state, {r: middle[1] * weight}, noise_std=middle[1] * up)
        state, weight = _toward(rho[i], down_end)
        coef, noise = end[1] / start[1] * state, end[1] * up_end
        if up > 0:
            # The row leaves its own noise for the next one, which scales it to its share of that row's noise.
            shared = np.sqrt((rho[i] - between) / (rho[i] - rho[i + 1]))
            scale = noise * shared / (middle[1] * up)
            first = first._replace(corrector_state=coef / scale, corrector_weights={})
            coef, noise = scale, noise * np.sqrt(1 - shared**2)
        rows += [first, Row(middle, end, coef, {r + 1: end[1] * weight}, noise_std=noise, take=KEEP)]
    return assemble(rows, kind="x0")


def res_multistep(schedule: Schedule, grid: Grid, *, eta: Scalar = 0.0) -> Plan:
    """Make RES multistep: x0 through the last two evaluations, exactly weighted, to rho_down; then ancestral noise.

    eta = 0 is `dpmpp(order=2, lower_order_final=False)`. With noise the spacing of the two evaluations is that of their
    own levels; the code of ComfyUI takes it from rho_down of the step before.

    Args:
        schedule: as in `dpm2_ancestral`.
        grid: as in `dpm2_ancestral`.
        eta: as in `dpm2_ancestral`.

    Returns:
        A plan of n rows; stochastic where eta > 0.

    Raises:
        TypeError: for a traced grid.
        ValueError: for a bad grid, alpha = 0, or eta < 0.

    Example:
        >>> import jsamp as js
        >>> js.solve.res_multistep(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 10), eta=1.0).slots
        2

    Cost:
        n denoiser calls, one prediction held.

    References:
        Zhang et al., "Improved Order Analysis and Design of Exponential Integrator for Diffusion Models Sampling",
        2023, arXiv:2308.02157.
    """
    path, rho = _prepare("res_multistep", schedule, grid, eta)
    rows: list[Row] = []
    for i in range(path.steps):
        down, up = _split(rho[i], rho[i + 1], eta)
        if down == 0:
            rows.append(_to_clean(path, i, i, up if eta else None))
            continue
        h = np.log(rho[i] / down)
        state, total = _toward(rho[i], down)
        weights = {i: total}
        if i:
            # h^2 phi_2(-h), times the slope through both evaluations.
            slope = (h + np.expm1(-h)) / np.log(rho[i - 1] / rho[i])
            weights = {i: total + slope, i - 1: -slope}
        alpha = path.alpha[i + 1]
        weights = {k: alpha * w for k, w in weights.items()}
        noise = alpha * up if eta else None
        rows.append(Row(path.at(i), path.at(i + 1), alpha / path.alpha[i] * state, weights, path.lam[i], noise))
    return assemble(rows, kind="x0")


SEEDS_STAGES = {2: (1 / 2,), 3: (1 / 3, 2 / 3)}


def seeds(
    schedule: Schedule, grid: Grid, *, order: int = 2, eta: Scalar = 1.0, variant: Literal["phi_1", "phi_2"] = "phi_1"
) -> Plan:
    """Make SEEDS of two or three stages: the exponential SDE on x0, with the noise of each stage carried to the end.

    In lam, with h the step and c = 1 + eta: x <- (sigma' / sigma) e^(-eta h) x + alpha' (1 - e^(-c h)) x0 + noise, for
    each stage; the noise of a stage decays by e^(-eta h) over what remains, and new noise fills it up. eta is k-
    diffusion's: tau^2 of `dpmpp`.

    Args:
        schedule: as in `dpm2_ancestral`.
        grid: as in `dpm2_ancestral`.
        order: 2 or 3 stages (static).
        eta: stochasticity >= 0; 1 is the reverse SDE, 0 the ODE.
        variant: of two stages: "phi_1" takes x0 of the middle for all of the step, "phi_2" the exact two-point weights.

    Returns:
        A stochastic plan of order * n rows, fewer where it ends at zero noise.

    Raises:
        TypeError: for a traced grid.
        ValueError: for a bad grid or option, alpha = 0, or eta < 0.

    Example:
        >>> import jsamp as js
        >>> js.solve.seeds(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 10), order=3).nfe
        28

    Cost:
        `order` denoiser calls a step but for one to zero noise, which takes one; order - 1 predictions held.

    References:
        Gonzalez et al., "SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling from Diffusion Models", 2023,
        arXiv:2305.14267.
    """
    path, rho = _prepare("seeds", schedule, grid, eta)
    check_choice("seeds: order", order, tuple(SEEDS_STAGES))
    check_choice("seeds: variant", variant, ("phi_1", "phi_2"))
    rows: list[Row] = []
    for i in range(path.steps):
        if rho[i + 1] == 0:
            rows.append(_to_clean(path, i, len(rows), 0.0))
            continue
        h = np.log(rho[i] / rho[i + 1])
        inner = [point_at_rho(path, rho[i] * np.exp(-share * h)) for share in SEEDS_STAGES[order]]
        points = [path.at(i), *inner, path.at(i + 1)]
        for j, weights in enumerate(_seeds_weights(h * (1 + eta), order, variant)):
            here, there = points[j], points[j + 1]
            length = np.log(here[2] / here[1]) - np.log(there[2] / there[1])
            carry = there[2] / here[2] * np.exp(-eta * length)
            noise = there[2] * np.sqrt(-np.expm1(-2 * eta * length))
            first = len(rows) - j
            rows.append(
                Row(here, there, carry, {first + k: there[1] * w for k, w in enumerate(weights)}, noise_std=noise,
                    take=KEEP if j else 1, corrector_state=carry, corrector_weights={})
            )  # fmt: skip
    return assemble(rows, kind="x0")


def _seeds_weights(h: Any, order: int, variant: str) -> list[list[Any]]:
    """Weights of the evaluations so far, over alpha, for each stage and the end; h is the step times 1 + eta."""
    whole = lambda share: -np.expm1(-share * h)
    # (share h)^2 phi_2(-share h) / h: a slope in units of the step.
    rising = lambda share: (share * h + np.expm1(-share * h)) / h
    if order == 2:
        (r,) = SEEDS_STAGES[2]
        slope = rising(1.0) / r if variant == "phi_2" else whole(1.0) / (2 * r)
        return [[whole(r)], [whole(1.0) - slope, slope]]
    r1, r2 = SEEDS_STAGES[3]
    inner, last = rising(r2) / r1, rising(1.0) / r2
    return [[whole(r1)], [whole(r2) - inner, inner], [whole(1.0) - last, 0.0, last]]


def _prepare(name: str, schedule: Any, grid: Any, eta: Any) -> tuple[Path, np.ndarray]:
    """The path, and rho = sigma / alpha of its nodes."""
    path = check_grid(name, schedule, grid)
    if path.xp is not np or is_traced(eta):
        raise TypeError(f"{name}: grid and eta must be concrete, not traced: the number of rows depends on the last.")
    check_scalar(f"{name}: eta", eta, low=0)
    refuse_eps(name, path)
    return path, path.sigma / path.alpha


def _split(rho: Any, target: Any, eta: Any) -> tuple[Any, Any]:
    """The level that an ancestral step goes down to, and the noise that leads from there to its target."""
    up = min(target, eta * target * np.sqrt(max(1 - (target / rho) ** 2, 0.0)))
    return np.sqrt(max(target**2 - up**2, 0.0)), up


def _toward(rho: Any, target: Any) -> tuple[Any, Any]:
    """Coefficients of x / alpha and of x0 in a step of x0 held constant."""
    return target / rho, 1 - target / rho


def _to_clean(path: Path, i: int, r: int, up: Any) -> Row:
    """A step down to x0 itself, and the noise that leads from there to its target."""
    end = path.at(i + 1)
    return Row(path.at(i), end, 0.0, {r: end[1]}, path.lam[i], None if up is None else end[1] * up)
