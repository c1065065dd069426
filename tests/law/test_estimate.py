"""The laws of the house for jsamp.estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, pairs
from estimate_cases import REGISTRY as OTHERS

import jsamp as js

KEY = jax.random.key(0)
X0 = jnp.array([0.3, -1.1])
DRAWS = jax.random.normal(KEY, (4, 100))
DENOISER = js.Denoiser(lambda x, t: 0.5 * x, js.noise.VE(), predicts="x0")
SILENT = js.Denoiser(lambda x, t: x, js.noise.Flow(), predicts="velocity")


def chains_refused(function):
    """The refusals of a diagnostic of chains."""
    return [(lambda x=x: function(x), r"chains, draws") for x in (jnp.zeros(10), jnp.zeros((4, 1)))]


def diagnostic(function, *arguments, **options):
    """A diagnostic of chains [chains, draws]; ranks have no slope."""
    return Case(
        lambda: lambda x: function(x, *arguments, **options), (DRAWS,), mechanism=function.__name__, dtypes="raised",
        tolerance=1e-4,
        refusals=chains_refused(function),
    )  # fmt: skip


def kind_refused(function):
    return [
        *chains_refused(function),
        (lambda: function(DRAWS, "none"), "must be one of"),
    ]


def minority_score(key, x0, **options):
    return js.estimate.minority_score(key, DENOISER, x0, 0.5, **options)


def score_refused(*arguments, match, **options):
    call = lambda: js.estimate.minority_score(*arguments, **options)
    return call, f"minority_score: .*{match}"


def labels_refused(scores, levels, match):
    return lambda: js.estimate.quantile_labels(scores, levels), f"quantile_labels: {match}"


REGISTRY = {
    "rhat": diagnostic(js.estimate.rhat),
    "ess": [
        diagnostic(js.estimate.ess),
        diagnostic(js.estimate.ess, "tail"),
        Case(
            lambda: lambda x: js.estimate.ess(x, "mean"), (DRAWS,), dtypes="raised", tolerance=1e-4,
            refusals=kind_refused(js.estimate.ess),
        ),
    ],
    "mcse": [
        diagnostic(js.estimate.mcse),
        diagnostic(js.estimate.mcse, "sd"),
        Case(
            lambda: lambda x: js.estimate.mcse(x, "quantile", prob=0.2), (DRAWS,), check_vma=False, dtypes="raised", tolerance=1e-4,
            refusals=[
                *kind_refused(js.estimate.mcse), (lambda: js.estimate.mcse(DRAWS, "quantile", prob=1.0), "prob"),
            ],
        ),
    ],
    "mean": diagnostic(js.estimate.mean),
    "ebfmi": diagnostic(js.estimate.ebfmi),
    "Estimate": Case(lambda: lambda x: js.estimate.Estimate(x.mean(), x.std(), x.size), (DRAWS,), returns=js.Estimate),
    "QuantileLabels": Case(
        lambda: lambda x: js.estimate.QuantileLabels(x, x.mean(), x.size), (X0,), returns=js.estimate.QuantileLabels
    ),
    "minority_score": Case(
        lambda: minority_score, (X0,), dtypes="raised", smooth=True, stochastic=True, returns=js.Estimate,
        refusals=[
            score_refused(None, DENOISER, X0, 0.5, match="key is None"),
            score_refused(KEY, 3, X0, 0.5, match="denoiser must be callable"),
            score_refused(KEY, lambda x, t: x, X0, 0.5, match="denoiser must have a schedule"),
            score_refused(KEY, DENOISER, jnp.arange(3), 0.5, match="x0 must be floating"),
            score_refused(KEY, DENOISER, X0, 0.5, num=0, match="num"),
            score_refused(KEY, DENOISER, X0, 0.5, distance=3, match="distance must be callable"),
            score_refused(KEY, SILENT, X0, 1.0, match="nothing of x0 is left"),
        ],
    ),
    "quantile_labels": Case(
        lambda: lambda x: js.estimate.quantile_labels(x, 4), (DRAWS.reshape(-1),), returns=js.estimate.QuantileLabels,
        refusals=[
            labels_refused(jnp.ones((2, 2)), 2, "scores must be"),
            labels_refused(jnp.arange(3.0), 4, "levels"),
            labels_refused(jnp.arange(3.0), 1, "levels"),
            labels_refused(jnp.ones(4), 2, "all scores are"),
            labels_refused(jnp.array([0.0, jnp.nan]), 2, "scores must be finite"),
        ],
    ),
    **OTHERS,
}  # fmt: skip


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)


@pytest.mark.parametrize("name", ["rhat", "ess", "mcse", "mean"])
def test_coordinates_are_independent(name):
    function = getattr(js.estimate, name)
    both = function(jnp.stack([DRAWS, DRAWS**2], axis=-1))
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(function(DRAWS)), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-4)
