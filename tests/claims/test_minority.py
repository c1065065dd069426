"""Um, Lee and Ye 2024: guidance by a classifier of minority scores draws low-density samples on purpose."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsamp as js

SCHEDULE = js.noise.VP()
LAW = js.denoise.GaussianMixture(
    SCHEDULE,
    weights=[0.85, 0.05, 0.05, 0.05],
    means=[[0.0, 0.0], [3.0, 0.0], [-2.0, 2.5], [-1.0, -3.0]],
    stds=[0.6] * 4,
)
LEVELS, NUM = 10, 4000


def data(key, num):
    """Draws of the mixture."""
    first, second = jax.random.split(key)
    which = js.select.draw_categorical(first, LAW.log_weights, (num,))
    return jnp.asarray(LAW.means)[which] + 0.6 * jax.random.normal(second, (num, 2))


def classify(params, x, t):
    """A noise-conditional classifier: two hidden layers."""
    h = jnp.concatenate([x, jnp.full((*x.shape[:-1], 1), 4 * t - 2, x.dtype)], axis=-1)
    for i, (w, b) in enumerate(params):
        h = jnp.matmul(h, w) + b.reshape((1,) * (h.ndim - 1) + b.shape)
        h = jax.nn.silu(h) if i < len(params) - 1 else h
    return h


@functools.cache
def trained():
    """Data scored by how far the denoiser moves them, cut into ten levels, and a classifier of noised data."""
    x0 = data(jax.random.key(0), NUM)
    # Noise about as large as the distance between modes: there the denoiser prefers the frequent one.
    t = float(SCHEDULE.time(-np.log(1.5)))
    score = jax.jit(jax.vmap(lambda k, x: js.estimate.minority_score(k, LAW, x, t, num=5).value))
    scores = score(jax.random.split(jax.random.key(1), NUM), x0)
    labels = js.estimate.quantile_labels(scores, LEVELS).label
    sizes = [3, 64, 64, LEVELS]
    keys = jax.random.split(jax.random.key(2), 3)
    shapes = itertools.pairwise(sizes)
    params = [(jax.random.normal(k, s) / s[0] ** 0.5, jnp.zeros(s[1])) for k, s in zip(keys, shapes, strict=True)]
    optimiser = optax.adam(optax.linear_schedule(3e-3, 0.0, 2000))

    def loss(params, key):
        pick, noise, time = jax.random.split(key, 3)
        i = jax.random.randint(pick, (256,), 0, NUM)
        t = jax.random.uniform(time, (256,), minval=1e-3)
        x = jax.vmap(lambda x, t, z: SCHEDULE.alpha(t) * x + SCHEDULE.sigma(t) * z)(
            x0[i], t, jax.random.normal(noise, (256, 2))
        )
        logits = jax.vmap(classify, (None, 0, 0))(params, x, t)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[i]))

    def step(carry, key):
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda params: jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(keys[0], 2000)))
    return x0, scores, run(params)[0][0]


def draw(denoiser):
    """Samples by 50 stochastic steps of second order."""
    plan = js.solve.sa_solver(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 50, final="zero"))
    x = SCHEDULE.prior(jax.random.key(3), (NUM, 2))
    return js.sample(jax.random.key(4), denoiser, x, plan).x


def isolation(x, to):
    """Mean distance to the tenth nearest of the data."""
    gaps = np.linalg.norm(np.asarray(x)[:1000, None] - np.asarray(to)[None], axis=-1)
    return np.mean(np.partition(gaps, 10, axis=1)[:, 10])


@pytest.mark.slow
def test_rare_samples_on_purpose():
    x0, scores, params = trained()
    logp = LAW.logdensity(x0, 1e-5)
    rank = lambda v: np.argsort(np.argsort(v))
    assert np.corrcoef(rank(scores), rank(-logp))[0, 1] > 0.5
    edge = np.quantile(logp, 0.1)
    rare = lambda x: float(np.mean(LAW.logdensity(x, 1e-5) < edge))
    classifier = jax.tree_util.Partial(classify, params)
    base = draw(LAW)
    found = {w: draw(js.denoise.Minority(LAW, classifier, scale=w)) for w in (0.0, 3.0)}
    common = draw(js.denoise.Minority(LAW, classifier, 0, 3.0))
    # Five standard errors of two fractions of 4000 draws are 0.034; the steps of the solver add little.
    assert abs(rare(base) - 0.1) < 0.035
    np.testing.assert_allclose(found[0.0], base, rtol=1e-5, atol=1e-5)
    assert rare(found[3.0]) > 0.4
    assert rare(common) < 0.05
    assert isolation(found[3.0], x0) > 1.5 * isolation(base, x0)
