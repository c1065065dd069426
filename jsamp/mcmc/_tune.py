"""Adaptation: dual averaging of the step size and a windowed metric, shared across chains."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp._core import _checks, _moments, _tree
from jsamp._core._like import as_arrays
from jsamp._core._mesh import vary
from jsamp._core._pytree import replace
from jsamp._core._random import fold_in
from jsamp._core._types import Key, Scalar, Tree
from jsamp.mcmc import _drive as d
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._chees import learn_length
from jsamp.mcmc._dual import Averaging, average, averaging, mean_accept
from jsamp.mcmc._metric import DenseMetric
from jsamp.mcmc._protocol import Kernel
from jsamp.select._rows import check_axis

BATCHES = 4  # into which the chain is cut to measure its length of decorrelation


def windows(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Flags [num]: steps whose positions enter the metric, and steps that end a window."""
    collect, end = np.zeros(num, bool), np.zeros(num, bool)
    if num < 20:
        return collect, end
    first, last, size = (75, 50, 25) if num >= 150 else (int(0.15 * num), int(0.1 * num), num - int(0.25 * num))
    at, stop = first, num - last
    collect[first:stop] = True
    while at < stop:
        # A window too short to be followed by its double takes the rest.
        until = stop if at + 3 * size > stop else at + size
        end[until - 1] = True
        at, size = until, 2 * size
    return collect, end


def _covariance(m):
    # Shrunk a little towards a small multiple of the identity, as in Stan.
    n = m.count
    eye = jnp.eye(m.mean.size, dtype=m.mean.dtype) if m.square.ndim == 2 else 1.0
    return n / (n + 5) * _moments.variance(m) + 1e-3 * 5 / (n + 5) * eye


class _Numbers(NamedTuple):
    """Hold what warming up finds: the step size, and variances or a Cholesky factor."""

    log_step: Any
    metric: Any


class _Warming(NamedTuple):
    """Hold where warming up is."""

    state: Any
    averaging: Averaging
    moments: Any
    metric: Any
    nfe: Any


def _flat(x):
    return ravel_pytree(x)[0].astype(k.dtype_of(x))


def _with(kernel, found: _Numbers, metric, x):
    """The kernel with the numbers that were found, the metric in the form that the kernel takes."""
    if metric is None:
        return replace(kernel, step_size=jnp.exp(found.log_step))
    if metric == "dense":
        shaped = replace(DenseMetric(np.eye(1)), factor=found.metric)
    else:
        flat, unravel = ravel_pytree(x)
        shaped = unravel(found.metric.astype(flat.dtype))
    return replace(kernel, step_size=jnp.exp(found.log_step), metric=shaped)


def _add(moments, x, axis):
    return _moments.add(moments, _flat(x)) if axis is None else _moments.add_mapped(moments, _flat(x), axis)


def _close_window(w: _Warming, metric) -> _Warming:
    """Take the metric of the window, and let the step size be found anew."""
    covariance = _covariance(w.moments)
    fresh = jnp.linalg.cholesky(covariance) if metric == "dense" else covariance
    fresh = jnp.where(jnp.all(jnp.isfinite(fresh)), fresh, w.metric)
    again = averaging(w.averaging.log_mean, w.averaging.damping)
    return w._replace(averaging=again, moments=_tree.zeros_like(w.moments), metric=fresh)


@functools.partial(jax.jit, static_argnames=("num", "metric", "axis"))
def _tune(key, kernel, x, target, *, num, metric, axis):
    began = protocol.start(kernel, x, fold_in(key, d.INIT))
    dtype = k.dtype_of(began.position)
    target = jnp.asarray(target, dtype)

    def body(w, inputs):
        step_key, collect, end = inputs
        now = _with(kernel, _Numbers(w.averaging.log_step, w.metric), metric, w.state.position)
        state, info = protocol.while_tuning(now).step(step_key, w.state)
        accept = mean_accept(now, w.state, info, target, axis, dtype)
        nfe = w.nfe + protocol.measures(info, dtype)[1]
        w = w._replace(state=state, averaging=average(w.averaging, accept, target), nfe=nfe)
        if metric is not None:
            w = w._replace(moments=_tree.where(collect, _add(w.moments, state.position, axis), w.moments))
            w = jax.lax.cond(end, lambda w: _close_window(w, metric), lambda w: w, w)
        return w, None

    flat = _flat(began.position)
    empty = _moments.start(jnp.zeros_like(flat), outer=metric == "dense")
    unit = jnp.eye(flat.size, dtype=dtype) if metric == "dense" else jnp.ones(flat.size, dtype)
    guess = jnp.log(jnp.asarray(kernel.step_size, dtype))
    shared = (averaging(guess, protocol.tuning_of(kernel).damping), empty, unit)
    sources = (key, began, kernel)
    own = vary((began, jnp.zeros((), jnp.int32)), *sources)
    shared = vary(shared, *(() if axis else sources))
    keys = jax.vmap(fold_in, (None, 0))(key, jnp.arange(num))
    w, _ = jax.lax.scan(body, _Warming(own[0], shared[0], shared[1], shared[2], own[1]), (keys, *windows(num)))
    found = _Numbers(w.averaging.log_mean, w.metric)
    return _with(kernel, found, metric, began.position), w.state.position, began, w.nfe


