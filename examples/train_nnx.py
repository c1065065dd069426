"""From training to sampling in one file, with Flax nnx: a flow on two moons, trained and sampled.

python examples/train_nnx.py --out train_nnx.png
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib
import optax
from flax import nnx

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Network(nnx.Module):
    """A perceptron of x [2] and t."""

    def __init__(self, width, rngs):
        self.first, self.second = nnx.Linear(6, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x, t):
        """Predict the velocity at x, t."""
        wave = jnp.pi * t * jnp.array([0.5, 1.0])
        hidden = jnp.concatenate([x, jnp.cos(wave), jnp.sin(wave)])
        return self.last(nnx.silu(self.second(nnx.silu(self.first(hidden)))))


NETWORK = Network(128, nnx.Rngs(0))  # an nnx module is a callable tree as it stands


def moons(key, num):
    """Two interleaved half circles with noise, [num, 2]."""
    k0, k1 = jax.random.split(key)
    angle = jnp.pi * jnp.linspace(0.0, 1.0, num // 2)
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    lower = jnp.stack([1 - jnp.cos(angle), 0.5 - jnp.sin(angle)], axis=1)
    rows = jnp.concatenate([upper, lower]) + 0.08 * jax.random.normal(k0, (2 * (num // 2), 2))
    return jax.random.permutation(k1, rows - jnp.array([0.5, 0.25]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", default="train_nnx.png")
    args = parser.parse_args()
    data, schedule = moons(jax.random.key(1), 8192), js.noise.Flow()

    loss = js.loss.Match(schedule, predicts="velocity")
    rate = optax.cosine_decay_schedule(1e-2, args.steps)
    run = {"optimiser": optax.adam(rate), "steps": args.steps, "batch": 2048, "ema": 0.99}
    info = js.fit.minimise(jax.random.key(2), loss, NETWORK, data, **run).info
    denoiser = js.Denoiser(info.average, schedule, predicts="velocity")
    plan = js.solve.dpmpp(schedule, js.noise.time_grid(schedule, 10), order=2)

    noise = schedule.prior(jax.random.key(3), (1000, 2))
    x = jax.jit(jax.vmap(lambda x: js.sample(None, denoiser, x, plan).x))(noise)

    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.4), sharex=True, sharey=True, constrained_layout=True)
    for axis, rows, title in ((axes[0], data[:1000], "data"), (axes[1], x, f"samples, {plan.nfe} evaluations")):
        axis.scatter(*rows.T, s=2)
        axis.set(title=title, aspect="equal")
    figure.suptitle("Flax nnx: a flow from noise to two moons")
    figure.savefig(args.out, dpi=90)
    print(f"{args.out}: mean {x.mean(0)}, of the data {data.mean(0)}; std {x.std(0)}, of the data {data.std(0)}")


if __name__ == "__main__":
    main()
