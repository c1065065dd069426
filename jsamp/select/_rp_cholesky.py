"""A partial Cholesky factor of a kernel matrix whose pivots are drawn at random."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_count, check_key
from jsamp._core._types import Key
from jsamp.select._draw import draw_categorical
from jsamp.select._kernel import PairKernel, _as_kernel
from jsamp.select._rows import check_matrix
from jsamp.select._subset import Subset
from jsamp.select._whiten import map_rows


class PartialCholesky(NamedTuple):
    """Hold pivots and the factor F of a kernel matrix K: F F^T is K on the pivots' rows, and below K elsewhere.

    Args:
        subset: the pivots, each weight n / number of pivots. Slots stay unused once nothing is left to explain.
        factor: [n, num], lower triangular on the pivots' rows.
        residual: [n] diagonal of K - F F^T; its sum is the trace error.

    Example:
        >>> import jax, jsamp as js
        >>> X = jax.random.normal(jax.random.key(0), (50, 2))
        >>> js.select.rp_cholesky(jax.random.key(1), X, 5).factor.shape
        (50, 5)
    """

    subset: Any
    factor: Any
    residual: Any


def rp_cholesky(key: Key, X: Any, num: int, *, kernel: PairKernel | None = None) -> PartialCholesky:
    """Choose `num` rows that explain a kernel matrix, with the factor that does: randomly pivoted Cholesky.

    Each pivot is drawn with probability proportional to the diagonal of what is not explained yet, so that outliers do
    not take all pivots (as the largest would) and crowds are not drawn again and again (as by the diagonal itself). The
    factor is that of a Nystrom approximation: K is never formed. F F^T stands for K in regression, clustering and
    Gaussian processes.

    Args:
        key: one JAX key.
        X: [n, d] rows.
        num: pivots, static.
        kernel: positive semi-definite (x [a, d], y [b, d]) -> [a, b]. Default `GaussianKernel(1.0)`: scale X, or pass a
            bandwidth.

    Returns:
        `PartialCholesky(subset, factor, residual)`.

    Raises:
        ValueError: for a non-finite X, or num > n.
        TypeError: for a kernel that is not callable.

    Example:
        >>> import jax, jsamp as js
        >>> X = jax.random.normal(jax.random.key(0), (200, 2))
        >>> low = js.select.rp_cholesky(jax.random.key(1), X, 40)
        >>> bool(low.residual.sum() < 0.05 * 200)                       # 40 of 200 columns explain 95% of the trace
        True

    Cost:
        n num kernel values, n num^2 multiply-adds, memory n num.

    References:
        Chen, Epperly, Tropp and Webber, "Randomly pivoted Cholesky: practical approximation of a kernel matrix with few
        entry evaluations", 2022, arXiv:2207.06503.
    """
    check_key(key, "rp_cholesky")
    X = check_matrix("rp_cholesky: X", X, tall=False)
    check_count("rp_cholesky: num", num, high=X.shape[0])
    return _rp_cholesky(key, X, _as_kernel(kernel, X, "rp_cholesky"), num)


@functools.partial(jax.jit, static_argnames=("num",))
def _rp_cholesky(key, X, kernel, num):
    n = X.shape[0]
    whole = map_rows(jax.vmap(lambda row: kernel(row[None], row[None])[0, 0]), X)
    # What is smaller is rounding: a pivot there would divide by noise.
    floor = 8 * jnp.finfo(whole.dtype).eps * jnp.max(whole)

    def step(carry, t):
        factor, rest = carry
        alive = jnp.max(rest) > 0
        drawn = draw_categorical(jax.random.fold_in(key, t), jnp.where(alive, jnp.log(rest), 0))
        index = jnp.where(alive, drawn, 0)
        column = kernel(X[index][None], X)[0] - jnp.matmul(factor[:, index], factor, precision="highest")
        row = jnp.where(alive, column / jnp.sqrt(jnp.where(alive, rest[index], 1)), 0)
        left = rest - row * row
        left = jnp.where(left > floor, left, 0).at[index].set(0)
        return (factor.at[t].set(row), jnp.where(alive, left, rest)), (index, alive)

    start = (jnp.zeros((num, n), whole.dtype) + 0 * whole[None], whole)
    (factor, rest), (index, alive) = lax.scan(step, start, jnp.arange(num))
    weight = jnp.where(alive, n / jnp.maximum(jnp.sum(alive), 1), 0).astype(whole.dtype)
    return PartialCholesky(Subset(index.astype(jnp.int32), weight, alive), factor.T, rest)
