"""Train the small classifier whose features measure generated digits, and store the features of real images.

    python examples/train_classifier.py --data mnist.npz --out examples/models/mnist_features.npz

It learns from the 60,000 training images; the reference is the first 2,000 test images, and a second 2,000 give the
floor: what real images score. `--data` is an `.npz` with `x_train y_train x_test y_test`; without it MNIST comes from
OpenML through scikit-learn.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import digits_metrics as metrics
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsamp as js

BATCH, HELD = 128, 2000


class Classifier(nnx.Module):
    """The network of `digits_metrics` with its parameters as `nnx.Param`s."""

    def __init__(self, rngs: nnx.Rngs):
        def normal(*shape):
            fan = np.prod(shape[:-1])
            return nnx.Param(jax.random.normal(rngs.params(), shape) * np.sqrt(2 / fan))

        params = {"conv1": normal(5, 5, 1, 16), "conv2": normal(5, 5, 16, 32), "dense": normal(7 * 7 * 32, 32)}
        params |= {name + "_bias": nnx.Param(jnp.zeros(p.shape[-1])) for name, p in params.items()}
        self.params = nnx.data(params | {"head": normal(32, 10)})

    def __call__(self, images):
        """Class logits [n, 10] of images [n, 28, 28] in [-1, 1]."""
        params = arrays(self)
        return metrics.logits(params, metrics.features(params, images))


def arrays(model) -> dict[str, jax.Array]:
    """The parameters as the flat dictionary that `digits_metrics` takes."""
    return {name: param[...] for name, param in model.params.items()}


def load_images(path: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MNIST as x_train, y_train, x_test, y_test; images are uint8 [n, 28, 28]."""
    if path:
        with np.load(path) as file:
            return file["x_train"], file["y_train"], file["x_test"], file["y_test"]
    from sklearn.datasets import fetch_openml

    x, y = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False, parser="auto")
    x, y = x.reshape(-1, 28, 28).astype(np.uint8), y.astype(np.int32)
    return x[:60000], y[:60000], x[60000:], y[60000:]


def scale(images):
    """Bytes to [-1, 1]."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def loss(key, model, batch):
    """Label-smoothed cross-entropy of images as bytes."""
    images, labels = batch
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 10), 0.1)
    return optax.softmax_cross_entropy(model(scale(images)), targets).mean(), None


def pixel_gaussian(key, images, num):
    """Draws from the Gaussian with the mean and covariance of the pixels: a baseline any model must beat."""
    flat = np.asarray(images, np.float64).reshape(len(images), -1) / 127.5 - 1
    value, vector = np.linalg.eigh(np.cov(flat, rowvar=False))
    noise = np.asarray(jax.random.normal(key, (num, flat.shape[1])), np.float64)
    return (flat.mean(0) + (noise * np.sqrt(np.maximum(value, 0))) @ vector.T).reshape(num, 28, 28)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="MNIST as .npz; downloaded through scikit-learn when absent")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("examples/models/mnist_features.npz"))
    options = parser.parse_args()

    x_train, y_train, x_test, y_test = load_images(options.data)
    images, labels = jnp.asarray(x_train), jnp.asarray(y_train)
    model = Classifier(nnx.Rngs(options.seed))
    optimiser, start = optax.adam(optax.cosine_decay_schedule(2e-3, options.steps)), time.perf_counter()
    key = jax.random.key(options.seed + 1)
    model, info = js.fit.minimise(
        key, loss, model, (images, labels), optimiser=optimiser, steps=options.steps, batch=min(BATCH, len(images)),
        progress=True,
    )  # fmt: skip
    print(f"loss {info.loss[-100:].mean():.4f}, {time.perf_counter() - start:.0f} s", flush=True)

    stored = {name: np.asarray(p, np.float16) for name, p in arrays(model).items()}
    params = {name: jnp.asarray(p, jnp.float32) for name, p in stored.items()}
    extract = jax.jit(metrics.features)
    sets = {name: np.asarray(extract(params, scale(x_test[i : i + HELD])), np.float16)
            for name, i in (("reference", 0), ("real", HELD))}  # fmt: skip
    truth = {name: y_test[i : i + HELD].astype(np.uint8) for name, i in (("reference", 0), ("real", HELD))}
    accuracy = metrics.label_fidelity(params, np.concatenate([extract(params, scale(x)) for x in np.split(x_test, 10)]),
                                      y_test)  # fmt: skip
    print(f"test accuracy {accuracy:.4f}")
    halves = metrics.frechet_distance(*np.split(sets["reference"], 2))
    print(f"FD floor(half, half), n = {HELD // 2}: {halves:.3f}")

    def row(name, features, labels):
        distance, precision, recall, label = metrics.scores(params, features, labels, sets["reference"])
        print(f"{name:20} FD {distance:7.3f}  precision {precision:.3f}  recall {recall:.3f}  label {label:.3f}")

    row("other real images", sets["real"], truth["real"])
    base = scale(x_test[HELD : 2 * HELD])
    for strength in (0.1, 0.2, 0.4):
        noisy = base + strength * jax.random.normal(key, base.shape)
        row(f"... with noise {strength}", extract(params, noisy), truth["real"])
    blobs = jnp.asarray(pixel_gaussian(key, x_train, HELD), jnp.float32)
    sets["gaussian"] = np.asarray(extract(params, blobs), np.float16)
    row("pixel Gaussian", sets["gaussian"], truth["real"])

    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(options.out, **stored, **sets, **{name + "_labels": v for name, v in truth.items()},
             accuracy=np.float32(accuracy), floor=np.float32(halves))  # fmt: skip
    print(f"{options.out}: {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
