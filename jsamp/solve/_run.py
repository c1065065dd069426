"""The runner: one scan body for every plan, and the pieces of it that users compose themselves."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_floating, check_key, concrete
from jsamp._core._steering import check_steer, explain_missing_key, stochastic, wrapped
from jsamp._core._types import Result
from jsamp.denoise import Denoiser, Kick, Prediction
from jsamp.denoise._protocol import at_row, check_denoiser, check_prediction, kick_of, kicks
from jsamp.solve._plan import ACCEPT, KEEP, Plan
from jsamp.solve._route import Segment, follow, route
from jsamp.solve._state import SampleInfo, SolveState, StepInfo, init, output, state_dtype


def step(key: Any, denoiser: Any, state: SolveState, row: Plan) -> SolveState:
    """Run one row of a plan: one network evaluation. Use it to write your own scan.

    Args:
        key: the key of the whole run; the row's own key is `fold_in(key, state.index)`. None for a deterministic plan.
        denoiser: callable tree (x, t, *, key) -> Prediction.
        state: from `init` or the previous row.
        row: one row of a plan: what `lax.scan` over a plan yields, or `jax.tree.map(lambda a: a[i], plan)`.

    Returns:
        The next state.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> plan = js.solve.dpmpp(schedule, js.noise.logsnr_grid(schedule, 5))
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> state, _ = jax.lax.scan(
        ...     lambda s, row: (js.solve.step(None, law, s, row), None), js.solve.init(plan, jnp.ones(1)), plan)
        >>> bool(jnp.all(js.solve.output(state) == js.sample(None, law, jnp.ones(1), plan).x))
        True
    """
    return advance(key, denoiser, state, _through_slots(row), None, None)[0]


def _mix(row: Plan, prediction: Prediction) -> Any:
    if row.kind == "x0":
        return prediction.x0
    if row.kind == "eps":
        return prediction.eps
    if row.kind == "velocity":
        return jax.tree.map(jnp.subtract, prediction.eps, prediction.x0)
    # where, not a product alone: a prediction that this row does not use may be infinite.
    part = lambda w, v: jnp.where(w == 0, 0, w * jnp.where(w == 0, 0, v))
    return jax.tree.map(lambda a, b: part(row.mix[0], a) + part(row.mix[1], b), prediction.x0, prediction.eps)


def _through_slots(rows: Plan) -> Plan:
    """Rows whose newest prediction has its coefficient at its slot too: read there, every state changes in place."""
    if rows.slot is None:
        return rows
    slot = jnp.expand_dims(rows.slot, -1)
    own = slot == np.arange(-1, rows.slots).reshape((1,) * (slot.ndim - 1) + (-1,))
    given = lambda weights: None if weights is None else jnp.where(own, weights[..., :1], weights)
    return dataclasses.replace(rows, W=given(rows.W), Q=given(rows.Q))


def _combine(weights, m, history):
    """W.(m, history), where the history holds m as well."""
    if history is None:
        return _tree.lincomb((weights[0],), (m,))
    # Slices at fixed places join the sum's kernel; iteration over the array, or a reduction, would not.
    at = lambda k: jax.tree.map(lambda past: jax.lax.index_in_dim(past, k, keepdims=False), history)
    return _tree.lincomb(tuple(weights[1:]), [at(k) for k in range(len(weights) - 1)])


def _average(rate, velocity, value):
    return jax.tree.map(lambda v, m: (1 - rate) * v + rate * m, velocity, value)


def _axpy(scale, x, y):
    return jax.tree.map(lambda a, b: scale * a + b, x, y)


def _describe_row(row: Plan, index: Any, last: Any, noise: Any = None) -> StepInfo:
    newest = row.W[0] if row.G is None else row.W[0] * row.G
    x0_share = {"x0": 1.0, "eps": 0.0, "velocity": -1.0}.get(row.kind, None if row.mix is None else row.mix[0])
    eps_share = {"x0": 0.0, "eps": 1.0, "velocity": 1.0}.get(row.kind, None if row.mix is None else row.mix[1])
    data_coef = newest * (x0_share - eps_share * row.alpha / row.sigma)
    noise_std = jnp.zeros_like(row.A) if row.C is None else row.C
    ends = row.t, row.alpha, row.sigma, row.t_next, row.alpha_next, row.sigma_next
    stage = jnp.zeros((), bool) if row.take is None else row.take == KEEP
    return StepInfo(index, *ends, data_coef, noise_std, stage, last, noise)


def _permute(state: SolveState, index: Any) -> SolveState:
    """Reorder particles along axis 0 of everything that the solver remembers."""
    names, axes = ("back", "history", "velocity", "drift", "kick"), (0, 1, 0, 0, 0)
    moved = _tree.take([getattr(state, name) for name in names], index, axes)
    return state._replace(**dict(zip(names, moved, strict=True)))


def _kick_of_step(state: SolveState, row: Plan, prediction: Any) -> Kick | None:
    """The kick that the step under way ends with: that of its first evaluation."""
    kick = kick_of(prediction)
    if kick is None or row.take is None:
        return kick
    if state.kick is None:
        raise ValueError(
            "the denoiser's predictions hold a kick that this plan's stages or corrector must remember. Give the "
            "denoiser a class attribute kicks = True, or call init(plan, x, kicks=True)."
        )
    zeros = _tree.zeros_like(state.x)
    kick = Kick(*(zeros if part is None else part for part in kick))
    return Kick(*(_tree.where(row.take == KEEP, old, new) for old, new in zip(state.kick, kick, strict=True)))


def _push(x: Any, kick: Kick, alpha: Any) -> Any:
    x = x if kick.x is None else jax.tree.map(jnp.add, x, kick.x)
    return x if kick.x0 is None else _axpy(alpha, kick.x0, x)


def advance(key, denoiser, state, row, steer, g, last=False):
    """The scan body: one row `_through_slots`, with the steering hooks where a steer is given."""
    dtype = jnp.result_type(*jax.tree.leaves(state.x))
    row = row.astype(dtype)
    key = None if key is None else jax.random.fold_in(key, state.index)
    draw = lambda stream: _tree.normal_like(_maybe_fold(key, stream), state.x)
    x, t = state.x, row.t
    if row.churn is not None:
        x = _axpy(row.churn, draw(1), x)
    info = functools.partial(_describe_row, row, state.index, last)
    if steer is not None:
        t = steer.time(g, x, t)
        denoiser = wrapped(steer, g, denoiser)
    prediction = at_row(denoiser, state.index)(x, t, key=None if key is None else jax.random.fold_in(key, 2))
    check_prediction("sample", prediction, x)
    if steer is not None:
        g, x, prediction, index = steer.mid(_maybe_fold(key, 3), g, x, prediction, info())
        state = state if index is None else _permute(state, index)

    m, history, velocity = _mix(row, prediction), state.history, state.velocity
    if state.reset is not None:
        # Stale predictions are replaced by the newest one, which makes this row a first-order step.
        if history is not None:
            history = jax.tree.map(lambda past, new: jnp.where(state.reset, new[None], past), history, m)
        velocity = None if velocity is None else _tree.where(state.reset, m, velocity)
    if row.beta is not None:
        m = velocity = _average(row.beta, velocity, m)

    if history is not None:
        write = lambda past, new: jax.lax.dynamic_update_index_in_dim(past, new, row.slot, 0)
        history = jax.tree.map(write, history, m)

    base, kick = x, _kick_of_step(state, row, prediction)
    if row.take is not None:
        back = jax.tree.map(jnp.add, x, state.back)
        base = _tree.where(row.take == ACCEPT, x, back if row.q is None else _axpy(row.q, m, back))

    move, drift = _combine(row.W, m, history), state.drift
    if row.drag is not None:
        drift = _average(row.drag, drift, move)
        move = jax.tree.map(lambda u: row.G * u, _average(row.blend, drift, move))
    x, back = _axpy(row.A, base, move), None
    if row.take is not None:
        start = base if row.Q is None else _axpy(row.P, base, _combine(row.Q, m, history))
        back = jax.tree.map(jnp.subtract, start, x)
    noise = None
    if row.C is not None:
        noise = jax.tree.map(lambda z: row.C * z, draw(0))
        x = jax.tree.map(jnp.add, x, noise)
    if kick is not None:
        kicked = _push(x, kick, row.alpha_next)
        x = kicked if row.ends is None else _tree.where(row.ends, kicked, x)
    reset = state.reset
    if steer is not None:
        g, x, keep_history = steer.post(_maybe_fold(key, 4), g, x, info(noise))
        if reset is not None:
            # The zeros vary over the mesh axes of the data, as the flag that comes in does.
            reset = jnp.logical_not(keep_history) | jnp.zeros_like(reset)
    state = SolveState(
        x=x,
        back=back,
        history=history,
        velocity=velocity,
        drift=drift,
        kick=None if state.kick is None else kick,
        reset=reset,
        index=state.index + 1,
    )
    return state, g, prediction


def _maybe_fold(key, stream):
    return None if key is None else jax.random.fold_in(key, stream)


@functools.partial(jax.jit, static_argnames=("keep", "segments"))
def _run(key, denoiser, x, plan, steer, *, keep, segments):
    plan = plan.astype(jnp.result_type(*(state_dtype(leaf) for leaf in jax.tree.leaves(x))))
    state, g = init(plan, x, kicks=kicks(denoiser)), None
    if steer is not None:
        g = steer.init(_maybe_fold(key, plan.nfe), state.x, plan)
        state = init(plan, x, kicks=kicks(wrapped(steer, g, denoiser)))
        # Made from the data, so that it varies over the mesh axes over which a steering edit may vary.
        state = state._replace(reset=jnp.zeros_like(jnp.ravel(jax.tree.leaves(state.x)[0])[0], bool))
        # Branches were chosen for the plan's times: a steer that moves them leaves the choice to the rows.
        t = jnp.asarray(plan.t)[0]
        segments = segments if steer.time(g, state.x, t) is t else (Segment(0, plan.nfe),)

    def body(denoiser, carry, item):
        (state, g), (row, last) = carry, item
        state, g, prediction = advance(key, denoiser, state, row, steer, g, last)
        return (state, g), None if keep is None else keep(state.x, prediction)

    rows, parts = (_through_slots(plan), np.arange(plan.nfe) == plan.nfe - 1), []
    for segment in segments:
        own = rows if len(segments) == 1 else jax.tree.map(lambda a, s=segment: a[s.start : s.stop], rows)
        (state, g), kept = jax.lax.scan(functools.partial(body, follow(denoiser, segment)), (state, g), own)
        parts.append(kept)
    kept = parts[0] if len(parts) == 1 else jax.tree.map(lambda *kept: jnp.concatenate(kept), *parts)
    final, report = output(state), None
    if steer is not None:
        final, report = steer.final(g, final)
    ok = _tree.all_finite(final)
    final = jax.tree.map(lambda new, old: new.astype(jnp.result_type(old)), final, x)
    return final, ok, kept, report


def sample(key: Any, denoiser: Any, x: Any, plan: Plan, *, steer: Any = None, keep: Any = None) -> Result:
    """Run a plan from x: a sample of the denoiser's distribution.

    One `lax.scan` over the rows of the plan, compiled once: new weights, plan values, grids or guidance scales of the
    same shapes never retrace. Where the denoiser changes its form at rows known before the run (`js.denoise.Interval`)
    the scan splits there. The function works on one sample; `jax.vmap` it over keys and starts. Tables take the
    dtype of the state (float64 when x is; float32 for half precision).

    Args:
        key: one key; row i draws from `fold_in(key, i)`. May be None when neither plan nor steer draws.
        denoiser: callable tree (x, t, *, key) -> Prediction, for example `js.Denoiser(model, schedule)`.
        x: start at `plan.t[0]`, usually `schedule.prior(key, shape)`; any shape or tree.
        plan: the solver.
        steer: acts on the trajectory, see `js.steer`.
        keep: None, or a function (x, prediction) -> tree whose values after each row are stacked in `info.kept`.

    Returns:
        `Result(x, info)` with `info = SampleInfo(ok, nfe, kept, report)`.

    Raises:
        TypeError: for a plan, denoiser, key or x of the wrong type.
        ValueError: for a missing key, or an eps or score prediction where alpha = 0.

    Example:
        >>> import jax, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[0.5, 0.5], means=[[-1.0], [1.0]], stds=[0.1, 0.1])
        >>> plan = js.solve.dpmpp(schedule, js.noise.logsnr_grid(schedule, 20), order=2)
        >>> draw = jax.vmap(lambda z: js.sample(None, law, z, plan).x)
        >>> x = draw(schedule.prior(jax.random.key(0), (500, 1)))
        >>> bool(abs(abs(x) - 1).max() < 0.5)
        True

    Cost:
        `plan.nfe` denoiser calls; memory of K + 3 states at most, for K predictions that a step or its corrector
        combines, plus what `keep` returns.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"sample: plan must be a Plan, got {type(plan).__name__}. Build one, e.g. js.solve.dpmpp(...).")
    if np.ndim(plan.A) != 1:
        raise ValueError(
            "sample: this is a stack of plans. Use jax.vmap(lambda p: js.sample(key, denoiser, x, p))(plan)."
        )
    check_denoiser("sample: denoiser", denoiser, schedule=False)
    check_floating("sample: x", x)
    if steer is not None:
        check_steer("sample: steer", steer)
    if key is not None or plan.stochastic or stochastic(steer):
        check_key(key, "sample")
    _check_signal(denoiser, plan)
    denoiser = as_tree("sample: denoiser", denoiser, "denoiser(x, t)")
    try:
        x, ok, kept, report = _run(key, denoiser, x, plan, steer, keep=keep, segments=route(denoiser, plan))
    except TypeError as error:
        if key is None and steer is not None:
            explain_missing_key("sample", steer, error)
        raise
    return Result(x, SampleInfo(ok, plan.nfe, kept, report))


def _check_signal(denoiser: Any, plan: Plan) -> None:
    """Refuse to recover x0 from a prediction of noise where there is no signal."""
    alpha = concrete(plan.alpha)
    if alpha is None or np.all(alpha > 0):
        return
    for part in jax.tree.leaves(denoiser, is_leaf=lambda d: isinstance(d, Denoiser)):
        if isinstance(part, Denoiser) and part.predicts in ("eps", "score"):
            raise ValueError(
                f"sample: alpha = 0 at row {int(np.argmin(alpha))} of the plan, where a prediction of {part.predicts} "
                f"says nothing about x0. Start the grid where alpha > 0 (t_max=...), or use a v or x0 network."
            )
