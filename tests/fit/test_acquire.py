"""Acquisition functions against quadrature, and Bayesian optimisation on functions whose minimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import jsamp as js

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("mean", "std", "best"), [(0.3, 0.7, 0.5), (2.0, 0.4, 0.5), (-3.0, 2.0, 0.1), (0.5, 1e-3, 0.5)]
)
def test_expected_improvement_is_the_integral(mean, std, best):
    density = lambda f: np.exp(-(((f - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
    low = min(mean - 12 * std, best)
    want = scipy.integrate.quad(
        lambda f: (best - f) * density(f), low, best, epsabs=1e-14, points=[mean] if mean < best else None
    )[0]
    np.testing.assert_allclose(js.fit.ei(mean, std, best), want, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(js.fit.log_ei(mean, std, best), np.log(want), rtol=1e-5, atol=2e-5)


def test_the_logarithm_is_right_far_in_the_tail():
    """Against the scaled complementary error function in float64: log(phi + z Phi) = -z^2/2 - c + log(1 - x M(x))."""
    z = -np.array([0.0, 1.0, 1.9, 2.0, 2.1, 3.0, 5.0, 8.0, 12.0, 20.0])
    x = -z
    mills = np.sqrt(np.pi / 2) * scipy.special.erfcx(x / np.sqrt(2))
    want = -(x**2) / 2 - np.log(2 * np.pi) / 2 + np.log1p(-x * mills)
    np.testing.assert_allclose(js.fit.log_ei(x, 1.0, 0.0), want, rtol=3e-6)
    for far in (1e3, 1e6, 1e10):  # the asymptote
        want = -(far**2) / 2 - 2 * np.log(far) - np.log(2 * np.pi) / 2
        np.testing.assert_allclose(js.fit.log_ei(far, 1.0, 0.0), want, rtol=1e-6)
    slope = jax.grad(lambda m: js.fit.log_ei(m, 1.0, 0.0))(30.0)
    np.testing.assert_allclose(slope, -30.066, rtol=1e-4)  # -x - 2 / x + O(x^-3)


def test_without_spread_the_gain_is_known():
    assert float(js.fit.ei(1.0, 0.0, 3.0)) == 2.0
    assert float(js.fit.ei(3.0, 0.0, 1.0)) == 0.0
    assert float(js.fit.log_ei(3.0, 0.0, 1.0)) == -np.inf


def test_the_batch_of_one_is_expected_improvement_and_of_two_is_the_integral():
    """A correlated pair by quadrature: E max(best - min(f, g), 0), within 6 Monte Carlo errors of 200,000 draws."""
    draws = 0.3 + 0.7 * jax.random.normal(KEY, (200_000, 1))
    np.testing.assert_allclose(js.fit.qei(draws, 0.5), js.fit.ei(0.3, 0.7, 0.5), atol=6 * 0.5 / np.sqrt(200_000))
    noise = np.asarray(jax.random.normal(KEY, (200_000, 2)), np.float64)
    chol = np.array([[0.8, 0.0], [0.3, 0.5]])
    pair = np.array([0.4, 0.1]) + noise @ chol.T
    grid = np.linspace(-8, 8, 1601)
    weight = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi) * (grid[1] - grid[0])
    f, g = 0.4 + 0.8 * grid[:, None] + 0 * grid[None], 0.1 + 0.3 * grid[:, None] + 0.5 * grid[None]
    want = np.sum(weight[:, None] * weight[None] * np.maximum(0.2 - np.minimum(f, g), 0))
    np.testing.assert_allclose(js.fit.qei(jnp.asarray(pair, jnp.float32), 0.2), want, atol=6 * 0.6 / np.sqrt(200_000))


def test_the_maximiser_reaches_faces_and_the_best_of_several_hills():
    points = jax.random.uniform(KEY, (32, 2))
    face = js.fit.maximise_acquisition(None, lambda x: x[0] - (x[1] - 0.4) ** 2, points, restarts=2)
    np.testing.assert_allclose(face.x, [1.0, 0.4], atol=5e-3)
    hills = lambda x: jnp.exp(-50 * jnp.sum((x - 0.2) ** 2)) + 1.5 * jnp.exp(-50 * jnp.sum((x - 0.8) ** 2))
    found = js.fit.maximise_acquisition(None, hills, points, restarts=4)
    np.testing.assert_allclose(found.x, 0.8, atol=5e-3)
    assert float(found.info) >= max(float(hills(x)) for x in points)


def branin(x):
    a, b = 15 * x[0] - 5, 15 * x[1]
    return (b - 5.1 * a**2 / (4 * np.pi**2) + 5 * a / np.pi - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10


SMALL = {"raw": 64, "restarts": 2, "steps": 6}


def test_branin_is_minimised_without_compiling_after_the_first_round(caplog):
    """Its minimum is 0.397887; 28 evaluations come within 0.1 (random search: about 3), the bounds in other units."""
    seen = []

    def objective(x):
        seen.append(caplog.text.count("Compiling"))
        return branin(x / np.array([1000.0, 0.1]))

    with jax.log_compiles():
        found = js.fit.optimise(KEY, objective, (np.zeros(2), np.array([1000.0, 0.1])), budget=28, initial=8, **SMALL)
    assert found.info.value < 0.397887 + 0.1
    assert found.info.value == found.info.state.y.min()
    np.testing.assert_allclose(branin(found.x / np.array([1000.0, 0.1])), found.info.value)
    assert seen[8] > 0
    # Lengths of the rows there are change on the host alone.
    assert seen[9:] == seen[9:10] * len(seen[9:])


@pytest.mark.parametrize("batch", [1, 3])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(batch):
    options = {"initial": 4, "batch": batch, **SMALL}
    whole = js.fit.optimise(
        KEY, branin, (np.zeros(2), np.ones(2)), js.fit.GP(steps=5, capacity=16), budget=10, **options
    )
    first = js.fit.optimise(
        KEY, branin, (np.zeros(2), np.ones(2)), js.fit.GP(steps=5, capacity=16), budget=7, **options
    )
    again = js.fit.optimise(
        KEY,
        branin,
        (np.zeros(2), np.ones(2)),
        js.fit.GP(steps=5, capacity=16),
        budget=10,
        state=first.info.state,
        **options,
    )
    assert np.array_equal(whole.info.state.X, again.info.state.X)
    assert np.array_equal(whole.info.state.X[:7], first.info.state.X)


def test_failed_evaluations_are_left_out_and_ctrl_c_keeps_what_there_is():
    calls = []

    def objective(x):
        calls.append(x)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return np.nan if x[0] > 0.5 else x[0]

    found = js.fit.optimise(
        KEY, objective, (np.zeros(1), np.ones(1)), js.fit.GP(steps=3), budget=20, initial=4, **SMALL
    )
    assert found.info.stopped == "interrupted"
    assert len(found.info.state.y) == 6
    assert np.isnan(found.info.state.y).any()
    assert found.info.value <= 0.5
