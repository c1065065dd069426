"""Identities between solvers, to float64 rounding."""

import itertools
import math

import numpy as np
import pytest
from oracles import Gaussian, Mixture, output_moments, run_table

import jsamp as js
from jsamp import solve
from jsamp.solve._index import GAMMA, adams
from jsamp.solve._multistep import EQUAL_STEPS, build
from jsamp.solve._weights import check_grid, first_order, lagrange, moments

VP = js.noise.VP()
UNIFORM = js.noise.logsnr_grid(VP, 10)
GRIDS = {"logsnr": UNIFORM, "quadratic": js.noise.time_grid(VP, 10, 2), "uniform t": js.noise.time_grid(VP, 10)}
LAW = Mixture([0.3, 0.7], [[-1.0], [0.6]], [0.25**2, 0.15**2])
STARTS = np.random.default_rng(1).standard_normal((16, 1))


def same(a, b, tolerance=1e-12):
    silent = lambda r, stream: 0 * STARTS
    gap = np.abs(run_table(a, LAW, STARTS, silent) - run_table(b, LAW, STARTS, silent)).max()
    assert gap < tolerance, gap


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_family_has_the_same_first_order_member(grid):
    for other in (
        solve.dpm_solver(VP, grid, order=1), solve.dpmpp(VP, grid, order=1), solve.deis(VP, grid, order=1),
        solve.lms(VP, grid, order=1), solve.plms(VP, grid, order=1), solve.ghvb(VP, grid, order=1, beta=1.0),
        solve.sa_solver(VP, grid, predictor=1, corrector=0, tau=0.0), solve.rho_rk(VP, grid, tableau="1euler"),
        solve.er_sde(VP, grid, order=1, phi=lambda rho: rho),
    ):  # fmt: skip
        same(solve.ddim(VP, grid), other)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_named_solvers_that_are_one_method(grid):
    same(solve.dpm_solver(VP, grid, order=3, lower_order_final=False),
         solve.deis(VP, grid, order=3, variable="lam", lower_order_final=False))  # fmt: skip
    same(solve.lms(VP, grid, order=4), solve.deis(VP, grid, order=4, variable="rho", lower_order_final=False))
    same(solve.unipc(VP, grid, order=3), solve.sa_solver(VP, grid, predictor=3, corrector=4, tau=0.0))
    same(solve.heun(VP, grid), solve.rho_rk(VP, grid, tableau="2heun"), 1e-10)
    same(solve.plms(VP, grid), solve.ipndm(VP, grid))
    no_corrector = build(check_grid("unip", VP, grid), kind="x0", order=2, variant="bh2")
    same(no_corrector, solve.dpmpp(VP, grid, order=2, variant="reference", lower_order_final=False))
    plain, damped = solve.plms(VP, grid), solve.ghvb(VP, grid, beta=1.0)
    np.testing.assert_array_equal(plain.weights, damped.weights)
    np.testing.assert_array_equal(run_table(plain, LAW, STARTS), run_table(damped, LAW, STARTS))
    same(solve.heavy_ball(plain, 1.0), plain)
    same(solve.nesterov(plain, 1.0), plain)


def test_two_point_adams_is_the_midpoint_rule_only_on_uniform_log_snr():
    adams2 = lambda g: solve.ghvb(VP, g, order=2, beta=1.0)
    midpoint = lambda g: solve.dpm_solver(VP, g, variant="reference", lower_order_final=False)
    same(adams2(UNIFORM), midpoint(UNIFORM))
    gap = run_table(adams2(GRIDS["uniform t"]), LAW, STARTS) - run_table(midpoint(GRIDS["uniform t"]), LAW, STARTS)
    assert np.abs(gap).max() > 1e-2


def test_stochastic_first_order_members_agree():
    for grid in GRIDS.values():
        ancestral = solve.ddim(VP, grid, eta=1.0)
        for other in (solve.ddpm(VP, grid), solve.dpmpp(VP, grid, order=1, tau=1.0),
                      solve.er_sde(VP, grid, order=1, phi=lambda rho: rho**2)):  # fmt: skip
            for name in ("state_coef", "weights", "noise_std"):
                np.testing.assert_allclose(getattr(other, name), getattr(ancestral, name), rtol=1e-9, atol=1e-14)


