"""Losses of whole populations of samples: the maximum mean discrepancy."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields
from jsamp._core._callable import as_tree
from jsamp._core._mesh import whole
from jsamp._core._pytree import field, pytree
from jsamp.estimate._pairs import is_small, measured, own_sums, pair_sums, squared
from jsamp.loss import _protocol as p
from jsamp.select._whiten import matmul

BLOCK = 256  # rows of both sets in a tile of kernel values


def _polynomial(x, y):
    """(x.y / d + 1)^3 of all pairs [n, m], at full precision."""
    return (matmul(x, y.T) / x.shape[-1] + 1) ** 3


def _gaussian(x, y):
    """exp(-|x - y|^2 / d) of all pairs [n, m]."""
    centre = jnp.mean(y, axis=0, keepdims=True)
    return jnp.exp(-squared(measured(x - centre), measured(y - centre), is_small(x, y)) / x.shape[-1])


KERNELS = {"polynomial": _polynomial, "gaussian": _gaussian}


def _kernel(name, value):
    if callable(value):
        return as_tree(name, value, "kernel(x, y)")
    _checks.check_choice(name, value, tuple(KERNELS))
    return jax.tree_util.Partial(KERNELS[value])


def each_mmd(kernel: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Share of each row of x in the unbiased squared discrepancy of x [n, d] and y [m, d]; their mean is its value."""
    own = own_sums(kernel, x, BLOCK) / (x.shape[0] - 1)
    other = own_sums(kernel, y, BLOCK) / (y.shape[0] - 1)
    cross, _ = pair_sums(kernel, x, y, BLOCK)
    return own + jnp.mean(other) - 2 * cross / y.shape[0]


class PopulationDrawn(NamedTuple):
    """Hold what `MMDFinetune` draws.

    Args:
        x: real rows [n, ...].
        keys: keys of as many samples [n].

    Example:
        >>> import jsamp as js
        >>> js.loss.PopulationDrawn(x=1.0, keys=None).x
        1.0
    """

    x: Any
    keys: Any


@pytree
class MMDFinetune(p.Called):
    """Tune a model for the few steps of its own sampler: match features of samples and of real rows.

    The value is the unbiased squared maximum mean discrepancy between the features of n samples and of the n real rows
    of the batch; its expectation is zero for a perfect sampler, so single values may be negative. Gradients flow
    through every step of the sampler.

    Args:
        sampler: callable tree (key, model) -> one sample, for example `lambda key, model: js.sample(...)`. Wrap its
            network in `jax.checkpoint` where memory is short.
        features: callable tree x -> vector [d]; None flattens the row. Measure the result with another network.
        kernel: "polynomial", (a.b / d + 1)^3; "gaussian", exp(-|a - b|^2 / d); or a callable tree ([n, d], [m, d]) ->
            [n, m].

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`, the share of each sample in `each`. batch: real rows [n, ...],
        n >= 2.

    Raises:
        TypeError: for a sampler or features that cannot be called, or features that are not one vector.
        ValueError: for an unknown kernel, or fewer than two rows.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.MMDFinetune(lambda key, model: model + jax.random.normal(key, (2,)), kernel="gaussian")
        >>> real = jax.random.normal(jax.random.key(1), (200, 2))
        >>> far, near = (loss(jax.random.key(0), jnp.full(2, shift), real)[0] for shift in (2.0, 0.0))
        >>> bool(far > 0.3), bool(abs(near) < 0.05)
        (True, True)

    Cost:
        n runs of the sampler, forward and backward, and 2 n^2 kernel values in tiles of 256 rows, formed again for the
        gradient.

    References:
        Aiello, Valsesia and Magli, "Fast Inference in Denoising Diffusion Models via MMD Finetuning", 2023,
        arXiv:2301.07969.
    """

    sampler: Any = field(convert=_fields.callable_as("sampler(key, model)"))
    features: Any = field(default=None, convert=_fields.callable_as("features(x)", optional=True))
    kernel: Any = field(default="polynomial", convert=_kernel)

    def draw(self, key, batch):
        """Draw a key for each sample."""
        _checks.check_key(key, "MMDFinetune")
        num = p.check_batch("MMDFinetune: batch", batch)
        if num < 2:
            raise ValueError("MMDFinetune: batch must have at least 2 rows, got 1.")
        return PopulationDrawn(jax.tree.map(jnp.asarray, batch), jax.random.split(key, num))

    def value(self, model, drawn):
        """Return the squared discrepancy."""
        made = jax.vmap(lambda key: self.sampler(key, model))(drawn.keys)
        dtype = jnp.result_type(*jax.tree.leaves(drawn.x))
        made = jax.tree.map(lambda leaf: leaf.astype(dtype), made)
        real, made = whole(self._features(drawn.x)), whole(self._features(made))
        if real.shape[1:] != made.shape[1:]:
            raise TypeError(f"MMDFinetune: samples have {made.shape[1]} features, real rows {real.shape[1]}.")
        rows = (jax.ShapeDtypeStruct((n, made.shape[1]), made.dtype) for n in (3, 2))
        tile = jax.eval_shape(self.kernel, *rows)
        if getattr(tile, "shape", None) != (3, 2):
            raise TypeError(f"MMDFinetune: kernel(x [3, d], y [2, d]) must return [3, 2], got {tile}.")
        return p.finish(each_mmd(self.kernel, made, real))

    def _features(self, x):
        if self.features is None:
            leaves = jax.tree.leaves(x)
            return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)
        found = jax.vmap(self.features)(x)
        if jnp.ndim(found) != 2:
            raise TypeError(f"MMDFinetune: features(x) must be one vector, got shape {jnp.shape(found)[1:]}.")
        return found
