"""Pieces of the steers of populations: the particle axis, the rows on which they act, taking particles."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._checks import check_scalar, shown


def particles(who: str, x: Any, *, low: int = 2) -> int:
    """Count the particles on axis 0 of x, or refuse."""
    sizes = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or (count := sizes.pop()) < low:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        raise ValueError(f"{who}: axis 0 of x holds the particles, at least {low} of them; got shapes {shapes}.")
    return count


def check_noise(who: str, plan: Any) -> None:
    """Refuse a plan that adds no noise: particles of one parent would stay equal for ever."""
    if not plan.stochastic:
        raise ValueError(
            f"{who}: this plan adds no noise, so particles of one parent would stay equal. Use a stochastic plan: "
            f"js.solve.ddpm, ddim(eta=1.0), dpmpp(tau=1.0), sa_solver, ..."
        )


def check_rows(who: str, every: Any, start: Any, stop: Any) -> None:
    """Refuse rows that are not counts."""
    for name, value, low in (("every", every, 1), ("start", start, 0), ("stop", stop, 0)):
        if value is None and name == "stop":
            continue
        check_scalar(f"{who}: {name}", value, low=low)
        if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
            raise TypeError(f"{who}: {name} counts rows and must be an integer, got {shown(value)}.")


def active(info: Any, every: Any, start: Any, stop: Any) -> Any:
    """Whether a row is one of start, start + every, ... below stop, and begins a step."""
    chosen = (info.index >= start) & ((info.index - start) % every == 0) & jnp.logical_not(info.stage)
    return chosen if stop is None else chosen & (info.index < stop)


def per_particle(who: str, values: Any, count: int, dtype: Any) -> Any:
    """Return one number for each particle, or refuse."""
    if not hasattr(values, "dtype") or jnp.iscomplexobj(values):
        raise TypeError(f"{who} must return an array of real numbers, [{count}]; got {shown(values)}.")
    values = jnp.asarray(values, dtype)
    if values.shape != (count,):
        raise ValueError(f"{who} must return one number for each particle, [{count}]; got shape {values.shape}.")
    return values


def take(tree: Any, index: Any) -> Any:
    """Reorder the particles of every leaf that has them on axis 0."""
    leaves, structure = jax.tree.flatten(tree)
    follow = [k for k, leaf in enumerate(leaves) if jnp.ndim(leaf) and leaf.shape[0] == index.shape[0]]
    moved = _tree.take([leaves[k] for k in follow], index, [0] * len(follow))
    for k, leaf in zip(follow, moved, strict=True):
        leaves[k] = leaf
    return jax.tree.unflatten(structure, leaves)


def total(tree: Any) -> Any:
    """Sum a tree over all axes but that of the particles, [P]."""
    return sum(jnp.sum(leaf.reshape(leaf.shape[0], -1), axis=1) for leaf in jax.tree.leaves(tree))
