"""Random numbers with relative precision: 64-bit uniforms, exponential clocks, and sums kept as pairs of floats.

Every random choice of the package is made from these. A float32 uniform made from 23 bits has absolute precision
1e-7: too coarse where one row in 1e8, or one token in 5e4, must keep its own probability.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._types import Key


def uniform_from_words(high: jax.Array, low: jax.Array, dtype=jnp.float32) -> jax.Array:
    """(high 2^32 + low + 1/2) / 2^64 in (0, 1), with the relative precision of `dtype` near zero."""
    value = (high.astype(dtype) + (low.astype(dtype) + 0.5) * 2.0**-32) * 2.0**-32
    return jnp.minimum(value, 1 - jnp.finfo(dtype).epsneg)


def uniform(key: Key, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Uniforms in (0, 1) from 64 random bits each."""
    words = jax.random.bits(key, (2, *shape), jnp.uint32)
    return uniform_from_words(words[0], words[1], dtype)


def log_clock_from_words(high: jax.Array, low: jax.Array, dtype=jnp.float32) -> jax.Array:
    """Log of an Exp(1) variable from two words: as small as log 2^-65, which is where races are won."""
    return jnp.log(-jnp.log1p(-uniform_from_words(high, low, dtype)))


def log_clocks(key: Key, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Logs of independent Exp(1) variables from 64 random bits each."""
    words = jax.random.bits(key, (2, *shape), jnp.uint32)
    return log_clock_from_words(words[0], words[1], dtype)


def wide(dtype) -> jnp.dtype:
    """The dtype draws are computed in: float64 for float64, else float32 (never 16 bits)."""
    return jnp.promote_types(dtype, jnp.float32)


Pair = tuple[jax.Array, jax.Array]


def pair_add(a: Pair, b: Pair) -> Pair:
    """Sum of two numbers held as unevaluated pairs high + low (about 48 bits in float32)."""
    total = a[0] + b[0]
    part = total - a[0]
    error = (a[0] - (total - part)) + (b[0] - part) + (a[1] + b[1])
    high = total + error
    return high, error - (high - total)


def pair_sub(a: Pair, b: Pair) -> Pair:
    """Difference of two pairs."""
    return pair_add(a, (-b[0], -b[1]))


class SumTree(NamedTuple):
    """Sums of all aligned blocks of 1, 2, 4, ... entries, in one array, leaves first; pairs high + low."""

    high: jax.Array
    low: jax.Array
    start: jax.Array  # where each level below the root begins, root's children first

    @property
    def total(self) -> Pair:
        """The sum of everything."""
        return self.high[-1], self.low[-1]


def _even(x: jax.Array) -> jax.Array:
    return jnp.pad(x, (0, x.shape[0] % 2)) if x.shape[0] > 1 else x


def sum_tree(weight: jax.Array) -> SumTree:
    """The tree of sums of a weight vector; each level is padded to an even length."""
    levels = [(_even(weight), jnp.zeros_like(_even(weight)))]
    while levels[-1][0].shape[0] > 1:
        high, low = levels[-1]
        upper = pair_add((high[::2], low[::2]), (high[1::2], low[1::2]))
        levels.append((_even(upper[0]), _even(upper[1])))
    sizes = np.cumsum([0] + [high.shape[0] for high, _ in levels[:-1]])[:-1]
    return SumTree(
        jnp.concatenate([high for high, _ in levels]),
        jnp.concatenate([low for _, low in levels]),
        jnp.asarray(sizes[::-1].copy(), jnp.int32),
    )


def tree_draw(key: Key, tree: SumTree, num: int) -> jax.Array:
    """`num` independent indices with probability proportional to the leaves: a fresh 64-bit coin at every node.

    The coin always falls on the lighter child's side of zero, where it has relative precision, so every leaf keeps its
    probability to about 1e-6 relative, however heavy its neighbours are.
    """
    coins = uniform(key, (tree.start.shape[0], num), tree.high.dtype)

    def descend(node, inputs):
        start, coin = inputs
        left, right = tree.high[start + 2 * node], tree.high[start + 2 * node + 1]
        light = coin * (left + right) < jnp.minimum(left, right)
        return 2 * node + jnp.where(right < left, light, ~light).astype(jnp.int32), None

    root = jnp.zeros_like(coins, jnp.int32, shape=(num,))
    return lax.scan(descend, root, (tree.start, coins))[0]


def tree_find(tree: SumTree, target: Pair) -> jax.Array:
    """For every target, the leaf whose interval of the running sum holds it: the inverse of the running sum."""

    def descend(carry, start):
        node, target = carry
        child = start + 2 * node
        rest = pair_sub(target, (tree.high[child], tree.low[child]))
        go = ((rest[0] > 0) | ((rest[0] == 0) & (rest[1] >= 0))) & (tree.high[child + 1] > 0)
        target = tuple(jnp.where(go, new, old) for new, old in zip(rest, target, strict=True))
        return (2 * node + go.astype(jnp.int32), target), None

    root = jnp.zeros_like(target[0], jnp.int32)
    return lax.scan(descend, (root, target), tree.start)[0][0]
