"""Losses of auto-encoders, and of generators fitted by likelihood."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._like import match
from jsamp._core._pytree import pytree, static
from jsamp._core._tree import normal_like, size
from jsamp.loss import _protocol as p


class Noised(NamedTuple):
    """Hold rows and the random directions or noise that go with them.

    Args:
        x: rows [n, ...].
        eps: standard normal numbers, like x, or [n, probes, ...] for `Contractive`.

    Example:
        >>> import jsamp as js
        >>> js.loss.Noised(x=1.0, eps=0.0).eps
        0.0
    """

    x: Any
    eps: Any


def _scale(name, scale):
    _checks.check_scalar(f"{name}: scale", scale, low=0, open_low=True)


@pytree
class Reconstruction(p.Called):
    """Train a denoising auto-encoder at one noise level.

    The value is the mean over rows and event of |r(x + scale eps) - x|^2. The minimiser is E[x | noised], so (r(x) - x)
    / scale^2 is exactly the score of the data blurred by `scale`: `js.denoise.from_reconstruction(r, schedule, scale)`.

    Args:
        scale: standard deviation of the corruption, > 0.
        batched: as in `Match` (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: callable tree x -> x. batch: rows [n, ...].

    Raises:
        ValueError: for a scale that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.Reconstruction(0.5)
        >>> float(loss(jax.random.key(0), lambda x: jnp.ones(2), jnp.ones((4, 2)))[0])
        0.0

    Cost:
        One network call.

    References:
        Alain and Bengio, "What Regularized Auto-Encoders Learn from the Data Generating Distribution", 2014,
        arXiv:1211.4246.
    """

    scale: Any
    batched: bool = static(default=False)

    def __post_init__(self):
        _scale("Reconstruction", self.scale)

    def draw(self, key, batch):
        """Draw the corruption."""
        _checks.check_key(key, "Reconstruction")
        p.check_batch("Reconstruction: batch", batch)
        x = jax.tree.map(jnp.asarray, batch)
        return Noised(x, normal_like(key, x))

    def value(self, model, drawn):
        """Return the error of the reconstruction."""
        noised = jax.tree.map(lambda v, z: v + jnp.asarray(self.scale, v.dtype) * z, *drawn)
        return p.finish(p.each_square(p.call_like("Reconstruction", model, self.batched, noised), drawn.x))


@pytree
class Contractive(p.Called):
    """Train a reconstruction that contracts: RCAE, with the Jacobian of the whole map.

    The value is the mean over rows of (|r(x) - x|^2 + scale^2 |dr/dx|_F^2) / d, the norm by Hutchinson's
    unbiased mean of |(dr/dx) v|^2 over standard normal v. To first order in scale^2 the minimiser is x + scale^2 grad
    log p; on N(0, s^2) it is that of `Reconstruction`, s^2 / (s^2 + scale^2).

    Args:
        scale: weight of the contraction, > 0, in units of x.
        probes: random directions for each row (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: callable tree x -> x, for one row. batch: rows [n, ...].

    Raises:
        ValueError: for a scale that is not positive, or fewer than one probe.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.Contractive(0.5)
        >>> float(loss(jax.random.key(0), lambda x: jnp.ones(2), jnp.ones((4, 2)))[0])
        0.0

    Cost:
        One network call and one forward derivative for each probe.

    References:
        Alain and Bengio, "What Regularized Auto-Encoders Learn from the Data Generating Distribution", 2014,
        arXiv:1211.4246.
    """

    scale: Any
    probes: int = static(default=1, convert=_fields.count())

    def __post_init__(self):
        _scale("Contractive", self.scale)

    def draw(self, key, batch):
        """Draw the directions."""
        _checks.check_key(key, "Contractive")
        num = p.check_batch("Contractive: batch", batch)
        x = jax.tree.map(jnp.asarray, batch)
        many = jax.tree.map(lambda v: jnp.zeros((num, self.probes, *v.shape[1:]), v.dtype), x)
        return Noised(x, normal_like(key, many))

    def value(self, model, drawn):
        """Return the error and the contraction."""
        _checks.check_callable("Contractive: model", model, "model(x)")

        def row(x, directions):
            call = lambda x: match("Contractive: the model's output", model(x), x)
            found, push = jax.linearize(call, x)
            square = jax.vmap(lambda v: p.mean_square(push(v)))(directions)
            scale = jnp.asarray(self.scale, square.dtype)
            return p.mean_square(jax.tree.map(jnp.subtract, found, x)) + scale**2 * jnp.mean(square)

        return p.finish(jax.vmap(row)(*drawn))


def latent_loglik(generator: Any, x: Any, scale: Any, *, nodes: int = 64, latent: str = "normal") -> jax.Array:
    """Integrate the latent out of a generator: log of the mean over z of N(x; f(z), scale^2 I), by quadrature.

    No bound, no sample: the likelihood of one x under f with one latent number, exact as the nodes grow dense. Choose
    `nodes` so that neighbouring f(z) are closer than `scale`.

    Args:
        generator: callable tree z (a scalar) -> tree like x.
        x: one row.
        scale: standard deviation of the noise, > 0.
        nodes: quadrature nodes (static).
        latent: "normal", Gauss-Hermite nodes of N(0, 1), or "uniform", midpoints of [0, 1), exact to high order for a
            generator that is periodic (static).

    Returns:
        The log-likelihood, a scalar.

    Raises:
        ValueError: for a scale that is not positive or an unknown law.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> found = js.loss.latent_loglik(lambda z: z * jnp.ones(1), jnp.zeros(1), 1.0)
        >>> bool(abs(found + 0.5 * jnp.log(2 * jnp.pi * 2.0)) < 1e-5)  # N(0; 0, 1 + 1)
        True

    Cost:
        nodes calls of the generator, vmapped.

    References:
        Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution using deep generative
        models", 2023, arXiv:2105.04046.
    """
    _checks.check_callable("latent_loglik: generator", generator, "generator(z)")
    _checks.check_scalar("latent_loglik: scale", scale, low=0, open_low=True)
    _checks.check_choice("latent_loglik: latent", latent, ("normal", "uniform"))
    _checks.check_count("latent_loglik: nodes", nodes)
    _checks.check_floating("latent_loglik: x", x)
    if latent == "normal":
        z, weight = np.polynomial.hermite_e.hermegauss(nodes)
        log_weight = np.log(np.maximum(weight / weight.sum(), np.finfo(np.float64).tiny))
    else:
        z, log_weight = (np.arange(nodes) + 0.5) / nodes, np.full(nodes, -np.log(nodes))
    dtype = jnp.result_type(*jax.tree.leaves(x))
    scale = jnp.asarray(scale, dtype)

    def loglik(z):
        gap = jax.tree.map(jnp.subtract, match("latent_loglik: generator(z)", generator(z), x), x)
        return -size(x) * (p.mean_square(gap) / (2 * scale**2) + jnp.log(scale) + math.log(2 * math.pi) / 2)

    each = jax.vmap(loglik)(jnp.asarray(z, dtype)) + jnp.asarray(log_weight, dtype)
    return jax.scipy.special.logsumexp(each)


@pytree
class InstanceNoise(p.Called):
    """Fit a generator by likelihood after adding noise to the data, so that the likelihood stays bounded.

    x' = x + scale eps; the value is minus the mean of log of the mean over z of N(x'; f(z), scale^2 I). Without noise,
    data on a curve let the likelihood grow without bound as the model's own scale goes to zero; too much noise hides
    the curve: the best scale is between, and falls with more data.

    Args:
        scale: standard deviation of the instance noise, > 0, also that of the model.
        nodes: quadrature nodes, as in `latent_loglik` (static).
        latent: as in `latent_loglik` (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: callable tree z -> row, z a scalar. batch: rows
            [n, ...].

    Raises:
        ValueError: for a scale that is not positive or an unknown law.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.InstanceNoise(0.1)
        >>> loss(jax.random.key(0), lambda z: z * jnp.ones(2), jnp.ones((4, 2)))[1].each.shape
        (4,)

    Cost:
        nodes calls of the generator for each row, vmapped.

    References:
        Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution using deep generative
        models", 2023, arXiv:2105.04046.
    """

    scale: Any
    nodes: int = static(default=64, convert=_fields.count())
    latent: str = static(default="normal")

    def __post_init__(self):
        _scale("InstanceNoise", self.scale)
        _checks.check_choice("InstanceNoise: latent", self.latent, ("normal", "uniform"))

    def draw(self, key, batch):
        """Draw the noise."""
        _checks.check_key(key, "InstanceNoise")
        p.check_batch("InstanceNoise: batch", batch)
        x = jax.tree.map(jnp.asarray, batch)
        return Noised(x, normal_like(key, x))

    def value(self, model, drawn):
        """Return minus the mean log-likelihood of the noisy rows."""
        noisy = jax.tree.map(lambda v, z: v + jnp.asarray(self.scale, v.dtype) * z, *drawn)
        row = lambda x: latent_loglik(model, x, self.scale, nodes=self.nodes, latent=self.latent)
        return p.finish(-jax.vmap(row)(noisy))
