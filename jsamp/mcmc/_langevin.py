"""Overdamped Langevin kernels: ULA, MALA, Barker."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _fields, _tree
from jsamp._core._pytree import field, pytree
from jsamp._core._types import LogDensity, Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._metric import DenseMetric, pull, push


def drift(x: Any, grad: Any, metric: Any, step_size: Any, noise: Any) -> Any:
    """X + h A g + sqrt(2h) L noise, in the dtype of x."""
    h = step_size
    whitened = jax.tree.map(lambda g, n: h * g + jnp.sqrt(2 * h) * n, pull(metric, grad), noise)
    return k.like(jax.tree.map(jnp.add, x, push(metric, whitened)), x)


@pytree
class ULA:
    """Follow the gradient with noise, unadjusted Langevin: one gradient per draw, a bias of order `step_size`.

    x <- x + h A g(x) + sqrt(2 h) A^(1/2) xi with h = `step_size`, A = `metric` and g the gradient of the log-density:
    h is the time step of dX = g dt + sqrt(2) dW. On N(0, s^2) the stationary variance is s^2 / (1 - h / (2 s^2)), and
    the chain is unstable for h >= 2 s^2.

    Args:
        logdensity: log-density of one sample up to a constant, a callable tree or a bare function; or
        score: its gradient. Give exactly one.
        step_size: h > 0.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`.

    Raises:
        ValueError: for a step size that is not positive, both or neither of logdensity and score, or a metric that
            does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.ULA(lambda x: -jnp.sum(x**2) / 2, step_size=0.1)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One gradient per step.

    References:
        Roberts and Tweedie, "Exponential convergence of Langevin distributions and their discrete approximations",
        1996.
    """

    logdensity: LogDensity | None = field(default=None, convert=_fields.callable_as("logdensity(x)", optional=True))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    metric: Tree = field(default=None, convert=k.metric)
    score: Any = field(default=None, convert=_fields.callable_as("score(x)", optional=True))

    caches = "gradient"
    proposal_cost = 2
    time_power = 1.0

    def __post_init__(self):
        k.one_of_two(self)

    def init(self, x, key=None):
        """Start at x."""
        x = k.begin(self, x, metropolis=False)
        return k.State(x, k.evaluate(self, x), None)

    def step(self, key, state):
        """Take one Euler step."""
        x = drift(state.position, state.cache.grad, self.metric, self.step_size, _tree.normal_like(key, state.position))
        point = k.evaluate(self, x)
        return k.State(x, point, None), k.info(x, diverged=k.astray(point))

    def propose(self, key, x):
        """Draw a proposal and its log ratio log q(x | y) - log q(y | x), for `metropolize`."""
        gx = k.evaluate(self, x).grad
        y = drift(x, gx, self.metric, self.step_size, _tree.normal_like(key, x))
        gy = k.evaluate(self, y).grad
        return y, _correction(x, y, gx, gy, self.metric, self.step_size)


def _correction(x, y, gx, gy, metric, h):
    # log q(x|y) - log q(y|x) of a Langevin step, without the cancelling squares and without A^-1.
    move = jax.tree.map(lambda a, b: b - a, x, y)
    wx, wy = pull(metric, gx), pull(metric, gy)
    squares = _tree.dot(jax.tree.map(jnp.subtract, wy, wx), jax.tree.map(jnp.add, wy, wx))
    return -_tree.dot(move, jax.tree.map(jnp.add, gx, gy)) / 2 - h / 4 * squares


@pytree
class MALA:
    """Make `ULA` exact, with a preconditioner: Metropolis-adjusted Langevin.

    y = x + h A g(x) + sqrt(2 h) A^(1/2) xi, accepted with log ratio
    l(y) - l(x) - (y - x).(g(x) + g(y)) / 2 - (h / 4) (g(y)^T A g(y) - g(x)^T A g(x)),
    the usual two-Gaussian ratio written without its cancellation. Best acceptance is near 0.574.

    Args:
        logdensity: log-density of one sample up to a constant.
        step_size: h > 0, the time step of the diffusion.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`.

    Raises:
        TypeError: for a position below float32.
        ValueError: for a step size that is not positive, or a metric that does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> result = js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 100)
        >>> bool(result.info.accept > 0.5)
        True

    Cost:
        One gradient per step.

    References:
        Roberts and Tweedie, 1996; Roberts and Rosenthal, "Optimal scaling of discrete approximations to Langevin
        diffusions", 1998.
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    metric: Tree = field(default=None, convert=k.metric)

    caches = "gradient"
    accept_target = 0.574
    time_power = 1.0

    def init(self, x, key=None):
        """Start at x."""
        x = k.begin(self, x)
        return k.State(x, k.evaluate(self, x), None)

    def step(self, key, state):
        """Propose a move and accept or reject it."""
        x, (lx, gx), _ = state
        noise, log_uniform = k.noise(key, x)
        y = drift(x, gx, self.metric, self.step_size, noise)
        ly, gy = k.evaluate(self, y)
        log_ratio = ly - lx + _correction(x, y, gx, gy, self.metric, self.step_size)
        proposed = k.State(y, k.Point(ly, gy), None)
        state, accept, bad = k.accept_step(log_uniform, log_ratio, proposed, state)
        return state, k.info(x, accept=accept, diverged=bad)


