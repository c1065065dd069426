"""Rows that do not fit in memory: passes over blocks, merge and reduce, reservoirs."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._checks import check_count, check_key, check_number
from jsamp._core._pytree import pytree, static
from jsamp.select._bits import uniform
from jsamp.select._draw import check_scores, draw
from jsamp.select._leverage import leverage
from jsamp.select._subset import Subset
from jsamp.select._whiten import WELL, block_gram, finish, matmul, normalise, null_cut, refine, squared_norms

_gram = jax.jit(block_gram)
_score = jax.jit(squared_norms)


@pytree
class RowBlocks:
    """Slices of a long array (numpy, memmap, HDF5, zarr), readable as often as needed, one block in memory at a time.

    Pages of a memmap opened with mode "r" leave the process's memory after each block.

    Args:
        rows: anything with `shape` and slices along axis 0.
        size: rows per block.

    Raises:
        ValueError: for size < 1.

    Example:
        >>> import numpy as np, jsamp.select as select
        >>> [block.shape for block in select.RowBlocks(np.zeros((5, 2)), 2)]
        [(2, 2), (2, 2), (1, 2)]
    """

    rows: Any
    size: int = static(default=65536)

    def __post_init__(self):
        check_count("RowBlocks: size", self.size)

    def __len__(self) -> int:
        return -(-self.rows.shape[0] // self.size)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.rows.shape[0], self.size):
            yield np.asarray(self.rows[start : start + self.size])
            _forget(self.rows)


def _forget(rows: Any) -> None:
    """Unmap the pages of a read-only memmap that were read, so that they do not pile up in the process."""
    mapped = getattr(rows, "_mmap", None)
    if mapped is not None and getattr(rows, "mode", None) == "r" and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _watch(blocks: Iterable[Any], name: str, progress: bool) -> Iterator[Any]:
    total = len(blocks) if hasattr(blocks, "__len__") else None  # pyright: ignore[reportArgumentType]
    count = 0
    for count, block in enumerate(blocks, 1):
        yield block
        if progress:
            share = f"{count}/{total}" if total else str(count)
            sys.stderr.write(f"\r{name}: block {share}")
            sys.stderr.flush()
    if progress and count:
        sys.stderr.write("\n")


def _as_rows(block: Any, who: str) -> jax.Array:
    rows = np.asarray(block)
    if rows.ndim != 2:
        raise ValueError(f"{who}: blocks must be [rows, d], got shape {rows.shape}.")
    if not np.issubdtype(rows.dtype, np.floating):
        raise TypeError(f"{who}: blocks must be floating point, got {rows.dtype}. Convert them as they are read.")
    return jnp.asarray(rows, jnp.promote_types(jnp.result_type(rows.dtype), jnp.float32))


def leverage_stream(blocks: Iterable[Any], *, ridge: float = 0.0, progress: bool = False) -> np.ndarray:
    """Leverage scores of rows read block by block: the numbers of `leverage`, in the memory of one block.

    Args:
        blocks: an iterable of [rows, d] arrays that can be iterated again: a list, `RowBlocks(memmap)`, a data loader.
        ridge: regularisation >= 0.
        progress: draw a line with the block count on stderr.

    Returns:
        [n] scores on the host.

    Raises:
        TypeError: for an iterator that is used up after one pass (see `reduce_stream`), or integer rows.
        ValueError: for blocks that are not matrices, or a negative ridge.

    Example:
        >>> import numpy as np, jsamp.select as select
        >>> A = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
        >>> scores = select.leverage_stream(select.RowBlocks(A, 128))
        >>> bool(np.allclose(scores, select.leverage(A), rtol=1e-4))
        True

    Cost: 2 to 4 reads of the rows, as their condition number asks.
    """
    check_number("leverage_stream: ridge", ridge, low=0)
    if iter(blocks) is blocks:
        raise TypeError("leverage_stream: blocks is a one-shot iterator, but several passes are needed. "
                        "Pass a list or RowBlocks, or use reduce_stream.")  # fmt: skip

    def gram(transform):
        total = None
        for block in _watch(blocks, "leverage_stream (Gram)", progress):
            part = _gram(_as_rows(block, "leverage_stream"), None, transform)
            total = part if total is None else total + part
        if total is None:
            raise ValueError("leverage_stream: there are no blocks.")
        eye = jnp.eye(total.shape[0], dtype=total.dtype) if transform is None else matmul(transform.T, transform)
        return total + ridge * eye

    transform, first = normalise(gram(None))
    transform, predicted, quality = refine(transform, first)
    if quality > WELL:
        transform, _ = finish(transform, predicted, WELL / 4)
    else:
        second = gram(transform)
        value = np.linalg.eigvalsh(np.asarray(second))
        if value[0] <= WELL * value[-1]:
            transform, _, _ = refine(transform, second, cut=null_cut(second.dtype))
            second = gram(transform)
        transform, _ = finish(transform, second, WELL)
    watched = _watch(blocks, "leverage_stream (scores)", progress)
    return np.concatenate([np.asarray(_score(_as_rows(b, "leverage_stream"), transform)) for b in watched])


def merge(*subsets: Subset) -> Subset:
    """One subset from several of disjoint parts of the data: slots side by side, weights as they are.

    Args:
        subsets: subsets whose `index` counts rows of the whole dataset.

    Returns:
        `Subset` with all their slots.

    Raises:
        ValueError: for no subset.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp.select as select
        >>> parts = [select.draw(k, jnp.ones(50), 5, scheme="systematic") for k in jax.random.split(jax.random.key(0))]
        >>> both = select.merge(parts[0], parts[1]._replace(index=parts[1].index + 50))
        >>> both.index.shape, float(both.weight.sum())
        ((10,), 100.0)
    """
    if not subsets:
        raise ValueError("merge: pass at least one subset.")
    return jax.tree.map(lambda *slots: jnp.concatenate([jnp.asarray(s) for s in slots]), *subsets)


class Coreset(NamedTuple):
    """Rows kept from a stream, with where they came from and what they weigh.

    Args:
        rows: [m, d] on the host.
        subset: `Subset` whose index counts rows of the whole stream.

    Example:
        >>> import jax, numpy as np, jsamp.select as select
        >>> stream = (np.ones((40, 1), np.float32) for _ in range(5))
        >>> kept = select.reduce_stream(jax.random.key(0), stream, 16)
        >>> kept.rows.shape, kept.subset.index.shape
        ((16, 1), (16,))
    """

    rows: np.ndarray
    subset: Subset


def _weighted_leverage(rows, weight):
    return leverage(rows, weights=weight, ridge=1e-6 * jnp.sum(rows * rows) / rows.shape[0])


def reduce_stream(
    key: jax.Array, blocks: Iterable[Any], num: int, *, score: Callable[..., Any] | None = None, progress: bool = False
) -> Coreset:
    """A weighted subset of a stream in one pass: merge and reduce over a binary tree of subsets.

    Every block is reduced to `num` rows; two subsets of a level are merged and reduced to one of the next, so memory
    is `num` rows for each of log2(blocks) levels, and weights stay unbiased at every step.

    Args:
        key: one JAX key.
        blocks: any iterable of [rows, d] arrays, read once.
        num: rows kept, static.
        score: (rows [k, d], weight [k]) -> scores [k] of weighted rows. Default: leverage of sqrt(weight) * rows.
        progress: draw a line with the block count on stderr.

    Returns:
        `Coreset(rows, subset)`; fewer than `num` rows only if the stream has fewer.

    Raises:
        ValueError: for an empty stream, blocks that are not matrices, or num < 1.

    Example:
        >>> import jax, numpy as np, jsamp.select as select
        >>> data = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
        >>> rows, subset = select.reduce_stream(jax.random.key(0), select.RowBlocks(data, 500), 200)
        >>> gram = rows.T @ (rows * np.asarray(subset.weight)[:, None])
        >>> bool(np.abs(gram / 4000 - np.eye(3)).max() < 0.5)
        True

    Cost: each row is scored once at the bottom, and each level adds num rows per block pair.
    """
    check_key(key, "reduce_stream")
    check_count("reduce_stream: num", num)
    score = _weighted_leverage if score is None else score
    draws = 0

    def shrink(rows, weight, index):
        nonlocal draws
        if len(rows) <= num:
            return rows, weight, index
        step = jax.random.fold_in(key, draws)
        draws += 1
        subset = draw(step, score(jnp.asarray(rows), jnp.asarray(weight)), num, scheme="priority")
        take, used = np.asarray(subset.index), np.asarray(subset.mask)
        return rows[take][used], (weight[take] * np.asarray(subset.weight))[used], index[take][used]

    levels: list[Any] = []
    seen = 0
    for block in _watch(blocks, "reduce_stream", progress):
        rows = np.asarray(_as_rows(block, "reduce_stream"))
        part = shrink(rows, np.ones(len(rows), rows.dtype), seen + np.arange(len(rows)))
        seen += len(rows)
        for level, held in enumerate(levels):
            if held is None:
                levels[level], part = part, None
                break
            part = shrink(*(np.concatenate(pair) for pair in zip(held, part, strict=True)))
            levels[level] = None
        if part is not None:
            levels.append(part)
    parts = [part for part in levels if part is not None]
    if not parts:
        raise ValueError("reduce_stream: the stream is empty.")
    rows, weight, index = shrink(*(np.concatenate(group) for group in zip(*parts, strict=True)))
    return Coreset(rows, Subset(jnp.asarray(index), jnp.asarray(weight), jnp.ones(len(rows), bool)))


class ReservoirState(NamedTuple):
    """What a reservoir holds.

    Ranks, log-scores, row numbers and rows of the best num + 1 so far.
    """

    rank: Any
    log_score: Any
    index: Any
    rows: Any
    seen: Any


@pytree
class Reservoir:
    """A weighted sample without replacement of a stream, of fixed size, inside jit.

    Keeps the num + 1 rows with the largest score / U (priority sampling); `subset` has the law of
    `draw(..., scheme="priority")` over everything seen, whatever the blocks were.

    Args:
        num: rows kept, static.

    Raises:
        ValueError: for num < 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp.select as select
        >>> reservoir = select.Reservoir(3)
        >>> state = reservoir.init(jnp.zeros(2))
        >>> for key in jax.random.split(jax.random.key(0), 4):
        ...     state = reservoir.step(key, state, jnp.ones((5, 2)), jnp.ones(5))
        >>> rows, subset = reservoir.subset(state)
        >>> rows.shape, int(state.seen), bool(subset.mask.all())
        ((3, 2), 20, True)

    References:
        Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary subset sums", 2007, arXiv:cs/0509026.
    """

    num: int = static()

    def __post_init__(self):
        check_count("Reservoir: num", self.num)

    def init(self, row: Any) -> ReservoirState:
        """An empty reservoir for rows like `row` (an array or a tree)."""
        empty = jnp.full((self.num + 1,), -jnp.inf)
        rows = jax.tree.map(lambda x: jnp.zeros((self.num + 1, *jnp.shape(x)), jnp.result_type(x)), row)
        return ReservoirState(empty, empty, jnp.zeros((self.num + 1,), jnp.int32), rows, jnp.zeros((), jnp.int32))

    def step(self, key: jax.Array, state: ReservoirState, rows: Any, scores: Any) -> ReservoirState:
        """The reservoir after a block of rows (leading axis k) with scores [k]."""
        check_key(key, "Reservoir.step")
        scores = check_scores(scores, "Reservoir.step").astype(state.rank.dtype)
        k = scores.shape[0]
        log_score = jnp.where(scores > 0, jnp.log(jnp.where(scores > 0, scores, 1)), -jnp.inf)
        rank = jnp.concatenate([state.rank, log_score - jnp.log(uniform(key, (k,), scores.dtype))])
        best, place = lax.top_k(rank, self.num + 1)

        def pick(old, new):
            return jnp.concatenate([old, new])[place]

        index = pick(state.index, state.seen + jnp.arange(k, dtype=jnp.int32))
        kept = jax.tree.map(pick, state.rows, rows)
        return ReservoirState(best, pick(state.log_score, log_score), index, kept, state.seen + k)

    def subset(self, state: ReservoirState) -> tuple[Any, Subset]:
        """The kept rows, and their `Subset` with unbiased weights."""
        m = self.num
        mask = state.rank[:m] > -jnp.inf
        excess = jnp.where(mask, state.log_score[:m] - state.rank[m], 0)
        weight = jnp.where(mask, jnp.exp(-jnp.minimum(excess, 0)), 0)
        rows = jax.tree.map(lambda x: x[:m], state.rows)
        return rows, Subset(jnp.where(mask, state.index[:m], 0), weight, mask)
