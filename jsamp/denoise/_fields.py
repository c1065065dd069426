"""Checks and conversions of fields, as `js.field(convert=)` and `js.static(check=)` take them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import (
    check_finite,
    check_number,
    concrete,
    is_traced,
    shown,
)
from jsamp._core._fields import Convert, callable_as, count, number, one_of, scalar
from jsamp.denoise._protocol import check_denoiser

__all__ = [
    "as_numbers",
    "callable_as",
    "count",
    "denoiser",
    "finite",
    "label",
    "mask",
    "noise_std",
    "number",
    "on_host",
    "one_of",
    "scalar",
    "weight",
]


def denoiser(name: str, value: Any) -> None:
    """Refuse what is no denoiser."""
    check_denoiser(name, value)


def on_host(name: str, value: Any) -> np.ndarray:
    """Return an array on the host, or refuse what is none."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array, got {shown(value)}.") from error


def label(name: str, value: Any) -> None:
    """Refuse what is not an integer or an array of integers; ranges are known where logits are."""
    if not is_traced(value):
        check_number(name, value, low=-(2**31), high=2**31 - 1)
    known = value if hasattr(value, "dtype") else np.asarray(value)
    if not jnp.issubdtype(known.dtype, jnp.integer) or not known.size:
        raise TypeError(f"{name} must be an integer, got {shown(value)}.")


def weight(name: str, value: Any) -> Any:
    """Keep a weight of guidance: finite numbers or a tree of them, or a callable of t, as a tree."""
    if callable(value):
        return as_tree(name, value, "scale(t)")
    for leaf in jax.tree.leaves(value, is_leaf=lambda node: isinstance(node, list)) or [None]:
        check_number(name, leaf)
    return jax.tree.map(as_numbers, value, is_leaf=lambda node: isinstance(node, list))


def as_numbers(value: Any) -> Any:
    """Return a list of numbers as an array."""
    return np.asarray(value) if isinstance(value, list) else value


def mask(value: Any) -> Any:
    """Return the booleans and integers of a mask as floats, which multiply an x of any dtype."""

    def one(leaf):
        kind = np.asarray(leaf).dtype.kind if not is_traced(leaf) else leaf.dtype.kind
        return (jnp if is_traced(leaf) else np).asarray(leaf, np.float32) if kind in "biu" else leaf

    return jax.tree.map(one, value)


def noise_std(name: str, value: Any) -> Any:
    """Return the standard deviation of a measurement's noise, or None for no noise: a fact of structure under jit."""
    if value is None:
        return None
    check_number(name, value, low=0)
    known = concrete(value)
    return None if known is not None and not known.any() else value


def finite(remedy: str) -> Convert:
    """Refuse a tree of numbers of which some are not finite."""

    def check(name, value):
        for leaf in jax.tree.leaves(value):
            check_finite(name, leaf, remedy=remedy)

    return check
