"""The types that estimates come in."""

from __future__ import annotations

from typing import Any, NamedTuple


class Estimate(NamedTuple):
    """Hold a number that knows its error.

    Args:
        value: the estimate, an array or a tree.
        stderr: its standard error, of the same structure.
        ess: effective number of independent samples behind it.

    Example:
        >>> import jsamp as js
        >>> js.estimate.Estimate(value=1.0, stderr=0.1, ess=100.0).stderr
        0.1
    """

    value: Any
    stderr: Any
    ess: Any


class Interval(NamedTuple):
    """Hold an interval that should contain the true number.

    Args:
        low: lower end.
        high: upper end; infinite where the data set no bound.
        value: the point estimate inside it.
        level: nominal probability of covering the truth, as asked for.

    Example:
        >>> import jsamp as js
        >>> js.estimate.Interval(low=0.2, high=0.8, value=0.5, level=0.9).high
        0.8
    """

    low: Any
    high: Any
    value: Any
    level: Any


class Significance(NamedTuple):
    """Hold the outcome of a hypothesis test.

    Args:
        statistic: the test statistic.
        pvalue: probability, under the null hypothesis, of a statistic at least as extreme. NaN where the data are
            degenerate (0 / 0) and no convention fixes it.

    Example:
        >>> import jsamp as js
        >>> js.estimate.Significance(statistic=2.0, pvalue=0.04).pvalue
        0.04
    """

    statistic: Any
    pvalue: Any
