"""Li et al. 2024: a shifted time label brings few-step samples of a real network closer to the data."""

import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.mark.slow
def test_shifted_times_help_a_trained_network_at_five_and_ten_steps():
    from time_shift_digits import Digits

    with jax.numpy_rank_promotion("allow"):
        digits = Digits(num=300)
        for steps in (5, 10):
            plain = digits.distance(steps)
            # Measured at 400 images: 12.8 -> 11.8 and 8.8 -> 7.9. The gain does not vanish at 50 steps (7.7 -> 6.7 with
            # window 10), against the paper; see benchmarks/results/time_shift.md.
            assert digits.distance(steps, window=40, cutoff=200) < 0.97 * plain
            # The authors' own code path moves the target by the variance of the state before the step: it hurts here.
            assert digits.distance(steps, window=80, cutoff=200, mode="target") > plain
