"""Dtypes are pinned at the door: turning x64 on changes no result of float32 inputs, and float64 and mixed trees work.

Every public callable is called, and what it makes is used as its room does: a denoiser predicts, a plan and a steer run,
a kernel makes a chain. Shapes and dtypes alone are computed, so nothing compiles.
"""

import functools

import good_calls
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.mcmc import _nested_moves as nested_moves

KEY = jax.random.key(0)
NAMES = list(good_calls.public())

# Where a position of the kernel's own kind is needed.
POSITIONS = {"DiscreteLangevin": np.array([0, 1, 1]),
    "Stretch": np.outer(np.arange(1, 9, dtype=np.float32), good_calls.START) + good_calls.START**2,
    "ensemble": np.stack([good_calls.START] * 2), "ParallelTempering": np.stack([good_calls.START] * 2),
    "on": good_calls.SLAB, "Gibbs": good_calls.SLAB, "SelfRepellentWalk": jnp.array(1, jnp.int32),
    "HistoryDrivenWalk": jnp.array(1, jnp.int32), "TokenSGD": js.mcmc.Token(jnp.array(1, jnp.int32), jnp.float32(0)),
    "DenoisingLangevinGibbs": js.mcmc.Noised(good_calls.START, np.float32(1)),
}  # fmt: skip
# They read values on the host, so they run outside of any trace.
HOST = {
    "mcmc.stream",
    "mcmc.nested",
    "fit.minimise",
    "fit.choose_channels",
    "fit.effect_mixture",
    "fit.likelihood_surrogate",
    "fit.maximise_acquisition",
    "fit.optimise",
    "select.oversample",
    "select.fit_curve",
    "select.undersample",
    "select.leverage_stream",
    "select.reduce_stream",
    "solve.describe",
}


def floating(leaf):
    """Whether a leaf has a floating dtype."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def cast(tree, dtype):
    """Cast the floating arrays of a tree; leave numbers, functions and keys as they are."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype) if floating(leaf) and np.ndim(leaf) else leaf, tree)


def used(name, made, x):
    """What the room does with an object: the trees of arrays that come out."""
    room = name.split(".")[0]
    if isinstance(made, js.Plan):
        return made if made.t.ndim > 1 else js.sample(KEY, _denoiser_of(name), x, made)
    if room == "mcmc" and hasattr(made, "init") and hasattr(made, "step"):
        return js.chain(KEY, made, cast(POSITIONS.get(name.split(".")[1], x), x.dtype), 2).x
    if room == "denoise" and hasattr(made, "schedule") and callable(made):
        return made(x, 0.4)[:2]
    if (
        room == "steer"
        and hasattr(made, "mid")
        and name.split(".")[1] in ("Hooks", "chain", "Chain", "TrajectoryVariance")
    ):
        return js.sample(KEY, good_calls.DENOISER, x, good_calls.BY_NAME["plan"], steer=made).x
    return made


def _denoiser_of(name):
    if name.startswith("solve.interpolant"):
        return js.denoise.Bridge(js.noise.Interpolant(), good_calls.network, good_calls.network)
    return js.Denoiser(good_calls.network, js.noise.VE() if name == "solve.edm" else good_calls.VP, predicts="x0")


def dtypes(name, dtype, x64):
    """The floating dtypes that come out of a call with inputs of a dtype."""
    thing = good_calls.public()[name]
    if name not in good_calls.BY_CALLABLE and not good_calls.works(name):
        pytest.skip("give it a good call in good_calls.BY_CALLABLE")
    arguments, options = good_calls.good(name)
    with jax.enable_x64(x64):
        arguments, options = cast((list(arguments), options), dtype) if dtype != "float32" else (arguments, options)
        out = jax.eval_shape(lambda: _arrays(used(name, thing(*arguments, **options), good_calls.START.astype(dtype))))
    return [str(leaf.dtype) for leaf in out if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _arrays(tree):
    # Tables of the host are float64 on purpose; what JAX holds or computes is pinned.
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array) and floating(leaf)]


