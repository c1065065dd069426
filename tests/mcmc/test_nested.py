"""Nested sampling against closed forms: moments of the volumes, boxes, plateaus, resumption, and live points that lie."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.mcmc import _nested as nested_file
from jsamp.mcmc import _nested_evidence as evidence
from jsamp.mcmc import _nested_moves as moves_file

KEY = jax.random.key(0)


def box(u):
    """Uniform on [-1, 1]^d."""
    return 2 * u - 1


def peak(x, width=0.1):
    return -jnp.sum((x / width) ** 2) / 2


def exact(dim, width=0.1):
    """Log-evidence of `peak` in the box; its tails beyond the walls are below 1e-20."""
    return dim * math.log(math.sqrt(2 * math.pi) * width / 2)


# ---------------------------------------------------------------- the sums, in closed form


def test_a_constant_likelihood_has_the_evidence_of_itself_without_error():
    found = evidence.evidence(np.full(130, -3.0), num=30, delete=7)
    np.testing.assert_allclose([found.value, found.stderr, found.information], [-3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(np.exp(found.log_weights).sum(), math.exp(-3), rtol=1e-12)


def test_the_moments_of_two_deletions_by_hand():
    # Z = 2 (1 - t) + t (3 (1 - s) + 5 s), t ~ Beta(4, 1), s ~ Beta(3, 1) (deleted two by two), rest 5.
    found = evidence.evidence(np.log([2.0, 3, 5, 5, 5, 5]), num=4, delete=2)
    t, t2, s, s2 = 4 / 5, 4 / 6, 3 / 4, 3 / 5
    inner, inner2 = 3 + 2 * s, 9 + 12 * s + 4 * s2
    first = 2 * (1 - t) + t * inner
    second = 4 * (1 - 2 * t + t2) + 4 * (t - t2) * inner + t2 * inner2
    variance = math.log(second / first**2)
    np.testing.assert_allclose([found.value, found.stderr**2], [math.log(first) - variance / 2, variance], rtol=1e-9)


def test_the_moments_are_those_of_simulated_volumes():
    rng, num, delete = np.random.default_rng(0), 20, 5
    levels = np.linspace(-12, 0, 120) ** 3 / 100
    n = evidence.sizes(100, num, delete)
    x = np.concatenate([np.ones((20_000, 1)), np.cumprod(rng.beta(n, 1, (20_000, 100)), 1)], 1)
    z = (np.exp(levels[:100]) * -np.diff(x, axis=1)).sum(1) + x[:, -1] * np.exp(levels[100:]).mean()
    found = evidence.evidence(levels, num, delete)
    np.testing.assert_allclose(np.exp(found.log_weights).sum(), z.mean(), rtol=5 * z.std() / z.mean() / 141)
    assert abs(found.stderr**2 / math.log1p(z.var() / z.mean() ** 2) - 1) < 0.15
    noisy = evidence.evidence(levels, num, delete, noise=0.5)
    assert noisy.stderr > found.stderr


def test_the_rank_test_is_kolmogorovs():
    stats = pytest.importorskip("scipy.stats")
    ranks = np.random.default_rng(1).uniform(0, 1, 500) ** 1.1
    assert abs(evidence.rank_p_value(ranks) - stats.kstest(ranks, "uniform").pvalue) < 5e-3
    assert evidence.rank_p_value(ranks**2) < 1e-6
    assert evidence.rank_p_value(np.zeros(0)) == 1


# ---------------------------------------------------------------- runs against closed forms


def test_a_gaussian_in_a_box_in_order_and_side_by_side():
    for delete, num in ((1, 300), (60, 300)):
        draws, info = js.mcmc.nested(KEY, peak, box, num, dim=3, delete=delete)
        error = info.log_evidence.value - exact(3)
        assert info.ok
        assert abs(error) < 4 * info.log_evidence.stderr  # 6e-5
        assert abs(info.log_evidence.stderr / math.sqrt(info.information / num) - 1) < 0.3
        assert abs(info.information - 3 * (math.log(2 / 0.1) - math.log(2 * math.pi * math.e) / 2)) < 0.5
        assert info.rank_p_value > 1e-4
        assert info.stuck == 0
        square = js.estimate.snis(info.log_weights, draws**2)
        np.testing.assert_array_less(abs(square.value - 0.01), 5 * square.stderr)
        assert bool(jnp.all(jnp.diff(info.loglikelihood) >= 0))


def test_trees_and_walls_and_correlation():
    # A law in the corner of the cube, correlated to .95: the evidence is that of a truncated Gaussian, by quadrature.
    precision = np.linalg.inv(np.array([[1, 0.95], [0.95, 1]]) * 0.04)

    def loglikelihood(x):
        z = jnp.stack([x["a"], x["b"][0]])
        return -(z @ jnp.asarray(precision, jnp.float32) @ z) / 2

    out = js.mcmc.nested(KEY, loglikelihood, lambda u: {"a": u[0], "b": u[1:]}, 400, dim=2, delete=40)
    grid = (np.arange(1500) + 0.5) / 1500
    a, b = np.meshgrid(grid, grid, indexing="ij")
    weight = np.exp(-(precision[0, 0] * a**2 + 2 * precision[0, 1] * a * b + precision[1, 1] * b**2) / 2)
    z = out.info.log_evidence
    assert abs(z.value - math.log(weight.mean())) < 4 * z.stderr
    assert out.x["b"].shape == (len(out.info.log_weights), 1)
    mean = js.estimate.snis(out.info.log_weights, out.x["a"])
    assert abs(mean.value - (weight * a).sum() / weight.sum()) < 5 * mean.stderr


@pytest.mark.parametrize("low", [-np.inf, -4.0])
def test_plateaus_cost_no_bias(low):
    # One tenth of the volume has likelihood 1, the rest `low`: every comparison is a tie.
    step = lambda x: jnp.where(x[0] < 0.1, 0.0, low)
    info = js.mcmc.nested(jax.random.key(3), step, lambda u: u, 300, dim=2, delete=30).info
    truth = math.log(0.1 + 0.9 * math.exp(low))
    assert info.ok
    assert abs(info.log_evidence.value - truth) < 4 * info.log_evidence.stderr
    assert 0 < info.log_evidence.stderr < 0.2
    assert info.rank_p_value > 1e-4


def test_two_peaks_keep_their_shares():
    loglikelihood = lambda x: jnp.logaddexp(peak(x - 0.5, 0.05), peak(x + 0.5, 0.05) + math.log(3))
    draws, info = js.mcmc.nested(jax.random.key(1), loglikelihood, box, 600, dim=2, delete=60)
    share = js.estimate.snis(info.log_weights, (draws[:, 0] < 0).astype(jnp.float32)).value
    assert abs(info.log_evidence.value - exact(2, 0.05) - math.log(4)) < 4 * info.log_evidence.stderr
    assert abs(share - 0.75) < 0.15  # 600 points split in two: sd .02 to .04 by the coalescence of their ancestors


# ---------------------------------------------------------------- one program, resumption


def test_new_data_run_the_same_program_and_a_run_resumes_bit_for_bit():
    traces = []

    def build(data):
        def loglikelihood(x):
            traces.append(1)
            return -jnp.sum((x - data) ** 2) / 0.02

        return loglikelihood

    def run(data, key=KEY, **options):
        return js.mcmc.nested(key, build(data), box, 50, dim=2, delete=5, moves=7, **options).info

    whole = run(jnp.zeros(2))
    seen = len(traces)
    other = run(jnp.array([0.3, 0.2]), stop=0.5)
    assert len(traces) - seen <= 1  # the shape of its value is asked for at the door
    assert other.log_evidence.value != whole.log_evidence.value
    for early in ({"stop": 0.7}, {"max_steps": 17}):
        part = run(jnp.zeros(2), **early)
        assert part.steps < whole.steps
        assert part.ok == ("stop" in early)
        # Through a file and back.
        state = js.mcmc.NestedState(**{name: np.array(leaf) for name, leaf in part.state._asdict().items()})
        again = run(jnp.zeros(2), state=state)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    with pytest.raises(ValueError, match="made with other key"):
        run(jnp.zeros(2), key=jax.random.key(9), state=part.state)
    again = functools.partial(js.mcmc.nested, KEY, dim=2, delete=5, moves=7, max_steps=1)
    state = again(lambda x: -jnp.sum(x**2), box, 50).info.state
    with pytest.raises(ValueError, match="it is another one"):
        again(lambda x: -jnp.sum(x**2) / 3, box, 50, state=state)
    with pytest.raises(ValueError, match="made with other likelihood"):
        run(jnp.ones(2), state=part.state)
    with pytest.raises(ValueError, match="live points that were not drawn by it"):
        run(jnp.zeros(2), state=part.state._replace(u=part.state.u * 0.9))


# ---------------------------------------------------------------- what must not work


def searched(num, dim):
    """Live points as a genetic search leaves them: everything it has seen on its way to the peak."""
    rng, u, seen = np.random.default_rng(0), None, []
    u = rng.uniform(0, 1, (num // 4, dim))
    while len(seen) * len(u) < num:
        seen.append(u)
        best = u[np.argsort(((u - 0.5) ** 2).sum(1))[: len(u) // 4]]
        u = np.clip(best[rng.integers(0, len(best), len(u))] + 0.1 * rng.normal(size=u.shape), 0, 1)
    return jnp.asarray(np.concatenate(seen)[:num], jnp.float32)


def test_live_points_of_a_search_would_shift_the_evidence():
    target = nested_file.as_target("nested", peak, box, 3)
    run = nested_file.start(KEY, target, 300, 3)
    u = searched(300, 3)
    false = run._replace(u=u, loglikelihood=jax.vmap(moves_file.evaluate, (None, 0))(target, u))
    with pytest.raises(ValueError, match="live points that were not drawn by it"):
        js.mcmc.nested(KEY, peak, box, 300, dim=3, state=false)
    options = {"delete": 60, "moves": 9}
    info = nested_file.report(
        target, nested_file.climb(KEY, target, false, 1e-3, 10**6, **options), 1e-3, **options
    ).info
    assert info.log_evidence.value - exact(3) > 3 * info.log_evidence.stderr


def test_ranks_betray_moves_that_do_not_forget(monkeypatch):
    # Moves that only climb.
    honest = moves_file.above

    def greedy(walk, asked, value, bound):
        return honest(walk.point._replace(u=asked, loglikelihood=value), walk.point)

    judged = moves_file._judged

    def climbing(key, walk, asked, value, bound):
        monkeypatch.setattr(moves_file, "above", lambda a, b: greedy(walk, asked, value, bound))
        try:
            return judged(key, walk, asked, value, bound)
        finally:
            monkeypatch.setattr(moves_file, "above", honest)

    monkeypatch.setattr(moves_file, "_judged", climbing)
    info = js.mcmc.nested(KEY, peak, box, 300, dim=3, delete=60, moves=8, max_steps=30).info  # 8: a program of its own
    assert info.rank_p_value < 1e-6


REFUSED = [
    ("nested: key is None", {"key": None}),
    ("nested: loglikelihood must be callable", {"loglikelihood": 3.0}),
    ("nested: from_cube must be callable", {"from_cube": KEY}),
    ("must return one floating number", {"loglikelihood": lambda x: x}),
    ("must return one floating number", {"loglikelihood": lambda x: 3}),
    ("loglikelihood is NaN or infinite at u", {"loglikelihood": lambda x: jnp.where(x[0] > 0, jnp.nan, 0.0)}),
    ("loglikelihood is NaN or infinite at u", {"loglikelihood": lambda x: jnp.where(x[0] > 0, jnp.inf, 0.0)}),
    ("-inf at all 20 draws", {"loglikelihood": lambda x: jnp.float32(-jnp.inf)}),
    ("num_live must be above dim", {"num_live": 2}),
    ("at least twice delete", {"delete": 11}),
    ("nested: num_live must be a Python int", {"num_live": 20.0}),
    ("nested: delete must be >= 1", {"delete": 0}),
    ("nested: dim must be >= 1", {"dim": 0}),
    ("nested: moves must be >= 1", {"moves": 0}),
    ("nested: max_steps must be >= 1", {"max_steps": 0}),
    ("nested: stop must be finite", {"stop": 0.0}),
    ("nested: stop must be finite", {"stop": float("nan")}),
    ("nested: progress must be True", {"progress": 1}),
    ("state must be the info.state", {"state": 3}),
]


@pytest.mark.parametrize(("match", "change"), REFUSED)
def test_refusals(match, change):
    usual = {"key": KEY, "loglikelihood": peak, "from_cube": box, "num_live": 20, "dim": 2}
    with pytest.raises((ValueError, TypeError), match=match):
        js.mcmc.nested(**{**usual, **change})


def test_nan_on_the_way_is_told():
    info = js.mcmc.nested(
        KEY, lambda x: jnp.where(abs(x[0]) < 0.02, jnp.nan, peak(x)), box, 20, dim=1, max_steps=60
    ).info
    assert not info.ok


@pytest.mark.slow
def test_errors_are_honest_where_the_posterior_lies_in_a_corner():
    """An exponential law, far from an ellipsoid: three moves a dimension gave a spread of 1.8 errors, and a bias."""
    law = lambda x: -100 * jnp.sum(jnp.abs(x - jnp.array([0.0, 1.0, 0.0, 1.0])))
    runs = [js.mcmc.nested(jax.random.key(seed), law, lambda u: u, 100, dim=4, delete=20).info for seed in range(32)]
    errors = np.array([(run.log_evidence.value - 4 * np.log(0.01)) / run.log_evidence.stderr for run in runs])
    assert abs(errors.mean()) < 0.9, errors.mean()
    assert errors.std(ddof=1) < 1.6, errors.std(ddof=1)
