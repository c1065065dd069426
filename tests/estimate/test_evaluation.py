"""Model evaluation against scipy, mlxtend, closed forms and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate

KEY = jax.random.key(0)
stats = pytest.importorskip("scipy.stats")


def nearest_label(key, X, y, weight):
    """The label of the nearest row that counts, itself included."""
    gap = jnp.sum((X[:, None] - X[None]) ** 2, -1) + jnp.where(weight[None] > 0, 0, jnp.inf)
    return y[jnp.argmin(gap, 1)]


def ridge(key, X, y, weight, strength=0.5):
    gram = (X * weight[:, None]).T @ X + strength * jnp.eye(X.shape[1])
    return X @ jnp.linalg.solve(gram, X.T @ (weight * y))


@pytest.mark.parametrize("df", [1, 2, 5, 9, 40, 400, 100_000])
def test_tails_equal_scipy(df):
    from jsamp.estimate import _tails

    x = np.array([0.0, 1e-3, 0.3, 1.0, 2.5, 4.9, 11.0, 60.0], np.float32)
    wide, near = x.astype(np.float64), 1e-5 if df < 100 else 5e-5 if df < 1000 else 1e-3
    np.testing.assert_allclose(_tails.student_two_sided(x, df), 2 * stats.t.sf(wide, df), atol=near)
    np.testing.assert_allclose(_tails.chi2_upper(x, df), stats.chi2.sf(wide, df), atol=1e-5)
    for other in (1, 5, 30):
        np.testing.assert_allclose(_tails.f_upper(x, df, other), stats.f.sf(wide, df, other), atol=near)
        np.testing.assert_allclose(_tails.f_upper(x, other, df), stats.f.sf(wide, other, df), atol=near)
    low = np.arange(0, df // 2 + 1, max(df // 8, 1))
    np.testing.assert_allclose(
        _tails.fair_coin_two_sided(low, df), np.minimum(1, 2 * stats.binom.cdf(low, df, 0.5)), atol=1e-5
    )
    assert float(_tails.student_two_sided(jnp.inf, df)) == 0 == float(_tails.f_upper(jnp.inf, df, 3))


def test_paired_tests_equal_their_formulas():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=12) + 0.4, rng.normal(size=12)
    want = stats.ttest_rel(a, b)
    found = estimate.paired_t(a, b)
    np.testing.assert_allclose(found, [want.statistic, want.pvalue], rtol=1e-4)
    corrected = estimate.paired_t(a, b, test_ratio=0.25)
    np.testing.assert_allclose(corrected.statistic, want.statistic * np.sqrt((1 / 12) / (1 / 12 + 0.25)), rtol=1e-5)
    p = 0.1 * rng.normal(size=(5, 2))
    square = ((p - p.mean(1, keepdims=True)) ** 2).sum(1)
    t = p[0, 0] / np.sqrt(square.mean())
    np.testing.assert_allclose(estimate.t_5x2cv(p), [t, 2 * stats.t.sf(abs(t), 5)], rtol=1e-4)
    f = (p**2).sum() / (2 * square.sum())
    np.testing.assert_allclose(estimate.f_5x2cv(p), [f, stats.f.sf(f, 10, 5)], rtol=1e-4, atol=1e-5)


def test_degenerate_tests_are_flagged():
    """0 / 0: no difference at all, p = 1. x / 0: infinite statistic, p = 0."""
    zero, one = np.zeros((5, 2)), np.ones((5, 2))
    for test in (estimate.t_5x2cv, estimate.f_5x2cv):
        np.testing.assert_array_equal(test(zero), [0, 1])
        np.testing.assert_array_equal(test(one), [np.inf, 0])
    np.testing.assert_array_equal(estimate.paired_t(np.ones(4), np.ones(4)), [0, 1])
    np.testing.assert_array_equal(estimate.paired_t(np.ones(4), np.zeros(4)), [np.inf, 0])
    same = np.ones((9, 3), bool)
    for test in (estimate.cochran_q, estimate.f_test):
        np.testing.assert_array_equal(test(same), [0, 1])
    for method in ("auto", "exact", "corrected", "uncorrected"):
        assert float(estimate.mcnemar(same[:, 0], same[:, 1], method=method).pvalue) == 1


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 11), (40, 21), (12, 12), (0, 9)])
def test_mcnemar_and_cochran(only_a, only_b):
    a = np.r_[np.ones(only_a), np.zeros(only_b), np.ones(20), np.zeros(10)].astype(bool)
    b = np.r_[np.zeros(only_a), np.ones(only_b), np.ones(20), np.zeros(10)].astype(bool)
    total, gap = only_a + only_b, abs(only_a - only_b)
    exact = min(1, 2 * stats.binom.cdf(min(only_a, only_b), total, 0.5))
    np.testing.assert_allclose(estimate.mcnemar(a, b, method="exact").pvalue, exact, atol=1e-5)
    chi = max(gap - 1, 0) ** 2 / total
    corrected = estimate.mcnemar(a, b, method="corrected")
    np.testing.assert_allclose(corrected, [chi, stats.chi2.sf(chi, 1)], rtol=1e-4, atol=1e-6)
    auto = estimate.mcnemar(a, b)
    np.testing.assert_allclose(auto.pvalue, exact if total < 25 else corrected.pvalue, atol=1e-5)
    plain = estimate.mcnemar(a, b, method="uncorrected")
    np.testing.assert_allclose(plain, estimate.cochran_q(np.stack([a, b], 1)), rtol=1e-5)
    np.testing.assert_allclose(plain.statistic, gap**2 / total, rtol=1e-6)


def test_several_classifiers_against_mlxtend():
    """Cochran's Q is mlxtend's. Its F test has the textbook statistic and (L - 1) n degrees of freedom, ours n - 1."""
    mlxtend = pytest.importorskip("mlxtend.evaluate")
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 80)
    models = [np.where(rng.random(80) < p, y, 1 - y) for p in (0.9, 0.8, 0.7)]
    right = np.stack([m == y for m in models], 1)
    found = estimate.cochran_q(right)
    np.testing.assert_allclose(found, mlxtend.cochrans_q(y, *models), rtol=1e-4)
    f, p = mlxtend.ftest(y, *models)
    ours = estimate.f_test(right)
    np.testing.assert_allclose(ours.statistic, f, rtol=1e-4)
    np.testing.assert_allclose(ours.pvalue, stats.f.sf(f, 2, 2 * 79), rtol=1e-3)
    np.testing.assert_allclose(p, stats.f.sf(f, 2, 2 * 80), rtol=1e-6)
    table = np.array(
        [
            [np.sum(right[:, 0] & right[:, 1]), np.sum(right[:, 0] & ~right[:, 1])],
            [np.sum(~right[:, 0] & right[:, 1]), 9],
        ]
    )
    chi, p = mlxtend.mcnemar(table, corrected=True)
    np.testing.assert_allclose(estimate.mcnemar(right[:, 0], right[:, 1], method="corrected"), [chi, p], rtol=1e-4)


def test_permutations():
    a, b = np.array([1.0, 2.0, 3.5, -0.5, 2.0, 4.0]), np.array([0.5, 2.5, 1.0, -1.0, 0.0, 3.0])
    want = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=np.inf)
    found = estimate.permutation_test(None, a, b, exact=True)
    np.testing.assert_allclose(found.pvalue, want.pvalue)
    random = estimate.permutation_test(KEY, a, b, num=4000)
    assert abs(float(random.pvalue) - want.pvalue) < 4 * np.sqrt(want.pvalue / 4000)
    whole = stats.permutation_test((a, b[:4]), lambda x, y: np.mean(x) - np.mean(y), n_resamples=np.inf)
    loose = estimate.permutation_test(KEY, a, b[:4], num=4000, paired=False)
    assert abs(float(loose.pvalue) - whole.pvalue) < 4 * np.sqrt(0.25 / 4000)
    assert float(estimate.permutation_test(KEY, a + 100, b, num=99).pvalue) <= 3 / 64 + 4 * 0.02


def test_corrections():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    np.testing.assert_allclose(estimate.bonferroni(p), np.minimum(1, 5 * p), rtol=1e-6)
    np.testing.assert_allclose(estimate.holm(p), [0.04, 0.09, 0.09, 0.025, 0.9], rtol=1e-5)


def test_bootstrap_weights_are_multinomial():
    weights = np.asarray(estimate.bootstrap_weights(KEY, 2000, 10))
    assert np.all(weights.sum(1) == 10)
    assert abs(weights.var(0).mean() - 0.9) < 0.05
    assert abs(np.mean(weights == 0) - 0.9**10) < 4 * 0.48 / np.sqrt(20_000)


@pytest.mark.parametrize("n", [2, 3, 1000, 65_535, 65_536])
def test_rows_of_a_resample_are_words_scaled_to_their_number(n):
    from jsamp.estimate._bootstrap import _rows

    words = np.asarray(jax.random.bits(KEY, (n,), jnp.uint32), np.uint64)
    np.testing.assert_array_equal(_rows(KEY, n), (words * np.uint64(n)) >> np.uint64(32))


def test_intervals_of_a_mean():
    """BCa of a normal mean is the t-interval to 2%, all methods nearly agree; of a skewed mean BCa leans right as scipy's."""
    x = np.random.default_rng(0).normal(size=100)
    error = x.std(ddof=1) / 10
    want = x.mean() + error * stats.t.ppf([0.025, 0.975], 99)
    for method in ("bca", "percentile", "basic", "normal"):
        found = estimate.bootstrap(KEY, jnp.mean, x, 8000, method=method, block=200)
        np.testing.assert_allclose([found.interval.low, found.interval.high], want, atol=0.04 * 2 * 1.98 * error)
        np.testing.assert_allclose(found.estimate.stderr, error * np.sqrt(0.99), rtol=0.05)
    skewed = np.random.default_rng(1).exponential(size=30)
    ours = estimate.bootstrap(KEY, jnp.mean, skewed, 8000, level=0.9, block=200).interval
    with np.errstate(all="ignore"):
        theirs = stats.bootstrap(
            (skewed,), np.mean, confidence_level=0.9, n_resamples=20_000, rng=np.random.default_rng(0)
        ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], atol=0.03 * width)
    basic, percentile = (estimate.bootstrap(KEY, jnp.mean, skewed, 2000, method=m) for m in ("basic", "percentile"))
    np.testing.assert_allclose(basic.interval.low, 2 * skewed.mean() - percentile.interval.high, rtol=1e-5)
    together = estimate.bootstrap(KEY, lambda d: jnp.sum(d[0] * d[1]) / jnp.sum(d[0] ** 2), (x, 3 * x), 50)
    np.testing.assert_allclose(together.draws, 3, rtol=1e-5)  # rows stay together
    same = estimate.bootstrap(KEY, jnp.mean, np.ones(20), 50)
    np.testing.assert_array_equal([same.interval.low, same.interval.high, same.estimate.stderr], [1, 1, 0])


