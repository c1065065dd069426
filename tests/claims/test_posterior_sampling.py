"""Chung et al. 2022, Song et al. 2023, Boys et al. 2023: sampling x0 given y = A x0 + noise with a frozen denoiser.

Against the exact posterior of a mixture, from 16 numbers to 4: how far the drawn law is from it, at equal NFE.
"""

import functools

import jax
import numpy as np
import pytest
from affine import posterior

import jsamp as js

D = js.denoise
SCHEDULE = js.noise.VP()
DIM, SEEN, PARTS, NOISE = 16, 4, 3, 0.2
RNG = np.random.default_rng(0)
MEANS = 1.5 * RNG.normal(size=(PARTS, DIM))
ROOTS = RNG.normal(size=(PARTS, DIM, DIM)) / DIM**0.5
COVS = 0.5 * ROOTS @ np.swapaxes(ROOTS, 1, 2) + 0.05 * np.eye(DIM)
MATRIX = RNG.normal(size=(SEEN, DIM)) / DIM**0.5
TRUTH = MEANS[0] + np.linalg.cholesky(COVS[0]) @ RNG.normal(size=DIM)
Y = MATRIX @ TRUTH + NOISE * RNG.normal(size=SEEN)
LAW = D.GaussianMixture(SCHEDULE, weights=np.ones(PARTS), means=MEANS, covs=COVS)
OP = D.LinearOp.dense(MATRIX)


def exact():
    """The posterior: weights by the evidence of each part, and its draws."""
    parts = [posterior(m, c, MATRIX, NOISE, Y) for m, c in zip(MEANS, COVS, strict=True)]
    log = []
    for m, c in zip(MEANS, COVS, strict=True):
        total, gap = MATRIX @ c @ MATRIX.T + NOISE**2 * np.eye(SEEN), Y - MATRIX @ m
        log.append(-0.5 * (gap @ np.linalg.solve(total, gap) + np.linalg.slogdet(total)[1]))
    weight = np.exp(log - np.max(log))
    rng = np.random.default_rng(1)
    which = rng.choice(PARTS, size=2000, p=weight / weight.sum())
    draws = [np.linalg.cholesky(c + 1e-9 * np.eye(DIM)) for _, c in parts]
    return np.stack([parts[k][0] + draws[k] @ rng.normal(size=DIM) for k in which])


def energy_distance(x, y):
    """Twice the mean distance across, less the mean distances within."""
    gap = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1).mean()
    return 2 * gap(x, y) - gap(x, x) - gap(y, y)


@functools.cache
def errors():
    """Energy distance to the posterior, and root mean square misfit, of each method at 100 evaluations."""
    plan = js.solve.ddpm(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 100, final="zero"))
    start, key = SCHEDULE.prior(jax.random.key(0), (2000, DIM)), jax.random.key(1)
    wanted, found = exact(), {}
    methods = {
        "none": LAW,
        "DPS": D.DPS(LAW, OP, Y, 0.3, event_ndim=1),
        "PiGDM": D.PiGDM(LAW, OP, Y, NOISE, event_ndim=1),
        "TMPD": D.TMPD(LAW, OP, Y, NOISE, event_ndim=1),
        "DDNM": D.DDNM(LAW, OP, Y, event_ndim=1),
    }
    for name, denoiser in methods.items():
        x = np.asarray(js.sample(key, denoiser, start, plan).x, np.float64)
        found[name] = energy_distance(x[:1000], wanted[:1000]), np.sqrt(np.mean((x @ MATRIX.T - Y) ** 2))
    found["exact"] = energy_distance(wanted[:1000], wanted[1000:]), np.sqrt(np.mean((wanted @ MATRIX.T - Y) ** 2))
    return found


@pytest.mark.slow
def test_every_method_fits_the_measurement():
    misfit = {name: value[1] for name, value in errors().items()}
    assert misfit["DDNM"] < 1e-4
    assert all(misfit[name] < 0.25 * misfit["none"] for name in ("DPS", "PiGDM", "TMPD"))


@pytest.mark.slow
def test_the_more_is_known_of_the_covariance_the_nearer_the_posterior():
    """In excess of the distance between two sets of exact draws."""
    floor = errors()["exact"][0]
    excess = {name: value[0] - floor for name, value in errors().items()}
    assert excess["TMPD"] < 0.5 * excess["PiGDM"]
    assert excess["PiGDM"] < 0.5 * excess["DPS"]
    assert excess["DPS"] < 0.1 * excess["none"]
