"""The absorbing process: tokens that turn into masks, and the times at which they do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_key, check_number, is_traced, shown
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Key
from jsamp.select._bits import uniform
from jsamp.tokens._protocol import check_holds, check_tokens


def _prepare(value: Any) -> tuple[Any, Any]:
    """Namespace and number: float64 on the host, the value's own precision on a device or in a trace."""
    if isinstance(value, jax.Array) or is_traced(value):
        value = jnp.asarray(value)
        return jnp, value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)
    return np, np.asarray(value, np.float64)[()]


@pytree
class Linear:
    """Alpha falls linearly: alpha = 1 - rate t. The log-linear noise of published models has rate 0.999."""

    rate: Any = 1.0

    def __call__(self, t):
        """P(clean) at time t."""
        return 1 - self.mask_prob(t)

    def mask_prob(self, t):
        """P(mask) at time t."""
        _, t = _prepare(t)
        return self.rate * t

    def time(self, mask_prob):
        """Find the time at which P(mask) has this value."""
        _, mask_prob = _prepare(mask_prob)
        return mask_prob / self.rate


@pytree
class Cosine:
    """Alpha = 1 - sin(pi t / 2): slow at the masked end, where few tokens are known."""

    def __call__(self, t):
        """P(clean) at time t."""
        return 1 - self.mask_prob(t)

    def mask_prob(self, t):
        """P(mask) at time t."""
        xp, t = _prepare(t)
        return xp.sin(t * (np.pi / 2))

    def time(self, mask_prob):
        """Find the time at which P(mask) has this value."""
        xp, mask_prob = _prepare(mask_prob)
        return xp.arcsin(mask_prob) * (2 / np.pi)


@pytree
class Given:
    """A user's alpha; its inverse by bisection."""

    function: Any

    def __call__(self, t):
        """P(clean) at time t."""
        xp, t = _prepare(t)
        out = self.function(jnp.asarray(t, jnp.result_type(float)) if xp is np else t)
        return np.asarray(out, np.float64)[()] if xp is np and not is_traced(out) else out

    def mask_prob(self, t):
        """P(mask) at time t."""
        own = getattr(self.function, "mask_prob", None)
        return 1 - self(t) if own is None else own(t)

    def time(self, mask_prob):
        """Find the time at which P(mask) has this value."""
        own = getattr(self.function, "time", None)
        if own is not None:
            return own(mask_prob)
        xp, mask_prob = _prepare(mask_prob)
        low, high = xp.zeros_like(mask_prob), xp.ones_like(mask_prob)
        for _ in range(40):
            middle = (low + high) / 2
            later = self.mask_prob(middle) < mask_prob
            low, high = xp.where(later, middle, low), xp.where(later, high, middle)
        return (low + high) / 2


FORMS = {"linear": Linear(), "loglinear": Linear(0.999), "cosine": Cosine()}


def _as_alpha(name: str, alpha: Any) -> Any:
    if isinstance(alpha, str):
        if alpha not in FORMS:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, FORMS))}, or a callable; got {alpha!r}.")
        return FORMS[alpha]
    if isinstance(alpha, Linear | Cosine | Given):
        return alpha
    given = Given(as_tree(name, alpha, "alpha(t)"))
    values = given(np.linspace(0, 1, 65)) if not is_traced(*jax.tree.leaves(given)) else None
    if values is not None and np.shape(values) != (65,):
        raise ValueError(f"{name} must act on every time of an array; for shape (65,) it gave {np.shape(values)}.")
    if values is not None and not is_traced(values):
        if not np.all(np.isfinite(values)) or np.any(np.diff(values) > 1e-6) or values[0] <= values[-1]:
            raise ValueError(f"{name} must fall as t grows from 0 to 1; at 0, 1/2, 1 it is {values[[0, 32, 64]]}.")
        if abs(values[0] - 1) > 1e-3 or values[-1] < -1e-6:
            raise ValueError(f"{name} must be 1 at t = 0 and >= 0 at t = 1; got {values[0]:g} and {values[-1]:g}.")
    return given


