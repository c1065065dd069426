"""Nolan et al. 2024: pixels chosen where particles disagree reconstruct real digits better than fixed or random ones."""

import pathlib
import sys

import jax
import numpy as np
import optimised
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples"))


@pytest.mark.slow
def test_chosen_pixels_beat_fixed_and_random_ones_at_20_of_784(monkeypatch):
    """Paired over 12 test digits with the shipped denoiser, in units of the standard error of the mean difference."""
    import active_digits
    import digits_net

    monkeypatch.setattr(jax, "jit", optimised.jit)
    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    truths = active_digits.real_digits(0, 12)
    with jax.numpy_rank_promotion("allow"):
        errors = {
            choice: active_digits.run(params, truths, choice, particles=8, seed=0, steps=50)[2]
            for choice in ("entropy", "data variance", "chance")
        }
    for choice, least in (("chance", 4.0), ("data variance", 2.0)):
        gain = errors[choice] - errors["entropy"]
        assert gain.mean() > least * gain.std(ddof=1) / np.sqrt(len(gain)), choice
