"""Gradients of convolutions inside `lax.scan` on CPU: why the shipped model has none, and what to avoid.

A training loop written as one scan over steps is compared with a jitted step called from Python, for a small
convolutional network and for a network of matrix products of like cost. A sampler only scans forward, so the forward
pass is timed too. Times are milliseconds a step, the two programs measured in turns.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib

import jax
import jax.numpy as jnp
import machine
import numpy as np
from against_scan import RESULTS, interleave, load_line, markdown, ratios

import jsamp as js

STEPS = 4


def conv_model(weights, x, t):
    h = x
    for k, kernel in enumerate(weights):
        h = jax.lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        h = jax.nn.silu(h) if k < len(weights) - 1 else h
    return h


def dense_model(weights, x, t):
    h = x.reshape(x.shape[0], -1)
    for k, matrix in enumerate(weights):
        h = h @ matrix
        h = jax.nn.silu(h) if k < len(weights) - 1 else h
    return h.reshape(x.shape)


def models():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)

    widths = (1, 32, 64, 64, 32, 1)
    kernels = [draw(3, 3, a, b) for a, b in itertools.pairwise(widths)]
    matrices = [draw(a, b) for a, b in ((64, 512), (512, 512), (512, 64))]
    return {"convolutions": (conv_model, kernels), "matrix products": (dense_model, matrices)}


def programs(model, weights, x):
    """The same work as a scan and as single jitted calls: training steps, and sampling steps."""
    noise = jax.random.normal(jax.random.key(1), x.shape)

    def update(weights, _):
        loss = lambda w: jnp.mean((model(w, x + noise, 0.5) - noise) ** 2)
        return jax.tree.map(lambda w, g: w - 1e-3 * g, weights, jax.grad(loss)(weights)), None

    train_step = jax.jit(lambda w: update(w, None)[0])
    train_scan = jax.jit(lambda w: jax.lax.scan(update, w, None, length=STEPS)[0])
    schedule = js.noise.VP()
    grid = js.noise.time_grid(schedule, STEPS)
    plan = js.solve.ddim(schedule, grid)
    denoiser = js.Denoiser(jax.tree_util.Partial(model, weights), schedule, predicts="eps")
    row_step = jax.jit(lambda d, s, row: js.solve.step(None, d, s, row))
    rows = [jax.tree.map(lambda a, i=i: a[i], plan) for i in range(STEPS)]

    def train_calls():
        w = weights
        for _ in range(STEPS):
            w = train_step(w)
        return w

    def sample_calls():
        state = js.solve.init(plan, x)
        for row in rows:
            state = row_step(denoiser, state, row)
        return state.x

    return {
        "training step": {"scan": lambda: train_scan(weights), "calls": train_calls},
        "sampling step": {"scan": lambda: js.sample(None, denoiser, x, plan).x, "calls": sample_calls},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "scan_conv_grad.md")
    args = parser.parse_args()
    x = jax.random.normal(jax.random.key(0), (128, 8, 8, 1))
    rows = []
    for label, (model, weights) in models().items():
        for what, pair in programs(model, weights, x).items():
            times = interleave(pair, args.repeats)
            milli = [f"{1e3 * min(times[k]) / STEPS:.2f}" for k in ("scan", "calls")]
            rows.append([label, what, *milli, *(f"{r:.2f}" for r in ratios(times, "scan", "calls"))])
            print(*rows[-1], flush=True)
    head = ["network", "work", "inside lax.scan", "one jitted call each", "ratio of fastest", "median ratio"]
    text = (
        f"# Gradients inside lax.scan\n\n{machine.describe()}, batch 128 of 8 x 8 images. {load_line()}\n"
        f"`python benchmarks/scan_conv_grad.py`\n\n" + markdown("Milliseconds a step", head, rows)
    )
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
