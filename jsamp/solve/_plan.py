"""Plan: a diffusion solver as a table. One row is one network evaluation; one scan body runs every plan."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._numerics import lagrange_basis
from jsamp._core._pytree import pytree, replace, static

KINDS = ("x0", "eps", "velocity", "mixed")
KEEP, ACCEPT, CORRECT = 0, 1, 2
MIX = {"x0": (1.0, 0.0), "eps": (0.0, 1.0), "velocity": (-1.0, 1.0)}


@pytree
class Plan:
    """A diffusion solver as a table of R rows, one network evaluation each.

    A row evaluates the denoiser at (x, t), forms the prediction m (x0, eps, or eps - x0), stores it in its slot of the
    history (whose former content the row does not use), and moves on:

        m <- (1 - beta) v + beta m                         momentum on evaluations, if any
        base = x, x + back, or x + back + q m              as `take` says: accept, keep, correct
        u = W.(m, history)                                 u <- G (v + blend (u - v)), v <- (1 - drag) v + drag u
        z = C noise,  x <- A base + u + z                  the next evaluation happens at t_next
        back <- P base + Q.(m, history) - (A base + u)     from there to the corrected state, but for q m

    A further stage of a step keeps its base: P = 1 and Q = 0 (the default) in the row before, which adds no noise.

    Columns that a solver does not need are None and cost nothing. Build plans with `js.solve.dpmpp`, `deis`, ...;
    numbers are leaves, so plans can be vmapped (`js.solve.stack`), differentiated and swapped without retracing.

    Args:
        t, alpha, sigma: [R] where each row evaluates.
        node: [R] coordinate in which the solver interpolates predictions.
        t_next, alpha_next, sigma_next: [R] where each row lands.
        A: [R] coefficient of the base state.
        W: [R, K + 1] coefficients of the newest prediction (column 0) and of the K history slots.
        slot: [R] history slot that receives the row's prediction; None when K = 0, for first-order rows alone.
        C: [R] standard deviation of the noise added after the row.
        churn: [R] standard deviation of the noise added before the row evaluates.
        take: [R] 0 keep, 1 accept, 2 correct.
        ends: [R] whether the row ends a step, where kicks of guidance act; None when every row does.
        q: [R] corrector coefficient of the newest prediction.
        P, Q: [R], [R, K + 1] the other coefficients of the next row's corrector; 1 and 0 where it keeps.
        beta: [R] momentum on evaluations.
        G, drag, blend: [R] momentum on increments.
        mix: [R, 2] weights of x0 and eps in m, for plans of kind "mixed".
        kind: prediction the rows combine: "x0", "eps", "velocity" or "mixed" (static).

    Example:
        >>> import jsamp as js
        >>> plan = js.solve.dpmpp(js.noise.VP(), js.noise.logsnr_grid(js.noise.VP(), 10))
        >>> plan.nfe, plan.slots, plan.stochastic, plan[5:].nfe
        (10, 2, False, 5)
    """

    t: Any
    alpha: Any
    sigma: Any
    node: Any
    t_next: Any
    alpha_next: Any
    sigma_next: Any
    A: Any
    W: Any
    slot: Any = None
    C: Any = None
    churn: Any = None
    take: Any = None
    ends: Any = None
    q: Any = None
    P: Any = None
    Q: Any = None
    beta: Any = None
    G: Any = None
    drag: Any = None
    blend: Any = None
    mix: Any = None
    kind: str = static(default="x0")

    @property
    def nfe(self) -> int:
        """Network evaluations: the number of rows."""
        return self.A.shape[-1]

    @property
    def slots(self) -> int:
        """Predictions held in memory, the newest included; 0 where no row combines several."""
        return self.W.shape[-1] - 1

    @property
    def stochastic(self) -> bool:
        """Whether the plan draws noise and needs a key."""
        return self.C is not None or self.churn is not None

    def astype(self, dtype: Any) -> Plan:
        """The plan with its floating columns as `dtype`."""

        def cast(a):
            a = a if isinstance(a, (jax.Array, np.ndarray)) else np.asarray(a)
            return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

        return jax.tree.map(cast, self)

    def __len__(self) -> int:
        return self.nfe

    def __getitem__(self, rows: slice) -> Plan:
        """Rows i:j as a plan that starts without history: missing predictions are extrapolated from those it has."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"a plan is cut by a slice of step 1, plan[i:j]; got {rows!r}.")
        if np.ndim(self.A) != 1:
            raise TypeError("a stack of plans cannot be cut; cut the plans and stack again.")
        first, last, _ = rows.indices(self.nfe)
        if first >= last:
            raise ValueError(f"plan[{first}:{last}] is empty; the plan has {self.nfe} rows.")
        return _cut(self, first, last)


