"""Names that other packages use: an attribute that is not there says what stands in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def explains(room: str, calls: Mapping[str, str]) -> Callable[[str], Any]:
    """A room's `__getattr__`: refuse every name, and tell the call for one that other packages use."""

    def refuse(name: str) -> Any:
        hint = f"; it is js.{calls[name]} here" if name in calls else ""
        raise AttributeError(f"module 'jsamp.{room}' has no attribute {name!r}{hint}", name=name)

    return refuse
