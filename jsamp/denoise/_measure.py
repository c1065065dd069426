"""Conditioning on measurements y = A x0 + noise, without training: DPS, PiGDM, TMPD, DDNM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jsamp._core._checks import check_number
from jsamp._core._like import dtype_of
from jsamp._core._pytree import field, pytree, static
from jsamp._core._sample_axes import batch_ndim, check_event_ndim, over_batch
from jsamp._core._types import Key, Tree
from jsamp.denoise import _fields
from jsamp.denoise._algebra import (
    add_kick,
    change_score,
    levels,
    minimal_residual,
    shift_x0,
    transpose_x0,
)
from jsamp.denoise._operator import check_operator
from jsamp.denoise._pair import scaled
from jsamp.denoise._protocol import Kick, Wrapper


class Measurement(Wrapper):
    """A base of denoisers with a measurement: a class has fields `denoiser`, `op`, `y`, `event_ndim`.

    It gives the residual y - A x0 of one sample.
    """

    denoiser: Any
    op: Any
    y: Any
    event_ndim: int | None

    def _residual(self, x0):
        """The residual y - A x0 of one sample."""
        return residual(type(self).__name__, self.op, self.y, x0)


def residual(name: str, op: Any, y: Any, x0: Any) -> Any:
    """The residual y - A x0 of one sample; refuses a measurement that A cannot give."""
    seen = op(x0)
    if jax.tree.structure(seen) != jax.tree.structure(y):
        raise TypeError(
            f"{name}: y must have the structure of op(x0), {jax.tree.structure(seen)}; got "
            f"{jax.tree.structure(y)}. A list is a tree: pass jnp.asarray(y) for an array."
        )
    shapes = [tuple(map(jnp.shape, jax.tree.leaves(tree))) for tree in (y, seen)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{name}: y has shapes {shapes[0]}, but op(x0) has {shapes[1]}. y is one measurement; for a batch of x "
            f"that share it give event_ndim, for a batch of both use jax.vmap."
        )
    return jax.tree.map(lambda v, a: jnp.asarray(v, a.dtype) - a, y, seen)


def _squared(tree):
    """Sum the squares of a tree, of complex numbers too."""
    return jnp.sum(jnp.stack([jnp.sum(jnp.real(v) ** 2 + jnp.imag(v) ** 2) for v in jax.tree.leaves(tree)]))


@pytree
class DPS(Measurement):
    """Follow the gradient of the misfit of the predicted x0, through the network: diffusion posterior sampling.

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

    denoiser: Any = field(check=_fields.denoiser)
    op: Any = field(convert=_fields.callable_as("op(x)"))
    y: Tree = field(check=_fields.finite("Put 0 where nothing was measured."))
    scale: Any = field(default=1.0, convert=_fields.weight)
    likelihood: Literal["norm", "gaussian"] = static(default="norm", check=_fields.one_of("norm", "gaussian"))
    noise: Any = field(default=None, check=_fields.number(0, open_low=True, optional=True))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def __post_init__(self):
        if not callable(self.scale):
            jax.tree.map(lambda value: check_number("DPS: scale", value, low=0), self.scale)
        if (self.noise is None) == (self.likelihood == "gaussian"):
            raise ValueError("DPS: give noise, the standard deviation in y, with likelihood='gaussian' and only there.")

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
        batch = batch_ndim("DPS", prediction.x0, self.event_ndim)
        slope = pull(over_batch(jax.grad(self._misfit), batch)(prediction.x0))
        move = jax.tree.map(jnp.negative, scaled(self.scale, t, slope))
        if self.likelihood == "norm":
            return add_kick(prediction, Kick(x=move))
        return change_score(self.schedule, t, prediction, move)


