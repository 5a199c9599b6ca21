"""Leave out options that no best choice needs."""

from __future__ import annotations

import numpy as np

from solvers._columns import BoolArray, FloatArray
from solvers._ranges import excess
from solvers.problem import ChoiceProblem

# Comparing all pairs of a group takes memory by the square of its options.
_LARGEST_GROUP = 2000


def narrow(
    problem: ChoiceProblem, usable: BoolArray, best: tuple[int, ...] | None = None
) -> BoolArray | None:
    """Leave out what by itself breaks a limit, or scores more than the best selection so far.

    A candidate goes if even the least of everything else does not make up for it. So no number
    that stands for "never" is left to swallow the digits of the others.

    Args:
        problem: The problem.
        usable: Mask of the columns to begin with.
        best: A selection within the limits.

    Returns:
        The mask of what is left, or None if that covers some group no more: no selection within
        the limits is better than `best`, or there is none at all.
    """
    columns = problem.columns
    left = usable.copy()
    count = -1
    while count != int(left.sum()):
        count = int(left.sum())
        for limit in problem.limits:
            for side in limit.sides():
                sign = 1.0 if side.at_most is not None else -1.0
                use = excess(columns, sign * columns.resources[side.resource], left)
                if use is None:
                    return None
                offset = problem.offsets.get(side.resource, 0.0)
                room = use.room(sign * side.bound, -sign * offset)
                left &= use.over <= room + 1.01 * problem.tolerance(side.resource)
        score = excess(columns, columns.score, left)
        if score is None:
            return None
        if best is not None:
            stake = score.room(*columns.score[list(best)])
            left &= score.over <= stake + 1e-12 * abs(stake) + 4e-16 * abs(score.least)
    return left


def undominated(problem: ChoiceProblem, usable: BoolArray) -> BoolArray:
    """Mask the columns that can be in a best choice.

    An option is left out if another of its group has no worse score and is no worse for any
    limit; of equal ones the first stays. That is exact as long as options differ in nothing but
    scores and limits, so not with a bound on distinct choices.

    Args:
        problem: The problem.
        usable: Mask of the columns to begin with.

    Returns:
        A mask over the problem's columns; spans stay.
    """
    columns = problem.columns
    keep = usable.copy()
    criteria = _criteria(problem)
    ends = [*columns.starts[1:].tolist(), columns.options]
    for start, end in zip(columns.starts.tolist(), ends, strict=True):
        at = start + np.flatnonzero(keep[start:end])
        if 1 < len(at) <= _LARGEST_GROUP:
            keep[at] = _front(criteria[:, at])
    return keep


def _criteria(problem: ChoiceProblem) -> FloatArray:
    """One row for each thing of which less is better."""
    columns = problem.columns
    rows = [columns.score]
    for limit in problem.limits:
        for side in limit.sides():
            sign = 1.0 if side.at_most is not None else -1.0
            rows.append(sign * columns.resources[side.resource])
    return np.stack(rows)


def _front(values: FloatArray) -> BoolArray:
    """Mask the columns that no other column beats, and no earlier one equals."""
    size = values.shape[1]
    # no_worse[i, j]: i is at most j by every criterion.
    no_worse = np.ones((size, size), dtype=bool)
    for row in values:
        no_worse &= row[:, None] <= row[None, :]
    equal = no_worse & no_worse.T
    earlier = np.triu(np.ones((size, size), dtype=bool), 1)
    dominated = no_worse & (~equal | earlier)
    kept: BoolArray = np.logical_not(np.any(dominated, axis=0))
    return kept
