"""The numbers handed to a solver: the problem, shifted and scaled to about one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from solvers.problem import ChoiceProblem, FloatArray, Limit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledModel:
    """A choice problem in solver units; real objective is ``base + scale * cost``.

    Every row reads ``coefficients . x <= upper``.
    """

    group_sizes: tuple[int, ...]
    cost: FloatArray
    base: float
    scale: float
    rows: tuple[tuple[FloatArray, float], ...]


def one_sided(problem: ChoiceProblem) -> tuple[Limit, ...]:
    """List the limits of a problem as one-sided limits.

    Args:
        problem: The problem.

    Returns:
        One limit for each bound, in order.
    """
    return tuple(side for limit in problem.limits for side in limit.sides())


def scale_problem(
    problem: ChoiceProblem, *, shift_score: bool, margins: Mapping[str, float]
) -> ScaledModel:
    """Bring a problem to units in which the tolerances of solvers make sense.

    Args:
        problem: The problem.
        shift_score: Whether to count scores from the least of each group.
        margins: How much to tighten some one-sided limits, by their text.

    Returns:
        The scaled model.
    """
    cost, base = _from_group_minimum(problem, problem.score)
    if not shift_score:
        cost, base = problem.score, 0.0
    scale = _power_of_two(cost)
    rows = []
    for side in one_sided(problem):
        coefficients, upper = _row(problem, side)
        # A resource that no choice changes is checked before solving; as a row it is empty.
        if np.any(coefficients):
            size = _power_of_two(coefficients)
            upper -= margins.get(side.text, 0.0)
            rows.append((coefficients / size, upper / size))
    return ScaledModel(
        group_sizes=tuple(len(group) for group in problem.groups),
        cost=cost / scale,
        base=base,
        scale=scale,
        rows=tuple(rows),
    )


def _row(problem: ChoiceProblem, side: Limit) -> tuple[FloatArray, float]:
    """Write a one-sided limit as ``coefficients . x <= upper`` with the constant part moved."""
    values, offset = problem.resources[side.resource], problem.offsets.get(side.resource, 0.0)
    if side.at_most is not None:
        sign, bound = 1.0, side.at_most
    else:
        assert side.at_least is not None
        sign, bound = -1.0, -side.at_least
    coefficients, constant = _from_group_minimum(problem, sign * values)
    # A tenth of what the check afterwards allows, so that a choice exactly on the limit is not
    # lost to rounding: CBC gets its numbers as 12 digits of text, and is strict about them.
    room = 0.1 * problem.tolerance(side.resource)
    return coefficients, math.fsum([bound, -sign * offset, -constant, room])


def _power_of_two(values: FloatArray) -> float:
    """Find the power of two just above the largest size; dividing by it rounds nothing."""
    largest = float(np.abs(values).max())
    return math.ldexp(1.0, math.frexp(largest)[1]) if largest > 0.0 else 1.0


def _from_group_minimum(problem: ChoiceProblem, values: FloatArray) -> tuple[FloatArray, float]:
    """Subtract each group's least value; exactly one option is taken, so only a constant moves."""
    least = np.minimum.reduceat(values, problem.starts)
    sizes = [len(group) for group in problem.groups]
    return values - np.repeat(least, sizes), math.fsum(least)
