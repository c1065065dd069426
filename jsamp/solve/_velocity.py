"""Multistep solvers on the velocity, in the coordinates in which every Gaussian path is a rectified flow."""

from __future__ import annotations

from typing import Any

from jsamp._core._checks import check_count
from jsamp._core._numerics import gauss_legendre, lagrange_basis
from jsamp._core._types import Grid, Schedule
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._weights import check_grid


def velocity_multistep(schedule: Schedule, grid: Grid, *, order: int = 2) -> Plan:
    """Step by Adams-Bashforth on the velocity of the straight path, on steps of any length.

    With s = sigma / (alpha + sigma) and w = x / (alpha + sigma), dw/ds = eps - x0: any schedule is a rectified flow,
    and on `Flow` s = t and w = x. The velocity is interpolated by a polynomial in s through the last `order`
    evaluations and integrated exactly. Nothing is singular at either end, so grids may run from alpha = 0 to sigma = 0
    at full order. order = 1 is `ddim`.

    Args:
        schedule: a noise schedule.
        grid: [n + 1] decreasing times.
        order: number of points = order of convergence (static, 1..6); lower in the first steps.

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid or order.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.Flow()
        >>> js.solve.velocity_multistep(schedule, js.noise.time_grid(schedule, 10, final="zero"), order=3).slots
        3

    Cost:
        n denoiser calls, order - 1 predictions held.

    References:
        Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", 2023, arXiv:2204.13902 (the
        method, in other coordinates). Lipman et al., "Flow Matching for Generative Modeling", 2022, arXiv:2210.02747.
    """
    path = check_grid("velocity_multistep", schedule, grid)
    check_count("velocity_multistep: order", order, high=6)
    xp, total = path.xp, path.alpha + path.sigma
    s = path.sigma / total
    u, w = gauss_legendre(8)  # exact up to degree 15
    rows: list[Row] = []
    for i in range(path.steps):
        nodes = list(range(i, max(i - order, -1), -1))
        length = s[i + 1] - s[i]
        basis = lagrange_basis([s[k] for k in nodes], s[i] + length * u)
        weights: dict[int, Any] = {k: total[i + 1] * length * xp.sum(w * b) for k, b in zip(nodes, basis, strict=True)}
        rows.append(Row(path.at(i), path.at(i + 1), total[i + 1] / total[i], weights, node=s[i]))
    return assemble(rows, kind="velocity")
