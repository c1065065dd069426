"""Measurements: operators against their matrices, guided denoisers against exact posteriors, outputs without noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from affine import affine_map, output_law, posterior, start_of

import jsamp as js

D, S = js.denoise, js.solve
VP, VE = js.noise.VP(), js.noise.VE()
RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(3, 6))
LOW_RANK = np.stack([MATRIX[0], MATRIX[1], MATRIX[0] - 2 * MATRIX[1]])
MASK = np.array([[1, 0, 0], [1, 1, 0]])
ROOT = RNG.normal(size=(6, 6))
COV, MEAN = ROOT @ ROOT.T / 3, RNG.normal(size=6)


def operators():
    """Every way to make an operator on six numbers, with the shape of x."""
    return {
        "mask": (D.LinearOp.mask(MASK), (2, 3)),
        "pool": (D.LinearOp.pool((2, 3), (2, 3)), (2, 3)),
        "pool rows": (D.LinearOp.pool((6, 1), (3, 1)), (6, 1)),
        "no pool": (D.LinearOp.pool((2, 3), (1, 1)), (2, 3)),
        "dense": (D.LinearOp.dense(MATRIX), (6,)),
        "dense low rank": (D.LinearOp.dense(LOW_RANK, (3, 2)), (3, 2)),
        "dense tall": (D.LinearOp.dense(MATRIX.T @ MATRIX[:, :3]), (3,)),
        "derived": (D.LinearOp(lambda x: {"a": x[:2] - x[1:3], "b": (jnp.sum(x),)}), (6,)),
        "adjoint": (D.LinearOp(lambda x: 2 * x[::2], adjoint=lambda y: jnp.stack([2 * y, 0 * y], 1).ravel()), (6,)),
    }


def matrix_of(op, shape):
    """The matrix of an operator, by its values at unit vectors."""
    flat = lambda x: jnp.concatenate([jnp.ravel(v) for v in jax.tree.leaves(op(x.reshape(shape)))])
    return affine_map(flat, int(np.prod(shape)))[0]


def dress(op, shape, v):
    """Numbers as a measurement of the operator."""
    return jax.flatten_util.ravel_pytree(op(jnp.zeros(shape)))[1](jnp.asarray(v))


@pytest.mark.parametrize("name", operators())
def test_operators_are_their_matrices(name, x64):
    op, shape = operators()[name]
    matrix = matrix_of(op, shape)
    v = np.random.default_rng(1).normal(size=len(matrix))
    y, like = dress(op, shape, v), jnp.zeros(shape)
    assert float(op.mismatch(jax.random.key(0), like)) < 1e-12
    np.testing.assert_allclose(np.ravel(op.transpose(y, like)), matrix.T @ v, rtol=1e-10, atol=1e-12)
    # A pseudo-inverse is right on what the operator can give.
    seen = matrix @ np.random.default_rng(2).normal(size=matrix.shape[1])
    found = op.inverse(dress(op, shape, seen), like)
    np.testing.assert_allclose(np.ravel(found), np.linalg.pinv(matrix, 1e-10) @ seen, rtol=1e-6, atol=1e-8)
    noisy = matrix.T @ np.linalg.solve(matrix @ matrix.T + 0.09 * np.eye(len(matrix)), v)
    np.testing.assert_allclose(np.ravel(op.inverse(y, like, 0.3)), noisy, rtol=1e-8, atol=1e-10)
    # Without what it knows of its inverse: by a solve, and by conjugate gradients.
    plain = D.LinearOp(op.apply, op.adjoint)
    for iterations in (None, 20):
        np.testing.assert_allclose(np.ravel(plain.inverse(y, like, 0.3, iterations=iterations)), noisy, rtol=1e-7)
        got = np.ravel(plain.inverse(dress(op, shape, seen), like, iterations=iterations))
        np.testing.assert_allclose(got, np.linalg.pinv(matrix, 1e-10) @ seen, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", operators())
def test_adjoint_in_single_precision(name):
    """<A x, y> = <x, A^T y>; the card's gate is 1e-5."""
    op, shape = operators()[name]
    assert float(op.mismatch(jax.random.key(0), jnp.zeros(shape))) < 1e-5


