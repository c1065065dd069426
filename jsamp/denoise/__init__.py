"""Denoisers: predictions of networks, exact denoisers, guidance, thresholds. Denoiser -> Denoiser."""

from jsamp.denoise._analytic import Empirical as Empirical
from jsamp.denoise._analytic import GaussianMixture as GaussianMixture
from jsamp.denoise._denoiser import Denoiser as Denoiser
from jsamp.denoise._denoiser import DenoiserLike as DenoiserLike
from jsamp.denoise._denoiser import Prediction as Prediction
from jsamp.denoise._guidance import ClassifierFree as ClassifierFree
from jsamp.denoise._guidance import Threshold as Threshold

__all__ = ["ClassifierFree", "Denoiser", "DenoiserLike", "Empirical", "GaussianMixture", "Prediction", "Threshold"]
