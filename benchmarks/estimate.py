"""The room estimate against its floors and its peers.

    python benchmarks/estimate.py            # full size: n = m = 10,000, d = 64; a minute or two
    python benchmarks/estimate.py --quick    # n = m = 2,000

The floor of a distance over pairs is the matrix products that it needs at full float32 precision, in blocks of rows:
MMD and its like three of them (x x', y y' and x y'), density and coverage three (y y', and x y' from either side),
precision and recall four. The Frechet distance needs no pairs: beside the one product of all pairs stand its own two
Gram products [n, d]^T [n, d], instead of which it takes the triangles of QR factorisations, for their digits. The
bootstrap of a mean is measured against scipy's. Medians of seconds on the clock and of the processors' seconds, sides
taking turns: on a machine that does other work the latter are the ones to read.
"""

import argparse
import os
import pathlib
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from machine import describe

import jsamp as js


def medians(repeats, **functions):
    """Median seconds (clock, processors) of each function, after one call of each."""
    for function in functions.values():
        jax.block_until_ready(function())
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(function())
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: np.median(values, 0) for name, values in times.items()}


@jax.jit
def products(x, y):
    """One product of all pairs, 256 rows at a time, reduced as soon as it is made."""
    row = lambda a: jnp.max(jnp.matmul(y, a, precision="highest"))
    return jax.lax.map(row, x, batch_size=256)


@jax.jit
def grams(x, y):
    return jnp.matmul(x.T, x, precision="highest"), jnp.matmul(y.T, y, precision="highest")


def distances(n, d, repeats):
    """Rows (name, seconds, floor seconds, products in the floor); seconds are pairs, as in `medians`."""
    x, y = jax.random.normal(jax.random.key(0), (2, n, d))
    x = 1.1 * x + 0.1
    found = medians(
        repeats,
        product=lambda: products(x, y),
        gram=lambda: grams(x, y),
        mmd=lambda: js.estimate.mmd(x, y).value,
        kid=lambda: js.estimate.kid(x, y).value,
        energy=lambda: js.estimate.energy(x, y).value,
        precision_recall=lambda: js.estimate.precision_recall(x, y).precision.value,
        density_coverage=lambda: js.estimate.density_coverage(x, y).density.value,
        frechet=lambda: js.estimate.frechet(x, y).value,
        sliced_wasserstein=lambda: js.estimate.sliced_wasserstein(x, y).value,
    )
    count = {"mmd": 3, "kid": 3, "energy": 3, "precision_recall": 4, "density_coverage": 3}
    for name, many in count.items():
        yield name, found[name], many * found["product"], f"{many} products"
    yield "frechet", found["frechet"], found["product"], "1 product"
    yield "frechet", found["frechet"], found["gram"], "2 Grams"
    yield "sliced_wasserstein", found["sliced_wasserstein"], None, "256 sorts, not measured"


def resampling(rows, num, repeats):
    """Seconds of 1,000 bootstrap means of many rows: here and in scipy."""
    from scipy import stats

    x = np.random.default_rng(0).normal(size=rows).astype(np.float32)
    key, data = jax.random.key(0), jnp.asarray(x)
    return medians(
        repeats,
        jsamp=lambda: js.estimate.bootstrap(key, jnp.mean, data, num, method="percentile").draws,
        scipy=lambda: stats.bootstrap(
            (x,), np.mean, n_resamples=num, method="percentile", rng=np.random.default_rng(1)
        ),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results" / "estimate.md")
    options = parser.parse_args()
    n = 2_000 if options.quick else 10_000
    lines = [
        f"# Estimates: distances between samples, bootstrap\n\n{describe()}; n = m = {n}, d = 64; "
        f"load {os.getloadavg()[1]:.1f}.",
        "",
        "| distance | s | ratio to its floor | processor s | ratio to its floor | floor |\n|---|---|---|---|---|---|",
    ]
    for name, seconds, floor, text in distances(n, 64, options.repeats):
        floors = (None, None) if floor is None else floor
        clock, processor = ("–" if f is None else f"{t / f:.2f}" for t, f in zip(seconds, floors, strict=True))
        lines.append(f"| {name} | {seconds[0]:.2f} | {clock} | {seconds[1]:.2f} | {processor} | {text} |")
    lines.append(f"\nPeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB.")
    lines.append(f"\n| 1,000 bootstrap means of {n} rows | s | processor s |\n|---|---|---|")
    for name, seconds in resampling(n, 1_000, options.repeats).items():
        lines.append(f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} |")
    print("\n".join(lines))
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
