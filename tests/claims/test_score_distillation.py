"""Wang et al., "ProlificDreamer: ... Variational Score Distillation", 2023, arXiv:2305.16213.

Claim: particles moved by SDS collapse onto the mode; moved by VSD they keep the spread of the prior. Here the prior is
N(0.5, 1), and the online denoiser is fitted to the particles: for a Gaussian, by their mean and variance.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

SCHEDULE = js.noise.VP()
PRIOR = js.denoise.GaussianMixture(SCHEDULE, weights=[1.0], means=[[0.5]], stds=[1.0])


def noise_of(moments, x, t):
    """The eps of a Gaussian with these moments."""
    mean, variance = moments
    a, s = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    return s * (x - a * mean) / (a**2 * variance + s**2)


def run(key, x, vsd, times, num):
    def step(x, i):
        k = jax.random.fold_in(key, i)
        online = js.Denoiser(jax.tree_util.Partial(noise_of, (x.mean(), x.var())), SCHEDULE)
        if vsd:
            direction = lambda k, x: js.loss.vsd(k, PRIOR, online, x, times=times)
        else:
            direction = lambda k, x: js.loss.sds(k, PRIOR, x, times=times)
        slope, _ = js.loss.particle_step(k, lambda theta: theta, x, direction)
        return x - 0.15 * len(x) * slope, None

    return jax.lax.scan(step, x, jnp.arange(num))[0]


def test_vsd_keeps_the_spread_that_sds_loses():
    start = 0.1 * jax.random.normal(jax.random.key(1), (256, 1)) - 1.0
    wide, late = js.loss.UniformTimes(0.02, 0.98), js.loss.UniformTimes(0.02, 0.5)
    draw = jax.jit(run, static_argnums=(2, 4))
    spread = np.asarray(draw(jax.random.key(0), draw(jax.random.key(0), start, True, wide, 400), True, late, 200))
    assert abs(spread.mean() - 0.5) < 0.15 and abs(spread.var() - 1) < 0.15
    # SDS: what spread remains is the noise of its own directions.
    collapsed = np.asarray(draw(jax.random.key(0), spread, False, wide, 400))
    assert abs(collapsed.mean() - 0.5) < 0.15 and collapsed.var() < 0.15
