"""Inputs that end in wrong numbers elsewhere: cancellation, units, integers, holes, ties, labels for rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import select
from jsamp.select._bits import sum_tree
from jsamp.select._draw import _by_largest
from jsamp.select._neighbors import neighbors, squared_distances

KEY = jax.random.key(0)


def rng(seed=0):
    return np.random.default_rng(seed)


def exact_leverage(A):
    return (np.linalg.qr(np.asarray(A, np.float64))[0] ** 2).sum(1)


def far_apart(n=100, gap=1e4):
    """Two clouds so far apart that |x|^2 + |y|^2 - 2 x.y keeps no digit of a distance inside one of them."""
    r = rng()
    return np.float32(np.c_[r.normal(size=(n, 2)), r.choice([0, gap], n)])


# ------------------------------------------------------------------------------------------------ distances
@pytest.mark.parametrize("d", [1, 3, 32, 33, 70])
def test_distances_keep_their_digits_at_every_width(d):
    x, y = np.float32(rng().normal(size=(7, d)) + 1e4), np.float32(rng(1).normal(size=(9, d)) + 1e4)
    exact = ((x[:, None].astype(np.float64) - y[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(jnp.asarray(x), jnp.asarray(y)), exact, rtol=2e-6)


def test_neighbours_in_two_far_clouds_are_the_true_ones():
    X = far_apart()
    exact = ((X[:, None].astype(np.float64) - X[None]) ** 2).sum(-1)
    np.fill_diagonal(exact, np.inf)
    near = {i: set(np.argsort(exact[i])[:5].tolist()) for i in range(100)}
    new = select.smote(KEY, X, np.arange(100), 4000)
    assert all(int(o) in near[int(p)] for p, o in zip(np.asarray(new.parent), np.asarray(new.neighbor), strict=True))
    got = np.sort(np.asarray(neighbors(jnp.asarray(X), jnp.arange(100), jnp.asarray(X), 5)), 1)
    np.testing.assert_array_equal(got, [sorted(near[i]) for i in range(100)])


def test_kernel_methods_in_far_clouds_equal_float64():
    X = far_apart()
    wide = X.astype(np.float64)
    gram = np.exp(-((wide[:, None] - wide[None]) ** 2).sum(-1) / 2)
    np.testing.assert_allclose(select.GaussianKernel(1.0)(jnp.asarray(X), jnp.asarray(X)), gram, rtol=1e-4, atol=1e-7)
    herd = select.herding(X, 10)
    index, total, used, mean = [], np.zeros(100), np.zeros(100, bool), gram.mean(1)
    for t in range(10):
        index.append(int(np.argmax(np.where(used, -np.inf, mean - total / (t + 1)))))
        total, used[index[-1]] = total + gram[index[-1]], True
    assert np.asarray(herd.index).tolist() == index
    share = np.bincount(index, minlength=100) / 10 - 1 / 100
    np.testing.assert_allclose(select.kernel_error(X, herd), np.sqrt(share @ gram @ share), rtol=1e-5)
    everything = select.Subset(jnp.arange(100), jnp.ones(100), jnp.ones(100, bool))
    assert float(select.kernel_error(X, everything)) == 0


def test_clustering_scores_of_far_clouds_equal_float64():
    X = far_apart()
    centers = X[[3, 50, 70, 90]]
    distance = ((X[:, None].astype(np.float64) - centers[None]) ** 2).sum(-1)
    label, near = distance.argmin(1), distance.min(1)
    size = np.bincount(label, minlength=4)
    a = 16 * (np.log(4) + 2)
    spread = np.bincount(label, near, 4) / np.maximum(size, 1)
    exact = a * near / near.mean() + 2 * a * spread[label] / near.mean() + 4 * 100 / size[label]
    np.testing.assert_allclose(select.kmeans_scores(X, centers), exact, rtol=1e-5)


def test_retrieval_tells_nearly_parallel_embeddings_apart():
    angle = np.array([3e-4, 1e-4, 2e-4, 4e-4])  # their cosines with the query are all 1 in float32
    bank = np.float32(np.c_[np.cos(angle), np.sin(angle)]) * np.float32([[1], [1e15], [1e-15], [3]])
    found = select.retrieve({"t": np.float32([2, 0])}, {"t": bank}, jnp.zeros(4, int), 4, num_strata=1)
    assert found.index.tolist() == [1, 2, 0, 3]
    near = select.nearest(bank, np.float32([5, 0]), 4, metric="cosine")
    assert near.index.tolist() == [1, 2, 0, 3]
    far = np.float32(np.c_[rng().normal(size=(50, 3)), np.full(50, 1e4)])
    exact = ((far - far[7]).astype(np.float64) ** 2).sum(1)
    np.testing.assert_array_equal(select.nearest(far, far[7], 50).index, np.argsort(exact, kind="stable"))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "float16", "bfloat16"])
def test_narrow_numbers_do_not_wrap_around(dtype):
    rows = jnp.asarray([[0, 0], [100, 3], [9, 0], [16, 0]]).astype(dtype)
    found = select.nearest(rows, rows[0], 4)
    assert found.index.tolist() == [0, 2, 3, 1]
    np.testing.assert_allclose(found.score, [0, 81, 256, 10009], rtol=1e-3 if dtype == "bfloat16" else 1e-6)
    assert select.nearest(rows, rows[1], 2, metric="cosine").index.tolist()[0] == 1
    demos = select.retrieve({"t": rows[1]}, {"t": rows}, jnp.zeros(4, int), 1, num_strata=1)
    assert demos.index.tolist() == [1]


def test_entries_that_are_not_numbers_come_last_and_queries_of_them_are_refused():
    rows = jnp.asarray([[1.0, 2.0], [jnp.inf, 0.0], [jnp.nan, 0.0], [3.0, 4.0], [-3.0, -4.0]])
    for metric in ("l2", "cosine"):
        index = select.nearest(rows, jnp.asarray([3.0, 4.0]), 5, metric=metric).index.tolist()
        assert index[:3] == [3, 0, 4]
        assert sorted(index[3:]) == [1, 2]
    with pytest.raises(ValueError, match="query holds NaN"):
        select.nearest(rows, rows[1])
    with pytest.raises(ValueError, match="exactly"):
        select.nearest(np.array([[2**24 + 1]]), np.array([3]))


# ------------------------------------------------------------------------------------------------ units
def test_distances_beyond_the_range_of_floats_are_infinite_and_never_nan():
    found = select.nearest(np.float32([[1e25, 0], [3e25, 0]]), np.float32([1e25, 0]), 2)
    assert found.index.tolist() == [0, 1]
    assert found.score.tolist() == [0, np.inf]


def test_row_weights_that_cannot_be_added_up_are_refused():
    for weight in (3e38, 1e37):
        with pytest.raises(ValueError, match="too large to be added up in float32"):
            select.lightweight(rng().normal(size=(40, 2)).astype(np.float32), weights=np.full(40, weight, np.float32))


@pytest.mark.parametrize("unit", [1e-20, 1e18, 1e-30, 1e30])
def test_scores_do_not_depend_on_the_unit(unit):
    A = np.float32(rng().normal(size=(40, 3)))
    exact = exact_leverage(A)
    columns = np.float32([1, unit, 1])
    for rows in (A * np.float32(unit), A * columns):
        for method in ("auto", "shifted3", "qr"):
            np.testing.assert_allclose(select.leverage(rows, method=method), exact, rtol=2e-5)
        np.testing.assert_allclose(select.leverage_stream([rows[:25], rows[25:]]), exact, rtol=2e-5)
    w = rng(1).uniform(0.5, 2, 40).astype(np.float32)
    np.testing.assert_allclose(select.leverage(A, weights=w * unit), exact_leverage(A * np.sqrt(w)[:, None]), rtol=2e-5)
    np.testing.assert_allclose(select.lewis(A * columns, 1.0).weight, select.lewis(A, 1.0).weight, rtol=1e-3)
    root = select.root_leverage(A, 1.0, weights=w)
    np.testing.assert_allclose(select.root_leverage(A, 1.0, weights=w * np.float32(unit)), root, rtol=2e-5)
    rows = A * np.float32(unit)
    for fun in (select.lightweight, lambda x: select.kmeans_scores(x, x[:3])):
        np.testing.assert_allclose(fun(rows), fun(A), rtol=1e-4)
    for fun in (lambda x: select.k_center(x, 5).index, lambda x: select.kmeans_seeds(KEY, x, 5)):
        np.testing.assert_array_equal(fun(rows), fun(A))
    np.testing.assert_array_equal(select.nearest(rows, rows[3], 9).index, select.nearest(A, A[3], 9).index)
    np.testing.assert_array_equal(
        select.smote(KEY, rows, np.arange(40), 50).neighbor, select.smote(KEY, A, np.arange(40), 50).neighbor
    )


SCORES = {
    "leverage": select.leverage,
    "qr": lambda x: select.leverage(x, method="qr"),
    "weighted": lambda x: select.leverage(x, weights=np.ones(40, np.float32)),
    "stream": lambda x: select.leverage_stream([x[:25], x[25:]]),
    "root": lambda x: select.root_leverage(x, 1.5),
    "lewis": lambda x: select.lewis(x, 1.5),
    "sensitivity": lambda x: select.sensitivity(x, 1.0),
    "bounds": lambda x: select.sensitivity_bounds(x, 1.0),
    "distortion": lambda x: select.distortion(x, select.draw(KEY, np.ones(40), 20)),
}


@pytest.mark.parametrize("unit", [1e35, 1e38])
def test_entries_whose_inverses_leave_the_range_are_refused(unit):
    A = np.clip(np.float32(rng().normal(size=(40, 3))), -3, 3)
    for rows in (A * np.float32(unit), A * np.float32([1, unit, 1])):
        for fun in (fun for name, fun in SCORES.items() if name != "qr"):
            with pytest.raises(ValueError, match="too large for float32"):
                fun(rows)
        assert not np.isfinite(jax.jit(select.leverage)(rows)).any()


@pytest.mark.parametrize("unit", [1e-36, 1e-40])
def test_columns_of_which_processors_lose_digits_are_refused(unit):
    # XLA reads numbers below 1.2e-38 as 0: at 1e-36 scores were off by 2e-4, at 1e-40 the column was not there.
    A = np.float32(rng().normal(size=(40, 3)))
    whole, column = A * np.float32(unit), A * np.float32([1, unit, 1])
    for fun in SCORES.values():
        for rows in (whole, column):
            with pytest.raises(ValueError, match="too small"):
                fun(rows)
    for rows in (whole, column):
        assert not np.isfinite(jax.jit(select.leverage)(rows)).any()
    np.testing.assert_allclose(
        select.leverage(column, ridge=1e-4), select.leverage(A * [1, 0, 1], ridge=1e-4), rtol=1e-5
    )
    for fun in (
        select.lightweight,
        lambda x: select.kmeans_scores(x, A[:3]),
        lambda x: select.k_center(x, 5),
        lambda x: select.nearest(x, x[3], 9),
        lambda x: select.smote(KEY, x, np.arange(40), 50),
        lambda x: select.leverage(A, weights=np.abs(x[:, 0])),
    ):
        with pytest.raises(ValueError, match=r"too small for float32\. Multiply it by a number, in numpy"):
            fun(whole)


def test_columns_that_small_weights_would_empty_are_refused():
    """1e-30 sqrt(1e-20) is read as 0, and the column was not there; rows of weight 0 say nothing of a column."""
    A = np.float32(rng().normal(size=(40, 3)))
    column, small = A * np.float32([1, 1e-30, 1]), np.full(40, 1e-20, np.float32)
    for method in ("auto", "qr"):
        with pytest.raises(ValueError, match="times the roots of their weights"):
            select.leverage(column, weights=small, method=method)
    np.testing.assert_allclose(
        select.leverage(column, weights=small, ridge=1e-20), select.leverage(A * [1, 0, 1], ridge=1), rtol=1e-5
    )
    A[0], A[1:, 1] = [1, 1e-30, 1], 0
    weights = np.float32(np.arange(40) > 0)
    np.testing.assert_allclose(select.leverage(A, weights=weights)[1:], select.leverage(A[1:]), rtol=1e-5)


def test_ridge_of_a_tiny_column():
    A = rng().normal(size=(30, 3)) * [1, 1e-15, 1]
    ridge = 1e-30
    exact = np.einsum("ni,ij,nj->n", A / [1, 1e-15, 1], np.linalg.inv(
        (A / [1, 1e-15, 1]).T @ (A / [1, 1e-15, 1]) + np.diag([ridge, 1, ridge])), A / [1, 1e-15, 1])  # fmt: skip
    np.testing.assert_allclose(select.leverage(np.float32(A), ridge=ridge), exact, rtol=1e-4)


def test_rows_of_zeros_have_no_leverage():
    for method in ("auto", "cholqr2", "shifted3"):
        assert not np.any(select.leverage(np.zeros((50, 5), np.float32), method=method))
    assert not np.any(select.leverage_stream([np.zeros((50, 5), np.float32)] * 2))
    lower, upper = select.sensitivity_bounds(np.zeros((50, 2), np.float32), 1.0)
    assert not np.any(lower) and not np.any(upper)
    blank, rows = np.zeros((40, 2), np.float32), np.float32(rng().normal(size=(40, 2)))
    kept = select.reduce_stream(KEY, [blank, rows, blank, blank], 16)
    assert kept.rows.shape == (16, 2) and np.all(np.any(kept.rows != 0, 1))
    assert select.reduce_stream(KEY, [blank, blank], 16).rows.shape == (0, 2)


@pytest.mark.parametrize("scheme", ["poisson", "priority", "topk", "multinomial", "systematic", "stratified"])
def test_scores_near_the_largest_float_are_drawn(scheme):
    scores = np.float32(np.exp(np.linspace(80, 88.5, 1000)))
    subset = select.draw(KEY, scores, 50, scheme=scheme)
    assert bool(subset.ok)
    assert 20 < int(subset.mask.sum()) < 90
    weight = np.where(subset.mask, subset.weight, 0).astype(np.float64)
    assert abs((weight * scores[np.asarray(subset.index)]).sum() / scores.sum(dtype=np.float64) - 1) < 0.5
    tiny = select.draw(KEY, scores * np.float32(2.0**-125) * np.float32(2.0**-110), 50, scheme=scheme)
    assert bool(tiny.ok)
    one = np.float32(np.linspace(0.1, 1, 1000))
    plain, tiny = (select.draw(KEY, np.ldexp(one, power), 50, scheme=scheme) for power in (0, -130))
    np.testing.assert_array_equal(plain.index, tiny.index)
    np.testing.assert_allclose(plain.weight, tiny.weight, rtol=1e-4)
    np.testing.assert_allclose(_by_largest(jnp.asarray([3e38, 1e38]), jnp.asarray(3e38)), [1, 1 / 3], rtol=1e-6)


def test_certificates_hold_at_condition_numbers_that_float32_cannot_bear():
    r = rng()
    for size in (1e3, 1e5, 1e7, 1e9):
        B = np.float32(np.r_[r.normal(size=(25, 3)), [[size, -size, 2 * size]]])
        whole = select.Subset(jnp.arange(26), jnp.full(26, 1.2), jnp.ones(26, bool))
        with jax.enable_x64(True):
            wide = B.astype(np.float64)
            exact = {p: np.asarray(select.sensitivity_bounds(wide, p, iterations=30).lower) for p in (1.0, 2.0, 3.0)}
            half = float(select.distortion(wide, whole))
        for p in (1.0, 2.0, 3.0):
            lower, upper = select.sensitivity_bounds(B, p, iterations=30)
            assert np.all(lower <= exact[p] * (1 + 1e-4) + 1e-6), (size, p)
            assert np.all(upper >= exact[p] * (1 - 1e-4)), (size, p)
            assert np.max(np.asarray(upper) - np.asarray(lower)) < 1e-3  # and they are tight
        np.testing.assert_allclose(select.distortion(B, whole), half, rtol=1e-3)
        np.testing.assert_allclose(half, 0.2, rtol=1e-6)
        assert float(select.distortion(B, select.Subset(jnp.arange(25), jnp.ones(25), jnp.ones(25, bool)))) > 0.99
    traced = jax.jit(lambda B: select.sensitivity_bounds(B, 1.0, iterations=30))(B)
    assert np.all(np.asarray(traced.upper) == 1)  # a lost direction is flagged: nothing is proved but 1
    assert np.all(np.asarray(traced.lower) <= exact[1.0] * (1 + 1e-4) + 1e-6)


# ------------------------------------------------------------------------------------------------ strata and counts
def test_rows_of_score_zero_are_never_drawn_from_a_stratum():
    subset = select.stratified(KEY, jnp.zeros(10, int), (3,), scores=jnp.eye(10)[9])
    assert subset.mask.tolist() == [True, False, False] and int(subset.index[0]) == 9
    assert float(subset.weight.sum()) == 10
    none = select.stratified(KEY, jnp.arange(4) // 2, (1, 1), scores=jnp.asarray([0.0, 0, 1, 1]))
    assert none.mask.tolist() == [False, True]


def test_a_group_without_rows_gets_none():
    curve = select.Curve([1.0, 1.0, 4.0])
    for kind, best in (("sum", [0, 3, 7]), ("maxmin", [0, 2, 8]), ("fair", [0, 3, 7])):
        assert select.allocate_greedy(curve, 10, available=[0, 3, 20], kind=kind).tolist() == best, kind
    np.testing.assert_allclose(select.allocate(curve, 10.0, available=[0, 3, 20]), [0, 3, 7], atol=1e-3)
    assert select.allocate_greedy(curve, 100, available=[2, 3, 4.7]).tolist() == [2, 3, 4]


def test_timestamps_fall_into_their_own_bins():
    start = 1_700_000_000
    target = start + 3600 * np.arange(48, dtype=np.int64) + 1800
    edges = start + 3600 * np.arange(0, 49, 12, dtype=np.int64)
    for cast in (np.int64, np.float64):
        subset = select.balance(KEY, target.astype(cast), edges.astype(cast), 12)
        np.testing.assert_array_equal(np.sort(np.asarray(subset.index)), np.arange(48))
        assert np.all(np.asarray(subset.index).reshape(4, 12) // 12 == np.arange(4)[:, None])


def test_fewer_points_than_asked_leave_slots_unused():
    X = np.float32([[0.0], [0.0], [1.0], [1.0], [1.0]])
    subset = select.k_center(X, 4)
    assert subset.mask.tolist() == [True, True, False, False]
    assert subset.weight.tolist()[2:] == [0, 0] and float(subset.weight.sum()) == 5
    assert set(X[np.asarray(subset.index[:2]), 0].tolist()) == {0.0, 1.0}


@pytest.mark.slow
def test_systematic_draws_of_more_than_two_to_the_24_rows_miss_none():
    num = 2**24 + 1000
    index = select.draw(KEY, jnp.ones(num), num, scheme="systematic").index
    assert int(jnp.max(index[1:] - index[:-1])) == 1 and int(index[0]) == 0 and int(index[-1]) == num - 1


def test_row_counters_stop_instead_of_turning_negative():
    reservoir = select.Reservoir(2)
    state = reservoir.init(jnp.zeros(()))._replace(seen=jnp.asarray(2**31 - 3, jnp.int32))
    state = reservoir.step(KEY, state, jnp.arange(5.0), jnp.ones(5))
    assert int(state.seen) == 2**31 - 1
    rows, subset = reservoir.subset(state)
    for row, index in zip(rows.tolist(), subset.index.tolist(), strict=True):
        assert index == (2**31 - 3 + int(row) if row < 2 else -1)


# ------------------------------------------------------------------------------------------------ what people pass
def test_data_frames_and_lists_work_and_sparse_matrices_say_what_to_do():
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    A = np.float32(rng().normal(size=(30, 3)))
    frame = pandas.DataFrame(A, columns=list("abc"))
    for rows in (frame, A.tolist()):
        np.testing.assert_allclose(select.leverage(rows), select.leverage(A), rtol=1e-5)
    subset = select.draw(KEY, select.leverage(frame), 9, scheme="priority")
    taken = subset.take(frame)
    assert list(taken.columns) == list("abc")
    np.testing.assert_array_equal(taken.to_numpy(), A[np.asarray(subset.index)])
    np.testing.assert_array_equal(subset.take({"x": frame})["x"].to_numpy(), A[np.asarray(subset.index)])
    assert select.oversample(KEY, frame, pandas.Series([0] * 20 + [1] * 10))[0].shape == (40, 3)
    for call in (select.leverage, select.lightweight, lambda x: select.nearest(x, A[0]), subset.take,
                 lambda x: select.smote(KEY, x, np.arange(9), 3), lambda x: select.leverage_stream([x])):  # fmt: skip
        with pytest.raises(TypeError, match=r"sparse|csr"):
            call(sparse.csr_matrix(A))
    frame["name"] = "x"
    with pytest.raises(TypeError, match="Encode or drop"):
        select.leverage(frame)


def test_streams_refuse_what_would_spoil_them():
    A = np.float32(rng().normal(size=(40, 3)))
    bad = A.copy()
    bad[3, 1] = np.nan
    for call in (lambda b: select.leverage_stream([A, b]), lambda b: select.reduce_stream(KEY, [A, b], 8)):
        with pytest.raises(ValueError, match="a block holds NaN"):
            call(bad)
        with pytest.raises(ValueError, match="columns"):
            call(A[:, :2])
    with pytest.raises(ValueError, match="one per row"):
        select.reduce_stream(KEY, [A], 8, score=lambda rows, weight: jnp.ones(5))
    with pytest.raises(TypeError, match="RowBlocks"):
        select.leverage_stream(5)


def test_small_natural_things():
    np.testing.assert_allclose(select.Curve([1.0, 4.0])(jnp.array([2.0, 2.0])), [0.5, 2.0])
    assert select.draw_categorical(KEY, jnp.zeros(5), np.int64(4)).shape == (4,)
    parts = [select.draw(KEY, jnp.ones(50), 5, scheme="systematic")] * 2
    assert select.merge(parts).index.shape == select.merge(*parts).index.shape == (10,)
    assert select.stratified(KEY, jnp.arange(4) % 2, np.array([1, 2])).index.shape == (4,)
    X = np.float32(rng().normal(size=(60, 2)))
    y = np.repeat(["few", "many"], [15, 45])
    big, labels = select.oversample(KEY, X, y, targets={"few": 30})
    assert big.shape == (75, 2) and (labels == "few").sum() == 30
    kept = select.undersample(KEY, y, targets={"many": 20})
    assert (y[np.asarray(kept.index)] == "many").sum() == 20 and kept.index.shape == (35,)
    assert len(set(np.asarray(kept.index).tolist())) == 35
    np.testing.assert_allclose(kept.weight, np.where(y[np.asarray(kept.index)] == "many", 45 / 20, 1), rtol=1e-6)
    assert select.undersample(KEY, y).index.shape == (30,)


def test_a_replay_may_start_empty():
    replay = select.Replay(beta=1.0, stale=0.0, transform="power")
    state = replay.init(3)
    with pytest.raises(ValueError, match="empty"):
        replay.sample(KEY, state)
    assert int(jax.jit(lambda s: replay.sample(KEY, s)[0])(state)) == -1
    assert not np.any(jax.jit(lambda s: replay.update(s, replay.sample(KEY, s)[0], 1.0))(state).seen)
    for score, at in ((1.0, 0), (3.0, 1), (2.0, 2)):
        state, slot, accepted = replay.insert(state, score, score)
        assert (int(slot), bool(accepted)) == (at, True)
    np.testing.assert_allclose(replay.probs(state), np.array([1.001, 3.001, 2.001]) / 6.003, rtol=1e-5)
    state, slot, accepted = replay.insert(state, 5.0, 5.0)
    assert (int(slot), bool(accepted)) == (0, True)  # the least likely one goes


A9, Y9 = np.float32(rng().normal(size=(60, 2))), np.arange(60) // 45


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: select.smote(KEY, A9, Y9, 9), "labels for rows"),
        (lambda: select.smote(KEY, A9, [1, 2, 600], 9, k=2), "0..59"),
        (lambda: select.smote(KEY, A9[:20], np.arange(10), 9, kind="borderline1", around=20), "around"),
        (lambda: select.oversample(KEY, A9, np.eye(2)[Y9]), "argmax"),
        (lambda: select.oversample(KEY, A9, Y9[:50]), "one label per row"),
        (lambda: select.oversample(KEY, A9, Y9 + 0.5), "Bin a continuous"),
        (lambda: select.oversample(KEY, A9, Y9, targets={0: 10}), "undersample"),
        (lambda: select.oversample(KEY, A9, Y9, targets={7: 90}), "not in y"),
        (lambda: select.undersample(KEY, Y9, targets={1: 90}), "oversample"),
        (lambda: select.stratified(KEY, Y9, {0: 2, 1: 1}), "stratum_counts"),
        (lambda: select.stratified(KEY, Y9, (0.5, 0.5)), "Python int"),
        (lambda: select.stratum_counts([3, 4], 2, spread=[1, np.nan]), "spread"),
        (lambda: select.stratum_counts([3, 4], 2, cost=[1, 0]), "cost"),
        (lambda: select.stratum_counts([3, 4], 2, cost=[1, 1, 1]), "per stratum"),
        (lambda: select.stratum_counts([3, 4], 2, kind="neyman", spread=[1, -2]), "spread"),
        (lambda: select.stratum_counts([3, -4], 2), "sizes"),
        (lambda: select.k_center(A9, 3, start=100), "0..59"),
        (lambda: select.k_center(A9, 3, start=[1, 2, 3, 4]), "Raise num"),
        (lambda: select.merge(1, 2), "Subset"),
        (lambda: select.draw(KEY, jnp.ones(9), 3).take(np.ones(2)), "has row"),
        (lambda: select.draw(KEY, jnp.ones(9), 3).take("abc"), "array of rows"),
        (lambda: select.retrieve({"a": np.ones(3), "b": np.ones(2)}, {"a": np.ones((4, 3))}, np.zeros(4, int), 1,
                                 num_strata=1), "differ in size"),
        (lambda: select.allocate(select.Curve([1.0, 2.0]), 9.0, costs=[1.0, 1.0, 1.0]), "per group"),
        (lambda: select.leverage_stream([A9[:1]]), "fewer"),
        (lambda: select.herding(A9, 5, kernel=lambda x, y: jnp.ones(3)), "must return"),
        (lambda: select.kernel_error(A9[:5], select.draw(KEY, jnp.ones(60), 30)), "outside 0..4"),
        (lambda: select.balance(KEY, [[1.0], [2.0]], [0.0, 3.0], 1), "axes"),
        (lambda: select.leverage([[1.0, 2.0], [3.0]]), "different lengths"),
        (lambda: select.leverage(A9, weights=np.zeros(60)), "all 0"),
    ],
)  # fmt: skip
def test_natural_mistakes_are_refused(call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call()


# ------------------------------------------------------------------------------------------------ row weights
def test_row_weights_count_rows_as_often_as_they_say():
    X = np.float32(rng().normal(size=(20, 2)))
    w = rng(1).integers(0, 4, 20)
    many = np.repeat(X, w, 0)

    def collapse(score):  # a row that stands w times has the sum of the scores of its copies
        return np.bincount(np.repeat(np.arange(20), w), np.asarray(score, np.float64), 20)

    for fun in (select.lightweight, lambda x, weights=None: select.kmeans_scores(x, X[:3], weights=weights)):
        one = np.asarray(fun(X, weights=w))
        whole = collapse(fun(many)) * (one.sum() / np.sum(fun(many)))
        np.testing.assert_allclose(one, whole, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(select.kmeans_scores(X, X[:3], weights=np.full(20, 7.0)), select.kmeans_scores(X, X[:3]), rtol=1e-5)  # fmt: skip
    first = np.asarray(jax.vmap(lambda k: select.kmeans_seeds(k, X, 1, weights=w)[0])(jax.random.split(KEY, 4000)))
    counts = np.bincount(first, minlength=20)
    assert counts[w == 0].sum() == 0
    share = w / w.sum()
    assert np.all(np.abs(counts / 4000 - share) < 5.5 * np.sqrt(share * (1 - share) / 4000) + 1e-9)
    covered = select.k_center(X, 5, weights=w)
    plain = select.k_center(X[w > 0], 5, start=int(np.flatnonzero(np.flatnonzero(w) == int(covered.index[0]))[0]))
    assert np.asarray(covered.index).tolist() == np.flatnonzero(w)[np.asarray(plain.index)].tolist()
    assert float(covered.weight.sum()) == w.sum()
    gram = np.exp(-((X[:, None].astype(np.float64) - X[None]) ** 2).sum(-1) / 2)
    herd = select.herding(X, 5, weights=w)
    mean, total, used, index = gram @ share, np.zeros(20), w == 0, []
    for t in range(5):
        index.append(int(np.argmax(np.where(used, -np.inf, mean - total / (t + 1)))))
        total, used[index[-1]] = total + gram[index[-1]], True
    assert np.asarray(herd.index).tolist() == index
    assert abs(float(herd.weight.sum()) / w.sum() - 1) < 1e-6
    c = np.bincount(index, minlength=20) / 5 - share
    np.testing.assert_allclose(select.kernel_error(X, herd, weights=w), np.sqrt(c @ gram @ c), rtol=1e-4)


def test_a_chosen_set_is_kept_and_the_rest_covers_what_it_leaves():
    X = np.float32(rng().normal(size=(30, 2)))
    subset = select.k_center(X, 6, start=[4, 9])
    assert subset.index.tolist()[:2] == [4, 9]
    near = np.minimum(((X - X[4]) ** 2).sum(1), ((X - X[9]) ** 2).sum(1))
    for row in subset.index.tolist()[2:]:
        assert near[row] >= near.max() * (1 - 1e-6)
        near = np.minimum(near, ((X - X[row]) ** 2).sum(1))
    distance = ((X[:, None] - X[np.asarray(subset.index)][None]) ** 2).sum(-1)
    np.testing.assert_array_equal(subset.weight, np.bincount(distance.argmin(1), minlength=6))


def test_tree_sums_of_scaled_scores_stay_exact():
    weight = np.float32(rng().pareto(1.0, 999))
    high, low = sum_tree(jnp.asarray(weight)).total
    assert abs(float(high) + float(low) - weight.sum(dtype=np.float64)) < 1e-6 * weight.sum()


@pytest.mark.parametrize("size", [1e2, 1e5, 1e8, 1e11])
def test_the_sum_of_the_scores_says_how_many_directions_were_kept(size, x64):
    """Singular values 1, 1, 1, 1 / size: the last direction is lost in float32 from 1e6 to 1e7 on, in float64 later."""
    rng = np.random.default_rng(0)
    rows = np.linalg.qr(rng.normal(size=(200, 4)))[0] * [1, 1, 1, 1 / size]
    rows = rows @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    for dtype, kept in ((np.float32, 4 if size < 1e6 else 3), (np.float64, 4)):
        A = rows.astype(dtype)
        for score in (select.leverage(A), select.root_leverage(A, 2.0), select.lewis(A, 1.5).weight):
            assert abs(float(jnp.sum(score)) - kept) < 0.01
