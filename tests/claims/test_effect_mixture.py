"""Jerzak, Johansson and Daoud, "Image-based Treatment Effect Heterogeneity": images tell whom a treatment helps."""

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

N, SIZE = 1200, 8


def trial(seed, n=N):
    """Noisy images, half of them with a bright patch somewhere in the upper left quarter; those gain 2 from treatment."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, SIZE, SIZE)).astype(np.float32)
    patch = rng.random(n) < 0.5
    images[patch, 1:4, 1:4] += 1.5
    treated = rng.random(n) < 0.5
    outcome = 0.5 + 2.0 * patch * treated + rng.normal(size=n)
    return images, treated, outcome.astype(np.float32), patch


def encoder(key, num=6):
    """Filters of 3 x 3, squashed and averaged over quarters of the image: it is trained."""
    filters = 0.2 * jax.random.normal(key, (num, 1, 3, 3))

    def features(filters, image):
        maps = jax.lax.conv(image[None, None], filters, (1, 1), "SAME")[0]
        return jnp.tanh(maps.reshape(num, 2, SIZE // 2, 2, SIZE // 2).mean((2, 4)).ravel() * 2)

    return jax.tree_util.Partial(features, filters)


def auc(score, truth):
    """The chance that a unit with the patch scores higher than one without."""
    return np.mean(np.asarray(score)[truth][:, None] > np.asarray(score)[~truth][None])


def test_clusters_effects_and_salience_of_a_patch():
    images, treated, outcome, _ = trial(0)
    found, info = js.fit.effect_mixture(
        jax.random.key(1), images, treated, outcome, encoder(jax.random.key(2)), 2, steps=600
    )
    fresh, _, _, patch = trial(1, 600)
    share = jax.vmap(found)(jnp.asarray(fresh))[:, 1]
    assert auc(share, patch) > 0.9
    individual = np.asarray(jax.vmap(found.individual)(jnp.asarray(fresh)))
    error, constant = np.mean((individual - 2 * patch) ** 2), np.mean((float(info.average.value) - 2 * patch) ** 2)
    assert error < 0.5 * constant
    np.testing.assert_allclose(info.effects.value, [0, 2], atol=0.5)
    means = outcome[treated].mean() - outcome[~treated].mean()
    neyman = np.sqrt(outcome[treated].var() / treated.sum() + outcome[~treated].var() / (~treated).sum())
    assert abs(float(info.average.value) - means) < 2 * neyman
    slope = np.abs(np.asarray(jax.vmap(found.salience)(jnp.asarray(fresh[:200])))).mean(0)
    inside = slope[1:4, 1:4].mean()
    outside = (slope.sum() - slope[1:4, 1:4].sum()) / (SIZE**2 - 9)
    assert inside > 3 * outside
