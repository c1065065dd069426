"""Singlestep DPM-Solvers: exponential Runge-Kutta blocks, packed into a budget of evaluations."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from jsamp._core._checks import check_choice
from jsamp._core._types import Grid, Schedule
from jsamp.solve._multistep import refuse_eps
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._stages import block
from jsamp.solve._weights import Path, as_weights, check_grid, first_order

PACKINGS = ("fast", "grid")


def _orders(n: int, order: int, packing: str) -> list[int]:
    """Evaluations of each block, n in all; "grid" ends an even number of second-order blocks with two single steps."""
    if order == 3:
        return {0: [3] * (n // 3 - 1) + [2, 1], 1: [3] * (n // 3) + [1], 2: [3] * (n // 3) + [2]}[n % 3]
    if packing == "grid" and n % 2 == 0:
        return [2] * (n // 2 - 1) + [1, 1]
    return [2] * (n // 2) + [1] * (n % 2)


def _block_rows(path: Path, i: int, size: int, kind: str, variant: str, packing: str, r: int) -> list[Row]:
    """Rows of one block over nodes i..i+size: stage k moves from node i to node i + k + 1.

    "exact" uses every prediction of the block; "reference" only the first and the newest, by the midpoint rule in a
    second-order block and, with diffusers' packing, in the second stage of any block.
    """
    points = [path.at(i + k) for k in range(size)]
    weights = []
    for k in range(size):
        used = list(range(k + 1)) if variant == "exact" or k < 2 else [0, k]
        span = _span(path, i, i + k + 1, [i + u for u in used])
        midpoint = variant == "reference" and k == 1 and (size == 2 or packing == "grid")
        rule = "reference" if midpoint else "exact"
        found = as_weights(span, 0, _local(used), kind, "lam", 0.0, rule)
        row: list[Any] = [0.0] * (k + 1)
        for u, weight in zip(used, found, strict=True):
            row[u] = weight
        weights.append(row)
    scale = (lambda s, e: e[2] / s[2]) if kind == "x0" else (lambda s, e: e[1] / s[1])
    if path.xp is not np:
        infinite = path.noiseless[i + size] | path.signalless[i]
        single = _single_steps(path, i, size, kind)
        weights = [
            [path.xp.where(infinite, a, b) for a, b in zip(*rows, strict=True)]
            for rows in zip(single, weights, strict=True)
        ]
    return block(path, points, path.at(i + size), weights, scale, r, path.lam[i])


def _single_steps(path: Path, i: int, size: int, kind: str) -> list[list[Any]]:
    """Weights of a block whose steps are taken one by one to first order, seen from the block's start."""
    weights: list[list[Any]] = []
    for k in range(size):
        decay, gain, _ = first_order(path, i + k, kind, 0.0)
        weights.append([decay * w for w in (weights[-1] if weights else [])] + [gain])
    return weights


def _local(used: list[int]) -> list[int]:
    return [0, *range(2, len(used) + 1)]


def _span(path: Path, start: int, stop: int, nodes: list[int]) -> Path:
    """A path whose step 0 goes from `start` to `stop`, with the block's other nodes behind it."""
    pick = np.array([start, stop, *nodes[1:]])
    parts = {name: getattr(path, name)[pick] for name in ("t", "alpha", "sigma", "lam", "noiseless", "signalless")}
    return Path(path.xp, path.schedule, **parts)


def _single(name: str, schedule: Schedule, grid: Grid, order: int, packing: str, variant: str, kind: str) -> Plan:
    path = check_grid(name, schedule, grid)
    check_choice(f"{name}: order", order, (2, 3))
    check_choice(f"{name}: packing", packing, PACKINGS)
    check_choice(f"{name}: variant", variant, ("exact", "reference"))
    if kind == "eps":
        refuse_eps(name, path)
    rows: list[Row] = []
    i = 0
    for size in _orders(path.steps, order, packing):
        # No polynomial reaches an infinite lam: there the block's steps are taken one by one, to first order.
        infinite = path.xp is np and (path.noiseless[i + size] or path.signalless[i])
        parts = [1] * size if infinite else [size]
        for part in parts:
            rows += _block_rows(path, i, part, kind, variant, packing, len(rows))
            i += part
    return assemble(rows, kind=kind)


def dpmpp_single(
    schedule: Schedule,
    grid: Grid,
    *,
    order: int = 2,
    packing: Literal["fast", "grid"] = "fast",
    variant: Literal["exact", "reference"] = "exact",
) -> Plan:
    """Make DPM-Solver++ singlestep (2S, 3S): exponential Runge-Kutta blocks on x0 in lam, n evaluations in all.

    A block of k evaluations crosses k steps of the grid and evaluates at its nodes: stage j goes from the block's start
    to its node j. Blocks are of `order` evaluations, the last ones smaller so that they number n. packing="fast" packs
    as the published code; "grid" as diffusers, which ends even budgets of second order with two single steps.

    Args:
        schedule: a noise schedule.
        grid: [n + 1] decreasing times.
        order: evaluations per block = order of convergence: 2 or 3.
        packing: "fast" or "grid".
        variant: "exact" weighs every prediction of a block (the "taylor" type); "reference" the first and the newest
            (the "dpmsolver" type, midpoint in second-order blocks).

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid or option.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.dpmpp_single(schedule, js.noise.logsnr_grid(schedule, 10), order=3).nfe
        10

    Cost:
        n denoiser calls, order - 1 predictions held.

    References:
        Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
        arXiv:2211.01095.
    """
    return _single("dpmpp_single", schedule, grid, order, packing, variant, "x0")


def dpm_single(
    schedule: Schedule,
    grid: Grid,
    *,
    order: int = 2,
    packing: Literal["fast", "grid"] = "fast",
    variant: Literal["exact", "reference"] = "exact",
) -> Plan:
    """Make DPM-Solver singlestep (2S, 3S, "fast"): exponential Runge-Kutta blocks on eps in lam, n evaluations in all.

    Args:
        schedule: a noise schedule, alpha > 0 on the grid; errors grow as 1 / alpha of the start (see `dpm_solver`).
        grid: [n + 1] decreasing times.
        order: evaluations per block = order of convergence: 2 or 3.
        packing: "fast" or "grid", as in `dpmpp_single`.
        variant: "exact" or "reference", as in `dpmpp_single`.

    Returns:
        A plan of n rows.

    Raises:
        ValueError: for a bad grid or option, or alpha = 0.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.dpm_single(schedule, js.noise.logsnr_grid(schedule, 10), order=2).kind
        'eps'

    Cost:
        n denoiser calls, order - 1 predictions held.

    References:
        Lu et al., "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps", 2022,
        arXiv:2206.00927.
    """
    return _single("dpm_single", schedule, grid, order, packing, variant, "eps")
