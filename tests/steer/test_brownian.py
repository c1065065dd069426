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


def extreme():
    """Steps beyond the ends of the path, where it stood still, and one across each end."""
    return first_order(js.noise.VE(1e-12, 1e12), np.exp([25.0, 20.0, 17.0, 10.0, -14.0, -17.0, -20.0, -25.0]))


PLANS = {
    "down": lambda: first_order(VP, js.noise.time_grid(VP, 6)),
    "beyond": extreme,
    "jumps": lambda: S.jumps(first_order(VP, js.noise.time_grid(VP, 6)), length=2, repeats=3),
    "cut": lambda: S.jumps(first_order(VP, js.noise.time_grid(VP, 6)), length=2, repeats=3)[5:],
}


@pytest.mark.parametrize("name", PLANS)
def test_increments_are_standard_normal_and_independent(name):
    plan, num = PLANS[name](), 20_000
    path = js.steer.Brownian(jax.random.key(2)).begin(plan)
    infos = S.StepInfo(np.arange(plan.nfe), plan.t, plan.alpha, plan.sigma, plan.t_next, plan.alpha_next,
                       plan.sigma_next, *[None] * 4)  # fmt: skip
    z = np.array(jax.jit(lambda infos: jax.lax.map(lambda i: path(i._replace(noise=jnp.zeros(num))), infos))(infos))
    assert np.abs(z.mean(1)).max() < 4.5 / np.sqrt(num)
    assert np.abs(z.var(1) - 1).max() < 4.5 * np.sqrt(2 / num)
    assert np.abs(np.corrcoef(z) - np.eye(plan.nfe)).max() < 4.5 / np.sqrt(num)


def test_a_run_in_pieces_draws_the_noise_of_the_whole_run():
    """Also where the pieces of a run that goes back up are cut inside its second way down."""
    plan = S.jumps(first_order(VP, js.noise.time_grid(VP, 6)), length=2, repeats=3)
    key, steer = jax.random.key(0), js.steer.OwnNoise(js.steer.Brownian(jax.random.key(3)))
    network, x = js.Denoiser(lambda x, t: jnp.tanh(x), VP, predicts="x0"), jnp.linspace(-1, 1, 5)
    whole = js.sample(key, network, x, plan, steer=steer).x
    for cuts in ((3,), (5, 9)):
        y = x
        for low, high in zip((0, *cuts), (*cuts, plan.nfe), strict=True):
            y = js.sample(key, network, y, plan[low:high], steer=steer).x
        np.testing.assert_allclose(y, whole, rtol=1e-6, atol=1e-6)
    twice = plan[2:][3:]
    np.testing.assert_array_equal(twice.visit, plan[5:].visit)
    assert plan[:3].visit is None


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
