"""Prioritised replay of levels, tasks or samples."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._checks import (
    check_count,
    check_finite,
    check_flag,
    check_key,
    check_number,
    check_scalar,
    is_traced,
)
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Key, Scalar
from jsamp.select._draw import draw_categorical
from jsamp.select._rows import as_array, as_floating


class ReplayState(NamedTuple):
    """Hold a buffer of N slots.

    Args:
        score: [N] primary score (how much there is to learn, for example mean |lambda-return - value|).
        second: [N] secondary score (for example the same on levels solved at least once).
        age: [N] draws since the slot was last chosen.
        seen: [N] bool, slots that have a score.
        filled: [N] bool, slots that hold a level.
        fixed: [N] bool, slots of the original dataset: never evicted.

    Example:
        >>> import jsamp as js
        >>> state = js.select.Replay().init(4, dataset=2)
        >>> state.filled.tolist()
        [True, True, False, False]
    """

    score: Any
    second: Any
    age: Any
    seen: Any
    filled: Any
    fixed: Any


_temperature = _fields.scalar(0, open_low=True)
_portion = _fields.scalar(0, 1)


@pytree
class Replay:
    """Replay levels of a fixed buffer by priority: P = (1-stale) [(1-mix) P_score + mix P_second] + stale P_age.

    Scores become weights by rank, w = rank^(-1/beta) (1 = highest, ties share), or by power, w = (score +
    0.001)^(1/beta). The primary and the staleness parts choose among the dataset's slots when `dataset_only`, the
    secondary among all. Filled slots that were never scored come first, all equal. Every call of `sample` ages all
    slots by one and sets the chosen one to zero. `insert` replaces the least likely slot that is not of the dataset.

    Args:
        beta: temperature of the primary weights, > 0.
        second_beta: temperature of the secondary weights, > 0.
        mix: share of the secondary distribution, in [0, 1] (let it grow over training).
        stale: share of the staleness distribution, in [0, 1].
        transform: "rank" or "power", static.
        dataset_only: restrict primary and staleness to dataset slots, static.

    Raises:
        ValueError: for betas that are not positive, shares outside [0, 1], or an unknown transform.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> replay = js.select.Replay(beta=0.5, mix=0.0, stale=0.0)
        >>> state = replay.init(4, dataset=4)
        >>> for slot, score in enumerate([4.0, 3.0, 2.0, 1.0]):
        ...     state = replay.update(state, slot, score)
        >>> [round(float(p) * 205 / 144, 4) for p in replay.probs(state)]      # 1, 1/4, 1/9, 1/16
        [1.0, 0.25, 0.1111, 0.0625]

    Cost:
        One sort of N scores per draw.

    References:
        Jiang, Grefenstette and Rocktaschel, "Prioritized Level Replay", 2021, arXiv:2010.03934. Garcin et al., "DRED:
        Zero-Shot Transfer in Reinforcement Learning via Data-Regularised Environment Design", 2024, arXiv:2402.03479.
    """

    beta: Scalar = field(default=0.1, check=_temperature)
    second_beta: Scalar = field(default=1.0, check=_temperature)
    mix: Scalar = field(default=0.0, check=_portion)
    stale: Scalar = field(default=0.3, check=_portion)
    transform: Literal["rank", "power"] = static(default="rank", check=_fields.one_of("rank", "power"))
    dataset_only: bool = static(default=True, check=check_flag)

    def init(self, size: int, *, dataset: int = 0) -> ReplayState:
        """Make a buffer of `size` slots whose first `dataset` slots are filled and never evicted.

        With dataset = 0 it starts empty: `insert` fills it, and every level may be replaced later.
        """
        check_count("Replay.init: size", size)
        check_count("Replay.init: dataset", dataset, low=0, high=size)
        fixed = jnp.arange(size) < dataset
        zero = jnp.zeros((size,))
        return ReplayState(zero, zero, zero, jnp.zeros((size,), bool), fixed, fixed)

    def _share(self, score: jax.Array, support: jax.Array, beta: Any, transform: str, small: float) -> jax.Array:
        """Normalised weights on a support, uniform over it when they are all zero."""
        if transform == "rank":
            falling = jnp.where(support, -score, jnp.inf)
            place = jnp.searchsorted(jnp.sort(falling), falling)  # equal scores share a rank
            log_weight = -jnp.log1p(place.astype(score.dtype)) / beta
        else:
            base = jnp.maximum(score, 0) + small
            log_weight = jnp.where(base > 0, jnp.log(jnp.where(base > 0, base, 1)), -jnp.inf) / beta
        log_weight = jnp.where(support, log_weight, -jnp.inf)
        flat = ~jnp.any(jnp.isfinite(log_weight))
        log_weight = jnp.where(flat, jnp.where(support, 0, -jnp.inf), log_weight)
        top = jnp.max(log_weight)
        weight = jnp.where(support, jnp.exp(log_weight - jnp.where(jnp.isfinite(top), top, 0)), 0)
        return weight / jnp.maximum(jnp.sum(weight), jnp.finfo(weight.dtype).tiny)

    def probs(self, state: ReplayState) -> jax.Array:
        """Compute the [N] replay probabilities, summing to 1 (all 0 while no slot is filled)."""
        ready = state.filled & state.seen
        fresh = state.filled & ~state.seen
        narrow = ready & state.fixed if self.dataset_only else ready
        narrow = jnp.where(jnp.any(narrow), narrow, ready)
        first = self._share(state.score, narrow, self.beta, self.transform, 1e-3)
        second = self._share(state.second, ready, self.second_beta, self.transform, 1e-3)
        stale = self._share(state.age, narrow, 1.0, "power", 0.0)
        mixed = (1 - self.stale) * ((1 - self.mix) * first + self.mix * second) + self.stale * stale
        return jnp.where(jnp.any(fresh), fresh / jnp.maximum(jnp.sum(fresh), 1), mixed)

    def sample(self, key: Key, state: ReplayState) -> tuple[jax.Array, ReplayState]:
        """Draw a slot from `probs` (-1 from an empty buffer), and return it with the state, ages advanced."""
        check_key(key, "Replay.sample")
        _check_state(state, "Replay.sample")
        if not is_traced(state) and not np.asarray(state.filled).any():
            raise ValueError("Replay.sample: the buffer is empty. Fill slots by Replay.insert, or init(dataset=...).")
        probs = self.probs(state)
        slot = draw_categorical(key, jnp.where(probs > 0, jnp.log(jnp.where(probs > 0, probs, 1)), -jnp.inf))
        age = jnp.where(jnp.arange(state.age.shape[0]) == slot, 0, state.age + 1)
        return slot, state._replace(age=age)

    def update(self, state: ReplayState, slot: Any, score: Any, second: Any = None) -> ReplayState:
        """Record the score of a slot that was played (`second` defaults to `score`).

        Raises:
            ValueError: for a slot outside the buffer, or a score that is not finite.
        """
        _check_state(state, "Replay.update")
        for name, value in (("score", score), ("second", score if second is None else second)):
            check_scalar(f"Replay.update: {name}", value)
        slot = _check_slot("Replay.update: slot", slot, state.score.shape[0])
        return state._replace(
            score=state.score.at[slot].set(score),
            second=state.second.at[slot].set(score if second is None else second),
            seen=state.seen.at[slot].set(True),
        )

    def insert(self, state: ReplayState, score: Any, second: Any, age: Any = 0.0) -> tuple[ReplayState, Any, Any]:
        """Offer a new level; return (state, slot, accepted).

        An empty slot is used first; else the least likely slot outside the dataset. Accepted when `second` > 0 and at
        least the evicted slot's secondary score (or that slot was never seen).

        Raises:
            ValueError: for scores or an age that are not finite.
        """
        _check_state(state, "Replay.insert")
        for name, value, low in (("score", score, -jnp.inf), ("second", second, -jnp.inf), ("age", age, 0)):
            check_scalar(f"Replay.insert: {name}", value, low=float(low))
        value = jnp.where(state.filled, self.probs(state), -1.0)
        slot = jnp.argmin(jnp.where(state.fixed, jnp.inf, value)).astype(jnp.int32)
        room = ~jnp.all(state.fixed)
        better = (second >= state.second[slot]) | ~state.seen[slot] | ~state.filled[slot]
        accept = room & (second > 0) & better
        new = self.update(state, slot, score, second)
        new = new._replace(age=new.age.at[slot].set(age), filled=new.filled.at[slot].set(True))
        return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, state), slot, accept


def _check_state(state: Any, who: str) -> None:
    if not isinstance(state, ReplayState):
        raise TypeError(f"{who}: state must be a ReplayState, got {type(state).__name__}. Use Replay.init.")


def _check_slot(name: str, slot: Any, size: int) -> jax.Array:
    """One slot number in 0..size-1."""
    slot = as_array(name, slot)
    if slot.shape != () or not jnp.issubdtype(slot.dtype, jnp.integer):
        raise TypeError(f"{name} must be one integer, got {slot.dtype}{list(slot.shape)}. Use jax.vmap for several.")
    if not is_traced(slot) and not 0 <= int(slot) < size:
        raise ValueError(f"{name} must lie in 0..{size - 1}, got {int(slot)}.")
    # A draw from an empty buffer is -1, which writes nothing: a place beyond the end.
    return jnp.where(slot < 0, size, slot)


STRAIGHT = 0.955  # |cosine| beyond which two latents are joined by a straight line


def interpolate_latents(key: Key, mean: Any, std: Any, *, pairs: int = 6, points: int = 6) -> jax.Array:
    """Draw new latents between random pairs of encoded dataset levels: the generator of DRED.

    2 * pairs different levels are drawn uniformly (not by score). Between the two of a pair, means move along the great
    circle (along the straight line when they are nearly parallel), standard deviations along the straight line, and
    every point gets its own noise: z = mean + std * eps. Decode the latents with your model, score the new levels, and
    offer them to `Replay.insert`.

    Args:
        key: one JAX key.
        mean: [n, D] posterior means of the dataset's levels under an encoder.
        std: [n, D] posterior standard deviations (0 for a deterministic encoder).
        pairs: pairs of parents, static.
        points: points on each path, both ends included, static.

    Returns:
        [pairs * points, D] latents, path after path.

    Raises:
        ValueError: for shapes that differ, 2 * pairs > n, or points < 2.
        TypeError: for integer means.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> mean = jnp.eye(4)
        >>> z = js.select.interpolate_latents(jax.random.key(0), mean, jnp.zeros((4, 4)), pairs=2, points=3)
        >>> z.shape, bool(jnp.allclose(jnp.linalg.norm(z, axis=1), 1))
        ((6, 4), True)

    Cost:
        pairs * points * D numbers drawn.

    References:
        Garcin et al., "DRED: Zero-Shot Transfer in Reinforcement Learning via Data-Regularised Environment Design",
        2024, arXiv:2402.03479.
    """
    check_key(key, "interpolate_latents")
    check_count("interpolate_latents: points", points, low=2)
    mean, std = as_floating("interpolate_latents: mean", mean), as_floating("interpolate_latents: std", std)
    if mean.ndim != 2 or std.shape != mean.shape:
        raise ValueError(f"interpolate_latents: mean and std must share a shape [n, D], got {mean.shape}, {std.shape}.")
    check_count("interpolate_latents: pairs", pairs, high=mean.shape[0] // 2)
    check_finite("interpolate_latents: mean", mean)
    check_number("interpolate_latents: std", std, low=0)
    parent_key, noise_key = jax.random.split(key)
    parents = jax.random.permutation(parent_key, mean.shape[0])[: 2 * pairs].reshape(2, pairs)
    (a, b), (spread_a, spread_b) = mean[parents], std[parents]
    size = jnp.sqrt(jnp.sum(a * a, 1) * jnp.sum(b * b, 1))
    cosine = jnp.sum(a * b, 1) / jnp.where(size > 0, size, 1)
    round_way = (size > 0) & (jnp.abs(cosine) <= STRAIGHT)
    angle = jnp.arccos(jnp.where(round_way, cosine, 0))[:, None]
    t = jnp.linspace(0, 1, points, dtype=mean.dtype)[None]
    ahead, behind = (
        jnp.where(round_way[:, None], jnp.sin(share * angle) / jnp.sin(angle), share)[..., None] for share in (t, 1 - t)
    )
    centre = behind * a[:, None] + ahead * b[:, None]
    width = (1 - t)[..., None] * spread_a[:, None] + t[..., None] * spread_b[:, None]
    z = centre + width * jax.random.normal(noise_key, centre.shape, mean.dtype)
    return z.reshape(pairs * points, -1)
