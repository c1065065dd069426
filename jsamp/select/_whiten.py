"""Gram matrices by row blocks, and the transform that whitens the rows of a tall matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jsamp.select._rows import inverse_power, largest_entry, smallest_top, top_bits, vanishing

BLOCK = 8192
WELL = 1 / 16  # a Gram this well conditioned needs no further pass over the rows

Gram = Callable[[jax.Array], jax.Array]


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Full-precision product (the default precision of accelerators is 16 bits)."""
    return jnp.matmul(a, b, precision="highest")


def split_rows(n: int, block: int) -> tuple[int, int]:
    """How many blocks of which size to cut n rows into; sizes that divide n are preferred, since they need no copy."""
    num = -(-n // block)
    for candidate in range(num, 2 * num):
        if n % candidate == 0:
            return candidate, n // candidate
    return num, n // num


def map_rows(fun: Callable[..., Any], *rows: Any, block: int = BLOCK) -> Any:
    """Fun over blocks of rows, results concatenated along the rows. None arguments pass through."""
    n = next(x for x in rows if x is not None).shape[0]
    num, size = split_rows(n, block)
    if num == 1:
        return fun(*rows)
    head = [None if x is None else x[: num * size].reshape(num, size, *x.shape[1:]) for x in rows]
    out = lax.map(lambda parts: fun(*parts), tuple(head))
    out = jax.tree.map(lambda x: x.reshape(num * size, *x.shape[2:]), out)
    if num * size < n:
        rest = fun(*(None if x is None else x[num * size :] for x in rows))
        out = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), out, rest)
    return out


def sum_rows(fun: Callable[..., Any], *rows: Any, block: int = BLOCK) -> Any:
    """Sum of fun over blocks of rows; fun maps blocks to a tree of arrays of fixed shapes."""
    n = next(x for x in rows if x is not None).shape[0]
    num, size = split_rows(n, block)
    if num == 1:
        return fun(*rows)
    head = [None if x is None else x[: num * size].reshape(num, size, *x.shape[1:]) for x in rows]
    total = fun(*(None if x is None else x[0] for x in head))
    more = tuple(None if x is None else x[1:] for x in head)
    total, _ = lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, fun(*part)), None), total, more)
    if num * size < n:
        rest = fun(*(None if x is None else x[num * size :] for x in rows))
        total = jax.tree.map(jnp.add, total, rest)
    return total


def block_gram(rows: jax.Array, weight: Any, transform: Any) -> jax.Array:
    """(rows T)^T diag(weight) (rows T) of one block."""
    rows = rows if transform is None else matmul(rows, transform)
    left = rows if weight is None else rows * weight[:, None]
    return matmul(left.T, rows)


def gram_of(A: jax.Array, weight: Any, ridge: Any, axis_name: Any, block: int) -> Gram:
    """The function T -> T^T (A^T W A + ridge I) T, blockwise, summed over a mesh axis."""

    def gram(transform: Any) -> jax.Array:
        if transform is None and weight is None:  # nothing of A's size is made on the way, so blocks would only cost
            total = matmul(A.T, A)
        else:
            total = sum_rows(lambda a, w: block_gram(a, w, transform), A, weight, block=block)
        total = total if axis_name is None else lax.psum(total, axis_name)
        return add_ridge(total, ridge, transform)

    return gram


def add_ridge(gram: jax.Array, ridge: Any, transform: Any) -> jax.Array:
    """T^T (A^T A + ridge I) T from T^T A^T A T; the root comes first, since T^T T may leave the range."""
    if ridge is None:
        return gram
    if transform is None:
        return gram + ridge * jnp.eye(gram.shape[0], dtype=gram.dtype)
    root = jnp.sqrt(jnp.asarray(ridge, gram.dtype)) * transform
    return gram + matmul(root.T, root)


def squared_norms(rows: jax.Array, transform: jax.Array) -> jax.Array:
    """|a T|^2 of every row."""
    return jnp.sum(matmul(rows, transform) ** 2, 1)


def column_scale(A: jax.Array, weight: Any, ridge: Any, axis_name: Any) -> jax.Array:
    """1 / the largest entry of every column [d] (of sqrt(weight) A, and of the ridge), as powers of two."""
    whole = (lambda top: top) if axis_name is None else lambda top: lax.pmax(top, axis_name)
    least = 0 if ridge is None else jnp.sqrt(lax.stop_gradient(jnp.asarray(ridge, A.dtype)))
    rows = [A]
    if weight is not None:
        root = jnp.sqrt(weight)[:, None]
        rows = [jnp.where(root > 0, A, 0), A * root]
    return inverse_scale([whole(top_bits(part, 0)) for part in rows], A.dtype, A.shape[0], least)


