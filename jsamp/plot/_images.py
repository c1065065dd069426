"""Tiles of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from jsamp._core._checks import check_count, check_number, shown
from jsamp.plot._axes import check_axes, check_numbers, new_axes


def _tiles(x: np.ndarray, columns: int, paper: float) -> np.ndarray:
    """Lay images [n, h, w, c] out in rows on paper, with a gap around each: one picture [H, W, c]."""
    n, height, width, depth = x.shape
    gap = 1 + min(height, width) // 16
    rows = -(-n // columns)
    tall, wide = height + 2 * gap, width + 2 * gap
    page = np.full((rows * columns, tall, wide, depth), paper)
    page[:n, gap : gap + height, gap : gap + width] = x
    page = page.reshape(rows, columns, tall, wide, depth).swapaxes(1, 2)
    return page.reshape(rows * tall, columns * wide, depth)


def _check_images(x: Any, columns: Any, low: Any, high: Any, labels: Any) -> tuple[np.ndarray, int]:
    """Return images [n, h, w, c] and the number of columns, or refuse them."""
    x = check_numbers("images: x", x, "Give images [n, h, w], or [n, h, w, 1 or 3].")
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise ValueError(f"images: x must be [n, h, w] or [n, h, w, 1 or 3], got {x.shape}. One image is x[None].")
    check_number("images: low", low)
    check_number("images: high", high)
    if np.ndim(low) or np.ndim(high) or not low < high:
        raise ValueError(f"images: low must be below high, got {shown(low)} and {shown(high)}.")
    columns = min(8, len(x)) if columns is None else check_count("images: columns", columns)
    rows = -(-len(x) // columns)
    if labels is not None and (not isinstance(labels, (list, tuple)) or len(labels) != rows):
        raise ValueError(f"images: labels must be a list of {rows} texts, one for each row; got {shown(labels)}.")
    return x, columns


def images(
    x: Any, *, columns: int | None = None, low: float = -1.0, high: float = 1.0, labels: Any = None, axes: Any = None
) -> Any:
    """Draw images [n, h, w] or [n, h, w, c] as tiles, row by row: grey ones as dark ink on white paper.

    Args:
        x: [n, h, w] or [n, h, w, 1] grey images, or [n, h, w, 3] colours; numbers outside [low, high] are cut,
            and NaN is red.
        columns: images in a row; by default 8.
        low: the number of white paper (of black where there are three channels).
        high: the number of black ink (of full colour).
        labels: a list of texts, one for each row of tiles.
        axes: matplotlib axes to draw on; by default those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        TypeError: for what is no array of numbers, or is traced.
        ValueError: for another shape, an empty range, or labels that are not one for each row.

    Example:
        >>> import jax, jsamp as js
        >>> axes = js.plot.images(jax.random.normal(jax.random.key(0), (10, 8, 8)), columns=5)
        >>> axes.figure.savefig("noise.png")  # doctest: +SKIP
        >>> axes.get_images()[0].get_array().shape
        (20, 50)

    Cost:
        One copy of the images on the host.
    """
    x, columns = _check_images(x, columns, low, high, labels)
    grey = x.shape[-1] == 1
    page = _tiles(np.clip((x - low) / (high - low), 0, 1), columns, 0.0 if grey else 1.0)
    if axes is None:
        height, width = page.shape[:2]
        axes = new_axes(figsize=(6.0, max(6.0 * height / width, 0.8)))
    axes = check_axes("images", axes)
    if grey:
        from matplotlib import colormaps

        colours = colormaps["gray_r"].with_extremes(bad="red")
        axes.imshow(np.ma.masked_invalid(page[..., 0]), cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(np.where(np.isnan(page).any(-1, keepdims=True), [1.0, 0.0, 0.0], page), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    if labels is not None:
        axes.set_yticks((np.arange(len(labels)) + 0.5) * page.shape[0] / len(labels), labels)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes
