"""Many samples: batches, devices and interruptions never change a sample; memory is bounded; bad input is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

SCHEDULE = js.noise.VP()
WEIGHTS = jax.random.normal(jax.random.key(9), (6, 6)) / 3
PLAN = js.solve.ddpm(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 6))
KEY = jax.random.key(3)


def network(x, t):
    return jnp.tanh(jnp.matmul(x, WEIGHTS, precision="highest") + t)


def draw(key):
    start, run = jax.random.split(key)
    denoiser = js.Denoiser(network, SCHEDULE, predicts="x0")
    x = js.sample(run, denoiser, SCHEDULE.prior(start, (6,)), PLAN).x
    return {"x": x, "large": jnp.sum(x) > 0, "key": run}


def run(num=70, **options):
    parts = list(js.many(KEY, draw, num, **options))
    return {name: np.concatenate([np.asarray(_data(part[name])) for part in parts]) for name in parts[0]}


def _data(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@pytest.fixture(scope="module")
def reference():
    return run(batch=64)


def same(a, b):
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_the_batch_size_changes_no_bit(reference, batch):
    same(run(batch=batch), reference)


def test_sample_i_is_the_draw_of_the_folded_key(reference):
    for i in (0, 41):
        np.testing.assert_allclose(draw(jax.random.fold_in(KEY, i))["x"], reference["x"][i], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("kind", ["explicit", "auto"])
def test_the_number_of_devices_changes_no_bit(reference, devices, kind):
    axis = getattr(jax.sharding.AxisType, kind.capitalize())
    mesh = jax.make_mesh((devices // 2, 2) if devices > 1 else (1, 1), ("a", "b"), axis_types=(axis, axis))
    same(run(batch=64, mesh=mesh), reference)
    same(run(batch=7, mesh=mesh), reference)


def test_lanes_bound_what_is_computed_together(reference):
    seen = []

    def counted(key):
        jax.debug.callback(lambda _: seen.append(1), key)
        return draw(key)["x"]

    chunks = js.many(KEY, counted, 70, batch=6, lanes=4)
    np.testing.assert_allclose(next(chunks), reference["x"][:6], rtol=2e-5, atol=2e-5)
    assert len(seen) <= 12  # two groups and the one ahead
    assert [len(part) for part in chunks] == [6] * 10 + [4]
    assert len(seen) == 72
    large = lambda key: jnp.zeros((3, 512, 512))
    assert [part.shape[0] for part in js.many(KEY, large, 10, batch=3)] == [3, 3, 3, 1]


def test_an_interrupted_run_is_resumed_bit_for_bit(reference):
    first = list(itertools.islice(js.many(KEY, draw, 70, batch=16), 2))
    done = sum(part["x"].shape[0] for part in first)
    rest = list(js.many(KEY, draw, 70, batch=9, start=done))
    np.testing.assert_array_equal(np.concatenate([p["x"] for p in (*first, *rest)]), reference["x"])
    assert list(js.many(KEY, draw, 70, batch=16, start=70)) == []


def test_one_program_serves_all_batches_and_new_weights():
    traces = []

    def counted(weights, key):
        traces.append(1)
        return weights * jax.random.normal(key)

    for scale in (1.0, 2.0):
        list(js.many(KEY, jax.tree_util.Partial(counted, jnp.float32(scale)), 10, batch=4))
    assert len(traces) == 2  # one for the shapes, one for the program


def test_captured_weights_that_change_are_seen():
    global WEIGHTS
    before, kept = next(js.many(KEY, draw, 4, batch=4))["x"], WEIGHTS
    try:
        WEIGHTS = WEIGHTS + 1
        assert not np.allclose(next(js.many(KEY, draw, 4, batch=4))["x"], before)
    finally:
        WEIGHTS = kept


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((None, draw, 4), {"batch": 2}, ValueError, "many: key is None"),
        ((KEY, 3, 4), {"batch": 2}, TypeError, "many: draw must be callable"),
        ((KEY, lambda key: None, 4), {"batch": 2}, TypeError, "many: draw must return an array .*, got None"),
        ((KEY, lambda key: {}, 4), {"batch": 2, "lanes": 2}, TypeError, "many: draw must return an array .*, got {}"),
        ((KEY, lambda key: (key, "a"), 4), {"batch": 2}, TypeError, "many: draw must return an array .*, got 'a'"),
        ((KEY, draw, 0), {"batch": 2}, ValueError, "many: num must be >= 1"),
        ((KEY, draw, 4.0), {"batch": 2}, TypeError, "many: num must be a Python int"),
        ((KEY, draw, 4), {"batch": 0}, ValueError, "many: batch must be >= 1"),
        ((KEY, draw, 4), {"batch": 2, "start": 5}, ValueError, "many: start must be in 0..4"),
        ((KEY, draw, 4), {"batch": 2, "mesh": 8}, TypeError, "many: mesh must be a jax.sharding.Mesh"),
        ((KEY, draw, 4), {"batch": 2, "lanes": 0}, ValueError, "many: lanes must be >= 1"),
        ((KEY, draw, 4), {"batch": 2, "progress": "yes"}, TypeError, "many: progress must be True or False"),
        ((jax.random.split(KEY, 3), draw, 4), {"batch": 2}, ValueError, "many: key must be one key"),
    ],
)
def test_bad_input_is_refused_at_the_call(arguments, options, error, match):
    with pytest.raises(error, match=match):
        js.many(*arguments, **options)
