"""Reversible Markov chains on graphs as neighbour lists, and the variances of walks on them in closed form."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._types import Array


class WalkGraph(NamedTuple):
    """Hold a reversible Markov chain on a graph as padded neighbour lists; made by `walk_graph`.

    Args:
        neighbors: [N, D] int32, padded with the node itself.
        log_prob: [N, D] log transition probabilities, -inf where padded.
        log_mu: [N] log stationary probabilities, up to a constant.

    Example:
        >>> import jsamp as js, numpy as np
        >>> js.mcmc.walk_graph(np.array([[0.5, 0.5], [0.5, 0.5]])).neighbors.shape
        (2, 2)
    """

    neighbors: Any
    log_prob: Any
    log_mu: Any


def _checked(who: str, transition: Any, mu: Any) -> tuple[np.ndarray, np.ndarray]:
    """The transition matrix and its stationary law in float64, or a refusal."""
    _checks.check_on_host(who, transition, mu)
    _checks.check_number(f"{who}: transition", transition, low=0)
    matrix = np.asarray(transition, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"{who}: transition must be a square matrix, got shape {matrix.shape}.")
    if np.max(np.abs(matrix.sum(1) - 1)) > 1e-6:
        worst = int(np.argmax(np.abs(matrix.sum(1) - 1)))
        raise ValueError(f"{who}: row {worst} of transition sums to {matrix[worst].sum():.6g}. Normalise the rows.")
    if mu is None:
        values, vectors = np.linalg.eig(matrix.T)
        mu = np.abs(np.real(vectors[:, np.argmin(np.abs(values - 1))]))
    _checks.check_number(f"{who}: mu", mu, low=0)
    mu = np.asarray(mu, np.float64)
    if mu.shape != matrix.shape[:1] or not np.all(mu / max(mu.sum(), 1e-300) > 1e-14):
        raise ValueError(f"{who}: mu must be [N] and positive: every node has to be reachable.")
    return matrix, mu / mu.sum()


def walk_graph(transition: Array, mu: Array | None = None) -> WalkGraph:
    """Make neighbour lists of a reversible transition matrix.

    Args:
        transition: [N, N] row-stochastic matrix, reversible with respect to mu.
        mu: [N] stationary law up to a constant; None computes it.

    Returns:
        A `WalkGraph` with D = the largest number of neighbours (a node may be its own).

    Raises:
        ValueError: for rows that do not sum to 1, negative entries, mu that is not positive, or a chain that is not
            reversible.

    Example:
        >>> import jsamp as js, numpy as np
        >>> ring = (np.roll(np.eye(5), 1, 0) + np.roll(np.eye(5), -1, 0)) / 2
        >>> js.mcmc.walk_graph(ring).neighbors.shape
        (5, 2)

    Cost:
        O(N^2) on the host, once; O(N^3) when mu is not given.
    """
    matrix, law = _checked("walk_graph", transition, mu)
    flow = law[:, None] * matrix
    if np.max(np.abs(flow - flow.T)) > 1e-6 * np.max(flow):
        raise ValueError(
            "walk_graph: the chain is not reversible with respect to mu (mu_i P_ij differs from mu_j P_ji)."
        )
    degree = int(np.max((matrix > 0).sum(1)))
    order = np.argsort(matrix == 0, axis=1, kind="stable")[:, :degree]
    prob = np.take_along_axis(matrix, order, 1)
    neighbors = np.where(prob > 0, order, np.arange(len(law))[:, None])
    with np.errstate(divide="ignore"):
        log_prob = np.log(prob)
    return WalkGraph(
        jnp.asarray(neighbors, jnp.int32), jnp.asarray(log_prob, jnp.float32), jnp.asarray(np.log(law), jnp.float32)
    )


def walk_variance(
    transition: Array, f: Array, *, alpha: float = 0.0, mu: Array | None = None, kind: Literal["srrw", "hdt"] = "srrw"
) -> float:
    """Predict the asymptotic variance, lim n Var(mean of f over n steps) of a repellent walk (visit weights 1/n).

    With eigenpairs (lambda_i, u_i) of the chain and a_i = <f, u_i>_mu^2:
    srrw: sum a_i (1 + lambda_i) / (1 - lambda_i) / (2 alpha (1 + lambda_i) + 1);
    hdt: sum a_i (1 + lambda_i) / (1 - lambda_i) / (2 alpha + 1).

    Args:
        transition: [N, N] reversible transition matrix.
        f: [N] values on the nodes.
        alpha: repulsion >= 0.
        mu: [N] stationary law up to a constant; None computes it.
        kind: "srrw" or "hdt".

    Returns:
        The variance, a float.

    Raises:
        ValueError: for an unknown kind or negative alpha.

    Example:
        >>> import jsamp as js, numpy as np
        >>> round(js.mcmc.walk_variance(np.full((2, 2), 0.5), np.array([1.0, -1.0]), alpha=0.5), 6)
        0.5

    Cost:
        One eigendecomposition on the host.

    References:
        Doshi, Hu and Eun, "Self-repellent random walks on general graphs", 2023, arXiv:2305.05097.
    """
    _checks.check_choice("walk_variance: kind", kind, ("srrw", "hdt"))
    _checks.check_scalar("walk_variance: alpha", alpha, low=0)
    _checks.check_finite("walk_variance: f", f)
    matrix, law = _checked("walk_variance", transition, mu)
    f = np.asarray(f, np.float64)
    if f.shape != law.shape:
        raise ValueError(f"walk_variance: f must be [{law.size}], one value per node, got shape {f.shape}.")
    root = np.sqrt(law)
    symmetric = root[:, None] * matrix / root[None, :]
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    weight = (vectors.T @ (root * f)) ** 2
    values, weight = values[:-1], weight[:-1]
    repel = 2 * alpha * (1 + values) + 1 if kind == "srrw" else 2 * alpha + 1
    return float(np.sum(weight * (1 + values) / (1 - values) / repel))
