"""Gauge freedom: a score model need not be a gradient field, and dimension shows in its geometry (arXiv:2402.03845)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

SPREAD = np.array([1.5, 0.7, 0.2])
LAW = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0, 0.0]], stds=[SPREAD])
TURN = 0.8 * jnp.array([[0.0, 1.0, -0.5], [-1.0, 0.0, 0.3], [0.5, -0.3, 0.0]])


def jacobian(denoiser, plan):
    """The sampler of a Gaussian is linear: its matrix gives the exact law of samples."""
    return np.asarray(jax.jacfwd(lambda x: js.sample(None, denoiser, x, plan).x)(jnp.zeros(3)), float)


def test_a_gauge_leaves_the_law_and_not_the_paths(x64):
    """Covariance of samples by the exact linear map, as steps grow finer: equal to 1e-6; Jacobians differ."""
    sigma = np.geomspace(20.0, 0.05, 1600)
    plan = js.solve.dpm_single(js.noise.VE(), jnp.asarray(sigma), order=3)
    plain, turned = (jacobian(d, plan) for d in (LAW, js.denoise.add_gauge(LAW, TURN)))
    start = np.diag(SPREAD**2 + 400.0)
    want = np.diag(SPREAD**2 + 0.05**2)
    for matrix in (plain, turned):
        np.testing.assert_allclose(matrix @ start @ matrix.T, want, atol=1e-6)
    assert np.max(np.abs(plain - turned)) > 1e-3
    assert float(js.estimate.asymmetry(None, lambda x: LAW(x, 1.0).eps, jnp.ones(3)).value) < 1e-12
    assert (
        float(js.estimate.asymmetry(None, lambda x: js.denoise.add_gauge(LAW, TURN)(x, 1.0).eps, jnp.ones(3)).value)
        > 0.1
    )


def test_the_projection_finds_the_score_again():
    """On samples of p_t the gradient part of score + gauge is the score: a Lyapunov equation solved by least squares."""
    x = jax.random.normal(jax.random.key(0), (4000, 3)) * jnp.sqrt(jnp.asarray(SPREAD, jnp.float32) ** 2 + 1)[None]
    turned = js.denoise.add_gauge(LAW, TURN)
    potentials = lambda x: jnp.stack([x[0] ** 2, x[1] ** 2, x[2] ** 2, x[0] * x[1], x[0] * x[2], x[1] * x[2]])
    part = js.denoise.conservative_part(lambda x: -turned(x, 1.0).eps, potentials, x)
    np.testing.assert_allclose(part.coefficient[:3], -0.5 / (SPREAD**2 + 1), atol=0.03)
    np.testing.assert_allclose(part.coefficient[3:], 0, atol=0.05)
    assert 0.3 < float(part.explained) < 0.8
    residual = js.estimate.gauge_residual(
        None, lambda x: -turned(x, 1.0).eps + LAW(x, 1.0).eps, lambda x: -LAW(x, 1.0).eps, x[0]
    )
    assert abs(float(residual.value)) < 1e-4


def test_a_gauge_that_turns_from_place_to_place_has_no_residual_where_its_parts_are_large():
    """v = R score + div R, with R(x) = x[0] TURN antisymmetric: div v and v . score cancel. Of the score they do not."""
    score = lambda x: -LAW(x, 1.0).eps
    swirl = lambda x: TURN[:, 0] + x[0] * jnp.sum(TURN * score(x)[None], axis=1)
    x = jnp.array([0.9, -0.5, 0.8])
    assert abs(jnp.trace(jax.jacfwd(swirl)(x))) > 0.05
    assert abs(float(js.estimate.gauge_residual(None, swirl, score, x).value)) < 1e-5
    own = js.estimate.gauge_residual(None, score, score, x).value
    np.testing.assert_allclose(own, np.sum((x / (SPREAD**2 + 1)) ** 2 - 1 / (SPREAD**2 + 1)), rtol=1e-4)


@pytest.mark.slow
def test_dimension_of_the_shipped_digits():
    """Handwritten digits in 784 pixels: their local dimension is tens, far below the pixels, and sees the noise level."""
    import pathlib
    import sys

    examples = pathlib.Path(__file__).resolve().parents[2] / "examples"
    sys.path.insert(0, str(examples))
    import digits_net

    params = digits_net.load(examples / "models" / "mnist_denoiser.npz")
    with np.load(examples / "models" / "mnist_test.npz") as file:
        images, labels = file["images"][:8].astype(np.float32) / 127.5 - 1, file["labels"][:8].astype(np.int32)

    @jax.jit
    def dimension(key, image, label, sigma):
        denoiser = js.Denoiser(
            digits_net.Digits(params, label), js.noise.VE(sigma_min=0.1, sigma_max=20.0), predicts="x0"
        )
        return js.estimate.flipd(key, denoiser, image, sigma, probes=16).value

    with jax.numpy_rank_promotion("allow"):
        low, high = (
            np.mean(
                [dimension(jax.random.key(i), x, y, t) for i, (x, y) in enumerate(zip(images, labels, strict=True))]
            )
            for t in (1.0, 0.2)
        )
    print(f"local dimension of shipped digits by FLIPD: {low:.1f} at sigma 1, {high:.1f} at sigma 0.2")
    assert 1 < low < high < 400
