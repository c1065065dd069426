"""SMOTE and its variants: new rows between minority rows and their neighbours."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_choice, check_count, check_key
from jsamp._core._types import Key
from jsamp.select._bits import wide
from jsamp.select._neighbors import neighbors
from jsamp.select._rows import as_floating, check_row_numbers, is_bad, power_of_two, refuse_too_small

KINDS = ("regular", "borderline1", "borderline2", "nc")


class Synthetic(NamedTuple):
    """Hold new rows and their two parents.

    Args:
        x: [num, d] new rows.
        parent: [num] row of X each starts from.
        neighbor: [num] row of X each moves towards.
        ok: False when there was nothing to start from (no minority row in danger), and x then repeats its parents.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.arange(12.0).reshape(6, 2)
        >>> new = js.select.smote(jax.random.key(0), X, jnp.arange(4), 3, k=2)
        >>> new.x.shape, bool(new.ok)
        ((3, 2), True)
    """

    x: Any
    parent: Any
    neighbor: Any
    ok: Any


def smote(
    key: Key, X: Any, minority: Any, num: int, *, k: int = 5, kind: str = "regular", around: int = 10,
    per_point: str = "balanced", gap: str = "segment", nominal: tuple[int, ...] = (),
) -> Synthetic:  # fmt: skip
    """Make synthetic minority rows x = x_i + u (x_j - x_i), j one of the k nearest minority neighbours of i.

    "borderline1" starts only from minority rows in danger: at least half, but not all, of their `around` nearest rows
    in the whole set are of other classes. "borderline2" also moves towards other-class neighbours, at most half way.
    "nc" handles nominal columns: a mismatch costs the median standard deviation of the continuous columns, and the new
    row takes the most frequent value among the parent's neighbours (ties at random). Oversample inside each
    cross-validation fold, never before the split.

    Args:
        key: one JAX key.
        X: [n, d] all rows, floating point (nominal columns as codes).
        minority: [n_min] distinct row numbers of the class to extend, for example `np.flatnonzero(y == 1)`.
        num: new rows, static.
        k: neighbours, static.
        kind: "regular", "borderline1", "borderline2" or "nc", static.
        around: neighbours that decide danger (borderline kinds), static.
        per_point: "balanced" uses every start row equally often (the paper), "random" draws them independently.
        gap: "segment" draws one u per new row (the paper's text), "box" one per column (its pseudo-code).
        nominal: columns of codes, for kind="nc".

    Returns:
        `Synthetic(x, parent, neighbor, ok)`.

    Raises:
        ValueError: for n_min <= k, k < 1, n <= around (borderline kinds), NaN rows, row numbers that repeat or lie
            outside X, unknown options, or nominal columns that do not fit the kind.
        TypeError: for integer X.

    Example:
        >>> import jax, numpy as np, jsamp as js
        >>> X = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
        >>> new = js.select.smote(jax.random.key(0), X, np.arange(20), 100)
        >>> bool((new.parent < 20).all() & (new.neighbor != new.parent).all())
        True

    Cost:
        n_min^2 d multiply-adds in blocks (borderline: n_min n d), then num x d.

    References:
        Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", 2002, arXiv:1106.1813. Han, Wang and Mao,
        "Borderline-SMOTE", 2005.
    """
    check_key(key, "smote")
    X = as_floating("smote: X", X)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"smote: X must be [n, d], got shape {X.shape}.")
    check_count("smote: num", num, low=0)
    check_count("smote: k", k)
    check_count("smote: around", around)
    for name, value, allowed in (
        ("kind", kind, KINDS), ("per_point", per_point, ("balanced", "random")), ("gap", gap, ("segment", "box"))
    ):  # fmt: skip
        check_choice(f"smote: {name}", value, allowed)
    n, d = X.shape
    minority = check_row_numbers("smote: minority", minority, n)
    if minority.shape[0] <= k:
        raise ValueError(f"smote: {minority.shape[0]} minority rows have no {k} neighbours. Lower k or add rows.")
    if is_bad(X):
        raise ValueError("smote: X holds NaN or infinity. Impute or drop those rows first.")
    if kind.startswith("borderline") and n <= around:
        raise ValueError(f"smote: {n} rows have no {around} neighbours to decide danger by. Lower around.")
    nominal = _check_columns(nominal, kind, d)
    X = X.astype(wide(X.dtype))
    refuse_too_small("smote: X", X)
    return _smote(key, X, minority, num, k, kind, around, per_point, gap, nominal)


def _check_columns(nominal: Any, kind: str, d: int) -> tuple[int, ...]:
    """The nominal columns as a tuple of ints: some, not all, and only for kind="nc"."""
    if isinstance(nominal, (str, bytes)) or not np.iterable(nominal):
        raise TypeError(f"smote: nominal must be a tuple of column numbers, got {nominal!r}.")
    columns = tuple(check_count("smote: nominal column", c, low=0, high=d - 1) for c in nominal)
    if (kind == "nc") != bool(columns) or len(set(columns)) >= d or len(set(columns)) < len(columns):
        raise ValueError(f"smote: kind='nc' needs some but not all columns as nominal; got {columns} of {d} columns.")
    return columns


@functools.partial(jax.jit, static_argnames=("num", "k", "kind", "around", "per_point", "gap", "nominal"))
def _smote(key, X, minority, num, k, kind, around, per_point, gap, nominal):
    n_min, (n, d) = minority.shape[0], X.shape
    keys = jax.random.split(key, 4)
    own = jnp.zeros((n,), bool).at[minority].set(True)
    local = jnp.arange(n_min, dtype=jnp.int32)
    place = X * power_of_two(X)  # distances of huge and tiny units neither overflow nor vanish
    rows = place[minority]
    smooth = [c for c in range(d) if c not in nominal]
    if kind == "borderline2":
        near = neighbors(rows, minority, place, k)
    else:
        extra = None
        if kind == "nc":
            spread = jnp.median(jnp.std(rows[:, np.array(smooth)], 0))
            codes = X[minority][:, np.array(nominal)]
            extra = (codes, codes, jnp.where(spread > 0, spread, 1) ** 2)
        near = minority[neighbors(rows[:, np.array(smooth)], local, rows[:, np.array(smooth)], k, extra)]
    start, count = local, jnp.asarray(n_min)
    if kind.startswith("borderline"):
        strangers = jnp.sum(~own[neighbors(rows, minority, place, around)], 1)
        danger = (2 * strangers >= around) & (strangers < around)
        start, count = jnp.argsort(~danger, stable=True).astype(jnp.int32), jnp.sum(danger)
    use = jnp.maximum(count, 1)
    if per_point == "balanced":
        # Rows outside the start set sort behind it: a random order of the start set, walked round and round.
        rank = jnp.where(local < count, jax.random.uniform(keys[0], (n_min,)), 2.0)
        start = start[jnp.argsort(rank)]
        chosen = start[jnp.arange(num) % use]
    else:
        chosen = start[jnp.minimum(jnp.floor(jax.random.uniform(keys[0], (num,)) * use), use - 1).astype(jnp.int32)]
    other = near[chosen, jax.random.randint(keys[1], (num,), 0, k)]
    u = jax.random.uniform(keys[2], (num, d if gap == "box" else 1), X.dtype)
    if kind == "borderline2":
        u = jnp.where(own[other][:, None], u, u / 2)
    parent = minority[chosen]
    x = X[parent] + u * (X[other] - X[parent])
    for column, noise_key in zip(nominal, jax.random.split(keys[3], max(len(nominal), 1)), strict=False):
        votes = X[near[chosen], column]
        tally = jnp.sum(votes[:, :, None] == votes[:, None, :], 2) + jax.random.uniform(noise_key, votes.shape) / 2
        x = x.at[:, column].set(jnp.take_along_axis(votes, jnp.argmax(tally, 1)[:, None], 1)[:, 0])
    return Synthetic(jnp.where(count > 0, x, X[parent]), parent, other, count > 0)
