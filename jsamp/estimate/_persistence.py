"""How long a smooth stationary Gaussian process keeps its sign: the independent interval approximation."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._numerics import gauss_legendre
from jsamp._core._types import Key
from jsamp.estimate import _arrays

PANELS = 128
SMALL = 1e-10  # survival below which the horizon ends
COVARIANCE = "r(t)"


def _curvature(r):
    zero = jnp.zeros(())
    return -jax.grad(jax.grad(r))(zero)


def _plain(r, speed, t):
    """-r' / (speed sqrt(1 - r^2)), with 1 - r^2 = (1 - r)(1 + r)."""
    value, slope = r(t), jax.grad(r)(t)
    return -slope / (speed * jnp.sqrt(jnp.maximum((1 - value) * (1 + value), 1e-30)))


def _survival(r, speed, t):
    """D(t), with the power law 1 - D ~ t^p below the time where 1 - r loses its digits."""
    edge = jnp.sqrt(jnp.asarray(0.01 if speed.dtype == jnp.float32 else 1e-6, speed.dtype)) / speed
    near, far = (jnp.maximum(1 - _plain(r, speed, c * edge), 1e-12) for c in (1.0, 2.0))
    power = jnp.clip(jnp.log(far / near) / math.log(2), 0.5, 4.0)
    inner = 1 - near * (jnp.maximum(t, 0) / edge) ** power
    return jnp.where(t < edge, inner, _plain(r, speed, jnp.maximum(t, edge)))


def _decay(r, speed, t):
    """The rate at which D falls before time t."""
    last, before = _plain(r, speed, t), _plain(r, speed, 0.9 * t)
    return jnp.log(jnp.maximum(before, 1e-36) / jnp.maximum(last, 1e-37)) / (0.1 * t)


def _grid(r, speed):
    """Quadrature nodes and weights up to the horizon where D is negligible, D there, and its decay rate."""
    horizon = jax.lax.while_loop(
        lambda h: (_plain(r, speed, h) > SMALL) & (h * speed < 2.0**16), lambda h: h * 1.25, 2 / speed
    )
    nodes, weights = gauss_legendre(16)
    # Panels grow from the origin, where D bends, to the horizon.
    edges = np.linspace(0, 1, PANELS + 1) ** 2
    width = np.diff(edges)
    t = jnp.asarray((edges[:-1, None] + width[:, None] * nodes[None]).reshape(-1), speed.dtype) * horizon
    w = jnp.asarray((width[:, None] * weights[None]).reshape(-1), speed.dtype) * horizon
    value = jax.vmap(lambda t: _survival(r, speed, t))(t)
    return t, w, value, horizon, _decay(r, speed, horizon)


@jax.jit
def _checked(r):
    zero, curve = jnp.zeros(()), _curvature(r)
    speed = jnp.sqrt(jnp.where(curve > 0, curve, 1))
    t, _, value, horizon, decay = _grid(r, speed)
    step = 0.3 / speed
    quotient = 2 * (1 - r(step)) / step**2
    bound = jnp.max(jnp.abs(jax.vmap(r)(t)))
    # A power law falls at a rate of its own at every time: the rate has halved at twice the time.
    decay = jnp.where(decay > 0.8 * _decay(r, speed, horizon / 2), decay, 0)
    rise = jnp.max(jnp.diff(value))
    return r(zero), curve, quotient, bound, rise, jnp.min(value), horizon * speed, decay / speed, jax.grad(r)(zero)


