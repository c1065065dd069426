"""Refusals at the door: every message says name, got, wanted, remedy. Traced values pass unchecked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer, so that its value cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def check_on_host(who: str, *trees: Any) -> None:
    """Refuse tracers where a function loops on the host, or reads numbers to choose shapes."""
    if is_traced(*trees):
        raise TypeError(f"{who}: got a traced value, but it runs on the host. Call it outside jit, vmap and grad.")


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


def is_sparse(value: Any) -> bool:
    """Whether a value is a sparse matrix, of scipy or of JAX."""
    return hasattr(value, "todense")


def refuse_sparse(name: str, *values: Any) -> None:
    """Refuse sparse matrices, which numpy takes for one object and JAX for a tree."""
    for value in filter(is_sparse, values):
        dense = "toarray" if hasattr(value, "toarray") else "todense"
        raise TypeError(f"{name} is a sparse matrix, but is read densely. Pass {name.split()[-1]}.{dense}().")


def refuse_sparse_leaves(name: str, tree: Any) -> None:
    """Refuse a tree that holds a sparse matrix; JAX would take its stored entries for leaves."""
    refuse_sparse(name, *jax.tree.leaves(tree, is_leaf=is_sparse))


def refuse_times(name: str, dtype: Any) -> None:
    """Refuse dates and durations, whose numbers depend on a unit."""
    what = name.split()[-1]
    since = {"M": f"({what} - {what}.min())", "m": what}.get(getattr(dtype, "kind", ""))
    if since is not None:
        raise TypeError(f"{name} must hold numbers, got {dtype}. Choose a unit: {since} / np.timedelta64(1, 'D').")


def refuse_no_numbers(name: str, dtype: Any) -> None:
    """Refuse the dtype of text, objects, dates and durations."""
    refuse_times(name, dtype)
    if dtype.kind not in "biufc" and not jnp.issubdtype(dtype, jnp.floating):  # bfloat16 has kind V
        raise TypeError(f"{name} must hold numbers, got dtype {dtype}. Encode or drop what is not a number.")


def _number(name: str, value: Any) -> np.ndarray | None:
    """The value as a numpy array of numbers, or None when it is traced, or a refusal."""
    if is_traced(value):
        return None
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(f"{name} must be a number, got a random key. Pass keys first, numbers by name.")
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"{name} must be a number, got {value!r}.")
    refuse_sparse(name, value)
    try:
        known = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number or an array, got {shown(value)}.") from error
    refuse_times(name, known.dtype)
    if not jnp.issubdtype(known.dtype, jnp.number):
        raise TypeError(f"{name} must be a number, got {shown(value)}.")
    return known


def shown(value: Any) -> str:
    """A value in a message: its own text when short, else its type and shape."""
    shape = getattr(value, "shape", None)
    if shape is not None and shape != ():
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{type(value).__name__} {text[:60]}..."


def check_number(name: str, value: Any, *, low: float = -np.inf, high: float = np.inf, open_low: bool = False) -> None:
    """Refuse a concrete value that is not finite or lies outside [low, high], or (low, high] when `open_low`."""
    known = _number(name, value)
    if known is None:
        return
    if np.iscomplexobj(known):
        raise TypeError(f"{name} must be real, got {shown(value)}.")
    if known.size == 0:
        raise ValueError(f"{name} must hold a number, got an empty array of shape {known.shape}.")
    with np.errstate(invalid="ignore"):
        inside = (known > low if open_low else known >= low) & (known <= high) & np.isfinite(known)
    if not np.all(inside):
        left = f"{'(' if open_low else '['}{low:g}"
        raise ValueError(f"{name} must be finite and in {left}, {high:g}], got {shown(value)}.")


def check_scalar(name: str, value: Any, *, low: float = -np.inf, high: float = np.inf, open_low: bool = False) -> None:
    """Refuse what is not one number, or a number outside its range; a tracer must be a scalar too."""
    shape = np.shape(value) if is_traced(value) else getattr(_number(name, value), "shape", ())
    if shape != ():
        raise ValueError(f"{name} must be one number, got an array of shape {shape}. Use jax.vmap for several.")
    check_number(name, value, low=low, high=high, open_low=open_low)


def check_flag(name: str, value: Any) -> bool:
    """Return a static option that is on or off, or refuse anything but True and False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}.")
    return bool(value)


