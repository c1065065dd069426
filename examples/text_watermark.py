"""A watermark in texts of a recurrent character model, found again after edits: the curve of detection.

    python examples/text_watermark.py --texts 20 --out watermark.png

Texts are drawn with `js.tokens.Exponential`: as texts of the model, but each character a function of a secret key. Then
a share of the characters is replaced, or deleted and inserted, and `js.tokens.detect` gives the p-value. Characters
of this model carry little entropy, so the curve is that of a hard case; the plain statistic needs the places of
characters, the edit statistic does not.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import text_net as net

import jsamp as js

LENGTH = 128


def written(key, model, num: int):
    """A marked text, with its mark."""
    k0, k1 = jax.random.split(key)
    mark = js.tokens.Exponential(k0, LENGTH, net.VOCABULARY)
    prompt = jnp.asarray(net.encode("The "))
    return mark, js.tokens.generate(k1, model, net.empty_carry(), num, prompt=prompt, mark=mark).x


def replaced(rng, text, share):
    """Characters replaced by random ones of the same text."""
    text = text.copy()
    places = rng.permutation(len(text))[: round(share * len(text))]
    text[places] = rng.choice(text, len(places))
    return text


def shifted(rng, text, share):
    """Half of the share deleted, and as many random characters inserted elsewhere: places move, the length stays."""
    count = round(share * len(text) / 2)
    text = np.delete(text, rng.permutation(len(text))[:count])
    return np.insert(text, rng.integers(0, len(text) + 1, count), rng.choice(text, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--num", type=int, default=100, help="characters of a text")
    parser.add_argument("--edit-runs", type=int, default=19, help="fresh keys of the edit statistic")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("watermark.png"))
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model, rng, shares = net.load("recurrent"), np.random.default_rng(0), [0.0, 0.1, 0.2, 0.3, 0.4, 0.6]
    marks, texts = jax.jit(jax.vmap(lambda key: written(key, model, options.num)))(
        jax.random.split(jax.random.key(0), options.texts)
    )
    texts = np.asarray(texts)
    print(f"a marked text:\n{net.decode(texts[0])}\n")
    keys = jax.random.split(jax.random.key(1), options.texts)

    def detector(edit, runs):
        one = lambda args: js.tokens.detect(*args, edit=edit, runs=runs).p_value
        run = jax.jit(lambda keys, texts, marks: jax.lax.map(one, (keys, texts, marks)))
        return lambda texts: np.asarray(run(keys, jnp.asarray(texts), marks))

    plain, edit = detector(None, 99), detector(0.0, options.edit_runs)
    curves = {
        "replaced, plain statistic": (replaced, plain),
        "deleted and inserted, plain statistic": (shifted, plain),
        "deleted and inserted, edit statistic": (shifted, edit),
    }
    figure, axis = plt.subplots(figsize=(6, 4))
    for (name, (change, find)), style in zip(curves.items(), ("-o", "--s", "-^"), strict=True):
        found = []
        for share in shares:
            p = find(np.stack([change(rng, text, share) for text in texts]))
            found.append(np.mean(p <= 0.05))
            text = f"{name:40} {share:4.0%} of characters: median p {np.median(p):.3f}, "
            print(f"{text}p <= .05 in {found[-1]:.0%}", flush=True)
        error = np.sqrt(np.maximum(np.array(found) * (1 - np.array(found)), 0.01) / options.texts)
        axis.errorbar(shares, found, yerr=error, fmt=style, capsize=2, label=name)
    axis.axhline(0.05, color="grey", linewidth=0.8, label="without a mark")
    axis.set(xlabel="share of characters edited", ylabel="texts with p <= 0.05", ylim=(-0.03, 1.05))
    axis.set_title(f"Watermark in {options.num} characters of a small model")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
