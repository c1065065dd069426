"""The page of kernels: what one must have, what it may say about itself, and who asks.

A kernel is a tree with `init(x, key=None) -> state` and `step(key, state) -> (state, info)`, both pure. A state has the
fields `position`, `cache` and `memory` (see `State`), an info the fields of `Info`. A state without `memory` is
initialised anew wherever another kernel moved the position; of an info the drivers also read the names that blackjax
uses: `acceptance_rate` for accept, `num_integration_steps` for nfe, `is_divergent` for diverged.

These names are optional. A user's own kernel may have them as fields, class attributes, properties or methods:

    name                     default    asked by              meaning
    logdensity               None       drivers, populations, the target, `logdensity(x)`; a field of it may be tempered
                                        on, tempered          and conditioned
    score                    None       on, tempered          the gradient of the target, `score(x)`, likewise
    loglikelihood            None       on, tempered, smc,    the target over a prior that the kernel knows itself
                                        ais
    own_target               False      all of these          whether these are no functions of the position alone, so
                                                              that they are neither conditioned, tempered nor shared
    caches                   None       compose               what the cache is of the target: "value" is
                                                              Point(logdensity, None), "gradient" Point(logdensity,
                                                              gradient); kernels of one target and one kind share it
    refresh_cost             1 with a   combinators, PT,      model evaluations of `init`, where another kernel moved x
                             cache      populations
    refresh(x, state)        init       combinators           the state at a position that somebody else moved
    retarget(change)         fields     on, tempered,         the kernel with target replaced by change(name, target),
                                        populations           name one of the three above
    propose(key, x)          none       metropolize           a proposal y and log q(x | y) - log q(y | x)
    proposal_cost            0          metropolize           model evaluations of `propose`
    step_size                none       tune,                 a field: the number that tuning drives, that temperatures
                                        ParallelTempering     scale
    time_power               0.5        ParallelTempering     a replica at beta steps step_size beta^-time_power: 1 if
                                                              the step size is a time or a variance
    cooled(beta)             the step   ParallelTempering     the kernel with the step sizes of a replica at beta
                             size's
    metric                   none       tune                  a field: the covariance-like matrix that tuning estimates
    dense_metric             True       tune                  whether the metric may be a `DenseMetric`
    accept_target            None       tune                  the acceptance to tune to; None: `target=` is needed
    tuning_damping           0.05       tune                  how slowly the step size moves, gamma of dual averaging:
                                                              more where single acceptances are near 0 or 1
    accept_statistic(info, x)  .accept  tune                  the number that is driven to that target, at position x
    before_tuning(x)         itself     tune                  the kernel with first guesses for a position like x
    while_tuning()           itself     tune                  the kernel while the step size is still a guess
    tunes_length             False      tune                  whether its field `length` is measured at the end
    trajectory(key, state)   none       tune                  a trajectory before its decision (`_hamiltonian.py`), for
                                                              a kernel whose `length` shall be learned from chains
    chain_axis               False      chain, stream         whether the position's leading axis holds chains: stored
                                                              draws are then [chains, draws]

And a `score(x, batch)` of minibatches may have:

    num_data                 none       SGLD and its like     how many rows it takes the whole data to have
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jsamp._core._pytree import replace
from jsamp._core._types import Key

TARGETS = ("logdensity", "score", "loglikelihood")


class State(NamedTuple):
    """Hold the position of a chain, and what the kernel knows of it.

    Args:
        position: what the user wants, an array or a tree.
        cache: a function of the position and the kernel's numbers (log-density, gradient); `refresh` rebuilds it.
        memory: what survives a move made by somebody else (momentum, visit counts, counters).

    Example:
        >>> import jsamp as js
        >>> js.mcmc.State(position=1.0, cache=None, memory=None).position
        1.0
    """

    position: Any
    cache: Any
    memory: Any


class Info(NamedTuple):
    """Hold what a step tells.

    Args:
        accept: acceptance probability, 1 for moves that are always taken.
        nfe: evaluations of the target in this step, int32. A log-density with its gradient counts as one, as does a
            log-density alone for kernels that take no gradient, or a score.
        diverged: the step met a non-finite number or an energy error beyond 1000.
        aux: kernel-specific extras (a NamedTuple) or None.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.Info(accept=1.0, nfe=1, diverged=False, aux=None).nfe
        1
    """

    accept: Any
    nfe: Any
    diverged: Any
    aux: Any


class Point(NamedTuple):
    """The cached target at a position: its log-density (None when only a score is known) and gradient."""

    logdensity: Any
    grad: Any


@runtime_checkable
class Kernel(Protocol):
    """Any tree with `init` and `step` is a kernel; a blackjax `SamplingAlgorithm` is one as it stands.

    `init(x, key=None) -> state` and `step(key, state) -> (state, info)` are pure; `state.position` is the sample. What
    else a kernel may say about itself (its target, what it caches, how it is tuned) stands on the page of this module,
    `jsamp/mcmc/_protocol.py`.

    Example:
        >>> import jsamp as js
        >>> isinstance(js.mcmc.ULA(lambda x: -x**2 / 2, step_size=0.1), js.mcmc.Kernel)
        True
    """

    def init(self, x: Any, key: Key | None = None) -> Any: ...
    def step(self, key: Key, state: Any) -> tuple[Any, Any]: ...


def check_kernel(kernel: Any) -> None:
    """Refuse what is not a kernel."""
    if isinstance(kernel, type):
        raise TypeError(
            f"kernel must be a kernel, got the class {kernel.__name__}. Make one: {kernel.__name__}(logdensity, ...)."
        )
    if not (callable(getattr(kernel, "init", None)) and callable(getattr(kernel, "step", None))):
        raise TypeError(
            f"kernel must have init(x) and step(key, state), got {type(kernel).__name__}. "
            f"Pass for example js.mcmc.MALA(logdensity, step_size=0.1)."
        )


def target_of(kernel: Any) -> Any:
    """The log-density that a kernel samples, or None."""
    return None if getattr(kernel, "own_target", False) else getattr(kernel, "logdensity", None)


def likelihood_of(kernel: Any) -> Any:
    """The log-likelihood of a kernel that knows its prior itself, or None."""
    return getattr(kernel, "loglikelihood", None)


def first_target(kernels: tuple) -> Any:
    """The log-density of the first of several kernels that has one, or None."""
    return next((f for f in map(target_of, kernels) if f is not None), None)


def first_likelihood(kernels: tuple) -> Any:
    """The log-likelihood of the first of several kernels that has one, or None."""
    return next((f for f in map(likelihood_of, kernels) if f is not None), None)


def retarget(who: str, kernel: Any, change: Any) -> Any:
    """Replace every target of a kernel by change(name, target); refuse a kernel that has none."""
    if hasattr(kernel, "retarget"):
        return kernel.retarget(change)
    fields = [field.name for field in dataclasses.fields(kernel)] if dataclasses.is_dataclass(kernel) else []
    held = {name: getattr(kernel, name) for name in TARGETS if name in fields and getattr(kernel, name) is not None}
    if not held or getattr(kernel, "own_target", False):
        raise TypeError(
            f"{who}: {type(kernel).__name__} has no logdensity, score or loglikelihood to change. Give it a field of "
            f"that name, or leave this kernel out."
        )
    return replace(kernel, **{name: change(name, target) for name, target in held.items()})


def has_target(kernel: Any) -> bool:
    """Whether a kernel or proposal holds a target of its own."""
    return any(getattr(kernel, name, None) is not None for name in TARGETS)


def caches(kernel: Any) -> str | None:
    """Say what the kernel's cache is of its target: "value", "gradient", or None for a cache of its own."""
    return getattr(kernel, "caches", None)


