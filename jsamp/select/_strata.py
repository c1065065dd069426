"""Draw from strata: fixed counts, balanced targets, pixel masks."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import (
    check_choice,
    check_count,
    check_finite,
    check_key,
    check_number,
    check_rows,
    concrete,
    is_traced,
    refuse_sparse,
    shown,
)
from jsamp._core._types import Key
from jsamp.select._bits import log_clocks
from jsamp.select._rows import as_array, as_floating, check_labels, check_vector
from jsamp.select._subset import Subset


def rank_in_group(group: jax.Array, order: jax.Array, num: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Position of every item inside its group when sorted by `order`; group sizes; and the sorted items themselves."""
    n = group.shape[0]
    sorted_items = jnp.lexsort((order, group))
    size = jnp.zeros((num,), jnp.int32).at[group].add(1, mode="drop")
    start = jnp.cumsum(size) - size
    place = jnp.arange(n, dtype=jnp.int32) - start[jnp.minimum(group[sorted_items], num - 1)]
    return jnp.zeros((n,), jnp.int32).at[sorted_items].set(place), size, sorted_items.astype(jnp.int32)


def first_of_groups(group, order, num_groups, alloc, width, cycle, mass=None):
    """Slots [groups, width]: the first alloc[g] items of every group; with `cycle`, short groups are walked again.

    Items of group `num_groups` are in none. Weights add up to the size of each group, or to its `mass`.
    """
    _, size, items = rank_in_group(group, order, num_groups)
    start = jnp.cumsum(size) - size
    slot = jnp.arange(width, dtype=jnp.int32)[None]
    place = slot % jnp.maximum(size, 1)[:, None] if cycle else slot
    limit = alloc if cycle else jnp.minimum(alloc, size)
    mask = (slot < limit[:, None]) & (size > 0)[:, None]
    index = items[jnp.minimum(start[:, None] + place, group.shape[0] - 1)]
    weight = (size if mass is None else mass) / jnp.maximum(limit, 1)
    weight = jnp.where(mask, jnp.broadcast_to(weight[:, None], mask.shape), 0)
    return Subset(jnp.where(mask, index, 0).ravel(), weight.ravel(), mask.ravel())


def stratified(key: Key, strata: Any, counts: Any, *, scores: Any = None) -> Subset:
    """Draw a fixed number of distinct rows from every stratum: uniformly, or without replacement by scores.

    Args:
        key: one JAX key.
        strata: [n] integers in 0..S-1.
        counts: S Python ints, rows per stratum (see `stratum_counts`), static.
        scores: [n] non-negative, or None: inside a stratum rows are then drawn by exponential clocks, never those of
            score 0.

    Returns:
        `Subset` with S * max(counts) slots, stratum after stratum; a short stratum leaves slots unused. Weights
        N_h / m_h make uniform draws unbiased (with `scores` they only restore the size of the stratum).

    Raises:
        ValueError: for strata outside 0..S-1, or negative counts.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> subset = js.select.stratified(jax.random.key(0), jnp.array([0, 0, 0, 1, 1]), (2, 1))
        >>> subset.mask.tolist(), subset.weight.tolist()
        ([True, True, True, False], [1.5, 1.5, 2.0, 0.0])

    Cost:
        One sort.
    """
    check_key(key, "stratified")
    counts = _check_counts("stratified: counts", counts)
    strata = check_labels("stratified: strata", strata, len(counts))
    clock, group, mass = log_clocks(key, strata.shape), strata, None
    if scores is not None:
        scores = check_vector("stratified: scores", as_floating("stratified: scores", scores), strata.shape[0], low=0)
        clock = jnp.where(scores > 0, clock - jnp.log(jnp.where(scores > 0, scores, 1)), jnp.inf)
        group = jnp.where(scores > 0, strata, len(counts))  # rows of score 0 are never drawn
        mass = jnp.zeros((len(counts),), jnp.int32).at[strata].add(1)
    return first_of_groups(group, clock, len(counts), jnp.asarray(counts), max(*counts, 1), False, mass)


