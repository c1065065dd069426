"""Stochastic interpolants: paths between two laws, with noise between."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_choice, check_number, concrete
from jsamp._core._pytree import pytree, static
from jsamp.noise._schedule import prepare

PATHS = ("linear", "trigonometric", "encoding-decoding", "one-sided", "one-sided-trigonometric", "mirror")
PEAKS = {"brownian": 0.5, "quadratic": 0.25, "sine": 1.0}
"""Largest value of each kind of gamma with scale 1."""


@pytree
class Interpolant:
    """Join two laws by x_t = alpha(t) x0 + beta(t) x1 + gamma(t) z with z standard normal, t from 0 to 1.

    linear: 1 - t, t. trigonometric: sqrt(1 - gamma^2) times cos, sin of pi t / 2. encoding-decoding: cos^2(pi t) on the
    first and second half. One-sided paths start at the noise itself: alpha = 0, gamma = 1 - t, beta = t, or cos, sin of
    pi t / 2. mirror: x1 + gamma z. gamma is scale sqrt(t (1 - t)) ("brownian"), scale t (1 - t) ("quadratic") or scale
    sin^2(pi t) ("sine"). gamma gamma' has its own formula: it is finite where gamma' is not.

    Args:
        path: one of the six names (static).
        noise: "brownian", "quadratic", "sine" or "none"; None is "sine" for encoding-decoding, else "brownian". One-
            sided paths have their own, and take None (static).
        scale: factor of gamma, > 0; sqrt(2) in the paper's first example, 1 here.

    Raises:
        ValueError: for an unknown name, noise that does not suit the path, or a trigonometric path with gamma >= 1.

    Example:
        >>> import jsamp as js
        >>> path = js.noise.Interpolant("linear")
        >>> float(path.alpha(0.25)), float(path.beta(0.25)), round(float(path.gamma(0.5)), 3)
        (0.75, 0.25, 0.5)

    Cost:
        A few elementwise operations for each time.

    References:
        Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        2023, arXiv:2303.08797.
    """

    path: str = static(default="linear")
    noise: Any = static(default=None)
    scale: Any = 1.0

    def __post_init__(self):
        check_choice("Interpolant: path", self.path, PATHS)
        if self.noise is not None:
            check_choice("Interpolant: noise", self.noise, (*PEAKS, "none"))
        if self.path.startswith("one-sided") and self.noise is not None:
            raise ValueError(f"Interpolant: {self.path} starts at its noise; leave noise=None, got {self.noise!r}.")
        if self.path in ("encoding-decoding", "mirror") and self.noise == "none":
            raise ValueError(f"Interpolant: {self.path} is nothing without noise; choose another noise.")
        check_number("Interpolant: scale", self.scale, low=0, open_low=True)
        known, peak = concrete(self.scale), PEAKS.get(self._kind(), 0.0)
        if self.path == "trigonometric" and known is not None and np.any(known * peak >= 1):
            raise ValueError(
                f"Interpolant: trigonometric paths need gamma < 1, got scale {self.scale} for {self._kind()}. "
                f"Take a scale below {1 / peak:g}."
            )

    def _kind(self):
        return self.noise or ("sine" if self.path == "encoding-decoding" else "brownian")

    @property
    def two_sided(self) -> bool:
        """Whether the path starts at data of its own: alpha is not zero everywhere."""
        return self.path in ("linear", "trigonometric", "encoding-decoding")

    def alpha(self, t):
        """Compute the coefficient of x0."""
        xp, t = prepare(t)
        if not self.two_sided:
            return xp.zeros_like(t)[()]
        if self.path == "linear":
            return 1 - t
        if self.path == "trigonometric":
            return xp.sqrt(1 - self._variance(t)) * xp.cos(np.pi / 2 * t)
        return xp.where(t <= 0.5, xp.cos(np.pi * t) ** 2, 0 * t)[()]

    def beta(self, t):
        """Compute the coefficient of x1."""
        xp, t = prepare(t)
        if self.path in ("linear", "one-sided"):
            return t
        if self.path == "trigonometric":
            return xp.sqrt(1 - self._variance(t)) * xp.sin(np.pi / 2 * t)
        if self.path == "one-sided-trigonometric":
            return xp.sin(np.pi / 2 * t)
        if self.path == "mirror":
            return xp.ones_like(t)[()]
        return xp.where(t > 0.5, xp.cos(np.pi * t) ** 2, 0 * t)[()]

    def gamma(self, t):
        """Compute the coefficient of the noise."""
        xp, t, scale = prepare(t, self.scale)
        if self.path == "one-sided":
            return 1 - t
        if self.path == "one-sided-trigonometric":
            return xp.cos(np.pi / 2 * t)
        kind = self._kind()
        if kind == "none":
            return 0 * t
        if kind == "brownian":
            inside = t * (1 - t)
            if xp is np:
                return scale * np.sqrt(inside)
            # The gradient at both ends is infinite; 0 there keeps traced losses finite.
            return scale * jnp.where(inside > 0, jnp.sqrt(jnp.where(inside > 0, inside, 1)), 0)
        return scale * (t * (1 - t) if kind == "quadratic" else xp.sin(np.pi * t) ** 2)

    def _variance(self, t):
        """Gamma squared, whose slope is finite where that of gamma is not."""
        _, t, scale = prepare(t, self.scale)
        return scale**2 * t * (1 - t) if self._kind() == "brownian" else self.gamma(t) ** 2

    def gamma_gamma_dot(self, t):
        """Compute the product of gamma and its derivative, finite at both ends."""
        xp, t, scale = prepare(t, self.scale)
        if self.path == "one-sided":
            return t - 1
        if self.path == "one-sided-trigonometric":
            return -np.pi / 4 * xp.sin(np.pi * t)
        kind = self._kind()
        if kind == "none":
            return 0 * t
        if kind == "brownian":
            return scale**2 * (1 - 2 * t) / 2
        if kind == "quadratic":
            return scale**2 * t * (1 - t) * (1 - 2 * t)
        return scale**2 * np.pi * xp.sin(np.pi * t) ** 2 * xp.sin(2 * np.pi * t)