def _cut(plan: Plan, first: int, last: int) -> Plan:
    take = None if plan.take is None else np.asarray(plan.take)
    if take is not None and (take[first] == KEEP or (last < plan.nfe and take[last] == KEEP)):
        raise ValueError(f"plan[{first}:{last}] cuts through the stages of one step; cut where a step begins.")
    part = jax.tree.map(lambda a: a[first:last], plan)
    if first == 0:
        return part
    if part.take is not None:
        part = replace(part, take=np.concatenate([[ACCEPT], np.asarray(part.take)[1:]]).astype(np.int32))
    for name in ("beta", "drag"):
        column = getattr(part, name)
        if column is not None:
            part = replace(part, **{name: _set_first(column, 1.0)})
    return rewarm(part, first, plan)


def _set_first(column, value):
    if isinstance(column, jax.Array):
        return column.at[0].set(value)
    return np.concatenate([[value], np.asarray(column)[1:]])


def rewarm(part: Plan, first: int, plan: Plan) -> Plan:
    """Fold the weights of predictions made before row `first` onto those made since, by the plan's own interpolation.

    A polynomial through the predictions at hand, read at a missing node, gives exactly the lower-order formula of a
    Lagrange solver; where nodes coincide or are infinite the newest prediction stands in.
    """
    if plan.slots == 0:
        return part
    xp = jnp if isinstance(plan.W, jax.Array) else np
    slot, node = np.asarray(plan.slot), plan.node
    holder = np.full(plan.slots, -1)
    for row in range(first):
        holder[slot[row]] = row
    # The corrector of row r + 1 has a further node, whose coefficient q stands in that row: fold it as one more column.
    width = plan.slots + 1
    columns = {"W": list(part.W)}
    if part.Q is not None:
        following = xp.concatenate([part.q[1:], xp.zeros_like(part.q[:1])])
        columns["Q"] = list(xp.concatenate([part.Q, following[:, None]], axis=1))
    for r in range(part.nfe):
        row = first + r
        kept = [(0, row), *((k + 1, h) for k, h in enumerate(holder) if h >= first and k != slot[row])]
        for name, weights in columns.items():
            at_hand = [*kept, (width, row + 1)] if name == "Q" and r + 1 < part.nfe else kept
            new = weights[r]
            for k, h in enumerate(holder):
                if 0 <= h < first:
                    basis = _extrapolate(xp, [node[source] for _, source in at_hand], node[h])
                    for (place, _), share in zip(at_hand, basis, strict=True):
                        new = _add(xp, new, place, share * weights[r][k + 1])
                    new = _add(xp, new, k + 1, -new[k + 1])
            weights[r] = new
        holder[slot[row]] = row
    part = replace(part, W=xp.stack(columns["W"]))
    if part.Q is None:
        return part
    folded = xp.stack(columns["Q"])
    return replace(part, Q=folded[:, :width], q=xp.concatenate([part.q[:1], folded[:-1, width]]))


def _extrapolate(xp, nodes, target):
    finite = [i for i, node in enumerate(nodes) if xp is jnp or np.isfinite(node)]
    if not finite or (xp is np and (not np.isfinite(target) or len(set(map(float, nodes))) < len(nodes))):
        finite = [0]
    basis = lagrange_basis([nodes[i] for i in finite], target)
    return [basis[finite.index(i)] if i in finite else 0.0 for i in range(len(nodes))]


def _add(xp, vector, place, value):
    if xp is jnp:
        return vector.at[place].add(value)
    vector = vector.copy()
    vector[place] += value
    return vector


