"""Langevin moves on noised laws: the annealed chain over a ladder of noise levels, and the norm-scaled corrector."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields, _tree
from jsamp._core._callable import as_tree
from jsamp._core._like import match
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Array, Key, Model, Result, Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._langevin import drift


@pytree
class NoisedScore:
    """Give the score of a denoiser's noised law to the Langevin kernels: score(x, t) = -eps(x, t) / sigma(t).

    Args:
        denoiser: a `jsamp.Denoiser`, or anything called as `denoiser(x, t)` with a `schedule`.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> js.mcmc.NoisedScore(law)(jnp.ones(1), 1.0).tolist()
        [-0.5]

    Cost:
        One network call.
    """

    denoiser: Model = field(convert=_fields.callable_as("denoiser(x, t)"))

    def __call__(self, x, t):
        """Evaluate the score at noise level t."""
        eps = self.denoiser(x, t).eps
        sigma = self.denoiser.schedule.sigma(jnp.asarray(t, jnp.result_type(*jax.tree.leaves(x))))
        return jax.tree.map(lambda e: -e / sigma, eps)


@pytree
class Corrector:
    """Correct by Langevin steps, as predictor-corrector samplers do, with the norms of each sample.

    x <- x + a s + sqrt(2 a) xi with a = 2 scale (snr |xi| / |s|)^2: the step adapts to the score's size. The published
    code averages the norms over the batch, which couples its samples; here they are the sample's own, so batching
    changes nothing. Because the step depends on x, the stationary law is tilted by |s|^2, an effect of order 1 / d.
    Where the score is exactly 0 no step has a size: x stays, and `diverged` is set.

    Args:
        score: `score(x, t)`, for example `NoisedScore(denoiser)`.
        t: noise level, a leaf; replace it in your scan over the grid.
        snr: r > 0, the paper's signal-to-noise ratio.
        scale: 1 for VE, alpha(t)^2 for VP.

    Raises:
        ValueError: for snr or scale that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.Corrector(lambda x, t: -x / (1 + t**2), 0.5, snr=0.1)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.ones(2), 10).x.shape
        (10, 2)

        A predictor-corrector: rows of any plan, a move after each at the time it lands on.

        >>> schedule, key = js.noise.VE(0.05, 5.0), jax.random.key(0)
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[0.3])
        >>> plan = js.solve.ddim(schedule, js.noise.logsnr_grid(schedule, 6, final="sigma_min"), eta=1.0)
        >>> def level(state, row):
        ...     state = js.solve.step(key, law, state, row)
        ...     kernel = js.mcmc.Corrector(js.mcmc.NoisedScore(law), row.t_next)
        ...     moved, _ = kernel.step(jax.random.fold_in(key, 1000 + state.index), kernel.init(state.x))
        ...     return state._replace(x=moved.position), None
        >>> jax.lax.scan(level, js.solve.init(plan, 5 * jnp.ones(1)), plan)[0].x.shape
        (1,)

    Cost:
        One score per step.

    References:
        Song et al., "Score-based generative modeling through stochastic differential equations", 2021,
        arXiv:2011.13456.
    """

    score: Model = field(convert=_fields.callable_as("score(x, t)"))
    t: Scalar = field(convert=k.between())
    snr: Scalar = field(default=0.16, convert=k.positive)
    scale: Scalar = field(default=1.0, convert=k.positive)

    own_target = True

    def init(self, x, key=None):
        """Start at x."""
        k.check_numbers(self)
        return k.State(k.position("Corrector", x, metropolis=False), None, None)

    def step(self, key, state):
        """Take one move."""
        x = state.position
        s, noise = match("Corrector: the score", k.call(self.score, x, self.t), x), _tree.normal_like(key, x)
        square = _tree.dot(s, s)
        still = square == 0
        size = 2 * self.scale * self.snr**2 * _tree.dot(noise, noise) / jnp.where(still, 1, square)
        bad = still | ~_tree.all_finite(s)
        return k.State(drift(x, s, None, jnp.where(still, 0, size), noise), None, None), k.info(x, diverged=bad)


def annealed(
    key: Key, score: Model, x: Tree, sigmas: Array, *, steps: int = 100, step_size: Scalar = 2e-5, tweedie: bool = True
) -> Result:
    """Run annealed Langevin: `steps` moves at each noise level of a decreasing ladder.

    At level i the move is x <- x + (a / 2) s(x, sigma_i) + sqrt(a) xi with a = step_size sigma_i^2 / sigma_last^2.

    Args:
        key: one JAX key.
        score: `score(x, sigma)` of the law noised by sigma (VE).
        x: start, usually uniform or N(0, sigmas[0]^2).
        sigmas: [L] decreasing noise levels; traced, so a ladder of the same length does not recompile.
        steps: moves per level (static).
        step_size: the paper's epsilon, in (0, 4 sigmas[-1]^2): beyond, moves overshoot where noise is all there is.
        tweedie: end with the denoising step x + sigma_last^2 s (one more score).

    Returns:
        `Result(x, info)`, info with the summed nfe and any divergence.

    Raises:
        ValueError: for levels that are not positive and decreasing, or a step size outside its range.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> score = lambda x, sigma: -x / (1 + sigma**2)
        >>> js.mcmc.annealed(jax.random.key(0), score, jnp.ones(2), jnp.array([3.0, 1.0, 0.1]), steps=5).info.nfe.item()
        16

    Cost:
        L * steps scores, one more with tweedie.

    References:
        Song and Ermon, "Generative modeling by estimating gradients of the data distribution", 2019,
        arXiv:1907.05600.
    """
    _checks.check_key(key, "annealed")
    _checks.check_count("annealed: steps", steps)
    _checks.check_scalar("annealed: step_size", step_size, low=0, open_low=True)
    _checks.check_number("annealed: sigmas", sigmas, low=0, open_low=True)
    tweedie = _checks.check_flag("annealed: tweedie", tweedie)
    score = as_tree("annealed: score", score, "score(x, sigma)")
    x = k.position("annealed", x, metropolis=False)
    known = _checks.concrete(sigmas)
    if known is not None and (known.ndim != 1 or known.size == 0 or (known[1:] >= known[:-1]).any()):
        raise ValueError(f"annealed: sigmas must be [L] and decrease, got {sigmas!r}. Sort it, largest first.")
    size = _checks.concrete(step_size)
    # No law noised by sigma is narrower than sigma; beyond this the move overshoots there, at each level alike.
    if known is not None and size is not None and size >= 4 * known[-1] ** 2:
        raise ValueError(f"annealed: step_size must be below 4 sigmas[-1]^2 = {4 * known[-1] ** 2:g}, got {size:g}.")
    sigmas, step_size = jnp.asarray(sigmas, k.dtype_of(x)), k.as_float(step_size)

    def level(carry, inputs):
        i, sigma = inputs
        # h = a / 2: the move in the time step of the diffusion.
        h = step_size * (sigma / sigmas[-1]) ** 2 / 2

        def move(carry, j):
            x, bad = carry
            s = match("annealed: the score", k.call(score, x, sigma), x)
            noise = _tree.normal_like(jax.random.fold_in(key, i * steps + j), x)  # pyright: ignore[reportArgumentType]
            return (drift(x, s, None, h, noise), bad | ~_tree.all_finite(s)), None

        return jax.lax.scan(move, carry, jnp.arange(steps))[0], None

    count = sigmas.shape[0]
    carry = vary((x, jnp.zeros((), bool)), key, x, score, sigmas)
    (x, bad), _ = jax.lax.scan(level, carry, (jnp.arange(count), sigmas))
    if tweedie:
        s = match("annealed: the score", k.call(score, x, sigmas[-1]), x)
        x = k.axpy(sigmas[-1] ** 2, s, x)
    return Result(x, k.info(x, nfe=count * steps + tweedie, diverged=bad))
