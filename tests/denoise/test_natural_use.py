"""What people pass to denoisers: weights in closures, conditions, other libraries' models, wrong shapes and schedules."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import mixture

import jsamp as js

D, S = js.denoise, js.solve
VP = js.noise.VP()
X = np.array([0.4, -1.2, 0.3], np.float32)
PLAN = S.ddim(VP, js.noise.time_grid(VP, 3))


class Net:
    """A network that owns its weights, as an `nnx.Module` does; updated in place."""

    def __init__(self, gain):
        self.gain = jnp.float32(gain)

    def __call__(self, x, t, y=0.0):
        return self.gain * x + y


class Slots(Net):
    """The same in a slot, beside the dictionary of its base."""

    __slots__ = ("gain",)


class Slotted:
    """Nothing but slots."""

    __slots__ = ("gain",)
    __init__, __call__ = Net.__init__, Net.__call__


class Shared:
    """An array of the class, which an update of the object hides."""

    gain = jnp.float32(0.3)
    __init__, __call__ = object.__init__, Net.__call__


@pytest.mark.parametrize("make", [Slots, Slotted, lambda gain: Shared()])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda x, t: net(x, t)], ids=["itself", "in a closure"])
def test_weights_in_slots_and_in_classes_are_leaves(make, wrap):
    net = make(0.3)
    denoiser = js.Denoiser(wrap(net), VP, predicts="x0")
    run = lambda: js.sample(None, denoiser, X, PLAN).x
    before = run()
    assert len(jax.tree.leaves(denoiser.model)) == 1
    if isinstance(net, Shared):
        Shared.gain = jnp.float32(0.6)
    else:
        net.gain = jnp.float32(0.6)
    after = run()
    Shared.gain = jnp.float32(0.3)
    wanted = [js.sample(None, js.Denoiser(lambda x, t, g=g: g * x, VP, "x0"), X, PLAN).x for g in (0.3, 0.6)]
    np.testing.assert_allclose([before, after], wanted, rtol=1e-5)


BOUND = {
    "lambda": lambda net: lambda x, t: net(x, t, 0.5),
    "partial": lambda net: functools.partial(net, y=0.5),
    "jax partial": lambda net: jax.tree_util.Partial(net, y=0.5),
    "method": lambda net: net.__call__,
}


@pytest.mark.parametrize("name", BOUND)
def test_weights_updated_in_place_are_seen(name):
    """In closures, partials and methods: the next run has the new weights, and no new trace."""
    net = Net(0.3)
    denoiser = js.Denoiser(BOUND[name](net), VP, predicts="x0")
    first = js.sample(None, denoiser, X, PLAN).x
    net.gain = jnp.float32(0.6)
    fresh = js.Denoiser(lambda x, t: 0.6 * x + (0.0 if name == "method" else 0.5), VP, predicts="x0")
    wanted = js.sample(None, fresh, X, PLAN).x
    assert not np.allclose(first, wanted, rtol=1e-3)
    np.testing.assert_allclose(js.sample(None, denoiser, X, PLAN).x, wanted, rtol=1e-5)
    np.testing.assert_allclose(
        js.sample(None, js.Denoiser(BOUND[name](net), VP, predicts="x0"), X, PLAN).x, wanted, rtol=1e-5
    )


@pytest.mark.parametrize("wrap", [jax.checkpoint, lambda net: jax.vmap(net, (0, None))], ids=["checkpoint", "vmap"])
def test_weights_under_a_transformation_are_leaves(wrap):
    """Weights of a trainer's, in a network that `jax.checkpoint` or `jax.vmap` wraps: seen when new, and by `keep`."""
    trainer = types.SimpleNamespace(params={"w": jnp.float32(0.3)})
    denoiser = js.Denoiser(wrap(lambda x, t: trainer.params["w"] * x), VP, predicts="x0")
    keep = lambda x, prediction: trainer.params["w"] + 0 * x
    for w in (0.3, 0.6):
        trainer.params = {"w": jnp.float32(w)}
        found = js.sample(None, denoiser, X, PLAN, keep=keep)
        wanted = js.sample(None, js.Denoiser(lambda x, t, w=w: w * x, VP, predicts="x0"), X, PLAN).x
        np.testing.assert_allclose(found.x, wanted, rtol=1e-5)
        np.testing.assert_allclose(found.info.kept, w)


