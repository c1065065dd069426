"""Laws of every schedule and grid of `jsamp.noise`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, pairs, wrong

import jsamp as js
from jsamp.noise._spacings import SPACINGS

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
    "time_grid": lambda s, steps, **k: N.time_grid(s, steps, 2, **k),
    "logsnr_grid": N.logsnr_grid,
    "karras_grid": lambda s, steps, **k: N.karras_grid(s, steps, 3.0, **k),
}
PATHS = (N.Interpolant("linear"), N.Interpolant("trigonometric", "sine", 0.5), N.Interpolant("one-sided"))
ANYWHERE = [spacing for spacing in SPACINGS if not spacing.startswith("ays")]
RATIOS = {name: np.append(np.geomspace(0.9 * min(float(s.sigma(s.t_max) / max(s.alpha(s.t_max), 1e-3)), 50.0), 0.05, 6), 0.0)
          for name, (s, _, _) in SCHEDULES.items()}  # fmt: skip
# The ends of grids that fall through finite levels, a number each, and the schedules that have them.
ENDS = {name: s.t_min * 1.5 + 0.1 * (name == "Discrete") for name, (s, _, _) in SCHEDULES.items() if name != "Flow"}


def read(schedule, t):
    """All that a schedule says about times."""
    values = {name: getattr(schedule, name)(t) for name in ("alpha", "sigma", "lam")}
    return values | {"time": schedule.time(values["lam"])}


def levels(path, t):
    """All that an interpolant says about times."""
    return {name: getattr(path, name)(t) for name in ("alpha", "beta", "gamma", "gamma_gamma_dot")}


def at_ends(make, schedules, ends):
    """The logarithms of a grid on each schedule, which compare small times as they do large ones."""
    return {name: jnp.log(make(schedules[name], 5, t_min=end, final="sigma_min")) for name, end in ends.items()}


def spaced(schedule, spacing, end):
    """A grid that falls to noise 0: the logarithms of its times, and the last, which is 0."""
    times = N.spaced_grid(schedule, 5, spacing, t_min=end)
    return jnp.log(times[:-1]), times[-1]


def schedule(name, *refusals):
    """A case of a schedule: its levels and its prior, in the dtype of the times."""
    one, other, times = SCHEDULES[name]
    call = lambda one, key, t: (read(one, t), one.prior(key, (4, 2), t.dtype))
    return Case(
        lambda: one, (jnp.asarray(times, jnp.float32),), call, other=lambda: other, smooth=True, stochastic=True,
        tolerance=2e-6, refusals=refusals,
    )  # fmt: skip


def grid(name, *refusals):
    """A case of a rule for grids: the host's float64 tables are those of a trace, on every schedule."""
    make = GRIDS[name]
    bad = [
        ({"steps": 0}, ValueError, "steps must be >= 1"), ({"steps": 2.0}, TypeError, "Python int"),
        ({"steps": 3, "final": "one"}, ValueError, "final"),
        ({"steps": 3, "t_max": 1e-4}, ValueError, "t_max must be above t_min"),
    ]  # fmt: skip
    infinite = [] if name == "time_grid" else [(lambda: make(N.Flow(), 4), ValueError, r"infinite.*t_max")]
    return Case(
        lambda: {name: SCHEDULES[name][0] for name in ENDS}, (ENDS,), lambda all, key, ends: at_ends(make, all, ends),
        other=lambda: {name: SCHEDULES[name][1] for name in ENDS}, dtypes=None,
        refusals=[*wrong(functools.partial(make, N.VP()), *bad), *infinite, *refusals],
    )  # fmt: skip


@js.pytree
class Falling:
    """A schedule of a user: alpha = exp(-rate t), variance preserving."""

    rate: float
    t_max, t_min = 1.0, 0.1

    def alpha(self, t):
        return jnp.exp(-self.rate * t)

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(-2 * self.rate * t))

    def lam(self, t):
        return jnp.log(self.alpha(t) / self.sigma(t))

    def time(self, lam):
        return jnp.logaddexp(0.0, -2 * lam) / (2 * self.rate)

    def prior(self, key, shape, dtype=jnp.float32):
        return jax.random.normal(key, shape, dtype)


# ---------------------------------------------------------------- one line for each public object

