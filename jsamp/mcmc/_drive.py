"""The driver: one scan over a kernel, with the key of step i folded in, so that chunks never change a stream."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _tree
from jsamp._core._callable import as_tree
from jsamp._core._mesh import vary
from jsamp._core._pytree import pytree, static
from jsamp._core._random import fold_in
from jsamp._core._types import Key, Result, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._origin import origin
from jsamp.mcmc._protocol import Kernel

INIT = np.uint32(2**32 - 1)  # the fold of the key that starts a chain; steps count from 0


class ChainInfo(NamedTuple):
    """Hold what a run tells, without storing anything per step.

    Args:
        state: `ChainState` after the last step, to resume from.
        accept: mean acceptance probability of the kept phase.
        nfe: model evaluations of the whole run, int32, burn-in included.
        diverged: number of diverged steps of the kept phase, int32.
        reduced: results of the streaming reducers, in their order.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.ChainInfo._fields
        ('state', 'accept', 'nfe', 'diverged', 'reduced')
    """

    state: Any
    accept: Any
    nfe: Any
    diverged: Any
    reduced: Any


class ChainState(NamedTuple):
    """Hold a run that can be continued.

    Args:
        kernel: the kernel's state.
        step: the number of steps done.
        reducers: the reducers' carries.
        origin: [3] fingerprints of the key, the kind of kernel and its numbers, for `stream` and `load` to compare.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.ChainState(kernel=None, step=0, reducers=(), origin=None).step
        0
    """

    kernel: Any
    step: Any
    reducers: Any
    origin: Any


@pytree
class _Foreign:
    """A kernel that is not a tree of arrays (a blackjax algorithm): it travels through jit as structure."""

    algorithm: Any = static()

    def init(self, x, key=None):
        return protocol.start(self.algorithm, x, key)

    def step(self, key, state):
        return self.algorithm.step(key, state)


def as_kernel(kernel: Any) -> Any:
    """The kernel as a tree, or a refusal."""
    protocol.check_kernel(kernel)
    leaves = jax.tree.leaves(kernel)
    arrays = all(hasattr(leaf, "dtype") or isinstance(leaf, (int, float, complex)) for leaf in leaves)
    return kernel if arrays else _Foreign(kernel)


def walk(key: Key, kernel: Any, state: Any, num: int) -> tuple[Any, tuple[Any, Any, Any]]:
    """Take `num` steps: the state, and their mean acceptance, summed evaluations and any divergence."""
    dtype = k.dtype_of(state.position)

    def one(state, i):
        state, info = kernel.step(jax.random.fold_in(key, i), state)
        return state, protocol.measures(info, dtype)

    state, (accept, nfe, bad) = jax.lax.scan(one, vary(state, key, kernel, state), jnp.arange(num))
    return state, (jnp.mean(accept), jnp.sum(nfe, dtype=jnp.int32), jnp.any(bad))


def keep_position(state: Any, info: Any) -> Any:
    """The default of `keep`: the position alone."""
    return state.position


@jax.jit
def begin(key: Key, kernel: Any, x: Any, reducers: Any) -> ChainState:
    """The state of a run before its first step."""
    state = protocol.start(kernel, x, fold_in(key, INIT))
    carries = tuple(r.init(state.position) for r in reducers)
    return ChainState(state, jnp.zeros((), jnp.int32), carries, origin(key, kernel))


@functools.partial(jax.jit, static_argnames=("num", "thin", "burning"))
def advance(key, kernel, reducers, keep, run, burn, *, num: int, thin: int, burning: bool):
    """`num` kept draws after `burn` steps: (ChainState, kept, sums of accept, nfe, diverged)."""
    dtype = k.dtype_of(run.kernel.position)

    def step(carry, counted, step_key=None):
        (state, i, folded, made), sums = carry
        state, info = kernel.step(fold_in(key, i) if step_key is None else step_key, state)
        accept, nfe, bad = protocol.measures(info, dtype)
        measures = (accept, nfe, bad.astype(jnp.int32))
        if burning:
            measures = (measures[0] * counted, measures[1], measures[2] * counted)
        updated = tuple(r.update(c, state, info) for r, c in zip(reducers, folded, strict=True))
        folded = _tree.where(counted, updated, folded) if burning else updated
        return (ChainState(state, i + 1, folded, made), jax.tree.map(jnp.add, sums, measures)), info

    def draw(carry, inputs):
        index, step_key = inputs
        if burning:
            # One loop of dynamic length holds burn-in and thinning, so the kernel is compiled once.
            first = jnp.where(index == 0, burn, 0)
            _, shapes = jax.eval_shape(lambda c: step(c, True), carry)
            blank = vary(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), carry)
            count = lambda j, c: vary(step(c[0], j >= first), carry)
            carry, info = jax.lax.fori_loop(0, first + thin, count, (carry, blank))
        elif thin > 1:
            carry, infos = jax.lax.scan(lambda c, _: step(c, True), carry, length=thin)
            info = jax.tree.map(lambda leaf: leaf[-1], infos)
        else:
            carry, info = step(carry, True, step_key)
        return carry, _checks.check_made("keep", keep(carry[0].kernel, info))

    zeros = (jnp.zeros((), dtype), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
    carry = vary((run, zeros), key, kernel, run)
    # With one step per draw the keys are folded ahead, all at once.
    ahead = None if burning or thin > 1 else jax.vmap(fold_in, (None, 0))(key, run.step + jnp.arange(num))
    (run, sums), kept = jax.lax.scan(draw, carry, (jnp.arange(num), ahead), length=num)
    return run, _chains_first(kernel, run.kernel.position, kept), sums


def _chains_first(kernel, x, kept):
    """Draws of a kernel that holds chains as [chains, draws, ...]."""
    if not protocol.holds_chains(kernel):
        return kept
    num = jax.tree.leaves(x)[0].shape[0]
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1) if leaf.shape[1:2] == (num,) else leaf, kept)


def check_start(who: str, kernel: Any, x: Any, state: Any, *, many: bool = False) -> None:
    """Refuse a start (or one of many) whose log-density or gradient is not finite, when they can be seen."""
    value, slope = protocol.logdensity_in(state), protocol.gradient_in(state)
    if value is None and slope is None:
        target = protocol.target_of(kernel)
        target = protocol.likelihood_of(kernel) if target is None else target
        if target is None or _checks.is_traced(x, kernel):
            return
        evaluate = lambda x: k.value(target, x)
        value = (jax.vmap(evaluate) if many else evaluate)(state.position)
    known = None if value is None else _checks.concrete(value)
    if known is not None and not np.all(np.isfinite(known)):
        raise ValueError(
            f"{who}: the log-density at the start is {known}; a chain cannot leave such a point. Choose another x."
        )
    slopes = [_checks.concrete(leaf) for leaf in jax.tree.leaves(slope)]
    if any(leaf is not None and not np.all(np.isfinite(leaf)) for leaf in slopes):
        raise ValueError(
            f"{who}: the gradient of the log-density at the start is not finite; a chain cannot leave such a point. "
            f"Choose another x."
        )


def door(who: str, key: Key, kernel: Any, keep: Any, thin: Any, reduce: Any) -> tuple[Any, Any, tuple]:
    """Validate what all drivers share; return the kernel and `keep` as trees, and the reducers."""
    _checks.check_key(key, who)
    _checks.check_count(f"{who}: thin", thin)
    keep = keep_position if keep is None else keep
    if not isinstance(reduce, (tuple, list)):
        raise TypeError(f"{who}: reduce must be a tuple of reducers, got {_checks.shown(reduce)}. Write (reducer,).")
    for each in reduce:
        if not all(callable(getattr(each, name, None)) for name in ("init", "update", "value")):
            raise TypeError(f"{who}: a reducer must have init, update and value, got {_checks.shown(each)}.")
        if not all(map(_checks.is_array, jax.tree.leaves(each))):
            raise TypeError(
                f"{who}: the reducer {type(each).__name__} is not a tree of arrays. Decorate its class with "
                f"@js.pytree, and make fields that are no numbers js.static()."
            )
    return as_kernel(kernel), as_tree(f"{who}: keep", keep, "keep(state, info)"), tuple(reduce)


def check_position(kernel: Any, x: Any) -> None:
    """Let the kernel's own checks see the numbers of the start, which a compiled program would hide."""
    jax.eval_shape(lambda: protocol.start(kernel, x, None))


