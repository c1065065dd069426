"""Whether two schedules, or a schedule and a table of levels, agree: compared on the host, where both are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from jsamp._core._checks import is_traced

CLOSE = 1e-3
"""Relative difference of levels that rounding of tables and half precision may make."""


def levels_at(schedule: Any, t: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Alpha and sigma at times [n] as numpy arrays, or None where they are traced."""
    if is_traced(schedule, t):
        return None
    t = np.asarray(t, np.float64)
    found = schedule.alpha(t), schedule.sigma(t)
    return None if is_traced(found) else tuple(np.asarray(v, np.float64) for v in found)  # pyright: ignore


def first_difference(schedule: Any, t: Any, alpha: Any, sigma: Any) -> int | None:
    """Index of the first time [n] at which a schedule has other levels than a table; None where all agree."""
    found = levels_at(schedule, t)
    if found is None or is_traced(alpha, sigma):
        return None
    pairs = zip(found, (np.asarray(alpha, np.float64), np.asarray(sigma, np.float64)), strict=True)
    with np.errstate(invalid="ignore"):
        close = [np.abs(a - b) <= CLOSE * np.maximum(np.abs(a), np.abs(b)) + 1e-6 for a, b in pairs]
    wrong = np.flatnonzero(~(close[0] & close[1]))
    return int(wrong[0]) if wrong.size else None


def check_same_levels(name: str, schedule: Any, other_name: str, other: Any) -> None:
    """Refuse two schedules of which one has other noise levels than the other at one time."""
    ends = [getattr(other, end, None) for end in ("t_min", "t_max")]
    if schedule is other or None in ends or is_traced(schedule, other, ends):
        return
    t = np.linspace(*(float(np.asarray(end)) for end in ends), 5)  # pyright: ignore
    wanted = levels_at(other, t)
    if wanted is None or (at := first_difference(schedule, t, *wanted)) is None:
        return
    got, wanted = ([f"{float(v[at]):.4g}" for v in found or ()] for found in (levels_at(schedule, t), wanted))
    raise ValueError(
        f"{name} has another schedule than {other_name}: at t = {t[at]:g} alpha, sigma are {', '.join(got)}, not "
        f"{', '.join(wanted)}. Both must predict at the same noise levels."
    )
