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


@jax.jit
def sphere_distortion(key, rows, m, p):
    """Largest |ratio - 1| found over directions, of the first m of the rows against the whole sphere."""
    d = rows.shape[1]
    use = (jnp.arange(rows.shape[0]) < m)[:, None] / m
    moment = jnp.exp(
        jax.lax.lgamma(d / 2.0) + jax.lax.lgamma((p + 1) / 2) - jax.lax.lgamma((d + p) / 2) - 0.5 * jnp.log(jnp.pi)
    )
    start = jax.random.normal(key, (d, 16))
    start = jnp.concatenate([start, rows[:16].T], 1)

    def ratio(x):
        return jnp.sum(use * jnp.abs(rows @ x) ** p, 0) / moment

    def up(x, _):
        r = rows @ x
        x = rows.T @ (use * jnp.sign(r) * jnp.abs(r) ** (p - 1))
        return x / jnp.linalg.norm(x, axis=0, keepdims=True), None

    def down(x, _):
        r = jnp.abs(rows @ x[:, None])
        weight = use * (r**2 + 1e-6) ** ((p - 2) / 2)
        return jnp.linalg.eigh(rows.T @ (weight * rows))[1][:, 0], None

    high, _ = jax.lax.scan(up, start / jnp.linalg.norm(start, axis=0, keepdims=True), None, length=25)
    low, _ = jax.lax.scan(down, jnp.linalg.eigh(rows.T @ (use * rows))[1][:, 0], None, length=8)
    return jnp.maximum(jnp.max(ratio(high)) - 1, 1 - ratio(low[:, None])[0])


@pytest.mark.slow
@pytest.mark.parametrize(("p", "slope"), [(1.0, 2.0), (1.5, 4 / 3)])
def test_rows_needed_grow_like_a_power_of_the_total_sensitivity(p, slope):
    """On the sphere every score is the same and S ~ d^(p/2): the exponent of S is 2/p, not the classical 1 + 2/p."""
    dims, need = (16, 32, 64), []
    for d in dims:
        found = []
        for trial in range(3):
            rows = jax.random.normal(jax.random.key(trial), (16 * d, d))
            rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
            low, high = d, 16 * d
            while high > 1.06 * low:
                middle = int(math.sqrt(low * high))
                good = float(sphere_distortion(jax.random.key(9), rows, middle, p)) < EPS
                low, high = (low, middle) if good else (middle, high)
            found.append(math.sqrt(low * high))
        need.append(np.exp(np.mean(np.log(found))))
    sums = [total_sensitivity(d, p) for d in dims]
    measured = np.polyfit(np.log(sums), np.log(need), 1)[0]
    assert abs(measured - slope) < 0.25, (measured, need)
    assert measured < 1 + 2 / p - 0.4


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

    dims = (256, 1024, 4096)
    plain_rows = [median_rows(d, d, total_sensitivity(d, 1.0)) for d in dims]
    both_rows = [median_rows(d, 2 * d, d + total_sensitivity(d, 1.0)) for d in dims]
    assert abs(plain_rows[0] / 3522 - 1) < 0.05
    assert abs(both_rows[0] / 2329 - 1) < 0.05
    assert np.polyfit(np.log(dims), np.log(plain_rows), 1)[0] > 1.4
    assert np.polyfit(np.log(dims), np.log(both_rows), 1)[0] < 1.2


def test_scores_keep_the_row_that_uniform_sampling_loses():
    rng = np.random.default_rng(0)
    A = np.float32(np.concatenate([[[50.0, 0, 0]], np.c_[np.zeros(3000), rng.standard_t(3, size=(3000, 2))]]))
    keys = jax.random.split(jax.random.key(0), 20)
    for p in (1.0, 3.0):
        scores = select.sensitivity(A, p)
        kept = jax.vmap(lambda k, s=scores: jnp.any(select.draw(k, s, 100).index == 0))(keys)
        assert bool(kept.all())
    lost = jax.vmap(lambda k: jnp.all(select.draw(k, jnp.ones(3001), 100, scheme="topk").index != 0))(keys)
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