@pytest.mark.parametrize("name", [n for n, (op, _) in operators().items() if op.svd is not None])
def test_singular_values(name, x64):
    """A = U diag(s) V^T with V orthogonal on all of x."""
    op, shape = operators()[name]
    matrix, svd = matrix_of(op, shape), op.svd
    v = affine_map(svd.v, matrix.shape[1])[0]
    np.testing.assert_allclose(v.T @ v, np.eye(len(v)), atol=1e-12)
    np.testing.assert_allclose(affine_map(lambda x: svd.vt(x.reshape(shape)), len(v))[0], v.T, atol=1e-12)
    stretched = matrix @ v
    np.testing.assert_allclose(stretched.T @ stretched, np.diag(np.asarray(svd.values) ** 2), atol=1e-10)
    ut = affine_map(lambda y: svd.ut(dress(op, shape, y)), len(matrix))[0]
    np.testing.assert_allclose((ut @ stretched)[svd.values > 0], np.diag(svd.values)[svd.values > 0], atol=1e-10)


def test_wrong_adjoint_is_seen():
    wrong = D.LinearOp(lambda x: 2 * x, adjoint=lambda y: y)
    assert float(wrong.mismatch(jax.random.key(0), jnp.zeros(5))) > 1e-3


def test_another_mask_or_matrix_does_not_retrace():
    count = []

    @jax.jit
    def fill(op, y):
        count.append(1)
        return op.inverse(y, y)

    for mask in (np.eye(4)[0], np.eye(4)[1]):
        np.testing.assert_array_equal(fill(D.LinearOp.mask(mask), jnp.ones(4)), mask)
    for scale in (1.0, 2.0):
        np.testing.assert_allclose(fill(D.LinearOp.dense(scale * np.eye(4)), jnp.ones(4)), 1 / scale, rtol=1e-6)
    assert len(count) == 2
    made = jax.jit(lambda m, y: D.LinearOp.dense(m).inverse(y, jnp.zeros(6)))(MATRIX, jnp.ones(3))
    np.testing.assert_allclose(made, np.linalg.pinv(MATRIX) @ np.ones(3), rtol=1e-4)


# ---------------------------------------------------------------- denoisers of posteriors


def gaussian(mean=MEAN, cov=COV, schedule=VP):
    return D.GaussianMixture(schedule, weights=[1.0], means=[mean], covs=[cov])


call = jax.jit(lambda denoiser, x, t: denoiser(x, t))
X = RNG.normal(size=6)
Y = RNG.normal(size=3)


