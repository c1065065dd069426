"""Scores of plans: how far their samples are from a reference, for a whole stack of plans in one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count, check_finite, check_floating
from jsamp._core._like import match
from jsamp._core._pytree import pytree, static
from jsamp._core._types import Array, Model, Tree
from jsamp.denoise._protocol import check_denoiser
from jsamp.solve import Plan, sample


@pytree
class PlanScore:
    """Score a stack of plans by what they make of one batch of starts; made by `trajectory_score`, `sample_score`.

    Args:
        denoiser: the denoiser.
        x: [batch, ...] starts, the same for every plan: common random numbers.
        measure: samples [batch, ...] -> a number, smaller is better.
        block: plans that run together (static).

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VP(), weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> js.fit.sample_score(law, jnp.ones((2, 1)), jnp.mean).block
        32

    Cost:
        m nfe evaluations for each start, for m plans; memory of `block` runs.
    """

    denoiser: Any
    x: Any
    measure: Any
    block: int = static(default=32)

    def __call__(self, plans: Plan) -> Array:
        """Scores [m] of a stack of m plans."""
        return _scores(self, plans)


@jax.jit
def _scores(score: PlanScore, plans: Plan) -> Array:
    def one(plan):
        run = jax.vmap(lambda x: sample(None, score.denoiser, x, plan).x)
        return score.measure(run(score.x))

    return jax.lax.map(one, plans, batch_size=score.block)


def trajectory_score(denoiser: Model, x: Tree, reference: Tree, *, block: int = 32) -> PlanScore:
    """Score plans by the root mean square distance of their samples from reference samples of the same starts.

    Args:
        denoiser: the denoiser.
        x: [batch, ...] starts.
        reference: [batch, ...] what a fine plan makes of them.
        block: plans that run together (static).

    Returns:
        A callable tree: a stack of m plans -> [m].

    Raises:
        TypeError: for a reference that is not like x, or a denoiser that cannot be called.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> score = js.fit.trajectory_score(law, jnp.ones((4, 1)), jnp.ones((4, 1)))
        >>> score(js.solve.stack([js.solve.ddim(schedule, js.noise.logsnr_grid(schedule, 5))])).shape
        (1,)

    Cost:
        The plans' evaluations for the whole batch; memory of `block` runs of the batch.
    """
    reference = match("trajectory_score: reference", reference, x)
    _check_numbers("trajectory_score: reference", reference)
    return _score("trajectory_score", denoiser, x, jax.tree_util.Partial(_distance, reference), block)


def _distance(reference: Tree, samples: Tree) -> Array:
    pairs = zip(jax.tree.leaves(samples), jax.tree.leaves(reference), strict=True)
    squares = [((a - b) ** 2).sum() for a, b in pairs]
    return jnp.sqrt(sum(squares) / sum(leaf.size for leaf in jax.tree.leaves(reference)))


def sample_score(denoiser: Model, x: Tree, distance: Callable[[Tree], Any], *, block: int = 32) -> PlanScore:
    """Score plans by a distance of their samples from data.

    Args:
        denoiser: the denoiser.
        x: [batch, ...] starts.
        distance: callable tree (samples [batch, ...]) -> a number, smaller is better.
        block: plans that run together (static).

    Returns:
        A callable tree: a stack of m plans -> [m].

    Raises:
        TypeError: for a denoiser or distance that cannot be called.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> score = js.fit.sample_score(law, jnp.ones((4, 1)), lambda x: jnp.abs(jnp.mean(x)))
        >>> score(js.solve.stack([js.solve.ddim(schedule, js.noise.logsnr_grid(schedule, 5))] * 3)).shape
        (3,)

    Cost:
        The plans' evaluations for the whole batch; memory of `block` runs of the batch.
    """
    return _score("sample_score", denoiser, x, as_tree("sample_score: distance", distance, "distance(x)"), block)


def _check_numbers(name: str, tree: Tree) -> None:
    """Refuse NaN and infinities: every score would be NaN, and every plan last."""
    for leaf in jax.tree.leaves(tree):
        check_finite(name, leaf)


def _score(who: str, denoiser: Any, x: Any, measure: Any, block: int) -> PlanScore:
    check_denoiser(f"{who}: denoiser", denoiser)
    check_floating(f"{who}: x", x)
    _check_numbers(f"{who}: x", x)
    denoiser = as_tree(f"{who}: denoiser", denoiser, "denoiser(x, t)")
    return PlanScore(denoiser, x, measure, check_count(f"{who}: block", block))
