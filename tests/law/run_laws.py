"""Laws of what runs plans, and of continuous and configured solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from laws import Traces, assert_same_bits, denoiser, interpret
from solver_cases import KEY, MODELS, START, VP, columns, grid_of, plans

import jsamp as js

S = js.solve


def law_steps(name):
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
            state, info = jax.lax.scan(lambda s, _: kernel.step(key, s), kernel.init(x), length=plan.nfe + 2)
            return state.position, info

        with jax.enable_x64(True):
            start = np.asarray(START, np.float64)
            out, info = jax.jit(as_kernel)(KEY, MODELS[0], start, plan)
            np.testing.assert_allclose(out, js.sample(KEY, MODELS[0], start, plan).x, rtol=1e-12)
        assert info.nfe.tolist() == [1] * plan.nfe + [0] * 2
        assert info.aux[1].tolist() == [False] * plan.nfe + [True] * 2
        np.testing.assert_allclose(info.aux[0][: plan.nfe], plan.t_next, rtol=1e-6)


def law_kernel(name):
    kernel = S.kernel(MODELS[0], plans()["ddim"])
    assert isinstance(kernel, S.PlanKernel)
    again = jax.tree.unflatten(jax.tree.structure(kernel), jax.tree.leaves(kernel))
    assert_same_bits(jax.tree.leaves(again), jax.tree.leaves(kernel))
    with pytest.raises(TypeError, match="callable"):
        S.kernel(3, plans()["ddim"])
    with pytest.raises(TypeError, match="kernel: plan must be a Plan"):
        S.kernel(MODELS[0], 3)


def law_rows(name):
    """A solver written by hand, without a private name, is the solver of the room; its mistakes are refused."""

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
    at, to = (1.0, 0.5, 0.5), (0.5, 0.7, 0.3)
    row = S.Row(at, to, 1.0, {0: 0.1})
    for rows, kind, error, match in [
        ([row], "noise", ValueError, "kind must be one of"),
        ([], "x0", ValueError, "at least one row"),
        ([row, 3], "x0", TypeError, r"js\.solve\.Row, got int at row 1"),
        ([row._replace(weights={1: 0.2})], "x0", ValueError, "weights of row 0 use the prediction of row 1"),
        ([row, row._replace(corrector_weights={-1: 1.0})], "x0", ValueError, "corrector_weights of row 1"),
        ([row._replace(take=0)], "x0", ValueError, "row 0 must start from x"),
        ([row._replace(take=7)], "x0", ValueError, "take of row 0"),
        ([row._replace(at=(1.0, 0.5))], "x0", ValueError, r"at of row 0 must be \(t, alpha, sigma\)"),
        ([row._replace(state_coef=np.nan)], "x0", ValueError, "state_coef must be finite"),
    ]:
        with pytest.raises(error, match=match):
            S.assemble(rows, kind=kind)


def law_sample(name):
    result = js.sample(None, MODELS[0], START, plans()["ddim"])
    assert isinstance(result, js.Result)
    assert isinstance(result.info, S.SampleInfo)
    assert bool(result.info.ok)
    assert result.info.nfe == 5
    assert result.info.kept is None
    assert result.info.report is None
    broken = js.Denoiser(lambda x, t: jnp.where(t < 0.5, jnp.nan, x), VP)
    assert not bool(js.sample(None, broken, START, plans()["ddim"]).info.ok)
    for arguments, error, match in [
        ((None, MODELS[0], START, "ddim"), TypeError, "Plan"),
        ((None, "net", START, plans()["ddim"]), TypeError, "callable"),
        ((None, MODELS[0], np.arange(3), plans()["ddim"]), TypeError, "floating"),
        ((None, MODELS[0], {}, plans()["ddim"]), ValueError, "empty"),
    ]:
        with pytest.raises(error, match=match):
            js.sample(*arguments)
    flow = S.ddim(js.noise.Flow(), grid_of(js.noise.Flow(), 4))
    for predicts in ("eps", "score"):
        guided = js.denoise.Threshold(denoiser(js.noise.Flow(), predicts))
        with pytest.raises(ValueError, match="alpha = 0"):
            js.sample(None, guided, START, flow)
    for predicts in ("x0", "v", "velocity"):
        assert np.all(np.isfinite(js.sample(None, denoiser(js.noise.Flow(), predicts), START, flow).x))


def law_continuous(name):
    """jit, vmap and shard_map agree, dtypes are kept, new weights do not retrace."""
    plan = S.dpmpp(VP, grid_of(VP, 5))
    ways = {
        "likelihood": lambda key, model, x: S.likelihood(key, model, x, plan, probes=3).value,
        "adaptive": lambda key, model, x: S.adaptive(key, model, x, VP, rtol=0.05).x,
    }
    traces, call = Traces(), ways[name]
    model = lambda gain: js.Denoiser(traces.bind({"gain": np.float32(gain), "bend": np.float32(0.4)}), VP)
    jitted = jax.jit(call)
    first = jitted(KEY, model(0.7), START)
    count = traces.count
    jitted(jax.random.key(9), model(0.6), -START)
    assert traces.count == count
    np.testing.assert_allclose(first, call(KEY, model(0.7), START), rtol=2e-5)
    half = jax.eval_shape(call, KEY, model(0.7), START.astype(jnp.bfloat16)).dtype
    assert half == (jnp.bfloat16 if name == "adaptive" else jnp.float32)
    keys, starts = jax.random.split(KEY, 8), np.linspace(0.5, 1.5, 8, dtype=np.float32)[:, None] * START
    local = jax.vmap(call, in_axes=(0, None, 0))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P("data"))
    together = jax.jit(split)(keys, model(0.7), starts)
    np.testing.assert_allclose(together[2], jitted(keys[2], model(0.7), starts[2]), rtol=2e-5)


def law_inversion(name):
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


def law_interpolant(name):
    """A table of finite rows that starts and ends where the grid does; jit, vmap and numpy read it alike."""
    path = js.noise.Interpolant("linear")
    plan = getattr(S, name)(path, np.linspace(0.1, 1, 5))
    assert plan.t[0] == 0.1 and plan.t_next[-1] == 1 and all(np.all(np.isfinite(c)) for c in columns(plan).values())
    law = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.3, 0.2, 0.1]], stds=[0.7])
    bridge = js.denoise.BridgeMixture(path, law, law)
    run = jax.jit(lambda d, x: js.sample(KEY, d, x, plan).x)
    alone = run(bridge, START)
    np.testing.assert_allclose(alone, js.sample(KEY, bridge, START, plan).x, rtol=2e-5)
    np.testing.assert_allclose(jax.vmap(run, (None, 0))(bridge, START[None])[0], alone, rtol=2e-5)
    assert run(bridge, START.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    noise = lambda r, stream: np.asarray(
        jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, r), stream), (3,))
    )
    wanted = interpret(plan, lambda x, t: bridge(jnp.asarray(x, jnp.float32), t)[:2], START, noise)
    np.testing.assert_allclose(alone, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="interpolant must have"):
        getattr(S, name)(VP, np.linspace(0, 1, 3))


def law_ddgan(name):
    plan = S.ddgan(VP, 4)
    np.testing.assert_allclose(plan.t, 1e-3 + 0.999 * np.array([4, 3, 2, 1]) / 4)
    assert plan.t_next[-1] == 0 and plan.noise_std[-1] == 0 and S.ddgan(VP, 1).nfe == 1
    for wrong, match in (
        ({"num": 0}, "num must be >= 1"),
        ({"num": 2, "t_min": 2.0}, "t_min is 2, outside the schedule"),
    ):
        with pytest.raises(ValueError, match=match):
            S.ddgan(VP, **wrong)


def law_bits(name):
    estimate = js.estimate.Estimate(-2.0, 0.1, 5.0)
    bits = S.bits_per_dimension(estimate, 4, bin_width=0.5)
    np.testing.assert_allclose(bits[:2], [0.5 / np.log(2) + 1, 0.025 / np.log(2)])
    assert bits.ess == 5.0
    with pytest.raises(TypeError, match="a log-density or an Estimate, must be a number"):
        S.bits_per_dimension("no", 4)


def law_configuration(name):
    """A configuration gives one row per evaluation, on a schedule, with a plan that runs under jit as an argument."""
    read = S.from_diffusers({"_class_name": "DPMSolverMultistepScheduler"}, 4)
    assert type(read) is S.Pretrained
    assert read.plan.nfe == len(read.timesteps) == len(read.grid) - 1
    assert len(jax.tree.leaves(read.denoiser(network_of_zeros))) == len(jax.tree.leaves((read.schedule, read.time_map)))
    x = jax.eval_shape(
        lambda plan, x: js.sample(None, read.denoiser(network_of_zeros), x, plan).x, read.plan, jnp.ones(3)
    )
    assert x.shape == (3,)
    with pytest.raises(ValueError, match="unknown _class_name"):
        S.from_diffusers({}, 4)


def network_of_zeros(x, t):
    return jnp.zeros_like(x)