@pytest.mark.parametrize(("made", "shown"), [("text", "'text'"), (None, "None"), ((), r"\(\)")])
def test_a_statistic_that_makes_no_array_is_refused(made, shown):
    with pytest.raises(TypeError, match=f"bootstrap: statistic must return an array or a tree of arrays, got {shown}"):
        estimate.bootstrap(KEY, lambda data: made, jnp.arange(4.0), 10)


def test_acceleration_by_groups_is_that_of_rows():
    from jsamp._core._callable import as_tree
    from jsamp.estimate import _bootstrap

    x = jnp.asarray(np.random.default_rng(2).exponential(size=3000))
    gap = np.asarray(x - x.mean(), np.float64)
    want = np.sum(gap**3) / (6 * np.sum(gap**2) ** 1.5)
    found = _bootstrap._acceleration(as_tree("s", jnp.mean, "s"), x, 64)
    np.testing.assert_allclose(found, want, rtol=0.3)
    np.testing.assert_allclose(_bootstrap._acceleration(as_tree("s", jnp.mean, "s"), x[:500], 64),
                               np.sum((g := gap[:500] - gap[:500].mean()) ** 3) / (6 * np.sum(g**2) ** 1.5), rtol=1e-2)  # fmt: skip


def test_folds_partition():
    strata = np.r_[np.zeros(13), np.ones(8)].astype(int)
    masks = np.asarray(estimate.kfold_masks(KEY, 4, 21, strata=strata, repeats=3)).reshape(3, 4, 21)
    assert np.all(masks.sum(1) == 1)
    for label in (0, 1):
        counts = masks[:, :, strata == label].sum(2)
        assert np.all(counts.max(1) - counts.min(1) <= 1)
    assert np.all(np.ptp(masks.sum(2), 1) <= 1)
    assert np.any(masks[0] != masks[1])


