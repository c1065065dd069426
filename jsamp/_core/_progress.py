"""A progress bar where one is asked for and tqdm is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def bar(show: bool, total: int | None, *, done: int = 0, unit: str = "draw") -> Iterator[Callable[[int], Any]]:
    """Yield `advance(count)`, which moves the bar; it does nothing when no bar is asked for or tqdm is absent."""
    tqdm = _tqdm() if show else None
    if tqdm is None:
        yield lambda count: None
        return
    with tqdm.tqdm(total=total, initial=done, unit=unit) as drawn:
        yield drawn.update


def _tqdm() -> Any:
    try:
        import tqdm  # pyright: ignore[reportMissingModuleSource]
    except ImportError:
        return None
    return tqdm
