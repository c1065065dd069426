"""Random features: the readout against dense least squares, the multiplier against quadrature of the transform."""

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

RNG = np.random.default_rng(0)


def test_the_readout_is_least_squares(x64):
    phi, y = RNG.normal(size=(30, 8)), RNG.normal(size=(30, 2))
    np.testing.assert_allclose(js.fit.readout(phi, y), np.linalg.lstsq(phi, y)[0], rtol=1e-9)
    want = np.linalg.solve(phi.T @ phi + 0.7 * np.eye(8), phi.T @ y[:, 0])
    np.testing.assert_allclose(js.fit.readout(phi, y[:, 0], ridge=0.7), want, rtol=1e-9)
    short = np.concatenate([phi, phi[:, :1]], 1)  # a column twice: the least norm shares it
    found = js.fit.readout(short, y[:, 0])
    np.testing.assert_allclose(found, np.linalg.lstsq(short, y[:, 0])[0], rtol=1e-8, atol=1e-12)
    left, values, right = np.linalg.svd(phi, full_matrices=False)
    cut = right[:2].T @ (left[:, :2].T @ y[:, 0] / values[:2])
    between = (values[1] + values[2]) / 2 / values[0]
    np.testing.assert_allclose(js.fit.readout(phi, y[:, 0], rcond=between), cut, rtol=1e-9)


def test_the_readout_has_no_unit():
    phi, y = np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)
    tiny = js.fit.readout(phi * np.float32(1e-25), y, ridge=0.0)
    np.testing.assert_allclose(tiny * np.float32(1e-25), js.fit.readout(phi, y), rtol=1e-4)
    assert js.fit.ridgelet(jnp.cos, np.float32([1e25]), np.float32([1.0]), reach=1.0, nodes=10) == 0


def test_a_bandlimited_ridgelet_transform_multiplies_frequencies(x64):
    """f = exp(-x^2 / 2), weights in [-2, 2]: by quadrature over weights and thresholds .816496 .751213 .585045 .215226."""
    f = lambda x: jnp.exp(-(x**2) / 2)
    a, b = np.linspace(-2, 2, 161), np.linspace(-30, 30, 601)
    pairs = [v.ravel() for v in np.meshgrid(a, b, indexing="ij")]
    transform = np.asarray(js.fit.ridgelet(f, *pairs, reach=10.0, nodes=401)).reshape(161, 601)
    points = np.array([0.0, 0.5, 1.0, 2.0])
    units = np.exp(-((a[:, None, None] * points - b[None, :, None]) ** 2) / 2)
    found = np.trapezoid(np.trapezoid(transform[..., None] * units, b, axis=1), a, axis=0)
    np.testing.assert_allclose(found, [0.816497, 0.751213, 0.585045, 0.215226], atol=2e-4)
    # The multiplier, applied to the Fourier transform of f, gives the same function.
    xi = np.linspace(-12, 12, 2401)
    spectrum = np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi) * np.asarray(js.fit.bandlimit_multiplier(xi, 2.0))
    again = np.trapezoid(spectrum * np.cos(xi * points[:, None]), xi)
    np.testing.assert_allclose(again, [0.816497, 0.751213, 0.585045, 0.215226], atol=1e-6)


def test_unbiased_readouts_need_no_fit():
    """c = R / (num q) for uniform weights and thresholds, 200,000 units: within 6 Monte Carlo errors."""
    limit, num = 3.0, 200_000
    features = js.fit.random_features(jax.random.key(0), num, limit=limit, kind="gauss")
    a, b = features.A[:, 0], features.b * 3  # thresholds in [-9, 9]
    density = 1 / (2 * limit * 2 * 3 * limit)
    each = js.fit.ridgelet(lambda x: jnp.exp(-(x**2) / 2), a, b, reach=8.0, nodes=161) / density
    for x in (0.0, 1.0):
        terms = each * jnp.exp(-((a * x - b) ** 2) / 2)
        want = 1 / np.sqrt(1 + 2 / limit**2) * np.exp(-(x**2) / (2 * (1 + 2 / limit**2)))
        assert abs(float(terms.mean()) - want) < 6 * float(terms.std()) / np.sqrt(num) + 1e-3
