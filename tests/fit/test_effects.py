"""Effects in trials against regressions, Neyman's error, and clusters that were put in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jsamp as js
from jsamp.fit._effect_errors import effect_errors
from jsamp.fit._effects import _sorted, individual_effect, unit_loglik

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N = 300
X = RNG.normal(size=(N, 2)).astype(np.float32)
W = (RNG.random(N) < 0.4).astype(np.float32)
Y = (1 + X @ [0.5, -1] + 0.7 * W + RNG.normal(size=N) * np.where(W > 0, 0.4, 1.2)).astype(np.float32)
LBFGS = optax.lbfgs()


def exactly(images, outcome=Y, encoder=lambda x: x, clusters=1, steps=60):
    """The likeliest fit, by full batches and L-BFGS."""
    return js.fit.effect_mixture(
        KEY, images, W, outcome, encoder, clusters, optimiser=LBFGS, steps=steps, batch=N, train_encoder=False
    )


def regression(x=X, w=W, y=Y):
    """Least squares on treatment and covariates, each arm weighted by its own variance, to the fixed point."""
    design = np.c_[np.ones(len(y)), x, w].astype(float)
    weight = np.ones(len(y))
    for _ in range(200):
        coef = np.linalg.lstsq(design * np.sqrt(weight)[:, None], y * np.sqrt(weight), rcond=None)[0]
        left = (y - design @ coef) ** 2
        weight = 1 / np.where(w > 0, left[w > 0].mean(), left[w == 0].mean())
    arm = np.c_[w == 0, w > 0].astype(float)
    scores = np.c_[design * (weight * (y - design @ coef))[:, None], arm * (weight * left - 1)[:, None]]
    cross = -2 * design.T @ (arm * (weight * (y - design @ coef))[:, None])  # of coefficients and log deviations
    inner = np.diag(-2 * (weight * left) @ arm)
    bread = np.linalg.inv(np.block([[-design.T @ (weight[:, None] * design), cross], [cross.T, inner]]))
    meat = scores.T @ scores
    return coef, np.sqrt(np.diag(bread @ meat @ bread))[: len(coef)], left


def test_one_cluster_is_the_regression():
    found, info = exactly(X)
    coef, error, left = regression()
    assert float(found.effect[0]) == pytest.approx(coef[3], abs=2e-4)
    np.testing.assert_allclose(found.baseline, coef[1:3], atol=5e-4)
    assert float(found.baseline_offset) == pytest.approx(coef[0], abs=5e-4)
    spread = np.sqrt([left[W == 0].mean(), left[W > 0].mean()])
    np.testing.assert_allclose(found.spread[:, 0], spread, rtol=2e-3)
    assert float(info.effects.stderr[0]) == pytest.approx(error[3], rel=0.01)
    assert np.all(np.asarray(info.probabilities) == 1)
    assert float(info.average.value) == pytest.approx(float(found.effect[0]), abs=1e-6)
    assert float(info.average.stderr) == pytest.approx(float(info.effects.stderr[0]), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_without_features_it_is_the_difference_in_means(scale):
    """And its error is Neyman's, in any unit of the outcome."""
    found, info = exactly(X, scale * Y + 5 * scale, encoder=lambda x: 0 * x)
    one, other = scale * Y[W > 0], scale * Y[W == 0]
    assert float(found.effect[0]) == pytest.approx(one.mean() - other.mean(), rel=1e-3)
    neyman = np.sqrt(one.var() / len(one) + other.var() / len(other))
    assert float(info.effects.stderr[0]) == pytest.approx(neyman, rel=2e-3)
    assert float(found.baseline_offset) == pytest.approx(other.mean() + 5 * scale, rel=1e-3)


