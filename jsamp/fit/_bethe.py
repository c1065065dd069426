"""Smallest eigenvectors of the Bethe-Hessian, by iterated subspaces and a polynomial filter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._mesh import vary
from jsamp._core._types import Key
from jsamp.fit._network import degrees, product
from jsamp.select._whiten import matmul

SPARE, DEGREE, LEAST, ROUNDS = 8, 10, 4, 60


def negative_vectors(key: Key, network: Any, num: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The `num` smallest eigenvalues, rising, their unit vectors [N, num], and whether the negative ones converged.

    A Ritz value is never below its eigenvalue, so as many negative ones as are found are there.
    """
    n = network.shape[0]
    degree = degrees(network)
    radius = jnp.sqrt(jnp.maximum(jnp.sum(degree**2) / jnp.sum(degree) - 1, 1e-6))
    top = radius**2 - 1 + _largest(network, degree, radius)

    def apply(vectors):
        return (radius**2 - 1 + degree)[:, None] * vectors - radius * product(network, vectors)

    def turn(carry):
        vectors, values, _, i = carry
        low = jnp.clip(values[-1], 0, top / 2)
        return (*_ritz(apply, _filtered(apply, vectors, low, top), top), i + 1)

    start = jax.random.normal(key, (n, min(num + SPARE, n)), degree.dtype)
    begin = vary((*_ritz(apply, start, top), jnp.array(1, jnp.int32)), degree, start)
    vectors, values, ok, _ = lax.while_loop(lambda c: (~c[2] | (c[3] <= LEAST)) & (c[3] < ROUNDS), turn, begin)
    return values[:num], vectors[:, :num], ok


def _largest(network: Any, degree: jax.Array, radius: jax.Array) -> jax.Array:
    """A bound on the eigenvalues of D - rA: max_i (D s + r A s)_i / s_i for a positive s, here after some powers."""

    def power(_, s):
        s = (1 + degree) * s + radius * product(network, s[:, None])[:, 0]
        return s / jnp.max(s) + 1e-6

    s = lax.fori_loop(0, 10, power, jnp.ones_like(degree))
    return jnp.max(degree + radius * product(network, s[:, None])[:, 0] / s)


def _filtered(apply: Any, vectors: jax.Array, low: jax.Array, top: jax.Array) -> jax.Array:
    """Chebyshev's polynomial of the matrix, at most 1 on [low, top] and growing fast below."""
    middle, half = (top + low) / 2, (top - low) / 2
    scaled = lambda v: (apply(v) - middle * v) / half
    step = lambda _, pair: (pair[1], 2 * scaled(pair[1]) - pair[0])
    return lax.fori_loop(1, DEGREE, step, (vectors, scaled(vectors)))[1]


def _ritz(apply: Any, vectors: jax.Array, top: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The eigenvectors of the matrix within the span of some vectors, their values, and whether they will do."""
    basis = _orthonormal(_orthonormal(vectors))
    image = apply(basis)
    small = matmul(basis.T, image)
    values, turn = jnp.linalg.eigh((small + small.T) / 2)
    vectors, image = matmul(basis, turn), matmul(image, turn)
    error = jnp.sqrt(jnp.sum((image - vectors * values[None]) ** 2, 0))
    slack = 1e-5 * top
    negative = values < 0
    settled = jnp.where(negative, error <= jnp.maximum(1e-2 * jnp.abs(values), slack), True)
    # The first value that is not negative must stay so.
    next_one = jnp.where(negative, jnp.inf, values)
    at = jnp.argmin(next_one)
    certain = jnp.all(negative) | (error[at] <= values[at] / 2) | (error[at] <= slack)
    return vectors, values, jnp.all(settled) & certain


def _orthonormal(vectors: jax.Array) -> jax.Array:
    """Columns turned and scaled to be orthonormal, as far as their Gram matrix tells them apart."""
    vectors = vectors / jnp.sqrt(jnp.sum(vectors**2, 0, keepdims=True))
    values, turn = jnp.linalg.eigh(matmul(vectors.T, vectors))
    least = jnp.finfo(vectors.dtype).eps * vectors.shape[1] * values[-1]
    return matmul(vectors, turn / jnp.sqrt(jnp.maximum(values, least))[None])
