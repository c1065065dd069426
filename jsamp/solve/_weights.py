"""Weights of an exponential integral over one step, with a polynomial in place of the prediction.

In y = x / alpha the probability-flow ODE is dy = -e^-lam eps dlam = -(y - x0) dlam; with stochasticity tau the drift is
multiplied by kappa = 1 + tau^2. Everything here depends on the schedule and grid alone: numpy float64 on the host, or
the same formulas on jax.numpy when the grid is traced.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import concrete, is_traced, shown
from jsamp._core._numerics import as_array, gauss_legendre, lagrange_basis, namespace
from jsamp._core._types import Grid, Schedule
from jsamp.noise._protocol import check_schedule, domain

NODES = 48


@dataclasses.dataclass(frozen=True)
class Path:
    """A grid seen through its schedule. Infinite lam are replaced by finite stand-ins that no result depends on."""

    xp: Any
    schedule: Schedule
    t: Any
    alpha: Any
    sigma: Any
    lam: Any
    noiseless: Any
    signalless: Any

    @property
    def steps(self) -> int:
        """Number of steps of the grid."""
        return self.t.shape[0] - 1

    def node(self, i: int, variable: str) -> Any:
        """Coordinate of node i in an interpolation variable."""
        if variable == "t":
            return self.t[i]
        return self.lam[i] if variable == "lam" else self.sigma[i] / self.alpha[i]

    def at(self, i: int) -> tuple[Any, Any, Any]:
        """(t, alpha, sigma) of node i."""
        return self.t[i], self.alpha[i], self.sigma[i]


def check_grid(name: str, schedule: Schedule, grid: Grid, *options: Any) -> Path:
    """The path of a grid, or a refusal saying what is wrong with it; traced `options` make the path a traced one."""
    check_schedule(f"{name}: schedule", schedule)
    check_grid_is_array(name, grid)
    if np.ndim(grid) != 1 or np.shape(grid)[0] < 2:
        raise ValueError(
            f"{name}: grid must be a vector of n + 1 >= 2 times, got shape {np.shape(grid)}. "
            f"Use js.noise.logsnr_grid(schedule, steps)."
        )
    # A schedule of the user's may be no tree: its attributes are looked at too.
    xp = namespace(schedule, getattr(schedule, "__dict__", None), grid, options)
    t = as_array(grid, xp)
    if xp is np:
        _check_times(name, schedule, t)
    alpha, sigma = (as_array(level(t), xp) * xp.ones_like(t) for level in (schedule.alpha, schedule.sigma))
    if xp is np:
        _check_levels(name, t, alpha, sigma)
    noiseless, signalless = sigma <= 0, alpha <= 0
    lam = xp.log(xp.where(signalless, 1, alpha)) - xp.log(xp.where(noiseless, 1, sigma))
    lam = xp.where(noiseless, xp.roll(lam, 1) + 1, xp.where(signalless, xp.roll(lam, -1) - 1, lam))
    return Path(xp, schedule, t, alpha, sigma, lam, noiseless, signalless)


def check_grid_is_array(name: str, grid: Grid) -> None:
    """Refuse a grid that is no vector of numbers: a schedule or a key in its place, strings, ragged lists."""
    if not is_traced(grid):
        try:
            dtype = np.asarray(grid).dtype
            numeric = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
        except (TypeError, ValueError):
            numeric = False
        if not numeric:
            raise TypeError(
                f"{name}: grid must be a vector of n + 1 decreasing times, got {shown(grid)}. "
                f"Use js.noise.logsnr_grid(schedule, steps)."
            )


def _check_times(name, schedule, t):
    falls = np.diff(t) < 0
    if not np.all(np.isfinite(t)) or not np.all(falls):
        i = int(np.argmin(falls & np.isfinite(t[1:]) & np.isfinite(t[:-1]))) + 1
        raise ValueError(
            f"{name}: grid must decrease; got grid[{i}]={t[i]:.6g} >= grid[{i - 1}]={t[i - 1]:.6g}. "
            f"Pass times from noisy to clean without repeats, as js.noise.logsnr_grid does."
        )
    first = float(schedule.time(np.float64(np.inf)))
    if t[-1] < first:
        raise ValueError(
            f"{name}: grid[{len(t) - 1}]={t[-1]:.6g} lies below the noiseless time {first:.6g} of the schedule. "
            f"End the grid there, as final='zero' does, or before."
        )
    low, high = (concrete(end) for end in domain(schedule))
    if low is None or high is None:
        return
    # The last time is not evaluated, and may be the noiseless one.
    asked, slack = t[:-1], 1e-6 * max(1.0, abs(float(high)) if np.isfinite(high) else 1.0)
    outside = (asked > high + slack) | (asked < low - slack)
    if np.any(outside):
        i = int(np.argmax(outside))
        raise ValueError(
            f"{name}: grid[{i}]={t[i]:.6g} is outside the schedule, whose times go from {float(low):.6g} to "
            f"{float(high):.6g}. Use a grid of this schedule, such as js.noise.logsnr_grid(schedule, steps)."
        )


def _check_levels(name, t, alpha, sigma):
    bad = ~(np.isfinite(alpha) & np.isfinite(sigma) & (alpha >= 0) & (sigma >= 0))
    bad[:-1] |= sigma[:-1] <= 0
    if np.any(bad):
        i = int(np.argmax(bad))
        raise ValueError(
            f"{name}: grid[{i}]={t[i]:.6g} is outside the schedule (alpha={alpha[i]:.4g}, sigma={sigma[i]:.4g}). "
            f"Only the last time may be noiseless; keep times within t_min..t_max."
        )
    falls = sigma[1:] * alpha[:-1] < sigma[:-1] * alpha[1:]
    if not np.all(falls):
        i = int(np.argmin(falls)) + 1
        raise ValueError(
            f"{name}: sigma / alpha does not fall from grid[{i - 1}]={t[i - 1]:.6g} to grid[{i}]={t[i]:.6g} "
            f"(alpha={alpha[i]:.4g}, sigma={sigma[i]:.4g}): these times are outside the schedule. Use its own grid."
        )


def _coordinate(path: Path, lam: Any, variable: str) -> Any:
    if variable == "lam":
        return lam
    return path.schedule.time(lam) if variable == "t" else path.xp.exp(-lam)


def first_order(path: Path, i: int, kind: str, tau: Any) -> tuple[Any, Any, Any]:
    """A, B, C of one step i -> i + 1 that holds the prediction constant. Exact at sigma = 0 and at alpha = 0."""
    xp = path.xp
    (_, a0, s0), (_, a1, s1) = path.at(i), path.at(i + 1)
    infinite = path.noiseless[i + 1] | path.signalless[i]
    h = path.lam[i + 1] - path.lam[i]
    kappa, tau2 = 1 + tau**2, tau**2
    if kind == "x0":
        decay = xp.where(infinite, xp.where(tau2 > 0, 0.0, 1.0), xp.exp(-tau2 * h))
        gain = xp.where(infinite, 1.0, -xp.expm1(-kappa * h))
        noise = s1 * xp.sqrt(_positive(xp, xp.where(infinite, 1.0, -xp.expm1(-2 * tau2 * h))))
        return s1 / s0 * decay, a1 * gain, noise
    safe = xp.where(path.signalless[i], 1, a0)
    flat = xp.where(path.noiseless[i + 1], -a1 * s0 / safe, -s1 * xp.expm1(h))
    noise = tau * s1 * xp.sqrt(_positive(xp, xp.expm1(2 * h)))
    return a1 / safe, kappa * flat, noise


def _positive(xp, value):
    # The square root of zero has no gradient; tau = 0 reaches here only in a trace. Steps upwards have no noise.
    return xp.maximum(value, 0.0 if xp is np else 1e-30)


def moments(path: Path, i: int, kind: str, tau: Any, num: int) -> list[Any]:
    """Integrals of the step's weight against s^0, s^1, ... with s in [0, 1] linear in lam."""
    xp = path.xp
    u, w = gauss_legendre(NODES)
    density = _density(path, i, kind, tau, u) * w
    return [xp.sum(density * u**k) for k in range(num)]


