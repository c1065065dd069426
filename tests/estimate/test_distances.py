"""Distances between samples against numpy in float64, closed forms and exact couplings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)) + 0.3, 1.2 * RNG.normal(size=(25, 4))


def u_statistic(kernel, x, y):
    inside = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
    return inside(kernel(x, x)) + inside(kernel(y, y)) - 2 * kernel(x, y).mean()


def squares(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def jackknife(function, x, y):
    """Variance by leaving rows out, of both sets."""
    one = np.array([function(np.delete(x, i, 0), y) for i in range(len(x))])
    two = np.array([function(x, np.delete(y, i, 0)) for i in range(len(y))])
    return sum((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum() for v in (one, two))


@pytest.mark.parametrize("block", [1, 7, 256])
def test_kernel_distances_by_hand(block):
    median = np.median(squares(Y, Y)[np.triu_indices(25, 1)])
    rbf = lambda a, b: np.mean([np.exp(-squares(a, b) / (2 * c * median)) for c in (0.5, 1, 2, 4)], 0)
    cubic = lambda a, b: (a @ b.T / 4 + 1) ** 3
    norm = lambda a, b: -np.sqrt(squares(a, b))
    for found, kernel in (
        (estimate.mmd(X, Y, block=block), rbf),
        (estimate.kid(X, Y, block=block), cubic),
        (estimate.energy(X, Y, block=block), norm),
    ):
        np.testing.assert_allclose(found.value, u_statistic(kernel, X, Y), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            found.stderr, np.sqrt(jackknife(lambda a, b: u_statistic(kernel, a, b), X, Y)), rtol=0.1
        )
    given = estimate.mmd(X, Y, bandwidth=3.0, block=block).value
    wanted = lambda a, b: np.mean([np.exp(-squares(a, b) / (2 * c * 3.0)) for c in (0.5, 1, 2, 4)], 0)
    np.testing.assert_allclose(given, u_statistic(wanted, X, Y), rtol=1e-4)
    own = estimate.mmd(X, Y, kernel=lambda a, b: jnp.exp(-jnp.sum(jnp.abs(a - b))), block=block).value
    np.testing.assert_allclose(
        own, u_statistic(lambda a, b: np.exp(-np.abs(a[:, None] - b[None]).sum(-1)), X, Y), rtol=1e-4
    )


def test_a_kernel_that_depends_on_the_order_of_its_rows_is_refused():
    with pytest.raises(ValueError, match="mmd: kernel must be symmetric"):
        estimate.mmd(X, Y, kernel=lambda a, b: jnp.exp(-jnp.sum(a**2)) * b[0])


def test_large_offsets_and_scales_cost_no_digits():
    """Features around 1000; the product form of squares agrees with differences."""
    far = lambda f: (np.asarray(f(X + 1000, Y + 1000).value, float), float(f(X, Y).value))
    for f in (estimate.mmd, estimate.energy, estimate.frechet, estimate.sliced_wasserstein):
        np.testing.assert_allclose(*far(f), rtol=2e-3)
    cubic = lambda a, b: (a @ b.T / 4 + 1) ** 3
    np.testing.assert_allclose(estimate.kid(X + 30, Y + 30).value, u_statistic(cubic, X + 30, Y + 30), rtol=2e-3)
    from jsamp.estimate import _pairs

    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    near, rows = _pairs.measured(x[:1]), _pairs.measured(y)
    np.testing.assert_allclose(_pairs.squared(near, rows, False), _pairs.squared(near, rows, True), rtol=1e-5)


@pytest.mark.parametrize("unit", [1e-16, 1e-12, 1e12, 1e16])
def test_distances_and_their_errors_follow_the_unit(unit):
    for f, power in ((estimate.mmd, 0), (estimate.energy, 1), (estimate.frechet, 2), (estimate.sliced_wasserstein, 2)):
        got, wanted = f(X * unit, Y * unit), f(X, Y)
        np.testing.assert_allclose(np.array(got[:2], float) / unit**power, np.array(wanted[:2], float), rtol=1e-3)


@pytest.mark.parametrize("unit", [1e4, 1e6])
def test_the_cubic_kernel_takes_features_whose_sixth_powers_are_no_floats(unit):
    """Far out (a . b / d + 1)^3 is (a . b / d)^3, which has no unit of its own."""
    got, wanted = (estimate.kid(X * v, Y * v) for v in (unit, 1e3))
    np.testing.assert_allclose(np.array(got[:2], float) / (unit / 1e3) ** 6, np.array(wanted[:2], float), rtol=1e-3)
    assert estimate.kid(X * 1e25, Y * 1e25).value == np.inf


@pytest.mark.parametrize("size", [1, 2, 35, 200])
def test_order_statistics_without_a_sort(size):
    """The k-th smallest, copies counted, and the median, of distinct numbers, of many equal ones and of zeros."""
    from jsamp.estimate import _pairs

    for values in (RNG.exponential(size=size), np.round(2 * RNG.exponential(size=size)), np.zeros(size)):
        values = jnp.asarray(values, jnp.float32)
        np.testing.assert_allclose(_pairs.median(values), np.median(values), rtol=1e-6)
        for k in {1, min(3, size), min(_pairs.FEW, size), size}:
            columns = jnp.stack([values, values[::-1] + 1], 1)
            np.testing.assert_array_equal(_pairs.kth_smallest(columns, k), np.sort(columns, 0)[k - 1])
    np.testing.assert_allclose(
        jax.grad(_pairs.median)(values + jnp.arange(size)), jax.grad(jnp.median)(jnp.arange(0.0, size))
    )


def test_directions_without_spread_change_neither_the_frechet_distance_nor_its_error():
    wide = lambda rows: np.concatenate([rows, 0 * rows[:, :1], rows[:, :1]], 1)
    plain, more = estimate.frechet(X, Y), estimate.frechet(wide(X), wide(Y))
    twice = estimate.frechet(np.concatenate([X, 0 * X], 1), np.concatenate([Y, 0 * Y], 1))
    np.testing.assert_allclose(twice[:2], plain[:2], rtol=1e-4)
    assert np.isfinite(more.stderr) and more.value > plain.value


def frechet(x, y):
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    w, v = np.linalg.eigh(s)
    root = (v * np.sqrt(np.maximum(w, 0))) @ v.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ t @ root), 0)).sum()
    gap = x.mean(0) - y.mean(0)
    return gap @ gap + np.trace(s) + np.trace(t) - 2 * cross


def test_frechet_by_hand():
    found = estimate.frechet(X, Y)
    np.testing.assert_allclose(found.value, frechet(X, Y), rtol=1e-5)
    np.testing.assert_allclose(found.stderr, np.sqrt(jackknife(frechet, X, Y)), rtol=0.15)
    np.testing.assert_allclose(estimate.frechet(Y, X).value, found.value, rtol=1e-5)
    assert float(estimate.frechet(X, X).value) < 1e-5
    flat = X * [1.0, 0, 0, 0]  # singular covariance, fewer rows than columns
    np.testing.assert_allclose(estimate.frechet(flat, Y).value, frechet(flat, Y), rtol=1e-5)
    np.testing.assert_allclose(estimate.frechet(X[:3], Y).value, frechet(X[:3], Y), rtol=1e-4)


def test_frechet_of_many_rows_by_panels():
    """513 rows make four panels, of which three are one row short."""
    rows = RNG.normal(size=(513, 3)) * [1.0, 10.0, 0.1] + 2
    np.testing.assert_allclose(estimate.frechet(rows, Y[:, :3]).value, frechet(rows, Y[:, :3]), rtol=1e-5)


@pytest.mark.parametrize("case", ["full", "wide", "one row alone has a feature", "equal sets"])
def test_frechet_slopes_are_those_of_the_distance_between_gaussians(case):
    """Also where factorisations have no slope: fewer rows than features, panels without rank, equal values."""
    x, y = X, Y
    if case == "wide":
        x, y = RNG.normal(size=(2, 6, 9))
    if case == "one row alone has a feature":
        x = RNG.normal(size=(300, 4)) * [0, 1.0, 1.0, 1.0]
        x[3, 0] = 5.0
    if case == "equal sets":
        x = y
    along = RNG.normal(size=x.shape)
    with jax.enable_x64(True):
        slope = jax.jvp(lambda x: estimate.frechet(x, y).value, (jnp.asarray(x),), (jnp.asarray(along),))[1]
    wanted = (frechet(x + 1e-3 * along, y) - frechet(x - 1e-3 * along, y)) / 2e-3
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=2e-4)


def test_sliced_is_the_exact_coupling():
    ot = lambda a, b: np.mean((np.sort(np.repeat(a, 25)) - np.sort(np.repeat(b, 30))) ** 2)
    one = estimate.sliced_wasserstein(X[:, :1], Y[:, :1], num=3)
    np.testing.assert_allclose(one.value, ot(X[:, 0], Y[:, 0]), rtol=1e-5)
    same = estimate.sliced_wasserstein(X[:25, :1], Y[:, :1], num=1)
    np.testing.assert_allclose(same.value, np.mean((np.sort(X[:25, 0]) - np.sort(Y[:, 0])) ** 2), rtol=1e-5)
    directions = np.array(jax.random.normal(jax.random.key(4), (5, 4)), float)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    many = estimate.sliced_wasserstein(X, Y, key=jax.random.key(4), num=5)
    np.testing.assert_allclose(many.value, np.mean([ot(X @ v, Y @ v) for v in directions]), rtol=1e-4)


def test_support_by_hand():
    def radius(a, k):
        return np.sort(squares(a, a), 1)[:, k]

    for k in (1, 3):
        found = estimate.precision_recall(X, Y, k=k, block=8)
        inside = lambda a, b: (squares(a, b) <= radius(b, k)[None]).any(1)
        for e, rows in ((found.precision, inside(X, Y)), (found.recall, inside(Y, X))):
            np.testing.assert_allclose(e.value, rows.mean(), rtol=1e-6)
            np.testing.assert_allclose(e.stderr, rows.std(ddof=1) / np.sqrt(len(rows)), rtol=1e-4)
        found = estimate.density_coverage(X, Y, k=k)
        hits = squares(X, Y) <= radius(Y, k)[None]
        np.testing.assert_allclose(found.density.value, hits.sum(1).mean() / k, rtol=1e-5)
        np.testing.assert_allclose(found.coverage, hits.any(0).mean(), rtol=1e-5)
    near = lambda a: np.sqrt(squares(a, Y).min(1))
    ratio = estimate.nearest_ratio(X[:10], Y, X[10:])
    above, below = near(X[:10]), near(X[10:])
    value = above.mean() / below.mean()
    error = np.sqrt(above.var(ddof=1) / 10 + value**2 * below.var(ddof=1) / 20) / below.mean()
    np.testing.assert_allclose([ratio.value, ratio.stderr], [value, error], rtol=1e-5)


def test_the_error_of_sliced_distances_is_that_of_the_potentials():
    """Of x = 2 y + 2, which T takes back to y: 2 (x - T x) integrates to x^2 / 2 + 2 x, and to -y^2 - 4 y from y."""
    y = RNG.normal(size=(40, 1))
    found = estimate.sliced_wasserstein(2 * y + 2, y, num=1)
    u, v = (2 * y + 2) ** 2 / 2 + 2 * (2 * y + 2), -(y**2) - 4 * y
    np.testing.assert_allclose(found.value, np.mean((y + 2) ** 2), rtol=1e-5)
    np.testing.assert_allclose(found.stderr, np.sqrt((u.var(ddof=1) + v.var(ddof=1)) / 40), rtol=1e-4)


def test_copies_in_the_reference_do_not_break_anything():
    """Repeated rows: radii 0, balls that hold their rim; constant sets: distances 0."""
    same = np.ones((10, 2))
    assert float(estimate.precision_recall(same, same).precision.value) == 1
    for f in (estimate.mmd, estimate.energy, estimate.frechet, estimate.kid, estimate.sliced_wasserstein):
        found = f(same, same)
        np.testing.assert_allclose([found.value, found.stderr], 0, atol=1e-6)


def test_mmd_has_a_gradient():
    slope = jax.grad(
        lambda s: estimate.mmd(jnp.asarray(X, jnp.float32) + s, jnp.asarray(Y, jnp.float32), bandwidth=2.0).value
    )(0.1)
    step = 1e-2
    f = lambda s: float(estimate.mmd(X + s, Y, bandwidth=2.0).value)
    np.testing.assert_allclose(slope, (f(0.1 + step) - f(0.1 - step)) / (2 * step), rtol=2e-2)
