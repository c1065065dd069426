"""The bridge schedule against published numbers and the differential equation it solves."""

import numpy as np

import jsamp as js


def test_published_numbers():
    schedule = js.noise.OUVE()
    np.testing.assert_allclose(schedule.sigma(np.array([0.03, 0.5, 1.0])), (0.01883, 0.12166, 0.38898), atol=5e-6)
    np.testing.assert_allclose(schedule.alpha(1.0), 0.22313, atol=5e-6)
    # Prior mismatch of a start at the estimate: KL <= alpha^2 E|x0 - estimate|^2 / (2 sigma^2).
    np.testing.assert_allclose(schedule.alpha(1.0) ** 2 / (2 * schedule.sigma(1.0) ** 2), 0.1645, atol=5e-5)


def test_the_variance_solves_the_lyapunov_equation():
    """d sigma^2 / dt = -2 stiffness sigma^2 + g^2, by Runge-Kutta from 0, to 1e-10."""
    for stiffness, low, high in ((1.5, 0.05, 0.5), (0.7, 0.01, 1.0)):
        schedule, spread = js.noise.OUVE(stiffness, low, high), np.log(high / low)
        rate = lambda t, v: -2 * stiffness * v + low**2 * np.exp(2 * spread * t) * 2 * spread
        v, n = 0.0, 2000
        for i in range(n):
            t, h = i / n, 1 / n
            k1 = rate(t, v)
            k2 = rate(t + h / 2, v + h / 2 * k1)
            k3 = rate(t + h / 2, v + h / 2 * k2)
            k4 = rate(t + h, v + h * k3)
            v += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        np.testing.assert_allclose(schedule.sigma(1.0) ** 2, v, rtol=1e-10)
        # The mean is that of the drift.
        np.testing.assert_allclose(np.log(schedule.alpha(0.4)), -stiffness * 0.4, rtol=1e-14)


def test_small_times_keep_their_digits():
    schedule = js.noise.OUVE()
    for t in (1e-12, 1e-6, 0.3):
        np.testing.assert_allclose(schedule.time(schedule.lam(t)), t, rtol=1e-9)
    np.testing.assert_allclose(schedule.sigma(1e-12) ** 2, 0.05**2 * 2 * np.log(10) * 1e-12, rtol=1e-9)
