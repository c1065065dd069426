"""Kernels made of kernels: compose, cycle, mixture, repeat, ensemble."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._pytree import pytree, replace, static
from jsamp._core._types import Array
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._drive import as_kernel, walk
from jsamp.mcmc._protocol import Kernel


def _kernels(who, kernels):
    if not isinstance(kernels, (tuple, list)):
        raise TypeError(f"{who}: kernels must be a list of kernels, got {type(kernels).__name__}.")
    if not kernels:
        raise ValueError(f"{who}: give at least one kernel.")
    return tuple(as_kernel(kernel) for kernel in kernels)


def _share_cache(a, b):
    """Whether the cache that `a` leaves serves `b`: one kind, of one target, the same tree of the same arrays."""
    f, g = protocol.target_of(a), protocol.target_of(b)
    if f is None or g is None or protocol.caches(a) is None or protocol.caches(a) != protocol.caches(b):
        return False
    if jax.tree.structure(f) != jax.tree.structure(g):
        return False
    return all(x is y for x, y in zip(jax.tree.leaves(f), jax.tree.leaves(g), strict=True))


def _merge(x, infos):
    accepts, nfes, bads = zip(*(protocol.measures(info, k.dtype_of(x)) for info in infos), strict=True)
    bad = jnp.any(jnp.stack(bads))
    return k.info(x, accept=sum(accepts) / len(infos), nfe=sum(nfes), diverged=bad, aux=tuple(infos))


def _starts(kernels, x, key):
    keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(kernels))]
    return [protocol.start(kernel, x, each) for kernel, each in zip(kernels, keys, strict=True)]


def _memories(states):
    return tuple(map(protocol.memory_of, states))


class _Many:
    """Answer for kernels made of several what they say about themselves."""

    kernels: tuple

    @property
    def logdensity(self):
        """The log-density of the first kernel that has one."""
        return protocol.first_target(self.kernels)

    @property
    def loglikelihood(self):
        """The log-likelihood of the first kernel that has one."""
        return protocol.first_likelihood(self.kernels)

    def retarget(self, change):
        """Change the target of every kernel."""
        return replace(self, kernels=tuple(protocol.retarget("compose", kernel, change) for kernel in self.kernels))

    def cooled(self, beta):
        """Scale the step size of every kernel."""
        return replace(self, kernels=tuple(protocol.cooled(kernel, beta) for kernel in self.kernels))


class One:
    """Answer for kernels made of one what they say about themselves; `who` names them in messages."""

    kernel: Any
    who: str

    @property
    def logdensity(self):
        """The log-density of the kernel."""
        return protocol.target_of(self.kernel)

    @property
    def loglikelihood(self):
        """The log-likelihood of the kernel."""
        return protocol.likelihood_of(self.kernel)

    def retarget(self, change):
        """Change the target of the kernel."""
        return replace(self, kernel=protocol.retarget(self.who, self.kernel, change))

    def cooled(self, beta):
        """Scale the step size of the kernel."""
        return replace(self, kernel=protocol.cooled(self.kernel, beta))


@pytree
class _Compose(_Many):
    """Kernels applied one after the other."""

    kernels: tuple

    def init(self, x, key=None):
        """Start every block at x; the cache is the last block's."""
        states = _starts(self.kernels, x, key)
        return k.State(states[-1].position, protocol.cache_of(states[-1]), _memories(states))

    def step(self, key, state):
        """Run every block once, each from the position the one before it left."""
        x, cache, memories = state
        kept, infos = [], []
        previous = self.kernels[-1]
        for i, (kernel, memory) in enumerate(zip(self.kernels, memories, strict=True)):
            if _share_cache(previous, kernel):
                inner, cost = k.State(x, cache, memory), 0
            else:
                inner = protocol.refreshed(kernel, x, memory)
                cost = protocol.refresh_cost(kernel, inner)
            inner, info = kernel.step(jax.random.fold_in(key, i), inner)
            infos.append(info._replace(nfe=info.nfe + cost) if isinstance(info, k.Info) else info)
            x, cache = inner.position, protocol.cache_of(inner)
            kept.append(protocol.memory_of(inner))
            previous = kernel
        return k.State(x, cache, tuple(kept)), _merge(x, infos)


