"""Denoising Langevin Gibbs: a chain on (x, sigma) that walks between noise levels near the data."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _tree
from jsamp._core._pytree import pytree, static
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._langevin import MALA, drift
from jsamp.select import draw_categorical


class Noised(NamedTuple):
    """A noisy sample and its noise level: the position of `DenoisingLangevinGibbs`.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.Noised(x=0.0, sigma=1.0).sigma
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
    """What to keep of `DenoisingLangevinGibbs`: the (x, sigma) that each block hands to the denoiser.

    Args:
        state: the kernel's state.
        info: the kernel's info.

    Returns:
        `Noised(x, sigma)`.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.picked(None, mcmc.Info(1.0, 1, False, mcmc.Noised(0.0, 2.0))).sigma
        2.0
    """
    return info.aux


@pytree
class DenoisingLangevinGibbs:
    """A chain on (x, sigma) of noised data: stay near the data, and denoise only the last stretch.

    The joint is p_sigma(x) p(sigma), p_sigma the data law noised by sigma (VE), p(sigma) uniform over `sigmas`. One
    step is a block of `skip` moves; a move is a Langevin move of x given sigma, then sigma given x. Each block hands
    one (x, sigma) to the denoiser (`keep=mcmc.picked`), to be solved from sigma down with
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
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> def logdensity(x, sigma):
        ...     v = 1 + sigma**2
        ...     return jnp.sum(-(x**2) / v / 2 - jnp.log(v) / 2)
        >>> kernel = mcmc.DenoisingLangevinGibbs(sigmas=jnp.geomspace(0.1, 10, 50), logdensity=logdensity)
        >>> start = mcmc.Noised(jnp.zeros(2), 1.0)
        >>> mcmc.chain(jax.random.key(0), kernel, start, 5, keep=mcmc.picked).x.sigma.shape
        (5,)

    Cost:
        Per move 1 score (ula), 2 log-density gradients (mala), or 3 scores (mala from a score); plus L log-densities
        for the exact posterior, one score for "norm".

    References:
        Kim and Ye, "Denoising MCMC for accelerating diffusion-based generative models", 2023, arXiv:2209.14593.
    """

    score: Any = None
    sigmas: Any = None
    logdensity: Any = None
    posterior: Any = static(default="exact")
    classifier: Any = None
    step_size: Any = 0.5
    skip: int = static(default=10)
    x_move: str = static(default="mala")
    select: str = static(default="last")
    scaled: bool = static(default=True)
    argmax: bool = static(default=False)

    def __post_init__(self):
        who = "DenoisingLangevinGibbs"
        for name in ("score", "logdensity"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, k.as_tree(f"{who}: {name}", getattr(self, name), f"{name}(x, sigma)"))
        if callable(self.posterior):
            tree = k.as_tree(f"{who}: posterior", self.posterior, "posterior(x)")
            object.__setattr__(self, "classifier", tree)
            object.__setattr__(self, "posterior", "classifier")
        _checks.check_choice(f"{who}: posterior", self.posterior, ("exact", "norm", "classifier"))
        _checks.check_choice(f"{who}: x_move", self.x_move, ("mala", "ula"))
        _checks.check_choice(f"{who}: select", self.select, ("last", "min"))
        _checks.check_count(f"{who}: skip", self.skip)
        _checks.check_number(f"{who}: step_size", self.step_size, low=0, open_low=True)
        if self.sigmas is None:
            raise ValueError(
                f"{who}: sigmas is missing; pass the noise levels, for example jnp.geomspace(0.01, 50, 1000)."
            )
        _checks.check_number(f"{who}: sigmas", self.sigmas, low=0, open_low=True)
        known = _checks.concrete(self.sigmas)
        if known is not None:
            steps = np.diff(known) if known.ndim == 1 and known.size > 1 else np.zeros(1)
            if not (np.all(steps > 0) or np.all(steps < 0)):
                raise ValueError(f"{who}: sigmas must be [L >= 2] and strictly monotone, got {known}. Sort it.")
        if self.score is None and self.logdensity is None:
            raise ValueError(f"{who}: give a score, a logdensity, or both.")
        if self.posterior == "exact" and self.logdensity is None:
            raise ValueError(
                f"{who}: posterior='exact' needs logdensity; with a score alone use 'norm' or a classifier."
            )

    def init(self, x, key=None):
        """The position (x, sigma) as arrays."""
        x, sigma = x
        x = k.position("DenoisingLangevinGibbs", x, metropolis=self.x_move == "mala")
        _checks.check_number("DenoisingLangevinGibbs: sigma", sigma, low=0, open_low=True)
        return k.State(Noised(x, jnp.asarray(sigma, k.dtype_of(x))), None, None)

    def step(self, key, state):
        """One block; `info.aux` is the (x, sigma) to denoise."""

        def move(carry, i):
            (x, sigma), best = carry
            move_key, sigma_key = jax.random.split(jax.random.fold_in(key, i))
            x, accept, bad, nfe = self._move(move_key, x, sigma)
            sigma, cost = self._level(sigma_key, x, sigma)
            now = Noised(x, sigma)
            keep = (sigma < best.sigma) if self.select == "min" else jnp.ones((), bool)
            return (now, _tree.where(keep, now, best)), (accept, bad, jnp.asarray(nfe + cost, jnp.int32))

        far = state.position._replace(sigma=jnp.full_like(state.position.sigma, jnp.inf))
        carry = k.vary((state.position, far), key, state, self)
        (now, best), (accept, bad, nfe) = jax.lax.scan(move, carry, jnp.arange(self.skip))
        info = k.info(now.x, accept=jnp.mean(accept), nfe=jnp.sum(nfe), diverged=jnp.any(bad), aux=best)
        return k.State(now, None, None), info

    def _move(self, key, x, sigma):
        h = self.step_size * (sigma**2 if self.scaled else 1.0)
        if self.x_move == "mala" and self.logdensity is not None:
            kernel = MALA(_At(self.logdensity, sigma), h)
            state, info = kernel.step(key, kernel.init(x))
            return state.position, info.accept, info.diverged, 2
        score = _At(self.score, sigma) if self.score is not None else jax.grad(_At(self.logdensity, sigma))

        def at(x):
            return k.like(k.call(score, x) if self.score is not None else score(x), x)

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

    def _level(self, key, x, sigma):
        sigmas = jnp.asarray(self.sigmas, sigma.dtype)
        if self.posterior == "norm":
            score = self.score(x, sigma) if self.score is not None else jax.grad(_At(self.logdensity, sigma))(x)
            size = jnp.sqrt(_tree.dot(score, score) / _tree.size(x)).astype(sigma.dtype)
            return jnp.clip(sigma**2 * size, jnp.min(sigmas), jnp.max(sigmas)), 1
        if self.posterior == "exact":
            logits, cost = jax.vmap(lambda s: self.logdensity(x, s))(sigmas), sigmas.size
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
