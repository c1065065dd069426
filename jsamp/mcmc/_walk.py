"""Kernels without gradients: random walk, independent proposals, slice, elliptical slice."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields, _tree
from jsamp._core._like import match
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree
from jsamp._core._types import LogDensity, Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._metric import check_metric, push


@pytree
class RandomWalk:
    """Propose y = x + step_size A^(1/2) xi and accept or reject: random-walk Metropolis.

    Args:
        logdensity: log-density of one sample up to a constant; no gradient is taken.
        step_size: proposal standard deviation > 0; about 2.38 / sqrt(d) for a whitened target (acceptance 0.234).
        metric: None, a number, variances (a tree like x) or a `DenseMetric`.

    Raises:
        TypeError: for a position below float32.
        ValueError: for a step size that is not positive, or a metric that does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.RandomWalk(lambda x: -jnp.sum(x**2) / 2, step_size=1.0)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One log-density per step.

    References:
        Roberts, Gelman and Gilks, "Weak convergence and optimal scaling of random walk Metropolis algorithms", 1997.
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    metric: Tree = field(default=None, convert=k.metric)

    caches = "value"
    accept_target = 0.234
    tuning_damping = 0.3

    def init(self, x, key=None):
        """Start at x."""
        x = k.begin(self, x)
        return k.State(x, k.evaluate_value(self.logdensity, x), None)

    def step(self, key, state):
        """Propose a move and accept or reject it."""
        x = state.position
        noise, log_uniform = k.noise(key, x)
        y = self._move(x, noise)
        point = k.evaluate_value(self.logdensity, y)
        log_ratio = point.logdensity - state.cache.logdensity
        state, accept, bad = k.accept_step(log_uniform, log_ratio, k.State(y, point, None), state)
        return state, k.info(x, accept=accept, diverged=bad)

    def propose(self, key, x):
        """Draw a symmetric proposal and its log ratio, zero."""
        return self._move(x, _tree.normal_like(key, x)), jnp.zeros((), k.dtype_of(x))

    def _move(self, x, noise):
        return k.axpy(self.step_size, push(self.metric, noise), x)


