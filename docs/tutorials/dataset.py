"""A dataset.

You have more rows than you can use, or too few of one kind, and want a choice whose sums stay right.
"""

# Twenty thousand rows of which a few matter: least squares on all of them is the truth to be kept.
import jax
import numpy as np

import jsamp as js

rng = np.random.default_rng(0)
A = (rng.normal(size=(20_000, 8)) * rng.pareto(1.5, (20_000, 1))).astype(np.float32)
y = A @ np.ones(8, np.float32) + rng.normal(size=20_000).astype(np.float32)
loss = lambda x: np.sum((A @ x - y) ** 2)
best = loss(np.linalg.lstsq(A, y)[0])

# Scores say how much a row matters, draws turn scores into a subset with weights: two steps, any score with any draw.
# Weighted sums over the subset are unbiased.
scores = js.select.leverage(A)
subset = js.select.draw(jax.random.key(0), scores, 400, scheme="systematic")
print(subset.index.shape, subset.weight.shape)
# > (400,) (400,)


def excess(score, trial):
    """How far above the optimum least squares on 400 rows ends."""
    chosen = js.select.draw(jax.random.key(trial), score, 400, scheme="systematic")
    rows, root = chosen.take((A, y)), np.sqrt(chosen.weight)
    return loss(np.linalg.lstsq(root[:, None] * rows[0], root * rows[1])[0]) / best - 1


# Against uniform rows, over twenty draws each:
uniform = np.ones(len(A), np.float32)
by = {name: np.mean([excess(s, t) for t in range(20)]) for name, s in (("leverage", scores), ("uniform", uniform))}
print("leverage is better by more than half:", bool(by["leverage"] < by["uniform"] / 2))
# > leverage is better by more than half: True

# Other norms have other scores. `lewis` is for p = 1, where outliers are kept from ruling the fit; `distortion`
# measures how far any norm of the subset is from that of all rows.
lewis = js.select.draw(jax.random.key(1), js.select.lewis(A, 1.0).weight, 800, scheme="systematic")
print("l1 norms within", round(float(js.select.distortion(A, lewis, 1.0)), 1))
# > l1 norms within 0.2

# Rows of a small class: SMOTE draws new ones between neighbours.
X, labels = rng.normal(size=(60, 2)).astype(np.float32), np.arange(60) // 45
print(np.bincount(labels), "becomes", np.bincount(js.select.oversample(jax.random.key(2), X, labels)[1]))
# > [45 15] becomes [45 45]

# `js.plot.subset(A[:, :2], subset)` draws the rows and the discs of their weights.
