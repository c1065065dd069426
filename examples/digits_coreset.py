"""A coreset of real handwritten digits: train on a few chosen images, test on the rest.

k-center covers the cloud, herding and kernel thinning imitate it; all against random rows. Leverage is here to show
that a score answers one question: it keeps the rows that least squares on the pixels needs, the unusual images, and
those are not the ones to learn ten classes from.

    python examples/digits_coreset.py --out .
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@jax.jit
def train(X, y, weight):
    """Multinomial logistic regression by gradient descent with momentum on weighted rows."""
    weight = weight / jnp.sum(weight)

    def loss(params):
        logits = X @ params[0] + params[1][None]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)[:, 0]
        return -jnp.sum(weight * picked) + 1e-4 * jnp.sum(params[0] ** 2)

    def step(state, _):
        params, speed = state
        speed = jax.tree.map(lambda v, g: 0.9 * v - 0.5 * g, speed, jax.grad(loss)(params))
        return (jax.tree.map(jnp.add, params, speed), speed), None

    start = (jnp.zeros((X.shape[1], 10)), jnp.zeros(10))
    return jax.lax.scan(step, (start, jax.tree.map(jnp.zeros_like, start)), None, length=300)[0][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=".", help="folder of the picture")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256], help="images kept; 32 are shown")
    args = parser.parse_args()
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = jnp.asarray(X[order] / 16, jnp.float32), jnp.asarray(y[order])
    X, y, test_X, test_y = X[:1024], y[:1024], X[1024:], y[1024:]
    kernel = js.select.GaussianKernel(1.5)

    choose = {
        "random": lambda key, m: js.select.draw(key, jnp.ones(1024), m, scheme="topk"),
        "leverage": lambda key, m: js.select.draw(key, js.select.leverage(X, ridge=1.0), m, scheme="priority"),
        "k-center": lambda key, m: js.select.k_center(X, m, start=jax.random.randint(key, (), 0, 1024)),
        "herding": lambda key, m: js.select.herding(X, m, kernel=kernel),
        "thinning": lambda key, m: js.select.thinning(key, X, int(np.log2(1024 / m)), kernel=kernel),
    }
    sizes = sorted({32, *args.sizes})
    accuracy, error, example = {}, {}, {}
    for name, pick in choose.items():
        accuracy[name], error[name] = [], []
        for m in sizes:
            hits = []
            for key in jax.random.split(jax.random.key(0), 1 if name == "herding" else args.trials):
                subset = pick(key, m)
                weight = jnp.ones(m) if name in ("k-center", "herding", "thinning") else subset.weight
                params = train(subset.take(X), subset.take(y), weight)
                hits.append(float(jnp.mean(jnp.argmax(test_X @ params[0] + params[1][None], 1) == test_y)))
            accuracy[name].append(np.mean(hits))
            error[name].append(np.std(hits, ddof=1) / np.sqrt(len(hits)) if len(hits) > 1 else 0.0)
            if m == 32:
                example[name] = np.asarray(subset.index)
        print(f"{name:9s}", "  ".join(f"{m}: {a:.3f}" for m, a in zip(sizes, accuracy[name], strict=True)))

    figure, axes = plt.subplot_mosaic("AAB;AAC;AAD", figsize=(9, 5.4), constrained_layout=True)
    for name, values in accuracy.items():
        axes["A"].errorbar(sizes, values, error[name], marker="o", capsize=3, label=name)
    axes["A"].set(
        xscale="log",
        xlabel="images kept (of 1024)",
        ylabel="test accuracy",
        title="Logistic regression, mean of the draws ± s.e.",
    )
    axes["A"].set_xticks(sizes, [str(m) for m in sizes])
    axes["A"].minorticks_off()
    axes["A"].legend()
    for panel, name in zip("BCD", ("random", "k-center", "thinning"), strict=True):
        js.plot.images(np.asarray(X)[example[name]].reshape(32, 8, 8), low=0.0, axes=axes[panel])
        axes[panel].set_title(f"32 by {name}")
    path = pathlib.Path(args.out) / "digits_coreset.png"
    figure.savefig(path, dpi=110)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
