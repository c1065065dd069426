"""Gaussian processes as surrogates: a covariance fitted by marginal likelihood, infinitely wide and deep kernels."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Array, Key, Scalar
from jsamp.fit import _protocol as p
from jsamp.fit._covariance import Deep, Matern, NNGPKernel
from jsamp.fit._settle import lbfgs, settle
from jsamp.select._whiten import matmul

NOISE = 1e-2  # variance at which fits begin, in units of the values' variance


@pytree
class GPPosterior:
    """Predict by a Gaussian process given its data; made by `GP.fit` and others.

    Args:
        kernel: the covariance.
        X: [capacity, d] rows.
        mask: [capacity] ones for rows that are there.
        factor: [capacity, capacity] Cholesky factor of their covariance, noise included.
        weights: [capacity] what each row adds to the mean, for a unit of covariance.
        mean: callable tree: rows [q, d] -> [q], the prior mean.
        center: mean of the values in their own units.
        scale: their standard deviation.
        noise: variance of the noise, in units of the values.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.array([[0.0], [1.0]])
        >>> posterior = js.fit.GP(js.fit.Matern(0.5), noise=0.0, fitted=False).fit(None, X, jnp.array([2.0, 4.0]))
        >>> posterior.mean_var(X)[0].round(2).tolist()
        [2.0, 4.0]

    Cost:
        Memory capacity^2.
    """

    kernel: Any = field(check=p.check_known)
    X: Any = field(check=p.check_known)
    mask: Any = field(check=p.check_known)
    factor: Any = field(check=p.check_known)
    weights: Any = field(check=p.check_known)
    mean: Any = field(check=p.check_known)
    center: Any = field(check=p.check_known)
    scale: Any = field(check=p.check_known)
    noise: Any = field(check=p.check_known)

    def mean_var(self, Xq: Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance [q] of the function at rows [q, d], without the noise."""
        return _predict(self, p.queries("GPPosterior.mean_var", Xq, self.X))

    def sample(self, key: Key, Xq: Array, num: int) -> jax.Array:
        """Draw functions at rows [q, d], jointly: [num, q], without the noise."""
        _checks.check_key(key, "GPPosterior.sample")
        Xq = p.queries("GPPosterior.sample", Xq, self.X)
        num = _checks.check_count("GPPosterior.sample: num", num)
        return _draw(key, self, Xq, num)

    def _reach(self, Xq):
        """Standardised mean [q], and what the data explain: [capacity, q]."""
        across = self.kernel(Xq, self.X) * self.mask[None]
        reach = jax.scipy.linalg.solve_triangular(self.factor, across.T, lower=True)
        return self.mean(Xq) + matmul(across, self.weights[:, None])[:, 0], reach


@jax.jit
def _predict(posterior, Xq):
    mean, reach = posterior._reach(Xq)
    var = jnp.maximum(posterior.kernel.diag(Xq) - jnp.sum(reach**2, 0), 0)
    return posterior.center + posterior.scale * mean, posterior.scale**2 * var


@functools.partial(jax.jit, static_argnames="num")
def _draw(key, posterior, Xq, num):
    mean, reach = posterior._reach(Xq)
    prior = posterior.kernel(Xq, Xq)
    jitter = 64 * jnp.finfo(Xq.dtype).eps * jnp.trace(prior)
    own = prior - matmul(reach.T, reach) + jitter * jnp.eye(len(Xq), dtype=Xq.dtype)
    noise = jax.random.normal(key, (num, len(Xq)), Xq.dtype)
    return posterior.center + posterior.scale * (mean[None] + matmul(noise, jnp.linalg.cholesky(own).T))


@pytree
class Constant:
    """Evaluate a constant on rows."""

    value: Any

    def __call__(self, X):
        """The value for each row."""
        return jnp.broadcast_to(self.value, X.shape[:1])


def factorise(kernel: Any, data: p.Padded, noise: Any) -> Any:
    """Cholesky factor [capacity, capacity] of the covariance of the values; rows that are not there are alone."""
    there = data.mask[:, None] * data.mask[None]
    covariance = there * kernel(data.X, data.X)
    jitter = jnp.finfo(data.X.dtype).eps * jnp.trace(covariance)
    own = data.mask * (noise + jitter) + (1 - data.mask)
    return jnp.linalg.cholesky(covariance + jnp.diag(own))


