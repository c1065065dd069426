"""The algebra on trees, where it is more than one line: reordering in place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsamp._core import _tree


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 6), slots=st.integers(1, 3), block=st.integers(4, 400), seed=st.integers(0, 99),
    event=st.lists(st.integers(1, 7), max_size=3),
)  # fmt: skip
def test_take_is_indexing(count, slots, block, seed, event):
    """Whatever the index, the shape and the size of a block."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, count, count)
    trees = (
        {"a": rng.normal(size=(count, *event)), "b": rng.integers(0, 9, count)},
        [rng.normal(size=(slots, count, *event)).astype(np.float32), None],
    )
    trees = jax.tree.map(jnp.asarray, trees)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tree, "TAKEN_TWICE", block)
        one, other = _tree.take(trees, index, (0, 1))
    assert jax.tree.all(jax.tree.map(lambda got, leaf: bool(jnp.all(got == leaf[index])), one, trees[0]))
    assert jax.tree.all(jax.tree.map(lambda got, leaf: bool(jnp.all(got == leaf[:, index])), other, trees[1]))


def test_take_by_blocks_maps_and_differentiates(monkeypatch):
    """Under vmap, and its derivative is that of indexing."""
    x, index = jax.random.normal(jax.random.key(0), (3, 4, 5)), jnp.array([[1, 1, 0, 3], [2, 2, 2, 2], [3, 0, 1, 2]])
    loss = lambda take: lambda x: jnp.sum(jnp.sin(jax.vmap(take)(x, index)))
    plain = jax.grad(loss(lambda x, i: x[i]))(x)
    monkeypatch.setattr(_tree, "TAKEN_TWICE", 32)
    assert jnp.array_equal(jax.grad(loss(lambda x, i: _tree.take([x], i, [0])[0]))(x), plain)
