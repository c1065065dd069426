"""What measurements and rewards share: noise levels, transposes of a prediction, changes of the score, solves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_scalar
from jsamp._core._like import dtype_of
from jsamp._core._types import Key
from jsamp.denoise._protocol import Guided, Kick, aux_of, kick_of
from jsamp.noise._protocol import check_times

SMALL, FEW = 64, 16


def as_time(t: Any, x: Any, schedule: Any = None) -> Any:
    """The time in the dtype of x, float32 at least: an index near 1000 has no place in half precision.

    A known time at which the schedule's network cannot be asked is refused.
    """
    if not hasattr(t, "dtype"):
        check_scalar("t", t)
    # Of as many axes as x, [n, 1, 1], it is one time for each sample, as js.steer.TimeShift asks.
    if jnp.ndim(t) not in {0, *map(jnp.ndim, jax.tree.leaves(x))}:
        raise ValueError(f"t must be one number, got an array of shape {jnp.shape(t)}. Use jax.vmap over x and t.")
    if schedule is not None:
        check_times("t", schedule, t, end=True, churn=True)
    return jnp.asarray(t, dtype_of(x, at_least=jnp.float32))


def levels(schedule: Any, t: Any, x: Any) -> tuple[Any, Any]:
    """Alpha and sigma at t, computed in float32 at least, in the dtype of x."""
    t, dtype = as_time(t, x, schedule), dtype_of(x)
    return jnp.asarray(schedule.alpha(t), dtype), jnp.asarray(schedule.sigma(t), dtype)


def slopes(schedule: Any, t: Any, x: Any) -> tuple[Any, Any]:
    """The time derivatives of alpha and sigma at t, in the dtype of x."""
    t, dtype = as_time(t, x, schedule), dtype_of(x)
    one = jnp.ones_like(t)
    alpha, sigma = (jax.jvp(level, (t,), (one,))[1] for level in (schedule.alpha, schedule.sigma))
    return jnp.asarray(alpha, dtype), jnp.asarray(sigma, dtype)


def transpose_x0(denoiser: Any, x: Any, t: Any, key: Key | None) -> tuple[Any, Callable[[Any], Any]]:
    """The prediction at (x, t), and u -> (dx0/dx)^T u."""

    def call(x):
        prediction = denoiser(x, t, key=key)
        return prediction.x0, prediction

    _, pull, prediction = jax.vjp(call, x, has_aux=True)
    return prediction, lambda u: pull(u)[0]


def shift_x0(schedule: Any, t: Any, prediction: Any, change: Any) -> Any:
    """The prediction with x0 moved by `change`, and eps by as much the other way, so alpha x0 + sigma eps stays."""
    alpha, sigma = levels(schedule, t, prediction.x0)
    ratio = alpha / sigma
    x0 = jax.tree.map(jnp.add, prediction.x0, change)
    return prediction._replace(x0=x0, eps=jax.tree.map(lambda e, c: e - ratio * c, prediction.eps, change))


def change_score(schedule: Any, t: Any, prediction: Any, change: Any) -> Any:
    """The prediction with the score moved: x0 += (sigma^2 / alpha) change, eps -= sigma change. Nothing cancels."""
    alpha, sigma = levels(schedule, t, prediction.x0)
    x0 = jax.tree.map(lambda d, g: d + (sigma**2 / alpha) * g, prediction.x0, change)
    eps = jax.tree.map(lambda e, g: e - sigma * g, prediction.eps, change)
    return prediction._replace(x0=x0, eps=eps)


def add_kick(prediction: Any, kick: Kick) -> Guided:
    """The prediction with one more kick."""

    def both(old, new):
        return new if old is None else old if new is None else jax.tree.map(jnp.add, old, new)

    old = kick_of(prediction) or Kick()
    return Guided(prediction.x0, prediction.eps, Kick(both(old.x, kick.x), both(old.x0, kick.x0)), aux_of(prediction))


def inner(a: Any, b: Any) -> Any:
    """Inner product along the last axis, which is kept."""
    return jnp.sum(a * b, axis=-1, keepdims=True)


def minimal_residual(matvec: Callable[[Any], Any], b: Any, iterations: int | None) -> Any:
    """The x in the Krylov space of `iterations` steps that makes |b - K x| least, b [..., m], for any square K.

    Generalised conjugate residuals. K need not be symmetric or positive: the residual never grows, and few steps leave
    small eigenvalues of K, which are those that a network gets wrong, alone. None takes min(m, 16) steps.
    """
    steps = min(b.shape[-1], FEW) if iterations is None else iterations
    eps = jnp.finfo(b.dtype).eps
    floor = eps**2 * inner(b, b)

    def body(carry, i):
        x, r, ways, images = carry
        way, image = r, matvec(r)
        size = inner(image, image)
        for _ in range(2):  # twice is enough: what rounding left of earlier ways goes too
            along = inner(images, image[None])
            way, image = way - jnp.sum(along * ways, axis=0), image - jnp.sum(along * images, axis=0)
        length = inner(image, image)
        go = (length > (64 * eps) ** 2 * size) & (inner(r, r) > floor)
        scale = jnp.where(go, jax.lax.rsqrt(jnp.where(go, length, 1)), 0)
        way, image = way * scale, image * scale
        gain = inner(r, image)
        put = lambda stored, new: jax.lax.dynamic_update_index_in_dim(stored, new, i, 0)
        return (x + gain * way, r - gain * image, put(ways, way), put(images, image)), None

    empty = jnp.broadcast_to(jnp.zeros_like(b)[None], (steps, *b.shape))
    start = (jnp.zeros_like(b), b, empty, empty)
    return jax.lax.scan(body, start, jnp.arange(steps))[0][0]


def solve_positive(matvec: Callable[[Any], Any], b: Any, iterations: int | None) -> Any:
    """K^-1 b for positive semi-definite K, b [..., m] with K's own axes in front. Singular K: within its range.

    `iterations=None` solves exactly up to m = 64 and takes 64 steps of conjugate gradients beyond.
    """
    if iterations is None and b.shape[-1] <= SMALL:
        return _solve_dense(matvec, b)
    return conjugate_gradients(matvec, b, SMALL if iterations is None else iterations)


def _solve_dense(matvec, b):
    m, dtype = b.shape[-1], jnp.promote_types(b.dtype, jnp.float32)
    # Zeros of b are added so that the unit vectors vary over the mesh axes over which b may vary.
    unit = lambda e: jnp.broadcast_to(e, b.shape) + jnp.zeros_like(b)
    matrix = jnp.moveaxis(jax.vmap(lambda e: matvec(unit(e)))(jnp.eye(m, dtype=b.dtype)), 0, -1).astype(dtype)
    largest = jnp.max(jnp.abs(jnp.diagonal(matrix, axis1=-2, axis2=-1)), axis=-1)[..., None, None]
    # A ridge at rounding level: what it adds in the null space of K, the transposed measurement removes.
    ridge = jnp.where(largest > 0, 4 * jnp.finfo(dtype).eps * largest, 1)
    matrix = matrix + ridge * jnp.broadcast_to(jnp.eye(m, dtype=dtype), matrix.shape)
    return jnp.linalg.solve(matrix, b.astype(dtype)[..., None])[..., 0].astype(b.dtype)


def conjugate_gradients(matvec: Callable[[Any], Any], b: Any, iterations: int) -> Any:
    """Take steps of conjugate gradients on K x = b [..., m]; they stop where the curvature of K is not positive."""
    tiny = jnp.finfo(b.dtype).eps ** 2 * jnp.sum(b * b, axis=-1, keepdims=True)

    def body(carry, _):
        x, r, p, size = carry
        forward = matvec(p)
        bend = jnp.sum(p * forward, axis=-1, keepdims=True)
        go = (bend > 0) & (size > tiny)
        step = jnp.where(go, size / jnp.where(go, bend, 1), 0)
        x, r = x + step * p, r - step * forward
        new = jnp.sum(r * r, axis=-1, keepdims=True)
        p = r + jnp.where(go, new / jnp.where(go, size, 1), 0) * p
        return (x, r, p, new), None

    start = (jnp.zeros_like(b), b, b, jnp.sum(b * b, axis=-1, keepdims=True))
    return jax.lax.scan(body, start, None, length=iterations)[0][0]
