"""Learn the times of a solver by gradients through its run, and measure it on fresh noise.

    python examples/learned_grid.py --out learned_grid.png

DPM-Solver++ (2M) starts from even steps in log-SNR, at each number of evaluations, on a mixture of four Gaussians whose
denoiser is exact. L-BFGS moves the times between the two ends, so that samples come near those of 300 steps from the
same noise. The table gives the RMSE on starts that the fit did not see, beside two grids that people use; the picture
shows where the times went. Needs matplotlib and optax; about a minute on two cores.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

SCHEDULE = js.noise.VP()
LAW = js.denoise.GaussianMixture(
    SCHEDULE,
    weights=[0.2, 0.3, 0.4, 0.1],
    means=[[-1.0, 0.5], [0.8, 0.9], [0.3, -1.0], [-0.7, -0.9]],
    stds=[0.1, 0.15, 0.12, 0.2],
)
solver = functools.partial(js.solve.dpmpp, SCHEDULE, order=2)


@jax.jit
def draw(x, plan):
    """Samples of starts [n, 2]."""
    return jax.vmap(lambda x: js.sample(None, LAW, x, plan).x)(x)


def draw_grids(axes, starts, learned):
    """Mark the noise levels of both grids, a pair of lines for each number of evaluations."""
    for row, nfe in enumerate(starts):
        for grids, shift, mark, colour in ((starts, 0.14, "o", "#8a8a8a"), (learned, -0.14, "D", "#b5432a")):
            label = ("even in log-SNR", "learned")[grids is learned] if row == 0 else None
            sigma = np.exp(-SCHEDULE.lam(np.asarray(grids[nfe], np.float64)))
            axes.plot(sigma, np.full(nfe + 1, row + shift), mark + "-", color=colour, markersize=5, lw=1, label=label)
    axes.set_yticks(range(len(starts)), [f"{nfe} evaluations" for nfe in starts])
    axes.set(
        xscale="log", xlabel="noise to signal, sigma / alpha: sampling runs to the left", title="Where the times are"
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nfe", type=int, nargs="+", default=[4, 5, 6, 8], help="evaluations, one grid for each")
    parser.add_argument("--num", type=int, default=128, help="starts to learn from, and as many to measure on")
    parser.add_argument("--steps", type=int, default=40, help="L-BFGS steps")
    parser.add_argument("--fine", type=int, default=300, help="steps of the reference")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("learned_grid.png"))
    options = parser.parse_args()

    seen, fresh = (SCHEDULE.prior(jax.random.key(options.seed + i), (options.num, 2)) for i in (0, 1))
    fine = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, options.fine), order=3)
    wanted, exact = draw(seen, fine), draw(fresh, fine)
    rmse = lambda plan: float(jnp.sqrt(jnp.mean((draw(fresh, plan) - exact) ** 2)))

    starts, learned, errors = {}, {}, {"even in log-SNR": {}, "learned": {}, "Karras": {}}
    print("evaluations   even in log-SNR   Karras   learned   ratio to the better   seconds")
    for nfe in options.nfe:
        starts[nfe], begin = js.noise.logsnr_grid(SCHEDULE, nfe), time.perf_counter()
        found = js.fit.learn_plan(
            jax.random.key(options.seed), LAW, solver, grid=starts[nfe], x=seen, reference=wanted,
            steps=options.steps, batch=options.num,
        )  # fmt: skip
        learned[nfe], seconds = found.info.grid, time.perf_counter() - begin
        plans = (solver(starts[nfe]), found.x, solver(js.noise.karras_grid(SCHEDULE, nfe, final="sigma_min")))
        for name, plan in zip(errors, plans, strict=True):
            errors[name][nfe] = rmse(plan)
        even, ours, karras = (errors[name][nfe] for name in errors)
        print(
            f"{nfe:11}   {even:15.4f}   {karras:6.4f}   {ours:7.4f}   {min(even, karras) / ours:19.2f}   {seconds:7.0f}"
        )

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 3.8), layout="constrained")
    draw_grids(left, starts, learned)
    js.plot.work_precision(errors, axes=right).set(title="Error on fresh noise", ylabel=f"RMSE to {options.fine} steps")
    figure.suptitle("DPM-Solver++ (2M) on a mixture, with even and with learned times")
    figure.savefig(options.out, dpi=80)
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
