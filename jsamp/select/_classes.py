"""Make the classes of a labelled dataset even: extend the small ones, cut the large ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_count, check_key, check_on_host, refuse_sparse
from jsamp._core._types import Key
from jsamp.select._rows import check_matrix
from jsamp.select._smote import smote
from jsamp.select._strata import stratified
from jsamp.select._subset import Subset


def _check_classes(y: Any, n: int | None, targets: Any, who: str) -> tuple[np.ndarray, np.ndarray, dict[Any, int]]:
    """Labels on the host, the class of every row as a number, and the wanted size of each class that has one."""
    if isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{who}: y is a PRNG key, but labels are wanted. Check the order of the arguments.")
    refuse_sparse(f"{who}: y", y)
    y = np.asarray(y)
    if y.ndim != 1 or y.size == 0 or (n is not None and y.shape[0] != n):
        rows = "n" if n is None else n
        raise ValueError(f"{who}: y must be one label per row [{rows}], got shape {y.shape}. One-hot: argmax(1).")
    if y.dtype.kind not in "biuUS" and not (y.dtype.kind == "f" and np.array_equal(y, np.round(y))):
        raise TypeError(f"{who}: y must hold class labels, got dtype {y.dtype}. Bin a continuous target first.")
    labels, group = np.unique(y, return_inverse=True)
    if targets is None:
        return labels, group, {}
    if not isinstance(targets, dict):
        raise TypeError(f"{who}: targets must be a dict label -> rows, got {type(targets).__name__}.")
    place = {label.item(): i for i, label in enumerate(labels)}
    unknown = [label for label in targets if label not in place]
    if unknown:
        raise ValueError(f"{who}: targets name labels {unknown} that are not in y. y has {sorted(place)}.")
    return labels, group, {place[k]: check_count(f"{who}: targets[{k!r}]", v, low=0) for k, v in targets.items()}


def oversample(
    key: Key, X: Any, y: Any, *, targets: dict[Any, int] | None = None, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Extend the small classes of a labelled dataset by `smote`: each to the size of the largest, or to its target.

    Args:
        key: one JAX key.
        X: [n, d] rows.
        y: [n] labels (integers or strings), on the host: class sizes fix shapes.
        targets: label -> rows wanted in all, no fewer than the class has; classes not named are left as they are.
            Default: every class gets the size of the largest.
        options: passed to `smote`.

    Returns:
        (X, y) on the host with the new rows appended; a class with none in danger gets no new rows.

    Raises:
        ValueError: for one-hot or wrongly sized y, targets below the size of a class, or as `smote` for the first
            class that cannot be extended.
        TypeError: for continuous or traced labels.

    Example:
        >>> import jax, numpy as np, jsamp as js
        >>> X, y = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32), np.arange(60) // 45
        >>> np.bincount(js.select.oversample(jax.random.key(0), X, y)[1])
        array([45, 45])
        >>> np.bincount(js.select.oversample(jax.random.key(0), X, y, targets={1: 20})[1])
        array([45, 20])

    Cost:
        One `smote` per class that grows.
    """
    check_key(key, "oversample")
    check_on_host("oversample", key, X, y)
    X = np.asarray(check_matrix("oversample: X", X, tall=False))
    labels, group, wanted = _check_classes(y, X.shape[0], targets, "oversample")
    counts = np.bincount(group)
    if targets is None:
        wanted = dict.fromkeys(range(len(labels)), int(counts.max()))
    for c, goal in wanted.items():
        if goal < counts[c]:
            raise ValueError(f"oversample: class {labels[c]!r} has {counts[c]} rows, more than its target {goal}. "
                             f"Use undersample for it.")  # fmt: skip
    new_x, new_y = [X], [np.asarray(y)]
    for c, goal in sorted(wanted.items()):
        if goal > counts[c]:
            need = goal - int(counts[c])
            made = smote(jax.random.fold_in(key, c), X, np.flatnonzero(group == c), need, **options)
            if bool(made.ok):
                new_x.append(np.asarray(made.x))
                new_y.append(np.full(need, labels[c]))
    return np.concatenate(new_x), np.concatenate(new_y)


def undersample(key: Key, y: Any, *, targets: dict[Any, int] | None = None) -> Subset:
    """Keep random rows of the large classes: each cut to the size of the smallest, or to its target.

    The plain half of Chawla et al.: cut the majority, extend the minority by `smote`, and compare by ROC.

    Args:
        key: one JAX key.
        y: [n] labels (integers or strings), on the host: class sizes fix shapes.
        targets: label -> rows kept, no more than the class has; classes not named are kept whole. Default: every class
            gets the size of the smallest.

    Returns:
        `Subset` of the kept rows, class after class; weight N_c / m_c undoes the balancing.

    Raises:
        ValueError: for one-hot y, unknown labels, or targets above the size of a class.
        TypeError: for continuous or traced labels.

    Example:
        >>> import jax, numpy as np, jsamp as js
        >>> y = np.arange(60) // 45
        >>> np.bincount(js.select.undersample(jax.random.key(0), y).take(y))
        array([15, 15])

    Cost:
        One sort.

    References:
        Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", 2002, arXiv:1106.1813.
    """
    check_key(key, "undersample")
    check_on_host("undersample", key, y)
    labels, group, wanted = _check_classes(y, None, targets, "undersample")
    counts = np.bincount(group)
    kept = np.full_like(counts, counts.min()) if targets is None else counts.copy()
    for c, goal in wanted.items():
        if goal > counts[c]:
            raise ValueError(f"undersample: class {labels[c]!r} has {counts[c]} rows, fewer than its target {goal}. "
                             f"Use oversample for it.")  # fmt: skip
        kept[c] = goal
    subset = stratified(key, group, tuple(int(m) for m in kept))
    used = np.flatnonzero(np.asarray(subset.mask))
    return jax.tree.map(lambda slots: slots[used], subset)