# Without floating inputs, results have the default floating dtype.
NO_FLOATS = {
    "select.stratified", "tokens.nelbo", "estimate.bootstrap_weights", "estimate.cochran_q", "estimate.f_test",
    "estimate.mcnemar",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HOST | NO_FLOATS])
def test_x64_changes_nothing_for_float32(name):
    assert dtypes(name, "float32", True) == dtypes(name, "float32", False)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HOST])
def test_float64_works(name):
    dtypes(name, "float64", True)


def _is_array(leaf):
    return isinstance(leaf, np.ndarray | jax.Array)


@pytest.mark.parametrize("name", sorted(HOST - {"mcmc.stream", "solve.describe"} | {"mcmc.walk_graph"}))
@pytest.mark.parametrize("traced", ["key", "arrays"])
def test_what_runs_on_the_host_says_so_inside_jit(name, traced):
    thing, (arguments, options) = good_calls.public()[name], good_calls.good(name)
    leaves, structure = jax.tree.flatten((list(arguments), options))
    wanted = (lambda leaf: leaf is good_calls.KEY) if traced == "key" else _is_array
    places = [i for i, leaf in enumerate(leaves) if wanted(leaf)]
    if not places or (traced == "key" and name == "fit.effect_mixture"):
        pytest.skip("it takes no key, or the key only draws")

    def call(values):
        held = dict(zip(places, values, strict=True))
        arguments, options = jax.tree.unflatten(structure, [held.get(i, leaf) for i, leaf in enumerate(leaves)])
        thing(*arguments, **options)

    with pytest.raises(TypeError, match="Call it outside jit"):
        jax.eval_shape(call, [leaves[i] for i in places])


def test_nested_sampling_keeps_its_counts_under_x64(x64):
    target = jax.tree_util.Partial(good_calls.logdensity), jax.tree_util.Partial(lambda u: u)
    begin = functools.partial(nested_moves.begin, num=6, dim=2, dtype=jnp.float64)
    advance = functools.partial(nested_moves.advance, steps=3, delete=1, moves=2)
    run = jax.eval_shape(lambda key: advance(key, target, begin(key, target), 1e-3, 9)[0], KEY)
    assert (run.stuck.dtype, run.lost.dtype, run.nfe.dtype) == (jnp.int32,) * 3


MIXED = {"a": np.ones(3, np.float32), "b": np.ones(2, np.float64)}


def kept(tree):
    """The dtypes of a tree are those of `MIXED`."""
    return {name: str(leaf.dtype) for name, leaf in tree.items()} == {"a": "float32", "b": "float64"}


