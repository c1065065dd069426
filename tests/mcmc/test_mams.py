"""Adjusted microcanonical trajectories against their Jacobian, themselves backwards, and blackjax; their lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.mcmc import _chees, _mams
from jsamp.mcmc._metric import whiten

KEY = jax.random.key(0)
FACTOR = jnp.array([[1.0, 0.0], [0.6, 0.5]])


def banana(x):
    return -(x[0] ** 2) / 2 - (x[1] - x[0] ** 2) ** 2 / 2


@pytest.fixture
def directed(monkeypatch):
    """Trajectories in a given direction: the key stands for it."""
    monkeypatch.setattr(_mams.k, "noise", lambda key, x: (key, jnp.zeros(())))


@pytest.mark.parametrize("metric", [None, js.mcmc.DenseMetric(FACTOR @ FACTOR.T)])
def test_the_log_ratio_is_density_and_volume(directed, metric):
    """For d = 2 the map (x, angle) -> (x, angle) has a Jacobian that autodiff gives."""
    kernel = js.mcmc.MAMS(banana, step_size=0.8, length=3.2, metric=metric, jitter=False)

    def move(z):
        direction = jnp.stack([jnp.cos(z[2]), jnp.sin(z[2])])
        t = kernel.trajectory(direction, kernel.init(z[:2]))
        x, u = t.proposed.position, t.velocity
        return jnp.append(x, jnp.arctan2(u[1], u[0])), t

    z = jnp.array([0.3, -0.4, 1.1])
    jacobian, t = jax.jacfwd(move, has_aux=True)(z)
    exact = banana(t.proposed.position) - banana(z[:2]) + jnp.log(abs(jnp.linalg.det(jacobian)))
    assert int(t.aux.steps) == 4
    assert abs(float(t.log_ratio)) > 0.03
    np.testing.assert_allclose(t.log_ratio, exact, atol=2e-5)

    back = kernel.trajectory(-t.velocity, t.proposed)
    np.testing.assert_allclose(back.proposed.position, z[:2], atol=1e-5)
    np.testing.assert_allclose(back.log_ratio, -t.log_ratio, atol=1e-5)


def test_a_step_is_that_of_blackjax(directed):
    blackjax = pytest.importorskip("blackjax")
    from blackjax.mcmc.integrators import IntegratorState, isokinetic_velocity_verlet

    target = lambda x: -jnp.sum(x**4) / 4
    x, u = jnp.array([0.5, -1.0, 0.2]), jnp.array([0.6, 0.0, 0.8])
    ours = js.mcmc.MAMS(target, step_size=0.3, length=0.3, jitter=False)
    t = ours.trajectory(u, ours.init(x))
    start = IntegratorState(x, u, *jax.value_and_grad(target)(x))
    with jax.numpy_rank_promotion("allow"):
        end, kinetic = isokinetic_velocity_verlet(target, 1.0)(start, 0.3)
    assert blackjax.__version__
    np.testing.assert_allclose(t.proposed.position, end.position, rtol=1e-5)
    np.testing.assert_allclose(t.velocity, end.momentum, rtol=1e-5)
    np.testing.assert_allclose(t.log_ratio, end.logdensity - start.logdensity - kinetic, atol=1e-5)


def test_tuned_draws_have_the_moments_of_a_normal():
    scale = jnp.geomspace(0.3, 3.0, 8)
    kernel = js.mcmc.MAMS(lambda x: -jnp.sum((x / scale) ** 2) / 2)
    starts = jax.random.normal(KEY, (16, 8))
    kernel, x = js.mcmc.tune(KEY, kernel, starts, 300, chains=16, length="chees")
    draws, info = js.chains(KEY, kernel, x, 400)
    z = draws / scale[None, None]
    estimate = js.estimate.mean(z**2)
    assert jnp.all(abs(estimate.value - 1) < 5 * estimate.stderr)
    assert jnp.all(estimate.stderr < 0.06)
    assert abs(float(info.accept.mean()) - 0.9) < 0.07


def slopes(kernel, keys, x, axis="chains"):
    def one(key, x):
        state = kernel.init(x)
        t = kernel.trajectory(key, state)
        return _chees.slope(kernel, state, t, jnp.ones(()), axis)

    return jax.vmap(one, axis_name=axis)(keys, x)[0]


@pytest.mark.parametrize("metric", [None, jnp.full(3, 4.0)])
def test_the_slope_of_the_criterion_on_a_round_normal(metric):
    """There the criterion is d sin(t)^2, by hand; its slope by log t is t d sin(2 t)."""
    scale = 1.0 if metric is None else 2.0
    kernel = js.mcmc.HMC(
        lambda x: -jnp.sum((x / scale) ** 2) / 2, step_size=0.05, length=1.0, metric=metric, jitter=False
    )
    keys = jax.random.split(KEY, (24, 800))
    x = scale * jax.random.normal(jax.random.key(1), (24, 800, 3))
    found = jax.jit(lambda: jax.lax.map(lambda each: slopes(kernel, *each), (keys, x)))()
    stderr = np.std(found, ddof=1) / np.sqrt(24)
    assert stderr < 0.1
    assert abs(float(found.mean()) - 3 * np.sin(2.0)) < 5 * stderr


@pytest.mark.parametrize("start", [0.3, 2.2])
def test_the_length_climbs_to_the_best(start):
    """On a round normal the criterion is the mean of sin(t)^2 over the jittered times t, in whole steps."""
    kernel = js.mcmc.HMC(lambda x: -jnp.sum((x / 3) ** 2) / 2, step_size=0.2, length=start)
    x = 3 * jax.random.normal(KEY, (32, 10))
    tuned, _ = js.mcmc.tune(KEY, kernel, x, 600, chains=32, length="chees", target=0.98)
    step, shares, lengths = float(tuned.step_size), np.linspace(0.4, 1.6, 1001), np.linspace(0.5, 2.5, 1001)
    times = step * np.ceil(shares[:, None] * lengths / step)
    best = lengths[np.argmax(np.mean(np.sin(times) ** 2, 0))]
    assert step < 0.7
    assert abs(float(tuned.length) / best - 1) < 0.2
    same, _ = js.mcmc.tune(KEY, kernel, x, 40, chains=32)
    assert float(same.length) == pytest.approx(start)


def test_lengths_are_refused_where_there_is_nothing_to_compare():
    kernel = js.mcmc.HMC(banana)
    for options in ({}, {"chains": 1}):
        x = jnp.zeros((1, 2)) if options else jnp.zeros(2)
        with pytest.raises(ValueError, match="length='chees' compares chains"):
            js.mcmc.tune(KEY, kernel, x, 40, length="chees", **options)
    with pytest.raises(TypeError, match="MALA has no trajectory"):
        js.mcmc.tune(KEY, js.mcmc.MALA(banana), jnp.zeros((4, 2)), 40, chains=4, length="chees")
    with pytest.raises(ValueError, match="tune: length must be one of"):
        js.mcmc.tune(KEY, kernel, jnp.zeros((4, 2)), 40, chains=4, length="long")


def test_whitening_undoes_the_metric():
    x = jnp.array([0.4, -1.0])
    for metric in (None, 4.0, jnp.array([4.0, 9.0]), js.mcmc.DenseMetric(FACTOR @ FACTOR.T)):
        np.testing.assert_allclose(js.mcmc._metric.push(metric, whiten(metric, x)), x, rtol=1e-5)
