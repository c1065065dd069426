"""Rows that do not fit in memory: passes over blocks, merge and reduce."""

from __future__ import annotations

import functools
import math
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_callable, check_count, check_flag, check_key, check_on_host, check_scalar
from jsamp._core._pytree import pytree, static
from jsamp._core._types import Key
from jsamp.select._bits import wide
from jsamp.select._draw import draw
from jsamp.select._leverage import leverage
from jsamp.select._rows import as_floating, is_bad, power_of_two, refuse_out_of_range, top_bits
from jsamp.select._subset import Subset
from jsamp.select._whiten import (
    WELL,
    add_ridge,
    block_gram,
    finish,
    in_range,
    inverse_scale,
    matmul,
    normalise,
    null_cut,
    refine,
    squared_norms,
)

_gram = jax.jit(block_gram)
_score = jax.jit(squared_norms)


@pytree
class RowBlocks:
    """Read slices of a long array (numpy, memmap, HDF5, zarr), as often as needed, one block in memory at a time.

    Pages of a memmap opened with mode "r" leave the process's memory after each block.

    Args:
        rows: anything with `shape` and slices along axis 0.
        block: rows per block.

    Raises:
        ValueError: for block < 1.

    Example:
        >>> import numpy as np, jsamp as js
        >>> [block.shape for block in js.select.RowBlocks(np.zeros((5, 2)), 2)]
        [(2, 2), (2, 2), (1, 2)]

    Cost:
        One pass over the rows for each loop; memory of one block.
    """

    rows: Any
    block: int = static(default=65536)

    def __post_init__(self):
        check_count("RowBlocks: block", self.block)
        if not getattr(self.rows, "shape", ()) or not hasattr(self.rows, "__getitem__") or hasattr(self.rows, "iloc"):
            raise TypeError(f"RowBlocks: rows must have a shape and slices along axis 0, got "
                            f"{type(self.rows).__name__}. Pass a numpy array or memmap (df.to_numpy()).")  # fmt: skip

    def __len__(self) -> int:
        return -(-self.rows.shape[0] // self.block)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.rows.shape[0], self.block):
            yield np.asarray(self.rows[start : start + self.block])
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
    rows = as_floating(f"{who}: a block", block)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"{who}: blocks must be [rows, d], got shape {rows.shape}.")
    check_on_host(who, rows)
    if is_bad(rows):
        raise ValueError(f"{who}: a block holds NaN or infinity. Clean the rows as they are read.")
    return rows.astype(wide(rows.dtype))


def _check_blocks(blocks: Any, who: str) -> None:
    whole = isinstance(blocks, jax.Array) and blocks.ndim < 3
    if whole or isinstance(blocks, (str, bytes, dict)) or not isinstance(blocks, Iterable) or hasattr(blocks, "iloc"):
        raise TypeError(f"{who}: blocks must be an iterable of arrays [rows, d], got {type(blocks).__name__}. "
                        f"Wrap one long array in RowBlocks.")  # fmt: skip


def _same_columns(columns: int | None, rows: Any, who: str) -> int:
    if columns is not None and rows.shape[1] != columns:
        raise ValueError(f"{who}: a block has {rows.shape[1]} columns, those before it {columns}. Make them agree.")
    return rows.shape[1]


def _passes(blocks: Iterable[Any], ridge: float, progress: bool) -> tuple[Callable[..., Any], Callable[[int], Any]]:
    """Make the passes over a stream: T -> (Gram of the rows a T, number), and number -> scales of the columns."""

    def gram(transform):
        total, columns, count = None, None, 0
        for block in _watch(blocks, "leverage_stream (Gram)", progress):
            rows = _as_rows(block, "leverage_stream")
            columns, count = _same_columns(columns, rows, "leverage_stream"), count + rows.shape[0]
            part = _gram(rows, None, transform)
            total = part if total is None else total + part
        if total is None:
            raise ValueError("leverage_stream: there are no blocks.")
        return add_ridge(total, ridge or None, transform), count

    def scale(count):
        rows = (_as_rows(block, "leverage_stream") for block in blocks)
        tops = [np.asarray(top_bits(part, 0)).view(part.dtype) for part in rows]  # blocks may differ in dtype
        top = functools.reduce(np.maximum, tops)
        bits = jnp.asarray(top.view(f"int{8 * top.itemsize}"))
        scales = inverse_scale([bits], top.dtype, count, math.sqrt(ridge))
        if is_bad(scales):
            refuse_out_of_range("leverage_stream: blocks", scales.dtype, count)
        return jnp.diag(scales)

    return gram, scale


