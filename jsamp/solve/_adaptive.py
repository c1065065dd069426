"""An adaptive integrator of the probability-flow ODE: the one solver that is no table, since its steps depend on x."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count, check_key, check_scalar, concrete, is_traced
from jsamp._core._like import dtype_of
from jsamp._core._types import Key, Model, Result, Schedule, Tree
from jsamp.denoise._protocol import check_denoiser, check_prediction
from jsamp.noise._levels import check_same_levels
from jsamp.noise._protocol import check_schedule, check_times
from jsamp.solve._row import fold
from jsamp.solve._state import check_signal, state_dtype

FIRST, SECOND = 1 / 3, 2 / 3
"""Stages of the third-order step, as shares of it."""
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
SMALL = 0.5
"""Below this the series of phi is used in place of its cancelling quotient."""


class AdaptiveInfo(NamedTuple):
    """Report on an adaptive run.

    Args:
        ok: whether the end was reached and every number is finite.
        nfe: network evaluations.
        accepted: steps taken.
        rejected: steps that were tried again, shorter.
        t: time that was reached; t_min where ok.
    """

    ok: Any
    nfe: Any
    accepted: Any
    rejected: Any
    t: Any


class _State(NamedTuple):
    x: Any
    lam: Any
    h: Any
    accepted: Any
    rejected: Any


def adaptive(
    key: Key | None,
    denoiser: Model,
    x: Tree,
    schedule: Schedule,
    *,
    rtol: Any = 0.01,
    atol: Any = 1e-3,
    max_steps: int = 1000,
    t_max: Any = None,
    t_min: Any = None,
) -> Result:
    """Solve the probability-flow ODE with steps as long as a tolerance allows: a sample of known accuracy.

    Each step in lam = log(alpha / sigma) compares the second- and third-order DPM-Solver++ singlestep formulas, which
    share their three evaluations, and is accepted when the root mean square of their difference over atol + rtol
    max(|x|, |x_new|) is at most 1; the third-order value is kept. The norm is that of this one sample: under `vmap`
    each sample has steps of its own, so the batch never changes a sample, and takes as long as its slowest.

    Args:
        key: for denoisers that draw; else None.
        denoiser: callable tree (x, t, *, key) -> Prediction.
        x: start at t_max, any shape or tree, one sample.
        schedule: a noise schedule.
        rtol: relative tolerance of one step, > 0.
        atol: absolute tolerance of one step, in units of x, >= 0.
        max_steps: most steps, rejected ones included (static).
        t_max: start, default `schedule.t_max`; alpha must be positive there.
        t_min: end, default `schedule.t_min`; sigma must be positive there.

    Returns:
        `Result(x, info)`, x at t_min and info an `AdaptiveInfo`. Look at `info.ok`: it is False when max_steps did not
        suffice, and x is then the state at `info.t`.

    Raises:
        TypeError: for a denoiser, schedule or x of the wrong type.
        ValueError: for tolerances that are not positive, or ends where lam is infinite.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[0.5, 0.5], means=[[-1.0], [1.0]], stds=[0.2, 0.2])
        >>> found = js.solve.adaptive(None, law, jnp.array([0.3]), schedule, rtol=1e-3, atol=1e-4)
        >>> bool(found.info.ok), bool(abs(found.x[0] - 1) < 0.5)
        (True, True)

    Cost:
        Three denoiser calls for each step. Not differentiable in reverse (the number of steps is not known before).

    References:
        Lu et al., "DPM-Solver++", 2022, arXiv:2211.01095; the control of step sizes is the usual one of embedded
        Runge-Kutta methods.
    """
    check_denoiser("adaptive: denoiser", denoiser, schedule=False)
    check_signal("adaptive: x", x)
    check_schedule("adaptive: schedule", schedule)
    check_scalar("adaptive: rtol", rtol, low=0, high=1e30, open_low=True)
    check_scalar("adaptive: atol", atol, low=0, high=1e30)
    check_count("adaptive: max_steps", max_steps)
    if key is not None:
        check_key(key, "adaptive")
    ends = [schedule.lam(end) for end in (_end(schedule, "t_max", t_max), _end(schedule, "t_min", t_min))]
    known = concrete(ends)
    if known is not None and not (np.all(np.isfinite(known)) and known[0] < known[1]):
        raise ValueError(
            f"adaptive: lam must be finite and rise from t_max to t_min, got {known[0]:.4g} and {known[1]:.4g}. Pass a "
            f"t_max with alpha > 0 (for Flow, t_max=0.999) and a t_min with sigma > 0 below it."
        )
    check_same_levels("adaptive: schedule", schedule, "the denoiser", getattr(denoiser, "schedule", schedule))
    denoiser = as_tree("adaptive: denoiser", denoiser, "denoiser(x, t)")
    tolerances = [value if is_traced(value) else float(value) for value in (rtol, atol)]
    return _run(key, denoiser, x, schedule, ends, tolerances, max_steps=max_steps)


def _end(schedule, name, value):
    if value is None:
        return getattr(schedule, name)
    check_scalar(f"adaptive: {name}", value)
    check_times(f"adaptive: {name}", schedule, value)
    return value


@functools.partial(jax.jit, static_argnames="max_steps")
def _run(key, denoiser, x, schedule, ends, tolerances, *, max_steps):
    wide = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, state_dtype(leaf)), x)
    dtype = dtype_of(wide)
    start, end, rtol, atol = (jnp.asarray(v, dtype) for v in (*ends, *tolerances))

    def attempt(state):
        left = end - state.lam
        # A rest too short for a step of its own is taken along.
        h = jnp.where(1.01 * state.h > left, left, state.h)
        number = state.accepted + state.rejected
        low, high = _step(fold(key, number), denoiser, schedule, state.x, state.lam, h)
        size = _size(state.x, low, high, rtol, atol)
        accept = size <= 1  # not a number is no
        factor = jnp.where(size > 0, SAFETY * jnp.maximum(size, 1e-12) ** (-1 / 3), GROW)
        factor = jnp.where(jnp.isfinite(size), jnp.clip(factor, SHRINK, GROW), SHRINK)
        arrived = jnp.where(h == left, end, state.lam + h)
        return _State(
            _tree.where(accept, high, state.x), jnp.where(accept, arrived, state.lam), h * factor,
            state.accepted + accept, state.rejected + ~accept,
        )  # fmt: skip

    going = lambda state: (state.lam < end) & (state.accepted + state.rejected < max_steps)
    # Made from the data, so that it varies over the mesh axes over which the data vary.
    zero = jnp.zeros_like(jnp.ravel(jax.tree.leaves(wide)[0])[0], dtype)
    first = _State(wide, start + zero, (end - start) / 100 + zero, zero.astype(jnp.int32), zero.astype(jnp.int32))
    state = jax.lax.while_loop(going, attempt, first)
    ok = (state.lam >= end) & _tree.all_finite(state.x)
    narrow = _tree.cast_like(state.x, x)
    tried = state.accepted + state.rejected
    return Result(narrow, AdaptiveInfo(ok, 3 * tried, state.accepted, state.rejected, schedule.time(state.lam)))


def _step(key, denoiser, schedule, x, lam, h):
    """One step of length h: the second- and the third-order value."""
    t = schedule.time(lam)
    sigma = schedule.sigma(t)

    def predict(x, t, stage):
        prediction = denoiser(x, t, key=fold(key, stage))
        check_prediction("adaptive", prediction, x)
        return _tree.cast_like(prediction.x0, x)

    def move(share, slope):
        """To the share of the step, with x0 held or moving at a slope (in lam)."""
        there = schedule.time(lam + share * h)
        z = share * h
        flat, rising = -jnp.expm1(-z), z**2 * _phi2(-z)
        alpha, ratio = schedule.alpha(there), schedule.sigma(there) / sigma
        weights = (ratio, alpha * flat) if slope is None else (ratio, alpha * flat, alpha * rising)
        return there, _tree.cast_like(_tree.lincomb(weights, (x, m) if slope is None else (x, m, slope)), x)

    m = predict(x, t, 0)
    slope_of = lambda new, share: jax.tree.map(lambda a, b: (a - b) / (share * h), new, m)
    t1, x1 = move(FIRST, None)
    slope1 = slope_of(predict(x1, t1, 1), FIRST)
    t2, x2 = move(SECOND, slope1)
    slope2 = slope_of(predict(x2, t2, 2), SECOND)
    return move(1.0, slope1)[1], move(1.0, slope2)[1]


def _phi2(z):
    """(e^z - 1 - z) / z^2."""
    series, term = jnp.zeros_like(z), jnp.ones_like(z) / 2
    for k in range(3, 12):
        series, term = series + term, term * z / k
    safe = jnp.where(jnp.abs(z) < SMALL, 1, z)
    return jnp.where(jnp.abs(z) < SMALL, series, (jnp.expm1(safe) - safe) / safe**2)


def _size(x, low, high, rtol, atol):
    """Root mean square of the error estimate in units of the tolerance."""

    def square(x, a, b):
        unit = atol + rtol * jnp.maximum(jnp.abs(x), jnp.abs(b))
        # Numbers that are 0 and stay 0 have no error, and with atol = 0 no unit either.
        return jnp.sum(jnp.where(a == b, 0, (b - a) / unit) ** 2)

    return jnp.sqrt(sum(jax.tree.leaves(jax.tree.map(square, x, low, high))) / _tree.size(x))
