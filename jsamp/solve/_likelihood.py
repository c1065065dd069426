"""The log-likelihood of a signal under the flow of a denoiser: the divergence rides along on the plan."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count, check_key, check_number, check_scalar
from jsamp._core._like import as_arrays
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Key, Model, Tree
from jsamp.denoise._algebra import levels
from jsamp.denoise._protocol import Prediction, check_denoiser, kick_of
from jsamp.estimate._types import Estimate
from jsamp.solve._invert import as_ode
from jsamp.solve._plan import Plan, check_plan
from jsamp.solve._run import sample
from jsamp.solve._state import check_signal, state_dtype
from jsamp.solve._walk import STDS, gain, walk

STD = 0.5
"""Standard deviation of the Gaussian data whose change of volume is known exactly."""
TOGETHER = 64
"""Directions of the exact divergence that are differentiated at once."""


class _Flowing(NamedTuple):
    """Hold the signal and alpha times its log-volume, which the plan moves by the same rows."""

    x: Any
    volume: Any  # [k], one for each probe, or [1]


@pytree
class _WithVolume:
    """The denoiser of the signal and of its log-volume: d (volume / alpha) = alpha tr(d eps / dx) d(sigma / alpha).

    The volume is that beyond the one of data N(0, STD^2): what is left of the trace vanishes in the noise, where it
    would grow with alpha / sigma.
    """

    schedule: Any
    denoiser: Any
    probes: Any = field(default=None)

    def __call__(self, state, t, *, key=None):
        prediction = self.denoiser(state.x, t, key=key)
        if kick_of(prediction) is not None:
            raise TypeError("likelihood: the denoiser moves x by a kick beside its flow, which then has no density.")
        eps = lambda x: self.denoiser(x, t, key=key).eps
        alpha, sigma = levels(self.schedule, t, state.volume)
        known = _tree.size(state.x) * sigma / ((alpha * STD) ** 2 + sigma**2)
        rate = alpha * (self._trace(eps, state.x).astype(alpha.dtype) - known)
        volume = (state.volume - sigma * rate) / alpha
        return Prediction(_Flowing(prediction.x0, volume), _Flowing(prediction.eps, rate))

    def _trace(self, eps, x):
        _, push = jax.linearize(eps, x)
        if self.probes is not None:
            return jax.vmap(lambda z: _tree.dot(z, push(z)))(self.probes)
        flat, back = ravel_pytree(x)
        entry = lambda i: ravel_pytree(push(back(jnp.zeros_like(flat).at[i].set(1))))[0][i]
        each = jax.lax.map(entry, jnp.arange(flat.size), batch_size=min(TOGETHER, flat.size))
        return jnp.sum(each)[None]


def likelihood(key: Key | None, denoiser: Model, x: Tree, plan: Plan, *, probes: str | int = "exact") -> Estimate:
    """Compute the log-density of a signal under the probability-flow ODE of a denoiser, by the change of variables.

    The signal is carried up to noise; log p(x) = log N(x_T; 0, sigma_T^2) + d log(alpha_T / alpha_0) + the integral of
    alpha tr(d eps / dx) d(sigma / alpha). The signal follows the ODE between the times of the plan, whose own errors
    are not repeated, by steps of first to third order: the one that errs least on Gaussians. The integral is one more
    number that they move, beyond its known value for N(0, 1/4). The trace is exact, or z . (d eps / dx) z with random
    signs z, fixed through the run.

    Signal that is left at the noise counts as none. With r = alpha_T / sigma_T, a number that lies z standard
    deviations from its mean m, its variance in the data v, adds -r m z - r^2 (m^2 + (z^2 - 1) v) / 2 to the value, and
    -r^2 m^2 / 2 on average. r is 0.068 for `Discrete.scaled_linear`, where that is up to 0.02 nats of N(0, 1) within
    three standard deviations; 0.007 for `VP`, 0.006 for `Discrete.ddpm_linear` and 0.0125 for `VE`, sigma_max = 80.

    Args:
        key: for the probes, and for denoisers that draw; None suffices when nothing draws.
        denoiser: callable tree (x, t, *, key) -> Prediction, differentiable.
        x: one signal, any shape or tree; `jax.vmap` over many.
        plan: a deterministic plan, between whose times the ODE is followed. One that runs up, as `js.solve.invert`
            makes it (of another order, say), is taken as it is. Its last alpha must be positive, and its end at low
            noise is where the density is that of.
        probes: "exact", or the number k >= 2 of random sign vectors (static).

    Returns:
        `Estimate(value, stderr, ess)` in nats; the standard error is that of the probes, 0 for "exact", and says
        nothing of the steps.

    Raises:
        TypeError: for a plan, denoiser, x or key of the wrong type.
        ValueError: for a plan that draws noise or ends without signal, or fewer than two probes.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> plan = js.solve.heun(schedule, js.noise.logsnr_grid(schedule, 50))
        >>> found = js.solve.likelihood(None, law, jnp.zeros(1), plan)
        >>> round(float(found.value), 2)  # log of 1 / sqrt(2 pi)
        -0.92

    Cost:
        For each row one denoiser call and d forward derivatives of it ("exact", 64 at a time), or k.

    References:
        Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021,
        arXiv:2011.13456. Grathwohl et al., "FFJORD", 2019, arXiv:1810.01367 (the random trace).
    """
    check_denoiser("likelihood: denoiser", denoiser)
    check_signal("likelihood: x", x)
    check_plan("likelihood", plan, concrete=True)
    x = jax.tree.map(lambda leaf: leaf.astype(state_dtype(leaf)), as_arrays(x))
    denoiser = as_tree("likelihood: denoiser", denoiser, "denoiser(x, t)")
    signs, run_key = _probes(key, x, probes)
    if plan.stochastic:
        raise ValueError("likelihood: the plan draws noise, and has no density. Build it with eta, tau, churn = 0.")
    up = _way_up(plan)
    (alpha, sigma), low = _ends(up)
    if alpha <= 0:
        raise ValueError("likelihood: the plan must start with some signal, alpha > 0 (t_max=0.999).")
    zeros = jnp.zeros(1 if signs is None else probes, jnp.result_type(*jax.tree.leaves(x)))
    x = vary(x, x, key, denoiser)
    start = _Flowing(x, vary(zeros, x))
    end = sample(run_key, _WithVolume(denoiser.schedule, denoiser, signs), start, up).x
    size = _tree.size(x)
    prior = -0.5 * _tree.dot(end.x, end.x) / sigma**2 - 0.5 * size * math.log(2 * math.pi * sigma**2)
    each = prior + size * float(_log_growth((alpha, sigma), low, STD)) + end.volume / alpha
    if signs is None:
        return Estimate(each[0], jnp.zeros_like(each[0]), jnp.asarray(jnp.inf, each.dtype))
    num = each.shape[0]
    return Estimate(jnp.mean(each), jnp.std(each, ddof=1) / math.sqrt(num), jnp.asarray(num, each.dtype))


def _way_up(plan):
    """A plan that runs up as it is, or the way up along the ODE whose order errs least on Gaussians."""
    if plan.t_next[-1] > plan.t[0]:
        return plan
    return min((as_ode("likelihood", plan, order=order) for order in (3, 2, 1)), key=_error_on_gaussians)


def _ends(up):
    """(alpha, sigma) at the noise, and where the signal is: the first row moves alpha x0 + sigma eps from there."""
    low = np.array([up.alpha_next[0], up.sigma_next[0] - np.sum(up.weights[0])], np.float64)
    return (float(up.alpha_next[-1]), float(up.sigma_next[-1])), low / float(up.state_coef[0])


def _log_growth(high, low, std):
    """The logarithm of the factor by which the flow scales x, on its way up, where the data are N(0, std^2)."""
    return np.log(np.hypot(high[0] * std, high[1]) / np.hypot(low[0] * std, low[1]))


def _error_on_gaussians(up):
    """The largest error of signal and log-volume together, for data N(0, STDS^2) in one dimension."""
    high, low = _ends(up)
    share = lambda r, std: up.sigma[r] / ((up.alpha[r] * std) ** 2 + up.sigma[r] ** 2)
    rate = lambda r, volume: up.alpha[r] * (share(r, STDS) - share(r, STD))
    exact = _log_growth(high, low, STDS)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        volume = [*walk(up, np.zeros_like(STDS), rate)][-1] / high[0]
        error = np.abs(np.log(np.abs(gain(up))) - exact) + np.abs(volume + _log_growth(high, low, STD) - exact)
    return float(np.nan_to_num(np.max(error), nan=np.inf))


def _probes(key, x, probes):
    """Random signs [k, ...] like x, or None for the exact trace; and the key of the run."""
    if isinstance(probes, str):
        if probes != "exact":
            raise ValueError(f"likelihood: probes must be 'exact' or a number of random vectors, got {probes!r}.")
        return None, key
    check_count("likelihood: probes", probes, low=2)
    check_key(key, "likelihood")
    own, rest = jax.random.split(key)
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(own, len(leaves))
    draw = lambda k, leaf: jax.random.rademacher(k, (probes, *leaf.shape), leaf.dtype)
    return jax.tree.unflatten(structure, [draw(k, leaf) for k, leaf in zip(keys, leaves, strict=True)]), rest


def bits_per_dimension(found: Any, size: Any, *, bin_width: Any = 2 / 256) -> Any:
    """Turn a log-density in nats into bits per dimension of data that were rounded to bins.

    -log2 p / size - log2 bin_width. Rounded data have no density: add uniform noise of one bin width to them first.

    Args:
        found: a log-density, or an `Estimate` of one, as `js.solve.likelihood` gives it.
        size: numbers in one signal.
        bin_width: distance of neighbouring values; 2 / 256 for 8-bit images scaled to [-1, 1].

    Returns:
        Bits per dimension; an `Estimate` for an `Estimate`.

    Raises:
        ValueError: for a size or width that is not positive.

    Example:
        >>> import jsamp as js
        >>> float(js.solve.bits_per_dimension(0.0, 64))  # density 1: 128 bins of width 2 / 256
        7.0

    Cost:
        A few operations on numbers.
    """
    check_scalar("bits_per_dimension: size", size, low=0, open_low=True)
    check_scalar("bits_per_dimension: bin_width", bin_width, low=0, open_low=True)
    if isinstance(found, Estimate):
        scale = 1 / (size * math.log(2))
        return Estimate(-found.value * scale - math.log2(bin_width), found.stderr * scale, found.ess)
    check_number("bits_per_dimension: found, a log-density or an Estimate,", found)
    return -found / (size * math.log(2)) - math.log2(bin_width)
