"""Denoisers made of denoisers: guidance and thresholding. They act on the rate, so solvers keep their order."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_callable, check_count, check_number
from jsamp._core._pytree import pytree, static
from jsamp.denoise._denoiser import Prediction, as_tree


def _differing(cond: Any, uncond: Any) -> tuple[tuple[int, ...], list[Any]] | None:
    """Where two denoisers of one structure hold different leaves, and the second one's leaves there."""
    a, structure = jax.tree.flatten(cond)
    b, other = jax.tree.flatten(uncond)
    if structure != other:
        return None
    places, leaves = [], []
    for i, (mine, theirs) in enumerate(zip(a, b, strict=True)):
        if mine is theirs or (np.ndim(mine) == 0 and not isinstance(mine, jax.Array) and mine == theirs):
            continue
        try:
            shape = np.broadcast_shapes(np.shape(mine), np.shape(theirs))
        except ValueError:
            return None
        if shape != np.shape(mine) or jnp.result_type(mine) != jnp.result_type(theirs):
            return None
        places.append(i)
        leaves.append(theirs)
    return tuple(places), leaves


@pytree
class ClassifierFree:
    """Classifier-free guidance: extrapolate from an unconditional prediction to a conditional one.

    x0 = u.x0 + scale (c.x0 - u.x0), and the same for eps. `scale=1` is plain conditional, 0 unconditional, more than 1
    sharpens. With exact scores this is not the tilted law p_c^w p_u^(1-w), for an ODE or an SDE.

    When both denoisers share their network (the same arrays, with only labels or embeddings different) the network is
    called once, on a batch of two, and its weights are held once.

    Args:
        cond: conditional denoiser.
        uncond: unconditional denoiser (or one with a negative prompt) on the same schedule.
        scale: guidance weight: a scalar, an array that broadcasts against x over leading axes (one weight for each
            sample of a batch), or a callable of t that returns one.

    Returns:
        `Prediction(x0, eps)` of the structure of x.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for a scale that is not finite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[m]], stds=[1.0])
        >>> js.denoise.ClassifierFree(law(1.0), law(0.0), scale=3.0)(jnp.zeros(1), 1.0).x0.tolist()
        [1.5]

    Cost:
        One network call on twice the batch when the network is shared, else two calls.

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598.
    """

    cond: Any
    uncond: Any
    scale: Any = 1.0
    places: Any = static(default=None)

    def __post_init__(self):
        for name in ("cond", "uncond"):
            check_callable(f"ClassifierFree: {name}", getattr(self, name), "denoiser(x, t)")
            if not hasattr(getattr(self, name), "schedule"):
                raise TypeError(f"ClassifierFree: {name} must be a denoiser. Wrap the network in js.Denoiser.")
        if callable(self.scale):
            object.__setattr__(self, "scale", as_tree("ClassifierFree: scale", self.scale, "scale(t)"))
        else:
            check_number("ClassifierFree: scale", self.scale)
        found = _differing(self.cond, self.uncond)
        if found is not None:
            object.__setattr__(self, "places", found[0])
            object.__setattr__(self, "uncond", found[1])

    @property
    def schedule(self):
        """The schedule of the conditional denoiser."""
        return self.cond.schedule

    def _both(self, x, t, key):
        if self.places is None:
            return self.cond(x, t, key=key), self.uncond(x, t, key=key)
        leaves, structure = jax.tree.flatten(self.cond)
        own = [leaves[i] for i in self.places]
        pairs = [
            jnp.stack([jnp.asarray(c), jnp.broadcast_to(u, jnp.shape(c))])
            for c, u in zip(own, self.uncond, strict=True)
        ]

        def call(changed):
            for i, leaf in zip(self.places, changed, strict=True):
                leaves[i] = leaf
            return jax.tree.unflatten(structure, leaves)(x, t, key=key)

        if not pairs:
            same = call([])
            return same, same
        both = jax.vmap(call)(pairs)
        return jax.tree.map(lambda v: v[0], both), jax.tree.map(lambda v: v[1], both)

    def __call__(self, x, t, *, key=None):
        """The guided prediction."""
        cond, uncond = self._both(x, t, key)
        scale = self.scale(t) if callable(self.scale) else self.scale

        def mix(c, u):
            w = jnp.asarray(scale, c.dtype)
            return u + w.reshape(w.shape + (1,) * (c.ndim - w.ndim)) * (c - u)

        return Prediction(*jax.tree.map(mix, tuple(cond), tuple(uncond)))


@pytree
class Threshold:
    """Keep the predicted x0 inside the range of the data, statically or by a quantile of each sample.

    Static (`quantile=None`): x0 is clipped to [-limit, limit]. Dynamic: s = max(limit, quantile of |x0| over the
    sample), then x0 <- clip(x0, -s, s) limit / s. eps moves with x0, so x = alpha x0 + sigma eps still holds and plans
    in eps form are thresholded too. Meant for pixels; latents have no such range.

    Args:
        denoiser: the denoiser to threshold; put it outermost, around guidance.
        quantile: None, or a number in (0, 1], commonly 0.995.
        limit: half-width of the data range, > 0.
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

    denoiser: Any
    quantile: Any = None
    limit: Any = 1.0
    event_ndim: int | None = static(default=None)

    def __post_init__(self):
        check_callable("Threshold: denoiser", self.denoiser, "denoiser(x, t)")
        check_number("Threshold: limit", self.limit, low=0, open_low=True)
        if self.quantile is not None:
            check_number("Threshold: quantile", self.quantile, low=0, high=1, open_low=True)
        if self.event_ndim is not None:
            check_count("Threshold: event_ndim", self.event_ndim)

    @property
    def schedule(self):
        """The schedule of the denoiser inside."""
        return self.denoiser.schedule

    def _clip(self, x0):
        limit = jnp.asarray(self.limit, x0.dtype)
        if self.quantile is None:
            return jnp.clip(x0, -limit, limit)
        axes = tuple(range(-(self.event_ndim or x0.ndim), 0))
        size = jnp.quantile(jnp.abs(x0), jnp.asarray(self.quantile, x0.dtype), axis=axes, keepdims=True)
        bound = jnp.maximum(size, limit)
        return jnp.clip(x0, -bound, bound) * (limit / bound)

    def __call__(self, x, t, *, key=None):
        """The thresholded prediction."""
        raw = self.denoiser(x, t, key=key)
        t = jnp.asarray(t, jnp.result_type(*jax.tree.leaves(x)))
        ratio = self.schedule.alpha(t) / self.schedule.sigma(t)
        x0 = jax.tree.map(self._clip, raw.x0)
        # A change of x0 moves eps by the same amount the other way; where nothing changes nothing is recomputed.
        eps = jax.tree.map(lambda e, old, new: e + jnp.where(old == new, 0, ratio * (old - new)), raw.eps, raw.x0, x0)
        return Prediction(x0, eps)
