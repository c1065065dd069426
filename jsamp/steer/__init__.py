"""Hooks on a running plan: what acts on the trajectory rather than on the prediction."""

from jsamp.steer._memory import Memory as Memory
from jsamp.steer._memory import Recall as Recall
from jsamp.steer._protocol import Chain as Chain
from jsamp.steer._protocol import Hooks as Hooks
from jsamp.steer._protocol import Steer as Steer
from jsamp.steer._protocol import chain as chain
from jsamp.steer._time_shift import TimeShift as TimeShift
from jsamp.steer._trajectory import TrajectoryVariance as TrajectoryVariance

__all__ = [
    "Chain", "Hooks", "Memory", "Recall", "Steer", "TimeShift", "TrajectoryVariance", "chain",
]  # fmt: skip
