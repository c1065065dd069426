"""Wang, Zhu and Ma, "Optimal Subsampling for Large Sample Logistic Regression": scores that know the labels."""

import jax
import jax.numpy as jnp
import numpy as np

from jsamp import select


def fit(X, y, weight, steps=25):
    """Weighted logistic regression by Newton's method, float64."""
    w = np.zeros(X.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-X @ w))
        hessian = (X * (weight * p * (1 - p))[:, None]).T @ X + 1e-9 * np.eye(X.shape[1])
        w = w + np.linalg.solve(hessian, X.T @ (weight * (y - p)))
    return w


def test_a_pilot_halves_the_excess_loss_of_logistic_regression():
    """1,000 rows: 300 for a pilot and 700 by its influence, against 1,000 drawn uniformly."""
    rng = np.random.default_rng(0)
    n, d = 20_000, 6
    X = np.c_[np.ones(n), rng.standard_t(4, size=(n, d))]
    y = (rng.uniform(size=n) < 1 / (1 + np.exp(-(X @ np.r_[-3.0, np.ones(d)])))).astype(float)
    best = fit(X, y, np.ones(n))

    def loss(w):
        return np.mean(np.logaddexp(0, -(2 * y - 1) * (X @ w)))

    rows, labels = jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.int32)
    excess = {"uniform": [], "loss": [], "coef": [], "gradient": []}
    for key in jax.random.split(jax.random.key(0), 25):
        first = np.asarray(select.draw(key, jnp.ones(n), 1000, scheme="topk").index)
        excess["uniform"].append(loss(fit(X[first], y[first], np.ones(1000))))
        pilot = jnp.asarray(fit(X[first[:300]], y[first[:300]], np.ones(300)), jnp.float32)
        for kind in ("loss", "coef", "gradient"):
            scores = select.influence(rows, labels, pilot, kind=kind)
            subset = select.draw(jax.random.fold_in(key, 1), scores, 700, scheme="priority")
            use = np.asarray(subset.index)
            excess[kind].append(loss(fit(X[use], y[use], np.asarray(subset.weight, np.float64))))
    mean = {name: np.mean(values) - loss(best) for name, values in excess.items()}
    for kind in ("loss", "coef", "gradient"):
        assert mean["uniform"] > 2 * mean[kind], mean
