"""Tell apart scores of very different sizes, which a solver cannot hold in one program."""

from __future__ import annotations

import math

import numpy as np

from solvers._columns import BoolArray, FloatArray
from solvers._ranges import excess
from solvers._reduce import narrow
from solvers.problem import ChoiceProblem

# Scores that differ by less than this share of their size differ by rounding.
_ROUNDING = 2e-15

# An error up to this share of a step between scores is of no account.
_SHARE = 1e-2

# Steps of one size blend into each other; a ratio like this parts two sizes.
_JUMP = 1e3

# Leaving out what an answer excludes makes a second solve worth it if the rest is so much smaller.
_SHRUNK = 1e-2

# Steps that are fewer than this share of all are small by chance.
_CHANCE = 0.01


def is_coarse(
    problem: ChoiceProblem, usable: BoolArray, error: float, answer: tuple[int, ...] | None
) -> bool:
    """Say whether an error of the objective could hide which choice is better.

    It could where the smaller steps from one score to the next, of a group or of all, are no
    larger than the error, if that can be helped: scores are of two sizes, a wide jump apart, or
    the answer excludes the large ones.

    Args:
        problem: The problem.
        usable: Mask of the columns in use.
        error: By how much a solver may be wrong about the objective.
        answer: The selection that the solver gave, if any.

    Returns:
        Whether it is too large.
    """
    steps = [step for group in _groups(problem, usable) for step in _steps(group)]
    # One "never" in place of another changes little, and may be all that is to be decided.
    over = _over(problem, usable)
    steps += _steps(np.sort(over[np.isfinite(over)]))
    if not steps:
        return False
    ordered = np.sort(steps)
    fewest = max(1, math.ceil(_CHANCE * len(ordered)))
    if np.count_nonzero(_SHARE * ordered < error) < fewest:
        return False
    tail = ordered[fewest - 1 :]
    if np.any(tail[1:] > _JUMP * tail[:-1]):
        return True
    finer = None if answer is None else narrow(problem, usable, answer)
    return finer is not None and (
        largest_excess(problem, finer) < _SHRUNK * largest_excess(problem, usable)
    )


def largest_excess(problem: ChoiceProblem, usable: BoolArray) -> float:
    """Find the largest score, counted from the least total, of the columns in use.

    Args:
        problem: The problem.
        usable: Mask of the columns in use.

    Returns:
        That number, 0 if nothing is in use.
    """
    over = _over(problem, usable)
    return float(np.max(over, where=np.isfinite(over), initial=0.0))


def split(problem: ChoiceProblem, usable: BoolArray) -> list[BoolArray]:
    """Part the group with the widest step between two scores there.

    Args:
        problem: The problem.
        usable: Mask of the columns in use.

    Returns:
        Two masks that together hold every selection, the one to solve first at the end; none if
        no group has two scores.
    """
    columns = problem.columns
    widest, at, edge = 0.0, -1, 0.0
    for group, scores in enumerate(_groups(problem, usable)):
        gaps = np.diff(scores)
        if gaps.size and gaps.max() > widest:
            widest, at, edge = float(gaps.max()), group, float(scores[int(gaps.argmax())])
    if at < 0:
        return []
    own = np.arange(len(usable)) < columns.options
    here = (columns.first <= at) & (at <= columns.last)
    large = own & here & (columns.score > edge)
    # Spans over the group go with the small ones, so that each selection is in one part.
    return [usable & (large | ~here), usable & ~large]


def _groups(problem: ChoiceProblem, usable: BoolArray) -> list[FloatArray]:
    """The scores of each group's own options in use, from the least up."""
    columns = problem.columns
    ends = [*columns.starts[1:].tolist(), columns.options]
    return [
        np.sort(columns.score[start:end][usable[start:end]])
        for start, end in zip(columns.starts.tolist(), ends, strict=True)
    ]


def _steps(scores: FloatArray) -> list[float]:
    steps = np.diff(scores)
    small: list[float] = steps[steps > _ROUNDING * np.abs(scores[1:])].tolist()
    return small


def _over(problem: ChoiceProblem, usable: BoolArray) -> FloatArray:
    counted = excess(problem.columns, problem.columns.score, usable)
    return np.zeros(len(usable)) if counted is None else counted.over
