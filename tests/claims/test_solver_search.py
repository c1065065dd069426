"""USF: a solver searched for a model and a budget beats every fixed solver at few evaluations; and AutoDiffusion.

Liu et al. 2023 and Li et al. 2023, at toy scale: an exact mixture, error against the ODE on fresh starts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.fit._search import named

SCHEDULE = js.noise.VP()
MIXTURE = {
    "weights": [0.2, 0.3, 0.4, 0.1],
    "means": [[-1.0, 0.5], [0.8, 0.9], [0.3, -1.0], [-0.7, -0.9]],
    "stds": [0.4, 0.5, 0.45, 0.6],
}
LAW = js.denoise.GaussianMixture(SCHEDULE, **MIXTURE)
KEY = jax.random.key(5)


def starts(seed, num=256):
    x = SCHEDULE.prior(jax.random.key(seed), (num, 2))
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 200), order=3)
    return x, jax.vmap(lambda x: js.sample(None, LAW, x, plan).x)(x)


@pytest.mark.parametrize(("nfe", "budget"), [(4, 150), (6, 300)])
def test_a_searched_solver_halves_the_error_of_the_best_fixed_one(nfe, budget):
    """On starts that the search did not see; one program for all evaluations."""
    space = js.fit.Space(SCHEDULE, nfe)
    traces = []

    def counted(samples, reference):
        traces.append(1)
        return jnp.sqrt(jnp.mean((samples - reference) ** 2))

    x, reference = starts(1)
    score = js.fit.sample_score(LAW, x, lambda samples: counted(samples, reference), block=25)
    found = js.fit.search_plan(KEY, score, space, budget=budget, population=25)
    assert len(traces) <= 2  # one for the shape of a chunk, one for what is left over
    assert found.info.evaluations == budget
    assert found.info.score == min(found.info.state.scores)
    fresh = js.fit.trajectory_score(LAW, *starts(2))
    spaces = space, js.fit.Space(SCHEDULE, nfe, final="sigma_min")
    fixed = np.asarray(fresh(js.solve.stack([space.decode(genome) for space in spaces for genome in named(space)])))
    assert float(fresh(js.solve.stack([found.x]))[0]) < fixed.min() / 2
    assert np.nanmean(found.info.tau) > 0.1


def test_a_searched_subset_of_times_beats_the_uniform_one():
    """DDIM with 4 of 100 times of a discrete network: half the distance to the ODE, on fresh starts."""
    table = js.noise.Discrete.scaled_linear(100)
    law = js.denoise.GaussianMixture(table, **MIXTURE)

    def score(seed):
        x = jax.random.normal(jax.random.key(seed), (256, 2))
        fine = js.solve.dpmpp(table, js.noise.index_grid(table, 99, "trailing"), order=3)
        reference = jax.vmap(lambda x: js.sample(None, law, x, fine).x)(x)
        run = js.fit.trajectory_score(law, x, reference)
        return lambda grids: run(js.solve.stack([js.solve.ddim(table, np.append(grid, -1.0)) for grid in grids]))

    found = js.fit.search_grid(KEY, score(1), np.arange(100), 4, budget=200)
    uniform = np.round(np.linspace(99, 0, 4))
    searched, even = np.asarray(score(2)(np.stack([found.x, uniform])))
    assert searched < even / 2
