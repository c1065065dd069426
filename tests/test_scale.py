"""Many devices and processes: what is sharded stays so under `sample`, and the example gives the same numbers."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCHEDULE = js.noise.VP()
PLAN = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 6), order=3)
WIDTH, HIDDEN, SAMPLES = 64, 256, 16
MOVING = r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


def model(weights, x, t):
    return jnp.matmul(jnp.tanh(jnp.matmul(x, weights[0]) * (1 + t)), weights[1])


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def placed(mesh):
    """Weights over the axis "model", states over "data"."""
    keys = jax.random.split(jax.random.key(0), 3)
    put = lambda x, *spec: jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))
    first = put(jax.random.normal(keys[0], (WIDTH, HIDDEN)) / 8, None, "model")
    second = put(jax.random.normal(keys[1], (HIDDEN, WIDTH)) / 16, "model", None)
    return (first, second), put(jax.random.normal(keys[2], (SAMPLES, WIDTH)), "data")


def run(weights, x, plan):
    denoiser = js.Denoiser(jax.tree_util.Partial(model, weights), SCHEDULE, predicts="x0")
    return js.sample(None, denoiser, x, plan).x


def collectives(text):
    return sorted(re.findall(MOVING, text))


def test_sharded_weights_and_states_are_not_gathered(mesh):
    """One sum over the hidden axis for each evaluation is the network's own; the solver adds no communication."""
    weights, x = placed(mesh)
    rows = jax.NamedSharding(mesh, jax.P("data"))
    compiled = jax.jit(run, out_shardings=rows).lower(weights, x, PLAN).compile()
    assert collectives(compiled.as_text()) == ["all-reduce"]  # in the body of the scan: once for each evaluation
    alone = jax.jit(lambda weights, x: model(weights, x, 0.5), out_shardings=rows).lower(weights, x).compile()
    assert collectives(alone.as_text()) == ["all-reduce"]
    plan_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(PLAN))
    shares = 4 * (2 * WIDTH * HIDDEN / 4 + SAMPLES * WIDTH / 2)
    assert compiled.memory_analysis().argument_size_in_bytes <= shares + plan_bytes + 4096
    got = compiled(weights, x, PLAN)
    assert got.sharding.is_equivalent_to(rows, 2)
    np.testing.assert_allclose(
        got, run(jax.device_get(weights), jnp.asarray(jax.device_get(x)), PLAN), rtol=1e-4, atol=1e-5
    )


def test_losses_follow_the_rows_of_an_explicit_mesh():
    """Times, noise and dropped conditions are drawn whole, then sharded as the batch is: the value stays the same."""
    explicit = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    loss = js.loss.Match(SCHEDULE, drop=0.5, null=jnp.zeros(1))
    net = jax.tree_util.Partial(lambda w, x, t, y: w * x * y + t, jnp.float32(0.5))
    batch = jax.random.normal(jax.random.key(0), (16, 3)), jnp.ones((16, 1))
    slope = jax.jit(jax.value_and_grad(loss, argnums=1, has_aux=True))
    wanted = slope(jax.random.key(1), net, batch)
    with jax.set_mesh(explicit):
        found = slope(jax.random.key(1), net, jax.device_put(batch, jax.P("data")))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


LOSSES = {
    "Ambient": lambda x: js.loss.Ambient(consistency=0.5, steps=2)(KEY, NET, (x, x[:, 0] ** 2)),
    "AdversarialDensity": lambda x: DENSITY(KEY, (lambda point: point[0], FLOW), jax.nn.sigmoid(x[:, :1])),
    "GANCritic": lambda x: js.loss.GANCritic(SCHEDULE, [1.0, 0.5, 0.0], 1)(KEY, (lambda x, t, z: z * x, JUDGE), x),
    "MMDFinetune": lambda x: js.loss.MMDFinetune(lambda key, w: w * jax.random.normal(key, (3,)))(KEY, 0.5, x),
}
KEY, NET, JUDGE = jax.random.key(1), lambda x, t: 0.5 * x + t, lambda x, t, above: jnp.sum(x * above)
FLOW = js.loss.box_flow(KEY, [-1.0], [1.0], layers=1, width=2, bins=3)
DENSITY = js.loss.AdversarialDensity(js.loss.AdversarialSampling(lambda solution, x: solution(x)), 0.1)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_that_draw_for_each_row_do_so_on_an_explicit_mesh(name):
    explicit = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    x, loss = jax.random.normal(jax.random.key(0), (16, 3)), jax.jit(LOSSES[name])
    found = loss(jax.device_put(x, jax.NamedSharding(explicit, jax.P("data"))))[0]
    np.testing.assert_allclose(found, loss(x)[0], rtol=1e-5)


@pytest.mark.parametrize("law", [js.loss.BoxGrid(np.arange(12.0).reshape(3, 4), [0.0, -1.0], [1.0, 2.0]), FLOW])
def test_densities_on_a_box_follow_rows_of_an_explicit_mesh(law):
    explicit = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    u = jax.random.uniform(KEY, (16, len(law.low)))
    for call in (lambda law, u: law.push(u), lambda law, x: law(x)):
        mapped = jax.jit(jax.vmap(call, (None, 0)))
        found = mapped(law, jax.device_put(u, jax.NamedSharding(explicit, jax.P("data"))))
        assert jax.typeof(found).sharding.spec[0] == "data"
        np.testing.assert_allclose(found, mapped(law, u), rtol=1e-6, atol=1e-6)


def test_an_eager_loss_needs_no_mesh_around_it():
    explicit = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    x, loss = jax.random.normal(jax.random.key(0), (16, 3)), js.loss.Match(SCHEDULE)
    rows = jax.device_put(x, jax.NamedSharding(explicit, jax.P("data")))
    np.testing.assert_allclose(loss(KEY, NET, rows)[0], loss(KEY, NET, x)[0], rtol=1e-5)
    with pytest.raises(ValueError, match=r"Match: rows sharded .* inside jax.jit, or in `with jax.set_mesh"):
        jax.grad(lambda w: loss(KEY, lambda x, t: w * x, rows)[0])(0.5)


def test_the_check_sees_a_gather(mesh):
    """A result that is asked for everywhere has to be gathered, and the check above would say so."""
    weights, x = placed(mesh)
    everywhere = jax.NamedSharding(mesh, jax.P())
    compiled = jax.jit(run, out_shardings=everywhere).lower(weights, x, PLAN).compile()
    assert "all-gather" in collectives(compiled.as_text())


def out_of(*options):
    command = [sys.executable, str(ROOT / "examples" / "scale_out.py"), "--width", "16", "--columns", "8", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.mark.slow
def test_two_processes_of_two_devices_print_what_one_process_of_four_does():
    small = ("--samples", "4096", "--rows", "8192")
    one, two = out_of("--devices", "4", *small), out_of("--processes", "2", "--devices", "2", *small)
    assert (one["devices"], one["processes"], two["devices"], two["processes"]) == (4, 1, 4, 2)
    for name in ("mean", "square", "sum of scores", "rows, estimated"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-8)
    assert abs(one["sum of scores"] - 8) < 1e-3  # the scores of 8 columns
    assert abs(one["rows, estimated"] / 8192 - 1) < 0.2