def test_conditions_are_leaves_and_share_one_call():
    calls = []
    weights = jnp.float32(0.3)

    def net(x, t, y, flip=False):
        calls.append(jnp.ndim(y))
        return weights * x + (-1 if flip else 1) * y * jnp.ones_like(x)

    cond = js.Denoiser(net, VP, predicts="x0", y=2.0)
    guided = D.ClassifierFree(cond, cond.given(y=1.0), 3.0)
    calls.clear()
    out = guided(X, 0.4).x0
    assert len(calls) == 1
    np.testing.assert_allclose(out, 0.3 * X + 1.0 + 3.0 * (2.0 - 1.0), rtol=1e-5)
    # Another label is data: nothing is traced again.
    run = jax.jit(lambda d, x: d(x, 0.4).x0)
    run(cond, X)
    count = len(calls)
    np.testing.assert_allclose(run(cond.given(y=5.0), X), 0.3 * X + 5.0, rtol=1e-6)
    assert len(calls) == count
    # A boolean is structure: Python may branch on it.
    np.testing.assert_allclose(run(js.Denoiser(net, VP, predicts="x0", y=2.0, flip=True), X), 0.3 * X - 2.0, rtol=1e-6)
    labels = jnp.arange(3)
    per_sample = jax.vmap(lambda y: run(cond.given(y=y), X))(labels)
    np.testing.assert_allclose(per_sample[2], 0.3 * X + 2.0, rtol=1e-6)


def test_conditions_that_the_network_does_not_take_are_refused():
    net = lambda x, t, y: x * y
    with pytest.raises(TypeError, match=r"model must be callable as model\(x, t, prediction=\.\.\.\)"):
        js.Denoiser(net, VP, prediction="v")
    with pytest.raises(TypeError, match=r"js\.Denoiser\(model, schedule, y=label\)"):
        js.Denoiser(net, VP)
    with pytest.raises(TypeError, match="label"):
        js.Denoiser(net, VP, y=1.0).given(label=2.0)


def test_models_of_equinox():
    """Activation functions among the fields, dropout at inference, and runs inside `eqx.filter_jit`."""
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        layer: eqx.nn.Linear
        activation: object
        dropout: eqx.nn.Dropout
        repeats: int = 2

        def __call__(self, x, t):
            for _ in range(self.repeats):
                x = self.activation(self.layer(x))
            return self.dropout(x + t)

    made = [
        Model(eqx.nn.Linear(3, 3, key=jax.random.key(i)), jax.nn.tanh, eqx.nn.Dropout(0.5, inference=True))
        for i in (0, 1)
    ]
    denoisers = [js.Denoiser(model, VP, predicts="x0") for model in made]
    once = lambda x: jnp.tanh(made[0].layer.weight @ x + made[0].layer.bias)
    hand = once(once(X)) + 0.4
    np.testing.assert_allclose(denoisers[0](X, 0.4).x0, hand, rtol=1e-5)
    outs = [js.sample(None, d, X, PLAN).x for d in denoisers]
    assert not np.allclose(*outs)
    inside = eqx.filter_jit(lambda d, x: js.sample(None, d, x, PLAN).x)(denoisers[0], X)
    np.testing.assert_allclose(inside, outs[0], rtol=1e-5)
    model = eqx.filter_jit(lambda m, x: js.sample(None, js.Denoiser(m, VP, predicts="x0"), x, PLAN).x)(made[0], X)
    np.testing.assert_allclose(model, outs[0], rtol=1e-5)
    D.ClassifierFree(denoisers[0], denoisers[1], 2.0)(X, 0.4)


# ---------------------------------------------------------------- one schedule for all


VE = js.noise.VE()
A, B, N = mixture(VP), mixture(VE), js.Denoiser(lambda x, t: x, VE)
MADE_OF_TWO = {
    "ClassifierFree": lambda a, b: D.ClassifierFree(a, b),
    "Auto": lambda a, b: D.Auto(a, b),
    "Compose": lambda a, b: D.Compose([a, a], b, [1.0, 2.0]),
    "Compose(conds)": lambda a, b: D.Compose([a, b], a, [1.0, 2.0]),
    "CFGpp": lambda a, b: D.CFGpp(a, b),
    "APG": lambda a, b: D.APG(a, b),
    "CFGZero": lambda a, b: D.CFGZero(a, b),
    "Interval": lambda a, b: D.Interval(a, b),
    "GradientFree": lambda a, b: D.GradientFree(lambda k: a, 0, lambda x0: x0, weak=lambda k: b),
}


