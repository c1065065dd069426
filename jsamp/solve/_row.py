"""One row of a plan, step by step. Columns of the table stand in brackets, hooks of a steer in braces.

    predict     x + [churn_std] noise -> x;  {time}  denoiser(x, t) -> x0, eps  {mid}
    remember    m = x0, eps or eps - x0, averaged by [prediction_rate] -> history[slot]
    measure     [weights] and [noise_std] in units of |m|, where [relative]
    correct     by [take]: x, left, or left + [corrector_newest] m -> base
    move        [state_coef] base + [weights].(m, history) -> x;  what the next row needs of base -> left
    add noise   x + [noise_std] noise -> x
    kick        x + kick of the denoiser, where [ends_step] -> x  {post}  -> x

Every function takes what it needs and returns what it changes; `run_row` calls them in this order. It is the body of
the one scan that runs every plan.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._like import dtype_of, match
from jsamp._core._pytree import replace
from jsamp._core._steering import ask, wrapped
from jsamp._core._types import Key
from jsamp.denoise import Kick, Prediction
from jsamp.denoise._protocol import at_row, check_prediction, kick_of
from jsamp.solve._columns import ACCEPT, KEEP, MIX
from jsamp.solve._plan import Plan
from jsamp.solve._state import SolveState, StepInfo, Stream


def run_row(key, denoiser, state, row, steer, g, last=False):
    """Run one row `through_slots`: (state, the steer's state, prediction). `key` is that of the whole run."""
    row = row.astype(dtype_of(state.x))
    number = state.index if row.number is None else row.number
    key, info = fold(key, number), lambda row, noise=None: _tell(row, state.index, last, noise)
    x, prediction, state, g = _predict(key, denoiser, state, row, number, steer, g, info)
    m, history, velocity = _remember(state, row, _mix(row, prediction, x))
    row = _measure(row, m)
    base, kick = _correct(state, row, x, m), _kick_of_step(state, row, prediction)
    x, left, drift = _move(row, base, m, history, state.drift)
    x, noise = _add_noise(key, row, x)
    x, g, reset = _kick(key, row, x, kick, steer, g, lambda: info(row, noise), state.reset)
    kept = None if state.kick is None else kick
    return SolveState(x, left, history, velocity, drift, kept, reset, state.index + 1), g, prediction


def _predict(key, denoiser, state, row, number, steer, g, info):
    """Evaluate the denoiser at the state, churned; hooks may shift its time and reorder the particles."""
    x, t = state.x, row.t
    if row.churn_std is not None:
        x = _axpy(row.churn_std, _tree.normal_like(fold(key, Stream.CHURN), x), x)
    if steer is not None:
        t, denoiser = steer.time(g, x, t), wrapped(steer, g, denoiser)
    prediction = at_row(denoiser, number)(x, t, key=fold(key, Stream.MODEL))
    check_prediction("sample", prediction, x)
    if steer is not None:
        g, moved, prediction, index = ask(steer, "mid", fold(key, Stream.MID), g, x, prediction, info(row))
        x = match(f"{type(steer).__name__}: the x of mid", moved, x)
        check_prediction(f"{type(steer).__name__}: mid", prediction, x)
        state = state if index is None else _permute(state, index)
    return x, prediction, state, g


def _remember(state, row, m):
    """Average the prediction, where momentum acts on predictions, and write it into its slot of the history."""
    history, velocity = state.history, state.velocity
    if state.reset is not None:
        # Stale predictions are replaced by the newest one, which makes this row a first-order step.
        if history is not None:
            history = jax.tree.map(lambda past, new: jnp.where(state.reset, new[None], past), history, m)
        velocity = None if velocity is None else _tree.where(state.reset, m, velocity)
    if row.prediction_rate is not None:
        m = velocity = _average(row.prediction_rate, velocity, m)
    if history is not None:
        write = lambda past, new: jax.lax.dynamic_update_index_in_dim(past, new, row.slot, 0)
        history = jax.tree.map(write, history, m)
    return m, history, velocity


def _measure(row, m):
    """The row in units of its prediction m, where it is relative: noise times r, the move times r^2, for |m| = 1/r."""
    if row.relative is None:
        return row
    square = jnp.where(row.relative, _tree.size(m) / jnp.where(row.relative, _tree.dot(m, m), 1), 1)
    square = square.astype(row.weights.dtype)
    noise = None if row.noise_std is None else jnp.sqrt(square) * row.noise_std
    return replace(row, weights=square * row.weights, noise_std=noise)


def _correct(state, row, x, m):
    """The state that the row starts from: x, or what the row before left, kept or corrected by the new prediction."""
    if row.take is None:
        return x
    left = jax.tree.map(jnp.add, x, state.back)
    corrected = left if row.corrector_newest is None else _axpy(row.corrector_newest, m, left)
    return _tree.where(row.take == ACCEPT, x, corrected)


def _move(row, base, m, history, drift):
    """Move from the base by the weighted predictions, averaged where momentum acts on increments; and what is left."""
    move = _combine(row.weights, m, history)
    if row.increment_rate is not None:
        drift = _average(row.increment_rate, drift, move)
        move = jax.tree.map(lambda u: _as(row.gain, u) * u, _average(row.increment_blend, drift, move))
    x = _axpy(row.state_coef, base, move)
    if row.take is None:
        return x, None, drift
    left = base
    if row.corrector_weights is not None:
        left = _axpy(row.corrector_state, base, _combine(row.corrector_weights, m, history))
    # Held as a difference, so that noise and kicks of this step belong to it as well.
    return x, jax.tree.map(jnp.subtract, left, x), drift


def _add_noise(key, row, x):
    """Add the row's noise, and return it."""
    if row.noise_std is None:
        return x, None
    draw = _tree.normal_like(fold(key, Stream.NOISE), x)
    noise = jax.tree.map(lambda z: _as(row.noise_std, z) * z, draw)
    return jax.tree.map(jnp.add, x, noise), noise


def _kick(key, row, x, kick, steer, g, info, reset):
    """Apply the kick where the step ends, then the last hook, which may declare the history stale."""
    if kick is not None:
        kicked = _push(x, kick, row.alpha_next)
        x = kicked if row.ends_step is None else _tree.where(row.ends_step, kicked, x)
    if steer is None:
        return x, g, reset
    g, moved, keep_history = ask(steer, "post", fold(key, Stream.POST), g, x, info())
    x = match(f"{type(steer).__name__}: the x of post", moved, x)
    if reset is not None:
        # The zeros vary over the mesh axes of the data, as the flag that comes in does.
        reset = jnp.logical_not(keep_history) | jnp.zeros_like(reset)
    return x, g, reset


# ---------------------------------------------------------------- pieces


def fold(key: Key | None, number: Any) -> Any:
    """Fold a number into a key; None stays None."""
    return None if key is None else jax.random.fold_in(key, number)


def through_slots(rows: Plan) -> Plan:
    """Copy weights[:, 0] into the column of the row's slot as well.

    The new prediction is then read from the history, where it has just been written, and XLA updates that buffer in
    place.
    """
    if rows.slot is None:
        return rows
    slot = jnp.expand_dims(rows.slot, -1)
    own = slot == np.arange(-1, rows.slots).reshape((1,) * (slot.ndim - 1) + (-1,))
    given = lambda weights: None if weights is None else jnp.where(own, weights[..., :1], weights)
    return replace(rows, weights=given(rows.weights), corrector_weights=given(rows.corrector_weights))


def _mix(row: Plan, prediction: Prediction, x: Any) -> Any:
    """The prediction that the row combines, in the dtypes of x."""
    x0, eps = (jax.tree.map(_as, part, x) for part in prediction[:2])
    if row.kind == "x0":
        return x0
    if row.kind == "eps":
        return eps
    if row.kind == "velocity":
        return jax.tree.map(jnp.subtract, eps, x0)

    def share(w, v):
        # where, not a product alone: a prediction that this row does not use may be infinite.
        return jnp.where(w == 0, 0, _as(w, v) * jnp.where(w == 0, 0, v))

    return jax.tree.map(lambda a, b: share(row.mix[0], a) + share(row.mix[1], b), x0, eps)


def _combine(weights, m, history):
    """Sum weights.(m, history), where the history holds m as well."""
    if history is None:
        return _tree.lincomb((weights[0],), (m,))
    # Slices at fixed places join the sum's kernel; iteration over the array, or a reduction, would not.
    at = lambda k: jax.tree.map(lambda past: jax.lax.index_in_dim(past, k, keepdims=False), history)
    return _tree.lincomb(tuple(weights[1:]), [at(k) for k in range(len(weights) - 1)])


def _as(number, leaf):
    """A number of the table in the dtype of a leaf: trees may hold leaves of several."""
    return jnp.asarray(number, jnp.result_type(leaf))


def _average(rate, velocity, value):
    return jax.tree.map(lambda v, m: _as(1 - rate, v) * v + _as(rate, m) * m, velocity, value)


def _axpy(scale, x, y):
    return jax.tree.map(lambda a, b: _as(scale, a) * a + b, x, y)


def _permute(state: SolveState, index: Any) -> SolveState:
    """Reorder particles along axis 0 of everything that the solver remembers."""
    names, axes = ("back", "history", "velocity", "drift", "kick"), (0, 1, 0, 0, 0)
    moved = _tree.take([getattr(state, name) for name in names], index, axes)
    return state._replace(**dict(zip(names, moved, strict=True)))


def _kick_of_step(state: SolveState, row: Plan, prediction: Any) -> Kick | None:
    """The kick that the step under way ends with, in the dtypes of x: that of its first evaluation."""
    kick = kick_of(prediction)
    if kick is None:
        return None
    kick = Kick(*(None if part is None else _tree.cast_like(part, state.x) for part in kick))
    if row.take is None:
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


def _tell(row: Plan, index: Any, last: Any, noise: Any = None) -> StepInfo:
    """Say to the hooks where the row is and what it does."""
    newest = row.weights[0] if row.gain is None else row.weights[0] * row.gain
    x0_share, eps_share = MIX[row.kind] if row.mix is None else (row.mix[0], row.mix[1])
    data_coef = newest * (x0_share - eps_share * row.alpha / row.sigma)
    noise_std = jnp.zeros_like(row.state_coef) if row.noise_std is None else row.noise_std
    ends = row.t, row.alpha, row.sigma, row.t_next, row.alpha_next, row.sigma_next
    stage = jnp.zeros((), bool) if row.take is None else row.take == KEEP
    return StepInfo(index, *ends, data_coef, noise_std, stage, last, noise)
