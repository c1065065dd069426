"""Laws of every solver and every public object of `jsamp.solve`."""

import dataclasses
import functools
import inspect
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from laws import Traces, assert_same_bits, central, denoiser, directions, interpret, mixture, network
from start_laws import law_jumps, law_start, law_start_records

import jsamp as js

S = js.solve
VP = js.noise.VP()


# Every named solver with its options. A new solver, or a new option, adds one line.
SOLVERS = {
    "ddim": S.ddim,
    "ddim(eta=.5)": lambda s, g: S.ddim(s, g, eta=0.5),
    "ddim(eta=1)": lambda s, g: S.ddim(s, g, eta=1.0),
    "ddpm": S.ddpm,
    "ddpm(large)": lambda s, g: S.ddpm(s, g, variance="large"),
    "consistency": S.consistency,
    "tcd": S.tcd,
    "gradient_estimation": S.gradient_estimation,
    "dpm2_ancestral": S.dpm2_ancestral,
    "dpmpp_2s_ancestral": S.dpmpp_2s_ancestral,
    "dpmpp_sde": S.dpmpp_sde,
    "dpmpp_sde(eta=.5)": lambda s, g: S.dpmpp_sde(s, g, eta=0.5),
    "res_multistep": S.res_multistep,
    "res_multistep(eta=1)": lambda s, g: S.res_multistep(s, g, eta=1.0),
    "seeds": S.seeds,
    "seeds(3)": lambda s, g: S.seeds(s, g, order=3, eta=0.7),
    "seeds(phi_2)": lambda s, g: S.seeds(s, g, variant="phi_2"),
    "velocity_multistep": S.velocity_multistep,
    "velocity_multistep(4)": lambda s, g: S.velocity_multistep(s, g, order=4),
    "dpmpp(1)": lambda s, g: S.dpmpp(s, g, order=1),
    "dpmpp(2)": S.dpmpp,
    "dpmpp(2,reference)": lambda s, g: S.dpmpp(s, g, variant="reference"),
    "dpmpp(3)": lambda s, g: S.dpmpp(s, g, order=3),
    "dpmpp(3,reference)": lambda s, g: S.dpmpp(s, g, order=3, variant="reference"),
    "dpmpp(3,lower)": lambda s, g: S.dpmpp(s, g, order=3, lower_order_final=True),
    "dpmpp(2,sde)": lambda s, g: S.dpmpp(s, g, tau=1.0),
    "dpmpp(2,reference,sde)": lambda s, g: S.dpmpp(s, g, tau=0.7, variant="reference"),
    "dpm_solver(2)": S.dpm_solver,
    "dpm_solver(3)": lambda s, g: S.dpm_solver(s, g, order=3),
    "dpm_solver(3,reference)": lambda s, g: S.dpm_solver(s, g, order=3, variant="reference"),
    "dpm_solver(2,sde)": lambda s, g: S.dpm_solver(s, g, tau=1.0),
    "deis(1)": lambda s, g: S.deis(s, g, order=1),
    "deis(3)": S.deis,
    "deis(4)": lambda s, g: S.deis(s, g, order=4),
    "deis(3,rho)": lambda s, g: S.deis(s, g, variable="rho"),
    "deis(3,lam)": lambda s, g: S.deis(s, g, variable="lam"),
    "lms(4)": S.lms,
    "unipc(1)": lambda s, g: S.unipc(s, g, order=1),
    "unipc(3)": S.unipc,
    "unipc(2,eps)": lambda s, g: S.unipc(s, g, order=2, predicts="eps"),
    "unipc(2,bh1)": lambda s, g: S.unipc(s, g, order=2, variant="bh1"),
    "unipc(3,bh2)": lambda s, g: S.unipc(s, g, variant="bh2"),
    "unipc(2,last)": lambda s, g: S.unipc(s, g, order=2, corrector_last=True),
    "sa_solver": S.sa_solver,
    "sa_solver(few)": lambda s, g: S.sa_solver(s, g, predictor=2, corrector=2, variant="few_steps"),
    "sa_solver(last)": lambda s, g: S.sa_solver(s, g, predictor=2, corrector=2, corrector_last=True),
    "sa_solver(2,0)": lambda s, g: S.sa_solver(s, g, predictor=2, corrector=0, tau=0.5),
    "er_sde(1)": lambda s, g: S.er_sde(s, g, order=1),
    "er_sde(2)": S.er_sde,
    "er_sde(3)": lambda s, g: S.er_sde(s, g, order=3),
    "plms": S.plms,
    "plms(heun)": lambda s, g: S.plms(s, g, start="heun"),
    "ipndm(3)": lambda s, g: S.ipndm(s, g, order=3),
    "pndm(2)": lambda s, g: S.pndm(s, g, order=2),
    "pndm(4)": S.pndm,
    "ghvb": S.ghvb,
    "ghvb(3,variable)": lambda s, g: S.ghvb(s, g, order=3, spacing="variable"),
    "heavy_ball": lambda s, g: S.heavy_ball(S.plms(s, g), 0.8),
    "heavy_ball(bypass)": lambda s, g: S.heavy_ball(S.dpmpp(s, g, order=2), 0.8, first_order="bypass"),
    "nesterov": lambda s, g: S.nesterov(S.plms(s, g), 0.8),
    "heun": S.heun,
    "edm": S.edm,
    "edm(churn)": lambda s, g: S.edm(s, g, churn=2.0, noise=1.003),
    "dpm2": S.dpm2,
    **{
        f"rho_rk({name})": lambda s, g, name=name: S.rho_rk(s, g, tableau=name)
        for name in ("1euler", "2heun", "2mid", "3kutta", "3ral", "3heun", "3vdh", "3ssprk", "4rk")
    },
    "dpmpp_single(2)": S.dpmpp_single,
    "dpmpp_single(3)": lambda s, g: S.dpmpp_single(s, g, order=3),
    "dpmpp_single(2,grid)": lambda s, g: S.dpmpp_single(s, g, packing="grid", variant="reference"),
    "dpmpp_single(3,reference)": lambda s, g: S.dpmpp_single(s, g, order=3, variant="reference"),
    "dpm_single(2)": S.dpm_single,
    "dpm_single(3)": lambda s, g: S.dpm_single(s, g, order=3),
    "restart": lambda s, g: S.restart(S.heun(s, g), S.heun(s, g[:2]), num=2),
    "predictor_corrector": lambda s, g: S.predictor_corrector(S.ddpm(s, g), snr=0.1),
    "predictor_corrector(2)": lambda s, g: S.predictor_corrector(S.deis(s, g, order=2), snr=0.1, steps=2),
}  # fmt: skip
# Traced per-step rates, for the solvers that take them.
ONLY_VE = {"edm(churn)"}
CONCRETE_ONLY = {"restart", "heavy_ball(bypass)"} | {
    name for name in SOLVERS if re.match("dpm2_anc|dpmpp_2s|dpmpp_sde|res_|seeds", name)
}
# Lagrange builders in their exact form: their table depends on the grid behind a row through its history alone.
LAGRANGE = [
    name
    for name in SOLVERS
    if re.match(r"(dpmpp\(|dpm_solver|deis|lms|unipc|sa_solver|ddim|ddpm|er_sde)", name)
    and not re.search("reference|bh1|bh2|few", name)
]

