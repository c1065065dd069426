"""Move particles by the score of a diffusion model: SDS loses their spread, its variational form keeps it.

    python examples/score_distillation.py --out distilled_scores.png

Particles descend along `js.loss.sds` or `js.loss.vsd`; for the latter an online network learns the particles' own score
by `js.loss.Match` while they move. In two dimensions the prior is eight Gaussians on a ring and is known; then the
particles are 8x8 digits and the prior is a denoiser trained from nothing. The energy distance is that to samples of the
prior (of the ring) or to real images (of the digits). A minute on two cores.
"""

from __future__ import annotations

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import small_digits as small

import jsamp as js

VE = js.noise.VE(sigma_min=0.02, sigma_max=20.0)
ANGLES = 2 * np.pi * np.arange(8) / 8
MEANS = 3 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1)
RING = js.denoise.GaussianMixture(VE, weights=[1 / 8] * 8, means=MEANS, stds=[0.4] * 8)
TIMES = js.loss.LogNormalTimes(-0.6, 1.2)


def even(schedule, sigma):
    """Pulls of the size of a difference of two denoised images, at every level."""
    return sigma


def denoiser(model):
    """The denoiser of a model of rows or one row, (x, sigma) -> x0."""
    return js.Denoiser(jax.tree_util.Partial(lambda m, x, t: m(x, t), model), VE, predicts="x0")


def ring_network(params, x, level):
    """A small network of points [..., 2]."""
    h = jnp.tanh(x @ params["in"] + jnp.stack([level, level**2], -1) @ params["level"])
    return jnp.tanh(h @ params["up"]) @ params["out"]


def ring_init(key, width=96):
    names = {"in": (2, width), "level": (2, width), "up": (width, width), "out": (width, 2)}
    keys = jax.random.split(key, len(names))
    return {n: jax.random.normal(k, s) / np.sqrt(s[0]) for k, (n, s) in zip(keys, names.items(), strict=True)}


def digit_network(params, x, level):
    """The network of `small_digits`, of no class."""
    return small.network(params, x, level, jnp.full(x.shape[:-1], small.NULL))


@functools.partial(jax.jit, static_argnames=("variational", "steps"))
def distil(key, prior, online, x, weight, rate, variational, steps):
    """Particles [n, d] after `steps` moves, each followed by an update of what the online model knows of them."""
    match = js.loss.Match(VE, predicts="x0", weight=weight, times=TIMES, batched=True)
    move = optax.adam(optax.cosine_decay_schedule(rate, steps))
    learn = optax.adam(2e-3, b1=0.5)

    def step(carry, i):
        x, online, moving, learning = carry
        k_move, k_learn = jax.random.split(jax.random.fold_in(key, i))
        how = {"times": TIMES, "weight": even}
        own = denoiser(online)
        slope = js.loss.vsd(k_move, prior, own, x, **how) if variational else js.loss.sds(k_move, prior, x, **how)
        updates, moving = move.update(slope, moving)
        x = optax.apply_updates(x, updates)
        if not variational:
            return (x, online, moving, learning), None
        slope = jax.grad(match, argnums=1, has_aux=True)(k_learn, online, x)[0]
        updates, learning = learn.update(slope, learning)
        return (x, optax.apply_updates(online, updates), moving, learning), None

    start = (x, online, move.init(x), learn.init(online))
    return jax.lax.scan(step, start, jnp.arange(steps))[0][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=800, help="moves of the particles")
    parser.add_argument("--steps", type=int, default=1500, help="updates of the denoiser of digits")
    parser.add_argument("--num", type=int, default=240, help="particles of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("distilled_scores.png"))
    options = parser.parse_args()
    keys = jax.random.split(jax.random.key(options.seed), 6)
    which = jax.random.randint(keys[0], (options.num,), 0, 8)
    truth = jnp.asarray(MEANS, jnp.float32)[which] + 0.4 * jax.random.normal(keys[1], (options.num, 2))
    start, names = 3 * jax.random.normal(keys[2], truth.shape), ("SDS", "VSD")
    online = js.denoise.EDM(jax.tree_util.Partial(ring_network, ring_init(keys[3])), 2.2)
    points, weight = {"prior": truth}, js.loss.EDMWeight(2.2)
    print(f"{'':12s}{'energy distance':>16s}{'precision':>11s}{'recall':>8s}")
    for name in names:
        points[name] = distil(keys[4], RING, online, start, weight, 0.05, name == "VSD", options.moves)
        print(f"ring, {name:6s}{float(js.estimate.energy(points[name], truth).value):16.4f}", flush=True)

    x, y, held, _ = small.load()
    classifier = small.train_classifier(keys[0], x, y)
    model, _ = small.train_denoiser(keys[3], (x, y), options.steps)
    free = js.denoise.EDM(jax.tree_util.Partial(digit_network, model.model.args[0]), small.SIGMA_DATA)
    start, images = 0.5 * jax.random.normal(keys[2], (options.num, 64)), {"real": held}
    weight = js.loss.EDMWeight(small.SIGMA_DATA)
    for name in names:
        images[name] = distil(keys[4], denoiser(free), free, start, weight, 0.02, name == "VSD", options.moves)
        _, precision, recall = small.measure(classifier, images[name], held)
        energy = float(js.estimate.energy(images[name], held).value)
        print(f"digits, {name:4s}{energy:16.4f}{precision:11.3f}{recall:8.3f}", flush=True)
    draw(options.out, points, images)


def draw(path, points, images):
    """Points above, digits below, each row and panel with its name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7, 4.6))
    for i, (name, x) in enumerate(points.items()):
        axis = figure.add_axes((0.04 + 0.32 * i, 0.5, 0.28, 0.4), aspect="equal", xlim=(-5, 5), ylim=(-5, 5))
        axis.plot(*np.asarray(x).T, ".", markersize=2, color="black", alpha=0.5)
        axis.set_title(name, fontsize=9)
        axis.set_xticks([]), axis.set_yticks([])
    rows = np.concatenate([np.asarray(v[:20]).reshape(-1, 8, 8) for v in images.values()])
    js.plot.images(rows, columns=20, labels=list(images), axes=figure.add_axes((0.1, 0.02, 0.86, 0.42)))
    figure.suptitle("Particles moved by score distillation and by its variational form", fontsize=10)
    figure.savefig(path, dpi=90)
    print(path)


if __name__ == "__main__":
    main()
