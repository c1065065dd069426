"""Communities of a network and their hierarchy, bottom up."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jsamp._core._checks import check_count, check_key, concrete
from jsamp._core._mesh import vary
from jsamp._core._types import Key, Result
from jsamp.fit._bethe import negative_vectors
from jsamp.fit._kmeans import as_cloud, lloyd_best, measured, seeds
from jsamp.fit._network import as_network, between, degrees
from jsamp.fit._partition import by_first_row


class Communities(NamedTuple):
    """Hold communities of a network and the tree in which they merge, in slots for `max_communities` of them.

    Args:
        labels: [N] int32, the community of every node, in 0..K-1, numbered by their first nodes.
        merges: [max_communities - 1, 2] int32, as in scipy: merge i joins two numbers into K + i; unused rows are -1.
        heights: [max_communities - 1], the link density between the two that merge, falling; unused ones 0.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> three = js.fit.Communities(jnp.array([0, 1, 2]), jnp.array([[0, 2], [1, 3]]), jnp.array([0.5, 0.1]))
        >>> three.cut(2).tolist(), int(three.num)
        ([0, 1, 0], 3)
    """

    labels: Any
    merges: Any
    heights: Any

    @property
    def num(self) -> jax.Array:
        """The number of communities at the bottom."""
        return jnp.sum(jnp.asarray(self.merges)[:, 0] >= 0) + 1

    def cut(self, num: Any) -> jax.Array:
        """Labels [N] of the level with `num` communities, numbered by their first nodes; `num` may be traced.

        Raises:
            ValueError: for a number outside 1..K.
        """
        merges, have = jnp.asarray(self.merges), self.num
        known, most = concrete(num), concrete(have)
        if known is not None and (known.shape != () or known.dtype.kind not in "iu"):
            raise TypeError(f"Communities.cut: num must be one integer, got {num!r}.")
        if known is not None and most is not None and not 1 <= known <= most:
            raise ValueError(f"Communities.cut: num must be in 1..{most}, got {known}.")
        size = merges.shape[0] + 1
        if size == 1:
            return jnp.zeros_like(jnp.asarray(self.labels))

        def join(i, group):
            mine = (group == merges[i, 0]) | (group == merges[i, 1])
            return jnp.where(mine & (i < have - num), have + i, group)

        group = lax.fori_loop(0, size - 1, join, jnp.arange(size))
        first = jnp.argmax(group[:, None] == group[None], 1)
        rank = jnp.cumsum(first == jnp.arange(size)) - 1
        return rank[first][jnp.asarray(self.labels)].astype(jnp.int32)

    def linkage(self) -> np.ndarray:
        """Write the tree as scipy's linkage matrix [K - 1, 4], for `scipy.cluster.hierarchy.dendrogram`.

        Distances are 1 - density; the last column counts bottom communities.
        """
        merges = np.asarray(self.merges)
        merges = merges[merges[:, 0] >= 0]
        num, count = len(merges) + 1, [1] * (len(merges) + 1)
        for one, other in merges:
            count.append(count[one] + count[other])
        height = 1 - np.asarray(self.heights, np.float64)[: num - 1]
        return np.column_stack([merges, height, count[num:]]).astype(np.float64)


class CommunitiesInfo(NamedTuple):
    """Report a fit of `communities`.

    Args:
        num: K, the number of communities: the negative eigenvalues of the Bethe-Hessian, at least 1.
        eigenvalues: [max_communities] its smallest eigenvalues, rising.
        size: [max_communities] nodes of each community.
        density: [max_communities, max_communities] links between two communities over the pairs of nodes.
        isolated: number of nodes without a link; they carry no information and lie in an arbitrary community.
        ok: whether the eigenvalues have converged and there are fewer negative ones than slots.

    Example:
        >>> import jsamp as js
        >>> js.fit.CommunitiesInfo(num=2, eigenvalues=[-1.0], size=[3.0], density=[[1.0]], isolated=0, ok=True).num
        2
    """

    num: Any
    eigenvalues: Any
    size: Any
    density: Any
    isolated: Any
    ok: Any


def communities(key: Key, adjacency: Any, *, max_communities: int | None = None, restarts: int = 4) -> Result:
    """Find the communities of a network, their number, and the tree in which they merge.

    The Bethe-Hessian H = (r^2 - 1) I + D - r A, r^2 = sum d^2 / sum d - 1, has one negative eigenvalue for each
    community that the links tell; k-means of their eigenvectors labels the nodes. Then the two communities of the
    largest link density e(k, l) / (|k| |l|) merge, again and again; densities of a merged one are averages weighted by
    nodes, which makes them the densities of its links, so that heights never rise.

    Args:
        key: one key.
        adjacency: [N, N], symmetric, 0 and 1 (or booleans), zeros on the diagonal: an array, or a
            `jax.experimental.sparse.BCOO` without duplicates (of a scipy matrix: `BCOO.from_scipy_sparse(A)`).
        max_communities: slots, at most N; None takes 64, or N of a smaller network; static.
        restarts: runs of k-means; static.

    Returns:
        `Result(Communities, CommunitiesInfo)`. Networks of one shape (and number of links, if sparse) compile once,
        whatever the number of communities.

    Raises:
        ValueError: for a matrix that is not square, symmetric, 0 and 1, or has loops, duplicates or no link.
        TypeError: for something that is no array or BCOO (a graph of networkx, a matrix of scipy), or no key.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> clique = jnp.ones((5, 5)) - jnp.eye(5)
        >>> links = jnp.kron(jnp.eye(3), clique).at[4, 5].set(1).at[5, 4].set(1)
        >>> found, info = js.fit.communities(jax.random.key(0), links, max_communities=8)
        >>> found.labels.tolist()
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
        >>> found.merges[:2].tolist(), [round(float(height), 2) for height in found.heights[:2]]
        ([[0, 1], [2, 3]], [0.04, 0.0])

    Cost:
        A few hundred products of the adjacency with max_communities + 8 vectors. Memory: some N x max_communities
        arrays; no N x N one is made of a sparse network.

    References:
        Dreveton, Kuroda, Grossglauser and Thiran, "When does bottom-up beat top-down in hierarchical community
        detection?", 2023, arXiv:2306.00833; Saade, Krzakala and Zdeborova, "Spectral clustering of graphs with the
        Bethe Hessian", 2014, arXiv:1406.1880.
    """
    check_key(key, "communities")
    network = as_network(adjacency)
    most = min(64, network.shape[0]) if max_communities is None else max_communities
    most = check_count("communities: max_communities", most, high=network.shape[0])
    restarts = check_count("communities: restarts", restarts)
    return Result(*_communities(key, network, most, restarts))


@functools.partial(jax.jit, static_argnames=("most", "restarts"))
def _communities(key, network, most, restarts):
    first, second = jax.random.split(key)
    values, vectors, ok = negative_vectors(first, network, most)
    count = jnp.sum(values < 0)
    num = jnp.maximum(count, 1).astype(jnp.int32)
    live = jnp.arange(most) < num
    cloud = as_cloud(jnp.where(live[None], vectors, 0), None)
    starts = lax.map(lambda k: seeds(k, cloud, most, num), jax.random.split(second, restarts))
    run = lloyd_best(cloud, starts, live, 1e-6, 100)
    label = by_first_row(measured(cloud, run.centers, live)[0], most)
    size = jnp.zeros_like(cloud.share, shape=(most,)).at[label].add(1)
    pairs = jnp.maximum(size[:, None] * size[None] - jnp.diag(size), 1)
    density = between(network, label, most) / pairs
    merges, heights = merge(density, size, num)
    isolated = jnp.sum(degrees(network) == 0)
    info = CommunitiesInfo(num, values, size, density, isolated, ok & (count < most))
    return Communities(label, merges, heights), info


def merge(density: jax.Array, size: jax.Array, num: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Merge the two of the largest density until one is left of the first `num`: numbers and heights."""
    slots = size.shape[0]
    if slots == 1:
        return jnp.zeros((0, 2), jnp.int32), jnp.zeros_like(density, shape=(0,))
    upper = jnp.arange(slots)[:, None] < jnp.arange(slots)[None]

    def step(i, carry):
        density, size, name, live, merges, heights = carry
        free = upper & live[:, None] & live[None]
        best = jnp.argmax(jnp.where(free, density, -1))
        a, b = best // slots, best % slots
        joined = (size[a] * density[a] + size[b] * density[b]) / jnp.maximum(size[a] + size[b], 1)
        pair = jnp.sort(jnp.stack([name[a], name[b]]))
        changed = (
            density.at[a].set(joined).at[:, a].set(joined), size.at[a].add(size[b]), name.at[a].set(num + i),
            live.at[b].set(False), merges.at[i].set(pair), heights.at[i].set(density[a, b]),
        )  # fmt: skip
        return jax.tree.map(lambda new, old: jnp.where(i < num - 1, new, old), changed, carry)

    names = jnp.arange(slots, dtype=jnp.int32)
    merges = jnp.full((slots - 1, 2), -1, jnp.int32)
    heights = jnp.zeros_like(density, shape=(slots - 1,))
    carry = vary((density, size, names, names < num, merges, heights), density, num)
    *_, merges, heights = lax.fori_loop(0, slots - 1, step, carry)
    return merges, heights
