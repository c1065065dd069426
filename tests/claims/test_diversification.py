"""Benoit et al., "Unraveling the Key Components of OOD Generalization via Diversification", 2023, arXiv:2312.16313.

Claim: what a second hypothesis learns depends on the unlabelled data. Two features agree on all labelled data; they
agree on a share r of the unlabelled. D-BAT finds the other feature at r = 0, where DivDis fails; DivDis at r = 1/2, where
D-BAT's own criterion is not met: it must pay for every row on which the right hypotheses agree. (With linear heads it
still finds the feature there, having no better way out.)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsamp as js

KEY = jax.random.key(0)
ADAM = optax.adam(0.05)


def rows(r, num=400):
    """Two signs with a little noise, which agree on a share r."""
    rng = np.random.default_rng(1)
    first = np.tile([1.0, -1.0], num // 2)
    second = first * np.where(np.arange(num) // 2 < r * num / 2, 1, -1)
    return jnp.asarray(np.stack([first, second], 1) + 0.1 * rng.normal(size=(num, 2)), jnp.float32)


SOURCE, TEST = rows(1.0), rows(0.5)
LABEL = (SOURCE[:, 0] > 0).astype(jnp.int32)


def linear(w, x):
    """Logits of one head, or of several."""
    score = jnp.sum(w * jnp.broadcast_to(x, w.shape), axis=-1)
    return jnp.stack([-score, score], axis=-1)


def accuracy(score, feature):
    return float(np.mean((np.asarray(score) > 0) == (np.asarray(TEST[:, feature]) > 0)))


def divdis(r):
    """The worse head's accuracy on its own feature, for the better assignment."""
    data = (SOURCE, LABEL, rows(r))
    start = jax.tree_util.Partial(linear, jnp.array([[0.4, 0.1], [0.2, 0.5]]))
    model = js.fit.minimise(KEY, js.loss.DivDis(), start, lambda step: data, optimiser=ADAM, steps=300).x
    score = TEST @ model.args[0].T
    pairs = [(accuracy(score[:, a], 0), accuracy(score[:, b], 1)) for a, b in ((0, 1), (1, 0))]
    return max(map(min, pairs))


def dbat(r):
    """The new model's accuracy on the feature that the first one does not use, and the agreement left."""
    data = (SOURCE, LABEL, rows(r))
    first = jax.tree_util.Partial(linear, jnp.array([4.0, 0.0]))
    start = jax.tree_util.Partial(linear, jnp.array([0.3, 0.2]))
    model = js.fit.minimise(KEY, js.loss.DBAT(), (start, first), lambda step: data, optimiser=ADAM, steps=300).x
    np.testing.assert_array_equal(model[1].args[0], first.args[0])
    paid = js.loss.DBAT()(None, model, data)[1].parts["agreement"]
    return accuracy(TEST @ model[0].args[0], 1), float(paid)


@pytest.fixture(scope="module")
def found():
    return {(f.__name__, r): f(r) for f in (divdis, dbat) for r in (0.0, 0.5)}


def test_each_is_best_at_its_own_share(found):
    assert found["dbat", 0.0][0] > 0.95 and found["divdis", 0.5] > 0.95
    assert found["dbat", 0.5][1] > 10 * found["dbat", 0.0][1]
    assert found["divdis", 0.0] < found["divdis", 0.5] - 0.2
