"""The laws of the house for everything public in jsamp.select."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, close, pairs

from jsamp import select

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(24, 3)), jnp.float32)
SCORES = jnp.asarray(np.random.default_rng(1).pareto(1.5, 24) + 0.1, jnp.float32)
GROUPS = jnp.arange(24) % 3
LABELS = (jnp.arange(24) * 7 % 5 < 2).astype(jnp.int32)
CURVE = select.Curve(jnp.array([1.0, 2.0, 4.0]))
NAN = jnp.full_like(X, jnp.nan)


def bad(function, *values, match):
    """Refusals of one function for several values of its first array."""
    return [(lambda v=value: function(v), match) for value in values]


def of_rows(function, name, **options):
    """A deterministic function of rows [n, d]."""
    rows = next(iter(inspect.signature(getattr(select, name)).parameters))
    options = {"dtypes": "raised", "refusals": bad(function, NAN, match=f"{name}: {rows} holds NaN"), **options}
    return Case(lambda: function, (X,), **options)


def of_keyed_rows(function, name, **options):
    """A random function of rows [n, d]."""
    refusals = bad(lambda x: function(KEY, x), NAN, match=f"{name}: .*NaN")
    return Case(lambda: function, (X,), stochastic=True, **{"dtypes": "raised", "refusals": refusals, **options})


def of_scores(function, match, **options):
    """A random function of scores [n]."""
    refusals = bad(lambda s: function(KEY, s), -SCORES, match=match)
    return Case(lambda: function, (SCORES,), stochastic=True, **{"dtypes": "raised", "refusals": refusals, **options})


def host(call):
    """A function of the host, called without arguments but the key."""
    return Case(lambda: call, call=lambda thing, key: thing(KEY), host=True, dtypes=None)


def replay(key, x):
    replay = select.Replay(beta=0.5, mix=0.5)
    state = replay.init(6, dataset=4)._replace(score=x, second=x[::-1], seen=jnp.arange(6) < 4)
    slot, state = replay.sample(key, state)
    state, _, accepted = replay.insert(state, x[0], x[1])
    return slot, replay.update(state, slot, x[2]), accepted, replay.probs(state)


def reservoir(key, x):
    reservoir = select.Reservoir(5)
    state = reservoir.step(key, reservoir.init(jnp.zeros(3)), X, x)
    return reservoir.subset(reservoir.step(jax.random.fold_in(key, 1), state, X, x))


def stepped(x):
    kept = select.Reservoir(3)
    return kept.step(KEY, kept.init(x[0]), x, x)


def joined(key, x):
    return select.merge(*(select.draw(k, x, 4, scheme="topk") for k in jax.random.split(key)))


def scheme(name, **options):
    return of_scores(lambda key, s: select.draw(key, s, 6, scheme=name), "draw: scores", **options)


def newcomer(key, x):
    return select.interpolate_latents(key, x, x * x, pairs=4)


REGISTRY = {
    "Bounds": of_rows(lambda x: select.sensitivity_bounds(x, 3.0, iterations=4), "sensitivity_bounds", returns=select.Bounds,
                      mechanism="solve", tolerance=1e-3),
    "Coreset": host(lambda key: select.reduce_stream(key, [np.asarray(X)] * 3, 10)),
    "Curve": Case(lambda: CURVE, (jnp.array([3.0, 3.0, 3.0]),), smooth=True, dtypes="raised",
                  refusals=bad(select.Curve, -SCORES, match="Curve: scale")),
    "GaussianKernel": Case(lambda: select.GaussianKernel(2.0), (X, X + 1), smooth=True, mechanism="kernel",
                           refusals=bad(select.GaussianKernel, 0.0, "a", match="GaussianKernel: bandwidth")),
    "Lewis": of_rows(lambda x: select.lewis(x, 1.0, iterations=2), "lewis", mechanism="whiten", returns=select.Lewis,
                     tolerance=1e-4),
    "Nearest": Case(lambda: lambda x: select.nearest(x, x[3], 4), (X,), dtypes="raised", returns=select.Nearest,
                    mechanism="nearest", tolerance=1e-4),
    "Replay": Case(lambda: replay, (jnp.array([3.0, 1.0, 2.0, 0.5, 0.2, 0.1]),), stochastic=True, dtypes=None,
                   refusals=[(lambda: select.Replay(beta=0.0), "Replay: beta"),
                             (lambda: select.Replay(transform="best"), "Replay: transform")]),
    "ReplayState": Case(lambda: lambda x: select.Replay().init(6, dataset=3)._replace(score=x), (jnp.ones(6),),
                        returns=select.ReplayState, mechanism="record", dtypes=None),
    "Reservoir": of_scores(reservoir, "Reservoir.step: scores", dtypes=None),
    "ReservoirState": Case(lambda: stepped, (SCORES,), returns=select.ReservoirState,
                           mechanism="record", dtypes=None),
    "RowBlocks": host(lambda key: list(select.RowBlocks(np.asarray(X), 7))),
    "Subset": Case(lambda: lambda key, x: select.draw(key, x, 5).take({"a": X, "b": x}), (SCORES,), stochastic=True,
                   mechanism="poisson", dtypes=None),
    "Synthetic": of_keyed_rows(lambda key, x: select.smote(key, x, jnp.arange(10), 6, k=3, kind="borderline2", around=4),
                               "smote", returns=select.Synthetic),
    "allocate": Case(lambda: lambda x: select.allocate(select.Curve(x), 90.0, kind="maxmin"), (CURVE.scale,),
                     dtypes="raised", tolerance=1e-3, refusals=[(lambda: select.allocate(CURVE, -1.0), "allocate: budget"),
                                                                (lambda: select.allocate(3, 1.0), "allocate: curve")]),
    "allocate_greedy": Case(lambda: lambda x: select.allocate_greedy(select.Curve(x), 20), (CURVE.scale,),
                            dtypes="raised", refusals=[(lambda: select.allocate_greedy(CURVE, 2), "allocate_greedy: num")]),
    "balance": of_scores(lambda key, x: select.balance(key, x, jnp.array([0.0, 0.5, 1.0, 9.0]), 5), "", dtypes=None,
                         refusals=[(lambda: select.balance(KEY, NAN[:, 0], jnp.array([0.0, 1.0]), 5), "balance: target")]),
    "cutmix_half": of_keyed_rows(lambda key, x: select.cutmix_half(key, x, 2 * x), "", dtypes="kept", smooth=True,
                                 refusals=[(lambda: select.cutmix_half(KEY, X, X[1:]), "cutmix_half: first and second"),
                                           (lambda: select.cutmix_half(KEY, X[0], X[0]), "each side at least 2"),
                                           (lambda: select.cutmix_half(3, X, X), "key")]),
    "distortion": of_rows(lambda x: select.distortion(x, select.draw(KEY, SCORES, 12), 1.5, iterations=2), "distortion",
                          tolerance=1e-3),
    "draw": [scheme("poisson", mechanism="poisson"), scheme("systematic", mechanism="systematic"),
             scheme("multinomial"), scheme("priority", mechanism="clocks"), scheme("topk", mechanism="clocks")],
    "draw_bias": Case(lambda: lambda x: select.draw_bias(x / x.sum(), 8), (SCORES,), smooth=True,
                      refusals=bad(select.draw_bias, SCORES, match="sum to 1")),
    "draw_categorical": Case(lambda: lambda key, x: select.draw_categorical(key, x, (7,)), (jnp.log(SCORES),),
                             stochastic=True, dtypes=None,
                             refusals=[(lambda: select.draw_categorical(KEY, NAN[:, 0]), "draw_categorical: logits")]),
    "fit_curve": Case(lambda: lambda key: select.fit_curve([5, 9, 20], [[3.0, 1.0], [2.0, 0.8], [1.0, 0.7]], floor=0.1),
                      call=lambda thing, key: thing(key), host=True, dtypes=None,
                      refusals=[(lambda: select.fit_curve([5, 5, 5], np.ones((3, 1))), "different sizes"),
                                (lambda: select.fit_curve([5, 9, 20], [[1.0], [2.0], [3.0]], floor=0.0), "do not fall")]),
    "herding": of_rows(lambda x: select.herding(x, 5), "herding", mechanism="herding", returns=select.Subset),
    "inclusion_probs": Case(lambda: lambda s: select.inclusion_probs(s, 7), (SCORES,), smooth=True, dtypes="raised",
                            refusals=bad(lambda s: select.inclusion_probs(s, 7), -SCORES, match="inclusion_probs: scores")),
    "influence": [
        Case(lambda: lambda x: select.influence(x, LABELS, x[0], kind="gradient"), (X,), dtypes="raised", smooth=True,
             mechanism="influence", tolerance=1e-4,
             refusals=[(lambda: select.influence(X, GROUPS, X[0]), "labels 0 and 1"),
                       (lambda: select.influence(X, LABELS, X[0, :2]), "influence: coef"),
                       (lambda: select.influence(NAN, LABELS, X[0]), "influence: X holds NaN")]),
        Case(lambda: lambda x: select.influence(x, LABELS, x[0], weights=SCORES), (X,), dtypes="raised",
             mechanism="influence", tolerance=1e-4),
    ],
    "interpolate_latents": of_keyed_rows(newcomer, "interpolate_latents", dtypes="kept", smooth=True,
                                         refusals=bad(lambda x: newcomer(KEY, x), NAN, match="interpolate_latents: mean")),
    "k_center": of_rows(lambda x: select.k_center(x, 5), "k_center"),
    "kernel_error": of_rows(lambda x: select.kernel_error(x, select.draw(KEY, SCORES, 8)), "kernel_error", smooth=True,
                            mechanism="herding"),
    "kmeans_scores": of_rows(lambda x: select.kmeans_scores(x, x[:3]), "kmeans_scores", tolerance=1e-4),
    "kmeans_seeds": of_keyed_rows(lambda key, x: select.kmeans_seeds(key, x, 4), "kmeans_seeds"),
    "leverage": of_rows(select.leverage, "leverage", smooth=True, mechanism="leverage", tolerance=1e-4),
    "leverage_stream": host(lambda key: select.leverage_stream(select.RowBlocks(np.asarray(X), 7))),
    "lewis": of_rows(lambda x: select.lewis(x, 4.0, iterations=2).weight, "lewis", mechanism="whiten", smooth=True,
                     tolerance=1e-4),
    "lightweight": of_rows(select.lightweight, "lightweight", smooth=True, tolerance=1e-4),
    "loss_history": Case(lambda: lambda x: select.loss_history(x, jnp.array([1, 1, 3]), jnp.ones(3)), (SCORES,),
                         smooth=True, dtypes="raised",
                         refusals=[(lambda: select.loss_history(SCORES, jnp.array([24]), jnp.ones(1)), "0..23")]),
    "merge": of_scores(joined, "", mechanism="clocks", refusals=[(select.merge, "merge: pass")]),
    "naive_samples": Case(lambda: select.naive_samples, (SCORES,), dtypes=None, mechanism="otsu",
                          refusals=bad(select.naive_samples, NAN[:, 0], match="naive_samples: history")),
    "nearest": Case(lambda: lambda x: select.nearest(x, x[3], 4, metric="cosine"), (X,), dtypes="raised",
                    mechanism="nearest", refusals=bad(lambda x: select.nearest(x, x[0]), NAN, match="nearest: query")),
    "next_group": Case(lambda: lambda x: select.next_group(x, jnp.array([5, 2, 9]), rate=1.0), (CURVE.scale,),
                       dtypes=None, refusals=bad(lambda x: select.next_group(x, jnp.array([5, 2, 9])), -CURVE.scale,
                                                 match="next_group: errors")),
    "otsu": Case(lambda: select.otsu, (SCORES,), smooth=True, dtypes="raised", mechanism="otsu",
                 refusals=bad(select.otsu, NAN[:, 0], match="otsu: values")),
    "oversample": host(lambda key: select.oversample(key, np.asarray(X), np.arange(24) // 16)),
    "pack_bits": Case(lambda: lambda x: select.pack_bits(x > 0), (X,), dtypes=None,
                      refusals=bad(select.pack_bits, X, match="boolean")),
    "reduce_stream": host(lambda key: select.reduce_stream(key, (np.asarray(X) for _ in range(5)), 12).subset),
    "repeated_subsets": Case(lambda: lambda key: select.repeated_subsets(key, 12, 5, 6), (), stochastic=True, dtypes=None,
                             refusals=[(lambda: select.repeated_subsets(KEY, 5, 6, 1), "repeated_subsets: num")]),
    "retrieve": Case(lambda: lambda x: select.retrieve({"t": x[0]}, {"t": x}, GROUPS, 2, num_strata=3), (X,),
                     dtypes="raised", mechanism="nearest",
                     refusals=[(lambda: select.retrieve({"t": NAN[0]}, {"t": X}, GROUPS, 2, num_strata=3), "retrieve: .*NaN")]),
    "root_leverage": of_rows(lambda x: select.root_leverage(x, 1.0), "root_leverage", smooth=True, mechanism="leverage"),
    "sample_size": host(lambda key: np.asarray(select.sample_size(0.5, dim=8, p=1.0))),
    "sensitivity": of_rows(lambda x: select.sensitivity(x, 1.5, iterations=4), "sensitivity", mechanism="solve",
                           tolerance=1e-3),
    "sensitivity_bounds": of_rows(lambda x: select.sensitivity_bounds(x, 1.0, iterations=4), "sensitivity_bounds",
                                  tolerance=1e-3),
    "PartialCholesky": Case(lambda: lambda x: select.PartialCholesky(x, x, x), (SCORES,), mechanism="record",
                            returns=select.PartialCholesky),
    "compress": of_keyed_rows(lambda key, x: select.compress(key, x, 2, oversample=1), "compress",
                              refusals=[(lambda: select.compress(KEY, NAN, 2), "compress: X holds NaN"),
                                        (lambda: select.compress(KEY, X, 4, oversample=0), "24 rows are no 256 sets"),
                                        (lambda: select.compress(KEY, X, 5), "compress: rounds"),
                                        (lambda: select.compress(KEY, X[:1], 0), "compress: one row cannot be halved"),
                                        (lambda: select.compress(KEY, X, 2, oversample=-1), "compress: oversample"),
                                        (lambda: select.compress(KEY, X, 2, delta=0.0), "compress: delta")]),
    "rp_cholesky": of_keyed_rows(lambda key, x: select.rp_cholesky(key, x, 5), "rp_cholesky", tolerance=1e-4,
                                 returns=select.PartialCholesky,
                                 refusals=[(lambda: select.rp_cholesky(KEY, NAN, 5), "rp_cholesky: X holds NaN"),
                                           (lambda: select.rp_cholesky(KEY, X, 25), "rp_cholesky: num"),
                                           (lambda: select.rp_cholesky(KEY, X, 5, kernel=1.0), "kernel must be callable")]),
    "stein_error": of_rows(lambda x: select.stein_error(x, -x, length=1.5), "stein_error", smooth=True, mechanism="stein",
                           tolerance=1e-4, refusals=[(lambda: select.stein_error(X, -NAN), "stein_error: score holds"),
                                                     (lambda: select.stein_error(X, -X, X), "stein_error: subset")]),
    "stein_thinning": of_rows(lambda x: select.stein_thinning(x, -x, 5), "stein_thinning", returns=select.Subset,
                              refusals=[(lambda: select.stein_thinning(X, -NAN, 5), "score holds NaN"),
                                        (lambda: select.stein_thinning(X, -X[:3], 5), "score must have the shape of X"),
                                        (lambda: select.stein_thinning(X, -X, 0), "stein_thinning: num"),
                                        (lambda: select.stein_thinning(X, -X, 5, length=0.0), "length"),
                                        (lambda: select.stein_thinning(X, -X, 5, length=jnp.ones(2)), "one per column")]),
    "smote": of_keyed_rows(lambda key, x: select.smote(key, x, jnp.arange(10), 6, k=3), "smote"),
    "stratified": of_scores(lambda key, x: select.stratified(key, GROUPS, (2, 3, 1), scores=x), "stratified: scores",
                            dtypes=None),
    "stratified_masks": Case(lambda: lambda key, x: select.stratified_masks(key, GROUPS, x > 0.5, 3, alpha=2), (SCORES,),
                             stochastic=True, dtypes=None,
                             refusals=[(lambda: select.stratified_masks(KEY, GROUPS, SCORES, 3), "stratified_masks: labels")]),
    "stratum_counts": host(lambda key: np.asarray(select.stratum_counts([5, 9], 4))),
    "thinning": of_keyed_rows(lambda key, x: select.thinning(key, x, 2), "thinning"),
    "undersample": host(lambda key: select.undersample(key, np.arange(24) // 16)),
}  # fmt: skip


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)


def test_legacy_keys_work_and_other_keys_are_refused():
    legacy = jax.random.PRNGKey(0)
    close(select.draw(legacy, SCORES, 4, scheme="topk"), select.draw(KEY, SCORES, 4, scheme="topk"))
    with pytest.raises(TypeError, match="JAX key"):
        select.draw(0, SCORES, 4)
    with pytest.raises(ValueError, match="batch"):
        select.draw(jax.random.split(KEY), SCORES, 4)
