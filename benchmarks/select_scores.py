"""Leverage scores against their floor, against QR, and beyond memory; draws from a million weights.

    python benchmarks/select_scores.py            # ratios measured in one run, medians
    python benchmarks/select_scores.py --memmap 2 --rows 100000   # score a memmap of 2 GB in bounded memory

The floor is two products over the rows at full float32 precision: the Gram matrix and A times a d x d matrix.
"""

import argparse
import pathlib
import resource
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

import jsamp.select as select

RESULTS = pathlib.Path(__file__).parent / "results"


def median_time(fun, repeats):
    jax.block_until_ready(fun())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fun())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@jax.jit
def floor(A, M):
    gram = jnp.matmul(A.T, A, precision="highest")
    return gram, jnp.sum(jnp.matmul(A, M, precision="highest") ** 2, 1)


def in_memory(n, d, repeats):
    A = jax.random.normal(jax.random.key(0), (n, d))
    M = jnp.eye(d)
    low = median_time(lambda: floor(A, M), repeats)
    rows = [("two products (floor)", low)]
    rows.append(("leverage, auto", median_time(lambda: select.leverage(A), repeats)))
    rows.append(("leverage, shifted3", median_time(lambda: select.leverage(A, method="shifted3"), 1)))
    host = np.asarray(A)
    rows.append(("numpy.linalg.qr and row norms", median_time(lambda: (np.linalg.qr(host)[0] ** 2).sum(1), 1)))
    text = [f"| scores of {n} x {d} float32 | s | / floor |", "|---|---|---|"]
    text += [f"| {name} | {seconds:.3f} | {seconds / low:.2f} |" for name, seconds in rows]
    exact = (np.linalg.qr(host[:20000].astype(np.float64))[0] ** 2).sum(1)
    error = np.abs(np.asarray(select.leverage(A[:20000])) / exact - 1).max()
    text.append(f"\nLargest relative error against float64 QR, 20000 rows: {error:.1e}.\n")
    scores = jnp.exp(jax.random.normal(jax.random.key(1), (n,)) * 2)
    text += [f"| 10000 draws from {n} weights | ms |", "|---|---|"]
    for scheme in ("poisson", "multinomial", "systematic", "stratified", "priority", "topk"):
        seconds = median_time(lambda s=scheme: select.draw(jax.random.key(2), scores, 10_000, scheme=s), repeats)
        text.append(f"| {scheme} | {seconds * 1e3:.1f} |")
    return text


def memmap(gigabytes, block, d=50):
    n = int(gigabytes * 1e9 / (4 * d))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.dat"
        rng = np.random.default_rng(0)
        with path.open("wb") as file:
            for start in range(0, n, block):
                file.write(rng.standard_normal((min(block, n - start), d), np.float32).tobytes())
        rows = np.memmap(path, np.float32, "r", shape=(n, d))
        # An address-space limit would count the file's mapping too; the resident peak of unmapped memory is what binds.
        start = time.perf_counter()
        scores = select.leverage_stream(select.RowBlocks(rows, block), progress=True)
        seconds = time.perf_counter() - start
    status = pathlib.Path("/proc/self/status").read_text()
    anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return [
        f"| leverage of a {gigabytes:g} GB memmap ({n} x {d}), blocks of {block} rows | |",
        "|---|---|",
        f"| time (2 reads) | {seconds:.1f} s |",
        f"| peak resident memory, file pages included | {peak:.2f} GB |",
        f"| own memory at the end | {anonymous:.2f} GB |",
        f"| sum of scores (= rank) | {scores.sum(dtype=np.float64):.4f} |",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memmap", type=float, default=0.0, help="gigabytes")
    parser.add_argument("--rows", type=int, default=100_000, help="rows per block of the memmap")
    args = parser.parse_args()
    name = "select_memmap" if args.memmap else "select_scores"
    lines = memmap(args.memmap, args.rows) if args.memmap else in_memory(args.n, args.d, args.repeats)
    lines.insert(0, f"Machine: 2 cores, Intel Xeon, CPU; jax {jax.__version__}, {jax.default_backend()}.\n")
    print("\n".join(lines))
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
