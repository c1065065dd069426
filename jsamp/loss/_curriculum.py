"""How many levels a consistency grid has as training goes on, and how often each of them is drawn."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from jsamp._core import _checks
from jsamp.loss._times import as_levels


def consistency_levels(
    step: int, steps: int, *, first: int = 2, last: int = 150, growth: Literal["root", "double"] = "root"
) -> int:
    """Count the levels of the grid at a step of consistency training.

    "root", consistency training: ceil(sqrt(k / K ((last + 1)^2 - first^2) + first^2) - 1) + 1, at least 2. "double",
    improved training: min(first 2^floor(k / K'), last) + 1 with K' = floor(K / (log2 floor(last / first) + 1)). A grid
    has a fixed shape: train in stages of equal counts, each a call of `js.fit.minimise` that goes on from the state of
    the one before with the new loss, `state._replace(loss=(new,))`.

    Args:
        step: updates made so far, k.
        steps: updates of the whole run, K.
        first: s0; the papers take 2 for "root", 10 for "double".
        last: s1; the papers take 150 for "root", 1280 for "double".
        growth: "root" or "double".

    Returns:
        The number of levels N, an int >= 2.

    Raises:
        ValueError: for a step outside 0..steps, last below first, an unknown growth.

    Example:
        >>> import jsamp as js
        >>> [js.loss.consistency_levels(k, 100) for k in (0, 25, 100)]
        [2, 76, 151]

    Cost:
        A few operations on numbers.

    References:
        Song et al., "Consistency Models", 2023, arXiv:2303.01469. Song and Dhariwal, "Improved Techniques for Training
        Consistency Models", 2023, arXiv:2310.14189.
    """
    steps = _checks.check_count("consistency_levels: steps", steps)
    step = _checks.check_count("consistency_levels: step", step, low=0, high=steps)
    first = _checks.check_count("consistency_levels: first", first)
    last = _checks.check_count("consistency_levels: last", last, low=first)
    _checks.check_choice("consistency_levels: growth", growth, ("root", "double"))
    if growth == "root":
        square = step * ((last + 1) ** 2 - first**2) / steps + first**2
        return max(math.ceil(math.sqrt(square) - 1), 1) + 1
    stage = max(int(steps // (math.log2(last // first) + 1)), 1)
    return min(first * 2 ** min(step // stage, 64), last) + 1


def level_probabilities(grid: Any, *, mean: float = -1.1, std: float = 2.0) -> np.ndarray:
    """Weigh the levels of a consistency grid by a lognormal law, for `js.loss.Consistency(probabilities=)`.

    The weight of the pair t = grid[i], u = grid[i + 1] is the probability of (u, t) under log sigma ~ N(mean, std^2),
    divided by their sum.

    Args:
        grid: decreasing noise levels [N] > 0.
        mean: mean of log sigma.
        std: its standard deviation, > 0.

    Returns:
        Weights [N - 1] that sum to one, numpy float64.

    Raises:
        ValueError: for a grid that does not decrease to a level > 0, or that the law does not reach.

    Example:
        >>> import jsamp as js
        >>> js.loss.level_probabilities([9.0, 3.0, 1.0], mean=1.0986, std=1.0).round(3).tolist()
        [0.5, 0.5]

    Cost:
        One distribution function for each level.

    References:
        Song and Dhariwal, "Improved Techniques for Training Consistency Models", 2023, arXiv:2310.14189.
    """
    _checks.check_on_host("level_probabilities", grid)
    levels = as_levels("level_probabilities: grid", grid)
    _checks.check_scalar("level_probabilities: mean", mean)
    _checks.check_scalar("level_probabilities: std", std, low=0, open_low=True)
    place = (np.log(levels) - float(mean)) / (math.sqrt(2) * float(std))
    mass = -np.diff([math.erf(v) for v in place])
    if not mass.sum() > 0:
        raise ValueError(f"level_probabilities: the law of mean {mean} and std {std} does not reach the grid.")
    return mass / mass.sum()
