"""Clusters and communities beside their peers: scikit-learn and networkx.

    python benchmarks/clusters.py             # full sizes, a minute or two; writes benchmarks/results/clusters.md
    python benchmarks/clusters.py --quick     # small sizes, prints only

Seconds are of processor time, all threads, medians over calls that take turns: what else runs on the machine spoils
them less than the clock. The first call of ours compiles and is not counted.
"""

import argparse
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import networkx
import numpy as np
from jax.experimental.sparse import BCOO
from machine import describe
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import jsamp as js


def seconds(repeats, *functions):
    """Median processor seconds of each function, taking turns, after one call of each; and their last results."""
    made = [jax.block_until_ready(fun()) for fun in functions]
    times = [[] for _ in functions]
    for _ in range(repeats):
        for i, fun in enumerate(functions):
            start = time.process_time()
            made[i] = jax.block_until_ready(fun())
            times[i].append(time.process_time() - start)
    return [statistics.median(some) for some in times], made


def clusters(n, d, k, repeats):
    rng = np.random.default_rng(0)
    centers = 2 * rng.normal(size=(k, d))
    host = (centers[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(np.float32)
    rows, start = jnp.asarray(host), host[:k]
    key = jax.random.key(0)
    yield f"## k-means, {n} x {d}, k = {k}\n"
    yield "| | jsamp s | scikit-learn s | ratio | cost / theirs |\n|---|---|---|---|---|"
    runs = {
        "20 iterations from one start": (
            lambda: js.fit.kmeans(None, rows, k, start=start, steps=20, tolerance=0.0).info.cost,
            lambda: KMeans(k, init=start, n_init=1, max_iter=20, tol=0).fit(host).inertia_,
        ),
        "seeds and all": (
            lambda: js.fit.kmeans(key, rows, k).info.cost,
            lambda: KMeans(k, n_init=1, random_state=0).fit(host).inertia_,
        ),
    }
    for name, pair in runs.items():
        (ours, theirs), (cost, other) = seconds(repeats, *pair)
        yield f"| {name} | {ours:.3f} | {theirs:.3f} | {ours / theirs:.2f} | {float(cost) / other:.3f} |"
    label = np.asarray(js.fit.kmeans(key, rows[: n // 10], 10).info.labels)
    means = np.stack([host[: n // 10][label == j].mean(0) for j in range(10)])
    pair = (
        lambda: js.fit.mixture(None, rows[: n // 10], 10, start=label, steps=20, tolerance=0.0).info.loglik,
        lambda: (
            GaussianMixture(10, means_init=means, init_params="random", max_iter=20, tol=0)
            .fit(host[: n // 10])
            .lower_bound_
        ),
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs says that 20 iterations were too few
        (ours, theirs), (value, other) = seconds(repeats, *pair)
    yield f"\nMixture of 10 full Gaussians, {n // 10} rows, 20 iterations: {ours:.3f} s, scikit-learn {theirs:.3f} s "
    yield f"(ratio {ours / theirs:.2f}); mean log-likelihood {float(value):.4f} and {other:.4f}.\n"


def blocks(n, k, inside, outside, seed=0):
    """Ends of the links of a network of k groups, mean degrees inside and outside, and the groups."""
    rng = np.random.default_rng(seed)
    group = rng.integers(k, size=n)
    pairs = []
    for a in range(k):
        for b in range(a, k):
            mean = inside if a == b else outside / (k - 1)
            one, other = np.flatnonzero(group == a), np.flatnonzero(group == b)
            count = rng.poisson(len(one) * mean / (2 if a == b else 1))
            pairs.append(np.stack([rng.choice(one, count), rng.choice(other, count)], 1))
    ends = np.concatenate(pairs)
    ends = ends[ends[:, 0] != ends[:, 1]]
    return np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0).astype(np.int32), group


def networks(sizes, repeats):
    key = jax.random.key(0)
    yield "## Communities\n"
    yield "| nodes | links | jsamp s | found | Rand index | networkx greedy modularity s | found | Rand index |"
    yield "|---|---|---|---|---|---|---|---|"
    for n, k, dense, peer in sizes:
        ends, group = blocks(n, k, 15.0, 5.0)
        links = BCOO((jnp.ones(len(ends)), jnp.asarray(ends)), shape=(n, n))
        links = links.todense() if dense else links
        (ours,), (result,) = seconds(repeats, lambda a=links: js.fit.communities(key, a))
        row = (
            f"| {n} {'dense' if dense else 'sparse'} | {len(ends) // 2} | {ours:.2f} | {int(result.info.num)} of {k} | "
        )
        row += f"{adjusted_rand_score(group, np.asarray(result.x.labels)):.4f} | "
        if peer:
            graph = networkx.Graph(list(map(tuple, ends)))
            start = time.process_time()
            parts = networkx.community.greedy_modularity_communities(graph)
            spent, label = time.process_time() - start, np.full(n, -1)
            for i, part in enumerate(parts):
                label[list(part)] = i
            row += f"{spent:.2f} | {len(parts)} | {adjusted_rand_score(group, label):.4f} |"
        else:
            row += "not run | | |"
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    lines = ["# Clusters and communities", "", f"{describe()}. Processor seconds.", ""]
    parts = [clusters(5_000, 8, 10, 1), networks([(300, 3, True, True)], 1)]
    if not options.quick:
        sizes = [(1_600, 8, True, True), (1_600, 8, False, False), (20_000, 10, False, False)]
        parts = [clusters(100_000, 32, 100, 3), networks(sizes, 2)]
    for part in parts:
        for line in part:
            print(line, flush=True)
            lines.append(line)
    if not options.quick:
        (pathlib.Path(__file__).parent / "results" / "clusters.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
