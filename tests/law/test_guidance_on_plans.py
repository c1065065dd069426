"""Every guidance on every plan: finite, one trace whatever the numbers, off means off, and a batch is a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import WEIGHTS, Traces, assert_same_bits, denoiser

import jsamp as js

D, S, T = js.denoise, js.solve, js.steer
VP = js.noise.VP()
GRID = js.noise.time_grid(VP, 6, 2)
KEY = jax.random.key(5)
X = np.array([0.9, -0.4, 0.2], np.float32)
MASK = np.array([1.0, 0.0, 1.0], np.float32)
Y = np.array([0.3, 0.0, -0.2], np.float32)
OTHER = denoiser(VP, "x0", {"gain": np.float32(-0.3), "bend": np.float32(0.9)})
MODEL = denoiser(VP, "x0")
LAW = D.GaussianMixture(VP, weights=[0.4, 0.6], means=[[0.0, 1.0, 0.0], [1.0, 0.0, -1.0]], stds=[0.5, 0.7])


def logits(x, t):
    return jnp.stack([jnp.sum(x), -jnp.sum(x), jnp.sum(x**2)])


def clean_logits(x0):
    return logits(x0, 0.0)


def misfit(x0):
    return jnp.sum((x0 - Y) ** 2)


def lifted(model, k):
    """A class-conditional family made of one model."""
    return D.ClassifierFree(model, OTHER, 1.0 + 0.5 * k)


# name: (guidance of a model with a strength, the strength that means off)
GUIDANCE = {
    "ClassifierFree": (lambda m, w: D.ClassifierFree(m, OTHER, w), 1.0),
    "Auto": (lambda m, w: D.Auto(m, LAW, w), 1.0),
    "Compose": (lambda m, w: D.Compose([OTHER, LAW], m, [w, -w]), 0.0),
    "Rescale": (lambda m, w: D.Rescale(D.ClassifierFree(m, OTHER, w), 0.7), 1.0),
    "APG": (lambda m, w: D.APG(m, OTHER, w, norm_threshold=0.3, momentum=-0.5), 1.0),
    "CFGZero": (lambda m, w: D.CFGZero(m, OTHER, w), 1.0),
    "Interval": (lambda m, w: D.Interval(D.ClassifierFree(m, OTHER, w), m, 0.05, 5.0), 1.0),
    "GradientFree": (lambda m, w: D.GradientFree(functools.partial(lifted, m), 1, clean_logits, w), None),
    "CFGpp": (lambda m, w: D.CFGpp(OTHER, m, w), 0.0),
    "Classifier": (lambda m, w: D.Classifier(m, logits, 1, w), 0.0),
    "Minority": (lambda m, w: D.Minority(m, logits, 2, w), 0.0),
    "Energy": (lambda m, w: D.Energy(m, misfit, w), 0.0),
    "Energy(x0)": (lambda m, w: D.Energy(m, misfit, w, through="x0"), 0.0),
    "DPS": (lambda m, w: D.DPS(m, D.LinearOp.mask(MASK), Y, w), 0.0),
    "DPS(gaussian)": (lambda m, w: D.DPS(m, D.LinearOp.mask(MASK), Y, w, likelihood="gaussian", noise=0.5), 0.0),
    "PiGDM": (lambda m, w: D.PiGDM(m, D.LinearOp.mask(MASK), Y, noise=w), None),
    "PiGDM(awd)": (lambda m, w: D.PiGDM(m, D.LinearOp.mask(MASK), Y, noise=w, step="awd"), None),
    "TMPD": (lambda m, w: D.TMPD(m, D.LinearOp.mask(MASK), Y, noise=w), None),
    "MMPS": (lambda m, w: D.MMPS(m, D.LinearOp.mask(MASK), Y, noise=w), None),
    "DDNM": (lambda m, w: D.DDNM(m, D.LinearOp.mask(MASK), Y, w), 0.0),
    "Threshold(ClassifierFree)": (lambda m, w: D.Threshold(D.ClassifierFree(m, OTHER, w), limit=100.0), 1.0),
    "Threshold(DPS(ClassifierFree))": (
        lambda m, w: D.Threshold(D.DPS(D.ClassifierFree(m, OTHER, 2.0), D.LinearOp.mask(MASK), Y, w), limit=9.0), None
    ),
}  # fmt: skip


@functools.cache
def groups():
    """Every solver in six steps, stacked by the number of rows: one program for each guidance and group."""
    six = [
        S.ddim(VP, GRID), S.ddim(VP, GRID, eta=1.0), S.ddpm(VP, GRID), S.dpmpp(VP, GRID), S.dpmpp(VP, GRID, order=3),
        S.dpmpp(VP, GRID, variant="reference"), S.dpmpp(VP, GRID, tau=1.0), S.dpm_solver(VP, GRID), S.deis(VP, GRID),
        S.deis(VP, GRID, variable="rho"), S.lms(VP, GRID), S.unipc(VP, GRID), S.unipc(VP, GRID, predicts="eps"),
        S.sa_solver(VP, GRID), S.er_sde(VP, GRID), S.plms(VP, GRID), S.ipndm(VP, GRID), S.ghvb(VP, GRID),
        S.ghvb(VP, GRID, spacing="variable"), S.heavy_ball(S.plms(VP, GRID), 0.8), S.nesterov(S.plms(VP, GRID), 0.8),
        S.dpmpp_single(VP, GRID), S.dpmpp_single(VP, GRID, order=3), S.dpm_single(VP, GRID),
    ]  # fmt: skip
    twelve = [
        S.heun(VP, GRID), S.edm(VP, GRID), S.dpm2(VP, GRID), S.rho_rk(VP, GRID, tableau="2mid"),
        S.concat(S.rho_rk(VP, GRID[:4], tableau="3kutta"), S.unipc(VP, GRID[3:])),
        S.restart(S.ddim(VP, GRID), S.ddim(VP, GRID[1:4]), repeats=3),
    ]  # fmt: skip
    return {"6": S.stack(six), "12": S.stack(twelve)}


@functools.cache
def unguided(rows):
    """What the model alone draws on every plan: one program for all guidances."""
    return jax.jit(jax.vmap(lambda p: js.sample(KEY, MODEL, X, p).x))(groups()[rows])


def steer_of(name):
    return T.Memory() if name == "APG" else None


def draw(name, model, strength, plan, x=X, key=KEY):
    return js.sample(key, GUIDANCE[name][0](model, strength), x, plan, steer=steer_of(name)).x


def test_every_guidance_is_here():
    """Whatever wraps a denoiser and takes a strength or a measurement is run on every plan."""
    wrapped = {name.split("(")[0] for name in GUIDANCE}
    elsewhere = {
        "Bridge",
        "BridgeMixture",
        "Denoiser",
        "Empirical",
        "GaussianMixture",
        "PerStep",
        "Guided",
        "Kick",
        "Prediction",
        "DenoiserLike",
    }
    # Shapes of measurements and rewards, not guidance; the twisted proposal runs with its steer.
    elsewhere |= {"LinearOp", "SVD", "LinearReward", "Reward", "ForwardModel", "Twist", "Twisted", "Batched"}
    # Networks inside a denoiser, and changes of its field: composed with all others in law/test_pairs.py.
    elsewhere |= {"EDM", "Latent", "Gauge", "ConservativePart"}
    # A law of times and what it found: quantised denoisers are denoisers, with tests of their own.
    elsewhere |= {"Normal", "Ranges"}
    classes = {name for name in D.__all__ if isinstance(getattr(D, name), type)}
    assert classes - elsewhere <= wrapped


# One guidance for each way of acting: on the rate by contrast, by a memory, by rows, by a gradient, by a solve, by a kick.
COMPILED = ["ClassifierFree", "APG", "Interval", "CFGpp", "GradientFree", "Classifier", "DPS", "TMPD",
            "Threshold(DPS(ClassifierFree))"]  # fmt: skip


@pytest.mark.parametrize("name", GUIDANCE)
def test_traces_once_on_every_plan(name):
    """A new scale, plan values, start and key are data."""
    plans, traces = groups()["6"], Traces()
    model = js.Denoiser(traces.bind(WEIGHTS), VP, predicts="x0")
    run = jax.jit(lambda key, model, w, plans, x: jax.vmap(lambda p: draw(name, model, w, p, x, key))(plans))
    assert run.lower(KEY, model, 0.6, plans, X).out_info.shape == (24, 3)
    count = traces.count
    run.lower(jax.random.key(6), model, 0.8, jax.tree.map(np.copy, plans), 1.1 * X)
    assert traces.count == count


@pytest.mark.parametrize(
    ("name", "rows"),
    [*((name, "6") for name in COMPILED), *(pytest.param(name, "12", marks=pytest.mark.slow) for name in GUIDANCE),
     *(pytest.param(name, "6", marks=pytest.mark.slow) for name in GUIDANCE if name not in COMPILED)],
)  # fmt: skip
def test_on_every_plan(name, rows):
    plans, traces = groups()[rows], Traces()
    model = js.Denoiser(traces.bind(WEIGHTS), VP, predicts="x0")
    run = jax.jit(lambda key, model, w, plans, x: jax.vmap(lambda p: draw(name, model, w, p, x, key))(plans))
    first = run(KEY, model, 0.6, plans, X)
    count = traces.count
    assert np.all(np.isfinite(first))
    # A new scale, plan values, start and key are data.
    moved = run(jax.random.key(6), model, 0.8, jax.tree.map(np.copy, plans), 1.1 * X)
    assert traces.count == count
    assert not np.array_equal(first, moved)
    off = GUIDANCE[name][1]
    if off is not None:
        np.testing.assert_allclose(run(KEY, model, off, plans, X), unguided(rows), rtol=2e-5, atol=2e-6)


PLAIN = S.dpmpp(VP, GRID[:3])


@pytest.mark.parametrize("name", [name for name in GUIDANCE if GUIDANCE[name][1] is not None])
def test_off_is_off_bit_for_bit(name):
    """Op by op, the strength that means off adds exact zeros; compiled, two programs may round differently."""
    with jax.disable_jit():
        got = draw(name, MODEL, GUIDANCE[name][1], PLAIN)
        base = js.sample(KEY, MODEL, X, PLAIN).x
    assert_same_bits(got, base)


@pytest.mark.parametrize("name", GUIDANCE)
def test_a_batch_is_a_loop(name):
    starts = np.stack([X, 0.5 * X, -X])
    run = lambda x: draw(name, OTHER, 0.6, PLAIN, x)
    together, one = jax.jit(jax.vmap(run))(starts), jax.jit(run)
    for x, got in zip(starts, together, strict=True):
        np.testing.assert_allclose(got, one(x), rtol=2e-5, atol=2e-6)
