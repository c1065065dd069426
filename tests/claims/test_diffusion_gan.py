"""Xiao, Kreis and Vahdat, "Tackling the Generative Learning Trilemma with Denoising Diffusion GANs", 2022,
arXiv:2112.07804.

Claim: a GAN of four denoising steps finds 24 of 25 Gaussians on a grid, where the same networks trained alike in one
step do worse. A mode is found when 20 of 2,500 samples lie close to it, within four standard deviations; by that count
one step finds 20 to 25, by the seed. The steps are told apart by how many modes have half of their share (two seeds: 22
and 23, against 13 and 15) and by how many samples are close to any (.90 and .87, against .70 and .69).

The levels are spread in the ratio of noise to signal, about three between each two: with times spread evenly, the first
three steps do next to nothing on data this narrow, and the last is a GAN of one step. The networks see Fourier features
of their points; without them neither GAN finds the modes in so few updates.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsamp as js

SCHEDULE = js.noise.VP()
CENTRES = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), -1).reshape(-1, 2) / np.sqrt(2)
STD, LATENT, UPDATES = 0.05, 2, 2400
FREQUENCIES = 5 * np.random.default_rng(0).normal(size=(2, 24)).astype(np.float32)
LEVELS = np.array([1.0, *(float(SCHEDULE.time(-np.log(ratio))) for ratio in (1.2, 0.4, 0.15)), 0.0])


def init(key, inputs, out, width=64):
    k = jax.random.split(key, 4)
    draw = lambda key, rows, columns: jax.random.normal(key, (rows, columns)) * np.sqrt(2 / rows)
    layers = {"w0": draw(k[0], inputs + 8 + 2 * FREQUENCIES.shape[1], width), "b0": jnp.zeros(width)}
    for i in (1, 2):
        layers |= {f"w{i}": draw(k[i], width, width), f"b{i}": jnp.zeros(width)}
    return layers | {"out": 0.2 * draw(k[3], width, out)}


def network(params, x, t, point):
    """A perceptron of x, the time, and Fourier features of the point."""
    angle = jnp.concatenate([point @ jnp.asarray(FREQUENCIES), np.pi * 2.0 ** np.arange(4, dtype=np.float32) * t])
    h = jnp.concatenate([x, jnp.cos(angle), jnp.sin(angle)])
    for i in range(3):
        h = jax.nn.leaky_relu(h @ params[f"w{i}"] + params[f"b{i}"], 0.2)
    return h @ params["out"]


def generator(params, x, t, z):
    return network(params, jnp.concatenate([x, z]), t, x)


def critic(params, x, t, above):
    return network(params, jnp.concatenate([3 * x, above]), t, x)[0]


def data(key, n):
    k_mode, k_noise = jax.random.split(key)
    modes = jnp.asarray(CENTRES, jnp.float32)[jax.random.randint(k_mode, (n,), 0, 25)]
    return modes + STD * jax.random.normal(k_noise, (n, 2))


def train(key, grid):
    """The averaged generator."""
    k = jax.random.split(key, 4)
    players = (
        jax.tree_util.Partial(generator, init(k[0], 2 + LATENT, 2)),
        jax.tree_util.Partial(critic, init(k[1], 4, 1)),
    )
    losses = (js.loss.GANCritic(SCHEDULE, grid, LATENT, r1=3e-4), js.loss.GANGenerator(SCHEDULE, grid, LATENT))
    rate = optax.adam(optax.cosine_decay_schedule(3e-3, UPDATES, 0.05), b1=0.5, b2=0.9)
    info = js.fit.minimise(
        k[2], losses, players, data(k[3], 20_000), optimiser=rate, steps=UPDATES, batch=256, ema=0.99
    ).info
    return info.average[0]


def covered(key, model, grid, num=10_000):
    """How many modes are found, how many have half of their share, and the share of samples that are close to one."""
    denoiser = js.denoise.Latent(model, SCHEDULE, latent=LATENT)
    plan = js.solve.ddpm(SCHEDULE, grid)
    k_start, k_run = jax.random.split(key)
    draw = jax.jit(jax.vmap(lambda key, x: js.sample(key, denoiser, x, plan).x))
    x = np.asarray(draw(jax.random.split(k_run, num), jax.random.normal(k_start, (num, 2))))
    distance = np.linalg.norm(x[:, None] - CENTRES[None], axis=-1)
    close = distance.min(1) < 4 * STD
    counts = np.bincount(distance.argmin(1)[close], minlength=25)
    return int((counts >= num * 20 / 2500).sum()), int((counts >= num / 25 / 2).sum()), float(close.mean())


@pytest.mark.slow
def test_four_steps_cover_the_modes_that_one_step_loses():
    found = {}
    for grid in (LEVELS, np.array([1.0, 0.0])):
        model = train(jax.random.key(0), grid)
        found[len(grid) - 1] = covered(jax.random.key(1), model, grid)
    (modes, four, close), (_, one, loose) = found[4], found[1]
    assert modes >= 24 and four >= one + 4, found
    assert close >= loose + 0.05, found  # another compiler moves the gap: training is chaotic


def test_the_measure_counts_what_it_says():
    """All modes for the data's own law, one for a generator stuck in one mode."""
    truth = jax.tree_util.Partial(lambda x, t, z: data(jax.random.key(jnp.abs(1e6 * z[0]).astype(jnp.int32)), 1)[0])
    one = jax.tree_util.Partial(lambda x, t, z: jnp.asarray(CENTRES[3], jnp.float32) + STD * z)
    grid = np.array([1.0, 0.0])
    assert covered(jax.random.key(0), truth, grid) == (25, 25, pytest.approx(1, abs=2e-3))
    assert covered(jax.random.key(0), one, grid)[0] == 1
