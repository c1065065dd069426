"""Tail probabilities of the laws that tests need, by the incomplete beta and gamma functions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import betainc, erfc, gammaincc


def _wide(*values: Any) -> list[Any]:
    kind = jnp.result_type(float, *values)
    return [jnp.asarray(v, kind) for v in jnp.broadcast_arrays(*values)]


def _beta(a: Any, b: Any, x: Any, rest: Any) -> Any:
    """I_x(a, b) with 1 - x given, from the side where the argument is small and keeps its digits."""
    inner = x < a / (a + b)
    return jnp.where(inner, betainc(a, b, x), 1 - betainc(b, a, rest))


def student_two_sided(t: Any, df: Any) -> Any:
    """P(|T| > |t|) of Student's law."""
    t, df = _wide(t, df)
    # Squares of shares of the hypotenuse: no overflow of t^2; an infinite t has no tail.
    root, size = jnp.sqrt(df), jnp.where(jnp.isinf(t), 1, t)
    side = jnp.hypot(root, size)
    tail = _beta(df / 2, jnp.full_like(df, 0.5), (root / side) ** 2, (size / side) ** 2)
    return jnp.where(jnp.isinf(t), 0, tail)


def f_upper(f: Any, df1: Any, df2: Any) -> Any:
    """P(F > f) of Fisher's law: I_x(df2 / 2, df1 / 2) at x = df2 / (df2 + df1 f)."""
    f, df1, df2 = _wide(f, df1, df2)
    ratio = df1 * jnp.where(jnp.isinf(f), 1, f)
    tail = _beta(df2 / 2, df1 / 2, df2 / (df2 + ratio), ratio / (df2 + ratio))
    return jnp.where(jnp.isinf(f), 0, tail)


def chi2_upper(x: Any, df: Any) -> Any:
    """P(X > x) of the chi-square law."""
    x, df = _wide(x, df)
    return gammaincc(df / 2, x / 2)


def normal_two_sided(z: Any) -> Any:
    """P(|Z| > |z|) of the standard normal law."""
    (z,) = _wide(z)
    return erfc(jnp.abs(z) / jnp.sqrt(2.0).astype(z.dtype))


def fair_coin_two_sided(low: Any, total: Any) -> Any:
    """min(1, 2 P(Binomial(total, 1/2) <= low))."""
    low, total = _wide(low, total)
    inner = jnp.where(low < total, low, 0)
    tail = betainc(jnp.maximum(total - inner, 1), inner + 1, jnp.full_like(total, 0.5))
    return jnp.where(low < total, jnp.minimum(1, 2 * tail), 1)
