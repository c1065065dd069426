"""Alain and Bengio, "What Regularized Auto-Encoders Learn from the Data Generating Distribution", 2014, arXiv:1211.4246.

Claim: a contractive auto-encoder learns x + scale^2 grad log p, as a denoising one does, up to higher orders. Here the
data are a mixture of two Gaussians, reconstructions are linear in a fixed basis, and both losses, being quadratic in
its coefficients, are minimised exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

CENTRES = np.linspace(-3.2, 3.2, 17)


def basis(x):
    bumps = jnp.exp(-((x - CENTRES) ** 2) / 0.5)
    return jnp.concatenate([x, bumps, jnp.ones(1)])


def reconstruct(c, x):
    return jnp.sum(c * basis(x))[None]


def best(loss, drawn, weights):
    """The exact minimiser: one Newton step from zero, of a quadratic."""
    objective = lambda c: jnp.sum(weights * loss.value(lambda x: reconstruct(c, x), drawn)[1].each)
    zero = jnp.zeros(CENTRES.size + 2)
    slope, curvature = jax.jit(jax.grad(objective))(zero), jax.jit(jax.hessian(objective))(zero)
    return np.linalg.solve(np.asarray(curvature) + 1e-13 * np.eye(zero.size), -np.asarray(slope))


def score(x):
    up = 1 / (1 + np.exp(-2 * x / 0.36))
    return -(x - (2 * up - 1)) / 0.36


@pytest.fixture(scope="module")
def errors():
    """Root mean square errors of both scores over the data, at two scales; means +-1, standard deviation 0.6."""
    with jax.enable_x64(True):
        z, w = np.polynomial.hermite_e.hermegauss(60)
        e, v = np.polynomial.hermite_e.hermegauss(24)
        x = np.concatenate([0.6 * z + 1, 0.6 * z - 1])
        mass = np.concatenate([w, w]) / w.sum() / 2
        found = {}
        for scale in (0.1, 0.2):
            clean = js.loss.Noised(jnp.asarray(x)[:, None], jnp.ones((x.size, 1, 1)))
            contractive = best(js.loss.Contractive(scale), clean, jnp.asarray(mass))
            rows, noise = np.repeat(x, e.size), np.tile(e, x.size)
            pairs = js.loss.Noised(jnp.asarray(rows)[:, None], jnp.asarray(noise)[:, None])
            weights = np.outer(mass, v / v.sum()).ravel()
            denoising = best(js.loss.Reconstruction(scale), pairs, jnp.asarray(weights))
            read = jax.vmap(lambda x, c: (reconstruct(c, x[None])[0] - x) / scale**2, (0, None))
            rms = lambda a, b: float(np.sqrt(np.sum(mass * (np.asarray(a) - np.asarray(b)) ** 2)))
            r, d = read(jnp.asarray(x), jnp.asarray(contractive)), read(jnp.asarray(x), jnp.asarray(denoising))
            found[scale] = rms(r, score(x)), rms(d, score(x)), rms(r, d)
        return found


def test_both_learn_the_score_and_agree_to_second_order(errors):
    size = np.sqrt(1 / 0.36)
    assert errors[0.1][0] < 0.12 * size and errors[0.1][1] < 0.12 * size
    for small, large in zip(errors[0.1], errors[0.2], strict=True):
        assert 2.5 < large / small < 5.5  # second order in the scale: 4
