"""Thresholding of the predicted signal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import concrete
from jsamp._core._pytree import field, pytree, static
from jsamp._core._sample_axes import check_event_ndim, sample_axes
from jsamp.denoise import _fields
from jsamp.denoise._algebra import levels
from jsamp.denoise._protocol import Wrapper


@pytree
class Threshold(Wrapper):
    """Keep the predicted x0 inside the range of the data, statically or by a quantile of each sample.

    Static (`quantile=None`): x0 is clipped to [-limit, limit]. Dynamic: s = max(limit, quantile of |x0| over the
    sample), then x0 <- clip(x0, -s, s) limit / s. eps moves with x0, so x = alpha x0 + sigma eps still holds and plans
    in eps form are thresholded too. Meant for pixels; latents have no such range.

    Args:
        denoiser: the denoiser to threshold; put it outermost, around guidance.
        quantile: None, or a number in (0, 1], commonly 0.995.
        limit: half-width of the data range, > 0.
        largest: None, or an upper bound >= limit of s in the dynamic form; published pixel models take 1.5 to 2.
        event_ndim: how many trailing axes make one sample; None means all of x is one sample.

    Returns:
        `Prediction(x0, eps)`.

    Raises:
        ValueError: for a quantile outside (0, 1] or a limit that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> wild = js.Denoiser(lambda x, t: 4 * x, js.noise.VE(), predicts="x0")
        >>> js.denoise.Threshold(wild, quantile=1.0)(jnp.array([1.0, 0.25]), 1.0).x0.tolist()
        [1.0, 0.25]

    Cost:
        A sort of each sample when dynamic.

    References:
        Saharia et al., "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding", 2022,
        arXiv:2205.11487.
    """

    denoiser: Any = field(check=_fields.denoiser)
    quantile: Any = field(default=None, check=_fields.number(0, 1, open_low=True, optional=True))
    limit: Any = field(default=1.0, check=_fields.number(0, open_low=True))
    largest: Any = field(default=None, check=_fields.number(0, open_low=True, optional=True))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def __post_init__(self):
        low, high = concrete(self.limit), None if self.largest is None else concrete(self.largest)
        if low is not None and high is not None and np.any(high < low):
            raise ValueError(f"Threshold: largest must be at least limit={self.limit}, got {self.largest}.")

    def _clip(self, x0):
        limit = jnp.asarray(self.limit, x0.dtype)
        if self.quantile is None:
            return jnp.clip(x0, -limit, limit)
        axes = sample_axes(x0, self.event_ndim)
        size = jnp.abs(x0)
        if axes:
            size = jnp.quantile(size, jnp.asarray(self.quantile, x0.dtype), axis=axes, keepdims=True)
        bound = jnp.maximum(size, limit)
        bound = bound if self.largest is None else jnp.minimum(bound, jnp.asarray(self.largest, x0.dtype))
        return jnp.clip(x0, -bound, bound) * (limit / bound)

    def __call__(self, x, t, *, key=None):
        """Predict x0 and eps, with x0 in range."""
        raw = self.denoiser(x, t, key=key)
        alpha, sigma = levels(self.schedule, t, x)
        ratio = alpha / sigma
        x0 = jax.tree.map(self._clip, raw.x0)
        # A change of x0 moves eps by the same amount the other way; where nothing changes nothing is recomputed.
        eps = jax.tree.map(lambda e, old, new: e + jnp.where(old == new, 0, ratio * (old - new)), raw.eps, raw.x0, x0)
        return raw._replace(x0=x0, eps=eps)
