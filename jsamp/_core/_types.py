"""Types shared by every room."""

from __future__ import annotations

from typing import Any, NamedTuple


class Result(NamedTuple):
    """What a driver returns: the sample (or samples) `x`, and `info` about the run."""

    x: Any
    info: Any
