"""Hooks on a running plan: what acts on the trajectory rather than on the prediction."""

from jsamp.steer._active import ActiveReport as ActiveReport
from jsamp.steer._active import ActiveSubsampling as ActiveSubsampling
from jsamp.steer._brownian import Brownian as Brownian
from jsamp.steer._ddrm import DDRM as DDRM
from jsamp.steer._diffpir import DiffPIR as DiffPIR
from jsamp.steer._memory import Memory as Memory
from jsamp.steer._memory import Recall as Recall
from jsamp.steer._noise import LearnedVariance as LearnedVariance
from jsamp.steer._noise import LogProb as LogProb
from jsamp.steer._noise import OwnNoise as OwnNoise
from jsamp.steer._protocol import Chain as Chain
from jsamp.steer._protocol import Hooks as Hooks
from jsamp.steer._protocol import Steer as Steer
from jsamp.steer._protocol import chain as chain
from jsamp.steer._replace import ILVR as ILVR
from jsamp.steer._replace import Project as Project
from jsamp.steer._replace import Repaint as Repaint
from jsamp.steer._smc import SMC as SMC
from jsamp.steer._smc import SMCReport as SMCReport
from jsamp.steer._soft_value import SoftValue as SoftValue
from jsamp.steer._soft_value import SoftValueReport as SoftValueReport
from jsamp.steer._time_shift import TimeShift as TimeShift
from jsamp.steer._trajectory import TrajectoryVariance as TrajectoryVariance

__all__ = [
    "DDRM", "ILVR", "SMC", "ActiveReport", "ActiveSubsampling", "Brownian", "Chain", "DiffPIR", "Hooks",
    "LearnedVariance", "LogProb", "Memory", "OwnNoise", "Project", "Recall", "Repaint", "SMCReport", "SoftValue",
    "SoftValueReport", "Steer", "TimeShift", "TrajectoryVariance", "chain",
]  # fmt: skip
