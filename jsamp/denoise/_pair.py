"""Several denoisers at one point: in one network call when they share their network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_number
from jsamp._core._pytree import pytree, static
from jsamp.denoise._protocol import check_denoiser, kick_of


@pytree
class Joint:
    """Denoisers evaluated together; made by `join`. Leaves that they share are held once.

    `rest` holds the other denoisers or, when all have one structure, only their leaves at `places`, where they differ.
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
        """Empty when batched: leaves at `places` belong to this structure, so no row may change what is inside."""
        return None if self.places is None else ()

    def branch_of_rows(self, plan: Any) -> None:
        """None: it stays as it is on every row."""
        return None

    def __call__(self, x, t, *, key=None) -> list[Any]:
        """The prediction of each."""
        found = self._separate(x, t, key) if self.places is None else self._batched(self.places, x, t, key)
        for prediction in found:
            if kick_of(prediction) is not None:
                raise TypeError("guidance mixes predictions, and a kick is not one: put DPS, CFGpp, ... outermost.")
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


def join(who: str, **denoisers: Any) -> Joint:
    """Denoisers as one, or a refusal that names the one which is not a denoiser."""
    for name, denoiser in denoisers.items():
        check_denoiser(f"{who}: {name}", denoiser)
    first, *rest = denoisers.values()
    differing = [_differing(first, other) for other in rest]
    if any(places is None for places in differing):
        return Joint(first, tuple(rest))
    union = tuple(sorted(set().union(*differing)))  # pyright: ignore[reportArgumentType]
    leaves = tuple([jax.tree.leaves(other)[i] for i in union] for other in rest)
    return Joint(first, leaves, union)


def _differing(first: Any, other: Any) -> list[int] | None:
    """Where two denoisers of one structure hold different leaves; None when they cannot be stacked."""
    a, structure = jax.tree.flatten(first)
    b, others = jax.tree.flatten(other)
    if structure != others:
        return None
    places = []
    for i, (mine, theirs) in enumerate(zip(a, b, strict=True)):
        if mine is theirs or (np.ndim(mine) == 0 and not isinstance(mine, jax.Array) and mine == theirs):
            continue
        try:
            shape = np.broadcast_shapes(np.shape(mine), np.shape(theirs))
        except ValueError:
            return None
        if shape != np.shape(mine) or jnp.result_type(mine) != jnp.result_type(theirs):
            return None
        places.append(i)
    return places


def check_scale(who: str, scale: Any) -> Any:
    """A weight of guidance: a finite number or array, or a callable tree of t."""
    if callable(scale):
        return as_tree(who, scale, "scale(t)")
    check_number(who, scale)
    return scale


def weigh(scale: Any, t: Any, leaf: Any) -> Any:
    """The weight at t against a leaf of the state: its axes are the leaf's leading axes."""
    w = jnp.asarray(scale(t) if callable(scale) else scale, leaf.dtype)
    return w.reshape(w.shape + (1,) * (leaf.ndim - w.ndim))


def extrapolate(scale: Any, t: Any, towards: Any, reference: Any) -> Any:
    """`towards`, with x0 and eps extrapolated away from a reference: reference + scale (towards - reference).

    From the nearer end, so that a scale of 1 gives `towards` and a scale of 0 the reference, bit for bit.
    """

    def mix(c, u):
        w = weigh(scale, t, c)
        near = w >= 0.5
        return jnp.where(near, c, u) + jnp.where(near, w - 1, w) * (c - u)

    x0, eps = (jax.tree.map(mix, getattr(towards, part), getattr(reference, part)) for part in ("x0", "eps"))
    return towards._replace(x0=x0, eps=eps)
