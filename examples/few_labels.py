"""Learn digits from forty labels by FixMatch, with and without harder views of the samples that have become too easy.

    python examples/few_labels.py --out few_labels.png

FixMatch labels a weakly augmented image by its own prediction, when that is sure, and learns the label on a strongly
augmented view. Sample-adaptive augmentation (Gui et al., arXiv:2309.03598) keeps a history of these losses, cuts it in
two by Otsu's threshold, and gives the easy half a harder view: half of one strong view joined to half of another. On
CIFAR-10 with 40 labels the paper raises 92.5 to 94.8 per cent.

What to expect: all seeds run at once, both methods from the same labels and numbers. On these small digits 91.1 per
cent become 91.7, a gain of .6 with an error of .3. A minute and a half on two cores.
"""

from __future__ import annotations

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import small_digits as small

import jsamp as js

LABELLED, BATCH, UNLABELLED, SURE, REFRESH = 4, 16, 112, 0.95, 100


def weak(key, image):
    """The image [8, 8] moved by up to a pixel each way."""
    padded = jnp.pad(image, 1, constant_values=-1.0)
    return jax.lax.dynamic_slice(padded, jax.random.randint(key, (2,), 0, 3), (8, 8))


def strong(key, image):
    """The image moved, sheared, with a hole, of another contrast and with noise."""
    keys, place = jax.random.split(key, 5), jnp.arange(8)
    image = weak(keys[0], image)
    slope = jax.random.randint(keys[1], (), -1, 2)
    columns = place[None] + jnp.round(slope * (place - 3.5) / 3.5).astype(int)[:, None]
    image = jnp.take_along_axis(image, jnp.clip(columns, 0, 7), 1)
    across, down = jax.random.randint(keys[2], (2,), 0, 6)
    hole = ((place >= across) & (place < across + 3))[:, None] & ((place >= down) & (place < down + 3))[None]
    image = (jnp.where(hole, -1.0, image) + 1) * jax.random.uniform(keys[3], minval=0.4, maxval=1.4) - 1
    return image + 0.3 * jax.random.normal(keys[4], image.shape)


def harder(key, image):
    """Half of one strong view joined to half of another."""
    first, second, join = jax.random.split(key, 3)
    return js.select.cutmix_half(join, strong(first, image), strong(second, image))


def views(kind, key, images):
    """One view of each image [n, 64], flat again."""
    made = jax.vmap(kind)(jax.random.split(key, len(images)), images.reshape(-1, 8, 8))
    return made.reshape(images.shape)


def init(key):
    """Fresh parameters of two hidden layers."""
    normal = lambda key, rows, columns: jax.random.normal(key, (rows, columns)) * np.sqrt(2 / rows)
    keys = jax.random.split(key, 3)
    weights = {"in": normal(keys[0], 64, 128), "up": normal(keys[1], 128, 128), "out": 0.3 * normal(keys[2], 128, 10)}
    return weights | {"shift": jnp.zeros((2, 128))}


def network(params, x):
    """Logits of the ten digits for images [n, 64]."""
    h = jax.nn.relu(x @ params["in"] + params["shift"][:1])
    return jax.nn.relu(h @ params["up"] + params["shift"][1:]) @ params["out"]


def losses(params, labelled, label, weakly, strongly):
    """FixMatch's loss, and that of every unlabelled image against its own label, sure or not."""
    cross = optax.softmax_cross_entropy_with_integer_labels
    guess = jax.lax.stop_gradient(jax.nn.softmax(network(params, weakly)))
    each = cross(network(params, strongly), jnp.argmax(guess, -1))
    sure = jnp.max(guess, -1) > SURE
    return cross(network(params, labelled), label).mean() + jnp.mean(jnp.where(sure, each, 0)), each


def learn(key, data, held, adaptive, steps):
    """Accuracy on the held-out images after FixMatch with four labels a digit, by averaged parameters."""
    x, y = data
    k_label, k_init, k_steps = jax.random.split(key, 3)
    order = jax.random.permutation(k_label, len(x))
    few = order[jnp.concatenate([jnp.nonzero(y[order] == c, size=LABELLED)[0] for c in range(10)])]
    optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    params = init(k_init)

    def step(carry, i):
        params, average, state, history, naive = carry
        keys = jax.random.split(jax.random.fold_in(k_steps, i), 6)
        row = few[jax.random.randint(keys[0], (BATCH,), 0, len(few))]
        other = jax.random.randint(keys[1], (UNLABELLED,), 0, len(x))
        seen = views(strong, keys[4], x[other])
        if adaptive:
            seen = jnp.where(naive[other][:, None], views(harder, keys[5], x[other]), seen)
        (_, each), slope = jax.value_and_grad(losses, has_aux=True)(
            params, views(weak, keys[2], x[row]), y[row], views(weak, keys[3], x[other]), seen
        )
        change, state = optimiser.update(slope, state)
        params = optax.apply_updates(params, change)
        average = optax.incremental_update(params, average, 0.01)
        history = js.select.loss_history(history, other, each)
        refresh = (i >= steps // 7) & (i % REFRESH == 0)
        naive = jax.lax.cond(refresh, lambda: js.select.naive_samples(history, naive), lambda: naive)
        return (params, average, state, history, naive), None

    start = params, params, optimiser.init(params), jnp.zeros(len(x)), jnp.zeros(len(x), bool)
    (_, average, *_), _ = jax.lax.scan(step, start, jnp.arange(steps))
    return jnp.mean(jnp.argmax(network(average, held[0]), -1) == held[1])


def draw(path, images, accuracy):
    """Rows of views above, and the accuracy of every seed below."""
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 4.4), height_ratios=(2, 1.4), layout="constrained")
    rows = {"image": images} | {k.__name__: views(k, jax.random.key(1), images) for k in (weak, strong, harder)}
    framed = lambda v: np.pad(np.asarray(v).reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    page = np.vstack([np.hstack(list(framed(v))) for v in rows.values()])
    above.imshow(page, cmap="gray_r", vmin=-1, vmax=1)
    above.set(yticks=np.arange(4) * 10 + 4.5, yticklabels=rows, xticks=[], title="Views of a digit")
    for name, values, at in zip(("FixMatch", "sample-adaptive"), accuracy, (1, 0), strict=True):
        below.plot(values, np.full(len(values), at), "k|", ms=12)
        below.plot(values.mean(), at, "ro", label="mean" if at else None)
        below.text(values.min() - 0.004, at, name, ha="right", va="center")
    below.set(yticks=[], ylim=(-0.6, 1.6), xlabel="held-out accuracy, a mark for each seed", title="Forty labels")
    below.set_xlim(accuracy.min() - 0.04, accuracy.max() + 0.01)
    below.legend(frameon=False)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="updates of each run")
    parser.add_argument("--seeds", type=int, default=24, help="runs of each method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="few_labels.png")
    options = parser.parse_args()
    x, y, held, held_y = small.load()
    keys, found = jax.random.split(jax.random.key(options.seed), options.seeds), []
    for name, adaptive in (("FixMatch", False), ("sample-adaptive", True)):
        run = functools.partial(learn, adaptive=adaptive, steps=options.steps)
        found.append(np.asarray(jax.jit(jax.vmap(run, (0, None, None)))(keys, (x, y), (held, held_y))))
        print(f"{name:16} accuracy {found[-1].mean():.4f}", flush=True)
    gain = found[1] - found[0]
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
    print(f"gain over {len(gain)} pairs of runs: {gain.mean():.4f} +- {error:.4f}")
    draw(options.out, x[:14], np.stack(found))
    print(options.out)


if __name__ == "__main__":
    main()
