"""Bilevel optimisation over many lower problems, by blocks and with variance reduction."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jsamp._core import _checks, _fields, _tree
from jsamp._core._like import as_arrays
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Key, Model, Scalar, Tree
from jsamp.select._repeat import repeated_subsets

TRACKED = ("hessian", "products")


class BilevelState(NamedTuple):
    """Hold the point of a bilevel run and its running estimates; m is the number of blocks.

    Args:
        x: upper variables.
        ys: lower variables of every block, leaves [m, ...].
        slopes: running estimates of grad_y g, like ys.
        solver: what solves with the Hessian: running Hessians [m, d, d], or the running solutions v, like ys.
        residuals: running estimates of (grad_yy g) v - grad_y f, like ys; None where Hessians are tracked.
        momentum: running estimate of the hypergradient, like x.
        old: (x, ys, solver) before the last step.

    Example:
        >>> import jsamp as js
        >>> js.fit.BilevelState(1.0, 2.0, 3.0, 4.0, None, 5.0, (1.0, 2.0, 4.0)).ys
        2.0
    """

    x: Any
    ys: Any
    slopes: Any
    solver: Any
    residuals: Any
    momentum: Any
    old: Any


class BilevelInfo(NamedTuple):
    """Report on one step, at the point from which it was made.

    Args:
        blocks: int32 [I], the blocks that were drawn.
        upper: mean of the upper losses of those blocks, on the rows drawn.
        lower: mean of their lower losses.
        gradient: the hypergradient from these blocks and rows alone, like x; unbiased for the `ys` and `solver` of the
            state that was stepped.

    Example:
        >>> import jsamp as js
        >>> js.fit.BilevelInfo(blocks=[0], upper=0.5, lower=0.1, gradient=1.0).upper
        0.5
    """

    blocks: Any
    upper: Any
    lower: Any
    gradient: Any


class _Look(NamedTuple):
    """Hold what the rows of blocks say at one point, leaves [I, ...]."""

    upper: Any
    lower: Any
    slope: Any
    curvature: Any
    gradient: Any


def _counts(name, value):
    """Return rows per step as a pair, for the upper and the lower data."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be one count or a pair (upper, lower), got {len(pair)} of them.")
    return tuple(map(functools.partial(_fields.count(optional=True), name), pair))


