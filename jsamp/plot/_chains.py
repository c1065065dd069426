"""Traces, histograms and pairs of chains."""

from __future__ import annotations

from typing import Any

import numpy as np

from jsamp._core._checks import shown
from jsamp.plot._axes import COLOURS, check_axes, check_numbers, new_axes


def _check_draws(draws: Any, names: Any) -> tuple[np.ndarray, list[str]]:
    """Return draws [chains, draws, d] and d names, or refuse them."""
    draws = check_numbers(
        "chains: draws", draws, "Give draws [chains, draws] or [chains, draws, d], as js.chains does."
    )
    draws = draws[..., None] if draws.ndim == 2 else draws
    if draws.ndim != 3:
        raise ValueError(f"chains: draws must be [chains, draws] or [chains, draws, d], got {draws.shape}. One chain "
                         f"is draws[None].")  # fmt: skip
    d = draws.shape[-1]
    if d > 8:
        raise ValueError(f"chains: {d} coordinates would give {d * d} panels. Choose some: draws[..., [0, 1, 2]].")
    if names is None:
        names = [f"x[{i}]" for i in range(d)]
    if not isinstance(names, (list, tuple)) or len(names) != d or not all(isinstance(n, str) for n in names):
        raise ValueError(f"chains: names must be a list of {d} texts, one for each coordinate; got {shown(names)}.")
    return draws, list(names)


def chains(draws: Any, names: Any = None, *, axes: Any = None) -> Any:
    """Draw chains: a row for each coordinate with its trace, then its pairs with the others, and its histogram.

    Chains that agree have histograms that lie on each other and traces without a trend; `js.estimate.rhat` says it in a
    number. Numbers that are not finite leave gaps.

    Args:
        draws: [chains, draws] or [chains, draws, d], d <= 8, as `js.chains` returns them.
        names: a list of d texts; by default x[0], x[1], ...
        axes: matplotlib axes [d, d + 1] to draw on; by default those of a new figure.

    Returns:
        The matplotlib axes [d, d + 1]: traces in column 0, and coordinate j in column j + 1.

    Raises:
        TypeError: for what is no array of numbers, or is traced.
        ValueError: for another shape, more than eight coordinates, or names that do not fit.

    Example:
        >>> import jax, jsamp as js
        >>> kernel = js.mcmc.ULA(lambda x: -(x @ x) / 2, 0.1)
        >>> draws = js.chains(jax.random.key(0), kernel, jax.numpy.zeros((4, 2)), 50, warm=0).x
        >>> js.plot.chains(draws, ["a", "b"]).shape
        (2, 3)

    Cost:
        d^2 panels; at most some 2,000 points are drawn in each pair.
    """
    draws, names = _check_draws(draws, names)
    d = len(names)
    if axes is None:
        axes = new_axes(d, d + 1, figsize=(3.2 + 2.4 * d, 0.6 + 2.2 * d), width_ratios=[2] + [1] * d)
    axes = check_axes("chains", axes, (d, d + 1))
    thin = max(1, draws.shape[0] * draws.shape[1] // 2000)
    for row in range(d):
        for number, chain in enumerate(draws[..., row]):
            colour = COLOURS[number % len(COLOURS)]
            axes[row, 0].plot(chain, linewidth=0.4, color=colour)
            axes[row, row + 1].hist(chain[np.isfinite(chain)], bins=40, histtype="step", color=colour)
        axes[row, row + 1].set_yticks([])
        for column in set(range(d)) - {row}:
            pair = draws[..., column].ravel()[::thin], draws[..., row].ravel()[::thin]
            axes[row, column + 1].plot(*pair, ".", markersize=1.5, alpha=0.5, color=COLOURS[0])
        axes[row, 0].set_ylabel(names[row])
        axes[0, row + 1].set_title(names[row], fontsize=10)
    axes[0, 0].set_title(f"traces of {len(draws)} chains", fontsize=10)
    axes[-1, 0].set_xlabel("draw")
    return axes
