"""Evolution under a budget: propose, rank by a surrogate, evaluate, keep. Shared by every search of this room."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jsamp._core._checks import check_count, check_flag, check_key
from jsamp._core._progress import bar
from jsamp._core._types import Key
from jsamp.fit._surrogate import Ranking

PARENTS = 15
"""Best candidates so far, from which children are made."""
ALIKE = 3
"""Most parents of one group."""
CROSSED = 0.3
"""Share of children that mix two parents before they mutate."""
POOL = 30
"""Children for every one that is evaluated, among which the surrogate chooses."""
TRUSTED = 0.7
"""Share of a round that the surrogate chooses."""


class Search(NamedTuple):
    """Say where a search stands: pass it as `state=` to go on.

    Args:
        candidates: everything evaluated so far, in order.
        scores: [evaluations] their scores, inf where one was not finite.
        tau: [rounds] Kendall's rank correlation of the surrogate with the scores of candidates it did not choose, nan
            without one.

    Example:
        >>> import jsamp as js
        >>> js.fit.Search([], [], []).scores
        []
    """

    candidates: list[Any]
    scores: list[float]
    tau: list[float]

    @property
    def best(self) -> Any:
        """The candidate of the lowest score."""
        return self.candidates[int(np.argmin(self.scores))]


class Moves(NamedTuple):
    """How candidates of a search are made and compared."""

    start: Callable[[np.random.Generator, int], list[Any]]  # as many random ones, and what else should be tried first
    mutate: Callable[[np.random.Generator, Any], Any]
    cross: Callable[[np.random.Generator, Any, Any], Any]
    features: Callable[[Any], np.ndarray]  # candidate -> numbers for the surrogate
    name: Callable[[Any], Any]  # candidate -> hashable: equal candidates are evaluated once
    group: Callable[[Any], Any]  # candidate -> hashable: what alike candidates share


def generator(key: Key) -> np.random.Generator:
    """A generator of numpy's for work on the host, seeded by a key."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,))).tolist())


def check_search(who: str, key: Any, budget: Any, population: Any, surrogate: Any, progress: Any) -> None:
    """Refuse what no search takes."""
    check_key(key, who)
    check_count(f"{who}: budget", budget, low=2)
    check_count(f"{who}: population", population, low=2)
    check_flag(f"{who}: surrogate", surrogate)
    check_flag(f"{who}: progress", progress)


def evolve(
    key: Key,
    evaluate: Callable[[list[Any]], np.ndarray],
    moves: Moves,
    *,
    budget: int,
    population: int,
    surrogate: bool,
    progress: bool,
    state: Search | None,
) -> Search:
    """Spend a budget of evaluations, `population` at a time; rounds draw from fold_in(key, evaluations so far).

    `evaluate` scores exactly `population` candidates, so one program serves all rounds; a last round is filled up.
    """
    population = min(population, budget)
    search = Search([], [], []) if state is None else Search(*(list(part) for part in state))
    ranking = Ranking(budget, population * POOL) if surrogate else None
    starts = _distinct(moves.start(generator(key), population), moves.name)
    with bar(progress, budget, done=len(search.scores), unit="plan") as advance:
        while len(search.scores) < budget:
            round_key = jax.random.fold_in(key, len(search.scores))
            chosen, guesses = _propose(round_key, moves, search, population, ranking, starts)
            if not chosen:  # everything that there is was tried
                break
            count = min(population, budget - len(search.scores))
            scores = np.asarray(evaluate([*chosen, *chosen][:population]), np.float64)[: len(chosen)][:count]
            scores = np.where(np.isfinite(scores), scores, np.inf)
            search.tau.append(np.nan if guesses is None else _tau(guesses[:count], scores))
            search.candidates.extend(chosen[:count])
            search.scores.extend(scores.tolist())
            advance(len(scores))
    return search


def _propose(key, moves, search, population, ranking, starts):
    """Candidates of the next round, at most `population`, with the surrogate's guesses."""
    seen = {moves.name(candidate) for candidate in search.candidates}
    if first := [candidate for candidate in starts if moves.name(candidate) not in seen]:
        return first[:population], None
    parents = _parents(search, moves.group)
    rng, pool = generator(key), []
    for _ in range(population * (POOL if ranking else 2)):
        # Better parents have more children.
        first, second = (parents[int(len(parents) * rng.random() ** 2)] for _ in range(2))
        child = moves.mutate(rng, moves.cross(rng, first, second) if rng.random() < CROSSED else first)
        if moves.name(child) not in seen:
            seen.add(moves.name(child))
            pool.append(child)
    if ranking is None or not pool:
        return pool[:population], None
    known = np.stack([moves.features(candidate) for candidate in search.candidates])
    guesses = ranking.rank(key, known, np.array(search.scores), np.stack([moves.features(child) for child in pool]))
    chosen = _thompson(guesses, round(TRUSTED * population))
    # The rest are taken whatever the surrogate says: it knows nothing of what it has never seen, and is judged by them.
    others = [int(i) for i in rng.permutation(len(pool)) if i not in chosen][: population - len(chosen)]
    known = np.append(np.full(len(chosen), np.nan), guesses.mean(0)[others])
    return [pool[i] for i in (*chosen, *others)], known


def _distinct(candidates: list[Any], name: Callable[[Any], Any]) -> list[Any]:
    return list({name(candidate): candidate for candidate in candidates}.values())


def _parents(search: Search, group: Callable[[Any], Any]) -> list[Any]:
    """The best candidates so far, at most ALIKE of one group, so that a search stays in several places at once."""
    parents, count = [], collections.Counter()
    for i in np.argsort(search.scores, kind="stable"):
        candidate = search.candidates[i]
        if count[group(candidate)] < ALIKE:
            count[group(candidate)] += 1
            parents.append(candidate)
    return parents[:PARENTS]


def _thompson(guesses: np.ndarray, num: int) -> list[int]:
    """Children that the members of an ensemble [members, m] rank first, one member after the other."""
    orders, chosen = np.argsort(guesses, axis=1, kind="stable"), []
    for k in range(min(num, guesses.shape[1])):
        chosen.append(next(int(i) for i in orders[k % len(orders)] if i not in chosen))
    return chosen


def _tau(guesses: np.ndarray, scores: np.ndarray) -> float:
    judged = ~np.isnan(guesses)
    return kendall(guesses[judged], scores[judged])


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's rank correlation tau-a of two vectors; nan for fewer than two."""
    if len(a) < 2:
        return float("nan")
    upper = np.triu_indices(len(a), 1)
    with np.errstate(invalid="ignore"):
        agree = np.sign(a[:, None] - a[None]) * np.sign(np.nan_to_num(b[:, None] - b[None]))
    return float(agree[upper].mean())
