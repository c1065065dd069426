"""How good are generated digits? Frechet distance, precision, recall, density, coverage, label fidelity.

All of them compare features: 32 numbers per image from a small convolutional classifier (`train_classifier.py`).
The statistics are plain numpy in float64. FD has a positive bias of order 1/n: compare rows of one n only, beside the
floor that real images reach.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


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
    """Frechet distance between Gaussians fitted to the rows of x [n, d] and y [m, d].

    |mean x - mean y|^2 + tr(S) + tr(T) - 2 tr((S^1/2 T S^1/2)^1/2) with covariances S and T, by symmetric
    eigendecompositions. NaN when a feature is not finite.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    s, t = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    value, vector = np.linalg.eigh(s)
    root = (vector * np.sqrt(np.maximum(value, 0))) @ vector.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ t @ root), 0)).sum()
    gap = x.mean(0) - y.mean(0)
    return float(gap @ gap + np.trace(s) + np.trace(t) - 2 * cross)


def _squared_distances(x, y):
    return np.maximum((x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T, 0)


def _neighbours(x, y, k):
    """Squared distances [n, m], and the squared radius of each row of y to its k-th nearest other row."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    centre = y.mean(0)
    x, y = x - centre, y - centre
    own = _squared_distances(y, y)
    np.fill_diagonal(own, 0)
    if not 1 <= k < len(y):
        raise ValueError(f"k must be in 1..{len(y) - 1} for {len(y)} points, got {k}.")
    return _squared_distances(x, y), np.partition(own, k, axis=1)[:, k]


def precision_recall(x: np.ndarray, y: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Share of x that lies in a k-nearest-neighbour ball of some y (precision), and of y in a ball of some x (recall).

    References:
        Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019,
        arXiv:1904.06991.
    """
    shares = []
    for a, b in ((x, y), (y, x)):
        distance, radius = _neighbours(a, b, k)
        shares.append(float(np.mean(np.any(distance <= radius, axis=1))))
    return shares[0], shares[1]


def density_coverage(x: np.ndarray, y: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Mean number of balls of y that hold a point of x, over k; and the share of balls of y that hold some x.

    References:
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, arXiv:2002.09797.
    """
    distance, radius = _neighbours(x, y, k)
    inside = distance <= radius
    return float(inside.sum(1).mean() / k), float(inside.any(0).mean())


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
