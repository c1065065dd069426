"""Soft value decoding: the published table, the exact limit of many children, collapse, tokens, refusals."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

VP = js.noise.VP()
LAW = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.0]], stds=[1.0])


def exact_kernel(plan):
    """The plan with the noise for which it draws x_s | x_t of standard normal data exactly: C^2 + W^2 Var(x0 | x_t)."""
    return dataclasses.replace(plan, C=np.sqrt(plan.C**2 + (plan.W[:, 0] * plan.sigma) ** 2))


PLAN = exact_kernel(js.solve.ddpm(VP, js.noise.time_grid(VP, 50, final="zero")))


def reward(x0):
    return -0.5 * (x0[:, 0] - 2) ** 2


def value(exact, x, prediction, info):
    """The soft value of standard normal data, or the reward of the posterior mean."""
    spread = 1 + info.sigma**2
    soft = -0.5 * (info.alpha * x[:, 0] - 2) ** 2 / spread - 0.5 * jnp.log(spread)
    return jnp.where(exact, soft, reward(prediction.x0))


def steer(exact, temperature=1.0, **options):
    return js.steer.SoftValue(jax.tree_util.Partial(value, exact), reward, temperature=temperature, **options)


@functools.partial(jax.jit, static_argnames=("num", "chains"))
def runs(steer, num, chains=4000, plan=PLAN):
    """One sample of each of many chains of `num` children, all from one start."""

    def one(key):
        first, second = jax.random.split(key)
        x = jnp.broadcast_to(VP.prior(first, (1, 1)), (num, 1))
        return js.sample(second, LAW, x, plan, steer=steer).x[0]

    return jax.vmap(one)(jax.random.split(jax.random.key(1), chains))


def simulated(exact, num, chains=20_000):
    """The method written out in numpy: children, values, a categorical draw; no shared code."""
    rng = np.random.default_rng(0)
    alpha = np.append(PLAN.alpha, 1.0)
    x = rng.normal(size=(chains, 1))
    for a, b in itertools.pairwise(alpha):
        rho = a / b
        children = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=(chains, num))
        spread = 2 - b**2 if exact else 1.0
        score = -0.5 * (b * children - 2) ** 2 / spread + rng.gumbel(size=children.shape)
        x = np.take_along_axis(children, score.argmax(1)[:, None], 1)
    return x.mean(), x.var()


def many_children(exact):
    """Mean and variance as the number of children grows: each step is the kernel tilted by exp(value), a Gaussian."""
    alpha = np.append(PLAN.alpha, 1.0)
    mean, var = 0.0, 1.0
    for a, b in itertools.pairwise(alpha):
        rho = a / b
        noise, weight = 1 - rho**2, b**2 / (2 - b**2 if exact else 1.0)
        gain = noise * weight / (1 + noise * weight)
        mean = (1 - gain) * rho * mean + gain * 2 / b
        var = ((1 - gain) * rho) ** 2 * var + noise * (1 - gain)
    return mean, var


def moments(x):
    x = np.asarray(x, np.float64)
    return x.mean(), x.var()


@pytest.mark.parametrize(("exact", "num"), [(True, 4), (True, 16), (False, 4), (False, 16)])
def test_the_law_of_the_sample_is_that_of_the_method_written_out(exact, num):
    """Both by Monte Carlo: standard errors of mean and variance for 4000 and 20000 chains, at 4.5."""
    got, wanted = moments(runs(steer(exact), num)), simulated(exact, num)
    assert abs(got[0] - wanted[0]) < 4.5 * np.sqrt(wanted[1] * (1 / 4000 + 1 / 20000))
    assert abs(got[1] - wanted[1]) < 4.5 * wanted[1] * np.sqrt(2 / 4000 + 2 / 20000)


def test_many_children():
    """The soft value samples the tilted law N(1, 1/2) in the limit; the predicted mean does not, for any number."""
    np.testing.assert_allclose(many_children(True), (1.0, 0.5), atol=2e-3)
    biased = many_children(False)
    np.testing.assert_allclose(biased, (1.25, 0.44), atol=0.03)
    for exact, wanted in ((True, (1.0, 0.5)), (False, biased)):
        got = moments(runs(steer(exact), 64))
        # 4.5 standard errors, and the remaining effect of 64 children, which falls as 1 / children: 0.95 at 16.
        assert abs(got[0] - wanted[0]) < 0.03 + 4.5 * np.sqrt(0.5 / 4000)
        assert abs(got[1] - wanted[1]) < 0.03 + 4.5 * 0.5 * np.sqrt(2 / 4000)


def test_temperature():
    for num in (4, 16):
        cold = moments(runs(steer(False, 0.0), num, 500))
        np.testing.assert_allclose(cold, (2.0, 0.0), atol=0.01)
    hot = moments(runs(steer(False, 1e6), 4))
    base = moments(runs(steer(False, 1.0, start=50), 1))
    for mean, var in (hot, base):
        assert abs(mean) < 4.5 / np.sqrt(4000)
        assert abs(var - 1) < 4.5 * np.sqrt(2 / 4000)


def test_one_model_call_for_each_child_and_row_and_all_children_without_a_final_reward():
    select = js.steer.SoftValue(lambda x, p, info: reward(p.x0), start=1, stop=30)
    x = VP.prior(jax.random.key(0), (6, 1))
    result = js.sample(jax.random.key(1), LAW, x, PLAN, steer=select, keep=lambda x, p: (x, p.x0))
    assert result.x.shape == (6, 1)
    kept, x0 = result.info.kept
    # Where a row selects all predictions are those of one parent; afterwards children part for good.
    distinct = np.array([len(np.unique(row)) for row in np.asarray(x0)])
    assert np.all(distinct[1:30] == 1)
    assert np.all(distinct[31:] == 6)
    assert kept.shape == (50, 6, 1)
    chosen = js.sample(jax.random.key(1), LAW, x, PLAN, steer=steer(True))
    assert chosen.x.shape == (1,)
    assert chosen.info.report.value.shape == (6,)
    assert np.asarray(reward(chosen.x[None]))[0] == chosen.info.report.value[chosen.info.report.index]


LENGTH, LETTERS, MASK = 20, 4, 4


def masked_run(key, num, steer, steps=10):
    """A masked-token sampler of independent uniform letters: unmasks by exact posteriors; `mid` picks a child."""
    tokens = jnp.full((num, LENGTH), MASK)
    state = None if steer is None else jax.random.key(0)

    def row(carry, i):
        key, tokens = carry
        key, first, second, third, fourth = jax.random.split(key, 5)
        # Posterior mean value: a letter for each masked place, unmasked ones kept.
        guess = jax.random.randint(first, tokens.shape, 0, LETTERS)
        prediction = js.Prediction(jnp.where(tokens == MASK, guess, tokens), jnp.zeros(tokens.shape))
        if steer is not None:
            info = js.solve.StepInfo(i, *[jnp.float32(1)] * 6, 0.0, 1.0, jnp.bool_(False), False)
            _, tokens, prediction, _ = steer.mid(second, state, tokens, prediction, info)
        reveal = jax.random.uniform(third, tokens.shape) < 1 / (steps - i)
        letters = jax.random.randint(fourth, tokens.shape, 0, LETTERS)
        tokens = jnp.where((tokens == MASK) & reveal, letters, tokens)
        return (key, tokens), None

    (_, tokens), _ = jax.lax.scan(row, (key, tokens), jnp.arange(steps))
    return tokens


def motif(tokens):
    """How often the letter 0 is followed by the letter 1."""
    return jnp.sum((tokens[..., :-1] == 0) & (tokens[..., 1:] == 1), -1).astype(jnp.float32)


def test_tokens_are_steered_by_the_same_hook():
    """Ten children beat the best of ten runs, which beat one run, in the mean of the reward: 400 runs of each."""
    picks = js.steer.SoftValue(lambda x, p, info: motif(p.x0), motif, temperature=0.2, start=1)

    def chosen(key):
        tokens = masked_run(key, 10, picks)
        return picks.final(key, tokens)[1].value.max()

    keys = jax.random.split(jax.random.key(2), 400)
    base = jax.jit(jax.vmap(lambda k: motif(masked_run(k, 10, None))))(keys)
    steered = np.asarray(jax.jit(jax.vmap(chosen))(keys))
    one, best = np.asarray(base[:, 0]), np.asarray(base.max(1))
    error = np.sqrt((steered.var() + best.var()) / 400)
    assert abs(np.asarray(base).mean() - 19 / 16) < 4.5 * np.asarray(base).std() / np.sqrt(4000)
    assert steered.mean() - best.mean() > 4.5 * error
    assert best.mean() > one.mean() + 1
    assert np.quantile(steered, 0.9) > np.quantile(best, 0.9)


def test_refusals():
    x = jnp.ones((4, 1))

    def run(steer, x=x, plan=PLAN):
        return js.sample(jax.random.key(0), LAW, x, plan, steer=steer)

    with pytest.raises(ValueError, match="temperature"):
        js.steer.SoftValue(value, temperature=-1.0)
    with pytest.raises(ValueError, match="no noise"):
        run(steer(True), plan=js.solve.ddim(VP, js.noise.time_grid(VP, 5)))
    with pytest.raises(ValueError, match=r"value must return one number for each particle, \[4\]"):
        run(js.steer.SoftValue(lambda x, p, info: p.x0))
    with pytest.raises(ValueError, match="axis 0"):
        run(steer(True), jnp.float32(1.0))
    spoiled = run(js.steer.SoftValue(lambda x, p, info: jnp.full(4, jnp.nan)))
    assert np.all(np.isnan(spoiled.x))
    assert not spoiled.info.ok
