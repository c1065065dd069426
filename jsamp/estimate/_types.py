"""The type that estimates come in."""

from __future__ import annotations

from typing import Any, NamedTuple


class Estimate(NamedTuple):
    """A number that knows its error.

    Args:
        value: the estimate, an array or a tree.
        stderr: its standard error, of the same structure.
        ess: effective number of independent samples behind it.

    Example:
        >>> import jsamp as js
        >>> js.estimate.Estimate(value=1.0, stderr=0.1, ess=100.0).stderr
        0.1
    """

    value: Any
    stderr: Any
    ess: Any
