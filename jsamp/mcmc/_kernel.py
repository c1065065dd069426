"""The shape of a kernel: state, info, the shared evaluation of the target, and checks at the door."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _tree
from jsamp._core._callable import as_tree as as_tree
from jsamp._core._like import as_arrays as arrays
from jsamp._core._mesh import vary as vary
from jsamp._core._random import normal_once


class State(NamedTuple):
    """Where a chain is.

    Args:
        position: what the user wants, an array or a tree.
        cache: a function of the position and the kernel's numbers (log-density, gradient); `refresh` rebuilds it.
        memory: what survives a move made by somebody else (momentum, visit counts, counters).

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.State(position=1.0, cache=None, memory=None).position
        1.0
    """

    position: Any
    cache: Any
    memory: Any


class Info(NamedTuple):
    """What a step tells.

    Args:
        accept: acceptance probability, 1 for moves that are always taken.
        nfe: model evaluations of this step, int32.
        diverged: the step met a non-finite number or an energy error beyond 1000.
        aux: kernel-specific extras (a NamedTuple) or None.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.Info(accept=1.0, nfe=1, diverged=False, aux=None).nfe
        1
    """

    accept: Any
    nfe: Any
    diverged: Any
    aux: Any


@runtime_checkable
class Kernel(Protocol):
    """Any tree with `init` and `step` is a kernel; a blackjax `SamplingAlgorithm` is one as it stands.

    `init(x, key=None) -> state` and `step(key, state) -> (state, info)` are pure; `state.position` is the sample.

    Example:
        >>> from jsamp import mcmc
        >>> isinstance(mcmc.ULA(lambda x: -x**2 / 2, step_size=0.1), mcmc.Kernel)
        True
    """

    def init(self, x: Any, key: Any = None) -> Any: ...
    def step(self, key: Any, state: Any) -> tuple[Any, Any]: ...


class Point(NamedTuple):
    """The cached target at a position: its log-density (None when only a score is known) and gradient."""

    logdensity: Any
    grad: Any


@jax.jit
def _value_and_grad(logdensity, x):
    # One jitted call site: the user's function is traced once for init and step together.
    def scalar(x):
        value = logdensity(x)
        if jnp.shape(value) != ():
            raise TypeError(
                f"logdensity must return one scalar, got shape {jnp.shape(value)}. Write it for one sample and vmap "
                f"the chain over starts."
            )
        return value

    return jax.value_and_grad(scalar)(x)


@jax.jit
def call(function, *args):
    """A function of a tree's own, compiled; trees of one structure share the program."""
    return function(*args)


def evaluate(kernel: Any, x: Any) -> Point:
    """The target of a kernel at x: one model call."""
    if kernel.logdensity is None:
        return Point(None, like(call(kernel.score, x), x))
    return Point(*_value_and_grad(kernel.logdensity, x))


def value(logdensity: Any, x: Any) -> jax.Array:
    """The log-density at x, without its gradient."""
    result = call(logdensity, x)
    if jnp.shape(result) != ():
        raise TypeError(f"logdensity must return one scalar, got shape {jnp.shape(result)}.")
    return result


def prepare(kernel: Any, *, score: bool = False, positive: tuple[str, ...] = ("step_size",)) -> None:
    """Check and normalise a kernel at construction: its target, and the numbers that must be positive."""
    who = type(kernel).__name__
    if score:
        if (kernel.logdensity is None) == (kernel.score is None):
            raise ValueError(f"{who}: give exactly one of logdensity and score.")
        if kernel.score is not None:
            object.__setattr__(kernel, "score", as_tree(f"{who}: score", kernel.score, "score(x)"))
    if not score or kernel.logdensity is not None:
        tree = as_tree(f"{who}: logdensity", kernel.logdensity, "logdensity(x)")
        object.__setattr__(kernel, "logdensity", tree)
    for name in positive:
        _checks.check_number(f"{who}: {name}", getattr(kernel, name), low=0, open_low=True)


def position(who: str, x: Any, *, metropolis: bool = True) -> Any:
    """The start as arrays of a fixed dtype, or a refusal."""
    _checks.check_floating(f"{who}: x", x)
    x = arrays(x)
    for leaf in jax.tree.leaves(x):
        if leaf.size == 0:
            raise ValueError(f"{who}: x has a leaf of shape {leaf.shape}; there is nothing to sample in it. Drop it.")
        if metropolis and jnp.finfo(leaf.dtype).bits < 32:
            raise TypeError(
                f"{who}: an accept/reject step cannot resolve energies in {leaf.dtype}. Pass x.astype('float32')."
            )
    return x


def dtype_of(x: Any) -> Any:
    """The dtype of energies for a position: its own, at least float32."""
    return jnp.promote_types(jnp.result_type(*jax.tree.leaves(x)), jnp.float32)


def like(tree: Any, x: Any) -> Any:
    """The tree in the dtypes of x; refused when it has another structure or shape."""
    if jax.tree.structure(tree) != jax.tree.structure(x):
        raise TypeError(f"expected the structure of x, {jax.tree.structure(x)}; got {jax.tree.structure(tree)}.")

    def one(new, old):
        if jnp.shape(new) != jnp.shape(old):
            raise TypeError(f"expected the shape of x, {jnp.shape(old)}; got {jnp.shape(new)}.")
        return jnp.asarray(new, old.dtype)

    return jax.tree.map(one, tree, x)


def rebuild_cost(state: Any) -> int:
    """Model calls it takes to rebuild the state's cache."""
    return int(isinstance(getattr(state, "cache", None), Point))


def refresh(kernel: Kernel, x: Any, state: Any) -> Any:
    """A state at a position that somebody else moved: the cache is rebuilt, the memory is kept.

    Args:
        kernel: any kernel.
        x: the new position.
        state: the kernel's last state.

    Returns:
        The state at x. A kernel with a method `refresh(x, state)` decides itself; a state without memory (blackjax)
        is initialised anew.

    Example:
        >>> from jsamp import mcmc
        >>> kernel = mcmc.MALA(lambda x: -x**2 / 2, step_size=0.1)
        >>> float(mcmc.refresh(kernel, 2.0, kernel.init(1.0)).cache.grad)
        -2.0

    Cost:
        One model call.
    """
    if hasattr(kernel, "refresh"):
        return kernel.refresh(x, state)  # pyright: ignore[reportAttributeAccessIssue]
    fresh = kernel.init(x)
    return fresh._replace(memory=state.memory) if isinstance(fresh, State) else fresh


def info(x: Any, *, accept: Any = 1.0, nfe: Any = 1, diverged: Any = False, aux: Any = None) -> Info:
    """An `Info` of fixed dtypes."""
    accept = jnp.asarray(accept, dtype_of(x))
    return Info(accept, jnp.asarray(nfe, jnp.int32), jnp.asarray(diverged, bool), aux)


def noise(key: Any, x: Any) -> tuple[Any, jax.Array]:
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


def log_uniform(key: Any, dtype: Any = jnp.float32) -> jax.Array:
    """The log of a uniform number in (0, 1], for `accept_step`."""
    return jnp.log1p(-jax.random.uniform(key, (), dtype))


def accept_step(log_uniform: Any, log_ratio: Any, proposed: Any, current: Any) -> tuple[Any, Any, Any]:
    """One Metropolis decision: (state, acceptance probability, diverged). NaN rejects, and is flagged."""
    bad = jnp.isnan(log_ratio)
    log_ratio = jnp.where(bad, -jnp.inf, log_ratio)
    return _tree.where(log_uniform <= log_ratio, proposed, current), jnp.exp(jnp.minimum(log_ratio, 0)), bad
