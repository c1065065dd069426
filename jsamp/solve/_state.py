"""What a running plan carries and reports."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._checks import check_finite, check_floating
from jsamp.denoise import Kick
from jsamp.solve._plan import Plan, check_plan


class Stream(enum.IntEnum):
    """Streams of random numbers of a row: folded into the row's key, `fold_in(fold_in(key, row), stream)`."""

    NOISE = 0
    CHURN = 1
    MODEL = 2
    MID = 3
    POST = 4


class SolveState(NamedTuple):
    """Carry a plan from row to row; parts that the plan does not need are None.

    Args:
        x: where the next row evaluates; after the last row, the sample.
        back: left - x. x + back is what the row before left: the base of the step, for its further stages; the
            corrected base without its newest prediction, for a corrector.
        history: [K, ...] the predictions in its slots.
        velocity: moving average of predictions, for momentum on evaluations.
        drift: moving average of increments, for momentum on increments.
        kick: the `Kick` of the step under way, which its further stages end with.
        reset: whether the history is stale, after a steering edit.
        index: row counter, folded into the key.
    """

    x: Any
    back: Any
    history: Any
    velocity: Any
    drift: Any
    kick: Any
    reset: Any
    index: Any


class StepInfo(NamedTuple):
    """Tell steering hooks where a row is and what it does.

    Args:
        index: row number.
        t, alpha, sigma: where the row evaluates.
        t_next, alpha_next, sigma_next: where it lands.
        data_coef: coefficient of the newest x0 prediction in the step.
        noise_std: standard deviation of the noise the step adds.
        stage: whether the row is a further stage of a step that an earlier row began.
        last: whether this is the last row.
        noise: the noise that the step added, of the structure of x; in `post` only, and None where it added none.
    """

    index: Any
    t: Any
    alpha: Any
    sigma: Any
    t_next: Any
    alpha_next: Any
    sigma_next: Any
    data_coef: Any
    noise_std: Any
    stage: Any
    last: Any
    noise: Any = None


class SampleInfo(NamedTuple):
    """Report on a finished run.

    Args:
        ok: whether every number of the sample is finite.
        nfe: network evaluations.
        kept: [R, ...] what `keep` returned at each row, or None.
        report: what the steer reported, or None.
    """

    ok: Any
    nfe: int
    kept: Any
    report: Any


def state_dtype(leaf):
    """Return the dtype in which a leaf of x runs: its own, float32 at least."""
    dtype = jnp.result_type(leaf)
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def init(plan: Plan, x: Any, *, kicks: bool = False) -> SolveState:
    """Make the state of a plan before its first row.

    Args:
        plan: the solver.
        x: start at the plan's first time, any shape or tree; half precision is held as float32.
        kicks: whether the denoiser's predictions hold a kick (its `kicks`); stages and correctors must remember it.

    Returns:
        A `SolveState`, built from x, so it has x's sharding.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> plan = js.solve.ddim(js.noise.VP(), js.noise.time_grid(js.noise.VP(), 4))
        >>> js.solve.init(plan, jnp.ones(3)).history is None
        True

    Cost:
        Memory of the history: as many states as the plan has slots.
    """
    check_plan("init", plan, stacked=True)
    check_floating("init: x", x)
    x = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, state_dtype(leaf)), x)
    empty = lambda leaf: jnp.broadcast_to(jnp.zeros_like(leaf), (plan.slots, *leaf.shape))
    return SolveState(
        x=x,
        back=_tree.zeros_like(x) if plan.take is not None else None,
        history=jax.tree.map(empty, x) if plan.slots else None,
        velocity=_tree.zeros_like(x) if plan.prediction_rate is not None else None,
        drift=_tree.zeros_like(x) if plan.increment_rate is not None else None,
        kick=Kick(_tree.zeros_like(x), _tree.zeros_like(x)) if kicks and plan.take is not None else None,
        reset=None,
        index=jnp.int32(0),
    )


def output(state: SolveState) -> Any:
    """Return the sample that a state holds when all its rows have run.

    Args:
        state: from the last `step`.

    Returns:
        The sample, of the structure of x.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> plan = js.solve.ddim(js.noise.VP(), js.noise.time_grid(js.noise.VP(), 4))
        >>> js.solve.output(js.solve.init(plan, jnp.ones(2))).tolist()
        [1.0, 1.0]

    Cost:
        None beyond the state's own.
    """
    check_state("output", state)
    return state.x


def check_state(who: str, state: Any) -> None:
    """Refuse what is no state of a running plan."""
    if not isinstance(state, SolveState):
        raise TypeError(
            f"{who}: state must be a SolveState, got {type(state).__name__}. Start with js.solve.init(plan, x)."
        )


def check_signal(name: str, x: Any) -> None:
    """Refuse what is no finite, floating array or tree of such; traced values pass."""
    check_floating(name, x)
    for leaf in jax.tree.leaves(x):
        check_finite(name, leaf)
        if np.size(leaf) == 0:
            raise ValueError(f"{name} has a leaf of shape {np.shape(leaf)}, with nothing in it.")