def compose(*kernels: Kernel) -> Kernel:
    """Run every kernel once in each step, in order. Kernels that leave a law invariant leave it so together.

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
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> f = lambda z: -(z["a"] ** 2) - (z["a"] - z["b"]) ** 2
        >>> kernel = js.mcmc.compose(js.mcmc.on(js.mcmc.MALA(f), "a"), js.mcmc.on(js.mcmc.RandomWalk(f), "b"))
        >>> js.mcmc.chain(jax.random.key(0), kernel, {"a": 0.0, "b": 0.0}, 10).x["a"].shape
        (10,)

    Cost:
        The blocks' cost, plus one model call per rebuilt cache.
    """
    return _Compose(_kernels("compose", kernels))


@pytree
class _Select(_Many):
    """One of several kernels per step, in turn or at random."""

    kernels: tuple
    weights: Any = None

    refresh_cost = 0

    def init(self, x, key=None):
        """Start every block; no cache is kept, since each is rebuilt when its block runs."""
        states = _starts(self.kernels, x, key)
        return k.State(states[0].position, None, (jnp.zeros((), jnp.int32), _memories(states)))

    def refresh(self, x, state):
        """Move to x: there is no cache to rebuild."""
        return k.State(x, None, state.memory)

    def step(self, key, state):
        """Run the chosen block."""
        x, _, (count, memories) = state
        pick, move = jax.random.split(key)
        if self.weights is None:
            index = count % len(self.kernels)
        else:
            total = jnp.cumsum(self.weights)
            index = jnp.sum(jax.random.uniform(pick) * total[-1] >= total[:-1]).astype(jnp.int32)
        branches = [self._branch(i, k.dtype_of(x)) for i in range(len(self.kernels))]
        x, memories, (accept, nfe, bad) = jax.lax.switch(index, branches, move, x, memories)
        return k.State(x, None, (count + 1, memories)), k.info(x, accept=accept, nfe=nfe, diverged=bad, aux=index)

    def _branch(self, i, dtype):
        def run(move, x, memories):
            inner = protocol.refreshed(self.kernels[i], x, memories[i])
            cost = protocol.refresh_cost(self.kernels[i], inner)
            inner, info = self.kernels[i].step(move, inner)
            accept, nfe, bad = protocol.measures(info, dtype)
            memories = (*memories[:i], protocol.memory_of(inner), *memories[i + 1 :])
            return inner.position, memories, (accept, nfe + cost, bad)

        return run


def cycle(*kernels: Kernel) -> Kernel:
    """Run one kernel in each step, in turn: step i runs kernel i mod n. Under `vmap` all run: prefer `compose` there.

    Args:
        *kernels: kernels on the same position.

    Returns:
        A kernel; `info.aux` is the index of the block that ran.

    Raises:
        TypeError: for something that is not a kernel.
        ValueError: without any kernel.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> f = lambda x: -jnp.sum(x**2) / 2
        >>> kernel = js.mcmc.cycle(js.mcmc.MALA(f), js.mcmc.RandomWalk(f))
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One block, plus its cache.
    """
    return _Select(_kernels("cycle", kernels))


def mixture(weights: Array | list[float], kernels: Any) -> Kernel:
    """Run one kernel in each step, at random (a random scan). Under `vmap` all branches run.

    Args:
        weights: [n] positive probabilities; normalised.
        kernels: n kernels on the same position.

    Returns:
        A kernel; `info.aux` is the index of the block that ran.

    Raises:
        TypeError: for something that is not a kernel.
        ValueError: for weights that are negative or do not match.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> f = lambda x: -jnp.sum(x**2) / 2
        >>> kernel = js.mcmc.mixture([0.9, 0.1], [js.mcmc.MALA(f), js.mcmc.RandomWalk(f, step_size=3.0)])
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        One block, plus its cache.
    """
    _checks.check_number("mixture: weights", weights, low=0)
    weights, kernels = jnp.asarray(weights, jnp.float32), _kernels("mixture", kernels)
    if weights.shape != (len(kernels),):
        raise ValueError(f"mixture: weights must be one per kernel, got {weights.shape} for {len(kernels)} kernels.")
    known = _checks.concrete(weights)
    if known is not None and not known.sum() > 0:
        raise ValueError("mixture: weights are all zero; give at least one kernel a positive weight.")
    return _Select(kernels, weights)


