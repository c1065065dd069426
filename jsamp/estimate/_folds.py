"""Cross-validation: folds as masks, every fit in one compiled vmap."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._types import Key
from jsamp.estimate import _arrays
from jsamp.estimate._on_host import plainly
from jsamp.estimate._types import Estimate

LEARNER = "fit_predict(key, X, y, weight)"


class CrossValidated(NamedTuple):
    """Hold the losses and predictions of cross-validation.

    Args:
        estimate: `Estimate` of the expected loss on a fresh row.
        folds: [K] mean loss on the test rows of each fold.
        predictions: [K, n, ...] predictions of each fit for every row.
        losses: [n] mean loss of every row over the fits that did not see it; NaN for a row in no test fold.
        chosen: [K] index of the parameter that each outer fold chose (`nested`), else None.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> y = jnp.arange(8.0)
        >>> mean = lambda key, X, y, w: jnp.full(8, jnp.sum(w * y) / jnp.sum(w))
        >>> js.estimate.cross_validate(jax.random.key(0), mean, y, y, jnp.eye(8, dtype=bool)).folds.shape
        (8,)
    """

    estimate: Any
    folds: Any
    predictions: Any
    losses: Any
    chosen: Any


def default_loss(prediction: Any, y: Any) -> Any:
    """0-1 loss for integer labels, squared error for real ones; one number a row."""
    if jnp.issubdtype(jnp.result_type(y), jnp.floating):
        return ((prediction - y) ** 2).reshape(y.shape[0], -1).mean(1)
    return (prediction != y).reshape(y.shape[0], -1).any(1).astype(jnp.float32)


def check_learner(who: str, fit_predict: Any, X: Any, y: Any, loss: Any) -> tuple[Any, Any, Any, Any]:
    """Return learner and loss as trees, X and y as arrays of one length, or refuse them."""
    learner = as_tree(f"{who}: fit_predict", fit_predict, LEARNER)
    loss = as_tree(f"{who}: loss", default_loss if loss is None else loss, "loss(prediction, y)")
    X = _arrays.array(f"{who}: X", X, "...", low=2)
    labels = np.asarray(y) if not isinstance(y, jax.Array) else y
    if labels.ndim == 0 or labels.shape[0] != X.shape[0]:
        raise ValueError(f"{who}: y must have a row for each of the {X.shape[0]} rows of X, got shape {labels.shape}.")
    if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == jnp.bool_):
        return learner, loss, X, _arrays.array(f"{who}: y", labels, "...")
    return learner, loss, X, jnp.asarray(labels)


def _masks(who, masks, n):
    masks = jnp.asarray(masks)
    if masks.dtype != jnp.bool_ or masks.ndim != 2 or masks.shape[1] != n:
        raise ValueError(
            f"{who}: masks must be bool [K, {n}], True on test rows, got {masks.dtype}{list(masks.shape)}."
        )
    known = _checks.concrete(masks)
    if known is not None and not (known.any(1).all() and (~known).any(1).all()):
        raise ValueError(f"{who}: every mask must hold test rows and training rows; one is constant.")
    return masks


def kfold_masks(key: Key, k: int, n: int, *, strata: Any = None, repeats: int = 1) -> jax.Array:
    """Draw the test rows of k-fold cross-validation as masks: each row is in one test fold of every repeat.

    Sizes differ by one at most; with strata so does the number of rows of each stratum.

    Args:
        key: one key.
        k: folds (static), 2 to n.
        n: rows (static).
        strata: [n] integer label of each row (its class), or None.
        repeats: independent partitions (static), their folds one after the other.

    Returns:
        bool [repeats k, n], True on test rows.

    Raises:
        ValueError: for k outside 2..n, or strata that are not n integers.

    Example:
        >>> import jax, jsamp as js
        >>> masks = js.estimate.kfold_masks(jax.random.key(0), 3, 10)
        >>> masks.sum(0).tolist(), sorted(masks.sum(1).tolist())
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [3, 3, 4])

    Cost:
        One sort a repeat.

    References:
        Kohavi, "A study of cross-validation and bootstrap for accuracy estimation and model selection", 1995.
    """
    _checks.check_key(key, "kfold_masks")
    n = _checks.check_count("kfold_masks: n", n, low=2)
    k = _checks.check_count("kfold_masks: k", k, low=2, high=n)
    repeats = _checks.check_count("kfold_masks: repeats", repeats)
    labels = jnp.zeros(n, jnp.int32) if strata is None else jnp.asarray(strata)
    if labels.shape != (n,) or not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == jnp.bool_):
        raise ValueError(f"kfold_masks: strata must be [{n}] integers, got {labels.dtype}{list(labels.shape)}.")

    def once(key):
        order = jax.random.permutation(key, n)
        order = order[jnp.argsort(labels[order], stable=True)]
        fold = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32) % k)
        return fold[None] == jnp.arange(k, dtype=jnp.int32)[:, None]

    return jax.vmap(once)(jax.random.split(key, repeats)).reshape(repeats * k, n)


def _judge(losses, masks, predictions, chosen=None):
    """Losses [K, n] and masks to a result. The standard error is that of the rows' mean losses."""
    hits = jnp.sum(masks, 0)
    folds = jnp.sum(jnp.where(masks, losses, 0), 1) / jnp.sum(masks, 1)
    rows = jnp.sum(jnp.where(masks, losses, 0), 0) / hits
    tested = hits > 0
    count = jnp.sum(tested).astype(losses.dtype)
    mean = jnp.mean(folds)
    centre = jnp.sum(jnp.where(tested, rows, 0)) / count
    spread = jnp.sum(jnp.where(tested, (rows - centre) ** 2, 0)) / (count - 1)
    return CrossValidated(Estimate(mean, jnp.sqrt(spread / count), count), folds, predictions, rows, chosen)


