"""Train the two character models of `text_net.py` on Python's own documentation: minutes on two cores.

    python examples/train_text.py --out examples/models

The masked model learns the NELBO of masked diffusion: n of L characters masked, n uniform on 1..L (stratified over the
batch), mean surprise of those. The recurrent one learns to predict the next character.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import text_net as net

import jsamp as js


def masked_loss(key, model, rows):
    """NELBO per character in nats, on a batch [B, L]."""
    batch, length = rows.shape
    k0, k1 = jax.random.split(key)
    counts = jnp.ceil((jnp.arange(batch) + jax.random.uniform(k0, (batch,), minval=1e-3)) / batch * length)
    clock = jax.random.uniform(k1, (batch, length))
    limit = jnp.take_along_axis(jnp.sort(clock, 1), counts[:, None].astype(int) - 1, 1)
    hidden = clock <= limit
    logits = jax.vmap(model, in_axes=(0, None))(jnp.where(hidden, net.MASK, rows), 0.0)
    surprise = optax.softmax_cross_entropy_with_integer_labels(logits, rows)
    return jnp.mean(jnp.sum(jnp.where(hidden, surprise, 0), 1) / counts), None


def recurrent_loss(key, model, rows):
    """Surprise per character in nats, on a batch [B, L]."""

    def one(row):
        logits = jax.lax.scan(model, net.empty_carry(), row[:-1])[1]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits[16:], row[17:]))

    return jnp.mean(jax.vmap(one)(rows)), None


def windows(tokens: np.ndarray, stride: int) -> np.ndarray:
    """All windows of 128 characters, `stride` apart."""
    return np.lib.stride_tricks.sliding_window_view(tokens, net.LENGTH)[::stride].copy()


TASKS = {
    "masked": (net.masked, net.init_masked, masked_loss, 4e-3, 32, 450),
    "recurrent": (net.recurrent, net.init_recurrent, recurrent_loss, 6e-3, 64, 500),
}


def train(kind: str, steps: int | None, out: pathlib.Path, seed: int) -> None:
    """Train one model, say how it does on the test part, and write it."""
    forward, init, loss, rate, batch, usual = TASKS[kind]
    steps = usual if steps is None else steps
    train_part, test_part = net.split(net.corpus())
    model = jax.tree_util.Partial(forward, init(jax.random.key(seed)))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(100, steps), max(steps, 101), rate / 50)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.02))
    count, start = sum(leaf.size for leaf in jax.tree.leaves(model)), time.perf_counter()
    print(f"{kind}: {count:,} parameters, {len(train_part):,} characters of text {net.fingerprint(net.corpus())}")
    data, state, key = windows(train_part, 16), None, jax.random.key(seed + 1)
    for done in [*range(100, steps, 100), steps]:
        result = js.fit.minimise(
            key, loss, model, data, optimiser=optimiser, steps=done, batch=batch, ema=0.99, state=state
        )
        info, state = result.info, result.info.state
        print(f"step {done}: loss {info.loss.mean():.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    test = jax.jit(loss)(jax.random.key(7), info.average, jnp.asarray(windows(test_part, 64)))[0]
    print(f"{kind}: test {float(test):.3f} nats, {float(test) / np.log(2):.3f} bits per character")
    net.save(kind, info.average.args[0], out / f"text_{kind}.npz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="instead of 450 and 500")
    parser.add_argument("--kind", choices=sorted(TASKS), nargs="+", default=sorted(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=net.MODELS)
    options = parser.parse_args()
    for kind in options.kind:
        train(kind, options.steps, options.out, options.seed)


if __name__ == "__main__":
    main()
