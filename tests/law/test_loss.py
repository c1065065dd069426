"""The laws of the house for the losses: call = value o draw, rows that do not mix, and the laws of every room."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, close, pairs, same_bits

import jsamp as js

KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(1), (4, 2))
Y = jax.random.normal(jax.random.key(2), (4, 2))
LABEL = jnp.array([0, 1, 2, 1])
VE, VP = js.noise.VE(), js.noise.VP()
L = js.loss
MODELS = {}


def net(x, t, *condition):
    """A smooth stand-in for a network of one row."""
    t = jnp.asarray(t, x.dtype)
    shift = 0.0 if not condition else jnp.asarray(0.1, x.dtype) * condition[0].astype(x.dtype)
    return jnp.tanh(jnp.asarray(0.7, x.dtype) * x + shift) * jnp.exp(-jnp.asarray(0.1, x.dtype) * t)


def loss_case(build, batch, model=net, refusals=(), **options):
    """A loss as a case: the model is bound, the batch is the input, the value and aux are the result."""
    call = lambda loss, key, batch: loss(key, model, batch)
    MODELS[call] = model
    options = {"dtypes": "kept", "smooth": True, "stochastic": True, **options}
    return Case(build, (batch,), call, refusals=refusals, **options)


def on(loss, batch, model=net):
    return lambda: loss(KEY, model, batch)


MATCH_REFUSALS = [
    (lambda: L.Match(3), "schedule must be a noise schedule"),
    (lambda: L.Match(VP, predicts="noise"), "predicts must be one of"),
    (lambda: L.Match(VP, weight=-1.0), "weight must be finite"),
    (lambda: L.Match(VP, drop=0.1), "needs null"),
    (lambda: L.Match(VP, drop=1.5, null=0), "drop must be finite"),
    (lambda: L.Match(VP, drop=0.1, null={"text": np.nan}), "null must be finite"),
    (lambda: L.Match(VP, times=3), "times must be callable"),
    (lambda: L.Match(VP)(None, net, X), "key is None"),
    (on(L.Match(VP), jnp.zeros((4, 2), jnp.uint8)), "bytes of images"),
    (on(L.Match(VP), jnp.zeros((4, 2), int)), "floating"),
    (on(L.Match(VP), [[1.0, 2.0]]), "Convert lists"),
    (on(L.Match(VP), jnp.zeros((0, 2))), "no rows"),
    (on(L.Match(VP), {}), "empty tree"),
    (on(L.Match(VP), X.at[1, 0].set(jnp.inf)), "NaN or infinity"),
    (on(L.Match(VP), (X, LABEL[:3])), "condition must have the 4 rows"),
    (on(L.Match(VP), (X, LABEL, LABEL)), "pair"),
    (on(L.Match(VP, drop=0.1, null=3), X), "no condition to drop"),
    (on(L.Match(VP), X, lambda x, t: x[:1]), "shape of x"),
    (on(L.Match(VP), X, 3), "model must be callable"),
    (on(L.Match(VE, times=lambda schedule, u: -u), X), "must be >= 0"),
    (on(L.Match(VP, times=lambda schedule, u: 5 + u), X), "a time is 5.* outside the schedule"),
    (on(L.Match(VP, times=lambda schedule, u: 0.5), X), r"times of the shape of u, \(4,\), got \(\)"),
    (lambda: L.Match(VP, weight=np.ones(4)), "weight must be one number"),
    (on(L.Match(VP, weight=lambda schedule, t: jnp.ones(1)), X), r"one number for one time, got shape \(1,\)"),
]

MASK = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
LEVELS = jnp.array([0.0, 0.3, 0.0, 0.5])
SIGNALS = js.noise.OUVE()
BRIDGE = js.noise.Interpolant("linear")
VIEWS = L.Views(X[:, :1], Y, X, Y[:, :1], X)
RADON = jax.tree_util.Partial(lambda signal, view: jnp.sum(signal * view)[None])
PAIR = (lambda y: jnp.tanh(y), lambda x, t, y, estimate: net(x, t) + 0.1 * estimate)


def plain(x):
    """A smooth map of one row."""
    return net(x, 0.0)


def hidden(x, t, view, context):
    """A signal from an observation and its context."""
    return jnp.tanh(x + context) * view


def line(z):
    """A generator with one latent number."""
    return jnp.stack([jnp.tanh(z), 0.5 * z])


def make(form, **options):
    return lambda: form(**options)


def draws(form):
    """A record of what a loss draws."""
    return Case(lambda: lambda x: form(*[x] * len(form._fields)), (X,), returns=form)


BRIDGE_REFUSALS = [
    (make(L.Interpolate, interpolant=3), "interpolant must have alpha"),
    (make(L.Interpolate, interpolant=BRIDGE, field="w"), "field must be one of"),
    (make(L.Interpolate, interpolant=js.noise.Interpolant("linear", "none"), field="s"), "needs noise"),
    (on(L.Interpolate(BRIDGE), X), r"pair \(x0, x1\)"),
    (on(L.Interpolate(js.noise.Interpolant("mirror")), (X, X)), "x1 alone"),
    (on(L.Interpolate(BRIDGE), (X, X[:, :1])), "one shape"),
    (on(L.Interpolate(BRIDGE, times=lambda path, u: 2 + u), (X, X)), r"times must be finite and in \[0, 1\]"),
]
REPAIR_REFUSALS = [
    (make(L.Regeneration, schedule=SIGNALS, predicts="v"), "predicts must be one of"),
    (make(L.Regeneration, schedule=SIGNALS, mix=1.5), "mix must be finite"),
    (make(L.Regeneration, schedule=None), "schedule must be a noise schedule"),
    (on(L.Regeneration(SIGNALS), X, PAIR), r"pair \(x, y\)"),
    (on(L.Regeneration(SIGNALS), (X, Y)), r"model must be the tuple \(regressor, network\)"),
    (on(L.Regeneration(SIGNALS), (X, Y), (PAIR[0],)), "got a tuple of 1"),
    (on(L.Regeneration(SIGNALS), (X, Y), (lambda y: y[:1], PAIR[1])), "shape of x"),
]
VIEW_REFUSALS = [
    (make(L.ForwardModelMatch, forward=3, schedule=VP), "forward must be callable"),
    (make(L.ForwardModelMatch, forward=RADON, schedule=VP, extra_weight=-1.0), "extra_weight must be finite"),
    (make(L.ForwardModelMatch, forward=RADON, schedule=VP, weight=None), "weight must be a number, got None"),
    (on(L.ForwardModelMatch(RADON, VP), X, hidden), "batch must be js.loss.Views"),
    (on(L.ForwardModelMatch(RADON, VP), VIEWS._replace(view=Y[:2]), hidden), "one leading axis"),
    (on(L.ForwardModelMatch(lambda s, v: s, VP), VIEWS, hidden), "shape of x"),
]
AMBIENT_REFUSALS = [
    (make(L.Ambient, times=L.UniformTimes()), "must be a LogNormalTimes"),
    (make(L.Ambient, consistency=-1.0), "consistency must be finite"),
    (make(L.Ambient, steps=0), "steps must be"),
    (on(L.Ambient(), X), "pair"),
    (on(L.Ambient(), (X, -LEVELS)), "known levels must be finite"),
    (on(L.Ambient(), (X, X)), r"known levels must be \[4\]"),
]

LAW = js.denoise.GaussianMixture(VE, weights=[1.0], means=[[0.3, -0.2]], stds=[0.7])
PRIOR, OWN = (js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.3, -0.2]], stds=[s]) for s in (0.7, 1.0))
TEACHER = L.Teacher(LAW)
LEVEL_GRID = [3.0, 1.0, 0.1]
DECREASING = np.array([1.0, 0.5, 0.0])
CLASSES = jnp.array([0, 1, 1, 0])
WIDE = lambda x: -jnp.sum(x**2) / 8


def jumper(x, t, s):
    """A smooth trajectory network."""
    return net(x, t) + 0.1 * s * x


def critic(x, t, *given):
    """A smooth judge of one row."""
    return jnp.sum(jnp.tanh(x)) + jnp.asarray(0.1 * t, x.dtype)


def column(x, t, *given):
    """A judge that returns [1], which would broadcast against the other rows."""
    return critic(x, t)[None]


def generator(x, t, z):
    """A smooth generator with two latent numbers."""
    return jnp.tanh(x + z)


def draw_normal(key):
    """A row of noise, of the dtype of the data by default."""
    return 2 * jax.random.normal(key, (2,))


def density(x):
    """An unnormalised log-density."""
    return -jnp.sum(x**2) / 2


def logits(x):
    """Two heads of two classes."""
    return jnp.stack([jnp.array([v, -v]) for v in x])


def head(k):
    """One classifier."""
    return lambda x: jnp.array([x[k], -0.7 * x[k]])


def sampler(key, model):
    """A one-step sampler."""
    return model(jax.random.normal(key, (2,)), 1.0)


UNIT = jax.nn.sigmoid(X)
HILL = jax.tree_util.Partial(lambda c, x: c * jnp.sum(jnp.sin(x)), jnp.float32(0.7))
EQUATION = lambda solution, x: jnp.sum(jax.grad(solution)(x)) - x[0]
RIM = lambda solution, row: solution(row) - 0.3


def bent_flow():
    """A flow that is not even."""
    flow = L.box_flow(jax.random.key(5), [-1.0, 0.0], [1.0, 3.0], layers=2, width=4, bins=3)
    bend = lambda leaf: leaf + 0.3 * jnp.sin(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)
    return L.BoxFlow(jax.tree.map(bend, flow.layers), flow.low, flow.high)


def both(density, key, x):
    """A draw of a density on a box, and the log density there."""
    point = density.push(x)
    return point, density(point)


FLOW = bent_flow()
ADVERSARIES = (HILL, FLOW)
SAMPLES = lambda noise: lambda: L.MultiSample(lambda out, y: (out - y) ** 2, noise, 3)
STUDENTS, JUMPERS, GAN = (net, net), (jumper, jumper), (generator, critic)
CONSISTENCY_REFUSALS = [
    (make(L.Consistency, grid=[1.0, 0.0]), "decrease to a level > 0"),
    (make(L.Consistency, grid=[1.0, 2.0]), "grid must decrease"),
    (make(L.Consistency, grid=[1.0]), "two numbers or more"),
    (make(L.Consistency, grid=[2.0, np.nan]), "grid must be finite"),
    (make(L.Consistency, grid=LEVEL_GRID, teacher=LAW), "must be a js.loss.Teacher"),
    (make(L.Consistency, grid=LEVEL_GRID, target="self"), "target must be one of"),
    (make(L.Consistency, grid=LEVEL_GRID, target="teacher"), "needs a teacher"),
    (make(L.Consistency, grid=LEVEL_GRID, distance="l1"), "distance must be one of"),
    (make(L.Consistency, grid=LEVEL_GRID, weight=2.0), "weight must be callable"),
    (make(L.Consistency, grid=LEVEL_GRID, probabilities=[1.0]), r"probabilities must be \[2\]"),
    (make(L.Consistency, grid=LEVEL_GRID, probabilities=[0.0, 0.0]), "not all zero"),
    (make(L.Consistency, grid=LEVEL_GRID, critic_weight=-1.0), "critic_weight must be finite"),
    (on(L.Consistency(LEVEL_GRID), X, (net,)), "must be the student"),
    (on(L.Consistency(LEVEL_GRID), X, (net, 3)), "target must be callable"),
    (on(L.Consistency(LEVEL_GRID), X, (net, net, column)), r"critic must return one number .* got shape \(1,\)"),
    (on(L.Consistency(LEVEL_GRID, distance=lambda a, b: (a - b) ** 2), X), "distance must return one number"),
    (on(L.Consistency(LEVEL_GRID, weight=lambda t, u: jnp.ones(1)), X), "weight must return one number"),
    (on(L.Consistency(LEVEL_GRID, L.Teacher(lambda c: PRIOR)), (X, LABEL)), "schedule must have alpha = 1"),
]
MECO_REFUSALS = [
    (make(L.MECO, sample=draw_normal, log_prob=WIDE, gamma=0.0), "gamma must be finite"),
    (make(L.MECO, sample=3, log_prob=WIDE), "sample must be callable"),
    (on(L.MECO(lambda key: jnp.ones(3), WIDE), X, density), "one row like those"),
    (make(L.MECO, sample=draw_normal, log_prob=WIDE, log_u=np.nan), "log_u must be finite"),
    (on(L.MECO(draw_normal, WIDE), X, lambda x: x), "must return one number for each row"),
]
LABELLED = (X, CLASSES, Y)
BAD_LABELLED = [
    ((X, CLASSES), "unlabelled x"), ((X, Y[:, 0], Y), "must be integers"), ((X, CLASSES[:2], Y), "4 rows"),
    ((X, CLASSES - 1, Y), r"classes must be in 0..1, got -1..0"),
    ((X, CLASSES, X[:, :1]), r"unlabelled rows must have the structure and shape of labelled ones, .*: reshape them"),
    ((X, CLASSES, {"x": X}), "unlabelled rows must have the structure and shape of labelled ones"),
]  # fmt: skip


def direction(function, *denoisers):
    """A direction of score distillation, as a function of (key, particles)."""
    return lambda: lambda key, x: function(key, *denoisers, x)


REGISTRY = {
    "Teacher": Case(
        lambda: TEACHER, (X[0],), lambda teacher, key, x: teacher(key, x, 2.0, 0.5), smooth=False,
        refusals=[
            (make(L.Teacher, denoiser=3), "denoiser must be callable"),
            (make(L.Teacher, denoiser=PRIOR), "alpha = 1 and sigma = t"),
            (make(L.Teacher, denoiser=LAW, build=3), "build must be callable"),
            (make(L.Teacher, denoiser=LAW, steps=0), "steps must be"),
            (lambda: L.Teacher(lambda c: c)(KEY, X[0], 2.0, 1.0), "condition -> denoiser"),
        ],
    ),
    "Consistency": [
        loss_case(lambda: L.Consistency(LEVEL_GRID), X, STUDENTS, dtypes="wide", refusals=CONSISTENCY_REFUSALS),
        loss_case(
            lambda: L.Consistency(LEVEL_GRID, TEACHER, distance="huber", weight=lambda t, u: 1 / (t - u)),
            X, (net, net, critic), dtypes="wide",
        ),
        loss_case(lambda: L.Consistency(LEVEL_GRID, TEACHER, "teacher"), X, dtypes="wide", mechanism="student"),
        loss_case(lambda: L.Consistency(LEVEL_GRID, None, "tangent"), X, dtypes="wide", mechanism="student"),
    ],
    "consistency_levels": Case(
        lambda: L.consistency_levels, (3, 10), host=True, dtypes=None,
        refusals=[
            (lambda: L.consistency_levels(11, 10), "step must be in 0..10"),
            (lambda: L.consistency_levels(0.5, 10), "step must be a Python int"),
            (lambda: L.consistency_levels(1, 10, first=5, last=4), "last must be"),
            (lambda: L.consistency_levels(1, 10, growth="linear"), "growth must be one of"),
        ],
    ),
    "level_probabilities": Case(
        lambda: L.level_probabilities, (np.array(LEVEL_GRID),), host=True, dtypes=None,
        refusals=[
            (lambda: L.level_probabilities([1.0, 2.0]), "grid must decrease"),
            (lambda: L.level_probabilities([1.0]), "two numbers or more"),
            (lambda: L.level_probabilities(LEVEL_GRID, std=0.0), "std must be finite"),
            (lambda: L.level_probabilities(LEVEL_GRID, mean=500.0, std=0.1), "does not reach"),
            (lambda: jax.jit(L.level_probabilities)(LEVEL_GRID), "runs on the host"),
        ],
    ),
    "ConsistencyCritic": loss_case(
        lambda: L.ConsistencyCritic(L.Consistency(LEVEL_GRID)), X, (net, net, critic), dtypes="wide",
        mechanism="student",
        refusals=[
            (make(L.ConsistencyCritic, consistency=3), "must be the student's"),
            (on(L.ConsistencyCritic(L.Consistency(LEVEL_GRID)), X, STUDENTS), "got a tuple of 2"),
            (on(L.ConsistencyCritic(L.Consistency(LEVEL_GRID)), X, (net, net, column)), "critic must return one number"),
        ],
    ),
    "TrajectoryConsistency": loss_case(
        lambda: L.TrajectoryConsistency(LEVEL_GRID, TEACHER), X, JUMPERS, dtypes="wide",
        refusals=[
            (make(L.TrajectoryConsistency, grid=LEVEL_GRID, teacher=LAW), "must be a js.loss.Teacher"),
            (make(L.TrajectoryConsistency, grid=LEVEL_GRID, teacher=TEACHER, reach=3), "reach must be"),
            (make(L.TrajectoryConsistency, grid=LEVEL_GRID, teacher=TEACHER, denoising=-1.0), "denoising must be"),
            (on(L.TrajectoryConsistency(LEVEL_GRID, TEACHER), X, jumper), "student, target"),
        ],
    ),
    "jump": Case(
        lambda: lambda x: L.jump(jumper, x, 2.0, 0.5), (X[0],), smooth=True,
        refusals=[
            (lambda: L.jump(jumper, X[0], 1.0, 2.0), "jumps go down"),
            (lambda: L.jump(jumper, X[0], 0.0, 0.0), "t must be finite"),
            (lambda: L.jump(jumper, X, jnp.ones(4), 0.5), "t must be one number"),
        ],
    ),
    "MMDFinetune": loss_case(
        lambda: L.MMDFinetune(sampler, jnp.tanh), X, mechanism="population", dtypes="wide",
        refusals=[
            (make(L.MMDFinetune, sampler=3), "sampler must be callable"),
            (make(L.MMDFinetune, sampler=sampler, kernel="cubic"), "kernel must be one of"),
            (on(L.MMDFinetune(sampler), X[:1]), "at least 2 rows"),
            (on(L.MMDFinetune(sampler, lambda x: x.sum()), X), "must be one vector"),
            (on(L.MMDFinetune(sampler), jnp.ones((4, 3))), "samples have 2 features"),
            (on(L.MMDFinetune(sampler, kernel=lambda a, b: jnp.ones((len(a), 1))), X, net), r"must return \[3, 2\]"),
        ],
    ),
    "GANCritic": loss_case(
        lambda: L.GANCritic(VP, DECREASING, 2, 0.3), X, GAN,
        refusals=[
            (make(L.GANCritic, schedule=VP, grid=[0.0, 1.0], latent=1), "grid must decrease"),
            (make(L.GANCritic, schedule=VP, grid=[1.0], latent=1), "two numbers or more"),
            (make(L.GANCritic, schedule=VP, grid=DECREASING, latent=0), "latent must be"),
            (make(L.GANCritic, schedule=VP, grid=DECREASING, latent=1, r1=-1.0), "r1 must be finite"),
            (on(L.GANCritic(VP, DECREASING, 2), X, generator), r"\(generator, critic\)"),
            (on(L.GANCritic(VP, DECREASING, 2), X, (generator, lambda x, t, above: x)), "one number for each row"),
        ],
    ),
    "GANGenerator": loss_case(lambda: L.GANGenerator(VP, DECREASING, 2), X, GAN, mechanism="gan"),
    "AdversarialSampling": [
        loss_case(
            lambda: L.AdversarialSampling(EQUATION, RIM, 2.0), (UNIT, Y), ADVERSARIES, dtypes="wide",
            mechanism="adversarial",
            refusals=[
                (make(L.AdversarialSampling, residual=3), "residual must be callable"),
                (make(L.AdversarialSampling, residual=EQUATION, edge=3), "edge must be callable"),
                (make(L.AdversarialSampling, residual=EQUATION, edge_weight=-1.0), "edge_weight must be finite"),
                (on(L.AdversarialSampling(EQUATION), UNIT, HILL), r"tuple \(solution, density\)"),
                (on(L.AdversarialSampling(EQUATION), UNIT, (HILL, HILL)), "must have push"),
                (on(L.AdversarialSampling(EQUATION), 3 * UNIT, ADVERSARIES), "in the unit cube"),
                (on(L.AdversarialSampling(EQUATION), UNIT[:, 0], ADVERSARIES), r"must be \[n, d\]"),
                (on(L.AdversarialSampling(EQUATION), UNIT[:, :1], ADVERSARIES), "1 coordinates, the density's box 2"),
                (on(L.AdversarialSampling(EQUATION), (UNIT, Y), ADVERSARIES), "with an edge, else points"),
                (on(L.AdversarialSampling(EQUATION, RIM), UNIT, ADVERSARIES), "with an edge, else points"),
            ],
        ),
        loss_case(
            lambda: L.AdversarialSampling(EQUATION), UNIT, ADVERSARIES, dtypes="wide", mechanism="adversarial",
            smooth=False,
        ),
    ],
    "AdversarialDensity": [
        loss_case(
            lambda: L.AdversarialDensity(L.AdversarialSampling(EQUATION), 0.3), UNIT, ADVERSARIES, dtypes="wide",
            refusals=[
                (make(L.AdversarialDensity, sampling=3, beta=1.0), "must be the solution's"),
                (make(L.AdversarialDensity, sampling=L.AdversarialSampling(EQUATION), beta=0.0), "beta must be finite"),
                (
                    make(L.AdversarialDensity, sampling=L.AdversarialSampling(EQUATION), beta=1.0, relative=1),
                    "relative must be True or False",
                ),
                (
                    make(L.AdversarialDensity, sampling=L.AdversarialSampling(EQUATION), beta=1.0, proposals="q"),
                    "proposals must be one of",
                ),
            ],
        ),
        loss_case(
            lambda: L.AdversarialDensity(L.AdversarialSampling(EQUATION), 0.3, True, "even"), UNIT, ADVERSARIES,
            dtypes="wide", mechanism="population",
        ),
    ],
    "AdversarialDrawn": draws(L.AdversarialDrawn),
    "BoxFlow": Case(bent_flow, (UNIT[0],), both, dtypes="wide", smooth=True, refusals=[
        (lambda: L.BoxFlow([], [0.0], [0.0]), "low must lie below high"),
        (lambda: L.BoxFlow([], [0.0], [1.0, 2.0]), "low has 1 coordinates"),
        (lambda: L.BoxFlow([], 0.0, 1.0), r"low must be \[d\]"),
    ]),
    "box_flow": Case(
        lambda: lambda key: L.box_flow(key, [-1.0, 0.0], [1.0, 3.0], layers=2, width=4, bins=3).layers, (LABEL[0],),
        lambda make, key, x: make(key), dtypes=None, stochastic=True,
        refusals=[
            (lambda: L.box_flow(None, [0.0], [1.0]), "key is None"),
            (lambda: L.box_flow(KEY, [0.0], [np.nan]), "high must be finite"),
            (lambda: L.box_flow(KEY, [1.0], [0.0]), "low must lie below high"),
            (lambda: L.box_flow(KEY, [0.0], [1.0], bins=0), "bins must be"),
        ],
    ),
    "BoxGrid": Case(
        lambda: L.BoxGrid(jnp.array([[1.0, 2.0], [0.0, 4.0]]), [-1.0, 0.0], [1.0, 3.0]), (UNIT[0],), both,
        dtypes="wide", smooth=True,
        refusals=[
            (lambda: L.BoxGrid(jnp.array([1.0, -1.0]), [0.0], [1.0]), "weight must be finite"),
            (lambda: L.BoxGrid(jnp.zeros(2), [0.0], [1.0]), "not all zero"),
            (lambda: L.BoxGrid(jnp.ones(2), [0.0, 0.0], [1.0, 1.0]), "weight must have 2 axes"),
        ],
    ),
    "spectral_density": Case(
        lambda: lambda x: L.spectral_density(x**2, [-1.0, 0.0], [1.0, 3.0], beta=0.2, least=0.3).weight, (X,),
        dtypes="wide", smooth=True,
        refusals=[
            (lambda: L.spectral_density(jnp.array([1.0, -1.0]), [0.0], [1.0]), "square must be finite"),
            (lambda: L.spectral_density(jnp.ones(3), [0.0, 0.0], [1.0, 1.0]), "square must have 2 axes"),
            (lambda: L.spectral_density(jnp.ones(3), [0.0], [1.0], beta=0.0), "beta must be finite"),
            (lambda: L.spectral_density(jnp.ones(3), [0.0], [1.0], least=0.0), "least must be finite"),
            (lambda: L.spectral_density(jnp.ones(3), [1.0], [0.0]), "low must lie below high"),
        ],
    ),
    "sds": Case(
        direction(L.sds, PRIOR), (X,), stochastic=True, smooth=False,
        refusals=[
            (lambda: L.sds(KEY, 3, X), "denoiser must be callable"),
            (lambda: L.sds(KEY, net, X), "must be a denoiser"),
            (lambda: L.sds(None, PRIOR, X), "key is None"),
            (lambda: L.sds(KEY, PRIOR, X[:0]), "no rows"),
            (lambda: L.sds(KEY, PRIOR, X, weight=-1.0), "weight must be finite"),
            (lambda: L.sds(KEY, PRIOR, X, weight=None), "weight must be a number, got None"),
            (lambda: L.sds(KEY, PRIOR, X, times=L.UniformTimes(-1.0, -0.5)), "low is -1, outside the schedule"),
        ],
    ),
    "vsd": Case(
        direction(L.vsd, PRIOR, OWN), (X,), stochastic=True, mechanism="sds",
        refusals=[(lambda: L.vsd(KEY, PRIOR, net, X), "online must be a denoiser")],
    ),
    "particle_step": Case(
        lambda: lambda x: L.particle_step(KEY, jnp.sin, x, lambda key, x: jnp.cos(x)), (X,), smooth=True,
        refusals=[
            (lambda: L.particle_step(KEY, 3, X, net), "render must be callable"),
            (lambda: L.particle_step(KEY, jnp.sin, X, lambda key, x: x[:1]), "structure and shapes of x"),
        ],
    ),
    "MECO": loss_case(lambda: L.MECO(draw_normal, WIDE), X, density, dtypes="wide", refusals=MECO_REFUSALS),
    "NCE": loss_case(
        lambda: L.NCE(draw_normal, WIDE), X, (density, jnp.float32(0.3)), dtypes="wide", mechanism="energy",
        refusals=[
            (on(L.NCE(draw_normal, WIDE), X, density), "must be the pair"),
            (on(L.NCE(draw_normal, WIDE), X, (density, jnp.zeros(4))), "log_z must be one number"),
        ],
    ),
    "DivDis": loss_case(
        L.DivDis, LABELLED, logits, stochastic=False, mechanism="population",
        refusals=[
            (make(L.DivDis, weight=-1.0), "weight must be finite"),
            (on(L.DivDis(), LABELLED, head(0)), "heads >= 2"),
            *((on(L.DivDis(), batch, logits), match) for batch, match in BAD_LABELLED),
        ],
    ),
    "DBAT": loss_case(
        L.DBAT, LABELLED, (head(0), head(1)), stochastic=False, mechanism="population",
        refusals=[
            (make(L.DBAT, weight=-1.0), "weight must be finite"),
            (on(L.DBAT(), LABELLED, head(0)), "at least one earlier"),
            (on(L.DBAT(), LABELLED, (logits, logits)), r"new\(x\) must be logits \[classes\], got shape \(2, 2\)"),
            (on(L.DBAT(), LABELLED, (head(0), lambda x: jnp.ones(3))), r"must return logits \(2,\), got \(3,\)"),
            *((on(L.DBAT(), batch, (head(0), head(1))), match) for batch, match in BAD_LABELLED),
        ],
    ),
    "MultiSample": loss_case(
        SAMPLES(L.dropout(0.5, 2)), (X, Y[:, 0]), (jnp.tanh, lambda z, mask: jnp.sum(z * mask)), dtypes="wide",
        refusals=[
            (make(L.MultiSample, error=3, noise=draw_normal), "error must be callable"),
            (make(L.MultiSample, error=net, noise=3), "noise must be callable"),
            (make(L.MultiSample, error=net, noise=draw_normal, num=0), "num must be"),
            (on(SAMPLES(draw_normal)(), X), "pair"),
            (on(SAMPLES(draw_normal)(), (X, Y[:, 0]), net), "trunk, head"),
        ],
    ),
    "dropout": Case(
        lambda: L.dropout(0.5, 8), (jnp.float32(1.0),), lambda mask, key, x: x * mask(key), stochastic=True,
        dtypes="wide",
        refusals=[
            (lambda: L.dropout(1.0, 8), "rate must be finite"),
            (lambda: L.dropout(0.5, 0), "width must be"),
        ],
    ),
    "ConsistencyDrawn": draws(L.ConsistencyDrawn),
    "TrajectoryDrawn": draws(L.TrajectoryDrawn),
    "PopulationDrawn": draws(L.PopulationDrawn),
    "GANDrawn": draws(L.GANDrawn),
    "EnergyDrawn": draws(L.EnergyDrawn),
    "MECOInfo": draws(L.MECOInfo),
    "LabelledDrawn": draws(L.LabelledDrawn),
    "SamplesDrawn": draws(L.SamplesDrawn),
    "Interpolate": [
        loss_case(lambda: L.Interpolate(BRIDGE), (X, Y), mechanism="bridge", refusals=BRIDGE_REFUSALS),
        loss_case(lambda: L.Interpolate(js.noise.Interpolant("one-sided"), "s", False), X, mechanism="bridge"),
    ],
    "Regeneration": loss_case(
        lambda: L.Regeneration(SIGNALS, "x0", 0.3), (X, Y), PAIR, refusals=REPAIR_REFUSALS
    ),
    "ForwardModelMatch": loss_case(
        lambda: L.ForwardModelMatch(RADON, VP, 2.0), VIEWS, hidden, refusals=VIEW_REFUSALS
    ),
    "Ambient": [
        loss_case(lambda: L.Ambient(consistency=0.5, steps=2), (X, LEVELS), refusals=AMBIENT_REFUSALS),
        loss_case(lambda: L.Ambient(1.0), (X, LEVELS), mechanism="match"),
    ],
    "AmbientMask": loss_case(
        lambda: L.AmbientMask(delta=0.4), (X, MASK), mechanism="match",
        refusals=[
            (make(L.AmbientMask, delta=0.0), "delta must be finite"),
            (on(L.AmbientMask(), X), "pair"),
            (on(L.AmbientMask(), (X, MASK[:, :1])), "one shape"),
        ],
    ),
    "Reconstruction": loss_case(
        lambda: L.Reconstruction(0.5), X, plain, mechanism="match",
        refusals=[(make(L.Reconstruction, scale=0.0), "scale must be finite")],
    ),
    "Contractive": loss_case(
        lambda: L.Contractive(0.5, 2), X, plain,
        refusals=[
            (make(L.Contractive, scale=-1.0), "scale must be finite"),
            (make(L.Contractive, scale=1.0, probes=0), "probes must be"),
            (on(L.Contractive(1.0), X, lambda x: x[:1]), "shape of x"),
        ],
    ),
    "InstanceNoise": loss_case(
        lambda: L.InstanceNoise(0.5, 8), X, line,
        refusals=[
            (make(L.InstanceNoise, scale=0.0), "scale must be finite"),
            (make(L.InstanceNoise, scale=1.0, nodes=0), "nodes must be"),
            (make(L.InstanceNoise, scale=1.0, latent="cauchy"), "latent must be one of"),
        ],
    ),
    "latent_loglik": Case(
        lambda: lambda x: L.latent_loglik(line, x, 0.5, nodes=8), (X[0],), smooth=True,
        refusals=[
            (lambda: L.latent_loglik(3, X[0], 1.0), "generator must be callable"),
            (lambda: L.latent_loglik(line, X[0], 0.0), "scale must be finite"),
            (lambda: L.latent_loglik(line, X[0], 1.0, latent="flat"), "latent must be one of"),
            (lambda: L.latent_loglik(line, jnp.arange(2), 1.0), "floating"),
        ],
    ),
    "InterpolateDrawn": draws(L.InterpolateDrawn),
    "RegenerationDrawn": draws(L.RegenerationDrawn),
    "Views": draws(L.Views),
    "ViewsDrawn": draws(L.ViewsDrawn),
    "AmbientDrawn": draws(L.AmbientDrawn),
    "AmbientMaskDrawn": draws(L.AmbientMaskDrawn),
    "Noised": draws(L.Noised),
    "Match": [
        loss_case(lambda: L.Match(VP), X, mechanism="match", refusals=MATCH_REFUSALS),
        loss_case(lambda: L.Match(VE, "x0", L.EDMWeight(0.7), L.LogNormalTimes()), X, mechanism="match"),
        loss_case(lambda: L.Match(VP, "velocity", 2.0, drop=0.3, null=5, stratified=False), (X, LABEL)),
    ],
    "EDMWeight": Case(
        lambda: L.EDMWeight(0.7), (jnp.float32(0.4),), lambda w, key, t: w(VP, t), smooth=True,
        refusals=[(lambda: L.EDMWeight(0.0), "sigma_data must be finite")],
    ),
    "UniformTimes": Case(
        lambda: L.UniformTimes(0.1, 0.9), (jnp.float32(0.4),), lambda law, key, u: law(VP, u), smooth=True,
        refusals=[
            (lambda: L.UniformTimes(1.0, 0.5), "low must be below"),
            (lambda: L.UniformTimes(jnp.nan), "low must be finite"),
        ],
    ),
    "LogNormalTimes": Case(
        lambda: L.LogNormalTimes(low=0.1, high=5.0), (jnp.array([0.4, 0.7]),), lambda law, key, u: law(VE, u),
        smooth=True, dtypes="wide",
        refusals=[
            (lambda: L.LogNormalTimes(std=0.0), "std must be finite"),
            (lambda: L.LogNormalTimes(low=2.0, high=1.0), "high must be above"),
            (lambda: L.LogNormalTimes(low=-1.0), "low must be finite"),
            (lambda: L.LogNormalTimes(high=KEY), "high must be a number, got a random key"),
            (lambda: L.LogNormalTimes(low=100.0)(VE, jnp.ones(1) / 2), "the schedule has ratios from 0 to 80"),
        ],
    ),
    "Loss": Case(lambda: lambda x: x if isinstance(L.Match(VP), L.Loss) else None, (X,)),
    "LossInfo": Case(lambda: lambda x: L.LossInfo(x), (X,), returns=L.LossInfo),
    "MatchDrawn": draws(L.MatchDrawn),
}  # fmt: skip


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)


def losses():
    """Every case whose thing is a loss."""
    for name, entry in REGISTRY.items():
        for i, case in enumerate((entry,) if isinstance(entry, Case) else entry):
            if isinstance(case.thing, L.Loss):
                yield pytest.param(case, id=f"{name}({i})")


@pytest.mark.parametrize("case", list(losses()))
def test_call_is_value_after_draw(case):
    """The value has no randomness of its own, is a scalar, and is the mean of its rows where it has rows."""
    loss, (batch,) = case.thing, case.inputs
    drawn = loss.draw(KEY, batch)
    model = _model_of(case)
    value, aux = loss.value(model, drawn)
    assert value.shape == ()
    assert same_bits((value, aux), case.run(loss, KEY, batch))
    if isinstance(aux, L.LossInfo):
        close(value, jnp.mean(aux.each), 1e-6)
    assert loss.player is None or type(model) is not tuple or 0 <= loss.player < len(model)
    assert isinstance(loss.remember(aux), type(loss))


@pytest.mark.parametrize("case", list(losses()))
def test_rows_do_not_mix(case):
    """The loss of a row does not depend on the other rows of what was drawn."""
    loss, (batch,) = case.thing, case.inputs
    drawn, model = loss.draw(KEY, batch), _model_of(case)
    num = jax.tree.leaves(batch)[0].shape[0]
    each = loss.value(model, drawn)[1]
    if not isinstance(each, L.LossInfo) or case.mechanism == "population":
        return
    for keep in (jnp.arange(num - 1), jnp.arange(num)[::-1]):
        rows = lambda leaf, keep=keep: leaf[keep] if np.ndim(leaf) and np.shape(leaf)[0] == num else leaf
        close(loss.value(model, jax.tree.map(rows, drawn))[1].each, each.each[keep], 1e-5)


def _model_of(case):
    return MODELS[case.call]
