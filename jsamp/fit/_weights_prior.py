"""The small network of the surrogates, in the parametrisation whose infinite width is `NNGPKernel`."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Key, Scalar
from jsamp.fit._covariance import HIGHEST

ACTIVATIONS = {"relu": jax.nn.relu, "erf": jax.lax.erf, "tanh": jnp.tanh}


@pytree
class Network:
    """Evaluate a perceptron whose weights are standard normal under the prior.

    u_1 = sqrt(bias_var) b + sqrt(weight_var / d) W x, u_{l+1} = sqrt(bias_var) b + sqrt(weight_var / width) W a(u_l),
    and the output is the last u. The scales stand in the network, so that the prior of every weight is N(0, 1) and,
    with growing width, that of the output is a Gaussian process with the covariance of `NNGPKernel`.

    Args:
        depth: hidden layers; 0 is a linear model (static).
        width: units of a hidden layer (static).
        kind: "tanh", "relu" or "erf" (static).
        weight_var: see above.
        bias_var: see above.

    Raises:
        TypeError: for counts that are no Python integers.
        ValueError: for an unknown kind, or numbers out of their range.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> network = js.fit.Network(depth=1, width=8)
        >>> network(network.init(jax.random.key(0), 3), jnp.zeros((5, 3))).shape
        (5,)

    Cost:
        n (d width + depth width^2).
    """

    depth: int = static(default=2, convert=_fields.count(0))
    width: int = static(default=32, convert=_fields.count())
    kind: Literal["tanh", "relu", "erf"] = static(default="tanh", check=_fields.one_of("tanh", "relu", "erf"))
    weight_var: Scalar = field(default=4.0, check=_fields.positive)
    bias_var: Scalar = field(default=1.0, check=_fields.positive)

    def init(self, key: Key, dim: int, dtype: Any = jnp.float32) -> list[dict[str, jax.Array]]:
        """Draw weights from the prior: a list of layers."""
        _checks.check_key(key, "Network.init")
        sizes = [_checks.check_count("Network.init: dim", dim), *[self.width] * self.depth, 1]
        keys = jax.random.split(key, len(sizes) - 1)
        draw = lambda key, shape: jax.random.normal(key, shape, dtype)
        layers = []
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True):
            layers.append({"W": draw(jax.random.fold_in(k, 0), (a, b)), "b": draw(jax.random.fold_in(k, 1), (b,))})
        return layers

    def __call__(self, weights: Any, X: jax.Array) -> jax.Array:
        """Outputs [n] of rows [n, d]."""
        return self._through(weights, X)[:, 0]

    def hidden(self, weights: Any, X: jax.Array) -> jax.Array:
        """Last hidden units [n, width] of rows [n, d]."""
        return ACTIVATIONS[self.kind](self._through(weights[:-1], X))

    def _through(self, layers, X):
        hidden = X
        for i, layer in enumerate(layers):
            hidden = ACTIVATIONS[self.kind](hidden) if i else hidden
            gain = jnp.sqrt(self.weight_var / math.prod(layer["W"].shape[:1]))
            shift = jnp.sqrt(jnp.asarray(self.bias_var, X.dtype)) * layer["b"]
            hidden = (gain * jnp.matmul(hidden, layer["W"], precision=HIGHEST) + shift[None]).astype(X.dtype)
        return hidden
