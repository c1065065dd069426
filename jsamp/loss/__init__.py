"""Losses: trees that draw their random numbers, then give a scalar that a network is trained on."""

from jsamp.loss._match import EDMWeight as EDMWeight
from jsamp.loss._match import Match as Match
from jsamp.loss._match import MatchDrawn as MatchDrawn
from jsamp.loss._protocol import Loss as Loss
from jsamp.loss._protocol import LossInfo as LossInfo
from jsamp.loss._times import LogNormalTimes as LogNormalTimes
from jsamp.loss._times import UniformTimes as UniformTimes

__all__ = ["EDMWeight", "LogNormalTimes", "Loss", "LossInfo", "Match", "MatchDrawn", "UniformTimes"]