def _check(who, r):
    r = as_tree(f"{who}: r", r, COVARIANCE)
    shape = jax.eval_shape(r, jax.ShapeDtypeStruct((), jnp.result_type(float))).shape
    if shape != ():
        raise ValueError(f"{who}: r must map one time to one number, got shape {shape}.")
    known = _checks.concrete(jnp.stack([jnp.asarray(v, jnp.result_type(float)) for v in _checked(r)]))
    if known is None:
        return r
    start, curve, quotient, bound, rise, least, horizon, decay, slope = known
    if abs(start - 1) > 1e-5:
        raise ValueError(f"{who}: r(0) must be 1, got {start:.6g}. Divide the covariance by the variance.")
    if not (curve > 0 and abs(slope) < 1e-3 * np.sqrt(curve) and quotient < 4 * curve):
        raise ValueError(f"{who}: r''(0) must be finite and negative with r'(0) = 0, got {-curve:.4g} and {slope:.4g}. "
                         "A rougher process crosses a level infinitely often.")  # fmt: skip
    if not bound <= 1 + 1e-5:
        raise ValueError(f"{who}: |r| reaches {bound:.4g}, above r(0): this is no covariance.")
    if rise > 3e-4 or least < -1e-6:
        raise ValueError(f"{who}: -r' / sqrt(1 - r^2) must fall from 1 to 0, but rises by {rise:.3g} or is "
                         "negative. The approximation wants monotone covariances, arccos r concave.")  # fmt: skip
    if horizon >= 2.0**16 or not decay > 0:
        raise ValueError(f"{who}: r falls too slowly: no exponential rate up to time {horizon:.3g} / sqrt(-r''(0)).")
    return r


@jax.jit
def _survivals(r, t):
    speed = jnp.sqrt(_curvature(r))
    flat = jax.vmap(lambda t: _survival(r, speed, t))(t.reshape(-1))
    return flat.reshape(t.shape)


def slepian_survival(r: Any, t: Any) -> jax.Array:
    """Compute the survival function D(t) whose geometric sums are the times between zeros of a Gaussian process.

    D(t) = -r'(t) / sqrt(-r''(0) (1 - r(t)^2)), the mean sign at time t after an up-crossing (Slepian model). Where it
    falls from 1 to 0 the interval between zeros is Y_1 + ... + Y_N, N geometric with mean 2, P(Y > t) = D(t).

    Args:
        r: covariance, time >= 0 -> scalar with r(0) = 1, twice differentiable at 0; a JAX function.
        t: times [...], >= 0.

    Returns:
        D at the times.

    Raises:
        ValueError: for r(0) != 1, a rough or non-monotone covariance, or negative times.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> diffusion = lambda t: 1 / jnp.cosh(t / 2)  # diffusion from random initial values in the plane
        >>> found = js.estimate.slepian_survival(diffusion, jnp.array([0.0, 2.0]))  # sech(t / 2) itself
        >>> bool(jnp.allclose(found, jnp.array([1.0, 0.64805]), atol=1e-4))
        True

    Cost:
        Two evaluations of r a time.

    References:
        "Approximate persistence of Gaussian processes by the Slepian model", 2024, arXiv:2401.01805.
    """
    r = _check("slepian_survival", r)
    t = _arrays.array("slepian_survival: t", t, "...")
    _checks.check_number("slepian_survival: t", t, low=0)
    return _survivals(r, t)


@jax.jit
def _exponent(r):
    speed = jnp.sqrt(_curvature(r))
    t, w, value, horizon, decay = _grid(r, speed)
    log = jnp.log(jnp.maximum(value, 1e-37)) + jnp.log(w)
    last = jnp.log(jnp.maximum(value[-1], 1e-37))

    def excess(rate):
        tail = jnp.exp(last + rate * horizon) / jnp.maximum(decay - rate, 1e-6 * decay)
        return rate * (jnp.sum(jnp.exp(log + rate * t)) + tail) - 1

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        low = excess(middle) < 0
        return jnp.where(low, middle, ends[0]), jnp.where(low, ends[1], middle)

    low, high = jax.lax.fori_loop(0, 40, halve, (0 * decay, decay))
    return (low + high) / 2


