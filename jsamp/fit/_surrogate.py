"""A ranking surrogate: a small ensemble of networks that learns which of two candidates scores lower."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._types import Key

MEMBERS, WIDTH, STEPS = 5, 32, 150


class Ranking:
    """Rank new candidates by those evaluated so far; arrays are padded, so it compiles once for a search."""

    def __init__(self, capacity: int, pool: int):
        self.capacity, self.pool = capacity, pool

    def rank(self, key: Key, known: np.ndarray, scores: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Predict an order for `new` [m, d] by every member, [members, m]: smaller for lower scores expected."""
        center, scale = known.mean(0), known.std(0) + 1e-6
        place = np.argsort(np.argsort(scores, kind="stable"), kind="stable") / len(scores)
        spare = self.capacity - len(known)
        x = np.pad((known - center) / scale, ((0, spare), (0, 0))).astype(np.float32)
        y = np.pad(place, (0, spare)).astype(np.float32)
        there = np.arange(self.capacity) < len(known)
        asked = np.pad((new - center) / scale, ((0, self.pool - len(new)), (0, 0))).astype(np.float32)
        return np.asarray(_fit_and_rank(key, x, y, there, asked))[:, : len(new)]


def _score(weights, x):
    hidden = jnp.tanh(jnp.matmul(x, weights["in"], precision="highest") + weights["bias"][None])
    return jnp.matmul(hidden, weights["out"], precision="highest") + jnp.matmul(x, weights["line"], precision="highest")


@jax.jit
def _fit_and_rank(key, x, y, there, new):
    import optax

    def start(key):
        a, b = jax.random.split(key)
        size = x.shape[1]
        return {
            "in": jax.random.normal(a, (size, WIDTH)) / np.sqrt(size), "bias": jnp.zeros(WIDTH),
            "out": jax.random.normal(b, (WIDTH,)) / np.sqrt(WIDTH), "line": jnp.zeros(size),
        }  # fmt: skip

    pairs = there[:, None] & there[None] & (y[:, None] < y[None])

    def loss(weights):
        guess = _score(weights, x)
        hinge = jnp.maximum(0, 0.1 + guess[:, None] - guess[None])
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(weights))
        return jnp.sum(jnp.where(pairs, hinge, 0)) / jnp.maximum(jnp.sum(pairs), 1) + 1e-3 * decay

    optimiser = optax.adam(0.03)

    def member(key):
        weights = start(key)

        def step(carry, _):
            weights, held = carry
            updates, held = optimiser.update(jax.grad(loss)(weights), held)
            return (optax.apply_updates(weights, updates), held), None

        (weights, _), _ = jax.lax.scan(step, (weights, optimiser.init(weights)), None, length=STEPS)
        return _score(weights, new)

    return jax.vmap(member)(jax.random.split(key, MEMBERS))
