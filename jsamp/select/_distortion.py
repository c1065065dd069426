"""Measure how well a subset keeps the norm, and how many rows that takes."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_choice, check_count, check_number
from jsamp.select._basis import basis_of, white_rows
from jsamp.select._rows import check_matrix
from jsamp.select._sensitivity import check_power
from jsamp.select._subset import Subset, check_subset
from jsamp.select._whiten import matmul, sum_rows


def _power_sum(rows, weight, x, p):
    """sum_i weight_i |row_i x|^p for every column of x, and its gradient, by blocks."""

    def block(a, w):
        r = matmul(a, x)
        size = jnp.abs(r)
        value, slope = size**p, jnp.sign(r) * jnp.where(size > 0, size, 1) ** (p - 1)
        if w is not None:
            value, slope = value * w[:, None], slope * w[:, None]
        return jnp.sum(value, 0), p * matmul(a.T, slope)

    return sum_rows(block, rows, weight)


@functools.partial(jax.jit, static_argnames=("p", "restarts", "iterations"))
def _distortion(white, null, subset, p, restarts, iterations):
    A = white
    kept = subset.take(white)
    weight = jnp.where(subset.mask, subset.weight, 0)
    value, vector = jnp.linalg.eigh(matmul(kept.T, kept * weight[:, None]) + jnp.diag(null.astype(A.dtype)))
    if p == 2:
        return jnp.maximum(value[-1] - 1, 1 - value[0])
    _, heavy = lax.top_k(jnp.sum(white * white, 1), min(restarts, A.shape[0]))
    first = jnp.concatenate([vector, white[heavy].T], 1)
    first = jnp.where(null[:, None], 0, first)

    def ratio(x):
        top, top_slope = _power_sum(kept, weight, x, p)
        low, low_slope = _power_sum(white, None, x, p)
        low = jnp.maximum(low, jnp.finfo(low.dtype).tiny)
        # Slope of log ratio; where the sample sees nothing the ratio is 0 and cannot fall further.
        safe = jnp.where(top > 0, top, 1)
        return top / low, top_slope / safe[None] - low_slope / low[None]

    def unit(x):
        return x / jnp.maximum(jnp.sqrt(jnp.sum(x * x, 0, keepdims=True)), 1e-30)

    def climb(sign):
        def step(carry, length):
            x, best = carry
            value, slope = ratio(x)
            best = jnp.maximum(best, jnp.max(sign * (value - 1)))
            return (unit(x + sign * length * unit(slope)), best), None

        lengths = 0.5 / (1 + 0.3 * jnp.arange(iterations, dtype=A.dtype))
        (x, best), _ = lax.scan(step, (unit(first), jnp.zeros_like(A[0, 0])), lengths)
        return jnp.maximum(best, jnp.max(sign * (ratio(x)[0] - 1)))

    return jnp.maximum(climb(1.0), climb(-1.0))


def distortion(A: Any, subset: Subset, p: float = 2.0, *, restarts: int = 32, iterations: int = 30) -> jax.Array:
    """Measure how far a weighted subset changes the norm: sup_x | sum_j w_j |a_j x|^p / |A x|_p^p - 1 |.

    At p = 2 the exact value, from eigenvalues: known rows are whitened in float64; of traced rows, directions beyond
    the condition number of their dtype (4e5 in float32) are left out. For other p the problem is not convex, and the
    value is the largest one found by climbing from the extreme directions of p = 2 and from the heaviest rows: a
    certified lower bound, to be read as ">=". A subset that misses a direction has distortion 1 or more.

    Args:
        A: [n, d] rows.
        subset: what `draw` returned for these rows.
        p: exponent >= 1, static.
        restarts: heavy rows to start from, static; the d extreme directions of p = 2 are always used.
        iterations: steps of each climb, static.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: for p < 1, or a non-finite A.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> A = jax.random.normal(jax.random.key(0), (300, 3))
        >>> everything = js.select.Subset(jnp.arange(300), jnp.ones(300), jnp.ones(300, bool))
        >>> bool(js.select.distortion(A, everything, p=1.0) < 1e-5)
        True

    Cost:
        One Gram for p = 2; else 4 * iterations * n * d * (restarts + d) multiply-adds. Memory n x d.
    """
    p = check_power(p, "distortion")
    A = check_matrix("distortion: A", A)
    check_count("distortion: restarts", restarts)
    check_count("distortion: iterations", iterations)
    check_subset(subset, A.shape[0], "distortion")
    basis = basis_of(A)
    white, _ = white_rows(A, basis)
    return _distortion(white, jnp.asarray(basis.null), subset, p, restarts, iterations)


def sample_size(
    eps: float, scheme: Literal["combined", "plain", "lewis", "root_leverage", "classic"] = "combined", *, dim: int,
    p: float, total: float | None = None, constant: float = 1.0,
    delta: float | None = None,
) -> int:  # fmt: skip
    """Compute the rows to draw for distortion eps, by the theory of each scheme: constant * X / eps^2.

    X is:

    - "combined" (sensitivity + leverage): S + d for p <= 2, d^(2/p) S^(2-4/p) for p > 2
    - "plain" (sensitivity alone): d^(1-p/2) S for p <= 2, S^(2-2/p) for p > 2
    - "lewis": d for p <= 2, d^(p/2) for p > 2
    - "root_leverage", sampled again and again: d, over eps^(4/p) instead of eps^2, for p <= 2
    - "classic": S d

    where S is the sum of the sensitivities. The theorems hide constants and powers of logarithms: treat the number as
    a scale, measure `distortion`, and set `constant` from it.

    Args:
        eps: wanted distortion, in (0, 1).
        scheme: see above.
        dim: columns d.
        p: exponent >= 1.
        total: S; default its largest possible value, d for p <= 2 and d^(p/2) for p > 2.
        constant: factor in front.
        delta: failure probability; multiplies by log(dim / delta) when given.

    Returns:
        A count, at least d.

    Raises:
        ValueError: for eps outside (0, 1), p < 1, dim < 1, an unknown scheme, or "root_leverage" for p > 2.

    Example:
        >>> import jsamp as js
        >>> js.select.sample_size(0.5, dim=64, p=1.0), js.select.sample_size(0.5, "plain", dim=64, p=1.0)
        (512, 2048)

    Cost:
        Host arithmetic.

    References:
        Woodruff and Yasuda, 2023, arXiv:2306.00732. Chen and Derezinski, "Query complexity of least absolute deviation
        regression via robust uniform convergence", 2021, arXiv:2102.02322. Munteanu and Omlor, 2024, arXiv:2406.00328.
    """
    check_number("sample_size: eps", eps, low=0, high=1 - 1e-12, open_low=True)
    check_choice("sample_size: scheme", scheme, ("combined", "plain", "lewis", "root_leverage", "classic"))
    d, p = float(check_count("sample_size: dim", dim)), check_power(p, "sample_size")
    S = (d if p <= 2 else d ** (p / 2)) if total is None else float(total)
    check_number("sample_size: total", S, low=0, open_low=True)
    check_number("sample_size: constant", constant, low=0, open_low=True)
    if scheme == "root_leverage" and p > 2:
        raise ValueError(f"sample_size: root leverage bounds sensitivities for p <= 2 only, got p={p}. Use 'combined'.")
    if p <= 2:
        need = {"combined": S + d, "plain": d ** (1 - p / 2) * S, "lewis": d, "root_leverage": d, "classic": S * d}
    else:
        combined = d ** (2 / p) * S ** (2 - 4 / p)
        need = {"combined": combined, "plain": S ** (2 - 2 / p), "lewis": d ** (p / 2), "classic": S * d}
    power = 4 / p if scheme == "root_leverage" else 2
    if delta is not None:
        check_number("sample_size: delta", delta, low=0, high=1 - 1e-12, open_low=True)
        constant = constant * math.log(d / delta)
    return max(int(d), math.ceil(constant * need[scheme] / eps**power - 1e-9))
