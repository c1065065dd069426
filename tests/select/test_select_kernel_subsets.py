"""Stein thinning, randomly pivoted Cholesky and Compress++ against recursions and enumerations in float64."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.select import _kernel

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(40, 3)), jnp.float32)
SCORE = jnp.asarray(np.random.default_rng(1).normal(size=(40, 3)), jnp.float32)


def naive_stein(x, s, y, t, length):
    """The Stein kernel by its definition: derivatives of the base kernel taken by autodiff."""
    base = lambda x, y: (1 + jnp.sum(((x - y) / length) ** 2)) ** -0.5
    cross = jnp.trace(jax.jacfwd(jax.grad(base, 0), 1)(x, y))
    gx, gy = jax.grad(base, (0, 1))(x, y)
    return cross + s @ gy + t @ gx + base(x, y) * (s @ t)


@pytest.fixture(scope="module")
def matrix():
    length = jnp.array([0.7, 1.5, 2.0])
    rows = jax.vmap(naive_stein, (None, None, 0, 0, None))
    return np.float64(jax.jit(jax.vmap(rows, (0, 0, None, None, None)))(X, SCORE, X, SCORE, length)), length


def test_stein_thinning_is_the_greedy_recursion(matrix):
    values, length = matrix
    chosen = []
    for _ in range(60):
        cost = np.diag(values) / 2 + values[chosen].sum(0)
        chosen.append(int(np.argmin(cost)))
    subset = js.select.stein_thinning(X, SCORE, 60, length=length)
    assert subset.index.tolist() == chosen
    assert len(set(chosen)) < 60  # a row may come again
    np.testing.assert_allclose(subset.weight, 40 / 60)


def test_stein_error_is_the_double_sum(matrix):
    values, length = matrix
    np.testing.assert_allclose(
        js.select.stein_error(X, SCORE, length=length, block=16), np.sqrt(values.mean()), rtol=1e-4
    )
    subset = js.select.Subset(jnp.array([3, 8, 0]), jnp.array([2.0, 1.0, 0.0]), jnp.array([True, True, False]))
    w = np.zeros(40)
    w[3], w[8] = 2 / 3, 1 / 3
    np.testing.assert_allclose(
        js.select.stein_error(X, SCORE, subset, length=length), np.sqrt(w @ values @ w), rtol=1e-4
    )


def test_the_default_length_is_the_median_distance():
    distances = np.linalg.norm(np.float64(X)[:, None] - np.float64(X)[None], axis=2)
    by_hand = js.select.stein_error(X, SCORE, length=float(np.median(distances)))
    np.testing.assert_allclose(js.select.stein_error(X, SCORE), by_hand, rtol=1e-5)


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_steins_method_has_no_unit(unit):
    """Rows in u, scores in 1 / u: the same rows are chosen, and the discrepancy is in 1 / u."""
    unit = np.float32(unit)
    chosen = js.select.stein_thinning(X * unit, SCORE / unit, 20).index.tolist()
    assert chosen == js.select.stein_thinning(X, SCORE, 20).index.tolist()
    np.testing.assert_allclose(
        js.select.stein_error(X * unit, SCORE / unit) * unit, js.select.stein_error(X, SCORE), rtol=1e-4
    )
    with pytest.raises(ValueError, match="its squares leave float32"):
        js.select.stein_error(X, SCORE * 1e25)


def test_stein_thinning_removes_the_bias_of_a_chain():
    """A tenth of the chain is burn-in at 6 and the rest is too wide: the chosen rows are not."""
    far = 6 + 0.3 * jax.random.normal(KEY, (60, 2))
    x = jnp.concatenate([far, 1.5 * jax.random.normal(jax.random.key(1), (540, 2))])
    chosen = js.select.stein_thinning(x, -x, 40)
    every = x[jnp.linspace(0, 599, 40).astype(int)]
    kept = chosen.take(x)
    assert abs(float(every.mean())) > 0.3
    assert abs(float(kept.mean())) < 0.1
    assert abs(float((kept**2).mean()) - 1) < 0.2
    assert float(js.select.stein_error(x, -x, chosen)) < 0.3 * float(js.select.stein_error(every, -every))


def test_all_pivots_give_the_whole_matrix():
    kernel = js.select.GaussianKernel(0.7)
    found = js.select.rp_cholesky(KEY, X, 40, kernel=kernel)
    assert sorted(found.subset.index.tolist()) == list(range(40))
    np.testing.assert_allclose(found.factor @ found.factor.T, kernel(X, X), atol=2e-5)
    assert float(found.residual.sum()) == 0


def test_the_factor_is_the_nystrom_approximation():
    kernel = js.select.GaussianKernel(1.5)
    found = js.select.rp_cholesky(KEY, X, 6, kernel=kernel)
    whole, pivots = np.float64(kernel(X, X)), found.subset.index.tolist()
    nystrom = whole[:, pivots] @ np.linalg.solve(whole[np.ix_(pivots, pivots)], whole[pivots])
    np.testing.assert_allclose(found.factor @ found.factor.T, nystrom, atol=1e-4)
    np.testing.assert_allclose(found.residual, np.diag(whole - nystrom), atol=1e-4)
    np.testing.assert_allclose(np.triu(found.factor[np.array(pivots)], 1), 0, atol=1e-5)


def test_pivots_are_drawn_by_what_is_left():
    """Chances of all ordered pairs of pivots by enumeration, and the mean trace error."""
    x = jnp.array([[0.0], [0.3], [1.0], [3.0]])
    kernel = lambda a, b: (1 + a @ b.T) * jnp.exp(-((a - b.T) ** 2) / 2)
    whole = np.float64(kernel(x, x))
    chance, error = np.zeros((4, 4)), 0.0
    for i, j in itertools.product(range(4), repeat=2):
        rest = np.diag(whole) - whole[:, i] ** 2 / whole[i, i]
        chance[i, j] = whole[i, i] / np.trace(whole) * max(rest[j], 0) / rest.sum()
        if i != j:
            pair = whole[:, [i, j]]
            left = np.trace(whole - pair @ np.linalg.solve(whole[np.ix_([i, j], [i, j])], pair.T))
            error += chance[i, j] * left
    num = 20_000
    run = jax.jit(jax.vmap(lambda key: js.select.rp_cholesky(key, x, 2, kernel=kernel)))
    found = run(jax.random.split(KEY, num))
    seen = np.zeros((4, 4))
    np.add.at(seen, tuple(np.asarray(found.subset.index).T), 1 / num)
    assert np.all(abs(seen - chance) < 5 * np.sqrt(chance / num) + 3 / num)
    errors = np.asarray(found.residual.sum(1))
    assert abs(errors.mean() - error) < 5 * errors.std() / math.sqrt(num)


def test_nothing_left_leaves_slots_unused():
    x = jnp.repeat(X[:3], 4, 0)
    found = js.select.rp_cholesky(KEY, x, 8)
    assert int(found.subset.mask.sum()) == 3
    assert float(found.subset.weight.sum()) == pytest.approx(12)
    assert jnp.all(found.factor[:, 3:] == 0)


def naive_compress(level, block, number, size, X, kernel, halving, delta, depth):
    """The recursion of the paper: compress four quarters, join, halve."""
    if level < 0:
        return block
    quarters = [
        naive_compress(level - 1, part, 4 * number + i, size, X, kernel, halving, delta, depth)
        for i, part in enumerate(np.split(block, 4))
    ]
    joined = jnp.asarray(np.concatenate(quarters))
    key = jax.random.fold_in(jax.random.fold_in(halving, level), number)
    share = delta / 2 * len(joined) ** 2 / (4 * depth * size**2 * 4**depth)
    return np.asarray(_kernel._halve(key, X, joined, kernel, share))


def test_compress_is_the_recursion():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(200, 2)), jnp.float32)
    kernel = js.select.GaussianKernel(1.0)
    order, halving, last = jax.random.split(KEY, 3)
    block = np.asarray(jax.random.permutation(order, 200))[: 12 * 16]
    few = naive_compress(1, block, 0, 12, x, kernel, halving, 0.4, 2)
    assert len(few) == 48
    index = jnp.arange(48)
    index = np.asarray(_kernel._halve(jax.random.fold_in(last, 0), x[few], index, kernel, 0.2))
    subset = js.select.compress(KEY, x, 3, oversample=1, kernel=kernel, delta=0.4, swap=False)
    assert subset.index.tolist() == few[index].tolist()
    np.testing.assert_allclose(subset.weight, 200 / 24)


def test_compress_to_no_depth_is_thinning():
    a, b = js.select.compress(KEY, X, 2, oversample=2), js.select.thinning(KEY, X, 2)
    assert a.index.tolist() == b.index.tolist()


def test_compress_is_nearly_as_good_as_thinning_and_better_than_chance():
    """4,096 rows to 64: the kernel error against thinning's and a random subset's."""
    x = jax.random.normal(KEY, (4096, 2))
    keys = jax.random.split(jax.random.key(3), 3)
    error = lambda subset: float(js.select.kernel_error(x, subset))
    random = error(js.select.Subset(jnp.arange(64), jnp.ones(64), jnp.ones(64, bool)))
    ours, plain = (np.mean([error(js.select.compress(key, x, 6, swap=s)) for key in keys]) for s in (True, False))
    assert ours < 1.5 * error(js.select.thinning(keys[0], x, 6))
    assert ours < 0.3 * random
    assert plain < 0.8 * random
