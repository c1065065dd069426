"""Train the class-conditional MNIST denoiser that `draw_digits.py` draws with (flax.nnx, optax).

    python examples/train_digits.py --data mnist.npz --steps 31250 --out examples/models/mnist_denoiser.npz

`--data` is an `.npz` with `x_train` [n, 28, 28] uint8 and `y_train` [n]; without it MNIST comes from OpenML through
scikit-learn. `--checkpoint FILE` saves everything every thousand steps and resumes from there. The learning rate is
constant and falls linearly over the last fifth, so a run may be lengthened: resume with more `--steps`.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from digits_net import CLASSES, NULL, SIGMA_DATA, denoise, init
from flax import nnx


class DigitsModule(nnx.Module):
    """The network of `digits_net` with its parameters as `nnx.Param`s."""

    def __init__(self, rngs: nnx.Rngs):
        self.params = nnx.data({name: nnx.Param(value) for name, value in init(rngs.params()).items()})

    def __call__(self, x, sigma, label):
        """The denoised images."""
        return denoise({name: param[...] for name, param in self.params.items()}, x, sigma, label)


def load_images(path: str | None) -> tuple[np.ndarray, np.ndarray]:
    """MNIST images [60000, 28, 28] uint8 and labels, from a file or from OpenML."""
    if path:
        with np.load(path) as file:
            return file["x_train"], file["y_train"]
    from sklearn.datasets import fetch_openml

    images, labels = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False, parser="auto")
    return images[:60000].reshape(-1, 28, 28).astype(np.uint8), labels[:60000].astype(np.int32)


def loss(model, key, images, labels):
    """EDM denoising loss: log sigma ~ N(-0.6, 1.3^2) stratified over the batch, labels dropped one time in ten."""
    k_sigma, k_noise, k_drop = jax.random.split(key, 3)
    batch = images.shape[0]
    level = (jnp.arange(batch) + jax.random.uniform(k_sigma)) / batch
    sigma = jnp.exp(-0.6 + 1.3 * jax.scipy.special.ndtri(jnp.clip(level, 1e-4, 1 - 1e-4)))
    x0 = images.astype(jnp.float32) / 127.5 - 1
    x = x0 + sigma[:, None, None] * jax.random.normal(k_noise, x0.shape)
    label = jnp.where(jax.random.bernoulli(k_drop, 0.1, (batch,)), NULL, labels)
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    return jnp.mean(weight[:, None, None] * (model(x, sigma, label) - x0) ** 2)


def learning_rate(peak: float, steps: int):
    """Linear warm-up, constant, then linear to zero over the last fifth."""
    fall = max(steps // 5, 1)
    return optax.join_schedules(
        [optax.linear_schedule(0, peak, 500), optax.constant_schedule(peak), optax.linear_schedule(peak, 0, fall)],
        [500, steps - fall],
    )


@functools.partial(nnx.jit, donate_argnames=("average",))
def train_step(model, optimiser, average, images, labels, key, step):
    """One AdamW step on 128 random images; returns the loss and the moving average of the parameters."""
    k_batch, k_loss = jax.random.split(jax.random.fold_in(key, step))
    index = jax.random.randint(k_batch, (128,), 0, images.shape[0])
    value, grads = nnx.value_and_grad(loss)(model, k_loss, images[index], labels[index])
    optimiser.update(model, grads)
    decay = jnp.minimum(0.9995, (1 + step) / (10 + step))
    params = nnx.state(model, nnx.Param)
    return value, jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)


def save_weights(path: pathlib.Path, average) -> None:
    """The averaged parameters as float16, one array each."""
    flat = {name: np.asarray(param[...], np.float16) for name, param in average["params"].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **flat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="MNIST as .npz; downloaded through scikit-learn when absent")
    parser.add_argument("--steps", type=int, default=31_250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="save to and resume from this file")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("examples/models/mnist_denoiser.npz"))
    options = parser.parse_args()

    images, labels = (jnp.asarray(a) for a in load_images(options.data))
    model = DigitsModule(nnx.Rngs(options.seed))
    rate = learning_rate(options.rate, options.steps)
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.01))
    optimiser = nnx.Optimizer(model, chain, wrt=nnx.Param)
    average = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    key, first = jax.random.key(options.seed + 1), 0
    if options.checkpoint and options.checkpoint.exists():
        first, states = pickle.loads(options.checkpoint.read_bytes())
        nnx.update(model, states[0]), nnx.update(optimiser, states[1])
        average = states[2]
    count = sum(p.size for p in jax.tree.leaves(average))
    print(f"{count:,} parameters, {len(images):,} images of {CLASSES} classes", flush=True)

    recent, start = [], time.perf_counter()
    for step in range(first, options.steps):
        value, average = train_step(model, optimiser, average, images, labels, key, step)
        recent.append(value)
        if (step + 1) % 1000 == 0 or step + 1 == options.steps:
            print(f"step {step + 1}: loss {np.mean(recent):.4f}, {time.perf_counter() - start:.0f} s", flush=True)
            recent = []
            save_weights(options.out, average)
            if options.checkpoint:
                states = jax.device_get((nnx.state(model), nnx.state(optimiser), average))
                options.checkpoint.write_bytes(pickle.dumps((step + 1, states)))


if __name__ == "__main__":
    main()
