r"""Train the class-conditional MNIST denoiser that `draw_digits.py` draws with (flax.nnx, optax).

    python examples/train_digits.py --data mnist.npz --steps 31250 --out first.npz
    python examples/train_digits.py --data mnist.npz --start first.npz --steps 8000 --rate 1.2e-3 --fall 1 \
        --centre -0.2 --seed 1 --out examples/models/mnist_denoiser.npz

The second command goes on from the weights of the first, at higher noise. `--data` is an `.npz` with `x_train`
[n, 28, 28] uint8 and `y_train` [n]; without it MNIST comes from OpenML through scikit-learn. `--checkpoint FILE` saves
everything every thousand steps and resumes from there. The learning rate is constant and falls linearly over the last
share `--fall` of the steps, so a run may be lengthened: resume with more `--steps`.
"""

from __future__ import annotations

import argparse
import pathlib
import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from digits_net import CLASSES, NULL, SIGMA_DATA, denoise, init, load
from flax import nnx

import jsamp as js


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


def loss_of(centre: float) -> js.loss.Match:
    """EDM denoising: log sigma ~ N(centre, 1.3^2) stratified over the batch, labels dropped one time in ten."""
    return js.loss.Match(
        js.noise.VE(),
        predicts="x0",
        weight=js.loss.EDMWeight(SIGMA_DATA),
        times=js.loss.LogNormalTimes(centre, 1.3),
        drop=0.1,
        null=NULL,
        batched=True,
    )


def learning_rate(peak: float, steps: int, share: float):
    """Linear warm-up, constant, then linear to zero over the last share of the steps."""
    warm = min(500, steps // 10)
    fall = max(min(round(share * steps), steps - warm), 1)
    return optax.join_schedules(
        [optax.linear_schedule(0, peak, warm), optax.constant_schedule(peak), optax.linear_schedule(peak, 0, fall)],
        [warm, steps - fall],
    )


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
    parser.add_argument("--fall", type=float, default=0.2, help="share of the steps over which the rate falls to zero")
    parser.add_argument("--centre", type=float, default=-0.6, help="mean of the log noise level")
    parser.add_argument("--start", type=pathlib.Path, help="weights to begin with, as --out writes them")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="save to and resume from this file")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("examples/models/mnist_denoiser.npz"))
    options = parser.parse_args()

    images, labels = load_images(options.data)
    data = (jnp.asarray(images, jnp.float32) / 127.5 - 1, jnp.asarray(labels, jnp.int32))
    model, rate = DigitsModule(nnx.Rngs(options.seed)), learning_rate(options.rate, options.steps, options.fall)
    for name, value in {} if options.start is None else load(options.start).items():
        model.params[name][...] = value
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.01))
    loss, key, state = loss_of(options.centre), jax.random.key(options.seed + 1), None
    if options.checkpoint and options.checkpoint.exists():
        state = pickle.loads(options.checkpoint.read_bytes())
    count = sum(p.size for p in jax.tree.leaves(model))
    print(f"{count:,} parameters, {len(images):,} images of {CLASSES} classes", flush=True)

    start, done = time.perf_counter(), 0 if state is None else state.step
    while done < options.steps:
        done = min(done + 1000, options.steps)
        model, info = js.fit.minimise(
            key,
            loss,
            model,
            data,
            optimiser=optimiser,
            steps=done,
            batch=128,
            ema=0.9995,
            state=state,
        )
        state = info.state
        print(f"step {state.step}: loss {info.loss.mean():.4f}, {time.perf_counter() - start:.0f} s", flush=True)
        save_weights(options.out, nnx.state(info.average, nnx.Param))
        if options.checkpoint:
            options.checkpoint.write_bytes(pickle.dumps(jax.device_get(state)))
        if info.stopped:
            break


if __name__ == "__main__":
    main()
