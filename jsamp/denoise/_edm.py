"""The preconditioning of EDM: a network of unit-variance input and output becomes a denoiser."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_number
from jsamp._core._like import match
from jsamp._core._pytree import field, pytree
from jsamp.denoise import _fields


@pytree
class EDM:
    """Precondition a network so that its input, output and target have unit variance at every noise level.

    D(x, sigma) = skip x + out F(x / norm, log(sigma) / 4), norm^2 = sigma^2 + sigma_data^2, skip = sigma_data^2 /
    norm^2, out = sigma sigma_data / norm. It predicts x0: `js.Denoiser(EDM(network), js.noise.VE(), predicts="x0")`,
    and trains by `js.loss.Match`. With `sigma_min` the skip and out use sigma - sigma_min (norm does not in out): the
    boundary condition D(x, sigma_min) = x of consistency models holds exactly, for `js.loss.Consistency`.

    Args:
        model: callable tree F(x, c) or F(x, c, condition), with output like x.
        sigma_data: root mean square of the data, > 0. A Python number is not trained by `js.fit.minimise`.
        sigma_min: level at which D is the identity, >= 0: 0 for denoisers, the last node of the grid for consistency.

    Returns:
        x0, of the structure of x. x may have leading axes of rows with sigma [n].

    Raises:
        TypeError: for a model that cannot be called, or whose output differs from x in structure or shape.
        ValueError: for a sigma_data that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> model = js.denoise.EDM(lambda x, c: jnp.zeros_like(x), sigma_data=0.5)
        >>> model(jnp.ones(2), 0.0).tolist()
        [1.0, 1.0]

    Cost:
        One network call.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364.
        Song et al., "Consistency Models", 2023, arXiv:2303.01469 (sigma_min).
    """

    model: Any = field(convert=_fields.callable_as("model(x, c)"))
    sigma_data: Any = 0.5
    sigma_min: Any = 0.0

    def __post_init__(self):
        check_number("EDM: sigma_data", self.sigma_data, low=0, open_low=True)
        check_number("EDM: sigma_min", self.sigma_min, low=0)

    def __call__(self, x, sigma, *condition):
        """Predict x0 at noise level sigma."""
        dtype = jnp.result_type(*jax.tree.leaves(x))
        sigma, data = jnp.asarray(sigma, dtype), jnp.asarray(self.sigma_data, dtype)
        norm = jnp.sqrt(sigma**2 + data**2)
        spread = lambda c, leaf: c.astype(leaf.dtype).reshape(c.shape + (1,) * (leaf.ndim - c.ndim))
        scaled = jax.tree.map(lambda leaf: leaf / spread(norm, leaf), x)
        level = jnp.log(jnp.maximum(sigma, jnp.finfo(dtype).tiny)) / 4
        found = match("EDM: the model's output", self.model(scaled, level, *condition), x)
        above = sigma - jnp.asarray(self.sigma_min, dtype)
        skip, out = data**2 / (above**2 + data**2), above * data / norm
        return jax.tree.map(lambda leaf, f: spread(skip, leaf) * leaf + spread(out, leaf) * f, x, found)
