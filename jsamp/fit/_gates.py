"""Gates of channels: how they close with the epochs, what they let through, and the model that remains behind them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Array


@pytree
class ChannelSchedule:
    """Plan the epochs of one size: settle, blend the scores into fixed weights, fade channels out, then train on.

    Calling it with an epoch gives (mix, open). mix is the part of each gate that depends on the row: 1 at first for the
    first size, 1/2 for later ones, and 0 at last. open multiplies the channels that are to go: 1 until the blending is
    done, and 0 `fade` epochs later. The first size has nothing to fade out, and blends all the while.

    Args:
        settle: epochs before anything changes (static).
        blend: epochs in which mix falls to 0 (static).
        fade: epochs in which open falls to 0 (static).
        patience: epochs without a better held-out error after which a size is done (static).
        epochs: most epochs of a size, > settle + blend + fade (static).

    Raises:
        TypeError: for counts that are no Python integers.
        ValueError: for counts below 1, or epochs <= settle + blend + fade.

    Example:
        >>> import jsamp as js
        >>> schedule = js.fit.ChannelSchedule(settle=2, blend=2, fade=2)
        >>> [tuple(map(float, schedule(epoch))) for epoch in (0, 2, 4, 6)]
        [(0.5, 1.0), (0.25, 1.0), (0.0, 0.5), (0.0, 0.0)]

    Cost:
        A few scalars.
    """

    settle: int = static(default=25, convert=_fields.count())
    blend: int = static(default=10, convert=_fields.count())
    fade: int = static(default=10, convert=_fields.count())
    patience: int = static(default=20, convert=_fields.count())
    epochs: int = static(default=1000, convert=_fields.count())

    def __post_init__(self):
        if self.epochs <= self.warm:
            raise ValueError(
                f"ChannelSchedule: epochs must exceed settle + blend + fade = {self.warm}, got {self.epochs}."
            )

    @property
    def warm(self) -> int:
        """Epochs until the gates are at rest."""
        return self.settle + self.blend + self.fade

    def __call__(self, epoch: Any, first: Any = False) -> tuple[jax.Array, jax.Array]:
        """Numbers (mix, open) of an epoch, counted from 0, of the first size or a later one."""
        _checks.check_scalar("ChannelSchedule: epoch", epoch, low=0)
        past = jnp.asarray(epoch, jnp.float32) + 1 - self.settle
        falling = lambda past, over: 1 - jnp.clip(past / over, 0, 1)
        mix = jnp.where(first, falling(past, self.blend + self.fade), falling(past, self.blend) / 2)
        return mix, falling(past - self.blend, self.fade)


class Gate(NamedTuple):
    """Hold what stands between the channels and the task; all of it is traced."""

    mix: Any  # scalar: the part of the row's own scores
    open: Any  # [C]: 1 for a channel that is kept, 0 for one that is gone
    weight: Any  # [C]: the fixed part of the scores
    center: Any  # [C]: what a closed channel is replaced by


def through(gate: Gate, scores: jax.Array, X: jax.Array) -> jax.Array:
    """Pass rows [n, C] with scores [n, C] through a gate."""
    shown = gate.open[None] * X + (1 - gate.open[None]) * gate.center[None]
    return (gate.mix * scores + (1 - gate.mix) * gate.weight[None]) * shown


def scores_of(score: Any, X: jax.Array) -> jax.Array:
    """Scores in (0, 2) of rows [n, C]; 1 is neutral."""
    return 2 * jax.nn.sigmoid(score(X))


@pytree
class Channels:
    """Predict targets from some channels; made by `choose_channels`.

    Channels that were not chosen are never read: NaN may stand there.

    Args:
        task: callable tree, scaled rows [n, C] -> scaled targets [n, M].
        mask: [C], True for a channel that is chosen.
        weight: [C] gates.
        center: [C] medians, in scaled units.
        scale: [C] units of the channels.
        unit: [M] units of the targets, or a scalar for targets that are a vector.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> one = jnp.ones(2)
        >>> double = js.fit.Channels(lambda X: 2 * X[:, :1], one > 0, one, 0 * one, one, jnp.ones(1))
        >>> double(jnp.array([[3.0, 4.0]])).tolist()
        [[6.0]]

    Cost:
        That of the task.
    """

    task: Any = field(convert=_fields.callable_as("task(X)"))
    mask: Any
    weight: Any
    center: Any
    scale: Any
    unit: Any

    def __post_init__(self):
        parts = {name: getattr(self, name) for name in ("mask", "weight", "center", "scale")}
        for name, value in (*parts.items(), ("unit", self.unit)):
            if not hasattr(value, "shape"):
                raise TypeError(f"Channels: {name} must be an array, got {_checks.shown(value)}.")
            if name != "mask":
                _checks.check_finite(f"Channels: {name}", value)
        shapes = {name: value.shape for name, value in parts.items()}
        if len(set(shapes.values())) != 1 or len(self.mask.shape) != 1:
            raise ValueError(f"Channels: mask, weight, center and scale must all be [C], got {shapes}.")
        if len(self.unit.shape) > 1 or self.mask.dtype != bool:
            raise ValueError(
                f"Channels: mask must be boolean and unit [M] or a scalar, got {self.mask.dtype}, {self.unit.shape}."
            )

    @property
    def index(self) -> np.ndarray:
        """The chosen channels, in increasing order."""
        if _checks.is_traced(self.mask):
            raise TypeError("Channels.index: the mask is traced, and its count is not known. Use the mask.")
        return np.flatnonzero(self.mask)

    def __call__(self, X: Array) -> jax.Array:
        """Targets [n, M] or [n] of rows [n, C]."""
        if jnp.ndim(X) != 2 or jnp.shape(X)[1] != self.mask.shape[0]:
            raise ValueError(f"Channels: X must be [n, {self.mask.shape[0]}], got shape {jnp.shape(X)}.")
        X = jnp.asarray(X, self.scale.dtype)
        shown = jnp.where(self.mask[None], X / self.scale[None], self.center[None])
        found = self.task(self.weight[None] * shown)
        return found[:, 0] * self.unit if jnp.ndim(self.unit) == 0 else found * self.unit[None]
