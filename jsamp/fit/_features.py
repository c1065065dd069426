"""Random features with a readout by least squares, and what a bound on their weights lets through."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Array, Key, Scalar
from jsamp.fit._covariance import HIGHEST
from jsamp.fit._protocol import check_known

UNITS = {
    "tanh": jnp.tanh,
    "gauss": lambda z: jnp.exp(-(z**2) / 2),
    "relu": jax.nn.relu,
    "cos": jnp.cos,
}


@pytree
class RandomFeatures:
    """Evaluate units a(A x - b) with frozen weights; made by `random_features`.

    Args:
        A: [num, d] weights.
        b: [num] thresholds.
        kind: "tanh", "gauss" (exp(-z^2 / 2)), "relu" or "cos" (static).

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.fit.RandomFeatures(jnp.ones((1, 1)), jnp.zeros(1), "relu")(jnp.array([[2.0]])).tolist()
        [[2.0]]

    Cost:
        n num d.
    """

    A: Any = field(check=check_known)
    b: Any = field(check=check_known)
    kind: str = static(default="tanh", check=_fields.one_of(*UNITS))

    def __call__(self, X: Array) -> jax.Array:
        """Features [n, num] of rows [n, d]."""
        X = jnp.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.A.shape[1]:
            raise ValueError(f"RandomFeatures: X must be [n, {self.A.shape[1]}], got shape {X.shape}.")
        return UNITS[self.kind](jnp.matmul(X, self.A.T, precision=HIGHEST) - self.b[None])


def random_features(
    key: Key, num: int, dim: int = 1, *, limit: Scalar = 1.0, kind: str = "tanh", dtype: Any = None
) -> RandomFeatures:
    """Draw a layer of random units: weights and thresholds uniform in [-limit, limit].

    The limit bounds the frequencies that a readout can reach: one that is too small never learns a fast target, one
    that is too large learns everything worse (see `bandlimit_multiplier`).

    Args:
        key: one key.
        num: units.
        dim: columns of the rows.
        limit: bound of every weight and threshold, > 0.
        kind: "tanh", "gauss", "relu" or "cos".
        dtype: floating dtype; None is float32. The wall moves with it: float64 (with x64 on) reaches further.

    Returns:
        A `RandomFeatures`.

    Raises:
        ValueError: for counts below 1, a limit that is not positive, or an unknown kind.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.linspace(-1, 1, 50)[:, None]
        >>> features = js.fit.random_features(jax.random.key(0), 40, limit=5.0)
        >>> c = js.fit.readout(features(X), jnp.sin(3 * X[:, 0]))
        >>> bool(jnp.max(jnp.abs(features(X) @ c - jnp.sin(3 * X[:, 0]))) < 1e-2)
        True

    Cost:
        num (d + 1) draws.

    References:
        Rahimi and Recht, "Random features for large-scale kernel machines", 2007; Li, Lin, Lu and Shen, "How powerful
        are shallow neural networks with bandlimited random weights?", 2023, arXiv:2008.08427.
    """
    _checks.check_key(key, "random_features")
    num, dim = _checks.check_count("random_features: num", num), _checks.check_count("random_features: dim", dim)
    _checks.check_scalar("random_features: limit", limit, low=0.0, open_low=True)
    _checks.check_choice("random_features: kind", kind, tuple(UNITS))
    dtype = jnp.float32 if dtype is None else _floating(dtype)
    first, second = jax.random.split(key)
    limit = jnp.asarray(limit, dtype)
    draw = lambda key, shape: limit * jax.random.uniform(key, shape, dtype, -1, 1)
    return RandomFeatures(draw(first, (num, dim)), draw(second, (num,)), kind)


def _floating(dtype):
    try:
        found = jnp.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"random_features: dtype must be a floating dtype, got {_checks.shown(dtype)}.") from error
    if not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"random_features: dtype must be a floating dtype, got {found}.")
    return jnp.zeros((), found).dtype


def readout(features: Array, y: Array, *, ridge: Scalar = 0.0, rcond: Scalar | None = None) -> jax.Array:
    """Compute the readout c of least squares, min |features c - y|^2 + ridge |c|^2, by singular values.

    No normal equations are formed: their condition number is the square. Singular values below rcond times the largest
    count as zero, so the result has the least norm; the cut is what limits the readout in practice.

    Args:
        features: [n, num].
        y: [n] or [n, outputs].
        ridge: penalty >= 0.
        rcond: relative cut of the singular values in [0, 1]; None is max(n, num) times the precision.

    Returns:
        [num] or [num, outputs].

    Raises:
        ValueError: for lengths that differ, numbers that are not finite, or a ridge or rcond out of range.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.fit.readout(jnp.array([[1.0], [1.0]]), jnp.array([1.0, 3.0])).round(3).tolist()
        [2.0]

    Cost:
        About 10 n num min(n, num).
    """
    _checks.check_rows("readout: features", features, ndim=2)
    _checks.check_rows("readout: y", y, num=jnp.shape(features)[0])
    _checks.check_finite("readout: features", features)
    _checks.check_finite("readout: y", y)
    _checks.check_scalar("readout: ridge", ridge, low=0.0)
    if jnp.ndim(y) > 2 or jnp.shape(features)[1] == 0:
        raise ValueError(f"readout: y must be [n] or [n, outputs], got {jnp.shape(y)}; features {jnp.shape(features)}.")
    dtype = jnp.promote_types(jnp.result_type(features, y), jnp.float32)
    features, y = jnp.asarray(features, dtype), jnp.asarray(y, dtype)
    if rcond is None:
        rcond = max(features.shape) * float(jnp.finfo(dtype).eps)
    _checks.check_scalar("readout: rcond", rcond, low=0.0, high=1.0)
    left, values, right = jnp.linalg.svd(features, full_matrices=False)
    kept = values > rcond * values[0]
    safe = jnp.where(kept, values, 1)
    gains = jnp.where(kept, 1 / (safe + jnp.asarray(ridge, dtype) / safe), 0)
    within = jnp.matmul(left.T, y.reshape(len(y), -1), precision=HIGHEST)
    found = jnp.matmul(right.T, gains[:, None] * within, precision=HIGHEST)
    return found[:, 0] if y.ndim == 1 else found


def bandlimit_multiplier(frequency: Array | Scalar, limit: Scalar) -> jax.Array:
    """Compute how much of a frequency units with |a| <= limit let through: exp(-frequency^2 / limit^2).

    For the unit exp(-z^2 / 2), reconstructing a function on the line from its ridgelet transform over |a| <= limit and
    all thresholds multiplies its Fourier transform by this number.

    Args:
        frequency: angular frequencies, any shape.
        limit: bound of the weights, > 0.

    Returns:
        Multipliers in [0, 1], of the shape of `frequency`.

    Raises:
        ValueError: for numbers that are not finite, or a limit that is not positive.

    Example:
        >>> import jsamp as js
        >>> round(float(js.fit.bandlimit_multiplier(2.0, 2.0)), 4)
        0.3679

    Cost:
        One exponential each.

    References:
        Li, Lin, Lu and Shen, 2023, arXiv:2008.08427 (the bound; the closed form is derived here).
    """
    _checks.check_number("bandlimit_multiplier: frequency", frequency)
    _checks.check_scalar("bandlimit_multiplier: limit", limit, low=0.0, open_low=True)
    frequency = frequency if hasattr(frequency, "dtype") else np.asarray(frequency, np.float32)
    dtype = jnp.promote_types(jnp.result_type(frequency, limit), jnp.float32)
    ratio = jnp.asarray(frequency, dtype) / jnp.asarray(limit, dtype)
    return jnp.exp(-(ratio**2))


def ridgelet(f: Any, a: Array, b: Array, *, reach: float = 12.0, nodes: int = 2401) -> jax.Array:
    """Compute the ridgelet transform of a function on the line, R(a, b) = integral f(x) rho(a x - b) dx.

    rho(z) = (1 - z^2) exp(-z^2 / 2) / (2 pi) is the partner of the unit exp(-z^2 / 2): integrating R(a, b) exp(-(a x -
    b)^2 / 2) over all a and b gives f back. With a and b drawn from a density q, c = R(a, b) / (num q(a, b)) is an
    unbiased readout that needs no fit.

    Args:
        f: callable: points [nodes] -> [nodes].
        a: [m] weights.
        b: [m] thresholds.
        reach: the integral runs over [-reach, reach].
        nodes: points of the trapezoidal rule.

    Returns:
        [m].

    Raises:
        ValueError: for lengths that differ or a reach that is not positive.
        TypeError: for an f that cannot be called.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> found = js.fit.ridgelet(lambda x: jnp.exp(-x**2 / 2), jnp.zeros(1), jnp.zeros(1))
        >>> round(float(found[0]), 4)  # 1 / sqrt(2 pi)
        0.3989

    Cost:
        nodes m.

    References:
        Sonoda and Murata, "Neural network with unbounded activation functions is universal approximator", 2017,
        arXiv:1505.03654.
    """
    _checks.check_callable("ridgelet: f", f, "f(x)")
    _checks.check_rows("ridgelet: a", a, ndim=1)
    _checks.check_rows("ridgelet: b", b, num=jnp.shape(a)[0], ndim=1)
    _checks.check_scalar("ridgelet: reach", reach, low=0.0, open_low=True)
    nodes = _checks.check_count("ridgelet: nodes", nodes, low=2)
    dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    _checks.check_finite("ridgelet: a", a)
    _checks.check_finite("ridgelet: b", b)
    end = jnp.asarray(reach, dtype)
    x = jnp.linspace(-end, end, nodes, dtype=dtype)
    values = jnp.asarray(f(x), dtype)
    if values.shape != x.shape:
        raise ValueError(f"ridgelet: f must return {x.shape} for {x.shape} points, got shape {values.shape}.")
    z = jnp.clip(a[:, None] * x[None] - b[:, None], -1e3, 1e3)  # the partner is 0 there; z^2 must not overflow
    partner = (1 - z**2) * jnp.exp(-(z**2) / 2) / (2 * math.pi)
    ends = jnp.ones(nodes, dtype).at[jnp.array([0, -1])].set(0.5)
    return jnp.sum(partner * (ends * values)[None], 1) * (2 * reach / (nodes - 1))
