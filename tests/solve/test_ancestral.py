"""Ancestral and few-step families against the loops that define them, and denoising-diffusion GANs with the true
posterior as their generator."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Mixture, run_table
from scipy.stats import kstest, norm

import jsamp as js

S = js.solve
VE = js.noise.VE(0.05, 20.0)
GRID = js.noise.karras_grid(VE, 7)
LAW = Mixture([0.3, 0.7], [[-1.0], [0.6]], [0.25**2, 0.15**2])
STARTS = 20 * np.random.default_rng(0).standard_normal((8, 1))


def x0_of(x, sigma):
    return LAW(x, 1.0, sigma)[0]


def noise(r, stream):
    return np.random.default_rng([r, stream]).standard_normal(STARTS.shape)


def split(sigma, target, eta):
    up = min(target, eta * (target**2 * (sigma**2 - target**2) / sigma**2) ** 0.5)
    return (target**2 - up**2) ** 0.5, up


def loop(step, eta):
    """k-diffusion's outer loop: `step(x, sigma, target, down, up, row)` -> x, row."""
    x, row = STARTS, 0
    for sigma, target in itertools.pairwise(GRID):
        down, up = split(sigma, target, eta)
        if down == 0:
            x, row = x0_of(x, sigma) + up * noise(row, 0), row + 1
        else:
            x, row = step(x, sigma, target, down, up, row)
    return x


def dpm2(x, sigma, target, down, up, row):
    d = (x - x0_of(x, sigma)) / sigma
    middle = np.exp((np.log(sigma) + np.log(down)) / 2)
    x2 = x + d * (middle - sigma)
    d2 = (x2 - x0_of(x2, middle)) / middle
    return x + d2 * (down - sigma) + up * noise(row + 1, 0), row + 2


def two_s(x, sigma, target, down, up, row):
    t, t_next = -np.log(sigma), -np.log(down)
    h = t_next - t
    s = t + h / 2
    x2 = np.exp(-s) / np.exp(-t) * x - np.expm1(-h / 2) * x0_of(x, sigma)
    x = np.exp(-t_next) / np.exp(-t) * x - np.expm1(-h) * x0_of(x2, np.exp(-s))
    return x + up * noise(row + 1, 0), row + 2


def make_sde(eta):
    def step(x, sigma, target, down, up, row):
        middle = np.sqrt(sigma * target)
        down_m, up_m = split(sigma, middle, eta)
        # Increments of one path in sigma, from the start of the step to its middle and to its end.
        first, rest = np.sqrt(sigma - middle) * noise(row, 0), np.sqrt(middle - target) * noise(row + 1, 0)
        x2 = down_m / sigma * x - np.expm1(np.log(down_m / sigma)) * x0_of(x, sigma)
        x2 = x2 + up_m * first / np.sqrt(sigma - middle)
        x = down / sigma * x - np.expm1(np.log(down / sigma)) * x0_of(x2, middle)
        return x + up * (first + rest) / np.sqrt(sigma - target), row + 2

    return step


@pytest.mark.parametrize("eta", [1.0, 0.4])
@pytest.mark.parametrize(("make", "step"), [
    (S.dpm2_ancestral, lambda eta: dpm2), (S.dpmpp_2s_ancestral, lambda eta: two_s), (S.dpmpp_sde, make_sde),
], ids=["dpm2", "2s", "sde"])  # fmt: skip
def test_tables_are_the_published_loops(make, step, eta):
    found = run_table(make(VE, GRID, eta=eta), LAW, STARTS, noise)
    np.testing.assert_allclose(found, loop(step(eta), eta), rtol=1e-9, atol=1e-9)


def test_identities_without_noise():
    vp = js.noise.VP()
    grid = js.noise.logsnr_grid(vp, 8)
    run = lambda plan: run_table(plan, LAW, STARTS / 20)
    near = lambda a, b: np.testing.assert_allclose(run(a), run(b), rtol=1e-10, atol=1e-10)
    quiet = lambda plan: js.solve.Plan(**{**vars(plan), "noise_std": None})
    near(quiet(S.dpm2_ancestral(vp, grid, eta=0.0)), S.dpm2(vp, grid))
    near(quiet(S.dpmpp_sde(vp, grid, eta=0.0)), quiet(S.dpmpp_2s_ancestral(vp, grid, eta=0.0)))
    near(quiet(S.seeds(vp, grid, eta=0.0)), quiet(S.dpmpp_2s_ancestral(vp, grid, eta=0.0)))
    near(S.res_multistep(vp, grid), S.dpmpp(vp, grid, order=2, lower_order_final=False))
    near(S.velocity_multistep(vp, grid, order=1), S.ddim(vp, grid))


def test_noise_adds_up_to_the_reverse_sde_around_a_fixed_signal():
    """Around a fixed x0 every noise level of SEEDS is exact: the chained noises of the stages make that of the step."""
    fixed = lambda x, alpha, sigma: (0 * x, x / sigma)
    for make in (lambda g: S.seeds(VE, g), lambda g: S.seeds(VE, g, order=3, eta=0.5)):
        plan = make(np.array([20.0, 3.0, 0.5]))
        gains = []
        for r in range(plan.nfe):
            unit = lambda row, stream, r=r: np.ones((1, 1)) * (row == r)
            gains.append(float(run_table(plan, fixed, np.zeros((1, 1)), unit)[0, 0]))
        kept = float(run_table(plan, fixed, np.ones((1, 1)), lambda row, stream: np.zeros((1, 1)))[0, 0])
        np.testing.assert_allclose(np.sum(np.square(gains)) + (20.0 * kept) ** 2, 0.5**2, rtol=1e-10)


# ---------------------------------------------------------------- denoising-diffusion GANs

VP = js.noise.VP()
WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.25, 0.15])


@js.pytree
class Posterior:
    """Draws x0 from p(x0 | x_t) of a mixture, or gives its mean."""

    schedule: js.noise.VP
    draw: bool = js.static(default=True)

    def __call__(self, x, t, *, key=None):
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        total = alpha**2 * STDS**2 + sigma**2
        residual = x[:, None] - alpha * MEANS[None]
        share = jax.nn.softmax(np.log(WEIGHTS)[None] - 0.5 * (jnp.log(total)[None] + residual**2 / total[None]))
        means = MEANS[None] + alpha * STDS[None] ** 2 / total[None] * residual
        x0 = jnp.sum(share * means, axis=1)
        if self.draw:
            own, rest = jax.random.split(key)
            left = jax.random.uniform(own, x.shape) < share[:, 0]
            spread = jnp.sqrt(STDS**2 * sigma**2 / total)
            z = jax.random.normal(rest, x.shape)
            x0 = jnp.where(left, means[:, 0] + spread[0] * z, means[:, 1] + spread[1] * z)
        return js.Prediction(x0, (x - alpha * x0) / sigma)


def distance(num, draw):
    x = jax.random.normal(jax.random.key(1), (8_000,))
    found = js.sample(jax.random.key(2), Posterior(VP, draw), x, S.ddgan(VP, num)).x
    return kstest(np.asarray(found), lambda x: (WEIGHTS * norm.cdf(np.reshape(x, (-1, 1)), MEANS, STDS)).sum(1))


@pytest.mark.parametrize("num", [1, 2, 4])
def test_the_true_posterior_gives_the_law_at_any_number_of_steps(num):
    assert distance(num, True).pvalue > 1e-4
    assert distance(num, False).pvalue < 1e-10
