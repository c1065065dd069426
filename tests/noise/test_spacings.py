"""Named spacings: the numbers that other packages publish, and the identities between the rules."""

import numpy as np
import pytest
from scipy.stats import beta

import jsamp as js

N = js.noise
TABLE = N.Discrete.scaled_linear()
VE = N.VE(0.0291675, 14.6146)

# ComfyUI's schedulers on the table of Stable Diffusion, ten steps.
PUBLISHED = {
    "beta": [999, 959, 876, 765, 637, 500, 362, 234, 123, 40, -1],
    "simple": [999, 899, 799, 699, 599, 499, 399, 299, 199, 99, -1],
    "normal": [999, 888, 777, 666, 555, 444, 333, 222, 111, 0, -1],
    "sgm_uniform": [999, 899.1, 799.2, 699.3, 599.4, 499.5, 399.6, 299.7, 199.8, 99.9, -1],
    # NVIDIA's time steps, which were published beside the noise levels.
    "ays_sd15": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, -1],
    "ays_sdxl": [999, 845, 730, 587, 443, 310, 193, 116, 53, 13, -1],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_time_steps(name):
    np.testing.assert_allclose(N.spaced_grid(TABLE, 10, name), PUBLISHED[name], atol=1e-3)


def test_levels_are_those_of_their_formulas():
    low, high = VE.sigma_min, VE.sigma_max
    grid = lambda name, **options: N.spaced_grid(VE, 8, name, **options)[:-1]
    near = lambda found, wanted: np.testing.assert_allclose(found, np.append(wanted, 0)[: len(found)], rtol=1e-9)
    # k-diffusion's polyexponential: exp(linspace(1, 0, n) ** rho * (log high - log low) + log low).
    ramp = np.linspace(1, 0, 8)
    near(grid("polyexponential", rho=2.0), np.exp(ramp**2 * np.log(high / low) + np.log(low)))
    near(grid("exponential"), np.geomspace(high, low, 8))
    near(grid("kl_optimal"), np.tan(ramp * np.arctan(high) + (1 - ramp) * np.arctan(low)))
    near(N.spaced_grid(VE, 8, "karras"), N.karras_grid(VE, 8))
    near(N.spaced_grid(VE, 8, "exponential"), N.logsnr_grid(VE, 8, final="zero"))
    for shape in (0.6, 0.9):
        wanted = low + beta(shape, shape).ppf(ramp) * (high - low)
        np.testing.assert_allclose(grid("beta_sigmas", shape=shape), wanted, rtol=1e-5)
    quadratic = N.spaced_grid(N.Flow(), 10, "linear_quadratic")
    wanted = [1, 0.995, 0.99, 0.985, 0.98, 0.975, 0.932, 0.813, 0.618, 0.347, 0]
    np.testing.assert_allclose(quadratic, wanted, atol=5e-4)


def test_aligned_levels_between_and_beyond_ten_steps():
    """Other lengths are log-linear through the ten published steps and their least level."""
    grid = N.spaced_grid(TABLE, 20, "ays_sd15", final="sigma_min")
    rho = TABLE.sigma(grid) / TABLE.alpha(grid)
    np.testing.assert_allclose(rho[[2, 4]], [6.4745760956, 3.8636745985], rtol=1e-6)
    np.testing.assert_allclose(rho[1], np.sqrt(14.6146412293 * 6.4745760956), rtol=1e-6)
    np.testing.assert_allclose(rho[-1], 0.0291671582, rtol=1e-4)
    video = N.spaced_grid(N.VE(0.002, 700.0), 10, "ays_svd")
    np.testing.assert_allclose(video, [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0])


def test_dynamic_shift_passes_through_both_sizes():
    np.testing.assert_allclose(np.log([N.dynamic_shift(n) for n in (256, 1024, 4096)]), [0.5, 0.63, 1.15], rtol=1e-12)
    assert np.log(N.dynamic_shift(2048, base=(1024, 0.95), most=(4096, 2.05))) == pytest.approx(1.3166666667)
