"""Quantisation against levels by hand, brute force over roundings, and the program's own products."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.denoise import _quantise as quantise_file
from jsamp.denoise import _quantise_products as products
from jsamp.denoise import _quantise_rounding as rounding

SCHEDULE = js.noise.VP()
PLAN = js.solve.ddim(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 4))
X = jax.random.normal(jax.random.key(0), (16, 3))
W = jax.random.normal(jax.random.key(1), (3, 3)) / 3
LINEAR = js.Denoiser(jax.tree_util.Partial(lambda w, x, t: jnp.matmul(x, w, precision="highest"), W), SCHEDULE, "x0")


def two_layers(w, x, t, shift=0.0):
    hidden = jax.nn.silu(x @ w["up"] + t + shift)
    return jax.checkpoint(lambda h: h @ w["down"])(hidden)


WEIGHTS = {
    "up": jax.random.normal(jax.random.key(2), (3, 8)) / 2, "down": jax.random.normal(jax.random.key(3), (8, 3)) / 3
}  # fmt: skip
NETWORK = js.Denoiser(jax.tree_util.Partial(two_layers, WEIGHTS), SCHEDULE, "x0", shift=0.1)


# ---------------------------------------------------------------- levels and rounding


def test_two_bits_by_hand():
    x = jnp.array([-9.0, -1.0, -0.4, 0.0, 0.6, 1.4, 2.0, 9.0])
    np.testing.assert_allclose(rounding.affine(x, -1.0, 2.0, 3.0), [-1, -1, 0, 0, 1, 1, 2, 2], atol=1e-6)


@pytest.mark.parametrize("levels", [3.0, 15.0, 255.0])
def test_rounding_is_idempotent_and_within_half_a_step(levels):
    x = jnp.linspace(-0.7, 1.9, 401)
    once = rounding.affine(x, -0.7, 1.9, levels)
    np.testing.assert_allclose(rounding.affine(once, -0.7, 1.9, levels), once, atol=1e-6)
    # 0 is a level, so the range may be half a step off at its ends.
    assert float(jnp.max(jnp.abs(once - x))) <= 2.6 / levels * 1.001
    assert float(jnp.median(jnp.abs(once - x))) <= 2.6 / levels / 2
    assert float(rounding.affine(jnp.zeros(()), -0.7, 1.9, levels)) == 0


def test_the_range_that_loses_least():
    x = jax.random.normal(jax.random.key(5), (4000,))
    losses = np.asarray(rounding.losses(x, x.min(), x.max(), 15.0))
    brute = []
    for s in 1 - np.arange(40) / 40:
        low, high = s * float(x.min()), s * float(x.max())
        step = (high - low) / 15
        zero = np.round(-low / step)
        brute.append(np.mean(np.abs(x - step * (np.clip(np.round(x / step) + zero, 0, 15) - zero)) ** 2.4))
    np.testing.assert_allclose(losses, np.array(brute) / float(x.max() - x.min()) ** 2.4, rtol=1e-3)
    assert 0 < losses.argmin() < 39
    eight = rounding.losses(x, x.min(), x.max(), 255.0)
    s = float(rounding.shrunken()[jnp.argmin(eight)])
    assert float(jnp.mean((x - rounding.affine(x, s * x.min(), s * x.max(), 255.0)) ** 2)) < 1e-4


def test_reconstruction_is_the_best_rounding_or_one_that_no_single_change_betters():
    rows = jax.random.normal(jax.random.key(6), (50, 4)) @ jnp.array(
        [[1.0, 0.9, 0, 0], [0, 0.4, 0, 0.3], [0, 0, 1, 0.8], [0, 0, 0, 0.5]]
    )
    gram = np.asarray(rows.T @ rows / 50, np.float64)
    weight = jax.random.normal(jax.random.key(7), (4, 6))
    loss = lambda whole, step, n: float((e := whole * step - np.asarray(weight[:, n])) @ gram @ e)
    better = 0
    for transposed in (False, True):  # weights may sum over their other axis
        given, axes = (weight.T, (1,)) if transposed else (weight, (0,))
        (near, step), (best, _) = (
            rounding.round_weight(given, jnp.asarray(gram, jnp.float32), 1.0, summed=axes, reconstruct=r)
            for r in (False, True)
        )
        near, best, step = (np.asarray(a.T if transposed else a, np.float64) for a in (near, best, step))
        for n in range(6):
            found = loss(best[:, n], step[0, n], n)
            assert found <= loss(near[:, n], step[0, n], n) + 1e-6
            better += found < loss(near[:, n], step[0, n], n) - 1e-6
            all_of_them = [loss(np.array(v), step[0, n], n) for v in itertools.product((-1, 0, 1), repeat=4)]
            assert found <= np.sort(all_of_them)[3] + 1e-6  # of 81
            for k in range(4):
                for value in (-1, 0, 1):
                    other = best[:, n].copy()
                    other[k] = value
                    assert found <= loss(other, step[0, n], n) + 1e-5
    assert better >= 4


@pytest.mark.parametrize(("weight", "data"), [(-80, 80), (80, -80), (0, -40), (0, 0)])
def test_units_do_not_matter_and_zeros_have_any(weight, data):
    unit = lambda power: jnp.asarray(2.0**power, jnp.float32)  # powers of two: no digit is lost
    law = lambda w: js.Denoiser(
        jax.tree_util.Partial(
            lambda w, u, v, x, t: jnp.matmul(x * v, w * u, precision="highest") / u / v, w, unit(weight), unit(data)
        ), SCHEDULE, "x0",
    )  # fmt: skip
    plain = js.denoise.quantise(LINEAR, js.denoise.calibrate(None, LINEAR, PLAN, X))
    denoiser = law(W)
    ranges = js.denoise.calibrate(None, denoiser, PLAN, X)
    small = js.denoise.quantise(denoiser, ranges)
    np.testing.assert_array_equal(small.model.weights[0], plain.model.weights[0])
    np.testing.assert_allclose(small(X, 0.5).x0, plain(X, 0.5).x0, rtol=1e-6)
    assert not jnp.any(js.denoise.quantise(law(W * 0), ranges)(X, 0.5).x0)


def test_a_product_with_zeros_is_rounded_to_nearest():
    still = js.Denoiser(jax.tree_util.Partial(lambda w, x, t: x * 0 @ w, W), SCHEDULE, "x0")
    ranges = js.denoise.calibrate(None, still, PLAN, X)
    near, best = (js.denoise.quantise(still, ranges, reconstruct=r).model.weights[0] for r in (False, True))
    np.testing.assert_array_equal(best, near)
    assert jnp.any(near != 0)


# ---------------------------------------------------------------- products of the program


def test_products_are_found_in_the_program_and_constants_are_no_weights():
    mixing = np.eye(3, dtype=np.float32)

    def network(w, x, t):
        x = jnp.asarray(mixing) @ jnp.tanh(x)  # a constant of the program: pixels moved about
        return jax.jit(lambda x: x @ w["a"])(x) * t + jax.checkpoint(lambda x: w["b"] @ x)(x) + x @ x

    w = {"a": jnp.ones((3, 3)), "b": jnp.ones((3, 3))}
    model = jax.tree_util.Partial(network, w)
    assert products.summed_axes(model, jnp.ones((3, 3)), 0.5, {}) == [(0,), (1,)]
    same = products.visit(model, X[:3], 0.5, {}, lambda i, p: (p.data, p.weight))
    np.testing.assert_allclose(same, model(X[:3], 0.5), rtol=1e-6)
    zero = products.visit(model, X[:3], 0.5, {}, lambda i, p: (p.data, p.weight * i))
    np.testing.assert_allclose(zero, jnp.ones((3, 3)) @ jnp.tanh(X[:3]) + jnp.tanh(X[:3]) @ jnp.tanh(X[:3]), rtol=1e-5)


def test_convolutions_are_rounded_by_output_channel():
    kernel = jax.random.normal(jax.random.key(8), (3, 3, 1, 1)) / 9
    conv = lambda w, x, t: jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    denoiser = js.Denoiser(jax.tree_util.Partial(conv, kernel), SCHEDULE, "x0")
    x = jax.random.normal(jax.random.key(9), (4, 5, 5, 1))
    small = js.denoise.quantise(denoiser, js.denoise.calibrate(None, denoiser, PLAN, x, bits=8))
    error = jnp.abs(small(x, 0.5).x0 - denoiser(x, 0.5).x0)
    assert 0 < float(error.max()) < 0.05


# ---------------------------------------------------------------- calibration and the quantised denoiser


def asked(denoiser, x):
    """What the network is asked on the rows of the plan, by a loop."""
    state, seen = js.solve.init(PLAN, x), []
    for i in range(PLAN.nfe):
        seen.append(state.x)
        state = js.solve.step(None, denoiser, state, jax.tree.map(lambda a, i=i: jnp.asarray(a)[i], PLAN))
    return np.stack(seen)


def shrink_of(row, low, high, levels):
    loss = rounding.losses(jnp.asarray(row), low, high, levels)
    return float(rounding.shrunken()[jnp.argmin(loss)])


def test_ranges_and_output_by_hand():
    seen = asked(LINEAR, X)
    for law, index in ((lambda s: 1.0 * (s == 1), 0), (lambda s: 1.0 * (s == 0), 3)):
        ranges = js.denoise.calibrate(None, LINEAR, PLAN, X, law=law, bits=(3, 4), ends=None)
        row = seen[index]
        low, high = min(row.min(), 0), max(row.max(), 0)
        s = shrink_of(row, low, high, 15.0)
        np.testing.assert_allclose([ranges.low[0, 0], ranges.high[0, 0]], [s * low, s * high], rtol=1e-5)
        np.testing.assert_allclose(ranges.grams[0], row.T @ row / 16 / (high - low) ** 2, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal([ranges.data_levels[0], ranges.weight_levels[0]], [15, 3])
    small = js.denoise.quantise(LINEAR, ranges, reconstruct=False)
    whole, step = rounding.round_weight(W, None, 3.0, summed=(0,), reconstruct=False)
    assert int(jnp.abs(whole).max()) == 3
    wanted = rounding.affine(X, ranges.low[0, 0], ranges.high[0, 0], 15.0) @ (whole * step)
    np.testing.assert_allclose(small(X, 0.5).x0, wanted, rtol=1e-4, atol=1e-5)


def test_the_law_weighs_rows_and_windows_have_ranges_of_their_own():
    seen = asked(LINEAR, X)
    ranges = js.denoise.calibrate(None, LINEAR, PLAN, X, law=js.denoise.Normal(0.2, 0.5), windows=2, ends=None, bits=3)
    share = np.array([1, 2 / 3, 1 / 3, 0])
    weight = np.exp(-(((share - 0.2) / 0.5) ** 2) / 2)
    first = [w * a.T @ a / 16 for w, a in zip(weight, seen, strict=True)]
    grams = (first[0] + first[1]) / (weight[0] + weight[1]) + (first[2] + first[3]) / (weight[2] + weight[3])
    widest = max(max(rows.max(), 0) - min(rows.min(), 0) for rows in (seen[:2], seen[2:]))
    np.testing.assert_allclose(ranges.grams[0], grams / widest**2, rtol=1e-4, atol=1e-6)
    for window, rows in enumerate(((0, 1), (2, 3))):
        low, high = min(seen[list(rows)].min(), 0), max(seen[list(rows)].max(), 0)
        loss = sum(weight[r] * np.asarray(rounding.losses(jnp.asarray(seen[r]), low, high, 7.0)) for r in rows)
        s = float(rounding.shrunken()[np.argmin(loss)])
        np.testing.assert_allclose(ranges.high[0, window], s * high, rtol=1e-4)
    small = js.denoise.quantise(LINEAR, ranges)
    for t, window in ((float(PLAN.t[0]), 0), (float(PLAN.t[3]), 1)):
        alone = quantise_file.replace(ranges, low=ranges.low[:, window:][:, :1], high=ranges.high[:, window:][:, :1])
        alone = quantise_file.replace(alone, window=0 * ranges.window)
        np.testing.assert_array_equal(small(X, t).x0, js.denoise.quantise(LINEAR, alone)(X, t).x0)
    assert bool(jnp.any(small(X, float(PLAN.t[0])).x0 != small(X, float(PLAN.t[3])).x0))


def test_other_bits_conditions_and_batches_run_the_same_program():
    denoiser = NETWORK
    draw = jax.jit(lambda d, x: js.sample(None, d, x, PLAN).x)
    found, first = {}, None
    for bits in (8, 4, (2, 6)):
        ranges = js.denoise.calibrate(None, denoiser, PLAN, X, bits=bits, ends=None)
        found[bits] = draw(js.denoise.quantise(denoiser, ranges), X)
        compiled = quantise_file._seen._cache_size(), rounding.round_weight._cache_size(), draw._cache_size()
        first = compiled if bits == 8 else first
        assert compiled == first
    exact = js.sample(None, denoiser, X, PLAN).x
    errors = [float(jnp.mean((found[bits] - exact) ** 2)) for bits in (8, 4, (2, 6))]
    assert errors[0] < errors[1] < errors[2]
    small = js.denoise.quantise(denoiser, js.denoise.calibrate(None, denoiser, PLAN, X))
    many = small(X, 0.5).x0
    np.testing.assert_allclose(jax.vmap(lambda x: small(x, 0.5).x0)(X), many, atol=1e-6)
    other = small.given(shift=0.2)(X, 0.5).x0
    np.testing.assert_allclose(other, denoiser.given(shift=0.2)(X, 0.5).x0, atol=0.1)
    assert float(jnp.max(jnp.abs(other - many))) > 0.02


def test_the_ends_may_keep_their_bits():
    ranges = js.denoise.calibrate(None, NETWORK, PLAN, X, bits=(3, 4), ends=7)
    np.testing.assert_array_equal(ranges.data_levels, [127, 127])
    np.testing.assert_array_equal(ranges.weight_levels, [63, 63])
    assert js.denoise.calibrate(None, NETWORK, PLAN, X, bits=3, ends=None).data_levels.tolist() == [7, 7]


CALIBRATE = {"key": None, "denoiser": LINEAR, "plan": PLAN, "x": X}
REFUSED = [
    ("denoiser must be a js.Denoiser", {"denoiser": lambda x, t: x}),
    ("sample: plan must be", {"plan": 3}),
    ("x must be floating point", {"x": X.astype(int)}),
    ("x must be float32", {"x": X.astype(jnp.bfloat16)}),
    ("calibrate: bits must be finite and in", {"bits": 9}),
    ("calibrate: bits must be finite and in", {"bits": (8, 1)}),
    ("bits must be a number or a pair", {"bits": (8, 8, 8)}),
    ("calibrate: ends must be finite", {"ends": 12}),
    ("calibrate: windows must be", {"windows": 0}),
    ("calibrate: windows must be", {"windows": 5}),
    ("law must map", {"law": lambda s: 1.0}),
    ("some above 0 in every window", {"law": lambda s: 0 * s}),
    ("some above 0 in every window", {"law": lambda s: 1.0 * (s > 0.9), "windows": 2}),
    ("multiplies nothing", {"denoiser": js.Denoiser(lambda x, t: 0.5 * x, SCHEDULE, "x0")}),
    ("values are not finite", {"x": X.at[0, 0].set(jnp.nan)}),
]


@pytest.mark.parametrize(("match", "change"), REFUSED)
def test_refusals_of_calibrate(match, change):
    with pytest.raises((ValueError, TypeError), match=match):
        js.denoise.calibrate(**{**CALIBRATE, **change})


def test_refusals_of_quantise():
    ranges = js.denoise.calibrate(**CALIBRATE)
    with pytest.raises(TypeError, match=r"must be a js\.Denoiser"):
        js.denoise.quantise(lambda x, t: x, ranges)
    with pytest.raises(TypeError, match=r"ranges must be from js\.denoise\.calibrate"):
        js.denoise.quantise(LINEAR, 8)
    with pytest.raises(ValueError, match="ranges are of 1 products, the network has 2"):
        js.denoise.quantise(NETWORK, ranges)
    swapped = quantise_file.replace(js.denoise.calibrate(None, NETWORK, PLAN, X), grams=(jnp.eye(3), jnp.eye(3)))
    with pytest.raises(ValueError, match="product 1 sums over 3"):
        js.denoise.quantise(NETWORK, swapped)
    with pytest.raises(TypeError, match="reconstruct must be True or False"):
        js.denoise.quantise(LINEAR, ranges, reconstruct=1)
    with pytest.raises(ValueError, match="Normal: std must be"):
        js.denoise.Normal(0.5, 0.0)