def _density(path, i, kind, tau, u):
    """Weight of the prediction at the fraction u of step i, in lam."""
    xp, kappa = path.xp, 1 + tau**2
    h = path.lam[i + 1] - path.lam[i]
    if kind == "x0":
        return path.alpha[i + 1] * kappa * h * xp.exp(-kappa * h * (1 - u))
    return -path.sigma[i + 1] * kappa * h * xp.exp(h * (1 - u))


def lagrange(path: Path, i: int, nodes: list[int], kind: str, variable: str, tau: Any) -> list[Any]:
    """Weights of step i -> i + 1 on the predictions at grid points `nodes`, interpolated in `variable`."""
    xp = path.xp
    u, w = gauss_legendre(NODES)
    places = [path.node(j, variable) for j in nodes]
    if kind == "eps" and variable == "rho":
        # dy = eps drho: the integrand is a polynomial in rho, and stays one down to sigma = 0.
        start, stop = path.node(i, "rho"), path.node(i + 1, "rho")
        basis = lagrange_basis(places, start + (stop - start) * u)
        return [(1 + tau**2) * path.alpha[i + 1] * (stop - start) * xp.sum(w * b) for b in basis]
    lam = path.lam[i] + (path.lam[i + 1] - path.lam[i]) * u
    density = _density(path, i, kind, tau, u) * w
    return [xp.sum(density * b) for b in lagrange_basis(places, _coordinate(path, lam, variable))]


