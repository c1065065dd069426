"""Multistep solvers with a corrector, and extended reverse-time SDEs: more instances of the Lagrange builder."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from jsamp._core._checks import check_callable, check_choice, check_count, check_flag
from jsamp._core._numerics import gauss_legendre
from jsamp._core._types import Grid, Schedule
from jsamp.solve._multistep import build, prepare, rates, refuse_eps
from jsamp.solve._plan import Plan
from jsamp.solve._weights import NODES, Path


def unipc(
    schedule: Schedule,
    grid: Grid,
    *,
    order: int = 3,
    predicts: Literal["x0", "eps"] = "x0",
    variant: Literal["exact", "bh1", "bh2"] = "exact",
    corrector_last: bool = False,
    lower_order_final: Any = "auto",
) -> Plan:
    """Make UniPC: an exponential Adams predictor whose step is corrected, at no extra call, by the next evaluation.

    The corrector of a step uses the order + 1 points that include its end, so order p converges with order p + 1.
    B(h) of the paper cancels except in the two-point formulas, where "bh1" and "bh2" fix the slope's weight.

    Args:
        schedule: a noise schedule.
        grid: [n + 1] decreasing times.
        order: points of the predictor (static, 1..6).
        predicts: "x0" or "eps": what is interpolated. On eps errors grow as 1 / alpha of the start (see `dpm_solver`).
        variant: "exact", "bh1" or "bh2".
        corrector_last: also correct the last step, with one more evaluation at the end of the grid.
        lower_order_final: as in `dpmpp`; the published code always lowers (True).

    Returns:
        A plan of n rows (n + 1 with `corrector_last`).

    Raises:
        ValueError: for a bad grid or option, eps at alpha = 0, or `corrector_last` on a grid that ends at sigma = 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.unipc(schedule, js.noise.logsnr_grid(schedule, 8), order=2).nfe
        8

    Cost:
        n denoiser calls, max(order, 1) predictions held.

    References:
        Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models", 2023,
        arXiv:2302.04867.
    """
    path = prepare("unipc", schedule, grid, order, lower_order_final)
    check_choice("unipc: predicts", predicts, ("x0", "eps"))
    check_choice("unipc: variant", variant, ("exact", "bh1", "bh2"))
    if predicts == "eps":
        refuse_eps("unipc(predicts='eps')", path)
    if check_flag("unipc: corrector_last", corrector_last):
        refuse_last("unipc", path)
    return build(
        path,
        kind=predicts,
        order=order,
        variant=variant,
        corrector=-1,
        correct_last=corrector_last,
        lower_order_final=lower_order_final,
    )


def refuse_last(name: str, path: Path) -> None:
    """Refuse to correct the last step where it ends at sigma = 0."""
    if path.xp is np and path.noiseless[-1]:
        raise ValueError(
            f"{name}: corrector_last evaluates at the end of the grid, where sigma = 0 and nothing is left to predict. "
            f"End the grid with final='sigma_min', or use corrector_last=False."
        )


def sa_solver(
    schedule: Schedule,
    grid: Grid,
    *,
    predictor: int = 3,
    corrector: int = 4,
    tau: Any = 1.0,
    variant: Literal["exact", "few_steps"] = "exact",
    corrector_last: bool = False,
    lower_order_final: Any = "auto",
) -> Plan:
    """Make SA-Solver: stochastic Adams predictor and corrector on x0, both with the same noise.

    Args:
        schedule: a noise schedule.
        grid: [n + 1] decreasing times.
        predictor: points of the predictor (static, 1..6).
        corrector: points of the corrector, its new one included (static, 2..6), or 0 for none.
        tau: stochasticity >= 0: a scalar, one value per step, or a callable of the step's starting time.
        variant: "exact", or "few_steps": two-point formulas with the published change of O(h^3) for few steps.
        corrector_last: also correct the last step, with one more evaluation at the end of the grid.
        lower_order_final: as in `dpmpp`. The published code always lowers (True) and corrects its last step: at 5 and
            10 steps on log-SNR grids its samples differ from the default's by about .2 and .1.

    Returns:
        A plan of n rows (n + 1 with `corrector_last`). With tau = 0, predictor 3 and corrector 4 it is
        `unipc(order=3)`.

    Raises:
        ValueError: for a bad grid or option, or `corrector_last` on a grid that ends at sigma = 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> grid = js.noise.time_grid(schedule, 20)
        >>> js.solve.sa_solver(schedule, grid, tau=lambda t: float(0.2 < t < 0.8)).stochastic
        True

    Cost:
        n denoiser calls.

    References:
        Xue et al., "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models", 2023,
        arXiv:2309.05019.
    """
    check_count("sa_solver: predictor", predictor, high=6)
    path = prepare("sa_solver", schedule, grid, predictor, lower_order_final, None if callable(tau) else tau)
    check_choice("sa_solver: variant", variant, ("exact", "few_steps"))
    if check_count("sa_solver: corrector", corrector, low=0, high=6) == 1:
        raise ValueError("sa_solver: corrector must be 0 (none) or at least 2 points, the new one included; got 1.")
    if check_flag("sa_solver: corrector_last", corrector_last):
        if not corrector:
            raise ValueError("sa_solver: corrector_last needs a corrector, but corrector=0.")
        refuse_last("sa_solver", path)
    return build(
        path,
        kind="x0",
        order=predictor,
        variant="exact" if variant == "exact" else "bh1",
        corrector=corrector,
        tau=rates("sa_solver", path, tau),
        correct_last=corrector_last,
        lower_order_final=lower_order_final,
    )


def _default_phi(rho):
    return rho * (np.exp(rho**0.3) + 10) if isinstance(rho, (float, np.ndarray)) else rho * (_exp(rho**0.3) + 10)


def _exp(value):
    import jax.numpy as jnp

    return jnp.exp(value)


def er_sde(schedule: Schedule, grid: Grid, *, order: int = 2, phi: Any = None) -> Plan:
    """Make ER-SDE: an extended reverse-time SDE with a chosen noise function, x0 interpolated in rho = sigma / alpha.

    x_t / alpha_t = (phi_t / phi_s) x_s / alpha_s + sum_j x0_j int l_j d(phi_t / phi) + z, with noise variance
    rho_t^2 - rho_s^2 phi_t^2 / phi_s^2. phi(rho) = rho is the ODE; phi = rho^2 the standard reverse SDE.

    Args:
        schedule: a noise schedule; alpha must be positive on the grid.
        grid: [n + 1] decreasing times.
        order: number of points (static, 1..6); the paper goes to 3.
        phi: noise function of rho, with phi(rho) / rho non-decreasing; default rho (exp(rho^0.3) + 10).

    Returns:
        A stochastic plan of n rows.

    Raises:
        ValueError: for a bad grid or option, alpha = 0, or a phi that would need negative variance.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.er_sde(schedule, js.noise.time_grid(schedule, 20, power=2)).stochastic
        True

    Cost:
        n denoiser calls, order - 1 predictions held.

    References:
        Cui et al., "Elucidating the Solution Space of Extended Reverse-Time SDE for Diffusion Models", 2023,
        arXiv:2309.06169.
    """
    path = prepare("er_sde", schedule, grid, order)
    phi = _default_phi if phi is None else phi
    check_callable("er_sde: phi", phi, "phi(rho)")
    refuse_eps("er_sde", path)
    xp = path.xp
    u, w = gauss_legendre(NODES)
    rho = path.sigma / path.alpha
    level = xp.asarray(phi(rho))
    if np.shape(level) != np.shape(rho):
        raise ValueError(f"er_sde: phi must return the shape of rho, {np.shape(rho)}, got {np.shape(level)}.")
    if xp is np and not np.all(np.isfinite(level) & (level[: len(level) - int(path.noiseless[-1])].min() > 0)):
        raise ValueError("er_sde: phi(rho) must be finite, and positive where rho > 0.")
    if xp is np and np.any(np.diff(level[: len(level) - int(path.noiseless[-1])] / rho[rho > 0]) > 1e-12 * level[0]):
        raise ValueError("er_sde: phi(rho) / rho must not decrease with rho, or the noise variance is negative.")

    def integrals(i, point):
        ratio, length = level[i + 1] / level[i], rho[i + 1] - rho[i]
        variance = rho[i + 1] ** 2 - (rho[i] * ratio) ** 2
        noise = path.alpha[i + 1] * xp.sqrt(xp.maximum(variance, 0.0 if xp is np else 1e-30))
        inner = xp.exp(-(path.lam[i] + (path.lam[i + 1] - path.lam[i]) * u))
        measure = w * inner * (path.lam[i + 1] - path.lam[i]) * level[i + 1] / phi(inner)

        def formula(q):
            # Moments of d(phi_t / phi) about rho_s, by parts, so that phi need not be differentiated.
            moment = [1 - ratio]
            moment += [length**k + k * xp.sum(measure * (inner - rho[i]) ** (k - 1)) for k in range(1, q)]
            powers = xp.stack([(xp.stack([rho[j] for j in point[:q]]) - rho[i]) ** k for k in range(q)])
            return list(path.alpha[i + 1] * xp.linalg.solve(powers, xp.stack([xp.asarray(m) for m in moment])))

        return path.alpha[i + 1] / path.alpha[i] * ratio, noise, formula

    return build(path, kind="x0", order=order, variable="rho", tau=[0.0] * path.steps, integrals=integrals)
