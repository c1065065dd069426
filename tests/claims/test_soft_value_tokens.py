"""Li et al., "Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft Value-Based Decoding", 2024,
arXiv:2408.08252: the discrete half.

Claim: keeping one of M children by the value of the predicted text gives higher rewards than the best of M texts of the
model, at the same number of network calls. Here on texts of 20 letters, with exact independent posteriors and the number
of occurrences of a motif as reward.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

T = js.tokens
LETTERS, LENGTH, CHILDREN, RUNS = 4, 20, 10, 200
MOTIF = jnp.array([0, 1, 2])
FREQUENCIES = jnp.array([0.4, 0.2, 0.2, 0.2])


def reward(x0):
    """How often the motif occurs in each text [P, L]."""
    windows = jnp.stack([x0[:, i : LENGTH - 2 + i] for i in range(3)], -1)
    return jnp.sum(jnp.all(windows == MOTIF[None, None], -1), -1).astype(jnp.float32)


def model(x, t):
    return jnp.broadcast_to(jnp.log(FREQUENCIES)[None], (x.shape[0], LETTERS))


def rewards(steer):
    """Best reward of each of many runs of `CHILDREN` texts."""
    process, x = T.Masked(LETTERS), jnp.full((CHILDREN, LENGTH), LETTERS)
    table = T.ancestral(process, np.linspace(1, 0, 21))

    def one(key):
        result = T.decode(key, model, x, table, steer=steer)
        return jnp.max(reward(jnp.atleast_2d(result.x))), jnp.mean(reward(jnp.atleast_2d(result.x)))

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(17), RUNS)))


def value(x, prediction, info):
    """The posterior mean of the reward: of the known letters, with the rest drawn by frequency."""
    probs = jnp.where(x[..., None] < LETTERS, jax.nn.one_hot(x, LETTERS), FREQUENCIES)
    parts = [probs[:, i : LENGTH - 2 + i, MOTIF[i]] for i in range(3)]
    return jnp.sum(parts[0] * parts[1] * parts[2], -1)


def test_soft_values_beat_the_best_of_as_many_texts():
    best_of, base = rewards(None)
    soft, _ = rewards(js.steer.SoftValue(value, reward, temperature=0.1))
    cold, _ = rewards(js.steer.SoftValue(value, reward, temperature=0.0))
    assert abs(base.mean() - 18 * 0.4 * 0.2 * 0.2) < 0.05
    assert np.quantile(soft, 0.5) > np.quantile(best_of, 0.9) >= np.quantile(best_of, 0.5) > base.mean()
    assert soft.mean() > 1.5 * best_of.mean()
    assert cold.mean() >= soft.mean() - 0.2
