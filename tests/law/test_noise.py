"""Laws of every schedule and grid of `jsamp.noise`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from laws import assert_same_bits, central

import jsamp as js

N = js.noise
TABLE = np.cumprod(1 - np.linspace(1e-3, 0.15, 60))

# (schedule, another one of the same structure, interior times)
SCHEDULES = {
    "VP": (N.VP(), N.VP(0.2, 15.0), [0.01, 0.3, 0.9]),
    "Cosine": (N.Cosine(), N.Cosine(0.01), [0.01, 0.3, 0.9]),
    "VE": (N.VE(0.01, 20.0), N.VE(0.02, 30.0), [0.02, 1.0, 15.0]),
    "Flow": (N.Flow(), N.Flow(), [0.01, 0.3, 0.9]),
    "OUVE": (N.OUVE(), N.OUVE(1.0, 0.1, 0.6), [0.03, 0.3, 0.9]),
    "Discrete": (N.Discrete(TABLE), N.Discrete(TABLE**1.1), [0.4, 17.25, 55.5]),
}
GRIDS = {
    "time_grid": lambda s, n, **k: N.time_grid(s, n, 2, **k),
    "logsnr_grid": N.logsnr_grid,
    "karras_grid": lambda s, n, **k: N.karras_grid(s, n, 3.0, **k),
}


def law_interpolant(name):
    """jit, vmap, dtypes and float64 on the host agree; the scale is a number."""
    times = jnp.array([0.1, 0.45, 0.9], jnp.float32)
    methods = ("alpha", "beta", "gamma", "gamma_gamma_dot")
    read = lambda path, t: {m: getattr(path, m)(t) for m in methods}
    for path in (N.Interpolant("linear"), N.Interpolant("trigonometric", "sine", 0.5), N.Interpolant("one-sided")):
        host, jitted = read(path, np.asarray(times, np.float64)), jax.jit(read)(path, times)
        mapped = jax.vmap(read, (None, 0))(path, times)
        for m in methods:
            assert jitted[m].dtype == jnp.float32
            np.testing.assert_allclose(jitted[m], host[m], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(mapped[m], host[m], rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda scale: N.Interpolant("linear", scale=scale).gamma(jnp.float32(0.5)))(1.0)
    np.testing.assert_allclose(slope, 0.5)


def law_schedule(name):
    schedule, other, times = SCHEDULES[name]
    assert isinstance(schedule, N.Schedule)
    times = jnp.asarray(times, jnp.float32)
    methods = ("alpha", "sigma", "lam")

    def read(schedule, t):
        values = {m: getattr(schedule, m)(t) for m in methods}
        return values | {"time": schedule.time(values["lam"])}

    eager, jitted, mapped = (
        read(schedule, times),
        jax.jit(read)(schedule, times),
        jax.vmap(read, (None, 0))(schedule, times),
    )
    for m, value in eager.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, jitted[m], rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(value, mapped[m], rtol=2e-6, atol=1e-6)
    # Numbers, not structure.
    traces = []
    count = jax.jit(lambda schedule, t: (traces.append(1), read(schedule, t))[1])
    count(schedule, times)
    count(other, times * 0.9)
    assert len(traces) == 1
    again = jax.tree.unflatten(jax.tree.structure(schedule), jax.tree.leaves(schedule))
    assert_same_bits(read(again, times), eager)
    # The host reads the same formulas in float64.
    for t, a in zip(np.asarray(times, np.float64), eager["alpha"], strict=True):
        host = schedule.alpha(t)
        assert isinstance(host, np.float64)
        np.testing.assert_allclose(a, host, rtol=2e-5)
    # bfloat16 in, bfloat16 out.
    assert schedule.alpha(times.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    # Prior.
    key = jax.random.key(0)
    x = schedule.prior(key, (4, 2))
    assert x.dtype == jnp.float32
    assert_same_bits(x, schedule.prior(key, (4, 2)))
    assert schedule.prior(key, (3,), jnp.bfloat16).dtype == jnp.bfloat16
    scale = {"VE": schedule.sigma(schedule.t_max), "OUVE": schedule.sigma(1.0)}.get(name, 1.0)
    np.testing.assert_allclose(x, scale * jax.random.normal(key, (4, 2)), rtol=1e-6)
    # A tree of shapes.
    tree = schedule.prior(key, {"a": (2, 3), "b": [(4,), ()]})
    assert jax.tree.map(jnp.shape, tree, is_leaf=lambda v: False) == {"a": (2, 3), "b": [(4,), ()]}
    draws = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(schedule.prior(key, [(500,), (500,)]))])
    assert abs(draws.std() / scale - 1) < 4.5 / np.sqrt(2000)
    assert abs(np.corrcoef(draws[:500], draws[500:])[0, 1]) < 4.5 / np.sqrt(500)
    # Inside shard_map.
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    ts = jnp.linspace(times[0], times[-1], 16)
    out = jax.jit(jax.shard_map(lambda t: read(schedule, t), mesh=mesh, in_specs=P("data"), out_specs=P("data")))(ts)
    whole = jax.jit(read)(schedule, ts)
    for m in out:
        np.testing.assert_allclose(out[m], whole[m], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_slopes_of_schedules(name, x64):
    """Forward and reverse derivatives in t, finite at both ends of a grid, equal to finite differences inside."""
    schedule, _, times = SCHEDULES[name]
    for method in ("alpha", "sigma", "lam"):
        function = getattr(schedule, method)
        for t in times:
            t = t + 0.13 if name == "Discrete" else t
            slope = jax.grad(lambda t, f=function: f(t))(t)
            size = 1e-4 * min(t, 1.0)
            wanted = central(lambda h, f=function, t=t: f(np.float64(t) + h), size)
            np.testing.assert_allclose(slope, wanted, rtol=1e-7, atol=1e-8, err_msg=f"{method} at {t}")
    for t in times:
        lam = schedule.lam(np.float64(t))
        slope = jax.grad(schedule.time)(lam)
        wanted = central(lambda h, lam=lam: schedule.time(lam + h), 1e-5 if name == "Discrete" else 1e-4)
        np.testing.assert_allclose(slope, wanted, rtol=1e-6, atol=1e-9)
    ends = [schedule.t_max, schedule.t_min]
    for t in ends:
        for method in ("alpha", "sigma"):
            assert np.isfinite(jax.grad(getattr(schedule, method))(jnp.asarray(t, jnp.float64)))


def _noiseless(schedule):
    return schedule.time(np.inf)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_noiseless_end(name):
    schedule = SCHEDULES[name][0]
    t = _noiseless(schedule)
    assert schedule.alpha(t) == 1
    assert schedule.sigma(t) == 0
    assert schedule.lam(t) == np.inf
    assert np.isfinite(jax.grad(schedule.sigma)(jnp.float32(t)))
    assert t == (-1 if name == "Discrete" else 0)


def law_grid(name):
    make = GRIDS[name]
    for label, (schedule, other, _) in SCHEDULES.items():
        start = 0.999 if label == "Flow" else schedule.t_max
        for final in ("zero", "sigma_min"):
            for n in (1, 2, 7):
                grid = make(schedule, n, t_max=start, final=final)
                assert isinstance(grid, np.ndarray)
                assert grid.dtype == np.float64
                assert grid.shape == (n + 1,)
                assert np.all(np.diff(grid) < 0)
                assert grid[0] == start
                assert grid[-1] == (_noiseless(schedule) if final == "zero" else schedule.t_min)
        # A traced schedule or end gives the same grid in a trace, and new numbers do not retrace.
        if label == "Flow":
            continue
        traces = []

        def build(schedule, end, label=label, traces=traces):
            traces.append(1)
            return make(schedule, 5, t_min=end, final="sigma_min")

        end = schedule.t_min * 1.5 + 0.1 * (label == "Discrete")
        jitted = jax.jit(build)
        got = jitted(schedule, end)
        np.testing.assert_allclose(got, build(schedule, end), rtol=2e-4, atol=1e-6)
        assert isinstance(got, jax.Array)
        jitted(other, end * 1.1)
        assert len(traces) == 2  # one for the jit, one for the call on the host
        slope = jax.grad(lambda end: jnp.sum(make(schedule, 5, t_min=end, final="sigma_min")))(jnp.float32(end))
        assert np.isfinite(slope)
        assert slope != 0
    for wrong, error, match in [
        ({"n": 0}, ValueError, "n must be >= 1"),
        ({"n": 2.0}, TypeError, "Python int"),
        ({"n": 3, "final": "one"}, ValueError, "final"),
        ({"n": 3, "t_max": 1e-4}, ValueError, "t_max must be above t_min"),
    ]:
        with pytest.raises(error, match=match):
            make(N.VP(), **wrong)
    if name != "time_grid":
        with pytest.raises(ValueError, match=r"infinite.*t_max"):
            make(N.Flow(), 4)
    if name == "karras_grid":
        with pytest.raises(ValueError, match="rho"):
            N.karras_grid(N.VP(), 4, 0.0)
    if name == "time_grid":
        with pytest.raises(ValueError, match="power"):
            N.time_grid(N.VP(), 4, -1)


def law_index_grid(name):
    schedule = N.Discrete.ddpm_linear()
    for spacing in ("leading", "linspace", "trailing"):
        for n in (1, 2, 10, 50, 100, 999, 1000):
            if spacing == "leading" and n in (1, 2):
                continue
            grid = N.index_grid(schedule, n, spacing)
            assert grid[0] == 999 or (spacing == "leading" and grid[0] >= 900)
            assert grid.dtype == np.float64
            assert grid.shape == (n + 1,)
            assert np.all(np.diff(grid) < 0)
            assert np.all(grid == np.round(grid))
            assert grid[-1] == -1
    for wrong, error, match in [
        ({"n": 2000}, ValueError, "must decrease"),
        ({"n": 5, "spacing": "odd"}, ValueError, "spacing"),
        ({"n": 5, "spacing": "leading", "final": "sigma_min"}, ValueError, "offset=1"),
        ({"n": 0}, ValueError, "n must be"),
    ]:
        with pytest.raises(error, match=match):
            N.index_grid(schedule, **wrong)
    assert N.index_grid(schedule, 7).tolist() == N.index_grid(schedule, 7, "trailing").tolist()
    for n in (1, 2, 501, 600):
        with pytest.raises(ValueError, match=f"leading' with n={n} starts at index .* far from pure noise"):
            N.index_grid(schedule, n, "leading")
    for offset in (np.nan, 0.5, -1):
        with pytest.raises((TypeError, ValueError), match="offset"):
            N.index_grid(schedule, 5, "leading", offset=offset)
    with pytest.raises(TypeError, match="Discrete"):
        N.index_grid(N.VP(), 5)


def law_sigma_grid(name):
    """The times of ratios sigma / alpha, on the host and in a trace; what goes beyond the schedule is refused."""
    for schedule, _, _ in SCHEDULES.values():
        start = min(float(schedule.sigma(schedule.t_max) / max(schedule.alpha(schedule.t_max), 1e-3)), 50.0)
        sigmas = np.append(np.geomspace(0.9 * start, 0.05, 6), 0.0)
        grid = N.sigma_grid(schedule, sigmas)
        assert grid.dtype == np.float64
        np.testing.assert_allclose(schedule.sigma(grid) / schedule.alpha(grid), sigmas, rtol=1e-9, atol=1e-12)
        assert grid[-1] == schedule.time(np.inf)
        traced = jax.jit(lambda v, s=schedule: N.sigma_grid(s, v))(jnp.asarray(sigmas, jnp.float32))
        np.testing.assert_allclose(traced, grid, rtol=2e-4, atol=2e-4)
        js.solve.dpmpp(schedule, grid)
    table = N.Discrete.scaled_linear()
    for wrong, match in [
        ([20.0, 1.0], "beyond the noisiest index, 999"), ([80.0, 1.0], "beyond the noisiest index"),
        ([1.0, 2.0], r"must decrease; got sigmas\[1\]"), ([1.0], "n \\+ 1"), ([1.0, -1.0], "sigmas must be finite and in"),
        ([1.0, np.nan], "finite"), ("no", "number"), (None, "number"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=match):
            N.sigma_grid(table, wrong)
    with pytest.raises(ValueError, match="outside the schedule's times"):
        N.sigma_grid(N.VE(0.01, 20.0), [30.0, 1.0])


def law_shift(name):
    grid = N.time_grid(N.Flow(), 6, final="zero")
    np.testing.assert_array_equal(N.shift(grid, 1.0), grid)
    shifted = N.shift(grid, 3.0)
    assert shifted[0] == 1
    assert shifted[-1] == 0
    np.testing.assert_allclose(N.shift(shifted, 1 / 3), grid, rtol=1e-13)
    np.testing.assert_allclose(jax.jit(N.shift)(jnp.asarray(grid, jnp.float32), 3.0), shifted, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda f: jnp.sum(N.shift(grid, f)))(3.0))
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="factor"):
            N.shift(grid, wrong)
    with pytest.raises(ValueError, match="grid"):
        N.shift(np.array([80.0, 1.0]), 3.0)


def law_spaced_grid(name):
    """Every rule falls to its end on every schedule that has its levels, on the host and in a trace."""
    from jsamp.noise._spacings import SPACINGS

    for schedule, _, _ in SCHEDULES.values():
        for spacing in [s for s in SPACINGS if not s.startswith("ays")]:
            for final in ("zero", "sigma_min"):
                for n in (1, 2, 7):
                    grid = N.spaced_grid(schedule, n, spacing, final=final)
                    assert grid.dtype == np.float64 and grid.shape == (n + 1,)
                    assert grid[0] == schedule.t_max
                    assert grid[-1] == (_noiseless(schedule) if final == "zero" else schedule.t_min)
    build = lambda end: {s: N.spaced_grid(N.VP(), 5, s, t_min=end) for s in SPACINGS if not s.startswith("ays")}
    for spacing, grid in jax.jit(build)(0.01).items():
        np.testing.assert_allclose(grid, build(0.01)[spacing], rtol=2e-4, atol=1e-6, err_msg=spacing)
    for options, match in [
        ({"spacing": "even"}, "spacing must be one of"), ({"spacing": "normal", "rho": 2.0}, "takes no rho"),
        ({"spacing": "karras", "shape": 0.6}, "takes no shape"), ({"spacing": "karras", "rho": 0.0}, "rho must"),
        ({"spacing": "beta", "shape": 0.0}, "shape must"), ({"spacing": "ays_sd15", "t_min": 0.1}, "ends of its own"),
        ({"spacing": "ays_svd"}, "outside the schedule"), ({"spacing": "beta", "t_max": 1e-4}, "t_max must be above"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            N.spaced_grid(N.VP(), 4, **options)
    with pytest.raises(ValueError, match="does not decrease"):
        N.spaced_grid(N.Discrete.ddpm_linear(100, 1e-3, 0.15), 90, "beta")


def law_dynamic_shift(name):
    np.testing.assert_allclose(jax.jit(N.dynamic_shift)(1024), np.exp(0.63), rtol=1e-6)
    for tokens in (0, -4, np.nan):
        with pytest.raises(ValueError, match="tokens"):
            N.dynamic_shift(tokens)
    with pytest.raises(ValueError, match="two sizes"):
        N.dynamic_shift(4, base=(256, 0.5), most=(256, 1.0))
    with pytest.raises(ValueError, match=r"base must be \(tokens, mu\)"):
        N.dynamic_shift(4, base=(256.0,))


def law_protocol(name):
    class Mine:
        t_max, t_min = 1.0, 0.1
        alpha = sigma = lam = time = prior = lambda self, *a: 0

    assert isinstance(Mine(), N.Schedule)
    assert not isinstance(object(), N.Schedule)


LAWS = {
    "interpolant": law_interpolant, "schedule": law_schedule, "grid": law_grid,
    "index_grid": law_index_grid, "shift": law_shift, "sigma_grid": law_sigma_grid,
    "spaced_grid": law_spaced_grid, "dynamic_shift": law_dynamic_shift,
    "protocol": law_protocol,
}  # fmt: skip
# One line for every public object of the room.
REGISTRY = {
    "VE": "schedule",
    "VP": "schedule",
    "Cosine": "schedule",
    "Discrete": "schedule",
    "Flow": "schedule",
    "OUVE": "schedule",
    "Interpolant": "interpolant",
    "Schedule": "protocol",
    "index_grid": "index_grid",
    "karras_grid": "grid",
    "logsnr_grid": "grid",
    "shift": "shift",
    "sigma_grid": "sigma_grid",
    "spaced_grid": "spaced_grid",
    "dynamic_shift": "dynamic_shift",
    "time_grid": "grid",
}


@pytest.mark.parametrize(("name", "law"), REGISTRY.items(), ids=REGISTRY)
def test_law_of(name, law):
    LAWS[law](name)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: N.VP(-0.1), ValueError, "beta_min"),
        (lambda: N.VP(0.1, 0.0), ValueError, "beta_max"),
        (lambda: N.VP(np.nan), ValueError, "beta_min"),
        (lambda: N.Cosine(0.0), ValueError, "offset"),
        (lambda: N.OUVE(0.0), ValueError, "stiffness"),
        (lambda: N.OUVE(1.5, 0.5, 0.5), ValueError, "sigma_max must be above"),
        (lambda: N.VE(1.0, 0.5), ValueError, "sigma_min must be below"),
        (lambda: N.VE(0.0, 0.5), ValueError, "sigma_min"),
        (lambda: N.Discrete(TABLE[::-1]), ValueError, "decrease"),
        (lambda: N.Discrete(np.append(1.0, TABLE)), ValueError, r"\[0\] is 1, the noiseless level"),
        (lambda: N.Discrete(np.float16(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))), ValueError, "float16"),
        (lambda: N.Discrete(1 - np.linspace(1e-4, 0.02, 1000)), ValueError, "no product of 1 - beta"),
        (lambda: N.Discrete(1 - np.linspace(1e-3, 0.15, 60)), ValueError, "no product of 1 - beta"),
        (lambda: N.Discrete(N.Discrete.ddpm_linear().alpha(np.arange(1000))), ValueError, "Square it"),
        (lambda: N.Discrete(N.Discrete.scaled_linear().alpha(np.arange(1000))), ValueError, "Square it"),
        (lambda: N.Discrete(np.linspace(1e-4, 0.02, 1000)), ValueError, "decrease.*not betas"),
        (lambda: N.Discrete(["a", "b"]), TypeError, "numbers"),
        (lambda: N.Discrete.from_betas([0.1, 1.5]), ValueError, "from_betas: betas"),
        (lambda: N.Discrete.ddpm_linear(10), ValueError, "too few"),
        (lambda: N.Discrete.cosine(offset=-1), ValueError, "offset"),
        (lambda: N.Discrete.scaled_linear().time(-np.log(20)), ValueError, "knows no such noise"),
        (lambda: N.Discrete.scaled_linear().time(-np.log([1.0, 80.0])), ValueError, "knows no such noise"),
        (lambda: N.time_grid(None, 4), TypeError, "schedule must be a noise schedule"),
        (lambda: N.logsnr_grid(4, N.VP()), TypeError, "schedule must be a noise schedule"),
        (lambda: N.time_grid(N.VP(), 4, t_max="a"), TypeError, "t_max must be a number"),
        (lambda: N.time_grid(N.VP(), 4, t_max=np.ones(2)), ValueError, "t_max must be one number"),
        (lambda: N.VP().prior(None, (3,)), ValueError, "prior: key is None"),
        (lambda: N.VP().prior(jax.random.key(0), (3.5,)), TypeError, "shape must be a tuple of integers"),
        (lambda: N.VP().prior(jax.random.key(0), (3,), int), TypeError, "floating"),
        (lambda: N.Discrete(np.array([])), ValueError, r"vector \[N\]"),
        (lambda: N.Discrete(np.array([0.5, np.nan])), ValueError, r"\[0, 1\)|decrease"),
        (lambda: N.Discrete.ddpm_linear(0), ValueError, "num"),
        (lambda: N.Discrete.scaled_linear(10, 0.0), ValueError, "beta_start"),
        (lambda: N.Discrete.cosine(10, max_beta=1.0), ValueError, "max_beta"),
        (lambda: N.VP("a"), TypeError, "number"),
        (lambda: N.Interpolant("straight"), ValueError, "path must be one of"),
        (lambda: N.Interpolant("linear", "white"), ValueError, "noise must be one of"),
        (lambda: N.Interpolant("one-sided", "sine"), ValueError, "leave noise=None"),
        (lambda: N.Interpolant("mirror", "none"), ValueError, "nothing without noise"),
        (lambda: N.Interpolant("linear", scale=0.0), ValueError, "scale must be finite"),
        (lambda: N.Interpolant("trigonometric", "brownian", 2.0), ValueError, "need gamma < 1"),
    ],
)
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_traced_numbers_pass_unchecked():
    """A user may search over the schedule itself."""

    def value(rate, top, low, table):
        schedules = [N.VP(0.1, rate), N.VE(low, top), N.Cosine(low), N.Discrete(table)]
        return sum(functools.reduce(lambda a, m: a + getattr(s, m)(0.3), ("alpha", "sigma"), 0.0) for s in schedules)

    table = jnp.asarray(TABLE, jnp.float32)
    grads = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(20.0, 80.0, 0.01, table)
    assert all(np.all(np.isfinite(g)) for g in grads)
