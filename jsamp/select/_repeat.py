"""Repeated random subsets of a training set."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import check_count, check_flag, check_key
from jsamp._core._types import Key


def repeated_subsets(key: Key, n: int, num: int, epochs: int, *, replace: bool = False) -> jax.Array:
    """Draw a fresh random subset of the training set for every epoch: RS2.

    Without replacement, epochs walk through one random permutation of the data and start a new one when it is used up:
    after every whole pass all rows were seen equally often. An epoch across the seam takes the tail of the old
    permutation and rows of the new one that are not in that tail, so rows are distinct inside every epoch. With
    `replace`, every epoch is an independent subset (distinct inside the epoch). Set learning-rate schedules for the
    shortened number of steps, epochs * num / batch.

    Args:
        key: one JAX key.
        n: rows in the dataset, static.
        num: rows per epoch, static.
        epochs: static.
        replace: independent subsets instead of passes, static.

    Returns:
        [epochs, num] int32.

    Raises:
        ValueError: for num outside 1..n.

    Example:
        >>> import jax, jsamp as js
        >>> index = js.select.repeated_subsets(jax.random.key(0), 10, 5, 4)
        >>> sorted(index[:2].ravel().tolist()) == list(range(10))
        True

    Cost:
        One permutation per pass (with `replace`: per epoch).

    References:
        Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning", 2024,
        arXiv:2305.18424.
    """
    check_key(key, "repeated_subsets")
    check_count("repeated_subsets: n", n)
    check_count("repeated_subsets: num", num, high=n)
    check_count("repeated_subsets: epochs", epochs)
    check_flag("repeated_subsets: replace", replace)
    return _repeated(key, n, num, epochs, replace)


@functools.partial(jax.jit, static_argnames=("n", "num", "epochs", "replace"))
def _repeated(key, n, num, epochs, replace):
    def shuffled(i):
        return jax.random.permutation(jax.random.fold_in(key, i), n).astype(jnp.int32)

    if replace:
        return lax.map(lambda i: shuffled(i)[:num], jnp.arange(epochs))
    slot = jnp.arange(num)

    def renew(state):
        order, position, passes = state
        left = n - position
        tail = jnp.zeros((n,), bool).at[jnp.where(slot < left, order[(position + slot) % n], n)].set(True, mode="drop")
        fresh = shuffled(passes)
        # The first num entries hold enough rows outside the tail: those come first, order kept otherwise.
        late = tail[fresh] & (jnp.arange(n) < num)
        group = jnp.where(jnp.arange(n) < num, late.astype(jnp.int32), 2)
        fresh = fresh[jnp.argsort(group, stable=True)]
        joined = jnp.where(slot < left, order[(position + slot) % n], fresh[(slot - left) % n])
        return joined, (fresh, num - left, passes + 1)

    def walk(state):
        order, position, passes = state
        return lax.dynamic_slice(order, (position,), (num,)), (order, position + num, passes)

    def step(state, _):
        index, state = lax.cond(state[1] + num > n, renew, walk, state)
        return state, index

    _, index = lax.scan(step, (shuffled(0), jnp.asarray(0), jnp.asarray(1)), None, length=epochs)
    return index
