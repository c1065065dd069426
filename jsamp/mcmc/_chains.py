"""Several chains in one call: warmed up together, draws as [chains, draws, ...]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jsamp._core import _checks
from jsamp._core._like import as_arrays
from jsamp._core._types import Key, Result, Tree
from jsamp.mcmc import _drive as d
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._interop import NumpyroModel
from jsamp.mcmc._nuts import NUTS
from jsamp.mcmc._protocol import Kernel
from jsamp.mcmc._tune import warm_up


class ChainsInfo(NamedTuple):
    """Hold what several chains tell; every array has a leading axis [chains].

    Args:
        state: `ChainState` of every chain after its last step.
        accept: mean acceptance probability of the kept phase.
        nfe: evaluations of the target after the warm-up, burn-in included, int32.
        diverged: number of diverged steps of the kept phase, int32.
        reduced: results of the streaming reducers, in their order.
        kernel: the kernel that ran: tuned, where there was a warm-up. Shared by all chains.
        warm_nfe: evaluations of the target during the warm-up, int32.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.ChainsInfo._fields[-2:]
        ('kernel', 'warm_nfe')
    """

    state: Any
    accept: Any
    nfe: Any
    diverged: Any
    reduced: Any
    kernel: Any
    warm_nfe: Any


def chains(
    key: Key,
    kernel: Kernel | NumpyroModel,
    starts: Tree,
    num: int,
    *,
    warm: int | None = None,
    keep: Callable | None = None,
    thin: int = 1,
    burn: int = 0,
    reduce: tuple = (),
) -> Result:
    """Run several chains of one kernel: draws [chains, draws, ...], the axes of `js.estimate.rhat` and of arviz.

    Chain i of the sampling phase is bit for bit the one that `chain` draws from key i of
    `jax.random.split(jax.random.split(key, 3)[2], chains)`, whatever runs beside it.

    Args:
        key: one JAX key.
        kernel: a kernel for one chain; or a numpyro model from `from_numpyro`, which runs `NUTS` on its log-density and
            returns the model's sites.
        starts: start positions with a leading axis [chains]; for a numpyro model also the number of chains, whose
            starts are then drawn.
        num: kept draws per chain (static).
        warm: steps of `tune` before, which all chains share; None: 0 for a kernel, 1000 for a numpyro model.
        keep: what is stored per draw, `keep(state, info) -> tree`; default the position (the sites, for a model).
        thin: keep every thin-th step.
        burn: further steps dropped first.
        reduce: streaming reducers, one carry per chain.

    Returns:
        `Result(x, info)`: x has leading axes [chains, num]; info is a `ChainsInfo`.

    Raises:
        TypeError: for something that is not a kernel or not a key, or a warm-up of a kernel that cannot be tuned.
        ValueError: for starts without a common leading axis, counts out of range, or a start outside the support.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> result = js.chains(jax.random.key(0), kernel, jnp.zeros((4, 3)), 100)
        >>> result.x.shape, js.estimate.rhat(result.x).shape
        ((4, 100, 3), (3,))

    Cost:
        chains (warm + burn + num * thin) steps, vmapped; memory chains * num * what `keep` returns.
    """
    _checks.check_key(key, "chains")
    warm_key, start_key, run_key = jax.random.split(key, 3)  # pyright: ignore[reportArgumentType]
    model = kernel if isinstance(kernel, NumpyroModel) else None
    if model is not None:
        kernel = NUTS(model.logdensity)
        if isinstance(starts, int):
            starts = model.starts(start_key, _checks.check_count("chains: starts", starts))
    warm = (0 if model is None else 1000) if warm is None else _checks.check_count("chains: warm", warm, low=0)
    tree, keep_tree, reduce = d.door("chains", key, kernel, keep, thin, reduce)
    num, burn = _checks.check_count("chains: num", num), _checks.check_count("chains: burn", burn, low=0)
    for leaf in jax.tree.leaves(starts):
        _checks.check_rows("chains: starts", leaf)
    starts = as_arrays(starts)
    count = k.leading_axis("chains: starts", "chains", starts)
    warm_nfe = 0
    if warm:
        tree, starts, warm_nfe = warm_up(warm_key, tree, starts, warm, count)
    d.check_position(tree, jax.tree.map(lambda leaf: leaf[0], starts))
    keys = jax.random.split(run_key, count)
    run = jax.vmap(lambda key, x: d.begin(key, tree, x, reduce))(keys, starts)
    d.check_start("chains", tree, starts, run.kernel, many=True)
    advance = lambda key, run: d.advance(key, tree, reduce, keep_tree, run, burn, num=num, thin=thin, burning=burn > 0)
    run, kept, (accept, nfe, bad) = jax.vmap(advance)(keys, run)
    if model is not None and keep is None:
        kept = jax.vmap(jax.vmap(model.constrain))(kept)
    reduced = tuple(jax.vmap(r.value)(c) for r, c in zip(reduce, run.reducers, strict=True))
    return Result(kept, ChainsInfo(run, accept / (num * thin), nfe, bad, reduced, tree, warm_nfe))
