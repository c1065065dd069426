"""Jiang et al., "Learning Unnormalized Statistical Models via Compositional Optimization", 2023, arXiv:2306.07485.

Claim: where the data lie far from the noise the NCE loss is exponentially flat; the likelihood, whose gradient MECO
estimates without a Markov chain, is not. Here data are N(R, 1), the density is exp(-x^2 / 2 + theta x), the noise
N(0, 1). What the flatness does not say: MECO itself needs noise that covers the model, and with wide noise an adaptive
optimiser with a tuned rate crosses NCE's plateau too. At R = 8 with noise of variance 1 + R^2, 64 rows and 1500 steps,
momentum ends at a median |theta - R| of about 0.1 on MECO and above twice that on NCE at any rate, Adam below it on NCE.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsamp as js

LOG_2PI = float(np.log(2 * np.pi))


def density(theta, x):
    return -(x**2) / 2 + theta * x


def noise(scale):
    sample = jax.tree_util.Partial(lambda s, key: s * jax.random.normal(key), jnp.float32(scale))
    return sample, jax.tree_util.Partial(lambda s, x: jax.scipy.stats.norm.logpdf(x, 0.0, s), jnp.float32(scale))


def curvatures(distance):
    """Least curvature of the expected NCE loss at its minimum, and that of the likelihood by MECO's gradient."""
    z, w = np.polynomial.hermite_e.hermegauss(120)
    w = jnp.asarray(w / w.sum())
    rows, other = jnp.asarray(distance + z), jnp.asarray(z)
    nce = js.loss.NCE(*noise(1.0))

    def expected(c):
        model = (lambda x: density(c[0], x), c[1])
        return jnp.sum(w * nce.value(model, js.loss.EnergyDrawn(rows, other))[1].each)

    exact = jnp.array([distance, distance**2 / 2 + LOG_2PI / 2])
    assert np.abs(jax.grad(expected)(exact)).max() < 1e-6

    def slope(theta):
        """The gradient of MECO's surrogate, expected over data and noise, with u at its limit for this theta."""
        loss = js.loss.MECO(*noise(1.0), gamma=1e-15, log_u=theta**2 / 2 + LOG_2PI / 2)
        one = lambda t, x, z: loss.value(lambda v: density(t, v), js.loss.EnergyDrawn(x[None], z[None]))[0]
        return jnp.sum(w * jax.vmap(jax.grad(one), (None, 0, 0))(theta, rows, other))

    flat = np.linalg.eigvalsh(np.asarray(jax.hessian(expected)(exact))).min()
    return flat, float((slope(distance) - slope(distance - 0.1)) / 0.1)


def test_nce_is_flat_where_the_likelihood_is_not():
    with jax.enable_x64(True):
        found = {distance: curvatures(float(distance)) for distance in (1, 2, 3)}
    for distance, wanted in ((1, 0.213), (2, 0.057), (3, 0.0118)):
        flat, likelihood = found[distance]
        assert flat == pytest.approx(wanted, rel=0.02)
        assert likelihood == pytest.approx(1.0, rel=1e-3)


def test_meco_fits_with_noise_that_covers_the_model():
    data = 3.0 + jax.random.normal(jax.random.key(1), (4096,))
    start = jax.tree_util.Partial(density, jnp.float32(0.0))
    optimiser = optax.chain(optax.clip(10.0), optax.sgd(optax.cosine_decay_schedule(0.1, 600)))
    model, info = js.fit.minimise(
        jax.random.key(0), js.loss.MECO(*noise(10**0.5)), start, data, optimiser=optimiser, steps=600, batch=256
    )
    theta = float(model.args[0])
    assert abs(theta - float(data.mean())) < 0.15
    assert abs(float(info.state.loss[0].log_u) - theta**2 / 2 - LOG_2PI / 2) < 0.3  # log of the integral


@jax.jit
def far_errors(key):
    """Median |theta - R| over 48 runs at R = 8: MECO by momentum, NCE by gradients at four rates, NCE by Adam."""
    distance, batch, steps = 8.0, 64, 1500
    wide = noise(65**0.5)

    def run(key, loss, theta, optimiser):
        def step(carry, key):
            params, state, loss = carry
            k_data, k_loss = jax.random.split(key)
            rows = distance + jax.random.normal(k_data, (batch,))
            value = lambda c: loss(k_loss, model_of(c), rows)
            slope, info = jax.grad(value, has_aux=True)(params)
            moves, state = optimiser.update(slope, state, params)
            return (params + moves, state, loss.remember(info)), None

        start = (theta, optimiser.init(theta), loss)
        return jnp.abs(jax.lax.scan(step, start, jax.random.split(key, steps))[0][0][0] - distance)

    def model_of(c):
        return (lambda x: density(c[0], x)) if c.size == 1 else ((lambda x: density(c[0], x)), c[1])

    def median(loss, size, optimiser):
        return jnp.median(jax.vmap(lambda k: run(k, loss, jnp.zeros(size), optimiser))(jax.random.split(key, 48)))

    slow = lambda rate: optax.chain(optax.clip(10.0), optax.sgd(rate))
    momentum = optax.chain(optax.clip(10.0), optax.ema(0.9, debias=False), optax.sgd(0.003))
    meco = median(js.loss.MECO(*wide, gamma=0.3, log_u=jnp.float32(-jnp.inf)), 1, momentum)
    nce = jnp.stack([median(js.loss.NCE(*wide), 2, slow(rate)) for rate in (0.1, 0.3, 1.0)])
    return meco, nce, median(js.loss.NCE(*wide), 2, optax.adam(0.3))


def test_far_from_the_noise_momentum_gets_nearer_on_meco_than_on_nce():
    meco, nce, adaptive = far_errors(jax.random.key(0))
    assert meco < 0.15
    assert nce.min() > 2 * meco
    assert adaptive < meco
