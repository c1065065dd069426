"""Sampling many images with a transformer: images a second, the solver's share of the time, the slope with devices.

On an accelerator 50,000 images of 32 x 32 x 3 in ten evaluations of a transformer with 60 million random weights,
bfloat16 in the network and float32 in the state. On a CPU a network of a tenth of the size, and the share alone. The
share is the time of `js.sample` with a model that costs nothing, over its time with the network.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import machine
import numpy as np

import jsamp as js

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATCH, SIDE, HEADS, STEPS = 4, 32, 8, 10
SCHEDULE = js.noise.VP()


def weights(width: int, depth: int, dtype) -> dict:
    """Random weights of a plain pre-norm transformer on patches, about 12 depth width^2 of them."""
    keys = iter(jax.random.split(jax.random.key(0), 4 * depth + 3))
    dense = lambda i, o: (jax.random.normal(next(keys), (i, o)) / np.sqrt(i)).astype(dtype)
    patch = 3 * PATCH**2
    return {
        "in": dense(patch, width),
        "place": dense((SIDE // PATCH) ** 2, width),
        "out": dense(width, patch),
        "blocks": [
            {"qkv": dense(width, 3 * width), "o": dense(width, width)}
            | {"up": dense(width, 4 * width), "down": dense(4 * width, width)}
            for _ in range(depth)
        ],
    }


def normed(x):
    return x * jax.lax.rsqrt(jnp.mean(x.astype(jnp.float32) ** 2, -1, keepdims=True) + 1e-6).astype(x.dtype)


def transformer(w: dict, x, t):
    """Predict the noise of images x [b, 32, 32, 3] at time t."""
    dtype, n = w["in"].dtype, SIDE // PATCH
    patches = x.reshape(-1, n, PATCH, n, PATCH, 3).swapaxes(2, 3).reshape(-1, n * n, 3 * PATCH**2)
    h = patches.astype(dtype) @ w["in"] + w["place"][None] * (1 + t).astype(dtype)
    for block in w["blocks"]:
        q, k, v = jnp.split(normed(h) @ block["qkv"], 3, axis=-1)
        heads = lambda a: a.reshape(*a.shape[:2], HEADS, -1)
        attended = jax.nn.dot_product_attention(heads(q), heads(k), heads(v))
        h = h + attended.reshape(h.shape) @ block["o"]
        h = h + jax.nn.gelu(normed(h) @ block["up"]) @ block["down"]
    patches = (normed(h) @ w["out"]).astype(x.dtype).reshape(-1, n, n, PATCH, PATCH, 3)
    return patches.swapaxes(2, 3).reshape(x.shape)


def seconds(run, *arguments, repeats: int) -> list[float]:
    """Times of a compiled call."""
    jax.block_until_ready(run(*arguments))
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        found.append(time.perf_counter() - start)
    return found


def share(width: int, depth: int, batch: int, dtype, repeats: int) -> dict:
    """The time of a batch, and of the runner with a model that costs nothing."""
    w = weights(width, depth, dtype)
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, STEPS), order=2)
    x = jax.random.normal(jax.random.key(1), (batch, SIDE, SIDE, 3))

    @jax.jit
    def draw(model, x):
        return js.sample(None, js.Denoiser(model, SCHEDULE, predicts="eps"), x, plan).x

    network = jax.tree_util.Partial(transformer, w)
    nothing = jax.tree_util.Partial(lambda scale, x, t: scale * x, jnp.float32(0.3))
    whole, alone = seconds(draw, network, x, repeats=repeats), seconds(draw, nothing, x, repeats=4 * repeats)
    count = sum(leaf.size for leaf in jax.tree.leaves(w))
    return {
        "weights": count,
        "batch": batch,
        "whole": min(whole),
        "alone": min(alone),
        "median": statistics.median(whole),
    }


def everything(width: int, depth: int, batch: int, dtype, images: int) -> float:
    """Seconds for all images, by `js.many`, each from its own key, without compilation."""
    network = jax.tree_util.Partial(transformer, weights(width, depth, dtype))
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, STEPS), order=2)
    denoiser = js.Denoiser(network, SCHEDULE, predicts="eps")

    def draw(key):
        return js.sample(None, denoiser, SCHEDULE.prior(key, (1, SIDE, SIDE, 3)), plan).x[0]

    run = lambda num: sum(len(x) for x in js.many(jax.random.key(0), draw, num, batch=batch, lanes=batch))
    run(batch)
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


def slope() -> list[dict]:
    """Run `examples/scale_out.py` on 1, 2, 4 and 8 forced devices, and on two processes of four."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    found = []
    for options in (["1"], ["2"], ["4"], ["8"], ["4", "--processes", "2"]):
        command = [sys.executable, str(ROOT / "examples" / "scale_out.py"), "--devices", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=900)
        found.append(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))
    return found


def table(head: str, rows: list[str]) -> str:
    """A table of Markdown."""
    return "\n".join([f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {row} |" for row in rows)])


def report(found: dict, total: float | None, images: int, slopes: list[dict]) -> str:
    """The page of results."""
    cores = os.cpu_count()
    parts = [
        "# Many images, many devices",
        f"{machine.describe()}. Load average at the end: {os.getloadavg()[0]:.1f} on "
        f"{cores} cores.\n`python benchmarks/scale.py`",
        "## Images of 32 x 32 x 3 in ten evaluations of a transformer",
        table(
            "weights | images together | seconds | images a second | runner alone, seconds | share of the solver",
            [
                f"{found['weights'] / 1e6:.1f} M | {found['batch']} | {found['whole']:.3f} | "
                f"{found['batch'] / found['whole']:.1f} | {found['alone']:.5f} | {found['alone'] / found['whole']:.2%}"
            ],
        ),
    ]
    if total is None:
        parts.append("No accelerator here: a network of a tenth of the size, and no run of all 50,000 images.")
    else:
        parts.append(f"All {images} images: {total:.1f} s.")
    if slopes:
        rows = [
            f"{one['devices']} | {one['processes']} | {one['seconds sampling']:.3f} | "
            f"{one['processor seconds sampling']:.3f} | {one['seconds scoring']:.3f} | "
            f"{one['processor seconds scoring']:.3f} | {one['mean']:.6f} | {one['sum of scores']:.4f}"
            for one in slopes
        ]
        parts += [
            "## The same work on more devices",
            "`examples/scale_out.py`: 8,192 samples in ten evaluations, and leverage of 65,536 rows of 64 numbers. The "
            f"devices are forced, on {cores} cores: the time can fall {cores} times at most, and less where one device "
            "already uses several cores. Processor seconds, of all devices and processes together, say what spreading "
            "the work costs; they suffer less from what else the machine does. Least of five runs.",
            table(
                "devices | processes | sampling, seconds | processor | scoring, seconds | processor | mean of samples "
                "| sum of scores",
                rows,
            ),
        ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results" / "scale.md")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-slope", action="store_true", help="leave out the runs on forced devices")
    args = parser.parse_args()
    accelerated = jax.default_backend() != "cpu"
    size = (640, 12, 512, jnp.bfloat16) if accelerated else (256, 8, 16, jnp.float32)
    found = share(*size, repeats=args.repeats)
    total = everything(*size, images=args.images) if accelerated else None
    text = report(found, total, args.images, [] if args.no_slope else slope())
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
