"""Stochastic-gradient kernels: SGLD, pSGLD, SGHMC, SGNHT. The minibatch, or the data it is drawn from, is a leaf."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields, _tree
from jsamp._core._like import match
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._langevin import drift


@pytree
class MinibatchScore:
    """Estimate the score of a posterior from a minibatch without bias, with an optional control variate.

    score(x, batch) = grad logprior(x) + (num_data / B) sum_i grad loglikelihood(x, batch_i). With `center` (a mode) and
    `center_score` (its full-data score) the sum runs over grad_i(x) - grad_i(center) and `center_score` is added:
    the variance vanishes at the mode.

    Args:
        logprior: log prior of one sample.
        loglikelihood: `loglikelihood(x, row)`, log-likelihood of one data row.
        num_data: number of rows in the whole data set.
        center: control-variate point, a tree like x, or None.
        center_score: full-data gradient of the log-likelihood at `center`; needed with it.

    Raises:
        ValueError: when only one of center and center_score is given, or num_data < 1.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> score = js.mcmc.MinibatchScore(lambda m: -m**2 / 2, lambda m, y: -((y - m) ** 2) / 2, 100)
        >>> float(score(0.0, jnp.array([1.0, 3.0])))
        200.0

    Cost:
        B gradients of the log-likelihood (2 B with a control variate) and one of the prior.

    References:
        Welling and Teh, "Bayesian learning via stochastic gradient Langevin dynamics", 2011; Baker et al., "Control
        variates for stochastic gradient MCMC", 2019, arXiv:1706.05439.
    """

    logprior: Any = field(convert=_fields.callable_as("logprior(x)"))
    loglikelihood: Any = field(convert=_fields.callable_as("loglikelihood(x, row)"))
    num_data: Scalar = field(convert=k.between(low=1))
    center: Tree = None
    center_score: Tree = None

    def __post_init__(self):
        if (self.center is None) != (self.center_score is None):
            raise ValueError("MinibatchScore: give both center and center_score, or neither.")
        for name in ("center", "center_score"):
            for leaf in jax.tree.leaves(getattr(self, name)):
                _checks.check_number(f"MinibatchScore: {name}", leaf)

    def __call__(self, x, batch):
        """Estimate the score at x from the rows of the batch."""
        k.check_numbers(self)
        k.leading_axis("MinibatchScore: batch", "rows", batch)
        gradient = jax.vmap(jax.grad(self.loglikelihood), in_axes=(None, 0))
        rows = gradient(x, batch)
        if self.center is not None:
            center = match("MinibatchScore: center", self.center, x)
            rows = jax.tree.map(jnp.subtract, rows, gradient(center, batch))
        total = jax.tree.map(lambda g: self.num_data * jnp.mean(g, axis=0), rows)
        if self.center is not None:
            total = jax.tree.map(jnp.add, total, match("MinibatchScore: center_score", self.center_score, x))
        return jax.tree.map(jnp.add, total, jax.grad(self.logprior)(x))


def _finite_rows(name, data):
    """Refuse known data that are no numbers, or with one that is NaN or infinite: every gradient would be."""
    for leaf in jax.tree.leaves(data):
        if isinstance(leaf, np.ndarray):
            _checks.refuse_no_numbers(name, leaf.dtype)
        if jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating):
            _checks.check_finite(name, leaf, remedy="Drop those rows, or fill them in.")


def _start(kernel, x):
    k.check_numbers(kernel)
    return k.position(type(kernel).__name__, x, metropolis=False)


def _gradient(kernel, key, x):
    # Returns the noise key too: a kernel that draws no rows uses the whole key, so full-batch SGLD has ULA's noise.
    data = kernel.data
    if kernel.batch is not None:
        rows, key = jax.random.split(key)
        size = jax.tree.leaves(data)[0].shape[0]
        index = jax.random.randint(rows, (kernel.batch,), 0, size)
        data = jax.tree.map(lambda leaf: leaf[index], data)
    return key, match(f"{type(kernel).__name__}: the score", k.call(kernel.score, x, data), x)


def _step_size(kernel, count):
    t = count.astype(jnp.float32)
    return kernel.step_size * (1 + t) ** (-jnp.asarray(kernel.decay, jnp.float32))


def _settle(x, grad, memory):
    return k.State(x, None, memory), k.info(x, diverged=~_tree.all_finite(grad))


@pytree
class _OnRows:
    """Hold what kernels on minibatches share: the score, and the rows that it takes."""

    score: Any = field(convert=_fields.callable_as("score(x, batch)"))
    data: Tree = field(check=_finite_rows)
    step_size: Scalar = field(default=1e-3, convert=k.positive)

    def __post_init__(self):
        if self.batch is not None:  # pyright: ignore[reportAttributeAccessIssue] (each has it, in a place of its own)
            name = type(self).__name__
            k.leading_axis(f"{name}: data", "rows", self.data)
            rows = np.shape(jax.tree.leaves(self.data)[0])[0]
            told = _checks.concrete(getattr(self.score, "num_data", None) or rows)
            if told is not None and np.any(told != rows):
                raise ValueError(
                    f"{name}: batch= draws from the whole data, {rows} rows, but the score has num_data={told}. "
                    f"Pass num_data={rows} there, or one minibatch here and no batch=."
                )


@pytree
class SGLD(_OnRows):
    """Run `ULA` with a minibatch gradient and a temperature: stochastic gradient Langevin.

    x <- x + h g + sqrt(2 h T) xi. With gradient noise of variance V the stationary variance on N(0, s^2) is
    (2 h T + h^2 V) / (1 - (1 - h / s^2)^2).

    Args:
        score: `score(x, batch)`, an unbiased estimate of the gradient of the log-posterior (see `MinibatchScore`).
        data: the rows that a step uses: one minibatch (a leaf: replace it in your scan), or, with `batch`, all of them.
        step_size: h > 0.
        temperature: T >= 0.
        batch: rows of `data` drawn with replacement at every step (static); None takes them all.
        decay: step t uses step_size (1 + t)^(-decay); 0 is constant.

    Raises:
        ValueError: for a step size that is not positive or negative numbers.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> score = js.mcmc.MinibatchScore(lambda m: -m**2 / 2, lambda m, y: -((y - m) ** 2) / 2, 100)
        >>> kernel = js.mcmc.SGLD(score, jnp.ones(100), step_size=1e-3, batch=10)
        >>> js.mcmc.chain(jax.random.key(0), kernel, 0.0, 20).x.shape
        (20,)

    Cost:
        One minibatch gradient per step.

    References:
        Welling and Teh, "Bayesian learning via stochastic gradient Langevin dynamics", 2011.
    """

    temperature: Scalar = field(default=1.0, convert=k.between(low=0))
    batch: int | None = static(default=None, convert=_fields.count(optional=True))
    decay: Scalar = field(default=0.0, convert=k.between(low=0))

    time_power = 1.0

    def init(self, x, key=None):
        """Start at x; the memory counts steps."""
        return k.State(_start(self, x), None, jnp.zeros((), jnp.int32))

    def step(self, key, state):
        """Take one Euler step."""
        x, _, count = state
        key, grad = _gradient(self, key, x)
        noise = jax.tree.map(lambda n: jnp.sqrt(self.temperature) * n, _tree.normal_like(key, x))
        return _settle(drift(x, grad, None, _step_size(self, count), noise), grad, count + 1)


@pytree
class pSGLD(_OnRows):
    """Precondition `SGLD`: per-coordinate step sizes from a running mean of squared gradients.

    V <- rate V + (1 - rate) (g / num_data)^2, G = 1 / (floor + sqrt(V)), x <- x + h G g + sqrt(2 h T G) xi. The
    curvature term of G is dropped, as in the paper's practice, at the price of a small bias.

    Args:
        score: `score(x, batch)`, an unbiased estimate of the gradient of the log-posterior (see `MinibatchScore`).
        data: the rows that a step uses: one minibatch (a leaf: replace it in your scan), or, with `batch`, all of them.
        step_size: h > 0.
        temperature: T >= 0.
        rate: memory of the running mean, in [0, 1).
        floor: lambda > 0, the largest preconditioner is 1 / floor.
        num_data: scale of the gradient in V.
        batch: rows of `data` drawn with replacement at every step (static); None takes them all.
        decay: step t uses step_size (1 + t)^(-decay); 0 is constant.

    Raises:
        ValueError: for a step size or floor that is not positive, or a rate outside [0, 1).

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> score = js.mcmc.MinibatchScore(lambda m: -m**2 / 2, lambda m, y: -((y - m) ** 2) / 2, 100)
        >>> kernel = js.mcmc.pSGLD(score, jnp.ones(100), step_size=1e-3, batch=10, num_data=100)
        >>> js.mcmc.chain(jax.random.key(0), kernel, 0.0, 20).x.shape
        (20,)

    Cost:
        One minibatch gradient per step; memory one position.

    References:
        Li, Chen, Carlson and Carin, "Preconditioned stochastic gradient Langevin dynamics for deep neural networks",
        2016, arXiv:1512.07666.
    """

    temperature: Scalar = field(default=1.0, convert=k.between(low=0))
    rate: Scalar = field(default=0.99, convert=k.between(low=0, high=1 - 1e-9))
    floor: Scalar = field(default=1e-5, convert=k.positive)
    num_data: Scalar = field(default=1.0, convert=k.positive)
    batch: int | None = static(default=None, convert=_fields.count(optional=True))
    decay: Scalar = field(default=0.0, convert=k.between(low=0))

    time_power = 1.0

    def init(self, x, key=None):
        """Start at x; the memory holds the step count and V."""
        x = _start(self, x)
        return k.State(x, None, (jnp.zeros((), jnp.int32), _tree.zeros_like(x)))

    def step(self, key, state):
        """Take one preconditioned Euler step."""
        x, _, (count, v) = state
        key, grad = _gradient(self, key, x)
        v = jax.tree.map(lambda v, g: self.rate * v + (1 - self.rate) * (g / self.num_data) ** 2, v, grad)
        metric = jax.tree.map(lambda v: 1 / (self.floor + jnp.sqrt(v)), v)
        noise = jax.tree.map(lambda n: jnp.sqrt(self.temperature) * n, _tree.normal_like(key, x))
        y = drift(x, grad, metric, _step_size(self, count), noise)
        return _settle(y, grad, (count + 1, k.like(v, x)))


@pytree
class SGHMC(_OnRows):
    """Move with momentum and a friction that pays for the gradient noise: stochastic gradient HMC.

    v <- (1 - friction) v + h g + sqrt(2 (friction - noise) h T) xi, x <- x + v.

    Args:
        score: `score(x, batch)`, an unbiased estimate of the gradient of the log-posterior (see `MinibatchScore`).
        data: the rows that a step uses: one minibatch (a leaf: replace it in your scan), or, with `batch`, all of them.
        step_size: h > 0.
        friction: in (0, 1].
        noise: estimate of the gradient noise's share of the friction, h V / 2, in [0, friction).
        temperature: T >= 0.
        batch: rows of `data` drawn with replacement at every step (static); None takes them all.
        decay: step t uses step_size (1 + t)^(-decay); 0 is constant.

    Raises:
        ValueError: for a step size or friction out of range, or noise >= friction.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> score = js.mcmc.MinibatchScore(lambda m: -m**2 / 2, lambda m, y: -((y - m) ** 2) / 2, 100)
        >>> kernel = js.mcmc.SGHMC(score, jnp.ones(100), step_size=1e-4, batch=10)
        >>> js.mcmc.chain(jax.random.key(0), kernel, 0.0, 20).x.shape
        (20,)

    Cost:
        One minibatch gradient per step; memory one velocity.

    References:
        Chen, Fox and Guestrin, "Stochastic gradient Hamiltonian Monte Carlo", 2014, arXiv:1402.4102.
    """

    friction: Scalar = field(default=0.1, convert=k.between(low=0, high=1, open_low=True))
    noise: Scalar = field(default=0.0, convert=k.between(low=0))
    temperature: Scalar = field(default=1.0, convert=k.between(low=0))
    batch: int | None = static(default=None, convert=_fields.count(optional=True))
    decay: Scalar = field(default=0.0, convert=k.between(low=0))

    def __post_init__(self):
        super().__post_init__()
        noise, friction = _checks.concrete(self.noise), _checks.concrete(self.friction)
        if noise is not None and friction is not None and (noise >= friction).any():
            raise ValueError(f"SGHMC: noise must be below friction {friction}, got {noise}. Raise the friction.")

    def init(self, x, key=None):
        """Start at x; the memory holds the step count and the velocity, zero at first."""
        x = _start(self, x)
        return k.State(x, None, (jnp.zeros((), jnp.int32), _tree.zeros_like(x)))

    def step(self, key, state):
        """Take one step."""
        x, _, (count, v) = state
        key, grad = _gradient(self, key, x)
        h = _step_size(self, count)
        kick = jnp.sqrt(2 * (self.friction - self.noise) * h * self.temperature)
        noise = _tree.normal_like(key, x)
        v = k.like(jax.tree.map(lambda v, g, n: (1 - self.friction) * v + h * g + kick * n, v, grad, noise), x)
        return _settle(jax.tree.map(jnp.add, x, v), grad, (count + 1, v))


@pytree
class SGNHT(_OnRows):
    """Find the noise of the gradients by a friction that adapts: the stochastic gradient Nosé-Hoover thermostat.

    v <- (1 - xi) v + h g + sqrt(2 friction h T) n, x <- x + v, xi <- xi + |v|^2 / d - h T, with n ~ N(0, I). The
    friction xi grows while the velocity is hotter than h T. With gradient noise of an unknown variance V it settles
    around friction + h V / (2 T), and x keeps its law; `SGHMC` has to be told V. Wants many dimensions: xi fluctuates
    like sqrt(h / d).

    Args:
        score: `score(x, batch)`, an unbiased estimate of the gradient of the log-posterior (see `MinibatchScore`).
        data: the rows that a step uses: one minibatch (a leaf: replace it in your scan), or, with `batch`, all of them.
        step_size: h > 0.
        friction: injected noise, and the start of xi, in (0, 1].
        temperature: T >= 0.
        batch: rows of `data` drawn with replacement at every step (static); None takes them all.

    Raises:
        ValueError: for a step size or friction out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> score = js.mcmc.MinibatchScore(lambda m: -jnp.sum(m**2) / 2, lambda m, y: -jnp.sum((y - m) ** 2) / 2, 100)
        >>> kernel = js.mcmc.SGNHT(score, jnp.ones((100, 3)), step_size=1e-4, batch=10)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 20).x.shape
        (20, 3)

    Cost:
        One minibatch gradient per step; memory one velocity.

    References:
        Ding, Fang, Babbush, Chen, Skeel and Neven, "Bayesian sampling using stochastic gradient thermostats", 2014.
    """

    friction: Scalar = field(default=0.05, convert=k.between(low=0, high=1, open_low=True))
    temperature: Scalar = field(default=1.0, convert=k.between(low=0))
    batch: int | None = static(default=None, convert=_fields.count(optional=True))

    def init(self, x, key=None):
        """Start at x; the memory holds the velocity (drawn with a key, zero without) and the friction xi."""
        x = _start(self, x)
        dtype = k.dtype_of(x)
        still = _tree.zeros_like(x)
        size = jnp.sqrt(jnp.asarray(self.step_size * self.temperature, dtype))
        v = still if key is None else k.axpy(size, _tree.normal_like(jax.random.fold_in(key, 0), x), still)
        return k.State(x, None, (v, jnp.asarray(self.friction, dtype)))

    def step(self, key, state):
        """Take one step."""
        x, _, (v, xi) = state
        key, grad = _gradient(self, key, x)
        heat = self.step_size * self.temperature
        kick = jnp.sqrt(2 * self.friction * heat)
        noise = _tree.normal_like(key, x)
        moved = jax.tree.map(lambda v, g, n: (1 - xi) * v + self.step_size * g + kick * n, v, grad, noise)
        v = k.like(moved, x)
        xi = (xi + _tree.dot(v, v) / _tree.size(v) - heat).astype(xi.dtype)
        return _settle(jax.tree.map(jnp.add, x, v), grad, (v, xi))
