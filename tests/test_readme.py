"""The README's snippets run as they stand."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

README = (pathlib.Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_snippets_run_one_after_the_other():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    schedule = js.noise.VP()

    def network(label):
        return js.Denoiser(jax.tree_util.Partial(lambda w, x, t: w * jnp.tanh(x) * t, jnp.float32(label)), schedule)

    names = {
        "model": lambda x, t: 0.3 * x,
        "cond": network(0.4),
        "uncond": network(0.2),
        "x": jax.random.normal(jax.random.key(1), (6,)),
        "key": jax.random.key(2),
        "loss": lambda x: jnp.sum(x**2),
    }
    for block in blocks:
        exec(block, names)
    assert names["images"].shape == (64, 28, 28, 1)
    assert names["many"].shape == (3, 6)
    assert np.all(np.isfinite(names["slope"]))
    # A traced grid ran above; here the loop of single steps equals the runner.
    whole = js.sample(names["key"], names["guided"], names["x"], names["plan"]).x
    np.testing.assert_allclose(js.solve.output(names["state"]), whole, rtol=1e-5)


def test_readme_names_exist():
    row = next(line for line in README.splitlines() if line.startswith("| `js.solve`"))
    for name in re.findall(r"`(\w+)`", row.split("|")[2]):
        assert hasattr(js.solve, name), name
