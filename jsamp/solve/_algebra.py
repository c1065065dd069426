"""Algebra of plans: join, stack, add momentum, restart, save, print. A plan is data, so these are functions on data."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_choice, check_count, check_number, is_traced
from jsamp._core._pytree import replace
from jsamp.solve._plan import ACCEPT, KEEP, KINDS, MIX, Plan, columns

# What a missing column means, for plans that must share one set of columns.
NEUTRAL = {
    "C": 0.0,
    "churn": 0.0,
    "take": ACCEPT,
    "ends": True,
    "q": 0.0,
    "P": 1.0,
    "beta": 1.0,
    "G": 1.0,
    "drag": 1.0,
    "blend": 0.0,
    "slot": 0,
}


def _unify(plans: Sequence[Plan]) -> list[Plan]:
    """The same plans with one set of columns, one number of slots and one kind."""
    for plan in plans:
        if not isinstance(plan, Plan):
            raise TypeError(f"expected plans, got {type(plan).__name__}.")
    if not plans:
        raise ValueError("expected at least one plan.")
    slots = max(plan.slots for plan in plans)
    names = {name for plan in plans for name in columns(plan)}
    kind = plans[0].kind if len({plan.kind for plan in plans}) == 1 else "mixed"
    return [_extend(plan, slots, names, kind) for plan in plans]


def _extend(plan: Plan, slots: int, names: set[str], kind: str) -> Plan:
    xp = jnp if isinstance(plan.A, jax.Array) else np
    shape, changes = plan.A.shape, {}
    changes["W"] = _widen(xp, plan.W, slots)
    if "Q" in names:
        changes["Q"] = xp.zeros((*shape, slots + 1)) if plan.Q is None else _widen(xp, plan.Q, slots)
    if slots and plan.slot is None:
        changes["slot"] = np.zeros(shape, np.int32)
    for name in names & set(NEUTRAL):
        if getattr(plan, name) is None:
            changes[name] = np.full(shape, NEUTRAL[name], np.int32 if name in ("take", "slot") else None)
    if kind == "mixed" and plan.kind != "mixed":
        changes["mix"] = xp.broadcast_to(xp.asarray(MIX[plan.kind]), (*shape, 2))
    return replace(plan, kind=kind, **changes)


def _widen(xp, weights, slots):
    missing = slots + 1 - weights.shape[-1]
    return xp.concatenate([weights, xp.zeros((*weights.shape[:-1], missing), weights.dtype)], axis=-1)


def _join(function: Any, plans: Sequence[Plan]) -> Plan:
    traced = is_traced(plans) or any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(plans))
    xp = jnp if traced else np
    return jax.tree.map(lambda *leaves: getattr(xp, function)([xp.asarray(leaf) for leaf in leaves]), *_unify(plans))


def concat(*plans: Plan) -> Plan:
    """Run plans one after the other: mixed solvers, schedules of solvers, restarts.

    Each plan starts without history, as it was built. Where one lands is where the next should start.

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
    """
    for left, right in itertools.pairwise(plans):
        if is_traced(left, right) or not (isinstance(left, Plan) and isinstance(right, Plan)):
            continue
        end, start = (float(left.alpha_next[-1]), float(left.sigma_next[-1])), (right.alpha[0], right.sigma[0])
        if right.churn is None and not np.allclose(end, start, rtol=1e-5, atol=1e-7):
            raise ValueError(
                f"concat: a plan lands at t={left.t_next[-1]:.6g} but the next starts at t={right.t[0]:.6g}. "
                f"Build both on parts of one grid, grid[:i + 1] and grid[i:]."
            )
    return _join("concatenate", plans)


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
        >>> js.solve.stack(plans).W.shape
        (3, 8, 4)
    """
    plans = list(plans)
    rows = [plan.nfe for plan in plans if isinstance(plan, Plan)]
    if len(set(rows)) > 1:
        raise ValueError(f"stack: plans must have the same number of rows, got {rows}. Build them for one budget.")
    return _join("stack", plans)


