"""The optimisation loop against a loop written by hand; every kind of model, of data and of ending."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsamp as js
from jsamp._core._pytree import pytree
from jsamp.fit._data import permutation

KEY = jax.random.key(0)
DATA = jax.random.normal(jax.random.key(1), (60, 2))
LOSS = js.loss.Match(js.noise.VE(), predicts="x0", times=js.loss.UniformTimes(0.5, 1.0))
ADAM = optax.adam(0.05)


def gain(value=0.0):
    return jax.tree_util.Partial(_gain, {"gain": jnp.full((2,), value), "shift": jnp.zeros(2)})


def _gain(params, x, t):
    return params["gain"] * x + params["shift"]


def by_hand(steps, model, loss=LOSS, size=20):
    """Epochs without replacement, Adam, a warmed-up average: written out."""
    params = model.args[0]
    state, average, values = ADAM.init(params), params, []
    for k in range(steps):
        epoch, place = divmod(k, 3)
        order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(KEY, 2**31), epoch), 60)
        batch = DATA[order[place * size : (place + 1) * size]]
        build = lambda p: jax.tree_util.Partial(_gain, p)
        key = jax.random.fold_in(KEY, k)
        (value, _), slope = jax.value_and_grad(lambda p: loss(key, build(p), batch), has_aux=True)(params)
        updates, state = ADAM.update(slope, state, params)
        params = optax.apply_updates(params, updates)
        decay = min(0.9, (1 + k) / (10 + k))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        values.append(value)
    return params, average, values


def test_equals_a_loop_written_by_hand():
    params, average, values = by_hand(5, gain())
    model, info = js.fit.minimise(KEY, LOSS, gain(), DATA, optimiser=ADAM, steps=5, batch=20, ema=0.9)
    for found, wanted in ((model.args[0], params), (info.average.args[0], average)):
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(info.loss, values, rtol=2e-5)
    assert info.stopped == "" and info.state.step == 5 and info.kept is None


@pytest.mark.parametrize("rows", [1, 60, 3000])
def test_orders_of_epochs_are_those_of_jax(rows):
    """Sorted by numpy in one round for a few rows, in two for many."""
    found, wanted = permutation(KEY, 3, rows), jax.random.permutation(jax.random.fold_in(KEY, 3), rows)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == wanted.dtype


def test_resumes_bit_for_bit_and_compiles_once():
    run = lambda steps, **options: js.fit.minimise(
        KEY, LOSS, gain(), DATA, optimiser=ADAM, steps=steps, batch=20, ema=0.9, **options
    )
    model, info = run(7)
    _, first = run(3)
    # Saved and read back: through numpy.
    state = first.state._replace(model=jax.tree.map(np.asarray, first.state.model))
    again, second = run(7, state=state)
    for a, b in zip(jax.tree.leaves((model, info.average)), jax.tree.leaves((again, second.average)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(info.loss[3:], second.loss)
    assert run(7, state=info.state).info.loss.shape == (0,)


class Flax(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, use_running_average=True, rngs=rngs)
        self.out = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x, t):
        return self.out(self.norm(x))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, t):
        return linen.Dense(2)(x)


class Equinox(eqx.Module):
    net: eqx.nn.MLP
    repeats: int = 2
    residual: bool = True

    def __call__(self, x, t):
        for _ in range(self.repeats):
            x = x + self.net(x) if self.residual else self.net(x)
        return x


def models():
    yield "nnx", js.denoise.EDM(Flax(nnx.Rngs(0)), 1.0)
    yield "linen", jax.tree_util.Partial(Linen().apply, Linen().init(KEY, jnp.ones(2), 0.5))
    yield "equinox", Equinox(eqx.nn.MLP(2, 2, 4, 1, key=KEY))


@pytest.mark.parametrize(("kind", "model"), list(models()), ids=lambda v: v if isinstance(v, str) else "")
def test_trains_models_of_every_library(kind, model):
    trained, info = js.fit.minimise(KEY, LOSS, model, DATA, optimiser=ADAM, steps=60, batch=60)
    assert type(trained) is type(model)
    assert np.mean(info.loss[-10:]) < np.mean(info.loss[:5])
    if kind == "nnx":
        assert trained.sigma_data == 1.0 and isinstance(trained.sigma_data, float)
        np.testing.assert_array_equal(trained.model.norm.mean[...], model.model.norm.mean[...])
        assert np.any(trained.model.out.kernel[...] != model.model.out.kernel[...])
    trained(jnp.ones(2), 0.5)


def test_trainable_freezes_by_path():
    model, _ = js.fit.minimise(
        KEY, LOSS, gain(0.3), DATA, optimiser=ADAM, steps=3, batch=20, trainable=lambda path, leaf: "gain" in path
    )
    assert np.all(model.args[0]["shift"] == 0) and np.all(model.args[0]["gain"] != 0.3)


def test_takes_numpy_iterators_loaders_and_functions():
    run = lambda data, batch=None, steps=4: js.fit.minimise(
        KEY, LOSS, gain(), data, optimiser=ADAM, steps=steps, batch=batch
    )
    chosen = run(DATA, 20)
    np.testing.assert_array_equal(run(np.asarray(DATA), 20).info.loss, chosen.info.loss)
    seen = [DATA[:20], DATA[20:40], DATA[40:], DATA[:20]]
    listed = run(iter(seen)).info
    assert listed.stopped == ""
    np.testing.assert_array_equal(run(lambda step: seen[step]).info.loss, listed.loss)

    class Loader:
        def __iter__(self):
            return iter(seen[:3])

    np.testing.assert_array_equal(run(Loader()).info.loss, listed.loss)  # starts again
    short = run(iter(seen[:2]), steps=9).info
    assert short.stopped == "data ended" and short.state.step == 2 and short.loss.shape == (2,)
    # A last batch of fewer rows is welcome.
    assert run(iter([DATA[:20], DATA[:7]]), steps=2).info.loss.shape == (2,)


def test_an_interrupt_loses_nothing():
    def batches(step):
        if step == 3:
            raise KeyboardInterrupt
        return DATA[:20]

    model, info = js.fit.minimise(KEY, LOSS, gain(), batches, optimiser=ADAM, steps=9, keep=lambda model, aux: aux.each)
    assert info.stopped == "interrupted" and info.state.step == 3
    assert info.loss.shape == (3,) and info.kept.shape == (3, 20)
    np.testing.assert_allclose(info.kept.mean(1), info.loss, rtol=1e-6)
    np.testing.assert_array_equal(model.args[0]["gain"], info.state.model.args[0]["gain"])


def pull(which):
    """A player's loss: it pulls the player to the other one plus one."""

    class Pull(js.loss._protocol.Called):
        player = which

        def draw(self, key, batch):
            return batch

        def value(self, model, drawn):
            return jnp.mean((model[which] - jax.lax.stop_gradient(model[1 - which]) - 1) ** 2), None

    return Pull()


