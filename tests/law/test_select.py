"""The laws of the room select, over every public name."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import select
from jsamp._core._checks import concrete

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(24, 3)), jnp.float32)
SCORES = jnp.asarray(np.random.default_rng(1).pareto(1.5, 24) + 0.1, jnp.float32)
GROUPS = jnp.arange(24) % 3
CURVE = select.Curve(jnp.array([1.0, 2.0, 4.0]))


class Case(NamedTuple):
    """fun(key, x) on one floating array x; `smooth` outputs have finite gradients in x; `bad` is refused."""

    fun: Any
    x: Any
    smooth: bool = False
    bad: Any = None


class Host(NamedTuple):
    """A function or object of the host, exercised by `call(key)`."""

    call: Any


def _replay(key, x):
    replay = select.Replay(beta=0.5, mix=0.5)
    state = replay.init(6, dataset=4)._replace(score=x, second=x[::-1], seen=jnp.arange(6) < 4)
    slot, state = replay.sample(key, state)
    state, _, accepted = replay.insert(state, x[0], x[1])
    return slot, replay.update(state, slot, x[2]), accepted, replay.probs(state)


def _reservoir(key, x):
    reservoir = select.Reservoir(5)
    state = reservoir.step(key, reservoir.init(jnp.zeros(3)), X, x)
    state = reservoir.step(jax.random.fold_in(key, 1), state, X, x)
    return reservoir.subset(state)


def _merge(key, x):
    return select.merge(*(select.draw(k, x, 4, scheme="topk") for k in jax.random.split(key)))


def _drawn(key, x):
    return tuple(select.draw(key, x, 6, scheme=s) for s in ("poisson", "multinomial", "systematic", "priority", "topk"))


NAN = jnp.full_like(X, jnp.nan)
SMOOTH = {"smooth": True, "bad": NAN}
MASKS = jnp.arange(24 * 40).reshape(24, 40) % 7 < 3

REGISTRY: dict[str, Any] = {
    "Bounds": Case(lambda key, x: select.sensitivity_bounds(x, 3.0, iters=8), X),
    "Coreset": Host(lambda key: select.reduce_stream(key, [np.asarray(X)] * 3, 10)),
    "Curve": Case(lambda key, x: select.Curve(x)(jnp.full(24, 3.0)), SCORES, smooth=True),
    "Gaussian": Case(lambda key, x: select.Gaussian(2.0)(x, x), X, smooth=True),
    "Lewis": Case(lambda key, x: select.lewis(x, 1.0, iters=5), X),
    "Nearest": Case(lambda key, x: select.nearest(x, x[3], 4), X),
    "Replay": Case(_replay, jnp.array([3.0, 1.0, 2.0, 0.5, 0.2, 0.1])),
    "ReplayState": Case(lambda key, x: select.Replay().init(6, dataset=3)._replace(score=x), jnp.ones(6)),
    "Reservoir": Case(_reservoir, SCORES),
    "ReservoirState": Case(lambda key, x: select.Reservoir(3).init(x), SCORES),
    "RowBlocks": Host(lambda key: list(select.RowBlocks(np.asarray(X), 7))),
    "Subset": Case(lambda key, x: select.draw(key, x, 5).take({"a": X, "b": x}), SCORES),
    "Synthetic": Case(lambda key, x: select.smote(key, x, jnp.arange(10), 6, k=3, kind="borderline2", around=4), X),
    "allocate": Case(
        lambda key, x: select.allocate(select.Curve(x), 90.0, kind="maxmin"), CURVE.scale, bad=-CURVE.scale
    ),
    "allocate_greedy": Case(lambda key, x: select.allocate_greedy(select.Curve(x), 20), CURVE.scale, bad=-CURVE.scale),
    "balance": Case(lambda key, x: select.balance(key, x, jnp.array([0.0, 0.5, 1.0, 9.0]), 5), SCORES, bad=NAN[:, 0]),
    "distortion": Case(lambda key, x: select.distortion(x, select.draw(KEY, SCORES, 12), 1.5, iters=4), X, bad=NAN),
    "draw": Case(_drawn, SCORES, bad=-SCORES),
    "draw_bias": Case(lambda key, x: select.draw_bias(x / x.sum(), 8), SCORES, smooth=True),
    "draw_categorical": Case(lambda key, x: select.draw_categorical(key, x, (7,)), jnp.log(SCORES), bad=NAN[:, 0]),
    "herding": Case(lambda key, x: select.herding(x, 5), X, bad=NAN),
    "inclusion_probs": Case(lambda key, x: select.inclusion_probs(x, 7), SCORES, smooth=True, bad=-SCORES),
    "interpolate_latents": Case(lambda key, x: select.interpolate_latents(key, x, x * x, pairs=4), X, smooth=True),
    "k_center": Case(lambda key, x: select.k_center(x, 5), X, bad=NAN),
    "kernel_error": Case(lambda key, x: select.kernel_error(x, select.draw(KEY, SCORES, 8)), X, **SMOOTH),
    "kmeans_scores": Case(lambda key, x: select.kmeans_scores(x, x[:3]), X, bad=NAN),
    "kmeans_seeds": Case(lambda key, x: select.kmeans_seeds(key, x, 4), X, bad=NAN),
    "leverage": Case(lambda key, x: select.leverage(x), X, **SMOOTH),
    "leverage_stream": Host(lambda key: select.leverage_stream(select.RowBlocks(np.asarray(X), 7))),
    "lewis": Case(lambda key, x: select.lewis(x, 4.0, iters=5).weight, X, **SMOOTH),
    "lightweight": Case(lambda key, x: select.lightweight(x), X, **SMOOTH),
    "loss_history": Case(lambda key, x: select.loss_history(x, jnp.array([1, 1, 3]), jnp.ones(3)), SCORES, smooth=True),
    "merge": Case(_merge, SCORES),
    "naive_samples": Case(lambda key, x: select.naive_samples(x), SCORES, bad=NAN[:, 0]),
    "nearest": Case(lambda key, x: select.nearest(x, x[3], 4, metric="cosine"), X),
    "next_group": Case(lambda key, x: select.next_group(x, jnp.array([5, 2, 9]), rate=1.0), CURVE.scale),
    "otsu": Case(lambda key, x: select.otsu(x), SCORES, smooth=True, bad=NAN[:, 0]),
    "oversample": Host(lambda key: select.oversample(key, np.asarray(X), np.arange(24) // 16)),
    "pack_bits": Case(lambda key, x: select.pack_bits(x > 0), X),
    "reduce_stream": Host(lambda key: select.reduce_stream(key, (np.asarray(X) for _ in range(5)), 12).subset),
    "repeated_subsets": Case(lambda key, x: select.repeated_subsets(key, 12, 5, 6), SCORES),
    "retrieve": Case(lambda key, x: select.retrieve({"t": x[0]}, {"t": x}, GROUPS, 2, num_strata=3), X),
    "root_leverage": Case(lambda key, x: select.root_leverage(x, 1.0), X, **SMOOTH),
    "sample_size": Host(lambda key: np.asarray(select.sample_size(0.5, dim=8, p=1.0))),
    "sensitivity": Case(lambda key, x: select.sensitivity(x, 1.5, iters=6), X, bad=NAN),
    "sensitivity_bounds": Case(lambda key, x: select.sensitivity_bounds(x, 1.0, iters=6), X, bad=NAN),
    "smote": Case(lambda key, x: select.smote(key, x, jnp.arange(10), 6, k=3), X, bad=NAN),
    "stratified": Case(lambda key, x: select.stratified(key, GROUPS, (2, 3, 1), scores=x), SCORES, bad=-SCORES),
    "stratified_masks": Case(lambda key, x: select.stratified_masks(key, GROUPS, x > 0.2, 3, alpha=2), SCORES),
    "stratum_counts": Host(lambda key: np.asarray(select.stratum_counts([5, 9], 4))),
    "thinning": Case(lambda key, x: select.thinning(key, x, 2), X, bad=NAN),
}
CASES = {name: case for name, case in REGISTRY.items() if isinstance(case, Case)}
HOSTS = {name: case for name, case in REGISTRY.items() if isinstance(case, Host)}


def close(a, b, tolerance=2e-4):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=tolerance, atol=tolerance)


def other(x):
    return x * 1.5


def test_registry_holds_every_public_name():
    assert set(select.__all__) == set(REGISTRY)
    assert all(getattr(select, name).__doc__ for name in select.__all__)


@pytest.mark.parametrize("name", CASES)
def test_jit_equals_eager_and_new_numbers_do_not_retrace(name):
    case, count = CASES[name], []

    def traced(key, x):
        count.append(1)
        return case.fun(key, x)

    run = jax.jit(traced)
    close(run(KEY, case.x), case.fun(KEY, case.x))
    run(jax.random.key(5), other(case.x))
    assert len(count) == 1
    again = run(KEY, case.x)
    for a, b in zip(jax.tree.leaves(run(KEY, case.x)), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("name", CASES)
def test_vmap_equals_loop(name):
    case = CASES[name]
    keys, xs = jax.random.split(KEY), jnp.stack([case.x, other(case.x)])
    batch = jax.jit(jax.vmap(case.fun))(keys, xs)
    for i in range(2):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], batch), jax.jit(case.fun)(keys[i], xs[i]))


@pytest.mark.parametrize("name", CASES)
def test_runs_inside_shard_map(name):
    case = CASES[name]
    mesh = jax.make_mesh((2,), ("seeds",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    keys = jax.random.split(KEY)

    def one(keys, x):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], case.fun(keys[0], x[0]))

    specs = (jax.P("seeds"), jax.P("seeds"))
    run = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=jax.P("seeds")))
    xs = jnp.stack([case.x, other(case.x)])
    batch = run(keys, xs)
    for i in range(2):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], batch), jax.jit(case.fun)(keys[i], xs[i]))


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.smooth])
def test_gradients_are_finite(name):
    case = CASES[name]

    def total(x):
        leaves = [jnp.sum(v) for v in jax.tree.leaves(case.fun(KEY, x)) if jnp.issubdtype(v.dtype, jnp.floating)]
        return sum(leaves)

    grad = jax.grad(total)(case.x)
    assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("name", ["leverage", "lewis", "sensitivity", "draw", "inclusion_probs", "draw_categorical"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_are_raised_to_float32_and_kept_at_float64(name, dtype):
    case = CASES[name]
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.asarray(case.x), dtype)
        wanted = {"float64"} if dtype == "float64" else {"float32"}
        out = case.fun(KEY, x)
        if dtype in ("bfloat16", "float16"):
            close(out, case.fun(KEY, x.astype(jnp.float32)), 1e-6)
    got = {str(v.dtype) for v in jax.tree.leaves(out) if jnp.issubdtype(v.dtype, jnp.floating)}
    assert got <= wanted


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.bad is not None])
def test_bad_numbers_are_refused_at_the_door(name):
    with pytest.raises(ValueError, match=f"{name}"):
        CASES[name].fun(KEY, CASES[name].bad)


@pytest.mark.parametrize("name", HOSTS)
def test_host_functions_repeat_themselves(name):
    first, second = HOSTS[name].call(KEY), HOSTS[name].call(KEY)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert concrete(a) is not None
        assert np.all(np.isfinite(np.asarray(a, np.float64)))


def test_legacy_keys_work_and_other_keys_are_refused():
    legacy = jax.random.PRNGKey(0)
    close(select.draw(legacy, SCORES, 4, scheme="topk"), select.draw(KEY, SCORES, 4, scheme="topk"))
    with pytest.raises(TypeError, match="JAX key"):
        select.draw(0, SCORES, 4)
    with pytest.raises(ValueError, match="batch"):
        select.draw(jax.random.split(KEY), SCORES, 4)
