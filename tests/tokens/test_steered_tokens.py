"""Steers on populations of tokens: exact tilts by enumeration, neutral hooks, edits, reordering of orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from token_models import assert_law, exact_model, frequencies, joint, random_network, texts

import jsamp as js

T = js.tokens
K0, K1 = jax.random.split(jax.random.key(14))
LAW = joint(3, 3, seed=6, sharpness=1.0)
MODEL, PROCESS = exact_model(LAW), T.Masked(3)
REWARD = jnp.array([0.0, 1.0, -0.5])


def reward(x0):
    """Of each text [P, 3]: worth of its tokens, and a bonus for equal neighbours."""
    return jnp.sum(REWARD[x0], -1) + 0.8 * (x0[:, 0] == x0[:, 1])


def tilted(temperature=1.0):
    """p exp(reward / temperature), and its normaliser, by enumeration."""
    value = np.asarray(reward(jnp.asarray(texts(3, 3))), np.float64).reshape(LAW.shape)
    law = LAW * np.exp(value / temperature)
    return law / law.sum(), law.sum()


TABLES = {
    "first_hitting": lambda x: T.first_hitting(K0, PROCESS, x),
    "one order": lambda x: T.first_hitting(K0, PROCESS, x[0], order=2, groups=(1, 1, 1)),
    "ancestral": lambda x: T.ancestral(PROCESS, np.linspace(1, 0, 9)),
    "confidence": lambda x: T.confidence(PROCESS, 3, temperature=1.0),
}


@pytest.mark.parametrize("name", TABLES)
def test_neutral_hooks_change_nothing(name):
    x = jnp.full((16, 3), 3)
    table = TABLES[name](x)
    plain, hooked = (T.decode(K1, MODEL, x, table, steer=s) for s in (None, js.steer.Hooks()))
    assert bool(jnp.all(plain.x == hooked.x))
    assert bool(jnp.all(plain.info.log_prob == hooked.info.log_prob))
    assert int(hooked.info.calls) == table.nfe


def test_neutral_hooks_change_nothing_in_a_chain_without_masks():
    rates = lambda x, t, logits: 3 * jax.nn.softmax(logits)
    table, x = T.tau_leap(rates, np.linspace(1, 0, 5)), jnp.zeros((16, 3), int)
    plain, hooked = (T.decode(K1, random_network(3), x, table, steer=s) for s in (None, js.steer.Hooks()))
    assert bool(jnp.all(plain.x == hooked.x))
    assert len(np.unique(plain.x)) == 3


@pytest.mark.parametrize("name", ["first_hitting", "one order"])
def test_smc_draws_the_tilted_law_with_its_evidence(name):
    """Weighted particles of many runs, against enumeration, for texts with orders of their own and with one order."""
    steer = js.steer.SMC(lambda x, p, info: reward(p.x0), reward)
    x = jnp.full((64, 3), 3)

    def one(key):
        k0, k1 = jax.random.split(key)
        table = T.first_hitting(k0, PROCESS, x if name == "first_hitting" else x[0])
        result = T.decode(k1, MODEL, x, table, steer=steer)
        report = result.info.report
        return result.x, report.log_weight, report.resampled

    text, log_weight, resampled = jax.jit(jax.vmap(one))(jax.random.split(K0, 300))
    law, total = tilted()
    assert float(jnp.mean(resampled)) > 0.3
    evidence = np.exp(np.asarray(log_weight, np.float64)).mean(1)
    assert abs(evidence.mean() - total) < 4.5 * evidence.std() / np.sqrt(300)
    # Weights exp(log_weight) of all particles estimate p exp(reward) without bias, text by text.
    code = np.ravel_multi_index(tuple(np.moveaxis(np.asarray(text), -1, 0)), LAW.shape)
    weight = np.exp(np.asarray(log_weight, np.float64))
    found = np.stack([np.bincount(c, w, minlength=27) / 64 for c, w in zip(code, weight, strict=True)])
    noise = found.std(0) / np.sqrt(300)
    assert np.all(np.abs(found.mean(0) - law.ravel() * total) < 5 * noise + 1e-3)


def exact_value(x, temperature):
    """The soft value temperature log E[exp(reward / temperature) | x] of partly masked texts, by enumeration."""
    table, flat = jnp.asarray(texts(3, 3)), jnp.asarray(LAW.ravel(), jnp.float32)
    gain = jnp.exp(reward(table) / temperature)

    def one(x):
        agrees = jnp.all((table == x[None]) | (x >= 3)[None], 1)
        weight = jnp.where(agrees, flat, 0)
        return temperature * jnp.log(jnp.sum(weight * gain) / jnp.sum(weight))

    return jax.vmap(one)(x)


def soft_value_texts(num, temperature):
    """One text of each of many groups of `num` children."""
    steer = js.steer.SoftValue(
        lambda x, p, info: exact_value(x, temperature), lambda x: reward(x), temperature=temperature
    )
    x = jnp.full((num, 3), 3)

    def one(key):
        k0, k1 = jax.random.split(key)
        return T.decode(k1, MODEL, x, T.first_hitting(k0, PROCESS, x), steer=steer).x

    return jax.jit(jax.vmap(one))(jax.random.split(K0, 4000))


def test_soft_values_draw_the_tilted_law_as_children_grow():
    """With the exact value the error falls with the number of children."""
    law = tilted(0.5)[0].ravel()
    errors = [0.5 * np.abs(frequencies(soft_value_texts(num, 0.5), 3) - law).sum() for num in (1, 4, 32)]
    assert errors[0] > 0.25
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.07  # 0.03 of it is noise


def test_one_child_is_the_model():
    assert_law(soft_value_texts(1, 0.5), LAW)


def test_values_that_are_not_numbers_are_flagged():
    steer = js.steer.SoftValue(lambda x, p, info: jnp.full(x.shape[0], jnp.nan))
    x = jnp.full((4, 3), 3)
    result = T.decode(K1, MODEL, x, T.first_hitting(K0, PROCESS, x), steer=steer)
    assert not bool(result.info.ok)


@js.pytree
class Pin(js.steer.Hooks):
    """Writes a token into a text after each row."""

    token: int = 2

    def post(self, key, g, x, info):
        """Site 0 is pinned."""
        return g, x.at[..., 0].set(self.token), False


@pytest.mark.parametrize("name", TABLES)
def test_a_steer_may_edit_the_text(name):
    x = jnp.full((8, 3), 3)
    result = T.decode(K1, random_network(3), x, TABLES[name](x), steer=Pin())
    assert bool(jnp.all(result.x[:, 0] == 2))
    assert bool(result.info.ok)


def test_steers_that_want_gaussian_noise_are_refused():
    x = jnp.full((8, 3), 3)
    with pytest.raises(TypeError, match="a twist is for plans of Gaussian noise"):
        T.decode(K1, MODEL, x, TABLES["one order"](x), steer=js.steer.SMC(None, reward))
