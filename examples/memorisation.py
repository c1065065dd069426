"""Does the shipped denoiser repeat its training images? Nearest neighbours, fidelity and variety, and local dimension.

Draws digits, compares each with 2,000 real images in the 32 features of a small classifier, beside other real images.

    python examples/memorisation.py
"""

import argparse
import pathlib

import digits_metrics as metrics
import digits_net
import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

MODELS = pathlib.Path(__file__).parent / "models"
SCHEDULE = js.noise.VE(sigma_min=0.1, sigma_max=20.0)


@jax.jit
def draw(params, noise, labels, plan):
    """Images [n, 28, 28] from unit noise and labels."""
    denoiser = js.Denoiser(digits_net.Digits(params, labels), SCHEDULE, predicts="x0")
    return js.sample(None, denoiser, SCHEDULE.sigma_max * noise, plan).x


@jax.jit
def dimension(key, params, image, label, sigma):
    """Local dimension of the model's digits at an image, seen at noise level sigma."""
    denoiser = js.Denoiser(digits_net.Digits(params, label), SCHEDULE, predicts="x0")
    return js.estimate.flipd(key, denoiser, image, sigma, probes=16).value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=500, help="images to draw (default 500)")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    params, classifier = (digits_net.load(MODELS / f"mnist_{name}.npz") for name in ("denoiser", "features"))
    num, train, real = options.num, classifier["reference"], classifier["real"]
    labels = jnp.asarray(classifier["reference_labels"][:num], jnp.int32)
    grid = js.noise.karras_grid(SCHEDULE, options.steps)
    images = draw(
        params, jax.random.normal(jax.random.key(0), (num, 28, 28)), labels, js.solve.dpmpp(SCHEDULE, grid, order=2)
    )
    drawn = metrics.features(classifier, images)

    half = len(real) // 2
    rows = {
        "drawn": drawn,
        "real images": real[:num],
        "half copies": jnp.concatenate([train[: num // 2], real[: num // 2]]),
    }
    print(f"Against {len(train)} training images, {train.shape[1]} features. Nearest ratio, 1: as fresh data")
    for name, features in rows.items():
        ratio = js.estimate.nearest_ratio(features, train, real[half:])
        support = js.estimate.precision_recall(features, train[:num])
        fill = js.estimate.density_coverage(features, train[:num])
        print(
            f"  {name:12} {ratio.value:.3f} +- {ratio.stderr:.3f}   precision {support.precision.value:.3f}   "
            f"recall {support.recall.value:.3f}   coverage {fill.coverage:.3f}"
        )
    for sigma in (1.0, 0.5, 0.2):
        found = [dimension(jax.random.key(i), params, images[i], labels[i], sigma) for i in range(min(8, num))]
        print(f"  local dimension of drawn digits at noise {sigma}: {np.mean(found):.0f} of 784")


if __name__ == "__main__":
    main()
