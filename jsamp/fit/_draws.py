"""Surrogates whose posterior is a number of networks: ensembles, Hamiltonian and stochastic-gradient chains."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp import mcmc
from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, replace, static
from jsamp._core._types import Array, Key, Scalar
from jsamp.fit import _protocol as p
from jsamp.fit._laplace import LogPosterior, mode_of, tangent_draw, variance_of
from jsamp.fit._settle import adam, as_network, as_rate, settle
from jsamp.fit._weights_prior import Network


@pytree
class NetworkPosterior:
    """Predict by the draws of a network's weights; made by `Ensemble.fit`, `HMCNetwork.fit`, `SGHMCNetwork.fit`.

    Args:
        network: the `Network`.
        weights: its weights, with a leading axis [draws].
        center: mean of the values in their own units.
        scale: their standard deviation.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> network = js.fit.Network(depth=0)
        >>> weights = [{"W": jnp.ones((2, 1, 1)), "b": jnp.array([[0.0], [2.0]])}]
        >>> posterior = js.fit.NetworkPosterior(network, weights, 0.0, 1.0)
        >>> posterior.mean_var(jnp.zeros((1, 1)))[0].tolist()
        [1.0]

    Cost:
        draws times the network.
    """

    network: Network = field(check=p.check_known)
    weights: Any = field(check=p.check_known)
    center: Scalar = field(check=p.check_known)
    scale: Scalar = field(check=p.check_known)

    def mean_var(self, Xq: Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance [q] over the draws, of the function at rows [q, d]."""
        Xq = p.queries("NetworkPosterior.mean_var", Xq, self.weights[0]["W"][0].T)
        each = _outputs(self.network, self.weights, Xq)  # far from zero their spread is lost in the user's units
        center, scale = jnp.asarray(self.center), jnp.asarray(self.scale)
        return center + scale * jnp.mean(each, 0), scale**2 * jnp.var(each, 0)

    def sample(self, key: Key, Xq: Array, num: int) -> jax.Array:
        """Draw functions at rows [q, d], with replacement from the draws of the weights: [num, q]."""
        _checks.check_key(key, "NetworkPosterior.sample")
        Xq = p.queries("NetworkPosterior.sample", Xq, self.weights[0]["W"][0].T)
        num = _checks.check_count("NetworkPosterior.sample: num", num)
        size = self.weights[0]["b"].shape[0]
        pick = jax.random.randint(key, (num,), 0, size)
        picked = jax.tree.map(lambda leaf: leaf[pick], self.weights)
        return self.center + self.scale * _outputs(self.network, picked, Xq)


@jax.jit
def _outputs(network, weights, Xq):
    return jax.vmap(lambda w: network(w, Xq))(weights)


@pytree
class _RowScore:
    """Estimate the gradient of the log-posterior without bias, from rows (x, y, how often it counts)."""

    network: Network
    variance: Any
    size: Any  # rows of the padded data

    def __call__(self, weights, batch):
        def value(weights):
            X, y, times = batch
            prior = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(weights))
            square = self.size * jnp.mean(times * (y - self.network(weights, X)) ** 2)
            return -prior / 2 - square / (2 * self.variance)

        return jax.grad(value)(weights)


