"""Losses of signals that are repaired, or seen only through a known map."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields
from jsamp._core._like import match
from jsamp._core._pytree import field, pytree, static
from jsamp._core._tree import lincomb, normal_like
from jsamp.loss import _protocol as p
from jsamp.loss._match import as_weight, weighted
from jsamp.loss._times import UniformTimes, as_times, draw_times
from jsamp.noise._protocol import check_schedule


class RegenerationDrawn(NamedTuple):
    """Hold what `Regeneration` draws.

    Args:
        x: clean rows [n, ...].
        y: corrupted rows.
        t: times [n].
        eps: noise like x.

    Example:
        >>> import jsamp as js
        >>> js.loss.RegenerationDrawn(x=1.0, y=1.0, t=0.5, eps=0.0).t
        0.5
    """

    x: Any
    y: Any
    t: Any
    eps: Any


@pytree
class Regeneration(p.Called):
    """Train a regressor and the diffusion that repairs it, together (StoRM).

    estimate = regressor(y); x_t = alpha x + (1 - alpha) estimate + sigma eps; the value is mix |estimate - x|^2 + (1 -
    mix) |error of eps|^2, each a mean over rows and event (the paper sums over the batch and halves). The gradient of
    the second term flows into the regressor unless `stop`; at the optimum of the second network it is zero, so E[x | y]
    stays the best estimate.

    Args:
        schedule: the bridge, usually `js.noise.OUVE()`.
        predicts: "score", "eps" or "x0", what the second network says (static); see `js.solve.regenerate`.
        mix: weight of the regressor's error, in [0, 1].
        times: callable tree (schedule, u) -> t.
        stop: keep the second term's gradient out of the regressor (static).
        batched: as in `Match` (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)` with the means of both terms in `parts`. model: a pair of
        callable trees, regressor(y) and network(x_t, t, y, estimate). batch: a pair (x, y).

    Raises:
        TypeError: for a model that is not such a pair, or outputs that differ from x.
        ValueError: for an unknown head or a mix outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.Regeneration(js.noise.OUVE(), predicts="x0", mix=0.5)
        >>> perfect = (lambda y: y - 1, lambda x, t, y, estimate: y - 1)
        >>> x = jnp.ones((4, 2))
        >>> float(loss(jax.random.key(0), perfect, (x, x + 1))[0])
        0.0

    Cost:
        One call of each network.

    References:
        Lemercier et al., "StoRM: A Diffusion-based Stochastic Regeneration Model for Speech Enhancement and
        Dereverberation", 2023, arXiv:2212.11851.
    """

    schedule: Any
    predicts: Literal["score", "eps", "x0"] = static(default="score")
    mix: Any = 0.5
    times: Any = field(default=UniformTimes(), convert=as_times)
    stop: bool = static(default=False)
    batched: bool = static(default=False)

    def __post_init__(self):
        check_schedule("Regeneration: schedule", self.schedule)
        _checks.check_choice("Regeneration: predicts", self.predicts, ("score", "eps", "x0"))
        _checks.check_scalar("Regeneration: mix", self.mix, low=0, high=1)

    def draw(self, key, batch):
        """Draw times and noise."""
        _checks.check_key(key, "Regeneration")
        if type(batch) is not tuple:
            raise TypeError("Regeneration: batch must be a pair (x, y) of clean and corrupted rows.")
        x, y, num = p.split_condition("Regeneration: batch", batch)
        k_time, k_noise = jax.random.split(key)
        dtype = jnp.result_type(*jax.tree.leaves(x))
        t = draw_times("Regeneration", k_time, self.times, self.schedule, num, dtype)
        return RegenerationDrawn(x, y, t, normal_like(k_noise, x))

    def value(self, model, drawn):
        """Return the mixed error."""
        x, y, t, eps = drawn
        regressor, network = p.players("Regeneration", model, "regressor", "network")
        estimate = match("Regeneration: regressor(y)", p.call("Regeneration: regressor", regressor, self.batched, y), x)
        given = p.frozen(estimate) if self.stop else estimate
        alpha, sigma = jax.vmap(self.schedule.alpha)(t), jax.vmap(self.schedule.sigma)(t)
        noised = jax.vmap(lambda a, s, *trees: lincomb((a, 1 - a, s), trees))(alpha, sigma, x, given, eps)
        found = p.call_like("Regeneration", network, self.batched, noised, t, y, given)
        repair = {
            "eps": lambda: p.each_square(found, eps),
            "score": lambda: p.each_square(p.scale_rows(-sigma, found), eps),
            "x0": lambda: (alpha / sigma) ** 2 * p.each_square(found, x),
        }[self.predicts]()
        regress = p.each_square(estimate, x)
        repair, mix = repair.astype(regress.dtype), jnp.asarray(self.mix, regress.dtype)
        each = mix * regress + (1 - mix) * repair
        return p.finish(each, regressor=jnp.mean(regress), network=jnp.mean(repair))


class Views(NamedTuple):
    """Hold a batch of observations of hidden signals, for `ForwardModelMatch`.

    Args:
        target: the observation to denoise, [n, ...].
        view: how it was made, the second argument of the forward map; [n, ...].
        context: what else is known, other observations with their views; [n, ...], any tree.
        extra: None, or another observation that the signal must explain.
        extra_view: its view.

    Example:
        >>> import jsamp as js
        >>> js.loss.Views(target=1.0, view=0, context=2.0).extra is None
        True
    """

    target: Any
    view: Any
    context: Any
    extra: Any = None
    extra_view: Any = None


class ViewsDrawn(NamedTuple):
    """Hold what `ForwardModelMatch` draws.

    Args:
        views: the batch.
        t: times [n].
        eps: noise like the target.

    Example:
        >>> import jsamp as js
        >>> js.loss.ViewsDrawn(views=None, t=0.5, eps=0.0).t
        0.5
    """

    views: Any
    t: Any
    eps: Any


@pytree
class ForwardModelMatch(p.Called):
    """Train a generator of signals that are never observed, through a known differentiable map.

    signal = model(x_t, t, view, context) with x_t the noised target; the value is the mean over rows and event of
    weight(t) |forward(signal, view) - target|^2 + extra_weight |forward(signal, extra_view) - extra|^2. Where the views
    together determine the signal, the minimiser is E[signal | x_t, context]. Sample with `js.denoise.ForwardModel`.

    Args:
        forward: callable tree (signal, view) -> observation, differentiable, for one row.
        schedule: the noise schedule of the observation.
        weight: number >= 0 or callable tree (schedule, t) -> number.
        extra_weight: weight of the further observation, >= 0.
        times: callable tree (schedule, u) -> t.
        batched: the network takes all rows in one call (static); the forward map is always vmapped.

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. batch: `Views`.

    Raises:
        TypeError: for a batch that is not `Views`, or a forward map that does not give the shape of the observation.
        ValueError: for negative weights.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> pick = lambda signal, view: jnp.sum(signal * view)[None]
        >>> loss = js.loss.ForwardModelMatch(pick, js.noise.VP())
        >>> batch = js.loss.Views(target=jnp.ones((4, 1)), view=jnp.eye(2)[jnp.array([0, 1, 0, 1])], context=None)
        >>> float(loss(jax.random.key(0), lambda x, t, view: jnp.ones(2), batch)[0])
        0.0

    Cost:
        One network call and one or two of the forward map.

    References:
        Tewari et al., "Diffusion with Forward Models: Solving Stochastic Inverse Problems Without Direct Supervision",
        2023, arXiv:2306.11719.
    """

    forward: Any = field(convert=_fields.callable_as("forward(signal, view)"))
    schedule: Any
    weight: Any = field(default=1.0, convert=as_weight)
    extra_weight: Any = 1.0
    times: Any = field(default=UniformTimes(), convert=as_times)
    batched: bool = static(default=False)

    def __post_init__(self):
        check_schedule("ForwardModelMatch: schedule", self.schedule)
        _checks.check_scalar("ForwardModelMatch: extra_weight", self.extra_weight, low=0)

    def draw(self, key, batch):
        """Draw times and noise."""
        _checks.check_key(key, "ForwardModelMatch")
        if not isinstance(batch, Views):
            raise TypeError(f"ForwardModelMatch: batch must be js.loss.Views(...), got {type(batch).__name__}.")
        num = p.check_batch("ForwardModelMatch: target", batch.target)
        if p.check_rows("ForwardModelMatch: batch", batch) != num:
            raise ValueError("ForwardModelMatch: all parts of the batch must have the rows of target.")
        k_time, k_noise = jax.random.split(key)
        dtype = jnp.result_type(*jax.tree.leaves(batch.target))
        t = draw_times("ForwardModelMatch", k_time, self.times, self.schedule, num, dtype)
        return ViewsDrawn(batch, t, normal_like(k_noise, batch.target))

    def value(self, model, drawn):
        """Return the error of what the signal looks like."""
        views, t, eps = drawn
        alpha, sigma = jax.vmap(self.schedule.alpha)(t), jax.vmap(self.schedule.sigma)(t)
        noised = jax.vmap(lambda a, s, *trees: lincomb((a, s), trees))(alpha, sigma, views.target, eps)
        name = "ForwardModelMatch: model"
        signal = p.call(name, model, self.batched, noised, t, views.view, views.context)
        seen = self._look(signal, views.view, views.target)
        each = weighted(self.weight, self.schedule, t, p.each_square(seen, views.target))
        if views.extra is not None:
            other = p.each_square(self._look(signal, views.extra_view, views.extra), views.extra)
            each = each + jnp.asarray(self.extra_weight, each.dtype) * other
        return p.finish(each)

    def _look(self, signal, view, observation):
        return match("ForwardModelMatch: forward(signal, view)", jax.vmap(self.forward)(signal, view), observation)
