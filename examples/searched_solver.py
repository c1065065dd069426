"""Search and learn a solver of five evaluations for the shipped denoiser; measure it on noise that it did not see.

    python examples/searched_solver.py --nfe 5 --budget 150 --out searched.png

The score is the RMSE to the 1,000-step solution of the ODE from the same noise, over guided digits; one program scores
all candidates. Gradients through the run then improve the winner's times, and how its steps share out their weight
among predictions. The table compares both with the best of the solvers people use, on their usual grids, at the
guidance of the search and, without another search, at others. Needs optax too.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import digits_net
import jax
import jax.numpy as jnp
import numpy as np
import png

import jsamp as js

SCHEDULE = js.noise.VE(sigma_min=0.1, sigma_max=20.0)


def denoiser(params, labels, guidance):
    """The guided denoiser of images [n, 28, 28] with labels [n]."""
    with_label = lambda label: js.Denoiser(digits_net.Digits(params, label), SCHEDULE, predicts="x0")
    blank = jnp.full_like(labels, digits_net.NULL)
    return js.denoise.ClassifierFree(with_label(labels), with_label(blank), scale=guidance)


@jax.jit
def draw(guided, x, plan):
    """Images of starts [1, n, 28, 28]: to a score, all of them are one sample."""
    return js.sample(None, guided, x[0], plan).x[None]


def fixed_plans(nfe: int) -> dict[str, js.Plan]:
    """The solvers people use, each on the grids people use."""
    grids = {
        "karras": js.noise.karras_grid(SCHEDULE, nfe),
        "logsnr": js.noise.logsnr_grid(SCHEDULE, nfe, final="zero"),
        "rho 3": js.noise.karras_grid(SCHEDULE, nfe, 3.0),
    }
    solve = js.solve
    makers = {
        "ddim": solve.ddim,
        "dpmpp 2": solve.dpmpp,
        "dpmpp 3": lambda s, g: solve.dpmpp(s, g, order=3),
        "unipc 2": lambda s, g: solve.unipc(s, g, order=2),
        "unipc 3": solve.unipc,
        "lms": solve.lms,
        "plms": solve.plms,
    }
    return {f"{name}, {grid}": make(SCHEDULE, t) for name, make in makers.items() for grid, t in grids.items()}


class Bench:
    """Starts, labels, and the fine solution for one guidance scale."""

    def __init__(self, params, seed: int, num: int, guidance: float, fine: int):
        self.x = SCHEDULE.prior(jax.random.key(seed), (1, num, 28, 28))
        self.denoiser = denoiser(params, jnp.arange(num) % 10, jnp.float32(guidance))
        exact = js.solve.dpmpp(SCHEDULE, js.noise.karras_grid(SCHEDULE, fine), order=3)
        self.exact = draw(self.denoiser, self.x, exact)

    def score(self, chunk: int = 1):
        """Stacked plans -> RMSE of each."""
        return js.fit.trajectory_score(self.denoiser, self.x, self.exact, block=chunk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--budget", type=int, default=150, help="candidates that are scored")
    parser.add_argument("--num", type=int, default=32, help="digits of the score")
    parser.add_argument("--fine", type=int, default=1000, help="steps of the reference")
    parser.add_argument("--learn", type=int, default=20, help="L-BFGS steps on the winner's times and shares")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("searched.png"))
    options = parser.parse_args()
    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")

    seen = Bench(params, options.seed, options.num, options.guidance, options.fine)
    begin = time.perf_counter()
    space = js.fit.Space(SCHEDULE, options.nfe)
    found = js.fit.search_plan(
        jax.random.key(options.seed), seen.score(), space, budget=options.budget, population=min(25, options.budget)
    )
    print(f"{options.budget} plans of {options.nfe} evaluations scored in {time.perf_counter() - begin:.0f} s")
    print(js.solve.describe(found.x), end="\n\n")
    begin = time.perf_counter()
    learned = js.fit.learn_plan(
        jax.random.key(options.seed + 2), seen.denoiser, found.x, x=seen.x, reference=seen.exact, steps=options.learn,
        train=("grid", "shares"), batch=1,
    )  # fmt: skip
    print(f"{options.learn} L-BFGS steps on the winner's times and shares in {time.perf_counter() - begin:.0f} s\n")

    print("guidance   best fixed solver      RMSE    searched   and learned   ratios      (fresh noise)")
    fixed = fixed_plans(options.nfe)
    plans = js.solve.stack([*fixed.values(), found.x, learned.x])
    for guidance in dict.fromkeys([options.guidance, 1.0, 1.5, 3.0, 4.0]):
        fresh = Bench(params, options.seed + 1, options.num, guidance, options.fine)
        errors = np.asarray(fresh.score()(plans))
        best = int(np.argmin(errors[:-2]))
        name, (half, ratio) = list(fixed)[best], errors[best] / errors[-2:]
        numbers = f"{errors[best]:6.4f}    {errors[-2]:8.4f}   {errors[-1]:11.4f}   {half:5.2f} {ratio:5.2f}"
        print(f"{guidance:8g}   {name:20} {numbers}", flush=True)
        if guidance == options.guidance:
            rows = [fresh.exact[0], draw(fresh.denoiser, fresh.x, fixed[name])[0]]
            rows.append(draw(fresh.denoiser, fresh.x, learned.x)[0])
            labels = [f"{options.fine} steps", name, "searched and learned"]
            png.page(options.out, [row[:12] for row in rows], labels, f"{options.nfe} evaluations")


if __name__ == "__main__":
    main()
