"""Woodruff and Yasuda, "Sharper Bounds for l_p Sensitivity Sampling": how many rows, and by which scores."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import select

EPS = 0.5


def total_sensitivity(d, p):
    return math.sqrt(math.pi) * math.exp(math.lgamma((d + p) / 2) - math.lgamma(d / 2) - math.lgamma((p + 1) / 2))


def sphere_distortion(rows, p, start):
    """Largest |ratio - 1| found over directions, of equally weighted sphere rows against the whole sphere."""
    d = rows.shape[1]
    moment = math.exp(math.lgamma(d / 2) + math.lgamma((p + 1) / 2) - math.lgamma((d + p) / 2)) / math.sqrt(math.pi)

    def ratio(x):
        return (np.abs(rows @ x) ** p).mean(0) / moment

    x = np.concatenate([start, rows[:16].T], 1)
    for _ in range(25):  # every step raises the ratio
        r = rows @ x
        x = rows.T @ (np.sign(r) * np.abs(r) ** (p - 1))
        x /= np.linalg.norm(x, axis=0, keepdims=True)
    low = np.linalg.eigh(rows.T @ rows)[1][:, :1]
    for _ in range(8):
        weight = (np.abs(rows @ low) ** 2 + 1e-6) ** ((p - 2) / 2)
        low = np.linalg.eigh(rows.T @ (weight * rows))[1][:, :1]
    return max(ratio(x).max() - 1, 1 - ratio(low)[0])


@pytest.mark.parametrize(("p", "slope"), [(1.0, 2.0), (1.5, 4 / 3)])
def test_rows_needed_grow_like_a_power_of_the_total_sensitivity(p, slope):
    """On the sphere every score is the same and S ~ d^(p/2): the exponent of S is 2/p, not the classical 1 + 2/p.

    `sample_size` says so: the rows that it asks for and the rows needed grow alike.
    """
    rng = np.random.default_rng(0)
    dims, need = (16, 32, 64, 128), []
    for d in dims:
        found = []
        for _ in range(5):
            rows = rng.normal(size=(16 * d, d)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            start = rng.normal(size=(d, 16)).astype(np.float32)
            low, high = d, 16 * d
            while high > 1.03 * low:
                middle = int(math.sqrt(low * high))
                good = sphere_distortion(rows[:middle], p, start) < EPS
                low, high = (low, middle) if good else (middle, high)
            found.append(math.sqrt(low * high))
        need.append(np.exp(np.mean(np.log(found))))
    sums = [total_sensitivity(d, p) for d in dims]
    measured = np.polyfit(np.log(sums), np.log(need), 1)[0]
    assert abs(measured - slope) < 0.2, (measured, need)
    asked, classic = (
        np.log([select.sample_size(EPS, scheme, dim=d, p=p, total=S) for d, S in zip(dims, sums, strict=True)])
        for scheme in ("plain", "classic")
    )
    assert abs(np.polyfit(asked, np.log(need), 1)[0] - 1) < 0.15, (measured, need)
    assert np.polyfit(classic, np.log(need), 1)[0] < 0.75


def median_rows(d, copies_mass, sphere_mass):
    """Median number of draws until a block of d directions is hit everywhere and the other d times."""
    total = copies_mass + sphere_mass

    def chance(m):
        miss = -m * copies_mass / (total * d)
        full = d * math.log1p(-math.exp(miss)) if miss < -1e-12 else -math.inf
        lam = m * sphere_mass / total
        if lam < 700:
            k = np.arange(d)
            logs = k * math.log(lam) - lam - np.array([math.lgamma(i + 1) for i in k])
            tail = 1 - min(1.0, float(np.exp(logs).sum()))
        else:
            tail = 0.5 * math.erfc((d - lam) / math.sqrt(2 * lam))
        return math.exp(full) * tail

    low, high = float(d), 1e9
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if chance(middle) > 0.5 else (middle, high)
    return high


def test_adding_leverage_repairs_the_hard_matrix_at_p_one():
    """Copies of the axes beside sphere rows: sensitivities give the sphere only 1/sqrt(d) of the mass."""
    d, copies, n = 6, 4, 400
    sphere = np.random.default_rng(0).normal(size=(n, d))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    A = np.zeros((d * copies + n, 2 * d), np.float32)
    A[: d * copies, :d] = np.repeat(np.eye(d), copies, 0)
    A[d * copies :, d:] = sphere
    plain = np.asarray(select.sensitivity(A, 1.0, scheme="plain"))
    both = 2 * np.asarray(select.sensitivity(A, 1.0))
    assert abs(plain[: d * copies].sum() - d) < 0.01 * d
    assert abs(plain[d * copies :].sum() / total_sensitivity(d, 1.0) - 1) < 0.06
    np.testing.assert_allclose(both - plain, select.leverage(A), atol=1e-5)

    # A sample keeps every direction if and only if it holds all axes and d of the (generic) sphere rows.
    for key in jax.random.split(jax.random.key(0), 12):
        subset = select.draw(key, jnp.asarray(plain), 24, scheme="priority")
        rows = np.asarray(subset.index)
        covers = len(set(rows[rows < d * copies] // copies)) == d and (rows >= d * copies).sum() >= d
        assert covers == (np.linalg.matrix_rank(A[rows]) == 2 * d)
        assert covers or float(select.distortion(A, subset, 1.0)) > 0.99


def rows_until_full(key, d, copies, plenty, axis_score, sphere_score, limit):
    """Independent draws until all d axes (of `copies` equal rows each) and d different sphere rows are in the sample."""
    scores = jnp.concatenate([jnp.full(d * copies, axis_score), jnp.full(plenty, sphere_score)])
    index = np.asarray(select.draw(key, scores, limit, scheme="multinomial").index)
    rows, first = np.unique(index, return_index=True)
    sphere = np.sort(first[rows >= d * copies])
    axes = np.full(d, limit)
    np.minimum.at(axes, rows[rows < d * copies] // copies, first[rows < d * copies])
    assert len(sphere) >= d and axes.max() < limit
    return max(sphere[d - 1], axes.max()) + 1


@pytest.mark.slow
def test_rows_needed_on_the_hard_matrix_by_sampling():
    """Draws until the sample keeps every direction: d^1.5 by sensitivities, d log d with leverage added."""
    dims, copies, found = (256, 1024, 4096), 64, {"plain": [], "combined": []}
    for d in dims:
        plenty, S = 64 * d, total_sensitivity(d, 1.0)
        for name, axis, sphere in (("plain", 1.0, S), ("combined", 2.0, S + d)):
            law = median_rows(d, axis * d, sphere)
            counts = [
                rows_until_full(key, d, copies, plenty, axis / copies, sphere / plenty, int(2.5 * law))
                for key in jax.random.split(jax.random.key(d), 5)
            ]
            found[name].append(np.median(counts))
            assert abs(found[name][-1] / law - 1) < 0.25  # the exact median of the criterion
    assert np.polyfit(np.log(dims), np.log(found["plain"]), 1)[0] > 1.4
    assert np.polyfit(np.log(dims), np.log(found["combined"]), 1)[0] < 1.2


def test_scores_keep_the_row_that_uniform_sampling_loses():
    rng = np.random.default_rng(0)
    A = np.float32(np.concatenate([[[50.0, 0, 0]], np.c_[np.zeros(1500), rng.standard_t(3, size=(1500, 2))]]))
    keys = jax.random.split(jax.random.key(0), 20)
    for p in (1.0, 3.0):
        scores = select.sensitivity(A, p)
        drawn = jax.vmap(lambda k, s=scores: select.draw(k, s, 100))(keys)
        assert bool(jnp.any((drawn.index == 0) & drawn.mask, axis=1).all())
    lost = jax.vmap(lambda k: jnp.all(select.draw(k, jnp.ones(1501), 100, scheme="topk").index != 0))(keys)
    assert int(lost.sum()) >= 15


def test_regression_on_the_subset_is_nearly_as_good_as_on_everything():
    """l_1 regression with heavy tails: 5 % of the rows, drawn by score, against the same number drawn uniformly."""
    rng = np.random.default_rng(1)
    n, d = 4000, 5
    X = rng.normal(size=(n, d)) * np.exp(2.5 * rng.normal(size=(n, 1)))
    b = X @ np.ones(d) + rng.standard_t(2, size=n)
    A = np.float32(np.c_[X, b])

    def solve(rows, weight):
        x = np.linalg.lstsq(rows[:, :d], rows[:, d], rcond=None)[0]
        for _ in range(60):
            w = np.sqrt(weight / np.maximum(np.abs(rows[:, :d] @ x - rows[:, d]), 1e-6))
            x = np.linalg.lstsq(rows[:, :d] * w[:, None], rows[:, d] * w, rcond=None)[0]
        return np.abs(X @ x - b).sum()

    best = solve(A.astype(float), np.ones(n))
    scores = select.sensitivity(A, 1.0)
    loss = {"score": [], "uniform": []}
    for key in jax.random.split(jax.random.key(0), 8):
        for name, s in (("score", scores), ("uniform", jnp.ones(n))):
            subset = select.draw(key, s, 200, scheme="priority")
            loss[name].append(solve(A[np.asarray(subset.index)].astype(float), np.asarray(subset.weight)) / best - 1)
    assert np.mean(loss["score"]) < 0.06
    assert np.mean(loss["score"]) < 0.6 * np.mean(loss["uniform"])


@pytest.mark.parametrize("p", [1.0, 1.5])
def test_computed_sensitivities_of_sphere_rows_sum_like_d_to_the_half_p(p):
    """The sums behind the exponents above, computed by `sensitivity` itself."""
    sums, dims = [], (4, 8, 16)
    for d in dims:
        rows = np.random.default_rng(0).normal(size=(1200, d))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sums.append(float(select.sensitivity(np.float32(rows), p, scheme="plain").sum()))
        assert abs(sums[-1] / total_sensitivity(d, p) - 1) < 0.12
    assert abs(np.polyfit(np.log(dims), np.log(sums), 1)[0] - p / 2) < 0.1


def test_sparse_rows_need_far_fewer_than_lewis_weights_promise_at_p_four():
    """One entry in a row: S = d, so S^(2 - 2/p) = d^1.5 rows are enough where the bound by Lewis weights is d^2."""
    d, p, rng = 8, 4.0, np.random.default_rng(0)
    A = np.zeros((8 * 60, d), np.float32)
    A[np.arange(480), np.arange(480) % d] = np.exp(1.5 * rng.normal(size=480))
    scores = select.sensitivity(A, p, scheme="plain")
    assert abs(float(scores.sum()) / d - 1) < 1e-3
    num = select.sample_size(0.5, "plain", dim=d, p=p, total=float(scores.sum()))
    assert num == 91 < select.sample_size(0.5, "lewis", dim=d, p=p) == 256
    worst = {}
    for name, s in (("scores", scores), ("uniform", jnp.ones(480))):
        draws = [select.draw(key, s, num, scheme="priority") for key in jax.random.split(jax.random.key(0), 10)]
        worst[name] = np.array([float(select.distortion(A, subset, p, iterations=10)) for subset in draws])
    assert np.sum(worst["scores"] < 0.5) >= 9
    assert np.sum(worst["uniform"] > 0.9) >= 8


def test_root_leverage_sampled_again_and_again_reaches_about_d_rows():
    """Each round keeps row i with probability min(1, tau_i^(1/2) / alpha); the rows left settle at d / alpha^2."""
    alpha, n, left = 0.35, 4000, []
    dims = (2, 4, 8)
    for d in dims:
        rng = np.random.default_rng(d)
        A = np.float32(rng.standard_t(3, size=(n, d)))
        weight = np.ones(n, np.float32)
        counts = []
        for _ in range(12):
            score = np.asarray(select.root_leverage(A, 1.0, weights=weight))
            chance = np.minimum(1, score / alpha)
            kept = rng.uniform(size=n) < chance
            weight = np.where(kept, weight / np.maximum(chance, 1e-9), 0).astype(np.float32)
            counts.append(int((weight > 0).sum()))
        left.append(np.mean(counts[6:]))
        assert abs(left[-1] / (d / alpha**2) - 1) < 0.5
        x = rng.normal(size=(d, 50))
        ratio = (weight[:, None] * np.abs(A @ x)).sum(0) / np.abs(A @ x).sum(0)
        assert np.all(np.abs(ratio - 1) < 0.9)
    assert abs(np.polyfit(np.log(dims), np.log(left), 1)[0] - 1) < 0.25