@pytree
class PiGDM(Measurement):
    """Weigh y as if x0 were known up to an isotropic Gaussian: pseudo-inverse guidance.

    r^2 = sigma^2 s^2 / (sigma^2 + alpha^2 s^2) is the variance of x0 given x_t for data of standard deviation
    s = `data_std`, and g = (dx0/dx)^T A^T (r^2 A A^T + noise^2 I)^-1 (y - A x0). step="bayes" raises the score by g, a
    rate; exact for data N(m, s^2 I). step="awd" leaves the prediction alone and moves x by alpha_next alpha r^2 g after
    each step, a `Kick`: the weight of the code published with RED-diff.

    Args:
        denoiser: the unconditional denoiser.
        op: a `LinearOp`, or a linear function. With an `svd` (or a `pinv` and no noise) the inverse is exact.
        y: what was measured, of the structure and shapes of op(x0).
        noise: standard deviation of the noise in y; None (or 0) means none.
        step: "bayes" or "awd" (static).
        data_std: standard deviation of the data, > 0; the paper has 1.
        iterations: steps of conjugate gradients, where the operator knows no inverse; None solves exactly up to 64
            numbers of y and takes 64 steps beyond (static).
        event_ndim: how many trailing axes of x make one sample; None means all of x is one sample (static).

    Returns:
        The guided prediction (bayes), or the prediction with a kick (awd).

    Raises:
        ValueError: for a negative noise, a data_std that is not positive, a y that is not finite or does not fit.
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

    denoiser: Any = field(check=_fields.denoiser)
    op: Any = field(convert=check_operator)
    y: Tree = field(check=_fields.finite("Put 0 where nothing was measured."))
    noise: Any = field(default=None, convert=_fields.noise_std)
    step: Literal["bayes", "awd"] = static(default="bayes", check=_fields.one_of("bayes", "awd"))
    data_std: Any = field(default=1.0, check=_fields.number(0, open_low=True))
    iterations: int | None = static(default=None, convert=_fields.count(optional=True))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    @property
    def kicks(self):
        """Whether predictions hold a kick."""
        return self.step == "awd"

    def __call__(self, x, t, *, key=None):
        """The prediction, drawn towards the measurement."""
        prediction, pull = transpose_x0(self.denoiser, x, t, key)
        dtype = dtype_of(x)
        std = jnp.asarray(self.data_std, dtype)
        alpha, sigma = levels(self.schedule, t, x)
        variance = (sigma * std) ** 2 / (sigma**2 + (alpha * std) ** 2)

        def toward(x0):
            # Times the variance, so that nothing grows as it falls to 0: A^T (A A^T + (noise / r)^2 I)^-1 residual.
            relative = None if self.noise is None else jnp.asarray(self.noise, dtype) / jnp.sqrt(variance)
            return self.op.inverse(self._residual(x0), x0, relative, iterations=self.iterations)

        batch = batch_ndim("PiGDM", prediction.x0, self.event_ndim)
        pulled = pull(over_batch(toward, batch)(prediction.x0))
        if self.step == "awd":
            return add_kick(prediction, Kick(x0=jax.tree.map(lambda g: alpha * g, pulled)))
        return change_score(self.schedule, t, prediction, jax.tree.map(lambda g: g / variance, pulled))


@pytree
class TMPD(Measurement):
    """Weigh y by the network's own uncertainty about x0: Tweedie moment projection.

    C = (sigma^2 / alpha) dx0/dx is the covariance of x0 given x_t, and x0 <- x0 + C A^T (A C A^T + noise^2 I)^-1
    (y - A x0), a rate. Exact for every Gaussian: then this is the denoiser of the posterior.

    The Jacobian of a trained network is neither symmetric nor positive, and its small eigenvalues are errors: an exact
    solve would blow them up. The solve by minimal residuals takes few steps, never raises the misfit, and is stable
    there.

    Args:
        denoiser: the unconditional denoiser.
        op: a `LinearOp`, or a linear function.
        y: what was measured, of the structure and shapes of op(x0).
        noise: standard deviation of the noise in y; None (or 0) means none.
        iterations: steps of the solve, which makes the residual least in a Krylov space; None takes one for each number
            of y, at most 16: exact up to there, and beyond for a spectrum of as many values (static).
        covariance: "full", or "diagonal": A C A^T replaced by the sizes of its row sums, as the authors' code does but
            for the sign (static).
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

    denoiser: Any = field(check=_fields.denoiser)
    op: Any = field(convert=check_operator)
    y: Tree = field(check=_fields.finite("Put 0 where nothing was measured."))
    noise: Any = field(default=None, convert=_fields.noise_std)
    iterations: int | None = static(default=None, convert=_fields.count(optional=True))
    covariance: Literal["full", "diagonal"] = static(default="full", check=_fields.one_of("full", "diagonal"))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def __call__(self, x, t, *, key=None):
        """Predict x0 given y."""

        def solve(covariance, residual, variance):
            if self.covariance == "full":
                return minimal_residual(covariance, residual, self.iterations)
            rows = jnp.abs(covariance(jnp.ones_like(residual)) - variance) + variance
            return jnp.where(rows > 0, residual / jnp.where(rows > 0, rows, 1), 0)

        return moment_matched("TMPD", self, x, t, key, solve)


def moment_matched(name: str, guidance: Any, x: Any, t: Any, key: Key | None, solve: Callable[..., Any]) -> Any:
    """The prediction given y, from `solve(u -> (A C A^T + noise^2 I) u, y - A x0, noise^2)`."""
    prediction, pull = transpose_x0(guidance.denoiser, x, t, key)
    alpha, sigma = levels(guidance.schedule, t, x)
    batch = batch_ndim(name, prediction.x0, guidance.event_ndim)
    _, unflat = ravel_pytree(jax.tree.map(lambda y: jnp.zeros(jnp.shape(y), dtype_of(x)), guidance.y))
    variance = 0 if guidance.noise is None else jnp.asarray(guidance.noise, dtype_of(x)) ** 2

    def cotangent(u):
        return pull(over_batch(lambda v, x0: guidance.op.transpose(unflat(v), x0), batch)(u, prediction.x0))

    def covariance(u):
        moved = over_batch(lambda v: ravel_pytree(guidance.op(v))[0], batch)(cotangent(u))
        return (sigma**2 / alpha) * moved + variance * u

    residual = over_batch(lambda x0: ravel_pytree(guidance._residual(x0))[0], batch)(prediction.x0)
    solved = solve(covariance, residual, variance)
    return change_score(guidance.schedule, t, prediction, cotangent(solved))


@pytree
class DDNM(Measurement):
    """Replace the measured part of the predicted x0, x0 + scale A^+ (y - A x0): null-space projection.

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

    denoiser: Any = field(check=_fields.denoiser)
    op: Any = field(convert=check_operator)
    y: Tree = field(check=_fields.finite("Put 0 where nothing was measured."))
    scale: Any = field(default=1.0, convert=_fields.weight)
    iterations: int | None = static(default=None, convert=_fields.count(optional=True))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def __call__(self, x, t, *, key=None):
        """The prediction with the measured part replaced."""
        prediction = self.denoiser(x, t, key=key)
        batch = batch_ndim("DDNM", prediction.x0, self.event_ndim)
        fill = lambda x0: self.op.inverse(self._residual(x0), x0, iterations=self.iterations)
        change = over_batch(fill, batch)(prediction.x0)
        return shift_x0(self.schedule, t, prediction, scaled(self.scale, t, change))
