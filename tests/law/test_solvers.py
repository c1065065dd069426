"""Laws of every solver: one program, batches, dtypes, keys, trees, meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from laws import Traces, assert_same_bits, interpret
from solver_cases import (
    KEY,
    MODELS,
    ONLY_VE,
    RUN,
    START,
    VP,
    columns,
    plans,
    reference,
    run,
    schedule_of,
    structures,
)

import jsamp as js

S = js.solve


def _near(got, wanted, name):
    """Equal but for float32: numbers of one sample err by its largest, since differences of them are taken on the way."""
    wanted = np.asarray(wanted)
    largest = max(1, np.abs(wanted).max())
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=5e-6 * largest, err_msg=name)


def test_rows_are_evaluations_and_shapes_fit():
    for name, plan in plans().items():
        assert len(plan) == plan.nfe == plan.weights.shape[0], name
        for column, value in columns(plan).items():
            assert value.shape[0] == plan.nfe, (name, column)
            if column != "node":  # a coordinate of any kind: step-index solvers count rows
                kind = {"slot": np.int32, "take": np.int32, "ends_step": np.bool_, "relative": np.bool_}.get(
                    column, np.float64
                )
                assert value.dtype == kind, (name, column)
        assert np.all(np.isfinite(plan.weights)), name
        assert plan.slots <= 6, name
        np.testing.assert_allclose(plan.alpha_next[-1], VP.alpha(1e-3) if name not in ONLY_VE else 1, rtol=1e-12)


def test_one_program_equals_one_at_a_time():
    """js.sample outside jit, solver by solver, is the jitted program of all."""
    together = reference()
    assert len(structures()) >= 12
    for name, plan in structures().items():
        alone = run(KEY, MODELS, START, {name: plan})[name]
        assert alone.dtype == jnp.float32
        _near(alone, together[name], name)


@pytest.mark.parametrize("name", ["unipc(3)", "sa_solver", "ghvb", "nesterov", "heun"])
def test_without_jit(name):
    with jax.disable_jit():
        plain = run(KEY, MODELS, START, {name: plans()[name]})[name]
    _near(plain, reference()[name], name)


def test_vmap_over_states_is_a_loop():
    batch = jnp.stack([START, -START, 0.3 * START])
    together = jax.jit(jax.vmap(run, in_axes=(None, None, 0, None)))(KEY, MODELS, batch, structures())
    for i in range(3):
        one = RUN(KEY, MODELS, batch[i], structures())
        for name in structures():
            _near(together[name][i], one[name], name)


def test_float64_is_the_table_read_literally(x64):
    """The scan against the numpy interpreter, with the documented key of each row."""
    start = START.astype(np.float64)
    found = RUN(KEY, MODELS, start, plans())
    weights = {"gain": np.float32(0.7), "bend": np.float32(0.4)}
    draws = {}

    def noise(r, stream):
        if (r, stream) not in draws:
            key = jax.random.fold_in(jax.random.fold_in(KEY, r), stream)
            draws[r, stream] = np.asarray(jax.random.normal(key, start.shape, start.dtype))
        return draws[r, stream]

    def predict(name):
        def call(x, t):
            out = weights["gain"].astype(float) * np.tanh(weights["bend"].astype(float) * x) + 0.1 * np.cos(t)
            schedule = schedule_of(name)
            a, s = schedule.alpha(t), schedule.sigma(t)
            return (out, (x - a * out) / s) if name in ONLY_VE else ((x - s * out) / a, out)

        return call

    for name, plan in plans().items():
        wanted = interpret(plan, predict(name), start * (20 if name in ONLY_VE else 1), noise)
        assert found[name].dtype == jnp.float64
        np.testing.assert_allclose(found[name], wanted, rtol=1e-10, atol=1e-12, err_msg=name)


def test_bfloat16_state_comes_back_as_bfloat16():
    out = RUN(KEY, MODELS, jnp.asarray(START, jnp.bfloat16), structures())
    wide = RUN(KEY, MODELS, jnp.asarray(START, jnp.bfloat16).astype(jnp.float32), structures())
    for name in structures():
        assert out[name].dtype == jnp.bfloat16, name
        # Inside, everything ran in float32: only the last rounding shows. The start was scaled in bfloat16.
        if name not in ONLY_VE:
            assert_same_bits(out[name], wide[name].astype(jnp.bfloat16))


def test_half_precision_states_are_held_in_float32():
    plan = plans()["unipc(3)"]
    state = S.init(plan, jnp.asarray(START, jnp.bfloat16))
    for leaf in jax.tree.leaves((state.x, state.back, state.history)):
        assert leaf.dtype == jnp.float32
    seen = []

    def model(x, t):
        seen.append((x.dtype, t.dtype))
        return x

    js.sample(None, js.Denoiser(model, VP, predicts="x0"), jnp.asarray(START, jnp.bfloat16), plan)
    assert set(seen) == {(jnp.dtype("float32"), jnp.dtype("float32"))}


def test_trees_are_states():
    """A tree of leaves runs as the flat state does: deterministic plans give the same bits."""
    calm = {name: plan for name, plan in structures().items() if not plan.stochastic}
    wild = {name: plan for name, plan in structures().items() if plan.stochastic}
    tree = {"a": START[:1], "b": (START[1:].reshape(2, 1),)}
    out = RUN(KEY, MODELS, tree, calm)
    for name, value in out.items():
        flat = jnp.concatenate([value["a"], value["b"][0].ravel()])
        _near(flat, reference()[name], name)
    for name, value in RUN(KEY, MODELS, tree, wild).items():
        assert value["b"][0].shape == (2, 1)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(value)), name


def test_same_key_same_bits_and_other_key_other_sample():
    again, other = RUN(KEY, MODELS, START, plans()), RUN(jax.random.key(4), MODELS, START, plans())
    assert_same_bits(reference(), again)
    for name, plan in plans().items():
        assert np.array_equal(other[name], reference()[name]) is not plan.stochastic, name


def test_keys_of_every_kind():
    plan = plans()["ddpm"]
    typed = js.sample(jax.random.key(7), MODELS[0], START, plan).x
    assert_same_bits(typed, js.sample(jax.random.PRNGKey(7), MODELS[0], START, plan).x)
    assert_same_bits(
        js.sample(None, MODELS[0], START, plans()["lms(4)"]).x, js.sample(KEY, MODELS[0], START, plans()["lms(4)"]).x
    )
    for plan in plans().values():
        if plan.stochastic:
            with pytest.raises(ValueError, match=r"key is None.*jax\.random\.key"):
                js.sample(None, MODELS[0], START, plan)
    for bad, error in [(3, TypeError), (jnp.zeros(3), TypeError), (jax.random.split(KEY), ValueError)]:
        with pytest.raises(error, match="key"):
            js.sample(bad, MODELS[0], START, plans()["ddpm"])


def test_new_numbers_never_retrace():
    """Weights, plan values, grids, guidance scale and schedule numbers are data."""
    traces = Traces()

    def weights(scale):
        return {"gain": np.float32(0.7 * scale), "bend": np.float32(0.4)}

    def draw(key, weights, rates, guidance, plan, x):
        schedule = js.noise.VP(*rates)
        cond = js.Denoiser(traces.bind(weights), schedule)
        return js.sample(key, js.denoise.ClassifierFree(cond, cond, scale=guidance), x, plan).x

    def plan(power):
        return S.sa_solver(VP, js.noise.time_grid(VP, 6, power))

    draw = jax.jit(draw)
    outs = [
        draw(KEY, weights(1), (0.1, 20.0), 2.0, plan(2), START),
        draw(KEY, weights(1.1), (0.1, 20.0), 2.0, plan(2), START),
        draw(KEY, weights(1), (0.2, 18.0), 2.0, plan(2), START),
        draw(KEY, weights(1), (0.1, 20.0), 3.0, plan(2), START),
        draw(KEY, weights(1), (0.1, 20.0), 2.0, plan(1.5), START),
        draw(jax.random.key(9), weights(1), (0.1, 20.0), 2.0, plan(2), START),
    ]
    assert traces.count == 1
    assert len({tuple(np.asarray(o).tolist()) for o in outs}) >= 5


def test_new_numbers_never_retrace_outside_jit():
    traces = Traces()
    for scale, power, rate in [(1.0, 2, 0.1), (1.2, 2, 0.1), (1.0, 1.5, 0.1), (1.0, 2, 0.3)]:
        model, schedule = traces.bind({"gain": np.float32(scale), "bend": np.float32(0.4)}), js.noise.VP(rate)
        plan = S.unipc(schedule, js.noise.time_grid(schedule, 6, power))
        js.sample(None, js.Denoiser(model, schedule), START, plan)
    assert traces.count == 1


def test_a_population_of_solvers_is_one_compile():
    """vmap over nine stacked plans of different solvers traces the model once and equals the loop."""
    names = [
        "ddim", "dpmpp(3)", "dpm_solver(3)", "deis(4)", "lms(4)", "unipc(3)", "ghvb", "pndm(2)", "dpmpp_single(3)",
    ]  # fmt: skip
    traces = Traces()
    model = js.Denoiser(traces.bind({"gain": np.float32(0.7), "bend": np.float32(0.4)}), VP)
    tables = [plans(7 if name == "pndm(2)" else 8)[name] for name in names]
    nine = S.stack(tables)
    out = jax.vmap(lambda p: js.sample(None, model, START, p).x)(nine)
    assert traces.count == 1
    for name, table, got in zip(names, tables, out, strict=True):
        alone = js.sample(None, MODELS[0], START, table).x
        _near(got, alone, name)
    moved = jax.tree.map(lambda a: a * 1.01 if a.dtype.kind == "f" else a, nine)
    jax.vmap(lambda p: js.sample(None, model, START, p).x)(moved)
    assert traces.count == 1


def test_every_solver_of_one_length_stacks():
    names = [name for name, plan in plans(6).items() if plan.nfe == 6 and name not in ONLY_VE]
    assert len(names) > 30
    everything = S.stack([plans(6)[name] for name in names])
    out = jax.jit(jax.vmap(lambda p: js.sample(KEY, MODELS[0], START, p).x))(everything)
    alone = RUN(KEY, MODELS, START, {name: plans(6)[name] for name in names})
    for name, got in zip(names, out, strict=True):
        _near(got, alone[name], name)


def test_runs_sharded_over_eight_devices():
    """Inside shard_map, with one key and one start for each device, every solver gives what it gives alone."""
    keys = jax.random.split(KEY, 8)
    starts = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)

    def local(keys, starts, tables):
        return jax.vmap(run, in_axes=(0, None, 0, None))(keys, MODELS, starts, tables)

    _check_sharded(local, (keys, starts), (P("data"), P("data"), P()), structures())


def test_runs_sharded_with_one_key_for_all():
    """A replicated key draws the same noise on every device; data are sharded, tables and key are not."""
    starts = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)

    def local(key, starts, tables):
        return jax.vmap(run, in_axes=(None, None, 0, None))(key, MODELS, starts, tables)

    wild = {name: plan for name, plan in structures().items() if plan.stochastic}
    _check_sharded(local, (KEY, starts), (P(), P("data"), P()), wild)


def _check_sharded(local, arguments, specs, tables):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    alone = jax.jit(local)(*arguments, tables)
    split = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(arguments, specs, strict=False)]
    out = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P("data")))(*split, tables)
    for name in tables:
        assert len(out[name].sharding.device_set) == 8
        _near(np.asarray(out[name]), alone[name], name)