def two_kinds(n, seed):
    """A scalar tells by a sigmoid whether the effect is 0 or 2."""
    rng = np.random.default_rng(seed)
    c = rng.normal(size=(n, 1)).astype(np.float32)
    helped = rng.random(n) < 1 / (1 + np.exp(-4 * c[:, 0]))
    treated = rng.random(n) < 0.5
    return c, treated, (0.3 * c[:, 0] + 2 * helped * treated + 0.5 * rng.normal(size=n)).astype(np.float32), helped


def test_two_clusters_are_found_with_honest_errors():
    c, treated, y, helped = two_kinds(4000, 1)
    options = {"optimiser": LBFGS, "steps": 60, "batch": 4000, "train_encoder": False}
    found, info = js.fit.effect_mixture(KEY, c, treated, y, lambda x: x, 2, **options)
    np.testing.assert_allclose(info.effects.value, [0, 2], atol=0.1)
    assert np.all(np.abs(np.asarray(info.effects.value) - [0, 2]) < 4.5 * np.asarray(info.effects.stderr))
    assert np.all(np.asarray(info.effects.stderr) < 0.06)
    assert found.gate[0, 1] - found.gate[0, 0] == pytest.approx(4, abs=1)
    means = y[treated].mean() - y[~treated].mean()
    neyman = np.sqrt(y[treated].var() / treated.sum() + y[~treated].var() / (~treated).sum())
    assert abs(float(info.average.value) - means) < 3 * neyman  # covariates explain the rest of the difference:
    design = np.c_[np.ones(4000), c, treated, (c - c.mean()) * treated[:, None]]
    assert float(info.average.value) == pytest.approx(np.linalg.lstsq(design, y, rcond=None)[0][2], abs=neyman / 4)
    assert float(info.average.stderr) < 1.1 * neyman
    assert abs(float(info.average.value) - 2 * helped.mean()) < 4.5 * float(info.average.stderr)
    np.testing.assert_allclose(info.individual, jax.vmap(found.individual)(jnp.asarray(c)), atol=1e-5)
    np.testing.assert_allclose(info.probabilities, jax.vmap(found)(jnp.asarray(c)), atol=1e-5)
    np.testing.assert_allclose(info.effects.ess, jnp.sum(info.probabilities, 0), rtol=1e-5)
    assert info.loss[-1] < info.loss[0]
    by_batches = js.fit.effect_mixture(KEY, c, treated, y, lambda x: x, 2, train_encoder=False).info
    np.testing.assert_allclose(by_batches.effects.value, info.effects.value, atol=0.06)


def test_errors_are_those_of_repeated_trials():
    """The spread of effects over trials is what each trial says, within a quarter."""
    runs = [two_kinds(1500, seed) for seed in range(30)]
    fits = [
        js.fit.effect_mixture(KEY, c, w, y, lambda x: x, 2, train_encoder=False, steps=400).info for c, w, y, _ in runs
    ]
    for part in (lambda info: info.effects, lambda info: info.average):
        values = np.stack([np.asarray(part(info).value) for info in fits])
        said = np.sqrt(np.mean(np.square([np.asarray(part(info).stderr) for info in fits]), 0))
        ratio = values.std(0, ddof=1) / said
        assert np.all((ratio > 0.5) & (ratio < 1.55)), ratio  # chi-square with 29 degrees at 1e-5


def heads_of(found):
    """The numbers of a fit as they are fitted, the first cluster's gate left out."""
    parts = {"baseline": found.baseline, "baseline_offset": found.baseline_offset, "effect": found.effect}
    rest = {"gate": found.gate[:, 1:], "gate_offset": found.gate_offset[1:], "log_spread": jnp.log(found.spread)}
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parts | rest)


def weighted_average(theta, build, x, w, y, weight, steps):
    """The average effect of weighted units at the best heads, by Newton's iteration, and these heads."""
    loglik = lambda theta: weight @ jax.vmap(unit_loglik, (None, 0, 0, 0))(build(theta), x, w, y)
    newton = lambda _, theta: theta - jnp.linalg.solve(jax.hessian(loglik)(theta), jax.grad(loglik)(theta))
    theta = jax.lax.fori_loop(0, steps, newton, theta)
    return weight @ jax.vmap(individual_effect, (None, 0))(build(theta), x) / jnp.sum(weight), theta


