"""Hello, solver: three plans of ten evaluations draw from a ring of eight Gaussians, whose denoiser is exact.

python examples/hello_solver.py --out hello_solver.png
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="hello_solver.png")

schedule = js.noise.VP()
angle = jnp.arange(8) * jnp.pi / 4
means = 2.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
denoiser = js.denoise.GaussianMixture(schedule, weights=jnp.ones(8), means=means, stds=jnp.full(8, 0.15))

grid = js.noise.logsnr_grid(schedule, 10)
plans = {"DDIM": js.solve.ddim(schedule, grid), "DPM-Solver++ 2M": js.solve.dpmpp(schedule, grid, order=2)}
plans["DDPM"] = js.solve.ddpm(schedule, grid)
print(js.solve.describe(plans["DPM-Solver++ 2M"]))  # a plan is a table

figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), constrained_layout=True)
js.plot.plan(plans["DPM-Solver++ 2M"], axes=axes[3]).set_title("2M: steps and weights", fontsize=9)
for axis, (name, plan) in zip(axes, plans.items(), strict=False):
    draw = lambda key, x, plan=plan: js.sample(key, denoiser, x, plan).x  # one sample; the batch is a vmap
    x = jax.vmap(draw)(jax.random.split(jax.random.key(0), 500), schedule.prior(jax.random.key(1), (500, 2)))
    axis.scatter(*x.T, s=2)
    axis.set_title(f"{name}, {plan.nfe} evaluations", fontsize=9)
    axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
figure.savefig(parser.parse_args().out, dpi=90)
