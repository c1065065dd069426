"""Hamiltonian Monte Carlo with a quasi-random trajectory length, and the leapfrog step shared with NUTS and GHMC."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _fields, _tree
from jsamp._core._checks import check_flag
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree, replace, static
from jsamp._core._types import LogDensity, Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._metric import pull, push

JITTER = 0.6  # relative half width of the integration times
DIVERGENCE = 1000.0  # energy error beyond which a trajectory counts as divergent
WARM_STEPS = 50  # leapfrog bound of a draw while the step size and the metric are still guesses


class HMCInfo(NamedTuple):
    """Hold the extras of a Hamiltonian step: energy at the draw (for E-BFMI), leapfrog steps, depth or trajectory.

    `inside` is the acceptance of the part of an HMC or MAMS trajectory that lies in the support: what `tune` looks at,
    since no step size keeps a trajectory of fixed length from meeting a wall.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.HMCInfo(energy=1.0, steps=4).steps
        4
    """

    energy: Any
    steps: Any
    inside: Any = None


class Inside(NamedTuple):
    """Hold how many steps of a trajectory lie in the support before it leaves, and the log ratio of the last one."""

    steps: Any
    log_ratio: Any

    def add(self, i: Any, log_ratio: Any) -> Inside:
        """Take in step number i."""
        still = (self.steps == i) & jnp.isfinite(log_ratio)
        return Inside(self.steps + still, jnp.where(still, log_ratio, self.log_ratio).astype(self.log_ratio.dtype))

    def accept(self, steps: Any) -> jax.Array:
        """The acceptance at the last step inside, shared with the rejected step out of the support, if any."""
        share = jnp.where(self.steps == steps, 1.0, self.steps / (self.steps + 1))
        return share * jnp.exp(jnp.minimum(self.log_ratio, 0))


def nowhere(dtype: Any) -> Inside:
    """Begin a trajectory, before its first step."""
    return Inside(jnp.zeros((), jnp.int32), jnp.zeros((), dtype))


def leapfrog(kernel: Any, x: Any, r: Any, grad: Any, eps: Any) -> tuple[Any, Any, k.Point]:
    """One velocity-Verlet step in whitened momenta r = L^T p: one model call."""
    r = k.axpy(eps / 2, pull(kernel.metric, grad), r)
    x = k.axpy(eps, push(kernel.metric, r), x)
    point = k.evaluate(kernel, x)
    return x, k.axpy(eps / 2, pull(kernel.metric, point.grad), r), point


def energy_of(logdensity: Any, r: Any) -> jax.Array:
    """Total energy of a position of log-density l and a whitened momentum r: -l + |r|^2 / 2."""
    return _tree.dot(r, r) / 2 - logdensity


def radical_inverse(count: jax.Array) -> jax.Array:
    """The base-2 van der Corput point of a counter, in (0, 1): its bits, reversed."""
    bits = count.astype(jnp.uint32) + jnp.uint32(1)
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        mask = jnp.uint32(mask)
        bits = ((bits >> shift) & mask) | ((bits & mask) << shift)
    bits = (bits >> 16) | (bits << 16)
    return (bits >> 8).astype(jnp.float32) / jnp.float32(2**24)


class Trajectory(NamedTuple):
    """Hold a trajectory before the decision: the state at its end, the whitened velocity there, and its length."""

    proposed: Any
    velocity: Any
    time: Any
    log_ratio: Any
    log_uniform: Any
    aux: HMCInfo


def number_of_steps(kernel: Any, count: Any) -> jax.Array:
    """Leapfrog steps of trajectory number `count`: its share of the kernel's length, by the van der Corput sequence."""
    share = 1 - JITTER + 2 * JITTER * radical_inverse(count) if kernel.jitter else 1.0
    # A hair below the quotient, so that length = n * step_size gives n steps in float32.
    wanted = jnp.ceil(share * kernel.length / kernel.step_size * (1 - 1e-6))
    return jnp.clip(wanted, 1, kernel.max_steps).astype(jnp.int32)