SCHEDULES = {
    "VP": js.noise.VP(),
    "Cosine": js.noise.Cosine(),
    "VE": js.noise.VE(0.01, 20.0),
    "Flow": js.noise.Flow(),
    "Discrete": js.noise.Discrete.ddpm_linear(100, 1e-3, 0.15),
}


def grid_of(schedule, n, final="sigma_min"):
    if isinstance(schedule, js.noise.VE):
        return js.noise.karras_grid(schedule, n, 3.0, final=final)
    if isinstance(schedule, js.noise.Discrete):
        return js.noise.index_grid(schedule, n, "linspace", final=final)
    return js.noise.time_grid(schedule, n, 2 if isinstance(schedule, js.noise.VP) else 1, final=final)


@functools.cache
def plans(n=5):
    """Every solver on a gentle grid, by name, each on a schedule that it accepts."""
    return {name: make(schedule_of(name), grid_for(name, n)) for name, make in SOLVERS.items()}


def schedule_of(name):
    return SCHEDULES["VE"] if name in ONLY_VE else VP


def grid_for(name, n):
    return grid_of(schedule_of(name), n)


KEY = jax.random.key(3)
START = np.array([0.9, -0.4, 0.2], np.float32)


def run(key, models, x, tables):
    """Every plan from the same start; one program."""
    out = {}
    for name, plan in tables.items():
        scale = 20.0 if name in ONLY_VE else 1.0
        out[name] = js.sample(key, models[name in ONLY_VE], jax.tree.map(lambda v, s=scale: v * s, x), plan).x
    return out


MODELS = (denoiser(VP, "eps"), denoiser(SCHEDULES["VE"], "x0"))
RUN = jax.jit(run)


@functools.cache
def structures():
    """One plan for each set of columns: numbers are data, so plans of one structure run one program."""
    found = {}
    for name, plan in plans().items():
        found.setdefault((plan.kind, frozenset(_columns(plan)), name in ONLY_VE), name)
    return {name: plans()[name] for name in found.values()}


@functools.cache
def reference():
    return RUN(KEY, MODELS, START, plans())


# ---------------------------------------------------------------- what every solver obeys


def test_the_table_names_every_solver():
    builders = {
        name for name in S.__all__ if inspect.isfunction(getattr(S, name))
        if {"schedule", "grid"} <= set(inspect.signature(getattr(S, name)).parameters)
    }  # fmt: skip
    assert builders <= {name.split("(")[0] for name in SOLVERS}
    assert builders <= set(REGISTRY)


def test_rows_are_evaluations_and_shapes_fit():
    for name, plan in plans().items():
        assert len(plan) == plan.nfe == plan.weights.shape[0], name
        for column, value in _columns(plan).items():
            assert value.shape[0] == plan.nfe, (name, column)
            if column != "node":  # a coordinate of any kind: step-index solvers count rows
                kind = {"slot": np.int32, "take": np.int32, "ends_step": np.bool_, "relative": np.bool_}.get(
                    column, np.float64
                )
                assert value.dtype == kind, (name, column)
        assert np.all(np.isfinite(plan.weights)), name
        assert plan.slots <= 6, name
        np.testing.assert_allclose(plan.alpha_next[-1], VP.alpha(1e-3) if name not in ONLY_VE else 1, rtol=1e-12)


