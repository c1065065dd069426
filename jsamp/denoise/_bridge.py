"""Bridges between two laws: what a plan of an interpolant asks, from networks or exactly between Gaussian mixtures."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_floating
from jsamp._core._like import dtype_of, match
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Model, Tree
from jsamp.denoise import _fields
from jsamp.denoise._algebra import as_time
from jsamp.denoise._analytic import GaussianMixture, _floating
from jsamp.denoise._protocol import Prediction


def _check_interpolant(name: str, value: Any) -> None:
    missing = [m for m in ("alpha", "beta", "gamma", "gamma_gamma_dot") if not callable(getattr(value, m, None))]
    if missing or isinstance(value, type):
        raise TypeError(
            f"{name} must have alpha(t), beta(t), gamma(t) and gamma_gamma_dot(t), as js.noise.Interpolant()."
        )


@pytree
class Bridge:
    """Answer the plans of `js.solve.interpolant_ode` and `interpolant_sde` by networks trained on an interpolant.

    The prediction's x0 is the velocity b = E[dx/dt | x], its eps the noise E[z | x] = -gamma s.

    Args:
        interpolant: as `js.noise.Interpolant`.
        velocity: callable tree (x, t) -> b, like x.
        score: callable tree (x, t) -> s, like x, or None: an SDE plan then gives NaN, an ODE plan does not ask.

    Raises:
        TypeError: for something that is not callable, or no interpolant.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> path = js.noise.Interpolant("linear")
        >>> bridge = js.denoise.Bridge(path, lambda x, t: jnp.ones_like(x))
        >>> plan = js.solve.interpolant_ode(path, [0.0, 0.5, 1.0])
        >>> js.sample(None, bridge, jnp.zeros(2), plan).x.tolist()
        [1.0, 1.0]

    Cost:
        One call of the velocity, and one of the score if there is one.

    References:
        Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        2023, arXiv:2303.08797.
    """

    interpolant: Any = field(check=_check_interpolant)
    velocity: Model = field(convert=_fields.callable_as("velocity(x, t)"))
    score: Model | None = field(default=None, convert=_fields.callable_as("score(x, t)", optional=True))

    def __call__(self, x, t, *, key=None):
        """Return b and E[z | x]."""
        check_floating("Bridge: x", x)
        t = as_time(t, x)
        velocity = match("Bridge: velocity", self.velocity(x, t), x)
        if self.score is None:
            return Prediction(velocity, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), x))
        gamma = jnp.asarray(self.interpolant.gamma(t), dtype_of(x))
        score = match("Bridge: score", self.score(x, t), x)
        return Prediction(velocity, jax.tree.map(lambda s: -gamma.astype(s.dtype) * s, score))


@pytree
class BridgeMixture:
    """Give the exact velocity and score of an interpolant between two mixtures of Gaussians, for tests and teaching.

    x_t is a mixture over pairs of components, N(m, C), m = alpha mu + beta nu and C = alpha^2 A + beta^2 B + gamma^2 I.
    With w the posterior probability of a pair and pull = C^-1 (x - m): s = -sum w pull, v = E[d/dt (alpha x0 + beta
    x1) | x] = sum w (alpha' mu + beta' nu + (alpha alpha' A + beta beta' B) pull), b = v - gamma gamma' s, finite at
    both ends.

    Args:
        interpolant: as `js.noise.Interpolant`; its x0 and x1 are independent.
        start: `GaussianMixture` of x0, whose schedule is not used; None on a path that starts at its noise.
        end: `GaussianMixture` of x1, of as many dimensions.

    Returns:
        Called with x [..., d]: `Prediction(x0=b, eps=E[z | x])`, as `Bridge`.

    Raises:
        TypeError: for something that is no interpolant or no mixture.
        ValueError: for a start where the path has none, none where it has one, or other dimensions.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = lambda mean: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[mean]], stds=[0.5])
        >>> bridge = js.denoise.BridgeMixture(js.noise.Interpolant("linear"), law(-1.0), law(1.0))
        >>> bridge(jnp.zeros(1), 0.5).x0.tolist()
        [2.0]

    Cost:
        O(k l d^3) for each point, for k and l components.

    References:
        Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        2023, arXiv:2303.08797.
    """

    interpolant: Any = field(check=_check_interpolant)
    start: Any
    end: Any

    def __post_init__(self):
        two = getattr(self.interpolant, "two_sided", True)
        if (self.start is not None) != two:
            wanted = "starts at data: give start" if two else "starts at its noise: start must be None"
            raise ValueError(f"BridgeMixture: this path {wanted}.")
        for name in ("start", "end")[not two :]:
            if not isinstance(getattr(self, name), GaussianMixture):
                raise TypeError(f"BridgeMixture: {name} must be a js.denoise.GaussianMixture.")
        if two and np.shape(self.start.means)[1] != np.shape(self.end.means)[1]:
            raise ValueError("BridgeMixture: start and end must have one number of dimensions.")

    def _at(self, x, t):
        """At each point x [..., d]: log-density, v, E[z | x] and E[pull | x]."""
        x = _floating(x)
        size = np.shape(self.end.means)[1]
        if jnp.ndim(x) == 0 or x.shape[-1] != size:
            raise ValueError(f"BridgeMixture: x must be [..., {size}], got {jnp.shape(x)}.")
        own, x = x.dtype, x.astype(dtype_of(x, at_least=jnp.float32))  # half precision has no Cholesky factor
        t, path = as_time(t, x), self.interpolant
        (a, da), (b, db) = (jax.jvp(f, (t,), (jnp.ones_like(t),)) for f in (path.alpha, path.beta))
        a, da, b, db, gamma = (jnp.asarray(v, x.dtype) for v in (a, da, b, db, path.gamma(t)))
        log0, mean0, cov0 = _components(self.start, size, x.dtype)
        log1, mean1, cov1 = _components(self.end, size, x.dtype)
        log_weights = (log0[:, None] + log1[None]).ravel()
        # Every pair of components, the second index running faster.
        join = lambda c0, u, c1, v: (c0 * u[:, None] + c1 * v[None]).reshape(-1, *u.shape[1:])
        mean, slope = join(a, mean0, b, mean1), join(da, mean0, db, mean1)
        root = jnp.linalg.cholesky(join(a * a, cov0, b * b, cov1) + gamma**2 * jnp.eye(size, dtype=x.dtype)[None])
        growth = join(a * da, cov0, b * db, cov1)
        unit = jnp.broadcast_to(jnp.eye(size, dtype=x.dtype)[None], root.shape)
        precision = jax.scipy.linalg.cho_solve((root, True), unit)
        log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), axis=1)

        def one(x):
            residual = x[None] - mean
            pull = jnp.sum(precision * residual[:, None, :], axis=2)
            square = jnp.sum(residual * pull, axis=1)
            log_joint = log_weights - 0.5 * (square + log_det + size * np.log(2 * np.pi))
            share = jax.nn.softmax(log_joint)[:, None]
            each = slope + jnp.sum(growth * pull[:, None, :], axis=2)
            total = jnp.sum(share * pull, axis=0)
            return jax.nn.logsumexp(log_joint), jnp.sum(share * each, axis=0), gamma * total, total

        found = jax.vmap(one)(x.reshape(-1, size))
        return [leaf.reshape(x.shape[: x.ndim + leaf.ndim - 2]).astype(own) for leaf in found]

    def __call__(self, x, t, *, key=None):
        """Return b and E[z | x]."""
        _, mean_velocity, noise, pull = self._at(x, t)
        product = jnp.asarray(self.interpolant.gamma_gamma_dot(as_time(t, pull)), pull.dtype)
        return Prediction(mean_velocity + product * pull, noise)

    def mean_velocity(self, x: Tree, t: Any) -> Any:
        """V = E[d/dt (alpha x0 + beta x1) | x_t = x], like x [..., d]."""
        return self._at(x, t)[1]

    def score(self, x: Tree, t: Any) -> Any:
        """Compute the gradient of the log-density at x [..., d]."""
        return -self._at(x, t)[3]

    def logdensity(self, x: Tree, t: Any) -> Any:
        """Log-density of x_t at x [..., d], [...]."""
        return self._at(x, t)[0]


def _components(law: GaussianMixture | None, size: int, dtype: Any) -> tuple[Any, Any, Any]:
    """Log-weights [k], means [k, d] and covariances [k, d, d]; one component at 0 for no law."""
    if law is None:
        return jnp.zeros(1, dtype), jnp.zeros((1, size), dtype), jnp.zeros((1, size, size), dtype)
    log_weights, means, variances = (jnp.asarray(v, dtype) for v in (law.log_weights, law.means, law.variances))
    axes = jnp.eye(size, dtype=dtype)[None] if law.axes is None else jnp.asarray(law.axes, dtype)
    scaled = axes * variances[:, None, :]
    return log_weights, means, jnp.sum(scaled[:, :, None, :] * axes[:, None, :, :], axis=-1)
