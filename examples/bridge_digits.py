"""Carry a 3 to an 8: a stochastic interpolant between two classes of digits, run as an ODE and as SDEs.

    python examples/bridge_digits.py --steps 1000 --out bridge.png

x_t = (1 - t) x3 + t x8 + gamma(t) z joins the two classes. Two networks learn its velocity b = E[dx/dt | x] and its
noise E[z | x], from pairs of training digits that are coupled at random. The ODE dx = b dt and the SDE dx = (b + eps s)
dt + sqrt(2 eps) dW, s = -E[z | x] / gamma, have one law at every time; how much noise is chosen when sampling. Starts
are held-out threes. Printed: how many ends a nearest-neighbour classifier reads as 8, how far the ends are from where
they started and from real eights, and how much two runs from one start differ. Needs scikit-learn and optax too.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import png
import small_digits as small

import jsamp as js

PATH = js.noise.Interpolant("linear")
FROM, TO = 3, 8


def network(params, x, t):
    """A field of rows x [..., 64] at times t: the residual network of the small digits."""
    return small.network(params, x, jnp.asarray(t), small.NULL)


def train(key, field, pairs, steps):
    """The averaged network of one field, "b" or "eta"."""
    loss = js.loss.Interpolate(PATH, field=field, times=js.loss.UniformTimes(0.01, 0.99), batched=True)
    optimiser = optax.adam(optax.warmup_cosine_decay_schedule(0, 2e-3, min(100, steps // 4), steps))
    model = jax.tree_util.Partial(network, small.init(key))
    fitted = js.fit.minimise(key, loss, model, pairs, optimiser=optimiser, steps=steps, batch=128, ema=0.99)
    return fitted.info.average


def noise_to_score(noise, x, t):
    """The score -E[z | x] / gamma."""
    return -noise(x, t) / jnp.maximum(PATH.gamma(t), 1e-3)


def plans(num: int) -> dict[str, js.Plan]:
    """The ODE, and SDEs whose noise falls to zero at both ends, where the score cannot be asked."""
    grid = np.linspace(0, 1, num + 1)
    sde = lambda size: js.solve.interpolant_sde(PATH, grid, eps=lambda t: size * t * (1 - t))
    return {"ODE": js.solve.interpolant_ode(PATH, grid), "SDE, eps = t (1 - t)": sde(1.0), "SDE, 4 t (1 - t)": sde(4.0)}


@jax.jit
def run(key, bridge, x, plan):
    """Ends of starts [n, 64]."""
    return js.sample(key, bridge, x, plan).x


def nearest(x, others):
    """Root mean square distance of each row to the nearest of the others."""
    gaps = np.sqrt(np.mean((np.asarray(x)[:, None] - np.asarray(others)[None]) ** 2, axis=-1))
    return gaps.min(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each network")
    parser.add_argument("--num", type=int, default=60, help="steps of the solvers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bridge.png"))
    options = parser.parse_args()
    from sklearn.neighbors import KNeighborsClassifier

    x, y, held_x, held_y = (np.asarray(part) for part in small.load())
    rng, begin = np.random.default_rng(options.seed), time.perf_counter()
    couple = lambda digit: x[y == digit][rng.integers(0, (y == digit).sum(), 20_000)]
    pairs = couple(FROM), couple(TO)
    keys = jax.random.split(jax.random.key(options.seed), 4)
    velocity, noise = (train(key, field, pairs, options.steps) for key, field in zip(keys, ("b", "eta"), strict=False))
    bridge = js.denoise.Bridge(PATH, velocity, jax.tree_util.Partial(noise_to_score, noise))
    print(f"{2 * options.steps} training steps in {time.perf_counter() - begin:.0f} s")

    reader, starts, eights = KNeighborsClassifier(5).fit(x, y), held_x[held_y == FROM], held_x[held_y == TO]
    between = nearest(eights, x[y == TO]).mean()
    right = np.mean(reader.predict(eights) == TO)
    print(f"{len(starts)} held-out threes; {right:.0%} of held-out eights are read as 8")
    print("plan                   evaluations   read as 8   moved   to a real 8   two runs differ")
    rows, labels = [starts], ["held-out threes"]
    for name, plan in plans(options.num).items():
        ends = [np.asarray(run(key, bridge, starts, plan)) for key in keys[2:]]
        read = np.mean(reader.predict(ends[0]) == TO)
        moved, apart = (np.sqrt(np.mean((ends[0] - other) ** 2)) for other in (starts, ends[1]))
        close = nearest(ends[0], x[y == TO]).mean()
        print(f"{name:22} {plan.nfe:11}   {read:9.0%}   {moved:5.2f}   {close:11.2f}   {apart:15.2f}")
        rows += ends[:1] if apart == 0 else ends
        labels += [name] if apart == 0 else [name, "the same, other noise"]
    print(f"(held-out eights are {between:.2f} from the nearest training eight)")
    pictures = [np.asarray(row)[:12].reshape(-1, 8, 8).repeat(3, 1).repeat(3, 2) for row in rows]
    png.page(options.out, pictures, labels, f"From {FROM} to {TO}: one bridge, three plans")


if __name__ == "__main__":
    main()
