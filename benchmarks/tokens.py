"""What decoding tokens costs: calls, seconds and NELBO of first-hitting and ancestral decoding, one draw, memory.

    python benchmarks/tokens.py

(1) First-hitting against ancestral decoding on one network, batch 16: calls, seconds, and the NELBO of the texts. The
ancestral decoder leaves out calls in which no text changes, which is what caching saves. (2) One draw from V = 32,768
logits beside `jax.random.categorical`, in turns. (3) Memory of the compiled decoder beside that of its network.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
import machine
import text_net as net
from text_decoding import bits

import jsamp as js

RESULTS = pathlib.Path(__file__).parent / "results" / "tokens.md"
BATCH, LENGTH, STEPS = 16, 256, 1024


def network(params, x, t):
    """The shipped network of 128 characters, read on both halves of a text of 256."""
    halves = x.reshape(-1, net.LENGTH)
    return jax.vmap(lambda half: net.masked(params, half, t))(halves).reshape(x.shape[0], -1)


def decoders(repeats: int, length: int, steps: int) -> list[str]:
    """Calls, seconds and likelihood of both decoders, run in turns."""
    params = net.load("masked").args[0]
    model = jax.tree_util.Partial(network if length > net.LENGTH else net.masked, params)
    process, x = js.tokens.Masked(net.MASK), jnp.full((BATCH, length), net.MASK, jnp.int32)
    grid = np.linspace(1, 0, steps + 1)
    tables = {
        "first-hitting": lambda key: js.tokens.first_hitting(key, process, x),
        f"ancestral, {steps} steps": lambda key: js.tokens.ancestral(process, grid),
        f"ancestral, {length} steps": lambda key: js.tokens.ancestral(process, np.linspace(1, 0, length + 1)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tables}
    results = {}
    for turn in range(repeats + 1):
        for name, make in tables.items():
            k0, k1 = jax.random.split(jax.random.key(turn))
            start = time.perf_counter()
            results[name] = jax.block_until_ready(js.tokens.decode(k1, model, x, make(k0)))
            if turn:  # the first one compiles
                seconds[name].append(time.perf_counter() - start)
    base = min(seconds["first-hitting"])
    lines = [f"## {BATCH} texts of {length} characters, V = {net.VOCABULARY}", ""]
    lines += ["| decoder | calls | seconds | ratio | NELBO, bits a character |", "|---" * 5 + "|"]
    for name, result in results.items():
        spent, bound = min(seconds[name]), bits(model, result.x, 32)
        lines.append(f"| {name} | {int(result.info.calls)} | {spent:.2f} | {spent / base:.2f} | {bound:.3f} |")
    expected = steps * (1 - (1 - 1 / steps) ** (BATCH * length))
    return [*lines, "", f"Ancestral calls by the formula N (1 - (1 - 1/N)^(B L)): {expected:.1f} of {steps}."]


def draws(repeats: int) -> list[str]:
    """One draw from 32,768 logits."""
    logits = jax.random.normal(jax.random.key(0), (32_768,))
    many = {}
    for name, draw in (("jax.random.categorical", jax.random.categorical), ("jsamp", js.select.draw_categorical)):
        body = lambda total, key, draw=draw: (total + draw(key, logits), None)
        many[name] = jax.jit(lambda keys, body=body: jax.lax.scan(body, jnp.int32(0), keys)[0])
    keys, best = jax.random.split(jax.random.key(1), 100), dict.fromkeys(many, np.inf)
    for turn in range(repeats + 1):
        for name, run in many.items():
            start = time.perf_counter()
            run(keys).block_until_ready()
            if turn:
                best[name] = min(best[name], (time.perf_counter() - start) / 100)
    base = best["jax.random.categorical"]
    rows = [f"| {name} | {1e6 * spent:.1f} | {spent / base:.3f} |" for name, spent in best.items()]
    return ["## One draw from 32,768 logits", "", "| draw | microseconds | ratio |", "|---" * 3 + "|", *rows]


def memory() -> list[str]:
    """Temporary memory of the compiled decoder, beside that of one network call on the batch."""
    vocabulary, width, length = 50_257, 32, 64
    params = {"in": jnp.ones((vocabulary + 1, width), jnp.float32), "out": jnp.ones((width, vocabulary), jnp.float32)}
    model = jax.tree_util.Partial(lambda params, x, t: params["in"][x] @ params["out"], params)
    process, x = js.tokens.Masked(vocabulary), jnp.full((BATCH, length), vocabulary, jnp.int32)
    table = js.tokens.first_hitting(jax.random.key(0), process, x)
    alone = jax.jit(lambda model, x: jax.vmap(model, (0, None))(x, 0.5))
    whole = jax.jit(lambda key, model, x, table: js.tokens.decode(key, model, x, table).x)
    sizes, row = [], BATCH * vocabulary * 4
    for compiled in (alone.lower(model, x).compile(), whole.lower(jax.random.key(0), model, x, table).compile()):
        used = compiled.memory_analysis()
        sizes.append((used.temp_size_in_bytes + used.output_size_in_bytes) / row)
    return [
        f"## Memory beside the arguments, B = {BATCH}, L = {length}, V = {vocabulary}, in units of B V float32",
        "",
        "| logits of one network call | decode | difference |",
        "|---" * 3 + "|",
        f"| {sizes[0]:.2f} | {sizes[1]:.2f} | {sizes[1] - sizes[0]:.2f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    parts = [draws(options.repeats), memory(), decoders(options.repeats, options.length, options.steps)]
    told = f"{machine.describe()}; the least of {options.repeats} runs in turns; load {load:.1f} at the start, "
    told += f"{os.getloadavg()[0]:.1f} at the end."
    text = "\n".join(["# Decoding of tokens", "", told, *(line for part in parts for line in ("", *part))])
    print(text)
    options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
