"""The main job: metrics against closed forms, the PNG writer, the network, the command line, the shipped files."""

import itertools
import pathlib
import struct
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optimised
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import digits_metrics as metrics  # noqa: E402
import digits_net  # noqa: E402
import draw_digits  # noqa: E402
import png  # noqa: E402

import jsamp as js  # noqa: E402


@pytest.fixture(autouse=True)
def _examples_promote_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def exact_sample(rng, n, mean, covariance):
    """Points whose sample mean and covariance are exactly the given ones."""
    z = rng.normal(size=(n, len(mean)))
    z = z - z.mean(0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T
    return z @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_diagonal_gaussians():
    rng, a, b = np.random.default_rng(0), np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.0025])
    x = exact_sample(rng, 50, np.zeros(3), np.diag(a))
    y = exact_sample(rng, 80, np.array([1.0, -2.0, 0.5]), np.diag(b))
    want = 5.25 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    np.testing.assert_allclose(metrics.frechet_distance(x, y), want, rtol=1e-5)
    np.testing.assert_allclose(metrics.frechet_distance(y, x), want, rtol=1e-5)
    assert abs(metrics.frechet_distance(x, x)) < 1e-5


def test_frechet_distance_of_gaussians_that_do_not_commute():
    rng, s, t = np.random.default_rng(1), np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.8], [-0.8, 3.0]])
    x, y = exact_sample(rng, 40, np.zeros(2), s), exact_sample(rng, 60, np.ones(2), t)
    root = np.sqrt(np.trace(s @ t) + 2 * np.sqrt(np.linalg.det(s) * np.linalg.det(t)))  # trace of a 2x2 square root
    np.testing.assert_allclose(metrics.frechet_distance(x, y), 2 + np.trace(s + t) - 2 * root, rtol=1e-5)


def test_frechet_distance_of_a_singular_gaussian():
    x = np.random.default_rng(2).normal(size=(30, 1)) * np.array([[1.0, 0.0]])
    want = 4 * x[:, 0].mean() ** 2 + 4 * x[:, 0].var(ddof=1)
    np.testing.assert_allclose(metrics.frechet_distance(x, 3 * x), want, rtol=1e-5)


def test_divergent_images_score_nan():
    x = np.random.default_rng(2).normal(size=(30, 2))
    assert np.isnan(metrics.frechet_distance(np.where(x == x[3, 1], np.nan, x), x))
    assert np.isnan(metrics.frechet_distance(x, np.full((4, 2), np.inf)))
    assert metrics.precision_recall(np.full((30, 2), np.nan), x)[0] == 0.0


def test_precision_recall_on_a_line():
    # Unit balls around 0..9 hold 0.5 and 9.9; the balls of x have radii 9.4, 1.6, 1.6, 8.5 and hold all of 0..9.
    x, y = np.array([[0.5], [9.9], [11.5], [20.0]]), np.arange(10.0)[:, None]
    assert metrics.precision_recall(x, y, k=1) == (0.5, 1.0)
    assert metrics.density_coverage(x, y, k=1) == pytest.approx((0.75, 0.3))


def test_dropped_mode_costs_recall_and_junk_costs_precision():
    rng = np.random.default_rng(3)
    left, right, far = (rng.uniform(size=(40, 2)) + shift for shift in (0.0, 100.0, 1e4))
    both = np.concatenate([left, right])
    assert metrics.precision_recall(left, both) == (1.0, 0.5)
    assert metrics.precision_recall(np.concatenate([both, far]), both) == pytest.approx((80 / 120, 1.0))
    assert metrics.density_coverage(left, both)[1] == 0.5


def test_precision_recall_equals_the_definition():
    rng = np.random.default_rng(4)
    x, y, k = rng.normal(size=(30, 3)) + 100.0, 1.3 * rng.normal(size=(25, 3)) + 100.0, 3

    def share(a, b):
        radius = [sorted(np.linalg.norm(p - q) for q in b)[k] for p in b]  # entry 0 is the point itself
        return np.mean([any(np.linalg.norm(p - q) <= r for q, r in zip(b, radius, strict=True)) for p in a])

    assert metrics.precision_recall(x, y, k) == pytest.approx((share(x, y), share(y, x)))


def test_too_many_neighbours_are_refused():
    with pytest.raises(ValueError, match=r"k must be in 1\.\.2, got 3"):
        metrics.precision_recall(np.zeros((5, 2)), np.zeros((3, 2)), k=3)


def test_label_fidelity_counts_agreement():
    params = {"dense_bias": jnp.zeros(32), "head": jnp.eye(32, 10)}
    features = 5.0 * np.eye(32)[[0, 1, 2, 3]]
    assert metrics.label_fidelity(params, features, np.array([0, 1, 7, 8])) == 0.5