def decide(t: Trajectory, state: Any) -> tuple[Any, Any]:
    """Accept or reject the end of a trajectory: (state, info)."""
    moved, accept, bad = k.accept_step(t.log_uniform, t.log_ratio, t.proposed, state)
    bad = bad | (t.log_ratio < -DIVERGENCE)  # its acceptance stays as it is: exp(-1000) is nothing already
    info = k.info(state.position, accept=accept, nfe=t.aux.steps, diverged=bad, aux=t.aux)
    return moved._replace(memory=t.proposed.memory), info


@pytree
class LongMoves:
    """Kernels that run a trajectory of varying length and accept or reject its end: what HMC and MAMS share."""

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    length: Scalar = field(default=1.5707963, convert=k.positive)
    metric: Tree = field(default=None, convert=k.metric)
    max_steps: Scalar = field(default=1000, convert=k.between(low=1, high=2**31 - 1))
    jitter: bool = static(default=True, convert=check_flag)

    caches = "gradient"

    def init(self, x, key=None):
        """Start at x; the memory counts draws."""
        x = k.begin(self, x)
        return k.State(x, k.evaluate(self, x), jnp.zeros((), jnp.int32))

    def while_tuning(self):
        """Bound the trajectories while the step size is a guess."""
        return replace(self, max_steps=jnp.minimum(self.max_steps, WARM_STEPS))

    def accept_statistic(self, info, x):
        """The acceptance of what lies in the support."""
        return info.aux.inside

    def step(self, key, state):
        """Run one trajectory and accept or reject its end."""
        return decide(self.trajectory(key, state), state)  # pyright: ignore[reportAttributeAccessIssue] (each has its own)


@pytree
class HMC(LongMoves):
    """Run leapfrog trajectories of varying length, accepted on the energy change: Hamiltonian Monte Carlo.

    Step i integrates for a time T = (0.4 + 1.2 u_i) `length`, u_i the van der Corput sequence of the step count, in
    L = ceil(T / step_size) leapfrog steps, at least one and at most `max_steps`. A fixed length resonates (it can cut
    the effective sample size by a thousand at a healthy acceptance), so it is an option, not the default. The range is
    a compromise: a wider one is safer against resonance, a narrower one spends less on short and on returning paths.
    Because the sequence depends on the count and not on the key, vmapped chains take the same number of steps and
    none waits for another. Units of length are those of the whitened position: pi / 2 suits a tuned metric.

    Args:
        logdensity: log-density of one sample up to a constant.
        step_size: leapfrog step > 0.
        length: mean integration time > 0.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`: the inverse mass matrix.
        max_steps: bound on the leapfrog steps of one draw, a leaf.
        jitter: False fixes the time at `length` (static).

    Raises:
        TypeError: for a position below float32.
        ValueError: for numbers that are not positive, or a metric that does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.HMC(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        L gradients per draw, about length / step_size on average. Not reverse-differentiable.

    References:
        Duane et al., "Hybrid Monte Carlo", 1987; Neal, "MCMC using Hamiltonian dynamics", 2011, arXiv:1206.1901;
        Hoffman, Radul and Sountsov, "An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
        Carlo", 2021 (quasi-random lengths).
    """

    accept_target = 0.8

    def trajectory(self, key, state):
        """Run one trajectory, and leave the decision to others."""
        x, point, count = state
        r, log_uniform = k.noise(key, x)
        steps = number_of_steps(self, count)

        before = energy_of(point.logdensity, r)

        def move(i, carry):
            x, r, point, inside = carry
            x, r, point = leapfrog(self, x, r, point.grad, self.step_size)
            return x, r, point, inside.add(i, before - energy_of(point.logdensity, r))

        start = vary((x, r, point, nowhere(k.dtype_of(x))), key, state, self)
        y, velocity, end, inside = jax.lax.fori_loop(0, steps, move, start)
        after = energy_of(end.logdensity, velocity)
        energy = jnp.where(jnp.isnan(after), before, after)
        proposed = k.State(y, end, count + 1)
        aux = HMCInfo(energy, steps, inside.accept(steps))
        return Trajectory(proposed, velocity, steps * self.step_size, before - after, log_uniform, aux)
