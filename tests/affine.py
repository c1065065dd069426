"""The affine oracle: exact mean and covariance of what a plan draws when the denoiser is affine in x. No Monte Carlo.

On Gaussian data every guided prediction is affine, x0 = P x + q, so x at the end is an affine function of the start and
of every noise draw. The table is read by the independent interpreter of `laws`, once, for all basis vectors.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent / "law"))

from laws import interpret


def affine_map(function, dim):
    """(matrix [m, dim], offset [m]) of an affine function of one vector; refuses a function that is not affine."""
    points = np.concatenate([np.zeros((1, dim)), np.eye(dim), np.linspace(-1.3, 0.7, dim)[None]])
    values = np.stack([np.ravel(np.asarray(function(jnp.asarray(p)), np.float64)) for p in points])
    offset, matrix = values[0], (values[1:-1] - values[0]).T
    np.testing.assert_allclose(matrix @ points[-1] + offset, values[-1], rtol=1e-8, atol=1e-8)
    return matrix, offset


def push(function, mean, cov):
    """Mean and covariance of an affine function of x ~ N(mean, cov)."""
    matrix, offset = affine_map(function, len(mean))
    return matrix @ mean + offset, matrix @ cov @ matrix.T


def landings(plan):
    """alpha where the step that each row belongs to ends: what multiplies the x0 part of a kick."""
    ends = np.ones(plan.nfe, bool) if plan.ends_step is None else np.asarray(plan.ends_step)
    return np.array([plan.alpha_next[next((k for k in range(r, plan.nfe) if ends[k]), r)] for r in range(plan.nfe)])


def predictions(denoiser, plan, dim):
    """Matrices [R, 3, dim, dim] and offsets [R, 3, dim] of x0, eps and the kick (in units of x) at the rows of a plan."""

    def call(x, t, alpha):
        out = denoiser(x, t)
        kick = getattr(out, "kick", None)
        move = jnp.zeros_like(x)
        if kick is not None:
            move = move + (0 if kick.x is None else kick.x) + (0 if kick.x0 is None else alpha * kick.x0)
        return jnp.stack([out.x0, out.eps, move])

    points = np.concatenate([np.zeros((1, dim)), np.eye(dim), np.linspace(-1.3, 0.7, dim)[None]])
    every = jax.jit(jax.vmap(jax.vmap(call, (0, None, None)), (None, 0, 0)))
    values = np.asarray(every(jnp.asarray(points), jnp.asarray(plan.t), jnp.asarray(landings(plan))), np.float64)
    offset = values[:, 0]
    matrix = np.moveaxis(values[:, 1:-1] - values[:, :1], 1, -1)
    wanted = np.einsum("rkij,j->rki", matrix, points[-1]) + offset
    np.testing.assert_allclose(values[:, -1], wanted, rtol=1e-7, atol=1e-7)
    return matrix, offset


def output_law(denoiser, plan, mean, cov):
    """Exact mean [d] and covariance [d, d] of a plan's output, for a start N(mean, cov) and an affine denoiser.

    Kicks, stages, correctors, momentum and noise are read from the table. Call it in float64.
    """
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    dim = len(mean)
    matrix, offset = predictions(denoiser, plan, dim)
    streams = [s for s, column in ((0, plan.noise_std), (1, plan.churn_std)) if column is not None]
    places = {(r, s): k for k, (r, s) in enumerate((r, s) for r in range(plan.nfe) for s in streams)}
    # Row 0 is the offset; then a unit of each coordinate of the start and of each draw.
    x = np.zeros((1 + dim * (1 + len(places)), dim))
    x[1 : dim + 1] = np.eye(dim)
    rows = iter(range(plan.nfe))

    def predict(x, t):
        r = next(rows)
        return tuple(x @ matrix[r, k].T + offset[r, k] for k in range(3))

    def noise(row, stream):
        unit = np.zeros_like(x)
        first = 1 + dim * (1 + places[row, stream])
        unit[first : first + dim] = np.eye(dim)
        return unit

    out = interpret(plan, predict, x, noise)
    gain = (out[1:] - out[0]).T
    start, draws = gain[:, :dim], gain[:, dim:]
    return start @ mean + out[0], start @ cov @ start.T + draws @ draws.T


def start_of(schedule, t, mean, cov):
    """Mean and covariance of the noised law of N(mean, cov) at time t."""
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    return alpha * mean, alpha**2 * cov + sigma**2 * np.eye(len(mean))


def posterior(mean, cov, matrix, noise, y):
    """Exact mean and covariance of x0 ~ N(mean, cov) given y = matrix x0 + noise N(0, 1)."""
    mean, cov, matrix = (np.asarray(a, np.float64) for a in (mean, cov, matrix))
    total = matrix @ cov @ matrix.T + noise**2 * np.eye(len(matrix))
    gain = np.linalg.solve(total, matrix @ cov).T
    return mean + gain @ (np.asarray(y, np.float64) - matrix @ mean), cov - gain @ matrix @ cov
