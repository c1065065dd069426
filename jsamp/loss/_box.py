"""Densities on a box, to draw from and to evaluate: a small flow, a grid, and the smooth best answer on a grid."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Key

HIGHEST = jax.lax.Precision.HIGHEST


def _corner(name, value):
    """A corner of the box, as Python numbers: they are not trained."""
    _checks.check_finite(name, value)
    if np.ndim(value) != 1 or np.shape(value)[0] < 1:
        raise ValueError(f"{name} must be [d] numbers, one for each coordinate, got shape {np.shape(value)}.")
    return tuple(value[i] if _checks.is_traced(value) else float(value[i]) for i in range(np.shape(value)[0]))


def _check_box(who, low, high):
    if len(low) != len(high):
        raise ValueError(f"{who}: low has {len(low)} coordinates, high {len(high)}.")
    if not _checks.is_traced(low, high) and not all(a < b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"{who}: low must lie below high in every coordinate, got {low} and {high}.")


class _Box:
    """The map between a box and the unit cube, for densities on the box."""

    def to_cube(self: Any, x: jax.Array) -> jax.Array:
        """Return where a point of the box lies in the unit cube."""
        low, high = jnp.asarray(self.low, x.dtype), jnp.asarray(self.high, x.dtype)
        return (x - low) / (high - low)

    def from_cube(self: Any, y: jax.Array) -> jax.Array:
        """Return the point of the box at a place of the unit cube."""
        low, high = jnp.asarray(self.low, y.dtype), jnp.asarray(self.high, y.dtype)
        return low + y * (high - low)


@pytree
class BoxFlow(_Box):
    """Give a density on a box by an invertible map of the box onto itself, made by `js.loss.box_flow`.

    Every layer sends the coordinates of one parity through distribution functions whose densities are piecewise linear,
    given the others, by a network with one hidden layer; so the map and its inverse are closed forms. `flow(x)` is the
    log of the density relative to the even law, `flow.push(u)` a draw for an even u in the unit cube.

    Args:
        layers: parameters, a list of dictionaries of arrays.
        low: lower corner [d].
        high: upper corner [d].

    Returns:
        `flow(x [d]) -> scalar`, `flow.push(u [d]) -> x [d]`.

    Raises:
        TypeError: for layers of another kind.
        ValueError: for corners that do not span a box, layers for a box of another dimension.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> flow = js.loss.box_flow(jax.random.key(0), [-1.0, 0.0], [1.0, 2.0])
        >>> flow.push(jnp.array([0.5, 0.5])).tolist(), float(flow(jnp.array([0.3, 0.2])))
        ([0.0, 1.0], 0.0)

    Cost:
        One small network for each layer.

    References:
        Müller et al., "Neural Importance Sampling", 2018, arXiv:1808.03856.
    """

    layers: Any
    low: Any = field(convert=_corner)
    high: Any = field(convert=_corner)

    def __post_init__(self):
        _check_box("BoxFlow", self.low, self.high)
        parts = {"in", "shift", "out", "bias"}
        if not isinstance(self.layers, (list, tuple)) or not all(
            isinstance(one, dict) and set(one) == parts for one in self.layers
        ):
            raise TypeError(
                "BoxFlow: layers must be a list of parameters as js.loss.box_flow(key, low, high) makes it."
            )
        for k, one in enumerate(self.layers):
            wanted = (len(self.low), np.shape(one["shift"])[-1:], np.shape(one["bias"])[-1:])
            if (
                np.shape(one["in"])[-2:] != (wanted[0], *wanted[1])
                or np.shape(one["out"])[-2:] != wanted[1] + wanted[2]
            ):
                raise ValueError(f"BoxFlow: layers[{k}] does not fit a box of {wanted[0]} coordinates.")

    def __call__(self, x):
        """Return the log density of a point, relative to the even law."""
        y, total = self.to_cube(x), jnp.zeros((), x.dtype)
        for k, params in enumerate(self.layers):
            moved = _moved(k, len(self.low))
            y, log = jax.vmap(_forward)(*_heights(params, y, moved), y, moved)
            total = total + jnp.sum(log)
        return total

    def push(self, u):
        """Return the point of the box that the map sends to u."""
        for k in reversed(range(len(self.layers))):
            moved = _moved(k, len(self.low))
            u = jax.vmap(_backward)(*_heights(self.layers[k], u, moved), u, moved)
        return self.from_cube(u)


def _moved(layer, dim):
    """Which coordinates a layer moves: those of its parity."""
    return jnp.arange(dim) % 2 == (layer + 1) % 2 if dim > 1 else jnp.ones(1, bool)


def _heights(params, y, moved):
    """Heights [d, bins + 1] of the density of each coordinate at the knots, and the distribution function there."""
    given = jnp.where(moved, 0, 2 * y - 1)
    hidden = jnp.tanh(jnp.matmul(given, params["in"], precision=HIGHEST) + params["shift"])
    raw = jnp.matmul(hidden, params["out"], precision=HIGHEST) + params["bias"]
    raw = raw.reshape(y.shape[0], -1)
    height = jnp.exp(raw - jnp.max(raw, axis=-1, keepdims=True))
    area = (height[:, 1:] + height[:, :-1]) / 2 / (height.shape[1] - 1)
    total = jnp.sum(area, axis=-1, keepdims=True)
    below = jnp.concatenate([jnp.zeros_like(total), jnp.cumsum(area / total, axis=-1)], axis=-1)
    return height / total, below


def _forward(height, below, y, moved):
    """The distribution function of one coordinate, and its log slope."""
    bins = height.shape[0] - 1
    k = jnp.clip((y * bins).astype(jnp.int32), 0, bins - 1)
    share = y * bins - k
    rise = height[k + 1] - height[k]
    found = below[k] + share * (height[k] + share * rise / 2) / bins
    return jnp.where(moved, found, y), jnp.where(moved, jnp.log(height[k] + share * rise), 0)


def _backward(height, below, u, moved):
    """The quantile function of one coordinate: the stable root of a quadratic."""
    bins = height.shape[0] - 1
    k = jnp.clip(jnp.sum(below <= u) - 1, 0, bins - 1)
    rest, rise = jnp.maximum(u - below[k], 0) * bins, height[k + 1] - height[k]
    root = jnp.sqrt(jnp.maximum(height[k] ** 2 + 2 * rise * rest, 0))
    return jnp.where(moved, (k + jnp.clip(2 * rest / (height[k] + root), 0, 1)) / bins, u)


def box_flow(key: Key, low: Any, high: Any, *, layers: int = 4, width: int = 32, bins: int = 16) -> BoxFlow:
    """Make a flow of a box onto itself that starts as the even law.

    Args:
        key: one key.
        low: lower corner [d].
        high: upper corner [d].
        layers: coupling layers; at least 2 are needed to move every coordinate when d > 1.
        width: hidden units of each.
        bins: pieces of each distribution function.

    Returns:
        A `BoxFlow`.

    Raises:
        ValueError: for corners that do not span a box, or counts below one.

    Example:
        >>> import jax, jsamp as js
        >>> len(js.loss.box_flow(jax.random.key(0), [0.0], [1.0], layers=3).layers)
        3

    Cost:
        layers (2 d + d bins) width numbers.
    """
    _checks.check_key(key, "box_flow")
    layers, width, bins = (
        _checks.check_count(f"box_flow: {name}", value)
        for name, value in (("layers", layers), ("width", width), ("bins", bins))
    )
    low, high = _corner("box_flow: low", low), _corner("box_flow: high", high)
    _check_box("box_flow", low, high)
    dim, made = len(low), []
    for one in jax.random.split(key, layers):
        first, second = jax.random.split(one)
        made.append(
            {
                "in": 2 * jax.random.normal(first, (dim, width), jnp.float32),
                "shift": jax.random.normal(second, (width,), jnp.float32),
                "out": jnp.zeros((width, dim * (bins + 1)), jnp.float32),
                "bias": jnp.zeros(dim * (bins + 1), jnp.float32),
            }
        )
    return BoxFlow(made, low, high)


@pytree
class BoxGrid(_Box):
    """Give a piecewise constant density on a box by its weight in each cell of a grid.

    `grid(x)` is the log of the density relative to the even law; `grid.push(u)` draws by the conditional quantiles, one
    coordinate after the other.

    Args:
        weight: weights of the cells, >= 0 and not all zero, [n_1, ..., n_d].
        low: lower corner [d].
        high: upper corner [d].

    Returns:
        `grid(x [d]) -> scalar`, `grid.push(u [d]) -> x [d]`.

    Raises:
        ValueError: for weights that are negative or all zero, or that have another dimension than the corners.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> grid = js.loss.BoxGrid(jnp.array([1.0, 3.0]), [0.0], [2.0])
        >>> grid.push(jnp.array([0.25])).tolist(), round(float(jnp.exp(grid(jnp.array([1.5])))), 3)
        ([1.0], 1.5)

    Cost:
        The number of cells, for each draw; under vmap the sums are formed once.
    """

    weight: Any
    low: Any = field(convert=_corner)
    high: Any = field(convert=_corner)

    def __post_init__(self):
        _checks.check_number("BoxGrid: weight", self.weight, low=0)
        _check_box("BoxGrid", self.low, self.high)
        if np.ndim(self.weight) != len(self.low):
            raise ValueError(f"BoxGrid: weight must have {len(self.low)} axes, got shape {np.shape(self.weight)}.")
        known = _checks.concrete(self.weight)
        if known is not None and not np.sum(known) > 0:
            raise ValueError(f"BoxGrid: weight must have cells, not all zero, got shape {np.shape(known)}.")

    def __call__(self, x):
        """Return the log density of a point, relative to the even law."""
        weight, y = jnp.asarray(self.weight, x.dtype), self.to_cube(x)
        where = tuple(jnp.clip((y[k] * count).astype(jnp.int32), 0, count - 1) for k, count in enumerate(weight.shape))
        cell = weight
        for index in where:
            cell = _at(cell, index)
        return jnp.log(cell / jnp.mean(weight))

    def push(self, u):
        """Return the draw at quantiles u."""
        rest, place = jnp.asarray(self.weight, u.dtype), []
        for k in range(len(self.low)):
            mass = jnp.sum(rest.reshape(rest.shape[0], -1), axis=1)
            below = jnp.concatenate([jnp.zeros_like(mass[:1]), jnp.cumsum(mass)])
            want = u[k] * below[-1]
            # The last cell that has weight and begins at or below what is wanted.
            index = jnp.clip(jnp.sum(below <= want) - 1, 0, mass.shape[0] - 1)
            start, size = _at(below, index), _at(mass, index)
            share = (want - start) / jnp.where(size > 0, size, 1)
            place.append((index + jnp.clip(share, 0, 1)) / mass.shape[0])
            rest = _at(rest, index)
        return self.from_cube(jnp.stack(place))


def spectral_density(square: Any, low: Any, high: Any, *, beta: Any = None, least: float = 0.1) -> BoxGrid:
    """Solve for the density that gains most from squared residuals on a grid, as smooth as beta asks.

    The maximum over densities rho relative to the even law of mean(square rho) - beta mean(|grad rho|^2) is 1 + q with
    -2 beta laplacian q = square - mean(square) and no slope at the faces; cosines solve it. Where q would fall below
    least - 1, beta is raised to the least value that keeps rho >= least, so that the answer stays the exact optimum of
    its own penalty; with beta None it is that least value.

    Args:
        square: squared residuals at the centres of the cells of an even grid, >= 0, [n_1, ..., n_d].
        low: lower corner [d].
        high: upper corner [d].
        beta: weight of the smoothness penalty, > 0, or None for the sharpest density allowed.
        least: least relative density, in (0, 1].

    Returns:
        A `BoxGrid` whose mean weight is 1.

    Raises:
        ValueError: for residuals that are negative or not finite, a beta that is not positive, corners that do not span
            a box.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> centres = (jnp.arange(64) + 0.5) / 64
        >>> grid = js.loss.spectral_density(1 + jnp.cos(jnp.pi * centres), [0.0], [1.0], beta=1.0)
        >>> round(float(grid.weight[0]), 3)  # 1 + cos(pi x) / (2 pi^2)
        1.051

    Cost:
        Two products with a cosine matrix for each axis.

    References:
        Tang, Zhai, Wan and Yang, "Adversarial Adaptive Sampling: Unify PINN and Optimal Transport for the Approximation
        of PDEs", 2023, arXiv:2305.18702.
    """
    low, high = _corner("spectral_density: low", low), _corner("spectral_density: high", high)
    _check_box("spectral_density", low, high)
    _checks.check_number("spectral_density: square", square, low=0)
    if np.ndim(square) != len(low) or 0 in np.shape(square):
        raise ValueError(f"spectral_density: square must have {len(low)} axes, got shape {np.shape(square)}.")
    if beta is not None:
        _checks.check_scalar("spectral_density: beta", beta, low=0, open_low=True)
    _checks.check_scalar("spectral_density: least", least, low=0, high=1, open_low=True)
    square = jnp.asarray(square)
    square = square.astype(jnp.promote_types(square.dtype, jnp.float32))
    scale = jnp.maximum(jnp.max(square), jnp.finfo(square.dtype).tiny)
    # The answer for beta = scale: in units of the largest residual nothing overflows.
    unit = _poisson(square / scale, [b - a for a, b in zip(low, high, strict=True)])
    # Residuals that are flat to rounding ask for nothing; a free beta would blow the rounding up.
    flat = jnp.max(square) - jnp.min(square) <= 64 * jnp.finfo(square.dtype).eps * jnp.max(square)
    unit = jnp.where(flat, 0, unit)
    smooth = -jnp.min(unit) / jnp.maximum(1 - least, jnp.finfo(unit.dtype).eps)
    wanted = smooth if beta is None else jnp.maximum(smooth, jnp.asarray(beta, unit.dtype) / scale)
    return BoxGrid(1 + unit / jnp.where(wanted > 0, wanted, 1), low, high)


def _poisson(source, lengths):
    """Q with mean zero of -2 laplacian q = source - mean(source), by cosines, no slope at the faces."""
    found, rates = source, jnp.zeros((1,) * source.ndim, source.dtype)
    matrices = []
    for axis, length in enumerate(lengths):
        count = source.shape[axis]
        order = np.arange(count)
        cosine = np.cos(np.pi * np.outer(order, order + 0.5) / count) * np.sqrt(2.0 / count)
        cosine[0] /= np.sqrt(2.0)
        matrices.append(jnp.asarray(cosine, source.dtype))
        rate = jnp.asarray((np.pi * order) ** 2, source.dtype) / jnp.asarray(length, source.dtype) ** 2
        rates = rates + rate.reshape([count if k == axis else 1 for k in range(source.ndim)])
    turn = lambda matrix, x, axis: jnp.moveaxis(jnp.tensordot(matrix, x, (1, axis), precision=HIGHEST), 0, axis)
    for axis, matrix in enumerate(matrices):
        found = turn(matrix, found, axis)
    found = jnp.where(rates > 0, found / jnp.where(rates > 0, 2 * rates, 1), 0)
    for axis, matrix in enumerate(matrices):
        found = turn(matrix.T, found, axis)
    return found


def _at(table, index):
    """Return table[index], by a sum on an explicit mesh, where JAX gathers nothing from a table that all rows share."""
    if jax.typeof(index).sharding.mesh.empty:
        return table[index]
    hit = (jnp.arange(table.shape[0]) == index).reshape(-1, *[1] * (table.ndim - 1))
    return jnp.sum(jnp.where(hit, table, 0), axis=0)
