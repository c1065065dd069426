"""Noise levels of a `scheduler_config.json`: tables of betas, spacings of time steps, rules for sigmas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jsamp._core._checks import check_choice, check_rows
from jsamp.noise._spacings import SPACINGS, log_shift

SHORTEST_SIGNAL = 2.0**-24
"""What those schedulers that work with sigma = noise / signal put for a signal level of zero."""


class Levels(NamedTuple):
    """Hold the times where a scheduler evaluates its network, and the noise there.

    Args:
        timesteps: [n] what the network is given.
        sigmas: [n + 1] noise over signal (in a flow: the time itself), where each step starts and where the last ends.
    """

    timesteps: np.ndarray
    sigmas: np.ndarray


def table(options: Mapping[str, Any], *, finite: bool) -> np.ndarray:
    """The cumulative products [N] of a configuration; `finite` keeps the last one away from 0.

    Betas and products are rounded to float32, as the networks were trained with them; all else is float64.
    """
    num, start, end = options["num_train_timesteps"], options["beta_start"], options["beta_end"]
    if options["trained_betas"] is not None:
        check_rows("from_diffusers: trained_betas", options["trained_betas"], num=num, ndim=1)
        betas = np.asarray(options["trained_betas"])
    else:
        check_choice("from_diffusers: beta_schedule", options["beta_schedule"], tuple(BETAS))
        betas = BETAS[options["beta_schedule"]](num, start, end)
    if not np.all((betas > 0) & (betas < 1)):
        wrong = betas[~((betas > 0) & (betas < 1))][0]
        raise ValueError(f"from_diffusers: betas must lie in (0, 1), or noise would not grow; got {wrong:.6g}.")
    if options.get("rescale_betas_zero_snr") and "snr_shift_scale" not in options:
        product = zero_terminal(_product(betas))
    else:
        product = _product(betas)
    if "snr_shift_scale" in options:
        scale = options["snr_shift_scale"]
        product = product / (scale + (1 - scale) * product)
        product = zero_terminal(product) if options["rescale_betas_zero_snr"] else product
    if options.get("rescale_betas_zero_snr") and finite:
        if product[-2:][0] <= SHORTEST_SIGNAL:
            raise ValueError(
                f"from_diffusers: under rescale_betas_zero_snr these betas leave the last step but one a signal of "
                f"{product[-2]:.2g}, below the {SHORTEST_SIGNAL:.2g} that the last one gets. Use DDIMScheduler."
            )
        product[-1] = SHORTEST_SIGNAL
    return product


def _product(betas: np.ndarray) -> np.ndarray:
    kept = np.float32(1) - np.asarray(betas, np.float32)
    return np.cumprod(kept.astype(np.float64)).astype(np.float32).astype(np.float64)


def zero_terminal(product: np.ndarray) -> np.ndarray:
    """Cumulative products shifted and scaled so that the last one is 0 and the first one stays."""
    root = np.sqrt(product)
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def _cosine(num, start, end):
    signal = np.cos((np.arange(num + 1) / num + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - signal[1:] / signal[:-1], 0.999)


BETAS = {
    "linear": lambda num, start, end: np.linspace(start, end, num),
    "scaled_linear": lambda num, start, end: np.linspace(start**0.5, end**0.5, num, dtype=np.float32) ** 2,
    "squaredcos_cap_v2": _cosine,
    "sigmoid": lambda num, start, end: (end - start) / (1 + np.exp(-np.linspace(-6, 6, num))) + start,
}


def spaced(options: Mapping[str, Any], n: int, *, last: int, points: int, rounded: bool) -> np.ndarray:
    """Time steps [n], falling: `points` of a lattice up to `last` when counted from 0, its first n taken."""
    spacing, num = options.get("timestep_spacing", "linspace"), options["num_train_timesteps"]
    if spacing == "linspace":
        steps = np.linspace(0, last - 1, points)[::-1][:n]
        return steps.round() if rounded else steps
    if spacing == "leading":
        return (np.arange(points) * (last // points))[::-1][:n] + float(options.get("steps_offset", 0))
    return np.arange(last, 0, -num / n).round()[:n] - 1.0


def time_of(sigma: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Real index of a noise level, linear in log sigma between the indices of a table that is kept in float32."""
    table = np.log(ratio(product).astype(np.float32)).astype(np.float64)
    return np.interp(np.log(np.maximum(sigma, 1e-10)), table, np.arange(len(product)))


def ratio(product: np.ndarray) -> np.ndarray:
    """Noise over signal of cumulative products."""
    return np.sqrt((1 - product) / product)


def rule(options: Mapping[str, Any]) -> str:
    """Which rule for sigmas a configuration asks for: "" for those of its time steps."""
    asked = [name for name in RULES if options.get(f"use_{name}")]
    if len(asked) > 1:
        named = ", ".join(f"use_{name}" for name in asked)
        raise ValueError(f"from_diffusers: a configuration takes one rule for sigmas, got {named}.")
    return asked[0] if asked else ""


def respaced(name: str, low: float, high: float, n: int, rho: float = 7.0) -> np.ndarray:
    """Noise levels [n] from `high` down to `low` by a named rule."""
    return SPACINGS[RULES[name]].levels(np, low, high, np.linspace(0, 1, n), rho if "karras" in name else SHAPE)


SHAPE = 0.6
"""Of the Beta distribution of sigmas."""
RULES = {
    "karras_sigmas": "karras", "exponential_sigmas": "exponential", "beta_sigmas": "beta_sigmas",
    "lu_lambdas": "exponential",
}  # fmt: skip


def dynamic_shift(options: Mapping[str, Any], tokens: int) -> float:
    """Logarithm mu of the shift for an image of so many tokens, linear between two sizes."""
    base = options["base_image_seq_len"], options["base_shift"]
    return log_shift(tokens, base, (options["max_image_seq_len"], options["max_shift"]))


def shifted(sigmas: np.ndarray, mu: float | None, factor: float, kind: str = "exponential") -> np.ndarray:
    """Times of a flow moved towards noise: by a factor, or by exp(mu) or mu where mu is given."""
    if mu is not None:
        factor = float(np.exp(mu)) if kind == "exponential" else mu
    return factor * sigmas / (1 + (factor - 1) * sigmas)


def stretched(sigmas: np.ndarray, terminal: float | None) -> np.ndarray:
    """Times of a flow stretched so that the last one is `terminal`."""
    return sigmas if not terminal else 1 - (1 - sigmas) * ((1 - terminal) / (1 - sigmas[-1]))
