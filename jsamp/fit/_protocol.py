"""What surrogates, their posteriors and their kernels are, and what they may say about themselves.

A surrogate has `fit(key, X, y) -> posterior` and `capacity`. A posterior has `sample(key, Xq, num)` and `mean_var(Xq)`.

The kernel of a `GP` is a tree of positive numbers, callable as `kernel(X, X2)`, with `diag(X)`. It may have:

log_prior() -> scalar, default 0. Log-density of its numbers, up to a constant, added to the marginal likelihood.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._types import Array, Key

LEAST = 64  # rows of the smallest program


@runtime_checkable
class Surrogate(Protocol):
    """Learn a function on the unit cube from some of its values.

    Example:
        >>> import jsamp as js
        >>> isinstance(js.fit.GP(), js.fit.Surrogate)
        True
    """

    @property
    def capacity(self) -> int | None: ...
    def fit(self, key: Key, X: Array, y: Array) -> Any: ...


class Padded(NamedTuple):
    """Hold data in arrays of a fixed number of rows, values standardised."""

    X: Any  # [capacity, d]
    y: Any  # [capacity], zero beyond the rows there are
    mask: Any  # [capacity], one for rows that are there
    center: Any
    scale: Any


def check_known(name: str, value: Any) -> None:
    """Refuse a tree with a known number that is not finite; a posterior would predict NaN without a word."""
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", np.dtype(bool)), jnp.floating):
            _checks.check_finite(name, leaf)


def padded(who: str, X: Any, y: Any, capacity: int | None) -> Padded:
    """Check rows of the unit cube and their values, standardise the values in float64, and pad both."""
    _checks.check_rows(f"{who}: X", X, ndim=2)
    _checks.check_rows(f"{who}: y", y, num=np.shape(X)[0], ndim=1)
    _checks.check_on_host(who, X, y)
    _checks.check_finite(f"{who}: y", y, remedy="Leave failed evaluations out.")
    _checks.check_number(f"{who}: X (scale it to the unit cube: (X - low) / (high - low))", X, low=0.0, high=1.0)
    rows, values = np.asarray(X), np.asarray(y, np.float64)
    wide = jnp.result_type(rows, np.asarray(y), jnp.float32)
    dtype = wide if rows.dtype.kind == "f" else jnp.float32
    num, dim = rows.shape
    if dim == 0:
        raise ValueError(f"{who}: X must have columns, got shape {rows.shape}.")
    size = max(LEAST, 1 << (num - 1).bit_length()) if capacity is None else capacity
    if num > size:
        raise ValueError(f"{who}: {num} rows exceed the capacity of {size}. Construct it with a larger one.")
    with np.errstate(over="ignore"):
        center, scale = values.mean(), values.std()
    # Values that differ by rounding alone are one value.
    scale = scale if scale > 1e-12 * max(abs(center), 1e-300) else 1.0
    numbers = jnp.finfo(dtype)
    if not 1e3 * float(numbers.tiny) ** 0.5 < scale < 1e-3 * float(numbers.max) ** 0.5:
        raise ValueError(
            f"{who}: y spreads by {scale:.3g}, whose square, the variance of what is predicted, leaves {dtype}. "
            f"Divide y by {np.abs(values).max():.0e}."
        )
    filled = np.full((size, dim), 0.5)
    filled[:num] = rows
    standard = np.pad((values - center) / scale, (0, size - num))
    mask = (np.arange(size) < num).astype(np.float64)
    with np.errstate(over="ignore"):
        return Padded(*(jnp.asarray(v, dtype) for v in (filled, standard, mask, center, scale)))


def in_spreads(who: str, noise: Any, data: Padded, least: float = 0.0) -> jax.Array:
    """Return a noise in units of the values' spread, or refuse one of which a fit cannot take the square."""
    ratio = jnp.asarray(noise, data.X.dtype) / data.scale
    known = _checks.concrete(ratio)
    if known is not None and not least <= known <= 1e12:
        raise ValueError(
            f"{who}: noise must be between {least:g} and 1e+12 times the spread of y, {float(data.scale):.3g}; got "
            f"{_checks.shown(noise)}."
        )
    return ratio


def queries(who: str, Xq: Any, like: Any) -> jax.Array:
    """Check the rows [q, d] where a posterior is asked."""
    _checks.check_rows(f"{who}: Xq", Xq, ndim=2)
    _checks.check_finite(f"{who}: Xq", Xq)
    if np.shape(Xq)[1] != like.shape[-1]:
        raise ValueError(f"{who}: Xq must have {like.shape[-1]} columns, as X had; got shape {np.shape(Xq)}.")
    return jnp.asarray(Xq, like.dtype)
