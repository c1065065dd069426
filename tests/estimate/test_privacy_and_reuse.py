"""Privacy intervals against published numbers and quadrature; reuse mechanisms against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate

KEY = jax.random.key(0)


def counts(n, fnr, fpr):
    half = n // 2
    return {
        "tp": half - round(half * fnr),
        "fn": round(half * fnr),
        "fp": round(half * fpr),
        "tn": half - round(half * fpr),
    }


def test_published_case():
    """Read-me of the authors' code prints (0.145, 6.399) to its tolerance of 1e-2; quadrature gives (.1439, 6.4156)."""
    case = {"tp": 487, "tn": 1, "fp": 512, "fn": 0}
    found = estimate.dp_epsilon(case, 1e-5, 0.9)
    np.testing.assert_allclose([found.low, found.high], [0.1439, 6.4156], atol=6e-3)
    rough = estimate.dp_epsilon(case, 1e-5, 0.9, method="clopper_pearson")
    assert float(rough.low) == 0
    assert np.isinf(rough.high)
    draws = np.asarray(estimate.dp_epsilon_draws(KEY, case, 1e-5, 40_000))
    np.testing.assert_allclose(
        np.quantile(draws, [0.05, 0.5, 0.95]), [found.low, found.value, found.high], rtol=0.03, atol=0.03
    )


def test_intervals_of_symmetric_rates():
    """n = 1000, both rates .25: joint (1.0299, 1.2106), Clopper-Pearson (.9541, 1.2458), Jeffreys (.9567, 1.2430)."""
    case = {"tp": 750, "tn": 750, "fp": 250, "fn": 250}
    for method, want in (
        ("joint", (1.0299, 1.2106)),
        ("clopper_pearson", (0.9541, 1.2458)),
        ("jeffreys", (0.9567, 1.2430)),
    ):
        found = estimate.dp_epsilon(case, 1e-5, 0.9, method=method)
        np.testing.assert_allclose([found.low, found.high], want, atol=2e-3)
    np.testing.assert_allclose(found.value, np.log((1 - 1e-5 - 0.25) / 0.25), rtol=1e-4)


CASES = [(80, 70, 30, 20), (30, 20, 80, 70), (5, 9, 1, 0), (0, 3, 4, 8), (100, 100, 0, 0)]
MANY = [(100, 10**7, 3, 10**7), (6 * 10**8, 6 * 10**8, 4 * 10**8, 4 * 10**8)]


@pytest.mark.parametrize("case", CASES + MANY)
def test_posterior_is_that_of_the_rates(case):
    """Against scipy's Beta laws by quadrature in one rate of the exact band in the other, in float64."""
    stats = pytest.importorskip("scipy.stats")
    tp, tn, fp, fn = case
    delta, x = 0.01 if max(case) < 10**6 else 1e-9, stats.beta(0.5 + fn, 0.5 + tp).ppf((np.arange(4000) + 0.5) / 4000)
    other = stats.beta(0.5 + fp, 0.5 + tn)

    def cdf(e):
        low = lambda x: np.maximum(0, np.maximum(1 - delta - np.exp(e) * x, np.exp(-e) * (1 - delta - x)))
        return np.mean(other.cdf(1 - low(1 - x)) - other.cdf(low(x)))

    found = estimate.dp_epsilon(dict(zip(("tp", "tn", "fp", "fn"), case, strict=True)), delta, 0.8)
    for e, target in ((found.low, 0.1), (found.value, 0.5), (found.high, 0.9)):
        if 0 < float(e) < 70:
            np.testing.assert_allclose(cdf(float(e)), target, atol=5e-3)
    if float(found.low) == 0:
        assert cdf(0.0) >= 0.1


@pytest.mark.parametrize("case", MANY)
def test_rectangle_of_many_counts(case):
    stats = pytest.importorskip("scipy.stats")
    tp, tn, fp, fn = case
    ends = lambda hits, misses: stats.beta.ppf([0.025, 0.975], [hits, hits + 1], [misses + 1, misses])
    x, y = ends(fn, tp), ends(fp, tn)
    want = np.maximum(np.log((1 - x) / y), np.log((1 - y) / x))[::-1]
    found = estimate.dp_epsilon(dict(zip(("tp", "tn", "fp", "fn"), case, strict=True)), 0.0, method="clopper_pearson")
    np.testing.assert_allclose([found.low, found.high], want, rtol=1e-2)


def test_calibration_widens_where_the_interval_undercovers():
    case = counts(1000, 0.1, 0.1)
    plain, wide = estimate.dp_epsilon(case, 0.0, 0.9), estimate.dp_epsilon(case, 0.0, 0.9, calibrate=True, key=KEY)
    assert float(wide.low) < float(plain.low)
    assert float(wide.high) > float(plain.high)


