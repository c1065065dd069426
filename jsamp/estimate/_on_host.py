"""Learners that run on the host: estimators of scikit-learn, and what they raise inside a program."""

from __future__ import annotations

import collections
import copy
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks


class _OnHost:
    """A learner of the host's, with the weights and the error of its last fit that failed."""

    def __init__(self, learner: Callable, failed: collections.deque):
        self.learner, self.failed = learner, failed

    def __call__(self, key, X, y, weight):
        return self.learner(key, X, y, weight)


def plainly(who: str, learner: Any, fits: tuple[str, Any], y: Any, run: Callable[[], Any]) -> Any:
    """Run a program; where a learner of the host's raises in it, say so without JAX's wrapping, and in which fit."""
    if not isinstance(learner, _OnHost):
        return run()
    learner.failed.clear()
    try:
        return jax.block_until_ready(run())
    except jax.errors.JaxRuntimeError:
        if not learner.failed:
            raise
    weight, error = learner.failed[0]
    kind, weights = fits
    same = np.flatnonzero((np.asarray(weights, np.float32) == weight).all(1))
    where, labels = f"{kind} {same[0]}" if same.size else "the fit of all rows", np.asarray(y)[weight > 0]
    held = f", {len(labels)} rows of one label, {labels[0]}" if len(np.unique(labels, axis=0)) == 1 else ""
    raise ValueError(f"{who}: the estimator refused the training rows of {where}{held}: {error}") from error


def from_sklearn(estimator: Any) -> Any:
    """Adapt a scikit-learn estimator to the learner's shape, (key, X, y, weight) -> predictions.

    A clone is fitted on the host, on the rows of positive weight, with `sample_weight` where weights differ and the
    estimator takes it (rows are repeated otherwise). One fit after the other; the key sets `random_state`. Many
    classifiers refuse training rows of one class: draw the folds with `kfold_masks(..., strata=y)`.

    Args:
        estimator: an object with `fit` and `predict`.

    Returns:
        A function for `cross_validate`, `err632`, ...

    Raises:
        TypeError: for an object without fit and predict.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> class Mean:  # the least of an estimator
        ...     def fit(self, X, y): self.m = y.mean(); return self
        ...     def predict(self, X): return 0 * X[:, 0] + self.m
        >>> masks = js.estimate.kfold_masks(jax.random.key(0), 2, 6)
        >>> X = jnp.ones((6, 1))
        >>> learner = js.estimate.from_sklearn(Mean())
        >>> float(js.estimate.cross_validate(jax.random.key(0), learner, X, jnp.ones(6), masks).estimate.value)
        0.0

    Cost:
        A host call for every fit.
    """
    if not {"fit", "predict"} <= set(dir(estimator)):
        raise TypeError(f"from_sklearn: want an object with fit and predict, got {_checks.shown(estimator)}.")

    failed = collections.deque(maxlen=1)

    def fitted(seed, X, y, weight):
        model = copy.deepcopy(estimator)
        X, y, weight = np.asarray(X, np.float64), np.asarray(y), np.asarray(weight)
        if "get_params" in dir(model) and "random_state" in model.get_params():
            model.set_params(random_state=int(seed) % 2**31)
        keep = weight > 0
        if np.all(weight[keep] == weight[keep][0]):
            model.fit(X[keep], y[keep])
        elif "sample_weight" in inspect.signature(model.fit).parameters:
            model.fit(X[keep], y[keep], sample_weight=weight[keep])
        else:
            rows = np.repeat(np.arange(len(y)), weight.astype(int))
            model.fit(X[rows], y[rows])
        return np.asarray(model.predict(X)).astype(y.dtype)

    def host(seed, X, y, weight):
        try:
            return fitted(seed, X, y, weight)
        except Exception as error:
            failed.append((np.asarray(weight), error))
            raise

    def learner(key, X, y, weight):
        shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
        seed = jax.random.bits(key)
        if not _checks.is_traced(seed, X, y, weight):
            return jnp.asarray(fitted(seed, X, y, weight))
        return jax.pure_callback(host, shape, seed, X, y, weight, vmap_method="sequential")

    return _OnHost(learner, failed)
