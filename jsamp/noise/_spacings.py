"""Spacings of noise levels under the names that other packages give them: one table, one function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jsamp._core._checks import check_choice, check_number, check_scalar
from jsamp._core._numerics import as_array, namespace
from jsamp._core._types import Array, Schedule
from jsamp.noise._grid import _ends, _finish, _in_domain
from jsamp.noise._protocol import End, is_discrete, straight

# sigma / alpha of the published optimised schedules for ten steps, with the least level at their end.
ALIGNED = {
    "ays_sd15": (14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904,
                 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
    "ays_sdxl": (14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289,
                 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
    "ays_svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}  # fmt: skip
SLOW_SHARE = 0.025
"""Share of the noise that the linear half of "linear_quadratic" removes."""


# ---------------------------------------------------------------- levels from `high` down to `low`, u from 0 to 1


def _karras(xp, low, high, u, rho):
    return (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def _polyexponential(xp, low, high, u, rho):
    return xp.exp(xp.log(low) + (1 - u) ** rho * (xp.log(high) - xp.log(low)))


def _exponential(xp, low, high, u, number):
    return xp.exp(xp.log(high) + u * (xp.log(low) - xp.log(high)))


def _beta(xp, low, high, u, shape):
    return low + beta_quantile(1 - u, shape) * (high - low)


def _linear(xp, low, high, u, number):
    return high + u * (low - high)


def _kl_optimal(xp, low, high, u, number):
    return xp.tan(u * xp.arctan(low) + (1 - u) * xp.arctan(high))


def _linear_quadratic(xp, low, high, u, number):
    n = len(u) - 1
    half, i = n // 2, np.arange(n + 1.0)
    if not half:
        return high + u * (low - high)
    # A line up to SLOW_SHARE at the middle, then the parabola that continues its slope and ends at 1.
    line, rest = i * SLOW_SHARE / half, n - half
    bend = (half - SLOW_SHARE * n) / (half * rest**2)
    slope = SLOW_SHARE / half - 2 * bend * half
    parabola = bend * i**2 + slope * i + bend * half**2
    done = np.where(i < half, line, parabola)
    return high + done * (low - high)


def _aligned(name):
    def levels(xp, low, high, u, number):
        table = np.log(ALIGNED[name])
        return np.exp(np.interp(u, np.linspace(0, 1, len(table)), table))

    return levels


class Spacing(NamedTuple):
    """How the levels of one name are spaced."""

    levels: Callable[..., Any]
    of: str = "sigma"  # what is spaced: sigma as other packages mean it, or t
    down_to: str = "t_min"  # where u = 1 lies: at t_min, or at the noiseless time
    regular: bool = True  # whether u = 1 is a level of its own, before the noiseless time
    rounding: str = ""  # to which index of a discrete schedule: "nearest" or "above"
    option: str = ""
    default: float = 0.0


SPACINGS: dict[str, Spacing] = {
    "karras": Spacing(_karras, option="rho", default=7.0),
    "exponential": Spacing(_exponential),
    "polyexponential": Spacing(_polyexponential, option="rho", default=1.0),
    "beta_sigmas": Spacing(_beta, option="shape", default=0.6),
    "kl_optimal": Spacing(_kl_optimal),
    "normal": Spacing(_linear, of="t"),
    "sgm_uniform": Spacing(_linear, of="t", regular=False),
    "simple": Spacing(_linear, of="t", down_to="noiseless", regular=False, rounding="above"),
    "beta": Spacing(_beta, of="t", regular=False, rounding="nearest", option="shape", default=0.6),
    "linear_quadratic": Spacing(_linear_quadratic, of="t", down_to="noiseless", regular=False),
    **{name: Spacing(_aligned(name), regular=False) for name in ALIGNED},
}


def spaced_grid(
    schedule: Schedule,
    steps: int,
    spacing: str,
    *,
    rho: Any = None,
    shape: Any = None,
    t_max: Any = None,
    t_min: Any = None,
    final: End = "zero",
) -> Array:
    """Make times whose noise levels are spaced by a named rule of k-diffusion, diffusers or ComfyUI.

    With u = i / n, from high (at t_max) to low (at t_min), in what those packages call sigma, which is sigma / alpha,
    and t itself on a straight path (`Flow`):

        karras            (high^(1/rho) + u (low^(1/rho) - high^(1/rho)))^rho, rho = 7
        exponential       uniform in log sigma
        polyexponential   log sigma = log low + (1 - u)^rho log(high / low), rho = 1
        beta_sigmas       low + q(1 - u) (high - low), q the quantiles of Beta(shape, shape), shape = 0.6 (diffusers)
        kl_optimal        tan of the uniform angles from arctan high to arctan low
        ays_sd15, ays_sdxl, ays_svd      Align Your Steps: a published table, log-linear between its levels

    and in t, rounded to an index of a discrete schedule where the packages round:

        normal            uniform from t_max to t_min
        sgm_uniform       uniform from t_max, the last time left out for the noiseless one
        simple            equal strides from t_max to the noiseless time, rounded up
        beta              quantiles of Beta(shape, shape) (ComfyUI), rounded
        linear_quadratic  2.5 % of the noise in the first half of the steps, then a parabola (LTX, Mochi)

    Args:
        schedule: a noise schedule; for the ays tables one that knows their levels, 14.6 (SD) or 700 (SVD).
        steps: n, the number of steps (static); the grid has n + 1 times.
        spacing: one of the names above.
        rho: of karras and polyexponential; None is their default.
        shape: of the two Beta spacings, > 0; None is 0.6.
        t_max: start, default `schedule.t_max`.
        t_min: least regular time, default `schedule.t_min`.
        final: "zero" ends at the noiseless time, "sigma_min" at t_min. The rules that leave out their last time, and
            the ays tables, put the end in its place; the others add it.

    Returns:
        [n + 1] decreasing times, float64 numpy (jax when an argument is traced).

    Raises:
        ValueError: for an unknown name, an option that the spacing does not take, infinite levels at an end, levels
            that the schedule does not have, or indices that repeat (take fewer steps).

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.Discrete.scaled_linear()
        >>> js.noise.spaced_grid(schedule, 10, "beta").astype(int).tolist()
        [999, 959, 876, 765, 637, 500, 362, 234, 123, 40, -1]
        >>> js.noise.spaced_grid(schedule, 10, "ays_sd15").round().astype(int).tolist()
        [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, -1]

    Cost:
        Host arithmetic in float64, or n + 1 times on the device when an argument is traced.

    References:
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364.
        Lee et al., "Beta Sampling is All You Need", 2024, arXiv:2407.12173. Sabour, Fidler and Kreis, "Align Your
        Steps: Optimizing Sampling Schedules in Diffusion Models", 2024, arXiv:2404.14507 (tables as NVIDIA's page for
        that paper and ComfyUI publish them). Polyak et al., "Movie Gen", 2024, arXiv:2410.13720 (linear-quadratic).
    """
    check_choice("spaced_grid: spacing", spacing, tuple(SPACINGS))
    rule = SPACINGS[spacing]
    number = _option(spacing, rule, rho=rho, shape=shape)
    xp, start, end, num = _ends("spaced_grid", schedule, steps, t_max, t_min, final)
    if spacing in ALIGNED and (t_max is not None or t_min is not None):
        raise ValueError(f"spaced_grid: {spacing} is a table with ends of its own; leave out t_max and t_min.")
    u = np.linspace(0, 1, (num if rule.regular else steps) + 1)
    if rule.of == "sigma":
        inner = _times_of_sigmas(xp, schedule, rule, start, end, u, number)
    else:
        clean = as_array(schedule.time(xp.asarray(np.inf, start.dtype)), xp)
        inner = rule.levels(xp, clean if rule.down_to == "noiseless" else end, start, u, number)
        if is_discrete(schedule) and rule.rounding:
            # Strides are sums of fractions: what is whole but for their rounding stays.
            inner = xp.round(inner) if rule.rounding == "nearest" else xp.ceil(inner - 1e-6)
    if spacing in ALIGNED:
        start, end = _in_domain("spaced_grid", xp, schedule, inner)[0], inner[-1]
    inner = inner if rule.regular or final == "sigma_min" else inner[:-1]
    return _joined(xp, schedule, inner, start, end, final, rule.regular)


def _joined(xp, schedule, inner, start, end, final, regular):
    if regular or final == "sigma_min":
        return _finish("spaced_grid", xp, schedule, inner, start, end, final)
    # The last regular time is where the rule puts it, not at t_min.
    last = inner[-1] if inner.shape[0] > 1 else start
    return _finish("spaced_grid", xp, schedule, inner, start, as_array(last, xp), final)


def _option(spacing, rule, **given):
    """The number that a rule takes, checked; refuse one that it does not take."""
    for name, value in given.items():
        if value is not None and name != rule.option:
            raise ValueError(f"spaced_grid: {spacing} takes no {name}; leave it out.")
    value = given.get(rule.option)
    if value is None:
        return rule.default
    check_scalar(f"spaced_grid: {rule.option}", value, low=0, open_low=True)
    if rule.option == "shape":
        # Its quantiles are a table made on the host.
        check_number("spaced_grid: shape", value, high=100)
        return float(value)
    return value


def _times_of_sigmas(xp, schedule, rule, start, end, u, number):
    if straight(schedule):
        return rule.levels(xp, end, start, u, number)
    first, last = schedule.lam(start), schedule.lam(end)
    if xp is np and not (np.isfinite(first) and np.isfinite(last)):
        raise ValueError(
            f"spaced_grid: sigma / alpha is infinite or 0 at t_max={start} or t_min={end}. Pass a t_max with alpha > 0 "
            f"and a t_min with sigma > 0."
        )
    return schedule.time(-xp.log(rule.levels(xp, xp.exp(-last), xp.exp(-first), u, number)))


# ---------------------------------------------------------------- pieces


@functools.cache
def _beta_table(shape: float, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Distribution function of Beta(shape, shape) on [0, 1/2], by quadrature in u^shape, where it is smooth."""
    x = 0.5 * np.linspace(0, 1, num + 1) ** 3
    nodes, weights = np.polynomial.legendre.leggauss(12)
    end = x**shape
    left, width = end[:-1, None], np.diff(end)[:, None]
    v = left + width * (nodes + 1) / 2
    mass = (width / 2 * weights * (1 - v ** (1 / shape)) ** (shape - 1)).sum(1)
    total = np.append(0.0, np.cumsum(mass))
    return x, 0.5 * total / total[-1]


