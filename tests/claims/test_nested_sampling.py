"""Nested sampling with a likelihood learned on the fly (arXiv:2405.03293), on the expansion rates of the universe.

Half the calls and the same evidence; a surrogate that is wrong is refused, or costs variance and no bias.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples"))

import hubble_evidence as hubble

NAMES = hubble.MODELS["LCDM"]
EXACT = -128.4838  # quadrature on a grid of 4000 x 4000, normal likelihood, uniform priors
RIPPLES = 40.0


def rippled(parameters):
    """Ripples of 3 nats that neither a quadratic nor 32 units follow."""
    return hubble.loglikelihood(parameters) + 3 * jnp.sin(RIPPLES * 2 * parameters["Om"]) * jnp.sin(
        RIPPLES * parameters["H0"] / 25
    )


def rippled_evidence(nodes=1200):
    z, h, sigma = (np.asarray(column, np.float64) for column in (hubble.Z, hubble.H, hubble.SIGMA))
    place = (np.arange(nodes) + 0.5) / nodes
    own, cross, square = [], [], []
    for om in place:
        curve = hubble.shape(z, om) / sigma
        own.append(((h / sigma) ** 2).sum()), cross.append((curve * h / sigma).sum()), square.append((curve**2).sum())
    h0 = 50 + 50 * place[:, None]
    value = -(np.array(own) - 2 * h0 * np.array(cross) + h0**2 * np.array(square)) / 2
    value = value - np.log(np.sqrt(2 * np.pi) * sigma).sum()
    value = value + 3 * np.sin(RIPPLES * 2 * place[None]) * np.sin(RIPPLES * h0 / 25)
    return float(np.log(np.mean(np.exp(value - value.max()))) + value.max())


def test_quadrature_agrees_with_the_published_number():
    assert abs(hubble.quadrature(NAMES) - EXACT) < 1e-4
    assert abs(hubble.quadrature(("H0", "Om", "w0")) - hubble.quadrature(("H0", "Om", "w0"), 40)) < 1e-3


def test_half_the_calls_give_the_same_evidence_and_posterior():
    arguments = (jax.random.key(0), hubble.loglikelihood, hubble.prior(NAMES), 300)
    draws, info = js.mcmc.nested(*arguments, dim=2, delete=30)
    cheap_draws, cheap = js.fit.likelihood_surrogate(*arguments, dim=2, delete=30)
    assert info.ok
    assert cheap.ok
    assert cheap.nfe < 0.6 * info.nfe
    assert cheap.accepted.all()
    assert cheap.errors[:, 0].max() < 0.3
    assert abs(cheap.log_evidence.value - info.log_evidence.value) < 0.1
    assert abs(cheap.log_evidence.value - EXACT) < 4 * cheap.log_evidence.stderr
    assert cheap.correction > 0.95
    for one in (info, cheap):  # the shares of the volume are all of it
        assert abs(np.exp(np.asarray(one.log_weights, np.float64) - one.loglikelihood).sum() - 1) < 1e-3
    assert 1e-4 < info.rank_p_value < 1 and 1e-4 < cheap.rank_p_value < 1
    for name, mean, sd in (("H0", 67.727, 3.098), ("Om", 0.3324, 0.0623)):
        for found, weights in ((draws, info.log_weights), (cheap_draws, cheap.log_weights)):
            guess = js.estimate.snis(weights, found[name])
            assert abs(guess.value - mean) < 5 * guess.stderr + 0.05 * sd
            spread = js.estimate.snis(weights, (found[name] - mean) ** 2)
            assert abs(spread.value - sd**2) < 5 * spread.stderr + 0.05 * sd**2


@pytest.mark.parametrize(("tolerance", "used"), [((0.3, 1.0), False), ((100.0, 100.0), True)])
def test_a_surrogate_that_is_wrong_is_refused_or_corrected(tolerance, used):
    info = js.fit.likelihood_surrogate(
        jax.random.key(1), rippled, hubble.prior(NAMES), 300, dim=2, delete=30, steps=200, tolerance=tolerance
    ).info
    assert info.ok
    assert (info.surrogate_calls > 0) == used == info.accepted.any()
    assert abs(info.log_evidence.value - rippled_evidence()) < 4 * info.log_evidence.stderr
    assert (info.correction < 0.9) == used
    if used:
        # What the surrogate itself says of the same draws is another number.
        believed = jax.vmap(info.surrogate)(jax.random.uniform(jax.random.key(0), (10, 2)))
        assert bool(jnp.all(jnp.isfinite(believed)))


def halved(x):
    return jnp.where(x[0] > 0, -50 * jnp.sum(x**2), -jnp.inf)


def test_a_likelihood_of_zero_beyond_a_wall():
    """The surrogate is smooth and places points beyond the wall: they carry no evidence and no error."""
    exact, errors = np.log(2 * np.pi * 0.01 / 8), []
    for seed in range(4):
        info = js.fit.likelihood_surrogate(
            jax.random.key(seed), halved, lambda u: 2 * u - 1, 100, dim=2, delete=20, steps=50
        ).info
        errors.append((info.log_evidence.value - exact) / info.log_evidence.stderr)
        assert info.surrogate_calls > 0
        assert np.isneginf(info.loglikelihood).any()
        assert info.log_evidence.stderr < 0.3
    assert abs(np.sum(errors)) < 4.5 * np.sqrt(4)


REFUSED = [
    ("at least 20|in 20", {"check": 19}),
    ("tolerance must be two positive numbers", {"tolerance": 0.3}),
    ("tolerance must be two positive numbers", {"tolerance": (0.3, -1.0)}),
    ("begin must be finite", {"begin": 1e-4}),
    ("num_live must be above dim", {"num_live": 2}),
    ("key is None", {"key": None}),
    ("steps must be", {"steps": 0}),
]


@pytest.mark.parametrize(("match", "change"), REFUSED)
def test_refusals(match, change):
    usual = {"key": jax.random.key(0), "loglikelihood": hubble.loglikelihood, "from_cube": hubble.prior(NAMES)}
    with pytest.raises((ValueError, TypeError), match=match):
        js.fit.likelihood_surrogate(**{**usual, "num_live": 40, "dim": 2, **change})
