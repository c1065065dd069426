"""One step of `js.fit.minimise` against the same optax step written by hand, and the memory of a streamed data set.

    python benchmarks/train.py

The hand-written loop draws its batch inside the compiled step, with replacement, which saves it the orders of the
epochs. Each row gives medians over alternating rounds of runs of 1,000 steps, in the processors' time, which other work
on the machine disturbs least, and the ratio of these medians; the aim is at most 1.05. The second part trains on a
memory map of `--megabytes` of random rows and reports how much the resident memory grows.
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
import optax

import jsamp as js

BATCH, STEPS, ROUNDS = 128, 1000, 9
LOSS = js.loss.Match(js.noise.VE(), predicts="x0", weight=js.loss.EDMWeight(1.0), times=js.loss.LogNormalTimes())
ADAM = optax.adam(1e-3)


def network(params, x, c):
    """A residual network without convolutions."""
    for w in params:
        x = x + jnp.tanh(x @ w + c)
    return x


def build(params):
    """The network as a denoiser."""
    return js.denoise.EDM(jax.tree_util.Partial(network, params), 1.0)


@jax.jit
def hand_step(key, step, params, state, data):
    """The step that a user would write."""
    k_batch, k_loss = jax.random.split(jax.random.fold_in(key, step))
    batch = data[jax.random.randint(k_batch, (BATCH,), 0, data.shape[0])]
    (value, _), slope = jax.value_and_grad(lambda p: LOSS(k_loss, build(p), batch), has_aux=True)(params)
    updates, state = ADAM.update(slope, state, params)
    return optax.apply_updates(params, updates), state, value


def by_hand(key, params, data):
    """Processor seconds for a step of the hand-written loop."""
    state, values = ADAM.init(params), []
    start = time.process_time()
    for step in range(STEPS):
        params, state, value = hand_step(key, step, params, state, data)
        values.append(value)
    jax.block_until_ready((params, values))
    return (time.process_time() - start) / STEPS


def by_minimise(key, params, data):
    """Processor seconds for a step of minimise, all of its host work included."""
    start = time.process_time()
    found = js.fit.minimise(key, LOSS, build(params), data, optimiser=ADAM, steps=STEPS, batch=BATCH)
    jax.block_until_ready((found.x, found.info.loss))
    return (time.process_time() - start) / STEPS


def compare(width, depth):
    """Print milliseconds for a step of both, and their ratio."""
    key = jax.random.key(0)
    data = jax.random.normal(key, (4096, width))
    params = [0.1 * jax.random.normal(jax.random.fold_in(key, i), (width, width)) for i in range(depth)]
    by_hand(key, params, data), by_minimise(key, params, data)
    rounds = [(by_hand(key, params, data), by_minimise(key, params, data)) for _ in range(ROUNDS)]
    hand, ours = np.median(rounds, axis=0)
    ratio = ours / hand
    print(
        f"{width:5} x {depth}   hand {1e3 * hand:7.3f} ms   minimise {1e3 * ours:7.3f} ms   ratio {ratio:.3f}",
        flush=True,
    )


def stream(megabytes):
    """Print how much the resident memory grows while a memory map is trained on."""
    width = 256
    rows = megabytes * 2**20 // (4 * width)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.npy"
        data = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
        for i in range(0, rows, 65536):
            data[i : i + 65536] = np.random.default_rng(i).normal(size=(min(65536, rows - i), width))
        data.flush()
        del data
        data = np.lib.format.open_memmap(path, "r")
        params = [0.01 * jax.random.normal(jax.random.key(0), (width, width))]
        key = jax.random.key(1)
        js.fit.minimise(key, LOSS, build(params), data, optimiser=ADAM, steps=5, batch=BATCH)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        js.fit.minimise(key, LOSS, build(params), data, optimiser=ADAM, steps=STEPS, batch=BATCH)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    # Pages of the map that were read count as resident until the system wants them back.
    print(f"streamed {megabytes} MB of rows: the peak of resident memory grew by {grown:.0f} MB in {STEPS} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2048)
    options = parser.parse_args()
    print(machine.describe())
    for width, depth in ((64, 2), (256, 4), (512, 6)):
        compare(width, depth)
    stream(options.megabytes)


if __name__ == "__main__":
    main()
