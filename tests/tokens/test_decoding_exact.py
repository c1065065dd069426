"""Decoders of masked tokens against enumeration, order statistics and the matrix exponential."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats
from token_models import assert_law, exact_model, frequencies, joint, random_network, texts

import jsamp as js

T = js.tokens
KEY = jax.random.key(11)
K0, K1 = jax.random.split(KEY)
CROWD = 20_000


def masks(length, mask, num=CROWD):
    return jnp.full((num, length), mask, jnp.int32)


def decoded(model, x, table, **options):
    result = T.decode(K1, model, x, table, **options)
    assert bool(result.info.ok)
    return result


PAIR = np.eye(2) / 2  # two sites that are always equal
PAIR_MODEL, TWO = exact_model(PAIR), T.Masked(2)


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_ancestral_breaks_pairs_once_in_2n(steps):
    """Both sites fall into one of N steps with probability 1/N, and then differ half of the time."""
    x = decoded(PAIR_MODEL, masks(2, 2), T.ancestral(TWO, np.linspace(1, 0, steps + 1))).x
    wrong, expected = float(jnp.mean(x[:, 0] != x[:, 1])), 1 / (2 * steps)
    assert abs(wrong - expected) < 4.5 * np.sqrt(expected * (1 - expected) / CROWD)


def test_first_hitting_never_breaks_pairs_and_groups_do_half_the_time():
    x = masks(2, 2)
    one_by_one = decoded(PAIR_MODEL, x, T.first_hitting(K0, TWO, x)).x
    assert bool(jnp.all(one_by_one[:, 0] == one_by_one[:, 1]))
    together = decoded(PAIR_MODEL, x, T.first_hitting(K0, TWO, x, groups=(2,))).x
    assert abs(float(jnp.mean(together[:, 0] != together[:, 1])) - 0.5) < 4.5 * 0.5 / np.sqrt(CROWD)


LAW = joint(3, 3, sharpness=2.0)
MODEL, PROCESS = exact_model(LAW), T.Masked(3, "cosine")


@pytest.mark.parametrize("options", [{}, {"order": 2}, {"groups": (1, 1, 1)}])
def test_first_hitting_draws_the_joint_law(options):
    x = masks(3, 3)
    assert_law(decoded(MODEL, x, T.first_hitting(K0, PROCESS, x, **options)).x, LAW)


def test_one_order_for_all_draws_the_joint_law():
    """The order does not depend on the tokens: any fixed one is exact."""
    table = T.first_hitting(K0, PROCESS, masks(3, 3)[0])
    assert_law(decoded(MODEL, masks(3, 3), table).x, LAW)


def test_a_prompt_conditions_the_law():
    x = masks(3, 3).at[:, 1].set(2)
    result = decoded(MODEL, x, T.first_hitting(K0, PROCESS, x))
    assert bool(jnp.all(result.x[:, 1] == 2))
    assert int(result.info.calls) == 2
    given = LAW[:, 2] / LAW[:, 2].sum()
    assert_law(result.x[:, ::2], given)
    assert bool(jnp.all(result.info.log_prob[:, 1] == 0))
    exact = np.log(given[tuple(np.asarray(result.x[:, ::2]).T)])
    np.testing.assert_allclose(result.info.log_prob.sum(1), exact, rtol=1e-4, atol=1e-4)


def test_a_text_without_masks_stays():
    x = jnp.array([0, 1, 2])
    for table in (T.first_hitting(K0, PROCESS, x), T.ancestral(PROCESS, np.linspace(1, 0, 4))):
        result = decoded(MODEL, x, table)
        assert result.x.tolist() == [0, 1, 2]
        assert int(result.info.calls) == 0


def test_many_ancestral_steps_come_close_to_the_joint_law():
    """The bias of N steps is of order 1/N: large with one step, near the noise with 64."""
    error = []
    for steps in (1, 64):
        x = decoded(MODEL, masks(3, 3, 8000), T.ancestral(PROCESS, np.linspace(1, 0, steps + 1))).x
        error.append(0.5 * np.abs(frequencies(x, 3) - LAW.ravel()).sum())
    assert error[0] > 0.2
    assert error[1] < 0.06


def test_calls_are_counted():
    """First hitting calls L times for any batch; ancestral steps N (1 - (1 - 1/N)^(B L)) times on average."""
    flat, process = (lambda x, t: jnp.zeros((x.shape[0], 2))), T.Masked(2)
    for num in (1, 7):
        x = masks(5, 2, num)
        assert int(decoded(flat, x, T.first_hitting(K0, process, x)).info.calls) == 5
    table, x = T.ancestral(process, np.linspace(1, 0, 17)), masks(5, 2, 2)
    calls = jax.lax.map(lambda i: T.decode(jax.random.fold_in(K1, i), flat, x, table).info.calls, jnp.arange(400))
    expected = 16 * (1 - (1 - 1 / 16) ** 10)
    assert abs(float(calls.mean()) - expected) < 4.5 * float(calls.std()) / 20
    assert T.ancestral(process, np.linspace(1, 0, 17)).nfe == 16


@pytest.mark.parametrize("alpha", ["linear", "cosine", lambda t: (1 - t) ** 2])
def test_times_are_sorted_hitting_times(alpha):
    """P(mask) at the k-th hitting time is the k-th largest of L uniforms: a beta law."""
    process, length = T.Masked(9, alpha), 5
    table = jax.vmap(lambda key: T.first_hitting(key, process, jnp.full(length, 9)))(jax.random.split(K0, 4000))
    level = 1 - np.asarray(process.alpha(table.t), np.float64)
    assert abs(level[:, 0].mean() - length / (length + 1)) < 4.5 * level[:, 0].std() / np.sqrt(4000)
    for k in range(length):
        assert stats.kstest(level[:, k], stats.beta(length - k, k + 1).cdf).pvalue > 1e-4
    first = np.bincount(np.asarray(table.site[:, 0, 0]), minlength=length)
    assert stats.chisquare(first).pvalue > 1e-4


def test_start_halfway():
    """From time s on, hitting times are those below s."""
    process = T.Masked(9)
    table = jax.vmap(lambda key: T.first_hitting(key, process, jnp.full(1, 9), start=0.25))(jax.random.split(K0, 4000))
    assert stats.kstest(np.asarray(table.t[:, 0]), stats.uniform(0, 0.25).cdf).pvalue > 1e-4


# ------------------------------------------------------------------- the process


@pytest.mark.parametrize(("name", "alpha"), [
    ("linear", lambda t: 1 - t), ("loglinear", lambda t: 1 - 0.999 * t), ("cosine", lambda t: 1 - np.sin(np.pi * t / 2)),
])  # fmt: skip
def test_alpha_its_inverse_and_its_weight(name, alpha):
    process, given = T.Masked(5, name), T.Masked(5, lambda t: 1 - jnp.sin(jnp.pi * t / 2))
    t = np.linspace(0.02, 0.98, 9)
    np.testing.assert_allclose(process.alpha(t), alpha(t), rtol=1e-12)
    np.testing.assert_allclose(process.alpha_inverse(alpha(t)), t, rtol=1e-10)
    slope = (alpha(t + 1e-5) - alpha(t - 1e-5)) / 2e-5
    np.testing.assert_allclose(process.weight(t), -slope / (1 - alpha(t)), rtol=2e-4)
    if name == "cosine":
        np.testing.assert_allclose(given.alpha_inverse(alpha(t)), t, atol=1e-5)
        np.testing.assert_allclose(given.weight(t), process.weight(t), rtol=1e-4)
    x = process.corrupt(K0, jnp.zeros((200, 300), int), 0.3)
    assert abs(float(jnp.mean(x == 0)) - alpha(0.3)) < 4.5 * 0.5 / np.sqrt(60_000)


@pytest.mark.parametrize("spread", ["stratified", "antithetic", "independent"])
@pytest.mark.parametrize("alpha", ["linear", "cosine"])
def test_nelbo_with_exact_conditionals_is_the_log_probability(spread, alpha):
    """For every text -log p(x) on average, and over texts the entropy."""
    process, all_texts, probs = T.Masked(3, alpha), texts(3, 3), LAW.ravel()
    estimate = lambda key, x: T.nelbo(key, MODEL, x, process, num=512, spread=spread)
    bound = jax.jit(jax.vmap(estimate))(jax.random.split(K0, 27), jnp.asarray(all_texts))
    error = np.asarray(bound.value) + np.log(probs)
    assert np.all(np.abs(error) < 5 * np.asarray(bound.stderr) + 1e-4)
    assert np.all(bound.stderr < 0.4)
    assert abs(float(probs @ np.asarray(bound.value)) - -probs @ np.log(probs)) < 0.05


def test_stderr_of_nelbo_is_that_of_repetitions():
    x = jnp.array([0, 1, 2])
    for spread, high in (("independent", 1.2), ("antithetic", 1.2), ("stratified", 3.0)):
        keys = jax.random.split(K0, 400)
        bound = jax.jit(jax.vmap(lambda key, s=spread: T.nelbo(key, MODEL, x, PROCESS, num=64, spread=s)))(keys)
        ratio = float(jnp.mean(bound.stderr) / jnp.std(bound.value))
        assert 0.8 < ratio < high, (spread, ratio)


# ------------------------------------------------------------------- remasking


COIN = jax.tree_util.Partial(
    lambda rows, x, t: jnp.broadcast_to(rows, (x.shape[0], 3)), jnp.log(jnp.array([0.6, 0.3, 0.1]))
)
THREE = T.Masked(3, "cosine")


@pytest.mark.parametrize("remask", [T.Cap(0.3), T.Rescale(1.0), T.Rescale(0.4), T.Loop(0.1), T.Confident()])
def test_remasking_keeps_the_share_of_clean_sites(remask):
    """P(clean at s) = alpha_s for every legal probability of remasking; unless by confidence, tokens keep their law."""
    grid, num, length = np.linspace(1, 0, 13), 3000, 8
    table = T.ancestral(THREE, grid, remask=remask)
    result = decoded(COIN, masks(length, 3, num), table, keep=lambda x: jnp.mean(x != 3))
    alpha = 1 - np.append(remask.schedule(THREE, grid)[0][1:-1], 0.0)
    # Sites of one text are remasked one for another by confidence: counts vary less than those of independent sites.
    noise = 4.5 * np.sqrt(0.25 / (num * length))
    assert np.abs(np.asarray(result.info.kept) - alpha).max() < noise
    if table.by_confidence:  # what is rare is redrawn more often
        assert float(jnp.mean(result.x == 2)) < 0.1
    else:
        assert_law(result.x.reshape(-1, 1), np.array([0.6, 0.3, 0.1]))
    assert float(jnp.max(table.remask)) > 0.05


class Given:
    """Remasking by given probabilities: shares of the largest legal one."""

    def __init__(self, share):
        self.share = share

    def schedule(self, process, grid):
        hidden = process.mask_prob(grid)
        with np.errstate(divide="ignore"):
            return hidden, self.share * np.minimum(1, hidden[1:] / (1 - hidden[:-1])), grid


LAWS = {"linear": "linear", "loglinear": "loglinear", "cosine": "cosine", "square": lambda t: (1 - t) ** 2}


@pytest.mark.parametrize("name", LAWS)
def test_every_legal_remasking_keeps_the_share_of_clean_sites(name, x64):
    """clean <- clean (1 - sigma) + (1 - clean) unmask stays alpha: any grid, any sigma in every step, and every class."""
    process, rng = T.Masked(3, LAWS[name]), np.random.default_rng(0)
    for case in range(80):
        grid = np.concatenate([[1.0], np.sort(rng.uniform(size=rng.integers(1, 9)))[::-1], [0.0]])
        share, stay = rng.uniform(size=len(grid) - 1), rng.uniform(0.2, 0.95)
        ends = rng.random(len(share))
        share = np.where(ends < 0.2, 0.0, np.where(ends > 0.8, 1.0, share))
        loop = T.Loop(rng.uniform(0, min(1, (1 - stay) / stay)), on=rng.uniform(0.5, 0.9), off=0.2, alpha=stay)
        remask = (Given(share), T.Cap(rng.uniform()), T.Rescale(rng.uniform()), loop)[case % 4]
        table, hidden = T.ancestral(process, grid, remask=remask), remask.schedule(process, grid)[0]
        clean = 1 - hidden[0]
        for unmask, again, wanted in zip(table.unmask, table.remask, 1 - hidden[1:], strict=True):
            assert 0 <= unmask <= 1 and 0 <= again <= 1
            clean = clean * (1 - again) + (1 - clean) * unmask
            assert abs(clean - wanted) < 1e-12


def test_confident_remasks_the_least_probable():
    """Tokens of probability 0.1 are masked again more often than those of 0.6, by the softmax of -p."""
    table = T.ancestral(THREE, np.array([1.0, 0.3, 0.25, 0.0]), remask=T.Confident())
    kept = np.asarray(decoded(COIN, masks(12, 3, 4000), table, keep=lambda x: x).info.kept)
    again = [np.mean(kept[1][kept[0] == token] == 3) for token in (2, 0)]
    assert again[0] > 1.2 * again[1] > 0


def test_prompts_are_never_masked_again():
    x = masks(6, 3, 200).at[:, :2].set(jnp.array([1, 2]))
    for remask in (T.Rescale(1.0), T.Confident()):
        table = T.ancestral(THREE, np.linspace(1, 0, 9), remask=remask)
        kept = decoded(COIN, x, table, keep=lambda x: x[:, :2]).info.kept
        assert bool(jnp.all(kept == jnp.array([1, 2])[None, None]))


def test_what_keep_captures_may_change():
    table, scale = T.ancestral(THREE, np.array([1.0, 0.5, 0.0])), jnp.int32(1)
    run = lambda: decoded(COIN, masks(2, 3, 1), table, keep=lambda x: scale * x).info.kept
    once, scale = run(), jnp.int32(2)
    np.testing.assert_array_equal(run(), 2 * once)


# ------------------------------------------------------------------- confidence


def test_confidence_keeps_the_most_probable():
    sure = jnp.log(jnp.array([[0.5, 0.5], [0.99, 0.01], [0.6, 0.4], [0.5, 0.5]]))
    model = lambda x, t: sure
    table = T.confidence(T.Masked(2), 4, temperature=0.0)
    kept = decoded(model, masks(4, 2, 50), table, keep=lambda x: x == 2).info.kept
    left = np.floor(4 * np.cos(np.pi / 8 * np.arange(1, 5)) + 1e-9)
    np.testing.assert_array_equal(np.asarray(kept.sum(-1)), np.broadcast_to(left[:, None], (4, 50)))
    certain = np.asarray(decoded(model, masks(4, 2, 50), table, keep=lambda x: x).info.kept)[0]
    likely = certain[:, 1] == 0
    assert likely.mean() > 0.8
    # Drawn with probability 0.99, site 1 goes first in nearly every text; never site 0 where site 1 was likely.
    assert np.all(certain[likely][:, 0] == 2)


def test_hot_confidence_is_a_random_order():
    table = T.confidence(T.Masked(3), 2, temperature=1e4)
    kept = np.asarray(decoded(COIN, masks(4, 3, 6000), table, keep=lambda x: x != 3).info.kept)[0]
    pairs = list(itertools.combinations(range(4), 2))
    counts = [np.sum(kept[:, a] & kept[:, b]) for a, b in pairs]
    assert sum(counts) == 6000
    assert stats.chisquare(counts).pvalue > 1e-4


# ------------------------------------------------------------------- tau-leaping


RATE, STATIONARY = 3.0, np.array([0.5, 0.3, 0.2])
INITIAL = np.array([0.1, 0.1, 0.8])


def _chain(t):
    """Law at time t of a chain that jumps at `RATE` to a state drawn from the stationary law."""
    return STATIONARY + np.exp(-RATE * t) * (INITIAL - STATIONARY)


def _reverse_rates(numbers, x, t, logits):
    stationary, initial, rate = numbers
    law = stationary + jnp.exp(-rate * t) * (initial - stationary)
    # From a to b in reverse: forward rate b -> a times p_b / p_a.
    return rate * stationary[x][:, None] * law[None] / law[x][:, None]


def _leap_matrix(t, d):
    """One step of tau-leaping, written out: stay with exp(-total d), else jump by the rates."""
    law = _chain(t)
    rates = RATE * STATIONARY[:, None] * law[None] / law[:, None]
    np.fill_diagonal(rates, 0)
    total = rates.sum(1, keepdims=True)
    return np.diag(np.exp(-total[:, 0] * d)) + (1 - np.exp(-total * d)) * rates / total


def _leap_law(steps):
    law, d = _chain(1.0), 1 / steps
    for k in range(steps):
        law = law @ _leap_matrix(1 - k * d, d)
    return law


def test_the_chain_of_the_test_is_the_matrix_exponential():
    generator = RATE * (np.tile(STATIONARY, (3, 1)) - np.eye(3))
    np.testing.assert_allclose(INITIAL @ linalg.expm(0.7 * generator), _chain(0.7), rtol=1e-12)


def test_tau_leaping_is_first_order():
    """Its law is the product of its steps' matrices, and that comes to the exact one at rate 1/N."""
    errors = np.array([np.abs(_leap_law(n) - INITIAL).sum() for n in (16, 32, 64)])
    slopes = np.log2(errors[:-1] / errors[1:])
    assert np.all(np.abs(slopes - 1) < 0.15)
    numbers = tuple(jnp.asarray(v, jnp.float32) for v in (STATIONARY, INITIAL, RATE))
    rates = jax.tree_util.Partial(_reverse_rates, numbers)
    for steps in (2, 8):
        x = js.select.draw_categorical(K0, jnp.log(jnp.asarray(_chain(1.0))), (CROWD,)).reshape(-1, 1)
        table = T.tau_leap(rates, np.linspace(1, 0, steps + 1))
        assert_law(decoded(lambda x, t: jnp.zeros((1, 3)), x, table).x, _leap_law(steps))