def test_thresholdout_without_noise():
    """Threshold infinite: the training mean; threshold and noise 0: the holdout mean, until the budget is spent."""
    train, hold = jnp.full(10, 0.5), jnp.full(10, 0.75)
    never = estimate.Thresholdout(1e9, 0.0, 1)
    _, answer = never.answer(KEY, never.init(KEY), train, hold)
    assert (float(answer.value), bool(answer.over)) == (0.5, False)
    always = estimate.Thresholdout(0.0, 0.0, 2)
    state = always.init(KEY)
    values = []
    for i in range(4):
        state, answer = always.answer(jax.random.fold_in(KEY, i), state, train, hold)
        values.append((float(answer.value), bool(answer.over), bool(answer.ok)))
    assert values[:2] == [(0.75, True, True)] * 2
    assert np.isnan(values[2][0])
    assert values[2][1:] == (False, False)
    assert int(state.budget) == 0
    np.testing.assert_allclose(always.privacy(100), np.inf)
    np.testing.assert_allclose(estimate.Thresholdout(0.1, 0.1, 5).privacy(100), 2 * 5 / 10)
    np.testing.assert_allclose(
        estimate.Thresholdout(0.1, 0.1, 5).privacy(100, 1e-3), np.sqrt(160 * np.log(2000)) / 10, rtol=1e-5
    )


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_noise_has_its_scales(noise):
    """Threshold 2 sigma, comparison 4 sigma, answer sigma, fresh threshold after each answer over; sd sqrt 2 for Laplace."""
    unit = np.sqrt(2) if noise == "laplace" else 1.0
    mechanism = estimate.Thresholdout(0.0, 0.1, 5, noise=noise)
    keys = jax.random.split(KEY, 4000)
    first = np.asarray(jax.vmap(mechanism.init)(keys).threshold)
    assert abs(first.std() / (0.2 * unit) - 1) < 0.12
    start = mechanism.init(KEY)._replace(threshold=jnp.float32(-1e3))
    state, answer = jax.vmap(lambda k: mechanism.answer(k, start, jnp.zeros(4), jnp.ones(4)))(keys)
    assert np.all(answer.over)
    assert abs(np.std(answer.value) / (0.1 * unit) - 1) < 0.12
    assert abs(np.mean(answer.value) - 1) < 4 * 0.1 * unit / 63
    assert abs(np.std(state.threshold) / (0.2 * unit) - 1) < 0.12
    level = start._replace(
        threshold=jnp.float32(0.5 + 0.4)
    )  # |difference| .5: over when the comparison's noise is below -.4
    _, answer = jax.vmap(lambda k: mechanism.answer(k, level, jnp.zeros(4), jnp.full(4, 0.5)))(keys)
    want = 0.5 * np.exp(-1) if noise == "laplace" else 0.158655
    assert abs(np.mean(answer.over) - want) < 4 * 0.4 / 63
    mean = estimate.SQ(0.2, 3, noise=noise)
    _, answer = jax.vmap(lambda k: mean.answer(k, mean.init(), jnp.full(5, 0.5)))(keys)
    assert abs(np.std(answer.value) / (0.2 * unit) - 1) < 0.12
    assert abs(np.mean(answer.value) - 0.5) < 4 * 0.2 * unit / 63


def test_private_weights_learn():
    """Exact answers: every error within the threshold after at most 4 log X / threshold^2 updates; one update by hand."""
    rng = np.random.default_rng(0)
    data, queries = rng.dirichlet(0.3 * np.ones(64)), jnp.asarray(rng.integers(0, 2, (2000, 64)), jnp.float32)
    mechanism = estimate.PrivateMultiplicativeWeights(data, 0.05, 0.0)
    assert int(mechanism.budget) == int(1 + 4 * np.log(64) / 0.05**2)

    def ask(state, query):
        return mechanism.answer(KEY, state, query)

    state, answers = jax.lax.scan(ask, mechanism.init(KEY), queries)
    assert int(np.sum(answers.over)) <= 4 * np.log(64) / 0.05**2
    assert np.max(np.abs(np.asarray(answers.value) - np.asarray(queries) @ data)) <= 0.05 + 1e-5
    state, answers = jax.lax.scan(ask, state, queries)  # learned: fewer questions reach the data
    assert np.mean(np.asarray(answers.over)[-500:]) < 0.02
    small = estimate.PrivateMultiplicativeWeights(jnp.array([0.7, 0.2, 0.1]), 0.1, 0.0, budget=1, rate=0.3)
    query = jnp.array([1.0, 0.5, 0.0])
    state, answer = small.answer(KEY, small.init(KEY), query)
    want = np.exp(0.3 * np.asarray(query))
    np.testing.assert_allclose(np.exp(state.log_weights), want / want.sum(), rtol=1e-5)
    np.testing.assert_allclose(answer.value, 0.8, rtol=1e-5)
    _, spent = small.answer(KEY, state, query)
    assert not bool(spent.ok)
    assert np.isnan(spent.value)
