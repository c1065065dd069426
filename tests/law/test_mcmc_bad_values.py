"""Every argument of every public callable of jsamp.mcmc gets every bad value: right, or refused in our own words.

Nothing is compiled: the calls run under `jax.eval_shape`, whose checks see the values.
"""

import pathlib
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp import mcmc

KEY = jax.random.key(0)
HOME = str(pathlib.Path(js.__file__).parent)
BAD = [
    None, "no", float("nan"), -1.0, [], np.zeros((0,)), jnp.ones((2, 2)), KEY, object(), 2**40, True, [1, [2]],
    lambda: 0, 1j, np.array(["a"]), {}, jnp.array([jnp.nan] * 3),
]  # fmt: skip


def f(x):
    return -jnp.sum(x**2) / 2


def at_level(x, level):
    return f(x)


def score(x, other):
    return -x


def draw(key):
    return jax.random.normal(key, (3,))


def half(x):
    return x / 2


def block(key, z):
    return z["b"]


def part(z):
    return f(z["a"])


def row(x, y):
    return -jnp.sum((x - y) ** 2)


def position(state, info):
    return state.position


def run(kernel, x):
    return js.chain(KEY, kernel, x, 2).x


X = jnp.ones(3)
P = jnp.arange(1.0, 5.0)[:, None] * jnp.ones((4, 3))
GRAPH = mcmc.walk_graph(np.full((3, 3), 1 / 3))
THIRDS = np.full((3, 3), 1 / 3)
Z = {"a": jnp.ones(2), "b": jnp.ones(2)}
M = mcmc.MALA(f)
DIFFUSION = {"logdensity": f, "step_size": 0.1, "metric": 1.0}
BATCH = {"score": score, "data": P, "step_size": 0.1, "temperature": 1.0, "batch": 2, "decay": 0.0}
DRIVER = {"key": KEY, "kernel": M, "num": 2, "keep": position, "thin": 1, "reduce": ()}