def test_rates_of_the_masked_process_leave_masks_at_the_rate_of_its_weight():
    """With frozen rates w(t) a mask stays with probability exp(-w d)."""
    process = T.Masked(3)
    table = T.tau_leap(process.rates, [0.5, 0.4])
    model = lambda x, t: jnp.log(jnp.array([[0.6, 0.3, 0.1, 1e-30]]))
    x = T.decode(K1, model, masks(1, 3), table).x
    stay = np.exp(-0.1 / 0.5)
    assert_law(x, np.array([0.6, 0.3, 0.1]) @ np.eye(3, 4) * (1 - stay) + stay * np.eye(4)[3])


# ------------------------------------------------------------------- groups and order


def _grouped_law(probs, table, order):
    """Law of a text decoded by a concrete table of groups, by enumeration in float64."""
    length, vocabulary = probs.ndim, probs.shape[0]
    all_texts, flat = texts(length, vocabulary), probs.ravel()

    def conditionals(x):
        agrees = np.all((all_texts == x) | (x == vocabulary), 1)
        weight = np.where(agrees, flat, 0)
        rows = [[weight[all_texts[:, l] == v].sum() for v in range(vocabulary)] for l in range(length)]
        return np.array(rows) / weight.sum()

    t, site = np.asarray(table.t, np.float64), np.asarray(table.site)
    branches = [(np.full(length, vocabulary), 1.0, None)]
    for n in range(len(t)):
        following = []
        for x, weight, before in branches:
            now = conditionals(x)
            rows = []
            for g, s in enumerate(site[n]):
                if s < 0:
                    continue
                log_p = np.log(now[s])
                if order == 2 and before is not None:
                    log_p = log_p + float(table.lean[n, g]) * (log_p - np.log(before[s]))
                p = np.exp(log_p - log_p.max())
                rows.append((s, p / p.sum()))
            for choice in itertools.product(range(vocabulary), repeat=len(rows)):
                y, w = x.copy(), weight
                for (s, p), v in zip(rows, choice, strict=True):
                    y[s], w = v, w * p[v]
                following.append((y, w, now))
        branches = following
    law = np.zeros_like(probs)
    for x, weight, _ in branches:
        law[tuple(x)] += weight
    return law


