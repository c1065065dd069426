"""A basis in which certificates are proved: rows whitened in float64 on the host, whatever their condition number."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import is_traced
from jsamp._core._mesh import mesh_axis
from jsamp.select._rows import largest_entry, refuse_out_of_range, smallest_top
from jsamp.select._whiten import BLOCK, column_scale, gram_of, matmul, whiten

BEARS = 1e2  # condition number up to which float32 products lose nothing that a certificate needs


class Basis(NamedTuple):
    """Hold the transform [d, d] whose columns make E white, its null columns, and how far it can be trusted.

    `sound` is False where a direction may have been lost: E was traced, and ill-conditioned for its dtype.
    """

    transform: Any
    null: Any
    sound: Any
    condition: Any


def _on_host(*arrays: Any) -> bool:
    return not is_traced(*arrays) and all(x.is_fully_addressable and mesh_axis(x) is None for x in arrays)


def basis_of(E: jax.Array) -> Basis:
    """Whiten the rows E: exactly, by QR in float64, when they are known; on the device when they are traced."""
    if not _on_host(E):
        gram = gram_of(E, None, None, None, BLOCK)
        transform, rank = whiten(gram, "auto", lambda: column_scale(E, None, None, None))
        null = jnp.sum(transform * transform, 0) == 0
        return Basis(transform, null, rank == E.shape[1], None)
    rows = np.asarray(E, np.float64)
    top = np.abs(rows).max(0)
    if top.max() > largest_entry(E.dtype, len(rows)) or (top[top > 0] < smallest_top(E.dtype)).any():
        refuse_out_of_range("the matrix of rows", E.dtype, len(rows))
    scale = 1 / np.where(top > 0, top, 1)
    triangle = np.zeros((0, rows.shape[1]))
    for start in range(0, len(rows), BLOCK):
        triangle = np.linalg.qr(np.concatenate([triangle, rows[start : start + BLOCK] * scale]), mode="r")
    _, size, axes = np.linalg.svd(triangle)
    keep = size > size[0] * len(size) * 4 * np.finfo(np.float64).eps
    transform = scale[:, None] * axes.T * np.where(keep, 1 / np.where(keep, size, 1), 0)
    return Basis(transform, ~keep, True, size[0] / size[keep].min() if keep.any() else 1.0)


def white_rows(A: jax.Array, basis: Basis) -> tuple[jax.Array, Any]:
    """The rows A in the basis, in A's dtype, and whether they are right to its precision."""
    if not isinstance(basis.transform, np.ndarray):
        return matmul(A, basis.transform), basis.sound
    if basis.condition > BEARS and _on_host(A):
        return jnp.asarray(np.asarray(A, np.float64) @ basis.transform, A.dtype), True
    return matmul(A, jnp.asarray(basis.transform, A.dtype)), basis.condition < 1e3 * BEARS
