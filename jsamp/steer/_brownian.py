"""One Brownian path under grids of any fineness, without storing it: a virtual tree of bridges."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._checks import check_key, check_number, shown
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree, replace, static
from jsamp._core._types import Key
from jsamp.denoise import _fields
from jsamp.solve._columns import visits

WIDEST = 16.0
"""Half log-SNR at both ends of the path: beyond, a step leaves a trace of 1e-7 in the sample."""
APART, LATER = np.uint32(2**32 - 1), np.uint32(2**32 - 2)
"""Folds of the key for steps off the path, and for the paths of later passes."""


@pytree
class Brownian:
    """Draw the noise of a plan from one Brownian path, so that a finer grid refines a sample and does not redraw it.

    For `js.steer.OwnNoise`. The path W runs in u = (alpha / sigma)^2 = exp(2 lam), the clock in which the noise of the
    reverse SDE (tau = 1) adds up exactly: a step from lam to lam' takes z = (W(u') - W(u)) / sqrt(u' - u). Plans of
    other stochasticity converge to one path as their grids get finer, too. W is found by `depth` bisections of lam,
    each a Brownian bridge whose key is folded from the way there; two times in one cell of 32 / 2^depth share a draw.

    The path runs from lam = -16 to 16. Steps beyond, and rows that go back up in noise (`js.solve.jumps`), draw numbers
    of their own, row by row, which no other grid shares; each way down after one follows a path of its own.

    Args:
        key: one key, that of the path.
        depth: bisections (static, 1..30).
        rows: set by `begin`: the numbers of the rows [R] and how often the run has gone back up before each [R].

    Returns:
        Called with a `js.solve.StepInfo`: standard normal numbers like x, independent from step to step.

    Raises:
        TypeError: for something that is no key.
        ValueError: for depth outside 1..30.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[0.5])
        >>> path = js.steer.OwnNoise(js.steer.Brownian(jax.random.key(1)))
        >>> def run(n):
        ...     plan = js.solve.dpmpp(schedule, js.noise.logsnr_grid(schedule, n), tau=1.0)
        ...     return js.sample(jax.random.key(0), law, jnp.ones(1), plan, steer=path).x
        >>> bool(abs(run(80) - run(320))[0] < 0.1)
        True

    Cost:
        2 depth draws like x for each row of the plan, and a few states of memory.

    References:
        Li et al., "Scalable Gradients for Stochastic Differential Equations", 2020, arXiv:2001.01328 (the virtual
        Brownian tree).
    """

    key: Key = field(check=lambda name, value: check_key(value, name))
    depth: int = static(default=16, convert=_fields.count(high=30))
    rows: Any = field(default=None, check=lambda name, value: _check_rows(name, value))

    def begin(self, plan):
        """Return the noise of a run of this plan: its paths are told apart by the ways down."""
        number = np.arange(plan.nfe) if plan.number is None else plan.number
        return replace(self, rows=(number, visits(plan)))

    def __call__(self, info):
        """Return the standardised increment of the path over the step."""
        number, visit = (info.index, 0) if self.rows is None else (jnp.asarray(r)[info.index] for r in self.rows)
        later = jax.random.fold_in(jax.random.fold_in(self.key, LATER), visit)
        own = jax.random.fold_in(jax.random.fold_in(self.key, APART), number)
        path = replace(self, key=_tree.where(visit > 0, later, self.key), rows=None)
        growth, along = path._along(info)
        return _tree.where(growth > 0, along, _tree.normal_like(own, info.noise))

    def _along(self, info):
        """By how much u grows over the step, relative to it, and the increment of the path, standardised."""
        lam, after = (_lam(a, s) for a, s in ((info.alpha, info.sigma), (info.alpha_next, info.sigma_next)))
        growth = jnp.expm1(2 * (after - lam))
        # In units of sqrt(u) at the step's cleaner end.
        scale = jnp.where(growth > 0, jnp.sqrt(growth / (1 + growth)), 1)
        a, b = (self._at(x, info.noise, after) for x in (lam, after))
        return growth, jax.tree.map(lambda a, b: (b - a) / jnp.asarray(scale, a.dtype), a, b)

    def _at(self, lam, like, unit):
        """W at lam, over exp(unit)."""

        def draw(key, low, high, w_low, w_high, lam):
            """W at lam between two known values."""
            # Distances in u relative to u at the upper end: nothing overflows.
            whole = -jnp.expm1(2 * (low - high))
            share = jnp.where(whole > 0, -jnp.expm1(2 * (low - lam)) * jnp.exp(2 * (lam - high)) / whole, 0)
            spread = jnp.sqrt(jnp.maximum(share * -jnp.expm1(2 * (lam - high)), 0)) * jnp.exp(high - unit)
            z = _tree.normal_like(key, like)
            mix = lambda a, b, z: a + share.astype(a.dtype) * (b - a) + spread.astype(a.dtype) * z
            return jax.tree.map(mix, w_low, w_high, z)

        def halve(_, state):
            key, low, high, w_low, w_high = state
            middle = (low + high) / 2
            key, own = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
            w = draw(own, low, high, w_low, w_high, middle)
            right = lam >= middle
            pick = lambda a, b: _tree.where(right, a, b)
            key = jax.random.fold_in(key, right.astype(np.int32))
            return key, pick(middle, low), pick(high, middle), pick(w, w_low), pick(w_high, w)

        zero = jnp.zeros_like(lam)
        start, end = zero - WIDEST, zero + WIDEST
        first = jax.tree.map(lambda z: z * jnp.exp(end - unit).astype(z.dtype), _tree.normal_like(self.key, like))
        state = (jax.random.fold_in(self.key, 2), start, end, _tree.zeros_like(like), first)
        key, low, high, w_low, w_high = jax.lax.fori_loop(0, self.depth, halve, vary(state, self.key, lam, like, unit))
        return draw(key, low, high, w_low, w_high, lam)


def _check_rows(name, value):
    if value is None:
        return
    if (
        type(value) is not tuple
        or len(value) != 2
        or np.ndim(value[0]) != 1
        or np.shape(value[0]) != np.shape(value[1])
    ):
        raise TypeError(f"{name} must be None or a pair of integers [R], got {shown(value)}. Use begin(plan).")
    for each in value:
        check_number(name, each, low=0)


def _lam(alpha, sigma):
    ratio = jnp.where((alpha > 0) & (sigma > 0), alpha / jnp.where(sigma > 0, sigma, 1), 1)
    lam = jnp.where(sigma > 0, jnp.where(alpha > 0, jnp.log(ratio), -WIDEST), WIDEST)
    return jnp.clip(lam, -WIDEST, WIDEST)
