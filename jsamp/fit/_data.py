"""Where the batches of a run come from: arrays, an iterator, or a function of the step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._types import Key


def batches(key: Key, data: Any, batch: Any) -> _Rows | _Same:
    """Return step -> (tree, order, position, size): a batch, or arrays with where in their order to take it."""
    if callable(data) and not hasattr(data, "__next__"):
        _no_batch(batch)
        return _Same(lambda step: (data(step), True))
    if hasattr(data, "__next__") or (jax.tree_util.all_leaves([data]) and _is_iterable(data)):
        _no_batch(batch)
        return _Same(_Endless(data))
    if not jax.tree.leaves(data):
        raise ValueError("minimise: data is empty; pass arrays [n, ...], an iterator of batches, or step -> batch.")
    _checks.check_on_host("minimise", data)
    rows = _rows(data)
    if batch is None:
        raise ValueError("minimise: batch, the rows per step, must be given for data in arrays.")
    size = _checks.check_count("minimise: batch", batch)
    if size > rows:
        raise ValueError(f"minimise: batch must be at most the {rows} rows of data, got {size}.")
    return _Rows(key, data, rows, size)


def _is_iterable(data):
    return hasattr(data, "__iter__") and not hasattr(data, "shape") and not isinstance(data, (str, bytes))


def _no_batch(batch):
    if batch is not None:
        raise ValueError(f"minimise: data gives whole batches: batch must be None, got {batch!r}.")


def _rows(data):
    _checks.refuse_sparse_leaves("minimise: data", data)
    for leaf in jax.tree.leaves(data):
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")) or np.ndim(leaf) < 1:
            raise TypeError(
                f"minimise: data must be arrays [n, ...], got {_checks.shown(leaf)}. Convert lists by jnp.asarray, "
                f"data frames by .to_numpy()."
            )
        _checks.refuse_times("minimise: data", leaf.dtype)
        if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
            raise TypeError(f"minimise: data must hold numbers, got an array of {leaf.dtype}. Encode it first.")
        if not isinstance(leaf, np.memmap):  # a map may be larger than memory: its batches are checked instead
            _refuse_nan(leaf, "data")
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1 or not min(lengths):
        raise ValueError(f"minimise: data must have one leading axis of rows in all arrays, got {sorted(lengths)}.")
    return lengths.pop()


def _refuse_nan(leaf, name):
    """Refuse floating numbers that are not finite."""
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        xp = jnp if isinstance(leaf, jax.Array) else np
        if not bool(xp.all(xp.isfinite(leaf))):
            raise ValueError(f"minimise: {name} holds NaN or infinity. Clean it first.")


def permutation(key: Key, epoch: int, rows: int) -> Any:
    """The integers below `rows` as `jax.random.permutation(fold_in(key, epoch), rows)` orders them.

    A processor sorts them with numpy, which is several times faster there than XLA: that took as long as a few steps.
    """
    if jax.default_backend() != "cpu":
        return jax.random.permutation(jax.random.fold_in(key, epoch), rows)
    place = np.arange(rows, dtype=np.uint64)  # as the lower half of what is sorted, it keeps ties in their order
    order = place.astype(np.int32)
    for bits in np.asarray(_sort_keys(key, epoch, rows)).astype(np.uint64):
        order = order[np.sort(bits << np.uint64(32) | place).astype(np.uint32)]
    return order


@functools.partial(jax.jit, static_argnums=2)
def _sort_keys(key, epoch, rows):
    """Random bits [rounds, rows] to sort by, one round after another."""
    key, rounds = jax.random.fold_in(key, epoch), []
    for _ in range(int(np.ceil(3 * np.log(rows) / np.log(2**32 - 1)))):
        key, sub = jax.random.split(key)
        rounds.append(jax.random.bits(sub, (rows,), jnp.uint32))
    return jnp.stack(rounds) if rounds else jnp.zeros((0, rows), jnp.uint32)


class _Rows:
    """Rows without replacement, in an order that the key and the epoch fix."""

    def __init__(self, key, data, rows, size):
        self.key, self.data, self.rows, self.size = jax.random.fold_in(key, 2**31), data, rows, size
        self.on_host = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(data))
        self.epoch, self.order = -1, np.arange(rows)

    def __call__(self, step):
        epoch, place = divmod(step, self.rows // self.size)
        if epoch != self.epoch:
            order = permutation(self.key, epoch, self.rows)
            self.epoch, self.order = epoch, np.asarray(order) if self.on_host else jnp.asarray(order)
        start = place * self.size
        if not self.on_host:
            return self.data, self.order, start, self.size
        index = self.order[start : start + self.size]
        taken = jax.tree.map(lambda leaf: np.asarray(leaf[index]), self.data)
        for leaf, whole in zip(jax.tree.leaves(taken), jax.tree.leaves(self.data), strict=True):
            if isinstance(whole, np.memmap):
                _refuse_nan(leaf, f"batch {step} of data")
        return taken, None, 0, 0


class _Endless:
    """The next batch of an iterator; an iterable that can start again does so."""

    def __init__(self, data):
        self.data, self.iterator = data, iter(data)

    def __call__(self, step):
        found = next(self.iterator, self)
        if found is self and self.iterator is not self.data:
            self.iterator = iter(self.data)
            found = next(self.iterator, self)
        return (None, False) if found is self else (found, True)


class _Same:
    """Batches of one structure, of one dtype and of one shape but for their number of rows."""

    rows = size = 0  # they are not known

    def __init__(self, source):
        self.source, self.wanted = source, None

    def __call__(self, step):
        batch, more = self.source(step)
        if not more:
            return None
        if not jax.tree.leaves(batch):
            raise TypeError(f"minimise: batch {step} of data is empty, got {batch!r}.")
        for leaf in jax.tree.leaves(batch):
            if not hasattr(leaf, "dtype") or np.ndim(leaf) < 1:
                raise TypeError(f"minimise: batch {step} of data must hold arrays [n, ...], got {leaf!r}.")
            if np.shape(leaf)[0] == 0:
                raise ValueError(f"minimise: batch {step} of data has no rows: shape {np.shape(leaf)}. Leave it out.")
            if isinstance(leaf, np.ndarray):  # a check of what is on the device would wait for it at every step
                _refuse_nan(leaf, f"batch {step} of data")
        found = jax.tree.map(lambda leaf: f"{leaf.dtype}[n, {', '.join(map(str, leaf.shape[1:]))}]", batch)
        self.wanted = found if self.wanted is None else self.wanted
        if found != self.wanted:
            raise ValueError(f"minimise: batch {step} of data is {found}, the first was {self.wanted}.")
        return batch, None, 0, 0
