"""What kernels share: fields with their checks, the evaluation of the target, noise, and the Metropolis decision."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _tree
from jsamp._core._like import as_arrays, match
from jsamp._core._random import normal_once
from jsamp._core._types import Key
from jsamp.mcmc._metric import check_metric
from jsamp.mcmc._protocol import Info, Point, State

__all__ = ["Info", "Point", "State"]


def between(low: float = -np.inf, high: float = np.inf, *, open_low: bool = False) -> Any:
    """The conversion of a field that holds a number of [low, high], or of (low, high]: an integer becomes a float."""

    def convert(name, value):
        _checks.check_number(name, value, low=low, high=high, open_low=open_low)
        return as_float(value)

    convert.one_number = True  # pyright: ignore[reportFunctionMemberAccess]
    return convert


def as_float(value: Any) -> Any:
    """A Python integer as a float: as an integer it would be another type to the compiler, and may not fit one."""
    return float(value) if isinstance(value, int) else np.asarray(value) if isinstance(value, (list, tuple)) else value


positive = between(low=0, open_low=True)


def metric(name: str, value: Any) -> Any:
    """The conversion of a field that holds a metric: None, a number, variances or a `DenseMetric`."""
    check_metric(name, value)
    return value if value is None else jax.tree.map(as_float, value)


def one_of_two(kernel: Any) -> None:
    """Refuse a kernel with both or neither of `logdensity` and `score`."""
    if (kernel.logdensity is None) == (kernel.score is None):
        raise ValueError(f"{type(kernel).__name__}: give exactly one of logdensity and score.")


@jax.jit
def _value_and_grad(logdensity, x):
    # One jitted call site: the user's function is traced once for init and step together.
    return jax.value_and_grad(lambda x: _scalar(logdensity(x), dtype_of(x)))(x)


@jax.jit
def _value(logdensity, x):
    return _scalar(logdensity(x), dtype_of(x))


def value_of(function: Any, name: str, *args: Any) -> jax.Array:
    """A user's function of other arguments, refused where it does not return one floating number."""
    return _scalar(call(function, *args), dtype_of(args), name)


def _scalar(value, dtype, name="logdensity"):
    # The dtype is the position's, whatever the user's function computes in: the state must not change its own.
    _checks.check_made(name, value, wanted="one scalar")
    if jnp.shape(value) != () or jax.tree.structure(value) != jax.tree.structure(0):
        raise TypeError(
            f"{name} must return one scalar, got shape {jax.tree.map(jnp.shape, value)}. Write it for one sample "
            f"and vmap the chain over starts, or call js.chains."
        )
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise TypeError(f"{name} must return a floating number, got {jnp.result_type(value)}.")
    return jnp.asarray(value, dtype)


@jax.jit
def call(function, *args):
    """A function of a tree's own, compiled; trees of one structure share the program."""
    return function(*args)


def evaluate_both(logdensity: Any, x: Any) -> tuple[Any, Any]:
    """The log-density at x and its gradient, one model call."""
    return _value_and_grad(logdensity, x)


def evaluate(kernel: Any, x: Any) -> Point:
    """The target of a kernel at x, one model call: log-density and gradient, or the score alone."""
    if kernel.logdensity is None:
        return Point(None, match(f"{type(kernel).__name__}: the score", call(kernel.score, x), x))
    return Point(*_value_and_grad(kernel.logdensity, x))


def evaluate_value(logdensity: Any, x: Any) -> Point:
    """The log-density at x, without its gradient."""
    return Point(value(logdensity, x), None)


def value(logdensity: Any, x: Any) -> jax.Array:
    """The log-density at x, a scalar in the dtype of energies."""
    return _value(logdensity, x)


def position(who: str, x: Any, *, metropolis: bool = True) -> Any:
    """The start as arrays of a fixed dtype, or a refusal."""
    _checks.check_floating(f"{who}: x", x)
    x = as_arrays(x)
    for leaf in jax.tree.leaves(x):
        if leaf.size == 0:
            raise ValueError(f"{who}: x has a leaf of shape {leaf.shape}; there is nothing to sample in it. Drop it.")
        if metropolis and jnp.finfo(leaf.dtype).bits < 32:
            raise TypeError(
                f"{who}: an accept/reject step cannot resolve energies in {leaf.dtype}. Pass x.astype('float32')."
            )
    return x


