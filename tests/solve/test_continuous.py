"""Inversion, likelihood and the adaptive integrator, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture, run_table, slope
from scipy.integrate import solve_ivp
from scipy.stats import norm

import jsamp as js

S, VP = js.solve, js.noise.VP()
LAW = Gaussian([0.5], [0.3**2])
SIGNALS = np.linspace(-0.5, 1.5, 20)[:, None]


def round_trip(plan, **options):
    noise = run_table(S.invert(plan, **options), LAW, SIGNALS)
    return np.abs(run_table(plan, LAW, noise) - SIGNALS).max(), noise


GRIDS = {
    "quadratic": lambda n: js.noise.time_grid(VP, n, power=2),
    "logsnr": lambda n: js.noise.logsnr_grid(VP, n),
    "to zero": lambda n: js.noise.logsnr_grid(VP, n, final="zero"),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_fifty_steps_of_second_order_come_back(grid):
    assert round_trip(S.dpmpp(VP, GRIDS[grid](50)))[0] < 1e-3
    # The steps' own errors are undone: DDIM comes back although its noise is far from that of the exact flow.
    error, noise = round_trip(S.ddim(VP, GRIDS[grid](50)))
    assert error < 1e-3
    if grid != "to zero":
        ends = [(float(VP.alpha(t)), float(VP.sigma(t))) for t in (1e-3, 1.0)]
        assert np.abs(noise - LAW.flow(SIGNALS, *ends)).max() > 30 * error


@pytest.mark.parametrize("grid", GRIDS)
def test_few_long_steps_come_back_at_all(grid):
    for build in (S.dpmpp, S.ddim, lambda schedule, grid: S.dpmpp(schedule, grid, order=3)):
        for num in (6, 10, 15):
            assert round_trip(build(VP, GRIDS[grid](num)))[0] < 1


SHARP = Mixture([0.3, 0.7], [[-1.0], [0.6]], [0.25**2, 0.15**2])
SECOND = {"dpmpp": S.dpmpp, "deis": lambda schedule, grid: S.deis(schedule, grid, order=2), "heun": S.heun}


@pytest.mark.parametrize("grid", GRIDS)
def test_repeated_round_trips_come_back_on_a_bimodal_law(grid):
    """Noise + up - back: every solver of second order, 50 steps, in the repetitions that the docstring names."""
    signals = np.concatenate([np.linspace(-1.6, -0.4, 12), np.linspace(0.2, 1.0, 12)])[:, None]
    for name, make in SECOND.items():
        plan = make(VP, GRIDS[grid](50))
        up = noise = run_table(S.invert(plan), SHARP, signals)
        for turn in range(1 if grid == "quadratic" else 4 if name == "dpmpp" else 2):
            down = run_table(plan, SHARP, noise)
            assert turn or 1e-3 < np.abs(down - signals).max() < 4e-2, (name, np.abs(down - signals).max())
            noise = noise + up - run_table(S.invert(plan), SHARP, down)
        assert np.abs(run_table(plan, SHARP, noise) - signals).max() < 1e-3, name


@pytest.mark.parametrize("make", [S.dpmpp, S.ddim, S.deis, S.unipc, S.heun], ids=lambda make: make.__name__)
def test_the_round_trip_converges(make):
    errors = [round_trip(make(VP, GRIDS["quadratic"](n)), order=2)[0] for n in (50, 100, 200)]
    assert slope(errors)[-1] > 1.7, errors


def test_inversion_from_and_to_the_ends_of_a_flow():
    flow = js.noise.Flow()
    for make in (S.dpmpp, S.heun, S.ddim):
        error, _ = round_trip(make(flow, js.noise.time_grid(flow, 50, final="zero")))
        assert error < 5e-3, (make, error)
    exact = LAW.flow(SIGNALS, (1.0, 0.0), (0.0, 1.0))
    found = run_table(S.invert(S.heun(flow, js.noise.time_grid(flow, 200, final="zero"))), LAW, SIGNALS)
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_what_cannot_be_inverted():
    grid = GRIDS["quadratic"](8)
    with pytest.raises(ValueError, match="draws noise"):
        S.invert(S.ddpm(VP, grid))
    with pytest.raises(ValueError, match="goes up on its way"):
        S.invert(S.concat(S.ddim(VP, grid), js.solve.invert(S.ddim(VP, grid))))
    with pytest.raises(ValueError, match="order must be"):
        S.invert(S.ddim(VP, grid), order=0)
    with pytest.raises(TypeError, match="plan must be a Plan"):
        S.invert("ddim")
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(S.invert)(S.ddim(VP, grid))


# ---------------------------------------------------------------- likelihood

MEANS, COV = np.array([0.3, -0.2, 0.1]), np.array([[0.5, 0.2, 0.0], [0.2, 0.4, -0.1], [0.0, -0.1, 0.3]])


def exact_log_density(x, schedule, grid):
    """Log-density of what the exact flow makes of N(0, sigma_T^2)."""
    variances, axes = np.linalg.eigh(COV)
    ends = [(float(schedule.alpha(t)), float(schedule.sigma(t))) for t in (grid[-1], grid[0])]
    law = Gaussian(MEANS, variances, axes)
    noise = law.flow(x[None], *ends)[0]
    low, high = (a**2 * variances + s**2 for a, s in ends)
    return norm.logpdf(noise, scale=ends[1][1]).sum() + 0.5 * np.sum(np.log(high / low))


@pytest.mark.parametrize("schedule", [VP, js.noise.VE(0.01, 20.0)], ids=["VP", "VE"])
def test_exact_likelihood_of_a_gaussian(schedule, x64):
    law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[MEANS], covs=[COV])
    grid = js.noise.logsnr_grid(schedule, 600)
    x = np.array([0.1, 0.4, -0.3])
    plan = S.invert(S.unipc(schedule, grid), order=4)
    found = S.likelihood(None, law, x, plan)
    wanted = exact_log_density(x, schedule, grid)
    assert abs(found.value - wanted) < 1e-5
    assert found.stderr == 0
    bits = S.bits_per_dimension(found, 3, bin_width=0.1)
    np.testing.assert_allclose(bits.value, -wanted / (3 * np.log(2)) - np.log2(0.1), rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_likelihood_counts_signal_at_the_noise_as_none(mean, x64):
    """Stable Diffusion's table ends at sigma / alpha = 14.6: the docstring says what that adds to every number."""
    schedule = js.noise.Discrete.scaled_linear()
    law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[mean]], stds=[1.0])
    grid = js.noise.logsnr_grid(schedule, 100)
    at = float(schedule.alpha(grid[-1])) * mean  # the spread is 1, at every time
    left, z = float(schedule.alpha(grid[0]) / schedule.sigma(grid[0])), np.array([-3.0, -1.0, 0.0, 2.0, 3.0])
    plan = S.unipc(schedule, grid)
    found = jax.vmap(lambda x: S.likelihood(None, law, x, plan).value)(at + z[:, None])
    added = -left * mean * z - left**2 * (mean**2 + z**2 - 1) / 2
    np.testing.assert_allclose(found - norm.logpdf(z), added, atol=1e-3)
    assert np.abs(added).max() > 0.018


