"""A state goes on with the run that it is of: another model, optimiser, average, bounds or space is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsamp as js
from jsamp import fit

KEY, VP = jax.random.key(0), js.noise.VP()
X = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)


def network(weight):
    return jax.tree_util.Partial(lambda w, x, t: w * x, jnp.asarray(weight, jnp.float32))


def trained(weight=0.5, optimiser=None, **options):
    loss, optimiser = js.loss.Match(VP, predicts="x0"), optax.adam(0.1) if optimiser is None else optimiser
    options = {"key": KEY, "loss": loss, "model": network(weight), "data": X, "batch": 4, **options}
    return fit.minimise(optimiser=optimiser, steps=2, **options).info


@pytest.mark.parametrize(
    ("other", "name"),
    [({"weight": [0.5, 0.5]}, "model"), ({"optimiser": optax.sgd(0.1)}, "optimiser"), ({"ema": 0.9}, "ema")],
)
def test_a_training_run_is_resumed_with_its_own_parts(other, name):
    with pytest.raises(ValueError, match=f"the state is of a run with another {name}"):
        trained(**other, state=trained().state)


@pytest.mark.parametrize(
    ("other", "name"),
    [({"key": jax.random.key(9)}, "key"), ({"data": X[:6]}, "number of rows"), ({"batch": 2}, "batch size")],
)
def test_a_training_run_is_resumed_with_its_own_stream(other, name):
    state = trained().state
    with pytest.raises(ValueError, match=f"the state is of a run with another {name}"):
        trained(**other, state=state)
    assert trained(**other, state=state._replace(origin=None)).loss.shape == (0,)


def test_a_model_of_nan_is_refused():
    with pytest.raises(ValueError, match="model holds NaN"):
        trained(np.nan)


def test_an_optimisation_is_resumed_in_its_own_bounds():
    state = fit.OptimiseState(np.full((3, 2), 0.5), np.arange(3.0))
    with pytest.raises(ValueError, match="points outside the bounds"):
        fit.optimise(KEY, lambda x: 0.0, (np.ones(2), np.full(2, 2.0)), budget=4, state=state)


def test_a_search_is_resumed_in_its_own_space():
    space = fit.Space(VP, 4)
    genome = space.encode(js.noise.logsnr_grid(VP, 4), predicts="x0", order=2)
    with pytest.raises(ValueError, match="another number of steps than the space's 5"):
        fit.search_plan(KEY, lambda plans: 0.0, fit.Space(VP, 5), budget=9, state=fit.Search([genome], [1.0], []))
