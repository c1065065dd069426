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


# Every denoiser, with another of the same structure.
CASES = {
    **{f"Denoiser({p})": (js.Denoiser(MODEL, VP, predicts=p), js.Denoiser(OTHER, VP, predicts=p))
       for p in ("eps", "x0", "v", "score", "velocity")},
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
        D.APG(js.Denoiser(MODEL, VP), js.Denoiser(OTHER, VP), 3.0, limit=0.2, parallel=0.5),
        D.APG(js.Denoiser(OTHER, VP), js.Denoiser(MODEL, VP), 2.0, limit=0.2, parallel=0.1),
    ),
    "CFGZero": (D.CFGZero(js.Denoiser(MODEL, VP), js.Denoiser(OTHER, VP), 3.0, still=0.9), None),
    "Interval": (
        D.Interval(js.Denoiser(MODEL, VP), mixture(VP), 0.1, 100.0),
        D.Interval(js.Denoiser(OTHER, VP), mixture(VP), 0.2, 90.0),
    ),
    "GradientFree": (D.GradientFree(LABELLED, 1, CLASSIFIER, 3.0), D.GradientFree(LABELLED, 2, CLASSIFIER, 2.0)),
    "Threshold": (D.Threshold(js.Denoiser(MODEL, VP), limit=0.3), D.Threshold(js.Denoiser(OTHER, VP), limit=0.4)),
    "Threshold(dynamic)": (
        D.Threshold(js.Denoiser(MODEL, VP), 0.9, limit=0.3), D.Threshold(js.Denoiser(OTHER, VP), 0.8, limit=0.4),
    ),
    "Threshold(ClassifierFree)": (D.Threshold(D.ClassifierFree(mixture(VP), mixture(VP), 5.0), 0.995), None),
}  # fmt: skip
X = np.array([[0.4, -1.2], [0.9, 0.1], [-0.3, 0.6]], np.float32)


@pytest.mark.parametrize("name", CASES)
def test_calls(name):
    """jit, vmap, dtypes, trees of numbers, gradients, x = alpha x0 + sigma eps."""
    denoiser, other = CASES[name]
    assert isinstance(denoiser, D.DenoiserLike)
    assert denoiser.schedule.alpha(0.0) == 1
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
    # A batch is a vmap.
    batch = jax.jit(jax.vmap(lambda x, t: denoiser(x, t)))(X, jnp.array([0.2, 0.4, 0.7], jnp.float32))
    for i, t in enumerate((0.2, 0.4, 0.7)):
        one = jitted(denoiser, X[i], t)
        np.testing.assert_allclose(batch.x0[i], one.x0, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(batch.eps[i], one.eps, rtol=2e-5, atol=2e-6)
    # Gradients in x, t and every number of the denoiser.
    leaves, structure = jax.tree.flatten(denoiser)
    leaves = [leaf if jnp.result_type(leaf) == np.int32 else jnp.asarray(leaf, jnp.float32) for leaf in leaves]

    def loss(leaves, x, t):
        out = jax.tree.unflatten(structure, leaves)(x, t)
        return jnp.sum(out.x0**2) + jnp.sum(out.eps**2)

    slopes = jax.jit(jax.grad(loss, argnums=(0, 1, 2), allow_int=True))(leaves, X[0], 0.4)
    for leaf in jax.tree.leaves(slopes):
        assert leaf.dtype == jax.dtypes.float0 or np.all(np.isfinite(leaf))


@pytest.mark.parametrize("name", [n for n in CASES if "Threshold" not in n])
def test_slopes_in_time_and_state(name, x64):
    denoiser, x = CASES[name][0], X[0].astype(np.float64)
    way = np.array([0.6, -0.8])

    def along(h):
        out = denoiser(x + h * way, 0.4 + 0.1 * h)
        return jnp.stack([out.x0, out.eps])

    slope = jax.jvp(along, (0.0,), (1.0,))[1]
    assert slope.dtype == jnp.float64
    np.testing.assert_allclose(slope, central(jax.jit(along), 1e-3), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "name", ["Denoiser(v)", "GaussianMixture", "Empirical", "ClassifierFree(one)", "Threshold(dynamic)"]
)
def test_inside_shard_map(name):
    denoiser = CASES[name][0]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = np.random.default_rng(1).normal(size=(16, 2)).astype(np.float32)
    call = lambda d, x: jax.vmap(lambda x: d(x, 0.4))(x)  # noqa: E731
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
    for wrong, match in [*cases, ({"event_ndim": 0}, "event_ndim")]:
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
    for arguments, match in [((2.0,), "amount"), ((0.5, "score"), "space"), ((0.5, "x0", 0), "event_ndim")]:
        with pytest.raises(ValueError, match=f"Rescale: {match}"):
            D.Rescale(guided, *arguments)


def law_interval(name):
    for low, high in [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan)]:
        with pytest.raises(ValueError, match="low < high"):
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
    model = lambda k: js.Denoiser(traces.bind({"gain": 0.1 * k, "bend": np.float32(1)}), VP)  # noqa: E731
    jax.make_jaxpr(D.GradientFree(model, 1, CLASSIFIER))(X[0], 0.4)
    assert traces.count == 2


