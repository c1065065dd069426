"""One Brownian path under every grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

S, VP = js.solve, js.noise.VP()


def run(key, network, x, n, make):
    plan = make(VP, js.noise.logsnr_grid(VP, n))
    steer = js.steer.OwnNoise(js.steer.Brownian(key))
    return js.sample(jax.random.key(0), js.Denoiser(network, VP, predicts="x0"), x, plan, steer=steer).x


def first_order(schedule, grid):
    return S.dpmpp(schedule, grid, order=1, tau=1.0)


def test_a_finer_grid_refines_the_same_sample_exactly_where_the_steps_are_exact():
    """With a fixed x0 the first-order step of the reverse SDE is exact, and its noise adds up along the path."""
    draw = jax.jit(lambda n, x: run(jax.random.key(4), lambda x, t: 0.3 + 0 * x, x, n, first_order), static_argnums=0)
    x = jax.random.normal(jax.random.key(1), (200,))
    samples = {n: np.asarray(draw(n, x)) - 0.3 for n in (4, 16, 64)}
    for n in (16, 64):
        np.testing.assert_allclose(samples[n], samples[4], atol=1e-3 * samples[4].std())
    other = np.asarray(run(jax.random.key(5), lambda x, t: 0.3 + 0 * x, x, 4, first_order)) - 0.3
    assert abs(np.corrcoef(other, samples[4])[0, 1]) < 4.5 / np.sqrt(200)


@pytest.mark.parametrize("make", [first_order, lambda s, g: S.dpmpp(s, g, tau=1.0)], ids=["first", "second"])
def test_samples_converge_along_the_path(make):
    draw = jax.jit(lambda n, x: run(jax.random.key(4), lambda x, t: jnp.tanh(x), x, n, make), static_argnums=0)
    x = jax.random.normal(jax.random.key(1), (400,))
    samples = [np.asarray(draw(n, x)) for n in (10, 20, 40, 160)]
    errors = [np.sqrt(np.mean((s - samples[-1]) ** 2)) for s in samples[:-1]]
    # Additive noise: strong order one.
    assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2], errors
    assert errors[2] < 0.2 * np.std(samples[-1])


def test_increments_are_standard_normal_and_independent():
    plan = first_order(VP, js.noise.time_grid(VP, 6))
    infos = [
        S.StepInfo(i, plan.t[i], plan.alpha[i], plan.sigma[i], plan.t_next[i], plan.alpha_next[i], plan.sigma_next[i],
                   None, None, None, None, jnp.zeros(20_000)) for i in range(6)
    ]  # fmt: skip
    z = np.array([js.steer.Brownian(jax.random.key(2))(info) for info in infos])
    assert np.abs(z.mean(1)).max() < 4.5 / np.sqrt(20_000)
    assert np.abs(z.var(1) - 1).max() < 4.5 * np.sqrt(2 / 20_000)
    assert np.abs(np.corrcoef(z) - np.eye(6)).max() < 4.5 / np.sqrt(20_000)


def test_the_last_step_to_zero_noise_and_trees():
    flow = js.noise.Flow()
    plan = S.ddim(flow, js.noise.time_grid(flow, 6, final="zero"), eta=1.0)
    network = js.Denoiser(lambda x, t: jax.tree.map(jnp.tanh, x), flow, predicts="x0")
    x = {"a": jnp.ones(3), "b": jnp.zeros((2, 2))}
    steer = js.steer.OwnNoise(js.steer.Brownian(jax.random.key(0)))
    found = jax.vmap(lambda k: js.sample(k, network, x, plan, steer=steer).x)(jax.random.split(jax.random.key(1), 2))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    # The path has its own key: that of the run draws nothing that stays.
    np.testing.assert_allclose(found["a"][0], found["a"][1], atol=1e-5)


@pytest.mark.parametrize(("make", "match"), [
    (lambda: js.steer.Brownian(3), "Brownian: key"), (lambda: js.steer.Brownian(None), "key is None"),
    (lambda: js.steer.Brownian(jax.random.key(0), depth=0), "depth must be"),
    (lambda: js.steer.Brownian(jax.random.key(0), 2.0), "depth must be a Python int"),
])  # fmt: skip
def test_refusals(make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make()
