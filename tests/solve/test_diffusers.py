"""Configurations of published checkpoints: time steps, noise levels and results of their own schedulers."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, run_table

import jsamp as js
from jsamp._core._pytree import replace
from jsamp.solve import from_diffusers

ENTRIES = json.loads((pathlib.Path(__file__).parent / "diffusers.json").read_text())["entries"]
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
# The scheduler of this configuration returns x / alpha at its last level, and its list of levels has one beyond it.
LONGER = "log_linear"


def read(entry):
    name, options = entry["_class_name"], {}
    if "mu" in entry:
        options["tokens"] = int(entry["name"].rpartition("-")[2])
    if entry["name"].startswith("flux"):
        options["sigmas"] = np.linspace(1, 1 / entry["n"], entry["n"])
    return from_diffusers({**entry["config"], "_class_name": name}, entry["n"], **options)


def recorded(entry):
    """Time steps and noise levels of the steps themselves, without those of the stages between."""
    steps, sigmas, name = np.array(entry["timesteps"]), entry.get("sigmas"), entry["_class_name"]
    if "Heun" in name or name == "PNDMScheduler":
        steps = np.unique(steps)[::-1]
    if "KDPM2" in name:
        steps, sigmas = steps[[0, *range(2, len(steps), 2)]], sigmas[:1] + sigmas[1:-1:2]
    if "Heun" in name:
        sigmas = sigmas[:1] + sigmas[1:-1:2] + sigmas[-1:]
    if entry["config"].get("interpolation_type") == LONGER:
        sigmas = sigmas[:-1]
    return steps, sigmas


@jax.jit
def run(law, x, plan):
    return jax.vmap(lambda x: js.sample(None, law, x, plan).x)(x)


def compare(entry):
    got = read(entry)
    steps, sigmas = recorded(entry)
    if entry["_class_name"] != "PNDMScheduler" or entry["config"].get("skip_prk_steps"):
        np.testing.assert_allclose(got.timesteps, steps, rtol=1e-6, atol=2e-5)
    if sigmas is not None:
        np.testing.assert_allclose(got.sigmas, sigmas, rtol=1e-5, atol=1e-6)
    if "final" in entry:
        law = js.denoise.GaussianMixture(got.schedule, weights=[1.0], means=[[0.5]], stds=[0.3])
        start = np.linspace(-1.5, 1.5, 7)[:, None] * got.scale
        with jax.enable_x64(True):
            final = np.asarray(run(law, jnp.asarray(start), got.plan))[:, 0]
        np.testing.assert_allclose(final, entry["final"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry['name']}-{entry['n']}")
def test_recorded_schedulers(entry):
    compare(entry)


def test_every_recorded_configuration(shared):
    """All recorded checkpoints, at 1 to 50 steps."""
    failures = []
    entries = json.loads((shared / "golden" / "configs.json").read_text())["entries"]
    for entry in entries:
        try:
            compare(entry)
        except (AssertionError, ValueError) as error:
            failures.append((entry["name"], entry["n"], str(error)[:200]))
    assert not failures, failures
    assert len(entries) >= 130


def test_the_network_is_given_the_recorded_time_steps():
    """Rounded, as multistep schedulers do with sigmas of their own; between the steps, in between."""
    for entry in ENTRIES:
        if entry["n"] != 4 or entry["_class_name"] == "PNDMScheduler" or "EDM" in entry["_class_name"]:
            continue
        got, asked = read(entry), []
        model = lambda x, t: (asked.append(t), x)[1]
        denoiser = got.denoiser(model)
        for t in got.grid[: entry["n"]]:
            with jax.enable_x64(True):
                denoiser(jnp.ones(2, jnp.float64), t)
        np.testing.assert_allclose(
            np.array(asked), got.timesteps[: len(asked)], rtol=1e-6, atol=1e-4, err_msg=str(entry["name"])
        )


def test_a_preconditioned_network_is_that_of_edm():
    """Zero output leaves skip x; the noise level is coded as log(sigma) / 4 or 2 arctan(sigma) / pi, the sign kept."""
    for name, level in (
        ("EDMEulerScheduler", lambda s: np.log(s) / 4),
        ("CosineDPMSolverMultistepScheduler", lambda s: 2 / np.pi * np.arctan(s)),
    ):
        got, asked = from_diffusers({"_class_name": name}, 5), []
        data = got.precondition["sigma_data"]
        out = got.denoiser(lambda x, t: (asked.append(t), jnp.ones_like(x))[1])(jnp.full(2, 3.0), 2.0).x0
        sign = -1.0 if name.startswith("Cosine") else 1.0
        norm = 4 + data**2
        np.testing.assert_allclose(out, 3 * data**2 / norm + sign * 2 * data / np.sqrt(norm), rtol=1e-5)
        np.testing.assert_allclose(asked[0], level(2.0), rtol=1e-5)


def test_rows_of_distilled_models():
    """LCM predicts x0 and noises it to the next level; TCD lands below it and is noised up."""
    lcm = from_diffusers({**SD, "_class_name": "LCMScheduler"}, 4)
    np.testing.assert_allclose(lcm.timesteps, [999, 759, 499, 259])
    np.testing.assert_allclose(lcm.plan.noise_std[:3], lcm.schedule.sigma(lcm.timesteps[1:]), rtol=1e-12)
    assert lcm.plan.noise_std[3] == 0
    skip = 0.25 / ((4990.0) ** 2 + 0.25)
    np.testing.assert_allclose(lcm.plan.state_coef[2] / lcm.schedule.alpha(259), skip, rtol=1e-12)
    tcd = from_diffusers({**SD, "_class_name": "TCDScheduler"}, 4)
    low = tcd.schedule.alpha(np.floor(0.7 * 759)), tcd.schedule.sigma(np.floor(0.7 * 759))
    lift = tcd.schedule.alpha(759.0) / low[0]
    np.testing.assert_allclose(tcd.plan.noise_std[0] ** 2, 1 - lift**2, rtol=1e-9)
    np.testing.assert_allclose(tcd.plan.state_coef[0], lift * low[1] / tcd.schedule.sigma(999.0), rtol=1e-12)
    # Noise of the prediction and fresh noise together are the noise of the level.
    np.testing.assert_allclose(lift**2 * low[1] ** 2 + 1 - lift**2, tcd.schedule.sigma(759.0) ** 2, rtol=1e-9)


def test_ancestral_dpm2():
    """Against the scheduler's own levels: noise up, midpoint in log sigma, and an Euler step to the end."""
    for options in ({}, {"use_karras_sigmas": True}):
        got = from_diffusers({**SD, "_class_name": "KDPM2AncestralDiscreteScheduler", **options}, 6)
        twin = from_diffusers({**SD, "_class_name": "KDPM2DiscreteScheduler", **options}, 6)
        np.testing.assert_array_equal(got.timesteps, twin.timesteps)
        now, after = got.sigmas[:-1], got.sigmas[1:]
        up = np.sqrt(after**2 * (now**2 - after**2) / now**2)
        down = np.sqrt(after**2 - up**2)
        middle = np.sqrt(now * down)[:-1]
        plan, ends = got.plan, np.append(np.arange(1, 10, 2), 10)
        assert plan.nfe == 11
        np.testing.assert_allclose(plan.noise_std[ends] / plan.alpha_next[ends], up, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(plan.sigma[1::2] / plan.alpha[1::2], middle, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "snr_shift_scale": 1.0}],
    ids=["leading", "zero snr"],
)
def test_the_stochastic_solver_of_cogvideox(options):
    """Against the scheduler's step, written out: x0 extrapolated by half, noise of the exact SDE, on indices."""
    n, law = 6, (0.5, 0.3)
    got = from_diffusers({"_class_name": "CogVideoXDPMScheduler", "clip_sample": False, **options}, n)
    product = lambda t: 1.0 if t < 0 else float(got.schedule.alpha(t)) ** 2
    gap, x, old, spread = 1000 // n, np.linspace(-1.5, 1.5, 5), None, []
    steps = got.timesteps
    with np.errstate(divide="ignore"):
        lam = lambda t: np.log(np.sqrt(product(t) / max(1 - product(t), 0.0))) if product(t) < 1 else np.inf
        for i, t in enumerate(steps):
            now, to = product(t), product(t - gap)
            alpha = np.sqrt(now)
            x0 = law[0] + alpha * law[1] ** 2 / (now * law[1] ** 2 + 1 - now) * (x - alpha * law[0])
            h = lam(t - gap) - lam(t)
            held = x0
            if old is not None and t - gap >= 0:
                r = (lam(t) - lam(steps[i - 1])) / h
                held = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * old
            x = np.sqrt((1 - to) / (1 - now)) * np.exp(-h) * x - np.expm1(-2 * h) * np.sqrt(to) * held
            spread.append(np.sqrt((1 - to) * (1 - np.exp(-2 * h))))
            old = x0
    np.testing.assert_allclose(got.plan.noise_std, spread, rtol=1e-6, atol=1e-9)
    mixture = js.denoise.GaussianMixture(got.schedule, weights=[1.0], means=[[law[0]]], stds=[law[1]])
    quiet = replace(got.plan, noise_std=None)
    with jax.enable_x64(True):
        ours = np.asarray(run(mixture, jnp.linspace(-1.5, 1.5, 5)[:, None], quiet))[:, 0]
    np.testing.assert_allclose(ours, x, rtol=0, atol=1e-6)


