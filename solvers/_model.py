"""The matrix handed to a solver: the problem, reduced, shifted and scaled to about one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from solvers._columns import BoolArray, Columns, FloatArray, IntArray
from solvers._reduce import undominated
from solvers.limits import Distinct, Limit
from solvers.problem import ChoiceProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Inequality:
    """``lower <= coefficients . x[at] <= upper``."""

    at: IntArray
    coefficients: FloatArray
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """Minimise ``cost . x`` over rows; the real objective is ``base + scale * cost . x``.

    The first variables stand for `columns` of the problem, 0 or 1 each. After them come one for
    each kind of option that may be mixed, and the stretch of the limits where it is minimised.
    """

    columns: IntArray
    cost: FloatArray
    whole: BoolArray
    most: FloatArray
    rows: tuple[Inequality, ...]
    base: float
    scale: float

    def sparse(self) -> tuple[IntArray, IntArray, FloatArray]:
        """The rows as one compressed sparse matrix: starts, variables, values."""
        starts = np.cumsum([0, *(len(row.at) for row in self.rows)], dtype=np.intp)
        at = np.concatenate([row.at for row in self.rows])
        return starts, at, np.concatenate([row.coefficients for row in self.rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """What is changed in a problem for one run.

    Args:
        shift_score: Whether scores count from the least of each group.
        margins: How much to tighten some one-sided limits, by their text.
        cuts: Selections that must not come back.
        stretch: Minimise the number by which all limits are loosened, in these units, by text.
    """

    shift_score: bool = True
    margins: Mapping[str, float] = field(default_factory=dict)
    cuts: Sequence[tuple[int, ...]] = ()
    stretch: Mapping[str, float] = field(default_factory=dict)


def one_sided(problem: ChoiceProblem) -> tuple[Limit, ...]:
    """List the limits of a problem as one-sided limits.

    Args:
        problem: The problem.

    Returns:
        One limit for each bound, in order.
    """
    return tuple(side for limit in problem.limits for side in limit.sides())


def build_program(problem: ChoiceProblem, variation: Variation) -> Program:
    """Bring a problem to units in which the tolerances of solvers make sense.

    Args:
        problem: The problem.
        variation: What to change in it.

    Returns:
        The program.
    """
    # Cut selections break a limit, so no dominated option is needed to get around them.
    reducible = problem.distinct is None and not variation.stretch
    usable = undominated(problem) if reducible else problem.columns.allowed
    columns = np.flatnonzero(usable)
    score, base = _from_group_minimum(problem.columns, problem.columns.score)
    if not variation.shift_score:
        score, base = problem.columns.score, 0.0
    cost = score[columns]
    scale = power_of_two(cost)
    cost = cost / scale
    rows = _cover_rows(problem.columns, columns)
    kinds = _kind_rows(problem, columns)
    extra = len(columns) + (kinds[-1].at.size if kinds else 0)
    rows += kinds
    rows += _limit_rows(problem, columns, variation, extra)
    rows += [_cut_row(cut, columns) for cut in variation.cuts]
    added = extra - len(columns)
    cost = np.concatenate([cost, np.zeros(added)])
    whole, most = np.ones(extra, dtype=bool), np.ones(extra)
    if variation.stretch:
        cost, base, scale = np.append(np.zeros(extra), 1.0), 0.0, 1.0
        whole, most = np.append(whole, False), np.append(most, np.inf)
    return Program(
        columns=columns,
        cost=cost,
        whole=whole,
        most=most,
        rows=tuple(rows),
        base=base,
        scale=scale,
    )


def power_of_two(values: npt.ArrayLike) -> float:
    """Find the power of two just above the largest size; dividing by it rounds nothing."""
    largest = float(np.abs(values).max())
    return math.ldexp(1.0, math.frexp(largest)[1]) if largest > 0.0 else 1.0


def _cover_rows(all_columns: Columns, columns: IntArray) -> list[Inequality]:
    lengths = all_columns.lengths[columns]
    variables = np.repeat(np.arange(len(columns)), lengths)
    steps = np.arange(len(variables)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    groups = np.repeat(all_columns.first[columns], lengths) + steps
    order = np.argsort(groups, kind="stable")
    parts = np.split(variables[order], np.searchsorted(groups[order], range(1, all_columns.groups)))
    return [Inequality(at=at, coefficients=np.ones(len(at)), lower=1.0, upper=1.0) for at in parts]


def _kind_rows(problem: ChoiceProblem, columns: IntArray) -> list[Inequality]:
    """One variable for each kind that is in use: no option without its kind, few kinds."""
    if not isinstance(problem.distinct, Distinct):
        return []
    codes = problem.columns.kinds[columns]
    used = np.unique(codes[codes >= 0])
    if not used.size:
        return []
    variables = len(columns) + np.arange(len(used))
    pair = np.array([1.0, -1.0])
    rows = [
        Inequality(
            at=np.array([at, len(columns) + int(np.searchsorted(used, codes[at]))]),
            coefficients=pair,
            lower=-np.inf,
            upper=0.0,
        )
        for at in np.flatnonzero(codes >= 0)
    ]
    few = float(problem.distinct.at_most)
    rows.append(Inequality(at=variables, coefficients=np.ones(len(used)), lower=-np.inf, upper=few))
    return rows


def _limit_rows(
    problem: ChoiceProblem, columns: IntArray, variation: Variation, stretch_at: int
) -> list[Inequality]:
    rows = []
    for side in one_sided(problem):
        coefficients, upper = _limit_row(problem, side)
        # A resource that no choice changes is checked before solving; as a row it is empty.
        unit = variation.stretch.get(side.text, 0.0)
        if not unit and not np.any(coefficients[columns]):
            continue
        size = power_of_two([*coefficients[columns], unit])
        upper -= variation.margins.get(side.text, 0.0)
        values, at = coefficients[columns] / size, np.arange(len(columns))
        if unit:
            values, at = np.append(values, -unit / size), np.append(at, stretch_at)
        used = values != 0.0
        rows.append(
            Inequality(at=at[used], coefficients=values[used], lower=-np.inf, upper=upper / size)
        )
    return rows


def _limit_row(problem: ChoiceProblem, side: Limit) -> tuple[FloatArray, float]:
    """Write a one-sided limit as ``coefficients . x <= upper`` with the constant part moved."""
    values = problem.columns.resources[side.resource]
    offset = problem.offsets.get(side.resource, 0.0)
    sign = 1.0 if side.at_most is not None else -1.0
    coefficients, constant = _from_group_minimum(problem.columns, sign * values)
    # A tenth of what the check afterwards allows, so that a choice exactly on the limit is not
    # lost to rounding: CBC gets its numbers as 12 digits of text, and is strict about them.
    room = 0.1 * problem.tolerance(side.resource)
    return coefficients, math.fsum([sign * side.bound, -sign * offset, -constant, room])


def _cut_row(cut: tuple[int, ...], columns: IntArray) -> Inequality:
    at = np.flatnonzero(np.isin(columns, cut))
    return Inequality(at=at, coefficients=np.ones(len(at)), lower=-np.inf, upper=len(cut) - 1.0)


def _from_group_minimum(columns: Columns, values: FloatArray) -> tuple[FloatArray, float]:
    """Subtract each group's least value; each group is covered once, so a constant moves."""
    least = np.minimum.reduceat(values[: columns.options], columns.starts)
    before = np.concatenate([[0.0], np.cumsum(least)])
    moved = values - (before[columns.last + 1] - before[columns.first])
    own = slice(columns.options)
    moved[own] = values[own] - least[columns.first[own]]
    return moved, math.fsum(least)
