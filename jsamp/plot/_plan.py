"""A plan as a picture: where it evaluates, where it lands, and which predictions each step combines."""

from __future__ import annotations

from typing import Any

import numpy as np

from jsamp._core._checks import is_traced
from jsamp.plot._axes import COLOURS, check_axes, new_axes
from jsamp.solve import Plan


def _log_snr(alpha: Any, sigma: Any) -> np.ndarray:
    """The half log-SNR log(alpha / sigma) of rows [R]; infinite where sigma or alpha is 0."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(alpha, np.float64)) - np.log(np.asarray(sigma, np.float64))


def _combined(plan: Plan) -> list[tuple[int, int, float]]:
    """Triples (row, row whose prediction it combines, weight), with the history's slots followed from row to row."""
    weights, slot = np.asarray(plan.weights, np.float64), plan.slot
    slots = None if slot is None else np.asarray(slot)
    holds: dict[int, int] = {}
    found = []
    for row, each in enumerate(weights):
        # A row overwrites its slot before the history is read.
        holds |= {} if slots is None else {int(slots[row]): row}
        found.append((row, row, each[0]))
        found += [(row, holds[k], w) for k, w in enumerate(each[1:]) if w != 0 and k in holds]
    merged: dict[tuple[int, int], float] = {}
    for row, source, weight in found:
        merged[row, source] = merged.get((row, source), 0.0) + float(weight)
    return [(row, source, weight) for (row, source), weight in merged.items()]


def _check_plan(plan: Any) -> Plan:
    """Return one concrete plan, or refuse it."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan: plan must be a js.Plan, got {type(plan).__name__}. Build one with js.solve.dpmpp.")
    if is_traced(plan):
        raise TypeError("plan: plan is traced, and a picture needs its numbers. Draw it outside of jit.")
    if np.ndim(plan.t) != 1:
        raise ValueError(
            f"plan: plan is a stack {np.shape(plan.t)} of plans. Draw one: jax.tree.map(lambda a: a[0], p)."
        )
    if plan.nfe < 1:
        raise ValueError("plan: plan has no rows to draw.")
    return plan


def plan(plan: Plan, *, axes: Any = None) -> Any:
    """Draw a plan's rows against log-SNR: a bar for each step, and a disc for each prediction that it combines.

    Row i lies at height i. Its bar runs from log(alpha / sigma) of the evaluation to that of where the row lands (grey
    ends mark rows that add noise); discs lie where the combined predictions were made, with areas proportional to
    |weight| / largest |weight|, blue for positive and red for negative weights. A row that lands at sigma = 0 ends at
    the edge of the picture. Where momentum acts on predictions, a disc stands for the averaged prediction of its
    row. Weights of correctors are not drawn.

    Args:
        plan: a `js.Plan`, one and concrete.
        axes: matplotlib axes to draw on; by default those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        TypeError: for what is no plan, or a traced one.
        ValueError: for stacked plans, or one without rows.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> axes = js.plot.plan(js.solve.dpmpp(schedule, js.noise.logsnr_grid(schedule, 5), order=2))
        >>> axes.get_ylabel(), len(axes.collections[-1].get_offsets())
        ('row', 9)

    Cost:
        Nothing is sampled; time of order rows x history.
    """
    plan = _check_plan(plan)
    start, end = _log_snr(plan.alpha, plan.sigma), _log_snr(plan.alpha_next, plan.sigma_next)
    known = np.concatenate([start, end])
    known = known[np.isfinite(known)]
    low, high = (known.min(), known.max()) if known.size else (-1.0, 1.0)
    margin = 0.06 * max(high - low, 1.0)
    start, end = (np.clip(edge, low - margin, high + margin) for edge in (start, end))
    if axes is None:
        axes = new_axes(figsize=(6.0, 1.2 + 0.22 * min(plan.nfe, 40)))
    axes = check_axes("plan", axes)
    rows = np.arange(plan.nfe)
    axes.hlines(rows, start, end, color="#c9c9c9", linewidth=2, zorder=1)
    if plan.noise_std is not None:
        noisy = np.asarray(plan.noise_std) > 0
        axes.plot(end[noisy], rows[noisy], "|", color="#8a8a8a", markersize=9)
    used = np.array(_combined(plan))
    areas = 120 * np.abs(used[:, 2]) / max(np.abs(used[:, 2]).max(), 1e-30)
    colours = np.where(used[:, 2] >= 0, COLOURS[0], COLOURS[1])
    axes.scatter(start[used[:, 1].astype(int)], used[:, 0], areas, colours, zorder=2, linewidth=0)
    axes.set(xlabel="log-SNR, log(alpha / sigma)", ylabel="row", xlim=(low - margin, high + margin))
    axes.set(title=f"{plan.nfe} evaluations, combining {plan.kind}", ylim=(plan.nfe - 0.4, -0.6))
    return axes
