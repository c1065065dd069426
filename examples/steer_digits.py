"""Steer an unconditional denoiser to a reward that is known only as numbers: digits that a classifier takes for a 3.

    python examples/steer_digits.py --digit 3 --out steered.png

The reward is log p(digit | x0) by the small classifier of `models/mnist_features.npz`; no gradient of it is used. Each
method spends about the same network evaluations for each kept image: the best of N, sequential Monte Carlo
(particles that are weighted and resampled), and soft value decoding (each step draws children of one parent and keeps
one). Rows of the picture: plain samples, then each method.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time

import digits_metrics
import digits_net
import jax
import jax.numpy as jnp
import numpy as np
import png

import jsamp as js

SCHEDULE = js.noise.VE(sigma_min=0.1, sigma_max=20.0)
STEPS = 30
METHODS = ("plain", "best of N", "SMC", "soft value", "soft value, greedy")


STRENGTH = 4.0  # the tilted law is p(x0) exp(STRENGTH reward)


def reward_of(classifier, digit, x0):
    """The reward, log p(digit | x0), of images [n, 28, 28]."""
    scores = digits_metrics.logits(classifier, digits_metrics.features(classifier, jnp.clip(x0, -1, 1)))
    return jax.nn.log_softmax(scores)[:, digit]


def steer_of(method: str, reward):
    """The steer of a method, for a population of images."""
    potential = lambda x, prediction, info: reward(prediction.x0)
    if method == "SMC":
        strong = lambda x, prediction, info: STRENGTH * reward(prediction.x0)
        return js.steer.SMC(strong, lambda x0: STRENGTH * reward(x0))
    if method.startswith("soft value"):
        return js.steer.SoftValue(potential, reward, temperature=0.0 if "greedy" in method else 1 / STRENGTH)
    return None


@functools.partial(jax.jit, static_argnames=("method", "population"))
def draw(key, params, classifier, digit, method: str, population: int):
    """One image [28, 28], kept from a population."""
    denoiser = js.Denoiser(digits_net.Digits(params, jnp.int32(digits_net.NULL)), SCHEDULE, predicts="x0")
    plan = js.solve.ddpm(SCHEDULE, js.noise.karras_grid(SCHEDULE, STEPS))
    reward = jax.tree_util.Partial(reward_of, classifier, digit)
    k0, k1, k2 = jax.random.split(key, 3)
    num = 1 if method == "plain" else population
    result = js.sample(k1, denoiser, SCHEDULE.prior(k0, (num, 28, 28)), plan, steer=steer_of(method, reward))
    if method.startswith("soft value"):
        return result.x  # already the chosen child
    if method == "SMC":
        return result.x[js.select.draw_categorical(k2, result.info.report.log_weight)]
    return result.x[jnp.argmax(reward(result.x))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digit", type=int, default=3, help="the digit to steer to")
    parser.add_argument("--num", type=int, default=12, help="images of each method")
    parser.add_argument("--population", type=int, default=12, help="particles, children, or N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("steered.png"))
    args = parser.parse_args()
    if not 0 <= args.digit <= 9 or args.num < 1 or args.population < 2:
        parser.error(f"want --digit in 0..9, --num >= 1, --population >= 2; got {args}.")
    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    stored = digits_net.load(digits_net.MODELS / "mnist_features.npz")
    weights = {k: stored[k] for k in ("conv1", "conv1_bias", "conv2", "conv2_bias", "dense", "dense_bias", "head")}
    keys, rows = jax.random.split(jax.random.key(args.seed), args.num), {}
    print(f"reward: log p({args.digit} | x0)")
    print(f"{'method':20s}{'reward':>9s}{'share p > 1/2':>15s}{'NFE per image':>15s}{'seconds':>9s}")
    for method in METHODS:
        start = time.perf_counter()
        run = lambda key, method=method: draw(key, params, weights, args.digit, method, args.population)
        x = np.asarray(jax.jit(jax.vmap(run))(keys))
        reward = np.asarray(reward_of(weights, args.digit, jnp.asarray(x)))
        calls = STEPS * (1 if method == "plain" else args.population)
        share, seconds = np.mean(reward > np.log(0.5)), time.perf_counter() - start
        print(f"{method:20s}{reward.mean():9.2f}{share:15.2f}{calls:15d}{seconds:9.1f}", flush=True)
        rows[f"{method}, {share:.0%}"] = x
    png.page(
        args.out, list(rows.values()), list(rows), f"Steered to {args.digit}, and the share that the classifier accepts"
    )
    print(f"{args.out}: a row each for {', '.join(METHODS)}.")


if __name__ == "__main__":
    main()
