"""Errors against network evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jsamp._core._checks import shown
from jsamp.plot._axes import COLOURS, check_axes, check_numbers, new_axes

MARKS = "os^vDPX*"


def _apart(heights: list[float], gap: float) -> list[float]:
    """Move ascending heights apart until neighbours are `gap` apart or more."""
    placed = list(heights)
    for _ in range(200):
        for i in range(len(placed) - 1):
            overlap = gap - (placed[i + 1] - placed[i])
            if overlap > 1e-9:
                placed[i] -= overlap / 2
                placed[i + 1] += overlap / 2
    return placed


def _check_errors(errors: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return name -> (evaluations, errors), ascending, or refuse them."""
    remedy = "Give {solver: {evaluations: error}}."
    if not isinstance(errors, Mapping) or not errors or not all(isinstance(v, Mapping) and v for v in errors.values()):
        raise TypeError(f"work_precision: errors must be a dict of dicts, got {shown(errors)}. {remedy}")
    curves = {}
    for name, curve in errors.items():
        who = f"work_precision: errors[{name!r}]"
        points = [check_numbers(who, list(part), remedy) for part in (curve.keys(), curve.values())]
        if any(p.ndim != 1 or not np.isfinite(p).all() or not (p > 0).all() for p in points):
            raise ValueError(f"{who} must hold finite numbers > 0, as both axes are logarithmic; got {dict(curve)}.")
        order = np.argsort(points[0])
        curves[str(name)] = (points[0][order], points[1][order])
    return curves


def work_precision(errors: Mapping[str, Mapping[int, float]], *, axes: Any = None) -> Any:
    """Draw errors against network evaluations, both logarithmic, one line for each solver, named at its end.

    Args:
        errors: solver -> (evaluations -> error), all > 0. Lines take colours and marks in the order of the dict.
        axes: matplotlib axes to draw on; by default those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        TypeError: for what is no dict of dicts of numbers.
        ValueError: for numbers that are not finite and positive.

    Example:
        >>> import jsamp as js
        >>> axes = js.plot.work_precision({"DDIM": {5: 0.4, 10: 0.2}, "2M": {5: 0.2, 10: 0.05}})
        >>> [line.get_label() for line in axes.get_lines()], axes.get_xscale()
        (['DDIM', '2M'], 'log')

    Cost:
        Time of order points; nothing is sampled.
    """
    curves = _check_errors(errors)
    if axes is None:
        axes = new_axes(figsize=(8.0, 4.6))
    axes = check_axes("work_precision", axes)
    for i, (name, (work, error)) in enumerate(curves.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "label": name}
        axes.loglog(work, error, markersize=5.5, linewidth=2, **style)
    counts = sorted({int(n) for work, _ in curves.values() for n in work})
    kept = [n for i, n in enumerate(counts) if i in (0, len(counts) - 1) or n % 10 == 0]
    axes.set_xticks(kept, [str(n) for n in kept])
    axes.minorticks_off()
    axes.set(xlabel="network evaluations", ylabel="error")
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    low, high = np.log10(axes.get_ylim())
    lines = sorted(axes.get_lines()[-len(curves) :], key=lambda line: line.get_ydata()[-1])
    heights = _apart([float(np.log10(line.get_ydata()[-1])) for line in lines], 0.058 * (high - low))
    for line, height in zip(lines, heights, strict=True):
        end = {"textcoords": "offset points", "xytext": (10, 0), "va": "center", "annotation_clip": False}
        name, colour = line.get_label(), line.get_color()
        axes.annotate(name, (line.get_xdata()[-1], 10**height), color=colour, fontweight="bold", **end)
    return axes
