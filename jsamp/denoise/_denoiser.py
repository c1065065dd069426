"""Denoisers: a network and its schedule become one callable that predicts both x0 and eps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._like import match
from jsamp._core._pytree import pytree, static
from jsamp.denoise._protocol import Prediction


def _from_eps(schedule, t, x, m):
    a, s = schedule.alpha(t), schedule.sigma(t)
    return Prediction(jax.tree.map(lambda x, e: (x - s * e) / a, x, m), m)


def _from_x0(schedule, t, x, m):
    a, s = schedule.alpha(t), schedule.sigma(t)
    return Prediction(m, jax.tree.map(lambda x, d: (x - a * d) / s, x, m))


def _from_score(schedule, t, x, m):
    s = schedule.sigma(t)
    return _from_eps(schedule, t, x, jax.tree.map(lambda g: -s * g, m))


def _from_v(schedule, t, x, m):
    a, s = schedule.alpha(t), schedule.sigma(t)
    norm = a * a + s * s
    x0 = jax.tree.map(lambda x, v: (a * x - s * v) / norm, x, m)
    return Prediction(x0, jax.tree.map(lambda x, v: (s * x + a * v) / norm, x, m))


def _from_velocity(schedule, t, x, m):
    a, da = jax.jvp(schedule.alpha, (t,), (jnp.ones_like(t),))
    s, ds = jax.jvp(schedule.sigma, (t,), (jnp.ones_like(t),))
    norm = a * ds - s * da
    x0 = jax.tree.map(lambda x, u: (ds * x - s * u) / norm, x, m)
    return Prediction(x0, jax.tree.map(lambda x, u: (a * u - da * x) / norm, x, m))


def shift_x0(schedule: Any, t: Any, prediction: Any, change: Any) -> Any:
    """The prediction with x0 moved by `change`, and eps by as much the other way, so alpha x0 + sigma eps stays."""
    dtype = jnp.result_type(*jax.tree.leaves(prediction.x0))
    t = jnp.asarray(t, dtype)
    ratio = schedule.alpha(t) / schedule.sigma(t)
    x0 = jax.tree.map(jnp.add, prediction.x0, change)
    return prediction._replace(x0=x0, eps=jax.tree.map(lambda e, c: e - ratio * c, prediction.eps, change))


REMEDY = (
    "Return the prediction alone. If the network wants a batch axis, give x one and keep t a scalar, or add it inside "
    "the model."
)
CONVERSIONS = {"eps": _from_eps, "x0": _from_x0, "v": _from_v, "score": _from_score, "velocity": _from_velocity}


@pytree
class Denoiser:
    """A network with its schedule, as one callable: `denoiser(x, t) -> Prediction(x0, eps)`.

    With a = alpha(t), s = sigma(t) and the network's output m:
    eps: x0 = (x - s m) / a. x0: eps = (x - a m) / s. v = a eps - s x0: x0 = (a x - s v) / (a^2 + s^2).
    score = -eps / s. velocity u = dx/dt = a' x0 + s' eps, solved with the schedule's own derivatives (rectified flow:
    x0 = x - t u).

    The network is called as `model(x, time_map(t))`, with t a scalar of the dtype of x. Its output is cast to the
    dtype of x, so a bfloat16 network keeps a float32 state. x may be any shape or tree, or have leading batch axes
    if the network wants them.

    Args:
        model: a callable tree (an `nnx.Module`, `jax.tree_util.Partial(linen.apply, variables)`, a dataclass) or a
            bare function. Its arrays are leaves: fresh weights never retrace.
        schedule: the noise schedule the network was trained with.
        predicts: "eps", "x0", "v", "score" or "velocity".
        time_map: maps the schedule's time to what the network takes, for example `lambda t: 1000 * t`.

    Returns:
        `Prediction(x0, eps)`, each of the structure of x.

    Raises:
        TypeError: for a model that cannot be called, or whose output differs from x in structure or shape.
        ValueError: for an unknown `predicts`.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> denoiser = js.Denoiser(lambda x, t: jnp.zeros_like(x), js.noise.Flow(), predicts="velocity")
        >>> denoiser(jnp.ones(2), 0.5).x0.tolist()
        [1.0, 1.0]

    Cost:
        One network call.

    References:
        Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, arXiv:2202.00512 (v).
    """

    model: Any
    schedule: Any
    predicts: str = static(default="eps")
    time_map: Any = None

    def __post_init__(self):
        object.__setattr__(self, "model", as_tree("Denoiser: model", self.model, "model(x, t)"))
        if self.time_map is not None:
            object.__setattr__(self, "time_map", as_tree("Denoiser: time_map", self.time_map, "time_map(t)"))
        _checks.check_choice("Denoiser: predicts", self.predicts, tuple(CONVERSIONS))
        for method in ("alpha", "sigma", "lam", "time"):
            if not callable(getattr(self.schedule, method, None)):
                raise TypeError(
                    f"Denoiser: schedule must have {method}(), got {type(self.schedule).__name__}. "
                    f"Pass for example js.noise.VP()."
                )

    def __call__(self, x, t, *, key=None):
        """Predict x0 and eps at noise level t."""
        t = jnp.asarray(t, jnp.result_type(*jax.tree.leaves(x)))
        output = self.model(x, t if self.time_map is None else self.time_map(t))
        return CONVERSIONS[self.predicts](
            self.schedule, t, x, match("Denoiser: the model's output", output, x, remedy=REMEDY)
        )