def _check_counts(name: str, counts: Any) -> tuple[int, ...]:
    """Rows per stratum as Python ints; dicts, fractions and traced counts are refused."""
    refuse_sparse(name, counts)
    if isinstance(counts, (dict, str, set)) or is_traced(counts) or not np.iterable(counts):
        raise TypeError(f"{name} must be S integers, one per stratum, got {shown(counts)}. Use stratum_counts.")
    counts = np.asarray(counts).tolist() if hasattr(counts, "dtype") else list(counts)
    if not counts:
        raise ValueError(f"{name} is empty; pass one integer per stratum.")
    return tuple(check_count(name, c, low=0) for c in counts)


def stratum_counts(
    sizes: Any,
    num: int,
    *,
    kind: Literal["equal", "proportional", "neyman"] = "proportional",
    spread: Any = None,
    cost: Any = None,
) -> tuple:
    """Compute how many rows to draw from every stratum, adding up to exactly `num`.

    "equal" splits evenly, "proportional" by size N_h, "neyman" by N_h spread_h / sqrt(cost_h), which minimises the
    variance of a stratified mean. Fractions go to the largest remainders; no stratum gets more than it has.

    Args:
        sizes: [S] stratum sizes N_h.
        num: rows in all.
        kind: see above.
        spread: [S] standard deviations, for "neyman".
        cost: [S] cost per row, for "neyman" (default 1).

    Returns:
        S Python ints.

    Raises:
        ValueError: for num above the total size, or "neyman" without spread.

    Example:
        >>> import jsamp as js
        >>> js.select.stratum_counts([80, 15, 5], 10), js.select.stratum_counts([80, 15, 5], 10, kind="equal")
        ((8, 2, 0), (4, 3, 3))

    Cost:
        Host arithmetic, at most one pass over the strata for each stratum.

    References:
        Neyman, "On the two different aspects of the representative method", 1934.
    """
    sizes = np.asarray(_check_counts("stratum_counts: sizes", sizes), np.int64)
    check_choice("stratum_counts: kind", kind, ("equal", "proportional", "neyman"))
    check_count("stratum_counts: num", num, high=int(sizes.sum()))
    spread = None if spread is None else _check_strata("stratum_counts: spread", spread, len(sizes), open_low=False)
    cost = 1.0 if cost is None else _check_strata("stratum_counts: cost", cost, len(sizes), open_low=True)
    share = np.ones(len(sizes)) if kind == "equal" else sizes.astype(float)
    if kind == "neyman":
        if spread is None:
            raise ValueError("stratum_counts: kind='neyman' needs spread, the standard deviation in every stratum.")
        share = share * (spread / max(spread.max(), 1e-300)) / np.sqrt(cost)
    share = np.where(sizes > 0, share, 0)
    counts = np.zeros(len(sizes))
    full = np.zeros(len(sizes), bool)
    while True:  # water-filling: full strata give their surplus to the others
        free = np.where(full, 0, share)
        free = np.where(full, 0, np.where(sizes > 0, 1.0, 0)) if free.sum() == 0 else free
        counts = np.where(full, sizes, (num - sizes[full].sum()) * free / max(free.sum(), 1e-300))
        over = (counts > sizes) & ~full
        if not over.any():
            break
        full |= over
    whole = np.floor(counts + 1e-9).astype(int)
    for h in np.argsort(-(counts - whole), kind="stable")[: num - whole.sum()]:
        whole[h] += 1
    return tuple(int(c) for c in whole)


def _check_strata(name: str, value: Any, num: int, *, open_low: bool) -> np.ndarray:
    check_number(name, value, low=0, open_low=open_low)
    value = np.asarray(value, float)
    if value.shape not in ((), (num,)):
        raise ValueError(f"{name} must be a number or one per stratum [{num}], got shape {value.shape}.")
    return np.broadcast_to(value, (num,))


