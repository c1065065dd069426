"""Retrieve demonstrations by similarity, type by type."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_count, shown
from jsamp.select._neighbors import cosine_gap
from jsamp.select._rows import as_real, check_labels, is_bad
from jsamp.select._strata import first_of_groups
from jsamp.select._subset import Subset


def retrieve(
    query: dict[str, Any], bank: dict[str, Any], strata: Any, num: int, *, num_strata: int,
    channels: tuple[tuple[str, str], ...] | None = None, top: int | None = None,
) -> Subset:  # fmt: skip
    """Retrieve demonstrations for a multi-modal query: the nearest of every type, within and across modalities.

    Every channel (query modality, bank modality) ranks the bank by cosine similarity; an item counts with its best
    rank over the channels; each stratum (question type, subject) then gives its `num` best items.

    Args:
        query: modality -> [D] embedding; a missing modality is left out of the dict.
        bank: modality -> [n, D] embeddings of the demonstrations.
        strata: [n] integers in 0..num_strata-1, the type of each demonstration.
        num: items per stratum, static.
        num_strata: static.
        channels: pairs such as (("text", "text"), ("image", "text")). Default: every pair; all must then have equal D.
        top: keep only the `top` best of each channel before stratifying (default: no cut).

    Returns:
        `Subset` with num_strata * num slots, stratum after stratum and best first; unused slots where a stratum has
        fewer. Weights are 1.

    Raises:
        ValueError: for no usable channel, an unknown modality, or strata that do not fit.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> bank = {"text": jnp.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 1]])}
        >>> js.select.retrieve({"text": jnp.array([1.0, 0])}, bank, jnp.array([0, 0, 1, 1]), 1, num_strata=2).index
        Array([0, 3], dtype=int32)

    Cost:
        One product with the bank and one sort per channel. `vmap` over queries.

    References:
        Liu et al., "Retrieval-augmented Multi-modal Chain-of-Thoughts Reasoning for Large Language Models", 2023,
        arXiv:2312.01714.
    """
    check_count("retrieve: num", num)
    check_count("retrieve: num_strata", num_strata)
    if top is not None:
        check_count("retrieve: top", top)
    query, bank = _check_bank(query, bank)
    channels = _check_channels(query, bank, channels)
    n = bank[channels[0][1]].shape[0]
    strata = check_labels("retrieve: strata", strata, num_strata, n)
    best = jnp.full((n,), jnp.inf)
    gap = jnp.full((n,), jnp.inf)
    for q, b in channels:
        far = cosine_gap(bank[b], query[q])
        rank = jnp.argsort(jnp.argsort(far, stable=True), stable=True)
        best = jnp.minimum(best, jnp.where(rank < (n if top is None else top), rank, jnp.inf))
        gap = jnp.minimum(gap, far)
    # Best rank first; equal ranks of different channels by similarity.
    order = jnp.argsort(jnp.lexsort((gap, best))).astype(jnp.int32)
    group = jnp.where(jnp.isfinite(best), strata, num_strata)
    chosen = first_of_groups(group, order, num_strata, jnp.full((num_strata,), num), num, False)
    return Subset(chosen.index, chosen.mask.astype(gap.dtype), chosen.mask)


def _check_bank(query: Any, bank: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Embeddings of every modality as wide floating arrays: queries [D], banks [n, D] of one n."""
    for name, value in (("query", query), ("bank", bank)):
        if not isinstance(value, dict):
            raise TypeError(f"retrieve: {name} must be a dict modality -> embeddings, got {type(value).__name__}.")
    query = {m: as_real(f"retrieve: query[{m!r}]", x) for m, x in query.items()}
    bank = {m: as_real(f"retrieve: bank[{m!r}]", x) for m, x in bank.items()}
    for ndim, arrays, wanted in ((1, query, "query: modality -> [D]"), (2, bank, "bank: modality -> [n, D]")):
        wrong = {m: x.shape for m, x in arrays.items() if x.ndim != ndim or 0 in x.shape}
        if wrong:
            raise ValueError(f"retrieve: {wanted} needed, got {wrong}. Use jax.vmap over queries.")
        bad = [m for m, x in arrays.items() if is_bad(x)]
        if bad:
            raise ValueError(f"retrieve: the {wanted.split(':')[0]} of {bad} holds NaN or infinity. Drop those rows.")
    lengths = {m: x.shape[0] for m, x in bank.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"retrieve: every modality of bank must have the same rows, got {lengths}.")
    return query, bank


def _check_channels(query: dict[str, jax.Array], bank: dict[str, jax.Array], channels: Any) -> tuple:
    """Pairs (query modality, bank modality) of equal D; none may be left out in silence."""
    unequal = [(q, b) for q in query for b in bank if query[q].shape[0] != bank[b].shape[1]]
    if channels is None:
        if unequal:
            raise ValueError(f"retrieve: the embeddings of {unequal} differ in size, so they cannot be compared. "
                             f"Name the pairs to use: channels=...")  # fmt: skip
        channels = tuple((q, b) for q in query for b in bank)
    if not isinstance(channels, (tuple, list)) or not all(isinstance(pair, (tuple, list)) for pair in channels):
        raise TypeError(f"retrieve: channels must be pairs (query modality, bank modality), got {shown(channels)}.")
    channels = tuple(tuple(pair) for pair in channels)
    missing = [pair for pair in channels if len(pair) != 2 or pair[0] not in query or pair[1] not in bank]
    wrong = missing or [pair for pair in channels if pair in unequal]
    if wrong or not channels:
        raise ValueError(f"retrieve: channels {wrong or channels} do not name embeddings of equal size in query "
                         f"{sorted(query)} and bank {sorted(bank)}.")  # fmt: skip
    return channels
