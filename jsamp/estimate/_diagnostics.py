"""Convergence diagnostics of Markov chains: R-hat, effective sample sizes, Monte Carlo errors, E-BFMI."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from jsamp._core import _checks
from jsamp._core._types import Array, Scalar, Tree
from jsamp.estimate._arrays import deviation
from jsamp.estimate._tails import incomplete_beta
from jsamp.estimate._types import Estimate
from jsamp.select._rows import power_of_two, refuse_too_small


@functools.partial(jax.jit, static_argnums=0)
def _columns(function, flat, numbers):
    return jax.vmap(lambda a: function(a, *numbers))(flat)


def _each(who, x, function, *numbers):
    """The diagnostic of every coordinate of every leaf; leaves are [chains, draws, ...]."""
    _checks.refuse_sparse_leaves(f"{who}: x", x)
    if not jax.tree.leaves(x):
        raise ValueError(f"{who}: x is an empty tree; pass draws [chains, draws, ...].")

    def leaf(a):
        a = jnp.asarray(a, float) if str(getattr(a, "dtype", "")) == "bool" else a
        _checks.check_rows(f"{who}: x", a)
        a = jnp.asarray(a)
        if jnp.iscomplexobj(a):
            raise TypeError(f"{who}: x is complex. Pass real and imaginary part as a tree.")
        if not jnp.issubdtype(a.dtype, jnp.floating):
            a = a.astype(jnp.result_type(float))
        # Ranks, transforms and sums of many draws want more than half precision.
        a = a.astype(jnp.promote_types(a.dtype, jnp.float32))
        if a.ndim < 2 or a.shape[1] < 4 or a.size == 0:
            raise ValueError(f"{who}: want [chains, draws >= 4, ...], got shape {a.shape}. One chain: pass x[None].")
        refuse_too_small(f"{who}: x", a)
        flat = jnp.moveaxis(a.reshape(*a.shape[:2], -1), -1, 0)
        return _columns(function, flat, numbers).reshape(a.shape[2:])

    return jax.tree.map(leaf, x)


def _split(a):
    half = a.shape[1] // 2
    return jnp.concatenate([a[:, :half], a[:, a.shape[1] - half :]])


def _normal_scores(a):
    # Average ranks, so ties share a score, mapped to normal quantiles.
    flat = a.reshape(-1)
    ordered = jnp.sort(flat)
    rank = (jnp.searchsorted(ordered, flat, side="left") + jnp.searchsorted(ordered, flat, side="right") + 1) / 2
    scores = ndtri(((rank - 0.375) / (flat.size + 0.25)).astype(a.dtype))
    # Sorting loses a NaN's place; it must not lose the NaN.
    return jnp.where(jnp.any(jnp.isnan(flat)), jnp.nan, scores).reshape(a.shape)


def _rhat_of(a):
    n = a.shape[1]
    within = jnp.mean(jnp.var(a, axis=1, ddof=1))
    between = jnp.var(jnp.mean(a, axis=1), ddof=1)
    # Chains that each stand still at a place of their own disagree without bound.
    still = jnp.all(jnp.max(a, axis=1) == jnp.min(a, axis=1))
    ratio = jnp.where(still, jnp.inf, between / within)
    return jnp.where(_is_constant(a), jnp.nan, jnp.sqrt(ratio + (n - 1) / n))


def _is_constant(a):
    # By comparison: the variance of equal numbers is rounding error, not zero.
    return jnp.max(a) == jnp.min(a)


def _ess_of(a):
    """Effective size of draws [chains, n]; NaN where all are equal."""
    chains, n = a.shape
    a = a * power_of_two(a)
    center = jnp.mean(a, axis=1)
    moved = a - center[:, None]
    size = 1 << (2 * n - 1).bit_length()
    spectrum = jnp.fft.rfft(moved, size, axis=1)
    covariance = jnp.fft.irfft(spectrum.real**2 + spectrum.imag**2, size, axis=1)[:, :n] / n
    within = jnp.mean(covariance[:, 0]) * n / (n - 1)
    total = within * (n - 1) / n
    if chains > 1:
        total = total + jnp.var(center, ddof=1)
    rho = 1 - (within - jnp.mean(covariance, axis=0)) / total
    rho = rho.at[0].set(1)
    # Geyer: sum pairs of correlations while they are positive, each no larger than those before it.
    last = max(-(-(n - 2) // 2) - 1, 0)
    even = rho[0 : 2 * last + 1 : 2]
    pairs = even + rho[1 : 2 * last + 2 : 2]
    stop = jnp.where(jnp.any(pairs <= 0), jnp.argmax(pairs <= 0), last)
    summed = jnp.sum(jnp.where(jnp.arange(pairs.size) < stop, jax.lax.cummin(pairs), 0))
    tau = -1 + 2 * summed + jnp.maximum(even[stop], 0)
    number = chains * n
    return jnp.where(_is_constant(a), jnp.nan, number / jnp.maximum(tau, float(1 / np.log10(number))))


def _bulk(a):
    return jnp.where(_is_constant(a), jnp.nan, _ess_of(_normal_scores(_split(a))))


def _below(a, prob):
    """Effective size of the indicator of the draws below a quantile.

    Where many draws share a value (clipped, rounded or binary data) a quantile may lie at the end of the range. All
    draws are then on one side of it: nothing is uncertain, and every draw counts.
    """
    below = (a <= jnp.quantile(a, prob)).astype(a.dtype)
    size = jnp.where(_is_constant(below), float(a.size), _ess_of(_split(below)))
    return jnp.where(_is_constant(a) | jnp.any(jnp.isnan(a)), jnp.nan, size)


def _tail(a):
    return jnp.minimum(_below(a, 0.05), _below(a, 0.95))


def _beta_quantile(prob, a, b):
    # By bisection: the incomplete beta function has no inverse in jax.
    def halve(_, bounds):
        middle = (bounds[0] + bounds[1]) / 2
        low = incomplete_beta(a, b, middle, 1 - middle) < prob
        return jnp.where(low, middle, bounds[0]), jnp.where(low, bounds[1], middle)

    zero = jnp.zeros_like(a)
    return sum(jax.lax.fori_loop(0, 40, halve, (zero, zero + 1))) / 2


def _quantile_error(a, prob):
    # Half the distance of the order statistics at the central 68% of the quantile's own beta law.
    size = _below(a, prob)
    ordered = jnp.sort(a.reshape(-1))
    low, high = (
        _beta_quantile(p, size * prob + 1, size * (1 - prob) + 1) * ordered.size - 1 for p in (0.1586553, 0.8413447)
    )
    known = jnp.isfinite(size)
    low = jnp.where(known, jnp.floor(jnp.maximum(low, 0)), 0).astype(jnp.int32)
    high = jnp.where(known, jnp.ceil(jnp.minimum(high, ordered.size - 1)), 0).astype(jnp.int32)
    error = jnp.where(known, (ordered[high] - ordered[low]) / 2, jnp.nan)
    return jnp.where(_is_constant(a), 0, error)


def _rhat(a):
    parts = _split(a)
    folded = jnp.abs(parts - jnp.median(parts))
    bulk, scale = _rhat_of(_normal_scores(parts)), _rhat_of(_normal_scores(folded))
    # Binary draws of equal shares are all as far from the median: they say nothing about the scale.
    return jnp.where(_is_constant(folded), bulk, jnp.maximum(bulk, scale))


def _plain(a):
    return _ess_of(_split(a))


def _mean(a):
    unit = power_of_two(a)
    return jnp.mean(a * unit) / unit


def _mean_error(a):
    return jnp.where(_is_constant(a), 0, deviation(a) / jnp.sqrt(_plain(a)))


def _sd_error(a):
    moved = a - _mean(a)
    unit = power_of_two(moved)
    square = (moved * unit) ** 2
    second = jnp.mean(square)
    variance = jnp.mean((square - second) ** 2) / _plain(square)
    return jnp.where(_is_constant(a) | _is_constant(square), 0, jnp.sqrt(variance / second) / 2 / unit)


def rhat(x: Tree) -> Any:
    """Measure how much chains disagree by R-hat, rank-normalised and split. Near 1 (below 1.01) is agreement.

    The larger of two numbers: between-chain against within-chain variance of the normal scores of the split chains,
    and the same for the scores of |x - median|, which sees chains that differ in scale.

    Args:
        x: draws [chains, draws, ...], or a tree of them.

    Returns:
        R-hat of every coordinate; NaN for a constant coordinate or one with a NaN, infinity for chains that each stand
        still at a place of their own.

    Raises:
        ValueError: for fewer than four draws, or an array without the two axes.

    Example:
        >>> import jax, jsamp as js
        >>> bool(js.estimate.rhat(jax.random.normal(jax.random.key(0), (4, 500))) < 1.02)
        True

    Cost:
        Two sorts.

    References:
        Vehtari, Gelman, Simpson, Carpenter and Bürkner, "Rank-normalization, folding, and localization: an improved
        R-hat", 2021, arXiv:1903.08008.
    """
    return _each("rhat", x, _rhat)


def ess(x: Tree, kind: Literal["bulk", "tail", "mean"] = "bulk") -> Any:
    """Count how many independent draws the chains are worth: the effective sample size.

    Split chains, autocovariances by FFT, Geyer's initial monotone sequence. "bulk" measures the rank-normalised
    draws, "tail" the worse of the 5% and 95% quantile indicators, "mean" the draws as they are. Antithetic chains
    may exceed the number of draws; the value is capped at N log10 N.

    Args:
        x: draws [chains, draws, ...], or a tree of them.
        kind: "bulk", "tail" or "mean".

    Returns:
        The size for every coordinate; NaN for a constant coordinate or one with a NaN.

    Raises:
        ValueError: for an unknown kind, fewer than four draws, or an array without the two axes.

    Example:
        >>> import jax, jsamp as js
        >>> 1500 < float(js.estimate.ess(jax.random.normal(jax.random.key(0), (4, 500)))) < 2500
        True

    Cost:
        One FFT of twice the length (two for the tail), one sort.

    References:
        Vehtari et al., 2021, arXiv:1903.08008; Geyer, "Practical Markov chain Monte Carlo", 1992.
    """
    kinds = {"bulk": _bulk, "tail": _tail, "mean": _plain}
    _checks.check_choice("ess: kind", kind, tuple(kinds))
    return _each("ess", x, kinds[kind])


def mcse(x: Tree, kind: Literal["mean", "sd", "quantile"] = "mean", *, prob: Scalar = 0.5) -> Any:
    """Estimate the Monte Carlo standard error of the mean, the standard deviation or a quantile of draws.

    mean: sd / sqrt(ess). sd: by the delta method from the error of the mean of (x - mean)^2. quantile: half the
    distance of two order statistics, those at the central 68% of Beta(ess prob + 1, ess (1 - prob) + 1), ess that of
    the indicator of the draws below the quantile.

    Args:
        x: draws [chains, draws, ...], or a tree of them.
        kind: "mean", "sd" or "quantile".
        prob: which quantile, in (0, 1).

    Returns:
        The error for every coordinate; 0 for a constant coordinate, NaN for one with a NaN.

    Raises:
        ValueError: for an unknown kind, a probability outside (0, 1), fewer than four draws, or an array without the
            two axes.

    Example:
        >>> import jax, jsamp as js
        >>> float(js.estimate.mcse(jax.random.normal(jax.random.key(0), (4, 2500)))) < 0.02
        True

    Cost:
        One FFT of twice the length; for a quantile also two sorts.

    References:
        Vehtari et al., 2021, arXiv:1903.08008.
    """
    kinds = {"mean": (_mean_error,), "sd": (_sd_error,), "quantile": (_quantile_error, prob)}
    _checks.check_choice("mcse: kind", kind, tuple(kinds))
    _checks.check_scalar("mcse: prob", prob, low=0, high=1 - 1e-6, open_low=True)
    return _each("mcse", x, *kinds[kind])


def mean(x: Tree) -> Estimate:
    """Average draws, with the Monte Carlo standard error of the mean.

    Args:
        x: draws [chains, draws, ...], or a tree of them.

    Returns:
        `Estimate(value, stderr, ess)`, each of the structure of one draw.

    Raises:
        ValueError: for fewer than four draws, or an array without the two axes.

    Example:
        >>> import jax, jsamp as js
        >>> draws = 3 + jax.random.normal(jax.random.key(0), (4, 500))
        >>> result = js.estimate.mean(draws)
        >>> bool(abs(result.value - 3) < 5 * result.stderr)
        True

    Cost:
        Two FFTs of twice the length.
    """
    return Estimate(_each("mean", x, _mean), mcse(x), ess(x, "mean"))


def ebfmi(energy: Array) -> jax.Array:
    """Compute the energy Bayesian fraction of missing information: below 0.3 the momenta move the energy too slowly.

    mean((E_{i+1} - E_i)^2) / var(E), for every chain.

    Args:
        energy: total energies [chains, draws], for example `info.aux.energy` of HMC or NUTS.

    Returns:
        [chains].

    Raises:
        ValueError: for an array that is not [chains, draws >= 2].

    Example:
        >>> import jax, jsamp as js
        >>> js.estimate.ebfmi(jax.random.normal(jax.random.key(0), (2, 1000))).round().tolist()
        [2.0, 2.0]

    Cost:
        One pass.

    References:
        Betancourt, "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo", 2016,
        arXiv:1604.00695.
    """
    _checks.check_rows("ebfmi: energy", energy)
    energy = jnp.asarray(energy, jnp.promote_types(jnp.result_type(energy), jnp.float32))
    if energy.ndim != 2 or energy.shape[1] < 2:
        raise ValueError(f"ebfmi: want [chains, draws >= 2], got shape {energy.shape}. One chain: pass energy[None].")
    # Energies are large; their differences are not.
    energy = energy - energy[:, :1]
    energy = energy * power_of_two(energy, 1)
    return jnp.mean(jnp.diff(energy, axis=1) ** 2, axis=1) / jnp.var(energy, axis=1, ddof=1)
