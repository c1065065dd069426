"""Stratified retrieval (multi-modal chain of thought), balanced targets (empathy prediction), GS2 masks (FPGA)."""

import jax
import jax.numpy as jnp
import numpy as np

from jsamp import select


def test_retrieval_by_type_is_more_diverse_and_answers_better_when_neighbours_are_skewed():
    rng = np.random.default_rng(0)
    n, types = 400, 5
    kind = rng.choice(types, n, p=[0.8, 0.05, 0.05, 0.05, 0.05])
    bank = {"text": np.float32(rng.normal(size=(n, 6))), "image": np.float32(rng.normal(size=(n, 6)))}
    hits, plain_hits, diversity = 0, 0, 0.0
    for trial in range(40):
        wanted = trial % types
        query = {m: np.float32(rng.normal(size=6)) for m in bank}
        subset = select.retrieve(query, bank, jnp.asarray(kind), 2, num_strata=types)
        demos = kind[np.asarray(subset.index)[np.asarray(subset.mask)]]
        plain = select.retrieve(query, bank, jnp.zeros(n, int), 10, num_strata=1)
        top = kind[np.asarray(plain.index)]
        hits, plain_hits = hits + (wanted in demos), plain_hits + (wanted in top)
        diversity += len(set(demos)) - len(set(top))
    assert hits == 40
    assert plain_hits < 36
    assert diversity / 40 > 1


def test_balanced_target_bins_lower_the_error_of_rare_bins():
    rng = np.random.default_rng(0)
    x = rng.normal(size=3000)
    y = np.float32(np.clip(4 + 0.6 * x + 0.5 * (x > 1.8) * 4 + 0.2 * rng.normal(size=3000), 1, 7))
    X = np.float32(np.c_[np.ones(3000), x])
    subset = select.balance(jax.random.key(0), y, jnp.array([1.0, 2.5, 4.0, 5.5, 7.0]), 700)
    use = np.asarray(subset.index)[np.asarray(subset.mask)]
    plain = np.linalg.lstsq(X, y, rcond=None)[0]
    fair = np.linalg.lstsq(X[use], y[use], rcond=None)[0]
    rare = y > 5.5
    assert np.abs(X[rare] @ fair - y[rare]).mean() < 0.8 * np.abs(X[rare] @ plain - y[rare]).mean()


def test_stratified_allocations_are_ordered():
    """Variance of the stratified mean: Neyman <= proportional <= simple random sampling."""
    rng = np.random.default_rng(0)
    sizes, spread, mean = np.array([600, 300, 100]), np.array([1.0, 2.0, 8.0]), np.array([0.0, 5.0, -5.0])
    strata = np.repeat(np.arange(3), sizes)
    values = mean[strata] + spread[strata] * rng.normal(size=1000)
    deviation = [values[strata == h].std(ddof=1) for h in range(3)]
    keys = jax.random.split(jax.random.key(0), 3000)

    def variance(counts):
        draws = jax.vmap(lambda k: select.stratified(k, jnp.asarray(strata), counts))(keys)
        return (np.asarray(draws.weight, np.float64) * values[np.asarray(draws.index)]).sum(1).var() / 1e6

    def law(counts):
        return sum((n / 1000) ** 2 * (1 - m / n) * s**2 / m for n, m, s in zip(sizes, counts, deviation, strict=True))

    neyman = select.stratum_counts(sizes, 60, kind="neyman", spread=deviation)
    even = select.stratum_counts(sizes, 60)
    simple = values.var(ddof=1) / 60 * (1 - 0.06)
    for counts in (neyman, even):
        assert abs(variance(counts) / law(counts) - 1) < 0.15
    assert law(neyman) < 0.6 * law(even) < 0.6 * simple


