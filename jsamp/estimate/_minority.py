"""How rare a sample is, as a denoiser sees it, and labels by quantiles of that."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _tree
from jsamp._core._types import Key, Model, Scalar, Tree
from jsamp.estimate._arrays import deviation
from jsamp.estimate._types import Estimate
from jsamp.noise._protocol import check_times


def _squared_distance(a: Any, b: Any) -> Any:
    """Sum of squared differences over the whole tree."""
    gap = jax.tree.map(jnp.subtract, a, b)
    return _tree.dot(gap, gap)


def minority_score(
    key: Key, denoiser: Model, x0: Tree, t: Scalar, *, num: int = 5, distance: Any = _squared_distance
) -> Estimate:
    """Score how rare a sample is: how far the denoiser moves it when it is noised and denoised. High is rare.

    l(x0) = E distance(x0, D(alpha x0 + sigma eps, t)). A denoiser pulls what is rare towards what is common, most where
    the noise is about as large as the distance between modes: t matters (the paper's code takes 0.6 of a linear
    schedule). For data N(0, s^2 I) and squared distance l = (1 - k)^2 |x0|^2 + k^2 (sigma / alpha)^2 dim with
    k = alpha^2 s^2 / (alpha^2 s^2 + sigma^2): it orders samples as -log p does.

    Args:
        key: one key.
        denoiser: callable tree (x, t) -> Prediction, with a `schedule`.
        x0: one clean sample, any shape or tree; `jax.vmap` over samples and keys.
        t: the time at which to noise it.
        num: number of noise draws (static).
        distance: (x0, prediction) -> scalar; squared differences by default, or a perceptual distance.

    Returns:
        `Estimate(value, stderr, ess)` of scalars.

    Raises:
        TypeError: for a denoiser or a distance that cannot be called, or a denoiser without a schedule.
        ValueError: for fewer than one draw, or a t without signal (alpha = 0).

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> score = lambda x0: js.estimate.minority_score(jax.random.key(0), law, x0, 1.0, num=100).value
        >>> bool(score(jnp.array([3.0])) > score(jnp.array([0.1])))
        True

    Cost:
        `num` calls of the denoiser.

    References:
        Um, Lee and Ye, "Don't Play Favorites: Minority Guidance for Diffusion Models", 2024, arXiv:2301.12334.
    """
    _checks.check_key(key, "minority_score")
    _checks.check_callable("minority_score: denoiser", denoiser, "denoiser(x, t)")
    _checks.check_callable("minority_score: distance", distance, "distance(x0, prediction)")
    _checks.check_floating("minority_score: x0", x0)
    _checks.check_count("minority_score: num", num)
    _checks.check_scalar("minority_score: t", t)
    for leaf in jax.tree.leaves(x0):
        _checks.check_finite("minority_score: x0", leaf)
    if not hasattr(denoiser, "schedule"):
        raise TypeError("minority_score: denoiser must have a schedule. Wrap the network in js.Denoiser.")
    check_times("minority_score: t", denoiser.schedule, t)
    x0 = jax.tree.map(jnp.asarray, x0)
    t = jnp.asarray(t, jnp.result_type(*jax.tree.leaves(x0)))
    alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
    known = _checks.concrete(alpha)
    if known is not None and not known > 0:
        raise ValueError(f"minority_score: alpha = {known} at t = {t}, so nothing of x0 is left. Take a smaller t.")

    def one(key):
        x = jax.tree.map(lambda v, z: alpha * v + sigma * z, x0, _tree.normal_like(key, x0))
        return distance(x0, denoiser(x, t).x0)

    values = jax.vmap(one)(jax.random.split(key, num))
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    spread = deviation(values) if num > 1 else jnp.full((), jnp.nan, values.dtype)
    value = jnp.mean(values)
    error = jnp.where(jnp.isinf(value), jnp.inf, spread / float(np.sqrt(num)))
    return Estimate(value, error, jnp.asarray(num, values.dtype))


class QuantileLabels(NamedTuple):
    """Hold labels by quantiles of a score.

    Args:
        label: [n] level of each score, 0 the lowest.
        threshold: [levels - 1] where one level ends and the next begins.
        count: [levels] scores in each level; 0 where ties leave a level empty.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.estimate.quantile_labels(jnp.array([3.0, 1.0, 2.0, 4.0]), 2).label.tolist()
        [1, 0, 0, 1]
    """

    label: Any
    threshold: Any
    count: Any


def quantile_labels(scores: Any, levels: int) -> QuantileLabels:
    """Cut scores into levels of equal size: level j holds the scores in (q_j, q_(j+1)], q the quantiles.

    Args:
        scores: [n] real numbers, for example minority scores.
        levels: number of levels (static), 2 to n.

    Returns:
        `QuantileLabels(label, threshold, count)`.

    Raises:
        ValueError: for scores that are not a vector, not finite or all equal, or more levels than scores.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.estimate.quantile_labels(jnp.arange(6.0), 3).count.tolist()
        [2, 2, 2]

    Cost:
        One sort.

    References:
        Um, Lee and Ye, "Don't Play Favorites: Minority Guidance for Diffusion Models", 2024, arXiv:2301.12334.
    """
    _checks.check_number("quantile_labels: scores", scores)
    if np.ndim(scores) != 1:
        raise ValueError(f"quantile_labels: scores must be [n], got shape {np.shape(scores)}.")
    levels = _checks.check_count("quantile_labels: levels", levels, low=2, high=np.shape(scores)[0])
    known = _checks.concrete(scores)
    if known is not None and known.min() == known.max():
        raise ValueError(f"quantile_labels: all scores are {known.min()}, so they have no quantiles.")
    scores = jnp.asarray(scores)
    threshold = jnp.quantile(scores, jnp.arange(1, levels) / levels)
    label = jnp.searchsorted(threshold, scores, side="left")
    return QuantileLabels(label, threshold, jnp.zeros(levels, label.dtype).at[label].add(1))