@pytree
class Ensemble:
    """Learn a function by networks fitted from different weights to different parts of the rows.

    Each member is the mode of the posterior given a random share of the rows, drawn anew for each. Members train
    together, as one model. Their spread is the uncertainty.

    Args:
        network: a `Network`; None is the usual one.
        members: networks (static).
        share: share of the rows that a member sees, in (0, 1].
        noise: standard deviation of the values about the function, in their units; None is a tenth of their spread.
        steps: steps of Adam (static).
        rate: learning rate (static).
        capacity: most rows, which fixes the programs; None takes the next power of two, at least 64 (static).

    Raises:
        TypeError: for a network that is no `Network`, or counts that are no Python integers.
        ValueError: for options out of their range.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.linspace(0, 1, 9)[:, None]
        >>> surrogate = js.fit.Ensemble(js.fit.Network(1, 8), members=3, steps=20)
        >>> surrogate.fit(jax.random.key(0), X, X[:, 0]).sample(jax.random.key(1), X, 5).shape
        (5, 9)

    Cost:
        steps times members gradients of the network over all rows.

    References:
        Lakshminarayanan, Pritzel and Blundell, "Simple and scalable predictive uncertainty estimation using deep
        ensembles", 2017, arXiv:1612.01474.
    """

    network: Network = field(default=None, convert=as_network)
    members: int = static(default=10, convert=_fields.count())
    share: Scalar = field(default=0.8, check=_fields.scalar(0, 1, open_low=True))
    noise: Any = field(default=None, check=_fields.scalar(0, optional=True))
    steps: int = static(default=500, convert=_fields.count())
    rate: float = static(default=1e-2, convert=as_rate)
    capacity: int | None = static(default=None, convert=_fields.count(optional=True))

    def fit(self, key: Key, X: Array, y: Array) -> NetworkPosterior:
        """Fit rows [n, d] of the unit cube and values [n]."""
        _checks.check_key(key, "Ensemble.fit")
        data = p.padded("Ensemble.fit", X, y, self.capacity)
        keys = jax.random.split(jax.random.fold_in(key, 0), self.members)
        start, masks = _members(keys, self.network, data, self.share)
        given = (self.network, data, masks, variance_of("Ensemble.fit", self.noise, data))
        found = settle(key, _MEMBERS, given, start, adam(self.rate, self.steps), self.steps)
        return NetworkPosterior(self.network, found, data.center, data.scale)


@jax.jit
def _members(keys, network, data, share):
    """Weights to begin with, and the rows that each member sees: the same number for all."""

    def one(key):
        order = jnp.argsort(jnp.where(data.mask > 0, jax.random.uniform(key, data.mask.shape), 2.0))
        seen = jnp.maximum(1, jnp.round(share * jnp.sum(data.mask)))
        mask = jnp.zeros_like(data.mask).at[order].set((jnp.arange(len(order)) < seen).astype(data.mask.dtype))
        return network.init(jax.random.fold_in(key, 1), data.X.shape[1], data.X.dtype), mask

    return jax.vmap(one)(keys)


def _all_members(given, weights):
    """Sum of the members' losses: each one's gradient is its own."""
    network, data, masks, variance = given
    each = jax.vmap(lambda w, mask: -LogPosterior(network, data._replace(mask=mask), variance)(w))(weights, masks)
    return jnp.sum(each)


_MEMBERS = jax.tree_util.Partial(_all_members)


@pytree
class HMCNetwork:
    """Learn a function by a Bayesian network, its weights drawn by Hamiltonian Monte Carlo.

    `js.mcmc.HMC` starts at a draw of Laplace's approximation around the mode; its step size is tuned to an acceptance
    of 0.8 and its trajectories have the length given, of varying size.

    Args:
        network: a `Network`; None is the usual one.
        noise: as for `Ensemble`.
        num: draws kept (static).
        warm: steps that tune the step size (static).
        length: mean integration time > 0.
        max_steps: bound on the leapfrog steps of a draw.
        pretrain: steps of Adam towards the mode (static).
        capacity: as for `Ensemble` (static).

    Raises:
        TypeError: for a network that is no `Network`, or counts that are no Python integers.
        ValueError: for options out of their range.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.linspace(0, 1, 9)[:, None]
        >>> surrogate = js.fit.HMCNetwork(js.fit.Network(1, 4), num=5, warm=5, pretrain=5, max_steps=4)
        >>> surrogate.fit(jax.random.key(0), X, X[:, 0]).mean_var(X)[1].shape
        (9,)

    Cost:
        (warm + num) times length / step size gradients over all rows.

    References:
        Izmailov et al., "What are Bayesian neural network posteriors really like?", 2021, arXiv:2104.14421.
    """

    network: Network = field(default=None, convert=as_network)
    noise: Any = field(default=None, check=_fields.scalar(0, optional=True))
    num: int = static(default=100, convert=_fields.count())
    warm: int = static(default=100, convert=_fields.count())
    length: Scalar = field(default=1.0, check=_fields.positive)
    max_steps: Scalar = field(default=100, check=_fields.positive)
    pretrain: int = static(default=300, convert=_fields.count())
    capacity: int | None = static(default=None, convert=_fields.count(optional=True))

    def fit(self, key: Key, X: Array, y: Array) -> NetworkPosterior:
        """Fit rows [n, d] of the unit cube and values [n]."""
        _checks.check_key(key, "HMCNetwork.fit")
        data = p.padded("HMCNetwork.fit", X, y, self.capacity)
        network, variance = self.network, variance_of("HMCNetwork.fit", self.noise, data)
        keys = jax.random.split(key, 4)
        mode = mode_of(keys[0], network, data, variance, self.pretrain, 1e-2)
        start, curvature = tangent_draw(keys[1], network, mode, data, variance)
        density = LogPosterior(network, data, variance)
        step = 1 / jnp.sqrt(curvature)
        kernel = mcmc.HMC(density, step_size=step, length=self.length, max_steps=self.max_steps)
        kernel, start = mcmc.tune(keys[2], kernel, start, self.warm, metric=None)
        kernel = replace(kernel, length=jnp.asarray(self.length, data.X.dtype))
        weights = mcmc.chain(keys[3], kernel, start, self.num).x
        return NetworkPosterior(network, weights, data.center, data.scale)


