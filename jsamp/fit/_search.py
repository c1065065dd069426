"""Solvers searched: a mixture of steps for one model and budget, or a subset of a network's own times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_callable, check_count, check_number, check_rows
from jsamp._core._types import Key, Result
from jsamp.fit._evolve import Moves, Search, check_search, evolve
from jsamp.fit._space import Genome, Space
from jsamp.noise import karras_grid, logsnr_grid, time_grid
from jsamp.solve import stack


class SearchInfo(NamedTuple):
    """Tell how a search went.

    Args:
        score: the lowest score found.
        genome: the candidate that has it: a `Genome`, or the indices of a grid.
        evaluations: number of candidates evaluated.
        tau: [rounds] Kendall's rank correlation of the surrogate's guesses with the scores it had not seen.
        state: a `Search`, to go on with `state=`.

    Example:
        >>> import jsamp as js
        >>> js.fit.SearchInfo(0.1, None, 32, [], None).evaluations
        32
    """

    score: float
    genome: Any
    evaluations: int
    tau: list[float]
    state: Search


def search_plan(
    key: Key,
    score: Callable[[Any], Any],
    space: Space,
    *,
    budget: int,
    population: int = 32,
    surrogate: bool = True,
    starts: Sequence[Genome] | None = None,
    state: Search | None = None,
    progress: bool = False,
) -> Result:
    """Search the solver of a space with the lowest score: time, prediction, order and corrector of every step.

    Rounds of `population` plans are scored as one stack, by one program. Children of the best plans so far are crossed
    and mutated; with a surrogate, an ensemble of small networks trained to rank all scores so far chooses the children
    that are evaluated. The first round holds the solvers people use, on the grids people use, and random ones, so the
    result is never worse than the best of those. Validate the result on starts that the score did not see.

    Args:
        key: the key of the search.
        score: stacked plans [m] -> [m] numbers, smaller is better, for example `js.fit.trajectory_score(...)`. Numbers
            that are not finite rank last.
        space: the space of solvers.
        budget: number of plans scored in all, at least 2.
        population: plans scored at once.
        surrogate: whether children are chosen by a ranking surrogate.
        starts: genomes of the first round; None takes the named solvers of the space.
        state: `info.state` of an earlier call, to go on up to a larger budget; the same key continues its stream.
        progress: draw a tqdm bar, when tqdm is installed.

    Returns:
        `Result(plan, SearchInfo)`.

    Raises:
        TypeError: for something that is not a key, a space, or cannot be called.
        ValueError: for a budget or population below 2, or when no score was finite.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[1.0]], stds=[0.5])
        >>> x = schedule.prior(jax.random.key(0), (8, 1))
        >>> score = js.fit.trajectory_score(law, x, 1 + 0.5 * x)
        >>> found = js.fit.search_plan(jax.random.key(1), score, js.fit.Space(schedule, 4), budget=8, population=8)
        >>> found.x.nfe, found.info.evaluations
        (4, 8)

    Cost:
        budget scores; the surrogate takes about a second in all.

    References:
        Liu, Ning, Lin, Yang and Wang, "A Unified Sampling Framework for Solver Searching of Diffusion Probabilistic
        Models", 2023, arXiv:2312.07243. The paper's predictor is not published; the ensemble is ours.
    """
    check_search("search_plan", key, budget, population, surrogate, progress)
    check_callable("search_plan: score", score, "score(plans)")
    if not isinstance(space, Space):
        raise TypeError(f"search_plan: space must be a js.fit.Space, got {type(space).__name__}.")
    if state is not None and any(len(g.lam) != space.nfe + 1 for g in state.candidates):
        raise ValueError(f"search_plan: the state holds plans of another number of steps than the space's {space.nfe}.")
    known = named(space) if starts is None else list(starts)

    def start(rng, num):
        return [*known, *space.drawn(rng, num)]

    name, group = (lambda g: tuple(part.tobytes() for part in g)), (lambda g: tuple(part.tobytes() for part in g[1:4]))
    moves = Moves(start, space.mutated, space.crossed, space.features, name, group)
    evaluate = lambda genomes: _scored("search_plan", score, stack([space.decode(g) for g in genomes]), len(genomes))
    options = {"budget": budget, "population": population, "surrogate": surrogate, "progress": progress}
    search = evolve(key, evaluate, moves, **options, state=state)
    return _found("search_plan", search, space.decode)


def _scored(who: str, score: Any, candidates: Any, num: int) -> np.ndarray:
    scores = np.asarray(score(candidates))
    if scores.shape != (num,):
        raise ValueError(f"{who}: score must return one number for each of {num} candidates, got {scores.shape}.")
    if not jnp.issubdtype(scores.dtype, jnp.number) or np.iscomplexobj(scores):
        raise TypeError(f"{who}: score must return real numbers, got {scores.dtype}.")
    return scores


def _found(who: str, search: Search, decode: Callable[[Any], Any]) -> Result:
    if not np.any(np.isfinite(search.scores)):
        raise ValueError(
            f"{who}: none of {len(search.scores)} scores was finite, so no candidate is better than another. Look at "
            f"what score returns for one of them."
        )
    info = SearchInfo(min(search.scores), search.best, len(search.scores), search.tau, search)
    return Result(decode(search.best), info)


def named(space: Space) -> list[Genome]:
    """The solvers people use, on uniform log-SNR, Karras and quadratic grids, as far as the space has them."""
    options = {"t_max": space.t_max, "t_min": space.t_min, "final": space.final}
    grids = [
        logsnr_grid(space.schedule, space.nfe, **options),
        karras_grid(space.schedule, space.nfe, **options),
        time_grid(space.schedule, space.nfe, power=2, **options),
    ]
    genomes = []
    for grid in grids:
        for corrector in space.correctors:
            for predicts in space.predicts:
                for order in sorted(set(space.orders) & {1, 2, 3}):
                    if corrector and order == 1:
                        continue
                    genomes.append(space.encode(grid, predicts=predicts, order=order, corrector=corrector))
    return genomes


def search_grid(
    key: Key,
    score: Callable[[Any], Any],
    indices: Any,
    num: int,
    *,
    budget: int,
    population: int = 32,
    surrogate: bool = False,
    rate: float = 0.25,
    state: Search | None = None,
    progress: bool = False,
) -> Result:
    """Search the subset of a network's own times with the lowest score, for any sampler.

    Candidates are sets of `num` distinct times, noisiest first. A mutation moves each time to an unused one at a rate;
    a crossover takes each position from one of two parents, and fills what coincides at random. The first rounds hold
    the uniform subset, its mutants and random subsets, so the result is never worse than the uniform one.

    Args:
        key: the key of the search.
        score: grids [m, num], falling, -> [m] numbers, smaller is better; it builds and runs the plans. Numbers that
            are not finite rank last.
        indices: [T] distinct times to choose from, for example `np.arange(1000)`.
        num: number of times K in a grid, at most T.
        budget: number of grids scored in all, at least 2; fewer where no more are found.
        population: grids scored at once.
        surrogate: whether children are chosen by a ranking surrogate.
        rate: probability that a mutation moves a time.
        state: `info.state` of an earlier call, to go on up to a larger budget.
        progress: draw a tqdm bar, when tqdm is installed.

    Returns:
        `Result(grid [num], SearchInfo)`.

    Raises:
        ValueError: for repeated indices, num > T, a budget below 2, a rate outside (0, 1], or when no score was finite.
        TypeError: for something that is not a key or cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, jsamp as js
        >>> score = lambda grids: jnp.abs(grids.sum(1) - 10)
        >>> js.fit.search_grid(jax.random.key(0), score, np.arange(12), 3, budget=64).info.score
        0.0

    Cost:
        budget scores.

    References:
        Li et al., "AutoDiffusion: Training-Free Optimization of Time Steps and Architectures for Automated Diffusion
        Model Acceleration", 2023, arXiv:2309.10438.
    """
    check_search("search_grid", key, budget, population, surrogate, progress)
    check_callable("search_grid: score", score, "score(grids)")
    check_rows("search_grid: indices", indices, ndim=1)
    check_number("search_grid: rate", rate, low=0, high=1, open_low=True)
    times = np.sort(np.asarray(indices, np.float64))[::-1]
    if len(np.unique(times)) < len(times):
        raise ValueError("search_grid: indices must be distinct; drop the repeated ones with np.unique.")
    num = check_count("search_grid: num", num, high=len(times))
    moves = _subset_moves(len(times), num, rate)
    evaluate = lambda chosen: _scored("search_grid", score, times[np.stack(chosen)], len(chosen))
    options = {"budget": budget, "population": population, "surrogate": surrogate, "progress": progress}
    search = evolve(key, evaluate, moves, **options, state=state)
    return _found("search_grid", search, lambda best: times[best])


def _subset_moves(total: int, num: int, rate: float) -> Moves:
    """Moves on sorted vectors of `num` distinct places among `total`."""

    def fill(rng, places):
        kept = np.unique(places)
        unused = np.setdiff1d(np.arange(total), kept)
        return np.sort(np.append(kept, rng.choice(unused, num - len(kept), replace=False)))

    def mutate(rng, places):
        moved = rng.random(num) < rate
        moved[rng.integers(num)] = True
        return fill(rng, places[~moved])

    def cross(rng, first, second):
        return fill(rng, np.where(rng.random(num) < 0.5, first, second))

    def start(rng, count):
        uniform = fill(rng, np.round(np.linspace(0, total - 1, num)).astype(int))
        random = [np.sort(rng.choice(total, num, replace=False)) for _ in range(count // 2)]
        return [uniform, *(mutate(rng, uniform) for _ in range(count // 2)), *random]

    name = lambda places: tuple(places.tolist())
    return Moves(start, mutate, cross, lambda places: places / total, name, name)
