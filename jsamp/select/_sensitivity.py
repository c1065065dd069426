"""l_p sensitivities with certificates."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_choice, check_count, check_scalar, is_traced
from jsamp._core._mesh import mesh_axis, over_mesh
from jsamp.select._basis import basis_of, white_rows
from jsamp.select._draw import draw
from jsamp.select._leverage import leverage
from jsamp.select._lewis import lewis
from jsamp.select._reweight import reweight, walk_vertices
from jsamp.select._rows import check_axis, check_matrix
from jsamp.select._whiten import map_rows

WHOLE = 2048  # up to this many rows serve as their own embedding
BLOCK = 256  # rows solved at a time


class Bounds(NamedTuple):
    """Hold a certified interval around the l_p sensitivity of every row.

    Args:
        lower: [n], attained by an explicit x: never above the sensitivity.
        upper: [n], proved by a dual vector: never below the sensitivity.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> lower, upper = js.select.sensitivity_bounds(jnp.array([[1.0], [2.0], [-5.0]]), p=1.0)   # |a| / sum |a|
        >>> lower.round(3), upper.round(3)
        (Array([0.125, 0.25 , 0.625], dtype=float32), Array([0.125, 0.25 , 0.625], dtype=float32))
    """

    lower: Any
    upper: Any


def check_power(p: Any, who: str, low: float = 1.0) -> float:
    """The power p as a Python float, at least low."""
    if is_traced(p):
        raise TypeError(f"{who}: p is traced, but it chooses the method. Pass a Python float.")
    check_scalar(f"{who}: p", p, low=low, high=100)
    return float(p)


def _bounds(A, E, p, iterations, block, exact, axis_name=None):
    basis = basis_of(E)
    white, _ = white_rows(E, basis)
    rows, sound = white_rows(A, basis)
    sound = jnp.asarray(sound) & jnp.asarray(basis.sound)
    null = jnp.asarray(basis.null, A.dtype)
    if p == 2:
        return _prove(jnp.sum(rows * rows, 1), jnp.sum(rows * rows, 1), sound)
    return _solve(rows, white, null, sound, p, iterations, block, exact, axis_name)


def _prove(lower, upper, sound):
    """Bounds within [0, 1]; an upper bound of 1 where a direction may be lost, in which any row may be the largest."""
    lower = jnp.minimum(lower, 1)
    return Bounds(lower, jnp.where(sound, jnp.maximum(jnp.minimum(upper, 1), lower), 1))


@functools.partial(jax.jit, static_argnames=("p", "iterations", "block", "exact", "axis_name"))
def _solve(rows, white, null, sound, p, iterations, block, exact, axis_name):
    return over_mesh(lambda _, a: _solve_rows(a, white, null, sound, p, iterations, block, exact), axis_name, rows)


def _solve_rows(rows, white, null, sound, p, iterations, block, exact):
    def solve(part):
        live = jnp.sum(part * part, 1) > 0
        part = jnp.where(live[:, None], part, jnp.where(null > 0, 0, 1)[None].astype(part.dtype))
        best = reweight(part, white, null, p, iterations)
        best = walk_vertices(part, best, white, null) if p == 1 and exact else best
        bounds = _prove(best.lower, best.upper, True)
        upper = jnp.where(live, bounds.upper, 0)
        return Bounds(jnp.where(live, bounds.lower, 0), jnp.where(sound, upper, 1))

    return map_rows(solve, rows, block=block)


def sensitivity_bounds(A: Any, p: float, *, embedding: Any = None, iterations: int = 20, block: int = BLOCK) -> Bounds:
    """Bound the l_p sensitivities with certificates: s_i = sup_x |a_i x|^p / |A x|_p^p.

    1 / s_i = min |A x|_p^p over a_i x = 1 is solved for all rows at once in whitened coordinates: by reweighted least
    squares for p <= 2 (then by the simplex method with long steps at p = 1), and for p > 2 by Newton's method,
    reweighted least squares damped by 1/(p-1), while the exponent grows from 2 to p. Every x gives a lower bound and
    every y for which A^T y = nu a_i an upper bound (|y|_q / nu)^p, q = p/(p-1).

    Args:
        A: [n, d] rows.
        p: exponent >= 1, static.
        embedding: [m, d] rows E with |E x|_p ~ |A x|_p (for example `subset.row_scale(p)[:, None] * subset.take(A)`
            of a Lewis-weight sample), to replace A in the denominator. Default: A itself, m = n.
        iterations: reweighting steps, static. 20 close the gap to rounding for p > 2 and at p = 1 (where the simplex
            method finishes), and to 3e-10, 4e-7, 5e-4 for p = 1.5, 1.25, 1.05.
        block: rows solved at a time.

    Returns:
        `Bounds(lower, upper)`, within [0, 1]; rigorous for the embedding up to rounding, at every condition number:
        known rows are whitened in float64. For traced rows beyond the condition number of their dtype (4e5 in float32,
        or dependent columns) `upper` is 1. A column that equals a sum of others only up to rounding counts as one of
        its own: leave it out.

    Raises:
        ValueError: for p < 1, a non-finite A, or fewer rows than columns.
        TypeError: for a traced p or integer rows.

    Example:
        >>> import jax, jsamp as js
        >>> lower, upper = js.select.sensitivity_bounds(jax.random.normal(jax.random.key(0), (50, 3)), p=4.0)
        >>> bool((upper - lower).max() < 1e-5), 3 < lower.sum() < 15
        (True, Array(True, dtype=bool))

    Cost:
        N * iterations * m * d^2 multiply-adds, memory block * m + m d^2 / 2; at p = 1 several times that (n = m = 2000,
        d = 8: 6 s on one core, against 1 s for the scores of `sensitivity`).

    References:
        Woodruff and Yasuda, "Sharper Bounds for l_p Sensitivity Sampling", 2023, arXiv:2306.00732. Barrodale and
        Roberts, "An improved algorithm for discrete l_1 linear approximation", 1973.
    """
    p = check_power(p, "sensitivity_bounds")
    check_count("sensitivity_bounds: block", block)
    A, E = _check_pair(A, embedding, iterations, "sensitivity_bounds")
    _refuse_shards(A, embedding, None, "sensitivity_bounds")
    return _bounds(A, E, p, iterations, block, True)


def _refuse_shards(A: jax.Array, embedding: Any, axis_name: Any, who: str) -> None:
    if embedding is None and (axis_name is not None or mesh_axis(A) is not None):
        raise ValueError(f"{who}: sharded rows need embedding=, the same rows on every shard. Draw it by `lewis`.")


def _check_pair(A: Any, embedding: Any, iterations: int, who: str) -> tuple[jax.Array, jax.Array]:
    """A and the rows that stand for it in the denominator."""
    check_count(f"{who}: iterations", iterations)
    A = check_matrix(f"{who}: A", A, tall=embedding is None)
    if embedding is None:
        return A, A
    E = check_matrix(f"{who}: embedding", embedding)
    if E.shape[1] != A.shape[1]:
        raise ValueError(f"{who}: embedding has {E.shape[1]} columns, A has {A.shape[1]}. Match them.")
    return A, E


def _embedding(A, p):
    """Rows of A, drawn by Lewis weights with a fixed stream, that stand for A in the denominator."""
    num = max(WHOLE, 32 * A.shape[1])
    if A.shape[0] <= num:
        return A
    subset = draw(jax.random.key(0), lewis(A, p, tolerance=1e-2).weight, num, scheme="priority")
    return subset.row_scale(p)[:, None] * subset.take(A)


def sensitivity(
    A: Any,
    p: float,
    *,
    embedding: Any = None,
    scheme: Literal["combined", "plain"] = "combined",
    iterations: int = 12,
    axis_name: Any = None,
) -> jax.Array:
    """Score rows for subsets that preserve |A x|_p (recommended): draw by them and weight by 1/probability.

    "combined" is (s_i + tau_i) / 2, the mean of l_p sensitivity and leverage: sampling by it needs O(d / eps^2) rows up
    to logarithms for every p in [1, 2], where sensitivities alone need d^(1-p/2) times more, and fewer rows than
    either score for p > 2. At p = 2 the two are the same. "plain" is s_i itself, found from below by the
    reweighting of `sensitivity_bounds` (within 5e-3 at p = 1). For regression of b on A, score the rows of [A b].

    Args:
        A: [n, d] rows.
        p: exponent >= 1, static.
        embedding: rows that stand for A in the denominator, as in `sensitivity_bounds`. Default: A itself up to 2048
            (or 32 d) rows, else that many rows drawn by Lewis weights, which makes s_i approximate to some per cent.
        scheme: "combined" or "plain", static.
        iterations: reweighting steps, static.
        axis_name: mesh axis over which the rows of A are sharded; pass the same `embedding` on every shard.

    Returns:
        [n] scores in [0, 1].

    Raises:
        ValueError: for p < 1, a non-finite A, fewer rows than columns, or `axis_name` without `embedding`.

    Example:
        >>> import jax, jsamp as js
        >>> A = jax.random.normal(jax.random.key(0), (500, 4))
        >>> subset = js.select.draw(jax.random.key(1), js.select.sensitivity(A, p=1.0), 100)
        >>> subset.take(A).shape[1]
        4

    Cost:
        N * iterations * m * d^2 multiply-adds with m <= max(2048, 32 d) rows. `lewis` is an upper bound at n d^2 each
        iteration for p <= 2, and enough for sampling when n is large.

    References:
        Woodruff and Yasuda, "Sharper Bounds for l_p Sensitivity Sampling", 2023, arXiv:2306.00732 ("plain").
        Munteanu and Omlor, "Optimal bounds for l_p sensitivity sampling via l_2 augmentation", 2024, arXiv:2406.00328.
    """
    p = check_power(p, "sensitivity")
    check_choice("sensitivity: scheme", scheme, ("combined", "plain"))
    A = check_matrix("sensitivity: A", A, tall=axis_name is None and embedding is None)
    if p == 2 and embedding is None:
        return leverage(A, axis_name=axis_name)
    _refuse_shards(A, embedding, axis_name, "sensitivity")
    check_axis(axis_name, "sensitivity")
    A, E = _check_pair(A, _embedding(A, p) if embedding is None else embedding, iterations, "sensitivity")
    score = _bounds(A, E, p, iterations, BLOCK, False, axis_name).lower
    if scheme == "plain":
        return score
    if embedding is not None and axis_name is None and A.shape[0] < A.shape[1]:
        raise ValueError("sensitivity: A has fewer rows than columns; use scheme='plain' for a few rows at a time.")
    return (score + leverage(A, axis_name=axis_name)) / 2
