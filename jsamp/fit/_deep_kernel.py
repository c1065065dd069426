"""A Gaussian process on the features of a network, fitted together."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Array, Key
from jsamp.fit import _protocol as p
from jsamp.fit._covariance import Matern
from jsamp.fit._gp import GPPosterior, divide, fitted
from jsamp.fit._settle import adam, as_network, as_rate, settle
from jsamp.fit._weights_prior import Network


@pytree
class DeepKernel:
    """Learn a function as a Gaussian process on the features of a network, both fitted by marginal likelihood.

    The network is first fitted to the values by least squares; then its last hidden layer feeds a `Matern` covariance,
    and everything maximises the log marginal likelihood together, by Adam.

    Args:
        network: a `Network` of at least one hidden layer.
        noise: as for `GP`.
        pretrain: steps of least squares (static).
        steps: steps of the marginal likelihood (static).
        rate: learning rate (static).
        capacity: as for `GP` (static).

    Raises:
        TypeError: for a network that is no `Network`, or counts that are no Python integers.
        ValueError: for options out of their range.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.linspace(0, 1, 9)[:, None]
        >>> surrogate = js.fit.DeepKernel(js.fit.Network(1, 8), pretrain=20, steps=20)
        >>> surrogate.fit(jax.random.key(0), X, jnp.sin(6 * X[:, 0])).mean_var(X)[0].shape
        (9,)

    Cost:
        steps times capacity^3 and the network's gradients.

    References:
        Wilson, Hu, Salakhutdinov and Xing, "Deep kernel learning", 2016, arXiv:1511.02222.
    """

    network: Network = field(default=None, convert=as_network)
    noise: Any = field(default=None, check=_fields.scalar(0, optional=True))
    pretrain: int = static(default=300, convert=_fields.count())
    steps: int = static(default=300, convert=_fields.count())
    rate: float = static(default=1e-2, convert=as_rate)
    capacity: int | None = static(default=None, convert=_fields.count(optional=True))

    def __post_init__(self):
        if self.network.depth < 1:
            raise ValueError("DeepKernel: network must have a hidden layer, got depth 0. Use js.fit.GP.")

    def fit(self, key: Key, X: Array, y: Array) -> GPPosterior:
        """Fit rows [n, d] of the unit cube and values [n]."""
        _checks.check_key(key, "DeepKernel.fit")
        data = p.padded("DeepKernel.fit", X, y, self.capacity)
        weights = self.network.init(jax.random.fold_in(key, 0), data.X.shape[1], data.X.dtype)
        weights = settle(key, _LEAST, (self.network, data), weights, adam(self.rate, self.pretrain), self.pretrain)
        kernel = Matern(np.full(self.network.width, math.sqrt(self.network.width)))
        model, given = divide(kernel, data, self.noise, None, True, "DeepKernel.fit")
        model, given = model._replace(network=weights), given._replace(network=self.network)
        return fitted(key, model, given, adam(self.rate, self.steps), self.steps)


def _least_squares(given, weights):
    network, data = given
    return jnp.sum(data.mask * (network(weights, data.X) - data.y) ** 2) / jnp.sum(data.mask)


_LEAST = jax.tree_util.Partial(_least_squares)
