"""The proposal of twisted particle filters: guidance by a likelihood that brings its own value along."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_number
from jsamp._core._pytree import pytree
from jsamp.denoise._protocol import Guided, check_denoiser, kick_of


class Twist(NamedTuple):
    """What `Twisted` hands to `js.steer.SMC`.

    Args:
        value: log of the twisting function at x; one number for each particle.
        x0: the prediction of x0 without the twist, of the structure of x.

    Example:
        >>> import jsamp as js
        >>> js.denoise.Twist(value=0.0, x0=1.0).value
        0.0
    """

    value: Any
    x0: Any


@pytree
class Twisted:
    """Guidance by a likelihood of the predicted x0: the proposal of the twisted diffusion sampler.

    x0 <- x0 + scale (sigma^2 / alpha) g and eps <- eps - scale sigma g, with g the gradient in x of
    log_likelihood(D(x), var) and var = sigma^2 spread^2 / (sigma^2 + alpha^2 spread^2), the variance of x0 given x_t
    when x0 has variance spread^2: it falls to 0 with the noise, where the likelihood is the true one. For Gaussian data
    of that variance the twist is exact. Alone it is an approximate guidance; inside `js.steer.SMC(None, final)`, which
    reads the by-product `Twist`, the particles are weighted so that their law is right.

    Args:
        denoiser: the unconditional denoiser.
        log_likelihood: (x0, var) -> log p(y | x0) with x0 known up to variance var: [P] for x0 [P, ...], or a scalar
            when x is one sample. For y = A x0 + noise: the Gaussian of variance noise^2 + var A A^T.
        spread: standard deviation of the data; inf gives var = sigma^2 / alpha^2, 0 the true likelihood throughout.
        scale: weight of the gradient in the proposal. SMC corrects for any.

    Returns:
        `Guided(x0, eps, aux=Twist)`.

    Raises:
        ValueError: for a negative spread, or a scale that is not finite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> likelihood = lambda x0, var: -0.5 * jnp.sum((2.0 - x0) ** 2, -1) / (1.0 + var)
        >>> round(float(js.denoise.Twisted(law, likelihood)(jnp.zeros((4, 1)), 1.0).x0[0, 0]), 4)
        0.6667

    Cost:
        One network call and its transpose.

    References:
        Wu et al., "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models", 2023,
        arXiv:2306.17775.
    """

    denoiser: Any
    log_likelihood: Any
    spread: Any = 1.0
    scale: Any = 1.0

    def __post_init__(self):
        check_denoiser("Twisted: denoiser", self.denoiser)
        likelihood = as_tree("Twisted: log_likelihood", self.log_likelihood, "log_likelihood(x0, var)")
        object.__setattr__(self, "log_likelihood", likelihood)
        if not np.ndim(self.spread) and isinstance(self.spread, float) and self.spread == np.inf:
            return
        check_number("Twisted: spread", self.spread, low=0)
        check_number("Twisted: scale", self.scale)

    @property
    def schedule(self):
        """The schedule of the denoiser inside."""
        return self.denoiser.schedule

    def __call__(self, x, t, *, key=None):
        """The twisted prediction, with the value of the twist."""
        dtype = jnp.result_type(*jax.tree.leaves(x))
        t = jnp.asarray(t, dtype)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        # 1 / (1 / s^2 + alpha^2 / sigma^2), in a form that stays finite for s = 0 and s = inf.
        precision = jnp.asarray(self.spread, dtype) ** -2
        var = sigma**2 / (alpha**2 + sigma**2 * precision)

        def value(x):
            prediction = self.denoiser(x, t, key=key)
            found = jnp.asarray(self.log_likelihood(prediction.x0, var))
            return jnp.sum(found), (found, prediction)

        slope, (found, prediction) = jax.grad(value, has_aux=True)(x)
        scale = jnp.asarray(self.scale, dtype)
        x0 = jax.tree.map(lambda d, g: d + scale * (sigma**2 / alpha) * g, prediction.x0, slope)
        eps = jax.tree.map(lambda e, g: e - scale * sigma * g, prediction.eps, slope)
        return Guided(x0, eps, kick_of(prediction), Twist(found, prediction.x0))
