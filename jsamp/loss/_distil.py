"""Score distillation: directions that move samples, or whatever renders them, towards a diffusion prior."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._tree import lincomb, normal_like
from jsamp._core._types import Key, Model, Tree
from jsamp.loss._match import as_weight, weigh
from jsamp.loss._protocol import check_batch
from jsamp.loss._times import UniformTimes, as_times, draw_times
from jsamp.noise._protocol import is_discrete


def _denoiser(who, denoiser):
    _checks.check_callable(who, denoiser, "denoiser(x, t)")
    if not hasattr(denoiser, "schedule"):
        raise TypeError(f"{who} must be a denoiser. Wrap the network in js.Denoiser.")
    return denoiser


def variance(schedule: Any, t: Any) -> Any:
    """The weight of the papers: sigma^2, with alpha of the derivative of x_t absorbed."""
    return schedule.sigma(t) ** 2


def _usual(who, schedule):
    """The papers' times: from 0.02 to 0.98 of all."""
    last = float(schedule.t_max)
    if last != 1 and not is_discrete(schedule):
        raise ValueError(
            f"{who}: times are missing, and the usual 0.02 to 0.98 are meant for times in [0, 1] or indices. Those of "
            f"{type(schedule).__name__} go to {last:g}: pass times=js.loss.UniformTimes(low, high)."
        )
    return UniformTimes(0.02 * last, 0.98 * last)


def _direction(who, key, denoiser, online, x, times, weight):
    """Weight (eps of the prior - reference) at a level and noise drawn for each particle."""
    _checks.check_key(key, who)
    num = check_batch(f"{who}: x", x)
    schedule, weight = _denoiser(f"{who}: denoiser", denoiser).schedule, as_weight(f"{who}: weight", weight)
    x = jax.tree.map(jnp.asarray, x)
    k_time, k_noise = jax.random.split(key)
    dtype = jnp.result_type(*jax.tree.leaves(x))
    times = as_times(f"{who}: times", _usual(who, schedule) if times is None else times)
    t = draw_times(who, k_time, times, schedule, num, dtype)

    def row(x, t, eps):
        noised = lincomb((schedule.alpha(t), schedule.sigma(t)), (x, eps))
        own = eps if online is None else online(noised, t).eps
        size = weigh(weight, schedule, t)
        return jax.tree.map(lambda a, b: (size * (a - b)).astype(b.dtype), denoiser(noised, t).eps, own)

    return jax.lax.stop_gradient(jax.vmap(row)(x, t, normal_like(k_noise, x)))


def sds(key: Key, denoiser: Model, x: Tree, *, times: Any = None, weight: Any = variance) -> Any:
    """Point particles against the modes of the prior: score distillation sampling.

    For each particle G = weight(t) (eps(x_t, t) - eps), x_t = alpha x + sigma eps; descend along G. Its fixed points
    are modes of the blurred prior: particles lose their spread. It is `vsd` with a point mass as the particles' law.

    Args:
        key: one key.
        denoiser: the prior, a denoiser (guided or not).
        x: particles [n, ...], any tree.
        times: callable tree (schedule, u) -> t; None is UniformTimes(0.02, 0.98) of a schedule on [0, 1] and the same
            shares of the indices of a discrete one. The papers take (0.02, 0.5) for the last part of a run.
        weight: number >= 0 or callable tree (schedule, t) -> number; sigma^2 by default.

    Returns:
        G, of the structure of x. Pull it back through a generator with `particle_step`.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for no particles, negative times or weights, or times that are missing for a schedule like `VE`.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[5.0]], stds=[0.1])
        >>> bool(jnp.all(js.loss.sds(jax.random.key(0), law, jnp.zeros((4, 1))) < 0))  # descend: x moves up
        True

    Cost:
        One evaluation of the denoiser for each particle.

    References:
        Poole et al., "DreamFusion: Text-to-3D using 2D Diffusion", 2022, arXiv:2209.14988.
    """
    return _direction("sds", key, denoiser, None, x, times, weight)


def vsd(key: Key, denoiser: Model, online: Model, x: Tree, *, times: Any = None, weight: Any = variance) -> Any:
    """Point particles against the difference of two scores: variational score distillation.

    For each particle G = weight(t) (eps(x_t, t) - eps_online(x_t, t)), where the online denoiser has learned the
    particles' own noised law (by `js.loss.Match` on the particles, at all times). Descending along G the particles
    become samples of the prior: on N(mu, s^2) their variance goes to s^2, where that of `sds` goes to 0.

    Args:
        key: one key.
        denoiser: the prior, a denoiser (guided or not).
        online: the denoiser of the particles, on the same schedule.
        x: particles [n, ...], any tree.
        times: as in `sds`.
        weight: as in `sds`.

    Returns:
        G, of the structure of x.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for no particles, negative times or weights, or times that are missing for a schedule like `VE`.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> jnp.all(js.loss.vsd(jax.random.key(0), law, law, jnp.ones((4, 1))) == 0).item()  # at rest
        True

    Cost:
        One evaluation of each denoiser for each particle.

    References:
        Wang et al., "ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation with Variational Score
        Distillation", 2023, arXiv:2305.16213.
    """
    online = _denoiser("vsd: online", online)
    return _direction("vsd", key, denoiser, online, x, times, weight)


def particle_step(key: Key, render: Model, theta: Tree, direction: Any) -> tuple[Any, Any]:
    """Pull a direction in samples back to the parameters of whatever renders them.

    slope = J^T G / n with x = render(theta) and G = direction(key, x); no derivative of the denoiser is taken.

    Args:
        key: one key, for the direction.
        render: callable tree theta -> particles [n, ...], differentiable; `lambda theta: theta` for the particles
            themselves.
        theta: parameters, any tree.
        direction: callable (key, x) -> G, for example `lambda key, x: js.loss.sds(key, denoiser, x)`.

    Returns:
        (slope, x): the descent direction in theta for any optax optimiser, and the particles, for the online denoiser.

    Raises:
        TypeError: for things that cannot be called, or a G of another structure than x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> toward = lambda key, x: x - 3.0
        >>> slope, x = js.loss.particle_step(jax.random.key(0), lambda w: jnp.stack([w, 2 * w]), jnp.ones(1), toward)
        >>> slope.tolist()  # (1 * (1 - 3) + 2 * (2 - 3)) / 2
        [-2.0]

    Cost:
        One rendering forward and backward, and the direction.

    References:
        Poole et al., "DreamFusion: Text-to-3D using 2D Diffusion", 2022, arXiv:2209.14988.
    """
    _checks.check_key(key, "particle_step")
    _checks.check_callable("particle_step: render", render, "render(theta)")
    _checks.check_callable("particle_step: direction", direction, "direction(key, x)")
    x, pull = jax.vjp(render, theta)
    num = check_batch("particle_step: render(theta)", x)
    slope = direction(key, x)
    if jax.tree.map(jnp.shape, slope) != jax.tree.map(jnp.shape, x):
        raise TypeError("particle_step: direction(key, x) must have the structure and shapes of x.")
    return pull(jax.tree.map(lambda g, v: g.astype(v.dtype) / num, slope, x))[0], x