def heavy_ball(plan: Plan, beta: Any, *, first_order: str = "filter") -> Plan:
    """Polyak's heavy ball on the increments of a plan: v <- (1 - beta) v + beta u, and the step moves by v.

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
        >>> plan.drag[:3].tolist()
        [1.0, 0.8, 0.8]

    References:
        Wizadwongsa et al., "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts", 2023,
        arXiv:2307.11118.
    """
    return _with_momentum("heavy_ball", plan, beta, first_order, nesterov=False)


def nesterov(plan: Plan, beta: Any, *, first_order: str = "filter") -> Plan:
    """Nesterov's momentum on the increments of a plan: as `heavy_ball`, then the step blends once more with u.

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
        >>> js.solve.nesterov(js.solve.plms(schedule, js.noise.time_grid(schedule, 10)), 0.8).blend[1].item()
        0.8

    References:
        Wizadwongsa et al., "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts", 2023,
        arXiv:2307.11118.
    """
    return _with_momentum("nesterov", plan, beta, first_order, nesterov=True)


def _with_momentum(name, plan, beta, first_order, nesterov):
    if not isinstance(plan, Plan):
        raise TypeError(f"{name}: plan must be a Plan, got {type(plan).__name__}.")
    check_number(f"{name}: beta", beta, low=0, high=1, open_low=True)
    check_choice(f"{name}: first_order", first_order, ("filter", "bypass"))
    if plan.take is not None or plan.drag is not None or plan.beta is not None:
        raise ValueError(f"{name} needs a plan with one row per step, no corrector and no momentum; see js.solve.plms.")
    xp = jnp if is_traced(plan, beta) or isinstance(plan.W, jax.Array) else np
    total = xp.sum(plan.W, axis=-1)
    drag = np.ones(plan.nfe) * beta if xp is np else jnp.ones(plan.nfe) * beta
    blend = drag * nesterov
    filtered = np.ones(plan.nfe, bool)
    if first_order == "bypass" and plan.slots:
        filtered = np.any(np.asarray(plan.W)[:, 1:] != 0, axis=1)
    first = int(np.argmax(filtered))
    starts = np.arange(plan.nfe) == first
    drag = xp.where(filtered, xp.where(starts, 1.0, drag), 0.0)
    blend = xp.where(filtered, xp.where(starts, 0.0, blend), 1.0)
    return replace(plan, W=plan.W / total[:, None], G=total, drag=drag, blend=blend)


def restart(plan: Plan, inner: Plan, *, num: int = 1, noise: Any = 1.0) -> Plan:
    """Restart sampling: where `inner` ends, go back up in noise to where it starts and run it again, `num` times.

    x <- (a_max / a_min) x + noise sqrt(s_max^2 - (a_max / a_min)^2 s_min^2) z, then the rows of `inner`: a
    concatenation of plans, with the scaling folded into the row before it.

    Args:
        plan: the main plan; one of its rows lands at the time where `inner` ends.
        inner: the plan from t_max down to t_min.
        num: repetitions (static, >= 1).
        noise: inflation of the added noise; the paper uses 1.003.

    Returns:
        A stochastic plan of `plan.nfe + num * inner.nfe` rows.

    Raises:
        ValueError: when inner does not go down, no row of the plan lands where it ends, or it ends at zero noise.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VE()
        >>> grid = js.noise.karras_grid(schedule, 10)
        >>> main, inner = js.solve.heun(schedule, grid), js.solve.heun(schedule, grid[4:8])
        >>> js.solve.restart(main, inner, num=2).nfe
        31

    References:
        Xu et al., "Restart Sampling for Improving Generative Processes", 2023, arXiv:2306.14878.
    """
    check_count("restart: num", num)
    check_number("restart: noise", noise, low=0)
    if is_traced(plan, inner):
        raise TypeError("restart: plans must be concrete; rows are chosen by their times.")
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
    churn = np.zeros(inner.nfe) if inner.churn is None else np.array(inner.churn)
    churn[0] = np.hypot(churn[0], noise * np.sqrt(variance))
    inner = replace(inner, churn=churn)
    parts = [_lift(plan[:place], lift), *[_lift(inner, lift)] * (num - 1), inner, plan[place:]]
    return _join("concatenate", parts)


