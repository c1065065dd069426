"""Draw 64 handwritten digits with any jsamp solver, then measure that solver against DDIM.

    python examples/draw_digits.py --solver dpmpp --steps 10 --guidance 3 --seed 0 --out digits.png

The network is a 473k-parameter transformer trained on MNIST by `train_digits.py`. Needs jax, numpy and jsamp only.
The table compares solvers from the same noise: RMSE to the 1000-step solution of the ODE; then the Frechet distance
FD_32, precision, recall and label fidelity of `digits_metrics` against real images, beside a floor of other real ones.
The picture has guidance 3, which draws clean strokes of little variety; the table has 2, nearer to the law of the data.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import pathlib
import time
from typing import NamedTuple

import digits_metrics as metrics
import digits_net
import jax
import jax.numpy as jnp
import numpy as np
import png

import jsamp as js

SCHEDULE = js.noise.VE(sigma_min=0.1, sigma_max=20.0)  # t is sigma; grids go 20 ... 0.1, then 0
CHUNK = 100
PICTURE, TABLE = 3.0, 2.0  # guidance
HEADER = "solver           NFE     RMSE    FD_32  precision  recall  label  seconds"


def solvers() -> dict:
    """Every builder of `js.solve` that makes a plan from a schedule and a grid alone, by name."""
    builders = {name: getattr(js.solve, name) for name in js.solve.__all__}
    return {
        name: build
        for name, build in sorted(builders.items())
        if inspect.isfunction(build) and list(inspect.signature(build).parameters)[:2] == ["schedule", "grid"]
    }


def make_plan(solver: str, steps: int) -> js.Plan:
    """The plan of a solver on a Karras grid that ends at zero noise; ValueError for what cannot be."""
    if solver not in solvers():
        raise ValueError(f"unknown solver {solver!r}; known: {', '.join(solvers())}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return solvers()[solver](SCHEDULE, js.noise.karras_grid(SCHEDULE, steps))


def plan_within(solver: str, nfe: int) -> js.Plan:
    """The plan with the most steps whose network evaluations fit the budget; ValueError where none does."""
    for steps in range(nfe, 0, -1):
        with contextlib.suppress(ValueError):  # some solvers need more steps than this
            plan = make_plan(solver, steps)
            if plan.nfe <= nfe:
                return plan
    raise ValueError(f"no plan of {solver} has {nfe} or fewer network evaluations")


@jax.jit
def draw(key, params, noise, labels, guidance, plan):
    """Images [n, 28, 28] from unit noise [n, 28, 28] and labels [n], with classifier-free guidance."""
    cond = js.Denoiser(digits_net.Digits(params, labels), SCHEDULE, predicts="x0")
    uncond = js.Denoiser(digits_net.Digits(params, jnp.full_like(labels, digits_net.NULL)), SCHEDULE, predicts="x0")
    guided = js.denoise.ClassifierFree(cond, uncond, scale=guidance)
    return js.sample(key, guided, SCHEDULE.sigma_max * noise, plan).x


def draw_many(key, params, noise, labels, guidance, plan) -> tuple[np.ndarray, float]:
    """`draw` for a multiple of 100 images, or fewer than 100, and the seconds it took once compiled."""
    chunk = min(CHUNK, len(noise))
    compiled = draw.lower(key, params, noise[:chunk], labels[:chunk], guidance, plan).compile()
    start, images = time.perf_counter(), []
    for i in range(0, len(noise), chunk):
        part, k_part = slice(i, i + chunk), jax.random.fold_in(key, i)
        images.append(np.asarray(compiled(k_part, params, noise[part], labels[part], guidance, plan)))
    return np.concatenate(images), time.perf_counter() - start


class Scores(NamedTuple):
    """One row of the table."""

    nfe: float = np.nan
    rmse: float = np.nan
    distance: float = np.nan
    precision: float = np.nan
    recall: float = np.nan
    label: float = np.nan
    seconds: float = np.nan


def line(name: str, row: Scores) -> str:
    """A row as text, with dashes where nothing was measured."""
    cells = zip(row, (4, 8, 8, 10, 7, 6, 8), (0, 4, 2, 3, 3, 3, 1), strict=True)
    text = (f"{value:{width}.{digits}f}" if np.isfinite(value) else f"{'-':>{width}}" for value, width, digits in cells)
    return " ".join([f"{name:15}", *text])


class Bench:
    """The noise, labels, real features and 1000-step solution that the rows of one table share."""

    def __init__(self, params, classifier, guidance, num, exact_num, seed=3):
        self.params, self.classifier, self.guidance, self.num = params, classifier, guidance, num
        self.labels = jnp.asarray(classifier["reference_labels"][:num], jnp.int32)
        self.noise = jax.random.normal(jax.random.key(seed), (num, 28, 28))
        self.key = jax.random.key(seed + 1000)
        self.features = jax.jit(metrics.features)
        start = (self.noise[:exact_num], self.labels[:exact_num])
        self.exact = np.asarray(draw(None, params, *start, guidance, make_plan("dpmpp", 1000)))

    def measure(self, solver: str, nfe: int) -> Scores:
        """Draw by a solver within an NFE budget and score the images; a stochastic solver has no RMSE."""
        plan = plan_within(solver, nfe)
        images, seconds = draw_many(self.key, self.params, self.noise, self.labels, self.guidance, plan)
        rmse = np.nan if plan.stochastic else float(np.sqrt(np.mean((images[: len(self.exact)] - self.exact) ** 2)))
        parts = np.split(images, self.num // CHUNK)
        features = np.concatenate([self.features(self.classifier, part) for part in parts])
        return Scores(plan.nfe, rmse, *self._against_real(features, self.labels), seconds)

    def stored(self, name: str) -> Scores:
        """Scores of features in the classifier's file: "real" (other real images) or "gaussian" (pixel Gaussian)."""
        labels = self.classifier["real_labels"][: self.num]
        return Scores(np.nan, np.nan, *self._against_real(self.classifier[name][: self.num], labels))

    def _against_real(self, features, labels):
        return metrics.scores(self.classifier, features, labels, self.classifier["reference"][: self.num])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", default="dpmpp", help=", ".join(solvers()))
    parser.add_argument("--steps", type=int, default=10, help="steps of the time grid (default 10)")
    text = f"classifier-free guidance, 1 is none (default {PICTURE:g} for the picture and {TABLE:g} for the table)"
    parser.add_argument("--guidance", type=float, help=text)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("digits.png"))
    parser.add_argument("--quick", action="store_true", help="draw the picture, skip the table")
    options = parser.parse_args()
    picture, table = (PICTURE, TABLE) if options.guidance is None else (options.guidance,) * 2
    if not np.isfinite(picture):
        parser.error(f"guidance must be finite, got {picture}")
    if not options.out.absolute().parent.is_dir():
        parser.error(f"no folder {options.out.parent} to write {options.out.name} to")
    try:
        plan = make_plan(options.solver, options.steps)
    except ValueError as error:
        parser.error(str(error))

    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    key, k_noise = jax.random.split(jax.random.key(options.seed))
    noise, labels = jax.random.normal(k_noise, (64, 28, 28)), jnp.arange(64) % 10
    images, seconds = draw_many(key, params, noise, labels, picture, plan)
    asked = [" ".join(map(str, row)) for row in np.reshape(labels, (8, 8))]
    title = f"{options.solver}, {plan.nfe} network evaluations, beside the digits asked for"
    png.page(options.out, np.reshape(images, (8, 8, 28, 28)), asked, title)
    print(f"{options.out}: 64 digits by {options.solver}, {plan.nfe} network evaluations, {seconds:.2f} s")
    if options.quick:
        return

    num, exact = 500, 16
    print(f"\nguidance {table:g}; n = {num} images and {num} real ones; RMSE to 1000 dpmpp steps on {exact}")
    print(HEADER, flush=True)
    bench = Bench(params, digits_net.load(digits_net.MODELS / "mnist_features.npz"), table, num, exact)
    for solver in (options.solver, "dpmpp" if options.solver == "ddim" else "ddim"):
        for nfe in (5, 10, 20):
            try:
                print(line(solver, bench.measure(solver, nfe)), flush=True)
            except ValueError as error:
                print(f"{solver.ljust(15)} {nfe:4}  {error}", flush=True)
    print(line("real images", bench.stored("real")))


if __name__ == "__main__":
    main()
