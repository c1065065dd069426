"""A plan as a kernel, so that reverse steps compose with Markov kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._like import dtype_of
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Key, Model
from jsamp.denoise._protocol import check_denoiser, kicks
from jsamp.solve._plan import Plan, check_plan
from jsamp.solve._run import check_levels, step
from jsamp.solve._state import SolveState, init


class KernelState(NamedTuple):
    """Hold a plan's run as a chain's state, in the form of `js.mcmc.State`.

    Args:
        position: x where the next row evaluates; after the last row, the sample. Another kernel may move it.
        cache: None; the denoiser is called anew at each position.
        memory: the rest of the `SolveState`: history, momentum and row counter, which survive such moves.
    """

    position: Any
    cache: Any
    memory: SolveState


class KernelInfo(NamedTuple):
    """Report on one row that ran as a kernel step, in the form of `js.mcmc.Info`.

    Args:
        accept: 1; a row is always taken.
        nfe: network evaluations: 1, and 0 past the last row.
        diverged: whether a number of the position is not finite.
        aux: (t, done): the time at which the state now stands, and whether all rows had run before, in which case
            nothing moved.
    """

    accept: Any
    nfe: Any
    diverged: Any
    aux: Any


@pytree
class PlanKernel:
    """Run a plan row by row as a kernel: `init(x)`, and `step(key, state)`. Made by `js.solve.kernel`.

    Args:
        denoiser: callable tree (x, t, *, key) -> Prediction.
        plan: the solver.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> plan = js.solve.ddim(schedule, js.noise.time_grid(schedule, 3))
        >>> int(js.solve.PlanKernel(law, plan).init(jnp.ones(1)).memory.index)
        0

    Cost:
        One network evaluation for each step; memory of the state with its history.
    """

    denoiser: Any = field(check=lambda name, value: check_denoiser(name, value, schedule=False))
    plan: Plan = field(check=check_plan)

    refresh_cost = 0

    def init(self, x: Any, key: Key | None = None) -> KernelState:
        """Make the state before the first row."""
        return _as_chain(init(self.plan, x, kicks=kicks(self.denoiser)))

    def refresh(self, x: Any, state: Any) -> KernelState:
        """Move the position elsewhere and keep the run: its history, its momentum, the row it has come to."""
        return KernelState(x, None, state.memory)

    def step(self, key: Key, state: Any) -> tuple[KernelState, KernelInfo]:
        """Run the row that the memory's `index` points at; past the last row nothing moves."""
        old = state.memory._replace(x=state.position)
        index = jnp.minimum(old.index, self.plan.nfe - 1)
        row = jax.tree.map(lambda a: jnp.asarray(a)[index], self.plan)
        done = old.index >= self.plan.nfe
        new = _tree.where(done, old, step(key, self.denoiser, old, row))
        dtype = dtype_of(new.x, at_least=jnp.float32)
        bad = jnp.logical_not(_tree.all_finite(new.x))
        info = KernelInfo(jnp.ones((), dtype), jnp.where(done, 0, 1).astype(jnp.int32), bad, (row.t_next, done))
        return _as_chain(new), info


def _as_chain(state: SolveState) -> KernelState:
    return KernelState(state.x, None, state._replace(x=None))


def kernel(denoiser: Model, plan: Plan) -> PlanKernel:
    """Make a kernel of a plan: reverse steps compose with Langevin correctors, in `js.mcmc.compose`, `chain`, `repeat`.

    Every step runs the next row, so a chain of `plan.nfe` steps draws one sample; with the run's key in place of a new
    key for each step it is the one of `js.sample`. A kernel that is composed with it may move the position; the history
    of a multistep plan then belongs to the place before the move, so first-order plans compose best.

    Args:
        denoiser: callable tree (x, t, *, key) -> Prediction.
        plan: the solver.

    Returns:
        A tree with `init(x) -> state` and `step(key, state) -> (state, info)`, of the protocol of `js.mcmc.Kernel`.

    Raises:
        TypeError: for something that is no denoiser, or no plan.
        ValueError: for a plan on another schedule than the denoiser's, or a stack of plans.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> kernel = js.solve.kernel(law, js.solve.ddim(schedule, js.noise.time_grid(schedule, 3)))
        >>> state, info = kernel.step(None, kernel.init(jnp.ones(1)))
        >>> int(state.memory.index), info.nfe.item()
        (1, 1)

    Cost:
        One network evaluation for each step of the kernel.
    """
    check_denoiser("kernel: denoiser", denoiser, schedule=False)
    check_plan("kernel", plan)
    check_levels("kernel", denoiser, plan)
    return PlanKernel(as_tree("kernel: denoiser", denoiser, "denoiser(x, t)"), plan)
