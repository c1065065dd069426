"""Laws of every public object of `jsamp.denoise`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from laws import WEIGHTS, Traces, assert_same_bits, central, mixture, network

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


@pytest.mark.parametrize("name", CASES)
def test_traces(name):
    """Shapes, dtypes, one trace for all numbers, x = alpha x0 + sigma eps, another result from other numbers."""
    denoiser, other = CASES[name]
    assert isinstance(denoiser, D.DenoiserLike)
    assert denoiser.schedule.alpha(0.0) == 1
    traces = []
    call = jax.jit(lambda denoiser, x, t: (traces.append(1), denoiser(x, t))[1])
    out = call.lower(denoiser, X[0], 0.4).out_info
    assert isinstance(out, (js.Prediction, D.Guided))
    assert all((leaf.shape, leaf.dtype) == ((2,), jnp.float32) for leaf in (out.x0, out.eps))
    eager = denoiser(X[0], 0.4)
    assert all(np.all(np.isfinite(leaf)) for leaf in (eager.x0, eager.eps))
    np.testing.assert_allclose(VP.alpha(0.4) * eager.x0 + VP.sigma(0.4) * eager.eps, X[0], rtol=1e-5, atol=1e-6)
    if other is not None:
        call.lower(other, X[0], 0.5)
        assert len(traces) == 1
        assert not np.array_equal(other(X[0], 0.5).x0, eager.x0)


@pytest.mark.parametrize("name", COMPILED)
def test_calls(name):
    """jit, vmap, dtypes, trees of numbers, gradients, x = alpha x0 + sigma eps."""
    denoiser, other = CASES[name]
    traces = []

    def call(denoiser, x, t):
        traces.append(1)
        return denoiser(x, t)

    jitted = jax.jit(call)
    out = jitted(denoiser, X[0], 0.4)
    assert isinstance(out, (js.Prediction, D.Guided))
    for leaf in (out.x0, out.eps):
        assert leaf.shape == (2,)
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf))
    if other is not None:
        moved = jitted(other, X[0], 0.5)
        assert len(traces) == 1
        assert not np.array_equal(moved.x0, out.x0)
    eager = denoiser(X[0], 0.4)
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(VP.alpha(0.4) * out.x0 + VP.sigma(0.4) * out.eps, X[0], rtol=1e-5, atol=1e-6)
    # A batch is a vmap; gradients in x, t and every number of the denoiser, by the same program.
    leaves, structure = jax.tree.flatten(denoiser)
    real = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]

    def loss(numbers, x, t):
        changed = dict(zip(real, numbers, strict=True))
        out = jax.tree.unflatten(structure, [changed.get(i, leaf) for i, leaf in enumerate(leaves)])(x, t)
        return jnp.sum(out.x0**2) + jnp.sum(out.eps**2), (out.x0, out.eps)

    numbers, times = [jnp.asarray(leaves[i], jnp.float32) for i in real], np.array([0.2, 0.4, 0.7], np.float32)
    slope = jax.vmap(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), (None, 0, 0))
    slopes, batch = jax.jit(slope)(numbers, X, times)
    for i, t in enumerate((0.2, 0.4, 0.7)):
        one = jitted(denoiser, X[i], t)
        np.testing.assert_allclose(batch[0][i], one.x0, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(batch[1][i], one.eps, rtol=2e-5, atol=2e-6)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("name", [n for n in COMPILED if "Threshold" not in n])
def test_slopes_in_time_and_state(name, x64):
    denoiser, x = CASES[name][0], X[0].astype(np.float64)
    way = np.array([0.6, -0.8])

    def along(h):
        out = denoiser(x + h * way, 0.4 + 0.1 * h)
        return jnp.stack([out.x0, out.eps])

    both = jax.jit(lambda h: jax.jvp(along, (h,), (1.0,)))
    slope = both(0.0)[1]
    assert slope.dtype == jnp.float64
    np.testing.assert_allclose(slope, central(lambda h: both(h)[0], 1e-3), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "name",
    [
        *("Denoiser(v)", "GaussianMixture", "Empirical", "ClassifierFree(one)", "Threshold(dynamic)"),
        *("TMPD", "TMPD(iterations)", "PiGDM(mask)"),
    ],
)
def test_inside_shard_map(name):
    denoiser = CASES[name][0]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = np.random.default_rng(1).normal(size=(16, 2)).astype(np.float32)
    call = lambda d, x: jax.vmap(lambda x: d(x, 0.4))(x)
    out = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data")))(denoiser, x)
    alone = jax.jit(call)(denoiser, x)
    for a, b in zip(out, alone, strict=True):
        assert len(a.sharding.device_set) == 8
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("Denoiser", "Threshold", "Classifier"))][:5])
def test_trees_are_inputs(name):
    """A tree of leaves gives what its leaves give."""
    denoiser = CASES[name][0]
    tree = {"a": X[0, :1], "b": (X[0, 1:],)}
    out, flat = denoiser(tree, 0.4), denoiser(X[0], 0.4)
    np.testing.assert_allclose(jnp.concatenate([out.x0["a"], out.x0["b"][0]]), flat.x0, rtol=1e-6)
    np.testing.assert_allclose(jnp.concatenate([out.eps["a"], out.eps["b"][0]]), flat.eps, rtol=1e-6)


def test_bfloat16_networks_keep_a_float32_state():
    def coarse(x, t):
        return network(WEIGHTS, x, t).astype(jnp.bfloat16)

    out = js.Denoiser(coarse, VP, predicts="v")(X[0], 0.4)
    assert out.x0.dtype == out.eps.dtype == jnp.float32
    assert js.Denoiser(MODEL, VP)(jnp.asarray(X[0], jnp.bfloat16), 0.4).eps.dtype == jnp.bfloat16


# ---------------------------------------------------------------- one law for each public object


def law_denoiser(name):
    for arguments, error, match in [
        ((3, VP), TypeError, r"model must be callable as model\(x, t\)"),
        ((MODEL, "vp"), TypeError, "schedule must have alpha"),
        ((MODEL, VP, "noise"), ValueError, "predicts must be one of 'eps'"),
        ((MODEL, VP, "eps", 1000), TypeError, "time_map must be callable"),
    ]:
        with pytest.raises(error, match=match):
            js.Denoiser(*arguments)
    with pytest.raises(TypeError, match=r"shape of x.*batch axis"):
        js.Denoiser(lambda x, t: x[None], VP)(X[0], 0.4)
    with pytest.raises(TypeError, match="structure of x"):
        js.Denoiser(lambda x, t: (x, x), VP)(X[0], 0.4)
    # Fresh weights, one trace.
    traces = Traces()
    call = jax.jit(lambda d, x: d(x, 0.4).x0)
    for gain in (0.1, 0.2):
        call(js.Denoiser(traces.bind({"gain": np.float32(gain), "bend": np.float32(1)}), VP), X[0])
    assert traces.count == 1
    times = []
    js.Denoiser(lambda x, t: (times.append(t), x)[1], VP, time_map=lambda t: 1000 * t)(X[0], 0.25)
    assert times[0] == 250
    assert times[0].shape == ()


def law_protocol(name):
    assert isinstance(mixture(VP), D.DenoiserLike)
    assert not isinstance(lambda x, t: x, D.DenoiserLike)


def law_prediction(name):
    assert js.Prediction._fields == ("x0", "eps")


def law_mixture(name):
    means = [[0.0, 0.0], [1.0, 1.0]]
    for wrong, match in [
        ({}, "exactly one"),
        ({"stds": [1.0, 1.0], "covs": np.ones((2, 2, 2))}, "exactly one"),
        ({"stds": [1.0, 0.0]}, "stds"),
        ({"stds": [1.0, 1.0, 1.0]}, "stds must be"),
        ({"covs": np.ones((2, 2))}, "covs must be"),
        ({"covs": [np.eye(2), [[1.0, 2.0], [2.0, 1.0]]]}, "positive semi-definite"),
        ({"covs": [np.eye(2), [[1.0, 0.5], [0.0, 1.0]]]}, "symmetric"),
    ]:
        with pytest.raises(ValueError, match=match):
            D.GaussianMixture(VP, weights=[0.5, 0.5], means=means, **wrong)
    for weights in ([0.5], [0.5, -0.5], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="weights"):
            D.GaussianMixture(VP, weights=weights, means=means, stds=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"x must be \[..., 2\]"):
        mixture(VP)(jnp.ones(3), 0.4)

    def traced(weights, means, stds):
        return jnp.sum(D.GaussianMixture(VP, weights=weights, means=means, stds=stds)(X[0], 0.4).x0)

    grads = jax.jit(jax.grad(traced, argnums=(0, 1, 2)))(jnp.ones(2), jnp.array(means), jnp.ones(2))
    assert all(np.all(np.isfinite(g)) for g in grads)


def law_empirical(name):
    for data in (np.zeros((0, 2)), np.zeros(3), np.array([[np.nan, 0.0]])):
        with pytest.raises(ValueError, match="data"):
            D.Empirical(VP, data)
    with pytest.raises(ValueError, match="x must be"):
        D.Empirical(VP, DATA)(jnp.ones(3), 0.4)


def law_classifier_free(name):
    with pytest.raises(TypeError, match=r"js\.Denoiser"):
        D.ClassifierFree(MODEL, MODEL)
    with pytest.raises(TypeError, match="callable"):
        D.ClassifierFree(mixture(VP), None)
    with pytest.raises(ValueError, match="scale"):
        D.ClassifierFree(mixture(VP), mixture(VP), np.inf)


def law_threshold(name):
    good = js.Denoiser(MODEL, VP)
    cases = [({"quantile": 0.0}, "quantile"), ({"quantile": 1.1}, "quantile"), ({"limit": 0.0}, "limit")]
    for wrong, match in [*cases, ({"event_ndim": -1}, "event_ndim")]:
        with pytest.raises(ValueError, match=match):
            D.Threshold(good, **wrong)
    with pytest.raises(TypeError, match="callable"):
        D.Threshold(3)


# One line for every public object of the room.
def law_contrast(name):
    """Guidance by two predictions refuses what is not a denoiser and what is not a weight."""
    make = getattr(D, name)
    with pytest.raises(TypeError, match=f"{name}: cond|{name}: main"):
        make(3, mixture(VP))
    with pytest.raises(TypeError, match="must be a denoiser"):
        make(mixture(VP), lambda x, t: x)
    for scale in (np.nan, np.inf, [1.0, np.nan]):
        with pytest.raises(ValueError, match=f"{name}: scale must be finite"):
            make(mixture(VP), mixture(VP), scale)
    with pytest.raises(TypeError, match="outermost"):
        make(D.CFGpp(mixture(VP), mixture(VP)), mixture(VP))(X[0], 0.4)
    # A weight may be a callable of t, and one for each sample of a batch.
    at = make(mixture(VP), js.Denoiser(MODEL, VP), lambda t: 5 * t)(X[0], 0.4)
    np.testing.assert_allclose(
        jax.tree.leaves(at)[0], jax.tree.leaves(make(mixture(VP), js.Denoiser(MODEL, VP), 2.0)(X[0], 0.4))[0], rtol=1e-6
    )
    if name not in ("APG", "CFGZero"):
        batch = make(mixture(VP), js.Denoiser(MODEL, VP), np.array([0.5, 1.0, 2.0], np.float32))(X, 0.4)
        for i, w in enumerate((0.5, 1.0, 2.0)):
            one = make(mixture(VP), js.Denoiser(MODEL, VP), w)(X[i], 0.4)
            for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
                np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=2e-6)


def law_compose(name):
    with pytest.raises(ValueError, match="one scale for each condition"):
        D.Compose([mixture(VP)], mixture(VP), [1.0, 2.0])
    with pytest.raises(TypeError, match=r"conds\[1\] must be a denoiser"):
        D.Compose([mixture(VP), lambda x, t: x], mixture(VP), [1.0, 2.0])


def law_rescale(name):
    with pytest.raises(TypeError, match="no conditional part"):
        D.Rescale(mixture(VP))
    guided = D.ClassifierFree(mixture(VP), mixture(VP))
    for arguments, match in [((2.0,), "phi"), ((0.5, "score"), "space"), ((0.5, "x0", -1), "event_ndim")]:
        with pytest.raises(ValueError, match=f"Rescale: {match}"):
            D.Rescale(guided, *arguments)


def law_interval(name):
    for low, high in [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan)]:
        with pytest.raises(ValueError, match=r"low < high|Interval: high .* must be finite"):
            D.Interval(mixture(VP), mixture(VP), low, high)
    with pytest.raises(TypeError, match="around Interval"):
        D.Interval(D.CFGpp(mixture(VP), mixture(VP)), mixture(VP))(X[0], 0.4)
    plan = js.solve.ddim(VP, js.noise.time_grid(VP, 4))
    for start, stop in [(0, 5), (2, 2), (4, 4), (-1, 2)]:
        with pytest.raises(ValueError, match=r"Interval.of_steps: (start|stop)"):
            D.Interval.of_steps(mixture(VP), mixture(VP), plan, start, stop)


def law_gradient_free(name):
    for change, error, match in [
        ({"label": 1.5}, TypeError, "label must be an integer"),
        ({"scale": -1.0}, ValueError, "scale"),
        ({"main": mixture(VP)}, TypeError, "missing 1 required positional"),
        ({"classifier": 3}, TypeError, r"classifier must be callable as classifier\(x0\)"),
    ]:
        with pytest.raises(error, match=match):
            D.GradientFree(**({"main": LABELLED, "label": 1, "classifier": CLASSIFIER} | change))
    for change, match in [
        ({"label": 3}, "label must be in 0..2"),
        ({"classifier": lambda x0: x0[:1]}, "classes >= 2"),
        ({"lag": True}, "needs steer=js.steer.Memory"),
    ]:
        with pytest.raises(ValueError, match=match):
            D.GradientFree(**({"main": LABELLED, "label": 1, "classifier": CLASSIFIER} | change))(X[0], 0.4)
    # No gradient is taken: nothing in the program is a transpose of another part.
    traces = Traces()
    model = lambda k: js.Denoiser(traces.bind({"gain": 0.1 * k, "bend": np.float32(1)}), VP)
    jax.make_jaxpr(D.GradientFree(model, 1, CLASSIFIER))(X[0], 0.4)
    assert traces.count == 2


def law_scale(name):
    plan = js.solve.ddim(VP, js.noise.time_grid(VP, 4))
    for values in (2.0, [1.0, 2.0], [1.0, 2.0, 3.0, np.nan]):
        with pytest.raises(ValueError, match="PerStep"):
            D.PerStep(plan, values)
    assert [float(D.PerStep(plan, [4.0, 3.0, 2.0, 1.0])(t)) for t in plan.t] == [4.0, 3.0, 2.0, 1.0]


def law_bridge(name):
    """jit, vmap, dtypes and new numbers; a prediction like x."""
    path = js.noise.Interpolant("linear")
    make = lambda k: D.BridgeMixture(
        path, mixture(VP), D.GaussianMixture(VP, weights=[k], means=DATA[:1] * k, stds=[0.5])
    )
    if name == "Bridge":
        inner = make
        make = lambda k: D.Bridge(path, lambda x, t: inner(1.0)(x, t).x0, inner(1.0).score)
    traces = []
    call = jax.jit(lambda d, x, t: (traces.append(1), d(x, t))[1])
    out = call(make(1.0), X[0], 0.4)
    np.testing.assert_allclose(np.array(make(1.0)(X[0], 0.4)), np.array(out), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(make(1.0), (0, None))(X, 0.4).x0[0], out.x0, rtol=2e-5, atol=1e-6)
    if name == "BridgeMixture":
        assert not np.array_equal(call(make(0.9), X[0], 0.4).x0, out.x0)
        assert len(traces) == 1
    half = jax.eval_shape(make(1.0), X[0].astype(jnp.bfloat16), 0.4)
    assert name != "Bridge" or half.x0.dtype == half.eps.dtype == jnp.bfloat16


def law_guided(name):
    assert D.Guided._fields == ("x0", "eps", "kick", "aux")
    assert D.Kick._fields == ("x", "x0")
    assert D.Kick() == (None, None)


def law_measurement(name):
    """Refusals of what a measurement needs; one message for each."""
    make, good = getattr(D, name), mixture(VP)
    with pytest.raises(TypeError, match=f"{name}: denoiser must be callable"):
        make(3, KEEP, SEEN)
    with pytest.raises(TypeError, match=rf"{name}: op must be callable as op\(x\)"):
        make(good, np.eye(2), SEEN)
    with pytest.raises(ValueError, match=f"{name}: y must be finite"):
        make(good, KEEP, np.array([np.nan, 0.0]))
    with pytest.raises(ValueError, match=f"{name}: event_ndim"):
        make(good, KEEP, SEEN, event_ndim=-1)
    with pytest.raises(ValueError, match=rf"{name}: y has shapes.*op\(x0\) has"):
        make(good, KEEP, jnp.ones(3))(X[0], 0.4)
    with pytest.raises(TypeError, match=f"{name}: y must have the structure"):
        make(good, KEEP, [1.0, 2.0])(X[0], 0.4)
    with pytest.raises(ValueError, match=f"{name}: event_ndim=3 does not fit"):
        make(good, KEEP, SEEN, event_ndim=3)(X[0], 0.4)
    wrong = {
        "DPS": [({"scale": -1.0}, "scale"), ({"likelihood": "poisson"}, "likelihood"), ({"noise": 0.1}, "give noise"),
                ({"likelihood": "gaussian"}, "give noise"), ({"likelihood": "gaussian", "noise": 0.0}, "noise")],
        "PiGDM": [({"noise": -1.0}, "noise"), ({"step": "half"}, "step"), ({"data_std": 0.0}, "data_std"),
                  ({"iterations": 0}, "iterations")],
        "TMPD": [({"noise": -1.0}, "noise"), ({"iterations": 0}, "iterations"), ({"covariance": "none"}, "covar")],
        "MMPS": [({"noise": -1.0}, "noise"), ({"iterations": 0}, "iterations")],
        "DDNM": [({"scale": np.inf}, "scale"), ({"iterations": 0}, "iterations")],
    }  # fmt: skip
    for change, match in wrong[name]:
        with pytest.raises(ValueError, match=f"{name}: {match}"):
            make(good, KEEP, SEEN, **change)


def law_classifier(name):
    make, good = getattr(D, name), mixture(VP)
    for arguments, match in [((3, LEVELS, 1), "denoiser"), ((good, 3, 1), "classifier"), ((good, LEVELS, 0.5), "l")]:
        with pytest.raises(TypeError, match=f"{name}: {match}"):
            make(*arguments)
    with pytest.raises(ValueError, match=f"{name}: scale must be finite"):
        make(good, LEVELS, 1, np.nan)
    with pytest.raises(ValueError, match=f"{name}: label must be in 0..3, got 4"):
        make(good, LEVELS, 4)(X[0], 0.4)
    for logits in (lambda x, t: x[0], lambda x, t: x[:1]):
        with pytest.raises(ValueError, match=f"{name}: classifier must return logits"):
            make(good, logits, 0)(X[0], 0.4)


def law_energy(name):
    for change, error in [({"denoiser": 3}, TypeError), ({"energy": 3}, TypeError), ({"scale": np.nan}, ValueError),
                          ({"through": "eps"}, ValueError)]:  # fmt: skip
        with pytest.raises(error, match=f"Energy: {next(iter(change))}"):
            D.Energy(**({"denoiser": mixture(VP), "energy": ENERGY} | change))


def law_reward(name):
    good = {"denoiser": mixture(VP), "reward": ENERGY, "target": 1.0}
    for change, error in [({"denoiser": 3}, TypeError), ({"reward": 3}, TypeError), ({"target": np.nan}, ValueError),
                          ({"noise": -1.0}, ValueError), ({"event_ndim": -1}, ValueError)]:  # fmt: skip
        with pytest.raises(error, match=f"Reward: {next(iter(change))}"):
            D.Reward(**(good | change))


def law_linear_reward(name):
    with pytest.raises(ValueError, match="LinearReward: weight"):
        D.LinearReward([np.nan])
    for x, values, penalty in [(DATA, np.ones(5), 1.0), (DATA, np.ones(6), -1.0), (DATA * np.nan, np.ones(6), 1.0),
                               (np.ones((0, 2)), np.ones(0), 1.0)]:  # fmt: skip
        with pytest.raises(ValueError, match=r"LinearReward\.fit"):
            D.LinearReward.fit(x, values, penalty)


def law_operator(name):
    for arguments in ((3,), (jnp.sin, 3), (jnp.sin, None, 3), (jnp.sin, None, None, 3)):
        with pytest.raises(TypeError, match=r"LinearOp: (apply|adjoint|pinv|svd) must be"):
            D.LinearOp(*arguments)
    for make, match in [
        (lambda: D.LinearOp.mask(np.array([0.5, 1.0])), "0 and 1 only"),
        (lambda: D.LinearOp.pool((4, 5), (2, 2)), "factor for each axis that divides"),
        (lambda: D.LinearOp.pool((4,), (2, 2)), "factor for each axis"),
        (lambda: D.LinearOp.pool((4,), (0,)), "LinearOp.pool: factor"),
        (lambda: D.LinearOp.dense(np.ones(3)), r"matrix must be \[m, n\]"),
        (lambda: D.LinearOp.dense(np.full((2, 2), np.nan)), "LinearOp.dense: matrix"),
        (lambda: D.LinearOp.dense(np.ones((2, 4)), (3,)), "does not hold the 4 numbers"),
        (lambda: D.LinearOp.dense(np.ones((2, 4)))(jnp.ones(3)), "want shape"),
        (lambda: D.LinearOp.pool((4,), (2,))(jnp.ones(3)), "x must have shape"),
        (lambda: D.LinearOp.pool((4,), (2,)).transpose(jnp.ones(3), jnp.ones(4)), "y must have shape"),
        (lambda: D.SVD([-1.0], jnp.ravel, jnp.ravel, jnp.ravel), "SVD: values"),
    ]:
        with pytest.raises(ValueError, match=match):
            make()
    with pytest.raises(TypeError, match="SVD: vt"):
        D.SVD([1.0], jnp.ravel, 3, jnp.ravel)


def law_signal(name):
    for arguments, match in [((3, jnp.sin, VP), "signal"), ((MODEL, 3, VP), "forward"), ((MODEL, jnp.sin, 3), "sch")]:
        with pytest.raises(TypeError, match=f"ForwardModel: {match}"):
            D.ForwardModel(*arguments)
    with pytest.raises(TypeError, match=r"ForwardModel: forward\(signal\) must have the shape of x"):
        D.ForwardModel(MODEL, lambda s: s[:1], VP)(X[0], 0.4)


def law_gauge(name):
    """Half of A - A^T acts on eps of each row; eps alone changes the score, x0 goes with it; refusals."""
    base, turned = js.Denoiser(MODEL, VP), D.add_gauge(js.Denoiser(MODEL, VP), TURN)
    half = (TURN - TURN.T) / 2
    for x in (X[0], X):
        found, plain = turned(x, 0.4), base(x, 0.4)
        np.testing.assert_allclose(found.eps, plain.eps + np.asarray(plain.eps) @ half.T, rtol=1e-5, atol=1e-6)
    for matrix, match in (
        (np.ones(3, np.float32), "square"), (np.full((2, 2), np.nan, np.float32), "matrix"), (np.ones((2, 2), int), "floating"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=f"add_gauge: .*{match}"):
            D.add_gauge(base, matrix)
    with pytest.raises(ValueError, match="Gauge: the last axes"):
        D.add_gauge(base, np.eye(5, dtype=np.float32))(X[0], 0.4)


def law_gauge_parts(name):
    """The projection of a gradient field on its own potentials is itself, and explains all; refusals."""
    potentials = lambda x: jnp.stack([x[0] ** 2, x[0] * x[1], jnp.sin(x[1])])
    want, points = jnp.array([0.5, -1.0, 2.0]), np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    part = D.conservative_part(D.ConservativePart(potentials, want, 1.0), potentials, points)
    np.testing.assert_allclose(part.coefficient, want, rtol=1e-3)
    np.testing.assert_allclose(part.explained, 1, atol=1e-5)
    for arguments, match in [
        ((3, potentials, X), "function"), ((jnp.sin, potentials, X[0]), "samples"), ((jnp.sin, jnp.sum, X), "potentials"),
        ((jnp.sin, potentials, X * np.nan), "x must"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=f"conservative_part: .*{match}"):
            D.conservative_part(*arguments)


def law_reconstruction(name):
    with pytest.raises(TypeError, match="from_reconstruction: reconstruct must be callable"):
        D.from_reconstruction(3, VP)
    for sigma in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="from_reconstruction: sigma"):
            D.from_reconstruction(RECONSTRUCT, VP, sigma)


def law_twisted(name):
    for options in ({"data_std": -1.0}, {"scale": np.inf}):
        with pytest.raises(ValueError, match=f"Twisted: {next(iter(options))}"):
            D.Twisted(mixture(VP), TWIST, **options)
    with pytest.raises(TypeError, match="log_likelihood must be callable"):
        D.Twisted(mixture(VP), 3)
    # Scale 0 is the denoiser inside; the by-product is the likelihood of its prediction.
    base, off = mixture(VP)(X, 0.4), D.Twisted(mixture(VP), TWIST, scale=0.0)(X, 0.4)
    assert_same_bits((off.x0, off.eps, off.aux.x0), (base.x0, base.eps, base.x0))
    assert off.aux.value.shape == (3,)
    # The variance of x0 given x_t, and its limits.
    alpha, sigma = VP.alpha(0.4), VP.sigma(0.4)
    between = 0.25 * sigma**2 / (0.25 * alpha**2 + sigma**2)
    ends = ((0.0, 0.0), (1.0, sigma**2 / (alpha**2 + sigma**2)), (0.5, between), (np.inf, (sigma / alpha) ** 2))
    for std, var in ends:
        value = D.Twisted(mixture(VP), TWIST, std)(X, 0.4).aux.value
        np.testing.assert_allclose(value, TWIST(base.x0, var), rtol=1e-5)


def law_latent(name):
    """A denoiser that draws: the same key the same bits, another key another draw, x = alpha x0 + sigma eps."""
    generator = D.Latent(lambda x, t, z: jnp.tanh(x * t) + z, VP, latent=2)
    call = jax.jit(lambda d, key, x: d(x, 0.4, key=key))
    x, key = jnp.asarray(DATA[0], jnp.float32), jax.random.key(0)
    one, same, other = call(generator, key, x), generator(x, 0.4, key=key), call(generator, jax.random.key(1), x)
    np.testing.assert_allclose(one.x0, same.x0, rtol=1e-6)
    assert np.all(one.x0 != other.x0) and isinstance(generator, D.DenoiserLike)
    np.testing.assert_allclose(VP.alpha(0.4) * one.x0 + VP.sigma(0.4) * one.eps, x, rtol=1e-5)
    many = jax.vmap(lambda k: generator(x, 0.4, key=k).x0)(jax.random.split(key, 3))
    np.testing.assert_allclose(many[1], generator(x, 0.4, key=jax.random.split(key, 3)[1]).x0, rtol=1e-6)
    half = jax.eval_shape(lambda x: generator(x, 0.4, key=key), x.astype(jnp.bfloat16))
    assert half.x0.dtype == jnp.bfloat16
    for build, match in [
        (lambda: D.Latent(3, VP, latent=1), "model must be callable"),
        (lambda: D.Latent(lambda x, t, z: x, VP, latent=0), "latent must be"),
        (lambda: generator(x, 0.4), "key is None"),
        (lambda: D.Latent(lambda x, t, z: z[:1], VP, latent=2)(x, 0.4, key=key), "shape of x"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"Latent: .*{match}|Latent: {match}"):
            build()


def law_quantise(name):
    """A quantised denoiser is one: jit, vmap, dtypes of x, gradients in x where levels are no obstacle; new bits."""
    weight = jnp.asarray([[0.4, 0.1], [-0.2, 0.3]])
    denoiser = js.Denoiser(jax.tree_util.Partial(lambda w, x, t: jnp.tanh(x) @ w * t, weight), VP, predicts="x0")
    plan = js.solve.ddim(VP, js.noise.time_grid(VP, 3))
    ranges = [D.calibrate(None, denoiser, plan, jnp.asarray(X), law=D.Normal(), bits=b) for b in (8, 4)]
    assert isinstance(ranges[0], D.Ranges)
    assert jax.tree.structure(ranges[0]) == jax.tree.structure(ranges[1])
    fine, coarse = (D.quantise(denoiser, r) for r in ranges)
    assert isinstance(fine, js.Denoiser)
    assert jax.tree.structure(fine) == jax.tree.structure(coarse)
    call = jax.jit(lambda d, x: d(x, 0.4).x0)
    np.testing.assert_allclose(call(fine, X), fine(X, 0.4).x0, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda x: fine(x, 0.4).x0)(X)[1], fine(X[1], 0.4).x0, atol=1e-6)
    assert jax.eval_shape(call, fine, jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16
    call(coarse, X)
    assert call._cache_size() == 1


LAWS = {
    "bridge": law_bridge,
    "quantise": law_quantise,
    "denoiser": law_denoiser, "latent": law_latent, "protocol": law_protocol, "prediction": law_prediction, "mixture": law_mixture,
    "empirical": law_empirical, "classifier_free": law_classifier_free, "threshold": law_threshold,
    "contrast": law_contrast, "compose": law_compose, "rescale": law_rescale, "interval": law_interval,
    "gradient_free": law_gradient_free, "scale": law_scale, "guided": law_guided,
    "measurement": law_measurement, "classifier": law_classifier, "energy": law_energy, "reward": law_reward,
    "linear_reward": law_linear_reward, "operator": law_operator, "signal": law_signal,
    "gauge": law_gauge, "gauge_parts": law_gauge_parts, "reconstruction": law_reconstruction, "twisted": law_twisted,
}  # fmt: skip

REGISTRY = {
    "APG": "contrast",
    "Auto": "contrast",
    "Bridge": "bridge",
    "BridgeMixture": "bridge",
    "Classifier": "classifier",
    "DDNM": "measurement",
    "DPS": "measurement",
    "EDM": "denoiser",
    "Energy": "energy",
    "ForwardModel": "signal",
    "Latent": "latent",
    "LinearOp": "operator",
    "MMPS": "measurement",
    "LinearReward": "linear_reward",
    "Minority": "classifier",
    "PiGDM": "measurement",
    "Reward": "reward",
    "SVD": "operator",
    "TMPD": "measurement",
    "from_reconstruction": "reconstruction",
    "CFGZero": "contrast",
    "CFGpp": "contrast",
    "ClassifierFree": "classifier_free",
    "Compose": "compose",
    "ConservativePart": "gauge_parts",
    "Gauge": "gauge",
    "add_gauge": "gauge_parts",
    "conservative_part": "gauge_parts",
    "GradientFree": "gradient_free",
    "Guided": "guided",
    "Interval": "interval",
    "Kick": "guided",
    "PerStep": "scale",
    "Rescale": "rescale",
    "Denoiser": "denoiser",
    "DenoiserLike": "protocol",
    "Empirical": "empirical",
    "GaussianMixture": "mixture",
    "Prediction": "prediction",
    "Threshold": "threshold",
    "Twist": "guided",
    "Twisted": "twisted",
    "Normal": "quantise",
    "Ranges": "quantise",
    "calibrate": "quantise",
    "quantise": "quantise",
}


@pytest.mark.parametrize(("name", "law"), REGISTRY.items(), ids=REGISTRY)
def test_law_of(name, law):
    LAWS[law](name)


def test_every_denoiser_is_in_the_cases():
    made = {name.split("(")[0] for name in CASES}
    parts = (
        "gauge_parts",
        "protocol",
        "prediction",
        "guided",
        "scale",
        "operator",
        "linear_reward",
        "latent",
        "bridge",
        "quantise",
    )
    callables = {n for n, law in REGISTRY.items() if law not in parts}
    assert made == callables


def test_guidance_numbers_never_retrace():
    traces = Traces()
    label = lambda v: js.Denoiser(traces.bind({"gain": np.float32(v), "bend": np.float32(1)}), VP)
    call = jax.jit(lambda d, x: d(x, 0.4))
    numbers = [(1, 0, 2.0, 0.9), (1, 0, 7.5, 0.9), (0.5, 0.2, 2.0, 0.9), (1, 0, 2.0, 0.5)]
    outs = [call(D.Threshold(D.ClassifierFree(label(a), label(b), w), q), X[0]).x0 for a, b, w, q in numbers]
    assert traces.count == 1
    assert not np.array_equal(outs[0], outs[1])
    assert_same_bits(call(D.Threshold(D.ClassifierFree(label(1), label(0), 2.0), 0.9), X[0]).x0, outs[0])
