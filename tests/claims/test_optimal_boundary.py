"""Ma et al. 2024: one start, found on a reference set, serves all inputs of super-resolution, and few steps with it do
better than many from fresh noise."""

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

VE = js.noise.VE()
SIZE, FACTOR = 16, 4
# Smooth signals on a circle: a Gaussian law with the spectrum of natural images, seen through averages of four.
DISTANCE = np.minimum(np.arange(SIZE), SIZE - np.arange(SIZE))
COVARIANCE = 0.25 * np.exp(-DISTANCE[(np.arange(SIZE)[:, None] - np.arange(SIZE)) % SIZE] / 2.0)
DOWN = np.kron(np.eye(SIZE // FACTOR), np.full((1, FACTOR), 1 / FACTOR))
NOISE = 0.05
GAIN = COVARIANCE @ DOWN.T @ np.linalg.inv(DOWN @ COVARIANCE @ DOWN.T + NOISE**2 * np.eye(SIZE // FACTOR))
POSTERIOR = jnp.asarray(COVARIANCE - GAIN @ DOWN @ COVARIANCE + 1e-6 * np.eye(SIZE), jnp.float32)


def condition(low):
    """The exact posterior of a signal given its low resolution, as a denoiser: the same covariance for every input."""
    mean = jnp.sum(jnp.asarray(GAIN, jnp.float32) * low[None], axis=-1)
    return js.denoise.GaussianMixture(VE, weights=[1.0], means=mean[None], covs=POSTERIOR[None])


def pairs(seed, num):
    rng = np.random.default_rng(seed)
    high = rng.multivariate_normal(np.zeros(SIZE), COVARIANCE, size=num)
    low = high @ DOWN.T + NOISE * rng.standard_normal((num, SIZE // FACTOR))
    return jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)


def test_one_start_serves_held_out_inputs_and_few_steps():
    few, many = (js.solve.dpmpp(VE, js.noise.karras_grid(VE, n)) for n in (5, 60))
    low, high = pairs(0, 100)
    x, found = js.solve.optimal_start(jax.random.key(0), condition, low, high, few, num=256, block=64)
    low, high = pairs(1, 300)
    solve = jax.jit(lambda x, low, plan: jax.vmap(lambda x, low: js.sample(None, condition(low), x, plan).x)(x, low))
    fresh = VE.prior(jax.random.key(5), high.shape)
    error = lambda x, plan: float(jnp.mean((solve(jnp.broadcast_to(x, high.shape), low, plan) - high) ** 2))
    shared, random_few, random_many = error(x, few), error(fresh, few), error(fresh, many)
    # The posterior mean has half the error of a posterior draw: 3 dB is the most that any start can give.
    assert shared < 0.85 * random_few
    assert shared < 0.85 * random_many
    assert shared > 0.45 * random_many
    # And it is the search that finds it: the worst candidate of the references is worse than chance on new inputs.
    candidate = lambda index: 80.0 * jax.random.normal(jax.random.split(jax.random.key(0), 256)[int(index)], (SIZE,))
    np.testing.assert_allclose(
        x, candidate(np.argmin(found.score)), rtol=1e-5
    )  # a draw of the prior, and no other start
    assert error(candidate(np.argmax(found.score)), few) > 1.1 * random_few
