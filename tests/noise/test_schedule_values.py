"""Schedules against formulas in higher precision, at both ends and in float32; inverses; grids by their definitions."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

N = js.noise
D = decimal.Decimal
PI = D("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")


def _cos(x):
    total = term = D(1)
    for k in range(1, 60):
        term *= -x * x / ((2 * k - 1) * (2 * k))
        total += term
    return total


def exact(name, t):
    """(alpha, sigma, lam) to 50 digits; numbers of the schedule are the doubles that the code holds."""
    with decimal.localcontext() as context:
        context.prec = 70
        t = D(float(t))
        if isinstance(schedule := (SCHEDULES | OTHER_NUMBERS)[name], N.VP):
            low, high = D(schedule.beta_min), D(schedule.beta_max)
            alpha = (-(t**2) * (high - low) / 4 - t * low / 2).exp()
            sigma = (1 - alpha**2).sqrt()
        elif isinstance(schedule, N.Cosine):
            s = D(schedule.offset)
            alpha = _cos(PI / 2 * (t + s) / (1 + s)) / _cos(PI / 2 * s / (1 + s))
            sigma = (1 - alpha**2).sqrt()
        elif name == "VE":
            alpha, sigma = D(1), t
        else:
            alpha, sigma = 1 - t, t
        return float(alpha), float(sigma), float((alpha / sigma).ln())


SCHEDULES = {"VP": N.VP(), "Cosine": N.Cosine(), "VE": N.VE(), "Flow": N.Flow()}
OTHER_NUMBERS = {"VP, slower": N.VP(0.5, 8.0), "Cosine, wider": N.Cosine(0.05)}
TIMES = {
    "VP": [1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0],
    "Cosine": [1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.9946, 0.99999],
    "VE": [1e-6, 0.002, 1.0, 80.0],
    "Flow": [1e-12, 1e-3, 0.5, 0.999, 1 - 1e-9],
}


@pytest.mark.parametrize("name", [*SCHEDULES, *OTHER_NUMBERS])
def test_right_to_rounding_on_the_host(name):
    schedule = (SCHEDULES | OTHER_NUMBERS)[name]
    for t in TIMES[name.split(",")[0]]:
        alpha, sigma, lam = exact(name, t)
        np.testing.assert_allclose(schedule.alpha(t), alpha, rtol=4e-15, err_msg=f"alpha({t})")
        np.testing.assert_allclose(schedule.sigma(t), sigma, rtol=4e-15, err_msg=f"sigma({t})")
        np.testing.assert_allclose(schedule.lam(t), lam, rtol=4e-15, atol=4e-15, err_msg=f"lam({t})")


@pytest.mark.parametrize("name", SCHEDULES)
def test_right_to_rounding_in_float32(name):
    schedule = SCHEDULES[name]
    # Time itself is rounded to float32, and near the noisy end that rounding alone moves alpha.
    times = np.float32([t for t in TIMES[name] if not 1 - 1e-4 < t < 1])
    for t in times:
        alpha, sigma, lam = exact(name, t)
        got = [np.asarray(jax.jit(getattr(schedule, m))(t)) for m in ("alpha", "sigma", "lam")]
        np.testing.assert_allclose(got[0], alpha, rtol=3e-6, err_msg=f"alpha({t})")
        np.testing.assert_allclose(got[1], sigma, rtol=1e-6, err_msg=f"sigma({t})")
        np.testing.assert_allclose(got[2], lam, rtol=2e-6, atol=3e-6, err_msg=f"lam({t})")


@pytest.mark.parametrize("name", [*SCHEDULES, "Discrete"])
def test_time_inverts_lam(name):
    schedule = SCHEDULES.get(name) or N.Discrete.ddpm_linear()
    times = TIMES.get(name, [-0.999999, -0.5, 0.0, 0.25, 500.5, 998.9, 999.0])
    for t in times:
        back = schedule.time(schedule.lam(t))
        # lam is rounded: t moves by that rounding over its slope.
        lam = float(schedule.lam(t))
        slack = abs(schedule.time(lam + 4e-15 * max(1, abs(lam))) - schedule.time(lam - 4e-15 * max(1, abs(lam))))
        np.testing.assert_allclose(back, t, rtol=1e-14, atol=float(slack) + 1e-300, err_msg=str(t))


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_inverts_lam_far_out(name):
    """From tiny signal to tiny noise, through the inverse first."""
    schedule = SCHEDULES[name]
    reach = {"VP": (-5.0, 30.0), "Cosine": (-10.0, 25.0), "VE": (-4.3, 30.0), "Flow": (-15.0, 30.0)}[name]
    lam = np.linspace(*reach, 41)
    np.testing.assert_allclose(schedule.lam(schedule.time(lam)), lam, rtol=1e-9, atol=1e-9)


def test_discrete_is_the_table_at_its_indices():
    for schedule, betas in [
        (N.Discrete.ddpm_linear(), np.linspace(1e-4, 0.02, 1000)),
        (N.Discrete.scaled_linear(), np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
    ]:
        product, table = D(1), []
        with decimal.localcontext() as context:
            context.prec = 50
            for beta in betas:
                product *= 1 - D(float(beta))
                table.append((float(product.sqrt()), float((1 - product).sqrt())))
        index = np.arange(1000)
        np.testing.assert_allclose(schedule.alpha(index), [a for a, _ in table], rtol=1e-13)
        np.testing.assert_allclose(schedule.sigma(index), [s for _, s in table], rtol=1e-13)
        assert (schedule.t_max, schedule.t_min) == (999.0, 0.0)
        # Between indices log alpha is linear, below 0 down to alpha = 1 at -1.
        middle = schedule.alpha(index[:-1] + 0.5)
        np.testing.assert_allclose(middle, np.sqrt(schedule.alpha(index[:-1]) * schedule.alpha(index[1:])), rtol=1e-14)
        np.testing.assert_allclose(schedule.alpha(-0.5) ** 2, schedule.alpha(0), rtol=1e-15)
        again = N.Discrete(schedule.alpha(index) ** 2)
        np.testing.assert_allclose(again.sigma(index), schedule.sigma(index), rtol=1e-11)


def test_discrete_has_no_level_beyond_its_table():
    schedule = N.Discrete.scaled_linear()
    law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.5]], stds=[0.6])
    for wrong in (1500, 999.1, -3.0, np.array([0.0, 1200.0])):
        for read in (schedule.alpha, schedule.sigma, schedule.lam):
            with pytest.raises(
                ValueError, match=r"outside the table\. Take indices between 0 and 999, or -1 for no noise"
            ):
                read(wrong)
    with pytest.raises(ValueError, match="t is 1500, outside the schedule, whose times go from 0 to 999"):
        law(jnp.ones(1), 1500.0)
    assert schedule.alpha(-1) == 1
    np.testing.assert_allclose(float(schedule.alpha(jnp.bfloat16(999.0))), schedule.alpha(999.0), rtol=1e-2)  # 1000


def test_discrete_cosine_is_the_published_table():
    level = np.arange(1001) / 1000
    bar = np.cos((level + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    np.testing.assert_allclose(N.Discrete.cosine().alpha(np.arange(1000)) ** 2, np.cumprod(1 - betas), rtol=1e-11)


def test_discrete_with_zero_terminal_signal():
    table = np.linspace(0.9, 0.0, 10)
    schedule = N.Discrete(table)
    assert schedule.alpha(9) == 0
    assert schedule.sigma(9) == 1
    assert schedule.lam(9) == -np.inf
    np.testing.assert_allclose(schedule.alpha(8) ** 2, table[8], rtol=1e-14)
    assert np.all(np.isfinite(jax.vmap(schedule.alpha)(jnp.arange(-1.0, 10))))


def test_flow_and_variance_preserving_constraints():
    t = np.linspace(0, 1, 101)
    np.testing.assert_array_equal(N.Flow().alpha(t) + N.Flow().sigma(t), 1)
    for schedule in (N.VP(), N.Cosine()):
        np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rtol=1e-14)
    assert abs(N.Cosine().lam(N.Cosine().t_max) + 4.7776) < 1e-3


# ---------------------------------------------------------------- grids


def test_grids_are_uniform_in_their_variable():
    schedule = N.VP()
    for final in ("zero", "sigma_min"):
        stop = -1 if final == "zero" else None
        root = N.time_grid(schedule, 9, 2, final=final)[:stop] ** 0.5
        np.testing.assert_allclose(np.diff(root, 2), 0, atol=1e-14)
        lam = schedule.lam(N.logsnr_grid(schedule, 9, final=final)[:stop])
        np.testing.assert_allclose(np.diff(lam, 2), 0, atol=1e-11)
        grid = N.karras_grid(schedule, 9, 7.0, final=final)[:stop]
        level = (schedule.sigma(grid) / schedule.alpha(grid)) ** (1 / 7)
        np.testing.assert_allclose(np.diff(level, 2), 0, atol=1e-11)


def test_karras_grid_is_the_published_formula():
    """Equation 5 of Karras et al. (2022), with the zero appended."""
    n, rho, low, high = 18, 7.0, 0.002, 80.0
    i = np.arange(n)
    sigma = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    np.testing.assert_allclose(N.karras_grid(N.VE(), n), np.append(sigma, 0), rtol=1e-12)


def test_index_grids_are_the_published_spacings():
    schedule = N.Discrete.scaled_linear()
    leading = N.index_grid(schedule, 50, "leading", offset=1)
    assert leading[:3].tolist() == [981, 961, 941]
    assert leading[-3:].tolist() == [21, 1, -1]
    trailing = N.index_grid(schedule, 10, "trailing")
    assert trailing.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99, -1]
    line = N.index_grid(schedule, 10, "linspace", final="sigma_min")
    assert line.tolist() == [999, 899, 799, 699, 599, 500, 400, 300, 200, 100, 0]


def test_a_straight_path_spends_no_evaluation_next_to_its_end():
    """On Flow the grid to zero is regular; two steps of it are nearer the solution than with a stop at t = 0.001."""
    flow = N.Flow()
    np.testing.assert_allclose(N.time_grid(flow, 4, final="zero"), [1, 0.75, 0.5, 0.25, 0], atol=1e-15)
    assert N.time_grid(flow, 2, t_min=1e-3, final="zero").tolist() == [1.0, 1e-3, 0.0]
    # Data N(0, s^2): the exact end of a start x is s x.
    s = 0.5
    law = js.denoise.GaussianMixture(flow, weights=[1.0], means=[[0.0]], stds=[s])
    end = lambda grid: float(js.sample(None, law, jnp.ones(1), js.solve.ddim(flow, grid)).x[0])
    regular, wasted = (abs(end(N.time_grid(flow, 2, final="zero", t_min=low)) - s) for low in (None, 1e-3))
    assert regular < 0.7 * wasted


def test_short_tables_end_in_noise():
    """Betas scale with 1000 / num, so that the noisiest level of a table of any length is the prior's."""
    for num in (25, 100, 1000):
        for make, wanted in ((N.Discrete.ddpm_linear, 0.0064), (N.Discrete.scaled_linear, 0.0683)):
            assert make(num).alpha(num - 1) < 1.02 * wanted
    explicit = N.Discrete.ddpm_linear(100, 1e-4, 0.02)
    np.testing.assert_allclose(explicit.alpha(99) ** 2, np.prod(1 - np.linspace(1e-4, 0.02, 100)), rtol=1e-12)
    betas = np.linspace(1e-3, 0.15, 60)
    np.testing.assert_allclose(
        N.Discrete.from_betas(betas).alpha(np.arange(60)) ** 2, np.cumprod(1 - betas), rtol=1e-12
    )