def check_count(name: str, value: Any, *, low: int = 1, high: int | None = None) -> int:
    """Return a static count as int, or refuse one that is not an integer >= low (and <= high, or below 2^31)."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a Python int, got {shown(value)}. It fixes shapes, so it cannot be traced.")
    most = 2**31 - 1 if high is None else high
    if not low <= value <= most:
        wanted = f">= {low}" if high is None and value < low else f"in {low}..{most}"
        raise ValueError(f"{name} must be {wanted}, got {value}.")
    return int(value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Refuse a value that is not one of the named choices."""
    if not any(value is one or (isinstance(value, type(one)) and value == one) for one in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {shown(value)}.")


def check_finite(name: str, value: Any, *, remedy: str = "") -> None:
    """Refuse concrete numbers of which some are NaN or infinite, saying where the first one is."""
    known = _number(name, value)
    if known is None or np.all(good := np.isfinite(known)):
        return
    where = tuple(int(i) for i in np.argwhere(~good)[0])
    raise ValueError(f"{name} must be finite, got {known[where]} at {list(where)}. {remedy}".rstrip())


def check_rows(name: str, value: Any, *, num: int | None = None, ndim: int | None = None) -> None:
    """Refuse what is not an array of rows, `num` of them, with `ndim` axes in all where these are given."""
    shape = jnp.shape(value) if is_traced(value) else getattr(_number(name, value), "shape", ())
    if not shape or (ndim is not None and len(shape) != ndim):
        wanted = "an array of rows" if ndim is None else f"an array with {ndim} axes, rows first"
        raise ValueError(f"{name} must be {wanted}, got shape {shape}.")
    if shape[0] == 0:
        raise ValueError(f"{name} has no rows: shape {shape}.")
    if num is not None and shape[0] != num:
        raise ValueError(f"{name} must have {num} rows, one for each of the others; got shape {shape}.")


def check_callable(name: str, value: Any, signature: str) -> None:
    """Refuse something that cannot be called."""
    if isinstance(value, type):
        raise TypeError(f"{name} must be callable as {signature}, got the class {value.__name__}. Pass an instance.")
    if not callable(value):
        raise TypeError(f"{name} must be callable as {signature}, got {type(value).__name__}.")
    listed = re.fullmatch(r"\w+\(([\w, ]*)\)", signature)
    wanted, taken = len(listed[1].split(",")) if listed and listed[1] else 0, _positions(value)
    if taken < wanted:
        raise TypeError(f"{name} must be callable as {signature}, got a callable of {taken} positional arguments.")


def _positions(function: Any) -> float:
    """How many positional arguments a callable takes; infinity where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return float("inf")
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return float("inf")
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is what JAX computes with: an array of numbers, flags or keys, or a number of Python's."""
    if isinstance(leaf, (bool, int, float, complex)):
        return True
    dtype = getattr(leaf, "dtype", None) if hasattr(leaf, "shape") else None
    kinds = (jnp.number, jnp.bool_, jax.dtypes.prng_key)
    if is_sparse(leaf) or getattr(dtype, "kind", "") == "m":  # numpy counts durations among the integers
        return False
    return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def check_made(name: str, tree: Any, *, wanted: str = "an array or a tree of arrays", empty: bool = True) -> Any:
    """Return what a user's function made, or refuse what holds anything but arrays, and no array unless `empty`."""
    leaves = jax.tree.leaves(tree)
    wrong = next((leaf for leaf in leaves if not is_array(leaf)), None)
    if wrong is not None or not (leaves or empty):
        raise TypeError(f"{name} must return {wanted}, got {shown(wrong if leaves else tree)}.")
    return tree


def check_floating(name: str, tree: Any) -> None:
    """Refuse a tree with a leaf that is not a floating-point array, or with no leaf at all."""
    leaves = jax.tree.leaves(tree, is_leaf=is_sparse)
    refuse_sparse(name, *leaves)
    if not leaves:
        raise ValueError(f"{name} is an empty tree; pass an array or a tree of arrays.")
    for leaf in leaves:
        if not is_array(leaf):
            raise TypeError(f"{name} must be an array or a tree of arrays, got {shown(leaf)}.")
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{name} is complex ({dtype}). Pass real and imaginary part as a tree or on an axis.")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{name} must be floating point, got {dtype}. Convert it, for example x.astype('float32').")