def start(kernel: Any, x: Any, key: Key | None) -> Any:
    """`kernel.init`, with the key where it takes one."""
    parameters = [
        p for p in inspect.signature(kernel.init).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]  # fmt: skip
    takes_key = len(parameters) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return kernel.init(x, key) if takes_key else kernel.init(x)


def memory_of(state: Any) -> Any:
    """The memory of a state, or None."""
    return getattr(state, "memory", None)


def cache_of(state: Any) -> Any:
    """The cache of a state, or None."""
    return getattr(state, "cache", None)


def logdensity_in(state: Any) -> Any:
    """The log-density that a state holds, or None."""
    cache = cache_of(state)
    return getattr(cache if isinstance(cache, Point) else state, "logdensity", None)


def gradient_in(state: Any) -> Any:
    """The gradient that a state holds, or None."""
    cache = cache_of(state)
    return cache.grad if isinstance(cache, Point) else None


def refreshed(kernel: Any, x: Any, memory: Any) -> Any:
    """The state at a moved position, with the memory that was kept."""
    if hasattr(kernel, "refresh"):
        return kernel.refresh(x, State(x, None, memory))
    fresh = start(kernel, x, None)
    return fresh._replace(memory=memory) if hasattr(fresh, "memory") else fresh


def refresh_cost(kernel: Any, state: Any) -> int:
    """Model evaluations of rebuilding the state's cache."""
    return getattr(kernel, "refresh_cost", int(cache_of(state) is not None))


