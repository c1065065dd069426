"""Guidance that reshapes the difference of two predictions: rescaled, projected, and optimised for flows."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jsamp._core._pytree import construct, field, pytree, static
from jsamp._core._sample_axes import check_event_ndim, sample_axes
from jsamp.denoise import _fields
from jsamp.denoise._algebra import as_time, levels, shift_x0, slopes
from jsamp.denoise._denoiser import CONVERSIONS
from jsamp.denoise._guidance import Guidance
from jsamp.denoise._pair import Joint, join, weights
from jsamp.denoise._protocol import Guided


def _inner(a: Any, b: Any, event_ndim: int | None) -> Any:
    """Inner product over a sample's numbers, with its axes kept."""
    return jnp.sum(a * b, axis=sample_axes(a, event_ndim), keepdims=True)


def _check_parts(name: str, guided: Any) -> None:
    """Refuse guidance that does not know its conditional part."""
    if not hasattr(guided, "parts"):
        raise TypeError(
            f"{name} has no conditional part to match, got {type(guided).__name__}. Wrap ClassifierFree, Auto, "
            f"Compose, APG or CFGZero directly."
        )


@pytree
class Rescale:
    """Give guidance the standard deviation of the conditional prediction back: less overexposure at high scale.

    In the chosen space, out = phi guided std(cond) / std(guided) + (1 - phi) guided, with the standard deviations
    over the numbers of one sample. The published code rescales what the network returns, so `space` matters.

    Args:
        guided: guidance that knows its conditional part: `ClassifierFree`, `Auto`, `Compose`, `APG`, `CFGZero`.
        phi: 0 is the guidance unchanged, 1 matches the standard deviation; commonly 0.7 (the paper's guidance_rescale).
        space: "x0", "eps" or "v" (alpha eps - sigma x0) (static).
        event_ndim: how many trailing axes make one sample; None means all of x is one sample (static).

    Returns:
        `Prediction(x0, eps)`.

    Raises:
        TypeError: for guidance that has no conditional part.
        ValueError: for a phi outside [0, 1] or an unknown space.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[m, 0.0]], stds=[1.0])
        >>> guided = js.denoise.ClassifierFree(law(1.0), law(0.0), scale=3.0)
        >>> js.denoise.Rescale(guided, phi=1.0)(jnp.zeros(2), 1.0).x0.round(3).tolist()
        [0.5, 0.0]

    Cost:
        Two reductions over x.

    References:
        Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv:2305.08891.
    """

    guided: Any = field(check=_check_parts)
    phi: Any = field(default=0.7, check=_fields.number(0, 1))
    space: Literal["x0", "eps", "v"] = static(default="x0", check=_fields.one_of("x0", "eps", "v"))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    @property
    def schedule(self):
        """The schedule of the guidance inside."""
        return self.guided.schedule

    def _factor(self, guided, cond):
        axes = sample_axes(guided, self.event_ndim)
        wanted, got = (jnp.std(value, axis=axes, keepdims=True) for value in (cond, guided))
        ratio = jnp.where(got > 0, wanted / jnp.where(got > 0, got, 1), 1)
        return 1 + jnp.asarray(self.phi, guided.dtype) * (ratio - 1)

    def __call__(self, x, t, *, key=None):
        """The rescaled prediction."""
        guided, cond = self.guided.parts(x, t, key=key)
        alpha, sigma = levels(self.schedule, t, x)

        def native(prediction):
            if self.space == "v":
                return jax.tree.map(lambda e, d: alpha * e - sigma * d, prediction.eps, prediction.x0)
            return getattr(prediction, self.space)

        own = native(guided)
        scaled = jax.tree.map(lambda g, c: g * self._factor(g, c), own, native(cond))
        new = CONVERSIONS[self.space](self.schedule, t, x, scaled)
        # Where nothing is scaled nothing is converted back and forth.
        keep = lambda g, s, old, new: jnp.where(g == s, old, new)
        x0, eps = (jax.tree.map(keep, own, scaled, getattr(guided, p), getattr(new, p)) for p in ("x0", "eps"))
        return guided._replace(x0=x0, eps=eps)


