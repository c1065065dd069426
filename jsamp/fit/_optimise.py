"""Bayesian optimisation: evaluate where a surrogate expects to gain, on the host, resumable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._progress import bar
from jsamp._core._pytree import pytree, replace, static
from jsamp._core._types import Key, Result
from jsamp.estimate import sobol_points
from jsamp.fit._acquire import ei, log_ei, maximise_acquisition, qei
from jsamp.fit._gp import GP
from jsamp.fit._protocol import LEAST, Surrogate

DRAWS = 128  # joint draws behind `qei`
NEAR = 0.05  # spread of the candidates around the best point so far


class OptimiseState(NamedTuple):
    """Hold what continues an optimisation: pass it as `state=`.

    Args:
        X: [evaluations, d] points, in the units of the bounds.
        y: [evaluations] values, NaN where an evaluation failed.

    Example:
        >>> import jsamp as js
        >>> js.fit.OptimiseState([], []).y
        []
    """

    X: Any
    y: Any


class OptimiseInfo(NamedTuple):
    """Report an optimisation.

    Args:
        value: the lowest value found.
        state: an `OptimiseState`: all points and values, in order.
        posterior: the last surrogate posterior, on the unit cube, or None when none was needed. Where values spread by
            less than 1e-12 or more than 1e12 it is of values divided by a power of two.
        stopped: "" or "interrupted" after Ctrl-C.

    Example:
        >>> import jsamp as js
        >>> js.fit.OptimiseInfo(0.5, None, None, "").value
        0.5
    """

    value: float
    state: OptimiseState
    posterior: Any
    stopped: str


@pytree
class _Acquisition:
    """Evaluate an acquisition at a point [d] or a batch [q, d]; new posteriors do not recompile."""

    posterior: Any
    best: Any
    key: Key
    kind: str = static()

    def __call__(self, x):
        rows = x if x.ndim == 2 else x[None]
        if self.kind == "qei":
            return qei(self.posterior.sample(self.key, rows, DRAWS), self.best)
        mean, var = self.posterior.mean_var(rows)
        # The root has no slope at zero, where a network's draws may agree.
        std = jnp.sqrt(jnp.maximum(var, jnp.finfo(var.dtype).tiny))
        return (ei if self.kind == "ei" else log_ei)(mean, std, self.best)[0]


def optimise(
    key: Key,
    objective: Callable[[Any], Any],
    bounds: Any,
    surrogate: Any = None,
    *,
    budget: int,
    initial: int = 10,
    batch: int = 1,
    acquisition: Literal["log_ei", "ei", "qei"] | None = None,
    raw: int = 256,
    restarts: int = 3,
    steps: int = 10,
    state: OptimiseState | None = None,
    progress: bool = False,
) -> Result:
    """Find the lowest value of a costly function with few evaluations, by Bayesian optimisation.

    The first `initial` points are a scrambled Sobol' sequence. Each round then fits the surrogate to all values, and
    evaluates the `batch` points of the largest acquisition: the best of `raw` Sobol' points and as many near the best
    so far, improved by L-BFGS from `restarts` of them. Points are scaled to the unit cube and values are standardised
    inside. An evaluation that is not finite is kept as NaN and left out of the surrogate. Arrays have the size of the
    whole budget, so no round after the first compiles anything.

    Args:
        key: one key; round k uses `fold_in(key, evaluations so far)`.
        objective: function of a point [d], a float64 numpy array in the units of the bounds -> one number. It runs on
            the host and may do anything.
        bounds: (low, high) numbers or [d] vectors, or an array [d, 2].
        surrogate: a `Surrogate`; None is `GP()`. One without a capacity gets that of the budget.
        budget: evaluations in all, those of `state` included.
        initial: evaluations before the first fit.
        batch: evaluations of a round.
        acquisition: "log_ei", "ei" (one point) or "qei" (any batch); None takes "log_ei", "qei" for batches.
        raw: points tried before L-BFGS.
        restarts: runs of L-BFGS.
        steps: steps of each.
        state: `info.state` of an earlier run, to go on; with the same key and surrogate capacity the points are those
            of a run that was not interrupted.
        progress: draw a tqdm bar, when tqdm is installed.

    Returns:
        `Result(x [d], OptimiseInfo)`. Ctrl-C ends the run and returns what there is.

    Raises:
        TypeError: for something that is no key, no surrogate or cannot be called.
        ValueError: for bounds that are reversed, equal or not finite; counts below 1; when no evaluation was finite.

    Example:
        >>> import jax, jsamp as js
        >>> f = lambda x: (x[0] - 2.0) ** 2
        >>> options = {"budget": 6, "initial": 4, "raw": 16, "restarts": 1, "steps": 5}
        >>> found = js.fit.optimise(jax.random.key(0), f, ([0.0], [5.0]), **options)
        >>> found.info.value < 0.1
        True

    Cost:
        budget evaluations; a round costs a fit, and the acquisition at raw + restarts steps points.

    References:
        Jones, Schonlau and Welch, "Efficient global optimization of expensive black-box functions", 1998; Li, Rudner
        and Wilson, "A study of Bayesian neural network surrogates for Bayesian optimization", 2023, arXiv:2305.20028.
    """
    surrogate, kind = _door(key, objective, bounds, surrogate, budget, batch, acquisition, state)
    counts = (("initial", initial), ("raw", raw), ("restarts", restarts), ("steps", steps))
    initial, raw, restarts, steps = (_checks.check_count(f"optimise: {name}", value) for name, value in counts)
    _checks.check_flag("optimise: progress", progress)
    low, high = _bounds(bounds)
    X, y = _begun(state, low, high, budget)
    posterior, stopped, initial = None, "", min(initial, budget)
    first = np.asarray(sobol_points(len(low), initial, key=jax.random.fold_in(key, 2**31 - 1)), np.float64)
    with bar(progress, budget, done=len(y), unit="call") as advance, contextlib.suppress(KeyboardInterrupt):
        stopped = "interrupted"
        while len(y) < budget:
            if len(y) < initial or not np.any(np.isfinite(y)):
                unit = first[len(y) : len(y) + 1] if len(y) < initial else _more(key, len(low), len(y))
            else:
                options = (batch if batch > 1 or kind == "qei" else None, kind, raw, restarts, steps)
                unit, posterior = _propose(
                    jax.random.fold_in(key, len(y)), surrogate, (X - low) / (high - low), y, options
                )
            points = (low + (high - low) * unit)[: budget - len(y)]
            values = [_evaluate(objective, point) for point in points]
            X, y = np.concatenate([X, points]), np.append(y, values)  # a round is recorded whole
            advance(len(points))
        stopped = ""
    if not np.any(np.isfinite(y)):
        raise ValueError(f"optimise: none of {len(y)} evaluations was finite. Check the objective and the bounds.")
    best = int(np.nanargmin(y))
    return Result(X[best], OptimiseInfo(float(y[best]), OptimiseState(X, y), posterior, stopped))


def _door(key, objective, bounds, surrogate, budget, batch, acquisition, state):
    _checks.check_key(key, "optimise")
    _checks.check_on_host("optimise", key, bounds, state)
    _checks.check_callable("optimise: objective", objective, "objective(x)")
    _checks.check_count("optimise: budget", budget)
    _checks.check_count("optimise: batch", batch)
    surrogate = GP() if surrogate is None else surrogate
    if isinstance(surrogate, type) or not isinstance(surrogate, Surrogate):
        shown = _checks.shown(surrogate)
        raise TypeError(f"optimise: surrogate must have fit and capacity, as js.fit.GP() has; got {shown}.")
    kind = ("qei" if batch > 1 else "log_ei") if acquisition is None else acquisition
    _checks.check_choice("optimise: acquisition", kind, ("log_ei", "ei", "qei"))
    if batch > 1 and kind != "qei":
        raise ValueError(f"optimise: {kind!r} is for one point, got batch={batch}. Take 'qei'.")
    if surrogate.capacity is None:
        surrogate = replace(surrogate, capacity=max(LEAST, 1 << (budget - 1).bit_length()))  # pyright: ignore
    elif surrogate.capacity < budget:
        raise ValueError(f"optimise: a budget of {budget} exceeds the surrogate's capacity of {surrogate.capacity}.")
    return surrogate, kind


def _bounds(bounds):
    """Lower and upper bounds [d] in float64."""
    if isinstance(bounds, (str, bytes, dict)) or not hasattr(bounds, "__len__"):
        raise TypeError(f"optimise: bounds must be (low, high) or an array [d, 2], got {_checks.shown(bounds)}.")
    if isinstance(bounds, tuple) and len(bounds) == 2:
        pair = bounds
    else:
        _checks.check_rows("optimise: bounds", bounds, ndim=2)
        table = np.asarray(bounds)
        if table.shape[1] != 2:
            raise ValueError(f"optimise: bounds must be (low, high) or an array [d, 2], got shape {table.shape}.")
        pair = (table[:, 0], table[:, 1])
    for name, value in zip(("lower bounds", "upper bounds"), pair, strict=True):
        _checks.check_number(f"optimise: {name}", value)
    low, high = (np.atleast_1d(np.asarray(value, np.float64)) for value in pair)
    if low.shape != high.shape or low.ndim != 1:
        raise ValueError(
            f"optimise: lower and upper bounds must be vectors of one length, got {low.shape}, {high.shape}."
        )
    if not np.all(low < high):
        raise ValueError(
            f"optimise: lower bounds must be below upper ones, got {low[low >= high][0]} >= {high[low >= high][0]}."
        )
    return low, high


def _begun(state, low, high, budget):
    if state is None:
        return np.zeros((0, len(low))), np.zeros(0)
    if not isinstance(state, OptimiseState):
        raise TypeError(f"optimise: state must be the info.state of an earlier run, got {type(state).__name__}.")
    X, y = np.asarray(state.X, np.float64), np.asarray(state.y, np.float64)
    if X.shape != (len(y), len(low)):
        raise ValueError(f"optimise: the state has points of shape {X.shape}, the bounds have {len(low)} columns.")
    if np.any(np.clip(X, low, high) != X):
        raise ValueError("optimise: the state has points outside the bounds, so it is of another run. Pass its bounds.")
    if len(y) > budget:
        raise ValueError(f"optimise: the state holds {len(y)} evaluations, the budget is {budget}.")
    return X, y


def _evaluate(objective, point):
    value = _checks.check_made("optimise: objective", objective(point.copy()), wanted="one number", empty=False)
    value = np.asarray(value, np.float64)
    if value.size != 1:
        raise ValueError(f"optimise: objective must return one number, got shape {value.shape}.")
    return float(value.reshape(())) if np.isfinite(value).all() else np.nan


def _more(key, dim, count):
    """One more random point, while no evaluation has been finite."""
    return np.asarray(jax.random.uniform(jax.random.fold_in(key, count), (1, dim)), np.float64)


def _propose(key, surrogate, X, y, options):
    """Points [q, d] of the unit cube for the next round, and the posterior they come from."""
    q, kind, raw, restarts, steps = options
    known = np.isfinite(y)
    X, y = np.clip(X[known], 0, 1), y[known] / _unit(y[known])
    keys = jax.random.split(key, 4)
    posterior = surrogate.fit(keys[0], X.astype(np.float32), y)
    best = jnp.asarray(y.min(), jnp.float32)
    dim, count = X.shape[1], 1 if q is None else q
    points = _candidates(keys[1:3], jnp.asarray(X[y.argmin()], jnp.float32), raw, count, dim)
    points = points[:, 0] if q is None else points
    found = maximise_acquisition(
        None, _Acquisition(posterior, best, keys[3], kind), points, restarts=restarts, steps=steps
    )
    return np.asarray(found.x, np.float64).reshape(count, dim), posterior


def _unit(y):
    """A power of two by which values are divided, so that squares of their spread stay floats; 1 for most."""
    top = np.abs(y).max()
    spread = np.ptp(y / top) if top > 0 else 0.0
    power = np.log2(top) + np.log2(spread) if spread > 0 else 0.0
    return 1.0 if abs(power) < 40 else 2.0 ** np.floor(power)


def _candidates(keys, best, raw, count, dim):
    """Half of them all over the cube, half near the best point so far: [2 raw, count, dim]."""
    everywhere = sobol_points(dim, raw * count, key=keys[0]).reshape(raw, count, dim)
    near = best[None, None] + NEAR * jax.random.normal(keys[1], (raw, count, dim), best.dtype)
    return jnp.clip(jnp.concatenate([everywhere.astype(best.dtype), near]), 0, 1)
