"""Losses of stochastic interpolants."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field as leaf
from jsamp._core._pytree import pytree, static
from jsamp._core._tree import normal_like, size
from jsamp.loss import _protocol as p
from jsamp.loss._times import UniformTimes, draw_times


class InterpolateDrawn(NamedTuple):
    """Hold what `Interpolate` draws.

    Args:
        x0: rows of the first law [n, ...], or None on a one-sided path.
        x1: rows of the second law.
        t: times [n].
        z: noise like x1.

    Example:
        >>> import jsamp as js
        >>> js.loss.InterpolateDrawn(x0=None, x1=1.0, t=0.5, z=0.0).t
        0.5
    """

    x0: Any
    x1: Any
    t: Any
    z: Any


@pytree
class Interpolate(p.Called):
    """Train the velocity, score or denoiser of a bridge between two laws.

    With x = I + gamma z and I = alpha x0 + beta x1: b = E[I' + gamma' z | x] has the loss |b|^2 / 2 - (I' + gamma'
    z).b; s = grad log p_t = -E[z | x] / gamma has |s|^2 / 2 + s.z / gamma; v = E[I' | x] has |v|^2 / 2 - I'.v; eta =
    E[z | x] has |eta|^2 / 2 - z.eta (published code learns -E[z | x]). Antithetic: the mean over z and -z, which
    cancels the terms of order 1 / gamma at both ends. Mean over rows and event; the least value is minus half the mean
    square of the answer, so values are negative.

    Args:
        interpolant: an object with alpha(t), beta(t) and gamma(t), such as `js.noise.Interpolant`; `two_sided`, True by
            default, says whether batches are pairs.
        field: "b", "s", "v" or "eta" (static).
        antithetic: use both signs of the noise (static).
        times: callable tree (interpolant, u) -> t. The ends, where gamma' and 1 / gamma may be infinite, are left out.
        batched: as in `Match` (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: callable tree (x, t). batch: a pair (x0, x1) of rows,
        coupled or not; x1 alone on a one-sided path.

    Raises:
        TypeError: for something that is not an interpolant, or a batch of the wrong kind.
        ValueError: for an unknown field, or a score where gamma is zero.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.Interpolate(js.noise.Interpolant("linear"), field="v")
        >>> x0, x1 = jnp.zeros((8, 2)), jnp.ones((8, 2))
        >>> float(loss(jax.random.key(0), lambda x, t: jnp.ones(2), (x0, x1))[0])
        -0.5

    Cost:
        Two network calls, one without `antithetic`.

    References:
        Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        2023, arXiv:2303.08797.
    """

    interpolant: Any
    field: Literal["b", "s", "v", "eta"] = static(default="b")
    antithetic: bool = static(default=True)
    times: Any = leaf(
        default=UniformTimes(1e-3, 1 - 1e-3),
        convert=_fields.callable_as("times(interpolant, u)"),
    )
    batched: bool = static(default=False)

    def __post_init__(self):
        for method in ("alpha", "beta", "gamma"):
            if not callable(getattr(self.interpolant, method, None)):
                raise TypeError(f"Interpolate: interpolant must have {method}(t), as js.noise.Interpolant() has.")
        _checks.check_choice("Interpolate: field", self.field, ("b", "s", "v", "eta"))
        known = _checks.concrete(self.interpolant.gamma(0.5))
        if self.field in ("s", "eta") and known is not None and known == 0:
            raise ValueError(f"Interpolate: field {self.field!r} needs noise: gamma is zero on this path.")

    def draw(self, key, batch):
        """Draw times and noise."""
        _checks.check_key(key, "Interpolate")
        two = getattr(self.interpolant, "two_sided", True)
        if two != (type(batch) is tuple) or (two and len(batch) != 2):
            wanted = "a pair (x0, x1)" if two else "x1 alone, an array or another tree than a tuple"
            raise TypeError(f"Interpolate: batch must be {wanted} on this path.")
        num = p.check_batch("Interpolate: batch", batch)
        x0, x1 = jax.tree.map(jnp.asarray, batch) if two else (None, jax.tree.map(jnp.asarray, batch))
        if two and jax.tree.map(jnp.shape, x0) != jax.tree.map(jnp.shape, x1):
            raise TypeError("Interpolate: x0 and x1 must have one structure and one shape.")
        k_time, k_noise = jax.random.split(key)
        dtype = jnp.result_type(*jax.tree.leaves(x1))
        t = draw_times("Interpolate", k_time, self.times, self.interpolant, num, dtype)
        _checks.check_number("Interpolate: times", t, low=0, high=1)
        return InterpolateDrawn(x0, x1, t, normal_like(k_noise, x1))

    def value(self, model, drawn):
        """Return the mean of the quadratic losses."""
        each = self._one_sign(model, drawn)
        if self.antithetic:
            other = self._one_sign(model, drawn._replace(z=jax.tree.map(jnp.negative, drawn.z)))
            each = (each + other) / 2
        return p.finish(each)

    def _one_sign(self, model, drawn) -> jax.Array:
        x, pull = jax.vmap(self._row)(*drawn)
        found = p.call_like("Interpolate", model, self.batched, x, drawn.t)
        part = lambda f, g: jnp.sum(f * f) / 2 - jnp.sum(f * g)
        row = lambda f, g: jnp.stack(jax.tree.leaves(jax.tree.map(part, f, g))).sum() / size(f)
        return jax.vmap(row)(found, pull)

    def _row(self, x0, x1, t, z):
        one, path = jnp.ones_like(t), self.interpolant
        (a, da), (b, db), (g, dg) = (jax.jvp(f, (t,), (one,)) for f in (path.alpha, path.beta, path.gamma))
        x0 = x1 if x0 is None else x0
        mix = lambda c0, c1, c2: jax.tree.map(lambda u, v, w: (c0 * u + c1 * v + c2 * w).astype(w.dtype), x0, x1, z)
        pull = {"b": (da, db, dg), "v": (da, db, 0 * g), "eta": (0 * a, 0 * b, one), "s": (0 * a, 0 * b, -1 / g)}
        return mix(a, b, g), mix(*pull[self.field])
