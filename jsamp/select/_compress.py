"""Kernel thinning in nearly linear time: halve small sets, join them, halve again."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_count, check_flag, check_key, check_scalar
from jsamp._core._types import Key
from jsamp.select._kernel import PairKernel, _as_kernel, _halve, _swap, check_rounds, thinning
from jsamp.select._rows import check_matrix
from jsamp.select._subset import Subset


def compress(
    key: Key, X: Any, rounds: int, *, oversample: int = 4, kernel: PairKernel | None = None, delta: float = 0.5,
    swap: bool = True,
) -> Subset:  # fmt: skip
    """Keep n / 2^rounds rows that imitate all n, as `thinning` does, at a fraction of its cost: Compress++.

    The shuffled rows are cut into 4^(rounds - oversample) sets. Four sets at a time are joined and halved by kernel
    halving, until one set is left, 2^oversample times as large as wanted; that is thinned. So no halving sees many
    rows. To square-root size (2^rounds about sqrt n) the error stays within a small factor of `thinning`'s, less with
    more `oversample`.

    Args:
        key: one JAX key.
        X: [n, d] rows.
        rounds: halvings, static.
        oversample: rounds that the last thinning does, static; `rounds` or more is `thinning` itself.
        kernel: as in `herding`.
        delta: failure probability in the halving thresholds, in (0, 1), static.
        swap: end with a round of best swaps within the last set, static.

    Returns:
        `Subset`, each weight n / number of rows. At most 4^(rounds - oversample) - 1 rows, drawn at random, are left
        out of the sets.

    Raises:
        ValueError: for a non-finite X, or fewer than 2^rounds or 4^(rounds - oversample) rows.

    Example:
        >>> import jax, jsamp as js
        >>> X = jax.random.normal(jax.random.key(0), (1024, 2))
        >>> subset = js.select.compress(jax.random.key(1), X, 5)            # 32 rows by way of 512
        >>> subset.index.shape, bool(abs(subset.take(X).mean(0) - X.mean(0)).max() < 0.3)
        ((32,), True)

    Cost:
        4 (rounds - oversample) n^2 / 4^(rounds - oversample) kernel values, and those of thinning the last set.

    References:
        Shetty, Dwivedi and Mackey, "Distribution compression in near-linear time", 2022, arXiv:2111.07941.
    """
    check_key(key, "compress")
    X = check_matrix("compress: X", X, tall=False)
    n = X.shape[0]
    check_rounds("compress", rounds, n)
    check_count("compress: oversample", oversample, low=0)
    check_scalar("compress: delta", delta, low=0, high=1 - 1e-9, open_low=True)
    check_flag("compress: swap", swap)
    depth = rounds - oversample
    if depth <= 0:
        return thinning(key, X, rounds, kernel=kernel, delta=delta, swap=swap)
    if 4**depth > n:
        raise ValueError(f"compress: {n} rows are no {4**depth} sets. Lower rounds, or raise oversample to {rounds}.")
    return _compress(key, X, _as_kernel(kernel, X, "compress"), depth, oversample, float(delta), bool(swap))


@functools.partial(jax.jit, static_argnames=("depth", "oversample", "delta", "swap"))
def _compress(key, X, kernel, depth, oversample, delta, swap):
    n = X.shape[0]
    order, halving, last = jax.random.split(key, 3)
    size = n // 4**depth
    sets = jax.random.permutation(order, n)[: size * 4**depth].astype(jnp.int32).reshape(-1, size)
    for level in range(depth):
        sets = sets.reshape(-1, 4 * sets.shape[1])
        num, m = sets.shape
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(halving, level), jnp.arange(num))
        # Half of delta, by the squares of the sizes: the sum over all halvings of m^2 is 4 depth n size.
        share = delta / 2 * m**2 / (4 * depth * size**2 * 4**depth)
        sets = jax.vmap(lambda key, index, share=share: _halve(key, X, index, kernel, share))(keys, sets)
    few = X[sets[0]]
    index = jnp.arange(few.shape[0], dtype=jnp.int32)
    for r in range(oversample):
        index = _halve(jax.random.fold_in(last, r), few, index, kernel, delta / 2 / max(oversample, 1))
    if swap:
        index = _swap(few, index, kernel, 512)
    m = index.shape[0]
    return Subset(sets[0][index], jnp.full((m,), n / m, X.dtype), jnp.ones((m,), bool))
