"""Exact denoisers of distributions in closed form: mixtures of Gaussians and finite data sets."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_number, concrete, is_traced
from jsamp._core._numerics import safe_log
from jsamp._core._pytree import construct, field, pytree
from jsamp._core._types import Schedule
from jsamp.denoise import _fields
from jsamp.denoise._algebra import levels
from jsamp.denoise._protocol import Prediction
from jsamp.noise._protocol import check_schedule


def _moment(a, b):
    return jnp.matmul(a, b, precision="highest")


def _floating(x: Any) -> Any:
    """X as a floating array."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def _diagonal(xp: Any, means: Any, stds: Any) -> tuple[Any, None]:
    """Variances [k, d] of standard deviations [k] or [k, d]."""
    check_number("GaussianMixture: stds", stds, low=0, open_low=True)
    stds = xp.asarray(stds, means.dtype)
    if stds.shape not in (means.shape[:1], means.shape):
        raise ValueError(f"GaussianMixture: stds must be [k] or [k, d], got {stds.shape} for means {means.shape}.")
    return xp.broadcast_to(stds.reshape(means.shape[0], -1) ** 2, means.shape), None


def _principal(xp: Any, means: Any, covs: Any) -> tuple[Any, Any]:
    """Variances [k, d] along the principal axes [k, d, d] of covariances."""
    check_number("GaussianMixture: covs", covs)
    covs = xp.asarray(covs, means.dtype)
    if covs.shape != (*means.shape, means.shape[1]):
        raise ValueError(f"GaussianMixture: covs must be [k, d, d], got {covs.shape} for means {means.shape}.")
    variances, axes = xp.linalg.eigh(covs)
    known = concrete(variances)
    if known is not None and (
        np.min(known) < -1e-10 * np.max(np.abs(known)) or not np.allclose(covs, np.swapaxes(covs, 1, 2))
    ):
        raise ValueError("GaussianMixture: covs must be symmetric positive semi-definite.")
    return xp.maximum(variances, 0), axes


@pytree
class GaussianMixture:
    """Denoise a mixture of Gaussians exactly, for tests, teaching and method development.

    With p(x0) = sum_k w_k N(m_k, C_k) the noised law is sum_k w_k N(alpha m_k, S_k), S_k = alpha^2 C_k + sigma^2 I, and
    x0 = sum_k r_k (m_k + alpha C_k S_k^-1 (x - alpha m_k)), eps = sigma sum_k r_k S_k^-1 (x - alpha m_k), with r_k the
    posterior probability of component k. Covariances are diagonalised once, at construction.

    Args:
        schedule: a noise schedule.
        weights: [k] component probabilities; normalised.
        means: [k, d].
        stds: [k] or [k, d] standard deviations, or
        covs: [k, d, d] covariances. Give exactly one of the two.

    Returns:
        Called with x [..., d]: `Prediction(x0, eps)` of that shape.

    Raises:
        ValueError: for shapes that do not fit, negative weights, stds that are not positive, or covariances that are
            not symmetric positive semi-definite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> law(jnp.ones(1), 1.0).x0.tolist()
        [0.5]

    Cost:
        O(k d), with covariances O(k d^2), for each point.
    """

    schedule: Schedule = field(check=check_schedule)
    log_weights: Any
    means: Any
    variances: Any
    axes: Any

    def __init__(self, schedule: Schedule, *, weights: Any, means: Any, stds: Any = None, covs: Any = None):
        if (stds is None) == (covs is None):
            raise ValueError("GaussianMixture: give exactly one of stds [k] or [k, d], and covs [k, d, d].")
        check_number("GaussianMixture: weights", weights, low=0)
        check_number("GaussianMixture: means", means)
        xp = jnp if is_traced(weights, means, stds, covs) else np
        weights, means = (xp.asarray(v, None if xp is jnp else np.float64) for v in (weights, means))
        if means.ndim != 2 or weights.shape != means.shape[:1] or not weights.size:
            raise ValueError(f"GaussianMixture: want weights [k] and means [k, d], got {weights.shape}, {means.shape}.")
        if xp is np and not weights.sum() > 0:
            raise ValueError(f"GaussianMixture: weights must not all be 0, got {weights}.")
        variances, axes = _diagonal(xp, means, stds) if covs is None else _principal(xp, means, covs)
        log_weights = safe_log(xp, weights / weights.sum())
        construct(self, schedule=schedule, log_weights=log_weights, means=means, variances=variances, axes=axes)

    def _whiten(self, x, t):
        """Residuals in component axes [..., k, d], their variances, log joint densities [..., k], alpha, sigma."""
        if jnp.ndim(x) == 0 or x.shape[-1] != self.means.shape[1]:
            raise ValueError(f"GaussianMixture: x must be [..., {self.means.shape[1]}], got {jnp.shape(x)}.")
        alpha, sigma = levels(self.schedule, t, x)
        means, variances = jnp.asarray(self.means, x.dtype), jnp.asarray(self.variances, x.dtype)
        lead = (1,) * (x.ndim - 1)
        residual = x[..., None, :] - (alpha * means).reshape(*lead, *means.shape)
        if self.axes is not None:
            axes = jnp.asarray(self.axes, x.dtype).reshape(*lead, *self.axes.shape)
            residual = _moment(residual[..., None, :], axes)[..., 0, :]
        total = (alpha**2 * variances + sigma**2).reshape(*lead, *means.shape)
        log_weights = jnp.asarray(self.log_weights, x.dtype).reshape(*lead, -1)
        log_joint = log_weights - 0.5 * jnp.sum(jnp.log(2 * np.pi * total) + residual**2 / total, axis=-1)
        return residual, total, log_joint, alpha, sigma

    def __call__(self, x, t, *, key=None):
        """Return the exact conditional means of x0 and eps."""
        x = _floating(x)
        residual, total, log_joint, alpha, sigma = self._whiten(x, t)
        lead = (1,) * (x.ndim - 1)
        variances = jnp.asarray(self.variances, x.dtype).reshape(*lead, *self.variances.shape)
        share = jax.nn.softmax(log_joint, axis=-1)[..., None]
        pull = residual / total
        clean, noise = alpha * variances * pull, sigma * pull
        if self.axes is not None:
            back = jnp.asarray(self.axes, x.dtype).swapaxes(-1, -2).reshape(*lead, *self.axes.shape)
            clean, noise = (_moment(v[..., None, :], back)[..., 0, :] for v in (clean, noise))
        means = jnp.asarray(self.means, x.dtype).reshape(*lead, *self.means.shape)
        return Prediction(jnp.sum(share * (means + clean), axis=-2), jnp.sum(share * noise, axis=-2))

    def responsibilities(self, x, t):
        """Posterior component probabilities p(k | x_t = x), [..., k]."""
        return jax.nn.softmax(self._whiten(_floating(x), t)[2], axis=-1)

    def logdensity(self, x, t):
        """Log density of the noised law at x [..., d] and time t, [...]."""
        return jax.nn.logsumexp(self._whiten(_floating(x), t)[2], axis=-1)


