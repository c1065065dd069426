"""Underdamped Langevin kernels: BAOAB, OBABO, GHMC."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _fields, _tree
from jsamp._core._pytree import field, pytree
from jsamp._core._types import LogDensity, Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._hamiltonian import DIVERGENCE, HMCInfo, energy_of, leapfrog
from jsamp.mcmc._metric import pull, push


def _begin(kernel, x, key, metropolis):
    x = k.begin(kernel, x, metropolis=metropolis)
    r = _tree.zeros_like(x) if key is None else _tree.normal_like(jax.random.fold_in(key, 0), x)
    return k.State(x, k.evaluate(kernel, x), r)


def _refresh_momentum(noise, r, rate):
    # Exact Ornstein-Uhlenbeck over `rate` = friction * time.
    keep, kick = jnp.exp(-rate), jnp.sqrt(-jnp.expm1(-2 * rate))
    return jax.tree.map(lambda r, n: (keep * r + kick * n).astype(r.dtype), r, noise)


@pytree
class _Splitting:
    """Underdamped Langevin without an accept step: what its splittings share."""

    logdensity: LogDensity | None = field(default=None, convert=_fields.callable_as("logdensity(x)", optional=True))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    friction: Scalar = field(default=1.0, convert=k.between(low=0))
    metric: Tree = field(default=None, convert=k.metric)
    score: Any = field(default=None, convert=_fields.callable_as("score(x)", optional=True))

    caches = "gradient"

    def __post_init__(self):
        k.one_of_two(self)

    def init(self, x, key=None):
        """Start at x; the momentum is drawn with a key, zero without."""
        return _begin(self, x, key, False)


@pytree
class BAOAB(_Splitting):
    """Run underdamped Langevin by the BAOAB splitting: exact positions on a Gaussian, second order elsewhere.

    Half kick, half drift, Ornstein-Uhlenbeck, half drift, half kick, with the momentum in whitened coordinates.
    On N(0, s^2) the position variance is s^2 exactly for every step_size < 2 s (the momentum's is not).

    Args:
        logdensity: log-density of one sample up to a constant; or
        score: its gradient. Give exactly one.
        step_size: time step > 0.
        friction: rate >= 0 at which momenta are refreshed.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`: the inverse mass matrix.

    Raises:
        ValueError: for a step size that is not positive, negative friction, or a metric that does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.BAOAB(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One gradient per step; memory one momentum.

    References:
        Leimkuhler and Matthews, "Rational construction of stochastic numerical methods for molecular sampling", 2013,
        arXiv:1203.5428.
    """

    def step(self, key, state):
        """Take one splitting step."""
        x, point, r = state
        h = self.step_size
        r = k.axpy(h / 2, pull(self.metric, point.grad), r)
        x = k.axpy(h / 2, push(self.metric, r), x)
        r = _refresh_momentum(_tree.normal_like(key, r), r, self.friction * h)
        x = k.axpy(h / 2, push(self.metric, r), x)
        point = k.evaluate(self, x)
        r = k.axpy(h / 2, pull(self.metric, point.grad), r)
        return k.State(x, point, r), k.info(x, diverged=k.astray(point))


@pytree
class OBABO(_Splitting):
    """Run underdamped Langevin by the OBABO splitting: exact momenta on a Gaussian, second order in positions.

    Half refreshment, one leapfrog step, half refreshment. On N(0, s^2) with unit mass the position variance is
    s^2 / (1 - h^2 / (4 s^2)). With an accept step it becomes `GHMC`.

    Args:
        logdensity: log-density of one sample up to a constant; or
        score: its gradient. Give exactly one.
        step_size: time step > 0.
        friction: rate >= 0 at which momenta are refreshed.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`: the inverse mass matrix.

    Raises:
        ValueError: for a step size that is not positive, negative friction, or a metric that does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.OBABO(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One gradient per step; memory one momentum.

    References:
        Bussi and Parrinello, "Accurate sampling using Langevin dynamics", 2007, arXiv:0803.4083.
    """

    def step(self, key, state):
        """Take one splitting step."""
        x, point, r = state
        (before, after), _ = k.noise(key, (r, r))
        rate = self.friction * self.step_size / 2
        r = _refresh_momentum(before, r, rate)
        x, r, point = leapfrog(self, x, r, point.grad, self.step_size)
        r = _refresh_momentum(after, r, rate)
        return k.State(x, point, r), k.info(x, diverged=k.astray(point))


@pytree
class GHMC:
    """Refresh part of the momentum, take one leapfrog step, accept or flip: generalised HMC. Exact.

    r <- e^(-friction h) r + sqrt(1 - e^(-2 friction h)) xi, leapfrog, accepted on the change of energy; a rejection
    reverses the momentum. The invariant law is the target times N(0, I) for the whitened momentum.

    Args:
        logdensity: log-density of one sample up to a constant.
        step_size: time step > 0.
        friction: rate >= 0 at which momenta are refreshed.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`: the inverse mass matrix.

    Raises:
        TypeError: for a position below float32.
        ValueError: for a step size that is not positive, negative friction, or a metric that does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.GHMC(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One gradient per step; memory one momentum.

    References:
        Horowitz, "A generalized guided Monte Carlo algorithm", 1991.
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    friction: Scalar = field(default=1.0, convert=k.between(low=0))
    metric: Tree = field(default=None, convert=k.metric)

    caches = "gradient"
    accept_target = 0.9

    def init(self, x, key=None):
        """Start at x; the momentum is drawn with a key, zero without."""
        return _begin(self, x, key, True)

    def step(self, key, state):
        """Refresh the momentum, propose a leapfrog step and accept or reject it."""
        x, point, r = state
        kick, log_uniform = k.noise(key, r)
        r = _refresh_momentum(kick, r, self.friction * self.step_size)
        before = energy_of(point.logdensity, r)
        y, s, end = leapfrog(self, x, r, point.grad, self.step_size)
        after = energy_of(end.logdensity, s)
        stay = k.State(x, point, jax.tree.map(jnp.negative, r))
        state, accept, bad = k.accept_step(log_uniform, before - after, k.State(y, end, s), stay)
        bad = bad | (after - before > DIVERGENCE)
        aux = HMCInfo(jnp.where(jnp.isnan(after), before, after), jnp.ones((), jnp.int32))
        return state, k.info(x, accept=accept, diverged=bad, aux=aux)
