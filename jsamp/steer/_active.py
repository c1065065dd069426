"""Active subsampling: particles of the posterior choose what to measure next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_choice, concrete, is_traced
from jsamp._core._pytree import field, put, pytree, static
from jsamp._core._types import Model, Tree
from jsamp.denoise import _fields
from jsamp.solve._plan import check_plan
from jsamp.steer import _population
from jsamp.steer._protocol import Hooks


class ActiveReport(NamedTuple):
    """Hold the state of `ActiveSubsampling`, which is `info.report` of the run.

    Args:
        mask: 1 where measured, of the measurement's shape.
        y: the values there, 0 elsewhere.
        order: [R] group measured at each row, -1 where none was.

    Example:
        >>> import jsamp as js
        >>> js.steer.ActiveReport(mask=None, y=None, order=[-1, 3]).order[1]
        3
    """

    mask: Any
    y: Any
    order: Any


def _rows(name: str, when: Any) -> np.ndarray:
    """Return which rows measure, as booleans on the host."""
    if is_traced(when):
        raise TypeError(f"{name} must be concrete, got a traced array: it fixes which rows measure.")
    when = _fields.on_host(name, when)
    if when.ndim != 1 or when.dtype != bool:
        raise ValueError(f"{name} must be booleans, one for each row; got {when.dtype}{list(when.shape)}.")
    return when


def _check_mask(name: str, mask: Any) -> None:
    known = None if is_traced(mask) else _fields.on_host(name, mask)
    if known is not None and not np.all((known == 0) | (known == 1)):
        raise ValueError(f"{name} must hold 0 and 1 only.")


def _groups(groups: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the group of each location; without groups each location is one."""
    groups = (
        np.arange(max(int(np.prod(shape)), 1)).reshape(shape)
        if groups is None
        else _fields.on_host("ActiveSubsampling: groups", groups)
    )
    if groups.shape != shape or not np.issubdtype(groups.dtype, np.integer) or groups.min(initial=0) < 0:
        raise ValueError(
            f"ActiveSubsampling: groups must be integers >= 0 of the mask's shape {shape}, got {groups.shape}."
        )
    return groups


