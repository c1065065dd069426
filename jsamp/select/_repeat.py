"""Repeated random subsets, and the history of losses."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._checks import check_count, check_floating, check_key, check_number, concrete


def repeated_subsets(key: jax.Array, size: int, num: int, epochs: int, *, replace: bool = False) -> jax.Array:
    """A fresh random subset of the training set for every epoch: RS2.

    Without replacement, epochs walk through one random permutation of the data and start a new one when it is used up:
    after every whole pass all rows were seen equally often. An epoch across the seam takes the tail of the old
    permutation and rows of the new one that are not in that tail, so rows are distinct inside every epoch. With
    `replace`, every epoch is an independent subset (distinct inside the epoch). Set learning-rate schedules for the
    shortened number of steps, epochs * num / batch.

    Args:
        key: one JAX key.
        size: rows in the dataset, static.
        num: rows per epoch, static.
        epochs: static.
        replace: independent subsets instead of passes, static.

    Returns:
        [epochs, num] int32.

    Raises:
        ValueError: for num outside 1..size.

    Example:
        >>> import jax, jsamp.select as select
        >>> index = select.repeated_subsets(jax.random.key(0), 10, 5, 4)
        >>> sorted(index[:2].ravel().tolist()) == list(range(10))
        True

    Cost: one permutation per pass (with `replace`: per epoch).

    References:
        Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning", 2024,
        arXiv:2305.18424.
    """
    check_key(key, "repeated_subsets")
    check_count("repeated_subsets: size", size)
    check_count("repeated_subsets: num", num, high=size)
    check_count("repeated_subsets: epochs", epochs)
    return _repeated(key, size, num, epochs, replace)


@functools.partial(jax.jit, static_argnames=("size", "num", "epochs", "replace"))
def _repeated(key, size, num, epochs, replace):
    def shuffled(i):
        return jax.random.permutation(jax.random.fold_in(key, i), size).astype(jnp.int32)

    if replace:
        return lax.map(lambda i: shuffled(i)[:num], jnp.arange(epochs))
    slot = jnp.arange(num)

    def renew(state):
        order, position, passes = state
        left = size - position
        tail = (
            jnp.zeros((size,), bool)
            .at[jnp.where(slot < left, order[(position + slot) % size], size)]
            .set(True, mode="drop")
        )
        fresh = shuffled(passes)
        # The first num entries hold enough rows outside the tail: those come first, order kept otherwise.
        late = tail[fresh] & (jnp.arange(size) < num)
        group = jnp.where(jnp.arange(size) < num, late.astype(jnp.int32), 2)
        fresh = fresh[jnp.argsort(group, stable=True)]
        joined = jnp.where(slot < left, order[(position + slot) % size], fresh[(slot - left) % size])
        return joined, (fresh, num - left, passes + 1)

    def walk(state):
        order, position, passes = state
        return lax.dynamic_slice(order, (position,), (num,)), (order, position + num, passes)

    def step(state, _):
        index, state = lax.cond(state[1] + num > size, renew, walk, state)
        return state, index

    _, index = lax.scan(step, (shuffled(0), jnp.asarray(0), jnp.asarray(1)), None, length=epochs)
    return index


def loss_history(history: Any, index: Any, loss: Any, *, rate: Any = 0.999) -> jax.Array:
    """Per-sample loss history: history[index] <- (1 - rate) history[index] + rate loss.

    Args:
        history: [n].
        index: [b] rows of this batch; a repeated row takes the mean of its losses.
        loss: [b] losses of this batch.
        rate: weight of the newest loss (the authors' code uses 0.999: nearly the last loss).

    Returns:
        [n].

    Raises:
        ValueError: for a rate outside [0, 1].

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> select.loss_history(jnp.zeros(3), jnp.array([0, 2, 2]), jnp.array([1.0, 2.0, 4.0]), rate=0.5)
        Array([0.5, 0. , 1.5], dtype=float32)
    """
    check_number("loss_history: rate", rate, low=0, high=1)
    check_floating("loss_history: history", history)
    history = jnp.asarray(history)
    total = jnp.zeros_like(history).at[index].add(loss)
    count = jnp.zeros_like(history).at[index].add(1)
    return jnp.where(count > 0, (1 - rate) * history + rate * total / jnp.maximum(count, 1), history)


def otsu(values: Any, *, bins: int | None = None) -> jax.Array:
    """The threshold that splits values into two groups with the largest variance between them.

    Exact over all n - 1 splits by default (half way between the two values at the split); with `bins`, over a histogram
    between the extremes, as image libraries do, and the middle of the best bins is returned.

    Args:
        values: [n].
        bins: None, or the number of bins, static.

    Returns:
        A scalar; the value itself when all are equal.

    Raises:
        ValueError: for non-finite values.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> select.otsu(jnp.array([0.0, 0.1, 0.2, 5.0, 5.2]))
        Array(2.6, dtype=float32)

    Cost: one sort (or one histogram).

    References:
        Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    check_floating("otsu: values", values)
    check_number("otsu: values", values)
    values = jnp.asarray(values).ravel()
    low, high = jnp.min(values), jnp.max(values)
    scale = jnp.where(high > low, high - low, 1)
    unit = (values - low) / scale
    if bins is None:
        place = jnp.sort(unit)
        count = jnp.ones_like(place)
        answer = (place[:-1] + place[1:]) / 2 if place.shape[0] > 1 else place
    else:
        check_count("otsu: bins", bins, low=2)
        cell = jnp.minimum((unit * bins).astype(jnp.int32), bins - 1)
        count = jnp.zeros((bins,), unit.dtype).at[cell].add(1)
        place = (jnp.arange(bins, dtype=unit.dtype) + 0.5) / bins
        answer = place[:-1]
    if place.shape[0] == 1:
        return low
    below, mass = jnp.cumsum(count)[:-1], jnp.cumsum(count * place)[:-1]
    total, whole = jnp.sum(count), jnp.sum(count * place)
    spread = (whole * below - total * mass) ** 2 / jnp.maximum(below * (total - below), 0.5)
    if bins is None:
        best = answer[jnp.argmax(spread)]
    else:  # empty bins between two groups all score the same: take the middle of them
        tied = spread >= jnp.max(spread) * (1 - 1e-6)
        best = jnp.sum(jnp.where(tied, answer, 0)) / jnp.sum(tied)
    return jnp.where(high > low, low + scale * best, low)


def naive_samples(history: Any, previous: Any = None, *, bins: int | None = None, log: bool = False) -> jax.Array:
    """Samples that have become too easy, and should get the stronger augmentation: history below its Otsu threshold.

    Args:
        history: [n] smoothed losses (`loss_history`).
        previous: [n] bool flags kept where history equals the threshold exactly, or None.
        bins: histogram bins of the threshold (the authors use 256; None: exact).
        log: threshold log-losses, for heavy tails that would otherwise be cut at the tail.

    Returns:
        [n] bool. All False when every loss is the same.

    Raises:
        ValueError: for non-finite losses, or losses <= 0 with `log`.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> select.naive_samples(jnp.array([0.1, 0.2, 3.0, 4.0])).tolist()
        [True, True, False, False]

    References:
        Gui et al., "Enhancing Sample Utilization through Sample Adaptive Augmentation in Semi-Supervised Learning",
        2023, arXiv:2309.03598.
    """
    check_floating("naive_samples: history", history)
    check_number("naive_samples: history", history)
    history = jnp.asarray(history)
    known = concrete(history)
    if log and known is not None and not np.all(known > 0):
        raise ValueError("naive_samples: log=True needs losses > 0. Add a small constant.")
    value = jnp.log(history) if log else history
    threshold = otsu(value, bins=bins)
    old = jnp.zeros(value.shape, bool) if previous is None else jnp.asarray(previous)
    return jnp.where(value == threshold, old, value < threshold)