def chain(
    key: Key,
    kernel: Kernel,
    x: Tree,
    num: int,
    *,
    keep: Callable | None = None,
    thin: int = 1,
    burn: int = 0,
    reduce: tuple = (),
) -> Result:
    """Run a kernel: `num` draws in one scan.

    Step i uses `fold_in(key, i)`, so a longer run, a chunked run (`stream`) or a resumed one has the same bits. For
    several chains call `js.chains`, or `vmap` this function over keys and starts.

    Args:
        key: one JAX key.
        kernel: a `Kernel`; its numbers are leaves, new ones do not recompile. A blackjax algorithm also works.
        x: start position, an array or a tree.
        num: number of kept draws (static).
        keep: what is stored per draw, `keep(state, info) -> tree`; default the position. Define it once: a new
            function object is a new program.
        thin: keep every thin-th step.
        burn: steps dropped first; not reverse-differentiable when positive.
        reduce: streaming reducers, for example `(js.mcmc.Moments(),)`; they see every step after burn-in.

    Returns:
        `Result(x, info)`: x has a leading axis [num] ([chains, num] for an `ensemble`, whose leaves that begin with the
        chain axis are turned round); info is a `ChainInfo`.

    Raises:
        TypeError: for something that is not a kernel or not a key.
        ValueError: for counts below 1 or a non-finite log-density at a concrete start.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 100, thin=2, burn=10).x.shape
        (100, 3)

    Cost:
        burn + num * thin steps; memory num * what `keep` returns.
    """
    tree, keep, reduce = door("chain", key, kernel, keep, thin, reduce)
    num, burn = _checks.check_count("chain: num", num), _checks.check_count("chain: burn", burn, low=0)
    check_position(tree, x)
    run = begin(key, tree, x, reduce)
    check_start("chain", tree, x, run.kernel)
    run, kept, sums = advance(key, tree, reduce, keep, run, burn, num=num, thin=thin, burning=burn > 0)
    reduced = tuple(r.value(c) for r, c in zip(reduce, run.reducers, strict=True))
    return Result(kept, ChainInfo(run, sums[0] / (num * thin), sums[1], sums[2], reduced))