def test_leave_one_out_of_ridge_is_the_hat_matrix():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(15, 3)).astype(np.float32), rng.normal(size=15).astype(np.float32)
    found = estimate.leave_one_out(KEY, ridge, X, y)
    hat = X @ np.linalg.solve(X.T @ X + 0.5 * np.eye(3), X.T)
    want = ((y - hat @ y) / (1 - np.diag(hat))) ** 2
    np.testing.assert_allclose(found.losses, want, rtol=2e-4)
    np.testing.assert_allclose(found.estimate.value, want.mean(), rtol=2e-4)
    np.testing.assert_allclose(found.estimate.stderr, want.std(ddof=1) / np.sqrt(15), rtol=1e-3)
    batched = estimate.leave_one_out(KEY, ridge, X, y, block=4)
    np.testing.assert_allclose(batched.folds, found.folds, rtol=1e-5)


def test_nested_chooses_on_training_rows_alone():
    """Each outer fold's choice is the least inner loss found by hand; its test rows play no part."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(24, 2)).astype(np.float32)
    y = (X @ [1.0, -2.0] + 0.3 * rng.normal(size=24)).astype(np.float32)
    grid = jnp.array([0.01, 3.0, 300.0])
    masks = estimate.kfold_masks(KEY, 3, 24)
    found = estimate.nested(KEY, ridge, X, y, masks, grid, k=4)
    assert np.all(np.asarray(found.chosen) == 0)
    np.testing.assert_allclose(
        found.predictions[1], ridge(None, X, y, (~masks[1]).astype(jnp.float32), 0.01), rtol=1e-4, atol=1e-5
    )
    spoiled = jnp.where(masks[0], 1e3, y)
    failed = jnp.array([jnp.nan, 0.01, 300.0])  # a parameter whose fit is no number is not chosen
    again = estimate.nested(KEY, ridge, X, spoiled, masks, failed, k=4)
    assert np.all(np.asarray(again.chosen[0]) == 1)
    np.testing.assert_allclose(again.predictions[0], found.predictions[0], rtol=1e-4, atol=1e-5)


def test_pure_noise_and_one_neighbour():
    """Random labels, 1-NN: apparent 0, out of bag .5, so .632 says .316 and .632+ says .5."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 5)).astype(np.float32), np.tile([0, 1], 100)
    plain, plus = (f(KEY, nearest_label, X, y, 60, block=20) for f in (estimate.err632, estimate.err632plus))
    assert float(plain.apparent) == 0
    assert abs(float(plain.out_of_bag) - 0.5) < 0.08
    np.testing.assert_allclose(plain.estimate.value, 0.632 * plain.out_of_bag, rtol=1e-5)
    assert abs(float(plus.estimate.value) - 0.5) < 0.08
    np.testing.assert_allclose(plus.no_information, 0.5, atol=1e-6)
    assert float(plus.overfitting) > 0.85