def slepian_exponent(r: Any) -> jax.Array:
    """Compute the persistence exponent of a smooth stationary Gaussian process from its covariance alone.

    P(no zero up to t) ~ exp(-theta t), with theta the smallest root of theta int e^(theta t) D(t) dt = 1
    (`slepian_survival`). Within about 1% of simulations where the covariance is monotone: .1862 for diffusion in the
    plane, whose exponent is 3 / 16; 6% above for random acceleration. theta scales as time does: for a Matern
    covariance of length l it is per unit of sqrt(2 nu) / l.

    Args:
        r: covariance, time >= 0 -> scalar with r(0) = 1, twice differentiable at 0; a JAX function.

    Returns:
        theta, a scalar; differentiable by finite differences only.

    Raises:
        ValueError: for r(0) != 1, a rough or non-monotone covariance, or one without an exponential rate.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> round(float(js.estimate.slepian_exponent(lambda t: 1 / jnp.cosh(t / 2))), 4)
        0.1862

    Cost:
        2,048 evaluations of r and its derivative.

    References:
        "Approximate persistence of Gaussian processes by the Slepian model", 2024, arXiv:2401.01805. Majumdar, Sire,
        Bray and Cornell, "Nontrivial exponent for simple diffusion", 1996.
    """
    return _exponent(_check("slepian_exponent", r))


@functools.partial(jax.jit, static_argnames="num")
def _sample(key, r, num):
    speed = jnp.sqrt(_curvature(r))
    t, _, value, horizon, decay = _grid(r, speed)
    t = jnp.concatenate([jnp.zeros(1, t.dtype), t])
    level = jnp.concatenate([jnp.zeros(1, t.dtype), -jnp.log(jnp.clip(value, 1e-37, 1))])
    level = jax.lax.cummax(level)

    def one_more(state):
        total, going, i = state
        first, second = jax.random.split(jax.random.fold_in(key, i))
        words = jax.random.bits(first, (2, num), jnp.uint32).astype(jnp.float32)
        unit = (words[0] + (words[1] + 0.5) * np.float32(2.0**-32)) * np.float32(2.0**-32)
        clock = -jnp.log(jnp.minimum(unit, 1 - np.float32(2.0**-24))).astype(t.dtype)
        step = jnp.interp(clock, level, t)
        step = jnp.where(clock > level[-1], horizon + (clock - level[-1]) / decay, step)
        total = total + jnp.where(going, step, 0)
        return total, going & jax.random.bernoulli(second, 0.5, (num,)), i + 1

    start = (jnp.zeros(num, t.dtype), jnp.ones(num, bool), 0)
    return jax.lax.while_loop(lambda s: jnp.any(s[1]), one_more, start)[0]


def slepian_sample(key: Key, r: Any, num: int) -> jax.Array:
    """Draw times between zeros of a smooth stationary Gaussian process, by the independent interval approximation.

    A geometric number (mean 2) of draws with survival function `slepian_survival`. Their mean is pi / sqrt(-r''(0))
    exactly, as Rice's formula has it.

    Args:
        key: one key.
        r: covariance, time >= 0 -> scalar with r(0) = 1, twice differentiable at 0; a JAX function.
        num: draws (static).

    Returns:
        [num] times.

    Raises:
        ValueError: as `slepian_survival`.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> draws = js.estimate.slepian_sample(jax.random.key(0), lambda t: 1 / jnp.cosh(t / 2), 10_000)
        >>> abs(float(draws.mean()) - 2 * jnp.pi) < 0.3
        True

    Cost:
        About log2(num) rounds of num interpolations.

    References:
        "Approximate persistence of Gaussian processes by the Slepian model", 2024, arXiv:2401.01805.
    """
    _checks.check_key(key, "slepian_sample")
    return _sample(key, _check("slepian_sample", r), _checks.check_count("slepian_sample: num", num))


@functools.partial(jax.jit, static_argnames="num")
def _spectrum(r, step, num):
    lags = jnp.arange(num + 1) * step
    row = jax.vmap(r)(lags)
    circle = jnp.concatenate([row, row[-2:0:-1]])
    return jnp.fft.rfft(circle).real


