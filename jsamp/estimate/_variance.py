"""Variance reduction: control variates, antithetic pairs, stratified pairs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._types import Key
from jsamp.estimate import _arrays
from jsamp.estimate._types import Estimate
from jsamp.select._rows import power_of_two


class Controlled(NamedTuple):
    """Hold a mean with and without control variates.

    Args:
        estimate: `Estimate` with the controls.
        raw: `Estimate` of the plain mean.
        coefficient: [c] regression coefficients of the controls.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> x = jnp.linspace(-1, 1, 11)
        >>> js.estimate.control_variate(3 * x + 1, x[:, None]).coefficient.round(4).tolist()
        [3.0]
    """

    estimate: Any
    raw: Any
    coefficient: Any


@jax.jit
def _controlled(values, controls, means):
    n, c = controls.shape
    size, sizes = power_of_two(values), power_of_two(controls, 0)[0]
    values, controls, means = values * size, controls * sizes[None], means * sizes
    centre, middle = jnp.mean(values), jnp.mean(controls, 0)
    scale = jnp.std(controls, 0)
    unit = jnp.where(scale > 0, scale, 1)
    design, target = (controls - middle[None]) / unit[None], values - centre
    coefficient = jnp.linalg.lstsq(design, target)[0]
    residual = target - jnp.sum(design * coefficient[None], 1)
    coefficient = jnp.where(scale > 0, coefficient / unit, 0)
    raw_error = jnp.std(values, ddof=1) / math.sqrt(n)
    error = jnp.sqrt(jnp.sum(residual**2) / (n - c - 1) / n)
    value, num = centre - jnp.sum(coefficient * (middle - means)), jnp.asarray(n, values.dtype)
    controlled = Estimate(value / size, error / size, num * (raw_error / error) ** 2)
    return Controlled(controlled, Estimate(centre / size, raw_error / size, num), coefficient * sizes / size)


def control_variate(values: Any, controls: Any, means: Any = 0.0) -> Controlled:
    """Estimate a mean with the help of quantities whose means are known: control variates by regression.

    value = mean(values) - b . (mean(controls) - means), b from least squares; its error is that of the residuals, with
    n - c - 1 degrees of freedom. The bias of the fitted b is of order 1 / n. ess is the number of plain draws that
    would give the same error.

    Args:
        values: [n] draws of what is wanted.
        controls: [n, c] draws of the controls at the same points.
        means: [c] or scalar, their known means.

    Returns:
        `Controlled(estimate, raw, coefficient [c])`.

    Raises:
        ValueError: for fewer than c + 2 rows, or shapes that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> x = jax.random.normal(jax.random.key(0), (1000,))
        >>> found = js.estimate.control_variate(jnp.exp(x), jnp.stack([x, x**2 - 1], 1))
        >>> bool(found.estimate.stderr < 0.5 * found.raw.stderr)
        True

    Cost:
        One least-squares problem [n, c].

    References:
        Owen, "Monte Carlo theory, methods and examples", 2013, chapter 8.
    """
    values = _arrays.array("control_variate: values", values, "n", low=3)
    controls = _arrays.array("control_variate: controls", controls, "n c", low=3).astype(values.dtype)
    _arrays.same_length("control_variate", values=values, controls=controls)
    n, c = controls.shape
    if n < c + 2:
        raise ValueError(f"control_variate: {c} controls need at least {c + 2} rows, got {n}.")
    means = _arrays.array("control_variate: means", means, "...").astype(controls.dtype)
    if means.shape not in ((), (c,)):
        raise ValueError(f"control_variate: means must be a scalar or [{c}], got shape {means.shape}.")
    return _controlled(values, controls, jnp.broadcast_to(means, (c,)))


def antithetic(key: Key, num: int, dim: int) -> jax.Array:
    """Draw antithetic pairs of uniforms, u and 1 - u; `paired(values, "antithetic")` finishes.

    Args:
        key: one key.
        num: pairs.
        dim: coordinates.

    Returns:
        [num, 2, dim] in (0, 1).

    Raises:
        ValueError: for num < 2 or dim < 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> u = js.estimate.antithetic(jax.random.key(0), 100, 1)
        >>> found = js.estimate.paired(jnp.exp(u[..., 0]), "antithetic")
        >>> bool(abs(found.value - 1.71828) < 4 * found.stderr) and float(found.stderr) < 0.01
        True

    Cost:
        num x dim uniforms.

    References:
        Hammersley and Morton, "A new Monte Carlo technique: antithetic variates", 1956.
    """
    _checks.check_key(key, "antithetic")
    num, dim = _checks.check_count("antithetic: num", num, low=2), _checks.check_count("antithetic: dim", dim)
    u = open_uniform(key, (num, 1, dim))
    return jnp.concatenate([u, 1 - u], 1)


def open_uniform(key: Key, shape: tuple[int, ...]) -> jax.Array:
    """Uniforms on the 2^24 midpoints of (0, 1), so that both u and 1 - u are exact and never 0."""
    return ((jax.random.bits(key, shape) >> 9).astype(jnp.float32) + 0.5) * np.float32(2.0**-23)


def stratified_pairs(key: Key, splits: int, dim: int) -> jax.Array:
    """Draw two independent uniforms in each cell of a regular grid; `paired(values, "stratified")` finishes.

    Args:
        key: one key.
        splits: cells along each axis.
        dim: coordinates.

    Returns:
        [splits^dim, 2, dim] in (0, 1).

    Raises:
        ValueError: for splits or dim < 1, or more than 2^24 cells.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> u = js.estimate.stratified_pairs(jax.random.key(0), 10, 2)
        >>> found = js.estimate.paired(jnp.exp(u.sum(-1)), "stratified")
        >>> bool(abs(found.value - 1.71828**2) < 4 * found.stderr)
        True

    Cost:
        2 dim splits^dim uniforms.

    References:
        Owen, "Monte Carlo theory, methods and examples", 2013, chapter 8.
    """
    _checks.check_key(key, "stratified_pairs")
    splits = _checks.check_count("stratified_pairs: splits", splits)
    dim = _checks.check_count("stratified_pairs: dim", dim)
    if splits**dim > 2**24:
        raise ValueError(f"stratified_pairs: {splits}^{dim} cells are too many. Stratify fewer coordinates.")
    cells = jnp.stack(jnp.meshgrid(*[jnp.arange(splits)] * dim, indexing="ij"), -1).reshape(-1, 1, dim)
    return (cells + open_uniform(key, (splits**dim, 2, dim))) / np.float32(splits)


@jax.jit
def _antithetic(values):
    means = jnp.mean(values, 1)
    error = jnp.std(means, axis=0, ddof=1) / math.sqrt(values.shape[0])
    return jnp.mean(means, 0), error


@jax.jit
def _stratified(values):
    gap = values[:, 0] - values[:, 1]
    return jnp.mean(values, (0, 1)), jnp.sqrt(jnp.sum(gap**2, 0)) / (2 * values.shape[0])


def paired(values: Any, kind: str) -> Estimate:
    """Estimate a mean from values at antithetic or stratified pairs.

    antithetic: pairs are independent of each other, so stderr = sd(pair means) / sqrt(n). stratified: cells are, and
    the two values of a cell tell its own variance, stderr^2 = sum (v1 - v2)^2 / (4 n^2). ess compares with independent
    draws: var(values) / stderr^2; all 2 n of them where every value is the same.

    Args:
        values: [n, 2, ...] at the points of `antithetic` or `stratified_pairs`.
        kind: "antithetic" or "stratified".

    Returns:
        `Estimate`.

    Raises:
        ValueError: for an unknown kind or values that are not pairs.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.estimate.paired(jnp.array([[0.0, 1.0], [0.25, 0.75]]), "antithetic").value.item()
        0.5

    Cost:
        One pass.

    References:
        Owen, "Monte Carlo theory, methods and examples", 2013, chapter 8.
    """
    kinds = {"antithetic": _antithetic, "stratified": _stratified}
    _checks.check_choice("paired: kind", kind, tuple(kinds))
    values = _arrays.array("paired: values", values, "...", low=2 if kind == "antithetic" else 1)
    if values.ndim < 2 or values.shape[1] != 2:
        raise ValueError(f"paired: values must be [n, 2, ...], got shape {values.shape}.")
    unit = power_of_two(values, (0, 1))
    values, unit = values * unit, unit[0, 0]
    value, error = kinds[kind](values)
    variance = jnp.var(values, axis=(0, 1))
    constant = (variance == 0) & (error == 0)
    ess = jnp.where(constant, 2.0 * values.shape[0], variance / jnp.where(constant, 1, error**2))
    return Estimate(value / unit, error / unit, ess)
