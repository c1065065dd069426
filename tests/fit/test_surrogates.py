"""Surrogates against dense formulas, Bayesian linear regression, and wide networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import jsamp as js
from jsamp.fit import _draws, _laplace

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.random((11, 3)).astype(np.float32)
Y = (3 + 2 * np.sin(4 * X[:, 0]) - X[:, 1]).astype(np.float32)
Q = RNG.random((7, 3)).astype(np.float32)


def matern(a, b, lengths, scale):
    r = np.sqrt(5 * (((a[:, None] - b[None]) / lengths) ** 2).sum(-1))
    return scale * (1 + r + r**2 / 3) * np.exp(-r)


def dense(k, kq, kqq, y, noise, mean=None):
    """Posterior mean and covariance with the mean of generalised least squares, in numpy."""
    own = k + noise * np.eye(len(k))
    ones = np.linalg.solve(own, np.ones(len(k)))
    mean = ones @ y / ones.sum() if mean is None else mean
    gain = np.linalg.solve(own, kq.T).T
    return mean + gain @ (y - mean), kqq - gain @ kq.T


@pytest.mark.parametrize("mean", [None, 2.5])
def test_a_gaussian_process_is_the_dense_formula(mean):
    """Padding, units, mean and noise: 11 rows in a program of 16."""
    lengths, scale, noise = np.array([0.4, 0.7, 1.1]), 1.7, 0.3
    surrogate = js.fit.GP(js.fit.Matern(lengths, scale), noise=noise, mean=mean, fitted=False, capacity=16)
    posterior = surrogate.fit(None, X, Y)
    unit = Y.std()
    k = lambda a, b: unit**2 * matern(np.float64(a), np.float64(b), lengths, scale)
    want, cov = dense(k(X, X), k(Q, X), k(Q, Q), Y, noise**2, mean)
    got, var = posterior.mean_var(Q)
    np.testing.assert_allclose(got, want, atol=2e-4)
    np.testing.assert_allclose(var, np.diag(cov), atol=2e-4)
    np.testing.assert_allclose(posterior.noise, noise**2, rtol=1e-5)
    draws = np.asarray(posterior.sample(KEY, Q, 40_000))
    error = np.sqrt(np.diag(cov) / 40_000)
    assert np.all(np.abs(draws.mean(0) - want) < 6 * error + 2e-3)
    spread = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert np.all(np.abs(np.cov(draws.T) - cov) < 6 * 1.5 * spread / 200 + 2e-3)


def test_noise_free_data_are_interpolated():
    posterior = js.fit.GP(js.fit.Matern(0.5), noise=0.0, fitted=False, capacity=16).fit(None, X, Y)
    mean, var = posterior.mean_var(X)
    np.testing.assert_allclose(mean, Y, atol=2e-3)
    assert float(var.max()) < 1e-3


def test_fitted_numbers_have_a_higher_likelihood_and_are_stationary(x64):
    """The slope of the log marginal likelihood, computed in numpy by differences, vanishes where L-BFGS ends."""
    rows, values = np.float64(X), np.float64(Y)
    found = js.fit.GP(steps=60, capacity=16).fit(None, rows, values)
    y = (values - values.mean()) / values.std()

    def evidence(logs):
        lengths, scale, noise = np.exp(logs[:3]), np.exp(logs[3]), np.exp(logs[4])
        own = matern(rows, rows, lengths, scale) + noise * np.eye(11)
        ones = np.linalg.solve(own, np.ones(11))
        rest = y - ones @ y / ones.sum()
        prior = (
            -((logs[:3] - np.sqrt(2) - np.log(3) / 2) ** 2).sum() / 6
            - logs[3] ** 2 / 2
            - (logs[4] - np.log(1e-2)) ** 2 / 18
        )
        return -rest @ np.linalg.solve(own, rest) / 2 - np.linalg.slogdet(own)[1] / 2 + prior

    at = np.log([*found.kernel.lengths, float(found.kernel.scale), float(found.noise) / values.std() ** 2])
    start = np.log([*[0.5 * np.sqrt(3)] * 3, 1.0, 1e-2])
    slope = [(evidence(at + 1e-4 * e) - evidence(at - 1e-4 * e)) / 2e-4 for e in np.eye(5)]
    assert evidence(at) > evidence(start) + 0.1
    np.testing.assert_allclose(slope, 0, atol=0.02)


@pytest.mark.parametrize("kind", ["relu", "erf"])
def test_the_infinite_width_kernel_is_the_covariance_of_wide_networks(kind):
    """3,000 networks of width 48; tolerance 6 Monte Carlo errors and two over the width."""
    options = {"weight_var": 2.2, "bias_var": 0.4}
    kernel, network = js.fit.NNGPKernel(2, kind, **options), js.fit.Network(2, 48, kind, **options)
    rows = jnp.asarray(X[:4])
    values = jax.jit(lambda keys: jax.lax.map(lambda k: network(network.init(k, 3), rows), keys, batch_size=100))
    draws = np.asarray(values(jax.random.split(KEY, 3000)), np.float64)
    want = np.asarray(kernel(rows, rows), np.float64)
    got = draws.T @ draws / len(draws)
    error = np.sqrt((np.outer(np.diag(want), np.diag(want)) + want**2) / len(draws))
    assert np.all(np.abs(got - want) < 6 * error + 0.04 * want.max())
    np.testing.assert_allclose(np.diag(want), kernel.diag(rows), rtol=1e-5)
    assert np.linalg.eigvalsh(np.asarray(kernel(jnp.asarray(X), jnp.asarray(X)), np.float64)).min() > -1e-4


@pytest.mark.parametrize("kind", ["relu", "erf"])
def test_one_layer_is_the_expectation_by_quadrature(kind):
    """E[a(u) a(v)] of a bivariate normal by Gauss-Hermite quadrature over a fine grid; slopes at equal rows are finite."""
    kernel = js.fit.NNGPKernel(1, kind, weight_var=1.5, bias_var=0.3)
    a, b = np.array([0.2, 0.9, 0.4]), np.array([0.8, 0.1, 0.5])
    base = lambda u, v: 0.3 + 1.5 * u @ v / 3
    act = {"relu": lambda u: np.maximum(u, 0), "erf": scipy.special.erf}[kind]
    chol = np.linalg.cholesky([[base(a, a), base(a, b)], [base(a, b), base(b, b)]])
    grid = np.linspace(-8, 8, 1201)
    weight = scipy.stats.norm.pdf(grid) * (grid[1] - grid[0])
    u = chol[0, 0] * grid[:, None] + 0 * grid[None]
    v = chol[1, 0] * grid[:, None] + chol[1, 1] * grid[None]
    want = 0.3 + 1.5 * np.sum(weight[:, None] * weight[None] * act(u) * act(v))
    got = kernel(jnp.asarray(a, jnp.float32)[None], jnp.asarray(b, jnp.float32)[None])[0, 0]
    np.testing.assert_allclose(got, want, rtol=2e-5)
    slope = jax.grad(lambda x: kernel(x[None], x[None])[0, 0])(jnp.asarray(a, jnp.float32))
    own = jax.grad(lambda x: kernel.diag(x[None])[0])(jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(slope, own, rtol=1e-4)


LINEAR = js.fit.Network(depth=0, weight_var=3.0, bias_var=0.5)
EXACT = js.fit.GP(js.fit.NNGPKernel(0, "relu", 3.0, 0.5), noise=0.5, mean=float(Y.mean()), fitted=False, capacity=16)


def test_laplace_of_a_linear_network_is_bayesian_linear_regression():
    want, spread = EXACT.fit(None, X, Y).mean_var(Q)
    surrogate = js.fit.LaplaceNetwork(LINEAR, noise=0.5, steps=1500, rate=0.1, capacity=16)
    mean, var = surrogate.fit(KEY, X, Y).mean_var(Q)
    np.testing.assert_allclose(mean, want, atol=2e-3)
    np.testing.assert_allclose(var, spread, rtol=1e-3)


@pytest.mark.parametrize(
    "surrogate",
    [
        js.fit.HMCNetwork(LINEAR, noise=0.5, num=2000, warm=50, length=1.5, max_steps=20, pretrain=30, capacity=16),
        js.fit.SGHMCNetwork(LINEAR, noise=0.5, num=3000, thin=10, burn=100, pretrain=30, capacity=16),
        js.fit.SGHMCNetwork(
            LINEAR, noise=0.5, num=3000, thin=10, burn=100, pretrain=30, batch=8, step=0.02, friction=0.5, capacity=16
        ),
    ],
    ids=["HMC", "SGHMC", "SGHMC on minibatches"],
)
def test_chains_of_a_linear_network_are_bayesian_linear_regression(surrogate):
    """Means within 6 errors of at least 150 effective draws, variances within 30 %."""
    want, spread = (np.asarray(v) for v in EXACT.fit(None, X, Y).mean_var(Q))
    mean, var = surrogate.fit(KEY, X, Y).mean_var(Q)
    assert np.all(np.abs(mean - want) < 6 * np.sqrt(spread / 150))
    np.testing.assert_allclose(var, spread, rtol=0.35)


def test_laplace_draws_of_the_weights_have_the_covariance_of_the_formula():
    """Matheron's rule against the inverse of the Gauss-Newton matrix, for a network with hidden units."""
    network = js.fit.Network(1, 2, "tanh")
    weights = network.init(jax.random.key(3), 3)
    data = js.fit._protocol.padded("", X, Y, 16)
    keys = jax.random.split(KEY, 20_000)
    draws, curvature = jax.vmap(lambda k: _laplace.tangent_draw(k, network, weights, data, jnp.float32(0.2)))(keys)
    flat = np.concatenate([np.reshape(leaf, (20_000, -1)) for leaf in jax.tree.leaves(draws)], 1)
    slopes = np.asarray(_laplace.slopes_of(network, weights, jnp.asarray(X)), np.float64)
    matrix = np.eye(slopes.shape[1]) + slopes.T @ slopes / 0.2
    want = np.linalg.inv(matrix)
    error = np.sqrt(np.outer(np.diag(want), np.diag(want)) + want**2) / np.sqrt(20_000)
    assert np.all(np.abs(np.cov(flat.T) - want) < 6 * error + 1e-3)
    np.testing.assert_allclose(curvature[0], np.linalg.eigvalsh(matrix)[-1], rtol=1e-4)


