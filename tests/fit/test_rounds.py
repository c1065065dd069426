"""Rounds of Bayesian optimisation after the first compile nothing, by every surrogate and by batches."""

import jax
import numpy as np
import pytest

import jsamp as js

NETWORK = js.fit.Network(1, 4)
SURROGATES = {
    "GP": js.fit.GP(steps=2, capacity=16),
    "relu": js.fit.nngp(1, capacity=16),
    "erf": js.fit.nngp(1, "erf", noise=0.1, capacity=16),
    "DeepKernel": js.fit.DeepKernel(NETWORK, pretrain=2, steps=2, capacity=16),
    "Ensemble": js.fit.Ensemble(NETWORK, members=2, steps=2, capacity=16),
    "LaplaceNetwork": js.fit.LaplaceNetwork(NETWORK, steps=2, capacity=16),
    "HMCNetwork": js.fit.HMCNetwork(NETWORK, num=2, warm=2, max_steps=2, pretrain=2, capacity=16),
    "SGHMCNetwork": js.fit.SGHMCNetwork(NETWORK, num=2, thin=1, burn=2, pretrain=2, capacity=16),
}
BOUNDS, OPTIONS = (np.zeros(2), np.ones(2)), {"initial": 4, "raw": 8, "restarts": 1, "steps": 2}


def compiles(caplog, surrogate, **options):
    """Programs compiled before each evaluation."""
    seen = []

    def objective(x):
        seen.append(caplog.text.count("Compiling"))
        return float(np.sum((x - 0.3) ** 2))

    with jax.log_compiles():
        js.fit.optimise(jax.random.key(0), objective, BOUNDS, surrogate, **{**OPTIONS, **options})
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", SURROGATES)
def test_growing_data_never_recompile(name, caplog):
    """Four rounds; the first one compiles, so the count itself is seen to work."""
    seen = compiles(caplog, SURROGATES[name], budget=8)
    assert seen[4] > seen[3]
    assert seen[5:] == seen[4:5] * 3, f"{seen[-1] - seen[4]} programs compiled after the first round"


def test_rounds_of_batches_never_recompile(caplog):
    """Two points a round, by draws of the posterior."""
    seen = compiles(caplog, SURROGATES["GP"], budget=10, batch=2)
    assert seen[4] > seen[3]
    assert seen[6:] == seen[4:5] * 4
