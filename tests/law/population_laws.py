"""Laws of the steers that draw: populations, replacement, restoration, active measurement."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case
from laws import Traces

import jsamp as js

T, S, D = js.steer, js.solve, js.denoise
VP = js.noise.VP()
GRID = js.noise.time_grid(VP, 6, 2)
KEY = jax.random.key(5)
DDPM = S.ddpm(VP, GRID)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
MASK = np.array([1.0, 0.0, 1.0, 0.0], np.float32)
Y = np.array([0.3, 0.0, -0.5, 0.0], np.float32)


def reward(target, x0):
    return -0.5 * jnp.sum((x0 - target) ** 2, -1)


def potential(target, x, prediction, info):
    return reward(target, prediction.x0)


def bind(function, *values):
    return jax.tree_util.Partial(function, *values)


def likelihood(target, x0, var):
    return reward(target, x0) / (1 + var)


def dps(scale, denoiser, mask, y):
    return D.DPS(denoiser, D.LinearOp.mask(mask), y, scale=scale, event_ndim=1)


def smc(target, **options):
    target = np.float32(target)
    return T.SMC(bind(potential, target), bind(reward, target), **options)


def truth(values, index):
    return values


def active(scale, values, score, when=(False, False, True, False, True, False)):
    values = np.asarray(values, np.float32)
    return T.ActiveSubsampling(bind(dps, np.float32(scale)), bind(truth, values), np.array(when), MASK * 0, score=score)


def blur(mask, x):
    return x[1:] + mask[1:] * x[:-1]


POOL = D.LinearOp.pool((4,), (2,))
ROWS = D.LinearOp.pool((6, 4), (1, 4))


def chained(target):
    return T.chain(smc(target), T.TrajectoryVariance(3, 1), T.Project(ROWS, 0 * X[:, :1]))


Z = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)


def wave(scale, info):
    return jnp.full(4, jnp.sin(scale * info.t))


def soft(target, temperature):
    target = np.float32(target)
    return T.SoftValue(bind(potential, target), bind(reward, target), temperature=temperature)


FIXED = ("OwnNoise", "Brownian", "LogProb")  # these may bring the numbers that a plan would draw
# (steer, another one of the same structure, start)
POPULATIONS = {
    "SMC": (smc(0.5), smc(0.2, ess=0.9, every=2, start=1), X),
    "SMC(max, stop)": (smc(0.5, combine="max", stop=4), smc(0.2, combine="max", stop=3), X),
    "SMC(twisted)": (T.SMC(None, bind(reward, np.float32(0.5))), T.SMC(None, bind(reward, np.float32(0.3))), X),
    "SoftValue": (soft(0.5, 0.3), soft(0.2, 0.0), X),
    "Repaint": (T.Repaint(MASK, Y), T.Repaint(1 - MASK, 2 * Y), X[0]),
    "ILVR": (T.ILVR(Y, POOL), T.ILVR(2 * Y, POOL, until=0.2), X[0]),
    "Project": (T.Project(D.LinearOp.mask(MASK), Y), T.Project(D.LinearOp.mask(1 - MASK), 2 * Y), X[0]),
    "DDRM": (T.DDRM(D.LinearOp.mask(MASK), Y, noise=0.1), T.DDRM(D.LinearOp.mask(MASK), 2 * Y, noise=0.2), X[0]),
    "DiffPIR": (
        T.DiffPIR(D.LinearOp(bind(blur, MASK)), Y[:3], noise=0.1), T.DiffPIR(D.LinearOp(bind(blur, -MASK)), Y[1:], noise=0.2), X[0],
    ),
    "DiffPIR(rows)": (
        T.DiffPIR(D.LinearOp.mask(MASK), Y, noise=0.1, event_ndim=1),
        T.DiffPIR(D.LinearOp.mask(MASK), Y, noise=0.1, weight=2.0, zeta=0.6, event_ndim=1), X,
    ),
    "ActiveSubsampling": (active(0.1, Y, "entropy"), active(0.2, 2 * Y, "entropy"), X),
    "OwnNoise": (T.OwnNoise(Z), T.OwnNoise(-Z), X[0]),
    "OwnNoise(callable)": (T.OwnNoise(bind(wave, np.float32(1.0))), T.OwnNoise(bind(wave, np.float32(2.0))), X[0]),
    "Brownian": (T.OwnNoise(T.Brownian(jax.random.key(0))), T.OwnNoise(T.Brownian(jax.random.key(1))), X[0]),
    "LogProb": (T.LogProb(), T.LogProb(), X[0]),
    "LogProb(path)": (T.LogProb(Z), T.LogProb(2 * Z), X[0]),
    "LearnedVariance": (T.LearnedVariance(0.5), T.LearnedVariance(-0.5), X[0]),
    "chain": (chained(0.5), chained(0.2), X),
}  # fmt: skip


def model_of(name, traces):
    model = js.Denoiser(traces.bind({"gain": np.float32(0.7), "bend": np.float32(0.4)}), VP, predicts="x0")
    return D.Twisted(model, bind(likelihood, np.float32(0.5))) if "twisted" in name else model


TRACES = Traces()


def steered(steer, other, x, model, plan, **options):
    """A case of a run with a steer: the sample and its report. Windows, targets, masks and keys are numbers."""

    def run(steer, key, x):
        result = js.sample(key, model, x, plan, steer=steer)
        return result.x, result.info.report

    return Case(lambda: steer, (x,), run, other=lambda: other, smooth=True, dtypes=None, **options)


def populations(name):
    """The cases of a steer, one for each way to use it."""
    return [
        steered(*POPULATIONS[key], model_of(key, TRACES), DDPM, stochastic=key.split("(")[0] not in FIXED)
        for key in POPULATIONS if key.split("(")[0] == name
    ]  # fmt: skip


def in_float64():
    """Every one of them, in float64; call it where that is on."""
    plan = S.ddpm(VP, GRID)
    for name, (steer, _, x) in POPULATIONS.items():
        result = js.sample(KEY, model_of(name, Traces()), np.asarray(x, np.float64), plan, steer=steer)
        assert result.x.dtype == jnp.float64, name
        assert np.all(np.isfinite(result.x)), name
