"""DiffPIR: its exact recursion on Gaussian data, its limits, and the posterior where it samples that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

VP = js.noise.VP()
PLAN = js.solve.ddim(VP, js.noise.logsnr_grid(VP, 20, final="zero"))
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
OP = js.denoise.LinearOp.dense(np.array([2.0, 0.3])[:, None] * ROTATION.T[:2])
BARE = js.denoise.LinearOp(OP.apply)
Y = jnp.array([1.6, -0.2])
MEAN, STD = np.array([0.4, -0.3, 0.2]), 0.8
LAW = js.denoise.GaussianMixture(VP, weights=[1.0], means=[MEAN], stds=[STD])
START = jnp.array([0.7, -1.1, 0.4])


def law_of(plan, s, noise, y, m, std, weight, zeta):
    """Mean and variance of one direction of singular value s, data N(m, std^2) and x_T ~ N(0, 1): row by row."""
    mean, var = 0.0, 1.0
    for a, v, b, u in zip(plan.alpha, plan.sigma, plan.alpha_next, plan.sigma_next, strict=True):
        gain = a * std**2 / (a**2 * std**2 + v**2)
        push = m - gain * a * m
        if s:
            share = 1.0 if noise is None else s**2 / (s**2 + noise**2 * weight * a**2 / v**2)
            gain, push = (1 - share) * gain, (1 - share) * push + share * y / s
        rest = u * np.sqrt(1 - zeta) / v
        gain, push = (b - rest * a) * gain + rest, (b - rest * a) * push
        mean, var = gain * mean + push, gain**2 * var + zeta * u**2
    return mean, var


@pytest.mark.parametrize(("noise", "options"), [
    (0.5, [(1.0, 0.3), (2.5, 1.0), (0.4, 0.0)]), (None, [(1.0, 0.6)]),
])  # fmt: skip
def test_it_follows_its_recursion(noise, options):
    """Three directions at once: seen well, seen dimly, unseen; in a rotated basis; 4000 runs."""

    @jax.jit
    def draw(keys, steer):
        one = lambda k: js.sample(k, LAW, jax.random.normal(jax.random.fold_in(k, 99), (3,)), PLAN, steer=steer).x
        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.key(0), 4000)
    for weight, zeta in options:
        steer = js.steer.DiffPIR(OP, Y, noise=noise, weight=weight, zeta=zeta)
        basis = np.stack([np.asarray(OP.svd.v(e), np.float64) for e in jnp.eye(3)])
        c = np.asarray(draw(keys, steer), np.float64) @ basis.T
        seen = np.asarray(OP.svd.ut(Y))
        for k, s in enumerate(np.asarray(OP.svd.values)):
            mean, var = law_of(PLAN, s, noise, seen[k], basis[k] @ MEAN, STD, weight, zeta)
            assert abs(c[:, k].mean() - mean) < 4.5 * np.sqrt(var / 4000) + 1e-4
            assert abs(c[:, k].var() - var) < 4.5 * var * np.sqrt(2 / 4000) + 1e-4


def test_without_singular_values_the_samples_are_the_same():
    run = jax.jit(lambda steer: js.sample(jax.random.key(1), LAW, START, PLAN, steer=steer).x)
    for noise, steps in ((0.5, (None, 4)), (None, (4,))):
        wanted = run(js.steer.DiffPIR(OP, Y, noise=noise))
        for iterations in steps:
            got = run(js.steer.DiffPIR(BARE, Y, noise=noise, iterations=iterations))
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(OP(wanted), Y, atol=1e-4)


def exact_weight(t):
    return 1 + (VP.sigma(t) / (VP.alpha(t) * STD)) ** 2


def test_with_the_variance_of_the_data_it_is_ddim_on_the_posterior():
    matrix, noise = np.asarray(jax.vmap(OP)(jnp.eye(3)), np.float64).T, 0.5
    cov = np.linalg.inv(np.eye(3) / STD**2 + matrix.T @ matrix / noise**2)
    mean = cov @ (MEAN / STD**2 + matrix.T @ np.asarray(Y) / noise**2)
    posterior = js.denoise.GaussianMixture(VP, weights=[1.0], means=[mean], covs=[cov])
    steer = js.steer.DiffPIR(OP, Y, noise=noise, weight=exact_weight, zeta=0.0)
    kept = lambda law, steer: js.sample(None, law, START, PLAN, steer=steer, keep=lambda x, p: (x, p.x0)).info.kept
    for got, wanted in zip(kept(LAW, steer), kept(posterior, None), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4)


def test_a_measurement_that_says_nothing_leaves_ddim():
    base = js.sample(None, LAW, START, PLAN).x
    for options in ({"noise": 1e6}, {"noise": 0.5, "weight": 1e12}):
        got = js.sample(None, LAW, START, PLAN, steer=js.steer.DiffPIR(OP, Y, zeta=0.0, **options)).x
        np.testing.assert_allclose(got, base, rtol=1e-4, atol=1e-5)


def test_at_low_noise_it_is_langevin_at_half_temperature():
    """weight = zeta = 1 and 1000 steps between sigma 0.06 and 0.05: the posterior's mean, half of its variance."""
    ve, noise = js.noise.VE(), 0.5
    plan = js.solve.ddim(ve, np.geomspace(0.06, 0.05, 1001))
    law = js.denoise.GaussianMixture(ve, weights=[1.0], means=[[1.0]], stds=[1.0])
    steer = js.steer.DiffPIR(js.denoise.LinearOp.mask(jnp.ones(1)), jnp.zeros(1), noise=noise, zeta=1.0)
    x = jax.jit(jax.vmap(lambda key: js.sample(key, law, jnp.ones(1), plan, steer=steer).x))
    x = np.asarray(x(jax.random.split(jax.random.key(0), 4000)), np.float64)
    var = 1 / (1 + noise**-2)
    assert abs(x.mean() - var) < 4.5 * np.sqrt(var / 2 / 4000) + 0.003
    assert abs(x.var() / (var / 2) - 1) < 4.5 * np.sqrt(2 / 4000) + 0.02


