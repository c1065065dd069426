"""Derivatives of runs and of tables: finite everywhere, and those of finite differences."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import central, directions, interpret, op_by_op
from solver_cases import (
    KEY,
    MODELS,
    SCHEDULES,
    SOLVERS,
    START,
    TRACEABLE,
    VP,
    built_in_trace,
    columns,
    grid_of,
    run,
    schedule_of,
    structures,
)

import jsamp as js

S = js.solve


def test_gradients_are_finite_in_every_leaf():
    def loss(models, x, tables):
        return sum(jnp.sum(v**2) / 9 for v in run(KEY, models, x, tables).values())

    tables = jax.tree.map(jnp.asarray, structures())
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), allow_int=True))(MODELS, START, tables)
    assert np.isfinite(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        if leaf.dtype != jax.dtypes.float0:
            assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)
    for name in structures():
        assert np.any(np.asarray(grads[2][name].weights) != 0), name


def test_derivatives_along_plan_values_match_finite_differences(x64):
    """d sample / d (every number of the table), along a random direction."""
    tables = {name: jax.tree.map(jnp.asarray, plan) for name, plan in structures().items()}
    # Smooth columns: times enter the network only, and slots and takes are integers.
    # A prediction of weight 0 in the mix is not read at all: it may be infinite.
    read = lambda path, a, way: way * (a != 0) if ".mix" in jax.tree_util.keystr(path) else way
    ways = {name: jax.tree_util.tree_map_with_path(read, plan, directions(plan, 7)) for name, plan in tables.items()}

    def along(h):
        moved = jax.tree.map(lambda a, d: a + h * d if a.dtype.kind == "f" else a, tables, ways)
        return run(KEY, MODELS, START.astype(np.float64), moved)

    along = jax.jit(along)
    _, slope = jax.jvp(along, (0.0,), (1.0,))
    steps = {k * 1e-4: along(k * 1e-4) for k in (-2.0, -1.0, 1.0, 2.0)}
    for name in structures():
        wanted = central(lambda h, name=name: steps[h][name], 1e-4)
        np.testing.assert_allclose(slope[name], wanted, rtol=1e-5, atol=1e-7 * np.abs(wanted).max(), err_msg=name)


def test_builders_on_traced_grids_are_the_host_tables(x64):
    """One code path over an array namespace: the table built in a trace is the table built on the host."""
    grids, build = built_in_trace(TRACEABLE, 4)
    traced = op_by_op(build, grids)
    for name in TRACEABLE:
        host = SOLVERS[name](schedule_of(name), grids[name])
        for column, value in columns(host).items():
            got = getattr(traced[name], column)
            assert got is not None, (name, column)
            # A noise that is exactly zero on the host is held above zero in a trace, where its root has a slope.
            np.testing.assert_allclose(got, value, rtol=1e-9, atol=2e-12, err_msg=f"{name}.{column}")


SINGULAR = re.compile(r"heun|edm|dpm2|rho_rk\((2mid|4rk)|single")
# The Lagrange builders' tables see the end through `first_order` and `_caps` alone, so all schedules need not be asked.
ENDS = [("VE", 4, ""), ("Flow", 5, SINGULAR), ("VP", 6, SINGULAR)]


@pytest.mark.parametrize(("which", "n", "only"), [*ENDS[1:], pytest.param(*ENDS[0], marks=pytest.mark.slow)])
def test_a_traced_grid_may_end_at_zero_noise(which, n, only, x64):
    """A trace cannot know that its grid ends at sigma = 0; its rows may be more, but they draw the host's sample."""
    schedule = SCHEDULES[which]
    grid = grid_of(schedule, n + 1, "zero")[1:]  # from a time with some signal, on Flow too
    host = {}
    for name in TRACEABLE:
        if not re.match(only, name):
            continue
        try:
            host[name] = SOLVERS[name](schedule, grid)
        except ValueError:
            continue
    assert len(host) >= (4 if only else 30)
    traced = op_by_op(lambda grid: {name: SOLVERS[name](schedule, grid) for name in host}, grid)

    def predict(x, t):
        alpha, sigma = schedule.alpha(np.float64(t)), schedule.sigma(np.float64(t))
        if sigma == 0:  # only a corrector after the last step asks here, and it uses x0
            return np.tanh(x), np.zeros_like(x)
        x0 = np.tanh(x) + 0.1 * np.cos(t)
        return x0, (x - alpha * x0) / sigma

    start = START.astype(np.float64)
    noise = lambda row, stream: np.random.default_rng([row, stream]).normal(size=3)
    for name, plan in host.items():
        wanted = interpret(plan, predict, start, noise)
        got = interpret(jax.tree.map(np.asarray, traced[name]), predict, start, noise)
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-8, err_msg=name)


# One of each formula; the tables of all are compared above.
SLOPES = ["dpmpp(3)", "deis(4)", "lms(4)", "unipc(3)", "sa_solver", "er_sde(2)", "ghvb", "heun", "dpmpp_single(3)"]


@pytest.mark.slow
def test_derivatives_along_a_traced_grid_match_finite_differences(x64):
    grids, build = built_in_trace(SLOPES, 4)
    ways = {
        name: np.diff(grid, prepend=grid[0], append=grid[-1])[:-1] * np.array([0, 0.3, -0.2, 0.25, 0.0])
        for name, grid in grids.items()
    }

    def along(h):
        moved = {name: grids[name] + h * ways[name] for name in grids}
        return run(KEY, MODELS, START.astype(np.float64), build(moved))

    along = jax.jit(along)
    _, slope = jax.jvp(along, (0.0,), (1.0,))
    steps = {k * 1e-3: along(k * 1e-3) for k in (-2.0, -1.0, 1.0, 2.0)}
    for name in SLOPES:
        wanted = central(lambda h, name=name: steps[h][name], 1e-3)
        scale = max(np.abs(wanted).max(), 1e-6)
        np.testing.assert_allclose(slope[name], wanted, rtol=1e-5, atol=1e-6 * scale, err_msg=name)


@pytest.mark.parametrize("name", ["deis(4)", "unipc(3)", "heun"])
def test_gradient_of_a_loss_with_respect_to_the_grid(name):
    """The user's line: learn the grid, in float32, reverse mode."""
    grid = jnp.asarray(grid_of(VP, 5))
    gradient = jax.jit(jax.grad(lambda g: jnp.sum(js.sample(None, MODELS[0], START, SOLVERS[name](VP, g)).x ** 2)))(
        grid
    )
    assert np.all(np.isfinite(gradient))
    assert np.any(np.asarray(gradient)[1:-1] != 0)


def test_gradient_reaches_options():
    """tau, eta and beta are numbers: they may be traced."""

    def loss(tau, eta, beta):
        grid = grid_of(VP, 5)
        tables = [S.dpmpp(VP, grid, tau=tau), S.ddim(VP, grid, eta=eta), S.ghvb(VP, grid, beta=beta)]
        tables += [S.heavy_ball(S.plms(VP, grid), beta), S.sa_solver(VP, grid, tau=tau)]
        return sum(jnp.sum(js.sample(KEY, MODELS[0], START, table).x) for table in tables)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(0.5, 0.5, 0.8)
    assert all(np.isfinite(g) and g != 0 for g in gradient)
