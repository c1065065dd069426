"""Train a digit denoiser when nine images in ten are known only with noise on them.

    python examples/ambient_digits.py --out ambient.png

Four denoisers of 8x8 digits: from all images clean, from a tenth of them clean, from that tenth together with the
others under noise of standard deviation 0.5 (`js.loss.Ambient`), and from the same images with the noise taken for
signal. Each draws as many digits as there are real ones. The energy distance of pixels says how far their laws are;
the ratio of nearest distances says who repeats its training images (1: nobody). Half a minute on two cores.
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

LEVEL, SHARE = 0.5, 0.1
VE = js.noise.VE(sigma_min=0.02, sigma_max=20.0)
PLAN = js.solve.dpmpp(VE, js.noise.karras_grid(VE, 12))


def train(key, x, level, steps):
    """The averaged denoiser of rows x [n, 64] whose noise levels [n] are known."""
    unlabelled = lambda params, x, c: small.network(params, x, c, jnp.full(x.shape[:-1], small.NULL))
    model = js.denoise.EDM(jax.tree_util.Partial(unlabelled, small.init(key)), small.SIGMA_DATA)
    loss = js.loss.Ambient(
        times=js.loss.LogNormalTimes(-0.6, 1.2), weight=js.loss.EDMWeight(small.SIGMA_DATA), batched=True
    )
    rate = optax.adam(optax.warmup_cosine_decay_schedule(0, 3e-3, min(100, steps // 4), steps))
    batch = min(128, len(x))
    return js.fit.minimise(
        key, loss, model, (x, level), optimiser=rate, steps=steps, batch=batch, ema=0.99
    ).info.average


def spread_level(model, x, sigma):
    """One level for all rows."""
    return model(x, jnp.broadcast_to(sigma, x.shape[:-1]))


@jax.jit
def draw(model, noise):
    denoiser = js.Denoiser(jax.tree_util.Partial(spread_level, model), VE, predicts="x0")
    return js.sample(None, denoiser, noise, PLAN).x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="updates of each denoiser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("ambient.png"))
    options = parser.parse_args()
    x, _, held, _ = small.load()
    k_noise, k_fit, k_draw = jax.random.split(jax.random.key(options.seed), 3)
    clean = jnp.arange(len(x)) < SHARE * len(x)
    noisy = jnp.where(clean[:, None], x, x + LEVEL * jax.random.normal(k_noise, x.shape))
    level, none, few = jnp.where(clean, 0.0, LEVEL), jnp.zeros(len(x)), int(clean.sum())
    sets = {
        "all clean": (x, none),
        "a tenth clean": (x[:few], none[:few]),
        "and the rest noisy": (noisy, level),
        "noise taken for signal": (noisy, none),
    }
    rows, start = {"real": x[-12:]}, float(VE.t_max) * jax.random.normal(k_draw, x.shape)
    print(f"{'trained on':24s}{'energy distance':>16s}{'nearest distances':>20s}")
    for name, (images, levels) in sets.items():
        found = draw(train(k_fit, images, levels, options.steps), start)
        energy = float(js.estimate.energy(found, x).value)
        ratio = float(js.estimate.nearest_ratio(found, images[levels == 0], held).value)
        print(f"{name:24s}{energy:16.4f}{ratio:20.2f}", flush=True)
        rows[name] = found[:12]
    png.page(
        options.out, [np.kron(np.asarray(v).reshape(-1, 8, 8), np.ones((3, 3))) for v in rows.values()], list(rows),
        "Digits from clean and from noisy images",
    )  # fmt: skip
    print(options.out)


if __name__ == "__main__":
    main()
