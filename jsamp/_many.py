"""Many samples: a host generator of batches, whose samples do not depend on how they are batched."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count, check_flag, check_key, check_made, shown
from jsamp._core._progress import bar
from jsamp._core._types import Key, Tree

LANES = 64
"""Most samples that a device computes together unless the caller says otherwise."""
TOGETHER = 2**24
"""Bytes of the samples that a device computes together unless the caller says otherwise."""


def many(
    key: Key,
    draw: Callable[[Any], Tree],
    num: int,
    *,
    batch: int,
    mesh: Any = None,
    start: int = 0,
    lanes: int | None = None,
    progress: bool = False,
) -> Iterator[Tree]:
    """Draw many samples in batches from the host: bounded memory, every device of a mesh, resumed where it stopped.

    A generator. Sample i is `draw(fold_in(key, i))`, computed in the group of `lanes` consecutive indices to which it
    belongs, by one program for all groups. So neither the batch size, nor the number of devices, nor an interruption
    changes a bit of a sample: a run cut after i samples and continued with `start=i` yields what is missing. The next
    groups are computed while the caller works on a batch. Ctrl-C or `break` loses nothing that was yielded.

    Args:
        key: the key of the whole run; pass the same one when resuming.
        draw: callable tree (key) -> sample, any tree of arrays. Arrays that it captures are arguments of the program.
        num: number of samples of the whole run, those before `start` included.
        batch: most samples of one yielded tree, all devices together.
        mesh: a `jax.sharding.Mesh` of this process's devices; each computes a group at a time. None: one device.
        start: index of the first sample, to resume.
        lanes: samples in a group, which a device computes together. Lower it where memory is short, raise it for small
            samples on an accelerator; another value may change samples by rounding. None: 64, or as many (a power of
            two) as fit 16 MiB.
        progress: draw a tqdm bar, when tqdm is installed.

    Returns:
        An iterator of trees of numpy arrays, with a leading axis of at most `batch`.

    Raises:
        TypeError: for something that is not a key, a mesh, or cannot be called, or a draw that returns no arrays.
        ValueError: for counts below 1, a start beyond num, or a mesh with devices of other processes.

    Example:
        >>> import jax, jsamp as js
        >>> draw = lambda key: jax.random.normal(key, (2,))
        >>> [x.shape for x in js.many(jax.random.key(0), draw, 10, batch=4)]
        [(4, 2), (4, 2), (2, 2)]

    Cost:
        num draws, and those that fill the first and the last group; memory of two groups on each device, and on the
        host of a batch and a group of each device.
    """
    check_key(key, "many")
    draw = as_tree("many: draw", draw, "draw(key)")
    num = check_count("many: num", num)
    start = check_count("many: start", start, low=0, high=num)
    batch = check_count("many: batch", batch)
    check_flag("many: progress", progress)
    devices = 1 if mesh is None else _size(mesh)
    sample = _one.eval_shape(draw, key)
    lanes = _lanes(sample) if lanes is None else check_count("many: lanes", lanes)
    groups = _groups(functools.partial(_program(mesh, lanes), draw, key), start, num, lanes * devices)
    return _batches(groups, num, batch, start, progress)


def _size(mesh: Any) -> int:
    if not isinstance(mesh, jax.sharding.Mesh):
        raise TypeError(f"many: mesh must be a jax.sharding.Mesh, got {shown(mesh)}. Make one with jax.make_mesh.")
    if mesh.is_multi_process:
        raise ValueError(
            "many: the mesh has devices of other processes. Give each process a mesh of its own devices and a range of "
            "its own, start= to num."
        )
    return mesh.size


@jax.jit
def _one(draw, key):
    return check_made("many: draw", draw(key), empty=False)


def _lanes(sample: Any) -> int:
    """The largest power of two up to LANES whose samples fit TOGETHER."""
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(sample))
    return min(LANES, 2 ** max(0, int(math.log2(TOGETHER / max(size, 1)))))


def _groups(run: Callable[[Any], Any], start: int, num: int, size: int) -> Iterator[Any]:
    """Samples from `start` on as numpy arrays, group by group; the next group is dispatched before one is fetched."""
    first = start - start % size if start < num else num
    ahead = run(first) if first < num else None
    while first < num:
        now, after = ahead, first + size
        ahead = run(after) if after < num else None
        rows = slice(max(start - first, 0), min(num - first, size))
        yield jax.tree.map(lambda leaf: _fetch(leaf, rows), now)  # noqa: B023
        first = after


def _batches(groups: Iterator[Any], num: int, batch: int, start: int, progress: bool) -> Iterator[Any]:
    """Rows of the groups in trees of `batch` rows."""
    held, rows = [], 0
    with bar(progress, num, done=start, unit="sample") as advance:
        for group in groups:
            held.append(group)
            rows += _rows(group)
            while rows >= batch:
                out, held = _split(held, batch)
                rows -= batch
                yield out
                advance(batch)
        if rows:
            yield _split(held, rows)[0]
            advance(rows)


def _rows(tree: Any) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _split(trees: list[Any], count: int) -> tuple[Any, list[Any]]:
    """The first rows of several trees as one, and the trees of the rows that are left."""
    whole = trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: _concatenate(leaves), *trees)
    rest = jax.tree.map(lambda leaf: leaf[count:], whole)
    return jax.tree.map(lambda leaf: leaf[:count], whole), [rest] if _rows(rest) else []


def _concatenate(leaves: Any) -> Any:
    return (np if isinstance(leaves[0], np.ndarray) else jnp).concatenate(leaves)


def _fetch(leaf: Any, rows: slice) -> Any:
    """Rows of an array in numpy; keys stay arrays of JAX."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jnp.asarray(np.asarray(jax.random.key_data(leaf))[rows])
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return np.asarray(leaf)[rows]


@functools.lru_cache(maxsize=64)
def _program(mesh: Any, lanes: int) -> Callable[[Any, Any, Any], Any]:
    """The compiled (draw, key, first) -> a group of samples from each device."""

    def group(draw, key, first):
        index = first + jnp.arange(lanes, dtype=jnp.uint32)
        return jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(index)

    def share(draw, key, first):
        place = jax.lax.axis_index(mesh.axis_names).astype(jnp.uint32)
        return group(draw, key, first + lanes * place)

    def run(draw, key, first):
        if mesh is None:
            return group(draw, key, first)
        # Varying axes are not tracked: a draw of the user's own need not know that it runs on a mesh.
        specs = {"in_specs": jax.P(), "out_specs": jax.P(mesh.axis_names), "check_vma": False}
        return jax.shard_map(share, mesh=mesh, **specs)(draw, key, first)

    compiled = jax.jit(run)
    return lambda draw, key, first: compiled(draw, key, np.uint32(first))
