"""Importance sampling against closed forms, arviz and quadrature."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate
from jsamp.estimate._mixture import best_shares

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def normal(key, scale, n):
    x = scale * jax.random.normal(jax.random.key(key), (n,))
    return x, -(x**2) / 2 + x**2 / (2 * scale**2)


def test_snis_by_hand():
    found = estimate.snis(jnp.log(jnp.array([1.0, 3.0])), {"a": jnp.array([2.0, 6.0]), "b": jnp.ones((2, 3))})
    np.testing.assert_allclose(found.value["a"], 5.0, rtol=1e-6)
    np.testing.assert_allclose(found.stderr["a"], np.sqrt((0.25 * -3) ** 2 + (0.75 * 1) ** 2), rtol=1e-6)
    np.testing.assert_allclose(found.ess, 1 / (0.25**2 + 0.75**2), rtol=1e-6)
    np.testing.assert_array_equal(found.value["b"], np.ones(3))
    # A draw of weight 0, an offset of 1e6.
    far = estimate.snis(jnp.array([0.0, 0.0, -jnp.inf]), 1e6 + jnp.array([0.0, 1.0, 7.0]))
    np.testing.assert_allclose(far.value - 1e6, 0.5, atol=0.07)
    np.testing.assert_allclose(far.stderr, np.sqrt(0.125), rtol=1e-5)


@pytest.mark.parametrize(
    ("variance", "low", "high"), [(0.7, 0.1, 0.5), (0.5, 0.3, 0.65), (0.3, 0.35, 0.95), (0.1, 0.5, 1.1)]
)
def test_khat_of_gaussians(variance, low, high):
    """Proposal N(0, s^2) for N(0, 1): k = 1 - s^2 (slowly varying factors bias it down when large)."""
    _, logs = normal(0, variance**0.5, 10_000)
    assert low < float(estimate.psis(logs).khat) < high


@pytest.mark.parametrize(
    ("variance", "n", "efficiency"), [(0.5, 1000, 1.0), (0.2, 333, 1.0), (0.8, 500, 0.5), (2.0, 400, 1.0)]
)
def test_psis_agrees_with_arviz(variance, n, efficiency):
    arviz = pytest.importorskip("arviz")
    _, logs = normal(1, variance**0.5, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, khat = arviz.psislw(np.asarray(logs, np.float64), efficiency)  # arviz 0.x: log-weights, as here
    found = estimate.psis(logs, relative_efficiency=efficiency)
    np.testing.assert_allclose(found.khat, khat, atol=2e-3)
    np.testing.assert_allclose(found.log_weights, want, atol=5e-3)


def test_psis_at_the_edges():
    same = estimate.psis(jnp.zeros(100))
    assert np.isnan(same.khat)
    some = estimate.psis(np.where(np.arange(100) < 90, -np.inf, 0.0))  # no tail among the ten of one weight
    assert np.isnan(some.khat)
    np.testing.assert_allclose(same.log_weights, -np.log(100), rtol=1e-6)
    # -inf below the tail, ties at the cut, a spread of 300 nats: finite, normalised, order kept.
    _, logs = normal(2, 0.8, 200)
    for hard in (logs.at[:50].set(-jnp.inf), jnp.round(logs * 4) / 4, logs * 300):
        found = estimate.psis(hard)
        assert np.isclose(float(jnp.sum(jnp.exp(found.log_weights))), 1, atol=1e-5)
        assert not np.any(np.isnan(found.log_weights))
    np.testing.assert_allclose(estimate.psis(logs + 1000.0).khat, estimate.psis(logs).khat, atol=5e-3)


def test_bridge_of_two_gaussians():
    """log Z ratio of N(0, 1) and N(m, s^2), unequal sizes, against log(1 / s) and its own error."""
    z = []
    for seed in range(60):
        a, b = jax.random.split(jax.random.key(seed))
        x, y = jax.random.normal(a, (300,)), 0.5 + 2 * jax.random.normal(b, (900,))
        p, q = lambda x: -(x**2) / 2 + 100, lambda x: -((x - 0.5) ** 2) / 8
        found = estimate.bridge(p(x), q(x), p(y), q(y))
        z.append((float(found.value) - 100 + np.log(2)) / float(found.stderr))
    assert abs(np.mean(z)) < 4 / np.sqrt(60)
    assert 0.65 < np.std(z) < 1.45
    # No overlap problem of constants: two equal laws give exactly log of the ratio.
    np.testing.assert_allclose(estimate.bridge(p(x) + 3, p(x), p(y) + 3, p(y)).value, 3, atol=1e-5)


def test_control_variate_equals_least_squares():
    rng = np.random.default_rng(0)
    controls, noise = rng.normal(size=(50, 2)), rng.normal(size=50)
    values = 3 + controls @ [2.0, -1.0] + 0.1 * noise
    found = estimate.control_variate(values, controls, np.array([0.1, 0.2]))
    design = np.c_[np.ones(50), controls - [0.1, 0.2]]
    coefficient, rest, *_ = np.linalg.lstsq(design, values, rcond=None)
    np.testing.assert_allclose(found.estimate.value, coefficient[0], rtol=1e-5)
    np.testing.assert_allclose(found.coefficient, coefficient[1:], rtol=1e-4)
    np.testing.assert_allclose(found.estimate.stderr, np.sqrt(rest[0] / 47 / 50), rtol=1e-4)
    np.testing.assert_allclose(found.raw.stderr, values.std(ddof=1) / np.sqrt(50), rtol=1e-5)
    np.testing.assert_allclose(found.estimate.ess, 50 * (found.raw.stderr / found.estimate.stderr) ** 2, rtol=1e-4)
    # A constant control does nothing; two equal ones share.
    again = estimate.control_variate(
        values, np.c_[controls, np.ones(50), controls[:, :1]], np.array([0.1, 0.2, 5.0, 0.1])
    )
    np.testing.assert_allclose(again.estimate.value, found.estimate.value, rtol=1e-4)


def test_pairs_by_hand():
    values = jnp.array([[0.0, 1.0], [2.0, 5.0], [4.0, 4.0]])
    anti, strata = estimate.paired(values, "antithetic"), estimate.paired(values, "stratified")
    means = np.array([0.5, 3.5, 4.0])
    np.testing.assert_allclose(anti.value, means.mean(), rtol=1e-6)
    np.testing.assert_allclose(anti.stderr, means.std(ddof=1) / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(strata.stderr, np.sqrt((1 + 9 + 0) / (4 * 9)), rtol=1e-6)
    np.testing.assert_allclose(strata.ess, np.var(values) / strata.stderr**2, rtol=1e-5)
    u = estimate.antithetic(jax.random.key(0), 100, 2)
    np.testing.assert_array_equal(u[:, 0] + u[:, 1], 1)
    cells = estimate.stratified_pairs(jax.random.key(0), 4, 2)
    assert sorted(map(tuple, np.floor(4 * np.asarray(cells[:, 0])).tolist())) == [
        (i, j) for i in range(4) for j in range(4)
    ]
    assert np.all(np.floor(4 * cells[:, 0]) == np.floor(4 * cells[:, 1]))


@pytest.mark.parametrize("kind", ["antithetic", "stratified"])
def test_pairs_without_spread_are_all_effective(kind):
    same = estimate.paired(np.full((5, 2), 3.0, np.float32), kind)
    assert (float(same.value), float(same.stderr), float(same.ess)) == (3.0, 0.0, 10.0)


def moments(num):
    """Even moments x^2, x^4, ... of N(0, 1)."""
    powers = 2 * jnp.arange(1.0, num + 1)
    truth = np.array([math.prod(range(1, 2 * j, 2)) for j in range(1, num + 1)], float)
    density = lambda x: -0.5 * jnp.sum(x**2) - HALF_LOG_2PI
    return density, lambda x: x[0] ** powers, lambda key, n: jax.random.normal(key, (n, 1)), truth


def test_optimal_proposals_have_no_variance():
    """g_j = phi_j f / I_j (for phi = x^2j, chi laws) and beta_j = I_j: exact whatever the shares."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=200) * 2
    f = -0.5 * x**2 - HALF_LOG_2PI
    values = np.stack([x**2, x**4, np.exp(x)], 1)
    truth = np.array([1.0, 3.0, np.exp(0.5)])
    logs = f[:, None] + np.log(values / truth)
    for _ in range(3):
        found = estimate.multiple_importance(f, values, logs, rng.dirichlet(np.ones(3)), truth)
        np.testing.assert_allclose(found.value, truth, rtol=1e-5)
        assert np.all(np.asarray(found.stderr) < 1e-5 * truth)