@pytest.mark.parametrize("iterations", [None, 30])
@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_moment_projection_is_the_denoiser_of_the_posterior(noise, iterations, x64):
    """TMPD, for every Gaussian and every operator: x0 and eps of the exact posterior's denoiser."""
    mask, pick = np.array([1.0, 0, 0, 1.0, 0, 0]), np.eye(6)[[0, 3]]
    for op, matrix, y, seen in (
        (D.LinearOp.dense(MATRIX), MATRIX, Y, Y),
        # Rows of zeros make the system singular where there is no noise.
        (D.LinearOp.mask(mask), pick, mask * 2.0, [2.0, 2.0]),
    ):
        exact = gaussian(*posterior(MEAN, COV, matrix, noise, seen))
        guided = D.TMPD(gaussian(), op, y, noise, iterations)
        for t in (0.05, 0.4, 1.0):
            got, wanted = call(guided, X, t), call(exact, X, t)
            np.testing.assert_allclose(got.x0, wanted.x0, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(got.eps, wanted.eps, rtol=1e-6, atol=1e-7)


def test_moment_matching_by_conjugate_gradients(x64):
    """MMPS: exact with as many steps as y has numbers; one step is the published formula r (r.r) / (r.Mr)."""
    exact = gaussian(*posterior(MEAN, COV, MATRIX, 0.3, Y))
    for t in (0.05, 0.4, 1.0):
        got = call(D.MMPS(gaussian(), D.LinearOp.dense(MATRIX), Y, 0.3, 6), X, t)
        wanted = call(exact, X, t)
        np.testing.assert_allclose(got.x0, wanted.x0, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(got.eps, wanted.eps, rtol=1e-6, atol=1e-7)
    law, t = gaussian(), 0.4
    alpha, sigma = float(law.schedule.alpha(t)), float(law.schedule.sigma(t))
    plain = call(law, X, t)
    spread = sigma**2 / alpha * np.asarray(jax.jacfwd(lambda x: law(x, t).x0)(jnp.asarray(X)))
    r = Y - MATRIX @ plain.x0
    step = r @ r / (r @ (MATRIX @ spread @ MATRIX.T + 0.09 * np.eye(3)) @ r)
    got = call(D.MMPS(law, D.LinearOp.dense(MATRIX), Y, 0.3), X, t)
    np.testing.assert_allclose(got.x0, plain.x0 + spread @ MATRIX.T @ (step * r), rtol=1e-8)


@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_moment_projection_by_row_sums(noise, x64):
    """Exact for independent numbers; in general the sizes of its row sums stand for A C A^T."""
    std, mask = np.linspace(0.3, 2.0, 6), np.array([1.0, 0, 0, 1.0, 1.0, 0])
    pick = np.eye(6)[mask > 0]
    law = D.GaussianMixture(VP, weights=[1.0], means=[MEAN], stds=[std])
    exact = gaussian(*posterior(MEAN, np.diag(std**2), pick, noise, Y))
    guided = D.TMPD(law, D.LinearOp.mask(mask), pick.T @ Y, noise, covariance="diagonal")
    for got, wanted in zip(call(guided, X, 0.4), call(exact, X, 0.4), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-7)
    law, (a, s) = gaussian(), (float(VP.alpha(0.4)), float(VP.sigma(0.4)))
    plain = call(law, X, 0.4)
    cov = s**2 * COV @ np.linalg.inv(a**2 * COV + s**2 * np.eye(6))
    for matrix in (np.abs(MATRIX), MATRIX):
        rows = (matrix @ cov @ matrix.T).sum(1)
        total = np.abs(rows) + noise**2
        pulled = np.where(total > 0, (Y - matrix @ plain.x0) / np.where(total > 0, total, 1), 0)
        got = call(D.TMPD(law, D.LinearOp.dense(matrix), Y, noise, covariance="diagonal"), X, 0.4)
        np.testing.assert_allclose(got.x0, plain.x0 + cov @ matrix.T @ pulled, rtol=1e-8)


@pytest.mark.parametrize("noise", [0.3, 0.0])
@pytest.mark.parametrize("known", ["svd", "pinv", "solve", "iterate"])
def test_pseudo_inverse_guidance_is_exact_for_isotropic_data(known, noise, x64):
    """PiGDM with the spread of the data: the posterior's denoiser, however the inverse is found."""
    op = D.LinearOp.dense(MATRIX)
    if known == "pinv":
        op = D.LinearOp(op.apply, op.adjoint, op.svd.inverse)
    elif known != "svd":
        op = D.LinearOp(op.apply)
    cov = 0.49 * np.eye(6)
    guided = D.PiGDM(gaussian(cov=cov), op, Y, noise, data_std=0.7, iterations=30 if known == "iterate" else None)
    exact = gaussian(*posterior(MEAN, cov, MATRIX, noise, Y))
    for t in (0.05, 0.4, 1.0):
        for got, wanted in zip(call(guided, X, t), call(exact, X, t), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_pseudo_inverse_guidance_by_the_formula(noise, x64):
    """score += J^T A^T (r^2 A A^T + noise^2)^-1 (y - A D), r^2 = sigma^2 / (alpha^2 + sigma^2); and as a kick."""
    law, op, x, t = gaussian(), D.LinearOp.dense(MATRIX), jnp.asarray(X), 0.4
    plain, (a, s) = law(x, t), (float(VP.alpha(t)), float(VP.sigma(t)))
    r2 = s**2 / (a**2 + s**2)
    jacobian = np.asarray(jax.jacobian(lambda x: law(x, t).x0)(x))
    g = jacobian.T @ MATRIX.T @ np.linalg.solve(r2 * MATRIX @ MATRIX.T + noise**2 * np.eye(3), Y - MATRIX @ plain.x0)
    got = call(D.PiGDM(law, op, Y, noise), x, t)
    np.testing.assert_allclose(got.x0, plain.x0 + s**2 / a * g, rtol=1e-9)
    np.testing.assert_allclose(got.eps, plain.eps - s * g, rtol=1e-9)
    kicked = call(D.PiGDM(law, op, Y, noise, "awd"), x, t)
    np.testing.assert_allclose(kicked.x0, plain.x0, rtol=1e-13)
    np.testing.assert_allclose(kicked.kick.x0, a * r2 * g, rtol=1e-9)
    if noise == 0:
        # The published step: alpha_next alpha (A+ y - A+ A D)^T dD/dx.
        inverse = np.linalg.pinv(MATRIX)
        wanted = a * jacobian.T @ (inverse @ Y - inverse @ MATRIX @ plain.x0)
        np.testing.assert_allclose(kicked.kick.x0, wanted, rtol=1e-9)


def test_posterior_sampling_by_its_formula(x64):
    """DPS: a kick of -scale d|y - A D|/dx, and in its Gaussian form the energy of the likelihood."""
    law, op, x, t = gaussian(), D.LinearOp.dense(MATRIX), jnp.asarray(X), 0.4
    plain = law(x, t)
    jacobian = np.asarray(jax.jacobian(lambda x: law(x, t).x0)(x))
    residual = Y - MATRIX @ np.asarray(plain.x0)
    got = call(D.DPS(law, op, Y, 0.7), x, t)
    wanted = 0.7 * jacobian.T @ MATRIX.T @ residual / np.linalg.norm(residual)
    np.testing.assert_allclose(got.kick.x, wanted, rtol=1e-10)
    np.testing.assert_allclose(got.x0, plain.x0, rtol=1e-13)
    rate = call(D.DPS(law, op, Y, 0.7, "gaussian", 0.4), x, t)
    energy = call(D.Energy(law, lambda x0: jnp.sum((Y - op(x0)) ** 2) / (2 * 0.4**2), 0.7), x, t)
    assert not D.DPS(law, op, Y, 0.7, "gaussian", 0.4).kicks
    assert getattr(rate, "kick", None) is None
    np.testing.assert_allclose(rate.x0, energy.x0, rtol=1e-12)
    np.testing.assert_allclose(rate.eps, energy.eps, rtol=1e-12)
    a, s = float(VP.alpha(t)), float(VP.sigma(t))
    np.testing.assert_allclose(rate.x0 - plain.x0, s**2 / a * 0.7 / 0.16 * jacobian.T @ MATRIX.T @ residual, rtol=1e-9)


def test_a_met_measurement_moves_nothing():
    """The slope of the norm at residual 0 is 0, not NaN."""
    op, x = D.LinearOp.mask(np.array([1.0, 0, 0, 1.0, 0, 0])), jnp.asarray(X, jnp.float32)
    met = js.Denoiser(lambda x, t: x * (1 - op(jnp.ones(6))), VP, predicts="x0")
    kick = lambda x: D.DPS(met, op, np.zeros(6), 1.0)(x, 0.4).kick.x
    np.testing.assert_array_equal(jax.jit(kick)(x), 0)
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(kick(x))))(x)))


