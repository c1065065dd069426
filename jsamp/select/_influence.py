"""Scores that know the labels: how far each row pulls a fitted generalised linear model."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_choice, check_finite, is_traced
from jsamp._core._types import Scalar
from jsamp.select._rows import as_floating, as_real, as_scalar, check_matrix, check_weights, is_bad, power_of_two
from jsamp.select._whiten import BLOCK, column_scale, gram_of, map_rows, matmul, whiten

FAMILIES = ("logistic", "poisson", "linear")
KINDS = ("loss", "coef", "gradient", "residual")


def influence(
    X: Any, y: Any, coef: Any, *, family: Literal["logistic", "poisson", "linear"] = "logistic",
    kind: Literal["loss", "coef", "gradient", "residual"] = "loss", uniform: Scalar = 0.1, weights: Any = None,
) -> jax.Array:  # fmt: skip
    """Score rows by their pull on a generalised linear model, from a pilot fit: the rows a good fit cannot do without.

    With eta = X coef, residual r_i = y_i - mean(eta_i) and M = sum_i w_i mean'(eta_i) x_i x_i^T, one row moves the
    estimate by M^-1 x_i r_i. A subset drawn by |r_i| times a norm of x_i, and fitted with its weights, has the smallest
    asymptotic variance of

    - "loss": the excess loss on all rows; the norm is |M^(-1/2) x_i|, the same in all linear coordinates.
    - "coef": the coefficients (A-optimality); the norm is |M^-1 x_i|.
    - "gradient": the gradient at the pilot (L-optimality); the norm is |x_i|, which costs no matrix.
    - "residual": |r_i| alone, the acceptance rate of local case-control sampling.

    Usage: fit a few hundred uniform rows, score all rows by that pilot, draw, and refit the drawn rows by `weight`.

    Args:
        X: [n, d] rows (with a column of ones where the model has an intercept).
        y: [n] labels: 0 and 1 for "logistic", counts for "poisson", numbers for "linear".
        coef: [d] coefficients of a pilot fit.
        family: "logistic", "poisson" (log link) or "linear", static.
        kind: see above, static.
        uniform: share of the scores that is the same for every row, in [0, 1]: it bounds the weights where the pilot is
            wrong by mean(score) / uniform.
        weights: [n] >= 0, or None: how often each row counts.

    Returns:
        [n] scores with (weighted) mean 1.

    Raises:
        ValueError: for shapes that do not fit, a non-finite X or coef, scores beyond the range of the dtype, or labels
            that the family does not have.
        TypeError: for integer rows or an unknown kind of array.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.array([[1.0, -2.0], [1.0, -1.0], [1.0, 1.0], [1.0, 2.0]])
        >>> js.select.influence(X, jnp.array([0, 1, 1, 1]), jnp.array([0.0, 2.0]), uniform=0.0).round(1)
        Array([0.1, 3.3, 0.5, 0.1], dtype=float32)

    Cost:
        One product with coef, and 2 n d^2 multiply-adds for the matrix of "loss" and "coef".

    References:
        Wang, Zhu and Ma, "Optimal Subsampling for Large Sample Logistic Regression", 2018, arXiv:1702.01166. Fithian
        and Hastie, "Local case-control sampling: Efficient subsampling in imbalanced data sets", 2014, arXiv:1306.3706.
    """
    check_choice("influence: family", family, FAMILIES)
    check_choice("influence: kind", kind, KINDS)
    uniform = as_scalar("influence: uniform", uniform, low=0, high=1)
    X = check_matrix("influence: X", X, tall=False)
    n, d = X.shape
    coef = as_floating("influence: coef", coef)
    if coef.shape != (d,):
        raise ValueError(f"influence: coef must be [{d}], one per column of X, got shape {coef.shape}.")
    check_finite("influence: coef", coef, remedy="Did the pilot converge?")
    y = _check_outcome(y, n, family)
    weights = check_weights(weights, n, "influence")
    weights = None if weights is None else weights.astype(X.dtype)
    scores = _influence(X, y.astype(X.dtype), coef.astype(X.dtype), uniform, weights, family, kind)
    if is_bad(scores):
        raise ValueError(
            "influence: the scores are not finite, so X or the means that coef predicts are too large. "
            "Divide the columns of X by their largest entries and fit anew."
        )
    return scores


def _check_outcome(y: Any, n: int, family: str) -> jax.Array:
    y = as_real("influence: y", y)
    if y.shape != (n,):
        raise ValueError(f"influence: y must be [{n}], one label per row of X, got shape {y.shape}.")
    check_finite("influence: y", y)
    known = None if is_traced(y) else np.asarray(y)
    if known is not None and family == "logistic" and not np.isin(known, (0, 1)).all():
        raise ValueError("influence: family='logistic' needs labels 0 and 1. Pass (y == label).astype(int).")
    if known is not None and family == "poisson" and known.min() < 0:
        raise ValueError("influence: family='poisson' needs counts >= 0.")
    return y


@functools.partial(jax.jit, static_argnames=("family", "kind"))
def _influence(X, y, coef, uniform, weights, family, kind):
    eta = jnp.sum(X * coef[None], 1)
    if family == "logistic":
        mean, slope = jax.nn.sigmoid(eta), jax.nn.sigmoid(eta) * jax.nn.sigmoid(-eta)
        size = jnp.where(y > 0.5, jax.nn.sigmoid(-eta), mean)  # |y - mean| without cancellation
    elif family == "poisson":
        mean = slope = jnp.exp(eta)
        size = jnp.abs(y - mean)
    else:
        size, slope = jnp.abs(y - eta), jnp.ones_like(eta)
    share = jnp.ones_like(eta) if weights is None else weights
    if kind in ("loss", "coef"):
        heavy = slope * share
        heavy = heavy / jnp.max(heavy)
        gram = gram_of(X, heavy, None, None, BLOCK)
        transform, _ = whiten(gram, "auto", lambda: column_scale(X, heavy, None, None))
        unit = power_of_two(transform)  # scores have no unit, and the square of the transform may leave the range
        axes = transform if kind == "loss" else matmul(transform, (unit * transform).T)
    else:
        axes = None
    norm = jnp.ones_like(eta) if kind == "residual" else map_rows(functools.partial(_norms, axes=axes), X)
    score = size * norm
    score = score * power_of_two(score)
    average = jnp.sum(share * score) / jnp.sum(share)
    score = jnp.where(average == 0, 1, score / jnp.where(average == 0, 1, average))
    return share * ((1 - uniform) * score + uniform) * (share.shape[0] / jnp.sum(share))


def _norms(rows, axes):
    rows = rows if axes is None else matmul(rows, axes)
    unit = power_of_two(rows, 1)
    return jnp.sqrt(jnp.sum((rows * unit) ** 2, 1)) / unit[:, 0]
