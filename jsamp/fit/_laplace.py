"""Laplace's approximation of a Bayesian network: its mode, the network linearised there, and draws of its weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Array, Key
from jsamp.fit import _protocol as p
from jsamp.fit._gp import GPPosterior, factorise, solve
from jsamp.fit._settle import adam, as_network, as_rate, settle
from jsamp.fit._weights_prior import Network
from jsamp.select._whiten import matmul


@pytree
class LogPosterior:
    """Evaluate the log-density of weights given rows, up to a constant; rows count as often as `times` says."""

    network: Network
    data: p.Padded
    variance: Any

    def __call__(self, weights):
        prior = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(weights))
        square = jnp.sum(self.data.mask * (self.data.y - self.network(weights, self.data.X)) ** 2)
        return -prior / 2 - square / (2 * self.variance)


def variance_of(who, noise, data):
    """Noise variance of standardised values; None is a tenth of their spread."""
    if noise is None:
        return jnp.asarray(1e-2, data.X.dtype)
    return p.in_spreads(who, noise, data, least=1e-6) ** 2  # slopes go as its inverse


def _minus(posterior, weights):
    return -posterior(weights)


_MINUS = jax.tree_util.Partial(_minus)


def mode_of(key, network, data, variance, steps, rate):
    """Weights that maximise the posterior, from a small start."""
    start = network.init(jax.random.fold_in(key, 0), data.X.shape[1], data.X.dtype)
    posterior = LogPosterior(network, data, variance)
    return settle(key, _MINUS, posterior, start, adam(rate, steps), steps)


def slopes_of(network, weights, X):
    """Slopes of the outputs in all weights, [n, p]."""
    flat, build = ravel_pytree(weights)
    return jax.vmap(lambda x: jax.grad(lambda flat: network(build(flat), x[None])[0])(flat))(X)


@pytree
class Tangent:
    """Evaluate the covariance of a network linearised at its weights, which have the prior N(0, 1)."""

    network: Network
    weights: Any

    def __call__(self, X, X2):
        """Covariances of rows."""
        return matmul(slopes_of(self.network, self.weights, X), slopes_of(self.network, self.weights, X2).T)

    def diag(self, X):
        """Variances of rows."""
        return jnp.sum(slopes_of(self.network, self.weights, X) ** 2, 1)


@jax.jit
def tangent_draw(key, network, weights, data, variance):
    """One draw of the weights from the Gaussian of Laplace, and the largest curvature of the posterior.

    Noise of the prior, corrected by what it and the noise of the rows would have shown (Matheron's rule), so that no
    matrix of the size of the weights is formed.
    """
    flat, build = ravel_pytree(weights)
    slopes = data.mask[:, None] * slopes_of(network, weights, data.X)
    gram = matmul(slopes, slopes.T)
    first, second = jax.random.split(key)
    prior = jax.random.normal(first, flat.shape, flat.dtype)
    seen = matmul(slopes, prior[:, None])[:, 0]
    seen = seen + jnp.sqrt(variance) * data.mask * jax.random.normal(second, seen.shape, flat.dtype)
    jitter = jnp.finfo(flat.dtype).eps * jnp.trace(gram)
    factor = jnp.linalg.cholesky(gram + (variance + jitter) * jnp.eye(len(gram), dtype=flat.dtype))
    corrected = prior - matmul(slopes.T, solve(factor, seen)[:, None])[:, 0]
    return build(flat + corrected), 1 + jnp.linalg.eigvalsh(gram)[-1] / variance


@pytree
class LaplaceNetwork:
    """Learn a function by a network at its mode, with the spread of Laplace's approximation.

    The network is linearised at the mode, with the Gauss-Newton curvature of all its weights: a Gaussian process whose
    covariance is the product of the slopes, which costs a matrix of the rows and none of the weights. The mean is the
    network itself.

    Args:
        network: a `Network`; None is the usual one.
        noise: as for `Ensemble`.
        steps: steps of Adam towards the mode (static).
        rate: learning rate (static).
        capacity: as for `Ensemble` (static).

    Raises:
        TypeError: for a network that is no `Network`, or counts that are no Python integers.
        ValueError: for options out of their range.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.linspace(0, 1, 9)[:, None]
        >>> surrogate = js.fit.LaplaceNetwork(js.fit.Network(1, 8), steps=20)
        >>> surrogate.fit(jax.random.key(0), X, X[:, 0]).mean_var(X)[1].shape
        (9,)

    Cost:
        steps gradients over all rows; then capacity^2 times the number of weights.

    References:
        Immer, Korzepa and Bauer, "Improving predictions of Bayesian neural nets via local linearization", 2021,
        arXiv:2008.08400.
    """

    network: Network = field(default=None, convert=as_network)
    noise: Any = field(default=None, check=_fields.scalar(0, optional=True))
    steps: int = static(default=500, convert=_fields.count())
    rate: float = static(default=1e-2, convert=as_rate)
    capacity: int | None = static(default=None, convert=_fields.count(optional=True))

    def fit(self, key: Key, X: Array, y: Array) -> GPPosterior:
        """Fit rows [n, d] of the unit cube and values [n]."""
        _checks.check_key(key, "LaplaceNetwork.fit")
        data = p.padded("LaplaceNetwork.fit", X, y, self.capacity)
        variance = variance_of("LaplaceNetwork.fit", self.noise, data)
        mode = mode_of(key, self.network, data, variance, self.steps, self.rate)
        return _linearised(self.network, mode, data, variance)


@jax.jit
def _linearised(network, mode, data, variance):
    kernel = Tangent(network, mode)
    factor, nothing = factorise(kernel, data, variance), jnp.zeros_like(data.y)
    mean, spread = jax.tree_util.Partial(_outputs, network, mode), variance * data.scale**2
    return GPPosterior(kernel, data.X, data.mask, factor, nothing, mean, data.center, data.scale, spread)


def _outputs(network, weights, X):
    return network(weights, X)