@js.pytree
class Swap(js.steer.Hooks):
    """Reorders the particles at row 3."""

    def mid(self, key, g, x, prediction, info):
        index = jnp.where(info.index == 3, jnp.array([1, 0, 0]), jnp.arange(3))
        return g, x[index], jax.tree.map(lambda v: v[index], prediction), index


def test_rows_keep_apart_and_follow_reordering():
    x = jnp.stack([START, -START, 2 * START])
    run = jax.jit(lambda steer, x: js.sample(jax.random.key(0), LAW, x, PLAN, steer=steer).x)
    rows = js.steer.DiffPIR(OP, Y, noise=0.5, zeta=0.0, event_ndim=1)
    together = run(rows, x)
    alone = jnp.stack([run(js.steer.DiffPIR(OP, Y, noise=0.5, zeta=0.0), row) for row in x])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    swapped = run(js.steer.chain(rows, Swap()), x)
    np.testing.assert_allclose(swapped, together[jnp.array([1, 0, 0])], rtol=1e-4, atol=1e-5)
    # The unseen direction of DDRM without fresh noise.
    mask = js.denoise.LinearOp.mask(jnp.zeros((3, 3)).at[:, 0].set(1))
    ddrm = js.steer.DDRM(mask, jnp.zeros((3, 3)), eta=0.0)
    got, base = run(js.steer.chain(ddrm, Swap()), x), run(ddrm, x)
    np.testing.assert_allclose(got[:, 1:], base[jnp.array([1, 0, 0]), 1:], rtol=1e-4, atol=1e-5)


def test_refusals():
    make = js.steer.DiffPIR
    run = lambda steer, plan=PLAN, key=None: js.sample(key, LAW, START, plan, steer=steer)
    with pytest.raises(ValueError, match="stages or a corrector"):
        run(make(OP, Y, zeta=0.0), js.solve.heun(VP, js.noise.time_grid(VP, 4)))
    for options in (
        {"noise": -1.0},
        {"weight": 0.0},
        {"weight": np.nan},
        {"zeta": 1.5},
        {"zeta": -0.1},
        {"iterations": 0},
    ):
        with pytest.raises(ValueError, match=f"DiffPIR: {next(iter(options))}"):
            make(OP, Y, **options)
    with pytest.raises(TypeError, match="DiffPIR: op"):
        make(np.eye(3), Y)
    with pytest.raises(ValueError, match=r"DiffPIR: y has shapes .*event_ndim"):
        run(make(OP, jnp.zeros(3), zeta=0.0))
    with pytest.raises(TypeError, match="DiffPIR: y must have the structure"):
        run(make(OP, [Y], zeta=0.0))
    with pytest.raises(ValueError, match="event_ndim=2 does not fit"):
        run(make(OP, Y, zeta=0.0, event_ndim=2))
    assert not make(OP, Y, zeta=0.0).stochastic
    with pytest.raises((TypeError, ValueError), match="key"):
        run(make(OP, Y))
