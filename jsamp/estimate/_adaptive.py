"""Many expectations from one sample: adaptive importance sampling with control variates."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Key
from jsamp.estimate import _arrays
from jsamp.estimate._mixture import Mixture, best_shares, fit_gaussians, log_densities, mixture_points
from jsamp.estimate._types import Estimate
from jsamp.select import draw_categorical


class AdaptiveState(NamedTuple):
    """Hold the points seen and the mixtures made by adaptation.

    Args:
        x: [batch stages, d] points so far, the first batch from the laws themselves.
        logdensity: [batch stages, J] log f_j at them.
        values: [batch stages, J] phi_j at them.
        log_base: [batch stages] log density of the law that drew the first batch.
        used: rows of them that are filled.
        stage: batches so far.
        past: the mixtures that drew the batches after the first, stacked.
        next: the mixture that the next batch is drawn from.
        best: the mixture that `finish` draws from.
        variance: [J] variance of one draw under `best`, in units of scale^2.
        scale: [J] current size of each expectation.
        weight: [J] importance of each relative variance.
    """

    x: Any
    logdensity: Any
    values: Any
    log_base: Any
    used: Any
    stage: Any
    past: Any
    next: Any
    best: Any
    variance: Any
    scale: Any
    weight: Any


class AdaptiveInfo(NamedTuple):
    """Report on one step of adaptation.

    Args:
        variance: weighted variance of one draw under the mixture just tried.
        best: the same under the best mixture so far.
        spent: evaluations so far.

    Example:
        >>> import jsamp as js
        >>> js.estimate.AdaptiveInfo(variance=0.1, best=0.1, spent=400).spent
        400
    """

    variance: Any
    best: Any
    spent: Any


def _terms(logdensity, values, log_proposals, log_alpha, beta):
    """Per-draw estimates [n, J] of the expectations: beta_j + (phi_j f_j - beta_j g_j) / g_alpha."""
    log_mix = jax.nn.logsumexp(log_proposals + log_alpha[None], 1, keepdims=True)
    ratio = jnp.exp(logdensity - log_mix)
    return beta[None] + values * ratio - beta[None] * jnp.exp(log_proposals - log_mix), ratio


def _mean_of(terms, ratio):
    n = terms.shape[0]
    value = jnp.mean(terms, 0)
    error = _arrays.deviation(terms, 0) / math.sqrt(n)
    return Estimate(value, error, jnp.sum(ratio, 0) ** 2 / jnp.sum(ratio**2, 0))


_estimate_terms = jax.jit(lambda *args: _mean_of(*_terms(*args)))


def multiple_importance(logdensity: Any, values: Any, log_proposals: Any, alpha: Any, beta: Any) -> Estimate:
    """Estimate J expectations from draws of a mixture of J proposals, each a control variate of its own.

    value_j = beta_j + mean_n (phi_j f_j - beta_j g_j)(x_n) / g_alpha(x_n), g_alpha = sum_k alpha_k g_k: unbiased for
    any fixed alpha, beta, g. With g_j = phi_j f_j / I_j and beta_j = I_j every term is I_j: no variance, whatever
    alpha.

    Args:
        logdensity: [n, J] (or [n], one law for all) normalised log f_j at draws of g_alpha.
        values: [n, J] phi_j at the draws.
        log_proposals: [n, J] normalised log g_j at the draws.
        alpha: [J] shares of the proposals, positive, summing to 1.
        beta: [J] multiples of the control variates; 0 gives plain mixture importance sampling.

    Returns:
        `Estimate` of [J]; ess from the weights f_j / g_alpha.

    Raises:
        ValueError: for shapes that do not fit, or shares that are negative or do not sum to 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> x = jax.random.normal(jax.random.key(0), (100,)) + 1
        >>> normal = lambda m: -0.5 * (x - m) ** 2 - 0.9189385
        >>> found = js.estimate.multiple_importance(  # E exp(X) under N(0, 1), exactly, from 100 draws
        ...     normal(0.0), jnp.exp(x)[:, None], normal(1.0)[:, None], jnp.ones(1), jnp.array([1.6487213]))
        >>> round(float(found.value[0]), 4), float(found.stderr[0]) < 1e-5
        (1.6487, True)

    Cost:
        One pass over [n, J].

    References:
        Demange-Chryst, Bachoc and Morio, "Efficient estimation of multiple expectations with the same sample by
        adaptive importance sampling and control variates", 2022, arXiv:2212.00568.
    """
    values = _arrays.array("multiple_importance: values", values, "n J", low=2)
    n, num = values.shape
    logs = _arrays.array("multiple_importance: logdensity", logdensity, "...", missing=True)
    logs = logs[:, None] if logs.ndim == 1 else logs
    proposals = _arrays.array("multiple_importance: log_proposals", log_proposals, "n J", missing=True)
    alpha = _arrays.array("multiple_importance: alpha", alpha, "J")
    beta = _arrays.array("multiple_importance: beta", beta, "J")
    wrong = [
        f"{name} {shape}"
        for name, shape, fits in (
            ("logdensity", logs.shape, logs.shape in ((n, num), (n, 1))),
            ("log_proposals", proposals.shape, proposals.shape == (n, num)),
            ("alpha", alpha.shape, alpha.shape == (num,)),
            ("beta", beta.shape, beta.shape == (num,)),
        )
        if not fits
    ]
    if wrong:
        raise ValueError(f"multiple_importance: values are {values.shape}, which does not fit {', '.join(wrong)}.")
    known = _checks.concrete(alpha)
    if known is not None and (np.any(known < 0) or abs(known.sum() - 1) > 1e-3):
        raise ValueError(f"multiple_importance: alpha must be >= 0 and sum to 1, got sum {known.sum():.6g}.")
    return _estimate_terms(jnp.broadcast_to(logs, (n, num)), values, proposals, jnp.log(alpha), beta)


@pytree
class AdaptiveImportance:
    """Adapt a mixture of Gaussian proposals, one per expectation, and estimate all expectations from its draws.

    `init` draws a first batch from the laws themselves. Each `step` fits one Gaussian to each phi_j f_j by
    cross-entropy on all points so far, finds the shares alpha that minimise sum_j w_j Var_j, draws a batch, and fits
    the control multiples beta on it. `finish` draws afresh from the best mixture, frozen, so the estimates are
    unbiased. For a model outside JAX: `points` gives where to evaluate, `start`, `absorb` and `conclude` take the
    values.

    Args:
        logdensity: x [d] -> normalised log f(x), or [J], one law for each expectation.
        values: x [d] -> [J] phi_j(x), non-negative unless `signed`.
        draw: (key, num) -> [num, d] from f, or from the equal mixture of the J laws.
        weight: [J] importance of each *relative* variance, positive; None: all 1.
        batch: draws of each stage (static).
        stages: most batches, the first included (static).
        covariance: "full" or "diagonal" proposals (static); diagonal in high dimensions.
        signed: whether phi_j may be negative (static): phi is then split into positive and negative parts, which
            doubles the proposals.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> method = js.estimate.AdaptiveImportance(
        ...     lambda x: -0.5 * jnp.sum(x**2) - 0.9189385, lambda x: jnp.stack([x[0] ** 2, x[0] ** 4]),
        ...     lambda key, num: jax.random.normal(key, (num, 1)), batch=200)
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> state, _ = method.step(keys[1], method.init(keys[0]))
        >>> found = method.finish(keys[2], state, 1000)
        >>> bool(jnp.all(abs(found.value - jnp.array([1.0, 3.0])) < 4 * found.stderr))
        True

    Cost:
        `batch` evaluations a stage; J densities of every point, J Cholesky factors.

    References:
        Demange-Chryst, Bachoc and Morio, 2022, arXiv:2212.00568 (their code keeps the newest mixture and cannot take
        signed functions; here the best is kept, and shares come from a multiplicative update instead of SLSQP).
    """

    logdensity: Any = field(convert=_fields.callable_as("logdensity(x)"))
    values: Any = field(convert=_fields.callable_as("values(x)"))
    draw: Any = field(convert=_fields.callable_as("draw(key, num)"))
    weight: Any = field(default=None, check=_fields.number(0, open_low=True, optional=True))
    batch: int = static(default=1000, convert=_fields.count(10))
    stages: int = static(default=5, convert=_fields.count(2))
    covariance: str = static(default="full", check=_fields.one_of("full", "diagonal"))
    signed: bool = static(default=False, convert=_checks.check_flag)

    def _evaluate(self, x):
        return jax.vmap(self.logdensity)(x), jax.vmap(self.values)(x)

    def _prepare(self, who, x, logdensity, values):
        x = _arrays.array(f"{who}: x", x, "n d", low=2)
        values = _arrays.array(f"{who}: values", values, "n J", low=2)
        logs = _arrays.array(f"{who}: logdensity", logdensity, "...", low=2, missing=True)
        logs = logs[:, None] if logs.ndim == 1 else logs
        if logs.shape[0] != x.shape[0] or values.shape[0] != x.shape[0] or logs.shape[1] not in (1, values.shape[1]):
            raise ValueError(f"{who}: x {x.shape}, values {values.shape} and logdensity {logs.shape} do not fit.")
        known = _checks.concrete(values)
        if known is not None and not self.signed and np.any(known < 0):
            raise ValueError(f"{who}: values must be >= 0, got {known.min():.4g}. Pass signed=True to split them.")
        base = jax.nn.logsumexp(logs, 1) - math.log(logs.shape[1])
        logs = jnp.broadcast_to(logs, values.shape)
        values = jnp.where(jnp.isneginf(logs), 0, values)  # beyond a law's support they may be anything, NaN as well
        if self.signed:
            values, logs = jnp.concatenate([jnp.maximum(values, 0), jnp.maximum(-values, 0)], 1), jnp.tile(logs, (1, 2))
        return x, logs, values, base

    def init(self, key: Key) -> AdaptiveState:
        """Draw and evaluate the first batch."""
        _checks.check_key(key, "AdaptiveImportance.init")
        x = self.draw(key, self.batch)
        return self.start(x, *_evaluate(self, x))

    def start(self, x: Any, logdensity: Any, values: Any) -> AdaptiveState:
        """Begin with values [batch, J] and log densities at points [batch, d] drawn from the laws."""
        x, logs, values, base = self._prepare("AdaptiveImportance.start", x, logdensity, values)
        if x.shape[0] != self.batch:
            raise ValueError(f"AdaptiveImportance.start: want {self.batch} points (batch), got {x.shape[0]}.")
        num, d, rows = values.shape[1], x.shape[1], self.batch * self.stages
        pad = lambda a: jnp.zeros((rows, *a.shape[1:]), a.dtype).at[: self.batch].set(a)
        weight = jnp.ones(num) if self.weight is None else jnp.asarray(self.weight, values.dtype)
        if self.weight is not None:
            wanted = num // (1 + self.signed)
            if weight.shape not in ((), (1,), (wanted,)):
                raise ValueError(
                    f"AdaptiveImportance: weight must be [{wanted}], one for each of values; got {weight.shape}."
                )
            weight = jnp.tile(jnp.broadcast_to(weight, (wanted,)), 1 + self.signed)
        blank = Mixture(
            jnp.full(num, -math.log(num)), jnp.zeros(num), jnp.zeros((num, d)), jnp.tile(jnp.eye(d)[None], (num, 1, 1))
        )
        past = jax.tree.map(lambda a: jnp.broadcast_to(a, (self.stages, *a.shape)), blank)
        state = AdaptiveState(
            pad(x), pad(logs), pad(values), pad(base), jnp.asarray(self.batch), jnp.asarray(1), past, blank, blank,
            jnp.full(num, jnp.inf), jnp.ones(num), weight,
        )  # fmt: skip
        return _plan(self, state, True)

    def _log_seen(self, state, x, base):
        """Log density of the mixture of everything that has drawn points, each by its share of them."""
        mixed = lambda m: jax.nn.logsumexp(log_densities(m, x) + m.log_alpha[None], 1)
        # One mixture at a time: batched triangular solves take twice as long, and stages to come have no density yet.
        live = jnp.arange(self.stages) < state.stage
        logs = jax.lax.map(lambda pair: jax.lax.cond(pair[0], mixed, lambda _: base, pair[1]), (live, state.past))
        logs = logs.at[0].set(base)
        return jax.nn.logsumexp(jnp.where(live[:, None], logs, -jnp.inf), 0) - jnp.log(state.stage)

    def _plan(self, state, first=False):
        """Fit the next mixture to all points so far."""
        live = jnp.arange(state.x.shape[0]) < state.used
        seen = self._log_seen(state, state.x, state.log_base)
        ratio = jnp.where(live[:, None], jnp.exp(state.logdensity - seen[:, None]), 0)
        mass = ratio * state.values
        mean = jnp.sum(mass, 0) / state.used
        scale = jnp.where(mean > 0, mean, 1)
        means, factors = fit_gaussians(mass, state.x, live, self.covariance == "diagonal")
        beta = jnp.where(mean > 0, 1.0, 0.0) if first else state.next.beta / state.scale
        start = jnp.sqrt(state.weight)
        mixture = Mixture(jnp.log(start / jnp.sum(start)), beta, means, factors)
        gap = mass / scale[None]
        proposals = jnp.exp(log_densities(mixture, state.x) - seen[:, None])
        cost = jnp.where(live, jnp.sum(state.weight[None] * (gap - beta[None] * proposals) ** 2, 1), 0)
        alpha = best_shares(cost, proposals, live, jnp.exp(mixture.log_alpha))
        mixture = mixture._replace(log_alpha=jnp.log(alpha), beta=beta * scale)
        return state._replace(next=mixture, scale=scale, variance=state.variance * (state.scale / scale) ** 2)

    def points(self, key: Key, state: AdaptiveState, num: int, *, final: bool = False) -> jax.Array:
        """Draw where to evaluate: [num, d] from the mixture to be tried, or with `final` from the best one."""
        _checks.check_key(key, "AdaptiveImportance.points")
        num = _checks.check_count("AdaptiveImportance.points: num", num)
        mixture = state.best if final else state.next
        which, normal = jax.random.split(key)
        index = draw_categorical(which, mixture.log_alpha, (num,))
        return mixture_points(normal, mixture, index)

    def absorb(self, state: AdaptiveState, x: Any, logdensity: Any, values: Any) -> tuple[AdaptiveState, AdaptiveInfo]:
        """Take the values at `points`, judge the mixture that drew them, and plan the next."""
        x, logs, values, base = self._prepare("AdaptiveImportance.absorb", x, logdensity, values)
        if x.shape[0] != self.batch:
            raise ValueError(f"AdaptiveImportance.absorb: want {self.batch} points (batch), got {x.shape[0]}.")
        known = _checks.concrete(state.stage)
        if known is not None and known >= self.stages:
            raise ValueError(f"AdaptiveImportance: all {self.stages} stages are spent. Finish, or allow more stages.")
        return _absorb(self, state, x, logs, values, base)

    def _absorb(self, state, x, logs, values, base):
        """Judge the mixture that drew a batch, keep it if it is better, and plan the next."""
        mixture, scale = state.next, state.scale
        proposals = log_densities(mixture, x)
        log_mix = jax.nn.logsumexp(proposals + mixture.log_alpha[None], 1, keepdims=True)
        share, term = jnp.exp(proposals - log_mix), values / scale[None] * jnp.exp(logs - log_mix)
        spread = jnp.var(share, axis=0)
        moved = share - jnp.mean(share, 0, keepdims=True)
        beta = jnp.where(spread > 1e-10, jnp.mean(moved * term, 0) / jnp.where(spread > 1e-10, spread, 1), 0)
        variance = jnp.var(term - beta[None] * share, axis=0, ddof=1)
        mixture = mixture._replace(beta=beta * scale)
        total, before = jnp.sum(state.weight * variance), jnp.sum(state.weight * state.variance)
        better = total <= before
        choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)
        write = lambda pool, new: jax.lax.dynamic_update_slice_in_dim(pool, new, state.used, 0)
        state = state._replace(
            x=write(state.x, x), logdensity=write(state.logdensity, logs), values=write(state.values, values),
            log_base=write(state.log_base, base), used=state.used + self.batch, stage=state.stage + 1,
            past=jax.tree.map(lambda pool, new: pool.at[state.stage].set(new), state.past, mixture),
            next=mixture, best=choose(mixture, state.best), variance=choose(variance, state.variance),
        )  # fmt: skip
        info = AdaptiveInfo(total, jnp.minimum(total, before), state.used)
        return self._plan(state), info

    def step(self, key: Key, state: AdaptiveState) -> tuple[AdaptiveState, AdaptiveInfo]:
        """Draw and evaluate one batch from the next mixture, and adapt to it."""
        x = self.points(key, state, self.batch)
        return self.absorb(state, x, *_evaluate(self, x))

    def finish(self, key: Key, state: AdaptiveState, num: int) -> Estimate:
        """Estimate the J expectations from `num` fresh draws of the best mixture."""
        x = self.points(key, state, num, final=True)
        return self.conclude(state, x, *_evaluate(self, x))

    def conclude(self, state: AdaptiveState, x: Any, logdensity: Any, values: Any) -> Estimate:
        """Estimate the J expectations from values at `points(..., final=True)`."""
        terms, ratio = self.terms(state, x, logdensity, values)
        return _mean_of(terms, ratio)

    def terms(self, state: AdaptiveState, x: Any, logdensity: Any, values: Any) -> tuple[jax.Array, jax.Array]:
        """Per-draw estimates and weights [n, J], whose means and covariance give every smooth function of them."""
        x, logs, values, _ = self._prepare("AdaptiveImportance.conclude", x, logdensity, values)
        known = _checks.concrete(state.stage)
        if known is not None and known < 2:
            raise ValueError("AdaptiveImportance: no mixture was tried yet. Call step at least once before finish.")
        terms, ratio = _best_terms(state.best, x, logs, values)
        if self.signed:
            half = terms.shape[1] // 2
            terms, ratio = terms[:, :half] - terms[:, half:], ratio[:, :half]
        return terms, ratio


# Programs of the parts that do arithmetic: a step outside jit costs four calls and not hundreds.
_evaluate = jax.jit(AdaptiveImportance._evaluate)
_plan = jax.jit(AdaptiveImportance._plan, static_argnums=2)
_absorb = jax.jit(AdaptiveImportance._absorb)
_best_terms = jax.jit(
    lambda best, x, logs, values: _terms(logs, values, log_densities(best, x), best.log_alpha, best.beta)
)
