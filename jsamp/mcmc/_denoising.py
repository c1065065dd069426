"""Denoising Langevin Gibbs: a chain on (x, sigma) that walks between noise levels near the data."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields, _tree
from jsamp._core._callable import as_tree
from jsamp._core._like import match
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, put, pytree, static
from jsamp._core._types import Array, Model, Scalar
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._langevin import MALA, drift
from jsamp.select import draw_categorical


class Noised(NamedTuple):
    """Hold a noisy sample and its noise level: the position of `DenoisingLangevinGibbs`.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.Noised(x=0.0, sigma=1.0).sigma
        1.0
    """

    x: Any
    sigma: Any


@pytree
class _At:
    function: Any
    sigma: Any

    def __call__(self, x):
        return self.function(x, self.sigma)


def picked(state: Any, info: Any) -> Noised:
    """Keep of `DenoisingLangevinGibbs` the (x, sigma) that each block hands to the denoiser.

    Args:
        state: the kernel's state.
        info: the kernel's info.

    Returns:
        `Noised(x, sigma)`.

    Raises:
        TypeError: for the info of another kernel.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.picked(None, js.mcmc.Info(1.0, 1, False, js.mcmc.Noised(0.0, 2.0))).sigma
        2.0
    """
    found = getattr(info, "aux", None)
    if not isinstance(found, Noised):
        raise TypeError(f"picked: info must be that of DenoisingLangevinGibbs, got {_checks.shown(info)}.")
    return found


def _check_levels(name, value):
    if value is None:
        raise ValueError(f"{name} is missing; pass the noise levels, for example jnp.geomspace(0.01, 50, 1000).")
    _checks.check_number(name, value, low=0, open_low=True)
    known = _checks.concrete(value)
    if known is not None:
        steps = np.diff(known) if known.ndim == 1 and known.size > 1 else np.zeros(1)
        if not (np.all(steps > 0) or np.all(steps < 0)):
            raise ValueError(f"{name} must be [L >= 2] and strictly monotone, got {_checks.shown(value)}. Sort it.")
    return value


@pytree
class DenoisingLangevinGibbs:
    """Walk on (x, sigma) of noised data: stay near the data, and denoise only the last stretch.

    The joint is p_sigma(x) p(sigma), p_sigma the data law noised by sigma (VE), p(sigma) uniform over `sigmas`. One
    step is a block of `skip` moves; a move is a Langevin move of x given sigma, then sigma given x. Each block hands
    one (x, sigma) to the denoiser (`keep=js.mcmc.picked`), to be solved from sigma down with
    `js.sample(key, denoiser, x, plan)`, the plan's grid starting at that sigma.

    With h = step_size sigma^2 (or step_size alone when `scaled` is False) the move is x + h s + sqrt(2 h) xi: the
    paper's eta is 2 h. Two defaults differ from the paper's code, because the code's choices bias the chain:
    `x_move="ula"` inflates the radius at every step, and sigma follows it upwards in high dimension (E log sigma drifts
    by several units at d = 32), so x is accepted or rejected; and `select="min"` (denoise the smallest sigma of the
    block) selects for samples off their mode, so the last is taken.

    Args:
        score: `score(x, sigma)`, for example `NoisedScore(denoiser)`; needed without `logdensity`.
        sigmas: [L] noise levels, strictly monotone, positive; the lowest above the end of the plan's grid.
        logdensity: `logdensity(x, sigma)` of the noised law, normalised in x; or None. Without it "mala" accepts on the
            line integral of the score (Simpson's rule, three scores for a move).
        posterior: "exact" (softmax of the log-density over all levels; needs `logdensity`), "norm" (sigma is set to
            |x - x0| / sqrt(d), one score), or a classifier `posterior(x) -> logits [L]`.
        step_size: relative (or absolute) time step > 0.
        skip: moves per block (static).
        x_move: "mala" or "ula" (static).
        select: "last" or "min" (static).
        scaled: whether h is relative to sigma^2 (static); the paper's is constant.
        argmax: take the most probable level instead of drawing one (static); the paper's code does.

    Raises:
        ValueError: for levels that are not positive and monotone, unknown options, or a missing score or log-density.
        TypeError: for logits of another length than `sigmas`.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> def logdensity(x, sigma):
        ...     v = 1 + sigma**2
        ...     return jnp.sum(-(x**2) / v / 2 - jnp.log(v) / 2)
        >>> kernel = js.mcmc.DenoisingLangevinGibbs(sigmas=jnp.geomspace(0.1, 10, 50), logdensity=logdensity)
        >>> start = js.mcmc.Noised(jnp.zeros(2), 1.0)
        >>> js.mcmc.chain(jax.random.key(0), kernel, start, 5, keep=js.mcmc.picked).x.sigma.shape
        (5,)

    Cost:
        Per move 1 score (ula), 2 log-density gradients (mala), or 3 scores (mala from a score); plus L log-densities
        for the exact posterior, one score for "norm".

    References:
        Kim and Ye, "Denoising MCMC for accelerating diffusion-based generative models", 2023, arXiv:2209.14593.
    """

    score: Model | None = field(default=None, convert=_fields.callable_as("score(x, sigma)", optional=True))
    sigmas: Array = field(default=None, convert=lambda name, value: _check_levels(name, value))
    logdensity: Model | None = field(default=None, convert=_fields.callable_as("logdensity(x, sigma)", optional=True))
    posterior: Any = static(default="exact")
    classifier: Any = None
    step_size: Scalar = field(default=0.5, convert=k.positive)
    skip: int = static(default=10, convert=_checks.check_count)
    x_move: Literal["mala", "ula"] = static(default="mala", check=_fields.one_of("mala", "ula"))
    select: Literal["last", "min"] = static(default="last", check=_fields.one_of("last", "min"))
    scaled: bool = static(default=True, convert=_checks.check_flag)
    argmax: bool = static(default=False, convert=_checks.check_flag)

    own_target = True

    def __post_init__(self):
        who = "DenoisingLangevinGibbs"
        if callable(self.posterior):
            classifier = as_tree(f"{who}: posterior", self.posterior, "posterior(x)")
            put(self, classifier=classifier, posterior="classifier")
        _checks.check_choice(f"{who}: posterior", self.posterior, ("exact", "norm", "classifier"))
        if (self.posterior == "classifier") != (self.classifier is not None):
            raise ValueError(f"{who}: posterior='classifier' is set by posterior=function; pass the function itself.")
        if self.score is None and self.logdensity is None:
            raise ValueError(f"{who}: give a score, a logdensity, or both.")
        if self.posterior == "exact" and self.logdensity is None:
            raise ValueError(
                f"{who}: posterior='exact' needs logdensity; with a score alone use 'norm' or a classifier."
            )

    def init(self, x, key=None):
        """Start at (x, sigma)."""
        if not isinstance(x, tuple) or len(x) != 2:
            raise TypeError(f"DenoisingLangevinGibbs: x must be js.mcmc.Noised(x, sigma), got {_checks.shown(x)}.")
        k.check_numbers(self)
        x, sigma = x
        x = k.position("DenoisingLangevinGibbs", x, metropolis=self.x_move == "mala")
        _checks.check_scalar("DenoisingLangevinGibbs: sigma", sigma, low=0, open_low=True)
        return k.State(Noised(x, jnp.asarray(k.as_float(sigma), k.dtype_of(x))), None, None)

    def step(self, key, state):
        """Run one block; `info.aux` is the (x, sigma) to denoise."""

        def move(carry, i):
            (x, sigma), best = carry
            move_key, sigma_key = jax.random.split(jax.random.fold_in(key, i))
            x, accept, bad, nfe = self._move(move_key, x, sigma)
            sigma, cost = self._level(sigma_key, x, sigma)
            now = Noised(x, sigma)
            keep = (sigma < best.sigma) if self.select == "min" else jnp.ones((), bool)
            return (now, _tree.where(keep, now, best)), (accept, bad, jnp.asarray(nfe + cost, jnp.int32))

        far = state.position._replace(sigma=jnp.full_like(state.position.sigma, jnp.inf))
        carry = vary((state.position, far), key, state, self)
        (now, best), (accept, bad, nfe) = jax.lax.scan(move, carry, jnp.arange(self.skip))
        nfe = jnp.sum(nfe, dtype=jnp.int32)
        info = k.info(now.x, accept=jnp.mean(accept), nfe=nfe, diverged=jnp.any(bad), aux=best)
        return k.State(now, None, None), info

    def _move(self, key, x, sigma):
        h = self.step_size * (sigma**2 if self.scaled else 1.0)
        if self.x_move == "mala" and self.logdensity is not None:
            kernel = MALA(_At(self.logdensity, sigma), h)
            state, info = kernel.step(key, kernel.init(x))
            return state.position, info.accept, info.diverged, 2

        def at(x):
            return self._score_at(x, sigma)

        gx = at(x)
        noise, log_uniform = k.noise(key, x)
        y = drift(x, gx, None, h, noise)
        if self.x_move == "ula":
            return y, jnp.ones((), k.dtype_of(x)), ~_tree.all_finite(gx), 1
        middle = jax.tree.map(lambda a, b: (a + b) / 2, x, y)
        gm, gy = at(middle), at(y)
        # Simpson's rule for the line integral, less the Langevin correction: only differences of scores remain.
        line = _tree.dot(jax.tree.map(jnp.subtract, y, x), jax.tree.map(lambda a, m, b: m - (a + b) / 2, gx, gm, gy))
        squares = _tree.dot(jax.tree.map(jnp.subtract, gy, gx), jax.tree.map(jnp.add, gy, gx))
        x, accept, bad = k.accept_step(log_uniform, 2 / 3 * line - h / 4 * squares, y, x)
        return x, accept, bad, 3

    def _score_at(self, x, sigma):
        if self.score is None:
            return k.evaluate(MALA(_At(self.logdensity, sigma)), x).grad
        return match("DenoisingLangevinGibbs: the score", k.call(self.score, x, sigma), x)

    def _level(self, key, x, sigma):
        sigmas = jnp.asarray(self.sigmas, sigma.dtype)
        if self.posterior == "norm":
            score = self._score_at(x, sigma)
            size = jnp.sqrt(_tree.dot(score, score) / _tree.size(x)).astype(sigma.dtype)
            return jnp.clip(sigma**2 * size, jnp.min(sigmas), jnp.max(sigmas)), 1
        if self.posterior == "exact":
            logits, cost = jax.vmap(lambda s: k.call(self.logdensity, x, s))(sigmas), sigmas.size
        else:
            logits, cost = self.classifier(x), 0
        if jnp.shape(logits) != sigmas.shape:
            raise TypeError(
                f"DenoisingLangevinGibbs: the posterior must give one logit per level, {sigmas.shape}; got "
                f"{jnp.shape(logits)}."
            )
        if self.argmax:
            return sigmas[jnp.argmax(logits)], cost
        index = draw_categorical(key, logits)
        # Logits of NaN give index -1, and NaN stays visible.
        return jnp.where(index < 0, jnp.nan, sigmas[index]), cost
