"""The driver: one scan over a kernel, with the key of step i folded in, so that chunks never change a stream."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _tree
from jsamp._core._pytree import pytree, static
from jsamp._core._random import fold_in
from jsamp._core._types import Result
from jsamp.mcmc import _kernel as k

INIT = np.uint32(2**32 - 1)  # the fold of the key that starts a chain; steps count from 0


class ChainInfo(NamedTuple):
    """What a run tells, without storing anything per step.

    Args:
        state: `ChainState` after the last step, to resume from.
        accept: mean acceptance probability of the kept phase.
        nfe: model evaluations of the whole run, int32, burn-in included.
        diverged: number of diverged steps of the kept phase, int32.
        reduced: results of the streaming reducers, in their order.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.ChainInfo._fields
        ('state', 'accept', 'nfe', 'diverged', 'reduced')
    """

    state: Any
    accept: Any
    nfe: Any
    diverged: Any
    reduced: Any


class ChainState(NamedTuple):
    """A run that can be continued: the kernel's state, the number of steps done, and the reducers' carries.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.ChainState(kernel=None, step=0, reducers=()).step
        0
    """

    kernel: Any
    step: Any
    reducers: Any


@pytree
class _Foreign:
    """A kernel that is not a tree of arrays (a blackjax algorithm): it travels through jit as structure."""

    algorithm: Any = static()

    def init(self, x, key=None):
        return start(self.algorithm, x, key)

    def step(self, key, state):
        return self.algorithm.step(key, state)


def as_kernel(kernel: Any) -> Any:
    """The kernel as a tree, or a refusal."""
    for name in ("init", "step"):
        if not callable(getattr(kernel, name, None)):
            raise TypeError(
                f"kernel must have init(x) and step(key, state), got {type(kernel).__name__}. "
                f"Pass for example mcmc.MALA(logdensity, step_size=0.1)."
            )
    leaves = jax.tree.leaves(kernel)
    arrays = all(hasattr(leaf, "dtype") or isinstance(leaf, (int, float, complex)) for leaf in leaves)
    return kernel if arrays else _Foreign(kernel)


def start(kernel: Any, x: Any, key: Any) -> Any:
    """`kernel.init`, with the key where it takes one."""
    parameters = [
        p for p in inspect.signature(kernel.init).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]  # fmt: skip
    takes_key = len(parameters) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return kernel.init(x, key) if takes_key else kernel.init(x)


def keep_position(state: Any, info: Any) -> Any:
    """The default of `keep`: the position alone."""
    return state.position


def _measures(info, dtype):
    # A foreign kernel names its fields in its own way.
    accept = getattr(info, "accept", getattr(info, "acceptance_rate", jnp.nan))
    nfe = getattr(info, "nfe", getattr(info, "num_integration_steps", 1))
    diverged = getattr(info, "diverged", getattr(info, "is_divergent", False))
    return jnp.asarray(accept, dtype), jnp.asarray(nfe, jnp.int32), jnp.asarray(diverged, jnp.int32)


@functools.partial(jax.jit, static_argnames=("who",))
def begin(key: Any, kernel: Any, x: Any, reducers: Any, who: str = "chain") -> ChainState:
    """The state of a run before its first step."""
    state = start(kernel, x, fold_in(key, INIT))
    return ChainState(state, jnp.zeros((), jnp.int32), tuple(r.init(state.position) for r in reducers))


@functools.partial(jax.jit, static_argnames=("num", "thin", "burning"))
def advance(key, kernel, reducers, keep, run, burn, *, num: int, thin: int, burning: bool):
    """`num` kept draws after `burn` steps: (ChainState, kept, sums of accept, nfe, diverged)."""
    dtype = k.dtype_of(run.kernel.position)
    zeros = (jnp.zeros((), dtype), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def step(carry, counted, step_key=None):
        (state, i, folded), sums = carry
        state, info = kernel.step(fold_in(key, i) if step_key is None else step_key, state)
        measures = _measures(info, dtype)
        if burning:
            measures = (measures[0] * counted, measures[1], measures[2] * counted)
        updated = tuple(r.update(c, state, info) for r, c in zip(reducers, folded, strict=True))
        folded = _tree.where(counted, updated, folded) if burning else updated
        return (ChainState(state, i + 1, folded), jax.tree.map(jnp.add, sums, measures)), info

    def draw(carry, inputs):
        index, step_key = inputs
        if burning:
            # One loop of dynamic length holds burn-in and thinning, so the kernel is compiled once.
            first = jnp.where(index == 0, burn, 0)
            _, shapes = jax.eval_shape(lambda c: step(c, True), carry)
            blank = k.vary(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), carry)
            carry, info = jax.lax.fori_loop(0, first + thin, lambda j, c: step(c[0], j >= first), (carry, blank))
        elif thin > 1:
            carry, infos = jax.lax.scan(lambda c, _: step(c, True), carry, length=thin)
            info = jax.tree.map(lambda leaf: leaf[-1], infos)
        else:
            carry, info = step(carry, True, step_key)
        return carry, keep(carry[0].kernel, info)

    carry = k.vary((run, zeros), key, kernel, run)
    # With one step per draw the keys are folded ahead, all at once.
    ahead = None if burning or thin > 1 else jax.vmap(fold_in, (None, 0))(key, run.step + jnp.arange(num))
    (run, sums), kept = jax.lax.scan(draw, carry, (jnp.arange(num), ahead), length=num)
    return run, kept, sums


def logdensity_of(state: Any) -> Any:
    """The log-density that a kernel's state holds, or None."""
    cache = getattr(state, "cache", None)
    return getattr(cache if isinstance(cache, k.Point) else state, "logdensity", None)


