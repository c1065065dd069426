"""Microcanonical Langevin Monte Carlo."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._pytree import pytree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._metric import check_metric, pull, push


def _norm(tree):
    return jnp.sqrt(_tree.dot(tree, tree))


def _unit(tree):
    norm = _norm(tree)
    return jax.tree.map(lambda leaf: leaf / norm, tree)


def _turn(u, grad, eps):
    # Rotate u towards the gradient; in powers of exp(-delta), so a steep gradient cannot overflow.
    d = _tree.size(u)
    size = _norm(grad)
    toward = jax.tree.map(lambda g: g / jnp.maximum(size, jnp.finfo(size.dtype).tiny), grad)
    delta = eps * size / (d - 1)
    zeta, align = jnp.exp(-delta), _tree.dot(u, toward)
    along = (1 - zeta) * (1 + zeta + align * (1 - zeta))
    new = _unit(jax.tree.map(lambda u, e: along * e + 2 * zeta * u, u, toward))
    # log of (cosh delta + align sinh delta): what the kinetic energy changes by, over d - 1.
    change = delta + jnp.log1p((align - 1) * (-jnp.expm1(-2 * delta)) / 2)
    return new, (d - 1) * change


@pytree
class MCLMC:
    """Microcanonical Langevin: constant-speed motion with slight turning noise, one gradient per draw, no rejection.

    The velocity u has unit length; it turns towards the gradient over half a step, the position drifts by
    `step_size` u, it turns again, and u + nu xi is renormalised with nu^2 = (exp(2 step_size / length) - 1) / d.
    Without a Metropolis step the bias is controlled by the energy error per dimension, `info.aux`: a variance of
    5e-4 d is customary.

    Args:
        logdensity: log-density of one sample up to a constant.
        step_size: distance per step > 0, in whitened units.
        length: distance over which u decorrelates > 0; about sqrt(d) for a whitened target.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`.

    Raises:
        ValueError: for numbers that are not positive, a metric that does not fit x, or fewer than two dimensions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.MCLMC(lambda x: -jnp.sum(x**2) / 2, step_size=0.5, length=2.0)
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 10).x.shape
        (10, 3)

    Cost:
        One gradient per step; memory one direction.

    References:
        Robnik, De Luca, Silverstein and Seljak, "Microcanonical Hamiltonian Monte Carlo", 2023, arXiv:2212.08549.
    """

    logdensity: Any
    step_size: Any = 0.1
    length: Any = 1.0
    metric: Any = None

    def __post_init__(self):
        k.prepare(self, positive=("step_size", "length"))
        check_metric("MCLMC", self.metric)

    def init(self, x, key=None):
        """The state at x; the direction is random with a key, along the gradient without."""
        x = k.position("MCLMC", x, metropolis=False)
        if _tree.size(x) < 2:
            raise ValueError("MCLMC: the target needs at least two dimensions, x has one. Use HMC.")
        check_metric("MCLMC", self.metric, x)
        point = k.evaluate(self, x)
        if key is None:
            # A vector of ones breaks the tie where the gradient vanishes.
            u = jax.tree.map(lambda g: g + 1e-3, pull(self.metric, point.grad))
        else:
            u = _tree.normal_like(jax.random.fold_in(key, 0), x)
        return k.State(x, point, _unit(u))

    def step(self, key, state):
        """One step; `info.aux` is its energy error."""
        x, point, u = state
        h = self.step_size
        u, first = _turn(u, pull(self.metric, point.grad), h / 2)
        x = k.like(jax.tree.map(lambda x, v: x + h * v, x, push(self.metric, u)), x)
        end = k.evaluate(self, x)
        u, second = _turn(u, pull(self.metric, end.grad), h / 2)
        error = first + second - (end.logdensity - point.logdensity)
        nu = jnp.sqrt(jnp.expm1(2 * h / self.length) / _tree.size(x))
        u = _unit(jax.tree.map(lambda u, n: u + nu * n, u, _tree.normal_like(key, x)))
        bad = ~jnp.isfinite(error)
        return k.State(x, end, k.like(u, x)), k.info(x, diverged=bad, aux=error)
