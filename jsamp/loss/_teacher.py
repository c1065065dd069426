"""Teachers of few-step students: a few steps of any solver between two noise levels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp.loss._protocol import frozen
from jsamp.solve import ddim, sample

RHO = 7.0
"""Nodes between two levels are evenly spread in sigma^(1 / RHO)."""


@pytree
class Teacher:
    """Take a noised row from one level to a lower one by a solver, for `js.loss.Consistency`.

    The solver's own builder makes a plan on `steps + 1` nodes between the two levels of each row, so any solver of
    `js.solve` teaches: `js.solve.heun` for consistency distillation, `js.solve.ddim` for its Euler form, stochastic
    ones (`functools.partial(js.solve.ddim, eta=0.3)`, `js.solve.er_sde`) for SCott. Gradients stop here.

    Args:
        denoiser: a denoiser on a variance-exploding schedule such as `js.noise.VE()`, whose time is sigma; or a
            callable condition -> denoiser when batches have conditions.
        build: (schedule, grid) -> Plan (static).
        steps: solver steps between the two levels (static).

    Returns:
        `teacher(key, x, t, u, condition) -> x` at level u, for one row.

    Raises:
        TypeError: for something that is not a denoiser or a builder.
        ValueError: for a schedule whose time is not sigma, or fewer than one step.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> teacher = js.loss.Teacher(law, js.solve.ddim)
        >>> teacher(jax.random.key(0), jnp.ones(1), 1.0, 0.5).tolist()  # x + (u - t) (x - D) / t
        [0.75]

    Cost:
        `steps` times the evaluations of one solver step.

    References:
        Liu et al., "SCott: Accelerating Diffusion Models with Stochastic Consistency Distillation", 2024,
        arXiv:2403.01505.
    """

    denoiser: Any = field(convert=_fields.callable_as("denoiser(x, t), or condition -> denoiser"))
    build: Any = static(default=ddim)
    steps: int = static(default=1, convert=_fields.count())

    def __post_init__(self):
        _checks.check_callable("Teacher: build", self.build, "build(schedule, grid)")
        schedule = getattr(self.denoiser, "schedule", None)
        if schedule is not None:
            _check_time_is_sigma(schedule)

    def __call__(self, key, x, t, u, condition=None):
        """Return the row at level u."""
        denoiser = self._denoiser(condition)
        share = jnp.linspace(0, 1, self.steps + 1, dtype=x_dtype(x))
        first, last = (jnp.asarray(v, share.dtype) ** (1 / RHO) for v in (t, u))
        grid = (first + share * (last - first)) ** RHO
        # The ends exactly: the student is compared at these levels.
        grid = grid.at[0].set(t).at[-1].set(u)
        found = sample(key, denoiser, x, self.build(denoiser.schedule, grid)).x  # pyright: ignore
        return jax.lax.stop_gradient(found)

    def velocity(self, x, t, condition=None):
        """Return dx / dsigma of the probability flow, for one row: the predicted noise."""
        return jax.lax.stop_gradient(self._denoiser(condition)(x, t).eps)

    def _denoiser(self, condition):
        denoiser = frozen(self.denoiser)
        if not hasattr(denoiser, "schedule"):
            denoiser = denoiser(condition)
            if not hasattr(denoiser, "schedule"):
                raise TypeError("Teacher: denoiser must be a denoiser, or a callable condition -> denoiser.")
            _check_time_is_sigma(denoiser.schedule)
        return denoiser


def x_dtype(x: Any) -> Any:
    """The common dtype of a row, single precision at least."""
    return jnp.promote_types(jnp.result_type(*jax.tree.leaves(x)), jnp.float32)


def _check_time_is_sigma(schedule):
    levels = [_checks.concrete(f(v)) for f in (schedule.alpha, schedule.sigma) for v in (0.5, 3.0)]
    if all(v is not None for v in levels) and [float(v) for v in levels] != [1.0, 1.0, 0.5, 3.0]:  # pyright: ignore
        raise ValueError(
            "Teacher: the denoiser's schedule must have alpha = 1 and sigma = t, as js.noise.VE() has; levels of a "
            "consistency grid are sigmas. Wrap the network in a denoiser on js.noise.VE()."
        )