def test_stochastic_and_deterministic_limits():
    grid = GRIDS["quadratic"]
    np.testing.assert_allclose(solve.ddim(VP, grid, eta=1e-9).weights, solve.ddim(VP, grid).weights, rtol=1e-12)
    per_step = solve.dpmpp(VP, grid, tau=np.zeros(10) + 0.5)
    np.testing.assert_array_equal(per_step.weights, solve.dpmpp(VP, grid, tau=0.5).weights)
    window = solve.sa_solver(VP, grid, tau=lambda t: 1.0 if 0.2 < t < 0.8 else 0.0)
    inside = (grid[:-1] > 0.2) & (grid[:-1] < 0.8)
    assert np.all((window.noise_std > 0) == inside)


def test_edm_without_churn_is_heun_and_on_flow_first_order_is_euler():
    ve, flow = js.noise.VE(), js.noise.Flow()
    grid = js.noise.karras_grid(ve, 8)
    assert solve.edm(ve, grid).nfe == solve.heun(ve, grid).nfe == 15
    np.testing.assert_array_equal(solve.edm(ve, grid).weights, solve.heun(ve, grid).weights)
    times = js.noise.time_grid(flow, 7, final="zero")
    x = STARTS
    for t, t_next in itertools.pairwise(times):
        x0, eps = LAW(x, 1 - t, t)
        x = x + (t_next - t) * (eps - x0)
    np.testing.assert_allclose(run_table(solve.ddim(flow, times), LAW, STARTS), x, atol=1e-13)


@pytest.mark.parametrize("variable", ["t", "rho", "lam"])
@pytest.mark.parametrize("kind", ["eps", "x0"])
def test_weights_sum_to_the_first_order_weight_and_reproduce_polynomials(kind, variable):
    for grid in GRIDS.values():
        path = check_grid("test", VP, grid)
        for i in (3, 9):
            nodes = [i, i - 1, i - 2]
            for tau in (0.0, 1.0):
                weights = lagrange(path, i, nodes, kind, variable, tau)
                total = first_order(path, i, kind, tau)[1]
                assert abs(sum(weights) - total) < 1e-13 * max(abs(w) for w in weights)
    if variable == "lam":
        # m = lam^k: the weights on its node values equal the moment integrals.
        path = check_grid("test", VP, UNIFORM)
        flat, linear, square = moments(path, 5, kind, 0.0, 3)
        h = path.lam[6] - path.lam[5]
        at = [(path.lam[j] - path.lam[5]) / h for j in (5, 4, 3)]
        weights = lagrange(path, 5, [5, 4, 3], kind, "lam", 0.0)
        for power, integral in enumerate((flat, linear, square)):
            assert abs(sum(w * a**power for w, a in zip(weights, at, strict=True)) - integral) < 1e-14


def test_quadrature_equals_the_phi_functions():
    for n in (1, 5, 50):
        path = check_grid("test", VP, js.noise.logsnr_grid(VP, n))
        h = path.lam[1] - path.lam[0]
        # int_0^1 e^{(s-1) h} s^k ds = k! phi_{k+1}(-h), here by its series.
        phi = lambda k: sum((-h) ** j / math.factorial(j + k) for j in range(80))
        flat, linear, square = moments(path, 0, "x0", 0.0, 3)
        np.testing.assert_allclose(flat, path.alpha[1] * h * phi(1), rtol=1e-12)
        np.testing.assert_allclose(linear, path.alpha[1] * h * phi(2), rtol=1e-12)
        np.testing.assert_allclose(square, path.alpha[1] * h * 2 * phi(3), rtol=1e-12)


@pytest.mark.parametrize("solver", ["deis", "dpm_solver", "lms", "plms", "ghvb", "unipc eps", "heun", "dpm_single"])
def test_a_constant_noise_prediction_is_integrated_exactly(solver):
    grid = GRIDS["quadratic"]
    plan = solve.unipc(VP, grid, predicts="eps") if solver == "unipc eps" else getattr(solve, solver)(VP, grid)
    end = run_table(plan, lambda x, a, s: (0 * x, 0 * x + 2.0), STARTS)
    a0, s0, a1, s1 = VP.alpha(1.0), VP.sigma(1.0), VP.alpha(1e-3), VP.sigma(1e-3)
    np.testing.assert_allclose(end, a1 * (STARTS / a0 + 2.0 * (s1 / a1 - s0 / a0)), rtol=1e-11)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp", "unipc", "sa_solver", "dpmpp_single", "er_sde"])