@pytest.mark.parametrize("build", [S.ddim, S.dpmpp, S.heun])
def test_likelihood_follows_the_ode_whatever_the_order_of_the_plan(build, x64):
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[MEANS], covs=[COV])
    grid, x = js.noise.logsnr_grid(VP, 60), np.array([0.1, 0.4, -0.3])
    found = S.likelihood(None, law, x, build(VP, grid)).value
    assert abs(found - exact_log_density(x, VP, grid)) < 3e-3


@pytest.mark.parametrize("final", ["sigma_min", "zero"])
def test_likelihood_on_the_even_times_of_a_flow(final, x64):
    """Sigma / alpha falls by a factor of ten in the first step: what the noise adds to the volume is known, not summed."""
    flow, law = js.noise.Flow(), js.denoise.GaussianMixture(js.noise.Flow(), weights=[1.0], means=[MEANS], covs=[COV])
    grid, x = js.noise.time_grid(flow, 60, t_max=0.999, final=final), np.array([0.1, 0.4, -0.3])
    found = S.likelihood(None, law, x, S.ddim(flow, grid)).value
    assert abs(found - exact_log_density(x, flow, grid)) < 0.05


def test_probes_are_within_their_standard_error():
    """Seven probes, 300 keys: the standardised error of the mean is a t distribution of six degrees."""
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[MEANS], covs=[COV])
    plan = S.dpmpp(VP, js.noise.logsnr_grid(VP, 40))
    x = jnp.array([0.1, 0.4, -0.3], jnp.float32)
    exact = S.likelihood(None, law, x, plan).value
    many = jax.jit(jax.vmap(lambda key: S.likelihood(key, law, x, plan, probes=7)))
    found = many(jax.random.split(jax.random.key(0), 300))
    pooled = (np.mean(found.value) - exact) / (np.std(found.value) / np.sqrt(300))
    assert abs(pooled) < 4.5
    assert np.std(found.value) > 0.01
    np.testing.assert_allclose(np.sqrt(np.mean(found.stderr**2)), np.std(found.value), rtol=0.25)


