"""Laws of starts and jumps: what `jsamp.solve` builds around a plan."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import Traces, assert_same_bits, denoiser

import jsamp as js

S = js.solve
VP, OUVE = js.noise.VP(), js.noise.OUVE()
PLAN = S.dpmpp(VP, js.noise.time_grid(VP, 5, 2))
BRIDGE = S.dpmpp(OUVE, js.noise.time_grid(OUVE, 5))
X = np.array([0.9, -0.4, 0.2], np.float32)
KEY = jax.random.key(3)
WEIGHTS = ({"gain": np.float32(0.7), "bend": np.float32(0.4)}, {"gain": np.float32(0.6), "bend": np.float32(0.5)})


def squares(x0):
    return jnp.sum((x0 - 0.5) ** 2)


def shifted(model, reference):
    return jax.tree_util.Partial(_shifted, model, reference)


def _shifted(model, reference, x, t):
    return model(x - reference, t) + reference


def search(key, weights, traces, x):
    condition = lambda r: js.Denoiser(shifted(traces.bind(weights), r), VP, predicts="x0")
    return S.optimal_start(key, condition, jnp.stack([x, -x]), jnp.stack([x, -x]), PLAN, num=4)


def optimise(key, weights, traces, x):
    model = js.Denoiser(traces.bind(weights), VP, predicts="x0")
    return S.optimise_start(model, x, PLAN, squares, optax.adam(0.05), steps=4)


def edit(key, weights, traces, x):
    return S.sdedit(key, js.Denoiser(traces.bind(weights), VP, predicts="x0"), x, PLAN, strength=0.6)


def repair(key, weights, traces, x):
    return S.regenerate(key, js.Denoiser(traces.bind(weights), OUVE, predicts="x0"), x, BRIDGE)


STARTS = {"optimal_start": search, "optimise_start": optimise, "sdedit": edit, "regenerate": repair}


def law_start(name):
    """jit, traces, vmap, keys, gradients and half precision of a run that brings its own start."""
    traces, function = Traces(), STARTS[name]
    run = lambda key, weights, x: function(key, weights, traces, x).x
    jitted = jax.jit(run)
    out = jitted(KEY, WEIGHTS[0], X)
    np.testing.assert_allclose(out, run(KEY, WEIGHTS[0], X), rtol=2e-5, atol=2e-5)
    assert_same_bits(out, jitted(KEY, WEIGHTS[0], X))
    assert out.shape == X.shape
    assert out.dtype == jnp.float32
    count = traces.count
    jitted(jax.random.key(4), WEIGHTS[1], 2 * X)
    assert traces.count == count
    if name != "optimise_start":
        assert not np.array_equal(out, jitted(jax.random.key(4), WEIGHTS[0], X))
    batch = jnp.stack([X, -X])
    together = jax.jit(jax.vmap(run, (None, None, 0)))(KEY, WEIGHTS[0], batch)
    for i in range(2):
        np.testing.assert_allclose(together[i], jitted(KEY, WEIGHTS[0], batch[i]), rtol=2e-5, atol=2e-5)
    if name in ("sdedit", "regenerate"):
        assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(run(KEY, WEIGHTS[0], x) ** 2))(X)))
        assert jitted(KEY, WEIGHTS[0], jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16


def law_jumps(name):
    """Any plan of one row for each step runs with jumps, keeps its columns and can be saved, stacked and sliced."""
    grid = js.noise.time_grid(VP, 7, 2)
    for make in (S.ddim, S.ddpm, S.deis, S.dpmpp):
        plan = S.jumps(make(VP, grid), length=2, repeats=3)
        assert plan.nfe == 7 + 2 * 2 * len(range(0, 7 - 2, 2))
        assert plan.stochastic
        result = js.sample(KEY, denoiser(VP, "x0"), X, plan)
        assert result.info.ok
        assert S.stack([plan, plan]).state_coef.shape == (2, plan.nfe)
        assert S.describe(plan).count("stochastic") == 1
    with pytest.raises(ValueError, match="key is None"):
        js.sample(None, denoiser(VP, "x0"), X, plan)


def law_start_records(name):
    fields = {"StartSearch": ("index", "score", "stderr"), "OptimisedStart": ("loss", "radius", "steps")}
    assert getattr(S, name)._fields == fields[name]
