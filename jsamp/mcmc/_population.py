"""Evidence from a path of targets: annealed importance sampling and tempered sequential Monte Carlo."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _tree
from jsamp._core._types import Result
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._drive import as_kernel, start
from jsamp.mcmc._temper import tempered
from jsamp.select import draw


class EvidenceInfo(NamedTuple):
    """What `ais` and `smc` report.

    Args:
        log_evidence: log of the ratio of normalising constants, target over reference.
        stderr: its standard error.
        log_weights: [N] of the returned particles; all zero after resampling.
        ess: effective number of particles (AIS), or the smallest on the way (SMC).
        nfe: model evaluations over all particles.
        accept: mean acceptance of the moves.
        levels: temperatures visited.
        ok: the path reached the target and every number is finite.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.EvidenceInfo._fields[:2]
        ('log_evidence', 'stderr')
    """

    log_evidence: Any
    stderr: Any
    log_weights: Any
    ess: Any
    nfe: Any
    accept: Any
    levels: Any
    ok: Any


def _door(who, key, kernel, x, reference, moves):
    _checks.check_key(key, who)
    _checks.check_count(f"{who}: moves", moves)
    kernel = as_kernel(kernel)
    if getattr(kernel, "logdensity", None) is None:
        raise TypeError(f"{who}: {type(kernel).__name__} has no logdensity to temper.")
    x = k.position(who, x)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or () in sizes or min(sizes)[0] < 2:
        raise ValueError(f"{who}: every leaf of x needs the same leading axis of >= 2 particles, got {sorted(sizes)}.")
    return kernel, x, k.as_tree(f"{who}: reference", reference, "reference(x)")


def _move(key, kernel, x, moves):
    # `moves` steps of every particle: (x, mean acceptance, nfe).
    def one(key, x):
        state = start(kernel, x, jax.random.fold_in(key, moves))
        cost = int(isinstance(getattr(state, "cache", None), k.Point))

        def body(state, i):
            state, info = kernel.step(jax.random.fold_in(key, i), state)
            return state, (info.accept, info.nfe)

        state, (accept, nfe) = jax.lax.scan(body, state, jnp.arange(moves))
        return state.position, jnp.mean(accept), jnp.sum(nfe) + cost

    num = jax.tree.leaves(x)[0].shape[0]
    x, accept, nfe = jax.vmap(one)(jax.random.split(key, num), x)
    return x, jnp.mean(accept), jnp.sum(nfe)


def _ess(log_weights):
    shifted = jnp.exp(log_weights - jnp.max(log_weights))
    return jnp.sum(shifted) ** 2 / jnp.sum(shifted**2)


def _logmeanexp(log_weights):
    return jax.nn.logsumexp(log_weights) - np.log(log_weights.shape[0])


@functools.partial(jax.jit, static_argnames=("moves",))
def _ais(key, kernel, x, betas, reference, *, moves):
    target = kernel.logdensity

    def gap(x):
        value = k.value(target, x) - k.value(reference, x)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    def level(carry, inputs):
        x, log_weights = carry
        i, beta, after = inputs
        log_weights = log_weights + (after - beta) * jax.vmap(gap)(x)
        x, accept, nfe = _move(jax.random.fold_in(key, i), tempered(kernel, after, reference=reference), x, moves)
        return (x, log_weights), (accept, nfe)

    num = jax.tree.leaves(x)[0].shape[0]
    steps = betas.shape[0] - 1
    carry = k.vary((x, jnp.zeros(num, betas.dtype)), key, kernel, x, reference, betas)
    (x, log_weights), (accept, nfe) = jax.lax.scan(level, carry, (jnp.arange(steps), betas[:-1], betas[1:]))
    evidence = _logmeanexp(log_weights)
    ratio = jnp.exp(log_weights - evidence)
    stderr = jnp.std(ratio, ddof=1) / np.sqrt(num)
    ok = jnp.isfinite(evidence) & _tree.all_finite(x)
    nfe = jnp.sum(nfe) + steps * num
    return Result(x, EvidenceInfo(evidence, stderr, log_weights, _ess(log_weights), nfe, jnp.mean(accept), betas, ok))


def ais(key: Any, kernel: Any, x: Any, betas: Any, *, reference: Any, moves: int = 1) -> Result:
    """Annealed importance sampling: weighted samples and the log-evidence with its standard error.

    Each particle starts from the reference and climbs the path (1 - beta) log reference + beta log target, moved by
    the kernel at every beta; its log weight adds (beta' - beta) (target - reference). The mean weight is unbiased for
    the ratio of normalising constants, whatever the mixing.

    Args:
        key: one JAX key.
        kernel: a kernel that leaves its `logdensity` (the target) invariant, for one particle.
        x: [N, ...] particles drawn from the reference.
        betas: [L + 1] increasing, from 0 to 1; traced.
        reference: log-density of the start, normalised if the evidence shall be absolute.
        moves: kernel steps per level (static).

    Returns:
        `Result(x, info)`: particles and an `EvidenceInfo`; weight them by `info.log_weights`.

    Raises:
        TypeError: for a kernel without a log-density.
        ValueError: for betas that do not increase from 0 to 1, or particles without an axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> x = jax.random.normal(jax.random.key(1), (50, 2))
        >>> out = mcmc.ais(jax.random.key(0), kernel, x, jnp.linspace(0, 1, 5), reference=kernel.logdensity)
        >>> abs(float(out.info.log_evidence)) < 1e-4
        True

    Cost:
        N L (moves + 2) model calls.

    References:
        Neal, "Annealed importance sampling", 2001.
    """
    kernel, x, reference = _door("ais", key, kernel, x, reference, moves)
    known = _checks.concrete(betas)
    if known is not None and (
        known.ndim != 1 or known.size < 2 or known[0] != 0 or known[-1] != 1 or np.any(np.diff(known) <= 0)
    ):
        raise ValueError(
            f"ais: betas must be [L + 1] and increase from 0 to 1, got {betas}. Use jnp.linspace(0, 1, n)."
        )
    return _ais(key, kernel, x, jnp.asarray(betas, k.dtype_of(x)), reference, moves=moves)


def _next_beta(gap, beta, share):
    # The largest step whose weights keep ESS >= share N, by bisection: 30 halvings reach float32.
    def enough(step):
        return _ess(step * gap) >= share * gap.shape[0]

    rest = 1 - beta

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(rest), rest))
    # A step of zero (all mass on one particle) still has to move.
    return jnp.where(enough(rest), jnp.ones_like(rest), beta + jnp.maximum(low, 1e-7))


@functools.partial(jax.jit, static_argnames=("moves", "max_levels"))
def _smc(key, kernel, x, reference, share, *, moves, max_levels):
    target = kernel.logdensity
    num = jax.tree.leaves(x)[0].shape[0]
    dtype = k.dtype_of(x)

    def gap(x):
        value = k.value(target, x) - k.value(reference, x)
        return jnp.where(jnp.isnan(value), -jnp.inf, value).astype(dtype)

    def body(carry):
        x, beta, evidence, eve, least, level, nfe, accept, betas = carry
        gaps = jax.vmap(gap)(x)
        finite = jnp.where(jnp.isneginf(gaps), jnp.finfo(dtype).min / 4, gaps)
        after = _next_beta(finite, beta, share)
        log_weights = (after - beta) * finite
        evidence = evidence + _logmeanexp(log_weights)
        choose, move = jax.random.split(jax.random.fold_in(key, level))
        weights = jnp.exp(log_weights - jnp.max(log_weights))
        index = draw(choose, weights, num, scheme="multinomial").index
        x = jax.tree.map(lambda leaf: leaf[index], x)
        x, rate, cost = _move(move, tempered(kernel, after, reference=reference), x, moves)
        level = level + 1
        return (
            x, after, evidence, eve[index], jnp.minimum(least, _ess(log_weights)), level, nfe + cost + num,
            accept + rate, betas.at[level].set(after),
        )  # fmt: skip

    zero = jnp.zeros((), dtype)
    betas = jnp.full(max_levels + 1, 1, dtype).at[0].set(0)
    carry = (
        x,
        zero,
        zero,
        jnp.arange(num),
        zero + num,
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.int32),
        zero,
        betas,
    )
    carry = k.vary(carry, key, kernel, x, reference)
    carry = jax.lax.while_loop(lambda c: (c[1] < 1) & (c[5] < max_levels), body, carry)
    x, beta, evidence, eve, least, level, nfe, accept, betas = carry
    families = jnp.zeros(num, dtype).at[eve].add(1.0 / num)
    # Genealogical variance: how much of the population descends from common ancestors.
    growth = jnp.exp((level + 1) * -jnp.log1p(-jnp.asarray(1 / num, dtype)))
    variance = 1 - growth * (1 - jnp.sum(families**2))
    stderr = jnp.sqrt(jnp.maximum(variance, 0))
    ok = (beta >= 1) & jnp.isfinite(evidence) & _tree.all_finite(x)
    info = EvidenceInfo(evidence, stderr, jnp.zeros(num, dtype), least, nfe, accept / level, betas, ok)
    return Result(x, info)


def smc(
    key: Any, kernel: Any, x: Any, *, reference: Any, moves: int = 5, share: Any = 0.5, max_levels: int = 100
) -> Result:
    """Tempered sequential Monte Carlo: equally weighted samples and the log-evidence with its standard error.

    The temperature rises by the largest step that keeps an effective sample of `share` N (found by bisection on the
    device), the population is resampled (multinomially, which the standard error needs) and moved.

    Args:
        key: one JAX key.
        kernel: a kernel that leaves its `logdensity` (the target) invariant, for one particle.
        x: [N, ...] particles drawn from the reference.
        reference: log-density of the start, normalised if the evidence shall be absolute.
        moves: kernel steps per level (static).
        share: in (0, 1): effective share of the population kept per step.
        max_levels: bound on the number of temperatures (static); `info.ok` is False when it is hit.

    Returns:
        `Result(x, info)`: [N, ...] particles and an `EvidenceInfo`; the standard error follows from the genealogy.

    Raises:
        TypeError: for a kernel without a log-density.
        ValueError: for a share outside (0, 1), or particles without an axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> x = jax.random.normal(jax.random.key(1), (50, 2))
        >>> out = mcmc.smc(jax.random.key(0), kernel, x, reference=kernel.logdensity, max_levels=5)
        >>> bool(out.info.ok)
        True

    Cost:
        N (moves + 2) model calls per level; vmapped kernels step together.

    References:
        Del Moral, Doucet and Jasra, "Sequential Monte Carlo samplers", 2006; Lee and Whiteley, "Variance estimation in
        the particle filter", 2018, arXiv:1509.00394.
    """
    kernel, x, reference = _door("smc", key, kernel, x, reference, moves)
    _checks.check_number("smc: share", share, low=0, high=1, open_low=True)
    _checks.check_count("smc: max_levels", max_levels)
    return _smc(key, kernel, x, reference, share, moves=moves, max_levels=max_levels)
