"""Divergence of few, strongly guided steps, and what momentum does about it.

The law is a mixture of two Gaussians on the line, guided towards its second component by classifier-free guidance with
exact denoisers. Eight steps uniform in time leave the stability interval of high-order methods: PLMS throws some
samples far outside the data. Momentum on the evaluations (GHVB) or on the increments (heavy ball) brings them back.
The truth is the ODE of the same guided field, solved with 1000 steps of fourth order.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp
import machine
import numpy as np

import jsamp as js

RESULTS = pathlib.Path(__file__).parent / "results"
SCHEDULE = js.noise.VP()
SEEDS, DRAWS = 8, 4000
COLOURS = {
    "truth": "#222222",
    "PLMS 4": "#c8453b",
    "GHVB 3.8": "#e08b3a",
    "GHVB 3.5": "#c9ae2b",
    "PLMS 4 + HB 0.8": "#1d63c4",
    "GHVB 1.8": "#2f8f5b",
    "DDIM": "#9a9a9a",
}


def guided(scale) -> js.denoise.ClassifierFree:
    """Component 2 as the class, the whole mixture as the unconditional law."""
    whole = js.denoise.GaussianMixture(SCHEDULE, weights=[0.3, 0.7], means=[[-1.0], [0.6]], stds=[0.25, 0.15])
    part = js.denoise.GaussianMixture(SCHEDULE, weights=[1.0], means=[[0.6]], stds=[0.15])
    return js.denoise.ClassifierFree(part, whole, scale)


def plans(n: int) -> dict[str, js.Plan]:
    grid = js.noise.time_grid(SCHEDULE, n)
    return {
        "PLMS 4": js.solve.plms(SCHEDULE, grid),
        "GHVB 3.8": js.solve.ghvb(SCHEDULE, grid, order=4, beta=0.8),
        "GHVB 3.5": js.solve.ghvb(SCHEDULE, grid, order=4, beta=0.5),
        "PLMS 4 + HB 0.8": js.solve.heavy_ball(js.solve.plms(SCHEDULE, grid), 0.8),
        "GHVB 1.8": js.solve.ghvb(SCHEDULE, grid, order=2, beta=0.8),
        "DDIM": js.solve.ddim(SCHEDULE, grid),
    }


@jax.jit
def run(scale, x, plan):
    return js.sample(None, guided(scale), x, plan).x


def truth(scale, x):
    return run(scale, x, js.solve.deis(SCHEDULE, js.noise.time_grid(SCHEDULE, 1000, power=2), order=4))


def measure(scale: float, counts: tuple[int, ...]) -> dict[str, dict]:
    """For each solver: max |x| and RMSE of every seed, at each number of steps."""
    x = np.stack([np.random.default_rng(seed).standard_normal((DRAWS, 1)) for seed in range(SEEDS)])
    exact = np.asarray(truth(scale, jnp.asarray(x)))
    found: dict[str, dict] = {"truth": {n: (np.abs(exact).max(axis=(1, 2)), np.zeros(SEEDS)) for n in counts}}
    for n in counts:
        for name, plan in plans(n).items():
            got = np.asarray(run(scale, jnp.asarray(x), plan))
            rmse = np.sqrt(np.mean((got - exact) ** 2, axis=(1, 2)))
            found.setdefault(name, {})[n] = (np.abs(got).max(axis=(1, 2)), rmse)
    return found


def draw(found: dict[float, dict], path: pathlib.Path) -> None:
    """Write the figure: the map from noise to sample, and the largest magnitudes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 11, "font.family": "DejaVu Sans"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), width_ratios=(1.15, 1))
    starts = jnp.linspace(-4.0, 4.0, 801)[:, None]
    curves = {"truth": truth(4.0, starts), **{name: run(4.0, starts, plan) for name, plan in plans(8).items()}}
    for name, colour in COLOURS.items():
        style = {"color": colour, "linewidth": 2}
        if name == "truth":
            style = {"color": colour, "linewidth": 2, "linestyle": (0, (1, 1)), "zorder": 5}
        left.plot(starts[:, 0], curves[name][:, 0], **style)
    left.set_xlabel("starting noise")
    left.set_ylabel("sample")
    left.set_title("From noise to sample, guidance 4, 8 steps", fontsize=11, loc="left")
    names = [name for name in COLOURS if name in found[4.0]]
    for row, name in enumerate(names):
        for scale, shift, filled in ((4.0, -0.18, True), (10.0, 0.18, False)):
            value = float(np.median(found[scale][name][8][0]))
            right.barh(
                row + shift, value, 0.3, edgecolor=COLOURS[name], linewidth=1.5,
                facecolor=COLOURS[name] if filled else "white",
            )  # fmt: skip
            right.text(value + 0.1, row + shift, f"{value:.1f}", va="center", fontsize=9, color="#444444")
    right.set_yticks(range(len(names)), names)
    for label in right.get_yticklabels():
        label.set_color(COLOURS[label.get_text()])
        label.set_fontweight("bold")
    right.invert_yaxis()
    right.set_xlabel("largest |sample| of 4000 draws")
    right.set_title("Filled: guidance 4, open: guidance 10", fontsize=11, loc="left")
    for axes in (left, right):
        axes.grid(True, axis="x" if axes is right else "both", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.tight_layout(w_pad=2)
    figure.savefig(path, dpi=170)
    plt.close(figure)


def table(found: dict[str, dict], counts: tuple[int, ...]) -> list[str]:
    head = [f"{what}, N = {n}" for n in counts for what in ("max abs x", "RMSE")]
    lines = ["| solver | " + " | ".join(head) + " |", "|" + "---|" * (1 + len(head))]
    for name, values in found.items():
        cells = []
        for n in counts:
            largest, rmse = values[n]
            cells.append(f"{np.median(largest):.2f} ({largest.min():.2f}-{largest.max():.2f})")
            cells.append("" if name == "truth" else f"{rmse.mean():.3f} ({rmse.min():.3f}-{rmse.max():.3f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the figure and the table")
    args = parser.parse_args()
    counts = (8, 20)
    with jax.enable_x64(True):
        found = {scale: measure(scale, counts) for scale in (4.0, 10.0)}
        draw(found, args.out / "momentum.png")
    lines = [
        "# Momentum under guidance",
        "",
        "Mixture 0.3 N(-1, 0.25) + 0.7 N(0.6, 0.15) (standard deviations), second component as the class, VP noise,",
        f"N steps uniform in t from 1 to 1e-3, float64. Starts are standard normal, {DRAWS} draws for each of {SEEDS}",
        "seeds: max abs x is the median over seeds, RMSE to the guided ODE the mean, with the range in brackets.",
        f"{machine.describe()}. `python benchmarks/momentum_figure.py`",
    ]
    for scale, values in found.items():
        lines += ["", f"## Guidance scale {scale:g}", "", *table(values, counts)]
        ranks = np.stack([values[name][8] for name in list(values)[1:6]])
        falls = [bool(np.all(np.diff(ranks[:, k], axis=0) < 0)) for k in (0, 1)]
        answer = ["yes" if fall else "no" for fall in falls]
        lines += [
            "",
            "At N = 8, from PLMS 4 down to GHVB 1.8, max abs x falls from row to row for every seed: "
            f"{answer[0]}; RMSE: {answer[1]}.",
        ]
    text = "\n".join(lines) + "\n"
    (args.out / "momentum.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
