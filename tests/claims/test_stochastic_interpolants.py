"""Stochastic interpolants (Albergo, Boffi and Vanden-Eijnden, 2023): noise that is chosen when sampling controls the
divergence from the target where the learned velocity is wrong, and the flow does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jsamp as js

PATH = js.noise.Interpolant("linear")
WEIGHTS, MEANS, STDS = np.array([0.35, 0.65]), np.array([-1.0, 0.8]), np.array([0.3, 0.25])
NUM = 10_000


def divergence(x):
    """KL(samples || target) over 30 bins; its bias at the target is 29 / (2 NUM) = 1.5e-3."""
    edges = np.quantile(draws(), np.linspace(0, 1, 31)[1:-1])
    below = np.concatenate([[0], (WEIGHTS * norm.cdf(edges[:, None], MEANS, STDS)).sum(1), [1]])
    wanted = np.diff(below)
    found = np.bincount(np.searchsorted(edges, x), minlength=30) / len(x)
    inside = found > 0
    return np.sum(found[inside] * np.log(found[inside] / wanted[inside]))


def draws():
    rng = np.random.default_rng(0)
    k = rng.choice(2, NUM, p=WEIGHTS)
    return MEANS[k] + STDS[k] * rng.standard_normal(NUM)


@pytest.fixture(scope="module")
def divergences():
    law = lambda means, stds, weights: js.denoise.GaussianMixture(
        js.noise.VE(), weights=weights, means=np.reshape(means, (-1, 1)), stds=stds
    )
    exact = js.denoise.BridgeMixture(PATH, law([0.0], [1.0], [1.0]), law(MEANS, STDS, WEIGHTS))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((NUM, 1)), jnp.float32)

    def run(error, eps):
        wrong = lambda x, t: exact(x, t).x0 + error * jnp.sin(3 * x)
        bridge = js.denoise.Bridge(PATH, wrong, exact.score)
        plan = js.solve.interpolant_sde(PATH, np.linspace(1e-3, 1, 76), eps=eps)
        return divergence(np.asarray(js.sample(jax.random.key(0), bridge, x, plan).x[:, 0]))

    return {(error, eps): run(error, eps) for error in (0.0, 0.5) for eps in (0.0, 1.0)}


def test_noise_lowers_the_divergence_under_a_wrong_velocity(divergences):
    assert divergences[0.5, 0.0] > 2 * divergences[0.5, 1.0]
    assert divergences[0.5, 0.0] > 0.01


def test_with_the_right_velocity_every_noise_level_has_the_target(divergences):
    for eps in (0.0, 1.0):
        assert divergences[0.0, eps] < 5e-3, divergences
