"""What stands at the door of a run: plans cut in parts, levels that differ, grids outside the schedule, long steps."""

import dataclasses
import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import Mixture, run_table

import jsamp as js

N, S = js.noise, js.solve
VP, VE = N.VP(), N.VE()
KEY = jax.random.key(0)
X = np.array([[0.9], [-0.4], [0.2]], np.float32)


def law(schedule):
    return js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])


@pytest.mark.parametrize("size", [1, 5, 20])
def test_a_plan_in_parts_draws_the_noise_of_the_whole(size):
    """With one key and no history the parts end where the whole run ends: a part knows where it was cut from."""
    plan = S.ddpm(VE, N.karras_grid(VE, 40, final="sigma_min"))
    start = VE.prior(jax.random.key(1), (200, 1))
    whole = js.sample(KEY, law(VE), start, plan).x
    x = start
    for first in range(0, 40, size):
        x = js.sample(KEY, law(VE), x, plan[first : first + size]).x
    np.testing.assert_allclose(x, whole, rtol=3e-6, atol=3e-6)
    again = plan[10:][10:]
    assert again.number.tolist() == list(range(20, 40))
    np.testing.assert_array_equal(plan[20:].number, again.number)


@pytest.mark.parametrize("build", [S.ddpm, functools.partial(S.deis, order=3)])
def test_correctors_of_a_part_are_the_part_with_correctors(build):
    """Numbers too, so that the noise is that of the whole run; those of a part of a part too, and of rows after a climb."""
    plan = build(VP, N.time_grid(VP, 8))
    whole = S.predictor_corrector(plan, steps=2)
    for part in (plan[3:], plan[1:][2:]):
        again = S.predictor_corrector(part, steps=2)
        jax.tree.map(np.testing.assert_array_equal, again, whole[9:])
        assert again.number.tolist() == list(range(9, 24))
    late = dataclasses.replace(plan, visit=np.full(8, 2))
    assert S.predictor_corrector(late[3:], steps=2).visit.tolist() == 15 * [2]
    assert whole.number is None


def test_parts_have_the_bits_of_the_whole_with_one_program(x64):
    """Rows by `step` and by `kernel`, from a cut plan: the noise is that of the whole run, bit for bit."""
    plan = S.ddpm(VP, N.time_grid(VP, 8))
    step = jax.jit(lambda state, row: S.step(KEY, law(VP), state, row))
    row = lambda plan, i: jax.tree.map(lambda a: jnp.asarray(a[i]), plan)
    whole = S.init(plan, X.astype(np.float64))
    for i in range(8):
        whole = step(whole, row(plan, i))
    x = X.astype(np.float64)
    for part in (plan[:3], plan[3:4], plan[4:]):
        state = S.init(part, x)
        for i in range(part.nfe):
            state = step(state, row(part, i))
        x = state.x
    np.testing.assert_array_equal(x, whole.x)


def test_joined_plans_count_anew():
    """A plan twice in a row draws other noise the second time; restarts too; halves joined are the whole."""
    plan = S.ddpm(VP, N.time_grid(VP, 6))
    assert S.concat(plan[:2], plan[2:]).number is None
    assert S.stack([plan[2:], S.ddpm(VP, N.time_grid(VP, 4))]).number.tolist() == [[2, 3, 4, 5], [0, 1, 2, 3]]
    grid = N.karras_grid(VE, 8, final="sigma_min")
    assert S.restart(S.ddpm(VE, grid), S.ddpm(VE, grid)[2:5], repeats=3).number is None
    assert S.jumps(plan, length=2, repeats=2).number is None


