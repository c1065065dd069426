"""Sample, score rows and draw a subset over all devices of all processes: the code of a pod, on one machine.

    python examples/scale_out.py --devices 8
    python examples/scale_out.py --processes 2 --devices 4

Both print the same numbers: sample i is a function of i, and the scores of rows need one sum over the devices for each
reading of the rows. On a pod, call `jax.distributed.initialize()` on every host, then `work`: nothing else changes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

import jsamp as js

AXIS = "all"
SCHEDULE = js.noise.VP()
BLOCK = 1024  # rows and samples are numbered, and made in blocks of this many, wherever they lie


def network(width: int) -> js.Denoiser:
    """A fixed random network with three layers that predicts x0 [64] from x [64]."""
    keys = jax.random.split(jax.random.key(7), 3)
    shapes = ((64, width), (width, width), (width, 64))
    weights = [jax.random.normal(k, s) / np.sqrt(s[0]) for k, s in zip(keys, shapes, strict=True)]

    def model(weights, x, t):
        hidden = jnp.tanh(x @ weights[0]) * (1 + t)
        return jnp.tanh(hidden @ weights[1]) @ weights[2]

    return js.Denoiser(jax.tree_util.Partial(model, weights), SCHEDULE, predicts="x0")


def over(mesh, fun, inputs, outputs):
    """Run a function on what each device holds; P() is everywhere the same."""
    return jax.jit(jax.shard_map(fun, mesh=mesh, in_specs=inputs, out_specs=outputs))


def timed(run, *arguments):
    """What a compiled function returns, and the least of five runs: seconds, and processor seconds of all processes."""
    result, spent = jax.block_until_ready(run(*arguments)), []
    for _ in range(5):
        start = time.perf_counter(), time.process_time()
        jax.block_until_ready(run(*arguments))
        spent.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, busy = np.min(spent, axis=0)
    return result, (float(wall), float(np.sum(multihost_utils.process_allgather(busy))))


def sample(mesh, numbers, width):
    """Draw sample i for each i in numbers [n]; return [n, 64], spread like the numbers."""
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 10), order=2)

    def some(denoiser, plan, numbers):
        def one(number):
            k0, k1 = jax.random.split(jax.random.fold_in(jax.random.key(0), number))
            return js.sample(k1, denoiser, SCHEDULE.prior(k0, (64,)), plan).x

        # In groups of fixed size, so that the number of devices changes no bit of a sample.
        return jax.lax.map(jax.vmap(one), numbers.reshape(-1, 64)).reshape(-1, 64)

    return timed(over(mesh, some, (jax.P(), jax.P(), jax.P(AXIS)), jax.P(AXIS)), network(width), plan, numbers)


def rows_of(mesh, n, d):
    """Rows [n, d] with a few that matter; each process makes those that its devices hold."""

    def make(place):
        first = place[0].start or 0
        blocks = range(first // BLOCK, (place[0].stop or n) // BLOCK)
        made = [np.random.default_rng(b).standard_t(2.5, (BLOCK, d)).astype(np.float32) for b in blocks]
        return np.concatenate(made)

    return jax.make_array_from_callback((n, d), jax.NamedSharding(mesh, jax.P(AXIS)), make)


def select(mesh, rows):
    """Score rows by leverage, and estimate from a subset how many there are: the scores' sum, and the estimate."""

    def scored(rows):
        scores = js.select.leverage(rows, axis_name=AXIS)
        subset = js.select.draw(jax.random.key(1), scores, 1000, axis_name=AXIS)  # each device keeps its own rows
        inside = jnp.sum(subset.weight * subset.mask)
        return jax.lax.psum(jnp.stack([jnp.sum(scores), inside]), AXIS)

    return timed(over(mesh, scored, jax.P(AXIS), jax.P()), rows)


def work(args) -> dict:
    """Do all of it on a mesh of every device, and report the same numbers on every process."""
    mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(mesh, jax.P(AXIS))
    count = lambda place: np.arange(place[0].start or 0, place[0].stop or args.samples)
    numbers = jax.make_array_from_callback((args.samples,), spread, count)
    x, sampling = sample(mesh, numbers, args.width)
    moments = lambda x: jax.lax.psum(jnp.stack([jnp.sum(x), jnp.sum(x**2)]), AXIS) / (64 * args.samples)
    mean, square = np.asarray(over(mesh, moments, jax.P(AXIS), jax.P())(x))
    (total, estimate), scoring = select(mesh, rows_of(mesh, args.rows, args.columns))
    return {
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "mean": float(mean),
        "square": float(square),
        "sum of scores": float(total),
        "rows, estimated": float(estimate),
        "seconds sampling": sampling[0],
        "seconds scoring": scoring[0],
        "processor seconds sampling": sampling[1],
        "processor seconds scoring": scoring[1],
    }


def launch(args) -> None:
    """Start the processes of one machine, as a cluster would start one on each host; show what the first one says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--address", address]
    started = []
    for i in range(args.processes):
        out = None if i == 0 else subprocess.DEVNULL
        started.append(subprocess.Popen([*command, "--process", str(i)], stdout=out))
    try:
        ends = [process.wait(args.timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    if any(ends):
        raise SystemExit(f"a process failed: exit codes {ends}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8, help="CPU devices of each process")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--samples", type=int, default=8 * BLOCK, help=f"a multiple of {BLOCK} times the devices")
    parser.add_argument("--width", type=int, default=256, help="of the network")
    parser.add_argument("--rows", type=int, default=64 * BLOCK, help=f"a multiple of {BLOCK} times the devices")
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--timeout", type=int, default=600)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    args = parser.parse_args()
    total = args.devices * args.processes
    if args.samples % (BLOCK * total) or args.rows % (BLOCK * total):
        parser.error(f"--samples and --rows must be multiples of {BLOCK} times the {total} devices.")
    if args.processes > 1 and args.process is None:
        return launch(args)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", args.devices)
    if args.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(args.address, args.processes, args.process)
    print(json.dumps(work(args)), flush=True)


if __name__ == "__main__":
    main()
