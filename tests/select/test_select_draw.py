"""Draws against enumeration, closed forms, and the faults of low-bit draws."""

import jax
import jax.numpy as jnp
import numpy as np
import optimised
import pytest
from scipy import stats

from jsamp.select import Subset, draw, draw_bias, draw_categorical, inclusion_probs
from jsamp.select._bits import log_clock_from_words, log_clocks, sum_tree, uniform_from_words
from jsamp.select._draw import SCHEMES, _capacity

HEAVY = np.float32(np.random.default_rng(0).pareto(1.0, 40) + 0.2)


def water_fill(scores, num):
    """Sort-based solution of sum min(1, c s) = num in float64."""
    order = np.sort(scores.astype(np.float64))[::-1]
    for certain in range(num):
        c = (num - certain) / order[certain:].sum()
        if c * order[certain] <= 1:
            break
    else:
        c = np.inf
    return np.minimum(1, c * scores.astype(np.float64))


def z_score(samples, truth):
    samples = np.asarray(samples, np.float64)
    return abs(samples.mean(0) - truth) / (samples.std(0, ddof=1) / np.sqrt(len(samples)) + 1e-30)


@pytest.mark.parametrize("num", [1, 3, 10, 30, 39, 40])
def test_inclusion_probs_equal_water_filling(num):
    probs = np.asarray(inclusion_probs(jnp.asarray(HEAVY), num))
    np.testing.assert_allclose(probs, water_fill(HEAVY, num), rtol=2e-6)
    assert abs(probs.sum() - num) < 1e-4 * num


def test_inclusion_probs_with_geometric_scores_and_few_positive_rows():
    scores = 2.0 ** -jnp.arange(100.0)
    np.testing.assert_allclose(inclusion_probs(scores, 60), water_fill(np.asarray(scores), 60), rtol=1e-5)
    few = jnp.array([0.0, 3.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(inclusion_probs(few, 4), [0, 1, 0, 1, 0])
    wide = jnp.array([1e38, 1e38, 1.0, 3.0])  # a share of 1e-38 counts beside rows that are certain
    np.testing.assert_allclose(inclusion_probs(wide, 3), [1, 1, 0.25, 0.75], rtol=1e-6)
    big = jnp.asarray(np.float32(np.random.default_rng(1).pareto(1.0, 1_000_000)))
    assert abs(float(np.asarray(inclusion_probs(big, 10_000), np.float64).sum()) - 10_000) < 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weighted_sums_are_unbiased(scheme):
    values = jnp.asarray(np.float32(np.random.default_rng(2).normal(1, 1, (40, 3))))
    scores = jnp.asarray(HEAVY)

    def estimate(key):
        subset = draw(key, scores, 9, scheme=scheme)
        return jnp.sum(subset.weight[:, None] * subset.take(values), 0), jnp.zeros(40).at[subset.index].add(
            subset.weight
        )

    sums, counts = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(3), 20_000))
    assert np.all(z_score(sums, np.asarray(values, np.float64).sum(0)) < 5)
    varying = np.asarray(counts).std(0) > 1e-6
    assert np.all(z_score(counts, 1.0)[varying] < 5.5)
    np.testing.assert_allclose(np.asarray(counts)[:, ~varying], 1, rtol=1e-5)


def test_a_poisson_draw_has_room_for_all_that_it_takes():
    for num in (1, 2, 5, 20, 100, 10_000):
        assert stats.poisson.sf(_capacity(num, 10**9), num) < 1e-8


def test_poisson_inclusion_and_certain_rows():
    probs = np.asarray(inclusion_probs(jnp.asarray(HEAVY), 9))
    assert (probs == 1).sum() >= 2

    def rows(key):
        subset = draw(key, jnp.asarray(HEAVY), 9)
        return jnp.zeros(40).at[subset.index].add(subset.mask.astype(jnp.float32))

    seen = np.asarray(jax.jit(jax.vmap(rows))(jax.random.split(jax.random.key(0), 20_000)))
    assert set(np.unique(seen)) <= {0.0, 1.0}
    assert np.all(seen[:, probs == 1] == 1)
    assert np.all(np.abs(seen.mean(0) - probs) < 5 * np.sqrt(probs * (1 - probs) / len(seen)) + 1e-9)


def test_systematic_counts_are_floor_or_ceiling():
    expected = 9 * HEAVY.astype(np.float64) / HEAVY.sum(dtype=np.float64)

    def rows(key):
        return jnp.bincount(draw(key, jnp.asarray(HEAVY), 9, scheme="systematic").index, length=40)

    seen = np.asarray(jax.jit(jax.vmap(rows))(jax.random.split(jax.random.key(0), 4000)))
    assert np.all(seen >= np.floor(expected))
    assert np.all(seen <= np.ceil(expected))
    assert np.all(seen.sum(1) == 9)


