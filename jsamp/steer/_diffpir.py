"""Plug-and-play restoration: a proximal data step on each prediction, then noise again."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_number, concrete
from jsamp._core._pytree import field, pytree, static
from jsamp._core._sample_axes import batch_ndim, check_event_ndim, over_batch
from jsamp._core._types import Tree
from jsamp.denoise import Prediction, _fields
from jsamp.denoise._measure import residual
from jsamp.denoise._operator import check_operator
from jsamp.steer._protocol import Hooks
from jsamp.steer._replace import one_row_steps


def _weight(name: str, value: Any) -> Any:
    """Keep a positive number, or a function of t as a tree."""
    if callable(value):
        return as_tree(name, value, "weight(t)")
    check_number(name, value, low=0, open_low=True)
    return value


@pytree
class DiffPIR(Hooks):
    """Fit each prediction to y and noise it to the next level: denoising diffusion for plug-and-play restoration.

    y = A x0 + noise N(0, 1), D the prediction and eps its noise, a = alpha and s = sigma where a row evaluates:
    u   = argmin |y - A u|^2 / noise^2 + weight (a / s)^2 |u - D|^2 = D + A^T (A A^T + r^2)^-1 (y - A D),
          r = noise sqrt(weight) a / s;
    eps <- eps - (a / s) (u - D), which leaves a u + s eps = x;
    x_next = alpha_next u + sigma_next (sqrt(1 - zeta) eps + sqrt(zeta) z).
    The plan gives the times alone: its own step is overwritten. Without noise A u = y, and so for the result of a plan
    that ends at zero noise. The published code leaves the last prediction as it is; here, as in the paper, it is fitted
    too.

    What it samples is exact where x0 given x is N(D, v I) and weight = s^2 / (a^2 v): for data N(m, std^2 I) that is
    1 + s^2 / (a std)^2, a function of t, and zeta = 0 then is DDIM on the posterior. With weight 1 the fit trusts the
    measurement too much at high noise. With zeta = 1 many small steps at low noise are Langevin steps at half
    temperature: on Gaussian data they reach the mean of the posterior and half its variance.

    Args:
        op: a `LinearOp`, or a linear function. With an `svd` (or a `pinv` and no noise) the fit is exact.
        y: what was measured, of the structure and shapes of op(x0).
        noise: standard deviation of the noise in y, in units of y; None (or 0) means none.
        weight: the paper's lambda, > 0, of the prediction against the measurement: a number or a function of t. The
            published 1 to 12 are for images in [0, 1] whose noise levels are those of [-1, 1]: 0.25 to 3 here.
        zeta: share of fresh noise, in [0, 1]; published 0.25 and 0.3, and 1 for inpainting. With 0 nothing is drawn.
        iterations: steps of conjugate gradients, where the operator knows no inverse; None solves exactly up to 64
            numbers of y and takes 64 steps beyond (static).
        event_ndim: how many trailing axes of x make one sample; None means all of x is one sample (static).

    Raises:
        TypeError: for an op that cannot be called, or a y of another structure than op(x0).
        ValueError: for options out of range, a y that is not finite or does not fit, or a plan with stages or a
            corrector.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0, 0.0]], covs=[[[1, 0.9], [0.9, 1]]])
        >>> plan = js.solve.ddim(schedule, js.noise.logsnr_grid(schedule, 20, final="zero"))
        >>> steer = js.steer.DiffPIR(js.denoise.LinearOp.mask(jnp.array([1.0, 0.0])), jnp.array([0.5, 0.0]))
        >>> js.sample(jax.random.key(1), law, jnp.zeros(2), plan, steer=steer).x[0].tolist()
        0.5

    Cost:
        The operator and its inverse, once for each row.

    References:
        Zhu et al., "Denoising Diffusion Models for Plug-and-Play Image Restoration", 2023, arXiv:2305.08995.
    """

    op: Any = field(convert=check_operator)
    y: Tree = field(check=_fields.finite("Put 0 where nothing was measured."))
    noise: Any = field(default=None, convert=_fields.noise_std)
    weight: Any = field(default=1.0, convert=_weight)
    zeta: Any = field(default=0.3, check=_fields.number(0, 1))
    iterations: int | None = static(default=None, convert=_fields.count(optional=True))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    @property
    def stochastic(self) -> bool:
        """Whether zeta asks for fresh noise, or may."""
        known = concrete(self.zeta)
        return known is None or bool(np.any(known > 0))

    def init(self, key, x, plan):
        """Make room for what is predicted."""
        one_row_steps("DiffPIR", plan)
        return Prediction(_tree.zeros_like(x), _tree.zeros_like(x))

    def mid(self, key, g, x, prediction, info):
        """Fit the prediction to the measurement."""
        ratio = info.alpha / info.sigma
        relative = None
        if self.noise is not None:
            weight = self.weight(info.t) if callable(self.weight) else self.weight
            relative = jnp.asarray(self.noise, ratio.dtype) * jnp.sqrt(jnp.asarray(weight, ratio.dtype)) * ratio

        def toward(x0):
            misfit = residual("DiffPIR", self.op, self.y, x0)
            return self.op.inverse(misfit, x0, relative, iterations=self.iterations)

        change = over_batch(toward, batch_ndim("DiffPIR", x, self.event_ndim))(prediction.x0)
        x0 = _tree.cast_like(_tree.lincomb((1, 1), (prediction.x0, change)), x)
        eps = _tree.cast_like(_tree.lincomb((1, -ratio), (prediction.eps, change)), x)
        return Prediction(x0, eps), x, prediction._replace(x0=x0, eps=eps), None

    def reorder(self, g, index):
        """Follow particles that another steer reordered."""
        return jax.tree.map(lambda v: v[index], g)

    def post(self, key, g, x, info):
        """Noise the fitted prediction to where the row lands."""
        zeta = jnp.asarray(self.zeta, info.alpha.dtype)
        parts, scales = (g.x0, g.eps), (info.alpha_next, info.sigma_next * jnp.sqrt(1 - zeta))
        if key is not None:
            parts, scales = (*parts, _tree.normal_like(key, x)), (*scales, info.sigma_next * jnp.sqrt(zeta))
        return g, _tree.lincomb(scales, parts), False
