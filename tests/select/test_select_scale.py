"""Many devices, many processes, more rows than memory: the same numbers."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import select

RNG = np.random.default_rng(0)
A = np.float32(RNG.standard_t(3, size=(1600, 6)))
BAD = np.float32(A @ np.diag([1, 1, 1e-2, 1e-2, 1e-3, 1e-3]) @ RNG.normal(size=(6, 6)))
_START = RNG.bit_generator.state
# What float32 leaves of the scores of BAD: eps times the condition number of its normalised columns, 4e-4.
ROUNDING = 2.0**-24 * np.linalg.cond(BAD / np.linalg.norm(BAD, axis=0))


@pytest.fixture(autouse=True)
def _same_draws_in_any_order():
    RNG.bit_generator.state = _START


def sharded(fun, mesh, *arrays):
    specs = tuple(jax.P("rows") for _ in arrays)
    run = jax.jit(jax.shard_map(fun, mesh=mesh, in_specs=specs, out_specs=jax.P("rows")))
    return np.asarray(run(*(jax.device_put(a, jax.NamedSharding(mesh, jax.P("rows"))) for a in arrays)))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_eight_devices_give_the_scores_of_one(kind):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    weights = np.exp(A[:, 1] + np.arange(1600) / 200).astype(np.float32)  # the largest on one device
    weighted = {
        "heavy root": lambda a, w, axis=None: select.root_leverage(a, 1.5, weights=w, axis_name=axis),
        "heavy lewis": lambda a, w, axis=None: select.lewis(a, 1.0, weights=w, axis_name=axis).weight,
    }
    with jax.set_mesh(mesh):
        got = {name: sharded(lambda a, w, f=f: f(a, w, "rows"), mesh, A, weights) for name, f in weighted.items()} | {
            "leverage": sharded(lambda a: select.leverage(a, axis_name="rows"), mesh, A),
            "bad": sharded(lambda a: select.leverage(a, axis_name="rows"), mesh, BAD),
            "qr": sharded(lambda a: select.leverage(a, axis_name="rows", method="qr"), mesh, A),
            "short": sharded(lambda a: select.leverage(a, axis_name="rows", method="qr"), mesh, A[:32]),
            "lewis": sharded(lambda a: select.lewis(a, 1.0, axis_name="rows").weight, mesh, A),
            "root": sharded(lambda a: select.root_leverage(a, 1.5, axis_name="rows"), mesh, A),
            "light": sharded(lambda a: select.lightweight(a, axis_name="rows"), mesh, A),
            "probs": sharded(lambda s: select.inclusion_probs(s, 50, axis_name="rows"), mesh, A[:, 0] ** 2),
        }
    one = {name: f(A, weights) for name, f in weighted.items()} | {
        "leverage": select.leverage(A),
        "bad": select.leverage(BAD),
        "qr": select.leverage(A),
        "short": select.leverage(A[:32]),  # 4 rows of 6 columns on a device
        "lewis": select.lewis(A, 1.0).weight,
        "root": select.root_leverage(A, 1.5),
        "light": select.lightweight(A),
        "probs": select.inclusion_probs(A[:, 0] ** 2, 50),
    }
    for name, value in got.items():
        rtol = 4 * ROUNDING if name == "bad" else 1e-5
        np.testing.assert_allclose(value, one[name], rtol=rtol, atol=1e-7, err_msg=name)


def test_rows_of_an_explicit_mesh_need_no_axis_name():
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    weights = np.float32(RNG.uniform(size=1600))
    rows, w = (jax.device_put(x, jax.NamedSharding(mesh, jax.P("rows"))) for x in (A, weights))
    for name, fun in {
        "leverage": select.leverage,
        "jit": jax.jit(select.leverage),
        "weights": lambda a: select.leverage(a, weights=w if a is rows else weights, ridge=0.3),
        "root": lambda a: select.root_leverage(a, 1.5),
        "lewis": lambda a: select.lewis(a, 1.0).weight,
        "light": select.lightweight,
        "sensitivity": lambda a: select.sensitivity(a, 1.5, embedding=A[::8], iterations=4),
        "probs": lambda a: select.inclusion_probs(w if a is rows else jnp.asarray(weights), 50),
    }.items():
        got = fun(rows)
        assert jax.typeof(got).sharding.spec == jax.P("rows"), name
        np.testing.assert_allclose(got, fun(jnp.asarray(A)), rtol=1e-5, atol=1e-7, err_msg=name)
    subset, one = (select.draw(jax.random.key(0), s, 50) for s in (w, jnp.asarray(weights)))
    np.testing.assert_array_equal(subset.index, one.index)
    np.testing.assert_array_equal(subset.take(rows), one.take(A))
    with pytest.raises(ValueError, match="embedding"):
        select.sensitivity(rows, 1.0)


def test_sharded_sensitivities_with_a_common_embedding():
    mesh = jax.make_mesh((8,), ("rows",))
    E = jnp.asarray(A[::8])

    def score(a):
        return select.sensitivity(a, 1.5, embedding=E, iterations=6, axis_name="rows")

    got = sharded(score, mesh, A)
    np.testing.assert_allclose(got, select.sensitivity(A, 1.5, embedding=E, iterations=6), rtol=1e-4, atol=1e-6)


def test_sharded_poisson_draw_is_unbiased_and_moves_no_rows():
    mesh = jax.make_mesh((8,), ("rows",))
    scores = np.float32(RNG.pareto(1.2, 1600) + 0.1)
    values = np.float32(RNG.normal(1, 1, 1600))

    def estimate(keys, scores, values):
        def one(key):
            subset = select.draw(key, scores, 100, axis_name="rows")
            total = jnp.sum(subset.weight * subset.take(values)), jnp.sum(subset.mask)
            return jax.lax.psum(total, "rows")

        return jax.vmap(one)(keys)

    specs = (jax.P(), jax.P("rows"), jax.P("rows"))
    run = jax.jit(jax.shard_map(estimate, mesh=mesh, in_specs=specs, out_specs=jax.P()))
    keys = jax.device_put(jax.random.split(jax.random.key(0), 3000), jax.NamedSharding(mesh, jax.P()))
    placed = [jax.device_put(x, jax.NamedSharding(mesh, jax.P("rows"))) for x in (scores, values)]
    total, count = (np.asarray(x, np.float64) for x in run(keys, *placed))
    assert abs(total.mean() - values.sum(dtype=np.float64)) < 5 * total.std() / np.sqrt(3000)
    assert abs(count.mean() - 100) < 5 * count.std() / np.sqrt(3000)


WORKER = """
import sys, jax, numpy as np
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from jsamp import select
A = np.float32(np.random.default_rng(0).standard_t(3, size=(400, 4)))
mesh = jax.make_mesh((2,), ("rows",))
rows = jax.make_array_from_process_local_data(jax.NamedSharding(mesh, jax.P("rows")), np.split(A, 2)[int(sys.argv[2])])
run = jax.shard_map(lambda a: select.leverage(a, axis_name="rows"), mesh=mesh, in_specs=jax.P("rows"), out_specs=jax.P("rows"))
mine = np.asarray(jax.jit(run)(rows).addressable_shards[0].data)
exact = (np.linalg.qr(A.astype(np.float64))[0] ** 2).sum(1)
np.testing.assert_allclose(mine, np.split(exact, 2)[int(sys.argv[2])], rtol=1e-5)
assert jax.process_count() == 2
assert len(jax.devices()) == 2
print("same")
"""


@pytest.mark.slow
def test_two_processes_over_loopback_give_the_same_scores():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    root = str(pathlib.Path(select.__file__).parents[2])
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": root}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, address, str(i)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        for i in range(2)
    ]
    try:
        ends = [worker.communicate(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (out, err) in zip(workers, ends, strict=True):
        assert worker.returncode == 0
        assert out.split()[-1] == "same", err[-2000:]


def test_streams_give_the_scores_of_memory(tmp_path, capfd):
    path = tmp_path / "rows.dat"
    for rows in (A, BAD, np.concatenate([A, A[:, :1] + A[:, 1:2]], 1)):
        np.ascontiguousarray(rows).tofile(path)
        mapped = np.memmap(path, np.float32, "r", shape=rows.shape)
        got = select.leverage_stream(select.RowBlocks(mapped, 300), progress=rows is A)
        np.testing.assert_allclose(got, select.leverage(rows), rtol=4 * ROUNDING if rows is BAD else 1e-5)
    assert "block 6/6" in capfd.readouterr().err
    ridge = select.leverage_stream([A[:700], A[700:]], ridge=3.0)
    np.testing.assert_allclose(ridge, select.leverage(A, ridge=3.0), rtol=1e-5)


def test_merge_and_reduce_keeps_the_norm_without_bias():
    weights, grams = [], []
    for key in jax.random.split(jax.random.key(0), 60):
        rows, subset = select.reduce_stream(key, (A[i : i + 200] for i in range(0, 1600, 200)), 150)
        assert rows.shape == (150, 6)
        assert len(set(np.asarray(subset.index).tolist())) == 150
        np.testing.assert_array_equal(rows, A[np.asarray(subset.index)])
        weights.append(float(subset.weight.sum()))
        grams.append(rows.T @ (rows * np.asarray(subset.weight)[:, None]))
    grams, exact = np.asarray(grams, np.float64), A.T.astype(np.float64) @ A
    error = grams.mean(0) - exact
    assert np.all(np.abs(error) < 5.5 * grams.std(0, ddof=1) / np.sqrt(60))
    assert abs(np.mean(weights) - 1600) < 5.5 * np.std(weights) / np.sqrt(60)
    half = np.linalg.inv(np.linalg.cholesky(exact))
    assert np.median([np.abs(np.linalg.eigvalsh(half @ g @ half.T) - 1).max() for g in grams]) < 0.6


def test_reservoir_has_the_law_of_a_priority_draw():
    scores = jnp.asarray(np.float32(RNG.pareto(1.0, 60) + 0.1))
    values = np.float64(RNG.normal(1, 1, 60))
    reservoir = select.Reservoir(12)

    def run(key):
        state = reservoir.init(jnp.zeros(()))
        for i, k in enumerate(jax.random.split(key, 3)):
            state = reservoir.step(k, state, jnp.arange(20.0) + 20 * i, scores[20 * i : 20 * i + 20])
        return reservoir.subset(state)

    rows, subset = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 8000))
    np.testing.assert_array_equal(np.asarray(rows, int), subset.index)
    total = (np.asarray(subset.weight, np.float64) * values[np.asarray(subset.index)]).sum(1)
    assert abs(total.mean() - values.sum()) < 5 * total.std() / np.sqrt(8000)
    whole = jax.vmap(lambda k: select.draw(k, scores, 12, scheme="priority").index)(
        jax.random.split(jax.random.key(1), 8000)
    )
    a, b = (np.bincount(np.asarray(i).ravel(), minlength=60) / 8000 for i in (subset.index, whole))
    assert np.all(np.abs(a - b) < 5.5 * np.sqrt((a * (1 - a) + b * (1 - b) + 1e-4) / 8000))


def test_streams_refuse_what_they_cannot_read():
    with pytest.raises(TypeError, match="one-shot"):
        select.leverage_stream(iter([A]))
    with pytest.raises(ValueError, match="no blocks"):
        select.leverage_stream([])
    with pytest.raises(ValueError, match="empty"):
        select.reduce_stream(jax.random.key(0), [], 3)
    with pytest.raises(TypeError, match="floating"):
        select.leverage_stream([A.astype(int)])
    with pytest.raises(ValueError, match="rows, d"):
        select.leverage_stream([A[0]])
    with pytest.raises(ValueError, match="block"):
        select.RowBlocks(A, 0)
    with pytest.raises(ValueError, match="num"):
        select.Reservoir(0)
