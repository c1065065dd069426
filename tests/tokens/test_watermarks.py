"""Watermarks: the model's law over keys, the law of the costs, valid p-values, alignments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from token_models import assert_law

import jsamp as js
from jsamp.tokens._detect import _best, edit_cost
from jsamp.tokens._watermark import _exact_uniform, _times, _words

T = js.tokens
K0, K1 = jax.random.split(jax.random.key(13))
MARKS = [T.Exponential, T.InverseTransform]
PROBS = np.array([0.35, 0.25, 0.2, 0.1, 0.06, 0.03, 0.0, 0.01])
LOGITS = jnp.log(jnp.asarray(PROBS, jnp.float32))


@pytest.mark.parametrize("Mark", MARKS)
def test_over_keys_a_token_has_the_probability_of_the_model(Mark):
    keys = jax.random.split(K0, 40_000)
    tokens = jax.jit(jax.vmap(lambda key: Mark(key, 4, 8).choose(6, LOGITS)))(keys)
    assert_law(tokens[:, None], PROBS)


@pytest.mark.parametrize("Mark", MARKS)
def test_half_precision_logits_give_the_choice_of_their_float32_copy(Mark):
    mark, half = Mark(K0, 64, 8), (LOGITS + 0.1).astype(jnp.bfloat16)
    choose = jax.jit(jax.vmap(mark.choose, in_axes=(0, None)))
    assert choose(jnp.arange(64), half).tolist() == choose(jnp.arange(64), half.astype(jnp.float32)).tolist()
    assert len(set(choose(jnp.arange(64), half).tolist())) > 3


def test_costs_of_exponential_marks_are_harmonic_numbers():
    """log U of a token drawn with probability p is -H(1/p) on average, -1 for any other text."""
    keys = jax.random.split(K0, 40_000)

    def one(key):
        mark = T.Exponential(key, 4, 8)
        token = mark.choose(1, LOGITS)
        return token, mark.costs(token[None])[0, 1], mark.costs(jnp.array([2]))[0, 3]

    token, marked, other = jax.jit(jax.vmap(one))(keys)
    assert abs(float(other.mean()) + 1) < 4.5 / np.sqrt(40_000)
    for v in (0, 2, 3, 5):
        cost = np.asarray(marked)[np.asarray(token) == v]
        harmonic = special.digamma(1 + 1 / PROBS[v]) + np.euler_gamma
        assert abs(cost.mean() + harmonic) < 4.5 * cost.std() / np.sqrt(len(cost))


def test_inverse_transform_inverts_the_running_sum():
    """The token of a float64 search, in the mark's own order with its own u; the cost is the distance of places."""
    mark = T.InverseTransform(K0, 200, 8)
    order = np.asarray(mark._order())
    assert sorted(order) == list(range(8))
    cdf = np.cumsum(PROBS[order])
    words = jax.vmap(lambda j: jnp.stack(_words(K0, j, jnp.uint32(0))))(jnp.arange(200))
    u = np.asarray(words, np.float64) @ np.array([2.0**-32, 2.0**-64])
    chosen = jax.vmap(mark.choose, in_axes=(0, None))(jnp.arange(200), LOGITS)
    assert chosen.tolist() == order[np.searchsorted(cdf, u)].tolist()
    rank = np.argsort(order)
    np.testing.assert_allclose(mark.costs(jnp.array([3]))[0], np.abs(u - rank[3] / 8), atol=1e-6)
    np.testing.assert_allclose(mark.cost(5, jnp.array([3]))[0], np.abs(u[5] - rank[3] / 8), atol=1e-6)


def naive_edit(costs, gap):
    """The recursion for the edit cost, entry by entry."""
    rows, columns = costs.shape
    table = np.zeros((rows + 1, columns + 1))
    table[:, 0], table[0] = np.arange(rows + 1) * gap, np.arange(columns + 1) * gap
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            table[i, j] = min(table[i - 1, j] + gap, table[i, j - 1] + gap, table[i - 1, j - 1] + costs[i - 1, j - 1])
    return table[-1, -1]


@pytest.mark.parametrize("gap", [0.0, 0.4, 3.0])
def test_edit_cost_is_the_recursion(gap):
    for seed in range(3):
        costs = np.log(np.random.default_rng(seed).uniform(size=(7, 5)))
        np.testing.assert_allclose(edit_cost(jnp.asarray(costs, jnp.float32), gap), naive_edit(costs, gap), rtol=1e-5)


def test_alignments_are_searched_one_by_one():
    """The best window and offset of a table of costs, by loops."""
    costs = np.random.default_rng(4).normal(size=(6, 9))
    plain = {(s, j): sum(costs[s + i, (j + i) % 9] for i in range(4)) for s in range(3) for j in range(9)}
    edits = {(s, j): naive_edit(costs[s : s + 4][:, (j + np.arange(4)) % 9], 0.3) for s in range(3) for j in range(9)}
    for gap, table in ((None, plain), (0.3, edits)):
        statistic, offset, start = _best(jnp.asarray(costs, jnp.float32), 4, gap)
        best = min(table, key=table.get)
        assert (int(start), int(offset)) == best
        assert abs(float(statistic) - table[best]) < 1e-4


@pytest.mark.parametrize("Mark", MARKS)
@pytest.mark.parametrize("gap", [None, 0.2])
def test_p_values_of_other_texts_are_uniform(Mark, gap):
    """Over 200 texts that do not know the key, ranks are uniform on 1/20, 2/20, ..., 1."""
    mark = Mark(K0, 12, 6)
    texts = jax.random.randint(K1, (200, 8), 0, 6)
    run = jax.jit(jax.vmap(lambda key, x: T.detect(key, x, mark.fresh(jax.random.fold_in(key, 99)), edit=gap, runs=19)))
    p = np.asarray(run(jax.random.split(K0, 200), texts).p_value)
    assert p.min() >= 1 / 20
    counts = np.bincount(np.rint(p * 20).astype(int) - 1, minlength=20)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.kstest(p - np.random.default_rng(0).uniform(size=200) / 20, "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("Mark", "num"), [(T.Exponential, 30), (T.InverseTransform, 60)])
def test_the_offset_is_where_the_text_began(Mark, num):
    step = lambda carry, token: (carry, jnp.zeros(50))
    mark = Mark(K0, 100, 50)
    result = T.generate(K1, step, (), num, mark=mark)
    found = T.detect(K0, result.x, mark)
    assert float(found.p_value) == np.float32(0.01)
    assert int(found.offset) == int(result.info.shift)
    inside = jnp.concatenate([jax.random.randint(K1, (11,), 0, 50), result.x])
    found = T.detect(K0, inside, mark, block=num - 5)
    assert float(found.p_value) == np.float32(0.01)
    assert (int(found.offset) - int(found.start) + 11) % 100 == int(result.info.shift)


def test_the_target_of_the_running_sum_has_48_bits():
    """u times the total as a pair of floats, against whole numbers: a token of probability 1e-9 is found anywhere."""
    words = np.random.default_rng(5).integers(0, 2**32, (200, 2), np.uint64)
    words[:3] = [[0, 1], [2**32 - 1, 2**32 - 1], [2**31, 7]]
    total = (jnp.float32(1.7), jnp.float32(3.1e-8))
    pair = jax.vmap(lambda h, l: jnp.stack(_times(_exact_uniform(h, l), total)))(*jnp.asarray(words, jnp.uint32).T)
    exact = [(int(h) * 2**32 + int(l)) / 2**64 * (float(total[0]) + float(total[1])) for h, l in words]
    np.testing.assert_allclose(np.asarray(pair, np.float64).sum(1), exact, atol=2.0**-44)