@pytest.mark.parametrize(("groups", "order"), [((1, 3), 1), ((1, 1, 2), 2), ((1, 3), 2)])
def test_grouped_decoding_has_the_law_of_its_formula(groups, order):
    probs = joint(4, 2, seed=3, sharpness=1.0)
    x = masks(4, 2)
    table = T.first_hitting(K0, T.Masked(2), x[0], groups=groups, order=order)
    assert_law(decoded(exact_model(probs), x, table).x, _grouped_law(probs, table, order))
    if order == 2:
        lean, t = np.asarray(table.lean), np.asarray(table.t)
        assert lean[0].max() == 0
        assert 0 < lean[-1].max() <= 1
        assert np.all(np.diff(t) < 0)


def test_lean_is_the_line_through_two_times():
    x = jnp.full(6, 9)
    table = T.first_hitting(K0, T.Masked(9), x, groups=(2, 4), order=2)
    single = T.first_hitting(K0, T.Masked(9), x)
    tau = np.asarray(single.t, np.float64)
    np.testing.assert_array_equal(np.asarray(table.site[1]), np.asarray(single.site[2:, 0]))
    line = (tau[2:] - tau[2]) / (tau[2] - tau[0])
    np.testing.assert_allclose(table.lean[1], np.minimum(line, 1), rtol=1e-5)


