"""Mixtures of Gaussians by expectation-maximisation, over blocks of rows."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jsamp._core._checks import (
    check_choice,
    check_count,
    check_finite,
    check_key,
    check_rows,
)
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Array, Key, Result, Scalar
from jsamp.fit._assign import by_label
from jsamp.fit._kmeans import Cloud, as_cloud, lloyd_best, measured, seeds
from jsamp.fit._partition import by_position
from jsamp.select._rows import as_real, as_scalar, check_labels, check_matrix, check_weights
from jsamp.select._whiten import map_rows, matmul, sum_rows

KINDS = ("full", "diagonal", "spherical")
NUMBERS = 2**22  # of a block: rows x components x columns


def numbers(name: str, value: Any) -> jax.Array:
    """Finite floating numbers of a field, or a refusal."""
    value = as_real(name, value)
    check_finite(name, value)
    return value


@pytree
class Mixture:
    """Hold a mixture of k Gaussians, sum_j weight_j N(mean_j, chol_j chol_j^T): a log-density of points x [d].

    `mixture(x)` is the log-density, so kernels and estimates of other rooms take it; `mixture.shares(x)` are the
    probabilities of the components. Components of weight 0 are not there.

    Args:
        weight: [k] >= 0, summing to 1.
        mean: [k, d].
        chol: [k, d, d], lower triangular with a positive diagonal.

    Raises:
        ValueError: for shapes that do not fit, or numbers that are not finite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> two = js.fit.Mixture([0.5, 0.5], [[-1.0], [1.0]], jnp.ones((2, 1, 1)))
        >>> two.shares(jnp.array([0.0])).tolist(), two.num
        ([0.5, 0.5], 2)

    Cost:
        k inverses of [d, d] triangles, and k d^2 operations for each point.
    """

    weight: Any = field(convert=numbers)
    mean: Any = field(convert=numbers)
    chol: Any = field(convert=numbers)

    def __post_init__(self):
        check_rows("Mixture: mean", self.mean, ndim=2)
        k, d = self.mean.shape
        if self.weight.shape != (k,) or self.chol.shape != (k, d, d):
            raise ValueError(f"Mixture: weight [k], mean [k, d] and chol [k, d, d] needed, got {self.weight.shape}, "
                             f"{self.mean.shape}, {self.chol.shape}.")  # fmt: skip

    @property
    def num(self) -> int:
        """The number of components, those of weight 0 included."""
        return self.mean.shape[0]

    def __call__(self, x: Any) -> jax.Array:
        """Compute the log-density of a point x [d]."""
        return jax.nn.logsumexp(self._log_parts(x))

    def shares(self, x: Any) -> jax.Array:
        """Compute the probability [k] of each component, given a point x [d]."""
        return jax.nn.softmax(self._log_parts(x))

    def _log_parts(self, x: Any) -> jax.Array:
        x = jnp.asarray(x)
        if x.shape != self.mean.shape[1:]:
            raise ValueError(f"Mixture: x must be one point {self.mean.shape[1:]}, got {x.shape}. Use jax.vmap.")
        return log_parts(self, inverse(self.chol), x[None])[1][:, 0]


class MixtureInfo(NamedTuple):
    """Report a fit of `mixture`.

    Args:
        labels: [n] int32, the likeliest component of every row.
        loglikelihood: mean log-likelihood of a row.
        bic: -2 log-likelihood + log(rows) times the number of free numbers: smaller is better.
        steps: iterations made.
        ok: whether it converged before it ran out of steps.

    Example:
        >>> import jsamp as js
        >>> js.fit.MixtureInfo(labels=[0], loglikelihood=-1.0, bic=4.0, steps=1, ok=True).bic
        4.0
    """

    labels: Any
    loglikelihood: Any
    bic: Any
    steps: Any
    ok: Any


def mixture(
    key: Key,
    X: Array,
    num: int,
    *,
    weights: Array | None = None,
    start: Any = None,
    covariance: Literal["full", "diagonal", "spherical"] = "full",
    floor: Scalar = 1e-6,
    steps: int = 300,
    tolerance: Scalar = 1e-5,
) -> Result:
    """Fit a mixture of `num` Gaussians to rows by expectation-maximisation, from a k-means partition.

    To the variance of every component `floor` times the mean variance of a column within the parts of the start is
    added, so that none shrinks onto a row; outliers that are a part of their own do not raise it. Components are
    numbered by the first coordinate of their means.

    Args:
        key: one key; may be None when `start` is given.
        X: [n, d] rows.
        num: components, static.
        weights: [n] >= 0, or None: how often each row counts.
        start: labels [n] in 0..num-1 to start from, a `Mixture` to go on from, or None for `kmeans`.
        covariance: "full", "diagonal", or "spherical" (one variance per component).
        floor: >= 0, of the mean variance of a column within the parts of the start.
        steps: most iterations, static.
        tolerance: stops when the mean log-likelihood of a row rises by no more.

    Returns:
        `Result(Mixture, MixtureInfo)`.

    Raises:
        ValueError: for a non-finite X, num > n, an unknown covariance, negative numbers, a start that does not fit, or
            bad weights.
        TypeError: for integers where rows are wanted, or something that is no key.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> X = jnp.array([[-3.0], [-2.0], [-1.0], [4.0], [5.0], [6.0]])
        >>> found, info = js.fit.mixture(jax.random.key(0), X, 2)
        >>> found.mean[:, 0].round(2).tolist(), info.labels.tolist()
        ([-2.0, 5.0], [0, 0, 0, 1, 1, 1])

    Cost:
        An iteration takes 2 n num d^2 multiplications, in blocks of rows; no n x num array is kept.

    References:
        Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm", 1977.
    """
    X = check_matrix("mixture: X", X, tall=False)
    num, steps = check_count("mixture: num", num, high=X.shape[0]), check_count("mixture: steps", steps)
    check_choice("mixture: covariance", covariance, KINDS)
    floor, tolerance = as_scalar("mixture: floor", floor, low=0), as_scalar("mixture: tolerance", tolerance, low=0)
    weights = check_weights(weights, X.shape[0], "mixture")
    if start is None or key is not None:
        check_key(key, "mixture")
    if isinstance(start, Mixture):
        if start.mean.shape != (num, X.shape[1]):
            raise ValueError(f"mixture: start has means {start.mean.shape}, wanted {(num, X.shape[1])}.")
    elif start is not None:
        start = check_labels("mixture: start", start, num, X.shape[0])
    return Result(*_mixture(key, X, weights, start, floor, tolerance, num, covariance, steps))


@functools.partial(jax.jit, static_argnames=("num", "covariance", "steps"))
def _mixture(key, X, weights, start, floor, tolerance, num, covariance, steps):
    cloud = as_cloud(X, weights)
    live = jnp.ones(num, bool)
    if isinstance(start, Mixture):
        to_unit = lambda value: jnp.asarray(value, X.dtype) * cloud.unit
        begin = Mixture(start.weight.astype(X.dtype), to_unit(start.mean - cloud.origin[None]), to_unit(start.chol))
        within = jnp.sum(begin.weight[:, None, None] * begin.chol**2) / X.shape[1]
        floor = _least(cloud, within, floor)
    else:
        if start is None:
            run = lloyd_best(cloud, seeds(key, cloud, num)[None], live, 1e-4, 300)
            start = measured(cloud, run.centers, live)[0]
        begin, floor = from_labels(cloud, start, num, covariance, floor)
    fitted = em(cloud, begin, live, covariance, floor, tolerance, steps)
    return in_units(cloud, fitted.mixture, by_position(fitted.mixture.mean, live)), info_of(
        cloud, fitted, live, covariance
    )


class Fitted(NamedTuple):
    """The end of a run of expectation-maximisation, in the units of the cloud."""

    mixture: Any
    loglikelihood: Any
    steps: Any
    ok: Any


def in_units(cloud: Cloud, found: Mixture, order: jax.Array) -> Mixture:
    """The mixture in the units of the user's rows, its components in the given order."""
    back = lambda value: value[order] / cloud.unit
    return Mixture(found.weight[order], back(found.mean) + cloud.origin[None], back(found.chol))


