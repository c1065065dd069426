"""Which labels are wrong? Find them by bilevel optimisation: weigh the rows so that what is learned serves clean ones.

    python examples/clean_labels.py --out clean_labels.png

800 of scikit-learn's 8x8 digits, four labels in ten of them wrong, and 100 whose labels are right. Lower problems: ten
classifiers, one digit against the rest, each a ridge logistic regression on the 800 rows with a weight for each row.
Upper problem: the weights, shared by the ten, for which these classifiers do best on the 100 rows. Each step looks at
some of the blocks and at some of their rows. Rows that end with a low weight are taken for wrong. Beside it: no
cleaning, the 100 rows alone, and the 800 rows with their wrong labels known. Half a minute.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import small_digits as digits

import jsamp as js

NOISY, CLEAN, CLASSES, RIDGE, RATE = 800, 100, 10, 1e-2, 300.0
KEPT = 0.5  # rows whose weight began at a half and has fallen are taken for wrong


def cross_entropy(logits, wanted):
    """Of one digit against the rest, per row."""
    return jax.nn.softplus(logits) - wanted * logits


def upper(x, y, rows):
    """How a classifier does on clean rows."""
    images, wanted, _ = rows
    return jnp.mean(cross_entropy(images @ y, wanted))


def lower(x, y, rows):
    """What a classifier minimises on rows of uncertain labels: x holds the logits of their weights."""
    images, wanted, row = rows
    return jnp.mean(jax.nn.sigmoid(x[row]) * cross_entropy(images @ y, wanted)) + RIDGE / 2 * jnp.sum(y**2)


def blocks(images, labels):
    """Rows for each of the ten classifiers, leaves [10, n, ...]: images with a one, what is wanted, and the number."""
    wide = np.concatenate([images, np.ones((len(images), 1))], 1).astype(np.float32)
    wanted = (labels[None] == np.arange(CLASSES)[:, None]).astype(np.float32)
    share = lambda one: jnp.asarray(np.broadcast_to(one, (CLASSES, *one.shape)))
    return share(wide), jnp.asarray(wanted), share(np.arange(len(images)))


def spoil(rng, labels, share):
    """Labels of which a share is another digit, drawn evenly, and which these are."""
    wrong = np.zeros(len(labels), bool)
    wrong[rng.permutation(len(labels))[: round(share * len(labels))]] = True
    other = (labels + rng.integers(1, CLASSES, len(labels))) % CLASSES
    return np.where(wrong, other, labels), wrong


def clean(key, data, steps, chosen, batch):
    """Weights [n] of the rows, and the error of the classifiers on clean rows at every step."""
    kernel = js.fit.Bilevel(
        upper, lower, rate=RATE, lower_rate=0.2 * chosen / CLASSES, blocks=chosen, batch=batch, track="products"
    )
    start, run = jax.random.split(key)
    state = kernel.init(start, jnp.zeros(NOISY), jnp.zeros((CLASSES, data[1][0].shape[-1])), data)
    body = lambda state, key: (lambda s, info: (s, info.upper))(*kernel.step(key, state, data))
    state, losses = jax.jit(lambda s, keys: jax.lax.scan(body, s, keys))(state, jax.random.split(run, steps))
    return np.asarray(jax.nn.sigmoid(state.x)), np.asarray(losses)


def accuracy(train, test):
    """Share of held-out images that a logistic regression on these rows gets right."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.5, max_iter=300).fit(*train).score(*test)


def draw_picture(path, images, given, truth, weight, wrong, scores):
    """The rows of lowest weight, the weights of all, and what cleaning brings."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1.5))
    left.suptitle("The 24 rows of lowest weight", fontsize=10)
    for panel, row in zip(left.subplots(4, 6).flat, np.argsort(weight, kind="stable"), strict=False):
        panel.imshow(images[row].reshape(8, 8), cmap="gray_r")
        colour = "tab:green" if wrong[row] else "tab:red"
        panel.set_title(f"“{given[row]}”, is {truth[row]}", fontsize=7, color=colour, pad=2)
        panel.axis("off")
    middle, bars = right.subplots(1, 2)
    edges = np.linspace(0, 1, 26)
    middle.hist(weight[~wrong], edges, alpha=0.6, label="right labels")
    middle.hist(weight[wrong], edges, alpha=0.6, label="wrong labels")
    middle.axvline(KEPT, color="0.5", linewidth=1)
    middle.set(xlabel="weight of a row", ylabel="rows", title="Weights after cleaning")
    middle.legend(fontsize=8)
    names = list(scores)
    bars.barh(names, [100 * scores[name] for name in names], color=["0.6", "0.6", "tab:blue", "0.8"])
    for place, name in enumerate(names):
        bars.text(100 * scores[name] - 0.5, place, f"{100 * scores[name]:.1f}", ha="right", va="center", fontsize=9)
    bars.invert_yaxis()
    bars.set(xlim=(60, 100), xlabel="held-out images right, %", title="What cleaning brings")
    figure.suptitle(f"Labels cleaned by bilevel optimisation: {100 * wrong.mean():.0f} % of {len(wrong)} were wrong")
    figure.savefig(path, dpi=70)


def main() -> None:
    """Clean, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=5, help="classifiers looked at in a step")
    parser.add_argument("--wrong", type=float, default=0.4, help="share of labels that are wrong")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="clean_labels.png")
    args = parser.parse_args()
    if args.steps < 1 or not 1 <= args.blocks <= CLASSES or not 0 < args.wrong < 1:
        parser.error(f"want --steps >= 1, --blocks in 1..10, --wrong in (0, 1); got {args}.")
    rng = np.random.default_rng(args.seed)
    images, labels, *rest = (np.asarray(one) for one in digits.load())
    images, labels = np.concatenate([images, rest[0]]), np.concatenate([labels, rest[1]])
    order = rng.permutation(len(images))
    cut = lambda one: np.split(one[order], [NOISY, NOISY + CLEAN])
    (images, few, *held), (labels, known, *answers) = cut(images), cut(labels)
    held += answers
    given, wrong = spoil(rng, labels, args.wrong)
    data = blocks(few, known), blocks(images, given)
    weight, losses = clean(jax.random.key(args.seed), data, args.steps, args.blocks, (50, 200))
    first, last = losses[:50].mean(), losses[-50:].mean()
    print(f"error of the ten classifiers on clean rows: {first:.3f} at first, {last:.3f} at last")
    print(f"of {wrong.sum()} wrong labels {np.mean(weight[wrong] < KEPT):.0%} are found, ", end="")
    print(f"of {np.sum(~wrong)} right ones {np.mean(weight[~wrong] < KEPT):.1%} are taken for wrong")
    both = lambda rows, given: (np.concatenate([images[rows], few]), np.concatenate([given[rows], known]))
    scores = {
        "all rows as given": accuracy(both(slice(None), given), held),
        "the 100 clean rows": accuracy((few, known), held),
        "cleaned": accuracy(both(weight >= KEPT, given), held),
        "wrong ones known": accuracy(both(~wrong, given), held),
    }
    for name, score in scores.items():
        print(f"{name:20s} {score:.1%} of {len(held[0])} held-out images right")
    draw_picture(args.out, images, given, labels, weight, wrong, scores)
    print(args.out)


if __name__ == "__main__":
    main()
