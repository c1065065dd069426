"""l_1 regression on photographs: every pixel from its neighbours, solved on a subset chosen by sensitivity.

Half a million rows (one per pixel and photograph), 12 columns of already seen neighbours in colour, as in lossless
image coding. Least absolute deviations on 0.1 to 3 % of the rows, weighted by 1/probability, against the full solve.
The scores are those of [X y]: one leverage pass for the upper bounds tau^(1/2), a dozen for Lewis weights, and
sensitivities against 256 rows drawn by Lewis weights. Scoring pays when the solver is expensive or runs many times.

    python examples/l1_regression.py --out .
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images

import jsamp as js

matplotlib.use("Agg")
jax.config.update("jax_enable_x64", True)  # neighbouring pixels are nearly collinear


def rows_of_photographs():
    """[n, 13]: three colours of the west, north, north-west, north-east pixels, and the green value to predict."""
    parts = []
    for image in load_sample_images().images:
        x = image.astype(np.float32) / 255
        seen = [x[1:, :-2], x[:-1, 1:-1], x[:-1, :-2], x[:-1, 2:]]
        target = x[1:, 1:-1, 1:2]
        parts.append(np.concatenate([*seen, target], -1).reshape(-1, 13))
    return np.concatenate(parts)


@jax.jit
def solve(A, weight):
    """Minimise sum weight |A[:, :-1] x - A[:, -1]| by iteratively reweighted least squares."""
    X, b = A[:, :-1], A[:, -1]

    def step(x, w):
        gram = jnp.matmul(X.T * w[None], X, precision="highest") + 1e-9 * jnp.eye(X.shape[1])
        return jnp.linalg.solve(gram, jnp.matmul(X.T, w * b, precision="highest"))

    def body(x, _):
        return step(x, weight / jnp.maximum(jnp.abs(X @ x - b), 1e-5)), None

    return jax.lax.scan(body, step(None, weight), None, length=40)[0]


def sensitivity(A):
    """The recommended score, (sensitivity + leverage) / 2, against a small embedding."""
    anchor = js.select.draw(
        jax.random.key(1), js.select.lewis(A, 1.0, tolerance=1e-1).weight, min(256, len(A)), scheme="priority"
    )
    E = anchor.row_scale(1.0)[:, None] * anchor.take(A)
    return js.select.sensitivity(A, 1.0, embedding=E, iterations=6)


SCORES = {
    "sensitivity": sensitivity,
    "Lewis weights": lambda A: js.select.lewis(A, 1.0, tolerance=1e-1).weight,
    "root leverage": lambda A: js.select.root_leverage(A, 1.0),
    "uniform": lambda A: jnp.ones(len(A)),
}


def timed(fun, *args):
    jax.block_until_ready(fun(*args))
    start = time.perf_counter()
    out = jax.block_until_ready(fun(*args))
    return out, time.perf_counter() - start


def level(axis, x, y, text, color, style, ha="left"):
    axis.axhline(y, color=color, ls=style)
    axis.text(x, y * 1.08, text, color=color, fontsize=8, ha=ha, va="bottom")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=".", help="folder of the picture")
    parser.add_argument("--rows", type=int, default=None, help="use only so many rows")
    parser.add_argument("--trials", type=int, default=3)
    args = parser.parse_args()
    A = jnp.asarray(rows_of_photographs()[: args.rows], jnp.float64)

    def loss(x):
        return float(jnp.mean(jnp.abs(A[:, :-1] @ x - A[:, -1])))

    full, full_time = timed(solve, A, jnp.ones(len(A)))
    best = loss(full)
    print(f"{len(A)} rows: full solve {full_time * 1e3:.0f} ms, mean absolute error {best:.5f}")

    schemes, score_time = {}, {}
    for name, score in SCORES.items():
        schemes[name], score_time[name] = timed(score, A)
        print(f"{name}: scored in {score_time[name] * 1e3:.0f} ms")
    sizes = [int(len(A) * share) for share in (0.001, 0.003, 0.01, 0.03)]
    excess, error = {name: [] for name in schemes}, {name: [] for name in schemes}
    speed = []
    for num in sizes:
        times = []
        for name, scores in schemes.items():
            errors = []
            for key in jax.random.split(jax.random.key(0), args.trials):
                subset = js.select.draw(key, scores, num, scheme="priority")
                x, seconds = timed(solve, subset.take(A), subset.weight)
                errors.append(loss(x) / best - 1)
                times.append(seconds)
            excess[name].append(float(np.mean(errors)))
            error[name].append(float(np.std(errors, ddof=min(1, len(errors) - 1)) / np.sqrt(len(errors))))
        speed.append(float(np.median(times)))
        line = ", ".join(f"{name} +{excess[name][-1]:.2%}" for name in schemes)
        print(f"{num:7d} rows, {speed[-1] * 1e3:6.1f} ms ({full_time / speed[-1]:.0f}x): loss above optimum {line}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for name, values in excess.items():
        line = left.errorbar(
            sizes, np.array(values) * 100, np.array(error[name]) * 100, marker="o", capsize=3, label=name
        ).lines[0]
        if name != "uniform":
            level(right, sizes[0], score_time[name] * 1e3, f"scoring all rows: {name}", line.get_color(), ":")
    left.set(
        xlabel="rows in the subset",
        ylabel="loss above the full optimum [%]",
        title="Error, mean of the draws ± s.e.",
        xscale="log",
        yscale="log",
    )
    left.legend()
    right.loglog(sizes, np.array(speed) * 1e3, "ko-")
    right.text(sizes[1], speed[1] * 1300, "solving on the subset", ha="right", va="bottom", fontsize=8)
    level(right, sizes[-1], full_time * 1e3, f"solving on all {len(A)} rows", "black", "--", ha="right")
    right.set(xlabel="rows in the subset", ylabel="time [ms]", title="Time")
    right.set_ylim(500 * min(speed), 3000 * max(full_time, *score_time.values()))
    for axis in (left, right):
        axis.set_xticks(sizes, [str(m) for m in sizes])
        axis.minorticks_off()
    path = pathlib.Path(args.out) / "l1_regression.png"
    figure.savefig(path, dpi=110)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