def _columns(plan):
    return {k: v for k, v in vars(plan).items() if v is not None and k != "kind"}


def test_one_program_equals_one_at_a_time():
    """js.sample outside jit, solver by solver, is the jitted program of all."""
    together = reference()
    assert len(structures()) >= 12
    for name, plan in structures().items():
        alone = run(KEY, MODELS, START, {name: plan})[name]
        assert alone.dtype == jnp.float32
        np.testing.assert_allclose(alone, together[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("name", ["unipc(3)", "sa_solver", "ghvb", "nesterov", "heun"])
def test_without_jit(name):
    with jax.disable_jit():
        plain = run(KEY, MODELS, START, {name: plans()[name]})[name]
    np.testing.assert_allclose(plain, reference()[name], rtol=2e-5, atol=2e-6)


def test_vmap_over_states_is_a_loop():
    batch = jnp.stack([START, -START, 0.3 * START])
    together = jax.jit(jax.vmap(run, in_axes=(None, None, 0, None)))(KEY, MODELS, batch, structures())
    for i in range(3):
        one = RUN(KEY, MODELS, batch[i], structures())
        for name in structures():
            np.testing.assert_allclose(together[name][i], one[name], rtol=2e-5, atol=2e-6, err_msg=name)


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
        np.testing.assert_allclose(flat, reference()[name], rtol=2e-5, atol=2e-6, err_msg=name)
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
        np.testing.assert_allclose(got, alone, rtol=2e-5, atol=2e-6, err_msg=name)
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
        np.testing.assert_allclose(got, alone[name], rtol=2e-5, atol=2e-6, err_msg=name)


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
        np.testing.assert_allclose(np.asarray(out[name]), alone[name], rtol=2e-5, atol=2e-6, err_msg=name)


# ---------------------------------------------------------------- derivatives


def test_gradients_are_finite_in_every_leaf():
    def loss(models, x, tables):
        return sum(jnp.sum(v**2) / 9 for v in run(KEY, models, x, tables).values())

    tables = jax.tree.map(jnp.asarray, structures())
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), allow_int=True))(MODELS, START, tables)
    assert np.isfinite(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        if leaf.dtype != jax.dtypes.float0:
            assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)
    for name in structures():
        assert np.any(np.asarray(grads[2][name].weights) != 0), name


def test_derivatives_along_plan_values_match_finite_differences(x64):
    """d sample / d (every number of the table), along a random direction."""
    tables = {name: jax.tree.map(jnp.asarray, plan) for name, plan in structures().items()}
    # Smooth columns: times enter the network only, and slots and takes are integers.
    # A prediction of weight 0 in the mix is not read at all: it may be infinite.
    read = lambda path, a, way: way * (a != 0) if ".mix" in jax.tree_util.keystr(path) else way
    ways = {name: jax.tree_util.tree_map_with_path(read, plan, directions(plan, 7)) for name, plan in tables.items()}

    def along(h):
        moved = jax.tree.map(lambda a, d: a + h * d if a.dtype.kind == "f" else a, tables, ways)
        return run(KEY, MODELS, START.astype(np.float64), moved)

    along = jax.jit(along)
    _, slope = jax.jvp(along, (0.0,), (1.0,))
    steps = {k * 1e-4: along(k * 1e-4) for k in (-2.0, -1.0, 1.0, 2.0)}
    for name in structures():
        wanted = central(lambda h, name=name: steps[h][name], 1e-4)
        np.testing.assert_allclose(slope[name], wanted, rtol=1e-5, atol=1e-7 * np.abs(wanted).max(), err_msg=name)


def _built_in_trace(names, n):
    grids = {name: grid_for(name, n) for name in names}

    def build(grids):
        return {name: SOLVERS[name](schedule_of(name), grids[name]) for name in names}

    return grids, build


TRACEABLE = [name for name in SOLVERS if name not in CONCRETE_ONLY]


def test_builders_on_traced_grids_are_the_host_tables(x64):
    """One code path over an array namespace: the table built in a trace is the table built on the host."""
    grids, build = _built_in_trace(TRACEABLE, 4)
    traced = jax.jit(build)(grids)
    for name in TRACEABLE:
        host = SOLVERS[name](schedule_of(name), grids[name])
        for column, value in _columns(host).items():
            got = getattr(traced[name], column)
            assert got is not None, (name, column)
            # A noise that is exactly zero on the host is held above zero in a trace, where its root has a slope.
            np.testing.assert_allclose(got, value, rtol=1e-9, atol=2e-12, err_msg=f"{name}.{column}")


SINGULAR = re.compile(r"heun|edm|dpm2|rho_rk\((2mid|4rk)|single")
# The Lagrange builders' tables see the end through `first_order` and `_caps` alone, so all schedules need not be asked.
ENDS = [("VE", 4, ""), ("Flow", 5, SINGULAR), ("VP", 6, SINGULAR)]