def test_clipping_comes_with_the_configuration():
    got = from_diffusers({"_class_name": "DDPMScheduler", "clip_sample_range": 2.0}, 5)
    assert got.clip == {"limit": 2.0}
    wild = got.denoiser(lambda x, t: jnp.zeros_like(x))
    assert float(jnp.abs(wild(jnp.array([100.0]), 900.0).x0).max()) == 2.0
    dynamic = from_diffusers({"_class_name": "DDPMScheduler", "thresholding": True, "sample_max_value": 1.5}, 5)
    x0 = dynamic.denoiser(lambda x, t: jnp.zeros_like(x))(jnp.array([0.004, 0.0]), 999.0).x0
    # alpha is 0.0064 there: |x0| = 0.63 stays; four times as much is cut at 1.5 and scaled to 1.
    np.testing.assert_allclose(x0[0], 0.004 / dynamic.schedule.alpha(999.0), rtol=1e-5)
    x0 = dynamic.denoiser(lambda x, t: jnp.zeros_like(x))(jnp.array([0.016, 0.0072]), 999.0).x0
    np.testing.assert_allclose(x0, [1.0, 0.0072 / dynamic.schedule.alpha(999.0) / 1.5], rtol=1e-5)


def test_fixed_variances():
    """Large: beta of the step; small: that of the posterior, smaller by the ratio of noise levels."""
    small, large = (from_diffusers({"_class_name": "DDPMScheduler", "variance_type": kind}, 5).plan
                    for kind in ("fixed_small", "fixed_large"))  # fmt: skip
    ratio = small.noise_std[:-1] / large.noise_std[:-1]
    np.testing.assert_allclose(ratio, small.sigma_next[:-1] / small.sigma[:-1], rtol=1e-9)
    assert large.noise_std[-1] == 0


