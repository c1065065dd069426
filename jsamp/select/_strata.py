"""One stratified kernel, and what is made of it: balanced targets, pixel masks, cross-modal retrieval."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_choice, check_count, check_floating, check_key, check_number, concrete
from jsamp.select._bits import log_clocks
from jsamp.select._subset import Subset
from jsamp.select._whiten import matmul


def rank_in_group(group: jax.Array, order: jax.Array, num: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Position of every item inside its group when sorted by `order`; group sizes; and the sorted items themselves."""
    n = group.shape[0]
    sorted_items = jnp.lexsort((order, group))
    size = jnp.zeros((num,), jnp.int32).at[group].add(1, mode="drop")
    start = jnp.cumsum(size) - size
    place = jnp.arange(n, dtype=jnp.int32) - start[jnp.minimum(group[sorted_items], num - 1)]
    return jnp.zeros((n,), jnp.int32).at[sorted_items].set(place), size, sorted_items.astype(jnp.int32)


def _first_of_groups(group, order, num_groups, alloc, width, cycle):
    """Slots [groups, width]: the first alloc[g] items of every group; with `cycle`, short groups are walked again."""
    _, size, items = rank_in_group(group, order, num_groups)
    start = jnp.cumsum(size) - size
    slot = jnp.arange(width, dtype=jnp.int32)[None]
    place = slot % jnp.maximum(size, 1)[:, None] if cycle else slot
    limit = alloc if cycle else jnp.minimum(alloc, size)
    mask = (slot < limit[:, None]) & (size > 0)[:, None]
    index = items[jnp.minimum(start[:, None] + place, group.shape[0] - 1)]
    weight = size / jnp.maximum(limit, 1)
    weight = jnp.where(mask, jnp.broadcast_to(weight[:, None], mask.shape), 0)
    return Subset(jnp.where(mask, index, 0).ravel(), weight.ravel(), mask.ravel())


def _check_groups(group: Any, n: int | None, num: int, who: str) -> jax.Array:
    group = jnp.asarray(group)
    if group.ndim != 1 or not jnp.issubdtype(group.dtype, jnp.integer) or (n is not None and group.shape[0] != n):
        raise ValueError(f"{who}: strata must be integers [n], got {group.dtype}{list(group.shape)}.")
    known = concrete(group)
    if known is not None and (known.min() < 0 or known.max() >= num):
        raise ValueError(f"{who}: strata must lie in 0..{num - 1}, got {known.min()}..{known.max()}.")
    return group


def stratified(key: jax.Array, strata: Any, counts: Any, *, scores: Any = None) -> Subset:
    """A fixed number of distinct rows from every stratum: uniformly, or without replacement by scores.

    Args:
        key: one JAX key.
        strata: [n] integers in 0..S-1.
        counts: S Python ints, rows per stratum (see `stratum_counts`), static.
        scores: [n] non-negative, or None: inside a stratum rows are then drawn by exponential clocks.

    Returns:
        `Subset` with S * max(counts) slots, stratum after stratum; a short stratum leaves slots unused. Weights
        N_h / m_h make uniform draws unbiased (with `scores` they only restore the size of the stratum).

    Raises:
        ValueError: for strata outside 0..S-1, or negative counts.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp.select as select
        >>> subset = select.stratified(jax.random.key(0), jnp.array([0, 0, 0, 1, 1]), (2, 1))
        >>> subset.mask.tolist(), subset.weight.tolist()
        ([True, True, True, False], [1.5, 1.5, 2.0, 0.0])

    Cost: one sort.
    """
    check_key(key, "stratified")
    counts = tuple(check_count("stratified: counts", int(c), low=0) for c in counts)
    strata = _check_groups(strata, None, len(counts), "stratified")
    clock = log_clocks(key, strata.shape)
    if scores is not None:
        check_floating("stratified: scores", scores)
        check_number("stratified: scores", scores, low=0)
        clock = jnp.where(scores > 0, clock - jnp.log(jnp.where(scores > 0, scores, 1)), jnp.inf)
    return _first_of_groups(strata, clock, len(counts), jnp.asarray(counts), max(max(counts), 1), False)