def test_a_density_runs_on_a_mesh_whatever_varies_over_it():
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[MEANS], covs=[COV])
    plan, x = S.ddim(VP, js.noise.logsnr_grid(VP, 4)), jnp.zeros(3)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])

    def local(scale, key):
        guided = js.denoise.ClassifierFree(law, law, scale=scale[0])
        return jnp.stack([S.likelihood(key[0], guided, x, plan, probes=2).value, js.sample(None, guided, x, plan).x[0]])

    rows = jax.P("d")
    found = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows))(
        jnp.array([1.0, 2.0]), jax.random.split(jax.random.key(0))
    )
    np.testing.assert_allclose(found[1::2], js.sample(None, law, x, plan).x[0], rtol=1e-5)
    assert found[0] != found[2]


def test_likelihood_of_a_tree_is_that_of_its_parts_together():
    schedule = js.noise.VE(0.01, 20.0)
    flat = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[MEANS], covs=[COV])

    def network(x, t):
        found = flat(jnp.concatenate([x["a"], x["b"].ravel()]), t).x0
        return {"a": found[:1], "b": found[1:].reshape(2, 1)}

    plan = S.heun(schedule, js.noise.karras_grid(schedule, 30, final="sigma_min"))
    x = {"a": jnp.array([0.1]), "b": jnp.array([[0.4], [-0.3]])}
    tree = S.likelihood(None, js.Denoiser(network, schedule, predicts="x0"), x, plan)
    whole = S.likelihood(None, flat, jnp.array([0.1, 0.4, -0.3]), plan)
    np.testing.assert_allclose(tree.value, whole.value, rtol=1e-5)


