"""A model as leaves: which are trained, which travel along as arrays, which are structure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import is_number


class Layout(NamedTuple):
    """Hold the static part of a model: its structure, and the leaves that are not numbers, with their places."""

    structure: Any
    fixed: tuple[tuple[int, Any], ...]

    def build(self, numbers: Sequence[Any]) -> Any:
        """Return the model with these leaves."""
        leaves, fixed = list(numbers), dict(self.fixed)
        for place in sorted(fixed):
            leaves.insert(place, fixed[place])
        return jax.tree.unflatten(self.structure, leaves)

    def masked(self, numbers: Sequence[Any], chosen: Sequence[int]) -> Any:
        """Return a tree of the model's structure that holds the chosen leaves alone, None elsewhere."""
        wanted = set(chosen)
        leaves: list[Any] = [leaf if k in wanted else None for k, leaf in enumerate(numbers)]
        for place, _ in self.fixed:
            leaves.insert(place, None)
        return jax.tree.unflatten(self.structure, leaves)


def take_apart(model: Any, *, counts: bool = False) -> tuple[Layout, list[Any]]:
    """Return the layout of a model and its leaves that are numbers; with `counts` plain integers are such too."""
    leaves, structure = jax.tree.flatten(model)
    numbers = [is_number(leaf, counts=counts) for leaf in leaves]
    fixed = tuple((k, leaf) for k, leaf in enumerate(leaves) if not numbers[k])
    return Layout(structure, fixed), [leaf for k, leaf in enumerate(leaves) if numbers[k]]


def trained_by(who: str, model: Any, player: int | None, trainable: Callable | None) -> tuple[int, ...]:
    """Return the places, among the numbers of a model, of the leaves that one loss trains."""
    if player is not None and type(model) is tuple and not 0 <= player < len(model):
        raise ValueError(f"{who}: the loss trains player {player} of a tuple of {len(model)}.")
    flags, variable = [], _nnx_variable()
    nodes = jax.tree_util.tree_leaves_with_path(
        model, is_leaf=lambda v: variable is not None and isinstance(v, variable)
    )
    for path, node in nodes:
        belongs = player is None or type(model) is not tuple or path[0] == jax.tree_util.SequenceKey(player)
        for inner, leaf in jax.tree_util.tree_leaves_with_path(node):
            if not is_number(leaf):
                continue
            chosen = isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.inexact)
            chosen = chosen and (variable is None or not isinstance(node, variable) or _is_parameter(node))
            if trainable is not None:
                chosen = chosen and bool(trainable(jax.tree_util.keystr((*path, *inner)), leaf))
            flags.append(belongs and chosen)
    found = tuple(k for k, flag in enumerate(flags) if flag)
    if not found:
        raise ValueError(
            f"{who}: model has no floating array to train. A bare function hides its arrays: pass an nnx or equinox "
            f"module, a dictionary of arrays in jax.tree_util.Partial(apply, params), or another trainable."
        )
    return found


def _nnx_variable() -> Any:
    """The class of nnx's variables where nnx is in use; nothing is imported for it."""
    nnx = sys.modules.get("flax.nnx")
    return None if nnx is None else nnx.Variable


def _is_parameter(variable: Any) -> bool:
    return isinstance(variable, sys.modules["flax.nnx"].Param)


def as_decay(who: str, decay: Any) -> Any:
    """Return a moving average's decay: None, a number in [0, 1), or a callable of the step."""
    if decay is None or callable(decay):
        return decay
    if isinstance(decay, (bool, str, list)) or np.ndim(decay) or not 0 <= float(decay) < 1:
        raise ValueError(f"{who} must be a number in [0, 1) or a function of the step, got {decay!r}.")
    return float(decay)


def decay_at(name: str, decay: Any, step: jax.Array) -> jax.Array:
    """Evaluate the decay of a moving average at one step, or refuse a function that gives no number."""
    value = jnp.asarray(decay(step) if callable(decay) else decay, jnp.float32)
    if value.shape:
        raise TypeError(f"{name}(step) must be one number, got shape {value.shape}.")
    return value
