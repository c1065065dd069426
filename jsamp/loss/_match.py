"""The loss of every network that denoises along a Gaussian path."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields
from jsamp._core._callable import as_tree
from jsamp._core._mesh import sharded_like
from jsamp._core._pytree import field, pytree, static
from jsamp._core._tree import normal_like
from jsamp.denoise._denoiser import CONVERSIONS
from jsamp.loss import _protocol as p
from jsamp.loss._times import UniformTimes, as_times, draw_times
from jsamp.noise._protocol import check_schedule


class MatchDrawn(NamedTuple):
    """Hold what `Match` draws.

    Args:
        x0: clean rows [n, ...].
        condition: their condition after dropping, or None.
        t: times [n].
        eps: noise like x0.

    Example:
        >>> import jsamp as js
        >>> js.loss.MatchDrawn(x0=1.0, condition=None, t=0.5, eps=0.0).t
        0.5
    """

    x0: Any
    condition: Any
    t: Any
    eps: Any


@pytree
class EDMWeight:
    """Weigh the squared error of x0 so that every noise level counts alike.

    w = (r^2 + sigma_data^2) / (r sigma_data)^2 with r = sigma / alpha: at an untrained `js.denoise.EDM` network whose
    output is zero the weighted loss is 1 in expectation, for data of mean square sigma_data^2.

    Args:
        sigma_data: root mean square of the data, > 0: 0.75 for 8x8 digits in [-1, 1], 0.5 in the paper.

    Returns:
        The weight, of the shape of t.

    Raises:
        ValueError: for a sigma_data that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> float(js.loss.EDMWeight(0.5)(js.noise.VE(), jnp.float32(0.5)))
        8.0

    Cost:
        Elementwise on the times.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364.
    """

    sigma_data: Any = 0.5

    def __post_init__(self):
        _checks.check_scalar("EDMWeight: sigma_data", self.sigma_data, low=0, open_low=True)

    def __call__(self, schedule, t):
        """Return the weight at time t."""
        data = jnp.asarray(self.sigma_data, t.dtype)
        ratio = schedule.sigma(t) / schedule.alpha(t)
        return 1 / data**2 + 1 / ratio**2


def as_weight(name: str, weight: Any) -> Any:
    """Return a weight: a non-negative number, or a callable tree of (schedule, t)."""
    if callable(weight):
        return as_tree(name, weight, "weight(schedule, t)")
    _checks.check_scalar(name, weight, low=0)
    return weight


def weigh(weight: Any, schedule: Any, t: Any) -> Any:
    """Return the weight at one time."""
    value = jnp.asarray(weight(schedule, t) if callable(weight) else weight, t.dtype)
    if value.shape:
        raise TypeError(f"weight(schedule, t) must return one number for one time, got shape {value.shape}.")
    return value


def weighted(weight: Any, schedule: Any, t: Any, each: Any) -> Any:
    """Multiply what each row [n] loses by the weight of its time, in the dtype of the rows."""
    return (each * jax.vmap(lambda t: weigh(weight, schedule, t))(t)).astype(each.dtype)


def head(predicts: str, schedule: Any, t: Any, x0: Any, eps: Any) -> tuple[Any, Any]:
    """Return x_t and what a network with this head should say there, for one row."""
    one = jnp.ones_like(t)
    (a, da), (s, ds) = (jax.jvp(f, (t,), (one,)) for f in (schedule.alpha, schedule.sigma))
    zero = jnp.zeros_like(t)
    c, d = {"eps": (zero, one), "x0": (one, zero), "v": (-s, a), "score": (zero, -1 / s), "velocity": (da, ds)}[
        predicts
    ]
    mix = lambda u, v: jax.tree.map(lambda clean, noise: (u * clean + v * noise).astype(clean.dtype), x0, eps)
    return mix(a, s), mix(c, d)


@pytree
class Match(p.Called):
    """Train a network to denoise: the weighted mean square of its error, for any head and any schedule.

    x_t = alpha x0 + sigma eps. Targets: eps; x0; v = alpha eps - sigma x0; score = -eps / sigma;
    velocity = alpha' x0 + sigma' eps. The value is the mean over rows and event of weight(t) times the
    squared error. Papers sum over the event, some over the batch too: divide their learning rates accordingly. The
    minimiser is the conditional mean of the target whatever the weight; on N(0, s^2) with weight 1 the floor of the x0
    loss is the mean of s^2 sigma^2 / (alpha^2 s^2 + sigma^2).

    Args:
        schedule: the noise schedule; sampling uses the same.
        predicts: "eps", "x0", "v", "score" or "velocity", as `js.Denoiser` (static). For EDM wrap the network:
            `js.denoise.EDM(network, sigma_data)` with "x0", `js.noise.VE()`, `LogNormalTimes()` and `EDMWeight()`.
        weight: number >= 0 or callable tree (schedule, t) -> number; None is 1, and sigma^2 for the score.
        times: callable tree (schedule, u) -> t, the quantile function of the law of t.
        time_map: maps t to what the network takes, as in `js.Denoiser`.
        drop: probability that the condition of a row is replaced by `null`, for classifier-free guidance.
        null: the condition that means none, of the structure of one row's condition.
        stratified: spread the levels of a batch evenly over their law, which removes most of the noise of the loss
            between batches (static).
        batched: the network takes x [n, ...] and t [n] in one call; otherwise it takes one row and is vmapped (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: callable tree (x, t) or (x, t, condition). batch: x0
        [n, ...], any tree; or a pair (x0, condition).

    Raises:
        TypeError: for integer batches, or a model whose output differs from x in structure or shape.
        ValueError: for an unknown head, negative weights, empty batches, a condition of another length.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.Match(js.noise.VE(), predicts="x0", weight=js.loss.EDMWeight(1.0))
        >>> x0 = jax.random.normal(jax.random.key(1), (4096, 1))
        >>> untrained = js.denoise.EDM(lambda x, t: jnp.zeros_like(x), sigma_data=1.0)
        >>> bool(abs(loss(jax.random.key(0), untrained, x0)[0] - 1) < 0.1)
        True

    Cost:
        One network call.

    References:
        Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239. Karras et al.,
        "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364. Lipman et al.,
        "Flow Matching for Generative Modeling", 2022, arXiv:2210.02747.
    """

    schedule: Any
    predicts: str = static(default="eps")
    weight: Any = field(default=None, convert=lambda name, value: None if value is None else as_weight(name, value))
    times: Any = field(default=UniformTimes(), convert=as_times)
    time_map: Any = field(default=None, convert=_fields.callable_as("time_map(t)", optional=True))
    drop: Any = 0.0
    null: Any = None
    stratified: bool = static(default=True)
    batched: bool = static(default=False)

    def __post_init__(self):
        check_schedule("Match: schedule", self.schedule)
        _checks.check_choice("Match: predicts", self.predicts, tuple(CONVERSIONS))
        _checks.check_scalar("Match: drop", self.drop, low=0, high=1)
        for leaf in jax.tree.leaves(self.null):
            _checks.check_finite("Match: null", leaf, remedy="Give the condition that means none, for example 10.")
        known = _checks.concrete(self.drop)
        if self.null is None and (known is None or known > 0):
            raise ValueError("Match: drop > 0 needs null, the condition that means none, for example null=10.")

    def draw(self, key, batch):
        """Draw times, noise and which conditions are dropped."""
        _checks.check_key(key, "Match")
        x0, condition, num = p.split_condition("Match: batch", batch)
        if condition is None and self.null is not None:
            raise ValueError("Match: batch has no condition to drop; pass a pair (x, condition), or drop=0, null=None.")
        dtype = jnp.result_type(*jax.tree.leaves(x0))
        k_time, k_noise, k_drop = jax.random.split(key, 3)
        t = draw_times("Match", k_time, self.times, self.schedule, num, dtype, self.stratified)
        if self.null is not None:
            dropped = sharded_like(jax.random.bernoulli(k_drop, self.drop, (num,)), condition)
            condition = jax.vmap(lambda drop, c: _replace(drop, self.null, c))(dropped, condition)
        return MatchDrawn(x0, condition, t, normal_like(k_noise, x0))

    def value(self, model, drawn):
        """Return the weighted mean square error of the network's head."""
        x0, condition, t, eps = drawn
        x, target = jax.vmap(lambda *row: head(self.predicts, self.schedule, *row))(t, x0, eps)
        time = t if self.time_map is None else jax.vmap(self.time_map)(t)
        output = p.call_like("Match", model, self.batched, x, time, condition)
        each = p.each_square(output, target)
        if self.weight is not None:
            each = weighted(self.weight, self.schedule, t, each)
        elif self.predicts == "score":
            each = weighted(_variance, self.schedule, t, each)
        return p.finish(each)


def _variance(schedule, t):
    return schedule.sigma(t) ** 2


def _replace(drop, null, condition):
    return jax.tree.map(lambda n, c: jnp.where(drop, jnp.asarray(n, c.dtype), c), null, condition)
