"""Kernels against closed forms: stationary variances, reversibility, orders, moments within Monte Carlo error."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate, mcmc

SCALE = jnp.array([0.5, 1.0, 2.0])


def gaussian(x):
    return -jnp.sum((x / SCALE) ** 2) / 2


def unit(x):
    return -jnp.sum(x**2) / 2


WEIGHTS = jnp.log(jnp.array([0.3, 0.7]))


def bimodal(modes, x):
    # Two overlapping modes on the first axis, N(0, 1) on the second. With both modes at zero it is a Gaussian; the modes
    # are a leaf, so both targets are one program.
    along = jax.nn.logsumexp(WEIGHTS - (x[0] - modes) ** 2 / 2 / 0.8)
    return along - x[1] ** 2 / 2


MODES = jnp.array([-1.5, 1.5])
Law = jax.tree_util.Partial
mixture = Law(bimodal, MODES)


def apart(modes, z):
    return bimodal(modes, jnp.stack(z))


def against_unit(modes, x):
    return bimodal(modes, x) + jnp.sum(x**2) / 2


def slope(modes, x):
    return jax.grad(bimodal, argnums=1)(modes, x)


def doubled(modes, x):
    return 2 * bimodal(modes, x)


@functools.partial(jax.jit, static_argnames=("num", "count"))
def end_points(key, kernel, x, num, count):
    # Many short chains: independent end points, so plain standard errors hold.
    keys = jax.random.split(key, count)
    last = jax.vmap(lambda k, x: mcmc.chain(k, kernel, x, num).x)(keys, x)
    return jax.tree.map(lambda leaf: leaf[:, -1], last)


INVARIANT = {
    "MALA": mcmc.MALA(mixture, step_size=0.3),
    "MALA metric": mcmc.MALA(mixture, step_size=0.3, metric=jnp.array([2.0, 0.7])),
    "MALA dense": mcmc.MALA(mixture, step_size=0.3, metric=mcmc.DenseMetric([[2.0, 0.5], [0.5, 1.0]])),
    "Barker": mcmc.Barker(mixture, step_size=1.0),
    "HMC": mcmc.HMC(mixture, step_size=0.6, metric=jnp.array([2.0, 0.7])),
    "HMC fixed": mcmc.HMC(mixture, step_size=0.9, length=1.8, jitter=False),
    "NUTS": mcmc.NUTS(mixture, step_size=0.7, metric=mcmc.DenseMetric([[2.0, 0.5], [0.5, 1.0]])),
    "GHMC": mcmc.GHMC(mixture, step_size=0.8),
    "RandomWalk": mcmc.RandomWalk(mixture, step_size=1.2),
    "IndependentMH": mcmc.IndependentMH(
        mixture, lambda key: 2 * jax.random.normal(key, (2,)), lambda x: -jnp.sum(x**2) / 8
    ),
    "Slice": mcmc.Slice(mixture, width=1.0, max_steps=3),
    "EllipticalSlice": mcmc.EllipticalSlice(Law(against_unit, MODES)),
    "metropolize": mcmc.metropolize(mcmc.ULA(mixture, step_size=0.5), mixture),
    "metropolize score": mcmc.metropolize(mcmc.RandomWalk(mixture, step_size=1.0), score=Law(slope, MODES)),
    "compose": mcmc.compose(
        mcmc.on(mcmc.MALA(Law(apart, MODES), step_size=0.5), 0),
        mcmc.on(mcmc.RandomWalk(Law(apart, MODES), step_size=1.0), 1),
    ),
    "cycle": mcmc.cycle(mcmc.MALA(mixture, step_size=0.5), mcmc.RandomWalk(mixture, step_size=1.0)),
    "repeat": mcmc.repeat(mcmc.Barker(mixture, step_size=1.0), 2),
    "tempered": mcmc.tempered(mcmc.MALA(Law(doubled, MODES), step_size=0.3), 0.5),
    "mixture": mcmc.mixture([0.4, 0.6], [mcmc.MALA(mixture, step_size=0.5), mcmc.Slice(mixture)]),
}


@pytest.mark.parametrize("name", INVARIANT)
def test_exact_draws_stay_exact(name):
    # Start from independent draws of the target; a few steps must leave every moment within 5 standard errors: on the
    # mixture, and on a Gaussian.
    for spread in (1.5, 0.0):
        modes = MODES * (spread / 1.5)
        kernel = jax.tree.map(lambda leaf, modes=modes: modes if leaf is MODES else leaf, INVARIANT[name])
        assert any(leaf is modes for leaf in jax.tree.leaves(kernel))
        check_invariance(name, kernel, spread, count=20_000)


def check_invariance(name, kernel, spread, count):
    rng = np.random.default_rng(0)
    mode = np.where(rng.random(count) < 0.7, spread, -spread)
    start = np.stack([mode + np.sqrt(0.8) * rng.normal(size=count), rng.normal(size=count)], 1).astype(np.float32)
    x = tuple(jnp.asarray(start.T)) if name == "compose" else jnp.asarray(start)
    y = end_points(jax.random.key(1), kernel, x, 3, count)
    y = np.stack(y, 1) if name == "compose" else np.asarray(y)
    assert np.mean(np.any(y != start, axis=1)) > 0.5
    first, second = y[:, 0].astype(np.float64), y[:, 1].astype(np.float64)
    exact = {
        "mean": (first, spread * 0.4),
        "square": (first**2, spread**2 + 0.8),
        "right mode": (first > 0, _mass_right(spread)),
        "other mean": (second, 0.0),
        "other square": (second**2, 1.0),
        "fourth": (second**4, 3.0),
        "cross": (first * second, 0.0),
    }
    for moment, (values, want) in exact.items():
        error = np.std(values) / np.sqrt(count)
        assert abs(np.mean(values) - want) < 5 * error, (moment, spread, np.mean(values), want, error)


def _mass_right(spread):
    from math import erf, sqrt

    inside = 0.5 * (1 + erf(spread / sqrt(0.8) / sqrt(2)))
    return 0.7 * inside + 0.3 * (1 - inside)


@pytest.mark.parametrize("h", [0.1, 0.5])
def test_ula_has_its_closed_form_bias(h):
    # Variance s^2 / (1 - h / (2 s^2)): many independent chains run to stationarity.
    count, s2 = 40_000, 1.0
    x = jax.random.normal(jax.random.key(2), (count,))
    y = np.asarray(end_points(jax.random.key(3), mcmc.ULA(unit, step_size=h), x, int(8 / h), count))
    want = s2 / (1 - h / (2 * s2))
    assert abs(np.var(y) / want - 1) < 5 * np.sqrt(2 / count)
    # With A = the covariance the inflation is uniform, 1 / (1 - h / 2).
    x = jax.random.normal(jax.random.key(2), (count, 3)) * SCALE[None]
    kernel = mcmc.ULA(gaussian, step_size=h, metric=SCALE**2)
    y = np.asarray(end_points(jax.random.key(3), kernel, x, int(8 / h), count))
    np.testing.assert_allclose(np.var(y / np.asarray(SCALE), axis=0), 1 / (1 - h / 2), rtol=5 * np.sqrt(2 / count))


@pytest.mark.parametrize(("cls", "want"), [(mcmc.BAOAB, 1.0), (mcmc.OBABO, 1 / (1 - 1.2**2 / 4))])
def test_underdamped_variance(cls, want):
    count = 40_000
    x = jax.random.normal(jax.random.key(2), (count,))
    y = np.asarray(end_points(jax.random.key(3), cls(unit, step_size=1.2), x, 25, count))
    assert abs(np.var(y) / want - 1) < 5 * np.sqrt(2 / count)


def test_full_batch_sgld_is_ula_with_the_same_noise():
    sgld = mcmc.SGLD(lambda x, batch: jax.grad(gaussian)(x), jnp.zeros(3), step_size=0.1)
    ula = mcmc.ULA(score=jax.grad(gaussian), step_size=0.1)
    key, x = jax.random.key(0), jnp.ones(3)
    np.testing.assert_allclose(mcmc.chain(key, sgld, x, 20).x, mcmc.chain(key, ula, x, 20).x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.25, 1.0])
@pytest.mark.parametrize("center", [False, True])
def test_sgld_temperature_and_minibatch_noise(temperature, center):
    # Posterior of a mean under N(0, 1) prior and unit noise: AR(1) with extra variance h^2 V from the minibatch.
    n, size, h, count = 50, 5, 4e-3, 20_000
    data = np.random.default_rng(1).normal(size=n).astype(np.float32)
    s2, mode = 1 / (n + 1), data.sum() / (n + 1)
    options = {"center": jnp.float32(mode), "center_score": jnp.float32(data.sum() - n * mode)} if center else {}
    score = mcmc.MinibatchScore(lambda m: -(m**2) / 2, lambda m, y: -((y - m) ** 2) / 2, n, **options)
    kernel = mcmc.SGLD(score, jnp.asarray(data), step_size=h, temperature=temperature, batch=size)
    y = np.asarray(end_points(jax.random.key(0), kernel, jnp.full(count, mode), 40, count), np.float64)
    noise = 0 if center else n**2 * np.var(data) / size
    shrink = 1 - h / s2
    want = (2 * h * temperature + h**2 * noise) / (1 - shrink**2) * (1 - shrink ** (2 * 40))
    assert abs(np.mean(y) - mode) < 5 * np.sqrt(want / count)
    assert abs(np.var(y) / want - 1) < 5 * np.sqrt(2 / count)


def test_sghmc_and_psgld_reach_a_known_variance():
    count = 20_000
    score = lambda x, batch: -x
    x = jax.random.normal(jax.random.key(0), (count,))
    kernel = mcmc.SGHMC(score, jnp.zeros(1), step_size=1e-3, friction=0.1)
    y = np.asarray(end_points(jax.random.key(1), kernel, x, 200, count))
    # AR(2): with v' = (1 - a) v - h x + noise and x' = x + v', the exact stationary variance is a Lyapunov solution.
    a, h = 0.1, 1e-3
    step = np.array([[1 - h, 1 - a], [-h, 1 - a]])
    force = np.ones((2, 2)) * 2 * a * h
    want = np.linalg.solve(np.eye(4) - np.kron(step, step), force.ravel()).reshape(2, 2)
    transient = np.linalg.matrix_power(step, 200)
    began = np.diag([1.0, 0.0])
    want = want + transient @ (began - want) @ transient.T
    assert abs(np.var(y) / want[0, 0] - 1) < 5 * np.sqrt(2 / count)
    # pSGLD with a frozen preconditioner G (rate 0, constant |g|) is preconditioned ULA.
    sign = lambda x, batch: -jnp.sign(x)
    kernel = mcmc.pSGLD(sign, jnp.zeros(1), step_size=0.05, rate=0.0, floor=1.0)
    ula = mcmc.ULA(score=lambda x: -jnp.sign(x), step_size=0.05, metric=0.5)
    np.testing.assert_allclose(
        mcmc.chain(jax.random.key(0), kernel, 1.0, 50).x, mcmc.chain(jax.random.key(0), ula, 1.0, 50).x, atol=1e-4
    )


def test_mala_ratio_is_antisymmetric_and_equals_the_two_gaussians():
    from jsamp.mcmc._langevin import _correction

    x, y, h, metric = jnp.array([0.3, -1.0, 0.2]), jnp.array([0.5, 0.1, -0.4]), 0.3, SCALE**2
    gx, gy = jax.grad(gaussian)(x), jax.grad(gaussian)(y)
    forward = _correction(x, y, gx, gy, metric, h)
    assert np.isclose(forward, -_correction(y, x, gy, gx, metric, h), rtol=1e-5)

    def log_q(to, at, g):
        return -jnp.sum((to - at - h * metric * g) ** 2 / metric) / (4 * h)

    assert np.isclose(forward, log_q(x, y, gy) - log_q(y, x, gx), rtol=1e-4)


def test_leapfrog_is_reversible_and_of_second_order(x64):
    from jsamp.mcmc._hamiltonian import energy_of, leapfrog

    def quartic(x):
        return -jnp.sum(x**4) / 4 - jnp.sum(x**2) / 2

    x, r = jnp.array([0.7, -0.4]), jnp.array([0.3, 0.9])
    errors, steps = [], [0.2, 0.1, 0.05, 0.025]
    for eps in steps:
        kernel = mcmc.HMC(quartic, step_size=eps, metric=jnp.array([1.0, 2.0]))
        point = kernel.init(x).cache
        y, s, end = x, r, point
        for _ in range(round(1.0 / eps)):
            y, s, end = leapfrog(kernel, y, s, end.grad, eps)
        errors.append(abs(energy_of(end.logdensity, s) - energy_of(point.logdensity, r)))
        s = -s
        for _ in range(round(1.0 / eps)):
            y, s, end = leapfrog(kernel, y, s, end.grad, eps)
        np.testing.assert_allclose(y, x, atol=1e-12)
        np.testing.assert_allclose(-s, r, atol=1e-12)
    slope = np.polyfit(np.log(steps), np.log(np.array(errors)), 1)[0]
    assert 1.8 < slope < 2.3


@pytest.mark.slow
def test_jitter_saves_hmc_from_resonance():
    # A trajectory of one full period of N(0, I) ends where it began; a varying length does not.
    start = jnp.ones(10)
    fixed = mcmc.HMC(unit, step_size=0.1, length=6.25, jitter=False)
    varied = mcmc.HMC(unit, step_size=0.1, length=6.25)
    sizes = []
    for kernel in (fixed, varied):
        draws = mcmc.chain(jax.random.key(0), kernel, start, 400)
        assert draws.info.accept > 0.9
        sizes.append(float(jnp.min(estimate.ess(draws.x[None]))))
    assert sizes[0] < 0.05 * 400
    assert sizes[1] > 0.3 * 400


def test_van_der_corput():
    from jsamp.mcmc._hamiltonian import radical_inverse

    got = jax.vmap(radical_inverse)(jnp.arange(7))
    assert got.tolist() == [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]


@pytest.mark.slow
def test_mclmc_second_moment_and_energy():
    kernel = mcmc.MCLMC(unit, step_size=2.0, length=10.0)
    x = jax.random.normal(jax.random.key(0), (64, 100))
    draws, errors = jax.vmap(
        lambda k, x: mcmc.chain(k, kernel, x, 500, keep=lambda s, i: (jnp.mean(s.position**2), i.aux)).x
    )(jax.random.split(jax.random.key(1), 64), x)
    assert abs(float(jnp.mean(draws)) - 1) < 0.02
    assert float(jnp.var(errors)) / 100 < 5e-3
    # In the limit of small steps the energy is kept.
    small = mcmc.MCLMC(unit, step_size=0.05, length=10.0)
    _, info = small.step(jax.random.key(0), small.init(x[0], jax.random.key(1)))
    assert abs(float(info.aux)) < 1e-3


@pytest.mark.slow
def test_barker_survives_a_wrong_step_size():
    x = jax.random.normal(jax.random.key(0), (2000, 5))
    rates = {}
    for cls, h in ((mcmc.MALA, 10.0), (mcmc.Barker, 20.0)):
        _, info = jax.vmap(lambda k, x, cls=cls, h=h: (lambda kernel: kernel.step(k, kernel.init(x)))(cls(unit, h)))(
            jax.random.split(jax.random.key(1), 2000), x
        )
        rates[cls.__name__] = float(jnp.mean(info.accept))
    assert rates["MALA"] < 1e-3
    assert rates["Barker"] > 1e-2


def test_random_walk_acceptance():
    kernel = mcmc.RandomWalk(unit, step_size=2.38 / np.sqrt(50))
    x = jax.random.normal(jax.random.key(0), (400, 50))
    accept = jax.vmap(lambda k, x: mcmc.chain(k, kernel, x, 50).info.accept)(
        jax.random.split(jax.random.key(1), 400), x
    )
    assert abs(float(jnp.mean(accept)) - 0.24) < 0.02


def test_elliptical_slice_on_a_conjugate_gaussian():
    # Prior N(m, C), observation noise 1: the posterior is Gaussian with known moments.
    cov = jnp.array([[1.0, 0.6], [0.6, 2.0]])
    mean, y = jnp.array([0.5, -0.5]), jnp.array([1.0, 2.0])
    kernel = mcmc.EllipticalSlice(lambda x: -jnp.sum((x - y) ** 2) / 2, mcmc.DenseMetric(cov), mean)
    gain = np.asarray(cov) @ np.linalg.inv(np.asarray(cov) + np.eye(2))
    want, post = np.asarray(mean) + gain @ np.asarray(y - mean), np.asarray(cov) - gain @ np.asarray(cov)
    count = 20_000
    draws = np.asarray(end_points(jax.random.key(0), kernel, jnp.zeros((count, 2)), 25, count))
    error = np.sqrt(np.diag(post) / count)
    assert np.all(np.abs(draws.mean(0) - want) < 5 * error)
    np.testing.assert_allclose(np.cov(draws.T), post, atol=5 * 2 * np.max(np.diag(post)) / np.sqrt(count))


@pytest.mark.slow
def test_nuts_stops_at_the_same_length_as_numpyro():
    numpyro = pytest.importorskip("numpyro.infer")
    scale = jnp.logspace(0, 1, 20)

    def target(x):
        return -jnp.sum((x / scale) ** 2) / 2

    kernel = mcmc.NUTS(target, step_size=0.45, metric=scale.at[::3].mul(1.7) ** 2)
    mine = mcmc.chain(jax.random.key(0), kernel, scale, 1500, keep=lambda s, i: i.nfe).x
    peer = numpyro.MCMC(
        numpyro.NUTS(
            potential_fn=lambda x: -target(x), step_size=0.45, adapt_step_size=False, adapt_mass_matrix=False,
            inverse_mass_matrix=scale.at[::3].mul(1.7) ** 2,
        ),
        num_warmup=0, num_samples=1500, progress_bar=False,
    )  # fmt: skip
    peer.run(jax.random.key(1), init_params=scale, extra_fields=("num_steps",))
    theirs = np.mean(peer.get_extra_fields()["num_steps"])
    assert abs(float(jnp.mean(mine)) / theirs - 1) < 0.05


@pytest.mark.slow
def test_nuts_on_eight_schools():
    # Non-centred; the posterior mean of mu is about 4.4 and its sd about 3.3 (published reference posterior).
    y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sd = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def logdensity(z):
        tau = jnp.exp(z["log_tau"])
        prior = -jnp.sum(z["eta"] ** 2) / 2 - z["mu"] ** 2 / 50 - jnp.log1p((tau / 5) ** 2) + z["log_tau"]
        return prior - jnp.sum(((y - z["mu"] - tau * z["eta"]) / sd) ** 2) / 2

    x = {"mu": jnp.zeros(4), "log_tau": jnp.ones(4), "eta": jnp.zeros((4, 8))}
    kernel, x = mcmc.tune(jax.random.key(0), mcmc.NUTS(logdensity), x, 400, chains=4)
    draws = jax.vmap(lambda k, x: mcmc.chain(k, kernel, x, 1000).x)(jax.random.split(jax.random.key(1), 4), x)
    mean = estimate.mean(draws["mu"])
    assert abs(float(mean.value) - 4.4) < 0.15 + 4 * float(mean.stderr)
    assert abs(float(jnp.std(draws["mu"])) - 3.3) < 0.3
    assert float(jnp.max(estimate.rhat(draws["eta"]))) < 1.02


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey, lambda seed: jax.random.key(seed, impl="rbg")])
def test_the_written_out_generator_gives_the_bits_of_jax(make):
    from jsamp._core import _random

    key = make(3)
    for number in (0, 7, 2**32 - 1):
        want = jax.random.fold_in(key, np.uint32(number))
        got = _random.fold_in(key, np.uint32(number))
        assert got.dtype == want.dtype
        assert np.array_equal(_random.words(got), _random.words(want))
    for draw in (_random.normal, _random.normal_once):
        assert np.array_equal(draw(key, (7, 143), jnp.float32), jax.random.normal(key, (7, 143)))
    step = mcmc.NUTS(unit, step_size=0.5)
    assert np.all(np.isfinite(mcmc.chain(key, step, jnp.zeros(2), 3).x))
