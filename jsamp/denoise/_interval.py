"""Guidance within an interval of noise levels."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jsamp._core._checks import check_count, check_number, concrete, is_traced
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree
from jsamp.denoise import _fields
from jsamp.denoise._algebra import as_time
from jsamp.denoise._pair import join
from jsamp.denoise._protocol import Prediction, kick_of

# Relative distance at which a noise level counts as equal to an end of an interval.
TIE = 1e-5


@pytree
class Interval:
    """Guide within an interval of noise levels only; outside it the plain denoiser alone is evaluated.

    Guided where low < sigma / alpha <= high; a level within 1e-5 of an end, relatively, is at that end. Outside the
    interval the guided evaluation does not happen:

    - When plan and ends are known as `js.sample` is called (outside `jit`, or closed over) the scan splits at the ends,
      and each part runs one denoiser alone. Other ends retrace if and only if they move a row across.
    - When either is traced, each row takes one branch of a `lax.cond`: ends are data and never retrace. Under `vmap`
      over samples it still is one branch; over plans or grids, whose times differ, both are evaluated and one is kept.

    The `lax.cond` form also runs under a steer that shifts times, in `js.solve.step` and `optimise_start`, inside
    guidance that stacks its parts into one batch, and when nested intervals make more than eight parts.

    Args:
        guided: a denoiser, for example `ClassifierFree(cond, uncond, scale)`.
        plain: the denoiser to use elsewhere, for example cond; on the same schedule.
        low: lower end of sigma / alpha, >= 0.
        high: upper end; infinity for none.

    Returns:
        `Prediction(x0, eps)`.

    Raises:
        TypeError: for something that is not a denoiser.
        ValueError: for low >= high.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda m: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[m]], stds=[1.0])
        >>> middle = js.denoise.Interval(law(4.0), law(0.0), low=0.5, high=2.0)
        >>> [float(middle(jnp.zeros(1), t).x0[0]) for t in (3.0, 1.0)]
        [0.0, 2.0]

    Cost:
        Of a row in the interval that of `guided`, of any other that of `plain`.

    References:
        Kynkaanniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
        Diffusion Models", 2024, arXiv:2404.07724.
    """

    guided: Any
    plain: Any
    low: Any = field(default=0.0, check=_fields.number(0))
    high: Any = np.inf

    def __post_init__(self):
        join("Interval", guided=self.guided, plain=self.plain)
        if not (isinstance(self.high, float) and self.high == np.inf):
            check_number("Interval: high (infinity for none)", self.high)
        low, high = concrete(self.low), concrete(self.high)
        if high is not None and (np.any(np.isnan(high)) or (low is not None and np.any(low >= high))):
            raise ValueError(f"Interval: want low < high, got {self.low!r} and {self.high!r}.")

    @classmethod
    def of_steps(cls, guided: Any, plain: Any, plan: Any, start: int, stop: int) -> Interval:
        """Guide in the rows start:stop of a plan. A further stage of a step belongs to the noise level it is at."""
        rows = len(plan)
        check_count("Interval.of_steps: start", start, low=0, high=rows - 1)
        check_count("Interval.of_steps: stop", stop, low=start + 1, high=rows)
        rho = np.asarray(plan.sigma) / np.asarray(plan.alpha)

        def between(row):
            """An end between two rows: no rounding of a time moves a row across."""
            return np.sqrt(rho[row - 1] * rho[row])

        return cls(guided, plain, between(stop) if stop < rows else 0.0, between(start) if start else np.inf)

    @property
    def schedule(self):
        """The schedule of the guided denoiser."""
        return self.guided.schedule

    def __call__(self, x, t, *, key=None):
        """The guided prediction inside the interval, the plain one outside."""
        t = as_time(t, x, self.schedule)
        inside = _inside(self.schedule.sigma(t) / self.schedule.alpha(t), self.low, self.high)
        branches, x, t, key = vary((self.branches, x, t, key), inside)
        plain, guided = (lambda branch=branch: branch(x, t, key=key) for branch in branches)
        return jax.lax.cond(inside, guided, plain)

    @property
    def branches(self):
        """The denoisers outside and inside the interval, one of which this one is on each row."""
        return _Bare(self.plain), _Bare(self.guided)

    def branch_of_rows(self, plan: Any) -> np.ndarray | None:
        """[R] which of the branches each row of a plan takes, or None where that is traced."""
        values = (plan.alpha, plan.sigma, self.low, self.high)
        if is_traced(values):
            return None
        alpha, sigma, low, high = (np.asarray(value) for value in values)
        with np.errstate(divide="ignore"):
            return _inside(sigma / alpha, low, high).astype(int)


def _inside(rho: Any, low: Any, high: Any) -> Any:
    """Whether low < rho <= high; a level within rounding of an end counts as that end."""
    return (rho > low * (1 + TIE)) & (rho <= high * (1 + TIE))


@pytree
class _Bare:
    """A denoiser whose predictions are x0 and eps alone, so that all branches return one structure."""

    inside: Any

    @property
    def schedule(self):
        """The schedule of the denoiser."""
        return self.inside.schedule

    def __call__(self, x, t, *, key=None):
        """The prediction, without by-products."""
        prediction = self.inside(x, t, key=key)
        if kick_of(prediction) is not None:
            raise TypeError("Interval: a kick has no place outside the interval; put DPS, CFGpp, ... around Interval.")
        return Prediction(prediction.x0, prediction.eps)
