"""A stand-in for a trained network: an exact denoiser averaged over a Gaussian neighbourhood of x."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js
from jsamp._core._pytree import pytree, static


@pytree
class Smoothed:
    """E[law(x + alpha width u)] over standard normal u, by Gauss-Hermite nodes on each axis of the last dimension.

    Such a denoiser has a finite Lipschitz constant, as a network has: it bridges what the exact one separates.
    """

    law: Any
    width: Any
    nodes: int = static(default=9)

    @property
    def schedule(self):
        return self.law.schedule

    def __call__(self, x, t, *, key=None):
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.nodes)
        dim = x.shape[-1]
        places = np.stack(np.meshgrid(*[nodes] * dim), axis=-1).reshape(-1, dim)
        shares = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * dim), axis=-1), axis=-1).reshape(-1)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        places, shares = jnp.asarray(places, x.dtype), jnp.asarray(shares, x.dtype)
        shift = lambda u: self.law(x + alpha * self.width * u.reshape((1,) * (x.ndim - 1) + (dim,)), t).x0
        found = jax.vmap(shift)(places)
        x0 = jnp.sum(shares.reshape(-1, *(1,) * x.ndim) * found, axis=0)
        return js.Prediction(x0, (x - alpha * x0) / sigma)