def inverse_scale(bits: Sequence[jax.Array], dtype: Any, num: int, least: Any) -> jax.Array:
    """The power of two near 1 / the top of columns of `num` rows, and at `least` that.

    Tops are given by their bits, the last ones after the weights. NaN where transforms would lose digits below `tiny`,
    or the rows, before or after their weights, have lost some.
    """
    before, after = bits[0], bits[-1]
    emptied = (before > 0) & (after == 0)
    lost = (least < smallest_top(dtype)) & (vanishing(before, dtype) | vanishing(after, dtype) | emptied)
    top = jnp.maximum(lax.bitcast_convert_type(after, dtype), least)
    return jnp.where(lost | (top > largest_entry(dtype, num)), jnp.nan, inverse_power(top))


def in_range(gram: jax.Array) -> jax.Array:
    """Whether the squares of every column neither overflowed nor got lost below the smallest numbers."""
    diagonal, info = jnp.diagonal(gram), jnp.finfo(gram.dtype)
    return jnp.all((diagonal > info.tiny / info.eps) & (diagonal < info.max * info.eps))


def first_gram(gram: Gram, scale: Callable[[], jax.Array]) -> tuple[jax.Array, jax.Array]:
    """A diagonal transform that keeps squares of columns in range, and the Gram after it.

    Columns in a usual range need none: only then is the second reading of the rows saved.
    """
    plain = gram(None)  # pyright: ignore[reportArgumentType]

    def scaled(_):
        diagonal = jnp.diag(scale())
        return diagonal, gram(diagonal)

    eye = jnp.diag(jnp.ones_like(jnp.diagonal(plain)))
    return lax.cond(in_range(plain), lambda g: (eye, g), scaled, plain)


def normalise(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A diagonal transform that gives columns unit norm, and the Gram after it."""
    diagonal = lax.stop_gradient(jnp.diagonal(gram))
    scale = jnp.where(diagonal > 0, lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1)), 1)
    return jnp.diag(scale), scale[:, None] * gram * scale[None]


def refine(transform: jax.Array, gram: jax.Array, *, cut: Any = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One whitening step with eigenvalues below d eps held up: transform, its Gram, and 1/condition.

    Directions with eigenvalues below `cut` (relative to the largest) are null and become zero: held up twice, the
    rounding errors in them would be as large as the rows.
    """
    value, vector = jnp.linalg.eigh(lax.stop_gradient(gram))
    top = jnp.where(value[-1] > 0, value[-1], 1)  # rows of zeros only: nothing to whiten
    floor = 4 * gram.shape[0] * jnp.finfo(gram.dtype).eps * top
    scale = lax.rsqrt(jnp.maximum(value, floor))
    step = vector * (scale if cut is None else jnp.where(value > cut * top, scale, 0))[None]
    return matmul(lax.stop_gradient(transform), step), matmul(step.T, matmul(gram, step)), value[0] / top


def null_cut(dtype: Any) -> Any:
    """Relative threshold: an eigenvalue of the second Gram below it marks a null direction (about 1e-3 eps)."""
    return 4 * jnp.finfo(dtype).eps


def finish(transform: jax.Array, gram: jax.Array, cut: Any) -> tuple[jax.Array, jax.Array]:
    """The whitening transform [d, d] and the rank: directions with eigenvalues below `cut` are null and become zero.

    Only the last factor carries gradients: scores do not depend on the (constant) transforms before it.
    """
    value, vector = jnp.linalg.eigh(lax.stop_gradient(gram))
    keep = value > cut
    step = vector * jnp.where(keep, lax.rsqrt(jnp.where(keep, value, 1)), 0)[None]
    core = matmul(step.T, matmul(gram, step)) + jnp.diag((~keep).astype(gram.dtype))
    lower = jnp.linalg.cholesky(core)
    inverse = jax.scipy.linalg.solve_triangular(lower, jnp.eye(gram.shape[0], dtype=gram.dtype), lower=True)
    return matmul(matmul(lax.stop_gradient(transform), step), inverse.T), jnp.sum(keep)


def whiten(gram: Gram, method: str, scale: Callable[[], jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The transform M [d, d] for which the rows a M have the identity as their Gram, and the numerical rank.

    `scale` gives the factors of the columns, asked for when their squares leave the range of the dtype. "cholqr2"
    passes over the rows at most twice, "shifted3" three times, "auto" once, twice or three times as the condition
    number asks.
    """
    ranged, first = first_gram(gram, scale)
    transform, first = normalise(first)
    transform, predicted, quality = refine(matmul(ranged, transform), first)
    cut2 = 16 * first.shape[0] * jnp.finfo(first.dtype).eps

    def two(_):
        return finish(transform, gram(transform), cut2)

    def three(second):
        further, _, _ = refine(transform, second, cut=null_cut(second.dtype))
        return finish(further, gram(further), WELL)

    def two_or_three(_):
        second = gram(transform)
        value = jnp.linalg.eigvalsh(lax.stop_gradient(second))
        return lax.cond(value[0] > WELL * value[-1], lambda g: finish(transform, g, WELL), three, second)

    if method == "shifted3":
        return three(gram(transform))
    slow = two if method == "cholqr2" else two_or_three
    return lax.cond(quality > WELL, lambda g: finish(transform, g, WELL / 4), slow, predicted)
