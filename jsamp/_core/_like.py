"""Trees like x: its structure, its shapes, its dtypes, or a refusal that says what differs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import is_array, shown


def match(name: str, tree: Any, x: Any, *, remedy: str = "") -> Any:
    """Return the tree in the dtypes of x, or refuse one whose structure or shapes differ from those of x."""
    return _matched(name, tree, x, remedy, lambda got, wanted: got == wanted, "the shape", TypeError)


def broadcast(name: str, tree: Any, x: Any, *, remedy: str = "") -> Any:
    """Return the tree broadcast to x: each shape must be the trailing part of the shape in x."""
    fits = lambda got, wanted: got == wanted[len(wanted) - len(got) :]
    tree = _matched(name, tree, x, remedy, fits, "the trailing shape", ValueError)
    return jax.tree.map(lambda leaf, like: jnp.broadcast_to(leaf, jnp.shape(like)), tree, x)


def _matched(name, tree, x, remedy, fits, what, error):
    tail = f" {remedy}" if remedy else ""
    if jax.tree.structure(tree) != jax.tree.structure(x):
        raise TypeError(
            f"{name} must have the structure of x, {jax.tree.structure(x)}; got {jax.tree.structure(tree)}.{tail}"
        )
    for got, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(x), strict=True):
        if not is_array(got):
            raise TypeError(f"{name} must be an array or a tree of arrays, got {shown(got)}.{tail}")
        if not fits(jnp.shape(got), jnp.shape(wanted)):
            raise error(f"{name} must have {what} of x, {jnp.shape(wanted)}; got {jnp.shape(got)}.{tail}")
        if jnp.iscomplexobj(got) and not jnp.iscomplexobj(wanted):
            raise TypeError(f"{name} is complex, but x is real; its imaginary part would be lost.{tail}")
        if hasattr(got, "dtype") and not _is_inexact(got) and _is_inexact(wanted):
            kinds = f"holds {jnp.result_type(got)}, but x is {jnp.result_type(wanted)}"
            raise TypeError(f"{name} {kinds}: return floats.{tail}")
    return jax.tree.map(lambda got, wanted: jnp.asarray(got, jnp.result_type(wanted)), tree, x)


def _is_inexact(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def dtype_of(tree: Any, *, at_least: Any = None) -> Any:
    """The common dtype of a tree's leaves, promoted with `at_least` if given."""
    dtype = jnp.result_type(*jax.tree.leaves(tree))
    return dtype if at_least is None else jnp.promote_types(dtype, at_least)


def as_arrays(tree: Any) -> Any:
    """Return the tree as arrays that keep their dtypes: a weakly typed leaf would change its type inside a loop."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), tree)