def test_measurements_of_any_shape_and_of_complex_numbers(x64):
    """y need not have the shape of x: Fourier lines of an image, as a tree."""
    op = lambda x: {"lines": jnp.fft.fft(x.reshape(2, 3))[:, :2], "total": jnp.sum(x)}
    y = jax.tree.map(lambda v: v + 0.5, op(jnp.asarray(MEAN)))
    got = call(D.DPS(gaussian(), op, y, 1.0), X, 0.4).kick.x

    def misfit(x):
        gap = jax.tree.map(jnp.subtract, y, op(gaussian()(x, 0.4).x0))
        return jnp.sqrt(sum(jnp.sum(jnp.abs(v) ** 2) for v in jax.tree.leaves(gap)))

    np.testing.assert_allclose(got, -jax.jit(jax.grad(misfit))(X), rtol=1e-10)
    linear = lambda x: {"a": x[:2], "b": (x[2:3] * 2,)}
    seen = {"a": jnp.array([1.0, 2.0]), "b": (jnp.array([3.0]),)}
    matrix = np.diag([1.0, 1, 2, 0, 0, 0])[:3]
    exact = gaussian(*posterior(MEAN, COV, matrix, 0.2, [1.0, 2.0, 3.0]))(X, 0.4)
    np.testing.assert_allclose(call(D.TMPD(gaussian(), linear, seen, 0.2), X, 0.4).x0, exact.x0, rtol=1e-8)


