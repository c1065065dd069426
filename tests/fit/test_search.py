"""Solvers searched and learned: genomes are the named solvers, searches find what is there, claims by size."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp._core._pytree import replace
from jsamp.fit._evolve import kendall
from jsamp.fit._shares import follow, shares_of
from jsamp.fit._space import _Writer
from jsamp.solve._weights import check_grid

SCHEDULE = js.noise.VP()
LAW = js.denoise.GaussianMixture(
    SCHEDULE,
    weights=[0.2, 0.3, 0.4, 0.1],
    means=[[-1.0, 0.5], [0.8, 0.9], [0.3, -1.0], [-0.7, -0.9]],
    stds=[0.4, 0.5, 0.45, 0.6],
)
KEY = jax.random.key(5)


@jax.jit
def _run(law, plan, x):
    return jax.vmap(lambda x: js.sample(None, law, x, plan).x)(x)


def run(plan, x):
    return _run(LAW, plan, x)


def starts(seed, num=256):
    x = SCHEDULE.prior(jax.random.key(seed), (num, 2))
    return x, run(js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 200), order=3), x)


OPTIONS = {"lower_order_final": False}
NAMED = {
    "ddim": (lambda grid: js.solve.ddim(SCHEDULE, grid), {"predicts": "x0", "order": 1}),
    "dpmpp 2": (lambda grid: js.solve.dpmpp(SCHEDULE, grid, order=2, **OPTIONS), {"predicts": "x0", "order": 2}),
    "dpmpp 3": (lambda grid: js.solve.dpmpp(SCHEDULE, grid, order=3, **OPTIONS), {"predicts": "x0", "order": 3}),
    "dpm_solver 3": (lambda grid: js.solve.dpm_solver(SCHEDULE, grid, order=3, **OPTIONS), {"predicts": "eps", "order": 3}),
    "unipc 3": (
        lambda grid: js.solve.unipc(SCHEDULE, grid, order=3, **OPTIONS),
        {"predicts": "x0", "order": 3, "corrector": True},
    ),
    "unipc eps 2": (
        lambda grid: js.solve.unipc(SCHEDULE, grid, order=2, predicts="eps", **OPTIONS),
        {"predicts": "eps", "order": 2, "corrector": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_named_solvers_are_genomes(name, x64):
    """The table of a genome is that of the direct builder, also written with predictions of the other kind."""
    space = js.fit.Space(SCHEDULE, 6, final="sigma_min")
    grid = js.noise.logsnr_grid(SCHEDULE, 6)
    build, options = NAMED[name]
    direct, decoded = build(grid), space.decode(space.encode(grid, **options))
    one = js.solve.stack([direct])
    width = direct.weights.shape[1]
    np.testing.assert_allclose(decoded.weights[:, 0], direct.weights[:, 0], rtol=1e-12)
    np.testing.assert_allclose(decoded.state_coef, direct.state_coef, rtol=1e-12)
    assert width <= decoded.weights.shape[1]
    assert one.nfe == decoded.nfe
    x = SCHEDULE.prior(jax.random.key(0), (4, 2), jnp.float64)
    np.testing.assert_allclose(run(decoded, x), run(direct, x), rtol=0, atol=1e-12)
    if options["predicts"] == "eps":
        writer = _Writer(check_grid("test", SCHEDULE, grid), ["eps"] * 6, "x0", np.ones(6))
        rows = writer.rows(np.full(6, options["order"]), [options.get("corrector", False)] * 6)
        np.testing.assert_allclose(run(js.solve.assemble(rows, kind="x0"), x), run(direct, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("final", "last"), [("sigma_min", 1), ("zero", 0), ("zero", 1)])
def test_mixed_steps_are_what_a_loop_makes_of_them(final, last, x64):
    """Kinds, orders, correctors and factors that change from step to step, against a loop that keeps both predictions.

    The last step to zero noise extrapolates x0, or integrates eps, on a line in the noise level.
    """
    space = js.fit.Space(SCHEDULE, 5, final=final)
    grid = js.noise.karras_grid(SCHEDULE, 5, final=final, t_min=0.2 if final == "zero" else None)
    with np.errstate(divide="ignore"):
        lam = SCHEDULE.lam(grid)
    relax = np.array([1.0, 0.7, 1.2, -0.3, 0.6])
    orders = np.array([1, 2, 3, 2, 2 if final == "zero" else 3])
    genome = js.fit.Genome(lam, np.array([0, 1, 1, 0, last]), orders, np.array([0, 0, 1, 1, 0]), relax)
    x = np.array([0.3, -1.2])
    alpha, sigma = SCHEDULE.alpha(grid), SCHEDULE.sigma(grid)

    def to_zero(base, kind, history):
        rho = sigma / alpha
        lines = [np.polyfit(rho[3:5], [history[j][k] for j in (3, 4)], 1) for k in (0, 1)]
        if kind == "x0":
            return relax[4] * lines[0][1] + (1 - relax[4]) * history[4][0]
        mean = relax[4] * (lines[1][1] + lines[1][0] * rho[4] / 2) + (1 - relax[4]) * history[4][1]
        return base / alpha[4] - rho[4] * mean

    def step(i, base, nodes, kind, history):
        """First order, and `relax` times what the exact integral of the polynomial adds, by fine quadrature."""
        if sigma[i + 1] == 0:
            return to_zero(base, kind, history)
        exact, first = integral(i, base, nodes, kind, history), integral(i, base, [i], kind, history)
        return relax[i] * exact + (1 - relax[i]) * first

    def integral(i, base, nodes, kind, history):
        u, w = np.polynomial.legendre.leggauss(60)
        places = lam[i] + (lam[i + 1] - lam[i]) * (u + 1) / 2
        w = w * (lam[i + 1] - lam[i]) / 2
        total = 0.0
        for j in nodes:
            basis = np.prod([(places - lam[k]) / (lam[j] - lam[k]) for k in nodes if k != j], axis=0)
            if kind == "x0":
                density = alpha[i + 1] * np.exp(places - lam[i + 1])
            else:
                density = -sigma[i + 1] * np.exp(lam[i + 1] - places)
            total = total + np.sum(w * density * basis) * history[j][0 if kind == "x0" else 1]
        return (sigma[i + 1] / sigma[i] if kind == "x0" else alpha[i + 1] / alpha[i]) * base + total

    kinds, history, bases, point = [space.predicts[k] for k in genome.predicts], [], [x], x
    for i in range(5):
        prediction = LAW(jnp.asarray(point), grid[i])
        history.append((np.asarray(prediction.x0), np.asarray(prediction.eps)))
        base = point
        if i and space.correctors[genome.corrector[i]]:
            size = min(genome.order[i - 1], i) + 1
            base = step(i - 1, bases[-1], range(i, i - size, -1), kinds[i - 1], history)
        if i:
            bases.append(base)
        point = step(i, base, range(i, i - min(genome.order[i], i + 1), -1), kinds[i], history)
    np.testing.assert_allclose(run(space.decode(genome), jnp.asarray(x)[None])[0], point, rtol=0, atol=1e-11)


def test_every_move_gives_a_solver_of_the_space():
    """Rising log-SNR between fixed ends, choices of the space, one structure for all plans."""
    for space in (
        js.fit.Space(SCHEDULE, 4),
        js.fit.Space(SCHEDULE, 3, predicts=("eps",), orders=(2, 3), final="sigma_min"),
    ):
        genomes = space.random(KEY, 20)
        for i in range(40):
            key = jax.random.fold_in(KEY, i)
            genomes.append(space.mutate(key, space.cross(key, genomes[i % 20], genomes[-1])))
        shapes = set()
        for genome in genomes:
            plan = space.decode(genome)
            shapes.add((jax.tree.structure(plan), tuple(np.shape(leaf) for leaf in jax.tree.leaves(plan))))
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(plan))
            assert plan.nfe == space.nfe
            assert set(genome.order) <= set(space.orders) | {1}
        assert len(shapes) == 1
        np.testing.assert_allclose([g.lam[0] for g in genomes], genomes[0].lam[0])
        ends = np.array([g.lam[space.regular - 1] for g in genomes])
        least = float(SCHEDULE.lam(np.float64(SCHEDULE.t_min)))
        assert np.all(ends <= least + 1e-9)
        assert np.ptp(ends) > 0.1 if space.final == "zero" else np.allclose(ends, least)
        assert np.ptp([g.lam[1] for g in genomes]) > 0.1


def test_a_search_goes_on_where_it_stopped():
    space = js.fit.Space(SCHEDULE, 3)
    score = js.fit.trajectory_score(LAW, *starts(1, 16))
    once = js.fit.search_plan(KEY, score, space, budget=40, population=10, surrogate=False)
    half = js.fit.search_plan(KEY, score, space, budget=20, population=10, surrogate=False)
    rest = js.fit.search_plan(KEY, score, space, budget=40, population=10, surrogate=False, state=half.info.state)
    assert once.info.state.scores == rest.info.state.scores
    assert len(half.info.state.scores) == 20


def test_scores_that_are_not_finite_rank_last():
    space = js.fit.Space(SCHEDULE, 3)
    seen = []

    def score(plans):
        seen.append(plans.nfe)
        values = jnp.abs(plans.t[:, 1] - 0.5)
        return jnp.where(plans.t[:, 1] > 0.5, jnp.nan, values)

    found = js.fit.search_plan(KEY, score, space, budget=60, population=20, surrogate=False)
    assert np.isfinite(found.info.score)
    assert float(found.x.t[1]) <= 0.5
    assert np.isinf(found.info.state.scores).any()


def test_a_search_of_fewer_candidates_than_its_budget_ends_with_the_best():
    """Three pairs of three times: the search stops when it has tried all."""
    found = js.fit.search_grid(KEY, lambda grids: grids.sum(1), np.arange(3), 2, budget=40, population=4)
    assert (found.x.tolist(), found.info.score, found.info.evaluations) == ([1, 0], 1.0, 3)


@pytest.mark.parametrize("worthless", [np.nan, np.inf, -np.inf])
def test_a_search_in_which_no_score_was_finite_is_refused(worthless):
    """It has no best candidate. One finite score among them is one."""
    space, grids = js.fit.Space(SCHEDULE, 3), np.arange(6)
    score = lambda candidates: np.full(len(candidates), worthless)
    with pytest.raises(ValueError, match="search_grid: none of 12 scores was finite"):
        js.fit.search_grid(KEY, score, grids, 3, budget=12, population=6)
    with pytest.raises(ValueError, match="search_plan: none of 4 scores was finite"):
        js.fit.search_plan(KEY, lambda plans: score(plans.t), space, budget=4, population=4, surrogate=False)
    one = lambda candidates: np.where(candidates[:, 0] == 5, candidates.sum(1), worthless)
    assert js.fit.search_grid(KEY, one, grids, 3, budget=16, population=6).x[0] == 5


def test_the_subset_search_finds_the_best_of_all():
    """T = 12, K = 3: exhaustive."""
    target = np.array([10.3, 6.2, 1.4])
    score = lambda grids: np.abs(np.asarray(grids) - target).sum(1)
    best = min(itertools.combinations(range(12), 3), key=lambda s: np.abs(np.sort(s)[::-1] - target).sum())
    for surrogate in (False, True):
        found = js.fit.search_grid(KEY, score, np.arange(12), 3, budget=160, population=20, surrogate=surrogate)
        np.testing.assert_array_equal(found.x, np.sort(best)[::-1])
        chosen = np.stack(found.info.state.candidates)
        assert np.all(np.diff(chosen, axis=1) > 0)
        assert len({tuple(c) for c in chosen.tolist()}) == len(chosen)


def test_kendall():
    assert kendall(np.arange(5), np.arange(5)) == 1
    assert kendall(np.arange(5), -np.arange(5)) == -1
    np.testing.assert_allclose(kendall(np.array([1, 2, 3]), np.array([1, 3, 2])), 1 / 3)


def test_a_learned_grid_beats_its_start():
    """On fresh starts, at five evaluations."""
    build, grid = lambda grid: js.solve.dpmpp(SCHEDULE, grid), js.noise.time_grid(SCHEDULE, 5)
    x, reference = starts(1)
    learned = js.fit.learn_plan(KEY, LAW, build, x=x, reference=reference, steps=100, grid=grid)
    fresh = js.fit.trajectory_score(LAW, *starts(2))
    before, after = (float(fresh(js.solve.stack([plan]))[0]) for plan in (build(grid), learned.x))
    assert after < before / 1.5
    assert learned.info.loss[-1] < learned.info.loss[0]
    assert np.all(np.diff(learned.info.grid) < 0)
    np.testing.assert_allclose(learned.info.grid[jnp.array([0, -1])], grid[[0, -1]], rtol=1e-6)


def test_learned_weights_beat_their_start():
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 4))
    x, reference = starts(1)
    learned = js.fit.learn_plan(KEY, LAW, plan, x=x, reference=reference, steps=60, train=("weights",))
    fresh = js.fit.trajectory_score(LAW, *starts(2))
    before, after = (float(fresh(js.solve.stack([p]))[0]) for p in (plan, learned.x))
    assert after < before / 1.5


@functools.cache
def searched():
    """A plan with correctors and steps of both kinds, and the program that runs it on given starts."""
    space = js.fit.Space(SCHEDULE, 4)
    lam = np.append(np.linspace(float(SCHEDULE.lam(1.0)), 2.0, 4), np.inf)
    choices = np.array([0, 1, 0, 1]), np.array([1, 2, 3, 2]), np.array([0, 1, 0, 1])
    return space.decode(js.fit.Genome(lam, *choices, np.array([1.0, 0.8, 0.7, 0.5])))


def test_shares_stay_exact_where_the_prediction_is_constant(x64):
    """Whatever the shares and the times are: alpha c + sigma z is carried along for a network that predicts c."""
    plan = searched()
    build, grid = follow(plan, SCHEDULE)
    constant = js.Denoiser(lambda x, t: jnp.full_like(x, 0.7), SCHEDULE, predicts="x0")
    shares = shares_of(plan)
    rng = np.random.default_rng(0)
    drawn = replace(shares, step=rng.normal(size=shares.step.shape), corrector=rng.normal(size=shares.step.shape))
    assert shares.corrected.sum() == 2
    for moved in (drawn(build(grid)), drawn(build(np.linspace(0.9, 0.1, 5))), build(np.linspace(0.9, 0.1, 5))):
        x = SCHEDULE.alpha(moved.t[0]) * 0.7 + SCHEDULE.sigma(moved.t[0]) * np.array([1.3, -0.4])
        end = SCHEDULE.alpha(moved.t_next[-1]) * 0.7 + SCHEDULE.sigma(moved.t_next[-1]) * np.array([1.3, -0.4])
        np.testing.assert_allclose(js.sample(None, constant, x, moved).x, end, rtol=0, atol=2e-7)
    np.testing.assert_allclose(build(grid).weights, plan.weights, atol=1e-7)
    x = np.array([0.4, -1.0])
    gap = js.sample(None, LAW, x, drawn(build(grid))).x - js.sample(None, LAW, x, plan).x
    assert np.abs(gap).max() > 1e-2  # elsewhere they do something


def test_learned_shares_halve_the_error_of_a_plan():
    """Times and shares of a plan by L-BFGS, on fresh starts; the start is a searched plan's kind, with correctors."""
    plan, (x, reference) = searched(), starts(1)
    learned = js.fit.learn_plan(
        KEY, LAW, plan, x=x, reference=reference, steps=15, train=("grid", "shares"), batch=len(x)
    )
    fresh = js.fit.trajectory_score(LAW, *starts(2))
    before, after = (float(fresh(js.solve.stack([p]))[0]) for p in (plan, learned.x))
    assert after < before / 2
    assert np.all(np.diff(learned.info.grid) < 0)


