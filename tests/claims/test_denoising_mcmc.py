"""Denoising MCMC (arXiv:2209.14593): the joint chain, its documented failures, and the gain at equal cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import denoise, mcmc, noise

SIGMAS = np.geomspace(0.05, 20.0, 200)
SPREAD, WEIGHTS = 0.3, np.array([0.7, 0.3])
CENTER = np.log(SIGMAS).mean()


def law(d):
    means = np.zeros((2, d), np.float32)
    means[:, 0] = 2.0, -2.0

    def logdensity(x, sigma):
        variance = SPREAD**2 + sigma**2
        apart = -jnp.sum((x[None, :] - means) ** 2, axis=1) / 2 / variance
        return jax.nn.logsumexp(jnp.log(jnp.asarray(WEIGHTS, jnp.float32)) + apart) - d / 2 * jnp.log(variance)

    return means, logdensity


def exact_joint(d, count, seed=0):
    rng = np.random.default_rng(seed)
    means, _ = law(d)
    sigma = SIGMAS[rng.integers(0, SIGMAS.size, count)]
    x = means[rng.choice(2, count, p=WEIGHTS)] + np.sqrt(SPREAD**2 + sigma**2)[:, None] * rng.normal(size=(count, d))
    return mcmc.Noised(jnp.asarray(x, jnp.float32), jnp.asarray(sigma, jnp.float32))


def run(kernel, start, num, count):
    keys = jax.random.split(jax.random.key(1), count)
    return jax.vmap(lambda k, s: mcmc.chain(k, kernel, s, num, keep=mcmc.picked).x)(keys, start)


def drift_of_log_sigma(d, count=1000, blocks=5, **options):
    _, logdensity = law(d)
    kernel = mcmc.DenoisingLangevinGibbs(sigmas=jnp.asarray(SIGMAS, jnp.float32), logdensity=logdensity, **options)
    out = run(kernel, exact_joint(d, count), blocks, count)
    final = np.log(np.asarray(out.sigma[:, -1])) - CENTER
    return final.mean(), final.std() / np.sqrt(count)


@pytest.mark.parametrize(("d", "step"), [(2, 0.5), (32, 0.3)])
def test_the_joint_stays_put_with_a_metropolis_step(d, step):
    mean, error = drift_of_log_sigma(d, step_size=step)
    assert abs(mean) < 4 * error  # 4: a false alarm below 1e-4 for any seed


def test_the_ula_move_drifts_upwards_in_high_dimension():
    # A documented failure of the paper's move: each Euler step inflates the radius and sigma follows it.
    mean, error = drift_of_log_sigma(32, blocks=10, step_size=0.5, x_move="ula")
    assert mean > 2.0
    assert error < 0.1


def test_argmax_is_not_gibbs():
    mean, error = drift_of_log_sigma(2, blocks=10, step_size=0.5, argmax=True)
    assert mean < -10 * error


def test_score_only_moves_are_nearly_exact():
    _, logdensity = law(32)
    score = jax.grad(logdensity)
    logits = lambda x: jax.vmap(lambda s: logdensity(x, s))(jnp.asarray(SIGMAS, jnp.float32))  # noqa: E731
    kernel = mcmc.DenoisingLangevinGibbs(
        score, jnp.asarray(SIGMAS, jnp.float32), posterior=logits, step_size=0.3, x_move="mala"
    )
    out = run(kernel, exact_joint(32, 1000), 5, 1000)
    final = np.log(np.asarray(out.sigma[:, -1])) - CENTER
    assert abs(final.mean()) < 4 * final.std() / np.sqrt(1000) + 0.1


def heun(denoiser, x, sigma, n):
    # The paper's deterministic integrator from a start of its own: Karras nodes sigma -> 0.01, then 0.
    rho = 7.0
    ramp = jnp.linspace(0, 1, n)
    nodes = (sigma ** (1 / rho) + ramp * (0.01 ** (1 / rho) - sigma ** (1 / rho))) ** rho
    nodes = jnp.where(sigma > 0.01, nodes, sigma)

    def step(x, pair):
        s, t = pair
        slope = denoiser(x, s).eps
        y = x + (t - s) * slope
        return x + (t - s) * (slope + denoiser(y, t).eps) / 2, None

    x, _ = jax.lax.scan(step, x, (nodes[:-1], nodes[1:]))
    return denoiser(x, nodes[-1]).x0


def exact_denoiser(d):
    means, _ = law(d)
    return denoise.GaussianMixture(noise.VE(0.01, 50.0), weights=WEIGHTS, means=means, stds=[SPREAD] * 2)


def radius(x):
    means, _ = law(2)
    apart = np.linalg.norm(np.asarray(x)[:, None] - means[None], axis=-1)
    return np.median(apart.min(1)), np.mean(apart.argmin(1) == 0)


def test_selecting_the_smallest_sigma_biases_the_sample():
    # sigma^2 of the block's minimum says the noise was small by luck: the denoised radius comes out wrong.
    denoiser, (_, logdensity) = exact_denoiser(2), law(2)
    found = {}
    for select in ("last", "min"):
        kernel = mcmc.DenoisingLangevinGibbs(
            sigmas=jnp.asarray(SIGMAS, jnp.float32), logdensity=logdensity, select=select, step_size=0.5
        )
        out = run(kernel, exact_joint(2, 4000), 2, 4000)
        x = jax.vmap(lambda x, s: heun(denoiser, x, s, 24))(out.x[:, -1], out.sigma[:, -1])
        found[select] = radius(x)
    want = SPREAD * np.sqrt(2 * np.log(2))  # median of a Rayleigh law
    assert abs(found["last"][0] - want) < 0.02
    assert abs(found["last"][1] - 0.7) < 4 * np.sqrt(0.21 / 4000) + 0.01
    assert found["min"][0] > want + 0.03


def mmd(x, y):
    # Unbiased squared maximum mean discrepancy, sums of Gaussian kernels.
    def gram(a, b):
        square = ((a[:, None] - b[None]) ** 2).sum(-1)
        return sum(np.exp(-square / 2 / width**2) for width in (0.1, 0.3, 1.0))

    n, m = len(x), len(y)
    xx, yy = gram(x, x), gram(y, y)
    return (xx.sum() - np.trace(xx)) / n / (n - 1) + (yy.sum() - np.trace(yy)) / m / (m - 1) - 2 * gram(x, y).mean()


@pytest.mark.parametrize("nfe", [10, 20])
def test_denoising_from_the_chain_beats_starting_at_sigma_max(nfe):
    # Two rings of modes in the plane; the plain sampler spends its calls from sigma = 20, the chain's start is close by.
    # The chain's own score calls (one per Langevin move, the norm as its level posterior) are counted in its budget.
    rng = np.random.default_rng(0)
    angle = np.arange(8) * np.pi / 4
    means = 2 * np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    denoiser = denoise.GaussianMixture(noise.VE(0.01, 50.0), weights=np.ones(8) / 8, means=means, stds=[0.1] * 8)
    truth = means[rng.integers(0, 8, 1500)] + 0.1 * rng.normal(size=(1500, 2))
    count = 1500
    score = mcmc.NoisedScore(denoiser)
    skip, solve = nfe // 5, nfe - nfe // 5
    logits = lambda x: jax.vmap(lambda s: _noised(x, s, means))(jnp.asarray(SIGMAS, jnp.float32))  # noqa: E731
    kernel = mcmc.DenoisingLangevinGibbs(
        score, jnp.asarray(SIGMAS, jnp.float32), posterior=logits, x_move="ula", step_size=0.3, skip=skip
    )
    keys = jax.random.split(jax.random.key(0), count // 30)
    begin = mcmc.Noised(jnp.asarray(truth[: count // 30] + 0.5 * rng.normal(size=(count // 30, 2)), jnp.float32),
                        jnp.full(count // 30, 0.5))  # fmt: skip
    starts = jax.vmap(lambda k, s: mcmc.chain(k, kernel, s, 30, burn=20, keep=mcmc.picked))(keys, begin)
    assert int(starts.info.nfe[0]) == 50 * skip
    x, sigma = starts.x.x.reshape(-1, 2), starts.x.sigma.reshape(-1)
    chained = jax.vmap(lambda x, s: heun(denoiser, x, s, (solve + 1) // 2))(x, sigma)
    noise_ = 20.0 * jax.random.normal(jax.random.key(2), (count, 2))
    plain = jax.vmap(lambda x: heun(denoiser, x, 20.0, (nfe + 1) // 2))(noise_)
    assert mmd(np.asarray(chained), truth) < 0.5 * mmd(np.asarray(plain), truth)


def _noised(x, sigma, means):
    variance = 0.01 + sigma**2
    return jax.nn.logsumexp(-jnp.sum((x[None, :] - means) ** 2, axis=1) / 2 / variance) - jnp.log(variance)