def test_err632_by_hand():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(12, 2)).astype(np.float32), rng.normal(size=12).astype(np.float32)
    found = estimate.err632plus(KEY, ridge, X, y, 30)
    draw, _ = jax.random.split(KEY)
    weights = np.asarray(estimate.bootstrap_weights(draw, 30, 12))
    losses = np.stack([(np.asarray(ridge(None, X, y, w)) - y) ** 2 for w in weights])
    first = np.mean([losses[weights[:, i] == 0, i].mean() for i in range(12)])
    whole = np.asarray(ridge(None, X, y, np.ones(12, np.float32)))
    apparent, none = np.mean((whole - y) ** 2), np.mean((whole[:, None] - y[None]) ** 2)
    rate = np.clip((min(first, none) - apparent) / (none - apparent), 0, 1)
    share = 0.632 / (1 - 0.368 * rate)
    np.testing.assert_allclose(found.out_of_bag, first, rtol=1e-4)
    np.testing.assert_allclose(found.no_information, none, rtol=1e-4)
    np.testing.assert_allclose(found.overfitting, rate, rtol=1e-3)
    np.testing.assert_allclose(found.estimate.value, (1 - share) * apparent + share * min(first, none), rtol=1e-4)
    labels = rng.integers(0, 3, 12)
    counted = estimate.err632plus(KEY, nearest_label, X, labels, 30)
    np.testing.assert_allclose(counted.no_information, np.mean(labels[:, None] != labels[None]), rtol=1e-5)
    other = estimate.err632plus(KEY, nearest_label, X, labels, 30, loss=lambda p, y: 2.0 * (p != y))
    np.testing.assert_allclose(other.no_information, 2 * counted.no_information, rtol=1e-5)