@pytree
class SGHMCNetwork:
    """Learn a function by a Bayesian network, its weights drawn by stochastic gradient Hamiltonian Monte Carlo.

    `js.mcmc.SGHMC` starts at a draw of Laplace's approximation; its step size is `step` over the largest curvature
    there, so that one number serves all data.

    Args:
        network: a `Network`; None is the usual one.
        noise: as for `Ensemble`.
        num: draws kept (static).
        thin: steps between them (static).
        burn: steps dropped first (static).
        step: step size times the largest curvature, in (0, 1].
        friction: in (0, 1].
        batch: rows of a gradient, or None for all (static).
        pretrain: steps of Adam towards the mode (static).
        capacity: as for `Ensemble` (static).

    Raises:
        TypeError: for a network that is no `Network`, or counts that are no Python integers.
        ValueError: for options out of their range.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.linspace(0, 1, 9)[:, None]
        >>> surrogate = js.fit.SGHMCNetwork(js.fit.Network(1, 4), num=5, thin=1, burn=5, pretrain=5)
        >>> surrogate.fit(jax.random.key(0), X, X[:, 0]).mean_var(X)[1].shape
        (9,)

    Cost:
        burn + num thin gradients over `batch` rows.

    References:
        Springenberg, Klein, Falkner and Hutter, "Bayesian optimization with robust Bayesian neural networks", 2016;
        Chen, Fox and Guestrin, "Stochastic gradient Hamiltonian Monte Carlo", 2014, arXiv:1402.4102.
    """

    network: Network = field(default=None, convert=as_network)
    noise: Any = field(default=None, check=_fields.scalar(0, optional=True))
    num: int = static(default=100, convert=_fields.count())
    thin: int = static(default=10, convert=_fields.count())
    burn: int = static(default=500, convert=_fields.count(0))
    step: Scalar = field(default=0.05, check=_fields.scalar(0, 1, open_low=True))
    friction: Scalar = field(default=0.1, check=_fields.scalar(0, 1, open_low=True))
    batch: int | None = static(default=None, convert=_fields.count(optional=True))
    pretrain: int = static(default=300, convert=_fields.count())
    capacity: int | None = static(default=None, convert=_fields.count(optional=True))

    def fit(self, key: Key, X: Array, y: Array) -> NetworkPosterior:
        """Fit rows [n, d] of the unit cube and values [n]."""
        _checks.check_key(key, "SGHMCNetwork.fit")
        data = p.padded("SGHMCNetwork.fit", X, y, self.capacity)
        network, variance = self.network, variance_of("SGHMCNetwork.fit", self.noise, data)
        keys = jax.random.split(key, 3)
        mode = mode_of(keys[0], network, data, variance, self.pretrain, 1e-2)
        start, curvature = tangent_draw(keys[1], network, mode, data, variance)
        rows = _repeated(data)
        score = _RowScore(network, variance, jnp.asarray(len(data.y), data.X.dtype))
        step_size = self.step / curvature
        kernel = mcmc.SGHMC(score, rows, step_size=step_size, friction=self.friction, batch=self.batch)
        weights = mcmc.chain(keys[2], kernel, start, self.num, thin=self.thin, burn=self.burn).x
        return NetworkPosterior(network, weights, data.center, data.scale)


def _repeated(data):
    """Fill the padding with the rows there are, in turn; each says how often it counts, so that all count once."""
    num, place = jnp.sum(data.mask).astype(jnp.int32), jnp.arange(len(data.y))
    copies = len(data.y) // num + (place % num < len(data.y) % num)
    return data.X[place % num], data.y[place % num], 1 / copies.astype(data.y.dtype)