def test_multiple_importance_equals_its_formula():
    rng = np.random.default_rng(1)
    f, g, values = np.log(rng.uniform(0.1, 1, (9, 2))), np.log(rng.uniform(0.1, 1, (9, 2))), rng.normal(size=(9, 2))
    alpha, beta = np.array([0.3, 0.7]), np.array([2.0, -1.0])
    mix = np.exp(g) @ alpha
    terms = beta + (values * np.exp(f) - beta * np.exp(g)) / mix[:, None]
    found = estimate.multiple_importance(f, values, g, alpha, beta)
    np.testing.assert_allclose(found.value, terms.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.stderr, terms.std(0, ddof=1) / 3, rtol=1e-5)


def test_best_shares_minimise_their_criterion():
    """Of mean(cost / mixture) over the rows that count, against a grid of shares of two proposals."""
    x = np.random.default_rng(0).normal(size=400) * 1.5
    proposals = np.stack([np.exp(-((x + 1) ** 2) / 2), np.exp(-(((x - 1) / 0.7) ** 2) / 2) / 0.7], 1)
    cost, live = np.exp(-((x - 0.8) ** 2)) * (1 + x**2), np.arange(400) < 300
    grid = np.arange(1, 1000) / 1000
    mixture = proposals[live] @ np.stack([grid, 1 - grid])
    best = grid[np.argmin(np.mean(cost[live, None] / mixture, 0))]
    single = lambda value: jnp.asarray(value, jnp.float32)
    found = best_shares(single(cost), single(proposals), jnp.asarray(live), jnp.full(2, 0.5))
    np.testing.assert_allclose(found, [best, 1 - best], atol=1e-3)


