"""Find the second explanation: two digits on a domino, and labels that both of them explain.

    python examples/dominoes.py --out dominoes.png

Every labelled domino pairs a 0 above with a 3 below, or a 1 with an 8; the label could mean either half. Two linear
classifiers are to find both explanations with the help of unlabelled dominoes, on a share r of which the halves still
agree: DivDis (independent predictions) and D-BAT (disagreeing predictions, one classifier after the other). The table
says how often each explanation is right about its own half, on dominoes whose halves are independent: 0.5 is chance.
Which of the two methods works depends on r. A few seconds on two cores.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import png
import small_digits as small

import jsamp as js

SHARES = (0.0, 0.25, 0.5, 0.75)
UPPER, LOWER = (0, 1), (3, 8)


def dominoes(rng, x, y, share, num):
    """Rows [num, 128], and the class [num] of each half; the halves agree on this share."""
    above = np.arange(num) % 2
    below = np.where(rng.permutation(num) < share * num, above, 1 - above)
    pick = lambda digits, kind: np.array([rng.choice(np.flatnonzero(y == digits[k])) for k in kind])
    rows = np.concatenate([x[pick(UPPER, above)], x[pick(LOWER, below)]], axis=1)
    return jnp.asarray(rows), jnp.asarray(above, jnp.int32), jnp.asarray(below, jnp.int32)


def linear(weight, x):
    """Logits of one linear classifier [128], or of several [k, 128]."""
    score = jnp.sum(weight * jnp.broadcast_to(x, weight.shape), axis=-1) / 8
    return jnp.stack([-score, score], axis=-1)


def train(key, loss, model, data, steps):
    return js.fit.minimise(key, loss, model, lambda step: data, optimiser=optax.adam(0.02), steps=steps).x


def both_halves(weights, test):
    """Accuracy of the two classifiers on the upper and the lower half, for the better assignment."""
    rows, above, below = test
    hit = lambda w, kind: float(jnp.mean((rows @ w > 0) == (kind > 0)))
    pairs = [(hit(weights[a], above), hit(weights[b], below)) for a, b in ((0, 1), (1, 0))]
    return max(pairs, key=min)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="updates of each classifier")
    parser.add_argument("--num", type=int, default=400, help="dominoes of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("dominoes.png"))
    options = parser.parse_args()
    x, y, held, held_y = (np.asarray(v) for v in small.load())
    rng, key = np.random.default_rng(options.seed), jax.random.key(options.seed)
    source, label, _ = dominoes(rng, x, y, 1.0, options.num)
    test = dominoes(rng, held, held_y, 0.5, options.num)
    start = 0.1 * jax.random.normal(key, (2, 128))
    rows, pictures = [], {"labelled": source}
    print(f"{'agreement':>10s}{'DivDis: upper':>16s}{'lower':>8s}{'D-BAT: upper':>15s}{'lower':>8s}")
    for share in SHARES:
        data = (source, label, dominoes(rng, x, y, share, options.num)[0])
        pictures[f"unlabelled, r = {share}"] = data[2]
        heads = train(key, js.loss.DivDis(), jax.tree_util.Partial(linear, start), data, options.steps).args[0]
        plain = lambda key, model, batch: (
            optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(batch[0]), batch[1]).mean(), None
        )  # fmt: skip
        first = train(key, plain, jax.tree_util.Partial(linear, start[0]), data, options.steps)
        pair = train(key, js.loss.DBAT(), (jax.tree_util.Partial(linear, start[1]), first), data, options.steps)
        found = both_halves(heads, test), both_halves([one.args[0] for one in pair], test)
        print(f"{share:10.2f}{found[0][0]:16.2f}{found[0][1]:8.2f}{found[1][0]:15.2f}{found[1][1]:8.2f}", flush=True)
        rows.append(found)
    tall = lambda images: np.kron(np.asarray(images[:12]).reshape(-1, 16, 8), np.ones((3, 3)))
    worst = [f"{min(a):.2f}, {min(b):.2f}" for a, b in rows]
    names = ["labelled", *(f"r = {r}: DivDis, D-BAT {w}" for r, w in zip(SHARES, worst, strict=True))]
    png.page(options.out, [tall(v) for v in pictures.values()], names, "Dominoes, and the worse of two classifiers")
    print(options.out)


if __name__ == "__main__":
    main()
