"""Several denoisers at one point, in one network call when they share their network; weights of guidance."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._pytree import pytree, static
from jsamp._core._sample_axes import per_sample
from jsamp.denoise._protocol import check_denoiser, kick_of
from jsamp.noise._levels import check_same_levels


@pytree
class Joint:
    """Evaluate several denoisers together; made by `join`. Leaves that they share are held once.

    Args:
        first: the first denoiser.
        rest: the other denoisers or, when all have one structure, only their leaves at `places`, where they differ.
        places: indices of those leaves; None where the denoisers are called one by one (static).
    """

    first: Any
    rest: tuple[Any, ...]
    places: tuple[int, ...] | None = static(default=None)

    @property
    def schedule(self):
        """The schedule of the first denoiser."""
        return self.first.schedule

    @property
    def branches(self):
        """() when the denoisers run as one batch: their leaves are stacked by position, so none may be swapped."""
        return None if self.places is None else ()

    def branch_of_rows(self, plan: Any) -> None:
        """None: what is inside stays as it is on every row."""
        return None

    def __call__(self, x, t, *, key=None) -> list[Any]:
        """Return the prediction of each."""
        found = self._separate(x, t, key) if self.places is None else self._batched(self.places, x, t, key)
        refuse_kicks(*found)
        return found

    def _separate(self, x, t, key):
        return [denoiser(x, t, key=key) for denoiser in (self.first, *self.rest)]

    def _batched(self, places, x, t, key):
        leaves, structure = jax.tree.flatten(self.first)
        own = [jnp.asarray(leaves[i]) for i in places]
        others = zip(*self.rest, strict=True)
        stacked = [
            jnp.stack([mine, *(jnp.broadcast_to(o, mine.shape) for o in theirs)])
            for mine, theirs in zip(own, others, strict=True)
        ]

        def call(changed):
            for i, leaf in zip(places, changed, strict=True):
                leaves[i] = leaf
            return jax.tree.unflatten(structure, leaves)(x, t, key=key)

        count = 1 + len(self.rest)
        if not stacked:
            return [call([])] * count
        found = jax.vmap(call)(stacked)
        return [jax.tree.map(lambda v, k=k: v[k], found) for k in range(count)]


def refuse_kicks(*predictions: Any) -> None:
    """Refuse to mix predictions that hold a kick: it would be lost."""
    if any(kick_of(prediction) is not None for prediction in predictions):
        raise TypeError("guidance mixes predictions, and a kick is not one: put DPS, CFGpp, ... outermost.")


def join(who: str, **denoisers: Any) -> Joint:
    """Make several denoisers one, or refuse: name the one that is no denoiser, or whose schedule has other levels."""
    for name, denoiser in denoisers.items():
        check_denoiser(f"{who}: {name}", denoiser)
    (base, first), *others = denoisers.items()
    for name, other in others:
        check_same_levels(f"{who}: {name}", other.schedule, base, first.schedule)
    rest = [other for _, other in others]
    differing = [_differing(first, other) for other in rest]
    if any(places is None for places in differing):
        return Joint(first, tuple(rest))
    union = tuple(sorted(set().union(*differing)))  # pyright: ignore[reportArgumentType]
    leaves = tuple([jax.tree.leaves(other)[i] for i in union] for other in rest)
    return Joint(first, leaves, union)


def _differing(first: Any, other: Any) -> list[int] | None:
    """Find the leaves in which two denoisers of one structure differ; None when they cannot be stacked."""
    a, structure = jax.tree.flatten(first)
    b, others = jax.tree.flatten(other)
    if structure != others:
        return None
    places = []
    for i, (mine, theirs) in enumerate(zip(a, b, strict=True)):
        plain = np.ndim(mine) == 0 and not isinstance(mine, jax.Array) and not isinstance(theirs, jax.Array)
        if mine is theirs or (plain and mine == theirs):
            continue
        try:
            shape = np.broadcast_shapes(np.shape(mine), np.shape(theirs))
        except ValueError:
            return None
        if shape != np.shape(mine) or jnp.result_type(mine) != jnp.result_type(theirs):
            return None
        places.append(i)
    return places


def weights(scale: Any, t: Any, x: Any) -> Any:
    """The weight at t for every leaf of x: one for all, or a tree with one for each part of x.

    The axes of a weight are leading axes of its leaf: one number for each sample of a batch.
    """
    value = scale(t) if callable(scale) else scale
    try:
        return jax.tree.map(lambda w, part: jax.tree.map(lambda leaf: _spread(w, leaf), part), value, x)
    except (TypeError, ValueError) as error:
        if jax.tree_util.all_leaves([value]):
            raise
        raise ValueError(
            f"scale: weights with the structure {jax.tree.structure(value)} do not fit x of {jax.tree.structure(x)}. "
            f"Give one weight, or one for each part of x."
        ) from error


def _spread(weight, leaf):
    weight = jnp.asarray(weight, leaf.dtype)
    fits = all(size in (1, n) for size, n in zip(weight.shape, leaf.shape, strict=False))
    if weight.ndim > leaf.ndim or not fits:
        raise ValueError(
            f"scale: weights of shape {weight.shape} do not fit x of shape {leaf.shape}. Give one number, or one for "
            f"each sample over leading axes."
        )
    return per_sample(weight, leaf)


def scaled(scale: Any, t: Any, tree: Any) -> Any:
    """A tree times the weight at t."""
    return jax.tree.map(lambda w, v: w * v, weights(scale, t, tree), tree)


def extrapolate(scale: Any, t: Any, towards: Any, reference: Any) -> Any:
    """`towards`, with x0 and eps extrapolated away from a reference: reference + scale (towards - reference).

    From the nearer end, so that a scale of 1 gives `towards` and a scale of 0 the reference, bit for bit.
    """

    def mix(w, c, u):
        near = w >= 0.5
        return jnp.where(near, c, u) + jnp.where(near, w - 1, w) * (c - u)

    weight = weights(scale, t, towards.x0)
    x0, eps = (jax.tree.map(mix, weight, getattr(towards, p), getattr(reference, p)) for p in ("x0", "eps"))
    return towards._replace(x0=x0, eps=eps)
