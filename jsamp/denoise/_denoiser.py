"""Denoisers: a network and its schedule become one callable that predicts both x0 and eps."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jsamp._core._callable import Bound, Structured
from jsamp._core._checks import check_floating, shown
from jsamp._core._like import match
from jsamp._core._pytree import construct, field, pytree, replace, static
from jsamp._core._types import Model, Schedule, Tree
from jsamp.denoise import _fields
from jsamp.denoise._algebra import as_time, levels, slopes
from jsamp.denoise._protocol import Guided, Prediction
from jsamp.noise._protocol import check_schedule


def _from_eps(schedule, t, x, m):
    a, s = levels(schedule, t, x)
    return Prediction(jax.tree.map(lambda x, e: (x - s * e) / a, x, m), m)


def _from_x0(schedule, t, x, m):
    a, s = levels(schedule, t, x)
    return Prediction(m, jax.tree.map(lambda x, d: (x - a * d) / s, x, m))


def _from_score(schedule, t, x, m):
    _, s = levels(schedule, t, x)
    return _from_eps(schedule, t, x, jax.tree.map(lambda g: -s * g, m))


def _from_v(schedule, t, x, m):
    a, s = levels(schedule, t, x)
    norm = a * a + s * s
    x0 = jax.tree.map(lambda x, v: (a * x - s * v) / norm, x, m)
    return Prediction(x0, jax.tree.map(lambda x, v: (s * x + a * v) / norm, x, m))


def _from_velocity(schedule, t, x, m):
    (a, s), (da, ds) = levels(schedule, t, x), slopes(schedule, t, x)
    norm = a * ds - s * da
    x0 = jax.tree.map(lambda x, u: (ds * x - s * u) / norm, x, m)
    return Prediction(x0, jax.tree.map(lambda x, u: (a * u - da * x) / norm, x, m))


CONVERSIONS = {"eps": _from_eps, "x0": _from_x0, "v": _from_v, "score": _from_score, "velocity": _from_velocity}
Predicts = Literal["eps", "x0", "v", "score", "velocity"]


@pytree
class Denoiser:
    """Join a network and its schedule in one callable: `denoiser(x, t) -> Prediction(x0, eps)`.

    With a = alpha(t), s = sigma(t) and the network's output m:
    eps: x0 = (x - s m) / a. x0: eps = (x - a m) / s. v = a eps - s x0: x0 = (a x - s v) / (a^2 + s^2).
    score = -eps / s. velocity u = dx/dt = a' x0 + s' eps, solved with the schedule's own derivatives (rectified flow:
    x0 = x - t u).

    The network is called as `model(x, time_map(t), **conditions)`, with t a scalar: float32, or float64 where x is. x
    comes in its own dtype, which in a run is float32 at least; a network of half precision casts x itself. Its output
    is cast to the dtype of x. x may be any shape or tree, or have leading batch axes if the network wants them.

    Args:
        model: a callable tree (an `nnx.Module`, an Equinox module, `jax.tree_util.Partial(linen.apply, variables)`, a
            dataclass) or a bare function. Its arrays, those that a function captures too, are leaves: fresh weights
            never retrace. An array that code reads through a class (`Net.weights`, `type(self).weights`) is a constant:
            a new one is seen, and compiles anew.
        schedule: the noise schedule the network was trained with.
        predicts: "eps", "x0", "v", "score" or "velocity" (static).
        time_map: maps the schedule's time to what the network takes, for example `lambda t: 1000 * t`.
        variance: None, or "range" for a network whose last axis holds the prediction and then as many numbers of a
            learned variance: they come along as `aux`, for `js.steer.LearnedVariance` (static).
        **conditions: what the network is given by name, such as `y=label`. Numbers and arrays are leaves; booleans and
            strings are structure. `given` changes them, and two denoisers that differ in conditions alone are one
            batched call in `ClassifierFree`.

    Returns:
        `Prediction(x0, eps)`, each of the structure of x; with `variance`, `Guided(x0, eps, aux=variance)`.

    Raises:
        TypeError: for a model that cannot be called so, whose output differs from x in structure or shape, or an x that
            is not floating point.
        ValueError: for an unknown `predicts` or `variance`.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> network = lambda x, t, y: y * jnp.ones_like(x)
        >>> three = js.Denoiser(network, js.noise.VP(), predicts="x0", y=3.0)
        >>> seven = three.given(y=7.0)
        >>> three(jnp.ones(1), 0.5).x0.tolist(), seven(jnp.ones(1), 0.5).x0.tolist()
        ([3.0], [7.0])

    Cost:
        One network call.

    References:
        Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, arXiv:2202.00512 (v).
        Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, arXiv:2102.09672 (variance).
    """

    model: Model = field(convert=_fields.callable_as("model(x, t)"))
    schedule: Schedule = field(check=check_schedule)
    predicts: Predicts = static(check=_fields.one_of(*CONVERSIONS))
    time_map: Any = field(convert=_fields.callable_as("time_map(t)", optional=True))
    variance: Any = static()
    conditions: dict[str, Tree] = field()
    options: tuple[tuple[str, Any], ...] = static()

    def __init__(
        self, model: Model, schedule: Schedule, predicts: Predicts = "eps", time_map: Any = None, *,
        variance: Literal["range"] | None = None, conditions: dict | None = None, options: tuple = (), **named: Tree,
    ):  # fmt: skip
        if not isinstance(conditions, dict | None) or not isinstance(options, tuple):
            raise TypeError("Denoiser: give conditions by name, as in js.Denoiser(model, schedule, y=label).")
        given = {**(conditions or {}), **dict(options), **named}
        fixed = tuple((name, given.pop(name)) for name in sorted(given) if _is_structure(given[name]))
        values = {"model": model, "schedule": schedule, "predicts": predicts, "time_map": time_map}
        construct(self, **values, variance=variance, conditions=given, options=fixed)

    def __post_init__(self):
        if self.variance not in (None, "range"):
            raise ValueError(f"Denoiser: variance must be None or 'range'; got {shown(self.variance)}.")
        _check_conditions(self.model, {**self.conditions, **dict(self.options)})

    def given(self, **conditions: Tree) -> Denoiser:
        """Put the network under other conditions.

        Args:
            **conditions: new values by name; the others stay.

        Returns:
            A denoiser that shares the weights.
        """
        merged = {**self.conditions, **dict(self.options), **conditions}
        fixed = tuple((name, merged.pop(name)) for name in sorted(merged) if _is_structure(merged[name]))
        _check_conditions(self.model, {**merged, **dict(fixed)})
        return replace(self, conditions=merged, options=fixed)

    def __call__(self, x, t, *, key=None):
        """Predict x0 and eps at noise level t."""
        check_floating("Denoiser: x", x)
        t = as_time(t, x, self.schedule)
        time = t if self.time_map is None else self.time_map(t)
        output, variance = self.model(x, time, **self.conditions, **dict(self.options)), None
        if self.variance is not None:
            output, variance = _halves(output, x)
        output = match("Denoiser: the model's output", output, x, remedy=_remedy(output, x))
        prediction = CONVERSIONS[self.predicts](self.schedule, t, x, output)
        return prediction if variance is None else Guided(prediction.x0, prediction.eps, aux=variance)


def _is_structure(value: Any) -> bool:
    """Whether a condition cannot be a leaf: a boolean, a name, a function."""
    number = lambda leaf: not isinstance(leaf, bool) and (isinstance(leaf, int | float) or hasattr(leaf, "dtype"))
    return not all(number(leaf) for leaf in jax.tree.leaves(value))


def _check_conditions(model: Any, conditions: dict[str, Any]) -> None:
    """Refuse a model that cannot be called as model(x, t, **conditions), as far as its signature tells."""
    inside = model.function if isinstance(model, Bound) else model.model if isinstance(model, Structured) else model
    try:
        signature = inspect.signature(inside)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, None, **conditions)
    except TypeError as error:
        names = "".join(f", {name}=..." for name in conditions)
        raise TypeError(
            f"Denoiser: model must be callable as model(x, t{names}), but {error}; it takes {signature}. Conditions of "
            f"the network are given by name: js.Denoiser(model, schedule, y=label)."
        ) from None


def _halves(output: Any, x: Any) -> tuple[Any, Any]:
    """The prediction and the variance of a network that returns both along the last axis."""

    def split(leaf, like):
        shape, wanted = jnp.shape(leaf), jnp.shape(like)
        if not wanted or shape != (*wanted[:-1], 2 * wanted[-1]):
            raise TypeError(
                f"Denoiser: with variance='range' the model's output must hold two arrays like x along its last axis, "
                f"[..., {2 * wanted[-1] if wanted else 2}]; got {shape} for x {wanted}."
            )
        return jnp.split(jnp.asarray(leaf, jnp.result_type(like)), 2, axis=-1)

    if jax.tree.structure(output) != jax.tree.structure(x):
        return output, None
    parts = [split(*pair) for pair in zip(jax.tree.leaves(output), jax.tree.leaves(x), strict=True)]
    return tuple(jax.tree.unflatten(jax.tree.structure(x), part) for part in zip(*parts, strict=True))  # pyright: ignore


def _remedy(output: Any, x: Any) -> str:
    """Say what to do about an output of another structure or shape."""
    if jax.tree.structure(output) != jax.tree.structure(x):
        return "Return the prediction alone."
    pairs = zip(map(jnp.shape, jax.tree.leaves(output)), map(jnp.shape, jax.tree.leaves(x)), strict=True)
    for got, wanted in pairs:
        doubled = [i for i, sizes in enumerate(zip(got, wanted, strict=False)) if sizes[0] == 2 * sizes[1]]
        if len(got) == len(wanted) and len(doubled) == 1:
            return (
                f"Axis {doubled[0]} is twice that of x: a network that learned its variance too. With the channels "
                f"last pass variance='range', else return the first half alone."
            )
    return "If the network wants a batch axis, give x one and keep t a scalar, or add it inside the model."
