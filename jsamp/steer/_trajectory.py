"""Recorders that watch a trajectory."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._checks import check_count
from jsamp._core._pytree import pytree, static
from jsamp.steer._protocol import Hooks


class _Moments(NamedTuple):
    first: Any
    mean: Any
    square: Any


@pytree
class TrajectoryVariance(Hooks):
    """How much the prediction of x0 still moves over the last rows: large where a sample fell between modes.

    report = mean over the sample's numbers of the variance, over the last `last` rows, of the predicted x0 (population
    variance, running moments). Filter samples by it: those with the largest values are the likeliest hallucinations,
    when interpolation between modes is rare and `last` spans noise levels of about the width of a mode.

    Args:
        last: number of rows k, 2 <= k <= plan.nfe (static).
        event_ndim: trailing axes that make one sample; None means all of x (static). With leading axes the report has
            their shape.

    Raises:
        ValueError: for last < 2 or more rows than the plan has.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[0.5, 0.5], means=[[-1.0], [1.0]], stds=[0.1, 0.1])
        >>> plan = js.solve.ddim(schedule, js.noise.time_grid(schedule, 50))
        >>> result = js.sample(None, law, jnp.full(1, 0.3), plan, steer=js.steer.TrajectoryVariance(10))
        >>> bool(result.info.report >= 0)
        True

    Cost:
        No evaluation; two states of memory.

    References:
        Aithal et al., "Understanding Hallucinations in Diffusion Models through Mode Interpolation", 2024,
        arXiv:2406.09358.
    """

    last: int = static(default=10)
    event_ndim: int | None = static(default=None)

    def __post_init__(self):
        check_count("TrajectoryVariance: last", self.last, low=2)
        if self.event_ndim is not None:
            check_count("TrajectoryVariance: event_ndim", self.event_ndim)

    def init(self, key, x, plan):
        """Zero moments."""
        if self.last > plan.nfe:
            raise ValueError(f"TrajectoryVariance: last={self.last} rows, but the plan has {plan.nfe}. Use fewer.")
        first = jnp.int32(plan.nfe - self.last)
        return _Moments(first, _tree.zeros_like(x), _tree.zeros_like(x))

    def mid(self, key, g, x, prediction, info):
        """Add the row's x0 to the running moments."""
        count = info.index - g.first + 1
        active = count >= 1
        share = jnp.where(active, 1 / jnp.maximum(count, 1), 0)
        delta = jax.tree.map(jnp.subtract, prediction.x0, g.mean)
        mean = jax.tree.map(lambda m, d: m + share.astype(m.dtype) * d, g.mean, delta)
        square = jax.tree.map(
            lambda s, d, x0, m: s + jnp.where(active, d * (x0 - m), 0), g.square, delta, prediction.x0, mean
        )
        return _Moments(g.first, mean, square), x, prediction, None

    def reorder(self, g, index):
        """Follow particles that another steer reordered."""
        mean, square = _tree.take((g.mean, g.square), index, (0, 0))
        return g._replace(mean=mean, square=square)

    def final(self, g, x):
        """The mean variance of each sample."""

        def total(leaf):
            event = leaf.ndim if self.event_ndim is None else self.event_ndim
            return jnp.sum(leaf, axis=tuple(range(leaf.ndim - event, leaf.ndim)))

        sums = [total(leaf) for leaf in jax.tree.leaves(g.square)]
        sizes = [leaf.size / max(one.size, 1) for leaf, one in zip(jax.tree.leaves(g.square), sums, strict=True)]
        return x, sum(sums) / (sum(sizes) * self.last)
