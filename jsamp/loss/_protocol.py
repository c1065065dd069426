"""What a loss is, what it may say about itself, and what all losses share.

A loss may have these class attributes and methods beside `draw`, `value` and `__call__`; `js.fit.minimise` asks:

player: int or None, default None. Which entry of a tuple of players the loss trains; None: the whole model. A model
    that is not a tuple is trained whole.
remember(aux) -> loss, default: the loss itself. The loss to use next, with what it must carry over put in.

The interpolant of `Interpolate` may say (`Interpolate` asks):

two_sided: bool, default True. Whether both ends are data, so that a batch is a pair.

The density of `AdversarialSampling` and `AdversarialDensity` must have, beside density(x) -> log density relative to
the even law of its box (both ask):

push: u -> x, a draw for an even u in the unit cube.
low, high: corners of the box, tuples of numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._like import match
from jsamp._core._mesh import on_mesh_of, sharded_like
from jsamp._core._tree import size
from jsamp._core._types import Key


@runtime_checkable
class Loss(Protocol):
    """Split a training objective into its random numbers and a deterministic, differentiable value.

    `loss(key, model, batch)` is `loss.value(model, loss.draw(key, batch))`: a scalar, and what else is known. Take
    `jax.value_and_grad(loss, argnums=1, has_aux=True)` with any optimiser, or `js.fit.minimise`. A loss of several
    networks takes a tuple of players as its model; each player has a loss of its own over the same tuple.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.Match(js.noise.VP(), predicts="eps")
        >>> value, info = loss(jax.random.key(0), lambda x, t: jnp.zeros_like(x), jnp.ones((4, 2)))
        >>> value.shape, info.each.shape, isinstance(loss, js.loss.Loss)
        ((), (4,), True)
    """

    def draw(self, key: Key, batch: Any) -> Any: ...
    def value(self, model: Any, drawn: Any) -> tuple[Any, Any]: ...
    def __call__(self, key: Key, model: Any, batch: Any) -> tuple[Any, Any]: ...


class LossInfo(NamedTuple):
    """Hold the loss of each row of the batch; their mean is the value.

    Args:
        each: [n].
        parts: None, or a dictionary of the means of the terms.

    Example:
        >>> import jsamp as js
        >>> js.loss.LossInfo(each=[0.5]).parts is None
        True
    """

    each: Any
    parts: Any = None


class Called:
    """The call of every loss, and the defaults of the protocol."""

    player: Any = None

    def remember(self: Any, aux: Any) -> Any:
        """Return the loss to use next: this one."""
        return self

    def __call__(self: Any, key: Key, model: Any, batch: Any) -> tuple[Any, Any]:
        """Draw, then evaluate."""
        with on_mesh_of(type(self).__name__, batch):
            return self.value(model, sharded_like(self.draw(key, batch), batch))


def check_batch(name: str, batch: Any) -> int:
    """Return the number of rows of a tree of floating arrays [n, ...], or refuse it."""
    leaves = jax.tree.leaves(batch)
    if not leaves:
        raise ValueError(f"{name} is an empty tree; pass an array [n, ...] or a tree of them.")
    for leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or np.ndim(leaf) < 1:
            raise TypeError(f"{name} must be arrays [n, ...], got {leaf!r}. Convert lists by jnp.asarray(batch).")
        if dtype == jnp.uint8:
            raise TypeError(f"{name} is uint8, bytes of images. Scale them, for example x / 127.5 - 1 for [-1, 1].")
    _checks.check_floating(name, batch)
    for leaf in leaves:
        known = _checks.concrete(leaf)
        if known is not None and not np.all(np.isfinite(known.astype(np.float32))):
            raise ValueError(f"{name} holds NaN or infinity. Clean the data first.")
    return check_rows(name, batch)


def check_rows(name: str, batch: Any) -> int:
    """Return the common length of the leading axes of a tree, or refuse it."""
    _checks.refuse_sparse_leaves(name, batch)
    lengths = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"{name} must have one leading axis of rows in every array, got lengths {sorted(map(str, lengths))}."
        )
    (num,) = lengths
    if num == 0:
        raise ValueError(f"{name} has no rows.")
    return int(num)  # pyright: ignore[reportArgumentType]


def split_condition(name: str, batch: Any) -> tuple[Any, Any, int]:
    """Return the rows, their condition (or None) and their number, from x or a pair (x, condition)."""
    if type(batch) is tuple:
        if len(batch) != 2:
            raise ValueError(f"{name} must be x or a pair (x, condition), got a tuple of {len(batch)}.")
        x, condition = batch
    else:
        x, condition = batch, None
    num = check_batch(f"{name}: x", x)
    if condition is not None and check_rows(f"{name}: condition", condition) != num:
        raise ValueError(f"{name}: condition must have the {num} rows of x, got {check_rows(name, condition)}.")
    return jax.tree.map(jnp.asarray, x), jax.tree.map(jnp.asarray, condition), num


def call(name: str, model: Any, batched: bool, *rows: Any) -> Any:
    """Evaluate a model on every row: by vmap, or in one call when it takes the leading axis itself."""
    rows = tuple(row for row in rows if row is not None)
    _checks.check_callable(name, model, f"model({', '.join(('x', 't', 'condition', 'more')[: len(rows)])})")
    return model(*rows) if batched else jax.vmap(lambda *row: model(*row))(*rows)


def each_number(name: str, found: Any) -> jax.Array:
    """Return what a function says of each row [n], or refuse what is not one number for each: it would broadcast."""
    if jnp.ndim(found) != 1:
        raise TypeError(f"{name} must return one number for each row, got shape {jnp.shape(found)[1:]} for each.")
    return found


def call_like(name: str, model: Any, batched: bool, x: Any, *rows: Any) -> Any:
    """`call`, with the output refused unless it has the structure and shapes of x, in the dtypes of x."""
    return match(f"{name}: the model's output", call(f"{name}: model", model, batched, x, *rows), x)


def mean_square(tree: Any) -> jax.Array:
    """Return the mean square of one event, over all numbers of the tree."""
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)) / size(tree)  # pyright: ignore


def each_square(a: Any, b: Any) -> jax.Array:
    """Return the mean square difference of each row [n]."""
    return jax.vmap(mean_square)(jax.tree.map(jnp.subtract, a, b))


def finish(each: jax.Array, **parts: Any) -> tuple[jax.Array, LossInfo]:
    """Return the mean over rows, and the rows."""
    return jnp.mean(each), LossInfo(each, parts or None)


def scale_rows(factor: Any, tree: Any) -> Any:
    """Multiply each row of the leaves [n, ...] by its factor [n], in the wider dtype, to the dtype of the leaf."""
    return jax.tree.map(
        lambda leaf: (factor.reshape(factor.shape + (1,) * (leaf.ndim - 1)) * leaf).astype(leaf.dtype), tree
    )


def players(name: str, model: Any, *names: str) -> tuple:
    """Return the players of a model, or refuse one that is not a tuple of that many callables."""
    if type(model) is not tuple or len(model) != len(names):
        got = f"a tuple of {len(model)}" if type(model) is tuple else f"{type(model).__name__}"
        raise TypeError(f"{name}: model must be the tuple ({', '.join(names)}), got {got}.")
    for which, player in zip(names, model, strict=True):
        _checks.check_callable(f"{name}: {which}", player, "a network")
    return model


def frozen(tree: Any) -> Any:
    """Stop gradients through every array of a tree; leave what is not an array alone."""
    stop = lambda leaf: jax.lax.stop_gradient(leaf) if isinstance(leaf, (jax.Array, np.ndarray)) else leaf
    return jax.tree.map(stop, tree)
