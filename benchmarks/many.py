"""What `js.many` costs beside a loop written by hand, and 50,000 images written to disk, stopped and resumed.

Groups of 64 samples, with a model that takes no time and one of some milliseconds. Loop and generator run in turns, and
the least time of each counts: whatever else the machine does only adds to it. The second half fills a memory map of
50,000 images of 28 x 28 bytes, stops in the middle of a group, resumes, and compares every byte with a run that was not
stopped.

    PYTHONPATH=. python benchmarks/many.py
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import tempfile
import time

import jax
import jax.numpy as jnp
import machine
import numpy as np

import jsamp as js

RESULTS = pathlib.Path(__file__).parent / "results" / "many.md"
GROUP, WIDTH, DEPTH = 64, 256, 12


def model(depth: int):
    """A sample of WIDTH numbers, `depth` products of one matrix with it."""
    weight = jax.random.orthogonal(jax.random.key(1), WIDTH)

    def draw(key):
        x = jax.random.normal(key, (WIDTH,))
        return jax.lax.fori_loop(0, depth, lambda _, x: jnp.tanh(weight @ x), x)

    return draw


@jax.jit
def group(weight_of, key, first):
    """One group of a loop written by hand."""
    return jax.vmap(lambda i: weight_of(jax.random.fold_in(key, i)))(first + jnp.arange(GROUP, dtype=jnp.uint32))


def by_hand(draw, key, num: int):
    """Groups one after the other, the next dispatched before the last is fetched."""
    draw = jax.tree_util.Partial(draw)
    ahead = group(draw, key, np.uint32(0))
    for first in range(GROUP, num + GROUP, GROUP):
        now, ahead = ahead, group(draw, key, np.uint32(first)) if first < num else None
        yield np.asarray(now)


def by_many(draw, key, num: int):
    """The same samples from the generator."""
    return js.many(key, draw, num, batch=GROUP, lanes=GROUP)


def clock(batches) -> float:
    """Wall seconds from the first batch to the last: a run traces its draw once, before."""
    next(batches)
    begin = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - begin


def overhead(num: int, rounds: int) -> list[str]:
    """Rows of a table: a group that takes no time, whose difference is what the generator costs, and one of 5 ms."""
    key, lines = jax.random.key(0), ["| group | by hand, ms | by js.many, ms | more, ms | of 5 ms |", "|---" * 5 + "|"]
    for name, depth in (("numbers alone", 0), (f"{DEPTH} products", DEPTH)):
        draw = model(depth)
        times = np.array([[clock(work(draw, key, num)) for work in (by_hand, by_many)] for _ in range(rounds)])
        hand, many = 1e3 * times.min(0) / (num / GROUP - 1)
        lines.append(f"| {name} | {hand:.3f} | {many:.3f} | {many - hand:.3f} | {(many - hand) / 5:.1%} |")
    return lines


def images():
    """A smooth random image as bytes: a Gaussian denoiser, eight steps."""
    schedule = js.noise.VE(sigma_min=0.1, sigma_max=20.0)
    law = js.denoise.GaussianMixture(schedule, weights=[0.5, 0.5], means=[[-0.5] * 784, [0.5] * 784], stds=[0.3, 0.1])
    plan = js.solve.dpmpp(schedule, js.noise.karras_grid(schedule, 8))

    def draw(key):
        x = js.sample(None, law, schedule.prior(key, (784,)), plan).x
        return jnp.clip(127.5 * (x + 1), 0, 255).astype(jnp.uint8).reshape(28, 28)

    return draw


def fill(store: np.ndarray, draw, key, start: int, stop: int) -> None:
    """Write images start .. stop of the run into the store, batch by batch."""
    done = start
    for batch in js.many(key, draw, len(store), batch=1000, start=start):
        kept = batch[: stop - done]
        store[done : done + len(kept)] = kept
        done += len(kept)
        if done == stop:
            return


def to_disk(num: int) -> list[str]:
    """What the long run did."""
    draw, key = images(), jax.random.key(3)
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / f"{name}.npy" for name in ("whole", "parts")]
        whole, parts = (np.lib.format.open_memmap(p, mode="w+", dtype=np.uint8, shape=(num, 28, 28)) for p in paths)
        fill(whole, draw, key, 0, 1000)  # compiled, and its memory there
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.perf_counter(), time.process_time()
        fill(whole, draw, key, 0, num)
        seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        stop = num * 2 // 5 + 17
        fill(parts, draw, key, 0, stop)
        fill(parts, draw, key, stop, num)
        same = bool(np.array_equal(whole, parts))
    size = num * 784 / 2**20
    return [
        f"{num} images ({size:.0f} MiB) in {seconds:.0f} s ({cpu:.0f} s of CPU, {num / seconds:.0f} a second); peak "
        f"memory grew by {grown:.0f} MiB, the pages of the map included.",
        f"Stopped after {stop} and resumed: every byte is {'the same' if same else 'NOT THE SAME'}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--images", type=int, default=50_000)
    options = parser.parse_args()
    told = f"{machine.describe()}; the least of {options.rounds} rounds of {options.groups} groups of {GROUP} samples."
    lines = ["# js.many", "", told, "", *overhead(options.groups * GROUP, options.rounds), "", *to_disk(options.images)]
    print("\n".join(lines))
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
