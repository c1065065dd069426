"""The laws of the house for the diagnostics of jsamp.estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate

DRAWS = jax.random.normal(jax.random.key(0), (4, 100))

REGISTRY = {
    "rhat": estimate.rhat,
    "ess": lambda x: (estimate.ess(x), estimate.ess(x, "tail"), estimate.ess(x, "mean")),
    "mcse": lambda x: (estimate.mcse(x), estimate.mcse(x, "sd")),
    "mean": estimate.mean,
    "ebfmi": estimate.ebfmi,
    "Estimate": lambda x: estimate.Estimate(x.mean(), x.std(), x.size),
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


def test_double_precision(x64):
    assert estimate.ess(np.asarray(DRAWS, np.float64)).dtype == jnp.float64
    assert estimate.ess(DRAWS).dtype == jnp.float32
