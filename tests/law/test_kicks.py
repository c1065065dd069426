"""Kicks and memories: what guidance adds to a run besides its predictions, on any plan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import interpret

import jsamp as js

D, S = js.denoise, js.solve
VP = js.noise.VP()
GRID = js.noise.time_grid(VP, 5, 2, final="sigma_min")


def law(k=None):
    means, stds = np.array([[-1.0, 0.3], [0.8, 0.9], [0.2, -1.1]]), np.array([0.4, 0.5, 0.6])
    keep = slice(None) if k is None else slice(k, k + 1)
    return D.GaussianMixture(VP, weights=np.array([0.3, 0.5, 0.2])[keep], means=means[keep], stds=stds[keep])


@functools.cache
def plans():
    return {
        "ddim": S.ddim(VP, GRID),
        "deis": S.deis(VP, GRID, order=3),
        "unipc": S.unipc(VP, GRID),
        "unipc(last)": S.unipc(VP, GRID, corrector_last=True),
        "heun": S.heun(VP, GRID),
        "4rk": S.rho_rk(VP, GRID, tableau="4rk"),
        "single": S.dpmpp_single(VP, GRID, order=3),
        "pndm": S.pndm(VP, GRID),
        "ghvb": S.ghvb(VP, GRID),
        "heavy_ball": S.heavy_ball(S.plms(VP, GRID), 0.8),
        "sa_solver": S.sa_solver(VP, GRID),
        "concat": S.concat(S.heun(VP, GRID[:3]), S.unipc(VP, GRID[2:])),
    }


@pytest.mark.parametrize("name", plans())
def test_one_kick_for_each_step_of_every_plan(name, x64):
    """Against the table read literally, with the kick of the step's first evaluation where the step ends."""
    plan, x, key = plans()[name], np.array([0.4, -0.7]), jax.random.key(1)
    guided = D.CFGpp(law(1), law(), 0.6)
    steps_to = np.where(_starts(plan), _landing(plan), np.nan)

    def predict(x, t):
        r = len(calls)
        calls.append(t)
        u, c = law()(jnp.asarray(x), t), law(1)(jnp.asarray(x), t)
        return np.asarray(u.x0), np.asarray(u.eps), steps_to[r] * 0.6 * np.asarray(c.x0 - u.x0)

    calls: list = []
    noise = lambda row, stream: np.asarray(
        jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, row), stream), (2,), jnp.float64)
    )
    wanted = interpret(plan, predict, x, noise)
    np.testing.assert_allclose(js.sample(key, guided, jnp.asarray(x), plan).x, wanted, rtol=1e-9)
    if name in ("ddim", "unipc(last)", "single"):
        step = jax.jit(lambda state, row: S.step(key, guided, state, row))
        state = S.init(plan, jnp.asarray(x), kicks=True)
        for r in range(plan.nfe):
            state = step(state, jax.tree.map(lambda a, r=r: jnp.asarray(a)[r], plan))
        np.testing.assert_allclose(S.output(state), wanted, rtol=1e-9)


def _starts(plan):
    return np.ones(plan.nfe, bool) if plan.take is None else np.asarray(plan.take) != 0


def _landing(plan):
    """alpha where the step that a row begins ends."""
    ends = np.ones(plan.nfe, bool) if plan.ends_step is None else np.asarray(plan.ends_step)
    return [plan.alpha_next[next((k for k in range(r, plan.nfe) if ends[k]), r)] for r in range(plan.nfe)]


def test_a_step_ends_once(x64):
    assert plans()["unipc(last)"].ends_step.tolist() == [True] * 5 + [False]
    assert plans()["heun"].ends_step.tolist() == [False, True] * 5
    assert plans()["concat"].ends_step.tolist() == [False, True] * 2 + [True] * 3
    assert plans()["ddim"].ends_step is None


def test_plus_plus_is_classifier_free_of_its_own_weight_under_ddim(x64):
    """CFG++ of weight l under DDIM is CFG of weight l / (1 - e^-h) for each step, and l in a step to sigma = 0."""
    grid = js.noise.logsnr_grid(VP, 8, final="zero")
    plan, x = S.ddim(VP, grid), jnp.array([0.4, -0.7])
    h = np.log(plan.alpha_next[:-1] / plan.sigma_next[:-1]) - np.log(plan.alpha[:-1] / plan.sigma[:-1])
    weights = 0.6 / np.append(-np.expm1(-h), 1.0)
    plus = js.sample(None, D.CFGpp(law(1), law(), 0.6), x, plan).x
    free = js.sample(None, D.ClassifierFree(law(1), law(), D.PerStep(plan, weights)), x, plan).x
    np.testing.assert_allclose(plus, free, rtol=1e-13)


