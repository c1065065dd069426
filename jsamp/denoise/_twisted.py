"""The proposal of twisted particle filters: guidance by a likelihood that brings its own value along."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_number
from jsamp._core._like import dtype_of
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Model
from jsamp.denoise import _fields
from jsamp.denoise._algebra import levels
from jsamp.denoise._protocol import Guided, Wrapper, kick_of


class Twist(NamedTuple):
    """Hold the by-product that `Twisted` hands to `js.steer.SMC`.

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


def _check_std(name: str, value: Any) -> None:
    """Refuse a negative standard deviation; infinity is one."""
    if not (isinstance(value, float) and value == np.inf):
        check_number(name, value, low=0)


@pytree
class Twisted(Wrapper):
    """Guide by a likelihood of the predicted x0: the proposal of the twisted diffusion sampler.

    x0 <- x0 + scale (sigma^2 / alpha) g and eps <- eps - scale sigma g, with g the gradient in x of
    loglikelihood(D(x), var) and var = sigma^2 s^2 / (sigma^2 + alpha^2 s^2), the variance of x0 given x_t when x0 has
    variance s^2, s = `data_std`: it falls to 0 with the noise, where the likelihood is the true one. For Gaussian data
    of that variance the twist is exact. Alone it is an approximate guidance; inside `js.steer.SMC(None, final)`, which
    reads the by-product `Twist`, the particles are weighted so that their law is right.

    Args:
        denoiser: the unconditional denoiser.
        loglikelihood: (x0, var) -> log p(y | x0) with x0 known up to variance var: [P] for x0 [P, ...], or a scalar
            when x is one sample. For y = A x0 + noise: the Gaussian of variance noise^2 + var A A^T.
        data_std: standard deviation of the data; inf gives var = sigma^2 / alpha^2, 0 the true likelihood throughout.
        scale: weight of the gradient in the proposal. SMC corrects for any.

    Returns:
        `Guided(x0, eps, aux=Twist)`.

    Raises:
        ValueError: for a negative data_std, or a scale that is not finite.

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

    denoiser: Any = field(check=_fields.denoiser)
    loglikelihood: Model = field(convert=_fields.callable_as("loglikelihood(x0, var)"))
    data_std: Any = field(default=1.0, check=_check_std)
    scale: Any = field(default=1.0, check=_fields.number())

    def __call__(self, x, t, *, key=None):
        """Predict x0 and eps with the twist, and bring its value along."""
        dtype = dtype_of(x)
        alpha, sigma = levels(self.schedule, t, x)
        # 1 / (1 / s^2 + alpha^2 / sigma^2), in a form that stays finite for s = 0 and s = inf.
        precision = jnp.asarray(self.data_std, dtype) ** -2
        var = sigma**2 / (alpha**2 + sigma**2 * precision)

        def value(x):
            prediction = self.denoiser(x, t, key=key)
            found = jnp.asarray(self.loglikelihood(prediction.x0, var))
            return jnp.sum(found), (found, prediction)

        slope, (found, prediction) = jax.grad(value, has_aux=True)(x)
        scale = jnp.asarray(self.scale, dtype)
        x0 = jax.tree.map(lambda d, g: d + scale * (sigma**2 / alpha) * g, prediction.x0, slope)
        eps = jax.tree.map(lambda e, g: e - scale * sigma * g, prediction.eps, slope)
        return Guided(x0, eps, kick_of(prediction), Twist(found, prediction.x0))
