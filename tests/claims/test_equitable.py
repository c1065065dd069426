"""Cai et al., "Adaptive Sampling Strategies to Construct Equitable Training Datasets"."""

import jax
import jax.numpy as jnp
import numpy as np

from jsamp import select

SIGMA, SHARE, DIM = np.array([1.0, 1.0, 2.0]), np.array([0.8, 0.15, 0.05]), 5


def excess(rng, counts):
    """Validation error of one linear model per group, above its noise."""
    out = []
    for sigma, n in zip(SIGMA, counts, strict=True):
        X = rng.normal(size=(int(n), DIM))
        w = np.linalg.lstsq(X, sigma * rng.normal(size=int(n)), rcond=None)[0]
        out.append((w**2).sum())
    return np.array(out)


def test_adaptive_sampling_beats_equal_and_proportional():
    budget, rng = 600, np.random.default_rng(0)
    curve = select.Curve(jnp.asarray(SIGMA**2 * DIM, jnp.float32))
    plans = {
        "adaptive sum": np.asarray(select.allocate(curve, float(budget))).round(),
        "adaptive maxmin": np.asarray(select.allocate(curve, float(budget), kind="maxmin")).round(),
        "equal": np.full(3, budget // 3),
        "proportional": budget * SHARE,
    }
    mean = {name: np.mean([excess(rng, n) for _ in range(400)], 0) for name, n in plans.items()}
    total = {name: m.sum() for name, m in mean.items()}
    worst = {name: m.max() for name, m in mean.items()}
    assert total["adaptive sum"] < 0.95 * total["equal"] < 0.95 * total["proportional"]
    assert worst["adaptive maxmin"] < 0.8 * worst["equal"] < 0.8 * worst["proportional"]


def test_the_plans_are_the_optima_of_the_learned_rates():
    """Of errors s / n^rate the sum asks for counts as s^(1 / (rate + 1)), the worst group for counts as s^(1 / rate)."""
    scale, budget = np.array([1.0, 4.0, 60.0]), 600.0
    for rate in (0.5, 1.0, 2.0):
        curve = select.Curve(jnp.asarray(scale, jnp.float32), rate)
        for kind, power in (("sum", 1 / (rate + 1)), ("maxmin", 1 / rate)):
            counts, share = np.asarray(select.allocate(curve, budget, kind=kind)), scale**power
            assert abs(counts.sum() - budget) < 0.01
            np.testing.assert_allclose(counts, budget * share / share.sum(), rtol=1e-3)


def test_sequential_choice_reaches_the_planned_allocation():
    """Choosing the next group from measured errors only, without curves, ends near the optimal plan."""
    truth = select.Curve(jnp.asarray(SIGMA**2 * DIM, jnp.float32))
    for kind, rate in (("sum", 1.0), ("maxmin", None)):

        def step(counts, _, rate=rate):
            return counts.at[select.next_group(truth(counts), counts, rate=rate)].add(1.0), None

        counts, _ = jax.lax.scan(step, jnp.full(3, 5.0), None, length=585)
        np.testing.assert_allclose(counts, select.allocate(truth, 600.0, kind=kind), atol=2)
