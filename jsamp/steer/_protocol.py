"""The page of steers: their hooks, what one may say about itself, and who asks.

A steer is a tree with the hooks init, time, mid, post, final of `Steer`; `Hooks` has each in neutral form. Optional:

    name                   default           asked by              meaning
    stochastic             False             js.sample, Chain      whether a hook draws: a run then wants a key
    wrap(g, denoiser)      the denoiser      the runner, Chain     the denoiser of this row, for example with new leaves
    reorder(g, index)      g                 Chain                 the state after another steer reordered the particles
                                                                   along axis 0, by [P] integers
    on_noise               None              Chain                 "changes" when post puts other noise in place of
                                                                   info.noise, "reads" when it only reads it
    chooses                False             Chain                 whether `final` returns one particle, without their
                                                                   axis: in a chain it comes last

And a noise that is given to `OwnNoise` may have:

    begin(plan)            itself            OwnNoise              the noise of a run of this plan, called row by row

The runner's side of it, below every room, is `jsamp/_core/_steering.py`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax

from jsamp._core._pytree import field, pytree, register_attributes
from jsamp._core._steering import ask, check_steer, chooses, on_noise, reordered, stochastic, wrapped
from jsamp._core._types import Key


@runtime_checkable
class Steer(Protocol):
    """Hooks that act on a running plan; give one to `js.sample(..., steer=)`. Structural: nothing need be inherited.

    init(key, x, plan) -> g                               the steer's own state, any tree
    time(g, x, t) -> t                                    the time the denoiser is asked at
    mid(key, g, x, prediction, info) -> (g, x, prediction, index)
        between evaluation and transition; `index` is None, or [P] integers by which x and the prediction have just been
        reordered along axis 0, so that the solver reorders its own history too
    post(key, g, x, info) -> (g, x, keep_history)         after the transition; keep_history=False makes the next row
                                                          first order, when x was moved so far that the past is stale
    final(g, x) -> (x, report)                            after the last row; the report is returned in `info.report`

    Optional: `wrap(g, denoiser) -> denoiser`, the denoiser of this row, such as one with new leaves;
    `reorder(g, index) -> g`, the state after another steer reordered the particles; `stochastic` (False), whether a
    hook draws random numbers: then the run wants a key; `on_noise` (None), "reads" or "changes" for what `post` does
    with `info.noise`: steers of a chain are told of the noise that was drawn, so one that changes it stands alone;
    `chooses` (False), whether `final` returns one particle, without their axis: in a chain it then comes last.

    `info` is a `js.solve.StepInfo`. A steer is a JAX tree; derive from `Hooks` to get that and every neutral hook.

    Example:
        >>> import jsamp as js
        >>> isinstance(js.steer.chain(), js.steer.Steer)
        True
    """

    def init(self, key: Key, x: Any, plan: Any) -> Any: ...
    def time(self, g: Any, x: Any, t: Any) -> Any: ...
    def mid(self, key: Key, g: Any, x: Any, prediction: Any, info: Any) -> tuple[Any, Any, Any, Any]: ...
    def post(self, key: Key, g: Any, x: Any, info: Any) -> tuple[Any, Any, Any]: ...
    def final(self, g: Any, x: Any) -> tuple[Any, Any]: ...


class Hooks:
    """Leave the run as it is: neutral hooks, a base of steers that override the ones they need.

    A class that derives from it is a JAX tree, whether it is plain, a dataclass, or decorated with `js.pytree`: its
    fields or attributes are leaves; `js.static` fields, booleans, strings and functions are structure. Hooks that draw
    random numbers want the class attribute `stochastic = True`.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> class Damp(js.steer.Hooks):
        ...     def post(self, key, g, x, info):
        ...         return g, 0.5 * x, True
        >>> schedule = js.noise.VP()
        >>> plan = js.solve.ddim(schedule, js.noise.time_grid(schedule, 1))
        >>> network = js.Denoiser(lambda x, t: jnp.ones_like(x), schedule, predicts="x0")
        >>> runs = [js.sample(None, network, jnp.ones(1), plan, steer=s).x for s in (js.steer.Hooks(), Damp())]
        >>> bool(runs[1] == 0.5 * runs[0])
        True
    """

    stochastic = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register_attributes(cls)

    def init(self, key: Key, x: Any, plan: Any) -> Any:
        """Start without a state."""
        return ()

    def wrap(self, g: Any, denoiser: Any) -> Any:
        """Leave the denoiser as it is."""
        return denoiser

    def time(self, g: Any, x: Any, t: Any) -> Any:
        """Keep the row's own time."""
        return t

    def mid(self, key: Key, g: Any, x: Any, prediction: Any, info: Any) -> tuple[Any, Any, Any, Any]:
        """Move nothing."""
        return g, x, prediction, None

    def post(self, key: Key, g: Any, x: Any, info: Any) -> tuple[Any, Any, Any]:
        """Move nothing."""
        return g, x, True

    def final(self, g: Any, x: Any) -> tuple[Any, Any]:
        """Return the sample as it is, and no report."""
        return x, None


