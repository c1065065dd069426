"""Kernels on a part of the position: Metropolis within Gibbs, and exact conditional draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._pytree import pytree, replace, static
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._drive import as_kernel, start


def _get(x, part):
    for name in part:
        x = getattr(x, name) if isinstance(name, str) and hasattr(x, "_fields") else x[name]
    return x


def _put(x, part, value):
    if not part:
        return value
    name, rest = part[0], part[1:]
    if hasattr(x, "_fields"):
        field = x._fields[name] if isinstance(name, int) else name
        return x._replace(**{field: _put(getattr(x, field), rest, value)})
    if isinstance(x, dict):
        return {**x, name: _put(x[name], rest, value)}
    if isinstance(x, tuple):
        return (*x[:name], _put(x[name], rest, value), *x[name + 1 :])
    raise TypeError(f"on: a position must be a dict, tuple or NamedTuple to have parts, got {type(x).__name__}.")


def _path(part):
    return part if isinstance(part, tuple) else (part,)


@pytree
class Conditional:
    """The log-density of one part given the rest of a position: what `on` hands to its kernel.

    Example:
        >>> from jsamp import mcmc
        >>> joint = lambda z: -(z["a"] ** 2) - z["b"] ** 2
        >>> mcmc.Conditional(joint, {"a": 1.0, "b": 2.0}, ("a",))(3.0)
        -13.0
    """

    joint: Any
    whole: Any
    part: tuple = static()

    def __call__(self, block):
        """The joint with the part replaced."""
        return self.joint(_put(self.whole, self.part, block))


@pytree
class On:
    """A kernel on a part of the position; see `on`.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.on(mcmc.MALA(lambda z: -(z["a"] ** 2)), "a").part
        ('a',)
    """

    kernel: Any
    part: tuple = static()

    def _inner(self, x):
        kernel = self.kernel
        changes = {}
        for name in ("logdensity", "score", "loglikelihood"):
            if getattr(kernel, name, None) is not None:
                changes[name] = Conditional(getattr(kernel, name), x, self.part)
        return replace(kernel, **changes)

    def init(self, x, key=None):
        """The whole position, with the block's memory."""
        x = k.arrays(x)
        inner = start(self._inner(x), _get(x, self.part), key)
        return k.State(x, None, inner.memory)

    def refresh(self, x, state):
        """No cache to rebuild: the block evaluates its conditional when it runs."""
        return k.State(x, None, state.memory)

    def step(self, key, state):
        """One step of the block given the rest."""
        x, _, memory = state
        kernel, block = self._inner(x), _get(x, self.part)
        inner = k.refresh(kernel, block, k.State(block, None, memory))
        cost = k.rebuild_cost(inner)
        inner, info = kernel.step(key, inner)
        x = _put(x, self.part, inner.position)
        return k.State(x, None, inner.memory), info._replace(nfe=info.nfe + cost)


def on(kernel: Any, part: Any) -> On:
    """A kernel on one part of the position, given the rest: Metropolis within Gibbs.

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
        >>> import jax
        >>> from jsamp import mcmc
        >>> f = lambda z: -(z["a"] ** 2) - (z["a"] - z["b"]) ** 2
        >>> kernel = mcmc.on(mcmc.MALA(f), "a")
        >>> mcmc.chain(jax.random.key(0), kernel, {"a": 0.0, "b": 1.0}, 5).x["b"].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]

    Cost:
        The kernel's, plus one model call where it caches one: the rest may have moved since.
    """
    kernel = as_kernel(kernel)
    if not any(getattr(kernel, name, None) is not None for name in ("logdensity", "score", "loglikelihood")):
        raise TypeError(f"on: {type(kernel).__name__} has no logdensity to condition. Use Gibbs for a direct draw.")
    return On(kernel, _path(part))


@pytree
class Gibbs:
    """An exact conditional draw of one part: `draw(key, x) -> block`.

    Args:
        draw: draws the part given the whole position, a callable tree or a bare function.
        part: a key, field name or index, or a tuple of them for a nested part (static).

    Example:
        >>> import jax
        >>> from jsamp import mcmc
        >>> kernel = mcmc.Gibbs(lambda key, z: z["b"] + jax.random.normal(key), "a")
        >>> mcmc.chain(jax.random.key(0), kernel, {"a": 0.0, "b": 1.0}, 5).x["a"].shape
        (5,)

    Cost:
        One draw, no model call.
    """

    draw: Any
    part: Any = static()

    def __post_init__(self):
        object.__setattr__(self, "draw", k.as_tree("Gibbs: draw", self.draw, "draw(key, x)"))
        object.__setattr__(self, "part", _path(self.part))

    def init(self, x, key=None):
        """The position alone."""
        return k.State(k.arrays(x), None, None)

    def step(self, key, state):
        """Draw the part."""
        x = state.position
        block = k.like(self.draw(key, x), _get(x, self.part))
        floats = [leaf for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return k.State(_put(x, self.part, block), None, None), k.info(floats or jnp.zeros(()), nfe=0)
