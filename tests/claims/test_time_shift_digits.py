"""Li et al. 2024: a shifted time label brings few-step samples of a real network closer to the data."""

import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.mark.slow
def test_shifted_times_help_a_trained_network_at_ten_steps():
    """FD of 300 images of DDIM with ten steps, for three seeds: measured .95, .90 and .93 of the plain sampler's.

    At five steps the published step gains nothing here, and at fifty the gain does not vanish, against the paper; see
    benchmarks/results/time_shift.md.
    """
    from time_shift_digits import Digits

    ratios = []
    with jax.numpy_rank_promotion("allow"):
        for seed in (3, 4, 5):
            digits = Digits(num=300, seed=seed)
            plain = digits.distance(10)
            ratios.append(digits.distance(10, window=40, cutoff=200) / plain)
            # The authors' own code path moves the target by the variance of the state before the step: it hurts here.
            assert digits.distance(10, window=80, cutoff=200, mode="target") > plain
    assert max(ratios) < 0.985
    assert sum(ratios) / 3 < 0.96