def as_weights(path: Path, i: int, nodes: list[int], kind: str, variable: str, tau: Any, variant: str) -> list[Any]:
    """Weights of one step on `nodes` (newest first): exact, or as published codes have them.

    "reference" and "bh2" give the two-point slope half the first-order weight (the midpoint rule of DPM-Solver-2M);
    "bh1" gives it half of (1 + tau^2) alpha h; "reference" halves the quadratic term of the three-point formula, as
    every published 3M does, which makes it second order.
    """
    if len(nodes) == 1:
        return [first_order(path, i, kind, tau)[1]]
    lam = [path.lam[j] for j in nodes]
    h = path.lam[i + 1] - path.lam[i]
    if len(nodes) == 2 and variant != "exact":
        total = first_order(path, i, kind, tau)[1]
        lead = (1 + tau**2) * h * (path.alpha[i + 1] if kind == "x0" else -path.sigma[i + 1])
        slope = 0.5 * (lead if variant == "bh1" else total) * h / (lam[0] - lam[1])
        # The slope belongs to the node where the step starts, which is nodes[1] when a corrector adds the new one.
        return [total + slope, -slope] if nodes[0] == i else [slope, total - slope]
    if len(nodes) == 3 and variant == "reference" and nodes[0] == i:
        flat, linear, quadratic = moments(path, i, kind, tau, 3)
        r0, r1 = (lam[0] - lam[1]) / h, (lam[1] - lam[2]) / h
        # D1 and D2 as combinations of the three predictions.
        slope0, slope1 = np.array([1.0, -1.0, 0.0]), np.array([0.0, 1.0, -1.0])
        second = [(a / r0 - b / r1) / (r0 + r1) for a, b in zip(slope0, slope1, strict=True)]
        first = [a / r0 + r0 * d for a, d in zip(slope0, second, strict=True)]
        return [flat * e + linear * a + 0.5 * quadratic * d for e, a, d in zip((1, 0, 0), first, second, strict=True)]
    return lagrange(path, i, nodes, kind, variable, tau)


def lower(xp: Any, cap: Any, order: int, weights: Any) -> list[Any]:
    """Weights of at most `order` points, of which only `cap` may be used; `cap` may be traced."""
    pad = lambda values: values + [0.0] * (order - len(values))
    if not is_traced(cap):
        return pad(weights(min(order, int(cap))))
    table = [pad(weights(q)) for q in range(1, order + 1)]
    result = table[0]
    for q in range(2, order + 1):
        result = [xp.where(cap >= q, new, old) for new, old in zip(table[q - 1], result, strict=True)]
    return result
