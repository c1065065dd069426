"""Nested sampling: posterior draws and the evidence, from live points that climb the likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._log_weights import effective_size
from jsamp._core._progress import bar
from jsamp._core._random import words
from jsamp._core._types import Key, LogDensity, Result, Scalar
from jsamp.estimate import Estimate
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _nested_evidence as evidence
from jsamp.mcmc import _nested_moves as loop
from jsamp.mcmc._origin import numbers


class NestedState(NamedTuple):
    """Hold a run of `nested` between two steps: arrays only, so that `np.savez(path, **state._asdict())` stores it.

    Args:
        step: steps made.
        u: [num_live, dim] live points in the cube.
        loglikelihood: [num_live] theirs.
        tie: [num_live] numbers that order points of equal likelihood.
        log_x: log of the volume left, as the loop counts it.
        log_z: log-evidence so far, as the loop counts it.
        nfe: likelihood calls.
        stuck: moves that found no other point.
        lost: NaN met.
        dead_u: [dead, dim] deleted points, in order.
        dead_loglikelihood: [dead] theirs.
        ranks: [dead] insertion ranks as uniform numbers.
        origin: fingerprints of key, likelihood and live points.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.NestedState._fields[:2]
        ('step', 'u')
    """

    step: Any
    u: Any
    loglikelihood: Any
    tie: Any
    log_x: Any
    log_z: Any
    nfe: Any
    stuck: Any
    lost: Any
    dead_u: Any
    dead_loglikelihood: Any
    ranks: Any
    origin: Any


class NestedInfo(NamedTuple):
    """Report a run of `nested`.

    Args:
        log_evidence: an `Estimate` of log Z with its standard error; `ess` is that of the weighted draws.
        log_weights: [n] of the draws: likelihood times the share of prior volume; their sum is the evidence.
        loglikelihood: [n] of the draws, rising.
        rank_p_value: probability of insertion ranks as far from uniform, if the moves forget where they began. Below
            1e-3 or so, raise `moves`.
        information: nats by which the posterior is narrower than the prior.
        nfe: likelihood calls, those of waiting chains included.
        steps: steps made, of `delete` deletions each.
        stuck: share of moves that found no other point: of float32 numbers or of likelihoods that are equal almost
            everywhere.
        ok: the rest of the evidence is below `stop`, and no likelihood was NaN.
        state: a `NestedState` to go on from.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.NestedInfo._fields[:2]
        ('log_evidence', 'log_weights')
    """

    log_evidence: Any
    log_weights: Any
    loglikelihood: Any
    rank_p_value: Any
    information: Any
    nfe: Any
    steps: Any
    stuck: Any
    ok: Any
    state: Any


def nested(
    key: Key,
    loglikelihood: LogDensity,
    from_cube: Callable[[Any], Any],
    num_live: int,
    *,
    dim: int,
    delete: int = 1,
    stop: Scalar = 1e-3,
    moves: int | None = None,
    max_steps: int | None = None,
    progress: bool = False,
    state: NestedState | None = None,
) -> Result:
    """Draw weighted posterior samples and the log-evidence by nested sampling.

    Live points of the prior are kept. A step deletes the `delete` lowest and replaces them by points that start at
    random survivors and move by slices inside {likelihood above the highest deleted}, along directions shaped by the
    survivors' covariance. The lowest of n live points leaves a share Beta(n, 1) of the volume, which gives each its
    weight. Equal likelihoods are ordered by a uniform number that moves along, so plateaus (of likelihood 0, or of
    rounding) cost no bias.

    Live points begin as draws of the prior and as nothing else: points of an optimiser (a genetic search, say) would
    all count as volume that they do not fill, and shift the evidence. A state whose live points were changed is
    refused.

    Args:
        key: the key of the whole run; pass the same one when resuming. Step i uses fold_in(key, i).
        loglikelihood: tree -> scalar, of what `from_cube` returns. Its arrays are leaves: other data of the same shapes
            run the same program. It may be -inf.
        from_cube: maps u [dim], uniform on the cube, to a draw of the prior: any tree.
        num_live: live points (static), more than dim and at least 2 delete. The error falls as 1 / sqrt(num_live).
        dim: dimensions of the cube (static).
        delete: points deleted and replaced side by side (static).
        stop: end when the live points can raise log Z by at most this.
        moves: slices for each new point (static); None is 5 dim. Fewer may leave errors of the evidence that are
            half as large again as they say, where the posterior lies in a corner of the cube.
        max_steps: bound on the steps of the whole run, those before `state` included; None for no bound.
        progress: draw a tqdm bar of steps, when tqdm is installed.
        state: the `info.state` of a run to go on with, bit for bit, for example to a smaller `stop`.

    Returns:
        `Result(draws, NestedInfo)`: draws are [n, ...] trees in rising order of likelihood, to be weighted by
        `info.log_weights`: `js.estimate.snis(info.log_weights, f(draws))` is a posterior mean, and a `js.select.draw`
        with their exponentials gives equal draws. Ctrl-C ends the run and returns what there is.

    Raises:
        TypeError: for a likelihood that is not one floating number.
        ValueError: for too few live points, a likelihood that is NaN or 0 at all of them, or a state of another run.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loglikelihood = lambda x: -jnp.sum((x / 0.1) ** 2) / 2
        >>> from_cube = lambda u: 2 * u - 1
        >>> draws, info = js.mcmc.nested(jax.random.key(0), loglikelihood, from_cube, 100, dim=2, delete=20)
        >>> exact = jnp.log(2 * jnp.pi * 0.1**2 / 4)
        >>> bool(abs(info.log_evidence.value - exact) < 4 * info.log_evidence.stderr)
        True

    Cost:
        About num_live (information + log(1 / stop)) moves 2.5 likelihood calls; two programs for all runs of one
        structure and size.

    References:
        Skilling, "Nested sampling for general Bayesian computation", 2006; Neal, "Slice sampling", 2003; Keeton, "On
        statistical uncertainty in nested sampling", 2011, arXiv:1102.0996; Fowlie, Handley and Su, "Nested sampling
        cross-checks using order statistics", 2020, arXiv:2006.03371.
    """
    _checks.check_key(key, "nested")
    _checks.check_scalar("nested: stop", stop, low=0, open_low=True)
    progress = _checks.check_flag("nested: progress", progress)
    num_live, delete, moves = counts("nested", num_live, dim, delete, moves)
    last = 2**31 - 1 if max_steps is None else _checks.check_count("nested: max_steps", max_steps)
    stop = k.as_float(stop)
    target = as_target("nested", loglikelihood, from_cube, dim)
    _checks.check_on_host("nested", key, target, state)
    run = start(key, target, num_live, dim) if state is None else resumed(key, target, state, num_live, dim)
    options = {"delete": delete, "moves": moves}
    run = climb(key, target, run, stop, last, progress=progress, **options)
    return report(target, run, stop, **options)


def counts(who: str, num_live: Any, dim: Any, delete: Any, moves: Any) -> tuple[int, int, int]:
    """The static counts of a run, or a refusal."""
    dim = _checks.check_count(f"{who}: dim", dim)
    delete = _checks.check_count(f"{who}: delete", delete)
    moves = 5 * dim if moves is None else _checks.check_count(f"{who}: moves", moves)
    num_live = _checks.check_count(f"{who}: num_live", num_live)
    if num_live <= dim or num_live < 2 * delete:
        raise ValueError(
            f"{who}: num_live must be above dim and at least twice delete, so that the survivors span the space; got "
            f"{num_live} for dim {dim} and delete {delete}."
        )
    return num_live, delete, moves


def as_target(who: str, loglikelihood: Any, from_cube: Any, dim: int) -> tuple[Any, Any]:
    """The likelihood on the cube as a tree, or a refusal of what is not one floating number."""
    loglikelihood = as_tree(f"{who}: loglikelihood", loglikelihood, "loglikelihood(x)")
    from_cube = as_tree(f"{who}: from_cube", from_cube, "from_cube(u)")
    u = jax.ShapeDtypeStruct((dim,), dtype())
    x = jax.eval_shape(lambda f, u: f(u), from_cube, u)
    made = jax.eval_shape(lambda f, x: f(x), loglikelihood, x)
    shapes = jax.tree.map(lambda leaf: leaf.shape, made)
    if shapes != () or not jnp.issubdtype(jax.tree.leaves(made)[0].dtype, jnp.floating):
        raise TypeError(f"{who}: loglikelihood must return one floating number, got {made}. Sum it over the data.")
    return loglikelihood, from_cube


def dtype() -> Any:
    """The dtype of the cube: float64 where x64 is on, which resolves narrower posteriors."""
    return jnp.result_type(float)


def start(key: Key, target: Any, num: int, dim: int) -> NestedState:
    """Draw the live points from the prior."""
    begun = loop.begin(key, target, num=num, dim=dim, dtype=dtype())
    values = np.asarray(begun.live.loglikelihood)
    if np.isnan(values).any() or np.isposinf(values).any():
        bad = np.asarray(begun.live.u)[int(np.argmax(np.isnan(values) | np.isposinf(values)))]
        raise ValueError(f"nested: loglikelihood is NaN or infinite at u = {bad}. Return -inf where it is impossible.")
    if np.isneginf(values).all():
        raise ValueError(
            f"nested: loglikelihood is -inf at all {num} draws of the prior. Raise num_live, or narrow it."
        )
    empty = np.zeros(0, values.dtype)
    return _sealed(key, target, begun, np.zeros((0, dim), values.dtype), empty, empty)


def _sealed(key, target, run, dead_u, dead_l, ranks):
    made = NestedState(*run[:1], *run.live, *run[2:], dead_u, dead_l, ranks, None)  # pyright: ignore
    return made._replace(origin=_origin(key, target, made))


@jax.jit
def _fingerprints(key, target, live):
    return jnp.stack([numbers(words(key)), numbers(target), numbers(live)])


def _origin(key, target, run):
    live = (run.u, run.loglikelihood, run.tie, run.step)
    return np.asarray(_fingerprints(key, target, jax.tree.map(jnp.asarray, live)))


def resumed(key: Key, target: Any, run: Any, num: int, dim: int) -> NestedState:
    """The state of a run to go on with, or a refusal of one that is no state of this run."""
    if not isinstance(run, NestedState):
        raise TypeError(f"nested: state must be the info.state of an earlier run, got {type(run).__name__}.")
    if np.shape(run.u) != (num, dim):
        raise ValueError(f"nested: the state has live points {list(np.shape(run.u))}, wanted {[num, dim]}.")
    if np.asarray(run.u).dtype != dtype():
        raise ValueError(f"nested: the state is {np.asarray(run.u).dtype}, this run {dtype()}. Set x64 as it was.")
    found, made = _origin(key, target, run), np.asarray(run.origin)
    for place, what in enumerate(("key", "likelihood, prior or data", "live points")):
        if found[place] != made[place]:
            raise ValueError(
                f"nested: the state was made with other {what}. Resume with what began the run: live points that were "
                f"not drawn by it do not fill the volume they count for."
            )
    # A fingerprint knows the data and not the function: one value tells another one.
    now = float(loop.evaluate(target, jnp.asarray(run.u[0])))
    if not np.isclose(now, float(run.loglikelihood[0]), rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"nested: loglikelihood is {now:.6g} at the first live point, but {float(run.loglikelihood[0]):.6g} in the "
            f"state: it is another one. Resume with what began the run."
        )
    return run


def climb(key, target, run, stop, last, *, delete, moves, progress=False) -> NestedState:
    """Run chunks of the compiled loop from the host until it stops, a step bound, or Ctrl-C."""
    num = np.shape(run.u)[0]
    steps = max(1, num // (8 * delete))
    live = loop.Live(*map(jnp.asarray, (run.u, run.loglikelihood, run.tie)))
    now = loop.Loop(jnp.asarray(run.step), live, *map(jnp.asarray, run[4:9]))
    parts = [(run.dead_u, run.dead_loglikelihood, run.ranks)]
    with bar(progress, None, done=int(run.step), unit="step") as shown:
        try:
            while True:
                now, dead, made = loop.advance(key, target, now, stop, last, steps=steps, delete=delete, moves=moves)
                made = int(made)
                parts.append((_rows(dead.u, made), _rows(dead.loglikelihood, made), _rows(dead.rank, made)))
                shown(made)
                if made < steps:
                    break
        except KeyboardInterrupt:
            pass
    return _sealed(key, target, now, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def _rows(leaf, made):
    rows = np.asarray(leaf)[:made]
    return rows.reshape(-1, *rows.shape[2:])


def report(target: Any, run: NestedState, stop: Any, *, delete: int, moves: int) -> Result:
    """The draws and what the run says."""
    num = np.shape(run.u)[0]
    order = np.lexsort((np.asarray(run.tie), np.asarray(run.loglikelihood)))
    u = np.concatenate([run.dead_u, np.asarray(run.u)[order]])
    values = np.concatenate([run.dead_loglikelihood, np.asarray(run.loglikelihood)[order]])
    found = evidence.evidence(values, num, delete)
    log_weights = jnp.asarray(found.log_weights, values.dtype)
    now = loop.Loop(run.step, loop.Live(run.u, run.loglikelihood, run.tie), *run[4:9])
    asked = max(run.dead_loglikelihood.size * moves, 1)
    info = NestedInfo(
        log_evidence=Estimate(found.value, found.stderr, float(effective_size(log_weights))),
        log_weights=log_weights, loglikelihood=jnp.asarray(values), rank_p_value=evidence.rank_p_value(run.ranks),
        information=found.information, nfe=int(run.nfe), steps=int(run.step), stuck=int(run.stuck) / asked,
        ok=bool(loop.remaining(now) <= stop) and not int(run.lost), state=run,
    )  # fmt: skip
    return Result(jax.vmap(target[1])(jnp.asarray(u)), info)
