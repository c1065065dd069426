"""Pathfinder: normal approximations along the way uphill, the best of which gives draws, starts and a metric."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._log_weights import log_mean_exp
from jsamp._core._mesh import vary
from jsamp._core._pytree import replace
from jsamp._core._types import Key, LogDensity, Result, Tree
from jsamp.estimate import psis
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _lbfgs
from jsamp.mcmc._lbfgs import times
from jsamp.mcmc._metric import DenseMetric
from jsamp.select import draw

LAST = 2**31 - 1  # the fold of the key that draws; the search folds in 0
FIT_FROM = 25  # importance weights, below which no Pareto tail is fitted


class PathfinderInfo(NamedTuple):
    """Report the approximation that `pathfinder` drew from; with several paths, elbo and ok are [paths].

    Args:
        elbo: mean of log density - log q over draws of the best approximation q; no more than the log-evidence.
        log_weights: [num] of the draws, log density - log q; all zero after resampling (several paths).
        khat: Pareto shape of the importance weights; above 0.7 the approximation is a start, not an answer.
            -inf where they are all equal, NaN below 25 draws.
        metric: covariance of the best q, as a kernel's `metric`: variances like x, or a `DenseMetric`.
        nfe: evaluations of the log-density, int32, all paths together.
        ok: the path learned some curvature and its elbo is finite.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.PathfinderInfo._fields[:3]
        ('elbo', 'log_weights', 'khat')
    """

    elbo: Any
    log_weights: Any
    khat: Any
    metric: Any
    nfe: Any
    ok: Any


class _Normal(NamedTuple):
    """Hold a normal law: its covariance is root (I + Q (F F^T - I) Q^T) root, with root [d] and Q [d, r]."""

    mean: Any
    root: Any
    basis: Any
    factor: Any


def _normal_at(x: Any, grad: Any, c: _lbfgs.Curvature) -> _Normal:
    """The normal law whose log-density has this gradient at x and this inverse Hessian."""
    wide, core = _lbfgs.low_rank(c)
    root = jnp.sqrt(c.scale)
    basis, upper = jnp.linalg.qr(wide / root[:, None])
    inner = times(upper, times(core, upper.T))
    factor = jnp.linalg.cholesky(jnp.eye(inner.shape[0], dtype=inner.dtype) + (inner + inner.T) / 2)
    return _Normal(x + _lbfgs.apply_inverse(c, grad), root, basis, factor)


def _draw_normal(q: _Normal, noise: Any) -> tuple[jax.Array, jax.Array]:
    """Draws [num, d] that standard normals [num, d] turn into, and their log-densities [num]."""
    inside = times(noise, q.basis)
    bent = noise + times(times(inside, q.factor.T) - inside, q.basis.T)
    return q.mean[None] + bent * q.root[None], _log_normal(q, noise)


def _log_normal(q: _Normal, noise: Any) -> jax.Array:
    """Log-densities [num] of the draws that standard normals [num, d] turn into."""
    log_det = jnp.sum(jnp.log(q.root)) + jnp.sum(jnp.log(jnp.diagonal(q.factor)))
    return -jnp.sum(noise**2, 1) / 2 - log_det - q.mean.shape[0] / 2 * math.log(2 * math.pi)


def _log_density(q: _Normal, x: Any) -> jax.Array:
    """Log-densities [num] at x [num, d]; -inf for a law with numbers that are not finite."""
    bent = (x - q.mean[None]) / q.root[None]
    inside = times(bent, q.basis)
    # The small inverse, not a solve for every draw: LAPACK on CPU starts threads for many right-hand sides.
    unit = jnp.eye(q.factor.shape[0], dtype=q.factor.dtype)
    straight = times(inside, jax.scipy.linalg.solve_triangular(q.factor, unit, lower=True).T)
    value = _log_normal(q, bent + times(straight - inside, q.basis.T))
    return jnp.where(jnp.isnan(value), -jnp.inf, value)


class _Search(NamedTuple):
    """Hold the ascent and the best approximation on its way."""

    ascent: _lbfgs.Ascent
    steps: Any
    elbo: Any
    best: tuple  # position, gradient, curvature


def _one_path(key, logdensity, x, max_steps, *, memory, elbo_draws):
    """Search one path: (elbo, position, gradient and curvature of the best approximation, evaluations)."""
    flat, unravel = ravel_pytree(x)
    dtype = k.dtype_of(x)
    flat = flat.astype(dtype)

    def evaluate(flat):
        value, grad = k.evaluate_both(logdensity, unravel(flat))
        return value, ravel_pytree(grad)[0].astype(dtype)

    value = jax.vmap(lambda flat: k.value(logdensity, unravel(flat)))
    # At a stationary point there is no way to go: leave it.
    stuck = jnp.all(evaluate(flat)[1] == 0)
    away = flat + 0.1 * jax.random.normal(key, flat.shape, dtype)
    began = _lbfgs.start(evaluate, jnp.where(stuck, away, flat), memory)
    noise = jax.random.normal(jax.random.fold_in(key, 0), (elbo_draws, flat.size), dtype)

    def body(s):
        ascent = _lbfgs.climb(evaluate, s.ascent)
        here = (ascent.x, ascent.grad, ascent.curvature)
        draws, log_q = _draw_normal(_normal_at(*here), noise)
        elbo = jnp.mean(value(draws) - log_q)
        elbo = jnp.where(jnp.isfinite(elbo) & (ascent.pairs > 0), elbo, -jnp.inf)
        best = jax.tree.map(lambda new, old: jnp.where(elbo > s.elbo, new, old), here, s.best)
        return _Search(ascent, s.steps + 1, jnp.maximum(elbo, s.elbo), best)

    zero = jnp.zeros((), jnp.int32)
    first = _Search(began, zero, jnp.full((), -jnp.inf, dtype), (began.x, began.grad, began.curvature))
    first = vary(first, key, logdensity, x, max_steps)
    s = jax.lax.while_loop(lambda s: s.ascent.running & (s.steps < max_steps), body, first)
    return s.elbo, s.best, (s.ascent.nfe + 1 + s.steps * elbo_draws).astype(jnp.int32)


def _metric(c: _lbfgs.Curvature, kind: str, x: Any) -> Any:
    """The inverse Hessian as a metric."""
    wide, core = _lbfgs.low_rank(c)
    half = times(wide, core)
    if kind == "dense":
        matrix = jnp.diag(c.scale) + times(half, wide.T)
        return replace(DenseMetric(np.eye(1)), factor=jnp.linalg.cholesky((matrix + matrix.T) / 2))
    flat, unravel = ravel_pytree(x)
    return unravel((c.scale + jnp.sum(half * wide, 1)).astype(flat.dtype))


@functools.partial(jax.jit, static_argnames=("num", "memory", "elbo_draws", "metric", "many"))
def _pathfinder(key, logdensity, x, max_steps, *, num, memory, elbo_draws, metric, many):
    search = functools.partial(_one_path, memory=memory, elbo_draws=elbo_draws)
    starts = x if many else jax.tree.map(lambda leaf: leaf[None], x)
    one = jax.tree.map(lambda leaf: leaf[0], starts)
    keys = jax.random.split(key, jax.tree.leaves(starts)[0].shape[0])
    elbo, best, nfe = jax.vmap(lambda key, x: search(key, logdensity, x, max_steps))(keys, starts)
    normals = jax.vmap(_normal_at)(*best)
    shape = (num, normals.mean.shape[1])
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, LAST), shape, normals.mean.dtype))(keys)
    draws, _ = jax.vmap(_draw_normal)(normals, noise)
    draws = draws.reshape(-1, draws.shape[-1])
    flat, unravel = ravel_pytree(one)
    back = lambda x: k.like(unravel(x.astype(flat.dtype)), one)
    log_p = jax.vmap(lambda x: k.value(logdensity, back(x)))(draws)
    # One law made of all paths: paths that end at one mode share its weight.
    log_q = log_mean_exp(jax.vmap(lambda q: _log_density(q, draws))(normals))
    log_weights = jnp.where(jnp.isnan(log_p - log_q), -jnp.inf, log_p - log_q)
    smooth, khat = _smoothed(log_weights)
    if many:
        pick = draw(jax.random.fold_in(key, LAST), jnp.exp(smooth), num, scheme="multinomial").index
        draws, log_weights = draws[pick], jnp.zeros(num, log_weights.dtype)
    curvature = jax.tree.map(lambda leaf: leaf[jnp.argmax(elbo)], best[2])
    nfe = jnp.sum(nfe, dtype=jnp.int32) + log_p.shape[0]
    elbo = elbo if many else elbo[0]
    info = PathfinderInfo(elbo, log_weights, khat, _metric(curvature, metric, one), nfe, jnp.isfinite(elbo))
    return Result(jax.vmap(back)(draws), info)


def _smoothed(log_weights):
    """Smooth the importance weights: (log-weights, khat); equal weights where no draw lies in the support."""
    any_inside = jnp.any(jnp.isfinite(log_weights))
    safe = jnp.where(any_inside, log_weights, 0)
    if log_weights.shape[0] < FIT_FROM:
        return jax.nn.log_softmax(safe), jnp.full((), jnp.nan, safe.dtype)
    found = psis(safe)
    khat = jnp.where(jnp.isnan(found.khat), -jnp.inf, found.khat)  # no spread at all: the best there is
    return found.log_weights, jnp.where(any_inside, khat, jnp.inf)


def pathfinder(
    key: Key,
    logdensity: LogDensity,
    x: Tree,
    num: int = 1000,
    *,
    paths: int | None = None,
    memory: int = 6,
    max_steps: int = 100,
    elbo_draws: int = 25,
    metric: Literal["diagonal", "dense"] = "diagonal",
) -> Result:
    """Draw from the best normal approximation met on a quasi-Newton path uphill; a fast answer, or start and metric.

    L-BFGS climbs from x. At every iterate the gradient and the inverse Hessian estimate make a normal law (mean
    x + H g, covariance H); the one with the largest evidence lower bound is drawn from. The bounds of one path share
    their normal draws (the paper's are fresh at every iterate), so that they differ by the laws alone. Several paths
    pool `num` draws each, weight them as draws of the mixture of all (the paper weights each by its own path's law, so
    that a mode with more paths counts more), and resample `num` by Pareto-smoothed weights. Start in the tails, not at
    the mode: the path is what is searched.

    Args:
        key: one JAX key.
        logdensity: log-density of one sample up to a constant.
        x: start position; with `paths`, a leading axis [paths].
        num: draws (static).
        paths: number of paths over the leading axis of x, or None for one.
        memory: pairs that the inverse Hessian is made of (static).
        max_steps: bound on the quasi-Newton steps; a path ends by itself where a step gains less than 1e-4 nats.
        elbo_draws: draws that estimate each lower bound (static).
        metric: form of `info.metric`, "diagonal" (variances like x) or "dense" (a `DenseMetric`).

    Returns:
        `Result(x, info)`: draws [num, ...] and a `PathfinderInfo`.

    Raises:
        TypeError: for a position that is not floating, or below float32.
        ValueError: for counts below 1, an unknown metric, or a log-density that is not finite at a concrete start.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> f = lambda x: -jnp.sum(((x - 1) / 3) ** 2) / 2
        >>> draws, info = js.mcmc.pathfinder(jax.random.key(0), f, jnp.zeros(2), 100)
        >>> kernel = js.mcmc.NUTS(f, metric=info.metric)
        >>> draws.shape, bool(abs(info.metric[0] - 9) < 0.1)
        ((100, 2), True)

    Cost:
        About steps (1 + elbo_draws) + num evaluations per path; memory 2 d `memory` numbers. Paths run to the longest.

    References:
        Zhang, Carpenter, Gelman and Vehtari, "Pathfinder: parallel quasi-Newton variational inference", 2022,
        arXiv:2108.03782; Gilbert and Lemarechal, "Some numerical experiments with variable-storage quasi-Newton
        algorithms", 1989; Byrd, Nocedal and Schnabel, "Representations of quasi-Newton matrices", 1994.
    """
    _checks.check_key(key, "pathfinder")
    logdensity = as_tree("pathfinder: logdensity", logdensity, "logdensity(x)")
    for name, value in (("num", num), ("memory", memory), ("elbo_draws", elbo_draws)):
        _checks.check_count(f"pathfinder: {name}", value)
    _checks.check_scalar("pathfinder: max_steps", max_steps, low=1, high=2**31 - 1)
    _checks.check_choice("pathfinder: metric", metric, ("diagonal", "dense"))
    x = k.position("pathfinder", x)
    if paths is not None:
        _checks.check_count("pathfinder: paths", paths)
        if k.leading_axis("pathfinder: x", "paths", x) != paths:
            raise ValueError(f"pathfinder: with paths={paths}, x needs that leading axis. Stack one start per path.")
    _check_start(logdensity, x, paths)
    options: dict[str, Any] = {"num": num, "memory": memory, "elbo_draws": elbo_draws, "metric": metric}
    return _pathfinder(key, logdensity, x, jnp.asarray(max_steps, jnp.int32), many=paths is not None, **options)


def _check_start(logdensity, x, paths):
    """Refuse concrete starts where the log-density or its gradient is not finite."""
    if _checks.is_traced(x, logdensity):
        return
    both = jax.value_and_grad(functools.partial(k.value, logdensity))
    values, slopes = both(x) if paths is None else jax.vmap(both)(x)
    values = np.asarray(values)
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"pathfinder: the log-density at the start is {values.ravel()[~np.isfinite(values).ravel()][0]}. Start "
            f"inside the support."
        )
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes)):
        raise ValueError(
            "pathfinder: the gradient of the log-density at the start is not finite; no path leaves such a point. "
            "Choose another x."
        )
