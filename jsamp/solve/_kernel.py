"""A plan as a kernel, so that reverse steps compose with Markov kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_callable
from jsamp._core._pytree import pytree
from jsamp.denoise._protocol import kicks
from jsamp.solve._plan import Plan
from jsamp.solve._run import step
from jsamp.solve._state import SolveState, init


class KernelInfo(NamedTuple):
    """About one row run as a kernel step.

    Args:
        t: time at which the state now stands.
        done: whether all rows had run already, in which case nothing moved.
    """

    t: Any
    done: Any


@pytree
class PlanKernel:
    """A plan as a kernel: `init(x)`, and `step(key, state)` runs the next row. Made by `js.solve.kernel`.

    Args:
        denoiser: callable tree (x, t, *, key) -> Prediction.
        plan: the solver.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> plan = js.solve.ddim(schedule, js.noise.time_grid(schedule, 3))
        >>> int(js.solve.PlanKernel(law, plan).init(jnp.ones(1)).index)
        0
    """

    denoiser: Any
    plan: Plan

    def init(self, x: Any) -> SolveState:
        """State before the first row."""
        return init(self.plan, x, kicks=kicks(self.denoiser))

    def step(self, key: Any, state: SolveState) -> tuple[SolveState, KernelInfo]:
        """Run the row that `state.index` points at; past the last row nothing moves."""
        index = jnp.minimum(state.index, self.plan.nfe - 1)
        row = jax.tree.map(lambda a: jnp.asarray(a)[index], self.plan)
        done = state.index >= self.plan.nfe
        new = _tree.where(done, state, step(key, self.denoiser, state, row))
        return new, KernelInfo(row.t_next, done)


def kernel(denoiser: Any, plan: Plan) -> PlanKernel:
    """A plan as a kernel with `init` and `step`, so that reverse steps and Langevin correctors compose.

    Args:
        denoiser: callable tree (x, t, *, key) -> Prediction.
        plan: the solver.

    Returns:
        A tree with `init(x) -> state` and `step(key, state) -> (state, info)`.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> kernel = js.solve.kernel(law, js.solve.ddim(schedule, js.noise.time_grid(schedule, 3)))
        >>> state, info = kernel.step(None, kernel.init(jnp.ones(1)))
        >>> int(state.index), bool(info.done)
        (1, False)
    """
    check_callable("kernel: denoiser", denoiser, "denoiser(x, t)")
    return PlanKernel(as_tree("kernel: denoiser", denoiser, "denoiser(x, t)"), plan)