def test_features_are_two_strided_convolutions_and_a_projection():
    # Centre taps alone make each convolution a subsampling by two; of the 28 rows, 1, 5, 9, ... remain.
    params = {"conv1": jnp.zeros((5, 5, 1, 16)).at[1, 1, 0, 0].set(1.0), "conv1_bias": jnp.zeros(16)}
    params |= {"conv2": jnp.zeros((5, 5, 16, 32)).at[1, 1, 0, 0].set(1.0), "conv2_bias": jnp.zeros(32)}
    params |= {"dense": jnp.eye(7 * 7 * 32)[:, ::49]}
    image = np.random.default_rng(5).uniform(size=(1, 28, 28)).astype(np.float32)
    small = np.zeros((7, 7, 32))
    small[..., 0] = image[0, ::4, ::4]
    got = metrics.features(params, jnp.asarray(image))
    assert got.shape == (1, 32)
    np.testing.assert_allclose(got[0], small.reshape(-1)[::49], atol=1e-6)


def read_png(data):
    """Decode the grey 8-bit PNG that `png.write` makes, checking every chunk's sum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(body)
        chunks.append((body[:4], body[4:]))
        place += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 0, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:]


def test_png_round_trip(tmp_path):
    picture = np.random.default_rng(6).integers(0, 256, (13, 7), dtype=np.uint8)
    png.write(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_png((tmp_path / "a.png").read_bytes()), picture)
    image = pytest.importorskip("matplotlib.image").imread(tmp_path / "a.png")
    np.testing.assert_array_equal(np.round(255 * image).astype(np.uint8), picture)


def test_png_refuses_what_is_not_grey_bytes(tmp_path):
    with pytest.raises(ValueError, match=r"uint8 \[h, w\], got float64"):
        png.write(tmp_path / "a.png", np.zeros((2, 2)))


def test_tile_places_images_as_ink_on_paper():
    images = np.stack([np.full((2, 2), -1.0), np.full((2, 2), 1.0), np.full((2, 2), 9.0)])
    page = png.tile(images, columns=2, zoom=1, gap=1)
    want = np.full((8, 8), 255)
    want[1:3, 5:7] = want[5:7, 1:3] = 0
    np.testing.assert_array_equal(page, want)
    assert png.tile(images, columns=2, zoom=3, gap=1).shape == (24, 24)


apply = jax.jit(lambda model, x, sigma: model(x, sigma))


@pytest.fixture(scope="module")
def untrained():
    return jax.jit(digits_net.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def params(untrained):
    """A random network whose output layer is not zero."""
    return untrained | {"out": 0.1 * jax.random.normal(jax.random.key(1), untrained["out"].shape)}


def test_untrained_network_is_the_gaussian_denoiser(untrained):
    x = jax.random.normal(jax.random.key(1), (3, 28, 28))
    want = digits_net.SIGMA_DATA**2 / (digits_net.SIGMA_DATA**2 + 4.0) * x
    np.testing.assert_allclose(apply(digits_net.Digits(untrained, 3), x, 2.0), want, rtol=2e-6)


def test_network_takes_leading_axes_and_one_image(params):
    x, label = jax.random.normal(jax.random.key(1), (2, 3, 28, 28)), jnp.arange(6).reshape(2, 3)
    params = params | {"modulate": 0.1 * jax.random.normal(jax.random.key(2), params["modulate"].shape)}
    whole = apply(digits_net.Digits(params, label), x, 0.5)
    assert whole.shape == x.shape
    one = apply(digits_net.Digits(params, label[1, 2]), x[1, 2], 0.5)
    np.testing.assert_allclose(one, whole[1, 2], atol=2e-5)
    free = apply(digits_net.Digits(params, digits_net.NULL), x, 0.5)
    assert float(jnp.abs(free - whole).max()) > 0.01  # labels matter


def test_load_reads_float16_as_float32(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([0.1], np.float16), b=np.array([7], np.uint8))
    arrays = digits_net.load(tmp_path / "a.npz")
    assert (arrays["a"].dtype, arrays["b"].dtype) == (jnp.float32, jnp.uint8)
    np.testing.assert_allclose(arrays["a"], 0.1, rtol=1e-3)


def test_draw_is_the_guided_solver(params):
    fresh = params | {"modulate": 0.1 * jax.random.normal(jax.random.key(2), params["modulate"].shape)}
    noise, labels = jax.random.normal(jax.random.key(3), (2, 28, 28)), jnp.array([3, 8])
    got = draw_digits.draw(None, fresh, noise, labels, 1.5, draw_digits.make_plan("ddim", 3))
    grid = js.noise.karras_grid(draw_digits.SCHEDULE, 3)
    x = grid[0] * noise
    for here, there in itertools.pairwise(grid):
        cond = apply(digits_net.Digits(fresh, labels), x, here)
        free = apply(digits_net.Digits(fresh, jnp.array([10, 10])), x, here)
        x0 = free + 1.5 * (cond - free)
        x = x0 + there / here * (x - x0)
    np.testing.assert_allclose(got, x, atol=2e-4)
    unguided = draw_digits.draw(None, fresh, noise, labels, 1.0, draw_digits.make_plan("ddim", 3))
    assert float(jnp.abs(unguided - got).max()) > 0.01


def test_every_solver_is_listed_and_fits_a_budget():
    names = draw_digits.solvers()
    assert {"ddim", "dpmpp", "deis", "unipc", "ghvb", "heun", "lms", "ipndm"} <= set(names)
    assert not {"sample", "stack", "heavy_ball", "init"} & set(names)
    for name in names:
        assert 18 <= draw_digits.plan_within(name, 20).nfe <= 20
    assert draw_digits.plan_within("heun", 10).nfe == 9
    with pytest.raises(ValueError, match="no plan of pndm has 5 or fewer"):
        draw_digits.plan_within("pndm", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--solver", "euler"], "unknown solver 'euler'; known: "),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--steps", "ten"], "invalid int value: 'ten'"),
        (["--guidance", "nan"], "guidance must be finite, got nan"),
        (["--solver", "pndm", "--steps", "2"], "pndm: order 4 starts with 3"),
        (["--out", "no/such/folder/a.png"], "no folder no/such/folder"),
    ],
)
def test_wrong_options_are_explained(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["draw_digits.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        draw_digits.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_quick_draws_a_picture(monkeypatch, capsys, tmp_path, params):
    image = pytest.importorskip("matplotlib.image")
    np.savez(tmp_path / "mnist_denoiser.npz", **{name: np.asarray(a, np.float16) for name, a in params.items()})
    monkeypatch.setattr(digits_net, "MODELS", tmp_path)
    pictures = []
    for seed in ("0", "0", "1"):
        options = ["--quick", "--steps", "2", "--solver", "ddpm", "--seed", seed, "--out", str(tmp_path / "a.png")]
        monkeypatch.setattr(sys, "argv", ["draw_digits.py", *options])
        draw_digits.main()
        pictures.append(image.imread(tmp_path / "a.png"))
    height, width = pictures[0].shape
    assert height > 400 and width > 500  # 64 digits, and at their left what was asked for
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    assert "64 digits by ddpm, 2 network evaluations" in capsys.readouterr().out


def test_stored_features_give_the_quoted_floor():
    stored = digits_net.load(digits_net.MODELS / "mnist_features.npz")
    assert stored["reference"].shape == stored["real"].shape == (2000, 32)
    accuracy = metrics.label_fidelity(stored, stored["reference"], stored["reference_labels"])
    assert 0.97 < accuracy < 1
    halves = metrics.frechet_distance(stored["reference"][:1000], stored["reference"][1000:])
    np.testing.assert_allclose(halves, stored["floor"], rtol=1e-3)
    assert metrics.scores(stored, stored["real"], stored["real_labels"], stored["reference"])[0] < halves
    assert (EXAMPLES / "models" / "mnist_features.npz").stat().st_size < 600_000


@pytest.mark.slow
def test_shipped_denoiser_gives_the_figures_of_its_card(monkeypatch):
    monkeypatch.setattr(draw_digits, "draw", optimised.jit(draw_digits.draw))
    assert (digits_net.MODELS / "mnist_denoiser.npz").stat().st_size < 1_000_000
    params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
    classifier = digits_net.load(digits_net.MODELS / "mnist_features.npz")
    bench = draw_digits.Bench(params, classifier, guidance=2.0, num=500, exact_num=16)
    rows = [line.split() for line in (digits_net.MODELS / "README.md").read_text().splitlines()]
    quoted = {(row[0], row[1]): np.array(row[2:7], float) for row in rows if row[:1] in (["dpmpp"], ["ddim"])}
    assert set(quoted) == {(solver, nfe) for solver in ("dpmpp", "ddim") for nfe in ("5", "10", "20")}
    got = {case: np.array(bench.measure(case[0], int(case[1]))[1:6]) for case in (("dpmpp", "10"), ("ddim", "10"))}
    for case, row in got.items():
        np.testing.assert_allclose(row[:2], quoted[case][:2], rtol=0.05)  # RMSE, FD
        np.testing.assert_allclose(row[2:], quoted[case][2:], atol=0.012)  # precision, recall, label
    assert got["dpmpp", "10"][0] < got["ddim", "10"][0] / 2
    assert got["dpmpp", "10"][4] > 0.98
    assert got["dpmpp", "10"][2] > 0.8
    assert got["dpmpp", "10"][3] > 0.6
