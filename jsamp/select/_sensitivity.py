"""l_p sensitivities with certificates."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._checks import check_choice, check_count, check_number, is_traced
from jsamp.select._draw import draw
from jsamp.select._leverage import check_matrix, leverage, leverage_rows
from jsamp.select._lewis import lewis
from jsamp.select._whiten import BLOCK, gram_of, map_rows, matmul, whiten

WHOLE = 2048  # up to this many rows serve as their own embedding


class Bounds(NamedTuple):
    """Certified interval around the l_p sensitivity of every row.

    Args:
        lower: [n], attained by an explicit x: never above the sensitivity.
        upper: [n], proved by a dual vector: never below the sensitivity.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> lower, upper = select.sensitivity_bounds(jnp.array([[1.0], [2.0], [-5.0]]), p=1.0)   # |a| / sum |a|
        >>> lower.round(3), upper.round(3)
        (Array([0.125, 0.25 , 0.625], dtype=float32), Array([0.125, 0.25 , 0.625], dtype=float32))
    """

    lower: Any
    upper: Any


def check_power(p: Any, who: str, low: float = 1.0) -> float:
    """P as a Python float >= low."""
    if is_traced(p):
        raise TypeError(f"{who}: p is traced, but it chooses the method. Pass a Python float.")
    check_number(f"{who}: p", p, low=low)
    return float(p)


def _norm(y, q):
    if np.isinf(q):
        return jnp.max(jnp.abs(y), -1)
    top = jnp.maximum(jnp.max(jnp.abs(y), -1, keepdims=True), jnp.finfo(y.dtype).tiny)
    return top[:, 0] * jnp.sum((jnp.abs(y) / top) ** q, -1) ** (1 / q)


def _intervals(rows, E, null, p, iters):
    """Bounds for a block of whitened rows [k, d] against the whitened embedding E [m, d]."""
    (k, d), m = rows.shape, E.shape[0]
    i, j = np.triu_indices(d)
    pairs = E[:, i] * E[:, j]
    spread = np.zeros((d, d), np.int32)
    spread[i, j] = spread[j, i] = np.arange(len(i))
    q = np.inf if p == 1 else p / (p - 1)
    damp = 1.0 if p <= 2 else 1 / (p - 1)
    small = 1e-9 if E.dtype == jnp.float64 else 1e-5
    # Weights below rounding of the heaviest row would make the normal matrix singular in this precision.
    floor = max(small, (10 * float(jnp.finfo(E.dtype).eps)) ** (1 / (p - 2))) if p > 2 else small
    smooth = jnp.asarray(np.maximum(1e-2 * 0.7 ** np.arange(iters), floor), E.dtype)
    live = jnp.sum(rows * rows, 1) > 0
    rows = jnp.where(live[:, None], rows, jnp.ones_like(rows) / d)

    def step(carry, inputs):
        weight, x, lower, upper = carry
        delta, gain = inputs
        gram = matmul(weight, pairs)[:, spread] + jnp.diag(null)[None]
        half = jnp.linalg.cholesky(gram)
        g = jax.scipy.linalg.cho_solve((half, True), rows[..., None])[..., 0]
        mu = 1 / jnp.sum(rows * g, 1)
        new = mu[:, None] * g
        y = weight * matmul(new, E.T)  # E^T y = mu a: feasible for the dual after scaling
        upper = jnp.minimum(upper, (_norm(y, q) / mu) ** p)
        x = x + gain * (new - x)
        size = jnp.abs(matmul(x, E.T))
        lower = jnp.maximum(lower, 1 / jnp.sum(size**p, 1))
        top = jnp.max(size, 1, keepdims=True)
        weight = ((size / top) ** 2 + delta**2) ** ((p - 2) / 2)
        return (weight / jnp.max(weight, 1, keepdims=True), x, lower, upper), None

    zero = jnp.zeros_like(rows[:, 0])
    start = (jnp.broadcast_to(zero[:, None] + 1, (k, m)), jnp.zeros_like(rows), zero, zero + jnp.inf)
    gain = jnp.full((iters,), damp, E.dtype).at[0].set(1)
    (_, _, lower, upper), _ = lax.scan(step, start, (smooth, gain))
    lower = jnp.minimum(lower, 1)
    upper = jnp.maximum(jnp.minimum(upper, 1), lower)
    return jnp.where(live, lower, 0), jnp.where(live, upper, 0)


@functools.partial(jax.jit, static_argnames=("p", "iters", "chunk"))
def _bounds(A, E, p, iters, chunk):
    transform, _ = whiten(gram_of(E, None, 0.0, None, BLOCK), "auto")
    null = (jnp.sum(transform * transform, 0) == 0).astype(A.dtype)
    white = matmul(E, transform)
    return map_rows(lambda rows: _intervals(matmul(rows, transform), white, null, p, iters), A, block=chunk)


def sensitivity_bounds(A: Any, p: float, *, embedding: Any = None, iters: int = 20, chunk: int = 256) -> Bounds:
    """Certified bounds of the l_p sensitivities s_i = sup_x |a_i x|^p / |A x|_p^p.

    1 / s_i = min |A x|_p^p over a_i x = 1 is solved for all rows at once by iteratively reweighted least squares, in
    whitened coordinates; for p > 2 steps are damped by 1/(p-1), which turns the iteration into Newton's. Every x gives
    a lower bound and every reweighted residual y, for which A^T y = mu a_i, an upper bound (|y|_q / mu)^p, q = p/(p-1).

    Args:
        A: [n, d] rows.
        p: exponent >= 1, static.
        embedding: [m, d] rows E with |E x|_p ~ |A x|_p (for example `subset.row_scale(p)[:, None] * subset.take(A)`
            of a Lewis-weight sample), to replace A in the denominator. Default: A itself, m = n.
        iters: 20 gives gaps of 1e-7 or less for p > 1; p = 1 closes slowly from above (lower within 5e-3).
        chunk: rows solved at a time.

    Returns:
        `Bounds(lower, upper)`, within [0, 1]; rigorous for the embedding up to rounding.

    Raises:
        ValueError: for p < 1, a non-finite A, or fewer rows than columns.
        TypeError: for a traced p or integer rows.

    Example:
        >>> import jax, jsamp.select as select
        >>> lower, upper = select.sensitivity_bounds(jax.random.normal(jax.random.key(0), (50, 3)), p=4.0)
        >>> bool((upper - lower).max() < 1e-5), 3 < lower.sum() < 15
        (True, Array(True, dtype=bool))

    Cost: n * iters * m * d^2 multiply-adds, memory chunk * m + m d^2 / 2.

    References:
        Woodruff and Yasuda, "Sharper Bounds for l_p Sensitivity Sampling", 2023, arXiv:2306.00732.
    """
    p = check_power(p, "sensitivity_bounds")
    check_count("sensitivity_bounds: iters", iters)
    A = check_matrix(A, "sensitivity_bounds", tall=embedding is None)
    E = A if embedding is None else check_matrix(embedding, "sensitivity_bounds (embedding)")
    if E.shape[1] != A.shape[1]:
        raise ValueError(f"sensitivity_bounds: embedding has {E.shape[1]} columns, A has {A.shape[1]}. Match them.")
    if p == 2 and embedding is None:
        score = jnp.minimum(leverage_rows(A, None, None, "auto", None, BLOCK), 1)
        return Bounds(score, score)
    return Bounds(*_bounds(A, E, p, iters, check_count("sensitivity_bounds: chunk", chunk)))


def _embedding(A, p):
    """Rows of A, drawn by Lewis weights with a fixed stream, that stand for A in the denominator."""
    num = max(WHOLE, 32 * A.shape[1])
    if A.shape[0] <= num:
        return A
    subset = draw(jax.random.key(0), lewis(A, p, tol=1e-2).weight, num, scheme="priority")
    return subset.row_scale(p)[:, None] * subset.take(A)


def sensitivity(
    A: Any, p: float, *, embedding: Any = None, scheme: str = "combined", iters: int = 12, axis_name: Any = None
) -> jax.Array:
    """The recommended scores for subsets that preserve |A x|_p: draw rows by them and weight by 1/probability.

    "combined" is (s_i + tau_i) / 2, the mean of l_p sensitivity and leverage: sampling by it needs O(d / eps^2) rows up
    to logarithms for every p in [1, 2], where sensitivities alone need d^(1-p/2) times more, and fewer rows than
    either score for p > 2. At p = 2 the two are the same. "plain" is s_i itself. s_i is the lower end of
    `sensitivity_bounds`. For regression of b on A, score the rows of [A b].

    Args:
        A: [n, d] rows.
        p: exponent >= 1, static.
        embedding: rows that stand for A in the denominator, as in `sensitivity_bounds`. Default: A itself up to 2048
            (or 32 d) rows, else that many rows drawn by Lewis weights, which makes s_i approximate to some per cent.
        scheme: "combined" or "plain", static.
        iters: reweighting steps, static.
        axis_name: mesh axis over which the rows of A are sharded; pass the same `embedding` on every shard.

    Returns:
        [n] scores in [0, 1].

    Raises:
        ValueError: for p < 1, a non-finite A, fewer rows than columns, or `axis_name` without `embedding`.

    Example:
        >>> import jax, jsamp.select as select
        >>> A = jax.random.normal(jax.random.key(0), (500, 4))
        >>> subset = select.draw(jax.random.key(1), select.sensitivity(A, p=1.0), 100)
        >>> subset.take(A).shape[1]
        4

    Cost: n * iters * m * d^2 multiply-adds with m <= max(2048, 32 d) rows. `lewis` is an upper bound at n d^2 each
        iteration for p <= 2, and enough for sampling when n is large.

    References:
        Woodruff and Yasuda, "Sharper Bounds for l_p Sensitivity Sampling", 2023, arXiv:2306.00732 ("plain").
        Munteanu and Omlor, "Optimal bounds for l_p sensitivity sampling via l_2 augmentation", 2024, arXiv:2406.00328.
    """
    p = check_power(p, "sensitivity")
    check_choice("sensitivity: scheme", scheme, ("combined", "plain"))
    if axis_name is not None and embedding is None and p != 2:
        raise ValueError("sensitivity: sharded rows need embedding=, the same rows on every shard. Draw it by `lewis`.")
    A = check_matrix(A, "sensitivity", tall=axis_name is None and embedding is None)
    if p == 2 and embedding is None:
        return leverage(A, axis_name=axis_name)
    E = _embedding(A, p) if embedding is None else embedding
    score = sensitivity_bounds(A, p, embedding=None if E is A else E, iters=iters).lower
    if scheme == "plain":
        return score
    if embedding is not None and axis_name is None and A.shape[0] < A.shape[1]:
        raise ValueError("sensitivity: A has fewer rows than columns; use scheme='plain' for a few rows at a time.")
    return (score + leverage(A, axis_name=axis_name)) / 2