def test_topk_inclusion_is_the_sequential_law():
    def rows(key):
        return jnp.zeros(3).at[draw(key, jnp.array([0.5, 0.25, 0.25]), 2, scheme="topk").index].set(1.0)

    seen = np.asarray(jax.vmap(rows)(jax.random.split(jax.random.key(0), 40_000)))
    assert abs(seen[:, 0].mean() - 5 / 6) < 5 * np.sqrt(5 / 36 / 40_000)
    assert np.all(seen.sum(1) == 2)


def test_clock_words_against_float64():
    high = np.array([0, 0, 1, 2**9, 2**16 + 1, 2**31, 2**32 - 1, 2**32 - 1], np.uint64)
    low = np.array([0, 1, 0, 7, 2**31, 5, 0, 2**32 - 1], np.uint64)
    exact = (high.astype(np.longdouble) + (low.astype(np.longdouble) + 0.5) / 2**32) / 2**32
    got = uniform_from_words(jnp.asarray(high, jnp.uint32), jnp.asarray(low, jnp.uint32))
    capped = np.minimum(exact, 1 - np.longdouble(2) ** -24).astype(np.float64)
    np.testing.assert_allclose(np.asarray(got, np.float64), capped, rtol=2 * 2.0**-24)
    clock = log_clock_from_words(jnp.asarray(high, jnp.uint32), jnp.asarray(low, jnp.uint32))
    np.testing.assert_allclose(np.asarray(clock, np.float64), np.log(-np.log1p(-capped)), rtol=3e-7, atol=3e-7)
    assert float(clock[0]) < -45


def test_sum_tree_keeps_what_float32_sums_lose(x64):
    weight = np.float32(np.random.default_rng(0).pareto(0.7, 100_003))
    with jax.enable_x64(False):
        high, low = sum_tree(jnp.asarray(weight)).total
    exact = weight.astype(np.float64).sum()
    assert abs(float(high) + float(low) - exact) < 1e-11 * exact


@pytest.mark.slow
def test_sixteen_million_rows_have_even_and_odd_ones():
    ones = jnp.ones(2**24)
    num = 40_000
    for scheme in ("multinomial", "systematic", "poisson", "priority"):
        subset = optimised.jit(lambda key, w, s=scheme: draw(key, w, num, scheme=s))(jax.random.key(1), ones)
        odd = int(jnp.sum((subset.index % 2 == 1) & subset.mask))
        total = int(subset.mask.sum())
        if scheme == "systematic":  # a step of 419.43: parity follows the fractional part, equidistributed
            assert abs(odd - total / 2) < 0.01 * total
        else:
            assert abs(odd - total / 2) < 5 * np.sqrt(total / 4)


def test_rows_that_a_float32_cdf_loses_are_drawn_at_their_rate():
    weight = np.float32(np.random.default_rng(0).pareto(1.0, 1_000_000) + 1e-3)
    cdf = np.asarray(jnp.cumsum(jnp.asarray(weight)))
    lost = np.diff(cdf, prepend=np.float32(0)) <= 0
    share = weight.astype(np.float64) / weight.sum(dtype=np.float64)
    assert lost.mean() > 0.01
    num = 500_000
    index = np.asarray(draw(jax.random.key(0), jnp.asarray(weight), num, scheme="multinomial").index)
    expected = num * share[lost].sum()
    assert expected > 50
    assert abs(lost[index].sum() - expected) < 5 * np.sqrt(expected)
    # and the whole histogram over 100 groups of rows of rising weight
    group = np.argsort(np.argsort(weight)) // 10_000
    counts, mass = np.bincount(group[index], minlength=100), np.bincount(group, share)
    chi2 = ((counts - num * mass) ** 2 / (num * mass)).sum()
    assert chi2 < 99 + 5 * np.sqrt(2 * 99)


def test_sixteen_bit_logits_equal_their_float32_copy_and_are_uniform():
    logits = jnp.zeros(32768, jnp.bfloat16)
    keys = jax.random.split(jax.random.key(0), 400)
    index = jax.lax.map(lambda k: draw_categorical(k, logits), keys)
    same = jax.lax.map(lambda k: draw_categorical(k, logits.astype(jnp.float32)), keys)
    np.testing.assert_array_equal(index, same)
    assert abs(np.asarray(index).mean() / 32768 - 0.5) < 5 / np.sqrt(12 * 400)


