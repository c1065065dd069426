"""Draw rare digits on purpose: minority guidance on the digits denoiser.

    python examples/minority_digits.py --out minority.png

1. Draw digits and give each its minority score: how much it changes when it is noised and denoised again. Typical ones
   come back as they were, rare ones do not.
2. Cut the scores into levels, and train a small classifier of the level on noised digits.
3. Draw again, guided to the rarest level.

The table says how many samples score above the 90 % quantile of the first draw (0.10 without guidance). Rows of the
picture: the most typical of the first draw, its rarest, plain samples, guided ones. Needs optax.
"""

from __future__ import annotations

import argparse
import functools
import pathlib

import digits_net
import jax
import jax.numpy as jnp
import numpy as np
import optax
import png

import jsamp as js

SCHEDULE = js.noise.VE(sigma_min=0.1, sigma_max=20.0)
LEVEL_TIME = 1.0  # sigma at which digits are noised and denoised again for the score
LEVELS, HIDDEN = 10, 128


def classify(params, x, sigma):
    """Logits of the level of a noised image [28, 28]: a perceptron on the scaled image and log sigma."""
    scaled = x.reshape(-1) * jax.lax.rsqrt(sigma**2 + digits_net.SIGMA_DATA**2)
    hidden = jax.nn.silu(scaled @ params["in"] + jnp.log(sigma) * params["time"] + params["bias"])
    return jax.nn.silu(hidden @ params["middle"]) @ params["out"]


def train(key, images, labels, steps: int):
    """Fit the classifier by cross-entropy on images noised to log-uniform sigma in 0.1 .. 20."""
    keys = jax.random.split(key, 3)
    params = {
        "in": jax.random.normal(keys[0], (784, HIDDEN)) / 28,
        "time": jnp.zeros(HIDDEN),
        "bias": jnp.zeros(HIDDEN),
        "middle": jax.random.normal(keys[1], (HIDDEN, HIDDEN)) / np.sqrt(HIDDEN),
        "out": jnp.zeros((HIDDEN, LEVELS)),
    }
    optimiser = optax.adamw(optax.linear_schedule(2e-3, 0.0, steps), weight_decay=0.05)

    def loss(params, key):
        pick, noise, level = jax.random.split(key, 3)
        index = jax.random.randint(pick, (256,), 0, len(images))
        sigma = jnp.exp(jax.random.uniform(level, (256,), minval=np.log(0.1), maxval=np.log(20.0)))
        x = images[index] + sigma[:, None, None] * jax.random.normal(noise, (256, 28, 28))
        scores = jax.vmap(functools.partial(classify, params))(x, sigma)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels[index]).mean()

    def step(carry, key):
        params, state = carry
        value, slope = jax.value_and_grad(loss)(params, key)
        update, state = optimiser.update(slope, state, params)
        return (optax.apply_updates(params, update), state), value

    (params, _), losses = jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(keys[2], steps))
    return params, losses


@functools.partial(jax.jit, static_argnames="num")
def draw(key, denoiser, num):
    plan = js.solve.dpmpp(SCHEDULE, js.noise.karras_grid(SCHEDULE, 15))
    start = SCHEDULE.prior(key, (num, 28, 28))
    return jax.vmap(lambda x: js.sample(None, denoiser, x, plan).x)(start)


@jax.jit
def score(key, denoiser, images):
    """Minority score of each image, by the squared distance of three noised and denoised copies."""
    one = lambda key, x: js.estimate.minority_score(key, denoiser, x, LEVEL_TIME, num=3).value
    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1000, help="digits of the first draw, >= 50")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of the classifier")
    parser.add_argument("--scale", type=float, default=6.0, help="weight of the guidance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("minority.png"))
    args = parser.parse_args()
    if args.num < 50 or args.steps < 1 or args.scale < 0:
        parser.error(f"want --num >= 50, --steps >= 1 and --scale >= 0; got {args}.")
    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    denoiser = js.Denoiser(digits_net.Digits(params, jnp.int32(digits_net.NULL)), SCHEDULE, predicts="x0")
    k_draw, k_score, k_train, k_new, k_judge = jax.random.split(jax.random.key(args.seed), 5)
    images = draw(k_draw, denoiser, args.num)
    scores = score(k_score, denoiser, images)
    labels = js.estimate.quantile_labels(scores, LEVELS).label
    classifier, losses = train(k_train, images, labels, args.steps)
    print(f"classifier: cross-entropy {float(losses[-100:].mean()):.3f}, {np.log(LEVELS):.3f} without learning")
    rare = np.quantile(scores, 0.9)
    guided = js.denoise.Minority(denoiser, jax.tree_util.Partial(classify, classifier), scale=args.scale)
    order, rows = np.argsort(scores), []
    rows += [images[order[:12]], images[order[-12:]]]
    print(f"{'samples':10s}{'mean score':>12s}{'above the 90 % quantile':>25s}")
    for name, law in (("plain", denoiser), ("guided", guided)):
        new = draw(k_new, law, 200)
        found = np.asarray(score(k_judge, denoiser, new))
        print(f"{name:10s}{found.mean():12.2f}{np.mean(found > rare):25.3f}", flush=True)
        rows.append(new[:12])
    names = ["lowest score", "highest score", "plain samples", "guided samples"]
    png.page(args.out, rows, names, "Minority score of digits, and guidance towards it")
    print(f"{args.out}: the most typical, the rarest, plain samples, guided samples.")


if __name__ == "__main__":
    main()
