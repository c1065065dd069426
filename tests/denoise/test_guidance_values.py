"""Guidance and thresholds: one call for two, scales of every kind, and the identities they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

D = js.denoise
VP = js.noise.VP()
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)


def labelled(calls, label, weight=None):
    """A conditional network: the weight is shared, the label differs."""
    weight = SHARED if weight is None else weight

    def model(leaves, x, t):
        calls.append(np.shape(x))
        return jnp.tanh(x * leaves["weight"]) + leaves["label"] * jnp.cos(t)

    return js.Denoiser(jax.tree_util.Partial(BODY.setdefault(id(calls), model), {"weight": weight, "label": label}), VP)


SHARED = jnp.float32(0.8)
BODY: dict = {}


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, -2.0])
def test_shared_network_is_called_once_and_gives_two_calls(scale):
    calls = []
    cond, uncond = labelled(calls, jnp.float32(1.0)), labelled(calls, jnp.float32(-1.0))
    guided = D.ClassifierFree(cond, uncond, scale)
    assert len(jax.tree.leaves(guided)) < len(jax.tree.leaves((cond, uncond))) + 1
    calls.clear()
    out = guided(X, 0.4)
    assert len(calls) == 1
    c, u = cond(X, 0.4), uncond(X, 0.4)
    for got, a, b in zip(out, c, u, strict=True):
        np.testing.assert_allclose(got, b + scale * (a - b), rtol=2e-5, atol=2e-6)
    calls.clear()
    through = jax.jit(lambda d, x: d(x, 0.4))(guided, X)
    assert len(calls) == 1
    np.testing.assert_allclose(through.x0, out.x0, rtol=2e-5, atol=2e-6)


def test_shared_network_built_inside_jit():
    calls = []

    @jax.jit
    def draw(weight, one, other, scale, x):
        guided = D.ClassifierFree(labelled(calls, one, weight), labelled(calls, other, weight), scale)
        return guided(x, 0.4).x0

    got = draw(SHARED, 1.0, -1.0, 3.0, X)
    assert len(calls) == 1
    c, u = (labelled([], jnp.float32(v))(X, 0.4).x0 for v in (1.0, -1.0))
    np.testing.assert_allclose(got, u + 3.0 * (c - u), rtol=2e-5, atol=2e-6)


def test_different_networks_are_called_each():
    calls, others = [], []
    cond, uncond = labelled(calls, jnp.float32(1.0)), labelled(others, jnp.float32(-1.0))
    D.ClassifierFree(cond, uncond, 2.0)(X, 0.4)
    assert (len(calls), len(others)) == (1, 1)
    for guided in (D.ClassifierFree(cond, uncond), D.Auto(cond, uncond)):  # of no weight given, the first alone
        np.testing.assert_array_equal(guided(X, 0.4).x0, cond(X, 0.4).x0)
    both, (c, u) = D.Compose([cond, uncond], uncond, np.array([3.0, 7.0])), (cond(X, 0.4).x0, uncond(X, 0.4).x0)
    np.testing.assert_allclose(both(X, 0.4).x0, u + 3 * (c - u), rtol=1e-5, atol=1e-6)


def test_a_twist_by_a_gaussian_likelihood_is_the_posterior():
    """Of data N(0.3, 0.6^2) seen as y with noise 0.5; and by formula where var is that of other data."""
    law = D.GaussianMixture(VP, weights=[1.0], means=[[0.3] * 3], stds=[0.6])
    y, t, a, s = 1.2, 0.3, float(VP.alpha(0.3)), float(VP.sigma(0.3))
    likelihood = lambda x0, var: -0.5 * jnp.sum((y - x0) ** 2, -1) / (0.25 + var)
    precision = 0.6**-2 + (a / s) ** 2
    plain = (0.3 * 0.6**-2 + a * np.asarray(X, np.float64) / s**2) / precision
    run = jax.jit(lambda denoiser: denoiser(X, t))
    for std, var in ((None, 1 / (1 + (a / s) ** 2)), (0.6, 1 / precision), (0.0, 0.0), (np.inf, (s / a) ** 2)):
        options = {} if std is None else {"data_std": std, "scale": 1 - 0.5 * np.isinf(std)}
        out = run(D.Twisted(law, likelihood, **options))
        x0 = plain + options.get("scale", 1.0) * (y - plain) / (0.25 + var) / precision
        if std == 0.6:
            np.testing.assert_allclose(x0, (plain * precision + y / 0.25) / (precision + 1 / 0.25), rtol=1e-12)
        np.testing.assert_allclose(out.x0, x0, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(out.eps, (X - a * x0) / s, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(out.aux.x0, plain, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(out.aux.value, -0.5 * np.sum((y - plain) ** 2, -1) / (0.25 + var), rtol=2e-5)


def test_labels_of_different_shape_are_called_each():
    """A batch of two is impossible: a null label of another shape than the prompt."""

    def model(leaves, x, t):
        return x * leaves["weight"] + jnp.sum(leaves["label"])

    den = lambda label: js.Denoiser(jax.tree_util.Partial(model, {"weight": SHARED, "label": label}), VP)
    guided = D.ClassifierFree(den(jnp.ones(2)), den(jnp.ones(5)), 2.0)
    c, u = den(jnp.ones(2))(X, 0.4).eps, den(jnp.ones(5))(X, 0.4).eps
    np.testing.assert_allclose(guided(X, 0.4).eps, u + 2.0 * (c - u), rtol=1e-5, atol=1e-6)


def test_integer_labels_are_batched():
    table = jnp.asarray(np.random.default_rng(1).normal(size=(10, 3)), jnp.float32)
    calls = []

    def model(leaves, x, t):
        calls.append(1)
        return x * 0.3 + leaves["table"][leaves["label"]][None]

    den = lambda label: js.Denoiser(jax.tree_util.Partial(model, {"table": table, "label": label}), VP)
    guided = D.ClassifierFree(den(3), den(9), 4.0)
    got = guided(X, 0.4).eps
    assert len(calls) == 1
    np.testing.assert_allclose(got, X * 0.3 + (table[9] + 4.0 * (table[3] - table[9]))[None], rtol=1e-5, atol=1e-6)


def test_scale_may_be_an_array_or_a_function_of_time():
    cond, uncond = labelled([], jnp.float32(1.0)), labelled([], jnp.float32(-1.0))
    c, u = cond(X, 0.4).x0, uncond(X, 0.4).x0
    weights = jnp.array([0.0, 1.0, 2.0, 5.0])
    per_sample = D.ClassifierFree(cond, uncond, weights)(X, 0.4).x0
    np.testing.assert_allclose(per_sample, u + weights[:, None] * (c - u), rtol=2e-5, atol=2e-6)
    interval = D.ClassifierFree(cond, uncond, lambda t: jnp.where(t < 0.5, 3.0, 1.0))
    np.testing.assert_allclose(interval(X, 0.4).x0, u + 3.0 * (c - u), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(interval(X, 0.6).x0, cond(X, 0.6).x0, rtol=2e-5, atol=2e-6)
    traced = jax.jit(lambda w: D.ClassifierFree(cond, uncond, w)(X, 0.4).x0)
    np.testing.assert_allclose(traced(3.0), u + 3.0 * (c - u), rtol=2e-5, atol=2e-6)
    slope = jax.grad(lambda w: jnp.sum(D.ClassifierFree(cond, uncond, w)(X, 0.4).x0))(3.0)
    np.testing.assert_allclose(slope, jnp.sum(c - u), rtol=1e-4)


def test_one_denoiser_on_both_sides():
    law = D.GaussianMixture(VP, weights=[1.0], means=[[0.0] * 3], stds=[1.0])
    for got, wanted in zip(D.ClassifierFree(law, law, 7.5)(X, 0.4), law(X, 0.4), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_guided_sampling_with_any_plan_is_one_trace():
    calls = []
    guided = D.ClassifierFree(labelled(calls, jnp.float32(1.0)), labelled(calls, jnp.float32(-1.0)), 3.0)
    calls.clear()
    plan = js.solve.dpmpp(VP, js.noise.logsnr_grid(VP, 6))
    x = js.sample(None, guided, X, plan).x
    assert len(calls) == 1
    assert np.all(np.isfinite(x))


@pytest.mark.parametrize("name", ["heun", "rho_rk", "pndm", "jumps", "restart"])
def test_each_row_has_its_own_weight(name):
    """Rows that share a time (stages, jumps, restarts) too: between predictions 0 and 1 the guided x0 is the weight."""
    grid, S = js.noise.time_grid(VP, 4), js.solve
    plan = {
        "heun": lambda: S.heun(VP, grid), "rho_rk": lambda: S.rho_rk(VP, grid, tableau="4rk"),
        "pndm": lambda: S.pndm(VP, grid), "jumps": lambda: S.jumps(S.ddpm(VP, grid), length=2, repeats=2),
        "restart": lambda: S.restart(S.ddim(VP, grid), S.ddim(VP, grid[1:3])),
    }[name]()  # fmt: skip
    assert len(np.unique(plan.t)) < plan.nfe
    one, zero = (js.Denoiser(lambda x, t, v=v: jnp.full_like(x, v), VP, predicts="x0") for v in (1.0, 0.0))
    weights = np.arange(1.0, plan.nfe + 1)
    guided = D.ClassifierFree(one, zero, D.PerStep(plan, weights))
    kept = js.sample(jax.random.key(0), guided, X[:, 0], plan, keep=lambda x, p: p.x0[0]).info.kept
    np.testing.assert_allclose(kept, weights, rtol=1e-6)


def test_a_part_of_a_plan_has_the_weights_of_its_rows():
    """Whether the weights were made for the whole plan or for the part; on a row its own weight, at any time."""
    plan = js.solve.ddim(VP, js.noise.time_grid(VP, 5))
    weight = D.PerStep(plan, np.arange(1.0, 6.0))
    assert [float(weight.at_row(i)(plan.t[4 - i])) for i in range(5)] == [1, 2, 3, 4, 5]
    assert [float(weight(t)) for t in plan.t] == [1, 2, 3, 4, 5]
    one, zero = (js.Denoiser(lambda x, t, v=v: jnp.full_like(x, v), VP, predicts="x0") for v in (1.0, 0.0))
    for weights in (D.PerStep(plan, np.arange(5.0)), D.PerStep(plan[2:4], [2.0, 3.0])):
        guided = D.ClassifierFree(one, zero, weights)
        kept = js.sample(None, guided, X[:, 0], plan[2:4], keep=lambda x, p: p.x0[0]).info.kept
        np.testing.assert_allclose(kept, [2.0, 3.0], rtol=1e-6)
    up = js.solve.invert(plan)
    kept = js.sample(None, D.ClassifierFree(one, zero, weight), X[:, 0], up, keep=lambda x, p: p.x0[0]).info.kept
    np.testing.assert_allclose(kept, [5, 5, 4, 3, 2, 1], rtol=1e-6)  # each time has its weight, on the way up as well
    longer = js.solve.ddim(VP, js.noise.time_grid(VP, 7))
    guided = D.ClassifierFree(one, zero, weight)
    found = jax.jit(lambda plan: js.sample(None, guided, X[:, 0], plan, keep=lambda x, p: p.x0[0]))(longer)
    np.testing.assert_allclose(found.info.kept[:5], [1, 2, 3, 4, 5], rtol=1e-6)
    assert np.all(np.isnan(found.info.kept[5:]))
    assert not bool(found.info.ok)


def test_weights_of_another_plan_are_refused():
    """Of as many rows, with steps between, longer, or of a part; what half precision makes of the plan passes."""
    S, grid, key, x = js.solve, js.noise.time_grid(VP, 5), jax.random.key(0), X[0, :1]
    plan, law = S.ddpm(VP, grid), js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.0]], stds=[1.0])
    weight, part = D.PerStep(plan, np.ones(5)), D.PerStep(plan[2:4], [2.0, 3.0])
    late = S.ddpm(VP, js.noise.logsnr_grid(VP, 5))
    for weight_of, other, own in (
        (weight, late, r"row 1 .* has it at t=0\.8002"),
        (weight, S.predictor_corrector(plan), r"row 1 runs at t=1, .* has it at t=0\.8002"),
        (weight, S.concat(plan, S.ddpm(VP, [grid[-1], 5e-4])), r"row 5 runs at t=0\.001, .* has no such row"),
        (part, plan, "row 0 .* has no such row"),
    ):
        guided, match = D.ClassifierFree(law, law, weight_of), f"PerStep holds the weights of another plan: {own}"
        with pytest.raises(ValueError, match=f"sample: {match}"):
            js.sample(key, guided, x, other)
        with pytest.raises(ValueError, match=f"kernel: {match}"):
            S.kernel(guided, other)
    guided = D.ClassifierFree(law, law, weight)
    with pytest.raises(ValueError, match="step: PerStep holds the weights of another plan: row 2"):
        S.step(key, guided, S.init(late[1:], x), jax.tree.map(lambda a: a[1], late[1:]))
    assert js.sample(key, guided, x, plan.astype(jnp.bfloat16)).info.ok


# ---------------------------------------------------------------- thresholds


def raw(values):
    return js.Denoiser(lambda x, t: jnp.asarray(values, x.dtype), VP, predicts="x0")


def test_static_threshold_clips():
    values = np.array([[-3.0, 0.5, 2.0], [0.1, -0.2, 1.0]], np.float32)
    x = X[:2]
    out = D.Threshold(raw(values), limit=1.5)(x, 0.4)
    np.testing.assert_array_equal(out.x0, np.clip(values, -1.5, 1.5))
    np.testing.assert_allclose(VP.alpha(0.4) * out.x0 + VP.sigma(0.4) * out.eps, x, rtol=1e-5, atol=1e-6)


def test_threshold_that_does_nothing_is_bit_exact():
    inner = D.GaussianMixture(VP, weights=[1.0], means=[[0.0] * 3], stds=[0.1])
    for outer in (D.Threshold(inner, limit=50.0), D.Threshold(inner, 0.99, limit=50.0)):
        for got, wanted in zip(outer(X, 0.4), inner(X, 0.4), strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1.0])
def test_dynamic_threshold_by_hand(quantile):
    values = np.random.default_rng(3).normal(size=(4, 50)).astype(np.float32) * np.array(
        [[0.1], [1], [2], [5]], np.float32
    )
    x = jnp.asarray(np.random.default_rng(4).normal(size=(4, 50)), jnp.float32)
    each = D.Threshold(raw(values), quantile, event_ndim=1)(x, 0.4)
    whole = D.Threshold(raw(values), quantile)(x, 0.4)
    for i in range(4):
        s = max(1.0, np.quantile(np.abs(values[i]), quantile))
        np.testing.assert_allclose(each.x0[i], np.clip(values[i], -s, s) / s, rtol=2e-5, atol=1e-6)
    s = max(1.0, np.quantile(np.abs(values), quantile))
    np.testing.assert_allclose(whole.x0, np.clip(values, -s, s) / s, rtol=2e-5, atol=1e-6)
    for out in (each, whole):
        np.testing.assert_allclose(VP.alpha(0.4) * out.x0 + VP.sigma(0.4) * out.eps, x, rtol=1e-5, atol=2e-6)
        assert np.abs(out.x0).max() <= 1 + 1e-6


def test_event_axes_are_vmap():
    """A batch with event_ndim is the vmap of single samples: batching never changes a sample."""
    wild = js.Denoiser(lambda x, t: 4 * x, VP, predicts="x0")
    batch = D.Threshold(wild, 0.8, event_ndim=1)(X, 0.4)
    single = jax.vmap(lambda x: D.Threshold(wild, 0.8)(x, 0.4))(X)
    for a, b in zip(batch, single, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_eps_plans_are_thresholded_too():
    """x0 stays in range whether the plan combines x0 or eps: the first-order step is the same step."""
    wild = D.Threshold(js.Denoiser(lambda x, t: 3 * jnp.tanh(x), VP, predicts="x0"))
    grid = js.noise.logsnr_grid(VP, 8)
    plans = [js.solve.dpmpp(VP, grid, order=1), js.solve.dpm_solver(VP, grid, order=1)]
    one, other = (js.sample(None, wild, X, plan).x for plan in plans)
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)
    assert np.abs(one).max() < 1.1