def check_finite(who: str, logdensity: Any) -> None:
    """Refuse a start where the log-density is not finite, when its value can be seen."""
    known = None if logdensity is None else _checks.concrete(logdensity)
    if known is not None and not np.all(np.isfinite(known)):
        raise ValueError(
            f"{who}: the log-density at the start is {known}; a chain cannot leave such a point. Choose another x."
        )


def door(who: str, key: Any, kernel: Any, keep: Any, thin: Any) -> tuple[Any, Any]:
    """Check what both drivers take; the kernel and `keep` as trees."""
    _checks.check_key(key, who)
    _checks.check_count(f"{who}: thin", thin)
    keep = keep_position if keep is None else keep
    return as_kernel(kernel), k.as_tree(f"{who}: keep", keep, "keep(state, info)")


def chain(
    key: Any,
    kernel: Any,
    x: Any,
    num: int,
    *,
    keep: Callable | None = None,
    thin: int = 1,
    burn: int = 0,
    reduce: tuple = (),
) -> Result:
    """Run a kernel: `num` draws in one scan.

    Step i uses `fold_in(key, i)`, so a longer run, a chunked run (`stream`) or a resumed one has the same bits. Many
    chains: `jax.vmap(lambda k, x: chain(k, kernel, x, num))(keys, starts)`.

    Args:
        key: one JAX key.
        kernel: a `Kernel`; its numbers are leaves, new ones do not recompile. A blackjax algorithm also works.
        x: start position, an array or a tree.
        num: number of kept draws (static).
        keep: what is stored per draw, `keep(state, info) -> tree`; default the position. Define it once: a new
            function object is a new program.
        thin: keep every thin-th step.
        burn: steps dropped first; not reverse-differentiable when positive.
        reduce: streaming reducers, for example `(mcmc.Moments(),)`; they see every step after burn-in.

    Returns:
        `Result(x, info)`: x has a leading axis [num]; info is a `ChainInfo`.

    Raises:
        TypeError: for something that is not a kernel or not a key.
        ValueError: for counts below 1 or a non-finite log-density at a concrete start.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 100, thin=2, burn=10).x.shape
        (100, 3)

    Cost:
        burn + num * thin steps; memory num * what `keep` returns.
    """
    kernel, keep = door("chain", key, kernel, keep, thin)
    num, burn = _checks.check_count("chain: num", num), _checks.check_count("chain: burn", burn, low=0)
    run = begin(key, kernel, x, tuple(reduce))
    check_finite("chain", logdensity_of(run.kernel))
    run, kept, sums = advance(key, kernel, tuple(reduce), keep, run, burn, num=num, thin=thin, burning=burn > 0)
    reduced = tuple(r.value(c) for r, c in zip(reduce, run.reducers, strict=True))
    return Result(kept, ChainInfo(run, sums[0] / (num * thin), sums[1], sums[2], reduced))