@pytest.mark.parametrize("shape", [(), (6,)])
def test_categorical_law_and_shapes(shape):
    probs = np.array([[0.7, 0.2, 0.1, 0.0], [0.01, 0.01, 0.49, 0.49]])
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(probs), jnp.float32)
    keys = jax.random.split(jax.random.key(5), 10_000)
    index = np.asarray(jax.jit(jax.vmap(lambda k: draw_categorical(k, logits, shape)))(keys))
    assert index.shape == (10_000, *shape, 2)
    for row in range(2):
        got = index[..., row].ravel()
        expected = len(got) * probs[row]
        counts = np.bincount(got, minlength=4)
        live = probs[row] > 0
        assert counts[~live].sum() == 0
        assert ((counts[live] - expected[live]) ** 2 / expected[live]).sum() < 35


def test_single_draws_from_many_categories_have_their_law():
    """Two stages: blocks and what is in them. Zipf's law with holes, in an order that mixes large and small."""
    num, draws = 1500, 30_000
    rng = np.random.default_rng(3)
    probs = rng.permutation(1 / np.arange(1, num + 1)) * (np.arange(num) % 7 > 0)
    probs[400:500] = 0  # whole blocks of nothing
    probs /= probs.sum()
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(probs) + 50, jnp.float32)
    pair = jnp.stack([logits, logits[::-1]])
    index = np.asarray(
        jax.jit(jax.vmap(lambda k: draw_categorical(k, pair)))(jax.random.split(jax.random.key(6), draws))
    )
    for got in (index[:, 0], num - 1 - index[:, 1]):
        counts, expected = np.bincount(got, minlength=num), draws * probs
        assert counts[probs == 0].sum() == 0
        for part in (
            np.arange(num) % 39,
            np.arange(num) // 39,
            np.argsort(np.argsort(-probs)) // 50,
        ):  # 39 = sqrt(1500)
            seen, wanted = np.bincount(part, counts), np.bincount(part, expected)
            live = wanted > 5
            chi2, freedom = ((seen - wanted)[live] ** 2 / wanted[live]).sum(), live.sum()
            assert chi2 < freedom + 5 * np.sqrt(2 * freedom)
    assert int(draw_categorical(jax.random.key(0), jnp.full(1500, -jnp.inf).at[77].set(-1e30))) == 77


def floor_race(key, log_pi, bits, num):
    """A race whose clocks are rounded up to a grid of 2^-bits: what low-bit uniforms do."""
    clocks = jnp.exp(log_clocks(key, (num, 2)))
    grid = 2.0**-bits
    quantised = jnp.stack([clocks[:, 0], grid * jnp.ceil(clocks[:, 1] / grid)], 1)
    return jnp.argmin(jnp.log(quantised) - log_pi[None], 1)


@pytest.mark.parametrize(("x", "factor"), [(0.5, 0.7707), (1.0, 0.5820), (2.0, 0.3130), (4.0, 0.0746)])
def test_low_bit_races_lose_rare_classes_and_this_draw_does_not(x, factor):
    bits, num = 12, 2**20
    rare = 2.0**-bits / x
    probs = jnp.array([1 - rare, rare])
    assert abs(float(draw_bias(probs, bits)[1]) / rare - factor) < 3e-4
    kept = int(floor_race(jax.random.key(1), jnp.log(probs), bits, num).sum())
    expected = num * rare
    assert abs(kept - factor * expected) < 5 * np.sqrt(factor * expected) + 2
    assert kept < expected - 4 * np.sqrt(expected)  # the test can see the fault
    ours = int(draw_categorical(jax.random.key(2), jnp.log(probs), (num,)).sum())
    race = jnp.argmin(log_clocks(jax.random.key(3), (num, 2)) - jnp.log(probs)[None], 1).sum()
    assert abs(ours - expected) < 5 * np.sqrt(expected)
    assert abs(int(race) - expected) < 5 * np.sqrt(expected)


def test_truncated_law_against_simulation():
    probs = jnp.array([0.6, 0.25, 0.1, 0.05])
    bits, num = 4, 1_000_000
    clock = 2.0**-bits + jax.random.exponential(jax.random.key(0), (num, 4))
    counts = np.bincount(np.asarray(jnp.argmin(clock / probs[None], 1)), minlength=4) / num
    law = np.asarray(draw_bias(probs, bits, law="truncated"), np.float64)
    assert abs(law.sum() - 1) < 1e-6
    assert np.all(np.abs(counts - law) < 5 * np.sqrt(law / num))
    np.testing.assert_allclose(draw_bias(probs[::-1], bits, law="truncated"), law[::-1], rtol=1e-6)


