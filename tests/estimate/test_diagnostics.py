"""Diagnostics against arviz, closed forms and failures they must see."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate


def autoregression(rho, chains, draws, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(chains, draws))
    x = np.zeros((chains, draws))
    x[:, 0] = noise[:, 0]
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return x


@pytest.mark.parametrize(
    ("rho", "chains", "draws"),
    [*((rho, 4, 333) for rho in (0.0, 0.5, 0.95, -0.5)), (0.5, 4, 11), (0.95, 2, 1000), (0.5, 1, 400)],
)
def test_agreement_with_arviz(rho, chains, draws):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
        x = (2 * autoregression(rho, chains, draws) + 5).astype(np.float32)
        pairs = [
            (estimate.rhat(x), arviz.rhat(x)),
            (estimate.ess(x), arviz.ess(x)),
            (estimate.ess(x, "tail"), arviz.ess(x, method="tail")),
            (estimate.ess(x, "mean"), arviz.ess(x, method="mean")),
            (estimate.mcse(x), arviz.mcse(x)),
            (estimate.mcse(x, "sd"), arviz.mcse(x, method="sd")),
            (estimate.mcse(x, "quantile", prob=0.9), arviz.mcse(x, method="quantile", prob=0.9)),
            (estimate.mcse(x, "quantile"), arviz.mcse(x, method="quantile", prob=0.5)),
        ]
        np.testing.assert_allclose(estimate.ebfmi(x), arviz.bfmi(x), rtol=1e-3)
    for i, (mine, theirs) in enumerate(pairs):
        if chains == 1 and i == 0:
            continue  # arviz wants two chains; ours splits one
        assert np.isclose(float(mine), float(theirs), rtol=1e-3), i


def test_ties_share_ranks():
    arviz = pytest.importorskip("arviz")
    x = np.round(autoregression(0.5, 4, 400), 1).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isclose(float(estimate.ess(x)), float(arviz.ess(x)), rtol=1e-3)
        assert np.isclose(float(estimate.rhat(x)), float(arviz.rhat(x)), rtol=1e-3)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_effective_size_of_an_autoregression(rho):
    x = autoregression(rho, 4, 20_000, seed=3).astype(np.float32)
    want = 80_000 * (1 - rho) / (1 + rho)
    assert abs(float(estimate.ess(x, "mean")) / want - 1) < 0.15


def test_failures_are_seen():
    x = autoregression(0.3, 4, 500).astype(np.float32)
    shifted = x + np.array([[0.0], [0.0], [0.0], [2.0]], np.float32)
    wide = x * np.array([[1.0], [1.0], [1.0], [4.0]], np.float32)
    assert float(estimate.rhat(x)) < 1.02
    assert float(estimate.rhat(shifted)) > 1.1
    assert float(estimate.rhat(wide)) > 1.1  # only the folded half sees a difference of scale
    assert np.isnan(float(estimate.rhat(np.ones((4, 100), np.float32))))
    assert np.isnan(float(estimate.ess(np.where(np.arange(500) == 7, np.nan, x))))


def test_trees_and_estimates():
    x = {"a": jnp.asarray(autoregression(0.5, 4, 500), jnp.float32), "b": jnp.ones((4, 500, 2, 3))}
    result = estimate.mean(x)
    assert isinstance(result, estimate.Estimate)
    assert result.value["b"].shape == (2, 3)
    assert np.isclose(float(result.stderr["a"]), float(jnp.std(x["a"], ddof=1) / jnp.sqrt(result.ess["a"])), rtol=1e-5)


def test_the_error_of_the_mean_covers():
    # 200 replications: z-scores of the mean have variance near 1.
    x = np.stack([autoregression(0.7, 4, 400, seed=s) for s in range(200)], axis=-1).astype(np.float32)
    result = estimate.mean(x)
    z = np.asarray(result.value / result.stderr)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / 200)


def test_constants_and_ties_are_no_accident_of_rounding():
    rng = np.random.default_rng(0)
    coin = rng.random((4, 1000)) < 0.3
    assert 3300 < float(estimate.ess(coin, "tail")) <= 4400  # one of the two indicators is constant: it says nothing
    for value in (0.3, 1e7, 0.0):
        same = np.full((4, 100), value, np.float32)
        for kind in ("bulk", "tail", "mean"):
            assert np.isnan(float(estimate.ess(same, kind))), (value, kind)
        assert np.isnan(float(estimate.rhat(same)))
        for kind in ("mean", "sd", "quantile"):
            assert float(estimate.mcse(same, kind)) == 0, (value, kind)
    # Clipped at 1: the upper quantiles are 1, without error; below the clip there is one.
    clipped = np.minimum(rng.normal(size=(4, 1000)) + 1, 1).astype(np.float32)
    assert float(estimate.mcse(clipped, "quantile", prob=0.9)) == 0
    assert 0.02 < float(estimate.mcse(clipped, "quantile", prob=0.2)) < 0.1
    # Chains that stand still at different places do not agree; a coin with equal shares has no scale to compare.
    assert np.isposinf(float(estimate.rhat(np.arange(4.0)[:, None] * np.ones((4, 100)))))
    assert abs(float(estimate.rhat(rng.random((4, 1000)) < 0.5)) - 1) < 0.02


def test_arviz_agrees_on_binary_and_clipped_draws():
    arviz = pytest.importorskip("arviz")
    rng = np.random.default_rng(1)
    draws = [
        (rng.random((4, 500)) < 0.3).astype(np.float32),
        np.maximum(rng.normal(size=(4, 500)), 0).astype(np.float32),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x in draws:
            for kind in ("bulk", "tail", "mean"):
                assert np.isclose(float(estimate.ess(x, kind)), float(arviz.ess(x, method=kind)), rtol=2e-3), kind
            assert np.isclose(float(estimate.rhat(x)), float(arviz.rhat(x)), rtol=1e-3)
