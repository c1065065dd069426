"""Streaming reducers: moments and R-hat of a run that stores nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jsamp._core import _moments
from jsamp._core._checks import check_flag
from jsamp._core._pytree import pytree, static
from jsamp.mcmc import _kernel as k


class MomentsValue(NamedTuple):
    """Hold count, mean and unbiased variance (or covariance) of a stream.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.MomentsValue(count=2, mean=0.5, variance=0.5).mean
        0.5
    """

    count: Any
    mean: Any
    variance: Any


def _flat(x):
    return ravel_pytree(x)[0].astype(k.dtype_of(x))


def _empty(flat, outer=False):
    # Counted in integers: a float32 count stops at 2^24 draws.
    return _moments.start(flat, outer=outer)._replace(count=jnp.zeros((), jnp.int32))


@pytree
class Moments:
    """Reduce a run to mean and variance (or covariance) of the position, by Welford's update.

    Args:
        covariance: the whole matrix of the flattened position instead of variances (static).

    Returns:
        In `info.reduced`, a `MomentsValue(count, mean, variance)` of the flattened position.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> result = js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 100, reduce=(js.mcmc.Moments(),))
        >>> int(result.info.reduced[0].count), result.info.reduced[0].mean.shape
        (100, (3,))

    Cost:
        Two vectors, or one matrix, whatever the length of the run.

    References:
        Welford, "Note on a method for calculating corrected sums of squares and products", 1962.
    """

    covariance: bool = static(default=False, convert=check_flag)

    def init(self, x):
        """Start with no draws of a position like x."""
        return _empty(_flat(x), self.covariance)

    def update(self, carry, state, info):
        """Add one more state."""
        return _moments.add(carry, _flat(state.position))

    def value(self, carry):
        """Return count, mean, variance."""
        return MomentsValue(carry.count, carry.mean, _moments.variance(carry))


@pytree
class OnlineRhat:
    """Reduce a run to R-hat over the leading (chain) axis of an ensemble, or between blocks of one chain.

    With the position's leading axis as chains: R-hat = sqrt((W (n - 1) / n + B) / W), W the mean within-chain
    variance and B the variance of the chain means, in every other coordinate. Not rank-normalised and not split; it
    is the stream's alarm, `estimate.rhat` the final word.

    Returns:
        In `info.reduced`, R-hat per coordinate of the flattened single-chain position.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.ensemble(js.mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5))
        >>> result = js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros((4, 2)), 200, reduce=(js.mcmc.OnlineRhat(),))
        >>> bool(jnp.all(result.info.reduced[0] < 1.2))
        True

    Cost:
        Two vectors per chain.

    References:
        Gelman and Rubin, "Inference from iterative simulation using multiple sequences", 1992.
    """

    def init(self, x):
        """Start with no draws of an ensemble's position."""
        k.leading_axis("OnlineRhat: x", "chains", x, low=2)
        return _empty(jax.vmap(_flat)(x))

    def update(self, carry, state, info):
        """Add one more state."""
        return _moments.add(carry, jax.vmap(_flat)(state.position))

    def value(self, carry):
        """Return R-hat so far; NaN before two draws."""
        n = carry.count.astype(carry.mean.dtype)
        within = jnp.mean(carry.square, axis=0) / (n - 1)
        return jnp.sqrt(((n - 1) / n * within + jnp.var(carry.mean, axis=0, ddof=1)) / within)
