"""Texts of a masked character model: first-hitting against ancestral decoding, and in-filling.

    python examples/text_decoding.py --num 8

Every decoder draws texts of the same network. First-hitting calls it once for each character, whatever the batch; an
ancestral decoder of N steps calls it in each step in which some text changes. The table shows what that costs, and
what it gives: entropy of the characters, and the NELBO of the texts under the model (bits per character).
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import text_net as net

import jsamp as js

PROCESS = js.tokens.Masked(net.MASK)


def tables(key, x, quick: bool):
    """Decoders by name."""
    length, steps = x.shape[1], (32,) if quick else (32, 128, 1024)
    quarter = tuple([1] * 8 + [4] * ((length - 8) // 4))
    yield "first-hitting", js.tokens.first_hitting(key, PROCESS, x)
    yield f"groups, {len(quarter)} calls", js.tokens.first_hitting(key, PROCESS, x, groups=quarter)
    yield f"groups, order 2, {len(quarter)} calls", js.tokens.first_hitting(key, PROCESS, x, groups=quarter, order=2)
    for n in steps:
        yield f"ancestral, {n} steps", js.tokens.ancestral(PROCESS, np.linspace(1, 0, n + 1))
    remask = js.tokens.Rescale(0.05)
    yield f"remasking, {steps[-1]} steps", js.tokens.ancestral(PROCESS, np.linspace(1, 0, steps[-1] + 1), remask=remask)
    yield "by confidence, 32 steps", js.tokens.confidence(PROCESS, 32, temperature=1.0)


def entropy(texts) -> float:
    """Entropy of the characters within each text, in bits, on average."""
    counts = np.stack([np.bincount(text, minlength=net.VOCABULARY) for text in np.asarray(texts)])
    p = counts / counts.sum(1, keepdims=True)
    return float(-np.where(p > 0, p * np.log2(np.where(p > 0, p, 1)), 0).sum(1).mean())


def bits(model, texts, num: int) -> float:
    """NELBO of texts, in bits per character."""
    bound = jax.jit(jax.vmap(lambda key, x: js.tokens.nelbo(key, model, x, PROCESS, num=num).value))
    values = bound(jax.random.split(jax.random.key(5), len(texts)), texts)
    return float(jnp.mean(values)) / texts.shape[1] / float(np.log(2))


def infill(model) -> str:
    """A sentence with a hole, filled in three ways: what stands stays."""
    before, after = "The value of the ", " is returned if the object has no such attribute."
    x = jnp.asarray(np.concatenate([net.encode(before), np.full(14, net.MASK), net.encode(after)]), jnp.int32)
    lines = [net.decode(x)]
    for seed in range(3):
        k0, k1 = jax.random.split(jax.random.key(seed))
        result = js.tokens.decode(k1, model, x, js.tokens.first_hitting(k0, PROCESS, x))
        lines.append(f"{net.decode(result.x)}   ({int(result.info.calls)} calls)")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=8, help="texts")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args()
    model = net.load("masked")
    x = jnp.full((options.num, net.LENGTH), net.MASK, jnp.int32)
    print(f"{'decoder':34} calls seconds  entropy  bits per character")
    first = None
    for name, table in tables(jax.random.key(0), x, options.quick):
        run = lambda key, t=table: jax.block_until_ready(js.tokens.decode(key, model, x, t))
        run(jax.random.key(1))
        start = time.perf_counter()
        result = run(jax.random.key(2))
        seconds = time.perf_counter() - start
        first = result.x if first is None else first
        bound = bits(model, result.x, 16 if options.quick else 64)
        print(f"{name:34} {int(result.info.calls):5} {seconds:7.2f} {entropy(result.x):8.2f} {bound:8.2f}", flush=True)
    print(f"\nOne text, by first-hitting:\n{net.decode(first[0])}\n\nA hole of 14 characters:\n{infill(model)}")


if __name__ == "__main__":
    main()
