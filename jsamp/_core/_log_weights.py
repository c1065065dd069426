"""Log-weights: their mean, their normalised weights, and how many equal weights they are worth."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def log_mean_exp(log_weights: Any, axis: int = 0) -> Any:
    """Log of the mean weight; -inf where every weight is 0."""
    return jax.nn.logsumexp(log_weights, axis=axis) - jnp.log(float(log_weights.shape[axis]))


def normalise(log_weights: Any, axis: int = 0) -> Any:
    """Weights that sum to 1; all 0 where every weight is 0."""
    top = jnp.max(log_weights, axis=axis, keepdims=True)
    weights = jnp.exp(log_weights - jnp.where(jnp.isneginf(top), 0, top))
    total = jnp.sum(weights, axis=axis, keepdims=True)
    return weights / jnp.where(total == 0, 1, total)


def effective_size(log_weights: Any, axis: int = 0) -> Any:
    """Effective number of weights (sum w)^2 / sum w^2; 0 where every weight is 0."""
    weights = normalise(log_weights, axis)
    squares = jnp.sum(weights**2, axis=axis)
    return jnp.where(squares == 0, 0, 1 / jnp.where(squares == 0, 1, squares))
