"""Find the lowest value of a costly function in few evaluations: two surrogates beside random search.

    python examples/bayesian_optimisation.py --out bayesian_optimisation.png

Hartmann's function of six inputs in 60 evaluations (or Branin's of two in 40: --function branin), by a Gaussian process
and by an ensemble of ten networks. Both functions are known exactly, so the regret (how far the best value so far is
above the lowest there is) is exact too; random search is shown by its quartiles over 1,000 runs. The first evaluations
are a Sobol' sequence, the same for both surrogates; those of Hartmann's function with seed 0 are worse than the median
of random search, which the Gaussian process therefore passes after 45 evaluations only. A round after the first
compiles nothing: arrays have the size of the whole budget. Under two minutes.
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np

import jsamp as js

SHARP = np.array([
    [10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14],
])  # fmt: skip
PLACE = 1e-4 * np.array([
    [1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991], [2348, 1451, 3522, 2883, 3047, 6650],
    [4047, 8828, 8732, 5743, 1091, 381],
])  # fmt: skip
DEPTH = np.array([1, 1.2, 3, 3.2])


def branin(x):
    """Three equal minima of 0.397887 in [-5, 10] x [0, 15]."""
    a, b = x[..., 0], x[..., 1]
    bowl = (b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6) ** 2
    return bowl + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10


def hartmann(x):
    """Four wells in [0, 1]^6, the deepest of -3.322368."""
    return -np.exp(-np.sum(SHARP * (x[..., None, :] - PLACE) ** 2, -1)) @ DEPTH


PROBLEMS = {  # objective, bounds, lowest value, first evaluations, evaluations
    "branin": (branin, (np.array([-5.0, 0.0]), np.array([10.0, 15.0])), 0.39788736, 10, 40),
    "hartmann": (hartmann, (np.zeros(6), np.ones(6)), -3.32236801, 15, 60),
}
SURROGATES = {
    "Gaussian process": js.fit.GP(),
    # Members that see all rows agree there, which lets the search end; a share of the rows keeps it wandering.
    "ensemble": js.fit.Ensemble(share=1.0, steps=300, rate=2e-2),
}


def random_search(problem, runs=1000):
    """Quartiles [3, evaluations] of the regret of random search."""
    objective, (low, high), lowest, _, budget = problem
    X = low + (high - low) * np.random.default_rng(0).random((runs, budget, len(low)))
    return np.quantile(np.minimum.accumulate(objective(X), 1) - lowest, (0.25, 0.5, 0.75), axis=0)


def regret(key, problem, surrogate, budget):
    """Regret [evaluations] of the best value so far."""
    objective, bounds, lowest, start, _ = problem
    options = {"budget": budget, "initial": start, "raw": 128, "restarts": 2, "steps": 8}
    found = js.fit.optimise(key, objective, bounds, surrogate, **options)
    return np.minimum.accumulate(found.info.state.y) - lowest


def draw_picture(path, name, found, random):
    """Regret against evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
    each = np.arange(1, random.shape[1] + 1)
    panel.fill_between(each, random[0], random[2], color="0.88", label="random search, half of 1,000 runs")
    panel.plot(each, random[1], color="0.6", label="random search, median")
    for surrogate, curve in found.items():
        panel.plot(np.arange(1, len(curve) + 1), curve, linewidth=1.6, label=f"{surrogate}, one run")
    panel.axvline(PROBLEMS[name][3], color="0.7", linestyle=":", label="last evaluation before the first fit")
    panel.set(yscale="log", xlabel="evaluations", ylabel="best value so far, above the lowest")
    panel.legend(fontsize=8)
    figure.suptitle(f"Bayesian optimisation of {name.capitalize()}'s function")
    figure.savefig(path, dpi=80)


def main() -> None:
    """Optimise, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--function", choices=sorted(PROBLEMS), default="hartmann")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=60, help="evaluations at most")
    parser.add_argument("--out", default="bayesian_optimisation.png")
    args = parser.parse_args()
    if args.most < 1:
        parser.error(f"want --most >= 1, got {args.most}.")
    problem = PROBLEMS[args.function]
    budget, random, found = min(args.most, problem[-1]), random_search(problem), {}
    print(f"{args.function}: how far the best of {budget} evaluations is above the lowest value")
    print("    random search      " + " to ".join(f"{v:.3g}" for v in random[::2, budget - 1]) + ", half of the runs")
    for name, surrogate in SURROGATES.items():
        begun = time.perf_counter()
        found[name] = regret(jax.random.key(args.seed), problem, surrogate, budget)
        print(f"    {name:18s} {found[name][-1]:.3g}, {time.perf_counter() - begun:.0f} s")
    draw_picture(args.out, args.function, found, random)
    print(args.out)


if __name__ == "__main__":
    main()
