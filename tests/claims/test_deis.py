"""Zhang and Chen 2023 (DEIS): ten evaluations suffice where DDIM needs many times more; each point of the polynomial pays."""

import numpy as np
from oracles import Mixture, run_table

import jsamp as js

VP = js.noise.VP()
ANGLES = 2 * np.pi * np.arange(8) / 8
RING = Mixture(np.ones(8) / 8, np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1), np.full(8, 0.1**2))
STARTS = VP.sigma(1.0) * np.random.default_rng(0).standard_normal((512, 2))


def error(plan, truth):
    return np.sqrt(np.mean((run_table(plan, RING, STARTS) - truth) ** 2))


def test_ten_evaluations_do_what_ddim_does_with_three_times_as_many():
    truth = run_table(js.solve.dpmpp(VP, js.noise.logsnr_grid(VP, 2000), order=3), RING, STARTS)
    grid = lambda n: js.noise.time_grid(VP, n, power=2)
    tab = {order: error(js.solve.deis(VP, grid(10), order=order), truth) for order in (1, 2, 3, 4)}
    ddim = {n: error(js.solve.ddim(VP, grid(n)), truth) for n in (10, 30)}
    # tAB0 is DDIM, and every further point lowers the error.
    assert abs(tab[1] / ddim[10] - 1) < 1e-9
    assert tab[1] > 1.8 * tab[2] > 1.8 * 1.2 * tab[3] > 1.8 * 1.2 * 1.1 * tab[4]
    assert tab[4] < ddim[30]
    # Where DDIM is poor: a third of the modes' width off; DEIS is within an eighth of it.
    assert ddim[10] > 0.3 * 0.1 > 2.5 * tab[4]
