"""Bilevel against closed forms: quadratic blocks, whose lower solutions and hypergradients are known."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.fit import _bilevel

M, N, DY, DX = 3, 3, 2, 2
RIDGE = 0.3


def upper(x, y, rows):
    """Row j: |y["a"] - d_j|^2 / 2, and a ridge on x."""
    return jnp.mean(jnp.sum((y["a"][None] - rows) ** 2, -1)) / 2 + RIDGE / 2 * jnp.sum(x["p"] ** 2)


def lower(x, y, rows):
    """Row j: y A_j y / 2 - y (B_j x + c_j)."""
    a, b, c = rows
    quadratic = jnp.einsum("i,nij,j->n", y["a"], a, y["a"]) / 2
    return jnp.mean(quadratic - jnp.einsum("i,nij,j->n", y["a"], b, x["p"]) - c @ y["a"])


def problem(seed, m=M, n=N):
    """Data of the blocks in float64: targets d [m, n, 2] and (A, B, c)."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(m, n, DY, DY)) * 0.5
    a = root @ root.swapaxes(-1, -2) + np.eye(DY)
    return rng.normal(size=(m, n, DY)), (a, rng.normal(size=(m, n, DY, DX)), rng.normal(size=(m, n, DY)))


def solution(data):
    """The x and the ys [m, 2] that solve the bilevel problem."""
    d, (a, b, c) = (jax.tree.map(lambda leaf: leaf.mean(1), one) for one in data)
    s, o = np.linalg.solve(a, b), np.linalg.solve(a, c[..., None])[..., 0]  # y_i(x) = s x + o
    normal = np.mean(s.swapaxes(-1, -2) @ s, 0) + RIDGE * np.eye(DX)
    x = np.linalg.solve(normal, np.mean(np.einsum("iab,ia->ib", s, d - o), 0))
    return x, s @ x + o


def hypergradient(data, x, ys, solver=None):
    """Mean of grad_x f - (grad_xy g) w in closed form: w solves with the whole Hessian, or is given, or solves with one."""
    d, (a, b, _) = (jax.tree.map(lambda leaf: leaf.mean(1), one) for one in data)
    matrix = a if solver is None or np.ndim(solver) == 2 else solver
    w = solver if np.ndim(solver) == 2 else np.linalg.solve(matrix, (ys - d)[..., None])[..., 0]
    return RIDGE * x + np.mean(np.einsum("iab,ia->ib", b, w), 0)  # grad_xy g = -B^T


def tree(data):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf), data)


def build(track, **options):
    settings = {"rate": 0.2, "lower_rate": 0.3, "track": track, "alpha": 0.4, "beta": 0.3, "solve_rate": 0.2}
    return js.fit.Bilevel(upper, lower, **(settings | options))


def start(data):
    rng = np.random.default_rng(7)
    return {"p": jnp.asarray(rng.normal(size=DX))}, {"a": jnp.asarray(rng.normal(size=(len(data[0]), DY)))}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("track", ["hessian", "products"])
def test_all_blocks_and_rows_converge_linearly_to_the_closed_form(track):
    data = problem(0)
    kernel = build(track, alpha=0.5, beta=0.5)
    state = kernel.init(None, *start(data), tree(data))
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: (kernel.step(None, s, tree(data))[0], 0), s, None, length=300)[0])
    x, ys = solution(data)
    errors = []
    for _ in range(2):
        state = run(state)
        errors.append(np.abs(state.x["p"] - x).max())
    assert errors[0] < 1e-5
    assert errors[1] < max(1e-3 * errors[0], 1e-12)
    np.testing.assert_allclose(state.ys["a"], ys, atol=1e-9)
    np.testing.assert_allclose(state.momentum["p"], 0, atol=1e-9)


def test_the_hypergradient_of_whole_blocks_is_that_of_implicit_differentiation():
    data = problem(1)
    x, ys = start(data)
    kernel = build("hessian")
    state = kernel.init(None, x, ys, tree(data))
    wanted = hypergradient(data, x["p"], ys["a"])
    np.testing.assert_allclose(state.momentum["p"], wanted, rtol=1e-10)
    np.testing.assert_allclose(kernel.step(None, state, tree(data))[1].gradient["p"], wanted, rtol=1e-10)

    def total(p):
        """The upper loss as a function of x alone, through the exact lower solutions."""
        a, b, c = (jnp.asarray(leaf.mean(1)) for leaf in data[1])
        best = jnp.linalg.solve(a, (jnp.einsum("iab,b->ia", b, p) + c)[..., None])[..., 0]
        return jnp.mean(jax.vmap(lambda y, d: upper({"p": p}, {"a": y}, d))(best, jnp.asarray(data[0])))

    a, b, c = (leaf.mean(1) for leaf in data[1])
    exact = np.linalg.solve(a, (b @ np.asarray(x["p"]) + c)[..., None])[..., 0]
    state = kernel.init(None, x, {"a": jnp.asarray(exact)}, tree(data))
    np.testing.assert_allclose(state.momentum["p"], jax.grad(total)(x["p"]), rtol=1e-10)


