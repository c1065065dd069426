"""Wu et al., "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models", 2023, arXiv:2306.17775.

Claim: at the same number of network evaluations the twisted diffusion sampler is nearer to the posterior than heuristic
guidance (DPS, here with the best of five step sizes), and a sixteenth of the particles is worse. Here on a mixture whose posterior is known.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

VP = js.noise.VP()
WEIGHTS, MEANS, STD = np.array([0.6, 0.4]), np.array([[-1.2, -1.0], [1.2, 0.8]]), 0.4
LAW = js.denoise.GaussianMixture(VP, weights=WEIGHTS, means=MEANS, stds=[STD, STD])
PLAN = js.solve.ddpm(VP, js.noise.logsnr_grid(VP, 80, final="zero"))
Y, NOISE, SEEDS, PARTICLES = 0.4, 0.8, 32, 256


def statistics_of(x):
    """Functions whose posterior means are compared: both coordinates, their squares and product."""
    return jnp.stack([x[..., 0], x[..., 1], x[..., 0] ** 2, x[..., 1] ** 2, x[..., 0] * x[..., 1]], -1)


def exact():
    """Posterior means of the test functions given y = x[0] + noise: a mixture of two Gaussians."""
    total = STD**2 + NOISE**2
    log = np.log(WEIGHTS) - 0.5 * (Y - MEANS[:, 0]) ** 2 / total
    share = np.exp(log - log.max())
    share /= share.sum()
    gain = STD**2 / total
    first, second = MEANS[:, 0] + gain * (Y - MEANS[:, 0]), MEANS[:, 1]
    var = STD**2 * (1 - gain)
    return share @ np.stack([first, second, first**2 + var, second**2 + STD**2, first * second], -1)


def log_likelihood(x0, var):
    total = NOISE**2 + var
    return -0.5 * (Y - x0[..., 0]) ** 2 / total - 0.5 * jnp.log(total)


def error_of(denoiser, steer, particles=PARTICLES):
    """Root mean square error of the estimates of one run, over runs."""

    def one(key):
        first, second = jax.random.split(key)
        result = js.sample(second, denoiser, VP.prior(first, (particles, 2)), PLAN, steer=steer)
        log_weight = jnp.zeros(particles) if steer is None else result.info.report.log_weight
        return jnp.sum(jax.nn.softmax(log_weight)[:, None] * statistics_of(result.x), axis=0)

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), SEEDS))
    return np.sqrt(np.mean((np.asarray(found, np.float64) - exact()) ** 2))


def test_twisted_particles_beat_dps_at_equal_evaluations():
    op, y = js.denoise.LinearOp(lambda x: x[:1]), jnp.array([Y])
    heuristics = [js.denoise.DPS(LAW, op, y, scale=s, event_ndim=1) for s in (0.03, 0.1, 0.3)]
    heuristics += [js.denoise.DPS(LAW, op, y, s, "gaussian", NOISE, event_ndim=1) for s in (0.5, 1.0)]
    twisted = js.denoise.Twisted(LAW, log_likelihood, data_std=1.0)
    steer = js.steer.SMC(None, lambda x0: log_likelihood(x0, 0.0))
    best = min(error_of(denoiser, None) for denoiser in heuristics)
    tds, few = error_of(twisted, steer), error_of(twisted, steer, PARTICLES // 16)
    assert tds < 0.7 * best
    assert few > 1.5 * tds
