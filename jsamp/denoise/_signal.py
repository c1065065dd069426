"""Denoisers made of other models: signals seen through a known forward map, and auto-encoders."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_floating, check_number
from jsamp._core._like import match
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Model, Schedule
from jsamp.denoise import _fields
from jsamp.denoise._algebra import as_time, levels
from jsamp.denoise._denoiser import Denoiser
from jsamp.denoise._protocol import Guided
from jsamp.noise._protocol import check_schedule


@pytree
class ForwardModel:
    """Denoise an observation by way of a signal that is never observed: x0 = forward(signal(x, t)).

    The signal network predicts the hidden signal (a scene, a field) from the noised observation and whatever context it
    holds; a known differentiable map renders the observation. Sampling runs on observations; the signal comes along as
    the by-product, `js.sample(..., keep=lambda x, prediction: prediction.aux)`, and that of the last row is the sample
    of the signal. Given the context it is a function of the final observation: directions that neither sees get no
    spread.

    Args:
        signal: callable tree (x, t) -> signal, any tree. Bind context by `jax.tree_util.Partial(network, weights,
            context)`.
        forward: callable tree signal -> x0, differentiable; the view is its leaf.
        schedule: the noise schedule of the observation.

    Returns:
        `Guided(x0, eps, aux=signal)`.

    Raises:
        TypeError: for something that cannot be called, or a forward map that does not give the shape of x.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> signal = lambda x, t: {"height": x / (1 + t**2)}
        >>> denoiser = js.denoise.ForwardModel(signal, lambda s: s["height"], js.noise.VE())
        >>> denoiser(jnp.ones(1), 1.0).aux["height"].tolist()
        [0.5]

    Cost:
        One call of the network and one of the forward map.

    References:
        Tewari et al., "Diffusion with Forward Models: Solving Stochastic Inverse Problems Without Direct Supervision",
        2023, arXiv:2306.11719.
    """

    signal: Model = field(convert=_fields.callable_as("signal(x, t)"))
    forward: Model = field(convert=_fields.callable_as("forward(signal)"))
    schedule: Schedule = field(check=check_schedule)

    def __call__(self, x, t, *, key=None):
        """Render the predicted signal, and bring it along."""
        check_floating("ForwardModel: x", x)
        alpha, sigma = levels(self.schedule, t, x)
        signal = self.signal(x, as_time(t, x))
        x0 = match("ForwardModel: forward(signal)", self.forward(signal), x)
        return Guided(x0, jax.tree.map(lambda x, d: (x - alpha * d) / sigma, x, x0), aux=signal)


def _reconstruct_at_level(reconstruct, schedule, x, t):
    alpha, sigma = levels(schedule, t, x)
    return reconstruct(jax.tree.map(lambda v: v / alpha, x), sigma / alpha)


def _score_of_one_level(reconstruct, schedule, sigma, x, t):
    alpha, _ = levels(schedule, t, x)
    clean = jax.tree.map(lambda v: v / alpha, x)
    size = jnp.asarray(sigma, alpha.dtype) ** 2 * alpha
    return jax.tree.map(lambda r, v: (r - v) / size, reconstruct(clean), clean)


def from_reconstruction(reconstruct: Any, schedule: Any, sigma: Any = None) -> Denoiser:
    """Make a denoiser of an auto-encoder trained to reconstruct clean data from noisy.

    With Gaussian corruption of standard deviation s the optimal reconstruction is r(x) = E[x0 | x0 + s eps = x], so it
    is a denoiser. `sigma=None`: a family r(x, s), x0 = r(x / alpha, sigma_t / alpha_t). A number: one auto-encoder r(x)
    trained at that level; its score (r(x) - x) / sigma^2 is that of the data blurred by sigma, exact for denoising
    auto-encoders and to first order in sigma^2 for contractive ones. It is used at every noise level, and is right at
    sigma_t / alpha_t = sigma only; close to it for data that are smooth at both scales.

    Args:
        reconstruct: callable tree, (x, s) -> x0, or x -> x0 when `sigma` is given.
        schedule: the noise schedule to sample with.
        sigma: None, or the corruption that the auto-encoder was trained with, > 0.

    Returns:
        A `Denoiser`.

    Raises:
        TypeError: for something that cannot be called.
        ValueError: for a sigma that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> denoiser = js.denoise.from_reconstruction(lambda x: x / 1.25, js.noise.VE(), sigma=0.5)
        >>> round(float(denoiser(jnp.ones(1), 0.5).x0[0]), 3)
        0.8

    Cost:
        One call of the auto-encoder.

    References:
        Alain and Bengio, "What Regularized Auto-Encoders Learn from the Data Generating Distribution", 2014,
        arXiv:1211.4246.
    """
    if sigma is None:
        reconstruct = as_tree("from_reconstruction: reconstruct", reconstruct, "reconstruct(x, s)")
        model = jax.tree_util.Partial(_reconstruct_at_level, reconstruct, schedule)
        return Denoiser(model, schedule, predicts="x0")
    reconstruct = as_tree("from_reconstruction: reconstruct", reconstruct, "reconstruct(x)")
    check_number("from_reconstruction: sigma", sigma, low=0, open_low=True)
    model = jax.tree_util.Partial(_score_of_one_level, reconstruct, schedule, sigma)
    return Denoiser(model, schedule, predicts="score")
