"""Cut a plan: the rest of a run as a plan of its own, whose history is warmed up again."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import is_traced
from jsamp._core._numerics import lagrange_basis
from jsamp._core._pytree import replace
from jsamp.solve._columns import ACCEPT, KEEP, visits


def cut(plan: Any, first: int, last: int) -> Any:
    """Take rows first:last out of a plan, as a plan that starts without history and draws the noise of those rows."""
    take = None if plan.take is None else np.asarray(plan.take)
    if take is not None and (take[first] == KEEP or (last < plan.nfe and take[last] == KEEP)):
        raise ValueError(f"plan[{first}:{last}] cuts through the stages of one step; cut where a step begins.")
    part = jax.tree.map(lambda a: a[first:last], plan)
    if first == 0:
        return part
    if part.number is None:
        part = replace(part, number=np.arange(first, last, dtype=np.int32))
    visit = visits(plan)
    if is_traced(visit) or visit[first] > 0:
        part = replace(part, visit=visit[first:last])
    if part.take is not None:
        part = replace(part, take=np.concatenate([[ACCEPT], np.asarray(part.take)[1:]]).astype(np.int32))
    for name in ("prediction_rate", "increment_rate"):
        column = getattr(part, name)
        if column is not None:
            part = replace(part, **{name: _set_first(column, 1.0)})
    return rewarm(part, first, plan)


def _set_first(column, value):
    if isinstance(column, jax.Array):
        return column.at[0].set(value)
    return np.concatenate([[value], np.asarray(column)[1:]])


def rewarm(part: Any, first: int, plan: Any) -> Any:
    """Fold the weights of predictions made before row `first` onto those made since, by the plan's own interpolation.

    A polynomial through the predictions at hand, read at a missing node, gives exactly the lower-order formula of a
    Lagrange solver; where nodes coincide or are infinite the newest prediction stands in.
    """
    if plan.slots == 0:
        return part
    xp = jnp if isinstance(plan.weights, jax.Array) else np
    slot, node = np.asarray(plan.slot), plan.node
    holder = np.full(plan.slots, -1)
    for row in range(first):
        holder[slot[row]] = row
    # The corrector of row r + 1 has a further node, whose coefficient stands in that row: fold it too.
    width = plan.slots + 1
    columns = {"weights": list(part.weights)}
    if part.corrector_weights is not None:
        following = xp.concatenate([part.corrector_newest[1:], xp.zeros_like(part.corrector_newest[:1])])
        columns["corrector_weights"] = list(xp.concatenate([part.corrector_weights, following[:, None]], axis=1))
    for r in range(part.nfe):
        row = first + r
        kept = [(0, row), *((k + 1, h) for k, h in enumerate(holder) if h >= first and k != slot[row])]
        for name, weights in columns.items():
            at_hand = [*kept, (width, row + 1)] if name == "corrector_weights" and r + 1 < part.nfe else kept
            new = weights[r]
            for k, h in enumerate(holder):
                if 0 <= h < first:
                    basis = _extrapolate(xp, [node[source] for _, source in at_hand], node[h])
                    for (place, _), share in zip(at_hand, basis, strict=True):
                        new = _add(xp, new, place, share * weights[r][k + 1])
                    new = _add(xp, new, k + 1, -new[k + 1])
            weights[r] = new
        holder[slot[row]] = row
    part = replace(part, weights=xp.stack(columns["weights"]))
    if part.corrector_weights is None:
        return part
    folded = xp.stack(columns["corrector_weights"])
    newest = xp.concatenate([part.corrector_newest[:1], folded[:-1, width]])
    return replace(part, corrector_weights=folded[:, :width], corrector_newest=newest)


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
