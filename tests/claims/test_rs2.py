"""Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import select


def accuracy(key, X, y, test_X, test_y, index):
    """A small network, one gradient step per epoch-half on the given rows."""
    k1, k2 = jax.random.split(key)
    params = (jax.random.normal(k1, (64, 32)) / 8, jnp.zeros(32), jax.random.normal(k2, (32, 10)) / 6, jnp.zeros(10))

    def logits(params, x):
        a, b, c, d = params
        return jax.nn.relu(x @ a + b[None]) @ c + d[None]

    def loss(params, rows):
        return -jnp.mean(jax.nn.log_softmax(logits(params, X[rows]))[jnp.arange(rows.shape[0]), y[rows]])

    def step(state, rows):
        params, speed = state
        grads = jax.grad(loss)(params, rows)
        speed = jax.tree.map(lambda v, g: 0.9 * v - 0.1 * g, speed, grads)
        return (jax.tree.map(jnp.add, params, speed), speed), None

    start = (params, jax.tree.map(jnp.zeros_like, params))
    (params, _), _ = jax.lax.scan(step, start, jnp.repeat(index, 2, 0))
    return jnp.mean(jnp.argmax(logits(params, test_X), 1) == test_y)


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_fresh_subsets_beat_one_static_subset_at_equal_cost(share):
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = jnp.asarray(X[order] / 16, jnp.float32), jnp.asarray(y[order])
    data = (X[:1200], y[:1200], X[1200:], y[1200:])
    num = round(share * 1200)
    run = jax.jit(jax.vmap(lambda k, i: accuracy(k, *data, i)))
    keys = jax.random.split(jax.random.key(1), 6)
    static = jax.vmap(lambda k: jnp.tile(select.repeated_subsets(k, 1200, num, 1), (60, 1)))(keys)
    fresh = jax.vmap(lambda k: select.repeated_subsets(k, 1200, num, 60))(keys)
    gain = np.asarray(run(keys, fresh) - run(keys, static), np.float64)
    assert gain.mean() > 0.03
    assert gain.min() > 0