BETAS = np.linspace(1e-4, 0.02, 1000)
LINEAR, SCALED = N.Discrete.ddpm_linear(), N.Discrete.scaled_linear()
REGISTRY = {
    "Cosine": schedule("Cosine", *wrong(N.Cosine, ((0.0,), ValueError, "offset"))),
    "Discrete": schedule(
        "Discrete",
        *wrong(
            N.Discrete,
            ((TABLE[::-1],), ValueError, "decrease"),
            ((np.append(1.0, TABLE),), ValueError, r"\[0\] is 1, the noiseless level"),
            ((np.float16(np.cumprod(1 - BETAS)),), ValueError, "float16"),
            ((1 - BETAS,), ValueError, "no product of 1 - beta"),
            ((1 - np.linspace(1e-3, 0.15, 60),), ValueError, "no product of 1 - beta"),
            ((LINEAR.alpha(np.arange(1000)),), ValueError, "Square it"),
            ((SCALED.alpha(np.arange(1000)),), ValueError, "Square it"),
            ((BETAS,), ValueError, "decrease.*not betas"), ((["a", "b"],), TypeError, "numbers"),
            ((np.array([]),), ValueError, r"vector \[N\]"),
            ((np.array([0.5, np.nan]),), ValueError, r"\[0, 1\)|decrease"),
        ),
        (lambda: N.Discrete.from_betas([0.1, 1.5]), ValueError, "from_betas: betas"),
        (lambda: N.Discrete.ddpm_linear(10), ValueError, "too few"),
        (lambda: N.Discrete.ddpm_linear(0), ValueError, "num"),
        (lambda: N.Discrete.cosine(offset=-1), ValueError, "offset"),
        (lambda: N.Discrete.cosine(10, max_beta=1.0), ValueError, "max_beta"),
        (lambda: N.Discrete.scaled_linear(10, 0.0), ValueError, "beta_start"),
        (lambda: SCALED.time(-np.log(20)), ValueError, "knows no such noise"),
        (lambda: SCALED.time(-np.log([1.0, 80.0])), ValueError, "knows no such noise"),
    ),
    "Flow": schedule("Flow"),
    "Interpolant": Case(
        lambda: PATHS, (jnp.array([0.1, 0.45, 0.9], jnp.float32),), lambda paths, key, t: [levels(p, t) for p in paths],
        smooth=True, tolerance=1e-6,
        refusals=wrong(
            N.Interpolant,
            (("straight",), ValueError, "path must be one of"),
            (("linear", "white"), ValueError, "noise must be one of"),
            (("one-sided", "sine"), ValueError, "leave noise=None"),
            (("mirror", "none"), ValueError, "nothing without noise"),
            ({"path": "linear", "scale": 0.0}, ValueError, "scale must be finite"),
            (("trigonometric", "brownian", 2.0), ValueError, "need gamma < 1"),
        ),
    ),
    "OUVE": schedule(
        "OUVE",
        *wrong(N.OUVE, ((0.0,), ValueError, "stiffness"), ((1.5, 0.5, 0.5), ValueError, "sigma_max must be above")),
    ),
    "Schedule": Case(
        lambda: Falling(1.5), (0.01,), lambda own, key, end: jnp.log(N.logsnr_grid(own, 5, t_min=end, t_max=0.9)), dtypes=None,
    ),
    "VE": schedule(
        "VE", *wrong(N.VE, ((1.0, 0.5), ValueError, "sigma_min must be below"), ((0.0, 0.5), ValueError, "sigma_min")),
    ),
    "VP": schedule(
        "VP",
        *wrong(
            N.VP,
            ((-0.1,), ValueError, "beta_min"), ((0.1, 0.0), ValueError, "beta_max"), ((np.nan,), ValueError, "beta_min"),
            (("a",), TypeError, "number"),
        ),
        *wrong(
            N.VP().prior,
            ((None, (3,)), ValueError, "prior: key is None"),
            ((jax.random.key(0), (3.5,)), TypeError, "shape must be a tuple of integers"),
            ((jax.random.key(0), (3,), int), TypeError, "floating"),
        ),
    ),
    "dynamic_shift": Case(
        lambda: N.dynamic_shift, (1024,), dtypes=None, tolerance=1e-6,
        refusals=wrong(
            N.dynamic_shift,
            *(((tokens,), ValueError, "tokens") for tokens in (0, -4, np.nan)),
            ({"tokens": 4, "base": (256, 0.5), "most": (256, 1.0)}, ValueError, "two sizes"),
            ({"tokens": 4, "base": (256.0,)}, ValueError, r"base must be \(tokens, mu\)"),
        ),
    ),
    "index_grid": Case(
        lambda: LINEAR, call=lambda linear, key: [N.index_grid(linear, 7, s) for s in ("leading", "linspace", "trailing")],
        host=True,
        refusals=[
            *wrong(
                functools.partial(N.index_grid, LINEAR),
                ({"steps": 2000}, ValueError, "must decrease"), ({"steps": 5, "spacing": "odd"}, ValueError, "spacing"),
                ({"steps": 5, "spacing": "leading", "final": "sigma_min"}, ValueError, "offset=1"),
                ({"steps": 0}, ValueError, "steps must be"),
                *(((n, "leading"), ValueError, f"leading' with steps={n} starts at index .* far from pure noise") for n in (1, 2, 501, 600)),
                *(({"steps": 5, "spacing": "leading", "offset": offset}, "offset") for offset in (np.nan, 0.5, -1)),
            ),
            (lambda: N.index_grid(N.VP(), 5), TypeError, "Discrete"),
        ],
    ),
    "karras_grid": grid("karras_grid", (lambda: N.karras_grid(N.VP(), 4, 0.0), ValueError, "rho")),
    "logsnr_grid": grid(
        "logsnr_grid", (lambda: N.logsnr_grid(4, N.VP()), TypeError, "schedule must be a noise schedule"),
    ),
    "shift": Case(
        lambda: N.shift, (N.time_grid(N.Flow(), 6, final="zero"), 3.0), smooth=True, tolerance=1e-6,
        refusals=[
            *wrong(functools.partial(N.shift, np.ones(1)), *(((factor,), ValueError, "factor") for factor in (0.0, -1.0, np.nan))),
            (lambda: N.shift(np.array([80.0, 1.0]), 3.0), ValueError, "grid"),
        ],
    ),
    "sigma_grid": Case(
        lambda: {name: one for name, (one, _, _) in SCHEDULES.items()}, (RATIOS,),
        lambda all, key, ratios: {name: N.sigma_grid(all[name], ratios[name]) for name in all},
        other=lambda: {name: other for name, (_, other, _) in SCHEDULES.items()}, dtypes=None, tolerance=2e-4,
        refusals=[
            *wrong(
                functools.partial(N.sigma_grid, SCALED),
                (([20.0, 1.0],), "beyond the noisiest index, 999"), (([80.0, 1.0],), "beyond the noisiest index"),
                (([1.0, 2.0],), r"must decrease; got sigmas\[1\]"), (([1.0],), "n \\+ 1"),
                (([1.0, -1.0],), "sigmas must be finite and in"), (([1.0, np.nan],), "finite"),
                (("no",), "number"), ((None,), "number"),
            ),
            (lambda: N.sigma_grid(N.VE(0.01, 20.0), [30.0, 1.0]), ValueError, "outside the schedule's times"),
        ],
    ),
    "spaced_grid": Case(
        N.VP, (0.01,), lambda vp, key, end: {s: spaced(vp, s, end) for s in ANYWHERE}, dtypes=None,
        refusals=[
            *wrong(
                functools.partial(N.spaced_grid, N.VP(), 4),
                ({"spacing": "even"}, ValueError, "spacing must be one of"),
                ({"spacing": "normal", "rho": 2.0}, ValueError, "takes no rho"),
                ({"spacing": "karras", "shape": 0.6}, ValueError, "takes no shape"),
                ({"spacing": "karras", "rho": 0.0}, ValueError, "rho must"),
                ({"spacing": "beta", "shape": 0.0}, ValueError, "shape must"),
                ({"spacing": "ays_sd15", "t_min": 0.1}, ValueError, "ends of its own"),
                ({"spacing": "ays_svd"}, ValueError, "outside the schedule"),
                ({"spacing": "beta", "t_max": 1e-4}, ValueError, "t_max must be above"),
            ),
            (lambda: N.spaced_grid(N.Discrete.ddpm_linear(100, 1e-3, 0.15), 90, "beta"), ValueError, "does not decrease"),
        ],
    ),
    "time_grid": grid(
        "time_grid", (lambda: N.time_grid(N.VP(), 4, -1), ValueError, "power"),
        (lambda: N.time_grid(None, 4), TypeError, "schedule must be a noise schedule"),
        (lambda: N.time_grid(N.VP(), 4, t_max="a"), TypeError, "t_max must be a number"),
        (lambda: N.time_grid(N.VP(), 4, t_max=np.ones(2)), ValueError, "t_max must be one number"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)


# ---------------------------------------------------------------- interpolants and grids


def test_interpolants_on_the_host():
    times = np.array([0.1, 0.45, 0.9], np.float32)
    for path in PATHS:
        host, single = levels(path, times.astype(np.float64)), jax.vmap(levels, (None, 0))(path, jnp.asarray(times))
        for level, value in host.items():
            assert single[level].dtype == jnp.float32
            np.testing.assert_allclose(single[level], value, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda scale: N.Interpolant("linear", scale=scale).gamma(jnp.float32(0.5)))(1.0)
    np.testing.assert_allclose(slope, 0.5)


@pytest.mark.parametrize("name", GRIDS)
def test_grids_fall_from_end_to_end(name):
    for label, (one, _, _) in SCHEDULES.items():
        start = 0.999 if label == "Flow" else one.t_max
        for final in ("zero", "sigma_min"):
            for n in (1, 2, 7):
                grid = GRIDS[name](one, n, t_max=start, final=final)
                falls(grid, n)
                assert grid[0] == start
                assert grid[-1] == (one.time(np.inf) if final == "zero" else one.t_min)
    slopes = jax.jit(
        jax.grad(
            lambda ends: sum(
                map(jnp.sum, at_ends(GRIDS[name], {label: SCHEDULES[label][0] for label in ENDS}, ends).values())
            )
        )
    )(ENDS)
    assert all(np.isfinite(slope) and slope != 0 for slope in slopes.values()), slopes


def falls(grid, n):
    assert isinstance(grid, np.ndarray) and grid.dtype == np.float64
    assert grid.shape == (n + 1,) and np.all(np.diff(grid) < 0)


def test_grids_of_indices():
    for spacing in ("leading", "linspace", "trailing"):
        for n in (1, 2, 10, 50, 100, 999, 1000):
            if spacing == "leading" and n in (1, 2):
                continue
            grid = N.index_grid(LINEAR, n, spacing)
            falls(grid, n)
            assert grid[0] == 999 or (spacing == "leading" and grid[0] >= 900)
            assert np.all(grid == np.round(grid))
            assert grid[-1] == -1
    assert N.index_grid(LINEAR, 7).tolist() == N.index_grid(LINEAR, 7, "trailing").tolist()


@pytest.mark.parametrize("name", SCHEDULES)
def test_grids_of_ratios(name):
    one, ratios = SCHEDULES[name][0], RATIOS[name]
    grid = N.sigma_grid(one, ratios)
    falls(grid, 6)
    np.testing.assert_allclose(one.sigma(grid) / one.alpha(grid), ratios, rtol=1e-9, atol=1e-12)
    assert grid[-1] == one.time(np.inf)
    js.solve.dpmpp(one, grid)


def test_shifts():
    grid = N.time_grid(N.Flow(), 6, final="zero")
    np.testing.assert_array_equal(N.shift(grid, 1.0), grid)
    shifted = N.shift(grid, 3.0)
    assert shifted[0] == 1
    assert shifted[-1] == 0
    np.testing.assert_allclose(N.shift(shifted, 1 / 3), grid, rtol=1e-13)
    np.testing.assert_allclose(jax.jit(N.dynamic_shift)(1024), np.exp(0.63), rtol=1e-6)


def test_every_spacing_falls_to_its_end():
    for one, _, _ in SCHEDULES.values():
        for spacing in ANYWHERE:
            for final in ("zero", "sigma_min"):
                for n in (1, 2, 7):
                    grid = N.spaced_grid(one, n, spacing, final=final)
                    falls(grid, n)
                    assert grid[0] == one.t_max
                    assert grid[-1] == (one.time(np.inf) if final == "zero" else one.t_min)