def test_stratified_masks_learn_what_one_fixed_mask_does_not():
    """A per-pixel classifier on a synthetic image: fresh stratified masks use all labels at the cost of one mask."""
    rng = np.random.default_rng(0)
    labels = 1 + (np.add.outer(np.arange(64) // 16, np.arange(64) // 16) % 3)
    features = np.float32(np.eye(3)[labels - 1] @ rng.normal(size=(3, 12)) + 1.5 * rng.normal(size=(64, 64, 12)))
    train = rng.uniform(size=(64, 64)) < 0.1
    F, L = jnp.asarray(features.reshape(-1, 12)), jnp.asarray(labels.ravel() - 1)

    def fit(masks):
        def loss(w, mask):
            return jnp.sum(mask * -jax.nn.log_softmax(F @ w)[jnp.arange(4096), L]) / jnp.sum(mask)

        step = jax.jit(lambda w, mask: w - 0.1 * jax.grad(loss)(w, mask))
        w = jnp.zeros((12, 3))
        for mask in masks:
            w = step(w, jnp.asarray(mask, jnp.float32).ravel())
        return float(jnp.mean((jnp.argmax(F @ w, 1) == L)[~train.ravel()]))

    maps = [
        select.stratified_masks(jax.random.key(e), jnp.asarray(labels), jnp.asarray(train), 3, alpha=5)
        for e in range(15)
    ]
    fresh = [np.asarray(m) == t for m in maps for t in range(20)]
    fixed = [np.asarray(maps[0]) == 0] * len(fresh)
    assert fit(fresh) > fit(fixed) + 0.02


def test_cross_modal_similarity_finds_what_one_modality_cannot():
    """A picture without words: bank texts tell the topic, bank pictures do not. The answer is a vote of the found."""
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(8, 16))
    topic = rng.integers(0, 8, 400)
    bank = {
        "text": np.float32(topics[topic] + 0.8 * rng.normal(size=(400, 16))),
        "image": np.float32(rng.normal(size=(400, 16))),
    }
    kind = jnp.asarray(rng.integers(0, 3, 400))
    right = {"cross": 0, "intra": 0}
    for trial in range(80):
        query = {"image": np.float32(topics[trial % 8] + 0.8 * rng.normal(size=16))}
        for name, channels in (("cross", None), ("intra", (("image", "image"),))):
            found = select.retrieve(query, bank, kind, 3, num_strata=3, channels=channels)
            votes = np.bincount(topic[np.asarray(found.index)[np.asarray(found.mask)]], minlength=8)
            right[name] += int(votes.argmax() == trial % 8)
    assert right["cross"] > 64  # 8 topics: chance is 10 of 80
    assert right["intra"] < 30


def test_masks_of_all_classes_serve_the_rare_class():
    """One pixel in forty is of the rare class: masks that hold every class learn it, masks of the same size do not."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.uniform(size=(64, 64)) < 0.025, 3, 1 + (np.arange(64)[:, None] // 32 + 0 * np.arange(64)))
    features = np.float32(np.eye(3)[labels - 1] @ rng.normal(size=(3, 6)) + 1.2 * rng.normal(size=(64, 64, 6)))
    train = rng.uniform(size=(64, 64)) < 0.3
    F = jnp.asarray(np.c_[features.reshape(-1, 6), np.ones(4096)], jnp.float32)
    L = jnp.asarray(labels.ravel() - 1)

    def fit(names, classes, alpha):
        def loss(w, mask):
            return jnp.sum(mask * -jax.nn.log_softmax(F @ w)[jnp.arange(4096), L]) / jnp.sum(mask)

        step = jax.jit(lambda w, mask: w - 0.3 * jax.grad(loss)(w, mask))
        w = jnp.zeros((7, 3))
        for epoch in range(30):
            chunk = select.stratified_masks(
                jax.random.key(epoch), jnp.asarray(names), jnp.asarray(train), classes, alpha=alpha
            )
            for t in range(4):  # the first masks, in which every class still has pixels
                w = step(w, jnp.asarray(chunk == t, jnp.float32).ravel())
        hit = np.asarray(jnp.argmax(F @ w, 1) == L)[~train.ravel()]
        truth = labels.ravel()[~train.ravel()]
        return np.mean([hit[truth == c].mean() for c in (1, 2, 3)])

    stratified = fit(labels, 3, 7)
    mixed = fit(np.ones_like(labels), 1, 21)  # the same number of pixels in a mask, whatever their class
    assert stratified > mixed + 0.04, (stratified, mixed)
