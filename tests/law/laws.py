"""What the law suites share: networks that count their traces, and an independent interpreter of plans in numpy."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

import jsamp as js


class Traces:
    """A network `model(weights, x, t)` that counts how often Python runs it."""

    def __init__(self):
        self.count = 0

    def bind(self, weights):
        """The network as a callable tree; all binds share the counter."""
        return jax.tree_util.Partial(self._apply, weights)

    @functools.cached_property
    def _apply(self):
        def apply(weights, x, t):
            self.count += 1
            return network(weights, x, t)

        return apply


WEIGHTS = {"gain": np.float32(0.7), "bend": np.float32(0.4)}


def network(weights, x, t):
    """A smooth elementwise stand-in for a network, bounded, on any tree."""
    return jax.tree.map(lambda v: weights["gain"] * jnp.tanh(weights["bend"] * v) + 0.1 * jnp.cos(t), x)


def denoiser(schedule, predicts="x0", weights=None):
    """A denoiser of the stand-in network."""
    model = jax.tree_util.Partial(network, WEIGHTS if weights is None else weights)
    return js.Denoiser(model, schedule, predicts=predicts)


def mixture(schedule):
    """A smooth mixture of four Gaussians in two dimensions."""
    return js.denoise.GaussianMixture(
        schedule,
        weights=[0.2, 0.3, 0.4, 0.1],
        means=[[-1.0, 0.5], [0.8, 0.9], [0.3, -1.0], [-0.7, -0.9]],
        stds=[0.4, 0.5, 0.45, 0.6],
    )


def interpret(plan, predict, x, noise=None):
    """Run a plan in numpy as the docstring of `Plan` says: `predict(x, t) -> (x0, eps)`, `noise(row, stream)`.

    `predict` may return a third array, a kick in units of x.
    """
    x = np.asarray(x, np.float64)
    held, kick = x, 0.0
    history = [np.zeros_like(x)] * plan.slots
    v = np.zeros_like(x)
    mixes = {"x0": (1, 0), "eps": (0, 1), "velocity": (-1, 1)}
    for r in range(plan.nfe):
        if plan.churn_std is not None:
            x = x + plan.churn_std[r] * noise(r, 1)
        x0, eps, *moved = predict(x, plan.t[r])
        a, b = mixes[plan.kind] if plan.mix is None else plan.mix[r]
        m = (a * x0 if a else 0) + (b * eps if b else 0)
        if plan.prediction_rate is not None:
            m = v = (1 - plan.prediction_rate[r]) * v + plan.prediction_rate[r] * m
        take = 1 if plan.take is None else int(plan.take[r])
        base = x if take == 1 else held if plan.corrector_newest is None else held + plan.corrector_newest[r] * m
        if take != 0 and moved:
            kick = moved[0]
        u = sum(w * h for w, h in zip(plan.weights[r], [m, *history], strict=True))
        if plan.increment_rate is not None:
            v = (1 - plan.increment_rate[r]) * v + plan.increment_rate[r] * u
            u = plan.gain[r] * (v + plan.increment_blend[r] * (u - v))
        z = plan.noise_std[r] * noise(r, 0) if plan.noise_std is not None else 0.0
        if plan.relative is not None and plan.relative[r]:
            ratio = np.sqrt(m.size / np.sum(m**2))
            u, z = ratio**2 * u, ratio * z
        x, held = plan.state_coef[r] * base + u + z, base + z
        ends = plan.ends_step is None or plan.ends_step[r]
        if plan.corrector_weights is not None:
            held = (
                plan.corrector_state[r] * base
                + sum(q * h for q, h in zip(plan.corrector_weights[r], [m, *history], strict=True))
                + z
                + ends * kick
            )
        if ends:
            x = x + kick
        if plan.slots:
            history[int(plan.slot[r])] = m
    return x


def central(function, size=1e-5):
    """Derivative of a function of one number at 0, by central differences of fourth order."""
    f = [np.asarray(function(k * size), np.float64) for k in (-2, -1, 1, 2)]
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * size)


def op_by_op(function, *arguments):
    """What a function gives under a trace, one primitive after the other: a large program takes long to compile."""
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    with jax.disable_jit():
        out = jax.extend.core.jaxpr_as_fun(traced)(*map(jnp.asarray, jax.tree.leaves(arguments)))
    return jax.tree.unflatten(jax.tree.structure(shapes), out)


def directions(tree, seed=0):
    """A fixed direction in the space of a tree's floating leaves; zeros for the others."""
    rng = np.random.default_rng(seed)

    def one(leaf):
        shape = np.shape(leaf)
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return np.zeros(shape)
        return rng.uniform(-1, 1, shape)

    return jax.tree.map(one, tree)


def assert_same_bits(a, b):
    """Both trees hold the same numbers, bit for bit (NaN equal to NaN)."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
