"""Rows of a dataset, and those of a subset with their weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from jsamp._core._checks import is_traced
from jsamp.plot._axes import COLOURS, check_axes, check_numbers, new_axes
from jsamp.select import Subset
from jsamp.select._subset import check_subset


def subset(x: Any, subset: Subset, *, axes: Any = None) -> Any:
    """Draw rows [n, 2] as grey points, those of a subset as dark ones, each in a disc whose area is as its weight.

    Args:
        x: [n, 2] two coordinates of every row: two columns, or a projection of yours.
        subset: a `js.Subset` of these rows; unused slots are left out.
        axes: matplotlib axes to draw on; by default those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        TypeError: for what is no array of numbers or no subset, or is traced.
        ValueError: for rows that are not [n, 2], or a subset of other rows.

    Example:
        >>> import jax, jsamp as js
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> axes = js.plot.subset(x, js.select.draw(jax.random.key(1), js.select.leverage(x), 10, scheme="systematic"))
        >>> axes.get_title()
        '10 of 100 rows'

    Cost:
        Time of order n.
    """
    x = check_numbers("subset: x", x, "Give two columns: x[:, :2].")
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"subset: x must be [n, 2], got {x.shape}. Give two columns, x[:, :2], or a projection.")
    if is_traced(subset):
        raise TypeError("subset: subset is traced, and a picture needs its numbers. Return it from jit, then draw.")
    check_subset(subset, len(x), "subset")
    if axes is None:
        axes = new_axes(figsize=(4.2, 3.6))
    axes = check_axes("subset", axes)
    used = np.asarray(subset.mask, bool)
    chosen, weight = x[np.asarray(subset.index)[used]], np.asarray(subset.weight, np.float64)[used]
    axes.scatter(x[:, 0], x[:, 1], 3, "#c9c9c9", linewidth=0)
    axes.scatter(chosen[:, 0], chosen[:, 1], 90 * weight / weight.max(), COLOURS[0], alpha=0.5, linewidth=0)
    # Rows of high scores weigh little: their discs alone would not be seen.
    axes.scatter(chosen[:, 0], chosen[:, 1], 5, COLOURS[1], linewidth=0)
    axes.set_title(f"{used.sum()} of {len(x)} rows", fontsize=10)
    return axes
