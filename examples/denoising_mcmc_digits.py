"""Denoising MCMC on the shipped digits denoiser: chains near the data, denoised from where they are.

64 chains on (x, sigma) move by Langevin steps; after each block the present (x, sigma) is denoised from its own
sigma down, by a plan whose grid starts there. The plain sampler spends the same number of network evaluations from
sigma = 20. The evaluations that start the chains are counted too, spread over the samples. Samples of one chain are
dependent. A multistep solver needs few evaluations on digits, so do not expect the chain to win here: 128 images of
19 evaluations each scored FD_32 38.3 from the chain and 31.8 plain.

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
from jsamp import mcmc

SCHEDULE = js.noise.VE(0.1, 20.0)
CHAINS, BURN, SKIP = 64, 4, 1
SIGMAS = np.geomspace(0.15, 15.0, 200)


def guided(params, label, scale=1.5):
    """The class-conditional denoiser of one chain, with classifier-free guidance."""
    cond, uncond = (js.Denoiser(Digits(params, k), SCHEDULE, predicts="x0") for k in (label, jnp.int32(10)))
    return js.denoise.ClassifierFree(cond, uncond, scale=scale)


def plan_from(solver, sigma, nfe):
    """A plan of at most nfe evaluations from noise level sigma (which may be traced) to zero."""
    steps = nfe if solver == "dpmpp" else (nfe + 1) // 2
    return getattr(js.solve, solver)(SCHEDULE, js.noise.karras_grid(SCHEDULE, steps, t_max=sigma))


@functools.partial(jax.jit, static_argnames=("solver", "nfe"))
def plain(params, key, labels, solver, nfe):
    """One image per label, from sigma = 20."""
    plan = plan_from(solver, 20.0, nfe)

    def draw(key, label):
        return js.sample(None, guided(params, label), 20.0 * jax.random.normal(key, (28, 28)), plan).x

    return jax.vmap(draw)(jax.random.split(key, labels.size), labels)


@functools.partial(jax.jit, static_argnames=("num", "solver", "nfe"))
def chained(params, key, labels, images, num, solver, nfe):
    """`num` images per chain, `nfe` evaluations each: the block's score calls and the plan's."""
    budget = nfe - 2 * SKIP  # a move and the norm that finds its noise level cost one score each

    def run(key, label, image):
        denoiser = guided(params, label)
        kernel = mcmc.DenoisingLangevinGibbs(
            mcmc.NoisedScore(denoiser), SIGMAS, posterior="norm", x_move="ula", scaled=False, step_size=0.2, skip=SKIP
        )
        noise, walk = jax.random.split(key)
        start = mcmc.Noised(image + 2.0 * jax.random.normal(noise, image.shape), 2.0)
        x, sigma = mcmc.chain(walk, kernel, start, num, burn=BURN, keep=mcmc.picked).x

        def denoise(x, sigma):
            return js.sample(None, denoiser, x, plan_from(solver, sigma, budget)).x

        return jax.vmap(denoise)(x, sigma), sigma

    return jax.vmap(run)(jax.random.split(key, labels.size), labels, images)


def main(num=6, evaluations=(10, 20), out=None):
    params, classifier = load(MODELS / "mnist_denoiser.npz"), load(MODELS / "mnist_features.npz")
    reference = np.asarray(classifier["reference"])[: CHAINS * num]
    labels = jnp.arange(CHAINS) % 10
    first = plain(params, jax.random.key(0), labels, "dpmpp", 10)
    overhead = (10 + BURN * 2 * SKIP) / num
    every = jnp.repeat(labels, num)
    print(f"{CHAINS} chains, {num} images each; starting the chains adds {overhead:.1f} evaluations per image")
    print("sampler            NFE    FD_32  precision  recall  label  median sigma of the starts")
    rows, pictures = {}, []
    for nfe in evaluations:
        for solver in ("dpmpp",):
            near, sigma = chained(params, jax.random.key(1), labels, first, num, solver, nfe)
            far = plain(params, jax.random.key(2), every, solver, nfe + round(overhead))
            for name, images, used in (
                ("chain", near.reshape(-1, 28, 28), nfe + overhead),
                ("plain", far, nfe + round(overhead)),
            ):
                found = scores(classifier, np.asarray(features(classifier, images)), np.asarray(every), reference)
                rows[name, solver, nfe] = found
                level = f"{float(jnp.median(sigma)):.2f}" if name == "chain" else "20"
                numbers = f"{found[0]:8.2f} {found[1]:10.3f} {found[2]:7.3f} {found[3]:6.3f}"
                print(f"{name + ' + ' + solver:16s} {used:5.1f} {numbers}  {level}", flush=True)
            pictures.append(np.concatenate([np.asarray(near[:8, :4]).reshape(-1, 28, 28), np.asarray(far[:32])]))
    if out is not None:
        png.write(out, png.tile(np.concatenate(pictures[:2]), columns=16, zoom=2))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=6)
    parser.add_argument("--evaluations", type=int, nargs="+", default=(10, 20))
    parser.add_argument("--out", default="denoising_mcmc.png")
    main(**vars(parser.parse_args()))
