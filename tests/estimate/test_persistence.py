"""The independent interval approximation against closed forms, published exponents and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate

KEY = jax.random.key(0)


class Diffusion:
    """Covariance of diffusion from random initial values in d dimensions."""

    def __init__(self, d):
        self.d = d

    def __call__(self, t):
        return (1 / jnp.cosh(t / 2)) ** (self.d / 2)


def acceleration(t):
    return 1.5 * jnp.exp(-t / 2) - 0.5 * jnp.exp(-1.5 * t)


def matern(t):
    return (1 + t) * jnp.exp(-t)


def matern_smooth(t):
    return (1 + t + t**2 / 3) * jnp.exp(-t)


@pytest.mark.parametrize(
    ("r", "want"),
    [(Diffusion(1), 0.120328), (Diffusion(2), 0.186211), (Diffusion(3), 0.235774), (Diffusion(4), 0.276915), (Diffusion(10), 0.451335),
     (acceleration, 0.264669), (matern, 0.336699), (matern_smooth, 0.219030)],
)  # fmt: skip
def test_exponents(r, want):
    np.testing.assert_allclose(estimate.slepian_exponent(r), want, rtol=2e-4)


def test_survival_in_closed_form():
    t = jnp.array([0.0, 1e-3, 0.05, 0.3, 1.0, 5.0, 20.0])
    np.testing.assert_allclose(
        estimate.slepian_survival(Diffusion(2), t), 1 / np.cosh(np.asarray(t, float) / 2), rtol=2e-4
    )
    x = np.asarray(t, float)[1:]
    r, slope = (1 + x) * np.exp(-x), -x * np.exp(-x)
    np.testing.assert_allclose(estimate.slepian_survival(matern, t[1:]), -slope / np.sqrt(1 - r**2), rtol=2e-3)
    # Time in other units changes the units of the exponent alone.
    np.testing.assert_allclose(estimate.slepian_exponent(lambda t: matern(1e3 * t)), 336.699, rtol=5e-4)


def test_samples_have_the_law():
    """d = 2: mean 2 pi (Rice), tail slope theta; survival of a single term sech(t / 2) through the geometric sum."""
    draws = np.asarray(estimate.slepian_sample(KEY, Diffusion(2), 200_000), float)
    assert abs(draws.mean() - 2 * np.pi) < 4 * draws.std() / np.sqrt(200_000)
    share = [np.mean(draws > t) for t in (8.0, 20.0)]
    slope = np.log(share[0] / share[1]) / 12
    assert abs(slope / 0.186211 - 1) < 0.02
    # Laplace transform (1 - s D) / (1 + s D) at s = .3, D by quadrature.
    t = np.linspace(0, 200, 400_001)
    transform = np.trapezoid(np.exp(-0.3 * t) / np.cosh(t / 2), t)
    want = (1 - 0.3 * transform) / (1 + 0.3 * transform)
    values = np.exp(-0.3 * draws)
    assert abs(values.mean() - want) < 4 * values.std() / np.sqrt(200_000)


def test_simulated_process_has_its_covariance():
    paths = jax.vmap(lambda k: estimate.gaussian_process(k, matern_smooth, 64, 0.5))(jax.random.split(KEY, 4000))
    paths = np.asarray(paths, float)
    for lag in (0, 1, 5, 20):
        products = (paths[:, 3] * paths[:, 3 + lag], paths[:, 40] * paths[:, 40 + lag])
        want = float(matern_smooth(0.5 * lag))
        for p in products:
            assert abs(p.mean() - want) < 4.5 * p.std() / np.sqrt(4000)


def test_excursions_by_hand():
    path = jnp.array([1.0, -1.0, -3.0, 1.0, 1.0, -0.0, -2.0, 2.0])
    found = estimate.excursions(path, 2.0)
    np.testing.assert_allclose(found.length[found.mask], 2 * np.array([2.75 - 0.5, 5.0 - 2.75, 6.5 - 5.0]), rtol=1e-6)
    assert np.flatnonzero(found.mask).tolist() == [2, 5, 6]


def test_x64_keeps_more_digits(x64):
    assert abs(float(estimate.slepian_exponent(Diffusion(2))) - 0.1862107) < 2e-6
