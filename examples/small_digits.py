"""The 8x8 digits of scikit-learn: data, a small residual network in jax alone, and the features that judge samples."""

from __future__ import annotations

import digits_metrics as metrics
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsamp as js

WIDTH, BLOCKS, FREQUENCIES, CLASSES, NULL = 128, 3, 16, 10, 10
SIGMA_DATA = 0.752  # root mean square of the pixels in [-1, 1]
HELD = 360


def load():
    """Training images [1437, 64] in [-1, 1] with labels, and 360 held-out ones."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = jnp.asarray(x[order] / 8 - 1, jnp.float32), jnp.asarray(y[order], jnp.int32)
    return x[HELD:], y[HELD:], x[:HELD], y[:HELD]


def init(key):
    """Fresh parameters: scaled-normal weights, zero output."""
    keys = iter(jax.random.split(key, 4 * BLOCKS + 4))
    normal = lambda rows, columns, gain=1.0: gain * jax.random.normal(next(keys), (rows, columns)) / np.sqrt(rows)
    params = {
        "in": normal(64, WIDTH),
        "time": normal(2 * FREQUENCIES, WIDTH),
        "label": normal(CLASSES + 1, WIDTH, 1.5),
        "out": jnp.zeros((WIDTH, 64)),
    }
    for i in range(BLOCKS):
        params |= {
            f"up{i}": normal(WIDTH, 2 * WIDTH),
            f"down{i}": normal(2 * WIDTH, WIDTH, 0.3),
            f"modulate{i}": normal(WIDTH, 2 * WIDTH, 0.1),
        }
    return params


def network(params, x, level, label):
    """The raw network, for rows or one row: x [..., 64], level [...] = log(sigma) / 4, label [...] int."""
    angle = level[..., None] * jnp.asarray(np.geomspace(1.0, 32.0, FREQUENCIES), x.dtype)
    condition = jax.nn.silu(jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1) @ params["time"])
    condition = jax.nn.silu(condition + params["label"][label])
    h = x @ params["in"]
    for i in range(BLOCKS):
        scale, shift = jnp.split(condition @ params[f"modulate{i}"], 2, axis=-1)
        normed = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6)
        h = h + jax.nn.silu((normed * (1 + scale) + shift) @ params[f"up{i}"]) @ params[f"down{i}"]
    return h @ params["out"]


def edm(params, sigma_min=0.0):
    """The network with EDM preconditioning: (x, sigma, label) -> x0."""
    return js.denoise.EDM(jax.tree_util.Partial(network, params), SIGMA_DATA, sigma_min)


def train_denoiser(key, data, steps):
    """The averaged denoiser of (images, labels): EDM weights, stratified levels, labels dropped one time in ten."""
    loss = js.loss.Match(
        js.noise.VE(), predicts="x0", weight=js.loss.EDMWeight(SIGMA_DATA), drop=0.1, null=NULL,
        times=js.loss.LogNormalTimes(-0.6, 1.2), batched=True,
    )  # fmt: skip
    optimiser = optax.adam(optax.warmup_cosine_decay_schedule(0, 3e-3, min(200, steps // 4), steps))
    info = js.fit.minimise(key, loss, edm(init(key)), data, optimiser=optimiser, steps=steps, batch=128, ema=0.99).info
    return info.average, float(info.loss[-200:].mean())


def labelled(model, label):
    """A denoiser of rows with these labels; x [..., 64], label [...]."""
    bound = lambda model, label, x, t: model(x, jnp.broadcast_to(t, x.shape[:-1]), label)
    return js.Denoiser(jax.tree_util.Partial(bound, model, label), js.noise.VE(), predicts="x0")


def features(params, x):
    """Images [..., 64] -> 32 numbers each: two convolutions, each averaged over 2x2 pixels, and a dense layer."""
    h = x.reshape(-1, 8, 8, 1)
    for i in "12":
        h = jax.lax.conv_general_dilated(
            h, params["conv" + i], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = jax.nn.relu(h + params["shift" + i])
        h = h.reshape(len(h), h.shape[1] // 2, 2, h.shape[2] // 2, 2, -1).mean((2, 4))
    h = jax.nn.relu(h.reshape(len(h), -1) @ params["dense"] + params["shift3"])
    return h.reshape(*x.shape[:-1], 32)


def logits(params, x):
    """Images [..., 64] -> logits of the ten digits."""
    return features(params, x) @ params["head"] + params["shift4"]


def train_classifier(key, x, y, steps=400):
    """The 9,258 parameters of the classifier whose features measure samples."""
    keys = jax.random.split(key, 4)
    shapes = {"conv1": (3, 3, 1, 16), "conv2": (3, 3, 16, 32), "dense": (128, 32), "head": (32, 10)}
    params = {}
    for i, (k, (name, shape)) in enumerate(zip(keys, shapes.items(), strict=True), 1):
        params[name] = jax.random.normal(k, shape) * np.sqrt(2 / np.prod(shape[:-1]))
        params[f"shift{i}"] = jnp.zeros(shape[-1])

    def loss(key, params, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch[0]), batch[1]).mean(), None

    rate = optax.cosine_decay_schedule(3e-3, steps)
    return js.fit.minimise(key, loss, params, (x, y), optimiser=optax.adam(rate), steps=steps, batch=128).x


def measure(classifier, images, reference):
    """Frechet distance of the features, precision and recall, of images [n, 64] against real ones."""
    found, real = (np.asarray(jax.jit(features)(classifier, v)) for v in (images, reference))
    return metrics.frechet_distance(found, real), *metrics.precision_recall(found, real)


def floor(classifier, x, splits=8):
    """Frechet distance of two random halves of the real images, the mean of several splits."""
    found, half = np.asarray(jax.jit(features)(classifier, x)), len(x) // 2
    shuffled = (np.random.default_rng(i).permutation(found) for i in range(splits))
    return np.mean([metrics.frechet_distance(v[:half], v[half:]) for v in shuffled])
