"""Dual averaging: the step size that meets an acceptance, and the acceptance of several chains."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp.mcmc import _protocol as protocol


class Averaging(NamedTuple):
    """Hold the state of dual averaging: the log step size now, its average, and what drives it."""

    log_step: Any
    log_mean: Any
    drift: Any
    count: Any
    center: Any
    damping: Any


def averaging(log_step: Any, damping: Any) -> Averaging:
    """Start from a guess, shrinking towards ten times its size, and less far where a larger damping holds it there."""
    zero = jnp.zeros_like(log_step)
    damping = zero + damping
    return Averaging(log_step, zero, zero, zero, log_step + 0.05 * math.log(10.0) / damping, damping)


def average(a: Averaging, accept: Any, target: Any) -> Averaging:
    """Take in one acceptance; gamma is the damping, 0.05 as a rule, with the customary t0 = 10, kappa = 0.75."""
    count = a.count + 1
    rate = 1 / (count + 10)
    drift = (1 - rate) * a.drift + rate * (target - accept)
    log_step = a.center - jnp.sqrt(count) / a.damping * drift
    weight = count**-0.75
    log_mean = weight * log_step + (1 - weight) * a.log_mean
    return a._replace(log_step=log_step, log_mean=log_mean, drift=drift, count=count)


def mean_accept(kernel, before, info, target, axis, dtype):
    """The statistic that drives the step size, averaged over the chains that are inside the support."""
    accept = protocol.accept_statistic(kernel, info, before.position).astype(dtype)
    held = protocol.logdensity_in(before)
    inside = jnp.ones((), dtype) if held is None else jnp.isfinite(held).astype(dtype)
    if axis is not None:
        accept, inside = jax.lax.psum(accept * inside, axis), jax.lax.psum(inside, axis)
    # A chain that stands outside accepts nothing, whatever the step: nothing is learned from it.
    return jnp.where(inside > 0, accept / jnp.maximum(inside, 1), target)
