"""Model evaluation: the combined 5 x 2 F test keeps its level where the resampled t-test does not (arXiv:1811.12808)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate


def learner(features):
    """A linear rule on some of the columns; different columns are equally good by symmetry."""

    def fit_predict(key, X, y, weight):
        part = X[:, features]
        gram = (part * weight[:, None]).T @ part + 0.5 * jnp.eye(part.shape[1])
        return (part @ jnp.linalg.solve(gram, part.T @ (weight * (2.0 * y - 1))) > 0).astype(y.dtype)

    return fit_predict


FIRST, SECOND = learner(np.arange(0, 5)), learner(np.arange(5, 10))
ROWS = 120


def data(key):
    one, two = jax.random.split(key)
    X = jax.random.normal(one, (ROWS, 10))
    return X, (jnp.sum(X, 1) * 0.4 + jax.random.normal(two, (ROWS,)) > 0).astype(jnp.int32)


def scores(key, X, y, masks):
    both = [estimate.cross_validate(key, f, X, y, masks).folds for f in (FIRST, SECOND)]
    return both[0], both[1]


@pytest.mark.slow
def test_levels_of_two_tests():
    """Two equally good learners: rejections at 5% of the F test at most .06 (+ noise), of the resampled t above .10."""

    def once(key):
        keys = jax.random.split(key, 4)
        X, y = data(keys[0])
        a, b = scores(keys[1], X, y, estimate.kfold_masks(keys[1], 2, ROWS, repeats=5))
        combined = estimate.f_5x2cv((a - b).reshape(5, 2)).pvalue
        splits = jax.vmap(lambda k: estimate.kfold_masks(k, 3, ROWS)[0])(jax.random.split(keys[2], 20))
        a, b = scores(keys[3], X, y, splits)
        return combined, estimate.paired_t(a, b).pvalue, estimate.paired_t(a, b, test_ratio=0.5).pvalue

    p = np.asarray(jax.lax.map(once, jax.random.split(jax.random.key(0), 600), batch_size=10))
    combined, naive, corrected = np.mean(p < 0.05, 1)
    assert combined < 0.06 + 3 * np.sqrt(0.05 * 0.95 / 600)
    assert naive > 0.10
    assert corrected < naive / 2


def test_the_632_plus_rule_sees_through_memorising():
    """1-NN on random labels: .632 says about .316, .632+ about the truth .5; on separated classes both say about 0."""

    def nearest(key, X, y, weight):
        gap = jnp.sum((X[:, None] - X[None]) ** 2, -1) + jnp.where(weight[None] > 0, 0, jnp.inf)
        return y[jnp.argmin(gap, 1)]

    values = []
    for seed in range(4):
        X, y = jax.random.normal(jax.random.key(seed), (100, 6)), jnp.tile(jnp.array([0, 1]), 50)
        values.append(
            [f(jax.random.key(seed), nearest, X, y, 50).estimate.value for f in (estimate.err632, estimate.err632plus)]
        )
    plain, plus = np.mean(values, 0)
    assert abs(plain - 0.316) < 0.04
    assert abs(plus - 0.5) < 0.06
    apart = estimate.err632plus(jax.random.key(0), nearest, X + 20.0 * y[:, None], y, 50)
    assert float(apart.estimate.value) == 0
