"""Point sets and Sobol' indices against scipy, SALib and closed forms."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate

FIRST = np.array([0.313905, 0.442411, 0.0])
TOTAL = np.array([0.557589, 0.442411, 0.243684])


def ishigami(u):
    x = (2 * u - 1) * np.pi
    return jnp.sin(x[..., 0]) + 7 * jnp.sin(x[..., 1]) ** 2 + 0.1 * x[..., 2] ** 4 * jnp.sin(x[..., 0])


@pytest.mark.parametrize(("dim", "num", "start"), [(1, 7, 0), (5, 64, 0), (13, 33, 100)])
def test_plain_points_are_scipys(dim, num, start):
    qmc = pytest.importorskip("scipy.stats").qmc
    engine = qmc.Sobol(dim, scramble=False, bits=30)
    if start:
        engine.fast_forward(start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = engine.random(num)
    np.testing.assert_allclose(estimate.sobol_points(dim, num, start=start), want, atol=2.0**-23)
    halton = qmc.Halton(dim, scramble=False)
    if start:
        halton.fast_forward(start)
    np.testing.assert_allclose(estimate.halton(dim, num, start=start), halton.random(num), atol=3e-7)


def test_scrambled_points_keep_their_balance_and_are_uniform():
    """Every aligned interval of length 2^-k holds its share; over keys each point is uniform; stretches agree."""
    x = np.asarray(estimate.sobol_points(4, 256, key=jax.random.key(1)))
    for j in range(4):
        assert np.all(np.bincount((x[:, j] * 256).astype(int), minlength=256) == 1)
    assert np.all(np.bincount((x[:, 0] * 16).astype(int) * 16 + (x[:, 1] * 16).astype(int), minlength=256) == 1)
    np.testing.assert_array_equal(estimate.sobol_points(4, 56, key=jax.random.key(1), start=200), x[200:])
    first = jax.vmap(lambda key: estimate.sobol_points(3, 2, key=key))(jax.random.split(jax.random.key(2), 4000))
    for column in np.asarray(first).reshape(4000, -1).T:
        counts = np.bincount((column * 8).astype(int), minlength=8)
        assert np.sum((counts - 500) ** 2 / 500) < 40  # chi square of 7: 1e-6
    halton = np.asarray(estimate.halton(3, 243, key=jax.random.key(3)))
    assert np.all(np.bincount((halton[:, 1] * 243).astype(int), minlength=243) == 1)
    latin = np.asarray(estimate.latin_hypercube(jax.random.key(4), 3, 50))
    assert np.all(np.sort((latin * 50).astype(int), 0) == np.arange(50)[:, None])
    assert abs(np.corrcoef(latin[:, 0], latin[:, 1])[0, 1]) < 0.7


def test_point_refusals():
    for call, match in [
        (lambda: estimate.sobol_points(0, 4), "dim"), (lambda: estimate.sobol_points(2, 0), "num"),
        (lambda: estimate.sobol_points(2, 2**30, start=1), "beyond"), (lambda: estimate.sobol_points(2, 4, key=3), "key"),
        (lambda: estimate.halton(101, 4), "dim"), (lambda: estimate.latin_hypercube(None, 2, 4), "key is None"),
        (lambda: estimate.saltelli(2, 1, key=jax.random.key(0)), "num"),
        (lambda: estimate.saltelli(2, 4, key=jax.random.key(0), points="grid"), "must be one of"),
        (lambda: estimate.sobol(jnp.ones(3)), "must be a Design"), (lambda: estimate.stratified_pairs(jax.random.key(0), 10, 9), "too many"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=match):
            call()


def test_indices_of_polynomials_are_exact_on_every_point():
    """On the full 2 x 2 x ... grid of +-1 (A and B both), every sample moment is the population's."""
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4, indexing="ij")).reshape(4, -1).T
    a, b = signs[:, :2], signs[:, 2:]
    pick = np.eye(2, dtype=bool)[:, None]
    design = estimate.Design(a, b, np.where(pick, b, a), np.where(pick, a, b))
    values = jax.tree.map(lambda x: 1e3 + 3 * x[..., 0] + 2 * x[..., 1] + np.sqrt(3) * x[..., 0] * x[..., 1], design)
    for estimator in ("saltelli", "jansen"):
        found = estimate.sobol(values, estimator=estimator, resamples=4)
        np.testing.assert_allclose(found.S1.value, [9 / 16, 4 / 16], atol=2e-5)
        np.testing.assert_allclose(found.ST.value, [12 / 16, 7 / 16], atol=2e-5)
        np.testing.assert_allclose(found.S2.value, [[0, 3 / 16], [3 / 16, 0]], atol=2e-5)


