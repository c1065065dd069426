"""A limited-memory quasi-Newton ascent that knows its inverse Hessian: the path of `pathfinder`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SLOPE = 0.9  # Wolfe: the slope must fall below this share of the first
GAIN = 1e-4  # Armijo: the share of the promised gain that a step must bring
TRIALS = 30  # evaluations of one line search
CURVED = 1e-6  # pairs of a smaller cosine between step and change of gradient teach nothing
STOP = 1e-4  # the ascent ends where another step promises a gain below this many nats


class Curvature(NamedTuple):
    """Hold an inverse Hessian of -log density as diag(scale) and pairs, each divided by sqrt(step . change).

    Args:
        scale: [d] the diagonal part.
        steps: [memory, d] differences of positions, the newest last; rows of zeros are empty.
        changes: [memory, d] differences of gradients of -log density.
    """

    scale: Any
    steps: Any
    changes: Any


class Ascent(NamedTuple):
    """Hold where an ascent is: position [d], value and gradient of the log-density, curvature and counts."""

    x: Any
    value: Any
    grad: Any
    curvature: Curvature
    pairs: Any
    nfe: Any
    running: Any


def times(a, b):
    """The matrix product at full precision."""
    return jnp.matmul(a, b, precision="highest")


def low_rank(c: Curvature) -> tuple[jax.Array, jax.Array]:
    """Factors B [d, 2 memory] and C of the inverse Hessian diag(scale) + B C B^T (Byrd, Nocedal and Schnabel)."""
    scaled = c.changes * c.scale[None]
    size = c.steps.shape[0]
    upper = jnp.triu(times(c.steps, c.changes.T), 1)  # pairs are scaled: the diagonal is 1, of empty ones by fiat
    inverse = jax.scipy.linalg.solve_triangular(
        upper + jnp.eye(size, dtype=upper.dtype), jnp.eye(size, dtype=upper.dtype)
    )
    used = jnp.any(c.steps != 0, 1).astype(upper.dtype)
    middle = jnp.diag(used) + times(scaled, c.changes.T)
    corner = times(inverse.T, times(middle, inverse))
    core = jnp.block([[jnp.zeros_like(upper), -inverse], [-inverse.T, corner]])
    return jnp.concatenate([scaled, c.steps]).T, core


def apply_inverse(c: Curvature, vector: Any) -> jax.Array:
    """The inverse Hessian times a vector [d]."""
    wide, core = low_rank(c)
    return c.scale * vector + times(wide, times(core, times(wide.T, vector)))


def learn(c: Curvature, step: Any, change: Any) -> tuple[Curvature, jax.Array]:
    """Take in a step and the change of the gradient of -log density over it: (curvature, whether it was used).

    The diagonal follows Gilbert and Lemarechal: the BFGS update of diag(scale), its off-diagonal part dropped.
    """
    along = jnp.sum(step * change)
    size = jnp.sqrt(jnp.sum(step**2) * jnp.sum(change**2))
    good = along > CURVED * size
    root = jnp.sqrt(jnp.where(good, along, 1))
    s, y = step / root, change / root  # now s . y = 1
    stretch, squeeze = jnp.sum(y**2 * c.scale), jnp.sum(s**2 / c.scale)
    scale = 1 / (stretch / c.scale + y**2 - stretch * (s / c.scale) ** 2 / squeeze)
    good = good & jnp.all(jnp.isfinite(scale) & (scale > 0))
    new = Curvature(scale, jnp.concatenate([c.steps[1:], s[None]]), jnp.concatenate([c.changes[1:], y[None]]))
    return jax.tree.map(lambda new, old: jnp.where(good, new, old), new, c), good


def start(evaluate: Any, x: Any, memory: int) -> Ascent:
    """The ascent at its first position."""
    value, grad = evaluate(x)
    blank = jnp.zeros((memory, x.shape[0]), x.dtype)
    zero = jnp.zeros((), jnp.int32)
    return Ascent(x, value, grad, Curvature(jnp.ones_like(x), blank, blank), zero, zero + 1, jnp.isfinite(value))


def climb(evaluate: Any, a: Ascent) -> Ascent:
    """Take one quasi-Newton step, and learn from it."""
    direction = apply_inverse(a.curvature, a.grad)
    promised = jnp.sum(direction * a.grad)
    # The first direction has no scale: a step of unit length, which the search may lengthen.
    first = jnp.where(a.pairs == 0, 1 / jnp.maximum(jnp.sqrt(jnp.sum(direction**2)), 1e-30), 1)
    (x, value, grad), trials, found = _search(evaluate, a, direction, promised, first)
    curvature, used = learn(a.curvature, x - a.x, a.grad - grad)
    gained = value - a.value
    moved = a._replace(x=x, value=value, grad=grad, curvature=curvature, pairs=a.pairs + used)
    a = jax.tree.map(lambda new, old: jnp.where(found, new, old), moved, a)._replace(nfe=a.nfe + trials)
    left = jnp.sum(apply_inverse(a.curvature, a.grad) * a.grad) / 2
    floor = jnp.maximum(STOP, 4 * jnp.finfo(value.dtype).eps * jnp.abs(a.value))
    # A step along one axis says nothing of the others: what is left counts as known when a step gained little, too.
    return a._replace(running=found & ((left > floor) | (gained > floor)))


def _search(evaluate, a, direction, promised, first):
    """Bisect for a step that gains enough and flattens the slope: ((x, value, grad), evaluations, found)."""
    slack = 4 * jnp.finfo(a.value.dtype).eps * jnp.abs(a.value)  # a gain that rounding may hide

    def trial(carry):
        low, high, t, _, count, _ = carry
        x = a.x + t * direction
        value, grad = evaluate(x)
        rises = (value >= a.value + GAIN * t * promised - slack) & jnp.all(jnp.isfinite(grad))
        flat = jnp.sum(grad * direction) <= SLOPE * promised
        low, high = jnp.where(rises, t, low), jnp.where(rises, high, t)
        next_t = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * t)
        return low, high, next_t, (x, value, grad), count + 1, rises & flat

    zero = jnp.zeros_like(a.value)
    begin = (zero, zero + jnp.inf, zero + first, (a.x, a.value, a.grad), jnp.zeros((), jnp.int32), promised < 0)
    *_, found, count, done = jax.lax.while_loop(lambda c: ~c[-1] & (c[-2] < TRIALS), trial, begin)
    rose = jnp.isfinite(found[1]) & (found[1] >= a.value - slack) & jnp.any(found[0] != a.x)
    return found, count, (done | rose) & (promised > 0)
