"""Denoisers: predictions of networks, exact denoisers, guidance, thresholds. Denoiser -> Denoiser."""

from jsamp.denoise._analytic import Empirical as Empirical
from jsamp.denoise._analytic import GaussianMixture as GaussianMixture
from jsamp.denoise._denoiser import Denoiser as Denoiser
from jsamp.denoise._denoiser import DenoiserLike as DenoiserLike
from jsamp.denoise._denoiser import Guided as Guided
from jsamp.denoise._denoiser import Kick as Kick
from jsamp.denoise._denoiser import Prediction as Prediction
from jsamp.denoise._gradient_free import GradientFree as GradientFree
from jsamp.denoise._guidance import Auto as Auto
from jsamp.denoise._guidance import CFGpp as CFGpp
from jsamp.denoise._guidance import ClassifierFree as ClassifierFree
from jsamp.denoise._guidance import Compose as Compose
from jsamp.denoise._guidance import PerStep as PerStep
from jsamp.denoise._interval import Interval as Interval
from jsamp.denoise._rescale import APG as APG
from jsamp.denoise._rescale import CFGZero as CFGZero
from jsamp.denoise._rescale import Rescale as Rescale
from jsamp.denoise._threshold import Threshold as Threshold

__all__ = [
    "APG", "Auto", "CFGZero", "CFGpp", "ClassifierFree", "Compose", "Denoiser", "DenoiserLike", "Empirical",
    "GaussianMixture", "GradientFree", "Guided", "Interval", "Kick", "PerStep", "Prediction", "Rescale", "Threshold",
    
]  # fmt: skip