def test_plans_joined_to_a_part_count_on():
    """What ran before the part, with the same key, has drawn the noise of the rows before it."""
    plan = S.ddpm(VP, N.time_grid(VP, 6))
    for rows in (plan[2:], jax.tree.map(jnp.asarray, plan[2:])):
        again = S.concat(rows[:1], rows[1:])
        jax.tree.map(np.testing.assert_array_equal, again, rows)
        assert again.number.tolist() == [2, 3, 4, 5]
    assert S.jumps(plan[2:], length=2, repeats=2).number.tolist() == list(range(2, 8))
    again = S.concat(S.jumps(plan, length=2, repeats=2)[6:8], plan[4:])
    assert (again.number.tolist(), again.visit.tolist()) == ([6, 7, 8, 9], [1, 2, 2, 2])
    down = S.ddim(VP, N.time_grid(VP, 6, final="sigma_min"))
    assert S.concat(S.invert(down), down).number.tolist() == list(range(13))


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (N.Discrete.scaled_linear(), VP), (VP, VE), (N.Discrete.ddpm_linear(), N.Discrete.scaled_linear()),
        (N.VP(0.1, 19.0), VP), (N.Cosine(), VP), (N.Flow(), N.Cosine()),
    ],
)  # fmt: skip
def test_a_plan_on_another_schedule_is_refused(own, other):
    start = 0.99 if isinstance(other, N.Flow) else other.t_max
    plan = S.ddim(other, N.time_grid(other, 4, t_max=start))
    for run in (
        lambda d: js.sample(None, d, X, plan),
        lambda d: S.kernel(d, plan),
        lambda d: S.step(None, d, S.init(plan, X), jax.tree.map(lambda a: a[0], plan)),
        lambda d: S.sdedit(KEY, d, X, plan, strength=0.5),
    ):
        with pytest.raises(ValueError, match="the plan and the denoiser are on different schedules"):
            run(law(own))


def test_levels_that_agree_pass():
    """Float32 tables, stacked and learned plans, traced schedules: what is the same to rounding, or unknown, runs."""
    for schedule in (VP, VE, N.Cosine(), N.OUVE(), N.Discrete.ddpm_linear()):
        plan = S.dpmpp(schedule, N.logsnr_grid(schedule, 5))
        for table in (plan, plan.astype(np.float32), jax.tree.map(jnp.asarray, plan)):
            js.sample(None, law(schedule), X, table)
    plan = S.ddim(VP, N.time_grid(VP, 4))
    assert jax.jit(lambda rate: js.sample(None, law(N.VP(0.1, rate)), X, plan).x)(15.0).shape == X.shape


class Own:
    """A user's rectified flow: no tree, with a JAX array among its attributes."""

    t_min, t_max = 1e-3, 0.999

    def __init__(self, scale):
        self.scale = jnp.asarray(scale)

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return self.scale * t

    def lam(self, t):
        return jnp.log((1 - t) / (self.scale * t))

    def time(self, lam):
        return 1 / (1 + self.scale * jnp.exp(lam))


def test_a_schedule_of_ones_own_may_hold_jax_arrays_and_tracers():
    grid = np.linspace(0.9, 0.1, 4)
    plan, wanted = S.ddim(Own(1.0), grid), S.ddim(N.Flow(), grid)
    np.testing.assert_allclose(plan.weights, wanted.weights, rtol=1e-5)
    end = lambda scale: js.sample(None, js.Denoiser(lambda x, t: 0.5 * x, Own(scale)), X, S.ddim(Own(scale), grid)).x
    slope = jax.grad(lambda scale: end(scale).sum())(1.0)
    np.testing.assert_allclose(slope, (end(1.01) - end(0.99)).sum() / 0.02, rtol=1e-2)


# ---------------------------------------------------------------- grids


@pytest.mark.parametrize(
    ("schedule", "grid"),
    [
        (N.Discrete.scaled_linear(), [1000.0, 500.0, 10.0]), (N.Discrete.scaled_linear(), [1500.0, 500.0, 10.0]),
        (N.Discrete.scaled_linear(), [500.0, -0.5, -1.0]), (VP, [999.0, 500.0, 10.0]), (VP, [1.5, 0.5]),
        (N.Flow(), [1000.0, 500.0, 0.0]), (VE, [999.0, 500.0, 10.0]), (N.OUVE(), [30.0, 1.0, 0.03]),
        (N.Cosine(), [1.2, 0.5]),
    ],
)  # fmt: skip
def test_times_outside_the_schedule_are_refused(schedule, grid):
    for make in (S.ddim, S.dpmpp, S.heun, S.plms, S.dpmpp_single):
        with pytest.raises(ValueError, match="is outside the schedule, whose times go from"):
            make(schedule, grid)


