"""Kernels made of kernels: compose, cycle, mixture, repeat, ensemble."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._pytree import pytree, static
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._drive import as_kernel, start

# What a kernel's cache holds of its target, when it is not the log-density with its gradient.
CACHES = {"RandomWalk": "value", "Slice": "value", "IndependentMH": "own"}


def _same_target(a, b):
    # Blocks on one target share a cache: the log-densities are the same tree of the same arrays.
    f, g = getattr(a, "logdensity", None), getattr(b, "logdensity", None)
    if f is None or g is None:
        return False
    if jax.tree.structure(f) != jax.tree.structure(g):
        return False
    held = [CACHES.get(type(kernel).__name__, "gradient") for kernel in (a, b)]
    return held[0] == held[1] != "own" and all(
        x is y for x, y in zip(jax.tree.leaves(f), jax.tree.leaves(g), strict=True)
    )


def _merge(x, infos):
    accept = sum(i.accept for i in infos) / len(infos)
    bad = infos[0].diverged
    for i in infos[1:]:
        bad = bad | i.diverged
    return k.info(x, accept=accept, nfe=sum(i.nfe for i in infos), diverged=bad, aux=tuple(infos))


@pytree
class Compose:
    """Kernels applied one after the other; see `compose`.

    Example:
        >>> from jsamp import mcmc
        >>> len(mcmc.compose(mcmc.ULA(lambda x: -x**2, step_size=0.1)).kernels)
        1
    """

    kernels: tuple

    def init(self, x, key=None):
        """The state of every block at x; the cache is the last block's."""
        states = [
            start(kernel, x, None if key is None else jax.random.fold_in(key, i))
            for i, kernel in enumerate(self.kernels)
        ]
        return k.State(states[-1].position, states[-1].cache, tuple(s.memory for s in states))

    def step(self, key, state):
        """Every block once, each from the position the one before it left."""
        x, cache, memories = state
        kept, infos = [], []
        previous = self.kernels[-1]
        for i, (kernel, memory) in enumerate(zip(self.kernels, memories, strict=True)):
            if len(self.kernels) == 1 or _same_target(previous, kernel):
                inner, cost = k.State(x, cache, memory), 0
            else:
                inner = k.refresh(kernel, x, k.State(x, None, memory))
                cost = k.rebuild_cost(inner)
            inner, info = kernel.step(jax.random.fold_in(key, i), inner)
            infos.append(info._replace(nfe=info.nfe + cost))
            x, cache, memory = inner
            kept.append(memory)
            previous = kernel
        return k.State(x, cache, tuple(kept)), _merge(x, infos)


def compose(*kernels: Any) -> Compose:
    """One step = every kernel once, in order. Kernels that leave a law invariant leave it so together.

    A block whose target differs from its predecessor's gets its cache rebuilt (one model call, counted in `nfe`):
    a stale cache would silently target the wrong conditional. Blocks on the same log-density share it.

    Args:
        *kernels: kernels on the same position; use `on` for a part of it.

    Returns:
        A kernel; `info.aux` is the tuple of the blocks' infos, `accept` their mean, `nfe` their sum.

    Raises:
        TypeError: for something that is not a kernel.
        ValueError: without any kernel.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> f = lambda z: -(z["a"] ** 2) - (z["a"] - z["b"]) ** 2
        >>> kernel = mcmc.compose(mcmc.on(mcmc.MALA(f), "a"), mcmc.on(mcmc.RandomWalk(f), "b"))
        >>> mcmc.chain(jax.random.key(0), kernel, {"a": 0.0, "b": 0.0}, 10).x["a"].shape
        (10,)

    Cost:
        The blocks' cost, plus one model call per rebuilt cache.
    """
    if not kernels:
        raise ValueError("compose: give at least one kernel.")
    return Compose(tuple(as_kernel(kernel) for kernel in kernels))


@pytree
class Select:
    """One of several kernels per step; see `cycle` and `mixture`.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.cycle(mcmc.ULA(lambda x: -x**2, step_size=0.1)).weights is None
        True
    """

    kernels: tuple
    weights: Any = None

    def init(self, x, key=None):
        """The memories of all blocks; the cache is rebuilt at every step."""
        states = [
            start(kernel, x, None if key is None else jax.random.fold_in(key, i))
            for i, kernel in enumerate(self.kernels)
        ]
        return k.State(states[0].position, None, (jnp.zeros((), jnp.int32), tuple(s.memory for s in states)))

    def step(self, key, state):
        """The chosen block."""
        x, _, (count, memories) = state
        pick, move = jax.random.split(key)
        if self.weights is None:
            index = count % len(self.kernels)
        else:
            total = jnp.cumsum(self.weights)
            index = jnp.sum(jax.random.uniform(pick) * total[-1] >= total[:-1]).astype(jnp.int32)

        def branch(i):
            def run(move, x, memories):
                inner = k.refresh(self.kernels[i], x, k.State(x, None, memories[i]))
                cost = k.rebuild_cost(inner)
                inner, info = self.kernels[i].step(move, inner)
                memories = (*memories[:i], inner.memory, *memories[i + 1 :])
                return inner.position, memories, (info.accept, info.nfe + cost, info.diverged)

            return run

        branches = [branch(i) for i in range(len(self.kernels))]
        x, memories, (accept, nfe, bad) = jax.lax.switch(index, branches, move, x, memories)
        return k.State(x, None, (count + 1, memories)), k.info(x, accept=accept, nfe=nfe, diverged=bad, aux=index)


