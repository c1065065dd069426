"""The denoisers of jsamp.denoise: how to build each, another like it, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, wrong
from laws import WEIGHTS, mixture, network

import jsamp as js

D = js.denoise
VP = js.noise.VP()
MODEL = jax.tree_util.Partial(network, WEIGHTS)
OTHER = jax.tree_util.Partial(network, {"gain": np.float32(-0.3), "bend": np.float32(0.9)})
DATA = np.random.default_rng(0).normal(size=(6, 2))

CENTERS = np.array([[0.5, -1.0], [1.0, 0.3], [-0.8, 0.2]], np.float32)


def LABELLED(label):
    """A denoiser of a class, whose label may be traced."""
    return D.GaussianMixture(VP, weights=[1.0], means=jnp.asarray(CENTERS)[label][None], stds=[0.6])


def CLASSIFIER(x0):
    """Logits of the classes."""
    return -jnp.sum((x0[None] - CENTERS) ** 2, axis=-1)


LEVELS = jax.tree_util.Partial(lambda law, x, t: jnp.log(law.responsibilities(x, t)), mixture(VP))
NET, NOT = (js.Denoiser(m, VP, predicts="x0") for m in (MODEL, OTHER))
SIDES = D.LinearOp(lambda x: jnp.stack([x[0] + x[1], x[0] - x[1]]))
KEEP = D.LinearOp.mask(np.array([1.0, 0.0], np.float32))
SEEN, ELSE = jnp.array([0.7, -0.4]), jnp.array([0.2, 0.1])


def RECONSTRUCT(x):
    """A smooth auto-encoder."""
    return 0.8 * jnp.tanh(x)


def ENERGY(x0):
    """A smooth energy of a sample."""
    return jnp.sum(jnp.cos(x0)) + x0[..., 0] ** 2


def TWIST(x0, var):
    """A likelihood of the predicted x0."""
    return -jnp.sum((x0 - 0.5) ** 2, -1) / (1 + var)


# Every denoiser, with another of the same structure.
TURN = np.array([[0.0, 0.7], [-0.3, 0.0]], np.float32)
CASES = {
    **{f"Denoiser({p})": (js.Denoiser(MODEL, VP, predicts=p), js.Denoiser(OTHER, VP, predicts=p))
       for p in ("eps", "x0", "v", "score", "velocity")},
    "EDM": (js.Denoiser(D.EDM(MODEL, 0.7), VP, "x0"), js.Denoiser(D.EDM(OTHER, 0.6), VP, "x0")),
    "Denoiser(time_map)": (js.Denoiser(MODEL, VP, time_map=lambda t: t / 2), None),
    "GaussianMixture": (mixture(VP), mixture(js.noise.VP(0.2, 15.0))),
    "GaussianMixture(covs)": (
        D.GaussianMixture(VP, weights=[1.0, 2.0], means=DATA[:2], covs=[np.eye(2), [[1.0, 0.4], [0.4, 0.5]]]),
        D.GaussianMixture(VP, weights=[2.0, 2.0], means=DATA[2:4], covs=[np.eye(2), [[1.0, 0.2], [0.2, 0.5]]]),
    ),
    "Empirical": (D.Empirical(VP, DATA), D.Empirical(VP, DATA * 0.5)),
    "ClassifierFree(two)": (
        D.ClassifierFree(js.Denoiser(MODEL, VP), mixture(VP), 3.0),
        D.ClassifierFree(js.Denoiser(OTHER, VP), mixture(VP), 2.0),
    ),
    "ClassifierFree(one)": (
        D.ClassifierFree(js.Denoiser(MODEL, VP), js.Denoiser(OTHER, VP), 3.0),
        D.ClassifierFree(js.Denoiser(OTHER, VP), js.Denoiser(MODEL, VP), 2.0),
    ),
    "Auto": (D.Auto(js.Denoiser(MODEL, VP), mixture(VP), 3.0), D.Auto(js.Denoiser(OTHER, VP), mixture(VP), 2.0)),
    "Compose": (
        D.Compose([js.Denoiser(MODEL, VP), mixture(VP)], js.Denoiser(OTHER, VP), [2.0, -0.5]),
        D.Compose([js.Denoiser(OTHER, VP), mixture(VP)], js.Denoiser(MODEL, VP), [2.0, 0.5]),
    ),
    "Compose(one)": (D.Compose([js.Denoiser(MODEL, VP)], js.Denoiser(OTHER, VP), [2.0]), None),
    "CFGpp": (
        D.CFGpp(js.Denoiser(MODEL, VP), js.Denoiser(OTHER, VP), 0.6),
        D.CFGpp(js.Denoiser(OTHER, VP), js.Denoiser(MODEL, VP), 0.5),
    ),
    "Rescale": (D.Rescale(D.ClassifierFree(js.Denoiser(MODEL, VP), js.Denoiser(OTHER, VP), 3.0)), None),
    "Rescale(v)": (D.Rescale(D.ClassifierFree(js.Denoiser(MODEL, VP), mixture(VP), 3.0), 0.5, "v"), None),
    "APG": (
        D.APG(js.Denoiser(MODEL, VP), js.Denoiser(OTHER, VP), 3.0, norm_threshold=0.2, eta=0.5),
        D.APG(js.Denoiser(OTHER, VP), js.Denoiser(MODEL, VP), 2.0, norm_threshold=0.2, eta=0.1),
    ),
    "CFGZero": (D.CFGZero(js.Denoiser(MODEL, VP), js.Denoiser(OTHER, VP), 3.0, zero_init=0.9), None),
    "DPS": (D.DPS(NET, SIDES, SEEN), D.DPS(NOT, SIDES, ELSE, 0.3)),
    "DPS(gaussian)": (
        D.DPS(NET, SIDES, SEEN, 1.0, "gaussian", 0.5), D.DPS(NOT, SIDES, ELSE, 0.5, "gaussian", 0.6),
    ),
    "PiGDM": (D.PiGDM(NET, SIDES, SEEN, 0.3), D.PiGDM(NOT, SIDES, ELSE, 0.4)),
    "PiGDM(mask)": (D.PiGDM(NET, KEEP, KEEP(SEEN)), D.PiGDM(NOT, KEEP, KEEP(ELSE))),
    "TMPD": (D.TMPD(NET, SIDES, SEEN, 0.3), D.TMPD(NOT, SIDES, ELSE, 0.4)),
    "MMPS": (D.MMPS(NET, SIDES, SEEN, 0.3), D.MMPS(NOT, SIDES, ELSE, 0.4)),
    "TMPD(mask)": (D.TMPD(NET, KEEP, KEEP(SEEN)), D.TMPD(NOT, KEEP, KEEP(ELSE))),
    "TMPD(iterations)": (D.TMPD(NET, SIDES, SEEN, 0.3, 4), D.TMPD(NOT, SIDES, ELSE, 0.4, 4)),
    "TMPD(diagonal)": (D.TMPD(NET, SIDES, SEEN, 0.3, covariance="diagonal"), None),
    "DDNM": (D.DDNM(NET, KEEP, KEEP(SEEN)), D.DDNM(NOT, KEEP, KEEP(ELSE), 0.5)),
    "Classifier": (D.Classifier(mixture(VP), LEVELS, 1, 2.0), D.Classifier(mixture(VP), LEVELS, 2, 3.0)),
    "Minority": (D.Minority(mixture(VP), LEVELS, 1), D.Minority(mixture(VP), LEVELS, 2, 3.0)),
    "Energy": (D.Energy(NET, ENERGY), D.Energy(NOT, ENERGY, 2.0)),
    "Energy(x0)": (D.Energy(NET, ENERGY, through="x0"), D.Energy(NOT, ENERGY, 2.0, "x0")),
    "Reward": (D.Reward(NET, ENERGY, 2.0, 0.1), D.Reward(NOT, ENERGY, 3.0, 0.2)),
    "ForwardModel": (D.ForwardModel(MODEL, jnp.sin, VP), D.ForwardModel(OTHER, jnp.sin, VP)),
    "from_reconstruction": (
        D.from_reconstruction(RECONSTRUCT, VP, 0.5), D.from_reconstruction(RECONSTRUCT, VP, 0.6),
    ),
    "from_reconstruction(level)": (D.from_reconstruction(lambda x, s: RECONSTRUCT(x) / (1 + s), VP), None),
    "Interval": (
        D.Interval(js.Denoiser(MODEL, VP), mixture(VP), 0.1, 100.0),
        D.Interval(js.Denoiser(OTHER, VP), mixture(VP), 0.2, 90.0),
    ),
    "Gauge": (
        D.add_gauge(js.Denoiser(MODEL, VP), TURN), D.add_gauge(js.Denoiser(OTHER, VP), 2 * TURN),
    ),
    "GradientFree": (D.GradientFree(LABELLED, 1, CLASSIFIER, 3.0), D.GradientFree(LABELLED, 2, CLASSIFIER, 2.0)),
    "Threshold": (D.Threshold(js.Denoiser(MODEL, VP), limit=0.3), D.Threshold(js.Denoiser(OTHER, VP), limit=0.4)),
    "Threshold(dynamic)": (
        D.Threshold(js.Denoiser(MODEL, VP), 0.9, limit=0.3), D.Threshold(js.Denoiser(OTHER, VP), 0.8, limit=0.4),
    ),
    "Twisted": (D.Twisted(NET, TWIST), D.Twisted(NOT, TWIST, 0.5, 2.0)),
    "Threshold(ClassifierFree)": (D.Threshold(D.ClassifierFree(mixture(VP), mixture(VP), 5.0), 0.995), None),
}  # fmt: skip
X = np.array([[0.4, -1.2], [0.9, 0.1], [-0.3, 0.6]], np.float32)


# One denoiser for each piece of code that others share: these are compiled, the others traced and run op by op.
COMPILED = [
    "Denoiser(v)", "Denoiser(velocity)", "GaussianMixture(covs)", "Empirical", "ClassifierFree(one)", "Compose", "CFGpp",
    "Rescale(v)", "APG", "CFGZero", "DPS", "PiGDM(mask)", "TMPD", "DDNM", "Classifier", "Energy", "Reward",
    "ForwardModel", "Interval", "GradientFree", "Threshold(dynamic)", "Twisted",
]  # fmt: skip


# ---------------------------------------------------------------- what each refuses

GOOD = mixture(VP)


def measured(name, *rows):
    """What every measurement refuses, and what this one does."""
    make = getattr(D, name)
    return [
        *wrong(
            make,
            ((3, KEEP, SEEN), TypeError, f"{name}: denoiser must be callable"),
            ((GOOD, np.eye(2), SEEN), TypeError, rf"{name}: op must be callable as op\(x\)"),
            ((GOOD, KEEP, np.array([np.nan, 0.0])), ValueError, f"{name}: y must be finite"),
        ),
        *wrong(
            functools.partial(make, GOOD, KEEP, SEEN),
            ({"event_ndim": -1}, ValueError, f"{name}: event_ndim"),
            *((change, ValueError, f"{name}: {match}") for change, match in rows),
        ),
        (lambda: make(GOOD, KEEP, jnp.ones(3))(X[0], 0.4), ValueError, rf"{name}: y has shapes.*op\(x0\) has"),
        (lambda: make(GOOD, KEEP, [1.0, 2.0])(X[0], 0.4), TypeError, f"{name}: y must have the structure"),
        (lambda: make(GOOD, KEEP, SEEN, event_ndim=3)(X[0], 0.4), ValueError, f"{name}: event_ndim=3 does not fit"),
    ]


def contrasted(name):
    """What guidance by two predictions refuses: no denoiser, no weight, and kicks inside."""
    make = getattr(D, name)
    return [
        (lambda: make(3, GOOD), TypeError, f"{name}: cond|{name}: main"),
        (lambda: make(GOOD, lambda x, t: x), TypeError, "must be a denoiser"),
        (lambda: make(D.CFGpp(GOOD, GOOD), GOOD)(X[0], 0.4), TypeError, "outermost"),
        *wrong(
            functools.partial(make, GOOD, GOOD),
            *(((scale,), ValueError, f"{name}: scale must be finite") for scale in (np.nan, np.inf, [1.0, np.nan])),
        ),
    ]


def classified(name):
    make = getattr(D, name)
    at = lambda *arguments: make(*arguments)(X[0], 0.4)
    return [
        *wrong(
            make,
            ((3, LEVELS, 1), TypeError, f"{name}: denoiser"), ((GOOD, 3, 1), TypeError, f"{name}: classifier"),
            ((GOOD, LEVELS, 0.5), TypeError, f"{name}: l"), ((GOOD, LEVELS, 1, np.nan), ValueError, f"{name}: scale must be finite"),
        ),
        *wrong(
            at, ((GOOD, LEVELS, 4), ValueError, f"{name}: label must be in 0..3, got 4"),
            *(((GOOD, logits, 0), ValueError, f"{name}: classifier must return logits") for logits in (lambda x, t: x[0], lambda x, t: x[:1])),
        ),
    ]  # fmt: skip


def by_name(function, good, *rows):
    """Refusals of a function of which one argument, given by name, is changed; the message names it."""
    who = function.__name__
    return wrong(function, *(({**good, **change}, error, f"{who}: {next(iter(change))}") for change, error in rows))


def two(**options):
    return {"weights": [0.5, 0.5], "means": [[0.0, 0.0], [1.0, 1.0]], **options}


FREE = {"main": LABELLED, "label": 1, "classifier": CLASSIFIER}
PLAN = js.solve.ddim(VP, js.noise.time_grid(VP, 4))
REFUSALS = {
    **{name: contrasted(name) for name in ("APG", "Auto", "CFGZero", "CFGpp")},
    **{name: classified(name) for name in ("Classifier", "Minority")},
    "DPS": measured(
        "DPS", ({"scale": -1.0}, "scale"), ({"likelihood": "poisson"}, "likelihood"), ({"noise": 0.1}, "give noise"),
        ({"likelihood": "gaussian"}, "give noise"), ({"likelihood": "gaussian", "noise": 0.0}, "noise"),
    ),
    "PiGDM": measured(
        "PiGDM", ({"noise": -1.0}, "noise"), ({"step": "half"}, "step"), ({"data_std": 0.0}, "data_std"),
        ({"iterations": 0}, "iterations"),
    ),
    "TMPD": measured("TMPD", ({"noise": -1.0}, "noise"), ({"iterations": 0}, "iterations"), ({"covariance": "none"}, "covar")),
    "MMPS": measured("MMPS", ({"noise": -1.0}, "noise"), ({"iterations": 0}, "iterations")),
    "DDNM": measured("DDNM", ({"scale": np.inf}, "scale"), ({"iterations": 0}, "iterations")),
    "Denoiser": [
        *wrong(
            js.Denoiser,
            ((3, VP), TypeError, r"model must be callable as model\(x, t\)"),
            ((MODEL, "vp"), TypeError, "schedule must be a noise schedule"),
            ((MODEL, VP, "noise"), ValueError, "predicts must be one of 'eps'"),
            ((MODEL, VP, "eps", 1000), TypeError, "time_map must be callable"),
        ),
        (lambda: js.Denoiser(lambda x, t: x[None], VP)(X[0], 0.4), TypeError, r"shape of x.*batch axis"),
        (lambda: js.Denoiser(lambda x, t: (x, x), VP)(X[0], 0.4), TypeError, "structure of x"),
    ],
    "GaussianMixture": [
        *wrong(
            functools.partial(D.GaussianMixture, VP),
            (two(), ValueError, "exactly one"), (two(stds=[1.0, 1.0], covs=np.ones((2, 2, 2))), ValueError, "exactly one"),
            (two(stds=[1.0, 0.0]), ValueError, "stds"), (two(stds=[1.0, 1.0, 1.0]), ValueError, "stds must be"),
            (two(covs=np.ones((2, 2))), ValueError, "covs must be"),
            (two(covs=[np.eye(2), [[1.0, 2.0], [2.0, 1.0]]]), ValueError, "positive semi-definite"),
            (two(covs=[np.eye(2), [[1.0, 0.5], [0.0, 1.0]]]), ValueError, "symmetric"),
            *((two(weights=w, stds=[1.0, 1.0]), ValueError, "weights") for w in ([0.5], [0.5, -0.5], [np.nan, 1.0])),
        ),
        (lambda: GOOD(jnp.ones(3), 0.4), ValueError, r"x must be \[..., 2\]"),
    ],
    "Empirical": [
        *wrong(
            functools.partial(D.Empirical, VP),
            *(((data,), ValueError, "data") for data in (np.zeros((0, 2)), np.zeros(3), np.array([[np.nan, 0.0]]))),
        ),
        (lambda: D.Empirical(VP, DATA)(jnp.ones(3), 0.4), ValueError, "x must be"),
    ],
    "ClassifierFree": wrong(
        D.ClassifierFree,
        ((MODEL, MODEL), TypeError, r"js\.Denoiser"), ((GOOD, None), TypeError, "callable"), ((GOOD, GOOD, np.inf), ValueError, "scale"),
    ),
    "Threshold": wrong(
        D.Threshold,
        *(({"denoiser": NET, **change}, ValueError, next(iter(change)))
          for change in ({"quantile": 0.0}, {"quantile": 1.1}, {"limit": 0.0}, {"event_ndim": -1})),
        ((3,), TypeError, "callable"),
    ),
    "Compose": wrong(
        D.Compose,
        (([GOOD], GOOD, [1.0, 2.0]), ValueError, "one scale for each condition"),
        (([GOOD, lambda x, t: x], GOOD, [1.0, 2.0]), TypeError, r"conds\[1\] must be a denoiser"),
    ),
    "Rescale": [
        (lambda: D.Rescale(GOOD), TypeError, "no conditional part"),
        *wrong(
            functools.partial(D.Rescale, D.ClassifierFree(GOOD, GOOD)),
            ((2.0,), ValueError, "Rescale: phi"), ((0.5, "score"), ValueError, "Rescale: space"),
            ((0.5, "x0", -1), ValueError, "Rescale: event_ndim"),
        ),
    ],
    "Interval": [
        *wrong(
            functools.partial(D.Interval, GOOD, GOOD),
            *((ends, ValueError, r"low < high|Interval: high .* must be finite") for ends in [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan)]),
        ),
        (lambda: D.Interval(D.CFGpp(GOOD, GOOD), GOOD)(X[0], 0.4), TypeError, "around Interval"),
        *wrong(
            functools.partial(D.Interval.of_steps, GOOD, GOOD, PLAN),
            *((ends, ValueError, r"Interval.of_steps: (start|stop)") for ends in [(0, 5), (2, 2), (4, 4), (-1, 2)]),
        ),
    ],
    "GradientFree": [
        *wrong(
            D.GradientFree,
            ({**FREE, "label": 1.5}, TypeError, "label must be an integer"), ({**FREE, "scale": -1.0}, ValueError, "scale"),
            ({**FREE, "main": GOOD}, TypeError, "missing 1 required positional"),
            ({**FREE, "classifier": 3}, TypeError, r"classifier must be callable as classifier\(x0\)"),
        ),
        *wrong(
            lambda **change: D.GradientFree(**{**FREE, **change})(X[0], 0.4),
            ({"label": 3}, ValueError, "label must be in 0..2"), ({"classifier": lambda x0: x0[:1]}, ValueError, "classes >= 2"),
            ({"lag": True}, ValueError, "needs steer=js.steer.Memory"),
        ),
    ],
    "Energy": by_name(
        D.Energy, {"denoiser": GOOD, "energy": ENERGY}, ({"denoiser": 3}, TypeError), ({"energy": 3}, TypeError),
        ({"scale": np.nan}, ValueError), ({"through": "eps"}, ValueError),
    ),
    "Reward": by_name(
        D.Reward, {"denoiser": GOOD, "reward": ENERGY, "target": 1.0}, ({"denoiser": 3}, TypeError), ({"reward": 3}, TypeError),
        ({"target": np.nan}, ValueError), ({"noise": -1.0}, ValueError), ({"event_ndim": -1}, ValueError),
    ),
    "ForwardModel": [
        *wrong(
            D.ForwardModel,
            ((3, jnp.sin, VP), TypeError, "ForwardModel: signal"), ((MODEL, 3, VP), TypeError, "ForwardModel: forward"),
            ((MODEL, jnp.sin, 3), TypeError, "ForwardModel: sch"),
        ),
        (lambda: D.ForwardModel(MODEL, lambda s: s[:1], VP)(X[0], 0.4), TypeError,
         r"ForwardModel: forward\(signal\) must have the shape of x"),
    ],
    "Gauge": [
        *wrong(
            functools.partial(D.add_gauge, NET),
            ((np.ones(3, np.float32),), "add_gauge: .*square"), ((np.full((2, 2), np.nan, np.float32),), "add_gauge: .*matrix"),
            ((np.ones((2, 2), int),), "add_gauge: .*floating"),
        ),
        (lambda: D.add_gauge(NET, np.eye(5, dtype=np.float32))(X[0], 0.4), ValueError, "Gauge: the last axes"),
    ],
    "from_reconstruction": wrong(
        D.from_reconstruction,
        ((3, VP), TypeError, "from_reconstruction: reconstruct must be callable"),
        *(((RECONSTRUCT, VP, sigma), ValueError, "from_reconstruction: sigma") for sigma in (0.0, -1.0, np.nan)),
    ),
    "Twisted": wrong(
        D.Twisted,
        ({"denoiser": GOOD, "loglikelihood": TWIST, "data_std": -1.0}, ValueError, "Twisted: data_std"),
        ({"denoiser": GOOD, "loglikelihood": TWIST, "scale": np.inf}, ValueError, "Twisted: scale"),
        ((GOOD, 3), TypeError, "loglikelihood must be callable"),
    ),
}  # fmt: skip


# ---------------------------------------------------------------- one case for each denoiser


def case_of(label):
    """A case of a denoiser; those of COMPILED stand for the code of the others."""
    one, other = CASES[label]
    name = label.split("(")[0]
    first = next(key for key in CASES if key.split("(")[0] == name) == label
    return Case(
        lambda: one, (X[0], np.float32(0.4)), other=None if other is None else lambda: other,
        mechanism="" if label in COMPILED else "shared", tolerance=5e-6, dtypes=DTYPES.get(label, "kept"),
        refusals=REFUSALS.get(name, ()) if first else (),
    )  # fmt: skip


DTYPES = {"ForwardModel": None}  # what the user's forward map returns
ALONE = {label: case_of(label) for label in CASES}
DENOISERS = {}
for _label, _case in ALONE.items():
    DENOISERS.setdefault(_label.split("(")[0], []).append(_case)
