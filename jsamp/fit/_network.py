"""Adjacency matrices of networks, dense or sparse: their door, and what is asked of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import is_traced
from jsamp.fit._assign import by_label
from jsamp.select._bits import wide
from jsamp.select._rows import as_array
from jsamp.select._whiten import matmul

REMEDY = "Use A = (A + A.T > 0) without its diagonal."


def as_network(adjacency: Any) -> Any:
    """A symmetric matrix of zeros and ones in floating point, dense or BCOO, or a refusal."""
    from jax.experimental.sparse import BCOO

    sparse = isinstance(adjacency, BCOO)
    if not sparse:
        _refuse_others(adjacency)
        adjacency = as_array("communities: adjacency", adjacency)
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1] or adjacency.shape[0] < 2:
        raise ValueError(f"communities: adjacency must be square [N, N] with N >= 2, got shape {adjacency.shape}.")
    if sparse and (adjacency.n_batch or adjacency.n_dense):
        raise ValueError("communities: adjacency must be a BCOO without batch and dense axes.")
    dtype = adjacency.dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"communities: adjacency must hold zeros and ones, got {dtype}. {REMEDY}")
    dtype = wide(dtype) if jnp.issubdtype(dtype, jnp.floating) else jnp.dtype(jnp.float32)
    if not is_traced(adjacency):
        _refuse(*_links(adjacency, sparse), adjacency.shape[0])
    if sparse:
        return BCOO((adjacency.data.astype(dtype), adjacency.indices), shape=adjacency.shape)
    return adjacency.astype(dtype)


def _refuse_others(adjacency: Any) -> None:
    """Name the way from networkx, scipy and the other sparse forms of jax."""
    remedies = {"nodes": "networkx.to_numpy_array(graph, weight=None)", "tocoo": "BCOO.from_scipy_sparse(adjacency)"}
    remedies["to_bcoo"] = "adjacency.to_bcoo()"
    for name, remedy in remedies.items():
        if hasattr(adjacency, name):
            kind = type(adjacency).__name__
            raise TypeError(f"communities: adjacency must be an array or a BCOO, got {kind}. Pass {remedy}.")


def _links(adjacency: Any, sparse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns [2, m] of the entries that are not zero, and these."""
    if not sparse:
        known = np.asarray(adjacency)
        where = np.stack(np.nonzero(known))
        return where, known[tuple(where)]
    data, where = np.asarray(adjacency.data), np.asarray(adjacency.indices).T
    there = (data != 0) & np.all(where < adjacency.shape[0], 0)
    return where[:, there], data[there]


def _refuse(where: np.ndarray, data: np.ndarray, n: int) -> None:
    if not data.size:
        raise ValueError("communities: adjacency has no links, so there is nothing to find.")
    if not np.all(data == 1):
        odd = data[data != 1][0]
        raise ValueError(f"communities: adjacency must hold zeros and ones, got {odd}. Weights are not read. {REMEDY}")
    if np.any(where[0] == where[1]):
        raise ValueError(f"communities: node {where[0][where[0] == where[1]][0]} links to itself. {REMEDY}")
    code, mirror = np.sort(where[0].astype(np.int64) * n + where[1]), np.sort(where[1].astype(np.int64) * n + where[0])
    if np.any(code[1:] == code[:-1]):
        raise ValueError("communities: adjacency lists a link twice. Use adjacency.sum_duplicates() and clip to 1.")
    if not np.array_equal(code, mirror):
        raise ValueError(f"communities: adjacency must be symmetric. {REMEDY}")


def product(network: Any, vectors: jax.Array) -> jax.Array:
    """A V, for V [N, m]."""
    return matmul(network, vectors) if isinstance(network, jax.Array) else network @ vectors


def degrees(network: Any) -> jax.Array:
    """The number of links [N] of every node."""
    if isinstance(network, jax.Array):
        return jnp.sum(network, 1)
    return by_label(network.data, network.indices[:, 0], network.shape[0])


def between(network: Any, label: jax.Array, num: int) -> jax.Array:
    """Links from each group to each other [num, num]; twice the links inside on the diagonal."""
    if isinstance(network, jax.Array):
        return by_label(by_label(network, label, num).T, label, num)
    ends = label[network.indices]
    return jnp.zeros_like(network.data, shape=(num, num)).at[ends[:, 0], ends[:, 1]].add(network.data)