def stratum_counts(sizes: Any, num: int, *, kind: str = "proportional", spread: Any = None, cost: Any = None) -> tuple:
    """How many rows to draw from every stratum, adding up to exactly `num`.

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
        >>> import jsamp.select as select
        >>> select.stratum_counts([80, 15, 5], 10), select.stratum_counts([80, 15, 5], 10, kind="equal")
        ((8, 2, 0), (4, 3, 3))

    References:
        Neyman, "On the two different aspects of the representative method", 1934.
    """
    sizes = np.asarray(sizes, np.int64)
    check_choice("stratum_counts: kind", kind, ("equal", "proportional", "neyman"))
    check_count("stratum_counts: num", num, high=int(sizes.sum()))
    share = np.ones(len(sizes)) if kind == "equal" else sizes.astype(float)
    if kind == "neyman":
        if spread is None:
            raise ValueError("stratum_counts: kind='neyman' needs spread, the standard deviation in every stratum.")
        share = share * np.asarray(spread, float) / np.sqrt(1.0 if cost is None else np.asarray(cost, float))
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


def balance(key: jax.Array, target: Any, edges: Any, num: int) -> Subset:
    """A training set in which every bin of a continuous target appears equally often.

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
        >>> import jax, jax.numpy as jnp, jsamp.select as select
        >>> target = jnp.array([1.0, 1.2, 1.1, 1.3, 6.5])
        >>> subset = select.balance(jax.random.key(0), target, jnp.array([1.0, 4.0, 7.0]), 3)
        >>> subset.index[3:].tolist(), len(set(subset.index[:3].tolist()))
        ([4, 4, 4], 3)

    Cost: one sort.

    References:
        The stratified re-sampling of shared-task systems for empathy and emotion prediction (WASSA 2022 to 2024).
    """
    check_key(key, "balance")
    check_count("balance: num", num)
    check_number("balance: target", target)
    target, edges = jnp.asarray(target), jnp.asarray(edges)
    known = concrete(edges)
    if edges.ndim != 1 or edges.shape[0] < 2 or (known is not None and not np.all(np.diff(known) > 0)):
        raise ValueError("balance: edges must be at least two increasing numbers. Merge equal quantiles.")
    bins = edges.shape[0] - 1
    label = jnp.searchsorted(edges[1:-1], target, side="right")
    alloc = jnp.full((bins,), num)
    return _first_of_groups(label, log_clocks(key, target.shape), bins, alloc, num, True)


