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
    (lambda: L.Match(3), "schedule must have alpha"),
    (lambda: L.Match(VP, predicts="noise"), "predicts must be one of"),
    (lambda: L.Match(VP, weight=-1.0), "weight must be finite"),
    (lambda: L.Match(VP, drop=0.1), "needs null"),
    (lambda: L.Match(VP, drop=1.5, null=0), "drop must be finite"),
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
]
REPAIR_REFUSALS = [
    (make(L.Regeneration, schedule=SIGNALS, predicts="v"), "predicts must be one of"),
    (make(L.Regeneration, schedule=SIGNALS, mix=1.5), "mix must be finite"),
    (make(L.Regeneration, schedule=None), "schedule must have alpha"),
    (on(L.Regeneration(SIGNALS), X, PAIR), r"pair \(x, y\)"),
    (on(L.Regeneration(SIGNALS), (X, Y)), r"model must be the tuple \(regressor, network\)"),
    (on(L.Regeneration(SIGNALS), (X, Y), (PAIR[0],)), "got a tuple of 1"),
    (on(L.Regeneration(SIGNALS), (X, Y), (lambda y: y[:1], PAIR[1])), "shape of x"),
]
VIEW_REFUSALS = [
    (make(L.ForwardModelMatch, forward=3, schedule=VP), "forward must be callable"),
    (make(L.ForwardModelMatch, forward=RADON, schedule=VP, extra_weight=-1.0), "extra_weight must be finite"),
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

REGISTRY = {
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
            (make(L.InstanceNoise, scale=1.0, num=0), "num must be"),
            (make(L.InstanceNoise, scale=1.0, latent="cauchy"), "latent must be one of"),
        ],
    ),
    "latent_loglik": Case(
        lambda: lambda x: L.latent_loglik(line, x, 0.5, num=8), (X[0],), smooth=True,
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
    assert loss.player is None or 0 <= loss.player < len(model)
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