def test_likelihood_refusals():
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.0]], stds=[1.0])
    grid, x = js.noise.logsnr_grid(VP, 8), jnp.zeros(1)
    flow = js.noise.Flow()
    for call, match in [
        (lambda: S.likelihood(None, law, x, S.ddpm(VP, grid)), "draws noise"),
        (lambda: S.likelihood(None, law, x, S.ddim(VP, grid), probes=4), "key is None"),
        (lambda: S.likelihood(jax.random.key(0), law, x, S.ddim(VP, grid), probes=1), "probes must be >= 2"),
        (lambda: S.likelihood(None, law, x, S.ddim(VP, grid), probes="many"), "'exact' or a number"),
        (lambda: S.likelihood(None, law, x, S.ddim(flow, js.noise.time_grid(flow, 8))), "some signal"),
        (
            lambda: S.likelihood(None, law, x, S.concat(S.invert(S.ddim(VP, grid)), S.ddim(VP, grid))),
            "likelihood: the times of the plan must fall; this one goes up on its way",
        ),
        (lambda: S.bits_per_dimension(0.0, 0), "size"), (lambda: S.bits_per_dimension(0.0, 3, bin_width=-1), "bin_width"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            call()
    kicked = js.denoise.DPS(law, js.denoise.LinearOp.dense(np.eye(1)), jnp.zeros(1))
    with pytest.raises(TypeError, match="likelihood: the denoiser moves x by a kick"):
        S.likelihood(None, kicked, x, S.ddim(VP, grid))


# ---------------------------------------------------------------- adaptive


def bimodal():
    return js.denoise.GaussianMixture(VP, weights=[0.3, 0.7], means=[[-1.0], [0.6]], stds=[0.25, 0.15])


STARTS = np.random.default_rng(0).standard_normal((12, 1))


def exact_flow():
    def rate(lam, y):
        t = VP.time(lam)
        alpha = float(VP.alpha(t))
        with jax.enable_x64(True):
            return -np.exp(-lam) * np.asarray(bimodal()(alpha * y[:, None], float(t)).eps)[:, 0]

    ends = float(VP.lam(1.0)), float(VP.lam(1e-3))
    found = solve_ivp(rate, ends, STARTS[:, 0] / VP.alpha(1.0), method="DOP853", rtol=1e-9, atol=1e-10)
    return VP.alpha(1e-3) * found.y[:, -1:]


def test_adaptive_error_follows_the_tolerance(x64):
    exact = exact_flow()
    run = jax.jit(jax.vmap(lambda x, tol: S.adaptive(None, bimodal(), x, VP, rtol=tol, atol=tol), (0, None)))
    evaluations = []
    for tol in (1e-2, 1e-3, 1e-4, 1e-5):
        found = run(STARTS, tol)
        assert np.all(found.info.ok)
        # One start lies beside the line between the modes, where the flow itself multiplies errors by a hundred.
        errors = np.sort(np.abs(found.x - exact)[:, 0])
        assert np.median(errors) < tol and errors[-2] < 3 * tol, errors / tol
        np.testing.assert_array_equal(found.info.nfe, 3 * (found.info.accepted + found.info.rejected))
        np.testing.assert_allclose(found.info.t, 1e-3, rtol=1e-6)
        evaluations.append(np.mean(found.info.nfe))
    # A third-order pair controlled by its second-order member: ten times the accuracy for 10^(1/3) times the steps.
    assert 1.7 < evaluations[-1] / evaluations[-2] < 2.5, evaluations


def test_a_number_that_stays_zero_has_no_error_without_absolute_tolerance():
    still = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.0]], stds=[0.5])
    found = S.adaptive(None, still, jnp.zeros(1), VP, atol=0.0)
    assert found.info.ok
    assert found.x == 0


def test_adaptive_samples_do_not_know_their_batch():
    run = lambda x: S.adaptive(None, bimodal(), x, VP, rtol=1e-3)
    starts = jnp.asarray(STARTS, jnp.float32)
    together, few = jax.vmap(run)(starts), jax.vmap(run)(starts[:3])
    np.testing.assert_array_equal(together.info.accepted[:3], few.info.accepted)
    np.testing.assert_allclose(together.x[:3], few.x, rtol=1e-6)
    assert len(set(np.asarray(together.info.nfe).tolist())) > 1
    alone = run(starts[0])
    np.testing.assert_allclose(alone.x, together.x[0], rtol=1e-5)
    short = S.adaptive(None, bimodal(), starts[0], VP, rtol=1e-3, max_steps=5)
    assert not short.info.ok and short.info.nfe == 15 and short.info.t > 1e-3


def test_adaptive_refusals():
    x, run = jnp.zeros(1), S.adaptive
    for call, match in [
        (lambda: run(None, bimodal(), x, js.noise.Flow()), "t_max=0.999"), (lambda: run(None, bimodal(), x, VP, rtol=0.0), "rtol"),
        (lambda: run(None, bimodal(), x, VP, t_max=1e-4), "rise from t_max"), (lambda: run(None, bimodal(), x, VP, atol=-1.0), "atol"),
        (lambda: run(None, bimodal(), x, VP, max_steps=0), "max_steps"), (lambda: run(None, bimodal(), x * np.nan, VP), "finite"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            call()
