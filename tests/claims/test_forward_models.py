"""Tewari et al., "Diffusion with Forward Models: ...", 2023, arXiv:2306.11719.

Claim: trained on partial observations alone, the model learns the law of signals that it never saw. Here signals are
Gaussian in the plane with a strong correlation; each is seen through two or three single directions. The network is
E[signal | x_t, context] of a Gaussian with unknown covariance.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsamp as js

SCHEDULE = js.noise.VP()
ROOT = np.array([[1.2, 0.0], [0.9, 0.5]], np.float32)


def signal(root, x, t, view, context):
    """E[signal | x = alpha view.S + sigma eps, c = direction.S] for S ~ N(0, root root^T)."""
    seen, direction = context
    a, s = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    observe = jnp.stack([a * view, direction])
    mixed = jnp.sum(observe[:, :, None] * root[None], axis=1)  # observe root, elementwise
    gram = jnp.sum(mixed[:, None] * mixed[None], axis=-1) + jnp.diag(jnp.stack([s**2, 1e-4]))
    (p, q), (_, r) = gram
    u, v = x[0], seen[0]
    weight = jnp.stack([r * u - q * v, p * v - q * u]) / (p * r - q * q)
    return jnp.sum(root * jnp.sum(mixed * weight[:, None], axis=0)[None], axis=1)


def look(signal, view):
    return jnp.sum(signal * view)[None]


def views(step):
    rng = np.random.default_rng(step)
    hidden = rng.normal(size=(256, 2)) @ ROOT.T
    angles = rng.uniform(0, np.pi, (3, 256))
    directions = [np.stack([np.cos(a), np.sin(a)], 1).astype(np.float32) for a in angles]
    target, context, extra = (np.sum(hidden * d, 1, keepdims=True).astype(np.float32) for d in directions)
    return js.loss.Views(target, directions[0], (context, directions[1]), extra, directions[2])


def test_the_law_of_signals_that_were_never_seen():
    loss = js.loss.ForwardModelMatch(look, SCHEDULE)
    start = jax.tree_util.Partial(signal, jnp.eye(2))
    model = js.fit.minimise(
        jax.random.key(0), loss, start, views, optimiser=optax.adam(optax.cosine_decay_schedule(0.05, 400)), steps=400
    ).x
    root = model.args[0]
    covariance = np.asarray(root) @ np.asarray(root).T
    # Only directions were observed: their second moments give the covariance.
    np.testing.assert_allclose(covariance, ROOT @ ROOT.T, atol=0.15)
    # Draw signals given one view: the unseen coordinate has the conditional mean and spread, where a regressor has none.
    seen = jnp.array([1.0])
    context, view = (seen, jnp.array([1.0, 0.0])), jnp.array([0.0, 1.0])
    network = jax.tree_util.Partial(lambda model, x, t: model(x, t, view, context), model)
    denoiser = js.denoise.ForwardModel(network, jax.tree_util.Partial(lambda s: look(s, view)), SCHEDULE)
    plan = js.solve.dpmpp(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 20))
    draw = lambda key: js.sample(None, denoiser, jax.random.normal(key, (1,)), plan).x
    x = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 4000)))[:, 0]
    true = ROOT @ ROOT.T
    assert abs(x.mean() - true[0, 1] / true[0, 0]) < 0.12
    assert abs(x.std() - np.sqrt(true[1, 1] - true[0, 1] ** 2 / true[0, 0])) < 0.1
