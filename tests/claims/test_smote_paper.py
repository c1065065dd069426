"""Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique"."""

import jax
import jax.numpy as jnp
import numpy as np

from jsamp import select


def test_covariance_shrinks_by_two_thirds_with_all_neighbours():
    n, num = 30, 100_000
    X = np.float32(np.random.default_rng(0).normal(size=(n, 2)) @ np.array([[1.0, 0.4], [0, 2.0]]))
    new = np.asarray(select.smote(jax.random.key(0), X, np.arange(n), num, k=n - 1).x, np.float64)
    law = (2 / 3 - 1 / (3 * (n - 1))) * np.cov(X.T)
    np.testing.assert_allclose(np.cov(new.T), law, rtol=0.03, atol=0.03)  # five standard errors
    np.testing.assert_allclose(new.mean(0), X.mean(0), atol=0.03)


def test_gaps_are_uniform_and_covariance_shrinks_with_the_neighbourhood():
    X = np.float32(np.random.default_rng(0).normal(size=(400, 3)))
    shrink = []
    for k in (1, 5, 20, 100):
        new = select.smote(jax.random.key(k), X, np.arange(400), 20_000, k=k)
        shrink.append(np.trace(np.cov(np.asarray(new.x).T)) / np.trace(np.cov(X.T)))
    np.testing.assert_allclose(shrink, [0.94, 0.90, 0.84, 0.73], atol=0.03)
    start, end = X[np.asarray(new.parent)], X[np.asarray(new.neighbor)]
    u = np.sort(((np.asarray(new.x) - start) * (end - start)).sum(1) / ((end - start) ** 2).sum(1))
    assert np.abs(u - (np.arange(20_000) + 0.5) / 20_000).max() < 2.3 / np.sqrt(20_000)  # Kolmogorov: p = 5e-5


def logistic(X, y, steps=300):
    Z = jnp.c_[X, jnp.ones(len(X))]

    def loss(w):
        return jnp.mean(jnp.logaddexp(0, -(2 * y - 1) * (Z @ w))) + 1e-3 * jnp.vdot(w, w)

    w, _ = jax.lax.scan(lambda w, _: (w - 0.5 * jax.grad(loss)(w), None), jnp.zeros(Z.shape[1]), None, length=steps)
    return np.asarray(w)


def test_recall_of_the_minority_rises():
    rng = np.random.default_rng(0)

    def blobs(n):
        minority = np.concatenate([rng.normal(size=(n // 40, 2)) * 0.6 + c for c in ([2.0, 1.0], [1.0, 2.5])])
        X = np.concatenate([rng.normal(size=(n - len(minority), 2)), minority])
        return np.float32(X), np.r_[np.zeros(n - len(minority), int), np.ones(len(minority), int)]

    X, y = blobs(800)
    test_X, test_y = blobs(4000)
    big, labels = select.oversample(jax.random.key(0), X, y)

    def recall(w):
        return ((np.c_[test_X, np.ones(len(test_X))] @ w > 0) & (test_y == 1)).sum() / test_y.sum()

    plain, better = recall(logistic(X, y)), recall(logistic(big, labels))
    assert better > plain + 0.1
