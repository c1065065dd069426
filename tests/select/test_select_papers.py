"""SMOTE, strata, allocation, replay, look-up, coverage: against brute force and hand-made numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import select

RNG = np.random.default_rng(0)
_START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_draws_in_any_order():
    RNG.bit_generator.state = _START


KEY = jax.random.key(0)


def brute_neighbors(rows, data, own, k):
    distance = ((rows[:, None] - data[None]) ** 2).sum(-1)
    distance[np.arange(len(rows)), own] = np.inf
    return np.sort(np.argsort(distance, 1)[:, :k], 1)


# ------------------------------------------------------------------------------------------------ SMOTE
@pytest.mark.parametrize("per_point", ["balanced", "random"])
def test_smote_points_lie_on_segments_to_true_neighbours(per_point):
    X = np.float32(RNG.normal(size=(80, 3)) + 100)
    X[5] = X[6]  # duplicates must not be taken for the point itself
    minority = np.arange(0, 60, 2)
    new = select.smote(KEY, X, minority, 90, k=4, per_point=per_point)
    near = brute_neighbors(X[minority].astype(np.float64), X[minority].astype(np.float64), np.arange(30), 4)
    table = {int(p): set(minority[row].tolist()) for p, row in zip(minority, near, strict=True)}
    parent, other = np.asarray(new.parent), np.asarray(new.neighbor)
    assert all(int(o) in table[int(p)] for p, o in zip(parent, other, strict=True))
    step = X[other].astype(np.float64) - X[parent]
    u = ((np.asarray(new.x, np.float64) - X[parent]) * step).sum(1) / (step**2).sum(1)
    assert np.all((u > -1e-4) & (u < 1 + 1e-4))
    assert 0.35 < u.mean() < 0.65
    np.testing.assert_allclose(new.x, X[parent] + u[:, None] * step, atol=1e-4)
    if per_point == "balanced":
        assert set(np.bincount(parent, minlength=80)[minority]) == {3}


def test_borderline_starts_only_in_danger_and_goes_half_way():
    left, right = RNG.normal(size=(60, 2)), RNG.normal(size=(30, 2)) + np.array([2.0, 0])
    X = np.float32(np.concatenate([left, right, [[30.0, 0]] * 1]))
    minority = np.arange(60, 91)
    near = brute_neighbors(X[minority].astype(np.float64), X.astype(np.float64), minority, 10)
    strangers = (near < 60).sum(1)
    danger = set(minority[(strangers >= 5) & (strangers < 10)].tolist())
    assert 3 < len(danger) < 31
    for kind in ("borderline1", "borderline2"):
        new = select.smote(KEY, X, minority, 200, kind=kind)
        parent, other = np.asarray(new.parent), np.asarray(new.neighbor)
        assert set(parent.tolist()) == danger
        assert bool(new.ok)
        step = X[other].astype(np.float64) - X[parent]
        u = ((np.asarray(new.x) - X[parent]) * step).sum(1) / np.maximum((step**2).sum(1), 1e-12)
        foreign = other < 60
        assert foreign.any() == (kind == "borderline2")
        assert np.all(u[foreign] < 0.5 + 1e-3)
        assert u[~foreign].max() > 0.8
    far = np.float32(np.concatenate([left, right + 100]))
    assert not bool(select.smote(KEY, far, np.arange(60, 90), 5, kind="borderline1").ok)


def test_smote_nc_keeps_codes_and_takes_the_mode():
    X = np.float32(RNG.normal(size=(40, 3)))
    X[:, 1] = RNG.integers(0, 3, 40)
    new = select.smote(KEY, X, np.arange(40), 300, k=3, kind="nc", nominal=(1,))
    spread = np.median(X[:, [0, 2]].std(0, dtype=np.float64))
    distance = ((X[:, None, [0, 2]].astype(np.float64) - X[None][:, :, [0, 2]]) ** 2).sum(-1)
    distance += spread**2 * (X[:, None, 1] != X[None, :, 1])
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, 1)[:, :3]
    for value, parent in zip(np.asarray(new.x[:, 1]), np.asarray(new.parent), strict=True):
        votes = np.bincount(X[near[parent], 1].astype(int), minlength=3)
        assert votes[int(value)] == votes.max()


def test_oversample_balances_every_class():
    X, y = np.float32(RNG.normal(size=(90, 2))), np.repeat([0, 1, 2], [60, 20, 10])
    big, labels = select.oversample(KEY, X, y)
    assert np.bincount(labels).tolist() == [60, 60, 60]
    np.testing.assert_array_equal(big[:90], X)


# ------------------------------------------------------------------------------------------------ strata
def test_stratified_draws_distinct_rows_and_fair_weights():
    strata = jnp.asarray(RNG.permutation(np.repeat([0, 1, 2], [50, 7, 2])))
    values = np.float64(RNG.normal(size=59))
    draws = jax.vmap(lambda k: select.stratified(k, strata, (5, 3, 4)))(jax.random.split(KEY, 4000))
    assert draws.mask.sum(1).tolist() == [10] * 4000
    index, mask = np.asarray(draws.index), np.asarray(draws.mask)
    assert all(len(set(i[m])) == 10 for i, m in zip(index[:200], mask[:200], strict=True))
    estimate = (np.asarray(draws.weight, np.float64) * values[index]).sum(1)
    assert abs(estimate.mean() - values.sum()) < 5 * estimate.std() / np.sqrt(4000)
    sizes = np.bincount(strata)
    variance = sum(
        sizes[h] ** 2 * (1 - m / sizes[h]) * values[np.asarray(strata) == h].var(ddof=1) / m
        for h, m in enumerate((5, 3, 2))
    )
    assert abs(estimate.var() / variance - 1) < 0.12  # relative error sqrt(2 / 4000) = 2.2 %


def test_stratum_counts():
    assert select.stratum_counts([80, 15, 5], 100) == (80, 15, 5)
    assert select.stratum_counts([2, 50, 50], 30, kind="equal") == (2, 14, 14)
    assert select.stratum_counts([100, 100], 30, kind="neyman", spread=[1, 2]) == (10, 20)
    assert select.stratum_counts([100, 100], 30, kind="neyman", spread=[1, 1], cost=[1, 4]) == (20, 10)
    for num in range(1, 60):
        assert sum(select.stratum_counts([33, 20, 7], num)) == num


def test_balance_gives_every_bin_its_count():
    target = np.float32(np.concatenate([RNG.uniform(1, 2, 90), RNG.uniform(5, 7, 4)]))
    edges = jnp.array([1.0, 2.0, 3.0, 5.0, 7.0])
    subset = select.balance(KEY, target, edges, 12)
    mask = np.asarray(subset.mask).reshape(4, 12)
    assert mask.sum(1).tolist() == [12, 0, 0, 12]
    rare = np.asarray(subset.index).reshape(4, 12)[3]
    assert set(np.bincount(rare)[90:]) == {3}
    assert len(set(np.asarray(subset.index)[:12].tolist())) == 12
    np.testing.assert_allclose(np.asarray(subset.weight).sum(), 94, rtol=1e-5)


def test_stratified_masks_partition_the_training_pixels():
    labels = jnp.asarray(RNG.integers(0, 4, (30, 20)))
    train = jnp.asarray(RNG.uniform(size=(30, 20)) < 0.5)
    chunk = np.asarray(select.stratified_masks(KEY, labels, train, 3, alpha=7))
    used = np.asarray(train & (labels > 0))
    assert np.all((chunk >= 0) == used)
    sizes = [int((used & (np.asarray(labels) == c)).sum()) for c in (1, 2, 3)]
    assert chunk.max() + 1 == -(-max(sizes) // 7)
    for c, size in zip((1, 2, 3), sizes, strict=True):
        counts = np.bincount(chunk[used & (np.asarray(labels) == c)])
        assert np.all(counts[: size // 7] == 7)
        assert counts.sum() == size
    other = select.stratified_masks(jax.random.key(1), labels, train, 3, alpha=7)
    assert np.any(np.asarray(other) != chunk)


def test_retrieve_equals_brute_force_and_serves_every_stratum():
    bank = {m: np.float32(RNG.normal(size=(50, 8))) for m in ("text", "image")}
    query = {m: np.float32(RNG.normal(size=8)) for m in ("text", "image")}
    strata = RNG.integers(0, 5, 50)
    strata[strata == 4] = 3
    strata[0] = 4
    subset = select.retrieve(query, bank, jnp.asarray(strata), 2, num_strata=5)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a, axis=1) / np.linalg.norm(b)

    channels = [cosine(bank[b], query[q]) for q in query for b in bank]
    rank = np.min([np.argsort(np.argsort(-s)) for s in channels], 0)
    closest = np.max(channels, 0)
    for h in range(5):
        rows = np.flatnonzero(strata == h)
        best = sorted(rows, key=lambda i: (rank[i], -closest[i]))[:2]
        got = np.asarray(subset.index).reshape(5, 2)[h][np.asarray(subset.mask).reshape(5, 2)[h]]
        assert got.tolist() == [int(i) for i in best]
    single = select.retrieve({"text": query["text"]}, bank, jnp.asarray(strata), 2, num_strata=5)
    assert int(single.mask.sum()) == 9
    cut = select.retrieve(query, bank, jnp.asarray(strata), 5, num_strata=5, top=3)
    assert int(cut.mask.sum()) <= 12


# ------------------------------------------------------------------------------------------------ allocation
def test_allocation_closed_forms_and_budget():
    curve = select.Curve(jnp.array([1.0, 4.0]))
    np.testing.assert_allclose(select.allocate(curve, 90.0), [30, 60], rtol=1e-4)
    np.testing.assert_allclose(select.allocate(curve, 90.0, kind="maxmin"), [18, 72], rtol=1e-4)
    costs = jnp.array([1.0, 3.0, 2.0])
    curve = select.Curve(jnp.array([2.0, 1.0, 5.0]), jnp.array([1.0, 0.5, 0.7]), jnp.array([0.1, 0.0, 0.2]))
    for kind in ("sum", "maxmin"):
        n = select.allocate(curve, 100.0, costs=costs, kind=kind)
        assert abs(float(jnp.sum(costs * n)) - 100) < 1e-2
        if kind == "maxmin":
            assert float(jnp.ptp(curve(n))) < 1e-3
        else:  # equal marginal gain per cost
            slope = curve.scale * curve.rate * n ** -(curve.rate + 1) / costs
            np.testing.assert_allclose(slope, float(slope[0]), rtol=1e-3)
    capped = select.allocate(curve, 100.0, costs=costs, available=jnp.array([5.0, 100.0, 100.0]))
    assert float(capped[0]) == 5
    assert abs(float(jnp.sum(costs * capped)) - 100) < 1e-2


@pytest.mark.parametrize("kind", ["sum", "maxmin"])
def test_greedy_allocation_is_optimal(kind):
    curve = select.Curve(jnp.array([1.0, 4.0, 2.5]), jnp.array([1.0, 0.7, 1.3]))
    reduce = np.sum if kind == "sum" else np.max
    for num in (3, 7, 16, 30):
        got = select.allocate_greedy(curve, num, kind=kind)
        best = min(
            reduce(np.asarray(curve(np.array([a, b, num - a - b], np.float32))))
            for a, b in itertools.product(range(1, num - 1), repeat=2)
            if a + b < num
        )
        assert int(got.sum()) == num
        np.testing.assert_allclose(reduce(np.asarray(curve(got.astype(jnp.float32)))), best, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ RS2 and histories
@pytest.mark.parametrize(("size", "num"), [(10, 4), (10, 7), (9, 3), (5, 5), (7, 1)])
def test_repeated_subsets_walk_through_permutations(size, num):
    index = np.asarray(select.repeated_subsets(KEY, size, num, 40))
    assert index.shape == (40, num)
    assert all(len(set(row.tolist())) == num for row in index)
    flat = index.ravel()
    whole = len(flat) // size
    for j in range(whole):
        assert sorted(flat[j * size : (j + 1) * size].tolist()) == list(range(size))
    independent = np.asarray(select.repeated_subsets(KEY, size, num, 40, replace=True))
    assert all(len(set(row.tolist())) == num for row in independent)


def test_independent_subsets_hold_every_row_equally_often():
    index = np.asarray(select.repeated_subsets(KEY, 20, 6, 3000, replace=True))
    seen = np.stack([np.bincount(row, minlength=20) for row in index])
    z = (seen.mean(0) - 0.3) / np.sqrt(0.3 * 0.7 / 3000)
    assert (z**2).sum() * 19 / 20 < 60  # chi-square with 19 degrees of freedom: p = 4e-6


def test_otsu_equals_brute_force_and_moves_with_the_data():
    values = np.float32(np.concatenate([RNG.normal(0, 1, 60), RNG.normal(6, 1, 30)]))
    place = np.sort(values.astype(np.float64))
    splits = (place[1:] + place[:-1]) / 2
    score = [(values <= s).sum() * (values > s).sum() * (values[values <= s].mean() - values[values > s].mean()) ** 2 for s in splits]  # fmt: skip
    best = splits[int(np.argmax(score))]
    np.testing.assert_allclose(select.otsu(values), best, rtol=1e-4)
    np.testing.assert_allclose(select.otsu(values * 3 - 5), best * 3 - 5, rtol=1e-4)
    for sample in (values, np.float32(RNG.normal(size=5000))):
        counts, edges = np.histogram(sample, 64)
        middle = (edges[1:] + edges[:-1]) / 2
        left, right = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
        mean_left = np.cumsum(counts * middle)[:-1] / left
        mean_right = np.cumsum((counts * middle)[::-1])[::-1][1:] / right
        spread = left * right * (mean_left - mean_right) ** 2
        tied = spread >= spread.max() * (1 - 1e-9)  # empty bins in the gap: image libraries take the first of them
        np.testing.assert_allclose(select.otsu(sample, bins=64), middle[:-1][tied].mean(), atol=1e-3 * np.ptp(sample))
    assert not np.any(select.naive_samples(jnp.ones(5)))
    old = jnp.array([True, False])
    assert select.naive_samples(jnp.ones(2), old).tolist() == [True, False]
    assert int(select.naive_samples(values).sum()) == int((values < best).sum())
    skewed = jnp.exp(jnp.asarray(values))
    assert int(select.naive_samples(skewed, log=True).sum()) == int((values < best).sum())


def test_half_of_a_view_is_the_other_views():
    first, second = jnp.zeros((5, 4, 2)), jnp.ones((5, 4, 2))
    joint = np.asarray(
        jax.vmap(lambda key: select.cutmix_half(key, first, second))(jax.random.split(jax.random.key(0), 400))
    )
    top, left = np.zeros((5, 4, 2)), np.zeros((5, 4, 2))
    top[:2], left[:, :2] = 1, 1
    upper, side = (joint == top).all((1, 2, 3)), (joint == left).all((1, 2, 3))
    assert (upper | side).all() and 120 < upper.sum() < 280  # 8 deviations of a fair coin


# ------------------------------------------------------------------------------------------------ replay
def test_replay_mixes_three_distributions():
    replay = select.Replay(beta=0.5, second_beta=1.0, mix=0.25, stale=0.4)
    state = replay.init(5, dataset=3)
    np.testing.assert_allclose(replay.probs(state), [1 / 3, 1 / 3, 1 / 3, 0, 0], atol=1e-6)
    for slot, (a, b) in enumerate([(1.0, 5.0), (3.0, 1.0), (2.0, 2.0)]):
        state = replay.update(state, slot, a, b)
    state, slot, ok = replay.insert(state, 9.0, 3.0)
    assert int(slot) == 3
    assert bool(ok)
    state = state._replace(age=jnp.array([1.0, 0.0, 3.0, 7.0, 7.0]))
    first = np.array([1 / 9, 1, 1 / 4, 0, 0]) / (1 + 1 / 4 + 1 / 9)
    second = np.array([1, 1 / 4, 1 / 3, 1 / 2, 0]) / (1 + 1 / 4 + 1 / 3 + 1 / 2)
    stale = np.array([1, 0, 3, 0, 0]) / 4
    np.testing.assert_allclose(replay.probs(state), 0.6 * (0.75 * first + 0.25 * second) + 0.4 * stale, rtol=1e-5)
    slot, after = replay.sample(KEY, state)
    assert float(after.age[slot]) == 0
    assert float(after.age.sum()) == float((state.age + 1).sum() - state.age[slot] - 1)


def test_replay_never_evicts_the_dataset_and_asks_for_progress():
    replay = select.Replay(mix=1.0)
    state = replay.init(3, dataset=2)
    state, slot, ok = replay.insert(state, 1.0, 1.0)
    assert (int(slot), bool(ok)) == (2, True)
    for second, accepted in ((0.5, False), (0.0, False), (2.0, True)):
        new, slot, ok = replay.insert(state, 1.0, second)
        assert int(slot) == 2
        assert bool(ok) == accepted
        assert bool(new.second[2] == (second if accepted else 1.0))
    full = select.Replay().init(2, dataset=2)
    assert not bool(select.Replay().insert(full, 1.0, 1.0)[2])
    power = select.Replay(beta=1.0, stale=0.0, transform="power")
    state = power.update(power.update(power.init(2, dataset=2), 0, 3.0), 1, 1.0)
    np.testing.assert_allclose(power.probs(state), np.array([3.001, 1.001]) / 4.002, rtol=1e-5)


def test_latents_between_levels_follow_great_circles():
    mean = RNG.normal(size=(12, 5))
    mean = jnp.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True) * 3, jnp.float32)
    z = np.asarray(select.interpolate_latents(KEY, mean, jnp.zeros((12, 5)), pairs=6, points=5)).reshape(6, 5, 5)
    np.testing.assert_allclose(np.linalg.norm(z, axis=2), 3, rtol=1e-5)  # equal norms are kept on the way
    ends = np.concatenate([z[:, 0], z[:, -1]])
    assert sorted(np.argmin(((ends[:, None] - np.asarray(mean)[None]) ** 2).sum(-1), 1).tolist()) == list(range(12))
    angle = np.arccos(np.clip((z[:, :-1] * z[:, 1:]).sum(-1) / 9, -1, 1))
    np.testing.assert_allclose(angle, np.broadcast_to(angle.mean(1, keepdims=True), angle.shape), rtol=1e-3)
    line = jnp.array([[0.0, 0.0], [2.0, 1.0]])  # a zero vector has no direction: straight, and finite
    straight = np.asarray(select.interpolate_latents(KEY, line, jnp.zeros((2, 2)), pairs=1, points=3))
    np.testing.assert_allclose(straight[1], [1.0, 0.5], atol=1e-6)
    std = jnp.array([[1.0] * 500, [3.0] * 500])
    noisy = np.asarray(select.interpolate_latents(KEY, jnp.zeros((2, 500)), std, pairs=1, points=3))
    assert np.all(np.abs(np.sort(noisy.std(1)) / [1, 2, 3] - 1) < 5 / np.sqrt(2 * 500))


# ------------------------------------------------------------------------------------------------ look-up
def test_nearest_equals_brute_force():
    masks = RNG.uniform(size=(60, 70)) < 0.4
    query = RNG.uniform(size=70) < 0.4
    dice = 2 * (masks & query).sum(1) / (masks.sum(1) + query.sum())
    got = select.nearest(jnp.asarray(masks), jnp.asarray(query), 60, metric="dice")
    np.testing.assert_allclose(got.score, np.sort(dice)[::-1], rtol=1e-6)
    packed = select.nearest(select.pack_bits(masks), select.pack_bits(query), 60, metric="dice")
    np.testing.assert_array_equal(packed.index, got.index)
    two = select.nearest({"a": jnp.asarray(masks), "b": jnp.asarray(~masks)}, {"a": masks[9], "b": ~masks[9]}, metric="dice")  # fmt: skip
    assert int(two.index[0]) == 9
    assert float(two.score[0]) == 2
    empty = select.nearest(jnp.zeros((2, 40), bool), jnp.zeros(40, bool), metric="dice")
    assert float(empty.score[0]) == 1
    X, q = np.float32(RNG.normal(size=(60, 5))), np.float32(RNG.normal(size=5))
    exact = ((X - q) ** 2).sum(1)
    got = select.nearest(X, q, 5, block=16)
    np.testing.assert_allclose(got.score, np.sort(exact)[:5], rtol=1e-5)
    cosine = select.nearest(X, q, 5, metric="cosine")
    np.testing.assert_array_equal(cosine.index, np.argsort(-(X @ q) / np.linalg.norm(X, axis=1))[:5])


# ------------------------------------------------------------------------------------------------ coverage
def test_k_center_is_within_twice_the_best_radius():
    X = np.float32(RNG.normal(size=(14, 2)))

    def radius(rows):
        return np.sqrt(((X[:, None] - X[list(rows)][None]) ** 2).sum(-1).min(1).max())

    best = min(radius(rows) for rows in itertools.combinations(range(14), 4))
    for start in (None, 0, 7):
        subset = select.k_center(X, 4, start=start)
        assert best <= radius(np.asarray(subset.index)) + 1e-6 <= 2 * best + 1e-5
        assert start is None or int(subset.index[0]) == start
        assert float(subset.weight.sum()) == 14


def test_herding_and_thinning_beat_random_rows():
    X = jnp.asarray(np.float32(RNG.normal(size=(1024, 2))))
    random = [
        float(select.kernel_error(X, select.draw(k, jnp.ones(1024), 32, scheme="systematic")))
        for k in jax.random.split(KEY, 10)
    ]
    herd = float(select.kernel_error(X, select.herding(X, 32)))
    thin = float(select.kernel_error(X, select.thinning(KEY, X, 5)))
    assert herd < 0.3 * np.mean(random)
    assert thin < 0.3 * np.mean(random)
    assert thin <= float(select.kernel_error(X, select.thinning(KEY, X, 5, swap=False))) + 1e-6
    gram = np.exp(-0.5 * ((np.asarray(X)[:, None] - np.asarray(X)[None]) ** 2).sum(-1, dtype=np.float64))
    index = np.asarray(select.herding(X, 32).index)
    exact = np.sqrt(gram.mean() - 2 * gram[index].mean() + gram[np.ix_(index, index)].mean())
    assert abs(herd - exact) < 2e-3
    assert len(set(index.tolist())) == 32


def test_kernel_halving_signs_balance_better_than_coins():
    """Halving 2 m rows: the error of m kept ones falls like sqrt(log m) / m, against 1/sqrt(m) for random halves."""
    errors = {True: [], False: []}
    sizes = (64, 256, 1024)
    for m in sizes:
        X = jnp.asarray(np.float32(RNG.normal(size=(2 * m, 2))))
        for balanced in errors:
            halves = [
                select.thinning(k, X, 1, swap=False) if balanced else select.draw(k, jnp.ones(2 * m), m, scheme="topk")
                for k in jax.random.split(KEY, 12)
            ]
            errors[balanced].append(np.mean([float(select.kernel_error(X, half)) for half in halves]))
    slope = {b: np.polyfit(np.log(sizes), np.log(e), 1)[0] for b, e in errors.items()}
    assert abs(slope[False] + 0.5) < 0.15
    assert slope[True] < -0.65
    assert errors[True][-1] < 0.4 * errors[False][-1]


def test_clustering_scores_give_unbiased_costs():
    X = np.float32(np.concatenate([RNG.normal(size=(900, 2)), RNG.normal(size=(20, 2)) + 30]))
    seeds = select.kmeans_seeds(KEY, X, 3)
    assert len(set(np.asarray(seeds).tolist())) == 3
    assert np.any(np.asarray(seeds) >= 900)
    truth = ((X[:, None] - np.float32([[0, 0], [15, 15]])[None]) ** 2).sum(-1).min(1)
    spread = []
    for scores in (jnp.ones(920), select.kmeans_scores(X, X[seeds]), select.lightweight(X)):
        draws = jax.vmap(lambda k, s=scores: select.draw(k, s, 60, scheme="multinomial"))(jax.random.split(KEY, 500))
        cost = (np.asarray(draws.weight) * truth[np.asarray(draws.index)]).sum(1)
        assert abs(cost.mean() - truth.sum()) < 5 * cost.std() / np.sqrt(500)
        spread.append(cost.std() / truth.sum())
    assert spread[1] < 0.8 * spread[0]
    assert spread[2] < 0.25 * spread[0]
    assert abs(float(select.lightweight(X).sum()) - 1) < 1e-5


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: select.smote(KEY, np.zeros((5, 2), np.float32), np.arange(5), 3), "no 5 neighbours"),
        (lambda: select.smote(KEY, np.full((9, 2), np.nan, np.float32), np.arange(9), 3), "NaN"),
        (lambda: select.smote(KEY, np.zeros((9, 2), np.float32), np.arange(9), -1), "num"),
        (lambda: select.smote(KEY, np.zeros((9, 2), np.float32), np.arange(9), 1, k=0), "k must"),
        (
            lambda: select.smote(KEY, np.zeros((9, 2), np.float32), np.arange(9), 1, kind="nc", nominal=(0, 1)),
            "nominal",
        ),
        (lambda: select.smote(KEY, np.zeros((9, 2), np.float32), np.ones(9, bool), 1), "flatnonzero"),
        (lambda: select.stratified(KEY, jnp.array([0, 3]), (1, 1)), "strata"),
        (lambda: select.stratum_counts([1, 2], 5), "num"),
        (lambda: select.stratum_counts([1, 2], 2, kind="neyman"), "spread"),
        (lambda: select.balance(KEY, jnp.ones(3), jnp.array([1.0, 1.0]), 2), "increasing"),
        (lambda: select.stratified_masks(KEY, jnp.ones((2, 2), int), jnp.ones((2, 2), bool), 1, alpha=0), "alpha"),
        (lambda: select.stratified_masks(KEY, jnp.full((2, 2), 5), jnp.ones((2, 2), bool), 1), "labels"),
        (
            lambda: select.retrieve({"a": jnp.ones(3)}, {"a": jnp.ones((4, 2))}, jnp.zeros(4, int), 1, num_strata=1),
            "channels",
        ),  # fmt: skip
        (lambda: select.allocate(select.Curve(jnp.ones(2)), 0.0), "budget"),
        (lambda: select.allocate(select.Curve(jnp.ones(2)), 1.0, costs=-1.0), "costs"),
        (lambda: select.allocate(select.Curve(jnp.ones(2), 0.0), 1.0), "rate"),
        (lambda: select.repeated_subsets(KEY, 5, 6, 1), "num"),
        (lambda: select.repeated_subsets(KEY, 5, 0, 1), "num"),
        (lambda: select.Replay(beta=0.0), "beta"),
        (lambda: select.Replay(stale=1.5), "stale"),
        (lambda: select.interpolate_latents(KEY, jnp.ones((4, 2)), jnp.ones((4, 2)), pairs=3), "pairs"),
        (lambda: select.interpolate_latents(KEY, jnp.ones((4, 2)), jnp.ones((4, 3)), pairs=1), "share a shape"),
        (lambda: select.otsu(jnp.array([1.0, jnp.nan])), "values"),
        (lambda: select.naive_samples(jnp.array([0.0, 1.0]), log=True), "log=True"),
        (lambda: select.nearest(jnp.ones((3, 2)), jnp.ones(3)), "query"),
        (lambda: select.nearest(jnp.ones((3, 2)), jnp.ones(2), 4), "num"),
        (lambda: select.k_center(jnp.ones((3, 2)), 4), "num"),
        (lambda: select.thinning(KEY, jnp.ones((3, 2)), 3), "rounds"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()