@pytree
class ActiveSubsampling(Hooks):
    """Choose, while sampling the posterior, what to measure next: where the particles disagree most.

    x is [P, ...]: P particles on axis 0. On the rows marked in `when`, the predicted x0 of all particles are mapped to
    the space of measurements, z = view(x0), each group of locations that is not yet measured gets a score, and the best
    one is measured. From the next row on, the run's denoiser is `condition(denoiser, mask, y)`: mask and likelihood
    have one owner.

    With d_ij the sum over a group of |z_i - z_j|^2:
    "entropy": -(1/P) sum_i log (1/P) sum_j exp(-d_ij / (2 width^2)), that of a mixture with a component of standard
    deviation `width` at each particle, up to a constant. (The authors' code has the other sign in the exponent, which
    picks one outlier over an even split.) "variance": the sum over the group of the variance. For wide components, and
    for Gaussians, both rank alike.

    Args:
        condition: (denoiser, mask, y) -> denoiser, the posterior given what is measured, such as
            `lambda d, mask, y: js.denoise.DPS(d, js.denoise.LinearOp.mask(mask), y, event_ndim=1)`.
        measure: index -> values: an array that broadcasts to the measurement's shape, read in the group `index` only.
            In a simulation `lambda index: truth`; for an instrument a `jax.pure_callback`. It is called on the rows
            that measure, and on no other (under `jax.vmap` on all).
        when: [R] booleans, concrete: the rows that measure.
        mask: what is measured before the run, of the measurement's shape (one particle's); defines that shape.
        y: values there; None means 0.
        view: x0 -> [P, *measurement], real or complex; None for x0 itself.
        groups: integers of the measurement's shape, 0 .. G-1: locations measured together, such as lines; None makes
            each location a group.
        score: "entropy" or "variance" (static), or a callable (z, groups) -> [G].
        width: standard deviation of the entropy's components.

    Raises:
        ValueError: for fewer than two particles, `when` of another length than the plan or with more rows than groups
            left, masks that are not 0 or 1, or a view of another shape.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule, stds = js.noise.VP(), [[0.3, 2.0, 1.0]]
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0] * 3], stds=stds)
        >>> plan = js.solve.ddpm(schedule, js.noise.time_grid(schedule, 20))
        >>> posterior = lambda d, mask, y: js.denoise.DPS(d, js.denoise.LinearOp.mask(mask), y, event_ndim=1)
        >>> truth, when = jnp.ones(3), [i == 15 for i in range(20)]
        >>> steer = js.steer.ActiveSubsampling(posterior, lambda index: truth, when, jnp.zeros(3))
        >>> x = schedule.prior(jax.random.key(0), (16, 3))
        >>> js.sample(jax.random.key(1), law, x, plan, steer=steer).info.report.mask.tolist()
        [0.0, 1.0, 0.0]

    Cost:
        P evaluations for each row; a measuring row adds O(P^2) numbers of a measurement for the entropy, O(P) for the
        variance.

    References:
        Nolan et al., "Active Diffusion Subsampling", 2024, arXiv:2406.14388.
    """

    condition: Model = field(convert=_fields.callable_as("condition(denoiser, mask, y)"))
    measure: Model = field(convert=_fields.callable_as("measure(index)"))
    when: Any = field(convert=_rows)
    mask: Any = field(check=_check_mask)
    y: Tree = field(default=None, check=_fields.finite("Put 0 where nothing was measured."))
    view: Any = field(default=None, convert=_fields.callable_as("view(x0)", optional=True), kw_only=True)
    groups: Any = field(default=None, kw_only=True)
    score: Any = static(default="entropy", kw_only=True)
    width: Any = field(default=1.0, check=_fields.number(0, open_low=True), kw_only=True)
    rule: Any = field(default=None, init=False)
    count: int = static(default=0, init=False)

    def __post_init__(self):
        if callable(self.score):
            put(self, rule=as_tree("ActiveSubsampling: score", self.score, "score(z, groups)"), score="own")
        else:
            check_choice("ActiveSubsampling: score", self.score, ("entropy", "variance"))
        groups = _groups(self.groups, np.shape(self.mask))
        put(self, groups=groups, count=int(groups.max()) + 1)
        known = concrete(self.mask)
        left = self.count - (0 if known is None else len(np.unique(self.groups[known == 1])))
        if self.when.sum() > left:
            raise ValueError(
                f"ActiveSubsampling: {self.when.sum()} rows measure, but only {left} of {self.count} groups are left."
            )

    def init(self, key, x, plan):
        """Start with what is measured before the run."""
        check_plan("ActiveSubsampling", plan)
        _population.particles("ActiveSubsampling", x)
        if self.when.shape != (plan.nfe,):
            raise ValueError(
                f"ActiveSubsampling: when must hold one boolean for each of {plan.nfe} rows, got {self.when.shape[0]}."
            )
        seen = jax.eval_shape(self._view, x)
        if seen.shape[1:] != jnp.shape(self.mask):
            raise ValueError(
                f"ActiveSubsampling: mask has shape {jnp.shape(self.mask)}, but one particle's measurement is "
                f"{seen.shape[1:]}."
            )
        # Zeros made from x vary over the mesh axes over which x does.
        zero = jnp.zeros_like(jnp.ravel(jax.tree.leaves(x)[0])[0])
        mask = jnp.asarray(self.mask, zero.dtype) + zero
        y = jnp.zeros(seen.shape[1:], seen.dtype) if self.y is None else jnp.asarray(self.y, seen.dtype)
        return ActiveReport(mask, jnp.where(mask > 0, y, 0), jnp.full(plan.nfe, -1) + zero.astype(int))

    def _view(self, x0):
        return x0 if self.view is None else self.view(x0)

    def wrap(self, g, denoiser):
        """Make the posterior's denoiser, given what is measured so far."""
        return self.condition(denoiser, g.mask, g.y)

    def scores(self, z: Any) -> Any:
        """Score each group by how much the particles disagree.

        Args:
            z: [P, *measurement] predicted measurements.

        Returns:
            [G] scores, larger where a measurement tells more.
        """
        if self.rule is not None:
            return self.rule(z, self.groups)
        labels = jnp.ravel(jnp.asarray(self.groups))
        flat = z.reshape(z.shape[0], -1)
        by_group = lambda v: jnp.zeros(self.count, v.dtype).at[labels].add(v)
        if self.score == "variance":
            return by_group(jnp.mean(_square(flat - jnp.mean(flat, axis=0, keepdims=True)), axis=0))
        precision = 1 / (2 * jnp.asarray(self.width, jnp.real(flat).dtype) ** 2)

        def log_density(one):
            apart = jax.vmap(lambda other: by_group(_square(one - other)))(flat)
            return jax.nn.logsumexp(-apart * precision, axis=0) - jnp.log(flat.shape[0])

        return -jnp.mean(jax.lax.map(log_density, flat), axis=0)

    def mid(self, key, g, x, prediction, info):
        """Score, choose and measure, on the rows that do."""

        def measured():
            score = self.scores(self._view(prediction.x0))
            labels = jnp.asarray(self.groups)
            left = jnp.zeros(self.count, int).at[jnp.ravel(labels)].max(jnp.ravel(g.mask == 0).astype(int))
            index = jnp.argmax(jnp.where(left > 0, score, -jnp.inf))
            values = jnp.broadcast_to(jnp.asarray(self.measure(index), g.y.dtype), g.y.shape)
            new = labels == index
            order = g.order.at[info.index].set(index.astype(g.order.dtype))
            return ActiveReport(jnp.where(new, 1, g.mask).astype(g.mask.dtype), jnp.where(new, values, g.y), order)

        acts = jnp.asarray(self.when)[info.index]
        return jax.lax.cond(acts, measured, lambda: g), x, prediction, None

    def final(self, g, x):
        """Report what was measured, and in which order."""
        return x, g


def _square(v):
    return jnp.real(v) ** 2 + jnp.imag(v) ** 2