@pytree
class _Repeat(One):
    """A kernel applied several times per step."""

    kernel: Any
    steps: int = static()
    who = "repeat"

    def init(self, x, key=None):
        """Start the kernel."""
        return protocol.start(self.kernel, x, key)

    def refresh(self, x, state):
        """Refresh the kernel's state."""
        return protocol.refresh(self.kernel, x, state)

    def step(self, key, state):
        """Take `steps` steps and reduce their infos."""
        state, (accept, nfe, bad) = walk(key, self.kernel, state, self.steps)
        return state, k.info(state.position, accept=accept, nfe=nfe, diverged=bad)


def repeat(kernel: Kernel, steps: int) -> Kernel:
    """Take `steps` steps of a kernel as one: thinning inside a composition.

    Args:
        kernel: a kernel.
        steps: how many (static).

    Returns:
        A kernel; mean `accept`, summed `nfe`, any `diverged`.

    Raises:
        TypeError: for something that is not a kernel, or a count that is not an int.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.repeat(js.mcmc.MALA(lambda x: -jnp.sum(x**2) / 2), 5)
        >>> int(js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).info.nfe)
        50

    Cost:
        `steps` steps of the kernel.
    """
    return _Repeat(as_kernel(kernel), _checks.check_count("repeat: steps", steps))


@pytree
class _Chains:
    """The log-density of several chains: the sum over the leading axis."""

    target: Any

    def __call__(self, x):
        return jnp.sum(jax.vmap(self.target)(x))


@pytree
class _Ensemble(One):
    """Many chains of one kernel as a kernel."""

    kernel: Any

    who = "ensemble"
    chain_axis = True

    @property
    def logdensity(self):
        """The sum of the chains' log-densities."""
        inner = protocol.target_of(self.kernel)
        return None if inner is None else _Chains(inner)

    def init(self, x, key=None):
        """Start one chain per leading index."""
        num = k.leading_axis("ensemble: x", "chains", x)
        if key is None:
            return jax.vmap(lambda x: protocol.start(self.kernel, x, None))(x)
        return jax.vmap(lambda x, key: protocol.start(self.kernel, x, key))(x, jax.random.split(key, num))

    def refresh(self, x, state):
        """Refresh every chain's state."""
        return jax.vmap(lambda x, memory: protocol.refreshed(self.kernel, x, memory))(x, state.memory)

    def step(self, key, state):
        """Take one step of every chain."""
        num = jax.tree.leaves(state.position)[0].shape[0]
        state, info = jax.vmap(self.kernel.step)(jax.random.split(key, num), state)
        accept, nfe, bad = protocol.measures(info, k.dtype_of(state.position))
        merged = k.info(state.position, accept=jnp.mean(accept), nfe=jnp.sum(nfe), diverged=jnp.any(bad), aux=info)
        return state, merged


def ensemble(kernel: Kernel) -> Kernel:
    """Run many chains as one kernel, over the leading axis of the position: for `stream`, populations and reducers.

    The draws of `chain` and `stream` come back as [chains, draws, ...], the axes that `estimate.rhat` and arviz take.
    For several chains without a kernel of their own, `js.chains` does it in one call.

    Args:
        kernel: a kernel for one chain.

    Returns:
        A kernel; mean `accept`, summed `nfe`, any `diverged`, `info.aux` the infos per chain.

    Raises:
        TypeError: for something that is not a kernel.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.ensemble(js.mcmc.MALA(lambda x: -jnp.sum(x**2) / 2))
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros((4, 2)), 10).x.shape
        (4, 10, 2)

    Cost:
        One step per chain.
    """
    return _Ensemble(as_kernel(kernel))
