"""Whether a text was written with a watermark's key: a p-value that is valid for any text."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_count, check_key, check_scalar, concrete, shown
from jsamp._core._types import Key
from jsamp.tokens._protocol import check_tokens


class Detection(NamedTuple):
    """Hold what `detect` finds.

    Args:
        p_value: (1 + number of other keys that align at least as well) / (1 + runs), never 0.
        statistic: cost of the best alignment.
        offset: key row with which the first token of that block is aligned.
        start: first token of that block.

    Example:
        >>> import jsamp as js
        >>> js.tokens.Detection(p_value=0.01, statistic=-40.0, offset=3, start=0).p_value
        0.01
    """

    p_value: Any
    statistic: Any
    offset: Any
    start: Any


def edit_cost(costs: Any, gap: Any) -> Any:
    """Cost of the cheapest alignment of all rows of `costs` [k, w] with its columns, in order; `gap` for each left out.

    A_ij = min(A_(i-1)j + gap, A_i(j-1) + gap, A_(i-1)(j-1) + costs_ij). Within a row the middle term is a running
    minimum, so a row is a few vector operations.
    """
    width = costs.shape[1]
    steps = gap * jnp.arange(width + 1, dtype=costs.dtype)

    def row(above, inputs):
        cost, i = inputs
        best = jnp.minimum(above[1:] + gap, above[:-1] + cost)
        best = jnp.concatenate([(i + 1) * gap + jnp.zeros_like(best[:1]), best])
        return steps + jax.lax.cummin(best - steps), None

    return jax.lax.scan(row, steps + 0 * costs[0, 0], (costs, jnp.arange(costs.shape[0], dtype=costs.dtype)))[0][-1]


def _best(costs: Any, block: int, gap: Any) -> tuple[Any, Any, Any]:
    """The cheapest alignment of a block of the text with as many key rows: cost, key offset, start of the block."""
    num, length = costs.shape
    offsets = jnp.arange(length)
    if gap is None:
        # Token i beside row j + i: a sheared table, in which alignments are columns.
        places = jnp.arange(num)[:, None]
        sheared = costs[places, (offsets[None] + places) % length]
        zero = jnp.zeros((), costs.dtype)
        total = jax.lax.reduce_window(sheared, zero, jax.lax.add, (block, 1), (1, 1), "VALID")
        # Columns count from the text's first token; the offset is that of the block's.
        place = jnp.argmin(total)
        start, column = place // length, place % length
        return total[start, column], (column + start) % length, start

    def at_start(start):
        text = jax.lax.dynamic_slice_in_dim(costs, start, block)
        one = lambda offset: edit_cost(text[:, (offset + jnp.arange(block)) % length], gap)
        return jax.lax.map(one, offsets, batch_size=min(length, 64))

    total = jax.lax.map(at_start, jnp.arange(num - block + 1))
    place = jnp.argmin(total)
    start, offset = place // length, place % length
    return total[start, offset], offset, start


def detect(
    key: Key,
    tokens: Any,
    mark: Any,
    *,
    block: int | None = None,
    edit: Any = None,
    runs: int = 99,
) -> Detection:
    """Test a text for a watermark: how well it aligns with the key, compared with fresh keys.

    The statistic is the smallest cost over all blocks of `block` tokens and all offsets of the key. The same is done
    with `runs` fresh keys; under the null, that the text does not depend on the key, all are exchangeable, so
    P(p_value <= a) <= a for any text, however unlikely. The plain cost adds up the costs of tokens along the block;
    with `edit`, a gap, it is that of the cheapest alignment in which tokens and key rows may be left out at the price
    of a gap each, so that insertions and deletions do not break it. The authors use gap 0.0 with `Exponential` and 0.4
    with `InverseTransform`.

    Args:
        key: one key, for the fresh keys; not the secret one.
        tokens: [m] the text.
        mark: the watermark.
        block: length of a block, static; None takes the whole text.
        edit: None, or the gap, >= 0.
        runs: fresh keys, static; the smallest p-value is 1 / (runs + 1).

    Returns:
        `Detection(p_value, statistic, offset, start)`.

    Raises:
        ValueError: for ids outside the vocabulary, a text or a key shorter than a block, a negative gap, runs < 1.
        TypeError: for tokens that are not integers.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> mark = js.tokens.Exponential(jax.random.key(7), length=64, vocabulary=10)
        >>> text = jax.random.randint(jax.random.key(0), (30,), 0, 10)       # not written with the key
        >>> bool(js.tokens.detect(jax.random.key(1), text, mark).p_value > 0.02)
        True

    Cost:
        (runs + 1) m length costs, and as many additions (times block / m for blocks; times block^2 / m for `edit`).

    References:
        Kuditipudi et al., "Robust Distortion-free Watermarks for Language Models", 2023, arXiv:2307.15593.
    """
    check_key(key, "detect")
    tokens = check_tokens("detect: tokens", tokens)
    runs = check_count("detect: runs", runs)
    for name in ("costs", "fresh", "length", "vocabulary"):
        if not hasattr(mark, name):
            raise TypeError(f"detect: mark must be js.tokens.Exponential or InverseTransform, got {shown(mark)}.")
    num = tokens.shape[0]
    block = num if block is None else check_count("detect: block", block)
    if block > num:
        raise ValueError(f"detect: the text has {num} tokens, fewer than a block of {block}.")
    if block > mark.length:
        raise ValueError(
            f"detect: a block of {block} tokens is longer than the key of {mark.length} rows. Pass block={mark.length}."
        )
    if edit is not None:
        check_scalar("detect: edit", edit, low=0)
    known = concrete(tokens)
    if known is not None and np.any((known < 0) | (known >= mark.vocabulary)):
        raise ValueError(f"detect: tokens must be ids in 0..{mark.vocabulary - 1}.")
    return _detect(key, tokens, mark, edit, block=block, runs=runs)


@functools.partial(jax.jit, static_argnames=("block", "runs"))
def _detect(key, tokens, mark, edit, *, block, runs):
    statistic, offset, start = _best(mark.costs(tokens), block, edit)
    fresh = lambda i: _best(mark.fresh(jax.random.fold_in(key, i)).costs(tokens), block, edit)[0]
    null = jax.lax.map(fresh, jnp.arange(runs))
    p_value = (1 + jnp.sum(null <= statistic)) / (runs + 1)
    return Detection(p_value, statistic, offset, start)
