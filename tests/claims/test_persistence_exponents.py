"""Persistence exponents from the covariance alone are within a few percent of simulated ones (arXiv:2401.01805)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate


@pytest.mark.slow
@pytest.mark.parametrize(("d", "low", "high"), [(1, 6.0, 18.0), (2, 4.0, 14.0), (3, 4.0, 12.0)])
def test_simulated_tails_have_the_slope(d, low, high):
    """Log-survival of simulated intervals between zeros falls with the exponent, 5%, for diffusion in d dimensions."""
    r = lambda t: (1 / jnp.cosh(t / 2)) ** (d / 2)
    step, counts = 0.05, np.zeros(2)

    @jax.jit
    def beyond(key):
        found = estimate.excursions(estimate.gaussian_process(key, r, 2**17, step), step)
        return jnp.stack([jnp.sum(found.mask & (found.length > t)) for t in (low, high)])

    for key in jax.random.split(jax.random.key(d), 60):
        counts += np.asarray(beyond(key))
    slope = np.log(counts[0] / counts[1]) / (high - low)
    noise = np.sqrt(1 / counts[1]) / (high - low)
    assert noise < 0.02 * slope
    assert abs(slope / float(estimate.slepian_exponent(r)) - 1) < 0.05