@pytest.mark.parametrize(("steps", "rate", "entropy"), [(64, 0.870, 6.842), (1024, 0.628, 5.210), (4096, 0.506, 4.360)])
def test_masked_diffusion_step_under_23_bits(steps, rate, entropy):
    zipf = 1 / np.arange(1, 50258)
    zipf /= zipf.sum()
    probs = jnp.asarray(np.append(zipf / steps, 1 - 1 / steps), jnp.float32)
    kept = np.asarray(draw_bias(probs, 23), np.float64)[:-1] * steps
    assert abs(kept.sum() - rate) < 2e-3 + 1 / steps * 0.13
    kept = kept[kept > 0] / kept.sum()
    assert abs(-(kept * np.log(kept)).sum() - entropy) < 5e-3


def test_overflow_and_bad_scores_are_flagged():
    subset = draw(jax.random.key(0), jnp.ones(100), 50, capacity=20)
    assert not bool(subset.ok)
    assert np.all(np.isnan(subset.weight))
    assert int(subset.mask.sum()) == 20
    assert bool(draw(jax.random.key(0), jnp.ones(100), 50).ok)
    for scheme in SCHEMES:
        for bad in (jnp.zeros(5), jnp.ones(5).at[2].set(jnp.nan)):
            subset = jax.jit(lambda s, c=scheme: draw(jax.random.key(0), s, 2, scheme=c))(bad)
            assert not bool(subset.ok)
    assert int(jax.jit(draw_categorical)(jax.random.key(0), jnp.full(3, -jnp.inf))) == -1


@pytest.mark.parametrize("scheme", ["poisson", "priority", "topk"])
def test_slots_beyond_the_rows_that_can_be_drawn_hold_zeros(scheme):
    index, weight, mask = map(np.asarray, draw(jax.random.key(0), jnp.array([0.0, 2.0, 0.0, 1.0]), 3, scheme=scheme))
    assert set(index[mask]) == {1, 3}
    np.testing.assert_allclose(weight, mask, rtol=1e-6)  # both rows are certain
    assert mask.sum() == 2
    assert not np.any(index[~mask])


def test_subset_takes_trees_and_scales_rows():
    subset = Subset(jnp.array([2, 0]), jnp.array([4.0, 0.0]), jnp.array([True, False]))
    index, weight, mask = subset
    assert bool(subset.ok) and index is subset.index and weight is subset.weight and mask is subset.mask
    taken = subset.take({"a": jnp.arange(3), "b": jnp.eye(3)})
    np.testing.assert_array_equal(taken["a"], [2, 0])
    np.testing.assert_allclose(subset.row_scale(2.0), [2.0, 0.0])
    assert np.isfinite(jax.grad(lambda p: subset.row_scale(p).sum())(1.5))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda k: draw(None, jnp.ones(3), 2), ValueError, "key is None"),
        (lambda k: draw(k, jnp.arange(3), 2), TypeError, "floating"),
        (lambda k: draw(k, jnp.array([1.0, -1.0]), 1), ValueError, ">= 0"),
        (lambda k: draw(k, jnp.array([1.0, jnp.nan]), 1), ValueError, "finite"),
        (lambda k: draw(k, jnp.zeros(3), 1), ValueError, "every score is 0"),
        (lambda k: draw(k, jnp.ones(3), 4), ValueError, "1..3"),
        (lambda k: draw(k, jnp.ones(3), 0), ValueError, "1..3"),
        (lambda k: draw(k, jnp.ones((3, 2)), 1), ValueError, "vector"),
        (lambda k: draw(k, jnp.ones(3), 2, scheme="best"), ValueError, "one of"),
        (lambda k: draw(k, jnp.ones(3), 2, scheme="topk", capacity=3), ValueError, "poisson"),
        (lambda k: draw_categorical(k, jnp.arange(3)), TypeError, "floating"),
        (lambda k: draw_categorical(k, jnp.array([0.0, jnp.nan])), ValueError, "NaN"),
        (lambda k: draw_categorical(k, jnp.full(3, -jnp.inf)), ValueError, "-inf"),
        (lambda k: draw_categorical(k, jnp.float32(1)), ValueError, "V >= 1"),
        (lambda k: draw_bias(jnp.array([0.5, 0.4])), ValueError, "sum to 1"),
        (lambda k: inclusion_probs(jnp.ones(3), 4), ValueError, "1..3"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call(jax.random.key(0))
