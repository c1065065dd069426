"""Particles with weights against closed forms: evidence, posterior moments, error rates, and the twisted proposal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import output_moments

import jsamp as js

VP = js.noise.VP()
GRID = js.noise.logsnr_grid(VP, 16, final="zero")
PLAN = js.solve.ddpm(VP, GRID)
LAW = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.0]], stds=[1.0])
MIXTURE = js.denoise.GaussianMixture(VP, weights=[0.3, 0.7], means=[[-1.0], [0.8]], stds=[0.3, 0.5])


def reward(x0):
    return -0.5 * (x0[:, 0] - 2) ** 2


def twist(weight, x0, var):
    return weight * (-0.5 * (x0[:, 0] - 2) ** 2 / (1 + var) - 0.5 * jnp.log(1 + var))


EXACT, MEAN, WRONG, WALL, NOTHING, BROKEN = np.eye(6, dtype=np.float32)


def potential(kind, x, prediction, info):
    """One function for all tests, so that they share a program: a mixture of values by numbers."""
    var = info.sigma**2
    exact = -0.5 * (info.alpha * x[:, 0] - 2) ** 2 / (1 + var) - 0.5 * jnp.log(1 + var)
    wrong = -0.3 * (prediction.x0[:, 0] + 1) ** 2
    value = kind[0] * exact + kind[1] * reward(prediction.x0) + kind[2] * wrong
    value = jnp.where((kind[3] > 0) & (x[:, 0] <= 0) | (kind[4] > 0), -jnp.inf, value)
    return jnp.where(kind[5] > 0, jnp.nan, value)


def smc(kind, **options):
    """Exact value: log E[exp reward(x0) | x_t = x] for standard normal data."""
    return js.steer.SMC(jax.tree_util.Partial(potential, kind), reward, **{"stop": 99, **options})


def twisted(law, weight=1.0, **options):
    return js.denoise.Twisted(law, jax.tree_util.Partial(twist, np.float32(weight)), **options)


@functools.partial(jax.jit, static_argnames=("num", "seeds"))
def runs(steer, law, num, seeds, plan=PLAN):
    """Many independent runs of a population: reports, weighted means and second moments."""

    def one(key):
        first, second = jax.random.split(key)
        result = js.sample(second, law, VP.prior(first, (num, 1)), plan, steer=steer)
        weight = jax.nn.softmax(result.info.report.log_weight)
        x = result.x[:, 0]
        return result.info.report, jnp.sum(weight * x), jnp.sum(weight * x**2)

    return jax.vmap(one)(jax.random.split(jax.random.key(7), seeds))


@functools.cache
def gaussian_answer():
    """Evidence, mean and variance of the tilted law of the discretised sampler, which is a Gaussian."""
    mean, var = output_moments(PLAN, 0.0, 1.0, 0.0, 1.0)
    log_z = -0.5 * np.log(1 + var) - 0.5 * (2 - mean) ** 2 / (1 + var)
    gain = var / (1 + var)
    return log_z, mean + gain * (2 - mean), var / (1 + var)


STEERS = {
    "exact": (smc(EXACT), LAW),
    "predicted mean": (smc(MEAN), LAW),
    "wrong value": (smc(WRONG), LAW),
    "stratified": (smc(MEAN, scheme="stratified"), LAW),
    "multinomial, always": (smc(MEAN, scheme="multinomial", ess=1.0), LAW),
    "never": (smc(MEAN, ess=0.0), LAW),
    "max": (smc(0.1 * MEAN, combine="max"), LAW),
    "sum": (smc(0.02 * MEAN, combine="sum"), LAW),
    "every third row": (smc(MEAN, every=3, start=2, stop=12), LAW),
    "twisted": (js.steer.SMC(None, reward), twisted(LAW)),
    "twisted, half": (js.steer.SMC(None, reward, every=2), twisted(LAW, scale=0.5)),
    "twisted, wrong data_std": (js.steer.SMC(None, reward, ess=0.9), twisted(LAW, data_std=0.5)),
    "twisted, no twist": (js.steer.SMC(None, reward), twisted(LAW, 0.0)),
}


@pytest.mark.parametrize("name", STEERS)
def test_evidence_is_unbiased_and_moments_are_those_of_the_posterior(name):
    """400 runs of 64 particles: the mean of Z, and ratios of means, in units of their Monte-Carlo error."""
    steer, law = STEERS[name]
    report, first, second = runs(steer, law, 64, 400)
    log_z, mean, var = gaussian_answer()
    z = np.exp(np.asarray(report.log_evidence.value, np.float64) - log_z)
    assert abs(z.mean() - 1) < 4.5 * z.std() / 20 + 1e-4
    # Weighted by Z, the self-normalised averages of a run are unbiased too.
    for value, wanted in ((first, mean), (second, var + mean**2)):
        gap = z * (np.asarray(value, np.float64) - wanted)
        assert abs(gap.mean()) < 4.5 * gap.std() / 20 + 1e-4
    if name == "never":
        assert not report.resampled.any()


def test_the_standard_error_is_that_of_the_log_evidence():
    for name, low, high in (("predicted mean", 0.85, 1.35), ("twisted", 0.85, 1.25)):
        steer, law = STEERS[name]
        report = runs(steer, law, 64, 400)[0]
        spread = np.std(report.log_evidence.value)
        claimed = np.sqrt(np.mean(np.square(report.log_evidence.stderr)))
        assert low < claimed / spread < high, name


@pytest.mark.parametrize("name", ["exact", "wrong value"])
def test_the_error_falls_with_the_root_of_the_number_of_particles(name):
    steer, law = STEERS[name]
    log_z = gaussian_answer()[0]
    sizes = np.array([64, 512])
    errors = [np.sqrt(np.mean((runs(steer, law, int(p), 400)[0].log_evidence.value - log_z) ** 2)) for p in sizes]
    rate = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert abs(rate + 0.5) < 0.1


def test_the_exact_twist_leaves_weights_even_as_steps_shrink():
    ess = []
    for steps in (16, 64):
        plan = js.solve.ddpm(VP, js.noise.logsnr_grid(VP, steps, final="zero"))
        ess.append(float(runs(*STEERS["twisted"], 256, 16, plan)[0].log_evidence.ess.mean()) / 256)
    assert ess[1] > 0.9
    assert 1 - ess[1] < 0.5 * (1 - ess[0])


def test_a_mixture_has_the_evidence_of_plain_sampling():
    """Not Gaussian: the answer is the mean of exp(reward) over 2^17 plain samples of the same plan."""
    first, second = jax.random.split(jax.random.key(3))
    plain = js.sample(second, MIXTURE, VP.prior(first, (2**17, 1)), PLAN).x
    mass = np.exp(np.asarray(reward(plain), np.float64))
    for steer, law in (
        (smc(0.2 * MEAN, ess=0.8), MIXTURE),
        (js.steer.SMC(None, reward), twisted(MIXTURE, data_std=0.9)),
    ):
        z = np.exp(np.asarray(runs(steer, law, 64, 400)[0].log_evidence.value, np.float64))
        error = np.hypot(z.std() / 20, mass.std() / np.sqrt(2**17))
        assert abs(z.mean() - mass.mean()) < 4.5 * error


def test_the_ratio_of_transitions_is_that_of_two_normal_densities(x64):
    """Against densities written out, in float64, at one row."""
    steer = js.steer.SMC(None, reward, ess=0.0)
    key, x = jax.random.key(0), jnp.linspace(-1.0, 2.0, 5)[:, None]
    plan = js.solve.ddpm(VP, GRID[3:6])
    kept = js.sample(key, twisted(LAW), x, plan, steer=steer, keep=lambda x, p: (x, p.x0, p.aux)).info
    (after, guided, aux), rows = kept.kept, range(plan.nfe)
    total = np.zeros(5)
    state = np.asarray(x)
    for r in rows:
        a, c, n = plan.state_coef[r], plan.weights[r, 0], plan.noise_std[r]
        total += np.asarray(aux.value[r]) - (np.asarray(aux.value[r - 1]) if r else 0)
        for x0, sign in ((aux.x0[r], 1), (guided[r], -1)):
            total += sign * np.asarray(-0.5 * ((after[r] - a * state - c * x0) / n) ** 2)[:, 0]
        state = after[r]
    total += np.asarray(reward(state) - aux.value[-1])
    np.testing.assert_allclose(kept.report.log_weight, total, rtol=1e-9, atol=1e-9)


def test_impossible_particles_are_dropped_and_an_impossible_population_says_so():
    report, mean, _ = runs(smc(WALL, ess=1.0), LAW, 64, 400)
    assert np.all(np.isfinite(report.log_evidence.value))
    assert np.all(np.asarray(mean) > 0.2)
    report = runs(smc(NOTHING), LAW, 64, 400)[0]
    assert np.all(np.asarray(report.log_evidence.value) == -np.inf)
    assert np.all(np.asarray(report.resampled) == 0)
    assert np.all(np.asarray(report.log_weight) == -np.inf)
    # Of weights that do not exist there is no error and no effective number; NaN stays visible.
    assert np.all(np.isnan(report.log_evidence.stderr) & (np.asarray(report.log_evidence.ess) == 0))
    assert np.all(np.isnan(runs(smc(BROKEN), LAW, 64, 400)[0].log_evidence.value))


def test_refusals():
    def run(steer, x, plan=PLAN, law=LAW):
        return js.sample(jax.random.key(0), law, x, plan, steer=steer)

    good, x = smc(MEAN), jnp.ones((4, 1))
    for wrong in (jnp.ones((1, 1)), {"a": x, "b": jnp.ones((3, 1))}):
        with pytest.raises(ValueError, match="axis 0"):
            run(good, wrong)
    with pytest.raises(ValueError, match="no noise"):
        run(good, x, js.solve.ddim(VP, GRID))
    with pytest.raises(ValueError, match=r"potential must return .* \[4\]; got shape \(\)"):
        run(js.steer.SMC(lambda x, p, i: jnp.float32(0), reward), x)
    for unclear in (None, [0.0] * 4, jnp.ones(4) * 1j):
        with pytest.raises(TypeError, match="potential must return an array of real numbers"):
            run(js.steer.SMC(lambda x, p, i, unclear=unclear: unclear, reward), x)
    with pytest.raises(TypeError, match="every counts rows"):
        smc(MEAN, every=2.5)
    with pytest.raises(ValueError, match="ess must be one number"):
        smc(MEAN, ess=[0.5, 0.5])
    with pytest.raises(ValueError, match="final must return"):
        run(js.steer.SMC(lambda x, p, i: x[:, 0], lambda x0: x0), x)
    with pytest.raises(TypeError, match="brings no twist"):
        run(js.steer.SMC(None, reward), x)
    stochastic = js.solve.dpmpp(VP, GRID, tau=1.0)
    for plan, said in (
        (js.solve.sa_solver(VP, GRID), "stages"), (stochastic, "history"), (js.solve.ddim(VP, GRID), "no noise"),
        (js.solve.heavy_ball(stochastic, 0.8), "momentum"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            run(js.steer.SMC(None, reward), x, plan, twisted(LAW))
    ve = js.noise.VE()
    law = twisted(js.denoise.GaussianMixture(ve, weights=[1.0], means=[[0.0]], stds=[1.0]))
    with pytest.raises(ValueError, match="stages or a corrector, noise before its rows"):
        run(js.steer.SMC(None, reward), x, js.solve.edm(ve, js.noise.karras_grid(ve, 6), churn=1.0), law)
    for options in ({"ess": 1.5}, {"scheme": "topk"}, {"every": 0}, {"start": -1}, {"combine": "product"}):
        with pytest.raises(ValueError, match=f"SMC: {next(iter(options))}"):
            smc(MEAN, **options)
    with pytest.raises(ValueError, match="data_std"):
        twisted(LAW, data_std=-1.0)
