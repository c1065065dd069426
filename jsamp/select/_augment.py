"""Sample-adaptive augmentation: the history of losses, the samples that have become too easy, a harder view of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_count, check_finite, check_flag, check_key, check_scalar, concrete
from jsamp._core._types import Key
from jsamp.select._rows import as_array, as_floating, check_labels, check_vector


def loss_history(history: Any, index: Any, loss: Any, *, rate: Any = 0.999) -> jax.Array:
    """Update the loss history of every sample: history[index] <- (1 - rate) history[index] + rate loss.

    Args:
        history: [n].
        index: [b] row numbers of this batch; a repeated row takes the mean of its losses.
        loss: [b] losses of this batch.
        rate: weight of the newest loss (the authors' code uses 0.999: nearly the last loss).

    Returns:
        [n].

    Raises:
        ValueError: for a rate outside [0, 1], losses that are not finite, one per row, or rows outside the history.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.select.loss_history(jnp.zeros(3), jnp.array([0, 2, 2]), jnp.array([1.0, 2.0, 4.0]), rate=0.5)
        Array([0.5, 0. , 1.5], dtype=float32)

    Cost:
        One pass over the history.
    """
    check_scalar("loss_history: rate", rate, low=0, high=1)
    history = check_vector("loss_history: history", as_floating("loss_history: history", history))
    index = check_labels("loss_history: index", index, history.shape[0])
    loss = check_vector("loss_history: loss", loss, index.shape[0]).astype(history.dtype)
    total = jnp.zeros_like(history).at[index].add(loss)
    count = jnp.zeros_like(history).at[index].add(1)
    return jnp.where(count > 0, (1 - rate) * history + rate * total / jnp.maximum(count, 1), history)


def otsu(values: Any, *, bins: int | None = None) -> jax.Array:
    """Find the threshold that splits values into two groups with the largest variance between them.

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
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.select.otsu(jnp.array([0.0, 0.1, 0.2, 5.0, 5.2]))
        Array(2.6, dtype=float32)

    Cost:
        One sort (or one histogram).

    References:
        Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    values = as_floating("otsu: values", values).ravel()
    values = check_vector("otsu: values", values)
    if values.shape[0] == 0:
        raise ValueError("otsu: values is empty; pass at least one number.")
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
    """Flag the samples that have become too easy and should get a stronger augmentation: those below Otsu's threshold.

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
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.select.naive_samples(jnp.array([0.1, 0.2, 3.0, 4.0])).tolist()
        [True, True, False, False]

    Cost:
        That of `otsu` on the history, and one pass over it.

    References:
        Gui et al., "Enhancing Sample Utilization through Sample Adaptive Augmentation in Semi-Supervised Learning",
        2023, arXiv:2309.03598.
    """
    check_flag("naive_samples: log", log)
    history = check_vector("naive_samples: history", as_floating("naive_samples: history", history))
    known = concrete(history)
    if log and known is not None and not np.all(known > 0):
        raise ValueError("naive_samples: log=True needs losses > 0. Add a small constant.")
    value = jnp.log(history) if log else history
    threshold = otsu(value, bins=bins)
    old = jnp.zeros(value.shape, bool) if previous is None else as_array("naive_samples: previous", previous)
    if old.shape != value.shape or old.dtype != jnp.bool_:
        raise ValueError(f"naive_samples: previous must be bool {list(value.shape)}, got {old.dtype}{list(old.shape)}.")
    return jnp.where(value == threshold, old, value < threshold)


def cutmix_half(key: Key, first: Any, second: Any) -> jax.Array:
    """Join two augmented views of one image: the top half or, as often, the left half of the first is the second's.

    The harder view of a sample that `naive_samples` flags. `jax.vmap` it over the images of a batch.

    Args:
        key: one PRNG key.
        first: image [height, width, ...], both at least 2; of an odd length the half is rounded down.
        second: another view of that image, of the same shape.

    Returns:
        The joint view, in the dtype that both views promote to.

    Raises:
        TypeError: for a key that is not one.
        ValueError: for views of different shapes, of fewer than two axes, or with NaN.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> js.select.cutmix_half(jax.random.key(0), jnp.zeros((2, 2)), jnp.ones((2, 2))).mean()
        Array(0.5, dtype=float32)

    Cost:
        One pass over the image.

    References:
        Gui et al., "Enhancing Sample Utilization through Sample Adaptive Augmentation in Semi-Supervised Learning",
        2023, arXiv:2309.03598.
    """
    check_key(key, "cutmix_half")
    first, second = as_array("cutmix_half: first", first), as_array("cutmix_half: second", second)
    if first.shape != second.shape or first.ndim < 2 or min(first.shape[:2]) < 2:
        raise ValueError(
            f"cutmix_half: first and second must be views [height, width, ...] of one image, each side at least 2, got "
            f"{list(first.shape)} and {list(second.shape)}. Use jax.vmap for a batch of images."
        )
    check_finite("cutmix_half: first", first)
    check_finite("cutmix_half: second", second)
    height, width = first.shape[:2]
    top = np.broadcast_to(np.arange(height)[:, None] < height // 2, (height, width))
    left = np.broadcast_to(np.arange(width)[None] < width // 2, (height, width))
    chosen = jnp.where(jax.random.bernoulli(key), top, left)
    return jnp.where(chosen.reshape(height, width, *[1] * (first.ndim - 2)), second, first)
