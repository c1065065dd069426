"""Tail probabilities of the laws that tests need, by the incomplete beta and gamma functions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import betainc, gammaincc, ndtr, xlogy


def _wide(*values: Any) -> list[Any]:
    kind = jnp.result_type(float, *values)
    return [jnp.asarray(v, kind) for v in jnp.broadcast_arrays(*values)]


LARGE = {jnp.dtype(jnp.float32): 1e3, jnp.dtype(jnp.float64): 1e6}
"""Sums a + b from which the incomplete beta function loses its digits: large logs cancel in it."""
FEW = 16
"""The smaller of a and b from which Peizer and Pratt's normal law errs by 1e-5 at most."""


def _bent(x: Any) -> Any:
    """Evaluate Peizer and Pratt's g: (1 - x^2 + 2 x log x) / (1 - x)^2, by its series around 1."""
    h = x - 1
    near = jnp.abs(h) < 0.1
    series = h * (-1 / 3 + h * (1 / 6 + h * (-1 / 10 + h * (1 / 15 + h * (-1 / 21 + h / 28)))))
    far = jnp.where(near, 2, x)
    return jnp.where(near, series, (1 - far**2 + 2 * xlogy(far, far)) / (1 - far) ** 2)


def _normal_beta(a: Any, b: Any, x: Any, rest: Any) -> Any:
    """I_x(a, b) of large a and b, by Peizer and Pratt's normal approximation (1968)."""
    s, t, n = a - 0.5, b - 0.5, a + b - 1
    x, rest = (jnp.maximum(v, jnp.finfo(v.dtype).tiny ** 0.5) for v in (x, rest))
    near = jnp.where(x < rest, s + 1 / 6 - (n + 1 / 3) * x, (n + 1 / 3) * rest - t - 1 / 6)
    near = near + 0.02 * (rest / (s + 0.5) - x / (t + 0.5) + (rest - 0.5) / (n + 1))
    spread = 1 + rest * _bent(s / (n * x)) + x * _bent(t / (n * rest))
    return ndtr(-near * jnp.sqrt(spread / ((n + 1 / 6) * x * rest)))


def incomplete_beta(a: Any, b: Any, x: Any, rest: Any) -> Any:
    """Compute I_x(a, b) with rest = 1 - x given, which keeps its digits where x is near 1."""
    a, b, x, rest = jnp.broadcast_arrays(*map(jnp.asarray, (a, b, x, rest)))
    inner = x < a / (a + b)  # from the side where the argument is small
    a, b, x, rest = (jnp.where(inner, *pair) for pair in ((a, b), (b, a), (x, rest), (rest, x)))
    most = LARGE[a.dtype]
    # Beside a small one a large parameter is a rate of a gamma law, and may be another with its argument.
    few, many = jnp.minimum(a, most), jnp.minimum(b, most)
    down = -jnp.expm1(jnp.log1p(-x) * ((b + (a - 1) / 2) / (many + (a - 1) / 2)))
    up = jnp.exp(jnp.log(x) * ((a + (b - 1) / 2) / (few + (b - 1) / 2)))
    value = betainc(few, many, jnp.where(b > most, down, jnp.where(a > most, up, x)))
    value = jnp.where((a + b > most) & (jnp.minimum(a, b) >= FEW), _normal_beta(a, b, x, rest), value)
    return jnp.where(inner, value, 1 - value)


def student_two_sided(t: Any, df: Any) -> Any:
    """P(|T| > |t|) of Student's law."""
    t, df = _wide(t, df)
    # Squares of shares of the hypotenuse: no overflow of t^2; an infinite t has no tail.
    root, size = jnp.sqrt(df), jnp.where(jnp.isinf(t), 1, t)
    side = jnp.hypot(root, size)
    tail = incomplete_beta(df / 2, jnp.full_like(df, 0.5), (root / side) ** 2, (size / side) ** 2)
    return jnp.where(jnp.isinf(t), 0, tail)


def f_upper(f: Any, df1: Any, df2: Any) -> Any:
    """P(F > f) of Fisher's law: I_x(df2 / 2, df1 / 2) at x = df2 / (df2 + df1 f)."""
    f, df1, df2 = _wide(f, df1, df2)
    ratio = df1 * jnp.where(jnp.isinf(f), 1, f)
    tail = incomplete_beta(df2 / 2, df1 / 2, df2 / (df2 + ratio), ratio / (df2 + ratio))
    return jnp.where(jnp.isinf(f), 0, tail)


def chi2_upper(x: Any, df: Any) -> Any:
    """P(X > x) of the chi-square law."""
    x, df = _wide(x, df)
    return gammaincc(df / 2, x / 2)


def fair_coin_two_sided(low: Any, total: Any) -> Any:
    """min(1, 2 P(Binomial(total, 1/2) <= low))."""
    low, total = _wide(low, total)
    inner = jnp.where(low < total, low, 0)
    half = jnp.full_like(total, 0.5)
    tail = incomplete_beta(jnp.maximum(total - inner, 1), inner + 1, half, half)
    return jnp.where(low < total, jnp.minimum(1, 2 * tail), 1)
