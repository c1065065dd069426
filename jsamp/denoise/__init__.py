"""Denoisers: predictions of networks, exact denoisers, guidance, thresholds. Denoiser -> Denoiser."""

from jsamp.denoise._analytic import Empirical as Empirical
from jsamp.denoise._analytic import GaussianMixture as GaussianMixture
from jsamp.denoise._bridge import Bridge as Bridge
from jsamp.denoise._bridge import BridgeMixture as BridgeMixture
from jsamp.denoise._denoiser import Denoiser as Denoiser
from jsamp.denoise._edm import EDM as EDM
from jsamp.denoise._energy import Classifier as Classifier
from jsamp.denoise._energy import Energy as Energy
from jsamp.denoise._energy import LinearReward as LinearReward
from jsamp.denoise._energy import Minority as Minority
from jsamp.denoise._energy import Reward as Reward
from jsamp.denoise._gauge import ConservativePart as ConservativePart
from jsamp.denoise._gauge import Gauge as Gauge
from jsamp.denoise._gauge import add_gauge as add_gauge
from jsamp.denoise._gauge import conservative_part as conservative_part
from jsamp.denoise._gradient_free import GradientFree as GradientFree
from jsamp.denoise._guidance import Auto as Auto
from jsamp.denoise._guidance import CFGpp as CFGpp
from jsamp.denoise._guidance import ClassifierFree as ClassifierFree
from jsamp.denoise._guidance import Compose as Compose
from jsamp.denoise._guidance import PerStep as PerStep
from jsamp.denoise._interval import Interval as Interval
from jsamp.denoise._latent import Latent as Latent
from jsamp.denoise._measure import DDNM as DDNM
from jsamp.denoise._measure import DPS as DPS
from jsamp.denoise._measure import TMPD as TMPD
from jsamp.denoise._measure import PiGDM as PiGDM
from jsamp.denoise._mmps import MMPS as MMPS
from jsamp.denoise._operator import SVD as SVD
from jsamp.denoise._operator import LinearOp as LinearOp
from jsamp.denoise._protocol import DenoiserLike as DenoiserLike
from jsamp.denoise._protocol import Guided as Guided
from jsamp.denoise._protocol import Kick as Kick
from jsamp.denoise._protocol import Prediction as Prediction
from jsamp.denoise._quantise import Normal as Normal
from jsamp.denoise._quantise import Ranges as Ranges
from jsamp.denoise._quantise import calibrate as calibrate
from jsamp.denoise._quantise import quantise as quantise
from jsamp.denoise._rescale import APG as APG
from jsamp.denoise._rescale import CFGZero as CFGZero
from jsamp.denoise._rescale import Rescale as Rescale
from jsamp.denoise._signal import ForwardModel as ForwardModel
from jsamp.denoise._signal import from_reconstruction as from_reconstruction
from jsamp.denoise._threshold import Threshold as Threshold
from jsamp.denoise._twisted import Twist as Twist
from jsamp.denoise._twisted import Twisted as Twisted

__all__ = [
    "APG", "DDNM", "DPS", "EDM", "MMPS", "SVD", "TMPD", "Auto", "Bridge", "BridgeMixture", "CFGZero", "CFGpp",
    "Classifier", "ClassifierFree", "Compose", "ConservativePart", "Denoiser", "DenoiserLike", "Empirical",
    "Energy", "ForwardModel", "Gauge", "GaussianMixture", "GradientFree", "Guided", "Interval", "Kick", "Latent",
    "LinearOp", "LinearReward", "Minority", "Normal", "PerStep", "PiGDM", "Prediction", "Ranges", "Rescale",
    "Reward", "Threshold", "Twist", "Twisted", "add_gauge", "calibrate", "conservative_part", "from_reconstruction",
    "quantise",
]  # fmt: skip
