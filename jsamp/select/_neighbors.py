"""Nearest rows, by blocks: never an n x n array."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_choice, check_count
from jsamp.select._whiten import map_rows, matmul


class Nearest(NamedTuple):
    """The best rows of a database, best first.

    Args:
        index: [..., num] rows.
        score: [..., num] similarity ("dice", "cosine") or squared distance ("l2").

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> select.nearest(jnp.eye(3), jnp.array([0.0, 0.9, 0.1]), 2).index
        Array([1, 2], dtype=int32)
    """

    index: Any
    score: Any


def squared_distances(query: jax.Array, data: jax.Array) -> jax.Array:
    """[q, n] of |x|^2 + |y|^2 - 2 x.y; centre both first, or float32 cancels."""
    product = matmul(query, data.T)
    return jnp.maximum(jnp.sum(query**2, 1)[:, None] + jnp.sum(data**2, 1)[None] - 2 * product, 0)


def neighbors(query: jax.Array, own: Any, data: jax.Array, k: int, extra: Any = None, block: int = 1024) -> jax.Array:
    """[q, k] rows of `data` nearest to each query, row `own` itself (by number, not by distance) left out.

    `extra` = (codes of queries, codes of data, cost) adds cost per differing code.
    """
    centre = jnp.mean(data, 0, keepdims=True)
    data, query = data - centre, query - centre

    def part(rows, mine, codes):
        distance = squared_distances(rows, data)
        if extra is not None:
            for column in range(extra[1].shape[1]):
                distance = distance + extra[2] * (codes[:, column, None] != extra[1][None, :, column])
        distance = jnp.where(mine[:, None] == jnp.arange(data.shape[0])[None], jnp.inf, distance)
        return lax.top_k(-distance, k)[1].astype(jnp.int32)

    return map_rows(part, query, own, None if extra is None else extra[0], block=block)


def pack_bits(mask: Any) -> jax.Array:
    """Boolean rows as 32 bits per word, for `nearest(..., metric="dice")` on databases 32 times smaller.

    Args:
        mask: [..., V] bool; trailing axes beyond the batch must be flattened.

    Returns:
        [..., ceil(V / 32)] uint32.

    Raises:
        TypeError: for masks that are not boolean.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> select.pack_bits(jnp.array([True, False, True]))
        Array([5], dtype=uint32)
    """
    mask = jnp.asarray(mask)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"pack_bits: mask must be boolean, got {mask.dtype}. Threshold the field first.")
    pad = [(0, 0)] * (mask.ndim - 1) + [(0, -mask.shape[-1] % 32)]
    words = jnp.pad(mask, pad).reshape(*mask.shape[:-1], -1, 32).astype(jnp.uint32)
    place = jnp.left_shift(jnp.uint32(1), jnp.arange(32, dtype=jnp.uint32))
    return jnp.sum(words * place.reshape((1,) * (words.ndim - 1) + (32,)), -1, dtype=jnp.uint32)


def _dice(rows, query):
    both = jnp.sum(lax.population_count(rows & query[None]), -1, dtype=jnp.int32)
    total = jnp.sum(lax.population_count(rows), -1, dtype=jnp.int32)
    total = total + jnp.sum(lax.population_count(query), dtype=jnp.int32)
    return jnp.where(total > 0, 2 * both / jnp.maximum(total, 1), 1.0)


def nearest(database: Any, query: Any, num: int = 1, *, metric: str = "l2", block: int = 8192) -> Nearest:
    """The entries of a simulated database that match an observation best: inversion by look-up.

    Simulate many parameters once, then answer every observation with the parameters of its best matches: theta[index].
    Trees of features are scored leaf by leaf and added (Dice of the core plus Dice of the whole tumour).

    Args:
        database: array [n, V], or a tree of them.
        query: array [V], or the same tree. `vmap` over observations.
        num: matches, static.
        metric: "l2" (squared distance), "cosine", or "dice": overlap 2|a and b| / (|a| + |b|) of boolean masks or of
            words from `pack_bits`; two empty masks match perfectly.
        block: database rows per block, static.

    Returns:
        `Nearest(index [num], score [num])`, best first.

    Raises:
        ValueError: for shapes that do not fit, an unknown metric, or num > n.
        TypeError: for masks that are neither boolean nor uint32.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp.select as select
        >>> masks = jax.random.bernoulli(jax.random.key(0), 0.5, (100, 64))
        >>> match = select.nearest(select.pack_bits(masks), select.pack_bits(masks[7]), metric="dice")
        >>> int(match.index[0]), float(match.score[0])
        (7, 1.0)

    Cost: one read of the database (V/8 bytes per packed row).

    References:
        Ezhov et al., "A for-loop is all you need. For solving the inverse problem in the case of personalized tumor
        growth modeling", 2022, arXiv:2205.04550.
    """
    check_choice("nearest: metric", metric, ("l2", "cosine", "dice"))
    leaves, structure = jax.tree.flatten(database)
    asked = structure.flatten_up_to(query)
    total = None
    for rows, one in zip(leaves, asked, strict=True):
        rows, one = jnp.asarray(rows), jnp.asarray(one)
        if rows.ndim != 2 or one.shape != rows.shape[1:]:
            raise ValueError(f"nearest: database [n, V] and query [V] needed, got {rows.shape}, {one.shape}. Flatten.")
        if metric == "dice":
            if {rows.dtype, one.dtype} <= {jnp.dtype(bool)}:
                rows, one = pack_bits(rows), pack_bits(one)
            if {rows.dtype, one.dtype} != {jnp.dtype("uint32")}:
                raise TypeError(f"nearest: dice needs bool masks or pack_bits words, got {rows.dtype} and {one.dtype}.")
            score = map_rows(lambda part, q=one: _dice(part, q), rows, block=block)
        elif metric == "cosine":
            size = jnp.sqrt(jnp.sum(rows**2, 1) * jnp.sum(one**2))
            score = matmul(rows, one[:, None])[:, 0] / jnp.where(size > 0, size, 1)
        else:
            score = map_rows(lambda part, q=one: -jnp.sum((part - q[None]) ** 2, 1), rows, block=block)
        total = score if total is None else total + score
    if total is None:
        raise ValueError("nearest: database is an empty tree.")
    check_count("nearest: num", num, high=total.shape[0])
    best, index = lax.top_k(total, num)
    return Nearest(index.astype(jnp.int32), -best if metric == "l2" else best)
