"""RePaint, ILVR, SDEdit, projection, DDRM: exact recursions and identities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian

import jsamp as js

VP = js.noise.VP()
LINEAR = js.noise.Discrete.ddpm_linear()
COV = np.array([[1.0, 0.9], [0.9, 1.0]])
LAW = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.0, 0.0]], covs=[COV])


def repaint_law(plan, cov, known):
    """Mean and variance of the unseen coordinate: the table row by row, the first coordinate pasted before each."""
    mean, spread = np.zeros(2), np.eye(2)
    for r in range(plan.nfe):
        a, s = float(plan.alpha[r]), float(plan.sigma[r])
        if r:
            mean = np.array([a * known, mean[1]])
            spread = np.diag([s**2, spread[1, 1]])
        gain = a * cov @ np.linalg.inv(a**2 * cov + s**2 * np.eye(2))
        step = plan.state_coef[r] * np.eye(2) + plan.weights[r, 0] * gain
        mean, spread = step @ mean, step @ spread @ step.T + plan.noise_std[r] ** 2 * np.eye(2)
    return mean[1], spread[1, 1]


# The exact posterior has (.9, .19): the mean converges, the variance settles a tenth below.
REPAINT = {1: (0.622, 0.300), 2: (0.761, 0.229), 5: (0.851, 0.189), 10: (0.875, 0.176), 20: (0.886, 0.171)}


@pytest.mark.parametrize("num", REPAINT)
def test_repaint_table(num):
    """250 of 1000 steps of the linear DDPM schedule, jumps of 10: the published counts and the known moments."""
    plan = js.solve.jumps(js.solve.ddpm(LINEAR, js.noise.index_grid(LINEAR, 250, "leading")), length=10, repeats=num)
    assert plan.nfe == 250 + (num - 1) * 240
    got = repaint_law(plan, COV, 1.0)
    np.testing.assert_allclose(got, REPAINT[num], atol=7e-4)
    np.testing.assert_allclose(
        got, repaint_by_the_paper(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[::4], num), rtol=1e-9
    )


def repaint_by_the_paper(alphas, num, length=10):
    """The moments by DDPM's posterior and its betas, step by step through the published times: no plan."""
    mean, spread, pasted = np.zeros(2), np.eye(2), False
    times = repaint_times(len(alphas), length, num)
    for t, to in itertools.pairwise(times):
        before, after = alphas[t], alphas[to] if to >= 0 else 1.0
        if to > t:
            mean, spread = np.sqrt(after / before) * mean, after / before * spread + (1 - after / before) * np.eye(2)
            continue
        if pasted:
            mean, spread = np.array([np.sqrt(before), mean[1]]), np.diag([1 - before, spread[1, 1]])
        pasted, beta = True, 1 - before / after
        predict = np.sqrt(before) * COV @ np.linalg.inv(before * COV + (1 - before) * np.eye(2))
        step = np.sqrt(1 - beta) * (1 - after) * np.eye(2) + np.sqrt(after) * beta * predict
        step = step / (1 - before)
        mean = step @ mean
        spread = step @ spread @ step.T + beta * (1 - after) / (1 - before) * np.eye(2)
    return mean[1], spread[1, 1]


def repaint_times(n, length, num):
    """The list of noise indices of the published schedule, by its own loop."""
    left = dict.fromkeys(range(0, n - length, length), num - 1)
    t, times = n, []
    while t >= 1:
        t -= 1
        times.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            times += range(t + 1, t + length + 1)
            t += length
    return [*times, -1]


@pytest.mark.parametrize(("n", "length", "num"), [(20, 3, 2), (20, 5, 4), (12, 1, 3), (7, 6, 2), (250, 10, 10)])
def test_jumps_follow_the_published_schedule(n, length, num):
    plan = js.solve.ddpm(VP, js.noise.time_grid(VP, n, final="zero"))
    jumped = js.solve.jumps(plan, length=length, repeats=num)
    times = np.array(repaint_times(n, length, num))
    downs = times[:-1][np.diff(times) < 0]
    np.testing.assert_array_equal(jumped.t, plan.t[n - 1 - downs])
    np.testing.assert_array_equal(jumped.t_next[:-1], jumped.t[1:])
    # A step with its jump is the row, then the noising from where it lands to where the next row starts.
    rows = n - 1 - downs
    for r, next_row in zip(range(jumped.nfe), rows[1:], strict=False):
        row, a = rows[r], plan.alpha[next_row]
        lift = a / plan.alpha_next[row]
        extra = plan.sigma[next_row] ** 2 - (lift * plan.sigma_next[row]) ** 2
        wanted = lift * plan.state_coef[row], lift * plan.weights[row, 0], (lift * plan.noise_std[row]) ** 2 + extra
        np.testing.assert_allclose(
            (jumped.state_coef[r], jumped.weights[r, 0], jumped.noise_std[r] ** 2), wanted, rtol=1e-12, atol=1e-15
        )