@pytree
class APG(Guidance):
    """Bound the difference of predictions and damp its part along the prediction: adaptive projected guidance.

    diff = c.x0 - u.x0 (plus momentum times the average of earlier ones), shortened to length `norm_threshold`, is split
    into the parts along and across c.x0; x0 = c.x0 + (scale - 1) (across + eta along). `eta=1` without threshold and
    momentum is classifier-free guidance.

    The momentum lives in a steer: `js.sample(..., steer=js.steer.Memory())`. Without it each row stands alone.

    Args:
        cond: conditional denoiser.
        uncond: unconditional denoiser on the same schedule.
        scale: guidance weight as in `ClassifierFree`; 1 is plain conditional.
        eta: weight of the part along the prediction, which saturates images; 0 removes it.
        norm_threshold: largest length r of the difference, > 0; None for no limit.
        momentum: beta of the running difference diff + beta average, commonly negative; 0 for none.
        event_ndim: how many trailing axes make one sample; None means all of x is one sample (static).

    Returns:
        `Guided(x0, eps, aux)` with the running difference as aux.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for a number that is not finite, or a threshold that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[m], stds=[1.0])
        >>> apg = js.denoise.APG(law([1.0, 0.0]), law([0.0, 1.0]), scale=3.0, eta=0.0)
        >>> apg(jnp.zeros(2), 1.0).x0.tolist()
        [0.5, -1.0]

    Cost:
        As `ClassifierFree`, and three reductions over x.

    References:
        Sadat et al., "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models", 2024,
        arXiv:2410.02416.
    """

    remembers = True
    joint: Joint
    scale: Any = field(convert=_fields.weight)
    eta: Any = field(check=_fields.number())
    norm_threshold: Any = field(check=_fields.number(0, open_low=True, optional=True))
    momentum: Any = field(check=_fields.number())
    memory: Any
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def __init__(
        self, cond: Any, uncond: Any, scale: Any = 1.0, *, eta: Any = 0.0, norm_threshold: Any = None,
        momentum: Any = 0.0, event_ndim: int | None = None,
    ):  # fmt: skip
        values = {"joint": join("APG", cond=cond, uncond=uncond), "scale": scale}
        values |= {"eta": eta, "norm_threshold": norm_threshold, "momentum": momentum, "memory": None}
        construct(self, **values, event_ndim=event_ndim)

    def _project(self, c, diff, scale):
        number = lambda value: jnp.asarray(value, diff.dtype)
        if self.norm_threshold is not None:
            square = _inner(diff, diff, self.event_ndim)
            long = square > number(self.norm_threshold) ** 2
            diff = diff * jnp.where(long, number(self.norm_threshold) / jnp.sqrt(jnp.where(long, square, 1)), 1)
        square = _inner(c, c, self.event_ndim)
        share = _inner(diff, c, self.event_ndim) / jnp.where(square > 0, square, 1)
        return (scale - 1) * (diff + (number(self.eta) - 1) * share * c)

    def combine(self, t, *found):
        """Add the projected difference to the conditional prediction."""
        cond, uncond = found
        diff = jax.tree.map(jnp.subtract, cond.x0, uncond.x0)
        if self.memory is not None:
            diff = jax.tree.map(lambda d, m: d + jnp.asarray(self.momentum, d.dtype) * m, diff, self.memory.value)
        change = jax.tree.map(self._project, cond.x0, diff, weights(self.scale, t, cond.x0))
        return shift_x0(self.schedule, t, Guided(cond.x0, cond.eps, aux=diff), change)


@pytree
class CFGZero(Guidance):
    """Guide a flow whose unconditional velocity is first scaled to the conditional one: CFG-Zero*.

    With velocities v = dx/dt of both predictions, s = <v_c, v_u> / |v_u|^2 over one sample, and
    v = s v_u + scale (v_c - s v_u). At times above `zero_init` the velocity is zero: an early flow network says little.

    Args:
        cond: conditional denoiser.
        uncond: unconditional denoiser on the same schedule.
        scale: guidance weight as in `ClassifierFree`; 1 is plain conditional.
        zero_init: time above which nothing moves, or None. The paper's zero-init of K steps is a time between those of
            row K - 1 and row K.
        event_ndim: how many trailing axes make one sample; None means all of x is one sample (static).

    Returns:
        `Prediction(x0, eps)`.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for a number that is not finite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.Flow(), weights=[1.0], means=[[m]], stds=[1.0])
        >>> guided = js.denoise.CFGZero(law(1.0), law(0.5), scale=3.0)
        >>> bool(jnp.allclose(guided(jnp.zeros(1), 0.5).x0, law(1.0)(jnp.zeros(1), 0.5).x0))  # in one dimension
        True

    Cost:
        As `ClassifierFree`, and two reductions over x.

    References:
        Fan et al., "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models", 2025, arXiv:2503.18886.
    """

    joint: Joint
    scale: Any = field(convert=_fields.weight)
    zero_init: Any = field(check=_fields.number(optional=True))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def __init__(
        self, cond: Any, uncond: Any, scale: Any = 1.0, *, zero_init: Any = None, event_ndim: int | None = None
    ):
        values = {"joint": join("CFGZero", cond=cond, uncond=uncond), "scale": scale}
        construct(self, **values, zero_init=zero_init, event_ndim=event_ndim)

    def combine(self, t, *found):
        """Move the conditional prediction as far as its velocity is moved."""
        alpha, sigma = levels(self.schedule, t, found[0].x0)
        da, ds = slopes(self.schedule, t, found[0].x0)
        c, u = (jax.tree.map(lambda d, e: da * d + ds * e, p.x0, p.eps) for p in found)

        def change(c, u, w):
            """Guided minus conditional velocity: zero where there is nothing to guide."""
            square = _inner(u, u, self.event_ndim)
            u = u * jnp.where(square > 0, _inner(c, u, self.event_ndim) / jnp.where(square > 0, square, 1), 1)
            moved = (w - 1) * (c - u)
            return moved if self.zero_init is None else jnp.where(as_time(t, c) > self.zero_init, -c, moved)

        velocity, norm = jax.tree.map(change, c, u, weights(self.scale, t, c)), alpha * ds - sigma * da
        x0 = jax.tree.map(lambda d, v: d - sigma / norm * v, found[0].x0, velocity)
        eps = jax.tree.map(lambda e, v: e + alpha / norm * v, found[0].eps, velocity)
        return found[0]._replace(x0=x0, eps=eps)
