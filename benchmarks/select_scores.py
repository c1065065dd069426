"""The room select against its floors and its peers: one table after the other, each written as soon as it is measured.

    python benchmarks/select_scores.py                       # all tables at full size, about ten minutes
    python benchmarks/select_scores.py --quick               # small sizes, half a minute
    python benchmarks/select_scores.py --only leverage,stream
    python benchmarks/select_scores.py --only smote,cover --python /path/to/peers/bin/python

Every table is measured in a process of its own, both sides of a ratio alternating in that one process; medians. The
floor of a leverage score is two products over the rows at full float32 precision: A^T A, and A times a d x d matrix.
The peers (imbalanced-learn, coreax) may live in another environment than the rest: name its interpreter with --python.
"""

import argparse
import importlib.metadata
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = pathlib.Path(__file__).parent / "results"
FULL = {"n": 1_000_000, "small": 100_000, "d": 50, "gigabytes": 2.0, "minority": 10_000, "cover": 20_000}
QUICK = {"n": 100_000, "small": 20_000, "d": 50, "gigabytes": 0.1, "minority": 1_000, "cover": 2_000}


def medians(repeats, **functions):
    """Median seconds of each function, the functions taking turns, after one call of each."""
    import jax

    for fun in functions.values():
        jax.block_until_ready(fun())
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, fun in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(fun())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def leverage_table(size, n):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jsamp import select

    d = size["d"]
    A, M = jax.random.normal(jax.random.key(0), (n, d)), jnp.eye(d)

    @jax.jit
    def floor(A, M):
        gram = jnp.matmul(A.T, A, precision="highest")
        return gram, jnp.sum(jnp.matmul(A, M, precision="highest") ** 2, 1)

    names = {
        "floor": "two products (floor)",
        "auto": "`leverage(A)`",
        "shifted3": '`leverage(A, method="shifted3")`',
        "qr": "`numpy.linalg.qr`, row norms",
    }
    host = np.asarray(A)
    seconds = medians(
        7,
        floor=lambda: floor(A, M),
        auto=lambda: select.leverage(A),
        shifted3=lambda: select.leverage(A, method="shifted3"),
    )
    seconds |= medians(1, qr=lambda: (np.linalg.qr(host)[0] ** 2).sum(1))
    exact = (np.linalg.qr(host[:20_000].astype(np.float64))[0] ** 2).sum(1)
    error = np.abs(np.asarray(select.leverage(A[:20_000])) / exact - 1).max()
    yield f"## Leverage scores of {n} x {d} float32\n"
    yield "| | s | / floor | numpy QR / this |\n|---|---|---|---|"
    for key, name in names.items():
        s = seconds[key]
        yield f"| {name} | {s:.4f} | {s / seconds['floor']:.2f} | {seconds['qr'] / s:.1f} |"
    yield f"\nLargest relative error against QR in float64 on 20000 rows: {error:.1e}."
    yield "numpy computes the QR of float32 rows in float64."


def leverage(size):
    yield from leverage_table(size, size["n"])


def small(size):
    yield from leverage_table(size, size["small"])


def devices(size):
    import jax
    import numpy as np

    from jsamp import select

    n = size["n"] // 8 * 8
    A = np.asarray(jax.random.normal(jax.random.key(0), (n, size["d"])))
    mesh = jax.make_mesh((8,), ("rows",))
    rows = jax.device_put(A, jax.NamedSharding(mesh, jax.P("rows")))
    run = jax.jit(
        jax.shard_map(
            lambda a: select.leverage(a, axis_name="rows"), mesh=mesh, in_specs=jax.P("rows"), out_specs=jax.P("rows")
        )
    )
    single = jax.device_put(A, jax.devices()[0])
    difference = np.abs(np.asarray(run(rows)) / np.asarray(select.leverage(single)) - 1).max()
    seconds = medians(
        5, eight=lambda: run(rows), explicit=lambda: select.leverage(rows), one=lambda: select.leverage(single)
    )
    yield f"## Leverage scores of {n} x {size['d']} float32 on 8 CPU devices (of the same cores)\n"
    yield "| | s | largest relative difference to one device |\n|---|---|---|"
    yield f"| one device | {seconds['one']:.4f} | |"
    yield f"| 8 devices, `shard_map` | {seconds['eight']:.4f} | {difference:.1e} |"
    yield f"| 8 devices, rows of an explicit mesh | {seconds['explicit']:.4f} | |"