def cycle(*kernels: Any) -> Select:
    """Step i runs kernel i mod n. Under `vmap` all branches run, so prefer `compose` there.

    Args:
        *kernels: kernels on the same position.

    Returns:
        A kernel; `info.aux` is the index of the block that ran.

    Raises:
        TypeError: for something that is not a kernel.
        ValueError: without any kernel.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> f = lambda x: -jnp.sum(x**2) / 2
        >>> kernel = mcmc.cycle(mcmc.MALA(f), mcmc.RandomWalk(f))
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One block, plus its cache.
    """
    if not kernels:
        raise ValueError("cycle: give at least one kernel.")
    return Select(tuple(as_kernel(kernel) for kernel in kernels))


def mixture(weights: Any, kernels: Any) -> Select:
    """Every step runs one kernel at random (a random scan). Under `vmap` all branches run.

    Args:
        weights: [n] positive probabilities; normalised.
        kernels: n kernels on the same position.

    Returns:
        A kernel; `info.aux` is the index of the block that ran.

    Raises:
        TypeError: for something that is not a kernel.
        ValueError: for weights that are negative or do not match.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> f = lambda x: -jnp.sum(x**2) / 2
        >>> kernel = mcmc.mixture([0.9, 0.1], [mcmc.MALA(f), mcmc.RandomWalk(f, step_size=3.0)])
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One block, plus its cache.
    """
    _checks.check_number("mixture: weights", weights, low=0)
    weights = jnp.asarray(weights, jnp.float32)
    if not kernels or weights.shape != (len(kernels),):
        raise ValueError(f"mixture: want one weight per kernel, got {weights.shape} for {len(kernels)} kernels.")
    return Select(tuple(as_kernel(kernel) for kernel in kernels), weights)


@pytree
class Repeat:
    """A kernel applied several times per step; see `repeat`.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.repeat(mcmc.ULA(lambda x: -x**2, step_size=0.1), 3).num
        3
    """

    kernel: Any
    num: int = static()

    def init(self, x, key=None):
        """The kernel's own state."""
        return start(self.kernel, x, key)

    def refresh(self, x, state):
        """The kernel's own refresh."""
        return k.refresh(self.kernel, x, state)

    def step(self, key, state):
        """`num` steps, the info reduced."""

        def one(state, i):
            state, info = self.kernel.step(jax.random.fold_in(key, i), state)
            return state, (info.accept, info.nfe, info.diverged)

        state, (accept, nfe, bad) = jax.lax.scan(one, k.vary(state, key, self), jnp.arange(self.num))
        return state, k.info(state.position, accept=jnp.mean(accept), nfe=jnp.sum(nfe), diverged=jnp.any(bad))


def repeat(kernel: Any, num: int) -> Repeat:
    """`num` steps of a kernel as one: thinning inside a composition.

    Args:
        kernel: a kernel.
        num: number of steps (static).

    Returns:
        A kernel; mean `accept`, summed `nfe`, any `diverged`.

    Raises:
        TypeError: for something that is not a kernel, or a count that is not an int.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.repeat(mcmc.MALA(lambda x: -jnp.sum(x**2) / 2), 5)
        >>> int(mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).info.nfe)
        50

    Cost:
        num steps.
    """
    return Repeat(as_kernel(kernel), _checks.check_count("repeat: num", num))


@pytree
class Ensemble:
    """Many chains of one kernel as a kernel; see `ensemble`.

    Example:
        >>> from jsamp import mcmc
        >>> type(mcmc.ensemble(mcmc.ULA(lambda x: -x**2, step_size=0.1)).kernel).__name__
        'ULA'
    """

    kernel: Any

    def init(self, x, key=None):
        """One state per leading index."""
        num = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
        if len(num) != 1 or () in num:
            raise ValueError(f"ensemble: every leaf of x needs the same leading chain axis, got {sorted(num)}.")
        if key is None:
            return jax.vmap(lambda x: start(self.kernel, x, None))(x)
        keys = jax.random.split(key, min(num)[0])
        return jax.vmap(lambda x, key: start(self.kernel, x, key))(x, keys)

    def refresh(self, x, state):
        """The kernel's refresh, chain by chain."""
        return jax.vmap(lambda x, s: k.refresh(self.kernel, x, s))(x, state)

    def step(self, key, state):
        """One step of every chain."""
        num = jax.tree.leaves(state.position)[0].shape[0]
        state, info = jax.vmap(self.kernel.step)(jax.random.split(key, num), state)
        merged = k.info(
            state.position,
            accept=jnp.mean(info.accept),
            nfe=jnp.sum(info.nfe),
            diverged=jnp.any(info.diverged),
            aux=info,
        )
        return state, merged


def ensemble(kernel: Any) -> Ensemble:
    """Many chains as one kernel, over the leading axis of the position: for `stream`, populations and reducers.

    Args:
        kernel: a kernel for one chain.

    Returns:
        A kernel; mean `accept`, summed `nfe`, any `diverged`, `info.aux` the infos per chain.

    Raises:
        TypeError: for something that is not a kernel.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.ensemble(mcmc.MALA(lambda x: -jnp.sum(x**2) / 2))
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros((4, 2)), 10).x.shape
        (10, 4, 2)

    Cost:
        One step per chain.
    """
    return Ensemble(as_kernel(kernel))
