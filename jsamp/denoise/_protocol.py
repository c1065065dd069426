"""The page of denoisers: what one returns, what it may say about itself, and who asks.

A denoiser is a tree with a `schedule`, called as `denoiser(x, t, *, key=None) -> Prediction` (or `Guided`). These names
are optional; a user's own denoiser may have them as class attributes, properties or methods:

    name                     default   asked by          meaning
    kicks                    False     js.sample,        whether predictions hold a `Kick`: plans with stages or a
                                       js.solve.kernel   corrector then keep room for one
    remembers                False     js.steer.Memory   whether it wants its own by-product `aux` of the row before, in
                                                         its field `memory`
    at_row(index)            itself    the runner        the denoiser (or weight) as it is on a row of the plan; keeps
                                                         the structure of the tree
    check_plan(who, plan)    passes    the runner        refuses a known plan that it was not made for
    branches                 None      the runner        denoisers, one of which it stands for on each row; (): leave
                                                         what is inside alone
    branch_of_rows(plan)     None      the runner        [R] integers, the branch of each row; None: not known before
                                                         the run
    parts(x, t, *, key)      none      Rescale           the guided prediction, and the conditional one it came from

A prediction may have, beside x0 and eps:

    kick                     None      the runner, Joint, Interval, SMC    a `Kick`
    aux                      None      js.steer.Memory, SMC, `keep`        any by-product

All but `parts` are asked of every node of the denoiser's tree, so wrappers need not pass them on. What the guidances of
this room inherit (`Guidance`, `Measurement`, `Wrapper`) is a matter of this room and part of no protocol.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from jsamp._core._checks import check_callable
from jsamp._core._types import Key


class Prediction(NamedTuple):
    """Hold the clean signal and the noise that a denoiser sees in (x, t), with x = alpha x0 + sigma eps.

    Both are formed from the network's native output, so neither is recovered from the other by a difference that
    cancels.

    Args:
        x0: estimate of E[x0 | x_t = x], of the structure of x.
        eps: estimate of E[eps | x_t = x], of the structure of x.

    Example:
        >>> import jsamp as js
        >>> js.Prediction(x0=1.0, eps=0.0).x0
        1.0
    """

    x0: Any
    eps: Any


class Kick(NamedTuple):
    """Move x after a step, unseen by the solver's history: x <- x + kick.x + alpha_next kick.x0.

    Corrections that papers define once per step (DPS, CFG++) are kicks. Multi-stage steps take the kick of their first
    evaluation, when the step ends.

    Args:
        x: move in units of x, of the structure of x, or None.
        x0: move in units of x0, or None.

    Example:
        >>> import jsamp as js
        >>> js.denoise.Kick(x=1.0).x0 is None
        True
    """

    x: Any = None
    x0: Any = None


class Guided(NamedTuple):
    """Hold a `Prediction` and more: a kick of the trajectory, or by-products for a steer or for `keep`.

    A denoiser whose predictions hold a kick says so by a class attribute `kicks = True`.

    Args:
        x0: estimate of E[x0 | x_t = x].
        eps: estimate of E[eps | x_t = x].
        kick: a `Kick`, or None.
        aux: any tree, or None.

    Example:
        >>> import jsamp as js
        >>> js.denoise.Guided(x0=1.0, eps=0.0).aux is None
        True
    """

    x0: Any
    eps: Any
    kick: Any = None
    aux: Any = None


@runtime_checkable
class DenoiserLike(Protocol):
    """Any tree with a `schedule` that maps (x, t, *, key) to a `Prediction` (or a `Guided` one) is a denoiser.

    What it may have besides: `kicks` (False), whether its predictions hold a kick; `remembers` (False) with a field
    `memory`, for `js.steer.Memory`; `at_row(index)`, the denoiser on a row of the plan; `check_plan(who, plan)`, which
    refuses a plan that it was not made for; `branches` and `branch_of_rows(plan)`, denoisers that it stands for on
    different rows; `parts(x, t, key=)`, the guided and the conditional prediction, for `js.denoise.Rescale`.

    Example:
        >>> import jsamp as js
        >>> isinstance(js.Denoiser(lambda x, t: x, js.noise.VP(), predicts="x0"), js.denoise.DenoiserLike)
        True
    """

    @property
    def schedule(self) -> Any: ...
    def __call__(self, x: Any, t: Any, *, key: Key | None = None) -> Prediction: ...


class Wrapper:
    """A base of denoisers around one other: a class has a field `denoiser`, whose schedule is its own."""

    denoiser: Any

    @property
    def schedule(self):
        """The schedule of the denoiser inside."""
        return self.denoiser.schedule


def kicks(denoiser: Any) -> bool:
    """Whether a denoiser, or one inside it, says that its predictions hold a kick."""
    return bool(nodes(denoiser, lambda node: getattr(node, "kicks", False) is True))


def remembers(node: Any) -> bool:
    """Whether a denoiser wants its by-product of the row before."""
    return getattr(node, "remembers", False) is True


def branches(node: Any) -> bool:
    """Whether a denoiser stands for others on different rows."""
    return getattr(node, "branches", None) is not None and hasattr(node, "branch_of_rows")


def at_row(denoiser: Any, index: Any) -> Any:
    """Tell every node that asks for it which row of the plan is running."""
    asks = lambda node: hasattr(node, "at_row")
    return jax.tree.map(lambda node: node.at_row(index) if asks(node) else node, denoiser, is_leaf=asks)


def kick_of(prediction: Any) -> Kick | None:
    """The kick that a prediction holds, or None."""
    return getattr(prediction, "kick", None)


def aux_of(prediction: Any) -> Any:
    """The by-product that a prediction brings, or None."""
    return getattr(prediction, "aux", None)


def nodes(denoiser: Any, wanted: Callable[[Any], bool]) -> list[Any]:
    """The outermost nodes of a denoiser's tree for which `wanted` holds."""
    return [node for node in jax.tree.leaves(denoiser, is_leaf=wanted) if wanted(node)]


