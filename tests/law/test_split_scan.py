"""A run whose denoiser changes its form at known rows: the scan splits there, and nothing else changes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import WEIGHTS, Traces, denoiser, network

import jsamp as js
from jsamp._core._pytree import pytree

D, S, T = js.denoise, js.solve, js.steer
VP = js.noise.VP()
GRID = js.noise.time_grid(VP, 8, 2)
KEY = jax.random.key(5)
X = np.array([0.9, -0.4, 0.2], np.float32)
COND = denoiser(VP, "x0")
UNCOND = denoiser(VP, "x0", {"gain": np.float32(-0.3), "bend": np.float32(0.9)})
LOW, HIGH = 0.3, 2.0


def interval(low=LOW, high=HIGH, scale=3.0, cond=COND, uncond=UNCOND):
    return D.Interval(D.ClassifierFree(cond, uncond, scale), cond, low, high)


@functools.cache
def plans():
    """One plan for each feature of the runner."""
    return {
        "ddim": S.ddim(VP, GRID),
        "ddpm": S.ddpm(VP, GRID),
        "deis": S.deis(VP, GRID),
        "unipc": S.unipc(VP, GRID),
        "sa_solver": S.sa_solver(VP, GRID),
        "heavy_ball": S.heavy_ball(S.plms(VP, GRID), 0.8),
        "heun": S.heun(VP, GRID),
        "restart": S.restart(S.ddim(VP, GRID), S.ddim(VP, GRID[1:5])),
    }


def primitives(function, *arguments):
    """How often each primitive stands in the program, inner programs included."""
    count: dict[str, int] = {}

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            count[eqn.primitive.name] = count.get(eqn.primitive.name, 0) + 1
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "jaxpr") or hasattr(p, "eqns")):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    walk(getattr(inner, "jaxpr", inner))

    walk(jax.make_jaxpr(function)(*arguments).jaxpr)
    return count


@pytest.mark.parametrize("name", plans())
def test_the_split_changes_no_value(name):
    """Values, what is kept and reports, beside the run whose ends are traced and whose rows choose."""
    plan, steer = plans()[name], T.TrajectoryVariance(3)

    def run(low, high):
        keep = lambda x, p: {"x": x, "x0": p.x0}
        return js.sample(KEY, interval(low, high), X, plan, steer=steer, keep=keep)

    got, wanted = run(LOW, HIGH), jax.jit(run)(LOW, HIGH)
    assert got.info.kept["x"].shape == (plan.nfe, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=5e-7), got, wanted)


def test_the_split_changes_no_gradient():
    """In the start and in every number of the guidance, of a plan with history."""

    def loss(x, scale, cond, low, high):
        return jnp.sum(js.sample(KEY, interval(low, high, scale, cond), x, plans()["deis"]).x ** 2)

    slope = lambda low, high: jax.grad(loss, argnums=(0, 1, 2))(X, 3.0, COND, low, high)
    got, wanted = jax.jit(lambda: slope(LOW, HIGH))(), jax.jit(slope)(LOW, HIGH)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6), got, wanted)


def test_one_scan_for_each_part():
    plan = S.ddim(VP, js.noise.time_grid(VP, 20, 2))
    inner = D.Interval(COND, UNCOND, 0.5, 1.0)
    for d, parts in [
        (COND, 1), (interval(), 3), (interval(0.0, np.inf), 1), (interval(1e5, 1e6), 1), (interval(0.0, HIGH), 2),
        (D.Interval(inner, COND, LOW, HIGH), 5), (D.Threshold(interval(), limit=9.0), 3),
        (D.Interval(COND, inner, 2.0, 9.0), 5), (D.ClassifierFree(interval(), D.Empirical(VP, np.eye(3))), 3),
    ]:  # fmt: skip
        count = primitives(lambda x, d=d: js.sample(KEY, d, x, plan).x, X)
        assert count["scan"] == parts
        assert "cond" not in count


def test_too_many_parts_stay_one():
    long = S.ddim(VP, js.noise.time_grid(VP, 40, 2))
    rho = long.sigma / long.alpha
    nested = functools.reduce(lambda d, i: D.Interval(d, COND, rho[-1 - i], rho[i]), (12, 9, 6, 3), UNCOND)
    count = primitives(lambda x: js.sample(None, nested, x, long).x, X)
    assert count["scan"] == 1
    assert count["cond"] >= 1
    fewer = functools.reduce(lambda d, i: D.Interval(d, COND, rho[-1 - i], rho[i]), (12, 9, 6), UNCOND)
    count = primitives(lambda x: js.sample(None, fewer, x, long).x, X)
    assert count["scan"] == 7
    assert "cond" not in count


def test_numbers_never_retrace_and_ends_do_when_a_row_crosses():
    less, more = np.array([0.1, 0.2], np.float32), np.array([0.3, 0.4], np.float32)
    traces, plan = Traces(), plans()["ddim"]
    rho = plan.sigma / plan.alpha

    def run(gain, scale, low, high):
        cond, uncond = (js.Denoiser(traces.bind({"gain": g, "bend": np.float32(1)}), VP) for g in gain)
        return js.sample(None, interval(low, high, scale, cond, uncond), X, plan).x

    between = lambda i, share: rho[i] ** (1 - share) * rho[i + 1] ** share
    first = run(less, 3.0, between(5, 0.3), between(2, 0.3))
    count = traces.count
    again = run(more, 5.0, between(5, 0.7), between(2, 0.6))
    assert traces.count == count
    assert not np.array_equal(first, again)
    run(less, 3.0, between(6, 0.3), between(2, 0.3))
    assert traces.count > count
    # As arguments of a function under jit, ends are data.
    jitted = jax.jit(run)
    jitted(less, 3.0, between(5, 0.3), between(2, 0.3))
    count = traces.count
    jitted(less, 4.0, between(6, 0.3), between(1, 0.3))
    assert traces.count == count


def test_a_population_of_plans_selects():
    """Times that differ between the plans of a batch are traced: both branches, one of them kept for each."""
    stacked = S.stack([plans()[name] for name in ("ddim", "ddpm", "deis", "unipc")])
    together = jax.jit(jax.vmap(lambda p: js.sample(KEY, interval(), X, p).x))(stacked)
    for i, name in enumerate(("ddim", "ddpm", "deis", "unipc")):
        alone = js.sample(KEY, interval(), X, plans()[name]).x
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)


def test_populations_of_plans_share_a_mesh():
    """JAX fails at a branch that reads what does not vary over the mesh while its condition does, in a batch."""
    plan = S.stack([S.ddim(VP, js.noise.time_grid(VP, 6, t_max=t_max)) for t_max in (1.0, 0.9, 0.8, 0.7)])
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    run = jax.vmap(lambda plan: js.sample(None, interval(), X, plan).x)
    shared = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data")))
    np.testing.assert_allclose(shared(plan), run(plan), rtol=1e-5, atol=1e-6)


def test_a_level_at_an_end_belongs_where_the_docstring_says():
    """low < rho <= high, for ends that are levels of the plan, on the host and on the device alike."""
    plan = plans()["ddim"]
    rho = plan.sigma / plan.alpha
    seen = lambda d, x, t: np.array_equal(d(x, t).x0, UNCOND(x, t).x0)
    for high, low in [(1, 4), (0, 3), (2, 7)]:
        chosen = D.Interval(UNCOND, COND, float(rho[low]), float(rho[high]))
        wanted = [high <= r < low for r in range(plan.nfe)]
        assert chosen.branch_of_rows(plan).tolist() == [int(w) for w in wanted]
        assert [seen(chosen, X, np.float32(t)) for t in plan.t] == wanted


def test_an_interval_without_upper_end_holds_pure_noise():
    flow = js.noise.Flow()
    plan = S.ddim(flow, js.noise.time_grid(flow, 4, t_max=1.0))
    one, other = (js.Denoiser(jax.tree_util.Partial(network, WEIGHTS | {"gain": np.float32(g)}), flow, predicts="x0")
                  for g in (0.2, 0.9))  # fmt: skip
    chosen = D.Interval(one, other, 0.5)
    assert plan.alpha[0] == 0
    assert chosen.branch_of_rows(plan)[0] == 1
    np.testing.assert_array_equal(chosen(X, 1.0).x0, one(X, 1.0).x0)


def test_a_steer_that_moves_times_leaves_the_choice_to_the_rows():
    discrete = js.noise.Discrete.ddpm_linear(100, 1e-3, 0.15)
    plan = S.dpmpp(discrete, js.noise.index_grid(discrete, 6, "linspace", final="sigma_min"))
    cond, uncond = (
        denoiser(discrete, "x0"),
        denoiser(discrete, "x0", {"gain": np.float32(-0.3), "bend": np.float32(0.9)}),
    )
    chosen = interval(LOW, HIGH, 3.0, cond, uncond)
    image = np.random.default_rng(0).normal(size=16).astype(np.float32)
    run = lambda x, steer: js.sample(None, chosen, x, plan, steer=steer).x
    shift = T.chain(T.Hooks(), T.TimeShift(discrete, 30, 5))
    count = primitives(lambda x: run(x, shift), image)
    assert count["cond"] >= 1
    assert "cond" not in primitives(lambda x: run(x, T.Hooks()), image)


@pytree
class Early:
    """A user's denoiser that is another one in its first rows."""

    first: Any
    then: Any
    rows: int = dataclasses.field(metadata={"static": True})

    @property
    def schedule(self):
        return self.first.schedule

    @property
    def branches(self):
        return self.first, self.then

    def branch_of_rows(self, plan):
        return (np.arange(plan.nfe) >= self.rows).astype(int)

    def __call__(self, x, t, *, key=None):
        raise AssertionError("a run asks the branches only")


def test_any_denoiser_may_branch():
    """The rows of two denoisers one after the other are the run of two plans; population steers work too."""
    plan = plans()["ddpm"]
    got = js.sample(KEY, Early(COND, UNCOND, 3), X, plan, keep=lambda x, p: x)
    base = js.sample(KEY, COND, X, plan, keep=lambda x, p: x).info.kept
    np.testing.assert_allclose(got.info.kept[:3], base[:3], rtol=1e-6)
    state = S.init(plan, X)._replace(x=base[2], index=jnp.int32(3))
    for r in range(3, plan.nfe):
        state = S.step(KEY, UNCOND, state, jax.tree.map(lambda a, r=r: a[r], plan))
    np.testing.assert_allclose(got.x, S.output(state), rtol=1e-5)
    reward = lambda x0: -0.5 * jnp.sum((x0 - 0.5) ** 2, -1)
    steer = T.SMC(lambda x, p, info: reward(p.x0), reward, ess=1.0)
    cloud = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    split = lambda x, low: js.sample(KEY, interval(low), x, plan, steer=steer)
    got, wanted = jax.jit(lambda x: split(x, LOW))(cloud), jax.jit(split)(cloud, LOW)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, wanted)