@pytest.mark.parametrize("name", ["ddim", "unipc(last)", "single", "ghvb", "sa_solver"])
def test_no_weight_is_the_unconditional_sampler(name, x64):
    """The kick adds exact zeros; compiled, two programs may round differently, hence float64."""
    key, x = jax.random.key(1), jnp.array([0.4, -0.7], jnp.float64)
    run = jax.jit(lambda d: js.sample(key, d, x, plans()[name]).x)
    none, same = run(D.CFGpp(law(1), law(), 0.0)), run(D.CFGpp(law(), law(), 0.6))
    base = run(law())
    np.testing.assert_allclose(none, base, rtol=1e-13)
    np.testing.assert_allclose(same, base, rtol=1e-13)


@pytest.mark.parametrize("name", ["ddim", "unipc(last)", "heun"])
def test_no_weight_is_the_unconditional_sampler_bit_for_bit(name):
    key, x, plan = jax.random.key(1), jnp.array([0.4, -0.7]), plans()[name]
    with jax.disable_jit():
        none, base = (js.sample(key, d, x, plan).x for d in (D.CFGpp(law(1), law(), 0.0), law()))
    np.testing.assert_array_equal(none, base)


def test_a_heavy_ball_without_memory_keeps_the_kick(x64):
    base, x = S.plms(VP, GRID), jnp.array([0.4, -0.7])
    guided = D.CFGpp(law(1), law(), 0.6)
    a, b = (js.sample(None, guided, x, p).x for p in (base, S.heavy_ball(base, 1.0)))
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_kick_equals_a_change_of_x0_in_a_one_row_step(x64):
    """x + kick = the step with x0 moved by kick / c, c the step's coefficient of x0."""
    plan, x = S.ddim(VP, GRID), jnp.array([0.4, -0.7])
    plus = D.CFGpp(law(1), law(), 0.6)

    class Moved(js.steer.Hooks):
        def mid(self, key, g, x, prediction, info):
            """The prediction moved instead of the state."""
            change = jax.tree.map(lambda k: info.alpha_next * k / info.data_coef, prediction.kick.x0)
            x0 = prediction.x0 + change
            eps = prediction.eps - info.alpha / info.sigma * change
            return g, x, js.Prediction(x0, eps), None

    got = js.sample(None, plus, x, plan, steer=Moved()).x
    np.testing.assert_allclose(got, js.sample(None, plus, x, plan).x, rtol=1e-12)


def test_plans_with_stages_want_to_know():
    class Silent:
        schedule = VP

        def __call__(self, x, t, *, key=None):
            return D.Guided(x, x, D.Kick(x=x))

    with pytest.raises(ValueError, match="kicks = True"):
        js.sample(None, Silent(), jnp.ones(2), plans()["heun"])
    assert js.sample(None, Silent(), jnp.ones(2), plans()["ddim"]).info.ok


@pytest.mark.parametrize("name", ["unipc", "heun", "ddim"])
def test_kicks_follow_particles(name):
    """A steer that reverses the particles reverses what the solver remembers, the kick under way included."""
    key = jax.random.key(0)
    guided, x = D.CFGpp(law(1), law(), 0.6), jax.random.normal(key, (4, 2))

    class Reverse(js.steer.Hooks):
        def mid(self, key, g, x, prediction, info):
            """Reverse at every row."""
            index = jnp.arange(4)[::-1]
            return g, x[index], jax.tree.map(lambda a: a[index], prediction), index

    plan = plans()[name]
    got = js.sample(key, guided, x, plan, steer=Reverse()).x
    base = js.sample(key, guided, x, plan).x
    np.testing.assert_allclose(got if plan.nfe % 2 == 0 else got[::-1], base, rtol=2e-5, atol=1e-5)


def test_momentum_of_projected_guidance_runs_once_for_each_step(x64):
    """The running difference, by hand; further stages of a Heun step see the memory and leave it alone."""
    cond, uncond, beta = law(1), law(), -0.5
    apg = D.APG(cond, uncond, 3.0, eta=1.0, momentum=beta)
    for plan in (S.ddim(VP, js.noise.time_grid(VP, 5)), S.heun(VP, js.noise.time_grid(VP, 3))):
        seen = []

        def predict(x, t, plan=plan, seen=seen):
            r = len(seen)
            diff = np.asarray(cond(x, t).x0 - uncond(x, t).x0)
            memory = next((s for s, stage in reversed(seen) if not stage), np.zeros(2))
            running = diff + beta * memory
            seen.append((running, plan.take is not None and plan.take[r] == 0))
            x0 = np.asarray(cond(x, t).x0) + 2.0 * running
            return x0, (x - float(VP.alpha(t)) * x0) / float(VP.sigma(t))

        x = np.array([0.4, -0.7])
        got = js.sample(None, apg, jnp.asarray(x), plan, steer=js.steer.Memory()).x
        np.testing.assert_allclose(got, interpret(plan, predict, x), rtol=1e-10)
