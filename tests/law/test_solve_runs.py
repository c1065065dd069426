"""Slices of plans, trajectories, checkpoints and features that are not used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_same_bits, interpret, network
from solver_cases import KEY, LAGRANGE, MODELS, SOLVERS, START, VP, grid_for, plans

import jsamp as js

S = js.solve


@pytest.mark.parametrize("name", LAGRANGE)
def test_a_slice_is_the_plan_of_the_rest_of_the_grid(name):
    """plan[i:] of a Lagrange solver is what the builder makes of grid[i:], warm-up included."""
    n = 7
    whole, grid = plans(n)[name], grid_for(name, n)
    for i in range(1, n):
        wanted, part = SOLVERS[name](VP, grid[i:]), whole[i:]
        rng = np.random.default_rng(0)
        noise = {(r, 0): rng.normal(size=3) for r in range(n + 1)}
        predict = lambda x, t: ((x - np.tanh(x) * VP.sigma(t)) / VP.alpha(t), np.tanh(x))
        found, target = (interpret(p, predict, START, lambda r, s: noise[r, s]) for p in (part, wanted))
        np.testing.assert_allclose(found, target, rtol=1e-9, atol=1e-11, err_msg=f"{name}[{i}:]")


def test_keep_stacks_what_it_returns():
    plan = plans()["dpmpp(3)"]
    result = js.sample(None, MODELS[0], START, plan, keep=lambda x, prediction: (x, prediction.x0))
    xs, x0s = result.info.kept
    assert xs.shape == x0s.shape == (5, 3)
    assert_same_bits(xs[-1], result.x)
    assert_same_bits(js.sample(None, MODELS[0], START, plan).x, result.x)
    state, seen = S.init(plan, START), []
    for r in range(plan.nfe):
        state = S.step(None, MODELS[0], state, jax.tree.map(lambda a, r=r: a[r], plan))
        seen.append(state.x)
    np.testing.assert_allclose(xs, jnp.stack(seen), rtol=1e-5, atol=1e-6)


def test_checkpointing_the_model_changes_no_number():
    """Rematerialisation is the user's own `jax.checkpoint` around the network."""
    plan = jax.tree.map(jnp.asarray, plans()["deis(3)"])

    def loss(x, wrap):
        model = jax.tree_util.Partial(wrap(network), {"gain": jnp.float32(0.7), "bend": jnp.float32(0.4)})
        return jnp.sum(js.sample(None, js.Denoiser(model, VP), x, plan).x ** 2)

    plain = jax.grad(lambda x: loss(x, lambda f: f))(START)
    saved = jax.grad(lambda x: loss(x, jax.checkpoint))(START)
    np.testing.assert_allclose(plain, saved, rtol=1e-6)


def test_unused_features_cost_nothing():
    """A deterministic plan's program has no random bits; a plan without history has no dynamic update."""
    text = str(jax.make_jaxpr(lambda x: js.sample(None, MODELS[0], x, plans()["ddim"]).x)(START))
    for word in ("random_bits", "threefry", "dynamic_update_slice", "dot_general"):
        assert word not in text, word
    text = str(jax.make_jaxpr(lambda x: js.sample(KEY, MODELS[0], x, plans()["deis(4)"]).x)(START))
    assert "random_bits" not in text
    assert "threefry2x32" not in text.replace("random_fold_in", "")
    assert "dot_general" not in text