def test_a_file_is_read_and_foreign_fields_are_listed(tmp_path):
    path = tmp_path / "scheduler_config.json"
    config = {"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.1", **SD, "skip_prk_steps": True}
    path.write_text(json.dumps(config))
    got = from_diffusers(path, 6)
    assert got.unused == ("clip_sample", "skip_prk_steps")
    np.testing.assert_array_equal(got.grid, from_diffusers(config, 6).grid)
    assert isinstance(js.solve.dpmpp(got.schedule, got.grid, order=3), js.solve.Plan)


def test_odd_values_that_are_legal():
    """Whole numbers written as floats, null for false, options of other classes: each class takes its own default."""
    plain = from_diffusers({"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2"}, 5)
    odd = {"solver_type": "midpoint", "num_train_timesteps": 1000.0, "solver_order": 2.0, "use_karras_sigmas": None}
    twin = from_diffusers({"_class_name": "UniPCMultistepScheduler", **odd}, 5)
    jax.tree.map(np.testing.assert_array_equal, twin.plan, plain.plan)
    dpm = {"_class_name": "DPMSolverMultistepScheduler"}
    jax.tree.map(
        np.testing.assert_array_equal,
        from_diffusers({**dpm, "algorithm_type": "deis", "solver_type": "bh1"}, 5).plan,
        from_diffusers(dpm, 5).plan,
    )
    falling = np.linspace(0.02, 1e-4, 1000)
    assert np.all(np.diff(from_diffusers({**dpm, "trained_betas": list(falling)}, 5).sigmas) < 0)
    assert from_diffusers({"_class_name": "PNDMScheduler"}, 6).plan.nfe == 15