def test_mlxtend_deviates_on_noise():
    """mlxtend takes the error of each resample on all rows, trained ones too, and does not clip: .40 and .57."""
    mlxtend = pytest.importorskip("mlxtend.evaluate")
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 5)), np.tile([0, 1], 50)
    model = neighbors.KNeighborsClassifier(1)
    theirs = 1 - np.mean(mlxtend.bootstrap_point632_score(model, X, y, n_splits=30, method=".632+", random_seed=1))
    ours = estimate.err632plus(KEY, estimate.from_sklearn(model), X, y, 30, block=1).estimate.value
    native = estimate.err632plus(KEY, nearest_label, X, y, 30).estimate.value
    np.testing.assert_allclose(ours, native, rtol=1e-5)
    assert abs(float(ours) - 0.5) < 0.12
    assert theirs > float(ours) + 0.02


def test_training_rows_of_one_class_are_refused_by_fold():
    """Fold 1 holds all rows of class 1; the estimator's own error is the cause, once for all drivers."""
    linear = pytest.importorskip("sklearn.linear_model")
    X, y = np.random.default_rng(0).normal(size=(12, 2)), np.repeat([0, 1], [9, 3])
    learner, masks = estimate.from_sklearn(linear.LogisticRegression()), np.arange(12) // 3 == np.array([[0], [3]])
    match = r"cross_validate: the estimator refused the training rows of fold 1, 9 rows of one label, 0: .*one class"
    with pytest.raises(ValueError, match=match) as raised:
        estimate.cross_validate(KEY, learner, X, y, masks)
    assert isinstance(raised.value.__cause__, ValueError)
    assert np.isfinite(estimate.cross_validate(KEY, learner, X, y, masks[:1]).estimate.value)
    with pytest.raises(ValueError, match=r"^This solver needs samples of at least 2 classes"):
        learner(KEY, X, y, np.repeat([1.0, 0.0], [9, 3]))
    with pytest.raises(ValueError, match="fold 11, 11 rows of one label, 0"):
        estimate.leave_one_out(KEY, learner, X, (np.arange(12) == 11).astype(int))
    with pytest.raises(ValueError, match=r"err632: .* of the fit of all rows, 12 rows of one label, 0"):
        estimate.err632(KEY, learner, X, np.zeros(12, int), 20)
    with pytest.raises(ValueError, match=r"err632: .* of resample \d+, \d+ rows of one label, 0"):
        estimate.err632(KEY, learner, X, (np.arange(12) == 11).astype(int), 20)


def test_sklearn_weights_and_seeds():
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    learner = estimate.from_sklearn(linear.Ridge(0.5, fit_intercept=False))
    for weight in (np.r_[np.zeros(5), np.ones(15)], np.tile([0.0, 1.0, 2.0, 3.0], 5)):
        found = learner(KEY, jnp.asarray(X), jnp.asarray(y), jnp.asarray(weight))
        want = ridge(None, X.astype(np.float32), y.astype(np.float32), weight.astype(np.float32))
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
