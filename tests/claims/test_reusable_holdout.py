"""The reusable holdout: a classifier chosen by its holdout does not overfit it (Dwork et al. 2015)."""

import jax
import jax.numpy as jnp
import numpy as np

from jsamp import estimate

ROWS, FEATURES, CHOSEN = 1000, 1000, 100


def analyst(key, reuse):
    """Pick features whose correlations agree on both sets, vote with their signs; return holdout and fresh accuracy."""
    keys = jax.random.split(key, 4)
    sets = [
        (jax.random.normal(k, (ROWS, FEATURES)), jax.random.rademacher(jax.random.fold_in(k, 1), (ROWS,), jnp.float32))
        for k in keys[:3]
    ]
    (x, y), (hx, hy), (fx, fy) = sets
    mechanism = estimate.Thresholdout(
        threshold=4 / np.sqrt(ROWS), sigma=1 / np.sqrt(ROWS), budget=10_000, noise="gaussian"
    )
    state = mechanism.init(keys[3])

    def ask(state, query, train, holdout):
        """Numbers in [0, 1] go through the mechanism; plainly, the holdout's mean comes back."""
        if not reuse:
            return state, jnp.mean(holdout)
        state, answer = mechanism.answer(jax.random.fold_in(keys[3], query), state, train, holdout)
        return state, answer.value

    def feature(state, j):
        """The share of rows on which the feature's sign is the label's."""
        train, holdout = (x[:, j] * y > 0).astype(jnp.float32), (hx[:, j] * hy > 0).astype(jnp.float32)
        state, share = ask(state, j, train, holdout)
        return state, (jnp.mean(train) - 0.5, share - 0.5)

    state, (ours, theirs) = jax.lax.scan(feature, state, jnp.arange(FEATURES))
    good = jnp.where(jnp.sign(ours) == jnp.sign(theirs), jnp.minimum(jnp.abs(ours), jnp.abs(theirs)), -1.0)
    pick = jax.lax.top_k(good, CHOSEN)[1]
    vote = lambda x, y: (jnp.sum(x[:, pick] * jnp.sign(ours[pick])[None], 1) * y > 0).astype(jnp.float32)
    _, claimed = ask(state, FEATURES, vote(x, y), vote(hx, hy))
    return claimed, jnp.mean(vote(fx, fy))


def test_noise_stays_noise():
    """Pure noise: the plain holdout claims .64, the mechanism .51; fresh data say .5."""
    keys = jax.random.split(jax.random.key(0), 12)
    plain, fresh = np.asarray(jax.lax.map(lambda k: analyst(k, False), keys))
    safe, other = np.asarray(jax.lax.map(lambda k: analyst(k, True), keys))
    assert plain.mean() > 0.61
    assert abs(fresh.mean() - 0.5) < 0.02
    assert abs(other.mean() - 0.5) < 0.02
    assert abs(safe.mean() - 0.5) < 0.045
    assert plain.mean() - safe.mean() > 0.08
