"""Cost of a solver step beyond the model: jsamp beside diffusers and k-diffusion, in one run on one machine.

The model is one 32 x 32 matrix product, the same everywhere; the time of as many calls of it alone is subtracted, so
what is left is what the library adds to a step. Peers run as their users run them: eager PyTorch without gradients,
schedulers already set up when the clock starts. jsamp is called as `js.sample`, compiled beforehand, dispatch included.
Peers that are not installed are skipped with a line that says so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import pathlib
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import machine
import numpy as np
from against_scan import RESULTS, load_line

import jsamp as js

SHAPE = (64, 3, 32, 32)
STEPS = 20
SOLVERS = ("DDIM", "DPM++ 2M", "DPM++ 3M", "DEIS 3", "UniPC 3", "SA 3-4", "PLMS 4", "Heun", "LMS 4")


class Entry(NamedTuple):
    """One timed program: `prepare()` off the clock gives a function to time; `calls` counts model evaluations."""

    prepare: Callable[[], Callable]
    calls: int
    threads: int | None = None


def product() -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))
    return q.astype(np.float32)


def model(weights, x, t):
    return (x.reshape(-1, 32) @ weights).reshape(x.shape)


@jax.jit
def model_alone(weights, x):
    return jax.lax.scan(lambda x, _: (model(weights, x, 0.0), None), x, None, length=STEPS)[0]


def own_entries() -> dict[str, Entry]:
    vp, ve = js.noise.VP(), js.noise.VE()
    log, square = js.noise.logsnr_grid(vp, STEPS), js.noise.time_grid(vp, STEPS, power=2)
    karras = js.noise.karras_grid(ve, STEPS)
    plans = {
        "DDIM": (vp, js.solve.ddim(vp, square)),
        "DPM++ 2M": (vp, js.solve.dpmpp(vp, log, order=2)),
        "DPM++ 3M": (vp, js.solve.dpmpp(vp, log, order=3)),
        "DEIS 3": (vp, js.solve.deis(vp, square, order=3)),
        "UniPC 3": (vp, js.solve.unipc(vp, log, order=3)),
        "SA 3-4": (vp, js.solve.sa_solver(vp, log, predictor=3, corrector=4)),
        "PLMS 4": (vp, js.solve.plms(vp, square)),
        "Heun": (ve, js.solve.heun(ve, karras)),
        "LMS 4": (ve, js.solve.lms(ve, karras)),
    }
    weights = jnp.asarray(product())
    x = jax.random.normal(jax.random.key(0), SHAPE)
    entries = {}
    for name, (schedule, plan) in plans.items():
        denoiser = js.Denoiser(jax.tree_util.Partial(model, weights), schedule, predicts="eps")
        key = jax.random.key(1) if plan.stochastic else None

        def run(denoiser=denoiser, plan=plan, key=key):
            return jax.block_until_ready(js.sample(key, denoiser, x, plan).x)

        entries[name] = Entry(lambda run=run: run, plan.nfe)
    entries["model"] = Entry(lambda: lambda: jax.block_until_ready(model_alone(weights, x)), STEPS)
    return entries


def torch_model_entry(torch, threads: int) -> Entry:
    weights, x = torch.from_numpy(product()), torch.randn(SHAPE)

    def run():
        y = x
        for _ in range(STEPS):
            y = model(weights, y, 0.0)

    return Entry(lambda: run, STEPS, threads)


def diffusers_entries(torch, threads: int) -> dict[str, Entry]:
    import diffusers

    betas = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    plus = dict(betas, final_sigmas_type="sigma_min")
    schedulers = {
        "DDIM": diffusers.DDIMScheduler(**betas, clip_sample=False),
        "DPM++ 2M": diffusers.DPMSolverMultistepScheduler(**plus, solver_order=2),
        "DPM++ 3M": diffusers.DPMSolverMultistepScheduler(**plus, solver_order=3),
        "DEIS 3": diffusers.DEISMultistepScheduler(**betas, solver_order=3),
        "UniPC 3": diffusers.UniPCMultistepScheduler(**plus, solver_order=3),
        "SA 3-4": diffusers.SASolverScheduler(**betas, predictor_order=3, corrector_order=4),
        "PLMS 4": diffusers.PNDMScheduler(**betas, skip_prk_steps=True),
        "Heun": diffusers.HeunDiscreteScheduler(**betas),
        "LMS 4": diffusers.LMSDiscreteScheduler(**betas),
    }
    weights, start = torch.from_numpy(product()), torch.randn(SHAPE)

    def entry(scheduler):
        def prepare():
            scheduler.set_timesteps(STEPS)

            def run():
                x = start * scheduler.init_noise_sigma
                for t in scheduler.timesteps:
                    eps = model(weights, scheduler.scale_model_input(x, t), t)
                    x = scheduler.step(eps, t, x).prev_sample

            return run

        scheduler.set_timesteps(STEPS)
        return Entry(prepare, len(scheduler.timesteps), threads)

    return {name: entry(scheduler) for name, scheduler in schedulers.items()}


def k_diffusion_entries(torch, threads: int) -> dict[str, Entry]:
    from k_diffusion import sampling

    sigmas = sampling.get_sigmas_karras(STEPS, 0.002, 80.0)
    weights, start = torch.from_numpy(product()), 80 * torch.randn(SHAPE)

    def denoised(x, sigma):
        return x - sigma.reshape(-1, 1, 1, 1) * model(weights, x, sigma)

    functions: dict[str, tuple[Callable, dict[str, Any], int]] = {
        "DDIM": (sampling.sample_euler, {}, STEPS),
        "DPM++ 2M": (sampling.sample_dpmpp_2m, {}, STEPS),
        "DPM++ 3M": (sampling.sample_dpmpp_3m_sde, {"eta": 0.0, "noise_sampler": lambda *_: 0.0}, STEPS),
        "Heun": (sampling.sample_heun, {}, 2 * STEPS - 1),
        "LMS 4": (sampling.sample_lms, {"order": 4}, STEPS),
    }

    def entry(function, options, calls):
        return Entry(lambda: lambda: function(denoised, start, sigmas, disable=True, **options), calls, threads)

    return {name: entry(*parts) for name, parts in functions.items()}


def gather() -> tuple[dict[str, dict[str, Entry]], list[str], Any]:
    """Programs by library, lines about what was left out, and torch."""
    libraries, notes = {"jsamp": own_entries()}, []
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return libraries, ["torch is not installed: diffusers and k-diffusion were skipped."], None
    torch.set_grad_enabled(False)
    versions = [f"torch {torch.__version__}"]
    for package, build in (("diffusers", diffusers_entries), ("k_diffusion", k_diffusion_entries)):
        label = package.replace("_", "-")
        try:
            importlib.import_module(package)
        except Exception as error:  # a peer whose own dependencies are broken is as good as absent
            notes.append(f"{label} was skipped: {type(error).__name__}: {error}.")
            continue
        versions.append(f"{label} {importlib.metadata.version(label)}")
        for threads in (1, 2):
            libraries[f"{label}, {threads} thread{'s' * (threads > 1)}"] = {
                **build(torch, threads),
                "model": torch_model_entry(torch, threads),
            }
    notes.append("Versions: " + ", ".join(versions) + ".")
    return libraries, notes, torch


def measure(libraries, torch, repeats: int) -> dict[tuple[str, str], float]:
    """Median seconds beyond the model, per step, measured in turns."""
    names = [(lib, solver) for solver in ("model", *SOLVERS) for lib in libraries if solver in libraries[lib]]
    times: dict[tuple[str, str], list[float]] = {name: [] for name in names}
    for turn in range(repeats + 2):
        for lib, solver in names if turn % 2 == 0 else names[::-1]:
            entry = libraries[lib][solver]
            if entry.threads is not None:
                torch.set_num_threads(entry.threads)
            run = entry.prepare()
            start = time.perf_counter()
            run()
            if turn >= 2:
                times[lib, solver].append(time.perf_counter() - start)
    out = {}
    for lib, solver in names:
        total = statistics.median(times[lib, solver])
        if solver == "model":
            out[lib, solver] = total / STEPS
        else:
            calls = libraries[lib][solver].calls
            out[lib, solver] = (total - calls * statistics.median(times[lib, "model"]) / STEPS) / STEPS
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=21, help="timed rounds")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "against_peers.md")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    libraries, notes, torch = gather()
    found = measure(libraries, torch, args.repeats)
    peers = [lib for lib in libraries if lib != "jsamp"]
    lines = [
        "# Solver overhead beside other libraries",
        "",
        f"Milliseconds a step beyond the model, state {list(SHAPE)} float32, {STEPS} steps, median of {args.repeats}",
        "rounds in turns; in brackets how many times jsamp's. Heun's step has two evaluations. The peers are eager",
        f"PyTorch; jsamp is jitted and uses both cores. {machine.describe()}.",
        f"{load_line()} `python benchmarks/against_peers.py`",
        "",
        *(f"{note}" for note in notes),
        "dpm_solver_jax, jax_deis and hackable_diffusion are not on PyPI and were not measured.",
        "",
        "| solver | jsamp | " + " | ".join(peers) + " |",
        "|" + "---|" * (2 + len(peers)),
    ]
    for solver in SOLVERS:
        own = found["jsamp", solver]
        cells = [f"{1e3 * own:.3f}"]
        for lib in peers:
            value = found.get((lib, solver))
            cells.append("" if value is None else f"{1e3 * value:.3f} ({value / own:.1f}x)")
        lines.append(f"| {solver} | " + " | ".join(cells) + " |")
    model_cells = [f"{1e3 * found[lib, 'model']:.3f}" for lib in libraries]
    lines.append("| (the model alone) | " + " | ".join(model_cells) + " |")
    text = "\n".join(lines) + "\n"
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
