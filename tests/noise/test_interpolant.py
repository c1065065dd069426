"""Interpolants: ends, derivatives and the product gamma gamma'."""

import numpy as np
import pytest

import jsamp as js

CASES = [
    ("linear", "brownian", 1.0), ("linear", "none", 1.0), ("linear", None, 2**0.5), ("trigonometric", "quadratic", 2.0),
    ("trigonometric", "brownian", 1.9), ("trigonometric", "sine", 0.7), ("encoding-decoding", None, 1.0),
    ("one-sided", None, 1.0), ("one-sided-trigonometric", None, 1.0), ("mirror", "quadratic", 3.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "noise", "scale"), CASES)
def test_ends_and_derivatives(name, noise, scale):
    path = js.noise.Interpolant(name, noise, scale)
    a, b, g = ([float(f(t)) for t in (0.0, 1.0)] for f in (path.alpha, path.beta, path.gamma))
    if path.two_sided:
        np.testing.assert_allclose([*a, *b, *g], [1, 0, 0, 1, 0, 0], atol=1e-15)
    elif name == "mirror":
        np.testing.assert_allclose([*a, *b, *g], [0, 0, 1, 1, 0, 0], atol=1e-15)
    else:
        np.testing.assert_allclose([*a, *b, *g], [0, 0, 0, 1, 1, 0], atol=1e-15)
    t, h = np.linspace(0.02, 0.98, 33), 1e-6
    slope = (path.gamma(t + h) - path.gamma(t - h)) / (2 * h)
    np.testing.assert_allclose(path.gamma_gamma_dot(t), path.gamma(t) * slope, atol=1e-7)
    assert np.all(np.isfinite(path.gamma_gamma_dot(np.array([0.0, 1.0]))))
    if name == "trigonometric":
        np.testing.assert_allclose(path.alpha(t) ** 2 + path.beta(t) ** 2 + path.gamma(t) ** 2, 1)


def test_middle_values():
    t = 0.3
    assert js.noise.Interpolant("linear", "brownian", 2.0).gamma(t) == pytest.approx(2 * (0.3 * 0.7) ** 0.5)
    assert js.noise.Interpolant("linear", "quadratic", 2.0).gamma(t) == pytest.approx(2 * 0.3 * 0.7)
    assert js.noise.Interpolant("linear", "sine", 2.0).gamma(t) == pytest.approx(2 * np.sin(np.pi * t) ** 2)
    both = js.noise.Interpolant("encoding-decoding")
    assert both.alpha(t) == pytest.approx(np.cos(np.pi * t) ** 2) and both.beta(t) == 0
    assert both.beta(0.8) == pytest.approx(np.cos(np.pi * 0.8) ** 2) and both.alpha(0.8) == 0
    assert js.noise.Interpolant("one-sided").beta(t) == 0.3 and js.noise.Interpolant("one-sided").gamma(t) == 0.7
