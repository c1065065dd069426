"""Adversarial sampling at its exact answers: weighted least squares, the cosine density, flows that are densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadrature import check_minimum

import jsamp as js

pytestmark = pytest.mark.usefixtures("x64")
L = js.loss


def cube_nodes(dims, num):
    """Gauss-Legendre nodes [n, dims] of the unit cube, with weights that sum to one."""
    z, w = np.polynomial.legendre.leggauss(num)
    grids = np.meshgrid(*[(z + 1) / 2] * dims, indexing="ij")
    return np.stack(grids, -1).reshape(-1, dims), np.prod(np.meshgrid(*[w / 2] * dims, indexing="ij"), 0).ravel()


@js.pytree
class Ripple:
    """1 + a cos(pi x) cos(pi y) on [-1, 1]^2."""

    a: object
    low = (-1.0, -1.0)
    high = (1.0, 1.0)

    def __call__(self, x):
        return jnp.log1p(self.a * jnp.prod(jnp.cos(jnp.pi * x)))

    def push(self, u):
        return 2 * u - 1


@js.pytree
class Ramp:
    """2 x on [0, 1]."""

    low = (0.0,)
    high = (1.0,)

    def __call__(self, x):
        return jnp.log(2 * x[0])

    def push(self, u):
        return jnp.sqrt(u)


def test_the_solution_is_the_least_squares_fit_over_the_density():
    """Residual c x - x^3 over the density 2 x: c = E x^4 / E x^2 = 2 / 3, floor E x^6 - c E x^4 = 1/4 - 2/9."""
    u, w = cube_nodes(1, 30)
    loss = L.AdversarialSampling(
        lambda solution, x: solution(x) - x**3, lambda solution, row: solution(row) - 2.0, edge_weight=0.0
    )
    drawn = L.AdversarialDrawn(jnp.asarray(u), jnp.ones((len(u), 1)))
    line = lambda c: jax.tree_util.Partial(lambda c, x: c * x, c)

    def objective(c, loss=loss):
        return jnp.sum(jnp.asarray(w) * loss.value((line(c), Ramp()), drawn)[1].each)

    check_minimum(objective, 2 / 3, floor=1 / 4 - 2 / 9, tolerance=1e-6)
    # The boundary adds weight (c - 2)^2: c = (E x^4 + 2 weight) / (E x^2 + weight).
    weighted = L.AdversarialSampling(loss.residual, loss.edge, edge_weight=0.5)
    check_minimum(lambda c: objective(c, weighted), (1 / 3 + 1.0) / (1 / 2 + 0.5))


@pytest.mark.parametrize("relative", [False, True])
def test_the_density_is_the_smooth_best_answer(relative):
    """r^2 = 1 + cos cos and beta: the optimum is 1 + cos cos / (4 beta pi^2), its gain 1 + 1 / (32 beta pi^2)."""
    u, w = cube_nodes(2, 24)
    beta = 0.1
    square = lambda solution, x: jnp.sqrt(1 + jnp.prod(jnp.cos(jnp.pi * x)))
    loss = L.AdversarialDensity(L.AdversarialSampling(square), beta, relative, "even")
    drawn = L.AdversarialDrawn(jnp.asarray(u), None)
    scale = len(w) * np.asarray(w)  # rows weighted so that the batch mean of the relative form is the exact one

    def objective(a):
        each = loss.value((lambda x: x, Ripple(a)), drawn)[1].each
        return jnp.mean(scale * each)

    if relative:  # the nodes' plain mean of r^2 is not one: it divides the gain, which rescales beta
        mean = np.mean(1 + np.prod(np.cos(np.pi * (2 * u - 1)), -1))
        check_minimum(objective, 1 / (4 * beta * mean * np.pi**2))
    else:
        check_minimum(objective, 1 / (4 * beta * np.pi**2), floor=-(1 + 1 / (32 * beta * np.pi**2)))


def test_proposals_from_the_density_have_the_slope_of_even_ones():
    """The expectation of the slope does not depend on where the points come from."""
    bend = jnp.asarray([0.2, -0.3, 0.5, 0.1])
    flow = L.box_flow(jax.random.key(1), [-1.0], [2.0], layers=1, width=3, bins=3)
    square = lambda solution, x: 1 + jnp.sin(2 * x[0])
    slopes = {}
    for proposals in ("density", "even"):
        loss = L.AdversarialDensity(L.AdversarialSampling(square), 0.3, proposals=proposals)
        # A fine midpoint rule: the pieces of the flow's density end inside any Gauss panel.
        mid = (jnp.arange(20_000) + 0.5)[:, None] / 20_000

        def value(bias, loss=loss, mid=mid):
            bent = L.BoxFlow([flow.layers[0] | {"bias": bias}], flow.low, flow.high)
            return loss.value((square, bent), L.AdversarialDrawn(mid, None))[0]

        slopes[proposals] = jax.grad(value)(bend)
    # With its own draws the penalty's slope is that of a fixed proposal: both are the slope of one functional.
    np.testing.assert_allclose(slopes["density"], slopes["even"], atol=2e-4)
    assert np.abs(slopes["even"]).max() > 0.05


def centres(count, low, high):
    return low + (high - low) * (np.arange(count) + 0.5) / count


def test_the_spectral_density_is_exact():
    """On cosines to rounding, on a box with two lengths; the penalty is raised to keep the least density."""
    x, y = centres(12, 0.0, 2.0), centres(16, -1.0, 2.0)
    wave = np.cos(np.pi * x / 2)[:, None] * np.cos(2 * np.pi * (y + 1) / 3)[None]
    rate = (np.pi / 2) ** 2 + (2 * np.pi / 3) ** 2
    found = L.spectral_density(5.0 + 3.0 * wave, [0.0, -1.0], [2.0, 2.0], beta=4.0)
    np.testing.assert_allclose(found.weight, 1 + 3.0 * wave / (2 * 4.0 * rate), atol=1e-12)
    sharp = L.spectral_density(5.0 + 3.0 * wave, [0.0, -1.0], [2.0, 2.0], least=0.25)
    np.testing.assert_allclose(sharp.weight, 1 - 0.75 * wave / wave.min(), atol=1e-12)
    raised = L.spectral_density(5.0 + 3.0 * wave, [0.0, -1.0], [2.0, 2.0], beta=1e-3, least=0.25)
    np.testing.assert_allclose(raised.weight, sharp.weight, atol=1e-12)
    np.testing.assert_allclose(L.spectral_density(np.full((3, 3), 2.0), [0.0, 0.0], [1.0, 1.0]).weight, 1.0)


def test_a_grid_draws_its_own_law():
    """Draws of a fine lattice fall into the cells in proportion to their weights, evenly inside."""
    weight = np.array([[1.0, 0.0, 2.0], [3.0, 4.0, 0.0]])
    grid = L.BoxGrid(weight, [0.0, -3.0], [2.0, 0.0])
    u = np.stack(np.meshgrid(*[(np.arange(600) + 0.5) / 600] * 2, indexing="ij"), -1).reshape(-1, 2)
    x = np.asarray(jax.vmap(grid.push)(jnp.asarray(u)))
    cell = np.floor(x + np.array([0.0, 3.0])).astype(int)
    counts = np.zeros((2, 3))
    np.add.at(counts, tuple(cell.T), 1)
    np.testing.assert_allclose(counts / len(u), weight / weight.sum(), atol=2e-3)
    inside = (x - [0.0, -3.0]) % 1
    np.testing.assert_allclose(inside[(cell == [1, 1]).all(1)].mean(0), 0.5, atol=5e-3)
    logs = np.asarray(jax.vmap(grid)(jnp.asarray(x[::999])))
    np.testing.assert_allclose(np.exp(logs), (6 * weight / weight.sum())[tuple(cell[::999].T)])


def bent(dims, layers):
    flow = L.box_flow(jax.random.key(3), [-1.0] * dims, [2.0] * dims, layers=layers, width=5, bins=4)
    bend = lambda leaf: leaf + 0.5 * jnp.sin(3.0 * jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)
    return L.BoxFlow(jax.tree.map(lambda leaf: bend(leaf.astype(float)), flow.layers), flow.low, flow.high)


@pytest.mark.parametrize(("dims", "layers"), [(1, 2), (2, 2), (3, 2)])
def test_a_flow_is_a_density(dims, layers):
    """Its inverse inverts it, its log density is the log determinant, and it integrates to one."""
    flow = bent(dims, layers)
    u = jax.random.uniform(jax.random.key(2), (40, dims))
    x = jax.vmap(flow.push)(u)
    assert np.ptp(np.asarray(jax.vmap(flow)(x))) > 0.2
    assert (np.asarray(x) >= -1).all() and (np.asarray(x) <= 2).all()
    determinant = jax.vmap(lambda v: jnp.linalg.slogdet(jax.jacfwd(flow.push)(v))[1])(u)
    np.testing.assert_allclose(jax.vmap(flow)(x), dims * np.log(3.0) - determinant, atol=1e-9)
    assert np.abs(np.asarray(jax.jacfwd(flow.push)(u[0]) - 3 * np.eye(dims))).max() > 0.1
    if dims == 2:
        even = np.stack(np.meshgrid(*[(np.arange(400) + 0.5) / 400] * 2, indexing="ij"), -1).reshape(-1, 2)
        total = jnp.mean(jnp.exp(jax.vmap(flow)(jnp.asarray(-1 + 3 * even))))
        np.testing.assert_allclose(total, 1.0, atol=2e-4)


def test_every_coordinate_is_moved():
    flow = bent(2, 2)
    slope = jax.vmap(jax.grad(flow))(jax.random.uniform(jax.random.key(0), (20, 2)))
    assert (np.abs(np.asarray(slope)).max(0) > 0.01).all()


def test_a_solved_equation_leaves_the_density_its_smoothness_alone():
    loss = L.AdversarialDensity(L.AdversarialSampling(lambda u, x: u(x)), 0.1, relative=True)
    even = L.BoxGrid(jnp.ones(4), [-1.0], [1.0])
    assert loss(jax.random.key(0), (lambda x: 0.0 * x.sum(), even), jnp.full((2, 1), 0.5))[0] == 0
