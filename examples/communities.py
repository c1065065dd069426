"""Communities of three real networks, and the tree in which they merge.

Zachary's karate club and the characters of Les Miserables come with networkx. The European power grid (9,241 buses, the
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

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FILE = "networks/power_system_test_case_jsons/case9241pegase.json"


def shipped(graph):
    """A network of networkx, its weights dropped."""
    return jnp.asarray(networkx.to_numpy_array(graph, weight=None), jnp.float32)


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

    figure, axes = plt.subplots(
        1, 1 if options.grid is None else 2, figsize=(8, 3.2), layout="constrained", squeeze=False
    )
    first = axes[0, 0]
    dendrogram(found.linkage(), labels=leaves(list(novel), np.asarray(found.labels)), orientation="left", ax=first)
    first.set_xlabel("1 - link density")
    first.set_title("Les Miserables: communities merge", fontsize=10)
    first.tick_params(axis="y", labelsize=7)
    if options.grid is not None:
        network, place = power_grid(options.grid)
        grid, info = js.fit.communities(key, network, max_communities=options.most)
        count = f"{int(info.num)}" if bool(info.ok) else f"at least {int(info.num)}"
        print(f"European grid: {network.shape[0]} buses, {network.nse // 2} links, {count} communities")
        axes[0, 1].scatter(*place.T, c=np.asarray(grid.labels), s=1, cmap="tab20")
        axes[0, 1].set_title(f"European power grid: {count} communities", fontsize=10)
        axes[0, 1].set_xticks([])
        axes[0, 1].set_yticks([])
    figure.savefig(options.out / "communities.png", dpi=72)


if __name__ == "__main__":
    main()
