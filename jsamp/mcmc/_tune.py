"""Adaptation: dual averaging of the step size and a windowed metric, shared across chains."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp._core import _checks, _tree
from jsamp._core._pytree import replace
from jsamp._core._random import fold_in
from jsamp.mcmc import _drive as d
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._metric import DenseMetric

TARGETS = {"MALA": 0.574, "Barker": 0.5, "RandomWalk": 0.234, "HMC": 0.8, "NUTS": 0.8, "GHMC": 0.9, "MCLMC": 0.5}
WARM_STEPS = 50  # leapfrog bound of HMC while the step size and the metric are still guesses
BATCHES = 4  # of the last fifth of MCLMC's warm-up
ENERGY_VARIANCE = 5e-4  # energy error per dimension that MCLMC steps for


class _Averaging(NamedTuple):
    log_step: Any
    log_mean: Any
    drift: Any
    count: Any
    center: Any


def _averaging(log_step):
    zero = jnp.zeros_like(log_step)
    return _Averaging(log_step, zero, zero, zero, log_step + np.log(10.0))


def _average(a: _Averaging, accept, target) -> _Averaging:
    # Dual averaging with the customary gamma = 0.05, t0 = 10, kappa = 0.75.
    count = a.count + 1
    rate = 1 / (count + 10)
    drift = (1 - rate) * a.drift + rate * (target - accept)
    log_step = a.center - jnp.sqrt(count) / 0.05 * drift
    weight = count**-0.75
    return _Averaging(log_step, weight * log_step + (1 - weight) * a.log_mean, drift, count, a.center)


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


class _Moments(NamedTuple):
    count: Any
    mean: Any
    square: Any


def _collect(m: _Moments, flat, axis):
    # Chan's update with a whole batch of chains: one call covers one chain and many.
    if axis is None:
        chains, center = 1.0, flat
    else:
        chains, center = jax.lax.psum(jnp.ones((), flat.dtype), axis), jax.lax.pmean(flat, axis)
    count = m.count + chains
    inner, outer = flat - center, center - m.mean
    product = (lambda a, b: a[:, None] * b[None, :]) if m.square.ndim == 2 else (lambda a, b: a * b)
    spread = product(inner, inner)
    spread = spread if axis is None else jax.lax.psum(spread, axis)
    square = m.square + spread + product(outer, outer) * (m.count * chains / count)
    return _Moments(count, m.mean + outer * (chains / count), square)


def _covariance(m: _Moments):
    # Shrunk a little towards a small multiple of the identity, as in Stan.
    n = m.count
    eye = jnp.eye(m.mean.size, dtype=m.mean.dtype) if m.square.ndim == 2 else 1.0
    return n / (n + 5) * m.square / jnp.maximum(n - 1, 1) + 1e-3 * 5 / (n + 5) * eye


@functools.partial(jax.jit, static_argnames=("num", "metric", "axis"))
def _tune(key, kernel, x, target, *, num, metric, axis):
    began = state = d.start(kernel, x, fold_in(key, d.INIT))
    flat, unravel = ravel_pytree(state.position)
    dtype = k.dtype_of(state.position)
    size = (flat.size, flat.size) if metric == "dense" else (flat.size,)
    empty = _Moments(jnp.zeros((), dtype), jnp.zeros(flat.size, dtype), jnp.zeros(size, dtype))
    microcanonical = type(kernel).__name__ == "MCLMC"

    def shape(numbers):
        # The metric in the form that the kernel takes, from variances or a Cholesky factor.
        if metric == "dense":
            return replace(DenseMetric(np.eye(1)), factor=numbers)
        return unravel(numbers.astype(flat.dtype))

    def kernel_at(log_step, numbers):
        changes: dict[str, Any] = {"step_size": jnp.exp(log_step)}
        if metric is not None:
            changes["metric"] = shape(numbers)
        return replace(kernel, **changes)

    def warming(log_step, numbers):
        now = kernel_at(log_step, numbers)
        if hasattr(kernel, "max_steps"):
            now = replace(now, max_steps=jnp.minimum(kernel.max_steps, WARM_STEPS))
        return now

    def body(carry, inputs):
        state, averaging, moments, numbers = carry
        step_key, collect, end = inputs
        now = warming(averaging.log_step, numbers)
        state, info = now.step(step_key, state)
        accept = info.accept
        if microcanonical:
            accept = 1 / (1 + info.aux**2 / (ENERGY_VARIANCE * flat.size))
        accept = jnp.where(jnp.isfinite(accept) & ~info.diverged, accept, 0).astype(dtype)
        accept = accept if axis is None else jax.lax.pmean(accept, axis)
        averaging = _average(averaging, accept, target)
        if metric is None:
            return (state, averaging, moments, numbers), None
        new = _collect(moments, ravel_pytree(state.position)[0].astype(dtype), axis)
        moments = _tree.where(collect, new, moments)

        def close(_):
            covariance = _covariance(moments)
            fresh = jnp.linalg.cholesky(covariance) if metric == "dense" else covariance
            fresh = jnp.where(jnp.all(jnp.isfinite(fresh)), fresh, numbers)
            return _averaging(averaging.log_mean), _tree.zeros_like(moments), fresh

        def go_on(_):
            return averaging, moments, numbers

        averaging, moments, numbers = jax.lax.cond(end, close, go_on, None)
        return (state, averaging, moments, numbers), None

    numbers = jnp.eye(flat.size, dtype=dtype) if metric == "dense" else jnp.ones(flat.size, dtype)
    log_step = jnp.log(jnp.asarray(kernel.step_size, dtype))
    carry = k.vary((state, _averaging(log_step), empty, numbers), *(() if axis else (key, state, kernel)))
    keys = jax.vmap(fold_in, (None, 0))(key, jnp.arange(num))
    (state, averaging, _, numbers), _ = jax.lax.scan(body, carry, (keys, *windows(num)))
    return kernel_at(averaging.log_mean, numbers), state.position, d.logdensity_of(began)


@functools.partial(jax.jit, static_argnames=("num", "axis"))
def _tune_length(key, kernel, x, *, num, axis):
    # MCLMC: the length is 0.4 times the distance travelled per effective draw, averaged over coordinates; the steps per
    # effective draw from the variance of the means of BATCHES batches, so that nothing is stored.
    state = d.start(kernel, x, fold_in(key, d.INIT))
    zero = jnp.zeros(_tree.size(state.position), k.dtype_of(state.position))
    empty = _Moments(jnp.zeros((), zero.dtype), zero, zero)
    size = max(num // BATCHES, 1)

    def batch(carry, i):
        state, moments, means = carry

        def step(carry, j):
            state, moments, total = carry
            state, _ = kernel.step(fold_in(key, i * size + j), state)
            flat = ravel_pytree(state.position)[0].astype(zero.dtype)
            return (state, _collect(moments, flat, axis), total + flat), None

        first = k.vary((state, moments, zero), state)
        (state, moments, total), _ = jax.lax.scan(step, first, jnp.arange(size))
        return (state, moments, _collect(means, total / size, axis)), None

    carry = (k.vary(state, key, kernel), *k.vary((empty, empty), *(() if axis else (key, state, kernel))))
    (state, moments, means), _ = jax.lax.scan(batch, carry, jnp.arange(BATCHES))
    spread = moments.square / moments.count
    steps = jnp.mean(size * (means.square / (means.count - 1)) / jnp.where(spread > 0, spread, jnp.inf))
    length = 0.4 * kernel.step_size * jnp.clip(steps, 1, num)
    return replace(kernel, length=jnp.where(jnp.isfinite(length), length, kernel.length)), state.position


def tune(
    key: Any,
    kernel: Any,
    x: Any,
    num: int = 1000,
    *,
    chains: int | None = None,
    target: Any = None,
    metric: str | None = "diagonal",
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
        num: warm-up steps (static); below 20 the metric is left alone.
        chains: number of chains over the leading axis of x, or None for one chain.
        target: acceptance to aim for; default by kernel: MALA 0.574, Barker 0.5, RandomWalk 0.234, HMC and NUTS 0.8,
            GHMC 0.9.
        metric: "diagonal", "dense" or None to leave it as it is.
        axis_name: a mapped axis of chains (your own `vmap` or `shard_map`) to share over.

    Returns:
        `(kernel, x)`: the tuned kernel, and the last position (of every chain).

    Raises:
        TypeError: for a kernel without a step size or without an accept step.
        ValueError: for counts below 1, an unknown metric, a target outside (0, 1) or a non-finite log-density at a
            concrete start.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.MALA(lambda x: -jnp.sum((x / 5) ** 2) / 2)
        >>> kernel, x = mcmc.tune(jax.random.key(0), kernel, jnp.zeros((4, 3)), 200, chains=4)
        >>> kernel.metric.shape, x.shape
        ((3,), (4, 3))

    Cost:
        num steps per chain; memory two vectors, or one matrix when dense.

    References:
        Hoffman and Gelman, "The No-U-Turn Sampler", 2014, arXiv:1111.4246 (dual averaging); Carpenter et al., "Stan",
        2017 (windows).
    """
    kernel = d.as_kernel(kernel)
    who = type(kernel).__name__
    _checks.check_key(key, "tune")
    _checks.check_count("tune: num", num)
    _checks.check_choice("tune: metric", metric, ("diagonal", "dense", None))
    if not hasattr(kernel, "step_size"):
        raise TypeError(f"tune: {who} has no step_size to tune.")
    if target is None:
        if who not in TARGETS:
            raise TypeError(
                f"tune: {who} has no acceptance probability to tune by. Tune MALA or GHMC, copy its numbers."
            )
        target = TARGETS[who]
    _checks.check_number("tune: target", target, low=0, high=1, open_low=True)
    if not hasattr(kernel, "metric"):
        metric = None
    if who == "Barker" and metric == "dense":
        raise ValueError("tune: Barker moves per coordinate; use metric='diagonal'.")

    if who == "MCLMC":
        size = _tree.size(jax.tree.map(jnp.asarray, x)) // (chains or 1)
        kernel = replace(kernel, length=np.float32(np.sqrt(size)))

    def run(key, x, axis):
        last = num // 5 if who == "MCLMC" and num >= 200 else 0
        tuned, x, first = _tune(key, kernel, x, target, num=num - last, metric=metric, axis=axis)
        if last:
            tuned, x = _tune_length(jax.random.fold_in(key, num), tuned, x, num=last, axis=axis)
        return tuned, x, first

    if chains is None:
        tuned, last, first = run(key, x, axis_name)
    else:
        _checks.check_count("tune: chains", chains)
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
        if sizes != {(chains,)}:
            raise ValueError(f"tune: with chains={chains}, x needs that leading axis; got {sorted(sizes)}.")
        axis = axis_name or "jsamp_chains"
        tuned, last, first = jax.vmap(lambda key, x: run(key, x, axis), out_axes=(None, 0, 0), axis_name=axis)(
            jax.random.split(key, chains), x
        )
    d.check_finite("tune", first)
    return tuned, last
