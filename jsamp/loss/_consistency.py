"""Losses of students that jump to the data in one step, or from any level to any other."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._callable import as_tree
from jsamp._core._pytree import field, pytree, static
from jsamp._core._tree import cast_like, normal_like, size
from jsamp.loss import _protocol as p
from jsamp.loss._teacher import Teacher, x_dtype
from jsamp.loss._times import as_levels, quantiles

TARGETS = ("student", "teacher", "tangent")


class ConsistencyDrawn(NamedTuple):
    """Hold what `Consistency` draws.

    Args:
        x0: clean rows [n, ...].
        condition: their condition, or None.
        t: upper levels [n].
        u: lower levels [n].
        eps: noise like x0.
        keys: keys of the teacher's noise [n].

    Example:
        >>> import jsamp as js
        >>> js.loss.ConsistencyDrawn(x0=1.0, condition=None, t=2.0, u=1.0, eps=0.0, keys=None).u
        1.0
    """

    x0: Any
    condition: Any
    t: Any
    u: Any
    eps: Any
    keys: Any


def _probabilities(name, value):
    if value is not None:
        _checks.check_number(name, value, low=0)
        known = _checks.concrete(value)
        if known is not None and (known.ndim != 1 or not known.sum() > 0):
            raise ValueError(f"{name} must be [N - 1] weights that are not all zero, got {value!r}.")
    return value


def _distance(name, value):
    if callable(value):
        return as_tree(name, value, "distance(a, b)")
    _checks.check_choice(name, value, ("l2", "huber"))
    return jax.tree_util.Partial({"l2": _l2, "huber": _huber}[value])


def _l2(a, b):
    return p.mean_square(jax.tree.map(jnp.subtract, a, b))


def _huber(a, b):
    """sqrt(|a - b|^2 + c^2) - c with c = 0.00054 sqrt(d), by the norm of the whole event."""
    gap = jax.tree.map(jnp.subtract, a, b)
    total = size(gap)
    square, c = total * p.mean_square(gap), 0.00054 * total**0.5
    return square / (jnp.sqrt(square + c**2) + c)


@pytree
class Consistency(p.Called):
    """Train a student to jump from any noise level to the data in one step.

    Rows are noised to a level t = grid[i]; the student's f(x_t, t) is pulled to a target at the next level u = grid[i +
    1]. Without a teacher x_u = x0 + u eps with the same noise (consistency training). With one, x_u is its solver's
    (consistency distillation; SCott with a stochastic solver of several sub-steps). Targets: "student", f(x_u, u) of
    the target player, gradients stopped (the student itself where there is one player, as improved training does);
    "teacher", progressive distillation: the x0 from which one Euler step reaches x_u; "tangent", the limit of fine
    grids: the pseudo-loss 2 stop(df / dt).f, whose gradient alone has a meaning (the level t is spread evenly between
    its two nodes). The value is the mean over rows of weight(t, u) distance.

    With a stochastic teacher the student learns the mean over the teacher's noise, and the variance of its samples
    falls: on N(0, s^2) to s^2 (s^2 / (s^2 + sigma_max^2))^(eta^2) in one step. A critic, player 3, is part of that
    algorithm: its term is critic_weight times the mean of -critic(f(x_t, t)); train it by `ConsistencyCritic`.

    Args:
        grid: decreasing noise levels [N] > 0, without a final zero: `js.noise.karras_grid(schedule, 18)[:-1]`.
        teacher: None, or a `js.loss.Teacher`.
        target: "student", "teacher" or "tangent" (static).
        distance: "l2", the mean square; "huber", sqrt(|.|^2 + c^2) - c with c = 0.00054 sqrt(d); or a callable tree (a,
            b) -> number, for one row.
        weight: None for 1, or a callable tree (t, u) -> number: lambda t, u: 1 / (t - u) for improved training.
        probabilities: weights of the levels [N - 1], from the top; None for even ones.
        critic_weight: weight of the critic's term, >= 0; used when the model has three players.
        batched: as in `Match` (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: the student, a callable tree (x, sigma[, condition]) ->
        x0 with f(x, grid[-1]) = x, see `js.denoise.EDM(..., sigma_min)`; or (student, target), or (student, target,
        critic); `js.fit.minimise(..., follow=mu)` moves the target. batch: as in `Match`.

    Raises:
        TypeError: for batches or models of the wrong kind.
        ValueError: for a grid that does not decrease or ends at zero, an unknown target, a progressive target without
            a teacher.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.Consistency([3.0, 1.0, 0.002])
        >>> student = js.denoise.EDM(lambda x, c: jnp.zeros_like(x), sigma_min=0.002)
        >>> value, _ = loss(jax.random.key(0), (student, student), jnp.ones((8, 2)))
        >>> bool(value > 0)
        True

    Cost:
        Two calls of the student, and the teacher's.

    References:
        Song et al., "Consistency Models", 2023, arXiv:2303.01469. Song and Dhariwal, "Improved Techniques for Training
        Consistency Models", 2023, arXiv:2310.14189. Salimans and Ho, "Progressive Distillation for Fast Sampling of
        Diffusion Models", 2022, arXiv:2202.00512. Liu et al., "SCott: Accelerating Diffusion Models with Stochastic
        Consistency Distillation", 2024, arXiv:2403.01505.
    """

    grid: Any = field(convert=as_levels)
    teacher: Any = None
    target: Literal["student", "teacher", "tangent"] = static(default="student")
    distance: Any = field(default="l2", convert=_distance)
    weight: Any = field(default=None, convert=_fields.callable_as("weight(t, u)", optional=True))
    probabilities: Any = field(default=None, convert=_probabilities)
    critic_weight: Any = 0.4
    batched: bool = static(default=False)
    player = 0

    def __post_init__(self):
        _checks.check_choice("Consistency: target", self.target, TARGETS)
        if self.teacher is not None and not isinstance(self.teacher, Teacher):
            raise TypeError("Consistency: teacher must be a js.loss.Teacher(denoiser, build, steps), or None.")
        if self.target == "teacher" and self.teacher is None:
            raise ValueError("Consistency: target='teacher' needs a teacher, for example js.loss.Teacher(denoiser).")
        _checks.check_scalar("Consistency: critic_weight", self.critic_weight, low=0)
        shape = np.shape(self.probabilities) if self.probabilities is not None else None
        if shape is not None and shape != (np.shape(self.grid)[0] - 1,):
            raise ValueError(f"Consistency: probabilities must be [{np.shape(self.grid)[0] - 1}], got {shape}.")

    def draw(self, key, batch):
        """Draw levels, noise and the teacher's keys."""
        _checks.check_key(key, "Consistency")
        x0, condition, num = p.split_condition("Consistency: batch", batch)
        k_level, k_noise, k_teacher, k_share = jax.random.split(key, 4)
        grid = jnp.asarray(self.grid, x_dtype(x0))
        index = levels(k_level, num, grid.shape[0] - 1, self.probabilities)
        t, u = grid[index], grid[index + 1]
        if self.target == "tangent":
            t = u + jax.random.uniform(k_share, (num,), grid.dtype) * (t - u)
        keys = jax.random.split(k_teacher, num)
        return ConsistencyDrawn(x0, condition, t, u, normal_like(k_noise, x0), keys)

    def value(self, model, drawn):
        """Return the distance to the target, with the critic's term where there is a critic."""
        student, target, critic = _roles("Consistency", model)
        x0, condition, t, u, eps, _ = drawn
        x = jax.tree.map(jnp.add, x0, p.scale_rows(t, eps))
        call = lambda f, x, t: p.call_like("Consistency", f, self.batched, x, t, condition)
        if self.target == "tangent":
            found, wanted, distance = *self._tangent(call, student, x, drawn), _twice_product
        else:
            found, distance = call(student, x, t), self.distance
            below = self._below(x, drawn)
            if self.target == "student":
                wanted = call(p.frozen(target), cast_like(below, x), u)
            else:
                shares = p.scale_rows(t / (t - u), below), p.scale_rows(u / (t - u), _wide(x))
                wanted = cast_like(jax.tree.map(jnp.subtract, *shares), x)
        each = p.each_number("Consistency: distance", jax.vmap(distance)(found, jax.lax.stop_gradient(wanted)))
        if self.weight is not None:
            each = each * p.each_number("Consistency: weight", jax.vmap(self.weight)(t, u)).astype(each.dtype)
        if critic is None:
            return p.finish(each)
        fooled = -_judge("Consistency: critic", p.frozen(critic), self.batched, found, t, condition)
        total = each + jnp.asarray(self.critic_weight, each.dtype) * fooled
        return p.finish(total, consistency=jnp.mean(each), critic=jnp.mean(fooled))

    def _below(self, x, drawn):
        """The rows at the lower level; a teacher's are float32 at least, as the states of its run are."""
        if self.teacher is None:
            return jax.tree.map(jnp.add, drawn.x0, p.scale_rows(drawn.u, drawn.eps))
        rows = (drawn.keys, _wide(x), drawn.t, drawn.u, drawn.condition)
        return jax.vmap(self.teacher)(*rows)

    def _tangent(self, call, student, x, drawn):
        """The student's output, and its derivative along the path of the row."""
        velocity = drawn.eps
        if self.teacher is not None:
            velocity = cast_like(jax.vmap(self.teacher.velocity)(_wide(x), drawn.t, drawn.condition), x)
        return jax.jvp(lambda x, t: call(student, x, t), (x, drawn.t), (velocity, jnp.ones_like(drawn.t)))


def _wide(tree):
    """The tree in single precision at least."""
    return jax.tree.map(lambda leaf: leaf.astype(x_dtype(leaf)), tree)


def _twice_product(found, slope):
    parts = jax.tree.map(lambda f, s: jnp.sum(f * s), found, slope)
    return 2 * jnp.stack(jax.tree.leaves(parts)).sum() / size(found)


def _judge(name, critic, batched, *rows):
    return p.each_number(name, p.call(name, critic, batched, *rows))


def _roles(name, model):
    """Student, target and critic of a model that may leave out the last ones."""
    if type(model) is not tuple:
        return model, model, None
    if len(model) not in (2, 3):
        raise TypeError(f"{name}: model must be the student, (student, target) or (student, target, critic).")
    p.players(name, model, *("student", "target", "critic")[: len(model)])
    return model[0], model[1], model[2] if len(model) == 3 else None


def levels(key, num, count, probabilities):
    """Draw stratified indices [num] below `count`, even or with these weights."""
    u = quantiles(key, num, jnp.float32, True)
    if probabilities is None:
        return jnp.minimum((u * count).astype(jnp.int32), count - 1)
    mass = jnp.cumsum(jnp.asarray(probabilities, jnp.float32))
    return jnp.minimum(jnp.searchsorted(mass, u * mass[-1], side="right"), count - 1)


@pytree
class ConsistencyCritic(p.Called):
    """Train the critic of a `Consistency` student by the hinge loss.

    The mean over rows of max(0, 1 - critic(x0, t)) + max(0, 1 + critic(f(x_t, t), t)), the student fixed.

    Args:
        consistency: the student's `Consistency`; its draws are used.

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: (student, target, critic), critic a callable tree (x,
        sigma[, condition]) -> scalar.

    Raises:
        TypeError: for something that is not a `Consistency`, or a model without a critic.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.ConsistencyCritic(js.loss.Consistency([3.0, 1.0]))
        >>> student = lambda x, t: x
        >>> float(loss(jax.random.key(0), (student, student, lambda x, t: 0.0 * x.sum()), jnp.ones((8, 2)))[0])
        2.0

    Cost:
        One call of the student and two of the critic.

    References:
        Liu et al., "SCott: Accelerating Diffusion Models with Stochastic Consistency Distillation", 2024,
        arXiv:2403.01505.
    """

    consistency: Any
    player = 2

    def __post_init__(self):
        if not isinstance(self.consistency, Consistency):
            raise TypeError("ConsistencyCritic: consistency must be the student's js.loss.Consistency.")

    def draw(self, key, batch):
        """Draw levels and noise, as for the student."""
        return self.consistency.draw(key, batch)

    def value(self, model, drawn):
        """Return the hinge loss of the critic."""
        student, _, critic = p.players("ConsistencyCritic", model, "student", "target", "critic")
        batched, t, condition = self.consistency.batched, drawn.t, drawn.condition
        x = jax.tree.map(jnp.add, drawn.x0, p.scale_rows(t, drawn.eps))
        made = jax.lax.stop_gradient(p.call_like("ConsistencyCritic", student, batched, x, t, condition))
        judge = lambda x: _judge("ConsistencyCritic: critic", critic, batched, x, t, condition)
        return p.finish(jax.nn.relu(1 - judge(drawn.x0)) + jax.nn.relu(1 + judge(made)))
