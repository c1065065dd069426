"""Choosing channels: linear tasks against every subset, the schedule of the gates epoch by epoch, and one compile."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsamp as js
from jsamp.fit import _channels, _gates

KEY = jax.random.key(0)
ADAM = optax.adam(3e-3)
QUICK = js.fit.ChannelSchedule(settle=25, blend=5, fade=5, patience=4, epochs=60)


def affine(params, X):
    return X @ params["W"] + params["b"][None]


def linear(key, channels, outputs):
    return jax.tree_util.Partial(
        affine, {"W": 0.1 * jax.random.normal(key, (channels, outputs)), "b": jnp.zeros(outputs)}
    )


def noisy_linear(seed, active, channels=10, mixing=0.0):
    """Rows whose neighbouring channels may correlate, and targets that need `active` of them, in falling importance."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(600, channels)).astype(np.float32)
    X[:, 1:] += mixing * X[:, :-1]
    B = np.zeros((channels, 3))
    size = np.geomspace(2.0, 0.5, active)[:, None]
    rows = rng.normal(size=(active, 3))
    B[rng.permutation(channels)[:active]] = size * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return X, (X @ B + 0.1 * rng.normal(size=(600, 3))).astype(np.float32)


def best_subset(X, y, size):
    """The subset of least squares, by enumeration."""
    scaled = y / np.quantile(np.abs(y), 0.99, 0)
    error = lambda kept: np.linalg.lstsq(X[:, kept], scaled, rcond=None)[1].sum()
    return min((list(kept) for kept in itertools.combinations(range(X.shape[1]), size)), key=error)


@pytest.mark.parametrize(("seed", "mixing"), [(0, 0.0), (1, 0.0), (0, 0.3), (2, 0.3)])
def test_a_linear_task_gets_the_best_subset(seed, mixing):
    """The subset of the size that the task needs is that of the least squares of all 210."""
    X, y = noisy_linear(seed, 4, mixing=mixing)
    found = js.fit.choose_channels(
        jax.random.key(seed), X, y, (7, 4), task=linear(KEY, 10, 3), schedule=QUICK, optimiser=ADAM
    )
    assert found.x.index.tolist() == best_subset(X, y, 4)
    # The model of the four channels predicts as least squares on them does, to 10 % of what is left over.
    dense = np.linalg.lstsq(X[:, found.x.index], y, rcond=None)[0]
    oracle = np.mean((X[:, found.x.index] @ dense - y) ** 2)
    assert np.mean((np.asarray(found.x(X)) - y) ** 2) < 1.1 * oracle
    assert (found.x.mask == found.info.masks[-1]).all()
    assert found.info.masks.sum(1).tolist() == found.info.sizes.tolist() == [10, 7, 4]


def test_of_a_channel_and_its_copy_one_is_kept():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(500, 6)).astype(np.float32)
    X[:, 4] = X[:, 1]
    y = 2 * X[:, 1] + X[:, 3]
    found = js.fit.choose_channels(
        KEY, X, y, (4, 3, 2), task=linear(KEY, 6, 1), schedule=QUICK, optimiser=ADAM, batch=30
    )
    assert found.x.index.tolist() in ([1, 3], [3, 4])


def test_units_do_not_matter_and_unchosen_channels_are_not_read():
    """Channels in other units, targets in others: the same choice, the same prediction in those units."""
    X, y = noisy_linear(0, active=2, channels=6)
    y = y[:, 0]
    units = 2.0 ** np.arange(-3, 3).astype(np.float32)
    run = lambda X, y: js.fit.choose_channels(KEY, X, y, 2, schedule=QUICK, optimiser=ADAM).x
    first, second = run(X, y), run(X * units, 8 * y)
    assert first.index.tolist() == second.index.tolist()
    np.testing.assert_allclose(second(X * units), 8 * first(X), rtol=1e-4, atol=1e-4)
    assert first(X).shape == (600,)
    hidden = np.where(np.asarray(first.mask), X, np.nan)
    np.testing.assert_array_equal(first(hidden), first(X))


def test_gates_open_blend_and_fade_by_the_epoch():
    """The paper's program: 25 epochs, then mix falls by .05 an epoch, from 1 or from .5; then channels fade by .1."""
    schedule = js.fit.ChannelSchedule()
    assert schedule.warm == 45
    for epoch in range(60):
        mix, left = schedule(epoch, first=True)
        np.testing.assert_allclose(mix, np.clip(1 - 0.05 * (epoch - 24), 0, 1), atol=1e-6)
        mix, left = schedule(epoch)
        np.testing.assert_allclose(mix, np.clip(0.5 - 0.05 * (epoch - 24), 0, 0.5), atol=1e-6)
        np.testing.assert_allclose(left, np.clip(1 - 0.1 * (epoch - 34), 0, 1), atol=1e-6)


