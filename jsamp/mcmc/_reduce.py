"""Streaming reducers: moments and R-hat of a run that stores nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jsamp._core._pytree import pytree, static
from jsamp.mcmc import _kernel as k


class MomentsValue(NamedTuple):
    """Count, mean and unbiased variance (or covariance) of a stream.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.MomentsValue(count=2, mean=0.5, variance=0.5).mean
        0.5
    """

    count: Any
    mean: Any
    variance: Any


def _welford(carry, flat, outer):
    count, mean, square = carry
    count = count + 1
    delta = flat - mean
    mean = mean + delta / count.astype(flat.dtype)
    square = square + (delta[:, None] * (flat - mean)[None, :] if outer else delta * (flat - mean))
    return count, mean, square


def _start(size, dtype, outer):
    return jnp.zeros((), jnp.int32), jnp.zeros(size, dtype), jnp.zeros((size, size) if outer else size, dtype)


def _flat(x):
    return ravel_pytree(x)[0].astype(k.dtype_of(x))


@pytree
class Moments:
    """A reducer for mean and variance (or covariance) of the position, by Welford's update.

    Args:
        covariance: the whole matrix of the flattened position instead of variances (static).

    Returns:
        In `info.reduced`, a `MomentsValue(count, mean, variance)` of the flattened position.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> result = mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 100, reduce=(mcmc.Moments(),))
        >>> int(result.info.reduced[0].count), result.info.reduced[0].mean.shape
        (100, (3,))

    Cost:
        Two vectors, or one matrix, whatever the length of the run.

    References:
        Welford, "Note on a method for calculating corrected sums of squares and products", 1962.
    """

    covariance: bool = static(default=False)

    def init(self, x):
        """The empty sums for a position like x."""
        flat = _flat(x)
        return _start(flat.size, flat.dtype, self.covariance)

    def update(self, carry, state, info):
        """One more state."""
        return _welford(carry, _flat(state.position), self.covariance)

    def value(self, carry):
        """Count, mean, variance."""
        count, mean, square = carry
        return MomentsValue(count, mean, square / jnp.maximum(count - 1, 1).astype(mean.dtype))


@pytree
class OnlineRhat:
    """A reducer for R-hat over the leading (chain) axis of an ensemble, or between blocks of one chain.

    With the position's leading axis as chains: R-hat = sqrt((W (n - 1) / n + B) / W), W the mean within-chain
    variance and B the variance of the chain means, in every other coordinate. Not rank-normalised and not split; it
    is the stream's alarm, `estimate.rhat` the final word.

    Returns:
        In `info.reduced`, R-hat per coordinate of the flattened single-chain position.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.ensemble(mcmc.MALA(lambda x: -jnp.sum(x**2) / 2, step_size=0.5))
        >>> result = mcmc.chain(jax.random.key(0), kernel, jnp.zeros((4, 2)), 200, reduce=(mcmc.OnlineRhat(),))
        >>> bool(jnp.all(result.info.reduced[0] < 1.2))
        True

    Cost:
        Two vectors per chain.

    References:
        Gelman and Rubin, "Inference from iterative simulation using multiple sequences", 1992.
    """

    def init(self, x):
        """The empty sums for an ensemble position."""
        chains = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
        if len(chains) != 1 or () in chains or min(chains)[0] < 2:
            raise ValueError(f"OnlineRhat: every leaf needs a leading chain axis of at least 2, got {sorted(chains)}.")
        flat = jax.vmap(_flat)(x)
        return jnp.zeros((), jnp.int32), jnp.zeros_like(flat), jnp.zeros_like(flat)

    def update(self, carry, state, info):
        """One more state."""
        flat = jax.vmap(_flat)(state.position)
        count, mean, square = carry
        count = count + 1
        delta = flat - mean
        mean = mean + delta / count.astype(flat.dtype)
        return count, mean, square + delta * (flat - mean)

    def value(self, carry):
        """R-hat so far; NaN before two draws."""
        count, mean, square = carry
        n = count.astype(mean.dtype)
        within = jnp.mean(square, axis=0) / (n - 1)
        return jnp.sqrt(((n - 1) / n * within + jnp.var(mean, axis=0, ddof=1)) / within)
