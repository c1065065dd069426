"""Geometry of score models: how far from a gradient field, and how many dimensions the data have."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._mesh import vary
from jsamp._core._types import Key
from jsamp.estimate import _arrays
from jsamp.estimate._types import Estimate
from jsamp.noise._protocol import check_times
from jsamp.select._rows import power_of_two


def _flat(who, name, function, x):
    """A field on flat vectors, from one on arrays of any shape; refused unless it keeps the shape."""
    shape = x.shape
    out = jax.eval_shape(function, x)
    if jax.tree.structure(out).num_leaves != 1 or jax.tree.leaves(out)[0].shape != shape:
        raise ValueError(
            f"{who}: {name}(x) must have the shape of x, {shape}; got {jax.tree.map(lambda a: a.shape, out)}."
        )
    return lambda v: function(v.reshape(shape)).reshape(-1)


def _signs(key, probes, x):
    return vary(jax.random.rademacher(key, (probes, x.size), x.dtype), x)


def _probes(who, key, probes):
    if probes is None:
        return None
    _checks.check_key(key, who)
    return _checks.check_count(f"{who}: probes", probes, low=2)


def asymmetry(key: Key | None, field: Any, x: Any, *, probes: int | None = None) -> Estimate:
    """Measure how far a vector field is from a gradient at a point: |J - J^T|^2 / (4 |J|^2), in [0, 1].

    0 for a symmetric Jacobian, 1 for an antisymmetric one (squared Frobenius norms). By Hutchinson's probes v it is
    sum |J v - J^T v|^2 / (4 sum |J v|^2), with the error of the ratio. A gauge field changes it and not the law of the
    samples, so it is a diagnosis, not a defect.

    Args:
        key: one key for the probes; None without.
        field: x -> array like x, for example `lambda x: denoiser(x, t).eps`.
        x: one point, any shape.
        probes: random directions (static); None computes the whole Jacobian.

    Returns:
        `Estimate`; error 0 and ess x.size for the whole Jacobian.

    Raises:
        ValueError: for a field that changes the shape, or fewer than two probes.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> turn = jnp.array([[1.0, -1.0], [1.0, 1.0]])
        >>> float(js.estimate.asymmetry(None, lambda x: turn @ x, jnp.ones(2)).value)
        0.5

    Cost:
        One forward and one reverse product a probe; x.size forward products without.

    References:
        Horvat and Pfister, "On gauge freedom, conservativity and intrinsic dimensionality estimation in diffusion
        models", 2024, arXiv:2402.03845.
    """
    field = as_tree("asymmetry: field", field, "field(x)")
    x = _arrays.array("asymmetry: x", x, "...")
    flat, point = _flat("asymmetry", "field", field, x), x.reshape(-1)
    probes = _probes("asymmetry", key, probes)
    if probes is None:
        jacobian = jax.jacfwd(flat)(point)
        jacobian = jacobian * power_of_two(jacobian)
        top, whole = jnp.sum((jacobian - jacobian.T) ** 2), 4 * jnp.sum(jacobian**2)
        value = jnp.where(whole > 0, top / jnp.where(whole > 0, whole, 1), 0)
        return Estimate(value, jnp.zeros_like(value), jnp.full_like(value, x.size))
    _, pull = jax.vjp(flat, point)

    def both(v):
        return jnp.stack([jax.jvp(flat, (point,), (v,))[1], pull(v)[0]])

    signs = _signs(key, probes, x)
    unit = power_of_two(both(signs[0]))

    def one(v):
        forward, backward = both(v) * unit
        return jnp.sum((forward - backward) ** 2), 4 * jnp.sum(forward**2)

    top, whole = jax.lax.map(one, signs)
    scale = jnp.mean(whole)
    safe = jnp.where(scale > 0, scale, 1)
    value = jnp.where(scale > 0, jnp.mean(top) / safe, 0)
    error = jnp.std(top - value * whole, ddof=1) / safe / math.sqrt(probes)
    return Estimate(value, error, jnp.full_like(value, probes))


def _divergence(flat, point, key, probes, x):
    """Divergence and its error: exact, or by random signs."""
    if probes is None:
        value = jnp.trace(jax.jacfwd(flat)(point))
        return value, jnp.zeros_like(value), jnp.full_like(value, x.size)
    values = jax.lax.map(lambda v: jnp.sum(v * jax.jvp(flat, (point,), (v,))[1]), _signs(key, probes, x))
    value = jnp.mean(values)
    return value, jnp.std(values, ddof=1) / math.sqrt(probes), jnp.full_like(value, probes)


def gauge_residual(key: Key | None, field: Any, score: Any, x: Any, *, probes: int | None = None) -> Estimate:
    """Measure whether a vector field moves the law at a point: div r + r . score, 0 everywhere for a gauge field.

    A field r with div(p r) = 0 may be added to the score without changing the law of what is sampled. Average the
    absolute value over samples of p.

    Args:
        key: one key for the probes; None without.
        field: x -> r(x), like x.
        score: x -> grad log p(x), like x.
        x: one point, any shape.
        probes: random directions (static); None computes the divergence exactly.

    Returns:
        `Estimate`.

    Raises:
        ValueError: for fields that change the shape, or fewer than two probes.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
        >>> float(js.estimate.gauge_residual(None, lambda x: turn @ x, lambda x: -x, jnp.array([0.3, 2.0])).value)
        0.0

    Cost:
        One forward product a probe; x.size without.

    References:
        Horvat and Pfister, 2024, arXiv:2402.03845.
    """
    field = as_tree("gauge_residual: field", field, "field(x)")
    score = as_tree("gauge_residual: score", score, "score(x)")
    x = _arrays.array("gauge_residual: x", x, "...")
    flat, point = _flat("gauge_residual", "field", field, x), x.reshape(-1)
    other = _flat("gauge_residual", "score", score, x)
    value, error, size = _divergence(flat, point, key, _probes("gauge_residual", key, probes), x)
    return Estimate(value + jnp.sum(flat(point) * other(point)), error, size)


def _levels(who, denoiser, t, dtype):
    _checks.check_callable(f"{who}: denoiser", denoiser, "denoiser(x, t)")
    if not hasattr(denoiser, "schedule"):
        raise TypeError(f"{who}: denoiser must have a schedule. Wrap the network in js.Denoiser.")
    _checks.check_scalar(f"{who}: t", t)
    check_times(f"{who}: t", denoiser.schedule, t)
    t = jnp.asarray(t, dtype)
    alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
    known = _checks.concrete((alpha, sigma))
    if known is not None and not (known > 0).all():
        raise ValueError(f"{who}: alpha = {known[0]:.4g} and sigma = {known[1]:.4g} at t = {t}; both must be positive.")
    return t, alpha, sigma


def flipd(key: Key | None, denoiser: Any, x: Any, t: Any, *, probes: int | None = None) -> Estimate:
    """Estimate the local dimension of data at a point from a denoiser: FLIPD, by the growth of the smoothed density.

    d - sigma div eps + |eps|^2 at alpha x, which is d + sigma^2 (div s + |s|^2) for the score s = -eps / sigma. For
    data N(m, S) at x = m it is sum_i l_i / (l_i + (sigma / alpha)^2) over eigenvalues l: those far above the noise
    count 1, those far below 0. Take sigma between the thickness and the curvature of the data.

    Args:
        key: one key for the probes; None without.
        denoiser: callable tree (x, t) -> Prediction, with a `schedule`.
        x: one clean point, any shape.
        t: the time, where 0 < sigma.
        probes: random directions (static); None computes the divergence exactly.

    Returns:
        `Estimate`.

    Raises:
        TypeError: for what is no denoiser.
        ValueError: for a t without signal or without noise, or fewer than two probes.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> line = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0]], stds=[[1.0, 1e-3]])
        >>> round(float(js.estimate.flipd(None, line, jnp.zeros(2), 0.05).value), 2)
        1.0

    Cost:
        One forward product a probe; x.size without.

    References:
        Kamkari et al., "A geometric view of data complexity: efficient local intrinsic dimension estimation with
        diffusion models", 2024, arXiv:2406.03537.
    """
    x = _arrays.array("flipd: x", x, "...")
    t, alpha, sigma = _levels("flipd", denoiser, t, x.dtype)
    probes = _probes("flipd", key, probes)
    flat = _flat("flipd", "denoiser", lambda x: denoiser(x, t).eps, x)
    point = (alpha * x).reshape(-1)
    value, error, size = _divergence(flat, point, key, probes, x)
    return Estimate(x.size - sigma * value + jnp.sum(flat(point) ** 2), sigma * error, size)


def normal_dimension(key: Key, denoiser: Any, x: Any, t: Any, *, num: int | None = None) -> jax.Array:
    """Estimate the local dimension of data at a point by the rank of scores around it: they point along the normals.

    Scores at alpha x + sigma z for `num` normal z; their singular values fall at the largest ratio between
    neighbours, and what is above it spans the normal space. d minus its size is the dimension. At least one normal
    direction is assumed.

    Args:
        key: one key.
        denoiser: callable tree (x, t) -> Prediction, with a `schedule`.
        x: one clean point, any shape with at least two numbers.
        t: the time; sigma above the thickness of the data and below its curvature.
        num: scores (static); None takes 4 x.size.

    Returns:
        int32 scalar, 0 to d - 1; -1 where all scores are 0, or some are no numbers.

    Raises:
        TypeError: for what is no denoiser.
        ValueError: for a t without signal or noise, fewer scores than x has numbers, or a single number.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> plane = js.denoise.GaussianMixture(
        ...     js.noise.VE(), weights=[1.0], means=[[0.0, 0.0, 0.0]], stds=[[1.0, 1.0, 1e-4]])
        >>> int(js.estimate.normal_dimension(jax.random.key(0), plane, jnp.zeros(3), 0.01))
        2

    Cost:
        4 d denoiser calls and a singular value decomposition [4 d, d].

    References:
        Stanczuk et al., "Diffusion models encode the intrinsic dimension of data manifolds", 2022, arXiv:2212.12611.
    """
    _checks.check_key(key, "normal_dimension")
    x = _arrays.array("normal_dimension: x", x, "...")
    if x.size < 2:
        raise ValueError("normal_dimension: x is a single number, whose normal space has no gap to look for.")
    t, alpha, sigma = _levels("normal_dimension", denoiser, t, x.dtype)
    num = _checks.check_count("normal_dimension: num", 4 * x.size if num is None else num, low=x.size)
    noise = jax.random.normal(key, (num, *x.shape), x.dtype)
    scores = jax.vmap(lambda z: denoiser(alpha * x + sigma * z, t).eps.reshape(-1))(noise)
    values = jnp.linalg.svd(scores, compute_uv=False)
    floor = jnp.finfo(x.dtype).eps * values[0]
    ratio = values[:-1] / jnp.maximum(values[1:], floor)
    known = (values[0] > 0) & jnp.isfinite(values[0])
    return jnp.where(known, x.size - 1 - jnp.argmax(ratio), -1).astype(jnp.int32)


def flow_singular_values(flow: Any, x: Any) -> jax.Array:
    """Compute the singular values of the Jacobian of a sampler: how it stretches noise along and across the data.

    Along tangents of the data they settle at the spread of the data, across at zero: the number above the gap is the
    local dimension. The exact flow of N(m, S) from sigma_T to sigma has sqrt((l_i + sigma^2) / (l_i + sigma_T^2)).

    Args:
        flow: noise -> sample, deterministic: `lambda x: js.sample(None, denoiser, x, plan).x`.
        x: one noise, any shape.

    Returns:
        [x.size] singular values, falling.

    Raises:
        TypeError: for what cannot be called.
        ValueError: for a flow that changes the shape.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.estimate.flow_singular_values(lambda x: x * jnp.array([2.0, 0.5]), jnp.ones(2)).tolist()
        [2.0, 0.5]

    Cost:
        x.size forward derivatives of the flow, together.

    References:
        Horvat and Pfister, 2024, arXiv:2402.03845.
    """
    flow = as_tree("flow_singular_values: flow", flow, "flow(x)")
    x = _arrays.array("flow_singular_values: x", x, "...")
    flat = _flat("flow_singular_values", "flow", flow, x)
    return jnp.linalg.svd(jax.jacfwd(flat)(x.reshape(-1)), compute_uv=False)