def stratified_masks(key: jax.Array, labels: Any, train: Any, num_classes: int, *, alpha: int = 10) -> jax.Array:
    """Which stratified mini-batch every training pixel of an image belongs to.

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
        >>> import jax, jax.numpy as jnp, jsamp.select as select
        >>> labels = jnp.array([[1, 1, 1, 2], [0, 2, 1, 0]])
        >>> chunk = select.stratified_masks(jax.random.key(0), labels, labels > 0, 2, alpha=2)
        >>> int(chunk.max()) + 1, sorted(chunk[labels == 1].tolist()), chunk[labels == 2].tolist()
        (2, [0, 0, 1, 1], [0, 0])

    Cost: one sort of the pixels.

    References:
        Zheng et al., "FPGA: Fast Patch-Free Global Learning Framework for Fully End-to-End Hyperspectral Image
        Classification", 2020, arXiv:2011.05670.
    """
    check_key(key, "stratified_masks")
    check_count("stratified_masks: alpha", alpha)
    check_count("stratified_masks: num_classes", num_classes)
    labels, train = jnp.asarray(labels), jnp.asarray(train)
    if labels.shape != train.shape or not jnp.issubdtype(labels.dtype, jnp.integer) or train.dtype != jnp.bool_:
        raise ValueError(f"stratified_masks: labels (integers) and train (bool) must share one shape, got "
                         f"{labels.dtype}{list(labels.shape)} and {train.dtype}{list(train.shape)}.")  # fmt: skip
    known = concrete(labels)
    if known is not None and (known.min() < 0 or known.max() > num_classes):
        raise ValueError(f"stratified_masks: labels must lie in 0..{num_classes}, got {known.min()}..{known.max()}.")
    used = train & (labels > 0)
    group = jnp.where(used, labels - 1, num_classes).ravel()
    rank, _, _ = rank_in_group(group, log_clocks(key, group.shape), num_classes + 1)
    return jnp.where(used, (rank // alpha).reshape(labels.shape), -1)


def _cosine(rows, query):
    size = jnp.sqrt(jnp.sum(rows**2, 1) * jnp.sum(query**2))
    return matmul(rows, query[:, None])[:, 0] / jnp.where(size > 0, size, 1)


def retrieve(
    query: dict[str, Any], bank: dict[str, Any], strata: Any, num: int, *, num_strata: int,
    channels: tuple[tuple[str, str], ...] | None = None, top: int | None = None,
) -> Subset:  # fmt: skip
    """Demonstrations for a multi-modal query: the nearest of every type, within and across modalities.

    Every channel (query modality, bank modality) ranks the bank by cosine similarity; an item counts with its best
    rank over the channels; each stratum (question type, subject) then gives its `num` best items.

    Args:
        query: modality -> [D] embedding; a missing modality is left out of the dict.
        bank: modality -> [n, D] embeddings of the demonstrations.
        strata: [n] integers in 0..num_strata-1, the type of each demonstration.
        num: items per stratum, static.
        num_strata: static.
        channels: pairs such as (("text", "text"), ("image", "text")). Default: every pair with equal D.
        top: keep only the `top` best of each channel before stratifying (default: no cut).

    Returns:
        `Subset` with num_strata * num slots, stratum after stratum and best first; unused slots where a stratum has
        fewer. Weights are 1.

    Raises:
        ValueError: for no usable channel, an unknown modality, or strata that do not fit.

    Example:
        >>> import jax.numpy as jnp, jsamp.select as select
        >>> bank = {"text": jnp.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 1]])}
        >>> select.retrieve({"text": jnp.array([1.0, 0])}, bank, jnp.array([0, 0, 1, 1]), 1, num_strata=2).index
        Array([0, 3], dtype=int32)

    Cost: one product with the bank and one sort per channel. `vmap` over queries.

    References:
        Liu et al., "Retrieval-augmented Multi-modal Chain-of-Thoughts Reasoning for Large Language Models", 2023,
        arXiv:2312.01714.
    """
    check_count("retrieve: num", num)
    check_count("retrieve: num_strata", num_strata)
    if channels is None:
        channels = tuple((q, b) for q in query for b in bank if jnp.shape(query[q])[-1] == jnp.shape(bank[b])[-1])
    missing = [pair for pair in channels if pair[0] not in query or pair[1] not in bank]
    if missing or not channels:
        raise ValueError(f"retrieve: channels {missing or channels} do not name embeddings of equal size in query "
                         f"{sorted(query)} and bank {sorted(bank)}.")  # fmt: skip
    n = jnp.shape(bank[channels[0][1]])[0]
    strata = _check_groups(strata, n, num_strata, "retrieve")
    best = jnp.full((n,), jnp.inf)
    closest = jnp.full((n,), -jnp.inf)
    for q, b in channels:
        similarity = _cosine(jnp.asarray(bank[b]), jnp.asarray(query[q]))
        rank = jnp.argsort(jnp.argsort(-similarity, stable=True), stable=True)
        best = jnp.minimum(best, jnp.where(rank < (n if top is None else top), rank, jnp.inf))
        closest = jnp.maximum(closest, similarity)
    # Best rank first; equal ranks of different channels by similarity.
    order = jnp.argsort(jnp.lexsort((-closest, best))).astype(jnp.float32)
    group = jnp.where(jnp.isfinite(best), strata, num_strata)
    alloc = jnp.concatenate([jnp.full((num_strata,), num), jnp.zeros((1,), int)])
    chosen = _first_of_groups(group, order, num_strata + 1, alloc, num, False)
    keep = num_strata * num
    mask = chosen.mask[:keep]
    return Subset(chosen.index[:keep], mask.astype(closest.dtype), mask)
