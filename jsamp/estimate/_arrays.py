"""Arrays at the door of this room: floating, finite, of the right rank and size, or one clear refusal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp.select._rows import power_of_two, refuse_too_small


def array(name: str, value: Any, shape: str, *, low: int = 1, missing: bool = False) -> jax.Array:
    """Return a numeric array in float32 or float64, or refuse it.

    `shape` names the axes ("n", "n d", "..."); the first must have at least `low` entries. With `missing`, values may
    be infinite (never NaN).
    """
    _checks.refuse_sparse(name, value)
    try:
        known = value if isinstance(value, jax.Array) else np.asarray(value)
        kind = known.dtype
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__}: {error}.") from None
    _checks.refuse_times(name, kind)
    if not (jnp.issubdtype(kind, jnp.number) or kind == jnp.bool_) or jnp.issubdtype(kind, jnp.complexfloating):
        raise TypeError(f"{name} must be an array of real numbers, got dtype {kind}.")
    if shape != "..." and known.ndim != len(shape.split()):
        raise ValueError(f"{name} must be [{', '.join(shape.split())}], got shape {known.shape}.")
    if known.ndim and known.shape[0] < low:
        raise ValueError(f"{name} must have at least {low} rows, got shape {known.shape}.")
    if known.size == 0:
        raise ValueError(f"{name} is empty, of shape {known.shape}.")
    if not _checks.is_traced(known):
        host = np.asarray(known)
        host = host if host.dtype.kind in "fiub" else host.astype(np.float32)
        if np.isnan(host).any() or not (missing or np.isfinite(host).all()):
            raise ValueError(f"{name} must be finite, got NaN or inf. Drop or repair those rows first.")
    floating = jnp.issubdtype(kind, jnp.floating)
    kind = jnp.promote_types(kind, jnp.float32) if floating else jnp.result_type(float)
    return jnp.asarray(known, jax.dtypes.canonicalize_dtype(kind))


def tree(name: str, values: Any, *, low: int = 1) -> Any:
    """Return a tree of numeric arrays of any shapes, or refuse a leaf of it."""
    return jax.tree.map(lambda leaf: array(name, leaf, "...", low=low), values, is_leaf=_checks.is_sparse)


def flat_rows(name: str, value: Any, *, low: int = 2) -> jax.Array:
    """Return samples [n, ...] as rows [n, d], or refuse them."""
    x = array(name, value, "...", low=low)
    if x.ndim == 0:
        raise ValueError(f"{name} must be [n, ...], got a scalar. Pass samples along the first axis.")
    refuse_too_small(name, x)
    return x.reshape(x.shape[0], -1)


def two_samples(who: str, x: Any, y: Any, *, low: int = 2) -> tuple[jax.Array, jax.Array]:
    """Return two sets of samples as rows [n, d] and [m, d] of one dtype, or refuse them."""
    x, y = flat_rows(f"{who}: x", x, low=low), flat_rows(f"{who}: y", y, low=low)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{who}: x and y must have the same features, got {x.shape[1]} and {y.shape[1]} numbers.")
    kind = jnp.result_type(x, y)
    return x.astype(kind), y.astype(kind)


def same_length(who: str, **arrays: Any) -> None:
    """Refuse arrays whose first axes differ."""
    sizes = {name: np.shape(value)[0] for name, value in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"{who}: " + ", ".join(f"{k} has {n} rows" for k, n in sizes.items()) + "; they must agree.")


def deviation(x: jax.Array, axis: int | None = None) -> jax.Array:
    """The standard deviation (n - 1) in any unit, of columns each in its own: squares may lie beyond the floats."""
    unit = power_of_two(x, axis)
    return jnp.std(x * unit, axis=axis, ddof=1) / (unit if axis is None else jnp.squeeze(unit, axis))


def probability(name: str, value: Any) -> None:
    """Refuse a number outside (0, 1)."""
    _checks.check_number(name, value, low=0, high=1, open_low=True)
    known = _checks.concrete(value)
    if known is not None and np.any(known >= 1):
        raise ValueError(f"{name} must be below 1, got {value!r}.")