def check_grid(name: str, grid: Any) -> Any:
    """Return a grid of decreasing times in [0, 1], float64 on the host, or refuse it."""
    if not isinstance(grid, (list, tuple, np.ndarray, jax.Array)):
        raise TypeError(
            f"{name} must be an array of decreasing times [n + 1], got {shown(grid)}. For n equal steps pass "
            f"np.linspace(1, 0, n + 1)."
        )
    if is_traced(grid):
        return jnp.asarray(grid)
    check_number(name, grid, low=0, high=1)
    grid = np.asarray(grid, np.float64)
    if grid.ndim != 1 or grid.size < 2:
        raise ValueError(f"{name} must hold at least two times [n + 1], got shape {grid.shape}.")
    rise = np.flatnonzero(np.diff(grid) >= 0)
    if rise.size:
        i = int(rise[0])
        raise ValueError(
            f"{name} must decrease; got {grid[i]:g} then {grid[i + 1]:g} at {i}. Reverse it: time runs from 1 to 0."
        )
    return grid


@pytree
class Masked:
    """Mask a text: the absorbing process at whose time t each site is clean with probability alpha(t), else a mask.

    `process.alpha(t)` falls from 1 at t = 0. "linear" is 1 - t; "loglinear" is 1 - 0.999 t, the log-linear noise
    -log alpha of published models; "cosine" is 1 - sin(pi t / 2). A callable is inverted by bisection.

    Args:
        mask: id of the mask, outside the model's vocabulary (or excluded from it, see `js.tokens.exclude`), static.
        alpha: "linear", "loglinear", "cosine", or a callable t -> P(clean) that acts on arrays.

    Raises:
        ValueError: for a negative mask id, an unknown name, or an alpha that does not fall from 1.
        TypeError: for a mask that is not an int.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> process = js.tokens.Masked(mask=5, alpha="cosine")
        >>> round(float(process.alpha_inverse(process.alpha(0.3))), 6)
        0.3
        >>> process.corrupt(jax.random.key(0), jnp.array([0, 1, 2, 3, 4]), 1.0).tolist()
        [5, 5, 5, 5, 5]

    Cost:
        A few operations for each time; `corrupt` draws one uniform for each site, `rates` takes a softmax of logits.

    References:
        Sahoo et al., "Simple and Effective Masked Diffusion Language Models", 2024, arXiv:2406.07524. Shi et al.,
        "Simplified and Generalized Masked Diffusion for Discrete Data", 2024, arXiv:2406.04329.
    """

    mask: int = static(convert=_fields.count(0))
    alpha: Any = field(default="linear", convert=_as_alpha)

    def mask_prob(self, t: Any) -> Any:
        """P(mask) = 1 - alpha(t), with its digits near t = 0."""
        return self.alpha.mask_prob(t)

    def time(self, mask_prob: Any) -> Any:
        """Find the time at which P(mask) has this value."""
        return self.alpha.time(mask_prob)

    def alpha_inverse(self, alpha: Any) -> Any:
        """Find the time at which P(clean) has this value."""
        _, alpha = _prepare(alpha)
        return self.alpha.time(1 - alpha)

    def weight(self, t: Any) -> Any:
        """Give the rate -alpha'(t) / (1 - alpha(t)) at which a mask turns into its token: the weight of the NELBO."""
        t = jnp.asarray(t, jnp.result_type(float, t))
        mask_prob, slope = jax.jvp(self.mask_prob, (t,), (jnp.ones_like(t),))
        return slope / mask_prob

    def corrupt(self, key: Key, x: Any, t: Any) -> jax.Array:
        """Turn each site of x into a mask with probability 1 - alpha(t), by 64 random bits.

        Args:
            key: one key.
            x: integer tokens, any shape.
            t: time, a scalar or an array that broadcasts against x.

        Returns:
            Tokens of x's shape and dtype.
        """
        check_key(key, "Masked.corrupt")
        check_number("Masked.corrupt: t", t, low=0, high=1)
        x = check_tokens("Masked.corrupt: x", x, tuple(range(9)))
        check_holds("Masked.corrupt: x", x, self.mask)
        times = jnp.shape(t)
        if len(times) > x.ndim or any(n not in (1, m) for n, m in zip(times[::-1], x.shape[::-1], strict=False)):
            raise ValueError(f"Masked.corrupt: t must broadcast against x {x.shape}, got shape {times}.")
        prob = jnp.asarray(self.mask_prob(t), jnp.float32)
        return jnp.where(uniform(key, x.shape) < prob, self.mask, x).astype(x.dtype)

    def rates(self, x: Any, t: Any, logits: Any) -> jax.Array:
        """Rates [L, V] at which masks turn into tokens in reverse time, for `js.tokens.tau_leap`."""
        rate = self.weight(t) * jax.nn.softmax(logits, -1)
        return jnp.where((x == self.mask)[:, None], rate, 0)
