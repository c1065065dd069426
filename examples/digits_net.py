"""The digits denoiser: a small transformer on overlapping patches, in jax alone.

`forward(params, x, log_sigma, label)` is the network; `Digits` wraps it as a `jsamp` model, and
`train_digits.py` trains it. Parameters are a flat dictionary of arrays, stored as float16 in an `.npz`.
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SIDE, PATCH, OVERLAP, GRID = 28, 7, 2, 4
WINDOW = PATCH + 2 * OVERLAP
WIDTH, HEADS, LAYERS, HIDDEN, FREQUENCIES = 96, 4, 4, 320, 32
CLASSES, NULL = 10, 10
SIGMA_DATA = 0.616  # standard deviation of MNIST scaled to [-1, 1]
MODELS = pathlib.Path(__file__).parent / "models"


def windows() -> np.ndarray:
    """The 0/1 matrix [28, 44] whose columns pick the rows of four overlapping windows."""
    pick = np.zeros((SIDE, GRID * WINDOW), np.float32)
    for i in range(GRID):
        for k in range(WINDOW):
            row = i * PATCH + k - OVERLAP
            if 0 <= row < SIDE:
                pick[row, i * WINDOW + k] = 1
    return pick


def init(key: jax.Array) -> dict[str, jax.Array]:
    """Fresh parameters: scaled-normal weights, zero output layers, zero modulation."""
    keys = iter(jax.random.split(key, 8 * LAYERS + 8))

    def normal(rows, columns, gain=1.0):
        return gain * jax.random.normal(next(keys), (rows, columns)) / np.sqrt(rows)

    params = {
        "patch": normal(WINDOW**2, WIDTH),
        "position": 0.02 * jax.random.normal(next(keys), (GRID**2, WIDTH)),
        "label": normal(CLASSES + 1, WIDTH, np.sqrt(CLASSES + 1) * 0.5),
        "time1": normal(2 * FREQUENCIES, WIDTH),
        "time2": normal(WIDTH, WIDTH),
        "modulate": jnp.zeros((WIDTH, 4 * WIDTH)),
        "out": jnp.zeros((WIDTH, WINDOW**2)),
    }
    for i in range(LAYERS):
        params |= {
            f"qkv{i}": normal(WIDTH, 3 * WIDTH),
            f"proj{i}": normal(WIDTH, WIDTH, 0.3),
            f"up{i}": normal(WIDTH, HIDDEN),
            f"down{i}": normal(HIDDEN, WIDTH, 0.3),
            f"shift{i}": jnp.zeros(4 * WIDTH),
        }
    return params


def _rms(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def _linear(x, weight):
    # One flat matmul: XLA's CPU gradient of a batched one is a third slower.
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], -1)


def _attend(x, qkv, proj):
    batch, tokens, _ = x.shape
    q, k, v = jnp.split(_linear(x, qkv).reshape(batch, tokens, HEADS, 3 * WIDTH // HEADS), 3, axis=-1)
    weight = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", _rms(q), _rms(k)) * np.sqrt(WIDTH / HEADS), axis=-1)
    return _linear(jnp.einsum("bhts,bshd->bthd", weight, v).reshape(batch, tokens, WIDTH), proj)


def _condition(params, log_sigma, label):
    angle = (0.25 * log_sigma)[:, None] * jnp.asarray(np.geomspace(1.0, 64.0, FREQUENCIES), jnp.float32)
    wave = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return jax.nn.silu(jax.nn.silu(wave @ params["time1"]) @ params["time2"] + params["label"][label])


def forward(params: dict, x: jax.Array, log_sigma: jax.Array, label: jax.Array) -> jax.Array:
    """The raw network. x [b, 28, 28] scaled to unit variance, log_sigma [b], label [b] int -> [b, 28, 28]."""
    pick, batch = jnp.asarray(windows(), x.dtype), x.shape[0]
    tiles = jnp.einsum("ra,brc,cd->bad", pick, x, pick).reshape(batch, GRID, WINDOW, GRID, WINDOW)
    tokens = tiles.swapaxes(2, 3).reshape(batch, GRID**2, WINDOW**2) @ params["patch"] + params["position"]
    modulate = _condition(params, log_sigma, label) @ params["modulate"]
    for i in range(LAYERS):
        scale1, shift1, scale2, shift2 = jnp.split((modulate + params[f"shift{i}"])[:, None], 4, axis=-1)
        tokens += _attend(_rms(tokens) * (1 + scale1) + shift1, params[f"qkv{i}"], params[f"proj{i}"])
        hidden = jax.nn.silu(_linear(_rms(tokens) * (1 + scale2) + shift2, params[f"up{i}"]))
        tokens += _linear(hidden, params[f"down{i}"])
    tiles = (_rms(tokens) @ params["out"]).reshape(batch, GRID, GRID, WINDOW, WINDOW).swapaxes(2, 3)
    return jnp.einsum("ra,bac,dc->brd", pick, tiles.reshape(batch, GRID * WINDOW, GRID * WINDOW), pick)


def denoise(params: dict, x: jax.Array, sigma: jax.Array, label: jax.Array) -> jax.Array:
    """E[x0 | x0 + sigma eps = x] with EDM preconditioning. x [b, 28, 28], sigma [b], label [b] -> [b, 28, 28]."""
    norm = jax.lax.rsqrt(sigma**2 + SIGMA_DATA**2)[:, None, None]
    skip = (SIGMA_DATA * norm) ** 2
    return skip * x + sigma[:, None, None] * SIGMA_DATA * norm * forward(params, x * norm, jnp.log(sigma), label)


def load(path: str | pathlib.Path) -> dict[str, jax.Array]:
    """Read the arrays of an `.npz`, floating ones as float32."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return {k: jnp.asarray(v, jnp.float32 if v.dtype.kind == "f" else None) for k, v in arrays.items()}


class Digits(NamedTuple):
    """A jsamp model that predicts x0 for images with a label: `Digits(params, label)(x, sigma)`, `predicts="x0"`.

    x is [..., 28, 28] with one scalar sigma; label broadcasts over the leading axes. `label=10` is unconditional.
    """

    params: dict
    label: jax.Array

    def __call__(self, x, sigma):
        """The denoised images, of the shape of x."""
        batch = x.reshape(-1, SIDE, SIDE)
        label = jnp.broadcast_to(self.label, x.shape[:-2]).reshape(-1)
        return denoise(self.params, batch, jnp.broadcast_to(sigma, batch.shape[:1]), label).reshape(x.shape)
