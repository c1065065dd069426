"""The laws of the house for every public object of jsamp.mcmc."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, pairs

import jsamp as js
from jsamp import mcmc

KEY = jax.random.key(0)
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


def positive(x):
    return jnp.sum(jnp.log(x))


def wide(key):
    return 1.2 * SCALE * jax.random.normal(key, (3,), jnp.float32)


def narrower(x):
    return logdensity(x) / 1.44


def scaled(x):
    return 0.8 * x


def conditional(key, z):
    return z["b"] + jax.random.normal(key, (1,), z["b"].dtype)


def slope_at(theta, node):
    return theta - node


START = jnp.array([0.3, -0.2, 0.5])
PAIR = {"a": jnp.array([0.3]), "b": jnp.array([0.1])}
MINIBATCH = mcmc.MinibatchScore(lambda x: -jnp.sum(x**2) / 2, lambda x, y: -jnp.sum((y - x) ** 2) / 2, 12)
SIGMAS = jnp.geomspace(0.1, 10.0, 20)
NODE = jnp.array(1, jnp.int32)


def run(kernel, key, x):
    return mcmc.chain(key, kernel, x, 4).x


def kernel(build, x=START, **options):
    options = {"dtypes": "refused", **options}
    return Case(build, (x,), call=run, stochastic=True, **options)


def of(cls, **options):
    return lambda: cls(logdensity, **options)


def bad(cls, *more):
    name = cls.__name__
    return [
        (lambda: cls(logdensity, step_size=0.0), f"{name}: step_size must be finite"),
        (lambda: cls(logdensity, step_size=float("nan")), f"{name}: step_size must be finite"),
        (lambda: cls(logdensity, step_size=[0.1, 0.2]).init(START), f"{name}: step_size must be one number"),
        (lambda: cls("no function"), f"{name}: logdensity must be callable"),
        (lambda: cls(logdensity, metric=jnp.ones(2)).init(START), f"{name}: metric must be a tree like x"),
        (lambda: cls(logdensity, metric=-jnp.ones(3)), f"{name}: metric must be finite and in"),
        (lambda: cls(logdensity, metric=mcmc.DenseMetric(jnp.eye(2))).init(START), name),
        (lambda: cls(logdensity).init(jnp.arange(3)), f"{name}: x must be floating"),
        (lambda: cls(logdensity).init(jnp.zeros((0,))), f"{name}: x has a leaf of shape"),
        *more,
    ]


def metropolis(cls, mechanism, *more, **options):
    return kernel(of(cls, **options), mechanism=mechanism, refusals=bad(cls, *more))


def unadjusted(cls, mechanism, **options):
    name = cls.__name__
    more = [
        (lambda: cls(logdensity, score=score), f"{name}: give exactly one"),
        (lambda: cls(), f"{name}: give exactly one"),
        (lambda: cls(score=lambda x: x[:1]).init(START), f"{name}: the score must have the shape of x"),
    ]
    return kernel(of(cls, **options), mechanism=mechanism, dtypes="kept", smooth=True, refusals=bad(cls, *more))


def minibatch(cls, *more, **options):
    name = cls.__name__
    uneven = {"x": jnp.zeros(10), "y": jnp.zeros(5)}
    refusals = [
        (lambda: cls(MINIBATCH, DATA, step_size=0.0), f"{name}: step_size"),
        (lambda: cls(MINIBATCH, DATA, temperature=-1.0), f"{name}: temperature"),
        (lambda: cls(None, DATA), f"{name}: score must be callable"),
        (lambda: cls(MINIBATCH, uneven, batch=2), f"{name}: data: every leaf needs the same leading axis"),
        (lambda: cls(MINIBATCH, DATA, batch=0), f"{name}: batch"),
        (lambda: cls(MINIBATCH, DATA, decay=-1.0), f"{name}: decay"),
        *more,
    ]
    build = lambda: cls(MINIBATCH, DATA, step_size=1e-2, batch=4, **options)
    return kernel(build, dtypes="kept", smooth=True, mechanism="minibatch", refusals=refusals)


def walk(cls):
    name = cls.__name__
    refusals = [
        (lambda: cls(GRAPH, alpha=-1.0), f"{name}: alpha"),
        (lambda: cls(GRAPH, decay=0.5), f"{name}: decay"),
        (lambda: cls(None), f"{name}: graph must be a WalkGraph"),
        (lambda: cls(GRAPH).init(9), f"{name}: x, a node, must be"),
        (lambda: js.chain(KEY, cls(GRAPH), 9, 3), f"{name}: x, a node, must be"),
        (lambda: cls(GRAPH).init(1.0), f"{name}: x must be a node"),
        (lambda: cls(GRAPH).init(jnp.array([0, 1])), f"{name}: x must be one node"),
    ]
    return kernel(lambda: cls(GRAPH, alpha=2.0), NODE, dtypes=None, mechanism="walk", refusals=refusals)


def latent(**options):
    return mcmc.DenoisingLangevinGibbs(sigmas=SIGMAS, logdensity=noised, **options)


def populated(sampler, **options):
    def call(kernel, key, x):
        return sampler(key, kernel, x, reference=logdensity, **options)

    return call


def record(build, **options):
    return Case(lambda: build, (START,), call=lambda thing, key, x: thing(x), **options)


PARTICLES = jnp.stack([START * c for c in (1.0, -1.0, 0.5, 2.0)])


def level(betas):
    return lambda: mcmc.ParallelTempering(mcmc.MALA(logdensity), betas)


REGISTRY = {
    "ULA": unadjusted(mcmc.ULA, "langevin", step_size=0.05, metric=SCALE**2),
    "MALA": metropolis(mcmc.MALA, "accept", step_size=0.2, metric=SCALE**2),
    "Barker": metropolis(
        mcmc.Barker,
        "accept",
        (lambda: mcmc.Barker(logdensity, metric=mcmc.DenseMetric(jnp.eye(3))), "Barker: the move is per coordinate"),
        step_size=0.4,
    ),
    "HMC": metropolis(
        mcmc.HMC,
        "trajectory",
        (lambda: mcmc.HMC(logdensity, jitter="no"), "HMC: jitter must be True or False"),
        (lambda: mcmc.HMC(logdensity, length=0.0), "HMC: length"),
        (lambda: mcmc.HMC(logdensity, max_steps=0), "HMC: max_steps"),
        step_size=0.3,
        metric=SCALE**2,
    ),
    "MAMS": metropolis(
        mcmc.MAMS,
        "trajectory",
        (lambda: mcmc.MAMS(logdensity, jitter="no"), "MAMS: jitter must be True or False"),
        (lambda: mcmc.MAMS(logdensity, length=0.0), "MAMS: length"),
        (lambda: mcmc.MAMS(logdensity, max_steps=0), "MAMS: max_steps"),
        (lambda: mcmc.MAMS(logdensity).init(jnp.zeros(1)), "MAMS: the target needs at least two"),
        step_size=0.3,
        metric=SCALE**2,
    ),
    "DiscreteLangevin": kernel(
        lambda: mcmc.DiscreteLangevin(logdensity, step_size=0.5, low=-3.0, high=3.0, reach=2),
        jnp.array([0, 1, -2]),
        dtypes=None,
        refusals=[
            (lambda: mcmc.DiscreteLangevin(logdensity, step_size=0.0), "DiscreteLangevin: step_size must be finite"),
            (lambda: mcmc.DiscreteLangevin(logdensity, reach=0), "DiscreteLangevin: reach"),
            (lambda: mcmc.DiscreteLangevin(logdensity, low=float("nan")), "DiscreteLangevin: low must hold numbers"),
            (lambda: mcmc.DiscreteLangevin(logdensity, high=None), "DiscreteLangevin: high must be a number"),
            (lambda: mcmc.DiscreteLangevin(logdensity, informed=2), "DiscreteLangevin: informed must be True or"),
            (lambda: mcmc.DiscreteLangevin(logdensity).init(START), "DiscreteLangevin: x must hold signed integers"),
            (lambda: mcmc.DiscreteLangevin(logdensity).init(jnp.ones(3, bool)), "signed integers, got bool"),
            (lambda: mcmc.DiscreteLangevin(logdensity).init(jnp.array([0, 2, 0])), "x lies outside low..high"),
            (lambda: mcmc.DiscreteLangevin(logdensity, high=jnp.ones(2)).init(jnp.zeros(3, int)), "the shapes of x"),
            (lambda: mcmc.DiscreteLangevin(logdensity).init(jnp.zeros(0, int)), "DiscreteLangevin: x has an empty"),
        ],
    ),
    "NUTS": metropolis(
        mcmc.NUTS,
        "doubling",
        (lambda: mcmc.NUTS(logdensity, max_depth=0), "NUTS: max_depth"),
        (lambda: mcmc.NUTS(logdensity, max_depth=2.0), "NUTS: max_depth must be a Python int"),
        step_size=0.3,
        max_depth=5,
    ),
    "BAOAB": unadjusted(mcmc.BAOAB, "underdamped", step_size=0.3),
    "OBABO": unadjusted(mcmc.OBABO, "underdamped", step_size=0.3, metric=SCALE**2),
    "GHMC": metropolis(
        mcmc.GHMC,
        "underdamped",
        (lambda: mcmc.GHMC(logdensity, friction=-1.0), "GHMC: friction"),
        step_size=0.3,
    ),
    "MCLMC": kernel(
        of(mcmc.MCLMC, step_size=0.3),
        dtypes="wide",
        smooth=True,
        refusals=bad(
            mcmc.MCLMC,
            (lambda: mcmc.MCLMC(logdensity).init(jnp.zeros(1)), "MCLMC: the target needs at least two"),
            (lambda: mcmc.MCLMC(logdensity, length=0.0), "MCLMC: length"),
        ),
    ),
    "RandomWalk": metropolis(mcmc.RandomWalk, "accept", step_size=0.5),
    "IndependentMH": kernel(
        lambda: mcmc.IndependentMH(logdensity, wide, narrower),
        mechanism="accept",
        refusals=[
            (lambda: mcmc.IndependentMH(logdensity, None, logdensity), "IndependentMH: draw must be callable"),
            (
                lambda: js.chain(KEY, mcmc.IndependentMH(logdensity, lambda key: jnp.zeros(2), logdensity), START, 1),
                "IndependentMH: the draw must have the shape of x",
            ),
        ],
    ),
    "Slice": kernel(
        of(mcmc.Slice),
        mechanism="search",
        refusals=[
            (lambda: mcmc.Slice(logdensity, width=0.0), "Slice: width"),
            (lambda: mcmc.Slice(logdensity, max_steps=0), "Slice: max_steps"),
        ],
    ),
    "Stretch": kernel(
        of(mcmc.Stretch),
        jnp.sin(jnp.arange(18.0)).reshape(6, 3),
        refusals=[
            (lambda: mcmc.Stretch(logdensity, scale=1.0), "Stretch: scale must be finite and in"),
            (lambda: mcmc.Stretch(logdensity).init(jnp.ones((5, 2))), "Stretch: x needs an even number of walkers"),
            (lambda: mcmc.Stretch(logdensity).init(jnp.ones((4, 3))), "even number of walkers, 6 or more"),
            (lambda: mcmc.Stretch(logdensity).init(jnp.ones((6, 3))), "Stretch: x holds equal walkers"),
            (lambda: mcmc.Stretch(joint).init({"a": jnp.ones((6, 1)), "b": jnp.ones(6)}), "Stretch: x holds equal"),
            (lambda: mcmc.Stretch(logdensity).init(jnp.ones(())), "Stretch: x: every leaf needs"),
        ],
    ),
    "SVGD": Case(
        of(mcmc.SVGD),
        (jnp.sin(jnp.arange(18.0)).reshape(6, 3),),
        call=run,
        dtypes="kept",
        smooth=True,
        refusals=[
            (lambda: mcmc.SVGD(logdensity, step_size=0.0), "SVGD: step_size must be finite"),
            (lambda: mcmc.SVGD(logdensity, score=score), "SVGD: give exactly one"),
            (lambda: mcmc.SVGD(logdensity, bandwidth=0.0), "SVGD: bandwidth"),
            (lambda: mcmc.SVGD(logdensity, bandwidth=jnp.ones(2)).init(PARTICLES), "SVGD: bandwidth must be one"),
            (lambda: mcmc.SVGD(logdensity, rate=1.0), "SVGD: rate"),
            (lambda: mcmc.SVGD(logdensity, bandwidth=1.0, kernel=lambda x, y: x @ y), "a kernel or a bandwidth"),
            (lambda: mcmc.SVGD(logdensity).init(START[None]), "SVGD: one particle has no distances"),
            (lambda: mcmc.SVGD(logdensity).init(jnp.ones((4, 3))), "SVGD: x holds equal particles"),
            (lambda: mcmc.SVGD(joint).init({"a": jnp.ones((4, 3)), "b": jnp.ones(4)}), "SVGD: x holds equal particles"),
            (lambda: mcmc.SVGD(joint).init({"a": jnp.ones((5, 3)), "b": jnp.ones(5).at[0].set(2)}), "SVGD: 4 of 5"),
            (lambda: mcmc.SVGD(logdensity).init(jnp.ones(())), "SVGD: x: every leaf needs"),
            (lambda: js.chain(KEY, mcmc.SVGD(logdensity, kernel=lambda x, y: x - y), PARTICLES, 1), "kernel must return"),
        ],
    ),
    "EllipticalSlice": kernel(
        lambda: mcmc.EllipticalSlice(logdensity, covariance=SCALE),
        mechanism="search",
        refusals=[
            (lambda: mcmc.EllipticalSlice(None), "EllipticalSlice: loglikelihood must be callable"),
            (lambda: mcmc.EllipticalSlice(logdensity, covariance=-1.0), "EllipticalSlice: covariance"),
            (lambda: mcmc.EllipticalSlice(logdensity, mean=jnp.zeros(2)).init(START), "EllipticalSlice: mean must"),
        ],
    ),
    "SGLD": minibatch(mcmc.SGLD),
    "pSGLD": minibatch(
        mcmc.pSGLD,
        (lambda: mcmc.pSGLD(MINIBATCH, DATA, rate=1.0), "pSGLD: rate"),
        (lambda: mcmc.pSGLD(MINIBATCH, DATA, floor=0.0), "pSGLD: floor"),
    ),
    "SGHMC": minibatch(
        mcmc.SGHMC,
        (lambda: mcmc.SGHMC(MINIBATCH, DATA, friction=0.1, noise=0.2), "SGHMC: noise must be below friction"),
        (lambda: mcmc.SGHMC(MINIBATCH, DATA, friction=2.0), "SGHMC: friction"),
    ),
    "SGNHT": kernel(
        lambda: mcmc.SGNHT(MINIBATCH, DATA, step_size=1e-2, batch=4),
        dtypes="kept",
        smooth=True,
        mechanism="minibatch",
        refusals=[
            (lambda: mcmc.SGNHT(MINIBATCH, DATA, friction=0.0), "SGNHT: friction"),
            (lambda: mcmc.SGNHT(MINIBATCH, DATA, step_size=-1.0), "SGNHT: step_size"),
            (lambda: mcmc.SGNHT(MINIBATCH, (DATA, DATA[:3]), batch=2), "SGNHT: data: every leaf needs"),
        ],
    ),
    "Corrector": kernel(
        lambda: mcmc.Corrector(noised_score, 0.5),
        dtypes="kept",
        smooth=True,
        mechanism="langevin",
        refusals=[(lambda: mcmc.Corrector(noised_score, 0.5, snr=0.0), "Corrector: snr")],
    ),
    "compose": [
        kernel(
            lambda: mcmc.compose(
                mcmc.MALA(logdensity), mcmc.RandomWalk(logdensity), mcmc.NUTS(logdensity, max_depth=3)
            ),
            refusals=[
                (lambda: mcmc.compose(), "compose: give at least one kernel"),
                (lambda: mcmc.compose("kernel"), "kernel must have init"),
                (lambda: mcmc.compose(mcmc.MALA), "got the class MALA"),
            ],
        ),
        kernel(lambda: mcmc.compose(mcmc.MALA(logdensity), mcmc.MALA(logdensity, step_size=0.3)), mechanism="accept"),
    ],
    "cycle": kernel(
        lambda: mcmc.cycle(mcmc.MALA(logdensity), mcmc.RandomWalk(logdensity)),
        mechanism="select",
        refusals=[(lambda: mcmc.cycle(), "cycle: give at least one kernel")],
    ),
    "mixture": kernel(
        lambda: mcmc.mixture([0.3, 0.7], [mcmc.MALA(logdensity), mcmc.RandomWalk(logdensity)]),
        mechanism="select",
        refusals=[
            (lambda: mcmc.mixture([1.0], [mcmc.MALA(logdensity)] * 2), "mixture: weights must be one per kernel"),
            (lambda: mcmc.mixture([-1.0, 2.0], [mcmc.MALA(logdensity)] * 2), "mixture: weights must be finite"),
            (lambda: mcmc.mixture([0.0, 0.0], [mcmc.MALA(logdensity)] * 2), "mixture: weights are all zero"),
            (lambda: mcmc.mixture([1.0], mcmc.MALA(logdensity)), "mixture: kernels must be a list"),
        ],
    ),
    "repeat": kernel(
        lambda: mcmc.repeat(mcmc.MALA(logdensity), 3),
        mechanism="accept",
        refusals=[
            (lambda: mcmc.repeat(mcmc.MALA(logdensity), 0), "repeat: steps"),
            (lambda: mcmc.repeat(mcmc.MALA, 2), "got the class MALA"),
        ],
    ),
    "on": kernel(
        lambda: mcmc.on(mcmc.MALA(joint), "a"),
        PAIR,
        mechanism="accept",
        refusals=[
            (lambda: mcmc.on(mcmc.Gibbs(conditional, "a"), "a"), "on: Gibbs has no logdensity"),
            (lambda: mcmc.on(mcmc.MALA(joint), "c").init(PAIR), "on: the position has no part"),
            (lambda: mcmc.on(mcmc.MALA(joint), 1.5), "on: part must be a key"),
        ],
    ),
    "Gibbs": kernel(
        lambda: mcmc.Gibbs(conditional, "a"),
        PAIR,
        dtypes="kept",
        smooth=True,
        refusals=[
            (lambda: mcmc.Gibbs(1.0, "a"), "Gibbs: draw must be callable"),
            (lambda: js.chain(KEY, mcmc.Gibbs(lambda key, z: z["a"][0], "a"), PAIR, 1), "Gibbs: the draw must have"),
        ],
    ),
    "ensemble": kernel(
        lambda: mcmc.ensemble(mcmc.MALA(logdensity)),
        jnp.stack([START, -START]),
        mechanism="accept",
        refusals=[
            (lambda: mcmc.ensemble(None), "kernel must have init"),
            (lambda: mcmc.ensemble(mcmc.MALA(logdensity)).init(jnp.zeros(())), "ensemble: x: every leaf needs"),
        ],
    ),
    "tempered": kernel(
        lambda: mcmc.tempered(mcmc.MALA(logdensity), 0.5),
        mechanism="accept",
        refusals=[
            (lambda: mcmc.tempered(mcmc.MALA(logdensity), -0.5), "tempered: beta"),
            (lambda: mcmc.tempered(mcmc.Gibbs(conditional, "a"), 0.5), "tempered: Gibbs has no logdensity"),
            (lambda: mcmc.tempered(mcmc.MALA(logdensity), 0.5, reference=3), "tempered: reference must be callable"),
        ],
    ),
    "ParallelTempering": kernel(
        level(jnp.array([1.0, 0.5, 0.2])),
        jnp.stack([START] * 3),
        refusals=[
            (level(jnp.array([0.5, 1.0])), "betas must be .* decrease from 1"),
            (level(jnp.array([0.9, 0.5])), "betas must be .* decrease from 1"),
            (level([4.0, 2.0, 1.0]), "betas must be .* decrease from 1"),
            (level([1.0]), "betas must be .* decrease from 1"),
            (lambda: level([1.0, 0.5])().init(START), "ParallelTempering: x needs a leading axis of 2"),
            (
                lambda: mcmc.ParallelTempering(mcmc.MALA(logdensity), [1.0, 0.5], step_sizes=[0.1]),
                "ParallelTempering: step_sizes must be",
            ),
            (lambda: mcmc.ParallelTempering(mcmc.Gibbs(conditional, "a"), [1.0, 0.5]), "Gibbs has no logdensity"),
        ],
    ),
    "metropolize": kernel(
        lambda: mcmc.metropolize(mcmc.RandomWalk(logdensity), score=score, nodes=3),
        refusals=[
            (lambda: mcmc.metropolize(mcmc.RandomWalk(logdensity)), "metropolize: give exactly one"),
            (lambda: mcmc.metropolize(mcmc.RandomWalk(logdensity), logdensity, score=score), "give exactly one"),
            (lambda: mcmc.metropolize(mcmc.RandomWalk(logdensity), score=score, nodes=0), "metropolize: nodes"),
            (lambda: mcmc.metropolize(3, logdensity), "metropolize: proposal must be callable"),
        ],
    ),
    "AutoencoderMH": kernel(
        lambda: mcmc.AutoencoderMH(scaled, sigma=0.5),
        mechanism="accept",
        refusals=[
            (lambda: mcmc.AutoencoderMH(scaled, sigma=0.0), "AutoencoderMH: sigma"),
            (lambda: mcmc.AutoencoderMH(scaled, sigma=1.0, nodes=0), "AutoencoderMH: nodes"),
            (lambda: js.chain(KEY, mcmc.AutoencoderMH(lambda x: x[:1], sigma=1.0), START, 1), "the shape of x"),
        ],
    ),
    "DenoisingLangevinGibbs": kernel(
        lambda: latent(skip=2),
        mcmc.Noised(START, jnp.float32(1.0)),
        refusals=[
            (lambda: mcmc.DenoisingLangevinGibbs(logdensity=noised), "sigmas is missing"),
            (lambda: mcmc.DenoisingLangevinGibbs(sigmas=[1.0, 3.0, 2.0], logdensity=noised), "strictly monotone"),
            (lambda: mcmc.DenoisingLangevinGibbs(sigmas=[1.0, 0.0], logdensity=noised), "sigmas must be finite"),
            (lambda: mcmc.DenoisingLangevinGibbs(sigmas=SIGMAS), "give a score, a logdensity"),
            (lambda: mcmc.DenoisingLangevinGibbs(noised_score, SIGMAS), "posterior='exact' needs logdensity"),
            (lambda: latent(skip=0), "skip"),
            (lambda: latent(select="best"), "select must be one of"),
            (lambda: latent(x_move=None), "x_move must be one of"),
            (lambda: latent(argmax="no"), "argmax must be True or False"),
            (
                lambda: js.chain(
                    KEY,
                    mcmc.DenoisingLangevinGibbs(noised_score, SIGMAS, posterior=lambda x: jnp.zeros(3)),
                    mcmc.Noised(START, 1.0),
                    1,
                ),
                "the posterior must give one logit per level",
            ),
            (lambda: js.chain(KEY, latent(), mcmc.Noised(START, 0.0), 1), "sigma must be finite and in"),
            (lambda: latent().init(START), "x must be js.mcmc.Noised"),
        ],
    ),
    "SelfRepellentWalk": walk(mcmc.SelfRepellentWalk),
    "HistoryDrivenWalk": walk(mcmc.HistoryDrivenWalk),
    "TokenSGD": kernel(
        lambda: mcmc.TokenSGD(mcmc.SelfRepellentWalk(GRAPH, decay=0.6), slope_at),
        mcmc.Token(NODE, jnp.float32(0.2)),
        dtypes=None,
        mechanism="walk",
        refusals=[
            (lambda: mcmc.TokenSGD(mcmc.SelfRepellentWalk(GRAPH), slope_at, decay=0.4), "TokenSGD: decay"),
            (lambda: mcmc.TokenSGD(None, slope_at), "kernel must have init"),
            (lambda: mcmc.TokenSGD(mcmc.SelfRepellentWalk(GRAPH), slope_at).init(1), "TokenSGD: x must be js.mcmc.Tok"),
        ],
    ),
    # Functions: drivers, populations, and what they return.
    "pathfinder": Case(
        lambda: jax.tree_util.Partial(logdensity),
        (START,),
        call=lambda f, key, x: _pathfinder(f, key, x),
        stochastic=True,
        dtypes="refused",
        returns=js.Result,
        tolerance=1e-3,
        refusals=[
            (lambda: mcmc.pathfinder(KEY, None, START), "pathfinder: logdensity must be callable"),
            (lambda: mcmc.pathfinder(KEY, positive, -START), "pathfinder: the log-density at the start is"),
            (lambda: mcmc.pathfinder(KEY, logdensity, START, paths=2), "with paths=2, x needs that leading axis"),
            (lambda: mcmc.pathfinder(KEY, logdensity, START, 0), "pathfinder: num"),
            (lambda: mcmc.pathfinder(KEY, logdensity, START, memory=0), "pathfinder: memory"),
            (lambda: mcmc.pathfinder(KEY, logdensity, START, max_steps=0), "pathfinder: max_steps"),
            (lambda: mcmc.pathfinder(KEY, logdensity, START, elbo_draws=0), "pathfinder: elbo_draws"),
            (lambda: mcmc.pathfinder(KEY, logdensity, START, metric="full"), "pathfinder: metric"),
            (lambda: mcmc.pathfinder(KEY, logdensity, jnp.arange(3)), "pathfinder: x must be floating"),
        ],
    ),
    "chain": Case(
        of(mcmc.MALA),
        (START,),
        call=lambda k, key, x: mcmc.chain(key, k, x, 3, thin=2, burn=1, reduce=(mcmc.Moments(),)),
        stochastic=True,
        dtypes="refused",
        returns=js.Result,
    ),
    "chains": Case(
        of(mcmc.NUTS, max_depth=3),
        (jnp.stack([START, -START]),),
        call=lambda k, key, x: _several(key, k, x),
        stochastic=True,
        dtypes="refused",
        returns=js.Result,
        check_vma=False,  # JAX has no collectives over a vmapped axis there
        refusals=[
            (lambda: js.chains(KEY, mcmc.MALA(logdensity), jnp.zeros(()), 3), "chains: starts must be an array of"),
            (lambda: js.chains(KEY, mcmc.MALA(logdensity), jnp.zeros((2, 3)), 3, warm=-1), "chains: warm"),
            (lambda: js.chains(KEY, mcmc.ULA(logdensity), jnp.zeros((2, 3)), 3, warm=20), "no acceptance"),
            (lambda: js.chains(KEY, mcmc.Slice(logdensity), jnp.zeros((2, 3)), 3, warm=20), "no step_size"),
            (lambda: js.chains(KEY, mcmc.RandomWalk(positive), jnp.zeros((2, 3)), 3), "log-density at the start"),
        ],
    ),
    "stream": Case(
        of(mcmc.MALA),
        (START,),
        call=lambda k, key, x: [r.x for r in mcmc.stream(key, k, x, 3, chunk=2)],
        stochastic=True,
        host=True,
    ),
    "tune": Case(
        of(mcmc.MALA), (START,), call=lambda k, key, x: mcmc.tune(key, k, x, 30)[1], stochastic=True, dtypes="refused"
    ),
    "smc": Case(
        of(mcmc.MALA), (PARTICLES,), call=populated(mcmc.smc, max_levels=4), stochastic=True, dtypes="refused",
        returns=js.Result,
    ),
    "ais": Case(
        of(mcmc.MALA), (PARTICLES,), call=populated(mcmc.ais, betas=jnp.linspace(0, 1, 4)), stochastic=True,
        dtypes="refused", returns=js.Result,
    ),
    "nested": Case(
        lambda: logdensity, (SCALE,), call=lambda f, key, x: _nested(f, key).x, stochastic=True, host=True,
        refusals=[(lambda: mcmc.nested(KEY, logdensity, scaled, 3, dim=3), "nested: num_live must be above dim")],
    ),
    "NestedInfo": record(lambda x: mcmc.NestedInfo(*[x] * len(mcmc.NestedInfo._fields))),
    "NestedState": record(lambda x: mcmc.NestedState(*[x] * len(mcmc.NestedState._fields))),
    "annealed": Case(
        lambda: mcmc.ReconstructionScore(scaled, 0.5),
        (START,),
        call=lambda s, key, x: mcmc.annealed(key, lambda x, t: s(x), x, jnp.array([2.0, 1.0, 0.1]), steps=3).x,
        stochastic=True,
        smooth=True,
        refusals=[
            (lambda: mcmc.annealed(KEY, noised_score, START, jnp.array([1.0, 2.0])), "sigmas must be .* decrease"),
            (lambda: mcmc.annealed(KEY, noised_score, START, jnp.array([1.0]), tweedie=1), "tweedie must be True"),
            (lambda: mcmc.annealed(KEY, noised_score, START, jnp.array([1.0]), step_size=4.0), "below 4 sigmas"),
        ],
    ),
    "refresh": Case(
        of(mcmc.MALA), (START,), call=lambda k, key, x: mcmc.refresh(k, x, k.init(2 * x)), dtypes="refused"
    ),
    "picked": record(lambda x: mcmc.picked(None, mcmc.Info(1.0, 1, False, mcmc.Noised(x, x)))),
    "walk_graph": Case(
        lambda: mcmc.walk_graph,
        (np.full((3, 3), 1 / 3),),
        host=True,
        refusals=[
            (lambda: mcmc.walk_graph(np.ones((2, 2))), "walk_graph: row 0 of transition sums to 2"),
            (lambda: mcmc.walk_graph(np.ones(3)), "walk_graph: transition must be a square matrix"),
            (
                lambda: mcmc.walk_graph(np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]])),
                "walk_graph: the chain is not reversible",
            ),
            (lambda: mcmc.walk_graph(np.eye(2), mu=[1.0, 0.0]), "walk_graph: mu must be"),
        ],
    ),
    "walk_variance": Case(
        lambda: lambda f: mcmc.walk_variance(np.full((3, 3), 1 / 3), f),
        (np.array([1.0, 0, -1]),),
        host=True,
        refusals=[
            (lambda: mcmc.walk_variance(np.full((2, 2), 0.5), np.ones(3)), "walk_variance: f must be"),
            (lambda: mcmc.walk_variance(np.full((2, 2), 0.5), np.ones(2), kind="x"), "kind must be one of"),
        ],
    ),
    "save": Case(of(mcmc.BAOAB), (START,), call=lambda k, key, x: _round_trip(k, key, x), host=True),
    "load": Case(of(mcmc.NUTS, max_depth=2), (START,), call=lambda k, key, x: _round_trip(k, key, x), host=True),
    "from_numpyro": Case(
        lambda: _numpyro,
        (jnp.ones(3),),
        host=True,
        refusals=[
            (lambda: mcmc.from_numpyro(3), "from_numpyro: model must be callable"),
            (lambda: mcmc.from_numpyro(lambda: None, key=0), "from_numpyro: key must be a JAX key"),
        ],
    ),
    "to_arviz": Case(lambda: _arviz, (jnp.ones((2, 5)),), host=True),
    # Trees and records.
    "DenseMetric": Case(
        lambda: mcmc.MALA(logdensity, metric=mcmc.DenseMetric(jnp.eye(3))), (START,), call=run, stochastic=True,
        dtypes="refused", mechanism="accept",
        refusals=[
            (lambda: mcmc.DenseMetric(jnp.ones(3)), "DenseMetric: covariance must be"),
            (lambda: mcmc.DenseMetric(-jnp.eye(2)), "DenseMetric: covariance must be symmetric and positive"),
            (lambda: mcmc.DenseMetric("eye"), "DenseMetric: covariance must be a number"),
        ],
    ),
    "MinibatchScore": Case(
        lambda: MINIBATCH, (START,), call=lambda s, key, x: s(x, DATA.astype(x.dtype)), smooth=True,
        refusals=[
            (lambda: mcmc.MinibatchScore(None, logdensity, 3), "MinibatchScore: logprior must be callable"),
            (lambda: mcmc.MinibatchScore(logdensity, lambda x, y: 0.0, 0), "MinibatchScore: num_data"),
            (lambda: mcmc.MinibatchScore(logdensity, lambda x, y: 0.0, 3, center=START), "give both center and"),
            (lambda: MINIBATCH(START, (jnp.zeros(3), jnp.zeros(2))), "MinibatchScore: batch: every leaf needs"),
        ],
    ),
    "ReconstructionScore": Case(
        lambda: mcmc.ReconstructionScore(scaled, 0.5), (START,), smooth=True,
        refusals=[
            (lambda: mcmc.ReconstructionScore(None, 0.5), "ReconstructionScore: reconstruct must be callable"),
            (lambda: mcmc.ReconstructionScore(scaled, 0.0), "ReconstructionScore: sigma"),
        ],
    ),
    "NoisedScore": Case(lambda: mcmc.NoisedScore(_denoiser()), (START, jnp.float32(0.5)), smooth=True, dtypes=None),
    "Moments": Case(
        lambda: mcmc.MALA(logdensity), (START,), dtypes="refused", mechanism="accept",
        call=lambda k, key, x: mcmc.chain(key, k, x, 5, reduce=(mcmc.Moments(True),)).info.reduced,
        refusals=[(lambda: mcmc.Moments(covariance="yes"), "Moments: covariance must be True")],
    ),
    "OnlineRhat": Case(
        lambda: mcmc.ensemble(mcmc.MALA(logdensity)), (PARTICLES,), dtypes="refused", mechanism="accept",
        call=lambda k, key, x: mcmc.chain(key, k, x, 9, reduce=(mcmc.OnlineRhat(),)).info.reduced,
        refusals=[(lambda: mcmc.OnlineRhat().init(START[:1]), "OnlineRhat: x: every leaf needs")],
    ),
    "ChainInfo": record(lambda x: mcmc.ChainInfo(x, x, 1, 0, ()), returns=mcmc.ChainInfo),
    "ChainsInfo": record(lambda x: mcmc.ChainsInfo(x, x, 1, 0, (), x, 0), returns=mcmc.ChainsInfo),
    "ChainState": record(lambda x: mcmc.ChainState(x, 1, (), x), returns=mcmc.ChainState),
    "EvidenceInfo": record(lambda x: mcmc.EvidenceInfo(x, x, x, x, x, True), returns=mcmc.EvidenceInfo),
    "HMCInfo": record(lambda x: mcmc.HMCInfo(x, 1), returns=mcmc.HMCInfo),
    "PathfinderInfo": record(lambda x: mcmc.PathfinderInfo(*[x] * 6), returns=mcmc.PathfinderInfo),
    "Info": record(lambda x: mcmc.Info(x, 1, False, None), returns=mcmc.Info),
    "Kernel": record(lambda x: x * isinstance(mcmc.MALA(logdensity), mcmc.Kernel)),
    "MomentsValue": record(lambda x: mcmc.MomentsValue(1, x, x), returns=mcmc.MomentsValue),
    "Noised": record(lambda x: mcmc.Noised(x, x), returns=mcmc.Noised),
    "NumpyroModel": Case(lambda: lambda y: _constrained(y), (jnp.ones(3),), host=True),
    "SliceInfo": record(lambda x: mcmc.SliceInfo(x), returns=mcmc.SliceInfo),
    "State": record(lambda x: mcmc.State(x, None, None), returns=mcmc.State),
    "SwapInfo": record(lambda x: mcmc.SwapInfo(x, x), returns=mcmc.SwapInfo),
    "Token": record(lambda x: mcmc.Token(x, x), returns=mcmc.Token),
    "WalkGraph": record(lambda x: mcmc.WalkGraph(x, x, x), returns=mcmc.WalkGraph),
}  # fmt: skip


def _several(key, kernel, x):
    result = mcmc.chains(key, kernel, x, 3, warm=20)
    assert type(result.info.kernel) is type(kernel)
    return result._replace(info=result.info._replace(kernel=None))


def _pathfinder(f, key, x):
    draws, info = mcmc.pathfinder(key, f, x, 30, elbo_draws=4)
    return js.Result(draws, info._replace(khat=info.elbo))  # infinite where weights are equal


def _denoiser():
    return js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0, 0.0]], stds=[1.0])


def _round_trip(kernel, key, x):
    import pathlib
    import tempfile

    state = mcmc.chain(key, kernel, x, 3).info.state
    with tempfile.TemporaryDirectory() as folder:
        mcmc.save(pathlib.Path(folder) / "run", state)
        again = mcmc.load(pathlib.Path(folder) / "run", kernel, x)
    assert all(map(np.array_equal, jax.tree.leaves(state), jax.tree.leaves(again)))
    return again


def _nested(loglikelihood, key):
    return mcmc.nested(key, loglikelihood, scaled, 8, dim=3, delete=4, stop=1.0, moves=2, max_steps=3)


def _numpyro(y):
    numpyro = pytest.importorskip("numpyro")

    def model(y):
        mean = numpyro.sample("mean", numpyro.distributions.Normal(0.0, 1.0))
        numpyro.sample("y", numpyro.distributions.Normal(mean, 1.0), obs=y)

    return mcmc.from_numpyro(model, y).x


def _constrained(y):
    numpyro = pytest.importorskip("numpyro")

    def model(y):
        scale = numpyro.sample("scale", numpyro.distributions.LogNormal(0.0, 1.0))
        numpyro.sample("y", numpyro.distributions.Normal(0.0, scale), obs=y)

    found = mcmc.from_numpyro(model, y)
    return found.constrain(found.x)


def _arviz(draws):
    pytest.importorskip("arviz")
    return mcmc.to_arviz({"a": draws}).posterior["a"].values


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)


def test_every_public_name_is_registered():
    assert set(mcmc.__all__) == set(REGISTRY)
    assert all(hasattr(mcmc, name) for name in mcmc.__all__)
