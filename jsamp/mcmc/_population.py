"""Evidence from a path of targets: annealed importance sampling and tempered sequential Monte Carlo."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _tree
from jsamp._core._callable import as_tree
from jsamp._core._log_weights import effective_size, log_mean_exp, normalise
from jsamp._core._mesh import vary
from jsamp._core._types import Array, Key, LogDensity, Result, Scalar, Tree
from jsamp.estimate import Estimate
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._drive import as_kernel, walk
from jsamp.mcmc._protocol import Kernel
from jsamp.mcmc._temper import tempered, untempered
from jsamp.select import draw


class EvidenceInfo(NamedTuple):
    """Report the evidence and the weights of `ais` and `smc`.

    Args:
        log_evidence: an `Estimate` of the log of the ratio of normalising constants, target over reference: -inf when
            no particle lies in the target's support, and its standard error then infinite; `ess` is the effective
            number of particles (AIS), or the smallest on the way (SMC).
        log_weights: [N] of the returned particles; all zero after resampling.
        nfe: model evaluations over all particles.
        accept: mean acceptance of the moves.
        levels: temperatures visited.
        ok: the path reached the target and every number is finite, the gradients that the kernel holds at the end
            included: where one is not, moves along it have no way to go, and no move can enter.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.EvidenceInfo._fields[:2]
        ('log_evidence', 'log_weights')
    """

    log_evidence: Any
    log_weights: Any
    nfe: Any
    accept: Any
    levels: Any
    ok: Any


def _door(who, key, kernel, x, reference, moves):
    """Validate what both samplers share: (kernel tempered to the reference, particles)."""
    _checks.check_key(key, who)
    _checks.check_count(f"{who}: moves", moves)
    kernel = as_kernel(kernel)
    if protocol.target_of(kernel) is None and protocol.likelihood_of(kernel) is None:
        raise TypeError(f"{who}: {type(kernel).__name__} has no logdensity to temper.")
    x = k.position(who, x)
    k.leading_axis(f"{who}: x", "particles", x, low=2)
    if reference is None and protocol.target_of(kernel) is not None:
        raise TypeError(f"{who}: reference is missing; pass the log-density that the particles were drawn from.")
    if reference is not None:
        reference = as_tree(f"{who}: reference", reference, "reference(x)")
        values = _checks.concrete(jax.vmap(lambda x: k.value(reference, x))(x)) if not _checks.is_traced(x) else None
        if values is not None and not np.all(np.isfinite(values)):
            raise ValueError(
                f"{who}: the reference is not finite at particle {int(np.argmin(np.isfinite(values)))}. Draw the "
                f"particles from the reference."
            )
    return tempered(kernel, 0.0, reference=reference), x, reference


def _gaps(kernel, reference, x):
    """The log of target over reference at every particle; -inf outside the target's support, and for NaN."""
    target = protocol.target_of(kernel)
    if target is None:
        target, reference = protocol.likelihood_of(kernel), None
    target = untempered(target)

    def gap(x):
        value = k.value(target, x) if reference is None else k.value(target, x) - k.value(reference, x)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    return jax.vmap(gap)(x)


def _move(key, kernel, x, moves):
    """Take `moves` steps of every particle: (x, mean acceptance, evaluations, [N] gradients that are not finite)."""

    def one(key, x):
        state = protocol.start(kernel, x, jax.random.fold_in(key, moves))
        cost = protocol.refresh_cost(kernel, state)
        state, (accept, nfe, _) = walk(key, kernel, state, moves)
        return state.position, accept, nfe + cost, ~_tree.all_finite(protocol.gradient_in(state))

    num = jax.tree.leaves(x)[0].shape[0]
    x, accept, nfe, caught = jax.vmap(one)(jax.random.split(key, num), x)
    return x, jnp.mean(accept), jnp.sum(nfe, dtype=jnp.int32), caught


def _raised(log_weights, step, gaps):
    """Log-weights after a step in temperature; a step of zero changes none, not even outside the support."""
    return log_weights + jnp.where(step > 0, step * gaps, 0)


