"""Which inputs of a simulator matter? Sobol' indices of a black box, with errors, and a picture.

The simulator is plain Python with numpy: an epidemic that meets contact tracing, integrated step by step. jsamp makes
the points, the simulator runs wherever it likes, jsamp finishes from the values.

    python examples/sensitivity.py --out .
"""

import argparse
import pathlib

import jax
import matplotlib
import numpy as np

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INPUTS = {
    "contacts a day": (4.0, 12.0),
    "transmission": (0.02, 0.06),
    "days infectious": (3.0, 10.0),
    "traced share": (0.0, 0.6),
    "first infected": (1.0, 50.0),
}


def simulate(inputs):
    """Peak share of a population of 10,000 that is infectious at once, for rows of inputs [n, 5]."""
    contacts, transmission, days, traced, first = np.moveaxis(np.asarray(inputs, np.float64), -1, 0)
    infectious, healthy = first / 1e4, 1 - first / 1e4
    peak, step = infectious.copy(), 0.25
    for _ in range(int(200 / step)):
        new = contacts * transmission * (1 - traced) * infectious * healthy * step
        infectious, healthy = infectious + new - infectious / days * step, healthy - new
        peak = np.maximum(peak, infectious)
    return peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1024, help="base points, a power of two (default 1024)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    options = parser.parse_args()
    low, high = (np.array(side) for side in zip(*INPUTS.values(), strict=True))

    design = js.estimate.saltelli(len(INPUTS), options.num, key=jax.random.key(0), second=True)
    values = jax.tree.map(lambda u: simulate(low + (high - low) * np.asarray(u)), design)
    found = js.estimate.sobol(values, key=jax.random.key(1), estimator="jansen", resamples=200)
    check = js.estimate.sobol_rank(design.A, values.A)  # from the base points alone

    print(f"{options.num * (2 * len(INPUTS) + 2)} runs.  input: alone, in all; by ranks from {options.num} runs")
    for i, name in enumerate(INPUTS):
        parts = [(e.value[i], e.stderr[i]) for e in (found.S1, found.ST, check)]
        print(f"  {name:16}" + "  ".join(f"{value:6.3f} +- {error:.3f}" for value, error in parts))
    i, j = np.unravel_index(np.argmax(np.asarray(found.S2.value)), found.S2.value.shape)
    names = list(INPUTS)
    print(
        f"Strongest interaction: {names[i]} with {names[j]}, {found.S2.value[i, j]:.3f} +- {found.S2.stderr[i, j]:.3f}"
    )

    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    place = np.arange(len(INPUTS))
    for shift, label, part in ((-0.18, "alone", found.S1), (0.18, "with interactions", found.ST)):
        axes.barh(place + shift, part.value, 0.34, xerr=1.96 * np.asarray(part.stderr), label=label, capsize=2)
    axes.set_yticks(place, names)
    axes.invert_yaxis()
    axes.set_xlabel("share of the variance of the peak, 95% intervals")
    axes.legend(frameon=False)
    figure.savefig(options.out / "sensitivity.png", dpi=150)


if __name__ == "__main__":
    main()
