"""Give a denoiser its own by-product of the row before."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._pytree import pytree, replace
from jsamp.denoise._protocol import nodes, remembers
from jsamp.steer._protocol import Hooks


class Recall(NamedTuple):
    """Hold what `Memory` hands to a denoiser.

    Args:
        value: the by-product (`aux`) of the row before, of the structure of x; zeros at first.
        seen: whether there was a row before.

    Example:
        >>> import jsamp as js
        >>> js.steer.Recall(value=0.0, seen=False).seen
        False
    """

    value: Any
    seen: Any


@pytree
class Memory(Hooks):
    """Give a denoiser its own by-product of the row before: the momentum of `APG`, the lag of `GradientFree`.

    Such a denoiser has the class attribute `remembers = True`, a field `memory`, and returns a `Guided` prediction
    whose `aux` has the structure of x. Further stages of one step see and leave the same memory.

    Raises:
        ValueError: when the run's denoiser holds not exactly one that remembers.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = lambda m: js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[m, 0.0]], stds=[1.0])
        >>> guided = js.denoise.APG(law(1.0), law(0.0), scale=4.0, momentum=-0.5)
        >>> plan = js.solve.ddim(schedule, js.noise.time_grid(schedule, 5))
        >>> js.sample(None, guided, jnp.ones(2), plan, steer=js.steer.Memory()).x.shape
        (2,)

    Cost:
        One state of memory.
    """

    def init(self, key, x, plan):
        """Start with nothing seen."""
        return Recall(_tree.zeros_like(x), jnp.zeros((), bool))

    def wrap(self, g, denoiser):
        """Put the memory into the denoiser."""
        found = nodes(denoiser, remembers)
        if len(found) != 1:
            raise ValueError(
                f"Memory: want one denoiser that remembers (APG, GradientFree), found {len(found)} in the run's."
            )
        recall = lambda node: replace(node, memory=g) if remembers(node) else node
        return jax.tree.map(recall, denoiser, is_leaf=remembers)

    def mid(self, key, g, x, prediction, info):
        """Keep the row's by-product."""
        new = Recall(_tree.where(info.stage, g.value, prediction.aux), g.seen | True)
        return new, x, prediction, None

    def reorder(self, g, index):
        """Follow particles that another steer reordered."""
        return g._replace(value=_tree.take([g.value], index, [0])[0])