def test_rescaled_to_zero_terminal_snr():
    """Lin et al.'s algorithm 1: sqrt(alphas_cumprod) shifted to end at 0, scaled to keep the first."""
    schedule = N.Discrete.scaled_linear()
    root = schedule.alpha(np.arange(1000))
    wanted = (root - root[-1]) * root[0] / (root[0] - root[-1])
    rescaled = schedule.zero_terminal_snr()
    np.testing.assert_allclose(rescaled.alpha(np.arange(1000)), wanted, rtol=1e-10, atol=1e-15)
    assert rescaled.alpha(999) == 0
    assert rescaled.sigma(999) == 1
    np.testing.assert_allclose(rescaled.alpha(0), schedule.alpha(0), rtol=1e-14)


def test_shift_moves_the_log_snr_by_a_constant():
    """t / (1 - t) is multiplied by the factor: lam falls by its logarithm everywhere."""
    grid = N.time_grid(N.Flow(), 12, t_max=0.99)
    lam, moved = (N.Flow().lam(g) for g in (grid, N.shift(grid, 3.0)))
    np.testing.assert_allclose(lam - moved, np.log(3.0), rtol=1e-12)


def test_a_traced_grid_is_the_host_grid_in_float64():
    with jax.enable_x64(True):
        for make in (N.logsnr_grid, N.karras_grid, lambda s, n, **k: N.time_grid(s, n, 2, **k)):
            for schedule in (N.VP(), N.Cosine(), N.VE(), N.Discrete.ddpm_linear(100)):
                end = float(schedule.t_min) * 1.3 + 0.01
                host = make(schedule, 7, t_min=end, final="zero")
                traced = jax.jit(lambda end, make=make, s=schedule: make(s, 7, t_min=end, final="zero"))(end)
                np.testing.assert_allclose(traced, host, rtol=1e-10, atol=1e-12)
