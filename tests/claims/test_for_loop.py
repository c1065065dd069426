"""Ezhov et al., "A for-loop is all you need": inversion by looking up a database of simulations."""

import jax
import jax.numpy as jnp
import numpy as np

from jsamp import select

GRID = jnp.linspace(0, 1, 256)


def tumour(theta):
    """Travelling-wave density around theta[0] with radius theta[1]."""
    return jax.nn.sigmoid((theta[1] - jnp.abs(GRID - theta[0])) / 0.02)


def masks(theta):
    u = tumour(theta)
    return {"core": select.pack_bits(u > 0.6), "whole": select.pack_bits(u > 0.2)}


def test_error_falls_with_the_size_of_the_database_and_members_find_themselves():
    def prior(key, n):
        return jax.random.uniform(key, (n, 2), minval=jnp.array([[0.3, 0.05]]), maxval=jnp.array([[0.7, 0.25]]))

    queries = prior(jax.random.key(1), 60)
    error = []
    for n in (64, 256, 1024, 4096):
        theta = prior(jax.random.key(2), n)
        database = jax.vmap(masks)(theta)
        found = jax.vmap(lambda q, d=database: select.nearest(d, masks(q), metric="dice").index[0])(queries)
        error.append(float(jnp.mean(jnp.linalg.norm(theta[found] - queries, axis=1))))
    slope = np.polyfit(np.log([64, 256, 1024]), np.log(error[:3]), 1)[0]
    assert -0.75 < slope < -0.3  # -1/2 for two parameters, until the grid of 1/256 is reached
    assert error[3] < 0.01
    own = select.nearest(database, masks(theta[7]), 3, metric="dice")
    assert float(own.score[0]) == 2.0
    assert float(jnp.linalg.norm(theta[own.index[0]] - theta[7])) < 0.01
