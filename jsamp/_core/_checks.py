"""Refusals at the door: every message says name, got, wanted, remedy. Traced values pass unchecked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer, so that its value cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def concrete(value: Any) -> np.ndarray | None:
    """The value as a numpy array, or None when it is traced."""
    return None if is_traced(value) else np.asarray(value)


def check_key(key: Any, who: str) -> None:
    """Refuse anything but one typed key or one legacy uint32[2] key."""
    if key is None:
        raise ValueError(f"{who}: key is None, but this draws random numbers. Pass key=jax.random.key(0).")
    dtype = getattr(key, "dtype", None)
    if dtype is None:
        raise TypeError(f"{who}: key must be a JAX key, got {type(key).__name__}. Pass jax.random.key(0).")
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and not (dtype == jnp.uint32 and key.shape == (2,)):
        raise TypeError(f"{who}: key must be a JAX key, got {dtype}{list(key.shape)}. Pass jax.random.key(0).")
    if typed and key.shape != ():
        raise ValueError(f"{who}: key must be one key, got a batch of shape {key.shape}. Use jax.vmap over the keys.")


def check_number(name: str, value: Any, *, low: float = -np.inf, high: float = np.inf, open_low: bool = False) -> None:
    """Refuse a concrete value that is not finite or lies outside [low, high], or (low, high] when `open_low`."""
    known = concrete(value)
    if known is None:
        return
    if not np.issubdtype(known.dtype, np.number):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    inside = (known > low if open_low else known >= low) & (known <= high) & np.isfinite(known)
    if not np.all(inside):
        left = f"{'(' if open_low else '['}{low:g}"
        raise ValueError(f"{name} must be finite and in {left}, {high:g}], got {value!r}.")


def check_count(name: str, value: Any, *, low: int = 1, high: int | None = None) -> int:
    """Return a static count as int, or refuse one that is not an integer >= low (and <= high)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a Python int, got {value!r}. It fixes shapes, so it cannot be traced.")
    if value < low or (high is not None and value > high):
        wanted = f">= {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {wanted}, got {value}.")
    return int(value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Refuse a value that is not one of the named choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_callable(name: str, value: Any, signature: str) -> None:
    """Refuse something that cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable as {signature}, got {type(value).__name__}.")


def check_floating(name: str, tree: Any) -> None:
    """Refuse a tree with a leaf that is not a floating-point array, or with no leaf at all."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise ValueError(f"{name} is an empty tree; pass an array or a tree of arrays.")
    for leaf in leaves:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{name} must be floating point, got {dtype}. Convert it, for example x.astype('float32').")
