"""The space of solvers: a genome of fixed shape for every step's time, prediction, order and corrector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jsamp._core._checks import check_choice, check_count, check_key, check_scalar, shown
from jsamp._core._pytree import pytree, static
from jsamp._core._types import Key, Schedule
from jsamp.fit._evolve import generator
from jsamp.noise._protocol import check_schedule, check_times
from jsamp.solve._algebra import extend
from jsamp.solve._columns import CORRECT
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._weights import Path, as_weights, check_grid, first_order

COLUMNS = {"take", "corrector_newest", "corrector_state", "corrector_weights", "slot"}
"""Columns of every decoded plan, whether its solver needs them or not: all candidates run in one program."""


class Genome(NamedTuple):
    """Hold one solver of a `Space`, as arrays whose shapes depend on its number of steps alone.

    Args:
        lam: [n + 1] half log-SNR of the grid, rising; inf where it ends at zero noise.
        predicts: [n] index of each step's prediction in `space.predicts`.
        order: [n] number of predictions that each step combines; more than it has at hand counts as those.
        corrector: [n] index into `space.correctors`, for the corrector of the step that ended where this one starts.
        relax: [n] factor of what each step and its corrector add to the first-order step: 1 for the exact integral;
            None is 1 everywhere.

    Example:
        >>> import jax, jsamp as js
        >>> space = js.fit.Space(js.noise.VP(), 5)
        >>> space.random(jax.random.key(0), 3)[0].order.shape
        (5,)
    """

    lam: np.ndarray
    predicts: np.ndarray
    order: np.ndarray
    corrector: np.ndarray
    relax: Any = None


@pytree
class Space:
    """Span solvers of a fixed number of evaluations, each step with its own time, prediction, order and corrector.

    Every step is an exponential integrator: the polynomial through the last `order` predictions (x0 or eps, in lam) is
    integrated exactly, by the weights of `js.solve.dpmpp` and `js.solve.dpm_solver`. Steps of both kinds may follow
    each other: past predictions of eps are written as combinations of the state and of predictions of x0, so one
    history serves both. A corrector is that of `js.solve.unipc`: the step is made anew with the prediction at its end.
    What a step adds to the first-order one may be relaxed, multiplied by a number of its own. The last step to zero
    noise extrapolates the prediction, linearly in the noise level. Grids start at t_max; where they end at zero noise,
    their last level before is free, down to t_min.

    Args:
        schedule: the noise schedule.
        nfe: network evaluations n (static), at least 2.
        predicts: predictions to choose from, "x0" and "eps" (static).
        orders: orders to choose from, 1 to 4 (static).
        correctors: whether steps may be corrected: (False,), (True,) or (False, True) (static).
        t_max: start of every grid; None is the schedule's own, and must have a finite log-SNR.
        t_min: least time of a grid; None is the schedule's own.
        final: "zero" ends every grid at zero noise, "sigma_min" at t_min (static).

    Raises:
        ValueError: for fewer than two evaluations, an empty choice, or ends without a finite log-SNR.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> space, grid = js.fit.Space(schedule, 5), js.noise.logsnr_grid(schedule, 5)
        >>> space.decode(space.encode(grid, predicts="x0", order=2)).nfe
        5

    Cost:
        Host arithmetic: about a millisecond for each decoded genome.

    References:
        Liu, Ning, Lin, Yang and Wang, "A Unified Sampling Framework for Solver Searching of Diffusion Probabilistic
        Models", 2023, arXiv:2312.07243.
    """

    schedule: Schedule
    nfe: int = static()
    predicts: tuple[str, ...] = static(default=("x0", "eps"))
    orders: tuple[int, ...] = static(default=(1, 2, 3, 4))
    correctors: tuple[bool, ...] = static(default=(False, True))
    t_max: Any = None
    t_min: Any = None
    final: str = static(default="zero")

    def __post_init__(self):
        check_schedule("Space: schedule", self.schedule)
        for name in ("t_max", "t_min"):
            if getattr(self, name) is not None:
                check_scalar(f"Space: {name}", getattr(self, name))
                check_times(f"Space: {name}", self.schedule, getattr(self, name))
        check_count("Space: nfe", self.nfe, low=2)
        for name, choices in (("predicts", ("x0", "eps")), ("orders", (1, 2, 3, 4)), ("correctors", (False, True))):
            chosen = getattr(self, name)
            if not isinstance(chosen, tuple) or not chosen or len(set(chosen)) < len(chosen):
                raise ValueError(f"Space: {name} must be a tuple of distinct choices, got {shown(chosen)}.")
            for one in chosen:
                check_choice(f"Space: {name}", one, choices)
        check_choice("Space: final", self.final, ("zero", "sigma_min"))
        low, high = self._ends()
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ValueError(
                f"Space: the log-SNR must be finite and rise from t_max to t_min, got {low} to {high}. Pass t_max= and "
                f"t_min= inside the schedule."
            )

    def _ends(self) -> tuple[float, float]:
        schedule = self.schedule
        start = schedule.t_max if self.t_max is None else self.t_max  # pyright: ignore[reportAttributeAccessIssue]
        end = schedule.t_min if self.t_min is None else self.t_min  # pyright: ignore[reportAttributeAccessIssue]
        return float(schedule.lam(np.float64(start))), float(schedule.lam(np.float64(end)))

    @property
    def regular(self) -> int:
        """Number of grid points with noise: the free ones and both ends."""
        return self.nfe + (self.final == "sigma_min")

    def _finish(self, inner: np.ndarray) -> np.ndarray:
        return np.append(inner, np.inf) if self.final == "zero" else inner

    def encode(
        self, grid: Any, *, predicts: str = "x0", order: int | Sequence[int] = 2, corrector: bool = False
    ) -> Genome:
        """Write a solver with one prediction, on a grid from t_max to the final time, as a genome."""
        path = check_grid("encode", self.schedule, grid)
        if path.steps != self.nfe:
            raise ValueError(f"encode: the grid must have nfe = {self.nfe} steps, got {path.steps}.")
        check_choice("encode: predicts", predicts, self.predicts)
        check_choice("encode: corrector", corrector, self.correctors)
        orders = np.broadcast_to(np.asarray(order), (self.nfe,))
        for one in orders.tolist():
            check_choice("encode: order", one, self.orders)
        lam = np.where(path.noiseless, np.inf, path.lam)
        kind = np.full(self.nfe, self.predicts.index(predicts))
        corrected = np.full(self.nfe, self.correctors.index(corrector))
        relax = np.ones(self.nfe)
        relax[-1] = 0 if self.final == "zero" else 1
        return self.canonical(Genome(lam, kind, orders.astype(int), corrected, relax))

    def decode(self, genome: Genome) -> Plan:
        """Build the plan of a genome, with the columns that every plan of this space has."""
        lam = np.asarray(genome.lam, np.float64)
        if lam.shape != (self.nfe + 1,) or not np.all(np.diff(lam) > 0):
            raise ValueError(f"decode: lam must be [nfe + 1] and rise, got {lam}.")
        path = check_grid("decode", self.schedule, self.schedule.time(lam))
        kinds = [self.predicts[k] for k in genome.predicts]
        common = kinds[0] if len(set(kinds)) == 1 else "x0"
        writer = _Writer(path, kinds, common, self._relax(genome))
        rows = writer.rows(genome.order, [self.correctors[k] for k in genome.corrector])
        return extend(assemble(rows, kind=common), self.nfe, COLUMNS, "mixed")

    def canonical(self, genome: Genome) -> Genome:
        """Write equal solvers equally: no order beyond the predictions at hand, at most 2 to zero noise."""
        held = np.arange(1, self.nfe + 1)
        held[-1] = 2 if self.final == "zero" else held[-1]
        lowest = min(self.orders)
        order = np.where(genome.order > held, np.maximum(held, lowest), genome.order)
        corrector = genome.corrector.copy()
        corrector[0] = 0
        return genome._replace(order=order, corrector=corrector, relax=self._relax(genome))

    def _relax(self, genome: Genome) -> np.ndarray:
        return np.array(np.broadcast_to(1.0 if genome.relax is None else genome.relax, self.nfe), np.float64)

    def random(self, key: Key, num: int) -> list[Genome]:
        """Draw genomes: log-SNR uniform, warped towards one end by a random power, and choices uniform."""
        check_key(key, "random")
        return self.drawn(generator(key), check_count("random: num", num))

    def drawn(self, rng: np.random.Generator, num: int) -> list[Genome]:
        """As `random`, by a generator of numpy's."""
        (low, high), genomes = self._ends(), []
        for _ in range(num):
            even = np.linspace(0, 1, self.regular) ** np.exp(rng.normal(0, 0.4))
            jitter = np.cumsum(np.append(0, np.exp(rng.normal(0, 0.5, self.regular - 1)) * np.diff(even)))
            top = high if self.final == "sigma_min" else low + (high - low) * rng.uniform(0.5, 1)
            lam = self._finish(low + (top - low) * jitter / jitter[-1])
            kinds, corrected = (rng.integers(0, len(c), self.nfe) for c in (self.predicts, self.correctors))
            orders, relax = rng.choice(self.orders, self.nfe), rng.uniform(0.5, 1.2, self.nfe)
            genomes.append(self.canonical(Genome(lam, kinds, orders, corrected, relax)))
        return genomes

    def mutate(self, key: Key, genome: Genome) -> Genome:
        """Change a genome: stretch its grid and steps of it by log-normal factors, relax steps, redraw some choices.

        How far is drawn as well, so that children range from fine adjustments to other solvers.
        """
        check_key(key, "mutate")
        return self.mutated(generator(key), genome)

    def mutated(self, rng: np.random.Generator, genome: Genome) -> Genome:
        """As `mutate`, by a generator of numpy's."""
        lam, regular = genome.lam.copy(), self.regular
        scale, rate = 0.4 * 10 ** -rng.uniform(0, 1.5), rng.choice([0.0, 0.15, 0.4])
        moves = lambda num: scale * rng.normal(size=num) * (rng.random(num) < 0.6)
        steps, length = np.diff(lam[:regular]) * np.exp(moves(regular - 1)), lam[regular - 1] - lam[0]
        if self.final == "zero":
            length = min(length * np.exp(moves(1)[0]), self._ends()[1] - lam[0])
        lam[1:regular] = lam[0] + np.cumsum(steps) * length / steps.sum()

        def redraw(held, choices):
            return np.where(rng.random(self.nfe) < rate, rng.choice(choices, self.nfe), held)

        kinds, corrected = range(len(self.predicts)), range(len(self.correctors))
        chosen = redraw(genome.predicts, kinds), redraw(genome.order, self.orders), redraw(genome.corrector, corrected)
        return self.canonical(Genome(lam, *chosen, self._relax(genome) + moves(self.nfe)))

    def cross(self, key: Key, first: Genome, second: Genome) -> Genome:
        """Mix two genomes: their grids by a random share, their choices step by step."""
        check_key(key, "cross")
        return self.crossed(generator(key), first, second)

    def crossed(self, rng: np.random.Generator, first: Genome, second: Genome) -> Genome:
        """As `cross`, by a generator of numpy's."""
        share, pick = rng.random(), rng.random(self.nfe) < 0.5
        mix = lambda a, b: share * a + (1 - share) * b
        lam = self._finish(mix(first.lam[: self.regular], second.lam[: self.regular]))
        chosen = (np.where(pick, a, b) for a, b in zip(first[1:4], second[1:4], strict=True))
        return Genome(lam, next(chosen), next(chosen), next(chosen), mix(self._relax(first), self._relax(second)))

    def features(self, genome: Genome) -> np.ndarray:
        """Numbers that describe a genome: log steps of the grid, its choices, its factors."""
        steps = np.log(np.diff(genome.lam[: self.regular]))
        orders = [genome.order == order for order in self.orders]
        numbers = [
            steps - steps.mean(),
            [steps.mean()],
            genome.predicts,
            *orders,
            genome.corrector,
            self._relax(genome),
        ]
        return np.concatenate(numbers).astype(float)


