"""Algebra of plans: join, stack, add momentum, restart. A plan is data, so these are functions on data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_choice, check_count, check_scalar, is_traced
from jsamp._core._pytree import replace
from jsamp.solve._columns import DTYPES, KEEP, MIX, NEUTRAL, columns, visits
from jsamp.solve._plan import Plan, check_plan


def _unify(plans: Sequence[Plan]) -> list[Plan]:
    """Give plans one set of columns, one number of slots and one kind."""
    slots = max(plan.slots for plan in plans)
    names = {name for plan in plans for name in columns(plan)}
    kind = plans[0].kind if len({plan.kind for plan in plans}) == 1 else "mixed"
    return [extend(plan, slots, names, kind) for plan in plans]


def extend(plan: Plan, slots: int, names: set[str], kind: str) -> Plan:
    """Give a plan further columns that do nothing, more slots, and a wider kind."""
    xp = jnp if isinstance(plan.state_coef, jax.Array) else np
    shape, changes = plan.state_coef.shape, {}
    changes["weights"] = _widen(xp, plan.weights, slots)
    if "corrector_weights" in names:
        left = xp.zeros((*shape, slots + 1)) if plan.corrector_weights is None else plan.corrector_weights
        changes["corrector_weights"] = _widen(xp, left, slots)
    if "number" in names and plan.number is None:
        changes["number"] = np.broadcast_to(np.arange(plan.nfe, dtype=np.int32), shape)
    if "visit" in names and plan.visit is None:
        changes["visit"] = visits(plan)
    if slots and plan.slot is None:
        changes["slot"] = np.zeros(shape, np.int32)
    for name in names & set(NEUTRAL):
        if getattr(plan, name) is None:
            changes[name] = np.full(shape, NEUTRAL[name], DTYPES.get(name))
    if kind == "mixed" and plan.kind != "mixed":
        changes["mix"] = xp.broadcast_to(xp.asarray(MIX[plan.kind]), (*shape, 2))
    return replace(plan, kind=kind, **changes)


def _widen(xp, weights, slots):
    missing = slots + 1 - weights.shape[-1]
    return xp.concatenate([weights, xp.zeros((*weights.shape[:-1], missing), weights.dtype)], axis=-1)


def join(function: str, plans: Sequence[Plan]) -> Plan:
    """Concatenate or stack plans of any families, column by column."""
    traced = is_traced(plans) or any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(plans))
    xp, first = jnp if traced else np, plans[0]
    if function == "concatenate":
        plans = [replace(plan, number=None, visit=None) for plan in plans]
    plan = jax.tree.map(lambda *leaves: getattr(xp, function)([xp.asarray(leaf) for leaf in leaves]), *_unify(plans))
    return _counted_on(xp, plan, first) if function == "concatenate" else plan


def _counted_on(xp: Any, plan: Plan, first: Plan) -> Plan:
    """Count the rows of a joined plan, on from where its first part was cut, whose noise has been drawn."""
    if first.number is not None:
        start = xp.maximum(first.number[0], 0)  # those of a way up are negative
        plan = replace(plan, number=start + np.arange(plan.nfe, dtype=np.int32))
    return plan if first.visit is None else replace(plan, visit=first.visit[0] + visits(plan))


def concat(*plans: Plan) -> Plan:
    """Run plans one after the other: mixed solvers, schedules of solvers, restarts.

    Each plan starts without history, as it was built. Where one lands is where the next should start. Rows count from
    the number of the first: of a part `plan[i:]` they count on, so that no noise of the rows before it is drawn again.

    Args:
        *plans: plans of any families, on the same state.

    Returns:
        One plan with the rows of all.

    Raises:
        TypeError: for something that is not a plan.
        ValueError: when a plan does not start at the time where the one before lands.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> grid = js.noise.logsnr_grid(schedule, 10)
        >>> js.solve.concat(js.solve.heun(schedule, grid[:3]), js.solve.dpmpp(schedule, grid[2:])).nfe
        12

    Cost:
        The rows of all; no network evaluation.
    """
    if not plans:
        raise ValueError("concat: give at least one plan.")
    for plan in plans:
        check_plan("concat", plan)
    for left, right in itertools.pairwise(plans):
        if is_traced(left, right):
            continue
        end, start = (float(left.alpha_next[-1]), float(left.sigma_next[-1])), (right.alpha[0], right.sigma[0])
        if right.churn_std is None and not np.allclose(end, start, rtol=1e-5, atol=1e-7):
            raise ValueError(
                f"concat: a plan lands at t={left.t_next[-1]:.6g} (alpha={end[0]:.4g}, sigma={end[1]:.4g}) but the "
                f"next starts at t={right.t[0]:.6g} (alpha={start[0]:.4g}, sigma={start[1]:.4g}). "
                f"Build both on parts of one grid, grid[:i + 1] and grid[i:]."
            )
    return join("concatenate", plans)


def stack(plans: Sequence[Plan]) -> Plan:
    """Stack plans of equal length along a new first axis, to `jax.vmap` over a population of solvers.

    Plans of different families get one set of columns: what a plan lacks is filled with values that do nothing.

    Args:
        plans: plans with the same number of rows.

    Returns:
        A plan whose columns are [P, R, ...]. Use it as `jax.vmap(lambda p: js.sample(key, denoiser, x, p).x)(stacked)`.

    Raises:
        ValueError: when the numbers of rows differ.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> grid = js.noise.logsnr_grid(schedule, 8)
        >>> plans = [js.solve.ddim(schedule, grid), js.solve.deis(schedule, grid), js.solve.unipc(schedule, grid)]
        >>> js.solve.stack(plans).weights.shape
        (3, 8, 4)

    Cost:
        A copy of the tables; no network evaluation.
    """
    plans = [plans] if isinstance(plans, Plan) else list(plans)
    if not plans:
        raise ValueError("stack: give at least one plan.")
    for plan in plans:
        check_plan("stack", plan)
    rows = [plan.nfe for plan in plans]
    if len(set(rows)) > 1:
        raise ValueError(f"stack: plans must have the same number of rows, got {rows}. Build them for one budget.")
    return join("stack", plans)


def heavy_ball(plan: Plan, beta: Any, *, first_order: Literal["filter", "bypass"] = "filter") -> Plan:
    """Give a plan Polyak's heavy ball on its increments: v <- (1 - beta) v + beta u, and the step moves by v.

    Increments are normalised by their total weight, so v averages slopes. beta = 1 changes nothing; smaller widens the
    stability interval by (2 - beta) / beta and lowers the order to 1.

    Args:
        plan: a one-row-per-step plan without corrector.
        beta: damping in (0, 1].
        first_order: "filter" averages every row from the first on (PLMS + HB of the paper); "bypass" lets first-order
            rows through and starts at the first row of higher order (its DPM-Solver++ + HB).

    Returns:
        A plan of the same length.

    Raises:
        ValueError: for beta outside (0, 1], or a plan with stages, a corrector, or momentum already.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> plan = js.solve.heavy_ball(js.solve.plms(schedule, js.noise.time_grid(schedule, 10)), 0.8)
        >>> plan.increment_rate[:3].tolist()
        [1.0, 0.8, 0.8]

    Cost:
        No denoiser call; one increment held.

    References:
        Wizadwongsa et al., "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts", 2023,
        arXiv:2307.11118.
    """
    return _with_momentum("heavy_ball", plan, beta, first_order, nesterov=False)


def nesterov(plan: Plan, beta: Any, *, first_order: Literal["filter", "bypass"] = "filter") -> Plan:
    """Give a plan Nesterov's momentum on its increments: as `heavy_ball`, then the step blends once more with u.

    Args:
        plan: a one-row-per-step plan without corrector.
        beta: damping in (0, 1].
        first_order: as in `heavy_ball`.

    Returns:
        A plan of the same length.

    Raises:
        ValueError: as `heavy_ball`.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> js.solve.nesterov(js.solve.plms(schedule, js.noise.time_grid(schedule, 10)), 0.8).increment_blend[1].item()
        0.8

    Cost:
        No denoiser call; one increment held.

    References:
        Wizadwongsa et al., "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts", 2023,
        arXiv:2307.11118.
    """
    return _with_momentum("nesterov", plan, beta, first_order, nesterov=True)


def check_plain(who: str, plan: Plan) -> None:
    """Refuse a plan whose rows are not steps of their own."""
    if plan.take is not None or plan.increment_rate is not None or plan.prediction_rate is not None:
        raise ValueError(f"{who} needs a plan with one row per step, no corrector and no momentum; see js.solve.plms.")


def _with_momentum(name, plan, beta, first_order, nesterov):
    check_plan(name, plan)
    check_scalar(f"{name}: beta", beta, low=0, high=1, open_low=True)
    check_choice(f"{name}: first_order", first_order, ("filter", "bypass"))
    check_plain(name, plan)
    xp = jnp if is_traced(plan, beta) or isinstance(plan.weights, jax.Array) else np
    total = xp.sum(plan.weights, axis=-1)
    rate = xp.ones(plan.nfe) * beta
    blend = rate * nesterov
    filtered = np.ones(plan.nfe, bool)
    if first_order == "bypass" and plan.slots:
        filtered = np.any(np.asarray(plan.weights)[:, 1:] != 0, axis=1)
    first = int(np.argmax(filtered))
    starts = np.arange(plan.nfe) == first
    rate = xp.where(filtered, xp.where(starts, 1.0, rate), 0.0)
    blend = xp.where(filtered, xp.where(starts, 0.0, blend), 1.0)
    slopes = plan.weights / total[:, None]
    return replace(plan, weights=slopes, gain=total, increment_rate=rate, increment_blend=blend)


def restart(plan: Plan, inner: Plan, *, repeats: int = 1, noise: Any = 1.0) -> Plan:
    """Restart a plan: where `inner` ends, go back up in noise to where it starts and run it again, `repeats` times.

    x <- (a_max / a_min) x + noise sqrt(s_max^2 - (a_max / a_min)^2 s_min^2) z, then the rows of `inner`: a
    concatenation of plans, with the scaling folded into the row before it.

    Args:
        plan: the main plan; one of its rows lands at the time where `inner` ends.
        inner: the plan from t_max down to t_min.
        repeats: repetitions (static, >= 1).
        noise: inflation of the added noise; the paper uses 1.003.

    Returns:
        A stochastic plan of `plan.nfe + repeats * inner.nfe` rows.

    Raises:
        ValueError: when inner does not go down, no row of the plan lands where it ends, or it ends at zero noise.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VE()
        >>> grid = js.noise.karras_grid(schedule, 10)
        >>> main, inner = js.solve.heun(schedule, grid), js.solve.heun(schedule, grid[4:8])
        >>> js.solve.restart(main, inner, repeats=2).nfe
        31

    Cost:
        `plan.nfe + repeats * inner.nfe` denoiser calls.

    References:
        Xu et al., "Restart Sampling for Improving Generative Processes", 2023, arXiv:2306.14878.
    """
    check_plan("restart", plan, concrete=True)
    check_plan("restart: inner", inner, concrete=True)
    check_count("restart: repeats", repeats)
    check_scalar("restart: noise", noise, low=0)
    a0, s0, a1, s1 = inner.alpha[0], inner.sigma[0], inner.alpha_next[-1], inner.sigma_next[-1]
    lands = np.isclose(plan.alpha_next, a1, rtol=1e-9) & np.isclose(plan.sigma_next, s1, rtol=1e-9)
    # A row lands for good when the next one accepts its state.
    lands &= np.append(np.asarray(plan.take)[1:] != KEEP, True) if plan.take is not None else True
    if not np.any(lands[:-1]):
        raise ValueError(
            f"restart: no row of the plan lands at t={float(inner.t_next[-1]):.6g}, where inner ends, with rows to go. "
            f"Build inner on a part of the plan's grid, grid[i:j + 1]."
        )
    place = int(np.argmax(lands)) + 1
    lift = a0 / a1
    variance = s0**2 - (lift * s1) ** 2
    if s1 <= 0 or variance <= 0:
        raise ValueError("restart: inner must go from more noise to less, and not to zero noise.")
    churn = np.zeros(inner.nfe) if inner.churn_std is None else np.array(inner.churn_std)
    churn[0] = np.hypot(churn[0], noise * np.sqrt(variance))
    inner = replace(inner, churn_std=churn)
    parts = [lifted(plan[:place], lift), *[lifted(inner, lift)] * (repeats - 1), inner, plan[place:]]
    return join("concatenate", parts)


def lifted(plan: Plan, factor: Any) -> Plan:
    """Multiply the last state of a plan by a factor."""

    def last(column):
        scaled = np.array(column)
        scaled[-1] *= factor
        return scaled

    names = ["state_coef", "weights" if plan.gain is None else "gain"]
    names += [] if plan.noise_std is None else ["noise_std"]
    return replace(plan, **{name: last(getattr(plan, name)) for name in names})