@pytest.mark.parametrize("name", MADE_OF_TWO)
def test_denoisers_of_denoisers_have_one_schedule(name):
    make = MADE_OF_TWO[name]
    for other in (B, N, mixture(js.noise.Cosine()), mixture(js.noise.Discrete.ddpm_linear())):
        with pytest.raises(
            ValueError, match=f"{name.split('(')[0]}: .* has another schedule than .*one|same noise levels"
        ):
            make(A, other)
    make(A, mixture(js.noise.VP()))
    # The same levels by another object, and a wrapper around one.
    table = js.noise.Discrete(np.exp(2 * js.noise.Discrete.ddpm_linear().log_alpha))
    make(mixture(js.noise.Discrete.ddpm_linear()), D.Threshold(mixture(table)))


def test_levels_that_are_traced_pass():
    run = jax.jit(lambda b: D.ClassifierFree(A, mixture(js.noise.VP(b, 20.0)), 2.0)(X[:2], 0.4).x0)
    assert np.all(np.isfinite(run(0.5)))


# ---------------------------------------------------------------- shapes, dtypes, messages


def test_the_time_keeps_its_digits_in_half_precision():
    """Index 999 is 999, and the levels are those of it; predictions come in the dtype of x."""
    seen = []
    linear = js.noise.Discrete.ddpm_linear()
    half = jnp.asarray(X, jnp.bfloat16)
    denoiser = js.Denoiser(lambda x, t: (seen.append((x.dtype, t)), x)[1], linear, predicts="v")
    out = denoiser(half, 999)
    assert (seen[0][0], seen[0][1].dtype, float(seen[0][1])) == (jnp.bfloat16, jnp.float32, 999.0)
    assert out.x0.dtype == out.eps.dtype == jnp.bfloat16
    full = denoiser(X, 999)
    np.testing.assert_allclose(np.asarray(out.x0, np.float32), full.x0, rtol=0.02)
    wrappers = {
        "guided": D.ClassifierFree(denoiser, denoiser, 2.0), "zero": D.CFGZero(denoiser, denoiser, 2.0),
        "threshold": D.Threshold(denoiser, 0.9), "energy": D.Energy(denoiser, lambda x0: jnp.sum(x0**2)),
        "interval": D.Interval(denoiser, denoiser), "ddnm": D.DDNM(denoiser, D.LinearOp.mask(np.ones(3)), X),
        "tmpd": D.TMPD(denoiser, D.LinearOp.mask(np.ones(3)), X, 0.1),
        "latent": D.Latent(lambda x, t, z: (seen.append((x.dtype, t)), x)[1], linear, latent=1),
    }  # fmt: skip
    for name, wrapper in wrappers.items():
        seen.clear()
        made = jax.eval_shape(lambda x, t, wrapper=wrapper: wrapper(x, t, key=jax.random.key(0)), half, 999)
        assert made.x0.dtype == made.eps.dtype == jnp.bfloat16, name
        assert all(t.dtype == jnp.float32 for _, t in seen), name


def test_a_learned_variance_is_told_apart():
    wide = lambda x, t: jnp.concatenate([0.5 * x, 0.1 * x], axis=-1)
    image = np.ones((4, 4, 3), np.float32)
    with pytest.raises(TypeError, match=r"Axis 2 is twice that of x.*variance='range'"):
        js.Denoiser(wide, VP)(image, 0.4)
    out = js.Denoiser(wide, VP, variance="range")(image, 0.4)
    plain = js.Denoiser(lambda x, t: 0.5 * x, VP)(image, 0.4)
    np.testing.assert_array_equal(out.x0, plain.x0)
    np.testing.assert_array_equal(out.aux, np.float32(0.1) * image)
    with pytest.raises(TypeError, match="two arrays like x along its last axis"):
        js.Denoiser(lambda x, t: x, VP, variance="range")(image, 0.4)
    with pytest.raises(ValueError, match="variance must be None or 'range'"):
        js.Denoiser(wide, VP, variance="fixed")
    first = lambda x, t: jnp.concatenate([x, x])
    with pytest.raises(TypeError, match="Axis 0 is twice that of x"):
        js.Denoiser(first, VP)(image[0, 0], 0.4)


