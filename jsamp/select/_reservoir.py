"""A weighted sample of a stream, of fixed size, inside jit."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._checks import check_count, check_key
from jsamp._core._pytree import pytree, static
from jsamp._core._types import Key
from jsamp.select._bits import uniform
from jsamp.select._rows import as_floating, check_vector
from jsamp.select._subset import Subset


class ReservoirState(NamedTuple):
    """Hold the best num + 1 rows of a stream so far, best first.

    Args:
        rank: [num + 1] log(score / U), falling; -inf in slots that are still empty.
        log_score: [num + 1] log of each kept row's score.
        index: [num + 1] int32, the number of each kept row in the stream; -1 beyond 2^31 - 1 rows.
        rows: the kept rows: the tree given to `init`, with a leading axis num + 1.
        seen: int32, rows offered so far; it stays at 2^31 - 1 from there on.
    """

    rank: Any
    log_score: Any
    index: Any
    rows: Any
    seen: Any


@pytree
class Reservoir:
    """Keep a weighted sample without replacement of a stream, of fixed size, inside jit.

    Keeps the num + 1 rows with the largest score / U (priority sampling); `subset` has the law of
    `draw(..., scheme="priority")` over everything seen, whatever the blocks were.

    Args:
        num: rows kept, static.

    Raises:
        ValueError: for num < 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> reservoir = js.select.Reservoir(3)
        >>> state = reservoir.init(jnp.zeros(2))
        >>> for key in jax.random.split(jax.random.key(0), 4):
        ...     state = reservoir.step(key, state, jnp.ones((5, 2)), jnp.ones(5))
        >>> rows, subset = reservoir.subset(state)
        >>> rows.shape, int(state.seen), bool(subset.mask.all())
        ((3, 2), 20, True)

    Cost:
        One sort of num + 1 and the new rows for each step; memory of num + 1 rows.

    References:
        Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary subset sums", 2007, arXiv:cs/0509026.
    """

    num: int = static(check=check_count)

    def init(self, row: Any) -> ReservoirState:
        """Make an empty reservoir for rows like `row` (an array or a tree)."""
        empty = jnp.full((self.num + 1,), -jnp.inf)
        rows = jax.tree.map(lambda x: jnp.zeros((self.num + 1, *jnp.shape(x)), jnp.result_type(x)), row)
        return ReservoirState(empty, empty, jnp.zeros((self.num + 1,), jnp.int32), rows, jnp.zeros((), jnp.int32))

    def step(self, key: Key, state: ReservoirState, rows: Any, scores: Any) -> ReservoirState:
        """Offer a block of rows (leading axis k) with scores [k] to the reservoir."""
        check_key(key, "Reservoir.step")
        scores = check_vector("Reservoir.step: scores", as_floating("Reservoir.step: scores", scores), low=0)
        scores, k = scores.astype(state.rank.dtype), scores.shape[0]
        self._check_block(state, rows, k)
        log_score = jnp.where(scores > 0, jnp.log(jnp.where(scores > 0, scores, 1)), -jnp.inf)
        rank = jnp.concatenate([state.rank, log_score - jnp.log(uniform(key, (k,), scores.dtype))])
        best, place = lax.top_k(rank, self.num + 1)

        def pick(old, new):
            return jnp.concatenate([old, new])[place]

        left = np.iinfo(np.int32).max - state.seen  # counters do not wrap around
        number = jnp.arange(k, dtype=jnp.int32)
        index = pick(state.index, jnp.where(number < left, state.seen + jnp.minimum(number, left), -1))
        kept = jax.tree.map(pick, state.rows, rows)
        return ReservoirState(best, pick(state.log_score, log_score), index, kept, state.seen + jnp.minimum(k, left))

    def _check_block(self, state, rows, k):
        """Refuse rows that are not like those that `init` was given, k of them."""
        if jax.tree.structure(rows) != jax.tree.structure(state.rows):
            raise ValueError("Reservoir.step: rows must be a tree like the row given to init, with a leading axis.")
        for new, old in zip(jax.tree.leaves(rows), jax.tree.leaves(state.rows), strict=True):
            if jnp.shape(new) != (k, *old.shape[1:]):
                raise ValueError(f"Reservoir.step: rows must be [{k}, ...] with rows of shape {old.shape[1:]}, one per "
                                 f"score, got {jnp.shape(new)}.")  # fmt: skip

    def subset(self, state: ReservoirState) -> tuple[Any, Subset]:
        """Return the kept rows, and their `Subset` with unbiased weights."""
        m = self.num
        mask = state.rank[:m] > -jnp.inf
        excess = jnp.where(mask, state.log_score[:m] - state.rank[m], 0)
        weight = jnp.where(mask, jnp.exp(-jnp.minimum(excess, 0)), 0)
        rows = jax.tree.map(lambda x: x[:m], state.rows)
        return rows, Subset(jnp.where(mask, state.index[:m], 0), weight, mask)