def refresh(kernel: Kernel, x: Any, state: Any) -> Any:
    """Rebuild the cache of a state at a position that somebody else moved, and keep the memory.

    Args:
        kernel: any kernel.
        x: the new position.
        state: the kernel's last state.

    Returns:
        The state at x. A kernel with a method `refresh(x, state)` decides itself; a state without memory (blackjax)
        is initialised anew.

    Example:
        >>> import jsamp as js
        >>> kernel = js.mcmc.MALA(lambda x: -x**2 / 2, step_size=0.1)
        >>> float(js.mcmc.refresh(kernel, 2.0, kernel.init(1.0)).cache.grad)
        -2.0

    Cost:
        One evaluation of the target.
    """
    check_kernel(kernel)
    if not hasattr(state, "position"):
        raise TypeError(f"refresh: state must be a state of the kernel, got {type(state).__name__}.")
    return refreshed(kernel, x, memory_of(state))


def measures(info: Any, dtype: Any) -> tuple[Any, Any, Any]:
    """Acceptance, evaluations and divergence of a step, also of a foreign kernel that names them in its own way."""
    accept = getattr(info, "accept", getattr(info, "acceptance_rate", jnp.nan))
    nfe = getattr(info, "nfe", getattr(info, "num_integration_steps", 1))
    diverged = getattr(info, "diverged", getattr(info, "is_divergent", False))
    return jnp.asarray(accept, dtype), jnp.asarray(nfe, jnp.int32), jnp.asarray(diverged, bool)


def aux_of(info: Any) -> Any:
    """The extras of an info, or None."""
    return getattr(info, "aux", None)


def proposal_of(proposal: Any) -> Any:
    """How a kernel or a bare function proposes: called as propose(key, x)."""
    return getattr(proposal, "propose", proposal)


def proposal_cost(proposal: Any) -> int:
    """Model evaluations of a proposal."""
    return getattr(proposal, "proposal_cost", 0)


def has_step_size(kernel: Any) -> bool:
    """Whether a kernel has one step size, as its own field."""
    return hasattr(kernel, "step_size")


def cooled(kernel: Any, beta: Any) -> Any:
    """The kernel with the step size that suits its target at an inverse temperature beta > 0."""
    if hasattr(kernel, "cooled"):
        return kernel.cooled(beta)
    if not has_step_size(kernel):
        return kernel
    return replace(kernel, step_size=kernel.step_size * beta ** -getattr(kernel, "time_power", 0.5))


def holds_chains(kernel: Any) -> bool:
    """Whether the leading axis of the kernel's position holds chains."""
    return getattr(kernel, "chain_axis", False) is True


def has_trajectory(kernel: Any) -> bool:
    """Whether a kernel shows its trajectories before they are decided."""
    return hasattr(kernel, "trajectory")


class Tuning(NamedTuple):
    """Hold what `tune` asks a kernel."""

    target: float | None
    steps: bool  # whether it has a step size
    metric: bool  # whether it has a metric
    dense: bool
    length: bool
    damping: float


def tuning_of(kernel: Any) -> Tuning:
    """Ask a kernel about its tuning."""
    return Tuning(
        getattr(kernel, "accept_target", None),
        has_step_size(kernel),
        hasattr(kernel, "metric"),
        getattr(kernel, "dense_metric", True),
        getattr(kernel, "tunes_length", False),
        getattr(kernel, "tuning_damping", 0.05),
    )


def before_tuning(kernel: Any, x: Any) -> Any:
    """The kernel with its first guesses for one chain at a position like x."""
    return kernel.before_tuning(x) if hasattr(kernel, "before_tuning") else kernel


def while_tuning(kernel: Any) -> Any:
    """The kernel as it runs while its step size is a guess."""
    return kernel.while_tuning() if hasattr(kernel, "while_tuning") else kernel


def accept_statistic(kernel: Any, info: Any, x: Any) -> jax.Array:
    """The number that tuning drives to the target: NaN counts as nothing accepted."""
    own = getattr(kernel, "accept_statistic", None)
    value = measures(info, jnp.float32)[0] if own is None else own(info, x)
    return jnp.where(jnp.isnan(value), 0, value)
