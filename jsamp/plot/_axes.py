"""Axes to draw on, and arrays to draw: the doors of every picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from jsamp._core._checks import is_traced, shown

COLOURS = ("#1d63c4", "#c8453b", "#1f6f43", "#d98e04", "#7a5cb8", "#8c6d4f", "#4c9f70", "#9a9a9a")


def new_axes(rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """Make axes [rows, columns] (one axes for 1 x 1) of a new figure of pyplot, so that notebooks show it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('js.plot needs matplotlib: pip install "jsamp[plot]".') from error
    _, made = plt.subplots(rows, columns, squeeze=False, layout="constrained", **options)
    return made[0, 0] if rows == columns == 1 else made


def check_axes(who: str, axes: Any, shape: tuple[int, ...] = ()) -> Any:
    """Return axes of the shape wanted, or refuse what cannot be drawn on."""
    each = list(axes.ravel()) if isinstance(axes, np.ndarray) and axes.shape == shape else [axes] if not shape else []
    if not each or not all(hasattr(one, "get_xlim") for one in each):
        wanted = f"an array {shape} of matplotlib axes" if shape else "one matplotlib axes"
        raise TypeError(f"{who}: axes must be {wanted}, or None for a new figure; got {shown(axes)}.")
    return axes


def check_numbers(name: str, value: Any, remedy: str) -> np.ndarray:
    """Return concrete numbers as a float64 array, or refuse tracers and what holds no real numbers."""
    if is_traced(value):
        raise TypeError(f"{name} is traced, and a picture needs its numbers. Return it from jit, then draw.")
    try:
        found = np.asarray(value)
        if found.dtype.kind not in "biuf":
            found = found.astype(np.float64) if str(found.dtype) == "bfloat16" else np.asarray(None)
    except (TypeError, ValueError):
        found = np.asarray(None)
    if found.dtype.kind not in "biuf" or found.size == 0:
        raise TypeError(f"{name} must be an array of real numbers, got {shown(value)}. {remedy}")
    return found.astype(np.float64)
