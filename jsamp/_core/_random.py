"""The numbers of `jax.random`, bit for bit, from a generator that is written out instead of a loop.

On CPU `jax.random` runs the rounds of Threefry as a loop per call. That takes longer than a cheap kernel step, and most
of the time to compile one. Written out, the rounds fuse with what uses their words; as a program of its own, which XLA
inlines, they are traced once for each shape.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._types import Key

TURNS = ((13, 15, 26, 6), (17, 29, 16, 24))


@jax.jit
def threefry(seed: Any, high: Any, low: Any) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds: two random words of the counter (high, low) under the seed [2]."""
    keys = (seed[0], seed[1], seed[0] ^ seed[1] ^ jnp.uint32(0x1BD11BDA))
    a, b = high + keys[0], low + keys[1]
    for i in range(5):
        for turn in TURNS[i % 2]:
            a = a + b
            b = ((b << turn) | (b >> (32 - turn))) ^ a
        a, b = a + keys[(i + 1) % 3], b + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return a, b


def words(key: Key) -> Any:
    """The words of a key: two for Threefry, more for other generators."""
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def fold_in(key: Key, number: Any) -> Any:
    """`jax.random.fold_in`, bit for bit, with Threefry written out."""
    seed = words(key)
    if seed.shape != (2,):
        return jax.random.fold_in(key, number)
    made = jnp.stack(threefry(seed, jnp.uint32(0), jnp.asarray(number).astype(jnp.uint32)))
    return made if made.dtype == key.dtype else jax.random.wrap_key_data(made, impl=jax.random.key_impl(key))


def normal(key: Key, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """`jax.random.normal`, bit for bit; a float32 draw by a Threefry key is written out and joins its user's kernel."""
    seed, num = words(key), math.prod(shape)
    if seed.shape != (2,) or dtype != jnp.float32 or num >= 2**32:
        return jax.random.normal(key, shape, dtype)
    high, low = threefry(seed, jnp.uint32(0), jnp.arange(num, dtype=jnp.uint32))
    mantissa = ((high ^ low) >> 9) | jnp.uint32(0x3F800000)
    unit = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1  # in [0, 1)
    least = np.nextafter(np.float32(-1), np.float32(0))
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(jnp.maximum(least, unit * (1 - least) + least)).reshape(shape)


def normal_once(key: Key, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """`normal`, the same bits, held in memory instead of drawn again in everything that uses it."""
    x, seed = normal(key, shape, dtype), words(key)
    if seed.shape != (2,) or dtype != jnp.float32:
        return x
    # XLA repeats the rounds of Threefry in every fusion that uses x, but never a division of integers. Dividing the
    # bits by a one that is computed from the key, so that it is not folded away, makes XLA write x once.
    one = jnp.maximum(jax.lax.population_count(seed[0]) >> 6, 1)
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, jnp.uint32) // one, x.dtype)
