"""Types shared by every room: names for what a function takes, read by people and by type checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
"""An array of JAX or numpy."""
Key: TypeAlias = jax.Array
"""A typed key `jax.random.key(0)`, or a legacy one; `Key | None` where nothing may be drawn."""
Scalar: TypeAlias = float | int | jax.Array | np.ndarray | np.number
"""One number, or an array with a batch of them where a docstring says so."""
Grid: TypeAlias = jax.Array | np.ndarray | list[float] | tuple[float, ...]
"""Decreasing times [n + 1]."""
Tree: TypeAlias = Any
"""An array, or nested containers of arrays."""
Model: TypeAlias = Callable[..., Any]
"""A callable, best a tree: an `nnx.Module`, an Equinox module, `jax.tree_util.Partial(linen.apply, variables)`."""
LogDensity: TypeAlias = Callable[[Any], Any]
"""Position -> log-density, a scalar."""


class Schedule(Protocol):
    """Noise levels as functions of time: x_t = alpha(t) x0 + sigma(t) eps, lam = log(alpha / sigma)."""

    def alpha(self, t: Any) -> Any: ...
    def sigma(self, t: Any) -> Any: ...
    def lam(self, t: Any) -> Any: ...
    def time(self, lam: Any) -> Any: ...


class Result(NamedTuple):
    """Hold the sample (or samples) `x` that a driver returns, and `info` about the run.

    Example:
        >>> import jsamp as js
        >>> js.Result(x=1.0, info=None).x
        1.0
    """

    x: Any
    info: Any
