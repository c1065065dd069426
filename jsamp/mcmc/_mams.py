"""Microcanonical trajectories with an accept step."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._mesh import vary
from jsamp._core._pytree import pytree, replace
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._hamiltonian import HMCInfo, LongMoves, Trajectory, nowhere, number_of_steps
from jsamp.mcmc._metric import pull, push
from jsamp.mcmc._microcanonical import turn, unit


@pytree
class MAMS(LongMoves):
    """Make `MCLMC` exact: the Metropolis-adjusted microcanonical sampler.

    Every draw starts in a fresh direction u, |u| = 1, moves at unit speed for a distance that varies from draw to draw
    as that of `HMC` does (mean `length`), in steps of turn, drift, turn, and is accepted with log ratio
    l(y) - l(x) - K, K the (d - 1) log(cosh delta + e.u sinh delta) summed over the turns: what the turns do to volume.
    Steps may be longer than those of HMC in many dimensions. Best acceptance is near 0.9.

    `tune` finds the step size and the metric, and starts from the length pi / 2 sqrt(d) that suits a whitened target;
    with `length="chees"` it learns that too.

    Args:
        logdensity: log-density of one sample up to a constant.
        step_size: distance per step > 0, in whitened units.
        length: mean distance per draw > 0.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`.
        max_steps: bound on the steps of one draw, a leaf.
        jitter: False fixes the distance at `length` (static).

    Raises:
        TypeError: for a position below float32.
        ValueError: for numbers that are not positive, a metric that does not fit x, or fewer than two dimensions.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.MAMS(lambda x: -jnp.sum(x**2) / 2, step_size=0.5, length=2.0)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 10).x.shape
        (10, 3)

    Cost:
        About length / step_size gradients per draw. Not reverse-differentiable.

    References:
        Robnik, Cohn-Gordon and Seljak, "Metropolis adjusted microcanonical Hamiltonian Monte Carlo", 2025,
        arXiv:2503.01707.
    """

    accept_target = 0.9

    def init(self, x, key=None):
        """Start at x; the memory counts draws."""
        if _tree.size(k.begin(self, x)) < 2:
            raise ValueError("MAMS: the target needs at least two dimensions, x has one. Use HMC.")
        return super().init(x)

    def before_tuning(self, x):
        """Set the length that suits a whitened target like x."""
        return replace(self, length=math.pi / 2 * jnp.sqrt(jnp.asarray(_tree.size(x), k.dtype_of(x))))

    def trajectory(self, key, state):
        """Run one trajectory, and leave the decision to others."""
        x, point, count = state
        noise, log_uniform = k.noise(key, x)
        steps = number_of_steps(self, count)

        def move(i, carry):
            x, u, now, work, inside = carry
            u, first = turn(u, pull(self.metric, now.grad), self.step_size / 2)
            x = k.axpy(self.step_size, push(self.metric, u), x)
            now = k.evaluate(self, x)
            u, second = turn(u, pull(self.metric, now.grad), self.step_size / 2)
            work = (work + first + second).astype(work.dtype)
            return x, u, now, work, inside.add(i, now.logdensity - point.logdensity - work)

        zero = jnp.zeros((), k.dtype_of(x))
        start = vary((x, k.like(unit(noise), x), point, zero, nowhere(zero.dtype)), key, state, self)
        y, u, end, work, inside = jax.lax.fori_loop(0, steps, move, start)
        log_ratio = end.logdensity - point.logdensity - work
        energy = jnp.where(jnp.isnan(log_ratio), zero, -log_ratio)
        proposed = k.State(y, end, count + 1)
        aux = HMCInfo(energy, steps, inside.accept(steps))
        return Trajectory(proposed, u, steps * self.step_size, log_ratio, log_uniform, aux)