@functools.partial(jax.jit, static_argnames=("num", "axis"))
def _tune_length(key, kernel, x, *, num, axis):
    # The length is 0.4 times the distance travelled per effective draw, averaged over coordinates; the steps per
    # effective draw from the variance of the means of BATCHES batches, so that nothing is stored.
    state = protocol.start(kernel, x, fold_in(key, d.INIT))
    zero = jnp.zeros_like(_flat(state.position))
    size = max(num // BATCHES, 1)

    def batch(carry, i):
        state, moments, means = carry

        def step(carry, j):
            state, moments, total = carry
            state, _ = kernel.step(fold_in(key, i * size + j), state)
            return (state, _add(moments, state.position, axis), total + _flat(state.position)), None

        first = vary((state, moments, zero), state)
        (state, moments, total), _ = jax.lax.scan(step, first, jnp.arange(size))
        mean = total / size
        means = _moments.add(means, mean) if axis is None else _moments.add_mapped(means, mean, axis)
        return (state, moments, means), None

    empty = (_moments.start(zero), _moments.start(zero))
    carry = (vary(state, key, kernel), *vary(empty, *(() if axis else (key, state, kernel))))
    (state, moments, means), _ = jax.lax.scan(batch, carry, jnp.arange(BATCHES))
    spread = _moments.variance(moments, ddof=0)
    steps = jnp.mean(size * _moments.variance(means) / jnp.where(spread > 0, spread, jnp.inf))
    length = 0.4 * kernel.step_size * jnp.clip(steps, 1, num)
    return replace(kernel, length=jnp.where(jnp.isfinite(length), length, kernel.length)), state.position


def _run(key, kernel, x, target, *, num, metric, axis, length):
    """Both phases for one chain: (tuned kernel, last position, first state, evaluations)."""
    x = as_arrays(x)
    kernel = protocol.before_tuning(kernel, x)
    if length == "chees":
        first = num - num // 2
        tuned, x, began, nfe = _tune(key, kernel, x, target, num=first, metric=metric, axis=axis)
        found = learn_length(jax.random.fold_in(key, num), tuned, x, target, num=num // 2, axis=axis)
        return found[0], found[1], began, nfe + found[2]
    last = num // 5 if protocol.tuning_of(kernel).length and num >= 200 else 0
    tuned, x, began, nfe = _tune(key, kernel, x, target, num=num - last, metric=metric, axis=axis)
    if last:
        tuned, x = _tune_length(jax.random.fold_in(key, num), tuned, x, num=last, axis=axis)
    return tuned, x, began, nfe + last


def _asked(kernel, target, metric, length):
    """The acceptance and the kind of metric to tune, or a refusal."""
    who, asks = type(kernel).__name__, protocol.tuning_of(kernel)
    _checks.check_choice("tune: metric", metric, ("diagonal", "dense", None))
    _checks.check_choice("tune: length", length, ("chees", None))
    if length is not None and not protocol.has_trajectory(kernel):
        raise TypeError(f"tune: {who} has no trajectory whose length could be learned. Use HMC or MAMS.")
    if not asks.steps:
        raise TypeError(f"tune: {who} has no step_size to tune. Tune the kernels inside it one by one.")
    if target is None and asks.target is None:
        raise TypeError(
            f"tune: {who} has no acceptance probability to tune by. Pass target= if its info has one; else tune MALA "
            f"or GHMC and copy its numbers."
        )
    target = asks.target if target is None else target
    _checks.check_scalar("tune: target", target, low=0, high=1, open_low=True)
    if metric == "dense" and asks.metric and not asks.dense:
        raise ValueError(f"tune: {who} moves per coordinate; use metric='diagonal'.")
    return target, metric if asks.metric else None


def tune(
    key: Key,
    kernel: Kernel,
    x: Tree,
    steps: int = 1000,
    *,
    chains: int | None = None,
    target: Scalar | None = None,
    metric: Literal["diagonal", "dense"] | None = "diagonal",
    length: Literal["chees"] | None = None,
    axis_name: str | None = None,
) -> tuple[Any, Any]:
    """Warm up: find the step size and the metric of a kernel, and carry the chain to where it should start.

    Dual averaging drives the acceptance probability to `target`; windows of doubling length estimate the metric from
    the chain. Many chains share one step size and one metric, updated once per step from all of them. Nothing is
    stored on the way. MCLMC has no acceptance: its step is driven to an energy error of about 5e-4 per dimension, and
    its `length` is sqrt(d), which suits the whitened target, for the first four fifths of the steps; the last fifth
    (when it is at least 40 steps) measures how far the chain travels for an effective draw, and sets 0.4 of that.

    Args:
        key: one JAX key.
        kernel: a kernel with a `step_size` and an accept step (or MCLMC). Its step size is the first guess.
        x: start position; with `chains`, a leading axis [chains].
        steps: warm-up steps (static); below 20 the metric is left alone.
        chains: number of chains over the leading axis of x, or None for one chain.
        target: acceptance to aim for; default by kernel: MALA 0.574, Barker 0.5, RandomWalk 0.234, HMC and NUTS 0.8,
            GHMC 0.9. A divergent trajectory counts with the acceptance it had.
        metric: "diagonal", "dense" or None to leave it as it is.
        length: "chees" gives the second half of the steps to the trajectory length of HMC or MAMS, learned from at
            least two chains (better a dozen): it climbs the mean of t d/dt (|z' - m|^2 - |z - m|^2)^2 / 4, the change
            that a trajectory makes to the squared distance from the mean. None leaves it as it is.
        axis_name: a mapped axis of chains (your own `vmap` or `shard_map`) to share over.

    Returns:
        `(kernel, x)`: the tuned kernel, and the last position (of every chain).

    Raises:
        TypeError: for a kernel without a step size or without an accept step.
        ValueError: for counts below 1, an unknown metric, a target outside (0, 1) or a non-finite log-density at a
            concrete start.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.MALA(lambda x: -jnp.sum((x / 5) ** 2) / 2)
        >>> kernel, x = js.mcmc.tune(jax.random.key(0), kernel, jnp.zeros((4, 3)), 200, chains=4)
        >>> kernel.metric.shape, x.shape
        ((3,), (4, 3))

    Cost:
        `steps` steps per chain; memory two vectors, or one matrix when dense.

    References:
        Hoffman and Gelman, "The No-U-Turn Sampler", 2014, arXiv:1111.4246 (dual averaging); Carpenter et al., "Stan",
        2017 (windows); Hoffman, Radul and Sountsov, "An adaptive-MCMC scheme for setting trajectory lengths in
        Hamiltonian Monte Carlo", 2021 (ChEES).
    """
    tuned, x, _ = warm_up(key, kernel, x, steps, chains, target, metric, axis_name, length)
    return tuned, x


def warm_up(
    key, kernel, x, steps, chains=None, target=None, metric: Any = "diagonal", axis_name=None, length=None
) -> Any:
    """Do the work of `tune`; the evaluations of the warm-up come back too."""
    kernel = d.as_kernel(kernel)
    _checks.check_key(key, "tune")
    _checks.check_count("tune: steps", steps)
    if chains is None:
        check_axis(axis_name, "tune")
    target, metric = _asked(kernel, target, metric, length)
    if length is not None and (steps < 2 or (chains in (None, 1) and axis_name is None)):
        raise ValueError(
            "tune: length='chees' compares chains and halves the steps. Pass chains= (two or more), steps >= 2."
        )
    run = functools.partial(_run, num=steps, metric=metric, length=length)
    if chains is None:
        d.check_position(kernel, x)
        tuned, last, began, nfe = run(key, kernel, x, target, axis=axis_name)
    else:
        check_chains("tune", chains, x)
        d.check_position(kernel, jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], x))
        axis = axis_name or "jsamp_chains"
        mapped = jax.vmap(
            lambda key, x: run(key, kernel, x, target, axis=axis), out_axes=(None, 0, 0, 0), axis_name=axis
        )
        tuned, last, began, nfe = mapped(jax.random.split(key, chains), x)
    d.check_start("tune", kernel, x, began, many=chains is not None)
    return tuned, last, nfe


def check_chains(who, chains, x):
    """Refuse starts that have not this many chains on their leading axis."""
    _checks.check_count(f"{who}: chains", chains)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if sizes != {(chains,)}:
        raise ValueError(f"{who}: with chains={chains}, x needs that leading axis; got {sorted(sizes)}.")
