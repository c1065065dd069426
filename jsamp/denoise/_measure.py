"""Conditioning on measurements y = A x0 + noise, without training: DPS, PiGDM, TMPD, DDNM."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_choice, check_count, check_number, concrete
from jsamp._core._pytree import pytree, static
from jsamp.denoise._algebra import add_kick, change_score, check_event, each, leading, solve_positive, transpose_x0
from jsamp.denoise._denoiser import shift_x0
from jsamp.denoise._operator import check_operator
from jsamp.denoise._pair import check_scale, weigh
from jsamp.denoise._protocol import Kick, check_denoiser


class Measurement:
    """What denoisers with a measurement share: the schedule inside, and y - A x0 for each sample."""

    denoiser: Any
    op: Any
    y: Any
    event_ndim: int | None

    @property
    def schedule(self):
        """The schedule of the denoiser inside."""
        return self.denoiser.schedule

    def _residual(self, x0):
        """The residual y - A x0 of one sample; refuses a measurement that A cannot give."""
        seen, name = self.op(x0), type(self).__name__
        if jax.tree.structure(seen) != jax.tree.structure(self.y):
            raise TypeError(
                f"{name}: y must have the structure of op(x0), {jax.tree.structure(seen)}; got "
                f"{jax.tree.structure(self.y)}. A list is a tree: pass jnp.asarray(y) for an array."
            )
        shapes = [tuple(map(jnp.shape, jax.tree.leaves(tree))) for tree in (self.y, seen)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{name}: y has shapes {shapes[0]}, but op(x0) has {shapes[1]}. y is one measurement; for a batch of x "
                f"that share it give event_ndim, for a batch of both use jax.vmap."
            )
        return jax.tree.map(lambda y, a: jnp.asarray(y, a.dtype) - a, self.y, seen)


def _check(measurement, op):
    name = type(measurement).__name__
    check_denoiser(f"{name}: denoiser", measurement.denoiser)
    object.__setattr__(measurement, "op", op)
    for leaf in jax.tree.leaves(measurement.y):
        known = concrete(leaf)
        if known is not None and not np.all(np.isfinite(known)):
            raise ValueError(f"{name}: y must be finite. Put 0 where nothing was measured.")
    check_event(name, measurement.event_ndim)


def _squared(tree):
    """Sum of squares, of complex numbers too."""
    return jnp.sum(jnp.stack([jnp.sum(jnp.real(v) ** 2 + jnp.imag(v) ** 2) for v in jax.tree.leaves(tree)]))


@pytree
class DPS(Measurement):
    """Diffusion posterior sampling: follow the gradient of the misfit of the predicted x0, through the network.

    `likelihood="norm"`, the published method: the prediction stays as it is, and after each step x moves by
    -scale d|y - A(x0(x))|/dx. This is a `Kick`, defined once per step: it has no limit as steps shrink, so `scale` goes
    with the number of steps (the published code takes 0.3 to 0.5 with 1000 ancestral steps on data in [-1, 1]; the
    norm is not squared).

    `likelihood="gaussian"`: another method. The score is raised by -scale d|y - A x0|^2 / (2 noise^2) / dx, a rate, so
    solvers keep their order; the same as `Energy` with that energy. It ignores that x0 is uncertain, and samples a law
    that is far too narrow: for N(0, 1), y = 1, noise 0.5 the exact posterior has variance 0.2, this 0.02. Prefer
    `PiGDM` or `TMPD`.

    Args:
        denoiser: the unconditional denoiser.
        op: the measurement x0 -> y, a `LinearOp` or any differentiable callable tree.
        y: what was measured, of the structure and shapes of op(x0); complex numbers are welcome.
        scale: step size zeta >= 0 (norm), or weight of the likelihood (gaussian; 1 is Bayes). Forms as in
            `ClassifierFree`.
        likelihood: "norm" or "gaussian" (static).
        noise: standard deviation of the noise in y; gaussian only.
        event_ndim: how many trailing axes of x make one sample; None means all of x is one sample (static).

    Returns:
        The prediction with a kick (norm), or guided (gaussian).

    Raises:
        ValueError: for a negative scale, gaussian without noise, a y that is not finite or does not fit op(x0).
        TypeError: for a y of another structure.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0]], stds=[1.0])
        >>> op = js.denoise.LinearOp.mask(jnp.array([1.0, 0.0]))
        >>> guided = js.denoise.DPS(law, op, jnp.array([2.0, 0.0]), scale=0.3)
        >>> [round(float(v), 3) for v in guided(jnp.ones(2), 1.0).kick.x]
        [0.15, 0.0]

    Cost:
        One network call and its transpose.

    References:
        Chung et al., "Diffusion Posterior Sampling for General Noisy Inverse Problems", 2022, arXiv:2209.14687.
    """

    denoiser: Any
    op: Any
    y: Any
    scale: Any = 1.0
    likelihood: str = static(default="norm")
    noise: Any = None
    event_ndim: int | None = static(default=None)

    def __post_init__(self):
        _check(self, as_tree("DPS: op", self.op, "op(x)"))
        object.__setattr__(self, "scale", check_scale("DPS: scale", self.scale))
        if not callable(self.scale):
            check_number("DPS: scale", self.scale, low=0)
        check_choice("DPS: likelihood", self.likelihood, ("norm", "gaussian"))
        if (self.noise is None) == (self.likelihood == "gaussian"):
            raise ValueError("DPS: give noise, the standard deviation in y, with likelihood='gaussian' and only there.")
        if self.noise is not None:
            check_number("DPS: noise", self.noise, low=0, open_low=True)

    @property
    def kicks(self):
        """Whether predictions hold a kick."""
        return self.likelihood == "norm"

    def _misfit(self, x0):
        square = _squared(self._residual(x0))
        if self.likelihood == "gaussian":
            return square / (2 * jnp.asarray(self.noise, square.dtype) ** 2)
        # The slope of a norm at 0 is taken to be 0.
        return jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)

    def __call__(self, x, t, *, key=None):
        """The prediction, and the way downhill in misfit."""
        prediction, pull = transpose_x0(self.denoiser, x, t, key)
        lead = leading("DPS", prediction.x0, self.event_ndim)
        slope = pull(each(jax.grad(self._misfit), lead)(prediction.x0))
        move = jax.tree.map(lambda g: -weigh(self.scale, t, g) * g, slope)
        if self.likelihood == "norm":
            return add_kick(prediction, Kick(x=move))
        return change_score(self.schedule, t, prediction, move)


@pytree
class PiGDM(Measurement):
    """Pseudo-inverse guidance: the likelihood of y when x0 is known up to an isotropic Gaussian.

    r^2 = sigma^2 spread^2 / (sigma^2 + alpha^2 spread^2) is the variance of x0 given x_t for data of standard deviation
    `spread`, and g = (dx0/dx)^T A^T (r^2 A A^T + noise^2 I)^-1 (y - A x0). step="bayes" raises the score by g, a rate;
    exact for data N(m, spread^2 I). step="awd" leaves the prediction alone and moves x by alpha_next alpha r^2 g after
    each step, a `Kick`: the weight of the code published with RED-diff.

    Args:
        denoiser: the unconditional denoiser.
        op: a `LinearOp`, or a linear function. With an `svd` (or a `pinv` and no noise) the inverse is exact.
        y: what was measured, of the structure and shapes of op(x0).
        noise: standard deviation of the noise in y; None (or 0) means none.
        step: "bayes" or "awd" (static).
        spread: standard deviation of the data, > 0; the paper has 1.
        iterations: steps of conjugate gradients, where the operator knows no inverse; None solves exactly up to 64
            numbers of y and takes 64 steps beyond (static).
        event_ndim: how many trailing axes of x make one sample; None means all of x is one sample (static).

    Returns:
        The guided prediction (bayes), or the prediction with a kick (awd).

    Raises:
        ValueError: for a negative noise, a spread that is not positive, a y that is not finite or does not fit.
        TypeError: for a y of another structure.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0]], stds=[1.0])
        >>> op = js.denoise.LinearOp.mask(jnp.array([1.0, 0.0]))
        >>> js.denoise.PiGDM(law, op, jnp.array([2.0, 0.0]))(jnp.ones(2), 1.0).x0.tolist()
        [2.0, 0.5]

    Cost:
        One network call and its transpose, and the inverse of the operator.

    References:
        Song et al., "Pseudoinverse-Guided Diffusion Models for Inverse Problems", 2023, ICLR.
        Mardani et al., "A Variational Perspective on Solving Inverse Problems with Diffusion Models", 2023,
        arXiv:2305.04391 (awd).
    """

    denoiser: Any
    op: Any
    y: Any
    noise: Any = None
    step: str = static(default="bayes")
    spread: Any = 1.0
    iterations: int | None = static(default=None)
    event_ndim: int | None = static(default=None)

    def __post_init__(self):
        _check(self, check_operator("PiGDM", self.op))
        object.__setattr__(self, "noise", _noise_or_none("PiGDM", self.noise))
        check_choice("PiGDM: step", self.step, ("bayes", "awd"))
        check_number("PiGDM: spread", self.spread, low=0, open_low=True)
        _check_iterations("PiGDM", self.iterations)

    @property
    def kicks(self):
        """Whether predictions hold a kick."""
        return self.step == "awd"

    def __call__(self, x, t, *, key=None):
        """The prediction, drawn towards the measurement."""
        prediction, pull = transpose_x0(self.denoiser, x, t, key)
        dtype = jnp.result_type(*jax.tree.leaves(x))
        t, spread = jnp.asarray(t, dtype), jnp.asarray(self.spread, dtype)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        variance = (sigma * spread) ** 2 / (sigma**2 + (alpha * spread) ** 2)

        def toward(x0):
            # Times the variance, so that nothing grows as it falls to 0: A^T (A A^T + (noise / r)^2 I)^-1 residual.
            relative = None if self.noise is None else jnp.asarray(self.noise, dtype) / jnp.sqrt(variance)
            return self.op.inverse(self._residual(x0), x0, relative, iterations=self.iterations)

        lead = leading("PiGDM", prediction.x0, self.event_ndim)
        pulled = pull(each(toward, lead)(prediction.x0))
        if self.step == "awd":
            return add_kick(prediction, Kick(x0=jax.tree.map(lambda g: alpha * g, pulled)))
        return change_score(self.schedule, t, prediction, jax.tree.map(lambda g: g / variance, pulled))


@pytree
class TMPD(Measurement):
    """Tweedie moment projection: the likelihood of y with the network's own uncertainty about x0.

    C = (sigma^2 / alpha) dx0/dx is the covariance of x0 given x_t, and x0 <- x0 + C A^T (A C A^T + noise^2 I)^-1
    (y - A x0), a rate. Exact for every Gaussian: then this is the denoiser of the posterior.

    Args:
        denoiser: the unconditional denoiser.
        op: a `LinearOp`, or a linear function.
        y: what was measured, of the structure and shapes of op(x0).
        noise: standard deviation of the noise in y; None (or 0) means none.
        iterations: steps of conjugate gradients; None solves exactly up to 64 numbers of y and takes 64 steps beyond
            (static).
        covariance: "full", or "diagonal": A C A^T replaced by its row sums, negative ones by 0. The Jacobian of a
            trained network is neither symmetric nor positive, and there the full solve may diverge (static).
        event_ndim: how many trailing axes of x make one sample; None means all of x is one sample (static).

    Returns:
        The guided prediction.

    Raises:
        ValueError: for a negative noise, a y that is not finite or does not fit.
        TypeError: for a y of another structure.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[2.0])
        >>> op = js.denoise.LinearOp(lambda x: x)
        >>> round(float(js.denoise.TMPD(law, op, jnp.ones(1), noise=1.0)(jnp.zeros(1), 1.0).x0[0]), 4)
        0.4444

    Cost:
        One network call and a transpose for each number of y (up to 64) or each iteration, and two more.

    References:
        Boys et al., "Tweedie Moment Projected Diffusions For Inverse Problems", 2023, arXiv:2310.06721.
    """

    denoiser: Any
    op: Any
    y: Any
    noise: Any = None
    iterations: int | None = static(default=None)
    covariance: str = static(default="full")
    event_ndim: int | None = static(default=None)

    def __post_init__(self):
        _check(self, check_operator("TMPD", self.op))
        object.__setattr__(self, "noise", _noise_or_none("TMPD", self.noise))
        check_choice("TMPD: covariance", self.covariance, ("full", "diagonal"))
        _check_iterations("TMPD", self.iterations)

    def __call__(self, x, t, *, key=None):
        """The prediction of x0 given y."""
        prediction, pull = transpose_x0(self.denoiser, x, t, key)
        dtype = jnp.result_type(*jax.tree.leaves(x))
        t = jnp.asarray(t, dtype)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        lead = leading("TMPD", prediction.x0, self.event_ndim)
        _, unflat = ravel_pytree(jax.tree.map(lambda y: jnp.zeros(jnp.shape(y), dtype), self.y))

        def cotangent(u):
            return pull(each(lambda v, x0: self.op.transpose(unflat(v), x0), lead)(u, prediction.x0))

        def seen(moved):
            return each(lambda v: ravel_pytree(self.op(v))[0], lead)(moved)

        def covariance(u):
            certain = (sigma**2 / alpha) * seen(cotangent(u))
            return certain if self.noise is None else certain + jnp.asarray(self.noise, dtype) ** 2 * u

        residual = each(lambda x0: ravel_pytree(self._residual(x0))[0], lead)(prediction.x0)
        if self.covariance == "full":
            solved = solve_positive(covariance, residual, self.iterations)
        else:
            least = 0 if self.noise is None else jnp.asarray(self.noise, dtype) ** 2
            rows = jnp.maximum(covariance(jnp.ones_like(residual)), least)
            solved = jnp.where(rows > 0, residual / jnp.where(rows > 0, rows, 1), 0)
        return change_score(self.schedule, t, prediction, cotangent(solved))


@pytree
class DDNM(Measurement):
    """Null-space projection: the predicted x0 with its measured part replaced, x0 + scale A^+ (y - A x0).

    No gradient through the network. With scale 1 every prediction has A x0 = y, so a plan that ends at zero noise
    returns a sample that fits the measurement exactly. For measurements without noise: a good default for inpainting
    and super-resolution.

    Args:
        denoiser: the unconditional denoiser.
        op: a `LinearOp` with a `pinv` or an `svd`, or one small enough to solve.
        y: what was measured, of the structure and shapes of op(x0), in the range of the operator.
        scale: 1 replaces, less shrinks the correction. Forms as in `ClassifierFree`.
        iterations: as in `PiGDM` (static).
        event_ndim: how many trailing axes of x make one sample; None means all of x is one sample (static).

    Returns:
        The prediction with x0 and eps moved together.

    Raises:
        ValueError: for a scale that is not finite, a y that is not finite or does not fit.
        TypeError: for a y of another structure.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0]], stds=[1.0])
        >>> op = js.denoise.LinearOp.mask(jnp.array([1.0, 0.0]))
        >>> js.denoise.DDNM(law, op, jnp.array([2.0, 0.0]))(jnp.ones(2), 1.0).x0.tolist()
        [2.0, 0.5]

    Cost:
        The operator and its pseudo-inverse.

    References:
        Wang, Yu and Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", 2022,
        arXiv:2212.00490.
    """

    denoiser: Any
    op: Any
    y: Any
    scale: Any = 1.0
    iterations: int | None = static(default=None)
    event_ndim: int | None = static(default=None)

    def __post_init__(self):
        _check(self, check_operator("DDNM", self.op))
        object.__setattr__(self, "scale", check_scale("DDNM: scale", self.scale))
        _check_iterations("DDNM", self.iterations)

    def __call__(self, x, t, *, key=None):
        """The prediction with the measured part replaced."""
        prediction = self.denoiser(x, t, key=key)
        lead = leading("DDNM", prediction.x0, self.event_ndim)
        fill = lambda x0: self.op.inverse(self._residual(x0), x0, iterations=self.iterations)
        change = each(fill, lead)(prediction.x0)
        change = jax.tree.map(lambda c: weigh(self.scale, t, c) * c, change)
        return shift_x0(self.schedule, t, prediction, change)


def _noise_or_none(who: str, noise: Any) -> Any:
    """None for no noise: a fact of structure, which holds in a trace too."""
    if noise is None:
        return None
    check_number(f"{who}: noise", noise, low=0)
    known = concrete(noise)
    return None if known is not None and not known.any() else noise


def _check_iterations(who: str, iterations: int | None) -> None:
    if iterations is not None:
        check_count(f"{who}: iterations", iterations)
