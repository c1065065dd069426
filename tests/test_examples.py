"""Every example runs, small."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
LIBRARIES = {"digits_net", "digits_metrics", "png"}  # imported by the others; nothing to run
COMMANDS = {
    "active_digits": ["--num", "1", "--particles", "2", "--out", "{tmp}/picture.png"],
    "minority_digits": ["--num", "60", "--steps", "3", "--out", "{tmp}/picture.png"],
    "restore_digits": ["--num", "1", "--out", "{tmp}/picture.png"],
    "steer_digits": ["--num", "1", "--population", "2", "--out", "{tmp}/picture.png"],
    "bayesian_logistic": ["--num", "40", "--warmup", "40", "--out", "{tmp}/picture.png"],
    "denoising_mcmc_digits": ["--num", "2", "--evaluations", "4", "--out", "{tmp}/picture.png"],
    "digits_coreset": ["--trials", "1", "--out", "{tmp}"],
    "l1_regression": ["--rows", "3000", "--trials", "1", "--out", "{tmp}"],
    "smote_imbalanced": ["--out", "{tmp}"],
    "draw_digits": ["--quick", "--steps", "4", "--out", "{tmp}/digits.png"],
    "train_digits": ["--data", "{tmp}/mnist.npz", "--steps", "3", "--out", "{tmp}/weights.npz"],
    "train_classifier": ["--data", "{tmp}/mnist.npz", "--steps", "2", "--out", "{tmp}/features.npz"],
}


def test_every_example_is_listed():
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found == LIBRARIES | set(COMMANDS)


@pytest.fixture
def folder(tmp_path):
    """A folder with a small stand-in for MNIST."""
    rng = np.random.default_rng(0)
    images = {f"x_{part}": rng.integers(0, 256, (n, 28, 28), np.uint8) for part, n in (("train", 600), ("test", 5000))}
    labels = {f"y_{part}": rng.integers(0, 10, n).astype(np.uint8) for part, n in (("train", 600), ("test", 5000))}
    np.savez(tmp_path / "mnist.npz", **images, **labels)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_example_runs(name, folder):
    arguments = [part.format(tmp=folder) for part in COMMANDS[name]]
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