# ------------------------------------------------------------------- numeric trouble, batches


def test_bad_logits_are_flagged():
    for value in (jnp.nan, -jnp.inf):
        broken = lambda x, t, v=value: jnp.full((3, 4), v)
        result = T.decode(K1, broken, jnp.full(3, 4), T.ancestral(T.Masked(4), [1.0, 0.5, 0.0]))
        assert not bool(result.info.ok)
        assert result.x.tolist() == [-1, -1, -1]
    halfway = T.decode(K1, COIN, jnp.full(40, 3), T.ancestral(THREE, [1.0, 0.5]))
    assert not bool(halfway.info.ok)


def test_half_precision_logits_draw_the_tokens_of_their_float32_copy():
    network, x = random_network(), jnp.full(6, 5)
    half = lambda x, t: network(x, t).astype(jnp.bfloat16)
    table = T.first_hitting(K0, T.Masked(5), x)
    run = lambda model: T.decode(K1, model, x, table).x.tolist()
    assert run(half) == run(lambda x, t: half(x, t).astype(jnp.float32))


def test_a_larger_population_keeps_the_first_texts():
    x, network = masks(6, 5, 8), random_network()
    for make in (
        lambda x: T.first_hitting(K0, T.Masked(5), x),
        lambda x: T.ancestral(T.Masked(5), np.linspace(1, 0, 9)),
    ):
        few, many = (T.decode(K1, network, part, make(part)).x for part in (x[:3], x))
        assert bool(jnp.all(few == many[:3]))


