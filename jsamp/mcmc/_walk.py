"""Kernels without gradients: random walk, independent proposals, slice, elliptical slice."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._pytree import pytree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._metric import check_metric, push


@pytree
class RandomWalk:
    """Random-walk Metropolis: y = x + step_size A^(1/2) xi.

    Args:
        logdensity: log-density of one sample up to a constant; no gradient is taken.
        step_size: proposal standard deviation > 0; about 2.38 / sqrt(d) for a whitened target (acceptance 0.234).
        metric: None, a number, variances (a tree like x) or a `DenseMetric`.

    Raises:
        TypeError: for a position below float32.
        ValueError: for a step size that is not positive, or a metric that does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.RandomWalk(lambda x: -jnp.sum(x**2) / 2, step_size=1.0)
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One log-density per step.

    References:
        Roberts, Gelman and Gilks, "Weak convergence and optimal scaling of random walk Metropolis algorithms", 1997.
    """

    logdensity: Any
    step_size: Any = 0.1
    metric: Any = None

    def __post_init__(self):
        k.prepare(self)
        check_metric("RandomWalk", self.metric)

    def init(self, x, key=None):
        """The state at x."""
        x = k.position("RandomWalk", x)
        check_metric("RandomWalk", self.metric, x)
        return k.State(x, k.Point(k.value(self.logdensity, x), None), None)

    def step(self, key, state):
        """Propose and decide."""
        x = state.position
        noise, log_uniform = k.noise(key, x)
        y = self._move(x, noise)
        ly = k.value(self.logdensity, y)
        proposed = k.State(y, k.Point(ly, None), None)
        state, accept, bad = k.accept_step(log_uniform, ly - state.cache.logdensity, proposed, state)
        return state, k.info(x, accept=accept, diverged=bad)

    def propose(self, key, x):
        """A symmetric proposal and its log ratio, zero."""
        return self._move(x, _tree.normal_like(key, x)), jnp.zeros((), k.dtype_of(x))

    def _move(self, x, noise):
        return k.like(jax.tree.map(lambda x, m: x + self.step_size * m, x, push(self.metric, noise)), x)


@pytree
class IndependentMH:
    """Metropolis-Hastings with proposals that do not look at where the chain is, such as draws of a fitted law.

    y ~ q is accepted with min(1, w(y) / w(x)), w = target / q. Good when q is wider than the target; where q is too
    narrow the weights are unbounded, and the chain sticks.

    Args:
        logdensity: log-density of one sample up to a constant; no gradient is taken.
        propose: `propose(key) -> y`, a draw of q.
        logproposal: log-density of q up to a constant.

    Raises:
        TypeError: for a position below float32, or draws of another structure or shape than x.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> wide = lambda key: 2 * jax.random.normal(key, (3,))
        >>> kernel = mcmc.IndependentMH(lambda x: -jnp.sum(x**2) / 2, wide, lambda x: -jnp.sum(x**2) / 8)
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 10).x.shape
        (10, 3)

    Cost:
        One draw of q and one log-density of each per step.

    References:
        Tierney, "Markov chains for exploring posterior distributions", 1994.
    """

    logdensity: Any
    propose: Any
    logproposal: Any

    def __post_init__(self):
        k.prepare(self, positive=())
        for name, signature in (("propose", "propose(key)"), ("logproposal", "logproposal(x)")):
            object.__setattr__(self, name, k.as_tree(f"IndependentMH: {name}", getattr(self, name), signature))

    def _weight(self, x):
        return k.Point(k.value(self.logdensity, x) - k.value(self.logproposal, x), None)

    def init(self, x, key=None):
        """The state at x; the cache holds log w."""
        x = k.position("IndependentMH", x)
        return k.State(x, self._weight(x), None)

    def step(self, key, state):
        """Propose and decide."""
        draw, decide = jax.random.split(key)
        x, old, _ = state
        y = k.like(self.propose(draw), x)
        new = self._weight(y)
        log_ratio = new.logdensity - old.logdensity
        log_uniform = k.log_uniform(decide, log_ratio.dtype)
        state, accept, bad = k.accept_step(log_uniform, log_ratio, k.State(y, new, None), state)
        return state, k.info(x, accept=accept, diverged=bad)


class SliceInfo(NamedTuple):
    """Extras of a slice step: whether it ended inside the slice before its bound.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.SliceInfo(found=True).found
        True
    """

    found: Any


@pytree
class Slice:
    """Slice sampling along a random direction: no step size to tune, only a width of the right order.

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
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.Slice(lambda x: -jnp.sum(x**2) / 2)
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        About 4 to 8 log-densities per step; vmapped chains wait for the slowest.

    References:
        Neal, "Slice sampling", 2003.
    """

    logdensity: Any
    width: Any = 2.0
    metric: Any = None
    max_steps: Any = 20

    def __post_init__(self):
        k.prepare(self, positive=("width", "max_steps"))
        check_metric("Slice", self.metric)

    def init(self, x, key=None):
        """The state at x."""
        x = k.position("Slice", x)
        check_metric("Slice", self.metric, x)
        return k.State(x, k.Point(k.value(self.logdensity, x), None), None)

    def step(self, key, state):
        """Step out and shrink."""
        aim, draw, inside = jax.random.split(key, 3)
        x = state.position
        xi = _tree.normal_like(aim, x)
        norm = jnp.sqrt(_tree.dot(xi, xi))
        line = push(self.metric, jax.tree.map(lambda n: n / norm, xi))
        dtype = norm.dtype
        height, offset, share = jax.random.uniform(draw, (3,), dtype, minval=jnp.finfo(dtype).tiny)
        level = state.cache.logdensity + jnp.log(height)
        low = -jnp.asarray(self.width, dtype) * offset
        lefts = jnp.floor(share * self.max_steps).astype(jnp.int32)
        rights = jnp.asarray(self.max_steps, jnp.int32) - 1 - lefts
        phase, tries = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)

        def at(s):
            return k.like(jax.tree.map(lambda x, d: x + s * d, x, line), x)

        def body(carry):
            # Phase 0 steps the left end out, 1 the right end, 2 shrinks, 3 is done.
            low, high, lefts, rights, phase, tries, _, _ = carry
            u = jax.random.uniform(jax.random.fold_in(inside, tries), (), dtype)
            s = jnp.where(phase == 0, low, jnp.where(phase == 1, high, low + u * (high - low)))
            y = at(s)
            ly = k.value(self.logdensity, y)
            within = ly > level
            out0 = (phase == 0) & within & (lefts > 0)
            out1 = (phase == 1) & within & (rights > 0)
            shrink = (phase == 2) & ~within
            new_low = jnp.where(out0, low - self.width, jnp.where(shrink & (s < 0), s, low))
            new_high = jnp.where(out1, high + self.width, jnp.where(shrink & (s >= 0), s, high))
            stay = out0 | out1 | shrink
            return (
                new_low.astype(dtype), new_high.astype(dtype), lefts - out0, rights - out1,
                jnp.where(stay, phase, phase + 1), tries + 1, y, ly.astype(dtype),
            )  # fmt: skip

        bound = jnp.asarray(self.max_steps, jnp.int32) + 102
        start = (low, low + self.width, lefts, rights, phase, tries, x, state.cache.logdensity.astype(dtype))
        start = k.vary(start, key, state, self)
        end = jax.lax.while_loop(lambda c: (c[4] < 3) & (c[5] < bound), body, start)
        *_, phase, tries, y, ly = end
        found = phase == 3
        proposed = k.State(y, k.Point(ly.astype(state.cache.logdensity.dtype), None), None)
        return _tree.where(found, proposed, state), k.info(
            x, nfe=tries, diverged=jnp.isnan(ly) | ~found, aux=SliceInfo(found)
        )


@pytree
class EllipticalSlice:
    """Elliptical slice sampling for a Gaussian prior times a likelihood: nothing to tune, never rejects.

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
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.EllipticalSlice(lambda x: -jnp.sum((x - 1) ** 2) / 2, covariance=1.0)
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        A few log-likelihoods per step, at most 100; vmapped chains wait for the slowest.

    References:
        Murray, Adams and MacKay, "Elliptical slice sampling", 2010, arXiv:1001.0175.
    """

    loglikelihood: Any
    covariance: Any = 1.0
    mean: Any = None

    def __post_init__(self):
        tree = k.as_tree("EllipticalSlice: loglikelihood", self.loglikelihood, "loglikelihood(x)")
        object.__setattr__(self, "loglikelihood", tree)
        check_metric("EllipticalSlice", self.covariance)

    def init(self, x, key=None):
        """The state at x."""
        x = k.position("EllipticalSlice", x)
        check_metric("EllipticalSlice", self.covariance, x)
        if self.mean is not None:
            k.like(self.mean, x)
        return k.State(x, k.Point(k.value(self.loglikelihood, x), None), None)

    def step(self, key, state):
        """Shrink an angle bracket until the likelihood is high enough."""
        prior, draw, inside = jax.random.split(key, 3)
        x, point, _ = state
        mean = _tree.zeros_like(x) if self.mean is None else k.like(self.mean, x)
        centred = jax.tree.map(jnp.subtract, x, mean)
        nu = push(self.covariance, _tree.normal_like(prior, x))
        dtype = k.dtype_of(x)
        height, angle = jax.random.uniform(draw, (2,), dtype, minval=jnp.finfo(dtype).tiny)
        level = point.logdensity + jnp.log(height)
        angle = 2 * jnp.pi * angle

        def body(carry):
            low, high, angle, tries, _, _, _ = carry
            cos, sin = jnp.cos(angle), jnp.sin(angle)
            y = k.like(jax.tree.map(lambda c, n, m: c * cos + n * sin + m, centred, nu, mean), x)
            ly = k.value(self.loglikelihood, y)
            found = ly > level
            low, high = jnp.where(angle < 0, angle, low), jnp.where(angle < 0, high, angle)
            u = jax.random.uniform(jax.random.fold_in(inside, tries), (), dtype)
            return low, high, jnp.where(found, angle, low + u * (high - low)), tries + 1, y, ly.astype(dtype), found

        start = (angle - 2 * jnp.pi, angle, angle, jnp.zeros((), jnp.int32), x, point.logdensity.astype(dtype))
        start = k.vary((*start, jnp.zeros((), bool)), key, state, self)
        end = jax.lax.while_loop(lambda c: ~c[6] & (c[3] < 100), body, start)
        *_, tries, y, ly, found = end
        proposed = k.State(y, k.Point(ly.astype(point.logdensity.dtype), None), None)
        return _tree.where(found, proposed, state), k.info(x, nfe=tries, diverged=~found, aux=SliceInfo(found))
