"""Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution ...", 2023, arXiv:2105.04046.

Claim: a generator fitted by likelihood to data on a curve is best with some noise added to the data: with very little the
fit is a rough one through a few points, with much the curve is blurred away. Here 30 points near a circle, a generator
with twelve harmonics, and the distance of the fitted curve from the circle.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsamp as js

HARMONICS = 6
ADAM = optax.adam(optax.cosine_decay_schedule(0.03, 250))


def curve(c, z):
    """A closed curve in the plane; c [2 HARMONICS + 1, 2]."""
    angle = 2 * jnp.pi * z * jnp.arange(1, HARMONICS + 1)
    return jnp.sum(c * jnp.concatenate([jnp.cos(angle), jnp.sin(angle), jnp.ones(1)])[:, None], axis=0)


def distance(scale, data):
    """Root mean square distance of the fitted curve from the unit circle."""
    loss = js.loss.InstanceNoise(scale, nodes=48, latent="uniform")
    start = jnp.zeros((2 * HARMONICS + 1, 2)).at[0, 0].set(0.7).at[HARMONICS, 1].set(0.5)
    start = start + 0.05 * jax.random.normal(jax.random.key(7), start.shape)
    model = js.fit.minimise(
        jax.random.key(0), loss, jax.tree_util.Partial(curve, start), data, optimiser=ADAM, steps=250, batch=30
    ).x
    z = jnp.linspace(0, 1, 400)
    radius = np.linalg.norm(np.asarray(jax.vmap(model)(z)), axis=1)
    return float(np.sqrt(np.mean((radius - 1) ** 2)))


def test_the_best_noise_is_neither_the_least_nor_the_most():
    angle = jax.random.uniform(jax.random.key(1), (30,), maxval=2 * jnp.pi)
    data = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    found = {scale: distance(scale, data) for scale in (0.02, 0.15, 1.0)}
    assert found[0.15] < 0.7 * found[0.02] and found[0.15] < 0.7 * found[1.0], found
