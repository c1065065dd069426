"""Does the expansion of the universe ask for more than a cosmological constant? Evidences by nested sampling.

    python examples/hubble_evidence.py --live 500 --out hubble_evidence.png

31 rates of expansion H(z), measured by the ages of galaxies ("cosmic chronometers"), under three flat models: a
cosmological constant (LCDM), a constant equation of state w (wCDM), and w0 + wa z / (1 + z) (CPL, two parameters). Each
evidence stands beside quadrature on a grid. Needs jax, numpy and jsamp; matplotlib for the picture.

The numbers, in km/s/Mpc with errors taken for independent, are those of the compilation in Gomez-Valent and Amendola,
arXiv:1802.01505, of measurements by Jimenez et al. (astro-ph/0302560), Simon, Verde and Jimenez (astro-ph/0412269),
Stern et al. (arXiv:0907.3149), Moresco et al. (arXiv:1201.6658, 1503.01116, 1601.01701), Zhang et al. (arXiv:1207.4541)
and Ratsimbazafy et al. (arXiv:1702.00418).
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

Z = (
    0.07, 0.09, 0.12, 0.17, 0.179, 0.199, 0.2, 0.27, 0.28, 0.352, 0.3802, 0.4, 0.4004, 0.4247, 0.4497, 0.47, 0.4783,
    0.48, 0.593, 0.68, 0.781, 0.875, 0.88, 0.9, 1.037, 1.3, 1.363, 1.43, 1.53, 1.75, 1.965,
)  # fmt: skip
H = (
    69, 69, 68.6, 83, 75, 75, 72.9, 77, 88.8, 83, 83, 95, 77, 87.1, 92.8, 89, 80.9, 97, 104, 92, 105, 125, 90, 117, 154,
    168, 160, 177, 140, 202, 186.5,
)  # fmt: skip
SIGMA = (
    19.6, 12, 26.2, 8, 4, 5, 29.6, 14, 36.6, 14, 13.5, 17, 10.2, 11.2, 12.9, 50, 9, 62, 13, 8, 12, 17, 40, 23, 20, 17,
    33.6, 18, 14, 40, 50.4,
)  # fmt: skip
PRIORS = {"H0": (50, 100), "Om": (0, 1), "w0": (-2, 0), "wa": (-2, 2)}  # all uniform
MODELS = {"LCDM": ("H0", "Om"), "wCDM": ("H0", "Om", "w0"), "CPL": ("H0", "Om", "w0", "wa")}


def shape(z, Om, w0=-1.0, wa=0.0):
    """H(z) / H0 of a flat universe, for arrays of JAX or numpy."""
    dark = (1 + z) ** (3 * (1 + w0 + wa)) * np.e ** (-3 * wa * z / (1 + z))
    return (Om * (1 + z) ** 3 + (1 - Om) * dark) ** 0.5


def prior(names):
    """The map of the cube to a dictionary of parameters."""
    low, high = (np.array([PRIORS[name][end] for name in names], np.float32) for end in (0, 1))
    return lambda u: dict(zip(names, low + (high - low) * u, strict=True))


def loglikelihood(parameters):
    """The normalised log-likelihood of the 31 numbers."""
    z, h, sigma = (np.asarray(column, np.float32) for column in (Z, H, SIGMA))
    rest = {name: value for name, value in parameters.items() if name != "H0"}
    residual = (h - parameters["H0"] * shape(z, **rest)) / sigma
    return -jnp.sum(residual**2) / 2 - float(np.sum(np.log(np.sqrt(2 * np.pi) * sigma)))


def quadrature(names, nodes=60):
    """Log-evidence in float64: H0 in closed form, the other parameters by Gauss-Legendre nodes."""
    from math import erf

    z, h, sigma = (np.asarray(column, np.float64) for column in (Z, H, SIGMA))
    place, weight = np.polynomial.legendre.leggauss(nodes)
    axes = [low + (high - low) * (place + 1) / 2 for low, high in (PRIORS[name] for name in names[1:])]
    grid = dict(zip(names[1:], (a[..., None] for a in np.meshgrid(*axes, indexing="ij")), strict=True))
    curve = shape(z, **grid) / sigma
    square, cross, own = (curve**2).sum(-1), (curve * h / sigma).sum(-1), ((h / sigma) ** 2).sum()
    best, low, high = cross / square, *PRIORS["H0"]
    spread = np.sqrt(2 / square)
    inside = np.vectorize(erf)((high - best) / spread) - np.vectorize(erf)((low - best) / spread)
    integral = np.exp(-(own - square * best**2) / 2) * inside * spread * np.sqrt(np.pi) / 2 / (high - low)
    for _ in axes:
        integral = integral @ (weight / 2)
    return float(np.log(integral) - np.log(np.sqrt(2 * np.pi) * sigma).sum())


def picture(path, rows, fits):
    """Draw the data with the posterior of the expansion, and the evidences."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(3, 2), layout="constrained")
    figure.suptitle("31 expansion rates under three models of dark energy")
    z = np.linspace(0, 2, 60)
    for name, (draws, weight) in fits.items():
        rest = {key: value[:, None] for key, value in draws.items() if key != "H0"}
        curves = np.asarray(draws["H0"])[:, None] * shape(z[None], **rest)
        order = np.argsort(curves, axis=0)
        total = np.cumsum(np.asarray(weight)[order], 0)
        low, high = (curves[order, np.arange(z.size)][np.argmax(total > q, 0), np.arange(z.size)] for q in (0.16, 0.84))
        (line,) = left.plot(z, low, lw=1, label=f"{name}, 68 %")
        left.plot(z, high, lw=1, color=line.get_color())
    left.errorbar(Z, H, SIGMA, fmt="k.", ms=4, lw=0.8, label="measured")
    left.set(xlabel="redshift z", ylabel="H(z), km/s/Mpc", title="posterior of the expansion", ylim=(40, 260))
    left.legend(fontsize=7)
    names = [row[0] for row in rows]
    right.errorbar(
        names, [row[1] for row in rows], [row[2] for row in rows], fmt="o", capsize=4, label="nested sampling"
    )
    right.plot(names, [row[3] for row in rows], "x", color="k", label="quadrature")
    right.set(ylabel="log evidence", title="more parameters, less evidence")
    right.legend(fontsize=7)
    figure.savefig(path, dpi=80)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", type=int, default=500, help="live points")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    print("model  log evidence         quadrature  posterior mean +- sd                     calls  rank p  seconds")
    rows, fits = [], {}
    for name, names in MODELS.items():
        begun = time.perf_counter()
        draws, info = js.mcmc.nested(
            jax.random.key(options.seed),
            loglikelihood,
            prior(names),
            options.live,
            dim=len(names),
            delete=options.live // 10,
        )
        seconds, z = time.perf_counter() - begun, info.log_evidence
        weight = jnp.exp(info.log_weights - jax.nn.logsumexp(info.log_weights))
        mean = {key: float(jnp.sum(weight * value)) for key, value in draws.items()}
        sd = {key: float(jnp.sum(weight * (draws[key] - mean[key]) ** 2)) ** 0.5 for key in draws}
        text = "  ".join(f"{key} {mean[key]:.3g} +- {sd[key]:.2g}" for key in names)
        rows.append((name, z.value, z.stderr, quadrature(names)))
        fits[name] = draws, weight
        print(
            f"{name:5}  {z.value:8.3f} +- {z.stderr:5.3f}  {rows[-1][3]:10.4f}  {text:60} {info.nfe:8} "
            f"{info.rank_p_value:6.3f} {seconds:6.1f}"
        )
    for name, value, *_ in rows[1:]:
        print(f"LCDM over {name}: odds {np.exp(rows[0][1] - value):.1f} to 1, for these priors")
    if options.out:
        picture(options.out, rows, fits)


if __name__ == "__main__":
    main()