def test_black_box_twin_gives_the_same_bits():
    density, values, draw, _ = moments(2)
    method = estimate.AdaptiveImportance(density, values, draw, batch=100)
    keys = jax.random.split(jax.random.key(0), 3)
    evaluate = lambda x: (jax.vmap(density)(x), jax.vmap(values)(x))
    state, _ = method.step(keys[1], method.init(keys[0]))
    want = method.finish(keys[2], state, 100)
    x = draw(keys[0], 100)
    other = method.start(x, *evaluate(x))
    x = method.points(keys[1], other, 100)
    other, info = method.absorb(other, x, *evaluate(x))
    x = method.points(keys[2], other, 100, final=True)
    found = method.conclude(other, x, *evaluate(x))
    np.testing.assert_allclose(found.value, want.value, rtol=1e-5)
    assert int(info.spent) == 200


def test_signed_functions_and_several_laws():
    """E x^3, E x and E x^2 - 1/2 under N(1, 1); then E x^2 under N(0, 1) and N(1, 1) from one sample."""
    density = lambda x: -0.5 * jnp.sum((x - 1) ** 2) - HALF_LOG_2PI
    values = lambda x: jnp.stack([x[0] ** 3, x[0], x[0] ** 2 - 0.5])
    draw = lambda key, n: 1 + jax.random.normal(key, (n, 1))
    found = estimate.adaptive_importance(jax.random.key(0), density, values, draw, 4000, signed=True)
    assert np.all(abs(found.value - np.array([4.0, 1.0, 1.5])) < 4 * found.stderr)
    assert np.all(np.asarray(found.stderr) < np.array([0.15, 0.016, 0.05]))
    method = estimate.AdaptiveImportance(density, values, draw, batch=100)
    with pytest.raises(ValueError, match="signed=True"):
        method.init(jax.random.key(0))

    def laws(x):
        return jnp.stack([-0.5 * x[0] ** 2, -0.5 * (x[0] - 1) ** 2]) - HALF_LOG_2PI

    def from_both(key, n):
        a, b = jax.random.split(key)
        return jax.random.normal(a, (n, 1)) + jax.random.bernoulli(b, 0.5, (n, 1))

    both = estimate.adaptive_importance(jax.random.key(1), laws, lambda x: jnp.stack([x[0] ** 2] * 2), from_both, 4000)
    assert np.all(abs(both.value - np.array([1.0, 2.0])) < 4 * both.stderr)