def stream(size):
    import jax
    import numpy as np

    from jsamp import select

    d, block = size["d"], 65_536
    n = int(size["gigabytes"] * 1e9 / (4 * d))
    with tempfile.TemporaryDirectory(dir=os.environ.get("JSAMP_SCRATCH")) as folder:
        path = pathlib.Path(folder) / "rows.dat"
        rng = np.random.default_rng(0)
        with path.open("wb") as file:
            for start in range(0, n, block):
                file.write(rng.standard_normal((min(block, n - start), d), np.float32).tobytes())
        jax.block_until_ready(jax.numpy.ones(1) + 1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        rows = np.memmap(path, np.float32, "r", shape=(n, d))
        start = time.perf_counter()
        scores = select.leverage_stream(select.RowBlocks(rows, block))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    yield f"## Leverage scores of a memmap of {4 * n * d / 1e9:.2f} GB ({n} x {d}), {block} rows at a time\n"
    yield "| | |\n|---|---|"
    yield f"| time, 2 reads | {seconds:.1f} s |"
    yield f"| peak resident memory of the process (`ru_maxrss`) | {peak:.2f} GB |"
    yield f"| before the first block (Python, numpy, jax, making the file) | {before:.2f} GB |"
    yield f"| sum of scores (= rank) | {scores.sum(dtype=np.float64):.4f} |"


def draws(size):
    import jax
    import jax.numpy as jnp

    from jsamp import select

    n, num = size["n"], size["n"] // 100
    scores = jnp.exp(jax.random.normal(jax.random.key(1), (n,)) * 2)
    key = jax.random.key(2)
    share = scores / scores.sum()
    functions = {f'`draw(scheme="{s}")`': lambda s=s: select.draw(key, scores, num, scheme=s) for s in select_schemes()}
    peer = jax.jit(lambda key, p: jax.random.choice(key, n, (num,), p=p))
    functions["`jax.random.choice(p=)`, 23-bit, float32 sums"] = lambda: peer(key, share)
    seconds = medians(5, **functions)
    yield f"## {num} draws from {n} weights\n"
    yield "| | ms |\n|---|---|"
    for name, s in seconds.items():
        yield f"| {name} | {s * 1e3:.1f} |"


def select_schemes():
    return ("poisson", "priority", "topk", "multinomial", "systematic", "stratified")


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def smote(size):
    import jax
    import numpy as np

    from jsamp import select

    few = size["minority"]
    n, d = 10 * few, 32
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d), np.float32)
    y = np.zeros(n, int)
    y[:few] = 1
    minority = np.arange(few)
    functions = {"jsamp": lambda: select.smote(jax.random.key(0), X, minority, n - 2 * few).x}
    peer = version("imbalanced-learn")
    if peer:
        from imblearn.over_sampling import SMOTE

        functions["peer"] = lambda: SMOTE(random_state=0).fit_resample(X, y)[0]
    seconds = medians(3, **functions)
    yield f"## SMOTE: {n} x {d}, minority of {few}, {n - 2 * few} new rows\n"
    yield "| | s |\n|---|---|"
    yield f"| `smote` | {seconds['jsamp']:.3f} |"
    yield f"| imbalanced-learn {peer} | {seconds['peer']:.3f} |" if peer else "| imbalanced-learn: not installed | |"


def cover(size):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jsamp import select

    n, d, num = size["cover"], 16, 100
    X = jax.random.normal(jax.random.key(0), (n, d))
    kernel = select.GaussianKernel(4.0)
    host = np.asarray(X)

    def farthest_first():
        index = [int(np.argmax(((host - host.mean(0)) ** 2).sum(1)))]
        near = np.full(n, np.inf, np.float32)
        for _ in range(num - 1):
            near = np.minimum(near, ((host - host[index[-1]]) ** 2).sum(1))
            index.append(int(near.argmax()))
        return np.array(index)

    functions = {
        "`k_center`": lambda: select.k_center(X, num),
        "farthest-first loop in numpy": farthest_first,
        "`herding`": lambda: select.herding(X, num, kernel=kernel),
    }
    peer = version("coreax")
    if peer:
        from coreax import Data, SquaredExponentialKernel
        from coreax.solvers import KernelHerding

        solver = KernelHerding(coreset_size=num, kernel=SquaredExponentialKernel(length_scale=4.0))
        data = Data(X)
        reduce = jax.jit(lambda data: solver.reduce(data)[0].unweighted_indices)
        functions[f"coreax {peer} KernelHerding, jitted"] = lambda: reduce(data)
    seconds = medians(3, **functions)
    same = np.array_equal(np.asarray(select.k_center(X, num).index), farthest_first())
    yield f"## {num} rows that cover or imitate {n} x {d}\n"
    yield "| | s | kernel error |\n|---|---|---|"
    for name, s in seconds.items():
        found = functions[name]()
        index = jnp.asarray(getattr(found, "index", found))
        subset = select.Subset(index, jnp.ones(num), jnp.ones(num, bool))
        yield f"| {name} | {s:.3f} | {float(select.kernel_error(X, subset, kernel=kernel)):.4f} |"
    yield f"\nThe two farthest-first traversals choose {'the same' if same else 'different'} rows."
    yield "coreax has no k-center; its kernel herding stands beside ours." if peer else "coreax is not installed here."


TABLES = {f.__name__: f for f in (leverage, small, devices, stream, draws, smote, cover)}


def head():
    import machine

    return f"Machine: {machine.describe()}. Medians; one process per table (`python benchmarks/select_scores.py`).\n"


def measure(name, python, quick):
    """One table, in a child process: lines of Markdown."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if name == "devices":
        env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    command = [python, __file__, "--table", name, *(["--quick"] if quick else [])]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else f"## {name}\n\nFailed: {done.stderr.strip().splitlines()[-1]}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(TABLES), help="tables, separated by commas")
    parser.add_argument("--quick", action="store_true", help="small sizes; prints only, nothing is written")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the tables smote and cover")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "select_scores.md")
    parser.add_argument("--table", choices=TABLES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        for line in TABLES[args.table](QUICK if args.quick else FULL):
            print(line)
        return
    found = {}
    for name in args.only.split(","):
        found[name] = measure(name, args.python if name in ("smote", "cover") else sys.executable, args.quick)
        print(found[name], flush=True)
        if not args.quick:
            args.out.write_text("\n".join([head(), *found.values()]))


if __name__ == "__main__":
    main()