@pytest.mark.parametrize(("which", "n", "only"), [*ENDS[1:], pytest.param(*ENDS[0], marks=pytest.mark.slow)])
def test_a_traced_grid_may_end_at_zero_noise(which, n, only, x64):
    """A trace cannot know that its grid ends at sigma = 0; its rows may be more, but they draw the host's sample."""
    schedule = SCHEDULES[which]
    grid = grid_of(schedule, n + 1, "zero")[1:]  # from a time with some signal, on Flow too
    host = {}
    for name in TRACEABLE:
        if not re.match(only, name):
            continue
        try:
            host[name] = SOLVERS[name](schedule, grid)
        except ValueError:
            continue
    assert len(host) >= (4 if only else 30)
    traced = jax.jit(lambda grid: {name: SOLVERS[name](schedule, grid) for name in host})(grid)

    def predict(x, t):
        alpha, sigma = schedule.alpha(np.float64(t)), schedule.sigma(np.float64(t))
        if sigma == 0:  # only a corrector after the last step asks here, and it uses x0
            return np.tanh(x), np.zeros_like(x)
        x0 = np.tanh(x) + 0.1 * np.cos(t)
        return x0, (x - alpha * x0) / sigma

    start = START.astype(np.float64)
    noise = lambda row, stream: np.random.default_rng([row, stream]).normal(size=3)
    for name, plan in host.items():
        wanted = interpret(plan, predict, start, noise)
        got = interpret(jax.tree.map(np.asarray, traced[name]), predict, start, noise)
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-8, err_msg=name)


# One of each formula; the tables of all are compared above.
SLOPES = ["dpmpp(3)", "deis(4)", "lms(4)", "unipc(3)", "sa_solver", "er_sde(2)", "ghvb", "heun", "dpmpp_single(3)"]


@pytest.mark.slow
def test_derivatives_along_a_traced_grid_match_finite_differences(x64):
    grids, build = _built_in_trace(SLOPES, 4)
    ways = {
        name: np.diff(grid, prepend=grid[0], append=grid[-1])[:-1] * np.array([0, 0.3, -0.2, 0.25, 0.0])
        for name, grid in grids.items()
    }

    def along(h):
        moved = {name: grids[name] + h * ways[name] for name in grids}
        return run(KEY, MODELS, START.astype(np.float64), build(moved))

    along = jax.jit(along)
    _, slope = jax.jvp(along, (0.0,), (1.0,))
    steps = {k * 1e-3: along(k * 1e-3) for k in (-2.0, -1.0, 1.0, 2.0)}
    for name in SLOPES:
        wanted = central(lambda h, name=name: steps[h][name], 1e-3)
        scale = max(np.abs(wanted).max(), 1e-6)
        np.testing.assert_allclose(slope[name], wanted, rtol=1e-5, atol=1e-6 * scale, err_msg=name)


@pytest.mark.parametrize("name", ["deis(4)", "unipc(3)", "heun"])
def test_gradient_of_a_loss_with_respect_to_the_grid(name):
    """The user's line: learn the grid, in float32, reverse mode."""
    grid = jnp.asarray(grid_of(VP, 5))
    gradient = jax.jit(jax.grad(lambda g: jnp.sum(js.sample(None, MODELS[0], START, SOLVERS[name](VP, g)).x ** 2)))(
        grid
    )
    assert np.all(np.isfinite(gradient))
    assert np.any(np.asarray(gradient)[1:-1] != 0)


def test_gradient_reaches_options():
    """tau, eta and beta are numbers: they may be traced."""

    def loss(tau, eta, beta):
        grid = grid_of(VP, 5)
        tables = [S.dpmpp(VP, grid, tau=tau), S.ddim(VP, grid, eta=eta), S.ghvb(VP, grid, beta=beta)]
        tables += [S.heavy_ball(S.plms(VP, grid), beta), S.sa_solver(VP, grid, tau=tau)]
        return sum(jnp.sum(js.sample(KEY, MODELS[0], START, table).x) for table in tables)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(0.5, 0.5, 0.8)
    assert all(np.isfinite(g) and g != 0 for g in gradient)


# ---------------------------------------------------------------- every (solver, n, final, schedule)


def _informative(message):
    """A refusal names what was wrong, at length enough to say what to do."""
    return len(message) > 40 and re.search(r"sigma|alpha|grid|step|order|corrector|orders|n <=", message)


@pytest.mark.parametrize("which", sorted(SCHEDULES))
def test_every_length_end_and_schedule(which):
    """Finite, or refused with a message that says why; a Gaussian lands where it should in many steps."""
    schedule = SCHEDULES[which]
    rng = np.random.default_rng(0)
    start = float(schedule.sigma(schedule.t_max)) * rng.normal(size=2)
    mean, std = np.array([0.3, -0.2]), 0.5

    def predict(x, t):
        a, s = schedule.alpha(t), schedule.sigma(t)
        pull = (x - a * mean) / (a**2 * std**2 + s**2)
        return mean + a * std**2 * pull, s * pull

    refused = {}
    for name, make in SOLVERS.items():
        for n in range(1, 13):
            for final in ("zero", "sigma_min"):
                case = f"{name} n={n} {final} {which}"
                try:
                    with np.errstate(all="raise", under="ignore"):
                        plan = make(schedule, grid_of(schedule, n, final))
                except ValueError as error:
                    refused.setdefault(name, []).append((n, final, str(error)))
                    continue
                except FloatingPointError as error:
                    raise AssertionError(f"{case}: {error}") from error
                for column, value in _columns(plan).items():
                    assert np.all(np.isfinite(value)) or column == "node", f"{case}: {column} = {value}"
                out = interpret(plan, predict, start, lambda r, stream: rng.normal(size=2))
                assert np.all(np.isfinite(out)), case
    _check_refusals(which, refused)


