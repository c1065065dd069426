"""The page of steers: their hooks, what one may say about itself, and who asks.

A steer is a tree with the hooks init, time, mid, post, final of `Steer`; `Hooks` has each in neutral form. Optional:

    name                   default           asked by              meaning
    stochastic             False             js.sample, Chain      whether a hook draws: a run then wants a key
    wrap(g, denoiser)      the denoiser      the runner, Chain     the denoiser of this row, for example with new leaves
    reorder(g, index)      g                 Chain                 the state after another steer reordered the particles
                                                                   along axis 0, by [P] integers

The runner's side of it, below every room, is `jsamp/_core/_steering.py`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax

from jsamp._core._pytree import pytree
from jsamp._core._steering import check_steer, reordered, stochastic, wrapped


@runtime_checkable
class Steer(Protocol):
    """Hooks that act on a running plan; give one to `js.sample(..., steer=)`. Structural: nothing is inherited.

    init(key, x, plan) -> g                               the steer's own state, any tree
    wrap(g, denoiser) -> denoiser                         optional: the denoiser of this row, e.g. one with new leaves
    time(g, x, t) -> t                                    the time the denoiser is asked at
    mid(key, g, x, prediction, info) -> (g, x, prediction, index)
        between evaluation and transition; `index` is None, or [P] integers by which x and the prediction have just been
        reordered along axis 0, so that the solver reorders its own history too
    post(key, g, x, info) -> (g, x, keep_history)         after the transition; keep_history=False makes the next row
                                                          first order, when x was moved so far that the past is stale
    final(g, x) -> (x, report)                            after the last row; the report is returned in `info.report`

    `info` is a `js.solve.StepInfo`. Derive from `Hooks` to get every hook's neutral form.

    Example:
        >>> import jsamp as js
        >>> isinstance(js.steer.chain(), js.steer.Steer)
        True
    """

    def init(self, key: Any, x: Any, plan: Any) -> Any: ...
    def time(self, g: Any, x: Any, t: Any) -> Any: ...
    def mid(self, key: Any, g: Any, x: Any, prediction: Any, info: Any) -> tuple[Any, Any, Any, Any]: ...
    def post(self, key: Any, g: Any, x: Any, info: Any) -> tuple[Any, Any, Any]: ...
    def final(self, g: Any, x: Any) -> tuple[Any, Any]: ...


@pytree
class Hooks:
    """Neutral hooks: a mixin that leaves the run as it is. Override the ones a steer needs.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.steer.Hooks().post(None, (), jnp.ones(1), None)[2]
        True
    """

    def init(self, key: Any, x: Any, plan: Any) -> Any:
        """No state."""
        return ()

    def wrap(self, g: Any, denoiser: Any) -> Any:
        """The denoiser as it is."""
        return denoiser

    def time(self, g: Any, x: Any, t: Any) -> Any:
        """The row's own time."""
        return t

    def mid(self, key: Any, g: Any, x: Any, prediction: Any, info: Any) -> tuple[Any, Any, Any, Any]:
        """Nothing moves."""
        return g, x, prediction, None

    def post(self, key: Any, g: Any, x: Any, info: Any) -> tuple[Any, Any, Any]:
        """Nothing moves."""
        return g, x, True

    def final(self, g: Any, x: Any) -> tuple[Any, Any]:
        """The sample as it is, no report."""
        return x, None


@pytree
class Chain:
    """Several steers as one; made by `js.steer.chain`.

    Args:
        steers: the steers, in the order in which their hooks run.

    Example:
        >>> import jsamp as js
        >>> js.steer.Chain((js.steer.TrajectoryVariance(4),)).stochastic
        False
    """

    steers: tuple[Any, ...]

    @property
    def stochastic(self) -> bool:
        """Whether any of them draws random numbers."""
        return any(stochastic(steer) for steer in self.steers)

    def _keys(self, key):
        return [None if key is None else jax.random.fold_in(key, i) for i in range(len(self.steers))]

    def init(self, key, x, plan):
        """One state each."""
        return tuple(s.init(k, x, plan) for s, k in zip(self.steers, self._keys(key), strict=True))

    def wrap(self, g, denoiser):
        """Each wraps what the one before returned, so the last is outermost."""
        for steer, own in zip(self.steers, g, strict=True):
            denoiser = wrapped(steer, own, denoiser)
        return denoiser

    def time(self, g, x, t):
        """Each maps the time the one before returned."""
        for steer, own in zip(self.steers, g, strict=True):
            t = steer.time(own, x, t)
        return t

    def mid(self, key, g, x, prediction, info):
        """In order; reorderings compose, and reorder the states of the steers that share the particle axis."""
        states, total = list(g), None
        for i, (steer, own_key) in enumerate(zip(self.steers, self._keys(key), strict=True)):
            states[i], x, prediction, index = steer.mid(own_key, states[i], x, prediction, info)
            if index is not None:
                total = index if total is None else total[index]
                for j, other in enumerate(self.steers):
                    states[j] = states[j] if j == i else reordered(other, states[j], index)
        return tuple(states), x, prediction, total

    def post(self, key, g, x, info):
        """In order; the history is kept if all agree."""
        states, keep = [], True
        for steer, own, own_key in zip(self.steers, g, self._keys(key), strict=True):
            own, x, kept = steer.post(own_key, own, x, info)
            states.append(own)
            keep = kept if keep is True else keep if kept is True else keep & kept
        return tuple(states), x, keep

    def final(self, g, x):
        """In order; a tuple of reports."""
        reports = []
        for steer, own in zip(self.steers, g, strict=True):
            x, report = steer.final(own, x)
            reports.append(report)
        return x, tuple(reports)


def chain(*steers: Any) -> Chain:
    """Several steers as one: hooks run in the order given, reports come back as a tuple.

    Args:
        *steers: objects with the hooks of `Steer`. A steer whose state follows particles may have
            `reorder(g, index) -> g`, called when another steer reorders them.

    Returns:
        A steer.

    Raises:
        TypeError: for an object without the hooks.

    Example:
        >>> import jsamp as js
        >>> len(js.steer.chain(js.steer.TrajectoryVariance(5), js.steer.Hooks()).steers)
        2
    """
    for i, steer in enumerate(steers):
        check_steer(f"chain: steer {i}", steer)
    return Chain(steers)
