"""How few bits does the shipped digits denoiser need? Ranges along its own trajectories, weights reconstructed.

    python examples/quantise_digits.py --num 200 --out quantise_digits.png

Each row quantises the network (weights by channel, what they multiply by tensor) after one calibration, and draws the
same digits from the same noise: RMSE to the digits of the float32 network, and the Frechet distance and label fidelity
of `digits_metrics`. "at the image", "at the noise": ranges from one time alone; "normal": times as in PTQ4DM.
"""

from __future__ import annotations

import argparse

import digits_metrics as metrics
import digits_net
import jax
import jax.numpy as jnp
import numpy as np
import png

import jsamp as js

SCHEDULE = js.noise.VE(sigma_min=0.1, sigma_max=20.0)
PLAN = js.solve.dpmpp(SCHEDULE, js.noise.karras_grid(SCHEDULE, 10))
IMAGE, NOISE, NORMAL = (lambda s: 1.0 * (s == 0)), (lambda s: 1.0 * (s == 1)), js.denoise.Normal(0.5, 0.35)
# Name, bits of weights and data, law of times, windows of time, reconstruction.
ROWS = [
    ("8/8 uniform", (8, 8), None, 1, True),
    ("8/8 at the image", (8, 8), IMAGE, 1, True),
    ("8/8 at the noise", (8, 8), NOISE, 1, True),
    ("4/8 to nearest", (4, 8), None, 1, False),
    ("4/8 reconstructed", (4, 8), None, 1, True),
    ("8/5 uniform", (8, 5), None, 1, True),
    ("8/5 normal", (8, 5), NORMAL, 1, True),
    ("8/5 normal, mirrored", (8, 5), js.denoise.Normal(0.2, 0.35), 1, True),
    ("8/5 five windows", (8, 5), None, 5, True),
]


def network(params, x, sigma, label):
    """The shipped network, its labels given by name."""
    return digits_net.Digits(params, label)(x, sigma)


def shipped(labels) -> js.Denoiser:
    """The shipped denoiser for some labels."""
    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    return js.Denoiser(jax.tree_util.Partial(network, params), SCHEDULE, predicts="x0", label=labels)


def noise(seed, num):
    """Starts [num, 28, 28]."""
    return SCHEDULE.sigma_max * jax.random.normal(jax.random.key(seed), (num, 28, 28))


@jax.jit
def draw(denoiser, x):
    """Digits from noise."""
    return js.sample(None, denoiser, x, PLAN).x


def quantised(denoiser, x, bits, law, windows, reconstruct) -> js.Denoiser:
    """The denoiser after a calibration from x."""
    ranges = js.denoise.calibrate(None, denoiser, PLAN, x, bits=bits, law=law, windows=windows)
    return js.denoise.quantise(denoiser, ranges, reconstruct=reconstruct)


def picture(path, shown):
    """Draw some digits of most rows."""
    shown = [row for row in shown if "mirrored" not in row[0] and "noise" not in row[0]]
    rows, names = [images[:8] for _, images in shown], [name for name, _ in shown]
    png.page(path, rows, names, "The same digits with fewer bits (weights/data)")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=200, help="digits for each row of the table")
    parser.add_argument("--calibrate", type=int, default=10, help="trajectories of each calibration")
    parser.add_argument("--rows", type=int, default=len(ROWS), help="rows of the table")
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    classifier = digits_net.load(digits_net.MODELS / "mnist_features.npz")
    labels = jnp.asarray(classifier["reference_labels"][: options.num], jnp.int32)
    denoiser, x = shipped(jnp.arange(options.calibrate) % 10), noise(1, options.calibrate)
    exact, shown = None, []
    print("weights/data bits       RMSE    FD_32  label")
    for name, *how in [("float32",), *ROWS[: options.rows]]:
        small = quantised(denoiser, x, *how) if how else denoiser
        images = np.asarray(draw(small.given(label=labels), noise(2, options.num)))
        exact = images if exact is None else exact
        found = np.asarray(jax.jit(metrics.features)(classifier, images))
        distance = metrics.frechet_distance(found, np.asarray(classifier["reference"]))
        label = metrics.label_fidelity(classifier, found, np.asarray(labels))
        print(f"{name:20} {np.sqrt(np.mean((images - exact) ** 2)):7.4f} {distance:8.2f} {label:6.3f}", flush=True)
        shown.append((name, images))
    if options.out:
        picture(options.out, shown)


if __name__ == "__main__":
    main()