def _check_refusals(which, refused):
    """Only what must be refused is refused, and the message says why."""
    everywhere = {"restart": {1}, "pndm(4)": {1, 2, 3}, "pndm(2)": {1}, "plms(heun)": {1}, "heavy_ball(bypass)": set()}
    for name, cases in refused.items():
        for n, final, message in cases:
            assert _informative(message), (name, n, final, message)
        lengths = {n for n, _, _ in cases}
        finals = {final for _, final, _ in cases}
        if which == "Flow" and re.search("alpha = 0|signal", cases[0][2]):
            continue
        if name == "edm(churn)" and which != "VE":
            continue
        if name in ("dpm_solver(2,sde)", "unipc(2,last)", "sa_solver(last)"):
            assert finals == {"zero"}, (name, cases[0])
            continue
        assert lengths <= everywhere.get(name, set()), (name, sorted(lengths), cases[0])


# ---------------------------------------------------------------- precision


def _stacked(n=20):
    """Every plan of n rows without its noise, as one population; Langevin rows are measured by theirs."""
    tables = {}
    for length in (n, n // 2):
        for name, plan in plans(length).items():
            if plan.nfe == n and name not in tables and name not in ONLY_VE and plan.relative is None:
                tables[name] = dataclasses.replace(plan, noise_std=None, churn_std=None)
    return list(tables), S.stack(tables.values())


def test_float32_is_close_to_float64_at_twenty_rows():
    """Within 1e-5, median 5e-7, for every solver, on an exact mixture. Draws depend on the dtype: noise is left out."""
    names, tables = _stacked()
    starts = np.random.default_rng(1).normal(size=(16, 2)).astype(np.float32)

    def draw(law, x, tables):
        return jax.vmap(lambda p: js.sample(None, law, x, p).x)(tables)

    single = np.asarray(jax.jit(draw)(mixture(VP), starts, tables))
    with jax.enable_x64(True):
        double = np.asarray(jax.jit(draw)(mixture(VP), starts.astype(np.float64), tables))
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    for name, a, b in zip(names, single, double, strict=True):
        error = np.abs(a - b)
        assert error.max() < 1e-5, (name, error.max())
        assert np.median(error) < 5e-7, (name, np.median(error))


def test_a_bfloat16_model_costs_little_more_than_its_own_rounding():
    """At twenty rows the error of a network whose output is rounded to bfloat16 is at most five such roundings."""
    names, tables = _stacked()
    starts = np.random.default_rng(2).normal(size=(16, 2)).astype(np.float32)
    law = mixture(VP)

    def fine(x, t):
        return law(x, t).x0

    def rough(x, t):
        return law(x, t).x0.astype(jnp.bfloat16)

    def draw(network):
        denoiser = js.Denoiser(network, VP, predicts="x0")
        return np.asarray(jax.vmap(lambda p: js.sample(None, denoiser, starts, p).x)(tables))

    exact, rounded = draw(fine), draw(rough)
    # bfloat16 has eight significant bits: predictions here are as large as the samples are.
    own = 2.0**-8 * np.abs(exact).max(axis=(1, 2))
    errors = np.abs(exact - rounded).max(axis=(1, 2))
    assert errors.max() > 0.1 * own.min()
    for name, error, unit in zip(names, errors, own, strict=True):
        assert error <= 5 * unit, (name, error / unit)


# ---------------------------------------------------------------- one law for each public object


def law_builder(name):
    """A builder refuses what is wrong at the door, whatever its options."""
    make = getattr(S, name)
    grid = grid_of(VP, 6)
    plan = make(VP, grid)
    assert isinstance(plan, S.Plan)
    bad = {
        "repeat": (np.array([1.0, 0.5, 0.5, 0.1]), ValueError, "decrease"),
        "rising": (grid[::-1], ValueError, "decrease"),
        "nan": (np.array([1.0, np.nan, 0.1]), ValueError, "decrease"),
        "short": (grid[:1], ValueError, "n \\+ 1"),
        "matrix": (grid[None], ValueError, "vector"),
    }
    for case, (wrong, error, match) in bad.items():
        with pytest.raises(error, match=match) as caught:
            make(VP, wrong)
        assert name in str(caught.value), (name, case, str(caught.value))
    with pytest.raises(ValueError, match=f"{name}.*outside the schedule"):
        make(SCHEDULES["Cosine"], np.array([1.2, 0.9, 0.7, 0.5, 0.3]))
    with pytest.raises(TypeError, match=name):
        make("vp", grid)
    for option, value in BAD_OPTIONS.items():
        if option in inspect.signature(make).parameters:
            with pytest.raises(ValueError, match=option):
                make(VP if name != "edm" else SCHEDULES["VE"], grid, **{option: value})


BAD_OPTIONS = {
    "order": 0, "variant": "best", "variable": "x", "tableau": "5rk", "packing": "tight", "spacing": "odd",
    "predicts": "y", "eta": -1.0, "tau": -1.0, "beta": 0.0, "churn": -1.0, "corrector": 1,
    "lower_order_final": "yes", "gamma": np.nan, "variance": 2.0,
}  # fmt: skip


def law_record(name):
    thing = getattr(S, name)
    assert issubclass(thing, tuple)
    assert thing._fields
    leaf = thing(*range(len(thing._fields)))
    assert jax.tree.unflatten(jax.tree.structure(leaf), jax.tree.leaves(leaf)) == leaf


def law_plan(name):
    plan = plans()["unipc(3)"]
    assert (plan.nfe, plan.slots, plan.stochastic) == (5, 3, False)
    assert S.Plan.__doc__ is not None
    with pytest.raises(TypeError, match="floating point"):
        plan.astype(int)
    _hand_made_plans_are_refused()
    low = plan.astype(jnp.float32)
    assert low.weights.dtype == np.float32
    assert low.slot.dtype == np.int32
    for wrong in (2, slice(0, 4, 2)):
        with pytest.raises(TypeError, match=r"slice of step 1"):
            plan[wrong]
    with pytest.raises(ValueError, match="empty"):
        plan[3:3]
    with pytest.raises(TypeError, match="stack"):
        S.stack([plan, plan])[1:]
    with pytest.raises(ValueError, match="stages of one step"):
        plans()["heun"][1:]


def _hand_made_plans_are_refused():
    """A table that the runner would misread: one slot for a two-step method, too narrow, out of range, unknown kind."""
    grid = grid_of(VP, 4)
    whole = {k: v for k, v in vars(S.plms(VP, grid, order=2)).items() if v is not None}
    assert S.Plan(**whole).slots == 2
    nan = np.array([1.0, np.nan, 1.0, 1.0])
    for change, error, match in [
        ({"weights": whole["weights"][:, :2], "slot": np.zeros(4, int)}, ValueError, r"weights\[1, 1\] reads slot 0"),
        ({"weights": whole["weights"][:3]}, ValueError, r"weights must have shape \(4, 3\)"),
        ({"slot": np.array([0, 1, 2, 0])}, ValueError, r"slot must lie in 0\.\.1"),
        ({"slot": None}, ValueError, "slot .* must say where each row writes"),
        ({"kind": "noise"}, ValueError, "kind must be one of"),
        ({"kind": "mixed"}, ValueError, "needs the column mix"),
        ({"noise_std": 1.0}, ValueError, r"noise_std must have shape \(4,\)"),
        ({"state_coef": nan}, ValueError, "state_coef must be finite"),
        ({"take": np.array([1, 3, 1, 1])}, ValueError, "take must hold"),
        ({"alpha": np.array(["a"] * 4)}, TypeError, "alpha must"),
    ]:
        with pytest.raises(error, match=match):
            S.Plan(**{**whole, **change})


def law_slices(name):
    """plan[:j] is the start of the plan, and two halves without history make the whole."""
    plan = plans(8)["deis(4)"]
    assert_same_bits(plan[:5], jax.tree.map(lambda a: a[:5], plan))
    single = plans(8)["ddim"]
    both = S.concat(single[:3], single[3:])
    assert_same_bits(both, single)
    stages = plans(8)["heun"]
    assert_same_bits(S.concat(stages[:4], stages[4:]), stages)
    with pytest.raises(ValueError, match="lands at"):
        S.concat(single[:3], single[4:])
    with pytest.raises(TypeError, match="concat: plan must be a Plan"):
        S.concat(single, 3)
    with pytest.raises(ValueError, match="at least one plan"):
        S.concat()
    mixed = S.concat(plans(8)["unipc(3)"][:4], plans(8)["deis(4)"][4:])
    assert mixed.kind == "mixed"
    state = S.init(mixed, START)
    halves = js.sample(
        None, MODELS[0], js.sample(None, MODELS[0], START, plans(8)["unipc(3)"][:4]).x, plans(8)["deis(4)"][4:]
    ).x
    np.testing.assert_allclose(js.sample(None, MODELS[0], START, mixed).x, halves, rtol=2e-5, atol=1e-6)
    assert state.x.shape == START.shape


def law_stack(name):
    with pytest.raises(ValueError, match="same number of rows"):
        S.stack([plans(5)["ddim"], plans(6)["ddim"]])
    with pytest.raises(ValueError, match="at least one plan"):
        S.stack([])
    with pytest.raises(ValueError, match="stack of plans"):
        js.sample(None, MODELS[0], START, S.stack([plans()["ddim"]] * 2))
    one = S.stack([plans()["lms(4)"]])
    assert_same_bits(jax.tree.map(lambda a: a[0], one), plans()["lms(4)"])


def law_momentum(name):
    combine = getattr(S, name)
    base = plans()["plms"]
    # beta = 1 is the plan itself.
    same = js.sample(None, MODELS[0], START, combine(base, 1.0)).x
    np.testing.assert_allclose(same, js.sample(None, MODELS[0], START, base).x, rtol=1e-5, atol=1e-6)
    for wrong in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match="beta"):
            combine(base, wrong)
    for stages in ("heun", "unipc(3)", "ghvb"):
        with pytest.raises(ValueError, match="one row per step"):
            combine(plans()[stages], 0.8)
    with pytest.raises(TypeError, match="Plan"):
        combine(3, 0.8)


