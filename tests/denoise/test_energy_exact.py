"""Guidance by gradients against closed forms: classifiers, energies, rewards, minority, hidden signals, auto-encoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from affine import affine_map, output_law, posterior, predictions, start_of

import jsamp as js

D, S = js.denoise, js.solve
VP, VE = js.noise.VP(), js.noise.VE()
WEIGHTS, MEANS = np.array([0.3, 0.5, 0.2]), np.array([[-1.0, 0.5], [0.8, 0.9], [0.3, -1.0]])
ROOTS = np.random.default_rng(0).normal(size=(3, 2, 2))
COVS = ROOTS @ np.swapaxes(ROOTS, 1, 2) / 4 + 0.1 * np.eye(2)
X = np.array([0.4, -1.2])
call = jax.jit(lambda denoiser, x, t: denoiser(x, t))


def mixture(schedule=VP, keep=slice(None)):
    return D.GaussianMixture(schedule, weights=WEIGHTS[keep], means=MEANS[keep], covs=COVS[keep])


def _joint(parts, log_weights, x, t):
    return jnp.stack([part.logdensity(x, t) + w for part, w in zip(parts, log_weights, strict=True)], axis=-1)


def exact_classifier(spread=1.0, covs=COVS):
    """Log p(k, x_t), component by component, so that nothing underflows far from a class."""
    parts = [
        D.GaussianMixture(VP, weights=[1.0], means=[spread * m], covs=[c]) for m, c in zip(MEANS, covs, strict=True)
    ]
    return jax.tree_util.Partial(_joint, parts, list(np.log(WEIGHTS)))


@pytest.mark.parametrize("label", [0, 2])
def test_an_exact_classifier_is_classifier_free(label, x64):
    """score + w grad log p(k | x, t) = that of classifier-free guidance of weight w; w = 1 is the conditional law."""
    law, cond = mixture(), mixture(keep=[label])
    for t in (0.05, 0.3, 0.8, 1.0):
        for w in (0.0, 1.0, 7.5, -1.0):
            got = call(D.Classifier(law, exact_classifier(), label, w), X, t)
            for wanted in (call(D.ClassifierFree(cond, law, w), X, t), *([call(cond, X, t)] if w == 1 else [])):
                np.testing.assert_allclose(got.x0, wanted.x0, rtol=1e-10, atol=1e-12)
                np.testing.assert_allclose(got.eps, wanted.eps, rtol=1e-10, atol=1e-12)


def test_an_exact_classifier_in_single_precision():
    law, cond = mixture(), mixture(keep=[1])
    x = jnp.asarray(np.random.default_rng(1).normal(size=(50, 2)), jnp.float32)
    for t in (0.05, 0.4, 0.9):
        got = call(D.Classifier(law, exact_classifier(), 1), x, t)
        np.testing.assert_allclose(got.x0, call(cond, x, t).x0, rtol=2e-5, atol=1e-5)


def test_labels_and_weights_of_a_batch(x64):
    """One label and one weight for each sample; a label may be traced and then never retraces."""
    law, x = mixture(), np.random.default_rng(1).normal(size=(4, 2))
    labels, weights = np.array([0, 2, 1, 2]), np.array([1.0, 2.0, 0.5, 3.0])
    batch = call(D.Classifier(law, exact_classifier(), labels, weights), x, 0.4)
    count = []

    @jax.jit
    def one(label, weight, x):
        count.append(1)
        return D.Classifier(law, exact_classifier(), label, weight)(x, 0.4)

    for i in range(4):
        for a, b in zip(jax.tree.leaves(one(labels[i], weights[i], x[i])), jax.tree.leaves(batch), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-12)
    assert len(count) == 1


def test_classifier_guided_samples_are_of_the_class():
    covs = np.broadcast_to(0.25 * np.eye(2), (3, 2, 2))
    law = D.GaussianMixture(VP, weights=WEIGHTS, means=4 * MEANS, covs=covs)
    plan = S.dpmpp(VP, js.noise.logsnr_grid(VP, 25, final="zero"))
    start = jax.random.normal(jax.random.key(0), (500, 2))
    x = js.sample(None, D.Classifier(law, exact_classifier(4.0, covs), 2), start, plan).x
    near = np.linalg.norm(np.asarray(x)[:, None] - 4 * MEANS, axis=-1).argmin(axis=1)
    assert np.mean(near == 2) > 0.99


# ---------------------------------------------------------------- energies and rewards


def test_an_energy_lowers_the_score_by_its_slope(x64):
    law, t, a, s = mixture(), 0.4, float(VP.alpha(0.4)), float(VP.sigma(0.4))
    energy = lambda x0: jnp.sum(jnp.cos(x0)) + x0[..., 0] ** 2
    plain, x = law(X, t), jnp.asarray(X)
    through = jax.jit(jax.grad(lambda x: energy(law(x, t).x0)))(x)
    clean = jax.jit(jax.grad(energy))(plain.x0)
    for kind, slope in (("model", through), ("x0", clean / a)):
        got = call(D.Energy(law, energy, 2.0, kind), X, t)
        np.testing.assert_allclose(got.x0, plain.x0 - 2.0 * s**2 / a * slope, rtol=1e-10)
        np.testing.assert_allclose(got.eps, plain.eps + 2.0 * s * slope, rtol=1e-10)


def test_holding_eps_still_is_exact_where_it_is_still(x64):
    """With an eps that does not depend on x, the two forms of the energy are one."""
    constant = js.Denoiser(lambda x, t: jnp.full_like(x, 0.3), VP)
    for kind in ("model", "x0"):
        out = call(D.Energy(constant, lambda x0: jnp.sum(x0**4), 0.1, kind), X, 0.4)
        if kind == "model":
            wanted = out
    np.testing.assert_allclose(out.x0, wanted.x0, rtol=1e-12)


def test_the_cheap_energy_never_transposes_the_network():
    count = []

    @jax.custom_vjp
    def network(x):
        return 0.5 * x

    network.defvjp(lambda x: (0.5 * x, None), lambda _, g: (count.append(1), (0.5 * g,))[1])
    denoiser = js.Denoiser(lambda x, t: network(x), VP, predicts="x0")
    D.Energy(denoiser, lambda x0: jnp.sum(x0**2), through="x0")(jnp.asarray(X), 0.4)
    assert not count
    D.Energy(denoiser, lambda x0: jnp.sum(x0**2))(jnp.asarray(X), 0.4)
    assert count


SUBSPACE = np.random.default_rng(3).normal(size=(5, 2))
BETA = np.array([1.0, -0.5, 0.3, 0.0, 2.0])


def test_a_linear_reward_is_moment_projection(x64):
    """Reward with a linear reward is TMPD of the one-row operator: the exact conditional law on pseudo-labels."""
    cov, mean = SUBSPACE @ SUBSPACE.T, np.linspace(-1, 1, 5)
    law = D.GaussianMixture(VP, weights=[1.0], means=[mean], covs=[cov])
    x = np.random.default_rng(4).normal(size=5)
    for noise in (0.0, 0.7):
        guided = D.Reward(law, D.LinearReward(BETA, 0.2), 3.0, noise)
        exact = posterior(mean, cov, BETA[None], noise, [2.8])
        wanted = call(D.GaussianMixture(VP, weights=[1.0], means=[exact[0]], covs=[exact[1]]), x, 0.4)
        for a, b in zip(call(guided, x, 0.4), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
        projected = call(D.TMPD(law, D.LinearOp.dense(BETA[None]), np.array([2.8]), noise), x, 0.4)
        np.testing.assert_allclose(call(guided, x, 0.4).x0, projected.x0, rtol=1e-9)


@pytest.mark.parametrize("target", [1.0, 4.0, 16.0])
def test_the_reward_falls_short_in_proportion(target, x64):
    """E f*(x) = kappa target, so the shortfall (1 - kappa) target grows linearly; nothing leaves the subspace."""
    cov, noise = SUBSPACE @ SUBSPACE.T, 0.9
    fitted = BETA + np.array([0.2, 0.0, -0.1, 0.1, 0.0])
    law = D.GaussianMixture(VE, weights=[1.0], means=[np.zeros(5)], covs=[cov])
    plan = S.dpmpp(VE, js.noise.logsnr_grid(VE, 200, final="zero"))
    exact = posterior(np.zeros(5), cov, fitted[None], noise, [target])
    guided = D.Reward(law, D.LinearReward(fitted), target, noise)
    mean, drawn = output_law(guided, plan, *start_of(VE, plan.t[0], *exact))
    spread = fitted @ cov @ fitted + noise**2
    kappa = BETA @ cov @ fitted / spread
    np.testing.assert_allclose(BETA @ mean, kappa * target, rtol=1e-9)
    wanted = cov - np.outer(cov @ fitted, cov @ fitted) / spread
    np.testing.assert_allclose(drawn, wanted, atol=2e-3 * np.abs(wanted).max())
    off = np.linalg.svd(SUBSPACE)[0][:, 2:]
    assert np.abs(off.T @ mean).max() < 1e-9 * target
    assert np.abs(off.T @ drawn @ off).max() < 1e-9


def test_more_labels_leave_less_to_be_wished():
    """Shortfall of the true reward at the target, with a ridge fit on n noisy labels: falls with n."""
    cov, target = SUBSPACE @ SUBSPACE.T, 4.0
    rng, lost = np.random.default_rng(5), []
    for n in (8, 64, 512):
        short = []
        for _ in range(200):
            x = rng.normal(size=(n, 2)) @ SUBSPACE.T
            fit = D.LinearReward.fit(x, x @ BETA + rng.normal(size=n), penalty=1.0)
            weight = np.asarray(fit.weight)
            kappa = BETA @ cov @ weight / (weight @ cov @ weight + 0.1)
            short.append(abs(1 - kappa) * target)
        lost.append(np.mean(short))
    assert lost[0] > 1.5 * lost[1] > 1.5**2 * lost[2]


def test_ridge_by_the_normal_equations(x64):
    rng = np.random.default_rng(6)
    x, values = rng.normal(size=(20, 2, 2)) + 3, rng.normal(size=20)
    flat = x.reshape(20, 4) - x.reshape(20, 4).mean(0)
    for penalty in (0.0, 0.5, 10.0):
        weight = np.linalg.solve(flat.T @ flat + penalty * np.eye(4), flat.T @ (values - values.mean()))
        for fit in (D.LinearReward.fit, jax.jit(D.LinearReward.fit)):
            got = fit(x, values, penalty)
            np.testing.assert_allclose(got.weight, weight.reshape(2, 2), rtol=1e-9)
            np.testing.assert_allclose(np.mean([float(got(v)) for v in x]), values.mean(), rtol=1e-9)
    few = D.LinearReward.fit(x[:3], values[:3], 0.0)
    np.testing.assert_allclose([float(few(v)) for v in x[:3]], values[:3], rtol=1e-9)
    same = D.LinearReward.fit(np.ones((4, 2)), np.arange(4.0), 0.0)
    np.testing.assert_array_equal(same.weight, 0)


# ---------------------------------------------------------------- minority


def test_minority_guidance_is_that_of_a_classifier():
    law, x, classifier = mixture(), jnp.asarray(X, jnp.float32), exact_classifier()
    for level, label in ((None, 2), (0, 0)):
        a = call(D.Minority(law, classifier, level, 2.0), x, 0.4)
        b = call(D.Classifier(law, classifier, label, 2.0), x, 0.4)
        np.testing.assert_allclose(a.x0, b.x0, rtol=1e-6)
    with jax.disable_jit():
        off, base = (d(x, 0.4) for d in (D.Minority(law, classifier, scale=0.0), law))
    for a, b in zip(off, base, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("t", [0.2, 0.5])
def test_minority_score_of_a_gaussian(t):
    """l(x0) = (1 - k)^2 |x0|^2 + k^2 (sigma / alpha)^2 dim for N(0, s^2 I): as -log p orders samples."""
    std, dim, num = 1.5, 4, 40
    law = D.GaussianMixture(VP, weights=[1.0], means=[np.zeros(dim)], stds=[std])
    a, s = float(VP.alpha(t)), float(VP.sigma(t))
    k = a**2 * std**2 / (a**2 * std**2 + s**2)
    x0 = std * jax.random.normal(jax.random.key(0), (num, dim))
    score = jax.jit(jax.vmap(lambda key, x: js.estimate.minority_score(key, law, x, t, num=500)))
    found = score(jax.random.split(jax.random.key(1), num), x0)
    wanted = (1 - k) ** 2 * np.sum(np.asarray(x0) ** 2, axis=1) + k**2 * (s / a) ** 2 * dim
    # 40 numbers within 5 standard errors: a false alarm below 1e-4 for means of 500 near-chi-squared draws.
    z = np.asarray((found.value - wanted) / found.stderr)
    assert np.abs(z).max() < 5
    assert 0.6 < np.std(z) < 1.5  # 1 within three standard errors of 40 numbers
    assert found.ess[0] == 500
    order = np.argsort(np.argsort(wanted)), np.argsort(np.argsort(-np.asarray(law.logdensity(x0, 1e-5))))
    assert np.corrcoef(*order)[0, 1] == pytest.approx(1.0, abs=1e-12)


def test_a_rare_mode_scores_high_at_middling_noise():
    """Denoising pulls to the frequent mode: most where noise and separation are alike, not at all at little noise."""
    law = D.GaussianMixture(VE, weights=[0.95, 0.05], means=[[-2.0], [2.0]], stds=[0.3, 0.3])
    z = 0.3 * jax.random.normal(jax.random.key(0), (300, 1))
    ratio = {}
    for sigma in (0.3, 2.0):
        score = jax.jit(jax.vmap(lambda k, x: js.estimate.minority_score(k, law, x, sigma, num=20).value))
        keys = jax.random.split(jax.random.key(1), 300)
        ratio[sigma] = float(score(keys, z + 2).mean() / score(keys, z - 2).mean())
    assert ratio[2.0] > 5
    assert abs(ratio[0.3] - 1) < 0.3


def test_minority_score_takes_trees_and_distances():
    law = js.Denoiser(lambda x, t: x, VE, predicts="x0")
    x0 = {"a": jnp.ones(2), "b": jnp.zeros(3)}
    found = js.estimate.minority_score(jax.random.key(0), law, x0, 0.5, num=4000)
    assert abs(found.value - 5 * 0.25) < 5 * found.stderr
    own = js.estimate.minority_score(
        jax.random.key(0), law, x0, 0.5, num=2, distance=lambda a, b: 0 * jnp.sum(b["a"]) + 7.0
    )
    assert float(own.value) == 7
    assert np.isnan(js.estimate.minority_score(jax.random.key(0), law, x0, 0.5, num=1).stderr)


def test_quantile_labels_by_hand():
    scores = jnp.asarray(np.random.default_rng(7).permutation(1000), jnp.float32)
    for levels in (2, 10, 100):
        got = js.estimate.quantile_labels(scores, levels)
        np.testing.assert_array_equal(got.count, 1000 // levels)
        np.testing.assert_array_equal(got.label, np.asarray(scores) // (1000 // levels))
        edges = [-np.inf, *np.asarray(got.threshold), np.inf]
        for j in range(levels):
            inside = scores[got.label == j]
            assert np.all((inside > edges[j]) & (inside <= edges[j + 1]))
    ties = js.estimate.quantile_labels(jnp.array([0.0, 0, 0, 0, 1.0]), 3)
    assert ties.count.tolist() == [4, 0, 1]
    jitted = jax.jit(lambda s: js.estimate.quantile_labels(s, 10))(scores)
    np.testing.assert_array_equal(jitted.label, js.estimate.quantile_labels(scores, 10).label)


# ---------------------------------------------------------------- hidden signals and auto-encoders


def hidden_signal(y_context):
    """A linear-Gaussian scene S in R^6 seen in views: the exact network E[S | context, noised view], and the oracle."""
    rng = np.random.default_rng(8)
    root = rng.normal(size=(6, 6))
    cov, context, view = root @ root.T / 4, rng.normal(size=(2, 6)), rng.normal(size=(2, 6))
    mean_s, cov_s = posterior(np.zeros(6), cov, context, 0.0, y_context)

    def network(parts, x, t):
        mean_s, cov_s, view = parts
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        total = alpha**2 * view @ cov_s @ view.T + sigma**2 * jnp.eye(2)
        return mean_s + alpha * cov_s @ view.T @ jnp.linalg.solve(total, x - alpha * view @ mean_s)

    signal = jax.tree_util.Partial(network, (mean_s, cov_s, view))
    forward = jax.tree_util.Partial(lambda view, s: view @ s, view)
    return D.ForwardModel(signal, forward, VP), context, view, mean_s, cov_s


def test_a_signal_never_observed(x64):
    """The view's law is p(view | context); the signal's mean is right, and unseen directions get no spread."""
    denoiser, context, view, mean_s, cov_s = hidden_signal([1.0, -0.5])
    plan = S.dpmpp(VP, js.noise.logsnr_grid(VP, 200, final="zero"))
    start = start_of(VP, plan.t[0], view @ mean_s, view @ cov_s @ view.T)
    mean, cov = output_law(denoiser, plan, *start)
    np.testing.assert_allclose(mean, view @ mean_s, rtol=1e-8)
    np.testing.assert_allclose(cov, view @ cov_s @ view.T, rtol=1e-3)

    def draw(x):
        result = js.sample(None, denoiser, x, plan, keep=lambda x, prediction: prediction.aux)
        return jnp.concatenate([result.x, result.info.kept[-1]])

    matrix, offset = affine_map(jax.jit(draw), 2)
    np.testing.assert_allclose((matrix @ start[0] + offset)[2:], mean_s, rtol=1e-7)
    spread = matrix[2:] @ start[1] @ matrix[2:].T
    unseen = np.linalg.svd(np.concatenate([context, view]))[2][4:]
    assert np.linalg.matrix_rank(spread, 1e-6) == 2
    # The signal is a function of what was seen: rendered again it gives the view and the context.
    np.testing.assert_allclose(view @ (matrix[2:] @ [0.3, -0.2] + offset[2:]), matrix[:2] @ [0.3, -0.2] + offset[:2])
    np.testing.assert_allclose(context @ (matrix[2:] @ [0.3, -0.2] + offset[2:]), [1.0, -0.5], rtol=1e-8)
    true = cov_s - cov_s @ view.T @ np.linalg.solve(view @ cov_s @ view.T, view @ cov_s)
    assert np.trace(unseen @ true @ unseen.T) > 0.05
    np.testing.assert_allclose(spread + true, cov_s, atol=2e-3 * np.abs(cov_s).max())


def test_guidance_goes_through_the_forward_map(x64):
    """By-products survive guidance, and gradients pass the forward map."""
    denoiser = hidden_signal([1.0, -0.5])[0]
    guided = call(D.Energy(denoiser, lambda x0: jnp.sum(x0**2)), X, 0.4)
    assert guided.aux.shape == (6,)
    slope = jax.grad(lambda x: jnp.sum(denoiser(x, 0.4).x0 ** 2))(jnp.asarray(X))
    a, s = float(VP.alpha(0.4)), float(VP.sigma(0.4))
    np.testing.assert_allclose(guided.x0, denoiser(X, 0.4).x0 - s**2 / a * slope, rtol=1e-9)


@pytest.mark.parametrize("schedule", [VE, VP])
def test_auto_encoders_of_every_level_are_denoisers(schedule, x64):
    """r(x, s) = E[x0 | x0 + s eps = x] gives the exact denoiser of a mixture, on any schedule."""
    law = D.GaussianMixture(VE, weights=WEIGHTS, means=MEANS, covs=COVS)
    made = D.from_reconstruction(lambda x, s: law(x, s).x0, schedule)
    exact = mixture(schedule)
    for t in (0.05, 0.4, 0.9):
        for a, b in zip(call(made, X, t), call(exact, X, t), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", [VE, VP])
def test_one_auto_encoder_is_right_at_its_level(schedule, x64):
    """N(0, s^2): r = s^2 / (s^2 + c^2) x has the score -x / (s^2 + c^2) of the data blurred by c, at every level."""
    std, c = 1.3, 0.5
    made = D.from_reconstruction(lambda x: std**2 / (std**2 + c**2) * x, schedule, c)
    t = float(schedule.time(-np.log(c)))
    exact = D.GaussianMixture(schedule, weights=[1.0], means=[np.zeros(2)], stds=[std])
    for a, b in zip(call(made, X, t), call(exact, X, t), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7)
    for t in (0.1, 0.3):
        out, a, s = call(made, X, t), float(schedule.alpha(t)), float(schedule.sigma(t))
        np.testing.assert_allclose(-out.eps / s, -X / a**2 / (std**2 + c**2), rtol=1e-9)
        np.testing.assert_allclose(a * out.x0 + s * out.eps, X, rtol=1e-10)
    # The contractive optimum r = x + c^2 score has the score itself, with the bias s^2 / (s^2 + c^2) of the blur gone.
    contractive = D.from_reconstruction(lambda x: x - c**2 * x / std**2, schedule, c)
    np.testing.assert_allclose(call(contractive, X, 0.1).eps / call(made, X, 0.1).eps, 1 + c**2 / std**2, rtol=1e-9)
    same = js.mcmc.ReconstructionScore(lambda x: std**2 / (std**2 + c**2) * x, c)(jnp.asarray(X))
    if schedule is VE:
        np.testing.assert_allclose(-call(made, X, 0.2).eps / 0.2, same, rtol=1e-9)


def test_predictions_are_affine_where_the_oracle_says_so(x64):
    """The oracle refuses what is not affine: no test can pass on it by accident."""
    plan = S.ddim(VP, js.noise.time_grid(VP, 3))
    with pytest.raises(AssertionError):
        predictions(mixture(), plan, 2)