def test_members_of_an_ensemble_see_equal_shares_of_the_rows():
    data = js.fit._protocol.padded("", X, Y, 16)
    _, masks = _draws._members(jax.random.split(KEY, 6), LINEAR, data, 0.5)
    assert np.all(np.sum(masks, 1) == 6)  # round(5.5) to even
    assert np.all(masks[:, 11:] == 0)
    assert len(np.unique(masks, axis=0)) > 1


def test_an_ensemble_agrees_at_the_data_and_not_far_from_it():
    x = np.linspace(0.3, 0.6, 12, dtype=np.float32)[:, None]
    posterior = js.fit.Ensemble(js.fit.Network(1, 16), members=6, steps=800, capacity=16).fit(
        KEY, x, np.sin(9 * x[:, 0])
    )
    mean, var = posterior.mean_var(np.array([[0.45], [0.0], [1.0]], np.float32))
    assert abs(mean[0] - np.sin(9 * 0.45)) < 0.2
    assert min(var[1:]) > 4 * var[0]
    draws = posterior.sample(KEY, x[:2], 4000)
    np.testing.assert_allclose(draws.mean(0), posterior.mean_var(x[:2])[0], atol=0.05)


def test_a_deep_kernel_learns_features():
    """Better than chance and calibrated; the network is fitted together with the kernel."""
    posterior = js.fit.DeepKernel(js.fit.Network(1, 8), pretrain=150, steps=100, capacity=16).fit(KEY, X, Y)
    mean, var = posterior.mean_var(X)
    assert np.sqrt(np.mean((mean - Y) ** 2)) < 0.2 * Y.std()
    far = posterior.mean_var(np.array([[1.0, 0.0, 1.0]], np.float32))[1]
    assert far[0] > np.mean(var)


