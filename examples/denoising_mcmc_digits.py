"""Denoising MCMC on the shipped digits denoiser: chains near the data, denoised from where they are.

64 chains on (x, sigma) move by Langevin steps; after each block the present (x, sigma) is denoised from its own sigma
down, by a plan whose grid starts there. The plain sampler spends the same number of network evaluations from
sigma = 20. Everything is counted: moves, plan, and the start of a chain (one plain sample, noised again, and a few
moves) spread over its images. The chain's noise level is read off the empty border of the image, where a digit has no
ink: a Gaussian likelihood in place of the paper's classifier.

What to expect (64 chains of 12 images, conditional, no guidance; FD_32 of 768 images, lower is better). With Heun at 6
evaluations the chain wins clearly, 76 against 274: three steps cannot come down from sigma = 20. From 10 evaluations on
it does not win: 12 against 5.8 with Heun, 7.0 against 5.9 with DPM-Solver++. The plain samplers have converged there
(6.3 at 20 evaluations), so a shorter way down has nothing to gain, while neighbours in a chain stay alike: recall falls
from .89 to .77, though label fidelity (.95 against .90) is higher. Chains at level 2 give near copies, recall .1 to .4.
On a law whose plain sampler has not converged in 10 or 20 evaluations, the gain is there: see
tests/claims/test_denoising_mcmc.py.

    python examples/denoising_mcmc_digits.py --out denoising_mcmc.png
"""

from __future__ import annotations

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import png
from digits_metrics import features, scores
from digits_net import MODELS, Digits, load

import jsamp as js

SCHEDULE = js.noise.VE(0.1, 20.0)
CHAINS, BURN, BATCH = 64, 2, 256
LEVELS = jnp.asarray(np.geomspace(0.12, 15.0, 300), jnp.float32)
BORDER = jnp.asarray(np.pad(np.zeros((22, 22)), 3, constant_values=1), jnp.float32)
# Budget -> noise level where chains start, time step, moves per image. High levels mix faster and cost more to denoise.
SETTINGS = {6: (2.0, 0.5, 1), 10: (5.0, 5.0, 2), 20: (5.0, 5.0, 6)}


def conditional(params, label):
    """The class-conditional denoiser of one chain."""
    return js.Denoiser(Digits(params, label), SCHEDULE, predicts="x0")


def level_posterior(x):
    """Log-probability of every noise level from the border, which is -1 in every digit."""
    square = jnp.sum(BORDER * (x + 1) ** 2)
    return -jnp.sum(BORDER) * jnp.log(LEVELS) - square / 2 / LEVELS**2


def plan_from(solver, sigma, nfe):
    """A plan of at most nfe evaluations from noise level sigma (which may be traced) to zero."""
    steps = nfe if solver == "dpmpp" else nfe // 2
    return getattr(js.solve, solver)(SCHEDULE, js.noise.karras_grid(SCHEDULE, steps, t_max=sigma))


@functools.partial(jax.jit, static_argnames=("solver", "nfe"))
def plain(params, key, labels, solver, nfe):
    """One image per label, from sigma = 20."""
    plan = plan_from(solver, 20.0, nfe)

    def draw(key, label):
        return js.sample(None, conditional(params, label), 20.0 * jax.random.normal(key, (28, 28)), plan).x

    return jax.vmap(draw)(jax.random.split(key, labels.size), labels)


@functools.partial(jax.jit, static_argnames=("num", "solver", "nfe", "skip"))
def chained(params, key, labels, images, sigma, step_size, num, solver, nfe, skip):
    """`num` images per chain: `skip` moves and a plan of `nfe` evaluations each; and the levels they start from."""

    def run(key, label, image):
        denoiser = conditional(params, label)
        kernel = js.mcmc.DenoisingLangevinGibbs(
            js.mcmc.NoisedScore(denoiser), LEVELS, posterior=level_posterior, x_move="ula", scaled=False,
            step_size=step_size, skip=skip,
        )  # fmt: skip
        noise, walk = jax.random.split(key)
        start = js.mcmc.Noised(image + sigma * jax.random.normal(noise, image.shape), sigma)
        x, sigmas = js.mcmc.chain(walk, kernel, start, num, burn=BURN, keep=js.mcmc.picked).x

        def denoise(x, sigma):
            return js.sample(None, denoiser, x, plan_from(solver, sigma, nfe)).x

        return jax.vmap(denoise)(x, sigmas), sigmas

    return jax.vmap(run)(jax.random.split(key, labels.size), labels, images)


def judge(classifier, images, labels):
    """FD_32, precision, recall and label fidelity."""
    images = np.asarray(images).reshape(-1, 28, 28)
    found = [np.asarray(features(classifier, jnp.asarray(images[i : i + BATCH]))) for i in range(0, len(images), BATCH)]
    return scores(classifier, np.concatenate(found), np.asarray(labels), np.asarray(classifier["reference"])[:1000])


def main(num=12, evaluations=(6, 10), out=None):
    params, classifier = load(MODELS / "mnist_denoiser.npz"), load(MODELS / "mnist_features.npz")
    labels = jnp.arange(CHAINS) % 10
    every = jnp.repeat(labels, num)
    print(f"{CHAINS} chains, {num} images each")
    print("sampler         evaluations   FD_32  precision  recall  label  level of the starts")
    rows, pictures = {}, []
    for total in evaluations:
        sigma, step_size, skip = SETTINGS.get(total, SETTINGS[6])
        for solver in ("heun", "dpmpp"):
            first = plain(params, jax.random.key(0), labels, solver, total)
            overhead = (total + BURN * skip) / num
            nfe = max(2, round(total - skip - overhead))
            nfe -= nfe % 2 if solver == "heun" else 0
            near, sigmas = chained(
                params, jax.random.key(1), labels, first, sigma, step_size, num, solver, nfe, skip
            )  # fmt: skip
            far = plain(params, jax.random.key(2), every, solver, total)
            for name, images, used in (("chain", near, skip + nfe + overhead), ("plain", far, total)):
                found = rows[name, solver, total] = judge(classifier, images, every)
                level = f"{float(jnp.median(sigmas)):.1f}" if name == "chain" else "20"
                numbers = f"{found[0]:8.2f} {found[1]:10.3f} {found[2]:7.3f} {found[3]:6.3f}"
                print(f"{name + ' + ' + solver:16s} {used:10.1f} {numbers}  {level}", flush=True)
            pictures.append(
                (f"{solver}, {total} evaluations", np.asarray(near), np.asarray(far).reshape(CHAINS, num, 28, 28))
            )
    if out is not None:
        picture(out, pictures)
    return rows


def picture(path, pictures):
    """Two rows of each sampler and budget: six images of one chain beside six plain ones."""
    rows, labels = [], []
    for name, near, far in pictures:
        both = np.concatenate([near[2:4, :6], np.full((2, 1, 28, 28), -1.0), far[2:4, :6]], axis=1)
        rows += list(both)
        labels += [name, *([""] * (len(both) - 1))]
    png.page(path, rows, labels, "Left: six images of one chain. Right: six plain runs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=12)
    parser.add_argument("--evaluations", type=int, nargs="+", default=(6, 10), help="of 6, 10, 20")
    parser.add_argument("--out", default="denoising_mcmc.png")
    main(**vars(parser.parse_args()))