def solve(factor, right):
    """Solve K x = right, given the lower Cholesky factor of K."""
    return jax.scipy.linalg.cho_solve((factor, True), right)


class _Unknown(NamedTuple):
    """Hold what is fitted: logarithms of the kernel's numbers and of the noise, and weights of a network; or None."""

    kernel: Any = None
    noise: Any = None
    network: Any = None


class _Given(NamedTuple):
    """Hold the data, and what is not fitted."""

    data: p.Padded
    unknown: _Unknown
    network: Any
    mean: Any  # standardised; NaN where it is fitted


def _combined(model: _Unknown, given: _Given):
    """The kernel and noise variance."""
    fixed = given.unknown
    logs = model.kernel if fixed.kernel is None else fixed.kernel
    kernel = jax.tree.map(jnp.exp, logs)
    if model.network is not None:
        kernel = Deep(jax.tree_util.Partial(_features, given.network, model.network), kernel)
    return kernel, jnp.exp(model.noise if fixed.noise is None else fixed.noise)


def _features(network, weights, X):
    """The last hidden layer of a network."""
    return network.hidden(weights, X)


def _posterior_of(model: _Unknown, given: _Given) -> GPPosterior:
    data = given.data
    kernel, noise = _combined(model, given)
    factor = factorise(kernel, data, noise)
    ones = solve(factor, data.mask)
    fitted = jnp.sum(ones * data.y) / jnp.maximum(jnp.sum(ones * data.mask), jnp.finfo(data.y.dtype).tiny)
    mean = jnp.where(jnp.isnan(given.mean), fitted, given.mean)
    weights = solve(factor, data.mask * (data.y - mean))
    spread = noise * data.scale**2
    return GPPosterior(
        kernel, data.X, data.mask, factor, weights, Constant(mean), data.center, data.scale, spread
    )  # fmt: skip


def _loss(given, model):
    """Negative log marginal likelihood, with the priors of the numbers."""
    made = _posterior_of(model, given)
    rest = given.data.mask * (given.data.y - made.mean.value)
    value = jnp.sum(rest * made.weights) / 2 + jnp.sum(jnp.log(jnp.diag(made.factor)))
    inner = made.kernel.kernel if model.network is not None else made.kernel
    if hasattr(inner, "log_prior"):
        value = value - inner.log_prior()
    if model.noise is not None:  # a wide prior, so that two points do not say that there is none
        value = value + (model.noise - math.log(NOISE)) ** 2 / 18
    return value


_LOSS = jax.tree_util.Partial(_loss)


_build = jax.jit(_posterior_of)


def fitted(key, model, given, optimiser, steps):
    """Fit what is unknown; where that ends in numbers that are not finite, keep the start."""
    if not jax.tree.leaves(model):
        return _build(model, given)
    found = settle(key, _LOSS, given, model, optimiser, steps)
    made = _build(found, given)
    if not bool(jnp.all(jnp.isfinite(made.weights))):
        made = _build(model, given)
    return made


def _check_kernel(name, value):
    if value is None:
        return None
    _checks.check_callable(name, value, "kernel(X, X2)")
    if not callable(getattr(value, "diag", None)):
        raise TypeError(f"{name} must have diag(X), as js.fit.Matern has; got {type(value).__name__}.")
    return value


def divide(kernel, data, noise, mean, fitted, who):
    """Divide a covariance, a noise and a mean in the user's units into what is fitted and what is given."""
    dtype = data.X.dtype
    logs = jax.tree.map(lambda leaf: jnp.log(jnp.asarray(leaf, dtype)), kernel)
    if noise is None:
        log_noise = jnp.asarray(math.log(NOISE), dtype)
    else:
        log_noise = 2 * jnp.log(jnp.maximum(p.in_spreads(who, noise, data), 1e-12))
    if noise is not None and not _checks.is_traced(noise) and float(noise) == 0 and fitted is not None:
        _check_distinct(who, data)
    model = _Unknown(logs if fitted else None, log_noise if noise is None else None)
    fixed = _Unknown(None if fitted else logs, None if noise is None else log_noise)
    held = jnp.nan if mean is None else (jnp.asarray(mean, dtype) - data.center) / data.scale
    return model, _Given(data, fixed, None, jnp.asarray(held, dtype))


