"""Numerics shared by the rooms: one code path over numpy (host, float64) and jax.numpy (traced values)."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import is_traced


def namespace(*trees: Any) -> Any:
    """`jax.numpy` when anything is traced, else `numpy`: the same formulas run on the host and in a trace."""
    return jnp if is_traced(*trees) else np


def as_array(value: Any, xp: Any) -> Any:
    """A floating array of the namespace: float64 on the host, the value's own precision in a trace."""
    if xp is np:
        return np.asarray(value, np.float64)
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


@functools.cache
def gauss_legendre(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1], float64."""
    nodes, weights = np.polynomial.legendre.leggauss(num)
    return (nodes + 1) / 2, weights / 2


def lagrange_basis(nodes: list[Any], x: Any) -> list[Any]:
    """The Lagrange polynomials through distinct scalar `nodes`, each evaluated at `x`."""
    basis = []
    for j, node in enumerate(nodes):
        value = x * 0 + 1
        for k, other in enumerate(nodes):
            if k != j:
                value = value * (x - other) / (node - other)
        basis.append(value)
    return basis


def safe_log(xp: Any, x: Any) -> Any:
    """Log x, with log 0 = -inf and no warning on the host."""
    if xp is np:
        with np.errstate(divide="ignore"):
            return np.log(x)
    return jnp.log(x)