def _lift(plan: Plan, factor: Any) -> Plan:
    """The plan with its last state multiplied by a factor."""

    def last(column):
        scaled = np.array(column)
        scaled[-1] *= factor
        return scaled

    moves = {"G": last(plan.G)} if plan.G is not None else {"W": last(plan.W)}
    return replace(plan, A=last(plan.A), **moves, **({} if plan.C is None else {"C": last(plan.C)}))


def save(path: Any, plan: Plan) -> None:
    """Write a plan to one `.npz` file, without loss.

    Args:
        path: where to; the suffix `.npz` is added when there is none.
        plan: the plan, concrete.

    Raises:
        TypeError: for something that is not a plan, or is traced.

    Example:
        >>> import tempfile, jsamp as js
        >>> plan = js.solve.ddim(js.noise.VP(), js.noise.time_grid(js.noise.VP(), 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     js.solve.save(f"{folder}/plan.npz", plan)
        ...     js.solve.load(f"{folder}/plan.npz").nfe
        4
    """
    if not isinstance(plan, Plan) or is_traced(plan):
        raise TypeError("save: pass a concrete Plan.")
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in columns(plan).items()}
    np.savez(path, kind=np.array(plan.kind), **arrays)


def load(path: Any) -> Plan:
    """Read a plan written by `save`.

    Args:
        path: the `.npz` file.

    Returns:
        The plan, float64.

    Raises:
        ValueError: when the file does not hold a plan.

    Example:
        >>> import tempfile, jsamp as js
        >>> plan = js.solve.heun(js.noise.VP(), js.noise.logsnr_grid(js.noise.VP(), 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     js.solve.save(f"{folder}/plan.npz", plan)
        ...     bool((js.solve.load(f"{folder}/plan.npz").W == plan.W).all())
        True
    """
    source = pathlib.Path(path)
    with np.load(source if source.exists() or source.suffix else source.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file.files}
    kind = str(arrays.pop("kind", ""))
    known = set(Plan.__dataclass_fields__)  # pyright: ignore[reportAttributeAccessIssue]
    if kind not in KINDS or not {"t", "A", "W"} <= set(arrays) <= known:
        raise ValueError(f"load: {path} does not hold a plan; expected a file written by js.solve.save.")
    return Plan(**arrays, kind=kind)


def describe(plan: Plan) -> str:
    """A readable table of a plan: a line of facts, then one line for each row.

    Args:
        plan: a concrete plan.

    Returns:
        Text; print it.

    Raises:
        TypeError: for something that is not a plan, or is traced or stacked.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.Flow()
        >>> print(js.solve.describe(js.solve.ddim(schedule, js.noise.time_grid(schedule, 2, final="zero"))))
        Plan: 2 rows, predicts x0, 0 history slots, deterministic
        row         t    sigma  ->     t_next        A      W (newest first)
          0         1        1          0.001    0.001      0.999
          1     0.001    0.001              0        0      1
    """
    if not isinstance(plan, Plan) or is_traced(plan) or np.ndim(plan.A) != 1:
        raise TypeError("describe: pass one concrete Plan, not a stack of plans.")
    kind = "stochastic" if plan.stochastic else "deterministic"
    extras = [name for name in ("q", "P", "beta", "drag", "C", "churn") if getattr(plan, name) is not None]
    lines = [f"Plan: {plan.nfe} rows, predicts {plan.kind}, {plan.slots} history slots, {kind}"]
    header = f"row {'t':>9} {'sigma':>8}  -> {'t_next':>10} {'A':>8}      W (newest first)"
    lines.append(header + "".join(f"  {name}" for name in extras))
    for r in range(plan.nfe):
        weights = " ".join(f"{w:.4g}" for w in np.asarray(plan.W[r]))
        mark = "" if plan.take is None else {0: " keep", 1: "", 2: " correct"}[int(plan.take[r])]
        tail = "".join(f"  {name}={getattr(plan, name)[r]:.4g}" for name in extras)
        ends = f"{plan.t[r]:9.4g} {plan.sigma[r]:8.4g}     {plan.t_next[r]:10.4g} {plan.A[r]:8.4g}"
        lines.append(f"{r:3d} {ends}      {weights}{tail}{mark}")
    return "\n".join(lines)
