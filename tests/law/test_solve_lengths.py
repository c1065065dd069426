"""Every solver on every schedule, at every length and end, and what float32 and bfloat16 cost."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import interpret, mixture
from solver_cases import ONLY_VE, SCHEDULES, SOLVERS, VP, columns, grid_of, plans

import jsamp as js

S = js.solve


def _informative(message):
    """A refusal names what was wrong, at length enough to say what to do."""
    return len(message) > 40 and re.search(r"sigma|alpha|grid|step|order|corrector|orders|n <=", message)


@pytest.mark.parametrize("which", sorted(SCHEDULES))
def test_every_length_end_and_schedule(which):
    """Finite, or refused with a message that says why; a Gaussian lands where it should in many steps."""
    schedule = SCHEDULES[which]
    rng = np.random.default_rng(0)
    start = float(schedule.sigma(schedule.t_max)) * rng.normal(size=2)
    mean, std = np.array([0.3, -0.2]), 0.5

    def predict(x, t):
        a, s = schedule.alpha(t), schedule.sigma(t)
        pull = (x - a * mean) / (a**2 * std**2 + s**2)
        return mean + a * std**2 * pull, s * pull

    refused = {}
    for name, make in SOLVERS.items():
        for n in range(1, 13):
            for final in ("zero", "sigma_min"):
                case = f"{name} n={n} {final} {which}"
                try:
                    with np.errstate(all="raise", under="ignore"):
                        plan = make(schedule, grid_of(schedule, n, final))
                except ValueError as error:
                    refused.setdefault(name, []).append((n, final, str(error)))
                    continue
                except FloatingPointError as error:
                    raise AssertionError(f"{case}: {error}") from error
                for column, value in columns(plan).items():
                    assert np.all(np.isfinite(value)) or column == "node", f"{case}: {column} = {value}"
                out = interpret(plan, predict, start, lambda r, stream: rng.normal(size=2))
                assert np.all(np.isfinite(out)), case
    _check_refusals(which, refused)


def _check_refusals(which, refused):
    """Only what must be refused is refused, and the message says why."""
    everywhere = {"restart": {1}, "pndm(4)": {1, 2, 3}, "pndm(2)": {1}, "plms(heun)": {1}, "heavy_ball(bypass)": set()}
    for name, cases in refused.items():
        for n, final, message in cases:
            assert _informative(message), (name, n, final, message)
        lengths = {n for n, _, _ in cases}
        finals = {final for _, final, _ in cases}
        if which == "Flow" and re.search("alpha = 0|signal", cases[0][2]):
            continue
        if name == "edm(churn)" and which != "VE":
            continue
        if name in ("dpm_solver(2,sde)", "unipc(2,last)", "sa_solver(last)"):
            assert finals == {"zero"}, (name, cases[0])
            continue
        assert lengths <= everywhere.get(name, set()), (name, sorted(lengths), cases[0])


# ---------------------------------------------------------------- precision


def _stacked(n=20):
    """Every plan of n rows without its noise, as one population; Langevin rows are measured by theirs."""
    tables = {}
    for length in (n, n // 2):
        for name, plan in plans(length).items():
            if plan.nfe == n and name not in tables and name not in ONLY_VE and plan.relative is None:
                tables[name] = dataclasses.replace(plan, noise_std=None, churn_std=None)
    return list(tables), S.stack(tables.values())


def test_float32_is_close_to_float64_at_twenty_rows():
    """Within 1e-5, median 5e-7, for every solver, on an exact mixture. Draws depend on the dtype: noise is left out."""
    names, tables = _stacked()
    starts = np.random.default_rng(1).normal(size=(16, 2)).astype(np.float32)

    def draw(law, x, tables):
        return jax.vmap(lambda p: js.sample(None, law, x, p).x)(tables)

    single = np.asarray(jax.jit(draw)(mixture(VP), starts, tables))
    with jax.enable_x64(True):
        double = np.asarray(jax.jit(draw)(mixture(VP), starts.astype(np.float64), tables))
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    for name, a, b in zip(names, single, double, strict=True):
        error = np.abs(a - b)
        assert error.max() < 1e-5, (name, error.max())
        assert np.median(error) < 5e-7, (name, np.median(error))


def test_a_bfloat16_model_costs_little_more_than_its_own_rounding():
    """At twenty rows the error of a network whose output is rounded to bfloat16 is at most five such roundings."""
    names, tables = _stacked()
    starts = np.random.default_rng(2).normal(size=(16, 2)).astype(np.float32)
    law = mixture(VP)

    def fine(x, t):
        return law(x, t).x0

    def rough(x, t):
        return law(x, t).x0.astype(jnp.bfloat16)

    def draw(network):
        denoiser = js.Denoiser(network, VP, predicts="x0")
        return np.asarray(jax.vmap(lambda p: js.sample(None, denoiser, starts, p).x)(tables))

    exact, rounded = draw(fine), draw(rough)
    # bfloat16 has eight significant bits: predictions here are as large as the samples are.
    own = 2.0**-8 * np.abs(exact).max(axis=(1, 2))
    errors = np.abs(exact - rounded).max(axis=(1, 2))
    assert errors.max() > 0.1 * own.min()
    for name, error, unit in zip(names, errors, own, strict=True):
        assert error <= 5 * unit, (name, error / unit)
