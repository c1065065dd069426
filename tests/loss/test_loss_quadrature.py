"""Every loss of rows has its minimum where mathematics says, on Gaussian data, without Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadrature import check_minimum, expected, normal_nodes

import jsamp as js

pytestmark = pytest.mark.usefixtures("x64")
STD = 0.8


def linear(c):
    return lambda x, t: c * x


def nodes_of_match(t):
    z, w = normal_nodes(2)
    x0, eps = jnp.asarray(STD * z[:, :1]), jnp.asarray(z[:, 1:])
    return js.loss.MatchDrawn(x0, None, jnp.full(len(w), t), eps), w


def answers(schedule, t, predicts):
    """Best coefficient, and the variance of the target that no function of x_t explains."""
    a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
    h = 1e-6
    da, ds = ((float(f(t + h)) - float(f(t - h))) / (2 * h) for f in (schedule.alpha, schedule.sigma))
    c, d = {"eps": (0, 1), "x0": (1, 0), "v": (-s, a), "score": (0, -1 / s), "velocity": (da, ds)}[predicts]
    total = a**2 * STD**2 + s**2
    best = (c * a * STD**2 + d * s) / total
    return best, c**2 * STD**2 + d**2 - best**2 * total


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score", "velocity"])
def test_match(predicts):
    schedule, t = js.noise.VP(), 0.4
    drawn, w = nodes_of_match(t)
    best, floor = answers(schedule, t, predicts)
    loss = js.loss.Match(schedule, predicts=predicts, weight=1.0)
    check_minimum(lambda c: expected(loss, drawn, w, linear(c)), best, None, 1e-6)
    np.testing.assert_allclose(expected(loss, drawn, w, linear(best)), floor, rtol=1e-7)
    # The trained head gives the one denoiser, by the sampler's own conversion.
    x0 = js.Denoiser(linear(best), schedule, predicts=predicts)(jnp.ones(1), t).x0
    a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
    np.testing.assert_allclose(x0, [a * STD**2 / (a**2 * STD**2 + s**2)], rtol=1e-6)


def test_weights_of_match():
    schedule, t = js.noise.VP(), 0.4
    drawn, w = nodes_of_match(t)
    plain = expected(js.loss.Match(schedule, predicts="score", weight=1.0), drawn, w, linear(0.3))
    scored = expected(js.loss.Match(schedule, predicts="score"), drawn, w, linear(0.3))
    np.testing.assert_allclose(scored, plain * schedule.sigma(t) ** 2, rtol=1e-12)
    called = js.loss.Match(schedule, predicts="score", weight=lambda schedule, t: 3 * t)
    np.testing.assert_allclose(expected(called, drawn, w, linear(0.3)), plain * 1.2, rtol=1e-12)
    ratio = float(schedule.sigma(t) / schedule.alpha(t))
    weight = js.loss.EDMWeight(0.7)(schedule, jnp.asarray(t))
    np.testing.assert_allclose(weight, (ratio**2 + 0.49) / (ratio * 0.7) ** 2, rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_an_untrained_edm_network_has_loss_one(sigma):
    drawn, w = nodes_of_match(sigma)
    loss = js.loss.Match(js.noise.VE(), predicts="x0", weight=js.loss.EDMWeight(STD))
    silent = js.denoise.EDM(lambda x, c: jnp.zeros_like(x), STD)
    np.testing.assert_allclose(expected(loss, drawn, w, silent), 1, rtol=1e-9)


def test_edm_gives_the_network_unit_variance_and_the_level():
    drawn, w = nodes_of_match(0.3)
    seen = {}

    def network(x, c):
        seen.update(x=x, c=c)
        return 2 * x

    model = js.denoise.EDM(network, STD)
    x = drawn.x0[:, 0] + 0.3 * drawn.eps[:, 0]
    out = jnp.asarray(model(x, 0.3))
    np.testing.assert_allclose(np.sum(w * np.asarray(seen["x"]) ** 2), 1, rtol=1e-9)
    np.testing.assert_allclose(seen["c"], np.log(0.3) / 4, rtol=1e-12)
    total = STD**2 + 0.09
    np.testing.assert_allclose(out, STD**2 / total * x + 0.3 * STD / total**0.5 * 2 * x / total**0.5, rtol=1e-12)
    assert np.all(np.isfinite(model(x, 0.0)))
    np.testing.assert_array_equal(model(x, 0.0), x)  # the boundary, exactly
    rows = jax.vmap(model)(x[:3], jnp.array([0.1, 0.3, 2.0]))
    np.testing.assert_allclose(js.denoise.EDM(network, STD)(x[:3], jnp.array([0.1, 0.3, 2.0])), rows, rtol=1e-12)


def test_times_follow_their_law_and_stratified_levels_fill_their_cells():
    loss = js.loss.Match(js.noise.VE(), times=js.loss.LogNormalTimes(-0.5, 1.3))
    t = np.sort(np.asarray(loss.draw(jax.random.key(0), jnp.zeros((64, 1))).t))
    cdf = np.asarray(jax.scipy.stats.norm.cdf((np.log(t) + 0.5) / 1.3))
    assert np.all((np.arange(64) <= cdf * 64 + 1e-6) & (cdf * 64 <= np.arange(1, 65) + 1e-6))
    cut = js.loss.LogNormalTimes(-0.5, 1.3, low=0.2, high=2.0)
    u = jnp.linspace(0.001, 0.999, 1001)
    values = np.asarray(cut(js.noise.VE(), u))
    assert values.min() >= 0.2 and values.max() <= 2.0
    below = lambda r: np.asarray(jax.scipy.stats.norm.cdf((np.log(r) + 0.5) / 1.3))
    np.testing.assert_allclose((below(values) - below(0.2)) / (below(2.0) - below(0.2)), u, atol=1e-9)
    loose = js.loss.Match(js.noise.VE(), times=js.loss.UniformTimes(1.0, 2.0), stratified=False)
    t = np.sort(np.asarray(loose.draw(jax.random.key(0), jnp.zeros((64, 1))).t))
    assert t.min() >= 1 and t.max() <= 2 and np.unique((64 * (t - 1)).astype(int)).size < 64


def test_no_level_is_drawn_that_the_schedule_has_not():
    schedule, law, u = (
        js.noise.Discrete.ddpm_linear(),
        js.loss.LogNormalTimes(-3.0, 3.0),
        jnp.linspace(0.001, 0.999, 99),
    )
    t = jax.jit(law)(schedule, u)
    assert np.all((t >= 0) & (t <= 999))
    log_ratio = -np.asarray(jax.vmap(schedule.lam)(jnp.concatenate([jnp.array([0.0, 999.0]), t])))
    low, high, *below = np.asarray(jax.scipy.stats.norm.cdf((log_ratio + 3) / 3))
    np.testing.assert_allclose((np.array(below) - low) / (high - low), u, atol=1e-4)


def noisy(x):
    return x, jnp.linspace(0, 0.9, len(x))


TEACHER = js.loss.Teacher(js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[1.0]))
LEVELS = {
    "Ambient": (js.loss.Ambient(), noisy, "sigma"),
    "Ambient, consistent": (js.loss.Ambient(consistency=1.0, steps=2), noisy, "lower"),
    "Consistency": (js.loss.Consistency([999.0, 333.3, 0.002]), lambda x: x, "u"),
    "Consistency, tangent": (js.loss.Consistency([999.0, 333.3, 0.002], target="tangent"), lambda x: x, "t"),
    "Consistency, teacher": (js.loss.Consistency([9.99, 3.33], TEACHER, target="teacher"), lambda x: x, "t"),
    "Trajectory": (js.loss.TrajectoryConsistency([9.99, 3.33, 0.002], TEACHER), lambda x: x, "t"),
}


@pytest.mark.parametrize(
    "name", ["Match", "Regeneration", "ForwardModelMatch", "Interpolate", "AmbientMask", "GAN", *LEVELS]
)
def test_half_precision_data_leave_the_times_whole(name):
    """Index 999 is none of bfloat16, which has 996 and 1000: times are float32, and what the network sees is data's."""
    table, last = js.noise.Discrete.scaled_linear(), lambda schedule, u: 0 * u + 999
    loss, batch, time = {
        "Match": (js.loss.Match(table, times=last), lambda x: x, "t"),
        "Regeneration": (js.loss.Regeneration(table, times=last), lambda x: (x, x), "t"),
        "ForwardModelMatch": (
            js.loss.ForwardModelMatch(lambda signal, view: signal, table, times=last),
            lambda x: js.loss.Views(x, x, x),
            "t",
        ),
        "Interpolate": (js.loss.Interpolate(js.noise.Interpolant("linear"), "b"), lambda x: (x, x), "t"),
        "AmbientMask": (js.loss.AmbientMask(table, times=last), lambda x: (x, jnp.ones_like(x)), "sigma"),
        "GAN": (js.loss.GANCritic(table, [999.0, 333.0, -1.0], latent=1), lambda x: x, "upper"),
        **LEVELS,
    }[name]
    x, key = jnp.linspace(-1, 1, 8)[:, None], jax.random.key(0)
    whole, half = (loss.draw(key, batch(x.astype(dtype))) for dtype in (jnp.float32, jnp.bfloat16))
    assert getattr(half, time).dtype == jnp.float32
    np.testing.assert_array_equal(getattr(half, time), getattr(whole, time))
    seen = []

    def network(x, t, *more):
        seen.append((str(x.dtype), str(t.dtype)))
        return x

    pair, judge = (network, network), lambda x, t, above: x.sum()
    model = {"Regeneration": (lambda y: y, network), "GAN": (network, judge), "Trajectory": pair}.get(name, network)
    value, info = loss.value(model, half)
    assert set(seen) == {("bfloat16", "float32")}
    assert value.dtype == info.each.dtype == jnp.bfloat16
    assert bool(jnp.isfinite(value))


