"""The laws of the house for every public object of jsamp.mcmc."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import mcmc
from jsamp.mcmc import _drive

SCALE = jnp.array([0.5, 1.0, 2.0])
DATA = jnp.linspace(-1.0, 1.0, 12)
GRAPH = mcmc.walk_graph(np.array([[0.5, 0.5, 0, 0], [0.25, 0.5, 0.25, 0], [0, 0.25, 0.5, 0.25], [0, 0, 0.5, 0.5]]))


def logdensity(x):
    return -jnp.sum((x / SCALE.astype(x.dtype)) ** 2) / 2


def score(x):
    return -x / SCALE.astype(x.dtype) ** 2


def joint(z):
    return -jnp.sum(z["a"] ** 2) - jnp.sum((z["a"] - z["b"]) ** 2)


def noised(x, sigma):
    variance = 1 + sigma**2
    return jnp.sum(-(x**2) / variance / 2 - jnp.log(variance) / 2)


def noised_score(x, sigma):
    return -x / (1 + sigma**2)


START = jnp.array([0.3, -0.2, 0.5])
PAIR = {"a": jnp.array(0.3), "b": jnp.array([0.1])}
PAIR_JOINT = {"a": jnp.array([0.3]), "b": jnp.array([0.1])}
MINIBATCH = mcmc.MinibatchScore(lambda x: -jnp.sum(x**2) / 2, lambda x, y: -jnp.sum((y - x) ** 2) / 2, 12)
SIGMAS = jnp.geomspace(0.1, 10.0, 20)


@dataclasses.dataclass
class Kernel:
    """How to build a kernel, where it starts, and what holds for it."""

    make: Any
    x: Any = dataclasses.field(default_factory=lambda: START)
    bf16: str = "refused"  # or "kept", or "no" when the position is not floating
    smooth: bool = False  # gradients with respect to its numbers exist
    bad: tuple = ()


def target(cls, **options):
    return lambda: cls(logdensity, **options)


STEP = (lambda cls: lambda: cls(logdensity, step_size=0.0), lambda cls: lambda: cls(logdensity, step_size=-1.0))


def bad(cls):
    return (
        lambda: cls(logdensity, step_size=0.0),
        lambda: cls(logdensity, step_size=float("nan")),
        lambda: cls("no function", step_size=0.1),
        lambda: cls(logdensity, metric=jnp.ones(2)).init(START),
        lambda: cls(logdensity, metric=-jnp.ones(3)),
        lambda: cls(logdensity).init(jnp.arange(3)),
        lambda: cls(logdensity).init(jnp.zeros((0,))),
    )


def metropolis(cls, **options):
    return Kernel(target(cls, **options), bad=bad(cls))


def unadjusted(cls, **options):
    both = (lambda: cls(logdensity, score=score), lambda: cls())
    return Kernel(target(cls, **options), bf16="kept", smooth=True, bad=(*bad(cls), *both))


def text(function):
    """A public function or type that is no kernel: a call that must give finite numbers."""
    return function


REGISTRY: dict[str, Any] = {
    "ULA": unadjusted(mcmc.ULA, step_size=0.05, metric=SCALE**2),
    "MALA": metropolis(mcmc.MALA, step_size=0.2, metric=SCALE**2),
    "Barker": metropolis(mcmc.Barker, step_size=0.4),
    "HMC": metropolis(mcmc.HMC, step_size=0.3, metric=SCALE**2),
    "NUTS": metropolis(mcmc.NUTS, step_size=0.3, max_depth=5),
    "BAOAB": unadjusted(mcmc.BAOAB, step_size=0.3),
    "OBABO": unadjusted(mcmc.OBABO, step_size=0.3, metric=SCALE**2),
    "GHMC": metropolis(mcmc.GHMC, step_size=0.3),
    "MCLMC": Kernel(
        target(mcmc.MCLMC, step_size=0.3),
        bf16="skip",
        smooth=True,
        bad=(*bad(mcmc.MCLMC), lambda: mcmc.MCLMC(logdensity).init(jnp.zeros(1))),
    ),
    "RandomWalk": metropolis(mcmc.RandomWalk, step_size=0.5),
    "IndependentMH": Kernel(
        lambda: mcmc.IndependentMH(logdensity, _wide, lambda x: logdensity(x) / 1.44),
        bad=(
            lambda: mcmc.IndependentMH(logdensity, None, logdensity),
            lambda: mcmc.chain(
                jax.random.key(0), mcmc.IndependentMH(logdensity, lambda key: jnp.zeros(2), logdensity), START, 1
            ),
        ),
    ),
    "Slice": Kernel(target(mcmc.Slice), bad=(lambda: mcmc.Slice(logdensity, width=0.0),)),
    "EllipticalSlice": Kernel(
        lambda: mcmc.EllipticalSlice(logdensity, covariance=SCALE), bad=(lambda: mcmc.EllipticalSlice(None),)
    ),
    "SGLD": Kernel(
        lambda: mcmc.SGLD(MINIBATCH, DATA, step_size=1e-2, batch_size=4),
        bf16="kept",
        smooth=True,
        bad=(lambda: mcmc.SGLD(MINIBATCH, DATA, step_size=0.0), lambda: mcmc.SGLD(MINIBATCH, DATA, temperature=-1.0)),
    ),
    "pSGLD": Kernel(
        lambda: mcmc.pSGLD(MINIBATCH, DATA, step_size=1e-2, batch_size=4),
        bf16="kept",
        smooth=True,
        bad=(lambda: mcmc.pSGLD(MINIBATCH, DATA, rate=1.0), lambda: mcmc.pSGLD(MINIBATCH, DATA, floor=0.0)),
    ),
    "SGHMC": Kernel(
        lambda: mcmc.SGHMC(MINIBATCH, DATA, step_size=1e-2, batch_size=4),
        bf16="kept",
        smooth=True,
        bad=(lambda: mcmc.SGHMC(MINIBATCH, DATA, friction=0.1, noise=0.2), lambda: mcmc.SGHMC(None, DATA)),
    ),
    "Corrector": Kernel(
        lambda: mcmc.Corrector(noised_score, 0.5),
        bf16="kept",
        smooth=True,
        bad=(lambda: mcmc.Corrector(noised_score, 0.5, snr=0.0),),
    ),
    "compose": Kernel(
        lambda: mcmc.compose(mcmc.MALA(logdensity), mcmc.RandomWalk(logdensity), mcmc.NUTS(logdensity, max_depth=3)),
        bad=(lambda: mcmc.compose(), lambda: mcmc.compose("kernel")),
    ),
    "cycle": Kernel(
        lambda: mcmc.cycle(mcmc.MALA(logdensity), mcmc.RandomWalk(logdensity)), bad=(lambda: mcmc.cycle(),)
    ),
    "mixture": Kernel(
        lambda: mcmc.mixture([0.3, 0.7], [mcmc.MALA(logdensity), mcmc.RandomWalk(logdensity)]),
        bad=(
            lambda: mcmc.mixture([1.0], [mcmc.MALA(logdensity)] * 2),
            lambda: mcmc.mixture([-1.0, 2.0], [mcmc.MALA(logdensity)] * 2),
        ),
    ),
    "repeat": Kernel(
        lambda: mcmc.repeat(mcmc.MALA(logdensity), 3), bad=(lambda: mcmc.repeat(mcmc.MALA(logdensity), 0),)
    ),
    "on": Kernel(
        lambda: mcmc.on(mcmc.MALA(joint), "a"),
        PAIR_JOINT,
        bad=(lambda: mcmc.on(mcmc.Gibbs(lambda k, z: z["a"], "a"), "a"),),
    ),
    "Gibbs": Kernel(
        lambda: mcmc.Gibbs(lambda k, z: z["b"] + jax.random.normal(k, (1,), z["b"].dtype), "a"),
        PAIR_JOINT,
        "no",
        bad=(lambda: mcmc.Gibbs(1.0, "a"),),
    ),
    "ensemble": Kernel(
        lambda: mcmc.ensemble(mcmc.MALA(logdensity)),
        jnp.stack([START, -START]),
        bad=(lambda: mcmc.ensemble(None), lambda: mcmc.ensemble(mcmc.MALA(logdensity)).init(jnp.zeros(()))),
    ),
    "tempered": Kernel(
        lambda: mcmc.tempered(mcmc.MALA(logdensity), 0.5), bad=(lambda: mcmc.tempered(mcmc.MALA(logdensity), -0.5),)
    ),
    "ParallelTempering": Kernel(
        lambda: mcmc.ParallelTempering(mcmc.MALA(logdensity), jnp.array([1.0, 0.5, 0.2])),
        jnp.stack([START] * 3),
        bad=(
            lambda: mcmc.ParallelTempering(mcmc.MALA(logdensity), jnp.array([0.5, 1.0])),
            lambda: mcmc.ParallelTempering(mcmc.MALA(logdensity), jnp.array([1.0])),
            lambda: mcmc.ParallelTempering(mcmc.MALA(logdensity), jnp.array([1.0, 0.5])).init(START),
        ),
    ),
    "metropolize": Kernel(
        lambda: mcmc.metropolize(mcmc.RandomWalk(logdensity), score=score, nodes=3),
        bad=(
            lambda: mcmc.metropolize(mcmc.RandomWalk(logdensity)),
            lambda: mcmc.metropolize(mcmc.RandomWalk(logdensity), logdensity, score=score),
            lambda: mcmc.metropolize(mcmc.RandomWalk(logdensity), score=score, nodes=0),
        ),
    ),
    "AutoencoderMH": Kernel(
        lambda: mcmc.AutoencoderMH(lambda x: 0.8 * x, sigma=0.5),
        bad=(
            lambda: mcmc.AutoencoderMH(lambda x: x, sigma=0.0),
            lambda: mcmc.AutoencoderMH(lambda x: x, sigma=1.0, nodes=0),
            lambda: mcmc.chain(jax.random.key(0), mcmc.AutoencoderMH(lambda x: x[:1], sigma=1.0), START, 1),
        ),
    ),
    "DenoisingLangevinGibbs": Kernel(
        lambda: mcmc.DenoisingLangevinGibbs(sigmas=SIGMAS, logdensity=noised, skip=2),
        mcmc.Noised(START, jnp.array(1.0)),
        bad=(
            lambda: mcmc.DenoisingLangevinGibbs(logdensity=noised),
            lambda: mcmc.DenoisingLangevinGibbs(sigmas=jnp.array([1.0, 3.0, 2.0]), logdensity=noised),
            lambda: mcmc.DenoisingLangevinGibbs(sigmas=jnp.array([1.0, 0.0]), logdensity=noised),
            lambda: mcmc.DenoisingLangevinGibbs(sigmas=SIGMAS),
            lambda: mcmc.DenoisingLangevinGibbs(noised_score, SIGMAS),
            lambda: mcmc.DenoisingLangevinGibbs(sigmas=SIGMAS, logdensity=noised, skip=0),
            lambda: mcmc.DenoisingLangevinGibbs(sigmas=SIGMAS, logdensity=noised, select="best"),
            lambda: mcmc.chain(
                jax.random.key(0),
                mcmc.DenoisingLangevinGibbs(noised_score, SIGMAS, posterior=lambda x: jnp.zeros(3)),
                mcmc.Noised(START, 1.0),
                1,
            ),
            lambda: mcmc.DenoisingLangevinGibbs(sigmas=SIGMAS, logdensity=noised).init(mcmc.Noised(START, 0.0)),
        ),
    ),
    "SelfRepellentWalk": Kernel(
        lambda: mcmc.SelfRepellentWalk(GRAPH, alpha=2.0),
        jnp.array(1, jnp.int32),
        "no",
        bad=(
            lambda: mcmc.SelfRepellentWalk(GRAPH, alpha=-1.0),
            lambda: mcmc.SelfRepellentWalk(GRAPH, decay=0.5),
            lambda: mcmc.SelfRepellentWalk(None),
            lambda: mcmc.SelfRepellentWalk(GRAPH).init(9),
        ),
    ),
    "HistoryDrivenWalk": Kernel(
        lambda: mcmc.HistoryDrivenWalk(GRAPH, alpha=2.0),
        jnp.array(1, jnp.int32),
        "no",
        bad=(lambda: mcmc.HistoryDrivenWalk(GRAPH, alpha=-1.0),),
    ),
    "TokenSGD": Kernel(
        lambda: mcmc.TokenSGD(mcmc.SelfRepellentWalk(GRAPH, decay=0.6), lambda theta, node: theta - node),
        mcmc.Token(jnp.array(1, jnp.int32), jnp.array(0.0)),
        "no",
        bad=(lambda: mcmc.TokenSGD(mcmc.SelfRepellentWalk(GRAPH), lambda t, n: t, decay=0.4),),
    ),
    # What `compose` and its like return, under their own names.
    "Compose": Kernel(lambda: mcmc.Compose((mcmc.MALA(logdensity), mcmc.MALA(logdensity, step_size=0.3)))),
    "Select": Kernel(lambda: mcmc.Select((mcmc.MALA(logdensity), mcmc.RandomWalk(logdensity)))),
    "Repeat": Kernel(lambda: mcmc.Repeat(mcmc.RandomWalk(logdensity), 2)),
    "On": Kernel(lambda: mcmc.On(mcmc.RandomWalk(joint), ("b",)), PAIR_JOINT),
    "Ensemble": Kernel(lambda: mcmc.Ensemble(mcmc.HMC(logdensity, step_size=0.3)), jnp.stack([START, -START])),
    "Metropolized": Kernel(lambda: mcmc.Metropolized(mcmc.RandomWalk(logdensity), jax.tree_util.Partial(logdensity))),
    # Functions and types: a call that must give finite numbers.
    "chain": text(lambda key: mcmc.chain(key, mcmc.MALA(logdensity), START, 3, thin=2, burn=1).x),
    "stream": text(lambda key: [r.x for r in mcmc.stream(key, mcmc.MALA(logdensity), START, 3, chunk=2)]),
    "ChainInfo": text(lambda key: mcmc.chain(key, mcmc.MALA(logdensity), START, 3).info),
    "ChainState": text(lambda key: mcmc.chain(key, mcmc.MALA(logdensity), START, 3).info.state),
    "Info": text(lambda key: mcmc.MALA(logdensity).step(key, mcmc.MALA(logdensity).init(START))[1]),
    "State": text(lambda key: mcmc.MALA(logdensity).init(START)),
    "HMCInfo": text(lambda key: mcmc.HMC(logdensity).step(key, mcmc.HMC(logdensity).init(START))[1].aux),
    "SliceInfo": text(lambda key: mcmc.Slice(logdensity).step(key, mcmc.Slice(logdensity).init(START))[1].aux),
    "SwapInfo": text(lambda key: mcmc.SwapInfo(jnp.ones(2), jnp.arange(2))),
    "Kernel": text(lambda key: jnp.asarray(isinstance(mcmc.MALA(logdensity), mcmc.Kernel))),
    "Noised": text(lambda key: mcmc.Noised(START, 1.0)),
    "Token": text(lambda key: mcmc.Token(0, START)),
    "WalkGraph": text(lambda key: GRAPH.log_mu),
    "DenseMetric": text(
        lambda key: mcmc.chain(key, mcmc.MALA(logdensity, metric=mcmc.DenseMetric(jnp.eye(3))), START, 3).x
    ),
    "Conditional": text(lambda key: mcmc.Conditional(joint, PAIR_JOINT, ("a",))(jnp.zeros(1))),
    "Tempered": text(lambda key: mcmc.Tempered(logdensity, 0.5, logdensity)(START)),
    "MinibatchScore": text(lambda key: MINIBATCH(START, DATA)),
    "Moments": text(lambda key: mcmc.chain(key, mcmc.MALA(logdensity), START, 5, reduce=(mcmc.Moments(),)).info),
    "MomentsValue": text(lambda key: mcmc.MomentsValue(1, START, START)),
    "OnlineRhat": text(
        lambda key: (
            mcmc.chain(
                key, mcmc.ensemble(mcmc.MALA(logdensity)), jnp.stack([START, -START]), 9, reduce=(mcmc.OnlineRhat(),)
            ).info
        )
    ),
    "ReconstructionScore": text(lambda key: mcmc.ReconstructionScore(lambda x: 0.8 * x, 0.5)(START)),
    "NoisedScore": text(lambda key: mcmc.NoisedScore(_denoiser())(START, 0.5)),
    "EvidenceInfo": text(lambda key: _smc(key).info),
    "smc": text(lambda key: _smc(key).x),
    "ais": text(
        lambda key: mcmc.ais(
            key, mcmc.MALA(logdensity), jax.random.normal(key, (8, 3)), jnp.linspace(0, 1, 4), reference=logdensity
        )
    ),
    "annealed": text(lambda key: mcmc.annealed(key, noised_score, START, jnp.array([2.0, 1.0, 0.1]), steps=3)),
    "refresh": text(lambda key: mcmc.refresh(mcmc.MALA(logdensity), START, mcmc.MALA(logdensity).init(2 * START))),
    "tune": text(lambda key: mcmc.tune(key, mcmc.MALA(logdensity), START, 30)),
    "picked": text(lambda key: mcmc.picked(None, mcmc.Info(1.0, 1, False, mcmc.Noised(START, 1.0)))),
    "walk_graph": text(lambda key: mcmc.walk_graph(np.full((3, 3), 1 / 3)).log_mu),
    "walk_variance": text(lambda key: mcmc.walk_variance(np.full((3, 3), 1 / 3), np.array([1.0, 0, -1]))),
    "save": text(lambda key: _roundtrip(key)),
    "load": text(lambda key: _roundtrip(key)),
    "from_numpyro": text(lambda key: _numpyro().x),
    "NumpyroModel": text(lambda key: _numpyro().constrain(_numpyro().x)),
    "to_arviz": text(lambda key: _arviz()),
}

# Every kernel obeys every law; the two laws that compile most run on all of them only in the slow suite.
QUICK = ("MALA", "HMC", "NUTS", "BAOAB", "compose", "DenoisingLangevinGibbs", "SelfRepellentWalk", "SGLD")

KERNELS = {name: case for name, case in REGISTRY.items() if isinstance(case, Kernel)}
CALLS = {name: case for name, case in REGISTRY.items() if not isinstance(case, Kernel)}


def _wide(key):
    return 1.2 * SCALE * jax.random.normal(key, (3,), jnp.float32)


def _smc(key):
    return mcmc.smc(key, mcmc.MALA(logdensity), jax.random.normal(key, (8, 3)), reference=logdensity, max_levels=4)


def _denoiser():
    from jsamp import denoise, noise

    return denoise.GaussianMixture(noise.VE(), weights=[1.0], means=[[0.0, 0.0, 0.0]], stds=[1.0])


def _roundtrip(key):
    import pathlib
    import tempfile

    state = mcmc.chain(key, mcmc.BAOAB(logdensity), START, 3).info.state
    with tempfile.TemporaryDirectory() as folder:
        mcmc.save(pathlib.Path(folder) / "run", state)
        again = mcmc.load(pathlib.Path(folder) / "run", mcmc.BAOAB(logdensity), START)
    assert all(map(np.array_equal, jax.tree.leaves(state), jax.tree.leaves(again)))
    return again


def _numpyro():
    numpyro = pytest.importorskip("numpyro")

    def model(y):
        mean = numpyro.sample("mean", numpyro.distributions.Normal(0.0, 1.0))
        numpyro.sample("y", numpyro.distributions.Normal(mean, 1.0), obs=y)

    return mcmc.from_numpyro(model, jnp.ones(3))


def _arviz():
    pytest.importorskip("arviz")
    return mcmc.to_arviz({"a": jnp.ones((2, 5))}).posterior["a"].values


def run(kernel, x, num=4, key=0):
    return mcmc.chain(jax.random.key(key), kernel, x, num).x


def close(a, b, tol=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=tol, atol=tol)


def test_every_public_name_is_registered():
    assert set(mcmc.__all__) <= set(REGISTRY)
    assert all(hasattr(mcmc, name) for name in mcmc.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_finite(name):
    for leaf in jax.tree.leaves(CALLS[name](jax.random.key(3))):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            assert np.all(np.isfinite(leaf)), name


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_laws(name):
    case = KERNELS[name]
    kernel, x, key = case.make(), case.x, jax.random.key(0)
    assert isinstance(kernel, mcmc.Kernel)
    draws = run(kernel, x)

    # Same key, same bits; another key, another draw.
    assert all(map(np.array_equal, jax.tree.leaves(draws), jax.tree.leaves(run(kernel, x))))
    other = run(kernel, x, key=5)
    assert not all(map(np.array_equal, jax.tree.leaves(draws), jax.tree.leaves(other)))

    # The driver is the kernel's own steps, one fold of the key each.
    state = _drive.start(kernel, x, jax.random.fold_in(key, _drive.INIT))
    step = jax.jit(kernel.step)
    for i in range(2):
        state, info = step(jax.random.fold_in(key, i), state)
        close(state.position, jax.tree.map(lambda a, i=i: a[i], draws))
    assert info.nfe.dtype == jnp.int32
    assert info.diverged.dtype == bool
    assert not info.diverged

    # An outer jit and vmap change nothing.
    keys = jax.random.split(key, 2)
    many = jax.jit(jax.vmap(lambda k: mcmc.chain(k, kernel, x, 4).x))(keys)
    for i in range(2):
        close(mcmc.chain(keys[i], kernel, x, 4).x, jax.tree.map(lambda a, i=i: a[i], many))

    # Shapes and dtypes of the position are kept.
    for got, want in zip(jax.tree.leaves(draws), jax.tree.leaves(x), strict=True):
        assert got.shape == (4, *want.shape)
        assert got.dtype == want.dtype


@pytest.mark.parametrize("name", KERNELS)
def test_new_numbers_do_not_retrace(name):
    kernel, x = KERNELS[name].make(), KERNELS[name].x
    run(kernel, x)
    before = _drive.advance._cache_size()
    moved = jax.tree.map(lambda a: a * 0.97 if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a, kernel)
    run(moved, x)
    assert _drive.advance._cache_size() == before


def all_kernels():
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KERNELS]


@pytest.mark.parametrize("name", all_kernels())
def test_double_precision(name, x64):
    kernel, x = KERNELS[name].make(), KERNELS[name].x
    wide = jax.tree.map(lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, x)
    for start in (x, wide):
        for got, want in zip(jax.tree.leaves(run(kernel, start, 2)), jax.tree.leaves(start), strict=True):
            assert got.dtype == want.dtype


@pytest.mark.parametrize("name", [n for n, c in KERNELS.items() if c.bf16 in ("refused", "kept")])
def test_half_precision(name):
    case = KERNELS[name]
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.ndim else a, case.x)
    if case.bf16 == "refused":
        with pytest.raises(TypeError, match="float32"):
            run(case.make(), half, 2)
    else:
        draws = run(case.make(), half, 2)
        assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(draws))
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(draws))


@pytest.mark.parametrize("name", [n for n, c in KERNELS.items() if c.smooth])
def test_gradients_are_finite(name):
    kernel, x = KERNELS[name].make(), KERNELS[name].x
    field = "snr" if name == "Corrector" else "step_size"

    def total(number):
        return jnp.sum(mcmc.chain(jax.random.key(0), dataclasses.replace(kernel, **{field: number}), x, 5).x)

    slope = jax.grad(total)(jnp.asarray(getattr(kernel, field)))
    assert np.isfinite(slope)
    assert slope != 0


@pytest.mark.parametrize("name", all_kernels())
def test_inside_shard_map(name):
    kernel, x = KERNELS[name].make(), KERNELS[name].x
    mesh = jax.make_mesh((2,), ("chain",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    keys = jax.random.split(jax.random.key(0), 2)

    def body(keys, x):
        return jax.tree.map(lambda a: a[None], mcmc.chain(keys[0], kernel, x, 4).x)

    spec = jax.sharding.PartitionSpec
    out = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=(spec("chain"), spec()), out_specs=spec("chain")))(keys, x)
    for i in range(2):
        close(jax.tree.map(lambda a, i=i: a[i], out), mcmc.chain(keys[i], kernel, x, 4).x)


BAD = [(name, i) for name, case in KERNELS.items() for i in range(len(case.bad))]


@pytest.mark.parametrize(("name", "i"), BAD)
def test_bad_input_is_refused(name, i):
    with pytest.raises((ValueError, TypeError)):
        KERNELS[name].bad[i]()


def test_the_door_of_the_drivers():
    kernel, key = mcmc.MALA(logdensity), jax.random.key(0)
    for wrong in (None, 0, jnp.zeros(2), jax.random.split(key)):
        with pytest.raises((ValueError, TypeError), match="key"):
            mcmc.chain(wrong, kernel, START, 3)
    with pytest.raises(TypeError, match="init"):
        mcmc.chain(key, logdensity, START, 3)
    with pytest.raises(ValueError, match="log-density at the start"):
        mcmc.chain(key, mcmc.MALA(lambda x: jnp.sum(jnp.log(x))), jnp.zeros(3), 3)
    for chains, x in ((None, jnp.zeros(3)), (2, jnp.stack([jnp.ones(3), jnp.zeros(3)]))):
        with pytest.raises(ValueError, match="log-density at the start"):
            mcmc.tune(key, mcmc.MALA(_positive), x, 5, chains=chains)
    with pytest.raises(ValueError, match="log-density at the start"):
        list(mcmc.stream(key, mcmc.RandomWalk(_positive), jnp.zeros(3), 3))
    for wrong in ({"num": 0}, {"num": 3, "thin": 0}, {"num": 3, "burn": -1}):
        with pytest.raises(ValueError, match="must be"):
            mcmc.chain(key, kernel, START, **wrong)
    with pytest.raises(TypeError, match="one scalar"):
        mcmc.chain(key, mcmc.MALA(lambda x: -(x**2)), START, 3)
    with pytest.raises(ValueError, match="DenseMetric"):
        mcmc.DenseMetric(jnp.ones(3))
    with pytest.raises(ValueError, match="positive definite"):
        mcmc.DenseMetric(-jnp.eye(2))
    with pytest.raises(TypeError, match="no acceptance"):
        mcmc.tune(key, mcmc.ULA(logdensity), START)
    with pytest.raises(ValueError, match="betas"):
        mcmc.ais(key, kernel, jnp.zeros((4, 3)), jnp.array([0.0, 0.5]), reference=logdensity)
    with pytest.raises(ValueError, match="particles"):
        mcmc.smc(key, kernel, jnp.zeros(()), reference=logdensity)
    with pytest.raises(ValueError, match="decrease"):
        mcmc.annealed(key, noised_score, START, jnp.array([1.0, 2.0]))
    for wrong in (np.ones((2, 2)), np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]), np.ones(3)):
        with pytest.raises(ValueError, match="walk_graph"):
            mcmc.walk_graph(wrong)


def _positive(x):
    return jnp.sum(jnp.log(x))


def test_a_trace_per_kernel():
    count = [0]

    def counted(x):
        count[0] += 1
        return -jnp.sum(x**2) / 2

    for make in (mcmc.MALA, mcmc.HMC, mcmc.NUTS, mcmc.GHMC, mcmc.BAOAB, mcmc.MCLMC, mcmc.RandomWalk, mcmc.Slice):
        count[0] = 0
        mcmc.chain(jax.random.key(0), make(lambda x: counted(x)), START, 3)
        assert count[0] == 1, make.__name__


def test_data_are_leaves():
    before = None
    for data in (jnp.ones(3), 2 * jnp.ones(3)):
        kernel = mcmc.MALA(jax.tree_util.Partial(_misfit, data))
        mcmc.chain(jax.random.key(0), kernel, START, 3)
        before = before or _drive.advance._cache_size()
    assert _drive.advance._cache_size() == before


def _misfit(data, x):
    return -jnp.sum((x - data) ** 2)
