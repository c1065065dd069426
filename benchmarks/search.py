"""Searched solvers on mixtures: error against the ODE on fresh noise, beside the best of the solvers people use.

For 4, 5 and 6 evaluations, on random mixtures of four Gaussians, 300 candidates scored in one program; then how much of
the gain is there after 150. Fixed solvers are judged on the fresh noise itself, on three grids, those that end at zero
noise and those that end at the least level, so the best of them is a little too good. With `--keys 18` the gain at half
the budget is measured over so many keys of the search, at 5 evaluations, and no table is written.

    PYTHONPATH=. python benchmarks/search.py
"""

from __future__ import annotations

import argparse
import pathlib
import time

import jax
import machine
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
    return js.fit.trajectory_score(law, x, jax.vmap(lambda x: js.sample(None, law, x, fine).x)(x), block=25)


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


def over_keys(keys: int, mixtures: int, budget: int, nfe: int = 5) -> str:
    """The gain at half the budget for each key of the search: geometric means over the mixtures."""
    gains, space = np.zeros((mixtures, keys)), js.fit.Space(SCHEDULE, nfe)
    spaces = space, js.fit.Space(SCHEDULE, nfe, final="sigma_min")
    for seed in range(mixtures):
        seen, fresh = (score(mixture(seed), k) for k in (1, 2))
        plans = [space.decode(genome) for space in spaces for genome in named(space)]
        for key in range(keys):
            search_key = jax.random.key(100 * key + seed)
            plans.append(js.fit.search_plan(search_key, seen, space, budget=budget // 2, population=25).x)
        errors = np.asarray(fresh(js.solve.stack(plans)))
        gains[seed] = errors[:-keys].min() / errors[-keys:]
    means = np.exp(np.log(gains).mean(0))
    told = (
        f"At {nfe} evaluations and {budget // 2} candidates, over {keys} keys of the search on the same mixtures: gain "
    )
    return told + f"{means.min():.2f} to {means.max():.2f}, geometric mean {np.exp(np.log(means).mean()):.2f}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--mixtures", type=int, default=4)
    parser.add_argument("--keys", type=int, default=0)
    options = parser.parse_args()
    if options.keys:
        print(over_keys(options.keys, options.mixtures, options.budget), machine.describe())
        return
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
