"""Every guidance around every denoiser, and every steer chained with every other: traced, not run.

A pair gives a prediction (a sample) of the shapes and dtypes of x, or is refused with a sentence that says what to do.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from denoise_cases import CASES, CLASSIFIER, ENERGY, KEEP, LEVELS, NOT, SEEN, SIDES, TURN, TWIST, VP
from laws import denoiser, mixture
from population_laws import bind, dps, potential, reward, truth

import jsamp as js

D, S, T = js.denoise, js.solve, js.steer
X = np.array([0.4, -1.2], np.float32)

# Each guidance as a function of the denoiser inside; in the first place where it takes several.
AROUND = {
    "ClassifierFree": lambda d: D.ClassifierFree(d, NOT, 2.0), "ClassifierFree(uncond)": lambda d: D.ClassifierFree(NOT, d, 2.0),
    "Auto": lambda d: D.Auto(d, NOT, 2.0), "Compose": lambda d: D.Compose([d, NOT], mixture(VP), [2.0, -0.5]),
    "CFGpp": lambda d: D.CFGpp(d, NOT), "Rescale": lambda d: D.Rescale(D.ClassifierFree(d, NOT, 2.0)),
    "APG": lambda d: D.APG(d, NOT, 2.0, norm_threshold=0.3), "CFGZero": lambda d: D.CFGZero(d, NOT, 2.0),
    "Interval": lambda d: D.Interval(d, NOT, 0.1, 5.0), "GradientFree": lambda d: D.GradientFree(lambda k: d, 1, CLASSIFIER),
    "Classifier": lambda d: D.Classifier(d, LEVELS, 1), "Minority": lambda d: D.Minority(d, LEVELS),
    "Energy": lambda d: D.Energy(d, ENERGY), "Energy(x0)": lambda d: D.Energy(d, ENERGY, through="x0"),
    "Reward": lambda d: D.Reward(d, ENERGY, 1.0, 0.1), "DPS": lambda d: D.DPS(d, SIDES, SEEN),
    "PiGDM": lambda d: D.PiGDM(d, KEEP, KEEP(SEEN)), "TMPD": lambda d: D.TMPD(d, SIDES, SEEN, 0.3),
    "MMPS": lambda d: D.MMPS(d, SIDES, SEEN, 0.3),
    "DDNM": lambda d: D.DDNM(d, KEEP, KEEP(SEEN)), "Threshold": lambda d: D.Threshold(d, 0.9),
    "Twisted": lambda d: D.Twisted(d, TWIST), "Gauge": lambda d: D.add_gauge(d, TURN),
}  # fmt: skip
MIXES = {"ClassifierFree", "ClassifierFree(uncond)", "Auto", "Compose", "CFGpp", "Rescale", "APG", "CFGZero", "Interval",
         "GradientFree"}  # fmt: skip


def test_every_guidance_is_here():
    wraps = {name.split("(")[0] for name in AROUND}
    alone = {"Denoiser", "GaussianMixture", "Empirical", "ForwardModel", "from_reconstruction", "EDM", "Latent"}
    made = {name.split("(")[0] for name in CASES}
    assert made - wraps <= alone, made - wraps - alone


@functools.cache
def traced_once(kind):
    """The call of a kind of denoiser as a program, which is traced once for all guidances around it."""
    return jax.jit(kind.__call__)


@pytest.mark.parametrize("outer", AROUND)
def test_guidance_around_every_denoiser(outer, monkeypatch):
    """Predictions like x from all; where predictions are mixed, kicks are refused with a word of where to put them."""
    for inner, (inside, _) in CASES.items():
        monkeypatch.setattr(type(inside), "__call__", traced_once(type(inside)))
        make = lambda inside=inside: jax.eval_shape(AROUND[outer](inside), X, 0.4)
        if outer in MIXES and js.denoise._protocol.kicks(inside):
            with pytest.raises(TypeError, match=r"outermost|around Interval"):
                make()
            continue
        out = make()
        assert out.x0.shape == out.eps.shape == (2,), f"{outer}({inner})"
        assert out.x0.dtype == out.eps.dtype == jnp.float32, f"{outer}({inner})"


DISCRETE = js.noise.Discrete.ddpm_linear(100, 1e-3, 0.15)
PLAN = S.ddpm(DISCRETE, js.noise.index_grid(DISCRETE, 6, "leading"))
CLOUD = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
WHOLE = np.ones_like(CLOUD)
HALF, Y = (np.arange(16) % 2).astype(np.float32), np.zeros(16, np.float32)
SCORE, END = bind(potential, np.float32(0.5)), bind(reward, np.float32(0.5))
STEERS = {
    "Hooks": T.Hooks(), "TrajectoryVariance": T.TrajectoryVariance(3, 1), "Memory": T.Memory(),
    "TimeShift": T.TimeShift(DISCRETE, 30, 5, mode="network_time", event_ndim=1), "SMC": T.SMC(SCORE, END),
    "SoftValue": T.SoftValue(SCORE), "Repaint": T.Repaint(HALF, Y), "ILVR": T.ILVR(CLOUD, D.LinearOp.pool((6, 16), (1, 2))),
    "Project": T.Project(D.LinearOp.mask(WHOLE), CLOUD), "DDRM": T.DDRM(D.LinearOp.mask(WHOLE), CLOUD, noise=0.1),
    "DiffPIR": T.DiffPIR(D.LinearOp.mask(HALF), Y, noise=0.1, event_ndim=1),
    "ActiveSubsampling": T.ActiveSubsampling(bind(dps, np.float32(0.1)), bind(truth, Y), np.arange(6) == 3, Y),
    "OwnNoise": T.OwnNoise(np.zeros((6, 6, 16))), "LogProb": T.LogProb(event_ndim=1), "LearnedVariance": T.LearnedVariance(0.5),
}  # fmt: skip
NOISES = {"OwnNoise", "LogProb", "LearnedVariance"}
REMEMBERS = D.APG(
    denoiser(DISCRETE), denoiser(DISCRETE, weights={"gain": 0.2, "bend": 1.0}), 2.0, momentum=-0.5, event_ndim=1
)


def test_every_steer_is_here():
    records = {"ActiveReport", "Brownian", "Recall", "SMCReport", "SoftValueReport", "Steer", "Chain", "chain"}
    assert set(T.__all__) - records == set(STEERS)


@pytest.mark.parametrize("first", STEERS)
def test_steers_chained_with_every_other(first):
    """States that follow particles, memories, measurements and noise live beside each other."""
    names = list(STEERS)
    for second in names[names.index(first) + (first == "Memory") :]:
        if {first, second} <= NOISES and {first, second} != {"LogProb"}:
            with pytest.raises(ValueError, match=f"cannot hold {first} and {second}: each acts on the noise"):
                T.chain(STEERS[first], STEERS[second])
            continue
        both = T.chain(STEERS[first], STEERS[second])
        run = lambda x, both=both: js.sample(jax.random.key(0), REMEMBERS, x, PLAN, steer=both)
        result = jax.eval_shape(run, CLOUD)
        assert (result.x.shape, result.x.dtype) == (CLOUD.shape, jnp.float32), f"{first}, {second}"
        assert len(result.info.report) == 2
