"""Drivers of adaptive importance sampling: one call for expectations, one for Sobol' indices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._pytree import pytree
from jsamp._core._types import Key
from jsamp.estimate._adaptive import AdaptiveImportance
from jsamp.estimate._types import Estimate

_init = jax.jit(AdaptiveImportance.init)
_step = jax.jit(AdaptiveImportance.step)


@jax.jit
def _sums(method, key, state, used):
    """Sum and products of a block's per-draw terms and weights; only its first `used` draws count."""
    x = method.points(key, state, method.batch, final=True)
    terms, ratio = method.terms(state, x, *method._evaluate(x))
    live = (jnp.arange(method.batch) < used)[:, None]
    terms, ratio = jnp.where(live, terms, 0), jnp.where(live, ratio, 0)
    count = jnp.maximum(used, 1)
    mean = jnp.sum(terms, 0) / count
    gap = jnp.where(live, terms - mean[None], 0)
    return mean, jnp.matmul(gap.T, gap, precision="highest"), jnp.sum(ratio, 0), jnp.sum(ratio**2, 0)


def _run(key, method, num):
    """Adapt until it no longer pays, then average `num` - spent fresh draws: means, their covariance, ess."""
    keys = jax.random.split(key, 3)
    state = _init(method, keys[0])
    spent, before = method.batch, np.inf
    for stage in range(1, method.stages):
        state, info = _step(method, jax.random.fold_in(keys[1], stage), state)
        spent += method.batch
        now = float(info.variance)
        # The last batch has to pay for the draws it took from the final estimate.
        if stage > 1 and before / (num - spent + method.batch) <= now / (num - spent):
            break
        before = float(info.best)
    rest = num - spent
    blocks = -(-rest // method.batch)
    sizes = [min(method.batch, rest - i * method.batch) for i in range(blocks)]
    # Few numbers come back, and are added on the host in float64.
    parts = [_sums(method, jax.random.fold_in(keys[2], i), state, used) for i, used in enumerate(sizes)]
    mean, square, first, second = (np.stack([np.asarray(p[k], np.float64) for p in parts]) for k in range(4))
    share = np.asarray(sizes, np.float64)
    value = share @ mean / rest
    gap = mean - value
    covariance = (square.sum(0) + (gap * share[:, None]).T @ gap) / (rest - 1) / rest
    return value, covariance, first.sum(0) ** 2 / second.sum(0)


def _method(who, logdensity, values, draw, num, weight, stages, covariance, signed):
    num = _checks.check_count(f"{who}: num", num, low=200)
    stages = _checks.check_count(f"{who}: stages", stages, low=2)
    method = AdaptiveImportance(
        logdensity, values, draw, weight, max(num // (2 * stages), 10), stages, covariance, signed
    )
    return method, num


def adaptive_importance(
    key: Key, logdensity: Any, values: Any, draw: Any, num: int, *, weight: Any = None, stages: int = 5,
    covariance: str = "full", signed: bool = False,
) -> Estimate:  # fmt: skip
    """Estimate many expectations from one budget of evaluations, by adaptive importance sampling with control variates.

    Half of the budget at most adapts a mixture of Gaussians to all phi_j f_j (`AdaptiveImportance`); adaptation stops
    when a batch improved the weighted variance by less than the draws it took; the rest is drawn from the best mixture,
    so that the estimates are unbiased.

    Args:
        key: one key.
        logdensity: x [d] -> normalised log f(x), or [J], one law for each expectation.
        values: x [d] -> [J] phi_j(x); non-negative unless `signed`.
        draw: (key, num) -> [num, d] from f, or from the equal mixture of the J laws.
        num: evaluations in all.
        weight: [J] importance of each relative variance; None: all 1.
        stages: batches of the first half.
        covariance: "full" or "diagonal".
        signed: split functions that take both signs.

    Returns:
        `Estimate` of [J].

    Raises:
        ValueError: for num < 200 or < 10 (d + J), a weight that is not positive or not [J], an unknown covariance.
        TypeError: for what cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> found = js.estimate.adaptive_importance(
        ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2) - 0.9189385,
        ...     lambda x: jnp.stack([x[0] ** 4, x[0] ** 8]), lambda key, num: jax.random.normal(key, (num, 1)), 4000)
        >>> bool(jnp.all(abs(found.value - jnp.array([3.0, 105.0])) < 4 * found.stderr))
        True

    Cost:
        `num` evaluations, in blocks of num / (2 stages).

    References:
        Demange-Chryst, Bachoc and Morio, "Efficient estimation of multiple expectations with the same sample by
        adaptive importance sampling and control variates", 2022, arXiv:2212.00568.
    """
    _checks.check_key(key, "adaptive_importance")
    method, num = _method("adaptive_importance", logdensity, values, draw, num, weight, stages, covariance, signed)
    x = jax.eval_shape(lambda k: method.draw(k, 1), key)
    if len(x.shape) != 2:
        raise ValueError(f"adaptive_importance: draw(key, num) must give [num, d], got {x.shape} for num = 1.")
    y = jax.eval_shape(method.values, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    if len(y.shape) != 1 or num < 10 * (x.shape[1] + y.shape[0]):
        raise ValueError(
            f"adaptive_importance: values(x) must be [J] and num >= 10 (d + J); got {y.shape}, d = {x.shape[1]}, "
            f"num = {num}."
        )
    value, covariance_, size = _run(key, method, num)
    error = np.sqrt(np.diagonal(covariance_))
    dtype = jnp.promote_types(y.dtype, jnp.float32)  # counts and indicators are averaged, too
    return Estimate(*(jnp.asarray(a, dtype) for a in (value, error, size)))


@pytree
class _PickFreeze:
    """f(x) f(x_i, x'_rest) for every input i, then f and f^2, of a pair (x, x') [2 d]."""

    function: Any

    def __call__(self, pair):
        d = pair.shape[0] // 2
        x, other = pair[:d], pair[d:]
        mixed = jnp.where(jnp.eye(d, dtype=bool), x[None], other[None])
        y, z = self.function(x), jax.vmap(self.function)(mixed)
        return jnp.concatenate([y * z, jnp.stack([y, y**2])])


@pytree
class _PairDensity:
    logdensity: Any

    def __call__(self, pair):
        d = pair.shape[0] // 2
        return self.logdensity(pair[:d]) + self.logdensity(pair[d:])


@pytree
class _PairDraw:
    draw: Any

    def __call__(self, key, num):
        first, second = jax.random.split(key)
        return jnp.concatenate([self.draw(first, num), self.draw(second, num)], 1)


def sobol_importance(
    key: Key, logdensity: Any, function: Any, draw: Any, num: int, *, stages: int = 5, covariance: str = "full",
    signed: bool = False,
) -> Estimate:  # fmt: skip
    """Estimate first-order Sobol' indices by adaptive importance sampling of pairs of inputs.

    S_i = (E f(x) f(x_i, x'_rest) - (E f)^2) / (E f^2 - (E f)^2): d + 2 expectations over pairs (x, x') from one sample,
    with the error of the ratio by the delta method from their joint covariance.

    Args:
        key: one key.
        logdensity: x [d] -> normalised log density of the inputs.
        function: x [d] -> scalar, non-negative unless `signed`.
        draw: (key, num) -> [num, d] inputs.
        num: pairs in all; each costs d + 1 calls of the function.
        stages: batches of the adapting half.
        covariance: "full" or "diagonal".
        signed: whether the function takes both signs.

    Returns:
        `Estimate` of [d].

    Raises:
        ValueError: for num < 200, or an unknown covariance.
        TypeError: for what cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> found = js.estimate.sobol_importance(
        ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2) - 2 * 0.9189385, lambda x: 8 + 2 * x[0] + x[1],
        ...     lambda key, num: jax.random.normal(key, (num, 2)), 4000)
        >>> bool(jnp.all(abs(found.value - jnp.array([0.8, 0.2])) < 4 * found.stderr))
        True

    Cost:
        num (d + 1) calls of the function.

    References:
        Demange-Chryst, Bachoc and Morio, 2022, arXiv:2212.00568.
    """
    _checks.check_key(key, "sobol_importance")
    function = as_tree("sobol_importance: function", function, "function(x)")
    density = as_tree("sobol_importance: logdensity", logdensity, "logdensity(x)")
    drawn = as_tree("sobol_importance: draw", draw, "draw(key, num)")
    method, num = _method(
        "sobol_importance", _PairDensity(density), _PickFreeze(function), _PairDraw(drawn), num, None, stages,
        covariance, signed,
    )  # fmt: skip
    x = jax.eval_shape(lambda k: drawn(k, 1), key)
    value, joint, size = _run(key, method, num)
    first, mean, square = value[:-2], value[-2], value[-1]
    variance = square - mean**2
    index = (first - mean**2) / variance
    d = first.size
    slope = np.zeros((d, d + 2))
    slope[np.arange(d), np.arange(d)] = 1 / variance
    slope[:, -2] = 2 * mean * (index - 1) / variance
    slope[:, -1] = -index / variance
    error = np.sqrt(np.einsum("ij,jk,ik->i", slope, joint, slope))
    return Estimate(*(jnp.asarray(a, x.dtype) for a in (index, error, np.minimum(size[:-2], size[-1]))))