@functools.partial(jax.jit, static_argnames="num")
def _path(key, spectrum, num):
    size = 2 * (spectrum.shape[0] - 1)
    white = jnp.fft.rfft(jax.random.normal(key, (size,), spectrum.dtype))
    return jnp.fft.irfft(white * jnp.sqrt(jnp.maximum(spectrum, 0)), size)[:num]


def gaussian_process(key: Key, r: Any, num: int, step: Any) -> jax.Array:
    """Draw a stationary Gaussian process on a regular grid, exactly, by circulant embedding.

    The covariances of 2 num points on a circle are diagonal in Fourier space: white noise times the roots of their
    eigenvalues has covariance r between any two of the first num points.

    Args:
        key: one key; `jax.vmap` over keys gives paths.
        r: covariance, time >= 0 -> scalar; a JAX function.
        num: points (static).
        step: time between points.

    Returns:
        [num] values.

    Raises:
        ValueError: where the embedding is not positive: the covariance has not died out over num steps.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> js.estimate.gaussian_process(jax.random.key(0), lambda t: jnp.exp(-t**2 / 2), 1000, 0.1).shape
        (1000,)

    Cost:
        Three FFTs of 2 num points.

    References:
        Dietrich and Newsam, "Fast and exact simulation of stationary Gaussian processes through circulant embedding of
        the covariance matrix", 1997.
    """
    _checks.check_key(key, "gaussian_process")
    r = as_tree("gaussian_process: r", r, COVARIANCE)
    num = _checks.check_count("gaussian_process: num", num, low=2)
    _checks.check_number("gaussian_process: step", step, low=0, open_low=True)
    spectrum = _spectrum(r, step, num)
    known = _checks.concrete(spectrum)
    if known is not None and not known.min() > -1e-4 * known.max():
        raise ValueError(f"gaussian_process: the embedding has eigenvalue {known.min():.3g} beside {known.max():.3g}. "
                         "Take more points, so that r dies out over num steps; is it a covariance?")  # fmt: skip
    return _path(key, spectrum, num)


class Excursions(NamedTuple):
    """Hold times between zeros of a path.

    Args:
        length: [num - 1] time since the zero before, at each place where a zero was found.
        mask: [num - 1] whether there is a complete interval; the first and the last of a path are cut and not counted.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> found = js.estimate.excursions(jnp.array([1.0, -1.0, -1.0, 1.0, 3.0]), 1.0)
        >>> found.length[found.mask].tolist()
        [2.0]
    """

    length: Any
    mask: Any


def excursions(path: Any, step: Any) -> Excursions:
    """Find the times between zeros of a path on a regular grid, by linear interpolation.

    Args:
        path: [num] values; `jax.vmap` over paths.
        step: time between points.

    Returns:
        `Excursions(length [num - 1], mask [num - 1])`.

    Raises:
        ValueError: for fewer than two points, NaN, or a step that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> path = jnp.sin(jnp.arange(1000) * 0.1)
        >>> found = js.estimate.excursions(path, 0.1)
        >>> bool(jnp.allclose(found.length[found.mask], jnp.pi, atol=1e-3))
        True

    Cost:
        One pass.
    """
    path = _arrays.array("excursions: path", path, "n", low=2)
    _checks.check_scalar("excursions: step", step, low=0, open_low=True)
    left, right = path[:-1], path[1:]
    crossed = (left < 0) != (right < 0)
    part = jnp.where(crossed, left / jnp.where(crossed, left - right, 1), 0)
    index = jnp.arange(left.shape[0])
    last = jax.lax.cummax(jnp.where(crossed, index, -1))
    before = jnp.concatenate([jnp.full(1, -1, last.dtype), last[:-1]])
    mask = crossed & (before >= 0)
    # Whole steps and fractions apart: times far from the start keep their digits.
    whole = (index - before).astype(path.dtype)
    length = (whole + part - part[jnp.maximum(before, 0)]) * jnp.asarray(step, path.dtype)
    return Excursions(jnp.where(mask, length, 0), mask)