@functools.partial(jax.jit, static_argnames="block")
def _cross_validate(key, learner, X, y, masks, loss, block):
    def fit(pair):
        key, mask = pair
        prediction = learner(key, X, y, jnp.where(mask, 0, 1).astype(jnp.float32))
        return prediction, loss(prediction, y)

    predictions, losses = jax.lax.map(fit, (jax.random.split(key, masks.shape[0]), masks), batch_size=block)
    return _judge(losses, masks, predictions)


def cross_validate(
    key: Key, fit_predict: Any, X: Any, y: Any, masks: Any, *, loss: Any = None, block: int | None = None
) -> CrossValidated:
    """Estimate the expected loss of a learner on fresh rows by cross-validation, all folds in one compiled vmap.

    Training rows have weight 1, test rows 0. The value is the mean over folds; its error is that of the mean of the
    rows' losses, which is right for stable learners (each row moves the fit by O(1 / n)).

    Args:
        key: one key, split over the folds.
        fit_predict: (key, X, y, weight [n]) -> predictions [n, ...] for all rows; weight 0 must hide a row.
        X: [n, ...] inputs.
        y: [n, ...] targets; integers are labels.
        masks: bool [K, n], True on test rows: `kfold_masks`, or your own (groups, time order).
        loss: (prediction, y) -> [n]; None is 0-1 loss for integer y and squared error else.
        block: folds fitted at a time (static); None: all.

    Returns:
        `CrossValidated`.

    Raises:
        ValueError: for lengths that differ, masks that are not boolean or hold a constant row, or a fold whose training
            rows a learner of `from_sklearn` refuses.
        TypeError: for a learner that cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jax.random.normal(jax.random.key(0), (60, 2))
        >>> y = X @ jnp.array([1.0, -1.0])
        >>> def ridge(key, X, y, weight):
        ...     return X @ jnp.linalg.solve(X.T @ (weight[:, None] * X) + 1e-3 * jnp.eye(2), X.T @ (weight * y))
        >>> masks = js.estimate.kfold_masks(jax.random.key(1), 5, 60)
        >>> float(js.estimate.cross_validate(jax.random.key(2), ridge, X, y, masks).estimate.value) < 1e-6
        True

    Cost:
        K fits.

    References:
        Bayle, Bayle, Janson and Mackey, "Cross-validation confidence intervals for test error", 2020, arXiv:2007.12671.
    """
    _checks.check_key(key, "cross_validate")
    learner, loss, X, y = check_learner("cross_validate", fit_predict, X, y, loss)
    masks = _masks("cross_validate", masks, X.shape[0])
    block = masks.shape[0] if block is None else _checks.check_count("cross_validate: block", block)
    run = lambda: _cross_validate(key, learner, X, y, masks, loss, block)
    return plainly("cross_validate", fit_predict, ("fold", ~masks), y, run)


