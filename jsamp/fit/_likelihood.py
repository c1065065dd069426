"""Nested sampling of an expensive likelihood: a small network stands in for it near the end, its errors measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._callable import Bound
from jsamp._core._log_weights import effective_size
from jsamp._core._pytree import pytree
from jsamp._core._types import Key, LogDensity, Result, Scalar
from jsamp.estimate import Estimate
from jsamp.fit._minimise import minimise
from jsamp.mcmc import _nested as sampler
from jsamp.mcmc import _nested_evidence as evidence
from jsamp.mcmc import _nested_moves as loop

WIDTH, BATCH, HEADROOM, TRIES = 32, 64, 1.0, 4
"""Units of both layers, rows a step, nats above the best seen that a prediction may reach, failed checks in a row."""
IMPOSSIBLE = 1e9
"""Nats by which a prediction counts as wrong where the likelihood is 0."""


class SurrogateInfo(NamedTuple):
    """Report a run of `likelihood_surrogate`.

    Args:
        log_evidence: an `Estimate` of log Z, of true likelihoods; the surrogate's errors are in its standard error.
        log_weights: [n] of the draws, of true likelihoods.
        loglikelihood: [n] true ones, in the order in which the draws were deleted.
        rank_p_value: as in `js.mcmc.NestedInfo`.
        information: nats by which the posterior is narrower than the prior.
        nfe: true likelihood calls, those of checks and of the final correction included.
        surrogate_calls: calls of the surrogate.
        errors: [checks, 2] median and 95 % quantile of |error| in nats, at points that it had not seen.
        accepted: [checks] whether both were within their tolerance.
        correction: effective share of the posterior draws after their weights were corrected; 1 for a true surrogate.
        surrogate: the last network, a callable u [dim] -> log-likelihood, or None.
        ok: the rest of the evidence is below `stop`, and no likelihood was NaN.

    Example:
        >>> import jsamp as js
        >>> js.fit.SurrogateInfo._fields[:2]
        ('log_evidence', 'log_weights')
    """

    log_evidence: Any
    log_weights: Any
    loglikelihood: Any
    rank_p_value: Any
    information: Any
    nfe: Any
    surrogate_calls: Any
    errors: Any
    accepted: Any
    correction: Any
    surrogate: Any
    ok: Any


@pytree
class _Surrogate:
    """A quadratic plus a network of two layers, of standardised u, in nats around `shift`; never above `ceiling`."""

    trained: Any
    center: Any
    scale: Any
    shift: Any
    ceiling: Any

    def __call__(self, u):
        """The predicted log-likelihood."""
        weights, z = self.trained, (u - self.center) / self.scale
        product = functools.partial(jnp.matmul, precision="highest")
        hidden = jnp.tanh(product(z, weights["in"]) + weights["bias"])
        hidden = jnp.tanh(product(hidden, weights["between"]) + weights["bias2"])
        curve = product(z, product(weights["square"], z)) + product(weights["line"], z) + weights["level"]
        return jnp.minimum(self.shift + curve + product(weights["out"], hidden), self.ceiling)


def _misfit(key, model, batch):
    u, wanted = batch
    free = jax.vmap(_replaced(model))(u)
    return jnp.mean(jnp.log1p((free - wanted) ** 2)), None


def _replaced(model):
    """The model without its ceiling, whose slope is 0."""
    return _Surrogate(model.trained, model.center, model.scale, model.shift, jnp.inf)


def _trained(path, leaf):
    return path.startswith(".trained")


@functools.cache
def _optimiser(steps):
    import optax

    return optax.adam(optax.cosine_decay_schedule(5e-3, steps))


def _learn(key, u, values, rows, steps, progress):
    """Fit the surrogate to the last `rows` points (repeated where there are fewer): one program for every fit."""
    keep = np.isfinite(values)
    u, values = (np.resize(part[keep][-rows:], (rows, *part.shape[1:])) for part in (u, values))
    center, scale = u.mean(0), u.std(0) + 1e-6
    z = ((u - center) / scale).astype(np.float64)
    dim, shift = int(u.shape[-1]), float(values.max())
    pairs = [(i, j) for i in range(dim) for j in range(i, dim)]
    columns = [np.ones(len(z)), *z.T, *(z[:, i] * z[:, j] for i, j in pairs)]
    found = np.linalg.lstsq(np.stack(columns, 1), values - shift, rcond=None)[0]
    square = np.zeros((dim, dim))
    for (i, j), value in zip(pairs, found[1 + dim :], strict=True):
        square[i, j] = value
    a, b = jax.random.split(jax.random.fold_in(key, 0))
    dtype = u.dtype
    weights = {
        "in": jax.random.normal(a, (dim, WIDTH), dtype) / dim**0.5, "bias": jnp.zeros(WIDTH, dtype),
        "between": jax.random.normal(b, (WIDTH, WIDTH), dtype) / WIDTH**0.5, "bias2": jnp.zeros(WIDTH, dtype),
        "out": jnp.zeros(WIDTH, dtype), "square": jnp.asarray(square, dtype),
        "line": jnp.asarray(found[1 : 1 + dim], dtype), "level": jnp.asarray(found[0], dtype),
    }  # fmt: skip
    fixed = (jnp.asarray(leaf, dtype) for leaf in (center, scale, shift, shift + HEADROOM))
    data = (jnp.asarray(u), jnp.asarray(values))
    return minimise(
        key, _misfit, _Surrogate(weights, *fixed), data,
        optimiser=_optimiser(steps), steps=steps, batch=min(BATCH, rows), trainable=_trained, progress=progress,
    ).x  # fmt: skip


class _Run:
    """The run between its phases: the state, what was truly evaluated, and what every check found."""

    def __init__(
        self, key: Key, target: Any, num: int, dim: int, options: dict[str, Any], stop, tolerance, check, steps
    ):
        self.key, self.target, self.options = key, target, options
        self.stop, self.tolerance, self.check, self.steps = stop, tolerance, check, steps
        self.state = sampler.start(key, target, num, dim)
        self.num, self.model, self.failed = num, None, 0
        self.nfe, self.cheap, self.guessed = num, 0, np.zeros(0, bool)
        self.more, self.errors = [], []

    def climb(self, target, stop, last):
        """Run a phase on the true likelihood or on the surrogate, and note which deaths it ordered."""
        before = int(self.state.nfe)
        self.state = sampler.climb(self.key, target, self.state, stop, last, **self.options)  # pyright: ignore
        calls, guess = int(self.state.nfe) - before, target is not self.target
        self.nfe, self.cheap = self.nfe + (0 if guess else calls), self.cheap + (calls if guess else 0)
        new = len(self.state.dead_u) - self.guessed.size
        self.guessed = np.concatenate([self.guessed, np.full(new, guess)])

    def true(self, u):
        """The true log-likelihood at points, counted."""
        self.nfe += len(u)
        found = _values(self.target, jnp.asarray(u))
        return np.asarray(found)

    def guess(self):
        """The surrogate in place of likelihood and prior."""
        return self.model, ITSELF

    def open(self):
        """Whether the evidence can still grow."""
        state = self.state
        live = loop.Live(state.u, state.loglikelihood, state.tie)
        return bool(loop.remaining(loop.Loop(state.step, live, *state[4:9])) > self.stop)  # pyright: ignore

    def relabel(self, values):
        """Give the live points other log-likelihoods, which order them from now on."""
        self.state = self.state._replace(loglikelihood=jnp.asarray(values))

    def judge(self, u, values):
        """Compare the surrogate with true values, in nats: whether it may be used."""
        gap = np.minimum(np.abs(np.asarray(_values(self.guess(), jnp.asarray(u))) - values), IMPOSSIBLE)
        found = np.quantile(gap, [0.5, 0.95]) if gap.size >= 20 else np.full(2, np.inf)
        self.errors.append(found)
        return bool((found <= self.tolerance).all())

    def known(self):
        """Every point that was truly evaluated, the newest last: (u, log-likelihood). Live points must be true ones."""
        state, true = self.state, ~self.guessed
        parts = [(state.dead_u[true], state.dead_loglikelihood[true]), *self.more]
        order = np.argsort(np.asarray(state.loglikelihood))
        parts.append((np.asarray(state.u)[order], np.asarray(state.loglikelihood)[order]))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _itself(u):
    return u


ITSELF = Bound(_itself)


@jax.jit
def _values(target, u):
    return jax.vmap(loop.evaluate, (None, 0))(target, u)


def likelihood_surrogate(
    key: Key,
    loglikelihood: LogDensity,
    from_cube: Callable[[Any], Any],
    num_live: int,
    *,
    dim: int,
    delete: int = 1,
    stop: Scalar = 1e-3,
    begin: Scalar = 1.0,
    tolerance: tuple[float, float] = (0.3, 1.0),
    check: int | None = None,
    moves: int | None = None,
    steps: int = 1000,
    progress: bool = False,
) -> Result:
    """Draw by nested sampling of a costly likelihood: a small network stands in for it once little evidence is left.

    The run is `js.mcmc.nested` until the live points can raise log Z by `begin` at most. A quadratic with a network on
    top is then fitted to the points evaluated so far, and compared with the truth at fresh points, which true steps
    have drawn since. Where it is near enough, in nats, it orders the next e-fold of volume; then it is compared again,
    at live points that it has placed. Where it is not, true steps go on and it is fitted anew; after four failures in a
    row the run ends on the true likelihood.

    At the end every point that the surrogate placed is evaluated truly and weighted by its true likelihood. Any order
    of the points makes a valid sum for the evidence, so an error of the surrogate costs variance, and is in the
    standard error; what it must not do is miss a place, which the checks are for.

    What differs from the paper: errors are absolute (its relative tolerance depends on the constant in log L), checks
    are at fresh points, and live points are never those of a genetic search, which would shift the evidence.

    Args:
        key: one JAX key.
        loglikelihood: tree -> scalar, as in `js.mcmc.nested`.
        from_cube: maps u [dim] to a draw of the prior.
        num_live: live points (static).
        dim: dimensions of the cube (static).
        delete: points replaced side by side (static).
        stop: end when the live points can raise log Z by at most this.
        begin: fit the surrogate when they can raise it by at most this, above `stop`.
        tolerance: largest median and largest 95 % quantile of |error| in nats.
        check: points of each check, at least 20; None is num_live / 5, at least 20.
        moves: slices for each new point (static).
        steps: updates of the network for each fit.
        progress: draw a tqdm bar of the fits' updates, when tqdm is installed.

    Returns:
        `Result(draws, SurrogateInfo)`; the draws are weighted by `info.log_weights`.

    Raises:
        TypeError, ValueError: as `js.mcmc.nested`; for fewer than 20 points of a check, or `begin` below `stop`.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> draws, info = js.fit.likelihood_surrogate(
        ...     jax.random.key(0), lambda x: -jnp.sum((x / 0.1) ** 2) / 2, lambda u: 2 * u - 1, 60, dim=2, delete=20,
        ...     steps=50)
        >>> info.surrogate_calls > 0, bool(info.correction > 0.9)
        (True, True)

    Cost:
        The calls of `js.mcmc.nested` down to `begin`, then one for each point placed instead of the 2 or 3 `moves` that
        placing it takes; `steps` updates of a network of 32 units a fit, about a second. It pays when a call takes
        longer than a millisecond or so.

    References:
        Gomez-Vargas and Vazquez, "Deep learning and genetic algorithms for cosmological Bayesian inference speed-up",
        2024, arXiv:2405.03293.
    """
    _checks.check_key(key, "likelihood_surrogate")
    _checks.check_flag("likelihood_surrogate: progress", progress)
    _checks.check_scalar("likelihood_surrogate: stop", stop, low=0, open_low=True)
    _checks.check_scalar("likelihood_surrogate: begin", begin, low=float(stop), open_low=True)
    num_live, delete, moves = sampler.counts("likelihood_surrogate", num_live, dim, delete, moves)
    check = max(20, num_live // 5) if check is None else check
    check = _checks.check_count("likelihood_surrogate: check", check, low=20, high=max(20, num_live))
    steps = _checks.check_count("likelihood_surrogate: steps", steps)
    limits = _limits(tolerance)
    target = sampler.as_target("likelihood_surrogate", loglikelihood, from_cube, dim)
    _checks.check_on_host("likelihood_surrogate", key, target)
    options = {"delete": delete, "moves": moves}
    run = _Run(key, target, num_live, dim, options, float(stop), limits, check, steps)
    run.climb(target, float(begin), 2**31 - 1)
    while run.open() and run.failed < TRIES:
        _try(run, progress)
    if run.open():
        run.climb(target, run.stop, 2**31 - 1)
    return _corrected(run)


def _limits(tolerance):
    found = np.asarray(tolerance) if isinstance(tolerance, (tuple, list)) else np.zeros(0)
    if found.shape != (2,) or found.dtype.kind not in "fi" or not (found > 0).all():
        shown = _checks.shown(tolerance)
        raise ValueError(f"likelihood_surrogate: tolerance must be two positive numbers of nats, got {shown}.")
    return found


def _try(run, progress):
    """Fit, check at fresh points, and let the surrogate order one e-fold of volume if it passes."""
    delete, seen = run.options["delete"], run.known()
    fold = jax.random.fold_in(run.key, 2**30 + len(run.errors))
    run.model = _learn(fold, seen[0], seen[1], 4 * run.num, run.steps, progress)
    run.climb(run.target, run.stop, int(run.state.step) + -(-run.check // delete))
    u, values = run.known()
    fresh = ~_members(u, seen[0])
    if not run.judge(u[fresh], values[fresh]):
        run.failed += 1
        return
    run.failed = 0
    while run.open():
        live = np.asarray(run.state.u)
        run.relabel(_values(run.guess(), run.state.u))
        run.climb(run.guess(), run.stop, int(run.state.step) + max(1, run.num // delete))
        new = np.flatnonzero(~_members(np.asarray(run.state.u), live))[: run.check]
        asked = np.asarray(run.state.u)[new]
        values = run.true(asked)
        run.more.append((asked, values))
        if run.open() and not run.judge(asked, values):
            break
    run.relabel(run.true(np.asarray(run.state.u)))


def _members(rows, others):
    """[n] whether each row stands among the others, bit for bit."""
    held = {row.tobytes() for row in others}
    return np.array([row.tobytes() in held for row in rows], bool)


def _corrected(run):
    """The draws with true likelihoods, in the order of deletion, the live points last and truly evaluated."""
    state = run.state
    order = np.argsort(np.asarray(state.loglikelihood), kind="stable")
    u = np.concatenate([state.dead_u, np.asarray(state.u)[order]])
    said = np.concatenate([state.dead_loglikelihood, np.asarray(state.loglikelihood)[order]])
    guessed = np.concatenate([run.guessed, np.zeros(run.num, bool)])
    values = said.copy()
    values[guessed] = run.true(u[guessed]) if guessed.any() else values[guessed]
    gap = np.zeros(len(u))
    gap[guessed] = values[guessed].astype(np.float64) - said[guessed]
    delete = run.options["delete"]
    before = evidence.evidence(said, run.num, delete).log_weights
    share = np.exp(before - before.max())
    ratio = np.exp(np.minimum(gap, 50))
    correction = np.sum(share * ratio) ** 2 / np.sum(share * ratio**2) / np.sum(share)
    # Weighed by true likelihoods: a point without any has no part in the evidence, nor in its error.
    true = share * ratio
    gap = np.where(true > 0, gap, 0)
    spread = np.where(true > 0, gap - np.sum(true * gap) / np.sum(true), 0)
    found = evidence.evidence(values, run.num, delete, noise=np.where(guessed, spread, 0))
    log_weights = jnp.asarray(found.log_weights, said.dtype)
    info = SurrogateInfo(
        log_evidence=Estimate(found.value, found.stderr, float(effective_size(log_weights))), log_weights=log_weights,
        loglikelihood=jnp.asarray(values), rank_p_value=evidence.rank_p_value(state.ranks),
        information=found.information, nfe=run.nfe, surrogate_calls=run.cheap,
        errors=np.array(run.errors).reshape(-1, 2),
        accepted=np.array([bool((one <= run.tolerance).all()) for one in run.errors], bool),
        correction=float(correction), surrogate=run.model,
        ok=not run.open() and not int(state.lost) and not bool(np.isnan(values).any()),
    )  # fmt: skip
    return Result(jax.vmap(run.target[1])(jnp.asarray(u)), info)
