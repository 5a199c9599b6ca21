"""Leave out options that no best choice needs."""

from __future__ import annotations

import numpy as np

from solvers._columns import BoolArray, FloatArray
from solvers.problem import ChoiceProblem

# Comparing all pairs of a group takes memory by the square of its options.
_LARGEST_GROUP = 2000


def undominated(problem: ChoiceProblem) -> BoolArray:
    """Mask the columns that can be in a best choice.

    An option is left out if another of its group has no worse score and is no worse for any
    limit; of equal ones the first stays. That is exact as long as options differ in nothing but
    scores and limits, so not with a bound on distinct choices.

    Args:
        problem: The problem.

    Returns:
        A mask over the problem's columns; spans always stay unless a pin rules them out.
    """
    columns = problem.columns
    keep = columns.allowed.copy()
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