def _check_distinct(who, data):
    rows = np.asarray(data.X)[np.asarray(data.mask) > 0]
    if len(np.unique(rows, axis=0)) < len(rows):
        raise ValueError(f"{who}: X has equal rows, which noise=0 makes singular. Average them, or give a noise.")


@pytree
class GP:
    """Learn a function as a Gaussian process, its covariance fitted by marginal likelihood.

    Values are standardised in float64 at the door. The logarithms of the kernel's numbers and of the noise maximise the
    log marginal likelihood plus the kernel's log prior, by L-BFGS; the constant mean is that of generalised least
    squares. A jitter of the precision times the trace keeps the Cholesky factor real in float32. Rows are padded to
    the capacity, so data that grow do not recompile.

    Args:
        kernel: a tree of positive numbers, callable as kernel(X, X2), with `diag(X)`; None is `Matern` with a length
            for each column.
        noise: standard deviation of the values about the function, in their units; None fits it.
        mean: prior mean in the units of the values; None fits it.
        fitted: whether the kernel's numbers are fitted (static).
        steps: steps of L-BFGS (static).
        capacity: most rows, which fixes the programs; None takes the next power of two, at least 64 (static).

    Raises:
        TypeError: for a kernel without `diag(X)`, or an option of the wrong kind.
        ValueError: for options out of their range.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.linspace(0, 1, 9)[:, None]
        >>> posterior = js.fit.GP().fit(jax.random.key(0), X, jnp.sin(6 * X[:, 0]))
        >>> mean, var = posterior.mean_var(jnp.array([[0.3]]))
        >>> abs(float(mean[0]) - 0.974) < 0.02
        True

    Cost:
        steps times a few capacity^3; memory capacity^2 (d + 1).

    References:
        Rasmussen and Williams, "Gaussian processes for machine learning", 2006.
    """

    kernel: Any = field(default=None, convert=_check_kernel)
    noise: Any = field(default=None, check=_fields.scalar(0, optional=True))
    mean: Any = field(default=None, check=_fields.scalar(optional=True))
    fitted: bool = static(default=True, convert=_checks.check_flag)
    steps: int = static(default=20, convert=_fields.count())
    capacity: int | None = static(default=None, convert=_fields.count(optional=True))

    def fit(self, key: Key, X: Array, y: Array) -> GPPosterior:
        """Fit rows [n, d] of the unit cube and values [n]; nothing is drawn, so key may be None."""
        data = p.padded("GP.fit", X, y, self.capacity)
        dim = data.X.shape[1]
        kernel = Matern(np.full(dim, 0.5 * math.sqrt(dim))) if self.kernel is None else self.kernel
        model, given = divide(kernel, data, self.noise, self.mean, self.fitted, "GP.fit")
        return fitted(jax.random.key(0) if key is None else key, model, given, lbfgs(), self.steps)


def nngp(
    depth: int = 3,
    kind: Literal["relu", "erf"] = "relu",
    *,
    weight_var: Scalar = 10.0,
    bias_var: Scalar = 1.6,
    noise: Any = None,
    capacity: int | None = None,
) -> GP:
    """Make the surrogate of an infinitely wide Bayesian network: a `GP` whose `NNGPKernel` stays as it is.

    Only the noise and the mean are fitted, as in the paper, so nothing can be overfitted in many dimensions.

    Args:
        depth: hidden layers.
        kind: "relu" or "erf".
        weight_var: variance of the weights times the width they come from.
        bias_var: variance of the biases.
        noise: as for `GP`.
        capacity: as for `GP`.

    Returns:
        A `GP`.

    Raises:
        ValueError: for an unknown kind, or variances that are not positive.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.linspace(0, 1, 9)[:, None]
        >>> js.fit.nngp().fit(None, X, jnp.sin(6 * X[:, 0])).mean_var(X)[0].shape
        (9,)

    Cost:
        As `GP`.

    References:
        Li, Rudner and Wilson, "A study of Bayesian neural network surrogates for Bayesian optimization", 2023,
        arXiv:2305.20028.
    """
    return GP(NNGPKernel(depth, kind, weight_var, bias_var), noise=noise, fitted=False, capacity=capacity)