def test_jumps_keep_the_law_of_the_noised_data_on_any_plan():
    """On exact predictions a fine plan with jumps still draws the data: any solver, with and without history."""
    law = js.denoise.GaussianMixture(VP, weights=[0.3, 0.7], means=[[-1.0], [0.8]], stds=[0.3, 0.5])
    grid, fine = (js.noise.logsnr_grid(VP, n, final="zero") for n in (40, 200))
    for plan in (js.solve.ddim(VP, fine), js.solve.dpmpp(VP, grid), js.solve.deis(VP, grid)):
        jumped = js.solve.jumps(plan, length=8, repeats=2)
        assert jumped.stochastic
        x = js.sample(jax.random.key(0), law, VP.prior(jax.random.key(1), (20000, 1)), jumped).x
        assert abs(float(x.mean()) - 0.26) < 4.5 * 0.95 / np.sqrt(20000) + 0.01
        assert abs(float((x**2).mean()) - 0.3 * 1.09 - 0.7 * 0.89) < 0.05
    assert js.solve.jumps(plan, repeats=1) is plan


def test_repaint_runs_as_the_recursion_says():
    """2000 runs of the steered sampler against the exact moments."""
    plan = js.solve.jumps(js.solve.ddpm(VP, js.noise.time_grid(VP, 30, final="zero")), length=5, repeats=3)
    steer = js.steer.Repaint(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]))
    draw = jax.jit(jax.vmap(lambda k: js.sample(k, LAW, jax.random.normal(jax.random.fold_in(k, 9), (2,)), plan,
                                                steer=steer).x))  # fmt: skip
    x = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)), np.float64)
    mean, var = repaint_law(plan, COV, 1.0)
    assert abs(x[:, 1].mean() - mean) < 4.5 * np.sqrt(var / 2000)
    assert abs(x[:, 1].var() - var) < 4.5 * var * np.sqrt(2 / 2000)
    # The result is not pasted: its known part is only near y.
    assert 0 < x[:, 0].std() < 0.3
    soft = js.steer.Repaint(jnp.array([0.5, 0.0]), jnp.array([1.0, 0.0]), soft=True)
    assert js.sample(jax.random.key(0), LAW, jnp.zeros(2), plan, steer=soft).info.ok


@pytest.mark.parametrize("build", [js.solve.dpmpp, js.solve.deis, js.solve.plms])
def test_pasting_makes_plans_with_history_first_order(build):
    """Every row after a paste starts without a past: the multistep plan draws what its first-order rows draw."""
    grid = js.noise.time_grid(VP, 6)
    plan = build(VP, grid)
    first = js.solve.ddim(VP, grid)
    steer = js.steer.Repaint(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]))
    start = jnp.array([0.3, -1.1])
    run = lambda plan, steer: js.sample(jax.random.key(0), LAW, start, plan, steer=steer).x
    np.testing.assert_allclose(run(plan, steer), run(first, steer), rtol=2e-5, atol=1e-6)
    assert not np.allclose(run(plan, None), run(first, None), rtol=1e-3)


def test_repaint_takes_what_stands_outside_its_mask():
    """NaN where nothing is known is nothing; a mask of pixels for channels is explained."""
    plan = js.solve.ddpm(VP, js.noise.time_grid(VP, 4))
    run = lambda y, mask: js.sample(jax.random.key(0), LAW, jnp.ones(2), plan, steer=js.steer.Repaint(mask, y)).x
    mask = np.array([1.0, 0.0])
    np.testing.assert_array_equal(run(np.array([1.0, np.nan]), mask), run(np.array([1.0, 0.0]), mask))
    with pytest.raises(ValueError, match=r"Repaint: y must be finite, got nan at \[0\]"):
        js.steer.Repaint(mask, np.array([np.nan, 1.0]))
    image = np.ones((4, 4, 3), np.float32)
    net = js.Denoiser(lambda x, t: x, VP)
    for wrong in (np.ones((4, 4, 1)), np.ones((4, 4))):
        with pytest.raises(ValueError, match=r"Repaint: mask must have the trailing shape.*\[H, W, C\]"):
            js.sample(jax.random.key(0), net, image, plan, steer=js.steer.Repaint(wrong, wrong))