def test_ishigami_errors():
    """RMSE over 20 scrambles at n = 1024: .0078 .0055 .0079 and .0058 .0036 .0032 on a trial of this design."""

    @jax.jit
    def run(key):
        found = estimate.sobol(jax.tree.map(ishigami, estimate.saltelli(3, 1024, key=key)), resamples=2)
        return found.S1.value, found.ST.value

    first, total = jax.lax.map(run, jax.random.split(jax.random.key(0), 20))
    rmse = lambda found, truth: np.sqrt(np.mean((np.asarray(found) - truth) ** 2, 0))
    assert np.all(rmse(first, FIRST) < 1.6 * np.array([0.0078, 0.0055, 0.0079]))
    assert np.all(rmse(total, TOTAL) < 1.6 * np.array([0.0058, 0.0036, 0.0032]))


def test_errors_of_indices_are_those_of_ratios_of_means():
    """An index is mean(u) / mean(v): the delta method gives its error, here where tails are heavy and u moves with v."""
    design = estimate.saltelli(2, 1024, key=jax.random.key(0), points="random")
    values = jax.tree.map(lambda x: np.exp(jax.scipy.special.ndtri(x[..., 0]) + x[..., 1]), design)
    found = estimate.sobol(values, resamples=400)
    a, b, ab = (np.float64(part) - np.mean([values.A, values.B]) for part in values[:3])
    v = (a**2 + b**2) / 2
    for index, u in ((found.ST, (a - ab) ** 2 / 2), (found.S1, b * (ab - a))):
        theta = u.mean(-1) / v.mean()
        np.testing.assert_allclose(index.value, theta, rtol=1e-4)
        error = (u - theta[:, None] * v).std(-1) / v.mean() / np.sqrt(len(v))
        np.testing.assert_allclose(index.stderr, error, rtol=0.2)


def test_agreement_with_salib():
    """The same values give SALib's numbers (it standardises by the deviation of all of A, B, AB; so do we by A and B)."""
    analyze = pytest.importorskip("SALib.analyze.sobol")
    design = estimate.saltelli(3, 512, key=jax.random.key(0), second=True)
    values = jax.tree.map(lambda x: np.asarray(ishigami(x), np.float64), design)
    rows = np.concatenate([values.A[:, None], values.AB.T, values.BA.T, values.B[:, None]], 1).reshape(-1)
    problem = {"num_vars": 3, "names": ["a", "b", "c"], "bounds": [[0, 1]] * 3}
    want = analyze.analyze(problem, rows, calc_second_order=True, num_resamples=100, seed=0)
    found = estimate.sobol(values)
    np.testing.assert_allclose(found.S1.value, want["S1"], atol=2e-3)
    np.testing.assert_allclose(found.ST.value, want["ST"], rtol=5e-3, atol=2e-3)
    above = np.triu_indices(3, 1)
    np.testing.assert_allclose(np.asarray(found.S2.value)[above], want["S2"][above], atol=0.08)
    np.testing.assert_allclose(1.96 * found.ST.stderr, want["ST_conf"], rtol=0.5)


def test_ranks_see_what_the_design_sees():
    x = jax.random.uniform(jax.random.key(0), (20_000, 3))
    found = estimate.sobol_rank(x, ishigami(x))
    assert np.all(abs(found.value - FIRST) < 4 * found.stderr)
    assert np.all(np.asarray(found.stderr) < 0.015)
    # By hand: x orders y as 0, 3, 1, 2 around its mean 1.5.
    x = jnp.concatenate([jnp.arange(4.0), 4 + jnp.zeros(0)])[:, None]
    y = jnp.array([0.0, 3.0, 1.0, 2.0])
    z = np.asarray(y) - 1.5
    want = np.mean(z * np.roll(z, -1)) / np.mean(z**2)
    many = estimate.sobol_rank(jnp.tile(jnp.arange(12.0)[:, None], 1), jnp.tile(y, 3))
    np.testing.assert_allclose(many.value, [want], rtol=1e-5)


def test_ranks_of_values_far_from_zero_lose_no_digit():
    x = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    far = (x[:, 0] + 0.1 * x[:, 1] + 1e6).astype(np.float32)
    found, wanted = estimate.sobol_rank(x, far), estimate.sobol_rank(x, far - np.float32(1e6))
    np.testing.assert_allclose(found.value, wanted.value, atol=1e-5)
    np.testing.assert_allclose(found.stderr, wanted.stderr, rtol=1e-4)


@pytest.mark.parametrize(("share", "power"), [(0.2, 1), (1.0, 1), (0.5, 2)])
def test_the_error_of_the_rank_estimate_is_its_deviation(share, power):
    # y = a x + b z: of strong inputs the products of neighbours are correlated, and the denominator moves with them;
    # with heavy tails of a x, as of x |x|, so much that each lag counts.
    draws = np.random.default_rng(0).normal(size=(2, 800, 300)).astype(np.float32)
    signal = np.sign(draws[0]) * np.abs(draws[0]) ** power / (1 if power == 1 else np.sqrt(3))
    y = np.sqrt(share) * signal + np.sqrt(1.05 - share) * draws[1]
    found = jax.jit(jax.vmap(lambda x, y: estimate.sobol_rank(x[:, None], y)))(draws[0], y)
    assert 0.9 < np.mean(found.stderr) / np.std(found.value) < 1.1