def law_restart(name):
    grid = grid_of(VP, 8)
    main, inner = S.ddim(VP, grid), S.ddim(VP, grid[2:5])
    plan = S.restart(main, inner, num=3)
    assert plan.nfe == 8 + 3 * 2
    assert plan.stochastic
    with pytest.raises(ValueError, match="num"):
        S.restart(main, inner, num=0)
    with pytest.raises(ValueError, match="lands"):
        S.restart(main, S.ddim(VP, grid[2:5] * 1.01))
    with pytest.raises(ValueError, match=r"zero noise|rows to go"):
        S.restart(S.ddim(VP, grid_of(VP, 8, "zero")), S.ddim(VP, grid_of(VP, 8, "zero")[5:]))


def law_langevin(name):
    """Three rows a step: two that stay where they are, then the step of the plan; nothing in it needs a host."""
    base = plans()["ddpm"]
    plan = S.predictor_corrector(base, snr=0.2, steps=2)
    assert plan.nfe == 3 * base.nfe
    assert_same_bits(plan.noise_std[2::3], base.noise_std)
    assert plan.relative.tolist() == plan.nfe // 3 * [True, True, False]
    np.testing.assert_allclose(plan.noise_std[::3], 0.4 * base.sigma)
    traced = jax.jit(lambda snr: S.predictor_corrector(base, snr=snr, steps=2))(0.2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), traced, plan)
    for wrong, match in ((0.0, "snr"), (np.nan, "snr")):
        with pytest.raises(ValueError, match=match):
            S.predictor_corrector(base, snr=wrong)
    with pytest.raises(ValueError, match="steps must be >= 1"):
        S.predictor_corrector(base, steps=0)
    for stages, match in (("heun", "stages"), ("ghvb", "momentum"), ("edm(churn)", "stages"), (None, "already")):
        with pytest.raises(ValueError, match=f"one row per step; this one has .*{match}"):
            S.predictor_corrector(plan if stages is None else plans()[stages])
    with pytest.raises(TypeError, match="Plan"):
        S.predictor_corrector(3)


