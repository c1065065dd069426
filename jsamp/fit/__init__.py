"""Fits: (key, data, ...) -> Result(what was fitted, info); and the one optimisation loop."""

from jsamp.fit._minimise import MinimiseInfo as MinimiseInfo
from jsamp.fit._minimise import MinimiseState as MinimiseState
from jsamp.fit._minimise import minimise as minimise

__all__ = ["MinimiseInfo", "MinimiseState", "minimise"]