def test_ilvr_ends_with_the_low_frequencies_of_the_reference():
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[np.zeros(8)], stds=[1.0])
    plan = js.solve.ddpm(VP, js.noise.time_grid(VP, 12, final="zero"))
    pool, reference = js.denoise.LinearOp.pool((8,), (4,)), jnp.arange(8.0)
    for low in (pool, lambda x: pool.inverse(pool(x), x)):
        x = js.sample(jax.random.key(0), law, jnp.zeros(8), plan, steer=js.steer.ILVR(reference, low)).x
        np.testing.assert_allclose(pool(x), pool(reference), atol=1e-5)
    # Rows that land below `until` are free.
    base = js.sample(jax.random.key(0), law, jnp.zeros(8), plan, steer=js.steer.Hooks()).x
    free = js.sample(jax.random.key(0), law, jnp.zeros(8), plan, steer=js.steer.ILVR(reference, pool, until=2.0)).x
    np.testing.assert_allclose(free, base, atol=1e-5)
    half = js.sample(jax.random.key(0), law, jnp.zeros(8), plan, steer=js.steer.ILVR(reference, pool, until=0.5)).x
    assert not np.allclose(pool(half), pool(reference), atol=1e-2)


def test_ilvr_moments():
    """One low frequency of N(0, 1) data is replaced at every level: exact mean and variance of the other stay."""
    plan = js.solve.ddpm(VP, js.noise.time_grid(VP, 12, final="zero"))
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[np.zeros(2)], stds=[1.0])
    steer = js.steer.ILVR(jnp.array([2.0, 2.0]), js.denoise.LinearOp.pool((2,), (2,)))
    draw = jax.jit(jax.vmap(lambda k: js.sample(k, law, jax.random.normal(jax.random.fold_in(k, 9), (2,)), plan,
                                                steer=steer).x))  # fmt: skip
    x = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)), np.float64)
    high = (x[:, 0] - x[:, 1]) / np.sqrt(2)
    var, gain = 1.0, Gaussian([0.0], [1.0])
    for r in range(plan.nfe):
        pull = float(gain(np.ones((1, 1)), float(plan.alpha[r]), float(plan.sigma[r]))[0][0, 0])
        var = (plan.state_coef[r] + plan.weights[r, 0] * pull) ** 2 * var + plan.noise_std[r] ** 2
    assert abs(high.mean()) < 4.5 * np.sqrt(var / 2000)
    assert abs(high.var() - var) < 4.5 * var * np.sqrt(2 / 2000)


def test_projection():
    matrix = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]])
    op, y = js.denoise.LinearOp.dense(matrix), jnp.array([3.0, -1.0])
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[np.zeros(3)], stds=[1.0])
    plan = js.solve.ddim(VP, js.noise.time_grid(VP, 6))
    base = js.sample(None, law, jnp.ones(3), plan).x
    x = js.sample(None, law, jnp.ones(3), plan, steer=js.steer.Project(op, y)).x
    wanted = base + np.linalg.pinv(matrix) @ (np.asarray(y) - matrix @ np.asarray(base))
    np.testing.assert_allclose(x, wanted, atol=1e-5)
    np.testing.assert_allclose(op(x), y, atol=1e-5)
    bare = js.steer.Project(lambda x: matrix.astype(np.float32) @ x, y)
    np.testing.assert_allclose(js.sample(None, law, jnp.ones(3), plan, steer=bare).x, wanted, atol=1e-4)


# ---------------------------------------------------------------- SDEdit


def test_sdedit_is_exact_on_gaussian_data(x64):
    """Mean and variance over the noise of the start, read off the affine output at two draws' difference."""
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.5]], stds=[0.7])
    plan = js.solve.dpmpp(VP, js.noise.logsnr_grid(VP, 400))
    for strength in (0.3, 0.7, 1.0):
        first = 400 - round(400 * strength)
        a, s = float(plan.alpha[first]), float(plan.sigma[first])
        flow = Gaussian([0.5], [0.49]).flow
        end = float(plan.alpha_next[-1]), float(plan.sigma_next[-1])
        mean = float(flow(np.array([a * 2.0]), (a, s), end)[0])
        slope = float(flow(np.array([a * 2.0 + s]), (a, s), end)[0]) - mean
        x = jax.vmap(lambda k: js.solve.sdedit(k, law, jnp.full(1, 2.0), plan, strength=strength).x)(
            jax.random.split(jax.random.key(0), 4000)
        )
        assert abs(float(x.mean()) - mean) < 4.5 * slope / np.sqrt(4000) + 1e-3
        assert abs(float(x.std()) - slope) < 4.5 * slope / np.sqrt(8000) + 1e-3


