"""How good are generated digits? Frechet distance, precision, recall, density, coverage, label fidelity.

All of them compare features: 32 numbers per image from a small convolutional classifier (`train_classifier.py`).
The statistics are those of `js.estimate`. FD has a positive bias of order 1/n: compare rows of one n only, beside the
floor that real images reach.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js


def features(params: dict, images: jax.Array) -> jax.Array:
    """Images [n, 28, 28] in [-1, 1] -> features [n, 32]."""
    x = images[..., None]
    for name in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(x, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + params[name + "_bias"])
    return x.reshape(x.shape[0], -1) @ params["dense"]


def logits(params: dict, features: jax.Array) -> jax.Array:
    """Features [n, 32] -> class logits [n, 10]."""
    return jax.nn.silu(features + params["dense_bias"]) @ params["head"]


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to the rows of x [n, d] and y [m, d]; NaN unless all is finite."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    return float(js.estimate.frechet(x, y).value)


def _finite(x):
    """The rows without NaN, and their share: a sampler that diverged has made images that are like nothing."""
    keep = np.isfinite(x).all(1)
    return np.asarray(x)[keep], float(np.mean(keep))


def precision_recall(x: np.ndarray, y: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Share of x in a k-nearest-neighbour ball of some y (precision), and of y in a ball of some x (recall)."""
    x, share = _finite(x)
    if share < 1 and len(x) <= k:
        return 0.0, 0.0
    found = js.estimate.precision_recall(x, y, k=k)
    return share * float(found.precision.value), float(found.recall.value)


def density_coverage(x: np.ndarray, y: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Mean number of balls of y that hold a point of x, over k; and the share of balls of y that hold some x."""
    found = js.estimate.density_coverage(x, y, k=k)
    return float(found.density.value), float(found.coverage)


def label_fidelity(params: dict, features: np.ndarray, labels: np.ndarray) -> float:
    """Share of images that the classifier gives the label they were drawn with."""
    found = np.argmax(logits(params, jnp.asarray(features, jnp.float32)), axis=-1)
    return float(np.mean(found == np.asarray(labels)))


def scores(params: dict, features: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> tuple[float, ...]:
    """FD, precision, recall and label fidelity of features [n, 32] against the features of real images."""
    return (
        frechet_distance(features, reference),
        *precision_recall(features, reference),
        label_fidelity(params, features, labels),
    )
