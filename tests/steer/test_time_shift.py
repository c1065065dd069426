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


def matched_by_search(x, t, window, cutoff):
    """The index in the window around t whose variance is nearest, by looking at every one."""
    low, high = max(0, int(np.ceil(t - window // 2))), min(999, int(np.floor(t + window // 2)))
    inside = np.arange(low, high + 1)
    nearest = inside[np.argmin(np.abs(VARIANCE[inside] - np.var(x, ddof=1)))]
    return float(nearest) if t > cutoff and window >= 2 else float(t)


@pytest.mark.parametrize(("window", "cutoff", "size"), [(40, 0, 1.0), (10, 0, 1.3), (400, 300, 0.7)])
def test_the_default_mode_step_by_step(window, cutoff, size, x64):
    """DDIM from the shifted time of each state to the next time of the grid: the paper's algorithm, by hand.

    A wide window finds the matched index, a narrow one ends at its edge; rows at or below the cutoff are not shifted.
    The plan's rows may combine x0 or eps.
    """
    grid = js.noise.index_grid(SCHEDULE, 6, "leading")
    plan = js.solve.ddim(SCHEDULE, grid)
    alpha, sigma = (lambda t, f=f: float(np.asarray(f(t))) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
    start = size * np.random.default_rng(0).normal(size=16)
    x, shifted, seen = start, float(plan.t[0]), []
    for r in range(plan.nfe):
        eps = np.asarray(LAW(jnp.asarray(x), shifted).eps)
        to = float(plan.t_next[r])
        rho = sigma(to) / alpha(to) - sigma(shifted) / alpha(shifted)
        x = alpha(to) * (x / alpha(shifted) + rho * eps)
        shifted = matched_by_search(x, to, window, cutoff)
        seen.append(shifted - to)
    assert np.count_nonzero(seen) >= 2
    steer = js.steer.TimeShift(SCHEDULE, window=window, cutoff=cutoff)
    for plan in (js.solve.ddim(SCHEDULE, grid), js.solve.deis(SCHEDULE, grid, order=1)):
        got = js.sample(None, LAW, jnp.asarray(start), plan, steer=steer).x
        np.testing.assert_allclose(got, x, rtol=1e-8, err_msg=plan.kind)


@pytest.mark.parametrize("window", [40, 400])
def test_the_target_mode_step_by_step(window, x64):
    """The network at the grid's times; each row but the first lands where the variance of its own state says."""
    plan = js.solve.ddim(SCHEDULE, js.noise.index_grid(SCHEDULE, 6, "leading"))
    alpha, sigma = (lambda t, f=f: float(np.asarray(f(t))) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
    start = np.random.default_rng(0).normal(size=16)
    x = start
    for r in range(plan.nfe):
        t, to = float(plan.t[r]), float(plan.t_next[r])
        eps = np.asarray(LAW(jnp.asarray(x), t).eps)
        to = matched_by_search(x, to, window, 0) if r else to
        x = alpha(to) * (x / alpha(t) + (sigma(to) / alpha(to) - sigma(t) / alpha(t)) * eps)
    got = js.sample(None, LAW, jnp.asarray(start), plan, steer=js.steer.TimeShift(SCHEDULE, window, mode="target")).x
    np.testing.assert_allclose(got, x, rtol=1e-8)


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
