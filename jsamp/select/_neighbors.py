"""Nearest rows, by blocks: never an n x n array."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_choice, check_count, refuse_sparse_leaves
from jsamp.select._rows import as_array, as_real, is_bad, power_of_two, refuse_too_small
from jsamp.select._whiten import map_rows

METRICS = ("l2", "cosine", "dice")


class Nearest(NamedTuple):
    """Hold the best rows of a database, best first.

    Args:
        index: [..., num] rows.
        score: [..., num] similarity ("dice", "cosine") or squared distance ("l2").

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.select.nearest(jnp.eye(3), jnp.array([0.0, 0.9, 0.1]), 2).index
        Array([1, 2], dtype=int32)
    """

    index: Any
    score: Any


COLUMNS = 32  # added up in one pass over a tile of distances


def squared_distances(query: jax.Array, data: jax.Array) -> jax.Array:
    """Sum the squared differences of every pair of rows: [q, n], each right to a few roundings of its own.

    |x|^2 + |y|^2 - 2 x.y would lose all digits of distances that are small against the distance from the origin.
    """

    def add(total, rows, columns):
        for c in range(rows.shape[1]):
            total = total + (rows[:, c, None] - columns[c][None]) ** 2
        return total

    columns, d = data.T, query.shape[1]
    total = 0 * query[:, :1] * columns[:1]
    whole = d // COLUMNS if d > COLUMNS else 0
    if whole:
        many = query[:, : whole * COLUMNS].reshape(-1, whole, COLUMNS).transpose(1, 0, 2)
        parts = (many, columns[: whole * COLUMNS].reshape(whole, COLUMNS, -1))
        total, _ = lax.scan(lambda total, part: (add(total, *part), None), total, parts)
    return add(total, query[:, whole * COLUMNS :], columns[whole * COLUMNS :])


def neighbors(query: jax.Array, own: Any, data: jax.Array, k: int, extra: Any = None, block: int = 512) -> jax.Array:
    """[q, k] rows of `data` nearest to each query, row `own` itself (by number, not by distance) left out.

    `extra` = (codes of queries, codes of data, cost) adds cost per differing code.
    """

    def part(rows, mine, codes):
        distance = squared_distances(rows, data)
        if extra is not None:
            for column in range(extra[1].shape[1]):
                differ = codes[:, column, None] != extra[1][None, :, column]
                distance = distance + extra[2] * differ
        distance = jnp.where(mine[:, None] == jnp.arange(data.shape[0])[None], jnp.inf, distance)
        return lax.top_k(-distance, k)[1].astype(jnp.int32)

    return map_rows(part, query, own, None if extra is None else extra[0], block=block)


def pack_bits(mask: Any) -> jax.Array:
    """Pack boolean rows into words of 32 bits, for `nearest(..., metric="dice")` on databases 32 times smaller.

    Args:
        mask: [..., V] bool; trailing axes beyond the batch must be flattened.

    Returns:
        [..., ceil(V / 32)] uint32.

    Raises:
        TypeError: for masks that are not boolean.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.select.pack_bits(jnp.array([True, False, True]))
        Array([5], dtype=uint32)

    Cost:
        One pass over the mask; an eighth of a byte for each bit.
    """
    mask = as_array("pack_bits: mask", mask)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"pack_bits: mask must be boolean, got {mask.dtype}. Threshold the field first.")
    if mask.ndim == 0:
        raise ValueError("pack_bits: mask must be [..., V], got a scalar.")
    pad = [(0, 0)] * (mask.ndim - 1) + [(0, -mask.shape[-1] % 32)]
    words = jnp.pad(mask, pad).reshape(*mask.shape[:-1], -1, 32).astype(jnp.uint32)
    place = jnp.left_shift(jnp.uint32(1), jnp.arange(32, dtype=jnp.uint32))
    return jnp.sum(words * place.reshape((1,) * (words.ndim - 1) + (32,)), -1, dtype=jnp.uint32)


def _dice(rows, query):
    both = jnp.sum(lax.population_count(rows & query[None]), -1, dtype=jnp.int32)
    total = jnp.sum(lax.population_count(rows), -1, dtype=jnp.int32)
    total = total + jnp.sum(lax.population_count(query), dtype=jnp.int32)
    return jnp.where(total > 0, 2 * both / jnp.maximum(total, 1), 1.0)


def nearest(
    database: Any, query: Any, num: int = 1, *, metric: Literal["l2", "cosine", "dice"] = "l2", block: int = 8192
) -> Nearest:
    """Find the entries of a simulated database that match an observation best: inversion by look-up.

    Simulate many parameters once, then answer every observation with the parameters of its best matches: theta[index].
    Trees of features are scored leaf by leaf and added (Dice of the core plus Dice of the whole tumour).

    Args:
        database: array [n, V], or a tree of them.
        query: array [V], or the same tree. `vmap` over observations.
        num: matches, static.
        metric: "l2" (squared distance), "cosine", or "dice": overlap 2|a and b| / (|a| + |b|) of boolean masks or of
            words from `pack_bits`; two empty masks match perfectly. Numbers may be integers of any kind (they are
            compared as float32).
        block: database rows per block, static.

    Returns:
        `Nearest(index [num], score [num])`, best first; entries that hold NaN come last.

    Raises:
        ValueError: for shapes that do not fit, a query that is not finite, integers that a float cannot hold, an
            unknown metric, or num > n.
        TypeError: for masks that are neither boolean nor uint32.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> masks = jax.random.bernoulli(jax.random.key(0), 0.5, (100, 64))
        >>> match = js.select.nearest(js.select.pack_bits(masks), js.select.pack_bits(masks[7]), metric="dice")
        >>> int(match.index[0]), float(match.score[0])
        (7, 1.0)

    Cost:
        One read of the database (V/8 bytes per packed row).

    References:
        Ezhov et al., "A for-loop is all you need. For solving the inverse problem in the case of personalized tumor
        growth modeling", 2022, arXiv:2205.04550.
    """
    check_choice("nearest: metric", metric, METRICS)
    check_count("nearest: block", block)
    for name, tree in (("database", database), ("query", query)):
        refuse_sparse_leaves(f"nearest: {name}", tree)
    leaves, structure = jax.tree.flatten(database)
    if not leaves:
        raise ValueError("nearest: database is an empty tree.")
    if jax.tree.structure(query) != structure:
        raise ValueError(f"nearest: query must be a tree like database, got {jax.tree.structure(query)}, {structure}.")
    pairs = [_check_pair(rows, one, metric) for rows, one in zip(leaves, jax.tree.leaves(query), strict=True)]
    check_count("nearest: num", num, high=pairs[0][0].shape[0])
    lengths = {rows.shape[0] for rows, _ in pairs}
    if len(lengths) > 1:
        raise ValueError(f"nearest: the leaves of database have different numbers of rows {sorted(lengths)}.")
    return _nearest(pairs, num, metric, block)


def _check_pair(rows: Any, one: Any, metric: str) -> tuple[jax.Array, jax.Array]:
    """One leaf of the database and of the query: as packed words for "dice", else as wide floating numbers."""
    rows, one = as_array("nearest: database", rows), as_array("nearest: query", one)
    if rows.ndim != 2 or 0 in rows.shape or one.shape != rows.shape[1:]:
        raise ValueError(f"nearest: database [n, V] and query [V] needed, got {rows.shape}, {one.shape}. Flatten.")
    if metric == "dice":
        if {rows.dtype, one.dtype} <= {jnp.dtype(bool)}:
            rows, one = pack_bits(rows), pack_bits(one)
        if {rows.dtype, one.dtype} != {jnp.dtype("uint32")}:
            raise TypeError(f"nearest: dice needs bool masks or pack_bits words, got {rows.dtype} and {one.dtype}.")
        return rows, one
    rows, one = as_real("nearest: database", rows), as_real("nearest: query", one)
    if is_bad(one):
        raise ValueError("nearest: query holds NaN or infinity, so nothing is near it. Fill or mask the entries.")
    refuse_too_small("nearest: database", rows)
    return rows, one


@functools.partial(jax.jit, static_argnames=("num", "metric", "block"))
def _nearest(pairs, num, metric, block):
    total: Any = 0.0
    rank: Any = 0.0  # falls from the best match on; total is what the metric says
    unit = jnp.min(jnp.stack([power_of_two(x) for pair in pairs for x in pair])) if metric == "l2" else 1
    for rows, one in pairs:
        if metric == "dice":
            score = map_rows(lambda part, q=one: _dice(part, q), rows, block=block)
            rank, total = rank + score, total + score
            continue
        if metric == "l2":
            near = map_rows(lambda part, q=one: squared_distances(q[None] * unit, part * unit)[0], rows, block=block)
            score = near * (1 / unit) * (1 / unit)  # not over the square of the unit, which may be 0
        else:
            near = map_rows(lambda part, q=one: 2 * cosine_gap(part, q), rows, block=block)
            score = 1 - near / 2
        rank, total = rank - near, total + score
    index = lax.top_k(jnp.where(jnp.isnan(rank), -jnp.inf, rank), num)[1]
    return Nearest(index.astype(jnp.int32), total[index])


def cosine_gap(rows: jax.Array, query: jax.Array) -> jax.Array:
    """1 - cosine of every row with the query, from the difference of unit vectors: no digits lost between neighbours.

    A zero vector has no direction: its cosine with everything is 0.
    """

    def unit(x):
        x = x * power_of_two(x, 1)
        size = jnp.sqrt(jnp.sum(x * x, 1, keepdims=True))
        return x / jnp.where(size == 0, 1, size), size[:, 0] != 0  # NaN is not zero, and stays

    (u, live), (v, alive) = unit(rows), unit(query[None])
    return jnp.where(live & alive[0], squared_distances(v, u)[0] / 2, 1)