# (callable, good arguments, the start of the kernel it makes or a function of its result)
KERNELS = [
    (mcmc.ULA, DIFFUSION, X), (mcmc.MALA, DIFFUSION, X), (mcmc.Barker, DIFFUSION, X), (mcmc.RandomWalk, DIFFUSION, X),
    (mcmc.HMC, {**DIFFUSION, "length": 1.0, "max_steps": 3, "jitter": True}, X),
    (mcmc.NUTS, {**DIFFUSION, "max_depth": 2}, X), (mcmc.BAOAB, {**DIFFUSION, "friction": 1.0}, X),
    (mcmc.OBABO, {**DIFFUSION, "friction": 1.0}, X), (mcmc.GHMC, {**DIFFUSION, "friction": 1.0}, X),
    (mcmc.MCLMC, {**DIFFUSION, "length": 1.0}, X),
    (mcmc.IndependentMH, {"logdensity": f, "draw": draw, "logproposal": f}, X),
    (mcmc.Slice, {"logdensity": f, "width": 1.0, "metric": 1.0, "max_steps": 3}, X),
    (mcmc.Stretch, {"logdensity": f, "scale": 2.0}, jnp.sin(jnp.arange(18.0)).reshape(6, 3)),
    (mcmc.EllipticalSlice, {"loglikelihood": f, "covariance": 1.0, "mean": X}, X),
    (mcmc.SGLD, BATCH, X), (mcmc.pSGLD, {**BATCH, "rate": 0.9, "floor": 0.1, "num_data": 1.0}, X),
    (mcmc.SGHMC, {**BATCH, "friction": 0.1, "noise": 0.0}, X),
    (
        mcmc.SGNHT,
        {"score": score, "data": P, "step_size": 0.1, "friction": 0.1, "temperature": 1.0, "batch": 2},
        X,
    ),
    (mcmc.Corrector, {"score": score, "t": 1.0, "snr": 0.1, "scale": 1.0}, X),
    (mcmc.AutoencoderMH, {"reconstruct": half, "sigma": 1.0, "step_size": 1.0, "metric": 1.0, "nodes": 2}, X),
    (
        mcmc.DenoisingLangevinGibbs,
        {"score": score, "sigmas": [0.1, 1.0], "logdensity": at_level, "posterior": "exact", "step_size": 0.1,
         "skip": 1, "x_move": "mala", "select": "last", "scaled": True, "argmax": False},
        mcmc.Noised(X, 1.0),
    ),
    (mcmc.SelfRepellentWalk, {"graph": GRAPH, "alpha": 1.0, "decay": 0.8}, 0),
    (mcmc.HistoryDrivenWalk, {"graph": GRAPH, "alpha": 1.0, "decay": 0.8}, 0),
    (
        mcmc.TokenSGD,
        {"walk": mcmc.SelfRepellentWalk(GRAPH), "gradient": score, "decay": 0.8, "scale": 1.0},
        mcmc.Token(0, 1.0),
    ),
    (
        mcmc.ParallelTempering,
        {"kernel": M, "betas": [1.0, 0.5], "reference": f, "step_sizes": [0.1, 0.1], "moves": 1},
        jnp.ones((2, 3)),
    ),
    (mcmc.Gibbs, {"draw": block, "part": "a"}, Z), (mcmc.repeat, {"kernel": M, "steps": 2}, X),
    (mcmc.ensemble, {"kernel": M}, P), (mcmc.mixture, {"weights": [0.5, 0.5], "kernels": [M, M]}, X),
    (mcmc.on, {"kernel": mcmc.MALA(part), "part": "a"}, Z),
    (mcmc.metropolize, {"proposal": mcmc.RandomWalk(f), "logdensity": f, "nodes": 2}, X),
    (mcmc.metropolize, {"proposal": mcmc.RandomWalk(f), "score": half, "nodes": 2}, X),
    (mcmc.tempered, {"kernel": M, "beta": 0.5, "reference": f}, X),
]  # fmt: skip
CALLS = [
    (mcmc.MinibatchScore, {"logprior": f, "loglikelihood": row, "num_data": 4, "center": X, "center_score": X},
     lambda s: s(X, P)),
    (mcmc.ReconstructionScore, {"reconstruct": half, "sigma": 1.0}, lambda s: s(X)),
    (mcmc.DenseMetric, {"covariance": np.eye(3)}, lambda m: run(mcmc.MALA(f, metric=m), X)),
    (mcmc.Moments, {"covariance": True}, lambda m: js.chain(KEY, M, X, 2, reduce=(m,)).x),
    (js.chain, {**DRIVER, "x": X, "burn": 0}, lambda r: r.x),
    (js.chains, {**DRIVER, "starts": P, "warm": 2, "burn": 0}, lambda r: r.x),
    (js.stream, {**DRIVER, "x": X, "chunk": 1, "progress": False}, lambda r: None),
    (mcmc.tune, {"key": KEY, "kernel": M, "x": P, "steps": 2, "chains": 4, "target": 0.5, "metric": "diagonal"},
     lambda r: r[1]),
    (mcmc.smc, {"key": KEY, "kernel": M, "x": P, "reference": f, "moves": 1, "ess": 0.5, "max_levels": 2},
     lambda r: r.x),
    (mcmc.ais, {"key": KEY, "kernel": M, "x": P, "betas": [0.0, 1.0], "reference": f, "moves": 1}, lambda r: r.x),
    (
        mcmc.annealed,
        {"key": KEY, "score": score, "x": X, "sigmas": [1.0, 0.1], "steps": 1, "step_size": 0.01, "tweedie": True},
        lambda r: r.x,
    ),
    (mcmc.walk_graph, {"transition": THIRDS, "mu": np.ones(3)}, lambda r: r.log_mu),
    (
        mcmc.walk_variance,
        {"transition": THIRDS, "f": np.ones(3), "alpha": 1.0, "mu": np.ones(3), "kind": "srrw"},
        lambda r: None,
    ),
    (mcmc.refresh, {"kernel": M, "x": X, "state": M.init(X)}, lambda r: r.position),
]  # fmt: skip
ALL = [*((make, good, lambda k, x=x: run(k, x)) for make, good, x in KERNELS), *CALLS]


@pytest.mark.parametrize(("make", "good", "use"), ALL, ids=[f"{i}-{make.__name__}" for i, (make, *_) in enumerate(ALL)])
def test_bad_values_are_refused_in_our_own_words(make, good, use):
    # A generator runs on the host: its door alone is tried, which compiles the first state.
    trial = (lambda call: call()) if make is js.stream else jax.eval_shape
    trial(lambda: use(make(**good)))
    unclear = []
    for name in good:
        for value in BAD:
            call = {**good, name: value}
            try:
                trial(lambda call=call: use(make(**call)))
            except (ValueError, TypeError) as error:
                if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(HOME):
                    unclear.append(f"{name}={value!r}: {type(error).__name__} {error}"[:200])
            except Exception as error:
                unclear.append(f"{name}={value!r}: {type(error).__name__} {error}"[:200])
    assert not unclear, "\n".join(unclear)