@pytree
class IndependentMH:
    """Accept or reject proposals that do not look at where the chain is, such as draws of a fitted law.

    y ~ q is accepted with min(1, w(y) / w(x)), w = target / q. Good when q is wider than the target; where q is too
    narrow the weights are unbounded, and the chain sticks.

    Args:
        logdensity: log-density of one sample up to a constant; no gradient is taken.
        draw: `draw(key) -> y`, a draw of q.
        logproposal: log-density of q up to a constant.

    Raises:
        TypeError: for a position below float32, or draws of another structure or shape than x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> wide = lambda key: 2 * jax.random.normal(key, (3,))
        >>> kernel = js.mcmc.IndependentMH(lambda x: -jnp.sum(x**2) / 2, wide, lambda x: -jnp.sum(x**2) / 8)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 10).x.shape
        (10, 3)

    Cost:
        One draw of q and one log-density of each per step.

    References:
        Tierney, "Markov chains for exploring posterior distributions", 1994.
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    draw: Any = field(convert=_fields.callable_as("draw(key)"))
    logproposal: LogDensity = field(convert=_fields.callable_as("logproposal(x)"))

    def _weight(self, x):
        return k.value(self.logdensity, x) - k.value(self.logproposal, x)

    def init(self, x, key=None):
        """Start at x; the cache holds log w."""
        x = k.position("IndependentMH", x)
        return k.State(x, self._weight(x), None)

    def step(self, key, state):
        """Propose a draw and accept or reject it."""
        draw, decide = jax.random.split(key)
        x, old, _ = state
        y = match("IndependentMH: the draw", k.call(self.draw, draw), x)
        new = self._weight(y)
        log_ratio = new - old
        log_uniform = k.log_uniform(decide, log_ratio.dtype)
        state, accept, bad = k.accept_step(log_uniform, log_ratio, k.State(y, new, None), state)
        return state, k.info(x, accept=accept, diverged=bad)


class SliceInfo(NamedTuple):
    """Say of a slice step whether it ended inside the slice before its bound.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.SliceInfo(found=True).found
        True
    """

    found: Any


LEFT, RIGHT, SHRINK, DONE = range(4)  # phases of a search: step the left end out, then the right one, then shrink
TRIES = 100  # shrinkings before a search gives up


class _Bracket(NamedTuple):
    low: Any
    high: Any
    lefts: Any  # widths that the left end may still step out
    rights: Any
    phase: Any
    tries: Any
    y: Any  # the last point tried
    logdensity: Any


@pytree
class Slice:
    """Sample the slice along a random direction: no step size to tune, only a width of the right order.

    Draw a height under the density, a direction L xi / |xi|, step out an interval of `width` until both ends lie
    outside the slice (at most `max_steps` widths, shared at random between the sides), then shrink it.
    Stepping out and shrinking are one loop with one call of the log-density.

    Args:
        logdensity: log-density of one sample up to a constant; no gradient is taken.
        width: initial width > 0 of the interval.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`, for the direction.
        max_steps: bound on the widths stepped out; shrinking stops after 100 tries (and stays put).

    Raises:
        TypeError: for a position below float32.
        ValueError: for numbers that are not positive.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.Slice(lambda x: -jnp.sum(x**2) / 2)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        About 4 to 8 log-densities per step; vmapped chains wait for the slowest.

    References:
        Neal, "Slice sampling", 2003.
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    width: Scalar = field(default=2.0, convert=k.positive)
    metric: Tree = field(default=None, convert=k.metric)
    max_steps: Scalar = field(default=20, convert=k.between(low=1, high=2**30))

    caches = "value"

    def init(self, x, key=None):
        """Start at x."""
        x = k.begin(self, x)
        return k.State(x, k.evaluate_value(self.logdensity, x), None)

    def step(self, key, state):
        """Step out and shrink along a random direction."""
        aim, draw, inside = jax.random.split(key, 3)
        x = state.position
        xi = _tree.normal_like(aim, x)
        norm = jnp.sqrt(_tree.dot(xi, xi))
        line = push(self.metric, jax.tree.map(lambda n: n / norm, xi))
        dtype = k.dtype_of(x)
        height, offset, share = jax.random.uniform(draw, (3,), dtype, minval=jnp.finfo(dtype).tiny)
        level = state.cache.logdensity + jnp.log(height)
        first = self._bracket(offset, share, x, state.cache.logdensity, dtype)

        def search(b):
            u = jax.random.uniform(jax.random.fold_in(inside, b.tries), (), dtype)
            s = jnp.where(b.phase == LEFT, b.low, jnp.where(b.phase == RIGHT, b.high, b.low + u * (b.high - b.low)))
            y = k.axpy(s, line, x)
            return self._narrow(b, s, y, k.value(self.logdensity, y), level)

        bound = jnp.asarray(self.max_steps, jnp.int32) + TRIES + 2
        first = vary(first, key, state, self)
        end = jax.lax.while_loop(lambda b: (b.phase < DONE) & (b.tries < bound), search, first)
        found = end.phase == DONE
        proposed = k.State(end.y, k.Point(end.logdensity, None), None)
        bad = jnp.isnan(end.logdensity) | ~found
        return _tree.where(found, proposed, state), k.info(x, nfe=end.tries, diverged=bad, aux=SliceInfo(found))

    def _bracket(self, offset, share, x, logdensity, dtype):
        """Place an interval of one width around x at random, and share the widths to step out between its sides."""
        width = jnp.asarray(self.width, dtype)
        low = -width * offset
        lefts = jnp.floor(share * self.max_steps).astype(jnp.int32)
        rights = jnp.asarray(self.max_steps, jnp.int32) - 1 - lefts
        zero = jnp.zeros((), jnp.int32)
        return _Bracket(low, low + width, lefts, rights, zero, zero, x, logdensity)

    def _narrow(self, b, s, y, logdensity, level):
        """Step an end out, shrink the interval to s, or go on to the next phase."""
        within = logdensity > level
        left = (b.phase == LEFT) & within & (b.lefts > 0)
        right = (b.phase == RIGHT) & within & (b.rights > 0)
        shrink = (b.phase == SHRINK) & ~within
        low = jnp.where(left, b.low - self.width, jnp.where(shrink & (s < 0), s, b.low)).astype(b.low.dtype)
        high = jnp.where(right, b.high + self.width, jnp.where(shrink & (s >= 0), s, b.high)).astype(b.low.dtype)
        phase = jnp.where(left | right | shrink, b.phase, b.phase + 1)
        return _Bracket(low, high, b.lefts - left, b.rights - right, phase, b.tries + 1, y, logdensity)


class _Arc(NamedTuple):
    low: Any
    high: Any
    angle: Any
    tries: Any
    y: Any  # the last point tried
    loglikelihood: Any
    found: Any


def _check_mean(name, value):
    for leaf in jax.tree.leaves(value):
        _checks.check_number(name, leaf)


@pytree
class EllipticalSlice:
    """Sample a Gaussian prior times a likelihood along ellipses: nothing to tune, never rejects.

    A prior draw nu spans an ellipse through x; an angle is drawn and the bracket shrunk towards x until the
    likelihood exceeds its random threshold.

    Args:
        loglikelihood: log-likelihood of one sample, without the prior.
        covariance: of the prior: a number, variances (a tree like x) or a `DenseMetric`.
        mean: of the prior, a tree like x; None is zero.

    Raises:
        TypeError: for a position below float32.
        ValueError: for a covariance that is not positive or does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.EllipticalSlice(lambda x: -jnp.sum((x - 1) ** 2) / 2, covariance=1.0)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        A few log-likelihoods per step, at most 100; vmapped chains wait for the slowest.

    References:
        Murray, Adams and MacKay, "Elliptical slice sampling", 2010, arXiv:1001.0175.
    """

    loglikelihood: LogDensity = field(convert=_fields.callable_as("loglikelihood(x)"))
    covariance: Tree = field(default=1.0, convert=k.metric)
    mean: Tree = field(default=None, check=_check_mean)

    def init(self, x, key=None):
        """Start at x; the cache holds the log-likelihood."""
        x = k.position("EllipticalSlice", x)
        check_metric("EllipticalSlice: covariance", self.covariance, x)
        self._mean(x)
        return k.State(x, k.value(self.loglikelihood, x), None)

    def _mean(self, x):
        return _tree.zeros_like(x) if self.mean is None else match("EllipticalSlice: mean", self.mean, x)

    def step(self, key, state):
        """Shrink a bracket of angles until the likelihood is high enough."""
        prior, draw, inside = jax.random.split(key, 3)
        x, now, _ = state
        mean = self._mean(x)
        centred = jax.tree.map(jnp.subtract, x, mean)
        nu = push(self.covariance, _tree.normal_like(prior, x))
        height, angle = jax.random.uniform(draw, (2,), now.dtype, minval=jnp.finfo(now.dtype).tiny)
        level, angle = now + jnp.log(height), 2 * jnp.pi * angle

        def shrink(arc):
            cos, sin = jnp.cos(arc.angle), jnp.sin(arc.angle)
            turned = jax.tree.map(lambda c, n, m: c * cos + n * sin + m, centred, nu, mean)
            y = k.like(turned, x)
            value = k.value(self.loglikelihood, y)
            found = value > level
            low = jnp.where(arc.angle < 0, arc.angle, arc.low)
            high = jnp.where(arc.angle < 0, arc.high, arc.angle)
            u = jax.random.uniform(jax.random.fold_in(inside, arc.tries), (), now.dtype)
            return _Arc(low, high, jnp.where(found, arc.angle, low + u * (high - low)), arc.tries + 1, y, value, found)

        first = _Arc(angle - 2 * jnp.pi, angle, angle, jnp.zeros((), jnp.int32), x, now, jnp.zeros((), bool))
        first = vary(first, key, state, self)
        end = jax.lax.while_loop(lambda arc: ~arc.found & (arc.tries < TRIES), shrink, first)
        found = end.found
        state = _tree.where(found, k.State(end.y, end.loglikelihood, None), state)
        return state, k.info(x, nfe=end.tries, diverged=~found, aux=SliceInfo(found))
