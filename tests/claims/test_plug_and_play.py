"""Plug-and-play restoration (Zhu et al., 2023): a generative denoiser and a proximal data step restore blurred, noisy
images in twenty steps to images that look like the data, which a linear restoration does not, and fit the measurement
to its noise, which the prior alone does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

VE = js.noise.VE()
NOISE, STD = 0.3, 0.1


def blur(x):
    """The mean over neighbours of an image of 64 pixels, zero outside."""
    padded = jnp.pad(x.reshape(8, 8), 1)
    return sum(padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)).reshape(-1) / 9


def test_deblurring_with_a_digit_prior():
    digits = pytest.importorskip("sklearn.datasets").load_digits().images
    rng = np.random.default_rng(0)
    images = rng.permutation(digits)[:300].reshape(300, 64) / 8 - 1
    law = js.denoise.GaussianMixture(VE, weights=np.full(300, 1 / 300), means=images, stds=np.full(300, STD))
    truth = (images[:40] + STD * rng.standard_normal((40, 64))).astype(np.float32)
    mean = images.mean(axis=0).astype(np.float32)
    prior = float(np.std(images - images.mean(axis=0)))
    op = js.denoise.LinearOp(blur)
    plan = js.solve.ddim(VE, js.noise.karras_grid(VE, 20))
    keys = jax.random.split(jax.random.key(0), (2, len(truth)))
    y = jax.vmap(blur)(truth) + NOISE * jax.random.normal(jax.random.key(1), truth.shape)

    @jax.jit
    @jax.vmap
    def restore(keys, y):
        x = VE.prior(keys[0], (64,))
        steer = js.steer.DiffPIR(op, y, noise=NOISE, weight=1.0, zeta=0.3)
        return js.sample(keys[1], law, x, plan, steer=steer).x, mean + op.inverse(y - blur(mean), x, NOISE / prior)

    found, wiener = restore(keys.T, y)
    error = lambda x: float(np.sqrt(np.mean((np.asarray(x) - truth) ** 2)))
    unguided = jax.vmap(lambda k: js.sample(k, law, VE.prior(k, (64,)), plan).x)(keys[0])
    misfit = float(jnp.sqrt(jnp.mean((jax.vmap(blur)(found) - y) ** 2))) / NOISE
    # The root mean square from the nearest image of the data, which is STD for the data themselves.
    apart = lambda x: np.sqrt(np.mean((np.asarray(x)[:, None] - images) ** 2, axis=2)).min(axis=1).mean()
    assert error(found) < 0.8 * error(unguided)
    assert 0.85 < misfit < 1.25
    assert apart(found) < 1.6 * STD
    assert apart(wiener) > 2 * STD
