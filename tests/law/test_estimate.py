"""The laws of the house for the diagnostics of jsamp.estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp import estimate

DENOISER = js.Denoiser(lambda x, t: 0.5 * x, js.noise.VE(), predicts="x0")
DRAWS = jax.random.normal(jax.random.key(0), (4, 100))

REGISTRY = {
    "rhat": estimate.rhat,
    "ess": lambda x: (estimate.ess(x), estimate.ess(x, "tail"), estimate.ess(x, "mean")),
    "mcse": lambda x: (estimate.mcse(x), estimate.mcse(x, "sd"), estimate.mcse(x, "quantile", prob=0.2)),
    "mean": estimate.mean,
    "ebfmi": estimate.ebfmi,
    "Estimate": lambda x: estimate.Estimate(x.mean(), x.std(), x.size),
    "QuantileLabels": lambda x: estimate.QuantileLabels(x, x.mean(), x.size),
    "minority_score": lambda x: estimate.minority_score(jax.random.key(0), DENOISER, x, 0.5),
    "quantile_labels": lambda x: estimate.quantile_labels(x.reshape(-1), 4),
}


def test_every_public_name_is_registered():
    assert set(estimate.__all__) <= set(REGISTRY)


@pytest.mark.parametrize("name", REGISTRY)
def test_jit_vmap_and_dtype(name):
    function = REGISTRY[name]
    eager = function(DRAWS)
    traced = jax.jit(function)(DRAWS)
    many = jax.vmap(function)(jnp.stack([DRAWS, 2 * DRAWS + 1]))
    for a, b, c in zip(*map(jax.tree.leaves, (eager, traced, many)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
        np.testing.assert_allclose(a, c[0], rtol=1e-4)
        assert np.all(np.isfinite(a))


@pytest.mark.parametrize("name", ["rhat", "ess", "mcse", "mean"])
def test_coordinates_are_independent(name):
    both = REGISTRY[name](jnp.stack([DRAWS, DRAWS**2], axis=-1))
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(REGISTRY[name](DRAWS)), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-4)


@pytest.mark.parametrize("name", ["rhat", "ess", "mcse", "mean", "ebfmi"])
def test_bad_input_is_refused(name):
    for wrong in (jnp.zeros(10), jnp.zeros((4, 1))):
        with pytest.raises(ValueError, match="chains, draws"):
            REGISTRY[name](wrong)
    for function in (estimate.ess, estimate.mcse):
        with pytest.raises(ValueError, match="must be one of"):
            function(DRAWS, "none")
    with pytest.raises(ValueError, match="prob"):
        estimate.mcse(DRAWS, "quantile", prob=1.0)


def test_minority_refusals():
    key, x0, good = jax.random.key(0), jnp.ones(2), {"draws": 2}
    none = js.Denoiser(lambda x, t: x, js.noise.Flow(), predicts="velocity")
    for arguments, options, error, match in [
        ((None, DENOISER, x0, 0.5), good, ValueError, "key is None"),
        ((key, 3, x0, 0.5), good, TypeError, "denoiser must be callable"),
        ((key, lambda x, t: x, x0, 0.5), good, TypeError, "denoiser must have a schedule"),
        ((key, DENOISER, jnp.arange(3), 0.5), good, TypeError, "x0 must be floating"),
        ((key, DENOISER, x0, 0.5), {"draws": 0}, ValueError, "draws"),
        ((key, DENOISER, x0, 0.5), {"distance": 3}, TypeError, "distance must be callable"),
        ((key, none, x0, 1.0), good, ValueError, "nothing of x0 is left"),
    ]:
        with pytest.raises(error, match=f"minority_score: .*{match}"):
            estimate.minority_score(*arguments, **options)
    for scores, levels, match in [
        (jnp.ones((2, 2)), 2, "scores must be"), (jnp.arange(3.0), 4, "levels"), (jnp.arange(3.0), 1, "levels"),
        (jnp.ones(4), 2, "all scores are"), (jnp.array([0.0, jnp.nan]), 2, "scores must be finite"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"quantile_labels: {match}"):
            estimate.quantile_labels(scores, levels)


def test_double_precision(x64):
    assert estimate.ess(np.asarray(DRAWS, np.float64)).dtype == jnp.float64
    assert estimate.ess(DRAWS).dtype == jnp.float32