def test_a_gate_by_hand():
    gate = _gates.Gate(0.25, jnp.array([1.0, 0.5]), jnp.array([2.0, 1.0]), jnp.array([7.0, 3.0]))
    found = _gates.through(gate, jnp.array([[0.4, 2.0]]), jnp.array([[10.0, 5.0]]))
    np.testing.assert_allclose(found, [[(0.25 * 0.4 + 0.75 * 2) * 10, (0.25 * 2 + 0.75 * 1) * 4.0]], rtol=1e-6)
    np.testing.assert_allclose(_gates.scores_of(lambda X: jnp.zeros_like(X), jnp.ones((1, 2))), 1.0)


def test_one_compile_serves_all_sizes_and_their_number(caplog):
    X, y = noisy_linear(1, active=2, channels=6)
    traced = []

    def task(X, W=jnp.full((6, 3), 0.1)):
        traced.append(X.shape)
        return X @ W

    short = js.fit.ChannelSchedule(settle=1, blend=1, fade=1, patience=1, epochs=4)
    run = lambda sizes: js.fit.choose_channels(KEY, X, y, sizes, task=task, schedule=short, optimiser=ADAM, batch=60)
    with jax.log_compiles():
        run(3)
        assert "Compiling" in caplog.text
        steps = [shape for shape in traced if shape[0] == 60]
        caplog.clear()
        run((5, 4, 3, 2, 1))
        run((5, 1))
    assert "Compiling" not in caplog.text
    assert [shape for shape in traced if shape[0] == 60] == steps
    assert len(steps) == 1


def test_held_out_rows_decide_which_model_is_kept():
    """The reported error is that of the kept model on the rows that were held out, in scaled targets."""
    X, y = noisy_linear(2, active=2, channels=6)
    found = js.fit.choose_channels(
        KEY, X[:300], y[:300], (4, 2), schedule=QUICK, optimiser=ADAM, validation=(X[300:], y[300:])
    )
    for model, loss in zip(found.info.models, found.info.loss, strict=True):
        off = (np.asarray(model(X[300:])) - y[300:]) / np.asarray(model.unit)
        np.testing.assert_allclose(np.mean(off**2), loss, rtol=1e-4)
    assert (found.info.epochs > QUICK.warm).all() and (found.info.epochs <= QUICK.epochs).all()
    again = js.fit.choose_channels(
        KEY, X[:300], y[:300], (4, 2), schedule=QUICK, optimiser=ADAM, validation=(X[300:], y[300:])
    )
    np.testing.assert_array_equal(found.info.loss, again.info.loss)


def even(seed, num=400):
    """Rows whose three channels are missed by no linear model."""
    X = np.random.default_rng(seed).normal(size=(num, 10)).astype(np.float32)
    return X, np.abs(X[:, [2, 5, 9]]).sum(1)


def test_an_even_task_is_learned_by_the_networks_that_come_along():
    X, y = even(0)
    found = js.fit.choose_channels(KEY, X, y, (6, 3), schedule=QUICK, optimiser=ADAM)
    assert found.x.index.tolist() == [2, 5, 9]
    assert found.info.ok.all() and found.info.gap[-1] > 0.005
    assert found.info.loss[-1] < 0.1 * found.info.baseline


def test_a_choice_by_chance_is_told():
    """Targets that no channel has to do with: no model is better than the mean, and the report says so."""
    X, _ = even(0)
    y = np.random.default_rng(5).normal(size=len(X)).astype(np.float32)
    info = js.fit.choose_channels(KEY, X, y, (6, 3), schedule=QUICK, optimiser=ADAM).info
    assert not info.ok.any() and np.isinf(info.gap[0])
    held = np.asarray(jax.random.permutation(jax.random.split(KEY, 3)[0], len(X)))[: len(X) // 5]
    mean = np.delete(y, held).mean()
    unit = np.quantile(np.abs(np.delete(y, held)), 0.99)
    np.testing.assert_allclose(info.baseline, np.mean((y[held] - mean) ** 2) / unit**2, rtol=1e-5)


def test_what_is_missed_by_hand():
    """Each channel closed to its median raises the error of an exact model by its square coefficient times the spread."""
    X = jnp.asarray(np.random.default_rng(1).normal(size=(50, 3)), jnp.float32)
    W, center = jnp.array([[2.0], [0.0], [-1.0]]), jnp.array([0.1, 0.2, 0.3])
    gate = _gates.Gate(jnp.float32(0), jnp.ones(3), jnp.ones(3), center)
    nets = _channels._Nets(jax.tree_util.Partial(jnp.zeros_like), jax.tree_util.Partial(lambda W, X: X @ W, W))
    found = _channels._missed(gate, nets, (X, X @ W))
    np.testing.assert_allclose(found, W[:, 0] ** 2 * jnp.mean((X - center[None]) ** 2, 0), rtol=1e-5, atol=1e-9)