def info_of(cloud: Cloud, fitted: Fitted, live: jax.Array, covariance: str) -> MixtureInfo:
    """Labels by position of the components, likelihood in the user's units, and the information criterion."""
    found = fitted.mixture
    rank = jnp.argsort(by_position(found.mean, live)).astype(jnp.int32)
    label = rank[likeliest(cloud.rows, found)]
    d = found.mean.shape[1]
    loglikelihood = fitted.loglikelihood + d * jnp.log(cloud.unit)
    bic = criterion(cloud, loglikelihood, live, d, covariance)
    return MixtureInfo(label, loglikelihood, bic, fitted.steps, fitted.ok)


def criterion(cloud: Cloud, loglikelihood: jax.Array, live: jax.Array, d: int, covariance: str) -> jax.Array:
    """The Bayesian information criterion of as many components as are live."""
    free = {"full": d * (d + 1) // 2, "diagonal": d, "spherical": 1}[covariance]
    count = jnp.sum(live)
    return -2 * cloud.total * loglikelihood + jnp.log(cloud.total) * (count - 1 + count * (d + free))


def inverse(chol: jax.Array) -> jax.Array:
    """Inverses of lower triangular matrices [k, d, d]."""
    eye = jnp.broadcast_to(jnp.eye(chol.shape[-1], dtype=chol.dtype), chol.shape)
    return lax.linalg.triangular_solve(chol, eye, left_side=True, lower=True)


def log_parts(found: Mixture, whiten: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Deviations [k, b, d] of rows from the means, and log(weight_j N(row; j)) [k, b]."""
    away = rows[None] - found.mean[:, None]
    score = matmul(away, jnp.swapaxes(whiten, 1, 2))
    heavy = found.weight > 0
    scale = jnp.sum(jnp.log(jnp.diagonal(found.chol, axis1=1, axis2=2)), 1)
    level = jnp.where(heavy, jnp.log(jnp.where(heavy, found.weight, 1)), -jnp.inf)
    constant = level - scale - rows.shape[1] * 0.5 * math.log(2 * math.pi)
    return away, constant[:, None] - 0.5 * jnp.sum(score * score, 2)


def _block(found: Mixture) -> int:
    return max(1, min(8192, NUMBERS // found.mean.size))


def likeliest(rows: jax.Array, found: Mixture) -> jax.Array:
    """The component [n] of the largest share in every row."""
    whiten = inverse(found.chol)
    pick = lambda part: jnp.argmax(log_parts(found, whiten, part)[1], 0).astype(jnp.int32)
    return map_rows(pick, rows, block=_block(found))


def from_labels(cloud: Cloud, label: jax.Array, num: int, covariance: str, floor: Any) -> tuple[Mixture, jax.Array]:
    """Means and covariances of the rows of each label, and the variance under them; labels without rows weigh 0."""
    rows, share = cloud.rows, cloud.share
    mass = by_label(share, label, num)
    safe = jnp.where(mass > 0, mass, 1)
    center = lambda away: by_label(share[:, None] * away, label, num) / safe[:, None]
    mean = center(rows)
    mean = mean + center(rows - mean[label])  # equal rows have no variance, not even by rounding

    def part(rows, share, label):
        own = jnp.where(label[None] == jnp.arange(num)[:, None], share[None], 0)
        away = rows[None] - mean[:, None]
        return matmul(jnp.swapaxes(away * own[..., None], 1, 2), away)

    scatter = sum_rows(part, rows, share, label, block=max(1, min(8192, NUMBERS // mean.size)))
    floor = _least(cloud, jnp.mean(jnp.sum(jnp.diagonal(scatter, axis1=1, axis2=2), 0)), floor)
    return Mixture(mass, mean, _factor(scatter / safe[:, None, None], covariance, floor)), floor


def _least(cloud: Cloud, within: jax.Array, floor: Any) -> jax.Array:
    """The variance that a floor adds: a share of that within parts, or of that of all rows where parts have none."""
    within = jnp.where(within > 0, within, cloud.variance)
    return floor * jnp.where(within > 0, within, 1)


def _factor(scatter: jax.Array, covariance: str, floor: Any) -> jax.Array:
    """Cholesky factors of covariances of one kind, with a variance `floor` under them."""
    d = scatter.shape[-1]
    eye = jnp.eye(d, dtype=scatter.dtype)[None]
    variance = jnp.diagonal(scatter, axis1=1, axis2=2)
    if covariance == "spherical":
        variance = jnp.broadcast_to(jnp.mean(variance, 1, keepdims=True), variance.shape)
    scatter = scatter if covariance == "full" else variance[:, :, None] * eye
    least = floor + jnp.finfo(scatter.dtype).eps * jnp.max(variance, 1)
    return jnp.linalg.cholesky(scatter + least[:, None, None] * eye)


def em(
    cloud: Cloud, begin: Mixture, live: jax.Array, covariance: str, floor: Any, tolerance: Any, steps: int
) -> Fitted:
    """Expectation-maximisation until the mean log-likelihood rests; `floor` is a variance, dead components weigh 0."""

    def step(carry):
        found, before, _, t = carry
        loglikelihood, moved = _improved(cloud, found, live, covariance, floor)
        return moved, loglikelihood, loglikelihood - before <= tolerance, t + 1

    first = (begin, jnp.array(-jnp.inf, cloud.rows.dtype), jnp.array(False), jnp.array(0, jnp.int32))
    first = vary(first, cloud.rows, begin)
    found, _, rest, t = lax.while_loop(lambda c: ~c[2] & (c[3] < steps), step, first)
    return Fitted(found, _improved(cloud, found, live, covariance, floor)[0], t, rest)


def _improved(cloud: Cloud, found: Mixture, live: jax.Array, covariance: str, floor: Any) -> tuple[jax.Array, Mixture]:
    """The mean log-likelihood of a mixture, and the mixture after one iteration.

    Covariances are summed about the old means and corrected by the square of their move, which vanishes as they rest.
    """
    whiten = inverse(found.chol)

    def part(rows, share):
        away, logs = log_parts(found, whiten, rows)
        whole = jax.nn.logsumexp(logs, 0)
        owned = jnp.exp(logs - whole[None]) * share[None]
        heavy = away * owned[..., None]
        return jnp.sum(whole * share), jnp.sum(owned, 1), jnp.sum(heavy, 1), matmul(jnp.swapaxes(heavy, 1, 2), away)

    loglikelihood, mass, first, second = sum_rows(part, cloud.rows, cloud.share, block=_block(found))
    safe = jnp.where(mass > 0, mass, 1)
    move = first / safe[:, None]
    scatter = second / safe[:, None, None] - move[:, :, None] * move[:, None]
    weight = jnp.where(live, mass, 0) / jnp.sum(jnp.where(live, mass, 0))
    return loglikelihood, Mixture(weight, found.mean + move, _factor(scatter, covariance, floor))
