"""What every schedule of `jsamp.noise` says in numbers: levels in float64, priors, slopes, the noiseless end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import central
from test_noise import SCHEDULES, TABLE, Falling, read

import jsamp as js

N = js.noise


def test_the_protocol():
    assert all(isinstance(one, N.Schedule) for one in (Falling(1.0), *(one for one, _, _ in SCHEDULES.values())))
    assert not isinstance(object(), N.Schedule)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_host_reads_the_same_formulas_in_float64(name):
    one, _, times = SCHEDULES[name]
    times = np.asarray(times, np.float32)
    single = jax.jit(jax.vmap(read, (None, 0)))(one, times)
    for i, t in enumerate(times.astype(np.float64)):
        for level, host in read(one, t).items():
            assert isinstance(host, np.float64)
            assert single[level].dtype == jnp.float32
            np.testing.assert_allclose(single[level][i], host, rtol=2e-5, atol=1e-6 * (level != "alpha"))


@pytest.mark.parametrize("name", SCHEDULES)
def test_priors(name):
    """Normal numbers of the scale of the noisiest time, of one shape or of a tree of shapes."""
    one, key = SCHEDULES[name][0], jax.random.key(0)
    x = one.prior(key, (4, 2))
    assert x.dtype == jnp.float32
    scale = {"VE": one.sigma(one.t_max), "OUVE": one.sigma(1.0)}.get(name, 1.0)
    np.testing.assert_allclose(x, scale * jax.random.normal(key, (4, 2)), rtol=1e-6)
    tree = one.prior(key, {"a": (2, 3), "b": [(4,), ()]})
    assert jax.tree.map(jnp.shape, tree, is_leaf=lambda v: False) == {"a": (2, 3), "b": [(4,), ()]}
    draws = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one.prior(key, [(500,), (500,)]))])
    assert abs(draws.std() / scale - 1) < 4.5 / np.sqrt(2000)
    assert abs(np.corrcoef(draws[:500], draws[500:])[0, 1]) < 4.5 / np.sqrt(500)


@pytest.mark.parametrize("name", SCHEDULES)
def test_slopes_of_schedules(name, x64):
    """Forward and reverse derivatives in t, finite at both ends of a grid, equal to finite differences inside."""
    one, _, times = SCHEDULES[name]
    times = np.array(times) + 0.13 * (name == "Discrete")
    ends = np.array([one.t_max, one.t_min])

    @jax.jit
    def slopes(times, ends, lams):
        of = lambda function, at: jax.vmap(jax.grad(function))(at)
        inside = {method: of(getattr(one, method), times) for method in ("alpha", "sigma", "lam")}
        return inside | {"time": of(one.time, lams)}, (of(one.alpha, ends), of(one.sigma, ends))

    lams = np.array([one.lam(np.float64(t)) for t in SCHEDULES[name][2]])
    inside, outside = slopes(times, ends, lams)
    for method in ("alpha", "sigma", "lam"):
        for t, slope in zip(times, inside[method], strict=True):
            wanted = central(lambda h, f=getattr(one, method), t=t: f(np.float64(t) + h), 1e-4 * min(t, 1.0))
            np.testing.assert_allclose(slope, wanted, rtol=1e-7, atol=1e-8, err_msg=f"{method} at {t}")
    for lam, slope in zip(lams, inside["time"], strict=True):
        wanted = central(lambda h, lam=lam: one.time(lam + h), 1e-5 if name == "Discrete" else 1e-4)
        np.testing.assert_allclose(slope, wanted, rtol=1e-6, atol=1e-9)
    assert np.all(np.isfinite(outside))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_noiseless_end(name):
    schedule = SCHEDULES[name][0]
    t = schedule.time(np.inf)
    assert schedule.alpha(t) == 1
    assert schedule.sigma(t) == 0
    assert schedule.lam(t) == np.inf
    assert np.isfinite(jax.grad(schedule.sigma)(jnp.float32(t)))
    assert t == (-1 if name == "Discrete" else 0)


def test_traced_numbers_pass_unchecked():
    """A user may search over the schedule itself."""

    def value(rate, top, low, table):
        schedules = [N.VP(0.1, rate), N.VE(low, top), N.Cosine(low), N.Discrete(table)]
        return sum(functools.reduce(lambda a, m: a + getattr(s, m)(0.3), ("alpha", "sigma"), 0.0) for s in schedules)

    table = jnp.asarray(TABLE, jnp.float32)
    grads = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(20.0, 80.0, 0.01, table)
    assert all(np.all(np.isfinite(g)) for g in grads)
