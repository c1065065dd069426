"""Run a plan: one scan over its rows, and the single step that users put into scans of their own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_floating, check_key, check_made, concrete, is_traced
from jsamp._core._like import dtype_of
from jsamp._core._mesh import vary
from jsamp._core._runner import set_runner
from jsamp._core._steering import ask, check_steer, explain_missing_key, stochastic, wrapped
from jsamp._core._types import Key, Model, Result, Tree
from jsamp.denoise import Denoiser
from jsamp.denoise._protocol import check_denoiser, kicks, nodes
from jsamp.noise._levels import first_difference
from jsamp.solve._plan import Plan, check_plan, check_row
from jsamp.solve._route import Segment, follow, route
from jsamp.solve._row import fold, run_row, through_slots
from jsamp.solve._state import SampleInfo, SolveState, check_state, init, output, state_dtype


def step(key: Key | None, denoiser: Model, state: SolveState, row: Plan) -> SolveState:
    """Run one row of a plan: one network evaluation. Use it to write your own scan.

    Args:
        key: the key of the whole run; the row's own key is `fold_in(key, state.index)`, or of
            `row.number` where the plan was cut from a longer one. None for a deterministic plan.
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

    Cost:
        One network evaluation.
    """
    check_denoiser("step: denoiser", denoiser, schedule=False)
    check_state("step", state)
    check_row("step", row)
    _check_room(state, row)
    if key is not None or row.stochastic:
        check_key(key, "step")
    check_levels("step", denoiser, row)
    return run_row(key, denoiser, state, through_slots(row), None, None)[0]


@functools.partial(jax.jit, static_argnames="segments")
def _run(key, denoiser, x, plan, steer, *, keep, segments):
    plan = plan.astype(jnp.result_type(*(state_dtype(leaf) for leaf in jax.tree.leaves(x))))
    sources = (x, key, denoiser, plan, steer)
    x, key, denoiser, plan, steer = vary(sources, sources)
    state, g = init(plan, x, kicks=kicks(denoiser)), None
    if steer is not None:
        g = vary(steer.init(fold(key, plan.nfe), state.x, plan), x)
        state = init(plan, x, kicks=kicks(wrapped(steer, g, denoiser)))
        state = state._replace(reset=vary(jnp.zeros((), bool), x))
        # Branches were chosen for the plan's times: a steer that moves them leaves the choice to the rows.
        t = jnp.asarray(plan.t)[0]
        segments = segments if steer.time(g, state.x, t) is t else (Segment(0, plan.nfe),)

    def body(denoiser, carry, item):
        (state, g), (row, last) = carry, item
        state, g, prediction = run_row(key, denoiser, state, row, steer, g, last)
        return (state, g), None if keep is None else check_made("sample: keep", keep(state.x, prediction))

    rows, parts = (through_slots(plan), np.arange(plan.nfe) == plan.nfe - 1), []
    for segment in segments:
        own = rows if len(segments) == 1 else jax.tree.map(lambda a, s=segment: a[s.start : s.stop], rows)
        (state, g), kept = jax.lax.scan(functools.partial(body, follow(denoiser, segment)), (state, g), own)
        parts.append(kept)
    kept = parts[0] if len(parts) == 1 else jax.tree.map(lambda *kept: jnp.concatenate(kept), *parts)
    final, report = output(state), None
    if steer is not None:
        final, report = ask(steer, "final", g, final)
    ok = _tree.all_finite(final)
    final = _tree.cast_like(final, x)
    return final, ok, kept, report


@set_runner
def sample(key: Key | None, denoiser: Model, x: Tree, plan: Plan, *, steer: Any = None, keep: Any = None) -> Result:
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
        ValueError: for a missing key, a plan on another schedule than the denoiser's or not that of its weights, or an
            eps or score prediction where alpha = 0.

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
        combines, plus what `keep` returns. A gradient through the run stores the network's activations of every row:
        wrap the network, `js.Denoiser(jax.checkpoint(network), schedule)`, and only the states are stored.
    """
    check_plan("sample", plan)
    check_denoiser("sample: denoiser", denoiser, schedule=False)
    check_floating("sample: x", x)
    if keep is not None:
        keep = as_tree("sample: keep", keep, "keep(x, prediction)")
    if steer is not None:
        check_steer("sample: steer", steer)
    if key is not None or plan.stochastic or stochastic(steer):
        check_key(key, "sample")
    check_levels("sample", denoiser, plan)
    _check_signal(denoiser, plan)
    denoiser = as_tree("sample: denoiser", denoiser, "denoiser(x, t)")
    try:
        x, ok, kept, report = _run(key, denoiser, x, plan, steer, keep=keep, segments=route(denoiser, plan))
    except TypeError as error:
        if key is None and steer is not None:
            explain_missing_key("sample", steer, error)
        raise
    return Result(x, SampleInfo(ok, plan.nfe, kept, report))


def check_levels(who: str, denoiser: Any, plan: Plan) -> None:
    """Refuse a plan on another schedule than the denoiser's, whose times mean something else, or not made for it."""
    for node in nodes(denoiser, lambda node: hasattr(node, "check_plan")):
        node.check_plan(who, plan)
    schedule = getattr(denoiser, "schedule", None)
    if schedule is None or is_traced(plan.t, plan.alpha, plan.sigma) or dtype_of(plan.t) in (jnp.float16, jnp.bfloat16):
        return
    t, alpha, sigma = (np.ravel(np.asarray(column, np.float64)) for column in (plan.t, plan.alpha, plan.sigma))
    at = first_difference(schedule, t, alpha, sigma)
    if at is not None:
        own = f"alpha={float(schedule.alpha(t[at])):.4g}, sigma={float(schedule.sigma(t[at])):.4g}"
        raise ValueError(
            f"{who}: the plan and the denoiser are on different schedules: at t={t[at]:.6g} the plan has "
            f"alpha={alpha[at]:.4g}, sigma={sigma[at]:.4g}, the denoiser's {type(schedule).__name__} {own}. Build the "
            f"plan and its grid on the denoiser's schedule."
        )


def _check_room(state: SolveState, row: Plan) -> None:
    """Refuse a state that was made for another plan: it has no room for what the row remembers."""
    held = 0 if state.history is None else jax.tree.leaves(state.history)[0].shape[0]
    wanted = {"back": row.take, "velocity": row.prediction_rate, "drift": row.increment_rate}
    lacking = [name for name, column in wanted.items() if column is not None and getattr(state, name) is None]
    if held != row.slots or lacking:
        raise ValueError(
            f"step: the state is of another plan: it holds {held} predictions, and the row's plan {row.slots}"
            f"{', and lacks ' * bool(lacking)}{', '.join(lacking)}. Start with js.solve.init(plan, x)."
        )


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