def test_half_precision_data_have_the_target_of_their_teacher():
    """Between close levels it is a difference of large numbers; of one Euler step on N(0, 1) it is x / (1 + t^2)."""
    whole = lambda v: v[0].astype(jnp.float32)
    gap = lambda x, wanted: whole(wanted) - whole(x) / (1 + 9.99**2)
    loss = js.loss.Consistency([9.99, 9.5], TEACHER, target="teacher", distance=gap)
    each = loss(jax.random.key(0), lambda x, t: x, jnp.linspace(-1, 1, 64, dtype=jnp.bfloat16)[:, None])[1].each
    np.testing.assert_allclose(each, 0, atol=1e-3)  # bfloat16 holds |x| = 30 and the target .3 to 6e-4


def test_half_precision_rows_are_noised_by_the_level_itself():
    """257 1.5 = 385.5 is 386 in bfloat16, where 257 is 256 and the product would be 384."""
    half = lambda v: jnp.full((1, 1), v, jnp.bfloat16)
    level = lambda v: jnp.full(1, v, jnp.float32)
    drawn = js.loss.ConsistencyDrawn(
        half(0), None, level(257), level(1), half(1.5), jax.random.split(jax.random.key(0), 1)
    )
    loss = js.loss.Consistency([257.0, 1.0], distance=lambda x, wanted: x[0])
    assert loss.value(lambda x, t: x, drawn)[0] == 386


def test_conditions_are_dropped_as_often_as_asked():
    loss = js.loss.Match(js.noise.VP(), drop=0.25, null=10)
    label = jnp.arange(4000) % 10
    dropped = np.asarray(loss.draw(jax.random.key(0), (jnp.zeros((4000, 1)), label)).condition)
    share = np.mean(dropped == 10)
    assert abs(share - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_array_equal(dropped[dropped != 10], np.asarray(label)[dropped != 10])
    scaled = js.loss.Match(js.noise.VP(), predicts="x0", time_map=lambda t: 1000 * t)
    drawn = scaled.draw(jax.random.key(0), jnp.zeros((3, 1)))
    each = scaled.value(lambda x, t: t * jnp.ones_like(x), drawn)[1].each
    np.testing.assert_allclose(each, (1000 * drawn.t) ** 2, rtol=1e-12)
