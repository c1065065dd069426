"""Tests between models."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp.estimate import _arrays
from jsamp.estimate._tails import chi2_upper, f_upper, fair_coin_two_sided, student_two_sided
from jsamp.estimate._types import Significance
from jsamp.select._rows import power_of_two


def _ratio(above: Any, below: Any) -> Any:
    """Above / below, with 0 / 0 = 0 (no difference at all) and x / 0 = inf."""
    safe = jnp.where(below > 0, below, 1)
    return jnp.where(below > 0, above / safe, jnp.where(above == 0, 0, jnp.sign(above) * jnp.inf))


def paired_t(a: Any, b: Any, *, test_ratio: float | None = None) -> Significance:
    """Test whether two models score alike on the same splits, by a paired t-test.

    t = mean(a - b) / sqrt(var(a - b) / k). Splits of one data set overlap, so their differences are correlated: over
    random splits the plain test rejects true hypotheses far too often (at 5% nominal, 10% to 50%). `test_ratio` =
    test rows / training rows replaces 1 / k by 1 / k + test_ratio (Nadeau and Bengio), which corrects for that.

    Args:
        a: [k] scores of the first model.
        b: [k] scores of the second, on the same splits.
        test_ratio: see above; None for splits of independent data.

    Returns:
        `Significance(t, p)`, two-sided, k - 1 degrees of freedom; equal scores give 0 and 1.

    Raises:
        ValueError: for fewer than two splits, lengths that differ, or a ratio that is negative.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> found = js.estimate.paired_t(jnp.array([0.8, 0.9, 0.7]), jnp.array([0.7, 0.7, 0.6]))
        >>> round(float(found.statistic), 4), round(float(found.pvalue), 4)
        (4.0, 0.0572)

    Cost:
        One pass.

    References:
        Nadeau and Bengio, "Inference for the generalization error", 2003. Dietterich, "Approximate statistical tests
        for comparing supervised classification learning algorithms", 1998.
    """
    a, b = _arrays.array("paired_t: a", a, "k", low=2), _arrays.array("paired_t: b", b, "k", low=2)
    _arrays.same_length("paired_t", a=a, b=b)
    gap = (a - b) * power_of_two(a - b)
    if test_ratio is not None:
        _checks.check_number("paired_t: test_ratio", test_ratio, low=0)
    k = gap.shape[0]
    spread = jnp.var(gap, ddof=1) * (1 / k + (0.0 if test_ratio is None else test_ratio))
    t = _ratio(jnp.mean(gap), jnp.sqrt(spread))
    return Significance(t, student_two_sided(t, k - 1.0))


def _folds(who, differences):
    p = _arrays.array(f"{who}: differences", differences, "r f")
    if p.shape != (5, 2):
        raise ValueError(f"{who}: differences must be [5, 2], 5 repeats of 2 folds; got shape {p.shape}.")
    p = p * power_of_two(p)
    return p, jnp.sum((p - jnp.mean(p, 1, keepdims=True)) ** 2, 1)


def t_5x2cv(differences: Any) -> Significance:
    """Test whether two models score alike by five repeats of two-fold cross-validation: Dietterich's t.

    t = p_11 / sqrt(mean_i s_i^2), s_i^2 = (p_i1 - p_i)^2 + (p_i2 - p_i)^2, with 5 degrees of freedom.

    Args:
        differences: [5, 2] differences of scores, repeat by fold.

    Returns:
        `Significance(t, p)`, two-sided; all differences 0 give 0 and 1.

    Raises:
        ValueError: for another shape, or NaN.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> p = jnp.array([[0.2, 0.1], [0.1, 0.1], [0.2, 0.2], [0.0, 0.1], [0.1, 0.2]])
        >>> round(float(js.estimate.t_5x2cv(p).statistic), 3)
        3.651

    Cost:
        Ten numbers.

    References:
        Dietterich, "Approximate statistical tests for comparing supervised classification learning algorithms", 1998.
    """
    p, square = _folds("t_5x2cv", differences)
    t = _ratio(p[0, 0], jnp.sqrt(jnp.mean(square)))
    return Significance(t, student_two_sided(t, 5.0))


def f_5x2cv(differences: Any) -> Significance:
    """Test whether two models score alike by five repeats of two-fold cross-validation: Alpaydin's combined F.

    F = sum_ij p_ij^2 / (2 sum_i s_i^2), approximately F(10, 5): unlike the t it does not hang on one of ten folds.

    Args:
        differences: [5, 2] differences of scores, repeat by fold.

    Returns:
        `Significance(F, p)`; all differences 0 give 0 and 1, and no spread within repeats gives infinity and 0.

    Raises:
        ValueError: for another shape, or NaN.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> p = jnp.array([[0.2, 0.1], [0.1, 0.1], [0.2, 0.2], [0.0, 0.1], [0.1, 0.2]])
        >>> found = js.estimate.f_5x2cv(p)
        >>> round(float(found.statistic), 2), round(float(found.pvalue), 4)
        (7.0, 0.0222)

    Cost:
        Ten numbers.

    References:
        Alpaydin, "Combined 5 x 2 cv F test for comparing supervised classification learning algorithms", 1999.
    """
    p, square = _folds("f_5x2cv", differences)
    f = _ratio(jnp.sum(p**2), 2 * jnp.sum(square))
    return Significance(f, f_upper(f, 10.0, 5.0))


def _flags(name, value, shape):
    """Whether each row was right, as 0 and 1."""
    flags = _arrays.array(name, value, shape, low=2)
    known = _checks.concrete(flags)
    if known is not None and not np.all((known == 0) | (known == 1)):
        raise ValueError(f"{name} must hold booleans (was row i predicted right?). Pass prediction == y.")
    return flags


def mcnemar(a: Any, b: Any, *, method: Literal["auto", "corrected", "uncorrected", "exact"] = "auto") -> Significance:
    """Test whether two classifiers err alike on one test set, by the rows on which only one of them is right.

    With b and c such rows: "corrected" (|b - c| - 1)^2 / (b + c), "uncorrected" (b - c)^2 / (b + c), both against
    chi-square of 1, and "exact", twice the tail of Binomial(b + c, 1/2). "auto" is exact below b + c = 25, corrected
    from there. b + c = 0 gives p = 1.

    Args:
        a: [n] whether the first classifier is right.
        b: [n] whether the second is.
        method: "auto", "corrected", "uncorrected" or "exact".

    Returns:
        `Significance(statistic, p)`; the statistic of "exact" is min(b, c).

    Raises:
        ValueError: for lengths that differ, values other than 0 and 1, or an unknown method.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> a, b = jnp.arange(100) < 90, jnp.arange(100) < 60
        >>> float(js.estimate.mcnemar(a, b).pvalue) < 1e-6
        True

    Cost:
        One pass.

    References:
        McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.
    """
    _checks.check_choice("mcnemar: method", method, ("auto", "corrected", "uncorrected", "exact"))
    a, b = _flags("mcnemar: a", a, "n"), _flags("mcnemar: b", b, "n")
    _arrays.same_length("mcnemar", a=a, b=b)
    only_a, only_b = jnp.sum(a * (1 - b)), jnp.sum(b * (1 - a))
    total, gap = only_a + only_b, jnp.abs(only_a - only_b)
    shift = 0.0 if method == "uncorrected" else 1.0
    # With no row, or a tie, there is nothing to correct.
    square = _ratio(jnp.where(gap > 0, jnp.maximum(gap - shift, 0), 0) ** 2, total)
    chi = Significance(square, chi2_upper(square, 1.0))
    least = jnp.minimum(only_a, only_b)
    exact = Significance(least, fair_coin_two_sided(least, total))
    if method == "auto":
        return Significance(*(jnp.where(total < 25, e, c) for e, c in zip(exact, chi, strict=True)))
    return exact if method == "exact" else chi


def cochran_q(correct: Any) -> Significance:
    """Test whether L classifiers are right equally often on one test set: Cochran's Q.

    Q = (L - 1)(L sum_j G_j^2 - (sum_j G_j)^2) / (L sum_i T_i - sum_i T_i^2) with column sums G and row sums T, against
    chi-square of L - 1. For L = 2 it is the uncorrected McNemar test.

    Args:
        correct: [n, L] whether classifier j is right on row i.

    Returns:
        `Significance(Q, p)`; rows on which all agree leave 0 and 1.

    Raises:
        ValueError: for values other than 0 and 1, or fewer than two classifiers.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> right = jnp.stack([jnp.arange(30) < m for m in (28, 25, 12)], 1)
        >>> round(float(js.estimate.cochran_q(right).statistic), 3)
        27.125

    Cost:
        One pass.

    References:
        Cochran, "The comparison of percentages in matched samples", 1950.
    """
    x = _classifiers("cochran_q", correct)
    num = x.shape[1]
    columns, rows = jnp.sum(x, 0), jnp.sum(x, 1)
    # Differences from the mean column: L sum G^2 - (sum G)^2 = L sum (G - mean)^2, without cancelling.
    above = (num - 1) * num * jnp.sum((columns - jnp.mean(columns)) ** 2)
    q = _ratio(above, jnp.sum(rows * (num - rows)))
    return Significance(q, chi2_upper(q, num - 1.0))


def _classifiers(who, correct):
    x = _flags(f"{who}: correct", correct, "n L")
    if x.shape[1] < 2:
        raise ValueError(f"{who}: correct must have a column for each of two or more classifiers, got {x.shape}.")
    return x


def f_test(correct: Any) -> Significance:
    """Test whether L classifiers are right equally often by a two-way analysis of variance.

    F = [SS_classifiers / (L - 1)] / [SS_interaction / ((L - 1)(n - 1))], against F(L - 1, (L - 1)(n - 1)).

    Args:
        correct: [n, L] whether classifier j is right on row i.

    Returns:
        `Significance(F, p)`; no difference at all gives 0 and 1.

    Raises:
        ValueError: for values other than 0 and 1, or fewer than two classifiers.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> right = jnp.stack([jnp.arange(30) < m for m in (28, 25, 12)], 1)
        >>> float(js.estimate.f_test(right).pvalue) < 1e-6
        True

    Cost:
        One pass.

    References:
        Looney, "A statistical technique for comparing the accuracies of several classifiers", 1988.
    """
    x = _classifiers("f_test", correct)
    n, num = x.shape
    columns, rows, whole = jnp.mean(x, 0, keepdims=True), jnp.mean(x, 1, keepdims=True), jnp.mean(x)
    between = n * jnp.sum((columns - whole) ** 2) / (num - 1)
    rest = jnp.sum((x - columns - rows + whole) ** 2) / ((num - 1) * (n - 1))
    scale = jnp.finfo(x.dtype).eps * num * n
    f = _ratio(jnp.where(between > scale, between, 0), jnp.where(rest > scale / n, rest, 0))
    return Significance(f, f_upper(f, num - 1.0, (num - 1.0) * (n - 1)))
