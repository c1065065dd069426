"""The compiled part of nested sampling: constrained slice moves, and the loop that deletes and replaces live points."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _random
from jsamp._core._types import Key

SHRINKS = 60
"""Rejected points after which a bracket is given up and the point stays: by then the bracket is below rounding."""


class Live(NamedTuple):
    """Hold points of the cube with what orders them: the log-likelihood, and a uniform number that breaks ties."""

    u: Any
    loglikelihood: Any
    tie: Any


class Loop(NamedTuple):
    """Hold the state of the loop; log_z and log_x only serve to stop it."""

    step: Any
    live: Live
    log_x: Any
    log_z: Any
    nfe: Any
    stuck: Any
    lost: Any


class Dead(NamedTuple):
    """Hold deleted points [steps, delete, ...] and the ranks at which those that replaced them came in."""

    u: Any
    loglikelihood: Any
    rank: Any


class _Walk(NamedTuple):
    """One chain between two evaluations: where it is, the line it looks along, and the next point on it."""

    point: Live
    line: Any
    low: Any
    high: Any
    at: Any
    moves: Any
    shrinks: Any
    stuck: Any
    lost: Any


def above(a: Live, b: Live) -> Any:
    """Whether points a lie above points b."""
    higher, level = a.loglikelihood > b.loglikelihood, a.loglikelihood == b.loglikelihood
    return higher | (level & (a.tie > b.tie))


@jax.jit
def evaluate(target: Any, u: Any) -> Any:
    """The log-likelihood at one point of the cube, in its dtype; NaN as it is."""
    loglikelihood, from_cube = target
    return jnp.asarray(loglikelihood(from_cube(u)), u.dtype)


@functools.partial(jax.jit, static_argnames=("num", "dim", "dtype"))
def begin(key: Key, target: Any, *, num: int, dim: int, dtype: Any) -> Loop:
    """The state before the first step: live points drawn from the prior."""
    place, tie = jax.random.split(jax.random.fold_in(key, 2**31 - 1))
    u = jax.random.uniform(place, (num, dim), dtype)
    values = jax.vmap(evaluate, (None, 0))(target, u)
    live = Live(u, values, jax.random.uniform(tie, (num,), dtype))
    zero = jnp.zeros((), dtype)
    none = jnp.zeros((), jnp.int32)
    return Loop(none, live, zero, jnp.full((), -jnp.inf, dtype), jnp.asarray(num, jnp.int32), none, none)


def remaining(loop: Loop) -> Any:
    """How much the evidence can still grow: log((Z + X max L) / Z) over the live points."""
    rest = jnp.max(loop.live.loglikelihood) + loop.log_x
    grown = jnp.logaddexp(loop.log_z, rest) - loop.log_z
    return jnp.where(jnp.isneginf(loop.log_z), jnp.inf, grown)


@functools.partial(jax.jit, static_argnames=("steps", "delete", "moves"))
def advance(key: Key, target: Any, loop: Loop, stop: Any, last: Any, *, steps: int, delete: int, moves: int) -> Any:
    """Run up to `steps` steps, until the rest is below `stop` or step `last` is reached: (loop, Dead, steps made)."""
    dtype = loop.live.u.dtype
    empty = jnp.zeros((steps, delete), dtype)
    dead = Dead(jnp.zeros((steps, delete, loop.live.u.shape[1]), dtype), empty, empty)

    def going(carry):
        loop, _, made = carry
        return (made < steps) & (loop.step < last) & (remaining(loop) > stop)

    def one(carry):
        loop, dead, made = carry
        loop, gone = _replace_lowest(_random.fold_in(key, loop.step), target, loop, delete, moves)
        return loop, jax.tree.map(lambda all, new: all.at[made].set(new), dead, gone), made + 1

    return jax.lax.while_loop(going, one, (loop, dead, jnp.zeros((), jnp.int32)))


def _replace_lowest(key, target, loop, delete, moves):
    """Delete the lowest points; put in as many from above the highest of them."""
    num = loop.live.u.shape[0]
    order = jnp.lexsort((loop.live.tie, loop.live.loglikelihood))
    ordered = jax.tree.map(lambda leaf: leaf[order], loop.live)
    gone, kept = (
        jax.tree.map(lambda leaf, part=part: leaf[part], ordered) for part in (slice(delete), slice(delete, None))
    )
    bound = jax.tree.map(lambda leaf: leaf[-1], gone)
    k_start, k_walk, k_rank = (_random.fold_in(key, i) for i in range(3))
    start = jax.random.randint(k_start, (delete,), 0, num - delete)
    born, calls, stuck, lost = _walks(
        k_walk, target, jax.tree.map(lambda leaf: leaf[start], kept), bound, kept.u, moves
    )
    rank = _ranks(k_rank, born, kept)
    shrink = 1 / (num - jnp.arange(delete, dtype=loop.log_x.dtype))
    log_x = loop.log_x - jnp.concatenate([jnp.zeros(1, shrink.dtype), jnp.cumsum(shrink)])
    log_w = log_x[:-1] + jnp.log(-jnp.expm1(-shrink))
    log_z = jax.nn.logsumexp(jnp.append(gone.loglikelihood + log_w, loop.log_z))
    log_z = jnp.where(jnp.isnan(log_z), -jnp.inf, log_z)
    live = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), born, kept)
    counts = (loop.nfe + calls, loop.stuck + stuck, loop.lost + lost)
    return Loop(loop.step + 1, live, log_x[-1], log_z, *counts), Dead(gone.u, gone.loglikelihood, rank)


def _ranks(key, born, kept):
    """[delete] ranks of new points among those before them, spread to uniform numbers: independent if moves mix."""
    count = born.tie.shape[0]
    among = above(jax.tree.map(lambda leaf: leaf[:, None], born), jax.tree.map(lambda leaf: leaf[None], kept))
    earlier = above(jax.tree.map(lambda leaf: leaf[:, None], born), jax.tree.map(lambda leaf: leaf[None], born))
    rank = jnp.sum(among, 1) + jnp.sum(jnp.tril(earlier, -1), 1)
    size = kept.tie.shape[0] + jnp.arange(count)
    spread = jax.random.uniform(key, (count,), born.tie.dtype)
    return (rank + spread) / (size + 1)


def _spread(u):
    """The Cholesky factor [dim, dim] of the covariance of the live points, times the diameter of their ellipsoid."""
    dim = u.shape[1]
    centred = u - jnp.mean(u, 0, keepdims=True)
    scale = jnp.sqrt(jnp.mean(centred**2, 0, keepdims=True)) + jnp.finfo(u.dtype).tiny ** 0.5
    unit = centred / scale
    cov = jnp.matmul(unit.T, unit, precision="highest") / u.shape[0]
    factor = jnp.linalg.cholesky(cov + 1e-4 * jnp.eye(dim, dtype=u.dtype))
    factor = jnp.where(jnp.all(jnp.isfinite(factor)), factor, jnp.eye(dim, dtype=u.dtype))
    return 2 * (dim + 2) ** 0.5 * scale.T * factor


def _walks(key, target, start, bound, kept, moves):
    """Move every start `moves` times inside {likelihood above the bound}: (points, calls, stuck moves, NaN met).

    One turn of the loop evaluates one point of every chain, and chains do not wait for one another between moves.
    """
    spread, count = _spread(kept), start.tie.shape[0]
    keys = lambda turn: jax.random.split(_random.fold_in(key, turn), count)
    aim = jax.vmap(_aim, (0, 0, None))
    none = jnp.zeros((count,), jnp.int32)
    zero = jnp.zeros((count,), start.u.dtype)
    walk = _Walk(start, start.u, zero, zero, zero, none, none, none, none)

    def turn(carry):
        walk, done = carry
        asked = jnp.clip(walk.point.u + walk.at[:, None] * walk.line, 0, 1)
        values = jax.vmap(evaluate, (None, 0))(target, asked)
        moved = jax.vmap(_judged, (0, 0, 0, 0, None))(keys(done), walk, asked, values, bound)
        aimed = aim(keys(-1 - done), moved, spread)
        busy = walk.moves < moves
        pick = lambda new, old: jnp.where(busy.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        return jax.tree.map(pick, aimed, walk), done + 1

    walk = aim(keys(0), walk, spread)
    walk, turns = jax.lax.while_loop(lambda c: jnp.any(c[0].moves < moves), turn, (walk, jnp.ones((), jnp.int32)))
    return walk.point, (turns - 1) * count, *(jnp.sum(many, dtype=jnp.int32) for many in (walk.stuck, walk.lost))


def _judged(key, walk, asked, value, bound):
    """Take the point that was asked for if it lies above the bound, else shrink the bracket to this side of it."""
    point, at = walk.point, walk.at
    inside = above(point._replace(u=asked, loglikelihood=value), bound)
    # The tie-breaking number is drawn anew from its law given the new place.
    least = jnp.where(value > bound.loglikelihood, 0, bound.tie)
    tie = least + (1 - least) * jax.random.uniform(key, (), at.dtype)
    taken = Live(asked, value, tie)
    given_up = ~inside & (walk.shrinks + 1 >= SHRINKS)
    return walk._replace(
        point=jax.tree.map(lambda new, old: jnp.where(inside, new, old), taken, point),
        low=jnp.where(at < 0, at, walk.low), high=jnp.where(at < 0, walk.high, at),
        moves=walk.moves + (inside | given_up), shrinks=jnp.where(inside | given_up, 0, walk.shrinks + 1),
        stuck=walk.stuck + given_up, lost=walk.lost + jnp.isnan(value),
    )  # fmt: skip


def _aim(key, walk, spread):
    """Draw the next point to ask for, on a new line where a move begins.

    A bracket of fixed length lies at random around the walk and ends at the walls of the cube: without stepping out it
    costs no evaluation, and is as reversible.
    """
    dtype, dim = walk.at.dtype, walk.line.shape[0]
    made = _random.normal(key, (dim + 2,), dtype)
    uniform = 0.5 * jax.lax.erfc(-made[dim:] * 0.5**0.5)
    norm = jnp.sqrt(jnp.sum(made[:dim] ** 2))
    line = jnp.sum(spread * (made[:dim] / norm)[None], 1)
    low, high = -uniform[0], 1 - uniform[0]
    safe = jnp.where(line == 0, 1, line)
    walls = jnp.stack([-walk.point.u / safe, (1 - walk.point.u) / safe])
    walls = jnp.where(line[None] == 0, jnp.array([[-1.0], [1.0]], dtype), walls)
    low = jnp.maximum(low, jnp.max(jnp.min(walls, 0)))
    high = jnp.minimum(high, jnp.min(jnp.max(walls, 0)))
    new = walk.shrinks == 0
    line, low, high = (jnp.where(new, a, b) for a, b in ((line, walk.line), (low, walk.low), (high, walk.high)))
    return walk._replace(line=line, low=low, high=high, at=low + (high - low) * uniform[1])