@functools.partial(jax.jit, static_argnames=("moves",))
def _ais(key, kernel, x, betas, reference, *, moves):
    def level(carry, inputs):
        x, log_weights, _ = carry
        i, beta, after = inputs
        log_weights = _raised(log_weights, after - beta, _gaps(kernel, reference, x))
        x, accept, nfe, caught = _move(jax.random.fold_in(key, i), tempered(kernel, after), x, moves)
        return (x, log_weights, caught), (accept, nfe)

    num = jax.tree.leaves(x)[0].shape[0]
    steps = betas.shape[0] - 1
    carry = vary((x, jnp.zeros(num, betas.dtype), jnp.zeros(num, bool)), key, kernel, x, reference, betas)
    (x, log_weights, caught), (accept, nfe) = jax.lax.scan(level, carry, (jnp.arange(steps), betas[:-1], betas[1:]))
    evidence = log_mean_exp(log_weights)
    known = jnp.isfinite(evidence)
    ratio = jnp.exp(log_weights - jnp.where(known, evidence, 0))
    stderr = jnp.where(known, jnp.std(ratio, ddof=1) / math.sqrt(num), jnp.inf)
    nfe = jnp.sum(nfe, dtype=jnp.int32) + steps * num
    ok = known & _tree.all_finite(x) & ~jnp.any(caught & jnp.isfinite(log_weights))
    found = Estimate(evidence, stderr, effective_size(log_weights))
    return Result(x, EvidenceInfo(found, log_weights, nfe, jnp.mean(accept), betas, ok))


def ais(
    key: Key, kernel: Kernel, x: Tree, betas: Array, *, reference: LogDensity | None = None, moves: int = 1
) -> Result:
    """Draw weighted samples and the log-evidence, with its standard error, by annealed importance sampling.

    Each particle starts from the reference and climbs the path (1 - beta) log reference + beta log target, moved by
    the kernel at every beta; its log weight adds (beta' - beta) (target - reference). The mean weight is unbiased for
    the ratio of normalising constants, whatever the mixing.

    Args:
        key: one JAX key.
        kernel: a kernel that leaves its `logdensity` (the target) invariant, for one particle; `compose`, `repeat`,
            `on` and their like pass temperatures on.
        x: [N, ...] particles drawn from the reference.
        betas: [L + 1] increasing, from 0 to 1; traced.
        reference: log-density of the start, normalised if the evidence shall be absolute. None for a kernel that knows
            its prior itself (`EllipticalSlice`), which is then the reference.
        moves: kernel steps per level (static).

    Returns:
        `Result(x, info)`: particles and an `EvidenceInfo`; weight them by `info.log_weights`.

    Raises:
        TypeError: for a kernel without a log-density, or a missing reference.
        ValueError: for betas that do not increase from 0 to 1, or particles without an axis.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> x = jax.random.normal(jax.random.key(1), (50, 2))
        >>> out = js.mcmc.ais(jax.random.key(0), kernel, x, jnp.linspace(0, 1, 5), reference=kernel.logdensity)
        >>> abs(float(out.info.log_evidence.value)) < 1e-4
        True

    Cost:
        N L (moves + 2) model calls.

    References:
        Neal, "Annealed importance sampling", 2001.
    """
    kernel, x, reference = _door("ais", key, kernel, x, reference, moves)
    _checks.check_number("ais: betas", betas, low=0, high=1)
    known = _checks.concrete(betas)
    if known is not None and (
        known.ndim != 1 or known.size < 2 or known[0] != 0 or known[-1] != 1 or np.any(np.diff(known) <= 0)
    ):
        raise ValueError(
            f"ais: betas must be [L + 1] and increase from 0 to 1, got {betas}. Use jnp.linspace(0, 1, n)."
        )
    return _ais(key, kernel, x, jnp.asarray(betas, k.dtype_of(x)), reference, moves=moves)


def _next_beta(gaps, beta, share):
    """The temperature after the largest step whose weights keep ESS >= share N: 30 halvings reach float32."""

    def enough(step):
        return effective_size(_raised(jnp.zeros_like(gaps), step, gaps)) >= share * gaps.shape[0]

    rest = 1 - beta

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(rest), rest))
    # A step of zero (all mass on one particle) still has to move.
    return jnp.where(enough(rest), jnp.ones_like(rest), beta + jnp.maximum(low, 1e-7)).astype(beta.dtype)


class _Climb(NamedTuple):
    """A population on its way from the reference to the target."""

    x: Any
    beta: Any
    evidence: Any
    ancestor: Any  # [N] index of each particle's ancestor at the start
    caught: Any  # [N] whether its gradient is not finite
    least: Any  # the smallest effective size so far
    level: Any
    nfe: Any
    accept: Any
    betas: Any


