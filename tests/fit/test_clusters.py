"""k-means, mixtures of Gaussians and partitions against enumeration, loops in float64, and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.fit._assign import by_passes, by_sweep, nearest_centers
from jsamp.fit._partition import adjusted_rand, by_first_row

KEY = jax.random.key(0)
BLOBS = np.array([[0, 0], [8, 0], [0, 8], [8, 8], [4, 16]], np.float32)
RNG = np.random.default_rng(0)
X = (np.repeat(BLOBS, 12, 0) + RNG.normal(size=(60, 2))).astype(np.float32)
COUNTS = RNG.integers(1, 4, 60).astype(np.float32)


def cheapest(rows, weight, k):
    """The cost of the best of all partitions into at most k parts, by enumeration."""
    best = np.inf
    for rest in itertools.product(range(k), repeat=len(rows) - 1):
        label, cost = np.array((0, *rest)), 0.0
        for part in range(k):
            mine = label == part
            if mine.any():
                center = np.average(rows[mine], axis=0, weights=weight[mine])
                cost += np.sum(weight[mine, None] * (rows[mine] - center) ** 2)
        best = min(best, cost)
    return best


@pytest.mark.parametrize("weighted", [False, True])
def test_restarts_find_the_cheapest_of_all_partitions(weighted):
    rows = RNG.normal(size=(9, 2)).astype(np.float32)
    weight = np.array([1, 3, 1, 2, 5, 1, 1, 4, 2], np.float32) if weighted else np.ones(9, np.float32)
    centers, info = js.fit.kmeans(KEY, rows, 3, restarts=12, weights=weight if weighted else None)
    assert float(info.cost) == pytest.approx(cheapest(rows.astype(float), weight, 3), rel=1e-5)
    direct = np.sum(weight * np.sum((rows - np.asarray(centers)[info.labels]) ** 2, 1))
    assert float(info.cost) == pytest.approx(direct, rel=1e-5)
    np.testing.assert_allclose(info.size, np.bincount(info.labels, weight, 3), rtol=1e-6)


def lloyd(rows, weight, centers, steps):
    """Lloyd's iterations as a loop in float64."""
    for _ in range(steps):
        label = np.argmin(np.sum((rows[:, None] - centers[None]) ** 2, 2), 1)
        centers = np.stack(
            [np.average(rows[label == j], axis=0, weights=weight[label == j]) for j in range(len(centers))]
        )
    return centers


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_steps_are_lloyds(offset):
    rows = (np.tile(X, (3, 1)) + RNG.normal(size=(180, 2)) + offset).astype(np.float32)
    weight = RNG.uniform(0.5, 2, 180).astype(np.float32)
    wide = rows.astype(np.float64)
    for steps in (1, 3):
        centers, info = js.fit.kmeans(
            None, rows, 3, start=rows[[0, 1, 100]], weights=weight, steps=steps, tolerance=0.0
        )
        wanted = lloyd(wide, weight, wide[[0, 1, 100]], steps)
        np.testing.assert_allclose(centers, wanted[np.lexsort(wanted.T[::-1])], rtol=2e-6, atol=2e-5)
        assert int(info.steps) == steps
        assert not bool(info.ok)
    assert bool(js.fit.kmeans(None, rows, 3, start=rows[[0, 1, 100]], weights=weight, tolerance=0.0).info.ok)


def test_a_tolerance_stops_early():
    starts = X[[0, 1, 2]]
    few, many = (js.fit.kmeans(None, X, 3, start=starts, tolerance=t).info for t in (0.5, 0.0))
    assert int(few.steps) < int(many.steps)
    assert float(few.cost) >= float(many.cost)


def test_weights_count_rows():
    start = X[[0, 13, 30]]
    one, info = js.fit.kmeans(None, X, 3, start=start, weights=COUNTS)
    other, again = js.fit.kmeans(None, np.repeat(X, COUNTS.astype(int), 0), 3, start=start)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert float(info.cost) == pytest.approx(float(again.cost), rel=1e-5)
    np.testing.assert_allclose(info.size, again.size, rtol=1e-6)


