"""Dreveton et al., "When does bottom-up beat top-down in hierarchical community detection?"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.fit._partition import adjusted_rand


def threshold(a, depth):
    """The index J_q of a binary tree of log-degree network: level q is recovered exactly where it exceeds 1."""
    deep = len(a) - 1
    root = np.sqrt(np.asarray(a, float))
    rest = sum(2.0 ** (deep - j - 1) * (root[j] - root[depth - 1]) ** 2 for j in range(depth, deep))
    return ((root[deep] - root[depth - 1]) ** 2 + rest) / 2**deep


def network(a, leaf, seed):
    """Nodes link with probability a_l log(N) / N, l the depth of their last common ancestor."""
    rng = np.random.default_rng(seed)
    deep = len(a) - 1
    where = np.repeat(np.arange(2**deep), leaf)
    n = len(where)
    level = np.array([[deep - (i ^ j).bit_length() for j in range(2**deep)] for i in range(2**deep)])
    upper = np.triu(rng.random((n, n)) < (np.array(a) * np.log(n) / n)[level][where][:, where], 1)
    return (upper | upper.T).astype(np.float32), where


def alike(one, other):
    return float(adjusted_rand(jnp.asarray(one), jnp.asarray(other), 16, jnp.full(len(one), 1 / len(one))))


def levels(found, where):
    return [alike(found.cut(min(2**q, int(found.num))), where >> (3 - q)) for q in (1, 2, 3)]


def test_the_bottom_is_spectral_and_the_tree_merges_by_its_own_densities():
    """Communities of unequal size: negative eigenvalues count them, and every height is a density counted afresh."""
    rng = np.random.default_rng(2)
    where = np.repeat(np.arange(4), (60, 30, 50, 40))
    chance = [[0.8, 0.2, 0.1, 0.01], [0.2, 0.8, 0.05, 0.03], [0.1, 0.05, 0.8, 0.05], [0.01, 0.03, 0.05, 0.8]]
    upper = np.triu(rng.random((180, 180)) < np.array(chance)[where][:, where], 1)
    links = (upper | upper.T).astype(np.float32)
    found, info = js.fit.communities(jax.random.key(0), links, max_communities=8)
    degree = links.sum(1, dtype=np.float64)
    square = np.sum(degree**2) / degree.sum() - 1
    exact = np.linalg.eigvalsh(np.diag(square - 1 + degree) - np.sqrt(square) * links)
    assert int(info.num) == np.sum(exact < 0) == 4
    np.testing.assert_allclose(info.eigenvalues[:4], exact[:4], rtol=2e-3)
    groups = [found.labels == k for k in range(4)]
    for (one, other), height in zip(np.asarray(found.merges[:3]), found.heights, strict=False):
        groups.append(groups[one] | groups[other])
        assert float(height) == pytest.approx(links[groups[one]][:, groups[other]].mean(), rel=1e-4)
    assert found.merges[:3].tolist() == [[0, 1], [2, 4], [3, 5]]


@pytest.mark.slow
def test_levels_are_recovered_where_the_threshold_says_so():
    """1,600 nodes, eight leaves: all levels in the first network, two of three in the second."""
    strong, weak = (40, 50, 60, 100), (4, 8, 18, 30)
    np.testing.assert_allclose([threshold(weak, q) for q in (1, 2, 3)], [2.312, 1.127, 0.191], atol=1e-3)
    links, where = network(strong, 200, 1)
    found, info = js.fit.communities(jax.random.key(0), links, max_communities=16)
    assert int(info.num) == 8
    assert levels(found, where) == pytest.approx([1, 1, 1])
    links, where = network(weak, 200, 1)
    found, info = js.fit.communities(jax.random.key(0), links, max_communities=16)
    one, two, three = levels(found, where)
    assert (one, two) == pytest.approx((1, 1))
    assert three < 0.9
    assert np.all(np.diff(found.heights) <= 0)
