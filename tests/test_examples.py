"""Every example runs, small."""

import os
import pathlib
import re
import runpy
import subprocess
import sys
import warnings

import compile_cache
import jax
import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
LIBRARIES = {
    "digits_net",
    "digits_metrics",
    "png",
    "small_digits",
    "text_net",
}  # imported by the others; nothing to run
COMMANDS = {
    "scale_out": ["--devices", "2", "--width", "16", "--samples", "2048", "--rows", "4096"],
    "gallery": ["hello_solver", "--out", "{tmp}/gallery"],
    "hello_solver": ["--out", "{tmp}/picture.png"],
    "hello_chain": ["--out", "{tmp}/picture.png"],
    "hello_coreset": ["--out", "{tmp}/picture.png"],
    "train_nnx": ["--steps", "20", "--out", "{tmp}/picture.png"],
    "train_linen": ["--steps", "20", "--out", "{tmp}/picture.png"],
    "train_equinox": ["--steps", "20", "--out", "{tmp}/picture.png"],
    "active_digits": ["--num", "1", "--particles", "2", "--out", "{tmp}/picture.png"],
    "minority_digits": ["--num", "60", "--steps", "3", "--out", "{tmp}/picture.png"],
    "restore_digits": ["--num", "1", "--out", "{tmp}/picture.png"],
    "searched_solver": [
        *("--nfe", "3", "--budget", "4", "--num", "2", "--fine", "4", "--learn", "2", "--out", "{tmp}/picture.png")
    ],
    "learned_grid": ["--nfe", "3", "--num", "8", "--steps", "2", "--fine", "10", "--out", "{tmp}/picture.png"],
    "many_images": ["--num", "6", "--batch", "4", "--steps", "2", "--out", "{tmp}/images"],
    "steer_digits": ["--num", "1", "--population", "2", "--out", "{tmp}/picture.png"],
    "bayesian_logistic": ["--num", "40", "--warmup", "40", "--out", "{tmp}/picture.png"],
    "denoising_mcmc_digits": ["--num", "2", "--evaluations", "4", "--out", "{tmp}/picture.png"],
    "digits_coreset": ["--trials", "1", "--sizes", "64", "--out", "{tmp}"],
    "l1_regression": ["--rows", "3000", "--trials", "1", "--out", "{tmp}"],
    "smote_imbalanced": ["--out", "{tmp}"],
    "mixed_moves": ["--num", "40", "--out", "{tmp}/picture.png"],
    "compare_classifiers": ["--rows", "200"],
    "normals_to_shape": ["--size", "16", "--shapes", "8", "--out", "{tmp}/picture.png"],
    "communities": ["--most", "12", "--out", "{tmp}"],
    "effects": ["--units", "60", "--steps", "10", "--out", "{tmp}/picture.png"],
    "sensitivity": ["--num", "32", "--out", "{tmp}"],
    "hubble_evidence": ["--live", "40", "--out", "{tmp}/picture.png"],
    "random_features": ["--draws", "1", "--units", "40", "--out", "{tmp}/picture.png"],
    "bayesian_optimisation": ["--function", "branin", "--most", "11", "--out", "{tmp}/picture.png"],
    "choose_channels": ["--sizes", "8", "4", "--epochs", "6", "--out", "{tmp}/picture.png"],
    "clean_labels": ["--steps", "5", "--out", "{tmp}/picture.png"],
    "quantise_digits": ["--num", "8", "--calibrate", "2", "--rows", "2", "--out", "{tmp}/picture.png"],
    "memorisation": ["--num", "40", "--steps", "4"],
    "draw_digits": ["--quick", "--steps", "4", "--out", "{tmp}/digits.png"],
    "distil_digits": ["--steps", "40", "--distil", "2", "--out", "{tmp}/picture.png"],
    "mmd_digits": ["--steps", "20", "--tune", "2", "--classifier", "5", "--out", "{tmp}/picture.png"],
    "bridge_digits": ["--steps", "10", "--num", "2", "--out", "{tmp}/picture.png"],
    "ambient_digits": ["--steps", "20", "--out", "{tmp}/picture.png"],
    "deblur_digits": ["--steps", "4", "--out", "{tmp}/picture.png"],
    "edit_digits": [*("--steps", "20", "--distil", "2", "--num", "3", "--updates", "2", "--out", "{tmp}/picture.png")],
    "score_distillation": ["--steps", "20", "--moves", "3", "--num", "40", "--out", "{tmp}/picture.png"],
    "few_labels": ["--steps", "8", "--seeds", "2", "--out", "{tmp}/picture.png"],
    "dominoes": ["--steps", "5", "--num", "40", "--out", "{tmp}/picture.png"],
    "pinn_peak": ["--steps", "40", "--out", "{tmp}/picture.png"],
    "train_digits": ["--data", "{tmp}/mnist.npz", "--steps", "3", "--out", "{tmp}/weights.npz"],
    "text_decoding": ["--num", "2", "--quick"],
    "text_watermark": ["--texts", "2", "--num", "40", "--edit-runs", "3", "--out", "{tmp}/picture.png"],
    "text_reward": ["--population", "2", "--length", "16", "--runs", "1"],
    "train_text": ["--steps", "2", "--out", "{tmp}"],
    "train_classifier": ["--data", "{tmp}/mnist.npz", "--steps", "2", "--out", "{tmp}/features.npz"],
}


NEEDS = {
    "communities": "networkx",
    "train_equinox": "equinox",
    "bayesian_logistic": "numpyro",
}  # beside flax, matplotlib and scikit-learn


# These need an interpreter of their own: they choose devices or x64 for the whole process, or start other programs. The
# last three are there as a reader starts them. The others run in this process, which saves the imports.
ALONE = {"scale_out", "gallery", "l1_regression", "hello_solver", "draw_digits", "train_digits"}


def test_every_example_is_listed():
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found == LIBRARIES | set(COMMANDS)
    assert set(COMMANDS) >= ALONE
    index = (EXAMPLES / "README.md").read_text()
    assert all(f"{name}.py" in index for name in found)
    pictures = set(re.findall(r"\((gallery/\w+\.png|\w+\.png)\)", index))
    assert pictures == {"digits.png"} | {f"gallery/{path.name}" for path in (EXAMPLES / "gallery").iterdir()}
    assert all((EXAMPLES / name).stat().st_size <= 60_000 for name in pictures)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("hello")])
def test_first_examples_are_under_forty_lines(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 40


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
def test_example_runs(name, folder, monkeypatch):
    pytest.importorskip(NEEDS.get(name, "numpy"), reason=f"{name} needs it")
    arguments = [part.format(tmp=folder) for part in COMMANDS[name]]
    if name in ALONE:
        run_alone(EXAMPLES / f"{name}.py", arguments)
    else:
        run_here(EXAMPLES / f"{name}.py", arguments, monkeypatch)


def run_alone(path, arguments):
    """In an interpreter of its own."""
    environment = os.environ | compile_cache.of_child()
    options = {"capture_output": True, "text": True, "timeout": 600, "check": False, "env": environment}
    done = subprocess.run([sys.executable, str(path), *arguments], cwd=EXAMPLES.parent, **options)
    assert done.returncode == 0, done.stderr[-2000:]


def run_here(path, arguments, monkeypatch):
    """As a script, but without the price of an interpreter, of importing JAX and of compiling what others compiled."""
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    monkeypatch.chdir(EXAMPLES.parent)
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):  # as in a fresh interpreter
        warnings.simplefilter("default")
        runpy.run_path(str(path), run_name="__main__")
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
