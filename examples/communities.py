"""Communities of four real networks, and the tree in which they merge.

Zachary's karate club and the characters of Les Miserables come with networkx; scikit-learn's 1,797 images of digits,
each linked to its nearest ten, make a larger one whose classes are known. The European power grid (9,241 buses, the
kind of network the method's paper looks at) comes with pandapower, whose file is read where it is installed:

    pip install networkx pandapower        # the second one only for the grid
    python examples/communities.py --out .
    python examples/communities.py --grid case9241pegase.json      # the file alone will do
"""

import argparse
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import networkx
import numpy as np
from jax.experimental.sparse import BCOO
from scipy.cluster.hierarchy import dendrogram
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import kneighbors_graph

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SLOTS = 16  # communities of the digits: their network holds many more, the writing hands, which nobody wants to see
FILE = "networks/power_system_test_case_jsons/case9241pegase.json"


def shipped(graph):
    """A network of networkx, its weights dropped."""
    return jnp.asarray(networkx.to_numpy_array(graph, weight=None), jnp.float32)


def digits():
    """Images joined to their ten nearest ones, as a sparse matrix, and their classes."""
    images, classes = load_digits(return_X_y=True)
    near = kneighbors_graph(images, 10)
    return BCOO.from_scipy_sparse(((near + near.T) > 0).astype(np.float32)), classes


def readings(classes, labels):
    """A line for every community: its digit, the share that it has, and how many images there are."""
    lines = []
    for k in range(labels.max() + 1):
        counts = np.bincount(classes[labels == k], minlength=10)
        lines.append(f"{counts.argmax()}: {counts.max() / counts.sum():.0%} of {counts.sum()}")
    return lines


def tree(axis, found, names, title):
    """Draw how communities merge, on a logarithmic scale: sparse networks have densities near 0."""
    links = found.linkage()
    density = 1 - links[:, 2]
    links[:, 2] = -np.log10(np.maximum(density, density[density > 0].min()))
    dendrogram(links, labels=names, orientation="left", ax=axis)
    axis.set_xlabel("-log10 of the link density")
    axis.set_title(title, fontsize=10)
    axis.tick_params(axis="y", labelsize=7)


def find_grid():
    """Where pandapower keeps the European grid, or None."""
    spec = importlib.util.find_spec("pandapower")
    path = None if spec is None else pathlib.Path(spec.origin).parent / FILE
    return path if path is not None and path.exists() else None


def power_grid(path):
    """Buses joined by lines and transformers, as a sparse matrix, and the place of every bus."""
    tables = json.loads(pathlib.Path(path).read_text())["_object"]

    def columns(name, *wanted):
        table = tables[name]["_object"]
        table = json.loads(table) if isinstance(table, str) else table
        rows = [[row[table["columns"].index(one)] for one in wanted] for row in table["data"]]
        return rows, table["index"]

    places, index = columns("bus", "geo")
    number = {bus: i for i, bus in enumerate(index)}
    ends = columns("line", "from_bus", "to_bus")[0] + columns("trafo", "hv_bus", "lv_bus")[0]
    ends = np.array([[number[a], number[b]] for a, b in ends])
    ends = ends[ends[:, 0] != ends[:, 1]]
    ends = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0).astype(np.int32)
    size = len(index)
    place = np.array([json.loads(row[0])["coordinates"] for row in places])
    return BCOO((jnp.ones(len(ends)), jnp.asarray(ends)), shape=(size, size)), place


def leaves(names, labels):
    """A line of names for every community."""
    found = [[name for name, label in zip(names, labels, strict=True) if label == k] for k in range(max(labels) + 1)]
    return [f"{', '.join(map(str, some[:3]))} ... ({len(some)})" for some in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=pathlib.Path, default=find_grid(), help="pandapower's case9241pegase.json")
    parser.add_argument("--most", type=int, default=64, help="slots for communities of the grid (default 64)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."), help="folder of the picture")
    options = parser.parse_args()
    key = jax.random.key(0)

    club = networkx.karate_club_graph()
    found, info = js.fit.communities(key, shipped(club), max_communities=12)
    sides = np.array([club.nodes[node]["club"] == "Mr. Hi" for node in club])
    wrong = min(np.sum(np.asarray(found.cut(2)) != sides), np.sum(np.asarray(found.cut(2)) == sides))
    print(f"karate club: {int(info.num)} communities; {wrong} of 34 members are not where they went")

    novel = networkx.les_miserables_graph()
    found, info = js.fit.communities(key, shipped(novel), max_communities=12)
    print(
        f"Les Miserables: {int(info.num)} communities of sizes {np.asarray(info.size, int)[: int(info.num)].tolist()}"
    )

    count = 2 if options.grid is None else 3
    figure, axes = plt.subplots(1, count, figsize=(4 * count, 3.2), layout="constrained")
    names = leaves(list(novel), np.asarray(found.labels))
    tree(axes[0], found, names, "Les Miserables: communities merge")

    network, classes = digits()
    found, info = js.fit.communities(key, network, max_communities=min(SLOTS, options.most))
    labels = np.asarray(found.labels)
    pure = sum(np.bincount(classes[labels == k]).max() for k in range(labels.max() + 1)) / len(classes)
    score = adjusted_rand_score(classes, labels)
    print(
        f"digits: {len(classes)} images, {network.nse // 2} links, the first {int(info.num)} communities: "
        f"{pure:.1%} of the images have the digit of most in theirs; Rand index {score:.3f}"
    )
    tree(axes[1], found, readings(classes, labels), "1,797 digits: share of the commonest")
    if options.grid is not None:
        network, place = power_grid(options.grid)
        grid, info = js.fit.communities(key, network, max_communities=options.most)
        count = f"{int(info.num)}" if bool(info.ok) else f"at least {int(info.num)}"
        print(f"European grid: {network.shape[0]} buses, {network.nse // 2} links, {count} communities")
        axes[2].scatter(*place.T, c=np.asarray(grid.labels), s=1, cmap="tab20")
        axes[2].set_title(f"European power grid: {count} communities", fontsize=10)
        axes[2].set_xticks([])
        axes[2].set_yticks([])
    figure.savefig(options.out / "communities.png", dpi=72)


if __name__ == "__main__":
    main()