def test_growing_data_never_recompile(caplog):
    """Nothing is compiled for 9 and 11 rows after 3, in a fit by L-BFGS, predictions and draws."""
    surrogate = js.fit.GP(steps=2, capacity=16)

    def grow(n):
        posterior = surrogate.fit(None, X[:n], Y[:n])
        return posterior.mean_var(Q), posterior.sample(KEY, Q, 3)

    with jax.log_compiles():
        js.fit.GP(steps=2, capacity=24).fit(None, X, Y)
        assert "Compiling" in caplog.text
        grow(3)
        caplog.clear()
        grow(9)
        grow(11)
    assert "Compiling" not in caplog.text


def test_units_do_not_matter():
    """Values of 1e-20 and of 1e+20 give the same posterior, in their units."""
    surrogate = js.fit.GP(noise=None, steps=3, capacity=16)
    mean, var = surrogate.fit(None, X, Y).mean_var(Q)
    for unit in (1e-15, 1e15):
        again, spread = surrogate.fit(None, X, np.float64(Y) * unit).mean_var(Q)
        np.testing.assert_allclose(again / unit, mean, rtol=1e-3)
        np.testing.assert_allclose(np.sqrt(spread) / unit, np.sqrt(var), rtol=1e-2)


def test_lists_are_taken_as_arrays_are():
    X = np.random.default_rng(0).random((12, 2), np.float32)
    fitted = js.fit.GP(fitted=False)
    one, other = fitted.fit(None, X, X[:, 0]), fitted.fit(None, X.tolist(), X[:, 0].tolist())
    np.testing.assert_allclose(one.mean_var(X[:3])[0], other.mean_var(X[:3])[0], rtol=1e-5)


def test_far_from_the_data_a_gaussian_process_is_its_prior():
    posterior = js.fit.GP(js.fit.Matern(0.5, 2.0), noise=0.1, mean=0.3, fitted=False, capacity=16).fit(None, X, Y)
    mean, var = posterior.mean_var(np.full((1, X.shape[1]), 1e30))
    np.testing.assert_allclose(mean, 0.3, rtol=1e-5)
    np.testing.assert_allclose(var, 2 * np.var(Y), rtol=1e-5)


def test_the_spread_of_networks_survives_far_from_zero():
    weights = [{"W": jnp.ones((2, 1, 1)), "b": jnp.array([[0.0], [2.0]])}]
    posterior = js.fit.NetworkPosterior(js.fit.Network(depth=0), weights, 1e9, 1.0)
    assert posterior.mean_var(jnp.zeros((1, 1)))[1].tolist() == [1.0]


@pytest.mark.parametrize("unit", [1e-300, 1e30])
def test_an_optimisation_does_not_mind_the_unit_of_its_values(unit):
    options = {"budget": 6, "initial": 4, "raw": 16, "restarts": 1, "steps": 5}
    found = js.fit.optimise(jax.random.key(0), lambda x: unit * (x[0] - 2) ** 2, ([0.0], [5.0]), **options)
    assert found.info.value < 0.1 * unit
