"""Chen et al. 2024 (overview), Yuan et al. 2023: generation directed by a reward that was learned from few labels.

Data near a plane of R^8, a score and a reward both learned from n points. The nonparametric rates of the review are out
of reach of a test; these are the parametric ones.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

SCHEDULE = js.noise.VP()
DIM, NOISE, WIDTH = 8, 0.5, 0.1
RNG = np.random.default_rng(0)
PLANE = np.linalg.qr(RNG.normal(size=(DIM, 2)))[0]
ROOT = np.concatenate([PLANE @ np.array([[1.0, 0.4], [0.0, 0.8]]), WIDTH * np.eye(DIM)], axis=1)
COV = ROOT @ ROOT.T
# The true reward asks for something off the plane too.
BETA = PLANE @ [1.0, -0.5] + 0.3 * np.linalg.svd(PLANE)[0][:, 2]


def law(cov):
    return js.denoise.GaussianMixture(SCHEDULE, weights=jnp.ones(1), means=jnp.zeros((1, DIM)), covs=cov[None])


@functools.cache
def learned():
    """Covariances of data [n, repeats] and rewards fitted to noisy labels, for n = 2^6 to 2^13."""
    found = {}
    for n in 2 ** np.arange(6, 14):
        x = RNG.normal(size=(24, n, ROOT.shape[1])) @ ROOT.T
        values = x @ BETA + RNG.normal(size=(24, n))
        rewards = [js.denoise.LinearReward.fit(a, v, 1.0) for a, v in zip(x, values, strict=True)]
        weights = np.stack([r.weight for r in rewards]), np.stack([r.offset for r in rewards])
        found[int(n)] = np.einsum("rni,rnj->rij", x, x) / n, weights
    return found


def test_a_parametric_score_is_learned_at_rate_one_over_n():
    x = jnp.asarray(RNG.normal(size=(400, ROOT.shape[1])) @ ROOT.T, jnp.float32)
    t = 0.4
    noised = SCHEDULE.alpha(t) * x + SCHEDULE.sigma(t) * jax.random.normal(jax.random.key(0), x.shape)
    truth = law(jnp.asarray(COV, jnp.float32))(noised, t).x0
    risk = jax.jit(jax.vmap(lambda cov: jnp.mean(jnp.sum((law(cov)(noised, t).x0 - truth) ** 2, axis=-1))))
    risks = [float(jnp.mean(risk(jnp.asarray(cov, jnp.float32)))) for cov, _ in learned().values()]
    slope = np.polyfit(np.log(list(learned())), np.log(risks), 1)[0]
    assert abs(slope + 1) < 0.15
    # Its size: with M = alpha^2 C + sigma^2 I the denoiser moves by alpha sigma^2 M^-1 dC M^-1 x as C moves by dC, and
    # E dC A dC = (C A C + C tr(A C)) / n.
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    inverse = np.linalg.inv(alpha**2 * COV + sigma**2 * np.eye(DIM))
    square, once = inverse @ inverse @ COV, inverse @ COV
    law_of_n = alpha**2 * sigma**4 * (np.trace(square @ once) + np.trace(square) * np.trace(once))
    ratio = np.array(risks) * list(learned()) / law_of_n  # of 24 repeats: its standard deviation is .22
    assert abs(ratio.mean() - 1) < 0.35, ratio


@functools.cache
def runs():
    """Shortfall of the reward and distance from the plane, of the mean sample, for each n, target and label noise."""
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 40, final="zero"))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None, None))
    def mean_sample(cov, weight, offset, target, noise):
        """The sampler is affine here, so the sample from the mean of the start is the mean of the samples."""
        guided = js.denoise.Reward(law(cov), js.denoise.LinearReward(weight, offset), target, noise)
        return js.sample(None, guided, jnp.zeros(DIM), plan).x

    found = {}
    for n, (covs, (weights, offsets)) in learned().items():
        parts = [jnp.asarray(v, jnp.float32) for v in (covs, weights, offsets)]
        for target, noise in ((1.0, NOISE), (4.0, NOISE), (16.0, NOISE), (4.0, 1e-3)):
            x = np.asarray(mean_sample(*parts, target, noise), np.float64)
            off = np.linalg.norm(x - x @ PLANE @ PLANE.T, axis=1)
            found[n, target, noise] = np.mean(np.abs(target - x @ BETA)), np.mean(off)
    return found


def test_a_learned_reward_is_raised_within_the_support_where_its_own_ascent_leaves_it():
    """Of 256 noisy labels and a target of four deviations: 3.1, where the row of the best label has 2.1.

    The shortest step to the same value of the learned reward leaves the plane, by 1.7 against .06, and has 2.1 too: off
    the plane the labels say next to nothing of the reward.
    """
    n, target = 256, 4.0
    short, off = runs()[n, target, NOISE]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, n, ROOT.shape[1])) @ ROOT.T
    best = np.argmax(x @ BETA + rng.normal(size=(400, n)), axis=1)
    assert target - short > 1.25 * np.mean((x @ BETA)[np.arange(400), best])
    weight, offset = learned()[n][1]
    ascent = ((target - offset) / np.sum(weight**2, axis=1))[:, None] * weight
    assert target - short > 1.2 * np.mean(ascent @ BETA)
    assert 10 * off < np.mean(np.linalg.norm(ascent - ascent @ PLANE @ PLANE.T, axis=1))


def test_the_level_of_the_labels_does_not_matter():
    """Labels and target raised by 3 ask for the same samples: the fitted offset takes up the level."""
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 10, final="zero"))
    x = RNG.normal(size=(256, ROOT.shape[1])) @ ROOT.T
    labels = x @ BETA + RNG.normal(size=256)

    def sample(level):
        reward = js.denoise.LinearReward.fit(x, labels + level, 1.0)
        guided = js.denoise.Reward(law(jnp.asarray(COV, jnp.float32)), reward, 2.0 + level, NOISE)
        return js.sample(None, guided, jnp.zeros(DIM), plan).x

    np.testing.assert_allclose(sample(3.0), sample(0.0), atol=0.05)
    assert 1 < sample(3.0) @ BETA < 2


def test_asking_for_more_falls_short_and_leaves_the_data():
    """Shortfall and distance from the support grow in proportion to the target."""
    for n in (64, 1024):
        short, off = np.transpose([runs()[n, target, NOISE] for target in (1.0, 4.0, 16.0)])
        assert np.all(short[1:] > 2.5 * short[:-1])
        assert np.all(off[1:] > 2.5 * off[:-1])


def test_more_labels_help_to_the_limit_of_the_pseudo_labels():
    """The shortfall falls with n at the rate of the reward's error, to (1 - kappa) target: what label noise costs."""
    short = [runs()[n, 4.0, 1e-3][0] for n in (64, 512, 4096)]
    assert short[0] > 2 * short[1] > 4 * short[2]
    kappa = BETA @ COV @ BETA / (BETA @ COV @ BETA + NOISE**2)
    np.testing.assert_allclose(runs()[8192, 4.0, NOISE][0], (1 - kappa) * 4.0, rtol=0.1)