@pytree
class Barker:
    """Propose by Barker's rule: as cheap as MALA, and it does not break when the step size is wrong.

    Each coordinate draws z ~ N(0, h A) and goes to x + z with probability sigmoid(z g), else to x - z; the log ratio
    is l(y) - l(x) + sum log sigmoid(-d g(y)) - log sigmoid(d g(x)), d = y - x.

    Args:
        logdensity: log-density of one sample up to a constant.
        step_size: h > 0, the proposal variance.
        metric: None, a number or variances (a tree like x).

    Raises:
        TypeError: for a dense metric (the move is per coordinate) or a position below float32.
        ValueError: for a step size that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.Barker(lambda x: -jnp.sum(x**2) / 2, step_size=1.0)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One gradient per step.

    References:
        Livingstone and Zanella, "The Barker proposal: combining robustness and efficiency in gradient-based MCMC",
        2022, arXiv:1908.11812.
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    metric: Tree = field(default=None, convert=k.metric)

    caches = "gradient"
    accept_target = 0.5
    time_power = 1.0
    dense_metric = False

    def __post_init__(self):
        if isinstance(self.metric, DenseMetric):
            raise TypeError("Barker: the move is per coordinate; pass variances like x, not a DenseMetric.")

    def init(self, x, key=None):
        """Start at x."""
        x = k.begin(self, x)
        return k.State(x, k.evaluate(self, x), None)

    def step(self, key, state):
        """Propose a move and accept or reject it."""
        x, (lx, gx), _ = state
        (noise, side), log_uniform = k.noise(key, (x, x))
        z = push(self.metric, jax.tree.map(lambda n: jnp.sqrt(self.step_size) * n, noise))
        signed = jax.tree.map(
            lambda z, g, s: jnp.where(jax.scipy.special.ndtr(s) < jax.nn.sigmoid(z * g), z, -z), z, gx, side
        )
        y = k.like(jax.tree.map(jnp.add, x, signed), x)
        ly, gy = k.evaluate(self, y)
        terms = jax.tree.map(
            lambda d, gx, gy: jnp.sum(jax.nn.log_sigmoid(-d * gy) - jax.nn.log_sigmoid(d * gx)), signed, gx, gy
        )
        log_ratio = ly - lx + sum(jax.tree.leaves(terms))
        state, accept, bad = k.accept_step(log_uniform, log_ratio, k.State(y, k.Point(ly, gy), None), state)
        return state, k.info(x, accept=accept, diverged=bad)
