"""Distances between sets of samples by transport: Frechet and sliced Wasserstein."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._types import Key
from jsamp.estimate import _arrays
from jsamp.estimate._pairs import centred
from jsamp.estimate._types import Estimate
from jsamp.select._whiten import matmul

PANEL = 128
"""Rows of a panel of a tall factorisation, at least."""


def _triangle(x):
    """R of x = Q R, from those of panels of rows: one tall factorisation makes LAPACK's threads wait for each other."""
    n, d = x.shape
    panels = n // max(PANEL, 2 * d)
    if panels < 2:
        return jnp.linalg.qr(x, mode="r")
    rows = -(-n // panels)
    padded = jnp.pad(x, ((0, rows * panels - n), (0, 0)))
    triangles = jnp.linalg.qr(padded.reshape(rows, panels, d).swapaxes(0, 1), mode="r")
    return _triangle(triangles.reshape(panels * d, d))


def _coupling(x, y):
    """Couple two Gaussians, given by centred rows: the values s between, R_x^-1 u and R_y^-1 v."""
    rx, ry = _triangle(x), _triangle(y)
    # Factors of the covariances, never squared: the root of the product is the nuclear norm of R_x R_y^T.
    u, s, vt = jnp.linalg.svd(matmul(rx, ry.T), full_matrices=False)
    # Where R has no inverse s is 0, and where it is nearly singular s is as small as the inverse is large.
    over = lambda r, basis: matmul(jnp.linalg.pinv(r), basis)
    return s, over(rx, u), over(ry, vt.T)


@jax.custom_jvp
def _overlap(x, y):
    """The nuclear norm of x y^T, and its coupling, which is not differentiated."""
    coupling = _coupling(x, y)
    return jnp.sum(coupling[0]), coupling


@_overlap.defjvp
def _overlap_jvp(primals, tangents):
    # Not by QR and SVD, whose derivatives do not exist for fewer rows than features or equal values.
    x, y = primals
    s, left, right = coupling = _coupling(x, y)
    p, q = (matmul(rows, turn) for rows, turn in ((x, left), (y, right)))
    moved = lambda tangent, rows, q: matmul(tangent, matmul(rows.T, q))
    total = jnp.sum(p * moved(tangents[0], y, q)) + jnp.sum(q * moved(tangents[1], x, p))
    return (jnp.sum(s), coupling), (total, jax.tree.map(jnp.zeros_like, coupling))


@jax.jit
def _frechet(x, y):
    x, y, scale = centred(x, y)
    gap = jnp.mean(x, 0) - jnp.mean(y, 0)
    n, m = x.shape[0], y.shape[0]
    x, y = ((rows - jnp.mean(rows, 0, keepdims=True)) / math.sqrt(len(rows) - 1) for rows in (x, y))
    overlap, (s, left, right) = _overlap(x, y)
    value = jnp.sum(gap**2) + jnp.sum(x**2) + jnp.sum(y**2) - 2 * overlap

    def spread(rows, turn, shift):
        """The variance of 2 x^T shift + x^T (I - A) x for the optimal map A, over the rows x."""
        size = len(rows) - 1
        moved = jnp.sum(rows**2, 1) - jnp.sum(matmul(rows, turn) ** 2 * s[None], 1)
        return jnp.var(2 * math.sqrt(size) * jnp.sum(rows * shift[None], 1) + size * moved, ddof=1) / len(rows)

    error = jnp.sqrt(spread(x, left, gap) + spread(y, right, -gap))
    return Estimate(jnp.maximum(value, 0) * scale * scale, error * scale * scale, jnp.asarray(min(n, m), value.dtype))


def frechet(x: Any, y: Any) -> Estimate:
    """Estimate the Frechet distance between Gaussians fitted to two sets of features.

    |mean x - mean y|^2 + tr S + tr T - 2 tr (S^1/2 T S^1/2)^1/2 with the covariances S, T (n - 1). The roots are taken
    of the data by QR, not of covariances, so float32 keeps its digits and singular covariances are no trouble. The
    value has a positive bias of order d / n, which the error does not know: compare rows of one n only, beside the
    value between two halves of the reference, and name it after the features, FD_{net, d}.

    Args:
        x: [n, ...] features of samples.
        y: [m, ...] features of the reference.

    Returns:
        `Estimate`: the error is that of the delta method, right where the value is well above its bias. The value has
        slopes everywhere, for fewer rows than features too; the error is not differentiated.

    Raises:
        ValueError: for fewer than 2 rows, features that differ, or NaN.

    Example:
        >>> import jax, jsamp as js
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 4000, 2))
        >>> found = js.estimate.frechet(2 * x + 1, y)  # the truth is 2 + 2 (2 - 1)^2 = 4
        >>> bool(abs(found.value - 4) < 4 * found.stderr)
        True

    Cost:
        The triangles of two QR factorisations, 2 (n + m) d^2, and singular value decompositions of d x d.

    References:
        Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982. Heusel et al., "GANs
        trained by a two time-scale update rule", 2017, arXiv:1706.08500.
    """
    return _frechet(*_arrays.two_samples("frechet", x, y))


def _couplings(n, m):
    """Pieces of the monotone coupling of n and m equal masses: rows of either, and widths."""
    cuts = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    middle = (cuts[1:] + cuts[:-1]) / 2
    return (middle // m).astype(int), (middle // n).astype(int), np.diff(cuts) / (n * m)


@jax.jit
def _sliced(x, y, directions):
    n, m = x.shape[0], y.shape[0]
    x, y, scale = centred(x, y)
    i, j, width = _couplings(n, m)
    width = jnp.asarray(width, x.dtype)

    def potential(own, other, rows, size):
        """Kantorovich potential at each sorted point: the integral of 2 (x - T x)."""
        gap = own - size * jax.ops.segment_sum(width * other, rows, size)
        steps = jnp.diff(own) * (gap[1:] + gap[:-1])
        return jnp.concatenate([jnp.zeros(1, own.dtype), jnp.cumsum(steps)])

    def one(direction):
        a, b = jnp.sum(x * direction[None], 1), jnp.sum(y * direction[None], 1)
        p, q = jnp.argsort(a), jnp.argsort(b)
        a, b = a[p], b[q]
        value = jnp.sum(width * (a[i] - b[j]) ** 2)
        u, v = potential(a, b[j], i, n), potential(b, a[i], j, m)
        return value, jnp.zeros_like(u).at[p].set(u), jnp.zeros_like(v).at[q].set(v)

    value, u, v = jax.lax.map(one, directions, batch_size=8)
    u, v = jnp.mean(u, 0), jnp.mean(v, 0)
    error = jnp.sqrt(jnp.var(u, ddof=1) / n + jnp.var(v, ddof=1) / m)
    return Estimate(jnp.mean(value) * scale * scale, error * scale * scale, jnp.asarray(min(n, m), x.dtype))


def sliced_wasserstein(x: Any, y: Any, *, key: Key | None = None, num: int = 256) -> Estimate:
    """Estimate the squared sliced 2-Wasserstein distance: the mean over directions of the transport cost on a line.

    On each of `num` unit directions the empirical laws are coupled monotonically, exactly for unequal sizes too.
    Without a key the directions are fixed (key 9), the same for every row of a table. The error is that of sampling, by
    the transport potentials, for these directions; like `frechet` the value has a bias of order 1 / n.

    Args:
        x: [n, ...] samples.
        y: [m, ...] reference samples.
        key: one key for the directions, or None.
        num: directions (static).

    Returns:
        `Estimate`.

    Raises:
        ValueError: for fewer than 2 rows, features that differ, or NaN.

    Example:
        >>> import jax, jsamp as js
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 4000))
        >>> found = js.estimate.sliced_wasserstein(x + 1, y)  # on a line: 1
        >>> bool(abs(found.value - 1) < 4 * found.stderr)
        True

    Cost:
        num sorts of n + m numbers.

    References:
        Bonneel, Rabin, Peyre and Pfister, "Sliced and Radon Wasserstein barycenters of measures", 2015.
    """
    x, y = _arrays.two_samples("sliced_wasserstein", x, y)
    num = _checks.check_count("sliced_wasserstein: num", num)
    key = jax.random.key(9) if key is None else key
    _checks.check_key(key, "sliced_wasserstein")
    directions = jax.random.normal(key, (num, x.shape[1]), x.dtype)
    directions = directions / jnp.sqrt(jnp.sum(directions**2, 1, keepdims=True))
    return _sliced(x, y, directions)
