"""Aiello, Valsesia and Magli, "Fast Inference in Denoising Diffusion Models via MMD Finetuning", 2023, arXiv:2301.07969.

Claim: a few hundred updates on the discrepancy of its own samples repair a sampler of very few steps. Here DDIM with
three steps and the exact denoiser of a Gaussian, whose samples have too little variance; the distance is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsamp as js

SCHEDULE, STD = js.noise.VP(), np.array([1.0, 0.4])
PLAN = js.solve.ddim(SCHEDULE, js.noise.time_grid(SCHEDULE, 3, final="zero"))


def denoise(gain, x, t):
    """The exact x0, times a number for each of the three steps and each coordinate."""
    a, s = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    step = jnp.argmin(jnp.abs(jnp.asarray(PLAN.t, t.dtype) - t))
    return gain[step] * a * STD.astype(np.float32) ** 2 / ((a * STD.astype(np.float32)) ** 2 + s**2) * x


def sampler(key, gain):
    model = js.Denoiser(jax.tree_util.Partial(denoise, gain), SCHEDULE, predicts="x0")
    return js.sample(None, model, jax.random.normal(key, (2,)), PLAN).x


def discrepancy(gain):
    """The squared discrepancy of samples, which are Gaussian, and data, in closed form (kernel exp(-|a - b|^2 / 2))."""
    scale = np.abs(np.asarray(jax.jacfwd(lambda x: js.sample(None, js.Denoiser(
        jax.tree_util.Partial(denoise, gain), SCHEDULE, predicts="x0"), x, PLAN).x)(jnp.zeros(2))).diagonal())  # fmt: skip
    mean = lambda a, b: np.prod(1 / np.sqrt(1 + a**2 + b**2))
    return mean(scale, scale) + mean(STD, STD) - 2 * mean(scale, STD)


def test_three_hundred_updates_divide_the_discrepancy_by_fifty():
    """Two hundred is what they reach; a wrong share of any of the three terms leaves a sixth or more."""
    data = jax.random.normal(jax.random.key(1), (20_000, 2)) * STD.astype(np.float32)[None]
    loss = js.loss.MMDFinetune(sampler, kernel="gaussian")
    start = jnp.ones((PLAN.nfe, 2))
    tuned = js.fit.minimise(jax.random.key(0), loss, start, data, optimiser=optax.adam(5e-3), steps=300, batch=256).x
    assert discrepancy(tuned) < discrepancy(start) / 50
    assert discrepancy(start) > 1e-3
