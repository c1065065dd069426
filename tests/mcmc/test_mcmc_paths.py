"""Combinators, tempering, evidence, annealing, adaptation: against enumeration and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate, mcmc

KEY = jax.random.key(0)


def gaussian(x):
    return -jnp.sum(x**2) / 2


def test_gibbs_lag_one_correlation_is_rho_squared():
    rho, count = 0.8, 20_000
    noise = np.sqrt(1 - rho**2)
    kernel = mcmc.compose(
        mcmc.Gibbs(lambda k, z: rho * z["b"] + noise * jax.random.normal(k), "a"),
        mcmc.Gibbs(lambda k, z: rho * z["a"] + noise * jax.random.normal(k), "b"),
    )
    a = np.asarray(mcmc.chain(KEY, kernel, {"a": 0.0, "b": 0.0}, count, burn=50).x["a"])
    error = 5 * np.sqrt(1 / count)
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1] - rho**2) < error
    assert abs(a.var() - 1) < 5 * np.sqrt(2 / count * (1 + rho**4) / (1 - rho**4))


def test_compose_never_uses_a_stale_cache():
    # A block that moves x between two MALA blocks: the second must see the new gradient.
    seen = mcmc.compose(
        mcmc.Gibbs(lambda k, z: z["a"] + 5.0, "a"), mcmc.MALA(lambda z: gaussian(z["a"]), step_size=0.1)
    )
    x = {"a": jnp.zeros(2)}
    state, info = seen.step(KEY, seen.init(x))
    fresh = mcmc.MALA(lambda z: gaussian(z["a"]), step_size=0.1)
    want, _ = fresh.step(jax.random.fold_in(KEY, 1), fresh.init({"a": jnp.full(2, 5.0)}))
    np.testing.assert_allclose(state.position["a"], want.position["a"], rtol=1e-6)
    assert int(info.nfe) == 2  # the rebuilt cache is counted
    # Two blocks on one target share the cache: two evaluations, not four.
    same = mcmc.compose(mcmc.MALA(gaussian), mcmc.MALA(gaussian, step_size=0.3))
    _, info = same.step(KEY, same.init(jnp.zeros(2)))
    assert int(info.nfe) == 2


def test_tempering_twice_replaces_beta():
    kernel = mcmc.tempered(mcmc.tempered(mcmc.MALA(gaussian), 0.5), 0.25)
    assert np.isclose(float(kernel.logdensity(jnp.ones(2))), -0.25)


def test_parallel_tempering_finds_both_modes():
    weights = jnp.log(jnp.array([0.25, 0.75]))

    def target(x):
        return jax.nn.logsumexp(weights - (x[0] - jnp.array([-5.0, 5.0])) ** 2 / 2)

    betas = jnp.array([1.0, 0.4, 0.15, 0.05])
    kernel = mcmc.ParallelTempering(mcmc.MALA(target, step_size=0.7), betas)

    def run(key):
        return mcmc.chain(key, kernel, jnp.full((4, 1), -5.0), 2000, burn=200, keep=lambda s, i: s.position[0, 0] > 0).x

    share = np.asarray(jax.vmap(run)(jax.random.split(KEY, 32))).mean(1)
    assert abs(share.mean() - 0.75) < 5 * share.std(ddof=1) / np.sqrt(32)
    assert share.std(ddof=1) / np.sqrt(32) < 0.02
    # Without the ladder the chain never leaves its mode.
    alone = mcmc.chain(KEY, mcmc.MALA(target, step_size=0.7), jnp.full(1, -5.0), 2000).x
    assert np.all(alone < 0)


MEAN, S = np.array([2.0, -1.0]), 0.5


def posterior(x):
    return -jnp.sum((x - MEAN) ** 2) / 2 / S**2 + prior(x)


def prior(x):
    return -jnp.sum(x**2) / 2 - jnp.log(2 * jnp.pi)


EVIDENCE = float(np.sum(-(MEAN**2) / 2 / (1 + S**2) - 0.5 * np.log(1 + S**2) + np.log(S)))


def check_evidence(found):
    """Of 100 runs: Z has no bias, errors are the spread that is seen, 95% intervals cover 85 to 99 times.

    Of a coverage of .95, fewer than 85 have probability 6e-5.
    """
    ratio = np.exp(np.asarray(found.value, np.float64) - EVIDENCE)
    assert abs(ratio.mean() - 1) < 5 * ratio.std(ddof=1) / 10
    assert abs(np.sqrt(np.mean(np.square(found.stderr))) / ratio.std(ddof=1) - 1) < 0.36  # 5 / sqrt(2 * 99)
    assert 85 <= np.sum(abs(found.value - EVIDENCE) < 1.96 * found.stderr) < 100


def test_ais_evidence():
    def run(key):
        start, move = jax.random.split(key)
        x = jax.random.normal(start, (500, 2))
        info = mcmc.ais(move, mcmc.MALA(posterior, step_size=0.1), x, jnp.linspace(0, 1, 15), reference=prior).info
        return info.log_evidence, info.ok

    found, ok = jax.jit(jax.vmap(run))(jax.random.split(KEY, 100))
    assert np.all(ok)
    check_evidence(found)


def test_smc_evidence_and_population():
    def run(key):
        start, move = jax.random.split(key)
        x = jax.random.normal(start, (500, 2))
        out = mcmc.smc(move, mcmc.MALA(posterior, step_size=0.1), x, reference=prior, max_levels=20)
        return out.info.log_evidence, out.info.ok, out.x.mean(0)

    found, ok, mean = jax.jit(jax.vmap(run))(jax.random.split(KEY, 100))
    assert np.all(ok)
    assert np.all(found.ess >= 0.49 * 500)
    check_evidence(found)
    spread = np.asarray(mean).std(0, ddof=1) / np.sqrt(100)
    assert np.all(np.abs(np.asarray(mean).mean(0) - MEAN / (1 + S**2)) < 5 * spread + 2e-3)


def test_smc_reports_a_path_that_is_too_long():
    x = jax.random.normal(KEY, (100, 2))
    out = mcmc.smc(KEY, mcmc.MALA(lambda x: 200 * posterior(x), step_size=1e-3), x, reference=prior, max_levels=2)
    assert not bool(out.info.ok)


def test_annealed_langevin_mode_weights():
    # Two far modes of unequal weight: a short ladder from wide noise recovers them.
    weights, means = jnp.log(jnp.array([0.3, 0.7])), jnp.array([-3.0, 3.0])

    def score(x, sigma):
        return jax.grad(lambda x: jax.nn.logsumexp(weights - (x[0] - means) ** 2 / 2 / (0.09 + sigma**2)))(x)

    sigmas = jnp.geomspace(6.0, 0.05, 12)
    count = 4000
    x = 6 * jax.random.normal(KEY, (count, 1))
    out = jax.vmap(lambda k, x: mcmc.annealed(k, score, x, sigmas, steps=40, step_size=2.5e-4))(
        jax.random.split(jax.random.key(1), count), x
    )
    assert int(out.info.nfe[0]) == 12 * 40 + 1
    share = float(jnp.mean(out.x > 0))
    assert abs(share - 0.7) < 0.03 + 4 * np.sqrt(0.21 / count)


def test_corrector_scales_with_its_own_norms():
    score = lambda x, t: -x / (1 + t**2)
    kernel = mcmc.Corrector(score, 0.5, snr=0.2)
    x = jnp.array([1.0, -2.0, 0.5])
    state, _ = kernel.step(KEY, kernel.init(x))
    noise = jax.random.normal(KEY, (3,))
    s = score(x, 0.5)
    size = 2 * (0.2 * jnp.linalg.norm(noise) / jnp.linalg.norm(s)) ** 2
    np.testing.assert_allclose(state.position, x + size * s + jnp.sqrt(2 * size) * noise, rtol=1e-5)


def test_predictor_corrector_beats_the_predictor():
    # Coarse ancestral steps down the noise levels; a corrector between them pulls each marginal back.
    s0 = 0.3

    def score(x, sigma):
        return -x / (s0**2 + sigma**2)

    sigmas = jnp.append(jnp.geomspace(5.0, 0.05, 6), 0.0)

    def sample(key, corrections):
        def level(carry, pair):
            (x, key), (sigma, after) = carry, pair
            key, move, correct = jax.random.split(key, 3)
            gap = sigma**2 - after**2
            x = x + gap * score(x, sigma) + jnp.sqrt(gap * after**2 / sigma**2) * jax.random.normal(move, x.shape)
            if corrections:
                kernel = mcmc.repeat(mcmc.Corrector(score, after, snr=0.16), corrections)
                x = mcmc.chain(correct, kernel, x, 1).x[-1]
            return (x, key), None

        start, key = jax.random.split(key)
        (x, _), _ = jax.lax.scan(level, (5.0 * jax.random.normal(start, (64,)), key), (sigmas[:-1], sigmas[1:]))
        return x

    keys = jax.random.split(KEY, 200)
    error = [abs(float(jnp.std(jax.vmap(lambda k, m=m: sample(k, m))(keys))) / s0 - 1) for m in (0, 30)]
    assert error[1] < 0.5 * error[0]


def test_a_plan_and_a_corrector_alternate():
    # Predictor-corrector from public pieces: rows of a plan, and between them Langevin moves at the time they land on.
    import jsamp as js

    schedule = js.noise.VE(0.05, 5.0)
    law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0] * 64], stds=[0.3])
    plan = js.solve.ddim(schedule, js.noise.logsnr_grid(schedule, 6, final="sigma_min"), eta=1.0)

    def sample(key, moves):
        start, noise, correct = jax.random.split(key, 3)

        def level(state, row):
            state = js.solve.step(noise, law, state, row)
            if moves:
                kernel = mcmc.repeat(mcmc.Corrector(mcmc.NoisedScore(law), row.t_next, snr=0.16), moves)
                moved, _ = kernel.step(jax.random.fold_in(correct, state.index), kernel.init(state.x))
                state = state._replace(x=moved.position)
            return state, None

        x = 5.0 * jax.random.normal(start, (64,))
        return jax.lax.scan(level, js.solve.init(plan, x), plan)[0].x

    keys = jax.random.split(KEY, 200)
    want = np.sqrt(0.3**2 + 0.05**2)
    error = [abs(float(jnp.std(jax.vmap(lambda k, m=m: sample(k, m))(keys))) / want - 1) for m in (0, 30)]
    assert error[0] > 0.03
    assert error[1] < 0.5 * error[0]
    alone = js.sample(jax.random.key(1), law, jnp.ones(64), plan).x
    state = js.solve.init(plan, jnp.ones(64))
    for i in range(plan.nfe):
        state = js.solve.step(jax.random.key(1), law, state, jax.tree.map(lambda a, i=i: a[i], plan))
    np.testing.assert_allclose(state.x, alone, rtol=2e-5, atol=2e-6)


def test_tune_finds_scales_and_acceptance():
    scale = jnp.logspace(0, 1.5, 20)

    def target(x):
        return -jnp.sum((x / scale) ** 2) / 2

    for cls, goal in ((mcmc.MALA, 0.574), (mcmc.HMC, 0.8)):
        kernel, x = mcmc.tune(KEY, cls(target), jnp.zeros((8, 20)), 600, chains=8)
        assert x.shape == (8, 20)
        np.testing.assert_allclose(jnp.sqrt(kernel.metric) / scale, 1, atol=0.25)
        accept = jax.vmap(lambda k, x, kernel=kernel: mcmc.chain(k, kernel, x, 200).info.accept)(
            jax.random.split(KEY, 8), x
        )
        assert abs(float(accept.mean()) - goal) < 0.1


def test_tune_dense_metric_and_one_chain():
    cov = np.array([[1.0, 1.6], [1.6, 4.0]])
    precision = jnp.asarray(np.linalg.inv(cov), jnp.float32)

    def target(x):
        return -jnp.sum((precision * x[None, :]).sum(1) * x) / 2

    kernel, x = mcmc.tune(KEY, mcmc.NUTS(target, max_depth=5), jnp.zeros((16, 2)), 600, metric="dense", chains=16)
    assert x.shape == (16, 2)
    factor = np.asarray(kernel.metric.factor)
    # 16 chains and some 300 steps of the last window: 5 standard errors of the largest variance are .4.
    np.testing.assert_allclose(factor @ factor.T, cov, atol=0.4)
    alone, x = mcmc.tune(KEY, mcmc.NUTS(target), jnp.zeros(2), 800, metric="dense")
    assert x.shape == (2,)
    assert float(np.corrcoef(mcmc.chain(KEY, alone, x, 500).x.T)[0, 1]) > 0.6
    untouched, _ = mcmc.tune(KEY, mcmc.NUTS(target), jnp.zeros(2), 50, metric=None)
    assert untouched.metric is None


def test_tune_shares_over_the_users_own_axis():
    keys = jax.random.split(KEY, 4)
    kernel, x = jax.vmap(
        lambda k, x: mcmc.tune(k, mcmc.MALA(gaussian), x, 60, axis_name="chain"), out_axes=(None, 0), axis_name="chain"
    )(keys, jnp.zeros((4, 3)))
    again, y = mcmc.tune(KEY, mcmc.MALA(gaussian), jnp.zeros((4, 3)), 60, chains=4)
    assert np.isclose(kernel.step_size, again.step_size, rtol=1e-4)
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_tuned_mclmc_moves_at_the_asked_error():
    short, _ = mcmc.tune(KEY, mcmc.MCLMC(gaussian), jnp.zeros((4, 50)), 100, chains=4)
    assert np.isclose(short.length, np.sqrt(50))
    kernel, x = mcmc.tune(KEY, mcmc.MCLMC(gaussian), jnp.zeros((4, 50)), 500, chains=4)
    assert 0.3 * np.sqrt(50) < kernel.length < 3 * np.sqrt(50)  # measured; sqrt(d) is the round target's optimum
    draws = jax.vmap(lambda k, x: mcmc.chain(k, kernel, x, 500, keep=lambda s, i: (s.position, i.aux)).x)(
        jax.random.split(KEY, 4), x
    )
    assert 5e-5 < float(jnp.var(draws[1])) / 50 < 5e-3
    assert abs(float(jnp.mean(draws[0] ** 2)) - 1) < 0.1
    assert float(jnp.min(estimate.ess(draws[0]))) > 50


@pytest.mark.parametrize("nodes", [1, 4])
def test_line_integral_is_exact_for_polynomials(nodes):
    from jsamp.mcmc._metropolize import line_integral

    # Gauss-Legendre with n nodes integrates degree 2 n - 1: a quartic log-density has a cubic integrand.
    degree = 2 * nodes
    x, y = jnp.array([0.3, -0.4]), jnp.array([0.9, 0.8])
    f = lambda x: -jnp.sum(x ** min(degree, 4))
    got = line_integral(jax.tree_util.Partial(jax.grad(f)), x, y, nodes)
    np.testing.assert_allclose(got, f(y) - f(x), rtol=1e-5)
