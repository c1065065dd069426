"""Langevin correctors between the steps of a plan, as rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_count, check_scalar, is_traced
from jsamp._core._pytree import replace
from jsamp.solve._algebra import extend
from jsamp.solve._plan import Plan, check_plan


def predictor_corrector(plan: Plan, *, snr: Any = 0.16, steps: int = 1) -> Plan:
    """Correct the state by Langevin steps before every step of a plan: the predictor-corrector of score-based SDEs.

    A corrector x <- x + h score + sqrt(2 h) z stays at its level; its step h = 2 (snr |z| / |score|)^2 is chosen where
    it runs, from the norm of the score there. With score = -eps / sigma that is a row with weight -2 snr^2 sigma on eps
    and noise 2 snr sigma, both measured by r = sqrt(d) / |eps| (`Plan.relative`). Correctors remove errors of the
    steps before them, towards a law of their own: on a Gaussian of many dimensions 1 + snr^2 times the variance.

    The norm is that of the one sample, and sqrt(d) stands for |z|, so that a corrector is Gaussian given x (the
    published code takes means of both over its batch, and shortens h by 1 - beta < .02 on variance-preserving
    schedules). In a population that runs in one call the norms are those of all particles together.

    A cut plan gives the rows that the same cut of the whole run has, with their noise.

    Args:
        plan: steps of one evaluation each, such as `js.solve.ddpm`, `ddim` or `dpmpp`.
        snr: size of the corrector's noise in units of the score's, > 0; published .16 for VE and .01 to .2 for VP.
        steps: correctors before each step, static.

    Returns:
        A stochastic plan of (1 + steps) times the rows.

    Raises:
        ValueError: for snr <= 0, no steps, or a plan with stages, a corrector, churn, momentum or Langevin rows.
        TypeError: for something that is not a plan.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VE()
        >>> plan = js.solve.predictor_corrector(js.solve.ddpm(schedule, js.noise.karras_grid(schedule, 10)))
        >>> plan.nfe, plan.relative[:3].tolist()
        (20, [True, False, True])

    Cost:
        1 + steps denoiser calls for each step of the plan.

    References:
        Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021,
        arXiv:2011.13456, algorithms 2 and 4.
    """
    check_plan("predictor_corrector", plan)
    check_scalar("predictor_corrector: snr", snr, low=0, open_low=True)
    check_count("predictor_corrector: steps", steps)
    found = plan.having("take", "churn_std", "increment_rate", "prediction_rate", "relative")
    if found:
        raise ValueError(
            f"predictor_corrector needs a plan with one row per step; this one has {', '.join(found)}. Use "
            f"js.solve.ddpm, ddim, dpmpp, ..."
        )
    xp = jnp if is_traced(plan, snr) or isinstance(plan.weights, jax.Array) else np
    kind = plan.kind if plan.kind == "eps" else "mixed"
    plan = extend(plan, plan.slots, {"noise_std", "ends_step", "relative"}, kind)
    rows = np.arange(plan.nfe * (1 + steps))
    moves = rows % (1 + steps) == steps
    plan = jax.tree.map(lambda a: a[rows // (1 + steps)], plan)
    if plan.number is not None:
        plan = replace(plan, number=plan.number * (1 + steps) + rows.astype(np.int32) % (1 + steps))
    choose = lambda own, other: xp.where(moves.reshape(-1, *[1] * (own.ndim - 1)), own, other)
    return jax.tree.map(choose, plan, _correctors(xp, plan, snr))


def _correctors(xp: Any, plan: Plan, snr: Any) -> Plan:
    """Langevin rows where the rows of the plan evaluate."""
    newest = xp.arange(plan.slots + 1) == 0
    changes = {
        "t_next": plan.t, "alpha_next": plan.alpha, "sigma_next": plan.sigma,
        "state_coef": xp.ones_like(plan.state_coef),
        "weights": xp.where(newest, (-2 * snr**2 * plan.sigma)[:, None], 0.0),
        "noise_std": 2 * snr * plan.sigma,
        "ends_step": xp.zeros(plan.nfe, bool),
        "relative": xp.ones(plan.nfe, bool),
    }  # fmt: skip
    if plan.mix is not None:
        changes["mix"] = xp.broadcast_to(xp.asarray([0.0, 1.0]), (plan.nfe, 2))
    return replace(plan, **changes)
