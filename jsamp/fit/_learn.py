"""Solvers learned: the grid, the shares or the weights of a plan, by gradients through the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count, check_floating, check_key, check_rows
from jsamp._core._like import match
from jsamp._core._pytree import pytree, replace
from jsamp._core._types import Grid, Key, Model, Result, Tree
from jsamp.denoise._protocol import check_denoiser
from jsamp.fit._minimise import minimise
from jsamp.fit._settle import lbfgs
from jsamp.fit._shares import Shares, follow, shares_of
from jsamp.noise._protocol import check_schedule
from jsamp.solve import Plan, sample
from jsamp.solve._plan import check_plan
from jsamp.solve._run import check_levels

PARTS = ("grid", "shares", "weights")
LEARNED = ("state_coef", "weights", "corrector_newest", "corrector_state", "corrector_weights")
"""Columns that are learned as weights."""


class LearnInfo(NamedTuple):
    """Tell how learning a plan went.

    Args:
        grid: [n + 1] the learned grid, or the one given; None where there is none.
        loss: [steps] mean square distance from the reference at each step.

    Example:
        >>> import jsamp as js
        >>> js.fit.LearnInfo(grid=None, loss=[0.1]).loss
        [0.1]
    """

    grid: Any
    loss: Any


@pytree
class _Solver:
    """Hold what is learned: log factors of the grid's steps, shares moved, and corrections of the plan's columns."""

    steps: Any
    shares: Shares | None
    columns: Any


@pytree
class _Distance:
    """Mean square distance of samples from their references: a loss over batches (x, reference)."""

    denoiser: Any
    build: Any
    grid: Any

    def draw(self, key, batch):
        """Nothing is random."""
        return batch

    def value(self, model, drawn):
        """The mean over batch and event."""
        x, reference = drawn
        plan = _plan(self.build, self.grid, model)[0]
        made = jax.vmap(lambda x: sample(None, self.denoiser, x, plan).x)(x)
        pairs = list(zip(jax.tree.leaves(made), jax.tree.leaves(reference), strict=True))
        return sum(jnp.sum((a - b) ** 2) for a, b in pairs) / sum(a.size for a, _ in pairs), None

    def __call__(self, key, model, batch):
        """Draw, then value."""
        return self.value(model, self.draw(key, batch))


def _plan(build, grid, model):
    """The plan of what is learned, and its grid: inner times move, both ends and their order stay."""
    if model.steps is not None:
        steps = (grid[:-1] - grid[1:]) * jnp.exp(model.steps)
        steps = steps * (grid[0] - grid[-1]) / jnp.sum(steps)
        inner = grid[0] - jnp.cumsum(steps[:-1])
        grid = jnp.concatenate([grid[:1], inner, grid[-1:]])
    plan = build(grid)
    if model.shares is not None:
        plan = model.shares(plan)
    if model.columns is not None:
        plan = replace(plan, **{name: getattr(plan, name) + change for name, change in model.columns.items()})
    return plan, grid


def learn_plan(
    key: Key,
    denoiser: Model,
    build: Callable[[Any], Plan] | Plan,
    *,
    x: Tree,
    reference: Tree,
    steps: int,
    grid: Grid | None = None,
    optimiser: Any = None,
    train: tuple[str, ...] = ("grid",),
    batch: int = 64,
    progress: bool = False,
) -> Result:
    """Learn the grid or the weights of a deterministic solver by gradients through its run, towards reference samples.

    A row moves by c x + sum_j w_j m_j. "shares" moves weight among the predictions m_j that it has at hand, its sum and
    c stay: whatever is learned is exact where the prediction is constant, as every known solver is. "weights" frees all
    coefficients: more to gain and to overfit, and slower to learn. Sampled at another guidance scale, shares keep more.

    Args:
        key: the key of the batches.
        denoiser: the denoiser.
        build: grid [n + 1] -> `Plan`, for example `lambda grid: js.solve.dpmpp(schedule, grid)`; or a plan, of which
            a grid is learned together with shares or weights only: it does not know how it was built, so its rows
            keep their shares when their times move.
        x: [m, ...] starts.
        reference: [m, ...] what a fine plan makes of them.
        steps: optimiser steps (static).
        grid: [n + 1] falling times to start from; needed with a builder, and a plan has its own.
        optimiser: an optax transformation; None is L-BFGS where each step sees all starts, which is worth ten times as
            many steps, and else Adam with a rate that falls from 0.02 to 0.
        train: what is learned: "grid" (its inner times; the ends stay), "shares" or "weights", or the grid and one of
            them.
        batch: starts for each step.
        progress: draw a tqdm bar, when tqdm is installed.

    Returns:
        `Result(plan, LearnInfo)`. Validate it on fresh starts.

    Raises:
        ValueError: for an unknown part, shares together with weights, a grid that is missing or given with a plan, the
            grid of a plan alone or of one with stages or momentum, or a plan that draws noise.
        TypeError: for something that is not a key, a denoiser or a builder, starts that are not floating, or references
            that are not like them.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[1.0]], stds=[0.5])
        >>> x = schedule.prior(jax.random.key(0), (64, 1))
        >>> build, grid = lambda grid: js.solve.ddim(schedule, grid), js.noise.logsnr_grid(schedule, 3)
        >>> learned = js.fit.learn_plan(jax.random.key(1), law, build, x=x, reference=1 + 0.5 * x, steps=5, grid=grid)
        >>> learned.x.nfe, learned.info.loss.shape
        (3, (5,))

    Cost:
        steps gradients through the run of `batch` starts, about three times as many with L-BFGS. A gradient costs about
        three times the plan's evaluations, and memory of all rows unless the denoiser is wrapped in `jax.checkpoint`.

    References:
        Watson, Chan, Ho and Norouzi, "Learning Fast Samplers for Diffusion Models by Differentiating Through Sample
        Quality", 2022, arXiv:2202.05830. Its objective is another one; shares are ours.
    """
    import optax

    check_key(key, "learn_plan")
    check_denoiser("learn_plan: denoiser", denoiser)
    check_count("learn_plan: steps", steps)
    builder, times = _builder(build, grid, train, getattr(denoiser, "schedule", None))
    rows = _rows(x)
    reference = match("learn_plan: reference", reference, x)
    if optimiser is None:
        optimiser = lbfgs() if batch >= rows else optax.adam(optax.cosine_decay_schedule(0.02, steps))
    start, columns = builder(times), None
    check_plan("learn_plan: build", start)
    if start.stochastic:
        raise ValueError(
            "learn_plan: the plan draws noise, so its samples have no references of their own. Learn a deterministic "
            "one, such as js.solve.dpmpp or ddim with eta = 0."
        )
    check_levels("learn_plan", denoiser, start)
    if "weights" in train:
        held = {name: getattr(start, name) for name in LEARNED if getattr(start, name) is not None}
        columns = {name: jnp.zeros(np.shape(column)) for name, column in held.items()}
    lengths = jnp.zeros(len(times) - 1) if "grid" in train else None
    model = _Solver(lengths, shares_of(start) if "shares" in train else None, columns)
    loss = _Distance(as_tree("learn_plan: denoiser", denoiser, "denoiser(x, t)"), builder, times)
    fitted = minimise(
        key, loss, model, (x, reference), optimiser=optimiser, steps=steps, batch=min(batch, rows), progress=progress
    )
    plan, times = jax.jit(lambda model: _plan(builder, loss.grid, model))(fitted.x)
    known = "grid" in train or grid is not None
    return Result(plan, LearnInfo(times if known else None, fitted.info.loss))


def _rows(x):
    check_floating("learn_plan: x", x)
    if any(np.ndim(leaf) == 0 for leaf in jax.tree.leaves(x)):
        raise ValueError("learn_plan: x must be [m, ...], starts on axis 0; got one number.")
    return jax.tree.leaves(x)[0].shape[0]


def _builder(build, grid, train, schedule):
    if not isinstance(train, tuple) or not train or not set(train) <= set(PARTS):
        raise ValueError(f"learn_plan: train must be a tuple of {', '.join(map(repr, PARTS))}, got {train!r}.")
    if {"shares", "weights"} <= set(train):
        raise ValueError("learn_plan: weights hold the shares; train one of them.")
    if isinstance(build, Plan):
        return _of_plan(build, grid, train, schedule)
    build = as_tree("learn_plan: build", build, "build(grid)")
    if grid is None:
        raise ValueError("learn_plan: pass grid=, the times that the builder starts from.")
    check_rows("learn_plan: grid", grid, ndim=1)
    build(np.asarray(grid))  # its own refusals, on known numbers
    return build, jnp.asarray(grid, float)


def _of_plan(plan, given, train, schedule):
    """A builder that gives a plan other times, and its grid."""
    if given is not None or train == ("grid",):
        raise ValueError(
            "learn_plan: a plan does not know how it was built; pass a builder, grid -> Plan, to learn a grid, or "
            'learn the times of a plan together with its shares, train=("grid", "shares").'
        )
    if "grid" not in train:
        return as_tree("learn_plan: build", lambda grid: plan, "build(grid)"), jnp.zeros(plan.nfe + 1)
    check_schedule("learn_plan: the schedule of the denoiser", schedule)
    return follow(plan, schedule)