def test_times_at_which_a_schedule_without_a_range_stands_still_are_refused():
    class Mine:
        t_max, t_min = 1.0, 1e-3
        alpha, sigma, lam, time, prior = (getattr(VP, name) for name in ("alpha", "sigma", "lam", "time", "prior"))

    with pytest.raises(ValueError, match="sigma / alpha does not fall"):
        S.dpmpp(Mine(), [999.0, 500.0, 10.0])
    for wrong in (VP, "grid", None, jax.random.key(0), [[1.0], [0.5, 0.2]], [1 + 0j, 0.5]):
        with pytest.raises(TypeError, match="grid must be a vector"):
            S.ddim(VP, wrong)
    half = S.ddim(VP, jnp.array([1.0, 0.5, 0.25], jnp.bfloat16))
    np.testing.assert_array_equal(half.weights, S.ddim(VP, [1.0, 0.5, 0.25]).weights)
    with pytest.raises(TypeError, match="schedule must be a noise schedule"):
        S.dpmpp(N.time_grid(VP, 4), VP)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda g: S.er_sde(VP, g, phi=lambda rho: 0 * rho), "phi.* positive"),
        (lambda g: S.er_sde(VP, g, phi=lambda rho: rho * np.nan), "phi.* finite"),
        (lambda g: S.er_sde(VP, g, phi=lambda rho: 1.0), "phi must return the shape"),
        (lambda g: S.dpmpp(VP, g, tau=lambda t: np.nan), r"tau\(t\) must be finite"),
        (lambda g: S.dpmpp(VP, g, tau=lambda t: -1.0), r"tau\(t\)"),
        (lambda g: S.dpmpp(VP, g, tau=np.zeros(99)), "one value per step"),
        (lambda g: S.dpmpp(VP, g, tau=[]), "tau must hold a number, got an empty array"),
        (lambda g: S.sa_solver(VP, g, tau=np.zeros(3)), "one value per step"),
        (lambda g: S.edm(VE, 10 * g, churn=1.0, churn_min=np.nan), "churn_min must be finite"),
        (lambda g: S.edm(VE, 10 * g, churn=1.0, churn_max=np.nan), "churn_max must be finite"),
        (lambda g: S.edm(VE, 10 * g, churn=np.ones(3)), "churn must be one number"),
        (lambda g: S.tcd(VP, g, gamma=1.5), r"gamma must be finite and in \[0, 1\], got 1.5"),
        (lambda g: S.tcd(VP, g, gamma=-0.1), r"gamma must be finite and in \[0, 1\], got -0.1"),
        (lambda g: S.sa_solver(VP, g, variant="few"), "variant must be one of 'exact', 'few_steps'"),
        (lambda g: S.unipc(VP, g, corrector_last="no"), "corrector_last must be True or False"),
        (lambda g: S.sa_solver(VP, g, corrector=0, corrector_last=True), "needs a corrector"),
        (lambda g: S.restart(S.ddim(VP, g), None), "inner: plan must be a Plan"),
        (lambda g: js.sample(None, law(VP), X, S.ddim(VP, g), keep="x"), "keep must be callable"),
        (
            lambda g: js.sample(None, law(VP), X, S.ddim(VP, g), keep=lambda x, p: {"x": x, "name": "text"}),
            "sample: keep must return an array or a tree of arrays, got 'text'",
        ),
        (lambda g: js.sample(None, law(VP), "float32", S.ddim(VP, g)), "x must be an array .*, got 'float32'"),
        (lambda g: js.sample(None, law(VP), X, S.ddim(VP, g), steer=5), "lacks the hooks"),
        (lambda g: S.sdedit(KEY, law(VP), X, S.ddim(VP, g), strength=np.ones(2)), "strength must be one number"),
        (lambda g: S.plms(VP, g, start="rk"), "start must be one of"),
        (lambda g: S.plms(VP, g, order=1, start="heun"), r"order must be in 2\.\.6"),
    ],
)
def test_options_that_would_be_wrong_in_silence(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make(N.time_grid(VP, 4))


TABLE = N.Discrete.scaled_linear()
ROWS = jax.random.normal(KEY, (4, 3))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: N.time_grid(VP, 4, t_max=999.0), "time_grid: t_max is 999, outside the schedule"),
        (lambda: N.karras_grid(VP, 4, t_max=2.0), "karras_grid: t_max is 2, outside"),
        (lambda: N.logsnr_grid(N.Cosine(), 4, t_min=-0.1), r"logsnr_grid: t_min is -0\.1, outside"),
        (lambda: N.spaced_grid(TABLE, 4, "karras", t_max=1500.0), "spaced_grid: t_max is 1500, outside"),
        (lambda: S.adaptive(None, law(VP), X, VP, t_max=5.0), "adaptive: t_max is 5, outside"),
        (lambda: js.fit.Space(VP, 4, t_max=99.0), "Space: t_max is 99, outside"),
        (lambda: js.estimate.minority_score(KEY, law(TABLE), X, 1500.0), "minority_score: t is 1500, outside"),
        (lambda: js.estimate.flipd(None, law(VP), X, 50.0), "flipd: t is 50, outside"),
        (lambda: js.loss.GANCritic(TABLE, [1500.0, 500.0, -1.0], 2), "GANCritic: grid is 1500, outside"),
        (lambda: js.loss.UniformTimes(0.0, 5e3)(TABLE, ROWS), "UniformTimes: high is 5000, outside"),
        (lambda: js.loss.UniformTimes(0.02, 0.98)(TABLE, ROWS), r"high is 0\.98, below index 1 of a discrete schedule"),
        (lambda: js.loss.sds(KEY, law(VE), ROWS[:, :1]), "sds: times are missing.* Those of VE go to 80"),
        (lambda: N.VP(1e-4, 0.02), "leave most of the signal at t = 1"),
        (lambda: S.adaptive(None, law(VP), X, N.Cosine()), "adaptive: schedule has another schedule than the denoiser"),
        (
            lambda: S.optimise_start(
                law(VP), X, S.ddim(N.Cosine(), N.time_grid(N.Cosine(), 4)), jnp.sum, optax.sgd(0.1), steps=1
            ),
            "optimise_start: the plan and the denoiser are on different schedules",
        ),
        (
            lambda: js.fit.learn_plan(
                KEY, law(VP), lambda grid: S.ddim(N.Cosine(), grid), x=ROWS[:, :1], reference=ROWS[:, :1], steps=1,
                grid=N.time_grid(N.Cosine(), 4),
            ),
            "learn_plan: the plan and the denoiser are on different schedules",
        ),
    ],
)  # fmt: skip
def test_times_of_another_schedule_are_refused_at_every_door(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_the_usual_times_of_distillation_are_shares_of_the_indices():
    times = js.loss.UniformTimes(0.02 * 999, 0.98 * 999)
    found, want = (js.loss.sds(KEY, law(TABLE), ROWS[:, :1], **how) for how in ({}, {"times": times}))
    np.testing.assert_array_equal(found, want)
    assert N.time_grid(TABLE, 4, t_min=-1.0)[-1] == -1  # the noiseless time may end a grid


def test_no_churn_is_no_churn_in_any_type():
    for zero in (0, 0.0, np.float32(0), jnp.zeros(())):
        assert not S.edm(VE, N.karras_grid(VE, 4), churn=zero).stochastic


# ---------------------------------------------------------------- long steps


def test_auto_lowers_the_order_of_any_long_step():
    """Over published index grids "auto" is on average better than the better of True and False, and never far worse."""
    bimodal = Mixture([0.3, 0.7], [[-1.0], [0.6]], [0.25**2, 0.15**2])
    z = np.random.default_rng(0).standard_normal((64, 1))
    schedule, ratios = N.Discrete.ddpm_linear(), []
    start = float(schedule.sigma(999)) * z

    @functools.cache
    def exact_flow(first, to_zero):
        fine = np.append(np.linspace(first, 0, 1500), [-1.0] * to_zero)
        return run_table(S.heun(schedule, fine), bimodal, start)

    def error(order, grid, lower, exact):
        plan = S.dpmpp(schedule, grid, order=order, lower_order_final=lower)
        return np.sqrt(np.mean((run_table(plan, bimodal, start) - exact) ** 2))

    for spacing, offset in (("leading", 1), ("linspace", 0), ("trailing", 0)):
        for final in ("zero", "sigma_min"):
            for n in (8, 10, 15, 20):
                grid = N.index_grid(schedule, n, spacing, offset=offset, final=final)
                exact = exact_flow(float(grid[0]), final == "zero")
                for order in (2, 3):
                    auto, *others = (error(order, grid, lower, exact) for lower in ("auto", True, False))
                    ratios.append(auto / min(others))
    assert np.exp(np.mean(np.log(ratios))) < 1.0
    assert max(ratios) < 1.6, max(ratios)
    # The input that brought this: its second last step is long, its last one short.
    grid = N.index_grid(schedule, 10, "leading", offset=1, final="sigma_min")
    assert grid[-3:].tolist() == [100, 1, 0] or grid[-2:].tolist() == [1, 0]


def test_no_rule_that_sees_the_grid_alone_is_always_best():
    """On one grid, lower last orders err several times less for narrow clusters of data and more for a Gaussian."""
    z = np.random.default_rng(0).standard_normal((64, 1))
    grid = N.karras_grid(VP, 6, final="sigma_min")
    plans = {lower: S.dpmpp(VP, grid, lower_order_final=lower) for lower in (True, False)}
    plans["exact"] = S.heun(VP, np.linspace(grid[0], grid[-1], 1500))

    def gain(law):
        x = {name: run_table(plan, law, z) for name, plan in plans.items()}
        lowered, kept = (np.sqrt(np.mean((x[lower] - x["exact"]) ** 2)) for lower in (True, False))
        return kept / lowered

    assert gain(Mixture([0.5, 0.5], [[-0.8], [0.5]], [0.05**2, 0.08**2])) > 2
    assert gain(Mixture([1.0], [[0.3]], [0.25])) < 0.9


def test_a_uniform_grid_keeps_its_order():
    for order in (2, 3, 4):
        auto, never = (
            S.dpm_solver(VP, N.logsnr_grid(VP, 20), order=order, lower_order_final=lower) for lower in ("auto", False)
        )
        np.testing.assert_array_equal(auto.weights, never.weights)


def amplifies(plan):
    return float(S.describe(plan).splitlines()[0].split("amplifies ")[1])


def test_describe_shows_how_far_errors_grow():
    """x0 forms stay near 1; eps forms grow like 1 / alpha of their start, by the sum of their coefficients."""
    grid = N.logsnr_grid(VP, 12)
    # The coefficients of DDIM are positive and telescope: share of the start, and alpha less that share for the rest.
    share = VP.sigma(grid) / VP.sigma(grid[0])
    assert abs(amplifies(S.ddim(VP, grid)) - np.max(share + VP.alpha(grid) - share * VP.alpha(grid[0]))) < 0.005
    assert amplifies(S.dpmpp(VP, grid, tau=1.0)) < 3
    assert amplifies(S.dpm_solver(VP, grid, tau=1.0)) > 1 / VP.alpha(grid[0])
    flow = N.Flow()
    assert amplifies(S.dpm_single(flow, N.logsnr_grid(flow, 9, t_max=0.999), order=3)) > 500


def test_builders_whose_errors_grow_say_so():
    """As their tables do, on a start of little signal: 1 / alpha is 152 there."""
    grid, grown = N.logsnr_grid(VP, 12), {}
    for name in S.__all__:
        build = getattr(S, name)
        parameters = list(inspect.signature(build).parameters.values()) if inspect.isfunction(build) else []
        if [p.name for p in parameters[:2]] == ["schedule", "grid"]:
            grown[name] = amplifies(build(VP, grid)) > 1 / VP.alpha(grid[0])
    assert grown["ghvb"] and grown["dpm_single"] and not grown["dpmpp"] and not grown["ddim"]
    documented = lambda name: re.search("1 / alpha|as in `plms`", getattr(S, name).__doc__)
    assert not [name for name, grows in grown.items() if grows and not documented(name)]
    assert amplifies(S.unipc(VP, grid, predicts="eps")) > 1 / VP.alpha(grid[0]) and documented("unipc")


# ---------------------------------------------------------------- the kernel of a plan


def test_a_plan_composes_with_kernels():
    """chain, compose and repeat run it; a chain of rows with one key is the run; Langevin steps move its position."""
    plan = S.dpmpp(VP, N.logsnr_grid(VP, 8), order=2)
    kernel = S.kernel(law(VP), plan)
    assert isinstance(kernel, js.mcmc.Kernel)
    drawn = js.mcmc.chain(KEY, kernel, X, 8)
    np.testing.assert_allclose(drawn.x[-1], js.sample(None, law(VP), X, plan).x, rtol=1e-6)
    assert int(drawn.info.nfe) == 8
    repeated = js.mcmc.chain(KEY, js.mcmc.repeat(kernel, 4), X, 2)
    np.testing.assert_allclose(repeated.x[-1], drawn.x[-1], rtol=1e-6)
    walk = js.mcmc.RandomWalk(lambda x: -0.5 * jnp.sum(x**2), step_size=0.3)
    for pair in (js.mcmc.compose(kernel, walk), js.mcmc.compose(walk, kernel)):
        mixed = js.mcmc.chain(KEY, pair, X, 8)
        assert np.all(np.isfinite(mixed.x))
        assert not np.allclose(mixed.x[-1], drawn.x[-1])


def test_predictor_corrector_keeps_the_law():
    """Ancestral rows with exact Langevin moves between them: data N(0, 1) stay N(0, 1), at every level."""
    plan = S.ddpm(VP, N.time_grid(VP, 20))
    walk = js.mcmc.MALA(lambda x: -0.5 * jnp.sum(x**2), step_size=0.5)
    starts = VP.prior(jax.random.key(2), (4000, 1))
    pair = js.mcmc.compose(S.kernel(law(VP), plan), walk)
    keys = jax.random.split(KEY, 4000)
    x = jax.vmap(lambda k, x: js.mcmc.chain(k, pair, x, 20).x[-1])(keys, starts)
    # 4.5 standard errors of the mean and of the variance.
    assert abs(float(x.mean())) < 4.5 / np.sqrt(4000)
    assert abs(float(x.var()) - 1) < 4.5 * np.sqrt(2 / 4000)


def test_a_state_of_another_plan_is_refused():
    """Its history would be left out of the step, or read in other places, without a word."""
    grid = N.time_grid(VP, 4)
    first = lambda plan: jax.tree.map(lambda column: column[0], plan)
    for other, plan, match in (
        (S.ddim, S.dpmpp, "holds 0 predictions, and the row's plan 2"), (S.ddim, S.heun, "lacks back"),
        (functools.partial(S.deis, order=3), S.dpmpp, "holds 3 predictions"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"step: the state is of another plan.*{match}"):
            S.step(None, law(VP), S.init(other(VP, grid), X), first(plan(VP, grid)))
    with pytest.raises(ValueError, match=r"t=0\.5 .*alpha=.* but the next starts at t=0\.5 \(alpha="):
        S.concat(S.ddim(VP, [1.0, 0.5]), S.ddim(N.Flow(), [0.5, 0.1]))
    with pytest.raises(ValueError, match="at of row 0 must be"):
        S.assemble([S.Row(1.0, (0.5, 0.5, 0.5), 1.0, {0: 0.0})], kind="eps")
