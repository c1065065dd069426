"""Restore real digits from what is left of them: inpainting and super-resolution by five methods on one denoiser.

    python examples/restore_digits.py --out restored.png

The first row of the picture is the truth, the second what was measured, then one row for each method; the table gives
the peak signal-to-noise ratio in dB (higher is better) against the truth, the misfit to the measurement in units of its
noise (1 is a perfect fit), network evaluations, and seconds with compilation. A sample is one guess among many that
fit: methods that draw from the posterior score less than those that return its mean.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time

import digits_net
import jax
import jax.numpy as jnp
import numpy as np
import png

import jsamp as js

SCHEDULE = js.noise.VE(sigma_min=0.1, sigma_max=20.0)
NOISE = 0.05
SHAPE = (28, 28)


def real_digits(num: int) -> np.ndarray:
    """The first MNIST test images, in [-1, 1]."""
    with np.load(digits_net.MODELS / "mnist_test.npz") as file:
        return file["images"][:num].astype(np.float32) / 127.5 - 1


def box() -> np.ndarray:
    """1 where a pixel is known: all but a square of 14 x 14."""
    mask = np.ones(SHAPE, np.float32)
    mask[7:21, 7:21] = 0
    return mask


def ancestral(steps: int) -> js.Plan:
    return js.solve.ddpm(SCHEDULE, js.noise.karras_grid(SCHEDULE, steps))


def smooth(steps: int) -> js.Plan:
    return js.solve.dpmpp(SCHEDULE, js.noise.karras_grid(SCHEDULE, steps))


def methods(denoiser, op, y, mask):
    """Name, denoiser, plan and steer of each method, for one measurement y."""
    options = {"op": op, "y": y}
    found = {
        "nothing known": (denoiser, smooth(20), None),
        "DPS": (js.denoise.DPS(denoiser, scale=1.0 if mask is not None else 6.0, **options), ancestral(200), None),
        "PiGDM": (js.denoise.PiGDM(denoiser, noise=NOISE, data_std=digits_net.SIGMA_DATA, **options), smooth(40), None),
        "TMPD": (js.denoise.TMPD(denoiser, noise=NOISE, covariance="diagonal", **options), smooth(40), None),
        "DDNM": (js.denoise.DDNM(denoiser, **options), ancestral(40), None),
    }
    if mask is not None:
        plan = js.solve.jumps(ancestral(40), length=5, repeats=6)
        found["RePaint"] = (denoiser, plan, js.steer.Repaint(mask, y))
    return found


def draw(name, denoiser, op, mask, key, y):
    """One image for one measurement; vmap it over keys and measurements."""
    guided, plan, steer = methods(denoiser, op, y, mask)[name]
    k0, k1 = jax.random.split(key)
    return js.sample(k1, guided, SCHEDULE.prior(k0, SHAPE), plan, steer=steer).x


def psnr(x: np.ndarray, truth: np.ndarray) -> float:
    """Mean over images of 10 log10(2^2 / mean squared error); images span 2."""
    error = np.mean((np.clip(x, -1, 1) - truth) ** 2, axis=(1, 2))
    return float(np.mean(10 * np.log10(4 / error)))


def restore(task: str, denoiser, truth: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Print the table of one task; return the rows of its picture by their labels."""
    mask = box() if task == "inpainting" else None
    op = js.denoise.LinearOp.pool(SHAPE, (4, 4)) if mask is None else js.denoise.LinearOp.mask(mask)
    clean = jax.vmap(op)(truth)
    y = clean + NOISE * jax.random.normal(jax.random.key(seed + 1), clean.shape)
    y = y if mask is None else y * mask
    shown = np.asarray(y).repeat(4, 1).repeat(4, 2) if mask is None else np.where(mask, y, 0.0)
    rows = {f"{task}: truth": truth, f"{task}: measured": shown}
    print(f"\n{task}\n{'method':16s}{'PSNR':>8s}{'misfit':>8s}{'NFE':>6s}{'seconds':>9s}")
    count = clean[0].size if mask is None else mask.sum()
    keys = jax.random.split(jax.random.key(seed), len(truth))
    for name, (_, plan, _) in methods(denoiser, op, y[0], mask).items():
        start = time.perf_counter()
        x = np.asarray(jax.jit(jax.vmap(functools.partial(draw, name, denoiser, op, mask)))(keys, y))
        seconds = time.perf_counter() - start
        residual = np.asarray(jax.vmap(op)(x) - y)
        misfit = np.sqrt(np.sum(residual**2) / (len(truth) * count)) / NOISE
        print(f"{name:16s}{psnr(x, truth):8.2f}{misfit:8.2f}{plan.nfe:6d}{seconds:9.1f}", flush=True)
        if name != "nothing known":
            rows[f"{name}, {psnr(x, truth):.1f} dB"] = x
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=10, help="digits to restore, at most 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("restored.png"))
    args = parser.parse_args()
    if not 1 <= args.num <= 200:
        parser.error(f"--num must be in 1..200, got {args.num}.")
    truth = real_digits(args.num)
    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    denoiser = js.Denoiser(digits_net.Digits(params, jnp.int32(digits_net.NULL)), SCHEDULE, predicts="x0")
    tables = [restore(task, denoiser, truth, args.seed) for task in ("inpainting", "super-resolution")]
    names, rows = [name for table in tables for name in table], [row for table in tables for row in table.values()]
    png.page(args.out, rows, names, "Posterior samples by five methods, and their PSNR")
    print(f"\n{args.out}: truth, measured, then a row for each method; the same again for super-resolution.")


if __name__ == "__main__":
    main()
