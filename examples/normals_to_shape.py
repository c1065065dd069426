"""From normal maps of several views to a solid: what of a text-to-shape system is a pure function.

One sample is six views at once: the denoiser sees a whole set of normal maps [views, size, size, 3], so that the views
agree, and any plan of jsamp draws it. Silhouettes then carve a visual hull, normals are integrated to depths by Fourier
transforms (Frankot and Chellappa), and depths are fused to a signed distance on voxels. The networks and the remeshing
of the published system are not here: the denoiser is the exact one of a set of ellipsoids, so every volume has a number
to be compared with. The hull of a ball is 4/pi of it from two axes, 3 (2 - sqrt 2) 2 / pi = 1.1187 from three.

    python examples/normals_to_shape.py --out .
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# A view: the axes of the picture and the one that looks towards the camera, as rows of a rotation. Orthographic.
VIEWS = {
    "front": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "right": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
    "back": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "left": ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
    "top": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "bottom": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
}


def cameras(names):
    return jnp.array([VIEWS[name] for name in names], jnp.float32)


def picture_grid(size):
    """Centres of pixels in [-1, 1], picture axes (u, v)."""
    axis = (jnp.arange(size) + 0.5) * 2 / size - 1
    return jnp.meshgrid(axis, axis, indexing="ij")


def voxel_grid(size):
    """Centres [size, size, size, 3] of the voxels of the cube [-1, 1]^3."""
    axis = (jnp.arange(size) + 0.5) * 2 / size - 1
    return jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij"), -1)


def normal_map(radii, camera, size):
    """Normals [size, size, 3] in the axes of the camera of an ellipsoid seen along an axis; 0 beside it."""
    a, b, c = jnp.abs(camera) @ radii
    u, v = picture_grid(size)
    inside = 1 - (u / a) ** 2 - (v / b) ** 2
    depth = c * jnp.sqrt(jnp.maximum(inside, 0))
    normal = jnp.stack([u / a**2, v / b**2, depth / c**2], -1)
    return jnp.where(inside[..., None] > 0, normal / jnp.linalg.norm(normal, axis=-1, keepdims=True), 0)


def visual_hull(alpha, views, size):
    """Keep the voxels [size] * 3 whose centres all views have in their silhouettes alpha [V, pixels, pixels]."""
    pixels = alpha.shape[1]

    def seen(mask, camera):
        place = voxel_grid(size) @ camera.T
        index = jnp.floor((place[..., :2] + 1) * pixels / 2).astype(int)
        framed = jnp.all((index >= 0) & (index < pixels), -1) & (jnp.abs(place[..., 2]) <= 1)
        u, v = jnp.clip(index, 0, pixels - 1)[..., 0], jnp.clip(index, 0, pixels - 1)[..., 1]
        return framed & mask[u, v]

    return jnp.all(jax.vmap(seen)(alpha, views), 0)


def frankot_chellappa(slope_u, slope_v, spacing):
    """The depths whose slopes are nearest to the given ones in squares, up to a constant, by Fourier transforms.

    Pictures are mirrored first (slopes change their sign where they cross the mirror), so that edges need not match.
    """
    n, m = slope_u.shape
    p = jnp.concatenate([slope_u, -slope_u[::-1]], 0)
    p = jnp.concatenate([p, p[:, ::-1]], 1)
    q = jnp.concatenate([slope_v, slope_v[::-1]], 0)
    q = jnp.concatenate([q, -q[:, ::-1]], 1)
    wu = 2 * jnp.pi * jnp.fft.fftfreq(2 * n, spacing)[:, None]
    wv = 2 * jnp.pi * jnp.fft.fftfreq(2 * m, spacing)[None]
    power = (wu**2 + wv**2).at[0, 0].set(1)
    depth = -1j * (wu * jnp.fft.fft2(p) + wv * jnp.fft.fft2(q)) / power
    return jnp.fft.ifft2(depth.at[0, 0].set(0)).real[:n, :m]


def check_views(normals, views):
    """Refuse fewer than two views, other numbers of cameras, and normals that are neither 0 nor of length 1."""
    if len(views) < 2 or len(views) != len(normals):
        raise ValueError(f"two or more views needed, one camera each; got {len(normals)} maps, {len(views)} cameras.")
    size = np.linalg.norm(np.asarray(normals), axis=-1)
    if np.any((np.abs(size - 1) > 1e-2) & (size > 1e-2)):
        raise ValueError("normals must have length 1, or 0 beside the object. Divide by their length.")
    if np.any(np.asarray(normals)[..., 2] < -1e-2):
        raise ValueError("a normal looks away from its camera: no camera sees this side. Turn the axes of the view.")


def hull_front(hull, camera):
    """How far towards the camera the hull reaches in every pixel [size, size]; below -1 where it is not."""
    size = hull.shape[0]
    place = (voxel_grid(size) @ camera.T).reshape(-1, 3)
    index = jnp.floor((place[:, :2] + 1) * size / 2).astype(int)
    reach = jnp.where(hull.ravel(), place[:, 2] + 1 / size, -2)
    return jnp.full((size, size), -2.0).at[index[:, 0], index[:, 1]].max(reach)


def fuse(normals, views, hull, steepest=0.1):
    """Signed distance [size] * 3, negative inside: behind the surface that every view sees, and inside the hull.

    Integrated normals tell depths up to a constant of each view; the surface lies in the hull and touches it, so the
    constant is the largest that keeps its flat parts inside. Slopes beyond the steepest are cut: too little is carved
    there, and other views carve the rest.
    """
    size = hull.shape[0]

    def behind(normal, camera):
        mask = jnp.linalg.norm(normal, axis=-1) > 0.5
        nz = jnp.maximum(normal[..., 2], steepest)
        slopes = (jnp.where(mask, -normal[..., k] / nz, 0) for k in (0, 1))
        depth = frankot_chellappa(*slopes, 2 / size)
        depth = depth + jnp.min(jnp.where(mask & (nz > 0.9), hull_front(hull, camera) - depth, jnp.inf))
        place = voxel_grid(size) @ camera.T
        index = jnp.floor((place[..., :2] + 1) * size / 2).astype(int)
        here = lambda picture: picture[index[..., 0], index[..., 1]]
        # The distance to the tangent plane of the surface in this pixel.
        return jnp.where(here(mask), (place[..., 2] - here(depth)) * here(nz), -jnp.inf)

    distance = jnp.max(jax.vmap(behind)(normals, views), 0)
    return jnp.where(hull, distance, jnp.maximum(distance, 1 / size))


def volume(distance):
    """The volume in the surface, voxels at it counted by their share."""
    size = distance.shape[0]
    return float(jnp.sum(jnp.clip(0.5 - distance * size / 2, 0, 1))) * (2 / size) ** 3


def draw(key, views, size, shapes):
    """One joint sample of normal maps [V, size, size, 3] of a set of ellipsoids, and their radii."""
    radii = jax.random.uniform(jax.random.fold_in(key, 1), (shapes, 3), minval=0.45, maxval=0.85)
    maps = jax.vmap(lambda r: jax.vmap(lambda camera: normal_map(r, camera, size))(views))(radii)
    schedule = js.noise.VP()
    denoiser = js.denoise.Empirical(schedule, maps.reshape(shapes, -1))
    plan = js.solve.dpmpp(schedule, js.noise.logsnr_grid(schedule, 20), order=2)
    start = schedule.prior(key, maps[0].size)
    sample = js.sample(None, denoiser, start, plan).x.reshape(maps.shape[1:])
    nearest = int(jnp.argmin(jnp.sum((maps - sample[None]) ** 2, (1, 2, 3, 4))))
    length = jnp.linalg.norm(sample, axis=-1, keepdims=True)
    return jnp.where(length > 0.5, sample / jnp.maximum(length, 0.5), 0), radii[nearest]


def picture(path, normals, hull, distance):
    figure, axes = plt.subplots(2, 4, figsize=(8, 4.2), layout="constrained")
    for axis, name, normal in zip(axes.flat[:6], VIEWS, normals, strict=True):
        shown = np.where(np.linalg.norm(normal, axis=-1, keepdims=True) > 0.5, np.asarray(normal) / 2 + 0.5, 1)
        axis.imshow(np.clip(shown, 0, 1).swapaxes(0, 1), origin="lower")
        axis.set_title(f"normals, {name}", fontsize=9)
    for axis, name, solid in zip(axes.flat[6:], ("hull", "fused"), (hull, distance <= 0), strict=True):
        thick = np.asarray(jnp.sum(solid, 2)) * 2 / hull.shape[0]
        axis.imshow(np.where(thick > 0, thick, np.nan).T, origin="lower", cmap="viridis", vmin=0, vmax=1.7)
        axis.set_title(f"{name}: thickness", fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle("Six views in one sample, carved and fused to a solid", fontsize=11)
    figure.savefig(path, dpi=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=48, help="pixels and voxels a side (default 48)")
    parser.add_argument("--shapes", type=int, default=64, help="ellipsoids that the denoiser knows (default 64)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("normals_to_shape.png"))
    options = parser.parse_args()
    views = cameras(VIEWS)
    normals, radii = draw(jax.random.key(0), views, options.size, options.shapes)
    check_views(normals, views)
    alpha = jnp.linalg.norm(normals, axis=-1) > 0.5
    hull = visual_hull(alpha, views, options.size)
    distance = fuse(normals, views, hull)
    truth = float(4 / 3 * jnp.pi * jnp.prod(radii))
    carved = float(jnp.sum(hull)) * (2 / options.size) ** 3
    print(f"radii {np.round(radii, 3)}, volume {truth:.4f}")
    print(f"hull  {carved:.4f}: {carved / truth:.4f} of it (1.1187 for three axes)")
    print(f"fused {volume(distance):.4f}: {volume(distance) / truth:.4f} of it")
    picture(options.out, normals, hull, distance)


if __name__ == "__main__":
    main()