def random_state(track, data):
    """A state in the middle of a run: every estimate and every old value differs from what it estimates."""
    rng = np.random.default_rng(3)
    like = lambda *shape: jnp.asarray(rng.normal(size=shape))
    matrix = lambda: jnp.asarray(1.5 * np.eye(DY) + 0.3 * np.ones((M, DY, DY)) * rng.uniform(size=(M, 1, 1)))
    solver = matrix if track == "hessian" else lambda: {"a": like(M, DY)}
    return js.fit.BilevelState(
        {"p": like(DX)}, {"a": like(M, DY)}, {"a": like(M, DY)}, solver(),
        None if track == "hessian" else {"a": like(M, DY)}, {"p": like(DX)},
        ({"p": like(DX)}, {"a": like(M, DY)}, solver()),
    )  # fmt: skip


@pytest.mark.parametrize("track", ["hessian", "products"])
def test_estimates_are_unbiased_over_every_draw_of_blocks_and_rows(track):
    """All 243 draws of 2 of 3 blocks and 2 of 3 rows of each level: means against whole-data formulas."""
    data = problem(2)
    kernel = build(track, blocks=2, batch=2, gamma=0.7)
    state = random_state(track, data)
    pairs = np.array(list(itertools.combinations(range(3), 2)))
    drawn = np.array(list(itertools.product(range(3), repeat=5)))  # blocks; rows of either block, either level

    @jax.jit
    @jax.vmap
    def outcome(choice):
        index = jnp.asarray(pairs)[choice[0]]
        upper_rows, lower_rows = jnp.asarray(pairs)[choice[1:3]], jnp.asarray(pairs)[choice[3:]]
        rows = tuple(
            jax.tree.map(lambda leaf, r=r: jnp.asarray(leaf)[index[:, None], r], one)
            for one, r in zip(data, (upper_rows, lower_rows), strict=True)
        )
        return kernel._renew(state, index, rows)

    new, info = jax.tree.map(lambda leaf: np.asarray(leaf).mean(0), outcome(jnp.asarray(drawn)))
    d, (a, b, c) = (jax.tree.map(lambda leaf: leaf.mean(1), one) for one in data)
    then = [np.asarray(v) for v in (state.old[0]["p"], state.old[1]["a"], jax.tree.leaves(state.old[2])[0])]
    now = [np.asarray(v) for v in (state.x["p"], state.ys["a"], jax.tree.leaves(state.solver)[0])]
    slope = lambda x, ys, solver: np.einsum("iab,ib->ia", a, ys) - b @ x - c
    renewed = lambda kept, new, old: kept / 3 + 2 / 3 * (0.6 * kept + (0.4 + 0.7) * new - 0.7 * old)
    slopes = renewed(np.asarray(state.slopes["a"]), slope(*now), slope(*then))
    np.testing.assert_allclose(new.slopes["a"], slopes, rtol=1e-10)
    np.testing.assert_allclose(new.ys["a"], now[1] - 0.3 * slopes, rtol=1e-10)
    gradients = [hypergradient(data, *point) for point in (now, then)]
    np.testing.assert_allclose(info.gradient["p"], gradients[0], rtol=1e-10)
    momentum = 0.7 * (np.asarray(state.momentum["p"]) - gradients[1]) + gradients[0]
    np.testing.assert_allclose(new.momentum["p"], momentum, rtol=1e-10)
    np.testing.assert_allclose(new.x["p"], now[0] - 0.2 * momentum, rtol=1e-10)
    if track == "hessian":
        np.testing.assert_allclose(new.solver, renewed(now[2], a, a), rtol=1e-10)  # far above the floor
    else:
        residual = lambda x, ys, v: np.einsum("iab,ib->ia", a, v) - (ys - d)
        residuals = renewed(np.asarray(state.residuals["a"]), residual(*now), residual(*then))
        np.testing.assert_allclose(new.residuals["a"], residuals, rtol=1e-10)
        np.testing.assert_allclose(new.solver["a"], now[2] - 0.2 * residuals, rtol=1e-10)
    for old, kept in zip(jax.tree.leaves(new.old), jax.tree.leaves((state.x, state.ys, state.solver)), strict=True):
        np.testing.assert_allclose(old, kept, rtol=1e-12)