def law_scale(name):
    plan = js.solve.ddim(VP, js.noise.time_grid(VP, 4))
    for values in (2.0, [1.0, 2.0], [1.0, 2.0, 3.0, np.nan]):
        with pytest.raises(ValueError, match="PerStep"):
            D.PerStep(plan, values)
    assert [float(D.PerStep(plan, [4.0, 3.0, 2.0, 1.0])(t)) for t in plan.t] == [4.0, 3.0, 2.0, 1.0]


def law_guided(name):
    assert D.Guided._fields == ("x0", "eps", "kick", "aux")
    assert D.Kick._fields == ("x", "x0")
    assert D.Kick() == (None, None)


LAWS = {
    "denoiser": law_denoiser, "protocol": law_protocol, "prediction": law_prediction, "mixture": law_mixture,
    "empirical": law_empirical, "classifier_free": law_classifier_free, "threshold": law_threshold,
    "contrast": law_contrast, "compose": law_compose, "rescale": law_rescale, "interval": law_interval,
    "gradient_free": law_gradient_free, "scale": law_scale, "guided": law_guided,
}  # fmt: skip

REGISTRY = {
    "APG": "contrast",
    "Auto": "contrast",
    "CFGZero": "contrast",
    "CFGpp": "contrast",
    "ClassifierFree": "classifier_free",
    "Compose": "compose",
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
}


@pytest.mark.parametrize(("name", "law"), REGISTRY.items(), ids=REGISTRY)
def test_law_of(name, law):
    LAWS[law](name)


def test_every_denoiser_is_in_the_cases():
    made = {name.split("(")[0] for name in CASES}
    callables = {n for n, law in REGISTRY.items() if law not in ("protocol", "prediction", "guided", "scale")}
    assert made == callables


def test_guidance_numbers_never_retrace():
    traces = Traces()
    label = lambda v: js.Denoiser(traces.bind({"gain": np.float32(v), "bend": np.float32(1)}), VP)  # noqa: E731
    call = jax.jit(lambda d, x: d(x, 0.4))
    numbers = [(1, 0, 2.0, 0.9), (1, 0, 7.5, 0.9), (0.5, 0.2, 2.0, 0.9), (1, 0, 2.0, 0.5)]
    outs = [call(D.Threshold(D.ClassifierFree(label(a), label(b), w), q), X[0]).x0 for a, b, w, q in numbers]
    assert traces.count == 1
    assert not np.array_equal(outs[0], outs[1])
    assert_same_bits(call(D.Threshold(D.ClassifierFree(label(1), label(0), 2.0), 0.9), X[0]).x0, outs[0])
