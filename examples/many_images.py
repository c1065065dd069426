"""Draw many digits to disk with `js.many`, stop, and go on where it stopped: every image is the same as without a stop.

    python examples/many_images.py --num 50000 --out images          # Ctrl-C at any time, then the same line again

Writes `images.npy` [num, 28, 28] of bytes, a memory map that is filled batch by batch, beside `images.count`, the
number of images that are safe. Memory does not grow with --num. Needs jax, numpy and jsamp.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import digits_net
import jax
import numpy as np
import png

import jsamp as js

SCHEDULE = js.noise.VE(sigma_min=0.1, sigma_max=20.0)


def sampler(steps: int):
    """One digit of a random label, as bytes, from one key."""
    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    plan = js.solve.dpmpp(SCHEDULE, js.noise.karras_grid(SCHEDULE, steps))

    def draw(key):
        k_label, k_noise = jax.random.split(key)
        label = jax.random.randint(k_label, (1,), 0, 10)
        denoiser = js.Denoiser(digits_net.Digits(params, label), SCHEDULE, predicts="x0")
        image = js.sample(None, denoiser, SCHEDULE.prior(k_noise, (1, 28, 28)), plan).x[0]
        return jax.numpy.clip(127.5 * (image + 1), 0, 255).astype(np.uint8)

    return draw


def open_images(path: pathlib.Path, num: int) -> tuple[np.memmap, int]:
    """The memory map, and how many of its images are safe; refuses a file of another length."""
    images, count = path.with_suffix(".npy"), path.with_suffix(".count")
    if not images.exists():
        return np.lib.format.open_memmap(images, mode="w+", dtype=np.uint8, shape=(num, 28, 28)), 0
    store = np.lib.format.open_memmap(images, mode="r+")
    if store.shape[0] != num:
        raise SystemExit(f"{images} holds {store.shape[0]} images, not {num}. Give another --out, or delete it.")
    return store, int(count.read_text()) if count.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", type=int, default=0, help="stop after so many images, as an interruption would")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("images"))
    options = parser.parse_args()
    store, done = open_images(options.out, options.num)
    last = min(options.num, options.stop or options.num)
    print(f"{done} of {options.num} images are there", flush=True)
    begin, first = time.perf_counter(), done
    draws = js.many(jax.random.key(options.seed), sampler(options.steps), last, batch=options.batch, start=done)
    for batch in draws if done < last else ():
        store[done : done + len(batch)] = batch
        done += len(batch)
        store.flush()
        options.out.with_suffix(".count").write_text(str(done))  # only what is on disk counts
    rate = (done - first) / (time.perf_counter() - begin)
    print(f"{done} of {options.num} images are there, {rate:.0f} a second")
    shown = store[:64] / 127.5 - 1
    rows = {f"{i} to {i + 7}": shown[i : i + 8] for i in range(0, len(shown), 8)}
    png.page(options.out.with_suffix(".png"), rows.values(), list(rows), f"The first of {len(store)} images")


if __name__ == "__main__":
    main()
