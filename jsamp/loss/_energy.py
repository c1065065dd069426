"""Losses of unnormalised densities: no Markov chain, a tractable noise instead."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, replace
from jsamp.loss import _protocol as p


class EnergyDrawn(NamedTuple):
    """Hold what `MECO` and `NCE` draw.

    Args:
        x: data rows [n, ...].
        z: as many rows of the noise.

    Example:
        >>> import jsamp as js
        >>> js.loss.EnergyDrawn(x=1.0, z=0.0).z
        0.0
    """

    x: Any
    z: Any


class MECOInfo(NamedTuple):
    """Report an evaluation of `MECO`.

    Args:
        log_u: new moving average of log E[f / q], the estimate of log Z.
        loglikelihood: mean of log f over the data minus log_u, the log-likelihood as far as it is known.
        ess: effective size of the importance weights; below a twentieth of the batch the noise does not cover the
            model.
        max_weight: largest weight f / (q u).

    Example:
        >>> import jsamp as js
        >>> js.loss.MECOInfo(log_u=0.0, loglikelihood=-1.0, ess=10.0, max_weight=2.0).ess
        10.0
    """

    log_u: Any
    loglikelihood: Any
    ess: Any
    max_weight: Any


def _draw(who, loss, key, batch):
    _checks.check_key(key, who)
    num = p.check_batch(f"{who}: batch", batch)
    x = jax.tree.map(jnp.asarray, batch)
    z = jax.vmap(loss.sample)(jax.random.split(key, num))
    if jax.tree.map(jnp.shape, z) != jax.tree.map(jnp.shape, x):
        raise TypeError(f"{who}: sample(key) must give one row like those of the batch.")
    return EnergyDrawn(x, jax.tree.map(lambda a, b: jax.lax.stop_gradient(a).astype(b.dtype), z, x))


def _noise(sample):
    form = "sample(key)" if sample else "log_prob(x)"
    return field(convert=_fields.callable_as(form))


def _each(who, function, rows):
    return p.each_number(who, p.call(who, function, False, rows))


@pytree
class MECO(p.Called):
    """Fit an unnormalised density f by maximum likelihood, its integral tracked by a moving average.

    With noise q: minus log-likelihood = -E_data log f + log E_q[f / q]. The inner mean u is tracked in logs, u <- (1 -
    gamma) u + gamma mean(f / q), from the first batch on; the value is the surrogate -mean log f(x) + mean(stop(f / (q
    u)) log f(z)), whose gradient is that of the likelihood when u is exact. The value itself is not the likelihood: see
    `MECOInfo`. It works where q covers the model: with q narrower, weights explode and NCE does better.

    Args:
        sample: callable tree key -> one row of the noise q.
        log_prob: callable tree row -> log q, finite wherever f has mass.
        gamma: rate of the moving average, in (0, 1]. 1 uses each batch alone, which is biased.
        log_u: the moving average so far; -inf starts from the first batch. `js.fit.minimise` carries it on; in a loop
            of your own use `loss = loss.remember(info)`.

    Returns:
        `loss(key, model, batch) -> (scalar, MECOInfo)`. model: callable tree row -> log f, a scalar. batch: rows
        [n, ...].

    Raises:
        TypeError: for a sample of another shape than the rows, or a log-density that is not a scalar.
        ValueError: for a gamma outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> wide = jax.scipy.stats.norm.logpdf
        >>> loss = js.loss.MECO(lambda key: 2 * jax.random.normal(key), lambda x: wide(x, 0.0, 2.0), gamma=0.1)
        >>> _, info = loss(jax.random.key(0), lambda x: -(x**2) / 2, jax.random.normal(jax.random.key(1), (4000,)))
        >>> bool(abs(info.log_u - jnp.log(2 * jnp.pi) / 2) < 0.1)  # log of the integral
        True

    Cost:
        Two calls of the model.

    References:
        Jiang et al., "Learning Unnormalized Statistical Models via Compositional Optimization", 2023, arXiv:2306.07485.
    """

    sample: Any = _noise(True)
    log_prob: Any = _noise(False)
    gamma: Any = 0.1
    log_u: Any = -np.inf

    def __post_init__(self):
        _checks.check_scalar("MECO: gamma", self.gamma, low=0, high=1, open_low=True)
        if not (isinstance(self.log_u, float) and self.log_u == -np.inf):
            _checks.check_scalar("MECO: log_u", self.log_u)

    def draw(self, key, batch):
        """Draw as many rows of noise."""
        return _draw("MECO", self, key, batch)

    def value(self, model, drawn):
        """Return the surrogate, and the moving average to use next."""
        data, noise = _each("MECO: model", model, drawn.x), _each("MECO: model", model, drawn.z)
        log_ratio = jax.lax.stop_gradient(noise) - _each("MECO: log_prob", self.log_prob, drawn.z)
        num, dtype = log_ratio.shape[0], log_ratio.dtype
        here = jax.scipy.special.logsumexp(log_ratio) - jnp.log(jnp.asarray(num, dtype))
        gamma, before = jnp.asarray(self.gamma, dtype), jnp.asarray(self.log_u, dtype)
        first = before == -jnp.inf
        moved = jnp.logaddexp(jnp.log1p(-gamma) + jnp.where(first, 0, before), jnp.log(gamma) + here)
        log_u = jax.lax.stop_gradient(jnp.where(first, here, moved))
        weight = jax.lax.stop_gradient(jnp.exp(log_ratio - log_u))
        total = jnp.sum(weight)
        info = MECOInfo(log_u, jnp.mean(data) - log_u, total**2 / jnp.sum(weight**2), jnp.max(weight))
        return -jnp.mean(data) + jnp.mean(weight * noise), jax.lax.stop_gradient(info)

    def remember(self, aux):
        """Return the loss with the new moving average."""
        return replace(self, log_u=aux.log_u)


@pytree
class NCE(p.Called):
    """Fit an unnormalised density f by telling data from noise: noise-contrastive estimation.

    With logit(x) = log f(x) - log_z - log q(x) the value is mean softplus(-logit(data)) + mean softplus(logit(noise));
    at its minimum f exp(-log_z) is the density of the data, where the noise has any: the noise must cover the data. A
    row outside its support, log q = -inf, is refused where it can be seen, and makes the loss NaN in compiled code. Far
    from the noise it is exponentially flat, where `MECO` is not.

    Args:
        sample: callable tree key -> one row of the noise q.
        log_prob: callable tree row -> log q, finite at every row of the data.

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: a pair (row -> log f, log_z), both trained; a Python
        number stays as it is in `js.fit.minimise`: start log_z at jnp.zeros(()). batch: rows [n, ...].

    Raises:
        TypeError: for a model that is not such a pair, or a sample of another shape than the rows.
        ValueError: for rows at which log_prob is not finite.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.NCE(jax.random.normal, jax.scipy.stats.norm.logpdf)
        >>> model = (lambda x: -(x**2) / 2, jnp.log(2 * jnp.pi) / 2)  # the noise itself
        >>> round(float(loss(jax.random.key(0), model, jnp.zeros(4))[0]), 4)
        1.3863

    Cost:
        Two calls of the model.

    References:
        Gutmann and Hyvarinen, "Noise-contrastive estimation: A new estimation principle for unnormalized statistical
        models", 2010.
    """

    sample: Any = _noise(True)
    log_prob: Any = _noise(False)

    def draw(self, key, batch):
        """Draw as many rows of noise."""
        return _draw("NCE", self, key, batch)

    def value(self, model, drawn):
        """Return the logistic loss."""
        if type(model) is not tuple or len(model) != 2 or not callable(model[0]) or callable(model[1]):
            raise TypeError("NCE: model must be the pair (log f, log_z), a callable and a number.")
        density, log_z = model
        _checks.check_scalar("NCE: log_z", log_z)

        def logit(rows):
            return _each("NCE: model", density, rows) - log_z - self._log_noise(rows)

        return p.finish(jax.nn.softplus(-logit(drawn.x)) + jax.nn.softplus(logit(drawn.z)))

    def _log_noise(self, rows):
        """Log q of each row; where it is infinite the loss of a row would be 0, whatever the model says."""
        found = _each("NCE: log_prob", self.log_prob, rows)
        known = _checks.concrete(found)
        if known is not None and not np.all(np.isfinite(known.astype(np.float32))):
            where = int(np.argmin(np.isfinite(known.astype(np.float32))))
            raise ValueError(
                f"NCE: log_prob is {known[where]} at row {where}, which tells nothing of f there. Draw the noise from "
                f"a law that covers the data, for example a mixture with a wide normal."
            )
        return jnp.where(jnp.isfinite(found), found, jnp.nan)
