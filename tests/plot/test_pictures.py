"""What pictures show: pixels, weights, positions, read back from the axes."""

import numpy as np
import pytest

import jsamp as js

pytest.importorskip("matplotlib", reason="the pictures need it")
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

VP = js.noise.VP()
GRID = js.noise.logsnr_grid(VP, 4)


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


def test_tiles_lie_row_by_row_with_dark_ink_for_high_numbers():
    x = np.full((5, 4, 6), -1.0)
    x[3, 0, 5] = 0.5
    page = js.plot.images(x, columns=3).get_images()[0].get_array()
    assert page.shape == (2 * 6, 3 * 8)
    assert np.argwhere(page > 0).tolist() == [[6 + 1, 6]]  # row 1, column 0, after a gap of one
    assert page.max() == 0.75
    other = js.plot.images(x[..., None] * 10, low=-10.0, high=10.0, columns=3).get_images()[0].get_array()
    np.testing.assert_allclose(other, page)


def test_nan_is_red():
    x = np.zeros((1, 4, 4))
    x[0, 1, 2] = np.nan
    axes = js.plot.images(x)
    axes.figure.canvas.draw()
    image = axes.get_images()[0]
    assert tuple(image.to_rgba(image.get_array())[2, 3, :3]) == (1.0, 0.0, 0.0)
    colours = js.plot.images(np.stack([x] * 3, -1)).get_images()[0].get_array()
    assert np.argwhere((colours == [1.0, 0.0, 0.0]).all(-1)).tolist() == [[2, 3]]


def test_labels_stand_beside_their_rows():
    axes = js.plot.images(np.zeros((4, 8, 8)), columns=2, labels=["a", "b"])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    np.testing.assert_allclose(axes.get_yticks(), [5, 15])


def discs(plan):
    """(log-SNR of a combined prediction, row, area) of each disc."""
    axes = js.plot.plan(plan)
    scatter = axes.collections[-1]
    return [
        (float(x), int(row), float(a)) for (x, row), a in zip(scatter.get_offsets(), scatter.get_sizes(), strict=True)
    ]


def test_discs_follow_the_history():
    plan = js.solve.dpmpp(VP, GRID, order=2)
    lam = np.log(np.asarray(plan.alpha) / np.asarray(plan.sigma))
    found = {(row, int(np.argmin(np.abs(lam - x)))): area for x, row, area in discs(plan)}
    assert set(found) == {(0, 0), (1, 1), (1, 0), (2, 2), (2, 1), (3, 3), (3, 2)}
    # Two rows share two slots in turns, so the weight on the row before is the one that is not zero.
    older = [float(sum(w)) for w in np.asarray(plan.weights)[:, 1:]]
    newest = np.asarray(plan.weights)[:, 0]
    for row in (1, 2, 3):
        np.testing.assert_allclose(found[row, row - 1] / found[row, row], abs(older[row] / newest[row]), rtol=1e-5)


def test_bars_run_from_evaluation_to_landing_and_noise_is_marked():
    plan = js.solve.ddpm(VP, GRID)
    axes = js.plot.plan(plan)
    bars = [segment[:, 0] for segment in axes.collections[0].get_segments()]
    lam = VP.lam(GRID)
    np.testing.assert_allclose(bars, np.stack([lam[:-1], lam[1:]], 1), rtol=1e-5)
    assert len(axes.get_lines()[0].get_xdata()) == int(np.sum(np.asarray(plan.noise_std) > 0))
    last = js.plot.plan(js.solve.ddim(VP, js.noise.time_grid(VP, 3, final="zero")))
    assert np.isfinite(last.collections[0].get_segments()[-1]).all()  # sigma = 0 is at infinity


def test_lines_of_work_and_precision_are_the_numbers_given_and_named_at_their_ends():
    axes = js.plot.work_precision({"A": {10: 0.1, 5: 0.4}, "B": {5: 0.3, 10: 0.1}})
    np.testing.assert_allclose(axes.get_lines()[0].get_xydata(), [[5, 0.4], [10, 0.1]])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert {text.get_text(): text.get_color() for text in axes.texts} == {
        line.get_label(): line.get_color() for line in axes.get_lines()
    }
    ends = [text.xy[1] for text in axes.texts]
    assert abs(np.log10(ends[0] / ends[1])) > 0.01  # the names do not overlap where the errors agree


def test_chains_are_drawn_coordinate_by_coordinate():
    draws = np.random.default_rng(0).normal(size=(3, 20, 2)) + np.array([0.0, 100.0])
    axes = js.plot.chains(draws, ["a", "b"])
    for row in range(2):
        np.testing.assert_allclose([line.get_ydata() for line in axes[row, 0].get_lines()], draws[..., row])
    np.testing.assert_allclose(axes[0, 2].get_lines()[0].get_xydata(), draws[..., ::-1].reshape(-1, 2))
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["a", "b"]
    one = js.plot.chains(draws[..., 0])
    assert one.shape == (1, 2)


def test_discs_of_a_subset_have_areas_as_their_weights_around_points_and_unused_slots_are_left_out():
    x = np.arange(10.0).reshape(5, 2)
    subset = js.Subset(np.array([3, 1, 0]), np.array([4.0, 1.0, 0.0]), np.array([True, True, False]))
    points = js.plot.subset(x, subset).collections
    assert len(points) == 3
    np.testing.assert_allclose(points[0].get_offsets(), x)
    np.testing.assert_allclose(points[1].get_offsets(), x[[3, 1]])
    np.testing.assert_allclose(points[2].get_offsets(), x[[3, 1]])
    assert len(set(points[2].get_sizes())) == 1
    sizes = points[1].get_sizes()
    np.testing.assert_allclose(sizes[0] / sizes[1], 4)


def test_pictures_go_onto_axes_that_are_given():
    _, (left, right) = plt.subplots(1, 2)
    assert js.plot.images(np.zeros((2, 4, 4)), axes=left) is left
    assert js.plot.plan(js.solve.ddim(VP, GRID), axes=right) is right
    assert len(plt.get_fignums()) == 1
