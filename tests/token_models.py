"""Token models whose laws are known: joints by enumeration, with exact conditionals, and a small network for the laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np


def joint(length, vocabulary, seed=0, sharpness=1.5):
    """Probabilities [V, ..., V] of a random joint law of a text, float64."""
    weights = np.exp(sharpness * np.random.default_rng(seed).normal(size=(vocabulary,) * length))
    return weights / weights.sum()


def texts(length, vocabulary):
    """All texts [V^L, L], in the order of `joint(...).ravel()`."""
    return np.array(list(itertools.product(range(vocabulary), repeat=length)))


def exact_model(probs):
    """The network with the exact conditionals of a joint law; the mask is `V`. Logits are log p(x_l | known sites)."""
    length, vocabulary = probs.ndim, probs.shape[0]
    table = jnp.asarray(texts(length, vocabulary))
    flat = jnp.asarray(probs.ravel(), jnp.float32)
    return jax.tree_util.Partial(_conditionals, flat, table, jnp.eye(vocabulary, dtype=jnp.float32))


def _conditionals(flat, table, one_hot, x, t):
    known = x < one_hot.shape[0]
    agrees = jnp.all((table == x[None]) | ~known[None], 1)
    weight = jnp.where(agrees, flat, 0)
    return jnp.log(jnp.einsum("n,nlv->lv", weight, one_hot[table], precision="highest"))


def frequencies(x, vocabulary):
    """Empirical law of texts x [n, L], as `joint(...).ravel()`."""
    x = np.asarray(x)
    code = np.ravel_multi_index(tuple(x.T), (vocabulary,) * x.shape[1])
    return np.bincount(code, minlength=vocabulary ** x.shape[1]) / len(x)


def assert_law(x, probs, chance=1e-4):
    """A chi-squared test of texts x [n, L] against their exact law, with a false alarm rarer than `chance`."""
    from scipy import stats

    expected = probs.ravel() * len(x)
    seen = frequencies(x, probs.shape[0]) * len(x)
    assert np.all(seen[expected == 0] == 0)
    rare = expected < 10  # merged, as the test's approximation wants
    seen = np.append(seen[~rare], seen[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    pvalue = stats.chisquare(seen[keep], expected[keep]).pvalue
    assert pvalue > chance, f"chi-squared p-value {pvalue:.2g}"


def network(weights, x, t):
    """A smooth stand-in for a network: each token's row, the mean of the text, and the time."""
    rows = weights["rows"][x]
    return rows + jnp.mean(rows, 0, keepdims=True) * weights["mix"] + jnp.cos(t) * weights["bias"]


def random_network(vocabulary=5, seed=1):
    """The stand-in with random weights, as a tree; the mask is `vocabulary`."""
    rng = np.random.default_rng(seed)
    weights = {
        "rows": jnp.asarray(rng.normal(size=(vocabulary + 1, vocabulary)), jnp.float32),
        "mix": jnp.float32(0.7),
        "bias": jnp.asarray(rng.normal(size=(1, vocabulary)), jnp.float32),
    }
    return jax.tree_util.Partial(network, weights)


def markov_step(table, carry, token):
    """An autoregressive model without memory: logits are a row of the table."""
    return carry, table[token]


def markov(vocabulary=5, seed=2, sharpness=1.0):
    """A random Markov chain as a step, with its transition probabilities."""
    logits = sharpness * np.random.default_rng(seed).normal(size=(vocabulary, vocabulary))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return jax.tree_util.Partial(markov_step, jnp.asarray(logits, jnp.float32)), probs


def chain_law(probs, num, start=0):
    """Joint law [V, ..., V] of the next `num` tokens of a Markov chain."""
    law = probs[start]
    for _ in range(num - 1):
        law = law[..., None] * probs
    return law
