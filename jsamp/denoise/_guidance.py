"""Guidance that contrasts predictions of networks. It acts on the rate, so solvers keep their order, except `CFGpp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_number, is_traced
from jsamp._core._pytree import construct, field, pytree, replace
from jsamp._core._types import Key
from jsamp.denoise import _fields
from jsamp.denoise._pair import Joint, extrapolate, join, scaled
from jsamp.denoise._protocol import Guided, Kick, aux_of

CLOSE = 2**-8  # of a time: what half precision may make of it


class Guidance:
    """A base of guidance by several predictions: a class has a field `joint` and a method `combine(t, *predictions)`.

    It gives the schedule, the call, and the parts that `Rescale` asks for. The first of the joint denoisers is the
    conditional one.
    """

    joint: Joint
    combine: Callable[..., Any]

    @property
    def schedule(self):
        """The schedule of the first denoiser."""
        return self.joint.schedule

    def parts(self, x: Any, t: Any, *, key: Key | None = None) -> tuple[Any, Any]:
        """Return the guided prediction, and the conditional one that it started from."""
        found = self.joint(x, t, key=key)
        return self.combine(t, *found), found[0]

    def __call__(self, x, t, *, key=None):
        """Predict x0 and eps, guided."""
        return self.parts(x, t, key=key)[0]


@pytree
class ClassifierFree(Guidance):
    """Extrapolate from an unconditional prediction to a conditional one: classifier-free guidance.

    x0 = u.x0 + scale (c.x0 - u.x0), and the same for eps. `scale=1` is plain conditional and 0 unconditional, bit for
    bit; more than 1 sharpens. With exact scores this is not the tilted law p_c^w p_u^(1-w), for an ODE or an SDE.

    When both denoisers share their network (the same arrays, with only labels or embeddings different) the network is
    called once, on a batch of two, and its weights are held once.

    Args:
        cond: conditional denoiser.
        uncond: unconditional denoiser (or one with a negative prompt) on the same schedule.
        scale: guidance weight: a scalar, an array that broadcasts against x over leading axes (one weight for each
            sample of a batch), a tree of such with one for each part of x (modalities of their own, such as
            `{"image": 5.0, "sound": 2.0}`), or a callable of t that returns any of these, such as `PerStep`.

    Returns:
        `Prediction(x0, eps)` of the structure of x.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for a scale that is not finite or does not fit x, or denoisers with other noise levels.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[m]], stds=[1.0])
        >>> js.denoise.ClassifierFree(law(1.0), law(0.0), scale=3.0)(jnp.zeros(1), 1.0).x0.tolist()
        [1.5]

    Cost:
        One network call on twice the batch when the network is shared, else two calls.

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598.
    """

    joint: Joint
    scale: Any = field(convert=_fields.weight)

    def __init__(self, cond: Any, uncond: Any, scale: Any = 1.0):
        construct(self, joint=join("ClassifierFree", cond=cond, uncond=uncond), scale=scale)

    def combine(self, t, *found):
        """Extrapolate: u + scale (c - u)."""
        return extrapolate(self.scale, t, *found)


@pytree
class Auto(Guidance):
    """Extrapolate from a weaker version of the same model, under the same condition: autoguidance.

    x0 = weak.x0 + scale (main.x0 - weak.x0). The weak model (smaller, trained less, or with degraded attention) errs
    where the main one errs, only more, so the difference points at the data without a loss of modes. For Gaussians of
    variance s^2 (1 + d) and s^2 (1 + k d) the ODE is exact at scale = log(1 + k d) / (log(1 + k d) - log(1 + d)).

    Args:
        main: the denoiser to improve.
        weak: a weaker denoiser of the same law, on the same schedule.
        scale: weight; 1 is the main model alone. Forms as in `ClassifierFree`.

    Returns:
        `Prediction(x0, eps)`.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for a scale that is not finite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda s: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[s])
        >>> round(float(js.denoise.Auto(law(1.0), law(2.0), scale=2.0)(jnp.ones(1), 1.0).x0[0]), 6)
        0.2

    Cost:
        Two network calls.

    References:
        Karras et al., "Guiding a Diffusion Model with a Bad Version of Itself", 2024, arXiv:2406.02507.
    """

    joint: Joint
    scale: Any = field(convert=_fields.weight)

    def __init__(self, main: Any, weak: Any, scale: Any = 1.0):
        construct(self, joint=join("Auto", main=main, weak=weak), scale=scale)

    def combine(self, t, *found):
        """Extrapolate: weak + scale (main - weak)."""
        return extrapolate(self.scale, t, *found)


@pytree
class Compose(Guidance):
    """Combine several conditions: x0 = u.x0 + sum_k scale_k (c_k.x0 - u.x0). A negative scale pushes away from one.

    Args:
        conds: conditional denoisers.
        uncond: unconditional denoiser on the same schedule.
        scales: one weight for each condition, each as in `ClassifierFree`: also one for each part of x.

    Returns:
        `Prediction(x0, eps)`.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: when the numbers of conditions and scales differ, or a scale is not finite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[m]], stds=[1.0])
        >>> js.denoise.Compose([law(1.0), law(-3.0)], law(0.0), scales=[2.0, -1.0])(jnp.zeros(1), 1.0).x0.tolist()
        [2.5]

    Cost:
        One network call on a batch of all when they share their network, else one call each.

    References:
        Liu et al., "Compositional Visual Generation with Composable Diffusion Models", 2022, arXiv:2206.01714.
    """

    joint: Joint
    scales: tuple[Any, ...]

    def __init__(self, conds: Sequence[Any], uncond: Any, scales: Sequence[Any]):
        for name, value in (("conds", conds), ("scales", scales)):
            array = name == "scales" and isinstance(value, np.ndarray | jax.Array) and value.ndim == 1
            if not (array or isinstance(value, list | tuple)):
                raise TypeError(f"Compose: {name} must be a list, one for each condition; got {type(value).__name__}.")
        if len(conds) != len(scales) or not conds:
            raise ValueError(f"Compose: want one scale for each condition, got {len(scales)} for {len(conds)}.")
        names = {f"conds[{k}]": cond for k, cond in enumerate(conds)}
        scales = tuple(_fields.weight(f"Compose: scales[{k}]", scale) for k, scale in enumerate(scales))
        construct(self, joint=join("Compose", **names, uncond=uncond), scales=scales)

    def combine(self, t, *found):
        """Sum up u + sum of scale (c - u)."""
        *conds, uncond = found
        total = uncond
        for scale, cond in zip(self.scales, conds, strict=True):
            moves = extrapolate(scale, t, cond, uncond)
            add = lambda total, moved, u: total + (moved - u)
            x0, eps = (jax.tree.map(add, *(getattr(p, part) for p in (total, moves, uncond))) for part in ("x0", "eps"))
            total = total._replace(x0=x0, eps=eps)
        return total


@pytree
class CFGpp(Guidance):
    """Let the unconditional prediction drive the noise and the guided one the signal, on any solver: CFG++.

    A step of the solver with the unconditional prediction, then the kick alpha_next scale (c.x0 - u.x0), which no
    history stores. Under DDIM this is classifier-free guidance of weight scale / (1 - exp(-h)) on a step of h in
    log(alpha / sigma). It is defined per step: refining the grid strengthens the guidance without limit.

    Args:
        cond: conditional denoiser.
        uncond: unconditional denoiser on the same schedule.
        scale: weight in [0, 1], commonly 0.6; 0 is the unconditional sampler bit for bit. Forms as in `ClassifierFree`.

    Returns:
        `Guided(x0, eps, kick)`.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for a scale that is not finite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[m]], stds=[1.0])
        >>> js.denoise.CFGpp(law(1.0), law(0.0), scale=0.6)(jnp.zeros(1), 1.0).kick.x0.tolist()
        [0.30000001192092896]

    Cost:
        As `ClassifierFree`.

    References:
        Chung et al., "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models", 2024,
        arXiv:2406.08070.
    """

    kicks = True
    joint: Joint
    scale: Any = field(convert=_fields.weight)

    def __init__(self, cond: Any, uncond: Any, scale: Any = 0.6):
        construct(self, joint=join("CFGpp", cond=cond, uncond=uncond), scale=scale)

    def combine(self, t, *found):
        """Return the unconditional prediction, with the kick scale (c - u)."""
        cond, uncond = found
        kick = scaled(self.scale, t, jax.tree.map(jnp.subtract, cond.x0, uncond.x0))
        return Guided(uncond.x0, uncond.eps, Kick(x0=kick), aux_of(cond))


@pytree
class PerStep:
    """Give each row of a plan its own weight, as a callable of t that guidance takes as its `scale`.

    In a run each row has its own weight, also where rows share their time (stages, jumps, restarts) and where a part of
    the plan runs: the runner says which row it is. A run of another plan is refused; where the plan is traced, rows go
    by their number, and one that the plan has not has the weight NaN. Called by hand, it looks for the row whose time
    is nearest.

    Args:
        plan: the plan that will run.
        values: [R] one weight for each row, or [R, ...] with axes that broadcast against x over leading axes.

    Returns:
        Called with t: the weight of the row.

    Raises:
        ValueError: when there is not one value for each row, or one is not finite; in a run of another plan.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> plan = js.solve.ddim(schedule, js.noise.time_grid(schedule, 3))
        >>> weight = js.denoise.PerStep(plan, [5.0, 3.0, 1.0])
        >>> float(weight(plan.t[1])), float(weight.at_row(2)(plan.t[1]))
        (3.0, 1.0)

    Cost:
        A search of the rows of the plan for each call.
    """

    times: Any
    numbers: Any
    values: Any
    row: Any

    def __init__(self, plan: Any, values: Any):
        check_number("PerStep: values", values)
        try:
            rows, times, numbers = len(plan), plan.t, plan.number
        except (AttributeError, TypeError):
            raise TypeError(f"PerStep: plan must be a js.Plan, got {type(plan).__name__}.") from None
        if np.ndim(values) == 0 or np.shape(values)[0] != rows:
            raise ValueError(f"PerStep: want one value for each of {rows} rows, got shape {np.shape(values)}.")
        numbers = np.arange(rows) if numbers is None else numbers
        construct(self, times=times, numbers=numbers, values=_fields.as_numbers(values), row=np.int32(-1))

    def at_row(self, index: Any) -> PerStep:
        """Fix the weight at row `index` of the plan."""
        return replace(self, row=jnp.asarray(index, jnp.int32))

    def check_plan(self, who: str, plan: Any) -> None:
        """Refuse a known plan with rows that are not at the times of the own plan, or that it has not."""
        if is_traced(plan.t, plan.number, self.times, self.numbers) or (plan.number is None and np.ndim(plan.t) == 0):
            return
        times = np.ravel(np.asarray(plan.t, np.float64))
        numbers = np.arange(len(times)) if plan.number is None else np.ravel(np.asarray(plan.number))
        own = dict(zip(np.asarray(self.numbers).tolist(), np.asarray(self.times, np.float64).tolist(), strict=True))
        for number, t in zip(numbers.tolist(), times.tolist(), strict=True):
            at = own.get(number)
            if number >= 0 and (at is None or abs(at - t) > CLOSE * max(abs(at), abs(t))):
                has = "has no such row" if at is None else f"has it at t={at:.6g}"
                raise ValueError(
                    f"{who}: PerStep holds the weights of another plan: row {number} runs at t={t:.6g}, and their "
                    f"plan {has}. Make them of the plan that runs: js.denoise.PerStep(plan, values)."
                )

    def __call__(self, t):
        """The weight of the row that runs, else of the row nearest in time."""
        t = jnp.asarray(t)
        nearest = jnp.argmin(jnp.abs(jnp.asarray(self.times, t.dtype) - t))
        same = jnp.asarray(self.numbers) == self.row
        weight = jnp.asarray(self.values, t.dtype)[jnp.where(self.row < 0, nearest, jnp.argmax(same))]
        return jnp.where((self.row < 0) | jnp.any(same), weight, jnp.nan)
