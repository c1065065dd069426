"""Which inputs matter? A posterior over subsets of inputs and their coefficients, by moves on both at once.

Diabetes progression of 442 patients against ten inputs (scikit-learn ships the data). The subset z is moved by discrete
Langevin, the coefficients by MALA, in one composed kernel; since coefficients can be integrated out by hand, all 1,024
subsets are enumerated to check it. Pathfinder starts NUTS on the full model, for comparison.

python examples/mixed_moves.py --out mixed_moves.png
"""

from __future__ import annotations

import argparse
import itertools

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_diabetes

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NOISE, SLAB, SPIKE, INCLUDED = 0.7, 0.3, 0.1, 0.3  # standard deviations, and the prior share of inputs that matter


def load():
    """Standardised inputs, response and names."""
    data = load_diabetes()
    X, y = data.data, data.target
    return (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std(), data.feature_names


def exact_inclusion(X, y):
    """P(z_j = 1 | y) by enumeration: given z, y is normal, and its covariance is known."""
    gram, cross = X.T @ X / NOISE**2, X.T @ y / NOISE**2
    log_weights, subsets = [], list(itertools.product((0, 1), repeat=X.shape[1]))
    for z in subsets:
        prior = np.where(z, SLAB, SPIKE) ** 2
        precision = gram + np.diag(1 / prior)
        fit = cross @ np.linalg.solve(precision, cross) / 2
        spread = (np.linalg.slogdet(precision)[1] + np.log(prior).sum()) / 2
        log_weights.append(fit - spread + sum(z) * np.log(INCLUDED / (1 - INCLUDED)))
    weights = np.exp(np.array(log_weights) - max(log_weights))
    return weights @ np.array(subsets) / weights.sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=4000)
    parser.add_argument("--out", default="mixed_moves.png")
    arguments = parser.parse_args()
    inputs, response, names = load()
    X, y = jnp.asarray(inputs, jnp.float32), jnp.asarray(response, jnp.float32)

    def joint(v):
        beta, z = v["beta"], v["z"]
        variance = SPIKE**2 + z * (SLAB**2 - SPIKE**2)  # at z = 0 and 1 spike and slab, in between a path between them
        prior = -jnp.sum(beta**2 / variance + jnp.log(variance)) / 2 + jnp.sum(z) * jnp.log(INCLUDED / (1 - INCLUDED))
        return prior - jnp.sum((y - X @ beta) ** 2) / (2 * NOISE**2)

    full = lambda beta: joint({"beta": beta, "z": jnp.ones_like(beta)})
    start, info = js.mcmc.pathfinder(jax.random.key(0), full, jnp.zeros(10), 4, memory=10, metric="dense")
    nuts = js.chains(jax.random.key(1), js.mcmc.NUTS(full, step_size=0.5, metric=info.metric), start, arguments.num)
    accepted = float(nuts.info.accept.mean())
    print(f"NUTS on all inputs from pathfinder ({int(info.nfe)} evaluations): acceptance {accepted:.2f}")

    kernel = js.mcmc.compose(
        js.mcmc.repeat(js.mcmc.on(js.mcmc.MALA(joint, 0.5, metric=info.metric), "beta"), 4),
        js.mcmc.on(js.mcmc.DiscreteLangevin(joint, step_size=2.0), "z"),
    )
    starts = {"beta": start, "z": jnp.zeros((4, 10), int)}
    draws, _ = js.chains(jax.random.key(2), kernel, starts, arguments.num)
    found = js.estimate.mean(draws["z"].astype(jnp.float32))
    exact = exact_inclusion(inputs, response)
    for name, p, error, truth in zip(names, found.value, found.stderr, exact, strict=True):
        print(f"{name:4s} matters with probability {p:.3f} +- {error:.3f} (enumerated {truth:.3f})")

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), constrained_layout=True)
    places = np.arange(10)
    left.bar(places, exact, color="0.85", label="all 1,024 subsets enumerated")
    left.errorbar(places, found.value, 2 * np.asarray(found.stderr), fmt="o", ms=4, capsize=3, label="mixed moves")
    left.set(title="Which inputs matter: probability", ylim=(0, 1.05), xticks=places, xticklabels=names)
    left.legend(fontsize=7)
    for shift, values, label in (
        (-0.15, nuts.x, "all inputs (NUTS)"),
        (0.15, draws["beta"], "some inputs (mixed moves)"),
    ):
        flat = np.asarray(values).reshape(-1, 10)
        right.errorbar(places + shift, flat.mean(0), 2 * flat.std(0), fmt="o", ms=3, label=label)
    right.axhline(0, color="0.7", lw=0.8)
    right.set(title="Coefficients: mean and two sd", xticks=places, xticklabels=names)
    right.legend(fontsize=7, loc="lower right")
    figure.savefig(arguments.out, dpi=75)


if __name__ == "__main__":
    main()