def beta_quantile(u: np.ndarray, shape: float = 0.6, num: int = 4096) -> np.ndarray:
    """Quantiles of Beta(shape, shape), symmetric about 1/2."""
    x, below = _beta_table(shape, num)
    tail = np.minimum(u, 1 - u)
    # Near 0 the distribution function is a power of x: interpolate what is nearly linear.
    value = np.interp(tail ** (1 / shape), below ** (1 / shape), x)
    return np.where(u <= 0.5, value, 1 - value)


def log_shift(tokens: Any, base: tuple[float, float], most: tuple[float, float]) -> Any:
    """Logarithm mu of the shift for an image of so many tokens, linear through two (tokens, mu)."""
    return base[1] + (most[1] - base[1]) / (most[0] - base[0]) * (tokens - base[0])


def dynamic_shift(
    tokens: Any, *, base: tuple[float, float] = (256, 0.5), most: tuple[float, float] = (4096, 1.15)
) -> Any:
    """Compute the factor of `js.noise.shift` for an image of so many tokens: exp(mu), mu linear in their number.

    Args:
        tokens: number of image tokens: for Flux height * width / 256, in pixels.
        base: (tokens, mu) of the smallest images of training.
        most: (tokens, mu) of the largest. Not clamped beyond them, as in the published pipelines.

    Returns:
        The factor, a number.

    Raises:
        ValueError: for tokens that are not positive, or two equal sizes.

    Example:
        >>> import jsamp as js
        >>> factor = js.noise.dynamic_shift(1024 * 1024 / 256)
        >>> grid = js.noise.time_grid(js.noise.Flow(), 4, final="zero")
        >>> js.noise.shift(grid, factor).round(3).tolist()
        [1.0, 0.905, 0.76, 0.513, 0.0]

    Cost:
        Host arithmetic.

    References:
        Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024,
        arXiv:2403.03206; the line through two sizes is that of the Flux pipeline.
    """
    check_number("dynamic_shift: tokens", tokens, low=0, open_low=True)
    for name, pair in (("base", base), ("most", most)):
        check_number(f"dynamic_shift: {name}", pair)
        if np.shape(pair) != (2,):
            raise ValueError(f"dynamic_shift: {name} must be (tokens, mu), got {pair!r}.")
    if float(base[0]) == float(most[0]):
        raise ValueError(f"dynamic_shift: base and most must be two sizes, got {base} and {most}.")
    return namespace(tokens, base, most).exp(log_shift(tokens, base, most))
