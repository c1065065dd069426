"""Estimates do not depend on the unit of the values: the squares of numbers that a float holds may lie beyond it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)

# What scales with the unit, and what has none.
CASES = {
    "mean": lambda x: (estimate.mean(x.reshape(2, 180))[:2], estimate.mean(x.reshape(2, 180)).ess),
    "mcse": lambda x: ([estimate.mcse(x.reshape(2, 180), kind) for kind in ("mean", "sd", "quantile")], 0),
    "ebfmi": lambda x: (0, estimate.ebfmi(x.reshape(2, 180))),
    "control_variate": lambda x: (
        [e[:2] for e in estimate.control_variate(x[:, 0], x[:, 1:])[:2]],
        [estimate.control_variate(x[:, 0], x[:, 1:]).estimate.ess, estimate.control_variate(x[:, 0], x[:, 1:])[2]],
    ),
    "antithetic": lambda x: (estimate.paired(x[:, :2], "antithetic")[:2], estimate.paired(x[:, :2], "antithetic")[2]),
    "stratified": lambda x: (estimate.paired(x[:, :2], "stratified")[:2], estimate.paired(x[:, :2], "stratified")[2]),
    "paired_t": lambda x: (0, estimate.paired_t(x[:, 0], x[:, 1])),
    "t_5x2cv": lambda x: (0, estimate.t_5x2cv(x[:5, :2])),
    "f_5x2cv": lambda x: (0, estimate.f_5x2cv(x[:5, :2])),
    "snis": lambda x: (estimate.snis(X[:, 1], x[:, 0])[:2], 0),
    "sobol": lambda x: (0, estimate.sobol(estimate.Design(x[:, 0], x[:, 1], x.T, x[::-1].T))),
    "sobol_rank": lambda x: (0, estimate.sobol_rank(X, x[:, 0] + x[:, 1])),
    "bootstrap": lambda x: (estimate.bootstrap(KEY, jnp.mean, x[:, 0], 50).estimate[:2], 0),
}


@pytest.mark.parametrize("unit", [1e25, 1e-30])
@pytest.mark.parametrize("name", CASES)
def test_the_unit_does_not_matter(name, unit):
    scaled, plain = CASES[name](X)
    got, same = CASES[name](X * np.float32(unit))
    flat = lambda tree: np.hstack([np.ravel(v) for v in jax.tree.leaves(tree)]).astype(np.float64)
    np.testing.assert_allclose(flat(got) / unit, flat(scaled), rtol=2e-4)
    np.testing.assert_allclose(flat(same), flat(plain), rtol=2e-4)


def test_laws_without_common_support_are_refused():
    with pytest.raises(ValueError, match="q is 0 at every draw of p"):
        estimate.bridge(np.zeros(9), np.full(9, -np.inf), np.zeros(9), np.zeros(9))
    with pytest.raises(ValueError, match="p is 0 at every draw of q"):
        estimate.bridge(np.zeros(9), np.zeros(9), np.full(9, -np.inf), np.zeros(9))


def test_copies_on_both_sides_are_equally_near():
    assert estimate.nearest_ratio(X[:9], X, X[9:19])[:2] == (1, 0)
    assert estimate.nearest_ratio(X[:9] + 1, X, X[9:19])[:2] == (np.inf, np.inf)


def test_the_error_of_each_number_of_a_statistic_has_its_own_unit():
    units = np.float32([1, 1e-25, 1e25])
    got, plain = (estimate.bootstrap(KEY, lambda rows, u=u: jnp.mean(rows, 0) * u, X, 50) for u in (units, 1.0))
    np.testing.assert_allclose(got.estimate.stderr / units, plain.estimate.stderr, rtol=1e-4)
    pairs = np.stack([X, X[::-1]], 1)
    for found in (lambda u: estimate.snis(X[:, 1], X * u), lambda u: estimate.paired(pairs * u, "stratified")):
        np.testing.assert_allclose(found(units).stderr / units, found(np.float32(1)).stderr, rtol=1e-4)


def test_numbers_are_not_empty():
    with pytest.raises(ValueError, match="threshold must hold a number, got an empty array"):
        estimate.PrivateMultiplicativeWeights(np.ones(4), threshold=[], sigma=0.1)


@pytest.mark.parametrize("unit", [1e-36, 1e-40])
def test_values_of_which_processors_lose_digits_are_refused(unit):
    # XLA reads numbers below 1.2e-38 as 0: every point was near every other, and precision 1.
    x = X * np.float32(unit)
    for fun in (
        lambda x: estimate.mmd(x, x[:50]),
        lambda x: estimate.energy(x, x[:50]),
        lambda x: estimate.precision_recall(x[:60], x[60:]),
        lambda x: estimate.nearest_ratio(x[:20], x[20:70], x[70:]),
        lambda x: estimate.ess(x.reshape(2, 180)),
        lambda x: estimate.rhat(x.reshape(2, 60, 3)),
        lambda x: estimate.mcse(x.reshape(2, 180)),
    ):
        with pytest.raises(ValueError, match="holds no number above 1e-31, too small for float32"):
            fun(x)
    assert np.isnan(estimate.ess(jnp.zeros((2, 60))))
