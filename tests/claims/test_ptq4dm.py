"""Post-training quantisation on diffusion models (arXiv:2211.15736), on the shipped digits denoiser.

Eight bits are free when the ranges have seen the whole trajectory, and are not when they have seen one time. The law of
times that the paper draws from is no better than equal weights here (within a tenth); ranges by time are.
"""

import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples"))

import quantise_digits as example


@pytest.mark.slow
def test_whole_trajectories_windows_and_reconstruction(ranks):
    labels = jnp.arange(8) % 10
    denoiser, x, starts = example.shipped(labels), example.noise(1, 8), example.noise(2, 8)
    exact = example.draw(denoiser, starts)
    rmse = {
        name: float(np.sqrt(np.mean((example.draw(example.quantised(denoiser, x, *how), starts) - exact) ** 2)))
        for name, *how in example.ROWS
    }
    spread = float(jnp.std(exact))
    assert rmse["8/8 uniform"] < 0.12 * spread
    assert rmse["8/8 at the image"] > 4 * rmse["8/8 uniform"]
    assert rmse["8/8 at the noise"] > 1.5 * rmse["8/8 uniform"]
    assert rmse["8/5 five windows"] < 0.7 * rmse["8/5 uniform"]
    assert rmse["4/8 reconstructed"] < 0.97 * rmse["4/8 to nearest"]
    assert 0.9 < rmse["8/5 normal"] / rmse["8/5 uniform"] < 1.1


@pytest.fixture
def ranks():
    import jax

    with jax.numpy_rank_promotion("allow"):
        yield
