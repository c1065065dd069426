"""The README: its snippets run as they stand, and what it names and links to is there."""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


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
    rows = re.findall(r"^\| `js\.(\w+)` \| (.*) \|$", README, re.M)
    assert {room for room, _ in rows} == {name for name in js.__all__ if inspect.ismodule(getattr(js, name))}
    for room, text in rows:
        assert not [name for name in re.findall(r"`(\w+)`", text) if not hasattr(getattr(js, room), name)], room


def test_calls_to_begin_with_exist():
    for room, name in re.findall(r"`js\.(\w+)(?:\.(\w+))?`", README):
        assert hasattr(getattr(js, room), name or "__name__"), (room, name)


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 20
    assert not [path for path in targets if not (ROOT / path).exists()]
