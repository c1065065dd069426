"""Algebra on trees of arrays: sums, selections, inner products, noise. Elementwise only, never a matmul."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _random


def lincomb(coefficients: Sequence[Any], trees: Sequence[Any]) -> Any:
    """Sum of scalar times tree, in the trees' own dtype."""

    def combine(*leaves):
        total = coefficients[0] * leaves[0]
        for c, leaf in zip(coefficients[1:], leaves[1:], strict=True):
            total = total + c * leaf
        return total

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


def normal_like(key: Any, tree: Any) -> Any:
    """Standard normal noise of a tree's structure, shapes and dtypes; a lone array uses `key` itself."""
    leaves, structure = jax.tree.flatten(tree)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    draws = [_random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, draws)


def all_finite(tree: Any) -> jax.Array:
    """One boolean: every number of the tree is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating leaf as `dtype`; integers and booleans as they are."""

    def one(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)