def begin(kernel: Any, x: Any, *, metropolis: bool = True) -> Any:
    """The start of a kernel as arrays that its metric fits."""
    who = type(kernel).__name__
    check_numbers(kernel)
    x = position(who, x, metropolis=metropolis)
    check_metric(f"{who}: metric", kernel.metric, x)
    return x


def check_numbers(kernel: Any) -> None:
    """Refuse a kernel that holds an array where one number is wanted; a stack of kernels is one of them under vmap."""
    for each in dataclasses.fields(kernel):
        value = getattr(kernel, each.name)
        shape = np.shape(value) if hasattr(each.metadata.get("convert"), "one_number") else ()
        if shape != ():
            raise ValueError(
                f"{type(kernel).__name__}: {each.name} must be one number, got an array of shape {shape}. Use jax.vmap "
                f"for several kernels, metric= for scales of the coordinates."
            )


def copies(who: str, name: str, x: Any) -> np.ndarray | None:
    """How many rows are alike, for each distinct row; None of traced ones. Rows that are all alike are refused."""
    leaves = jax.tree.leaves(x)
    if any(_checks.is_traced(leaf) for leaf in leaves):
        return None
    rows = np.concatenate([np.asarray(leaf, np.float64).reshape(leaf.shape[0], -1) for leaf in leaves], 1)
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    if counts.size == 1 and len(rows) > 1:
        raise ValueError(f"{who}: x holds equal {name}, which cannot move apart. Spread them.")
    return counts


def dtype_of(x: Any) -> Any:
    """The dtype of energies for a position: its own, at least float32."""
    return jnp.promote_types(jnp.result_type(*jax.tree.leaves(x)), jnp.float32)


like = _tree.cast_like
"""A tree of the structure and shapes of x in the dtypes of x."""


def axpy(a: Any, direction: Any, x: Any) -> Any:
    """Form x + a direction, in the dtypes of x."""
    return jax.tree.map(lambda d, x: (x + a * d).astype(x.dtype), direction, x)


def leading_axis(who: str, what: str, tree: Any, *, low: int = 1) -> int:
    """The length of the leading axis that every leaf shares, or a refusal."""
    _checks.refuse_sparse_leaves(who, tree)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or () in sizes or min(sizes)[0] < low:
        raise ValueError(f"{who}: every leaf needs the same leading axis of {what} (>= {low}), got {sorted(sizes)}.")
    return min(sizes)[0]


def info(x: Any, *, accept: Any = 1.0, nfe: Any = 1, diverged: Any = False, aux: Any = None) -> Info:
    """An `Info` of fixed dtypes."""
    accept = jnp.asarray(accept, dtype_of(x))
    return Info(accept, jnp.asarray(nfe, jnp.int32), jnp.asarray(diverged, bool), aux)


def astray(point: Point) -> jax.Array:
    """Whether a point lies outside the support, or its gradient is not finite."""
    lost = ~_tree.all_finite(point.grad)
    return lost if point.logdensity is None else lost | ~jnp.isfinite(point.logdensity)


def noise(key: Key, x: Any) -> tuple[Any, jax.Array]:
    """Standard normals like x, and the log of an independent uniform number for `accept_step`.

    All from one call of the generator: of two further normals, (a^2 + b^2) / 2 is exponential, and so minus the log of
    a uniform.
    """
    leaves, structure = jax.tree.flatten(x)
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
    flat = normal_once(key, (int(ends[-1]) + 2,), dtype_of(x))
    parts = [
        flat[a:b].reshape(leaf.shape).astype(leaf.dtype) for leaf, a, b in zip(leaves, ends[:-1], ends[1:], strict=True)
    ]
    return jax.tree.unflatten(structure, parts), -(flat[-1] ** 2 + flat[-2] ** 2) / 2


def log_uniform(key: Key, dtype: Any = jnp.float32) -> jax.Array:
    """The log of a uniform number in (0, 1], for `accept_step`."""
    return jnp.log1p(-jax.random.uniform(key, (), dtype))


def accept_step(log_uniform: Any, log_ratio: Any, proposed: Any, current: Any) -> tuple[Any, Any, Any]:
    """One Metropolis decision: (state, acceptance probability, diverged). NaN rejects, and is flagged."""
    bad = jnp.isnan(log_ratio)
    log_ratio = jnp.where(bad, -jnp.inf, log_ratio)
    return _tree.where(log_uniform <= log_ratio, proposed, current), jnp.exp(jnp.minimum(log_ratio, 0)), bad
