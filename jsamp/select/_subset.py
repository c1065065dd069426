"""The one result type of the room."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core._mesh import everywhere


class Subset(NamedTuple):
    """Rows chosen from a dataset: a fixed number of slots, each with a row index and a weight.

    Weights are *sum* weights: sum over slots of weight * f(row) estimates the sum of f over all rows, without bias when
    the subset was drawn by `draw`. For an l_p norm, multiply the rows by `row_scale(p)` = weight^(1/p). After a draw
    that went wrong (more rows than slots, or bad scores) every weight is NaN, and `ok` is False.

    Args:
        index: [m] int32, the rows. Unused slots hold 0.
        weight: [m], 1 / (expected number of times the row is taken). Unused slots hold 0.
        mask: [m] bool, which slots are used.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp.select as select
        >>> subset = select.draw(jax.random.key(0), jnp.ones(100), 10, scheme="systematic")
        >>> subset.take(jnp.arange(100)).shape, float(subset.weight.sum())
        ((10,), 100.0)
    """

    index: Any
    weight: Any
    mask: Any

    @property
    def ok(self) -> jax.Array:
        """Whether the draw went well: False when its rows overflowed the slots, or its scores were NaN or all zero."""
        return ~jnp.any(jnp.isnan(self.weight), -1)

    def take(self, tree: Any) -> Any:
        """The chosen rows of an array, or of every leaf of a tree: leaf[index]. Unused slots repeat row 0."""

        def rows(leaf):
            if isinstance(leaf, jax.Array) and any(axis is not None for axis in jax.typeof(leaf).sharding.spec):
                return leaf.at[self.index].get(out_sharding=everywhere(leaf))
            return leaf[self.index]

        return jax.tree.map(rows, tree)

    def row_scale(self, p: Any = 2.0) -> jax.Array:
        """Factors weight^(1/p), one per slot: rows multiplied by them keep |A x|_p^p without bias."""
        safe = jnp.where(self.mask, self.weight, 1)
        return jnp.where(self.mask, safe ** (1 / p), 0)
