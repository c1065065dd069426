"""Leverage scores, and scores made from them."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_choice, check_count, check_scalar, is_traced
from jsamp._core._mesh import over_mesh
from jsamp.select._rows import check_axis, check_matrix, check_weights, over_largest, refuse_non_finite
from jsamp.select._whiten import column_scale, gram_of, map_rows, matmul, squared_norms, whiten

METHODS = ("auto", "cholqr2", "shifted3", "qr")
ROWS = 32_768  # per block: enough work for a product on all cores
WHOLE = 2**28  # bytes of a transformed copy of the rows up to which one block is a third faster than many


def _block_of(A: jax.Array) -> int:
    return A.shape[0] if A.nbytes <= WHOLE else ROWS


def _with_ridge(rows, ridge):
    if ridge is None:
        return rows
    return jnp.concatenate([rows, jnp.sqrt(ridge) * jnp.eye(rows.shape[1], dtype=rows.dtype)])


def _qr(A, weight, ridge, axis_name):
    rows = A if weight is None else A * jnp.sqrt(weight)[:, None]
    d = A.shape[1]
    if axis_name is not None:
        Q, R = jnp.linalg.qr(rows)
        stack = lax.all_gather(R, axis_name).reshape(-1, d)
        top, _ = jnp.linalg.qr(_with_ridge(stack, ridge))
        k = R.shape[0]
        mine = lax.dynamic_slice_in_dim(top, lax.axis_index(axis_name) * k, k)
        return jnp.sum(matmul(Q, mine) ** 2, 1)
    Q, _ = jnp.linalg.qr(_with_ridge(rows, ridge))
    return jnp.sum(Q[: A.shape[0]] ** 2, 1)


def leverage_rows(A, weight, ridge, method, axis_name, block):
    """Leverage without checks, of the rows of this shard."""
    scale = lambda: column_scale(A, weight, ridge, axis_name)
    if method == "qr":  # needs no scales and bears large entries, but the digits of small ones are lost here, too
        A = jnp.where(jnp.isnan(scale()) & (jnp.max(jnp.abs(A), 0) < 1), jnp.nan, A)
        return _qr(A, weight, ridge, axis_name)
    gram = gram_of(A, weight, ridge, axis_name, block)
    transform, _ = whiten(gram, method, scale)

    def score(rows, w):
        norm = squared_norms(rows, transform)
        return norm if w is None else norm * w

    return map_rows(score, A, weight, block=block)


@functools.partial(jax.jit, static_argnames=("method", "axis_name", "block"))
def _leverage(A, weight, ridge, method, axis_name, block):
    return over_mesh(lambda axis, a, w: leverage_rows(a, w, ridge, method, axis, block), axis_name, A, weight)


def leverage(
    A: Any,
    *,
    method: Literal["auto", "cholqr2", "shifted3", "qr"] = "auto",
    ridge: Any = 0.0,
    weights: Any = None,
    axis_name: Any = None,
    block: int | None = None,
) -> jax.Array:
    """Score how much each row matters for |A x|_2: leverage, tau_i = a_i^T (A^T A + ridge I)^+ a_i.

    tau_i is the largest share (a_i x)^2 / |A x|^2 over all x; without ridge the scores lie in [0, 1] and sum to the
    rank. Rows are read in blocks. Columns are normalised, then the Gram matrix is formed again in the
    whitened coordinates until it is well conditioned (CholeskyQR2, shifted CholeskyQR3). The relative error is about
    eps times the condition number (float32: 1e-6 at 10, 1e-4 at 1e3, 1e-2 at 1e5). Null directions of a rank-deficient
    matrix are found and left out; in float32 that includes directions beyond a condition number of 4e5. The sum of the
    scores is the flag: without ridge it is the number of directions kept, to a hundredth, and less than d where some
    were left out. Use float64 for those.

    Args:
        A: [n, d] rows, floating point.
        method: static. "auto" reads the rows 2 to 4 times as the condition number asks; "cholqr2" at most 3 times
            (condition numbers to 1e4 in float32); "shifted3" always 4 times; "qr" is Householder QR (full rank only,
            n x d of extra memory, slow, and no more accurate).
        ridge: regularisation >= 0; the scores then sum to the effective dimension, and n < d is allowed.
        weights: [n] >= 0, or None: scores of the rows sqrt(weights_i) a_i.
        axis_name: mesh axis over which the rows are sharded (inside `jax.shard_map`): one all-reduce of d x d per read.
            Rows sharded over an explicit mesh need no name: pass them as they are.
        block: rows per block, static. None takes all rows at once up to a quarter of a GiB, and 32,768 beyond.

    Returns:
        [n] scores, float32 (float64 for float64 rows). Differentiable in A, ridge and weights.

    Raises:
        ValueError: for a non-finite A or one beyond 5e33 / sqrt(n) in float32, a column of no entry above 1e-31 (XLA
            reads entries below 1.2e-38 as 0), fewer rows than columns without ridge, a negative ridge or weights.
        TypeError: for integer rows.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> x = jnp.arange(5.0)                                   # 1/n + (x - mean)^2 / sum (x - mean)^2
        >>> js.select.leverage(jnp.stack([jnp.ones(5), x], 1)).round(3)
        Array([0.6, 0.3, 0.2, 0.3, 0.6], dtype=float32)

    Cost:
        2 n d^2 multiply-adds for a well conditioned A (one Gram, one product), 4 or 6 otherwise; memory block x d.

    References:
        Drineas and Mahoney, "RandNLA: Randomized Numerical Linear Algebra", 2016. Fukaya et al., "Shifted Cholesky QR
        for computing the QR factorization of ill-conditioned matrices", 2020, arXiv:1809.11085.
    """
    check_choice("leverage: method", method, METHODS)
    check_axis(axis_name, "leverage")
    check_scalar("leverage: ridge", ridge, low=0)
    plain = not is_traced(ridge) and float(ridge) == 0
    A = check_matrix("leverage: A", A, tall=plain and axis_name is None, finite=False)
    weights = check_weights(weights, A.shape[0], "leverage")
    block = _block_of(A) if block is None else check_count("leverage: block", block)
    ridge = None if plain else jnp.asarray(ridge, A.dtype)
    weights = None if weights is None else weights.astype(A.dtype)
    scores = _leverage(A, weights, ridge, method, axis_name, block)
    # A number that is not finite spoils the Gram and every score, so the rows need no pass of their own.
    refuse_non_finite("leverage: A", A, scores)
    return scores


def root_leverage(A: Any, p: float, *, weights: Any = None, axis_name: Any = None) -> jax.Array:
    """Score rows by tau_i^(p/2): the upper bound of l_p sensitivities for p <= 2 that costs one leverage pass.

    Sampling by them once leaves at most n^(1-p/2) d^(p/2) / alpha rows; repeat on the kept rows (rows times
    weight^(1/p)) and about d rows are left after log log n rounds. Directions are left out as by `leverage`, whose sum
    says so.

    Args:
        A: [n, d] rows.
        p: exponent of the norm, in [1, 2].
        weights: [n] >= 0 of the l_p sum, or None: scores of the rows weights_i^(1/p) a_i.
        axis_name: mesh axis over which the rows are sharded.

    Returns:
        [n] scores.

    Raises:
        ValueError: for p outside [1, 2], or as `leverage`.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.select.root_leverage(jnp.array([[3.0], [4.0]]), p=1.0)
        Array([0.6, 0.8], dtype=float32)

    Cost:
        As `leverage`.

    References:
        Woodruff and Yasuda, "Sharper Bounds for l_p Sensitivity Sampling", 2023, arXiv:2306.00732.
    """
    check_scalar("root_leverage: p", p, low=1, high=2)
    check_axis(axis_name, "root_leverage")
    A = check_matrix("root_leverage: A", A, tall=axis_name is None, finite=False)
    if weights is not None:
        weights = check_weights(weights, jnp.shape(A)[0], "root_leverage")
        weights = (over_largest(weights, axis_name) ** (2 / p)).astype(A.dtype)
    score = _leverage(A, weights, None, "auto", axis_name, _block_of(A))
    refuse_non_finite("root_leverage: A", A, score)
    positive = score > 0
    return jnp.where(positive, jnp.where(positive, score, 1) ** (p / 2), 0)
