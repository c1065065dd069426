"""Nolan et al., "Active Diffusion Subsampling", 2024, arXiv:2406.14388.

Claim: measuring where the particles of the posterior disagree reconstructs better from as many measurements than a
random order or the order of the data's variance. Here signals are Gaussian with neighbours alike: a measurement tells
about the places around it, so the largest variances are not the best five places.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optimised

import jsamp as js

VP = js.noise.VP()
SIZE, PICKS, ROWS = 24, 5, 30
PLACE = np.linspace(0, 1, SIZE)
STD = 1.5 - PLACE
COV = STD[:, None] * STD * np.exp(-0.5 * ((PLACE[:, None] - PLACE) / 0.12) ** 2) + 1e-3 * np.eye(SIZE)
LAW = js.denoise.GaussianMixture(VP, weights=[1.0], means=[np.zeros(SIZE)], covs=[COV])
PLAN = js.solve.ddpm(VP, js.noise.logsnr_grid(VP, ROWS))
WHEN = np.isin(np.arange(ROWS), [11, 13, 14, 15, 17])


def posterior(denoiser, mask, y):
    return js.denoise.TMPD(denoiser, js.denoise.LinearOp.mask(mask), y, noise=0.05, event_ndim=1)


def fixed(order, z, groups):
    return order


def read(truth, index):
    return truth


def error(key, truth, score):
    """Mean absolute error of the mean of 16 particles."""
    measure = jax.tree_util.Partial(read, truth)
    steer = js.steer.ActiveSubsampling(posterior, measure, WHEN, np.zeros(SIZE), score=score)
    first, second = jax.random.split(key)
    result = js.sample(second, LAW, VP.prior(first, (16, SIZE)), PLAN, steer=steer)
    return jnp.mean(jnp.abs(jnp.mean(result.x, axis=0) - truth)), jnp.sum(result.info.report.mask)


def test_measuring_where_particles_disagree_is_best():
    num = 192  # 48 signals put the difference from the random order at 3.8 standard errors: four times as many.
    truths = np.random.default_rng(0).normal(size=(num, SIZE)) @ np.linalg.cholesky(COV).T
    truths = jnp.asarray(truths, jnp.float32)
    keys = jax.random.split(jax.random.key(0), num)
    random = jax.vmap(lambda k: jax.random.uniform(k, (SIZE,)))(jax.random.split(jax.random.key(1), num))
    order = lambda values: jax.tree_util.Partial(fixed, jnp.asarray(values, jnp.float32))
    active, count = optimised.jit(jax.vmap(lambda k, v: error(k, v, "variance")))(keys, truths)
    by_order = optimised.jit(jax.vmap(lambda k, v, o: error(k, v, order(o))[0]))
    blind = by_order(keys, truths, random)
    variance = by_order(keys, truths, jnp.broadcast_to(jnp.asarray(np.diag(COV), jnp.float32), (num, SIZE)))
    assert np.all(np.asarray(count) == PICKS)
    # Paired differences over the same signals, in standard errors.
    for other in (blind, variance):
        gap = np.asarray(other) - np.asarray(active)
        assert gap.mean() > 3.9 * gap.std() / np.sqrt(num)
        assert active.mean() < 0.8 * other.mean()