def balance(key: Key, target: Any, edges: Any, num: int) -> Subset:
    """Draw a training set in which every bin of a continuous target appears equally often.

    Rows are binned by `edges`; every bin gives `num` rows, distinct while it lasts and then walked through again in the
    same random order, so no row of a bin is used twice more often than another.

    Args:
        key: one JAX key.
        target: [n] values.
        edges: [B + 1] increasing bin edges (for example quantiles); values outside belong to the end bins.
        num: rows per bin, static.

    Returns:
        `Subset` with B * num slots, bin after bin; an empty bin leaves its slots unused. weight = N_bin / num undoes
        the balancing.

    Raises:
        ValueError: for edges that do not increase, or a NaN target.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> target = jnp.array([1.0, 1.2, 1.1, 1.3, 6.5])
        >>> subset = js.select.balance(jax.random.key(0), target, jnp.array([1.0, 4.0, 7.0]), 3)
        >>> subset.index[3:].tolist(), len(set(subset.index[:3].tolist()))
        ([4, 4, 4], 3)

    Cost:
        One sort.

    References:
        The stratified re-sampling of shared-task systems for empathy and emotion prediction (WASSA 2022 to 2024).
    """
    check_key(key, "balance")
    check_count("balance: num", num)
    for name, value in (("target", target), ("edges", edges)):
        check_finite(f"balance: {name}", value)
        check_rows(f"balance: {name}", value, ndim=1)
    known = concrete(edges)
    if np.shape(edges)[0] < 2 or (known is not None and not np.all(np.diff(known) > 0)):
        raise ValueError("balance: edges must be at least two increasing numbers. Merge equal quantiles.")
    bins = np.shape(edges)[0] - 1
    if is_traced(target, edges):
        label = jnp.searchsorted(jnp.asarray(edges)[1:-1], jnp.asarray(target), side="right")
    else:  # on the host in full precision: seconds since 1970 have no float32
        label = jnp.asarray(np.searchsorted(np.asarray(edges)[1:-1], np.asarray(target), side="right"), jnp.int32)
    alloc = jnp.full((bins,), num)
    return first_of_groups(label, log_clocks(key, label.shape), bins, alloc, num, True)


def stratified_masks(key: Key, labels: Any, train: Any, num_classes: int, *, alpha: int = 10) -> jax.Array:
    """Assign every training pixel of an image to one of its stratified mini-batches.

    The training pixels of each class are shuffled and cut into chunks of `alpha`; batch t is the union of the t-th
    chunks of all classes. Instead of T masks, one integer map: mask t is `map == t`. Draw it anew every epoch, visit
    the T = max(map) + 1 masks in random order, and train with sum(mask * loss) / sum(mask) on the full image.

    Args:
        key: one JAX key.
        labels: [...] integers, 0 = unlabelled, 1..num_classes.
        train: [...] bool, pixels that may be used.
        num_classes: static.
        alpha: pixels per class and mask, static.

    Returns:
        [...] int32, the number of the mask, -1 for pixels in none.

    Raises:
        ValueError: for labels outside 0..num_classes, shapes that differ, alpha < 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> labels = jnp.array([[1, 1, 1, 2], [0, 2, 1, 0]])
        >>> chunk = js.select.stratified_masks(jax.random.key(0), labels, labels > 0, 2, alpha=2)
        >>> int(chunk.max()) + 1, sorted(chunk[labels == 1].tolist()), chunk[labels == 2].tolist()
        (2, [0, 0, 1, 1], [0, 0])

    Cost:
        One sort of the pixels.

    References:
        Zheng et al., "FPGA: Fast Patch-Free Global Learning Framework for Fully End-to-End Hyperspectral Image
        Classification", 2020, arXiv:2011.05670.
    """
    check_key(key, "stratified_masks")
    check_count("stratified_masks: alpha", alpha)
    check_count("stratified_masks: num_classes", num_classes)
    labels, train = as_array("stratified_masks: labels", labels), as_array("stratified_masks: train", train)
    if (
        labels.size == 0
        or labels.shape != train.shape
        or not jnp.issubdtype(labels.dtype, jnp.integer)
        or train.dtype != jnp.bool_
    ):
        raise ValueError(f"stratified_masks: labels (integers) and train (bool) must share one shape, got "
                         f"{labels.dtype}{list(labels.shape)} and {train.dtype}{list(train.shape)}.")  # fmt: skip
    known = concrete(labels)
    if known is not None and (known.min() < 0 or known.max() > num_classes):
        raise ValueError(f"stratified_masks: labels must lie in 0..{num_classes}, got {known.min()}..{known.max()}.")
    used = train & (labels > 0)
    group = jnp.where(used, labels - 1, num_classes).ravel()
    rank, _, _ = rank_in_group(group, log_clocks(key, group.shape), num_classes + 1)
    return jnp.where(used, (rank // alpha).reshape(labels.shape), -1)
