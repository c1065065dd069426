"""Files of arrays: written whole or not at all, and what reading a damaged one may raise."""

from __future__ import annotations

import os
import pathlib
import tempfile
import zipfile
import zlib
from typing import Any

import numpy as np

DAMAGE = (OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


def write(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """Write an `.npz` file beside its place, flush it to the disk, and let it take the place in one step."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    """Flush the folder's entry, where the system has such a thing."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
