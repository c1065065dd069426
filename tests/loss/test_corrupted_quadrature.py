"""Exact minima of the losses of bridges, corrupted data and auto-encoders."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadrature import check_minimum, expected, normal_nodes

import jsamp as js

pytestmark = pytest.mark.usefixtures("x64")
L = js.loss
S0, S1 = 0.7, 1.3


def column(z, k):
    return jnp.asarray(z[:, k : k + 1])


PATHS = [
    js.noise.Interpolant("linear"),
    js.noise.Interpolant("trigonometric", "quadratic", 1.5),
    js.noise.Interpolant("encoding-decoding"),
    js.noise.Interpolant("one-sided"),
    js.noise.Interpolant("one-sided-trigonometric"),
    js.noise.Interpolant("mirror", "sine", 0.6),
]


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.path)
def test_interpolate(path, antithetic):
    t, h = 0.3, 1e-5
    z, w = normal_nodes(3, 8)
    drawn = L.InterpolateDrawn(
        column(S0 * z, 0) if path.two_sided else None, column(S1 * z, 1), jnp.full(len(w), t), column(z, 2)
    )
    (a, da), (b, db), (g, _) = (
        (float(f(t)), (float(f(t + h)) - float(f(t - h))) / (2 * h)) for f in (path.alpha, path.beta, path.gamma)
    )
    total = (a * S0) ** 2 + (b * S1) ** 2 + g**2
    moved = a * da * S0**2 + b * db * S1**2
    best = {
        "b": (moved + float(path.gamma_gamma_dot(t))) / total,
        "v": moved / total,
        "s": -1 / total,
        "eta": g / total,
    }
    for field, answer in best.items():
        loss = L.Interpolate(path, field=field, antithetic=antithetic)
        objective = lambda c, loss=loss: expected(loss, drawn, w, lambda x, t: c * x)
        check_minimum(objective, answer, None, 1e-6)
        np.testing.assert_allclose(objective(answer), -(answer**2) * total / 2, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(best["b"], best["v"] - float(path.gamma_gamma_dot(t)) * best["s"], rtol=1e-9)


def test_antithetic_pairs_cancel_the_noise_near_the_ends():
    path, t = js.noise.Interpolant("linear"), 1e-3
    drawn = lambda key: L.InterpolateDrawn(
        S0 * jax.random.normal(jax.random.fold_in(key, 0), (4000, 1)),
        S1 * jax.random.normal(jax.random.fold_in(key, 1), (4000, 1)),
        jnp.full(4000, t),
        jax.random.normal(jax.random.fold_in(key, 2), (4000, 1)),
    )

    def spread(antithetic):
        loss = L.Interpolate(path, field="s", antithetic=antithetic)
        each = lambda c: loss.value(lambda x, t: c * x, drawn(jax.random.key(0)))[1].each
        return jnp.var(jax.jacfwd(each)(-1.0))

    assert spread(True) < 0.02 * spread(False)


def test_regeneration():
    """x ~ N(0, 1), y = x + noise: the regressor is E[x | y] whether or not gradients flow into it."""
    schedule, t, noise = js.noise.OUVE(), 0.6, 0.5
    z, w = normal_nodes(3, 8)
    x, y = column(z, 0), column(z, 0) + noise * column(z, 1)
    drawn = L.RegenerationDrawn(x, y, jnp.full(len(w), t), column(z, 2))
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    keep, left = 1 / (1 + noise**2), noise**2 / (1 + noise**2)
    total = alpha**2 * left + sigma**2
    gain = alpha * left / total  # E[x | u, y] = keep y + gain (u - alpha keep y), u = x_t - (1 - alpha) estimate

    def network(predicts, p, q):
        def clean(x, t, y, estimate):
            u = x - (1 - alpha) * estimate
            x0 = p * u + q * y
            eps = (u - alpha * x0) / sigma
            return {"x0": x0, "eps": eps, "score": -eps / sigma}[predicts]

        return clean

    best = jnp.array([keep, gain, keep * (1 - gain * alpha)])
    floor = 0.3 * left + 0.7 * (alpha / sigma) ** 2 * left * sigma**2 / total
    for predicts, stop in (("x0", False), ("eps", True), ("score", False)):
        loss = L.Regeneration(schedule, predicts=predicts, mix=0.3, stop=stop)
        check_minimum(
            lambda c, loss=loss, predicts=predicts: expected(
                loss, drawn, w, (lambda y: c[0] * y, network(predicts, c[1], c[2]))
            ),
            best, floor,
        )  # fmt: skip
    # Away from the optimum of the network the gradient reaches the regressor unless it is stopped.
    slope = lambda stop: jax.grad(
        lambda c: expected(
            L.Regeneration(schedule, predicts="x0", mix=0.0, stop=stop), drawn, w,
            (lambda y: c * y, lambda x, t, y, estimate: x),
        )
    )(0.1)  # fmt: skip
    assert slope(True) == 0 and abs(slope(False)) > 0.01


def test_forward_model_match():
    """A signal in the plane, seen through two directions: the network learns E[signal | x_t, context]."""
    schedule, t = js.noise.VP(), 0.4
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    z, w = normal_nodes(3, 6)
    root = np.array([[1.0, 0.0], [0.6, 0.5]])
    signal = z[:, :2] @ root.T
    context, target, extra = np.array([1.0, 0.5]), np.array([0.3, 1.0]), np.array([1.0, -1.0])
    rows = lambda v: jnp.tile(jnp.asarray(v), (len(w), 1))
    see = lambda v: jnp.asarray(signal @ v)[:, None]
    views = L.Views(see(target), rows(target), see(context), see(extra), rows(extra))
    drawn = L.ViewsDrawn(views, jnp.full(len(w), t), column(z, 2))
    cov = root @ root.T
    observe = np.stack([alpha * target, context])
    seen = observe @ cov @ observe.T + np.diag([sigma**2, 0.0])
    best = cov @ observe.T @ np.linalg.inv(seen)
    loss = L.ForwardModelMatch(lambda s, view: jnp.sum(s * view)[None], schedule, weight=2.0, extra_weight=0.5)
    model = lambda c: lambda x, t, view, context: c @ jnp.concatenate([x, context])
    left = cov - best @ observe @ cov
    floor = 2 * target @ left @ target + 0.5 * extra @ left @ extra
    check_minimum(lambda c: expected(loss, drawn, w, model(c)), best, floor)


def test_ambient():
    std, known, sigma = 0.8, 0.5, 1.1
    z, w = normal_nodes(3, 8)
    rows = column(std * z, 0) + known * column(z, 1)
    drawn = L.AmbientDrawn(rows, jnp.full(len(w), known), jnp.full(len(w), sigma), column(z, 2))
    best = std**2 / (std**2 + sigma**2)
    loss = L.Ambient(weight=3.0)
    share = (known / sigma) ** 2
    spread = std**2 + known**2 - ((1 - share) * best + share) ** 2 * (std**2 + sigma**2)
    check_minimum(lambda c: expected(loss, drawn, w, lambda x, s: c * x), best, 3 * spread)
    clean = drawn._replace(x=column(std * z, 0), known=jnp.zeros(len(w)))
    check_minimum(
        lambda c: expected(loss, clean, w, lambda x, s: c * x), best, 3 * std**2 * sigma**2 / (std**2 + sigma**2)
    )


def test_the_consistency_term_is_unbiased():
    """Zero at the exact denoiser, though each path misses; its minimum in the low levels is there."""
    std, known, lower, steps = 0.8, 0.5, 0.2, 2
    z, w = normal_nodes(1 + 2 * steps, 4)
    path = jnp.asarray(z[:, 1:]).reshape(len(w), 2, steps, 1)
    full = lambda v: jnp.full(len(w), v)
    rows = column(np.sqrt(std**2 + known**2) * z, 0)
    drawn = L.AmbientDrawn(rows, full(known), full(1.1), jnp.zeros_like(rows), full(lower), path)
    loss = L.Ambient(consistency=1.0, steps=steps)
    exact = lambda s: std**2 / (std**2 + s**2)
    # The coefficient at the lower level moves: everywhere else the denoiser is exact.
    model = lambda c: lambda x, s: jnp.where(s < lower + 1e-6, c, exact(s)) * x
    term = lambda c: jnp.sum(jnp.asarray(w) * loss._term(model(c), drawn))
    check_minimum(term, exact(lower), 0.0)
    assert np.abs(np.asarray(loss._term(model(exact(lower)), drawn))).max() > 1e-3
    assert np.all(np.asarray(loss._term(model(0.1), drawn._replace(known=full(0.0)))) == 0)
    value, info = loss.value(model(0.3), drawn)
    np.testing.assert_allclose(value, info.parts["denoising"] + info.parts["consistency"], rtol=1e-12)


def test_ambient_levels_follow_their_truncated_law():
    loss = L.Ambient(times=L.LogNormalTimes(-1.2, 1.2), consistency=1.0)
    known = jnp.where(jnp.arange(400) % 2, 0.5, 0.0)
    drawn = loss.draw(jax.random.key(0), (jnp.zeros((400, 1)), known))
    assert np.all(drawn.sigma > known) and np.all(drawn.lower <= known)
    cdf = lambda v: np.asarray(jax.scipy.stats.norm.cdf((np.log(v) + 1.2) / 1.2))
    noisy = (cdf(np.asarray(drawn.sigma[1::2])) - cdf(0.5)) / (1 - cdf(0.5))
    low = cdf(np.asarray(drawn.lower[1::2])) / cdf(0.5)
    # Kolmogorov-Smirnov at 1e-4 for 200 draws, no less uniform for being stratified.
    for u in (noisy, low):
        assert np.max(np.abs(np.sort(u) - (np.arange(200) + 0.5) / 200)) < 2.23 / np.sqrt(200)


def test_ambient_mask():
    """Two pixels with correlation r; the network sees the first: both coefficients are those of the clean law."""
    r, sigma, missing, delta = 0.6, 0.7, 0.4, 0.2
    z, w = normal_nodes(3, 6)
    x = np.stack([z[:, 0], r * z[:, 0] + np.sqrt(1 - r**2) * z[:, 1]], 1)
    eps = np.stack([z[:, 2], np.zeros(len(z))], 1)
    rows, weights, masks, seen = [], [], [], []
    for shown in itertools.product((0.0, 1.0), repeat=2):
        for kept in itertools.product((0.0, 1.0), repeat=2):
            if np.any(np.array(kept) > shown) or kept != (1.0, 0.0):
                continue
            chance = np.prod([1 - missing if m else missing for m in shown])
            chance *= np.prod([(1 - delta if k else delta) if m else 1.0 for m, k in zip(shown, kept, strict=True)])
            rows.append(x), weights.append(chance * w)
            masks.append(np.tile(shown, (len(w), 1))), seen.append(np.tile(kept, (len(w), 1)))
    stacked = [jnp.asarray(np.concatenate(v)) for v in (rows, masks, seen)]
    w = np.concatenate(weights)
    drawn = L.AmbientMaskDrawn(*stacked, jnp.full(len(w), sigma), jnp.tile(jnp.asarray(eps), (len(rows), 1)))
    best = np.array([1.0, r]) / (1 + sigma**2)
    loss = L.AmbientMask(weight=2.0)

    def model(c):
        def network(x, s, seen):
            return c * x[0]  # x[1] is hidden

        return network

    check_minimum(lambda c: expected(loss, drawn, w, model(c)), best)
    # What is hidden does not reach the network, not even as NaN.
    spoiled = drawn._replace(x=jnp.where(drawn.mask > 0, drawn.x, jnp.nan))
    np.testing.assert_allclose(expected(loss, spoiled, w, model(best)), expected(loss, drawn, w, model(best)))


def test_ambient_mask_hides_as_often_as_asked():
    loss = L.AmbientMask(delta=0.25)
    mask = (jnp.arange(8000) % 2).astype(float).reshape(4000, 2)
    seen = np.asarray(loss.draw(jax.random.key(0), (jnp.zeros((4000, 2)), mask)).seen)
    assert np.all(seen[:, 0] == 0)
    assert abs(seen[:, 1].mean() - 0.75) < 4.5 * np.sqrt(0.25 * 0.75 / 4000)


def test_auto_encoders():
    std, scale = 0.8, 0.5
    z, w = normal_nodes(2)
    best = std**2 / (std**2 + scale**2)
    drawn = L.Noised(column(std * z, 0), column(z, 1))
    floor = std**2 * scale**2 / (std**2 + scale**2)
    check_minimum(lambda c: expected(L.Reconstruction(scale), drawn, w, lambda x: c * x), best, floor)
    probed = drawn._replace(eps=drawn.eps[:, None])
    check_minimum(lambda c: expected(L.Contractive(scale), probed, w, lambda x: c * x), best, floor)


def test_the_contraction_is_the_frobenius_norm():
    z, w = normal_nodes(2)
    matrix = jnp.array([[0.3, 1.2], [-0.4, 0.8]])
    drawn = L.Noised(jnp.tile(jnp.array([0.2, -0.5]), (len(w), 1)), jnp.asarray(z)[:, None])
    model = lambda x: jnp.tanh(matrix @ x)
    jacobian = jax.jacfwd(model)(drawn.x[0])
    wanted = jnp.mean((model(drawn.x[0]) - drawn.x[0]) ** 2) + 0.09 * jnp.sum(jacobian**2) / 2
    np.testing.assert_allclose(expected(L.Contractive(0.3), drawn, w, model), wanted, rtol=1e-9)
    probes = L.Contractive(0.3, probes=3).draw(jax.random.key(0), jnp.zeros((5, 2))).eps
    assert probes.shape == (5, 3, 2)


def test_latent_loglik_is_the_marginal_likelihood():
    direction, offset, scale = jnp.array([1.5, -0.7]), jnp.array([0.3, 0.1]), 0.6
    law = lambda x: jax.scipy.stats.multivariate_normal.logpdf(
        x, offset, jnp.outer(direction, direction) + scale**2 * jnp.eye(2)
    )
    x = jnp.array([0.4, -1.1])
    found = L.latent_loglik(lambda z: offset + z * direction, x, scale, nodes=80)
    np.testing.assert_allclose(found, law(x), rtol=1e-6)
    # Uniform latent: a circle seen from its centre is at distance one everywhere.
    circle = lambda z: jnp.array([jnp.cos(2 * jnp.pi * z), jnp.sin(2 * jnp.pi * z)])
    centre = L.latent_loglik(circle, jnp.zeros(2), scale, nodes=16, latent="uniform")
    np.testing.assert_allclose(centre, -1 / (2 * scale**2) - jnp.log(2 * jnp.pi * scale**2), rtol=1e-9)


def test_instance_noise_is_consistent():
    """Linear generator z -> a z of data of variance s^2: with the noise known, the best a is s, whatever the noise."""
    std, scale = 0.8, 0.5
    z, w = normal_nodes(2, 16)
    drawn = L.Noised(column(std * z, 0), column(z, 1))
    loss = L.InstanceNoise(scale, nodes=60)
    floor = 0.5 * np.log(2 * np.pi * np.e * (std**2 + scale**2))
    check_minimum(lambda a: expected(loss, drawn, w, lambda z: a * z * jnp.ones(1)), std, None, 1e-5)
    value = expected(loss, drawn, w, lambda z: std * z * jnp.ones(1))
    np.testing.assert_allclose(value, floor, rtol=1e-6)
