"""Geometry of score models on Gaussians, a circle and a plane, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp import estimate

KEY = jax.random.key(0)
SPREAD = jnp.array([2.0, 1.0, 0.1])
LAW = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.5, 0.0, 0.0]], stds=[SPREAD])


def test_asymmetry_of_linear_fields():
    matrix = jnp.array([[1.0, 2.0, 0.0], [-1.0, 0.5, 1.0], [0.0, 3.0, -2.0]])
    want = np.sum((matrix - matrix.T) ** 2) / (4 * np.sum(matrix**2))
    x = jnp.array([0.3, 1.0, -2.0])
    np.testing.assert_allclose(estimate.asymmetry(None, lambda x: matrix @ x, x).value, want, rtol=1e-5)
    probed = estimate.asymmetry(KEY, lambda x: matrix @ x, x, probes=400)
    assert abs(float(probed.value) - want) < 4 * float(probed.stderr)
    assert float(estimate.asymmetry(None, lambda x: matrix @ x - matrix.T @ x, x).value) == 1
    assert float(estimate.asymmetry(None, lambda x: 0 * x, x).value) == 0
    square = lambda x: jnp.cumsum(jnp.sin(x.T), 0) * x  # arrays of any shape
    assert 0 < float(estimate.asymmetry(None, square, x[:, None] * jnp.arange(1.0, 4.0)[None]).value) < 1


@pytest.mark.parametrize("unit", [1e25, 1e-25])
def test_asymmetry_has_no_unit(unit):
    turn = lambda x: unit * jnp.stack([-x[1], x[0]])
    assert float(estimate.asymmetry(None, turn, jnp.ones(2)).value) == 1
    assert float(estimate.asymmetry(KEY, turn, jnp.ones(2), probes=3).value) == 1


def test_gauge_residual_is_the_divergence_of_p_r():
    """r = K s moves nothing; r = s does: div s + |s|^2 = laplace p / p."""
    score = lambda x: -(x - jnp.array([0.5, 0.0, 0.0])) / SPREAD**2
    turn = jnp.array([[0.0, 1.0, 2.0], [-1.0, 0.0, 0.5], [-2.0, -0.5, 0.0]])
    x = jnp.array([0.3, 1.0, -0.05])
    np.testing.assert_allclose(estimate.gauge_residual(None, lambda x: turn @ score(x), score, x).value, 0, atol=1e-3)
    want = np.sum(-1 / SPREAD**2 + np.asarray(score(x)) ** 2)
    np.testing.assert_allclose(estimate.gauge_residual(None, score, score, x).value, want, rtol=1e-4)
    probed = estimate.gauge_residual(KEY, jnp.sin, score, x, probes=16).value  # diagonal Jacobian: signs are exact
    np.testing.assert_allclose(probed, np.sum(np.cos(x)) + np.sum(np.sin(x) * score(x)), rtol=1e-4)


@pytest.mark.parametrize("schedule", [js.noise.VE(), js.noise.VP()])
def test_flipd_of_a_gaussian(schedule):
    law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.5, 0.0, 0.0]], stds=[SPREAD])
    t, x = 0.3, jnp.array([1.5, 0.4, 0.02])
    ratio = float(schedule.sigma(t) / schedule.alpha(t)) ** 2
    shrunk = np.asarray(SPREAD, float) ** 2
    gap = np.asarray(x, float) - [0.5, 0, 0]
    # x = alpha (mean + gap): d - sum of ratio / (l + ratio) + ratio gap^2 / (l + ratio)^2.
    want = 3 - np.sum(ratio / (shrunk + ratio)) + np.sum(ratio * gap**2 / (shrunk + ratio) ** 2)
    np.testing.assert_allclose(estimate.flipd(None, law, x, t).value, want, rtol=1e-4)
    probed = estimate.flipd(KEY, law, x, t, probes=8)
    np.testing.assert_allclose(probed.value, want, rtol=1e-3)


def circle(schedule, n=400):
    angle = 2 * np.pi * np.arange(n) / n
    return js.denoise.Empirical(schedule, jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32))


def test_dimension_of_a_circle_and_a_plane():
    law, x = circle(js.noise.VE()), jnp.array([1.0, 0.0])
    assert abs(float(estimate.flipd(None, law, x, 0.05).value) - 1) < 0.05
    assert int(estimate.normal_dimension(KEY, law, x, 0.05)) == 1
    stds = jnp.array([1.0, 1.0, 1e-4, 1e-4, 1e-4])
    plane = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[jnp.zeros(5)], stds=[stds])
    for x in (jnp.zeros(5), jnp.array([0.5, -0.3, 0, 0, 0])):
        assert abs(float(estimate.flipd(None, plane, x, 0.02).value) - 2) < 0.05
        assert int(estimate.normal_dimension(KEY, plane, x, 0.02)) == 2


def test_scores_without_direction_have_no_dimension():
    for value in (0.0, jnp.nan):
        blank = js.Denoiser(lambda x, t, value=value: value * x, js.noise.VE(), predicts="eps")
        assert int(estimate.normal_dimension(KEY, blank, jnp.ones(3), 0.1)) == -1


def test_flow_of_a_gaussian_and_gauge():
    """Singular values sqrt((l + s^2) / (l + S^2)); a gauge changes the Jacobian and not the law."""
    grid = jnp.geomspace(8.0, 0.02, 60)
    plan = js.solve.deis(js.noise.VE(), grid, order=3)
    flow = lambda x: js.sample(None, LAW, x, plan).x
    found = estimate.flow_singular_values(flow, jnp.array([1.0, -2.0, 0.5]))
    want = np.sqrt((np.asarray(SPREAD) ** 2 + 0.02**2) / (np.asarray(SPREAD) ** 2 + 64))
    np.testing.assert_allclose(found, np.sort(want)[::-1], rtol=2e-2)
