"""Hello, chain: four chains of NUTS on a banana, tuned together, with their diagnostics.

python examples/hello_chain.py --out hello_chain.png
"""

import argparse

import jax
import matplotlib

import jsamp as js

matplotlib.use("Agg")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="hello_chain.png")


def logdensity(x):
    return -(x[0] ** 2) / 2 - (x[1] - x[0] ** 2) ** 2 / 2


starts = jax.random.normal(jax.random.key(0), (4, 2))
kernel, starts = js.mcmc.tune(jax.random.key(1), js.mcmc.NUTS(logdensity), starts, 500, chains=4)
keys = jax.random.split(jax.random.key(2), 4)
draws = jax.vmap(lambda key, x: js.chain(key, kernel, x, 1000).x)(keys, starts)  # [chains, draws, 2]
print("mean", js.estimate.mean(draws).value, "R-hat", js.estimate.rhat(draws), "ESS", js.estimate.ess(draws))

figure = js.plot.chains(draws[:, ::10])[0, 0].figure  # traces, histograms of the chains, pairs
figure.suptitle("Four chains of NUTS on a banana, every tenth draw")
figure.savefig(parser.parse_args().out, dpi=72, pil_kwargs={"optimize": True})
