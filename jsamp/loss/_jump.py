"""Consistency trajectory models: from any level to any lower one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._pytree import field, pytree, static
from jsamp._core._tree import normal_like
from jsamp.loss import _protocol as p
from jsamp.loss._consistency import levels
from jsamp.loss._match import EDMWeight, as_weight, weighted
from jsamp.loss._teacher import Teacher
from jsamp.loss._times import LogNormalTimes, as_levels, as_times, draw_times
from jsamp.noise import VE


def jump(model: Any, x: Any, t: Any, s: Any, *condition: Any) -> Any:
    """Move x from noise level t to s by a trajectory network: G(x, t, s) = (s / t) x + (1 - s / t) g(x, t, s).

    g(x, t, t) is the denoiser, g(x, t, 0) the sample; G(x, t, t) = x exactly.

    Args:
        model: callable tree g(x, t, s[, condition]) -> x0.
        x: one row at level t.
        t: noise level, > 0.
        s: noise level, from 0 to t.
        *condition: what else the network takes.

    Returns:
        The row at level s.

    Raises:
        ValueError: for s above t, or levels that are negative.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.loss.jump(lambda x, t, s: jnp.zeros_like(x), jnp.ones(1), 2.0, 1.0).tolist()
        [0.5]

    Cost:
        One network call.

    References:
        Kim et al., "Consistency Trajectory Models: Learning Probability Flow ODE Trajectory of Diffusion", 2023,
        arXiv:2310.02279.
    """
    _checks.check_scalar("jump: t", t, low=0, open_low=True)
    _checks.check_scalar("jump: s", s, low=0)
    known = _checks.concrete(t), _checks.concrete(s)
    if known[0] is not None and known[1] is not None and known[1] > known[0]:
        raise ValueError(f"jump: s must be at most t, got s = {s} and t = {t}: jumps go down.")
    dtype = jnp.result_type(*jax.tree.leaves(x))
    t, s = jnp.asarray(t, dtype), jnp.asarray(s, dtype)
    share = s / t
    return jax.tree.map(lambda v, g: share * v + (1 - share) * g, x, model(x, t, s, *condition))


class TrajectoryDrawn(NamedTuple):
    """Hold what `TrajectoryConsistency` draws.

    Args:
        x0: clean rows [n, ...].
        condition: their condition, or None.
        t: where the jump starts [n].
        u: where the teacher's path ends [n].
        s: where both jump to [n], s <= u < t.
        eps: noise like x0.
        keys: keys of the teacher's noise [n].
        level: levels of the denoising term [n].

    Example:
        >>> import jsamp as js
        >>> js.loss.TrajectoryDrawn(x0=1.0, condition=None, t=2.0, u=1.0, s=0.5, eps=0.0, keys=None, level=1.0).s
        0.5
    """

    x0: Any
    condition: Any
    t: Any
    u: Any
    s: Any
    eps: Any
    keys: Any
    level: Any


@pytree
class TrajectoryConsistency(p.Called):
    """Train a student that jumps from any noise level to any lower one (CTM).

    Levels s <= u < t of the grid, with at most `reach` intervals between t and u. The student's jump from x_t to s and
    the jump from the teacher's x_u to s (current weights, gradients stopped) are both taken on to the last level by the
    target player, and compared there; the gradient flows through the fixed target into the student's jump. To this
    comes the denoising loss at s = t, where the first term says nothing.

    Args:
        grid: decreasing noise levels [N] > 0.
        teacher: a `js.loss.Teacher`; its `steps` are taken between t and u.
        reach: most intervals between t and u; None for all. Their number is even in 1..reach (the paper prefers long
            ones).
        denoising: weight of the denoising term, >= 0.
        weight: weight of its squared error: number or callable tree (schedule, sigma) -> number.
        times: law of its level; callable tree (schedule, u) -> sigma.
        batched: as in `Match` (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)` with both terms in `parts`. model: (student, target), callable
        trees g(x, t, s[, condition]); see `jump`. batch: as in `Match`.

    Raises:
        TypeError: for a teacher or model of the wrong kind.
        ValueError: for a grid that does not decrease, or a reach beyond it.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> loss = js.loss.TrajectoryConsistency([3.0, 1.0, 0.002], js.loss.Teacher(law))
        >>> g = lambda x, t, s: x / (1 + t**2)
        >>> value, info = loss(jax.random.key(0), (g, g), jnp.ones((8, 1)))
        >>> sorted(info.parts)
        ['denoising', 'trajectory']

    Cost:
        Five network calls and the teacher's.

    References:
        Kim et al., "Consistency Trajectory Models: Learning Probability Flow ODE Trajectory of Diffusion", 2023,
        arXiv:2310.02279. Novack et al., "DITTO-2: Distilled Diffusion Inference-Time T-Optimization for Music
        Generation", 2024, arXiv:2405.20289 (its surrogate: `jump` to 0, in `js.solve.optimise_start`).
    """

    grid: Any = field(convert=as_levels)
    teacher: Any
    reach: Any = static(default=None)
    denoising: Any = 1.0
    weight: Any = field(default=EDMWeight(), convert=as_weight)
    times: Any = field(default=LogNormalTimes(), convert=as_times)
    batched: bool = static(default=False)
    player = 0

    def __post_init__(self):
        if not isinstance(self.teacher, Teacher):
            raise TypeError("TrajectoryConsistency: teacher must be a js.loss.Teacher(denoiser, build, steps).")
        most = jnp.shape(self.grid)[0] - 1
        if self.reach is not None:
            _checks.check_count("TrajectoryConsistency: reach", self.reach, high=most)
        _checks.check_scalar("TrajectoryConsistency: denoising", self.denoising, low=0)

    def draw(self, key, batch):
        """Draw three levels for each row, noise, the teacher's keys and the level of the denoising term."""
        _checks.check_key(key, "TrajectoryConsistency")
        x0, condition, num = p.split_condition("TrajectoryConsistency: batch", batch)
        k_t, k_u, k_s, k_noise, k_teacher, k_level = jax.random.split(key, 6)
        dtype = jnp.result_type(*jax.tree.leaves(x0))
        grid = jnp.asarray(self.grid, jnp.promote_types(dtype, jnp.float32))
        count = grid.shape[0] - 1
        i = levels(k_t, num, count, None)
        j = i + 1 + _below(k_u, num, jnp.minimum(count - i, self.reach or count))
        k = j + _below(k_s, num, count + 1 - j)
        level = draw_times("TrajectoryConsistency", k_level, self.times, VE(), num, dtype)
        keys = jax.random.split(k_teacher, num)
        t, u, s = (grid[index] for index in (i, j, k))
        return TrajectoryDrawn(x0, condition, t, u, s, normal_like(k_noise, x0), keys, level)

    def value(self, model, drawn):
        """Return the distance of the two jumps, and the denoising loss."""
        student, target = p.players("TrajectoryConsistency", model, "student", "target")
        x0, condition, t, u, s, eps, keys, level = drawn
        end = jnp.full_like(s, self.grid[-1])
        x = jax.tree.map(jnp.add, x0, p.scale_rows(t, eps))
        call = lambda g, x, t, s: p.call_like("TrajectoryConsistency", g, self.batched, x, t, s, condition)

        def leap(g, x, t, s):
            share = s / t
            return jax.tree.map(jnp.add, p.scale_rows(share, x), p.scale_rows(1 - share, call(g, x, t, s)))

        below = jax.vmap(self.teacher)(keys, x, t, u, condition)
        fixed = p.frozen(target)
        found = leap(fixed, leap(student, x, t, s), s, end)
        wanted = jax.lax.stop_gradient(leap(fixed, leap(student, below, u, s), s, end))
        trajectory = p.each_square(found, wanted)
        noised = jax.tree.map(jnp.add, x0, p.scale_rows(level, eps))
        denoising = weighted(self.weight, VE(), level, p.each_square(call(student, noised, level, level), x0))
        each = trajectory + jnp.asarray(self.denoising, trajectory.dtype) * denoising
        return p.finish(each, trajectory=jnp.mean(trajectory), denoising=jnp.mean(denoising))


def _below(key, num, count):
    """Draw integers [num], each below its own count."""
    share = jax.random.uniform(key, (num,), jnp.float32)
    return jnp.minimum((share * count).astype(jnp.int32), count - 1)