def check_denoiser(name: str, denoiser: Any, *, schedule: bool = True) -> None:
    """Refuse what is no denoiser; bare networks get the remedy.

    With `schedule=False` a callable (x, t, *, key) without a schedule passes, as it does in a run.
    """
    remedy = "Wrap the network: js.Denoiser(network, schedule, predicts='eps')."
    if isinstance(denoiser, type):
        raise TypeError(f"{name} must be a denoiser, got the class {denoiser.__name__}. Pass an instance of it.")
    check_callable(name, denoiser, "denoiser(x, t)")
    if hasattr(denoiser, "schedule"):
        return
    if schedule or not _takes_key(denoiser):
        raise TypeError(f"{name} must be a denoiser, got {type(denoiser).__name__} without a schedule. {remedy}")


def _takes_key(function: Any) -> bool:
    """Whether a callable can be called as function(x, t, key=key), as far as its signature tells."""
    try:
        inspect.signature(function).bind(None, None, key=None)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def check_prediction(who: str, prediction: Any, x: Any) -> None:
    """Refuse what a denoiser must not return: anything but x0 and eps of the structure and shapes of x."""
    if not (hasattr(prediction, "x0") and hasattr(prediction, "eps")):
        raise TypeError(
            f"{who}: the denoiser must return js.Prediction(x0, eps), got {type(prediction).__name__}. Wrap a network "
            f"that returns an array: js.Denoiser(network, schedule, predicts='eps')."
        )
    shapes = lambda tree: (jax.tree.structure(tree), [jax.numpy.shape(v) for v in jax.tree.leaves(tree)])
    for part in ("x0", "eps"):
        got, wanted = shapes(getattr(prediction, part)), shapes(x)
        if got != wanted:
            raise TypeError(f"{who}: the prediction's {part} must be like x, {wanted[1]}; got {got[1]} in {got[0]}.")
