"""The room estimate against its floors and its peers.

    python benchmarks/estimate.py            # full size: n = m = 10,000, d = 64; a minute or two
    python benchmarks/estimate.py --quick    # n = m = 2,000

The floor of a distance over pairs is the matrix products that it needs at full float32 precision, in blocks of the same
size: MMD (both sets with themselves, and across from either side) four of them, precision and recall four. The Frechet
distance needs two Gram products [n, d]^T [n, d] at least, and takes QR factorisations instead, for their digits. The
bootstrap of a mean is measured against scipy's. Medians, sides taking turns.
"""

import argparse
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from machine import describe

import jsamp as js


def medians(repeats, **functions):
    """Median seconds of each function, after one call of each."""
    for function in functions.values():
        jax.block_until_ready(function())
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


@jax.jit
def products(x, y):
    """One product of all pairs, 256 rows at a time, reduced as soon as it is made."""
    row = lambda a: jnp.max(jnp.matmul(y, a, precision="highest"))
    return jax.lax.map(row, x, batch_size=256)


@jax.jit
def grams(x, y):
    return jnp.matmul(x.T, x, precision="highest"), jnp.matmul(y.T, y, precision="highest")


def distances(n, d, repeats):
    """Rows (name, seconds, floor seconds, products in the floor)."""
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
    count = {"mmd": 4, "kid": 4, "energy": 4, "precision_recall": 4, "density_coverage": 3}
    for name, many in count.items():
        yield name, found[name], many * found["product"], f"{many} products"
    yield "frechet", found["frechet"], found["gram"], "2 Grams"
    yield "sliced_wasserstein", found["sliced_wasserstein"], float("nan"), "256 sorts"


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
    options = parser.parse_args()
    n = 2_000 if options.quick else 10_000
    print(f"{describe()}; n = m = {n}, d = 64")
    print("| distance | s | floor s | ratio | floor |\n|---|---|---|---|---|")
    for name, seconds, floor, text in distances(n, 64, options.repeats):
        print(f"| {name} | {seconds:.3f} | {floor:.3f} | {seconds / floor:.2f} | {text} |", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    times = resampling(n, 1_000, options.repeats)
    print(f"bootstrap, 1,000 means of {n} rows: jsamp {times['jsamp']:.3f} s, scipy {times['scipy']:.3f} s")


if __name__ == "__main__":
    main()
