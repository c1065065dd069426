"""Exact minima of losses: Gauss-Hermite nodes instead of random numbers, and a student with one number."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

NODES = 24


def normal_nodes(dims, num=NODES):
    """Nodes [n, dims] and weights [n] that integrate polynomials against a standard normal law exactly."""
    z, w = np.polynomial.hermite_e.hermegauss(num)
    w = w / w.sum()
    points = np.array(list(itertools.product(z, repeat=dims)))
    weights = np.array([np.prod(c) for c in itertools.product(w, repeat=dims)])
    return points, weights


def expected(loss, drawn, weights, model):
    """The expectation of a loss of rows over weighted nodes."""
    return jnp.sum(jnp.asarray(weights) * loss.value(model, drawn)[1].each)


def check_minimum(objective, best, floor=None, tolerance=1e-6):
    """The gradient vanishes at the exact minimiser, the curvature is positive, the value is the floor."""
    best = jnp.asarray(best)
    slope = jax.jit(jax.grad(objective))(best)
    np.testing.assert_allclose(slope, np.zeros(np.shape(slope)), atol=tolerance)
    curvature = jax.jit(jax.hessian(objective))(best).reshape(best.size, best.size)
    assert np.linalg.eigvalsh(np.asarray(curvature)).min() > 1e-4
    if floor is not None:
        np.testing.assert_allclose(objective(best), floor, rtol=1e-9, atol=1e-12)
