"""Langevin proposals on integers, made of the gradient of the log-density continued to real numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields, _tree
from jsamp._core._checks import check_count, check_flag
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import LogDensity, Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.select import draw_categorical


def _bound(name, value):
    """The conversion of a bound: integers, or infinity."""
    for leaf in jax.tree.leaves(value) or [None]:
        is_array = isinstance(leaf, (jax.Array, np.ndarray)) and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        if not is_array and (not isinstance(leaf, (int, float, np.number)) or isinstance(leaf, bool)):
            raise TypeError(f"{name} must be a number or a tree like x, got {type(leaf).__name__}.")
        known = _checks.concrete(leaf)
        if known is not None and (known.dtype.kind not in "iuf" or np.isnan(known).any()):
            raise ValueError(f"{name} must hold numbers, infinity allowed, got {value!r}.")
    return jax.tree.map(k.as_float, value)


@pytree
class DiscreteLangevin:
    """Move integers by gradients: discrete Langevin with an accept step, for binary, counting and ordinal variables.

    All coordinates propose at once and independently: y_i = x_i + c with c in -reach..reach and probability
    proportional to exp(g_i c / 2 - c^2 / (2 step_size)), g the gradient of the log-density at the real number x,
    inside low..high; accepted with log ratio l(y) - l(x) + log q(x | y) - log q(y | x). The log-density gets floating
    copies of the integers and must be written for them (products, sums, `lgamma`; not indexing). A large step size
    changes many coordinates at once. Mixed targets: `compose(on(DiscreteLangevin(f), "z"), on(MALA(f), "theta"))`.

    Position: an array or tree of integers.

    Args:
        logdensity: log-density of one sample up to a constant, of floating copies of x.
        step_size: > 0, in squares of the unit between neighbouring values.
        low: smallest value, a number or a tree like x; -inf for none.
        high: largest value; inf for none.
        reach: longest move of a coordinate (static). 1 is all that a binary variable needs.
        informed: False takes no gradient (static): a random walk, for log-densities that have none.

    Raises:
        TypeError: for a position that is not made of integers.
        ValueError: for a position outside low..high, a step size that is not positive, or a reach below 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.DiscreteLangevin(lambda x: 2 * x[1:] @ x[:-1] - x.sum(), step_size=0.5)
        >>> draws = js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(6, int), 10).x
        >>> draws.shape, bool(jnp.all((draws == 0) | (draws == 1)))
        ((10, 6), True)

    Cost:
        One gradient (a log-density, when not informed) and d (2 reach + 1) exponentials per step.

    References:
        Zhang, Liu and Liu, "A Langevin-like sampler for discrete distributions", 2022, arXiv:2206.09914.
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    step_size: Scalar = field(default=0.2, convert=k.positive)
    low: Tree = field(default=0.0, convert=_bound)
    high: Tree = field(default=1.0, convert=_bound)
    reach: int = static(default=1, convert=check_count)
    informed: bool = static(default=True, convert=check_flag)

    accept_target = 0.574
    time_power = 1.0

    def init(self, x, key=None):
        """Start at x."""
        k.check_numbers(self)
        x = _integers("DiscreteLangevin: x", x)
        low, high = (_like(f"DiscreteLangevin: {name}", getattr(self, name), x) for name in ("low", "high"))
        outside = jax.tree.map(lambda x, low, high: jnp.any((x < low) | (x > high)), x, low, high)
        known = [_checks.concrete(leaf) for leaf in jax.tree.leaves(outside)]
        if any(leaf is not None and leaf.any() for leaf in known):
            raise ValueError("DiscreteLangevin: x lies outside low..high. Start inside, or move the bounds.")
        return k.State(x, self._point(x), None)

    def _point(self, x):
        """The target at floating copies of x; the gradient counts as zero where it is not finite."""
        real = jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), x)
        if not self.informed:
            return k.Point(k.value(self.logdensity, real), _tree.zeros_like(real))
        value, grad = k.evaluate_both(self.logdensity, real)
        return k.Point(value, jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), grad))

    def _log_moves(self, x, grad):
        """Log-probabilities of the moves -reach..reach of every coordinate, a tree of [..., 2 reach + 1]."""
        moves = jnp.arange(-self.reach, self.reach + 1)

        def one(x, g, low, high):
            c = moves.reshape((1,) * x.ndim + (-1,))
            inside = (x[..., None] + c >= low[..., None]) & (x[..., None] + c <= high[..., None])
            logits = g[..., None] * c / 2 - c**2 / (2 * jnp.asarray(self.step_size, g.dtype))
            return jax.nn.log_softmax(jnp.where(inside, logits, -jnp.inf))

        return jax.tree.map(one, x, grad, _like("low", self.low, x), _like("high", self.high, x))

    def step(self, key, state):
        """Propose new values of all coordinates, and accept or reject them."""
        x, point, _ = state
        choose, decide = jax.random.split(key)
        forward = self._log_moves(x, point.grad)
        leaves, structure = jax.tree.flatten(forward)
        picks = [
            draw_categorical(at, leaf) for at, leaf in zip(jax.random.split(choose, len(leaves)), leaves, strict=True)
        ]
        pick = jax.tree.unflatten(structure, picks)
        y = jax.tree.map(lambda x, c: x + (c - self.reach).astype(x.dtype), x, pick)
        end = self._point(y)
        back = jax.tree.map(lambda c: 2 * self.reach - c, pick)
        log_ratio = end.logdensity - point.logdensity
        log_ratio += _log_chance(self._log_moves(y, end.grad), back) - _log_chance(forward, pick)
        log_uniform = k.log_uniform(decide, log_ratio.dtype)
        state, accept, bad = k.accept_step(log_uniform, log_ratio, k.State(y, end, None), state)
        return state, k.info(point.grad, accept=accept, diverged=bad)


def _integers(name, x):
    """The position as arrays of integers, or a refusal."""
    leaves, structure = jax.tree.flatten(x)
    for leaf in leaves:
        dtype = jnp.dtype(int) if isinstance(leaf, int) and not isinstance(leaf, bool) else getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.signedinteger):
            got = type(leaf).__name__ if dtype is None else dtype
            raise TypeError(f"{name} must hold signed integers, got {got}. Pass x.astype(int).")
        if np.size(leaf) == 0:
            raise ValueError(f"{name} has an empty leaf; there is nothing to sample in it. Drop it.")
    if not leaves:
        raise TypeError(f"{name} must hold integers, got {x!r}.")
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])


def _like(name, bound, x):
    """A bound spread over x."""
    if jax.tree.structure(bound) == jax.tree.structure(0) and jnp.shape(bound) == ():
        return jax.tree.map(lambda leaf: jnp.broadcast_to(bound, leaf.shape), x)
    if jax.tree.structure(bound) != jax.tree.structure(x):
        raise ValueError(f"{name} must be a number or a tree like x.")
    for b, leaf in zip(jax.tree.leaves(bound), jax.tree.leaves(x), strict=True):
        if jnp.shape(b) != leaf.shape:
            raise ValueError(f"{name} must have the shapes of x, got {jnp.shape(b)} for {leaf.shape}.")
    return jax.tree.map(jnp.asarray, bound)


def _log_chance(log_moves, pick):
    """The log-probability of the moves that were picked."""
    chosen = jax.tree.map(lambda p, c: jnp.sum(jnp.take_along_axis(p, c[..., None], -1)), log_moves, pick)
    return sum(jax.tree.leaves(chosen))