@pytree
class Empirical:
    """Denoise a finite data set exactly: the memorising optimum of denoising score matching.

    x0 = sum_i r_i data_i with r = softmax(-|x - alpha data_i|^2 / (2 sigma^2)), distances summed elementwise so that
    small noise levels keep their digits.

    Args:
        schedule: a noise schedule.
        data: [n, ...] points; x has the shape of one point, or leading axes before it.

    Returns:
        Called with x [..., *point]: `Prediction(x0, eps)` of that shape.

    Raises:
        ValueError: for data that is empty, not finite, or whose points do not match x.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.Empirical(js.noise.VE(), jnp.array([[-1.0], [1.0]]))
        >>> law(jnp.zeros(1), 1.0).x0.tolist()
        [0.0]

    Cost:
        O(n d) for each point; memory O(n) beyond the data.
    """

    schedule: Schedule = field(check=check_schedule)
    data: Any = field(check=_fields.number(), convert=lambda name, value: _fields.as_numbers(value))

    def __post_init__(self):
        if jnp.ndim(self.data) < 2 or jnp.shape(self.data)[0] == 0:
            raise ValueError(f"Empirical: data must be [n, ...] with n >= 1, got shape {jnp.shape(self.data)}.")

    def __call__(self, x, t, *, key=None):
        """Return the exact conditional means of x0 and eps."""
        x = _floating(x)
        data = jnp.asarray(self.data, x.dtype)
        event = data.ndim - 1
        if x.shape[x.ndim - event :] != data.shape[1:]:
            raise ValueError(f"Empirical: x must be [..., {', '.join(map(str, data.shape[1:]))}], got {x.shape}.")
        alpha, sigma = levels(self.schedule, t, x)
        points = data.reshape(data.shape[0], -1)

        def one(x):
            residual = x[None] - alpha * points
            share = jax.nn.softmax(-0.5 * jnp.sum((residual / sigma) ** 2, axis=-1))[:, None]
            return jnp.sum(share * points, axis=0), jnp.sum(share * residual, axis=0) / sigma

        x0, eps = jax.vmap(one)(x.reshape(-1, points.shape[1]))
        return Prediction(x0.reshape(x.shape), eps.reshape(x.shape))