CONDITIONED = {
    "DPS": lambda law, op, y, **k: D.DPS(law, op, y, 0.7, **k),
    "DPS(gaussian)": lambda law, op, y, **k: D.DPS(law, op, y, 0.7, "gaussian", 0.4, **k),
    "PiGDM": lambda law, op, y, **k: D.PiGDM(law, op, y, 0.3, **k),
    "PiGDM(awd)": lambda law, op, y, **k: D.PiGDM(law, op, y, step="awd", **k),
    "TMPD": lambda law, op, y, **k: D.TMPD(law, op, y, 0.3, **k),
    "TMPD(iterations)": lambda law, op, y, **k: D.TMPD(law, op, y, 0.3, 20, **k),
    "TMPD(diagonal)": lambda law, op, y, **k: D.TMPD(law, op, y, 0.3, covariance="diagonal", **k),
    "DDNM": lambda law, op, y, **k: D.DDNM(law, op, y, **k),
    "Reward": lambda law, op, y, **k: D.Reward(law, lambda x0: jnp.sum(x0**2), 3.0, 0.3, **k),
}


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_batch_never_changes_a_sample(name, x64):
    """Leading axes with event_ndim are the vmap of single samples: norms and solves are those of each sample."""
    make, op = CONDITIONED[name], D.LinearOp.dense(MATRIX)
    law = D.GaussianMixture(VP, weights=[0.4, 0.6], means=[MEAN, -MEAN], covs=[COV, np.eye(6)])
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 4, 6)))
    batch = call(make(law, op, Y, event_ndim=1), x, 0.4)
    single = jax.jit(jax.vmap(jax.vmap(lambda x: make(law, op, Y)(x, 0.4))))(x)
    for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_what_the_inner_denoiser_brings_is_kept():
    """Kicks inside are kept and added to."""
    inner = D.CFGpp(gaussian(), gaussian(-MEAN), 0.6)
    x, y, op = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32), D.LinearOp.dense(MATRIX)
    kick = call(inner, x, 0.4).kick
    for outer in (D.DPS(inner, op, y, 0.3), D.TMPD(inner, op, y, 0.3), D.DDNM(inner, op, y)):
        np.testing.assert_allclose(call(outer, x, 0.4).kick.x0, kick.x0, rtol=1e-6)
    both = call(D.PiGDM(inner, op, y, step="awd"), x, 0.4).kick.x0 - kick.x0
    alone = call(D.PiGDM(gaussian(-MEAN), op, y, step="awd"), x, 0.4).kick.x0
    np.testing.assert_allclose(both, alone, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- what sampling gives

WHOLE = D.LinearOp(lambda x: x)


def output(make, variance, grid, start=None):
    """Mean and variance of DDIM's output for data N(0, variance), y = 1 with noise 0.5."""
    law = gaussian([0.0], [[variance]], VE)
    plan = S.ddim(VE, grid)
    mean, cov = start_of(VE, plan.t[0], *((np.zeros(1), [[variance]]) if start is None else start))
    mean, cov = output_law(make(law, WHOLE, np.ones(1)), plan, mean, cov)
    return mean[0], cov[0, 0]


TRIPLES = {  # From card I1 to I3, for data of variance 1, 1/4, 4.
    "TMPD": (lambda *a: D.TMPD(*a, 0.5), [(0.7955, 0.1997), (0.4978, 0.1248), (0.9355, 0.2350)]),
    "PiGDM": (lambda *a: D.PiGDM(*a, 0.5), [(0.7955, 0.1997), (0.372, 0.141), (1.151, 0.038)]),
    "DPS": (lambda *a: D.DPS(*a, 1.0, "gaussian", 0.5), [(1.273, 0.018), None, (1.081, 0.0)]),
}


@pytest.mark.parametrize("name", TRIPLES)
def test_mean_and_variance_of_what_is_drawn(name, x64):
    """The card's numbers: DDIM, 1000 steps here and 4000 there, uniform in log sigma from 80."""
    make, wanted = TRIPLES[name]
    grid = js.noise.logsnr_grid(VE, 1000)
    for variance, pair in zip((1.0, 0.25, 4.0), wanted, strict=True):
        if pair is not None:
            np.testing.assert_allclose(output(make, variance, grid), pair, atol=1.2e-3)


def test_the_golden_conditional_sampler(x64):
    """TMPD started from the noised posterior: the exact posterior, with an error of first order; PiGDM at variance 1.

    Started from the prior, as one must, the mean falls short by the flow's contraction of its start.
    """
    for variance in (1.0, 0.25, 4.0):
        mean, cov = posterior([0.0], [[variance]], np.eye(1), 0.5, [1.0])
        make = TRIPLES["TMPD"][0]
        errors = []
        for n in (125, 250):
            got = output(make, variance, js.noise.logsnr_grid(VE, n), (mean, cov))
            assert abs(got[0] - mean[0]) < 1e-10
            errors.append(abs(got[1] - cov[0, 0]))
        assert errors[-1] < 6e-3
        np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 1.0, atol=0.05)
        short = output(make, variance, js.noise.logsnr_grid(VE, 250))[0] - mean[0]
        np.testing.assert_allclose(short, -mean[0] * np.sqrt(cov[0, 0]) / 80, rtol=0.05)
    second = S.dpmpp(VE, js.noise.logsnr_grid(VE, 200), order=2)
    law = D.TMPD(gaussian([0.0], [[4.0]], VE), WHOLE, np.ones(1), 0.5)
    mean, cov = posterior([0.0], [[4.0]], np.eye(1), 0.5, [1.0])
    got = output_law(law, second, *start_of(VE, second.t[0], mean, cov))
    np.testing.assert_allclose(got[1], cov, atol=2e-4)


