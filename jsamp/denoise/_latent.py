"""Denoisers that draw: a generator inside every step."""

from __future__ import annotations

from typing import Any

import jax

from jsamp._core._checks import check_floating, check_key
from jsamp._core._like import dtype_of, match
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Schedule
from jsamp.denoise import _fields
from jsamp.denoise._algebra import as_time, levels
from jsamp.denoise._denoiser import Prediction
from jsamp.noise._protocol import check_schedule


@pytree
class Latent:
    """Draw x0 by a generator with a latent instead of predicting its mean: denoising diffusion GANs.

    x0 = model(x, t, z) with z standard normal. On `js.solve.ddpm`, whose rows are the Gaussian posteriors q(x_u | x0,
    x_t), a generator of the true law of x0 given x_t samples the data exactly, in any number of steps.

    Args:
        model: callable tree (x, t, z) -> x0; `js.loss.GANGenerator` trains it.
        schedule: the noise schedule.
        latent: length of z (static).

    Returns:
        `Prediction(x0, eps)`.

    Raises:
        TypeError: for a model that cannot be called, or whose output differs from x in structure or shape.
        ValueError: for fewer than one latent number, or a call without a key.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> coin = js.denoise.Latent(lambda x, t, z: jnp.sign(z), schedule, latent=1)
        >>> plan = js.solve.ddpm(schedule, js.noise.time_grid(schedule, 2, final="zero"))
        >>> abs(float(js.sample(jax.random.key(0), coin, jnp.ones(1), plan).x[0]))
        1.0

    Cost:
        One network call.

    References:
        Xiao, Kreis and Vahdat, "Tackling the Generative Learning Trilemma with Denoising Diffusion GANs", 2022,
        arXiv:2112.07804.
    """

    model: Any = field(convert=_fields.callable_as("model(x, t, z)"))
    schedule: Schedule = field(check=check_schedule)
    latent: int = static(convert=_fields.count())

    def __call__(self, x, t, *, key=None):
        """Draw x0, and the noise that goes with it."""
        check_key(key, "Latent")
        check_floating("Latent: x", x)
        z = jax.random.normal(key, (self.latent,), dtype_of(x))  # pyright: ignore[reportArgumentType]
        alpha, sigma = levels(self.schedule, t, x)
        x0 = match("Latent: the model's output", self.model(x, as_time(t, x), z), x)
        return Prediction(x0, jax.tree.map(lambda v, d: (v - alpha * d) / sigma, x, x0))
