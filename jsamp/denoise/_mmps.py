"""Moment matching posterior sampling: conjugate gradients on the network's own covariance."""

from __future__ import annotations

from typing import Any

from jsamp._core._pytree import field, pytree, static
from jsamp._core._sample_axes import check_event_ndim
from jsamp._core._types import Tree
from jsamp.denoise import _fields
from jsamp.denoise._algebra import conjugate_gradients
from jsamp.denoise._measure import Measurement, moment_matched
from jsamp.denoise._operator import check_operator


@pytree
class MMPS(Measurement):
    """Solve `TMPD`'s likelihood by a few steps of conjugate gradients: moment matching posterior sampling.

    x0 <- x0 + C A^T v with v the iterate of conjugate gradients on (A C A^T + noise^2 I) v = y - A x0, C = (sigma^2 /
    alpha) dx0/dx. One step already scales with the uncertainty of x0 and is stable with a trained network; steps stop
    by themselves where the curvature is not positive, as that of a network may be. Exact for every Gaussian with as
    many steps as the covariance of y has different eigenvalues.

    Args:
        denoiser: the unconditional denoiser.
        op: a `LinearOp`, or a linear function.
        y: what was measured, of the structure and shapes of op(x0).
        noise: standard deviation of the noise in y; None (or 0) means none.
        iterations: steps of conjugate gradients (static); the papers take 1 to 5.
        event_ndim: how many trailing axes of x make one sample; None means all of x is one sample (static).

    Returns:
        The guided prediction.

    Raises:
        ValueError: for a negative noise, iterations < 1, a y that is not finite or does not fit.
        TypeError: for a y of another structure.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[2.0])
        >>> op = js.denoise.LinearOp(lambda x: x)
        >>> round(float(js.denoise.MMPS(law, op, jnp.ones(1), noise=1.0)(jnp.zeros(1), 1.0).x0[0]), 4)
        0.4444

    Cost:
        One network call, and a transpose for each iteration and one more.

    References:
        Rozet et al., "Learning Diffusion Priors from Observations by Expectation Maximization", 2024,
        arXiv:2405.13712.
    """

    denoiser: Any = field(check=_fields.denoiser)
    op: Any = field(convert=check_operator)
    y: Tree = field(check=_fields.finite("Put 0 where nothing was measured."))
    noise: Any = field(default=None, convert=_fields.noise_std)
    iterations: int = static(default=1, convert=_fields.count())
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def __call__(self, x, t, *, key=None):
        """Predict x0 given y."""
        solve = lambda covariance, residual, variance: conjugate_gradients(covariance, residual, self.iterations)
        return moment_matched("MMPS", self, x, t, key, solve)