def _full_disk(file, **arrays):
    file.write(b"half")
    raise OSError("no space left on device")


def law_files(name, tmp_path):
    for number, (label, plan) in enumerate(plans().items()):
        S.save(tmp_path / f"{number}.npz", plan)
        again = S.load(tmp_path / f"{number}.npz")
        assert again.kind == plan.kind, label
        assert_same_bits(again, plan)
    S.save(tmp_path / "bare", plans()["ddim"])
    assert_same_bits(S.load(tmp_path / "bare"), plans()["ddim"])
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="does not hold a plan"):
        S.load(tmp_path / "other.npz")
    with pytest.raises(TypeError, match="Plan"):
        S.save(tmp_path / "x.npz", {"a": 1})
    whole = (tmp_path / "bare").read_bytes()
    for number, content in enumerate((b"", whole[: len(whole) // 2], b"no archive at all")):
        (tmp_path / f"damaged{number}").write_bytes(content)
        with pytest.raises(ValueError, match="does not hold a plan"):
            S.load(tmp_path / f"damaged{number}")
    with pytest.raises(FileNotFoundError):
        S.load(tmp_path / "absent")
    S.save(tmp_path / "a.b", plans()["heun"])
    assert_same_bits(S.load(tmp_path / "a.b"), plans()["heun"])
    # A write that fails leaves the earlier file whole, and no part behind.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "savez", _full_disk)
        with pytest.raises(OSError, match="no space"):
            S.save(tmp_path / "a.b", plans()["ddim"])
    assert_same_bits(S.load(tmp_path / "a.b"), plans()["heun"])
    assert not list(tmp_path.glob(".a.b*"))


def law_describe(name):
    for label, plan in plans().items():
        text = S.describe(plan)
        lines = text.splitlines()
        columns = [line.split(":")[0] for line in lines[plan.nfe + 2 :]]
        assert columns[:2] == ["state_coef", "weights"], label
        assert set(columns) <= set(_columns(plan)), label
        assert all(len(line.split(": ")[1]) > 20 for line in lines[plan.nfe + 2 :])
        assert f"{plan.nfe} rows" in lines[0]
        assert ("stochastic" in lines[0]) == plan.stochastic
    with pytest.raises(ValueError, match="stack"):
        S.describe(S.stack([plans()["ddim"]] * 2))
    with pytest.raises(TypeError, match="Plan"):
        S.describe("ddim")


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
    assert plan.t[0] == 0.1 and plan.t_next[-1] == 1 and all(np.all(np.isfinite(c)) for c in _columns(plan).values())
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


LAWS = {
    "continuous": law_continuous, "inversion": law_inversion, "bits": law_bits, "ddgan": law_ddgan, "interpolant": law_interpolant,
    "records": law_record, "plan": law_plan, "slices": law_slices, "stack": law_stack, "momentum": law_momentum,
    "restart": law_restart, "langevin": law_langevin, "files": law_files, "describe": law_describe, "steps": law_steps, "kernel": law_kernel,
    "sample": law_sample, "rows": law_rows, "builder": law_builder, "start": law_start, "jumps": law_jumps,
    "start_records": law_start_records,
}  # fmt: skip


# One line for every public object of the room.
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


LAWS["configuration"] = law_configuration
REGISTRY = {
    "AdaptiveInfo": "records",
    "KernelInfo": "records",
    "KernelState": "records",
    "OptimisedStart": "start_records",
    "Plan": "plan",
    "PlanKernel": "kernel",
    "Pretrained": "configuration",
    "Row": "rows",
    "from_diffusers": "configuration",
    "SampleInfo": "records",
    "SolveState": "records",
    "StartSearch": "start_records",
    "StepInfo": "records",
    "adaptive": "continuous",
    "assemble": "rows",
    "bits_per_dimension": "bits",
    "concat": "slices",
    "consistency": "builder",
    "gradient_estimation": "builder",
    "tcd": "builder",
    "ddim": "builder",
    "ddpm": "builder",
    "ddgan": "ddgan",
    "deis": "builder",
    "dpm2_ancestral": "builder",
    "dpmpp_2s_ancestral": "builder",
    "dpmpp_sde": "builder",
    "res_multistep": "builder",
    "seeds": "builder",
    "velocity_multistep": "builder",
    "describe": "describe",
    "dpm2": "builder",
    "dpm_single": "builder",
    "dpm_solver": "builder",
    "dpmpp": "builder",
    "dpmpp_single": "builder",
    "edm": "builder",
    "er_sde": "builder",
    "ghvb": "builder",
    "heavy_ball": "momentum",
    "heun": "builder",
    "init": "steps",
    "ipndm": "builder",
    "jumps": "jumps",
    "interpolant_ode": "interpolant",
    "interpolant_sde": "interpolant",
    "invert": "inversion",
    "kernel": "kernel",
    "likelihood": "continuous",
    "lms": "builder",
    "load": "files",
    "nesterov": "momentum",
    "optimal_start": "start",
    "optimise_start": "start",
    "output": "steps",
    "plms": "builder",
    "pndm": "builder",
    "regenerate": "start",
    "predictor_corrector": "langevin",
    "restart": "restart",
    "rho_rk": "builder",
    "sa_solver": "builder",
    "sample": "sample",
    "save": "files",
    "sdedit": "start",
    "stack": "stack",
    "step": "steps",
    "unipc": "builder",
}


@pytest.mark.parametrize(("name", "law"), REGISTRY.items(), ids=REGISTRY)
def test_law_of(name, law, tmp_path):
    function = LAWS[law]
    function(name, tmp_path) if "tmp_path" in inspect.signature(function).parameters else function(name)


# ---------------------------------------------------------------- slices of plans, trajectories, memory


@pytest.mark.parametrize("name", LAGRANGE)
def test_a_slice_is_the_plan_of_the_rest_of_the_grid(name):
    """plan[i:] of a Lagrange solver is what the builder makes of grid[i:], warm-up included."""
    n = 7
    whole, grid = plans(n)[name], grid_for(name, n)
    for i in range(1, n):
        wanted, part = SOLVERS[name](VP, grid[i:]), whole[i:]
        rng = np.random.default_rng(0)
        noise = {(r, 0): rng.normal(size=3) for r in range(n + 1)}
        predict = lambda x, t: ((x - np.tanh(x) * VP.sigma(t)) / VP.alpha(t), np.tanh(x))
        found, target = (interpret(p, predict, START, lambda r, s: noise[r, s]) for p in (part, wanted))
        np.testing.assert_allclose(found, target, rtol=1e-9, atol=1e-11, err_msg=f"{name}[{i}:]")


def test_keep_stacks_what_it_returns():
    plan = plans()["dpmpp(3)"]
    result = js.sample(None, MODELS[0], START, plan, keep=lambda x, prediction: (x, prediction.x0))
    xs, x0s = result.info.kept
    assert xs.shape == x0s.shape == (5, 3)
    assert_same_bits(xs[-1], result.x)
    assert_same_bits(js.sample(None, MODELS[0], START, plan).x, result.x)
    state, seen = S.init(plan, START), []
    for r in range(plan.nfe):
        state = S.step(None, MODELS[0], state, jax.tree.map(lambda a, r=r: a[r], plan))
        seen.append(state.x)
    np.testing.assert_allclose(xs, jnp.stack(seen), rtol=1e-5, atol=1e-6)


def test_checkpointing_the_model_changes_no_number():
    """Rematerialisation is the user's own `jax.checkpoint` around the network."""
    plan = jax.tree.map(jnp.asarray, plans()["deis(3)"])

    def loss(x, wrap):
        model = jax.tree_util.Partial(wrap(network), {"gain": jnp.float32(0.7), "bend": jnp.float32(0.4)})
        return jnp.sum(js.sample(None, js.Denoiser(model, VP), x, plan).x ** 2)

    plain = jax.grad(lambda x: loss(x, lambda f: f))(START)
    saved = jax.grad(lambda x: loss(x, jax.checkpoint))(START)
    np.testing.assert_allclose(plain, saved, rtol=1e-6)


def test_unused_features_cost_nothing():
    """A deterministic plan's program has no random bits; a plan without history has no dynamic update."""
    text = str(jax.make_jaxpr(lambda x: js.sample(None, MODELS[0], x, plans()["ddim"]).x)(START))
    for word in ("random_bits", "threefry", "dynamic_update_slice", "dot_general"):
        assert word not in text, word
    text = str(jax.make_jaxpr(lambda x: js.sample(KEY, MODELS[0], x, plans()["deis(4)"]).x)(START))
    assert "random_bits" not in text
    assert "threefry2x32" not in text.replace("random_fold_in", "")
    assert "dot_general" not in text


def test_records_are_named_tuples():
    for name, kind in REGISTRY.items():
        if kind == "records":
            assert typing.get_type_hints(getattr(S, name))
