"""How surrogates are fitted: by the one loop of the room, with data as leaves and optimisers that are remembered."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from jsamp._core import _checks
from jsamp._core._types import Key
from jsamp.fit._minimise import minimise
from jsamp.fit._weights_prior import Network


def settle(key: Key, loss: Any, given: Any, model: Any, optimiser: Any, steps: int) -> Any:
    """Minimise loss(given, model), a scalar; what is given is a leaf of the program, never part of it."""
    found = minimise(key, jax.tree_util.Partial(_of, loss, given), model, _nothing, optimiser=optimiser, steps=steps)
    return found.x


def _of(loss, given, key, model, batch):
    return loss(given, model), None


def _nothing(step):
    return np.zeros(1, np.float32)


@functools.cache
def lbfgs() -> Any:
    """The one L-BFGS of the room: programs are remembered by the optimiser object."""
    # Once converged in float32 a search cannot succeed: it would spend all its steps every time.
    import optax

    return optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=8))


@functools.cache
def adam(rate: float, steps: int) -> Any:
    """The one Adam of a learning rate that falls to zero along a cosine, so that a fit ends at rest."""
    import optax

    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def as_network(name: str, value: Any) -> Network:
    """Return a `Network`, the default one for None."""
    if value is not None and not isinstance(value, Network):
        raise TypeError(f"{name} must be a js.fit.Network, got {_checks.shown(value)}.")
    return Network() if value is None else value


def as_rate(name: str, value: Any) -> float:
    """Return one known number > 0."""
    _checks.check_scalar(name, value, low=0.0, open_low=True)
    if _checks.is_traced(value):
        raise TypeError(f"{name} must be a known number: it is part of the program.")
    return float(value)