def test_the_error_of_the_average_is_the_jackknife():
    """How the average moves with the weight of every unit, by differences in float64, where the outcome's law is wrong."""
    y = (RNG.exponential(size=N) + W * (1 + 2 * X[:, 0] + 0.5 * RNG.normal(size=N))).astype(np.float32)
    found, info = exactly(X[:, :1], y, clusters=2, steps=100)
    with jax.enable_x64(True):
        theta, build = ravel_pytree(heads_of(found))
        units = [jnp.asarray(np.asarray(part, np.float64)) for part in (X[:, :1], W, y)]

        @jax.jit
        def run(weights, theta, steps):
            return jax.lax.map(lambda weight: weighted_average(theta, build, *units, weight, steps), weights)

        theta = run(np.ones((1, N)), theta, 10)[1][0]
        moved = 1e-4 * np.eye(N)
        slope = (run(1 + moved, theta, 2)[0] - run(1 - moved, theta, 2)[0]) / 2e-4
        wanted = float(np.linalg.norm(slope))
    assert float(info.average.stderr) == pytest.approx(wanted, rel=1e-3)  # 0.9 of it without the covariance


COUNTED = jax.tree_util.Partial(lambda factor, x: factor * x, jnp.ones(1))


@pytest.mark.parametrize("train", [False, True])
def test_units_of_features_and_outcome_do_not_matter(train):
    c, treated, y, _ = two_kinds(300, 3)
    fit = lambda c, y: js.fit.effect_mixture(KEY, c, treated, y, COUNTED, 2, steps=100, train_encoder=train).info
    plain = fit(c, y)
    for unit in (1e-6, 1e6):
        # The encoder's factor multiplies an offset, too: then the path of its fit is another.
        for info, back in ((fit(unit * (c + 3 * (not train)), y), 1), (fit(c, unit * y), unit)):
            np.testing.assert_allclose(info.effects.value / back, plain.effects.value, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(info.effects.stderr / back, plain.effects.stderr, rtol=1e-3)
            np.testing.assert_allclose(info.average.stderr / back, plain.average.stderr, rtol=1e-3)


def test_the_encoder_turns_to_what_tells_the_effect_where_it_is_trained():
    """It starts beside the one direction of two that tells; untrained it stays, bit for bit, and explains less."""
    c, treated, y, _ = two_kinds(600, 5)
    images = np.concatenate([c, np.random.default_rng(6).normal(size=(600, 1))], 1, dtype=np.float32)
    start = jax.tree_util.Partial(lambda way, x: (way @ x)[None], jnp.array([0.3, 1.0]))
    (found, told), (same, beside) = (
        js.fit.effect_mixture(KEY, images, treated, y, start, 2, steps=300, train_encoder=train)
        for train in (True, False)
    )
    np.testing.assert_array_equal(same.encoder.args[0], start.args[0])
    across, along = np.abs(found.encoder.args[0])[::-1]
    assert across < 0.2 * along
    assert told.loss[-1] < beside.loss[-1] - 0.1


def test_an_offset_of_the_outcome_does_not_matter():
    here, far = (exactly(X, outcome=Y.astype(np.float64) + offset).info.effects for offset in (0.0, 1e9))
    np.testing.assert_allclose(far.value, here.value, rtol=1e-3)
    np.testing.assert_allclose(far.stderr, here.stderr, rtol=1e-3)


def test_other_trials_of_one_size_compile_nothing(caplog):
    seen = []
    with jax.log_compiles():
        for seed in (3, 4):
            c, treated, y, _ = two_kinds(300, seed)
            js.fit.effect_mixture(jax.random.key(seed), c, treated, y, COUNTED, 2, steps=10)
            seen.append(caplog.text.count("Compiling"))
    assert 0 < seen[0] == seen[1]


HEADS = {
    "baseline": jnp.array([0.3, -0.2]), "baseline_offset": jnp.array(0.1), "gate": jnp.array([[1.0, -0.5], [0.2, 0.7]]),
    "gate_offset": jnp.array([0.3, -0.4]), "effect": jnp.array([2.0, -1.0, 0.5]),
    "log_spread": jnp.array([[0.0, 0.1, 0.2], [-0.3, -0.1, 0.3]]),
}  # fmt: skip


def test_sorted_clusters_say_the_same():
    heads = _sorted(HEADS)
    assert heads["effect"].tolist() == [-1.0, 0.5, 2.0]
    for x, w, y in zip(X[:5], W[:5], Y[:5], strict=True):
        assert float(individual_effect(heads, x)) == pytest.approx(float(individual_effect(HEADS, x)), rel=1e-5)
        assert float(unit_loglik(heads, x, w, y)) == pytest.approx(float(unit_loglik(HEADS, x, w, y)), rel=1e-5)


def test_effects_that_no_unit_tells_have_infinite_errors():
    nobody = HEADS | {"gate_offset": jnp.array([0.3, -200.0])}
    errors = effect_errors(unit_loglik, individual_effect, nobody, jnp.asarray(X), jnp.asarray(W), jnp.asarray(Y))
    assert np.isfinite(errors.effect).tolist() == [True, True, False]
    assert np.isfinite(errors.average)
    untreated = effect_errors(unit_loglik, individual_effect, HEADS, jnp.asarray(X), jnp.zeros(N), jnp.asarray(Y))
    assert not np.any(np.isfinite(untreated.effect))
    assert not np.isfinite(untreated.average)


def test_salience_is_the_slope_of_a_probability():
    gate = jnp.array([[0.0, 1.0, -2.0], [0.0, 0.5, 0.3]])
    found = js.fit.EffectMixture(
        jnp.tanh, jnp.zeros(2), 0.0, gate, jnp.array([0.0, 0.2, 0.1]), jnp.arange(3.0), jnp.ones((2, 3))
    )
    x = jnp.array([0.4, -0.3])
    for cluster in (-1, 1):
        step = np.array(
            [(found(x + d)[cluster] - found(x - d)[cluster]) / 0.02 for d in 0.01 * np.eye(2, dtype=np.float32)]
        )
        np.testing.assert_allclose(found.salience(x, cluster), step, atol=1e-4)


def test_a_real_trial_is_its_published_difference_and_its_regression():
    """National Supported Work: 1,794 dollars (Dehejia and Wahba 1999), Neyman's error 671; covariates as by numpy."""
    reason = "the table of the trial comes with causaldata"
    data = pytest.importorskip("causaldata", reason=reason).nsw_mixtape.load_pandas().data
    rows = data[["age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75"]].to_numpy(float)
    rows = ((rows - rows.mean(0)) / rows.std(0)).astype(np.float32)
    treated, earned = data["treat"].to_numpy(), data["re78"].to_numpy(np.float32)
    options = {"optimiser": LBFGS, "steps": 80, "batch": len(rows), "train_encoder": False}
    info = js.fit.effect_mixture(KEY, rows, treated, earned, lambda x: 0 * x, 1, **options).info
    assert float(info.average.value) == pytest.approx(1794.34, abs=2)
    assert float(info.average.stderr) == pytest.approx(669, abs=4)
    found, info = js.fit.effect_mixture(KEY, rows, treated, earned, lambda x: x, 1, **options)
    coef, error, _ = regression(rows, treated, earned)
    assert float(found.effect[0]) == pytest.approx(coef[-1], abs=5)
    np.testing.assert_allclose(found.baseline, coef[1:-1], atol=10)
    assert float(info.average.stderr) == pytest.approx(error[-1], rel=0.01)
