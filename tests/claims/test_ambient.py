"""Daras, Cherapanamjeri and Daskalakis, "How Much is a Noisy Image Worth? ...", 2024, arXiv:2411.02780.

Claim: few clean and many noisy rows are worth nearly as much as all clean: far more than the clean ones alone, or than
all rows taken for clean. Here data are N(0, diag) in 64 dimensions, the denoiser has one unknown variance a dimension,
and quality is the error of these.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsamp as js

DIM, NUM, CLEAN, LEVEL = 64, 400, 40, 0.3
STD = np.linspace(0.5, 1.0, DIM).astype(np.float32)


def denoise(log_variance, x, sigma):
    variance = jnp.exp(log_variance)
    return variance / (variance + sigma**2) * x


def error(rows, known):
    loss = js.loss.Ambient(1.0, js.loss.LogNormalTimes(-0.3, 0.8))
    start = jax.tree_util.Partial(denoise, jnp.zeros(DIM))
    rate = optax.cosine_decay_schedule(0.05, 500)
    model = js.fit.minimise(
        jax.random.key(0), loss, start, (rows, known), optimiser=optax.adam(rate), steps=500, batch=40, ema=0.98
    ).info.average
    return float(np.sqrt(np.mean((np.asarray(model.args[0]) - 2 * np.log(STD)) ** 2)))


def test_noisy_rows_are_worth_nearly_as_much_as_clean_ones():
    k_clean, k_noise = jax.random.split(jax.random.key(1))
    clean = STD[None] * jax.random.normal(k_clean, (NUM, DIM))
    known = jnp.where(jnp.arange(NUM) < CLEAN, 0.0, LEVEL)
    rows = clean + known[:, None] * jax.random.normal(k_noise, (NUM, DIM))
    full, mixed = error(clean, jnp.zeros(NUM)), error(rows, known)
    few, mistaken = error(clean[:CLEAN], jnp.zeros(CLEAN)), error(rows, jnp.zeros(NUM))
    assert mixed <= 1.3 * full
    assert few >= 2 * full and mistaken >= 2 * full
