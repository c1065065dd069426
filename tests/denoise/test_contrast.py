"""Guidance by contrast of predictions: identities, closed forms on Gaussians, and evaluations that do not happen."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp._core._pytree import pytree

D, S = js.denoise, js.solve
VE = js.noise.VE(1e-4, 200.0)
VP = js.noise.VP()


def gaussian(schedule, mean, variance):
    return D.GaussianMixture(schedule, weights=[1.0], means=[[mean]], stds=[variance**0.5])


def mixture(schedule, k=None):
    means, stds = np.array([[-1.0, 0.3], [0.8, 0.9], [0.2, -1.1]]), np.array([0.4, 0.5, 0.6])
    keep = slice(None) if k is None else slice(k, k + 1)
    return D.GaussianMixture(schedule, weights=np.array([0.3, 0.5, 0.2])[keep], means=means[keep], stds=stds[keep])


@functools.cache
def steep_plan():
    """Sixth-order steps on many nodes: the flow to rounding of its own."""
    return S.deis(VE, js.noise.karras_grid(VE, 400, 7.0, final="sigma_min"), order=4, variable="rho")


def affine(denoiser, plan):
    """Mean and variance of the plan's output for affine predictions and the start N(0, sigma_max^2)."""
    ends = jax.jit(jax.vmap(lambda x: js.sample(None, denoiser, x, plan).x))(jnp.array([[0.0], [1.0]]))[:, 0]
    return float(ends[0]), float((ends[1] - ends[0]) ** 2 * float(plan.sigma[0]) ** 2)


@pytest.mark.parametrize(("scale", "variance", "mean"), [(2.0, 0.5, 1.616), (3.0, 0.25, 1.993)])
def test_guided_gaussians_have_the_product_variance(scale, variance, mean, x64):
    """var = s_c^(2 w) s_u^(2 (1 - w)) as sigma_max grows: not the variance of the tilted law, .667 and .5."""
    guided = D.ClassifierFree(gaussian(VE, 1.0, 1.0), gaussian(VE, 0.0, 2.0), scale)
    got_mean, got = affine(guided, steep_plan())
    assert got == pytest.approx(variance, rel=1e-3 + 2 / 200)
    # The exact value at sigma_max = 200: flow ratios of both laws, raised to w and 1 - w.
    lo, hi = float(steep_plan().sigma_next[-1]) ** 2, float(steep_plan().sigma[0]) ** 2
    ratio = lambda v: (v + lo) / (v + hi)
    assert got == pytest.approx(hi * ratio(1.0) ** scale * ratio(2.0) ** (1 - scale), rel=1e-5)
    assert got_mean == pytest.approx(mean, rel=2e-2)


def test_autoguidance_is_exact_at_its_weight(x64):
    """Errors of one shape cancel: variances s^2 (1 + d) and s^2 (1 + k d) give s^2 at w*."""
    d, k = 0.1, 4.0
    weight = np.log(1 + k * d) / (np.log(1 + k * d) - np.log(1 + d))
    assert weight == pytest.approx(1.39521, abs=1e-5)
    _, got = affine(D.Auto(gaussian(VE, 0.0, 1 + d), gaussian(VE, 0.0, 1 + k * d), weight), steep_plan())
    assert got == pytest.approx(1.0, rel=1e-4)


def test_interval_adds_the_logarithms_of_its_segments(x64):
    cut, scale = [0, 120, 260, 400], 2.5
    grid = js.noise.karras_grid(VE, 400, 7.0, final="sigma_min")
    # The field jumps at the ends of the interval, so the history starts anew there.
    parts = [grid[i : j + 1] for i, j in itertools.pairwise(cut)]
    plan = S.concat(*(S.deis(VE, part, order=4, variable="rho") for part in parts))
    cond, uncond = gaussian(VE, 0.0, 0.5), gaussian(VE, 0.0, 2.0)
    sigma = np.append(plan.sigma, plan.sigma_next[-1]) ** 2
    log_ratio = lambda v, i, j: np.log((v + sigma[j]) / (v + sigma[i]))
    plain = log_ratio(0.5, cut[0], cut[1]) + log_ratio(0.5, cut[2], cut[3])
    inside = scale * log_ratio(0.5, cut[1], cut[2]) + (1 - scale) * log_ratio(2.0, cut[1], cut[2])
    guided = D.Interval.of_steps(D.ClassifierFree(cond, uncond, scale), cond, plan, cut[1], cut[2])
    _, got = affine(guided, plan)
    # Each part begins with one Euler step of 400.
    assert got == pytest.approx(sigma[0] * np.exp(plain + inside), rel=1e-3)