@pytest.mark.parametrize("n", [4, 8])
def test_the_runge_kutta_start_of_pndm(n):
    """Against the scheduler's step, written out: strides of 125 have halves of 62, at which it asks and lands apart."""
    got = from_diffusers({**SD, "_class_name": "PNDMScheduler", "steps_offset": 1}, n)
    product = lambda t: float(got.schedule.alpha(float(max(t, 0)))) ** 2
    law = lambda x, t: np.sqrt(1 - product(t)) * (x - np.sqrt(product(t)) * 0.5) / (1 - product(t) * (1 - 0.3**2))

    def moved(x, t, to, eps):
        now, then = product(t), product(to)
        below = now * np.sqrt(1 - then) + np.sqrt(now * (1 - now) * then)
        return np.sqrt(then / now) * x - (then - now) * eps / below

    stride, start = 1000 // n, np.linspace(-1.5, 1.5, 7)
    steps, x, held = [1 + stride * k for k in range(n)][::-1], start, []
    for t, after in itertools.pairwise(steps[:4]):
        middle = after + stride // 2
        k = [law(x, t)]
        k.append(law(moved(x, t, t - stride // 2, k[0]), middle))
        k.append(law(moved(x, t, middle, k[1]), middle))
        k.append(law(moved(x, t, middle - stride // 2, k[2]), after))
        held.append(k[0])
        x = moved(x, t, after, (k[0] + 2 * k[1] + 2 * k[2] + k[3]) / 6)
    for t in steps[3:]:
        held.append(law(x, t))
        e = held[::-1]
        x = moved(x, t, t - stride, (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24)
    mixture = js.denoise.GaussianMixture(got.schedule, weights=[1.0], means=[[0.5]], stds=[0.3])
    with jax.enable_x64(True):
        ours = np.asarray(run(mixture, jnp.asarray(start)[:, None], got.plan))[:, 0]
    np.testing.assert_allclose(ours, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("orders", "options"), [
    ((2, 2), {}), ((3, 4), {"beta_schedule": "scaled_linear"}), ((2, 3), {"use_karras_sigmas": True}),
    ((1, 2), {"timestep_spacing": "trailing"}),
])  # fmt: skip
def test_the_stochastic_adams_solver(orders, options):
    """Against the scheduler's step, written out: exponential weights by quadrature, changed where there are two."""
    n, (predictor, corrector) = 7, orders
    got = from_diffusers({"_class_name": "SASolverScheduler", "predictor_order": predictor,
                          "corrector_order": corrector, **options}, n)  # fmt: skip
    alpha, sigma = 1 / np.hypot(1, got.sigmas), got.sigmas / np.hypot(1, got.sigmas)
    lam, u = np.log(alpha / sigma), np.polynomial.legendre.leggauss(40)
    law, rng = Gaussian([0.5], [0.09]), np.random.default_rng(0)
    noise, start = rng.normal(size=(n, 5, 1)), rng.normal(size=(5, 1))

    def step(x, s, nodes, outputs, tau, z):
        """From level s to s + 1 by the polynomial through outputs at nodes, newest first."""
        k, h = 1 + tau**2, lam[s + 1] - lam[s]
        at = lam[s] + h * (u[0] + 1) / 2
        weight = k * sigma[s + 1] * np.exp(-(tau**2) * lam[s + 1] + k * at) * u[1] * h / 2
        basis = [np.prod([(at - lam[j]) / (lam[i] - lam[j]) for j in nodes if j != i], axis=0) for i in nodes]
        shares = [np.sum(weight * b) for b in basis]
        if len(nodes) == 2:
            first = np.sum(weight * (at - lam[s])) / (lam[nodes[0]] - lam[nodes[1]])
            change = k * alpha[s + 1] * h**2 / 2 / (lam[nodes[0]] - lam[nodes[1]]) - first
            shares = [shares[0] + change, shares[1] - change]
        spread = sigma[s + 1] * np.sqrt(-np.expm1(-2 * tau**2 * h))
        moved = sum(w * m for w, m in zip(shares, outputs, strict=True))
        return np.exp(-(tau**2) * h) * sigma[s + 1] / sigma[s] * x + moved + spread * z

    x, left, outputs, tau = start, None, [], 0.0
    for i in range(n):
        outputs = [law(x, alpha[i], sigma[i])[0], *outputs]
        if i:
            points = min(corrector, i + 1, n - (i - 1) + 1)
            x = step(left, i - 1, range(i, i - points, -1), outputs[:points], tau, noise[i - 1])
        tau, left, points = float(200 <= got.timesteps[i] <= 800), x, min(predictor, i + 1, n - i)
        if lam[i + 1] > lam[i]:
            x = step(x, i, range(i, i - points, -1), outputs[:points], tau, noise[i])
    assert got.plan.nfe == n and got.plan.stochastic
    np.testing.assert_allclose(run_table(got.plan, law, start, lambda r, stream: noise[r]), x, rtol=0, atol=1e-9)


def test_a_flow_that_draws_noise():
    """x <- (1 - s) x0 + s z, where `stochastic_sampling` is on."""
    got = from_diffusers({"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True}, 4)
    np.testing.assert_allclose(got.plan.noise_std, got.sigmas[1:], atol=1e-12)
    np.testing.assert_allclose(got.plan.state_coef, 0, atol=1e-12)


def test_the_stochastic_solver_in_eps():
    """x <- (alpha_t / alpha_s) x - 2 sigma_t (e^h - 1) (eps + (h / 2 h') (eps - eps')) + sigma_t sqrt(e^2h - 1) z."""
    config = {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver"}
    got = from_diffusers({**config, "final_sigmas_type": "sigma_min"}, 5)
    alpha, sigma = 1 / np.hypot(1, got.sigmas), got.sigmas / np.hypot(1, got.sigmas)
    h = -np.diff(np.log(got.sigmas))
    np.testing.assert_allclose(got.plan.state_coef, alpha[1:] / alpha[:-1], rtol=1e-9)
    np.testing.assert_allclose(got.plan.noise_std, sigma[1:] * np.sqrt(np.expm1(2 * h)), rtol=1e-9)
    whole = -2 * sigma[1:] * np.expm1(h)
    np.testing.assert_allclose(got.plan.weights.sum(1), whole, rtol=1e-9)
    np.testing.assert_allclose(got.plan.weights[1:4, 0], whole[1:4] * (1 + h[1:4] / h[:3] / 2), rtol=1e-9)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"])
def test_a_last_step_of_no_length_has_its_turn(name):
    """It is of first order, the step before it of second; UniPC still corrects that one by the last evaluation."""
    options = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "solver_order": 3}
    plan = from_diffusers({"_class_name": name, **options}, 6).plan
    unipc = name.startswith("Uni")
    assert plan.nfe == 5 + unipc
    assert [np.count_nonzero(row) for row in plan.weights[:5]] == [1, 2, 3, 3, 2]
    if unipc:
        assert plan.take[5] == 2 and plan.state_coef[5] == 1 and plan.t_next[5] == plan.t[5]
        assert plan.corrector_newest[5] != 0 and not plan.weights[5].any()


def test_only_the_last_step_is_an_euler_step():
    options = {"euler_at_final": True, "solver_order": 3, "lower_order_final": False}
    plan = from_diffusers({"_class_name": "DPMSolverMultistepScheduler", **options}, 6).plan
    assert [np.count_nonzero(row) for row in plan.weights] == [1, 2, 3, 3, 3, 1]


@pytest.mark.parametrize(
    ("config", "options", "error", "match"),
    [
        ({"_class_name": "NoScheduler"}, {}, ValueError, "unknown _class_name 'NoScheduler'; known are"),
        ({}, {}, ValueError, "unknown _class_name ..; known"),
        (3, {}, TypeError, "config must be a mapping or the path of a JSON file, got 3"),
        ("nowhere.json", {}, ValueError, "nowhere.json is not a readable JSON file"),
        ({"_class_name": "DDIMScheduler", "sharpness": 2}, {}, ValueError, "no rule for 'sharpness'"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "cubic"}, {}, ValueError, "beta_schedule must be one of"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "odd"}, {}, ValueError, "timestep_spacing must be one"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "noise"}, {}, ValueError, "prediction_type must be one"),
        ({"_class_name": "DDIMScheduler"}, {"num": 0}, ValueError, "num must be >= 1"),
        ({"_class_name": "DDIMScheduler"}, {"num": 1001}, ValueError, "num must be at most the table's 1000"),
        ({"_class_name": "DDIMScheduler"}, {"tokens": 4}, ValueError, "DDIMScheduler takes no tokens"),
        ({"_class_name": "LCMScheduler"}, {"num": 51}, ValueError, "at most original_inference_steps = 50"),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "use_beta_sigmas": True},
            {}, ValueError, "one rule for sigmas, got use_karras_sigmas, use_beta_sigmas",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            {}, ValueError, "shifts by the image's size; pass tokens=",
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, {"sigmas": [1.0]}, ValueError, "sigmas must have 5 rows"),
        ({"_class_name": "PNDMScheduler"}, {"num": 3}, ValueError, "takes num >= 4, got 3"),
        ({"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0]}, {}, ValueError, "no plan; drop them"),
        ({"_class_name": "DDPMScheduler", "variance_type": "odd"}, {}, ValueError, "variance_type must be one of"),
        ({"_class_name": ["DDIMScheduler"]}, {}, ValueError, r"unknown _class_name \['DDIMScheduler'\]"),
        ({"_class_name": "IPNDMScheduler"}, {}, ValueError, "here it is js.solve.ipndm"),
        ({"_class_name": "SASolverScheduler", "corrector_order": 4}, {}, ValueError, "corrector_order outside 2..pred"),
        ({"_class_name": "SASolverScheduler", "tau_func": "f"}, {}, ValueError, "tau_func, and a corrector_order"),
        ({"_class_name": "SASolverScheduler", "algorithm_type": "no"}, {}, ValueError, "must be one of 'data_pred"),
        ({"_class_name": "DDIMScheduler", "steps_offset": None}, {}, ValueError, "steps_offset must be like its .* 0"),
        ({"_class_name": "DDIMScheduler", "steps_offset": 0.5}, {}, ValueError, "steps_offset must be like its .* 0"),
        ({"_class_name": "DDIMScheduler", "steps_offset": 300}, {}, ValueError, "steps_offset=300 leads out of the"),
        ({"_class_name": "DDIMScheduler", "beta_start": "0.1"}, {}, ValueError, "beta_start must be like its default"),
        ({"_class_name": "DDIMScheduler", "beta_end": 2.0}, {}, ValueError, r"betas must lie in \(0, 1\)"),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]}, {}, ValueError, "must have 1000 rows"),
        (
            {"_class_name": "DDIMScheduler", "num_train_timesteps": 3, "trained_betas": [0.1, -0.1, 0.2]},
            {"num": 2}, ValueError, r"betas must lie in \(0, 1\), or noise would not grow; got -0.1",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "rescale_betas_zero_snr": True},
            {}, ValueError, "leave the last step but one a signal of 4.2e-09",
        ),
        ({"_class_name": "EDMEulerScheduler", "final_sigmas_type": "no"}, {}, ValueError, "final_sigmas_type must be"),
        ({"_class_name": "EDMEulerScheduler", "sigma_schedule": "no"}, {}, ValueError, "sigma_schedule must be one of"),
        ({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "no"}, {}, ValueError, "interpolation_type mu"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 0}, {}, ValueError, r"shift must be .* \(0, inf\]"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, {}, ValueError, "under invert_sigm"),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "use_karras_sigmas": True},
            {}, ValueError, "use_flow_sigmas and use_karras_sigmas are two rules",
        ),
    ],
)  # fmt: skip
def test_refusals(config, options, error, match):
    with pytest.raises(error, match=match):
        from_diffusers(config, options.pop("num", 5), **options)
