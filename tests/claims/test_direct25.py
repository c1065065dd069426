"""Lu et al., "Direct2.5": views in one sample, silhouettes carved, normals integrated and fused; exact volumes."""

import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
PATH = pathlib.Path(__file__).resolve().parents[2] / "examples" / "normals_to_shape.py"
SPEC = importlib.util.spec_from_file_location("normals_to_shape", PATH)
shape = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(shape)
BALL, RADIUS, SIZE = jnp.full(3, 0.8), 0.8, 48
TRUTH = 4 / 3 * math.pi * RADIUS**3


def hull_of(names, pixels=3 * SIZE):
    views = shape.cameras(names)
    alpha = jnp.stack([jnp.linalg.norm(shape.normal_map(BALL, camera, pixels), axis=-1) > 0.5 for camera in views])
    return shape.visual_hull(alpha, views, SIZE)


@pytest.mark.parametrize(
    ("names", "ratio"),
    [
        (("front", "right"), 4 / math.pi),
        (("front", "right", "back", "left"), 4 / math.pi),  # opposite views add nothing
        (("front", "right", "top"), 8 * (2 - math.sqrt(2)) / (4 / 3 * math.pi)),
    ],
)
def test_hulls_of_a_ball_have_their_exact_volumes(names, ratio):
    volume = float(jnp.sum(hull_of(names))) * (2 / SIZE) ** 3
    assert volume / TRUTH == pytest.approx(ratio, abs=0.015)


LOOK = {"front": (0, 0, 1), "right": (1, 0, 0), "back": (0, 0, -1), "left": (-1, 0, 0), "top": (0, 1, 0)}
LOOK = LOOK | {"bottom": (0, -1, 0)}


@pytest.mark.parametrize("names", [("front", "left", "bottom"), ("back", "right", "top")])
def test_a_ball_off_the_centre_is_carved_where_it_lies(names):
    """Silhouettes are drawn here, by right-handed axes from the side and the upward direction of a view."""
    center, radius = np.array([0.3, -0.2, 0.1]), 0.55
    look = np.array([LOOK[name] for name in names], float)
    up = np.array([(0, 1, 0) if y == 0 else (0, 0, -y) for _, y, _ in look], float)
    place = np.stack([np.cross(up, look) @ center, up @ center], 1)
    u, v = (np.asarray(part) for part in shape.picture_grid(3 * SIZE))
    alpha = np.stack([(u - a) ** 2 + (v - b) ** 2 < radius**2 for a, b in place])
    hull = np.asarray(shape.visual_hull(jnp.asarray(alpha), shape.cameras(names), SIZE))
    away = np.linalg.norm(np.asarray(shape.voxel_grid(SIZE)) - center, axis=-1)
    assert np.all(hull[away < radius - 2 / SIZE])
    ratio = hull.sum() * (2 / SIZE) ** 3 / (4 / 3 * math.pi * radius**3)
    assert ratio == pytest.approx(8 * (2 - math.sqrt(2)) / (4 / 3 * math.pi), abs=0.02)


def test_slopes_are_integrated_to_depths():
    u, v = shape.picture_grid(64)
    bump = jnp.exp(-4 * ((u - 0.1) ** 2 + 2 * (v + 0.2) ** 2))
    found = shape.frankot_chellappa(-8 * (u - 0.1) * bump, -16 * (v + 0.2) * bump, 2 / 64)
    error = found - bump
    assert float(jnp.max(jnp.abs(error - error.mean()))) < 1e-3


def test_fused_surfaces_lie_within_a_voxel():
    views = shape.cameras(shape.VIEWS)
    normals = jnp.stack([shape.normal_map(BALL, camera, SIZE) for camera in views])
    hull = hull_of(shape.VIEWS, SIZE)
    distance = shape.fuse(normals, views, hull)
    radius = np.linalg.norm(np.asarray(shape.voxel_grid(SIZE)), axis=-1)
    inside = np.asarray(distance) <= 0
    voxel = 2 / SIZE
    assert radius[inside].max() < RADIUS + voxel
    assert radius[~inside].min() > RADIUS - voxel
    near = np.abs(radius - RADIUS) < 3 * voxel
    assert np.abs(distance - radius + RADIUS)[near].max() < 0.7 * voxel  # distances to tangents, not along an axis
    assert shape.volume(distance) / TRUTH == pytest.approx(1, abs=0.08)
    assert float(jnp.sum(hull)) * voxel**3 / TRUTH > 1.1


def test_views_of_one_sample_agree():
    """All views are of the ellipsoid nearest to the sample: none is drawn on its own."""
    views = shape.cameras(shape.VIEWS)
    normals, radii = shape.draw(jax.random.key(2), views, 16, 8)
    wanted = jnp.stack([shape.normal_map(radii, camera, 16) for camera in views])
    assert float(jnp.mean(jnp.abs(normals - wanted))) < 0.01


def test_bad_views_are_refused():
    views = shape.cameras(("front", "right"))
    normals = np.stack([shape.normal_map(BALL, camera, 8) for camera in views])
    shape.check_views(normals, views)
    with pytest.raises(ValueError, match="two or more views"):
        shape.check_views(normals[:1], views[:1])
    with pytest.raises(ValueError, match="length 1"):
        shape.check_views(2 * normals, views)
    with pytest.raises(ValueError, match="no camera sees"):
        shape.check_views(-normals, views)
