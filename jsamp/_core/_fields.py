"""Checks and conversions of fields that every room needs, as `js.field(convert=)` and `js.static(check=)` take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_choice, check_count, check_number, check_scalar

Convert = Callable[[str, Any], Any]


def callable_as(signature: str, *, optional: bool = False) -> Convert:
    """Make a callable a tree, so that its arrays are leaves."""

    def convert(name, value):
        return None if optional and value is None else as_tree(name, value, signature)

    return convert


def number(low: float = -np.inf, high: float = np.inf, *, open_low: bool = False, optional: bool = False) -> Convert:
    """Refuse what is not a finite number, or array of numbers, in [low, high], or (low, high] when `open_low`."""

    def check(name, value):
        if not (optional and value is None):
            check_number(name, value, low=low, high=high, open_low=open_low)

    return check


def scalar(low: float = -np.inf, high: float = np.inf, *, open_low: bool = False, optional: bool = False) -> Convert:
    """Refuse what is not one finite number in [low, high], or (low, high] when `open_low`."""

    def check(name, value):
        if not (optional and value is None):
            check_scalar(name, value, low=low, high=high, open_low=open_low)

    return check


def one_of(*choices: str) -> Convert:
    """Refuse anything but one of the names."""
    return lambda name, value: check_choice(name, value, choices)


def count(low: int = 1, high: int | None = None, *, optional: bool = False) -> Convert:
    """Return a static count as int."""
    return lambda name, value: None if optional and value is None else check_count(name, value, low=low, high=high)


positive = number(0, open_low=True)
not_negative = number(0)