@pytest.mark.parametrize("near", [0, 10, 300])
def test_products_decide_only_what_they_prove(near):
    """Rows in the middle between two centres, none, few and many, get the label of differences in float64."""
    centers = (RNG.normal(size=(6, 5)) + 3).astype(np.float32)
    rows = (RNG.normal(size=(400, 5)) * 2).astype(np.float32)
    rows[:near] = ((centers[1] + centers[4]) / 2 * (1 + 1e-7 * RNG.normal(size=(near, 1)))).astype(np.float32)
    live = np.array([True, True, False, True, True, True])
    found = nearest_centers(jnp.asarray(rows), jnp.asarray(centers), jnp.asarray(live))
    exact = np.sum((rows[:, None].astype(np.float64) - centers[None]) ** 2, 2) + np.where(live, 0, np.inf)
    gap = exact[np.arange(400), found] - exact.min(1)
    assert np.all(gap <= 4 * np.finfo(np.float32).eps * exact.min(1))  # of the distance itself, not of |x|^2
    assert np.all(np.asarray(found)[near:] == exact.argmin(1)[near:])
    twins = jnp.asarray(np.concatenate([centers[:1], centers[:1]]))
    assert np.all(nearest_centers(jnp.asarray(rows), twins, jnp.ones(2, bool)) == 0)


@pytest.mark.parametrize("form", [by_passes, by_sweep])
def test_the_two_least_are_those_of_a_sort(form):
    gap = RNG.integers(0, 6, (7, 40)).astype(np.float32)
    gap[3] = np.inf
    best, second, label = form(jnp.asarray(gap))
    assert np.array_equal(np.stack([best, second]), np.sort(gap, 0)[:2])
    assert np.array_equal(label, np.argmin(gap, 0))


@pytest.mark.parametrize("far", [1e5, 1e12, 1e30])
def test_one_outlier_leaves_the_others_alone(far):
    """Neither the origin, nor the unit, nor the variance under the components follows it."""
    rows = np.concatenate([[[far, -far]], X[:24]]).astype(np.float32)
    means = np.stack([X[:12].mean(0), X[12:24].mean(0), rows[0]])
    for found in (js.fit.kmeans(KEY, rows, 3, restarts=2).x, js.fit.mixture(KEY, rows, 3).x.mean):
        np.testing.assert_allclose(found, means, rtol=1e-4, atol=1e-3)


def test_lost_centers_settle_where_rows_are_far():
    start = np.full((5, 2), 1e3, np.float32) + np.arange(5)[:, None]
    start[0] = 0
    _, info = js.fit.kmeans(None, X, 5, start=start)
    assert np.all(np.asarray(info.size) > 0)
    same = js.fit.kmeans(KEY, np.repeat(X[:2], 5, 0), 4)
    assert float(same.info.cost) == 0
    assert sorted(np.asarray(same.info.size).tolist()) == [0, 0, 5, 5]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_units_do_not_matter(scale):
    one = js.fit.kmeans(KEY, X, 5).info.labels
    assert np.array_equal(one, js.fit.kmeans(KEY, X * np.float32(scale), 5).info.labels)


# ---------------------------------------------------------------- mixtures


def spherical(cov):
    return np.trace(cov) / len(cov) * np.eye(len(cov))


SHAPES = {"full": lambda cov: cov, "diagonal": lambda cov: np.diag(np.diag(cov)), "spherical": spherical}


def log_density(rows, weight, mean, cov):
    away = rows[None] - mean[:, None]
    square = np.einsum("kbi,kij,kbj->kb", away, np.linalg.inv(cov), away)
    size = np.linalg.slogdet(2 * np.pi * cov)[1]
    return np.log(weight)[:, None] - 0.5 * (square + size[:, None])


