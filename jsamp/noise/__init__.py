"""Noise schedules, and grids: functions that return n + 1 decreasing times."""

from jsamp.noise._discrete import Discrete as Discrete
from jsamp.noise._grid import index_grid as index_grid
from jsamp.noise._grid import karras_grid as karras_grid
from jsamp.noise._grid import logsnr_grid as logsnr_grid
from jsamp.noise._grid import shift as shift
from jsamp.noise._grid import sigma_grid as sigma_grid
from jsamp.noise._grid import time_grid as time_grid
from jsamp.noise._interpolant import Interpolant as Interpolant
from jsamp.noise._names import __getattr__ as __getattr__  # pyright: ignore[reportAttributeAccessIssue]
from jsamp.noise._ouve import OUVE as OUVE
from jsamp.noise._protocol import Schedule as Schedule
from jsamp.noise._schedule import VE as VE
from jsamp.noise._schedule import VP as VP
from jsamp.noise._schedule import Cosine as Cosine
from jsamp.noise._schedule import Flow as Flow
from jsamp.noise._spacings import dynamic_shift as dynamic_shift
from jsamp.noise._spacings import spaced_grid as spaced_grid

__all__ = [
    "OUVE", "VE", "VP", "Cosine", "Discrete", "Flow", "Interpolant", "Schedule", "dynamic_shift",
    "index_grid", "karras_grid", "logsnr_grid", "shift", "sigma_grid", "spaced_grid", "time_grid",
]  # fmt: skip
