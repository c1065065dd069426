"""The runner of plans, for rooms below the one that owns it: `solve` puts it here when it is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from jsamp._core._types import Key

Runner = TypeVar("Runner", bound=Callable)
_RUNNERS: dict[str, Callable] = {}


def set_runner(function: Runner) -> Runner:
    """Make a function the runner of plans."""
    _RUNNERS["sample"] = function
    return function


def run(key: Key | None, denoiser: Any, x: Any, plan: Any, *, keep: Any = None) -> Any:
    """Run a plan as `js.sample` does."""
    return _RUNNERS["sample"](key, denoiser, x, plan, keep=keep)
