"""Affine-invariant ensemble moves: walkers that propose along the lines through each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsamp._core import _fields, _tree
from jsamp._core._pytree import field, pytree
from jsamp._core._types import LogDensity, Scalar
from jsamp.mcmc import _kernel as k


@pytree
class Stretch:
    """Move an ensemble of walkers by stretches: no gradient and no metric, and no matter how the target is scaled.

    Each walker x of one half draws a partner w from the other half and proposes y = w + z (x - w), z with density
    proportional to 1 / sqrt(z) on [1 / scale, scale]; it is accepted with log ratio (d - 1) log z + l(y) - l(x). Then
    the other half moves. The draws are those of the affinely transformed target, transformed. For a few dimensions
    (say below 20); walkers are not independent chains.

    Position: the walkers, an array or tree with a leading axis of an even number W >= max(4, 2 d).

    Args:
        logdensity: log-density of one walker up to a constant; no gradient is taken.
        scale: a > 1, the longest stretch.

    Raises:
        TypeError: for a position below float32.
        ValueError: for a scale that is not above 1, an odd number or too few walkers, or walkers that are all equal.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> walkers = jax.random.normal(jax.random.key(1), (12, 3))
        >>> kernel = js.mcmc.Stretch(lambda x: -jnp.sum(x**2) / 2)
        >>> js.chain(jax.random.key(0), kernel, walkers, 10).x.shape
        (10, 12, 3)

    Cost:
        W log-densities per step.

    References:
        Goodman and Weare, "Ensemble samplers with affine invariance", 2010; Foreman-Mackey et al., "emcee: the MCMC
        hammer", 2013, arXiv:1202.3665 (two halves).
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    scale: Scalar = field(default=2.0, convert=k.between(low=1, open_low=True))

    def init(self, x, key=None):
        """Start the walkers at x; the cache holds their log-densities."""
        k.check_numbers(self)
        x = k.position("Stretch", x)
        num = k.leading_axis("Stretch: x", "walkers", x)
        least = max(4, 2 * (_tree.size(x) // num))
        if num % 2 or num < least:
            raise ValueError(f"Stretch: x needs an even number of walkers, {least} or more; got {num}.")
        k.copies("Stretch", "walkers", x)
        return k.State(x, self._values(x), None)

    def _values(self, x):
        return k.Point(jax.vmap(lambda x: k.value(self.logdensity, x))(x), None)

    def step(self, key, state):
        """Move one half of the walkers against the other, then the other."""
        first, second = jax.random.split(key)
        num = state.cache.logdensity.shape[0] // 2
        halves = [jax.tree.map(lambda leaf, at=at: leaf[at], state) for at in (slice(num), slice(num, None))]
        a, accept_a, bad_a = self._half(first, halves[0], halves[1].position)
        b, accept_b, bad_b = self._half(second, halves[1], a.position)
        state = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), a, b)
        accept = jnp.mean(jnp.concatenate([accept_a, accept_b]))
        return state, k.info(state.position, accept=accept, nfe=2 * num, diverged=bad_a | bad_b)

    def _half(self, key, state, others):
        """Stretch the walkers of one half along the lines to walkers of the other."""
        pick, draw, decide = jax.random.split(key, 3)
        x, now, _ = state
        num, dtype = now.logdensity.shape[0], now.logdensity.dtype
        partner = jax.random.randint(pick, (num,), 0, num)
        root = jnp.sqrt(jnp.asarray(self.scale, dtype))
        z = (1 / root + jax.random.uniform(draw, (num,), dtype) * (root - 1 / root)) ** 2

        def stretched(x, w):
            w = w[partner]
            return (w + z.reshape(num, *[1] * (x.ndim - 1)) * (x - w)).astype(x.dtype)

        y = jax.tree.map(stretched, x, others)
        new = self._values(y)
        dims = _tree.size(x) // num
        log_ratio = (dims - 1) * jnp.log(z) + new.logdensity - now.logdensity
        log_uniform = jnp.log1p(-jax.random.uniform(decide, (num,), dtype))
        moved, accept, bad = jax.vmap(k.accept_step)(log_uniform, log_ratio, k.State(y, new, None), state)
        return moved, accept, jnp.any(bad)
