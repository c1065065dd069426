"""Sparse matrices and times are refused in every room with the line that turns them into numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.sparse import BCOO

import jsamp as js

KEY, DENSE = jax.random.key(0), np.eye(30, 3, dtype=np.float32)
SPARSE = BCOO.fromdense(jnp.asarray(DENSE), nse=30)  # JAX takes it for a tree of thirty entries and thirty places
DAYS = np.arange("2020-01-01", "2020-01-31", dtype="datetime64[D]")
CALLS = {
    "balance: target": lambda x: js.select.balance(KEY, x, jnp.array([0.0, 1.0, 2.0]), 3),
    "leverage: A": js.select.leverage,
    "stratified: counts": lambda x: js.select.stratified(KEY, jnp.zeros(3, int), x),
    "undersample: y": lambda x: js.select.undersample(KEY, x),
    "nearest: database": lambda x: js.select.nearest(x, x),
    "mmd: x": lambda x: js.estimate.mmd(x, DENSE),
    "mmd: y": lambda x: js.estimate.mmd(DENSE, x),
    "snis: values": lambda x: js.estimate.snis(jnp.zeros(30), x),
    "ess: x": js.estimate.ess,
    "bootstrap: data": lambda x: js.estimate.bootstrap(KEY, jnp.mean, x),
    "SVGD: x": lambda x: js.mcmc.SVGD(lambda x: -jnp.sum(x**2)).init(x),
    "minimise: data": lambda x: js.fit.minimise(
        KEY, lambda key, w, b: (w**2, None), jnp.ones(()), x, optimiser=optax.sgd(0.1), steps=1, batch=2
    ),
}
COUNTED = {"stratified: counts", "undersample: y", "SVGD: x"}  # these say that integers, labels or floats are wanted


@pytest.mark.parametrize("name", CALLS)
def test_sparse_matrices_are_refused(name):
    with pytest.raises(TypeError, match=rf"{name} is a sparse matrix, .* Pass {name.split()[-1]}\.todense\(\)"):
        CALLS[name](SPARSE)
    scipy = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=rf"{name} is a sparse matrix, .* Pass {name.split()[-1]}\.toarray\(\)"):
        CALLS[name](scipy.csr_array(DENSE))


@pytest.mark.parametrize("name", sorted(set(CALLS) - COUNTED))
def test_times_are_refused(name):
    what = name.split()[-1]
    dates = DAYS[:, None] if name == "nearest: database" else DAYS
    with pytest.raises(
        TypeError, match=rf"{name} must .* Choose a unit: \({what} - {what}\.min\(\)\) / np\.timedelta64"
    ):
        CALLS[name](dates)
    with pytest.raises(TypeError, match=rf"{name} must .* Choose a unit: {what} / np\.timedelta64"):
        CALLS[name](dates - DAYS[0])


def test_no_rows_are_taken_of_a_sparse_matrix():
    subset = js.select.draw(KEY, jnp.ones(30), 5)
    for tree in (SPARSE, {"x": SPARSE}):
        with pytest.raises(TypeError, match="must be an array of rows, got BCOO"):
            subset.take(tree)
    with pytest.raises(TypeError, match="batch: x is a sparse matrix"):
        js.loss.Match(js.noise.VP()).draw(KEY, SPARSE)
