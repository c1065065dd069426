"""Time shift: the law of the shifted index, its bounds, and the base sampler at window 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

SCHEDULE = js.noise.Discrete.ddpm_linear()
VARIANCE = 1 - np.exp(2 * SCHEDULE.log_alpha)
LAW = js.denoise.GaussianMixture(SCHEDULE, weights=[0.5, 0.5], means=[[-1.0] * 16, [1.0] * 16], stds=[0.3, 0.3])


def matched(x, t, window=1998, cutoff=0.0):
    return js.steer.TimeShift(SCHEDULE, window=window, cutoff=cutoff)._match(x, jnp.float32(t))


@pytest.mark.parametrize("mode", ["paper", "target", "network_time"])
@pytest.mark.parametrize(("window", "cutoff"), [(0, 0), (1, 0), (50, 1000)])
def test_without_a_window_or_below_the_cutoff_it_is_the_base_sampler_bit_for_bit(mode, window, cutoff):
    x = jax.random.normal(jax.random.key(0), (16,))
    grid = js.noise.index_grid(SCHEDULE, 8)
    for plan in (js.solve.ddim(SCHEDULE, grid), js.solve.plms(SCHEDULE, grid), js.solve.dpmpp(SCHEDULE, grid)):
        steer = js.steer.TimeShift(SCHEDULE, window=window, cutoff=cutoff, mode=mode)
        shifted = js.sample(None, LAW, x, plan, steer=steer).x
        np.testing.assert_array_equal(shifted, js.sample(None, LAW, x, plan).x)


@pytest.mark.parametrize("index", [150, 300, 450])
def test_shifted_index_of_gaussian_noise(index):
    """x ~ N(0, V(tau) I_d): the matched index has mean tau and deviation V sqrt(2 / d) / V'(tau)."""
    d, num = 4096, 400
    x = np.sqrt(VARIANCE[index]) * jax.random.normal(jax.random.key(index), (num, d))
    found = np.asarray(jax.vmap(lambda v: matched(v, index))(x))
    slope = (VARIANCE[index + 1] - VARIANCE[index - 1]) / 2
    deviation = VARIANCE[index] * np.sqrt(2 / (d - 1)) / slope
    assert abs(found.mean() - index) < 5 * deviation / np.sqrt(num) + 0.5 + 0.02 * deviation
    assert 0.8 < found.std() / np.hypot(deviation, 0.3) < 1.2


def test_shifted_index_is_exact_monotone_and_bounded():
    pattern = np.resize([1.0, -1.0], 1000) * np.sqrt(999 / 1000)  # unbiased variance 1, mean 0
    for index in (0, 7, 500, 998, 999):
        x = jnp.asarray(np.sqrt(VARIANCE[index]) * pattern, jnp.float32)
        assert abs(float(matched(x, 500)) - index) <= (1 if index > 990 else 0)  # V is flat to float32 at the end
    sizes = [float(matched(jnp.asarray(s * pattern, jnp.float32), 500)) for s in np.linspace(0.02, 1.1, 30)]
    assert all(np.diff(sizes) >= 0)
    loud, quiet = jnp.asarray(3 * pattern, jnp.float32), jnp.asarray(0.01 * pattern, jnp.float32)
    assert float(matched(loud, 500, window=40)) == 520
    assert float(matched(quiet, 500, window=41)) == 480
    assert float(matched(loud, 990, window=40)) == 999
    assert float(matched(quiet, 5, window=40)) == 0
    assert float(matched(quiet, 500, window=40, cutoff=500.0)) == 500


def test_batched_samples_shift_as_single_ones():
    x = jax.random.normal(jax.random.key(1), (5, 16)) * jnp.linspace(0.5, 1.5, 5)[:, None]
    plan = js.solve.ddim(SCHEDULE, js.noise.index_grid(SCHEDULE, 6))
    steer = js.steer.TimeShift(SCHEDULE, window=60, mode="paper")
    alone = jnp.stack([js.sample(None, LAW, row, plan, steer=steer).x for row in x])
    mapped = jax.vmap(lambda row: js.sample(None, LAW, row, plan, steer=steer).x)(x)
    np.testing.assert_allclose(mapped, alone, atol=1e-5)
    assert not np.allclose(mapped, js.sample(None, LAW, x, plan).x, atol=1e-4)


def test_refusals():
    with pytest.raises(TypeError, match="Discrete"):
        js.steer.TimeShift(js.noise.VE(), window=10)
    with pytest.raises(ValueError, match="window"):
        js.steer.TimeShift(SCHEDULE, window=-1)
    with pytest.raises(ValueError, match="mode"):
        js.steer.TimeShift(SCHEDULE, window=10, mode="other")
    grid = js.noise.index_grid(SCHEDULE, 6)
    small = js.denoise.GaussianMixture(SCHEDULE, weights=[1.0], means=[[0.0, 0.0]], stds=[1.0])
    with pytest.raises(ValueError, match="16 numbers"):
        js.sample(None, small, jnp.ones(2), js.solve.ddim(SCHEDULE, grid), steer=js.steer.TimeShift(SCHEDULE, window=9))
    for plan in (js.solve.heun(SCHEDULE, grid), js.solve.unipc(SCHEDULE, grid), js.solve.ddpm(SCHEDULE, grid)):
        with pytest.raises(ValueError, match="network_time"):
            js.sample(jax.random.key(0), LAW, jnp.ones(16), plan, steer=js.steer.TimeShift(SCHEDULE, window=9))
