"""How wide must random weights be drawn? Fit waves by a layer of frozen random units and a readout.

    python examples/random_features.py --out random_features.png

80 units tanh(a x - b), weights and thresholds uniform in [-limit, limit], only their sum fitted, by least squares. A
limit below what the wave needs never learns it, whatever the number of units; one far above learns every wave worse.
For the unit exp(-z^2 / 2) the loss has a closed form, which the last panel shows beside the fits: a bound on the
weights multiplies the Fourier transform by exp(-frequency^2 / limit^2). In float64; a few seconds.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

LIMITS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
WAVES = (1, 4, 10)  # frequencies, in units of pi
TRAIN, TEST = np.linspace(-1, 1, 200)[:, None], np.linspace(-0.995, 0.995, 311)[:, None]


def waves(x):
    """sin(frequency pi x), a column for each frequency."""
    return jnp.sin(np.pi * x * np.array(WAVES)[None])


def fit(seed, limit, units):
    """Values [311, waves] of the fits at points that they have not seen."""
    features = js.fit.random_features(jax.random.key(seed), units, limit=limit, dtype=jnp.float64)
    coefficients = js.fit.readout(features(TRAIN), waves(TRAIN), rcond=1e-10)
    return np.asarray(features(TEST) @ coefficients)


def draw_picture(path, fits, errors):
    """The fastest wave by three limits; errors against the limit; and the multiplier."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    left.plot(TEST[:, 0], waves(TEST)[:, -1], color="0.8", linewidth=4, label="target")
    for limit in (LIMITS[0], LIMITS[2], LIMITS[-1]):
        left.plot(TEST[:, 0], fits[limit][:, -1], linewidth=1, label=f"limit {limit:g}")
    left.set(title=f"sin({WAVES[-1]} pi x), fitted", xlabel="x", xlim=(0, 1), ylim=(-1.6, 1.6))
    left.legend(fontsize=8, loc="upper right")
    for column, wave in enumerate(WAVES):
        logs = np.log(errors[:, :, column])
        mean, spread = np.exp(logs.mean(1)), logs.std(1, ddof=1) / np.sqrt(logs.shape[1]) if logs.shape[1] > 1 else 0.0
        bars = mean * (1 - np.exp(-spread)), mean * (np.exp(spread) - 1)
        middle.errorbar(LIMITS, mean, bars, marker="o", markersize=4, capsize=3, label=f"sin({wave} pi x)")
    middle.set(xscale="log", yscale="log", xlabel="limit of the weights", ylabel="root mean square error")
    middle.set_title(f"Mean of {errors.shape[1]} draws ± s.e.")
    middle.legend(fontsize=8)
    frequency = np.linspace(0, 45, 200)
    for limit in (3.0, 10.0, 30.0):
        right.plot(frequency, js.fit.bandlimit_multiplier(frequency, limit), label=f"limit {limit:g}")
    for wave in WAVES:
        right.axvline(np.pi * wave, color="0.8", linewidth=1)
    right.set(title="What a limit lets through", xlabel="frequency (lines: the three waves)", ylabel="multiplier")
    right.legend(fontsize=8)
    figure.suptitle("Random features: the bound on the weights decides what is learned")
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, help="draws of the units for each limit")
    parser.add_argument("--units", type=int, default=80)
    parser.add_argument("--out", default="random_features.png")
    args = parser.parse_args()
    if args.draws < 1 or args.units < 1:
        parser.error(f"want --draws >= 1 and --units >= 1, got {args.draws} and {args.units}.")
    with jax.enable_x64(True):
        print("limit    " + "".join(f"{f'sin({wave} pi x)':>14s}" for wave in WAVES))
        fits, errors = {}, np.zeros((len(LIMITS), args.draws, len(WAVES)))
        for i, limit in enumerate(LIMITS):
            for draw in range(args.draws):
                fits[limit] = fit(draw, limit, args.units)
                errors[i, draw] = np.sqrt(np.mean((fits[limit] - waves(TEST)) ** 2, 0))
            print(f"{limit:<9g}" + "".join(f"{error:14.1e}" for error in np.exp(np.log(errors[i]).mean(0))))
        draw_picture(args.out, fits, errors)
    print(args.out)


if __name__ == "__main__":
    main()
