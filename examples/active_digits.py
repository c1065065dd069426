"""Which pixel would tell most? Digits are measured pixel by pixel, where particles of the posterior disagree.

    python examples/active_digits.py --out active.png

A cloud of guesses is drawn by diffusion for each real digit; at 20 of the 100 steps one of the 784 pixels is measured
without noise. The table compares choices: the entropy and the variance of the cloud, the order of the pixels' variance
over MNIST, and chance. Rows of the picture: the truth, then for each choice the measured pixels and the mean guess.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time

import digits_net
import jax
import jax.numpy as jnp
import numpy as np
import png

import jsamp as js

SCHEDULE = js.noise.VE(sigma_min=0.1, sigma_max=20.0)
STEPS, PIXELS = 100, 20
CHOICES = ("entropy", "variance", "data variance", "chance")


def real_digits(first: int, last: int) -> np.ndarray:
    """MNIST test images first:last, in [-1, 1]."""
    with np.load(digits_net.MODELS / "mnist_test.npz") as file:
        return file["images"][first:last].astype(np.float32) / 127.5 - 1


def _fixed(order, z, groups):
    """A score that takes pixels in a fixed order."""
    return order


def order_of(choice: str, key: jax.Array):
    """The order [784] of a choice that does not look at the cloud."""
    if choice == "data variance":  # over images that are not restored
        return jnp.asarray(real_digits(100, 200).reshape(-1, 784).var(0))
    return jax.random.uniform(key, (784,))


def posterior(denoiser, mask, y):
    """Each particle is drawn towards the measured pixels."""
    return js.denoise.DPS(denoiser, js.denoise.LinearOp.mask(mask), y, scale=8.0, event_ndim=2)


@functools.partial(jax.jit, static_argnames=("rule", "particles", "steps"))
def reconstruct(key, params, truth, order, rule: str | None, particles: int, steps: int = STEPS):
    """One digit [28, 28]: mean of the cloud, and the mask of measured pixels, chosen by a rule or in an order."""
    denoiser = js.Denoiser(digits_net.Digits(params, jnp.int32(digits_net.NULL)), SCHEDULE, predicts="x0")
    plan = js.solve.ddpm(SCHEDULE, js.noise.karras_grid(SCHEDULE, steps))
    every = steps // (PIXELS + 5)
    when = np.arange(steps) % every == every - 1
    when[every * PIXELS :] = False
    first, then = jax.random.split(key)
    steer = js.steer.ActiveSubsampling(
        posterior,
        lambda index: truth,
        when,
        np.zeros((28, 28)),
        score=rule or jax.tree_util.Partial(_fixed, order),
        width=1.0,
    )
    result = js.sample(then, denoiser, SCHEDULE.prior(first, (particles, 28, 28)), plan, steer=steer)
    return jnp.mean(result.x, axis=0), result.info.report.mask


def run(params, truths, choice: str, particles: int, seed: int, steps: int = STEPS):
    """Means, masks and mean absolute error of each digit."""
    keys = jax.random.split(jax.random.key(seed), len(truths))
    rule = choice if choice in ("entropy", "variance") else None
    orders = None if rule else jnp.stack([order_of(choice, jax.random.fold_in(key, 1)) for key in keys])
    draw = lambda key, truth, order: reconstruct(key, params, truth, order, rule, particles, steps)
    means, masks = jax.jit(jax.vmap(draw))(keys, truths, orders)
    return np.asarray(means), np.asarray(masks), np.abs(np.clip(means, -1, 1) - truths).mean((1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=8, help="digits, at most 100")
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("active.png"))
    args = parser.parse_args()
    if not 1 <= args.num <= 100 or args.particles < 2:
        parser.error(f"want --num in 1..100 and --particles >= 2, got {args.num} and {args.particles}.")
    truths = real_digits(0, args.num)
    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    rows, names = [truths], ["truth"]
    print(f"{PIXELS} of 784 pixels, {args.particles} particles, {args.num} digits")
    print(f"{'choice':16s}{'mean absolute error':>22s}{'standard error':>17s}{'seconds':>9s}")
    for choice in CHOICES:
        start = time.perf_counter()
        means, masks, errors = run(params, truths, choice, args.particles, args.seed)
        spread = errors.std(ddof=1) / np.sqrt(len(errors)) if len(errors) > 1 else float("nan")
        print(f"{choice:16s}{errors.mean():22.4f}{spread:17.4f}{time.perf_counter() - start:9.1f}", flush=True)
        rows += [np.where(masks > 0, truths, 0.0), means]
        names += [f"{choice}: seen", f"guess, error {errors.mean():.3f} ± {spread:.3f}"]
    png.page(args.out, rows, names, f"{PIXELS} of 784 pixels, chosen as the run goes")
    print(f"{args.out}: the truth; then measured pixels and mean guess for {', '.join(CHOICES)}.")


if __name__ == "__main__":
    main()
