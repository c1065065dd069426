"""Plans run by numpy, without a network: how far they amplify, and what they make of Gaussian data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jsamp.solve._columns import CORRECT, KEEP, MIX
from jsamp.solve._plan import Plan

STDS = np.array([0.1, 0.3, 1.0])
"""Standard deviations of the Gaussians on which ways up are compared."""


def amplification(plan: Plan) -> float:
    """Compute the largest sum of |coefficients| by which the start and predictions so far enter x, over all rows."""
    units = np.eye(plan.nfe + 1)
    return max(1.0, *(float(np.abs(x).sum()) for x in walk(plan, units[0], lambda r, x: units[r + 1])))


def walk(plan: Plan, x: Any, predict: Callable[[int, Any], Any]) -> Iterator[Any]:
    """Yield the state after each row of a plan without its noise, for the prediction m = predict(row, x)."""
    left, history, velocity, drift = x, np.zeros((plan.slots, *np.shape(x))), 0 * x, 0 * x
    for r in range(plan.nfe):
        m = predict(r, x)
        if plan.prediction_rate is not None:
            m = velocity = velocity + plan.prediction_rate[r] * (m - velocity)
        if plan.take is not None and plan.take[r] in (KEEP, CORRECT):
            newest = plan.corrector_newest[r] if plan.take[r] == CORRECT else 0.0
            x = left + newest * m
        if plan.slots:
            history[plan.slot[r]] = m
        base, u = x, plan.weights[r, 0] * m + plan.weights[r, 1:] @ history
        if plan.increment_rate is not None:
            drift = drift + plan.increment_rate[r] * (u - drift)
            u = plan.gain[r] * (drift + plan.increment_blend[r] * (u - drift))
        x, left = plan.state_coef[r] * base + u, base
        if plan.corrector_weights is not None:
            weights = plan.corrector_weights[r]
            left = plan.corrector_state[r] * base + weights[0] * m + weights[1:] @ history
        yield x


def gain(plan: Plan) -> np.ndarray:
    """Compute the factors by which a plan scales x where the data are N(0, STDS^2)."""

    def predict(r, x):
        alpha, sigma = float(plan.alpha[r]), float(plan.sigma[r])
        x0_share, eps_share = MIX[plan.kind] if plan.mix is None else np.asarray(plan.mix)[r]
        return (x0_share * alpha * STDS**2 + eps_share * sigma) / (alpha**2 * STDS**2 + sigma**2) * x

    with np.errstate(over="ignore", invalid="ignore"):
        return [*walk(plan, np.ones_like(STDS), predict)][-1]
