"""Guidance that reshapes the difference of two predictions: rescaled, projected, and optimised for flows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_choice, check_count, check_number
from jsamp._core._pytree import pytree, static
from jsamp.denoise._denoiser import CONVERSIONS, shift_x0
from jsamp.denoise._guidance import Guidance
from jsamp.denoise._pair import Joint, check_scale, join, weigh
from jsamp.denoise._protocol import Guided

SPACES = ("x0", "eps", "v")


def event_axes(leaf: Any, event_ndim: int | None) -> tuple[int, ...]:
    """The trailing axes that make one sample."""
    return tuple(range(-(leaf.ndim if event_ndim is None else event_ndim), 0))


def _check_event(who: str, event_ndim: int | None) -> None:
    if event_ndim is not None:
        check_count(f"{who}: event_ndim", event_ndim)


def _inner(a: Any, b: Any, event_ndim: int | None) -> Any:
    """Inner product over a sample's numbers, with its axes kept."""
    return jnp.sum(a * b, axis=event_axes(a, event_ndim), keepdims=True)


@pytree
class Rescale:
    """Guidance with the standard deviation of the conditional prediction given back: less overexposure at high scale.

    In the chosen space, out = amount guided std(cond) / std(guided) + (1 - amount) guided, with the standard deviations
    over the numbers of one sample. The published code rescales what the network returns, so `space` matters.

    Args:
        guided: guidance that knows its conditional part: `ClassifierFree`, `Auto`, `Compose`, `APG`, `CFGZero`.
        amount: 0 is the guidance unchanged, 1 matches the standard deviation; commonly 0.7.
        space: "x0", "eps" or "v" (alpha eps - sigma x0) (static).
        event_ndim: how many trailing axes make one sample; None means all of x is one sample (static).

    Returns:
        `Prediction(x0, eps)`.

    Raises:
        TypeError: for guidance that has no conditional part.
        ValueError: for an amount outside [0, 1] or an unknown space.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[m, 0.0]], stds=[1.0])
        >>> guided = js.denoise.ClassifierFree(law(1.0), law(0.0), scale=3.0)
        >>> js.denoise.Rescale(guided, amount=1.0)(jnp.zeros(2), 1.0).x0.round(3).tolist()
        [0.5, 0.0]

    Cost:
        Two reductions over x.

    References:
        Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv:2305.08891.
    """

    guided: Any
    amount: Any = 0.7
    space: str = static(default="x0")
    event_ndim: int | None = static(default=None)

    def __post_init__(self):
        if not hasattr(self.guided, "parts"):
            raise TypeError(
                f"Rescale: {type(self.guided).__name__} has no conditional part to match. Wrap ClassifierFree, Auto, "
                f"Compose, APG or CFGZero directly."
            )
        check_number("Rescale: amount", self.amount, low=0, high=1)
        check_choice("Rescale: space", self.space, SPACES)
        _check_event("Rescale", self.event_ndim)

    @property
    def schedule(self):
        """The schedule of the guidance inside."""
        return self.guided.schedule

    def _factor(self, guided, cond):
        axes = event_axes(guided, self.event_ndim)
        wanted, got = (jnp.std(value, axis=axes, keepdims=True) for value in (cond, guided))
        ratio = jnp.where(got > 0, wanted / jnp.where(got > 0, got, 1), 1)
        return 1 + jnp.asarray(self.amount, guided.dtype) * (ratio - 1)

    def __call__(self, x, t, *, key=None):
        """The rescaled prediction."""
        guided, cond = self.guided.parts(x, t, key=key)
        dtype = jnp.result_type(*jax.tree.leaves(x))
        t = jnp.asarray(t, dtype)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)

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
    """Adaptive projected guidance: bound the difference of predictions and damp its part along the prediction.

    diff = c.x0 - u.x0 (plus momentum times the average of earlier ones), shortened to length `limit`, split into the
    parts along and across c.x0; x0 = c.x0 + (scale - 1) (across + parallel along). `parallel=1` without limit and
    momentum is classifier-free guidance.

    The momentum lives in a steer: `js.sample(..., steer=js.steer.Memory())`. Without it each row stands alone.

    Args:
        cond: conditional denoiser.
        uncond: unconditional denoiser on the same schedule.
        scale: guidance weight as in `ClassifierFree`; 1 is plain conditional.
        parallel: weight eta of the part along the prediction, which saturates images; 0 removes it.
        limit: largest length r of the difference, > 0; None for no limit.
        momentum: beta of the running difference diff + beta average, commonly negative; 0 for none.
        memory: running difference, set by `js.steer.Memory`.
        event_ndim: how many trailing axes make one sample; None means all of x is one sample (static).

    Returns:
        `Guided(x0, eps, aux)` with the running difference as aux.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for a number that is not finite, or a limit that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[m], stds=[1.0])
        >>> apg = js.denoise.APG(law([1.0, 0.0]), law([0.0, 1.0]), scale=3.0, parallel=0.0)
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
    scale: Any
    parallel: Any
    limit: Any
    momentum: Any
    memory: Any
    event_ndim: int | None = static(default=None)

    def __init__(
        self, cond: Any, uncond: Any, scale: Any = 1.0, *, parallel: Any = 0.0, limit: Any = None, momentum: Any = 0.0,
        memory: Any = None, event_ndim: int | None = None,
    ):  # fmt: skip
        check_number("APG: parallel", parallel)
        check_number("APG: momentum", momentum)
        if limit is not None:
            check_number("APG: limit", limit, low=0, open_low=True)
        _check_event("APG", event_ndim)
        values = {"joint": join("APG", cond=cond, uncond=uncond), "scale": check_scale("APG: scale", scale)}
        values |= {"parallel": parallel, "limit": limit, "momentum": momentum, "memory": memory}
        for name, value in {**values, "event_ndim": event_ndim}.items():
            object.__setattr__(self, name, value)

    def _project(self, c, diff, scale):
        number = lambda value: jnp.asarray(value, diff.dtype)
        if self.limit is not None:
            square = _inner(diff, diff, self.event_ndim)
            long = square > number(self.limit) ** 2
            diff = diff * jnp.where(long, number(self.limit) / jnp.sqrt(jnp.where(long, square, 1)), 1)
        square = _inner(c, c, self.event_ndim)
        share = _inner(diff, c, self.event_ndim) / jnp.where(square > 0, square, 1)
        return (scale - 1) * (diff + (number(self.parallel) - 1) * share * c)

    def combine(self, t, *found):
        """The conditional prediction plus the projected difference."""
        cond, uncond = found
        diff = jax.tree.map(jnp.subtract, cond.x0, uncond.x0)
        if self.memory is not None:
            diff = jax.tree.map(lambda d, m: d + jnp.asarray(self.momentum, d.dtype) * m, diff, self.memory.value)
        change = jax.tree.map(lambda c, d: self._project(c, d, weigh(self.scale, t, c)), cond.x0, diff)
        return shift_x0(self.schedule, t, Guided(cond.x0, cond.eps, aux=diff), change)


@pytree
class CFGZero(Guidance):
    """CFG-Zero*: guidance of a flow whose unconditional velocity is first scaled to the conditional one.

    With velocities v = dx/dt of both predictions, s = <v_c, v_u> / |v_u|^2 over one sample, and
    v = s v_u + scale (v_c - s v_u). At times above `still` the velocity is zero: an early flow network says little.

    Args:
        cond: conditional denoiser.
        uncond: unconditional denoiser on the same schedule.
        scale: guidance weight as in `ClassifierFree`; 1 is plain conditional.
        still: time above which nothing moves (the paper's zero-init: a time between the first and the second row), or
            None.
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
    scale: Any
    still: Any
    event_ndim: int | None = static(default=None)

    def __init__(self, cond: Any, uncond: Any, scale: Any = 1.0, *, still: Any = None, event_ndim: int | None = None):
        if still is not None:
            check_number("CFGZero: still", still)
        _check_event("CFGZero", event_ndim)
        object.__setattr__(self, "joint", join("CFGZero", cond=cond, uncond=uncond))
        object.__setattr__(self, "scale", check_scale("CFGZero: scale", scale))
        object.__setattr__(self, "still", still)
        object.__setattr__(self, "event_ndim", event_ndim)

    def combine(self, t, *found):
        """The conditional prediction, moved as far as its velocity is."""
        dtype = jnp.result_type(*jax.tree.leaves(found[0].x0))
        t = jnp.asarray(t, dtype)
        one = jnp.ones_like(t)
        (alpha, da), (sigma, ds) = (jax.jvp(f, (t,), (one,)) for f in (self.schedule.alpha, self.schedule.sigma))
        c, u = (jax.tree.map(lambda d, e: da * d + ds * e, p.x0, p.eps) for p in found)

        def change(c, u):
            """Guided minus conditional velocity: zero where there is nothing to guide."""
            square = _inner(u, u, self.event_ndim)
            u = u * jnp.where(square > 0, _inner(c, u, self.event_ndim) / jnp.where(square > 0, square, 1), 1)
            moved = (weigh(self.scale, t, c) - 1) * (c - u)
            return moved if self.still is None else jnp.where(t > self.still, -c, moved)

        velocity, norm = jax.tree.map(change, c, u), alpha * ds - sigma * da
        x0 = jax.tree.map(lambda d, v: d - sigma / norm * v, found[0].x0, velocity)
        eps = jax.tree.map(lambda e, v: e + alpha / norm * v, found[0].eps, velocity)
        return found[0]._replace(x0=x0, eps=eps)