def test_sdedit_ends():
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.5]], stds=[0.7])
    plan = js.solve.heun(VP, js.noise.logsnr_grid(VP, 10))
    x = jnp.full(1, 2.0)
    result = js.solve.sdedit(jax.random.key(0), law, x, plan, strength=0.0)
    np.testing.assert_array_equal(result.x, x)
    assert result.info.nfe == 0
    assert js.solve.sdedit(jax.random.key(0), law, x, plan, strength=1.0).info.nfe == plan.nfe
    # A cut never falls inside a step.
    assert js.solve.sdedit(jax.random.key(0), law, x, plan, strength=0.51).info.nfe % 2 == 0
    for wrong in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="strength"):
            js.solve.sdedit(jax.random.key(0), law, x, plan, strength=wrong)
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda s: js.solve.sdedit(jax.random.key(0), law, x, plan, strength=s).x)(0.5)


# ---------------------------------------------------------------- DDRM


def ddrm_law(plan, s, noise, y, eta, eta_b):
    """Mean and variance of one direction of singular value s, for standard normal data: the update row by row."""
    level = plan.sigma / plan.alpha
    mean, var = (y / s, level[0] ** 2 - (noise / s) ** 2) if s else (0.0, level[0] ** 2)
    for v, u in zip(level, plan.sigma_next / plan.alpha_next, strict=True):
        d = 1 / (1 + v**2)  # the prediction is d c
        if not s:
            gain, push, extra = d + np.sqrt(1 - eta**2) * u / v * (1 - d), 0.0, (eta * u) ** 2
        elif u * s < noise:
            pull = np.sqrt(1 - eta**2) * u * s / noise
            gain, push, extra = d * (1 - pull), pull * y / s, (eta * u) ** 2
        else:
            gain, push, extra = (1 - eta_b) * d, eta_b * y / s, u**2 - (eta_b * noise / s) ** 2
        mean, var = gain * mean + push, gain**2 * var + extra
    return mean, var


