"""Losses that learn clean data from corrupted data."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields
from jsamp._core._mesh import sharded_like
from jsamp._core._pytree import field, pytree, static
from jsamp._core._tree import normal_like
from jsamp.loss import _protocol as p
from jsamp.loss._match import EDMWeight, as_weight, weighted
from jsamp.loss._times import LogNormalTimes, as_times, draw_times, quantiles
from jsamp.noise import VE
from jsamp.noise._protocol import check_schedule


class AmbientDrawn(NamedTuple):
    """Hold what `Ambient` draws.

    Args:
        x: rows [n, ...] as they are in the data.
        known: noise level that each row already has [n].
        sigma: noise level of each row in the loss [n], above the known one.
        eps: noise like x.
        lower: levels below the known one, for the consistency term [n]; None without it.
        path: noise of the consistency term [n, 2, steps, ...]; None without it.

    Example:
        >>> import jsamp as js
        >>> js.loss.AmbientDrawn(x=1.0, known=0.1, sigma=0.5, eps=0.0).lower is None
        True
    """

    x: Any
    known: Any
    sigma: Any
    eps: Any
    lower: Any = None
    path: Any = None


@pytree
class Ambient(p.Called):
    """Train a denoiser on rows some of which are noisy themselves.

    A row of known level k is noised further to sigma > k: x = row + sqrt(sigma^2 - k^2) eps. With r = (k / sigma)^2 the
    network's D is trained through (1 - r) D(x, sigma) + r x against the row. At every sigma > k the minimiser is
    E[x0 | x], the clean conditional mean. Levels below k are learned from cleaner rows, and by the consistency term: D
    is to be the mean of D along the reverse process, for a start at the noisy row; two independent copies make its
    square unbiased. Level sigma comes from the law truncated to sigma > k (the reference clamps, which wastes rows).

    Args:
        weight: number >= 0 or callable tree (schedule, sigma) -> number; the schedule is `js.noise.VE()`.
        times: a `LogNormalTimes`, the law of sigma.
        consistency: weight of the consistency term, >= 0; None leaves it out, as the reference does by default.
        steps: reverse steps of the consistency term (static).
        batched: as in `Match` (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: callable tree (x, sigma) -> x0. batch: a pair (rows,
        known levels [n]); 0 is clean.

    Raises:
        TypeError: for a batch that is not such a pair.
        ValueError: for negative levels or weights.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.Ambient(times=js.loss.LogNormalTimes(0.0, 1.0))
        >>> rows, known = jnp.ones((4, 2)), jnp.array([0.0, 0.0, 0.5, 0.5])
        >>> drawn = loss.draw(jax.random.key(0), (rows, known))
        >>> bool(jnp.all(drawn.sigma > known))
        True

    Cost:
        One network call; with the consistency term 2 * steps + 4 in all.

    References:
        Daras, Cherapanamjeri and Daskalakis, "How Much is a Noisy Image Worth? Data Scaling Laws for Ambient
        Diffusion", 2024, arXiv:2411.02780. Daras, Dimakis and Daskalakis, "Consistent Diffusion Meets Tweedie", 2024,
        arXiv:2404.10177.
    """

    weight: Any = field(default=EDMWeight(), convert=as_weight)
    times: Any = LogNormalTimes()
    consistency: Any = None
    steps: int = static(default=5, convert=_fields.count())
    batched: bool = static(default=False)

    def __post_init__(self):
        if not isinstance(self.times, LogNormalTimes):
            raise TypeError("Ambient: times must be a LogNormalTimes: its law is truncated for each row.")
        if self.consistency is not None:
            _checks.check_scalar("Ambient: consistency", self.consistency, low=0)

    def draw(self, key, batch):
        """Draw levels above the known ones, and noise."""
        _checks.check_key(key, "Ambient")
        if type(batch) is not tuple:
            raise TypeError("Ambient: batch must be a pair (rows, known noise levels [n]).")
        x, known, num = p.split_condition("Ambient: batch", batch)
        if jnp.shape(known) != (num,):
            raise ValueError(f"Ambient: known levels must be [{num}], one for each row, got {jnp.shape(known)}.")
        _checks.check_number("Ambient: known levels", known, low=0)
        k_level, k_noise, k_low, k_path = jax.random.split(key, 4)
        wide = jnp.promote_types(jnp.result_type(*jax.tree.leaves(x)), jnp.float32)
        u, below = (sharded_like(quantiles(key, num, wide, True), x) for key in (k_level, k_low))
        known = known.astype(wide)
        # A level far in the tail rounds to the known one: there the loss has no information and r is 1.
        sigma = jnp.maximum(self.times.ratio(u, known), known)
        drawn = AmbientDrawn(x, known, sigma, normal_like(k_noise, x))
        if self.consistency is None:
            return drawn
        lower = jnp.minimum(self.times.ratio(below, high=jnp.maximum(known, 1e-12)), known)
        many = jax.tree.map(lambda v: jnp.zeros((num, 2, self.steps, *v.shape[1:]), v.dtype), x)
        return drawn._replace(lower=lower, path=normal_like(k_path, many))

    def value(self, model, drawn):
        """Return the weighted error, with the consistency term where it was drawn."""
        x, known, sigma, eps = drawn[:4]
        more = jnp.sqrt((sigma - known) * (sigma + known))
        noised = jax.tree.map(jnp.add, x, p.scale_rows(more, eps))
        found = p.call_like("Ambient", model, self.batched, noised, sigma)
        share = (known / sigma) ** 2
        mixed = jax.tree.map(jnp.add, p.scale_rows(1 - share, found), p.scale_rows(share, noised))
        schedule = VE()
        each = weighted(self.weight, schedule, sigma, p.each_square(mixed, x))
        if drawn.path is None:
            return p.finish(each)
        term = self._term(model, drawn)
        total = each + jnp.asarray(self.consistency, each.dtype) * term
        return p.finish(total, denoising=jnp.mean(each), consistency=jnp.mean(term))

    def _term(self, model, drawn):
        """Product of the differences that two copies of the reverse process find; 0 for clean rows."""
        x, known, lower, noisy = drawn.x, drawn.known, drawn.lower, drawn.known > 0
        start = jnp.where(noisy, known, 1)
        end = jnp.where(noisy, jnp.maximum(lower, 1e-3 * known), 0.5)
        here = p.call_like("Ambient", model, self.batched, x, start)
        gaps = []
        for copy in range(2):
            now, level = x, start
            for k in range(self.steps):
                # Ancestral steps of equal ratio: exact where the data are one point, and mean-preserving for D linear.
                following = start * (end / start) ** ((k + 1) / self.steps)
                clean = p.frozen(p.call_like("Ambient", model, self.batched, now, level))
                keep = (following / level) ** 2
                spread = following * jnp.sqrt(1 - keep)
                noise = jax.tree.map(lambda z, copy=copy, k=k: z[:, copy, k], drawn.path)
                parts = p.scale_rows(1 - keep, clean), p.scale_rows(keep, now), p.scale_rows(spread, noise)
                now, level = jax.tree.map(lambda a, b, c: a + b + c, *parts), following
            there = p.call_like("Ambient", model, self.batched, now, end)
            gaps.append(jax.tree.map(jnp.subtract, there, here))
        product = jax.vmap(lambda a, b: sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.mean(u * v), a, b))))
        return jnp.where(noisy, product(*gaps) / len(jax.tree.leaves(x)), 0)


class AmbientMaskDrawn(NamedTuple):
    """Hold what `AmbientMask` draws.

    Args:
        x: rows [n, ...], of which only what the mask shows is used.
        mask: what the data show, 0 or 1, like x.
        seen: what the network is shown, a part of it.
        sigma: noise levels [n].
        eps: noise like x.

    Example:
        >>> import jsamp as js
        >>> js.loss.AmbientMaskDrawn(x=1.0, mask=1.0, seen=0.0, sigma=0.5, eps=0.0).sigma
        0.5
    """

    x: Any
    mask: Any
    seen: Any
    sigma: Any
    eps: Any


@pytree
class AmbientMask(p.Called):
    """Train a denoiser on rows whose entries are partly missing: hide more, and predict all that the data show.

    seen = mask * Bernoulli(1 - delta); the network gets seen * (x + sigma eps) and `seen`; the value is the mean over
    rows and event of weight(sigma) mask (D - x)^2. A hidden entry may have been shown to the loss, so the minimiser is
    E[x0 | what is seen] at every entry. The mask of a row must be that of the data set, fixed for good.

    Args:
        schedule: the noise schedule, usually `js.noise.VE()`.
        delta: share of the shown entries that are hidden from the network, in (0, 1).
        weight: number >= 0 or callable tree (schedule, t) -> number.
        times: callable tree (schedule, u) -> t.
        batched: as in `Match` (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: callable tree (x, t, seen) -> x0. batch: a pair (rows,
        masks), both [n, ...].

    Raises:
        TypeError: for a batch that is not such a pair.
        ValueError: for a delta outside (0, 1).

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.AmbientMask(js.noise.VE(), delta=0.5)
        >>> rows, masks = jnp.ones((4, 2)), jnp.tile(jnp.array([1.0, 0.0]), (4, 1))
        >>> float(loss(jax.random.key(0), lambda x, t, seen: jnp.array([1.0, 9.0]), (rows, masks))[0])
        0.0

    Cost:
        One network call.

    References:
        Daras et al., "Ambient Diffusion: Learning Clean Distributions from Corrupted Data", 2023, arXiv:2305.19256.
    """

    schedule: Any = VE()
    delta: Any = 0.1
    weight: Any = field(default=1.0, convert=as_weight)
    times: Any = field(default=LogNormalTimes(), convert=as_times)
    batched: bool = static(default=False)

    def __post_init__(self):
        check_schedule("AmbientMask: schedule", self.schedule)
        _checks.check_scalar("AmbientMask: delta", self.delta, low=0, high=1 - 1e-6, open_low=True)

    def draw(self, key, batch):
        """Draw what else is hidden, levels and noise."""
        _checks.check_key(key, "AmbientMask")
        if type(batch) is not tuple:
            raise TypeError("AmbientMask: batch must be a pair (rows, masks) of one shape.")
        x, mask, num = p.split_condition("AmbientMask: batch", batch)
        if jax.tree.map(jnp.shape, x) != jax.tree.map(jnp.shape, mask):
            raise TypeError("AmbientMask: rows and masks must have one structure and one shape.")
        k_hide, k_level, k_noise = jax.random.split(key, 3)
        leaves, structure = jax.tree.flatten(mask)
        keys, dtype = jax.random.split(k_hide, len(leaves)), jnp.result_type(*jax.tree.leaves(x))
        kept = [jax.random.bernoulli(k, 1 - self.delta, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
        mask = jax.tree.map(lambda m: m.astype(dtype), mask)
        seen = jax.tree.map(lambda m, keep: m * keep, mask, jax.tree.unflatten(structure, kept))
        sigma = draw_times("AmbientMask", k_level, self.times, self.schedule, num, dtype)
        return AmbientMaskDrawn(x, mask, seen, sigma, normal_like(k_noise, x))

    def value(self, model, drawn):
        """Return the weighted error where the data show something."""
        x, mask, seen, t, eps = drawn
        alpha, sigma = jax.vmap(self.schedule.alpha)(t), jax.vmap(self.schedule.sigma)(t)
        noised = jax.tree.map(jnp.add, p.scale_rows(alpha, x), p.scale_rows(sigma, eps))
        shown = jax.tree.map(lambda m, v: jnp.where(m > 0, m * v, 0), seen, noised)
        found = p.call_like("AmbientMask", model, self.batched, shown, t, seen)
        gap = jax.tree.map(lambda m, d, v: jnp.where(m > 0, m * (d - v), 0), mask, found, x)
        return p.finish(weighted(self.weight, self.schedule, t, jax.vmap(p.mean_square)(gap)))
