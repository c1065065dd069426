"""Samples to estimates: values with standard errors, and the diagnostics that say whether to trust them."""

from jsamp.estimate._diagnostics import ebfmi, ess, mcse, mean, rhat
from jsamp.estimate._types import Estimate

__all__ = ["Estimate", "ebfmi", "ess", "mcse", "mean", "rhat"]
