"""Hello, coreset: least squares on 100 of 20,000 rows, drawn by leverage or uniformly.

python examples/hello_coreset.py --out hello_coreset.png
"""

import argparse

import jax
import matplotlib
import numpy as np

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="hello_coreset.png")
rng = np.random.default_rng(0)
A = (rng.normal(size=(20_000, 8)) * rng.pareto(1.5, (20_000, 1))).astype(np.float32)  # a few rows matter
y = A @ np.ones(8, np.float32) + rng.normal(size=20_000).astype(np.float32)
loss = lambda x: np.sum((A @ x - y) ** 2)
best = loss(np.linalg.lstsq(A, y)[0])
scores = {"leverage": js.select.leverage(A), "uniform": np.ones(len(A), np.float32)}
sizes = [50, 100, 200, 400]
figure, (left, axis) = plt.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True)
few = js.select.draw(jax.random.key(0), scores["leverage"], 100, scheme="systematic")  # exactly 100 rows
js.plot.subset(A[:, :2], few, axes=left)
left.set(xscale="symlog", yscale="symlog")
for name, score in scores.items():
    excess = np.zeros((len(sizes), 20))
    for i, trial in np.ndindex(excess.shape):
        subset = js.select.draw(jax.random.key(trial), score, sizes[i], scheme="systematic")
        rows, root = subset.take((A, y)), np.sqrt(subset.weight)  # weights make every sum unbiased
        excess[i, trial] = loss(np.linalg.lstsq(root[:, None] * rows[0], root * rows[1])[0]) / best - 1
    axis.errorbar(sizes, excess.mean(1), excess.std(1, ddof=1) / np.sqrt(20), marker="o", capsize=3, label=name)
axis.set(yscale="log", xlabel="rows kept of 20,000", ylabel="loss above the optimum", title="Mean of 20 draws")
axis.legend()
figure.savefig(parser.parse_args().out, dpi=75)
