"""The vocabulary of a plan's columns: what a row may start from, what it may predict, what a missing column means."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("x0", "eps", "velocity", "mixed")
KEEP, ACCEPT, CORRECT = 0, 1, 2
MIX = {"x0": (1.0, 0.0), "eps": (0.0, 1.0), "velocity": (-1.0, 1.0)}

# What a missing column means, for plans that must share one set of columns.
NEUTRAL = {
    "noise_std": 0.0,
    "churn_std": 0.0,
    "take": ACCEPT,
    "ends_step": True,
    "relative": False,
    "corrector_newest": 0.0,
    "corrector_state": 1.0,
    "prediction_rate": 1.0,
    "gain": 1.0,
    "increment_rate": 1.0,
    "increment_blend": 0.0,
    "slot": 0,
}
# Columns of integers and booleans; all others are floating.
DTYPES = {
    **dict.fromkeys(("slot", "take", "number", "visit"), np.int32), **dict.fromkeys(("ends_step", "relative"), np.bool_)
}  # fmt: skip
CLIMB = 1e-6  # of alpha / sigma: less is rounding
VECTORS = ("weights", "corrector_weights")


def columns(plan: Any) -> dict[str, Any]:
    """The columns a plan has, by name."""
    fields = (f.name for f in dataclasses.fields(plan) if not f.metadata.get("static"))
    return {name: getattr(plan, name) for name in fields if getattr(plan, name) is not None}


def visits(plan: Any) -> Any:
    """How often the run has gone back up in noise before each row [R]: `jumps` and `restart` do, to come down again."""
    if plan.visit is not None:
        return plan.visit
    xp = jnp if isinstance(plan.alpha, jax.Array) else np
    alpha, sigma = xp.asarray(plan.alpha), xp.asarray(plan.sigma)
    climbs = alpha[..., 1:] * sigma[..., :-1] < alpha[..., :-1] * sigma[..., 1:] * (1 - CLIMB)
    never = xp.zeros((*alpha.shape[:-1], 1), bool)
    return xp.cumsum(xp.concatenate([never, climbs], -1), -1, dtype=np.int32)
