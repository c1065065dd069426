"""How a row shares out its move among predictions: what is learned of a solver that stays exact at first order."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._pytree import pytree, replace
from jsamp.solve import Plan
from jsamp.solve._columns import CORRECT, KEEP, MIX


@pytree
class Shares:
    """Move shares of each row's weight, and of its corrector's, from its newest prediction to those before.

    Args:
        step: [R, K + 1] shares of the rows' weights that go to the predictions in their slots.
        corrector: as `step`, from the corrector's newest prediction to the row's own and those before; or None.
        held: [R, K + 1] whether a slot holds an earlier prediction.
        corrected: [R] whether the next row corrects this one.
    """

    step: Any
    corrector: Any
    held: Any
    corrected: Any

    def __call__(self, plan: Plan) -> Plan:
        """The plan with its shares moved."""
        total = jnp.sum(plan.weights, -1)
        moved = jnp.where(self.held, self.step, 0) * total[:, None]
        changes = {"weights": (plan.weights + moved).at[:, 0].add(-jnp.sum(moved, -1))}
        if self.corrector is not None:
            moved = jnp.where(self.corrected[:, None] & self.held.at[:, 0].set(True), self.corrector, 0)
            moved = moved * total[:, None]
            changes["corrector_weights"] = plan.corrector_weights + moved
            newest = jnp.asarray(plan.corrector_newest)
            changes["corrector_newest"] = newest.at[1:].add(-jnp.sum(moved, -1)[:-1])
        return replace(plan, **changes)


def shares_of(plan: Plan) -> Shares:
    """Shares that move nothing yet."""
    slots, shape = plan.slots, np.shape(plan.weights)
    held, written = np.zeros(shape, bool), np.zeros(slots, bool)
    for row in range(plan.nfe if slots else 0):
        own = int(np.asarray(plan.slot)[row])
        held[row, 1:] = written & (np.arange(slots) != own)
        written[own] = True
    corrected = _corrected(plan)
    corrector = jnp.zeros(shape) if corrected.any() else None
    return Shares(jnp.zeros(shape), corrector, jnp.asarray(held), jnp.asarray(corrected))


def _corrected(plan: Plan) -> np.ndarray:
    if plan.take is None or plan.corrector_weights is None:
        return np.zeros(plan.nfe, bool)
    return np.append(np.asarray(plan.take)[1:] == CORRECT, False)


def follow(plan: Plan, schedule: Any) -> tuple[Any, Any]:
    """A builder grid -> the plan at other times, every row with the shares it has; and the plan's own grid."""
    grid = np.append(plan.t, plan.t_next[-1])
    staged = plan.take is not None and bool(np.any(np.asarray(plan.take) == KEEP))
    momentum = plan.prediction_rate is not None or plan.increment_rate is not None
    kind = _kind(plan)
    if staged or momentum or kind not in ("x0", "eps") or not np.allclose(plan.t_next, grid[1:]):
        raise ValueError(
            "learn_plan: the grid of a plan is learned where every row is a step in x0 or eps, without stages or "
            'momentum. Learn its weights alone, train=("weights",).'
        )
    coef, _ = _first_order(plan, kind)
    if not np.allclose(plan.state_coef, coef, rtol=1e-4, atol=1e-6):
        raise ValueError(
            "learn_plan: the rows of this plan are not exact where the prediction is constant, so they cannot follow "
            'its times. Learn its weights alone, train=("weights",).'
        )
    build = jax.tree_util.Partial(functools.partial(_at, kind), plan, schedule, _corrected(plan))
    return build, jnp.asarray(grid, float)


def _kind(plan: Plan) -> str | None:
    """Name the prediction that all rows of a plan combine; None where they differ."""
    if plan.mix is None:
        return plan.kind
    return next((kind for kind, mix in MIX.items() if np.allclose(plan.mix, mix)), None)


def _first_order(plan: Plan, kind: str) -> tuple[Any, Any]:
    """The coefficient of the state, and the sum of the weights, of rows that are exact for a constant prediction."""
    if kind == "x0":
        coef = plan.sigma_next / plan.sigma
        return coef, plan.alpha_next - coef * plan.alpha
    coef = plan.alpha_next / plan.alpha
    return coef, plan.sigma_next - coef * plan.sigma


def _at(kind: str, plan: Plan, schedule: Any, corrected: Any, grid: Any) -> Plan:
    """The plan on another grid."""
    t, after = grid[:-1], grid[1:]
    level = lambda t: (t, schedule.alpha(t) + 0 * t, schedule.sigma(t) + 0 * t)
    names = ("t", "alpha", "sigma", "t_next", "alpha_next", "sigma_next")
    moved = replace(plan, **dict(zip(names, (*level(t), *level(after)), strict=True)))
    (coef, total), (_, before) = _first_order(moved, kind), _first_order(plan, kind)
    ratio = total / before
    changes = {"state_coef": coef, "weights": plan.weights * ratio[:, None]}
    if plan.corrector_weights is not None:
        changes["corrector_state"] = jnp.where(corrected, coef, plan.corrector_state)
        changes["corrector_weights"] = plan.corrector_weights * ratio[:, None]
        # The newest prediction of a row's corrector stands in the next row.
        changes["corrector_newest"] = plan.corrector_newest * jnp.append(1.0, ratio[:-1])
    return replace(moved, **changes)