@pytree
class Bilevel:
    """Minimise the mean of upper losses over many blocks, each at the minimum of its own lower loss: BSVRB.

    The problem is min_x (1/m) sum_i f_i(x, y_i(x)) with y_i(x) = argmin_y g_i(x, y), where f_i is the mean of `upper`
    and g_i that of `lower` over the rows of block i. A step draws I of the m blocks and some rows of each, without
    replacement, and looks at them at the current point and, on the same rows, at the one before. With a tracker

        s <- (1 - alpha) s + (alpha + gamma) new - gamma old        for the blocks drawn

    of grad_y g_i, all blocks move by y_i <- y_i - lower_rate s_i. What solves with the Hessian is tracked alike:

    - "hessian" (v1): H_i tracks grad_yy g_i, its eigenvalues kept at `floor` or above; w_i = H_i^-1 grad_y f_i.
    - "products" (v2): u_i tracks (grad_yy g_i) v_i - grad_y f_i by Hessian-vector products, all blocks move by
      v_i <- v_i - solve_rate u_i, kept in the ball of `radius`; w_i = v_i.

    The hypergradient G is the mean over the drawn blocks of grad_x f_i - (grad_xy g_i) w_i, and x moves by STORM,

        z <- (1 - beta) (z - G(old)) + G(new),        x <- x - rate z.

    G takes H_i or v_i from before this step's rows, so that it is unbiased for them. alpha = beta = 1 with gamma = 0 is
    the plain method without variance reduction. A block moves m / I steps, on the average, between two looks at it:
    keep lower_rate m / I below one over the largest curvature of its lower loss, solve_rate likewise. x must change
    more slowly than ys.

    Args:
        upper: `upper(x, y, rows)` -> scalar, the mean over these rows of one block.
        lower: `lower(x, y, rows)` -> scalar, likewise, strongly convex in y.
        rate: step size of x, > 0.
        lower_rate: step size of ys, > 0.
        blocks: I, blocks drawn per step; None: all. Static.
        batch: rows drawn of each block per step, one count or a pair (of the upper data, of the lower); None: all.
            Static.
        track: "hessian" or "products", static.
        alpha: weight of new rows in the trackers of the blocks, in (0, 1].
        beta: weight of new rows in the hypergradient, in (0, 1].
        gamma: correction for what moved since the last look, >= 0; None: (m - I) / (I (1 - alpha)) + 1 - alpha, which
            makes the expected squared error of a tracker free of its product with the drift.
        solve_rate: step size of v, > 0; None: `lower_rate`.
        floor: least eigenvalue of a Hessian, > 0: a lower bound on the curvature of the lower losses.
        radius: bound on the norm of each v_i, > 0; None: no bound.

    Raises:
        ValueError: for numbers out of range, more blocks or rows than there are, alpha = 1 without `gamma` where
            blocks are drawn, losses that are no scalars.
        TypeError: for values of the wrong kind, half precision, a key that is none.

    Example:
        Pull each lower solution y_i = x + c_i to its own target; the best x is the mean of target - c:

        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.fit.Bilevel(lambda x, y, d: jnp.mean((y - d) ** 2) / 2,
        ...     lambda x, y, c: jnp.mean((y - x - c) ** 2) / 2, rate=0.1, lower_rate=0.5)
        >>> data = (jnp.array([[1.0], [3.0]]), jnp.array([[0.0], [1.0]]))  # targets, and c: [blocks, rows]
        >>> state = kernel.init(None, jnp.float32(0), jnp.zeros(2), data)  # nothing is drawn: no key
        >>> step = jax.jit(lambda state: kernel.step(None, state, data)[0])
        >>> for _ in range(100): state = step(state)
        >>> round(float(state.x), 3)
        1.5

    Cost:
        2 I looks per step, each at one gradient of both losses and one Hessian-vector product of the lower one;
        "hessian" adds d products and a Cholesky factor [d, d] per look and an eigendecomposition per block drawn.
        Memory: three times ys and twice m Hessians, or six times ys for "products".

    References:
        Hu, Qiu, Guo, Zhang and Yang, "Blockwise Stochastic Variance-Reduced Methods with Parallel Speedup for
        Multi-Block Bilevel Optimization", 2023, arXiv:2305.18730.
        Cutkosky and Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018 (STORM).
    """

    upper: Model = field(convert=_fields.callable_as("upper(x, y, rows)"))
    lower: Model = field(convert=_fields.callable_as("lower(x, y, rows)"))
    rate: Scalar = field(check=_fields.scalar(0, open_low=True))
    lower_rate: Scalar = field(check=_fields.scalar(0, open_low=True))
    blocks: int | None = static(default=None, kw_only=True, convert=_fields.count(optional=True))
    batch: Any = static(default=None, kw_only=True, convert=_counts)
    track: Literal["hessian", "products"] = static(default="hessian", kw_only=True, check=_fields.one_of(*TRACKED))
    alpha: Scalar = field(default=0.1, kw_only=True, check=_fields.scalar(0, 1, open_low=True))
    beta: Scalar = field(default=0.1, kw_only=True, check=_fields.scalar(0, 1, open_low=True))
    gamma: Scalar | None = field(default=None, kw_only=True, check=_fields.scalar(0, optional=True))
    solve_rate: Scalar | None = field(default=None, kw_only=True, check=_fields.scalar(0, open_low=True, optional=True))
    floor: Scalar = field(default=1e-3, kw_only=True, check=_fields.scalar(0, open_low=True))
    radius: Scalar | None = field(default=None, kw_only=True, check=_fields.scalar(0, open_low=True, optional=True))

    def init(self, key: Key, x: Tree, ys: Tree, data: Tree) -> BilevelState:
        """Look once at every block, at `batch` of its rows, and start all estimates there.

        Args:
            key: one JAX key; may be None where all rows are used.
            x: upper variables, a tree of float32 or float64 arrays.
            ys: lower variables, leaves [m, ...]: one block per row. Blocks of unequal size need padding.
            data: a pair (upper, lower) of trees with leaves [m, n, ...]: n rows of every block.

        Returns:
            `BilevelState`.
        """
        for name, tree in (("x", x), ("ys", ys)):
            _check_wide(f"Bilevel.init: {name}", tree)
        x, ys = as_arrays(x), as_arrays(ys)
        m = _number_of_blocks(ys)
        data = self._checked("Bilevel.init", data, m, key, self.batch != (None, None))
        self._check_losses(x, ys, data)
        return self._begin(key, x, ys, data)

    @jax.jit
    def _begin(self, key, x, ys, data):
        index = jnp.arange(_number_of_blocks(ys), dtype=jnp.int32)
        upper, lower = (None, None) if key is None else jax.random.split(key)
        rows = _rows(upper, data[0], index, self.batch[0]), _rows(lower, data[1], index, self.batch[1])
        if self.track == "hessian":
            hessians = jax.vmap(self._hessian, (None, 0, 0))(x, ys, rows[1])
            solver = jax.vmap(_at_least, (0, None))(hessians, self.floor)
        else:
            solver = _tree.zeros_like(ys)
        look = self._look(x, ys, solver, *rows)
        residuals = None if self.track == "hessian" else look.curvature
        return BilevelState(x, ys, look.slope, solver, residuals, _mean(look.gradient), (x, ys, solver))

    def step(self, key: Key, state: BilevelState, data: Tree) -> tuple[BilevelState, BilevelInfo]:
        """Draw blocks and rows, renew their estimates, and move x and all blocks.

        Args:
            key: one JAX key; may be None where all blocks and all rows are used.
            state: of `init` or an earlier step.
            data: as for `init`.

        Returns:
            The new state, and `BilevelInfo` about the old one.
        """
        if not isinstance(state, BilevelState):
            raise TypeError(f"Bilevel.step: state must be a BilevelState, got {_checks.shown(state)}. Use init.")
        m = _number_of_blocks(state.ys)
        some = self.blocks not in (None, m)
        data = self._checked("Bilevel.step", data, m, key, some or self.batch != (None, None))
        if some and self.gamma is None and np.all(_checks.concrete(self.alpha) == 1):
            raise ValueError("Bilevel: alpha = 1 leaves gamma undefined where blocks are drawn. Pass gamma=0.")
        return self._advance(key, state, data)

    @jax.jit
    def _advance(self, key, state, data):
        index, rows = self._draw(key, _number_of_blocks(state.ys), data)
        return self._renew(state, index, rows)

    def _draw(self, key: Key, m: int, data: Any):
        """Draw blocks, and rows of each: block numbers [I], and rows with leaves [I, B, ...] of both levels."""
        keys: Any = (None,) * 3 if key is None else jax.random.split(key, 3)
        num = m if self.blocks is None else self.blocks
        index = jnp.arange(m, dtype=jnp.int32)
        if num < m:
            index = repeated_subsets(keys[0], m, num, 1, replace=True)[0]
        return index, tuple(_rows(keys[i + 1], data[i], index, self.batch[i]) for i in range(2))

    def _renew(self, state, index, rows):
        """Make the step that these blocks and rows ask for."""
        m = _number_of_blocks(state.ys)
        at = lambda tree: jax.tree.map(lambda leaf: leaf[index], tree)
        into = lambda tree, part: jax.tree.map(lambda leaf, new: leaf.at[index].set(new), tree, part)
        new = self._look(state.x, at(state.ys), at(state.solver), *rows)
        x_old, ys_old, solver_old = state.old
        old = self._look(x_old, at(ys_old), at(solver_old), *rows)
        gamma = self._correction(m, len(index))
        weights = (1 - self.alpha, self.alpha + gamma, -gamma)
        track = lambda kept, name: _tree.lincomb(weights, (at(kept), getattr(new, name), getattr(old, name)))
        slopes = into(state.slopes, track(state.slopes, "slope"))
        ys = _tree.lincomb((1, -self.lower_rate), (state.ys, slopes))
        if self.track == "hessian":
            solver = into(state.solver, jax.vmap(_at_least, (0, None))(track(state.solver, "curvature"), self.floor))
            residuals = None
        else:
            residuals = into(state.residuals, track(state.residuals, "curvature"))
            rate = self.lower_rate if self.solve_rate is None else self.solve_rate
            solver = _tree.lincomb((1, -rate), (state.solver, residuals))
            solver = solver if self.radius is None else jax.vmap(_in_ball, (0, None))(solver, self.radius)
        gradient = _mean(new.gradient)
        kept = 1 - self.beta
        momentum = _tree.lincomb((kept, -kept, 1), (state.momentum, _mean(old.gradient), gradient))
        x = _tree.lincomb((1, -self.rate), (state.x, momentum))
        past = (state.x, state.ys, state.solver)
        info = BilevelInfo(index, jnp.mean(new.upper), jnp.mean(new.lower), gradient)
        return BilevelState(x, ys, slopes, solver, residuals, momentum, past), info

    def _look(self, x, ys, solver, upper_rows, lower_rows):
        """Evaluate some blocks on their rows: values, slopes, curvature, hypergradients."""

        def one(y, solver, upper_rows, lower_rows):
            upper, (f_x, f_y) = jax.value_and_grad(self.upper, (0, 1))(x, y, upper_rows)
            w = _solve(solver, f_y) if self.track == "hessian" else solver
            pull = lambda y: jax.value_and_grad(self.lower, (0, 1))(x, y, lower_rows)
            (lower, (_, slope)), (_, (cross, along)) = jax.jvp(pull, (y,), (w,))
            minus = lambda a, b: jax.tree.map(jnp.subtract, a, b)
            curvature = self._hessian(x, y, lower_rows) if self.track == "hessian" else minus(along, f_y)
            return _Look(upper, lower, slope, curvature, minus(f_x, cross))

        return jax.vmap(one)(ys, solver, upper_rows, lower_rows)

    def _hessian(self, x, y, rows):
        flat, back = ravel_pytree(y)
        return jax.hessian(lambda flat: self.lower(x, back(flat), rows))(flat)

    def _correction(self, m, num):
        """Weight of what moved since the last look, gamma."""
        if self.gamma is not None:
            return self.gamma
        kept = 1 - self.alpha
        return kept if num == m else (m - num) / (num * kept) + kept

    def _checked(self, who, data, m, key, drawn):
        """Return the pair of data trees, or refuse what does not fit m blocks."""
        if drawn or key is not None:
            _checks.check_key(key, who)
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise TypeError(f"{who}: data must be a pair (upper, lower) of trees, got {_checks.shown(data)}.")
        if self.blocks is not None and self.blocks > m:
            raise ValueError(f"{who}: blocks must be at most the {m} blocks of ys, got {self.blocks}.")
        for name, tree, batch in zip(("upper", "lower"), data, self.batch, strict=True):
            _check_data(f"{who}: {name} data", tree, m, batch)
        return tuple(jax.tree.map(jnp.asarray, tree) for tree in data)

    def _check_losses(self, x, ys, data):
        first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
        for name, loss, rows in (("upper", self.upper, data[0]), ("lower", self.lower, data[1])):
            found = jax.eval_shape(lambda x, ys, rows, loss=loss: loss(x, first(ys), first(rows)), x, ys, rows)
            if getattr(found, "shape", None) != () or not jnp.issubdtype(found.dtype, jnp.floating):
                raise ValueError(f"Bilevel: {name} must return a floating scalar, the mean over the rows; got {found}.")


