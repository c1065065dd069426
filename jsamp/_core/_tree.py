"""Algebra on trees of arrays: sums, selections, inner products, noise, reordering; never a matmul."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _random
from jsamp._core._types import Key

TAKEN_TWICE = 2**24
"""Bytes of a leaf of which `take` may hold two copies."""


def lincomb(coefficients: Sequence[Any], trees: Sequence[Any]) -> Any:
    """Sum of scalar times tree, in the dtype of each leaf: a tree may hold leaves of several."""

    def combine(*leaves):
        scaled = [jnp.asarray(c, jnp.result_type(leaf)) * leaf for c, leaf in zip(coefficients, leaves, strict=True)]
        return functools.reduce(jnp.add, scaled)

    return jax.tree.map(combine, *trees)


def where(condition: Any, a: Any, b: Any) -> Any:
    """Leafwise `jnp.where` with one scalar condition."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def zeros_like(tree: Any) -> Any:
    """Zeros of the same structure, shapes and dtypes, varying over the same mesh axes as the data."""
    return jax.tree.map(jnp.zeros_like, tree)


def dot(a: Any, b: Any) -> jax.Array:
    """Inner product of two trees, a scalar, summed elementwise at full precision."""
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))  # pyright: ignore


def size(tree: Any) -> int:
    """Number of scalars in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def normal_like(key: Key, tree: Any) -> Any:
    """Standard normal noise of a tree's structure, shapes and dtypes; a lone array uses `key` itself."""
    leaves, structure = jax.tree.flatten(tree)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    draws = [_random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, draws)


def all_finite(tree: Any) -> jax.Array:
    """One boolean: every number of the tree is finite; so is a tree without numbers."""
    each = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(each)) if each else jnp.ones((), bool)


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating leaf as `dtype`; integers and booleans as they are."""

    def one(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Every leaf in the dtype of its leaf of `like`: numbers for all leaves are in the widest of their dtypes."""
    return jax.tree.map(lambda leaf, other: jnp.asarray(leaf, jnp.result_type(other)), tree, like)


def take(trees: Sequence[Any], index: Any, axes: Sequence[int]) -> list[Any]:
    """Each tree reordered along its axis, by one index of the axis's length; no large leaf is held twice.

    Numbers move along that axis alone, so blocks of another axis are replaced in place, one after the other. All go
    together: separate loops would leave XLA free to run them in an order that needs copies.
    """
    leaves, structure = jax.tree.flatten(list(trees))
    axes = [axis for tree, axis in zip(trees, axes, strict=True) for _ in jax.tree.leaves(tree)]
    parts = [math.ceil(leaf.size * leaf.dtype.itemsize / TAKEN_TWICE) if leaf.ndim > 1 else 1 for leaf in leaves]
    large, steps = {k: leaves[k] for k, count in enumerate(parts) if count > 1}, max(parts, default=1)

    def move(leaf, axis):
        return leaf[(slice(None),) * axis + (index,)]

    def block(i, leaf, axis):
        """The i-th block along the longest other axis; the last ones begin early and leave alone what is done."""
        size, along = max((n, k) for k, n in enumerate(leaf.shape) if k != axis)
        width = math.ceil(size / steps)
        start = jnp.minimum(i * width, size - width)
        part = jax.lax.dynamic_slice_in_dim(leaf, start, width, along)
        done = start + jax.lax.broadcasted_iota(jnp.int32, part.shape, along) < i * width
        return jax.lax.dynamic_update_slice_in_dim(leaf, jnp.where(done, part, move(part, axis)), start, along)

    body = lambda i, state: {k: block(i, leaf, axes[k]) for k, leaf in state.items()}
    large = jax.lax.fori_loop(0, steps, body, large)
    moved = [large[k] if k in large else move(leaf, axes[k]) for k, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, moved)
