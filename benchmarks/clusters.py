"""Clusters, communities and kernel subsets beside their peers: scikit-learn, networkx, coreax and numpy loops.

    python benchmarks/clusters.py             # full sizes, some minutes; writes benchmarks/results/clusters.md
    python benchmarks/clusters.py --quick     # small sizes, prints only
    python benchmarks/clusters.py --memory    # prints the memory that 20,000 sparse nodes take

Seconds are of processor time, all threads, medians over calls that take turns: what else runs on the machine spoils
them less than the clock. The first call of each compiles and is not counted. coreax (pip install coreax jaxopt) is left
out where it is not installed.
"""

import argparse
import importlib.util
import pathlib
import statistics
import subprocess
import sys
import time
import warnings

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
        lambda: js.fit.mixture(None, rows[: n // 10], 10, start=label, steps=20, tolerance=0.0).info.loglikelihood,
        lambda: (
            GaussianMixture(10, means_init=means, init_params="random", max_iter=20, tol=0)
            .fit(host[: n // 10])
            .lower_bound_
        ),
    )
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


def memory(nodes=20_000):
    """The peak of resident memory, in MB, before and after communities of a sparse network."""
    ends, _ = blocks(nodes, 10, 15.0, 5.0)
    status = pathlib.Path("/proc/self/status")  # Linux; getrusage would count what the parent held
    peak = lambda: int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    before = peak()
    links = BCOO((jnp.ones(len(ends)), jnp.asarray(ends)), shape=(nodes, nodes))
    jax.block_until_ready(js.fit.communities(jax.random.key(0), links))
    yield f"Peak of resident memory, {nodes} sparse nodes, {len(ends) // 2} links: {before:.0f} MB before,"
    yield f"{peak():.0f} MB after, compiling included; a dense matrix would be {4 * nodes**2 / 2**20:.0f} MB."


def peak():
    """`memory`, in a process of its own."""
    run = subprocess.run([sys.executable, __file__, "--memory"], capture_output=True, text=True, check=True)
    yield "\n" + run.stdout.strip()


def greedy_herding(X, num, width):
    """Kernel herding by a numpy loop."""
    n, squares = len(X), np.sum(X**2, 1)
    column = lambda rows: np.exp(-np.maximum(squares[:, None] + squares[rows] - 2 * X @ X[rows].T, 0) / 2 / width**2)
    mean = np.concatenate([column(slice(i, i + 512)).mean(0) for i in range(0, n, 512)])
    total, used = np.zeros(n, X.dtype), np.zeros(n, bool)
    chosen = []
    for t in range(num):
        chosen.append(int(np.argmax(np.where(used, -np.inf, mean - total / (t + 1)))))
        used[chosen[-1]] = True
        total += column([chosen[-1]])[:, 0]
    return np.array(chosen)


def greedy_centres(X, num, first):
    """Farthest points by a numpy loop."""
    chosen, near = [first], np.sum((X - X[first]) ** 2, 1)
    for _ in range(num - 1):
        chosen.append(int(np.argmax(near)))
        near = np.minimum(near, np.sum((X - X[chosen[-1]]) ** 2, 1))
    return np.array(chosen)


def greedy_stein(X, num, length):
    """Stein thinning of a standard normal by a numpy loop; scores are -X."""
    d, chosen = X.shape[1], []
    total = (d / length**2 + np.sum(X**2, 1)) / 2
    for _ in range(num):
        i = int(np.argmin(total))
        chosen.append(i)
        off = X[i] - X
        square = np.sum(off**2, 1) / length**2
        q = 1 + square
        curved = d / length**2 - np.sum(off**2, 1) / length**2  # scores differ by -off
        total = total + (-3 * square / length**2 / q**2 + curved / q + X @ X[i]) / np.sqrt(q)
    return np.array(chosen)


def with_coreax(solver, X, **options):
    """A call of coreax's solver, compiled, that returns the rows it chooses; None where coreax is not installed."""
    if not importlib.util.find_spec("coreax"):
        return None
    import coreax
    import coreax.solvers
    import equinox

    reduce = equinox.filter_jit(lambda solver, data: solver.reduce(data)[0])
    made, data = getattr(coreax.solvers, solver)(**options), coreax.Data(X)
    return lambda: reduce(made, data).unweighted_indices


def gaussian(width):
    """Coreax's Gaussian kernel."""
    if importlib.util.find_spec("coreax"):
        import coreax.kernels

        return coreax.kernels.SquaredExponentialKernel(length_scale=width)


def subsets(n, num, repeats):
    host = np.random.default_rng(0).normal(size=(n, 16)).astype(np.float32)
    X, key, length = jnp.asarray(host), jax.random.PRNGKey(0), 5.0
    few, rounds = X[: min(n, 4096), :2], 6
    ours, wide = js.select.GaussianKernel, gaussian(4.0)
    first = int(js.select.k_center(X, 1).index[0])
    halves = {"kernel": gaussian(1.0), "sqrt_kernel": gaussian(2**-0.5), "delta": 0.5, "random_key": key}
    size = len(few) >> rounds
    runs = {
        f"herding, {num} of {n} x 16": (
            lambda: js.select.herding(X, num, kernel=ours(4.0)).index,
            with_coreax("KernelHerding", X, coreset_size=num, kernel=wide, block_size=512),
            lambda: greedy_herding(host, num, 4.0),
        ),
        f"farthest points, {num} of {n} x 16": (
            lambda: js.select.k_center(X, num).index, None, lambda: greedy_centres(host, num, first),
        ),
        f"Stein thinning, {num} of {n} x 16": (
            lambda: js.select.stein_thinning(X, -X, num, length=length).index, None,
            lambda: greedy_stein(host, num, length),
        ),
        f"thinning, {len(few)} x 2 to {size}": (
            lambda: js.select.thinning(key, few, rounds).index,
            with_coreax("KernelThinning", few, coreset_size=size, **halves), None,
        ),
        f"compress, {len(few)} x 2 to {size}": (
            lambda: js.select.compress(key, few, rounds).index,
            with_coreax("CompressPlusPlus", few, coreset_size=size, g=4, **halves), None,
        ),
        f"rp_cholesky, {num} of {n} x 16": (
            lambda: js.select.rp_cholesky(key, X, num, kernel=ours(4.0)).subset.index,
            with_coreax("RPCholesky", X, coreset_size=num, kernel=wide, random_key=key), None,
        ),
    }  # fmt: skip
    yield "\n## Subsets\n"
    yield "Quality: rows equal to those of the numpy loop, or the kernel error of ours and coreax's.\n"
    yield "| | jsamp s | coreax s | ratio | numpy s | ratio | quality |\n|---|---|---|---|---|---|---|"
    for name, calls in runs.items():
        there = [call for call in calls if call is not None]
        times, made = seconds(repeats, *there)
        spent = dict(zip(map(id, there), times, strict=True))
        cells = [
            f"{spent[id(c)]:.3f} | {times[0] / spent[id(c)]:.2f}" if c is not None else "no peer | " for c in calls[1:]
        ]
        if calls[2]:
            quality = f"{np.mean(np.asarray(made[0]) == np.asarray(made[-1])):.0%} equal rows"
        elif "cholesky" not in name:
            quality = " and ".join(f"{error(few, index):.4f}" for index in made)
        else:
            quality = ""
        yield f"| {name} | {times[0]:.3f} | {cells[0]} | {cells[1]} | {quality} |"


def error(X, index):
    """The kernel error of equally weighted rows, for the default kernel."""
    size = len(index)
    subset = js.select.Subset(jnp.asarray(index), jnp.full(size, len(X) / size), jnp.ones(size, bool))
    return float(js.select.kernel_error(X, subset))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.memory:
        print("\n".join(memory()))
        return
    warnings.simplefilter("ignore")  # peers say that 20 iterations were too few
    lines = ["# Clusters, communities and subsets", "", f"`python benchmarks/clusters.py`: {describe()}.", ""]
    lines += [" ".join(__doc__.split("\n\n")[2].split()), ""]
    parts = [clusters(5_000, 8, 10, 1), networks([(300, 3, True, True)], 1), subsets(2_000, 50, 1)]
    if not options.quick:
        sizes = [(1_600, 8, True, True), (1_600, 8, False, False), (20_000, 10, False, False)]
        parts = [clusters(100_000, 32, 100, 3), networks(sizes, 2), peak(), subsets(20_000, 100, 3)]
    for part in parts:
        for line in part:
            print(line, flush=True)
            lines.append(line)
    if not options.quick:
        (pathlib.Path(__file__).parent / "results" / "clusters.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
