"""Covariance functions: Matern, infinitely wide networks, and networks that feed another covariance."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Scalar

HIGHEST = jax.lax.Precision.HIGHEST


@pytree
class Matern:
    """Evaluate the Matern covariance of smoothness 5/2, with a length for each column.

    k(x, x') = scale (1 + s + s^2 / 3) exp(-s), s^2 = 5 sum_j ((x_j - x'_j) / lengths_j)^2. Its numbers have a prior, as
    a GP fits them: log lengths ~ N(sqrt(2) + log(d) / 2, 3), whose median grows with the root of the dimension (so that
    a hundred columns do not make every pair of rows strangers), and log scale ~ N(0, 1).

    Args:
        lengths: a number, or [d], > 0. A GP that fits it gives each column its own.
        scale: variance > 0, in units of the standardised values.

    Raises:
        TypeError: for what is no number.
        ValueError: for a length or a scale that is not > 0.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> float(js.fit.Matern(0.5)(jnp.zeros((1, 2)), jnp.zeros((1, 2)))[0, 0])
        1.0

    Cost:
        n m d.

    References:
        Hvarfner, Hellsten and Nardi, "Vanilla Bayesian optimization performs great in high dimensions", 2024,
        arXiv:2402.02229 (the prior of the lengths).
    """

    lengths: Any = field(default=0.5, check=_fields.positive)
    scale: Scalar = field(default=1.0, check=_fields.positive)

    def __call__(self, X, X2):
        """Covariances [n, m] of rows [n, d] and [m, d]."""
        if np.shape(self.lengths) not in ((), (1,), X.shape[1:]):
            raise ValueError(f"Matern: lengths must be a number or [{X.shape[1]}], got {np.shape(self.lengths)}.")
        lengths = jnp.broadcast_to(jnp.asarray(self.lengths, X.dtype), X.shape[1:])
        gaps = (X[:, None] - X2[None]) / lengths[None, None]
        square = jnp.minimum(5 * jnp.sum(gaps**2, -1), 1e8)  # the exponential is 0 there, so the rest must be finite
        apart = square > 0
        s = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)  # the root has no slope at zero
        return self.scale * (1 + s + square / 3) * jnp.exp(-s)

    def diag(self, X):
        """Variances [n]."""
        return jnp.broadcast_to(jnp.asarray(self.scale, X.dtype), X.shape[:1])

    def log_prior(self):
        """Log-density of the logarithms of the numbers."""
        logs = jnp.log(jnp.atleast_1d(self.lengths))
        return -jnp.sum((logs - math.sqrt(2) - math.log(logs.size) / 2) ** 2) / 6 - jnp.log(self.scale) ** 2 / 2


@jax.custom_jvp
def _arc(cosine):
    """Sine of the angle plus (pi - angle) cosine: the covariance of rectified units, over 2 pi."""
    cosine = jnp.clip(cosine, -1, 1)
    angle = jnp.arccos(cosine)
    return jnp.sqrt(jnp.maximum(1 - cosine**2, 0)) + (math.pi - angle) * cosine


@_arc.defjvp
def _arc_slope(primals, tangents):
    # The slopes of the parts are infinite at 1 and cancel: their sum is the supplement of the angle.
    return _arc(*primals), (math.pi - jnp.arccos(jnp.clip(primals[0], -1, 1))) * tangents[0]


def _relu(across, left, right):
    spread = jnp.sqrt(left * right)
    safe = jnp.where(spread > 0, spread, 1)
    return jnp.where(spread > 0, spread * _arc(across / safe) / (2 * math.pi), 0)


def _erf(across, left, right):
    return 2 / math.pi * jnp.arcsin(2 * across / jnp.sqrt((1 + 2 * left) * (1 + 2 * right)))


RULES = {"relu": _relu, "erf": _erf}


@pytree
class NNGPKernel:
    """Evaluate the covariance of the outputs of an infinitely wide network with Gaussian weights.

    K_0 = bias_var + weight_var x.x' / d, and K_{l+1} = bias_var + weight_var E[a(u) a(v)], (u, v) ~ N(0, K_l); the
    expectation is closed for a = relu and a = erf. The triple (K(x, x'), K(x, x), K(x', x')) is carried from layer to
    layer, so the cost is linear in the depth.

    Args:
        depth: hidden layers; 0 is a linear model (static).
        kind: "relu" or "erf" (static).
        weight_var: variance of the weights times the width they come from.
        bias_var: variance of the biases.

    Raises:
        TypeError: for a depth that is no Python integer.
        ValueError: for an unknown kind, a depth below 0 or variances that are not > 0.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> kernel = js.fit.NNGPKernel(1, "relu", weight_var=2.0, bias_var=0.5)
        >>> float(kernel.diag(jnp.array([[1.0, 1.0]]))[0])  # 0.5 + 2 (0.5 + 2) / 2
        3.0

    Cost:
        n m (d + depth).

    References:
        Cho and Saul, "Kernel methods for deep learning", 2009; Williams, "Computing with infinite networks", 1997; Lee
        et al., "Deep neural networks as Gaussian processes", 2018, arXiv:1711.00165.
    """

    depth: int = static(default=3, convert=_fields.count(0))
    kind: Literal["relu", "erf"] = static(default="relu", check=_fields.one_of("relu", "erf"))
    weight_var: Scalar = field(default=10.0, check=_fields.positive)
    bias_var: Scalar = field(default=1.6, check=_fields.positive)

    def __call__(self, X, X2):
        """Covariances [n, m] of rows [n, d] and [m, d]."""
        across = self._next(jnp.matmul(X, X2.T, precision=HIGHEST) / X.shape[1])
        left, right = self._start(X)[:, None], self._start(X2)[None]
        for _ in range(self.depth):
            rule = RULES[self.kind]
            across = self._next(rule(across, left, right))
            left, right = self._next(rule(left, left, left)), self._next(rule(right, right, right))
        return across

    def diag(self, X):
        """Variances [n]."""
        own = self._start(X)
        for _ in range(self.depth):
            own = self._next(RULES[self.kind](own, own, own))
        return own

    def _start(self, X):
        return self._next(jnp.sum(X**2, 1) / X.shape[1])

    def _next(self, moment):
        return self.bias_var + self.weight_var * moment


@pytree
class Deep:
    """Evaluate a covariance on the outputs of a network."""

    features: Any  # callable tree: rows -> rows
    kernel: Any

    def __call__(self, X, X2):
        """Covariances of rows."""
        return self.kernel(self.features(X), self.features(X2))

    def diag(self, X):
        """Variances of rows."""
        return self.kernel.diag(self.features(X))
