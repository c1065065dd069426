"""Stein variational gradient descent against a double loop, moments that a linear kernel must match, and blackjax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)) * 2, jnp.float32)
SCALE = jnp.array([0.5, 1.0, 2.0])


def logdensity(x):
    return -jnp.sum((x / SCALE) ** 2) / 2


def naive_direction(x, h):
    """The definition, particle by particle in float64."""
    x = np.float64(x)
    grad = -x / np.float64(SCALE) ** 2
    phi = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            value = np.exp(-np.sum((x[j] - x[i]) ** 2) / h)
            phi[i] += (value * grad[j] - 2 / h * (x[j] - x[i]) * value) / len(x)
    return phi


def naive_bandwidth(x):
    return np.median([np.sum((np.float64(a) - np.float64(b)) ** 2) for a in x for b in x]) / np.log(len(x))


def test_a_step_is_the_double_loop():
    kernel = js.mcmc.SVGD(logdensity, step_size=0.3, scaled=False)
    state, info = kernel.step(None, kernel.init(X))
    phi = naive_direction(X, naive_bandwidth(X))
    np.testing.assert_allclose(state.position, X + 0.3 * phi, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(info.aux, np.sqrt(np.mean(phi**2)), rtol=1e-4)
    assert int(info.nfe) == 7

    fixed = js.mcmc.SVGD(score=lambda x: -x / SCALE**2, step_size=0.3, bandwidth=1.7, scaled=False)
    state, _ = fixed.step(None, fixed.init(X + 1e4))  # far from the origin: differences alone count
    near = naive_direction(np.float64(X + 1e4), 1.7) * 0.3
    np.testing.assert_allclose(state.position - (X + 1e4), near, rtol=3e-3)


def test_scaled_moves_follow_the_running_mean_square():
    kernel = js.mcmc.SVGD(logdensity, step_size=0.2, bandwidth=2.0, rate=0.75)
    x, square, state = np.float64(X), 0, kernel.init(X)
    for count in range(3):
        phi = naive_direction(x, 2.0)
        square = phi**2 if count == 0 else 0.75 * square + 0.25 * phi**2
        x = x + 0.2 * phi / (1e-6 + np.sqrt(square))
        state, _ = kernel.step(None, state)
    np.testing.assert_allclose(state.position, x, rtol=1e-4, atol=1e-4)


def test_own_kernels_and_trees():
    """The Gaussian kernel written by a user, on a tree: the same move."""
    tree = {"a": X[:, :2], "b": X[:, 2]}
    target = lambda z: logdensity(jnp.concatenate([z["a"], z["b"][None]]))
    own = lambda p, q: jnp.exp(-(jnp.sum((p["a"] - q["a"]) ** 2) + (p["b"] - q["b"]) ** 2) / 2.0)
    states = [
        kernel.step(None, kernel.init(tree))[0].position
        for kernel in (js.mcmc.SVGD(target, kernel=own), js.mcmc.SVGD(target, bandwidth=2.0))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *states)


def test_a_linear_kernel_matches_mean_and_covariance():
    """With k = x.y + 1 and a normal target the fixed point has the target's moments exactly (Liu and Wang 2018)."""
    factor = jnp.array([[1.0, 0.0], [0.6, 0.8]])
    precision = jnp.linalg.inv(factor @ factor.T)
    mean = jnp.array([1.0, -2.0])
    target = lambda x: -(x - mean) @ precision @ (x - mean) / 2
    kernel = js.mcmc.SVGD(target, step_size=0.05, kernel=lambda x, y: x @ y + 1, scaled=False)
    x = js.chain(KEY, kernel, X[:, :2], 1, thin=1500).x[0]
    np.testing.assert_allclose(x.mean(0), mean, atol=1e-4)
    np.testing.assert_allclose(np.cov(x.T, ddof=0), factor @ factor.T, atol=1e-4)


def test_one_particle_climbs():
    kernel = js.mcmc.SVGD(logdensity, step_size=0.1, bandwidth=1.0, scaled=False)
    state, _ = kernel.step(None, kernel.init(X[:1]))
    np.testing.assert_allclose(state.position, np.asarray(X[:1]) * np.asarray(1 - 0.1 / SCALE**2), rtol=1e-6)


def test_a_step_is_that_of_blackjax():
    blackjax, optax = pytest.importorskip("blackjax"), pytest.importorskip("optax")
    theirs = blackjax.svgd(jax.grad(logdensity), optax.sgd(0.3))
    state = theirs.init(X, {"length_scale": 1.3})
    ours = js.mcmc.SVGD(logdensity, step_size=0.3, bandwidth=1.3, scaled=False)
    expected = blackjax.vi.svgd.build_kernel(optax.sgd(0.3))(state, jax.grad(logdensity), blackjax.vi.svgd.rbf_kernel)
    np.testing.assert_allclose(ours.step(None, ours.init(X))[0].position, expected.particles, rtol=1e-5, atol=1e-6)
