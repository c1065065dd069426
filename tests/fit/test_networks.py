"""Communities against dense eigenvalues, a tree by recounting links, and scipy's reading of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import jsamp as js
from jsamp.fit._communities import merge
from jsamp.fit._partition import adjusted_rand

KEY = jax.random.key(0)
MOST = 12


def blocks(seed, sizes, inside, outside):
    """A network of blocks, its outside probabilities a matrix, and the block of every node."""
    rng = np.random.default_rng(seed)
    where = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.where(np.eye(len(sizes)), inside, outside)[where][:, where]
    upper = np.triu(rng.random(chance.shape) < chance, 1)
    return (upper | upper.T).astype(np.float32), where


PAIRED = np.array([[0, 0.12, 0.02, 0.02], [0.12, 0, 0.02, 0.02], [0.02, 0.02, 0, 0.08], [0.02, 0.02, 0.08, 0]])
LINKS, WHERE = blocks(0, (40, 30, 30, 20), 0.6, PAIRED)


def sparse(links):
    ends = np.stack(np.nonzero(links), 1).astype(np.int32)
    return BCOO((jnp.ones(len(ends)), jnp.asarray(ends)), shape=links.shape)


def find(links, **options):
    return js.fit.communities(KEY, links, max_communities=MOST, **options)


def alike(one, other, num=MOST):
    return float(adjusted_rand(jnp.asarray(one), jnp.asarray(other), num, jnp.full(len(one), 1 / len(one))))


def bethe_hessian(links):
    degree = links.sum(1, dtype=np.float64)
    square = (degree**2).sum() / degree.sum() - 1
    return np.diag(square - 1 + degree) - np.sqrt(square) * links


@pytest.mark.parametrize("form", [jnp.asarray, sparse, lambda a: np.asarray(a, bool)])
def test_eigenvalues_and_labels(form):
    found, info = find(form(LINKS))
    exact = np.linalg.eigvalsh(bethe_hessian(LINKS))
    assert int(info.num) == np.sum(exact < 0) == 4
    np.testing.assert_allclose(info.eigenvalues[:5], exact[:5], rtol=2e-3, atol=0.02)
    assert np.all(np.asarray(info.eigenvalues) >= exact[:MOST] - 1e-3)  # Ritz values lie above
    assert np.array_equal(found.labels, WHERE)
    assert info.size[:5].tolist() == [40, 30, 30, 20, 0]
    assert bool(info.ok)


def recounted(links, label):
    """Merge the two groups with most links per pair of nodes, every density counted afresh."""
    groups = {k: {k} for k in range(label.max() + 1)}
    merges, heights, levels = [], [], [label]
    while len(groups) > 1:
        names = sorted(groups)
        density = {}
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                one, other = np.isin(label, list(groups[a])), np.isin(label, list(groups[b]))
                density[a, b] = links[np.ix_(one, other)].mean()
        pair = max(density, key=density.get)
        merges.append(pair)
        heights.append(density[pair])
        groups[label.max() + len(merges)] = groups.pop(pair[0]) | groups.pop(pair[1])
        levels.append(np.array([next(g for g, held in groups.items() if k in held) for k in label]))
    return merges, heights, levels


def test_the_tree_merges_by_true_densities():
    found, info = find(jnp.asarray(LINKS))
    merges, heights, levels = recounted(LINKS, WHERE)
    assert found.merges[:3].tolist() == [list(pair) for pair in merges]
    np.testing.assert_allclose(found.heights[:3], heights, rtol=1e-5)
    assert np.all(np.asarray(found.merges[3:]) == -1)
    assert np.all(np.diff(found.heights) <= 0)
    for num in (1, 2, 3, 4):
        assert alike(found.cut(num), np.unique(levels[4 - num], return_inverse=True)[1]) == pytest.approx(1)
    assert found.cut(2).tolist() == [0] * 70 + [1] * 50
    np.testing.assert_allclose(info.density[0, 1], LINKS[:40, 40:70].mean(), rtol=1e-5)
    np.testing.assert_allclose(info.density[2, 2], LINKS[70:100, 70:100].sum() / (30 * 29), rtol=1e-5)


def test_sizes_weigh_in_averages():
    """Plain averages of densities would merge other pairs and give other heights."""
    density = jnp.array([[0, 0.9, 0.2, 0.3], [0.9, 0, 0.5, 0.1], [0.2, 0.5, 0, 0.32], [0.3, 0.1, 0.32, 0]])
    merges, heights = merge(density, jnp.array([9.0, 1.0, 5.0, 5.0]), jnp.int32(4))
    assert merges.tolist() == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_allclose(heights, [0.9, 0.32, (9 * 0.2 + 0.5 + 9 * 0.3 + 0.1) / 20], rtol=1e-6)


def test_scipy_reads_the_tree():
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    found = find(jnp.asarray(LINKS)).x
    tree = found.linkage()
    assert hierarchy.is_valid_linkage(tree)
    assert tree[:, 3].tolist() == [2, 2, 4]
    flat = hierarchy.fcluster(tree, 2, "maxclust")
    assert alike(flat[np.asarray(found.labels)] - 1, found.cut(2)) == pytest.approx(1)


def test_nodes_without_links_are_counted_and_others_not_moved():
    lonely, kept = LINKS.copy(), np.arange(120) % 40 != 7
    lonely[~kept] = lonely[:, ~kept] = 0
    found, info = find(jnp.asarray(lonely))
    assert int(info.isolated) == 3
    assert alike(found.labels[kept], WHERE[kept]) == pytest.approx(1)


def test_order_of_nodes_does_not_matter():
    order = np.random.default_rng(1).permutation(120)
    found = find(jnp.asarray(LINKS[np.ix_(order, order)])).x
    assert alike(found.labels, WHERE[order]) == pytest.approx(1)
    assert np.all(np.diff(np.unique(found.labels, return_index=True)[1]) > 0)  # numbered by their first nodes


@pytest.mark.parametrize("slots", [1, 3])
def test_too_few_slots_are_told(slots):
    found, info = js.fit.communities(KEY, jnp.asarray(LINKS), max_communities=slots)
    assert int(info.num) == slots
    assert not bool(info.ok)
    assert int(found.num) == slots
    assert int(found.cut(slots).max()) == slots - 1
    assert found.linkage().shape == (slots - 1, 4)


def test_other_numbers_and_levels_compile_nothing():
    traces = []

    @jax.jit
    def run(key, links, num):
        traces.append(1)
        found, info = js.fit.communities(key, links, max_communities=MOST)
        return info.num, found.cut(num)

    two, _ = blocks(3, (60, 60), 0.5, 0.05)
    assert int(run(KEY, jnp.asarray(LINKS), 2)[0]) == 4
    num, level = run(jax.random.key(1), jnp.asarray(two), 1)
    assert (int(num), int(level.max()), len(traces)) == (2, 0, 1)


def test_memory_of_sparse_networks_grows_with_nodes_and_links():
    """No array of 20,000 nodes is larger than some tens of vectors: read from the program, without a run."""
    nodes, links = 20_000, 200_000
    shapes = jax.ShapeDtypeStruct((links,), jnp.float32), jax.ShapeDtypeStruct((links, 2), jnp.int32)
    call = lambda key, data, ends: js.fit.communities(key, BCOO((data, ends), shape=(nodes, nodes)))
    program = jax.make_jaxpr(call)(KEY, *shapes)

    def largest(jaxpr):
        sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "size")]
        inner = []
        for eqn in jaxpr.eqns:
            for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
                if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                    inner.append(largest(getattr(value, "jaxpr", value)))
        return max([*sizes, *inner], default=0)

    assert largest(program.jaxpr) <= links * 72
