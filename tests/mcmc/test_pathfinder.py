"""Pathfinder against naive recursions, closed forms, exact weights of modes, and blackjax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.mcmc import _lbfgs, _pathfinder

KEY = jax.random.key(0)


def pairs(num, d, seed=0):
    """Steps on a quadratic of random Hessian, and the changes of its gradient, in float64."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d, d))
    hessian = factor @ factor.T / d + 0.3 * np.eye(d)
    steps = rng.normal(size=(num, d))
    return steps, steps @ hessian


def naive_scale(steps, changes):
    """The diagonal, pair by pair: the BFGS update of diag(a) for the Hessian 1/a, its diagonal kept."""
    scale = np.ones(steps.shape[1])
    for s, y in zip(steps, changes, strict=True):
        hessian = np.diag(1 / scale)
        hessian = hessian * (y @ (scale * y)) / (s @ y)  # scaled first, to the size of this pair
        updated = hessian + np.outer(y, y) / (s @ y) - hessian @ np.outer(s, s) @ hessian / (s @ hessian @ s)
        scale = 1 / np.diag(updated)
    return scale


def naive_inverse(scale, steps, changes):
    """The inverse BFGS recursion H <- (I - r s y^T) H (I - r y s^T) + r s s^T from diag(scale)."""
    inverse = np.diag(scale)
    for s, y in zip(steps, changes, strict=True):
        r = 1 / (s @ y)
        left = np.eye(len(s)) - r * np.outer(s, y)
        inverse = left @ inverse @ left.T + r * np.outer(s, s)
    return inverse


def learned(steps, changes, memory):
    curvature = _lbfgs.Curvature(jnp.ones(steps.shape[1]), *[jnp.zeros((memory, steps.shape[1]))] * 2)
    for s, y in zip(steps, changes, strict=True):
        curvature, used = _lbfgs.learn(curvature, jnp.asarray(s, jnp.float32), jnp.asarray(y, jnp.float32))
        assert used
    return curvature


@pytest.mark.parametrize(("num", "d", "memory"), [(3, 7, 5), (6, 4, 3), (2, 9, 2)])
def test_curvature_is_the_naive_recursion(num, d, memory):
    steps, changes = pairs(num, d)
    curvature = learned(steps, changes, memory)
    np.testing.assert_allclose(curvature.scale, naive_scale(steps, changes), rtol=1e-4)
    wide, core = _lbfgs.low_rank(curvature)
    dense = np.diag(np.float64(curvature.scale)) + np.float64(wide) @ np.float64(core) @ np.float64(wide).T
    kept = min(num, memory)
    exact = naive_inverse(np.float64(curvature.scale), steps[-kept:], changes[-kept:])
    np.testing.assert_allclose(dense, exact, atol=1e-4 * np.abs(exact).max())
    np.testing.assert_allclose(_lbfgs.apply_inverse(curvature, jnp.ones(d)), exact.sum(1), rtol=1e-3, atol=1e-4)

    # The law at x with this curvature: covariance, mean and density in its dense form.
    x, grad = jnp.linspace(0.0, 1.0, d), jnp.linspace(1.0, -1.0, d)
    q = _pathfinder._normal_at(x, grad, curvature)
    basis, factor = np.float64(q.basis), np.float64(q.factor)
    half = np.float64(q.root)[:, None] * (np.eye(d) + basis @ (factor - np.eye(len(factor))) @ basis.T)
    np.testing.assert_allclose(half @ half.T, exact, atol=1e-4 * np.abs(exact).max())
    np.testing.assert_allclose(q.mean, np.float64(x) + exact @ np.float64(grad), atol=1e-3)
    draws, log_q = _pathfinder._draw_normal(q, jax.random.normal(KEY, (5, d)))
    off = np.float64(draws) - np.float64(q.mean)
    dense_log = -np.sum(off * np.linalg.solve(exact, off.T).T, 1) / 2 - np.linalg.slogdet(2 * np.pi * exact)[1] / 2
    np.testing.assert_allclose(log_q, dense_log, atol=2e-3)
    np.testing.assert_allclose(_pathfinder._log_density(q, draws), dense_log, atol=2e-3)


