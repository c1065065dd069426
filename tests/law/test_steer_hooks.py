"""What hooks are told and may do on a running plan, and the values of the steers that draw nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_same_bits, denoiser, mixture
from test_steer import APG, DISCRETE, DMODEL, GRID, IMAGE, KEY, MODEL, START, VP, Noisy, plans, run

import jsamp as js
from jsamp._core._pytree import pytree

T = js.steer
S = js.solve


# ---------------------------------------------------------------- the protocol


@pytest.mark.parametrize("name", plans())
def test_neutral_hooks_change_no_bit(name):
    base = run(None, plans()[name])
    for steer in (T.Hooks(), T.chain(), T.chain(T.Hooks(), T.Hooks())):
        result = run(steer, plans()[name])
        assert_same_bits(result.x, base.x)
    assert result.info.report == (None, None)


@pytree
class Recorder(T.Hooks):
    """Keeps what the hooks were told, in arrays."""

    def init(self, key, x, plan):
        rows = jnp.zeros(plan.nfe)
        return {"t": rows, "asked": rows, "std": rows, "coef": rows, "last": rows}

    def mid(self, key, g, x, prediction, info):
        put = lambda name, value: g[name].at[info.index].set(value)
        new = {"t": put("t", info.t), "std": put("std", info.noise_std), "coef": put("coef", info.data_coef)}
        return {**g, **new, "last": put("last", info.last)}, x, prediction, None

    def final(self, g, x):
        return x, g


def test_hooks_are_told_about_the_row():
    for name, plan in plans().items():
        report = run(Recorder(), plan).info.report
        np.testing.assert_allclose(report["t"], plan.t, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(
            report["std"], 0 if plan.noise_std is None else plan.noise_std, rtol=1e-6, err_msg=name
        )
        assert report["last"].tolist() == [0.0] * (plan.nfe - 1) + [1.0]
        newest = plan.weights[:, 0] * (1 if plan.gain is None else plan.gain)
        if plan.kind == "eps":
            newest = -newest * plan.alpha / plan.sigma
        np.testing.assert_allclose(report["coef"], newest, rtol=2e-5, atol=1e-6, err_msg=name)


@pytree
class Swap(T.Hooks):
    """Reorders the particles of axis 0 at one row."""

    row: int
    index: jax.Array

    def mid(self, key, g, x, prediction, info):
        order = jnp.where(info.index == self.row, self.index, jnp.arange(self.index.shape[0]))
        return g, x[order], jax.tree.map(lambda v: v[order], prediction), order


@pytest.mark.parametrize("name", ["deis", "unipc", "ghvb", "heavy_ball", "heun"])
def test_reordering_takes_the_history_along(name):
    """Particles do not interact, so reordering them at any row is reordering the start."""
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    index = jnp.array([2, 2, 0, 1])
    wanted = run(None, plans()[name], x[np.asarray(index)]).x
    for row in (0, 3):
        got = run(Swap(row, index), plans()[name], x).x
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6)


def test_reorderings_of_a_chain_compose():
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    one, two = jnp.array([1, 2, 3, 0]), jnp.array([3, 3, 1, 0])
    wanted = run(None, plans()["deis"], x[np.asarray(one)][np.asarray(two)]).x
    both = T.chain(Swap(2, one), T.TrajectoryVariance(3, 1), Swap(2, two))
    result = run(both, plans()["deis"], x)
    np.testing.assert_allclose(result.x, wanted, rtol=2e-5, atol=1e-6)
    # The recorder between them follows the particles.
    alone = run(T.TrajectoryVariance(3, 1), plans()["deis"], x[np.asarray(one)][np.asarray(two)]).info.report
    np.testing.assert_allclose(result.info.report[1], alone, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", ["paper", "target"])
def test_shifted_times_follow_particles(mode):
    schedule = js.noise.Discrete.ddpm_linear()
    model = denoiser(schedule, "x0")
    plan = S.ddim(schedule, js.noise.index_grid(schedule, 6))
    x = (np.random.default_rng(1).normal(size=(4, 16)) * np.array([[0.6], [1.0], [1.3], [0.8]])).astype(np.float32)
    index = jnp.array([2, 2, 0, 1])
    shift = T.TimeShift(schedule, window=300, cutoff=10, mode=mode, event_ndim=1)
    sample = lambda x, steer: js.sample(None, model, jnp.asarray(x), plan, steer=steer).x
    wanted = sample(x[np.asarray(index)], shift)
    for steer in (T.chain(shift, Swap(3, index)), T.chain(Swap(3, index), shift)):
        np.testing.assert_allclose(sample(x, steer), wanted, rtol=2e-5, atol=1e-6)


def test_a_chain_in_a_chain_follows_particles():
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    index = jnp.array([2, 2, 0, 1])
    flat = run(T.chain(T.TrajectoryVariance(3, 1), Swap(4, index)), plans()["deis"], x).info.report[0]
    nested = run(T.chain(T.chain(T.TrajectoryVariance(3, 1)), Swap(4, index)), plans()["deis"], x).info.report[0][0]
    np.testing.assert_allclose(nested, flat, rtol=1e-6)


@pytree
class Forget(T.Hooks):
    """Says after one row that the past is stale."""

    row: int

    def post(self, key, g, x, info):
        return g, x, info.index != self.row


def test_a_stale_history_makes_the_next_row_first_order():
    """dpmpp(2) that forgets after row 2 takes row 3 as dpmpp(1) does, and row 4 from rows 3 and 4."""
    two, one = S.dpmpp(VP, GRID, lower_order_final=False), S.dpmpp(VP, GRID, order=1)
    got = run(Forget(2), two, keep=lambda x, p: x).info.kept
    base = run(None, two, keep=lambda x, p: x).info.kept
    np.testing.assert_allclose(got[:3], base[:3], rtol=1e-6)
    step = js.sample(None, MODEL, base[2], one[3:4]).x
    np.testing.assert_allclose(got[3], step, rtol=1e-5, atol=1e-6)
    rest = js.sample(None, MODEL, base[2], two[3:]).x
    np.testing.assert_allclose(got[-1], rest, rtol=1e-5, atol=1e-6)


def test_random_steers_need_a_key_and_have_streams_of_their_own():
    plan = plans()["ddim"]
    for steer in (Noisy(), T.chain(T.Hooks(), Noisy())):
        with pytest.raises(ValueError, match="key is None"):
            js.sample(None, MODEL, START, plan, steer=steer)
    one, again = run(Noisy(), plan), run(Noisy(), plan)
    assert_same_bits(one.x, again.x)
    both = run(T.chain(Noisy(), Noisy()), plan)
    first, second = both.info.report
    assert first != second
    # A stochastic plan draws the same noise with and without a neutral steer beside it.
    assert_same_bits(run(T.Hooks(), plans()["sa_solver"]).x, run(None, plans()["sa_solver"]).x)


# ---------------------------------------------------------------- TrajectoryVariance


@pytest.mark.parametrize("last", [2, 4, 6])
def test_trajectory_variance_is_the_variance_of_kept_predictions(last):
    law = mixture(VP)
    x = VP.prior(KEY, (5, 2))
    plan = S.dpmpp(VP, GRID)
    for event, axes in ((None, None), (1, 1), (2, None)):
        result = run(T.TrajectoryVariance(last, event), plan, x, law, keep=lambda x, p: p.x0)
        kept = np.asarray(result.info.kept, np.float64)[-last:]
        wanted = kept.var(axis=0).mean(axis=axes)
        assert result.info.report.shape == wanted.shape
        np.testing.assert_allclose(result.info.report, wanted, rtol=1e-4, atol=1e-8)
        assert_same_bits(result.x, run(None, plan, x, law).x)


def test_trajectory_variance_of_a_tree():
    tree = {"a": START[:1], "b": START[1:]}
    split = run(T.TrajectoryVariance(3), plans()["deis"], tree).info.report
    whole = run(T.TrajectoryVariance(3), plans()["deis"], START).info.report
    np.testing.assert_allclose(split, whole, rtol=1e-5)


# ---------------------------------------------------------------- TimeShift


@pytest.mark.parametrize("mode", ["paper", "target", "network_time"])
def test_time_shift_without_a_window_is_the_base_sampler_bit_for_bit(mode):
    makers = [S.dpmpp, S.deis, S.plms] + ([S.unipc, S.heun] if mode == "network_time" else [])
    grid = js.noise.index_grid(DISCRETE, 8, "linspace", final="sigma_min")
    for make in makers:
        plan = make(DISCRETE, grid)
        base = run(None, plan, IMAGE, DMODEL).x
        # No window, or every time below the cutoff.
        for window, cutoff in ((0, 3), (30, 1000)):
            steer = T.TimeShift(DISCRETE, window, cutoff, mode=mode)
            assert_same_bits(run(steer, plan, IMAGE, DMODEL).x, base)
    # A compiler may contract the multiply-adds of a one-term step differently beside other work: op by op, bits.
    plan = S.ddim(DISCRETE, grid)
    base = run(None, plan, IMAGE, DMODEL).x
    np.testing.assert_allclose(
        run(T.TimeShift(DISCRETE, 0, mode=mode), plan, IMAGE, DMODEL).x, base, rtol=1e-5, atol=3e-7
    )
    with jax.disable_jit():
        steer = T.TimeShift(DISCRETE, 0, mode=mode)
        assert_same_bits(run(steer, plan, IMAGE, DMODEL).x, run(None, plan, IMAGE, DMODEL).x)
    moved = run(T.TimeShift(DISCRETE, window=30, cutoff=3, mode=mode), plan, IMAGE * 1.2, DMODEL).x
    assert not np.allclose(moved, run(None, plan, IMAGE * 1.2, DMODEL).x)


def test_time_shift_reads_the_variance_of_the_sample():
    """Against a search over every index in the window, for samples of many variances."""
    rng = np.random.default_rng(0)
    table = DISCRETE.sigma(np.arange(100)) ** 2
    window, cutoff = 24, 20
    steer = T.TimeShift(DISCRETE, window, cutoff)
    for _ in range(40):
        x = (rng.normal(size=64) * rng.uniform(0.2, 1.2)).astype(np.float32)
        t = float(rng.integers(5, 95))
        got = float(steer._match(jnp.asarray(x), jnp.float32(t)))
        low, high = max(0, t - window // 2), min(99, t + window // 2)
        inside = np.arange(int(low), int(high) + 1)
        wanted = inside[np.argmin(np.abs(table[inside] - np.var(x.astype(float), ddof=1)))] if t > cutoff else t
        assert got == wanted


# ---------------------------------------------------------------- chains, hooks and memory


def test_the_protocol():
    assert isinstance(T.Hooks(), T.Steer)
    assert not isinstance(object(), T.Steer)


def test_neutral_hooks():
    hooks = T.Hooks()
    x = jnp.ones(2)
    assert hooks.init(None, x, None) == ()
    assert hooks.time((), x, 0.3) == 0.3
    assert hooks.mid(None, (), x, "prediction", None) == ((), x, "prediction", None)
    assert hooks.post(None, (), x, None) == ((), x, True)
    assert hooks.final((), x) == (x, None)
    assert jax.tree.leaves(hooks) == []


def test_reports_of_a_chain():
    chained = T.chain(T.TrajectoryVariance(3), T.TrajectoryVariance(5))
    reports = run(chained, plans()["deis"]).info.report
    for report, last in zip(reports, (3, 5), strict=True):
        np.testing.assert_allclose(report, run(T.TrajectoryVariance(last), plans()["deis"]).info.report, rtol=1e-5)
    assert len(jax.tree.leaves(T.chain(T.TimeShift(DISCRETE, 3, 2)))) == 3
    assert dataclasses.replace(T.TimeShift(DISCRETE, 3), window=5).window == 5


def test_records_keep_the_order_of_their_fields():
    assert T.Recall._fields == ("value", "seen")
    assert T.SMCReport._fields == ("log_evidence", "log_weight", "resampled")
    assert T.SoftValueReport._fields == ("value", "index")
    assert T.ActiveReport._fields == ("mask", "y", "order")


def test_memory_inside_wrappers_and_beside_particles():
    draw = lambda x: run(T.Memory(), plans()["ddim"], x, APG).x
    x = np.stack([START[:2], -START[:2]])
    outer = js.denoise.Threshold(APG, limit=100.0)
    np.testing.assert_allclose(run(T.Memory(), plans()["ddim"], x[0], outer).x, draw(x[0]), rtol=2e-5)
    still = run(None, plans()["ddim"], x[0], js.denoise.APG(MODEL, mixture(VP), 3.0)).x
    assert not np.allclose(draw(x[0]), still)
    batch = js.denoise.APG(mixture(VP), js.denoise.Empirical(VP, x), 3.0, momentum=-0.5, event_ndim=1)
    got = run(T.chain(T.Memory(), Backwards()), plans()["ddim"], x, batch).x
    np.testing.assert_allclose(got, run(T.Memory(), plans()["ddim"], x, batch).x, rtol=2e-4)


@pytree
class Backwards(T.Hooks):
    """Reverses the particles at every row; of an even number of rows nothing is seen."""

    def mid(self, key, g, x, prediction, info):
        index = jnp.arange(x.shape[0])[::-1]
        return g, x[index], jax.tree.map(lambda a: a[index], prediction), index
