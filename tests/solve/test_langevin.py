"""Langevin correctors between steps: the published loop, and the law at which they come to rest."""

import itertools

import numpy as np
import pytest
from oracles import Gaussian, Mixture, run_table

import jsamp as js

S, VP = js.solve, js.noise.VP()
GRID = js.noise.time_grid(VP, 4)


@pytest.mark.parametrize("steps", [1, 2])
def test_rows_are_the_published_loop(steps):
    """Correct by h = 2 (snr sqrt(d) / |score|)^2 at the level, then step by the posterior mean and its noise."""
    rng, snr, d = np.random.default_rng(0), 0.16, 5
    law = Mixture([0.4, 0.6], rng.normal(size=(2, d)), [0.3, 0.5])
    x = start = rng.normal(size=(7, d))
    noise = rng.normal(size=(4 * (1 + steps), 7, d))
    draws = iter(noise)
    for t, after in itertools.pairwise(GRID):
        a0, s0, a1, s1 = VP.alpha(t), VP.sigma(t), VP.alpha(after), VP.sigma(after)
        for _ in range(steps):
            score = -law(x, a0, s0)[1] / s0
            h = 2 * snr**2 * d / np.sum(score**2, axis=1, keepdims=True)
            x = x + h * score + np.sqrt(2 * h) * next(draws)
        beta = 1 - (a0 / a1) ** 2
        x0 = law(x, a0, s0)[0]
        x = (a0 / a1) * (s1 / s0) ** 2 * x + a1 * beta / s0**2 * x0 + s1 / s0 * np.sqrt(beta) * next(draws)
    plan = S.predictor_corrector(S.ddpm(VP, GRID), snr=snr, steps=steps)
    np.testing.assert_allclose(run_table(plan, law, start, lambda r, stream: noise[r]), x, rtol=1e-10)


def test_correctors_come_to_rest_at_a_known_variance():
    """On N(0, s^2 I) in many dimensions at 1 + snr^2 times the variance of the level, from anywhere."""
    rng, d, snr, spread = np.random.default_rng(1), 4096, 0.4, 0.5
    plan = S.predictor_corrector(S.ddpm(VP, [0.4, 0.3]), snr=snr, steps=60)[:60]
    level = (VP.alpha(0.4) * spread) ** 2 + VP.sigma(0.4) ** 2
    start = np.sqrt(level * np.array([[0.3], [3.0]])) * rng.normal(size=(2, d))
    out = run_table(plan, Gaussian(np.zeros(d), np.full(d, spread**2)), start, lambda r, s: rng.normal(size=(2, d)))
    found = np.mean(out**2, axis=1) / level
    np.testing.assert_allclose(found, 1 + snr**2, atol=4.5 * np.sqrt(2 / d) * (1 + snr**2))
    assert 4.5 * np.sqrt(2 / d) * (1 + snr**2) < snr**2
