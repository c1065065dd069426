"""What guidance costs: one network call for classifier-free guidance, evaluations saved, memory of a gradient.

The network is a labelled patch mixer on a state of 32 x 32 x 32 x 3. Timings are taken in turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np
from against_scan import RESULTS, hand_tables, interleave, load_line, make_mixer, markdown, mixer, ratios

import jsamp as js
from jsamp.solve import optimise_start

SHAPE = (32, 32, 32, 3)
STEPS = 20
SCHEDULE = js.noise.VP()


def labelled(weights, label, x, t):
    """The mixer, with a label added to its tokens."""
    return mixer({**weights, "place": weights["place"] + weights["labels"][label]}, x, t)


def make_labelled() -> dict[str, Any]:
    weights = dict(make_mixer().args[0])
    width = weights["place"].shape[1]
    return {**weights, "labels": 0.1 * jax.random.normal(jax.random.key(2), (11, width))}


def of_label(weights, label):
    return js.Denoiser(jax.tree_util.Partial(labelled, weights, np.int32(label)), SCHEDULE)


def contrast(weights, x, plan, repeats: int) -> list[list[str]]:
    """Guided js.sample beside a hand-written scan that stacks both labels into one call, and beside one label."""
    table, labels = hand_tables(plan), jnp.array([3, 10])

    @jax.jit
    def hand(weights, x):
        def body(carry, row):
            x, before = carry
            cond, uncond = jax.vmap(lambda k: labelled(weights, k, x, row["t"]))(labels)
            eps = uncond + 3.0 * (cond - uncond)
            x0 = (x - row["sigma"] * eps) / row["alpha"]
            return (row["a"] * x + row["w"][0] * x0 + row["w"][1] * before, x0), None

        return jax.lax.scan(body, (x, jnp.zeros_like(x)), table)[0][0]

    guided = js.denoise.ClassifierFree(of_label(weights, 3), of_label(weights, 10), 3.0)
    plain = of_label(weights, 3)
    run, held = jax.jit(lambda d, x, p: js.sample(None, d, x, p).x), jax.tree.map(jnp.asarray, plan)
    calls = {
        "jsamp": lambda: run(guided, x, held),
        "hand": lambda: hand(weights, x),
        "plain": lambda: run(plain, x, held),
    }
    gap = float(jnp.max(jnp.abs(calls["jsamp"]() - calls["hand"]())))
    if not gap < 1e-2 * float(jnp.max(jnp.abs(calls["hand"]()))):
        raise AssertionError(f"the two programs disagree by {gap:.1e}.")
    times = interleave(calls, repeats)
    rows = []
    for name, base, limit in (("jsamp", "hand", "1.05"), ("jsamp", "plain", "-")):
        fastest, median = ratios(times, name, base)
        milli = [f"{1e3 * min(times[k]) / STEPS:.2f}" for k in (name, base)]
        label = {"hand": "a batched call, hand-written", "plain": "one label, half the work"}[base]
        rows.append([label, *milli, f"{fastest:.3f}", f"{median:.3f}", limit])
    return rows


@dataclasses.dataclass
class Count:
    """Evaluations that really ran, counted on the host."""

    calls: int = 0

    def add(self, x):
        """One more."""
        self.calls += 1
        return x


def evaluations(x, batch: bool) -> list[str]:
    """Evaluations of each network in a run whose guidance covers 8 of 20 rows."""
    counts = Count(), Count()

    def counted(count, gain):
        def model(x, t):
            like = jax.ShapeDtypeStruct(x.shape, x.dtype)
            return gain * jax.pure_callback(count.add, like, x, vmap_method="expand_dims")

        return js.Denoiser(model, SCHEDULE)

    cond, uncond = counted(counts[0], 0.5), counted(counts[1], 0.4)
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, STEPS))
    guided = js.denoise.Interval.of_steps(js.denoise.ClassifierFree(cond, uncond, 3.0), cond, plan, 6, 14)
    draw = lambda x: js.sample(None, guided, x, plan).x
    jax.block_until_ready(jax.jit(jax.vmap(draw) if batch else draw)(x))
    jax.effects_barrier()
    return ["vmap over samples" if batch else "one sample", "20", "8", str(counts[0].calls), str(counts[1].calls)]


def ditto(weights, x) -> list[list[str]]:
    """Temporary memory of one gradient of a loss of the sample in its start, with and without checkpoints."""

    class Sgd:
        """Gradient descent in optax's form."""

        def init(self, params):
            return ()

        def update(self, slope, state, params=None):
            return jax.tree.map(lambda g: -0.1 * g, slope), state

    plan = js.solve.ddim(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, STEPS))
    denoiser, rows = of_label(weights, 3), []
    loss = lambda x0: jnp.mean(x0**2)

    def bytes_of(remat):
        run = jax.jit(lambda d, x: optimise_start(d, x, plan, loss, Sgd(), steps=1, remat=remat).x)
        return run.lower(denoiser, x).compile().memory_analysis().temp_size_in_bytes

    stored, recomputed = bytes_of(False), bytes_of(True)
    rows.append([f"{stored / 2**20:.0f}", f"{recomputed / 2**20:.0f}", f"{recomputed / stored:.3f}", "0.25"])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="rounds of each timed pair")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "guidance.md")
    args = parser.parse_args()
    x, weights = jax.random.normal(jax.random.key(1), SHAPE), make_labelled()
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, STEPS))
    text = "\n".join(
        [
            f"# Guidance\n\n{machine.describe()}. State {SHAPE} float32, {STEPS} steps.\n{load_line()}\n"
            f"`python benchmarks/guidance.py`\n",
            markdown(
                "Classifier-free guidance on one network, milliseconds a step",
                ["beside", "jsamp", "other", "ratio of fastest", "median ratio", "target"],
                contrast(weights, x, plan, args.repeats),
            ),
            markdown(
                "Evaluations that ran, guidance on in 8 of 20 rows",
                ["run", "wanted conditional", "wanted unconditional", "conditional", "unconditional"],
                [evaluations(x[0], False), evaluations(x, True)],
            ),
            markdown(
                "Gradient of a loss of the sample in its start, 20 rows: temporary memory in MiB",
                ["every row stored", "checkpoint per row", "ratio", "target"],
                ditto(weights, x),
            ),
        ]
    )
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