def test_a_constant_data_prediction_is_integrated_exactly(solver):
    grid = GRIDS["quadratic"]
    options = {"tau": 0.0} if solver == "sa_solver" else {"phi": lambda rho: rho} if solver == "er_sde" else {}
    plan = getattr(solve, solver)(VP, grid, **options)
    end = run_table(plan, lambda x, a, s: (0 * x + 2.0, 0 * x), STARTS, noise=lambda r, s: 0 * STARTS)
    a0, s0, a1, s1 = VP.alpha(1.0), VP.sigma(1.0), VP.alpha(1e-3), VP.sigma(1e-3)
    np.testing.assert_allclose(end, s1 * (STARTS / s0 + 2.0 * (a1 / s1 - a0 / s0)), rtol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("beta", [1.0, 0.8, 0.3])
def test_ghvb_coefficients_are_adams_on_the_unfiltered_less_one_difference(order, beta):
    rng = np.random.default_rng(order)
    v = rng.standard_normal(order + 1)  # newest first
    e = [(v[j] - (1 - beta) * v[j + 1]) / beta for j in range(order)]
    difference = sum((-1) ** k * math.comb(order, k) * v[k] for k in range(order + 1))
    left = np.dot(adams(order, beta), v[:order])
    right = np.dot(adams(order), e) - (1 - beta) / beta * GAMMA[order - 1] * difference
    assert abs(left - right) < 1e-13 * max(1, 1 / beta)


def test_variable_step_ghvb_equals_the_paper_on_uniform_steps():
    ve = js.noise.VE(1e-3, 100.0)
    grid = np.linspace(5.0, 1.0, 13)
    for beta in (1.0, 0.8, 0.4):
        np.testing.assert_allclose(
            solve.ghvb(ve, grid, order=3, beta=beta, spacing="variable").weights,
            solve.ghvb(ve, grid, order=3, beta=beta).weights,
            atol=1e-12,
        )


def test_adams_bashforth_coefficients():
    np.testing.assert_allclose(np.array(adams(4)) * 24, [55, -59, 37, -9], atol=1e-12)
    np.testing.assert_allclose(np.array(adams(3)) * 12, [23, -16, 5], atol=1e-12)


def test_steps_to_zero_noise_return_the_prediction():
    ve = js.noise.VE()
    grid = js.noise.karras_grid(ve, 6)
    law = Gaussian([0.3], [0.04])
    for plan in (solve.ddim(ve, grid), solve.dpmpp(ve, grid, order=3), solve.unipc(ve, grid), solve.heun(ve, grid),
                 solve.ddpm(ve, grid), solve.dpmpp(ve, grid, tau=1.0)):  # fmt: skip
        last = []

        def predict(x, a, s, last=last):
            last.append(law(x, a, s)[0])
            return law(x, a, s)

        end = run_table(plan, predict, 80 * STARTS, noise=lambda r, s: 0 * STARTS)
        np.testing.assert_allclose(end, last[-1], atol=1e-12)


def test_restart_is_a_concatenation_that_keeps_the_law():
    ve = js.noise.VE()
    grid = js.noise.karras_grid(ve, 40, t_min=0.02)
    inner = solve.heun(ve, grid[15:31])
    plan = solve.restart(solve.heun(ve, grid), inner, repeats=3)
    assert plan.nfe == solve.heun(ve, grid).nfe + 3 * inner.nfe
    mean, variance = output_moments(plan, 0.7, 0.5)
    assert abs(mean - 0.7) < 2e-2
    assert abs(variance - 0.25) < 0.02
    # The jump restores exactly the variance of the level it returns to.
    jump = int(np.flatnonzero(plan.churn_std)[0])
    assert abs(plan.churn_std[jump] ** 2 - (grid[15] ** 2 - grid[30] ** 2)) < 1e-10


def test_restart_scales_the_signal_on_a_variance_preserving_schedule():
    grid = js.noise.logsnr_grid(VP, 60)
    plan = solve.restart(solve.dpmpp(VP, grid), solve.dpmpp(VP, grid[20:41]), repeats=2)
    mean, variance = output_moments(plan, 0.7, 0.5)
    assert abs(mean - 0.7 * VP.alpha(1e-3)) < 1e-2
    assert abs(variance - 0.25) < 0.01


# ---------------------------------------------------------------- rows by hand


def told(values):
    """A denoiser that says what it is told, row by row: noise predictions."""
    rest = iter(values)
    return lambda x, alpha, sigma: (0 * x, 0 * x + next(rest))


def test_nesterov_by_hand():
    """v is the average of slopes; the step blends it once more with the newest: beta = .8, three Euler steps on VE."""
    ve, beta = js.noise.VE(), 0.8
    grid, slopes = np.array([10.0, 7.0, 5.0, 4.0]), (1.0, -2.0, 3.0)
    plan = solve.nesterov(solve.plms(ve, grid, order=1), beta)
    x, v = 0.5, slopes[0]
    for r, slope in enumerate(slopes):
        v = slope if r == 0 else (1 - beta) * v + beta * slope
        x += (grid[r + 1] - grid[r]) * (v if r == 0 else (1 - beta) * v + beta * slope)
    end = run_table(plan, told(slopes), np.full((1, 1), 0.5))
    assert abs(end[0, 0] - x) < 1e-13
    ball = solve.heavy_ball(solve.plms(ve, grid, order=1), beta)
    assert abs(run_table(ball, told(slopes), np.full((1, 1), 0.5))[0, 0] - x) > 0.1


def test_churn_raises_the_level_by_what_it_adds():
    """sigma_hat = sigma (1 + gamma) and the noise between the two levels, where churn is on; the law stays exact."""
    ve = js.noise.VE()
    grid = js.noise.karras_grid(ve, 20, t_min=0.02, final="sigma_min")
    plan = solve.edm(ve, grid, churn=3.0, churn_min=0.05, churn_max=50.0, noise=1.0)
    first = np.asarray(plan.take) == 1
    before, after = grid[:-1], plan.sigma[first]
    gamma = np.where((before >= 0.05) & (before <= 50.0), min(3.0 / 20, np.sqrt(2) - 1), 0.0)
    np.testing.assert_allclose(after, before * (1 + gamma), rtol=1e-12)
    np.testing.assert_allclose(plan.churn_std[first] ** 2, after**2 - before**2, rtol=1e-9, atol=1e-12)
    assert np.all(plan.churn_std[~first] == 0)
    fine = solve.edm(ve, js.noise.karras_grid(ve, 200, t_min=0.02, final="sigma_min"), churn=20.0)
    mean, variance = output_moments(fine, 0.7, 0.5)
    assert abs(mean - 0.7) < 2e-3
    assert abs(variance - (0.25 + 0.02**2)) < 2e-3


def test_the_pseudo_runge_kutta_start_is_the_classical_one_where_time_is_rho():
    ve, grid = js.noise.VE(), np.array([8.0, 5.0, 3.0, 2.0, 1.0])
    pseudo, classical = solve.pndm(ve, grid), solve.rho_rk(ve, grid, tableau="4rk")
    for rows in (4, 8, 12):
        same(pseudo[:rows], classical[:rows], 1e-12)
    heun, two = solve.plms(ve, grid, start="heun"), solve.rho_rk(ve, grid, tableau="2heun")
    same(heun[:2], two[:2], 1e-12)
    same(solve.pndm(ve, grid, order=2), solve.plms(ve, grid, order=2, start="heun"))


def test_plms_as_stable_diffusion_starts_it():
    """diffusers' PNDM with `skip_prk_steps`, by hand: Euler, the mean of both ends, then Adams of 2, 3, 4 points."""
    ve, grid = js.noise.VE(), np.array([9.0, 7.0, 6.0, 4.0, 3.0, 1.0])
    e = np.array([1.0, -2.0, 3.0, 0.5, -1.5, 2.5])  # six evaluations for five steps
    plan = solve.plms(ve, grid, start="heun")
    assert plan.nfe == 6
    x = 0.3 + (7 - 9) * (e[0] + e[1]) / 2
    past = [e[0]]
    for i, new in zip(range(1, 5), e[2:], strict=True):
        past.insert(0, new)
        weights = {2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
        kept = past[:4]
        x += (grid[i + 1] - grid[i]) * np.dot(weights[len(kept)], kept)
    assert abs(run_table(plan, told(e), np.full((1, 1), 0.3))[0, 0] - x) < 1e-12


def test_slopes_of_the_two_point_unipc_formulas_by_hand():
    """B(h) = h ("bh1") and e^h - 1 or 1 - e^-h ("bh2"): half of alpha B(h) times the divided difference."""
    path = check_grid("test", VP, GRIDS["quadratic"])
    i = 4
    h, gap = path.lam[i + 1] - path.lam[i], path.lam[i] - path.lam[i - 1]
    for variant, b in (("bh1", h), ("bh2", -np.expm1(-h))):
        row = solve.unipc(VP, GRIDS["quadratic"], order=2, variant=variant, lower_order_final=False)
        older = row.weights[i, 1 + row.slot[i - 1]]
        np.testing.assert_allclose(older, -0.5 * path.alpha[i + 1] * b * h / gap, rtol=1e-12)
        np.testing.assert_allclose(row.weights[i, 0] + older, -path.alpha[i + 1] * np.expm1(-h), rtol=1e-12)


def test_sa_solver_as_published_lowers_and_corrects_its_last_step():
    grid = GRIDS["logsnr"]
    same(solve.sa_solver(VP, grid, tau=0.0, lower_order_final=True), solve.unipc(VP, grid, lower_order_final=True))
    last = solve.sa_solver(VP, grid, predictor=2, corrector=3, tau=0.0, corrector_last=True, lower_order_final=False)
    assert last.nfe == 11
    same(last, solve.unipc(VP, grid, order=2, corrector_last=True, lower_order_final=False))


# ---------------------------------------------------------------- few steps and variances


def test_few_step_members_of_known_families():
    for grid in (*GRIDS.values(), js.noise.time_grid(VP, 6, final="zero")):
        same(solve.tcd(VP, grid, gamma=0.0), solve.ddim(VP, grid), 1e-9)
        same(solve.gradient_estimation(VP, grid, gamma=1.0), solve.ddim(VP, grid))
        same(solve.gradient_estimation(VP, grid, gamma=1.5), solve.plms(VP, grid, order=2))
        whole, part = solve.consistency(VP, grid), solve.tcd(VP, grid, gamma=1.0)
        for name in ("state_coef", "weights", "noise_std"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(part, name))
        np.testing.assert_allclose(whole.noise_std, VP.sigma(grid[1:]), atol=1e-15)
        assert np.all(whole.state_coef == 0)
    ve, grid, e = js.noise.VE(), np.array([9.0, 5.0, 2.0]), (1.5, -0.5)
    x = 0.2 - 4 * 1.5 - 3 * (2 * -0.5 - 1.5)
    assert abs(run_table(solve.gradient_estimation(ve, grid), told(e), np.full((1, 1), 0.2))[0, 0] - x) < 1e-13


@pytest.mark.parametrize("gamma", [0.3, 0.7])
def test_tcd_by_hand(gamma):
    """Down to (1 - gamma) t without noise, up again with the noise that restores the level exactly."""
    ve, grid = js.noise.VE(), np.array([10.0, 4.0, 1.0])
    plan = solve.tcd(ve, grid, gamma=gamma)
    low = (1 - gamma) * grid[1:]
    np.testing.assert_allclose(plan.state_coef, low / grid[:-1], rtol=1e-12)
    np.testing.assert_allclose(plan.weights[:, 0], 1 - low / grid[:-1], rtol=1e-12)
    np.testing.assert_allclose(plan.noise_std**2, grid[1:] ** 2 - low**2, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_consistency_function_is_sampled_exactly(n):
    """With the exact map to the trajectory's end the law of the result is the data's, at any number of steps."""
    mean, std = 0.7, 0.4
    plan = solve.consistency(VP, js.noise.time_grid(VP, n, final="zero"))
    m, v = plan.alpha[0] * mean, (plan.alpha[0] * std) ** 2 + plan.sigma[0] ** 2
    for r in range(n):
        slope = std / np.sqrt((plan.alpha[r] * std) ** 2 + plan.sigma[r] ** 2)
        gain = plan.state_coef[r] + plan.weights[r, 0] * slope
        m = gain * m + plan.weights[r, 0] * (mean - slope * plan.alpha[r] * mean)
        v = gain**2 * v + plan.noise_std[r] ** 2
    np.testing.assert_allclose((m, v), (mean, std**2), rtol=1e-12)


def test_each_ddpm_variance_is_exact_on_its_own_data():
    """Ho et al.: beta is right for x0 ~ N(0, 1), the posterior's for a single point; halfway is the geometric mean."""
    grid = GRIDS["uniform t"]
    large, small, half = (solve.ddpm(VP, grid, variance=v) for v in ("large", "small", 0.5))
    assert abs(output_moments(large, 0.0, 1.0)[1] - 1) < 1e-12
    assert abs(output_moments(small, 0.0, 1.0)[1] - 1) > 0.05
    sigma = float(VP.sigma(grid[-1]))
    assert abs(output_moments(small, 0.3, 1e-9)[1] - sigma**2) < 1e-12
    np.testing.assert_allclose(half.noise_std, np.sqrt(large.noise_std * small.noise_std), rtol=1e-12)
    beta = 1 - (VP.alpha(grid[:-1]) / VP.alpha(grid[1:])) ** 2
    np.testing.assert_allclose(large.noise_std**2, beta, rtol=1e-9)
    zero = solve.ddpm(VP, js.noise.time_grid(VP, 5, final="zero"), variance=np.linspace(0, 1, 5))
    assert zero.noise_std[-1] == 0
    with pytest.raises(ValueError, match="variance must be one of"):
        solve.ddpm(VP, grid, variance="huge")
    with pytest.raises(ValueError, match="one per step"):
        solve.ddpm(VP, grid, variance=np.zeros(3))


def test_equal_steps_are_those_of_adams_and_bashforth():
    for points, total in enumerate(EQUAL_STEPS, start=1):
        nodes, powers = -np.arange(points), np.arange(points)
        weights = np.linalg.solve(np.vander(nodes, increasing=True).T.astype(float), 1 / (powers + 1))  # of int_0^1
        np.testing.assert_allclose(np.abs(weights).sum(), total, rtol=5e-3)


def test_a_corrector_without_a_usable_node_repeats_the_step():
    flow = js.noise.Flow()  # without signal at the start: the first prediction is no point of a polynomial in lam
    for plan in (
        js.solve.unipc(flow, js.noise.time_grid(flow, 4)),
        js.solve.sa_solver(flow, js.noise.time_grid(flow, 4)),
    ):
        assert plan.corrector_newest[0] == 0
        assert plan.corrector_state[0] == plan.state_coef[0]
        np.testing.assert_array_equal(plan.corrector_weights[0], plan.weights[0])
    # Nor is it one at the second step, which is DDIM's.
    second, first = (make(flow, js.noise.time_grid(flow, 4)).weights[1] for make in (js.solve.dpmpp, js.solve.ddim))
    np.testing.assert_allclose(second, [*first, 0, 0], rtol=1e-12)


def test_a_corrector_has_one_point_more_than_its_predictor():
    plan = solve.unipc(VP, UNIFORM, order=3, lower_order_final=True, corrector_last=True)
    points = np.count_nonzero(plan.weights, axis=1)[:-1]
    assert points.tolist() == [1, 2, 3, 3, 3, 3, 3, 3, 2, 1]
    # Of its points one is the new prediction, which the next row adds.
    np.testing.assert_array_equal(np.count_nonzero(plan.corrector_weights, axis=1)[:-1], points)
    assert np.all(plan.corrector_newest[1:] != 0)


def test_auto_takes_the_last_step_to_zero_noise_first_order_in_rho_too():
    grid = js.noise.time_grid(VP, 6, final="zero")
    auto, never = (
        solve.deis(VP, grid, order=3, variable="rho", lower_order_final=lower).weights for lower in ("auto", False)
    )
    assert np.count_nonzero(auto, axis=1)[-2:].tolist() == [3, 1]
    assert np.count_nonzero(never, axis=1)[-2:].tolist() == [3, 3]
    # dx = eps drho at alpha = 1: the first-order step to 0 takes all of rho.
    np.testing.assert_allclose(
        np.sum(auto[-1]), -VP.sigma(grid[-2]) / VP.alpha(grid[-2]) * VP.alpha(grid[-1]), rtol=1e-12
    )