def test_the_interval_of_everything_and_of_nothing(x64):
    """The same operations, bit for bit; compiled, two programs may round differently."""
    plan = S.dpmpp(VP, js.noise.logsnr_grid(VP, 4))
    guided = D.ClassifierFree(mixture(VP, 1), mixture(VP), 3.0)
    everything = D.Interval(guided, mixture(VP, 1))
    nothing = D.Interval(guided, mixture(VP, 1), 1e5, 1e6)
    by_steps = D.Interval.of_steps(guided, mixture(VP, 1), plan, 0, 4)
    x = jnp.array([0.7, -1.3])
    run = lambda d: js.sample(None, d, x, plan).x
    pairs = [(everything, guided), (nothing, mixture(VP, 1)), (by_steps, guided)]
    with jax.disable_jit():
        for a, b in pairs:
            np.testing.assert_array_equal(run(a), run(b))
    for a, b in pairs:
        np.testing.assert_allclose(run(a), run(b), rtol=1e-14)


class Counter:
    """Counts real evaluations, not traces."""

    def __init__(self):
        self.calls = 0

    def add(self, x):
        self.calls += 1
        return x


@pytree
class Counted:
    """A denoiser whose every evaluation is counted on the host."""

    inside: object
    counter: object = dataclasses.field(metadata={"static": True})

    @property
    def schedule(self):
        return self.inside.schedule

    def __call__(self, x, t, *, key=None):
        x = jax.pure_callback(self.counter.add, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims")
        return self.inside(x, t, key=key)


@pytest.mark.parametrize("batch", [None, 5])
def test_evaluations_outside_the_interval_do_not_happen(batch):
    """Two evaluations in the interval, one outside; a batch of samples still takes one branch for each row."""
    cond, uncond = Counter(), Counter()
    c, u = Counted(mixture(VP, 1), cond), Counted(mixture(VP), uncond)
    plan = S.dpmpp(VP, js.noise.logsnr_grid(VP, 10))
    guided = D.Interval.of_steps(D.ClassifierFree(c, u, 3.0), c, plan, 3, 7)
    x = np.ones((2,) if batch is None else (batch, 2), np.float32)
    draw = lambda x: js.sample(None, guided, x, plan).x
    jax.block_until_ready(jax.jit(draw if batch is None else jax.vmap(draw))(x))
    jax.effects_barrier()
    assert (cond.calls, uncond.calls) == (10, 4)


def test_projected_guidance_with_nothing_projected_is_classifier_free(x64):
    cond, uncond, x = mixture(VP, 1), mixture(VP), jnp.array([0.4, -0.7])
    for w in (0.0, 1.0, 4.0):
        a, b = D.APG(cond, uncond, w, eta=1.0)(x, 0.3), D.ClassifierFree(cond, uncond, w)(x, 0.3)
        np.testing.assert_allclose(a.x0, b.x0, rtol=1e-13)
        np.testing.assert_allclose(a.eps, b.eps, rtol=1e-12, atol=1e-13)


def test_projected_guidance_bounds_and_damps(x64):
    cond, uncond, x = mixture(VP, 1), mixture(VP), jnp.array([0.4, -0.7])
    c, u = cond(x, 0.3).x0, uncond(x, 0.3).x0
    across = D.APG(cond, uncond, 3.0)(x, 0.3).x0 - c
    assert float(jnp.sum(across * c)) == pytest.approx(0, abs=1e-14)
    size = float(jnp.linalg.norm(c - u))
    short = D.APG(cond, uncond, 3.0, eta=1.0, norm_threshold=size / 4)(x, 0.3).x0 - c
    np.testing.assert_allclose(short, 2 * (c - u) / 4, rtol=1e-12)
    long = D.APG(cond, uncond, 3.0, eta=1.0, norm_threshold=size * 4)(x, 0.3).x0 - c
    np.testing.assert_allclose(long, 2 * (c - u), rtol=1e-12)


def test_rescaled_guidance_has_the_spread_of_the_conditional(x64):
    rng = np.random.default_rng(0)
    law = lambda m: D.GaussianMixture(VP, weights=[1.0], means=[m], stds=[0.7])
    cond, x = law(rng.normal(size=32)), jnp.asarray(rng.normal(size=32))
    guided = D.ClassifierFree(cond, law(rng.normal(size=32)), 7.0)
    alpha, sigma = VP.alpha(0.4), VP.sigma(0.4)
    views = {"x0": lambda p: p.x0, "eps": lambda p: p.eps, "v": lambda p: alpha * p.eps - sigma * p.x0}
    for space, view in views.items():
        full = D.Rescale(guided, 1.0, space)(x, 0.4)
        np.testing.assert_allclose(jnp.std(view(full)), jnp.std(view(cond(x, 0.4))), rtol=1e-12)
        np.testing.assert_allclose(alpha * full.x0 + sigma * full.eps, x, rtol=1e-12)
        half, none = (D.Rescale(guided, a, space)(x, 0.4) for a in (0.5, 0.0))
        np.testing.assert_allclose(view(half), (view(full) + view(none)) / 2, rtol=1e-10)
        np.testing.assert_allclose(none.x0, guided(x, 0.4).x0, rtol=1e-10)


def test_zero_star_scales_the_unconditional_velocity(x64):
    flow = js.noise.Flow()
    cond, uncond, x = mixture(flow, 1), mixture(flow), jnp.array([0.4, -0.7])
    velocity = lambda p: p.eps - p.x0
    c, u = velocity(cond(x, 0.6)), velocity(uncond(x, 0.6))
    s = jnp.sum(c * u) / jnp.sum(u * u)
    for w in (1.0, 4.0):
        got = velocity(D.CFGZero(cond, uncond, w)(x, 0.6))
        np.testing.assert_allclose(got, s * u + w * (c - s * u), rtol=1e-10)
    np.testing.assert_allclose(velocity(D.CFGZero(cond, uncond, 1.0)(x, 0.6)), c, rtol=1e-12)
    frozen = D.CFGZero(cond, uncond, 4.0, zero_init=0.75)
    plan = S.heun(flow, js.noise.time_grid(flow, 4, final="sigma_min"))
    first, second = plan[:2], plan[2:]
    np.testing.assert_allclose(js.sample(None, frozen, x, S.ddim(flow, np.array([1.0, 0.76]))).x, x, rtol=1e-12)
    assert not np.allclose(js.sample(None, frozen, x, second).x, x)
    assert first.nfe == 2


RESHAPING = {
    "Rescale": lambda c, u, n: D.Rescale(D.ClassifierFree(c, u, 4.0), event_ndim=n),
    "Rescale(eps)": lambda c, u, n: D.Rescale(D.ClassifierFree(c, u, 4.0), 1.0, "eps", event_ndim=n),
    "APG": lambda c, u, n: D.APG(c, u, 4.0, eta=0.3, norm_threshold=0.2, event_ndim=n),
    "CFGZero": lambda c, u, n: D.CFGZero(c, u, 4.0, event_ndim=n),
    "Threshold": lambda c, u, n: D.Threshold(D.ClassifierFree(c, u, 4.0), 0.7, 0.3, event_ndim=n),
}


@pytest.mark.parametrize("name", RESHAPING)
def test_a_batch_never_changes_what_is_reshaped(name, x64):
    """Norms, inner products, deviations and quantiles are those of each sample: with event_ndim and by vmap."""
    make, x = RESHAPING[name], jnp.asarray(np.random.default_rng(3).normal(size=(2, 3, 2)))
    cond, uncond = mixture(VP, 1), mixture(VP)
    batch = jax.jit(lambda x: make(cond, uncond, 1)(x, 0.3))(x)
    single = jax.jit(jax.vmap(jax.vmap(lambda x: make(cond, uncond, None)(x, 0.3))))(x)
    mixed = jax.jit(lambda x: make(cond, uncond, None)(x, 0.3))(x)
    np.testing.assert_allclose(batch.x0, single.x0, rtol=1e-10)
    np.testing.assert_allclose(batch.eps, single.eps, rtol=1e-10)
    assert not np.allclose(mixed.x0, single.x0, rtol=1e-3)


def test_composition_is_linear(x64):
    conds, uncond, x = [mixture(VP, k) for k in range(3)], mixture(VP), jnp.array([0.4, -0.7])
    weights = [2.0, -1.0, 0.5]
    got = D.Compose(conds, uncond, weights)(x, 0.3)
    u = uncond(x, 0.3)
    np.testing.assert_allclose(
        got.x0, u.x0 + sum(w * (c(x, 0.3).x0 - u.x0) for w, c in zip(weights, conds, strict=True)), rtol=1e-12
    )


CENTERS = np.array([[-2.0, 0.0], [0.2, 0.1], [2.0, 0.4]])


def of_class(k):
    return D.GaussianMixture(VP, weights=[1.0], means=jnp.asarray(CENTERS)[k][None], stds=[0.8])


def bayes(x0):
    return -0.5 * jnp.sum((x0[None] - CENTERS) ** 2, axis=-1) / 0.64


def test_gradient_free_guidance_by_hand(x64):
    x = jnp.array([0.4, -0.7])
    for label in range(3):
        main = of_class(label)(x, 0.3)
        p = np.asarray(jax.nn.softmax(bayes(main.x0)))
        second = max((k for k in range(3) if k != label), key=lambda k: p[k])
        got = D.GradientFree(of_class, label, bayes, 2.0)(x, 0.3)
        other = of_class(second)(x, 0.3).x0
        np.testing.assert_allclose(got.x0, other + (1 + 2.0 * (1 - p[label])) * (main.x0 - other), rtol=1e-12)
        np.testing.assert_array_equal(got.aux, main.x0)
        traced = jax.jit(lambda k: D.GradientFree(of_class, k, bayes, 2.0)(x, 0.3).x0)(jnp.int32(label))
        np.testing.assert_allclose(traced, got.x0, rtol=1e-12)
        # Against a weaker model of the reference class.
        weak = lambda k: D.GaussianMixture(VP, weights=[1.0], means=jnp.asarray(CENTERS)[k][None], stds=[1.7])
        against = D.GradientFree(of_class, label, bayes, 2.0, weak=weak)(x, 0.3)
        other = weak(second)(x, 0.3).x0
        np.testing.assert_allclose(against.x0, other + (1 + 2.0 * (1 - p[label])) * (main.x0 - other), rtol=1e-12)
        # Nothing to push from where the classifier is sure, or where omega is 0.
        sure = D.GradientFree(of_class, label, lambda x0, k=label: 1e3 * (jnp.arange(3) == k), 2.0)
        np.testing.assert_allclose(sure(x, 0.3).x0, main.x0, rtol=1e-15)
        np.testing.assert_allclose(D.GradientFree(of_class, label, bayes, 0.0)(x, 0.3).x0, main.x0, rtol=1e-15)


def test_gradient_free_guidance_one_row_late(x64):
    """With lag the classifier reads the row before, and the first row is plain."""
    plan, x = S.ddim(VP, js.noise.time_grid(VP, 6)), np.array([0.4, -0.7])
    late = D.GradientFree(of_class, 1, bayes, 2.0, lag=True)
    got = js.sample(None, late, jnp.asarray(x), plan, steer=js.steer.Memory(), keep=lambda x, p: p.x0)
    before = None
    for r in range(plan.nfe):
        main = of_class(1)(jnp.asarray(x), plan.t[r]).x0
        x0 = main
        if before is not None:
            p = np.asarray(jax.nn.softmax(bayes(before)))
            second = max((0, 2), key=lambda k: p[k])
            other = of_class(second)(jnp.asarray(x), plan.t[r]).x0
            x0 = other + (1 + 2.0 * (1 - p[1])) * (main - other)
        before = main
        np.testing.assert_allclose(got.info.kept[r], x0, rtol=1e-9)
        eps = (x - plan.alpha[r] * x0) / plan.sigma[r]
        x = plan.alpha_next[r] * x0 + plan.sigma_next[r] * np.asarray(eps)
    np.testing.assert_allclose(got.x, x, rtol=1e-9)
