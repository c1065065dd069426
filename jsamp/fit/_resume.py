"""What continues a run of `minimise`, and whether it is of the same run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._random import words
from jsamp.fit import _layout


class MinimiseState(NamedTuple):
    """Hold everything that continues a run: pass it as `state=`.

    Args:
        step: updates made.
        model: the model, or tuple of players, after them.
        loss: the tuple of losses, with what they remember.
        optimiser: the tuple of optimiser states.
        average: moving average of the trained arrays, or None.
        origin: words of the run's key, rows of its data and of a batch, which a run that goes on must share; None
            goes on with any.

    Example:
        >>> import jsamp as js
        >>> js.fit.MinimiseState(0, None, (), (), None).step
        0
    """

    step: Any
    model: Any
    loss: Any
    optimiser: Any
    average: Any
    origin: Any = None


def origin_of(key: Any, source: Any) -> np.ndarray:
    """Put together what fixes the stream of a run: the words of its key, the rows of its data and of a batch."""
    return np.array([*np.asarray(words(key)), source.rows, source.size], np.uint32)


def resumed(state: Any, steps: int) -> MinimiseState:
    """Return the state with a known step, or refuse what is none or lies beyond the run."""
    if not isinstance(state, MinimiseState):
        raise TypeError(f"minimise: state must be the info.state of an earlier run, got {type(state).__name__}.")
    if int(state.step) > steps:
        raise ValueError(f"minimise: the state is at step {int(state.step)}, the whole run is {steps} steps.")
    return state._replace(step=int(state.step))


def check_same_run(model: Any, held: Any, state: MinimiseState, origin: np.ndarray) -> None:
    """Refuse the state of another run: of another stream, model, or of optimisers and an average of other arrays."""
    made = origin if state.origin is None else np.asarray(state.origin)
    same = (np.array_equal(made[:-2], origin[:-2]), *np.equal(made[-2:], origin[-2:]))
    for name, fits in zip(("key", "number of rows", "batch size"), same, strict=True):
        if not fits:
            raise ValueError(
                f"minimise: the state is of a run with another {name}. Resume with what began the run, or begin "
                f"another stream with state._replace(origin=None)."
            )
    shapes = lambda tree: [(np.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
    parts = _layout.take_apart(state.model)[1], state.optimiser, state.average
    own = _layout.take_apart(model)[1], *held
    for name, wanted, got in zip(("model", "optimiser", "ema"), own, parts, strict=True):
        if shapes(wanted) != shapes(got):
            raise ValueError(f"minimise: the state is of a run with another {name}. Resume with what began the run.")
