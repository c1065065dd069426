"""Rows as a solver's author writes them: predictions are named by the row that made them, slots come by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jsamp._core._checks import check_choice
from jsamp._core._numerics import namespace
from jsamp.solve._columns import ACCEPT, CORRECT, KEEP, KINDS
from jsamp.solve._plan import Plan


class Row(NamedTuple):
    """Write one row of a plan: the columns of `js.solve.Plan`, predictions named by their row.

    Args:
        at: (t, alpha, sigma) where the row evaluates.
        to: (t, alpha, sigma) where it lands.
        state_coef: coefficient of the base state.
        weights: {row: coefficient} of predictions made up to this row, this one included.
        node: coordinate in which the solver interpolates predictions; None is t. Only cutting a plan uses it.
        noise_std: standard deviation of the noise added after the row, or None.
        churn_std: standard deviation of the noise added before it evaluates, or None.
        take: what the row starts from: 0 what the row before left (a further stage), 1 x, 2 what it left, corrected.
        corrector_newest: coefficient of this row's prediction in its own corrector, where take is 2.
        corrector_state: coefficient of the base in what the row leaves for the next one.
        corrector_weights: {row: coefficient} of the predictions in what the row leaves for the next one; {} where only
            corrector_state is wanted, None for neither.
        prediction_rate: rate of the moving average of predictions, or None.

    Example:
        >>> import jsamp as js
        >>> js.solve.Row(at=(1.0, 0.0, 1.0), to=(0.5, 0.5, 0.5), state_coef=1.0, weights={0: -0.5}).take
        1
    """

    at: tuple[Any, Any, Any]
    to: tuple[Any, Any, Any]
    state_coef: Any
    weights: dict[int, Any]
    node: Any = None
    noise_std: Any = None
    churn_std: Any = None
    take: int = ACCEPT
    corrector_newest: Any = 0.0
    corrector_state: Any = 1.0
    corrector_weights: dict[int, Any] | None = None
    prediction_rate: Any = None


def allocate(rows: Sequence[Row]) -> tuple[list[int], int]:
    """Give each prediction a history slot from its row until its last use, as a register allocator does."""
    last_use: dict[int, int] = {}
    for r, row in enumerate(rows):
        for source in (*row.weights, *(row.corrector_weights or ())):
            last_use[source] = max(last_use.get(source, source), r)
    if all(last == source for source, last in last_use.items()):
        return [0] * len(rows), 0
    slots: list[int] = []
    busy_until = [-1]
    for r in range(len(rows)):
        # Rows write the history before they read it, so a slot is free from the row after its last use on. Every row
        # writes, so a prediction with no reader gets a free slot too.
        place = next((k for k, end in enumerate(busy_until) if end < r), len(busy_until))
        busy_until[place : place + 1] = [last_use.get(r, r)]
        slots.append(place)
    return slots, len(busy_until)


def assemble(rows: Sequence[Row], *, kind: str) -> Plan:
    """Turn rows into a plan: assign history slots and leave out unused columns. This is how to write your own solver.

    Works on the host in float64, and in a trace when any number of the rows is traced.

    Args:
        rows: one `js.solve.Row` for each network evaluation, in order.
        kind: prediction that the weights multiply: "x0", "eps" or "velocity" (eps - x0).

    Returns:
        A plan of len(rows) rows.

    Raises:
        TypeError: for something that is not a `Row`.
        ValueError: for an unknown kind, no rows, weights on predictions that a row cannot have, or a first row that
            does not start from x.

    Example:
        A two-step Adams-Bashforth solver on dx/dt = velocity, for a rectified flow:

        >>> import jsamp as js
        >>> schedule = js.noise.Flow()
        >>> def adams2(schedule, grid):
        ...     points = [(t, schedule.alpha(t), schedule.sigma(t)) for t in grid]
        ...     rows = []
        ...     for i, (at, to) in enumerate(zip(points[:-1], points[1:])):
        ...         h = to[0] - at[0]
        ...         ratio = h / (at[0] - points[i - 1][0]) if i else 0.0
        ...         weights = {i: h * (1 + ratio / 2), i - 1: -h * ratio / 2} if i else {0: h}
        ...         rows.append(js.solve.Row(at, to, state_coef=1.0, weights=weights))
        ...     return js.solve.assemble(rows, kind="velocity")
        >>> plan = adams2(schedule, js.noise.time_grid(schedule, 8))
        >>> plan.nfe, plan.slots
        (8, 2)

    Cost:
        Host arithmetic on the rows, or on the device where one is traced; no network evaluation.
    """
    rows = list(rows)
    _check_rows(rows, kind)
    xp = namespace(rows)
    slots, num = allocate(rows)

    def column(values):
        return xp.stack([xp.asarray(v, float) if xp is np else xp.asarray(v) for v in values])

    def table(used_by_row):
        lines = []
        for r, used in enumerate(used_by_row):
            entries: list[Any] = [0.0] * (num + 1)
            for source, weight in used.items():
                entries[0 if source == r else slots[source] + 1] = weight
            lines.append(column([e * xp.ones(()) for e in entries]))
        return xp.stack(lines)

    def optional(name, neutral):
        values = [getattr(row, name) for row in rows]
        if all(v is None for v in values):
            return None
        return column([neutral if v is None else v for v in values])

    at, to = (list(zip(*(getattr(row, name) for row in rows), strict=True)) for name in ("at", "to"))
    takes = [row.take for row in rows]
    corrects = CORRECT in takes or any(row.corrector_weights is not None for row in rows)
    ends = _ends_step(rows)
    return Plan(
        t=column(at[0]), alpha=column(at[1]), sigma=column(at[2]),
        t_next=column(to[0]), alpha_next=column(to[1]), sigma_next=column(to[2]),
        node=column([row.at[0] if row.node is None else row.node for row in rows]),
        state_coef=column([row.state_coef for row in rows]),
        weights=table([row.weights for row in rows]),
        slot=np.array(slots, np.int32) if num else None,
        noise_std=optional("noise_std", 0.0),
        churn_std=optional("churn_std", 0.0),
        take=np.array(takes, np.int32) if corrects or KEEP in takes else None,
        ends_step=None if ends.all() else ends,
        corrector_newest=column([row.corrector_newest for row in rows]) if corrects else None,
        corrector_state=column([row.corrector_state for row in rows]) if corrects else None,
        corrector_weights=table([row.corrector_weights or {} for row in rows]) if corrects else None,
        prediction_rate=optional("prediction_rate", 1.0),
        kind=kind,
    )  # fmt: skip


def _ends_step(rows: list[Row]) -> np.ndarray:
    following = [*(row.take for row in rows[1:]), ACCEPT]
    # A corrector that stays where it evaluates belongs to the step before.
    stays = [row.take == CORRECT and row.to is row.at for row in rows]
    return np.array([then != KEEP and not idle for then, idle in zip(following, stays, strict=True)])


def _check_rows(rows: list[Any], kind: Any) -> None:
    check_choice("assemble: kind", kind, KINDS[:-1])
    if not rows:
        raise ValueError("assemble: give at least one row.")
    for r, row in enumerate(rows):
        if not isinstance(row, Row):
            raise TypeError(f"assemble: rows must be js.solve.Row, got {type(row).__name__} at row {r}.")
        check_choice(f"assemble: take of row {r}", row.take, (KEEP, ACCEPT, CORRECT))
        for name in ("weights", "corrector_weights"):
            used = getattr(row, name)
            unknown = [source for source in used or () if source not in range(r + 1)]
            if unknown:
                raise ValueError(
                    f"assemble: {name} of row {r} use the prediction of row {unknown[0]!r}; it has those of 0..{r}."
                )
        for name in ("at", "to"):
            if not isinstance(getattr(row, name), tuple | list | np.ndarray) or len(getattr(row, name)) != 3:
                raise ValueError(f"assemble: {name} of row {r} must be (t, alpha, sigma), got {getattr(row, name)!r}.")
    if rows[0].take != ACCEPT:
        raise ValueError("assemble: row 0 must start from x (take=1); nothing was left before it.")
