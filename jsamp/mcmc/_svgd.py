"""Stein variational gradient descent: particles that climb and repel each other."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp._core import _fields, _tree
from jsamp._core._checks import check_flag
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import LogDensity, Scalar
from jsamp.mcmc import _kernel as k
from jsamp.select._neighbors import squared_distances

FLOOR = 1e-6  # added to root mean squares


def _bandwidth(name, value):
    """The conversion of a bandwidth: None, or a number > 0."""
    return None if value is None else k.positive(name, value)


_bandwidth.one_number = True  # pyright: ignore[reportFunctionMemberAccess]


@pytree
class SVGD:
    """Move particles by Stein variational gradient descent: they climb the density together and keep each other apart.

    Particle i moves along phi_i = mean over j of k(x_j, x_i) g(x_j) + grad_(x_j) k(x_j, x_i), g the gradient of the
    log-density: the direction that lowers the divergence of the particles from the target fastest, in the unit ball of
    the kernel's space. The kernel is exp(-|x - y|^2 / h). One particle climbs to the mode. The moves are deterministic
    and the particles no independent draws: a small set of them stands for the target, with too little spread in many
    dimensions.

    Position: the particles, an array or tree with a leading axis [N], N >= 2 unless `bandwidth` is given.

    Args:
        logdensity: log-density of one particle up to a constant; or
        score: its gradient. Give exactly one.
        step_size: step > 0.
        bandwidth: h > 0, or None: the median of the squared distances over log N, anew at every step.
        kernel: k(x, y) of two particles, a callable tree or a bare function, in place of the Gaussian one.
        scaled: divide each coordinate's move by the root mean square of its moves so far (static). False moves by
            step_size phi.
        rate: share of the past in that mean square, in [0, 1).

    Raises:
        TypeError: for a position that is not floating.
        ValueError: for numbers out of range, both or neither of logdensity and score, a kernel and a bandwidth
            together, one particle without a bandwidth, particles that are all equal, or more than half of the pairs
            equal without a bandwidth.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> particles = jax.random.normal(jax.random.key(0), (30, 2))
        >>> kernel = js.mcmc.SVGD(lambda x: -jnp.sum((x - 3) ** 2) / 2)
        >>> result = js.chain(jax.random.key(1), kernel, particles, 1, thin=200)
        >>> bool(jnp.all(abs(result.x[-1].mean(0) - 3) < 0.2))
        True

    Cost:
        N gradients and N^2 d multiply-adds per step; memory N^2.

    References:
        Liu and Wang, "Stein variational gradient descent: a general purpose Bayesian inference algorithm", 2016,
        arXiv:1608.04471; "Stein variational gradient descent as moment matching", 2018, arXiv:1810.11693 (other
        kernels).
    """

    logdensity: LogDensity | None = field(default=None, convert=_fields.callable_as("logdensity(x)", optional=True))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    bandwidth: Scalar | None = field(default=None, convert=_bandwidth)
    kernel: Any = field(default=None, convert=_fields.callable_as("kernel(x, y)", optional=True))
    score: Any = field(default=None, convert=_fields.callable_as("score(x)", optional=True))
    scaled: bool = static(default=True, convert=check_flag)
    rate: Scalar = field(default=0.9, convert=k.between(low=0, high=1 - 1e-7))

    def __post_init__(self):
        k.one_of_two(self)
        if self.kernel is not None and self.bandwidth is not None:
            raise ValueError("SVGD: give a kernel or a bandwidth, not both.")

    def init(self, x, key=None):
        """Start the particles at x; the memory holds mean squares of the moves and the step count."""
        k.check_numbers(self)
        x = k.position("SVGD", x, metropolis=False)
        num = k.leading_axis("SVGD: x", "particles", x)
        if self.kernel is None and self.bandwidth is None and num < 2:
            raise ValueError("SVGD: one particle has no distances to take a bandwidth from. Pass bandwidth=.")
        self._refuse_equal(x, num)
        return k.State(x, self._points(x), (_tree.zeros_like(x), jnp.zeros((), jnp.int32)))

    def _refuse_equal(self, x, num):
        """Refuse particles that are all equal, or so many equal ones that the median distance is 0."""
        counts = k.copies("SVGD", "particles", x)
        median = self.kernel is None and self.bandwidth is None
        if median and counts is not None and 2 * np.sum(counts**2) > num**2:
            raise ValueError(f"SVGD: {counts.max()} of {num} particles in x are equal, so the median distance, from "
                             f"which the bandwidth is taken, is 0. Spread them, or pass bandwidth=.")  # fmt: skip

    def _points(self, x):
        return jax.vmap(lambda x: k.evaluate(self, x))(x)

    def step(self, key, state):
        """Move all particles once; `info.aux` is the root mean square of phi. Nothing is drawn: key may be None."""
        x, point, (square, count) = state
        phi = self._direction(x, point.grad)
        step = self.step_size
        if self.scaled:
            # The first move fills the mean square.
            share = jnp.where(count == 0, 0, self.rate)
            square = jax.tree.map(lambda s, p: (share * s + (1 - share) * p * p).astype(s.dtype), square, phi)
            move = jax.tree.map(lambda p, s: p / (FLOOR + jnp.sqrt(s)), phi, square)
        else:
            move = phi
        y = k.axpy(step, move, x)
        end = self._points(y)
        size = jnp.sqrt(_tree.dot(phi, phi) / _tree.size(x)).astype(k.dtype_of(x))
        num = jax.tree.leaves(x)[0].shape[0]
        info = k.info(x, nfe=num, diverged=jnp.any(jax.vmap(k.astray)(end)), aux=size)
        return k.State(y, end, (square, count + 1)), info

    def _direction(self, x, grad):
        """The direction phi, a tree like x."""
        if self.kernel is not None:
            return self._direction_of_kernel(x, grad)
        rows = jax.vmap(lambda leaf: ravel_pytree(leaf)[0])
        flat, slope = rows(x).astype(k.dtype_of(x)), rows(grad).astype(k.dtype_of(x))
        num = flat.shape[0]
        squares = squared_distances(flat, flat)
        h = self.bandwidth
        if h is None:
            # All N^2 distances, the zeros of the diagonal too, as in the paper's code.
            h = jnp.maximum(jnp.median(squares) / math.log(num), jnp.finfo(flat.dtype).tiny)
        weights = jnp.exp(-squares / h)
        centred = flat - jnp.mean(flat, 0, keepdims=True)  # the repulsion needs differences alone
        climb = jnp.matmul(weights, slope, precision="highest")
        apart = jnp.sum(weights, 1, keepdims=True) * centred - jnp.matmul(weights, centred, precision="highest")
        phi = (climb + 2 / h * apart) / num
        unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], x))[1]
        dtype = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], x))[0].dtype
        return k.like(jax.vmap(unravel)(phi.astype(dtype)), x)

    def _direction_of_kernel(self, x, grad):
        """The direction phi for a user's kernel."""

        def pair(one, slope, at):
            value, repel = jax.value_and_grad(lambda one: k.value_of(self.kernel, "kernel", one, at))(one)
            return jax.tree.map(lambda g, r: value * g + r, slope, repel)

        def at(x_i):
            return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), jax.vmap(lambda a, g: pair(a, g, x_i))(x, grad))

        return k.like(jax.vmap(at)(x), x)
