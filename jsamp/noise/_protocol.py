"""The page of schedules: what one must have, what it may say about itself, and who asks.

A schedule has the methods and ends of `Schedule`. These names are optional:

    name        default          asked by              meaning
    domain      (-inf, inf)      solvers, grids, losses, lowest and highest time at which the network may be asked
                                 denoisers
    straight    False            time_grid, heun       whether x is a straight line in t (rectified flow): solvers
                                                       step in t on the velocity, and time grids run evenly down to
                                                       the noiseless time
    log_alpha   none             index_grid, TimeShift [N] the table of a network trained on N discrete steps
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_key, concrete, is_traced, shown
from jsamp._core._types import Key

End: TypeAlias = Literal["zero", "sigma_min"]
"""Where a grid ends: at zero noise, or at the least noise of its schedule."""

MOST_CHURN = np.sqrt(2)
"""How many times its level a row of `js.solve.edm` evaluates at, at most."""


@runtime_checkable
class Schedule(Protocol):
    """Noise levels as functions of time: x_t = alpha(t) x0 + sigma(t) eps, lam = log(alpha / sigma), and its inverse.

    Any object with these methods fits; nothing is inherited. `t` grows with the noise. `t_max` and `t_min` are where
    grids start and end unless told otherwise; `time(inf)` is the noiseless time. What it may have besides: `domain`,
    the times (low, high) at which the network may be asked; `straight`, whether x is a straight line in t.

    Example:
        >>> import jsamp as js
        >>> isinstance(js.noise.VP(), js.noise.Schedule)
        True
    """

    @property
    def t_max(self) -> Any: ...
    @property
    def t_min(self) -> Any: ...
    def alpha(self, t: Any) -> Any: ...
    def sigma(self, t: Any) -> Any: ...
    def lam(self, t: Any) -> Any: ...
    def time(self, lam: Any) -> Any: ...
    def prior(self, key: Key, shape: Any, dtype: Any = ...) -> Any: ...


def check_schedule(name: str, value: Any) -> None:
    """Refuse what is no schedule."""
    known = all(callable(getattr(value, method, None)) for method in ("alpha", "sigma", "lam", "time"))
    if not known or isinstance(value, type):
        raise TypeError(
            f"{name} must be a noise schedule such as js.noise.VP(), with alpha(), sigma(), lam() and time(); got "
            f"{shown(value)}."
        )


def domain(schedule: Any) -> tuple[Any, Any]:
    """Return the lowest and highest time at which the network may be asked."""
    return getattr(schedule, "domain", (-np.inf, np.inf))


def check_times(name: str, schedule: Any, t: Any, *, end: bool = False, churn: bool = False) -> None:
    """Refuse known times at which the schedule's network cannot be asked.

    An `end` may be the noiseless time. With `churn` a level at alpha = 1 may be one that `js.solve.edm` has raised.
    """
    if is_traced(t):
        return
    known, (low, high) = concrete(t), (concrete(bound) for bound in domain(schedule))
    if known is None or low is None or high is None or not np.isfinite(high):
        return
    slack = 1e-6 * max(1.0, abs(float(high)))
    below, above = known < low - slack, known > high + slack
    if end and np.any(below):
        noiseless = concrete(schedule.time(np.float64(np.inf)))
        below &= noiseless is None or known < noiseless - slack
    if churn and np.any(above) and concrete(schedule.alpha(high)) == 1:
        above &= known > MOST_CHURN * high * (1 + 1e-6)
    outside = below | above
    if np.any(outside):
        raise ValueError(
            f"{name} is {known[outside].flat[0]:.6g}, outside the schedule, whose times go from {float(low):.6g} to "
            f"{float(high):.6g}. Take times between {float(schedule.t_min):.6g} and {float(schedule.t_max):.6g}."
        )


def straight(schedule: Any) -> bool:
    """Whether x is a straight line in t, so that solvers step in t on the velocity."""
    return getattr(schedule, "straight", False) is True


def is_discrete(schedule: Any) -> bool:
    """Whether the schedule is the table of a network trained on discrete steps."""
    return hasattr(schedule, "log_alpha")


def normal_prior(key: Key, shape: Any, dtype: Any = jnp.float32, *, scale: Any = 1.0) -> Any:
    """Draw `scale` times a standard normal of one shape, or of every shape in a tree of shapes."""
    check_key(key, "prior")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"prior: dtype must be floating point, got {dtype!r}.")
    shapes, structure = jax.tree.flatten(shape, is_leaf=_is_shape)
    for one in shapes:
        if not _is_shape(one):
            raise TypeError(f"prior: shape must be a tuple of integers or a tree of such, got {shown(one)}.")
    keys = [key] if len(shapes) == 1 else jax.random.split(key, len(shapes))
    draws = [jax.random.normal(k, _as_shape(one), dtype) for k, one in zip(keys, shapes, strict=True)]
    scaled = [z if isinstance(scale, float) and scale == 1.0 else jnp.asarray(scale, dtype) * z for z in draws]
    return jax.tree.unflatten(structure, scaled)


def _is_shape(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0 for n in value)
    return isinstance(value, (int, np.integer)) or hasattr(value, "shape")


def _as_shape(value: Any) -> tuple[int, ...]:
    value = getattr(value, "shape", value)
    return (int(value),) if isinstance(value, (int, np.integer)) else tuple(value)
