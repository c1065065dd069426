"""Losses of adversarial adaptive sampling: a solution of an equation, and a density that seeks its residual."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp.loss import _protocol as p


class AdversarialDrawn(NamedTuple):
    """Hold what `AdversarialSampling` and `AdversarialDensity` draw.

    Args:
        u: points of the unit cube [n, d], spread evenly.
        edge: rows of the boundary [n, ...], or None.

    Example:
        >>> import jsamp as js
        >>> js.loss.AdversarialDrawn(u=0.5, edge=None).u
        0.5
    """

    u: Any
    edge: Any


@pytree
class AdversarialSampling(p.Called):
    """Train a solution of an equation on points that a density seeks out, where its residual is large.

    The solution minimises and the density maximises the mean of r(x)^2 over x from the density, a smoothness penalty
    kept against it (`AdversarialDensity`). This is the solution's side: the mean over rows of |residual(solution, x)|^2
    + edge_weight |edge(solution, row)|^2 with x = density.push(u), no gradient through the density. The density player
    maps evenly spread points to draws, so that the even law, a learned flow (`js.loss.box_flow`) and the exact answer
    on a grid (`js.loss.spectral_density`) are exchanged without another change.

    Args:
        residual: callable tree (solution, x [d]) -> number or vector that vanishes for a solution.
        edge: None, or a callable tree (solution, row) -> number or vector, for rows of the boundary.
        edge_weight: weight of its square, >= 0.

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: (solution, density), the density as on the protocol
        page. batch: points [n, d] spread evenly in the unit cube [0, 1)^d (random ones, or a lattice), which every draw
        shifts by one random vector round the cube; with `edge`, a pair (points, rows of the boundary), both [n, ...].

    Raises:
        TypeError: for a residual or an edge that cannot be called, a model that is not such a pair.
        ValueError: for points outside the unit cube or of another dimension than the density's.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.AdversarialSampling(lambda u, x: jax.grad(u)(x)[0] - 1.0)
        >>> even = js.loss.BoxGrid(jnp.ones((4,)), [-1.0], [1.0])
        >>> points = jax.random.uniform(jax.random.key(1), (8, 1))
        >>> float(loss(jax.random.key(0), (lambda x: 3.0 * x.sum(), even), points)[0])
        4.0

    Cost:
        One residual and its gradient for each point.

    References:
        Tang, Zhai, Wan and Yang, "Adversarial Adaptive Sampling: Unify PINN and Optimal Transport for the Approximation
        of PDEs", 2023, arXiv:2305.18702.
    """

    residual: Any = field(convert=_fields.callable_as("residual(solution, x)"))
    edge: Any = field(default=None, convert=_fields.callable_as("edge(solution, row)", optional=True))
    edge_weight: Any = 1.0
    player = 0

    def __post_init__(self):
        _checks.check_scalar("AdversarialSampling: edge_weight", self.edge_weight, low=0)

    def draw(self, key, batch):
        """Shift the points round the cube."""
        _checks.check_key(key, "AdversarialSampling")
        u, edge, _ = p.split_condition("AdversarialSampling: batch", batch)
        if (edge is None) != (self.edge is None):
            raise ValueError("AdversarialSampling: batch must be (points, boundary rows) with an edge, else points.")
        known = _checks.concrete(u) if jnp.ndim(u) == 2 else None
        if jnp.ndim(u) != 2 or (known is not None and not np.all((known >= 0) & (known <= 1))):
            raise ValueError("AdversarialSampling: points must be [n, d] in the unit cube; the density knows its box.")
        return AdversarialDrawn((u + jax.random.uniform(key, (1, u.shape[1]), u.dtype)) % 1, edge)

    def value(self, model, drawn):
        """Return the mean square residual over the density."""
        solution, density = _pair("AdversarialSampling", model, drawn)
        x = jax.lax.stop_gradient(jax.vmap(density.push)(drawn.u))
        inside = self.square(solution, x)
        if self.edge is None:
            return p.finish(inside)
        outside = jax.vmap(lambda row: _square(self.edge(solution, row)))(drawn.edge)
        total = inside + jnp.asarray(self.edge_weight, inside.dtype) * outside
        return p.finish(total, inside=jnp.mean(inside), edge=jnp.mean(outside))

    def square(self, solution, x):
        """Return the squared residual at points x [n, d]."""
        return jax.vmap(lambda point: _square(self.residual(solution, point)))(x)


@pytree
class AdversarialDensity(p.Called):
    """Train the density of `AdversarialSampling` to seek large residuals, as smooth as beta asks.

    With rho the density relative to the even law of the box, so that its mean is 1: minus the mean over the even law of
    r^2 rho - beta |grad rho|^2, estimated on draws x of the current density (their weights are in the slope) or on even
    ones. The paper penalises the density itself; its beta is ours times the volume of the box. Unrestricted, the
    optimum is 1 + q with -2 beta laplacian q = r^2 - mean r^2 and no slope at the faces.

    Args:
        sampling: the solution's `AdversarialSampling`; its residual and draws are used.
        beta: weight of the smoothness penalty, > 0, in units of r^2 times a squared length.
        relative: divide r^2 by its mean, so that beta, a squared length, need not follow the residual down (static).
        proposals: "density", draws of the density itself; "even", draws of the even law (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: (solution, density), the density a callable tree with
        floating arrays, such as `js.loss.box_flow`. batch: as in `AdversarialSampling`.

    Raises:
        TypeError: for something that is not an `AdversarialSampling`.
        ValueError: for a beta that is not positive, unknown proposals.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> sampling = js.loss.AdversarialSampling(lambda u, x: u(x))
        >>> loss = js.loss.AdversarialDensity(sampling, beta=0.1)
        >>> flow = js.loss.box_flow(jax.random.key(1), [-1.0], [1.0])
        >>> points = jax.random.uniform(jax.random.key(2), (8, 1))
        >>> float(loss(jax.random.key(0), (lambda x: 2.0, flow), points)[0])  # a fresh flow is even: no penalty
        -4.0

    Cost:
        One residual for each point, and the slope in the parameters of the density's slope in x.

    References:
        Tang, Zhai, Wan and Yang, "Adversarial Adaptive Sampling: Unify PINN and Optimal Transport for the Approximation
        of PDEs", 2023, arXiv:2305.18702.
    """

    sampling: Any
    beta: Any
    relative: bool = static(default=False, convert=_checks.check_flag)
    proposals: Literal["density", "even"] = static(default="density")
    player = 1

    def __post_init__(self):
        if not isinstance(self.sampling, AdversarialSampling):
            raise TypeError("AdversarialDensity: sampling must be the solution's js.loss.AdversarialSampling.")
        _checks.check_scalar("AdversarialDensity: beta", self.beta, low=0, open_low=True)
        _checks.check_choice("AdversarialDensity: proposals", self.proposals, ("density", "even"))

    def draw(self, key, batch):
        """Shift the points round the cube, as for the solution."""
        return self.sampling.draw(key, batch)

    def value(self, model, drawn):
        """Return minus what the density gains."""
        solution, density = _pair("AdversarialDensity", model, drawn)
        if self.proposals == "density":
            x = jax.lax.stop_gradient(jax.vmap(density.push)(drawn.u))
        else:
            low, high = (jnp.asarray(end, drawn.u.dtype) for end in (density.low, density.high))
            x = jax.vmap(lambda u: low + u * (high - low))(drawn.u)
        square = jax.lax.stop_gradient(self.sampling.square(solution, x))
        if self.relative:
            mean = jnp.mean(square)  # 0 where the equation is solved at every point
            square = square / jnp.where(mean > 0, mean, 1)
        log, slope = jax.vmap(jax.value_and_grad(lambda point: density(point)))(x)
        even = self.proposals == "even"
        weight = jnp.exp(log) if even else jnp.exp(log - jax.lax.stop_gradient(log))
        # |grad rho|^2 = rho^2 |grad log rho|^2, over the relative density of the proposals.
        rough = weight * jnp.exp(log) * jnp.sum(slope**2, axis=-1)
        each = jnp.asarray(self.beta, log.dtype) * rough - weight * square
        return p.finish(each, roughness=jnp.mean(rough), residual=jnp.mean(weight * square))


def _square(residual):
    return jnp.sum(jnp.square(residual))


def _pair(who, model, drawn):
    """The players, with a density that has the dimension of the points."""
    solution, density = p.players(who, model, "solution", "density")
    for name in ("push", "low", "high"):
        if not hasattr(density, name):
            raise TypeError(f"{who}: the density must have {name}; use js.loss.box_flow or js.loss.spectral_density.")
    if len(density.low) != drawn.u.shape[1]:
        raise ValueError(f"{who}: points have {drawn.u.shape[1]} coordinates, the density's box {len(density.low)}.")
    return solution, density