PLANS = {
    "ddim": js.solve.ddim, "ddpm": js.solve.ddpm, "deis": js.solve.deis, "unipc": js.solve.unipc, "ghvb": js.solve.ghvb,
    "heun": js.solve.heun, "sa_solver": js.solve.sa_solver, "pndm": js.solve.pndm,
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_plans_keep_the_dtypes_of_mixed_trees(name, x64):
    plan = PLANS[name](good_calls.VP, js.noise.time_grid(good_calls.VP, 5))
    model = lambda x, t: jax.tree.map(lambda leaf: 0.3 * leaf, x)
    run = lambda x: js.sample(KEY, js.Denoiser(model, good_calls.VP, predicts="x0"), x, plan).x
    assert kept(jax.eval_shape(run, MIXED))


WHOLE = js.denoise.LinearOp(lambda x: x)
RUNS = {  # of two denoisers: what guides, watches or chooses steps around them
    "CFGpp": lambda a, b, x: js.sample(KEY, js.denoise.CFGpp(a, b), x, PLANS["ddim"](good_calls.VP, GRID)),
    "a kick on stages": lambda a, b, x: js.sample(KEY, js.denoise.CFGpp(a, b), x, PLANS["heun"](good_calls.VP, GRID)),
    "DPS": lambda a, b, x: js.sample(KEY, js.denoise.DPS(a, WHOLE, MIXED), x, PLANS["ddim"](good_calls.VP, GRID)),
    "TrajectoryVariance": lambda a, b, x: js.sample(
        KEY, a, x, PLANS["ddim"](good_calls.VP, GRID), steer=js.steer.TrajectoryVariance(2)
    ),
    "DiffPIR": lambda a, b, x: js.sample(
        KEY, a, x, PLANS["ddim"](good_calls.VP, GRID), steer=js.steer.DiffPIR(WHOLE, MIXED, noise=0.1)
    ),
    "adaptive": lambda a, b, x: js.solve.adaptive(None, a, x, good_calls.VP),
}
GRID = np.linspace(0.9, 0.1, 5)


@pytest.mark.parametrize("name", RUNS)
def test_what_surrounds_a_denoiser_keeps_the_dtypes_of_mixed_trees(name, x64):
    model = lambda share: lambda x, t: jax.tree.map(lambda leaf: share * leaf, x)
    made = [js.Denoiser(model(share), good_calls.VP) for share in (0.3, 0.5)]
    assert kept(jax.eval_shape(lambda x: RUNS[name](*made, x).x, MIXED))


KERNELS = {
    "ULA": js.mcmc.ULA, "MALA": js.mcmc.MALA, "Barker": js.mcmc.Barker, "HMC": js.mcmc.HMC, "NUTS": js.mcmc.NUTS,
    "BAOAB": js.mcmc.BAOAB, "OBABO": js.mcmc.OBABO, "GHMC": js.mcmc.GHMC, "MCLMC": js.mcmc.MCLMC,
    "RandomWalk": js.mcmc.RandomWalk, "Slice": js.mcmc.Slice,
}  # fmt: skip


def _of_both(z):
    return -jnp.sum(z["a"] ** 2) - jnp.sum(z["b"] ** 2)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_keep_the_dtypes_of_mixed_trees(name, x64):
    run = lambda x: js.chain(KEY, KERNELS[name](_of_both), x, 3).x
    assert kept(jax.eval_shape(run, MIXED))


@pytest.mark.parametrize("driver", ["tune", "smc", "ais", "compose", "repeat", "tempered", "ensemble"])
def test_drivers_and_combinators_take_float32_positions_and_a_float64_density(driver, x64):
    wide = np.ones(3)
    logdensity = lambda x: -jnp.sum((x - wide) ** 2)  # float64 data in the density
    kernel, x, many = js.mcmc.MALA(logdensity), np.ones(3, np.float32), np.ones((4, 3), np.float32)
    calls = {
        "tune": lambda: js.mcmc.tune(KEY, kernel, x, 8)[1],
        "smc": lambda: js.mcmc.smc(KEY, kernel, many, reference=good_calls.logdensity).x,
        "ais": lambda: js.mcmc.ais(KEY, kernel, many, np.array([0.0, 0.5, 1.0]), reference=good_calls.logdensity).x,
        "compose": lambda: js.chain(KEY, js.mcmc.compose(kernel, js.mcmc.RandomWalk(logdensity)), x, 2).x,
        "repeat": lambda: js.chain(KEY, js.mcmc.repeat(kernel, 2), x, 2).x,
        "tempered": lambda: js.chain(KEY, js.mcmc.tempered(kernel, 0.5), x, 2).x,
        "ensemble": lambda: js.chain(KEY, js.mcmc.ensemble(kernel), many, 2).x,
    }
    assert jax.eval_shape(calls[driver]).dtype == jnp.float32


@pytest.mark.parametrize("kernel", [js.mcmc.NUTS, js.mcmc.MAMS, js.mcmc.MCLMC])
def test_positions_of_python_floats_are_tuned(kernel):
    _, x = jax.eval_shape(lambda key: js.mcmc.tune(key, kernel(good_calls.joint), {"a": 0.1, "b": 0.2}, 8), KEY)
    assert x["a"].shape == ()


@functools.cache
def _half():
    return jnp.asarray(good_calls.START, jnp.bfloat16)


@pytest.mark.parametrize("name", PLANS)
def test_plans_return_bfloat16_for_bfloat16(name):
    plan = PLANS[name](good_calls.VP, js.noise.time_grid(good_calls.VP, 5))
    assert jax.eval_shape(lambda x: js.sample(KEY, good_calls.DENOISER, x, plan).x, _half()).dtype == jnp.bfloat16
