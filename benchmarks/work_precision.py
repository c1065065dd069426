"""Work-precision of the solvers: distance to the exact ODE solution against network evaluations.

The model is exact: a mixture of Gaussians in the plane with its closed-form denoiser, so what is left is the error of
the solver alone. Every plan runs in float64 from the same noise; the reference is the probability-flow ODE integrated
by DOP853 at a relative tolerance of 1e-10 in log-SNR (without scipy, a plan of 2000 steps).
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
NFE = (5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
PARTICLES = 512


def law() -> js.denoise.GaussianMixture:
    """Seven components of different sizes on a spiral, as in a picture of a data set rather than one blob."""
    turn = np.linspace(0.4, 2.2 * np.pi, 7)
    means = np.stack([turn * np.cos(turn), turn * np.sin(turn)], axis=1) / 5
    return js.denoise.GaussianMixture(
        js.noise.VP(), weights=np.linspace(1.0, 2.0, 7), means=means, stds=np.linspace(0.08, 0.16, 7)
    )


def plans(schedule, nfe: int) -> dict[str, js.Plan]:
    """The solvers at a budget of evaluations, on log-SNR grids for DPM-Solver++ and UniPC, t^2 grids for the rest."""
    log, square = js.noise.logsnr_grid(schedule, nfe), js.noise.time_grid(schedule, nfe, power=2)
    table = {
        "DDIM": js.solve.ddim(schedule, square),
        "DPM++ 2M": js.solve.dpmpp(schedule, log, order=2),
        "DPM++ 3M": js.solve.dpmpp(schedule, log, order=3),
        "UniPC 3": js.solve.unipc(schedule, log, order=3),
        "LMS 4": js.solve.lms(schedule, square, order=4),
        "GHVB 3.8": js.solve.ghvb(schedule, square, order=4, beta=0.8),
        "DEIS 4": js.solve.deis(schedule, square, order=4),
    }
    if nfe % 2 == 0:
        table["Heun"] = js.solve.heun(schedule, js.noise.time_grid(schedule, nfe // 2, power=2))
    return table


def reference(denoiser, x: np.ndarray) -> tuple[np.ndarray, str]:
    """The exact map of the probability-flow ODE from t_max to t_min."""
    schedule = denoiser.schedule
    try:
        from scipy.integrate import solve_ivp
    except ImportError:
        plan = js.solve.deis(schedule, js.noise.time_grid(schedule, 2000, power=2), order=4)
        return np.asarray(js.sample(None, denoiser, jnp.asarray(x), plan).x), "DEIS 4 with 2000 steps"
    predict = jax.jit(lambda x, t: denoiser(x, t).x0)

    def field(lam, flat):
        # In sigma = sigma(lam): d(x / sigma) / dlam = exp(lam) x0.
        t = schedule.time(lam)
        x0 = predict(jnp.asarray(flat.reshape(x.shape) * schedule.sigma(t)), t)
        return np.exp(lam) * np.asarray(x0).ravel()

    ends = schedule.lam(schedule.t_max), schedule.lam(schedule.t_min)
    start = (x / schedule.sigma(schedule.t_max)).ravel()
    out = solve_ivp(field, ends, start, method="DOP853", rtol=1e-10, atol=1e-10)
    return out.y[:, -1].reshape(x.shape) * schedule.sigma(schedule.t_min), "DOP853, relative tolerance 1e-10"


def measure() -> tuple[dict[str, dict[int, float]], str]:
    """RMSE by solver and number of evaluations."""
    denoiser = law()
    x = np.random.default_rng(0).standard_normal((PARTICLES, 2))
    exact, how = reference(denoiser, x)
    run = jax.jit(lambda plan, x: js.sample(None, denoiser, x, plan).x)
    errors: dict[str, dict[int, float]] = {}
    for nfe in NFE:
        for name, plan in plans(denoiser.schedule, nfe).items():
            got = np.asarray(run(plan, jnp.asarray(x)))
            errors.setdefault(name, {})[plan.nfe] = float(np.sqrt(np.mean((got - exact) ** 2)))
    return errors, how


def draw(errors: dict[str, dict[int, float]], path: pathlib.Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    axes = js.plot.work_precision(errors)
    axes.set_ylabel("RMSE to the exact ODE solution")
    axes.figure.savefig(path, dpi=200)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the figure and the table")
    args = parser.parse_args()
    with jax.enable_x64(True):
        errors, how = measure()
    draw(errors, args.out / "work_precision.png")
    shown = (5, 6, 8, 10, 12, 20, 30, 50)
    lines = [
        "# Work and precision",
        "",
        f"RMSE to the exact ODE solution ({how}) of {PARTICLES} points, by network evaluations. Mixture of seven",
        "Gaussians in the plane, variance-preserving noise, exact denoiser, float64. DPM++ and UniPC on the log-SNR",
        f"grid, the others on the grid quadratic in t. {machine.describe()}.",
        "`python benchmarks/work_precision.py`",
        "",
        "| solver | " + " | ".join(map(str, shown)) + " |",
        "|" + "---|" * (len(shown) + 1),
    ]
    for name in errors:
        cells = [f"{errors[name][n]:.1e}" if n in errors[name] else "" for n in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    (args.out / "work_precision.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