def test_rows_can_be_run_in_two_parts():
    """The second half of a table, from what the first half left, decodes what is masked still."""
    x, network = jnp.full(6, 5), random_network()
    table = T.first_hitting(K0, T.Masked(5), x, groups=(2, 2, 2), order=2)
    middle = T.decode(K1, network, x, table[:1])
    assert int(jnp.sum(middle.x == 5)) == 4
    end = T.decode(K1, network, middle.x, table[1:])
    assert bool(end.info.ok)
    assert bool(jnp.all(jnp.where(middle.x == 5, True, middle.x == end.x)))
    assert float(jnp.abs(table[1:].lean[0]).max()) == 0


def test_no_logits_are_carried():
    """Memory of the compiled decoder: the network's own logits, and less than two rows [B, V] more."""
    batch, length, vocabulary = 4, 16, 8192
    params = jnp.ones((vocabulary + 1, 8)), jnp.ones((8, vocabulary))
    model = jax.tree_util.Partial(lambda params, x, t: params[0][x] @ params[1], params)
    x = masks(length, vocabulary, batch)
    table = T.first_hitting(K0, T.Masked(vocabulary), x)
    alone = jax.jit(lambda model, x: jax.vmap(model, (0, None))(x, 0.5)).lower(model, x)
    whole = jax.jit(lambda key, model, x, table: T.decode(key, model, x, table).x).lower(K1, model, x, table)
    used = [program.compile().memory_analysis() for program in (alone, whole)]
    own, decoder = ((u.temp_size_in_bytes + u.output_size_in_bytes) / (4 * batch * vocabulary) for u in used)
    assert abs(own - length) < 0.1
    assert decoder < own + 2
