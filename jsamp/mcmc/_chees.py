"""The length of trajectories, learned from chains that run side by side (ChEES)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._mesh import vary
from jsamp._core._pytree import replace
from jsamp._core._random import fold_in
from jsamp._core._types import Key
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._drive import INIT
from jsamp.mcmc._dual import Averaging, average, averaging, mean_accept
from jsamp.mcmc._hamiltonian import decide
from jsamp.mcmc._metric import whiten

RATE, FORGET = 0.025, 0.95  # of Adam, without momentum, on the log length: as in the paper


class _Learning(NamedTuple):
    """Hold where learning is: a chain, and the numbers that chains share."""

    state: Any
    nfe: Any
    averaging: Averaging
    log_length: Any
    mean_log_length: Any
    square: Any


def slope(kernel: Any, before: Any, trajectory: Any, accept: Any, axis: str) -> jax.Array:
    """The derivative, by the log of the length, of the mean of (|z' - m'|^2 - |z - m|^2)^2 / 4 over the chains.

    z and z' are the whitened ends of a trajectory, weighted by its acceptance.
    """
    start, end = whiten(kernel.metric, before.position), whiten(kernel.metric, trajectory.proposed.position)
    good = _tree.all_finite((end, trajectory.velocity, trajectory.time))
    weight = jnp.where(good, accept, 0)
    end, velocity = _tree.where(good, (end, trajectory.velocity), (start, _tree.zeros_like(start)))
    total = jax.lax.psum(weight, axis)
    share = weight / jnp.where(total > 0, total, 1)
    centre = jax.tree.map(lambda leaf: jax.lax.psum(share * leaf, axis), end)
    start = jax.tree.map(lambda leaf: leaf - jax.lax.pmean(leaf, axis), start)
    end = jax.tree.map(jnp.subtract, end, centre)
    change = _tree.dot(end, end) - _tree.dot(start, start)
    return jax.lax.psum(share * trajectory.time * change * _tree.dot(end, velocity), axis)


@functools.partial(jax.jit, static_argnames=("num", "axis"))
def learn_length(key: Key, kernel: Any, x: Any, target: Any, *, num: int, axis: str) -> tuple[Any, Any, Any]:
    """Learn length and step size of one of the mapped chains: (kernel, position, evaluations)."""
    dtype = k.dtype_of(x)
    target = jnp.asarray(target, dtype)

    def body(w, inputs):
        count, step_key = inputs
        now = replace(kernel, step_size=jnp.exp(w.averaging.log_step), length=jnp.exp(w.log_length))
        trajectory = now.trajectory(step_key, w.state)
        state, info = decide(trajectory, w.state)
        driven = average(w.averaging, mean_accept(now, w.state, info, target, axis, dtype), target)
        gain = slope(now, w.state, trajectory, info.accept, axis)
        square = FORGET * w.square + (1 - FORGET) * gain**2
        size = jnp.sqrt(square / (1 - FORGET**count))
        log_length = w.log_length + RATE * gain / jnp.where(size > 0, size, 1)
        log_length = jnp.clip(log_length, step, step + jnp.log(jnp.asarray(kernel.max_steps, dtype)))
        weight = count**-0.75
        mean = weight * log_length + (1 - weight) * w.mean_log_length
        return _Learning(state, w.nfe + protocol.measures(info, dtype)[1], driven, log_length, mean, square), None

    began = protocol.start(kernel, x, fold_in(key, INIT))
    state, nfe = vary((began, jnp.zeros((), jnp.int32)), key, began, kernel)
    step, length = (jnp.log(jnp.asarray(number, dtype)) for number in (kernel.step_size, kernel.length))
    # The step size is known but for what the length changes: no excursion to ten times its size.
    zero = jnp.zeros((), dtype)
    driven = averaging(step, protocol.tuning_of(kernel).damping)._replace(center=step)
    first = _Learning(state, nfe, driven, length, zero, zero)
    keys = jax.vmap(fold_in, (None, 0))(key, jnp.arange(num))
    counts = jnp.arange(1, num + 1).astype(dtype)
    w, _ = jax.lax.scan(body, first, (counts, keys))
    numbers = {"step_size": jnp.exp(w.averaging.log_mean), "length": jnp.exp(w.mean_log_length)}
    return replace(kernel, **numbers), w.state.position, w.nfe
