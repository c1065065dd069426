"""Permutation tests, and corrections of p-values for many tests."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._types import Key
from jsamp.estimate import _arrays
from jsamp.estimate._types import Significance


@functools.partial(jax.jit, static_argnames=("num", "paired", "exact"))
def _permutations(key, a, b, num, paired, exact):
    n = a.shape[0]
    if paired:
        gap = a - b
        seen = jnp.abs(jnp.mean(gap))

        def once(word):
            if exact:
                sign = 1 - 2 * ((word >> jnp.arange(n, dtype=jnp.uint32)) & 1).astype(a.dtype)
            else:
                sign = jax.random.rademacher(word, (n,), a.dtype)
            return jnp.abs(jnp.mean(sign * gap))

        words = jnp.arange(2**n, dtype=jnp.uint32) if exact else jax.random.split(key, num)
    else:
        pool = jnp.concatenate([a, b])
        pool = pool - jnp.mean(pool)
        statistic = lambda v: jnp.abs(jnp.mean(v[:n]) - jnp.mean(v[n:]))
        seen = statistic(pool)
        once = lambda word: statistic(jax.random.permutation(word, pool))
        words = jax.random.split(key, num)
    draws = jax.lax.map(once, words, batch_size=64)
    # Equal sums in another order differ in the last digits: those are ties.
    slack = 8 * jnp.finfo(a.dtype).eps * (jnp.mean(jnp.abs(a)) + jnp.mean(jnp.abs(b)))
    hits = jnp.sum(draws >= seen - slack)
    hits = hits.astype(a.dtype)
    return Significance(seen, hits / draws.size if exact else (hits + 1) / (num + 1))


def permutation_test(
    key: Key | None, a: Any, b: Any, *, num: int = 9999, paired: bool = True, exact: bool = False
) -> Significance:
    """Test whether two sets of scores have one law, by permuting which is which.

    The statistic is |mean(a) - mean(b)|. Paired scores change sides within a pair; unpaired ones are shuffled over both
    sets. p = (1 + hits) / (1 + num), or with `exact` the share among all 2^n sign patterns.

    Args:
        key: one key; None with `exact`.
        a: [n] scores.
        b: [n] scores (paired), or [m].
        num: random permutations (static).
        paired: whether a_i and b_i belong together (static).
        exact: enumerate all sign patterns (static); paired scores, n <= 20.

    Returns:
        `Significance(|difference of means|, p)`, two-sided.

    Raises:
        ValueError: for lengths that differ though paired, or exact enumeration of unpaired or more than 20 scores.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> float(js.estimate.permutation_test(None, jnp.arange(1.0, 6.0), jnp.zeros(5), exact=True).pvalue)
        0.0625

    Cost:
        num (or 2^n) passes over the scores, 64 at a time.

    References:
        Phipson and Smyth, "Permutation p-values should never be zero", 2010, arXiv:1603.05766.
    """
    paired, exact = (
        _checks.check_flag("permutation_test: paired", paired),
        _checks.check_flag("permutation_test: exact", exact),
    )
    a, b = _arrays.array("permutation_test: a", a, "n", low=2), _arrays.array("permutation_test: b", b, "n", low=2)
    if paired:
        _arrays.same_length("permutation_test", a=a, b=b)
    if exact and (not paired or a.shape[0] > 20):
        raise ValueError(f"permutation_test: exact=True wants paired scores and n <= 20, got n = {a.shape[0]}.")
    num = _checks.check_count("permutation_test: num", num)
    if not exact:
        _checks.check_key(key, "permutation_test")
    kind = jnp.result_type(a, b)
    return _permutations(None if exact else key, a.astype(kind), b.astype(kind), 0 if exact else num, paired, exact)


def _pvalues(who, pvalues):
    p = _arrays.array(f"{who}: pvalues", pvalues, "m")
    _checks.check_number(f"{who}: pvalues", p, low=0, high=1)
    return p


def bonferroni(pvalues: Any) -> jax.Array:
    """Correct p-values of m tests so that any false alarm among them has the stated probability: min(1, m p).

    Args:
        pvalues: [m].

    Returns:
        [m] corrected p-values.

    Raises:
        ValueError: for values outside [0, 1].

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.estimate.bonferroni(jnp.array([0.25, 0.5])).tolist()
        [0.5, 1.0]

    Cost:
        One pass.
    """
    p = _pvalues("bonferroni", pvalues)
    return jnp.minimum(1, p * p.shape[0])


def holm(pvalues: Any) -> jax.Array:
    """Correct p-values of m tests step by step: never larger than Bonferroni's, with the same guarantee.

    The k-th smallest is multiplied by m - k + 1, and made no smaller than those before it.

    Args:
        pvalues: [m].

    Returns:
        [m] corrected p-values, in the order given.

    Raises:
        ValueError: for values outside [0, 1].

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.estimate.holm(jnp.array([0.25, 0.0625, 0.375])).tolist()
        [0.5, 0.1875, 0.5]

    Cost:
        One sort.

    References:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    p = _pvalues("holm", pvalues)
    order = jnp.argsort(p)
    stepped = jax.lax.cummax(jnp.minimum(1, p[order] * jnp.arange(p.shape[0], 0, -1)))
    return jnp.zeros_like(p).at[order].set(stepped)
