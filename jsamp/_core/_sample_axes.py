"""Which trailing axes make one sample: one rule for every `event_ndim`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_count


def check_event_ndim(name: str, value: Any) -> int | None:
    """Return a number of sample axes: None means that all of x is one sample, 0 that each number is one."""
    return None if value is None else check_count(name, value, low=0)


def batch_ndim(who: str, x: Any, event_ndim: int | None) -> int:
    """Number of leading axes of x that are a batch, or a refusal when `event_ndim` does not fit x."""
    if event_ndim is None:
        return 0
    counts = {jnp.ndim(leaf) - event_ndim for leaf in jax.tree.leaves(x)}
    if len(counts) != 1 or min(counts) < 0:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        raise ValueError(
            f"{who}: event_ndim={event_ndim} does not fit x of shapes {shapes}. It counts the trailing axes that make "
            f"one sample."
        )
    return counts.pop()


def sample_axes(leaf: Any, event_ndim: int | None) -> tuple[int, ...]:
    """The trailing axes of a leaf that make one sample, as negative axis numbers."""
    return tuple(range(-(leaf.ndim if event_ndim is None else event_ndim), 0))


def per_sample(value: Any, leaf: Any) -> Any:
    """A number for each sample, [*batch], reshaped to multiply a leaf [*batch, ...]."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (leaf.ndim - value.ndim))


def over_batch(function: Callable[..., Any], batch: int) -> Callable[..., Any]:
    """Return a function of one sample as a function of every sample of `batch` leading axes."""
    for _ in range(batch):
        function = jax.vmap(function)
    return function
