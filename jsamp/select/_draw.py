"""The package's one way to draw rows and categories from weights."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_choice, check_count, check_key, concrete, is_traced
from jsamp._core._mesh import everywhere, mesh_axis, over_mesh
from jsamp._core._types import Key
from jsamp.select._bits import log_clocks, pair_add, sum_tree, tree_draw, tree_find, uniform, wide
from jsamp.select._rows import as_floating, check_axis, enlarged
from jsamp.select._subset import Subset

SCHEMES = ("poisson", "multinomial", "systematic", "priority", "stratified", "topk")


@jax.jit
def _usable(scores):
    return jnp.all(jnp.isfinite(scores) & (scores >= 0)), jnp.any(scores > 0)


def check_scores(scores: Any, who: str) -> jax.Array:
    """Scores as a wide floating vector, refused unless non-negative, finite and not all zero (when not traced)."""
    scores = as_floating(f"{who}: scores", scores)
    if scores.ndim != 1 or scores.shape[0] == 0:
        raise ValueError(f"{who}: scores must be a vector [n], got shape {scores.shape}. Use jax.vmap over rows.")
    if not is_traced(scores) and scores.is_fully_addressable:
        with jax.ensure_compile_time_eval():  # constants of a function being traced are looked at, too
            fit, positive = map(bool, _usable(scores))
        if not fit:
            raise ValueError(
                f"{who}: scores must be finite and >= 0. Exponentiate log-weights after a shift by the max."
            )
        scores = enlarged(scores.astype(wide(scores.dtype)))
        if not positive and not bool(jnp.any(scores > 0)):
            raise ValueError(f"{who}: every score is 0, so no row can be drawn.")
    return scores.astype(wide(scores.dtype))


def _by_largest(scores: jax.Array, top: jax.Array, size: float = 1.0) -> jax.Array:
    """Make the largest score `size`; by a power of two first, since 1 / top is lost above a quarter of the range."""
    far = 2.0 ** (jnp.finfo(scores.dtype).maxexp // 2)
    unit = jnp.where(top > far, 1 / far, jnp.where(top < 1 / far, far, 1)).astype(scores.dtype)
    return (scores * unit) / (top * unit / size)


def _psum(value: Any, axis_name: Any) -> Any:
    return value if axis_name is None else lax.psum(value, axis_name)


def inclusion_probs(scores: Any, num: int, *, axis_name: Any = None) -> jax.Array:
    """Compute inclusion probabilities q_i = min(1, c scores_i) with sum q = num: certain rows are found, not clipped.

    c solves a piecewise linear equation; a monotone Newton iteration ends at the exact solution. When no more than
    `num` rows have a positive score, all of those get q = 1.

    Args:
        scores: [n], non-negative.
        num: expected number of rows, static.
        axis_name: mesh axis over which `scores` is one shard (inside `jax.shard_map`); `num` counts all shards.

    Returns:
        [n] probabilities, summing to `num` over all shards. NaN throughout when scores hold NaN or are all zero.

    Raises:
        ValueError: for negative, non-finite or all-zero scores, num < 1, or num > n (without `axis_name`).

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.select.inclusion_probs(jnp.array([6.0, 2.0, 1.0, 1.0]), 2)
        Array([1.  , 0.5 , 0.25, 0.25], dtype=float32)

    Cost:
        A few passes over the scores, one all-reduce of two numbers each.
    """
    scores = check_scores(scores, "inclusion_probs")
    check_axis(axis_name, "inclusion_probs")
    check_count("inclusion_probs: num", num, high=None if axis_name is not None else scores.shape[0])
    return _inclusion_probs(scores, num, axis_name)


@functools.partial(jax.jit, static_argnames=("num", "axis_name"))
def _inclusion_probs(scores, num, axis_name):
    return over_mesh(lambda axis, s: _probs(s, num, axis), axis_name, scores)


def _probs(scores, num, axis_name):
    top = lax.stop_gradient(jnp.max(scores))
    top = top if axis_name is None else lax.pmax(top, axis_name)
    # Far above 1, so that scores which only count beside certain rows are not lost.
    scores = _by_largest(scores, top, 2.0 ** (jnp.finfo(scores.dtype).maxexp * 3 // 8))
    fixed = lax.stop_gradient(scores)
    positive = _psum(jnp.sum(fixed > 0), axis_name)

    def solve(certain):
        rest = jnp.where(certain, 0, fixed)
        count, mass = _psum(jnp.sum(certain), axis_name), _psum(jnp.sum(rest), axis_name)
        return (num - count) / mass, count

    def advance(state):
        factor, count, _, i = state
        new, total = solve(factor * fixed >= 1)
        grew = (total > count) & (total < num)
        return jnp.where(grew, new, factor), jnp.where(grew, total, count), grew, i + 1

    start, none = solve(jnp.zeros_like(fixed, bool))
    factor, *_ = lax.while_loop(lambda s: s[2] & (s[3] < 500), advance, (start, none, start == start, 0))
    certain = factor * fixed >= 1
    rest = jnp.where(certain, 0, scores)
    count = _psum(jnp.sum(certain), axis_name)
    mass = _psum(jnp.sum(rest), axis_name)
    fair = jnp.minimum(1, rest * ((num - count) / jnp.where(mass > 0, mass, 1)))
    few = positive <= num
    probs = jnp.where(few, (scores > 0).astype(scores.dtype), jnp.where(certain, 1, fair))
    return jnp.where(jnp.isnan(scores) | jnp.isnan(mass), jnp.nan, probs)


def _capacity(num: int, n: int) -> int:
    return min(n, num + math.ceil(6 * math.sqrt(num)) + 8)


@functools.partial(jax.jit, static_argnames=("num", "capacity", "axis_name"))
def _poisson(key, scores, num, capacity, axis_name):
    n = scores.shape[0]
    probs = _probs(scores, num, axis_name)
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    keep = uniform(key, (n,), scores.dtype) < probs
    taken = jnp.sum(keep)
    index = jnp.nonzero(keep, size=capacity, fill_value=0)[0].astype(jnp.int32)
    mask = jnp.arange(capacity) < taken
    weight = jnp.where(mask, 1 / jnp.where(mask, probs[index], 1), 0)
    return Subset(index, jnp.where(jnp.isnan(probs[0]) | (taken > capacity), jnp.nan, weight), mask)


@functools.partial(jax.jit, static_argnames=("num", "scheme"))
def _with_repeats(key, scores, num, scheme):
    total = jnp.sum(scores)
    share = scores * (num / total)
    tree = sum_tree(share)
    if scheme == "multinomial":
        index = tree_draw(key, tree, num)
    else:
        offset = uniform(key, (1,) if scheme == "systematic" else (num,), scores.dtype)
        offset = jnp.broadcast_to(offset, (num,))
        slot = jnp.arange(num, dtype=jnp.int32)
        whole, rest = (slot & ~0xFFF).astype(scores.dtype), (slot & 0xFFF).astype(scores.dtype)  # exact beyond 2^24
        # The tree's exact total differs from num by rounding: stretching targets by the ratio keeps all inside.
        stretch = ((tree.total[0] - num) + tree.total[1]) / num
        zero = jnp.zeros_like(whole)
        place = pair_add((whole, zero), (rest, zero))
        target = pair_add(pair_add(place, (offset, zero)), ((whole + rest + offset) * stretch, zero))
        index = tree_find(tree, target)
    index = jnp.minimum(index, scores.shape[0] - 1)
    return Subset(index, 1 / share[index], jnp.ones((num,), bool))


@functools.partial(jax.jit, static_argnames=("num", "scheme"))
def _without_repeats(key, scores, num, scheme):
    n = scores.shape[0]
    log_score = jnp.where(scores > 0, jnp.log(jnp.where(scores > 0, scores, 1)), -jnp.inf)
    if scheme == "priority":
        rank = log_score - jnp.log(uniform(key, (n,), scores.dtype))
    else:
        rank = log_score - log_clocks(key, (n,), scores.dtype)
    best, index = lax.top_k(rank, min(num + 1, n))
    if n == num:
        best = jnp.append(best, -jnp.inf)
    index = index[:num].astype(jnp.int32)
    mask = best[:num] > -jnp.inf
    # log of score / threshold; the threshold is the best rank that did not get in, 0 when every row got in.
    excess = jnp.where(mask, log_score[index] - best[num], 0)
    probs = jnp.exp(jnp.minimum(excess, 0)) if scheme == "priority" else -jnp.expm1(-jnp.exp(jnp.minimum(excess, 50)))
    weight = jnp.where(mask, 1 / jnp.where(mask, probs, 1), 0)
    return Subset(jnp.where(mask, index, 0), jnp.where(jnp.any(jnp.isnan(scores)), jnp.nan, weight), mask)


def draw(
    key: Key,
    scores: Any,
    num: int,
    *,
    scheme: Literal["poisson", "multinomial", "systematic", "priority", "stratified", "topk"] = "poisson",
    capacity: int | None = None,
    axis_name: Any = None,
) -> Subset:
    """Draw a weighted random subset of rows by their scores, whose weighted sums are unbiased.

    Schemes, with p = scores / sum(scores) and q = `inclusion_probs(scores, num)`:

    - "poisson": every row on its own with probability q; rows with q = 1 are always there. Random size, mean `num`.
    - "priority": `num` distinct rows, largest scores / U; threshold weights. Fixed size and nearly Poisson's variance.
    - "topk": `num` distinct rows drawn one after the other without replacement (exponential clocks), threshold weights.
    - "multinomial": `num` independent rows with probability p, repeats allowed.
    - "systematic": row i is taken floor or ceil of num * p_i times, one uniform for all. Neighbours are never
      drawn together, so shuffle rows first if their order has a period.
    - "stratified": like systematic with its own uniform in each of `num` equal slices.

    The last two with log-weights exponentiated are the resampling steps of particle filters (ancestors come sorted).

    Args:
        key: one JAX key.
        scores: [n] non-negative importance of every row, any scale: `sensitivity(A, p)`, weights, losses.
        num: rows wanted, static.
        scheme: see above, static.
        capacity: slots of the result for "poisson" (default: num + 6 sqrt(num) + 8, overflow probability < 1e-8).
            With `axis_name`, slots per shard (the default holds even if one shard has all the mass).
        axis_name: mesh axis over which `scores` is one shard (inside `jax.shard_map`), "poisson" only: `index` then
            counts inside the shard, no row is communicated, and every shard draws its own stream. (Scores sharded over
            an explicit mesh need no name: they are gathered, and `index` counts all rows.)

    Returns:
        `Subset`. Its weights are NaN, and `ok` False, after a Poisson draw that overflowed `capacity` (in the shard
        where it did), and for bad traced scores (NaN, all zero).

    Raises:
        ValueError: for bad scores, an unknown scheme, num < 1, or num > n where rows are distinct.
        TypeError: for integer scores, or something that is not a key.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> subset = js.select.draw(jax.random.key(0), jnp.array([9.0, 0.0, 1.0, 2.0]), 2, scheme="priority")
        >>> int(subset.index[0]), 1 in subset.index, bool(subset.mask.all())
        (0, False, True)

    Cost:
        One pass over the scores, 2n random words ("multinomial": 2 log2(n) words per draw instead).

    References:
        Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary subset sums", 2007, arXiv:cs/0509026.
        Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.
    """
    check_key(key, "draw")
    check_choice("draw: scheme", scheme, SCHEMES)
    check_axis(axis_name, "draw")
    scores = check_scores(scores, "draw")
    if axis_name is None and mesh_axis(scores) is not None:
        scores = jax.reshard(scores, everywhere(scores))
    distinct = scheme in ("poisson", "priority", "topk")
    high = scores.shape[0] if distinct and axis_name is None else None
    num = check_count("draw: num", num, high=high)
    if scheme != "poisson" and (capacity is not None or axis_name is not None):
        raise ValueError(f"draw: capacity and axis_name go with scheme='poisson', got scheme={scheme!r}.")
    if scheme == "poisson":
        slots = _capacity(num, scores.shape[0]) if capacity is None else check_count("draw: capacity", capacity)
        return _poisson(key, scores, num, slots, axis_name)
    scores = _by_largest(scores, jnp.max(scores))
    return (_without_repeats if distinct else _with_repeats)(key, scores, num, scheme)


@functools.partial(jax.jit, static_argnames=("num",))
def _many(keys, weights, num):
    return jax.vmap(lambda k, w: tree_draw(k, sum_tree(w), num))(keys, weights)


BLOCKS_FROM = 1024
"""Categories from which a single draw is made in two stages."""


def _race(key, logits):
    """One category by a race of exponential clocks along the last axis."""
    clocks = log_clocks(key, logits.shape, logits.dtype)
    finite = logits > -jnp.inf
    return jnp.argmin(jnp.where(finite, clocks - jnp.where(finite, logits, 0), jnp.inf), -1)


def _race_of_blocks(key, logits):
    """One category in two stages, a block of sqrt(V) by its mass and one inside it: 4 sqrt(V) random words, not 2 V."""
    num = logits.shape[-1]
    width = math.isqrt(num - 1) + 1
    rows = -(-num // width)
    pad = [(0, 0)] * (logits.ndim - 1) + [(0, rows * width - num)]
    blocks = jnp.pad(logits, pad, constant_values=-jnp.inf).reshape(*logits.shape[:-1], rows, width)
    mass = jnp.sum(jnp.exp(blocks - jnp.max(logits, -1)[..., None, None]), -1)
    first, second = jax.random.split(key)
    row = _race(first, jnp.log(mass))
    inside = jnp.take_along_axis(blocks, row[..., None, None], -2)[..., 0, :]
    return row * width + _race(second, inside)


def draw_categorical(key: Key, logits: Any, shape: int | tuple[int, ...] = ()) -> jax.Array:
    """Draw categories from log-weights of any size and dtype, with every tail probability kept.

    A single draw is a race of exponential clocks, argmin_k log E_k - logits_k, with 64 random bits per clock, from 1024
    categories on in two stages: which block of sqrt(V), and which category in it. Many draws from one vector walk down
    a tree of sums with a fresh 64-bit coin at every node. 16-bit logits are raised to float32 first, so they give the
    very indices of their float32 copy.

    Args:
        key: one JAX key.
        logits: [..., V] unnormalised log-probabilities; -inf forbids a category.
        shape: independent draws per logits vector, in front of its batch axes.

    Returns:
        int32 [*shape, ...]. A vector of NaN or of -inf throughout gives -1 (when traced).

    Raises:
        ValueError: for NaN or +inf logits, a row of -inf throughout, or a scalar.
        TypeError: for integer logits.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> index = js.select.draw_categorical(jax.random.key(0), logits, (8000,))
        >>> abs(float((index == 0).mean()) - 0.5) < 0.03
        True

    Cost:
        2V random words for one draw, 4 sqrt(V) with V additions from V = 1024 on; V additions and 2 log2(V) words
        each for many.
    """
    check_key(key, "draw_categorical")
    logits = as_floating("draw_categorical: logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"draw_categorical: logits must be [..., V] with V >= 1, got shape {logits.shape}.")
    known = concrete(logits) if logits.size <= 2**22 else None
    if known is not None:
        known = known.astype("float64")
        if not bool((known < jnp.inf).all()) or not bool((known > -jnp.inf).any(-1).all()):
            raise ValueError("draw_categorical: logits must be < inf, not NaN, and not all -inf in a row.")
    logits = logits.astype(wide(logits.dtype))
    shape = shape if isinstance(shape, (tuple, list)) else (shape,)
    shape = tuple(check_count("draw_categorical: shape", size, low=0) for size in shape)
    num, batch = math.prod(shape), logits.shape[:-1]
    top = jnp.max(logits, -1, keepdims=True)
    bad = ~jnp.isfinite(top[..., 0])
    if num == 1:
        race = _race if logits.shape[-1] < BLOCKS_FROM else _race_of_blocks
        index = race(key, jnp.where(bad[..., None], 0, logits))
        return jnp.broadcast_to(jnp.where(bad, -1, index.astype(jnp.int32)), (*shape, *batch))
    flat = jnp.exp(logits - jnp.where(bad[..., None], 0, top)).reshape(-1, logits.shape[-1])
    keys = jax.random.split(key, flat.shape[0])
    index = _many(keys, flat, num)
    index = jnp.where(bad.reshape(-1, 1), -1, index)
    return index.T.reshape(*shape, *batch)
