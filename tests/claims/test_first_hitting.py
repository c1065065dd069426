"""Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate Categorical
Sampling", 2024, arXiv:2409.02908.

Claims: (1) first-hitting decoding is exact in L calls, ancestral decoding with N steps is not, and calls up to N times;
(2) ancestral decoding of a vocabulary of 50 000 in 1024 steps by one draw of V + 1 categories with 23-bit uniforms loses
37 % of the rate of unmasking and 2.4 nats of entropy, which looked like quality; with 64 bits nothing is lost; (3)
decoding several sites with one prediction costs their dependence: fewer at a time are nearer in every distance, second
order is nearer in total variation and farther in KL(joint || decoded).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from token_models import exact_model, frequencies, texts

import jsamp as js

T = js.tokens
K0, K1 = jax.random.split(jax.random.key(15))
STEPS, VOCABULARY = 1024, 50_257
ZIPF = 1 / np.arange(1, VOCABULARY + 1)
ZIPF /= ZIPF.sum()
ENTROPY = -(ZIPF * np.log(ZIPF)).sum()


def test_a_draw_of_23_bits_loses_rate_and_entropy():
    """The law of the draw, exactly: tokens of probability p / N beside the mask."""
    law = np.append(ZIPF / STEPS, 1 - 1 / STEPS)
    assert abs(ENTROPY - 7.566) < 1e-3
    with jax.enable_x64(True):
        for bits, rate, loss in ((23, 0.628, 2.356), (64, 1.0, 0.0)):
            drawn = np.asarray(js.select.draw_bias(jnp.asarray(law), bits))
            left = drawn[:-1] / drawn[:-1].sum()
            assert abs(drawn[:-1].sum() * STEPS - rate) < 2e-3
            entropy = -np.sum(np.where(left > 0, left * np.log(np.where(left > 0, left, 1)), 0))
            assert abs(ENTROPY - entropy - loss) < 2e-3


def surprise(tokens):
    """Mean of -log p, and how many tokens are beyond the 1000 most common."""
    tokens = np.asarray(tokens).ravel()
    return -np.log(ZIPF[tokens]).mean(), np.mean(tokens >= 1000)


def test_our_runs_lose_nothing():
    """1024 ancestral steps, and first hitting, on 64 sites of Zipf's law: entropy and tail as they should be.

    The cross-entropy of the tokens drawn has mean 7.566 nats and standard deviation 2.8 / sqrt(n); a 23-bit draw has
    4.9, 5 hundred times the error allowed here.
    """
    logits = jnp.log(jnp.asarray(ZIPF, jnp.float32))
    model = jax.tree_util.Partial(lambda logits, x, t: jnp.broadcast_to(logits, (x.shape[0], VOCABULARY)), logits)
    process, x = T.Masked(VOCABULARY), jnp.full((4, 64), VOCABULARY)
    spread = np.sqrt(ZIPF @ np.log(ZIPF) ** 2 - ENTROPY**2)
    for table in (T.ancestral(process, np.linspace(1, 0, STEPS + 1)), T.first_hitting(K0, process, x)):
        result = T.decode(K1, model, x, table)
        assert bool(result.info.ok)
        value, tail = surprise(result.x)
        assert abs(value - ENTROPY) < 4.5 * spread / np.sqrt(x.size)
        share = ZIPF[1000:].sum()
        assert abs(tail - share) < 4.5 * np.sqrt(share * (1 - share) / x.size)


def test_half_the_sites_are_decoded_by_half_time():
    """The rate of unmasking: the share of clean sites follows alpha within its noise, all along 1024 steps."""
    process, x = T.Masked(8), jnp.full((50, 64), 8)
    model = lambda x, t: jnp.zeros((x.shape[0], 8))
    table = T.ancestral(process, np.linspace(1, 0, STEPS + 1))
    kept = T.decode(K1, model, x, table, keep=lambda x: jnp.mean(x != 8)).info.kept
    alpha = np.arange(1, STEPS + 1) / STEPS
    deviation = np.abs(np.asarray(kept) - alpha) * np.sqrt(x.size)
    assert deviation.max() < 2.3  # Kolmogorov's law: beyond 2.3 with probability 5e-5


MODES, SITES, SLIP = 2, 6, 0.2
TEXTS = texts(SITES, MODES)
HIDDEN = np.mean([np.prod(np.where(m == TEXTS, 1 - SLIP, SLIP), 1) for m in range(MODES)], 0)
"""Each text follows a hidden mode, with slips: sites depend on each other through it."""


def grouped(groups, order, tau):
    """Law of decoding in groups at the hitting times tau, by enumeration. Sites are exchangeable: any order does."""
    law, starts = np.zeros(MODES**SITES), np.cumsum([0, *groups])
    branches = [(np.full(SITES, MODES), 1.0, None)]
    for n, size in enumerate(groups):
        sites, following = range(starts[n], starts[n] + size), []
        for x, weight, before in branches:
            agrees = np.where(np.all((x == TEXTS) | (x == MODES), 1), HIDDEN, 0)
            now = np.array([[agrees[TEXTS[:, l] == v].sum() for v in range(MODES)] for l in range(SITES)])
            now = np.log(np.maximum(now / agrees.sum(), 1e-300))
            rows = []
            for s in sites:
                lean = (tau[s] - tau[starts[n]]) / (tau[starts[n]] - tau[starts[n - 1]]) if n else 0.0
                row = now[s] if order == 1 or not n else now[s] + min(lean, 1) * (now[s] - before[s])
                rows.append(np.exp(row) / np.exp(row).sum())
            for choice in itertools.product(range(MODES), repeat=size):
                y, w = x.copy(), weight
                for s, v, row in zip(sites, choice, rows, strict=True):
                    y[s], w = v, w * row[v]
                following.append((y, w, now))
        branches = following
    for x, weight, _ in branches:
        law[np.ravel_multi_index(tuple(x), (MODES,) * SITES)] += weight
    return law


def distance(law):
    """Total variation from the joint law."""
    return 0.5 * np.abs(law - HIDDEN).sum()


def divergence(law):
    """Kullback-Leibler divergence of the joint law from this one, in nats."""
    return HIDDEN @ np.log(HIDDEN / law)


PROCESS = T.Masked(MODES)
X = jnp.full((20_000, SITES), MODES)
NOISE = 0.03  # of the frequencies of 64 texts among 20 000, in total variation


def run(table):
    """Frequencies of decoded texts."""
    return frequencies(T.decode(K1, exact_model(HIDDEN.reshape((MODES,) * SITES)), X, table).x, MODES)


def test_groups_beat_ancestral_steps_at_equal_calls():
    """Three calls: ancestral steps decode groups of random size, and err by more than groups of two; six are exact."""
    groups = distance(run(T.first_hitting(K0, PROCESS, X, groups=(2, 2, 2))))
    steps = distance(run(T.ancestral(PROCESS, np.linspace(1, 0, 4))))
    assert steps > 1.2 * groups
    assert distance(run(T.first_hitting(K0, PROCESS, X))) < NOISE < 0.5 * groups
    tau = np.linspace(1, 0.1, SITES)
    even, rising = (distance(grouped(sizes, 1, tau)) for sizes in ((2, 2, 2), (1, 2, 3)))
    assert rising < 0.9 * even  # few at first, where sites say most about each other


def test_second_order_lowers_the_total_variation_of_large_groups_and_raises_their_divergence():
    """One site, then five with one prediction: a total variation of .231 falls to .19 on average over times, and
    KL(joint || decoded), which first order has least of all products, grows by more than 30 %.
    """
    rng = np.random.default_rng(0)
    times = [np.sort(rng.uniform(size=SITES))[::-1] for _ in range(60)]
    first = grouped((1, 5), 1, times[0])
    second = [grouped((1, 5), 2, tau) for tau in times]
    assert abs(distance(first) - 0.2306) < 1e-3
    assert np.mean([distance(law) for law in second]) < 0.87 * distance(first)
    assert np.mean([divergence(law) for law in second]) > 1.3 * divergence(first)
    tau = np.asarray(T.first_hitting(K0, PROCESS, X[0]).t, np.float64)
    for order in (1, 2):
        table = T.first_hitting(K0, PROCESS, X[0], groups=(1, 5), order=order)
        # The sites of the run stand in another order, in which the law is the same.
        assert abs(distance(run(table)) - distance(grouped((1, 5), order, tau))) < NOISE
