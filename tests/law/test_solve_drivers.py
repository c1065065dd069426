"""Values of what runs plans, turns them around or makes them otherwise than from a schedule and a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_same_bits, denoiser, interpret
from solver_cases import KEY, MODELS, START, VP, columns, grid_of, plans

import jsamp as js

S = js.solve


def test_steps_by_hand():
    """init, step and output by hand give the bits of js.sample; a kernel, a program of its own, its numbers."""
    for label in ("sa_solver", "unipc(3)", "nesterov", "heun"):
        plan = plans()[label]
        wanted = js.sample(KEY, MODELS[0], START, plan).x

        def by_hand(key, model, x, plan):
            def body(state, row):
                return S.step(key, model, state, row), None

            return S.output(jax.lax.scan(body, S.init(plan, x), plan)[0])

        assert_same_bits(jax.jit(by_hand)(KEY, MODELS[0], START, plan), wanted)

        def as_kernel(key, model, x, plan):
            kernel = S.kernel(model, plan)
            assert isinstance(kernel, S.PlanKernel)
            state, info = jax.lax.scan(lambda s, _: kernel.step(key, s), kernel.init(x), length=plan.nfe + 2)
            return state.position, info

        with jax.enable_x64(True):
            start = np.asarray(START, np.float64)
            out, info = jax.jit(as_kernel)(KEY, MODELS[0], start, plan)
            np.testing.assert_allclose(out, js.sample(KEY, MODELS[0], start, plan).x, rtol=1e-12)
        assert info.nfe.tolist() == [1] * plan.nfe + [0] * 2
        assert info.aux[1].tolist() == [False] * plan.nfe + [True] * 2
        np.testing.assert_allclose(info.aux[0][: plan.nfe], plan.t_next, rtol=1e-6)


def test_rows_by_hand():
    """A solver written by hand is the solver of the room."""

    def euler(schedule, grid, order):
        points = [(t, schedule.alpha(t), schedule.sigma(t)) for t in grid]
        rows = []
        for i in range(len(points) - 1):
            at, to = points[i], points[i + 1]
            gain = to[1] * (to[2] / to[1] - at[2] / at[1])
            adams = S._index.adams(min(order, i + 1))
            weights = {i - k: gain * c for k, c in enumerate(adams)}
            rows.append(S.Row(at, to, to[1] / at[1], weights))
        return S.assemble(rows, kind="eps")

    grid = grid_of(VP, 6)
    for order in (1, 3):
        made, wanted = euler(VP, grid, order), S.plms(VP, grid, order=order)
        for column in ("state_coef", "weights", "slot", "t", "sigma_next"):
            np.testing.assert_array_equal(getattr(made, column), getattr(wanted, column))
    traced = jax.jit(lambda g: euler(VP, g, 3).weights)(jnp.asarray(grid, jnp.float32))
    np.testing.assert_allclose(traced, S.plms(VP, grid, order=3).weights, rtol=1e-4)


def test_what_a_run_reports():
    result = js.sample(None, MODELS[0], START, plans()["ddim"])
    assert isinstance(result, js.Result)
    assert isinstance(result.info, S.SampleInfo)
    assert bool(result.info.ok)
    assert result.info.nfe == 5
    assert result.info.kept is None
    assert result.info.report is None
    broken = js.Denoiser(lambda x, t: jnp.where(t < 0.5, jnp.nan, x), VP)
    assert not bool(js.sample(None, broken, START, plans()["ddim"]).info.ok)
    flow = S.ddim(js.noise.Flow(), grid_of(js.noise.Flow(), 4))
    for predicts in ("eps", "score"):
        guided = js.denoise.Threshold(denoiser(js.noise.Flow(), predicts))
        with pytest.raises(ValueError, match="alpha = 0"):
            js.sample(None, guided, START, flow)
    for predicts in ("x0", "v", "velocity"):
        assert np.all(np.isfinite(js.sample(None, denoiser(js.noise.Flow(), predicts), START, flow).x))


def test_inversion_of_every_plan():
    """Every deterministic plan that falls turns around to finite rows that go up through its nodes."""
    for label, plan in plans(30).items():
        if plan.stochastic:
            continue
        up = S.invert(plan)
        assert np.all(np.diff(up.t) >= 0) and up.t[0] == plan.t_next[-1], label
        np.testing.assert_allclose(up.sigma_next[-1], plan.sigma[0], rtol=1e-12)
        noise = interpret(up, _predicts, START.astype(float), None)
        back = interpret(plan, _predicts, noise, None)
        assert np.abs(back - START).max() < 0.1, label


def _predicts(x, t):
    a, s = VP.alpha(np.float64(t)), VP.sigma(np.float64(t))
    x0 = 0.3 + a * 0.49 * (x - 0.3 * a) / (a**2 * 0.49 + s**2)
    return x0, (x - a * x0) / s


@pytest.mark.parametrize("name", ["interpolant_ode", "interpolant_sde"])
def test_plans_along_an_interpolant(name):
    """A table of finite rows that starts and ends where the grid does; numpy reads it as the runner does."""
    path = js.noise.Interpolant("linear")
    plan = getattr(S, name)(path, np.linspace(0.1, 1, 5))
    assert plan.t[0] == 0.1 and plan.t_next[-1] == 1 and all(np.all(np.isfinite(c)) for c in columns(plan).values())
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.3, 0.2, 0.1]], stds=[0.7])
    bridge = js.denoise.BridgeMixture(path, law, law)
    alone = jax.jit(lambda d, x: js.sample(KEY, d, x, plan).x)(bridge, START)
    noise = lambda r, stream: np.asarray(
        jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, r), stream), (3,))
    )
    wanted = interpret(plan, lambda x, t: bridge(jnp.asarray(x, jnp.float32), t)[:2], START, noise)
    np.testing.assert_allclose(alone, wanted, rtol=1e-4, atol=1e-5)


def test_levels_of_a_denoising_gan():
    plan = S.ddgan(VP, 4)
    np.testing.assert_allclose(plan.t, 1e-3 + 0.999 * np.array([4, 3, 2, 1]) / 4)
    assert plan.t_next[-1] == 0 and plan.noise_std[-1] == 0 and S.ddgan(VP, 1).nfe == 1


def test_bits_of_an_estimate():
    bits = S.bits_per_dimension(js.estimate.Estimate(-2.0, 0.1, 5.0), 4, bin_width=0.5)
    np.testing.assert_allclose(bits[:2], [0.5 / np.log(2) + 1, 0.025 / np.log(2)])
    assert bits.ess == 5.0


def test_a_configuration_gives_one_row_for_each_evaluation():
    read = S.from_diffusers({"_class_name": "DPMSolverMultistepScheduler"}, 4)
    assert type(read) is S.Pretrained
    assert read.plan.nfe == len(read.timesteps) == len(read.grid) - 1
    assert len(jax.tree.leaves(read.denoiser(jnp.zeros_like))) == len(jax.tree.leaves((read.schedule, read.time_map)))
