"""Interpolants between Gaussian mixtures: the exact velocity and score, and the plans that use them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

D, S = js.denoise, js.solve
VE = js.noise.VE()
PATHS = {
    "linear": js.noise.Interpolant("linear"), "linear, none": js.noise.Interpolant("linear", "none"),
    "trigonometric": js.noise.Interpolant("trigonometric", "brownian", 1.5),
    "encoding-decoding": js.noise.Interpolant("encoding-decoding"), "one-sided": js.noise.Interpolant("one-sided"),
    "one-sided-trigonometric": js.noise.Interpolant("one-sided-trigonometric"),
    "mirror": js.noise.Interpolant("mirror", "quadratic", 2.0),
}  # fmt: skip


def start():
    covs = [[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.4]]]
    return D.GaussianMixture(VE, weights=[0.4, 0.6], means=[[-1.0, 0.5], [0.3, -0.8]], covs=covs)


def end():
    return D.GaussianMixture(VE, weights=[0.7, 0.3], means=[[1.2, 0.4], [-0.5, -0.6]], stds=[[0.4, 0.3], [0.25, 0.5]])


def bridge(name):
    return D.BridgeMixture(PATHS[name], start() if PATHS[name].two_sided else None, end())


def moments(law):
    weights = np.exp(law.log_weights)
    mean = weights @ law.means
    axes = np.eye(2)[None] if law.axes is None else law.axes
    covs = np.einsum(
        "kab,kb,kcb->kac",
        np.broadcast_to(axes, (len(weights), 2, 2)),
        law.variances,
        np.broadcast_to(axes, (len(weights), 2, 2)),
    )
    spread = law.means - mean
    return mean, np.einsum("k,kab->ab", weights, covs) + np.einsum("k,ka,kb->ab", weights, spread, spread)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_and_score_of_the_exact_bridge(name, x64):
    law, path = bridge(name), PATHS[name]
    points = np.random.default_rng(0).normal(size=(20, 2))

    def residual(x, t):
        """d p / dt + div(b p), over p."""
        drift = lambda x: law(x, t).x0
        rate = jax.grad(law.logdensity, argnums=1)(x, t)
        slope = jax.grad(law.logdensity)(x, t)
        return rate + jnp.trace(jax.jacfwd(drift)(x)) + jnp.dot(drift(x), slope), slope - law.score(x, t)

    check = jax.jit(jax.vmap(residual, (0, None)))
    for t in (0.1, 0.4, 0.8):
        continuity, score = check(points, t)
        assert np.abs(continuity).max() < 1e-5
        assert np.abs(score).max() < 1e-9
        found = law(points, t)
        product, gamma = path.gamma_gamma_dot(t), path.gamma(t)
        np.testing.assert_allclose(found.x0, law.mean_velocity(points, t) - product * law.score(points, t), atol=1e-10)
        np.testing.assert_allclose(found.eps, -gamma * law.score(points, t), atol=1e-10)
    for t in (0.0, 1.0):
        if name != "linear, none":
            assert np.all(np.isfinite(law(points, t).x0))
    if path.two_sided:
        np.testing.assert_allclose(law.logdensity(points, 0.0), start().logdensity(points, 0.0), rtol=1e-9)
    np.testing.assert_allclose(law.logdensity(points, 1.0), end().logdensity(points, 0.0), rtol=1e-9)


def test_mean_velocity_is_the_conditional_mean():
    """By regression on draws of the interpolant itself: E[(I' - v(x)) f(x)] = 0."""
    rng, num, path, t = np.random.default_rng(0), 200_000, PATHS["linear"], 0.4
    x0, x1 = (law_draw(law, rng, num) for law in (start(), end()))
    z = rng.normal(size=(num, 2))
    x = (path.alpha(t) * x0 + path.beta(t) * x1 + path.gamma(t) * z).astype(np.float32)
    found = jax.jit(lambda x: (bridge("linear").mean_velocity(x, t), bridge("linear")(x, t).eps))(x)
    for wanted, got in zip((x1 - x0, z), found, strict=True):
        for test in (np.ones_like(x), np.tanh(x), np.sin(3 * x)):
            gap = (wanted - got) * test
            assert np.all(np.abs(gap.mean(0)) < 4.5 * gap.std(0) / np.sqrt(num))


def law_draw(law, rng, num):
    k = rng.choice(2, num, p=np.exp(law.log_weights))
    z = rng.normal(size=(num, 2)) * np.sqrt(law.variances)[k]
    return law.means[k] + (z if law.axes is None else np.einsum("nab,nb->na", law.axes[k], z))


def test_ode_orders_and_the_way_back(x64):
    law, path = bridge("trigonometric"), PATHS["trigonometric"]
    x = np.random.default_rng(1).normal(size=(40, 2))
    run = lambda n, tableau, ends=(0.0, 1.0): (
        js.sample(None, law, x, S.interpolant_ode(path, np.linspace(*ends, n + 1), tableau=tableau)).x
    )
    fine = run(400, "4rk")
    for tableau, order in (("1euler", 1), ("2heun", 2), ("4rk", 4)):
        errors = [np.abs(run(n, tableau) - fine).max() for n in (40, 80)]
        assert order - 0.45 < np.log2(errors[0] / errors[1]) < order + 0.6, (tableau, errors)
    back = js.sample(None, law, fine, S.interpolant_ode(path, np.linspace(1, 0, 401), tableau="4rk")).x
    np.testing.assert_allclose(back, x, atol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("name", ["linear", "one-sided"])
def test_every_noise_level_gives_the_moments_of_the_target(name, eps):
    num, rng = 5_000, np.random.default_rng(2)
    x = law_draw(start(), rng, num) if PATHS[name].two_sided else rng.normal(size=(num, 2))
    first = 0.0 if eps == 0 or name == "one-sided" else 1e-3
    plan = S.interpolant_sde(PATHS[name], np.linspace(first, 1, 101 if eps < 5 else 201), eps=eps)
    law = bridge(name)
    found = js.sample(jax.random.key(0), law, jnp.asarray(x, jnp.float32), plan).x
    mean, cov = moments(end())
    tolerance = 5 * np.sqrt(2 * cov.max() ** 2 / num)
    assert np.abs(np.mean(found, 0) - mean).max() < 5 * np.sqrt(cov.max() / num)
    assert np.abs(np.cov(np.asarray(found).T) - cov).max() < tolerance + 0.004
    # Without noise it is the ODE, with it the start is forgotten.
    kept = abs(np.corrcoef(x[:, 0], found[:, 0])[0, 1])
    assert kept < 0.1 if eps == 5 else kept > 0.1 or name == "linear"


def test_backward_sde_returns_to_the_start():
    num = 5_000
    x = jnp.asarray(law_draw(end(), np.random.default_rng(3), num), jnp.float32)
    plan = S.interpolant_sde(PATHS["linear"], np.linspace(0.999, 0.0, 101), eps=lambda t: 0.5)
    found = js.sample(jax.random.key(1), bridge("linear"), x, plan).x
    mean, cov = moments(start())
    assert np.abs(np.mean(found, 0) - mean).max() < 5 * np.sqrt(cov.max() / num) + 0.004
    assert np.abs(np.cov(np.asarray(found).T) - cov).max() < 5 * np.sqrt(2 * cov.max() ** 2 / num) + 0.006


def test_one_sided_paths_are_diffusions(x64):
    """Euler on the linear path is DDIM on the rectified flow, Heun is Heun; the velocities and noises are the same."""
    flow, path = js.noise.Flow(), PATHS["one-sided"]
    weights, means, stds = [0.7, 0.3], [[1.2, 0.4], [-0.5, -0.6]], [[0.4, 0.3], [0.25, 0.5]]
    diffusion = D.GaussianMixture(flow, weights=weights, means=means, stds=stds)
    x = np.random.default_rng(4).normal(size=(30, 2))
    u = np.linspace(0, 1, 21)
    for tableau, plan in (("1euler", S.ddim(flow, 1 - u)), ("2heun", S.heun(flow, 1 - u[:-1]))):
        grid = u if tableau == "1euler" else u[:-1]
        ours = js.sample(None, bridge("one-sided"), x, S.interpolant_ode(path, grid, tableau=tableau)).x
        np.testing.assert_allclose(ours, js.sample(None, diffusion, x, plan).x, atol=1e-8)
    theirs, ours = diffusion(x, 0.3), bridge("one-sided")(x, 0.7)
    np.testing.assert_allclose(ours.eps, theirs.eps, atol=1e-10)
    np.testing.assert_allclose(ours.x0, theirs.x0 - theirs.eps, atol=1e-10)


def test_networks_in_a_bridge():
    path, law = PATHS["linear"], bridge("linear")
    nets = D.Bridge(path, lambda x, t: law(x, t).x0, law.score)
    x = jnp.array([0.3, -0.2])
    plan = S.interpolant_sde(path, np.linspace(0.01, 1, 30), eps=0.7)
    alone, wrapped = (js.sample(jax.random.key(0), d, x, plan).x for d in (law, nets))
    np.testing.assert_allclose(wrapped, alone, rtol=1e-4, atol=1e-5)
    blind = D.Bridge(path, lambda x, t: law(x, t).x0)
    assert np.all(np.isnan(js.sample(jax.random.key(0), blind, x, plan).x))
    ode = S.interpolant_ode(path, np.linspace(0, 1, 9))
    np.testing.assert_allclose(js.sample(None, blind, x, ode).x, js.sample(None, law, x, ode).x, rtol=1e-4, atol=1e-5)


GRID = np.linspace(0.01, 1, 5)


@pytest.mark.parametrize(("make", "match"), [
    (lambda: S.interpolant_sde(PATHS["linear"], np.linspace(0, 1, 5)), "eps > 0 at t=0, where gamma = 0"),
    (lambda: S.interpolant_sde(PATHS["linear"], GRID, eps=-1.0), "eps must"),
    (lambda: S.interpolant_sde(PATHS["linear"], GRID, eps=[1.0, 2.0]), "one for each time"),
    (lambda: S.interpolant_ode(PATHS["linear"], [0.0, 0.5, 0.2]), "rise, or fall"),
    (lambda: S.interpolant_ode(PATHS["linear"], [0.0, 1.5]), "grid must"),
    (lambda: S.interpolant_ode(PATHS["linear"], GRID, tableau="9rk"), "tableau must be one of"),
    (lambda: S.interpolant_ode("linear", GRID), "interpolant must have"),
    (lambda: D.BridgeMixture(PATHS["linear"], None, end()), "starts at data"),
    (lambda: D.BridgeMixture(PATHS["one-sided"], start(), end()), "starts at its noise"),
    (lambda: D.BridgeMixture(PATHS["linear"], 3, end()), "must be a js.denoise.GaussianMixture"),
    (lambda: D.BridgeMixture(VE, start(), end()), "must have alpha"),
    (lambda: D.Bridge(PATHS["linear"], 3), "velocity must be callable"),
    (lambda: bridge("linear")(jnp.zeros(3), 0.5), r"x must be \[\.\.\., 2\]"),
])  # fmt: skip
def test_refusals(make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make()