class _Writer:
    """Rows of steps of mixed kinds, in the basis of the state that a step starts from and predictions of one kind.

    `states[j]` and `points[j]` write the state that step j started from, and the point where it evaluated, as (share of
    the state that the current step starts from, {row: coefficient of its prediction}).
    """

    def __init__(self, path: Path, kinds: list[str], common: str, relax: np.ndarray):
        self.path, self.kinds, self.common, self.relax = path, kinds, common, relax
        self.points: list[tuple[float, dict[int, float]]] = []

    def rows(self, orders: np.ndarray, corrected: list[bool]) -> list[Row]:
        """One row for each step."""
        path, rows = self.path, []
        for i, kind in enumerate(self.kinds):
            row = Row(path.at(i), path.at(i + 1), 1.0, {})
            self._evaluate(rows)
            if i and corrected[i]:
                rows[-1], row = self._correct(rows[-1], row, i, orders)
            else:
                self._start_from_point()
            size = min(int(orders[i]), i + 1, 2 if path.noiseless[i + 1] else i + 1)
            coef, weights = self._native(i, list(range(i, i - size, -1)), kind)
            rows.append(row._replace(state_coef=coef, weights=weights))
        return rows

    def _native(self, i: int, nodes: list[int], kind: str) -> tuple[float, dict[int, float]]:
        """Step i through predictions of its own kind at `nodes`, relaxed, in the common basis."""
        coef, flat, _ = map(float, first_order(self.path, i, kind, 0.0))
        if self.path.noiseless[i + 1] and len(nodes) > 1:
            native = self._to_zero(i, kind, flat)
        else:
            native = as_weights(self.path, i, nodes, kind, "lam", 0.0, "exact")
        weights = {j: self.relax[i] * float(w) for j, w in zip(nodes, native, strict=True)}
        weights[i] += (1 - self.relax[i]) * flat
        return self._common(coef, weights, kind)

    def _to_zero(self, i: int, kind: str, flat: float) -> tuple[float, float]:
        """Weights of the last step's predictions at nodes i and i - 1, on a line in the noise level down to zero."""
        near, far = (self.path.node(j, "rho") for j in (i, i - 1))
        # eps is averaged over the way down, x0 is taken at its end.
        share = float(near / (far - near)) / (2 if kind == "eps" else 1)
        return flat * (1 + share), -flat * share

    def _common(self, coef: float, native: dict[int, float], kind: str) -> tuple[float, dict[int, float]]:
        """A combination of the state and native predictions, written with predictions of the common kind."""
        if kind == self.common:
            return coef, native
        out: dict[int, float] = {}
        for j, weight in native.items():
            # eps = (x - alpha x0) / sigma where row j evaluated.
            _, alpha, sigma = self.path.at(j)
            share, parts = self.points[j]
            coef += weight * share / sigma
            out[j] = out.get(j, 0.0) - weight * alpha / sigma
            for k, part in parts.items():
                out[k] = out.get(k, 0.0) + weight * part / sigma
        return coef, out

    def _evaluate(self, rows: list[Row]) -> None:
        """Append the point where the next row evaluates, in the basis of the state that the last step started from."""
        self.points.append((1.0, {}) if not rows else (rows[-1].state_coef, dict(rows[-1].weights)))

    def _rebase(self, coef: float, weights: dict[int, float]) -> None:
        """Change the basis: the state used so far is (new state - weights.predictions) / coef."""
        for j, (share, parts) in enumerate(self.points):
            moved = {k: parts.get(k, 0.0) - share / coef * weights.get(k, 0.0) for k in {*parts, *weights}}
            self.points[j] = share / coef, moved

    def _start_from_point(self) -> None:
        """The next step starts where it evaluates."""
        self._rebase(*self.points[-1])

    def _correct(self, before: Row, row: Row, i: int, orders: np.ndarray) -> tuple[Row, Row]:
        """The next step starts from the last one made anew, with the prediction at its end among the nodes."""
        kind = self.kinds[i - 1]
        size = min(int(orders[i - 1]), i) + 1
        coef, weights = self._native(i - 1, list(range(i, i - size, -1)), kind)
        self._rebase(coef, weights)
        known = {k: w for k, w in weights.items() if k != i}
        before = before._replace(corrector_state=coef, corrector_weights=known)
        return before, row._replace(take=CORRECT, corrector_newest=weights.get(i, 0.0))
