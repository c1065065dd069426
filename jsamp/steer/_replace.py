"""Replacement: parts of the trajectory are overwritten by what is known of the signal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._checks import check_finite, check_flag, check_number, concrete, is_traced, shown
from jsamp._core._like import broadcast, match
from jsamp._core._pytree import field, put, pytree, static
from jsamp._core._types import Key, Model, Tree
from jsamp.denoise import LinearOp, _fields
from jsamp.denoise._operator import check_operator
from jsamp.solve._plan import check_plan
from jsamp.steer._protocol import Hooks


def one_row_steps(who: str, plan: Any) -> None:
    """Refuse plans that evaluate away from the trajectory."""
    check_plan(who, plan)
    found = plan.having("take")
    if found:
        raise ValueError(
            f"{who} edits x after each step, and this plan has {found[0]}. Use a plan with one row per step: "
            f"js.solve.ddpm, ddim, dpmpp, deis, ..."
        )


def measured(who: str, op: Any, y: Any, x: Any) -> Any:
    """Return the measurement in the dtypes that the operator gives, or refuse what it cannot give."""
    return match(f"{who}: y", y, jax.eval_shape(op, x), remedy="Here x is what op makes of it.")


SHAPE = "A mask of pixels [H, W] for x [H, W, C] is mask[..., None] times ones of C channels, or has the shape of x."


def _known_part(mask: Any, y: Any) -> Any:
    """Return y with 0 where the mask is 0, whatever stands there; refuse numbers that are not finite elsewhere."""

    def one(mask, y):
        if is_traced(mask, y):
            return jnp.where(mask == 0, 0, y) if np.shape(mask) == np.shape(y) else y
        seen, known = _fields.on_host("Repaint: mask", mask), _fields.on_host("Repaint: y", y)
        if known.shape == seen.shape and known.dtype.kind == "f":
            y = np.where((seen == 0) & ~np.isfinite(known), 0, known)
        check_finite("Repaint: y", y, remedy="Anything may stand where the mask is 0, nowhere else.")
        return y

    if jax.tree.structure(mask) != jax.tree.structure(y):
        raise TypeError(
            f"Repaint: y must have the structure of the mask, {jax.tree.structure(mask)}; got {jax.tree.structure(y)}."
        )
    return jax.tree.map(one, mask, y)


def noised(key: Key, info: Any, known: Any) -> Any:
    """Noise the known signal to the level where the row lands."""
    noise = _tree.normal_like(key, known)
    return _tree.lincomb((info.alpha_next, info.sigma_next), (known, noise))


@pytree
class Repaint(Hooks):
    """Inpaint by replacement: before each evaluation the known numbers are those of a freshly noised y.

    x <- mask (alpha y + sigma z) + (1 - mask) x wherever another evaluation follows; the first evaluation and the
    result are left as they are. With a plan from `js.solve.jumps`, which goes back up in noise and down again, known
    and unknown parts come to agree: this is RePaint. Without jumps they do not, and the result is biased. Pasting makes
    the past stale: plans with history take first-order steps.

    Args:
        mask: 1 where y is known, 0 elsewhere, or booleans; of the structure of x, or of its trailing shape.
        y: the known signal, of the same form; anything where the mask is 0, NaN too.
        soft: accept a mask between 0 and 1 (static).

    Raises:
        ValueError: for a mask that is not 0 or 1, shapes that differ, or a plan with stages or a corrector.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0, 0.0]], covs=[[[1, 0.9], [0.9, 1]]])
        >>> plan = js.solve.ddpm(schedule, js.noise.time_grid(schedule, 50, final="zero"))
        >>> plan = js.solve.jumps(plan, length=5, repeats=4)
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

    mask: Tree
    y: Tree
    soft: bool = static(default=False, convert=check_flag)

    stochastic = property(lambda self: True, doc="The known part is noised afresh at each row.")

    def __post_init__(self):
        put(self, mask=_fields.mask(self.mask))
        for leaf in jax.tree.leaves(self.mask):
            check_number("Repaint: mask", leaf, low=0, high=1)
            known = concrete(leaf)
            if known is not None and not self.soft and not np.all((known == 0) | (known == 1)):
                raise ValueError("Repaint: mask must hold 0 and 1 only; with soft=True anything between.")
        put(self, y=_known_part(self.mask, self.y))

    def init(self, key, x, plan):
        """Refuse plans and shapes that do not fit."""
        one_row_steps("Repaint", plan)
        self._like(x)
        return ()

    def _like(self, x):
        """Mask and y broadcast to x."""
        return broadcast("Repaint: mask", self.mask, x, remedy=SHAPE), broadcast("Repaint: y", self.y, x)

    def post(self, key, g, x, info):
        """Paste the known part at the level of the next evaluation."""
        mask, y = self._like(x)
        paste = lambda m, new, old: jnp.where(info.last, old, m * new + (1 - m) * old)
        return g, jax.tree.map(paste, mask, noised(key, info, y), x), False


