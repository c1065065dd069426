"""Every solver on the real digits: `examples/draw_digits.py` with 2,000 images per row and several noises.

    python benchmarks/digits_table.py --num 2000 --seeds 3

Writes `benchmarks/results/digits_table.md`. One seed takes six minutes on two cores; `--solvers ddim dpmpp` takes
fewer.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import machine
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "examples")]

import digits_net  # noqa: E402
import draw_digits as job  # noqa: E402

DEFAULT = [
    "ddim",
    "heun",
    "dpm_solver",
    "dpmpp",
    "dpmpp_single",
    "deis",
    "unipc",
    "lms",
    "ipndm",
    "ghvb",
    "ddpm",
    "er_sde",
]
TITLES = ["NFE", "RMSE", "FD_32", "precision", "recall", "label", "seconds"]
DIGITS = [0, 4, 2, 3, 3, 3, 1]


def cells(rows: list[job.Scores]) -> str:
    """Mean +- standard deviation over seeds of each column."""
    values = np.array(rows, float)
    text = []
    for column, title, digits in zip(values.T, TITLES, DIGITS, strict=True):
        if not np.isfinite(column).all():
            text.append("–")
        elif title in ("NFE", "seconds") or len(rows) == 1:
            text.append(f"{np.median(column):.{digits}f}")
        else:
            text.append(f"{column.mean():.{digits}f} ± {column.std(ddof=1):.{digits}f}")
    return " | ".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=2000, help="images per row, a multiple of 100 up to 2000")
    parser.add_argument("--exact", type=int, default=100, help="images of the 1000-step solution")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--solvers", nargs="+", default=DEFAULT, choices=list(job.solvers()), metavar="NAME")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "digits_table.md")
    options = parser.parse_args()
    if not 100 <= options.num <= 2000 or options.num % 100 or not 1 <= options.exact <= options.num:
        parser.error("--num must be a multiple of 100 in 100..2000, and --exact in 1..num")

    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    classifier = digits_net.load(digits_net.MODELS / "mnist_features.npz")
    arguments = (params, classifier, options.guidance, options.num, options.exact)
    benches = [job.Bench(*arguments, seed=3 + seed) for seed in range(options.seeds)]
    schedule = job.SCHEDULE
    seeds = "one seed" if options.seeds == 1 else f"{options.seeds} seeds (mean ± sd)"
    lines = [
        "# Solvers on MNIST digits",
        "",
        f"{machine.describe()}. n = m = {options.num}, {seeds}, guidance "
        f"{options.guidance:g}, Karras grid sigma {schedule.sigma_max:g} to {schedule.sigma_min:g}, then 0.",
        f"RMSE per pixel to 1000 steps of dpmpp from the same noise, {options.exact} images per seed.",
        "FD_32, precision and recall (k = 3): features of `train_classifier.py`, against as many test images.",
        "label: share of images to which its classifier gives the label asked for.",
        "Seconds are for all n images, compiled. A solver with two evaluations per step takes the most steps that fit.",
        "",
        f"| solver | {' | '.join(TITLES)} |",
        "|---" * (len(TITLES) + 1) + "|",
        f"| real images (floor) | {cells([benches[0].stored('real')])} |",
        f"| pixel Gaussian | {cells([benches[0].stored('gaussian')])} |",
    ]
    print("\n".join(lines), flush=True)
    for solver in options.solvers:
        for nfe in (5, 10, 20):
            try:
                lines.append(f"| {solver} | {cells([bench.measure(solver, nfe) for bench in benches])} |")
            except ValueError as error:
                lines.append(f"| {solver} | {nfe} | {error} |" + " |" * 5)
            print(lines[-1], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
