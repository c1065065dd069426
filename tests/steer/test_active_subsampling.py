"""What to measure next: pivoted Cholesky on Gaussians, the sign of the entropy, lines, complex numbers, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

VP = js.noise.VP()
PLAN = js.solve.ddpm(VP, js.noise.logsnr_grid(VP, 12))
LAW = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.0] * 4], stds=[1.0])


def dps(denoiser, mask, y):
    return js.denoise.DPS(denoiser, js.denoise.LinearOp.mask(mask), y, scale=0.2, event_ndim=1)


def steer(num=4, rows=12, score="variance", **options):
    when = np.arange(rows) % 4 == 3
    return js.steer.ActiveSubsampling(dps, lambda index: jnp.zeros(num), when, np.zeros(num), score=score, **options)


def pivots(cov, num):
    """Order of pivoted Cholesky: the largest diagonal of what is left."""
    left, order = np.array(cov, float), []
    for _ in range(num):
        k = int(np.argmax(np.diag(left)))
        order.append(k)
        left -= np.outer(left[k], left[k]) / left[k, k]
        left[k] = left[:, k] = 0
    return order


def random_cov(seed, dim=6):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (basis * np.geomspace(4, 0.05, dim)) @ basis.T


def sigma_points(cov):
    """Particles whose covariance is exactly `cov`, more than the dimension: the limit of many particles."""
    values, axes = np.linalg.eigh(cov)
    root = axes * np.sqrt(np.maximum(values, 0))
    return np.concatenate([root.T, -root.T]) * np.sqrt(len(cov))


@pytest.mark.parametrize("score", ["variance", "entropy"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_gaussians_the_order_is_that_of_pivoted_cholesky(score, seed):
    """Each pick from particles of the exact posterior after the picks before."""
    cov = random_cov(seed)
    rule = steer(6, score=score, width=20.0)
    left, order = cov.copy(), []
    for _ in range(6):
        scores = np.array(rule.scores(jnp.asarray(sigma_points(left), jnp.float32)))
        scores[order] = -np.inf
        k = int(np.argmax(scores))
        order.append(k)
        left -= np.outer(left[k], left[k]) / left[k, k]
        left[k] = left[:, k] = 0
    # The last locations are all but determined, below rounding: the first four are compared.
    assert order[:4] == pivots(cov, 6)[:4]


def test_a_run_follows_pivoted_cholesky():
    """TMPD is the exact posterior of a Gaussian; picks late in the run, from 64 particles."""
    std = np.array([0.3, 2.0, 0.7, 1.2, 0.1])
    corr = np.full((5, 5), 0.2) + 0.8 * np.eye(5)
    cov = std[:, None] * corr * std
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[np.zeros(5)], covs=[cov])
    plan = js.solve.ddpm(VP, js.noise.logsnr_grid(VP, 60))
    tmpd = lambda d, mask, y: js.denoise.TMPD(d, js.denoise.LinearOp.mask(mask), y, noise=0.05, event_ndim=1)
    truth = jnp.asarray(np.linalg.cholesky(cov) @ np.array([1.0, -0.5, 0.3, 0.8, -1.2]), jnp.float32)
    when = np.isin(np.arange(60), [30, 38, 46])
    choose = js.steer.ActiveSubsampling(tmpd, lambda index: truth, when, np.zeros(5), score="variance")
    x = VP.prior(jax.random.key(0), (64, 5))
    report = js.sample(jax.random.key(1), law, x, plan, steer=choose).info.report
    assert np.asarray(report.order)[when].tolist() == pivots(cov, 3)
    assert np.all(np.asarray(report.order)[~when] == -1)
    np.testing.assert_array_equal(report.y, np.where(np.asarray(report.mask) > 0, truth, 0))
    assert int(report.mask.sum()) == 3


def test_the_entropy_has_the_right_sign():
    """Half of the particles at -2 and half at 2 disagree more than one outlier at 10; the published sign says else."""
    split = np.repeat([-2.0, 2.0], 8)
    outlier = np.append(np.zeros(15), 10.0)
    z = np.stack([split, outlier], axis=1)
    scores = np.asarray(steer(2, rows=8, score="entropy").scores(jnp.asarray(z, jnp.float32)))
    np.testing.assert_allclose(scores, (0.693, 0.234), atol=1e-3)
    exponent = (z[:, None] - z[None]) ** 2 / 2
    wrong = np.sum(np.logaddexp.reduce(exponent, axis=1), axis=0)
    assert wrong[1] > wrong[0]
    # Spread much below the width: both rank like the variance.
    z = np.random.default_rng(0).normal(size=(16, 30)) * np.linspace(0.3, 2, 30)
    wide = np.asarray(steer(30, score="entropy", width=50.0).scores(jnp.asarray(z)))
    np.testing.assert_array_equal(np.argsort(wide)[-10:], np.argsort(z.var(0))[-10:])


def test_lines_of_complex_measurements():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5, 3, 4)) + 1j * rng.normal(size=(5, 3, 4))
    lines = np.broadcast_to(np.arange(4), (3, 4))
    options = {"view": jnp.fft.fft2, "groups": lines}
    make = lambda score: js.steer.ActiveSubsampling(
        dps, lambda index: 0.0, [True, False], np.zeros((3, 4)), score=score, **options)  # fmt: skip
    variance = np.sum(np.mean(np.abs(z - z.mean(0)) ** 2, 0), 0)
    np.testing.assert_allclose(make("variance").scores(jnp.asarray(z, jnp.complex64)), variance, rtol=1e-5)
    apart = np.sum(np.abs(z[:, None] - z[None]) ** 2, axis=2)
    entropy = -np.mean(np.log(np.mean(np.exp(-apart / 2), axis=1)), axis=0)
    np.testing.assert_allclose(make("entropy").scores(jnp.asarray(z, jnp.complex64)), entropy, rtol=1e-4, atol=1e-5)


def test_measured_places_are_never_chosen_again_and_own_scores_work():
    """All scores negative: a mask by multiplication would choose a measured place."""
    when = np.ones(12, bool)
    negative = lambda z, groups: jnp.array([-1.0, -2.0, -3.0])
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.0] * 3], stds=[1.0])
    with pytest.raises(ValueError, match="only 3 of 3 groups"):
        js.steer.ActiveSubsampling(dps, lambda index: 0.0, when, np.zeros(3), score=negative)
    when[2:] = False
    choose = js.steer.ActiveSubsampling(
        dps, lambda index: 10.0 + index, when, np.array([0.0, 1.0, 0.0]), np.array([5.0, 7.0, 5.0]), score=negative
    )
    report = js.sample(jax.random.key(0), law, VP.prior(jax.random.key(1), (4, 3)), PLAN, steer=choose).info.report
    assert report.order[:2].tolist() == [0, 2]
    assert report.y.tolist() == [10.0, 7.0, 12.0]


def test_an_instrument_is_asked_only_on_the_rows_that_measure():
    asked = []

    def instrument(index):
        asked.append(int(index))
        return np.zeros(4, np.float32)

    ask = lambda index: jax.pure_callback(instrument, jax.ShapeDtypeStruct((4,), jnp.float32), index)
    when = np.arange(12) % 4 == 3
    choose = js.steer.ActiveSubsampling(dps, ask, when, np.zeros(4))
    report = js.sample(jax.random.key(0), LAW, VP.prior(jax.random.key(1), (8, 4)), PLAN, steer=choose).info.report
    assert asked == np.asarray(report.order)[when].tolist()
    assert len(set(asked)) == 3


def test_refusals():
    run = lambda steer, x=jnp.ones((4, 4)): js.sample(jax.random.key(0), LAW, x, PLAN, steer=steer)
    with pytest.raises(ValueError, match="axis 0"):
        run(steer(), jnp.ones((1, 4)))
    with pytest.raises(ValueError, match="one boolean for each of 12 rows, got 8"):
        run(steer(rows=8))
    with pytest.raises(ValueError, match="mask has shape"):
        run(steer(3))
    with pytest.raises(ValueError, match="score"):
        steer(score="spread")
    with pytest.raises(ValueError, match="width"):
        steer(width=0.0)
    with pytest.raises(ValueError, match="0 and 1"):
        js.steer.ActiveSubsampling(dps, lambda index: 0.0, [False], np.full(3, 0.5))
    with pytest.raises(ValueError, match="groups"):
        js.steer.ActiveSubsampling(dps, lambda index: 0.0, [False], np.zeros(3), groups=np.zeros(2, int))
    with pytest.raises(ValueError, match="when must be booleans"):
        js.steer.ActiveSubsampling(dps, lambda index: 0.0, [0, 1], np.zeros(3))
