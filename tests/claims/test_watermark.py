"""Kuditipudi et al., "Robust Distortion-free Watermarks for Language Models", 2023, arXiv:2307.15593.

Claims: the mark leaves the law of the text alone (tests/tokens); it is found with p <= 0.01 in 35 tokens after 40 to 50 %
of them were replaced; the edit statistic finds it after insertions and deletions, where the plain one fails; how strongly
it shows depends on the entropy of the model.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jsamp as js

T = js.tokens
K0, K1 = jax.random.split(jax.random.key(16))
VOCABULARY, TOKENS, LENGTH = 200, 35, 256
ZIPF = 1 / np.arange(1, VOCABULARY + 1)
ZIPF /= ZIPF.sum()


def signal(probs):
    """What each token says: sum_v p_v H(1/p_v) - 1."""
    return probs @ (special.digamma(1 + 1 / probs) + np.euler_gamma) - 1


def written(key, probs, num=TOKENS, Mark=T.Exponential):
    """A text of independent tokens with its mark, under keys of its own."""
    k0, k1 = jax.random.split(key)
    mark = Mark(k0, LENGTH, len(probs))
    step = jax.tree_util.Partial(lambda logits, carry, token: (carry, logits), jnp.log(jnp.asarray(probs, jnp.float32)))
    return mark, T.generate(k1, step, (), num, mark=mark).x


def replaced(key, text, share):
    """The text with exactly this share of its tokens drawn anew, uniformly."""
    k0, k1 = jax.random.split(key)
    places = jax.random.permutation(k0, text.shape[0])[: round(share * text.shape[0])]
    return text.at[places].set(jax.random.randint(k1, places.shape, 0, VOCABULARY))


def p_values(change, texts=6, **options):
    """p-values of several texts, changed."""

    def one(key):
        k0, k1, k2 = jax.random.split(key, 3)
        mark, text = written(k0, ZIPF)
        return T.detect(k2, change(k1, text), mark, **options).p_value

    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(K0, texts)))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.5])
def test_35_tokens_are_enough_after_substitutions(share):
    assert np.all(p_values(lambda key, text: replaced(key, text, share)) <= 0.01 + 1e-6)


def shifted(key, text):
    """Every eighth token is deleted, and a random one put in front of every second one of the rest."""
    kept = np.delete(np.arange(TOKENS), np.arange(0, TOKENS, 8))
    order = np.insert(kept, np.arange(0, len(kept), 2), -1)
    return jnp.where(order < 0, jax.random.randint(key, order.shape, 0, VOCABULARY), text[order])


def test_the_edit_statistic_finds_what_insertions_and_deletions_hide():
    plain = p_values(shifted, texts=12)
    edit = p_values(shifted, texts=4, edit=0.0, runs=49)
    assert np.all(edit <= 0.02 + 1e-6)
    assert np.mean(plain > 0.02) > 0.3


def test_power_falls_with_entropy():
    """A law of 1 nat says a quarter as much for each token, and one of 0.1 nat nearly nothing."""

    def p_of(probs):
        def one(key):
            k0, k1 = jax.random.split(key)
            mark, text = written(k0, probs, num=20)
            return T.detect(k1, text, mark).p_value

        return np.asarray(jax.lax.map(one, jax.random.split(K1, 12)))

    sharp = lambda power: ZIPF**power / (ZIPF**power).sum()
    laws = [sharp(p) for p in (1.0, 2.1, 6.0)]
    entropies = [-(p @ np.log(np.maximum(p, 1e-300))) for p in laws]
    assert abs(entropies[0] - 4.15) < 0.01
    assert signal(laws[0]) > 2.5
    assert entropies[1] < 1.6
    assert entropies[2] < 0.12
    assert signal(laws[0]) > 3 * signal(laws[1]) > 3 * signal(laws[2])
    found = [np.mean(p_of(p) <= 0.011) for p in laws]
    assert found[0] == 1.0
    assert found[2] < 0.4


def test_inverse_transform_marks_are_found_in_longer_texts():
    """The cheaper mark needs more tokens: 100 of them, 20 % replaced."""

    def one(key):
        k0, k1, k2 = jax.random.split(key, 3)
        mark, text = written(k0, ZIPF, num=100, Mark=T.InverseTransform)
        return T.detect(k2, replaced(k1, text, 0.2), mark).p_value

    assert np.all(np.asarray(jax.lax.map(one, jax.random.split(K0, 4))) <= 0.01 + 1e-6)
