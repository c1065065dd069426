"""Learning curves of groups, given or fitted from measured errors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._checks import check_number, check_on_host
from jsamp._core._pytree import field, pytree
from jsamp.select._bits import wide


def _floating(name: str, value: Any) -> Any:
    if isinstance(value, (int, float)):
        return float(value)  # takes the precision of the scale
    value = value if isinstance(value, jax.Array) else jnp.asarray(np.asarray(value))
    return value.astype(wide(value.dtype))


@pytree
class Curve:
    """Predict the errors of G groups from their numbers of rows: error_g(n) = floor_g + scale_g n^(-rate_g).

    Args:
        scale: [G] > 0.
        rate: [G] or number > 0 (1 for the variance of least squares).
        floor: [G] or number >= 0, error that no amount of data removes.

    Raises:
        ValueError: for scales or rates that are not positive, negative floors, or lengths that differ.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.select.Curve([1.0, 4.0])(jnp.array([2.0, 2.0]))
        Array([0.5, 2. ], dtype=float32)

    Cost:
        One power for each group.
    """

    scale: Any = field(check=_fields.positive, convert=_floating)
    rate: Any = field(default=1.0, check=_fields.positive, convert=_floating)
    floor: Any = field(default=0.0, check=_fields.not_negative, convert=_floating)

    def __post_init__(self):
        shape = jnp.shape(self.scale)
        if len(shape) != 1 or shape[0] == 0:
            raise ValueError(f"Curve: scale must be [G], one number per group, got shape {shape}.")
        for name in ("rate", "floor"):
            if jnp.shape(getattr(self, name)) not in ((), shape):
                raise ValueError(
                    f"Curve: {name} must be a number or {list(shape)}, got {jnp.shape(getattr(self, name))}."
                )

    def __call__(self, n: Any) -> jax.Array:
        """Predict the errors [G] with n rows per group."""
        n = jnp.asarray(n)
        return self.floor + self.scale * n.astype(wide(n.dtype)) ** -self.rate


def fit_curve(counts: Any, errors: Any, *, rate: float | None = None, floor: Any = "fit") -> Curve:
    """Fit the learning curve of every group from errors measured at several sizes.

    Least squares of log(error - floor) on log(count), which takes errors to be known to the same share of themselves;
    the floor is the one in [0, smallest error) whose line leaves the smallest squares.

    Args:
        counts: [T] or [T, G] rows each group had, T >= 2 different sizes (3 to fit a floor too).
        errors: [T, G] errors measured with them, > 0.
        rate: None to fit it, or the known exponent of all groups.
        floor: "fit", or known floors: a number or [G].

    Returns:
        `Curve`, on the host in float64 and cast once.

    Raises:
        ValueError: for too few sizes, shapes that differ, errors or counts that are not positive, errors below their
            floor, or a group whose errors do not fall.
        TypeError: for traced measurements.

    Example:
        >>> import numpy as np, jsamp as js
        >>> n = np.array([10, 20, 40, 80.0])
        >>> curve = js.select.fit_curve(n, 0.1 + np.array([[1.0, 4.0]]) / n[:, None])
        >>> curve.scale.round(3), curve.rate.round(3), curve.floor.round(3)
        (Array([1., 4.], dtype=float32), Array([1., 1.], dtype=float32), Array([0.1, 0.1], dtype=float32))

    Cost:
        400 straight lines per group, on the host.

    References:
        Cai et al., "Adaptive Sampling Strategies to Construct Equitable Training Datasets", 2022, arXiv:2202.01327.
    """
    check_on_host("fit_curve", counts, errors)
    for name, value in (("counts", counts), ("errors", errors)):
        check_number(f"fit_curve: {name}", value, low=0, open_low=True)
    errors = np.asarray(errors, np.float64)
    counts = np.asarray(counts, np.float64)
    if errors.ndim != 2 or counts.shape not in (errors.shape, errors.shape[:1]):
        raise ValueError(f"fit_curve: counts [T] or [T, G], errors [T, G] needed, got {counts.shape}, {errors.shape}.")
    counts = np.broadcast_to(counts.reshape(len(counts), -1), errors.shape)
    fits = isinstance(floor, str)
    if fits and floor != "fit":
        raise ValueError(f"fit_curve: floor must be 'fit' or numbers, got {floor!r}.")
    wanted = 1 + (rate is None) + fits
    if min(len(np.unique(c)) for c in counts.T) < wanted:
        raise ValueError(f"fit_curve: {wanted} unknowns per group need {wanted} different sizes of it. Measure more.")
    if rate is not None:
        check_number("fit_curve: rate", rate, low=0, open_low=True)
    lowest = errors.min(0)
    if fits:
        floors = [_best_floor(np.log(c), e, rate) for c, e in zip(counts.T, errors.T, strict=True)]
    else:
        check_number("fit_curve: floor", floor, low=0)
        if np.shape(floor) not in ((), lowest.shape):
            raise ValueError(f"fit_curve: floor must be a number or one per group {list(lowest.shape)}.")
        floors = np.broadcast_to(np.asarray(floor, np.float64), lowest.shape)
        if not np.all(floors < lowest):
            raise ValueError(f"fit_curve: floor must lie below every error; the smallest are {lowest}.")
    lines = [_line(np.log(c), np.log(e - f), rate) for c, e, f in zip(counts.T, errors.T, floors, strict=True)]
    slope = np.array([line[1] for line in lines])
    if not np.all(slope < 0):
        raise ValueError(f"fit_curve: the errors of groups {np.flatnonzero(slope >= 0).tolist()} do not fall with the "
                         f"number of rows. Pass rate=, or measure with less noise.")  # fmt: skip
    return Curve(np.exp([line[0] for line in lines]), -slope, np.asarray(floors))


def _line(x: np.ndarray, y: np.ndarray, rate: float | None) -> tuple[float, float, float]:
    """Intercept, slope and sum of squares of the line through (x, y)."""
    slope = -rate if rate is not None else np.sum((x - x.mean()) * y) / np.sum((x - x.mean()) ** 2)
    intercept = float(np.mean(y - slope * x))
    return intercept, float(slope), float(np.sum((y - intercept - slope * x) ** 2))


def _best_floor(x: np.ndarray, errors: np.ndarray, rate: float | None) -> float:
    """The floor in [0, smallest error) of the best line: over a grid, then over a finer one around the best."""
    top, low, high = errors.min(), 0.0, 1.0
    for _ in range(4):
        share = np.linspace(low, high, 100, endpoint=high < 1)
        squares = [_line(x, np.log(errors - top * s), rate)[2] for s in share]
        best, step = share[int(np.argmin(squares))], share[1] - share[0]
        low, high = max(0.0, best - step), min(1.0, best + step)
    return float(top * best)
