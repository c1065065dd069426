"""Soft value-based decoding: a group of children, of which one by value carries on."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core._pytree import construct, field, pytree
from jsamp._core._types import Key, Model
from jsamp.denoise import _fields
from jsamp.select import draw_categorical
from jsamp.steer import _population
from jsamp.steer._protocol import Hooks


class SoftValueReport(NamedTuple):
    """Hold the report of `SoftValue`: `info.report` of the run.

    Args:
        value: [M] values of the last children.
        index: which of them was chosen as the sample.

    Example:
        >>> import jsamp as js
        >>> js.steer.SoftValueReport(value=[0.0, 1.0], index=1).index
        1
    """

    value: Any
    index: Any


@pytree
class SoftValue(Hooks):
    """Draw M children of one parent in each step, and keep one by its value: reward without gradients.

    x is [M, ...]: axis 0 is the group. After each evaluation one child is drawn with probability proportional to
    exp(value / temperature), and all M go on from it. With the soft value temperature log E[exp(reward(x0) /
    temperature) | x_t] this samples p(x0) exp(reward / temperature) as M grows. With the reward of the predicted x0
    ("posterior mean") it is biased for every M, other than `SMC`, which weighs. `temperature=0` takes the best child,
    as the authors' code does: then results collapse onto the largest reward.

    The state may be any tree, of integers too: a masked-token sampler that calls `mid` between its prediction and its
    transition is steered in the same way.

    Args:
        value: (x, prediction, info) -> [M], such as `lambda x, p, info: reward(p.x0)`, or a network of (x, info.t).
        final: x0 -> [M], the reward by which one of the last children is chosen as the sample; None returns all [M].
        temperature: >= 0.
        start, stop: first row that selects, and the row before which selection ends (None: the last).

    Returns:
        The run's x is the chosen sample, without the group axis, when `final` is given.

    Raises:
        ValueError: for a negative temperature, x without a group axis, a plan without noise, or values that are
            not [M]. Values of NaN make the sample NaN.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[0.5, 0.5], means=[[-1.0], [1.0]], stds=[0.1, 0.1])
        >>> plan = js.solve.ddpm(schedule, js.noise.logsnr_grid(schedule, 20))
        >>> reward = lambda x0: 4 * x0[:, 0]
        >>> steer = js.steer.SoftValue(lambda x, p, info: reward(p.x0), reward)
        >>> x = schedule.prior(jax.random.key(0), (8, 1))
        >>> bool(js.sample(jax.random.key(1), law, x, plan, steer=steer).x[0] > 0.5)
        True

    Cost:
        M network evaluations and M values for each row. Memory of M samples and at most 32 MiB, as in `SMC`.

    References:
        Li et al., "Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft Value-Based
        Decoding", 2024, arXiv:2408.08252.
    """

    value: Model = field(convert=_fields.callable_as("value(x, prediction, info)"))
    final_value: Any = field(convert=_fields.callable_as("final(x0)", optional=True))
    temperature: Any = field(check=_fields.scalar(0))
    start: Any
    stop: Any

    chooses = property(lambda self: self.final_value is not None, doc="With `final`, one child is the sample.")
    stochastic = property(lambda self: True, doc="The choice of a child draws.")

    def __init__(self, value: Model, final: Any = None, *, temperature: Any = 1.0, start: Any = 0, stop: Any = None):
        _population.check_rows("SoftValue", 1, start, stop)
        construct(self, value=value, final_value=final, temperature=temperature, start=start, stop=stop)

    def init(self, key, x, plan):
        """Keep the key: `final`, which chooses the sample, receives none."""
        _population.particles("SoftValue", x, low=1)
        _population.check_noise("SoftValue", plan)
        return key

    def choose(self, key: Key, value: Any) -> Any:
        """Choose the child that carries on by the values [M]; -1 where they are NaN.

        Args:
            key: one key.
            value: [M] values.

        Returns:
            int32 index.
        """
        temperature = jnp.asarray(self.temperature, value.dtype)
        cold = temperature == 0
        logits = value / jnp.where(cold, 1, temperature)
        index = jnp.where(cold, jnp.argmax(value), draw_categorical(key, logits))
        return jnp.where(jnp.isnan(jnp.max(value)), -1, index).astype(jnp.int32)

    def mid(self, key, g, x, prediction, info):
        """Let all children go on from one of them."""
        count = jax.tree.leaves(x)[0].shape[0]
        selects = _population.active(info, 1, self.start, self.stop)

        def chosen():
            value = self.value(x, prediction, info)
            value = _population.per_particle("SoftValue: value", value, count, jnp.result_type(float, value))
            index = self.choose(key, value)
            return index + jnp.zeros(count, jnp.int32), index < 0

        # Zeros made from x vary over the mesh axes over which x does.
        zero = jnp.zeros_like(jnp.ravel(jax.tree.leaves(x)[0])[0], jnp.int32)
        order = jnp.arange(count, dtype=jnp.int32) + zero
        index, bad = jax.lax.cond(selects, chosen, lambda: (order, zero < 0))
        x, prediction = _population.take((x, prediction), index)
        return g, _poison(bad, x), prediction, index

    def final(self, g, x):
        """Choose one of the last children."""
        if self.final_value is None:
            return x, None
        count = jax.tree.leaves(x)[0].shape[0]
        value = self.final_value(x)
        value = _population.per_particle("SoftValue: final", value, count, jnp.result_type(float, value))
        index = self.choose(g, value)
        return _poison(index < 0, jax.tree.map(lambda leaf: leaf[index], x)), SoftValueReport(value, index)


def _poison(bad, x):
    """Put NaN in place of a sample that no value chose, -1 in place of tokens."""

    def spoil(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.where(bad, jnp.nan, leaf)
        return jnp.where(bad, -1, leaf).astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf

    return jax.tree.map(spoil, x)
