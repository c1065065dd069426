"""Asking many adaptively chosen questions of one data set without overfitting it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._pytree import put, pytree, static
from jsamp._core._types import Key
from jsamp.estimate import _arrays


class Answer(NamedTuple):
    """Hold an answer to a query.

    Args:
        value: the answer; NaN when nothing may be answered any more.
        over: whether the data were consulted beyond their stand-in, which costs budget.
        ok: whether budget was left.

    Example:
        >>> import jsamp as js
        >>> js.estimate.Answer(value=0.5, over=False, ok=True).over
        False
    """

    value: Any
    over: Any
    ok: Any


class ThresholdoutState(NamedTuple):
    """Hold the numbers that a reusable holdout keeps between queries.

    Args:
        threshold: the current noisy threshold.
        budget: queries that may still consult the holdout.
    """

    threshold: Any
    budget: Any


class SQState(NamedTuple):
    """Hold the number that noisy means keep between queries.

    Args:
        budget: queries left.
    """

    budget: Any


class WeightsState(NamedTuple):
    """Hold the numbers that private multiplicative weights keep between queries.

    Args:
        log_weights: [X] log of the public distribution that stands in for the data.
        threshold: the current noisy threshold.
        budget: updates left.
    """

    log_weights: Any
    threshold: Any
    budget: Any


def _noise(key, scale, gaussian):
    """One Laplace variable, or a normal one, of the given scale. 64 random bits, so that the tail goes on."""
    if gaussian:
        return scale * jax.random.normal(key)
    words = jax.random.bits(key, (2, 2), jnp.uint32).astype(jnp.float32)
    unit = (words[0] + (words[1] + 0.5) * np.float32(2.0**-32)) * np.float32(2.0**-32)
    clocks = -jnp.log(jnp.minimum(unit, 1 - np.float32(2.0**-24)))
    return scale * (clocks[0] - clocks[1])


def _mean(name, values):
    values = _arrays.array(name, values, "n")
    _checks.check_number(name, values, low=0, high=1)
    return jnp.mean(values)


@pytree
class Thresholdout:
    """Answer adaptively chosen queries from training rows, and from the holdout only where the two disagree.

    A query gives every row a number in [0, 1]. If |mean over holdout - mean over training rows| exceeds the noisy
    threshold, the holdout's mean with noise is the answer and the budget falls by one; else the training mean, and the
    analyst learns nothing of the holdout. Noise: 2 sigma on the threshold (drawn anew after each answer that was over),
    4 sigma on each comparison, sigma on the answer. The holdout of n rows is then (2 budget / (sigma n))-private.

    Floating-point noise leaks: this protects statistics from their analyst, it is no security boundary.

    Args:
        threshold: how far the means may differ; the experiments of the paper take 0.04 at n = 10,000, 4 / sqrt(n).
        sigma: scale of the noise, 0.01 there, 1 / sqrt(n).
        budget: how many answers may be over.
        noise: "laplace" as in the paper, or "gaussian" as in its demonstration (static).

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> holdout = js.estimate.Thresholdout(threshold=0.1, sigma=0.01, budget=10)
        >>> state = holdout.init(jax.random.key(0))
        >>> state, answer = holdout.answer(jax.random.key(1), state, jnp.full(100, 0.75), jnp.full(100, 0.76))
        >>> float(answer.value), bool(answer.over)
        (0.75, False)

    Cost:
        Two means a query.

    References:
        Dwork, Feldman, Hardt, Pitassi, Reingold and Roth, "The reusable holdout: preserving validity in adaptive data
        analysis", 2015.
    """

    threshold: Any
    sigma: Any
    budget: Any
    noise: str = static(default="laplace")

    def __post_init__(self):
        _checks.check_number("Thresholdout: threshold", self.threshold, low=0)
        _checks.check_number("Thresholdout: sigma", self.sigma, low=0)
        _checks.check_number("Thresholdout: budget", self.budget, low=1)
        _checks.check_choice("Thresholdout: noise", self.noise, ("laplace", "gaussian"))

    def init(self, key: Key) -> ThresholdoutState:
        """Draw the first noisy threshold."""
        _checks.check_key(key, "Thresholdout.init")
        first = self.threshold + _noise(key, 2 * self.sigma, self.noise == "gaussian")
        return ThresholdoutState(jnp.asarray(first, jnp.float32), jnp.asarray(self.budget, jnp.int32))

    def answer(self, key: Key, state: ThresholdoutState, train: Any, holdout: Any) -> tuple[ThresholdoutState, Answer]:
        """Answer a query by its values [n] on the training rows and [m] on the holdout rows, all in [0, 1]."""
        _checks.check_key(key, "Thresholdout.answer")
        ours = _mean("Thresholdout.answer: train", train)
        theirs = _mean("Thresholdout.answer: holdout", holdout)
        keys, gaussian = jax.random.split(key, 3), self.noise == "gaussian"
        ok = state.budget >= 1
        over = jnp.abs(theirs - ours) > state.threshold + _noise(keys[0], 4 * self.sigma, gaussian)
        over = over & ok
        value = jnp.where(over, theirs + _noise(keys[1], self.sigma, gaussian), ours)
        fresh = self.threshold + _noise(keys[2], 2 * self.sigma, gaussian)
        threshold = jnp.where(over, fresh, state.threshold).astype(state.threshold.dtype)
        state = ThresholdoutState(threshold, state.budget - over.astype(state.budget.dtype))
        return state, Answer(jnp.where(ok, value, jnp.nan), over, ok)

    def privacy(self, n: Any, delta: float = 0.0) -> Any:
        """Compute epsilon of the dialogue: 2 B / (sigma n), or sqrt(32 B log(2 / delta)) / (sigma n) with a delta."""
        _checks.check_number("Thresholdout.privacy: n", n, low=1)
        _checks.check_number("Thresholdout.privacy: delta", delta, low=0, high=1)
        if delta == 0:
            return 2 * self.budget / (jnp.asarray(self.sigma) * n)
        return jnp.sqrt(32 * self.budget * math.log(2 / delta)) / (jnp.asarray(self.sigma) * n)


@pytree
class SQ:
    """Answer adaptively chosen means with noise: the statistical query mechanism.

    answer = mean over rows + noise. With Gaussian noise of about num^(1/4) / sqrt(n) the error of `num` adaptive
    queries grows as num^(1/4), where the plain mean fails after about n of them (a rule of thumb, ours; the rate is the
    paper's).

    Args:
        scale: scale of the noise: Laplace 1 / (n epsilon) for epsilon a query, or a normal standard deviation.
        budget: queries that will be answered.
        noise: "gaussian" or "laplace" (static).

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> mechanism = js.estimate.SQ(scale=0.01, budget=1)
        >>> state, answer = mechanism.answer(jax.random.key(0), mechanism.init(), jnp.ones(50))
        >>> state, refused = mechanism.answer(jax.random.key(1), state, jnp.ones(50))
        >>> bool(answer.ok), bool(refused.ok), bool(jnp.isnan(refused.value))
        (True, False, True)

    Cost:
        One mean a query.

    References:
        Dwork et al., "Preserving statistical validity in adaptive data analysis", 2015, arXiv:1411.2664.
    """

    scale: Any
    budget: Any
    noise: str = static(default="gaussian")

    def __post_init__(self):
        _checks.check_number("SQ: scale", self.scale, low=0)
        _checks.check_number("SQ: budget", self.budget, low=1)
        _checks.check_choice("SQ: noise", self.noise, ("laplace", "gaussian"))

    def init(self, key: Key | None = None) -> SQState:
        """Begin with the whole budget; no key is needed."""
        return SQState(jnp.asarray(self.budget, jnp.int32))

    def answer(self, key: Key, state: SQState, values: Any) -> tuple[SQState, Answer]:
        """Answer a query by its values [n] in [0, 1] on the rows."""
        _checks.check_key(key, "SQ.answer")
        ok = state.budget >= 1
        value = _mean("SQ.answer: values", values) + _noise(key, self.scale, self.noise == "gaussian")
        return SQState(state.budget - ok.astype(jnp.int32)), Answer(jnp.where(ok, value, jnp.nan), ok, ok)


@pytree
class PrivateMultiplicativeWeights:
    """Answer exponentially many linear queries over a finite universe from a public stand-in that learns from errors.

    The stand-in h starts uniform. A query q in [0, 1]^X has the answer <q, h> while that is within the noisy threshold
    of the data's <q, D>; else the data's answer with noise is given, h is multiplied by exp(-+ rate q) towards it, and
    one update of the budget is spent. Updates end after about 4 log X / threshold^2.

    Args:
        data: [X] distribution of the data over the universe (counts are normalised).
        threshold: error that is tolerated, alpha.
        sigma: scale of the noise on answers; comparisons have twice as much.
        budget: updates; None takes 1 + 4 log X / threshold^2.
        rate: step of the weights; None takes threshold / 2.
        noise: "laplace" or "gaussian" (static).

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> data = jnp.array([0.7, 0.1, 0.1, 0.1])
        >>> mechanism = js.estimate.PrivateMultiplicativeWeights(data, threshold=0.1, sigma=0.0)
        >>> state, query = mechanism.init(jax.random.key(0)), jnp.array([1.0, 0.0, 0.0, 0.0])
        >>> state, answer = mechanism.answer(jax.random.key(1), state, query)
        >>> round(float(answer.value), 3), bool(answer.over)
        (0.7, True)

    Cost:
        X operations a query.

    References:
        Hardt and Rothblum, "A multiplicative weights mechanism for privacy-preserving data analysis", 2010. Dwork and
        Roth, "The algorithmic foundations of differential privacy", 2014, chapter 4.
    """

    data: Any
    threshold: Any
    sigma: Any
    budget: Any = None
    rate: Any = None
    noise: str = static(default="laplace")

    def __post_init__(self):
        who = "PrivateMultiplicativeWeights"
        data = _arrays.array(f"{who}: data", self.data, "X", low=2)
        _checks.check_number(f"{who}: data", data, low=0)
        known = _checks.concrete(data)
        if known is not None and known.sum() <= 0:
            raise ValueError(f"{who}: data hold no mass.")
        put(self, data=data / jnp.sum(data))
        _checks.check_number(f"{who}: threshold", self.threshold, low=0, high=1, open_low=True)
        _checks.check_number(f"{who}: sigma", self.sigma, low=0)
        if self.budget is None:
            updates = jnp.floor(1 + 4 * math.log(data.shape[0]) / jnp.square(self.threshold))
            put(self, budget=updates.astype(data.dtype))
        _checks.check_number(f"{who}: budget", self.budget, low=1)
        if self.rate is None:
            put(self, rate=jnp.asarray(self.threshold / 2, data.dtype))
        _checks.check_number(f"{who}: rate", self.rate, low=0, open_low=True)
        _checks.check_choice(f"{who}: noise", self.noise, ("laplace", "gaussian"))

    def init(self, key: Key) -> WeightsState:
        """Begin with the uniform stand-in and draw the first noisy threshold."""
        _checks.check_key(key, "PrivateMultiplicativeWeights.init")
        size = self.data.shape[0]
        first = self.threshold + _noise(key, 2 * self.sigma, self.noise == "gaussian")
        uniform = jnp.full(size, -math.log(size), self.data.dtype)
        return WeightsState(uniform, jnp.asarray(first, self.data.dtype), jnp.asarray(self.budget, jnp.int32))

    def answer(self, key: Key, state: WeightsState, query: Any) -> tuple[WeightsState, Answer]:
        """Answer a linear query [X] with entries in [0, 1]."""
        who = "PrivateMultiplicativeWeights.answer"
        _checks.check_key(key, who)
        query = _arrays.array(f"{who}: query", query, "X")
        _checks.check_number(f"{who}: query", query, low=0, high=1)
        if query.shape != self.data.shape:
            raise ValueError(f"{who}: query must be {self.data.shape} as the data, got {query.shape}.")
        keys, gaussian = jax.random.split(key, 3), self.noise == "gaussian"
        truth, guess = jnp.sum(query * self.data), jnp.sum(query * jnp.exp(state.log_weights))
        ok = state.budget >= 1
        over = jnp.abs(truth - guess) + _noise(keys[0], 2 * self.sigma, gaussian) > state.threshold
        over = over & ok
        noisy = truth + _noise(keys[1], self.sigma, gaussian)
        moved = jax.nn.log_softmax(state.log_weights - self.rate * query * jnp.sign(guess - noisy))
        fresh = self.threshold + _noise(keys[2], 2 * self.sigma, gaussian)
        state = WeightsState(
            jnp.where(over, moved, state.log_weights).astype(self.data.dtype),
            jnp.where(over, fresh, state.threshold).astype(self.data.dtype),
            state.budget - over.astype(jnp.int32),
        )
        return state, Answer(jnp.where(ok, jnp.where(over, noisy, guess), jnp.nan), over, ok)
