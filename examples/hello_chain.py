"""Hello, chain: four chains of NUTS on a banana, tuned together, with their diagnostics.

python examples/hello_chain.py --out hello_chain.png
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="hello_chain.png")


def logdensity(x):
    return -(x[0] ** 2) / 2 - (x[1] - x[0] ** 2) ** 2 / 2


starts = jax.random.normal(jax.random.key(0), (4, 2))
kernel, starts = js.mcmc.tune(jax.random.key(1), js.mcmc.NUTS(logdensity), starts, 500, chains=4)
keys = jax.random.split(jax.random.key(2), 4)
draws = jax.vmap(lambda key, x: js.chain(key, kernel, x, 1000).x)(keys, starts)  # [chains, draws, 2]
print("mean", js.estimate.mean(draws).value, "R-hat", js.estimate.rhat(draws), "ESS", js.estimate.ess(draws))

figure, axis = plt.subplots(figsize=(4.2, 3.2), constrained_layout=True)
a, b = np.meshgrid(np.linspace(-3, 3, 120), np.linspace(-3, 8, 120))
axis.contour(a, b, jnp.exp(jax.vmap(jax.vmap(logdensity))(jnp.stack([a, b], -1))), levels=6, linewidths=0.8)
for chain in draws:
    axis.scatter(*chain[::4].T, s=2)
axis.set(title="Draws of four chains", xlabel="x[0]", ylabel="x[1]")
figure.savefig(parser.parse_args().out, dpi=90)
