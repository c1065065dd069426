"""Scores against closed forms, linear programs and grids over directions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jsamp.select import (
    Subset,
    distortion,
    draw,
    leverage,
    lewis,
    root_leverage,
    sample_size,
    sensitivity,
    sensitivity_bounds,
)

RNG = np.random.default_rng(0)
T60 = RNG.standard_t(2, size=(60, 4))
_START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_draws_in_any_order():
    RNG.bit_generator.state = _START


def exact_leverage(A):
    return (np.linalg.qr(np.asarray(A, np.float64))[0] ** 2).sum(1)


def conditioned(n, d, cond):
    U, _, V = np.linalg.svd(np.random.default_rng(1).normal(size=(n, d)), full_matrices=False)
    return ((U * np.geomspace(1, 1 / cond, d)) @ V).astype(np.float32)


def angle_grid(A, p, num=20_000):
    """The sensitivities of a matrix with two columns: the best of a grid of directions, and of finer ones around it.

    At p = 1 the maximum is at a kink, a direction that is orthogonal to a row, so those are in the grid.
    """
    kinks = np.arctan2(A[:, 0], -A[:, 1])

    def share(theta):
        size = np.abs(A @ np.stack([np.cos(theta), np.sin(theta)])) ** p
        return size / size.sum(0)

    theta = np.concatenate([np.linspace(0, np.pi, num, endpoint=False), kinks])
    coarse = share(theta)
    best = coarse.max(1)
    for i, centre in enumerate(theta[coarse.argmax(1)]):
        for width in (4e-4, 1e-6):
            near = centre + np.linspace(-width, width, 2001)
            found = share(near)[i]
            centre, best[i] = near[found.argmax()], max(best[i], found.max())
    return best


def linear_program(A):
    """p = 1: 1 / min |A x|_1 subject to a_i x = 1."""
    n, d = A.shape
    out = []
    for row in A:
        cost = np.concatenate([np.zeros(d), np.ones(n)])
        upper = np.block([[A, -np.eye(n)], [-A, -np.eye(n)]])
        equal = np.concatenate([row, np.zeros(n)])[None]
        result = linprog(cost, upper, np.zeros(2 * n), equal, [1.0], [(None, None)] * d + [(0, None)] * n)
        out.append(1 / result.fun)
    return np.array(out)


def test_leverage_of_simple_regression_and_float64(x64):
    x = RNG.normal(size=50)
    hat = 1 / 50 + (x - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    np.testing.assert_allclose(leverage(np.stack([np.ones(50), x], 1)), hat, rtol=1e-10)
    for method in ("auto", "cholqr2", "shifted3", "qr"):
        np.testing.assert_allclose(leverage(T60, method=method), exact_leverage(T60), rtol=1e-10)


@pytest.mark.parametrize(("cond", "tolerance"), [(1, 2e-6), (1e2, 2e-5), (1e3, 3e-4), (1e4, 3e-3), (1e5, 3e-2)])
def test_float32_leverage_at_bad_condition_numbers(cond, tolerance):
    A = conditioned(3001, 20, cond)
    exact = exact_leverage(A)
    for method in ("auto", "shifted3", *(("cholqr2",) if cond < 1e5 else ())):
        np.testing.assert_allclose(leverage(A, method=method, block=500), exact, rtol=tolerance)


def test_leverage_of_scaled_and_dependent_columns():
    A = np.float32(RNG.normal(size=(400, 5)))
    scaled = A * np.float32([1e-12, 1, 1e10, 1e-3, 7])
    np.testing.assert_allclose(leverage(scaled), exact_leverage(A), rtol=1e-5)
    dependent = np.concatenate([A, A[:, :2] @ np.float32([[1, 2], [3, -1]]), np.zeros((400, 1), np.float32)], 1)
    for method in ("auto", "cholqr2", "shifted3"):
        np.testing.assert_allclose(leverage(dependent, method=method), exact_leverage(A), rtol=3e-6)
    repeated = np.repeat(A, 2, 0)
    np.testing.assert_allclose(leverage(repeated), np.repeat(exact_leverage(A) / 2, 2), rtol=1e-5)


def test_ridge_and_weights(x64):
    A, w = RNG.normal(size=(30, 6)), RNG.uniform(size=30)
    inverse = np.linalg.inv(A.T @ (A * w[:, None]) + 0.7 * np.eye(6))
    expected = w * np.einsum("ni,ij,nj->n", A, inverse, A)
    for method in ("auto", "qr"):
        np.testing.assert_allclose(leverage(A, ridge=0.7, weights=w, method=method), expected, rtol=1e-10)
    wide = RNG.normal(size=(4, 9))
    expected = np.diag(wide @ np.linalg.inv(wide.T @ wide + 0.1 * np.eye(9)) @ wide.T)
    np.testing.assert_allclose(leverage(wide, ridge=0.1), expected, rtol=1e-9)


def test_leverage_gradient(x64):
    A, v = jnp.asarray(RNG.normal(size=(12, 3))), jnp.asarray(RNG.normal(size=12))

    def direct(A, ridge):
        return jnp.vdot(v, jnp.diagonal(A @ jnp.linalg.inv(A.T @ A + ridge * jnp.eye(3)) @ A.T))

    for ridge in (0.0, 0.3):
        got = jax.grad(lambda A, r=ridge: jnp.vdot(v, leverage(A, ridge=r)))(A)
        np.testing.assert_allclose(got, jax.grad(direct)(A, ridge), rtol=1e-8, atol=1e-10)
    orthogonal = jnp.linalg.qr(A)[0]  # equal eigenvalues, where differentiating an eigensolver would give NaN
    got = jax.grad(lambda A: jnp.vdot(v, leverage(A)))(orthogonal)
    np.testing.assert_allclose(got, jax.grad(direct)(orthogonal, 0.0), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0])
def test_lewis_weights_are_the_fixed_point_for_every_p(x64, p):
    for A in (T60, RNG.standard_cauchy(size=(80, 3))):
        weight, residual = lewis(A, p, tolerance=1e-9)
        assert float(residual) < 1e-8
        weight = np.asarray(weight)
        np.testing.assert_allclose(exact_leverage(A * weight[:, None] ** (0.5 - 1 / p)), weight, rtol=1e-7, atol=1e-13)
        assert abs(weight.sum() - A.shape[1]) < 1e-7
    np.testing.assert_allclose(lewis(T60, p, tolerance=1e-3).weight, lewis(T60, p, tolerance=1e-9).weight, rtol=2e-3)


def test_lewis_of_weighted_rows_is_that_of_scaled_rows(x64):
    w = RNG.uniform(0.5, 2, size=60)
    direct = lewis(T60 * w[:, None] ** (1 / 3), 3.0, tolerance=1e-9).weight
    np.testing.assert_allclose(lewis(T60, 3.0, weights=w, tolerance=1e-9).weight, direct, rtol=1e-7)
    np.testing.assert_allclose(
        root_leverage(T60, 1.5, weights=w), exact_leverage(T60 * w[:, None] ** (1 / 1.5)) ** 0.75, rtol=1e-9
    )
    zero = np.concatenate([T60, np.zeros((3, 4))])
    np.testing.assert_allclose(
        lewis(zero, 1.0, tolerance=1e-8).weight[:60], lewis(T60, 1.0, tolerance=1e-8).weight, rtol=1e-6
    )
    assert not np.any(lewis(zero, 1.0).weight[60:])


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, 4.0, 6.0])
def test_sandwich_between_sensitivities_and_lewis_weights(x64, p):
    lower, upper = sensitivity_bounds(T60, p)
    weight = lewis(T60, p, tolerance=1e-8).weight
    factor = 4 ** (p / 2 - 1)
    assert np.all(upper >= min(factor, 1) * weight * (1 - 1e-6))
    assert np.all(lower <= max(factor, 1) * weight * (1 + 1e-6))
    bound = exact_leverage(T60) ** (p / 2) * (1 if p <= 2 else 60 ** (p / 2 - 1))
    assert np.all(lower <= bound * (1 + 1e-9))


def test_one_column_and_disjoint_columns(x64):
    a = RNG.normal(size=(20, 1))
    for p in (1.0, 1.5, 4.0):
        exact = np.abs(a[:, 0]) ** p / (np.abs(a) ** p).sum()
        for bound in sensitivity_bounds(a, p):
            np.testing.assert_allclose(bound, exact, rtol=1e-10)
        np.testing.assert_allclose(sensitivity(a, p, scheme="plain"), exact, rtol=1e-10)
        np.testing.assert_allclose(lewis(a, p, tolerance=1e-12).weight, exact, rtol=1e-9)
        sparse = np.kron(np.eye(3), a)
        for bound in sensitivity_bounds(sparse, p):
            np.testing.assert_allclose(bound, np.tile(exact, 3), rtol=1e-10)


def test_p_two_is_leverage(x64):
    np.testing.assert_allclose(sensitivity(T60, 2.0), exact_leverage(T60), rtol=1e-10)
    for bound in sensitivity_bounds(T60, 2.0, embedding=T60):
        np.testing.assert_allclose(bound, exact_leverage(T60), rtol=1e-10)
    np.testing.assert_allclose(sensitivity(T60, 2, scheme="plain"), exact_leverage(T60), rtol=1e-10)


@pytest.mark.parametrize("case", ["heavy tails", "copies", "integers"])
def test_linear_programs_at_p_one(x64, case):
    A = {
        "heavy tails": T60,
        "copies": np.repeat(RNG.normal(size=(15, 3)), 3, 0),  # degenerate vertices, where a plain simplex walk stalls
        "integers": RNG.integers(-2, 3, size=(40, 4)).astype(float),
    }[case]
    A = A[np.any(A != 0, 1)]
    exact = linear_program(A)
    for bound in sensitivity_bounds(A, 1.0):
        np.testing.assert_allclose(bound, exact, rtol=1e-9)
    np.testing.assert_allclose(sensitivity(A, 1.0, scheme="plain", iterations=20), exact, rtol=5e-3)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, 4.0, 6.0, 10.0])
def test_angle_grid_with_two_columns(x64, p):
    A = RNG.normal(size=(25, 2))
    exact = angle_grid(A, p)
    lower, upper = sensitivity_bounds(A, p, iterations=20)
    assert np.max(upper / lower - 1) < 1e-9
    np.testing.assert_allclose(lower, exact, rtol=1e-9)


@pytest.mark.parametrize("d", [4, 8])
def test_legendre_bound_for_polynomials(x64, d):
    x, w = np.polynomial.legendre.leggauss(200)
    A = np.polynomial.legendre.legvander(x, d - 1) * w[:, None] ** 0.25
    _, upper = sensitivity_bounds(A, 4.0)
    wide = np.polynomial.legendre.legvander(x, 2 * (d - 1)) * w[:, None] ** 0.5
    assert np.all(upper <= exact_leverage(wide) * (1 + 1e-8))
    assert float(upper.sum()) <= 2 * (d - 1) + 1


def test_sphere_rows_have_the_gamma_function_sum(x64):
    rows = RNG.normal(size=(1500, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for p, tolerance in ((1.0, 0.03), (3.0, 0.06)):
        total = math.sqrt(math.pi) * math.gamma((4 + p) / 2) / (math.gamma(2) * math.gamma((p + 1) / 2))
        score = sensitivity_bounds(rows[:100], p, embedding=rows, iterations=15).lower
        assert abs(float(score.mean()) * 1500 / total - 1) < tolerance


def test_invariances(x64):
    base = sensitivity_bounds(T60, 3.0).lower
    mixed = T60 @ RNG.normal(size=(4, 4))
    np.testing.assert_allclose(sensitivity_bounds(mixed, 3.0).lower, base, rtol=1e-6)
    flipped = T60 * np.sign(RNG.normal(size=(60, 1)))
    np.testing.assert_allclose(sensitivity_bounds(flipped, 3.0).lower, base, rtol=1e-6)
    more = np.concatenate([T60, RNG.normal(size=(10, 4))])
    assert np.all(sensitivity_bounds(more, 3.0).lower[:60] <= base * (1 + 1e-9))
    twice = np.concatenate([T60, T60])
    np.testing.assert_allclose(sensitivity_bounds(twice, 3.0).lower[:60], base / 2, rtol=1e-6)
    largest = [float(np.max(sensitivity_bounds(T60, p).lower)) for p in (1.0, 1.5, 2.0, 3.0)]
    assert np.all(np.diff(largest) >= -1e-9)  # the largest sensitivity does not fall with p


def test_float32_bounds_and_dependent_columns():
    A = np.float32(RNG.standard_t(3, size=(200, 5)))
    for p in (1.0, 1.5, 10.0):
        lower, upper = sensitivity_bounds(A, p)
        with jax.enable_x64(True):
            exact_low = np.asarray(sensitivity_bounds(A.astype(np.float64), p, iterations=40).lower)
        np.testing.assert_allclose(lower, exact_low, rtol=5e-5 if p == 1 else 1e-5)
        np.testing.assert_allclose(upper, exact_low, rtol=5e-5 if p == 1 else 1e-5)
    A = np.round(A * 8)  # the sum of two columns of integers is exact, so the columns are dependent
    A = np.concatenate([A, A[:, :1] + A[:, 1:2]], 1)
    for p in (1.0, 3.0):
        for bound, exact in zip(sensitivity_bounds(A, p), sensitivity_bounds(A[:, :5], p), strict=True):
            np.testing.assert_allclose(bound, exact, rtol=5e-5)
    lower, upper = jax.jit(lambda a: sensitivity_bounds(a, 1.0))(A)  # traced, a dependent column may be a lost one
    np.testing.assert_allclose(lower, sensitivity_bounds(A[:, :5], 1.0).lower, rtol=5e-5)
    assert np.all(np.asarray(upper) == 1)


def test_combined_scores_of_many_rows_use_an_embedding():
    A = np.float32(RNG.standard_t(3, size=(3000, 4)))
    score = sensitivity(A, 1.0)
    plain = sensitivity(A, 1.0, scheme="plain")
    np.testing.assert_allclose(score, (plain + leverage(A)) / 2, rtol=1e-5)
    some = sensitivity_bounds(A[:64], 1.0, embedding=A, iterations=12).lower
    np.testing.assert_allclose(plain[:64], some, rtol=0.25)
    assert abs(float(np.median(plain[:64] / some)) - 1) < 0.1


def test_distortion_is_exact_for_least_squares_and_a_lower_bound_elsewhere(x64):
    A = RNG.normal(size=(200, 2))
    subset = draw(jax.random.key(0), leverage(A), 40)
    S = np.asarray(subset.row_scale(2.0)[:, None] * subset.take(jnp.asarray(A)))
    H = np.linalg.inv(np.linalg.cholesky(A.T @ A))
    value = np.linalg.eigvalsh(H @ S.T @ S @ H.T)
    np.testing.assert_allclose(distortion(A, subset), np.abs(value - 1).max(), rtol=1e-9)
    theta = np.linspace(0, np.pi, 20_000)
    x = np.stack([np.cos(theta), np.sin(theta)])
    for p in (1.0, 1.5, 3.0):
        scale = np.asarray(subset.row_scale(p))[:, None]
        kept = np.asarray(subset.take(jnp.asarray(A)))
        ratio = (np.abs(scale * kept @ x) ** p).sum(0) / (np.abs(A @ x) ** p).sum(0)
        truth = np.abs(ratio - 1).max()
        got = float(distortion(A, subset, p))
        assert 0.98 * truth < got < truth * (1 + 1e-3)


def test_distortion_sees_a_missing_direction():
    A = np.concatenate(
        [np.eye(3, dtype=np.float32)[:1] * 5, np.float32(RNG.normal(size=(50, 3))) * np.float32([0, 1, 1])]
    )
    subset = Subset(jnp.arange(1, 21), jnp.full(20, 2.5), jnp.ones(20, bool))
    for p in (1.0, 2.0, 3.0):
        assert float(distortion(A, subset, p)) > 0.99
    for key in jax.random.split(jax.random.key(0), 5):  # the row with sensitivity 1 is always kept
        assert 0 in draw(key, sensitivity(A, 1.5), 10).index


def test_sample_size_follows_its_formulas():
    assert sample_size(0.5, "lewis", dim=10, p=6.0) == 4000
    assert sample_size(0.1, "classic", dim=10, p=1.0, total=4.0) == 4000
    assert sample_size(0.5, dim=8, p=4.0, total=20.0) == math.ceil(4 * 8**0.5 * 20)
    assert sample_size(0.9, "lewis", dim=10, p=1.0, constant=0.01) == 10
    assert sample_size(0.5, "plain", dim=16, p=1.0, total=8.0) == 4 * 4 * 8
    assert sample_size(0.5, "root_leverage", dim=10, p=1.0) == 160
    assert sample_size(0.5, "lewis", dim=10, p=1.0, delta=0.01) == math.ceil(40 * math.log(1000))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: leverage(np.ones((3, 2), np.int32)), TypeError, "floating"),
        (lambda: leverage(np.ones(3, np.float32)), ValueError, "matrix"),
        (lambda: leverage(np.ones((2, 3), np.float32)), ValueError, "ridge > 0"),
        (lambda: leverage(np.full((3, 2), np.nan, np.float32)), ValueError, "NaN"),
        (lambda: leverage(np.array([[1.0], [np.inf]], np.float32)), ValueError, "infinity"),
        (lambda: leverage(np.ones((3, 2), np.float32), ridge=-1.0), ValueError, "ridge"),
        (lambda: leverage(np.ones((3, 2), np.float32), method="svd"), ValueError, "one of"),
        (lambda: leverage(np.ones((3, 2), np.float32), weights=-np.ones(3)), ValueError, "weights"),
        (lambda: leverage(np.ones((3, 2), np.float32), weights=np.ones(4)), ValueError, "shape"),
        (lambda: root_leverage(np.ones((3, 2), np.float32), 3.0), ValueError, "p must be"),
        (lambda: lewis(np.ones((3, 2), np.float32), 0.0), ValueError, "p must be"),
        (lambda: jax.jit(lambda p: lewis(np.ones((3, 2), np.float32), p))(1.0), TypeError, "traced"),
        (lambda: sensitivity(np.ones((3, 2), np.float32), 0.9), ValueError, "p must be"),
        (lambda: sensitivity(np.ones((3, 2), np.float32), 1.0, scheme="both"), ValueError, "one of"),
        (lambda: sensitivity(np.ones((3, 2), np.float32), 1.0, axis_name="rows"), ValueError, "embedding"),
        (
            lambda: sensitivity_bounds(np.ones((3, 2), np.float32), 1.0, embedding=np.ones((3, 3), np.float32)),
            ValueError,
            "columns",
        ),  # fmt: skip
        (lambda: sample_size(1.5, dim=3, p=1.0), ValueError, "eps"),
        (lambda: sample_size(0.5, "best", dim=3, p=1.0), ValueError, "one of"),
        (lambda: sample_size(0.5, "root_leverage", dim=3, p=3.0), ValueError, "p <= 2"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()
