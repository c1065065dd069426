"""Every steer on every plan: finite, or refused with a message; memory grows with the number of particles alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_same_bits, denoiser
from population_laws import POPULATIONS, X, active, bind, potential, reward
from test_steer import STEERS

import jsamp as js

S, T = js.solve, js.steer
VP = js.noise.VP()
GRID = js.noise.time_grid(VP, 6, 2)
KEY = jax.random.key(5)
MODEL = denoiser(VP, "x0")


@functools.cache
def plans():
    """One plan for each feature of the runner, deterministic and stochastic."""
    return {
        "ddim": S.ddim(VP, GRID),
        "ddim(eta)": S.ddim(VP, GRID, eta=1.0),
        "dpmpp(tau)": S.dpmpp(VP, GRID, tau=1.0),
        "deis": S.deis(VP, GRID),
        "unipc": S.unipc(VP, GRID),
        "sa_solver": S.sa_solver(VP, GRID),
        "er_sde": S.er_sde(VP, GRID),
        "ghvb": S.ghvb(VP, GRID),
        "heavy_ball": S.heavy_ball(S.plms(VP, GRID), 0.8),
        "heun": S.heun(VP, GRID),
        "restart": S.restart(S.ddpm(VP, GRID), S.ddim(VP, GRID[1:4])),
    }


def steers():
    every = {name: (steer, x) for name, (steer, _, x) in POPULATIONS.items() if "twisted" not in name}
    image = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    return every | {
        "TrajectoryVariance": (T.TrajectoryVariance(3), X),
        "Memory": (T.chain(T.Hooks()), image),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", steers())
def test_on_every_plan(name):
    steer, x = steers()[name]
    ran, refusals = 0, []
    for label, plan in plans().items():
        try:
            result = js.sample(KEY, MODEL, x, plan, steer=steer)
        except ValueError as refusal:
            refusals.append(str(refusal))
            continue
        assert np.all(np.isfinite(result.x)), label
        ran += 1
    assert all(len(message) > 40 for message in refusals), refusals  # what is wrong, and what to do
    assert ran >= 3, f"{name} ran on {ran} plans only"


OFF = {
    "SMC": (T.SMC(bind(potential, np.float32(0.5)), bind(reward, np.float32(0.5)), ess=0.0), X),
    "SoftValue": (T.SoftValue(bind(potential, np.float32(0.5)), start=9), X),
    "Repaint": (T.Repaint(0 * X[0], X[1]), X[0]),
    "ILVR": (T.ILVR(X[1], js.denoise.LinearOp.pool((4,), (2,)), until=2.0), X[0]),
    "Project": (T.Project(js.denoise.LinearOp.mask(0 * X[0]), 0 * X[0]), X[0]),
    "ActiveSubsampling": (active(0.0, X[0], "entropy", when=[False] * 2), X),
}


@pytest.mark.parametrize("name", OFF)
def test_off_is_off_bit_for_bit(name):
    """Op by op; `TimeShift` without a window, `Memory` and neutral hooks have tests of their own."""
    steer, x = OFF[name]
    plan = S.ddpm(VP, GRID[:3])
    with jax.disable_jit():
        got, base = (js.sample(KEY, MODEL, x, plan, steer=s).x for s in (steer, None))
    assert_same_bits(got, base)


POTENTIAL, REWARD = bind(potential, np.float32(0.5)), bind(reward, np.float32(0.5))


def perceptron(weights, x, t):
    """A network with a hidden layer, as networks have: the state, its prediction and twice the state at once."""
    hidden = jax.nn.relu(jax.lax.dot(jnp.atleast_2d(x), weights[0], precision="highest"))
    return jax.lax.dot(hidden, weights[1], precision="highest").reshape(x.shape)


@pytest.mark.parametrize("steer", [T.SMC(POTENTIAL, REWARD), T.SoftValue(POTENTIAL)], ids=["SMC", "SoftValue"])
@pytest.mark.parametrize("build", [S.ddpm, functools.partial(S.dpmpp, tau=1.0), S.sa_solver])
def test_memory_of_a_population_is_that_of_its_particles(steer, build):
    """P times the memory of one sample, and two blocks of 16 MiB: reordering holds nothing twice. Compiled, not run."""
    plan, size = build(VP, GRID), 2**14
    arrays = lambda *shapes: tuple(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)

    def temporary(count, steer):
        def run(weights, key, x):
            net = js.Denoiser(jax.tree_util.Partial(perceptron, weights), VP)
            return js.sample(key, net, x, plan, steer=steer).x

        weights, (x,) = arrays((size, 2 * size), (2 * size, size)), arrays((count, size) if count else (size,))
        return jax.jit(run).lower(weights, KEY, x).compile().memory_analysis().temp_size_in_bytes

    single = temporary(None, None)
    for count in (512, 2048):
        independent, population = temporary(count, None), temporary(count, steer)
        assert independent <= count * single
        assert population <= 1.001 * independent + 2 * 2**24


ON_TOKENS = ("TrajectoryVariance", "TrajectoryVariance(rows)", "Hooks", "SMC", "SMC(max, stop)", "SoftValue")


@pytest.mark.parametrize("name", STEERS | POPULATIONS)
def test_on_tokens_runs_or_is_refused(name):
    steer, *_ = (STEERS | POPULATIONS)[name]
    decoding = js.tokens.ancestral(js.tokens.Masked(3), np.linspace(1, 0, 7))
    start = jnp.full((3, 4), 3)
    run = lambda x: js.tokens.decode(KEY, lambda x, t: jnp.zeros((4, 3)), x, decoding, steer=steer).x
    if name in ON_TOKENS:
        assert jax.eval_shape(run, start).dtype == start.dtype
    else:
        with pytest.raises(TypeError, match=r"must be a Plan, got Decoding|for plans of Gaussian noise"):
            run(start)