def leave_one_out(
    key: Key, fit_predict: Any, X: Any, y: Any, *, loss: Any = None, block: int | None = None
) -> CrossValidated:
    """Estimate the expected loss of a learner by leaving out one row at a time.

    Args:
        key: one key.
        fit_predict: (key, X, y, weight [n]) -> predictions [n, ...].
        X: [n, ...] inputs.
        y: [n, ...] targets.
        loss: (prediction, y) -> [n], or None as in `cross_validate`.
        block: fits at a time (static); None: all.

    Returns:
        `CrossValidated`, with K = n.

    Raises:
        ValueError: for lengths that differ.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> mean = lambda key, X, y, w: jnp.full(4, jnp.sum(w * y) / jnp.sum(w))
        >>> y = jnp.array([0.0, 0.0, 0.0, 4.0])
        >>> round(float(js.estimate.leave_one_out(jax.random.key(0), mean, y, y).estimate.value), 3)
        5.333

    Cost:
        n fits.

    References:
        Stone, "Cross-validatory choice and assessment of statistical predictions", 1974.
    """
    n = _arrays.array("leave_one_out: X", X, "...", low=2).shape[0]
    return cross_validate(key, fit_predict, X, y, jnp.eye(n, dtype=bool), loss=loss, block=block)


@functools.partial(jax.jit, static_argnames=("k", "block"))
def _nested(key, learner, X, y, masks, grid, loss, k, labels, block):
    n = X.shape[0]

    def outer(pair):
        key, test = pair
        keys = jax.random.split(key, 3)
        inner = kfold_masks(keys[0], k, n, strata=labels)

        def score(parameter):
            def fold(pair):
                key, held = pair
                prediction = learner(key, X, y, jnp.where(test | held, 0, 1).astype(jnp.float32), parameter)
                rows = held & ~test
                return jnp.sum(jnp.where(rows, loss(prediction, y), 0)), jnp.sum(rows)

            total, count = jax.vmap(fold)((jax.random.split(keys[1], k), inner))
            mean = jnp.sum(total) / jnp.sum(count)
            return jnp.where(jnp.isnan(mean), jnp.inf, mean)  # a fit that failed is not the best

        best = jnp.argmin(jax.lax.map(score, grid))
        chosen = jax.tree.map(lambda leaf: leaf[best], grid)
        prediction = learner(keys[2], X, y, jnp.where(test, 0, 1).astype(jnp.float32), chosen)
        return prediction, loss(prediction, y), best

    predictions, losses, best = jax.lax.map(outer, (jax.random.split(key, masks.shape[0]), masks), batch_size=block)
    return _judge(losses, masks, predictions, best)


def nested(
    key: Key, fit_predict: Any, X: Any, y: Any, masks: Any, grid: Any, *, k: int = 5, loss: Any = None,
    block: int | None = None,
) -> CrossValidated:  # fmt: skip
    """Estimate the expected loss of a learner whose parameter is chosen by cross-validation: nested folds.

    In every outer fold the parameter with the least k-fold loss on the training rows alone is chosen, one whose loss is
    NaN never beside others, and the refitted learner is judged on the outer test rows, which played no part in the
    choice.

    Args:
        key: one key.
        fit_predict: (key, X, y, weight [n], parameter) -> predictions [n, ...].
        X: [n, ...] inputs.
        y: [n, ...] targets; inner folds are stratified by integer labels [n].
        masks: bool [K, n], True on outer test rows.
        grid: parameters, a tree with leading axis P.
        k: inner folds (static).
        loss: (prediction, y) -> [n], or None as in `cross_validate`.
        block: outer folds at a time (static); None: all.

    Returns:
        `CrossValidated` with `chosen` [K].

    Raises:
        ValueError: for lengths that differ, bad masks, an empty grid, or k below 2.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> y = 3 + jax.random.normal(jax.random.key(0), (40,))
        >>> shrunk = lambda key, X, y, w, c: jnp.full(40, c * jnp.sum(w * y) / jnp.sum(w))
        >>> masks = js.estimate.kfold_masks(jax.random.key(1), 4, 40)
        >>> found = js.estimate.nested(jax.random.key(2), shrunk, y, y, masks, jnp.array([0.0, 1.0]))
        >>> found.chosen.tolist()
        [1, 1, 1, 1]

    Cost:
        K (P k + 1) fits.

    References:
        Varma and Simon, "Bias in error estimation when using cross-validation for model selection", 2006.
    """
    _checks.check_key(key, "nested")
    learner, loss, X, y = check_learner("nested", fit_predict, X, y, loss)
    masks = _masks("nested", masks, X.shape[0])
    k = _checks.check_count("nested: k", k, low=2, high=X.shape[0])
    grid = jax.tree.map(jnp.asarray, grid)
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(grid)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"nested: grid must be a tree with one leading axis of parameters, got {sorted(sizes)}.")
    block = masks.shape[0] if block is None else _checks.check_count("nested: block", block)
    labels = None if jnp.issubdtype(y.dtype, jnp.floating) or y.ndim > 1 else y
    return _nested(key, learner, X, y, masks, grid, loss, k, labels, block)
