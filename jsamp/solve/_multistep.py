"""The Lagrange builder: multistep solvers whose prediction is a polynomial through past nodes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from jsamp._core._checks import check_choice, check_count, check_number, check_scalar, concrete
from jsamp._core._types import Grid, Schedule
from jsamp.solve._columns import CORRECT
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._weights import Path, as_weights, check_grid, first_order, lower

# Sum of |weights| of Adams-Bashforth methods of 1 to 6 points, and how many times more of it "auto" allows.
EQUAL_STEPS = (1.0, 2.0, 11 / 3, 20 / 3, 551 / 45, 22.9)
GROWTH = 1.5


def build(
    path: Path,
    *,
    kind: str,
    order: int,
    variable: str = "lam",
    variant: str = "exact",
    tau: Any = None,
    corrector: int = 0,
    correct_last: bool = False,
    lower_order_final: Any = False,
    integrals: Any = None,
) -> Plan:
    """Rows of a linear multistep solver; `tau` is one value per step, or None for an ODE.

    `corrector` counts its points, the new one included; 0 is none, -1 is one more than the predictor uses at that
    step. `integrals(i)` replaces the first-order (A, B, C) and `as_weights` of a step, for noise laws of their own.
    """
    xp, n = path.xp, path.steps
    rate = [0.0] * n if tau is None else tau
    caps = _caps(path, kind, variable, order, lower_order_final, rate)
    rows: list[Row] = []

    def correct(before, row, i):
        """The row before leaves what is known of the corrector by then; the row adds its own prediction."""
        a, weights = _corrector(path, i, order, corrector, caps, kind, variable, rate, variant)
        own = weights.pop(i)
        before = before._replace(corrector_state=a, corrector_weights=weights)
        return before, row._replace(take=CORRECT, corrector_newest=own)

    for i in range(n):
        size = min(order, i + 1)
        point = list(range(i, i - size, -1))
        if integrals is None:
            a, _, c = first_order(path, i, kind, rate[i])
            formula = lambda q, i=i, p=point: as_weights(path, i, p[:q], kind, variable, rate[i], variant)
        else:
            a, c, formula = integrals(i, point)
        weights = dict(zip(point, lower(xp, caps[i], size, formula), strict=True))
        row = Row(path.at(i), path.at(i + 1), a, weights, path.node(i, variable), None if tau is None else c)
        if corrector and i > 0:
            rows[-1], row = correct(rows[-1], row, i)
        rows.append(row)
    if correct_last:
        end = path.at(n)
        last = Row(end, end, xp.ones(()), {n: 0.0}, path.node(n, variable), None if tau is None else 0.0)
        rows[-1], last = correct(rows[-1], last, n)
        rows.append(last)
    return assemble(rows, kind=kind)


def _corrector(path, i, order, corrector, caps, kind, variable, rate, variant):
    """State coefficient and weights of the corrector of the step that ended at node i, which it may now use.

    With one usable node it repeats the step.
    """
    size = min(order, i) + 1 if corrector < 0 else min(corrector, i + 1)
    point, before = list(range(i, i - size, -1)), (path, i - 1)
    a, single, _ = first_order(*before, kind, rate[i - 1])

    def formula(q):
        return [0.0, single] if q == 1 else as_weights(*before, point[:q], kind, variable, rate[i - 1], variant)

    usable = i + 1 if variable == "t" else path.xp.where(path.signalless[0], i, i + 1)
    cap = path.xp.minimum(caps[i - 1] + 1, usable)
    return a, dict(zip(point, lower(path.xp, cap, size, formula), strict=True))


def _caps(path: Path, kind: str, variable: str, order: int, lower_order_final: Any, rate: list[Any]) -> list[Any]:
    """Count the points each step may use, beyond the warm-up: infinite nodes and long steps allow fewer."""
    xp, n = path.xp, path.steps
    caps: list[Any] = [order] * n
    if variable != "t":
        for i in range(1, min(order, n)):
            caps[i] = xp.where(path.signalless[0], i, order)
    if lower_order_final is True:
        caps = [xp.minimum(cap, n - i) for i, cap in enumerate(caps)]
    if lower_order_final == "auto":
        caps = [xp.minimum(*both) for both in zip(caps, _growth_caps(path, kind, variable, order, rate), strict=True)]
        caps[n - 1] = xp.where(path.noiseless[n], 1, caps[n - 1])
    if not (kind == "eps" and variable == "rho"):
        caps[n - 1] = xp.where(path.noiseless[n], 1, caps[n - 1])
    return caps


def _growth_caps(path: Path, kind: str, variable: str, order: int, rate: list[Any]) -> list[Any]:
    """Points each step may use before its weights grow beyond GROWTH times those of equal steps.

    A step that is long beside those before it extrapolates its polynomial: the sum of |weights|, relative to the
    first-order weight, says by how much. On equal steps it is that of Adams and Bashforth.
    """
    xp, caps = path.xp, []
    for i in range(path.steps):
        cap = fits = xp.ones(())
        for q in range(2, min(order, i + 1) + 1):
            weights = as_weights(path, i, list(range(i, i - q, -1)), kind, variable, rate[i], "exact")
            total = sum(xp.abs(w) for w in weights)
            fits = fits * (total <= GROWTH * EQUAL_STEPS[q - 1] * xp.abs(first_order(path, i, kind, rate[i])[1]))
            cap = cap + fits
        caps.append(cap)
    return caps


def prepare(
    name: str, schedule: Schedule, grid: Grid, order: Any, lower_order_final: Any = False, *options: Any
) -> Path:
    """The path of a grid, with the options that multistep solvers share checked."""
    path = check_grid(name, schedule, grid, *options)
    check_count(f"{name}: order", order, high=6)
    check_choice(f"{name}: lower_order_final", lower_order_final, ("auto", True, False))
    return path


def rates(name: str, path: Path, tau: Any) -> list[Any] | None:
    """Tau for each step (constant, array [n], or callable of the step's starting time), or None for an ODE."""
    if callable(tau):
        values = [tau(path.t[i]) for i in range(path.steps)]
        for value in values:
            check_scalar(f"{name}: tau(t)", value, low=0)
        return values
    check_number(f"{name}: tau", tau, low=0)
    if np.ndim(tau) > 1 or (np.ndim(tau) == 1 and np.shape(tau)[0] != path.steps):
        raise ValueError(f"{name}: tau must be a scalar or one value per step [{path.steps}], got {np.shape(tau)}.")
    known = concrete(tau)
    if known is not None and np.all(known == 0):
        return None
    return list(path.xp.broadcast_to(path.xp.asarray(tau, path.t.dtype), (path.steps,)))


def refuse_eps(name: str, path: Path, tau: Any = None) -> None:
    """Refuse the eps form where a known grid makes it singular: no signal at the start, or tau > 0 at sigma = 0."""
    if path.xp is not np:
        return
    if path.signalless[0]:
        raise ValueError(
            f"{name} works in eps form, which is singular at alpha = 0 (grid[0]={path.t[0]:.6g}). "
            f"Start at a t_max with alpha > 0, or use an x0 form such as js.solve.dpmpp."
        )
    if tau is not None and path.noiseless[-1]:
        raise ValueError(
            f"{name} with tau > 0 in eps form cannot step to sigma = 0: its last noise would not vanish. "
            f"End the grid with final='sigma_min', or use js.solve.dpmpp."
        )


def dpmpp(
    schedule: Schedule,
    grid: Grid,
    *,
    order: int = 2,
    variant: Literal["exact", "reference"] = "exact",
    tau: Any = 0.0,
    lower_order_final: Any = "auto",
) -> Plan:
    """Make DPM-Solver++ multistep (1M, 2M, 3M, ...; SDE forms with tau): x0 interpolated in lam.

    x_t = (sigma_t / sigma_s) e^(-tau^2 h) x_s + sum_j B_j x0_j + C z, with B_j the integrals of the exponential weight
    against the Lagrange basis. Warm-up uses the points there are. Published codes multiply the quadratic term of 3M
    by one half, which makes it second order; `variant="exact"` (default) keeps third order.

    Args:
        schedule: a noise schedule.
        grid: [n + 1] decreasing times.
        order: number of points = order of convergence of the ODE (static, 1..6).
        variant: "exact", or "reference": 2M midpoint and 3M as published.
        tau: stochasticity >= 0: 0 the ODE, 1 the standard reverse SDE (k-diffusion's eta is tau^2); a scalar, one
            value per step, or a callable of the step's starting time. Weak order at most 2.
        lower_order_final: "auto" takes the last step first order when it goes to sigma = 0, and lowers the order of any
            step so much longer than those before it that its weights sum to over 1.5 times those of equal steps; True
            lowers the last steps always; False never. Which errs least depends on the data as well as on the grid.

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid or option.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.dpmpp(schedule, js.noise.logsnr_grid(schedule, 10), order=3).slots
        3

    Cost:
        n denoiser calls, order - 1 predictions held.

    References:
        Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
        arXiv:2211.01095.
    """
    path = prepare("dpmpp", schedule, grid, order, lower_order_final, tau)
    check_choice("dpmpp: variant", variant, ("exact", "reference"))
    tau = rates("dpmpp", path, tau)
    return build(path, kind="x0", order=order, variant=variant, tau=tau, lower_order_final=lower_order_final)


def dpm_solver(
    schedule: Schedule,
    grid: Grid,
    *,
    order: int = 2,
    variant: Literal["exact", "reference"] = "exact",
    tau: Any = 0.0,
    lower_order_final: Any = "auto",
) -> Plan:
    """Make DPM-Solver multistep: eps interpolated in lam. `variant="exact"` is also the DEIS of diffusers (log-rho).

    x_t = (alpha_t / alpha_s) x_s + sum_j B_j eps_j. Under strong guidance prefer `dpmpp`. Errors of the prediction and
    of float32 are multiplied by up to 1 / alpha of the start (`js.solve.describe` shows it): start at alpha > 0.02 for
    errors below 1e-4 in float32. tau > 0 needs more steps still: on `VP` from t = 1 and on `Flow` from alpha = 1e-3 the
    standard error of the sample is 1 or more below some 20 steps; `dpmpp(tau=...)` has no such range.

    Args:
        schedule: a noise schedule; alpha must be positive on the grid.
        grid: [n + 1] decreasing times.
        order: number of points = order of convergence (static, 1..6).
        variant: "exact", or "reference": 2M midpoint and 3M as published (second order).
        tau: stochasticity, as in `dpmpp`; then the grid must not end at sigma = 0.
        lower_order_final: as in `dpmpp`.

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid or option, alpha = 0, or sigma = 0 with tau > 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.dpm_solver(schedule, js.noise.logsnr_grid(schedule, 10), order=3).kind
        'eps'

    Cost:
        n denoiser calls, order - 1 predictions held.

    References:
        Lu et al., "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps", 2022,
        arXiv:2206.00927.
    """
    path = prepare("dpm_solver", schedule, grid, order, lower_order_final, tau)
    check_choice("dpm_solver: variant", variant, ("exact", "reference"))
    tau = rates("dpm_solver", path, tau)
    refuse_eps("dpm_solver", path, tau)
    return build(path, kind="eps", order=order, variant=variant, tau=tau, lower_order_final=lower_order_final)


def deis(
    schedule: Schedule,
    grid: Grid,
    *,
    order: int = 3,
    variable: Literal["t", "rho", "lam"] = "t",
    lower_order_final: Any = "auto",
) -> Plan:
    """Make DEIS: eps interpolated by a polynomial in time, in rho = sigma / alpha, or in lam, integrated exactly.

    The paper's tAB-DEIS-r and rhoAB-DEIS-r are `order=r + 1` (order counts points, as everywhere here);
    `variable="lam"` is what diffusers calls DEIS. Weights come from Gauss-Legendre quadrature; the published Riemann
    sum is off by 1e-4.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times; the paper uses `time_grid(schedule, steps, power=2)`.
        order: number of points = order of convergence (static, 1..6).
        variable: "t", "rho" or "lam".
        lower_order_final: as in `dpmpp`.

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid or option, or alpha = 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.deis(schedule, js.noise.time_grid(schedule, 10, power=2), order=4).nfe
        10

    Cost:
        n denoiser calls, order - 1 predictions held.

    References:
        Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", 2023, arXiv:2204.13902.
    """
    path = prepare("deis", schedule, grid, order, lower_order_final)
    check_choice("deis: variable", variable, ("t", "rho", "lam"))
    refuse_eps("deis", path)
    return build(path, kind="eps", order=order, variable=variable, lower_order_final=lower_order_final)


def lms(schedule: Schedule, grid: Grid, *, order: int = 4) -> Plan:
    """Make the linear multistep of k-diffusion in rho = sigma / alpha: `deis(variable="rho")` that keeps its order.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times; may end at sigma = 0 at full order.
        order: number of points = order of convergence (static, 1..6).

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid or option, or alpha = 0.

    Example:
        >>> import jsamp as js
        >>> js.solve.lms(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 10)).slots
        4

    Cost:
        n denoiser calls, order - 1 predictions held.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364
        (the coordinates); the method is Adams and Bashforth's on a variable grid.
    """
    path = prepare("lms", schedule, grid, order)
    refuse_eps("lms", path)
    return build(path, kind="eps", order=order, variable="rho")
