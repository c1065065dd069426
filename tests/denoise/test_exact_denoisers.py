"""Exact denoisers against finite differences, brute force and each other; all parametrisations agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

D = js.denoise
RNG = np.random.default_rng(4)
MEANS = RNG.normal(size=(3, 2))
WEIGHTS = np.array([0.2, 0.5, 0.3])
ROOTS = RNG.normal(size=(3, 2, 2))
COVS = ROOTS @ ROOTS.swapaxes(1, 2) + 0.05 * np.eye(2)
SCHEDULES = [
    (js.noise.VP(), 0.35),
    (js.noise.Cosine(), 0.6),
    (js.noise.VE(), 1.3),
    (js.noise.Flow(), 0.4),
    (js.noise.Discrete.ddpm_linear(100, 1e-3, 0.15), 41.3),
]


def brute(schedule, t, x, covs):
    """Log density, E[x0 | x] and E[eps | x] with dense Gaussian algebra."""
    a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
    logs, clean = [], []
    for w, m, c in zip(WEIGHTS, MEANS, covs, strict=True):
        total = a * a * c + s * s * np.eye(2)
        r = x - a * m
        solved = np.linalg.solve(total, r)
        logs.append(np.log(w) - 0.5 * r @ solved - 0.5 * np.linalg.slogdet(2 * np.pi * total)[1])
        clean.append(m + a * c @ solved)
    top = max(logs)
    share = np.exp(np.array(logs) - top)
    x0 = (share / share.sum()) @ np.array(clean)
    return top + np.log(share.sum()), x0, (x - a * x0) / s, share / share.sum()


@pytest.mark.parametrize(("schedule", "t"), SCHEDULES, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
def test_mixture_is_dense_gaussian_algebra(schedule, t, kind, x64):
    scale = np.array([0.3, 0.7, 1.1])
    covs = {"full": COVS, "diagonal": np.array([np.diag(np.diag(c)) for c in COVS]),
            "isotropic": scale[:, None, None] ** 2 * np.eye(2)}[kind]  # fmt: skip
    options = {"full": {"covs": covs}, "diagonal": {"stds": np.sqrt([np.diag(c) for c in covs])},
               "isotropic": {"stds": scale}}[kind]  # fmt: skip
    law = D.GaussianMixture(schedule, weights=WEIGHTS * 7, means=MEANS, **options)
    points = RNG.normal(size=(2, 4, 2)) * 1.5
    out, logp, share = law(points, t), law.logdensity(points, t), law.responsibilities(points, t)
    for i in np.ndindex(2, 4):
        wanted = brute(schedule, t, points[i], covs)
        np.testing.assert_allclose(logp[i], wanted[0], rtol=1e-11)
        np.testing.assert_allclose(out.x0[i], wanted[1], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(out.eps[i], wanted[2], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(share[i], wanted[3], rtol=1e-10, atol=1e-14)
    if kind != "full":
        dense = D.GaussianMixture(schedule, weights=WEIGHTS, means=MEANS, covs=covs)(points, t)
        np.testing.assert_allclose(dense.x0, out.x0, rtol=1e-11)


@pytest.mark.parametrize(("schedule", "t"), SCHEDULES, ids=lambda v: type(v).__name__)
def test_score_is_the_slope_of_the_log_density(schedule, t, x64):
    """-eps / sigma by finite differences of logdensity, which shares none of the posterior means."""
    law = D.GaussianMixture(schedule, weights=WEIGHTS, means=MEANS, covs=COVS)
    logp = jax.jit(law.logdensity)
    for x in RNG.normal(size=(3, 2)):
        score, h = -law(x, t).eps / schedule.sigma(t), 1e-3
        for axis in range(2):
            e = np.eye(2)[axis] * h
            slope = (8 * (logp(x + e, t) - logp(x - e, t)) - (logp(x + 2 * e, t) - logp(x - 2 * e, t))) / (12 * h)
            np.testing.assert_allclose(score[axis], slope, rtol=1e-7, atol=1e-8)


def test_density_integrates_to_one(x64):
    law = D.GaussianMixture(js.noise.VP(), weights=[1.0, 3.0], means=[[-1.0], [2.0]], stds=[0.3, 0.6])
    grid = np.linspace(-9, 9, 4001)[:, None]
    np.testing.assert_allclose(np.exp(law.logdensity(grid, 0.2)).sum() * (18 / 4000), 1, rtol=1e-12)


def test_empirical_is_a_mixture_of_points(x64):
    """Point masses are the limit of narrow Gaussians; here the widths are far below the noise."""
    data = RNG.normal(size=(7, 2))
    narrow = D.GaussianMixture(js.noise.VP(), weights=np.ones(7), means=data, stds=np.full(7, 1e-9))
    exact = D.Empirical(js.noise.VP(), data)
    x = RNG.normal(size=(5, 2))
    for t in (0.05, 0.3, 1.0):
        np.testing.assert_allclose(exact(x, t).x0, narrow(x, t).x0, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(exact(x, t).eps, narrow(x, t).eps, rtol=1e-9, atol=1e-9)


def test_empirical_on_images_and_at_small_noise():
    data = RNG.normal(size=(5, 4, 3)).astype(np.float32)
    law = D.Empirical(js.noise.VE(), data)
    near = law(jnp.asarray(data[2]) + 1e-4, 0.01)
    np.testing.assert_allclose(near.x0, data[2], atol=1e-6)
    np.testing.assert_allclose(near.eps, np.full((4, 3), 0.01), rtol=1e-2)
    batch = law(jnp.asarray(data[:3]), 0.5)
    assert batch.x0.shape == (3, 4, 3)
    np.testing.assert_allclose(batch.x0[1], law(jnp.asarray(data[1]), 0.5).x0, rtol=1e-5)


def test_mixture_in_float32_is_the_float64_one():
    law = D.GaussianMixture(js.noise.VP(), weights=WEIGHTS, means=MEANS, covs=COVS)
    x = RNG.normal(size=(20, 2))
    single = [np.asarray(law(x.astype(np.float32), t).x0) for t in (0.01, 0.3, 1.0)]
    with jax.enable_x64(True):
        fresh = D.GaussianMixture(js.noise.VP(), weights=WEIGHTS, means=MEANS, covs=COVS)
        double = [np.asarray(fresh(x.astype(np.float32).astype(np.float64), t).x0) for t in (0.01, 0.3, 1.0)]
    for a, b in zip(single, double, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("schedule", "t"), SCHEDULES, ids=lambda v: type(v).__name__)
def test_five_parametrisations_agree(schedule, t, x64):
    """Networks that output eps, x0, v, score and velocity of one law give one Prediction."""
    law = D.GaussianMixture(schedule, weights=WEIGHTS, means=MEANS, covs=COVS)
    h = 1e-4 * max(1.0, abs(t))

    def slope(f):
        return (8 * (f(t + h) - f(t - h)) - (f(t + 2 * h) - f(t - 2 * h))) / (12 * h)

    # Between the indices of a discrete schedule, away from its kinks, finite differences are smooth too.
    da, ds = slope(schedule.alpha), slope(schedule.sigma)
    a, s = schedule.alpha(t), schedule.sigma(t)
    native = {
        "eps": lambda p: p.eps,
        "x0": lambda p: p.x0,
        "v": lambda p: a * p.eps - s * p.x0,
        "score": lambda p: -p.eps / s,
        "velocity": lambda p: da * p.x0 + ds * p.eps,
    }
    x = RNG.normal(size=(4, 2))
    wanted = law(x, t)
    for predicts, output in native.items():
        got = js.Denoiser(lambda x, t, f=output: f(law(x, t)), schedule, predicts=predicts)(x, t)
        np.testing.assert_allclose(got.x0, wanted.x0, rtol=1e-8, atol=1e-9, err_msg=predicts)
        np.testing.assert_allclose(got.eps, wanted.eps, rtol=1e-8, atol=1e-9, err_msg=predicts)


def test_flow_velocity_is_the_textbook_formula():
    denoiser = js.Denoiser(lambda x, t: 2 * x, js.noise.Flow(), predicts="velocity")
    out = denoiser(jnp.array([1.0, -0.5]), 0.25)
    np.testing.assert_allclose(out.x0, [0.5, -0.25], rtol=1e-6)
    np.testing.assert_allclose(out.eps, [2.5, -1.25], rtol=1e-6)
    start = denoiser(jnp.array([1.0]), 1.0)
    np.testing.assert_allclose([start.x0[0], start.eps[0]], [-1.0, 1.0], rtol=1e-6)