def _check_wide(name, tree):
    _checks.check_floating(name, tree)
    for leaf in jax.tree.leaves(tree):
        if jnp.finfo(jnp.result_type(leaf)).bits < 32:
            raise TypeError(f"{name} must be float32 or float64, got {jnp.result_type(leaf)}: steps are small sums.")
        _checks.check_finite(name, leaf)


def _number_of_blocks(ys):
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(ys)}
    if len(counts) != 1 or counts <= {(), (0,)}:
        raise ValueError(f"Bilevel: ys must have leaves [m, ...] with one m, the blocks; got leading axes {counts}.")
    return counts.pop()[0]


def _check_data(name, tree, m, batch):
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise ValueError(f"{name} is empty. Pass arrays [m, n, ...]; row numbers do where a loss needs nothing else.")
    for leaf in leaves:
        _checks.check_rows(name, leaf)
        _checks.check_finite(name, leaf)
    shapes = {jnp.shape(leaf)[:2] for leaf in leaves}
    shape = next(iter(shapes))
    if len(shapes) != 1 or len(shape) != 2 or shape[0] != m or shape[1] == 0:
        raise ValueError(f"{name} must have leaves [m, n, ...] with m = {m} blocks and one n; got {sorted(shapes)}.")
    if batch is not None and batch > shape[1]:
        raise ValueError(f"{name}: batch must be at most the {shape[1]} rows of a block, got {batch}.")


def _rows(key, tree, index, batch):
    """Gather some rows of each of these blocks, a subset of its own for each."""
    if batch is None:
        return jax.tree.map(lambda leaf: leaf[index], tree)
    num = jax.tree.leaves(tree)[0].shape[1]
    draw = lambda key: repeated_subsets(key, num, batch, 1, replace=True)[0]
    rows = jax.vmap(draw)(jax.random.split(key, len(index)))
    return jax.tree.map(lambda leaf: leaf[index[:, None], rows], tree)


def _mean(tree):
    return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), tree)


def _at_least(matrix, floor):
    """Raise the eigenvalues of a symmetric matrix to `floor`."""
    values, vectors = jnp.linalg.eigh(matrix)
    values = jnp.maximum(values, jnp.asarray(floor, values.dtype))
    return jnp.matmul(vectors * values[None], vectors.T, precision=jax.lax.Precision.HIGHEST)


def _solve(matrix, tree):
    flat, back = ravel_pytree(tree)
    return back(jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), flat))


def _in_ball(tree, radius):
    """Shrink a tree to a norm of at most `radius`."""
    norm = jnp.sqrt(_tree.dot(tree, tree))
    return _tree.lincomb((jnp.where(norm > radius, radius / norm, 1),), (tree,))