def test_one_time_for_each_sample_is_refused():
    """It would be read along the last axis of x where that is as long."""
    square, times = np.ones((3, 3), np.float32), np.array([0.2, 0.5, 0.8], np.float32)
    for denoiser in (js.Denoiser(lambda x, t: 0.5 * x, VP), D.Empirical(VP, square)):
        with pytest.raises(ValueError, match=r"t must be one number, got an array of shape \(3,\)\. Use jax\.vmap"):
            denoiser(square, times)
        with pytest.raises(TypeError, match="t must be a number"):
            denoiser(square, None)


def test_what_is_no_sample_is_refused():
    for make in (lambda f: D.ForwardModel(f, f, VP), lambda f: D.Bridge(js.noise.Interpolant(), f)):
        with pytest.raises(TypeError, match="x must be floating point"):
            make(lambda *x: x[0])(np.arange(3), 0.4)
    for x, match in [(X + 1j, "complex"), (np.arange(3), "floating point"), ({}, "empty"), (["text"], "array")]:
        with pytest.raises((TypeError, ValueError), match=f"Denoiser: x .*{match}"):
            js.Denoiser(lambda x, t: x, VP)(x, 0.4)
    with pytest.raises(TypeError, match="model's output is complex, but x is real"):
        js.Denoiser(lambda x, t: x + 1j, VP)(X, 0.4)
    with pytest.raises(TypeError, match="model's output holds uint8, but x is float32"):
        js.Denoiser(lambda x, t: (255 * x).astype(jnp.uint8), VP)(jnp.ones(3), 0.5)


def test_a_network_for_a_denoiser_is_named():
    net = lambda x, t: x
    for wrong in (net, Net(0.3), Net):
        with pytest.raises(TypeError, match=r"js\.Denoiser\(network, schedule|Pass an instance"):
            js.sample(None, wrong, X, PLAN)
        with pytest.raises(TypeError, match="must be a denoiser"):
            D.Threshold(wrong)

    @dataclasses.dataclass(frozen=True)
    class Array:
        schedule: object = VP

        def __call__(self, x, t, *, key=None):
            return x

    with pytest.raises(TypeError, match=r"must return js\.Prediction\(x0, eps\), got"):
        js.sample(None, Array(), X, PLAN)

    class Short(Array):
        def __call__(self, x, t, *, key=None):
            return js.Prediction(x[:1], x[:1])

    with pytest.raises(TypeError, match="the prediction's x0 must be like x"):
        js.sample(None, Short(), X, PLAN)
    # A bare function (x, t, *, key) -> Prediction runs, as the docstring of `sample` says.
    assert js.sample(None, lambda x, t, *, key=None: js.Prediction(x, x), X, PLAN).info.ok


def test_one_rule_for_the_axes_of_a_sample():
    """None: all of x; 0: each number; a count that does not fit is refused with the shapes, by every object."""
    x, op = np.ones((2, 3), np.float32), D.LinearOp(lambda v: v)
    net, law = js.Denoiser(lambda x, t: 2 * x + 1, VP, predicts="x0"), js.Denoiser(lambda x, t: -x, VP, predicts="x0")
    takes = {
        "DPS": lambda n: D.DPS(net, op, np.float32(0.3), event_ndim=n), "DDNM": lambda n: D.DDNM(net, op, np.float32(0.3), event_ndim=n),
        "PiGDM": lambda n: D.PiGDM(net, op, np.float32(0.3), event_ndim=n), "TMPD": lambda n: D.TMPD(net, op, np.float32(0.3), event_ndim=n),
        "Reward": lambda n: D.Reward(net, lambda x0: jnp.sum(x0), 1.0, event_ndim=n), "Threshold": lambda n: D.Threshold(net, 0.5, event_ndim=n),
        "Rescale": lambda n: D.Rescale(D.ClassifierFree(net, law, 2.0), event_ndim=n), "APG": lambda n: D.APG(net, law, 2.0, event_ndim=n),
        "CFGZero": lambda n: D.CFGZero(net, law, 2.0, event_ndim=n), "TrajectoryVariance": lambda n: js.steer.TrajectoryVariance(2, n),
    }  # fmt: skip
    for name, make in takes.items():
        for wrong in (-1, 1.0, True, "one"):
            with pytest.raises((TypeError, ValueError), match=f"{name}: event_ndim"):
                make(wrong)
        if name == "TrajectoryVariance":
            continue
        each = make(0)(x, 0.4)
        flat = jax.vmap(jax.vmap(lambda v, make=make: make(None)(v, 0.4)))(x)
        np.testing.assert_allclose(each.x0, flat.x0, rtol=1e-5, err_msg=name)


