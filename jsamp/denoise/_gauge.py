"""Gauge fields: what may be added to a score without changing the law of the samples, and what of a field matters."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._like import dtype_of
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree
from jsamp.denoise import _fields
from jsamp.denoise._algebra import levels
from jsamp.denoise._protocol import Wrapper


@pytree
class Gauge(Wrapper):
    """Add a divergence-free part to a denoiser: made by `add_gauge`.

    Args:
        denoiser: the denoiser below.
        turn: [d, d] antisymmetric matrix that acts on its flattened eps.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0]], stds=[1.0])
        >>> js.denoise.Gauge(law, jnp.array([[0.0, -1.0], [1.0, 0.0]]))(jnp.array([2.0, 0.0]), 1.0).eps.tolist()
        [1.0, 1.0]

    Cost:
        One call of the denoiser, and a product with the [d, d] matrix for each sample.
    """

    denoiser: Any = field(check=_fields.denoiser)
    turn: Any = field(check=_fields.number())

    def __call__(self, x, t, *, key=None):
        """Predict x0 and eps, with the turned part added to eps and taken from x0."""
        raw = self.denoiser(x, t, key=key)
        size, shape = self.turn.shape[0], raw.eps.shape
        axes = [k for k in range(len(shape) + 1) if math.prod(shape[k:]) == size]
        if not axes:
            raise ValueError(
                f"Gauge: the last axes of x must hold {size} numbers, as the matrix does; got shape {shape}."
            )
        flat = raw.eps.reshape(*shape[: axes[-1]], size)
        moved = jnp.matmul(flat, self.turn.T.astype(flat.dtype), precision="highest").reshape(shape)
        alpha, sigma = levels(self.schedule, t, x)
        return raw._replace(x0=raw.x0 - sigma / alpha * moved, eps=raw.eps + moved)


def add_gauge(denoiser: Any, matrix: Any) -> Gauge:
    """Add a divergence-free part to a denoiser: other trajectories, the same law of samples.

    With K = (A - A^T) / 2 the field r = K grad log p_t has div(p_t r) = div(K grad p_t) = 0 for every p_t, so s + r
    moves the law as s does: the ODE and the SDE keep their marginals while the Jacobian is no longer symmetric. Here
    eps <- eps + K eps. A denoiser that is not exact gets K times its own error, too.

    Args:
        denoiser: any denoiser of one array x.
        matrix: [d, d] A, of which the antisymmetric part acts on the trailing axes of x that hold d
            numbers; axes in front are a batch.

    Returns:
        `Gauge`, a denoiser.

    Raises:
        ValueError: for a matrix that is not square or not finite.
        TypeError: for what is no denoiser.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0]], stds=[[1.0, 2.0]])
        >>> turned = js.denoise.add_gauge(law, 3 * jnp.array([[0.0, -1.0], [1.0, 0.0]]))
        >>> bool(js.estimate.asymmetry(None, lambda x: turned(x, 1.0).eps, jnp.ones(2)).value > 0.5)
        True

    Cost:
        One d x d product a call.

    References:
        Horvat and Pfister, "On gauge freedom, conservativity and intrinsic dimensionality estimation in diffusion
        models", 2024, arXiv:2402.03845.
    """
    _checks.check_finite("add_gauge: matrix", matrix)
    _checks.check_floating("add_gauge: matrix", matrix)
    matrix = jnp.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"add_gauge: matrix must be square, got shape {matrix.shape}.")
    return Gauge(denoiser, (matrix - matrix.T) / 2)


@pytree
class ConservativePart:
    """Combine gradients of potentials: x -> sum_k c_k grad phi_k(x). Made by `conservative_part`.

    Args:
        potentials: x -> [K] values phi_k(x).
        coefficient: [K] c.
        explained: share of the field's mean square that the combination explains, 1 for a gradient field within reach.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> part = js.denoise.ConservativePart(lambda x: jnp.sum(x**2)[None] / 2, jnp.array([-1.0]), 1.0)
        >>> part(jnp.array([1.0, 2.0])).tolist()
        [-1.0, -2.0]

    Cost:
        One call of the potentials and one pull-back through them.
    """

    potentials: Any = field(convert=_fields.callable_as("potentials(x)"))
    coefficient: Any
    explained: Any

    def __call__(self, x):
        """Evaluate the combination of gradients at one point."""
        values, pull = jax.vjp(self.potentials, vary(x, self.coefficient))
        return pull(vary(jnp.asarray(self.coefficient, values.dtype), values))[0]


def conservative_part(function: Any, potentials: Any, x: Any) -> ConservativePart:
    """Project a vector field on gradients of given potentials, in mean square over samples.

    min_c mean_n |f(x_n) - sum_k c_k grad phi_k(x_n)|^2. Over samples of p the projection of score + gauge field is the
    projection of the score: only this part decides which law is sampled. For N(0, S) and quadratic potentials it is
    the solution B of S B + B S = M S + S M^T, f = M x.

    Args:
        function: x -> f(x), like x.
        potentials: x -> [K] values of K scalar potentials.
        x: [n, ...] samples.

    Returns:
        `ConservativePart(potentials, coefficient [K], explained)`, a function of x.

    Raises:
        TypeError: for what cannot be called, or samples that are not floating.
        ValueError: for a field that changes the shape, or potentials that are not a vector.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> x = jax.random.normal(jax.random.key(0), (500, 2))
        >>> turned = lambda x: -x + jnp.array([[0.0, -1.0], [1.0, 0.0]]) @ x  # score of N(0, I) and a rotation
        >>> part = js.denoise.conservative_part(turned, lambda x: jnp.sum(x**2)[None] / 2, x)
        >>> round(float(part.coefficient[0]), 4), 0.45 < float(part.explained) < 0.55
        (-1.0, True)

    Cost:
        n evaluations, n K gradients, one least-squares problem [n d, K].

    References:
        Horvat and Pfister, 2024, arXiv:2402.03845.
    """
    function = as_tree("conservative_part: function", function, "function(x)")
    potentials = as_tree("conservative_part: potentials", potentials, "potentials(x)")
    _checks.check_finite("conservative_part: x", x)
    _checks.check_rows("conservative_part: x", x)
    _checks.check_floating("conservative_part: x", x)
    x = jnp.asarray(x, dtype_of(x, at_least=jnp.float32))
    if x.ndim < 2:
        raise ValueError(f"conservative_part: x must be samples [n, ...], got shape {x.shape}.")
    one = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    values, out = jax.eval_shape(potentials, one), jax.eval_shape(function, one)
    if len(values.shape) != 1 or out.shape != one.shape:
        raise ValueError(f"conservative_part: potentials(x) must be [K] and function(x) {one.shape}; got "
                         f"{values.shape} and {out.shape}.")  # fmt: skip
    target = jax.vmap(function)(x).reshape(-1)
    design = jax.vmap(jax.jacrev(potentials))(x)
    design = jnp.moveaxis(design, 1, -1).reshape(target.size, -1)
    scale = jnp.sqrt(jnp.mean(design**2, 0))
    scale = jnp.where(scale > 0, scale, 1)
    coefficient = jnp.linalg.lstsq(design / scale[None], target)[0] / scale
    fitted = jnp.matmul(design, coefficient, precision="highest")
    whole = jnp.sum(target**2)
    share = 1 - jnp.sum((target - fitted) ** 2) / jnp.where(whole > 0, whole, 1)
    return ConservativePart(potentials, coefficient, jnp.where(whole > 0, share, 1))