def test_draws_are_distinct_and_even():
    """Blocks and rows are drawn without replacement, each as often as any other, rows afresh for every block."""
    data = (jnp.arange(20.0).reshape(4, 5), jnp.arange(24.0).reshape(4, 6))
    loss = lambda x, y, rows: jnp.mean((x + y - rows) ** 2)
    kernel = js.fit.Bilevel(loss, loss, 0.1, 0.1, blocks=3, batch=(2, 4))
    index, (up, low) = jax.vmap(lambda key: kernel._draw(key, 4, data))(jax.random.split(jax.random.key(0), 4000))
    assert (index.shape, up.shape, low.shape) == ((4000, 3), (4000, 3, 2), (4000, 3, 4))
    for rows, width in ((up, 5), (low, 6)):
        assert np.all(np.asarray(rows) // width == np.asarray(index)[..., None])
        assert np.all(np.diff(np.sort(rows, -1)) > 0)
    assert np.all(np.diff(np.sort(index, -1)) > 0)
    counts = np.bincount(np.asarray(index).ravel(), minlength=4)
    assert np.abs(counts - 3000).max() < 5 * np.sqrt(4000 * 0.75 * 0.25)
    share = np.bincount(np.asarray(up, int).ravel(), minlength=20)
    assert np.abs(share - 1200).max() < 5 * np.sqrt(4000 * 0.3 * 0.7)
    same = np.mean(np.all(np.sort(low[:, 0] % 6, -1) == np.sort(low[:, 1] % 6, -1), -1))
    assert same == pytest.approx(1 / 15, abs=0.02)  # 1 if two blocks shared one draw


def test_gamma_frees_the_error_of_a_tracker_of_its_product_with_the_drift():
    """E |error|^2 after a step, quadratic in the drift: its cross term with the old error is zero."""
    for m, num, alpha in ((8, 2, 0.3), (8, 8, 0.1), (5, 1, 0.9)):
        gamma = build("hessian", alpha=alpha)._correction(m, num)
        p = num / m
        assert -(1 - p) + p * (1 - alpha) * (alpha + gamma - 1) == pytest.approx(0, abs=1e-12)


def test_eigenvalues_are_raised_to_the_floor_and_no_others_changed():
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    matrix = lambda values: vectors * np.array(values) @ vectors.T
    np.testing.assert_allclose(_bilevel._at_least(matrix([-2.0, 0.1, 5.0]), 0.5), matrix([0.5, 0.5, 5.0]), atol=1e-12)


def test_the_floor_and_the_radius_bound_what_solves():
    data = problem(5)
    run = lambda kernel: jax.lax.scan(
        lambda s, key: (kernel.step(key, s, tree(data))[0], 0), kernel.init(None, *start(data), tree(data)),
        jax.random.split(jax.random.key(0), 20),
    )[0]  # fmt: skip
    high = run(build("hessian", floor=9.0)).solver
    assert np.linalg.eigvalsh(high).min() == pytest.approx(9.0)
    free, held = (run(build("products", radius=r)).solver["a"] for r in (None, 0.2))
    assert np.linalg.norm(free, axis=1).max() > 0.3
    assert np.linalg.norm(held, axis=1).max() == pytest.approx(0.2)


def test_new_numbers_and_new_data_run_the_same_program():
    traces = []

    @jax.jit
    def step(kernel, key, state, data):
        traces.append(1)
        return kernel.step(key, state, data)[0]

    kernel = build("products", blocks=2, batch=2, gamma=0.5, radius=3.0)
    data = tree(problem(0))
    state = kernel.init(jax.random.key(0), *start(data), data)
    changes = ("rate", "lower_rate", "solve_rate", "alpha", "beta", "gamma", "floor", "radius")
    for i in range(3):
        fresh = dataclasses.replace(kernel, **{name: getattr(kernel, name) * 0.9**i for name in changes})
        step(fresh, jax.random.key(i), state, tree(problem(i)))
    assert len(traces) == 1
