"""Importance sampling: self-normalised means, Pareto smoothing, bridge sampling."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp.estimate import _arrays
from jsamp.estimate._types import Estimate
from jsamp.select._rows import power_of_two


def check_log_ratios(who: str, value: Any, *, low: int = 1) -> jax.Array:
    """Return log-weights [n], or refuse NaN, +inf, and -inf throughout."""
    logs = _arrays.array(f"{who}: log_ratios", value, "n", low=low, missing=True)
    known = _checks.concrete(logs)
    if known is not None and not (np.all(known < np.inf) and np.any(known > -np.inf)):
        raise ValueError(f"{who}: log_ratios must be < inf and not all -inf: some draw must have weight.")
    return logs


def spread_over(weight: jax.Array, leaf: jax.Array) -> jax.Array:
    """Weights [n] shaped to multiply a leaf [n, ...]."""
    return weight.reshape(-1, *(1,) * (leaf.ndim - 1))


@jax.jit
def _self_normalised(log_ratios, values):
    weight = jax.nn.softmax(log_ratios)

    def one(leaf):
        w = spread_over(weight, leaf).astype(leaf.dtype)
        centre = jnp.mean(leaf, 0, keepdims=True)  # so that a large offset costs no digits
        # A draw of weight 0 may hold anything finite; it must not turn 0 x large into noise.
        value = jnp.sum(w * (leaf - centre), 0, keepdims=True) + centre
        unit = power_of_two(leaf - centre, 0)
        return value[0], jnp.sqrt(jnp.sum((w * ((leaf - value) * unit)) ** 2, 0)) / unit[0]

    pairs = jax.tree.map(one, values)
    value, stderr = (jax.tree.map(lambda _, p, i=i: p[i], values, pairs) for i in (0, 1))
    return Estimate(value, stderr, 1 / jnp.sum(weight**2))


def snis(log_ratios: Any, values: Any) -> Estimate:
    """Estimate an expectation under a target from draws of a proposal: self-normalised importance sampling.

    w = softmax(log_ratios), value = sum_i w_i values_i, stderr^2 = sum_i w_i^2 (values_i - value)^2,
    ess = 1 / sum_i w_i^2. Constants in log_ratios cancel, so both densities may be unnormalised. The error is honest
    while the weights have a variance: see `psis`.

    Args:
        log_ratios: [n] log target - log proposal at each draw; -inf where the target is 0.
        values: what to average, [n, ...] or a tree of such.

    Returns:
        `Estimate` of the structure of one value.

    Raises:
        ValueError: for NaN or +inf ratios, -inf throughout, or lengths that differ.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> x = 2 * jax.random.normal(jax.random.key(0), (4000,))
        >>> found = js.estimate.snis(-x**2 / 2 + x**2 / 8, x**2)  # the variance of N(0, 1) from draws of N(0, 4)
        >>> bool(abs(found.value - 1) < 4 * found.stderr)
        True

    Cost:
        One pass.

    References:
        Owen, "Monte Carlo theory, methods and examples", 2013, chapter 9.
    """
    log_ratios = check_log_ratios("snis", log_ratios)
    values = _arrays.tree("snis: values", values)
    for leaf in jax.tree.leaves(values):
        if leaf.ndim == 0 or leaf.shape[0] != log_ratios.shape[0]:
            raise ValueError(f"snis: values must be [{log_ratios.shape[0]}, ...] as log_ratios, got {leaf.shape}.")
    return _self_normalised(log_ratios, values)


class Smoothed(NamedTuple):
    """Hold importance weights whose tail was smoothed.

    Args:
        log_weights: [n] logs of weights that sum to 1.
        khat: shape of the generalised Pareto law of the largest weights. Below min(1 - 1 / log10 n, 0.7) the estimate
            can be trusted; NaN where the tail has no spread (constant weights), and the weights are as they were.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.estimate.Smoothed(log_weights=jnp.log(jnp.ones(4) / 4), khat=0.1).khat
        0.1
    """

    log_weights: Any
    khat: Any


def _fit_pareto(excess: jax.Array, used: jax.Array, grid: int) -> tuple[jax.Array, jax.Array]:
    """Shape and scale of a generalised Pareto law by Zhang and Stephens' profile posterior mean.

    `excess` [m] rises; only its last `used` entries count (those before hold 0).
    """
    dtype, m = excess.dtype, excess.shape[0]
    count = jnp.maximum(used, 1).astype(dtype)
    inside = jnp.arange(m) >= m - used
    top = excess[-1]
    quartile = excess[jnp.clip(m - used + jnp.floor(count / 4 + 0.5).astype(jnp.int32) - 1, 0, m - 1)]
    steps = jnp.asarray(1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5)), dtype)
    x = excess / top
    b = steps / (3 * quartile / top) + 1

    def profile(b):
        k = jnp.sum(jnp.where(inside, jnp.log1p(-b * x), 0)) / count
        flat = jnp.abs(b) < 1e-5
        mean = jnp.sum(jnp.where(inside, x, 0)) / count
        return jnp.where(flat, -b * mean, k), jnp.where(flat, 1 / mean, -b / jnp.where(flat, 1, k))

    # The last grid points have b just below 1 / max: log1p(-b x) is finite there, as steps < 0.
    k, ratio = jax.vmap(profile)(b)
    weight = jax.nn.softmax(count * (jnp.log(ratio) - k - 1))
    best = jnp.sum(weight * b)
    shape, ratio = profile(best)
    return (count * shape + 5) / (count + 10), top / ratio


def _tail_quantiles(shape: jax.Array, scale: jax.Array, prob: jax.Array) -> jax.Array:
    small = jnp.abs(shape) < 1e-4
    log = -jnp.log1p(-prob)
    return scale * jnp.where(small, log * (1 + shape * log / 2), jnp.expm1(shape * log) / jnp.where(small, 1, shape))


def _smooth(log_ratios, tail, grid):
    n = log_ratios.shape[0]
    logs = log_ratios - jnp.max(log_ratios)
    order = jnp.argsort(logs)
    ordered = logs[order]
    cut = ordered[n - tail - 1]
    base = jnp.where(jnp.isfinite(cut), cut, 0)
    excess = jnp.where(
        jnp.isfinite(cut), jnp.exp(base) * jnp.expm1(ordered[n - tail :] - base), jnp.exp(ordered[-tail:])
    )
    used = jnp.sum(excess > 0)
    least = excess[jnp.minimum(tail - used, tail - 1)]
    fits = (used > 4) & (excess[-1] > least)  # equal weights have no tail, wherever the others are
    safe = jnp.where(fits, excess, jnp.arange(1, tail + 1, dtype=excess.dtype))
    shape, scale = _fit_pareto(safe, jnp.where(fits, used, tail), grid)
    place = jnp.arange(tail) - (tail - used)
    prob = (place + 0.5).astype(excess.dtype) / jnp.maximum(used, 1)
    level = jnp.where(jnp.isfinite(cut), jnp.exp(base), 0)
    new = jnp.log(jnp.where(place >= 0, _tail_quantiles(shape, scale, jnp.where(place >= 0, prob, 0)), 0) + level)
    new = jnp.minimum(jnp.where(fits & (place >= 0) & jnp.isfinite(shape), new, ordered[n - tail :]), 0)
    smoothed = logs.at[order[n - tail :]].set(new)
    return Smoothed(smoothed - jax.nn.logsumexp(smoothed), jnp.where(fits, shape, jnp.nan))


_smooth_jit = jax.jit(_smooth, static_argnums=(1, 2))


def psis(log_ratios: Any, *, relative_efficiency: float = 1.0) -> Smoothed:
    """Smooth the largest importance weights by a generalised Pareto law, and say by its shape whether they suffice.

    The M = ceil(min(n / 5, 3 sqrt(n / relative_efficiency))) largest ratios are replaced by quantiles of the law fitted
    to them (profile posterior mean of Zhang and Stephens, shape shrunk to (M k + 5) / (M + 10)), none above the raw
    maximum. khat estimates the inverse of the number of finite moments: a proposal N(0, s^2) for N(0, 1) has
    k = 1 - s^2 (for s < 1). arviz' `psislw` takes log-likelihoods, whose negatives are the ratios here.

    Args:
        log_ratios: [n >= 25] log target - log proposal.
        relative_efficiency: ess / n of correlated draws (static), 1 for independent ones.

    Returns:
        `Smoothed(log_weights [n], khat)`; `snis(smoothed.log_weights, values)` uses them. khat is NaN where fewer than
        five weights exceed the others, so there is no tail to fit: equal weights, or few draws in the support.

    Raises:
        ValueError: for fewer than 25 draws, NaN or +inf, -inf throughout, or an efficiency that is not positive.

    Example:
        >>> import jax, jsamp as js
        >>> x = 0.7 * jax.random.normal(jax.random.key(0), (4000,))
        >>> found = js.estimate.psis(-x**2 / 2 + x**2 / (2 * 0.49))
        >>> 0.3 < float(found.khat) < 0.7  # the truth is 0.51
        True

    Cost:
        One sort and (30 + sqrt M) M logarithms.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", 2015, arXiv:1507.02646. Zhang
        and Stephens, "A new and efficient estimation method for the generalized Pareto distribution", 2009.
    """
    log_ratios = check_log_ratios("psis", log_ratios, low=25)
    _checks.check_number("psis: relative_efficiency", relative_efficiency, low=0, open_low=True)
    n = log_ratios.shape[0]
    tail = math.ceil(min(n / 5, 3 * math.sqrt(n / float(relative_efficiency))))
    return _smooth_jit(log_ratios, min(tail, n - 1), 30 + math.isqrt(tail))


@jax.jit
def _bridge(p_at_p, q_at_p, p_at_q, q_at_q):
    n, m = p_at_p.shape[0], p_at_q.shape[0]
    share_p, share_q = math.log(n / (n + m)), math.log(m / (n + m))
    at_p, at_q = q_at_p - p_at_p, p_at_q - q_at_q  # log q/p under p, log p/q under q

    def parts(r):
        # log of p/(s p + t r q) under q, and of r q/(s p + t r q) under p: both at most 1 / share.
        over_q = -jnp.logaddexp(share_p, share_q + r - at_q)
        over_p = -jnp.logaddexp(share_q, share_p - r - at_p)
        return over_q, over_p

    def log_mean(a):
        return jax.nn.logsumexp(a) - math.log(a.shape[0])

    def step(state):
        r, _, i = state
        over_q, over_p = parts(r)
        new = r + log_mean(over_q) - log_mean(over_p)
        return new, jnp.abs(new - r), i + 1

    tolerance = 4 * jnp.finfo(at_q.dtype).eps
    start = log_mean(at_q)
    start = jnp.where(jnp.isfinite(start), start, 0)
    r, _, _ = jax.lax.while_loop(
        lambda s: (s[1] > tolerance * (1 + jnp.abs(s[0]))) & (s[2] < 1000),
        step,
        (start, jnp.full_like(start, jnp.inf), 0),
    )
    # Relative variances of the two means at the solution.
    variance = sum(jnp.var(jnp.exp(a - log_mean(a)), ddof=1) / a.shape[0] for a in parts(r))
    return Estimate(r, jnp.sqrt(variance), 1 / variance)


def bridge(p_at_p: Any, q_at_p: Any, p_at_q: Any, q_at_q: Any) -> Estimate:
    """Estimate the log ratio of two normalising constants, log Z_p - log Z_q, from draws of both laws.

    The optimal bridge: r = mean_q[p / (s p + t r q)] / mean_p[q / (s p + t r q)] with s, t the shares of draws, solved
    by iteration in logs. With q normalised the value is the log-evidence of p. Its error assumes independent draws;
    thin a chain first, or multiply by sqrt(n / ess). An error near sqrt 2 (ess 0.5) is the largest that there can be:
    hardly a draw of one law lies where the other has mass, and the value is not to be trusted to any error.

    Args:
        p_at_p: [n] log p (unnormalised) at draws of p.
        q_at_p: [n] log q at draws of p.
        p_at_q: [m] log p at draws of q.
        q_at_q: [m] log q at draws of q.

    Returns:
        `Estimate` of log(Z_p / Z_q); ess = 1 / stderr^2, the number of draws of relative variance 1 with that error.

    Raises:
        ValueError: for fewer than two draws of either, NaN or +inf, or lengths that do not fit.

    Example:
        >>> import jax, jsamp as js
        >>> keys = jax.random.split(jax.random.key(0))
        >>> x, y = jax.random.normal(keys[0], (500,)), 2 * jax.random.normal(keys[1], (700,))
        >>> p, q = lambda x: -x**2 / 2, lambda x: -x**2 / 8
        >>> found = js.estimate.bridge(p(x), q(x), p(y), q(y))
        >>> bool(abs(found.value + 0.6931) < 4 * found.stderr)  # the ratio of constants is 1 / 2
        True

    Cost:
        About ten passes over the arrays.

    References:
        Meng and Wong, "Simulating ratios of normalizing constants via a simple identity", 1996.
    """
    names = ("p_at_p", "q_at_p", "p_at_q", "q_at_q")
    logs = [
        _arrays.array(f"bridge: {name}", value, "n", low=2, missing=True)
        for name, value in zip(names, (p_at_p, q_at_p, p_at_q, q_at_q), strict=True)
    ]
    _arrays.same_length("bridge", p_at_p=logs[0], q_at_p=logs[1])
    _arrays.same_length("bridge", p_at_q=logs[2], q_at_q=logs[3])
    for name, own, value in (("p_at_p", True, logs[0]), ("q_at_q", True, logs[3]), ("q_at_p", False, logs[1])):
        known = _checks.concrete(value)
        if known is not None and (np.any(known == np.inf) or (own and np.any(known == -np.inf))):
            raise ValueError(f"bridge: {name} holds inf; a law has a finite positive density at its own draws.")
    for other, own, p, q in (("p", "q", logs[1], logs[0]), ("q", "p", logs[2], logs[3])):
        gap = _checks.concrete(p - q)
        if gap is not None and np.all(gap == -np.inf):
            raise ValueError(f"bridge: {own} is 0 at every draw of {other}, so the two laws have no common support to "
                             f"compare them on. Go over laws between them, as js.mcmc.ais does.")  # fmt: skip
    return _bridge(*logs)
