"""Grey images on disk: tiles, PNG files written with zlib alone, and pages with a title and a label for each row."""

from __future__ import annotations

import pathlib
import struct
import zlib

import numpy as np

import jsamp as js


def tile(images: np.ndarray, columns: int = 8, zoom: int = 3, gap: int = 2) -> np.ndarray:
    """Lay images [n, h, w] in [-1, 1] out in rows as dark ink on white paper, a uint8 picture."""
    n, height, width = np.shape(images)
    rows = -(-n // columns)
    ink = np.full((rows * columns, height + 2 * gap, width + 2 * gap), -1.0)
    ink[:n, gap : gap + height, gap : gap + width] = np.clip(images, -1, 1)
    page = ink.reshape(rows, columns, *ink.shape[1:]).swapaxes(1, 2).reshape(rows * ink.shape[1], -1)
    return np.round(127.5 * (1 - page)).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)


def write(path: str | pathlib.Path, picture: np.ndarray) -> None:
    """Write a grey uint8 picture [h, w] as a PNG file."""
    picture = np.asarray(picture)
    if picture.ndim != 2 or picture.dtype != np.uint8:
        raise ValueError(f"png: picture must be uint8 [h, w], got {picture.dtype} {picture.shape}. Use png.tile.")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = picture.shape
    lines = np.pad(picture, ((0, 0), (1, 0)))  # each line starts with its filter, 0: none
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    pathlib.Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def page(path: str | pathlib.Path, rows, labels, title: str) -> None:
    """Write rows of images [n, h, w], each with its label, under a title; needs matplotlib, else the tiles alone."""
    rows = [np.asarray(row) for row in rows]
    if len(rows) != len(labels):
        raise ValueError(f"png.page: {len(rows)} rows, but {len(labels)} labels. Give one for each row.")
    picture = tile(np.concatenate(rows), columns=len(rows[0]), zoom=2)
    try:
        import matplotlib
    except ImportError:
        print(f"no matplotlib, so {path} has no labels; its rows are: {title}: {', '.join(labels)}")
        return write(path, picture)
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    height, width = picture.shape
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=100)
    axis = js.plot.images(
        np.concatenate(rows), columns=len(rows[0]), labels=list(labels), axes=figure.add_axes((0, 0, 1, 1))
    )
    axis.set_title(title)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)
    from PIL import Image  # matplotlib brings it

    Image.open(path).convert("L").save(path, optimize=True)  # grey alone, a third of the size
