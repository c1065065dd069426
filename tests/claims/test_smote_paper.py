"""Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique"."""

import jax
import numpy as np
import pytest

from jsamp import select


def test_covariance_shrinks_by_two_thirds_with_all_neighbours():
    n, num = 30, 100_000
    X = np.float32(np.random.default_rng(0).normal(size=(n, 2)) @ np.array([[1.0, 0.4], [0, 2.0]]))
    new = np.asarray(select.smote(jax.random.key(0), X, np.arange(n), num, k=n - 1).x, np.float64)
    law = (2 / 3 - 1 / (3 * (n - 1))) * np.cov(X.T)
    np.testing.assert_allclose(np.cov(new.T), law, rtol=0.03, atol=0.03)  # five standard errors
    np.testing.assert_allclose(new.mean(0), X.mean(0), atol=0.03)


def test_gaps_are_uniform_and_covariance_shrinks_with_the_neighbourhood():
    X = np.float32(np.random.default_rng(0).normal(size=(400, 3)))
    shrink = []
    for k in (1, 5, 20, 100):
        new = select.smote(jax.random.key(k), X, np.arange(400), 20_000, k=k)
        shrink.append(np.trace(np.cov(np.asarray(new.x).T)) / np.trace(np.cov(X.T)))
    np.testing.assert_allclose(shrink, [0.94, 0.90, 0.84, 0.73], atol=0.03)
    start, end = X[np.asarray(new.parent)], X[np.asarray(new.neighbor)]
    u = np.sort(((np.asarray(new.x) - start) * (end - start)).sum(1) / ((end - start) ** 2).sum(1))
    assert np.abs(u - (np.arange(20_000) + 0.5) / 20_000).max() < 2.3 / np.sqrt(20_000)  # Kolmogorov: p = 5e-5


def hull_area(points):
    """Area under the convex hull of (false positive rate, true positive rate) points: the best classifiers of a set."""
    hull = []
    for x, y in sorted({(0.0, 0.0), (1.0, 1.0), *points}):
        while len(hull) > 1 and (hull[-1][0] - hull[-2][0]) * (y - hull[-2][1]) >= (hull[-1][1] - hull[-2][1]) * (
            x - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    return np.trapezoid([y for _, y in hull], [x for x, _ in hull])


def arc(rng, n, few):
    """A rare class along an arc, in the middle of the other."""
    angle = rng.uniform(0, np.pi, few)
    rare = 1.4 * np.c_[np.cos(angle), np.sin(angle)] + 0.12 * rng.normal(size=(few, 2))
    X = np.concatenate([rng.uniform(-2, 2, size=(n, 2)), rare])
    return np.float32(X), np.r_[np.zeros(n, int), np.ones(few, int)]


def test_smote_with_undersampling_beats_undersampling_alone_and_copies():
    """The abstract's headline, in ROC space: decision trees, the majority cut to 100 % ... 3 %, twelve datasets."""
    tree = pytest.importorskip("sklearn.tree")
    gain = []
    for seed in range(12):
        rng, key = np.random.default_rng(seed), jax.random.key(seed)
        (X, y), (test_X, test_y) = arc(rng, 1500, 45), arc(rng, 6000, 600)
        made = np.asarray(select.smote(key, X, np.flatnonzero(y), 225).x)
        area = {}
        for name, extra in (("smote", made), ("none", X[:0]), ("copies", np.tile(X[y == 1], (5, 1)))):
            points = []
            for share in (1, 0.6, 0.35, 0.2, 0.1, 0.06, 0.03):
                kept = np.asarray(select.undersample(key, y, targets={0: int(1500 * share)}).index)
                rows, labels = np.concatenate([X[kept], extra]), np.r_[y[kept], np.ones(len(extra), int)]
                answer = tree.DecisionTreeClassifier(random_state=0).fit(rows, labels).predict(test_X)
                points.append((float(answer[test_y == 0].mean()), float(answer[test_y == 1].mean())))
            area[name], area[f"{name}, whole majority"] = hull_area(points), hull_area(points[:1])
        others = ("none", "copies", "smote, whole majority")
        gain.append([area["smote"] - area[other] for other in others])
    over_none, over_copies, by_cutting = np.mean(gain, 0)  # .047, .038 and .210, standard errors .005 to .008
    assert over_none > 0.02
    assert over_copies > 0.012
    assert by_cutting > 0.15