def leverage_stream(blocks: Iterable[Any], *, ridge: float = 0.0, progress: bool = False) -> np.ndarray:
    """Compute leverage scores of rows read block by block: the numbers of `leverage`, in the memory of one block.

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
        >>> import numpy as np, jsamp as js
        >>> A = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
        >>> scores = js.select.leverage_stream(js.select.RowBlocks(A, 128))
        >>> bool(np.allclose(scores, js.select.leverage(A), rtol=1e-4))
        True

    Cost:
        2 to 4 reads of the rows, as their condition number asks.
    """
    check_scalar("leverage_stream: ridge", ridge, low=0)
    ridge = float(ridge)
    check_flag("leverage_stream: progress", progress)
    _check_blocks(blocks, "leverage_stream")
    if iter(blocks) is blocks:
        raise TypeError("leverage_stream: blocks is a one-shot iterator, but several passes are needed. "
                        "Pass a list or RowBlocks, or use reduce_stream.")  # fmt: skip

    gram, scale = _passes(blocks, ridge, progress)
    first, count = gram(None)
    if ridge == 0 and count < first.shape[0]:
        raise ValueError(f"leverage_stream: {count} rows are fewer than {first.shape[0]} columns. Pass ridge > 0.")
    ranged = jnp.eye(first.shape[0], dtype=first.dtype)
    if not bool(in_range(first)):
        ranged = scale(count)
        first, _ = gram(ranged)
    transform, first = normalise(first)
    transform, predicted, quality = refine(matmul(ranged, transform), first)
    if quality > WELL:
        transform, _ = finish(transform, predicted, WELL / 4)
    else:
        second, _ = gram(transform)
        value = np.linalg.eigvalsh(np.asarray(second))
        if value[0] <= WELL * value[-1]:
            transform, _, _ = refine(transform, second, cut=null_cut(second.dtype))
            second, _ = gram(transform)
        transform, _ = finish(transform, second, WELL)
    watched = _watch(blocks, "leverage_stream (scores)", progress)
    return np.concatenate([np.asarray(_score(_as_rows(b, "leverage_stream"), transform)) for b in watched])


def merge(*subsets: Subset | list[Subset]) -> Subset:
    """Join subsets of disjoint parts of the data into one: slots side by side, weights as they are.

    Args:
        *subsets: subsets, or one list of them, whose `index` counts rows of the whole dataset.

    Returns:
        `Subset` with all their slots.

    Raises:
        ValueError: for no subset.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> keys = jax.random.split(jax.random.key(0))
        >>> parts = [js.select.draw(key, jnp.ones(50), 5, scheme="systematic") for key in keys]
        >>> both = js.select.merge(parts[0], parts[1]._replace(index=parts[1].index + 50))
        >>> both.index.shape, float(both.weight.sum())
        ((10,), 100.0)

    Cost:
        A copy of the slots; the data are not read.
    """
    if len(subsets) == 1 and isinstance(subsets[0], list):
        subsets = tuple(subsets[0])
    if not subsets:
        raise ValueError("merge: pass at least one subset.")
    wrong = [type(s).__name__ for s in subsets if not isinstance(s, Subset)]
    if wrong:
        raise TypeError(f"merge: every argument must be a js.select.Subset, got {wrong[0]}.")
    return jax.tree.map(lambda *slots: jnp.concatenate([jnp.asarray(s) for s in slots]), *subsets)