class Row(NamedTuple):
    """One row while a plan is being built: predictions are named by the index of the row that made them.

    P and Q are those of the row's own corrector, P base + Q.predictions + z with base and z of the row before.
    """

    at: tuple[Any, Any, Any]
    to: tuple[Any, Any, Any]
    node: Any
    A: Any
    W: dict[int, Any]
    C: Any = None
    churn: Any = None
    take: int = ACCEPT
    P: Any = 0.0
    Q: dict[int, Any] | None = None
    beta: Any = None


def allocate(rows: list[Row]) -> tuple[list[int], int]:
    """Give each prediction a history slot from its row until its last use, as a register allocator does."""
    last_use: dict[int, int] = {}
    for r, row in enumerate(rows):
        # What a corrector takes of the past is summed up in the row before.
        for used, user in (*((k, r) for k in row.W), *((k, max(k, r - 1)) for k in row.Q or ())):
            last_use[used] = max(last_use.get(used, used), user)
    if all(last == source for source, last in last_use.items()):
        return [0] * len(rows), 0
    slots: list[int] = []
    busy_until = [-1]
    for r in range(len(rows)):
        # Rows write the history before they read it, so a slot is free from the row after its last use on. A
        # prediction that nobody reads again still needs a place where it does no harm.
        place = next((k for k, end in enumerate(busy_until) if end < r), len(busy_until))
        busy_until[place : place + 1] = [last_use.get(r, r)]
        slots.append(place)
    return slots, len(busy_until)


def assemble(xp: Any, rows: list[Row], kind: str) -> Plan:
    """Turn rows into a plan: slots are assigned here, on the host, and unused columns are left out."""
    slots, num = allocate(rows)

    def column(values):
        return xp.stack([xp.asarray(v) for v in values])

    def weights(tables):
        rows = []
        for r, used in enumerate(tables):
            entries: list[Any] = [0.0] * (num + 1)
            for source, weight in used.items():
                entries[0 if source == r else slots[source] + 1] = weight
            rows.append(column([e * xp.ones(()) for e in entries]))
        return xp.stack(rows)

    def optional(name, neutral):
        values = [getattr(row, name) for row in rows]
        if all(v is None for v in values):
            return None
        return column([neutral if v is None else v for v in values])

    at, to = (list(zip(*(getattr(row, name) for row in rows), strict=True)) for name in ("at", "to"))
    corrects = any(row.take == CORRECT for row in rows)
    # A corrector is split: the row before holds what is known by then, its own row adds the newest prediction.
    own = [(row.Q or {}).get(r, 0.0) for r, row in enumerate(rows)]
    known = [{k: w for k, w in (row.Q or {}).items() if k != r} for r, row in enumerate(rows)]
    stages = corrects or any(row.take == KEEP for row in rows)
    following = [*(row.take for row in rows[1:]), ACCEPT]
    # A corrector that stays where it evaluates belongs to the step before.
    stays = [row.take == CORRECT and row.to is row.at for row in rows]
    ends = np.array([then != KEEP and not idle for then, idle in zip(following, stays, strict=True)])
    return Plan(
        t=column(at[0]), alpha=column(at[1]), sigma=column(at[2]),
        t_next=column(to[0]), alpha_next=column(to[1]), sigma_next=column(to[2]),
        node=column([row.node for row in rows]),
        A=column([row.A for row in rows]),
        W=weights([row.W for row in rows]),
        slot=np.array(slots, np.int32) if num else None,
        C=optional("C", 0.0),
        churn=optional("churn", 0.0),
        take=np.array([row.take for row in rows], np.int32) if stages else None,
        ends=None if ends.all() else ends,
        q=column(own) if corrects else None,
        P=column([*(row.P if row.take == CORRECT else 1.0 for row in rows[1:]), 1.0]) if corrects else None,
        Q=weights([*known[1:], {}]) if corrects else None,
        beta=optional("beta", 1.0),
        kind=kind,
    )  # fmt: skip


def columns(plan: Plan) -> dict[str, Any]:
    """The columns a plan has, by name."""
    fields = (f.name for f in dataclasses.fields(plan) if not f.metadata.get("static"))  # pyright: ignore
    return {name: getattr(plan, name) for name in fields if getattr(plan, name) is not None}
