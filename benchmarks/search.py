"""Searched solvers on mixtures: error against the ODE on fresh noise, beside the best of the solvers people use.

For 4, 5 and 6 evaluations, on random mixtures of four Gaussians, 300 candidates scored in one program; then how much of
the gain is there after 150. Fixed solvers are judged on the fresh noise itself, on three grids, those that end at zero
noise and those that end at the least level, so the best of them is a little too good.

    PYTHONPATH=. python benchmarks/search.py
"""

from __future__ import annotations

import argparse
import pathlib
import time

import jax
import numpy as np

import jsamp as js
from jsamp.fit._search import named

RESULTS = pathlib.Path(__file__).parent / "results" / "search.md"
SCHEDULE = js.noise.VP()


def mixture(seed: int):
    """A random mixture of four Gaussians in the plane."""
    rng = np.random.default_rng(seed)
    means, stds = rng.uniform(-1.2, 1.2, (4, 2)), rng.uniform(0.35, 0.65, 4)
    return js.denoise.GaussianMixture(SCHEDULE, weights=rng.dirichlet(np.ones(4) * 3), means=means, stds=stds)


def score(law, seed: int, num: int = 256):
    """Stacked plans -> RMSE to a fine solution from `num` starts."""
    x = SCHEDULE.prior(jax.random.key(seed), (num, 2))
    fine = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 200), order=3)
    return js.fit.trajectory_score(law, x, jax.vmap(lambda x: js.sample(None, law, x, fine).x)(x), chunk=25)


def compare(seed: int, nfe: int, budget: int) -> tuple[float, float, float, float]:
    """Best fixed error, searched error, searched error at half the budget, on fresh starts; seconds."""
    law, space, begin = mixture(seed), js.fit.Space(SCHEDULE, nfe), time.process_time()
    search = lambda budget, state: js.fit.search_plan(
        jax.random.key(seed), score(law, 1), space, budget=budget, population=25, state=state
    )
    half = search(budget // 2, None)
    found = search(budget, half.info.state)
    spaces = space, js.fit.Space(SCHEDULE, nfe, final="sigma_min")
    plans = [space.decode(genome) for space in spaces for genome in named(space)]
    errors = np.asarray(score(law, 2)(js.solve.stack([*plans, half.x, found.x])))
    return float(errors[:-2].min()), float(errors[-1]), float(errors[-2]), time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--mixtures", type=int, default=4)
    options = parser.parse_args()
    told = f"{options.budget} candidates, RMSE to the ODE on fresh starts, seconds of CPU."
    head = "| NFE | mixture | best fixed | searched | at half | gain | gain at half | seconds |"
    lines = ["# Searched solvers on mixtures", "", told, "", head, "|---" * 8 + "|"]
    for nfe in (4, 5, 6):
        gains = []
        for seed in range(options.mixtures):
            fixed, searched, half, seconds = compare(seed, nfe, options.budget)
            gains.append((fixed / searched, fixed / half))
            lines.append(
                f"| {nfe} | {seed} | {fixed:.4f} | {searched:.4f} | {half:.4f} | {gains[-1][0]:.2f} "
                f"| {gains[-1][1]:.2f} | {seconds:.0f} |"
            )
            print(lines[-1], flush=True)
        full, half = np.exp(np.mean(np.log(gains), axis=0))
        lines.append(f"| {nfe} | geometric mean | | | | {full:.2f} | {half:.2f} | |")
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS)


if __name__ == "__main__":
    main()