def _climb(key, kernel, reference, share, moves, c: _Climb) -> _Climb:
    """Raise the temperature, resample, move."""
    num = c.ancestor.shape[0]
    gaps = _gaps(kernel, reference, c.x).astype(c.evidence.dtype)
    after = _next_beta(gaps, c.beta, share)
    log_weights = _raised(jnp.zeros_like(gaps), after - c.beta, gaps)
    choose, move = jax.random.split(jax.random.fold_in(key, c.level))
    weights = normalise(log_weights)
    # Where no particle is left in the support, all stay: the evidence says so.
    index = draw(choose, jnp.where(jnp.any(weights > 0), weights, 1), num, scheme="multinomial").index
    x, rate, cost, caught = _move(move, tempered(kernel, after), jax.tree.map(lambda leaf: leaf[index], c.x), moves)
    level = c.level + 1
    return _Climb(
        x, after, c.evidence + log_mean_exp(log_weights), c.ancestor[index], caught,
        jnp.minimum(c.least, effective_size(log_weights)), level, c.nfe + cost + num, c.accept + rate,
        c.betas.at[level].set(after),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("moves", "max_levels"))
def _smc(key, kernel, x, reference, share, *, moves, max_levels):
    num, dtype = jax.tree.leaves(x)[0].shape[0], k.dtype_of(x)
    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    betas = jnp.full(max_levels + 1, 1, dtype).at[0].set(0)
    first = _Climb(x, zero, zero, jnp.arange(num), jnp.zeros(num, bool), zero + num, none, none, zero, betas)
    c = jax.lax.while_loop(
        lambda c: (c.beta < 1) & (c.level < max_levels) & jnp.isfinite(c.evidence),
        lambda c: _climb(key, kernel, reference, share, moves, c),
        vary(first, key, kernel, x, reference),
    )
    # Genealogical variance: how much of the population descends from common ancestors.
    families = jnp.zeros(num, dtype).at[c.ancestor].add(1.0 / num)
    growth = jnp.exp((c.level + 1) * -jnp.log1p(-jnp.asarray(1 / num, dtype)))
    variance = 1 - growth * (1 - jnp.sum(families**2))
    known = jnp.isfinite(c.evidence)
    stderr = jnp.where(known, jnp.sqrt(jnp.maximum(variance, 0)), jnp.inf)
    ok = (c.beta >= 1) & known & _tree.all_finite(c.x) & ~jnp.any(c.caught)
    found = Estimate(c.evidence, stderr, c.least)
    return Result(c.x, EvidenceInfo(found, jnp.zeros(num, dtype), c.nfe, c.accept / c.level, c.betas, ok))


def smc(
    key: Key,
    kernel: Kernel,
    x: Tree,
    *,
    reference: LogDensity | None = None,
    moves: int = 5,
    ess: Scalar = 0.5,
    max_levels: int = 100,
) -> Result:
    """Draw equal samples and the log-evidence, with its standard error, by tempered sequential Monte Carlo.

    The temperature rises by the largest step that keeps an effective sample of `ess` N (found by bisection on the
    device), the population is resampled (multinomially, which the standard error needs) and moved.

    Args:
        key: one JAX key.
        kernel: a kernel that leaves its `logdensity` (the target) invariant, for one particle; `compose`, `repeat`,
            `on` and their like pass temperatures on.
        x: [N, ...] particles drawn from the reference.
        reference: log-density of the start, normalised if the evidence shall be absolute. None for a kernel that knows
            its prior itself (`EllipticalSlice`), which is then the reference.
        moves: kernel steps per level (static).
        ess: in (0, 1): effective share of the population kept per step, as in `js.steer.SMC`.
        max_levels: bound on the number of temperatures (static); `info.ok` is False when it is hit.

    Returns:
        `Result(x, info)`: [N, ...] particles and an `EvidenceInfo`; the standard error follows from the genealogy.

    Raises:
        TypeError: for a kernel without a log-density, or a missing reference.
        ValueError: for an ess outside (0, 1), or particles without an axis.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> x = jax.random.normal(jax.random.key(1), (50, 2))
        >>> out = js.mcmc.smc(jax.random.key(0), kernel, x, reference=kernel.logdensity, max_levels=5)
        >>> bool(out.info.ok)
        True

    Cost:
        N (moves + 2) model calls per level; vmapped kernels step together.

    References:
        Del Moral, Doucet and Jasra, "Sequential Monte Carlo samplers", 2006; Lee and Whiteley, "Variance estimation in
        the particle filter", 2018, arXiv:1509.00394.
    """
    kernel, x, reference = _door("smc", key, kernel, x, reference, moves)
    _checks.check_scalar("smc: ess", ess, low=0, high=1 - 1e-6, open_low=True)
    _checks.check_count("smc: max_levels", max_levels)
    return _smc(key, kernel, x, reference, ess, moves=moves, max_levels=max_levels)
