"""Autoregressive texts against Markov chains: their law, speculation, transforms of logits, guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from token_models import assert_law, chain_law, exact_model, joint, markov

import jsamp as js

T = js.tokens
K0, K1 = jax.random.split(jax.random.key(12))
NUM = 20_000
KEYS = jax.random.split(K0, NUM)
TARGET, P = markov(3, seed=2, sharpness=1.2)
DRAFT, Q = markov(3, seed=7, sharpness=1.2)


def test_generate_draws_the_law_of_the_chain():
    run = jax.jit(jax.vmap(lambda key: T.generate(key, TARGET, (), 3, prompt=1)))
    result = run(KEYS)
    assert_law(result.x, chain_law(P, 3, start=1))
    path = np.concatenate([np.ones((NUM, 1), int), np.asarray(result.x)], 1)
    np.testing.assert_allclose(result.info.log_prob, np.log(P[path[:, :-1], path[:, 1:]]), rtol=1e-4, atol=1e-5)


def test_a_prompt_is_read_and_the_carry_goes_on():
    """A model that counts: the carry has seen the whole prompt, and continues a text where it ended."""
    step = lambda seen, token: (seen + 1, jnp.where(jnp.arange(12) == seen, 0.0, -jnp.inf))
    first = T.generate(K1, step, jnp.int32(0), 3, prompt=jnp.array([0, 0, 0, 0]))
    assert first.x.tolist() == [3, 4, 5]
    more = T.generate(K1, step, first.info.carry, 2, prompt=first.x[-1])
    assert more.x.tolist() == [6, 7]


def test_stop_ends_the_text():
    step = lambda carry, token: (carry, jnp.where(jnp.arange(4) == jnp.minimum(token + 1, 3), 0.0, -jnp.inf))
    result = T.generate(K1, step, (), 6, stop=2)
    assert result.x.tolist() == [1, 2, 2, 2, 2, 2]
    assert int(result.info.length) == 2
    assert float(jnp.abs(result.info.log_prob[2:]).max()) == 0


def test_bad_logits_are_flagged():
    for value in (jnp.nan, -jnp.inf):
        broken = lambda carry, token, v=value: (carry, jnp.full(3, v))
        assert not bool(T.generate(K1, broken, (), 2).info.ok)
        mark = T.Exponential(K0, 8, 3)
        assert not bool(T.generate(K1, broken, (), 2, mark=mark).info.ok)
        assert not bool(T.speculative(K1, broken, broken, ((), ()), 2).info.ok)


@pytest.mark.parametrize("ahead", [1, 3])
def test_speculation_draws_the_target_exactly(ahead):
    run = lambda key: T.speculative(key, DRAFT, TARGET, ((), ()), 3, ahead=ahead, prompt=1)
    assert_law(jax.jit(jax.vmap(run))(KEYS).x, chain_law(P, 3, start=1))


def test_acceptance_is_one_minus_total_variation():
    """Without memory, p and q at every place: acceptance 1 - TV, and (1 - a^(K+1)) / (1 - a) tokens a call."""
    p, q = P[0], Q[0]
    fixed = lambda row: lambda carry, token: (carry, jnp.log(jnp.asarray(row, jnp.float32)))
    result = T.speculative(K1, fixed(q), fixed(p), ((), ()), 20_000, ahead=3)
    a = 1 - 0.5 * np.abs(p - q).sum()
    assert 0.3 < a < 0.9
    noise = 4.5 * np.sqrt(a * (1 - a) / int(result.info.tested))
    assert abs(float(result.info.accept) - a) < noise
    per_call = 20_000 / int(result.info.calls)
    assert abs(per_call - (1 - a**4) / (1 - a)) < 0.05
    assert_law(result.x[:, None], p)


def test_speculation_carries_are_rolled_back():
    """A target with memory: its carry is the number of tokens read, whatever was refused."""

    def step(seen, token):
        logits = jnp.where(jnp.arange(5) == seen % 5, 3.0, 0.0)
        return seen + 1, logits

    draft = lambda seen, token: (seen + 1, jnp.zeros(5))
    run = lambda key: T.speculative(key, draft, step, (jnp.int32(0), jnp.int32(0)), 3, ahead=2)
    law = np.ones(())
    for place in range(3):
        p = np.exp(np.where(np.arange(5) == place, 3.0, 0.0))
        law = np.multiply.outer(law, p / p.sum())
    assert_law(jax.jit(jax.vmap(run))(KEYS).x, law)


class Block:
    """A target that reads several tokens in one call, and counts its calls while it is traced."""

    def __init__(self, table):
        self.table, self.blocks = table, 0

    def __call__(self, carry, token):
        return carry, self.table[token]

    def block(self, carry, tokens):
        """Logits after each token, in one call."""
        self.blocks += 1
        return carry, self.table[tokens]


jax.tree_util.register_pytree_node(Block, lambda b: ((b.table,), None), lambda _, leaves: Block(*leaves))


def test_a_target_may_read_a_block_at_once():
    block = Block(jnp.log(jnp.asarray(P, jnp.float32)))
    plain = lambda carry, token: (carry, block.table[token])
    one, other = (T.speculative(K1, DRAFT, target, ((), ()), 40, ahead=3) for target in (block, plain))
    assert one.x.tolist() == other.x.tolist()


def test_speculation_with_transforms_draws_the_transformed_target():
    """Repetition reads the text so far, the drafted part with it."""
    rule = (T.temperature(0.8), T.repetition(2.0))
    target = jnp.asarray([0.9, 0.4, -0.3])
    step = lambda carry, token: (carry, target)
    draft = lambda carry, token: (carry, jnp.array([0.0, 0.5, 0.5]))
    run = lambda key: T.speculative(key, draft, step, ((), ()), 3, ahead=2, transform=rule)
    law = np.zeros((3, 3, 3))
    for path in np.ndindex(3, 3, 3):
        weight = 1.0
        for place in range(3):
            logits = np.array([0.9, 0.4, -0.3]) / 0.8
            seen = np.isin(np.arange(3), path[:place])
            logits = np.where(seen, np.where(logits > 0, logits / 2, logits * 2), logits)
            p = np.exp(logits) / np.exp(logits).sum()
            weight *= p[path[place]]
        law[path] = weight
    assert_law(jax.jit(jax.vmap(run))(KEYS).x, law)
    plain = lambda key: T.generate(key, step, (), 3, transform=rule)
    assert_law(jax.jit(jax.vmap(plain))(KEYS).x, law)


# ------------------------------------------------------------------- transforms


PROBS = np.array([0.4, 0.3, 0.2, 0.1])
LOGITS = jnp.log(jnp.asarray(PROBS, jnp.float32)) + 2.0


def support(transform, logits=LOGITS):
    return (np.asarray(transform(logits)) > -np.inf).tolist()


@pytest.mark.parametrize(("transform", "kept"), [
    (T.top_k(2), 2), (T.top_k(9), 4), (T.top_p(0.39), 1), (T.top_p(0.41), 2), (T.top_p(0.71), 3), (T.top_p(1.0), 4),
    (T.min_p(0.6), 2), (T.min_p(0.2), 4), (T.min_p(1.0), 1), (T.temperature(0.0), 1),
])  # fmt: skip
def test_what_is_kept(transform, kept):
    assert support(transform) == [True] * kept + [False] * (4 - kept)
    order = jnp.array([2, 0, 3, 1])
    assert support(transform, LOGITS[order]) == [int(i) < kept for i in order]


def test_typical_keeps_what_is_near_the_entropy():
    entropy = -(PROBS * np.log(PROBS)).sum()
    order = np.argsort(np.abs(-np.log(PROBS) - entropy))
    for p, count in ((0.2, 1), (0.35, 2), (0.7, 3), (0.999, 4)):
        cumulative = np.cumsum(PROBS[order])
        assert np.searchsorted(cumulative, p) + 1 == count
        assert np.flatnonzero(support(T.typical(p))).tolist() == sorted(order[:count].tolist())


def test_equal_logits_keep_exactly_k():
    assert support(T.top_k(2), jnp.zeros(5)) == [True, True, False, False, False]
    assert np.asarray(T.temperature(0.0)(jnp.zeros(3))).tolist() == [0.0, -np.inf, -np.inf]


def test_transforms_compose_from_left_to_right():
    """Temperature before the nucleus changes the nucleus; after it, it does not."""
    step = lambda carry, token: (carry, LOGITS)
    cold, nucleus = T.temperature(0.25), T.top_p(0.6)
    run = lambda rule: np.unique(jax.vmap(lambda k: T.generate(k, step, (), 1, transform=rule).x)(KEYS[:2000]))
    assert run((cold, nucleus)).tolist() == [0]
    assert run((nucleus, cold)).tolist() == [0, 1]


def test_a_user_function_is_a_transform():
    ban = jnp.array([True, False, False, False])
    step = lambda carry, token: (carry, LOGITS)
    draws = jax.vmap(lambda k: T.generate(k, step, (), 1, transform=lambda l: jnp.where(ban, -jnp.inf, l)).x)(KEYS)
    assert_law(draws, np.array([0.0, 0.3, 0.2, 0.1]) / 0.6)


def test_a_hot_temperature_forbids_what_was_forbidden():
    assert T.temperature(1e38)(jnp.array([1.0, -jnp.inf])).tolist()[1] == -np.inf


def test_repetition_in_decoding_sees_the_text():
    """A penalty that forbids what has occurred: a text of distinct tokens."""
    model = lambda x, t: jnp.full((4, 4), -1.0)
    x = jnp.full((500, 4), 4)
    table = T.first_hitting(K0, T.Masked(4), x)
    text = T.decode(K1, model, x, table, transform=T.repetition(1e6)).x
    assert bool(jnp.all(jnp.sort(text, 1) == jnp.arange(4)[None]))


# ------------------------------------------------------------------- guidance


def test_classifier_free_guidance_mixes_log_probabilities():
    c, u = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])
    flat = lambda p: lambda x, t: jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32))[None], (x.shape[0], 3))
    for scale in (0.0, 1.0, 2.5):
        mixed = c**scale * u ** (1 - scale)
        x = jnp.full((20_000, 1), 3)
        model = T.ClassifierFree(flat(c), flat(u), scale)
        text = T.decode(K1, model, x, T.first_hitting(K0, T.Masked(3), x)).x
        assert_law(text, mixed / mixed.sum())
    forbidden = T.ClassifierFree(flat([0.5, 0.5, 0.0]), flat(u), 2.0)(jnp.array([3]), 0.5)
    assert np.asarray(forbidden)[0, 2] == -np.inf
    assert np.all(np.isfinite(np.asarray(forbidden)[0, :2]))


def test_a_reward_that_adds_up_over_sites_is_an_exact_tilt():
    """p exp(scale r) for independent sites, with a prompt; the reward is of one token at two sites."""
    probs = np.einsum("i,j,k->ijk", *[np.array([0.5, 0.3, 0.2])] * 3)
    weights = jnp.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 2.0]])
    model = T.Reward(exact_model(probs), lambda soft: jnp.sum(weights * soft), 1.5)
    x = jnp.full((20_000, 3), 3).at[:, 0].set(2)
    text = T.decode(K1, model, x, T.first_hitting(K0, T.Masked(3), x)).x
    tilt = [np.array([0.5, 0.3, 0.2]) * np.exp(1.5 * np.asarray(weights[i])) for i in (1, 2)]
    assert_law(text[:, 1:], np.outer(tilt[0] / tilt[0].sum(), tilt[1] / tilt[1].sum()))


def test_a_reward_without_a_slope_at_a_forbidden_token_leaves_it_forbidden():
    model = T.exclude(lambda x, t: jnp.zeros((1, 3)), 2)
    guided = T.Reward(model, lambda soft: jnp.sum(jnp.log(soft) * jnp.array([[0.5, 0.0, 1.0]])))
    np.testing.assert_allclose(jax.nn.softmax(guided(jnp.array([3]), 1.0))[0], [np.e / (1 + np.e), 1 / (1 + np.e), 0])


def test_a_nonlinear_reward_is_tilted_to_first_order():
    """The slope at the model's own word, clean sites as they are: a formula in numpy."""
    law = joint(2, 3, seed=4)
    model = T.Reward(exact_model(law), lambda soft: jnp.sum(soft[:, 0]) ** 2, 0.7)
    x = jnp.array([0, 3])
    p = law[0] / law[0].sum()
    tilted = p * np.exp(0.7 * 2 * (1 + p[0]) * np.array([1.0, 0.0, 0.0]))
    found = jax.nn.softmax(model(x, 0.5)[1])
    np.testing.assert_allclose(found, tilted / tilted.sum(), rtol=1e-4)
