"""Influence scores, learning curves and allocations against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import select


@pytest.mark.parametrize("family", ["logistic", "poisson", "linear"])
def test_influence_equals_its_formula(family):
    rng = np.random.default_rng(0)
    X, coef, w = rng.normal(size=(40, 3)), np.array([0.5, -1.0, 0.3]), rng.uniform(0.2, 2, 40)
    eta = X @ coef
    mean = {"logistic": 1 / (1 + np.exp(-eta)), "poisson": np.exp(eta), "linear": eta}[family]
    slope = {"logistic": mean * (1 - mean), "poisson": mean, "linear": np.ones(40)}[family]
    y = rng.integers(0, 2, 40).astype(float) if family == "logistic" else rng.integers(0, 5, 40).astype(float)
    M = (X * (slope * w)[:, None]).T @ X
    norms = {
        "loss": np.sqrt(np.einsum("ni,ij,nj->n", X, np.linalg.inv(M), X)),
        "coef": np.linalg.norm(X @ np.linalg.inv(M), axis=1),
        "gradient": np.linalg.norm(X, axis=1),
        "residual": np.ones(40),
    }
    for kind, norm in norms.items():
        score = np.abs(y - mean) * norm
        exact = w * (0.7 * score / (np.sum(w * score) / w.sum()) + 0.3) * 40 / w.sum()
        got = select.influence(
            np.float32(X), y.astype(int), np.float32(coef), family=family, kind=kind, uniform=0.3, weights=np.float32(w)
        )
        np.testing.assert_allclose(got, exact, rtol=1e-4, err_msg=kind)
        assert abs(float(got.mean()) - 1) < 1e-5


@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("kind", ["loss", "coef", "gradient"])
def test_influence_has_no_unit(kind, unit):
    rng = np.random.default_rng(0)
    X, coef, y = np.float32(rng.normal(size=(40, 3))), np.float32([0.5, -1.0, 0.3]), rng.integers(0, 2, 40)
    usual = select.influence(X, y, coef, kind=kind)
    scaled = select.influence(X * np.float32(unit), y, coef / np.float32(unit), kind=kind)
    np.testing.assert_allclose(scaled, usual, rtol=1e-4)
    assert usual.max() > 2 * usual.min()


def test_influence_beyond_the_range_is_refused():
    X = np.clip(np.float32(np.random.default_rng(0).normal(size=(40, 3))), -3, 3)
    y = np.arange(40) % 2
    for rows, coef, family in ((X * np.float32(1e36), np.zeros(3), "logistic"), (X, np.full(3, 300.0), "poisson")):
        with pytest.raises(ValueError, match="the scores are not finite"):
            select.influence(rows, y, np.float32(coef), family=family, kind="loss")


def test_fitted_curves_are_the_true_ones():
    n = np.array([10, 20, 50, 100, 400.0])
    scale, rate, floor = np.array([1.0, 4.0, 2.0]), np.array([1.0, 0.5, 0.8]), np.array([0.0, 0.3, 0.01])
    errors = floor + scale * n[:, None] ** -rate
    curve = select.fit_curve(n, errors)
    for got, exact in ((curve.scale, scale), (curve.rate, rate), (curve.floor, floor)):
        np.testing.assert_allclose(got, exact, rtol=2e-2, atol=2e-4)
    known = select.fit_curve(n, errors, floor=floor)
    np.testing.assert_allclose(known.rate, rate, rtol=1e-5)
    fixed = select.fit_curve(n, 3.0 * n[:, None] ** -0.5 + 0 * scale[None], rate=0.5, floor=0.0)
    np.testing.assert_allclose(fixed.scale, [3.0] * 3, rtol=1e-5)
    noisy = errors * np.exp(0.05 * np.random.default_rng(0).normal(size=errors.shape))
    assert np.all(np.abs(np.asarray(select.fit_curve(n, noisy, floor=floor).rate) / rate - 1) < 0.15)


def test_weights_costs_and_fairness_move_the_allocation():
    curve = select.Curve(jnp.array([1.0, 4.0, 2.0]), jnp.array([1.0, 0.5, 0.8]), jnp.array([0.05, 0.0, 0.1]))
    weights, costs = jnp.array([4.0, 1.0, 2.0]), jnp.array([1.0, 3.0, 0.5])
    for alpha, kind in ((0.0, "sum"), (0.0, "fair"), (1.5, "fair")):
        n = select.allocate(curve, 200.0, costs=costs, weights=weights, kind=kind, alpha=alpha)
        assert abs(float(jnp.sum(costs * n)) - 200) < 0.05
        slope = weights * curve(n) ** alpha * curve.scale * curve.rate * n ** -(curve.rate + 1) / costs
        np.testing.assert_allclose(slope, slope[0], rtol=2e-3)  # equal marginal gain per cost
    n = select.allocate(curve, 200.0, costs=costs, weights=weights, kind="maxmin")
    np.testing.assert_allclose(weights * curve(n), float(weights[0] * curve(n)[0]), rtol=1e-3)
    worst = [float(jnp.max(curve(select.allocate(curve, 200.0, kind="fair", alpha=a)))) for a in (0.0, 1.0, 4.0, 16.0)]
    assert np.all(np.diff(worst) < 0)
    floor = float(jnp.max(curve(select.allocate(curve, 200.0, kind="maxmin"))))
    assert floor * (1 - 1e-3) < worst[-1] < 1.15 * floor


def test_greedy_and_sequential_choices_heed_weights_and_costs():
    curve = select.Curve(jnp.array([1.0, 1.0]))
    assert select.allocate_greedy(curve, 30, weights=jnp.array([4.0, 1.0])).tolist() == [20, 10]  # like sqrt(w)
    assert select.allocate_greedy(curve, 30, weights=jnp.array([4.0, 1.0]), kind="maxmin").tolist() == [24, 6]
    errors, counts = jnp.array([0.3, 0.3]), jnp.array([100, 100])
    for expected, options in (
        (0, {"costs": jnp.array([1.0, 2.0])}), (1, {"costs": jnp.array([2.0, 1.0])}),
        (1, {"weights": jnp.array([1.0, 3.0])}), (1, {"floor": jnp.array([0.2, 0.0])}),
        (1, {"available": jnp.array([100, 200])}),
    ):  # fmt: skip
        assert int(select.next_group(errors, counts, rate=1.0, **options)) == expected, options
    assert int(select.next_group(jnp.array([0.3, 0.2]), jnp.array([100, 50]), rate=1.0)) == 1
    assert int(select.next_group(jnp.array([0.3, 0.2]), jnp.array([100, 50]), rate=1.0, alpha=4.0)) == 0
    assert int(select.next_group(errors, counts, available=jnp.array([100, 100]))) == -1


def test_sequential_buying_from_noisy_errors_reaches_the_plan():
    """Errors are measured with noise and curves fitted from them: the rows bought are those of the true curves."""
    truth = select.Curve(jnp.array([5.0, 5.0, 20.0]))
    sizes = np.array([20.0, 40.0, 80.0, 160.0])

    def one(key):
        noise = jnp.exp(0.1 * jax.random.normal(key, (4, 3)))
        errors = np.asarray(jax.vmap(truth)(jnp.broadcast_to(jnp.asarray(sizes)[:, None], (4, 3)).astype(jnp.float32)) * noise)  # fmt: skip
        return np.asarray(select.allocate(select.fit_curve(sizes, errors, rate=1.0, floor=0.0), 600.0))

    plans = np.stack([one(key) for key in jax.random.split(jax.random.key(0), 20)])
    np.testing.assert_allclose(plans.mean(0), select.allocate(truth, 600.0), rtol=0.05)
    assert np.all(plans.std(0) < 20)
