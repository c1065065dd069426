"""Restoration in the singular basis of the measurement, with a transition of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._checks import concrete
from jsamp._core._like import dtype_of
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Key, Tree
from jsamp.denoise import LinearOp, _fields
from jsamp.steer._protocol import Hooks
from jsamp.steer._replace import measured, one_row_steps


class _Before(NamedTuple):
    x: Any
    x0: Any


def _check_op(name: str, op: Any) -> None:
    if not isinstance(op, LinearOp) or op.svd is None:
        raise TypeError(f"{name} must be a js.denoise.LinearOp with its svd. Use LinearOp.mask, pool or dense.")


@pytree
class DDRM(Hooks):
    """Step along each singular direction of the measurement on its own: denoising diffusion restoration.

    y = A x0 + noise N(0, 1), A = U diag(s) V^T; in the basis V and divided by alpha, with D the prediction, c the
    state, r = U^T y / s, and u = sigma / alpha where the row lands (v where it starts), a step is
    s = 0:          D + sqrt(1 - eta^2) (u / v) (c - D) + eta u z
    u s < noise:    D + sqrt(1 - eta^2) u s (r - D) / noise + eta u z
    u s >= noise:   (1 - eta_b) D + eta_b r + sqrt(u^2 - eta_b^2 noise^2 / s^2) z.
    The plan gives the times alone: its own step is overwritten. Noiseless measurements hold exactly at zero noise. It
    restores, but does not sample the posterior: for N(0, 1), y = 1, noise 0.5 its variance is a tenth of the exact one.

    Args:
        op: a `LinearOp` with its `svd`: mask, pool, dense, or one of your own.
        y: the measurement.
        noise: standard deviation of its noise, >= 0.
        eta: share of fresh noise in directions that are unseen or seen too dimly, in [0, 1].
        eta_b: share of the measurement in directions that are seen well, in [0, 1].

    Raises:
        TypeError: for an op without singular values.
        ValueError: for options out of range, a plan with stages or a corrector, or, from `start`, noise / s above the
            noise level of the start, where a variance would be negative.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0, 0.0]], stds=[1.0])
        >>> plan = js.solve.ddim(schedule, js.noise.logsnr_grid(schedule, 20, final="zero"))
        >>> steer = js.steer.DDRM(js.denoise.LinearOp.mask(jnp.array([1.0, 0.0])), jnp.array([0.5, 0.0]))
        >>> x = steer.start(jax.random.key(0), plan, jnp.zeros(2))
        >>> js.sample(jax.random.key(1), law, x, plan, steer=steer).x[0].tolist()
        0.5

    Cost:
        Four changes of basis for each row.

    References:
        Kawar et al., "Denoising Diffusion Restoration Models", 2022, arXiv:2201.11793.
    """

    op: Any = field(check=_check_op)
    y: Tree = field(check=_fields.finite("Put 0 where nothing was measured."))
    noise: Any = field(default=0.0, check=_fields.number(0))
    eta: Any = field(default=0.85, check=_fields.number(0, 1))
    eta_b: Any = field(default=1.0, check=_fields.number(0, 1))

    stochastic = property(lambda self: True, doc="Every step draws.")

    def _spectrum(self, x, dtype):
        """Find which singular values are positive, and divide the measurement and its noise by them."""
        svd, y = self.op.svd, measured("DDRM", self.op, self.y, x)
        s = jnp.asarray(svd.values, dtype)
        seen = s > 0
        safe = jnp.where(seen, s, 1)
        known = jnp.where(seen, jnp.asarray(svd.ut(y), dtype) / safe, 0)
        return seen, known, jnp.where(seen, jnp.asarray(self.noise, dtype) / safe, 0)

    def start(self, key: Key, plan: Any, like: Any) -> Any:
        """Draw where a run starts: the measured directions at their values, all at the noise of the plan's first row.

        Args:
            key: one key.
            plan: the plan that will run.
            like: an array or tree of the structure of x, for shapes and dtypes.

        Returns:
            x at `plan.t[0]`.

        Raises:
            ValueError: when noise / s exceeds sigma / alpha there.
        """
        dtype = dtype_of(like)
        level = plan.sigma[0] / plan.alpha[0]
        s, noise, top = (concrete(v) for v in (self.op.svd.values, self.noise, level))
        if s is not None and noise is not None and top is not None and np.any(s):
            worst = noise / np.min(s[s > 0])
            if worst > top:
                raise ValueError(
                    f"DDRM: noise / singular value is {worst:.4g}, above the noise {float(top):.4g} of the plan's "
                    f"first row: a variance would be negative. Start at more noise, or set small singular values to 0."
                )
        seen, known, error = self._spectrum(like, dtype)
        spread = jnp.sqrt(jnp.asarray(level, dtype) ** 2 - error**2)
        z = self.op.svd.vt(_tree.normal_like(key, like))
        x = self.op.svd.v(jnp.where(seen, known, 0) + spread * z)
        return jax.tree.map(lambda v: jnp.asarray(plan.alpha[0], dtype) * v, x)

    def init(self, key, x, plan):
        """Make room for where a row started and what it predicted."""
        one_row_steps("DDRM", plan)
        return _Before(_tree.zeros_like(x), _tree.zeros_like(x))

    def mid(self, key, g, x, prediction, info):
        """Remember both."""
        return _Before(x, prediction.x0), x, prediction, None

    def reorder(self, g, index):
        """Follow particles that another steer reordered."""
        return jax.tree.map(lambda v: v[index], g)

    def post(self, key, g, x, info):
        """Take the step direction by direction."""
        svd, dtype = self.op.svd, info.alpha.dtype
        seen, known, error = self._spectrum(x, dtype)
        v, u = info.sigma / info.alpha, info.sigma_next / info.alpha_next
        c = svd.vt(jax.tree.map(lambda a: a / info.alpha, g.x))
        d, z = svd.vt(g.x0), svd.vt(_tree.normal_like(key, x))
        eta, eta_b = jnp.asarray(self.eta, dtype), jnp.asarray(self.eta_b, dtype)
        rest = jnp.sqrt(1 - eta**2)
        unseen = d + rest * (u / v) * (c - d) + eta * u * z
        dim = d + rest * u * (known - d) / jnp.where(error > 0, error, 1) + eta * u * z
        variance = jnp.where(u >= error, u**2 - (eta_b * error) ** 2, 0)
        positive = variance > 0
        root = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
        clear = (1 - eta_b) * d + eta_b * known + root * z
        moved = svd.v(jnp.where(seen, jnp.where(u >= error, clear, dim), unseen))
        return g, jax.tree.map(lambda a: info.alpha_next * a, moved), False
