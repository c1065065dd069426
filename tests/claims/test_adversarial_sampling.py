"""Tang et al., "Adversarial Adaptive Sampling", 2023, arXiv:2305.18702.

Claim, with what it leaves out: on a Poisson equation whose solution is one narrow peak, points that follow the residual
give at most half the error of evenly spread collocation points (here a thirtieth). Even points that are drawn afresh at
every step leave as small an error in the solution at this size; what adversarial points then gain is what they ask for:
a flat residual, its square spread at most half as much. Minus laplacian u = f on [-1, 1]^2, u = exp(-100 |x - c|^2), a
network that vanishes on the boundary, 100 points in each of 3000 steps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsamp as js

SHARPNESS, CENTRE, LOW, HIGH = 100.0, 0.5, [-1.0, -1.0], [1.0, 1.0]
STEPS, POINTS, ROUNDS, CELLS = 3000, 100, 40, 24
POOL = jax.random.uniform(jax.random.key(1), (20_000, 2))


def lattice(count):
    """Centres [count^2, 2] of the cells of an even grid."""
    line = (np.arange(count) + 0.5) * 2 / count - 1
    return jnp.asarray(np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2), jnp.float32)


def peak(x):
    return jnp.exp(-SHARPNESS * jnp.sum((x - CENTRE) ** 2))


def laplacian(u, x):
    second = lambda e: jax.jvp(lambda x: jax.jvp(u, (x,), (e,))[1], (x,), (e,))[1]
    return jnp.sum(jax.vmap(second)(jnp.eye(2, dtype=x.dtype)))


def residual(u, x):
    """In units of 100, so that squares are near one."""
    square = jnp.sum((x - CENTRE) ** 2)
    return (laplacian(u, x) + (4 * SHARPNESS - 4 * SHARPNESS**2 * square) * peak(x)) / 100


def network(params, x):
    h = x
    for weight, bias in params[:-1]:
        h = jnp.tanh(h @ weight + bias)
    return jnp.prod(1 - x**2) * (h @ params[-1][0])[0]


def fresh():
    sizes, key = [2, 32, 32, 32, 1], jax.random.key(10)
    gains = [3.0, 1.0, 1.0, 1.0]
    return [
        (
            gain * jax.random.normal(k, (a, b)) / np.sqrt(a),
            0.5 * jax.random.normal(jax.random.fold_in(k, 1), (b,)),
        )
        for gain, k, a, b in zip(gains, jax.random.split(key, 4), sizes[:-1], sizes[1:], strict=True)
    ]


SOLUTION = jax.tree_util.Partial(network, fresh())
SAMPLING = js.loss.AdversarialSampling(residual)
EVEN = js.loss.BoxGrid(jnp.ones((1, 1)), LOW, HIGH)
ADAM = optax.adam(optax.cosine_decay_schedule(5e-3, STEPS))
KEY = jax.random.key(0)


@functools.cache
def fixed_points():
    """The usual collocation: one even set of points for the whole run."""
    x = -1 + 2 * POOL[:POINTS]
    loss = lambda key, model, batch: (jnp.mean(SAMPLING.square(model, batch)), None)
    return js.fit.minimise(KEY, loss, SOLUTION, x, optimiser=ADAM, steps=STEPS, batch=POINTS).x


@functools.cache
def even_points():
    """Even points, drawn afresh at every step."""
    players = (SOLUTION, EVEN)
    return js.fit.minimise(KEY, SAMPLING, players, POOL, optimiser=ADAM, steps=STEPS, batch=POINTS).x[0]


@functools.cache
def spectral_points():
    """Points of the exact answer on a grid, solved again in each of 40 rounds."""
    density, state, model = EVEN, None, SOLUTION
    on_grid = jax.jit(lambda model, shift: SAMPLING.square(model, lattice(CELLS) + shift))
    for i in range(1, ROUNDS + 1):
        shift = (jax.random.uniform(jax.random.fold_in(KEY, i), (1, 2)) - 0.5) * 2 / CELLS
        density = js.loss.spectral_density(on_grid(model, shift).reshape(CELLS, CELLS), LOW, HIGH)
        if state is not None:
            state = state._replace(model=(model, density))
        fitted = js.fit.minimise(
            KEY, SAMPLING, (model, density), POOL, optimiser=ADAM, steps=i * STEPS // ROUNDS, batch=POINTS, state=state
        )
        model, state = fitted.x[0], fitted.info.state
    return model


def flow_points():
    """Points of a flow that is trained against the solution."""
    losses = SAMPLING, js.loss.AdversarialDensity(SAMPLING, beta=0.05, relative=True)
    players = SOLUTION, js.loss.box_flow(jax.random.key(5), LOW, HIGH, layers=2, width=16, bins=8)
    rates = ADAM, optax.adam(3e-3)
    return js.fit.minimise(KEY, losses, players, POOL, optimiser=rates, steps=STEPS, batch=POINTS).x[0]


def error(model):
    """The relative error of the solution in the mean square."""
    found, true = (jax.vmap(f)(lattice(101)) for f in (model, peak))
    return float(jnp.linalg.norm(found - true) / jnp.linalg.norm(true))


def unevenness(model):
    """The standard deviation of the squared residual over the box."""
    return float(jnp.std(SAMPLING.square(model, lattice(161))))


def check(model):
    assert error(model) <= 0.5 * error(fixed_points())
    assert error(model) <= 0.35
    assert unevenness(model) <= 0.5 * unevenness(even_points())


def test_points_that_follow_the_residual():
    check(spectral_points())


@pytest.mark.slow
def test_a_flow_that_follows_the_residual():
    check(flow_points())


if __name__ == "__main__":
    for make in (fixed_points, even_points, spectral_points, flow_points):
        model = make()
        print(f"{make.__name__:16} error {error(model):.3f}   spread of squared residuals {unevenness(model):.2e}")