def test_kicks_grow_with_the_number_of_steps(x64):
    """A kick is defined once per step: PiGDM's adaptive weights pull harder on a finer grid, the Bayes form does not."""
    law = gaussian([0.0], [[1.0]], VE)
    found = {}
    for step in ("bayes", "awd"):
        for n in (40, 160):
            plan = S.ddim(VE, js.noise.logsnr_grid(VE, n))
            guided = D.PiGDM(law, WHOLE, np.ones(1), 0.5, step)
            found[step, n] = output_law(guided, plan, *start_of(VE, plan.t[0], [0.0], [[1.0]]))[1][0, 0]
    assert found["awd", 160] < 0.4 * found["awd", 40]
    assert abs(found["bayes", 160] - found["bayes", 40]) < 0.15 * found["bayes", 160]


PLANS = {
    "ddim": S.ddim(VP, js.noise.logsnr_grid(VP, 8, final="zero")),
    "dpmpp": S.dpmpp(VP, js.noise.logsnr_grid(VP, 8, final="zero")),
    "ddpm": S.ddpm(VP, js.noise.logsnr_grid(VP, 8, final="zero")),
    "unipc": S.unipc(VP, js.noise.logsnr_grid(VP, 8, final="zero")),
    "heun": S.heun(VP, js.noise.logsnr_grid(VP, 8, final="zero")),
}


@pytest.mark.parametrize("name", ["ddpm", "unipc", "heun"])
def test_projection_meets_the_measurement(name):
    """DDNM: A x0 = y to 1e-5 when the plan ends at zero noise, for every kind of plan and operator."""
    law = D.GaussianMixture(VP, weights=[0.4, 0.6], means=[MEAN, -MEAN], covs=[COV, np.eye(6)])
    ops = [D.LinearOp.dense(MATRIX), D.LinearOp.mask(np.array([1.0, 0, 0, 1.0, 0, 0])), D.LinearOp.pool((6,), (3,))]
    for op in (*ops, D.LinearOp(lambda x: x[:2] - x[1:3])):
        y = op(jnp.asarray(MEAN[::-1].copy(), jnp.float32))
        x = js.sample(jax.random.key(0), D.DDNM(law, op, y), jnp.asarray(X, jnp.float32), PLANS[name]).x
        np.testing.assert_allclose(op(x), y, atol=2e-5)
    off = D.DDNM(law, ops[0], Y, 0.0)(jnp.asarray(X, jnp.float32), 0.4)
    np.testing.assert_allclose(off.x0, law(jnp.asarray(X, jnp.float32), 0.4).x0, rtol=1e-6)


@pytest.mark.parametrize("name", CONDITIONED)
def test_new_measurements_never_retrace(name):
    count = []

    @jax.jit
    def draw(y, matrix, x):
        count.append(1)
        op = D.LinearOp.dense(matrix)
        return js.sample(jax.random.key(0), CONDITIONED[name](gaussian(), op, y), x, PLANS["ddpm"]).x

    x, y, m = (jnp.asarray(v, jnp.float32) for v in (X, Y, MATRIX))
    for given in ((y, m, x), (2 * y, m, x), (y, m + 0.1, x)):
        draw.lower(*given)
    assert len(count) == 1
    if name in ("DPS", "PiGDM", "TMPD"):
        outs = [draw(y, m, x), draw(2 * y, m, x)]
        assert all(np.all(np.isfinite(v)) for v in outs)
        assert not np.array_equal(outs[0], outs[1])
