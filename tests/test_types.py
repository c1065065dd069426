"""A type checker catches what a user types wrongly, and accepts what the README says."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

START = """
import jax, jsamp as js
schedule = js.noise.VP()
grid = js.noise.time_grid(schedule, 4)
key = jax.random.key(0)
x = jax.random.normal(key, (3,))
plan = js.solve.dpmpp(schedule, grid, order=2)
denoiser = js.Denoiser(lambda x, t: x, schedule, predicts="x0")
kernel = js.mcmc.MALA(lambda x: -(x**2).sum(), step_size=0.3)
"""
WRONG = [
    "js.solve.dpmpp(grid, schedule)",
    'js.sample(x, 5, "x", plan)',
    "js.sample(key, denoiser, x, grid)",
    'js.sample(key, denoiser, x, "plan")',
    "js.sample(key, denoiser, x, plan, steps=3)",
    "js.solve.ddim(schedule, 10)",
    'js.solve.dpmpp(schedule, grid, order="2")',
    "js.noise.time_grid(4, schedule)",
    'js.Denoiser(lambda x, t: x, schedule, predicts="noise")',
    'js.chain(key, kernel, x, "many")',
    'js.solve.unipc(schedule, grid, variant="bh3")',
    'js.select.draw(key, x**2, 2, scheme="gumbel")',
    'js.noise.logsnr_grid(schedule, 4, final="none")',
    "plan.rows",
]  # fmt: skip
RIGHT = [
    "js.sample(key, denoiser, x, plan).x",
    "js.sample(None, js.denoise.ClassifierFree(denoiser, denoiser, 2.0), x, js.solve.deis(schedule, grid)).x",
    "js.solve.heun(js.noise.Flow(), [1.0, 0.5, 0.1])",
    "js.solve.ddim(js.noise.Discrete.ddpm_linear(), js.noise.index_grid(js.noise.Discrete.ddpm_linear(), 10))",
    "js.chain(key, kernel, x, 10).info",
    'js.select.draw(key, x**2, 2, scheme="priority").take(x)',
]  # fmt: skip


@pytest.mark.slow
def test_wrong_user_code_is_marked_and_right_code_is_not(tmp_path):
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("needs pyright")
    lines = [*START.strip().splitlines(), *WRONG, *RIGHT]
    (tmp_path / "user.py").write_text("\n".join(lines) + "\n")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)], "typeCheckingMode": "basic"}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "user.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    found = json.loads(run.stdout)["generalDiagnostics"]
    marked = {lines[one["range"]["start"]["line"]] for one in found if one["severity"] == "error"}
    assert set(WRONG) <= marked, set(WRONG) - marked
    assert not marked - set(WRONG), marked - set(WRONG)
