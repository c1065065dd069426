"""Sobol' sensitivity indices: designs to evaluate, and estimates with bootstrap errors."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._types import Key
from jsamp.estimate import _arrays
from jsamp.estimate._designs import latin_hypercube, sobol_points
from jsamp.estimate._types import Estimate
from jsamp.estimate._variance import open_uniform
from jsamp.select._rows import power_of_two


class Design(NamedTuple):
    """Hold points of a pick-freeze design, or the values of a function at them.

    Args:
        A: [n, d] base points; values [n].
        B: [n, d] independent points; values [n].
        AB: [d, n, d] the base points with coordinate i taken from B; values [d, n].
        BA: [d, n, d] the reverse, or None; values [d, n].

    Example:
        >>> import jax, jsamp as js
        >>> design = js.estimate.saltelli(3, 8, key=jax.random.key(0))
        >>> values = jax.tree.map(lambda x: x.sum(-1), design)  # evaluate anywhere, keep the structure
        >>> values.AB.shape
        (3, 8)
    """

    A: Any
    B: Any
    AB: Any
    BA: Any


class Sobol(NamedTuple):
    """Hold sensitivity indices with their errors.

    Args:
        S1: `Estimate` [d] of first-order indices, the share of variance that an input explains alone.
        ST: `Estimate` [d] of total indices, the share that is lost when all but it are known.
        S2: `Estimate` [d, d] of second-order interactions (symmetric, diagonal 0), or None.

    Example:
        >>> import jax, jsamp as js
        >>> design = js.estimate.saltelli(2, 256, key=jax.random.key(0))
        >>> found = js.estimate.sobol(jax.tree.map(lambda x: 2 * x[..., 0] + x[..., 1], design))
        >>> [round(v, 1) for v in found.S1.value.tolist()]
        [0.8, 0.2]
    """

    S1: Any
    ST: Any
    S2: Any


def saltelli(
    dim: int, num: int, *, key: Key, second: bool = False, points: Literal["sobol", "latin", "random"] = "sobol"
) -> Design:
    """Make the points at which a function is to be evaluated for `sobol`.

    Two independent sets A, B of uniform points, and for every input i the set A with that column from B. Transform the
    columns to your laws by inverse distribution functions, evaluate anywhere (also outside JAX), and give `sobol` the
    values in the same structure.

    Args:
        dim: inputs (static).
        num: base points (static); a power of two for "sobol".
        key: one key.
        second: also make BA, which second-order indices need (static).
        points: "sobol" (A and B are columns of one scrambled sequence in 2 dim coordinates), "latin", or "random".

    Returns:
        `Design` of uniforms in (0, 1): num (dim + 2) points, num (2 dim + 2) with `second`.

    Raises:
        ValueError: for num < 2, dim < 1 or unknown points.

    Example:
        >>> import jax, jsamp as js
        >>> js.estimate.saltelli(3, 64, key=jax.random.key(0)).AB.shape
        (3, 64, 3)

    Cost:
        d + 2 (or 2d + 2) copies of the base points.

    References:
        Saltelli, "Making best use of model evaluations to compute sensitivity indices", 2002.
    """
    _checks.check_key(key, "saltelli")
    dim, num = _checks.check_count("saltelli: dim", dim), _checks.check_count("saltelli: num", num, low=2)
    _checks.check_choice("saltelli: points", points, ("sobol", "latin", "random"))
    if points == "sobol":
        both = sobol_points(2 * dim, num, key=key)
    elif points == "latin":
        both = latin_hypercube(key, 2 * dim, num)
    else:
        both = open_uniform(key, (num, 2 * dim))
    a, b = both[:, :dim], both[:, dim:]
    pick = jnp.eye(dim, dtype=bool)[:, None]
    return Design(
        a,
        b,
        jnp.where(pick, b[None], a[None]),
        jnp.where(pick, a[None], b[None]) if _checks.check_flag("saltelli: second", second) else None,
    )


def _indices(y, weight, estimator):
    """S1 [d], ST [d], S2 [d, d] or None from values and row weights [n] that sum to 1."""
    mean = lambda v: jnp.sum(v * weight.reshape(*(1,) * (v.ndim - 1), -1), -1)
    a, b, ab, ba = y
    centre = (mean(a) + mean(b)) / 2
    a, b, ab = a - centre, b - centre, ab - centre
    variance = (mean(a**2) + mean(b**2)) / 2
    total = mean((a[None] - ab) ** 2) / 2 / variance
    if estimator == "jansen":
        first = 1 - mean((b[None] - ab) ** 2) / 2 / variance
    else:
        first = mean(b[None] * (ab - a[None])) / variance
    if ba is None:
        return first, total, None
    ba = ba - centre
    # V_ij by pick-freeze of the pair: f(BA_i) f(AB_j) share all inputs but i and j.
    both = jax.lax.map(lambda row: mean(row[None] * ab - (a * b)[None]), ba) / variance
    pair = both - first[:, None] - first[None, :]
    pair = jnp.where(jnp.eye(ab.shape[0], dtype=bool), 0, (pair + pair.T) / 2)
    return first, total, pair


@functools.partial(jax.jit, static_argnames=("resamples", "estimator"))
def _sobol(key, y, resamples, estimator):
    n = y.A.shape[0]
    # Indices have no unit: squares of the values must stay among the floats.
    unit = power_of_two(jnp.stack([y.A, y.B]))
    y = jax.tree.map(lambda v: v * unit, y)
    # Center once: a large offset must not cost digits.
    offset = (jnp.mean(y.A) + jnp.mean(y.B)) / 2
    y = jax.tree.map(lambda v: v - offset, y)
    scale = jnp.sqrt((jnp.var(y.A) + jnp.var(y.B)) / 2)
    y = jax.tree.map(lambda v: v / scale, y)
    value = _indices(y, jnp.full(n, 1 / n, y.A.dtype), estimator)

    def once(key):
        hits = jnp.zeros(n, y.A.dtype).at[jax.random.randint(key, (n,), 0, n)].add(1)
        return _indices(y, hits / n, estimator)

    draws = jax.lax.map(once, jax.random.split(key, resamples), batch_size=8)
    size = jnp.asarray(n, y.A.dtype)
    pack = lambda v, d: Estimate(v, jnp.std(d, axis=0, ddof=1), jnp.broadcast_to(size, v.shape))
    return Sobol(*(None if v is None else pack(v, d) for v, d in zip(value, draws, strict=True)))


def _check_constant(who, y):
    known = _checks.concrete(y)
    if known is not None and known.min() == known.max():
        raise ValueError(f"{who}: every value is {known.flat[0]:g}, so there is no variance to share out.")


def sobol(
    values: Any,
    *,
    key: Key | None = None,
    estimator: Literal["saltelli", "jansen"] = "saltelli",
    resamples: int = 100,
) -> Sobol:
    """Estimate first-order, total and second-order Sobol' indices from values at the points of `saltelli`.

    With V the variance over A and B: S1_i = mean B (AB_i - A) / V ("saltelli") or 1 - mean (B - AB_i)^2 / 2V ("jansen",
    better for large indices), ST_i = mean (A - AB_i)^2 / 2V, S2_ij = mean (BA_i AB_j - A B) / V - S1_i - S1_j. Values
    are centred first. Errors are standard deviations over bootstrap resamples of whole rows; for scrambled Sobol'
    points they are those of independent points, an upper bound in practice. ess counts rows.

    Args:
        values: `Design` of values: A [n], B [n], AB [d, n], and BA [d, n] or None.
        key: one key for the bootstrap; None takes key 0.
        estimator: "saltelli" or "jansen", for S1.
        resamples: bootstrap resamples (static).

    Returns:
        `Sobol(S1, ST, S2)`; S2 is None without BA.

    Raises:
        ValueError: for fewer than 2 rows, shapes that do not fit, NaN, constant values, or an unknown estimator.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> def ishigami(u):
        ...     x = (2 * u - 1) * jnp.pi
        ...     return jnp.sin(x[..., 0]) + 7 * jnp.sin(x[..., 1]) ** 2 + 0.1 * x[..., 2] ** 4 * jnp.sin(x[..., 0])
        >>> design = js.estimate.saltelli(3, 1024, key=jax.random.key(0))
        >>> [round(v, 1) for v in js.estimate.sobol(jax.tree.map(ishigami, design)).ST.value.tolist()]
        [0.6, 0.4, 0.2]

    Cost:
        `resamples` passes over the values.

    References:
        Saltelli et al., "Variance based sensitivity analysis of model output", 2010. Jansen, "Analysis of variance
        designs for model output", 1999.
    """
    fields = Design(*values) if isinstance(values, (tuple, list)) and len(values) == 4 else None
    if fields is None:
        raise TypeError("sobol: values must be a Design(A, B, AB, BA), for example jax.tree.map(f, saltelli(...)).")
    _checks.check_choice("sobol: estimator", estimator, ("saltelli", "jansen"))
    _checks.check_count("sobol: resamples", resamples, low=2)
    a, b = (_arrays.array(f"sobol: values.{n}", v, "n", low=2) for n, v in (("A", fields.A), ("B", fields.B)))
    ab = _arrays.array("sobol: values.AB", fields.AB, "d n")
    ba = None if fields.BA is None else _arrays.array("sobol: values.BA", fields.BA, "d n")
    if b.shape != a.shape or ab.shape[1:] != a.shape or (ba is not None and ba.shape != ab.shape):
        raise ValueError(f"sobol: want A [n], B [n], AB [d, n], BA [d, n]; got {a.shape}, {b.shape}, {ab.shape}.")
    _check_constant("sobol", jnp.concatenate([a, b]))
    key = jax.random.key(0) if key is None else key
    _checks.check_key(key, "sobol")
    return _sobol(key, Design(a, b, ab, ba), resamples, estimator)


@jax.jit
def _rank(x, y):
    n, d = x.shape
    gap = y - jnp.mean(y)

    def one(column):
        z = gap[jnp.argsort(column)]
        # Successors in rank, the last one followed by the first, see nearly the same input and fresh others.
        return z * jnp.roll(z, -1), z

    product, ordered = jax.vmap(one, in_axes=1)(x)
    variance = jnp.mean(gap**2)
    value = jnp.mean(product, 1) / variance
    # Given x the products are 1-dependent: their variance has one lag; the denominator moves with them. What varies
    # smoothly with x is alike at every lag, and counts once: the second lag, which holds nothing else, tells it.
    influence = (product - jnp.mean(product, 1)[:, None]) - value[:, None] * (ordered**2 - variance)
    influence = influence.at[:, -1].set(0)  # the one pair of strangers, last and first, is a bias of order 1 / n
    lag = jnp.mean(influence * jnp.roll(influence, -1, 1), 1)
    second = jnp.mean(influence * jnp.roll(influence, -2, 1), 1)
    long_run = jnp.mean(influence**2, 1) + 2 * lag - 2 * second
    spread = jnp.where(long_run > 0, long_run, jnp.mean(influence**2, 1))
    return Estimate(value, jnp.sqrt(spread / n) / variance, jnp.full(d, n, y.dtype))


def sobol_rank(x: Any, y: Any) -> Estimate:
    """Estimate first-order Sobol' indices from one plain sample, by ranks: no design is needed.

    S1_i = mean (y_k - m)(y_succ(k) - m) / V, succ(k) the point whose input i comes next in rank. Its error uses the
    sample covariance of the terms with their two neighbours in rank.

    Args:
        x: [n, d] inputs, independent of each other.
        y: [n] values.

    Returns:
        `Estimate` of [d].

    Raises:
        ValueError: for fewer than 10 rows, lengths that differ, NaN or constant values.

    Example:
        >>> import jax, jsamp as js
        >>> x = jax.random.normal(jax.random.key(0), (4000, 2))
        >>> [round(v, 1) for v in js.estimate.sobol_rank(x, 2 * x[:, 0] + x[:, 1]).value.tolist()]
        [0.8, 0.2]

    Cost:
        One sort of each input.

    References:
        Gamboa, Gremaud, Klein and Lagnoux, "Global sensitivity analysis: a new generation of mighty estimators based on
        rank statistics", 2022, arXiv:2003.01772. Chatterjee, "A new coefficient of correlation", 2021.
    """
    x, y = _arrays.array("sobol_rank: x", x, "n d", low=10), _arrays.array("sobol_rank: y", y, "n", low=10)
    _arrays.same_length("sobol_rank", x=x, y=y)
    _check_constant("sobol_rank", y)
    y = y * power_of_two(y)
    return _rank(x, y - y[0])  # the first value takes an offset away without rounding, which a mean does not
