"""Every steer on every plan: finite, or refused with a message; memory grows with the number of particles alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import denoiser
from population_laws import POPULATIONS, X, bind, potential, reward

import jsamp as js

S, T = js.solve, js.steer
VP = js.noise.VP()
GRID = js.noise.time_grid(VP, 6, 2)
KEY = jax.random.key(5)
MODEL = denoiser(VP, "x0")


@functools.cache
def plans():
    """One plan for each feature of the runner, deterministic and stochastic."""
    return {
        "ddim": S.ddim(VP, GRID),
        "ddim(eta)": S.ddim(VP, GRID, eta=1.0),
        "dpmpp(tau)": S.dpmpp(VP, GRID, tau=1.0),
        "deis": S.deis(VP, GRID),
        "unipc": S.unipc(VP, GRID),
        "sa_solver": S.sa_solver(VP, GRID),
        "er_sde": S.er_sde(VP, GRID),
        "ghvb": S.ghvb(VP, GRID),
        "heavy_ball": S.heavy_ball(S.plms(VP, GRID), 0.8),
        "heun": S.heun(VP, GRID),
        "restart": S.restart(S.ddpm(VP, GRID), S.ddim(VP, GRID[1:4])),
    }


def steers():
    every = {name: (steer, x) for name, (steer, _, x) in POPULATIONS.items() if "twisted" not in name}
    image = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    return every | {
        "TrajectoryVariance": (T.TrajectoryVariance(3), X),
        "Memory": (T.chain(T.Hooks()), image),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", steers())
def test_on_every_plan(name):
    steer, x = steers()[name]
    ran, refusals = 0, []
    for label, plan in plans().items():
        try:
            result = js.sample(KEY, MODEL, x, plan, steer=steer)
        except ValueError as refusal:
            refusals.append(str(refusal))
            continue
        assert np.all(np.isfinite(result.x)), label
        ran += 1
    assert all(len(message) > 40 for message in refusals), refusals  # what is wrong, and what to do
    assert ran >= 3, f"{name} ran on {ran} plans only"


def test_memory_of_a_population_is_that_of_its_particles():
    plan = S.dpmpp(VP, GRID, tau=1.0)
    steer = T.SMC(bind(potential, np.float32(0.5)), bind(reward, np.float32(0.5)))

    def temporary(num, steer):
        x = jnp.zeros((num, 4096))
        run = jax.jit(lambda key, x: js.sample(key, MODEL, x, plan, steer=steer).x)
        return run.lower(KEY, x).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary(64, steer), temporary(256, steer)
    assert many < 4.05 * few
    # Reordering copies what the solver remembers, and no more.
    state = 256 * 4096 * 4
    assert many < temporary(256, None) + (plan.slots + 6) * state
