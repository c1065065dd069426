"""Microcanonical Langevin Monte Carlo."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsamp._core import _fields, _tree
from jsamp._core._pytree import field, pytree, replace
from jsamp._core._types import LogDensity, Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._metric import pull, push

ENERGY_VARIANCE = 5e-4  # energy error per dimension that the tuned step size aims at


def _norm(tree):
    return jnp.sqrt(_tree.dot(tree, tree))


def unit(tree):
    """The direction of a tree, of length 1."""
    norm = _norm(tree)
    return jax.tree.map(lambda leaf: (leaf / norm).astype(leaf.dtype), tree)


def turn(u, grad, eps):
    """Rotate u towards a gradient over the distance eps: (u, what the kinetic energy changes by)."""
    # In powers of exp(-delta), so a steep gradient cannot overflow.
    d = _tree.size(u)
    size = _norm(grad)
    toward = jax.tree.map(lambda g: g / jnp.maximum(size, jnp.finfo(size.dtype).tiny), grad)
    delta = eps * size / (d - 1)
    zeta, align = jnp.exp(-delta), _tree.dot(u, toward)
    along = (1 - zeta) * (1 + zeta + align * (1 - zeta))
    new = k.like(unit(jax.tree.map(lambda u, e: along * e + 2 * zeta * u, u, toward)), u)
    # log of (cosh delta + align sinh delta): what the kinetic energy changes by, over d - 1.
    change = delta + jnp.log1p((align - 1) * (-jnp.expm1(-2 * delta)) / 2)
    return new, (d - 1) * change


@pytree
class MCLMC:
    """Move at constant speed with slight turning noise, one gradient per draw, unadjusted: microcanonical Langevin.

    The velocity u has unit length; it turns towards the gradient over half a step, the position drifts by
    `step_size` u, it turns again, and u + nu xi is renormalised with nu^2 = (exp(2 step_size / length) - 1) / d.
    Without a Metropolis step the bias is controlled by the energy error per dimension, `info.aux`: a variance of
    5e-4 d is customary. A step that meets a wall (a log-density that is not finite) is undone: the position stays, u
    is reversed, and `diverged` is set.

    Args:
        logdensity: log-density of one sample up to a constant.
        step_size: distance per step > 0, in whitened units.
        length: distance over which u decorrelates > 0; about sqrt(d) for a whitened target.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`.

    Raises:
        ValueError: for numbers that are not positive, a metric that does not fit x, or fewer than two dimensions.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.MCLMC(lambda x: -jnp.sum(x**2) / 2, step_size=0.5, length=2.0)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(3), 10).x.shape
        (10, 3)

    Cost:
        One gradient per step; memory one direction.

    References:
        Robnik, De Luca, Silverstein and Seljak, "Microcanonical Hamiltonian Monte Carlo", 2023, arXiv:2212.08549.
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    length: Scalar = field(default=1.0, convert=k.positive)
    metric: Tree = field(default=None, convert=k.metric)

    caches = "gradient"
    accept_target = 0.5
    tunes_length = True

    def init(self, x, key=None):
        """Start at x; the direction is random with a key, along the gradient without."""
        x = k.begin(self, x, metropolis=False)
        if _tree.size(x) < 2:
            raise ValueError("MCLMC: the target needs at least two dimensions, x has one. Use HMC.")
        point = k.evaluate(self, x)
        if key is None:
            # A vector of ones breaks the tie where the gradient vanishes.
            u = jax.tree.map(lambda g: g + 1e-3, pull(self.metric, point.grad))
        else:
            u = _tree.normal_like(jax.random.fold_in(key, 0), x)
        return k.State(x, point, unit(u))

    def before_tuning(self, x):
        """Set the length that suits a whitened target like x, sqrt(d)."""
        return replace(self, length=jnp.sqrt(jnp.asarray(_tree.size(x), k.dtype_of(x))))

    def accept_statistic(self, info, x):
        """Return one half where the squared energy error is 5e-4 per dimension; nothing at a wall."""
        return jnp.where(info.diverged, 0, 1 / (1 + info.aux**2 / (ENERGY_VARIANCE * _tree.size(x))))

    def step(self, key, state):
        """Take one step; `info.aux` is its energy error."""
        x, point, u = state
        h = self.step_size
        v, first = turn(u, pull(self.metric, point.grad), h / 2)
        y = k.axpy(h, push(self.metric, v), x)
        end = k.evaluate(self, y)
        v, second = turn(v, pull(self.metric, end.grad), h / 2)
        error = first + second - (end.logdensity - point.logdensity)
        bad = ~jnp.isfinite(error) | k.astray(end)
        back = k.State(x, point, jax.tree.map(jnp.negative, u))
        x, point, u = _tree.where(bad, back, k.State(y, end, v))
        nu = jnp.sqrt(jnp.expm1(2 * h / self.length) / _tree.size(x))
        u = unit(k.axpy(nu, _tree.normal_like(key, x), u))
        return k.State(x, point, u), k.info(x, diverged=bad, aux=jnp.asarray(error, k.dtype_of(x)))
