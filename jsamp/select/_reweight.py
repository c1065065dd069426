"""Bounds of l_p sensitivities by reweighted least squares; at p = 1 a simplex walk ends them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp.select._whiten import matmul

GROWTH = 1.5  # of the exponent from 2 to p > 2: Newton's method then starts near its solution at every exponent


class Duality(NamedTuple):
    """The best primal x [k, d] so far with its bounds [k]."""

    x: jax.Array
    lower: jax.Array
    upper: jax.Array


def _norm(y: jax.Array, q: float) -> jax.Array:
    if np.isinf(q):
        return jnp.max(jnp.abs(y), -1)
    top = jnp.maximum(jnp.max(jnp.abs(y), -1, keepdims=True), jnp.finfo(y.dtype).tiny)
    return top[:, 0] * jnp.sum((jnp.abs(y) / top) ** q, -1) ** (1 / q)


def _schedule(p: float, iterations: int, dtype: Any) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """For every step: the exponent (None: always p), the smoothing of |r|, whether the gradient is exact."""
    step = np.arange(iterations)
    power = jnp.asarray(np.minimum(p, 2 * GROWTH**step), dtype) if p > 2 else None
    smallest = 1e-9 if dtype == jnp.float64 else 1e-5
    smooth = np.zeros(iterations) if p > 2 else np.maximum(1e-2 * 0.7**step, smallest)
    return power, jnp.asarray(smooth, dtype), jnp.asarray((step == iterations - 1) | (p > 2))


def reweight(rows: jax.Array, E: jax.Array, null: jax.Array, p: float, iterations: int) -> Duality:
    """Solve min |E x|_p^p over a x = 1 for a block of whitened rows a [k, d]; 1 / minimum is the sensitivity.

    With residuals r = E x, weights w = |r|^(p-2) and gradient E^T y, y = |r|^(p-1) sign(r), one weighted solve gives
    the step `move` and the multiplier nu. For p > 2 it is Newton's step, for p <= 2 that of reweighted least squares.
    The same solve repairs y: E^T (y - w E move) = nu a holds exactly, so every step proves an upper bound.
    """
    d = rows.shape[1]
    i, j = np.triu_indices(d)
    pairs = E[:, i] * E[:, j]
    spread = np.zeros((d, d), np.int32)
    spread[i, j] = spread[j, i] = np.arange(len(i))
    q = np.inf if p == 1 else p / (p - 1)
    # Weights below rounding of the heaviest row would make the normal matrix singular in this precision.
    floor = 10 * jnp.finfo(E.dtype).eps if p > 2 else 0.0

    def lower_bound(r):
        return 1 / jnp.sum(jnp.abs(r) ** p, 1)

    def step(carry, inputs):
        best, r = carry
        power, smooth, exact = inputs
        power = p if power is None else power  # a static power is a square root or nothing at p = 1.5 and p = 1
        top = jnp.max(jnp.abs(r), 1, keepdims=True)
        size = jnp.abs(r) / top
        weight = lax.rsqrt(size**2 + smooth**2) if p == 1 else (size**2 + smooth**2) ** ((power - 2) / 2)
        weight = weight / jnp.max(weight, 1, keepdims=True) + floor
        y = jnp.where(exact, jnp.sign(r) * size ** (power - 1), weight * r / top)
        gram = matmul(weight, pairs)[:, spread] + jnp.diag(null)[None]
        half = jnp.linalg.cholesky(gram)
        solved = jax.scipy.linalg.cho_solve((half, True), jnp.stack([rows, matmul(y, E)], -1))
        g, h = solved[..., 0], solved[..., 1]
        nu = jnp.sum(rows * h, 1) / jnp.sum(rows * g, 1)
        move = h - nu[:, None] * g
        proof = (_norm(y - weight * matmul(move, E.T), q) / jnp.where(nu > 0, nu, 1)) ** p
        x = best.x - (top / (power - 1) if p > 2 else top) * move
        x = x / jnp.sum(rows * x, 1, keepdims=True)
        r = matmul(x, E.T)
        upper = jnp.fmin(best.upper, jnp.where(nu > 0, proof, jnp.inf))
        return (Duality(x, jnp.fmax(best.lower, lower_bound(r)), upper), r), None

    x = rows / jnp.sum(rows * rows, 1, keepdims=True)  # the solution at p = 2
    r = matmul(x, E.T)
    lower = lower_bound(r)
    (best, _), _ = lax.scan(step, (Duality(x, lower, lower + jnp.inf), r), _schedule(p, iterations, E.dtype))
    return best


def _first_basis(a: jax.Array, r: jax.Array, E: jax.Array) -> jax.Array:
    """[d-1] rows with the smallest residuals that are independent of each other and of a (Gram-Schmidt)."""
    size = jnp.sum(E * E, 1)
    basis = jnp.zeros((a.shape[0], a.shape[0]), E.dtype).at[0].set(a / jnp.sqrt(jnp.sum(a * a)))
    left = size - matmul(E, basis[0][:, None])[:, 0] ** 2

    def choose(carry, slot):
        left, basis = carry
        free = left > 1e-6 * size
        row = jnp.argmin(jnp.where(free, r * r / jnp.where(free, left, 1), jnp.inf))
        new = E[row]
        for _ in range(2):
            new = new - matmul(matmul(basis, new[:, None])[:, 0][None], basis)[0]
        new = new / jnp.sqrt(jnp.sum(new * new))
        left = left - matmul(E, new[:, None])[:, 0] ** 2
        return (left.at[row].set(-1), basis.at[slot].set(new)), row

    return lax.scan(choose, (left, basis), jnp.arange(1, a.shape[0]))[1]


def _next_zero(r: jax.Array, slope: jax.Array, start: jax.Array) -> jax.Array:
    """The row whose residual r + t slope becomes zero about where sum |r + t slope| stops falling.

    The derivative begins at `start` < 0 and rises by 2 |slope_j| at every zero t_j. Bisection of log t brackets its
    change of sign without a sort; the first zero in the bracket is taken, so the sum falls up to there for certain.
    """
    meets = slope * r < 0
    zero = jnp.where(meets, -r / jnp.where(meets, slope, 1), jnp.inf)
    rise = jnp.where(meets, 2 * jnp.abs(slope), 0)
    first, last = jnp.min(zero), jnp.max(jnp.where(meets, zero, 0))

    def halve(bracket, _):
        low, high = bracket
        middle = jnp.sqrt(low * high)
        falling = start + jnp.sum(jnp.where(zero <= middle, rise, 0)) < 0
        return (jnp.where(falling, middle, low), jnp.where(falling, high, middle)), None

    below, above = first * (1 - 2 * jnp.finfo(r.dtype).eps), jnp.maximum(first, last)
    (low, _), _ = lax.scan(halve, (below, above), None, length=16)
    return jnp.argmin(jnp.where(zero > low, zero, jnp.inf))


def _walk(a: jax.Array, start: Duality, E: jax.Array, jitter: jax.Array, limit: int) -> Duality:
    """The simplex method with long steps for min |E x|_1 over a x = 1, from a near solution.

    At a vertex d - 1 residuals are zero. Their multipliers, solved from E^T y = nu a, prove an upper bound; one beyond
    [-1, 1] is let go, and the next zero is where the sum of absolute values stops falling. Residuals are shifted by a
    tiny jitter, so that rows with several copies do not stall the walk; the bounds are those of the true problem.
    """
    size = jnp.sqrt(jnp.sum(E * E, 1))
    tolerance = 1e-10 if E.dtype == jnp.float64 else 1e-5
    shift = jitter * jnp.max(jnp.abs(matmul(E, start.x[:, None])[:, 0]))

    def step(state):
        basis, best, _, count = state
        scale = jnp.concatenate([jnp.ones_like(a[:1]), size[basis]])
        inverse = jnp.linalg.inv(jnp.concatenate([a[None], E[basis]]) / scale[:, None]) / scale[None]
        at = jnp.stack([inverse[:, 0], inverse[:, 0] - matmul(inverse[:, 1:], shift[basis][:, None])[:, 0]])
        exact, r = matmul(at, E.T)
        r = (r + shift).at[basis].set(0)
        solved = matmul(matmul(jnp.sign(r)[None], E), inverse)[0]
        nu, inside = solved[0], -solved[1:]
        out = jnp.argmax(jnp.abs(inside))
        excess = jnp.abs(inside[out])
        upper = jnp.where(nu > 0, jnp.maximum(excess, 1) / jnp.where(nu > 0, nu, 1), jnp.inf)
        lower = 1 / jnp.sum(jnp.abs(exact))
        better = Duality(at[0], jnp.fmax(best.lower, lower), jnp.fmin(best.upper, upper))
        slope = matmul(E, inverse[:, 1 + out][:, None])[:, 0] * jnp.sign(inside[out])
        slope = slope.at[basis].set(0)
        return basis.at[out].set(_next_zero(r, slope, 1 - excess)), better, excess > 1 + tolerance, count + 1

    r = matmul(E, start.x[:, None])[:, 0]
    first = (_first_basis(a, r, E), start, start.lower > 0, jnp.zeros_like(r[0], jnp.int32))
    return lax.while_loop(lambda s: s[2] & (s[3] < limit), step, first)[1]


def walk_vertices(rows: jax.Array, start: Duality, E: jax.Array, null: jax.Array) -> Duality:
    """The exact l_1 sensitivities of a block of whitened rows [k, d], from what `reweight` found."""
    m, d = E.shape
    if d == 1:
        return start
    spread = np.random.default_rng(0).uniform(0.5, 1, m + d) * (1e-9 if E.dtype == jnp.float64 else 1e-6)
    everything = jnp.concatenate([E, jnp.diag(null)])  # null directions, if any, are held at zero by rows of their own
    jitter = jnp.where(jnp.arange(m + d) < m, jnp.asarray(spread, E.dtype), 0)
    return jax.vmap(lambda a, s: _walk(a, s, everything, jitter, 4 * d + 20))(rows, start)