def test_a_flat_or_backward_pair_is_not_learned():
    curvature = _lbfgs.Curvature(jnp.ones(3), jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    for change in (-jnp.ones(3), jnp.zeros(3), jnp.array([1.0, -1.0, 0.0])):
        same, used = _lbfgs.learn(curvature, jnp.ones(3), change)
        assert not used
        assert jax.tree.all(jax.tree.map(jnp.array_equal, same, curvature))


def test_a_round_normal_is_found_exactly():
    """The first pair gives the covariance: every importance weight is the evidence."""
    target = lambda z: -jnp.sum((z["a"] - 2) ** 2) / 18 - (z["b"] - 2) ** 2 / 18
    draws, info = js.mcmc.pathfinder(KEY, target, {"a": jnp.zeros(3), "b": jnp.zeros(())}, 500)
    evidence = 2 * math.log(2 * math.pi * 9)
    assert abs(float(info.elbo) - evidence) < 1e-3
    np.testing.assert_allclose(info.log_weights, evidence, atol=1e-3)
    np.testing.assert_allclose(info.metric["a"], 9.0, rtol=1e-4)
    assert draws["a"].shape == (500, 3)
    assert abs(float(draws["b"].mean()) - 2) < 4.5 * 3 / math.sqrt(500)
    dense = js.mcmc.pathfinder(KEY, target, {"a": jnp.zeros(3), "b": jnp.zeros(())}, 5, metric="dense").info.metric
    np.testing.assert_allclose(dense.factor, 3 * np.eye(4), atol=1e-3)


def test_evaluations_are_those_of_the_counted_function():
    calls = []

    def target(x):
        jax.debug.callback(lambda x: calls.append(1), x)
        return -jnp.sum(x**2 * jnp.array([1.0, 30.0])) / 2

    # One start looks whether it is finite, which is the door's; the search evaluates the start twice and counts one.
    info = js.mcmc.pathfinder(KEY, target, jnp.array([3.0, 1.0]), 40, elbo_draws=3).info
    jax.effects_barrier()
    assert abs(len(calls) - int(info.nfe)) <= 2


def test_two_modes_get_their_weights_whatever_the_number_of_paths():
    """Seven paths end in the mode of weight .3 and one in that of .7."""
    parts = lambda x: jnp.stack([jnp.log(0.3) - jnp.sum((x + 8) ** 2) / 2, jnp.log(0.7) - jnp.sum((x - 8) ** 2) / 2])
    target = lambda x: jax.nn.logsumexp(parts(x))
    starts = jnp.linspace(-14, -9, 7)[:, None] * jnp.ones((1, 2))
    starts = jnp.concatenate([starts, jnp.full((1, 2), 12.0)])
    draws, info = js.mcmc.pathfinder(KEY, target, starts, 2000, paths=8)
    share = float(jnp.mean(draws[:, 0] > 0))
    # Resampling, after 16,000 draws of which an eighth lies in that mode.
    assert abs(share - 0.7) < 4.5 * math.sqrt(0.21 / 2000 + 0.21 / 2000)
    assert info.ok.all()
    assert info.elbo.shape == (8,)
    np.testing.assert_allclose(info.elbo[0], math.log(0.3 * 2 * math.pi), atol=1e-2)
    np.testing.assert_allclose(info.elbo[7], math.log(0.7 * 2 * math.pi), atol=1e-2)


def test_a_start_at_the_mode_is_left():
    info = js.mcmc.pathfinder(KEY, lambda x: -jnp.sum(x**2) / 0.02, jnp.zeros(2), 50).info
    assert info.ok
    np.testing.assert_allclose(info.metric, 0.01, rtol=1e-3)


def test_no_curvature_is_said():
    info = js.mcmc.pathfinder(KEY, lambda x: jnp.sum(x), jnp.zeros(2), 30).info  # rises for ever
    assert not info.ok


@pytest.mark.slow
def test_as_good_as_blackjax():
    """The evidence lower bound on a correlated normal: no worse than blackjax's by a tenth of a nat."""
    blackjax = pytest.importorskip("blackjax")
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(10, 10))
    precision = jnp.asarray(np.linalg.inv(factor @ factor.T / 10 + 0.1 * np.eye(10)), jnp.float32)
    target = lambda x: -0.5 * x @ precision @ x
    starts = 5 * jax.random.normal(KEY, (8, 10))
    ours = js.mcmc.pathfinder(KEY, target, starts, 100, paths=8, memory=10, elbo_draws=200).info.elbo
    theirs = jax.vmap(lambda key, x: blackjax.pathfinder(target).init(key, x, num_samples=200)[0].elbo)
    with jax.numpy_rank_promotion("allow"):
        assert jnp.mean(ours) > jnp.mean(theirs(jax.random.split(KEY, 8), starts)) - 0.1


def test_coordinates_of_very_different_scales_are_all_climbed():
    scales = jnp.array([1e-2, 1e2])
    _, info = js.mcmc.pathfinder(jax.random.key(0), lambda x: -jnp.sum((x / scales) ** 2) / 2, 10 * scales, 100)
    np.testing.assert_allclose(np.sqrt(info.metric), scales, rtol=0.1)
