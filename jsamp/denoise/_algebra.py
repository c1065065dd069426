"""What measurements and rewards share: transposes of a prediction, changes of the score, solves per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_count
from jsamp.denoise._protocol import Guided, Kick, aux_of, kick_of

SMALL = 64


def transpose_x0(denoiser: Any, x: Any, t: Any, key: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The prediction at (x, t), and u -> (dx0/dx)^T u."""

    def call(x):
        prediction = denoiser(x, t, key=key)
        return prediction.x0, prediction

    _, pull, prediction = jax.vjp(call, x, has_aux=True)
    return prediction, lambda u: pull(u)[0]


def change_score(schedule: Any, t: Any, prediction: Any, change: Any) -> Any:
    """The prediction with the score moved: x0 += (sigma^2 / alpha) change, eps -= sigma change. Nothing cancels."""
    t = jnp.asarray(t, jnp.result_type(*jax.tree.leaves(prediction.x0)))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0 = jax.tree.map(lambda d, g: d + (sigma**2 / alpha) * g, prediction.x0, change)
    eps = jax.tree.map(lambda e, g: e - sigma * g, prediction.eps, change)
    return prediction._replace(x0=x0, eps=eps)


def add_kick(prediction: Any, kick: Kick) -> Guided:
    """The prediction with one more kick."""

    def both(old, new):
        return new if old is None else old if new is None else jax.tree.map(jnp.add, old, new)

    old = kick_of(prediction) or Kick()
    merged = Kick(both(old.x, kick.x), both(old.x0, kick.x0))
    return Guided(prediction.x0, prediction.eps, merged, aux_of(prediction))


def check_event(who: str, event_ndim: int | None) -> None:
    """Refuse a number of sample axes that is not a count."""
    if event_ndim is not None:
        check_count(f"{who}: event_ndim", event_ndim, low=0)


def leading(who: str, x: Any, event_ndim: int | None) -> int:
    """How many leading axes of x are a batch."""
    if event_ndim is None:
        return 0
    counts = {leaf.ndim - event_ndim for leaf in jax.tree.leaves(x)}
    if len(counts) != 1 or min(counts) < 0:
        shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
        raise ValueError(f"{who}: event_ndim={event_ndim} does not fit x of shapes {shapes}.")
    return counts.pop()


def each(function: Callable[..., Any], lead: int) -> Callable[..., Any]:
    """A function of one sample, for every sample of `lead` leading axes."""
    for _ in range(lead):
        function = jax.vmap(function)
    return function


def spread_over(value: Any, leaf: Any) -> Any:
    """A number for each sample [*lead], against a leaf [*lead, ...]."""
    return value.reshape(value.shape + (1,) * (leaf.ndim - value.ndim))


def solve_positive(matvec: Callable[[Any], Any], b: Any, iterations: int | None) -> Any:
    """K^-1 b for positive semi-definite K, b [..., m] with K's own axes in front. Singular K: within its range.

    `iterations=None` solves exactly up to m = 64 and takes 64 steps of conjugate gradients beyond.
    """
    if iterations is None and b.shape[-1] <= SMALL:
        return _solve_dense(matvec, b)
    return _conjugate_gradients(matvec, b, SMALL if iterations is None else iterations)


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


def _conjugate_gradients(matvec, b, iterations):
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