def test_learning_weights_of_a_plan_has_no_grid_and_needs_no_noise():
    x, reference = starts(1, 8)
    learn = lambda build, **options: js.fit.learn_plan(
        KEY, LAW, build, **{"x": x, "reference": reference, "steps": 1, **options}
    )
    grid = js.noise.logsnr_grid(SCHEDULE, 3)
    assert learn(js.solve.ddim(SCHEDULE, grid), train=("weights",)).info.grid is None
    build = lambda grid: js.solve.ddim(SCHEDULE, grid)
    np.testing.assert_allclose(learn(build, grid=grid, train=("shares",)).info.grid, grid, rtol=1e-6)
    for wrong, match in [
        (lambda: learn(js.solve.ddpm(SCHEDULE, grid), train=("weights",)), "learn_plan: the plan draws noise"),
        (lambda: learn(lambda g: js.solve.ddpm(SCHEDULE, g), grid=grid), "learn_plan: the plan draws noise"),
        (lambda: learn(lambda g: None, grid=grid), "learn_plan: build: plan must be a Plan, got NoneType"),
        (lambda: learn(build, grid=grid, x=1.0, reference=1.0), "learn_plan: x must be"),
        (lambda: learn(build, grid=grid, x=[[0.5, 1.0]], reference=[[0.5, 1.0]]), "learn_plan: x must be"),
        (lambda: learn(build, grid=grid, x=np.ones((8, 2), int)), "learn_plan: x must be floating"),
    ]:
        with pytest.raises((TypeError, ValueError), match=match):
            wrong()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: js.fit.Space(SCHEDULE, 1), "Space: nfe must be >= 2"),
        (lambda: js.fit.Space(SCHEDULE, 4, predicts=()), "Space: predicts must be a tuple of distinct choices"),
        (lambda: js.fit.Space(SCHEDULE, 4, orders=(5,)), "Space: orders must be one of 1, 2, 3, 4; got 5"),
        (lambda: js.fit.Space(SCHEDULE, 4, predicts="x0"), "Space: predicts must be a tuple"),
        (lambda: js.fit.Space(js.noise.Flow(), 4), "the log-SNR must be finite"),
        (lambda: js.fit.Space(SCHEDULE, 4).encode(np.array([1.0, 0.5, 0.0])), "must have nfe = 4 steps, got 2"),
        (lambda: js.fit.search_plan(KEY, None, js.fit.Space(SCHEDULE, 4), budget=8), "score must be callable"),
        (lambda: js.fit.search_plan(KEY, len, js.fit.Space(SCHEDULE, 4), budget=1), "budget must be >= 2"),
        (lambda: js.fit.search_plan(KEY, len, 3, budget=8), "space must be a js.fit.Space, got int"),
        (lambda: js.fit.search_plan(None, len, js.fit.Space(SCHEDULE, 4), budget=8), "key is None"),
        (lambda: js.fit.search_plan(KEY, lambda p: 0.0, js.fit.Space(SCHEDULE, 4), budget=8), "one number for each of"),
        (lambda: js.fit.search_grid(KEY, lambda g: g[:, 0] * 1j, np.arange(4), 2, budget=6), "must return real numbers"),
        (lambda: js.fit.search_grid(KEY, lambda g: ["a"] * len(g), np.arange(4), 2, budget=6), "must return real numb"),
        (lambda: js.fit.search_grid(KEY, len, [1, 2, 2], 2, budget=8), "indices must be distinct"),
        (lambda: js.fit.search_grid(KEY, len, np.arange(4), 5, budget=8), "num must be in 1..4"),
        (lambda: js.fit.search_grid(KEY, len, np.arange(4), 2, budget=8, rate=0.0), "rate must be finite and in"),
        (
            lambda: js.fit.learn_plan(KEY, LAW, lambda g: g, x=jnp.ones((2, 2)), reference=jnp.ones((2, 2)), steps=1),
            "pass grid=",
        ),
        (
            lambda: js.fit.learn_plan(KEY, LAW, js.solve.ddim(SCHEDULE, js.noise.time_grid(SCHEDULE, 3)),
                                      x=jnp.ones((2, 2)), reference=jnp.ones((2, 2)), steps=1),
            "a plan does not know how it was built",
        ),
        (
            lambda: js.fit.learn_plan(KEY, LAW, len, x=jnp.ones((2, 2)), reference=jnp.ones((2, 2)), steps=1,
                                      train=("times",)),
            "train must be a tuple of 'grid', 'shares', 'weights'",
        ),
        (
            lambda: js.fit.learn_plan(KEY, LAW, js.solve.ddim(SCHEDULE, js.noise.time_grid(SCHEDULE, 3)),
                                      x=jnp.ones((2, 2)), reference=jnp.ones((2, 2)), steps=1,
                                      train=("shares", "weights")),
            "weights hold the shares",
        ),
        (
            lambda: js.fit.learn_plan(KEY, LAW, js.solve.heun(SCHEDULE, js.noise.time_grid(SCHEDULE, 3)),
                                      x=jnp.ones((2, 2)), reference=jnp.ones((2, 2)), steps=1,
                                      train=("grid", "shares")),
            "the grid of a plan is learned where every row is a step",
        ),
        (
            lambda: js.fit.trajectory_score(LAW, jnp.ones((2, 2)), jnp.ones((3, 2))),
            "trajectory_score: reference must have the shape of x",
        ),
    ],
)  # fmt: skip
def test_refusals(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()