class Coreset(NamedTuple):
    """Hold the rows kept from a stream, where they came from and what they weigh.

    Args:
        rows: [m, d] on the host.
        subset: `Subset` whose index counts rows of the whole stream.

    Example:
        >>> import jax, numpy as np, jsamp as js
        >>> stream = (np.ones((40, 1), np.float32) for _ in range(5))
        >>> kept = js.select.reduce_stream(jax.random.key(0), stream, 16)
        >>> kept.rows.shape, kept.subset.index.shape
        ((16, 1), (16,))
    """

    rows: np.ndarray
    subset: Subset


def _weighted_leverage(rows, weight):
    unit = power_of_two(rows)
    size = jnp.sum((rows * unit) ** 2) / rows.shape[0]
    return leverage(rows * unit, weights=weight, ridge=jnp.maximum(1e-6 * size, jnp.finfo(rows.dtype).tiny))


def _shrinker(key: Key, num: int, score: Callable[..., Any]) -> Callable[..., Any]:
    """Make the function that reduces rows, weights and row numbers to `num`, each call with a draw of its own."""
    draws = 0

    def shrink(rows, weight, index):
        nonlocal draws
        if len(rows) <= num:
            return rows, weight, index
        step = jax.random.fold_in(key, draws)
        draws += 1
        scores = as_floating("reduce_stream: score(rows, weight)", score(jnp.asarray(rows), jnp.asarray(weight)))
        if scores.shape != (len(rows),):
            raise ValueError(f"reduce_stream: score(rows, weight) must return [{len(rows)}] scores, one per row, "
                             f"got shape {scores.shape}.")  # fmt: skip
        if bool(jnp.all(scores == 0)):  # rows without mass, which no draw would keep
            return rows[:0], weight[:0], index[:0]
        subset = draw(step, scores, num, scheme="priority")
        take, used = np.asarray(subset.index), np.asarray(subset.mask)
        return rows[take][used], (weight[take] * np.asarray(subset.weight))[used], index[take][used]

    return shrink


def reduce_stream(
    key: Key, blocks: Iterable[Any], num: int, *, score: Callable[..., Any] | None = None, progress: bool = False
) -> Coreset:
    """Reduce a stream to a weighted subset in one pass: merge and reduce over a binary tree of subsets.

    Every block is reduced to `num` rows; two subsets of a level are merged and reduced to one of the next, so memory
    is `num` rows for each of log2(blocks) levels, and weights stay unbiased at every step.

    Args:
        key: one JAX key.
        blocks: any iterable of [rows, d] arrays, read once.
        num: rows kept, static.
        score: (rows [k, d], weight [k]) -> scores [k] of weighted rows. Default: leverage of sqrt(weight) * rows.
        progress: draw a line with the block count on stderr.

    Returns:
        `Coreset(rows, subset)`; fewer than `num` rows only if the stream has fewer (with a positive score). Row numbers
        are int32, and int64 on the host once the stream is longer than 2^31 rows.

    Raises:
        ValueError: for an empty stream, blocks that are not matrices, or num < 1.

    Example:
        >>> import jax, numpy as np, jsamp as js
        >>> data = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
        >>> rows, subset = js.select.reduce_stream(jax.random.key(0), js.select.RowBlocks(data, 500), 200)
        >>> gram = rows.T @ (rows * np.asarray(subset.weight)[:, None])
        >>> bool(np.abs(gram / 4000 - np.eye(3)).max() < 0.5)
        True

    Cost:
        Each row is scored once at the bottom, and each level adds num rows per block pair.
    """
    check_key(key, "reduce_stream")
    check_on_host("reduce_stream", key)
    check_count("reduce_stream: num", num)
    check_flag("reduce_stream: progress", progress)
    _check_blocks(blocks, "reduce_stream")
    if score is not None:
        check_callable("reduce_stream: score", score, "score(rows, weight)")
    shrink = _shrinker(key, num, _weighted_leverage if score is None else score)
    levels: list[Any] = []
    seen, columns = 0, None
    for block in _watch(blocks, "reduce_stream", progress):
        rows = np.asarray(_as_rows(block, "reduce_stream"))
        columns = _same_columns(columns, rows, "reduce_stream")
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
    index = jnp.asarray(index, jnp.int32) if seen < 2**31 else index
    return Coreset(rows, Subset(index, jnp.asarray(weight), jnp.ones(len(rows), bool)))
