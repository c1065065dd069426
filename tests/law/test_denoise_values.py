"""What the objects of `jsamp.denoise` say in numbers, beside the laws that all obey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from denoise_cases import CASES, CLASSIFIER, MODEL, PLAN, TURN, TWIST, VP, X
from laws import WEIGHTS, Traces, assert_same_bits, mixture, network
from test_denoise import FIELD, GENERATOR, LINEAR, RANGES, part_of

import jsamp as js

D = js.denoise


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


def test_fresh_weights_are_not_traced_again():
    traces = Traces()
    call = jax.jit(lambda d, x: d(x, 0.4).x0)
    for gain in (0.1, 0.2):
        call(js.Denoiser(traces.bind({"gain": np.float32(gain), "bend": np.float32(1)}), VP), X[0])
    assert traces.count == 1


def test_the_network_is_asked_at_mapped_times():
    times = []
    js.Denoiser(lambda x, t: (times.append(t), x)[1], VP, time_map=lambda t: 1000 * t)(X[0], 0.25)
    assert times[0] == 250
    assert times[0].shape == ()


@pytest.mark.parametrize("name", [*CASES, "Latent"])
def test_no_network_is_asked_outside_its_schedule(name):
    """A known time is refused, in a trace as well; one that only the device knows is not looked at."""
    denoiser = GENERATOR if name == "Latent" else CASES[name][0]
    call = lambda t: jax.eval_shape(lambda x: denoiser(x, t, key=jax.random.key(0)), X[0])
    for wrong in (5.0, np.float32(-0.1), jnp.float32(1.01)):
        with pytest.raises(ValueError, match=r"t is (5|-0\.1|1\.01), outside the schedule, whose times go from 0 to 1"):
            call(wrong)
    call(1.0)
    jax.eval_shape(lambda x, t: denoiser(x, t, key=jax.random.key(0)), X[0], np.float32(5))


def test_levels_that_noise_has_raised_and_noiseless_times_are_asked():
    """`js.solve.edm` raises sigma by up to sqrt(2), where alpha stays 1; exact laws know what no noise means."""
    law = mixture(js.noise.VE())
    plan = js.solve.edm(law.schedule, js.noise.karras_grid(law.schedule, 3), churn=99.0)
    assert plan.t[0] > 113
    assert np.all(np.isfinite(law(X[0], plan.t[0]).x0))
    with pytest.raises(ValueError, match="t is 114, outside the schedule"):
        law(X[0], 114.0)
    np.testing.assert_array_equal(mixture(js.noise.Discrete.scaled_linear())(X[0], -1).x0, X[0])
    # Levels that are traced.
    jax.eval_shape(lambda betas: mixture(js.noise.VP(*betas))(X[0], 1.0), (0.1, 20.0))
    with pytest.raises(ValueError, match=r"t is 1\.2, outside"):
        jax.eval_shape(lambda betas: mixture(js.noise.VP(*betas))(X[0], 1.2), (0.1, 20.0))


def test_the_protocol_and_the_records():
    assert isinstance(mixture(VP), D.DenoiserLike)
    assert not isinstance(lambda x, t: x, D.DenoiserLike)
    assert js.Prediction._fields == ("x0", "eps")
    assert D.Guided._fields == ("x0", "eps", "kick", "aux")
    assert D.Kick._fields == ("x", "x0")
    assert D.Kick() == (None, None)


def test_gradients_reach_the_parts_of_a_mixture():
    def traced(weights, means, stds):
        return jnp.sum(D.GaussianMixture(VP, weights=weights, means=means, stds=stds)(X[0], 0.4).x0)

    means = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    grads = jax.jit(jax.grad(traced, argnums=(0, 1, 2)))(jnp.ones(2), means, jnp.ones(2))
    assert all(np.all(np.isfinite(g)) for g in grads)


@pytest.mark.parametrize("name", ["APG", "Auto", "CFGZero", "CFGpp"])
def test_weights_of_guidance(name):
    """A weight may be a callable of t, and one for each sample of a batch."""
    make = getattr(D, name)
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


def test_gradient_free_guidance_takes_no_gradient():
    """Nothing in the program is a transpose of another part."""
    traces = Traces()
    model = lambda k: js.Denoiser(traces.bind({"gain": 0.1 * k, "bend": np.float32(1)}), VP)
    jax.make_jaxpr(D.GradientFree(model, 1, CLASSIFIER))(X[0], 0.4)
    assert traces.count == 2


def test_weights_by_step():
    assert [float(D.PerStep(PLAN, [4.0, 3.0, 2.0, 1.0])(t)) for t in PLAN.t] == [4.0, 3.0, 2.0, 1.0]


def test_a_gauge_turns_the_noise():
    """Half of A - A^T acts on eps of each row; eps alone changes the score, x0 goes with it."""
    base, turned = js.Denoiser(MODEL, VP), D.add_gauge(js.Denoiser(MODEL, VP), TURN)
    half = (TURN - TURN.T) / 2
    for x in (X[0], X):
        found, plain = turned(x, 0.4), base(x, 0.4)
        np.testing.assert_allclose(found.eps, plain.eps + np.asarray(plain.eps) @ half.T, rtol=1e-5, atol=1e-6)


def test_a_gradient_field_is_its_own_part():
    part = part_of(*FIELD)
    np.testing.assert_allclose(part.coefficient, FIELD[0], rtol=1e-3)
    np.testing.assert_allclose(part.explained, 1, atol=1e-5)


def test_twisted_values():
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


def test_a_latent_network_draws_everywhere():
    """Every number changes with the key, and x = alpha x0 + sigma eps."""
    generator, x = D.Latent(lambda x, t, z: jnp.tanh(x * t) + z, VP, latent=2), X[0]
    one, other = (generator(x, 0.4, key=jax.random.key(seed)) for seed in (0, 1))
    assert np.all(one.x0 != other.x0) and isinstance(generator, D.DenoiserLike)
    np.testing.assert_allclose(VP.alpha(0.4) * one.x0 + VP.sigma(0.4) * one.eps, x, rtol=1e-5)


def test_quantised_denoisers():
    assert isinstance(RANGES[0], D.Ranges)
    assert jax.tree.structure(RANGES[0]) == jax.tree.structure(RANGES[1])
    fine, coarse = (D.quantise(LINEAR, ranges) for ranges in RANGES)
    assert isinstance(fine, js.Denoiser)
    assert jax.tree.structure(fine) == jax.tree.structure(coarse)
    np.testing.assert_allclose(fine(X, 0.4).x0[1], fine(X[1], 0.4).x0, atol=1e-6)


def test_other_bridges_give_other_predictions():
    path = js.noise.Interpolant("linear")
    law = lambda k: D.BridgeMixture(path, mixture(VP), D.GaussianMixture(VP, weights=[k], means=[[k, k]], stds=[0.5]))
    assert not np.array_equal(law(1.0)(X[0], 0.4).x0, law(0.9)(X[0], 0.4).x0)


def test_guidance_numbers_never_retrace():
    traces = Traces()
    label = lambda v: js.Denoiser(traces.bind({"gain": np.float32(v), "bend": np.float32(1)}), VP)
    call = jax.jit(lambda d, x: d(x, 0.4))
    numbers = [(1, 0, 2.0, 0.9), (1, 0, 7.5, 0.9), (0.5, 0.2, 2.0, 0.9), (1, 0, 2.0, 0.5)]
    outs = [call(D.Threshold(D.ClassifierFree(label(a), label(b), w), q), X[0]).x0 for a, b, w, q in numbers]
    assert traces.count == 1
    assert not np.array_equal(outs[0], outs[1])
    assert_same_bits(call(D.Threshold(D.ClassifierFree(label(1), label(0), 2.0), 0.9), X[0]).x0, outs[0])
