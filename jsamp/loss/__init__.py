"""Losses: trees that draw their random numbers, then give a scalar that a network is trained on."""

from jsamp.loss._ambient import Ambient as Ambient
from jsamp.loss._ambient import AmbientDrawn as AmbientDrawn
from jsamp.loss._ambient import AmbientMask as AmbientMask
from jsamp.loss._ambient import AmbientMaskDrawn as AmbientMaskDrawn
from jsamp.loss._autoencode import Contractive as Contractive
from jsamp.loss._autoencode import InstanceNoise as InstanceNoise
from jsamp.loss._autoencode import Noised as Noised
from jsamp.loss._autoencode import Reconstruction as Reconstruction
from jsamp.loss._autoencode import latent_loglik as latent_loglik
from jsamp.loss._interpolate import Interpolate as Interpolate
from jsamp.loss._interpolate import InterpolateDrawn as InterpolateDrawn
from jsamp.loss._match import EDMWeight as EDMWeight
from jsamp.loss._match import Match as Match
from jsamp.loss._match import MatchDrawn as MatchDrawn
from jsamp.loss._protocol import Loss as Loss
from jsamp.loss._protocol import LossInfo as LossInfo
from jsamp.loss._signal import ForwardModelMatch as ForwardModelMatch
from jsamp.loss._signal import Regeneration as Regeneration
from jsamp.loss._signal import RegenerationDrawn as RegenerationDrawn
from jsamp.loss._signal import Views as Views
from jsamp.loss._signal import ViewsDrawn as ViewsDrawn
from jsamp.loss._times import LogNormalTimes as LogNormalTimes
from jsamp.loss._times import UniformTimes as UniformTimes

__all__ = [
    "Ambient",
    "AmbientDrawn",
    "AmbientMask",
    "AmbientMaskDrawn",
    "Contractive",
    "EDMWeight",
    "ForwardModelMatch",
    "InstanceNoise",
    "Interpolate",
    "InterpolateDrawn",
    "LogNormalTimes",
    "Loss",
    "LossInfo",
    "Match",
    "MatchDrawn",
    "Noised",
    "Reconstruction",
    "Regeneration",
    "RegenerationDrawn",
    "UniformTimes",
    "Views",
    "ViewsDrawn",
    "latent_loglik",
]
