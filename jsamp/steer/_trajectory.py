"""Recorders that watch a trajectory."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _moments, _tree
from jsamp._core._pytree import pytree, static
from jsamp._core._sample_axes import check_event_ndim, sample_axes
from jsamp.denoise import _fields
from jsamp.steer._protocol import Hooks


class _Watched(NamedTuple):
    first: Any  # the first row that counts
    moments: Any  # running moments of the predicted x0, one for each leaf of x


@pytree
class TrajectoryVariance(Hooks):
    """Measure how much the prediction of x0 still moves over the last rows: much where a sample fell between modes.

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

    last: int = static(default=10, convert=_fields.count(2))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def init(self, key, x, plan):
        """Start with empty moments."""
        if self.last > plan.nfe:
            raise ValueError(f"TrajectoryVariance: last={self.last} rows, but the plan has {plan.nfe}. Use fewer.")
        return _Watched(jnp.int32(plan.nfe - self.last), jax.tree.map(_moments.start, x))

    def mid(self, key, g, x, prediction, info):
        """Add the row's x0 to the running moments."""
        counts, x0 = info.index >= g.first, _tree.cast_like(prediction.x0, x)
        add = lambda moments, x0: _moments.add(moments, x0, weight=counts.astype(x0.dtype))
        return g._replace(moments=jax.tree.map(add, g.moments, x0, is_leaf=_is_moments)), x, prediction, None

    def reorder(self, g, index):
        """Follow particles that another steer reordered."""
        each, structure = jax.tree.flatten(g.moments, is_leaf=_is_moments)
        moved = _tree.take([(m.mean, m.square) for m in each], index, [0] * len(each))
        each = [m._replace(mean=mean, square=square) for m, (mean, square) in zip(each, moved, strict=True)]
        return g._replace(moments=jax.tree.unflatten(structure, each))

    def final(self, g, x):
        """Report the mean variance of each sample."""
        squares = [moments.square for moments in jax.tree.leaves(g.moments, is_leaf=_is_moments)]
        sums = [jnp.sum(leaf, axis=sample_axes(leaf, self.event_ndim)) for leaf in squares]
        sizes = [leaf.size / max(one.size, 1) for leaf, one in zip(squares, sums, strict=True)]
        return x, sum(sums) / (sum(sizes) * self.last)


def _is_moments(node: Any) -> bool:
    return isinstance(node, _moments.Moments)