register_attributes(Hooks)


def _check_steers(name: str, steers: Any) -> None:
    if not isinstance(steers, tuple):
        raise TypeError(
            f"{name} must be a tuple of steers, got {type(steers).__name__}. Use js.steer.chain(a, b, ...)."
        )
    for i, steer in enumerate(steers):
        check_steer(f"steer {i} of a chain", steer)
    found = [(on_noise(steer), type(steer).__name__) for steer in steers if on_noise(steer) is not None]
    if len(found) > 1 and "changes" in dict(found):
        raise ValueError(
            f"a chain cannot hold {' and '.join(who for _, who in found)}: each acts on the noise that the row drew, "
            f"and knows nothing of what another puts in its place. Keep the states of a run, and score them in "
            f"another: js.steer.LogProb(path)."
        )
    choosing = [type(steer).__name__ for steer in steers if chooses(steer)]
    if len(choosing) > 1:
        raise ValueError(
            f"{name}: {' and '.join(choosing)} each choose one particle as the sample. Give one of them a final reward."
        )


@pytree
class Chain:
    """Run several steers as one; made by `js.steer.chain`.

    Args:
        steers: the steers, in the order in which their hooks run.

    Example:
        >>> import jsamp as js
        >>> js.steer.Chain((js.steer.TrajectoryVariance(4),)).stochastic
        False

    Cost:
        That of all its steers.
    """

    steers: tuple[Any, ...] = field(check=_check_steers)

    @property
    def stochastic(self) -> bool:
        """Whether any of them draws random numbers."""
        return any(stochastic(steer) for steer in self.steers)

    @property
    def on_noise(self) -> str | None:
        """Whether one of them changes the noise of a row, or reads it."""
        found = {on_noise(steer) for steer in self.steers}
        return "changes" if "changes" in found else "reads" if "reads" in found else None

    @property
    def chooses(self) -> bool:
        """Whether one of them returns one particle as the sample."""
        return any(chooses(steer) for steer in self.steers)

    def _keys(self, key):
        return [None if key is None else jax.random.fold_in(key, i) for i in range(len(self.steers))]

    def init(self, key, x, plan):
        """Begin one state for each."""
        return tuple(s.init(k, x, plan) for s, k in zip(self.steers, self._keys(key), strict=True))

    def wrap(self, g, denoiser):
        """Let each wrap what the one before returned, so the last is outermost."""
        for steer, own in zip(self.steers, g, strict=True):
            denoiser = wrapped(steer, own, denoiser)
        return denoiser

    def time(self, g, x, t):
        """Let each map the time that the one before returned."""
        for steer, own in zip(self.steers, g, strict=True):
            t = steer.time(own, x, t)
        return t

    def mid(self, key, g, x, prediction, info):
        """In order; reorderings compose, and reorder the states of the steers that share the particle axis."""
        states, total = list(g), None
        for i, (steer, own_key) in enumerate(zip(self.steers, self._keys(key), strict=True)):
            states[i], x, prediction, index = ask(steer, "mid", own_key, states[i], x, prediction, info)
            if index is not None:
                total = index if total is None else total[index]
                for j, other in enumerate(self.steers):
                    states[j] = states[j] if j == i else reordered(other, states[j], index)
        return tuple(states), x, prediction, total

    def post(self, key, g, x, info):
        """In order; the history is kept if all agree."""
        states, keep = [], True
        for steer, own, own_key in zip(self.steers, g, self._keys(key), strict=True):
            own, x, kept = ask(steer, "post", own_key, own, x, info)
            states.append(own)
            keep = kept if keep is True else keep if kept is True else keep & kept
        return tuple(states), x, keep

    def reorder(self, g, index):
        """Each follows particles that a steer outside the chain reordered."""
        return tuple(reordered(steer, own, index) for steer, own in zip(self.steers, g, strict=True))

    def final(self, g, x):
        """In order, but a steer that chooses one particle last: the others know x with all; a tuple of reports."""
        reports = [None] * len(self.steers)
        for i in sorted(range(len(self.steers)), key=lambda i: chooses(self.steers[i])):
            x, reports[i] = ask(self.steers[i], "final", g[i], x)
        return x, tuple(reports)


def chain(*steers: Any) -> Chain:
    """Make several steers one: hooks run in the order given, reports come back as a tuple.

    What chooses one particle as the sample, as `SoftValue` with `final` does, does so after all others have ended.

    Args:
        *steers: objects with the hooks of `Steer`. A steer whose state follows particles may have
            `reorder(g, index) -> g`, called when another steer reorders them.

    Returns:
        A steer.

    Raises:
        TypeError: for an object without the hooks.
        ValueError: for a steer that changes the noise of rows beside one that changes or reads it, or two steers that
            each choose one particle as the sample.

    Example:
        >>> import jsamp as js
        >>> len(js.steer.chain(js.steer.TrajectoryVariance(5), js.steer.Hooks()).steers)
        2

    Cost:
        That of all its steers.
    """
    return Chain(steers)
