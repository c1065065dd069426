"""Laws of every public object of `jsamp.steer`."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, cases_of, pairs, same_bits, wrong
from laws import WEIGHTS, Traces, denoiser, mixture
from population_laws import POPULATIONS, TRACES, in_float64, populations, steered

import jsamp as js
from jsamp._core._pytree import pytree

T = js.steer
S = js.solve
VP = js.noise.VP()
DISCRETE = js.noise.Discrete.ddpm_linear(100, 1e-3, 0.15)
GRID = js.noise.time_grid(VP, 6, 2)
KEY = jax.random.key(5)
MODEL = denoiser(VP, "x0")
START = np.array([0.9, -0.4, 0.2], np.float32)
IMAGE = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)


@functools.cache
def plans():
    """One plan for each feature of the runner."""
    return {
        "ddim": S.ddim(VP, GRID),
        "deis": S.deis(VP, GRID),
        "unipc": S.unipc(VP, GRID),
        "sa_solver": S.sa_solver(VP, GRID),
        "ghvb": S.ghvb(VP, GRID),
        "heavy_ball": S.heavy_ball(S.plms(VP, GRID), 0.8),
        "heun": S.heun(VP, GRID),
        "restart": S.restart(S.ddim(VP, GRID), S.ddim(VP, GRID[1:4])),
    }


def run(steer, plan, x=START, model=MODEL, keep=None):
    return js.sample(KEY, model, x, plan, steer=steer, keep=keep)


@pytree
class Noisy(T.Hooks):
    """Draws random numbers in every hook that has a key."""

    stochastic = True

    def init(self, key, x, plan):
        return jax.random.normal(key)

    def mid(self, key, g, x, prediction, info):
        return g, x + 0.01 * jax.random.normal(key, x.shape), prediction, None

    def post(self, key, g, x, info):
        return g, x + 0.01 * jax.random.normal(key, x.shape), True

    def final(self, g, x):
        return x, g


# ---------------------------------------------------------------- the steers that draw nothing


STEERS = {
    "TrajectoryVariance": (T.TrajectoryVariance(3), T.TrajectoryVariance(3)),
    "TrajectoryVariance(rows)": (T.TrajectoryVariance(3, 1), T.TrajectoryVariance(3, 1)),
    "TimeShift": (T.TimeShift(DISCRETE, 30, 5), T.TimeShift(DISCRETE, 20, 10)),
    "TimeShift(target)": (T.TimeShift(DISCRETE, 30, 5, mode="target"), T.TimeShift(DISCRETE, 20, 10, mode="target")),
    "TimeShift(network_time)": (
        T.TimeShift(DISCRETE, 30, 5, mode="network_time"), T.TimeShift(DISCRETE, 20, 10, mode="network_time"),
    ),
    "TimeShift(rows)": (T.TimeShift(DISCRETE, 30, 5, event_ndim=1), T.TimeShift(DISCRETE, 20, 10, event_ndim=1)),
    "chain": (
        T.chain(T.TimeShift(DISCRETE, 30, 5), T.TrajectoryVariance(3)),
        T.chain(T.TimeShift(DISCRETE, 8, 1), T.TrajectoryVariance(3)),
    ),
    "Hooks": (T.Hooks(), T.Hooks()),
}  # fmt: skip
DPLAN = S.dpmpp(DISCRETE, js.noise.index_grid(DISCRETE, 6, "linspace", final="sigma_min"))
DTRACES = Traces()
DMODEL = js.Denoiser(DTRACES.bind(WEIGHTS), DISCRETE, predicts="x0")


# ---------------------------------------------------------------- one line for each public object


def one(name, **options):
    """A case of a steer that draws nothing, on an image in one array or in rows."""
    return steered(*STEERS[name], IMAGE if "rows" in name else IMAGE.ravel(), DMODEL, DPLAN, **options)


def record(make):
    """A case of a report: built by the names of its fields, it keeps its type."""
    return Case(lambda: make, (IMAGE[0],), returns=type(make(0)), mechanism="record")


def shift_refused(match, make=None, mode="paper"):
    """A plan that a shift of this mode cannot follow."""
    grid = js.noise.index_grid(DISCRETE, 8, "linspace", final="sigma_min")
    return lambda: run(T.TimeShift(DISCRETE, 3, mode=mode), make(DISCRETE, grid), IMAGE, DMODEL), ValueError, match


APG = js.denoise.APG(MODEL, mixture(VP), 3.0, momentum=-0.5)
CANNOT_SHIFT = [(S.heun, "stages"), (S.unipc, "stages"), (S.ddpm, "noise"), (S.ghvb, "momentum on predictions")]
REGISTRY = {
    "ActiveReport": record(lambda x: T.ActiveReport(mask=x, y=x, order=x)),
    "ActiveSubsampling": populations("ActiveSubsampling"),
    "Brownian": populations("Brownian"),
    "Chain": one("chain"),
    "DDRM": populations("DDRM"),
    "DiffPIR": populations("DiffPIR"),
    "Hooks": one("Hooks"),
    "ILVR": populations("ILVR"),
    "LearnedVariance": populations("LearnedVariance"),
    "LogProb": populations("LogProb"),
    "Memory": Case(
        lambda: (T.Memory(), APG), (START[:2],), lambda thing, key, x: run(thing[0], plans()["ddim"], x, thing[1]).x,
        smooth=True,
        refusals=wrong(
            lambda model: run(T.Memory(), plans()["ddim"], START[:2], model),
            ((MODEL,), ValueError, "one denoiser that remembers"),
            ((js.denoise.Auto(APG, js.denoise.APG(MODEL, MODEL, norm_threshold=1.0)),), ValueError, "one denoiser that remembers"),
        ),
    ),
    "OwnNoise": populations("OwnNoise"),
    "Project": populations("Project"),
    "Recall": record(lambda x: T.Recall(value=x, seen=x)),
    "Repaint": populations("Repaint"),
    "SMC": populations("SMC"),
    "SMCReport": record(lambda x: T.SMCReport(log_evidence=x, log_weight=x, resampled=x)),
    "SoftValue": populations("SoftValue"),
    "SoftValueReport": record(lambda x: T.SoftValueReport(value=x, index=x)),
    "Steer": steered(Noisy(), Noisy(), START, MODEL, S.ddim(VP, GRID), stochastic=True),
    "TimeShift": [
        one(
            "TimeShift",
            refusals=[
                *wrong(
                    T.TimeShift,
                    ((VP, 3), TypeError, "Discrete"), ((DISCRETE, -1), ValueError, "window"),
                    ((DISCRETE, 3, -1), ValueError, "cutoff"),
                    ({"schedule": DISCRETE, "window": 3, "mode": "x"}, ValueError, "mode"),
                ),
                (lambda: run(T.TimeShift(DISCRETE, 3), DPLAN, IMAGE[0, :3], DMODEL), ValueError, "16 numbers"),
                *(shift_refused(match, make, mode) for make, match in CANNOT_SHIFT for mode in ("paper", "target")),
            ],
        ),
        one("TimeShift(target)"), one("TimeShift(network_time)"), one("TimeShift(rows)"),
    ],
    "TrajectoryVariance": [
        one(
            "TrajectoryVariance",
            refusals=[
                *wrong(
                    T.TrajectoryVariance,
                    ((1,), ValueError, "last"), ((0,), ValueError, "last"), ((3.0,), TypeError, "last"),
                ),
                (lambda: run(T.TrajectoryVariance(9), plans()["ddim"]), ValueError, "last=9 rows, but the plan has 6"),
            ],
        ),
        one("TrajectoryVariance(rows)"),
    ],
    "chain": dataclasses.replace(
        populations("chain")[0], refusals=[(lambda: T.chain(T.Hooks(), 3), TypeError, "lacks the hooks")]
    ),
}  # fmt: skip
STEERED = {label: case for label, case in cases_of(REGISTRY) if isinstance(case.thing, T.Steer)}


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)


def test_every_steer_is_run():
    assert {steer for steer, *_ in (STEERS | POPULATIONS).values()} <= {case.thing for case in STEERED.values()}


@pytest.mark.parametrize("label", STEERED)
def test_new_numbers_of_a_steer(label):
    """Outside jit nothing is traced again and something else comes out; float32 and bfloat16 states keep their type."""
    case = STEERED[label]
    assert case.eager[0].dtype == jnp.float32
    counts = [traces.count for traces in (TRACES, DTRACES)]
    changed = case.run(case.moved, KEY, *case.inputs)
    case.run(case.moved, jax.random.key(6), *case.inputs)
    assert [traces.count for traces in (TRACES, DTRACES)] == counts
    if label.split("(")[0] not in ("Chain", "Hooks", "LogProb", "Steer", "TimeShift", "TrajectoryVariance"):
        assert not same_bits(changed, case.eager)
    half = jnp.asarray(case.inputs[0], jnp.bfloat16)
    assert jax.eval_shape(case.run, case.thing, KEY, half)[0].dtype == jnp.bfloat16


def test_steers_run_in_float64(x64):
    for name, (steer, _) in STEERS.items():
        # JAX keeps the float32 copy of an array that a program of the laws closed over: these are arrays of their own.
        steer, model, plan = copy.deepcopy((steer, DMODEL, DPLAN))
        x = IMAGE if "rows" in name else IMAGE.ravel()
        out = js.sample(None, model, x.astype(np.float64), plan, steer=steer)
        assert out.x.dtype == jnp.float64, name
        assert np.all(np.isfinite(out.x)), name
    in_float64()