def expectation_maximisation(rows, share, label, k, kind, floor, steps):
    """EM as a loop in float64, from labels."""
    owned = (label[None] == np.arange(k)[:, None]) * share
    inside = sum((share * (label == j)).sum() * np.cov(rows.T[:, label == j], aweights=share[label == j], ddof=0)
                 for j in range(k))  # fmt: skip
    for step in range(steps + 1):
        mass = owned.sum(1)
        mean = owned @ rows / mass[:, None]
        away = rows[None] - mean[:, None]
        cov = np.einsum("kb,kbi,kbj->kij", owned, away, away) / mass[:, None, None]
        cov = np.stack([SHAPES[kind](c) for c in cov]) + floor * np.trace(inside) / len(inside) * np.eye(len(inside))
        logs = log_density(rows, mass, mean, cov)
        whole = np.log(np.exp(logs).sum(0))
        if step == steps:
            return mass, mean, cov, np.sum(share * whole)
        owned = np.exp(logs - whole) * share


@pytest.mark.parametrize("kind", SHAPES)
def test_iterations_are_those_of_a_loop_in_float64(kind):
    label = np.arange(60) // 12 // 2
    share = COUNTS / COUNTS.sum()
    found, info = js.fit.mixture(
        None, X, 3, weights=COUNTS, start=label, covariance=kind, floor=0.01, steps=3, tolerance=0.0
    )
    mass, mean, cov, loglik = expectation_maximisation(X.astype(float), share.astype(float), label, 3, kind, 0.01, 3)
    order = np.lexsort(mean.T[::-1])
    made = np.asarray(found.chol) @ np.swapaxes(found.chol, 1, 2)
    np.testing.assert_allclose(found.weight, mass[order], rtol=2e-4)
    np.testing.assert_allclose(found.mean, mean[order], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(made, cov[order], rtol=2e-3, atol=2e-3)
    assert float(info.loglikelihood) == pytest.approx(loglik, abs=2e-5)
    free = {"full": 3, "diagonal": 2, "spherical": 1}[kind]
    wanted = -2 * COUNTS.sum() * loglik + np.log(COUNTS.sum()) * (2 + 3 * (2 + free))
    assert float(info.bic) == pytest.approx(wanted, rel=1e-5)
    logs = log_density(X.astype(float), mass[order], mean[order], cov[order])
    assert np.array_equal(info.labels, np.argmax(logs, 0))


def test_one_component_is_the_mean_and_covariance():
    far = X + np.float32(1e4)
    found, info = js.fit.mixture(KEY, far, 1, floor=0.0, weights=COUNTS)
    cov = np.cov(X.astype(float).T, aweights=COUNTS, ddof=0)
    np.testing.assert_allclose(found.mean[0] - 1e4, np.average(X, axis=0, weights=COUNTS), atol=2e-3)
    np.testing.assert_allclose(found.chol[0] @ found.chol[0].T, cov, rtol=1e-3, atol=1e-3)
    exact = -0.5 * (np.linalg.slogdet(2 * np.pi * cov)[1] + 2)
    assert float(info.loglikelihood) == pytest.approx(exact, abs=1e-4)


def test_the_end_is_stationary():
    """No direction of means or weights raises the likelihood at the end, and a run goes on from a mixture."""
    found, info = js.fit.mixture(KEY, X, 3, tolerance=0.0, floor=0.0)
    loglik = lambda mean: jnp.mean(jax.vmap(js.fit.Mixture(found.weight, mean, found.chol))(jnp.asarray(X)))
    assert float(loglik(found.mean)) == pytest.approx(float(info.loglikelihood), abs=1e-5)
    assert np.max(np.abs(jax.grad(loglik)(found.mean))) < 1e-4
    shares = jax.vmap(found.shares)(jnp.asarray(X))
    np.testing.assert_allclose(jnp.mean(shares, 0), found.weight, atol=1e-4)
    again = js.fit.mixture(None, X, 3, start=found, steps=2, floor=0.0)
    np.testing.assert_allclose(again.x.mean, found.mean, atol=1e-3)


def test_a_mixture_is_a_density():
    found = js.fit.mixture(KEY, X[:, :1], 2).x
    grid = jnp.linspace(-15, 25, 4001)[:, None]
    assert float(jnp.sum(jnp.exp(jax.vmap(found)(grid)))) * 0.01 == pytest.approx(1, abs=1e-4)


def test_constant_columns_and_rows_on_one_place_are_finite():
    flat = np.c_[X, np.ones(60)].astype(np.float32)
    for rows in (flat, np.ones((8, 2), np.float32)):
        found, info = js.fit.mixture(KEY, rows, 2)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((found, info)))


