"""Which of these two classifiers is better? Real handwritten digits, two learners, and what can honestly be said.

A ridge regression on one-hot labels against the nearest class mean after whitening. All fits of the repeated
cross-validation, of the 5 x 2 test and of the bootstrap run in one compiled vmap each.

    python examples/compare_classifiers.py
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import jsamp as js


def ridge(key, X, y, weight):
    """Least squares on one-hot labels, the strength fixed."""
    design = jnp.concatenate([X, jnp.ones((X.shape[0], 1))], 1)
    gram = (design * weight[:, None]).T @ design + 3.0 * jnp.eye(design.shape[1])
    return jnp.argmax(design @ jnp.linalg.solve(gram, (design * weight[:, None]).T @ jax.nn.one_hot(y, 10)), 1)


def class_means(key, X, y, weight):
    """Linear discriminant analysis: nearest class mean in the metric of the pooled, shrunken covariance."""
    member = jax.nn.one_hot(y, 10) * weight[:, None]
    means = member.T @ X / jnp.maximum(jnp.sum(member, 0), 1)[:, None]
    gap = (X - means[y]) * jnp.sqrt(weight)[:, None]
    covariance = gap.T @ gap / jnp.sum(weight) + 0.05 * jnp.eye(X.shape[1])
    rotated = jnp.linalg.solve(covariance, means.T)
    return jnp.argmax(X @ rotated - 0.5 * jnp.sum(means.T * rotated, 0)[None], 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600, help="labelled images to learn from (default 600)")
    options = parser.parse_args()
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    X, y = jnp.asarray(digits.data[order] / 8 - 1, jnp.float32), jnp.asarray(digits.target[order], jnp.int32)
    X, y, fresh_X, fresh_y = X[: options.rows], y[: options.rows], X[options.rows :], y[options.rows :]
    n, keys = len(y), jax.random.split(jax.random.key(0), 5)
    learners = {"ridge": ridge, "class means": class_means}

    masks = js.estimate.kfold_masks(keys[0], 10, n, strata=y, repeats=3)
    print(f"{n} labelled images. Error, 10 folds three times, and by the .632+ bootstrap:")
    for name, learner in learners.items():
        found = js.estimate.cross_validate(keys[1], learner, X, y, masks).estimate
        rule = js.estimate.err632plus(keys[2], learner, X, y, 50)
        both = "    ".join(f"{e.value:.4f} +- {e.stderr:.4f}" for e in (found, rule.estimate))
        print(f"  {name:12} {both}")

    halves = js.estimate.kfold_masks(keys[3], 2, n, strata=y, repeats=5)
    folds = [js.estimate.cross_validate(keys[3], learner, X, y, halves).folds for learner in learners.values()]
    test = js.estimate.f_5x2cv((folds[0] - folds[1]).reshape(5, 2))
    print(f"Do they differ, as learners, at half the data? 5 x 2 cv F = {test.statistic:.2f}, p = {test.pvalue:.3g}")

    # The two fitted classifiers on the images that nobody has seen.
    both, weight = jnp.concatenate([X, fresh_X]), jnp.concatenate([jnp.ones(n), jnp.zeros(len(fresh_y))])
    labels = jnp.concatenate([y, fresh_y])
    right = jnp.stack([learner(None, both, labels, weight)[n:] == fresh_y for learner in learners.values()], 1)
    verdict = js.estimate.mcnemar(right[:, 0], right[:, 1])
    gap = js.estimate.bootstrap(keys[4], lambda r: jnp.mean(r[:, 1] - r[:, 0]), right.astype(jnp.float32), 2000)
    shares = [100 * float(v) for v in (gap.estimate.value, gap.interval.low, gap.interval.high)]
    print(f"Do these two fits differ? On {len(fresh_y)} fresh images McNemar's p = {verdict.pvalue:.3g}.")
    print("The second is right on {:.2f}% more of them, 95% interval {:.2f}% to {:.2f}%.".format(*shares))


if __name__ == "__main__":
    main()
