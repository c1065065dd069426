"""Whom does a treatment help? Clusters of effects, told by images in a made trial and by covariates in a real one.

    python examples/effects.py --out effects.png

Half of the images hold a faint bright patch, and the treatment gains 2 for those units alone. The outcomes are all
that the fit sees of it: it finds two clusters, the patch that tells them apart, and effects with errors. The real trial
is the National Supported Work demonstration (LaLonde 1986: 445 people, earnings in 1978 with and without supported
work), whose table comes with causaldata (`pip install causaldata`); without that package it is left out. Its second
cluster is a few high earners with a wide error: so many people tell an average, and little about clusters.
"""

import argparse
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZE, GAIN, SHOWN = 8, 2.0, 8
COVARIATES = ["age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75"]


def trial(rng, num):
    """Noisy images, a patch in the upper left of half of them, a treatment by the toss of a coin, and outcomes."""
    images = rng.normal(size=(num, SIZE, SIZE)).astype(np.float32)
    patch = rng.random(num) < 0.5
    images[patch, 1:4, 1:4] += 1.5
    treated = rng.random(num) < 0.5
    outcome = 0.5 + GAIN * patch * treated + rng.normal(size=num)
    return images, treated, outcome.astype(np.float32), patch


def convolutions(key, num=6):
    """An encoder to be trained: filters of 3 x 3, squashed and averaged over the quarters of the image."""
    filters = 0.2 * jax.random.normal(key, (num, 1, 3, 3))

    def features(filters, image):
        maps = jax.lax.conv(image[None, None], filters, (1, 1), "SAME")[0]
        return jnp.tanh(2 * maps.reshape(num, 2, SIZE // 2, 2, SIZE // 2).mean((2, 4)).ravel())

    return jax.tree_util.Partial(features, filters)


def auc(score, truth):
    """The chance that a unit with the patch scores higher than one without."""
    return np.mean(np.asarray(score)[truth][:, None] > np.asarray(score)[~truth][None])


def supported_work():
    """Standardised covariates, treatment and earnings in thousands of dollars of the real trial, or None."""
    if importlib.util.find_spec("causaldata") is None:
        return None
    from causaldata import nsw_mixtape

    table = nsw_mixtape.load_pandas().data
    rows = table[COVARIATES].to_numpy(np.float64)
    rows = (rows - rows.mean(0)) / rows.std(0)
    return rows.astype(np.float32), table["treat"].to_numpy(), table["re78"].to_numpy(np.float32) / 1000


def report(title, info, unit=""):
    """Print effects and their average with errors."""
    print(title)
    for k, (value, error, units) in enumerate(zip(*map(np.asarray, info.effects), strict=True), start=1):
        print(f"  cluster {k}: effect {value:6.2f} +- {error:.2f}{unit}, {units:.0f} units")
    print(f"  average:   effect {float(info.average.value):6.2f} +- {float(info.average.stderr):.2f}{unit}")


def bars(axis, info, title, label, truth=None):
    """Draw effects and their average with two standard errors."""
    values = np.append(info.effects.value, info.average.value)
    errors = np.append(info.effects.stderr, info.average.stderr)
    axis.errorbar(np.arange(3), values, 2 * errors, fmt="o", capsize=4, label="fit, two standard errors")
    if truth is not None:
        axis.plot(np.arange(3), truth, "k_", ms=22, label="truth")
        axis.legend(fontsize=7)
    axis.axhline(0, color="0.7", lw=0.8)
    axis.set_title(title, fontsize=9)
    axis.set_ylabel(label, fontsize=8)
    axis.set_xticks(np.arange(3), ["cluster 1", "cluster 2", "average"], fontsize=8)
    axis.set_xlim(-0.5, 2.5)


def draw(path, found, images, share, made, real):
    """The picture: units of both clusters and what told them, beside the effects."""
    order, doubt = np.argsort(np.asarray(share)), np.argsort(np.abs(np.asarray(share) - 0.5))[:SHOWN]
    slope = np.asarray(jax.vmap(found.salience)(jnp.asarray(images[doubt])))
    rows = {"least likely\nto gain": images[order[:SHOWN]], "most likely\nto gain": images[order[::-1][:SHOWN]]}
    rows |= {"in doubt": images[doubt], "salience of\nthe line above": 3 * slope / np.abs(slope).max()}
    figure = plt.figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    left.suptitle("Units by their chance to gain, and the pixels that tell", fontsize=9)
    for line, (name, row) in zip(left.subplots(4, SHOWN), rows.items(), strict=True):
        for axis, image in zip(line, row, strict=True):
            axis.imshow(image, vmin=-3, vmax=3, cmap="RdBu_r" if name.startswith("salience") else "gray_r")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
    axes = np.atleast_1d(right.subplots(1 if real is None else 2, 1))
    bars(axes[0], made[0], "Images: effect of each cluster", "outcome", made[1])
    if real is not None:
        bars(axes[1], real, "Supported work (real trial)", "earnings, $1000")
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("effects.png"))
    options = parser.parse_args()
    rng, key = np.random.default_rng(0), jax.random.key(1)

    images, treated, outcome, patch = trial(rng, options.units)
    encoder = convolutions(jax.random.key(2))
    found, info = js.fit.effect_mixture(key, images, treated, outcome, encoder, 2, steps=options.steps)
    report(f"images, {options.units} units: the truth is 0 and {GAIN}, {GAIN * patch.mean():.2f} on average", info)
    fresh, _, _, patch_there = trial(rng, 600)
    share = jax.vmap(found)(jnp.asarray(fresh))[:, 1]
    slope = np.abs(np.asarray(jax.vmap(found.salience)(jnp.asarray(fresh)))).mean(0)
    inside, outside = slope[1:4, 1:4].mean(), (slope.sum() - slope[1:4, 1:4].sum()) / (SIZE**2 - 9)
    ratio = inside / outside
    print(
        f"  fresh images: AUC {auc(share, patch_there):.3f}; salience of the patch {ratio:.1f} times that of the rest"
    )

    table, real = supported_work(), None
    if table is None:
        print("supported work: left out, for causaldata is not installed")
    else:
        rows, treated, earnings = table
        straight = {"steps": options.steps, "train_encoder": False}
        one = js.fit.effect_mixture(key, rows, treated, earnings, lambda x: x, 1, **straight).info
        real = js.fit.effect_mixture(key, rows, treated, earnings, lambda x: x, 2, **straight).info
        plain = earnings[treated == 1].mean() - earnings[treated == 0].mean()
        report(f"supported work, {len(rows)} people: difference in means {plain:.2f} ($1000)", one)
        report("the same in two clusters", real)
    draw(options.out, found, fresh, share, (info, [0, GAIN, GAIN * patch.mean()]), real)


if __name__ == "__main__":
    main()
