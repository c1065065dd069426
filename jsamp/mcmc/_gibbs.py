"""Kernels on a part of the position: Metropolis within Gibbs, and exact conditional draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _fields
from jsamp._core._like import as_arrays, match
from jsamp._core._pytree import field, pytree, static
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._combine import One
from jsamp.mcmc._drive import as_kernel
from jsamp.mcmc._protocol import Kernel


def _get(x, part):
    try:
        for name in part:
            x = getattr(x, name) if isinstance(name, str) and _is_record(x) else x[name]
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(f"on: the position has no part {part}. Name a key, a field or an index of it.") from error
    return x


def _is_record(x):
    return isinstance(x, tuple) and type(x) is not tuple


def _put(x, part, value):
    if not part:
        return value
    name, rest = part[0], part[1:]
    if _is_record(x):
        name = x._fields[name] if isinstance(name, int) else name
        return x._replace(**{name: _put(_get(x, (name,)), rest, value)})
    if isinstance(x, dict):
        return {**x, name: _put(x[name], rest, value)}
    if isinstance(x, (tuple, list)):
        place = range(len(x))[name]
        return type(x)([_put(leaf, rest, value) if i == place else leaf for i, leaf in enumerate(x)])
    raise TypeError(f"on: a position must be a dict, list, tuple or NamedTuple to have parts, got {type(x).__name__}.")


def _path(name, part):
    path = part if isinstance(part, tuple) else (part,)
    if not path or not all(isinstance(each, (str, int)) and not isinstance(each, bool) for each in path):
        raise TypeError(f"{name} must be a key, a field name, an index, or a tuple of them; got {part!r}.")
    return path


@pytree
class _Conditional:
    """The target of one part given the rest of a position."""

    joint: Any
    whole: Any
    part: tuple = static()

    def __call__(self, block):
        return self.joint(_put(self.whole, self.part, block))


@pytree
class _On(One):
    """A kernel on a part of the position; its target takes the whole."""

    kernel: Any
    part: tuple = static()

    who = "on"
    refresh_cost = 0

    def _inner(self, x):
        return protocol.retarget("on", self.kernel, lambda name, target: _Conditional(target, x, self.part))

    def init(self, x, key=None):
        """Start at the whole position, with the block's memory."""
        x = as_arrays(x)
        inner = protocol.start(self._inner(x), _get(x, self.part), key)
        return k.State(x, None, protocol.memory_of(inner))

    def refresh(self, x, state):
        """Move to x: the block evaluates its conditional when it runs."""
        return k.State(x, None, state.memory)

    def step(self, key, state):
        """Take one step of the block given the rest."""
        x, _, memory = state
        kernel, block = self._inner(x), _get(x, self.part)
        inner = protocol.refreshed(kernel, block, memory)
        cost = protocol.refresh_cost(kernel, inner)
        inner, info = kernel.step(key, inner)
        accept, nfe, bad = protocol.measures(info, k.dtype_of(block))
        info = k.Info(accept, nfe + cost, bad, protocol.aux_of(info))
        return k.State(_put(x, self.part, inner.position), None, protocol.memory_of(inner)), info


def on(kernel: Kernel, part: Any) -> Kernel:
    """Move one part of the position by a kernel, given the rest: Metropolis within Gibbs.

    The kernel's log-density (or score, or log-likelihood) takes the whole position; the rest is frozen while the
    block moves.

    Args:
        kernel: a kernel with a `logdensity`, `score` or `loglikelihood` of the whole position; a `score` must return
            the part's gradient.
        part: a key, field name or index, or a tuple of them for a nested part (static).

    Returns:
        A kernel on the whole position.

    Raises:
        TypeError: for a kernel without a target to condition.

    Example:
        >>> import jax, jsamp as js
        >>> f = lambda z: -(z["a"] ** 2) - (z["a"] - z["b"]) ** 2
        >>> kernel = js.mcmc.on(js.mcmc.MALA(f), "a")
        >>> js.mcmc.chain(jax.random.key(0), kernel, {"a": 0.0, "b": 1.0}, 5).x["b"].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]

    Cost:
        The kernel's, plus one model call where it caches one: the rest may have moved since.
    """
    kernel = as_kernel(kernel)
    protocol.retarget("on", kernel, lambda name, target: target)  # refuses a kernel without a target
    return _On(kernel, _path("on: part", part))


@pytree
class Gibbs:
    """Draw one part from its exact conditional law: `draw(key, x) -> block`.

    Args:
        draw: draws the part given the whole position, a callable tree or a bare function.
        part: a key, field name or index, or a tuple of them for a nested part (static).

    Example:
        >>> import jax, jsamp as js
        >>> kernel = js.mcmc.Gibbs(lambda key, z: z["b"] + jax.random.normal(key), "a")
        >>> js.mcmc.chain(jax.random.key(0), kernel, {"a": 0.0, "b": 1.0}, 5).x["a"].shape
        (5,)

    Cost:
        One draw, no model call.
    """

    draw: Any = field(convert=_fields.callable_as("draw(key, x)"))
    part: Any = static(convert=_path)

    def init(self, x, key=None):
        """Start at x."""
        x = as_arrays(x)
        _get(x, self.part)
        return k.State(x, None, None)

    def step(self, key, state):
        """Draw the part."""
        x = state.position
        block = match("Gibbs: the draw", k.call(self.draw, key, x), _get(x, self.part))
        floats = [leaf for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return k.State(_put(x, self.part, block), None, None), k.info(floats or jnp.zeros(()), nfe=0)
