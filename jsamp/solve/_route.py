"""Denoisers that take another form from row to row: the scan splits where the form changes, so no row chooses.

A node of the denoiser's tree takes part when it has

    branches                  a tuple of denoisers, one of which it stands for on each row; None: look inside instead
    branch_of_rows(plan)      [R] integers, the branch of each row, or None when that is not known before the run
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from jsamp.denoise._protocol import branches, nodes
from jsamp.solve._plan import Plan

# Each segment is a scan body of its own to trace and compile; beyond this many the branches are chosen on the device.
LIMIT = 8


class Segment(NamedTuple):
    """Rows start:stop, and the branches that nodes take there: one tuple for each level of nesting."""

    start: int
    stop: int
    levels: tuple[tuple[int, ...], ...] = ()


def route(denoiser: Any, plan: Plan) -> tuple[Segment, ...]:
    """The segments of a run: one for all rows when nothing branches, ends are traced, or there were too many."""
    found = tuple(_split(denoiser, plan, 0, plan.nfe))
    return found if len(found) <= LIMIT else (Segment(0, plan.nfe),)


def _split(denoiser: Any, plan: Plan, start: int, stop: int) -> list[Segment]:
    rows = [node.branch_of_rows(plan) for node in nodes(denoiser, branches)]
    if all(branch is None for branch in rows):
        return [Segment(start, stop)]
    # -1: the node stays as it is.
    table = np.stack([np.full(plan.nfe, -1) if branch is None else branch for branch in rows])
    changes = np.flatnonzero(np.any(table[:, start + 1 : stop] != table[:, start : stop - 1], axis=0))
    found = []
    for first, last in itertools.pairwise([start, *(start + 1 + changes), stop]):
        level = tuple(int(branch) for branch in table[:, first])
        inside = _split(_take(denoiser, level), plan, int(first), int(last))
        found += [segment._replace(levels=(level, *segment.levels)) for segment in inside]
    return found


def _take(denoiser: Any, level: tuple[int, ...]) -> Any:
    taken = iter(level)

    def choose(node):
        branch = next(taken) if branches(node) else -1
        return node if branch < 0 else node.branches[branch]

    return jax.tree.map(choose, denoiser, is_leaf=branches)


def follow(denoiser: Any, segment: Segment) -> Any:
    """The denoiser as it is on the rows of a segment."""
    for level in segment.levels:
        denoiser = _take(denoiser, level)
    return denoiser
