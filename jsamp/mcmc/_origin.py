"""Where a run comes from: fingerprints of its key, of the kind of its kernel and of its numbers."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._random import words
from jsamp._core._types import Key
from jsamp.mcmc._protocol import Kernel

MIX = 0x9E3779B1  # an odd number without pattern: the golden ratio times 2^32


def origin(key: Key, kernel: Any) -> jax.Array:
    """[3] uint32: fingerprints of the key, of the kind of kernel, and of the numbers in it."""
    return jnp.stack([numbers(words(key)), jnp.uint32(kind(kernel)), numbers(kernel)])


def kind(kernel: Any) -> int:
    """A fingerprint of the types of a kernel and of the kernels inside it, the same in every process."""
    return zlib.crc32(repr(_types(kernel)).encode())


def _types(kernel):
    inner = jax.tree.leaves(kernel, is_leaf=lambda node: node is not kernel and isinstance(node, Kernel))
    return (type(kernel).__qualname__, *(_types(node) for node in inner if isinstance(node, Kernel)))


def numbers(tree: Any) -> jax.Array:
    """A fingerprint of the arrays of a tree, uint32: other bits, another fingerprint (but for one chance in 2^32)."""
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        bits = _bits(jnp.asarray(leaf)).reshape(-1)
        bits = (bits ^ (bits >> 15)) * jnp.uint32(MIX)
        odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
        total = (total ^ (total >> 13)) * jnp.uint32(MIX) + jnp.sum((bits ^ (bits >> 16)) * odd, dtype=jnp.uint32)
    return total


def _bits(leaf):
    """The bits of an array as unsigned words of at most 32 bits."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag])
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        words = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
        leaf = jax.lax.bitcast_convert_type(leaf, words)
    return leaf.astype(jnp.uint32)