def test_weights_that_do_not_fit_are_refused():
    a, b = mixture(VP), mixture(VP)
    for scale in (np.ones((1, 2)), np.ones(3), {"image": 2.0}, (1.0, 2.0)):
        with pytest.raises(ValueError, match="scale: weights"):
            D.ClassifierFree(a, b, scale)(X[:2], 0.4)
        with pytest.raises(ValueError, match="scale: weights"):
            D.Energy(a, lambda x0: jnp.sum(x0**2), scale)(X[:2], 0.4)


def test_one_weight_for_each_part_of_x():
    """Modalities of a tree have scales of their own, in every guidance that takes a scale."""
    net = lambda v: js.Denoiser(lambda x, t: jax.tree.map(lambda leaf: jnp.full_like(leaf, v), x), VP, predicts="x0")
    x = {"image": X, "sound": (X[:1], X[1:])}
    scales = {"image": 2.0, "sound": 5.0}
    got = D.Compose([net(1.0), net(3.0)], net(0.0), [scales, {"image": 0.0, "sound": -1.0}])(x, 0.4).x0
    np.testing.assert_allclose(got["image"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(got["sound"][1], 5.0 - 3.0, rtol=1e-6)
    kick = D.CFGpp(net(1.0), net(0.0), scales)(x, 0.4).kick.x0
    assert (float(kick["image"][0]), float(kick["sound"][0][0])) == (2.0, 5.0)
    late = D.ClassifierFree(net(1.0), net(0.0), lambda t: {"image": 10 * t, "sound": 0.0})(x, 0.4).x0
    np.testing.assert_allclose(late["image"], 4.0, rtol=1e-6)
    assert float(late["sound"][0][0]) == 0.0


def test_mixtures_without_weight_are_refused():
    for weights, match in [
        ([0.0, 0.0], "must not all be 0"),
        ([], "must hold a number"),
        ([1.0, np.nan], "must be finite"),
    ]:
        with pytest.raises(ValueError, match=f"GaussianMixture: weights? {match}|GaussianMixture: {match}"):
            D.GaussianMixture(VP, weights=weights, means=[[0.0], [1.0]], stds=[1.0, 1.0])
    with pytest.raises(TypeError, match="schedule must be a noise schedule"):
        D.GaussianMixture(None, weights=[1.0], means=[[0.0]], stds=[1.0])


@pytest.mark.parametrize("make", [
    lambda value: D.GradientFree(lambda k: A, 0, lambda x0: x0, lag=value),
    lambda value: js.steer.Repaint(np.ones(2), np.ones(2), soft=value),
])  # fmt: skip
@pytest.mark.parametrize("value", ["no", np.nan, 1, None])
def test_options_that_are_on_or_off(make, value):
    with pytest.raises(TypeError, match="must be True or False"):
        make(value)


def test_measurements_that_are_not_finite_are_refused():
    y, op = np.array([np.nan, 1.0]), D.LinearOp.mask(np.ones(2))
    for make in (lambda: js.steer.DDRM(op, y), lambda: js.steer.Project(op, y), lambda: js.steer.ILVR(y, op),
                 lambda: js.steer.DiffPIR(op, y), lambda: js.steer.Repaint(np.ones(2), y), lambda: D.TMPD(A, op, y)):  # fmt: skip
        with pytest.raises(ValueError, match="must be finite, got nan at"):
            make()


@pytest.mark.parametrize("label", [3, -1])
def test_a_class_that_is_not_there_does_not_pass_for_no_guidance(label):
    law = js.denoise.GaussianMixture(js.noise.VP(), weights=[1.0], means=[[0.0]], stds=[1.0])
    plan = js.solve.ddim(js.noise.VP(), js.noise.time_grid(js.noise.VP(), 3))
    classifier = lambda x, t: jnp.concatenate([x, -x, 0 * x])
    guided = {
        "Classifier": js.denoise.Classifier(law, classifier, label),
        "Minority": js.denoise.Minority(law, classifier, label),
        "GradientFree": js.denoise.GradientFree(lambda label: law, label, lambda x: classifier(x, 0.0)),
    }
    for denoiser in guided.values():
        found = js.sample(None, denoiser, jnp.ones(1), plan)
        assert not found.info.ok