@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.5, 0.7), (1.0, 1.0)])
def test_ddrm_follows_its_recursion(eta, eta_b):
    """Three directions at once: seen, dimly seen, unseen; in a rotated basis; 4000 runs."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    values = np.array([2.0, 0.3, 0.0])
    op = js.denoise.LinearOp.dense(values[:2, None] * rotation.T[:2])
    left = np.asarray(op.svd.ut(jnp.eye(2)[0])), np.asarray(op.svd.ut(jnp.eye(2)[1]))
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[np.zeros(3)], stds=[1.0])
    plan = js.solve.ddim(VP, js.noise.logsnr_grid(VP, 20, final="zero"))
    y = jnp.array([1.6, -0.2])
    steer = js.steer.DDRM(op, y, noise=0.5, eta=eta, eta_b=eta_b)

    def draw(key):
        first, second = jax.random.split(key)
        return op.svd.vt(js.sample(second, law, steer.start(first, plan, jnp.zeros(3)), plan, steer=steer).x)

    c = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000)), np.float64)
    seen = np.asarray(left[0]) * 1.6 + np.asarray(left[1]) * -0.2
    for k, s in enumerate(np.asarray(op.svd.values)):
        mean, var = ddrm_law(plan, s, 0.5, seen[k], eta, eta_b)
        assert abs(c[:, k].mean() - mean) < 4.5 * np.sqrt(var / 4000) + 1e-4
        assert abs(c[:, k].var() - var) < 4.5 * var * np.sqrt(2 / 4000) + 1e-4


def test_ddrm_is_no_posterior_sampler():
    """N(0, 1), y = 1, noise 0.5: the posterior is (0.8, 0.2). Known moments of 200 levels from 80 to 0.002."""
    ve = js.noise.VE()
    plan = js.solve.ddim(ve, js.noise.logsnr_grid(ve, 200, final="zero"))
    for eta, wanted in ((0.85, (0.957, 0.0088)), (0.5, (0.982, 0.0012)), (1.0, (0.091, 0.481))):
        np.testing.assert_allclose(ddrm_law(plan, 1.0, 0.5, 1.0, eta, 1.0), wanted, atol=1e-3)


def test_ddrm_meets_a_noiseless_measurement():
    matrix = np.random.default_rng(1).normal(size=(2, 4))
    op, y = js.denoise.LinearOp.dense(matrix), jnp.array([0.5, -1.0])
    law = js.denoise.GaussianMixture(VP, weights=[0.5, 0.5], means=[np.ones(4), -np.ones(4)], stds=[0.5, 0.5])
    plan = js.solve.ddim(VP, js.noise.logsnr_grid(VP, 20, final="zero"))
    steer = js.steer.DDRM(op, y)
    x = js.sample(jax.random.key(1), law, steer.start(jax.random.key(0), plan, jnp.zeros(4)), plan, steer=steer).x
    np.testing.assert_allclose(op(x), y, atol=1e-4)


@pytest.mark.parametrize("kind", [bool, int, np.uint8])
def test_a_mask_may_hold_booleans_or_integers(kind):
    plan, y, known = js.solve.ddpm(VP, js.noise.time_grid(VP, 5)), jnp.array([0.5, 0.0]), np.array([1.0, 0.0])
    for steer in (js.steer.Repaint, lambda mask, y: js.steer.DDRM(js.denoise.LinearOp.mask(mask), y)):
        runs = [
            js.sample(jax.random.key(0), LAW, jnp.ones(2), plan, steer=steer(m, y)).x
            for m in (known, known.astype(kind))
        ]
        np.testing.assert_array_equal(*runs)


def test_refusals():
    plan, x = js.solve.ddpm(VP, js.noise.time_grid(VP, 5)), jnp.zeros(2)
    run = lambda steer, plan=plan: js.sample(jax.random.key(0), LAW, x, plan, steer=steer)
    with pytest.raises(ValueError, match="0 and 1 only"):
        js.steer.Repaint(jnp.array([0.5, 1.0]), x)
    with pytest.raises(ValueError, match="mask must have the trailing shape"):
        run(js.steer.Repaint(jnp.ones(3), x))
    with pytest.raises(ValueError, match="idempotent"):
        js.steer.ILVR(jnp.ones(2), lambda x: 0.5 * x)
    pool = js.denoise.LinearOp.pool((2,), (2,))
    mask = js.denoise.LinearOp.mask(jnp.array([1.0, 0.0]))
    for make in (js.steer.DDRM, js.steer.Project):
        with pytest.raises(TypeError, match=rf"{make.__name__}: y must have the shape .*\(2,\); got \(3,\)"):
            run(make(mask, jnp.ones(3)))
    with pytest.raises(ValueError, match=r"LinearOp\.mask: mask must have the trailing shape"):
        run(js.steer.Project(js.denoise.LinearOp.mask(jnp.ones(3)), jnp.ones(3)))
    for steer in (js.steer.Repaint(jnp.ones(2), x), js.steer.ILVR(x, pool), js.steer.DDRM(mask, x)):
        with pytest.raises(ValueError, match="stages or a corrector"):
            run(steer, js.solve.heun(VP, js.noise.time_grid(VP, 4)))
    with pytest.raises(TypeError, match="svd"):
        js.steer.DDRM(js.denoise.LinearOp(lambda x: x), x)
    for options in ({"noise": -1.0}, {"eta": 1.5}, {"eta_b": -0.1}):
        with pytest.raises(ValueError, match=f"DDRM: {next(iter(options))}"):
            js.steer.DDRM(mask, x, **options)
    weak = js.steer.DDRM(js.denoise.LinearOp.dense(np.diag([1.0, 1e-3])), x, noise=1.0)
    with pytest.raises(ValueError, match="variance would be negative"):
        weak.start(jax.random.key(0), plan, x)
    with pytest.raises(TypeError, match="plan must be a Plan"):
        js.solve.jumps(3)
    for wrong in ({"length": 5}, {"length": 0}, {"repeats": 0}):
        with pytest.raises(ValueError, match="jumps"):
            js.solve.jumps(plan, **wrong)
    with pytest.raises(ValueError, match="one row per step"):
        js.solve.jumps(js.solve.heun(VP, js.noise.time_grid(VP, 4)), length=2)
