"""Subset: what every draw returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import is_sparse, is_traced
from jsamp._core._mesh import everywhere


class Subset(NamedTuple):
    """Hold rows chosen from a dataset: a fixed number of slots, each with a row index and a weight.

    Weights are *sum* weights: sum over slots of weight * f(row) estimates the sum of f over all rows, without bias when
    the subset was drawn by `draw`. For an l_p norm, multiply the rows by `row_scale(p)` = weight^(1/p). After a draw
    that went wrong (more rows than slots, or bad scores) every weight is NaN, and `ok` is False.

    Args:
        index: [m] int32, the rows. Unused slots hold 0.
        weight: [m], 1 / (expected number of times the row is taken). Unused slots hold 0.
        mask: [m] bool, which slots are used.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> subset = js.select.draw(jax.random.key(0), jnp.ones(100), 10, scheme="systematic")
        >>> subset.take(jnp.arange(100)).shape, float(subset.weight.sum())
        ((10,), 100.0)
    """

    index: Any
    weight: Any
    mask: Any

    @property
    def ok(self) -> jax.Array:
        """Tell whether the draw went well: False when rows overflowed the slots, or scores were NaN or all zero."""
        return ~jnp.any(jnp.isnan(self.weight), -1)

    def take(self, tree: Any) -> Any:
        """Gather the chosen rows of an array, a data frame, or every leaf of a tree. Unused slots repeat row 0.

        Raises:
            ValueError: for a leaf with fewer rows than `index` asks for.
            TypeError: for a leaf that has no rows (a number, a string, a sparse matrix).
        """
        known = None if is_traced(self.index) else np.asarray(self.index)
        least = 0 if known is None or known.size == 0 else int(known.max()) + 1

        def rows(leaf):
            shape = getattr(leaf, "shape", None)
            if not shape or is_sparse(leaf):
                raise TypeError(f"Subset.take: every leaf must be an array of rows, got {type(leaf).__name__}. "
                                f"Pass numpy or JAX arrays, or a data frame.")  # fmt: skip
            if shape[0] < least:
                raise ValueError(f"Subset.take: the subset has row {least - 1}, but an array has shape {shape}. "
                                 f"Pass the rows that the scores were made of.")  # fmt: skip
            if hasattr(leaf, "iloc"):
                return leaf.iloc[known]
            if isinstance(leaf, jax.Array) and any(axis is not None for axis in jax.typeof(leaf).sharding.spec):
                return leaf.at[self.index].get(out_sharding=everywhere(leaf))
            return (jnp.asarray(leaf) if known is None else leaf)[self.index if known is None else known]

        return jax.tree.map(rows, tree, is_leaf=is_sparse)

    def row_scale(self, p: Any = 2.0) -> jax.Array:
        """Compute the factors weight^(1/p), one per slot: rows multiplied by them keep |A x|_p^p without bias."""
        safe = jnp.where(self.mask, self.weight, 1)
        return jnp.where(self.mask, safe ** (1 / p), 0)


def check_subset(subset: Any, n: int, who: str) -> None:
    """Refuse what is no `Subset`, or one of other rows than the n at hand."""
    if not isinstance(subset, Subset):
        raise TypeError(f"{who}: subset must be a js.select.Subset, got {type(subset).__name__}. Use js.select.draw.")
    if is_traced(subset):
        return
    index, weight, mask = (np.asarray(slots) for slots in subset)
    if index.ndim != 1 or weight.shape != index.shape or mask.shape != index.shape:
        raise ValueError(f"{who}: subset has slots {index.shape}, {weight.shape}, {mask.shape}; all must be [m].")
    if index.size == 0 or index.min() < 0 or index.max() >= n:
        raise ValueError(f"{who}: subset counts rows outside 0..{n - 1}. Pass the rows it was drawn from.")
    used = weight[mask.astype(bool)]
    if not np.isfinite(used).all() or not (used >= 0).all() or not used.sum() > 0:
        raise ValueError(f"{who}: subset has weights that are NaN, negative or all 0: was the draw ok?")