@pytree
class ILVR(Hooks):
    """Replace the low frequencies of the sample by those of a reference, after each step.

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

    reference: Tree = field(check=_fields.finite("It is a whole signal."))
    low_pass: Model = field(convert=_fields.callable_as("low_pass(x)"))
    until: Any = field(default=0.0, check=_fields.number())

    stochastic = property(lambda self: True, doc="The reference is noised afresh at each row.")

    def __post_init__(self):
        if is_traced(self.reference, self.low_pass):
            return
        if not jax.tree.leaves(self.reference) or any(map(np.isscalar, jax.tree.leaves(self.reference))):
            raise TypeError(f"ILVR: reference must be an array or a tree of arrays, got {shown(self.reference)}.")
        try:
            once = self._low(jax.tree.map(lambda leaf: jnp.asarray(leaf, float), self.reference))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"ILVR: low_pass cannot be applied to the reference: {error}") from error
        if is_traced(once):  # constructed inside a trace
            return
        for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(self._low(once)), strict=True):
            if not np.allclose(a, b, rtol=1e-3, atol=1e-3 * float(np.max(np.abs(a), initial=0)) + 1e-30):
                raise ValueError("ILVR: low_pass must be idempotent: low(low(x)) = low(x). Use LinearOp.pool.")

    def _low(self, x):
        if isinstance(self.low_pass, LinearOp):
            return self.low_pass.inverse(self.low_pass(x), x)
        return self.low_pass(x)

    def init(self, key, x, plan):
        """Refuse plans and shapes that do not fit."""
        one_row_steps("ILVR", plan)
        broadcast("ILVR: reference", self.reference, x)
        return ()

    def post(self, key, g, x, info):
        """Replace the low frequencies."""
        reference = noised(key, info, broadcast("ILVR: reference", self.reference, x))
        change = self._low(jax.tree.map(jnp.subtract, reference, x))
        acts = info.t_next >= self.until
        return g, jax.tree.map(lambda v, d: jnp.where(acts, v + d, v), x, change), jnp.logical_not(acts)


@pytree
class Project(Hooks):
    """Move the finished sample to the nearest x with A x = y, x + A^+ (y - A x): hard data consistency.

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

    op: Any = field(convert=check_operator)
    y: Tree = field(check=_fields.finite("Put 0 where nothing was measured."))

    def init(self, key, x, plan):
        """Refuse a measurement that the operator cannot give."""
        check_plan("Project", plan)
        measured("Project", self.op, self.y, x)
        return ()

    def final(self, g, x):
        """Move the sample to the nearest consistent one."""
        misfit = jax.tree.map(jnp.subtract, measured("Project", self.op, self.y, x), self.op(x))
        return jax.tree.map(jnp.add, x, self.op.inverse(misfit, x)), None