def test_adaptation_is_weighted_and_can_be_diagonal():
    """A weight of 1e4 on one moment lowers that moment's error; diagonal proposals have diagonal factors."""
    density, values, draw, _ = moments(4)
    errors = [
        np.mean(
            [
                estimate.adaptive_importance(jax.random.key(s), density, values, draw, 4000, weight=w).stderr[3]
                for s in range(4)
            ]
        )
        for w in (np.array([1.0, 1.0, 1.0, 1e4]), np.array([1e4, 1.0, 1.0, 1.0]))
    ]
    assert errors[0] < 0.8 * errors[1]
    two = lambda x: -0.5 * jnp.sum(x**2) - 2 * HALF_LOG_2PI
    drawn = lambda key, n: jax.random.normal(key, (n, 2))
    product = lambda x: jnp.stack([jnp.exp(x[0] * x[1] / 2), jnp.ones(())])
    off = {}
    for kind in ("full", "diagonal"):
        method = estimate.AdaptiveImportance(two, product, drawn, batch=500, covariance=kind)
        off[kind] = np.asarray(method.init(jax.random.key(0)).next.factor)[0, 1, 0]
    assert off["diagonal"] == 0
    assert abs(off["full"]) > 0.1


def test_adaptive_refusals():
    density, values, draw, _ = moments(2)
    key = jax.random.key(0)
    for arguments, options, error, match in [
        ((None, density, values, draw, 400), {}, ValueError, "key is None"),
        ((key, 3, values, draw, 400), {}, TypeError, "logdensity must be callable"),
        ((key, density, values, draw, 100), {}, ValueError, "num"),
        ((key, density, values, draw, 400), {"weight": -1.0}, ValueError, "weight"),
        ((key, density, values, draw, 400), {"covariance": "none"}, ValueError, "must be one of"),
        ((key, density, lambda x: x[0], draw, 400), {}, ValueError, r"values\(x\) must be"),
        ((key, density, values, lambda key, n: jax.random.normal(key, (n,)), 400), {}, ValueError, "must give"),
        ((key, density, moments(50)[1], draw, 400), {}, ValueError, "num >= 10"),
    ]:
        with pytest.raises(error, match=match):
            estimate.adaptive_importance(*arguments, **options)
    method = estimate.AdaptiveImportance(density, values, draw, batch=20, stages=2)
    state = method.init(key)
    with pytest.raises(ValueError, match="step at least once"):
        method.finish(key, state, 10)
    state, _ = method.step(key, state)
    with pytest.raises(ValueError, match="stages are spent"):
        method.step(key, state)
    with pytest.raises(ValueError, match="want 20 points"):
        method.start(jnp.ones((3, 1)), jnp.ones(3), jnp.ones((3, 2)))


def _standard(x):
    return -0.5 * jnp.sum(x**2) - 0.5 * np.log(2 * np.pi)


def _normal(key, num):
    return jax.random.normal(key, (num, 1))


def _adaptive(values, logdensity=_standard, draw=_normal, **options):
    return estimate.adaptive_importance(jax.random.key(1), logdensity, values, draw, 2000, **options)


@pytest.mark.parametrize("dtype", [bool, int])
def test_indicators_and_counts_are_averaged(dtype):
    found = _adaptive(lambda x: jnp.stack([(x[0] > 1).astype(dtype)]))
    assert 0 < found.stderr[0] < 0.01
    assert abs(found.value[0] - 0.158655) < 4.5 * found.stderr[0]


def test_values_beyond_the_support_of_a_law_may_be_anything():
    inside = lambda x: jnp.where((x[0] > 0) & (x[0] < 1), 0.0, -jnp.inf)
    found = _adaptive(lambda x: jnp.stack([-jnp.log(x[0])]), inside, lambda key, num: jax.random.uniform(key, (num, 1)))
    assert abs(found.value[0] - 1) < 4.5 * found.stderr[0] < 0.2


def test_weights_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"weight must be \[1\], one for each of values; got \(3,\)"):
        _adaptive(lambda x: jnp.stack([x[0] ** 2]), weight=[1.0, 2.0, 3.0])
