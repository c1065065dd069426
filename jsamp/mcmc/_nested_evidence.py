"""What a nested run says about the evidence, in float64 on the host: moments, weights and the insertion-rank test."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Evidence(NamedTuple):
    """Hold the log-evidence with its error, the log-weights and the information in nats."""

    value: float
    stderr: float
    log_weights: np.ndarray
    information: float


def sizes(dead: int, num: int, delete: int) -> np.ndarray:
    """[dead] live points among which each deleted one was the lowest."""
    return num - np.arange(dead) % delete


def evidence(loglikelihood: np.ndarray, num: int, delete: int, noise: np.ndarray | float = 0.0) -> Evidence:
    """Sum a run: [dead + num] log-likelihoods in the order of deletion, the live points last.

    A deletion among n points leaves a share t ~ Beta(n, 1) of the volume. The first two moments of the sum
    Z = sum L (X_before - X_after) over these follow by a recursion from the last point; Z is taken for log-normal with
    them. `noise` are deviations of log L from a law along the order (a surrogate's errors): they add to the variance.
    """
    loglikelihood = np.asarray(loglikelihood, np.float64)
    dead = loglikelihood.size - num
    n = sizes(dead, num, delete).astype(np.float64)
    log_before = np.concatenate([[0.0], np.cumsum(np.log(n / (n + 1)))])
    log_volume = np.concatenate([log_before[:-1] - np.log(n + 1), np.full(num, log_before[-1] - math.log(num))])
    log_weights = loglikelihood + log_volume
    first = _log_sum(log_weights)
    second = _second_moment(loglikelihood[:dead], n, _log_sum(loglikelihood[dead:]) - math.log(num))
    relative = math.expm1(max(second - 2 * first, 0.0))
    share = np.exp(log_weights - first)
    variance = math.log1p(relative + float(np.sum((share * noise) ** 2)))
    value = first - variance / 2
    seen = share > 0
    information = float(np.sum(share[seen] * (loglikelihood[seen] - value)))
    return Evidence(value, math.sqrt(variance), log_weights, information)


def _log_sum(values):
    top = np.max(values, initial=-np.inf)
    return -math.inf if np.isneginf(top) else float(top + np.log(np.sum(np.exp(values - top))))


def _second_moment(loglikelihood, n, log_rest):
    """Log E Z^2 by Z_before = (1 - t) L + t Z_after, from the last deletion to the first."""
    first, second = log_rest, 2 * log_rest
    add = np.logaddexp
    for log_l, size in zip(loglikelihood[::-1], n[::-1], strict=True):
        own, both = 2 * log_l + math.log(2 / size), math.log(2) + log_l + first
        second = add(add(own, both) - math.log(size + 1), second) + math.log(size / (size + 2))
        first = add(log_l - math.log(size), first) + math.log(size / (size + 1))
    return float(second)


def rank_p_value(ranks: np.ndarray) -> float:
    """Probability of ranks as far from uniform as these, by Kolmogorov and Smirnov's test."""
    ranks = np.sort(np.asarray(ranks, np.float64))
    if not ranks.size:
        return 1.0
    steps = np.arange(ranks.size + 1) / ranks.size
    gap = max(np.max(steps[1:] - ranks), np.max(ranks - steps[:-1]))
    root = math.sqrt(ranks.size)
    x = gap * (root + 0.12 + 0.11 / root)
    if x < 0.2:
        return 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101)]
    return min(max(2 * math.fsum(terms), 0.0), 1.0)
