"""Replacement: parts of the trajectory are overwritten by what is known of the signal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_number, concrete, is_traced
from jsamp._core._pytree import pytree, static
from jsamp.denoise import LinearOp
from jsamp.steer._protocol import Hooks


def one_row_steps(who: str, plan: Any) -> None:
    """Refuse plans that evaluate away from the trajectory."""
    if plan.take is not None:
        raise ValueError(
            f"{who} edits x after each step, and this plan has stages or a corrector. Use a plan with one row per "
            f"step: js.solve.ddpm, ddim, dpmpp, deis, ..."
        )


def matching(who: str, name: str, tree: Any, x: Any) -> Any:
    """The tree in the dtypes of x, or a refusal when structure or shapes differ."""
    if jax.tree.structure(tree) != jax.tree.structure(x):
        raise TypeError(f"{who}: {name} must have the structure of x, {jax.tree.structure(x)}.")
    for got, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(x), strict=True):
        shape = np.shape(got)
        if shape != wanted.shape[wanted.ndim - len(shape) :]:
            raise ValueError(f"{who}: {name} must have the trailing shape of x, {wanted.shape}; got {shape}.")
    one = lambda a, b: jnp.broadcast_to(jnp.asarray(a, b.dtype), b.shape)
    return jax.tree.map(one, tree, x)


def noised(key: Any, info: Any, known: Any) -> Any:
    """A draw of the known signal at the noise level where the row lands."""
    noise = _tree.normal_like(key, known)
    return _tree.lincomb((info.alpha_next, info.sigma_next), (known, noise))


@pytree
class Repaint(Hooks):
    """Inpainting by replacement: before each evaluation the known numbers are those of a freshly noised y.

    x <- mask (alpha y + sigma z) + (1 - mask) x wherever another evaluation follows; the first evaluation and the
    result are left as they are. With a plan from `js.solve.jumps`, which goes back up in noise and down again, known
    and unknown parts come to agree: this is RePaint. Without jumps they do not, and the result is biased. Pasting makes
    the past stale: plans with history take first-order steps.

    Args:
        mask: 1 where y is known, 0 elsewhere; of the structure of x, or of its trailing shape.
        y: the known signal, of the same form; anything where the mask is 0.
        soft: accept a mask between 0 and 1 (static).

    Raises:
        ValueError: for a mask that is not 0 or 1, shapes that differ, or a plan with stages or a corrector.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0, 0.0]], covs=[[[1, 0.9], [0.9, 1]]])
        >>> plan = js.solve.ddpm(schedule, js.noise.time_grid(schedule, 50, final="zero"))
        >>> plan = js.solve.jumps(plan, length=5, num=4)
        >>> steer = js.steer.Repaint(jnp.array([1.0, 0.0]), jnp.array([3.0, 0.0]))
        >>> draw = lambda key: js.sample(key, law, jax.random.normal(key, (2,)), plan, steer=steer).x
        >>> x = jax.vmap(draw)(jax.random.split(jax.random.key(0), 200))
        >>> bool(abs(x[:, 1].mean() - 2.7) < 0.5)
        True

    Cost:
        One draw of noise for each row.

    References:
        Lugmayr et al., "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", 2022, arXiv:2201.09865.
    """

    mask: Any
    y: Any
    soft: bool = static(default=False)

    stochastic = property(lambda self: True, doc="The known part is noised afresh at each row.")

    def __post_init__(self):
        for leaf in jax.tree.leaves(self.mask):
            known = concrete(leaf)
            if known is None:
                continue
            if not np.all((known >= 0) & (known <= 1)) or not (self.soft or np.all((known == 0) | (known == 1))):
                raise ValueError("Repaint: mask must hold 0 and 1 only; with soft=True anything between.")
        for leaf in jax.tree.leaves(self.y):
            check_number("Repaint: y", leaf)

    def init(self, key, x, plan):
        """Nothing to remember."""
        one_row_steps("Repaint", plan)
        matching("Repaint", "mask", self.mask, x)
        matching("Repaint", "y", self.y, x)
        return ()

    def post(self, key, g, x, info):
        """Paste the known part at the level of the next evaluation."""
        mask, y = matching("Repaint", "mask", self.mask, x), matching("Repaint", "y", self.y, x)
        paste = lambda m, new, old: jnp.where(info.last, old, m * new + (1 - m) * old)
        return g, jax.tree.map(paste, mask, noised(key, info, y), x), False


@pytree
class ILVR(Hooks):
    """The low frequencies of a reference: after each step they replace those of the sample.

    x <- x + low(y) - low(x), with y the reference noised to where the row lands, while the row lands at a time of
    `until` or more. Run to the end the sample has the low frequencies of the reference exactly. After a replacement
    plans with history take a first-order step.

    Args:
        reference: the signal whose low frequencies are kept, of the structure of x.
        low_pass: an idempotent linear map of x: a callable, or a `LinearOp` A, such as
            `LinearOp.pool(shape, factor)`, which stands for A^+ A.
        until: last time at which rows replace; larger gives more freedom.

    Raises:
        ValueError: for a low-pass that is not idempotent, shapes that differ, or a plan with stages or a corrector.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0] * 4], stds=[1.0])
        >>> plan = js.solve.ddpm(schedule, js.noise.time_grid(schedule, 10, final="zero"))
        >>> steer = js.steer.ILVR(jnp.array([1.0, 3.0, 0.0, 0.0]), js.denoise.LinearOp.pool((4,), (2,)))
        >>> x = js.sample(jax.random.key(0), law, jnp.zeros(4), plan, steer=steer).x
        >>> x.reshape(2, 2).mean(1).round(4).tolist()
        [2.0, 0.0]

    Cost:
        One draw of noise and two low-passes for each row.

    References:
        Choi et al., "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models", 2021, arXiv:2108.02938
        (its code noises the reference to the level where the row starts; here to where it lands, as in the paper).
    """

    reference: Any
    low_pass: Any
    until: Any = 0.0

    stochastic = property(lambda self: True, doc="The reference is noised afresh at each row.")

    def __post_init__(self):
        object.__setattr__(self, "low_pass", as_tree("ILVR: low_pass", self.low_pass, "low_pass(x)"))
        check_number("ILVR: until", self.until)
        if is_traced(self.reference, self.low_pass):
            return
        for leaf in jax.tree.leaves(self.reference):
            check_number("ILVR: reference", leaf)
        once = self._low(jax.tree.map(jnp.asarray, self.reference))
        for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(self._low(once)), strict=True):
            if not np.allclose(a, b, rtol=1e-3, atol=1e-3 * float(jnp.max(jnp.abs(a))) + 1e-30):
                raise ValueError("ILVR: low_pass must be idempotent: low(low(x)) = low(x). Use LinearOp.pool.")

    def _low(self, x):
        if isinstance(self.low_pass, LinearOp):
            return self.low_pass.inverse(self.low_pass(x), x)
        return self.low_pass(x)

    def init(self, key, x, plan):
        """Nothing to remember."""
        one_row_steps("ILVR", plan)
        matching("ILVR", "reference", self.reference, x)
        return ()

    def post(self, key, g, x, info):
        """Replace the low frequencies."""
        reference = noised(key, info, matching("ILVR", "reference", self.reference, x))
        change = self._low(jax.tree.map(jnp.subtract, reference, x))
        acts = info.t_next >= self.until
        return g, jax.tree.map(lambda v, d: jnp.where(acts, v + d, v), x, change), jnp.logical_not(acts)


@pytree
class Project(Hooks):
    """Hard data consistency: the finished sample is moved to the nearest x with A x = y, x + A^+ (y - A x).

    Args:
        op: the measurement A, a `LinearOp` or a linear function.
        y: the measurement.

    Raises:
        TypeError: for something that cannot be called.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0, 0.0]], stds=[1.0])
        >>> plan = js.solve.ddim(schedule, js.noise.time_grid(schedule, 5))
        >>> steer = js.steer.Project(js.denoise.LinearOp.dense(jnp.array([[1.0, 1.0]])), jnp.array([2.0]))
        >>> round(float(js.sample(None, law, jnp.ones(2), plan, steer=steer).x.sum()), 4)
        2.0

    Cost:
        One pseudo-inverse.
    """

    op: Any
    y: Any

    def __post_init__(self):
        op = self.op if isinstance(self.op, LinearOp) else LinearOp(self.op)
        object.__setattr__(self, "op", op)

    def final(self, g, x):
        """The nearest consistent sample."""
        misfit = jax.tree.map(jnp.subtract, self.y, self.op(x))
        return jax.tree.map(jnp.add, x, self.op.inverse(misfit, x)), None
