"""Linear measurements y = A x: applying them, their transposes and their inverses."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp._core._checks import check_callable, check_count, check_number, concrete, is_traced
from jsamp._core._like import broadcast
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Key, Model
from jsamp.denoise import _fields
from jsamp.denoise._algebra import solve_positive


@pytree
class SVD:
    """Give a singular value decomposition A = U diag(values) V^T by functions, with the full basis V.

    Args:
        values: [n] singular values, n the number of numbers in x; zeros for directions that A does not see.
        v: coordinates [n] -> x.
        vt: x -> coordinates [n].
        ut: y -> [n] coordinates along the left singular vectors; anything where the value is 0.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> svd = js.denoise.LinearOp.mask(jnp.array([1.0, 0.0])).svd
        >>> svd.inverse(jnp.array([3.0, 0.0])).tolist()
        [3.0, 0.0]

    Cost:
        That of its functions; memory of the singular values.
    """

    values: Any = field(check=_fields.number(0), convert=lambda name, value: _fields.as_numbers(value))
    v: Model = field(convert=_fields.callable_as("v(array)"))
    vt: Model = field(convert=_fields.callable_as("vt(array)"))
    ut: Model = field(convert=_fields.callable_as("ut(array)"))

    def inverse(self, y: Any, noise: Any = None) -> Any:
        """Compute A^T (A A^T + noise^2 I)^+ y; without noise the pseudo-inverse of A."""
        c = self.ut(y)
        s = jnp.asarray(self.values, c.dtype)
        seen = s > 0
        safe = jnp.where(seen, s, 1)
        total = safe if noise is None else safe + jnp.asarray(noise, c.dtype) ** 2 / safe
        return self.v(jnp.where(seen, c / total, 0))


def _check_svd(name: str, svd: Any) -> None:
    if svd is not None and not isinstance(svd, SVD):
        raise TypeError(f"{name} must be a js.denoise.SVD, got {type(svd).__name__}.")


@pytree
class LinearOp:
    """Measure y = A x, of any shapes or trees, with what is known of the inverse of A.

    `LinearOp.mask`, `LinearOp.pool` and `LinearOp.dense` make the common ones. A mask or a matrix is a leaf: another
    one of the same shape does not retrace.

    Args:
        apply: callable tree x -> y, linear; for one sample.
        adjoint: y -> A^T y; None derives it by `jax.linear_transpose`.
        pinv: y -> A^+ y, the pseudo-inverse; None uses `svd`, or solves.
        svd: an `SVD` of A, or None.

    Returns:
        Called with x: A x.

    Raises:
        TypeError: for something that cannot be called.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> op = js.denoise.LinearOp(lambda x: x[:2] - x[1:])
        >>> op.transpose(jnp.array([1.0, 2.0]), like=jnp.zeros(3)).tolist()
        [1.0, 1.0, -2.0]

    Cost:
        One call of `apply`; `transpose` costs as much. `inverse` is one call of `pinv` or two of the basis of `svd`,
        else `apply` and its transpose in every iteration.
    """

    apply: Model = field(convert=_fields.callable_as("apply(x)"))
    adjoint: Any = field(default=None, convert=_fields.callable_as("adjoint(y)", optional=True))
    pinv: Any = field(default=None, convert=_fields.callable_as("pinv(y)", optional=True))
    svd: SVD | None = field(default=None, check=_check_svd)

    @classmethod
    def mask(cls, mask: Any) -> LinearOp:
        """Keep the numbers of x where the mask, of the structure of x, is 1 or True; put 0 elsewhere: inpainting."""
        for leaf in jax.tree.leaves(mask):
            known = concrete(leaf)
            if known is not None and not np.all((known == 0) | (known == 1)):
                raise ValueError("LinearOp.mask: mask must hold 0 and 1 only. Weighted: LinearOp(lambda x: w * x).")
        mask = _fields.mask(mask)
        keep = jax.tree_util.Partial(_keep, mask)
        flat = [jnp.ravel(leaf) if is_traced(leaf) else np.ravel(leaf) for leaf in jax.tree.leaves(mask)]
        values = (jnp if is_traced(mask) else np).concatenate(flat).astype(float)
        svd = SVD(values, jax.tree_util.Partial(_split_like, mask), _join, _join)
        return cls(keep, keep, keep, svd)

    @classmethod
    def pool(cls, shape: tuple[int, ...], factor: tuple[int, ...]) -> LinearOp:
        """Average over blocks: `pool((28, 28, 1), (4, 4, 1))` maps x of that shape to [7, 7, 1]."""
        shape, factor = tuple(shape), tuple(factor)
        for name, sizes in (("shape", shape), ("factor", factor)):
            for size in sizes:
                check_count(f"LinearOp.pool: {name}", size)
        if len(shape) != len(factor) or any(n % f for n, f in zip(shape, factor, strict=False)):
            raise ValueError(f"LinearOp.pool: want one factor for each axis that divides it, got {shape} and {factor}.")
        blocks, size = math.prod(n // f for n, f in zip(shape, factor, strict=True)), math.prod(factor)
        values = np.zeros((blocks, size))
        values[:, 0] = size**-0.5
        part = lambda kind: _Pool(shape, factor, kind)
        svd = SVD(values.ravel(), part("v"), part("vt"), part("ut"))
        return cls(part("mean"), part("transpose"), part("repeat"), svd)

    @classmethod
    def dense(cls, matrix: Any, shape: tuple[int, ...] | None = None) -> LinearOp:
        """Multiply by a matrix [m, n], x in `shape` (default [n]), with its singular values when not traced."""
        if np.ndim(matrix) != 2:
            raise ValueError(f"LinearOp.dense: matrix must be [m, n], got shape {np.shape(matrix)}.")
        check_number("LinearOp.dense: matrix", matrix)
        m, n = np.shape(matrix)
        shape = (n,) if shape is None else tuple(shape)
        if math.prod(shape) != n:
            raise ValueError(f"LinearOp.dense: shape {shape} does not hold the {n} numbers that the matrix takes.")
        known = concrete(matrix)
        if known is None:
            return cls(_Dense(matrix, shape, (m,)), _Dense(matrix.T, (m,), shape))
        known = known.astype(np.float64)
        u, s, vt = np.linalg.svd(known)
        s = np.where(s > s.max(initial=0) * max(m, n) * np.finfo(np.float32).eps, s, 0)
        values, ut = np.zeros(n), np.zeros((n, m))
        values[: s.size], ut[: s.size] = s, u.T[: s.size]
        svd = SVD(values, _Dense(vt.T, (n,), shape), _Dense(vt, shape, (n,)), _Dense(ut, (m,), (n,)))
        return cls(_Dense(known, shape, (m,)), _Dense(known.T, (m,), shape), None, svd)

    def __call__(self, x: Any) -> Any:
        """A x."""
        return self.apply(x)

    def transpose(self, y: Any, like: Any) -> Any:
        """Compute A^T y. `like` has the shapes of x, from which a missing adjoint is derived."""
        if self.adjoint is not None:
            return self.adjoint(y)
        return jax.linear_transpose(self.apply, like)(y)[0]

    def inverse(self, y: Any, like: Any, noise: Any = None, *, iterations: int | None = None) -> Any:
        """Compute A^T (A A^T + noise^2 I)^+ y; without noise the pseudo-inverse A^+ y.

        By `pinv` when there is no noise, else by the singular values; where they are not known, by an exact solve for
        up to 64 numbers of y and 64 steps of conjugate gradients for more, or by `iterations` of them.
        """
        if self.pinv is not None and noise is None:
            return self.pinv(y)
        if self.svd is not None:
            return self.svd.inverse(y, noise)
        flat, unflat = ravel_pytree(y)

        def matvec(u):
            seen = ravel_pytree(self.apply(self.transpose(unflat(u), like)))[0]
            return seen if noise is None else seen + jnp.asarray(noise, u.dtype) ** 2 * u

        return self.transpose(unflat(solve_positive(matvec, flat, iterations)), like)

    def mismatch(self, key: Key, like: Any) -> Any:
        """|<A x, y> - <x, A^T y>| / (|A x| |y|) at random x and y: about rounding for a true adjoint."""
        first, second = jax.random.split(key)
        flat, unflat = ravel_pytree(like)
        x = unflat(jax.random.normal(first, flat.shape, flat.dtype))
        seen, back = ravel_pytree(self.apply(x))
        y = jax.random.normal(second, seen.shape, seen.dtype)
        other = ravel_pytree(self.transpose(back(y), like))[0]
        gap = jnp.sum(seen * y) - jnp.sum(ravel_pytree(x)[0] * other)
        return jnp.abs(gap) / jnp.sqrt(jnp.sum(seen**2) * jnp.sum(y**2))


def _keep(mask, x):
    return jax.tree.map(jnp.multiply, broadcast("LinearOp.mask: mask", mask, x), x)


def _join(x):
    return jnp.concatenate([jnp.ravel(v) for v in jax.tree.leaves(x)])


def _split_like(mask, c):
    leaves, structure = jax.tree.flatten(mask)
    parts = jnp.split(c, np.cumsum([np.size(leaf) for leaf in leaves])[:-1])
    return jax.tree.unflatten(structure, [p.reshape(np.shape(leaf)) for p, leaf in zip(parts, leaves, strict=True)])


@pytree
class _Dense:
    """A matrix between two shapes."""

    matrix: Any
    start: tuple[int, ...] = static()
    end: tuple[int, ...] = static()

    def __call__(self, x):
        if jnp.shape(x) != self.start:
            raise ValueError(f"LinearOp.dense: want shape {self.start}, got {jnp.shape(x)}.")
        x = jnp.asarray(x)
        return jnp.matmul(jnp.asarray(self.matrix, x.dtype), x.reshape(-1), precision="highest").reshape(self.end)


@pytree
class _Pool:
    """Averages over blocks, their transpose and pseudo-inverse, and a basis in which they are diagonal."""

    shape: tuple[int, ...] = static()
    factor: tuple[int, ...] = static()
    kind: str = static()

    @property
    def _small(self):
        return tuple(n // f for n, f in zip(self.shape, self.factor, strict=True))

    def _blocks(self, x):
        """An array [shape] as [blocks, numbers in a block]."""
        if jnp.shape(x) != self.shape:
            raise ValueError(f"LinearOp.pool: x must have shape {self.shape}, got {jnp.shape(x)}.")
        rank = len(self.shape)
        pairs = [v for pair in zip(self._small, self.factor, strict=True) for v in pair]
        x = jnp.reshape(x, pairs).transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))
        return x.reshape(math.prod(self._small), -1)

    def _unblocks(self, blocks):
        rank = len(self.shape)
        order = [v for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for v in pair]
        return blocks.reshape(*self._small, *self.factor).transpose(*order).reshape(self.shape)

    def _reflect(self, blocks):
        """The symmetric orthogonal matrix that maps the first unit vector to the constant one, on each block."""
        size = blocks.shape[1]
        w = np.full(size, -(size**-0.5))
        w[0] += 1
        if size == 1:
            return blocks
        w = jnp.asarray(w / np.linalg.norm(w), blocks.dtype)[None]
        return blocks - 2 * jnp.sum(blocks * w, axis=1, keepdims=True) * w

    def __call__(self, v):
        size = math.prod(self.factor)
        if self.kind == "mean":
            return jnp.mean(self._blocks(v), axis=1).reshape(self._small)
        if self.kind == "vt":
            return self._reflect(self._blocks(v)).reshape(-1)
        if self.kind == "v":
            return self._unblocks(self._reflect(v.reshape(-1, size)))
        if jnp.shape(v) != self._small:
            raise ValueError(f"LinearOp.pool: y must have shape {self._small}, got {jnp.shape(v)}.")
        column = jnp.reshape(v, (-1, 1))
        if self.kind == "ut":
            return jnp.pad(column, ((0, 0), (0, size - 1))).reshape(-1)
        whole = self._unblocks(jnp.broadcast_to(column, (column.shape[0], size)))
        return whole if self.kind == "repeat" else whole / size


def check_operator(name: str, op: Any) -> LinearOp:
    """Return a `LinearOp`, made of a bare linear function where one is given."""
    check_callable(name, op, "op(x)")
    return op if isinstance(op, LinearOp) else LinearOp(op)