# ---------------------------------------------------------------- partitions


def test_adjusted_rand_index():
    """Against the formula over ordered pairs with replacement."""
    a, b = jnp.array([0, 0, 0, 1, 1, 2]), jnp.array([0, 0, 1, 1, 2, 2])
    same = lambda v: np.equal.outer(np.asarray(v), np.asarray(v))
    both, one, other = (same(a) & same(b)).mean(), same(a).mean(), same(b).mean()
    wanted = (both - one * other) / ((one + other) / 2 - one * other)
    share = jnp.full(6, 1 / 6)
    assert float(adjusted_rand(a, b, 3, share)) == pytest.approx(wanted, rel=1e-5)
    assert float(adjusted_rand(a, (a + 1) % 3, 3, share)) == pytest.approx(1, rel=1e-5)
    assert float(adjusted_rand(0 * a, 0 * a, 3, share)) == 1
    assert by_first_row(jnp.array([2, 2, 0, 1, 0]), 4).tolist() == [0, 0, 1, 2, 1]


def test_partitions_are_found_and_validated():
    found, info = js.fit.ppp(KEY, X, most=7, restarts=4)
    assert int(found.num) == 5
    assert bool(info.ok)
    truth = np.argsort(np.argsort(BLOBS[:, 0] * 100 + BLOBS[:, 1]))  # unless two centres share a first coordinate
    assert float(adjusted_rand(found.labels, jnp.repeat(jnp.asarray(truth), 12), 7, jnp.full(60, 1 / 60))) > 0.999
    centers, clusters = js.fit.kmeans(KEY, X, 5, restarts=8, tolerance=0.0)
    assert np.array_equal(found.labels, clusters.labels)
    np.testing.assert_allclose(found.centers[:5], centers, atol=1e-4)
    assert np.all(np.asarray(found.centers[5:]) == 0)
    assert np.all(np.asarray(found.mixture.weight[5:]) == 0)
    assert float(info.cost[4]) == pytest.approx(float(clusters.cost), rel=1e-4)
    mixed = js.fit.mixture(None, X, 5, start=clusters.labels, steps=100)
    assert float(info.bic[4]) == pytest.approx(float(mixed.info.bic), rel=1e-4)
    np.testing.assert_allclose(found.mixture.mean[:5], mixed.x.mean, atol=1e-3)
    assert float(info.agreement[4]) == pytest.approx(float(jnp.mean(mixed.info.labels == clusters.labels)), abs=1e-6)
    assert not bool(js.fit.ppp(KEY, X, most=4, restarts=4).info.ok)
    assert int(js.fit.ppp(KEY, X, most=7, restarts=4, weights=(np.arange(60) < 24).astype(np.float32)).x.num) == 2
    assert int(js.fit.ppp(KEY, X, most=7, restarts=4, accept=1.0).x.num) in (1, 5)


def test_growing_numbers_of_clusters_compile_nothing():
    traces = []

    @jax.jit
    def run(key, rows, accept):
        traces.append(1)
        return js.fit.ppp(key, rows, most=7, restarts=4, accept=accept).x.num

    assert int(run(KEY, jnp.asarray(X), 0.8)) == 5
    moved = X.copy()
    moved[24:] = X[:36]
    assert int(run(jax.random.key(1), jnp.asarray(moved), 0.7)) < 5
    assert len(traces) == 1