def test_players_act_in_turn_with_their_own_optimisers():
    model = (jnp.zeros(()), jnp.zeros(()))
    rates = (optax.sgd(0.5), optax.sgd(0.25))
    trained, info = js.fit.minimise(
        KEY, (pull(0), pull(1)), model, DATA, optimiser=rates, steps=1, batch=20, ema=lambda step: 0.0
    )
    # First: 0 -> 1 (the whole way); then the second, seeing 1: half of the way to 2.
    assert [float(v) for v in trained] == [1.0, 1.0]
    assert info.loss.tolist() == [[1.0, 4.0]]
    assert [float(v) for v in info.average] == [1.0, 1.0]


def test_follow_moves_the_second_player_to_the_first():
    def loss(key, model, batch):
        return jnp.sum(model[0].args[0]["gain"] - 0 * model[1].args[0]["gain"]), None

    one = lambda decay: js.fit.minimise(
        KEY, loss, (gain(), gain(8.0), gain(5.0)), DATA, optimiser=optax.sgd(1.0), steps=1, batch=20, follow=decay,
        trainable=lambda path, leaf: path.startswith("[0]"),
    ).x  # fmt: skip
    for decay, wanted in ((0.75, 5.75), (lambda step: 0.0 * step, -1.0)):
        student, target, other = one(decay)
        np.testing.assert_array_equal(other.args[0]["gain"], 5.0)
        np.testing.assert_allclose(student.args[0]["gain"], -1.0)
        np.testing.assert_allclose(target.args[0]["gain"], wanted)


@pytree
class Counting(js.loss._protocol.Called):
    """A loss that remembers how often it was used."""

    count: float = 0.0

    def draw(self, key, batch):
        return batch

    def value(self, model, drawn):
        return self.count + 0 * jnp.sum(model["w"]), self.count + 1

    def remember(self, aux):
        return Counting(aux)


def test_a_loss_remembers():
    run = lambda steps, state=None: (
        js.fit.minimise(
            KEY, Counting(2.0), {"w": jnp.ones(1)}, DATA, optimiser=ADAM, steps=steps, batch=20, state=state
        ).info
    )
    info = run(3)
    assert info.loss.tolist() == [2.0, 3.0, 4.0] and float(info.state.loss[0].count) == 5.0
    assert run(4, info.state).loss.tolist() == [5.0]


def test_optimisers_that_ask_for_the_value_get_it():
    quadratic = lambda key, model, batch: (jnp.sum((model["w"] - jnp.array([1.0, 3.0])) ** 2), None)
    model, _ = js.fit.minimise(KEY, quadratic, {"w": jnp.zeros(2)}, DATA, optimiser=optax.lbfgs(), steps=8, batch=20)
    np.testing.assert_allclose(model["w"], [1.0, 3.0], atol=1e-4)


def test_progress_is_drawn_when_asked(capsys):
    js.fit.minimise(KEY, LOSS, gain(), DATA, optimiser=ADAM, steps=2, batch=20)
    assert capsys.readouterr().err == ""
    js.fit.minimise(KEY, LOSS, gain(), DATA, optimiser=ADAM, steps=2, batch=20, progress=True)
    assert "2/2" in capsys.readouterr().err


def test_the_nan_of_a_memory_map_is_refused_with_the_batch_that_holds_it(tmp_path):
    """The map is not read ahead, so the refusal names the step; every row is in some batch of an epoch."""
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (12, 2))
    rows[:], rows[7, 1] = 1.0, np.nan
    with pytest.raises(ValueError, match=r"batch [012] of data holds NaN"):
        js.fit.minimise(KEY, LOSS, gain(), rows, optimiser=ADAM, steps=3, batch=4)


def test_memory_maps_are_read_a_batch_at_a_time(tmp_path):
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (60, 2))
    rows[:] = DATA
    taken = []

    class Watched(np.memmap):
        def __getitem__(self, index):
            found = super().__getitem__(index)
            taken.append(np.shape(found))
            return np.asarray(found)

    watched = np.lib.format.open_memmap(tmp_path / "rows.npy", "r").view(Watched)
    model, _ = js.fit.minimise(KEY, LOSS, gain(), watched, optimiser=ADAM, steps=3, batch=20)
    same, _ = js.fit.minimise(KEY, LOSS, gain(), DATA, optimiser=ADAM, steps=3, batch=20)
    np.testing.assert_array_equal(model.args[0]["gain"], same.args[0]["gain"])
    assert {shape for shape in taken if len(shape) == 2} == {(20, 2)}
