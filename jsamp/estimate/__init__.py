"""Samples to estimates: values with standard errors, and the diagnostics that say whether to trust them."""

from jsamp.estimate._diagnostics import ebfmi, ess, mcse, mean, rhat
from jsamp.estimate._minority import QuantileLabels, minority_score, quantile_labels
from jsamp.estimate._types import Estimate

__all__ = [
    "Estimate", "QuantileLabels", "ebfmi", "ess", "mcse", "mean", "minority_score", "quantile_labels", "rhat",
]  # fmt: skip
